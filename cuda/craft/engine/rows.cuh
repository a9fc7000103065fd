// Steps and folds on a GPU (contract.hpp, sums.hpp): a thread for an item, a warp for a row, a thread for a column.
#pragma once

#include "craft/engine/contract.hpp"
#include "craft/engine/rounding.cuh"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Steps

/// step(i) for every i in [0, count).
template <class Step>
__global__ void each_kernel(index_t count, Step step) {
  for (index_t i = grid_thread(); i < count; i += grid_threads()) step(i);
}
/// step(i, lanes) for every row i in [0, n), by a warp each.
template <class Step>
__global__ void __launch_bounds__(block_threads, 1) row_kernel(index_t n, Step step) {
  const warp lanes{int(threadIdx.x) % warp_lanes};
  const index_t warps = grid_threads() / warp_lanes;
  for (index_t i = grid_thread() / warp_lanes; i < n; i += warps) step(i, lanes);
}

template <class Step>
void cuda_engine::each(index_t count, const Step& step) const {
  const int threads = count < block_threads ? int((count + warp_lanes - 1) / warp_lanes * warp_lanes) : block_threads;
  launch("each", each_kernel<Step>, blocks_for(count), 1, threads, 0, count, step);
}
template <class Step>
void cuda_engine::each_row(index_t n, index_t, const Step& step) const {
  launch("each_row", row_kernel<Step>, blocks_for(n, block_warps), 1, block_threads, 0, n, step);
}

/// A group's step: a warp looks for its rows among all.
template <class Step>
struct group_step {
  const index_t* index;
  index_t n;
  Step step;
  __device__ void operator()(index_t c, const warp& lanes) const { step(c, lanes, members_by_search<warp>{index, n, c, lanes}); }
};
template <class Step>
void cuda_engine::each_group(const index_t* index, index_t n, index_t k, index_t d, const Step& step) {
  each_row(k, d, group_step<Step>{index, n, step});
}

// ---------------------------------------------------------------------------------------------------------
// Folds over items and rows. A block takes a piece, which does not depend on the device, and leaves what it found; one block
// joins what all have left, in their order. The only piece is the whole result.

/// Threads' states joined in the order of the threads, in thread 0; shared memory: one for each.
template <class Fold>
__device__ inline typename Fold::state join_block(const Fold& fold, const typename Fold::state& mine) {
  auto* states = shared<typename Fold::state>();
  const int thread = int(threadIdx.x);
  states[thread] = mine;
  for (int o = 1; o < block_threads; o *= 2) {
    __syncthreads();
    if (thread % (2 * o) == 0) fold.join(states[thread], states[thread + o]);
  }
  return states[thread];
}
template <class Fold>
__device__ inline void leave(const Fold& fold, const typename Fold::state& found, typename Fold::state* partial) {
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1)
    fold.finish(found);
  else
    partial[blockIdx.x] = found;
}

constexpr index_t fold_piece = 16 * block_threads, fold_row_piece = 8 * block_warps;
template <class Fold>
__global__ void __launch_bounds__(block_threads) fold_kernel(index_t n, Fold fold, typename Fold::state* partial) {
  const index_t begin = index_t(blockIdx.x) * fold_piece, end = begin + fold_piece < n ? begin + fold_piece : n;
  typename Fold::state s = fold.start();
  for (index_t i = begin + index_t(threadIdx.x); i < end; i += block_threads) fold.add(s, i);
  leave(fold, join_block(fold, s), partial);
}
template <class Fold>
__global__ void __launch_bounds__(block_threads) fold_rows_kernel(index_t n, Fold fold, typename Fold::state* partial) {
  const warp lanes{int(threadIdx.x) % warp_lanes};
  const index_t each = fold_row_piece / block_warps;
  const index_t from = index_t(blockIdx.x) * fold_row_piece + index_t(threadIdx.x) / warp_lanes * each;
  typename Fold::state s = fold.start();
  for (index_t i = from; i < from + each && i < n; ++i) fold.add(s, i, lanes);
  if (!lanes.first()) s = fold.start();
  leave(fold, join_block(fold, s), partial);
}
template <class Fold>
__global__ void __launch_bounds__(block_threads) join_kernel(index_t count, Fold fold, const typename Fold::state* partial) {
  const index_t each = (count + block_threads - 1) / block_threads, from = index_t(threadIdx.x) * each;
  typename Fold::state s = fold.start();
  for (index_t b = from; b < from + each && b < count; ++b) fold.join(s, partial[b]);
  const typename Fold::state all = join_block(fold, s);
  if (threadIdx.x == 0) fold.finish(all);
}

template <class Kernel, class Fold>
void cuda_engine::fold_pieces(const char* name, Kernel kernel, index_t n, index_t piece, const Fold& f) {
  using state = typename Fold::state;
  const workspace::frame inner(ctx_.scratch());
  const index_t pieces = std::max<index_t>(1, (n + piece - 1) / piece);
  state* partial = pieces == 1 ? nullptr : take<state>(pieces);
  const std::size_t bytes = block_threads * sizeof(state);
  launch(name, kernel, pieces, 1, block_threads, bytes, n, f, partial);
  if (pieces > 1) launch("join", join_kernel<Fold>, 1, 1, block_threads, bytes, pieces, f, partial);
}
template <class Fold>
void cuda_engine::fold(index_t n, const Fold& f) {
  fold_pieces("fold", fold_kernel<Fold>, n, fold_piece, f);
}
template <class Fold>
void cuda_engine::fold_rows(index_t n, index_t, const Fold& f) {
  fold_pieces("fold_rows", fold_rows_kernel<Fold>, n, fold_row_piece, f);
}

// ---------------------------------------------------------------------------------------------------------
// Folds over the rows of every column: a thread for each, which goes through a piece of the rows.

template <class Fold>
__global__ void column_kernel(index_t n, index_t d, index_t rows_per_piece, Fold fold, typename Fold::state* partial) {
  const index_t k = grid_thread(), begin = index_t(blockIdx.y) * rows_per_piece;
  const index_t end = begin + rows_per_piece < n ? begin + rows_per_piece : n;
  if (k >= d) return;
  typename Fold::state s = fold.start();
  for (index_t i = begin; i < end; ++i) fold.add(s, i, k);
  if (gridDim.y == 1)
    fold.finish(k, s);
  else
    partial[index_t(blockIdx.y) * d + k] = s;
}
template <class Fold>
struct join_columns_step {
  Fold fold;
  const typename Fold::state* partial;
  index_t pieces, d;
  __device__ void operator()(index_t k) const {
    typename Fold::state s = fold.start();
    for (index_t p = 0; p < pieces; ++p) fold.join(s, partial[p * d + k]);
    fold.finish(k, s);
  }
};
template <class Fold>
void cuda_engine::fold_columns(index_t n, index_t d, const Fold& f) {
  using state = typename Fold::state;
  const workspace::frame inner(ctx_.scratch());
  const index_t per_piece = std::max<index_t>(64, (n + 255) / 256),
                pieces = std::max<index_t>(1, (n + per_piece - 1) / per_piece);
  state* partial = pieces == 1 ? nullptr : take<state>(pieces * d);
  launch("fold_columns", column_kernel<Fold>, blocks_for(d, 64), pieces, 64, 0, n, d, per_piece, f, partial);
  if (pieces > 1) each(d, join_columns_step<Fold>{f, partial, pieces, d});
}

// ---------------------------------------------------------------------------------------------------------
// Rows as products take them

/// x = what a product keeps of it
struct round_step {
  float* x;
  float split;
  __device__ void operator()(index_t at) const { x[at] = rounded(x[at], split); }
};
/// to = the bits of x in bfloat16
struct narrow_step {
  const float* x;
  float split;
  std::uint16_t* to;
  __device__ void operator()(index_t at) const { to[at] = bfloat16_bits(rounded(x[at], split)); }
};
template <class T>
void cuda_engine::square_norms(const rows<T>& x) const {
  if constexpr (sizeof(T) == 4)
    if (split() > 1) each(x.n * x.d, round_step{x.data, split()});
  each_row(x.n, x.d, square_norms_step<T>{x});
}

}  // namespace craft::engine
