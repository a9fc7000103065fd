// A loss for a program that hands its arrays over as DLPack tensors, and that program: it moves features until their
// distribution is that of a reference. Strided, with an offset, float or half: nothing is copied.
#include <dlpack/dlpack.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "craft/adapters/dlpack.hpp"
#include "craft/mmd.hpp"

// MMD^2 of x (n x d) against y (m x d), and its gradient by x (n x d, overwritten). Tells what was wrong, or nothing.
std::string mmd_loss(const craft::cpu& ctx, const DLTensor& x, const DLTensor& y, float& value, const DLTensor& dx) {
  try {
    craft::mmd_options options;
    options.bandwidth.rule = craft::bandwidth_rule::median;
    craft::mmd_gradients<float> gradients;
    gradients.x = craft::overwrite(craft::dlpack::view<float>(dx));
    craft::mmd(ctx, craft::dlpack::view<const float>(x), craft::dlpack::view<const float>(y),
               craft::gaussians<>::mean({0.5, 1.0, 2.0}), options, value, gradients);
    return "";
  } catch (const craft::error& e) {
    return e.what();
  }
}

// The program's own arrays: rows of `cols` numbers, padded to `stride`.
struct features {
  std::int64_t shape[2], strides[2];
  std::vector<float> numbers;
  DLTensor tensor{};

  features(std::int64_t rows, std::int64_t cols, std::int64_t stride)
      : shape{rows, cols}, strides{stride, 1}, numbers(std::size_t(rows * stride)) {
    tensor.data = numbers.data();
    tensor.device = {kDLCPU, 0};
    tensor.ndim = 2;
    tensor.dtype = {kDLFloat, 32, 1};
    tensor.shape = shape;
    tensor.strides = strides;
  }
  features(const features&) = delete;  // the tensor points into it
  float& at(std::int64_t i, std::int64_t k) { return numbers[std::size_t(i * strides[0] + k)]; }
};

int main() {
  features x(64, 16, 20), y(96, 16, 16), dx(64, 16, 16);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& v : x.numbers) v = normal(random);
  for (float& v : y.numbers) v = 0.5f * normal(random) + 1;

  const craft::cpu ctx;
  float first = 0, value = 0;
  for (int step = 0; step <= 200; ++step) {
    const std::string wrong = mmd_loss(ctx, x.tensor, y.tensor, value, dx.tensor);
    if (!wrong.empty()) {
      std::fprintf(stderr, "%s\n", wrong.c_str());
      return 1;
    }
    if (step == 0) first = value;
    if (step % 50 == 0) std::printf("step %3d   MMD^2 %.4f\n", step, value);
    for (std::int64_t i = 0; i < 64; ++i)
      for (std::int64_t k = 0; k < 16; ++k) x.at(i, k) -= 100 * dx.at(i, k);
  }

  // Eight-byte numbers are not what this loss takes.
  y.tensor.dtype.bits = 64;
  std::printf("of another type: %s\n", mmd_loss(ctx, x.tensor, y.tensor, value, dx.tensor).c_str());
  return value < 0.1f * first ? 0 : 1;
}
