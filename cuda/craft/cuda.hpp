// The CUDA context: where a verb runs on a GPU, in whose stream, with whose memory. Plain C++: it needs the toolkit's
// headers, not nvcc. The engine's bodies come either from craft/cuda.cuh, compiled by nvcc, or from the library craft_cuda.
//
//     cudaStream_t stream = ...;
//     craft::cuda ctx(stream);                                      // a cuBLAS handle of its own
//     craft::mmd(ctx, device_x, device_y, kernel, options, craft::scalar_out<float, craft::memory::device>(value), gradients);
//
// Inputs, values and gradients lie in device memory; labels and sample weights may lie on either side; single numbers are
// given by value or lie in device memory.
// Nothing waits for the GPU but what returns numbers to the host (docs/cuda.md has the list).
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "craft/context.hpp"
#include "craft/engine/host_device.hpp"

namespace craft {

namespace engine {

class cuda_engine;

/// Throws device_error unless the call succeeded; `parts` say what was called with what.
template <class... Parts>
void cuda_check(cudaError_t status, const Parts&... parts) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is reported here must not surface a second time in somebody else's check
  fail<device_error>(parts..., ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status));
}
template <class... Parts>
void cublas_check(cublasStatus_t status, const Parts&... parts) {
  if (status != CUBLAS_STATUS_SUCCESS) fail<device_error>(parts..., ": ", cublasGetStatusString(status));
}

/// Makes a device current, and at the end the one that was. `status()`: cudaSuccess, or what went wrong.
class current_device {
 public:
  explicit current_device(int wanted) : status_(cudaGetDevice(&before_)) {
    changed_ = status_ == cudaSuccess && before_ != wanted;
    if (changed_) status_ = cudaSetDevice(wanted);
    if (status_ != cudaSuccess) cudaGetLastError();  // it is here, and not for somebody else's check
  }
  current_device(const current_device&) = delete;
  current_device& operator=(const current_device&) = delete;
  ~current_device() {
    if (changed_ && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
  }
  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  cudaError_t status_;
  bool changed_ = false;
};

}  // namespace engine

/// How products of float matrices are made on a GPU. Double always runs in double; float, half and bfloat16 inputs are
/// computed in float. What each costs in accuracy is measured in docs/cuda.md.
///
/// Where pair functions look at distances, the rows themselves are rounded once, so that |x|^2, |y|^2 and x . y belong to the
/// same points and distances of near points keep their digits.
enum class precision {
  strict,   ///< float32 multiplications and sums
  tf32,     ///< tensor cores, factors rounded to 10 bits after the leading one
  bfloat16  ///< tensor cores, factors rounded to 7 bits after the leading one; sums in float as always
};

/// Number of CUDA devices: 0 without a driver and without a device. Throws device_error for any other failure.
inline int cuda_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) {
    cudaGetLastError();
    return 0;
  }
  engine::cuda_check(status, "cudaGetDeviceCount");
  return count;
}

/// A GPU: the device that is current when the context is made, of compute capability 8.0 or higher; a stream of the caller's, a
/// cuBLAS handle, scratch memory. Every call makes that device current, and puts back the one that was.
///
/// Scratch memory is stream-ordered (cudaMallocAsync) and kept between calls, unless the caller brings functions
/// (scratch().use, 256-byte aligned) or one buffer (memory). Two calls of one context must be in one stream, or ordered by the
/// caller. Equal inputs give equal bits on every run.
///
/// Graph capture: run the call once before (or reserve workspace_bytes), since scratch memory cannot grow meanwhile, and
/// give labels and weights in device memory. From then on the context keeps every piece of scratch memory, which the graph uses,
/// also when later calls need more: the context must outlive the graph, and graphs and calls of one context stand in one stream
/// or are ordered by the caller. Throws device_error: no device, or a CUDA or cuBLAS call that failed.
class cuda {
 public:
  static constexpr craft::memory space = craft::memory::device;  ///< where inputs and outputs lie
  using engine = craft::engine::cuda_engine;                     ///< what the verbs run on

  /// handle: null for one of the context's own; else it must be on the same stream, and its workspace is the caller's
  /// business. Its math and pointer modes are changed during a call and put back.
  explicit cuda(cudaStream_t stream = nullptr, cublasHandle_t handle = nullptr) : stream_(stream), handle_(handle) {
    require<device_error>(cuda_devices() > 0, "cuda: no CUDA device");
    craft::engine::cuda_check(cudaGetDevice(&device_), "cudaGetDevice");
    int major = 0, minor = 0, shared_bytes = 0;
    craft::engine::cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_),
                              "cudaDeviceGetAttribute(compute capability)");
    craft::engine::cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_),
                              "cudaDeviceGetAttribute(compute capability)");
    require<device_error>(major >= 8, "cuda: device ", device_, " has compute capability ", major, ".", minor,
                          ", and 8.0 or higher is needed");
    craft::engine::cuda_check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, device_),
                              "cudaDeviceGetAttribute(multiprocessors)");
    craft::engine::cuda_check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_),
                              "cudaDeviceGetAttribute(shared memory of a block)");
    if (handle == nullptr) {
      craft::engine::cublas_check(cublasCreate(&handle_), "cublasCreate");
      own_ = std::unique_ptr<cublasContext, destroy>(handle_, destroy{device_});
      craft::engine::cublas_check(cublasSetStream(handle_, stream), "cublasSetStream");
    }
    shared_bytes_ = std::size_t(shared_bytes);
    blas_bytes_ = (major >= 9 ? std::size_t(32) : std::size_t(4)) << 20;
    use_stream_ordered_memory();
  }
  cuda(cuda&&) = default;             ///< with its handle and its scratch memory
  cuda& operator=(cuda&&) = default;  ///< with its handle and its scratch memory

  int device() const { return device_; }                      ///< as the runtime counts them
  cudaStream_t stream() const { return stream_; }             ///< where everything is launched
  cublasHandle_t handle() const { return handle_; }           ///< the caller's or its own
  int processors() const { return processors_; }              ///< multiprocessors of the device
  std::size_t shared_bytes() const { return shared_bytes_; }  ///< of shared memory that a block may ask for

  /// How products of float matrices are made; strict by default.
  craft::precision precision() const { return precision_; }
  cuda& precision(craft::precision p) {
    precision_ = p;
    return *this;
  }

  /// Looks for NaN and infinity in every input first, as on the CPU. Waits for the stream; off by default. Verbs that return
  /// numbers to the host, and so wait anyway, look anyway.
  bool check_finite() const { return check_finite_; }
  cuda& check_finite(bool on) {
    check_finite_ = on;
    return *this;
  }

  /// As of cpu: asked before the host waits for numbers of the device (k-means does every iteration, losses do not). What has been
  /// launched by then still runs.
  cuda& stop(std::function<bool()> asked) {
    stop_ = std::move(asked);
    return *this;
  }
  /// What `stop` was given; empty: nothing.
  const std::function<bool()>& stop() const { return stop_; }

  /// Looks at labels and sample weights in device memory too, and throws as for those on the host. Waits for the stream; off by
  /// default, and then a label outside its range makes the value NaN.
  bool check_labels() const { return check_labels_; }
  cuda& check_labels(bool on) {
    check_labels_ = on;
    return *this;
  }

  /// Rows of dot products that are in memory at a time; 0: chosen to stay in the second-level cache.
  index_t tile_rows() const { return tile_rows_ > 0 ? tile_rows_ : 2048; }
  /// Columns of dot products that are in memory at a time; 0: chosen to stay in the second-level cache.
  index_t tile_columns() const { return tile_columns_ > 0 ? tile_columns_ : 4096; }
  /// Sets both; one number serves rows and columns. Throws option_error for a negative one.
  cuda& tile(index_t rows) { return tile(rows, rows); }
  cuda& tile(index_t rows, index_t columns) {
    require<option_error>(rows >= 0 && columns >= 0, "cuda: tile sizes must not be negative, got ", rows, " and ", columns);
    tile_rows_ = rows;
    tile_columns_ = columns;
    return *this;
  }

  /// Rows of up to this many numbers (at most 128, in double 64) are swept by one kernel that leaves no dot product in memory;
  /// 0: never.
  index_t fused() const { return fused_; }
  cuda& fused(index_t longest) {
    require<option_error>(longest >= 0, "cuda: the longest fused rows must not be negative, got ", longest);
    fused_ = longest;
    return *this;
  }

  /// What cuBLAS may use of the scratch memory during a call, if the handle is the context's own: by default what it wants on
  /// this device. 0: memory that cuBLAS allocates itself. Throws option_error below 16 KiB, with which its calls may fail.
  std::size_t blas_bytes() const { return own_ || rehearses_ ? blas_bytes_ : 0; }
  cuda& blas_bytes(std::size_t bytes) {
    require<option_error>(bytes == 0 || bytes >= std::size_t(16) << 10,
                          "cuda: cuBLAS may fail with less than 16384 bytes of scratch memory, and blas_bytes got ", bytes);
    blas_bytes_ = bytes;
    return *this;
  }

  /// Scratch memory comes from this buffer only (device memory, 256-byte aligned); a call that needs more throws device_error.
  /// The buffer must outlive the context or the next call of memory or scratch().use.
  cuda& memory(void* buffer, std::size_t bytes) {
    require<option_error>(buffer != nullptr && reinterpret_cast<std::uintptr_t>(buffer) % 256 == 0,
                          "cuda: the buffer for scratch memory must be aligned to 256 bytes");
    auto given = std::make_shared<bool>(false);
    scratch_.use(
        [buffer, bytes, given](std::size_t wanted) {
          require<device_error>(!*given && wanted <= bytes, "cuda: the buffer for scratch memory has ", bytes,
                                " bytes, and this call needs more; ask workspace_bytes");
          *given = true;
          return buffer;
        },
        [given](void*, std::size_t) { *given = false; });
    scratch_.reserve(bytes);
    return *this;
  }

  /// Bytes of scratch memory that `call(context)` needs: the call is gone through without touching the device. What
  /// kmeans_per_class needs depends on its labels, which must lie on the host then.
  ///
  ///     bytes = ctx.workspace_bytes([&](const craft::cuda& c) { craft::mmd(c, x, y, kernel, options, value, gradients); });
  template <class Call>
  std::size_t workspace_bytes(Call&& call) const {
    cuda rehearsal(*this, std::size_t(1) << 20);
    call(static_cast<const cuda&>(rehearsal));
    return rehearsal.scratch_.bytes_used();
  }
  /// Whether this is such a rehearsal, in which nothing is launched.
  bool rehearses() const { return rehearses_; }

  /// Scratch memory. Owned by the context, used by its calls.
  workspace& scratch() const { return scratch_; }
  /// How many engines are open: a verb that calls verbs opens several.
  int& depth() const { return depth_; }

 private:
  cuda(const cuda& other, std::size_t alignment)
      : stream_(other.stream_),
        handle_(other.handle_),
        device_(other.device_),
        precision_(other.precision_),
        check_finite_(other.check_finite_),
        check_labels_(other.check_labels_),
        tile_rows_(other.tile_rows_),
        tile_columns_(other.tile_columns_),
        fused_(other.fused_),
        processors_(other.processors_),
        shared_bytes_(other.shared_bytes_),
        blas_bytes_(other.blas_bytes()),
        rehearses_(true) {
    // Addresses that are never looked at, one after another.
    auto next = std::make_shared<std::uintptr_t>(alignment);
    scratch_.use(
        [next, alignment](std::size_t bytes) {
          const std::uintptr_t at = *next;
          *next += (bytes + alignment - 1) / alignment * alignment;
          return reinterpret_cast<void*>(at);
        },
        [](void*, std::size_t) {});
  }

  void use_stream_ordered_memory() {
    const cudaStream_t stream = stream_;
    const int device = device_;
    scratch_.use(
        [stream, device](std::size_t bytes) {
          const craft::engine::current_device current(device);
          craft::engine::cuda_check(current.status(), "cuda: device ", device, " cannot be made current");
          cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
          craft::engine::cuda_check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
          require<device_error>(capture == cudaStreamCaptureStatusNone,
                                "cuda: scratch memory cannot grow by ", bytes,
                                " bytes during graph capture; run the call once before, or reserve workspace_bytes");
          void* memory = nullptr;
          craft::engine::cuda_check(cudaMallocAsync(&memory, bytes, stream), "cudaMallocAsync(", bytes, " bytes)");
          return memory;
        },
        [stream, device](void* memory, std::size_t) {
          const craft::engine::current_device current(device);
          if (cudaFreeAsync(memory, stream) != cudaSuccess) cudaGetLastError();  // nobody could do anything about it
        });
  }

  struct destroy {
    int device;
    void operator()(cublasContext* handle) const {
      const craft::engine::current_device current(device);
      cublasDestroy(handle);
    }
  };

  cudaStream_t stream_ = nullptr;
  cublasHandle_t handle_ = nullptr;
  std::unique_ptr<cublasContext, destroy> own_{nullptr, destroy{0}};
  int device_ = 0;
  craft::precision precision_ = craft::precision::strict;
  bool check_finite_ = false, check_labels_ = false;
  std::function<bool()> stop_;
  index_t tile_rows_ = 0, tile_columns_ = 0, fused_ = 128;
  int processors_ = 1;
  std::size_t shared_bytes_ = 0;
  std::size_t blas_bytes_ = 0;
  bool rehearses_ = false;
  mutable workspace scratch_{256};  // as cuBLAS wants it
  mutable int depth_ = 0;
};

}  // namespace craft

#include "craft/engine/cuda_engine.hpp"
