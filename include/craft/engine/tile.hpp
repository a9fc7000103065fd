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

/// Sums over the columns and the least distance, as numbers or registers.
template <class V>
struct running {
  V value{0}, second{0}, sum{0}, least{math::limits<decltype(engine::sum(V()))>::infinity};
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
    const told here{element, element.block(t.i0, t.j0)};  // copies of its own: the numbers written below are not its parameters
    const near_pairs<T> near(x.d);
    const T *a_of = x.squared + t.i0, *b = y.squared + t.j0;
    const T far = Element::radial ? far_enough(near, a_of, t.ni, b, t.nj) : T(0);
    const bool careful = Element::radial && (t.careful || parameters > 0);
    double totals[2] = {};
    T least = math::limits<T>::infinity;
    std::fill_n(t.counts, t.nj, T(1));
    for (index_t i = 0; i < t.ni; ++i) {
      const row_side row = here.element.row(t.i0 + i);
      const index_t itself = t.itself == tile<T>::none || i + t.itself < 0 || i + t.itself >= t.nj ? -1 : i + t.itself;
      const T a = Element::norms ? a_of[i] : T(0);
      const index_t apart = careful ? find_near(near, t.row(i), a, b, t.nj, t.near) : 0;
      const auto count = [&](T times) {
        for (index_t q = 0; q < apart; ++q) t.counts[t.near[q]] = times;
        if (itself >= 0) t.counts[itself] = times;
      };
      count(T(0));
      for (index_t q = 0; q < apart; ++q) t.row(i)[t.near[q]] = -far;
      if (itself >= 0) t.row(i)[itself] = Element::radial ? -far : a;  // known by its index, not by its numbers
      if (parameters > 0) add_parameters(here, row, t, i, a, b);
      running<T> sums = through(here, row, t, i, a, b);
      count(T(1));
      least = math::min(least, sums.least);
      for (index_t q = 0; q < apart; ++q)
        if (t.near[q] != itself) add_apart(here, row, t, i, t.near[q], sums);
      if (itself >= 0 && with_itself) add_itself(here, row, t, itself, a, sums);
      t.row_sums[i] += sums.sum;
      totals[0] += double(here.element.count(row)) * double(sums.value);
      totals[1] += double(sums.second);
    }
    if (Element::radial && !careful && least < far) return tile_state::again;
    totals[0] *= here.element.share(here.block);
    for (int q = 0; q < Element::totals; ++q) t.totals[q] += t.times * totals[q];
    return Element::weighs ? tile_state::weights : tile_state::done;
  }

 private:
  using row_side = decltype(std::declval<Element>().row(0));
  struct told {
    Element element;
    decltype(std::declval<Element>().block(0, 0)) block;
  };

  /// What the element sees at some places of a row.
  template <class V>
  static auto seen(const T* s, T a, const T* b, const place<V>& at) {
    if constexpr (Element::radial) {
      const V sj = at.load(s);
      return distance<V>{V(a) + at.load(b) - (sj + sj)};
    } else if constexpr (!Element::reads) {
      return pair_scalars<V>{V(T(0)), V(T(0)), V(T(0))};
    } else if constexpr (Element::norms) {
      return pair_scalars<V>{at.load(s), V(a), at.load(b)};
    } else {
      return pair_scalars<V>{at.load(s), V(T(0)), V(T(0))};
    }
  }
  [[gnu::noinline]] static running<T> through(const told& here, const row_side& row, const tile<T>& t, index_t i, T a,
                                              const T* b) {
    constexpr index_t width = pack<T>::width;
    T *const s = t.row(i), *const col_sums = t.col_sums;
    const T* const counts = t.counts;
    const index_t j0 = t.j0;
    running<pack<T>> some;
    running<T> one;
    index_t j = 0;
    for (; j + width <= t.nj; j += width) at_places(here, row, place<pack<T>>{j}, j0, s, a, b, counts, col_sums, some);
    if (j < t.nj) through_rest(here, row, t, i, j, a, b, one);
    return {one.value + sum(some.value), one.second + sum(some.second), one.sum + sum(some.sum),
            math::min(one.least, smallest(some.least))};
  }
  // The columns from j on, which do not fill a register: compiled for size, because they are few.
  [[gnu::noinline, gnu::cold]] static void through_rest(const told& here, const row_side& row, const tile<T>& t, index_t i,
                                                        index_t j, T a, const T* b, running<T>& sums) {
    for (; j < t.nj; ++j)
      at_places(here, row, place<T>{j}, t.j0, t.row(i), a, b, t.counts, t.col_sums, sums);
  }
  template <class V>
  static void at_places(const told& here, const row_side& row, const place<V>& at, index_t j0, T* s, T a, const T* b,
                        const T* counts, T* col_sums, running<V>& r) {
    const auto looked_at = seen(s, a, b, at);
    if constexpr (Element::radial) r.least = math::min(r.least, looked_at.D);
    const pair<V> out = here.element(here.block, row, here.element.column(place<V>{j0 + at.k}), looked_at);
    const auto counted = [&](const V& one) {
      if constexpr (Element::norms) return at.load(counts) * one;  // 0 times: it stands apart
      return one;
    };
    if constexpr (Element::totals > 0) r.value = r.value + counted(out.value);
    if constexpr (Element::totals > 1) r.second = r.second + out.second;
    if constexpr (Element::weighs) {
      const V w = counted(out.weight);
      at.store(s, w);
      if constexpr (Element::norms) {
        r.sum = r.sum + (Element::radial ? w : counted(out.by_row));
        at.store(col_sums, at.load(col_sums) + (Element::radial ? w : counted(out.by_column)));
      }
    }
  }

  [[gnu::noinline, gnu::cold]] void add_apart(const told& here, const row_side& row, const tile<T>& t, index_t i, index_t j,
                                              running<T>& sums) const {
    const T *xi = x.row(t.i0 + i), *yj = y.row(t.j0 + j), D = squared_distance(xi, yj, x.d);
    const auto column = here.element.column(place<T>{t.j0 + j});
    if constexpr (Element::radial) {
      const pair<T> out = here.element(here.block, row, column, distance<T>{D});
      sums.value += out.value;
      if (parameters > 0) add_parameters(here, row, column, pair_scalars<T>::at_distance(D), T(1), t);
      if (Element::weighs)
        add_difference(out.weight, xi, yj, x.d, t.row_gradient ? t.row_gradient + i * x.d : nullptr,
                       t.col_gradient ? t.col_gradient + j * x.d : nullptr);
    }
  }
  [[gnu::noinline, gnu::cold]] void add_itself(const told& here, const row_side& row, const tile<T>& t, index_t j, T a,
                                               running<T>& sums) const {
    if constexpr (Element::norms && Element::totals > 0) {
      const auto column = here.element.column(place<T>{t.j0 + j});
      const pair<T> out = engine::with_itself(here.element, here.block, row, column, a);
      sums.value += out.value;
      if (parameters > 0)
        add_parameters(here, row, column, Element::radial ? pair_scalars<T>::at_distance(T(0)) : pair_scalars<T>{a, a, a}, T(1),
                       t);
      if constexpr (!Element::radial) sums.sum += out.by_row;
    }
  }

  // The kernel's parameters' share of pairs that count `times`.
  template <class V, class Column>
  [[gnu::noinline]] static void add_parameters(const told& here, const row_side& row, const Column& column,
                                               const pair_scalars<V>& at, V counts, const tile<T>& t) {
    if constexpr (has_parameters<Element>::value) {
      const double by = t.times * here.element.share(here.block) * double(here.element.count(row));
      here.element.parameters(column, at, [&](int q, V k) { t.totals[Element::totals + q] += by * double(sum(counts * k)); });
    }
  }
  [[gnu::noinline, gnu::cold]] static void add_parameters(const told& here, const row_side& row, const tile<T>& t,
                                                          index_t i, T a, const T* b) {
    vector_lanes().each<T>(t.nj, [&](const auto& at) {
      using V = typename std::decay_t<decltype(at)>::number;
      add_parameters<V>(here, row, here.element.column(place<V>{t.j0 + at.k}), {at.load(t.row(i)), V(a), at.load(b)},
                        at.load(t.counts), t);
    });
  }
};

}  // namespace craft::engine
