// The nearest row of another sample, and distances by rank, on a GPU.
#pragma once

#include "craft/engine/sweep.cuh"

namespace craft::engine {

/// A warp per row goes through the columns of the panel: the nearest (lowest index on ties), as in the CPU's tile.
template <class T>
struct nearest_step {
  panel<T> p;
  rows<T> x, y;
  near_pairs<T> near;
  T* distance;
  index_t* index;
  __device__ void operator()(index_t i, const warp& lanes) const {
    const int lane = lanes.lane;
    // What earlier panels found is one more candidate, which one lane brings: it alone writes to that place later on.
    T best = lane == 0 ? distance[p.i0 + i] : math::limits<T>::infinity;
    index_t at = lane == 0 ? index[p.i0 + i] : y.n;
    const T a = x.squared[p.i0 + i];
    for (int j = lane; j < p.nj; j += warp_lanes) {
      const T s = p.s[i * p.stride + j], b = y.squared[p.j0 + j];
      const T D = near(s, a, b) ? row_distance(x, p.i0 + i, y, p.j0 + j) : a + (b - (s + s));
      if (!(D < best)) continue;
      best = D;
      at = p.j0 + j;
    }
    for (int o = warp_lanes / 2; o > 0; o /= 2) {
      const T other = __shfl_xor_sync(all_lanes, best, o);
      const index_t other_at = index_t(__shfl_xor_sync(all_lanes, (long long)(at), o));
      if (other < best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
    if (lane != 0) return;
    distance[p.i0 + i] = best;
    index[p.i0 + i] = at;
  }
};
/// Where no distance is a number, any row will do.
struct any_nearest_step {
  index_t n;
  index_t* index;
  __device__ void operator()(index_t i) const {
    if (index[i] >= n) index[i] = 0;
  }
};
template <class T>
void cuda_engine::nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
  const workspace::frame inner(ctx_.scratch());
  each(x.n, fill_step<T>{distance, std::numeric_limits<T>::infinity()});
  each(x.n, fill_step<index_t>{index, y.n});
  panels(x, y, factors_of(x, y), false, [&](const panel<T>& p) {
    each_row(p.ni, p.nj, nearest_step<T>{p, x, y, near_pairs<T>(x.d), distance, index});
  });
  each(x.n, any_nearest_step{y.n, index});
}

// The lowest of some places; an integer minimum does not depend on the order.
using lowest_index = unsigned long long;
constexpr lowest_index nowhere = ~lowest_index(0);

// The bits of a distance are found digit by digit, from the top.
constexpr int rank_digit = 11, rank_bins = 1 << rank_digit;
/// What is known of the number looked for: its bits from `shift` on, and its rank among those that share them.
struct rank_state {
  std::uint64_t prefix;
  unsigned long long rank;
};
/// |x_i - x_j|^2, given x_i . x_j.
template <class T>
__device__ inline T ranked(const rows<T>& x, index_t i, index_t j, T s) {
  return squared_distance(near_pairs<T>(x.d), pair_scalars<T>{s, x.squared[i], x.squared[j]},
                          [&] { return row_distance(x, i, x, j); });
}
/// Counts the next digit of all distances with the known prefix. Whole numbers: their order changes nothing.
template <class T>
__global__ void __launch_bounds__(block_threads) rank_digit_kernel(panel<T> p, rows<T> x, int shift, int width,
                                                                   const rank_state* state, unsigned long long* counts) {
  unsigned* in_block = shared<unsigned>();
  for (int b = int(threadIdx.x); b < rank_bins; b += block_threads) in_block[b] = 0;
  __syncthreads();
  for (index_t at = grid_thread(); at < index_t(p.ni) * p.nj; at += grid_threads()) {
    const cell c = cell_of(at, p.nj);
    const index_t i = p.i0 + c.row, j = p.j0 + c.column;
    if (i >= j) continue;
    const std::uint64_t key = ordered_bits(ranked(x, i, j, p.s[(i - p.i0) * p.stride + (j - p.j0)]));
    if (shift + width < 64 && (key >> (shift + width)) != state->prefix) continue;
    atomicAdd(&in_block[(key >> shift) & ((1u << width) - 1)], 1u);
  }
  __syncthreads();
  for (int b = int(threadIdx.x); b < rank_bins; b += block_threads)
    if (in_block[b] > 0) atomicAdd(&counts[b], (unsigned long long)(in_block[b]));
}
struct rank_digit_step {
  const unsigned long long* counts;
  int width;
  rank_state* state;
  __device__ void operator()(index_t) const {
    unsigned b = 0;
    for (; b + 1 < (1u << width) && state->rank >= counts[b]; ++b) state->rank -= counts[b];
    state->prefix = state->prefix << width | b;
  }
};
/// The first pair in the sample's order that has the distance found.
template <class T>
struct ranked_pair_step {
  panel<T> p;
  rows<T> x;
  const rank_state* state;
  lowest_index* first;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, p.nj);
    const index_t i = p.i0 + c.row, j = p.j0 + c.column;
    if (i >= j) return;
    if (ordered_bits(ranked(x, i, j, p.s[(i - p.i0) * p.stride + (j - p.j0)])) == state->prefix)
      atomicMin(first, lowest_index(i * x.n + j));
  }
};
template <class T>
struct ranked_distance_step {
  const rank_state* state;
  const lowest_index* first;
  index_t n;
  ranked_distance* out;
  __device__ void operator()(index_t) const {
    *out = {double(from_ordered_bits<T>(state->prefix)), index_t(*first) / n, index_t(*first) % n};
  }
};
template <class T>
void cuda_engine::distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out) {
  const workspace::frame inner(ctx_.scratch());
  rank_state* state = take<rank_state>(1);
  auto* counts = take<unsigned long long>(rank_bins);
  lowest_index* first = take<lowest_index>(1);
  const factors<T> f = factors_of(x, x);
  each(1, fill_step<rank_state>{state, {0, (unsigned long long)(rank)}});
  for (int known = int(sizeof(T)) * 8; known > 0;) {
    const int width = (std::min)(rank_digit, known), shift = known - width;
    clear(counts, rank_bins * sizeof *counts);
    panels(x, x, f, true, [&](const panel<T>& p) {
      launch("rank_digit", rank_digit_kernel<T>, std::min<index_t>(blocks_for(index_t(p.ni) * p.nj), 8 * ctx_.processors()), 1,
             block_threads, rank_bins * sizeof(unsigned), p, x, shift, width, state, counts);
    });
    each(1, rank_digit_step{counts, width, state});
    known = shift;
  }
  each(1, fill_step<lowest_index>{first, nowhere});
  panels(x, x, f, true,
         [&](const panel<T>& p) { each(index_t(p.ni) * p.nj, ranked_pair_step<T>{p, x, state, first}); });
  each(1, ranked_distance_step<T>{state, first, x.n, out});
}

}  // namespace craft::engine
