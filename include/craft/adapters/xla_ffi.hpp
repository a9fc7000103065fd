// XLA's foreign function interface: handlers that JAX, and whatever else compiles with XLA, can call.
//
//     XLA_FFI_DEFINE_HANDLER_SYMBOL(my_craft, craft::xla_ffi::on_cpu, craft::xla_ffi::cpu_binding());
//
// and in JAX (craft_align does all of this, with gradients):
//
//     jax.ffi.register_ffi_target("my_craft", jax.ffi.pycapsule(library.my_craft), platform="cpu")
//     value, dx = jax.ffi.ffi_call("my_craft", [value_type, x_type])(
//         x, y, verb="mmd", inputs="x,y", outputs="value,x", kernel="gaussian", bandwidths=numpy.float64([0.5, 1, 2]))
//
// One handler calls every verb (craft/adapters/runtime.hpp): the attribute `verb` is its name. Buffers have no names in XLA, so two
// attributes say what they are: `inputs` and `outputs`, in the order of the call. Outputs are the verb's results and the gradients by
// the names of the inputs, as many as are wanted; they are computed in one call. A loss's output "log_scale" may hold two numbers: its
// gradient, and that of -value (see alignment_gradients). All other attributes are options by their names, with the verb's defaults:
// strings, booleans, int64, float64, arrays of float64 or int64. Numbers that may be learned are inputs, read when the handler runs, or
// attributes.
//
// Element types are those of the buffers; values and gradients have the computing type. Buffers are dense, so nothing
// is copied. Errors are INVALID_ARGUMENT with craft's text; an unknown name is one too. Nothing is kept between calls,
// but for a cuBLAS handle per thread and device.
//
// CPU: the handler's thread, helped by XLA's own thread pool. CUDA (where craft/cuda.hpp is on the include path): XLA's
// stream, scratch memory from its allocator. Include xla/ffi/api/ffi.h from `jax.ffi.include_dir()`; link
// craft::runtime.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "craft/adapters/runtime.hpp"
#include "xla/ffi/api/ffi.h"

namespace craft::xla_ffi {

namespace ffi = ::xla::ffi;

namespace detail {

inline std::vector<std::string_view> names(std::string_view all) {
  std::vector<std::string_view> list;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = (std::min)(all.find(',', at), all.size());
    list.push_back(all.substr(at, end - at));
    at = end + 1;
  }
  return list;
}

inline runtime::dtype type_of(ffi::DataType type) {
  switch (type) {
    case ffi::F64: return runtime::dtype::float64;
    case ffi::F32: return runtime::dtype::float32;
    case ffi::F16: return runtime::dtype::float16;
    case ffi::BF16: return runtime::dtype::bfloat16;
    case ffi::S64: return runtime::dtype::int64;
    case ffi::S32: return runtime::dtype::int32;
    default: return runtime::dtype::other;
  }
}

/// Attributes by name, and how many of them were asked for.
class options {
 public:
  explicit options(const ffi::Dictionary& all) : all_(all) {}
  /// f(value), if there is one of that name. Throws type_error if it is no T.
  template <class T, class F>
  void get(const char* name, const char* expected, const F& f) {
    if (!all_.contains(name)) return;
    ++count_;
    const auto found = all_.get<T>(name);
    require<type_error>(found.has_value(), "attribute ", name, " must be ", expected);
    f(*found);
  }
  std::string_view text(const char* name) {
    std::string_view found;
    get<std::string_view>(name, "a string", [&](std::string_view s) { found = s; });
    return found;
  }
  /// Only the newest interface lets attributes be listed; all of them can be counted.
  void all_asked_for(const runtime::verb& verb) const {
    if (all_.size() == count_) return;
    std::string known = "verb, inputs, outputs";
    for (const runtime::field& f : verb.fields)
      if (all_.contains(f.name)) known += std::string(", ") + f.name;
    fail<option_error>(verb.name, ": there are ", all_.size(), " attributes, of which only these are known: ", known);
  }

 private:
  const ffi::Dictionary& all_;
  std::size_t count_ = 0;
};

inline void give(runtime::call& c, int field, options& all) {
  const runtime::field& f = c.verb().fields[std::size_t(field)];
  const auto as_it_is = [&](const auto& value) { c.give(field, value); };
  const auto as_list = [&](const auto& span) {
    c.give(field, std::vector<std::decay_t<decltype(*span.begin())>>(span.begin(), span.end()));
  };
  switch (f.kind) {
    case runtime::kind::scalar:
    case runtime::kind::number: return all.get<double>(f.name, "a float64", as_it_is);
    case runtime::kind::whole:
      return all.get<std::int64_t>(f.name, "an int64", [&](std::int64_t value) { c.give(field, index_t(value)); });
    case runtime::kind::flag: return all.get<bool>(f.name, "a boolean", as_it_is);
    case runtime::kind::choice: return all.get<std::string_view>(f.name, "a string", as_it_is);
    case runtime::kind::list: return all.get<ffi::Span<const double>>(f.name, "an array of float64", as_list);
    case runtime::kind::wholes: return all.get<ffi::Span<const std::int64_t>>(f.name, "an array of int64", as_list);
    default: return;  // buffers only
  }
}

inline runtime::array array_of(const ffi::AnyBuffer& b, memory where) {
  const auto sizes = b.dimensions();
  return {b.untyped_data(), type_of(b.element_type()), where, int(sizes.size()), sizes.begin(), nullptr, nullptr};
}
inline runtime::place place_of(const ffi::AnyBuffer& b, memory where) {
  const auto sizes = b.dimensions();
  const index_t rows = sizes.size() > 1 ? sizes[0] : 1, cols = index_t(b.element_count()) / std::max<index_t>(rows, 1);
  return {b.untyped_data(), rows, cols, cols, type_of(b.element_type()), where, write::overwrite};
}

/// The call that buffers and attributes describe, run on `device`. to_host(pointer, bytes, to): what lies in its memory.
inline void run(const any_device& device, const ffi::RemainingArgs& inputs, const ffi::RemainingRets& outputs,
                const ffi::Dictionary& attributes, engine::function_ref<void(const void*, std::size_t, void*)> to_host) {
  const memory where = device.space();
  options all(attributes);
  runtime::call c(all.text("verb"));
  const auto input_names = names(all.text("inputs")), output_names = names(all.text("outputs"));
  require<option_error>(input_names.size() == inputs.size() && output_names.size() == outputs.size(), c.verb().name, ": inputs names ",
                        input_names.size(), " and outputs ", output_names.size(), " buffers, but the call has ", inputs.size(), " and ",
                        outputs.size());
  std::vector<std::vector<char>> kept(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto found = inputs.get<ffi::AnyBuffer>(i);
    require<type_error>(found.has_value(), c.verb().name, ": ", input_names[i], " is not a buffer");
    const int field = c.verb().field_named(input_names[i]);
    runtime::array a = array_of(*found, where);
    if (where == memory::device && c.verb().fields[std::size_t(field)].kind == runtime::kind::list) {
      kept[i].resize(found->size_bytes());
      to_host(a.data, kept[i].size(), kept[i].data());
      a.data = kept[i].data(), a.where = memory::host;
    }
    c.give(field, a);
  }
  for (int field = 0; field < int(c.verb().fields.size()); ++field)
    if (!c.given(field)) give(c, field, all);
  all.all_asked_for(c.verb());
  c.check();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    auto found = outputs.get<ffi::AnyBuffer>(i);
    require<type_error>(found.has_value(), c.verb().name, ": ", output_names[i], " is not a buffer");
    const runtime::place to = place_of(**found, where);
    bool result = false;
    for (const auto& r : c.verb().results) result |= output_names[i] == r.name;
    if (result)
      c.result(c.verb().result_named(output_names[i]), to);
    else
      c.gradient(c.verb().gradient_named(output_names[i]), to);
  }
  c.run(device);
}

template <class F>
ffi::Error guarded(const F& f) {
  try {
    f();
    return ffi::Error::Success();
  } catch (const device_error& e) {
    return ffi::Error(ffi::ErrorCode::kInternal, e.what());
  } catch (const error& e) {
    return ffi::Error::InvalidArgument(e.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& e) {
    return ffi::Error::Internal(e.what());
  }
}

/// body(0) ... body(count - 1) on XLA's pool and this thread. This thread does whatever no other has begun, so it never
/// waits for a pool that is busy with what waits for this thread.
inline void run_on(ffi::ThreadPool& pool, index_t count, const cpu::body_function& body) {
  struct work {
    const cpu::body_function* body;  // not looked at once all are begun
    index_t count;
    std::atomic<index_t> begun{0};
    index_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
    void help() {
      for (index_t i = begun++; i < count; i = begun++) {
        (*body)(i);
        const std::lock_guard<std::mutex> lock(mutex);
        if (++done == count) all_done.notify_all();
      }
    }
  };
  const auto shared = std::make_shared<work>();
  shared->body = &body;
  shared->count = count;
  for (index_t i = 1; i < count; ++i) pool.Schedule([shared] { shared->help(); });
  shared->help();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------
// Handlers

/// What a handler on the CPU is bound to.
inline auto cpu_binding() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs(); }

/// Every verb on the CPU.
inline ffi::Error on_cpu(ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs, ffi::Dictionary attributes) {
  return detail::guarded([&] {
    cpu context(1);
    if (const int threads = int(pool.num_threads()); threads > 1)
      context.parallel_for(
          [&pool](index_t count, const cpu::body_function& body) { detail::run_on(pool, count, body); }, threads);
    detail::run(any_device(std::move(context)), inputs, outputs, attributes,
                [](const void*, std::size_t, void*) {});
  });
}

#if __has_include("craft/cuda.hpp")

namespace detail {

/// This thread's cuBLAS handle for its current device. Made once: that takes milliseconds and waits.
inline cublasHandle_t handle_for(cudaStream_t stream) {
  struct handles {
    std::vector<cublasHandle_t> of_device;
    ~handles() {
      for (const cublasHandle_t h : of_device)
        if (h != nullptr) cublasDestroy(h);
    }
  };
  thread_local handles kept;
  int device = 0;
  engine::cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  if (kept.of_device.size() <= std::size_t(device)) kept.of_device.resize(std::size_t(device) + 1);
  cublasHandle_t& handle = kept.of_device[std::size_t(device)];
  if (handle == nullptr) engine::cublas_check(cublasCreate(&handle), "cublasCreate");
  engine::cublas_check(cublasSetStream(handle, stream), "cublasSetStream");
  return handle;
}

}  // namespace detail

inline auto cuda_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<cudaStream_t>>()
      .Ctx<ffi::ScratchAllocator>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

/// Every verb on a GPU: in XLA's stream, on the device that XLA has made current; one whose results the host finds, or that is given
/// bandwidths or weights of a kernel as buffers, waits. Not to be captured in a command buffer: scratch memory is asked for anew in
/// every call.
inline ffi::Error on_cuda(cudaStream_t stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs inputs, ffi::RemainingRets outputs,
                   ffi::Dictionary attributes) {
  return detail::guarded([&] {
    craft::cuda context(stream, detail::handle_for(stream));
    context.scratch().use(
        [&scratch](std::size_t bytes) {
          const auto memory = scratch.Allocate(bytes, 256);
          if (!memory) throw std::bad_alloc();
          return *memory;
        },
        [](void*, std::size_t) {});  // all of it goes back when the handler ends
    detail::run(any_device(std::move(context)), inputs, outputs, attributes, [stream](const void* from, std::size_t bytes, void* to) {
      engine::cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
      engine::cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    });
  });
}

#endif

}  // namespace craft::xla_ffi
