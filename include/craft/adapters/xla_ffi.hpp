// XLA's foreign function interface: handlers that JAX, and whatever else compiles with XLA, can call.
//
//     namespace handlers = craft::xla_ffi;
//     XLA_FFI_DEFINE_HANDLER_SYMBOL(my_mmd, handlers::on_cpu<handlers::mmd>, handlers::cpu_binding());
//
// and in JAX (craft_align.jax does all of this, with gradients):
//
//     jax.ffi.register_ffi_target("my_mmd", jax.ffi.pycapsule(library.my_mmd), platform="cpu")
//     value, dx = jax.ffi.ffi_call("my_mmd", [value_type, x_type])(
//         x, y, inputs="x,y", outputs="value,x", kernel="gaussian", bandwidths=numpy.float64([0.5, 1, 2]))
//
// Buffers have no names in XLA, so two attributes say what they are: `inputs` and `outputs`, in the order of the call.
// Outputs are "value" and the gradients by the names of the inputs, as many as are wanted; they are computed in one
// call. A loss's output "log_scale" may hold two numbers: its gradient, and that of -value (see alignment_gradients). All
// other attributes are options of the verb, by the names in its options struct, with the same defaults: strings for
// enumerators and the kernel's family, booleans, int64, float64, and arrays of float64 for bandwidths and weights. Scales
// and biases that are learned are inputs, read when the handler runs, or attributes.
//
// Element types are those of the buffers; values and gradients have the computing type. Buffers are dense, so nothing
// is copied. Errors are INVALID_ARGUMENT with craft's text; an unknown name is one too. Nothing is kept between calls,
// but for a cuBLAS handle per thread and device.
//
// CPU: the handler's thread, helped by XLA's own thread pool. CUDA (where craft/cuda.hpp is on the include path): XLA's
// stream, scratch memory from its allocator. Include xla/ffi/api/ffi.h from `jax.ffi.include_dir()`; link
// craft::runtime.
#pragma once

#include <algorithm>
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

// ---------------------------------------------------------------------------------------------------------
// One call

/// Buffers and attributes by name, as craft's arguments. Throws type_error, shape_error or option_error.
class call {
 public:
  /// verb: its name, for errors. where: in which memory all buffers lie.
  call(const char* verb, memory where, const ffi::RemainingArgs& inputs, const ffi::RemainingRets& outputs,
       const ffi::Dictionary& attributes)
      : verb_(verb), where_(where), inputs_(inputs), outputs_(outputs), attributes_(attributes) {
    input_names_ = names("inputs", inputs.size());
    output_names_ = names("outputs", outputs.size());
  }

  // ---- buffers; missing ones are empty

  /// A matrix of samples by rows.
  runtime::matrix matrix(const char* name) {
    const buffer b = input(name);
    return b.given ? runtime::matrix{b.data, b.rows, b.cols, b.cols, real_type(name, b), where_} : runtime::matrix{};
  }
  /// int32 or int64.
  craft::labels labels(const char* name) {
    const buffer b = input(name);
    if (!b.given) return {};
    one_per_row(name, b);
    if (b.type == ffi::S32) return craft::labels(static_cast<const std::int32_t*>(b.data), b.rows, where_);
    require<type_error>(b.type == ffi::S64, verb_, ": ", name, " must be int32 or int64");
    return craft::labels(static_cast<const std::int64_t*>(b.data), b.rows, where_);
  }
  /// Weights: float32 or float64.
  craft::numbers numbers(const char* name) {
    const buffer b = input(name);
    if (!b.given) return {};
    one_per_row(name, b);
    return real_type(name, b) == runtime::dtype::float64
               ? craft::numbers(static_cast<const double*>(b.data), b.rows, where_)
               : craft::numbers(static_cast<const float*>(single(name, b)), b.rows, where_);
  }
  /// An input of one number, else an attribute, else `otherwise`.
  craft::scalar scalar(const char* name, const craft::scalar& otherwise) {
    const buffer b = input(name);
    if (!b.given) return craft::scalar(number(name, otherwise.value()));
    require<shape_error>(b.rows == 1 && b.cols == 1, verb_, ": ", name, " must be one number, got ", b.rows, " x ", b.cols);
    return real_type(name, b) == runtime::dtype::float64 ? craft::scalar(static_cast<const double*>(b.data), where_)
                                                         : craft::scalar(static_cast<const float*>(single(name, b)), where_);
  }
  /// Whether the input is a matrix, where it may also be labels.
  bool is_matrix(const char* name) { return input(name).rank == 2; }

  /// A result that is overwritten.
  runtime::place output(const char* name) {
    const buffer b = find(name, output_names_, [&](std::size_t at) {
      auto found = outputs_.get<ffi::AnyBuffer>(at);
      require<type_error>(found.has_value(), verb_, ": ", name, " is not a buffer");
      return **found;
    });
    if (!b.given) return {};
    return {b.data, b.rows, b.cols, b.cols, real_type(name, b), where_, write::overwrite};
  }
  /// The place of `count` numbers of the type that x is computed in.
  void* value(const char* name, const runtime::matrix& x, index_t count = 1) {
    const runtime::place p = output(name);
    require<option_error>(p.data != nullptr, verb_, ": outputs must have ", name);
    require<shape_error>(p.rows * p.cols == count, verb_, ": ", name, " must hold ", count, " numbers, got ", p.rows, " x ",
                         p.cols);
    require<type_error>(p.type == runtime::computing(x.type), verb_, ": ", name, " must be of the computing type");
    return p.data;
  }

  // ---- attributes; missing ones are `otherwise`

  /// A float64.
  double number(const char* name, double otherwise) { return attribute<double>(name, otherwise, "a float64"); }
  /// A boolean.
  bool flag(const char* name, bool otherwise) { return attribute<bool>(name, otherwise, "a boolean"); }
  /// An int64.
  index_t integer(const char* name, index_t otherwise) { return attribute<std::int64_t>(name, otherwise, "an int64"); }
  /// A string.
  std::string text(const char* name, const char* otherwise) {
    return std::string(attribute<std::string_view>(name, otherwise, "a string"));
  }
  /// Numbers; missing: none.
  std::vector<double> list(const char* name) {
    const auto all = attribute<ffi::Span<const double>>(name, {}, "an array of float64");
    return {all.begin(), all.end()};
  }
  /// An option by the name of its enumerator.
  template <class Enum>
  Enum named(const char* name, Enum otherwise) {
    const std::string given = text(name, "");
    return given.empty() ? otherwise : runtime::named<Enum>(given);
  }
  /// A kernel by its family, with the attributes beside it.
  runtime::kernel kernel(const char* name, const char* otherwise) {
    const std::string family = text(name, otherwise);
    std::vector<double> bandwidths = list("bandwidths");
    const std::vector<double> weights = list("kernel_weights");
    const double shape = number("shape", 0);
    if (bandwidths.empty() && family == "gaussian") bandwidths = {1};
    return {family, bandwidths, weights, shape};
  }

  /// All that was given must have been asked for: what nobody knows would silently not count.
  void check_names() const {
    for (const auto& [given, what] : {std::pair(&input_names_, "input"), {&output_names_, "output"}})
      for (const std::string& name : *given)
        require<option_error>(std::find(buffers_asked_.begin(), buffers_asked_.end(), name) != buffers_asked_.end(), verb_,
                              ": unknown ", what, " ", name);
    // Only the newest interface lets attributes be listed; all of them can be counted.
    std::string found;
    for (const std::string& name : attributes_found_) found += (found.empty() ? "" : ", ") + name;
    require<option_error>(attributes_.size() == attributes_found_.size(), verb_, ": there are ", attributes_.size(),
                          " attributes, of which only these are known: ", found);
  }

 private:
  struct buffer {
    bool given = false;
    void* data = nullptr;
    ffi::DataType type = ffi::DataType::INVALID;
    index_t rank = 0, rows = 1, cols = 1;
  };

  std::vector<std::string> names(const char* attribute_name, std::size_t count) {
    const std::string all = text(attribute_name, "");
    std::vector<std::string> list;
    for (std::size_t at = 0; at < all.size();) {
      const std::size_t end = std::min(all.find(',', at), all.size());
      list.push_back(all.substr(at, end - at));
      at = end + 1;
    }
    require<option_error>(list.size() == count, verb_, ": ", attribute_name, " names ", list.size(),
                          " buffers, but the call has ", count);
    return list;
  }
  template <class Get>
  buffer find(const char* name, const std::vector<std::string>& among, const Get& get) {
    buffers_asked_.emplace_back(name);
    const auto at = std::find(among.begin(), among.end(), name);
    if (at == among.end()) return {};
    const ffi::AnyBuffer given = get(std::size_t(at - among.begin()));
    const auto dims = given.dimensions();
    if (dims.size() > 2)
      fail<shape_error>(verb_, ": ", runtime::detail::no_matrix(name, dims.begin(), int(dims.size())));
    return {true, given.untyped_data(), given.element_type(), index_t(dims.size()), dims.size() > 0 ? dims[0] : 1,
            dims.size() > 1 ? dims[1] : 1};
  }
  buffer input(const char* name) {
    return find(name, input_names_, [&](std::size_t at) {
      const auto found = inputs_.get<ffi::AnyBuffer>(at);
      require<type_error>(found.has_value(), verb_, ": ", name, " is not a buffer");
      return *found;
    });
  }
  runtime::dtype real_type(const char* name, const buffer& b) const {
    switch (b.type) {
      case ffi::F64: return runtime::dtype::float64;
      case ffi::F32: return runtime::dtype::float32;
      case ffi::F16: return runtime::dtype::float16;
      case ffi::BF16: return runtime::dtype::bfloat16;
      default: fail<type_error>(verb_, ": ", name, " must be float64, float32, float16 or bfloat16");
    }
  }
  void one_per_row(const char* name, const buffer& b) const {
    const std::int64_t sizes[] = {b.rows, b.cols};
    if (b.rank != 1) fail<shape_error>(verb_, ": ", runtime::detail::no_list(name, sizes, int(b.rank)));
  }
  const void* single(const char* name, const buffer& b) const {
    require<type_error>(b.type == ffi::F32, verb_, ": ", name, " must be float64 or float32");
    return b.data;
  }
  template <class T>
  T attribute(const char* name, T otherwise, const char* expected) {
    if (!attributes_.contains(name)) return otherwise;
    attributes_found_.emplace_back(name);
    const auto found = attributes_.get<T>(name);
    require<option_error>(found.has_value(), verb_, ": attribute ", name, " must be ", expected);
    return *found;
  }
  const char* verb_;
  memory where_;
  const ffi::RemainingArgs& inputs_;
  const ffi::RemainingRets& outputs_;
  const ffi::Dictionary& attributes_;
  std::vector<std::string> input_names_, output_names_, buffers_asked_, attributes_found_;
};

// ---------------------------------------------------------------------------------------------------------
// The verbs. Each reads its arguments and gives what is to be run on the device.

namespace detail {

template <class Options>
void read_scale(call& c, Options& o) {
  o.log_scale = c.scalar("log_scale", o.log_scale);
  o.max_scale = c.number("max_scale", o.max_scale);
}
inline mmd_options read_mmd_options(call& c) {
  mmd_options o;
  o.estimator = c.named("estimator", o.estimator);
  o.bandwidth.rule = c.named("bandwidth_rule", o.bandwidth.rule);
  o.bandwidth.sample = c.named("bandwidth_sample", o.bandwidth.sample);
  o.bandwidth.gradient = c.flag("bandwidth_gradient", o.bandwidth.gradient);
  o.columns = c.named("columns", o.columns);
  o.column_gradient = c.flag("column_gradient", o.column_gradient);
  o.column_eps = c.number("column_eps", o.column_eps);
  o.x_weights = c.numbers("x_weights");
  o.y_weights = c.numbers("y_weights");
  o.factor = c.number("factor", o.factor);
  o.offset = c.number("offset", o.offset);
  return o;
}
inline relative_options read_relative_options(call& c) {
  relative_options o;
  o.normalise = c.flag("normalise", o.normalise);
  o.statistics = c.named("statistics", o.statistics);
  o.statistics_gradient = c.flag("statistics_gradient", o.statistics_gradient);
  read_scale(c, o);
  return o;
}

}  // namespace detail

/// Inputs x, y, x_weights, y_weights; outputs value, x, y, x_weights, y_weights.
inline void mmd(call& c, const any_device& device) {
  const auto x = c.matrix("x"), y = c.matrix("y");
  const auto kernel = c.kernel("kernel", "gaussian");
  const auto o = detail::read_mmd_options(c);
  void* value = c.value("value", x);
  const runtime::mmd_outputs g{c.output("x"), c.output("y"), {}, {}, c.output("x_weights"), c.output("y_weights")};
  c.check_names();
  runtime::mmd(device, x, y, kernel, o, value, g);
}

/// Inputs x, y, x_labels, y_labels, weights, log_scale; outputs value, x, y, log_scale, weights.
inline void info_nce(call& c, const any_device& device) {
  const auto x = c.matrix("x"), y = c.matrix("y");
  contrastive_options o;
  detail::read_scale(c, o);
  o.normalise = c.flag("normalise", o.normalise);
  o.direction = c.named("direction", o.direction);
  o.x_labels = c.labels("x_labels");
  o.y_labels = c.labels("y_labels");
  o.label_smoothing = c.number("label_smoothing", o.label_smoothing);
  o.weights = c.numbers("weights");
  void* value = c.value("value", x);
  const runtime::alignment_outputs g{c.output("x"), c.output("y"), c.output("log_scale"), {}, c.output("weights")};
  c.check_names();
  runtime::info_nce(device, x, y, o, value, g);
}

/// Inputs x, y, x_labels, y_labels, log_scale, bias; outputs value, x, y, log_scale, bias.
inline void sigmoid_contrastive(call& c, const any_device& device) {
  const auto x = c.matrix("x"), y = c.matrix("y");
  sigmoid_options o;
  detail::read_scale(c, o);
  o.bias = c.scalar("bias", o.bias);
  o.normalise = c.flag("normalise", o.normalise);
  o.x_labels = c.labels("x_labels");
  o.y_labels = c.labels("y_labels");
  void* value = c.value("value", x);
  const runtime::alignment_outputs g{c.output("x"), c.output("y"), c.output("log_scale"), c.output("bias")};
  c.check_names();
  runtime::sigmoid_contrastive(device, x, y, o, value, g);
}

/// Inputs x, anchors, targets (n labels, or n x C shares), weights, log_scale; outputs value, x, anchors, log_scale, weights,
/// targets (of shares).
inline void anchor_cross_entropy(call& c, const any_device& device) {
  const auto x = c.matrix("x"), anchors = c.matrix("anchors");
  cross_entropy_options o;
  detail::read_scale(c, o);
  o.normalise = c.flag("normalise", o.normalise);
  o.label_smoothing = c.number("label_smoothing", o.label_smoothing);
  o.ignore_label = c.integer("ignore_label", o.ignore_label);
  o.weights = c.numbers("weights");
  o.reduce = c.named("reduction", o.reduce);
  void* value = c.value("value", x);
  const runtime::alignment_outputs g{c.output("x"), c.output("anchors"), c.output("log_scale"), {}, c.output("weights"),
                                     c.output("targets")};
  if (c.is_matrix("targets")) {
    const auto shares = c.matrix("targets");
    c.check_names();
    runtime::anchor_cross_entropy(device, x, anchors, shares, o, value, g);
  } else {
    const auto targets = c.labels("targets");
    c.check_names();
    runtime::anchor_cross_entropy(device, x, anchors, targets, o, value, g);
  }
}

/// Inputs x, anchors, log_scale; output value (n x C).
inline void relative(call& c, const any_device& device) {
  const auto x = c.matrix("x"), anchors = c.matrix("anchors");
  const auto similarity = c.kernel("similarity", "dot_product");
  const auto o = detail::read_relative_options(c);
  const auto out = c.output("value");
  c.check_names();
  runtime::relative(device, x, anchors, similarity, o, out);
}

/// Inputs x, anchors, log_scale, dout (n x C); outputs x, anchors, log_scale.
inline void relative_pullback(call& c, const any_device& device) {
  const auto x = c.matrix("x"), anchors = c.matrix("anchors"), dout = c.matrix("dout");
  const auto similarity = c.kernel("similarity", "dot_product");
  const auto o = detail::read_relative_options(c);
  const runtime::relative_outputs g{c.output("x"), c.output("anchors"), c.output("log_scale")};
  c.check_names();
  runtime::relative_pullback(device, x, anchors, similarity, o, dout, g);
}

/// Inputs images, class_texts, targets, batch_texts, image_anchors, target_images, log_scale; outputs value (text,
/// image, batch, mmd, total) and gradients of the total by the names of the inputs. Options of the discrepancy are
/// those of mmd; weights: text, image, batch, mmd.
inline void objective(call& c, const any_device& device) {
  runtime::objective_inputs in;
  in.images = c.matrix("images");
  in.class_texts = c.matrix("class_texts");
  in.targets = c.labels("targets");
  in.batch_texts = c.matrix("batch_texts");
  in.image_anchors = c.matrix("image_anchors");
  in.target_images = c.matrix("target_images");
  objective_options o;
  o.text = c.number("text", o.text);
  o.image = c.number("image", o.image);
  o.batch = c.number("batch", o.batch);
  o.mmd = c.number("mmd", o.mmd);
  detail::read_scale(c, o);
  o.label_smoothing = c.number("label_smoothing", o.label_smoothing);
  o.direction = c.named("direction", o.direction);
  o.same_class_positives = c.flag("same_class_positives", o.same_class_positives);
  o.discrepancy = detail::read_mmd_options(c);
  const auto kernel = c.kernel("kernel", "gaussian");
  void* values = c.value("value", in.images, 5);
  const runtime::objective_outputs g{c.output("images"),        c.output("class_texts"),   c.output("batch_texts"),
                                     c.output("image_anchors"), c.output("target_images"), c.output("log_scale")};
  c.check_names();
  runtime::objective(device, in, kernel, o, values, g);
}

/// What the handlers are made of: one of the functions above.
using verb = void(call& c, const any_device& device);

namespace detail {

constexpr const char* name_of(verb* v) {
  return v == mmd                    ? "mmd"
         : v == info_nce             ? "info_nce"
         : v == sigmoid_contrastive  ? "sigmoid_contrastive"
         : v == anchor_cross_entropy ? "anchor_cross_entropy"
         : v == relative             ? "relative"
         : v == relative_pullback    ? "relative_pullback"
         : v == objective            ? "objective"
                                     : "craft";
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

/// A verb as a handler on the CPU.
template <verb* Verb>
ffi::Error on_cpu(ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs, ffi::Dictionary attributes) {
  return detail::guarded([&] {
    call c(detail::name_of(Verb), memory::host, inputs, outputs, attributes);
    cpu context(1);
    if (const int threads = int(pool.num_threads()); threads > 1)
      context.parallel_for(
          [&pool](index_t count, const cpu::body_function& body) { detail::run_on(pool, count, body); }, threads);
    Verb(c, any_device(std::move(context)));
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

/// A verb as a handler on a GPU: in XLA's stream, on the device that XLA has made current. Not to be captured in a
/// command buffer: labels and scales are read, but scratch memory is asked for anew in every call.
template <verb* Verb>
ffi::Error on_cuda(cudaStream_t stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs inputs, ffi::RemainingRets outputs,
                   ffi::Dictionary attributes) {
  return detail::guarded([&] {
    call c(detail::name_of(Verb), memory::device, inputs, outputs, attributes);
    craft::cuda context(stream, detail::handle_for(stream));
    context.scratch().use(
        [&scratch](std::size_t bytes) {
          const auto memory = scratch.Allocate(bytes, 256);
          if (!memory) throw std::bad_alloc();
          return *memory;
        },
        [](void*, std::size_t) {});  // all of it goes back when the handler ends
    Verb(c, any_device(std::move(context)));
  });
}

#endif

}  // namespace craft::xla_ffi
