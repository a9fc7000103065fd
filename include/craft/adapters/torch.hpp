// PyTorch and LibTorch (1.13 and later): the losses as differentiable functions of at::Tensor, on the CPU and on CUDA devices.
//
//     at::Tensor loss = craft::aten::loss("mmd", {source, target}, {{"bandwidth_rule", "median"}});
//     loss.backward();
//
// They call operators of the library "craft", which one source of the program registers (craft/adapters/torch_library.hpp) and
// Python sees as torch.ops.craft: every verb of craft/verbs.hpp that takes tensors, with its names and defaults. Matrices hold
// one sample per row: n x d, float64, float32, float16 or bfloat16. Values and gradients are computed in float64 for float64,
// else in float32, and gradients become the type of their input at last. Losses have first derivatives, in both modes; a second
// one is an error. docs/embed/torch.md says what is copied, what is kept until backward, and where work is done.
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

/// Calls the operator craft::VERB as torch would; its results. A tensor where a number may stand can be learnt: it is the
/// argument `learnable_NAME`. None and tensors that are not defined are as by default. Throws ValueError for a name that is none,
/// with those there are, and TypeError for a value of another type.
inline std::vector<at::Tensor> call(const std::string& verb, const std::vector<c10::IValue>& positional,
                                    const named_arguments& named = {}) {
  const auto op = c10::Dispatcher::singleton().findSchema({"craft::" + verb, ""});
  TORCH_CHECK_VALUE(op, "craft: no operator ", verb, ": expected a verb that takes tensors, and that one source of the program ",
                    "includes craft/adapters/torch_library.hpp");
  const auto& arguments = op->schema().arguments();
  torch::jit::Stack stack;
  stack.reserve(arguments.size() + 1);  // one for what a kernel may add
  for (const c10::Argument& argument : arguments) stack.push_back(argument.default_value().value_or(c10::IValue()));
  std::vector<bool> given(stack.size());
  const auto put = [&](std::size_t at, c10::IValue value) {
    if (value.isNone() || (value.isTensor() && !value.toTensor().defined())) return;
    at += value.isTensor() && at + 1 < stack.size() && arguments[at + 1].name() == "learnable_" + arguments[at].name();
    const std::string& name = arguments[at].name();
    const c10::Type& type = *arguments[at].type();
    if (value.isInt() && c10::FloatType::get()->isSubtypeOf(type)) value = double(value.toInt());
    const c10::TypePtr is = value.isTensor() ? c10::TypePtr(c10::TensorType::get()) : value.type();
    TORCH_CHECK_TYPE(is->isSubtypeOf(type), verb, ": expected ", name, " of type ", type.str(), ", got ", is->str());
    TORCH_CHECK_TYPE(!given[at], verb, ": ", name, " is given twice");
    given[at] = true;
    stack[at] = std::move(value);
  };
  TORCH_CHECK_TYPE(positional.size() <= stack.size(), verb, ": expected ", stack.size(), " arguments, got ", positional.size());
  for (std::size_t i = 0; i < positional.size(); ++i) put(i, positional[i]);
  for (const auto& [name, value] : named) {
    const auto at = op->schema().argumentIndexWithName(name);
    TORCH_CHECK_VALUE(at, verb, ": no argument ", name, "; there are those of ", op->schema());
    put(std::size_t(*at), value);
  }
  for (std::size_t i = 0; i < stack.size(); ++i)
    TORCH_CHECK_TYPE(given[i] || arguments[i].default_value(), verb, ": ", arguments[i].name(), " is missing");
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
