// The handlers that craft_align registers with XLA.
#include "craft/adapters/xla_ffi.hpp"

// XLA's macro defines a function of C linkage; this declares it visible first.
#ifdef _WIN32
#define CRAFT_ENTRY extern "C" __declspec(dllexport)
#else
#define CRAFT_ENTRY extern "C" __attribute__((visibility("default")))
#endif

CRAFT_ENTRY XLA_FFI_Error* craft_cpu(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(craft_cpu, craft::xla_ffi::on_cpu, craft::xla_ffi::cpu_binding());

#if __has_include("craft/cuda.hpp")
CRAFT_ENTRY XLA_FFI_Error* craft_cuda(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(craft_cuda, craft::xla_ffi::on_cuda, craft::xla_ffi::cuda_binding());
#endif
