// craft on a GPU for callers who have device pointers and a stream: what gpu_peers.py loads.
//
// Every function returns 0, or 1 with the reason in craft_calls_cuda_error(): exceptions must not leave a C interface.
#include <cuda_bf16.h>

#include <craft/craft.hpp>
#include <craft/cuda.cuh>

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

namespace {

constexpr craft::memory device = craft::memory::device;

std::string error;

template <class Call>
int guarded(const Call& call) {
  try {
    call();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

/// Calls work(zero) with a zero of the type that inputs and their gradients are stored as: 0 float, 1 bfloat16.
template <class Work>
void stored_as(int storage, const Work& work) {
  if (storage == 0)
    work(0.0f);
  else
    work(__nv_bfloat16(0.0f));
}

template <class S>
craft::matrix_view<const S, device> in(const void* data, std::int64_t rows, std::int64_t cols) {
  return {static_cast<const S*>(data), rows, cols};
}
template <class S>
craft::output<S, device> out(void* data, std::int64_t rows, std::int64_t cols) {
  return craft::overwrite(craft::matrix_view<S, device>(static_cast<S*>(data), rows, cols));
}

}  // namespace

extern "C" {

const char* craft_calls_cuda_error() { return error.c_str(); }

/// One context for each precision (0 strict, 1 tf32, 2 bfloat16); null if it cannot be made. All calls go to this
/// stream.
craft::cuda* craft_calls_cuda_open(void* stream, int precision) {
  craft::cuda* ctx = nullptr;
  guarded([&] {
    ctx = new craft::cuda(static_cast<cudaStream_t>(stream));
    ctx->precision(static_cast<craft::precision>(precision));
  });
  return ctx;
}
void craft_calls_cuda_close(craft::cuda* ctx) { delete ctx; }

/// Scratch memory that the context holds.
std::int64_t craft_calls_cuda_bytes(craft::cuda* ctx) { return std::int64_t(ctx->scratch().bytes_held()); }

/// Biased MMD^2 times `factor` of x (n x d) against y (m x d) by a sum of `count` Gaussians, with both gradients.
/// sigmas lie on the host, everything else in device memory.
int craft_calls_cuda_mmd(craft::cuda* ctx, int storage, const void* x, std::int64_t n, const void* y, std::int64_t m,
                         std::int64_t d, const double* sigmas, std::int64_t count, double factor, float* value,
                         void* dx, void* dy) {
  return guarded([&] {
    stored_as(storage, [&](auto zero) {
      using S = decltype(zero);
      craft::mmd_options options;
      options.factor = factor;
      craft::mmd_gradients<S, device> gradients;
      gradients.x = out<S>(dx, n, d);
      gradients.y = out<S>(dy, m, d);
      const craft::gaussians<> kernel(std::vector<double>(sigmas, sigmas + count));
      craft::mmd(*ctx, in<S>(x, n, d), in<S>(y, m, d), kernel, options, craft::scalar_out<float, device>(value),
                 gradients);
    });
  });
}

/// Symmetric InfoNCE of x and y (n x d), with gradients to both and to the logarithm of the scale.
int craft_calls_cuda_info_nce(craft::cuda* ctx, int storage, const void* x, const void* y, std::int64_t n,
                              std::int64_t d, double log_scale, float* value, void* dx, void* dy, float* dlog_scale) {
  return guarded([&] {
    stored_as(storage, [&](auto zero) {
      using S = decltype(zero);
      craft::contrastive_options options;
      options.log_scale = log_scale;
      craft::alignment_gradients<S, device> gradients;
      gradients.x = out<S>(dx, n, d);
      gradients.y = out<S>(dy, n, d);
      gradients.log_scale = out<float>(dlog_scale, 1, 1);
      craft::info_nce(*ctx, in<S>(x, n, d), in<S>(y, n, d), options, craft::scalar_out<float, device>(value),
                      gradients);
    });
  });
}

}  // extern "C"
