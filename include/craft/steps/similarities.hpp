// Similarities of rows, and the way back of their gradients: what relative representations and kernel matrices are made of.
//
//     out_ij = scale k(x_i, y_j)
#pragma once

#include "craft/engine/element.hpp"

namespace craft::engine {

template <class T, class K, class S>
struct similarity {
  static constexpr int totals = 0;
  static constexpr bool reads = true, norms = !is_linear<K>::value, radial = K::translation_invariant, weighs = false;
  K kernel;
  number scale;
  S* out;
  index_t stride;

  CRAFT_HOST_DEVICE T block(index_t, index_t) const { return T(double(scale)); }
  CRAFT_HOST_DEVICE S* row(index_t i) const { return out + i * stride; }
  template <class At>
  CRAFT_HOST_DEVICE At column(const At& at) const {
    return at;
  }
  template <class At, class Seen, class V = typename Seen::number>
  CRAFT_HOST_DEVICE pair<V> operator()(T by, S* to, const At& at, const Seen& seen) const {
    at.store(to, V(by) * value_of(kernel, seen));
    return {V(T(0)), V(T(0)), V(T(0)), V(T(0)), V(T(0))};
  }
  CRAFT_HOST_DEVICE double share(T) const { return 0; }
  CRAFT_HOST_DEVICE T count(S*) const { return T(0); }
};
template <class T, class Engine, class K, class S, memory M>
void map(Engine& e, const rows<T>& x, const rows<T>& y, const K& k, const number& scale, const matrix_view<S, M>& out) {
  e.rectangle(rectangle_sweep<T>{x, y}, similarity<T, K, S>{k, scale, out.data(), out.stride()});
}

/// For a given dL/dout; the total is sum_ij dout_ij out_ij. A linear kernel looks at no dot products, and gives no total.
template <class T, class K, class S>
struct similarity_pullback {
  static constexpr bool linear = is_linear<K>::value;
  static constexpr int totals = linear ? 0 : 1;
  static constexpr bool reads = !linear, norms = !linear, radial = K::translation_invariant, weighs = true;
  K kernel;
  number scale;
  const S* dout;
  index_t stride;

  CRAFT_HOST_DEVICE T block(index_t, index_t) const { return T(double(scale)); }
  CRAFT_HOST_DEVICE const S* row(index_t i) const { return dout + i * stride; }
  template <class At>
  CRAFT_HOST_DEVICE At column(const At& at) const {
    return at;
  }
  template <class At, class Seen, class V = typename Seen::number>
  CRAFT_HOST_DEVICE pair<V> operator()(T by, const S* from, const At& at, const Seen& seen) const {
    const V u = V(by) * at.load(from);
    const pair_partials<V> k = partials_of(kernel, seen);
    return {u * k.value, V(T(0)), u * k.ds, u * k.da, u * k.db};
  }
  CRAFT_HOST_DEVICE double share(T) const { return 1; }
  CRAFT_HOST_DEVICE T count(const S*) const { return T(1); }
};
/// totals[0] += sum_ij dout_ij out_ij, but of a linear kernel; gradients are added to gx and gy.
template <class T, class Engine, class K, class S, memory M>
void map_pullback(Engine& e, const rows<T>& x, const rows<T>& y, const K& k, const number& scale,
                  const matrix_view<const S, M>& dout, double* totals, const pull<T>& gx, const pull<T>& gy) {
  rectangle_sweep<T> sweep{x, y};
  sweep.totals = totals, sweep.gx = gx, sweep.gy = gy;
  e.rectangle(sweep, similarity_pullback<T, K, S>{k, scale, dout.data(), dout.stride()});
}

}  // namespace craft::engine
