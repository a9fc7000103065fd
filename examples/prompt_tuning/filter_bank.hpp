// Frozen image features without a pre-trained network: one convolution whose filters are the leading principal
// components of the images' own patches (whitened), rectified in both directions, averaged over a 4 x 4 grid, then the
// leading principal components of that. Nothing here sees a label. T. Chan et al., "PCANet", arXiv 1404.3606, is the
// relative.
#pragma once

#include "../common/fashion_mnist.hpp"
#include "../common/parallel.hpp"
#include "../common/pca.hpp"
#include "../common/progress.hpp"

namespace example {

class filter_bank {
 public:
  /// Learns filters and components from images (n x 784) of the undisturbed domain.
  explicit filter_bank(const matrix& images) {
    learn_filters(images.topRows(std::min<Eigen::Index>(images.rows(), 2000)));
    progress bar("features: components", images.rows());
    const principal_components p = fit_pca(responses(images, bar), components);
    mean_ = p.mean;
    // Whitening, but gently: a direction of 1 % of the largest variance is only half lifted.
    const row_vector lift = (p.variances.array() + 0.01f * p.variances(0)).rsqrt();
    axes_ = p.axes * lift.asDiagonal();
  }

  /// n x components, rows of length 1.
  matrix operator()(const matrix& images, progress& bar) const {
    return unit_rows((responses(images, bar).rowwise() - mean_) * axes_);
  }

 private:
  static constexpr int window = 7, filters = 16, cell = 7, cells = side / cell, components = 128;
  static constexpr int length = 2 * filters * cells * cells;
  static constexpr float threshold = 0.25f;

  void learn_filters(const matrix& images) {
    constexpr int per_side = (side - window) / 3 + 1;
    matrix patches(images.rows() * per_side * per_side, window * window);
    Eigen::Index row = 0;
    for (Eigen::Index i = 0; i < images.rows(); ++i)
      for (int y = 0; y + window <= side; y += 3)
        for (int x = 0; x + window <= side; x += 3, ++row)
          for (int k = 0; k < window; ++k)
            patches.row(row).segment(k * window, window) = images.row(i).segment((y + k) * side + x, window);
    const principal_components p = fit_pca(patches, filters);
    const row_vector lift = (p.variances.array() + 0.01f).rsqrt();
    filters_ = p.axes * lift.asDiagonal();
    offset_ = p.mean * filters_;
  }

  /// Rectified and averaged filter responses, n x length.
  matrix responses(const matrix& images, progress& bar) const {
    constexpr std::int64_t block = 100;
    matrix out = matrix::Zero(images.rows(), length);
    parallel_for((images.rows() + block - 1) / block, [&](std::int64_t b) {
      matrix patches(pixels, window * window), response;
      const std::int64_t end = std::min<std::int64_t>(images.rows(), (b + 1) * block);
      for (std::int64_t i = b * block; i < end; ++i) {
        cut_patches(images.row(i).data(), patches);
        response.noalias() = patches * filters_;
        response.rowwise() -= offset_;
        for (int y = 0; y < side; ++y)
          for (int x = 0; x < side; ++x) {
            const auto r = response.row(y * side + x).array();
            auto sums = out.row(i).segment((y / cell * cells + x / cell) * 2 * filters, 2 * filters).array();
            sums.leftCols(filters) += (r - threshold).max(0);
            sums.rightCols(filters) += (-r - threshold).max(0);
          }
      }
      bar.step(end - b * block);
    });
    return out / (cell * cell);
  }

  /// The window around every pixel, black outside the image.
  static void cut_patches(const float* image, matrix& patches) {
    constexpr int reach = window / 2;
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x) {
        float* to = patches.row(y * side + x).data();
        for (int v = y - reach; v <= y + reach; ++v)
          for (int u = x - reach; u <= x + reach; ++u)
            *to++ = v >= 0 && v < side && u >= 0 && u < side ? image[v * side + u] : 0.0f;
      }
  }

  matrix filters_, axes_;
  row_vector offset_, mean_;
};

}  // namespace example
