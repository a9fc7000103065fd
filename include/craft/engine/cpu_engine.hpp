// The CPU engine: tiles of dot products, a register of columns at a time, on the context's threads. A verb makes one engine per
// call; everything that it takes from the context's scratch memory goes back when the call ends.
//
// Memory, steps and folds are in cpu_threads.hpp, the sweeps' schedule in sweep.hpp, what is done with a tile in tile.hpp,
// softmax.hpp and nearest.hpp. docs/add_a_device.md lists the members, which every device has.
#pragma once

#include <algorithm>
#include <limits>

#include "craft/engine/nearest.hpp"
#include "craft/engine/softmax.hpp"
#include "craft/engine/sweep.hpp"

namespace craft::engine {

class cpu_engine : public cpu_sweeps {
 public:
  using cpu_sweeps::cpu_sweeps;

  /// x_i . x_i, of rows as products take them.
  template <class T>
  void square_norms(const rows<T>& x) const {
    each_row(x.n, x.d, square_norms_step<T>{x});
  }
  /// An element over all pairs: sums of its values, and gradients.
  template <class T, class Element>
  void square(const square_sweep<T>& told, const Element& element) {
    if constexpr (!Element::weighs)
      if (told.parameters > 0) {
        square_sweep<T> weighing = told;
        weighing.g.self = zeros<double>(told.z.n);
        return square(weighing, element.weighing());
      }
    const element_tile<T, Element> tile{element, told.z, told.z, told.with_itself, told.parameters};
    sweep(told, tile_epilogue<T>(tile), Element::totals + told.parameters);
  }
  template <class T, class Element>
  void rectangle(const rectangle_sweep<T>& told, const Element& element) {
    const element_tile<T, Element> tile{element, told.x, told.y, told.with_itself, 0};
    sweep(told, tile_epilogue<T>(tile), Element::totals);
  }

  /// Row (and column) log-sum-exp of z_ij = x_i . y_j and target sums; then `lse` holds log-sum-exp. With `again` it returns
  /// the dot products for a rectangle sweep, if they are so few that keeping them is no matter; else null.
  template <class T>
  T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col, bool by_column,
                 bool again) {
    constexpr index_t few = index_t(1) << 18;  // as many as four tiles of float
    const blocks bx = cut<T>(x.n, y.n, x.d), by = cut<T>(y.n, x.n, x.d);
    const index_t numbers = bx.count() * by.count() * bx.size() * product<T>::padded(by.size());
    rectangle_sweep<T> told{x, y};
    told.kept = again && x.n * y.n <= few ? take<T>(numbers) : nullptr;
    const log_sum_exp_tile<T> tile{by_row, by_col, by_column};
    start(by_row);
    if (by_column) start(by_col);
    sweep(told, tile_epilogue<T>(tile), 0, true);
    finish(by_row);
    if (by_column) finish(by_col);
    return told.kept;
  }

  /// Whether a dot product may have other last bits where its rows stand elsewhere: here it is the same sum in the same order.
  static constexpr bool products_depend_on_place = false;
  /// index_i = the nearest row of y to x_i (lowest index on ties), distance_i = its squared distance; exactly 0 of equal
  /// rows. A row of y takes no part if its squared norm is said to be infinite.
  template <class T>
  void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
    std::fill_n(distance, x.n, std::numeric_limits<T>::infinity());
    std::fill_n(index, x.n, y.n);
    const nearest_tile<T> tile{x, y, distance, index};
    sweep(rectangle_sweep<T>{x, y}, tile_epilogue<T>(tile), 0);
  }
  /// The rank-th smallest (from 0) squared distance over pairs i < j of x, and a pair that has it.
  template <class T>
  void distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out) {
    const auto pairs = [&](const distances_of_row<T>& f) {
      const distances_tile<T> tile{x, f};
      square_sweep<T> told{x};
      told.split = x.n;
      sweep(told, tile_epilogue<T>(tile), 0);
    };
    select_distance<T>(*this, ctx_.threads(), x, rank, function_ref<void(distances_of_row<T>)>(pairs), out);
  }

 private:
  template <class T>
  static void start(const softmax<T>& s) {
    const auto none = softmax_part<T>::none(T());
    std::fill_n(s.lse, s.n, none.highest);
    std::fill_n(s.sum, s.n, none.sum);
    std::fill_n(s.target_dot, s.n, none.target);
  }
  template <class T>
  void finish(const softmax<T>& s) const {
    pieces(s.n, 1, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) s.lse[i] += std::log(s.sum[i]);
    });
  }
};

}  // namespace craft::engine
