// The operators of craft/adapters/torch.hpp, registered with torch's dispatcher as the library "craft": include this in exactly
// one source of a program or of a library that is loaded into one. Link craft::runtime, or include
// craft/adapters/runtime_bodies.hpp in that source too.
//
// Each loss L is two operators. `craft::L_gradients(..., *, bool[k] wanted)` computes value and gradients in one sweep over
// the pairs; what is not wanted is an empty tensor. `craft::L(...)` is the value; where gradients are needed it calls the other
// once in forward, and its backward only multiplies. `craft::relative` has `craft::relative_backward` beside it.
// All have kernels for Meta tensors, so that torch.compile and torch.export trace them without a graph break.
//
// Autocast: matrices of different types are cast to the widest of them. Since everything is computed in float32 or wider, the
// numbers are those of torch's own losses, which autocast runs in float32, without the memory for casting all inputs.
#pragma once

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <mutex>
#include <tuple>

#include "craft/adapters/torch.hpp"

namespace craft::aten::operators {

using text = c10::string_view;
using floats = optional<c10::ArrayRef<double>>;
using torch::jit::Stack;

// ---------------------------------------------------------------------------------------------------------
// Kernels: CPU, CUDA, and Meta, where results have their shapes and types only

/// Places for results that are computed from x.
class results {
 public:
  explicit results(const Tensor& x) : options_(x.options().dtype(computing(x.scalar_type()))) {}
  Tensor numbers(c10::SymIntArrayRef shape) const { return at::empty_symint(shape, options_); }
  Tensor number() const { return numbers({}); }
  /// A gradient of t, if it is wanted.
  Tensor gradient(const optional<Tensor>& t, bool wanted) const {
    if (!wanted) return at::empty({0}, options_);
    TORCH_CHECK_VALUE(t && t->defined(), "craft: a gradient is wanted of a tensor that is not given");
    return at::empty_like(*t, t->options().dtype(options_.dtype()), at::MemoryFormat::Contiguous);
  }
  /// A gradient of log_scale, if it is wanted. Of a scale that may be clamped there are two, of the loss and of its negative:
  /// which one counts is known when another gradient comes from above.
  Tensor scale_gradient(const optional<Tensor>& t, const optional<double>& max_scale, bool wanted) const {
    const Tensor one = gradient(t, wanted);
    if (!wanted || !max_scale) return one;
    std::vector<c10::SymInt> shape = one.sym_sizes().vec();
    shape.insert(shape.begin(), 2);
    return at::empty_symint(shape, one.options());
  }

 private:
  at::TensorOptions options_;
};

inline double limit(optional<double> max_scale) {
  return max_scale ? *max_scale : std::numeric_limits<double>::infinity();
}
template <class Enum>
Enum named(text name) {
  return runtime::named<Enum>(std::string(name));
}
inline std::vector<double> list(floats f) { return f ? f->vec() : std::vector<double>(); }
inline std::vector<double> list(const Tensor& t) {
  const Tensor numbers = t.to(at::kCPU, at::kDouble).contiguous();
  const double* first = static_cast<const double*>(numbers.data_ptr());
  return {first, first + numbers.numel()};
}
inline runtime::kernel kernel_of(text family, floats bandwidths, floats weights, double shape) {
  if (!bandwidths && family == "gaussian") return runtime::kernel("gaussian", {1.0}, list(weights), shape);
  return runtime::kernel(std::string(family), list(bandwidths), list(weights), shape);
}
inline craft::mmd_options discrepancy_of(text estimator, text rule, text sample, bool bandwidth_gradient, text columns,
                                         bool column_gradient, double column_eps, double factor, double offset) {
  craft::mmd_options o;
  o.estimator = named<craft::estimator>(estimator);
  o.bandwidth = {named<craft::bandwidth_rule>(rule), named<craft::bandwidth_sample>(sample), bandwidth_gradient};
  o.columns = named<column_scaling>(columns);
  o.column_gradient = column_gradient;
  o.column_eps = column_eps;
  o.factor = factor;
  o.offset = offset;
  return o;
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mmd_gradients(
    const Tensor& x, const Tensor& y, text family, floats bandwidths, floats weights, double shape,
    const optional<Tensor>& learnable_bandwidths, const optional<Tensor>& learnable_weights, text estimator,
    text bandwidth_rule, text bandwidth_sample, bool bandwidth_gradient, text columns, bool column_gradient,
    double column_eps, const optional<Tensor>& x_weights, const optional<Tensor>& y_weights, double factor, double offset,
    std::array<bool, 6> wanted) {
  are_matrices("mmd", {{"x", x}, {"y", y}});
  const results to(x);
  const Tensor value = to.number(), dx = to.gradient(x, wanted[0]), dy = to.gradient(y, wanted[1]);
  Tensor d_bandwidths = to.gradient(learnable_bandwidths, wanted[2]);
  const Tensor d_weights = to.gradient(learnable_weights, wanted[3]), d_x_weights = to.gradient(x_weights, wanted[4]),
               d_y_weights = to.gradient(y_weights, wanted[5]);
  if (x.is_meta()) return {value, dx, dy, d_bandwidths, d_weights, d_x_weights, d_y_weights};

  call c("mmd", x);
  c.run([&](const any_device& device) {
    TORCH_CHECK_VALUE(!(bandwidths && learnable_bandwidths) && !(weights && learnable_weights),
                      "craft::mmd: expected bandwidths and weights as numbers or as a tensor, got both");
    const auto given = [](floats numbers, const optional<Tensor>& learnable, std::vector<double>& storage) -> floats {
      if (!learnable || !learnable->defined()) return numbers;
      storage = list(*learnable);
      return storage;
    };
    std::vector<double> learnt_bandwidths, learnt_weights;
    const runtime::kernel k = kernel_of(family, given(bandwidths, learnable_bandwidths, learnt_bandwidths),
                                        given(weights, learnable_weights, learnt_weights), shape);
    craft::mmd_options o = discrepancy_of(estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns,
                                          column_gradient, column_eps, factor, offset);
    o.x_weights = c.numbers("x_weights", x_weights);
    o.y_weights = c.numbers("y_weights", y_weights);
    // Some families have more parameters than the bandwidth, which comes first.
    Tensor parameters = d_bandwidths;
    if (wanted[2]) parameters = to.numbers({k.bandwidths()});
    runtime::mmd(device, c.matrix("x", x), c.matrix("y", y), k, o, value.data_ptr(),
                 {c.place(dx, wanted[0]), c.place(dy, wanted[1]), c.place(d_weights, wanted[3]),
                  c.place(parameters, wanted[2]), c.place(d_x_weights, wanted[4]), c.place(d_y_weights, wanted[5])});
    if (wanted[2]) d_bandwidths.copy_(parameters.view({d_bandwidths.numel(), -1}).select(1, 0).view_as(d_bandwidths));
  });
  return {value, dx, dy, d_bandwidths, d_weights, d_x_weights, d_y_weights};
}

inline std::tuple<Tensor, Tensor, Tensor> mmd_preset_gradients(const Tensor& x, const Tensor& y, text name, double blur,
                                                               std::array<bool, 2> wanted) {
  are_matrices("mmd_preset", {{"x", x}, {"y", y}});
  const results to(x);
  const Tensor value = to.number(), dx = to.gradient(x, wanted[0]), dy = to.gradient(y, wanted[1]);
  if (x.is_meta()) return {value, dx, dy};
  call c("mmd_preset", x);
  c.run([&](const any_device& device) {
    const runtime::matrix rows = c.matrix("x", x);
    const runtime::preset preset = runtime::preset_named(std::string(name), rows.rows, blur);
    runtime::mmd(device, rows, c.matrix("y", y), preset.kernel, preset.options, value.data_ptr(),
                 {c.place(dx, wanted[0]), c.place(dy, wanted[1])});
  });
  return {value, dx, dy};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> anchor_cross_entropy_gradients(
    const Tensor& x, const Tensor& anchors, const Tensor& target, const optional<Tensor>& log_scale,
    optional<double> max_scale, bool normalise, double label_smoothing, int64_t ignore_label,
    const optional<Tensor>& weights, text reduction, std::array<bool, 5> wanted) {
  are_matrices("anchor_cross_entropy", {{"x", x}, {"anchors", anchors}});
  const results to(x);
  const Tensor value = to.number(), dx = to.gradient(x, wanted[0]), da = to.gradient(anchors, wanted[1]),
               ds = to.scale_gradient(log_scale, max_scale, wanted[2]), dt = to.gradient(target, wanted[3]),
               dw = to.gradient(weights, wanted[4]);
  if (x.is_meta()) return {value, dx, da, ds, dt, dw};

  call c("anchor_cross_entropy", x);
  c.run([&](const any_device& device) {
    craft::cross_entropy_options o;
    o.log_scale = c.number("log_scale", log_scale, std::log(100.0));
    o.max_scale = limit(max_scale);
    o.normalise = normalise;
    o.label_smoothing = label_smoothing;
    o.ignore_label = ignore_label;
    o.weights = c.numbers("weights", weights);
    o.reduce = named<craft::reduction>(reduction);
    const auto run = [&](const auto& targets) {
      runtime::anchor_cross_entropy(device, c.matrix("x", x), c.matrix("anchors", anchors), targets, o, value.data_ptr(),
                                    {c.place(dx, wanted[0]), c.place(da, wanted[1]), c.place(ds, wanted[2]), {},
                                     c.place(dw, wanted[4]), c.place(dt, wanted[3])});
    };
    TORCH_CHECK_TYPE(!target.is_floating_point() || target.dim() == 2, "craft::anchor_cross_entropy: ",
                     runtime::detail::neither_labels_nor_shares("target", c10::toString(target.scalar_type()),
                                                                int(target.dim()), x.size(0), anchors.size(0), ".long()"));
    if (target.is_floating_point())
      run(c.matrix("target", target.to(computing(x.scalar_type()))));
    else
      run(c.labels("target", target));
  });
  return {value, dx, da, ds, dt, dw};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> info_nce_gradients(
    const Tensor& x, const Tensor& y, const optional<Tensor>& log_scale, optional<double> max_scale, bool normalise,
    text direction, const optional<Tensor>& x_labels, const optional<Tensor>& y_labels, double label_smoothing,
    const optional<Tensor>& weights, std::array<bool, 4> wanted) {
  are_matrices("info_nce", {{"x", x}, {"y", y}});
  const results to(x);
  const Tensor value = to.number(), dx = to.gradient(x, wanted[0]), dy = to.gradient(y, wanted[1]),
               ds = to.scale_gradient(log_scale, max_scale, wanted[2]), dw = to.gradient(weights, wanted[3]);
  if (x.is_meta()) return {value, dx, dy, ds, dw};

  call c("info_nce", x);
  c.run([&](const any_device& device) {
    craft::contrastive_options o;
    o.log_scale = c.number("log_scale", log_scale, std::log(100.0));
    o.max_scale = limit(max_scale);
    o.normalise = normalise;
    o.direction = named<craft::direction>(direction);
    o.x_labels = c.labels("x_labels", x_labels);
    o.y_labels = c.labels("y_labels", y_labels);
    o.label_smoothing = label_smoothing;
    o.weights = c.numbers("weights", weights);
    runtime::info_nce(device, c.matrix("x", x), c.matrix("y", y), o, value.data_ptr(),
                      {c.place(dx, wanted[0]), c.place(dy, wanted[1]), c.place(ds, wanted[2]), {}, c.place(dw, wanted[3])});
  });
  return {value, dx, dy, ds, dw};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sigmoid_contrastive_gradients(
    const Tensor& x, const Tensor& y, const optional<Tensor>& log_scale, const optional<Tensor>& bias,
    optional<double> max_scale, bool normalise, const optional<Tensor>& x_labels, const optional<Tensor>& y_labels,
    std::array<bool, 4> wanted) {
  are_matrices("sigmoid_contrastive", {{"x", x}, {"y", y}});
  const results to(x);
  const Tensor value = to.number(), dx = to.gradient(x, wanted[0]), dy = to.gradient(y, wanted[1]),
               ds = to.scale_gradient(log_scale, max_scale, wanted[2]), db = to.gradient(bias, wanted[3]);
  if (x.is_meta()) return {value, dx, dy, ds, db};

  call c("sigmoid_contrastive", x);
  c.run([&](const any_device& device) {
    craft::sigmoid_options o;
    o.log_scale = c.number("log_scale", log_scale, std::log(10.0));
    o.bias = c.number("bias", bias, -10.0);
    o.max_scale = limit(max_scale);
    o.normalise = normalise;
    o.x_labels = c.labels("x_labels", x_labels);
    o.y_labels = c.labels("y_labels", y_labels);
    runtime::sigmoid_contrastive(
        device, c.matrix("x", x), c.matrix("y", y), o, value.data_ptr(),
        {c.place(dx, wanted[0]), c.place(dy, wanted[1]), c.place(ds, wanted[2]), c.place(db, wanted[3])});
  });
  return {value, dx, dy, ds, db};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> objective_gradients(
    const Tensor& images, const Tensor& class_texts, const Tensor& targets, const optional<Tensor>& batch_texts,
    const optional<Tensor>& image_anchors, const optional<Tensor>& target_images, double text_weight, double image_weight,
    double batch_weight, double mmd_weight, const optional<Tensor>& log_scale, optional<double> max_scale,
    double label_smoothing, text direction, bool same_class_positives, text family, floats bandwidths, floats weights,
    double shape, text estimator, text bandwidth_rule, text bandwidth_sample, bool bandwidth_gradient, text columns,
    bool column_gradient, double column_eps, double factor, double offset, std::array<bool, 6> wanted) {
  are_matrices("objective", {{"images", images}, {"class_texts", class_texts}, {"batch_texts", batch_texts},
                             {"image_anchors", image_anchors}, {"target_images", target_images}});
  const results to(images);
  const Tensor total = to.number(), terms = to.numbers({4});
  const Tensor d_images = to.gradient(images, wanted[0]), d_class_texts = to.gradient(class_texts, wanted[1]),
               d_batch_texts = to.gradient(batch_texts, wanted[2]), d_image_anchors = to.gradient(image_anchors, wanted[3]),
               d_target_images = to.gradient(target_images, wanted[4]),
               ds = to.scale_gradient(log_scale, max_scale, wanted[5]);
  if (!images.is_meta()) {
    call c("objective", images);
    const Tensor values = to.numbers({5});
    c.run([&](const any_device& device) {
      craft::objective_options o;
      o.text = text_weight;
      o.image = image_weight;
      o.batch = batch_weight;
      o.mmd = mmd_weight;
      o.log_scale = c.number("log_scale", log_scale, std::log(100.0));
      o.max_scale = limit(max_scale);
      o.label_smoothing = label_smoothing;
      o.direction = named<craft::direction>(direction);
      o.same_class_positives = same_class_positives;
      o.discrepancy = discrepancy_of(estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns,
                                     column_gradient, column_eps, factor, offset);
      runtime::objective(
          device,
          {c.matrix("images", images), c.matrix("class_texts", class_texts), c.labels("targets", targets),
           c.matrix("batch_texts", batch_texts), c.matrix("image_anchors", image_anchors),
           c.matrix("target_images", target_images)},
          kernel_of(family, bandwidths, weights, shape), o, values.data_ptr(),
          {c.place(d_images, wanted[0]), c.place(d_class_texts, wanted[1]), c.place(d_batch_texts, wanted[2]),
           c.place(d_image_anchors, wanted[3]), c.place(d_target_images, wanted[4]), c.place(ds, wanted[5])});
    });
    terms.copy_(values.narrow(0, 0, 4));
    total.copy_(values[4]);
  }
  return {total, terms, d_images, d_class_texts, d_batch_texts, d_image_anchors, d_target_images, ds};
}

inline craft::relative_options relative_of(call& c, bool normalise, text statistics, bool statistics_gradient,
                                           const optional<Tensor>& log_scale, optional<double> max_scale) {
  craft::relative_options o;
  o.normalise = normalise;
  o.statistics = named<anchor_statistics>(statistics);
  o.statistics_gradient = statistics_gradient;
  o.log_scale = c.number("log_scale", log_scale, 0.0);
  o.max_scale = limit(max_scale);
  return o;
}

inline Tensor relative(const Tensor& x, const Tensor& anchors, text similarity, floats bandwidths, floats weights,
                       double shape, bool normalise, text statistics, bool statistics_gradient,
                       const optional<Tensor>& log_scale, optional<double> max_scale) {
  are_matrices("relative", {{"x", x}, {"anchors", anchors}});
  const Tensor out = results(x).numbers({x.sym_size(0), anchors.sym_size(0)});
  if (x.is_meta()) return out;
  call c("relative", x);
  c.run([&](const any_device& device) {
    runtime::relative(device, c.matrix("x", x), c.matrix("anchors", anchors),
                      kernel_of(similarity, bandwidths, weights, shape),
                      relative_of(c, normalise, statistics, statistics_gradient, log_scale, max_scale), c.place(out));
  });
  return out;
}

inline std::tuple<Tensor, Tensor, Tensor> relative_backward(const Tensor& dout, const Tensor& x, const Tensor& anchors,
                                                            text similarity, floats bandwidths, floats weights,
                                                            double shape, bool normalise, text statistics,
                                                            bool statistics_gradient, const optional<Tensor>& log_scale,
                                                            optional<double> max_scale, std::array<bool, 3> wanted) {
  const results to(x);
  const Tensor dx = to.gradient(x, wanted[0]), da = to.gradient(anchors, wanted[1]), ds = to.gradient(log_scale, wanted[2]);
  if (x.is_meta()) return {dx, da, ds};
  call c("relative_backward", x);
  c.run([&](const any_device& device) {
    runtime::relative_pullback(device, c.matrix("x", x), c.matrix("anchors", anchors),
                               kernel_of(similarity, bandwidths, weights, shape),
                               relative_of(c, normalise, statistics, statistics_gradient, log_scale, max_scale),
                               c.matrix("dout", dout.to(computing(x.scalar_type()))),
                               {c.place(dx, wanted[0]), c.place(da, wanted[1]), c.place(ds, wanted[2])});
  });
  return {dx, da, ds};
}

inline Tensor class_means(const Tensor& x, const Tensor& labels, int64_t classes, bool normalise) {
  are_matrices("class_means", {{"x", x}});
  const Tensor out = results(x).numbers({classes, x.sym_size(1)});
  if (x.is_meta()) return out;
  call c("class_means", x);
  c.run([&](const any_device& device) {
    craft::class_means_options o;
    o.normalise = normalise;
    runtime::class_means(device, c.matrix("x", x), c.labels("labels", labels), o, c.place(out));
  });
  return out;
}

inline Tensor indices(const std::vector<index_t>& rows, const Tensor& like) {
  return at::tensor(c10::ArrayRef<int64_t>(rows), at::TensorOptions(at::kLong)).to(like.device());
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor> kmeans(const Tensor& x, int64_t count, const optional<Tensor>& labels,
                                                         int64_t classes, int64_t seed, int64_t restarts,
                                                         int64_t max_iterations, double tolerance, bool spherical) {
  are_matrices("kmeans", {{"x", x}});
  const results to(x);
  const bool per_class = labels && labels->defined();
  const Tensor centres = to.numbers({per_class ? count * classes : count, x.sym_size(1)});
  if (x.is_meta())
    return {centres, at::empty_symint({x.sym_size(0)}, x.options().dtype(at::kLong)),
            at::empty({}, x.options().dtype(at::kDouble)), at::empty({}, x.options().dtype(at::kLong))};
  call c("kmeans", x);
  const kmeans_result found = c.run([&](const any_device& device) {
    kmeans_options o;
    o.seed = std::uint64_t(seed);
    o.restarts = restarts;
    o.max_iterations = max_iterations;
    o.tolerance = tolerance;
    o.spherical = spherical;
    if (!per_class) return runtime::kmeans(device, c.matrix("x", x), o, c.place(centres));
    return runtime::kmeans_per_class(device, c.matrix("x", x), c.labels("labels", labels), classes, o, c.place(centres));
  });
  return {centres, indices(found.assignment, x), at::full({}, found.inertia, x.options().dtype(at::kDouble)),
          at::full({}, int64_t(found.distinct), x.options().dtype(at::kLong))};
}

inline Tensor farthest_point_anchors(const Tensor& x, int64_t count, int64_t start, text metric) {
  if (x.is_meta()) return at::empty({count}, x.options().dtype(at::kLong));
  call c("farthest_point_anchors", x);
  return indices(c.run([&](const any_device& device) {
    return runtime::farthest_point_anchors(device, c.matrix("x", x), count, start, named<craft::metric>(metric));
  }),
                 x);
}

// ---------------------------------------------------------------------------------------------------------
// Values, autograd and autocast: the same for all operators, by their schemas

/// The operator of that name, of which there is one.
inline c10::OperatorHandle operator_named(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}
inline bool requires_gradient(const c10::IValue& v) { return v.isTensor() && v.toTensor().requires_grad(); }

/// craft::L on any device: the first results of craft::L_gradients, with nothing wanted.
struct value_only : c10::OperatorKernel {
  c10::OperatorHandle gradients;
  c10::List<bool> unwanted;

  explicit value_only(const std::string& loss) : gradients(operator_named(loss + "_gradients")) {
    unwanted.resize(gradients.schema().returns().size() - operator_named(loss).schema().returns().size(), false);
  }
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
    stack->emplace_back(unwanted);
    gradients.callBoxed(stack);
    stack->resize(stack->size() - unwanted.size());
  }
};

/// Calls the kernel, if no argument wants a gradient now. Throws for derivatives in forward mode.
inline bool called_without_gradient(const c10::OperatorHandle& op, Stack* stack) {
  bool any = false;
  for (const c10::IValue& v : torch::jit::last(*stack, op.schema().arguments().size())) {
    any |= requires_gradient(v);
    TORCH_CHECK_NOT_IMPLEMENTED(!v.isTensor() || !v.toTensor().defined() || !v.toTensor()._fw_grad(0).defined(),
                                op.schema().name(), ": derivatives in forward mode are not available");
  }
  if (any && at::GradMode::is_enabled()) return false;
  at::AutoDispatchBelowADInplaceOrView below;
  op.callBoxed(stack);
  return true;
}

using torch::autograd::AutogradContext;
using tensors = std::vector<Tensor>;

/// Makes results those of a new node of the graph, which torch counts by shared or, lately, intrusive pointers.
template <class N>
void set_history(N* made, const tensors& results) {
  const auto node = [&] {
    if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>)
      return c10::intrusive_ptr<N>::unsafe_steal_from_new(made);
    else
      return std::shared_ptr<N>(made, [](auto* n) { deleteNode(n); });
  }();
  for (Tensor t : results)
    if (t.is_floating_point()) torch::autograd::set_history(t, node);
}

/// What depends on the inputs in a way whose derivative is an error, never zero in silence.
struct underivable : torch::autograd::Node {
  c10::OperatorHandle op;

  underivable(torch::autograd::edge_list inputs, const c10::OperatorHandle& of) : Node(std::move(inputs)), op(of) {}
  tensors apply(tensors&&) override {
    TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(),
                                " has no derivative: losses and relative representations have first derivatives only, and "
                                "anchors are constants, to be made of x.detach()");
  }
};
inline void without_derivative(const c10::OperatorHandle& op, Stack* stack) {
  if (called_without_gradient(op, stack)) return;
  tensors inputs, results;
  for (const c10::IValue& v : torch::jit::last(*stack, op.schema().arguments().size()))
    if (requires_gradient(v)) inputs.push_back(v.toTensor());
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  for (const c10::IValue& v : torch::jit::last(*stack, op.schema().returns().size())) results.push_back(v.toTensor());
  set_history(new underivable(torch::autograd::collect_next_edges(inputs), op), results);
}

/// The backward of a value whose gradients are there already. Not a torch::autograd::Function, which takes microseconds.
struct times_gradients : torch::autograd::Node {
  std::vector<torch::autograd::SavedVariable> gradients;
  std::vector<bool> in_pairs;  // of the loss and of its negative

  times_gradients(torch::autograd::edge_list edges, const tensors& inputs, const tensors& computed) : Node(std::move(edges)) {
    for (std::size_t i = 0; i < computed.size(); ++i) {
      gradients.emplace_back(computed[i], false);
      in_pairs.push_back(computed[i].dim() > inputs[i].dim());
    }
  }
  tensors apply(tensors&& upstream) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    tensors results(gradients.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (!upstream[0].defined() || !task_should_compute_output(i)) continue;
      const Tensor g = gradients[i].unpack();
      if (!in_pairs[i])
        results[i] = upstream[0] * g;
      else
        results[i] = upstream[0].abs() * at::where(upstream[0] < 0, g.select(0, 1), g.select(0, 0));
    }
    return results;
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (torch::autograd::SavedVariable& g : gradients) g.reset_data();
  }
};

/// craft::L, from the values and gradients of craft::L_gradients; of several values, the first is differentiable.
struct loss_with_gradients : c10::OperatorKernel {
  c10::OperatorHandle gradients;
  std::size_t values;
  std::vector<std::size_t> arguments;  // those that the gradients go to
  std::vector<std::size_t> constants;  // the others

  explicit loss_with_gradients(const std::string& name) : gradients(operator_named(name + "_gradients")) {
    const c10::FunctionSchema& schema = operator_named(name).schema();
    values = schema.returns().size();
    const auto& returns = gradients.schema().returns();
    for (std::size_t r = values; r < returns.size(); ++r)  // d_x is that of x
      arguments.push_back(std::size_t(*schema.argumentIndexWithName(returns[r].name().substr(2))));
    for (std::size_t i = 0; i < schema.arguments().size(); ++i)
      if (std::find(arguments.begin(), arguments.end(), i) == arguments.end()) constants.push_back(i);
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    if (called_without_gradient(op, stack)) return;
    const auto given = torch::jit::last(*stack, op.schema().arguments().size());
    for (const std::size_t i : constants) {
      const std::string& name = op.schema().arguments()[i].name();
      TORCH_CHECK_NOT_IMPLEMENTED(!requires_gradient(given[i]), op.schema().name(), ": there is no gradient by ", name,
                                  "; pass ", name, ".detach()");
    }
    tensors inputs, computed;
    c10::List<bool> wanted;
    for (const std::size_t i : arguments) {
      wanted.push_back(requires_gradient(given[i]));
      if (requires_gradient(given[i])) inputs.push_back(given[i].toTensor());
    }
    stack->emplace_back(wanted);
    {
      at::AutoDispatchBelowADInplaceOrView below;
      gradients.callBoxed(stack);
    }
    const auto results = torch::jit::last(*stack, arguments.size());
    for (std::size_t g = 0; g < arguments.size(); ++g)
      if (wanted.get(g)) computed.push_back(results[g].toTensor());
    torch::jit::drop(*stack, arguments.size());
    const auto edges = torch::autograd::collect_next_edges(inputs);
    set_history(new underivable(edges, gradients), computed);
    set_history(new times_gradients(edges, inputs, computed), {torch::jit::peek(*stack, 0, values).toTensor()});
  }
};

/// craft::relative, whose backward is an operator of its own.
struct relative_with_backward : torch::autograd::Function<relative_with_backward> {
  static tensors forward(AutogradContext* context, at::TensorList inputs, const c10::OperatorHandle* op, Stack* stack) {
    context->save_for_backward(inputs.vec());
    Stack others = torch::jit::last(*stack, op->schema().arguments().size()).vec();
    for (c10::IValue& v : others)
      if (v.isTensor()) v = c10::IValue();
    context->saved_data["others"] = c10::ivalue::Tuple::create(std::move(others));
    at::AutoDispatchBelowADInplaceOrView below;
    op->callBoxed(stack);
    return {torch::jit::pop(*stack).toTensor()};
  }
  static tensors backward(AutogradContext* context, const tensors& upstream) {
    const c10::OperatorHandle op = operator_named("craft::relative_backward");
    const tensors inputs = context->get_saved_variables();
    Stack stack = {upstream[0]};
    const auto& others = context->saved_data["others"].toTupleRef().elements();
    stack.insert(stack.end(), others.begin(), others.end());
    c10::List<bool> wanted;
    for (std::size_t i = 0; i < 3; ++i) wanted.push_back(i < inputs.size() && context->needs_input_grad(i));
    stack[1] = inputs[0];
    stack[2] = inputs[1];
    if (inputs.size() > 2) stack[*op.schema().argumentIndexWithName("log_scale")] = inputs[2];
    stack.emplace_back(std::move(wanted));
    op.callBoxed(&stack);
    tensors results(inputs.size() + 2);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (context->needs_input_grad(i)) results[i] = stack[i].toTensor();
    return results;
  }
};
inline void relative_autograd(const c10::OperatorHandle& op, Stack* stack) {
  if (called_without_gradient(op, stack)) return;
  tensors inputs;
  for (const c10::IValue& v : torch::jit::last(*stack, op.schema().arguments().size()))
    if (v.isTensor() && v.toTensor().defined()) inputs.push_back(v.toTensor());
  stack->emplace_back(relative_with_backward::apply(at::TensorList(inputs), &op, stack)[0]);
}

/// Matrices of samples are cast to the widest of their types.
inline void cast_to_widest(const c10::OperatorHandle& op, Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard below(c10::autocast_dispatch_keyset);
  const auto& arguments = op.schema().arguments();
  const std::size_t first = stack->size() - arguments.size();
  optional<at::ScalarType> widest;
  const auto for_each_matrix = [&](const auto& f) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      c10::IValue& v = (*stack)[first + i];
      if (v.isTensor() && v.toTensor().defined() && v.toTensor().dim() == 2 && v.toTensor().is_floating_point() &&
          arguments[i].name() != "target")
        f(v);
    }
  };
  for_each_matrix([&](const c10::IValue& v) {
    const at::ScalarType type = v.toTensor().scalar_type();
    widest = widest ? c10::promoteTypes(*widest, type) : type;
  });
  for_each_matrix([&](c10::IValue& v) { v = v.toTensor().to(*widest); });
  op.callBoxed(stack);
}

// ---------------------------------------------------------------------------------------------------------
// Registration

constexpr const char* losses[] = {"mmd", "mmd_preset", "anchor_cross_entropy", "info_nce", "sigmoid_contrastive", "objective"};

/// A loss and its operator with gradients, which go to the arguments named.
inline void define_loss(torch::Library& m, const std::string& name, const std::string& arguments,
                        const std::vector<std::string>& gradients_to, const std::string& values = "Tensor value") {
  std::string results = values;
  for (const std::string& argument : gradients_to) results += ", Tensor d_" + argument;
  m.def((name + "(" + arguments + ") -> (" + values + ")").c_str());
  m.def((name + "_gradients(" + arguments + ", *, bool[" + std::to_string(gradients_to.size()) + "] wanted) -> (" + results + ")")
            .c_str());
}

inline void define_operators(torch::Library& m) {
  // Not "kernel": torch's compiler has an argument of that name itself.
  const std::string kernel = "str family='gaussian', float[]? bandwidths=None, float[]? weights=None, float shape=0., ";
  const std::string estimator =
      "str estimator='biased', str bandwidth_rule='fixed', str bandwidth_sample='pooled', bool bandwidth_gradient=False, "
      "str columns='none', bool column_gradient=True, float column_eps=1e-08, ";
  const std::string scale = "float? max_scale=None, bool normalise=True, ";
  define_loss(m, "mmd",
              "Tensor x, Tensor y, " + kernel +
                  "Tensor? learnable_bandwidths=None, Tensor? learnable_weights=None, " + estimator +
                  "Tensor? x_weights=None, Tensor? y_weights=None, float factor=1., float offset=0.",
              {"x", "y", "learnable_bandwidths", "learnable_weights", "x_weights", "y_weights"});
  define_loss(m, "mmd_preset", "Tensor x, Tensor y, str name, float blur=0.05", {"x", "y"});
  define_loss(m, "anchor_cross_entropy",
              "Tensor x, Tensor anchors, Tensor target, Tensor? log_scale=None, " + scale +
                  "float label_smoothing=0., int ignore_label=-100, Tensor? weights=None, str reduction='mean'",
              {"x", "anchors", "log_scale", "target", "weights"});
  define_loss(m, "info_nce",
              "Tensor x, Tensor y, Tensor? log_scale=None, " + scale +
                  "str direction='symmetric', Tensor? x_labels=None, Tensor? y_labels=None, float label_smoothing=0., "
                  "Tensor? weights=None",
              {"x", "y", "log_scale", "weights"});
  define_loss(m, "sigmoid_contrastive",
              "Tensor x, Tensor y, Tensor? log_scale=None, Tensor? bias=None, " + scale +
                  "Tensor? x_labels=None, Tensor? y_labels=None",
              {"x", "y", "log_scale", "bias"});
  define_loss(m, "objective",
              "Tensor images, Tensor class_texts, Tensor targets, Tensor? batch_texts=None, Tensor? image_anchors=None, "
              "Tensor? target_images=None, float text=1., float image=1., float batch=1., float mmd=1., "
              "Tensor? log_scale=None, float? max_scale=None, float label_smoothing=0., str direction='one_way', "
              "bool same_class_positives=False, " +
                  kernel + estimator + "float factor=1., float offset=0.",
              {"images", "class_texts", "batch_texts", "image_anchors", "target_images", "log_scale"},
              "Tensor total, Tensor terms");

  const std::string relative =
      "Tensor x, Tensor anchors, str similarity='dot_product', float[]? bandwidths=None, float[]? weights=None, "
      "float shape=0., bool normalise=True, str statistics='none', bool statistics_gradient=True, Tensor? log_scale=None, "
      "float? max_scale=None";
  m.def(("relative(" + relative + ") -> Tensor").c_str());
  m.def(("relative_backward(Tensor dout, " + relative +
         ", *, bool[3] wanted) -> (Tensor d_x, Tensor d_anchors, Tensor d_log_scale)")
            .c_str());

  m.def("class_means(Tensor x, Tensor labels, int classes, *, bool normalise=False) -> Tensor");
  m.def("kmeans(Tensor x, int count, *, Tensor? labels=None, int classes=0, int seed=0, int restarts=10, "
        "int max_iterations=300, float tolerance=0., bool spherical=False) "
        "-> (Tensor centres, Tensor assignment, Tensor inertia, Tensor distinct)");
  m.def("farthest_point_anchors(Tensor x, int count, *, int start=0, str metric='euclidean') -> Tensor");
}

inline void define_kernels(torch::Library& m) {
  m.impl("mmd_gradients", mmd_gradients);
  m.impl("mmd_preset_gradients", mmd_preset_gradients);
  m.impl("anchor_cross_entropy_gradients", anchor_cross_entropy_gradients);
  m.impl("info_nce_gradients", info_nce_gradients);
  m.impl("sigmoid_contrastive_gradients", sigmoid_contrastive_gradients);
  m.impl("objective_gradients", objective_gradients);
  m.impl("relative", relative);
  m.impl("relative_backward", relative_backward);
  m.impl("class_means", class_means);
  m.impl("kmeans", kmeans);
  m.impl("farthest_point_anchors", farthest_point_anchors);
}

template <void (*f)(const c10::OperatorHandle&, Stack*)>
void define_boxed(torch::Library& m, const std::string& name) {
  m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<f>());
}
/// F(loss) for every loss.
template <class F>
void define_for_losses(torch::Library& m) {
  for (const std::string name : losses)
    m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<F>("craft::" + name)));
}
inline void define_autograd(torch::Library& m) {
  define_for_losses<loss_with_gradients>(m);
  for (const std::string name : losses) define_boxed<&without_derivative>(m, name + "_gradients");
  define_boxed<&relative_autograd>(m, "relative");
  for (const char* name : {"relative_backward", "class_means", "kmeans", "farthest_point_anchors"})
    define_boxed<&without_derivative>(m, name);
}
inline void define_autocast(torch::Library& m) {
  for (const char* name : losses) define_boxed<&cast_to_widest>(m, name);
  define_boxed<&cast_to_widest>(m, "relative");
}

}  // namespace craft::aten::operators

TORCH_LIBRARY(craft, m) {
  craft::aten::operators::define_operators(m);
}
TORCH_LIBRARY_IMPL(craft, CPU, m) {
  craft::aten::operators::define_kernels(m);
}
#ifdef CRAFT_TORCH_CUDA
TORCH_LIBRARY_IMPL(craft, CUDA, m) {
  craft::aten::operators::define_kernels(m);
}
#endif
TORCH_LIBRARY_IMPL(craft, Meta, m) {
  craft::aten::operators::define_kernels(m);
}
TORCH_LIBRARY_IMPL(craft, CompositeExplicitAutograd, m) {
  craft::aten::operators::define_for_losses<craft::aten::operators::value_only>(m);
}
TORCH_LIBRARY_IMPL(craft, Autograd, m) {
  craft::aten::operators::define_autograd(m);
}
TORCH_LIBRARY_IMPL(craft, AutocastCPU, m) {
  craft::aten::operators::define_autocast(m);
}
TORCH_LIBRARY_IMPL(craft, Autocast, m) {
  craft::aten::operators::define_autocast(m);
}
