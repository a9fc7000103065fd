// A second device: plain double loops over all pairs, on the host. It shows all that a new device has to provide
// (docs/add_a_device.md), and it is the slow, obvious form that the tiled engine is compared with.
#pragma once

#include <algorithm>
#include <vector>

#include "craft/engine/element.hpp"

namespace craft_test {

using namespace craft::engine;
using craft::index_t;
struct plain : craft::cpu {  // its context: the CPU's, with the engine exchanged
  using engine = class plain_engine;
  using craft::cpu::cpu;
};

class plain_engine : public scratch {  // which gives take<T>(n)
 public:
  explicit plain_engine(const plain& ctx) : scratch(ctx.scratch()), ctx_(ctx) {}
  const plain& context() const { return ctx_; }
  template <class T> T* zeros(index_t n) { return std::fill_n(take<T>(n), n, T(0)) - n; }
  template <class T> T* on_host(T* p, index_t) { return p; }
  template <class T> void from_host(const T* host, index_t n, T* p) { std::copy(host, host + (host == p ? 0 : n), p); }
  template <class Step> void each(index_t n, const Step& step) {
    for (index_t i = 0; i < n; ++i) step(i);
  }
  template <class Step> void each_row(index_t n, index_t, const Step& step) {
    each(n, [&](index_t i) { step(i, single_lane()); });
  }
  template <class Step> void each_group(const index_t* index, index_t n, index_t k, index_t, const Step& step) {
    each(k, [&](index_t c) { step(c, single_lane(), members_by_search<single_lane>{index, n, c, {}}); });
  }
  template <class Fold> void fold(index_t n, const Fold& f) {
    auto s = f.start();
    each(n, [&](index_t i) { f.add(s, i); });
    f.finish(s);
  }
  template <class Fold> void fold_rows(index_t n, index_t, const Fold& f) {
    auto s = f.start();
    each(n, [&](index_t i) { f.add(s, i, single_lane()); });
    f.finish(s);
  }
  template <class Fold> void fold_columns(index_t n, index_t d, const Fold& f) {
    for (index_t k = 0; k < d; ++k) {
      auto s = f.start();
      each(n, [&](index_t i) { f.add(s, i, k); });
      f.finish(k, s);
    }
  }
  template <class T> void square_norms(const rows<T>& x) { each_row(x.n, x.d, square_norms_step<T>{x}); }
  // (i, j) and (j, i) each give the gradient of their row.
  template <class T, class Element> void square(const square_sweep<T>& told, const Element& element) {
    rectangle(rectangle_sweep<T>{told.z, told.z, 0, told.with_itself, told.totals, told.g}, element.weighing(), told.parameters);
  }
  template <class T, class Element> void rectangle(const rectangle_sweep<T>& told, const Element& element, int parameters = 0) {
    const auto& [x, y, offset, meets_itself, totals, gx, gy, kept] = told;
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const bool itself = offset >= 0 && offset + i == j;
        if (itself && !meets_itself) continue;
        const auto block = element.block(i, j);
        const auto row = element.row(i);
        const auto column = element.column(place<T>{j});
        const T D = squared_distance(x.row(i), y.row(j), x.d, single_lane()), a = Element::norms ? x.squared[i] : T(0);
        pair_scalars<T> seen{dot(x.row(i), y.row(j), x.d, single_lane()), a, Element::norms ? y.squared[j] : T(0)};
        if (Element::radial) seen = pair_scalars<T>::at_distance(D);
        pair<T> out;
        if constexpr (Element::radial) out = element(block, row, column, distance<T>{D});
        if constexpr (!Element::radial) out = element(block, row, column, seen);
        if (itself) out = with_itself(element, block, row, column, a);
        const double by = element.share(block) * double(element.count(row));
        if (Element::totals > 0) totals[0] += by * double(out.value);
        if (Element::totals > 1) totals[1] += double(out.second);
        if constexpr (has_parameters<Element>::value)
          if (parameters > 0) element.parameters(column, seen, [by, to = totals](int q, T k) { to[1 + q] += by * double(k); });
        if (Element::radial) out.by_row = out.by_column = T(-0.5) * out.weight;
        for (index_t k = 0; Element::weighs && k < x.d; ++k) {
          const T xk = x.row(i)[k], yk = y.row(j)[k], two = Element::norms ? T(2) : T(0);
          if (gx.gradient) gx.gradient[i * x.d + k] += out.weight * yk + two * out.by_row * xk;
          if (gy.gradient) gy.gradient[j * x.d + k] += out.weight * xk + two * out.by_column * yk;
        }
      }
  }
  template <class T>
  T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& s, const softmax<T>& by_col, bool both, bool) {
    for (index_t i = 0; i < x.n; ++i) {
      softmax_part<T> all = softmax_part<T>::none(T());
      for (index_t j = 0; j < y.n; ++j) {
        const T z = dot(x.row(i), y.row(j), x.d, single_lane());
        all.join({z, T(1), z * target_of(s, i, j)});
      }
      s.lse[i] = all.highest + std::log(all.sum), s.target_dot[i] = all.target;
    }
    return both ? log_sum_exp(y, x, by_col, s, false, false) : nullptr;
  }
  static constexpr bool products_depend_on_place = false;
  template <class T> void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
    std::fill_n(distance, x.n, craft::math::limits<T>::infinity);
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const T D = squared_distance(x.row(i), y.row(j), x.d, single_lane());
        if (y.squared[j] < craft::math::limits<T>::infinity && D < distance[i]) distance[i] = D, index[i] = j;
      }
  }
  template <class T> void distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out) {
    std::vector<ranked_distance> all;
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = i + 1; j < x.n; ++j) all.push_back({squared_distance(x.row(i), x.row(j), x.d, single_lane()), i, j});
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.value < b.value; });
    *out = all[std::size_t(rank)];
  }

 private:
  const plain& ctx_;
};

}  // namespace craft_test
