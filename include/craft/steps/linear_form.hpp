// The linear-time form of MMD^2: the mean over p disjoint pairs of rows x = x_2i, x' = x_(2i + 1) of one sample, and y, y' of
// the other,
//
//     (1 / p) sum_i k(x, x') + k(y, y') - k(x, y') - k(x', y)
//
// in O(p d) (A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012), section 6).
#pragma once

#include "craft/kernels.hpp"
#include "craft/steps/rows.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

/// One of the p items, which owns its four rows: value and derivatives by parameters, if asked, per item; the rows' gradients. A
/// distance is taken from the rows here, always.
template <class T, class K>
struct linear_form_step {
  K kernel;
  rows<T> z;
  index_t split, p;  ///< y begins at row `split`
  int parameters;
  double* per_item;  ///< (1 + parameters) x p
  T* gradient;       ///< of z, or null
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    for (int q = 0; g.first() && q <= parameters; ++q) per_item[q * p + i] = 0;
    const index_t x = 2 * i, y = split + 2 * i;
#if defined(__CUDACC__)
#pragma unroll 1
#endif
    for (int c = 0; c < 4; ++c)  // (x, x'), (y, y'), (x, y') and (x', y): compiled once
      pair(i, (c == 1 ? y : x) + (c == 3 ? 1 : 0), (c == 0 ? x : y) + (c == 3 ? 0 : 1), T(c < 2 ? 1 : -1) / T(p), g);
  }

 private:
  template <class Lanes>
  CRAFT_HOST_DEVICE void pair(index_t i, index_t first, index_t second, T u, const Lanes& g) const {
    constexpr bool radial = K::translation_invariant;
    const T *a = z.row(first), *b = z.row(second);
    const T s = radial ? squared_distance(a, b, z.d, g) : dot(a, b, z.d, g);
    const auto looked_at = radial ? pair_scalars<T>::at_distance(s) : pair_scalars<T>{s, z.squared[first], z.squared[second]};
    const pair_partials<T> k = kernel.partials(looked_at.s, looked_at.a, looked_at.b);
    if (g.first()) {
      per_item[i] += double(u) * double(k.value);
      const auto add = [&](int q, T dk) { per_item[(1 + q) * p + i] += double(u * dk); };
      const int weights = kernel.weights();
      if (parameters > 0)
        kernel.parameters(looked_at.s, looked_at.a, looked_at.b, add, [&](int q, T dk) { add(weights + q, dk); });
    }
    if (gradient == nullptr || (radial && s == T(0))) return;
    T *ga = gradient + first * z.d, *gb = gradient + second * z.d;
    g.template each<T>(z.d, [&](auto at) {
      using V = decltype(at.load(a));
      const V ak = at.load(a), bk = at.load(b), two(T(2));
      const V of_a = radial ? two * V(u * k.da) * (ak - bk) : V(u) * (V(k.ds) * bk + two * V(k.da) * ak);
      const V of_b = radial ? -of_a : V(u) * (V(k.ds) * ak + two * V(k.db) * bk);
      at.store(ga, at.load(ga) + of_a);
      at.store(gb, at.load(gb) + of_b);
    });
  }
};
/// totals = {value, then the derivatives by the kernel's weights and bandwidths, if `parameters`}; the gradient is added to g.
template <class T, class Engine, class K>
void linear_form(Engine& e, const rows<T>& z, index_t split, index_t p, const K& k, bool parameters, double* totals,
                 T* gradient) {
  const int count = parameters ? k.weights() + k.bandwidths() : 0;
  const workspace::frame inner(e.context().scratch());
  double* per_item = e.template take<double>((1 + count) * p);
  e.each_row(p, 12 * z.d, linear_form_step<T, K>{k, z, split, p, count, per_item, gradient});
  for (int q = 0; q <= count; ++q) sum(e, per_item + q * p, p, totals + q);
}

}  // namespace craft::engine
