// PyTorch and LibTorch (1.13 and later): the losses as differentiable functions of at::Tensor, on the CPU and on CUDA devices.
//
//     at::Tensor loss = craft::aten::loss("mmd", {source, target}, {{"bandwidth_rule", "median"}});
//     loss.backward();
//
// They call operators of the library "craft", which one source of the program registers (craft/adapters/torch_library.hpp)
// and which Python sees as torch.ops.craft: one for every verb of craft/verbs.hpp that takes tensors, with its names and its defaults.
// Matrices hold one sample per row: n x d, float64, float32, float16 or bfloat16.
//
// Copied: nothing, where the numbers of a row lie side by side (stride(1) == 1) and rows do not overlap; else the operator
// makes the tensor contiguous first. Kept alive between forward and backward: the gradients (of those inputs that require
// them), and for `relative` the inputs. Work is done on the calling thread and at::get_num_threads() threads, or in the
// current CUDA stream with torch's cuBLAS handle and caching allocator; nothing waits for the GPU unless said so below.
//
// Values and gradients are computed in float64 for float64, else in float32; values and relative representations are
// returned so, gradients are converted to the type of their input at last, so that those of half precision do not
// underflow on the way. Derivatives are of first order, for losses also in forward mode; a second one is an error. Numbers and
// soft targets have a gradient where they require one, which those on the CPU cannot where x is on a GPU, but for bandwidths and weights
// of a kernel: the host reads these, and waits for a GPU to have them.
//
// Errors: TypeError for a type, ValueError for shapes, options and names, IndexError for a label out of range (on the
// CPU; in CUDA memory such a label makes the value NaN, since nothing waits to look), c10::Error for devices.
//
// A loss of a batch is no sum over its rows: gradients accumulated over micro-batches are not those of the whole batch, and
// in data-parallel training every process has the loss of its own rows, unless features are gathered first.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <string>
#include <utility>
#include <vector>

namespace craft::aten {

/// Arguments by name: tensors, numbers, std::vector<double>, bool, and enumerators by theirs, as in "unbiased".
using named_arguments = std::vector<std::pair<std::string, c10::IValue>>;

/// Calls the operator craft::VERB as torch would; its results. What is not given, or a tensor that is not defined, is as by default; a
/// tensor where a number may stand is one that can be learnt (in the operator's schema, its `learnable_` argument). Throws ValueError
/// for a name that is none, with those there are, and TypeError for an argument of another type.
inline std::vector<at::Tensor> call(const std::string& verb, const std::vector<c10::IValue>& positional,
                                    const named_arguments& named = {}) {
  const auto op = c10::Dispatcher::singleton().findSchema({"craft::" + verb, ""});
  TORCH_CHECK_VALUE(op, "craft: no operator ", verb, ": it must be a verb that takes tensors, and one source of the program must ",
                    "include craft/adapters/torch_library.hpp");
  const auto& arguments = op->schema().arguments();
  const std::size_t count = arguments.size();
  torch::jit::Stack stack;
  stack.reserve(count + 1);  // one for what a kernel may add
  stack.resize(count);
  std::vector<bool> given(count);
  const auto put = [&](std::size_t at, c10::IValue value) {
    if (value.isNone() || (value.isTensor() && !value.toTensor().defined())) return;
    if (value.isTensor() && at + 1 < count && arguments[at + 1].name() == "learnable_" + arguments[at].name()) ++at;
    const std::string& name = arguments[at].name();
    const c10::Type& type = *arguments[at].type();
    if (value.isInt() && c10::FloatType::get()->isSubtypeOf(type)) value = double(value.toInt());
    const c10::TypePtr is = value.isTensor() ? c10::TypePtr(c10::TensorType::get()) : value.type();
    TORCH_CHECK_TYPE(is->isSubtypeOf(type), "craft::", verb, ": expected ", name, " of type ", type.str(), ", got ", is->str());
    TORCH_CHECK_TYPE(!given[at], "craft::", verb, ": ", name, " is given twice");
    given[at] = true;
    stack[at] = std::move(value);
  };
  TORCH_CHECK_TYPE(positional.size() <= count, "craft::", verb, ": takes ", count, " arguments, got ", positional.size());
  for (std::size_t i = 0; i < positional.size(); ++i) put(i, positional[i]);
  for (const auto& [name, value] : named) {
    const auto at = op->schema().argumentIndexWithName(name);
    if (!at) {
      std::string names;
      for (const auto& argument : arguments) names += (names.empty() ? "" : ", ") + argument.name();
      TORCH_CHECK_VALUE(false, "craft::", verb, ": no argument ", name, "; there are ", names);
    }
    put(std::size_t(*at), value);
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (given[i]) continue;
    TORCH_CHECK_TYPE(arguments[i].default_value(), "craft::", verb, ": ", arguments[i].name(), " is missing");
    stack[i] = *arguments[i].default_value();
  }
  op->callBoxed(&stack);
  std::vector<at::Tensor> results;
  for (c10::IValue& result : stack) results.push_back(std::move(result).toTensor());
  return results;
}

/// The first result of the operator craft::VERB: the value of a loss, or a relative representation.
inline at::Tensor loss(const std::string& verb, const std::vector<c10::IValue>& positional, const named_arguments& named = {}) {
  return call(verb, positional, named)[0];
}

}  // namespace craft::aten
