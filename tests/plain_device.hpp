// A second device: plain double loops over all pairs, on the host. It shows what a new device has to provide
// (docs/add_a_device.md), and it is the slow, obvious form that the tiled engine is compared with.
//
// What concerns single rows (loading, norms, targets, storing) is taken over from the CPU engine; what concerns pairs is here.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "craft/engine/cpu_engine.hpp"

namespace craft_test {

class plain;

class plain_engine : public craft::engine::cpu_engine {
 public:
  template <class T>
  using rows = craft::engine::rows<T>;
  template <class T>
  using pull = craft::engine::pull<T>;
  template <class T>
  using softmax = craft::engine::softmax<T>;
  using index_t = craft::index_t;

  using cpu_engine::cpu_engine;

  template <class T, class K>
  void quadratic_form(const rows<T>& z, index_t split, const K& k, const craft::engine::form_weights<T>& w,
                      bool skip_diagonal, bool parameters, double* totals, const pull<T>& g) {
    for (index_t i = 0; i < z.n; ++i)
      for (index_t j = 0; j < z.n; ++j) {
        if (i == j && skip_diagonal) continue;
        const double block = (i < split) != (j < split) ? w.across : i < split ? w.within_x : w.within_y;
        const double u = block * double(w.per_row[i]) * double(w.per_row[j]);
        const auto [s, a, b] = scalars_of<K>(z, i, z, j);
        totals[0] += u * double(k.value(s, a, b));
        if (parameters)
          k.parameters(
              s, a, b, [&](int q, T dk) { totals[1 + q] += u * double(dk); },
              [&](int q, T dk) { totals[1 + k.weights() + q] += u * double(dk); });
        const bool moves = i != j || !K::translation_invariant;
        if (g.wanted() && moves) pull_pair(z, i, z, j, k.partials(s, a, b), T(u), g, g);
      }
  }

  template <class T, class K, class S>
  void map(const rows<T>& x, const rows<T>& y, const K& k, double scale, const craft::matrix_view<S>& out) {
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const auto [s, a, b] = scalars_of<K>(x, i, y, j);
        out.row(i)[j] = S(T(scale) * k.value(s, a, b));
      }
  }

  template <class T, class K, class S>
  void map_pullback(const rows<T>& x, const rows<T>& y, const K& k, double scale,
                    const craft::matrix_view<const S>& dout, double* totals, const pull<T>& gx, const pull<T>& gy) {
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const auto [s, a, b] = scalars_of<K>(x, i, y, j);
        const auto p = k.partials(s, a, b);
        const T u = T(scale) * T(dout.row(i)[j]);
        if (!craft::engine::is_linear<K>::value) totals[0] += double(u) * double(p.value);
        pull_pair(x, i, y, j, p, u, gx, gy);
      }
  }

  template <class T>
  T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col, bool by_column,
                 bool) {
    reduce(x, y, by_row);
    if (by_column) reduce(y, x, by_col);
    return nullptr;
  }

  template <class T>
  void softmax_pullback(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                        bool by_column, T*, const pull<T>& gx, const pull<T>& gy) {
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const T z = dot_of(x, i, y, j);
        T u = weight_of(by_row, i, j, z);
        if (by_column) u += weight_of(by_col, j, i, z);
        pull_pair(x, i, y, j, {z, T(1), T(0), T(0)}, u, gx, gy);
      }
  }

  template <class T>
  void sigmoid_loss(const rows<T>& x, const rows<T>& y, const T* row_id, const T* col_id, double bias, double scale,
                    double* totals, const pull<T>& gx, const pull<T>& gy) {
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = 0; j < y.n; ++j) {
        const double sign = row_id[i] == col_id[j] ? 1 : -1;
        const T z = dot_of(x, i, y, j);
        const double u = -sign * (double(z) + bias);
        totals[0] += scale * (std::max(u, 0.0) + std::log1p(std::exp(-std::abs(u))));
        const double w = -sign * scale / (1 + std::exp(-u));
        totals[1] += w;
        if (gx.wanted()) pull_pair(x, i, y, j, {z, T(1), T(0), T(0)}, T(w), gx, gy);
      }
  }

  template <class T>
  void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
    for (index_t i = 0; i < x.n; ++i) {
      distance[i] = std::numeric_limits<T>::infinity();
      for (index_t j = 0; j < y.n; ++j) {
        if (std::isinf(y.squared[j])) continue;
        const T d = distance_of(x, i, y, j);
        if (!(d < distance[i])) continue;
        distance[i] = d;
        index[i] = j;
      }
    }
  }

  template <class T>
  void distance_of_rank(const rows<T>& x, index_t rank, craft::engine::ranked_distance* out) {
    std::vector<craft::engine::ranked_distance> all;
    for (index_t i = 0; i < x.n; ++i)
      for (index_t j = i + 1; j < x.n; ++j) all.push_back({double(distance_of(x, i, x, j)), i, j});
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.value < b.value; });
    *out = all[std::size_t(rank)];
  }

 private:
  template <class T>
  static auto row(T* x, index_t i, index_t d) {
    using vector = Eigen::Matrix<std::remove_const_t<T>, 1, Eigen::Dynamic>;
    return Eigen::Map<std::conditional_t<std::is_const_v<T>, const vector, vector>>(x + i * d, d);
  }
  template <class T>
  static T dot_of(const rows<T>& x, index_t i, const rows<T>& y, index_t j) {
    return row(x.data, i, x.d).dot(row(y.data, j, y.d));
  }
  template <class T>
  static T distance_of(const rows<T>& x, index_t i, const rows<T>& y, index_t j) {
    return (row(x.data, i, x.d) - row(y.data, j, y.d)).squaredNorm();
  }
  // What k looks at: of a function of the distance the distance, from the rows.
  template <class K, class T>
  static craft::engine::pair_scalars<T> scalars_of(const rows<T>& x, index_t i, const rows<T>& y, index_t j) {
    if (K::translation_invariant) return craft::engine::pair_scalars<T>::at_distance(distance_of(x, i, y, j));
    return {dot_of(x, i, y, j), x.squared[i], y.squared[j]};
  }
  // d(u k)/dx_i = u (k_s y_j + 2 k_a x_i), and the mirror
  template <class T>
  static void pull_pair(const rows<T>& x, index_t i, const rows<T>& y, index_t j, const craft::pair_partials<T>& k, T u,
                        const pull<T>& gx, const pull<T>& gy) {
    if (gx.gradient) row(gx.gradient, i, x.d) += u * (k.ds * row(y.data, j, y.d) + T(2) * k.da * row(x.data, i, x.d));
    if (gy.gradient) row(gy.gradient, j, y.d) += u * (k.ds * row(x.data, i, x.d) + T(2) * k.db * row(y.data, j, y.d));
  }
  template <class T>
  static T target_of(const softmax<T>& s, index_t i, index_t j) {
    if (s.soft) return s.keep * s.soft[i * s.soft_stride + j] + s.base;
    return (s.id[i] == s.other_id[j] ? s.hit[i] : T(0)) + s.base;
  }
  template <class T>
  static T weight_of(const softmax<T>& s, index_t i, index_t j, T z) {
    return s.weight[i] * (s.mass[i] * std::exp(z - s.lse[i]) - target_of(s, i, j));
  }
  template <class T>
  static void reduce(const rows<T>& x, const rows<T>& y, const softmax<T>& s) {
    for (index_t i = 0; i < x.n; ++i) {
      T largest = -std::numeric_limits<T>::infinity(), sum = 0;
      s.target_dot[i] = 0;
      for (index_t j = 0; j < y.n; ++j) largest = std::max(largest, dot_of(x, i, y, j));
      for (index_t j = 0; j < y.n; ++j) {
        const T z = dot_of(x, i, y, j);
        sum += std::exp(z - largest);
        s.target_dot[i] += z * target_of(s, i, j);
      }
      s.lse[i] = largest + std::log(sum);
    }
  }
};

/// Its context: the CPU's, with the engine exchanged.
class plain : public craft::cpu {
 public:
  using engine = plain_engine;
  using craft::cpu::cpu;
};

}  // namespace craft_test
