// Bandwidth: the scale M of the squared distances that a kernel sees, k(D / M).
#pragma once

#include <array>

#include "craft/engine/cpu_engine.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/columns.hpp"

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

constexpr auto names_of(bandwidth_rule) { return std::array{"fixed", "mean", "mean_offdiagonal", "median", "median_mid"}; }  ///< in their order
constexpr auto names_of(bandwidth_sample) { return std::array{"pooled", "x"}; }  ///< in their order

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

  /// The rule and its sample, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("bandwidth_rule", rule, "what squared distances are divided by: a number M that is 1 (\"fixed\") or their mean or median");
    c("bandwidth_sample", sample, "within which rows: \"pooled\", or those of \"x\" alone");
  }
};

namespace engine {

/// The scale M of squared distances that a bandwidth rule found, and what its gradient needs: mean rules a factor, median
/// rules the pairs that were in the middle.
struct bandwidth_fit {
  double scale, root, inverse_root;  ///< M, sqrt(M), 1 / sqrt(M)
  double mean_factor;                ///< M = mean_factor * sum_i |z_i - mean|^2; 0: the gradient is not by the mean
  double along;                      ///< sum_ik z_ik dL/dz_ik, once it is known
  index_t pairs;                     ///< M = mean of this many of `pair`
  ranked_distance pair[2];
};

/// M by a rule from the sum of squared distances from the mean, and for median rules from the pairs found. A median of 0
/// falls back to the mean, and that to 1.
struct bandwidth_step {
  bandwidth_fit* fit;
  const double* spread;  ///< sum_i |z_i - mean|^2
  index_t n, pairs;
  bool without_diagonal;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    double scale = 0;  // of equal rows exactly: their mean is each of them
    fit->mean_factor = 0;
    fit->pairs = pairs;
    for (index_t p = 0; p < pairs; ++p) scale += fit->pair[p].value / double(pairs);
    if (scale <= 0) {  // what is not a number stays that
      fit->pairs = 0;
      fit->mean_factor = 2 / double(without_diagonal ? n - 1 : n);
      scale = fit->mean_factor * *spread;
    }
    if (scale <= 0) {
      fit->mean_factor = 0;
      scale = 1;
    }
    fit->scale = scale;
    fit->root = std::sqrt(scale);
    fit->inverse_root = 1 / fit->root;
  }
};

/// g += dL/dM dM/dz for z = sqrt(M) times the rows given (they have been scaled already); `mean` is of unscaled rows.
/// Since the loss sees z / sqrt(M) only, dL/dM = -along / (2 M), which may be too small for a double where the gradient is not:
/// taken as dL/dr dr/dz with r = sqrt(M) and dL/dr = -along / r.
template <class T>
struct bandwidth_pullback_step {
  const bandwidth_fit* fit;
  const T* scaled;
  const double* mean;
  index_t d;
  T* g;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& lanes) const {
    const double by_root = -fit->along * fit->inverse_root;
    const T* z = scaled + i * d;
    T* to = g + i * d;
    if (fit->mean_factor != 0) {
      const double by_mean = fit->mean_factor * by_root, inverse_root = fit->inverse_root;
      lanes.template each<double>(d, [&](auto at) {
        using V = decltype(at.load(z));
        at.store(to, at.load(to) + V(by_mean) * (at.load(z) - V(inverse_root) * at.load(mean)));
      });
    }
    for (index_t p = 0; p < fit->pairs; ++p) {
      const ranked_distance& pair = fit->pair[p];
      if (i != pair.i && i != pair.j) continue;
      const T* other = scaled + (i == pair.i ? pair.j : pair.i) * d;
      const double by_pair = by_root / double(fit->pairs);
      lanes.template each<double>(d, [&](auto at) {
        using V = decltype(at.load(z));
        at.store(to, at.load(to) + V(by_pair) * (at.load(z) - at.load(other)));
      });
    }
  }
};

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
  column_means(e, sample.data, n, d, mean);
  engine::spread(e, sample.data, n, d, mean, spread);
  e.each(1, bandwidth_step{fit, spread, n, pairs, rule == bandwidth_rule::mean_offdiagonal});
  return fit;
}

/// Rows z divided by sqrt(M), M of the first `used` of them; and the gradient's way back. Rows of which the kernel looks at
/// squares are checked before and after.
template <class Engine, class T>
class scaled_by_bandwidth {
 public:
  scaled_by_bandwidth(Engine& e, const checks& check, const rows<T>& z, index_t used, bandwidth_rule rule, bool linear,
                      small_squares small)
      : e_(e), z_(z), used_(used), mean_(e.template take<double>(z.d)) {
    if (rule != bandwidth_rule::fixed && small == small_squares::harmless) small = small_squares::all;
    if (!linear) check.squarable<T>("x and y", beyond_squares(e, z, rows<T>{}, small), z.d);
    fit_ = fit_bandwidth(e, rows<T>{z.data, used, z.d, z.squared}, rule, mean_);
    if (!fit_) return;
    multiply(e, z.data, z.n, z.d, number_at(&fit_->inverse_root));
    e.square_norms(z);
    if (!linear) check.squarable<T>("x and y / sqrt(M)", beyond_squares(e, z, rows<T>{}, small_squares::harmless), z.d);
  }
  /// sqrt(M)
  number root() const { return fit_ ? number_at(&fit_->root) : number(1); }
  /// g = the gradient by what was there before; `through` M too, or with M held fixed.
  void pull_back(T* g, bool through) {
    if (!fit_) return;
    if (through) dot(e_, z_.data, g, z_.n, z_.d, &fit_->along);
    multiply(e_, g, z_.n, z_.d, number_at(&fit_->inverse_root));
    if (through) e_.each_row(used_, z_.d, bandwidth_pullback_step<T>{fit_, z_.data, mean_, z_.d, g});
  }

 private:
  Engine& e_;
  rows<T> z_;
  index_t used_;
  double* mean_;
  bandwidth_fit* fit_ = nullptr;
};

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
  engine::rows<T> z = engine::take_rows<T>(e, n + m, d);
  load(e, matrix_view<const storage_of<X>, Context::space>(xv), z.data);
  load(e, matrix_view<const storage_of<X>, Context::space>(yv), z.data + n * d);
  double *shift = e.template take<double>(d), *mean = e.template take<double>(d);
  centre(e, z.data, n + m, d, shift);
  e.square_norms(z);
  check.squarable<T>("x and y", beyond_squares(e, z, engine::rows<T>{}, engine::small_squares::all), d);
  const engine::bandwidth_fit* fit =
      engine::fit_bandwidth(e, engine::rows<T>{z.data, used, d, z.squared}, b.rule, mean);
  return fit ? *e.on_host(&fit->scale, 1) : 1;  // alone: what the rule does not need nobody has written
}

namespace verbs {

/// bandwidth_scale, to hosts (describe.hpp).
struct bandwidth_scale {
  static constexpr const char* name = "bandwidth_scale";  ///< what hosts call it
  static constexpr const char* module = "";               ///< none
  /// What it computes.
  static constexpr const char* text =
      "The scale M of squared distances that mmd finds by this rule, to fix it once on a reference sample.\n"
      "\n"
      "In squared units of x; a kernel's own bandwidth is then sigma sqrt(M). NaN and infinity are an error.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "a sample, one of its members per row");
    const auto y = c.matrix("y", "m d", "the other sample");
    bandwidth b{bandwidth_rule::median};
    b.fields(c);
    double scale = 0;
    c.run([&](const auto& ctx) { scale = craft::bandwidth_scale(ctx, x, y, b); });
    c.found("scale", scale, "M");
  }
};

}  // namespace verbs

}  // namespace craft
