// The same on the GPU, in the manner of llm.c's fused_classifier: the input is replaced by its gradient.
#pragma once

#include <craft/alignment.hpp>
#include <craft/cuda.cuh>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

/// As in train_gpt2.cu. x, y: (B, C) of floatX, in device memory; x is overwritten by the gradient, which takes
/// scratch: (B, C) before. losses: 1 number, overwritten. dloss: 1 / gradient accumulation steps. ctx: made once of
/// main_stream.
template <class Type>
void fused_contrastive(const craft::cuda& ctx, Type* x, float* losses, Type* scratch, const float dloss, const Type* y,
                       int B, int C) {
  try {
    using input = craft::matrix_view<const Type, craft::memory::device>;
    craft::contrastive_options options;
    options.log_scale = std::log(20.0);
    options.upstream = dloss;
    craft::alignment_gradients<Type, craft::memory::device> d;
    d.x = craft::overwrite(craft::matrix_view<Type, craft::memory::device>(scratch, B, C));
    craft::info_nce(ctx, input(x, B, C), input(y, B, C), options,
                    craft::scalar_out<float, craft::memory::device>(losses), d);
    const std::size_t bytes = std::size_t(B) * std::size_t(C) * sizeof(Type);
    craft::engine::cuda_check(cudaMemcpyAsync(x, scratch, bytes, cudaMemcpyDeviceToDevice, ctx.stream()),
                              "fused_contrastive");
  } catch (const craft::error& e) {
    fprintf(stderr, "Error: %s\n", e.what());
    exit(EXIT_FAILURE);
  }
}
