// Domain shifts: four corruptions that the robustness literature uses, at one severity each. D. Hendrycks and T.
// Dietterich, arXiv 1903.12261 (contrast, Gaussian blur, Gaussian noise); N. Mu and J. Gilmer, arXiv 1906.02337
// (rotation, for images of 28 x 28).
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "../common/fashion_mnist.hpp"
#include "../common/parallel.hpp"

namespace example {

/// Changes one image of side x side grey values in [0, 1]; the generator is its only source of randomness.
struct corruption {
  std::string name;
  std::function<void(float* image, std::mt19937_64& random)> apply;
};

inline float clamp01(float v) { return std::clamp(v, 0.0f, 1.0f); }

/// Half the contrast around the image's mean.
inline void lower_contrast(float* image, std::mt19937_64&) {
  float mean = 0;
  for (int i = 0; i < pixels; ++i) mean += image[i] / pixels;
  for (int i = 0; i < pixels; ++i) image[i] = clamp01(mean + 0.5f * (image[i] - mean));
}

/// Gaussian blur of 1.2 pixels.
inline void blur(float* image, std::mt19937_64&) {
  constexpr int reach = 4;
  constexpr float sigma = 1.2f;
  float weight[2 * reach + 1], sum = 0;
  for (int k = -reach; k <= reach; ++k) sum += weight[k + reach] = std::exp(-float(k * k) / (2 * sigma * sigma));
  float half_done[pixels];
  const auto pass = [&](const float* from, float* to, int along, int across) {
    for (int i = 0; i < side; ++i)
      for (int j = 0; j < side; ++j) {
        float v = 0;
        for (int k = -reach; k <= reach; ++k)
          v += weight[k + reach] / sum * from[std::clamp(i + k, 0, side - 1) * along + j * across];
        to[i * along + j * across] = v;
      }
  };
  pass(image, half_done, side, 1);
  pass(half_done, image, 1, side);
}

/// Gaussian noise of standard deviation 0.2.
inline void add_noise(float* image, std::mt19937_64& random) {
  std::normal_distribution<float> noise(0, 0.2f);
  for (int i = 0; i < pixels; ++i) image[i] = clamp01(image[i] + noise(random));
}

/// Rotation by 20 degrees about the centre, bilinear, black outside.
inline void rotate(float* image, std::mt19937_64&) {
  const float angle = 20 * 3.14159265f / 180, c = std::cos(angle), s = std::sin(angle), middle = (side - 1) / 2.0f;
  const std::vector<float> from(image, image + pixels);
  const auto at = [&](int y, int x) {
    return y >= 0 && y < side && x >= 0 && x < side ? from[std::size_t(y * side + x)] : 0.0f;
  };
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      const float y = middle + c * (i - middle) + s * (j - middle), x = middle - s * (i - middle) + c * (j - middle);
      const int y0 = int(std::floor(y)), x0 = int(std::floor(x));
      const float v = y - y0, u = x - x0;
      image[i * side + j] = (1 - v) * ((1 - u) * at(y0, x0) + u * at(y0, x0 + 1)) +
                            v * ((1 - u) * at(y0 + 1, x0) + u * at(y0 + 1, x0 + 1));
    }
}

inline std::vector<corruption> all_corruptions() {
  return {{"contrast", lower_contrast}, {"blur", blur}, {"noise", add_noise}, {"rotation", rotate}};
}

/// A corrupted copy. Every image has a generator of its own, so that threads change nothing.
inline matrix corrupted(matrix images, const corruption& c, std::uint64_t seed) {
  parallel_for(images.rows(), [&](std::int64_t i) {
    std::mt19937_64 random(seed * 1000003 + std::uint64_t(i));
    c.apply(images.row(i).data(), random);
  });
  return images;
}

}  // namespace example
