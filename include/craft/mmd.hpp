// Multi-kernel maximum mean discrepancy between two samples, with gradients.
//
//     MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)
//
// Sources: A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012): biased (V) eq. 5, unbiased (U) eq. 3, linear-time
// section 6. Its use between domains in the space of relative representations: J. Sun et al., "Craft: Cross-modal
// Aligned Features Improve Robustness of Prompt Tuning", arXiv 2407.15894.
#pragma once

#include <string>

#include "craft/bandwidth.hpp"
#include "craft/engine/sample_weights.hpp"
#include "craft/kernels.hpp"

namespace craft {

/// Which means: all pairs (V-statistic); within a sample without the diagonal (U-statistic, may be negative); or
/// p = min(n, m) / 2 disjoint pairs (2i, 2i + 1), the mean of k(x, x') + k(y, y') - k(x, y') - k(x', y), in O((n + m) d).
enum class estimator { biased, unbiased, linear };

/// Scaling of every column to (z - min) / (max - min + eps) before anything else: not at all; each sample by its own
/// minimum and maximum; or both by the common ones.
enum class column_scaling { none, minmax_separate, minmax_joint };

/// How mmd is computed.
struct mmd_options {
  craft::estimator estimator = estimator::biased;  ///< which means
  craft::bandwidth bandwidth{};                    ///< the scale M of the squared distances
  column_scaling columns = column_scaling::none;   ///< scaling of the features before anything else
  bool column_gradient = true;                     ///< whether the gradient runs through minimum and maximum
  double column_eps = 1e-8;                        ///< > 0: what a constant column is divided by
  numbers x_weights{}, y_weights{};  ///< sample weights >= 0, divided by their sum inside; not with the linear estimator
  scalar upstream = 1.0;             ///< dL/dvalue: multiplies every gradient, not the value
  double factor = 1, offset = 0;     ///< value = factor * MMD^2 + offset, for the conventions of others
};

/// Gradients of the value: to x (n x d), y (m x d), the kernel's weights and its bandwidths (as many numbers as
/// kernel.weights() and kernel.bandwidths(), in that order, as a row or a column). Not wanted unless set.
/// The bandwidths' gradient holds the scale M of `bandwidth` fixed.
template <class S, memory M = memory::host>
struct mmd_gradients {
  output<S, M> x{}, y{};                            ///< n x d and m x d
  output<compute_t<S>, M> weights{}, bandwidths{};  ///< as many numbers as the kernel has parameters of that kind
  output<compute_t<S>, M> x_weights{}, y_weights{};  ///< of the sample weights, n and m numbers; where none are given, at 1 each
};

namespace engine {

/// Which form of a stacked sample is wanted.
template <class Engine, class T>
struct form_terms {
  index_t split = 0;         ///< the first row of y
  index_t linear_pairs = 0;  ///< the linear-time form over so many pairs; 0: the quadratic one
  bool parameters = false, skip_diagonal = false;
  form_weights<T, typename Engine::number> weights{};  ///< of the quadratic form
};

/// All that mmd asks of a pair function, so that the rest of it is compiled once for all of them.
template <class Engine, class T>
struct form_kernel {
  int weights, bandwidths;
  bool translation_invariant, linear;
  small_squares small;
  function_ref<void()> check;
  function_ref<void(Engine&, const rows<T>&, const form_terms<Engine, T>&, double*, const pull<T>&)> form;
  function_ref<void(Engine&, const rows<T>&, const rows<T>&, T*)> map;  ///< its values, packed
};

/// mmd, after the types of its arguments.
template <class Context, class S, class Gradients>
void discrepancy(const Context& ctx, const matrix_view<const S, Context::space>& xv,
                 const matrix_view<const S, Context::space>& yv,
                 const form_kernel<typename Context::engine, compute_t<S>>& kernel, const mmd_options& options,
                 const scalar_out<compute_t<S>, Context::space>& value, const Gradients& gradients) {
  using T = compute_t<S>;
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols();
  const bool linear = options.estimator == estimator::linear, unbiased = options.estimator == estimator::unbiased;

  typename Context::engine e(ctx);
  checks check("mmd");
  check.input("x", xv, e);
  check.input("y", yv, e);
  check.same_columns("x", xv, "y", yv);
  require<shape_error>(!unbiased || (n >= 2 && m >= 2), "mmd: the unbiased estimator needs at least 2 rows of each, got ",
                       detail::shape(n, d), " and ", detail::shape(m, d));
  require<shape_error>(!linear || (n >= 2 && m >= 2), "mmd: the linear-time estimator needs at least 2 rows of each, got ",
                       detail::shape(n, d), " and ", detail::shape(m, d));
  kernel.check();
  const bool by_sample_weights = gradients.x_weights.wanted() || gradients.y_weights.wanted();
  require<option_error>(!linear || (options.x_weights.empty() && options.y_weights.empty() && !by_sample_weights),
                        "mmd: the linear-time estimator takes no sample weights, and has no gradient of them");
  check.weights("x_weights", options.x_weights, "x", e);
  check.weights("y_weights", options.y_weights, "y", e);
  require<option_error>(!unbiased || (check.shared_weights(options.x_weights, e) && check.shared_weights(options.y_weights, e)),
                        "mmd: the unbiased estimator needs at least two positive weights in each sample, none of them all but alone");
  require<option_error>(std::isfinite(options.column_eps) && options.column_eps > 0,
                        "mmd: column_eps must be positive, got ", options.column_eps);
  require<option_error>(std::isfinite(options.factor) && std::isfinite(options.offset),
                        "mmd: factor and offset must be finite, got ", options.factor, " and ", options.offset);
  check.readable("upstream", options.upstream, Context::space);
  check.gradient("gradient of x", gradients.x, n, d);
  check.gradient("gradient of y", gradients.y, m, d);
  check.vector_gradient("gradient of weights", gradients.weights, kernel.weights);
  check.vector_gradient("gradient of bandwidths", gradients.bandwidths, kernel.bandwidths);
  check.vector_gradient("gradient of x_weights", gradients.x_weights, n);
  check.vector_gradient("gradient of y_weights", gradients.y_weights, m);
  check.value(value);
  check.no_overlap();

  const bool wanted = gradients.x.wanted() || gradients.y.wanted();
  const bool parameters = gradients.weights.wanted() || gradients.bandwidths.wanted();

  // The stacked sample Z = [X; Y]: scaled by columns, centred where the kernel allows, divided by sqrt(M).
  rows<T> z = e.template take_rows<T>(n + m, d);
  e.load(xv, z.data);
  e.load(yv, z.data + n * d);
  const bool scale_columns = options.columns != column_scaling::none;
  const bool jointly = options.columns == column_scaling::minmax_joint;
  const index_t groups = jointly ? 1 : 2, group_begin[2] = {0, n}, group_size[2] = {jointly ? n + m : n, m};
  column_range<T> range[2];
  for (index_t g = 0; scale_columns && g < groups; ++g)
    range[g] = e.scale_columns(z.data + group_begin[g] * d, group_size[g], d, T(options.column_eps));
  double* shift = kernel.translation_invariant ? e.template take<double>(d) : e.template zeros<double>(d);
  if (kernel.translation_invariant) e.centre(z.data, n + m, d, shift);
  e.square_norms(z);
  const index_t used = options.bandwidth.sample == bandwidth_sample::x ? n : n + m;
  double* sample_mean = e.template take<double>(d);
  bandwidth_fit* fit =
      scale_by_bandwidth(e, check, z, used, options.bandwidth.rule, kernel.linear, kernel.small, sample_mean);

  // Value and gradient of w' K w.
  using number = typename Context::engine::number;
  const index_t count = 1 + (parameters ? kernel.weights + kernel.bandwidths : 0);
  double* totals = e.template zeros<double>(count);
  const pull<T> g = wanted ? e.template take_pull<T>(n + m, d) : pull<T>{};
  form_terms<typename Context::engine, T> terms;
  terms.split = n;
  terms.linear_pairs = linear ? std::min(n, m) / 2 : 0;
  terms.parameters = parameters;
  terms.skip_diagonal = unbiased;
  double* weight_sums = nullptr;
  if (!linear) {
    auto& w = terms.weights;
    w.per_row = e.template take<T>(n + m);
    if (options.x_weights.empty() && options.y_weights.empty() && !by_sample_weights) {
      e.fill(w.per_row, n + m, T(1));
      const double x_pairs = double(n - 1) / double(n), y_pairs = double(m - 1) / double(m);
      double factors[2];
      form_factors_step{n, m, unbiased, &x_pairs, &y_pairs, factors}(0);
      w.within_x = factors[0], w.within_y = factors[1];
    } else {
      weight_sums = e.template take<double>(4);
      double* factors = e.template take<double>(2);
      e.load_weights(options.x_weights, n, w.per_row, weight_sums);
      e.load_weights(options.y_weights, m, w.per_row + n, weight_sums + 2);
      e.each(1, form_factors_step{n, m, unbiased, weight_sums, weight_sums + 2, factors});
      w.within_x = e.number_at(factors), w.within_y = e.number_at(factors + 1);
    }
    w.across = -1 / (double(n) * double(m));
    // The gradient through M or through common extremes needs that of all rows.
    const bool coupled = options.bandwidth.gradient || jointly;
    w.pull_x = gradients.x.wanted() || coupled;
    w.pull_y = gradients.y.wanted() || coupled;
  }
  kernel.form(e, z, terms, totals, g);

  // Back through M, the centring (nothing: the kernel does not see a shift), and the columns.
  const number factor = options.factor * e.read(options.upstream);
  if (wanted) {
    const bool through_scale = fit && options.bandwidth.gradient;
    if (through_scale) e.dot(z.data, g.gradient, n + m, d, &fit->along);
    if (fit) e.scale(g.gradient, n + m, d, e.number_at(&fit->inverse_root));
    if (through_scale)
      e.each(used * d, bandwidth_pullback_step<T>{fit, z.data, sample_mean, d, g.gradient});
    const number root = fit ? e.number_at(&fit->root) : number(1);
    for (index_t q = 0; scale_columns && q < groups; ++q)
      e.scale_columns_pullback(z.data + group_begin[q] * d, group_size[q], d, root, shift, range[q],
                               options.column_gradient, g.gradient + group_begin[q] * d);
    e.store(g.gradient, gradients.x, factor);
    e.store(g.gradient + n * d, gradients.y, factor);
  }
  if (by_sample_weights) {
    double* by_weight = e.template take<double>(n + m);
    sample_weights_pullback<typename Context::engine, T>(e, z, n, unbiased, terms.weights.per_row, weight_sums, kernel.map,
                                                         by_weight);
    e.store_vector(by_weight, gradients.x_weights, factor);
    e.store_vector(by_weight + n, gradients.y_weights, factor);
  }
  e.store_vector(totals + 1, gradients.weights, factor);
  e.store_vector(totals + 1 + kernel.weights, gradients.bandwidths, factor);
  e.write_value(value, totals, options.factor, options.offset);
}

}  // namespace engine

/// MMD^2 of x (n x d) against y (m x d) in one sweep over the pairs, with the gradients asked for.
///
/// ctx: where to run. x, y: row-major Eigen matrices, maps, blocks, or matrix views; float, double, Eigen::half or
/// Eigen::bfloat16 (computed in float). kernel: any pair function (kernels.hpp). value: a variable of the
/// computing type.
///
/// Units: the value is in those of the kernel; bandwidths are in units of x, or of sqrt(M) if a bandwidth rule is chosen.
/// Cost: with N = n + m, N^2 d multiply-adds and one kernel evaluation per pair of the upper triangle; 3 N^2 d with any gradient.
/// Memory beyond the arguments: O(N d), whatever n and m are.
/// Accuracy: distances come from dot products of data centred on the pooled mean; the error of each D is at most
/// (d + 4) eps (|x_i - mean|^2 + |y_j - mean|^2), and a common offset of all features costs nothing (docs/math.md).
///
/// Throws shape_error (empty, columns differ, gradient shapes, unbiased with fewer than 2 rows or linear with fewer than 2),
/// option_error (weights, bandwidths, eps), data_error (if ctx.check_finite), alias_error. Nothing is written then.
template <class Context, class X, class Y, class Kernel,
          class Gradients = mmd_gradients<storage_of<X>, Context::space>>
void mmd(const Context& ctx, const X& x, const Y& y, const Kernel& kernel, const mmd_options& options,
         value_out<X, Context> value, const Gradients& gradients = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  static_assert(is_pair_function<Kernel>::value,
                "craft: mmd wants a pair function: value, partials, parameters, weights, bandwidths, as, check and "
                "translation_invariant (see craft/kernels.hpp)");
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  using device = typename Context::engine;
  const auto check = [&] { check_kernel<T>(kernel); };
  const auto form = [&](device& e, const engine::rows<T>& z, const engine::form_terms<device, T>& f, double* totals,
                        const engine::pull<T>& g) {
    const auto k = kernel.template as<T>();
    if (f.linear_pairs > 0)
      e.linear_form(z, f.split, f.linear_pairs, k, f.parameters, totals, g);
    else
      e.quadratic_form(z, f.split, k, f.weights, f.skip_diagonal, f.parameters, totals, g);
  };
  const auto map = [&](device& e, const engine::rows<T>& rows, const engine::rows<T>& columns, T* to) {
    e.map(rows, columns, kernel.template as<T>(), typename device::number(1),
          matrix_view<T, Context::space>(to, rows.n, columns.n));
  };
  const engine::form_kernel<device, T> erased{int(kernel.weights()), int(kernel.bandwidths()), Kernel::translation_invariant,
                                              engine::is_linear<Kernel>::value, engine::small_squares_of<Kernel>(), check, form,
                                              map};
  engine::discrepancy<Context, S>(ctx, xv, yv, erased, options, value, gradients);
}

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

/// DAN as in the Transfer-Learning-Library: sum over a = 1/8 ... 2 of exp(-D / (2 a M)), M the mean of all pooled squared distances,
/// held fixed in the gradient; unbiased plus the constant 2 / (n - 1). n: rows of each sample (at least 2).
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

}  // namespace presets

}  // namespace craft
