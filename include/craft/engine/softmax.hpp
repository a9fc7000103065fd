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
    for (index_t i = 0; i < t.ni; ++i) reduce_row(t, i);
    if (columns_depend)
      vector_lanes().each<T>(t.nj, [&](const auto& at) { reduce_columns(t, at); });
    return tile_state::done;
  }

 private:
  using numbers = pack<T>;
  // As a call: there is one for a row of a tile, or a column.
  [[gnu::noinline]] static void join(const softmax<T>& s, index_t i, const softmax_part<T>& found) {
    softmax_part<T> all{s.lse[i], s.sum[i], s.target_dot[i]};
    all.join(found);
    s.lse[i] = all.highest, s.sum[i] = all.sum, s.target_dot[i] = all.target;
  }
  static void join(const softmax<T>& s, index_t i, const softmax_part<numbers>& found) {
    T parts[3][numbers::width];
    found.highest.store(parts[0]), found.sum.store(parts[1]), found.target.store(parts[2]);
    for (index_t c = 0; c < numbers::width; ++c) join(s, i + c, softmax_part<T>{parts[0][c], parts[1][c], parts[2][c]});
  }
  void reduce_row(const tile<T>& t, index_t i) const {
    const index_t row = t.i0 + i;
    const T* const z = t.row(i);
    auto some = softmax_part<numbers>::none(T());
    auto one = softmax_part<T>::none(T());
    index_t j = 0;
    for (; j + numbers::width <= t.nj; j += numbers::width) some.highest = (some.highest.max)(numbers::load(z + j));
    for (; j < t.nj; ++j) one.highest = (math::max)(one.highest, z[j]);
    one.highest = (math::max)(one.highest, largest(some.highest));
    some.highest = numbers(one.highest);
    const auto add = [&](const auto& target) {
      for (j = 0; j + numbers::width <= t.nj; j += numbers::width) some.add(numbers::load(z + j), target(place<numbers>{j}));
      for (; j < t.nj; ++j) one.add(z[j], target(place<T>{j}));
    };
    if (by_row.soft != nullptr) {
      const T* const soft = by_row.soft + row * by_row.soft_stride;
      add([&](const auto& at) { return soft_target(by_row, place<decltype(at.load(z))>{t.j0 + at.k}.load(soft)); });
    } else {
      const T id = by_row.id[row], hit = by_row.hit[row];
      add([&](const auto& at) {
        using V = decltype(at.load(z));
        return hard_target(by_row, V(id), V(hit), place<V>{t.j0 + at.k}.load(by_row.other_id));
      });
    }
    one.sum += sum(some.sum), one.target += sum(some.target);
    join(by_row, row, one);
  }
  // Every column of a register has its own maximum, so each register of columns walks down the rows twice.
  template <class V>
  void reduce_columns(const tile<T>& t, const place<V>& at) const {
    const place<V> column{t.j0 + at.k};
    const V id = column.load(by_col.id), hit = column.load(by_col.hit);
    auto part = softmax_part<V>::none(T());
    for (index_t i = 0; i < t.ni; ++i) part.highest = (math::max)(part.highest, at.load(t.row(i)));
    for (index_t i = 0; i < t.ni; ++i) part.add(at.load(t.row(i)), hard_target(by_col, id, hit, V(by_col.other_id[t.i0 + i])));
    join(by_col, column.k, part);
  }
};

}  // namespace craft::engine
