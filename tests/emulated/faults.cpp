// Kernels that go wrong, one per run: the program must die of it, with a message that names the place. AddressSanitizer
// reports those of the first kind, the emulation itself those of the second, ThreadSanitizer (races.hpp) those of the third.
//
//   emulated_faults overrun_shared | overrun_device | after_free | read_on_host | write_on_host     (asan only)
//   emulated_faults leave_early | missing_lane | product_outside
//   emulated_faults no_barrier | one_sum | no_shuffle | no_event | no_wait | freed_early            (tsan only)
//   emulated_faults none                                                                            (exits with 0)
//
// Whatever the fault, what is the same without it runs first, and must not be reported.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

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

// Races, each of them beside the same without a fault (`right`).

__global__ void no_barrier_kernel(float* out, bool right) {
  auto* shared = static_cast<float*>(simt::shared_memory());
  const unsigned thread = threadIdx.x, other = (thread + 1) % blockDim.x;
  shared[thread] = 1.0f;
  if (right) __syncthreads();
  out[blockIdx.x * blockDim.x + thread] = shared[other];
}

__global__ void one_sum_kernel(float* out, unsigned* count, bool right) {
  if (threadIdx.x != 0) return;
  atomicAdd(count, 1u);
  out[right ? blockIdx.x : 0] += 1.0f;
}

/// Reads a neighbour's number from memory. A shuffle in between makes lanes wait, but orders no memory.
__global__ void no_shuffle_kernel(float* out, bool right) {
  auto* shared = static_cast<float*>(simt::shared_memory());
  const unsigned thread = threadIdx.x;
  shared[thread] = 1.0f;
  const float mine = __shfl_xor_sync(~0u, float(thread), 1);
  if (right) __syncwarp();
  out[blockIdx.x * blockDim.x + thread] = mine + shared[thread ^ 1];
}

__global__ void no_event_kernel(float* out) { out[threadIdx.x] += 1.0f; }

float no_wait_for(const float* page_locked) { return page_locked[1]; }

/// `x`: as many numbers as two blocks have threads, `n` of them.
void race(const std::string& mode, float* x, unsigned n, bool right) {
  cudaLaunchConfig_t launch;
  launch.gridDim = 2;
  launch.blockDim = n / 2;
  launch.dynamicSmemBytes = n / 2 * sizeof *x;
  unsigned* count = nullptr;
  cudaMalloc(&count, sizeof *count);
  cudaMemset(count, 0, sizeof *count);
  if (mode == "no_barrier") cudaLaunchKernelEx(&launch, &no_barrier_kernel, x, right);
  if (mode == "one_sum") cudaLaunchKernelEx(&launch, &one_sum_kernel, x, count, right);
  if (mode == "no_shuffle") cudaLaunchKernelEx(&launch, &no_shuffle_kernel, x, right);
  cudaFree(count);

  launch.gridDim = 1;
  cudaStream_t other = nullptr;
  cudaEvent_t done = nullptr;
  cudaStreamCreateWithFlags(&launch.stream, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
  cudaEventCreate(&done);
  float *page_locked = nullptr, *scratch = nullptr;
  cudaMallocHost(&page_locked, n * sizeof *x);
  cudaMallocAsync(&scratch, n * sizeof *x, launch.stream);
  cudaLaunchKernelEx(&launch, &no_event_kernel, mode == "freed_early" ? scratch : x);
  cudaMemcpyAsync(page_locked, x, n * sizeof *x, cudaMemcpyDeviceToHost, launch.stream);
  cudaEventRecord(done, launch.stream);
  if (mode == "no_wait") {
    if (right) cudaStreamSynchronize(launch.stream);
    std::printf("%g\n", double(no_wait_for(page_locked)));
  }
  if (right) cudaStreamWaitEvent(other, done);
  if (mode == "freed_early") cudaFreeAsync(std::exchange(scratch, nullptr), other);
  if (mode == "no_event") {
    std::swap(launch.stream, other);
    cudaLaunchKernelEx(&launch, &no_event_kernel, x);
  }
  cudaDeviceSynchronize();
  cudaFree(scratch);
  cudaFreeHost(page_locked);
  cudaEventDestroy(done);
  cudaStreamDestroy(other);
  cudaStreamDestroy(launch.stream);
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
  for (const bool right : {true, false}) {
    for (const char* mode : {"no_barrier", "one_sum", "no_shuffle", "no_event", "no_wait", "freed_early"})
      if (right || asked(mode)) race(mode, x, 64, right);
  }
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
