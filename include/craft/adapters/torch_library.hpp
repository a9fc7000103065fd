// The operators of craft/adapters/torch.hpp, registered with torch's dispatcher as the library "craft": include this in exactly
// one source of a program or of a library that is loaded into one. Link craft::runtime, or include
// craft/adapters/runtime_bodies.hpp in that source too.
//
// All of it is made of the descriptions of the verbs (craft/describe.hpp): no verb and no option has its name here. A field is an
// argument, by place or by name; a scalar or a list is two, `s` and `learnable_s`, a tensor instead of it. A field "kernel" is called
// `family`, since torch's compiler has an argument of that name itself. There are three kinds of verbs:
//
//     a loss L    craft::L_gradients(..., *, bool[k] wanted) -> (value, d_x, ...) computes value and gradients in one sweep over the
//                 pairs; what is not wanted is an empty tensor. craft::L(...) is the value; where gradients are needed it calls the
//                 other once in forward, and its backward only multiplies. Of a result of several numbers the last is the value, and
//                 the others are a second one.
//     a map       craft::relative(...), whose backward calls craft::relative_pullback(..., *, bool[k] wanted)
//     the others  have results and no derivatives
//
// All have kernels for Meta tensors, so that torch.compile and torch.export trace them without a graph break.
//
// Autocast: matrices of different types are cast to the widest of them. Since everything is computed in float32 or wider, the
// numbers are those of torch's own losses, which autocast runs in float32, without the memory for casting all inputs.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>

#include "craft/adapters/runtime.hpp"
#include "craft/adapters/torch.hpp"
#ifdef CRAFT_TORCH_CUDA  // defined by builds that link both torch_cuda and craft::cuda_library
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#endif

namespace craft::aten::operators {

using at::Tensor;
using runtime::kind;
using torch::jit::Stack;
using tensors = std::vector<Tensor>;
using arguments = c10::ArrayRef<c10::IValue>;

// ---------------------------------------------------------------------------------------------------------
// Schemas

constexpr std::size_t none = std::size_t(-1);

/// Where a field stands among the arguments of an operator: as a number, name or list, and as a tensor.
struct slot {
  std::size_t value = none, tensor = none;
};

/// A verb as an operator.
struct signature {
  const runtime::verb& verb;
  std::string name, text;           // craft::NAME; its arguments as schemas are written
  std::vector<slot> slots;          // of the fields
  std::vector<std::size_t> wanted;  // the fields that have a gradient, in the order of the verb's gradients
  std::size_t count = 0;            // arguments

  explicit signature(const runtime::verb& v) : verb(v), name(std::string("craft::") + v.name) {
    for (const runtime::field& f : v.fields) slots.push_back(add(f));
    for (const int g : v.gradients)
      if (slots[std::size_t(g)].tensor != none) wanted.push_back(std::size_t(g));
  }
  bool is_loss() const { return !verb.results.empty() && !verb.gradients.empty(); }
  std::size_t values() const {
    std::size_t all = verb.results.size();
    for (const runtime::result& r : verb.results) all += !r.names.empty();
    return all;
  }
  /// f(argument), for all that may be tensors.
  template <class F>
  void for_each_tensor(const F& f) const {
    for (const slot& s : slots)
      if (s.tensor != none) f(s.tensor);
  }
  std::string results(bool with_values, bool with_gradients) const {
    std::string all;
    const auto result = [&](const std::string& of) { all += (all.empty() ? "Tensor " : ", Tensor ") + of; };
    for (const runtime::result& r : verb.results) {
      if (with_values) result(r.names.empty() ? r.name : r.names.back());
      if (with_values && !r.names.empty()) result("terms");
    }
    for (const std::size_t f : wanted)
      if (with_gradients) result(std::string("d_") + verb.fields[f].name);
    return " -> (" + all + ")";
  }
  std::string with_wanted() const { return "(" + text + ", *, bool[" + std::to_string(wanted.size()) + "] wanted)"; }

 private:
  slot add(const runtime::field& f) {
    const std::string name = f.name == std::string("kernel") ? "family" : f.name;
    const auto argument = [&](const std::string& type, const std::string& standard, const char* prefix = "") {
      text += (count > 0 ? ", " : "") + type + " " + prefix + name + (standard.empty() ? "" : "=" + standard);
      return count++;
    };
    const auto real = [](double number) {  // to the same bits; a schema takes "1" for an integer
      char digits[32];
      std::snprintf(digits, sizeof digits, "%.17g", number);
      return std::string(digits) + (std::string(digits).find_first_of(".e") == std::string::npos ? "." : "");
    };
    switch (f.kind) {
      case kind::scalar: {
        const std::size_t value = argument("float", real(f.number));
        return {value, argument("Tensor?", "None", "learnable_")};
      }
      case kind::list: {
        const std::size_t value = argument("float[]?", "None");
        return {value, argument("Tensor?", "None", "learnable_")};
      }
      case kind::number: return {std::isinf(f.number) ? argument("float?", "None") : argument("float", real(f.number))};
      case kind::whole: return {argument("int", f.required ? "" : std::to_string(f.whole))};
      case kind::wholes: return {argument("int[]?", "None")};
      case kind::flag: return {argument("bool", f.whole ? "True" : "False")};
      case kind::choice:
        return {argument("str", f.required ? "" : "'" + std::string(f.choices[std::size_t(f.whole)]) + "'")};
      default: return {none, f.required ? argument("Tensor", "") : argument("Tensor?", "None")};
    }
  }
};

/// Those of all verbs that take tensors.
inline const std::vector<signature>& signatures() {
  static const std::vector<signature> all = [] {
    std::vector<signature> made;
    for (const runtime::verb& v : runtime::verbs()) {
      made.emplace_back(v);
      if (made.back().slots.empty() || made.back().slots[0].tensor != 0) made.pop_back();
    }
    return made;
  }();
  return all;
}

/// The tensor in v; null: none.
inline const Tensor* tensor_in(const c10::IValue& v) {
  return v.isTensor() && v.toTensor().defined() ? &v.toTensor() : nullptr;
}

// ---------------------------------------------------------------------------------------------------------
// Kernels: CPU, CUDA, and Meta, where results have their shapes and types only

/// f(), with craft's errors thrown as torch's: TypeError, IndexError, ValueError, and c10::Error for those of devices.
template <class F>
auto torch_errors(const F& f) {
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

/// Where tensors of that device are computed: by torch's threads, or in its current stream.
inline any_device device_of(const c10::Device& on) {
#ifdef CRAFT_TORCH_CUDA
  if (on.is_cuda()) {
    const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
    cuda context(stream, at::cuda::getCurrentCUDABlasHandle());
    context.scratch().use(
        [stream](std::size_t bytes) { return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream); },
        [](void* memory, std::size_t) { c10::cuda::CUDACachingAllocator::raw_delete(memory); });
    context.precision(at::globalContext().allowTF32CuBLAS() ? precision::tf32 : precision::strict);
    return any_device(std::move(context));
  }
#endif
  TORCH_CHECK(on.is_cpu(), "craft: tensors on ", on, " are not supported by this build");
  cpu context(at::get_num_threads());
  context.scratch().reserve(1 << 16);  // in one piece what a small batch needs
  return any_device(std::move(context));
}

inline runtime::dtype dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return runtime::dtype::float64;
    case at::kFloat: return runtime::dtype::float32;
    case at::kHalf: return runtime::dtype::float16;
    case at::kBFloat16: return runtime::dtype::bfloat16;
    case at::kLong: return runtime::dtype::int64;
    case at::kInt: return runtime::dtype::int32;
    default: return runtime::dtype::other;
  }
}

/// One call of a verb on an operator's arguments.
class invocation {
 public:
  invocation(const signature& s, arguments given)
      : s_(s), given_(given), like_(given[0].toTensor()), meta_(like_.is_meta()),
        on_(s.verb.matrices > 0 || meta_ ? like_.device() : c10::Device(at::kCPU)),
        computing_(like_.scalar_type() == at::kDouble ? at::kDouble : at::kFloat), guard_(on_), call_(s.verb) {
    for (std::size_t f = 0; f < s.slots.size(); ++f) {
      const slot at = s.slots[f];
      const Tensor* t = at.tensor == none ? nullptr : tensor_in(given[at.tensor]);
      if (t) give(f, *t);
      if (at.value == none || given[at.value].isNone() || (t && kind_of(f) == kind::scalar)) continue;
      TORCH_CHECK_VALUE(!t, s.name, ": expected ", s.verb.fields[f].name, " as numbers or as a tensor, got both");
      give(int(f), given[at.value]);
    }
    if (!symbolic_) call_.check();
  }

  /// Results and gradients, of which those that are wanted.
  tensors run(const c10::List<bool>* wanted) {
    tensors results, gradients;
    for (std::size_t r = 0; r < s_.verb.results.size(); ++r) {
      results.push_back(empty(s_.verb.results[r]));
      call_.result(int(r), place(results.back()));
    }
    for (std::size_t g = 0; wanted && g < s_.wanted.size(); ++g) gradients.push_back(gradient(s_.wanted[g], wanted->get(g)));
    if (!meta_) call_.run(device_of(on_));
    tensors all;
    for (std::size_t r = 0; r < results.size(); ++r) {
      const Tensor t = !meta_ && results[r].device() != like_.device() ? results[r].to(like_.device()) : results[r];
      const std::int64_t last = std::int64_t(s_.verb.results[r].names.size()) - 1;
      if (last < 0) {
        all.push_back(t);
      } else {
        all.push_back(t.select(0, last).clone());
        all.push_back(t.narrow(0, 0, last).clone());
      }
    }
    for (std::size_t g = 0; g < gradients.size(); ++g) {
      const Tensor* of = tensor_in(given_[s_.slots[s_.wanted[g]].tensor]);
      all.push_back(of && of->device() != gradients[g].device() && gradients[g].numel() > 0 ? gradients[g].to(of->device())
                                                                                            : gradients[g]);
    }
    return all;
  }

 private:
  kind kind_of(std::size_t field) const { return s_.verb.fields[field].kind; }
  memory where(const Tensor& t) const { return t.is_cpu() || meta_ ? memory::host : memory::device; }

  void give(int field, const c10::IValue& v) {
    switch (kind_of(std::size_t(field))) {
      case kind::scalar:
      case kind::number: return call_.give(field, v.toDouble());
      case kind::list: return call_.give(field, v.toDoubleVector());
      case kind::whole: return call_.give(field, index_t(v.toInt()));
      case kind::flag: return call_.give(field, v.toBool());
      case kind::choice: return call_.give(field, std::string_view(v.toStringRef()));
      default: break;
    }
    const auto wholes = v.toIntVector();
    call_.give(field, std::vector<index_t>(wholes.begin(), wholes.end()));
  }
  void give(std::size_t field, const Tensor& given) {
    const runtime::field& f = s_.verb.fields[field];
    const bool two = given.dim() == 2, soft = f.kind == kind::computed || (f.kind == kind::targets && two);
    const bool rows = f.kind == kind::matrix || soft, to_host = (f.kind == kind::list || s_.verb.matrices == 0) && !meta_;
    Tensor t = to_host ? given.to(at::kCPU) : given;
    TORCH_CHECK(t.device() == on_ || (t.is_cpu() && !rows), s_.name, ": expected all tensors to be on ", on_, ", but ", f.name,
                " is on ", t.device());
    const bool half = t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16;
    if (soft ? t.is_floating_point() : half && !rows) t = t.to(soft ? computing_ : at::kFloat);
    if (meta_ && std::any_of(t.sym_sizes().begin(), t.sym_sizes().end(), [](const auto& n) { return n.is_symbolic(); })) {
      TORCH_CHECK_VALUE(two || !(f.kind == kind::matrix || f.kind == kind::computed), s_.name, ": ", f.name, " has ", t.dim(),
                        " dimensions, expected a matrix with one sample per row");
      symbolic_ = true;
      return;
    }
    const bool dense = !two || t.size(1) < 2 || t.stride(1) == 1, apart = !two || t.size(0) < 2 || t.stride(0) >= t.size(1);
    if (rows && !(dense && apart)) t = t.contiguous();
    call_.give(int(field), runtime::array{meta_ ? nullptr : t.data_ptr(), dtype_of(t.scalar_type()), where(t), int(t.dim()),
                                          t.sizes().data(), t.strides().data(), c10::toString(t.scalar_type())});
    if (!t.is_same(given)) held_.push_back(std::move(t));
  }

  /// A size by its name, where torch traces with symbols for numbers.
  c10::SymInt size_named(const std::string& name) const {
    for (std::size_t f = 0; f < s_.slots.size(); ++f) {
      const runtime::field& of = s_.verb.fields[f];
      if (name == of.name) return given_[s_.slots[f].value].toInt();
      const Tensor* t = s_.slots[f].tensor == none ? nullptr : tensor_in(given_[s_.slots[f].tensor]);
      for (std::size_t k = 0; t && k < of.shape.size() && std::int64_t(k) < t->dim(); ++k)
        if (of.shape[k][0] == name) return t->sym_size(std::int64_t(k));
    }
    return std::stoll(name);  // a number
  }
  Tensor empty(const runtime::result& r) const {
    const at::ScalarType type = r.type == runtime::dtype::float64 ? at::kDouble : r.type == runtime::dtype::int64 ? at::kLong : computing_;
    const at::TensorOptions options = like_.options().dtype(type).device(on_);
    if (!symbolic_) {
      const runtime::extent e = call_.sizes(r.shape);
      return at::empty(at::IntArrayRef(e.sizes, std::size_t(e.dimensions)), options);
    }
    std::vector<c10::SymInt> sizes;
    for (const auto& factors : r.shape) {
      sizes.emplace_back(1);
      for (const std::string& factor : factors) sizes.back() = sizes.back() * size_named(factor);
    }
    return at::empty_symint(sizes, options);
  }
  /// A place for the gradient of a field. Of a scale that may be clamped there are two, of the loss and of its negative: which one
  /// counts is known when another gradient comes from above.
  Tensor gradient(std::size_t field, bool wanted) {
    at::TensorOptions options = like_.options().dtype(computing_);
    if (!wanted) return at::empty({0}, options);
    const Tensor* t = tensor_in(given_[s_.slots[field].tensor]);
    TORCH_CHECK_VALUE(t, s_.name, ": a gradient is wanted of a tensor that is not given");
    const runtime::field& f = s_.verb.fields[field];
    if (f.kind != kind::list) options = options.device(t->device());  // the host has read a list: then it may also wait
    Tensor to;
    if (f.two_sided && !given_[s_.slots[field + 1].value].isNone()) {
      std::vector<c10::SymInt> shape = t->sym_sizes().vec();
      shape.insert(shape.begin(), 2);
      to = at::empty_symint(shape, options);
    } else {
      to = at::empty_symint(t->sym_sizes(), options);
    }
    call_.gradient(f.gradient, place(to));
    return to;
  }
  runtime::place place(const Tensor& t) const {
    if (meta_) return {};
    const bool two = t.dim() == 2;
    const index_t cols = two ? t.size(1) : t.numel();
    return {t.data_ptr(), two ? t.size(0) : 1, cols, cols, dtype_of(t.scalar_type()), where(t)};
  }

  const signature& s_;
  arguments given_;
  const Tensor& like_;
  bool meta_, symbolic_ = false;
  c10::Device on_;
  at::ScalarType computing_;
  c10::DeviceGuard guard_;
  runtime::call call_;
  tensors held_;  // copies that had to be made
};

/// A verb on a device: its results, and gradients if the operator has the argument `wanted`.
struct kernel : c10::OperatorKernel {
  const signature& s;
  bool gradients;

  kernel(const signature& of, bool with_gradients) : s(of), gradients(with_gradients) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) {
    const std::size_t count = s.count + gradients;
    tensors results = torch_errors([&] {
      const arguments given = torch::jit::last(*stack, count);
      invocation call(s, given);
      if (!gradients) return call.run(nullptr);
      const c10::List<bool> wanted = given.back().toBoolList();
      return call.run(&wanted);
    });
    torch::jit::drop(*stack, count);
    for (Tensor& t : results) stack->emplace_back(std::move(t));
  }
};

// ---------------------------------------------------------------------------------------------------------
// Derivatives

inline bool wants_gradient(const Tensor* t) { return t && at::GradMode::is_enabled() && t->requires_grad(); }
inline bool has_tangent(const Tensor* t) { return t && t->_fw_grad(0).defined(); }
inline void call_below(const c10::OperatorHandle& op, Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  op.callBoxed(stack);
}
inline c10::OperatorHandle operator_named(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}
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
    if (t.defined() && t.is_floating_point()) torch::autograd::set_history(t, node);
}

/// What depends on the inputs in a way whose derivative is an error, never zero in silence.
struct underivable : torch::autograd::Node {
  std::string of;

  underivable(torch::autograd::edge_list inputs, const std::string& name) : Node(std::move(inputs)), of(name) {}
  tensors apply(tensors&&) override {
    TORCH_CHECK_NOT_IMPLEMENTED(false, of,
                                " has no derivative: losses and relative representations have first derivatives only, and "
                                "anchors are constants, to be made of x.detach()");
  }
};

/// An operator that has derivatives, or none.
struct differentiable : c10::OperatorKernel {
  const signature& s;
  std::vector<std::size_t> to;  // the arguments that have gradients

  explicit differentiable(const signature& of) : s(of) {}
  /// Whether anybody asks for a derivative now. Throws where there is none.
  bool asked(const c10::OperatorHandle& op, const Stack* stack, bool forward, bool backward_by_all = false) const {
    const arguments given = torch::jit::last(*stack, op.schema().arguments().size());
    bool any = false;
    s.for_each_tensor([&](std::size_t i) {
      const Tensor* t = tensor_in(given[i]);
      const bool tangent = has_tangent(t);
      if (!tangent && !wants_gradient(t)) return;
      any = true;
      TORCH_CHECK_NOT_IMPLEMENTED(forward || !tangent, op.schema().name(), ": derivatives in forward mode are not available");
      const std::string& name = op.schema().arguments()[i].name();
      TORCH_CHECK_NOT_IMPLEMENTED(backward_by_all || std::find(to.begin(), to.end(), i) != to.end(), op.schema().name(),
                                  ": there is no gradient by ", name, "; pass ", name, ".detach()");
    });
    return any;
  }
};

/// Gradients and all that has none: results whose derivatives are errors.
struct without_derivative : differentiable {
  using differentiable::differentiable;
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    tensors inputs;
    if (asked(op, stack, false, true)) {
      const arguments given = torch::jit::last(*stack, op.schema().arguments().size());
      s.for_each_tensor([&](std::size_t i) {
        if (const Tensor* t = tensor_in(given[i])) inputs.push_back(*t);
      });
    }
    call_below(op, stack);
    if (inputs.empty()) return;
    tensors results;
    for (const c10::IValue& v : torch::jit::last(*stack, op.schema().returns().size())) results.push_back(v.toTensor());
    set_history(new underivable(torch::autograd::collect_next_edges(inputs), op.schema().name()), results);
  }
};

/// The backward of a value whose gradients are there already. Not a torch::autograd::Function, which takes microseconds.
struct times_gradients : torch::autograd::Node {
  std::vector<torch::autograd::SavedVariable> gradients;
  std::vector<bool> in_pairs;  // of the loss and of its negative

  times_gradients(torch::autograd::edge_list edges, const tensors& computed, std::vector<bool> pairs)
      : Node(std::move(edges)), in_pairs(std::move(pairs)) {
    for (const Tensor& g : computed) gradients.emplace_back(g, false);
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
struct loss_with_gradients : differentiable {
  c10::OperatorHandle gradients;

  explicit loss_with_gradients(const signature& of) : differentiable(of), gradients(operator_named(of.name + "_gradients")) {
    for (const std::size_t f : of.wanted) to.push_back(of.slots[f].tensor);
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    if (!asked(op, stack, true)) return call_below(op, stack);
    const arguments given = torch::jit::last(*stack, s.count);
    const std::size_t count = to.size();
    tensors inputs(count), tangents(count), computed(count);
    std::vector<bool> in_pairs(count);
    c10::List<bool> wanted;
    bool backward = false;
    for (std::size_t g = 0; g < count; ++g) {
      const Tensor* t = tensor_in(given[to[g]]);
      if (wants_gradient(t)) inputs[g] = *t, backward = true;
      if (has_tangent(t)) tangents[g] = t->_fw_grad(0);
      in_pairs[g] = t;  // to be compared below
      wanted.push_back(inputs[g].defined() || tangents[g].defined());
    }
    stack->emplace_back(wanted);
    call_below(gradients, stack);
  }
};
