// Compiled by nvcc, or by the host's compiler for the emulated device.
#include "gpu_kernels.hpp"

#include <cuda_runtime.h>

#include <cmath>

#include "craft/cuda.hpp"

namespace craft_bench {
namespace {

constexpr unsigned threads = 256;

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), unsigned blocks, cudaStream_t stream, A... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.stream = stream;
  craft::engine::cuda_check(cudaLaunchKernelEx(&config, kernel, P(arguments)...), "bench: launch of ", name);
}

/// splitmix64: bits that look independent for neighbouring numbers.
__device__ inline std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

template <class S>
__global__ void fill_normal_kernel(S* to, std::int64_t count, std::uint64_t seed, float shift) {
  const std::int64_t first = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                     step = std::int64_t(gridDim.x) * blockDim.x;
  for (std::int64_t at = first; at < count; at += step) {
    const std::uint64_t bits = mixed(mixed(seed) + std::uint64_t(at));
    const float u = (float(bits >> 40) + 0.5f) * 0x1p-24f, v = float((bits >> 8) & 0xffffffu) * 0x1p-24f;
    to[at] = S(shift + sqrtf(-2.0f * logf(u)) * cosf(6.2831853f * v));
  }
}

// Of -x, so that a chain stays between 0.5 and 1.
__device__ inline float exponential(float x) {
#ifdef __CUDACC__
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"(-x));
  return x;
#else
  return std::exp2(-x);
#endif
}
__device__ inline double exponential(double x) { return exp(-x); }

constexpr int chains = 8;  // enough independent ones that latency does not count

template <class T>
__global__ void exponentials_kernel(T* out, int rounds) {
  T x[chains];
#pragma unroll
  for (int c = 0; c < chains; ++c) x[c] = T(int(threadIdx.x) + c) / T(512);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int c = 0; c < chains; ++c) x[c] = exponential(x[c]);
  }
  T sum(0);
#pragma unroll
  for (int c = 0; c < chains; ++c) sum += x[c];
  if (sum < T(0)) out[threadIdx.x] = sum;  // never, which the compiler does not know
}

}  // namespace

template <class S>
void fill_normal(S* to, std::int64_t count, std::uint64_t seed, double shift, cudaStream_t stream) {
  if (count == 0) return;
  const std::int64_t blocks = (count + threads - 1) / threads;
  launch("fill_normal", fill_normal_kernel<S>, unsigned(blocks < 4096 ? blocks : 4096), stream, to, count, seed,
         float(shift));
}
template void fill_normal<double>(double*, std::int64_t, std::uint64_t, double, cudaStream_t);
template void fill_normal<float>(float*, std::int64_t, std::uint64_t, double, cudaStream_t);
template void fill_normal<__half>(__half*, std::int64_t, std::uint64_t, double, cudaStream_t);
template void fill_normal<__nv_bfloat16>(__nv_bfloat16*, std::int64_t, std::uint64_t, double, cudaStream_t);

template <class T>
double exponentials(T* out, int processors, int rounds, cudaStream_t stream) {
  const unsigned blocks = 8 * unsigned(processors);
  launch("exponentials", exponentials_kernel<T>, blocks, stream, out, rounds);
  return double(blocks) * threads * chains * rounds;
}
template double exponentials<double>(double*, int, int, cudaStream_t);
template double exponentials<float>(float*, int, int, cudaStream_t);

}  // namespace craft_bench
