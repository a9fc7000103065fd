// Where the gradients of the alignment losses go.
#pragma once

#include "craft/view.hpp"

namespace craft {

/// Gradients of an alignment loss: x (n x d), y (the anchors or the other modality, m x d), log_scale and bias. A place of two
/// numbers for log_scale's gets it for `upstream` and for -upstream: at max_scale these are not each other's negative, which
/// counts for who multiplies gradients later on, by a number whose sign is not known yet.
///
/// Of the row weights: dL/dw_i = (l_i - L) / sum w for the mean and l_i for the sum, 0 for a row without part in it; where no
/// weights are given, at 1 each. Of soft targets: dL/dt_ic = (1 - label_smoothing) w_i (lse_i - z_ic) / sum w.
template <class S, memory M = memory::host>
struct alignment_gradients {
  output<S, M> x{}, y{};                        ///< n x d and m x d
  output<compute_t<S>, M> log_scale{}, bias{};  ///< one number (or two) and one; bias is 0 but for sigmoid_contrastive
  output<compute_t<S>, M> weights{};            ///< n numbers; not of sigmoid_contrastive
  output<compute_t<S>, M> targets{};            ///< n x C; of anchor_cross_entropy with soft targets
};

}  // namespace craft
