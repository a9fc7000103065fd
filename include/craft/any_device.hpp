// CPU or GPU, decided when the program runs: for frameworks that learn the device late.
//
//     const auto device = craft::any_device::named(torch_tensor_is_on_gpu ? "cuda" : "cpu");
//     device.visit([&](const auto& ctx) {
//       using context = std::decay_t<decltype(ctx)>;
//       craft::matrix_view<const float, context::space> x(pointer, n, d);
//       ...
//       craft::mmd(ctx, x, y, kernel, options, value, gradients);
//     });
//
// A build knows CUDA where craft/cuda.hpp is on the include path, as the target craft::cuda puts it. All sources of a program
// that hand an any_device to each other must agree on that; else they do not link, for the namespace inside differs.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "craft/context.hpp"
#include "craft/engine/cpu_engine.hpp"
#if __has_include("craft/cuda.hpp")
#include "craft/cuda.hpp"
#endif

namespace craft {

#if __has_include("craft/cuda.hpp")
constexpr bool built_with_cuda = true;  ///< whether this build knows CUDA
inline namespace with_cuda {
#else
constexpr bool built_with_cuda = false;  ///< whether this build knows CUDA
inline namespace without_cuda {
#endif

/// One of the contexts. Movable; the context inside keeps its scratch memory from call to call.
class any_device {
 public:
  explicit any_device(cpu context) : context_(std::move(context)) {}  ///< the CPU, with this context

  /// "cpu" or "cuda" (the current device, on the default stream). Throws option_error for another name, device_error where
  /// the build has no CUDA or the machine no device.
  static any_device named(const std::string& name) {
    if (name == "cpu") return any_device(cpu());
    require<option_error>(name == "cuda", "any_device: expected \"cpu\" or \"cuda\", got \"", name, "\"");
#if __has_include("craft/cuda.hpp")
    return any_device(cuda());
#else
    fail<device_error>("any_device: this build has no CUDA; link craft::cuda");
#endif
  }

  /// Where the views of its calls must lie.
  memory space() const { return context_.index() == 0 ? memory::host : memory::device; }

  /// f(context), with the context's own type.
  template <class F>
  decltype(auto) visit(F&& f) const {
    return std::visit(std::forward<F>(f), context_);
  }

#if __has_include("craft/cuda.hpp")
  explicit any_device(cuda context) : context_(std::move(context)) {}  ///< the GPU, with this context

 private:
  std::variant<cpu, cuda> context_;
#else

 private:
  std::variant<cpu> context_;
#endif
};

}  // namespace with_cuda or without_cuda

}  // namespace craft
