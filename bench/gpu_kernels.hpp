// The few kernels that the benchmarks need besides the library's own; gpu_kernels.cpp has their bodies. Plain C++ for
// those who include it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace craft_bench {

/// Normal numbers plus a shift, from a hash of seed and index: the device's own, because the host would need minutes
/// for the largest inputs. S: double, float, __half, __nv_bfloat16.
template <class S>
void fill_normal(S* to, std::int64_t count, std::uint64_t seed, double shift, cudaStream_t stream);

/// Exponentials one after the other in registers, in as many threads as the device holds; returns how many there are.
/// float: what the special function units do, 2^x by itself; double: the library function. `out` is never written.
template <class T>
double exponentials(T* out, int processors, int rounds, cudaStream_t stream);

}  // namespace craft_bench
