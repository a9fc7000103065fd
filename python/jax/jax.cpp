// The handlers that craft_align/jax.py registers with XLA.
#include "craft/adapters/xla_ffi.hpp"

// XLA's macro defines a function of C linkage; this declares it visible first.
#ifdef _WIN32
#define CRAFT_ENTRY extern "C" __declspec(dllexport)
#else
#define CRAFT_ENTRY extern "C" __attribute__((visibility("default")))
#endif
#define CRAFT_HANDLER(name, device, verb)                      \
  CRAFT_ENTRY XLA_FFI_Error* name(XLA_FFI_CallFrame*);         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, craft::xla_ffi::on_##device<craft::xla_ffi::verb>, craft::xla_ffi::device##_binding())

CRAFT_HANDLER(craft_cpu_mmd, cpu, mmd);
CRAFT_HANDLER(craft_cpu_info_nce, cpu, info_nce);
CRAFT_HANDLER(craft_cpu_sigmoid_contrastive, cpu, sigmoid_contrastive);
CRAFT_HANDLER(craft_cpu_anchor_cross_entropy, cpu, anchor_cross_entropy);
CRAFT_HANDLER(craft_cpu_relative, cpu, relative);
CRAFT_HANDLER(craft_cpu_relative_pullback, cpu, relative_pullback);
CRAFT_HANDLER(craft_cpu_objective, cpu, objective);

#if __has_include("craft/cuda.hpp")
CRAFT_HANDLER(craft_cuda_mmd, cuda, mmd);
CRAFT_HANDLER(craft_cuda_info_nce, cuda, info_nce);
CRAFT_HANDLER(craft_cuda_sigmoid_contrastive, cuda, sigmoid_contrastive);
CRAFT_HANDLER(craft_cuda_anchor_cross_entropy, cuda, anchor_cross_entropy);
CRAFT_HANDLER(craft_cuda_relative, cuda, relative);
CRAFT_HANDLER(craft_cuda_relative_pullback, cuda, relative_pullback);
CRAFT_HANDLER(craft_cuda_objective, cuda, objective);
#endif
