// Sums for a kernel's own parameters, over all pairs of a sample.
#pragma once

#include "craft/engine/sweep.cuh"

namespace craft::engine {

/// partial_(block, q) = sum of u_ij dk/dparameter_q for the eight parameters from 8 * blockIdx.y on; a block takes a strip of
/// rows of the panel. The pair function is gone through once for every eight of its parameters.
constexpr int parameters_at_once = 8, parameter_rows = 32;
template <class T, class Element>
__global__ void __launch_bounds__(block_threads, 1)
    parameters_kernel(panel<T> p, sight<T> v, Element element, int count, double* partial) {
  double sums[parameters_at_once] = {};
  const int first = int(blockIdx.y) * parameters_at_once;
  const index_t per_block = index_t(parameter_rows) * p.nj, begin = index_t(blockIdx.x) * per_block;
  for (index_t at = begin + index_t(threadIdx.x); at < begin + per_block; at += block_threads) {
    const cell where = cell_of(at, p.nj);
    if (where.row >= p.ni) break;
    const index_t i = p.i0 + where.row, j = p.j0 + where.column;
    const bool itself = v.offset + i == j;
    if (itself && !v.with_itself) continue;
    const T s = p.s[where.row * p.stride + where.column], a = v.x.squared[i], b = v.y.squared[j];
    pair_scalars<T> seen{s, a, b};
    if (itself) seen = {a, a, a};
    if (Element::radial && (itself || v.near(s, a, b)))
      seen = pair_scalars<T>::at_distance(itself ? T(0) : row_distance(v.x, i, v.y, j));
    const double u = element.share(element.block(i, j)) * double(element.count(element.row(i))) * double(v.times(j));
    element.parameters(element.column(place<T>{j}), seen, [&](int q, T k) {
#pragma unroll
      for (int c = 0; c < parameters_at_once; ++c)
        if (q == first + c) sums[c] += u * double(k);
    });
  }
#pragma unroll
  for (int c = 0; c < parameters_at_once; ++c) {
    const double total = block_sum(sums[c], shared<double>());
    if (threadIdx.x == 0 && first + c < count) partial[index_t(blockIdx.x) * count + first + c] = total;
  }
}
struct fold_parameters_step {
  const double* partial;
  index_t blocks, count;
  double* totals;
  __device__ void operator()(index_t q) const {
    for (index_t b = 0; b < blocks; ++b) totals[q] += partial[b * count + q];
  }
};

template <class T, class Element>
void cuda_engine::sum_parameters(const square_sweep<T>& told, sight<T> v, const Element& element) {
  const workspace::frame inner(ctx_.scratch());
  const rows<T>& z = told.z;
  const int count = told.parameters;
  const auto blocks = [](index_t n) { return (n + parameter_rows - 1) / parameter_rows; };
  double* partial = take<double>(blocks(panel_shape<T>(ctx_, z, z).rows) * count);
  panels(z, z, factors_of(z, z), true, [&](const panel<T>& p) {
    v.mirrored = p.i0 + p.ni;
    launch("parameters", parameters_kernel<T, Element>, blocks(p.ni), (count + parameters_at_once - 1) / parameters_at_once,
           block_threads, block_warps * sizeof(double), p, v, element, count, partial);
    each(count, fold_parameters_step{partial, blocks(p.ni), count, told.totals + Element::totals});
  });
}

}  // namespace craft::engine
