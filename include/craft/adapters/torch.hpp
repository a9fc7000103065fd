// PyTorch and LibTorch (1.13 and later): the losses as differentiable functions of at::Tensor, on the CPU and on CUDA devices.
//
//     craft::aten::mmd_options options;
//     options.bandwidth_rule = "median";
//     at::Tensor loss = craft::aten::mmd(source, target, options);
//     loss.backward();
//
// They call operators of the library "craft", which one source of the program registers (craft/adapters/torch_library.hpp)
// and which Python sees as torch.ops.craft. Matrices hold one sample per row: n x d, float64, float32, float16 or bfloat16.
//
// Copied: nothing, where the numbers of a row lie side by side (stride(1) == 1) and rows do not overlap; else the operator
// makes the tensor contiguous first. Kept alive between forward and backward: the gradients (of those inputs that require
// them), and for `relative` the inputs. Work is done on the calling thread and at::get_num_threads() threads, or in the
// current CUDA stream with torch's cuBLAS handle and caching allocator; nothing waits for the GPU unless said so below.
//
// Values and gradients are computed in float64 for float64, else in float32; values and relative representations are
// returned so, gradients are converted to the type of their input at last, so that those of half precision do not
// underflow on the way. Derivatives are of first order; a second one is an error. Weights and soft targets have a gradient where
// they require one, which those on the CPU cannot where x is on a GPU.
//
// Errors: TypeError for a type, ValueError for shapes, options and names, IndexError for a label out of range (on the
// CPU; in CUDA memory such a label makes the value NaN, since nothing waits to look), c10::Error for devices.
//
// A loss of a batch is no sum over its rows: gradients accumulated over micro-batches are not those of the whole batch, and
// in data-parallel training every process has the loss of its own rows, unless features are gathered first.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/DeviceGuard.h>

#include <list>
#include <string>
#include <utility>
#include <vector>

#include "craft/adapters/runtime.hpp"
#ifdef CRAFT_TORCH_CUDA  // defined by builds that link both torch_cuda and craft::cuda_library
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#endif

namespace craft::aten {

using at::Tensor;
/// What may be left out, in the type that torch's own signatures have.
template <class T>
using optional = c10::optional<T>;

// ---------------------------------------------------------------------------------------------------------
// The losses. Options have the verbs' names; enumerators are given by theirs, as in "unbiased". A tensor that is not defined is
// not given.

/// Options of mmd, as in craft/mmd.hpp; the kernel as craft::runtime::kernel takes it.
struct mmd_options {
  std::string kernel = "gaussian";                     ///< the family
  optional<std::vector<double>> bandwidths{};          ///< one for each kernel of the sum; none: 1 for "gaussian"
  optional<std::vector<double>> weights{};             ///< as many; none: 1 each
  double shape = 0;                                    ///< alpha of rational_quadratic, floor or eps of others
  Tensor learnable_bandwidths{}, learnable_weights{};  ///< instead of those above, with gradient; in CUDA memory the call waits
  std::string estimator = "biased";                    ///< or "unbiased", "linear"
  std::string bandwidth_rule = "fixed";                ///< or "mean", "mean_offdiagonal", "median", "median_mid"
  std::string bandwidth_sample = "pooled";             ///< or "x"
  bool bandwidth_gradient = false;                     ///< whether the gradient runs through the rule
  std::string columns = "none";                        ///< or "minmax_separate", "minmax_joint"
  bool column_gradient = true;                         ///< whether the gradient runs through minimum and maximum
  double column_eps = 1e-8;                            ///< > 0: what a constant column is divided by
  Tensor x_weights{}, y_weights{};                     ///< of the samples, n and m numbers >= 0, with gradient; not with "linear"
  double factor = 1, offset = 0;                       ///< value = factor * MMD^2 + offset
};

/// What the following options begin with. The scale is min(exp(log_scale), max_scale); at max_scale log_scale has a gradient
/// only if it leads back inside (craft/alignment.hpp), what comes from above included.
struct scale_options {
  Tensor log_scale{};            ///< one number, with gradient; by default log 100, log 10 of sigmoid_contrastive, 0 of relative
  optional<double> max_scale{};  ///< none: no limit
  bool normalise = true;         ///< divide rows by their norm
};

/// Options of anchor_cross_entropy.
struct cross_entropy_options : scale_options {
  double label_smoothing = 0;      ///< in [0, 1]
  int64_t ignore_label = -100;     ///< rows with this label take no part
  Tensor weights{};                ///< of the rows, n numbers >= 0, with gradient
  std::string reduction = "mean";  ///< or "sum"
};

/// Options of info_nce.
struct info_nce_options : scale_options {
  std::string direction = "symmetric";  ///< or "one_way"
  Tensor x_labels{}, y_labels{};        ///< both: all pairs of a class belong together; none: row i and row i
  double label_smoothing = 0;           ///< in [0, 1]
  Tensor weights{};                     ///< of the rows, n numbers >= 0, with gradient
};

/// Options of sigmoid_contrastive.
struct sigmoid_options : scale_options {
  Tensor bias{};                  ///< one number, with gradient; by default -10
  Tensor x_labels{}, y_labels{};  ///< as in info_nce
};

/// Options of relative.
struct relative_options : scale_options {
  std::string similarity = "dot_product";                  ///< the family, or "cosine"
  optional<std::vector<double>> bandwidths{}, weights{};   ///< as in mmd
  double shape = 0;                                        ///< as in mmd
  std::string statistics = "none";                         ///< of the anchors: or "centre", "standardise"
  bool statistics_gradient = true;                         ///< whether the anchors' gradient runs through them
};

/// What the objective looks at; the last three may be left out.
struct objective_inputs {
  Tensor images{}, class_texts{}, targets{};               ///< n x d, C x d, n labels
  Tensor batch_texts{}, image_anchors{}, target_images{};  ///< n x d, C x d, m x d
};
/// Options of objective, as in craft/objective.hpp.
struct objective_options {
  double text = 1, image = 1, batch = 1, mmd = 1;  ///< weights of the terms, >= 0
  Tensor log_scale{};                              ///< one number, with gradient; by default log 100
  optional<double> max_scale{};                    ///< none: no limit
  double label_smoothing = 0;                      ///< of the text and image terms
  std::string direction = "one_way";               ///< of the batch term: or "symmetric"
  bool same_class_positives = false;               ///< batch term: all pairs of a class belong together
  mmd_options discrepancy{};                       ///< without the fields that are tensors
};
/// Value of the objective.
struct objective_result {
  Tensor total;  ///< the weighted sum
  Tensor terms;  ///< text, image, batch, mmd, without their weights; no gradient
};

/// What kmeans found.
struct kmeans_centres {
  Tensor centres;     ///< count x d, or classes * count x d
  Tensor assignment;  ///< the centre of each row: n indices
  Tensor inertia;     ///< the sum of squared distances to it
  Tensor distinct;    ///< how many distinct centres there are, as in craft::kmeans_result
};

namespace detail {

inline c10::IValue argument(const Tensor& t) { return t.defined() ? c10::IValue(t) : c10::IValue(); }
template <class T>
c10::IValue argument(const T& value) {
  return c10::IValue(value);
}
/// Calls craft::NAME as torch would; its results.
template <class... Arguments>
torch::jit::Stack call_operator(const char* name, const Arguments&... arguments) {
  torch::jit::Stack stack;
  stack.reserve(sizeof...(arguments));
  (stack.push_back(argument(arguments)), ...);
  c10::Dispatcher::singleton().findSchemaOrThrow(name, "").callBoxed(&stack);
  return stack;
}

}  // namespace detail

/// MMD^2 of x (n x d) against y (m x d), one number. Gradients to x, y, the learnable bandwidths and weights, and the samples'
/// weights.
inline Tensor mmd(const Tensor& x, const Tensor& y, const mmd_options& o = {}) {
  return detail::call_operator("craft::mmd", x, y, o.kernel, o.bandwidths, o.weights, o.shape, o.learnable_bandwidths,
                               o.learnable_weights, o.estimator, o.bandwidth_rule, o.bandwidth_sample,
                               o.bandwidth_gradient, o.columns, o.column_gradient, o.column_eps, o.x_weights, o.y_weights,
                               o.factor, o.offset)[0]
      .toTensor();
}
/// MMD^2 by somebody else's convention; names as in craft::runtime::preset_named.
inline Tensor mmd_preset(const Tensor& x, const Tensor& y, const std::string& name, double blur = 0.05) {
  return detail::call_operator("craft::mmd_preset", x, y, name, blur)[0].toTensor();
}
/// Cross-entropy of x (n x d) against anchors (C x d). target: n labels (int64 or int32), or soft targets (n x C,
/// floating). Gradients to x, anchors, log_scale, weights and soft targets.
inline Tensor anchor_cross_entropy(const Tensor& x, const Tensor& anchors, const Tensor& target,
                                   const cross_entropy_options& o = {}) {
  return detail::call_operator("craft::anchor_cross_entropy", x, anchors, target, o.log_scale, o.max_scale, o.normalise,
                               o.label_smoothing, o.ignore_label, o.weights, o.reduction)[0]
      .toTensor();
}
/// InfoNCE of x (n x d) and y (m x d). Gradients to x, y, log_scale and weights.
inline Tensor info_nce(const Tensor& x, const Tensor& y, const info_nce_options& o = {}) {
  return detail::call_operator("craft::info_nce", x, y, o.log_scale, o.max_scale, o.normalise, o.direction, o.x_labels,
                               o.y_labels, o.label_smoothing, o.weights)[0]
      .toTensor();
}
/// Sigmoid loss of all pairs of x (n x d) and y (m x d). Gradients to x, y, log_scale and bias.
inline Tensor sigmoid_contrastive(const Tensor& x, const Tensor& y, const sigmoid_options& o = {}) {
  return detail::call_operator("craft::sigmoid_contrastive", x, y, o.log_scale, o.bias, o.max_scale, o.normalise,
                               o.x_labels, o.y_labels)[0]
      .toTensor();
}
/// n x C similarities of the rows of x (n x d) to anchors (C x d). Gradients to x, anchors and log_scale.
inline Tensor relative(const Tensor& x, const Tensor& anchors, const relative_options& o = {}) {
  return detail::call_operator("craft::relative", x, anchors, o.similarity, o.bandwidths, o.weights, o.shape, o.normalise,
                               o.statistics, o.statistics_gradient, o.log_scale, o.max_scale)[0]
      .toTensor();
}
/// The paper's objective. Gradients to all its inputs but the labels, and to log_scale.
inline objective_result objective(const objective_inputs& in, const objective_options& o = {}) {
  const mmd_options& d = o.discrepancy;
  std::string given;
  for (const auto& [name, t] : {std::pair("learnable_bandwidths", d.learnable_bandwidths), {"learnable_weights", d.learnable_weights},
                                {"x_weights", d.x_weights}, {"y_weights", d.y_weights}})
    if (t.defined()) given += (given.empty() ? "" : ", ") + std::string(name);
  TORCH_CHECK_VALUE(given.empty(), "objective: its discrepancy takes no tensors, got ", given,
                    ": leave them out, or add mmd of the relative representations to an objective without target_images");
  const auto results = detail::call_operator(
      "craft::objective", in.images, in.class_texts, in.targets, in.batch_texts, in.image_anchors, in.target_images,
      o.text, o.image, o.batch, o.mmd, o.log_scale, o.max_scale, o.label_smoothing, o.direction, o.same_class_positives,
      d.kernel, d.bandwidths, d.weights, d.shape, d.estimator, d.bandwidth_rule, d.bandwidth_sample, d.bandwidth_gradient,
      d.columns, d.column_gradient, d.column_eps, d.factor, d.offset);
  return {results[0].toTensor(), results[1].toTensor()};
}

/// C x d means of the rows of x (n x d) of each class: constants, to be made of x.detach().
inline Tensor class_means(const Tensor& x, const Tensor& labels, int64_t classes, bool normalise = false) {
  return detail::call_operator("craft::class_means", x, labels, classes, normalise)[0].toTensor();
}
/// `count` centres of the rows of x (n x d), or of those of each class where labels are given. On a GPU the call waits.
inline kmeans_centres kmeans(const Tensor& x, int64_t count, const kmeans_options& o = {}, const Tensor& labels = {},
                             int64_t classes = 0) {
  TORCH_CHECK_VALUE(o.start.empty(), "craft::kmeans: takes no rows to start from");
  const auto results =
      detail::call_operator("craft::kmeans", x, count, labels, classes, int64_t(o.seed), int64_t(o.restarts),
                            int64_t(o.max_iterations), o.tolerance, o.spherical);
  return {results[0].toTensor(), results[1].toTensor(), results[2].toTensor(), results[3].toTensor()};
}
/// Indices of `count` rows of x, each the farthest from those before it. metric: "euclidean" or "cosine". On a GPU the call waits.
inline Tensor farthest_point_anchors(const Tensor& x, int64_t count, int64_t start = 0,
                                     const std::string& metric = "euclidean") {
  return detail::call_operator("craft::farthest_point_anchors", x, count, start, metric)[0].toTensor();
}

// ---------------------------------------------------------------------------------------------------------
// For operators of your own: tensors as the runtime's descriptions (craft/adapters/runtime.hpp)

/// The type of a tensor's numbers. Throws c10::TypeError for one that is not of the four.
inline runtime::dtype dtype_of(const char* what, const Tensor& t) {
  switch (t.scalar_type()) {
    case at::kDouble: return runtime::dtype::float64;
    case at::kFloat: return runtime::dtype::float32;
    case at::kHalf: return runtime::dtype::float16;
    case at::kBFloat16: return runtime::dtype::bfloat16;
    default: break;
  }
  TORCH_CHECK_TYPE(false, "craft: expected ", what, " of type float64, float32, float16 or bfloat16, got ", t.scalar_type());
}
/// The type that numbers stored as `type` are computed in: double, or float.
inline at::ScalarType computing(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }
/// t in the type that it is computed in: itself, or a copy of what is stored in half precision.
inline Tensor computed(const char* what, const Tensor& t) {
  dtype_of(what, t);
  return t.to(computing(t.scalar_type()));
}

/// Throws a ValueError that names every one of these tensors that is there and is no matrix.
inline void are_matrices(const char* verb, std::initializer_list<std::pair<const char*, optional<Tensor>>> given) {
  std::string faults;
  for (const auto& [what, t] : given)
    if (t && t->defined() && t->dim() != 2)
      faults += (faults.empty() ? "" : "; ") + runtime::detail::no_matrix(what, t->sizes().data(), int(t->dim()));
  TORCH_CHECK_VALUE(faults.empty(), "craft::", verb, ": ", faults);
}

/// One call of a verb on tensors: the device of `like`, and descriptions of other tensors there. Copies that had to be made
/// live as long as this object, which holds a guard of the device and is made anew for every call: it keeps no state.
///
///     craft::aten::call call("mmd", x);
///     call.run([&](const craft::any_device& device) {
///       craft::runtime::mmd(device, call.matrix("x", x), call.matrix("y", y), kernel, options, value.data_ptr(),
///                           {call.place(dx), call.place(dy)});
///     });
class call {
 public:
  /// verb: the name in messages; what is described must lie where `like` does.
  call(const char* verb, const Tensor& like)
      : verb_(verb), on_(like.device()), guard_(on_), device_(device_of(like)) {}

  /// n x d numbers of one of the four types, on this device.
  runtime::matrix matrix(const char* what, const Tensor& t) {
    const Tensor& m = rows(what, t);
    return {m.data_ptr(), m.size(0), m.size(1), m.stride(0), dtype_of(what, m), where(m)};
  }
  /// None: an empty matrix.
  runtime::matrix matrix(const char* what, const optional<Tensor>& t) {
    return t && t->defined() ? matrix(what, *t) : runtime::matrix();
  }
  /// A contiguous matrix, vector or number that a call writes; not wanted: a place for nothing.
  runtime::place place(const Tensor& t, bool wanted = true, write mode = write::overwrite) const {
    if (!wanted) return {};
    TORCH_CHECK_VALUE(t.is_contiguous(), "craft::", verb_, ": a place for results must be contiguous");
    const index_t cols = t.dim() == 2 ? t.size(1) : t.numel();
    return {t.data_ptr(), t.dim() == 2 ? t.size(0) : 1, cols, cols, dtype_of("a gradient", t), where(t), mode};
  }
  /// int64 or int32, here or on the CPU.
  craft::labels labels(const char* what, const optional<Tensor>& given) {
    if (!given || !given->defined()) return {};
    const Tensor& t = vector(what, *given, *given);
    if (t.scalar_type() == at::kLong) return {static_cast<const std::int64_t*>(t.data_ptr()), t.numel(), where(t)};
    TORCH_CHECK_TYPE(t.scalar_type() == at::kInt, "craft::", verb_, ": expected ", what, " of type int64 or int32, got ",
                     t.scalar_type());
    return {static_cast<const std::int32_t*>(t.data_ptr()), t.numel(), where(t)};
  }
  /// Floating-point numbers, here or on the CPU; those of half precision are copied.
  craft::numbers numbers(const char* what, const optional<Tensor>& given) {
    if (!given || !given->defined()) return {};
    const Tensor& t = vector(what, *given, computed(what, *given));
    if (t.scalar_type() == at::kDouble) return {static_cast<const double*>(t.data_ptr()), t.numel(), where(t)};
    return {static_cast<const float*>(t.data_ptr()), t.numel(), where(t)};
  }
  /// One number, read when the call runs: here or on the CPU.
  craft::scalar number(const char* what, const optional<Tensor>& given, double otherwise) {
    if (!given || !given->defined()) return otherwise;
    TORCH_CHECK_VALUE(given->numel() == 1, "craft::", verb_, ": expected ", what, " to be one number, got ", given->sizes());
    on_device(what, *given, true);
    const Tensor& t = hold(computed(what, *given));
    const void* at = t.data_ptr();
    const bool wide = t.scalar_type() == at::kDouble;
    if (t.is_cpu()) return wide ? *static_cast<const double*>(at) : double(*static_cast<const float*>(at));
    return wide ? scalar(static_cast<const double*>(at), memory::device) : scalar(static_cast<const float*>(at), memory::device);
  }

  /// f(device), with craft's errors thrown as torch's.
  template <class F>
  auto run(const F& f) const {
    return torch_errors([&] { return f(device_); });
  }
  /// f(), with craft's errors thrown as torch's: TypeError, IndexError, ValueError, and c10::Error for those of devices.
  template <class F>
  static auto torch_errors(const F& f) {
    try {
      return f();
    } catch (const type_error& e) {
      TORCH_CHECK_TYPE(false, "craft::", e.what());
    } catch (const label_error& e) {
      TORCH_CHECK_INDEX(false, "craft::", e.what());
    } catch (const device_error& e) {
      TORCH_CHECK(false, "craft::", e.what());
    } catch (const error& e) {
      TORCH_CHECK_VALUE(false, "craft::", e.what());
    }
  }

 private:
  static memory where(const Tensor& t) { return t.is_cpu() ? memory::host : memory::device; }
  const Tensor& hold(Tensor t) {
    held_.push_back(std::move(t));
    return held_.back();
  }
  void on_device(const char* what, const Tensor& t, bool or_cpu) const {
    TORCH_CHECK(t.device() == on_ || (or_cpu && t.is_cpu()), "craft::", verb_, ": expected all tensors to be on ", on_,
                ", but ", what, " is on ", t.device());
  }
  /// t, or a contiguous copy where its rows are not.
  const Tensor& rows(const char* what, const Tensor& t) {
    are_matrices(verb_, {{what, t}});
    on_device(what, t, false);
    const bool dense = t.size(1) < 2 || t.stride(1) == 1, apart = t.size(0) < 2 || t.stride(0) >= t.size(1);
    return dense && apart ? t : hold(t.contiguous());
  }
  const Tensor& vector(const char* what, const Tensor& given, const Tensor& converted) {
    TORCH_CHECK_VALUE(given.dim() == 1, "craft::", verb_, ": ",
                      runtime::detail::no_list(what, given.sizes().data(), int(given.dim())));
    on_device(what, given, true);
    return hold(converted.contiguous());
  }
  static any_device device_of(const Tensor& t) {
#ifdef CRAFT_TORCH_CUDA
    if (t.is_cuda()) {
      const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
      cuda context = torch_errors([&] { return cuda(stream, at::cuda::getCurrentCUDABlasHandle()); });
      context.scratch().use(
          [stream](std::size_t bytes) { return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream); },
          [](void* memory, std::size_t) { c10::cuda::CUDACachingAllocator::raw_delete(memory); });
      context.precision(at::globalContext().allowTF32CuBLAS() ? precision::tf32 : precision::strict);
      return any_device(std::move(context));
    }
#endif
    TORCH_CHECK(t.is_cpu(), "craft: tensors on ", t.device(), " are not supported by this build");
    cpu context(at::get_num_threads());
    context.scratch().reserve(1 << 16);  // in one piece what a small batch needs
    return any_device(std::move(context));
  }

  const char* verb_;
  c10::Device on_;
  c10::DeviceGuard guard_;
  any_device device_;
  std::list<Tensor> held_;
};

}  // namespace craft::aten
