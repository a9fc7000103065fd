// Log-sum-exp of rows and of columns on a GPU: of every panel, block by block, then of all.
#pragma once

#include "craft/engine/sweep.cuh"

namespace craft::engine {

/// Parts of rows for each block beside, and of columns for each block below, as panel_sums has them.
template <class T>
struct lse_parts {
  softmax_part<T>*rows, *columns;
};
constexpr int lse_rows_per_warp = 4, lse_rows = lse_rows_per_warp * block_warps;
template <class T>
constexpr std::size_t lse_shared_bytes = std::size_t(block_warps) * columns_per_block * sizeof(softmax_part<T>);

/// A warp has lse_rows_per_warp rows, a lane two times four columns of each, as in panel_kernel. Both: also of columns; Soft:
/// soft targets.
template <class T, bool Both, bool Soft>
__global__ void __launch_bounds__(block_threads, blocks_at_once<T>)
    log_sum_exp_kernel(panel<T> p, softmax<T> by_row, softmax<T> by_col, lse_parts<T> parts) {
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const int left = int(blockIdx.x) * columns_per_block, top = int(blockIdx.y) * lse_rows + warp * lse_rows_per_warp;
  const auto column = [&](int q) { return left + (q * warp_lanes + lane) * 4; };
  const auto none = softmax_part<T>::none(T());
  quad<T> z[lse_rows_per_warp][quads_per_lane], id[quads_per_lane];
#pragma unroll
  for (int q = 0; q < quads_per_lane; ++q) {
    id[q] = T(0);
    if (!Soft && column(q) < p.nj) id[q] = quad_from(by_row.other_id + p.j0 + column(q), p.nj - column(q));
#pragma unroll
    for (int r = 0; r < lse_rows_per_warp; ++r)
      z[r][q] = quad_at(p.s + (top + r) * p.stride + column(q), top + r < p.ni ? p.nj - column(q) : 0, none.highest);
  }
#pragma unroll
  for (int r = 0; r < lse_rows_per_warp; ++r) {
    if (top + r >= p.ni) break;  // the whole warp
    const index_t i = p.i0 + top + r;
    const T mine = Soft ? T(0) : by_row.id[i], hit = Soft ? T(0) : by_row.hit[i];
    softmax_part<T> part = none;
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q) part.highest = (math::max)(part.highest, largest(z[r][q]));
    part.highest = warp_max(part.highest);
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (column(q) + c >= p.nj) continue;
        if constexpr (Soft)
          part.add(z[r][q].v[c], soft_target(by_row, by_row.soft[i * by_row.soft_stride + p.j0 + column(q) + c]));
        else
          part.add(z[r][q].v[c], hard_target(by_row, mine, hit, id[q].v[c]));
      }
    part.sum = warp_sum(part.sum);
    part.target = warp_sum(part.target);
    if (lane == 0) parts.rows[index_t(blockIdx.x) * p.ni + top + r] = part;
  }
  if constexpr (!Both) return;
  softmax_part<T>* in_block = shared<softmax_part<T>>();
#pragma unroll
  for (int q = 0; q < quads_per_lane; ++q) {
    quad<T> hit(T(0));
    if (column(q) < p.nj) hit = quad_from(by_col.hit + p.j0 + column(q), p.nj - column(q));
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      softmax_part<T> part = none;
#pragma unroll
      for (int r = 0; r < lse_rows_per_warp; ++r) part.highest = (math::max)(part.highest, z[r][q].v[c]);
#pragma unroll
      for (int r = 0; r < lse_rows_per_warp; ++r)
        if (top + r < p.ni && column(q) + c < p.nj)
          part.add(z[r][q].v[c], hard_target(by_col, id[q].v[c], hit.v[c], by_col.other_id[p.i0 + top + r]));
      in_block[warp * columns_per_block + (q * warp_lanes + lane) * 4 + c] = part;
    }
  }
  __syncthreads();
  for (int j = int(threadIdx.x); j < columns_per_block && left + j < p.nj; j += block_threads) {
    softmax_part<T> part = in_block[j];
    for (int w = 1; w < block_warps; ++w) part.join(in_block[w * columns_per_block + j]);
    parts.columns[index_t(blockIdx.y) * p.nj + left + j] = part;
  }
}

/// Joins the parts of a panel to the running state, in their order: begins it with the first panel, and with the last one
/// the running maximum becomes the log-sum-exp.
template <class T>
struct join_step {
  const softmax_part<T>* parts;
  index_t blocks, n;
  softmax<T> s;
  index_t begin;
  bool first, last;
  __device__ void operator()(index_t i) const {
    const index_t at = begin + i;
    softmax_part<T> all = softmax_part<T>::none(T());
    if (!first) all = {s.lse[at], s.sum[at], s.target_dot[at]};
    for (index_t b = 0; b < blocks; ++b) all.join(parts[b * n + i]);
    s.lse[at] = last ? all.highest + math::log(all.sum) : all.highest;
    s.sum[at] = all.sum;
    s.target_dot[at] = all.target;
  }
};

template <class T>
T* cuda_engine::log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                            bool by_column, bool again) {
  // Up to four panels' worth the products are kept, as on the CPU: that saves a quarter of the work.
  const auto blocks = [](index_t n, index_t per_block) { return (n + per_block - 1) / per_block; };
  const panel_shape<T> most(ctx_, x, y);
  const index_t numbers = blocks(x.n, most.rows) * blocks(y.n, most.columns) * most.numbers();
  constexpr index_t few = index_t(1) << 22;  // 16 MB of float, which stay in the second-level cache
  T* kept = again && numbers <= few ? take<T>(numbers) : nullptr;
  const workspace::frame inner(ctx_.scratch());
  lse_parts<T> parts{take<softmax_part<T>>(blocks(most.columns, columns_per_block) * most.rows), nullptr};
  if (by_column) parts.columns = take<softmax_part<T>>(blocks(most.rows, lse_rows) * most.columns);
  const auto kernel = by_column         ? log_sum_exp_kernel<T, true, false>
                      : by_row.soft != nullptr ? log_sum_exp_kernel<T, false, true>
                                               : log_sum_exp_kernel<T, false, false>;
  const auto visit = [&](const panel<T>& p) {
    const index_t beside = blocks(p.nj, columns_per_block), below = blocks(p.ni, lse_rows);
    launch("log_sum_exp", kernel, beside, below, block_threads, by_column ? lse_shared_bytes<T> : 0, p, by_row, by_col, parts);
    each(p.ni, join_step<T>{parts.rows, beside, p.ni, by_row, p.i0, p.j0 == 0, p.j0 + p.nj == y.n});
    if (by_column) each(p.nj, join_step<T>{parts.columns, below, p.nj, by_col, p.j0, p.i0 == 0, p.i0 + p.ni == x.n});
  };
  panels(x, y, factors_of(x, y), false, visit, kept, false);
  return kept;
}

}  // namespace craft::engine
