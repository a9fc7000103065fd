// The operators of craft/adapters/torch.hpp, registered with torch's dispatcher as the library "craft": include this in exactly
// one source of a program or of a library that is loaded into one. Link craft::runtime, or include
// craft/adapters/runtime_bodies.hpp in that source too.
//
// They are made of the verbs' descriptions (craft/describe.hpp); no verb and no option is named here. Every field is an argument, by
// position or by name; a scalar `s` and a list are two, the second a tensor `learnable_s` instead of the first. A verb is
//
//     a loss   craft::L_gradients(..., *, bool[k] wanted) -> (value, d_x, ...) computes value and gradients in one sweep over the
//              pairs; what is not wanted is an empty tensor. craft::L(...) is the value; where gradients are needed it calls the
//              other once in forward, and its backward only multiplies. Of several numbers the last is the value, and the others
//              are a second result.
//     a map    craft::M(...) -> out, whose backward calls craft::PULLBACK(..., *, bool[k] wanted) -> (d_x, ...)
//     neither  craft::V(...) -> its results, without derivatives
//
// All have kernels for Meta tensors, so that torch.compile and torch.export trace them without a graph break. Autocast: matrices of
// different types are cast to the widest of them. Since everything is computed in float32 or wider, the numbers are those of torch's
// own losses, which autocast runs in float32, without the memory for casting all inputs.
#pragma once

#include <ATen/CPUFunctions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <algorithm>
#include <bitset>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
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
using symbols = c10::SymDimVector;

// ---------------------------------------------------------------------------------------------------------
// Schemas

constexpr std::size_t none = std::size_t(-1);

/// A field as an argument that is no tensor; empty: it is nothing else.
inline std::string argument_of(const runtime::field& f, const std::string& name) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.17g", f.number);  // read back to the same bits; without a point it were an integer
  switch (f.kind) {
    case kind::number:
      if (std::isinf(f.number)) return "float? " + name + "=None";
      [[fallthrough]];
    case kind::scalar: return "float " + name + "=" + digits + (std::strpbrk(digits, ".e") ? "" : ".");
    case kind::list: return "float[]? " + name + "=None";
    case kind::whole: return "int " + name + (f.required ? "" : "=" + std::to_string(f.whole));
    case kind::wholes: return "int[]? " + name + "=None";
    case kind::flag: return "bool " + name + (f.whole != 0 ? "=True" : "=False");
    case kind::choice: return "str " + name + (f.required ? "" : "='" + std::string(f.choices[std::size_t(f.whole)]) + "'");
    default: return "";
  }
}

/// A verb as an operator, and a loss as two.
struct signature {
  const runtime::verb& verb;
  std::string name, text;                  // craft::NAME, and its arguments
  std::size_t count = 0;                   // of these
  std::vector<std::size_t> value, tensor;  // of each field the argument that is a number or text, and that which is a tensor, or none
  std::vector<std::size_t> wanted;         // the fields that may be tensors and have a gradient

  explicit signature(const runtime::verb& v) : verb(v), name(std::string("craft::") + v.name) {
    const auto add = [&](const std::string& argument) { return text += (count > 0 ? ", " : "") + argument, count++; };
    for (const runtime::field& f : v.fields) {
      // Not "kernel": torch's compiler has an argument of that name itself.
      const std::string field = std::strcmp(f.name, "kernel") == 0 ? "family" : f.name, other = argument_of(f, field);
      value.push_back(other.empty() ? none : add(other));
      const bool learnable = f.kind == kind::scalar || f.kind == kind::list;
      tensor.push_back(learnable ? add("Tensor? learnable_" + field + "=None") : !other.empty() ? none
                                 : f.required ? add("Tensor " + field) : add("Tensor? " + field + "=None"));
    }
    for (const int g : v.gradients)
      if (tensor[std::size_t(g)] != none) wanted.push_back(std::size_t(g));
  }
  bool is_loss() const { return !verb.results.empty() && !wanted.empty(); }
  /// The operator that gives gradients, if any does.
  std::string with_gradients() const { return name + (is_loss() ? "_gradients" : ""); }
  std::string schema(bool gradients) const {
    std::string results;
    const auto add = [&](const std::string& result) { results += (results.empty() ? "Tensor " : ", Tensor ") + result; };
    for (const runtime::result& r : verb.results) {
      add(r.names.empty() ? r.name : r.names.back());
      if (!r.names.empty()) add("terms");
    }
    for (std::size_t g = 0; gradients && g < wanted.size(); ++g) add(std::string("d_") + verb.fields[wanted[g]].name);
    const std::string flags = gradients && !wanted.empty() ? ", *, bool[" + std::to_string(wanted.size()) + "] wanted" : "";
    return (gradients ? with_gradients() : name) + "(" + text + flags + ") -> (" + results + ")";
  }
  /// What is given for a field as a tensor; null: nothing.
  const Tensor* given(std::size_t field, arguments all) const {
    const c10::IValue* v = tensor[field] != none ? &all[tensor[field]] : nullptr;
    return v && v->isTensor() && v->toTensor().defined() ? &v->toTensor() : nullptr;
  }
  /// Whether a gradient is two, of the value and of its negative, as that of a scale with a bound, which is the field after it: which
  /// one counts is known when another gradient comes from above.
  bool in_pair(std::size_t field, arguments all) const {
    return verb.fields[field].two_sided && !all[value[field + 1]].isNone();
  }
};

/// Those of all verbs that take tensors: the first argument is one.
inline const std::vector<signature>& signatures() {
  static const std::vector<signature> all = [] {
    std::vector<signature> made;
    for (const runtime::verb& v : runtime::verbs())
      if (signature s(v); s.tensor[0] == 0) made.push_back(std::move(s));
    return made;
  }();
  return all;
}

// ---------------------------------------------------------------------------------------------------------
// Kernels: CPU, CUDA, and Meta, where results have their shapes and types only

/// The device as craft computes on it: in torch's threads, or its current stream.
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
  cpu context = runtime::host_context(at::get_num_threads());
  context.scratch().reserve(1 << 16);  // in one piece what a small batch needs
  return any_device(std::move(context));
}

constexpr at::ScalarType types[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt};  // by runtime::dtype
inline runtime::dtype dtype_of(const Tensor& t) {
  return runtime::dtype(std::find(std::begin(types), std::end(types), t.scalar_type()) - std::begin(types));
}

/// One call of a verb with the arguments of an operator.
struct invocation {
  const signature& s;
  const arguments given;
  const Tensor& like;  // results go where it is
  const bool meta = like.is_meta();
  const c10::Device on = s.verb.matrices > 0 || meta ? like.device() : c10::Device(at::kCPU);
  const c10::DeviceGuard guard{on};
  const runtime::dtype computing = runtime::computing(dtype_of(like));
  runtime::call call{s.verb};
  bool symbolic = false;  // whether torch traces with symbols for sizes
  tensors held{};         // copies that had to be made

  invocation(const signature& of, arguments all) : s(of), given(all), like(all[0].toTensor()) {
    for (std::size_t f = 0; f < s.value.size(); ++f) {
      const Tensor* t = s.given(f, given);
      if (t) give(f, *t);
      if (s.value[f] == none || given[s.value[f]].isNone() || (t && s.verb.fields[f].kind == kind::scalar)) continue;
      TORCH_CHECK_VALUE(!t, s.name, ": expected ", s.verb.fields[f].name, " as numbers or as a tensor, got both");
      give(int(f), given[s.value[f]]);
    }
    if (!symbolic) call.check();
  }
  void give(int f, const c10::IValue& v) {
    switch (s.verb.fields[std::size_t(f)].kind) {
      case kind::list: return call.give(f, v.toDoubleVector());
      case kind::whole: return call.give(f, index_t(v.toInt()));
      case kind::flag: return call.give(f, v.toBool());
      case kind::choice: return call.give(f, std::string_view(v.toStringRef()));
      case kind::wholes: return call.give(f, std::vector<index_t>(v.toIntVector()));
      default: call.give(f, v.toDouble());
    }
  }
  void give(std::size_t f, const Tensor& from) {
    const auto [is, name] = std::pair(s.verb.fields[f].kind, s.verb.fields[f].name);
    const bool two = from.dim() == 2, soft = is == kind::computed || (is == kind::targets && two), rows = soft || is == kind::matrix;
    const bool to_host = is == kind::list || s.verb.matrices == 0, to_device = is == kind::scalar && from.is_cpu() && !on.is_cpu();
    Tensor t = meta ? from : to_host ? from.cpu() : to_device ? from.to(on) : from;
    TORCH_CHECK(t.device() == on || (t.is_cpu() && !rows), s.name, ": expected all tensors to be on ", on, ", but ", name, " is on ",
                t.device());
    if (soft && t.is_floating_point()) t = t.to(types[int(computing)]);
    if (!rows && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16)) t = t.to(at::kFloat);
    if (meta && std::any_of(t.sym_sizes().begin(), t.sym_sizes().end(), [](const auto& n) { return n.is_symbolic(); })) {
      TORCH_CHECK_VALUE(two || !rows, s.name, ": ", name, " has ", t.dim(), " dimensions, expected a matrix with one sample per row");
      symbolic = true;
      return;
    }
    if (two && rows && !((t.size(1) < 2 || t.stride(1) == 1) && (t.size(0) < 2 || t.stride(0) >= t.size(1)))) t = t.contiguous();
    call.give(int(f), runtime::array{meta ? nullptr : t.data_ptr(), dtype_of(t), where(t), int(t.dim()), t.sizes().data(),
                                     t.strides().data(), c10::toString(t.scalar_type())});
    if (!t.is_same(from)) held.push_back(std::move(t));
  }
  memory where(const Tensor& t) const { return t.is_cpu() || meta ? memory::host : memory::device; }

  /// Results, and as many gradients as there are flags, empty where those say so.
  tensors run(const std::vector<bool>& wanted) {
    tensors all;
    all.reserve(s.verb.results.size() + wanted.size() + 1);
    for (std::size_t r = 0; r < s.verb.results.size(); ++r) {
      const auto type = s.verb.results[r].type;
      call.result(int(r), place(all, sizes_of(s.verb.results[r].shape), type == runtime::dtype::float32 ? computing : type));
    }
    for (std::size_t g = 0; g < wanted.size(); ++g) {
      const std::size_t f = s.wanted[g];
      const Tensor* of = s.given(f, given);
      TORCH_CHECK_VALUE(of || !wanted[g], s.name, ": a gradient is wanted of a tensor that is not given");
      symbols sizes;
      if (wanted[g] && s.in_pair(f, given)) sizes.push_back(2);
      if (wanted[g])
        sizes.append(of->sym_sizes().begin(), of->sym_sizes().end());
      else
        sizes.push_back(0);
      const runtime::place to = place(all, sizes, computing);
      if (wanted[g]) call.gradient(s.verb.fields[f].gradient, to);
    }
    if (!meta) call.run(device_of(on));
    for (std::size_t r = s.verb.results.size(); r-- > 0;) {
      if (on != like.device()) all[r] = all[r].to(like.device());
      const auto names = std::int64_t(s.verb.results[r].names.size());
      if (names == 0) continue;
      all.insert(all.begin() + std::ptrdiff_t(r) + 1, all[r].narrow(0, 0, names - 1).clone());
      all[r] = all[r].select(0, names - 1).clone();
    }
    return all;
  }
  /// A new tensor at the end of `all`, as a place.
  runtime::place place(tensors& all, const symbols& sizes, runtime::dtype type) const {
    const auto options = like.options().device(on).dtype(types[int(type)]);
    all.push_back(on.is_cpu() ? at::cpu::empty_symint(sizes, options) : at::empty_symint(sizes, options));  // the first is faster
    const Tensor& t = all.back();
    if (meta) return {};
    const index_t rows = t.dim() == 2 ? t.size(0) : 1, cols = t.dim() == 2 ? t.size(1) : t.numel();
    return {t.data_ptr(), rows, cols, cols, type, where(t)};
  }
  symbols sizes_of(const runtime::shape& shape) const {
    symbols sizes(shape.size(), 1);
    for (std::size_t k = 0; k < shape.size(); ++k)
      for (const std::string& factor : shape[k]) sizes[k] = sizes[k] * size_named(factor);
    return sizes;
  }
  c10::SymInt size_named(const std::string& name) const {
    for (std::size_t f = 0; f < s.value.size(); ++f) {
      if (name == s.verb.fields[f].name) {
        TORCH_CHECK_VALUE(given[s.value[f]].toInt() >= 0, s.name, ": ", name, " must not be negative, got ", given[s.value[f]].toInt());
        return given[s.value[f]].toInt();
      }
      const auto& shape = s.verb.fields[f].shape;
      const Tensor* t = s.given(f, given);
      for (std::size_t k = 0; t && k < shape.size() && std::int64_t(k) < t->dim(); ++k)
        if (shape[k][0] == name) return t->sym_size(std::int64_t(k));
    }
    return std::stoll(name);  // a number
  }
};

/// Results, with gradients where the operator has the argument `wanted`. Throws craft's errors as torch's.
struct computes : c10::OperatorKernel {
  const signature& s;
  const bool gradients;

  computes(const signature& of, bool with_gradients) : s(of), gradients(with_gradients && !of.wanted.empty()) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) try {
    const arguments given = torch::jit::last(*stack, s.count + gradients);
    tensors results = invocation(s, given).run(gradients ? given.back().toBoolList().vec() : std::vector<bool>());
    torch::jit::drop(*stack, given.size());
    for (Tensor& t : results) stack->emplace_back(std::move(t));
  } catch (const error& e) {
    TORCH_CHECK_TYPE(!dynamic_cast<const type_error*>(&e), e.what());
    TORCH_CHECK_INDEX(!dynamic_cast<const label_error*>(&e), e.what());
    TORCH_CHECK(!dynamic_cast<const device_error*>(&e), e.what());
    TORCH_CHECK_VALUE(false, e.what());
  }
};

// ---------------------------------------------------------------------------------------------------------
// Derivatives

/// What is asked of an argument that has a gradient: that, or what a tangent of it makes of the others' results.
struct asked {
  std::size_t gradient;  // its number
  Tensor input, tangent;
};
using torch::autograd::edge_list;
inline edge_list edges_of(const std::vector<asked>& inputs) {
  edge_list edges;
  for (const asked& a : inputs)
    edges.push_back(a.input.defined() ? torch::autograd::impl::gradient_edge(a.input) : torch::autograd::Edge());
  return edges;
}

/// A node of the graph. Not a torch::autograd::Function, which takes microseconds.
struct node : torch::autograd::Node {
  using backward = std::function<tensors(const node&, const Tensor& upstream)>;
  const std::string& of;
  const backward f;
  std::vector<torch::autograd::SavedVariable> saved;

  node(const std::string& op, edge_list edges, const tensors& kept, backward by)
      : Node(std::move(edges)), of(op), f(std::move(by)) {
    saved.reserve(kept.size());
    for (const Tensor& t : kept) saved.emplace_back(t, false);
  }
  std::string name() const override { return of; }
  tensors apply(tensors&& upstream) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Losses and maps have one value; of results without derivatives any may have a gradient.
    return upstream.size() > 1 || upstream[0].defined() ? f(*this, upstream[0]) : tensors(num_outputs());
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (torch::autograd::SavedVariable& t : saved) t.reset_data();
  }
};
/// Makes results those of a node, which torch counts by shared or, lately, intrusive pointers.
template <class N>
void set_history(N* made, const tensors& results) {
  const auto counted = [&] {
    if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, N>)
      return c10::intrusive_ptr<N>::unsafe_steal_from_new(made);
    else
      return std::shared_ptr<N>(made, [](auto* n) { deleteNode(n); });
  }();
  for (Tensor t : results)
    if (t.is_floating_point()) torch::autograd::set_history(t, counted);
}
/// Makes results depend on the inputs in a way whose derivative is an error, never zero in silence.
inline void set_underivable(const c10::OperatorHandle& op, edge_list inputs, const tensors& results) {
  set_history(new node(op.schema().name(), std::move(inputs), {}, [](const node& n, const Tensor&) -> tensors {
                TORCH_CHECK_NOT_IMPLEMENTED(false, n.of, " has no derivative: losses and relative representations have first ",
                                            "derivatives only, and anchors are constants, to be made of x.detach()");
              }), results);
}
inline void call_below(const c10::OperatorHandle& op, Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView below;
  op.callBoxed(stack);
}
inline c10::OperatorHandle operator_named(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}

/// An operator to autograd; by itself one with results that have no derivatives.
struct derivable : c10::OperatorKernel {
  const signature& s;
  std::vector<std::size_t> to;  // the arguments that have gradients

  explicit derivable(const signature& of) : s(of), to(of.tensor) {}
  std::vector<asked> inputs(arguments given, bool forward_mode = false) const {
    std::vector<asked> found;
    for (std::size_t f = 0; f < s.tensor.size(); ++f) {
      const Tensor* t = s.given(f, given);
      const bool gradient = t && t->requires_grad() && at::GradMode::is_enabled(), tangent = t && t->_fw_grad(0).defined();
      if (!gradient && !tangent) continue;
      const char* name = s.verb.fields[f].name;
      const std::size_t g = std::size_t(std::find(to.begin(), to.end(), s.tensor[f]) - to.begin());
      TORCH_CHECK_NOT_IMPLEMENTED(!tangent || forward_mode, s.name, ": derivatives in forward mode are not available");
      TORCH_CHECK_NOT_IMPLEMENTED(g < to.size(), s.name, ": there is no gradient by ", name, "; pass ", name, ".detach()");
      found.push_back({g, gradient ? *t : Tensor(), t->_fw_grad(0)});
    }
    return found;
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const auto of = inputs(torch::jit::last(*stack, op.schema().arguments().size()));
    call_below(op, stack);
    if (of.empty()) return;
    tensors results;
    for (const c10::IValue& v : torch::jit::last(*stack, op.schema().returns().size())) results.push_back(v.toTensor());
    set_underivable(op, edges_of(of), results);
  }
};

/// A loss, from the values and gradients of craft::L_gradients; of several values, the first has derivatives.
struct derivable_loss : derivable {
  const c10::OperatorHandle gradients;

  explicit derivable_loss(const signature& of) : derivable(of), gradients(operator_named(of.with_gradients())) {
    to.clear();
    for (const std::size_t f : s.wanted) to.push_back(s.tensor[f]);
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    const arguments given = torch::jit::last(*stack, s.count);
    const auto of = inputs(given, true);
    if (of.empty()) return call_below(op, stack);
    c10::List<bool> wanted;
    wanted.resize(to.size(), false);
    std::bitset<64> pairs;
    for (std::size_t i = 0; i < of.size(); ++i) {
      wanted.set(of[i].gradient, true);
      pairs[i] = s.in_pair(s.wanted[of[i].gradient], given);
    }
    stack->emplace_back(std::move(wanted));
    call_below(gradients, stack);
    tensors computed;
    for (const asked& a : of) {
      const Tensor& d = torch::jit::peek(*stack, a.gradient, to.size()).toTensor();
      computed.push_back(a.input.defined() && a.input.device() != d.device() ? d.to(a.input.device()) : d);
    }
    torch::jit::drop(*stack, to.size());
    const Tensor value = torch::jit::peek(*stack, 0, op.schema().returns().size()).toTensor();
    const bool backward = std::any_of(of.begin(), of.end(), [](const asked& a) { return a.input.defined(); });
    if (backward) {
      const auto times = [this, pairs](const node& n, const Tensor& by) {
        tensors results(n.saved.size());
        for (std::size_t i = 0; i < results.size(); ++i) {
          if (!n.task_should_compute_output(i)) continue;
          const Tensor d = at::GradMode::is_enabled() ? underivable(n.saved[i].unpack(), n.next_edges()) : n.saved[i].unpack();
          results[i] = !pairs[i] ? by * d : by.abs() * at::where(by < 0, d.select(0, 1), d.select(0, 0));
        }
        return results;
      };
      set_history(new node(op.schema().name(), edges_of(of), computed, times), {value});
    }
    Tensor tangent;
    for (std::size_t i = 0; i < of.size(); ++i) {
      if (!of[i].tangent.defined()) continue;
      const Tensor d = backward && at::GradMode::is_enabled() ? underivable(computed[i], edges_of(of)) : computed[i];
      const Tensor part = ((pairs[i] ? d.select(0, 0) : d) * of[i].tangent).sum();
      tangent = tangent.defined() ? tangent + part : part;
    }
    if (tangent.defined()) value._set_fw_grad(tangent.to(value.scalar_type()), 0, false);
  }
  /// A gradient as one that depends on the inputs. Made where it is asked for, which costs less than always.
  Tensor underivable(const Tensor& gradient, edge_list inputs) const {
    const Tensor d = gradient.detach();
    set_underivable(gradients, std::move(inputs), {d});
    return d;
  }
};

/// A map, whose backward is an operator of its own.
struct derivable_map : derivable {
  const c10::OperatorHandle pullback;
  std::vector<std::size_t> from;  // of each argument of the pullback that of the map; none: what comes from above

  derivable_map(const signature& of, const signature& p) : derivable(of), pullback(operator_named(p.name)), from(p.count, none) {
    to.clear();
    for (std::size_t f = 0; f < s.value.size(); ++f) {
      const auto same = std::size_t(p.verb.field_named(s.verb.fields[f].name));
      if (s.value[f] != none) from[p.value[same]] = s.value[f];
      if (s.tensor[f] != none) from[p.tensor[same]] = s.tensor[f];
    }
    for (const std::size_t f : p.wanted) to.push_back(from[p.tensor[f]]);
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    Stack given = torch::jit::last(*stack, s.count).vec();
    const auto of = inputs(given);
    call_below(op, stack);
    if (of.empty()) return;
    tensors kept(given.size());
    for (std::size_t i = 0; i < given.size(); ++i)
      if (given[i].isTensor()) kept[i] = std::exchange(given[i], {}).toTensor();
    std::vector<std::size_t> which;
    for (const asked& a : of) which.push_back(a.gradient);
    const auto pull = [this, given, which](const node& n, const Tensor& dout) {
      Stack all;
      for (const std::size_t i : from) {
        const Tensor t = i == none ? dout : n.saved[i].unpack();
        all.push_back(t.defined() ? c10::IValue(t) : given[i]);
      }
      c10::List<bool> wanted;
      wanted.resize(to.size(), false);
      for (std::size_t i = 0; i < which.size(); ++i) wanted.set(which[i], n.task_should_compute_output(i));
      all.emplace_back(wanted);
      pullback.callBoxed(&all);
      tensors results(which.size());
      for (std::size_t i = 0; i < which.size(); ++i)
        if (wanted.get(which[i])) results[i] = all[which[i]].toTensor();
      return results;
    };
    set_history(new node(op.schema().name(), edges_of(of), kept, pull), {stack->back().toTensor()});
  }
};

/// Autocast: matrices of samples are cast to the widest of their types.
struct cast_to_widest : c10::OperatorKernel {
  const signature& s;

  explicit cast_to_widest(const signature& of) : s(of) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    c10::impl::ExcludeDispatchKeyGuard below(c10::autocast_dispatch_keyset);
    at::ScalarType widest = at::ScalarType::Undefined;
    for (const bool cast : {false, true})
      for (std::size_t f = 0; f < s.value.size(); ++f) {
        const Tensor* t = s.given(f, torch::jit::last(*stack, s.count));
        if (s.verb.fields[f].kind != kind::matrix || !t || !t->is_floating_point()) continue;
        widest = widest == at::ScalarType::Undefined ? t->scalar_type() : c10::promoteTypes(widest, t->scalar_type());
        if (cast) torch::jit::peek(*stack, s.tensor[f], s.count) = t->to(widest);
      }
    op.callBoxed(stack);
  }
};

}  // namespace craft::aten::operators

TORCH_LIBRARY(craft, m) {
  using namespace craft::aten::operators;
  using key = c10::DispatchKey;
  const auto define = [&](const std::string& name, key on, auto kernel) {
    m.impl(name.c_str(), on, torch::CppFunction::makeFromBoxedFunctor(std::make_unique<decltype(kernel)>(std::move(kernel))));
  };
  for (const signature& s : signatures()) {
    m.def(s.schema(true).c_str());
    if (s.is_loss()) m.def(s.schema(false).c_str());
  }
  for (const signature& s : signatures()) {
#ifdef CRAFT_TORCH_CUDA
    for (const key device : {key::CPU, key::CUDA, key::Meta}) {
#else
    for (const key device : {key::CPU, key::Meta}) {
#endif
      define(s.with_gradients(), device, computes(s, true));
      if (s.is_loss()) define(s.name, device, computes(s, false));
    }
    for (const key autocast : {key::AutocastCPU, key::Autocast})
      if (s.verb.matrices > 1) define(s.name, autocast, cast_to_widest(s));
    if (s.is_loss()) define(s.name, key::Autograd, derivable_loss(s));
    const auto p = std::find_if(signatures().begin(), signatures().end(),
                                [&](const signature& o) { return s.verb.pullback && o.name == std::string("craft::") + s.verb.pullback; });
    if (p != signatures().end())
      define(s.name, key::Autograd, derivable_map(s, *p));
    else
      define(s.with_gradients(), key::Autograd, derivable(s));
  }
}
