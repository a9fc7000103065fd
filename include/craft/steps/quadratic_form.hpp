// The quadratic form of a kernel on a stacked sample, sum_ij u_ij k(z_i, z_j): what MMD^2 is in its biased and unbiased forms, and
// with one sample alone the mean of a kernel over all pairs.
#pragma once

#include "craft/engine/element.hpp"
#include "craft/kernels.hpp"

namespace craft::engine {

/// The weights of a quadratic form on a stacked sample: u_ij = w_i w_j times the factor of the blocks i and j are in.
/// Equal weights are exactly 1, so that in float only the kernel's values round, not the 1/n^2.
template <class T>
struct form_weights {
  T* per_row = nullptr;
  number within_x = 1, within_y = 1, across = -1;
};

/// What MMD^2 has to do with a pair: sum_ij u_ij k(z_i, z_j), whose weights are those of (i, j) and (j, i).
template <class T, class K, bool Gradient>
struct quadratic_form {
  static constexpr int totals = 1;
  static constexpr bool reads = true, norms = true, radial = K::translation_invariant, weighs = Gradient, parametric = Gradient;
  K kernel;
  form_weights<T> weights;
  index_t split;  ///< the first row of y

  /// The same with weights.
  quadratic_form<T, K, true> weighing() const { return {kernel, weights, split}; }

  struct block_side {
    T twice;
    double once;
  };
  template <class V>
  struct side {
    V weight;
  };
  CRAFT_HOST_DEVICE block_side block(index_t i, index_t j) const {
    const bool first = i < split, across = first != (j < split);
    // As numbers: a choice between the places that hold them would be made in memory.
    const double once = across ? double(weights.across) : first ? double(weights.within_x) : double(weights.within_y);
    return {T(2 * once), once};
  }
  CRAFT_HOST_DEVICE side<T> row(index_t i) const { return {weights.per_row[i]}; }
  template <class At>
  CRAFT_HOST_DEVICE side<typename At::number> column(const At& at) const {
    return {at.load(weights.per_row)};
  }
  template <class Seen, class V = typename Seen::number>
  CRAFT_HOST_DEVICE pair<V> operator()(const block_side& b, const side<T>& r, const side<V>& c, const Seen& seen) const {
    const V none(T(0));
    if constexpr (!Gradient) return {c.weight * value_of(kernel, seen), none, none, none, none};
    const T u = b.twice * r.weight;
    if constexpr (radial) {  // dk/ds = -2 dk/dD
      const detail::radial<V> k = radial_of(kernel, seen);
      return {c.weight * k.value, none, V(T(-2) * u) * c.weight * k.slope, none, none};
    } else {
      const pair_partials<V> k = partials_of(kernel, seen);
      const V w = V(u) * c.weight;
      return {c.weight * k.value, none, w * k.ds, w * k.da, w * k.db};
    }
  }
  /// Only here do 1 / n^2 and the like come in, which would cost a float its digits.
  CRAFT_HOST_DEVICE double share(const block_side& b) const { return b.once; }
  CRAFT_HOST_DEVICE T count(const side<T>& r) const { return r.weight; }
  template <class V, class Add>
  CRAFT_HOST_DEVICE void parameters(const side<V>& c, const pair_scalars<V>& seen, const Add& add) const {
    const int count = kernel.weights();
    kernel.parameters(
        seen.s, seen.a, seen.b, [&](int q, V k) { add(q, c.weight * k); }, [&](int q, V k) { add(count + q, c.weight * k); });
  }
};

}  // namespace craft::engine
