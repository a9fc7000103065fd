// The operators of craft/adapters/torch.hpp, registered with torch's dispatcher as the library "craft": include this in exactly
// one source of a program or of a library that is loaded into one. Link craft::runtime, or include
// craft/adapters/runtime_bodies.hpp in that source too.
//
// They are made of the verbs' descriptions (craft/describe.hpp); no verb and no option is named here. Every field is an argument,
// by position or by name; a scalar `s` and a list are two, the second a tensor `learnable_s` instead of the first.
//
//     a loss   craft::L_gradients(..., *, bool[k] wanted) -> (value, d_x, ...) computes value and gradients in one sweep over the
//              pairs; what is not wanted is an empty tensor. craft::L(...) is the value; where gradients are needed it calls the
//              other in forward, and its backward only multiplies. Of several numbers the last is the value, the others a second
//              result.
//     a map    craft::M(...) -> out, whose backward calls craft::PULLBACK(..., *, bool[k] wanted) -> (d_x, ...), and whose tangents
//              in forward mode come from craft::PUSHFORWARD(..., d_x, ...)
//     others   craft::V(...) -> results, without derivatives
//
// All have kernels for Meta tensors, so that torch.compile and torch.export trace them without a graph break. Autocast casts
// matrices of different types to the widest: all is computed in float32 or wider, as in torch's own losses under autocast.
#pragma once

#include <ATen/CPUFunctions.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <functional>

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
using edges = torch::autograd::edge_list;
constexpr std::size_t none = std::size_t(-1);

// ---------------------------------------------------------------------------------------------------------
// Schemas

/// A field as an argument, or two. Numbers are written so that they read back to the same bits, and not to an integer.
inline std::string arguments_of(const runtime::field& f, const std::string& name, bool learnable) {
  constexpr const char* types[] = {"Tensor", "Tensor", "Tensor", "Tensor", "Tensor", "float",
                                   "float[]", "float", "int", "int[]", "bool", "str"};  // by kind
  std::string otherwise = "None";
  if ((f.kind == kind::scalar || f.kind == kind::number) && std::isfinite(f.number)) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", f.number);
    otherwise = std::string(digits) + (std::string(digits).find_first_of(".e") == std::string::npos ? "." : "");
  }
  if (f.kind == kind::whole) otherwise = std::to_string(f.whole);
  if (f.kind == kind::flag) otherwise = f.whole != 0 ? "True" : "False";
  if (f.kind == kind::choice) otherwise = "'" + std::string(f.choices[std::size_t(f.whole)]) + "'";
  const std::string type = types[int(f.kind)], second = learnable ? ", Tensor? learnable_" + name + "=None" : "";
  return (f.required ? type + " " + name : type + (otherwise == "None" ? "? " : " ") + name + "=" + otherwise) + second;
}

/// A verb as an operator, and a loss as two.
struct signature {
  const runtime::verb& verb;
  std::string name, schema, deriver, deriver_schema;  // craft::NAME, and the operator that gives gradients too
  std::vector<int> fields;                            // that the arguments are
  std::vector<std::size_t> wanted;                    // the arguments that have a gradient

  explicit signature(const runtime::verb& v) : verb(v), name(std::string("craft::") + v.name) {
    std::string text, results, gradients;
    for (std::size_t f = 0; f < v.fields.size(); ++f) {
      const std::string field = v.fields[f].name;
      const bool learnable = v.fields[f].kind == kind::scalar || v.fields[f].kind == kind::list;
      // Not "kernel": torch's compiler has an argument of that name itself.
      text += (f > 0 ? ", " : "") + arguments_of(v.fields[f], field == "kernel" ? "family" : field, learnable);
      fields.insert(fields.end(), learnable ? 2 : 1, int(f));
    }
    for (const runtime::result& r : v.results)
      results += std::string(", Tensor ") + (r.names.empty() ? r.name : std::string(r.names.back()) + ", Tensor terms");
    for (const int g : v.gradients) {
      if (v.fields[std::size_t(g)].kind == kind::number) continue;  // never a tensor
      wanted.push_back(std::size_t(fields.rend() - std::find(fields.rbegin(), fields.rend(), g)) - 1);
      gradients += std::string(", Tensor d_") + v.fields[std::size_t(g)].name;
    }
    const std::string flags = wanted.empty() ? "" : ", *, bool[" + std::to_string(wanted.size()) + "] wanted";
    deriver = name + (is_loss() ? "_gradients" : "");
    schema = name + "(" + text + ") -> (" + (results + "  ").substr(2) + ")";
    deriver_schema = deriver + "(" + text + flags + ") -> (" + (results + gradients).substr(2) + ")";
  }
  bool takes_tensors() const { return verb.fields[0].kind <= kind::numbers; }
  bool is_loss() const { return !verb.results.empty() && !wanted.empty(); }
  const runtime::field& field(std::size_t argument) const { return verb.fields[std::size_t(fields[argument])]; }
  /// Whether a gradient is two, of the value and of its negative, as that of a scale with a bound, the argument after it: which
  /// one counts is known when another gradient comes from above.
  bool in_pair(std::size_t argument, arguments given) const { return field(argument).two_sided && !given[argument + 1].isNone(); }
};
/// The tensor that is given; null: none.
inline const Tensor* tensor_in(const c10::IValue& v) {
  return v.isTensor() && v.toTensor().defined() ? &v.toTensor() : nullptr;
}

// ---------------------------------------------------------------------------------------------------------
// Kernels: CPU, CUDA, and Meta, where results have their shapes and types only

/// The device as craft computes on it: in torch's threads, or its current stream.
inline any_device device_of(const c10::Device& on) {
#ifdef CRAFT_TORCH_CUDA
  if (on.is_cuda()) {
    namespace allocator = c10::cuda::CUDACachingAllocator;
    const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
    cuda context(stream, at::cuda::getCurrentCUDABlasHandle());
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
inline bool is_symbolic(const c10::IValue& v) {
  return v.isTensor() && v.toTensor().unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

/// One call of a verb with the arguments of an operator.
struct invocation {
  const signature& s;
  const arguments given;
  const Tensor& like = given[0].toTensor();  // results go where it is
  const bool meta = like.is_meta(), symbolic = meta && std::any_of(given.begin(), given.end(), is_symbolic);
  const c10::Device on = s.verb.matrices > 0 || meta ? like.device() : c10::Device(at::kCPU);
  c10::OptionalDeviceGuard guard{};
  const runtime::dtype computing = runtime::computing(dtype_of(like));
  runtime::call call{s.verb};
  tensors held{};  // copies that had to be made

  invocation(const signature& of, arguments all) : s(of), given(all) {
    if (!on.is_cpu()) guard.reset_device(on);
    for (std::size_t i = 0; i < s.fields.size(); ++i) {
      const runtime::field& field = s.field(i);
      const Tensor* t = tensor_in(given[i]);
      if ((!t && (given[i].isTensor() || given[i].isNone())) || (symbolic && field.kind == kind::list)) continue;
      const bool both = field.kind == kind::list && call.given(s.fields[i]);
      TORCH_CHECK_VALUE(!both, s.verb.name, ": expected ", field.name, " as numbers or as a tensor, got both");
      t ? give(s.fields[i], *t, field) : give(s.fields[i], given[i], field);
    }
    symbolic || !meta ? call.check() : call.rehearse();
  }
  void give(int f, const c10::IValue& v, const runtime::field& field) {
    switch (field.kind) {
      case kind::list: return call.give(f, v.toDoubleVector());
      case kind::whole: return call.give(f, index_t(v.toInt()));
      case kind::flag: return call.give(f, v.toBool());
      case kind::choice: return call.give(f, std::string_view(v.toStringRef()));
      case kind::wholes: return call.give(f, std::vector<index_t>(v.toIntVector()));
      default: call.give(f, v.toDouble());
    }
  }
  void give(int f, const Tensor& from, const runtime::field& field) {
    const bool two = from.dim() == 2, soft = field.kind == kind::computed || (field.kind == kind::targets && two);
    const bool rows = soft || field.kind == kind::matrix, to_device = field.kind == kind::scalar && from.is_cpu() && !on.is_cpu();
    const bool to_host = field.kind == kind::list || s.verb.matrices == 0;
    Tensor t = meta ? from : to_host ? from.cpu() : to_device ? from.to(on) : from;
    TORCH_CHECK(t.device() == on || (t.is_cpu() && !rows), s.verb.name, ": expected all tensors to be on ", on, ", but ",
                field.name, " is on ", t.device());
    if (soft && t.is_floating_point()) t = t.to(types[int(computing)]);
    if (!rows && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16)) t = t.to(at::kFloat);
    if (!symbolic && two && rows && !((t.size(1) < 2 || t.stride(1) == 1) && (t.size(0) < 2 || t.stride(0) >= t.size(1))))
      t = t.contiguous();
    const std::vector<std::int64_t> alike(symbolic ? std::size_t(t.dim()) : 0, 1);  // in place of symbols
    call.give(f, runtime::array{meta ? nullptr : t.data_ptr(), dtype_of(t), where(t), int(t.dim()),
                                symbolic ? alike.data() : t.sizes().data(), symbolic ? nullptr : t.strides().data(),
                                c10::toString(t.scalar_type())});
    if (!t.is_same(from)) held.push_back(std::move(t));
  }
  memory where(const Tensor& t) const { return t.is_cpu() || meta ? memory::host : memory::device; }

  /// Results, and as many gradients as there are flags, empty where those say so.
  tensors run(arguments flags) {
    tensors all;
    all.reserve(s.verb.results.size() + flags.size() + 1);
    for (std::size_t r = 0; r < s.verb.results.size(); ++r) {
      const runtime::result& result = s.verb.results[r];
      c10::SymDimVector sizes(result.shape.size(), 1);
      for (std::size_t k = 0; k < sizes.size(); ++k)
        for (const std::string& name : result.shape[k]) sizes[k] = sizes[k] * size_named(name);
      call.result(int(r), place(all, sizes, result.type == runtime::dtype::float32 ? computing : result.type));
    }
    for (std::size_t g = 0; g < flags.size(); ++g) {
      const std::size_t at = s.wanted[g];
      const bool wanted = flags[g].toBool();
      const Tensor* of = tensor_in(given[at]);
      TORCH_CHECK_VALUE(of || !wanted, s.verb.name, ": a gradient is wanted of a tensor that is not given");
      c10::SymDimVector sizes(wanted && s.in_pair(at, given) ? 1 : 0, 2);
      if (wanted) sizes.append(of->sym_sizes().begin(), of->sym_sizes().end());
      if (!wanted) sizes.push_back(0);
      const runtime::place to = place(all, sizes, computing);
      if (wanted) call.gradient(s.field(at).gradient, to);
    }
    if (!meta) call.run(device_of(on));
    for (std::size_t r = s.verb.results.size(); r-- > 0;) {
      if (on != like.device()) all[r] = all[r].to(like.device());
      const auto last = std::int64_t(s.verb.results[r].names.size()) - 1;
      if (last < 0) continue;
      all.insert(all.begin() + std::ptrdiff_t(r) + 1, all[r].narrow(0, 0, last).clone());
      all[r] = all[r].select(0, last).clone();
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
  c10::SymInt size_named(const std::string& name) const {
    for (std::size_t i = 0; i < s.fields.size(); ++i) {
      const auto& shape = s.field(i).shape;
      if (name == s.field(i).name) return std::max<std::int64_t>(given[i].toInt(), 0);  // run() says what is wrong with less
      for (std::size_t k = 0; tensor_in(given[i]) && k < (std::min)(shape.size(), std::size_t(given[i].toTensor().dim())); ++k)
        if (shape[k][0] == name) return given[i].toTensor().sym_size(std::int64_t(k));
    }
    return std::stoll(name);  // a number
  }
};

/// Results, with gradients where the operator has the argument `wanted`. Throws craft's errors as torch's.
struct computes : c10::OperatorKernel {
  const signature& s;

  explicit computes(const signature& of) : s(of) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) try {
    const arguments given = torch::jit::last(*stack, op.schema().arguments().size());
    tensors results = invocation(s, given).run(given.size() > s.fields.size() ? given.back().toListRef() : arguments());
    torch::jit::drop(*stack, given.size());
    for (Tensor& t : results) stack->emplace_back(std::move(t));
  } catch (const error& e) {
    TORCH_CHECK_TYPE(!dynamic_cast<const type_error*>(&e), e.what());
    TORCH_CHECK_INDEX(!dynamic_cast<const label_error*>(&e), e.what());
    TORCH_CHECK(!dynamic_cast<const device_error*>(&e) && !dynamic_cast<const stopped_error*>(&e), e.what());
    TORCH_CHECK_VALUE(false, e.what());
  }
};

// ---------------------------------------------------------------------------------------------------------
// Derivatives, autocast, registration

/// A node of the graph. Not a torch::autograd::Function, which takes microseconds.
struct node : torch::autograd::Node {
  using backward = std::function<tensors(const node&, const Tensor& upstream)>;
  const c10::OperatorHandle op;
  const backward f;
  std::vector<torch::autograd::SavedVariable> saved;

  node(const c10::OperatorHandle& of, edges inputs, const tensors& kept, backward by)
      : Node(std::move(inputs)), op(of), f(std::move(by)) {
    saved.reserve(kept.size());
    for (const Tensor& t : kept) saved.emplace_back(t, false);
  }
  std::string name() const override { return op.schema().name(); }
  tensors apply(tensors&& upstream) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return f(*this, upstream[0]);
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
  const edges& to = counted->next_edges();
  if (std::none_of(to.begin(), to.end(), [](const auto& edge) { return edge.is_valid(); })) return;
  for (Tensor t : results)
    if (t.is_floating_point()) torch::autograd::set_history(t, counted);
}

inline bool any_defined(c10::ArrayRef<Tensor> all) {
  return std::any_of(all.begin(), all.end(), [](const Tensor& t) { return t.defined(); });
}
inline c10::OperatorHandle operator_named(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
}

/// An operator to autograd.
struct derivable : c10::OperatorKernel {
  const signature& s;
  const signature* by;          // whose operator gives its gradients: a loss itself, of a map the pullback; null: none does
  const signature* forward;     // of a map, whose operator gives its tangents
  c10::OperatorHandle deriver;  // the operator of `by`
  std::vector<std::size_t> to;  // the arguments that have gradients
  std::size_t above = none;     // what comes from above, among a pullback's arguments, of which the others are the map's

  derivable(const signature& of, const signature* source, const signature* tangents_from = nullptr)
      : s(of), by(source), forward(tangents_from), deriver(operator_named((by ? by : &s)->deriver)) {
    for (std::size_t i = 0; by && i < by->fields.size(); ++i)
      if (by->field(i).kind == kind::computed) above = i;
    for (std::size_t g = 0; by && g < by->wanted.size(); ++g) to.push_back(by->wanted[g] - (by->wanted[g] > above));
  }
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) const {
    const arguments given = torch::jit::last(*stack, op.schema().arguments().size());
    c10::SmallVector<std::size_t, 8> asked;  // the gradients that are: for each where it goes, or a tangent to multiply it by
    edges of;
    c10::SmallVector<Tensor, 8> tangents;
    tensors kept;
    std::uint32_t pairs = 0;
    for (std::size_t i = 0; i < s.fields.size(); ++i) {
      const Tensor* t = tensor_in(given[i]);
      const bool gradient = t && t->requires_grad() && at::GradMode::is_enabled(), tangent = t && t->_fw_grad(0).defined();
      if (!gradient && !tangent) continue;
      const char* name = s.field(i).name;
      const auto g = std::size_t(std::find(to.begin(), to.end(), i) - to.begin());
      TORCH_CHECK_NOT_IMPLEMENTED(!tangent || by == &s || forward, s.verb.name, ": no derivatives in forward mode");
      TORCH_CHECK_NOT_IMPLEMENTED(!by || g < to.size(), s.verb.name, ": no gradient by ", name, "; pass ", name, ".detach()");
      pairs |= std::uint32_t(s.in_pair(i, given)) << asked.size();
      asked.push_back(g);
      of.push_back(gradient ? torch::autograd::impl::gradient_edge(*t) : torch::autograd::Edge());
      tangents.push_back(t->_fw_grad(0));
    }
    const bool map = by && by != &s && !asked.empty(), loss = by == &s && !asked.empty();
    Stack others = map ? given.vec() : Stack();
    const bool moving = map && any_defined(tangents);
    const Tensor moved = moving ? pushed_forward(given) : Tensor();
    {
      at::AutoDispatchBelowADInplaceOrView below;
      if (loss)
        kept = gradients(asked, [](std::size_t) { return true; }, stack);
      else
        op.callBoxed(stack);
    }
    if (asked.empty()) return;
    const arguments returned = torch::jit::last(*stack, op.schema().returns().size());
    if (loss) return set_gradients(op, of, kept, tangents, pairs, returned[0].toTensor());
    tensors results;
    for (const c10::IValue& v : returned) results.push_back(v.toTensor());
    if (!map) return set_underivable(op, of, results);
    if (moving) {
      set_underivable(op, of, {moved});
      results[0]._set_fw_grad(moved, 0, false);
    }
    for (c10::IValue& v : others) kept.push_back(v.isTensor() ? std::exchange(v, {}).toTensor() : Tensor());
    set_history(new node(op, of, kept, [this, others, asked](const node& n, const Tensor& up) {
      if (!up.defined()) return tensors(asked.size());
      Stack all = others;
      for (std::size_t i = 0; i < all.size(); ++i)
        if (const Tensor t = n.saved[i].unpack(); t.defined()) all[i] = t;
      all.insert(all.begin() + std::ptrdiff_t(above), up);
      return gradients(asked, [&](std::size_t i) { return n.task_should_compute_output(i); }, &all);
    }), results);
  }
  /// Calls the deriver, and takes its gradients off the stack: of those asked, the i-th if it is wanted.
  template <class Wanted>
  tensors gradients(c10::ArrayRef<std::size_t> asked, const Wanted& wanted, Stack* stack) const {
    c10::List<bool> flags;
    flags.resize(to.size(), false);
    for (std::size_t i = 0; i < asked.size(); ++i) flags.set(asked[i], wanted(i));
    stack->emplace_back(std::move(flags));
    deriver.callBoxed(stack);
    tensors found(asked.size());
    for (std::size_t i = 0; i < asked.size(); ++i)
      if (wanted(i)) found[i] = torch::jit::peek(*stack, asked[i], to.size()).toTensor();
    torch::jit::drop(*stack, to.size());
    return found;
  }
  /// By how much a map's result moves by the tangents of its arguments.
  Tensor pushed_forward(arguments given) const {
    at::AutoDispatchBelowADInplaceOrView below;
    Stack all;
    for (std::size_t i = 0; i < forward->fields.size(); ++i) {
      const std::string name = forward->field(i).name;
      const bool again = i > 0 && forward->fields[i] == forward->fields[i - 1];  // the tensor of a number
      if (name.compare(0, 2, "d_") != 0) {
        all.push_back(given[i]);
        continue;
      }
      all.push_back(forward->field(i).kind == kind::scalar && !again ? c10::IValue(0.0) : c10::IValue());
      for (std::size_t k = 0; k < s.fields.size(); ++k)
        if (const Tensor* t = tensor_in(given[k]); t && name.compare(2, std::string::npos, s.field(k).name) == 0)
          if (const Tensor tangent = t->_fw_grad(0); tangent.defined() && (again || forward->field(i).kind != kind::scalar))
            all.back() = tangent;
    }
    operator_named(forward->name).callBoxed(&all);
    return all[0].toTensor();
  }
  /// Makes results depend on the inputs in a way whose derivative is an error, never zero in silence.
  static void set_underivable(const c10::OperatorHandle& op, const edges& inputs, const tensors& results) {
    set_history(new node(op, inputs, {}, [](const node& n, const Tensor&) -> tensors {
      TORCH_CHECK_NOT_IMPLEMENTED(false, n.name(), " has no derivative: losses and relative representations have first ",
                                  "derivatives only, and anchors are constants, to be made of x.detach()");
    }), results);
  }
  /// Makes a value depend on the inputs by these gradients, and gives it the tangent.
  void set_gradients(const c10::OperatorHandle& op, const edges& inputs, const tensors& found,
                     c10::ArrayRef<Tensor> tangents, std::uint32_t pairs, const Tensor& value) const {
    // Where gradients may be differentiated themselves, they depend on the inputs. Always to say so would cost a node.
    const auto derived = [this](const Tensor& gradient, const edges& of) {
      if (!at::GradMode::is_enabled()) return gradient;
      // Not detach(), which within torch.func would also cut off what the gradient depends on at other levels.
      at::AutoDispatchBelowADInplaceOrView below;
      const Tensor d = at::alias(gradient);
      set_underivable(deriver, of, {d});
      return d;
    };
    const bool moving = any_defined(tangents);
    // Captures of 16 bytes need no memory.
    set_history(new node(op, inputs, found, [derived, pairs, moving](const node& n, const Tensor& up) {
      // Within forward mode a gradient has a tangent itself: a second derivative.
      TORCH_CHECK_NOT_IMPLEMENTED(!moving || !torch::autograd::ForwardADLevel::try_get_by_idx(0), n.name(),
                                  ": no gradients of what has tangents, until forward mode is left");
      tensors results(n.saved.size());
      for (std::size_t i = 0; i < results.size(); ++i) {
        if (!up.defined() || !n.task_should_compute_output(i)) continue;
        const Tensor d = derived(n.saved[i].unpack(), n.next_edges());
        results[i] = (pairs >> i & 1) == 0 ? up * d : up.abs() * at::where(up < 0, d.select(0, 1), d.select(0, 0));
      }
      return results;
    }), {value});
    Tensor tangent;
    for (std::size_t i = 0; moving && i < found.size(); ++i) {
      if (!tangents[i].defined()) continue;
      const Tensor d = derived(found[i], inputs), part = ((pairs >> i & 1 ? d.select(0, 0) : d) * tangents[i]).sum();
      tangent = tangent.defined() ? tangent + part : part;
    }
    if (tangent.defined()) value._set_fw_grad(tangent.to(value.scalar_type()), 0, false);
  }
};

/// Autocast: matrices of samples are cast to the widest of their types.
struct casts_to_widest : c10::OperatorKernel {
  const signature& s;

  explicit casts_to_widest(const signature& of) : s(of) {}
  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
    c10::impl::ExcludeDispatchKeyGuard below(c10::autocast_dispatch_keyset);
    at::ScalarType widest = at::ScalarType::Undefined;
    for (const bool cast : {false, true})
      for (std::size_t i = 0; i < s.fields.size(); ++i) {
        c10::IValue& v = torch::jit::peek(*stack, i, s.fields.size());
        const Tensor* t = tensor_in(v);
        if (s.field(i).kind != kind::matrix || !t || !t->is_floating_point()) continue;
        widest = widest == at::ScalarType::Undefined ? t->scalar_type() : c10::promoteTypes(widest, t->scalar_type());
        if (cast) v = t->to(widest);
      }
    op.callBoxed(stack);
  }
};

}  // namespace craft::aten::operators

TORCH_LIBRARY(craft, m) {
  using namespace craft::aten::operators;
  using key = c10::DispatchKey;
#ifdef CRAFT_TORCH_CUDA
  constexpr key devices[] = {key::CPU, key::Meta, key::CUDA};
#else
  constexpr key devices[] = {key::CPU, key::Meta};
#endif
  const auto define = [&](const std::string& name, key on, auto kernel) {
    m.impl(name.c_str(), on, torch::CppFunction::makeFromBoxedFunctor(std::make_unique<decltype(kernel)>(std::move(kernel))));
  };
  static const std::vector<signature> all(craft::runtime::verbs().begin(), craft::runtime::verbs().end());
  for (const signature& s : all) {
    if (!s.takes_tensors()) continue;
    m.def(s.deriver_schema.c_str());
    if (s.is_loss()) m.def(s.schema.c_str());
  }
  for (const signature& s : all) {
    if (!s.takes_tensors()) continue;
    const signature *source = s.is_loss() ? &s : nullptr, *forward = nullptr;
    for (const signature& p : all) {
      if (s.verb.pullback && std::string(s.verb.pullback) == p.verb.name) source = &p;
      if (s.verb.pushforward && std::string(s.verb.pushforward) == p.verb.name) forward = &p;
    }
    for (const key device : devices) {
      define(s.deriver, device, computes(s));
      if (s.is_loss()) define(s.name, device, computes(s));
    }
    if (source) define(s.name, key::Autograd, derivable(s, source, forward));
    if (!source || s.is_loss()) define(s.deriver, key::Autograd, derivable(s, nullptr));
    for (const key autocast : {key::AutocastCPU, key::Autocast})
      if (s.verb.matrices > 1) define(s.name, autocast, casts_to_widest(s));
  }
}
