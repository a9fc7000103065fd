// Free functions in the manner of llm.c: forward and backward of a contrastive loss between two sets of pooled hidden
// states.
#pragma once

#include <craft/alignment.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>

/// As in train_gpt2.c. loss: 1 number. x, y: (B, C), row i of one belongs to row i of the other.
inline void contrastive_forward(float* loss, const float* x, const float* y, int B, int C) {
  try {
    const craft::cpu ctx;
    craft::contrastive_options options;
    options.log_scale = std::log(20.0);
    craft::info_nce(ctx, craft::view(x, B, C), craft::view(y, B, C), options, *loss);
  } catch (const craft::error& e) {
    fprintf(stderr, "Error: %s\n", e.what());
    exit(EXIT_FAILURE);
  }
}

/// dx, dy: (B, C), added to, as all gradients there are. dloss: 1 number, the gradient of what comes after.
inline void contrastive_backward(float* dx, float* dy, const float* dloss, const float* x, const float* y, int B,
                                 int C) {
  try {
    const craft::cpu ctx;
    craft::contrastive_options options;
    options.log_scale = std::log(20.0);
    options.upstream = *dloss;
    craft::alignment_gradients<float> d;
    d.x = craft::accumulate(craft::view(dx, B, C));
    d.y = craft::accumulate(craft::view(dy, B, C));
    float loss;
    craft::info_nce(ctx, craft::view(x, B, C), craft::view(y, B, C), options, loss, d);
  } catch (const craft::error& e) {
    fprintf(stderr, "Error: %s\n", e.what());
    exit(EXIT_FAILURE);
  }
}
