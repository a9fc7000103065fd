// What every kernel stands on: the launch, shared memory, the lanes of a warp, and sums within a warp and a block. Where nvcc
// does not compile, tests/emulated has the answer.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <limits>

#include "craft/engine/cuda_engine.hpp"
#include "craft/engine/lanes.hpp"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "craft needs a device of compute capability 8.0 or higher: compile for sm_80 or a later architecture"
#endif

namespace craft::engine {

/// Threads of most blocks; a warp is 32 everywhere.
constexpr int block_threads = 256, warp_lanes = 32, block_warps = block_threads / warp_lanes;
constexpr unsigned all_lanes = 0xffffffffu;

/// The dynamic shared memory of the block.
template <class T>
__device__ inline T* shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char craft_shared_bytes[];
  return reinterpret_cast<T*>(craft_shared_bytes);
#else
  return static_cast<T*>(simt::shared_memory());
#endif
}

/// Index of this thread in the whole grid, and number of threads in it.
__device__ inline index_t grid_thread() { return index_t(blockIdx.x) * index_t(blockDim.x) + index_t(threadIdx.x); }
__device__ inline index_t grid_threads() { return index_t(gridDim.x) * index_t(blockDim.x); }

/// Where element `at` of a matrix with d columns stands. Dividing 64-bit numbers is slow on a GPU, and seldom needed.
struct cell {
  index_t row, column;
};
__device__ inline cell cell_of(index_t at, index_t d) {
  if (at < (index_t(1) << 32) && d < (index_t(1) << 32)) {
    const unsigned row = unsigned(at) / unsigned(d);
    return {index_t(row), index_t(unsigned(at) - row * unsigned(d))};
  }
  return {at / d, at % d};
}

/// Sum over the lanes of a warp, the same bits in every lane.
template <class V>
__device__ inline V warp_sum(V x) {
  for (int o = warp_lanes / 2; o > 0; o /= 2) x = x + __shfl_xor_sync(all_lanes, x, o);
  return x;
}
template <class V>
__device__ inline V warp_max(V x) {
  for (int o = warp_lanes / 2; o > 0; o /= 2) x = (math::max)(x, __shfl_xor_sync(all_lanes, x, o));
  return x;
}

/// The lanes of a warp, as steps see them (lanes.hpp).
struct warp {
  int lane;
  template <class T, class F>
  __device__ void each(index_t n, const F& f) const {
    for (index_t k = lane; k < n; k += warp_lanes) f(place<T>{k});
  }
  template <class T, class F>
  __device__ T sum(index_t n, const F& f) const {
    T s(0);
    for (index_t k = lane; k < n; k += warp_lanes) s += f(place<T>{k});
    return warp_sum(s);
  }
  template <class T, class F>
  __device__ T (max)(index_t n, const F& f) const {
    T most(0);
    for (index_t k = lane; k < n; k += warp_lanes) most = (math::max)(most, f(place<T>{k}));
    return warp_max(most);
  }
  template <class F>
  __device__ index_t count(index_t n, const F& holds) const {
    unsigned long long many = 0;
    for (index_t k = lane; k < n; k += warp_lanes) many += holds(k) ? 1 : 0;
    return index_t(warp_sum(many));
  }
  template <class F>
  __device__ index_t lowest(index_t n, const F& holds) const {
    long long at = lane;
    while (at < n && !holds(index_t(at))) at += warp_lanes;
    if (at > n) at = n;
    for (int o = warp_lanes / 2; o > 0; o /= 2) {
      const long long other = __shfl_xor_sync(all_lanes, at, o);
      if (other < at) at = other;
    }
    return index_t(at);
  }
  template <class H, class F>
  __device__ void each_where(index_t n, const H& holds, const F& f) const {
    for (index_t from = 0; from < n; from += warp_lanes) {
      const index_t mine = from + lane;
      unsigned where = mine < n && holds(mine) ? 1u << lane : 0u;
      for (int o = warp_lanes / 2; o > 0; o /= 2) where |= __shfl_xor_sync(all_lanes, where, o);
      for (int k = 0; k < warp_lanes; ++k)
        if ((where >> k & 1u) != 0) f(from + k);
    }
  }
  __device__ bool first() const { return lane == 0; }
};

/// Sum over a block of block_threads, valid in thread 0; `scratch`: block_warps numbers of shared memory, free afterwards.
template <class V>
__device__ inline V block_sum(V x, V* scratch) {
  const int thread = int(threadIdx.x);
  x = warp_sum(x);
  __syncthreads();
  if (thread % warp_lanes == 0) scratch[thread / warp_lanes] = x;
  __syncthreads();
  V total(0);
  if (thread == 0)
    for (int w = 0; w < block_warps; ++w) total = total + scratch[w];
  __syncthreads();
  return total;
}

template <class... P, class... A>
void cuda_engine::launch(const char* name, void (*kernel)(P...), index_t blocks, index_t blocks_down, int threads,
                         std::size_t shared_bytes, A&&... arguments) const {
  if (blocks == 0 || blocks_down == 0 || rehearses()) return;
  require<device_error>(blocks < (index_t(1) << 31) && blocks_down < 65536, "cuda: ", name, " would need ", blocks, " x ",
                        blocks_down, " blocks");
  if (shared_bytes > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    int(shared_bytes)),
               "cudaFuncSetAttribute(", name, ", ", shared_bytes, " bytes of shared memory)");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks), unsigned(blocks_down));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = ctx_.stream();
  cuda_check(cudaLaunchKernelEx(&config, kernel, P(arguments)...), "cuda: launch of ", name, " with ", blocks, " x ",
             blocks_down, " blocks of ", threads, " threads and ", shared_bytes, " bytes of shared memory");
}

/// Blocks for `count` independent items, with each thread taking several when there are many.
inline index_t blocks_for(index_t count, index_t per_block = block_threads) {
  return std::min<index_t>((count + per_block - 1) / per_block, 65535);
}

}  // namespace craft::engine
