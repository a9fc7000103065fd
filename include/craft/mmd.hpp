// Multi-kernel maximum mean discrepancy between two samples, with gradients.
//
//     MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)
//
// Sources: A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012): biased (V) eq. 5, unbiased (U) eq. 3, linear-time
// section 6. Its use between domains in the space of relative representations: J. Sun et al., "Craft: Cross-modal
// Aligned Features Improve Robustness of Prompt Tuning", arXiv 2407.15894.
#pragma once

#include <string>

#include "craft/mmd_presets.hpp"
#include "craft/steps/linear_form.hpp"
#include "craft/steps/quadratic_form.hpp"
#include "craft/steps/sample_weights.hpp"

namespace craft {

namespace engine {

/// Which form of a stacked sample is wanted.
template <class T>
struct form_terms {
  index_t split = 0;         ///< the first row of y
  index_t linear_pairs = 0;  ///< the linear-time form over so many pairs; 0: the quadratic one
  bool parameters = false, skip_diagonal = false;
  bool pull_x = true, pull_y = true;  ///< whose gradient is wanted, where any is
  form_weights<T> weights{};          ///< of the quadratic form
};

/// All that mmd asks of a pair function, so that the rest of it is compiled once for all of them.
template <class Engine, class T>
struct form_kernel {
  int weights, bandwidths;
  bool translation_invariant, linear;
  small_squares small;
  function_ref<void()> check;
  function_ref<void(Engine&, const rows<T>&, const form_terms<T>&, double*, const pull<T>&)> form;
  function_ref<void(Engine&, const rows<T>&, const rows<T>&, T*)> map;  ///< its values, packed
};

/// All that can be wrong with the arguments.
template <class Context, class S, class Kernel, class Gradients>
[[gnu::cold]] void check_discrepancy(checks& check, typename Context::engine& e, const matrix_view<const S, Context::space>& x,
                       const matrix_view<const S, Context::space>& y, const Kernel& kernel, const mmd_options& options,
                       const scalar_out<compute_t<S>, Context::space>& value, const Gradients& gradients) {
  const index_t n = x.rows(), m = y.rows(), d = x.cols();
  const bool linear = options.estimator == estimator::linear, unbiased = options.estimator == estimator::unbiased;
  check.input("x", x, e);
  check.input("y", y, e);
  check.same_columns("x", x, "y", y);
  require<shape_error>((!unbiased && !linear) || (n >= 2 && m >= 2), "mmd: the ", linear ? "linear-time" : "unbiased",
                       " estimator needs at least 2 rows of each, got ", detail::shape(n, d), " and ", detail::shape(m, d));
  kernel.check();
  require<option_error>(!linear || (options.x_weights.empty() && options.y_weights.empty() && !gradients.x_weights.wanted() &&
                                    !gradients.y_weights.wanted()),
                        "mmd: the linear-time estimator takes no sample weights, and has no gradient of them");
  check.weights("x_weights", options.x_weights, "x", e);
  check.weights("y_weights", options.y_weights, "y", e);
  require<option_error>(
      !unbiased || (check.shared_weights(options.x_weights, e) && check.shared_weights(options.y_weights, e)),
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
}

/// The weights of the quadratic form of n and m rows. `sums`: of sample weights, what load_weights says of x and of y; null for
/// equal ones whose gradient nobody wants.
template <class T, class Engine>
form_weights<T> weigh_form(Engine& e, index_t n, index_t m, const mmd_options& options, double* sums) {
  const bool unbiased = options.estimator == estimator::unbiased;
  form_weights<T> w;
  w.per_row = e.template take<T>(n + m);
  w.across = -1 / (double(n) * double(m));
  if (sums == nullptr) {
    fill(e, w.per_row, n + m, T(1));
    const double x_pairs = double(n - 1) / double(n), y_pairs = double(m - 1) / double(m);
    double factors[2];
    form_factors_step{n, m, unbiased, &x_pairs, &y_pairs, factors}(0);
    w.within_x = factors[0], w.within_y = factors[1];
  } else {
    double* factors = e.template take<double>(2);
    load_weights(e, options.x_weights, n, w.per_row, sums);
    load_weights(e, options.y_weights, m, w.per_row + n, sums + 2);
    e.each(1, form_factors_step{n, m, unbiased, sums, sums + 2, factors});
    w.within_x = number_at(factors), w.within_y = number_at(factors + 1);
  }
  return w;
}

/// mmd, after the types of its arguments.
template <class Context, class S, class Gradients>
void discrepancy(const Context& ctx, const matrix_view<const S, Context::space>& x, const matrix_view<const S, Context::space>& y,
                 const form_kernel<typename Context::engine, compute_t<S>>& kernel, const mmd_options& options,
                 const scalar_out<compute_t<S>, Context::space>& value, const Gradients& gradients) {
  using T = compute_t<S>;
  using device = typename Context::engine;
  const index_t n = x.rows(), m = y.rows(), d = x.cols();
  device e(ctx);
  checks check("mmd");
  check_discrepancy<Context, S>(check, e, x, y, kernel, options, value, gradients);

  // What the kernel sees: the stacked sample Z = [X; Y], scaled by columns, centred where the kernel allows, divided by sqrt(M).
  const rows<T> z = take_rows<T>(e, n + m, d);
  load(e, x, z.data);
  load(e, y, z.row(n));
  const bool jointly = options.columns == column_scaling::minmax_joint;
  const index_t column_groups = options.columns == column_scaling::none ? 0 : jointly ? 1 : 2;
  scaled_columns<device, T> columns(e, z, n, column_groups, T(options.column_eps));
  double* shift = kernel.translation_invariant ? e.template take<double>(d) : e.template zeros<double>(d);
  if (kernel.translation_invariant) centre(e, z.data, n + m, d, shift);
  e.square_norms(z);
  scaled_by_bandwidth<device, T> scale(e, check, z, options.bandwidth.sample == bandwidth_sample::x ? n : n + m,
                                       options.bandwidth.rule, kernel.linear, kernel.small);

  // Value and gradient of w' K w, or of the linear-time form. The gradient through M or through common extremes needs that of all
  // rows.
  const bool wanted = gradients.x.wanted() || gradients.y.wanted(), coupled = options.bandwidth.gradient || jointly;
  const bool by_sample_weights = gradients.x_weights.wanted() || gradients.y_weights.wanted();
  const bool weighted = !options.x_weights.empty() || !options.y_weights.empty() || by_sample_weights;
  form_terms<T> terms;
  terms.split = n;
  terms.linear_pairs = options.estimator == estimator::linear ? (std::min)(n, m) / 2 : 0;
  terms.parameters = gradients.weights.wanted() || gradients.bandwidths.wanted();
  terms.skip_diagonal = options.estimator == estimator::unbiased;
  terms.pull_x = gradients.x.wanted() || coupled, terms.pull_y = gradients.y.wanted() || coupled;
  double* weight_sums = weighted ? e.template take<double>(4) : nullptr;
  if (terms.linear_pairs == 0) terms.weights = weigh_form<T>(e, n, m, options, weight_sums);
  double* totals = e.template zeros<double>(1 + (terms.parameters ? kernel.weights + kernel.bandwidths : 0));
  const pull<T> g = wanted ? take_pull<T>(e, n + m, d) : pull<T>{};
  kernel.form(e, z, terms, totals, g);

  // Back through M, the centring (nothing: the kernel does not see a shift), and the columns.
  const number factor = options.factor * read(options.upstream);
  if (wanted) {
    scale.pull_back(g.gradient, options.bandwidth.gradient);
    columns.pull_back(g.gradient, scale.root(), shift, options.column_gradient);
    store(e, g.gradient, gradients.x, factor);
    store(e, g.gradient + n * d, gradients.y, factor);
  }
  if (by_sample_weights) {
    double* by_weight = e.template take<double>(n + m);
    sample_weights_pullback<device, T>(e, z, n, terms.skip_diagonal, terms.weights.per_row, weight_sums, kernel.map, by_weight);
    store_vector(e, by_weight, gradients.x_weights, factor);
    store_vector(e, by_weight + n, gradients.y_weights, factor);
  }
  store_vector(e, totals + 1, gradients.weights, factor);
  store_vector(e, totals + 1 + kernel.weights, gradients.bandwidths, factor);
  write_value(e, value, totals, options.factor, options.offset);
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
  const auto form = [&](device& e, const engine::rows<T>& z, const engine::form_terms<T>& f, double* totals,
                        const engine::pull<T>& g) {
    const auto k = kernel.template as<T>();
    using K = std::decay_t<decltype(k)>;
    if (f.linear_pairs > 0) return linear_form(e, z, f.split, f.linear_pairs, k, f.parameters, totals, g.gradient);
    const int parameters = f.parameters ? k.weights() + k.bandwidths() : 0;
    const engine::square_sweep<T> sweep{z, f.split, !f.skip_diagonal, parameters, totals, g, f.pull_x, f.pull_y};
    if (g.wanted())
      e.square(sweep, engine::quadratic_form<T, K, true>{k, f.weights, f.split});
    else
      e.square(sweep, engine::quadratic_form<T, K, false>{k, f.weights, f.split});
  };
  const auto map = [&](device& e, const engine::rows<T>& rows, const engine::rows<T>& columns, T* to) {
    engine::map(e, rows, columns, kernel.template as<T>(), engine::number(1),
                matrix_view<T, Context::space>(to, rows.n, columns.n));
  };
  const engine::form_kernel<device, T> erased{int(kernel.weights()), int(kernel.bandwidths()), Kernel::translation_invariant,
                                              engine::is_linear<Kernel>::value, engine::small_squares_of<Kernel>(), check, form,
                                              map};
  engine::discrepancy<Context, S>(ctx, xv, yv, erased, options, value, gradients);
}

namespace verbs {

/// mmd, to hosts (describe.hpp).
struct mmd {
  static constexpr const char* name = "mmd";        ///< what hosts call it
  static constexpr const char* module = "MMDLoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Squared maximum mean discrepancy between the rows of two samples.\n"
      "\n"
      "    MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)\n"
      "\n"
      "Cost: (n + m)^2 d multiply-adds, three times that with gradients; memory O((n + m) d). A. Gretton et al., \"A kernel\n"
      "two-sample test\", JMLR 13 (2012).";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "a sample, one of its members per row");
    const auto y = c.matrix("y", "m d", "the other sample");
    const auto kernel = c.kernel("kernel", "gaussian", "k, a sum of this family's members");
    mmd_options o;
    o.fields(c);
    c("x_weights", o.x_weights, "n", "of the rows of x, >= 0, divided by their sum inside; not with \"linear\"");
    c("y_weights", o.y_weights, "m", "of the rows of y");
    c.upstream(o.upstream);
    mmd_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("y", g.y);
    c.kernel_gradients(kernel, g.weights, g.bandwidths);
    c.gradient("x_weights", g.x_weights);
    c.gradient("y_weights", g.y_weights);
    const auto value = c.value("MMD^2");
    c.run([&](const auto& ctx, const auto& k) { craft::mmd(ctx, x, y, k, o, value, g); }, kernel);
  }
};

/// mmd by a convention in use (mmd_presets.hpp), to hosts.
struct mmd_preset {
  static constexpr const char* name = "mmd_preset";       ///< what hosts call it
  static constexpr const char* module = "MMDPresetLoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "MMD^2 by the convention of another code: its kernel, bandwidths, estimator and factor.\n"
      "\n"
      "docs/math.md has the table of conventions. Cost as of mmd.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "a sample, one of its members per row");
    const auto y = c.matrix("y", "m d", "the other sample");
    presets::convention preset{};
    double blur = 0.05;
    mmd_options o;
    c.choice("preset", preset, "whose convention");
    c("blur", blur, "the bandwidth of geomloss' kernels, in units of x");
    c("x_weights", o.x_weights, "n", "of the rows of x, >= 0, divided by their sum inside");
    c("y_weights", o.y_weights, "m", "of the rows of y");
    c.upstream(o.upstream);
    mmd_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("y", g.y);
    c.gradient("x_weights", g.x_weights);
    c.gradient("y_weights", g.y_weights);
    const auto value = c.value("MMD^2 by that convention");
    c.run([&](const auto& ctx) {
      presets::visit(preset, x.rows(), x.cols(), blur, [&](auto p) {
        p.options.x_weights = o.x_weights, p.options.y_weights = o.y_weights, p.options.upstream = o.upstream;
        c.with_kernel(p.kernel, [&](const auto& k) { craft::mmd(ctx, x, y, k, p.options, value, g); });
      });
    });
  }
};

}  // namespace verbs

}  // namespace craft
