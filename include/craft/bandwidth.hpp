// Bandwidth: the scale M of the squared distances that a kernel sees, k(D / M).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

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
/// equal) to 1; every kernel value is then k(0), and the gradients are finite.
///
/// Cost: mean rules O(N d); median rules a few sweeps over the pairs, O(N^2 d) operations, without storing distances.
/// Source: A. Gretton et al., JMLR 13 (2012), section 8, for the median heuristic.
struct bandwidth {
  bandwidth_rule rule = bandwidth_rule::fixed;
  bandwidth_sample sample = bandwidth_sample::pooled;
  bool gradient = false;
};

namespace engine {

/// M, and what its gradient needs: mean rules a factor, median rules the pairs that were in the middle.
struct bandwidth_fit {
  double scale = 1;
  double mean_factor = 0;  ///< M = mean_factor * sum_i |z_i - mean|^2
  index_t pairs = 0;
  index_t pair[2][2] = {};
  bool scale_moves() const { return pairs > 0 || mean_factor != 0; }
};

/// `shift`: what the rows were shifted by when they were centred (d numbers), `mean`: place for d numbers.
template <class Engine, class T>
bandwidth_fit fit_bandwidth(Engine& e, const rows<T>& sample, bandwidth_rule rule, const double* shift, double* mean) {
  bandwidth_fit fit;
  const index_t n = sample.n, d = sample.d;
  // Equal rows leave round-off of their common part behind when that is subtracted; such a spread is none.
  double common = 0;
  for (index_t k = 0; k < d; ++k) common += shift[k] * shift[k];
  const double eps = std::numeric_limits<T>::epsilon();
  const double least = std::max(16 * eps * eps * common, 1e3 * double(std::numeric_limits<T>::min()));
  if (rule == bandwidth_rule::fixed || n < 2) return fit;
  if (rule == bandwidth_rule::median || rule == bandwidth_rule::median_mid) {
    const index_t count = n * (n - 1) / 2, lower = (count - 1) / 2;
    fit.pairs = rule == bandwidth_rule::median_mid && count % 2 == 0 ? 2 : 1;
    fit.scale = 0;
    for (index_t p = 0; p < fit.pairs; ++p) {
      const auto found = e.distance_of_rank(sample, lower + p);
      fit.scale += found.value / double(fit.pairs);
      fit.pair[p][0] = found.i;
      fit.pair[p][1] = found.j;
    }
    if (fit.scale > least) return fit;
    fit.pairs = 0;
  }
  e.column_sums(sample.data, n, d, mean);
  for (index_t k = 0; k < d; ++k) mean[k] /= double(n);
  const double spread = e.spread(sample.data, n, d, mean);
  fit.mean_factor = 2 / double(rule == bandwidth_rule::mean_offdiagonal ? n - 1 : n);
  fit.scale = fit.mean_factor * spread;
  return fit.scale > least ? fit : bandwidth_fit{};
}

/// g += dL/dM dM/dz, where z = sqrt(M) times the rows given (they have been scaled already) and `mean` is of unscaled rows.
template <class Engine, class T>
void bandwidth_pullback(Engine& e, const bandwidth_fit& fit, const rows<T>& scaled, const double* mean, double dscale,
                        T* g) {
  const index_t d = scaled.d;
  const double root = std::sqrt(fit.scale);
  for (index_t p = 0; p < fit.pairs; ++p) {
    const index_t i = fit.pair[p][0], j = fit.pair[p][1];
    const T f = T(2 * root * dscale / double(fit.pairs));
    e.row(g, i, d) += f * (e.row(scaled.data, i, d) - e.row(scaled.data, j, d));
    e.row(g, j, d) -= f * (e.row(scaled.data, i, d) - e.row(scaled.data, j, d));
  }
  if (fit.mean_factor != 0) e.add_centred(scaled.data, scaled.n, d, root, mean, 2 * fit.mean_factor * dscale, g);
}

}  // namespace engine

/// M itself, for reports and for fixing a bandwidth once on a reference sample. x: n x d, y: m x d; in squared units of x.
/// Throws shape_error for empty or mismatched input.
template <class Context, class X, class Y>
double bandwidth_scale(const Context& ctx, const X& x, const Y& y, const bandwidth& b) {
  using T = compute_of<X>;
  engine::check_types<Context, X, Y>();
  const auto xv = view(x);
  const auto yv = view(y);
  typename Context::engine e(ctx);
  engine::checks check("bandwidth_scale");
  check.input("x", xv, e);
  check.input("y", yv, e);
  check.same_columns("x", xv, "y", yv);
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols();
  const index_t used = b.sample == bandwidth_sample::x ? n : n + m;
  engine::rows<T> z = e.template take_rows<T>(n + m, d);
  e.load(matrix_view<const storage_of<X>>(xv), z.data);
  e.load(matrix_view<const storage_of<X>>(yv), z.data + n * d);
  double *shift = e.template take<double>(d), *mean = e.template take<double>(d);
  e.centre(z.data, n + m, d, shift);
  e.square_norms(z);
  return engine::fit_bandwidth(e, engine::rows<T>{z.data, used, d, z.squared}, b.rule, shift, mean).scale;
}

}  // namespace craft
