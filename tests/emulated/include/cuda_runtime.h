// The part of the CUDA runtime that the library calls, on the CPU, so that the very text of the engine and of its
// kernels runs without a GPU. Everything runs at once when it is issued, except on a stream that captures. What a real
// device would answer with an error or with garbage shows here too: device memory is NaN at first, may only be touched
// by kernels, copies and products (AddressSanitizer watches), and a copy must stay inside one allocation.
#pragma once

#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <thread>
#include <tuple>
#include <utility>

#include "simt.hpp"

#define CRAFT_EMULATED_CUDA 1
#define CUDART_VERSION 13000

// ---- errors ---------------------------------------------------------------------------------------------------------

#define SIMT_ERRORS(each)                                                                  \
  each(cudaSuccess, 0, "no error")                                                         \
  each(cudaErrorInvalidValue, 1, "an argument is invalid")                                 \
  each(cudaErrorMemoryAllocation, 2, "not enough memory")                                  \
  each(cudaErrorInitializationError, 3, "the runtime could not start")                     \
  each(cudaErrorInvalidConfiguration, 9, "a launch that the device cannot run")            \
  each(cudaErrorInvalidMemcpyDirection, 21, "a copy in the wrong direction")               \
  each(cudaErrorInsufficientDriver, 35, "the driver is too old for the runtime")           \
  each(cudaErrorDevicesUnavailable, 46, "all devices are busy or unavailable")             \
  each(cudaErrorInvalidDeviceFunction, 98, "no such kernel on this device")                \
  each(cudaErrorNoDevice, 100, "no device")                                                \
  each(cudaErrorInvalidDevice, 101, "no device of this number")                            \
  each(cudaErrorNoKernelImageForDevice, 209, "no machine code for this device")            \
  each(cudaErrorECCUncorrectable, 214, "memory lost a bit that could not be restored")     \
  each(cudaErrorInvalidResourceHandle, 400, "no such stream, event or graph")              \
  each(cudaErrorIllegalState, 401, "not possible in this state")                           \
  each(cudaErrorNotReady, 600, "not done yet")                                             \
  each(cudaErrorIllegalAddress, 700, "a kernel touched an address that is not its own")    \
  each(cudaErrorLaunchOutOfResources, 701, "a launch asks for too many resources")         \
  each(cudaErrorLaunchTimeout, 702, "a kernel ran for too long")                           \
  each(cudaErrorMisalignedAddress, 716, "a kernel used a misaligned address")              \
  each(cudaErrorLaunchFailure, 719, "a kernel failed")                                     \
  each(cudaErrorNotPermitted, 800, "not permitted")                                        \
  each(cudaErrorNotSupported, 801, "not supported")                                        \
  each(cudaErrorStreamCaptureUnsupported, 900, "not allowed while a stream captures")      \
  each(cudaErrorStreamCaptureInvalidated, 901, "an earlier error invalidated the capture") \
  each(cudaErrorStreamCaptureUnmatched, 903, "the capture did not begin in this stream")   \
  each(cudaErrorStreamCaptureImplicit, 906, "the default stream would join the capture")   \
  each(cudaErrorCapturedEvent, 907, "the event was last recorded in a capture")            \
  each(cudaErrorStreamCaptureWrongThread, 908, "the capture began on another thread")      \
  each(cudaErrorUnknown, 999, "unknown error")

#define SIMT_ENUMERATOR(name, value, text) name = value,
enum cudaError { SIMT_ERRORS(SIMT_ENUMERATOR) };
#undef SIMT_ENUMERATOR
using cudaError_t = cudaError;

inline const char* cudaGetErrorName(cudaError_t error) {
#define SIMT_NAME(name, value, text) \
  if (error == name) return #name;
  SIMT_ERRORS(SIMT_NAME)
#undef SIMT_NAME
  return "unrecognized error code";
}
inline const char* cudaGetErrorString(cudaError_t error) {
#define SIMT_TEXT(name, value, text) \
  if (error == name) return text;
  SIMT_ERRORS(SIMT_TEXT)
#undef SIMT_TEXT
  return "unrecognized error code";
}
#undef SIMT_ERRORS

// ---- types ----------------------------------------------------------------------------------------------------------

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeHost = 1, cudaMemoryTypeDevice = 2 };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void *devicePointer, *hostPointer;
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
struct cudaFuncAttributes {
  std::size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, maxDynamicSharedSizeBytes;
};
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMemoryPoolsSupported = 115
};
struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerMultiprocessor, sharedMemPerBlockOptin;
  int warpSize, maxThreadsPerBlock, maxThreadsPerMultiProcessor, major, minor, multiProcessorCount, l2CacheSize;
  int memoryPoolsSupported;
};
constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
using cudaGraphNode_t = struct CUgraphNode_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

// ---- the state of the emulated device -------------------------------------------------------------------------------

namespace simt {

constexpr std::size_t shared_by_default = 48 * 1024, shared_at_most = 232448;

using work = std::function<cudaError_t()>;

/// What one stream, and those that wait for its events, issue between BeginCapture and EndCapture.
struct capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  cudaStream_t origin;
  bool valid = true;
  std::vector<work> nodes;
};

struct allocation {
  unsigned char* data;
  std::size_t bytes;
  bool device;  // else page-locked host memory
};

struct runtime_state {
  std::vector<allocation> allocations;
  std::size_t bytes = 0, peak = 0, limit = std::size_t(4) << 30;
  int open = 0;  // how many kernels, copies and products are at work, one inside another (a graph and its nodes)
  std::vector<cudaStream_t> streams;
  std::vector<std::shared_ptr<capture>> captures;
  std::map<const void*, int> shared_limits;  // per kernel, raised by cudaFuncSetAttribute
  std::set<const void*> kernels;             // that have been launched
  std::int64_t calls = 0, launches = 0, products = 0, narrow_products = 0, synchronisations = 0;
  int fail_after = 0, fail_product_after = 0, fail_product_status = 0, devices = 1, major = 9, minor = 0;
  cudaError_t fail_code = cudaSuccess, no_device = cudaSuccess;
};
inline runtime_state device;
inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local int current_device = 0;

/// Counts for tests. Bytes and allocations are of device memory.
inline std::int64_t calls() { return device.calls; }
inline std::int64_t launches() { return device.launches; }
inline std::int64_t products() { return device.products; }
inline std::int64_t narrow_products() { return device.narrow_products; }  // those of 16-bit factors
inline const std::set<const void*>& kernels() { return device.kernels; }
inline std::int64_t synchronisations() { return device.synchronisations; }
inline std::size_t live_bytes() { return device.bytes; }
inline std::size_t peak_bytes() { return device.peak; }
inline void reset_peak() { device.peak = device.bytes; }
inline std::int64_t count_allocations(bool on_device) {
  std::int64_t count = 0;
  for (const allocation& a : device.allocations) count += a.device == on_device;
  return count;
}
inline std::int64_t live_allocations() { return count_allocations(true); }
inline std::int64_t live_host_allocations() { return count_allocations(false); }
inline std::int64_t live_streams() { return std::int64_t(device.streams.size()); }

/// cudaMalloc fails beyond this many bytes in all.
inline void set_memory_limit(std::size_t bytes) { device.limit = bytes; }

/// The `after`-th next call of the runtime (1 is the next one) returns `code`; 0 takes it back. Calls that give
/// something back (free, destroy) still do so, as a real one does that reports the error of earlier work.
inline void fail_next(cudaError_t code, int after = 1) {
  device.fail_code = code;
  device.fail_after = after;
}
/// The same for the products; `status` is a cublasStatus_t.
inline void fail_next_cublas(int status, int after = 1) {
  device.fail_product_status = status;
  device.fail_product_after = after;
}
/// Whether the failure that was asked for is still to come.
inline bool fail_pending() { return device.fail_after > 0 || device.fail_product_after > 0; }
/// A machine with this many devices, or with none and every call failing with `error`.
inline void set_device_count(int devices) {
  device.devices = devices;
  device.no_device = devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
/// What every device says it can do; 9.0 otherwise.
inline void set_compute_capability(int major, int minor) {
  device.major = major;
  device.minor = minor;
}
inline void set_device_count(cudaError_t error) {
  device.devices = 0;
  device.no_device = error;
}

// ---- calls ----------------------------------------------------------------------------------------------------------

inline cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
inline cudaError_t injected() {
  ++device.calls;
  if (device.fail_after > 0 && --device.fail_after == 0) return device.fail_code;
  return device.no_device;
}
/// A call of the runtime.
template <class Work>
cudaError_t call(Work&& work_) {
  const std::lock_guard<std::recursive_mutex> lock(device_mutex);
  const cudaError_t error = injected();
  return remember(error != cudaSuccess ? error : work_());
}
/// A call that gives something back, which happens even if it reports an error.
template <class Work>
cudaError_t call_to_release(Work&& work_) {
  const std::lock_guard<std::recursive_mutex> lock(device_mutex);
  const cudaError_t error = injected(), own = work_();
  return remember(error != cudaSuccess ? error : own);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

/// Device memory is poisoned while host code runs, so that the sanitizer reports host code that touches it.
class device_memory_open {
 public:
  device_memory_open() {
    if (device.open++ == 0) poison(false);
  }
  ~device_memory_open() {
    if (--device.open == 0) poison(true);
  }
  device_memory_open(const device_memory_open&) = delete;
  device_memory_open& operator=(const device_memory_open&) = delete;

 private:
  static void poison([[maybe_unused]] bool on) {
#if SIMT_ASAN
    for (const allocation& a : device.allocations) {
      if (!a.device) continue;
      if (on) ASAN_POISON_MEMORY_REGION(a.data, a.bytes);
      if (!on) ASAN_UNPOISON_MEMORY_REGION(a.data, a.bytes);
    }
#endif
  }
};

/// The allocation that `at` lies in, or nullptr.
inline const allocation* find(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  for (const allocation& a : device.allocations) {
    const auto begin = reinterpret_cast<std::uintptr_t>(a.data);
    if (address >= begin && address < begin + a.bytes) return &a;
  }
  return nullptr;
}
inline bool on_device(const void* at) {
  const allocation* a = find(at);
  return a != nullptr && a->device;
}
/// Whether the range is one that a kernel may touch. Ordinary host memory is not.
inline bool reachable(const void* at, std::size_t bytes) {
  const allocation* a = find(at);
  return a != nullptr && bytes <= a->bytes - std::size_t(static_cast<const unsigned char*>(at) - a->data);
}

inline cudaError_t allocate(void** at, std::size_t bytes, bool on_device_) {
  if (at == nullptr) return cudaErrorInvalidValue;
  *at = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (on_device_ && (bytes > device.limit || device.bytes > device.limit - bytes)) return cudaErrorMemoryAllocation;
  void* data = ::operator new(bytes, std::align_val_t(256), std::nothrow);
  if (data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(data, 0xff, bytes);
  device.allocations.push_back({static_cast<unsigned char*>(data), bytes, on_device_});
  if (on_device_) {
    device.bytes += bytes;
    device.peak = std::max(device.peak, device.bytes);
#if SIMT_ASAN
    if (device.open == 0) ASAN_POISON_MEMORY_REGION(data, bytes);
#endif
  }
  *at = data;
  return cudaSuccess;
}
inline cudaError_t release(void* at, bool on_device_) {
  if (at == nullptr) return cudaSuccess;
  for (std::size_t i = 0; i < device.allocations.size(); ++i) {
    const allocation a = device.allocations[i];
    if (a.data != at || a.device != on_device_) continue;
    if (on_device_) device.bytes -= a.bytes;
    device.allocations.erase(device.allocations.begin() + std::ptrdiff_t(i));
#if SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(at, a.bytes);
#endif
    races::writes(at, a.bytes);
    ::operator delete(at, std::align_val_t(256));
    return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

inline cudaError_t check_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidMemcpyDirection;
  if (to == nullptr || from == nullptr) return cudaErrorInvalidValue;
  for (const bool writes : {true, false}) {
    const void* at = writes ? to : from;
    const bool is = on_device(at);
    const cudaMemcpyKind to_or_from = writes ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    const bool shall = kind == cudaMemcpyDeviceToDevice || kind == to_or_from || (kind == cudaMemcpyDefault && is);
    if (is != shall || (is && !reachable(at, bytes))) return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
inline cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = check_copy(to, from, bytes, kind);
  const device_memory_open open;
  if (error != cudaSuccess || bytes == 0) return error;
  // Ordinary host memory is read and written before the call returns, so that only the other side is the stream's doing.
  if (find(from) != nullptr) races::reads(from, bytes);
  if (find(to) != nullptr) races::writes(to, bytes);
  std::memmove(to, from, bytes);
  return error;
}
inline cudaError_t fill(void* at, int value, std::size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  if (!on_device(at) || !reachable(at, bytes)) return cudaErrorInvalidValue;
  const device_memory_open open;
  races::writes(at, bytes);
  std::memset(at, value, bytes);
  return cudaSuccess;
}

}  // namespace simt

// ---- streams --------------------------------------------------------------------------------------------------------

struct CUstream_st {
  explicit CUstream_st(bool blocking) : order(blocking) {}
  std::shared_ptr<simt::capture> captured;
  simt::races::stream order;
  const int device = simt::current_device;
};
struct CUevent_st {
  bool timed = true, recorded = false;
  simt::races::clock order;
  std::chrono::steady_clock::time_point when;
  std::shared_ptr<simt::capture> captured;
};
struct CUgraph_st {
  std::vector<simt::work> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<simt::work>> nodes;
};

namespace simt {

inline bool is_default(cudaStream_t stream) { return reinterpret_cast<std::uintptr_t>(stream) <= 2; }
inline bool is_legacy(cudaStream_t stream) { return reinterpret_cast<std::uintptr_t>(stream) <= 1; }
inline bool exists(cudaStream_t stream) {
  return is_default(stream) || std::find(device.streams.begin(), device.streams.end(), stream) != device.streams.end();
}
inline capture* capture_of(cudaStream_t stream) { return is_default(stream) ? nullptr : stream->captured.get(); }

// What races.hpp knows of the two streams that always exist: the one that blocks and is blocked, and each thread's own.
inline races::stream& legacy_order() {
  static races::stream order;
  return order;
}
inline races::stream& order_of(cudaStream_t stream) {
  static races::stream of_thread;
  return is_legacy(stream) ? legacy_order() : is_default(stream) ? of_thread : stream->order;
}
/// Calls visit(order) for every stream that the legacy default stream waits for, itself not.
template <class Visit>
void for_blocking_streams(Visit visit) {
  visit(order_of(reinterpret_cast<cudaStream_t>(2)));
  for (cudaStream_t stream : device.streams)
    if (stream->order.blocking) visit(stream->order);
}
/// The work, as the stream does it: after its own earlier work, and what it waits for without being told.
template <class Work>
cudaError_t in_order(cudaStream_t stream, Work&& work_) {
  races::stream& order = order_of(stream);
  return races::as(order, [&] {
    if (is_legacy(stream))
      for_blocking_streams([](races::stream& other) { other.done.learn(); });
    else if (order.blocking)
      legacy_order().done.learn();
    return work_();
  });
}
/// The host has waited for the stream, or for all of them.
inline void waited_for(cudaStream_t stream) {
  if (is_legacy(stream)) for_blocking_streams([](races::stream& other) { other.done.learn(); });
  order_of(stream).done.learn();
}
inline void waited_for_all() {
  waited_for(nullptr);
  for (cudaStream_t stream : device.streams) stream->order.done.learn();
}

/// Invalidates the captures for which `holds`, and says whether there were any.
template <class Holds>
bool invalidate(Holds&& holds) {
  bool any = false;
  for (const auto& c : device.captures) {
    if (!holds(*c)) continue;
    c->valid = false;
    any = true;
  }
  return any;
}
/// A call that waits for the device, or may: not while a stream captures that watches this thread.
inline cudaError_t unless_capturing() {
  const bool caught = invalidate([](const capture& c) {
    return c.mode == cudaStreamCaptureModeGlobal ||
           (c.mode == cudaStreamCaptureModeThreadLocal && c.thread == std::this_thread::get_id());
  });
  return caught ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
/// The same for one that waits for this very stream.
inline cudaError_t unless_capturing(cudaStream_t stream) {
  if (!exists(stream)) return cudaErrorInvalidResourceHandle;
  if (capture* c = capture_of(stream)) {
    c->valid = false;
    return cudaErrorStreamCaptureUnsupported;
  }
  return unless_capturing();
}

/// What stands in the way of work on this stream.
inline cudaError_t check_stream(cudaStream_t stream) {
  if (!exists(stream) || (!is_default(stream) && stream->device != current_device)) return cudaErrorInvalidResourceHandle;
  if (capture* c = capture_of(stream)) return c->valid ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
  const auto global = [](const capture& c) { return c.mode == cudaStreamCaptureModeGlobal; };
  return is_legacy(stream) && invalidate(global) ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}
/// Runs the work now, or keeps it for the graph.
inline cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> work_) {
  if (const cudaError_t error = check_stream(stream)) return error;
  if (capture* c = capture_of(stream)) {
    c->nodes.push_back(std::move(work_));
    return cudaSuccess;
  }
  const device_memory_open open;
  return in_order(stream, work_);
}

inline int shared_limit(const void* kernel) {
  const auto raised = device.shared_limits.find(kernel);
  return raised == device.shared_limits.end() ? int(shared_by_default) : raised->second;
}
/// What a real device would refuse.
inline cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
  if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
  if (threads == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > max_threads)
    return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > shared_at_most) return cudaErrorInvalidConfiguration;
  return config.dynamicSmemBytes > std::size_t(shared_limit(kernel)) ? cudaErrorInvalidValue : cudaSuccess;
}

/// A kernel and its arguments, as they are copied to the device.
template <class... P>
struct bound_kernel {
  static_assert((std::is_trivially_copyable_v<std::decay_t<P>> && ...), "a kernel gets the bytes of its arguments");
  static_assert((!std::is_reference_v<P> && ...), "a kernel's arguments are values");
  static_assert((sizeof(std::decay_t<P>) + ... + 0) <= 4096, "a kernel gets 4 KiB of arguments");
  void (*kernel)(P...);
  std::tuple<std::decay_t<P>...> arguments;
  static void run(const void* self) {
    const auto& bound = *static_cast<const bound_kernel*>(self);
    std::apply(bound.kernel, bound.arguments);
  }
  static void release(void* self) {
    const races::unseen own_copy;  // of what the kernel's threads have read
    delete static_cast<bound_kernel*>(self);
  }
};

/// Everything of a launch that does not depend on the kernel's type, of which there are hundreds. Takes over what is bound.
inline cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel, void* bound_, void (*run)(const void*),
                          void (*release)(void*)) {
  const std::shared_ptr<void> bound(bound_, release);
  return call([&] {
    if (config == nullptr) return cudaErrorInvalidValue;
    if (const cudaError_t error = check_launch(*config, kernel)) return error;
    device.kernels.insert(kernel);
    return submit(config->stream, [bound, run, grid = config->gridDim, block = config->blockDim,
                                   shared = config->dynamicSmemBytes] {
      ++device.launches;
      return run_grid(grid, block, shared, run, bound.get()) ? cudaSuccess : cudaErrorLaunchFailure;
    });
  });
}

}  // namespace simt

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A));
  using bound = simt::bound_kernel<P...>;
  return simt::launch(config, reinterpret_cast<const void*>(kernel), new bound{kernel, {std::forward<A>(arguments)...}},
                      &bound::run, &bound::release);
}

// ---- devices --------------------------------------------------------------------------------------------------------

inline cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
inline cudaError_t cudaPeekAtLastError() { return simt::last_error; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return simt::call([&] { return *count = simt::device.devices, cudaSuccess; });
}
inline cudaError_t cudaSetDevice(int number) {
  return simt::call([&] {
    if (number < 0 || number >= simt::device.devices) return cudaErrorInvalidDevice;
    simt::current_device = number;
    return cudaSuccess;
  });
}
inline cudaError_t cudaGetDevice(int* number) {
  return simt::call([&] { return *number = simt::current_device, cudaSuccess; });
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  return simt::call([&] {
    if (number < 0 || number >= simt::device.devices) return cudaErrorInvalidDevice;
    *properties = {"Emulated device", simt::device.limit, simt::shared_by_default, 233472, simt::shared_at_most,
                   32, 1024, 2048, simt::device.major, simt::device.minor, 4, 1 << 20, 1};
    return cudaSuccess;
  });
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  return simt::call([&] {
    if (number < 0 || number >= simt::device.devices) return cudaErrorInvalidDevice;
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock: *value = simt::max_threads; break;
      case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(simt::shared_by_default); break;
      case cudaDevAttrWarpSize: *value = 32; break;
      case cudaDevAttrMultiProcessorCount: *value = 4; break;
      case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
      case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
      case cudaDevAttrComputeCapabilityMajor: *value = simt::device.major; break;
      case cudaDevAttrComputeCapabilityMinor: *value = simt::device.minor; break;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(simt::shared_at_most); break;
      case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
      default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
  });
}
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int number) {
  return simt::call([&] {
    if (number < 0 || number >= simt::device.devices) return cudaErrorInvalidDevice;
    return *pool = reinterpret_cast<cudaMemPool_t>(&simt::device), cudaSuccess;
  });
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return simt::call([&] { return pool && value ? cudaSuccess : cudaErrorInvalidValue; });
}

template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  return simt::call([&] {
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
    if (value < 0 || std::size_t(value) > simt::shared_at_most) return cudaErrorInvalidValue;
    simt::device.shared_limits[reinterpret_cast<const void*>(kernel)] = value;
    return cudaSuccess;
  });
}
template <class T>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, T* kernel) {
  return simt::call([&] {
    *attributes = {0, 0, 0, 1024, 32, 90, 90, simt::shared_limit(reinterpret_cast<const void*>(kernel))};
    return cudaSuccess;
  });
}
/// As if only threads and shared memory counted.
template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, T*, int threads, std::size_t shared) {
  return simt::call([&] {
    if (threads < 1) return cudaErrorInvalidValue;
    *blocks = threads > 1024 ? 0 : std::min(2048 / threads, int(233472 / (shared + 1024)));
    return cudaSuccess;
  });
}

// ---- memory calls ---------------------------------------------------------------------------------------------------

template <class T>
cudaError_t cudaMalloc(T** at, std::size_t bytes) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    return simt::allocate(reinterpret_cast<void**>(at), bytes, true);
  });
}
template <class T>
cudaError_t cudaMallocAsync(T** at, std::size_t bytes, cudaStream_t stream) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing(stream)) return error;
    return simt::allocate(reinterpret_cast<void**>(at), bytes, true);
  });
}
template <class T>
cudaError_t cudaMallocHost(T** at, std::size_t bytes, unsigned = 0) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    return simt::allocate(reinterpret_cast<void**>(at), bytes, false);
  });
}
/// cudaFree waits for the device, so that it counts as a synchronisation; cudaFreeAsync does not.
inline cudaError_t cudaFree(void* at) {
  return simt::call_to_release([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    simt::device.synchronisations += at != nullptr;
    simt::waited_for_all();
    return simt::in_order(nullptr, [&] { return simt::release(at, true); });
  });
}
inline cudaError_t cudaFreeAsync(void* at, cudaStream_t stream) {
  return simt::call_to_release([&] {
    if (const cudaError_t error = simt::unless_capturing(stream)) return error;
    return simt::in_order(stream, [&] { return simt::release(at, true); });
  });
}
inline cudaError_t cudaFreeHost(void* at) {
  return simt::call_to_release([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    simt::waited_for_all();
    return simt::in_order(nullptr, [&] { return simt::release(at, false); });
  });
}
inline cudaError_t cudaMemGetInfo(std::size_t* left, std::size_t* total) {
  return simt::call([&] {
    *total = simt::device.limit;
    *left = *total - std::min(*total, simt::device.bytes);
    return cudaSuccess;
  });
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
  return simt::call([&] {
    const simt::allocation* a = simt::find(at);
    void* const pointer = const_cast<void*>(at);
    *attributes = a == nullptr ? cudaPointerAttributes{cudaMemoryTypeUnregistered, -2, nullptr, pointer}
                  : a->device  ? cudaPointerAttributes{cudaMemoryTypeDevice, 0, pointer, nullptr}
                               : cudaPointerAttributes{cudaMemoryTypeHost, 0, pointer, pointer};
    return cudaSuccess;
  });
}

inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    ++simt::device.synchronisations;
    const cudaError_t error = simt::in_order(nullptr, [&] { return simt::copy(to, from, bytes, kind); });
    return simt::waited_for(nullptr), error;
  });
}
inline cudaError_t cudaMemset(void* at, int value, std::size_t bytes) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing()) return error;
    return simt::in_order(nullptr, [&] { return simt::fill(at, value, bytes); });
  });
}
/// Copies to the host count as a synchronisation: with ordinary host memory they are one.
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream = nullptr) {
  return simt::call([&] {
    if (const cudaError_t error = simt::check_copy(to, from, bytes, kind)) return error;
    const bool waits = bytes > 0 && simt::on_device(from) && !simt::on_device(to) && !simt::capture_of(stream);
    if (waits) ++simt::device.synchronisations;
    const cudaError_t error = simt::submit(stream, [=] { return simt::copy(to, from, bytes, kind); });
    if (waits && simt::find(to) == nullptr) simt::waited_for(stream);
    return error;
  });
}
inline cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t stream = nullptr) {
  return simt::call([&] {
    if (bytes > 0 && !(simt::on_device(at) && simt::reachable(at, bytes))) return cudaErrorInvalidValue;
    return simt::submit(stream, [=] { return simt::fill(at, value, bytes); });
  });
}

// ---- streams, events and graphs -------------------------------------------------------------------------------------

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return simt::call([&] {
    if (stream == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    simt::device.streams.push_back(*stream = new CUstream_st(flags != cudaStreamNonBlocking));
    return cudaSuccess;
  });
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return simt::call_to_release([&] {
    auto& streams = simt::device.streams;
    const auto at = std::find(streams.begin(), streams.end(), stream);
    if (at == streams.end()) return cudaErrorInvalidResourceHandle;
    streams.erase(at);
    auto& captures = simt::device.captures;
    captures.erase(std::remove(captures.begin(), captures.end(), stream->captured), captures.end());
    simt::forget(stream->order);
    delete stream;
    return cudaSuccess;
  });
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return simt::call([&] {
    if (const cudaError_t error = simt::unless_capturing(stream)) return error;
    simt::waited_for(stream);
    return ++simt::device.synchronisations, cudaSuccess;
  });
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return simt::call([&] {
    const cudaError_t error = simt::unless_capturing(stream);
    if (error == cudaSuccess) simt::waited_for(stream);
    return error;
  });
}
inline cudaError_t cudaDeviceSynchronize() {
  return simt::call([&] {
    if (simt::invalidate([](const simt::capture&) { return true; })) return cudaErrorStreamCaptureUnsupported;
    simt::waited_for_all();
    return ++simt::device.synchronisations, cudaSuccess;
  });
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return simt::call([&] {
    if (simt::is_default(stream)) return cudaErrorStreamCaptureUnsupported;
    if (!simt::exists(stream)) return cudaErrorInvalidResourceHandle;
    if (stream->captured) return cudaErrorIllegalState;
    stream->captured = std::make_shared<simt::capture>();
    stream->captured->mode = mode;
    stream->captured->thread = std::this_thread::get_id();
    stream->captured->origin = stream;
    simt::device.captures.push_back(stream->captured);
    return cudaSuccess;
  });
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return simt::call([&] {
    *graph = nullptr;
    if (!simt::exists(stream)) return cudaErrorInvalidResourceHandle;
    if (!simt::capture_of(stream)) return cudaErrorIllegalState;
    const auto ended = stream->captured;
    if (ended->origin != stream) return cudaErrorStreamCaptureUnmatched;
    if (ended->mode != cudaStreamCaptureModeRelaxed && ended->thread != std::this_thread::get_id())
      return cudaErrorStreamCaptureWrongThread;
    for (cudaStream_t joined : simt::device.streams)
      if (joined->captured == ended) joined->captured = nullptr;
    auto& captures = simt::device.captures;
    captures.erase(std::remove(captures.begin(), captures.end(), ended), captures.end());
    if (!ended->valid) return cudaErrorStreamCaptureInvalidated;
    *graph = new CUgraph_st{std::move(ended->nodes)};
    return cudaSuccess;
  });
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return simt::call([&] {
    if (!simt::exists(stream)) return cudaErrorInvalidResourceHandle;
    const simt::capture* c = simt::capture_of(stream);
    *status = c == nullptr ? cudaStreamCaptureStatusNone
              : c->valid   ? cudaStreamCaptureStatusActive
                           : cudaStreamCaptureStatusInvalidated;
    return cudaSuccess;
  });
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long = 0) {
  return simt::call([&] {
    if (executable == nullptr || graph == nullptr) return cudaErrorInvalidValue;
    *executable = new CUgraphExec_st{std::make_shared<const std::vector<simt::work>>(graph->nodes)};
    return cudaSuccess;
  });
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return simt::call([&] {
    if (executable == nullptr) return cudaErrorInvalidValue;
    return simt::submit(stream, [nodes = executable->nodes] {
      for (const simt::work& node : *nodes)
        if (const cudaError_t error = node()) return error;
      return cudaSuccess;
    });
  });
}
/// Counts the nodes; it hands out none.
inline cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return simt::call([&] {
    if (graph == nullptr || count == nullptr) return cudaErrorInvalidValue;
    *count = graph->nodes.size();
    return nodes == nullptr ? cudaSuccess : cudaErrorNotSupported;
  });
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return simt::call_to_release([&] { return delete graph, cudaSuccess; });
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return simt::call_to_release([&] { return delete executable, cudaSuccess; });
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return simt::call([&] {
    *event = new CUevent_st;
    (*event)->timed = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
  });
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return simt::call_to_release([&] { return delete event, cudaSuccess; });
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr) {
  return simt::call([&] {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = simt::check_stream(stream)) return error;
    event->recorded = true;
    event->when = std::chrono::steady_clock::now();
    event->captured = simt::is_default(stream) ? nullptr : stream->captured;
    return simt::in_order(stream, [&] { return event->order.publish(), cudaSuccess; });
  });
}
/// A stream that waits for an event of a capture takes part in the capture from then on.
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  return simt::call([&] {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = simt::check_stream(stream)) return error;
    const auto& captures = simt::device.captures;
    const bool active = std::find(captures.begin(), captures.end(), event->captured) != captures.end();
    if (!active && event->captured) return cudaErrorCapturedEvent;
    if (!active) return simt::in_order(stream, [&] { return event->order.learn(), cudaSuccess; });
    if (simt::is_default(stream)) return cudaErrorStreamCaptureImplicit;
    stream->captured = event->captured;
    return cudaSuccess;
  });
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return simt::call([&] {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t error = simt::unless_capturing()) return error;
    if (event->captured) return cudaErrorCapturedEvent;
    event->order.learn();
    return ++simt::device.synchronisations, cudaSuccess;
  });
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  return simt::call([&] {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->captured) return cudaErrorCapturedEvent;
    return event->order.learn(), cudaSuccess;
  });
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  return simt::call([&] {
    for (cudaEvent_t event : {begin, end}) {
      if (event == nullptr || !event->timed || !event->recorded) return cudaErrorInvalidResourceHandle;
      if (event->captured) return cudaErrorCapturedEvent;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->when - begin->when).count();
    return cudaSuccess;
  });
}
