// The operators of craft/adapters/torch.hpp, registered with torch's dispatcher as the library "craft": include this in exactly
// one source of a program or of a library that is loaded into one. Link craft::runtime, or include
// craft/adapters/runtime_bodies.hpp in that source too.
//
// They are made of the verbs' descriptions (craft/describe.hpp); no verb and no option is named here. Every field is an argument,
// by position or by name; a scalar `s` and a list are two, the second a tensor `learnable_s` instead of the first. A verb is
//
//     a loss   craft::L_gradients(..., *, bool[k] wanted) -> (value, d_x, ...) computes value and gradients in one sweep over the
//              pairs; what is not wanted is an empty tensor. craft::L(...) is the value; where gradients are needed it calls the
//              other once in forward, and its backward only multiplies. Of several numbers the last is the value, and the others
//              are a second result.
//     a map    craft::M(...) -> out, whose backward calls craft::PULLBACK(..., *, bool[k] wanted) -> (d_x, ...)
//     neither  craft::V(...) -> its results, without derivatives
//
// All have kernels for Meta tensors, so that torch.compile and torch.export trace them without a graph break. Autocast casts
// matrices of different types to the widest of them: all is computed in float32 or wider, so the numbers are those of torch's own
// losses, which autocast runs in float32, without the memory for casting all inputs.
#pragma once

#include <ATen/CPUFunctions.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
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
constexpr std::size_t none = std::size_t(-1);

// ---------------------------------------------------------------------------------------------------------
// Schemas

/// A field as an argument that is no tensor; empty: it is nothing else.
inline std::string argument_of(const runtime::field& f, const std::string& name) {
  char number[32];
  std::snprintf(number, sizeof number, "%.17g", f.number);  // read back to the same bits; without a point it were an integer
  switch (f.kind) {
    case kind::number:
      if (std::isinf(f.number)) return "float? " + name + "=None";
      [[fallthrough]];
    case kind::scalar: return "float " + name + "=" + number + (std::strpbrk(number, ".e") ? "" : ".");
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
  std::string name, with_gradients, text;  // craft::NAME, the operator that gives gradients, and the arguments
  std::size_t count = 0;                   // of these
  std::vector<std::size_t> value, tensor;  // of each field the argument that is a number or text, and that which is a tensor
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
    with_gradients = name + (is_loss() ? "_gradients" : "");
  }
  bool is_loss() const { return !verb.results.empty() && !wanted.empty(); }
  std::string schema(bool gradients) const {
    std::string results;
    const auto add = [&](const std::string& result) { results += (results.empty() ? "Tensor " : ", Tensor ") + result; };
    for (const runtime::result& r : verb.results) {
      add(r.names.empty() ? r.name : r.names.back());
      if (!r.names.empty()) add("terms");
    }
    for (std::size_t g = 0; gradients && g < wanted.size(); ++g) add(std::string("d_") + verb.fields[wanted[g]].name);
    const std::string flags = gradients && !wanted.empty() ? ", *, bool[" + std::to_string(wanted.size()) + "] wanted" : "";
    return (gradients ? with_gradients : name) + "(" + text + flags + ") -> (" + results + ")";
  }
  /// What is given for a field as a tensor; null: nothing.
  const Tensor* given(std::size_t field, arguments all) const {
    const c10::IValue* v = tensor[field] != none ? &all[tensor[field]] : nullptr;
    return v && v->isTensor() && v->toTensor().defined() ? &v->toTensor() : nullptr;
  }
  /// Whether a gradient is two, of the value and of its negative, as that of a scale with a bound, which is the field after it:
  /// which one counts is known when another gradient comes from above.
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
    using allocator = c10::cuda::CUDACachingAllocator;
    context.scratch().use([stream](std::size_t bytes) { return allocator::raw_alloc_with_stream(bytes, stream); },
                          [](void* memory, std::size_t) { allocator::raw_delete(memory); });
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
    if (!symbolic) meta ? call.rehearse() : call.check();
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
    const runtime::field& field = s.verb.fields[f];
    const kind is = field.kind;
    const bool two = from.dim() == 2, soft = is == kind::computed || (is == kind::targets && two), rows = soft || is == kind::matrix;
    const bool to_host = is == kind::list || s.verb.matrices == 0, to_device = is == kind::scalar && from.is_cpu() && !on.is_cpu();
    Tensor t = meta ? from : to_host ? from.cpu() : to_device ? from.to(on) : from;
    TORCH_CHECK(t.device() == on || (t.is_cpu() && !rows), s.name, ": expected all tensors to be on ", on, ", but ", field.name,
                " is on ", t.device());
    if (soft && t.is_floating_point()) t = t.to(types[int(computing)]);
    if (!rows && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16)) t = t.to(at::kFloat);
    if (meta && std::any_of(t.sym_sizes().begin(), t.sym_sizes().end(), [](const auto& n) { return n.is_symbolic(); })) {
      TORCH_CHECK_VALUE(two || !rows, s.name, ": ", field.name, " has ", t.dim(), " dimensions, expected a matrix with one sample per row");
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
      c10::SymDimVector sizes(wanted[g] && s.in_pair(f, given) ? 1 : 0, 2);
      const c10::SymDimVector others = wanted[g] ? c10::SymDimVector(of->sym_sizes()) : c10::SymDimVector{0};
      sizes.append(others.begin(), others.end());
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
  runtime::place place(tensors& all, const c10::SymDimVector& sizes, runtime::dtype type) const {
    const auto options = like.options().device(on).dtype(types[int(type)]);
    all.push_back(on.is_cpu() ? at::cpu::empty_symint(sizes, options) : at::empty_symint(sizes, options));  // the first is faster
    const Tensor& t = all.back();
    if (meta) return {};
    const index_t rows = t.dim() == 2 ? t.size(0) : 1, cols = t.dim() == 2 ? t.size(1) : t.numel();
    return {t.data_ptr(), rows, cols, cols, type, where(t)};
  }
  c10::SymDimVector sizes_of(const runtime::shape& shape) const {
    const runtime::extent e = symbolic ? runtime::extent() : call.sizes(shape);
    c10::SymDimVector sizes(e.sizes, e.sizes + e.dimensions);
    for (std::size_t k = 0; symbolic && k < shape.size(); ++k) {
      sizes.push_back(1);
      for (const std::string& factor : shape[k]) sizes[k] = sizes[k] * size_named(factor);
    }
    return sizes;
  }
  c10::SymInt size_named(const std::string& name) const {
    for (std::size_t f = 0; f < s.value.size(); ++f) {
      if (name == s.verb.fields[f].name) return given[s.value[f]].toInt();
      const Tensor* t = s.given(f, given);
      for (std::int64_t k = 0; t && k < std::min(t->dim(), std::int64_t(s.verb.fields[f].shape.size())); ++k)
        if (s.verb.fields[f].shape[std::size_t(k)][0] == name) return t->sym_size(k);
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
    TORCH_CHECK_TYPE(!dynamic_cast<const type_error*>(&e), "craft::", e.what());
    TORCH_CHECK_INDEX(!dynamic_cast<const label_error*>(&e), "craft::", e.what());
    TORCH_CHECK(!dynamic_cast<const device_error*>(&e) && !dynamic_cast<const stopped_error*>(&e), "craft::", e.what());
    TORCH_CHECK_VALUE(false, "craft::", e.what());
  }
};

// ---------------------------------------------------------------------------------------------------------
// Derivatives

/// A node of the graph. Not a torch::autograd::Function, which takes microseconds.
struct node : torch::autograd::Node {
  using backward = std::function<tensors(const node&, const Tensor& upstream)>;
  const std::string& of;
  const backward f;
  std::vector<torch::autograd::SavedVariable> saved;

  node(const std::string& op, torch::autograd::edge_list inputs, const tensors& kept, backward by)
      : Node(std::move(inputs)), of(op), f(std::move(by)) {
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

/// An operator to autograd. Losses and maps have first derivatives, and all others none: to ask for one is an error, never zero in silence.
struct derivable : c10::OperatorKernel {
  const signature& s;
  const signature* source;           // what gives its gradients: a loss itself, of a map the pullback; null: nothing
  std::vector<std::size_t> to;       // the arguments that have them, or for which there may be an error later
  std::vector<std::size_t> from;     // of each argument of `source` that of s; none: what comes from above
  c10::OperatorHandle derivative;

  derivable(const c10::OperatorHandle& op, const signature& of, const signature* by) : ...
};
