// What the tests of the CUDA context share: CUDA's objects, contexts, failures that an emulated device is asked for. These tests
// are about what every verb promises on a context. Values and gradients themselves are compared with references by the tests
// that run over `devices`; here one way of calling is compared with another.
//
// The same text is run under emulation and on a GPU. What only an emulated device can tell (how often somebody waited,
// what is still allocated) or do (fail when asked to) is inside CRAFT_EMULATED_CUDA.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "craft/craft.hpp"
#include "devices.hpp"

namespace craft_test {

using craft::engine::cublas_check;
using craft::engine::cuda_check;

// ---------------------------------------------------------------------------------------------------------
// CUDA's objects, for as long as a test needs them

/// Ordered with the default stream, on which `array` copies: so no test waits by hand before it looks at results.
class stream_owner {
 public:
  stream_owner() { cuda_check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  stream_owner(const stream_owner&) = delete;
  stream_owner& operator=(const stream_owner&) = delete;
  ~stream_owner() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class handle_owner {
 public:
  explicit handle_owner(cudaStream_t stream) {
    cublas_check(cublasCreate(&handle_), "cublasCreate");
    cublas_check(cublasSetStream(handle_, stream), "cublasSetStream");
  }
  handle_owner(const handle_owner&) = delete;
  handle_owner& operator=(const handle_owner&) = delete;
  ~handle_owner() { cublasDestroy(handle_); }
  operator cublasHandle_t() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

/// Device memory of exactly so many bytes, so that a sanitizer sees the first one too many.
class buffer {
 public:
  explicit buffer(std::size_t bytes) { cuda_check(cudaMalloc(&memory_, bytes), "cudaMalloc"); }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  ~buffer() { cudaFree(memory_); }
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

// ---------------------------------------------------------------------------------------------------------
// Contexts

/// The two ways through the pairs: tiles of dot products by cuBLAS, small enough that our samples make several; and
/// sweeps by one kernel.
enum class way { tiles, fused };
inline constexpr way ways[] = {way::tiles, way::fused};
inline const char* name_of(way w) { return w == way::tiles ? "tiles" : "fused"; }

constexpr index_t tile_rows = 16, tile_columns = 24;

inline craft::cuda& set_up(craft::cuda& ctx, way w) {
  return ctx.blas_bytes(cuda_backend::little_for_blas).tile(tile_rows, tile_columns).fused(w == way::tiles ? 0 : 128);
}

inline craft::cuda make(way w, cudaStream_t stream = nullptr, cublasHandle_t handle = nullptr) {
  craft::cuda ctx(stream, handle);
  set_up(ctx, w);
  return ctx;
}

#ifdef CRAFT_EMULATED_CUDA
/// The order of threads is put back at the end of a test.
struct order_keeper {
  simt::order before = simt::current_order();
  order_keeper() = default;
  order_keeper(const order_keeper&) = delete;
  order_keeper& operator=(const order_keeper&) = delete;
  ~order_keeper() { simt::set_order(before); }
};
#endif

// ---------------------------------------------------------------------------------------------------------
// Failures

#ifdef CRAFT_EMULATED_CUDA
constexpr cudaError_t injected_code = cudaErrorECCUncorrectable;

/// What happened when the k-th call of the runtime, or of cuBLAS's products and settings, failed.
struct failure {
  bool came = false;    ///< there was a k-th call
  bool thrown = false;  ///< a device_error
  std::string text;
};

template <class Call>
failure with_failure(bool in_cublas, int k, const Call& call) {
  failure f;
  if (in_cublas)
    simt::fail_next_cublas(CUBLAS_STATUS_EXECUTION_FAILED, k);
  else
    simt::fail_next(injected_code, k);
  try {
    call();
  } catch (const craft::device_error& e) {
    f.thrown = true;
    f.text = e.what();
  }
  f.came = !simt::fail_pending();
  simt::fail_next(cudaSuccess, 0);
  simt::fail_next_cublas(0, 0);
  return f;
}
#endif

// ---------------------------------------------------------------------------------------------------------
// Precision

/// What the multiplicands of a product are rounded to, at worst (by truncation): so much relative to each.
inline double unit_of(craft::precision p) {
  return p == craft::precision::tf32 ? 0x1p-10 : p == craft::precision::bfloat16 ? 0x1p-7 : 0x1p-23;
}

}  // namespace craft_test
