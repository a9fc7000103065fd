// Softmax cross-entropies. One direction is a softmax over the columns j for each of n rows i, with logits z_ij = x_i . y_j:
//
//     loss = sum_i w_i (mass_i lse_i - sum_j t_ij z_ij)
//     t_ij = hit_i [id_i = other_id_j] + base        or, with soft targets,   t_ij = keep * soft_ij + base
//     dloss/dz_ij = w_i (mass_i exp(z_ij - lse_i) - t_ij)
//
// targets.hpp makes the targets; log_sum_exp of an engine finds lse and sum_j t_ij z_ij for all rows in one sweep, with running
// maxima, and for all columns if the other direction is wanted too.
#pragma once

#include <cmath>

#include "craft/engine/element.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// The loss

/// w_i (mass_i lse_i - target_dot_i), nothing for a row that is left out.
template <class T>
struct softmax_loss_term {
  softmax<T> s;
  CRAFT_HOST_DEVICE double operator()(index_t i) const {
    const double w = double(s.weight[i]);
    return w == 0 ? 0.0 : w * (double(s.mass[i]) * double(s.lse[i]) - double(s.target_dot[i]));
  }
};
/// total += the loss of one direction.
template <class T, class Engine>
void softmax_loss(Engine& e, const softmax<T>& s, double* total) {
  e.fold(s.n, sum_fold<softmax_loss_term<T>>({s}, total, true));
}

// ---------------------------------------------------------------------------------------------------------
// Its gradient

/// dloss/dz_ij, of rows, and if Both of columns too; with soft targets, if Soft.
template <class T, bool Both, bool Soft>
struct softmax_pullback {
  static constexpr int totals = 0;
  static constexpr bool reads = true, norms = false, radial = false, weighs = true;
  softmax<T> by_row, by_col;  ///< where both are wanted, the ids of one are the other ids of the other

  struct block_side {};
  struct row_side {
    T weight, mass, lse, id, hit;
    const T* soft;
  };
  template <class At>
  struct column_side {
    typename At::number id, weight, mass, lse, hit;
    At at;
  };
  CRAFT_HOST_DEVICE block_side block(index_t, index_t) const { return {}; }
  CRAFT_HOST_DEVICE row_side row(index_t i) const {
    const T weight = by_row.weight[i], mass = by_row.mass[i], lse = by_row.lse[i];
    if constexpr (Soft)
      return {weight, mass, lse, T(0), T(0), by_row.soft + i * by_row.soft_stride};
    else
      return {weight, mass, lse, by_row.id[i], by_row.hit[i], nullptr};
  }
  template <class At>
  CRAFT_HOST_DEVICE column_side<At> column(const At& at) const {
    using V = typename At::number;
    const V none(T(0));
    if constexpr (Both)
      return {at.load(by_col.id), at.load(by_col.weight), at.load(by_col.mass), at.load(by_col.lse), at.load(by_col.hit), at};
    else if constexpr (Soft)
      return {none, none, none, none, none, at};
    else
      return {at.load(by_row.other_id), none, none, none, none, at};
  }
  template <class Column, class V>
  CRAFT_HOST_DEVICE pair<V> operator()(const block_side&, const row_side& r, const Column& c, const pair_scalars<V>& seen) const {
    const V z = seen.s;
    V t;
    if constexpr (Soft)
      t = soft_target(by_row, c.at.load(r.soft));
    else
      t = hard_target(by_row, V(r.id), V(r.hit), c.id);
    V u = V(r.weight) * (V(r.mass) * math::exp(z - V(r.lse)) - t);
    if constexpr (Both) u = u + c.weight * (c.mass * math::exp(z - c.lse) - hard_target(by_col, c.id, c.hit, V(r.id)));
    return {V(T(0)), V(T(0)), u, V(T(0)), V(T(0))};
  }
  CRAFT_HOST_DEVICE double share(const block_side&) const { return 0; }
  CRAFT_HOST_DEVICE T count(const row_side&) const { return T(0); }
};
/// Adds the gradients of the loss, of rows and if `both` of columns, to gx and gy of the sweep. Soft targets are one way only.
template <bool Soft, class T, class Engine>
void pull_back_softmax(Engine& e, const rectangle_sweep<T>& sweep, const softmax<T>& by_row, const softmax<T>& by_col,
                       bool both) {
  if constexpr (!Soft)
    if (both) return e.rectangle(sweep, softmax_pullback<T, true, false>{by_row, by_col});
  e.rectangle(sweep, softmax_pullback<T, false, Soft>{by_row, {}});
}

}  // namespace craft::engine
