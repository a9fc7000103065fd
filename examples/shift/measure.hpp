// How far two samples are apart, whether that may be chance, and which rows it comes from.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "../common/matrix.hpp"
#include "../common/progress.hpp"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"
#include "craft/two_sample.hpp"

namespace example {

struct measure_options {
  std::string kernel = "gaussian";
  std::string bandwidth = "median";  ///< median, mean, or a number
  std::int64_t permutations = 1000;
  std::uint64_t seed = 0;
};

struct measurement {
  double sigma = 0;  ///< 0: the kernel has none
  float biased = 0;
  craft::two_sample_result test;
  std::vector<double> source_rows, target_rows;  ///< their means add up to the unbiased MMD^2
};

/// What row i of `own` adds to the unbiased MMD^2: its mean similarity to the other rows of its own sample, less that to the
/// rows of the other sample. Large for rows that the other sample has nothing like.
template <class Kernel>
std::vector<double> contributions(const craft::cpu& ctx, const matrix& own, const matrix& other, const Kernel& kernel,
                                  progress& bar) {
  craft::relative_options plain;
  plain.normalise = false;
  std::vector<double> out;
  const Eigen::Index most = 256;
  matrix to_own, to_other;
  for (Eigen::Index begin = 0; begin < own.rows(); begin += most) {
    const Eigen::Index count = std::min(most, own.rows() - begin);
    const auto rows = own.middleRows(begin, count);
    to_own.resize(count, own.rows());
    to_other.resize(count, other.rows());
    craft::relative(ctx, rows, own, kernel, plain, to_own);
    craft::relative(ctx, rows, other, kernel, plain, to_other);
    for (Eigen::Index i = 0; i < count; ++i) {
      to_own(i, begin + i) = 0;  // a row is no evidence for itself
      out.push_back(to_own.row(i).cast<double>().sum() / double(own.rows() - 1) -
                    to_other.row(i).cast<double>().sum() / double(other.rows()));
    }
    bar.step(count);
  }
  return out;
}

template <class Kernel>
measurement measure_with(const craft::cpu& ctx, const matrix& x, const matrix& y, const Kernel& kernel,
                         const measure_options& options) {
  measurement m;
  craft::mmd(ctx, x, y, kernel, {}, m.biased);
  craft::two_sample_options test;
  test.permutations = options.permutations;
  test.seed = options.seed;
  {
    // The sweep says how many parts it has when it has done the first.
    std::unique_ptr<progress> bar;
    test.progress = [&](craft::index_t, craft::index_t all) {
      if (!bar) bar = std::make_unique<progress>("permutations", all);
      bar->step();
    };
    m.test = craft::two_sample_test(ctx, x, y, kernel, test);
  }
  progress bar("rows", x.rows() + y.rows());
  m.source_rows = contributions(ctx, x, y, kernel, bar);
  m.target_rows = contributions(ctx, y, x, kernel, bar);
  return m;
}

/// Uses the samples up: they are divided by sigma, so that the kernels have bandwidth 1.
inline measurement measure(const craft::cpu& ctx, matrix& x, matrix& y, const measure_options& options) {
  if (options.kernel == "energy") return measure_with(ctx, x, y, craft::energy<float>(), options);
  double sigma = 0;
  if (options.bandwidth == "median" || options.bandwidth == "mean") {
    craft::bandwidth rule;
    rule.rule = options.bandwidth == "median" ? craft::bandwidth_rule::median : craft::bandwidth_rule::mean;
    sigma = std::sqrt(craft::bandwidth_scale(ctx, x, y, rule));
  } else {
    char* end = nullptr;
    sigma = std::strtod(options.bandwidth.c_str(), &end);
    if (*end != '\0' || !(sigma > 0) || !std::isfinite(sigma))
      throw std::runtime_error("--bandwidth: expected median, mean or a positive number, got " + options.bandwidth);
  }
  x /= float(sigma);
  y /= float(sigma);
  measurement m;
  if (options.kernel == "gaussian")
    m = measure_with(ctx, x, y, craft::gaussian(1.0f), options);
  else if (options.kernel == "gaussians")
    m = measure_with(ctx, x, y, craft::gaussians<float>::mean({0.25f, 0.5f, 1, 2, 4}), options);
  else if (options.kernel == "laplacian")
    m = measure_with(ctx, x, y, craft::laplacian(1.0f), options);
  else if (options.kernel == "inverse_multiquadric")
    m = measure_with(ctx, x, y, craft::inverse_multiquadric(1.0f), options);
  else
    throw std::runtime_error(
        "--kernel: expected gaussian, gaussians, laplacian, inverse_multiquadric or energy, got " + options.kernel);
  m.sigma = sigma;
  return m;
}

}  // namespace example
