// The emulated device: that it computes what a device would, and above all that it catches what it is there to catch.
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

namespace {

// What kernels and launches below are made of.

template <class T>
T* shared() {
  return static_cast<T*>(simt::shared_memory());
}

cudaLaunchConfig_t shape(dim3 grid, dim3 block, std::size_t shared_bytes = 0, cudaStream_t stream = nullptr) {
  cudaLaunchConfig_t config;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

/// Launches and takes the arguments as the kernel has them.
template <class... P, class... A>
cudaError_t run(const cudaLaunchConfig_t& config, void (*kernel)(P...), A... arguments) {
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

/// Device memory with these numbers.
template <class T>
class buffer {
 public:
  explicit buffer(std::size_t n) : n_(n) { REQUIRE(cudaMalloc(&data_, n * sizeof(T)) == cudaSuccess); }
  explicit buffer(const std::vector<T>& from) : buffer(from.size()) { put(from); }
  ~buffer() { cudaFree(data_); }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  operator T*() const { return data_; }
  void put(const std::vector<T>& from) const {
    REQUIRE(cudaMemcpy(data_, from.data(), n_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> to(n_);
    REQUIRE(cudaMemcpy(to.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return to;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_;
};

/// Chooses an order and puts back the one that was.
struct order_scope {
  simt::order before = simt::current_order();
  explicit order_scope(simt::order chosen, std::uint64_t seed = 1) { simt::set_order(chosen, seed); }
  ~order_scope() { simt::set_order(before); }
};
const simt::order orders[] = {simt::order::forward, simt::order::reverse, simt::order::shuffled};

/// Records faults instead of ending the program.
struct fault_scope {
  std::vector<std::string> texts;
  fault_scope() {
    simt::on_fault = [this](const std::string& text) { texts.push_back(text); };
  }
  ~fault_scope() { simt::on_fault = nullptr; }
};

std::vector<float> random_numbers(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<float> numbers(n);
  for (float& x : numbers) x = float(int(generator() % 2001)) / 1000.0f - 1.0f;
  return numbers;
}

// Kernels.

__global__ void sum_of_blocks(const int* x, int n, int* out, int barriers) {
  int* partial = shared<int>();
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  int sum = 0;
  for (int i = int(blockIdx.x) * threads + thread; i < n; i += threads * int(gridDim.x)) sum += x[i];
  partial[thread] = sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    if (barriers) __syncthreads();
    if (thread < half) partial[thread] += partial[thread + half];
  }
  if (thread == 0) out[blockIdx.x] = partial[0];
}

__global__ void right_neighbour(int* out, int barrier) {
  int* numbers = shared<int>();
  const int thread = int(threadIdx.x);
  numbers[thread] = thread;
  if (barrier) __syncthreads();
  out[thread] = numbers[(thread + 1) % int(blockDim.x)];
}

__global__ void indices(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  __syncthreads();
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      thread + 1000 * (blockIdx.x + 10 * (blockIdx.y + 10 * blockIdx.z));
}

template <class T>
__global__ void shuffles(T* out) {
  const unsigned lane = threadIdx.x % 32;
  const T mine = T(threadIdx.x) + T(1) / T(2);
  T* o = out + 6 * threadIdx.x;
  o[0] = __shfl_sync(~0u, mine, 3);
  o[1] = __shfl_xor_sync(~0u, mine, 5);
  o[2] = __shfl_up_sync(~0u, mine, 2);
  o[3] = __shfl_down_sync(~0u, mine, 2);
  o[4] = __shfl_sync(~0u, mine, int(lane) + 1, 8);
  o[5] = __shfl_down_sync(~0u, mine, 3, 4);
}

__global__ void votes(unsigned* out) {
  const int odd = int(threadIdx.x % 2);
  unsigned* o = out + 4 * threadIdx.x;
  o[0] = __ballot_sync(~0u, odd);
  o[1] = unsigned(__any_sync(~0u, threadIdx.x == 33));
  o[2] = unsigned(__all_sync(~0u, threadIdx.x < 32));
  // Two halves, each for itself and a different number of times.
  const unsigned half = odd ? 0xaaaaaaaau : 0x55555555u;
  unsigned sum = 0;
  for (int round = 0; round < 2 + odd; ++round) sum += __shfl_sync(half, threadIdx.x, odd);
  o[3] = sum;
}

__global__ void gather(double* out) {
  const double mine[2] = {double(threadIdx.x), -double(threadIdx.x)};
  const double* all = simt::warp_gather(mine, 2);
  double sum = 0;
  for (int l = 0; l < 32; ++l) sum += (l + 1) * all[2 * l] + all[2 * l + 1];
  const double* again = simt::warp_gather(&sum, 1);
  out[threadIdx.x] = again[(threadIdx.x + 1) % 32];
}

__global__ void count(unsigned* counter, unsigned long long* largest, int* smallest, unsigned* lock) {
  atomicAdd(counter, 2);
  atomicMax(largest, threadIdx.x);
  atomicMin(smallest, -int(threadIdx.x));
  if (atomicCAS(lock, 0, threadIdx.x + 1) == 0) atomicAdd(counter, 1000);
}

__global__ void leave_early(int who) {
  if (int(threadIdx.x) == who) return;
  __syncthreads();
}
__global__ void shuffle_without(int who, float* out) {
  float value = float(threadIdx.x);
  if (int(threadIdx.x) != who) value += __shfl_xor_sync(~0u, value, 1);
  __syncthreads();
  out[threadIdx.x] = value;
}
__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_and_warp() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}
__global__ void two_kinds(unsigned* out) {
  out[threadIdx.x] = threadIdx.x % 2 == 0 ? __ballot_sync(~0u, 1) : unsigned(__any_sync(~0u, 1));
}
__global__ void not_in_mask() { __syncwarp(0xfffffffeu); }

__global__ void see_shared(unsigned* out, int words) {
  auto* memory = shared<unsigned>();
  if (threadIdx.x == 0) {
    unsigned all = ~0u;
    for (int i = 0; i < words; ++i) all &= memory[i];
    out[blockIdx.x] = all;
    for (int i = 0; i < words; ++i) memory[i] = 0;
  }
}

__global__ void add_one(float* x, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += 1.0f;
}
__global__ void nothing() {}

struct big_argument {
  float numbers[300];
};
__global__ void take(big_argument all, float* out) { *out = all.numbers[299]; }

__device__ __forceinline__ float4 twice(float4 v) { return make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w); }
__global__ void __launch_bounds__(128) vectors(const float4* __restrict__ in, float4* __restrict__ out) {
  out[threadIdx.x] = twice(__ldg(in + threadIdx.x));
}

}  // namespace

TEST_CASE("a block's sum is right in every order, and not without its barriers", "[simt]") {
  std::vector<int> numbers(10000);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = int(i * 7 % 101);
  int expected = 0;
  for (int x : numbers) expected += x;
  const buffer<int> x(numbers), out(5);
  int wrong = 0;
  for (const simt::order order : orders) {
    const order_scope scope(order);
    for (const int barriers : {1, 0}) {
      REQUIRE(run(shape(5, 256, 256 * sizeof(int)), &sum_of_blocks, (const int*)x, 10000, (int*)out, barriers) ==
              cudaSuccess);
      int sum = 0;
      for (int part : out.get()) sum += part;
      if (barriers) CHECK(sum == expected);
      if (!barriers) wrong += sum != expected;
    }
  }
  CHECK(wrong > 0);
}

TEST_CASE("a missing barrier that one order hides shows in the others", "[simt]") {
  const buffer<int> out(64);
  const auto all_right = [&](simt::order order, int barrier) {
    const order_scope scope(order);
    REQUIRE(run(shape(1, 64, 64 * sizeof(int)), &right_neighbour, (int*)out, barrier) == cudaSuccess);
    const std::vector<int> got = out.get();
    int right = 0;
    for (int i = 0; i < 64; ++i) right += got[std::size_t(i)] == (i + 1) % 64;
    return right;
  };
  for (const simt::order order : orders) CHECK(all_right(order, 1) == 64);
  CHECK(all_right(simt::order::forward, 0) == 1);
  CHECK(all_right(simt::order::reverse, 0) == 63);
  CHECK(all_right(simt::order::shuffled, 0) < 63);
}

TEST_CASE("the shuffled order changes with the seed and from phase to phase, and repeats", "[simt]") {
  const buffer<int> out(64);
  const auto trace = [&](std::uint64_t seed) {
    const order_scope scope(simt::order::shuffled, seed);
    std::vector<int> all;
    for (int times = 0; times < 2; ++times) {
      REQUIRE(run(shape(1, 64, 64 * sizeof(int)), &right_neighbour, (int*)out, 0) == cudaSuccess);
      for (int x : out.get()) all.push_back(x);
    }
    return all;
  };
  const std::vector<int> first = trace(1);
  CHECK(first == trace(1));
  CHECK(first != trace(2));
  CHECK(!std::equal(first.begin(), first.begin() + 64, first.begin() + 64));
}

TEST_CASE("an order is chosen by its name, shuffled with a seed that is printed", "[simt]") {
  const buffer<int> out(64);
  const auto trace = [&](const std::string& text) {
    const order_scope scope(simt::order::forward);
    simt::set_order(text);
    REQUIRE(run(shape(1, 64, 64 * sizeof(int)), &right_neighbour, (int*)out, 0) == cudaSuccess);
    return out.get();
  };
  CHECK(trace("shuffled") == trace("shuffled:1"));
  CHECK(trace("shuffled:7") != trace("shuffled:1"));
  CHECK(trace("forward") != trace("reverse"));
  // Two draws of 32 bits are the same once in four thousand million runs, and so are the orders.
  CHECK(trace("random") != trace("random"));
}

TEST_CASE("threads and blocks have their indices in three dimensions", "[simt]") {
  const dim3 grid(2, 3, 4), block(5, 3, 2);
  const buffer<unsigned> out(24 * 30);
  for (const simt::order order : orders) {
    const order_scope scope(order);
    REQUIRE(run(shape(grid, block), &indices, (unsigned*)out) == cudaSuccess);
    const auto got = out.get();
    for (unsigned b = 0; b < 24; ++b)
      for (unsigned t = 0; t < 30; ++t)
        REQUIRE(got[b * 30 + t] == t + 1000 * (b % 2 + 10 * (b / 2 % 3 + 10 * (b / 6))));
  }
}

TEMPLATE_TEST_CASE("shuffles", "[simt]", int, unsigned, long long, unsigned long long, float, double) {
  using T = TestType;
  const buffer<T> out(6 * 64);
  const auto number = [](int lane) { return T(lane) + T(1) / T(2); };
  for (const simt::order order : orders) {
    const order_scope scope(order);
    REQUIRE(run(shape(1, 64), &shuffles<T>, (T*)out) == cudaSuccess);
    const std::vector<T> got = out.get();
    for (int t = 0; t < 64; ++t) {
      const int lane = t % 32, warp = t - lane;
      const T* o = got.data() + 6 * t;
      CHECK(o[0] == number(warp + 3));
      CHECK(o[1] == number(warp + (lane ^ 5)));
      CHECK(o[2] == number(lane < 2 ? t : t - 2));
      CHECK(o[3] == number(lane > 29 ? t : t + 2));
      CHECK(o[4] == number(warp + lane / 8 * 8 + (lane + 1) % 8));
      CHECK(o[5] == number(lane % 4 == 0 ? t + 3 : t));
    }
  }
}

TEST_CASE("votes, parts of a warp, and warps that are not full", "[simt]") {
  const buffer<unsigned> out(4 * 40);
  for (const simt::order order : orders) {
    const order_scope scope(order);
    REQUIRE(run(shape(1, 40), &votes, (unsigned*)out) == cudaSuccess);
    const auto got = out.get();
    for (unsigned t = 0; t < 40; ++t) {
      const unsigned* o = got.data() + 4 * t;
      CHECK(o[0] == (t < 32 ? 0xaaaaaaaau : 0xaau));
      CHECK(o[1] == (t < 32 ? 0u : 1u));
      CHECK(o[2] == (t < 32 ? 1u : 0u));
      CHECK(o[3] == (t % 2 ? 3 : 2) * (t / 32 * 32 + t % 2));
    }
  }
}

TEST_CASE("every lane sees what all lanes gave", "[simt]") {
  const buffer<double> out(64);
  for (const simt::order order : orders) {
    const order_scope scope(order);
    REQUIRE(run(shape(1, 64), &gather, (double*)out) == cudaSuccess);
    const auto got = out.get();
    for (int t = 0; t < 64; ++t) {
      double sum = 0;
      for (int l = 0; l < 32; ++l) sum += l * (t / 32 * 32 + l);
      CHECK(got[std::size_t(t)] == sum);
    }
  }
}

TEST_CASE("atomics on integers", "[simt]") {
  const buffer<unsigned> counter(std::vector<unsigned>{0}), lock(std::vector<unsigned>{0});
  const buffer<unsigned long long> largest(std::vector<unsigned long long>{0});
  const buffer<int> smallest(std::vector<int>{0});
  REQUIRE(run(shape(3, 100), &count, (unsigned*)counter, (unsigned long long*)largest, (int*)smallest,
              (unsigned*)lock) == cudaSuccess);
  CHECK(counter.get()[0] == 1600);
  CHECK(largest.get()[0] == 99);
  CHECK(smallest.get()[0] == -99);
  CHECK(lock.get()[0] > 0);
}

TEST_CASE("a barrier that a thread never reaches is reported", "[simt][faults]") {
  const buffer<float> out(64);
  const buffer<unsigned> bits(64);
  for (const simt::order order : orders) {
    const order_scope scope(order);
    fault_scope faults;
    CHECK(run(shape(2, 64), &leave_early, 5) == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 1);
    CHECK_THAT(faults.texts[0], contains(order == simt::order::reverse ? "block (1,0,0)" : "block ("));
    CHECK_THAT(faults.texts[0], contains("waits at __syncthreads"));
    CHECK_THAT(faults.texts[0], contains("simt_test.cpp:"));
    CHECK_THAT(faults.texts[0], contains("but thread (5,0,0) has returned"));

    CHECK(run(shape(1, 64), &shuffle_without, 7, (float*)out) == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 2);
    CHECK_THAT(faults.texts[1], contains("waits at __shfl_xor_sync with mask 0xffffffff"));
    CHECK_THAT(faults.texts[1], contains("but thread (7,0,0) waits at __syncthreads"));

    CHECK(run(shape(1, 64), &two_barriers) == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 3);
    CHECK_THAT(faults.texts[2], contains("but others at"));

    CHECK(run(shape(1, 64), &barrier_and_warp) == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 4);
    CHECK_THAT(faults.texts[3], contains("waits at __syncwarp"));
    CHECK_THAT(faults.texts[3], contains("waits at __syncthreads"));

    CHECK(run(shape(1, 64), &two_kinds, (unsigned*)bits) == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 5);
    CHECK_THAT(faults.texts[4], contains("__ballot_sync") && contains("__any_sync"));

    CHECK(run(shape(1, 64), &not_in_mask) == cudaErrorLaunchFailure);
    REQUIRE(faults.texts.size() == 6);
    CHECK_THAT(faults.texts[5], contains("lacks the thread itself"));

    CHECK(run(shape(1, 64), &leave_early, -1) == cudaSuccess);  // and the next launch runs
    CHECK(run(shape(1, 64), &leave_early, 63) == cudaErrorLaunchFailure);
    cudaGetLastError();
  }
}

TEST_CASE("device memory and shared memory are NaN at first, the latter for every block", "[simt][memory]") {
  const buffer<float> fresh(5);
  for (float x : fresh.get()) CHECK(std::isnan(x));
  const buffer<unsigned> out(6);
  for (const simt::order order : orders) {
    const order_scope scope(order);
    REQUIRE(run(shape(6, 32, 4000), &see_shared, (unsigned*)out, 1000) == cudaSuccess);
    for (unsigned x : out.get()) CHECK(x == ~0u);
  }
}

TEST_CASE("memory is counted, and copies must stay inside one allocation", "[simt][memory]") {
  const auto allocations = simt::live_allocations();
  const std::size_t bytes = simt::live_bytes();
  float *x = nullptr, *y = nullptr, *pinned = nullptr;
  std::vector<float> host(100, 1.0f);
  simt::reset_peak();
  REQUIRE(cudaMalloc(&x, 400) == cudaSuccess);
  REQUIRE(cudaMallocAsync(&y, 400, nullptr) == cudaSuccess);
  REQUIRE(cudaMallocHost(&pinned, 400) == cudaSuccess);
  CHECK(simt::live_allocations() == allocations + 2);
  CHECK(simt::live_bytes() == bytes + 800);
  CHECK(reinterpret_cast<std::uintptr_t>(x) % 256 == 0);
  pinned[99] = 3;

  CHECK(cudaMemcpy(x, host.data(), 400, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaMemcpy(x, host.data(), 404, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x + 1, host.data(), 400, cudaMemcpyDefault) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), host.data() + 50, 40, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(y, x, 400, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(y, x, 400, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(y, x, 400, cudaMemcpyDeviceToDevice) == cudaSuccess);
  CHECK(cudaMemcpyAsync(pinned, y, 400, cudaMemcpyDefault, nullptr) == cudaSuccess);
  CHECK(pinned[99] == 1);
  CHECK(cudaMemset(y, 0, 404) == cudaErrorInvalidValue);
  CHECK(cudaMemset(host.data(), 0, 4) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(y, 0, 200, nullptr) == cudaSuccess);
  CHECK(cudaMemcpy(host.data(), y, 400, cudaMemcpyDefault) == cudaSuccess);
  CHECK((host[49] == 0 && host[50] == 1));

  cudaPointerAttributes attributes;
  REQUIRE(cudaPointerGetAttributes(&attributes, x + 50) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeDevice);
  REQUIRE(cudaPointerGetAttributes(&attributes, pinned) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeHost);
  REQUIRE(cudaPointerGetAttributes(&attributes, host.data()) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeUnregistered);

  CHECK(cudaFree(x + 1) == cudaErrorInvalidValue);
  CHECK(cudaFree(pinned) == cudaErrorInvalidValue);
  CHECK(cudaFree(host.data()) == cudaErrorInvalidValue);
  CHECK(cudaFree(x) == cudaSuccess);
  CHECK(cudaFree(x) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
  CHECK(cudaFreeAsync(y, nullptr) == cudaSuccess);
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
  CHECK(simt::live_bytes() == bytes);
  CHECK(simt::peak_bytes() == bytes + 800);

  simt::set_memory_limit(bytes + 1000);
  CHECK(cudaMalloc(&x, 1001) == cudaErrorMemoryAllocation);
  CHECK(x == nullptr);
  CHECK(cudaMalloc(&x, 1000) == cudaSuccess);
  CHECK(cudaMalloc(&y, 1) == cudaErrorMemoryAllocation);
  simt::set_memory_limit(std::size_t(4) << 30);
  CHECK(cudaFree(x) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("launches that a device would refuse", "[simt]") {
  const auto before = simt::launches();
  CHECK(run(shape(1, 1024), &nothing) == cudaSuccess);
  CHECK(run(shape(1, 1025), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(1, dim3(32, 33)), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(1, dim3(1, 1, 65)), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(1, 0u), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(0u, 32), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(dim3(1, 65536), 32), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(dim3(1, 1, 65536), 32), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(run(shape(dim3(1, 65535), 1), &nothing) == cudaSuccess);
  CHECK(run(shape(1, 32, 48 * 1024), &nothing) == cudaSuccess);
  CHECK(run(shape(1, 32, 48 * 1024 + 1), &nothing) == cudaErrorInvalidValue);
  CHECK(run(shape(1, 32, 232449), &nothing) == cudaErrorInvalidConfiguration);
  CHECK(cudaFuncSetAttribute(&nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(&nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000) == cudaSuccess);
  CHECK(run(shape(1, 32, 100000), &nothing) == cudaSuccess);
  CHECK(run(shape(1, 32, 100001), &nothing) == cudaErrorInvalidValue);
  cudaFuncAttributes attributes;
  REQUIRE(cudaFuncGetAttributes(&attributes, &nothing) == cudaSuccess);
  CHECK(attributes.maxDynamicSharedSizeBytes == 100000);
  CHECK(cudaFuncSetAttribute(&nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 * 1024) == cudaSuccess);
  CHECK(run(shape(1, 32, 0, reinterpret_cast<cudaStream_t>(&attributes)), &nothing) == cudaErrorInvalidResourceHandle);
  CHECK(simt::launches() == before + 4);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("arguments are copied, and vectors are aligned", "[simt]") {
  const buffer<float> out(1);
  big_argument all{};
  all.numbers[299] = 7;
  REQUIRE(run(shape(1, 1), &take, all, (float*)out) == cudaSuccess);
  CHECK(out.get()[0] == 7);
  const std::vector<float> numbers = random_numbers(4 * 128, 1);
  const buffer<float> in(numbers), doubled(4 * 128);
  REQUIRE(run(shape(1, 128), &vectors, reinterpret_cast<const float4*>((float*)in),
              reinterpret_cast<float4*>((float*)doubled)) == cudaSuccess);
  const auto got = doubled.get();
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == 2 * numbers[i]);
}

TEST_CASE("a stream captures launches, copies and products, and replays them with new inputs", "[simt][graphs]") {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  cublasHandle_t handle = nullptr;
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
  std::vector<float> in{1, 2, 3, 4}, result(4);
  const buffer<float> x(in), y(4), square(4);

  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  cudaStreamCaptureStatus status;
  REQUIRE(cudaStreamIsCapturing(stream, &status) == cudaSuccess);
  CHECK(status == cudaStreamCaptureStatusActive);
  const auto launches = simt::launches(), products = simt::products(), synchronisations = simt::synchronisations();
  {
    float one = 1, zero = 0;  // read when the product is captured
    CHECK(cudaMemsetAsync(y, 0, 16, stream) == cudaSuccess);
    CHECK(cudaMemcpyAsync(x, in.data(), 16, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    CHECK(run(shape(1, 32, 0, stream), &add_one, (float*)y, 4) == cudaSuccess);
    CHECK(run(shape(1, 32, 0, stream), &add_one, (float*)x, 4) == cudaSuccess);
    CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, x, 2, x, 2, &zero, square, 2) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cudaMemcpyAsync(result.data(), square, 16, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    one = zero = std::numeric_limits<float>::quiet_NaN();
  }
  CHECK(simt::launches() == launches);
  CHECK(simt::products() == products);
  CHECK(simt::synchronisations() == synchronisations);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  std::size_t nodes = 0;
  REQUIRE(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
  CHECK(nodes == 6);
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(std::isnan(y.get()[0]));

  for (const float scale : {1.0f, 3.0f}) {
    for (int i = 0; i < 4; ++i) in[std::size_t(i)] = scale * float(i);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    const float a = 1, b = scale + 1, c = 2 * scale + 1, d = 3 * scale + 1;
    CHECK(result == std::vector<float>{a * a + c * b, b * a + d * b, a * c + c * d, b * c + d * d});
    CHECK(y.get() == std::vector<float>(4, 1.0f));
  }
  CHECK(simt::launches() == launches + 4);
  CHECK(simt::products() == products + 2);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("what waits for the device spoils a capture", "[simt][graphs]") {
  cudaStream_t stream = nullptr, other = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamCreate(&other) == cudaSuccess);
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreate(&event) == cudaSuccess);
  REQUIRE(cudaEventRecord(event, other) == cudaSuccess);
  float* x = nullptr;
  REQUIRE(cudaMalloc(&x, 4) == cudaSuccess);
  float host = 0;
  void* more = nullptr;
  cublasHandle_t handle = nullptr;
  const std::vector<std::pair<std::string, std::function<cudaError_t()>>> waits = {
      {"stream", [&] { return cudaStreamSynchronize(stream); }},
      {"query", [&] { return cudaStreamQuery(stream); }},
      {"device", [&] { return cudaDeviceSynchronize(); }},
      {"event", [&] { return cudaEventSynchronize(event); }},
      {"malloc", [&] { return cudaMalloc(&more, 4); }},
      {"malloc async", [&] { return cudaMallocAsync(&more, 4, stream); }},
      {"free", [&] { return cudaFree(x); }},
      {"copy", [&] { return cudaMemcpy(&host, x, 4, cudaMemcpyDeviceToHost); }},
      {"set", [&] { return cudaMemset(x, 0, 4); }},
  };
  cudaGraph_t graph = nullptr;
  for (const auto& [name, wait] : waits) {
    INFO(name);
    const auto before = simt::synchronisations();
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(wait() == cudaErrorStreamCaptureUnsupported);
    CHECK(run(shape(1, 32, 0, stream), &nothing) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);
    CHECK(simt::synchronisations() == before);
    CHECK(run(shape(1, 32, 0, stream), &nothing) == cudaSuccess);
  }
  CHECK(simt::live_allocations() >= 1);

  // The default stream would wait for the capture.
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(run(shape(1, 32), &nothing) == cudaErrorStreamCaptureImplicit);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);

  // Another stream does not, and a relaxed capture lets others wait.
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  CHECK(run(shape(1, 32, 0, other), &nothing) == cudaSuccess);
  CHECK(cudaStreamSynchronize(other) == cudaSuccess);
  CHECK(cudaStreamEndCapture(other, &graph) == cudaErrorIllegalState);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaErrorIllegalState);
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);

  // A stream joins the capture through an event.
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cublasCreate(&handle) == CUBLAS_STATUS_ALLOC_FAILED);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaEventRecord(event, stream) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(other, event) == cudaSuccess);
  CHECK(run(shape(1, 32, 0, other), &nothing) == cudaSuccess);
  CHECK(cudaStreamEndCapture(other, &graph) == cudaErrorStreamCaptureUnmatched);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  std::size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess);
  CHECK(nodes == 1);
  CHECK(cudaEventSynchronize(event) == cudaErrorCapturedEvent);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);

  CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaFree(x) == cudaSuccess);
  CHECK(cudaStreamDestroy(other) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

TEST_CASE("waiting is counted, launching is not", "[simt]") {
  const buffer<float> x(4);
  std::vector<float> host(4);
  cudaEvent_t begin = nullptr, end = nullptr;
  REQUIRE(cudaEventCreate(&begin) == cudaSuccess);
  REQUIRE(cudaEventCreateWithFlags(&end, cudaEventDisableTiming) == cudaSuccess);
  const auto before = simt::synchronisations();
  CHECK(run(shape(1, 32), &nothing) == cudaSuccess);
  CHECK(cudaMemsetAsync(x, 0, 16) == cudaSuccess);
  CHECK(cudaMemcpyAsync(x, host.data(), 16, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaEventRecord(begin) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(nullptr, begin, 0) == cudaSuccess);
  CHECK(simt::synchronisations() == before);
  CHECK(cudaMemcpyAsync(host.data(), x, 16, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaMemcpy(host.data(), x, 16, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaEventSynchronize(begin) == cudaSuccess);
  CHECK(simt::synchronisations() == before + 5);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, begin, begin) == cudaSuccess);
  CHECK(milliseconds == 0);
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventDestroy(begin) == cudaSuccess);
  CHECK(cudaEventDestroy(end) == cudaSuccess);
  cudaGetLastError();
}

TEST_CASE("calls fail when a test asks for it", "[simt]") {
  float* x = nullptr;
  simt::fail_next(cudaErrorECCUncorrectable, 2);
  REQUIRE(cudaMalloc(&x, 4) == cudaSuccess);
  CHECK(simt::fail_pending());
  CHECK(run(shape(1, 32), &nothing) == cudaErrorECCUncorrectable);
  CHECK(!simt::fail_pending());
  CHECK(cudaPeekAtLastError() == cudaErrorECCUncorrectable);
  CHECK(run(shape(1, 32), &nothing) == cudaSuccess);
  CHECK(cudaGetLastError() == cudaErrorECCUncorrectable);
  CHECK(cudaGetLastError() == cudaSuccess);
  const auto allocations = simt::live_allocations();
  simt::fail_next(cudaErrorUnknown);
  CHECK(cudaFree(x) == cudaErrorUnknown);  // and frees
  CHECK(simt::live_allocations() == allocations - 1);

  int count = -1;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
  CHECK(count == 1);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  simt::set_device_count(2);
  CHECK(cudaSetDevice(1) == cudaSuccess);
  CHECK(cudaGetDevice(&count) == cudaSuccess);
  CHECK(count == 1);
  CHECK(cudaSetDevice(0) == cudaSuccess);
  simt::set_device_count(0);
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
  CHECK(count == 0);
  CHECK(cudaMalloc(&x, 4) == cudaErrorNoDevice);
  simt::set_device_count(cudaErrorInsufficientDriver);
  CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
  cublasHandle_t handle = nullptr;
  CHECK(cublasCreate(&handle) == CUBLAS_STATUS_NOT_INITIALIZED);
  simt::set_device_count(1);
  cudaGetLastError();

  int value = 0;
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess);
  CHECK(value == 232448);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  CHECK((properties.major == 9 && properties.multiProcessorCount == 4 && properties.l2CacheSize == 1 << 20));
  cudaMemPool_t pool = nullptr;
  CHECK(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
  unsigned long long threshold = ~0ull;
  CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) == cudaSuccess);
  CHECK(std::string(cudaGetErrorName(cudaErrorIllegalAddress)) == "cudaErrorIllegalAddress");
  CHECK(std::string(cudaGetErrorString(cudaSuccess)) == "no error");
  CHECK(std::string(cublasGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED)) == "CUBLAS_STATUS_NOT_SUPPORTED");
}

TEST_CASE("products", "[simt][cublas]") {
  cublasHandle_t handle = nullptr;
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  constexpr int m = 7, n = 5, k = 9;
  const std::vector<float> a = random_numbers(200, 1), b = random_numbers(200, 2), c = random_numbers(200, 3);
  const buffer<float> da(a), db(b);
  const float alpha = 0.5f, zero = 0;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const float beta : {0.0f, 2.0f}) {
        const int lda = (ta ? k : m) + 1, ldb = (tb ? n : k) + 2, ldc = m + 3;
        const buffer<float> dc(200);
        if (beta != 0) dc.put(c);  // else it is NaN, and must not be read
        REQUIRE(cublasSgemm(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, da,
                            lda, db, ldb, &beta, dc, ldc) == CUBLAS_STATUS_SUCCESS);
        const auto got = dc.get();
        for (int i = 0; i < ldc; ++i) {
          for (int j = 0; j < n; ++j) {
            const float before = beta != 0 ? c[std::size_t(i + j * ldc)] : std::nanf("");
            double sum = beta != 0 ? beta * before : 0;
            for (int l = 0; l < k; ++l)
              sum += i < m ? alpha * a[std::size_t(ta ? l + i * lda : i + l * lda)] *
                                 b[std::size_t(tb ? j + l * ldb : l + j * ldb)]
                           : 0;
            const float at = got[std::size_t(i + j * ldc)];
            if (i < m) CHECK(at == Approx(sum).margin(1e-5));
            if (i >= m) CHECK((at == before || std::isnan(before)));
          }
        }
      }
    }
  }

  const buffer<float> dc(200);
  const auto product = [&](int rows, int columns, int inner, int lda, int ldb, int ldc) {
    return cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_T, rows, columns, inner, &alpha, da, lda, db, ldb, &zero, dc,
                       ldc);
  };
  CHECK(product(7, 5, 9, 7, 5, 7) == CUBLAS_STATUS_SUCCESS);
  CHECK(product(7, 5, 9, 6, 5, 7) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(product(7, 5, 9, 7, 4, 7) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(product(7, 5, 9, 7, 5, 6) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(product(-1, 5, 9, 7, 5, 7) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(product(0, 5, 9, 1, 5, 1) == CUBLAS_STATUS_SUCCESS);
  CHECK(product(7, 5, 0, 7, 5, 7) == CUBLAS_STATUS_SUCCESS);  // beta C
  CHECK(dc.get()[0] == 0);
  CHECK(cublasSgemm(nullptr, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &alpha, da, 1, db, 1, &zero, dc, 1) ==
        CUBLAS_STATUS_NOT_INITIALIZED);

  fault_scope faults;
  CHECK(product(7, 5, 9, 25, 5, 7) == CUBLAS_STATUS_EXECUTION_FAILED);  // 8 * 25 + 7 of 200 numbers
  REQUIRE(faults.texts.size() == 1);
  CHECK_THAT(faults.texts[0], contains("cublasSgemm: matrix A, 7 x 9 with leading dimension 25, is not inside"));
  CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &alpha, a.data(), 1, db, 1, &zero, dc, 1) ==
        CUBLAS_STATUS_EXECUTION_FAILED);
  CHECK(faults.texts.size() == 2);

  simt::fail_next_cublas(CUBLAS_STATUS_ALLOC_FAILED, 1);
  CHECK(product(7, 5, 9, 7, 5, 7) == CUBLAS_STATUS_ALLOC_FAILED);
  CHECK(product(7, 5, 9, 7, 5, 7) == CUBLAS_STATUS_SUCCESS);
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
  CHECK(simt::live_handles() == 0);
  cudaGetLastError();
}

TEST_CASE("a swapped leading dimension does not go unnoticed", "[simt][cublas]") {
  cublasHandle_t handle = nullptr;
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  fault_scope faults;
  const float one = 1, zero = 0;
  const auto compare = [&](int m, int k) {  // x is m rows of k numbers, row-major; x x' is wanted
    const std::vector<float> x = random_numbers(std::size_t(m * k), 4);
    const buffer<float> dx(x), right(std::size_t(m * m)), wrong(std::size_t(m * m));
    REQUIRE(cublasSgemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, m, m, k, &one, dx, k, dx, k, &zero, right, m) ==
            CUBLAS_STATUS_SUCCESS);
    float sum = 0;
    for (int l = 0; l < k; ++l) sum += x[std::size_t(k + l)] * x[std::size_t(l)];
    CHECK(right.get()[1] == Approx(sum).margin(1e-6));
    const cublasStatus_t status =
        cublasSgemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, m, m, k, &one, dx, m, dx, m, &zero, wrong, m);
    return status == CUBLAS_STATUS_SUCCESS && right.get() == wrong.get();
  };
  CHECK(!compare(6, 9));  // refused: smaller than a column
  CHECK(faults.texts.empty());
  CHECK(!compare(9, 6));  // reaches past the end
  CHECK(faults.texts.size() == 1);
  CHECK(compare(8, 8));
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
}

TEST_CASE("products in other types, roundings and sizes of integers", "[simt][cublas]") {
  cublasHandle_t handle = nullptr;
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  const float one = 1, zero = 0;
  const float x = 1.0f + 3.0f / 4096.0f;  // 10 bits: 1 + 1/1024; 7 bits: 1
  const auto with = [&](cublasComputeType_t compute) {
    const buffer<float> a(std::vector<float>{x}), b(std::vector<float>{1}), c(1);
    REQUIRE(cublasGemmEx_64(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, a, CUDA_R_32F, 1, b, CUDA_R_32F, 1, &zero,
                            c, CUDA_R_32F, 1, compute, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    return c.get()[0];
  };
  CHECK(with(CUBLAS_COMPUTE_32F) == x);
  CHECK(with(CUBLAS_COMPUTE_32F_PEDANTIC) == x);
  CHECK(with(CUBLAS_COMPUTE_32F_FAST_TF32) == 1 + 1.0f / 1024);
  CHECK(with(CUBLAS_COMPUTE_32F_FAST_16F) == 1 + 1.0f / 1024);
  CHECK(with(CUBLAS_COMPUTE_32F_FAST_16BF) == 1);
  CHECK(simt::to_tf32(1 + 1.0f / 2048) == 1 + 1.0f / 1024);  // from the middle, up
  CHECK(simt::to_tf32(-1 - 1.0f / 2048) == -1 - 1.0f / 1024);
  CHECK(std::isnan(simt::to_tf32(std::nanf(""))));
  CHECK(std::isinf(simt::to_tf32(std::numeric_limits<float>::infinity())));

  const buffer<float> a(std::vector<float>{x}), c(1);
  CHECK(cublasSetMathMode(handle, CUBLAS_TF32_TENSOR_OP_MATH) == CUBLAS_STATUS_SUCCESS);
  CHECK(cublasSgemm_64(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &x, a, 1, a, 1, &zero, c, 1) ==
        CUBLAS_STATUS_SUCCESS);
  CHECK(c.get()[0] == x * (1 + 1.0f / 1024) * (1 + 1.0f / 1024));
  cublasMath_t mode;
  CHECK(cublasGetMathMode(handle, &mode) == CUBLAS_STATUS_SUCCESS);
  CHECK(mode == CUBLAS_TF32_TENSOR_OP_MATH);

  // Halves are multiplied and summed in float.
  const buffer<__half> h(std::vector<__half>{1.0f / 3, 0.1f});
  const buffer<__nv_bfloat16> bf(std::vector<__nv_bfloat16>{1.0f / 3, 0.1f});
  const auto halves = [&](const void* data, cudaDataType type) {
    REQUIRE(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, 1, 1, 2, &one, data, type, 2, data, type, 2, &zero, c,
                         CUDA_R_32F, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
    return c.get()[0];
  };
  const float third = __half(1.0f / 3), tenth = __half(0.1f);
  CHECK((third == 0.333251953125f && tenth == 0.0999755859375f));
  CHECK(halves((__half*)h, CUDA_R_16F) == Approx(third * third + tenth * tenth).epsilon(1e-7));
  const float third_b = __nv_bfloat16(1.0f / 3), tenth_b = __nv_bfloat16(0.1f);
  CHECK((third_b == 0.333984375f && tenth_b == 0.10009765625f));
  CHECK(halves((__nv_bfloat16*)bf, CUDA_R_16BF) == Approx(third_b * third_b + tenth_b * tenth_b).epsilon(1e-7));
  CHECK(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, (__half*)h, CUDA_R_16F, 1, (float*)a, CUDA_R_32F,
                     1, &zero, c, CUDA_R_32F, 1, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED);

  // Doubles, factors in device memory, and several products at once.
  const buffer<double> d(std::vector<double>{1, 2, 3, 4}), e(4), factors(std::vector<double>{10, 0});
  CHECK(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasDgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, factors, d, 2, d, 2, factors + 1, e, 2) ==
          CUBLAS_STATUS_SUCCESS);
  CHECK(e.get() == std::vector<double>{70, 100, 150, 220});
  CHECK(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_HOST) == CUBLAS_STATUS_SUCCESS);
  const double once = 1, never = 0;
  REQUIRE(cublasGemmStridedBatchedEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 2, &once, (double*)d, CUDA_R_64F, 1, 2,
                                     (double*)d, CUDA_R_64F, 2, 2, &never, (double*)e, CUDA_R_64F, 1, 1, 2,
                                     CUBLAS_COMPUTE_64F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
  CHECK(e.get() == std::vector<double>{5, 25, 150, 220});

  void* workspace = nullptr;
  REQUIRE(cudaMalloc(&workspace, 1024) == cudaSuccess);
  CHECK(cublasSetWorkspace(handle, workspace, 1024) == CUBLAS_STATUS_SUCCESS);
  CHECK(cublasSetWorkspace(handle, workspace, 1025) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(cudaFree(workspace) == cudaSuccess);
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
}

TEST_CASE("several threads may launch", "[simt]") {
  std::atomic<int> right{0};
  const auto work = [&](int seed) {
    std::vector<int> numbers(1000, seed), parts(2);
    int *x = nullptr, *out = nullptr;
    cudaMalloc(&x, 4000);
    cudaMalloc(&out, 8);
    for (int times = 0; times < 20; ++times) {
      cudaMemcpy(x, numbers.data(), 4000, cudaMemcpyHostToDevice);
      run(shape(2, 64, 256), &sum_of_blocks, (const int*)x, 1000, out, 1);
      cudaMemcpy(parts.data(), out, 8, cudaMemcpyDeviceToHost);
      right += parts[0] + parts[1] == 1000 * seed;
    }
    cudaFree(x);
    cudaFree(out);
  };
  std::thread one(work, 1), two(work, 2);
  one.join();
  two.join();
  CHECK(right == 40);
}

TEST_CASE("what a launch and a switch cost", "[.][time]") {
  const buffer<float> x(2048);
  for (const int barriers : {0, 10}) {
    const auto kernel = +[](float* out, int times) {
      for (int i = 0; i < times; ++i) __syncthreads();
      out[blockIdx.x * blockDim.x + threadIdx.x] = 1;
    };
    const auto begin = std::chrono::steady_clock::now();
    constexpr int times = 500;
    for (int i = 0; i < times; ++i) REQUIRE(run(shape(8, 256), kernel, (float*)x, barriers) == cudaSuccess);
    const double us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() /
                      times;
    WARN("8 blocks of 256 threads, " << barriers << " barriers: " << us << " us, "
                                     << 2048.0 * (barriers + 1) / us << " million switches per second");
  }
}
