// Log-sum-exp of the rows of a tile, and of its columns, on the CPU.
#pragma once

#include "craft/engine/contract.hpp"
#include "craft/engine/tile.hpp"

namespace craft::engine {

/// Joins what a tile says of its rows, and if `columns_depend` of its columns, to what is known of them.
template <class T>
struct log_sum_exp_tile {
  static constexpr bool reads = true;
  static constexpr T of_sums = T(0);
  softmax<T> by_row, by_col;
  bool columns_depend;  ///< whether the columns are wanted too

  tile_state operator()(tile<T>& t) const {
    for (index_t i = 0; i < t.ni; ++i) by_row.soft != nullptr ? reduce_row<true>(t, i) : reduce_row<false>(t, i);
    if (columns_depend)
      vector_lanes().each<T>(t.nj, [&](const auto& at) { reduce_columns(t, at); });
    return tile_state::done;
  }

 private:
  template <class V>
  static void join(const softmax<T>& s, const place<V>& at, const softmax_part<V>& found) {
    softmax_part<V> all{at.load(s.lse), at.load(s.sum), at.load(s.target_dot)};
    all.join(found);
    at.store(s.lse, all.highest), at.store(s.sum, all.sum), at.store(s.target_dot, all.target);
  }
  template <bool Soft>
  void reduce_row(const tile<T>& t, index_t i) const {
    constexpr index_t width = pack<T>::width;
    const index_t row = t.i0 + i;
    const T *z = t.row(i), *soft = Soft ? by_row.soft + row * by_row.soft_stride : nullptr;
    const T id = Soft ? T(0) : by_row.id[row], hit = Soft ? T(0) : by_row.hit[row];
    auto some = softmax_part<pack<T>>::none(T());
    auto one = softmax_part<T>::none(T());
    index_t j = 0;
    for (; j + width <= t.nj; j += width) some.highest = some.highest.max(pack<T>::load(z + j));
    for (; j < t.nj; ++j) one.highest = math::max(one.highest, z[j]);
    one.highest = math::max(one.highest, largest(some.highest));
    some.highest = pack<T>(one.highest);
    const auto add = [&](auto& to, const auto& at) {
      using V = typename std::decay_t<decltype(at)>::number;
      const place<V> column{t.j0 + at.k};
      if constexpr (Soft)
        to.add(at.load(z), soft_target(by_row, column.load(soft)));
      else
        to.add(at.load(z), hard_target(by_row, V(id), V(hit), column.load(by_row.other_id)));
    };
    for (j = 0; j + width <= t.nj; j += width) add(some, place<pack<T>>{j});
    for (; j < t.nj; ++j) add(one, place<T>{j});
    one.sum += sum(some.sum), one.target += sum(some.target);
    join(by_row, place<T>{row}, one);
  }
  // Every column of a register has its own maximum, so each register of columns walks down the rows twice.
  template <class V>
  void reduce_columns(const tile<T>& t, const place<V>& at) const {
    const place<V> column{t.j0 + at.k};
    const V id = column.load(by_col.id), hit = column.load(by_col.hit);
    auto part = softmax_part<V>::none(T());
    for (index_t i = 0; i < t.ni; ++i) part.highest = math::max(part.highest, at.load(t.row(i)));
    for (index_t i = 0; i < t.ni; ++i) part.add(at.load(t.row(i)), hard_target(by_col, id, hit, V(by_col.other_id[t.i0 + i])));
    join(by_col, column, part);
  }
};

}  // namespace craft::engine
