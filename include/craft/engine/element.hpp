// Elements: what a loss does with one pair. A sweep goes through all pairs of rows and asks an element, which is a struct with
//
//     totals                      how many sums over all pairs it gives: 0, 1 or 2
//     reads                       whether it looks at dot products
//     norms                       whether it looks at squared norms, and gives the slopes by them
//     radial                      whether it looks at the distance alone: then at a `distance`, else at `pair_scalars`
//     weighs                      whether it gives weights: whether a gradient is wanted
//     block(i, j)                 what all pairs of rows of i's sample with columns of j's sample share
//     row(i)                      what a row brings
//     column(at)                  what columns bring: at.load(p) is p[j] of all of them
//     operator()(block, row, column, seen)   pairs of a row with columns, as numbers or as registers of them: a `pair`
//     count(row), share(block)    by what the sum of a row's values and the sum of these are multiplied in the total
//
// and, if it is for pairs of one sample (`square`), weighing(): the same, with weights.
//
// Policies are constants, so that no inner loop asks. A sweep makes of weights W and of the slopes by the norms
//
//     dX += W Y + 2 diag(sums of by_row) X        dY += W' X + 2 diag(sums of by_column) Y
#pragma once

#include "craft/engine/contract.hpp"
#include "craft/engine/lanes.hpp"
#include "craft/kernels.hpp"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// What an element sees and gives

/// The squared distance of pairs, for functions of it alone.
template <class V>
struct distance {
  using number = V;
  V D;
};
template <class V>
struct pair {
  V value, second,        ///< to the totals
      weight,             ///< dL/ds
      by_row, by_column;  ///< dL/da, dL/db for a = |x|^2, b = |y|^2; of a function of the distance -weight / 2, and not set
};

/// Whether a pair function has at(D): value and slope of a function of the distance.
template <class K, class = void>
struct has_at : std::false_type {};
template <class K>
struct has_at<K, std::void_t<decltype(std::declval<const K&>().at(1.0))>> : std::true_type {};

/// Whether an element gives sums for its kernel's own parameters: parameters(column, scalars, add) calls add(q, derivative). Only
/// one that weighs does, so that this is compiled once; where they are wanted of another one, an engine takes its weighing().
template <class E, class = void>
struct has_parameters : std::false_type {};
template <class E>
struct has_parameters<E, std::enable_if_t<E::parametric>> : std::true_type {};

/// Whether an element's kernel keeps so many numbers that a device should look at fewer pairs at a time.
template <class E, class = void>
struct is_heavy : std::false_type {};
template <class E>
struct is_heavy<E, std::void_t<decltype(decltype(E::kernel)::heavy)>> : std::true_type {};

template <class K, class V>
CRAFT_HOST_DEVICE V value_of(const K& k, const pair_scalars<V>& seen) {
  return k.value(seen.s, seen.a, seen.b);
}
template <class K, class V>
CRAFT_HOST_DEVICE V value_of(const K& k, const distance<V>& seen) {
  if constexpr (has_at<K>::value)
    return k.at(seen.D).value;
  else
    return value_of(k, pair_scalars<V>::at_distance(seen.D));
}
template <class K, class V>
CRAFT_HOST_DEVICE pair_partials<V> partials_of(const K& k, const pair_scalars<V>& seen) {
  return k.partials(seen.s, seen.a, seen.b);
}
template <class K, class V>
CRAFT_HOST_DEVICE detail::radial<V> radial_of(const K& k, const distance<V>& seen) {
  if constexpr (has_at<K>::value) {
    return k.at(seen.D);
  } else {
    const pair_partials<V> p = partials_of(k, pair_scalars<V>::at_distance(seen.D));
    return {p.value, p.da};
  }
}
template <class K, class V>
CRAFT_HOST_DEVICE pair_partials<V> partials_of(const K& k, const distance<V>& seen) {
  const detail::radial<V> r = radial_of(k, seen);
  return {r.value, -(r.slope + r.slope), r.slope, r.slope};
}

/// A row with itself, whose squared norm is a: nothing moves the distance 0, and of another function all slopes are the row's.
template <class Element, class Block, class Row, class Column, class T>
CRAFT_HOST_DEVICE pair<T> with_itself(const Element& element, const Block& block, const Row& row, const Column& column, T a) {
  pair<T> out{T(0), T(0), T(0), T(0), T(0)};
  if constexpr (Element::radial) {
    out.value = element(block, row, column, distance<T>{T(0)}).value;
  } else {
    const pair<T> p = element(block, row, column, pair_scalars<T>{a, a, a});
    out.value = p.value;
    out.by_row = T(0.5) * (p.weight + p.by_row + p.by_column);
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------
// What sweeps are told

/// A sweep over all pairs of rows of z, which may be two samples, one after the other. Both (i, j) and (j, i) are meant, and one
/// of them is looked at: its value counts twice, and its weight must be that of both.
template <class T>
struct square_sweep {
  rows<T> z;
  index_t split = 0;         ///< where the second sample begins: 0 or z.n for none
  bool with_itself = true;   ///< whether a row meets itself
  int parameters = 0;        ///< how many sums for a kernel's own parameters are wanted behind the element's totals
  double* totals = nullptr;  ///< what is summed up is added there
  pull<T> g{};               ///< ... and gradients there, if the element weighs; each array in one place only
  bool pull_first = true, pull_second = true;  ///< of the rows of which sample a gradient is wanted
};
/// A sweep over all pairs of rows of x with rows of y.
template <class T>
struct rectangle_sweep {
  rows<T> x, y;
  index_t offset = -1;       ///< row i of x is row offset + i of y, for an element that looks at norms; -1: none is
  bool with_itself = true;   ///< whether it meets itself then
  double* totals = nullptr;  ///< what is summed up is added there
  pull<T> gx{}, gy{};        ///< ... and gradients there, if the element weighs; no array is another one
  T* kept = nullptr;         ///< dot products that log_sum_exp has left: they are used up
};

}  // namespace craft::engine
