// An element (element.hpp) at pairs of rows: what every kernel of sweeps does with several of them, and with those that stand
// apart.
#pragma once

#include "craft/engine/element.hpp"
#include "craft/engine/rounding.cuh"
#include "craft/engine/several.cuh"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Pairs that stand apart

/// What a sweep knows of its rows beside their dot products.
template <class T>
struct sight {
  rows<T> x, y;
  near_pairs<T> near;
  T share;           ///< near.share()
  index_t split;     ///< where the columns' second sample begins
  index_t mirrored;  ///< columns from here on stand for their mirror image too
  index_t offset;    ///< row i is the same as column offset + i; -1: none is
  bool with_itself;  ///< whether it meets itself then

  sight(const rows<T>& x_, const rows<T>& y_, index_t split_, index_t offset_, bool with_itself_)
      : x(x_), y(y_), near(x_.d), share(near.share()), split(split_), mirrored(y_.n), offset(offset_), with_itself(with_itself_) {
  }
  __device__ T times(index_t j) const { return j >= mirrored ? T(2) : T(1); }
};

/// |x_i - y_j|^2 from the rows, for a pair that is near.
template <class T>
__device__ inline T row_distance(const rows<T>& x, index_t i, const rows<T>& y, index_t j) {
  const T *xi = x.row(i), *yj = y.row(j);
  T sum(0);
#pragma unroll 1  // few pairs come here
  for (index_t k = 0; k < x.d; ++k) sum += (xi[k] - yj[k]) * (xi[k] - yj[k]);
  return sum;
}

/// A pair by itself: a row with itself, near rows (whose distance is taken from the rows), or any other.
template <class Element, class T>
__device__ inline pair<T> single(const Element& element, const sight<T>& v, index_t i, index_t j, T s) {
  const auto block = element.block(i, j);
  const auto row = element.row(i);
  const auto column = element.column(place<T>{j});
  const T a = Element::norms ? v.x.squared[i] : T(0), b = Element::norms ? v.y.squared[j] : T(0);
  if (Element::norms && v.offset >= 0 && v.offset + i == j)
    return v.with_itself ? with_itself(element, block, row, column, a) : pair<T>{T(0), T(0), T(0), T(0), T(0)};
  if constexpr (Element::radial) {
    const T D = squared_distance(v.near, pair_scalars<T>{s, a, b}, [&] { return row_distance(v.x, i, v.y, j); });
    pair<T> out = element(block, row, column, distance<T>{D});
    if (D == T(0)) out.weight = T(0);
    return out;
  } else {
    return element(block, row, column, pair_scalars<T>{s, a, b});
  }
}
/// Pairs one after another, with their values to the totals; dot(c): the dot product of the c-th.
template <class At, class Element, class T, class Dot>
__device__ inline pair<typename At::number> one_by_one(const Element& element, const sight<T>& v, index_t i, const At& at,
                                                       const Dot& dot, double* totals) {
  pair<typename At::number> out{T(0), T(0), T(0), T(0), T(0)};
#pragma unroll 1  // few come here
  for (int c = 0; c < At::numbers; ++c) {
    const index_t j = at.column(c);
    if (j >= at.end) continue;
    const pair<T> one = single(element, v, i, j, Element::reads ? dot(c) : T(0));
    if constexpr (Element::totals > 0)
      totals[0] += element.share(element.block(i, j)) * double(v.times(j) * element.count(element.row(i)) * one.value);
    if constexpr (Element::totals > 1) totals[1] += double(one.second);
#pragma unroll
    for (int k = 0; k < At::numbers; ++k) {
      if (k != c) continue;
      out.weight.v[k] = one.weight;
      out.by_row.v[k] = one.by_row;
      out.by_column.v[k] = one.by_column;
    }
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------
// Several pairs

/// What a thread keeps of its columns.
template <class Element, class T, class At>
struct columns_view {
  using numbers = typename At::number;
  At at;
  int there;     ///< how many there are
  bool plain, all;  ///< whether they are whole groups, and alike; all of them, or the first group
  T times, far;  ///< how often their pairs count; no pair with a row of norm a is near if its D is beyond share a + far
  numbers squared;
  decltype(std::declval<Element>().column(std::declval<At>())) side{};

  __device__ columns_view(const Element& element, const sight<T>& v, const At& at_)
      : at(at_), there(at_.count()), plain(at_.plain(there, v.split, v.mirrored)), all(there == At::numbers),
        times(v.times(at_.j)), far(0), squared(T(0)) {
    if (!plain) return;
    side = element.column(at);
    if (!Element::norms) return;
    squared = at.load(v.y.squared);
    far = v.share * largest(squared);
  }
};
/// What a thread keeps of a row.
template <class Element, class T>
struct alignas(16) row_view {
  index_t i;
  T squared, far;
  decltype(std::declval<Element>().row(0)) side;
  bool first;  ///< of the first sample
  __device__ row_view(const Element& element, const sight<T>& v, index_t i_)
      : i(i_), squared(Element::norms ? v.x.squared[i_] : T(0)), far(v.share * squared), side(element.row(i_)),
        first(i_ < v.split) {}
};
/// What pairs with rows of the first sample share, and with rows of the second, for columns of one sample; and the sums of their
/// values so far.
template <class Element, class T>
struct block_view {
  bool open = false, first_column = false;
  decltype(std::declval<Element>().block(0, 0)) of_first{}, of_second{};
  T first = T(0), second = T(0), other = T(0);

  /// To be called before columns from j on: only another sample makes a difference.
  __device__ void enter(const Element& element, const sight<T>& v, index_t j, double* totals) {
    if (open && (j < v.split) == first_column) return;
    leave(element, totals);
    first_column = j < v.split, open = true;
    of_first = element.block(v.split - 1, j), of_second = element.block(v.split, j);
  }
  __device__ void leave(const Element& element, double* totals) {
    if (!open) return;
    if constexpr (Element::totals > 0)
      totals[0] += element.share(of_first) * double(first) + element.share(of_second) * double(second);
    if constexpr (Element::totals > 1) totals[1] += double(other);
    first = second = other = T(0);
  }
};
/// use(pair) of a row with columns: their weights, with the slopes by the norms; values go to the sums of the block. dots(): the
/// dot products, where the columns are plain; dot(c): the c-th of them.
template <class Element, class T, class At, class Dots, class Dot, class Use>
__device__ inline void look(const Element& element, const sight<T>& v, const row_view<Element, T>& row,
                            const columns_view<Element, T, At>& columns, const Dots& dots, const Dot& dot,
                            block_view<Element, T>& block, double* totals, const Use& use) {
  using V = typename At::number;
  const auto usual = [&](const auto& seen) {
    const auto shared = row.first ? block.of_first : block.of_second;
    const pair<V> out = element(shared, row.side, columns.side, seen);
    if constexpr (Element::totals > 0) {
      const T value = columns.times * element.count(row.side) * sum<At::group>(out.value, columns.all);
      if (row.first)  // by name: a reference to one of them would keep both in memory
        block.first += value;
      else
        block.second += value;
    }
    if constexpr (Element::totals > 1) block.other += sum<At::group>(out.second, columns.all);
    use(out);
  };
  if (columns.plain) {
    if constexpr (Element::radial) {
      const V D = less_twice(V(row.squared) + columns.squared, dots());
      if (smallest(D) > row.far + columns.far) return usual(distance<V>{D});
    } else if constexpr (Element::norms) {
      const index_t same = v.offset + row.i - columns.at.j;
      if (v.offset < 0 || same < 0 || same > columns.at.column(At::numbers - 1) - columns.at.j)
        return usual(pair_scalars<V>{dots(), V(row.squared), columns.squared});
    } else {
      return usual(pair_scalars<V>{dots(), V(T(0)), V(T(0))});
    }
  }
  use(one_by_one<At>(element, v, row.i, columns.at, dot, totals));
}
/// The weights as a product will have them, and with them the sums of rows and columns: W Y and 2 diag(sums) X nearly cancel
/// where rows are near, and what W loses in rounding must not stay in the sums.
template <class Element, class T, int N>
__device__ inline void round_weights(pair<several<T, N>>& out, float split) {
#pragma unroll
  for (int c = 0; c < N; ++c) {
    const T weight = rounded(out.weight.v[c], split);
    if constexpr (Element::norms && !Element::radial)
      if (out.weight.v[c] != T(0)) {
        out.by_row.v[c] *= weight / out.weight.v[c];
        out.by_column.v[c] *= weight / out.weight.v[c];
      }
    out.weight.v[c] = weight;
  }
}
/// What pairs give to the sum of their row, and of their columns; by what these sums are multiplied.
template <class Element, class V>
__device__ inline const V& to_row(const pair<V>& out) {
  return Element::radial ? out.weight : out.by_row;
}
template <class Element, class V>
__device__ inline const V& to_columns(const pair<V>& out) {
  return Element::radial ? out.weight : out.by_column;
}
template <class Element>
constexpr double of_sums = Element::radial ? -0.5 : 1;

}  // namespace craft::engine
