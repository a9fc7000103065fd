// How mmd is computed, and where its gradients go.
#pragma once

#include <array>

#include "craft/bandwidth.hpp"

namespace craft {

/// Which means: all pairs (V-statistic); within a sample without the diagonal (U-statistic, may be negative); or
/// p = min(n, m) / 2 disjoint pairs (2i, 2i + 1), the mean of k(x, x') + k(y, y') - k(x, y') - k(x', y), in O((n + m) d).
enum class estimator { biased, unbiased, linear };

/// Scaling of every column to (z - min) / (max - min + eps) before anything else: not at all; each sample by its own
/// minimum and maximum; or both by the common ones.
enum class column_scaling { none, minmax_separate, minmax_joint };

constexpr auto names_of(estimator) { return std::array{"biased", "unbiased", "linear"}; }  ///< in their order
constexpr auto names_of(column_scaling) { return std::array{"none", "minmax_separate", "minmax_joint"}; }  ///< in their order

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

  /// All of it but the samples' weights and upstream, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("estimator", estimator, "\"biased\": means over all pairs; \"unbiased\": without the diagonals, may be negative, at least 2 rows "
                              "each; \"linear\": over disjoint pairs");
    bandwidth.fields(c);
    c("bandwidth_gradient", bandwidth.gradient, "whether gradients run through M");
    c("columns", columns, "scaling of every column to [0, 1] first: not at all, by each sample's own extremes, or by common ones");
    c("column_gradient", column_gradient, "whether gradients run through minimum and maximum");
    c("column_eps", column_eps, "> 0: what a constant column is divided by");
    c("factor", factor, "the value is factor * MMD^2 + offset");
    c("offset", offset, "see factor");
  }
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

}  // namespace craft
