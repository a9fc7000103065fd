// Conventions of MMD in use, as a kernel and options: released code of papers and libraries that others compare with.
#pragma once

#include <array>
#include <cmath>

#include "craft/kernels.hpp"
#include "craft/mmd_options.hpp"

namespace craft {

/// A kernel and options that together reproduce somebody's convention.
template <class Kernel>
struct mmd_preset {
  Kernel kernel;        ///< the pair function
  mmd_options options;  ///< everything else
};

/// Conventions in use, to 1e-10 in double. Exponents and estimators differ between all of them; docs/math.md has the table.
namespace presets {

/// Craft's released code, kernel "rbf": sum over a in {10, 15, 20, 50} of exp(-D / (2 a)), columns of each sample scaled by
/// their own minimum and maximum, with gradient through both. What was measured of it: blind to any shift or positive
/// scaling of a column of one sample; for identical distributions about 2.0 at 4 rows and 0.14 at 512.
inline mmd_preset<gaussians<double>> craft_rbf() {
  mmd_options o;
  o.columns = column_scaling::minmax_separate;
  return {gaussians<double>({std::sqrt(10.0), std::sqrt(15.0), std::sqrt(20.0), std::sqrt(50.0)}), o};
}

/// Craft's released code, kernel "multiscale": sum over a in {0.2, 0.5, 0.9, 1.3} of a^2 / (a^2 + D + 1e-8), columns as above.
inline auto craft_multiscale() {
  mmd_options o;
  o.columns = column_scaling::minmax_separate;
  const auto k = [](double a) { return inverse_multiquadric<double>(a, 1e-8); };
  const auto sum = k(0.2) + k(0.5) + k(0.9) + k(1.3);
  return mmd_preset<std::decay_t<decltype(sum)>>{sum, o};
}

/// DAN as in the Transfer-Learning-Library: sum over a = 1/8 ... 2 of exp(-D / (2 a M)), M the mean of all pooled squared
/// distances, held fixed in the gradient; unbiased plus the constant 2 / (n - 1). n: rows of each sample (at least 2).
inline mmd_preset<gaussians<double>> tllib(index_t n) {
  require<shape_error>(n >= 2, "tllib: expected at least 2 rows, got ", n);
  mmd_options o;
  o.estimator = estimator::unbiased;
  o.bandwidth.rule = bandwidth_rule::mean;
  o.offset = 2 / double(n - 1);
  return {gaussians<double>({std::sqrt(0.125), 0.5, std::sqrt(0.5), 1.0, std::sqrt(2.0)}), o};
}

/// jindongwang/transferlearning: sum over i = 0..4 of exp(-D / (B 2^(i-2))), B the mean squared distance off the
/// diagonal, held fixed in the gradient; biased.
inline mmd_preset<gaussians<double>> transferlearning() {
  mmd_options o;
  o.bandwidth.rule = bandwidth_rule::mean_offdiagonal;
  return {gaussians<double>({std::sqrt(0.125), 0.5, std::sqrt(0.5), 1.0, std::sqrt(2.0)}), o};
}

/// CMMD: 1000 times the biased value with exp(-D / 200), for features of unit norm (which it does not make itself).
inline mmd_preset<gaussian<double>> cmmd() {
  mmd_options o;
  o.factor = 1000;
  return {gaussian<double>(10.0), o};
}

/// geomloss' loss "gaussian": half the biased value with exp(-D / (2 blur^2)); its weights are x_weights and y_weights.
inline mmd_preset<gaussian<double>> geomloss_gaussian(double blur = 0.05) {
  mmd_options o;
  o.factor = 0.5;
  return {gaussian<double>(blur), o};
}
/// geomloss' loss "laplacian": half the biased value with exp(-sqrt(D) / blur). Its dense backend takes no D below
/// 1e-8 blur^2, which this reproduces.
inline mmd_preset<laplacian<double>> geomloss_laplacian(double blur = 0.05) {
  mmd_options o;
  o.factor = 0.5;
  return {laplacian<double>(blur, 1e-8 * blur * blur), o};
}
/// geomloss' loss "energy": half the biased value with -sqrt(D). Its dense backend takes no D below 1e-8, which this
/// reproduces.
inline mmd_preset<energy<double>> geomloss_energy() {
  mmd_options o;
  o.factor = 0.5;
  return {energy<double>(1e-8), o};
}

/// alibi-detect: exp(-D / median), the lower median of the squared distances within x (the reference sample), held fixed in
/// the gradient; unbiased.
inline mmd_preset<gaussian<double>> alibi_detect() {
  mmd_options o;
  o.estimator = estimator::unbiased;
  o.bandwidth = {bandwidth_rule::median, bandwidth_sample::x, false};
  return {gaussian<double>(std::sqrt(0.5)), o};
}

/// Kernel inception distance, of all rows: unbiased, with (x . y / d + 1)^3 for features of d numbers. What is published is a mean
/// over subsets: kernel_inception_distance.
inline mmd_preset<polynomial<double>> kid(index_t d) {
  require<shape_error>(d >= 1, "kid: expected at least 1 column, got ", d);
  mmd_options o;
  o.estimator = estimator::unbiased;
  return {polynomial<double>(std::sqrt(double(d)), 1, 3), o};
}

/// All of them, for who learns which when the program runs.
enum class convention {
  craft_rbf,
  craft_multiscale,
  tllib,
  transferlearning,
  cmmd,
  geomloss_gaussian,
  geomloss_laplacian,
  geomloss_energy,
  alibi_detect,
  kid
};
/// In their order.
constexpr auto names_of(convention) {
  return std::array{"craft_rbf",         "craft_multiscale",   "tllib",           "transferlearning", "cmmd",
                    "geomloss_gaussian", "geomloss_laplacian", "geomloss_energy", "alibi_detect",     "kid"};
}

/// f(preset), for samples of n rows of d numbers; blur: of geomloss'.
template <class F>
void visit(convention which, index_t n, index_t d, double blur, const F& f) {
  switch (which) {
    case convention::craft_rbf: return f(craft_rbf());
    case convention::craft_multiscale: return f(craft_multiscale());
    case convention::tllib: return f(tllib(n));
    case convention::transferlearning: return f(transferlearning());
    case convention::cmmd: return f(cmmd());
    case convention::geomloss_gaussian: return f(geomloss_gaussian(blur));
    case convention::geomloss_laplacian: return f(geomloss_laplacian(blur));
    case convention::geomloss_energy: return f(geomloss_energy());
    case convention::alibi_detect: return f(alibi_detect());
    case convention::kid: return f(kid(d));
  }
}

}  // namespace presets

}  // namespace craft
