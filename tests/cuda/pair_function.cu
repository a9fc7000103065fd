// What somebody writes who has a pair function of their own and compiles with nvcc: as in docs/add_a_kernel.md, but
// outside the library, used by MMD and by relative representations on the GPU. Compiled, never run.
#include <cuda_runtime.h>

#include <vector>

#include "craft/cuda.cuh"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"

namespace {

/// k = 1 / (1 + D / width)
template <class T = double>
struct cauchy : craft::detail::distance_kernel<cauchy<T>>, craft::detail::no_parameters {
  T width = T(1);

  template <class V>
  CRAFT_HOST_DEVICE craft::detail::radial<V> at(V D) const {
    const V k = V(T(1)) / (V(T(1)) + D / V(width));
    return {k, -(k * k) / V(width)};
  }
  template <class U>
  cauchy<U> as() const {
    cauchy<U> other;
    other.width = U(width);
    return other;
  }
};

template <class T>
void use(const craft::cuda& ctx, const T* x, const T* y, int n, int d, T* value, T* dx, T* out) {
  constexpr auto device = craft::memory::device;
  const craft::matrix_view<const T, device> xv(x, n, d), yv(y, n, d);
  craft::mmd_gradients<T, device> gradients;
  gradients.x = craft::overwrite(craft::matrix_view<T, device>(dx, n, d));
  craft::mmd(ctx, xv, yv, cauchy<>{}, {}, craft::scalar_out<T, device>(value), gradients);
  craft::relative(ctx, xv, yv, cauchy<>{}, {}, craft::matrix_view<T, device>(out, n, n));
}

/// A kernel of theirs may stand beside ours in one file.
__global__ void fill(float* x, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] = float(i % 7);
}

}  // namespace

int main() {
  const int n = 100, d = 8;
  float* memory = nullptr;
  if (cudaMalloc(&memory, std::size_t(n * (3 * d + n) + 1) * sizeof(float)) != cudaSuccess) return 1;
  fill<<<4, 512>>>(memory, 2 * n * d);
  const craft::cuda ctx;
  float* const value = memory + n * (3 * d + n);
  use<float>(ctx, memory, memory + n * d, n, d, value, memory + 2 * n * d, memory + 3 * n * d);
  double* none = nullptr;
  if (n == 0) use<double>(ctx, none, none, n, d, none, none, none);
  float on_host = 0;
  const bool copied = cudaMemcpy(&on_host, value, sizeof on_host, cudaMemcpyDeviceToHost) == cudaSuccess;
  cudaFree(memory);
  return copied && on_host >= 0 ? 0 : 1;
}
