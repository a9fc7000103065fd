// Kernels that go wrong, one per run: the program must die of it, with a message that names the place. AddressSanitizer
// reports those of the first kind, the emulation itself those of the second.
//
//   emulated_faults overrun_shared | overrun_device | after_free | read_on_host | write_on_host     (sanitized only)
//   emulated_faults leave_early | missing_lane | product_outside
//   emulated_faults none                                                                            (exits with 0)
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace {

__global__ void overrun_shared(float* out, int n) {
  auto* shared = static_cast<float*>(simt::shared_memory());
  for (int i = int(threadIdx.x); i <= n; i += int(blockDim.x)) shared[i] = 1.0f;  // one too many
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void overrun_device(float* out, int n) {
  __syncthreads();
  for (int i = int(threadIdx.x); i <= n; i += int(blockDim.x)) out[i] = 1.0f;  // one too many
}

__global__ void fill(float* out, int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) out[i] = 1.0f;
}

__global__ void leave_early(int who) {
  if (int(threadIdx.x) == who) return;
  __syncthreads();
}

__global__ void missing_lane(int who, float* out) {
  float value = float(threadIdx.x);
  if (int(threadIdx.x) != who) value += __shfl_xor_sync(~0u, value, 1);
  out[threadIdx.x] = value;
}

}  // namespace

int main(int argc, char** argv) {
  const auto asked = [&](const char* name) { return argc == 2 && std::strcmp(argv[1], name) == 0; };
  constexpr int n = 100;
  float* x = nullptr;
  cudaMalloc(&x, n * sizeof *x);
  cudaLaunchConfig_t launch;
  launch.blockDim = 64;
  launch.dynamicSmemBytes = n * sizeof *x;
  cudaLaunchKernelEx(&launch, &fill, x, n);
  if (asked("overrun_shared")) cudaLaunchKernelEx(&launch, &overrun_shared, x, n);
  if (asked("overrun_device")) cudaLaunchKernelEx(&launch, &overrun_device, x, n);
  if (asked("read_on_host")) std::printf("%g\n", double(x[3]));
  if (asked("write_on_host")) x[3] = 0;
  if (asked("leave_early")) cudaLaunchKernelEx(&launch, &leave_early, 5);
  if (asked("missing_lane")) cudaLaunchKernelEx(&launch, &missing_lane, 5, x);
  if (asked("product_outside")) {
    cublasHandle_t handle = nullptr;
    cublasCreate(&handle);
    const float one = 1, zero = 0;
    cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 10, 1, 10, &one, x, 11, x, 10, &zero, x, 10);
    cublasDestroy(handle);
  }
  cudaFree(x);
  if (asked("after_free")) cudaLaunchKernelEx(&launch, &fill, x, n);
  return 0;
}
