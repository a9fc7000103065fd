// Bandwidth: the scale M of the squared distances that a kernel sees, k(D / M).
#pragma once

#include "craft/engine/checks.hpp"
#include "craft/engine/cpu_engine.hpp"

namespace craft {

/// How M is found, over the N rows of the chosen sample.
enum class bandwidth_rule {
  fixed,             ///< M = 1: the kernel's own bandwidths are the whole story
  mean,              ///< mean of all N^2 squared distances, the N zeros included
  mean_offdiagonal,  ///< sum of squared distances / (N^2 - N)
  median,            ///< lower median of the squared distances over pairs i < j
  median_mid         ///< mean of the two middle ones (the median for an odd number of pairs)
};

/// Over which rows: those of x and y together, or those of x alone (a reference sample).
enum class bandwidth_sample { pooled, x };

/// A rule, its sample, and whether the gradient of the loss runs through M. Most peers stop it there without saying; which
/// of the two is meant changes dL/dx by large factors (docs/math.md), so it is an explicit choice here.
///
/// If the rule gives 0 (a median where most rows are equal) M falls back to the mean, and if that is 0 too (all rows
/// equal, or made so by the rounding of numbers of which the pooled mean was subtracted) to 1; every kernel value is then
/// k(0), and the gradients are finite.
///
/// Cost: mean rules O(N d); median rules a few sweeps over the pairs, O(N^2 d) operations, without storing distances.
/// Source: A. Gretton et al., JMLR 13 (2012), section 8, for the median heuristic.
struct bandwidth {
  bandwidth_rule rule = bandwidth_rule::fixed;         ///< how M is found
  bandwidth_sample sample = bandwidth_sample::pooled;  ///< over which rows
  bool gradient = false;                               ///< whether the gradient runs through M
};

namespace engine {

/// M of the rows, in the engine's memory; null where it is 1 by rule. `mean`: place for d numbers.
template <class Engine, class T>
bandwidth_fit* fit_bandwidth(Engine& e, const rows<T>& sample, bandwidth_rule rule, double* mean) {
  const index_t n = sample.n, d = sample.d;
  if (rule == bandwidth_rule::fixed || n < 2) return nullptr;
  bandwidth_fit* fit = e.template take<bandwidth_fit>(1);
  double* spread = e.template take<double>(1);
  const index_t count = n * (n - 1) / 2, lower = (count - 1) / 2;
  const index_t pairs = rule == bandwidth_rule::median                            ? 1
                        : rule != bandwidth_rule::median_mid                      ? 0
                        : count % 2 == 0                                          ? 2
                                                                                  : 1;
  for (index_t p = 0; p < pairs; ++p) e.distance_of_rank(sample, lower + p, &fit->pair[p]);
  e.column_means(sample.data, n, d, mean);
  e.spread(sample.data, n, d, mean, spread);
  e.each(1, bandwidth_step{fit, spread, n, pairs, rule == bandwidth_rule::mean_offdiagonal});
  return fit;
}

/// M of the first `used` rows of z, all of which are then divided by sqrt(M). Rows of which the kernel looks at squares are
/// checked before and after.
template <class Engine, class T>
bandwidth_fit* scale_by_bandwidth(Engine& e, const checks& check, const rows<T>& z, index_t used, bandwidth_rule rule, bool linear,
                                  small_squares small, double* mean) {
  if (rule != bandwidth_rule::fixed && small == small_squares::harmless) small = small_squares::all;
  if (!linear) check.squarable<T>("x and y", e.beyond_squares(z, rows<T>{}, small), z.d);
  bandwidth_fit* fit = fit_bandwidth(e, rows<T>{z.data, used, z.d, z.squared}, rule, mean);
  if (!fit) return nullptr;
  e.scale(z.data, z.n, z.d, e.number_at(&fit->inverse_root));
  e.square_norms(z);
  if (!linear) check.squarable<T>("x and y / sqrt(M)", e.beyond_squares(z, rows<T>{}, small_squares::harmless), z.d);
  return fit;
}

}  // namespace engine

/// M itself, for reports and for fixing a bandwidth once on a reference sample. x: n x d, y: m x d; in squared units of x.
/// The number comes to the host, so on a GPU this waits. Throws shape_error for empty or mismatched input, data_error for NaN or
/// infinity in x or y, whether or not the context looks for them.
template <class Context, class X, class Y>
double bandwidth_scale(const Context& ctx, const X& x, const Y& y, const bandwidth& b) {
  using T = compute_of<X>;
  engine::check_types<Context, X, Y>();
  const auto xv = view(x);
  const auto yv = view(y);
  typename Context::engine e(ctx);
  engine::checks check("bandwidth_scale");
  check.same_columns("x", xv, "y", yv);
  check.finite_input("x", xv, e);
  check.finite_input("y", yv, e);
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols();
  const index_t used = b.sample == bandwidth_sample::x ? n : n + m;
  engine::rows<T> z = e.template take_rows<T>(n + m, d);
  e.load(matrix_view<const storage_of<X>, Context::space>(xv), z.data);
  e.load(matrix_view<const storage_of<X>, Context::space>(yv), z.data + n * d);
  double *shift = e.template take<double>(d), *mean = e.template take<double>(d);
  e.centre(z.data, n + m, d, shift);
  e.square_norms(z);
  check.squarable<T>("x and y", e.beyond_squares(z, engine::rows<T>{}, engine::small_squares::all), d);
  const engine::bandwidth_fit* fit =
      engine::fit_bandwidth(e, engine::rows<T>{z.data, used, d, z.squared}, b.rule, mean);
  return fit ? *e.on_host(&fit->scale, 1) : 1;  // alone: what the rule does not need nobody has written
}

}  // namespace craft
