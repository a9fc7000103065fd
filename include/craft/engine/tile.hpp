// One tile of a sweep on the CPU: dot products of a block of rows with a block of columns, what an element makes of them, a
// register of columns at a time, and what is left for the products of the pull-back.
//
// Two kinds of pairs stand apart from the others of their row, so that what is small there keeps its digits. A row with itself:
// nothing moves the distance 0, so its slope must not come into sums where others would be lost beside it. And near
// rows, whose distance and whose share of the gradient are taken from the difference of the rows. They are rare: a tile is gone
// through as if there were none, and once more if there may be some.
#pragma once

#include <algorithm>

#include "craft/engine/element.hpp"
#include "craft/engine/function_ref.hpp"
#include "craft/engine/pack.hpp"

namespace craft::engine {

/// Dot products of rows [i0, i0 + ni) with columns [j0, j0 + nj), and where to add what comes of them.
template <class T>
struct tile {
  index_t i0, ni, j0, nj;
  index_t itself;    ///< row i of the tile is the same as its column i + itself, if it has that; see `none`
  double times;      ///< how often a pair counts: twice where it stands for its mirror image too
  bool careful;      ///< the dot products were wanted again, for a second look at near rows
  T* s;              ///< ni x nj, overwritten by the weights if there are some
  index_t stride;
  T* row_sums;       ///< ni numbers of this tile, 0 at first
  T* col_sums;       ///< nj numbers of this tile, 0 at first
  T* counts;         ///< room for nj numbers
  index_t* near;     ///< room for nj indices
  T *row_gradient, *col_gradient;  ///< of the first row and column, d numbers each; null: not wanted
  double* totals;
  index_t slot;      ///< which of the concurrent workers this is
  T* row(index_t i) const { return s + i * stride; }
  static constexpr index_t none = index_t(1) << 60;
};

/// What has been left of a tile: nothing to pull back; weights in the place of the dot products; or no result yet, because the
/// dot products are wanted again, with `careful` set.
enum class tile_state { done, weights, again };

/// What a sweep does with each tile, and what it has to know of that: a sweep is compiled once for all of them.
template <class T>
struct tile_epilogue {
  function_ref<tile_state(tile<T>&)> call;
  bool columns_depend;  ///< whether tiles that share columns must not run at once, even without gradients
  bool reads;           ///< whether it looks at dot products
  T of_sums;            ///< by what the sums of rows and columns are multiplied; 0: there are none
  template <class Epilogue>
  tile_epilogue(const Epilogue& e)  // NOLINT: this is what an epilogue is to a sweep
      : call(e), columns_depend(e.columns_depend), reads(Epilogue::reads), of_sums(Epilogue::of_sums) {}
};

/// gx += a (y - x), gy += a (x - y), where they are wanted
template <class T>
[[gnu::noinline]] void add_difference(T a, const T* x, const T* y, index_t n, T* gx, T* gy) {
  for (index_t k = 0; k < n && gx; ++k) gx[k] += a * (y[k] - x[k]);
  for (index_t k = 0; k < n && gy; ++k) gy[k] += a * (x[k] - y[k]);
}
/// |x - y|^2, as a call: there are few of them.
template <class T>
[[gnu::noinline]] T squared_distance(const T* x, const T* y, index_t n) {
  return squared_distance(x, y, n, vector_lanes());
}
/// No pair of a tile whose computed D is at least this is near: a bound from the largest norms, which one operation a register
/// tells.
template <class T>
[[gnu::noinline]] T far_enough(const near_pairs<T>& near, const T* a, index_t ni, const T* b, index_t nj) {
  const auto most = [](const T* x, index_t n) { return vector_lanes().max<T>(n, [&](auto at) { return at.load(x); }); };
  return near.share() * (most(a, ni) + most(b, nj));
}
/// Which columns are near a row with these dot products and squared norms; how many there are.
template <class T>
[[gnu::noinline]] index_t find_near(const near_pairs<T>& near, const T* s, T a, const T* b, index_t n, index_t* at) {
  index_t count = 0;
  for (index_t j = 0; j < n; ++j)
    if (near(s[j], a, b[j])) at[count++] = j;
  return count;
}

/// What the pairs of a row have given so far, and the least distance of all rows'; as numbers or registers.
template <class V>
struct running {
  V value{0}, second{0}, sum{0}, least{math::limits<decltype(engine::sum(V()))>::infinity};
};

/// A tile as what goes through its rows sees it, which is compiled once for all elements.
template <class T>
class tile_rows {
 public:
  tile_rows(tile<T>& t, const rows<T>& x, const rows<T>& y, bool with_itself, bool careful)
      : t_(t), x_(x), y_(y), with_itself_(with_itself), careful_(careful) {}

  /// Goes through all rows for an element of these policies, and adds its sums to those of the tile.
  [[gnu::noinline]] tile_state go_through(bool norms, bool radial, int sums, bool weighs) const {
    const T far = radial ? far_enough(near_pairs<T>(x_.d), x_.squared + t_.i0, t_.ni, y_.squared + t_.j0, t_.nj) : T(0);
    double totals[2] = {};
    const bool together = !careful_ && t_.itself == tile<T>::none;
    const T least = together ? add_rows(0, t_.ni, false, totals) : row_by_row(norms, radial, far, totals);
    if (radial && !careful_ && least < far) return tile_state::again;
    if (sums > 0) t_.totals[0] += t_.times * share() * totals[0];
    if (sums > 1) t_.totals[1] += t_.times * totals[1];
    return weighs ? tile_state::weights : tile_state::done;
  }

 protected:
  ~tile_rows() = default;
  /// Adds all pairs of rows [begin, end), which count as `counts` says or once each, and returns their least distance.
  virtual T add_rows(index_t begin, index_t end, bool counted, double* totals) const = 0;
  /// Adds a near pair, or that of a row with itself.
  virtual void add_near(index_t i, index_t j, double* totals) const = 0;
  virtual void add_itself(index_t i, index_t j, double* totals) const = 0;
  /// By what the first total is multiplied.
  virtual double share() const = 0;

  tile<T>& t_;
  const rows<T>&x_, &y_;
  bool with_itself_, careful_;

 private:
  /// Returns the least distance of pairs that do not stand apart. No pair that is at least `far` away is near.
  T row_by_row(bool norms, bool radial, T far, double* totals) const {
    const near_pairs<T> near(x_.d);
    T least = math::limits<T>::infinity;
    std::fill_n(t_.counts, t_.nj, T(1));
    for (index_t i = 0; i < t_.ni; ++i) {
      T* const s = t_.row(i);
      const index_t itself = t_.itself == tile<T>::none || i + t_.itself < 0 || i + t_.itself >= t_.nj ? -1 : i + t_.itself;
      const T a = norms ? x_.squared[t_.i0 + i] : T(0);
      const index_t apart = careful_ ? find_near(near, s, a, y_.squared + t_.j0, t_.nj, t_.near) : 0;
      const auto count = [&](T times) {
        for (index_t q = 0; q < apart; ++q) t_.counts[t_.near[q]] = times;
        if (itself >= 0) t_.counts[itself] = times;
      };
      count(T(0));
      for (index_t q = 0; q < apart; ++q) s[t_.near[q]] = -far;
      if (itself >= 0) s[itself] = radial ? -far : a;  // known by its index, not by its numbers
      least = (math::min)(least, add_rows(i, i + 1, apart > 0 || itself >= 0, totals));
      count(T(1));
      for (index_t q = 0; q < apart; ++q)
        if (t_.near[q] != itself) add_near(i, t_.near[q], totals);
      if (itself >= 0 && with_itself_) add_itself(i, itself, totals);
    }
    return least;
  }
};

/// The rows of a tile as an element sees them.
template <class T, class Element>
class element_rows final : public tile_rows<T> {
 public:
  element_rows(const Element& element, int parameters, tile<T>& t, const rows<T>& x, const rows<T>& y, bool with_itself,
               bool careful)
      : tile_rows<T>(t, x, y, with_itself, careful), element_(element), block_(element.block(t.i0, t.j0)),
        b_(Element::norms ? y.squared + t.j0 : nullptr), parameters_(parameters) {}

 private:
  using row_side = decltype(std::declval<Element>().row(0));
  using tile_rows<T>::t_;
  using tile_rows<T>::x_;
  using tile_rows<T>::y_;
  const Element& element_;
  const decltype(std::declval<Element>().block(0, 0)) block_;
  const T* const b_;
  const int parameters_;

  double share() const override { return element_.share(block_); }
  row_side row(index_t i) const { return element_.row(t_.i0 + i); }
  template <class V>
  auto column(const place<V>& at) const {
    return element_.column(place<V>{t_.j0 + at.k});
  }
  T norm(index_t i) const { return Element::norms ? x_.squared[t_.i0 + i] : T(0); }
  /// What the element sees at some places of a row.
  template <class V>
  auto seen(const T* s, T a, const place<V>& at) const {
    if constexpr (Element::radial) {
      const V sj = at.load(s);
      return distance<V>{V(a) + at.load(b_) - (sj + sj)};
    } else if constexpr (!Element::reads) {
      return pair_scalars<V>{V(T(0)), V(T(0)), V(T(0))};
    } else if constexpr (Element::norms) {
      return pair_scalars<V>{at.load(s), V(a), at.load(b_)};
    } else {
      return pair_scalars<V>{at.load(s), V(T(0)), V(T(0))};
    }
  }
  T add_rows(index_t begin, index_t end, bool counted, double* totals) const override {
    constexpr index_t width = pack<T>::width;
    running<pack<T>> some;
    running<T> one;
    double value = 0, second = 0;
    for (index_t i = begin; i < end; ++i) {
      const row_side r = row(i);
      const T a = norm(i);
      if (parameters_ > 0) add_parameters(r, i, a, counted);
      T* const s = t_.row(i);
      some.value = some.second = some.sum = pack<T>(T(0));
      one.value = one.second = one.sum = T(0);
      index_t j = 0;
      for (; j + width <= t_.nj; j += width) at_places(r, place<pack<T>>{j}, s, a, counted, some);
      if (j < t_.nj) through_rest(r, j, s, a, counted, one);
      if constexpr (Element::totals > 0) value += double(element_.count(r)) * double(one.value + sum(some.value));
      if constexpr (Element::totals > 1) second += double(one.second + sum(some.second));
      if constexpr (Element::weighs && Element::norms) t_.row_sums[i] += one.sum + sum(some.sum);
    }
    totals[0] += value, totals[1] += second;
    return (math::min)(one.least, smallest(some.least));
  }
  // The columns from j on, which do not fill a register: compiled for size, because they are few.
  [[gnu::noinline, gnu::cold]] void through_rest(const row_side& r, index_t j, T* s, T a, bool counted,
                                                 running<T>& sums) const {
    for (; j < t_.nj; ++j) at_places(r, place<T>{j}, s, a, counted, sums);
  }
  template <class V>
  void at_places(const row_side& r, const place<V>& at, T* s, T a, bool counted, running<V>& to) const {
    const auto looked_at = seen(s, a, at);
    if constexpr (Element::radial) to.least = (math::min)(to.least, looked_at.D);
    const pair<V> out = element_(block_, r, column(at), looked_at);
    const auto times = [&](const V& one) {
      if (Element::norms && counted) return at.load(t_.counts) * one;  // 0 times: it stands apart
      return one;
    };
    if constexpr (Element::totals > 0) to.value = to.value + times(out.value);
    if constexpr (Element::totals > 1) to.second = to.second + out.second;
    if constexpr (Element::weighs) {
      const V w = times(out.weight);
      at.store(s, w);
      if constexpr (Element::norms) {
        to.sum = to.sum + (Element::radial ? w : times(out.by_row));
        at.store(t_.col_sums, at.load(t_.col_sums) + (Element::radial ? w : times(out.by_column)));
      }
    }
  }

  [[gnu::cold]] void add_near(index_t i, index_t j, double* totals) const override {
    if constexpr (Element::radial) {
      const T *xi = x_.row(t_.i0 + i), *yj = y_.row(t_.j0 + j), D = squared_distance(xi, yj, x_.d);
      const row_side r = row(i);
      const pair<T> out = element_(block_, r, column(place<T>{j}), distance<T>{D});
      totals[0] += double(element_.count(r)) * double(out.value);
      if (parameters_ > 0) add_parameters(r, place<T>{j}, pair_scalars<T>::at_distance(D), T(1));
      if (Element::weighs)
        add_difference(out.weight, xi, yj, x_.d, t_.row_gradient ? t_.row_gradient + i * x_.d : nullptr,
                       t_.col_gradient ? t_.col_gradient + j * x_.d : nullptr);
    }
  }
  [[gnu::cold]] void add_itself(index_t i, index_t j, double* totals) const override {
    if constexpr (Element::norms && Element::totals > 0) {
      const T a = norm(i);
      const row_side r = row(i);
      const pair<T> out = engine::with_itself(element_, block_, r, column(place<T>{j}), a);
      totals[0] += double(element_.count(r)) * double(out.value);
      if (parameters_ > 0)
        add_parameters(r, place<T>{j}, Element::radial ? pair_scalars<T>::at_distance(T(0)) : pair_scalars<T>{a, a, a}, T(1));
      if constexpr (!Element::radial) t_.row_sums[i] += out.by_row;
    }
  }

  // The kernel's parameters' share of pairs that count `times`.
  template <class V>
  [[gnu::noinline]] void add_parameters(const row_side& r, const place<V>& at, const pair_scalars<V>& scalars, V times) const {
    if constexpr (has_parameters<Element>::value) {
      const double by = t_.times * share() * double(element_.count(r));
      element_.parameters(column(at), scalars,
                          [&](int q, V k) { t_.totals[Element::totals + q] += by * double(sum(times * k)); });
    }
  }
  [[gnu::noinline, gnu::cold]] void add_parameters(const row_side& r, index_t i, T a, bool counted) const {
    if constexpr (has_parameters<Element>::value)
      vector_lanes().each<T>(t_.nj, [&](const auto& at) {
        using V = typename std::decay_t<decltype(at)>::number;
        add_parameters<V>(r, at, {at.load(t_.row(i)), V(a), at.load(b_)}, counted ? at.load(t_.counts) : V(T(1)));
      });
  }
};

/// An element's tile.
template <class T, class Element>
struct element_tile {
  static constexpr bool columns_depend = false, reads = Element::reads;
  static constexpr T of_sums = T(!Element::norms ? 0 : Element::radial ? -0.5 : 1);
  Element element;
  rows<T> x, y;
  bool with_itself;
  int parameters;

  tile_state operator()(tile<T>& t) const {
    const bool careful = Element::radial && (t.careful || parameters > 0);
    const element_rows<T, Element> here(element, parameters, t, x, y, with_itself, careful);
    return here.go_through(Element::norms, Element::radial, Element::totals, Element::weighs);
  }
};

}  // namespace craft::engine
