// Feature alignment losses: pull the two modalities together where both are described by similarities.
//
//     z_ij = s cos(x_i, y_j),   s = min(exp(log_scale), max_scale)
//
//     anchor_cross_entropy   softmax over static anchors (class texts, class means) against labels
//     info_nce               softmax over the other modality's batch (stochastic anchors), one way or both
//     sigmoid_contrastive    every pair on its own
//
// A learnable scale: log_scale may be anything. At max_scale and above it the scale is max_scale, and the gradient by log_scale
// (upstream times dL/dlog_scale, as if nothing were clamped) passes if a step against it leads back inside; else it is 0. So a
// scale that starts at its bound, as CLIP's does, leaves it when a smaller one is better, and one beyond comes back.
//
// The logits are never stored whole, but for the smallest batches (up to 2^18 of them, which saves a quarter of the
// work). Gradients go to both sides, log_scale and bias. With normalise = false the rows are taken as they are (dot
// products).
//
// Sources: J. Sun et al., "Craft", arXiv 2407.15894 (the three alignment terms); A. Radford et al., CLIP, arXiv 2103.00020
// (symmetric loss); P. Khosla et al., arXiv 2004.11362 (several positives); X. Zhai et al., arXiv 2303.15343 (sigmoid loss).
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "craft/engine/cpu_engine.hpp"
#include "craft/relative.hpp"
#include "craft/sigmoid_contrastive.hpp"
#include "craft/steps/alignment_call.hpp"

namespace craft {

/// mean: sum of weighted row losses over the sum of the weights that take part; sum: not divided.
enum class reduction { mean, sum };
constexpr auto names_of(reduction) { return std::array{"mean", "sum"}; }  ///< in their order

/// How anchor_cross_entropy is computed.
struct cross_entropy_options {
  scalar log_scale = std::log(100.0);                          ///< s = exp(log_scale) ...
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most this, with a gradient that only leads back
  bool normalise = true;               ///< divide all rows by their norm; a zero row stays zero
  double label_smoothing = 0;          ///< in [0, 1]: targets become (1 - e) t + e / C
  index_t ignore_label = -100;         ///< rows with this label take no part
  numbers weights{};                   ///< per row, >= 0
  reduction reduce = reduction::mean;  ///< mean or sum over the rows
  scalar upstream = 1.0;  ///< multiplies the gradients, not the value

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c.scale(log_scale, max_scale, "logits are s cos(x_i, a_c), s = exp(log_scale); by default s = 100");
    c("normalise", normalise, "cosines; else dot products");
    c("label_smoothing", label_smoothing, "e in [0, 1]: targets become (1 - e) t + e / C");
    c("ignore_label", ignore_label, "rows with this label take no part");
    c("weights", weights, "n", "of the rows, >= 0");
    c("reduction", reduce, "\"mean\" over the weights that take part, or \"sum\"");
    c.upstream(upstream);
  }
};

/// One-way: x_i finds its y. Symmetric: the mean of that and of y_j finding its x.
enum class direction { one_way, symmetric };
constexpr auto names_of(direction) { return std::array{"one_way", "symmetric"}; }  ///< in their order

/// How info_nce is computed.
struct contrastive_options {
  scalar log_scale = std::log(100.0);                          ///< s = exp(log_scale) ...
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most this, with a gradient that only leads back
  bool normalise = true;                              ///< divide all rows by their norm; a zero row stays zero
  craft::direction direction = direction::symmetric;  ///< x finds its y, or that and the way back
  labels x_labels{}, y_labels{};  ///< both: all pairs with equal labels are positives, with equal shares; none: row i and row i
  double label_smoothing = 0;     ///< in [0, 1]: targets become (1 - e) t + e / m
  numbers weights{};  ///< per row of x, and by the same index of y in the symmetric form, which then needs n = m
  scalar upstream = 1.0;  ///< multiplies the gradients, not the value

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c.scale(log_scale, max_scale, "logits are s cos(x_i, y_j), s = exp(log_scale); by default s = 100");
    c("normalise", normalise, "cosines; else dot products");
    c("direction", direction, "\"symmetric\": the mean of x finding its y and y finding its x; \"one_way\": x finds its y");
    c("x_labels", x_labels, "n", "with y_labels: rows of equal labels belong together; without: row i and row i");
    c("y_labels", y_labels, "m", "see x_labels");
    c("label_smoothing", label_smoothing, "e in [0, 1]: targets become (1 - e) t + e / m");
    c("weights", weights, "n", "of the rows, >= 0; \"symmetric\": also of the rows of y, of which there are as many then");
    c.upstream(upstream);
  }
};

/// Cross-entropy of softmax_c(s cos(x_i, a_c)) against labels, or against soft targets: features seen through static anchors
/// of the other modality.
///
///     L = sum_i w_i (lse_c z_ic - z_i,label) / sum_i w_i,   with targets t_ic:  sum_i w_i sum_c t_ic (lse_i - z_ic) / sum_i w_i
///
/// x: n x d, anchors: C x d, target: labels (n of them, 0 to C - 1 or ignore_label), or a matrix of soft targets (n x C, of
/// the computing type). If no row takes part the value and all gradients are 0.
/// Cost: 2 n C d operations for the value, 8 n C d with all gradients (6 n C d up to n C = 2^18); memory O((n + C) d).
/// Throws shape_error, option_error, label_error, data_error, alias_error, and has written nothing then.
template <class Context, class X, class A, class Target,
          class Gradients = alignment_gradients<storage_of<X>, Context::space>>
void anchor_cross_entropy(const Context& ctx, const X& x, const A& anchors, const Target& target,
                          const cross_entropy_options& options, value_out<X, Context> value,
                          const Gradients& gradients = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, A>();
  const matrix_view<const S, Context::space> xv = view(x), av = view(anchors);
  const index_t n = xv.rows(), c = av.rows();
  constexpr bool by_label = std::is_constructible_v<labels, const Target&>;

  engine::alignment_call<Context, S> call(ctx, "anchor_cross_entropy", "anchors", xv, av);
  auto& e = call.e;
  call.check.in_unit_interval("label_smoothing", options.label_smoothing);
  call.check.weights("weights", options.weights, "x", e);
  typename decltype(call)::softmax s;
  s.n = n;
  if constexpr (by_label) {
    const labels y(target);
    call.check.labels_of("labels", y, "x", c, options.ignore_label, e);
    require<option_error>(!gradients.targets.wanted(), "anchor_cross_entropy: labels have no gradient, only soft targets have");
    call.check_common(options, value, gradients);
    label_targets(e, y, c, options.ignore_label, options.label_smoothing, s);
    row_weights(e, n, options.weights, &y, options.ignore_label, nullptr, options.reduce == reduction::mean, 1.0, s);
  } else {
    const matrix_view<const T, Context::space> t = view(target);
    call.check.input("soft targets", t, e);
    call.check.shape("soft targets", t, n, c);
    call.check_common(options, value, gradients);
    soft_targets(e, t, options.label_smoothing, s);
    row_weights(e, n, options.weights, nullptr, 0, nullptr, options.reduce == reduction::mean, 1.0, s);
  }
  call.template run_softmax<!by_label>(options, s, {}, false, options.reduce == reduction::mean, value, gradients);
}

/// Contrastive loss within a batch: the other modality's rows are the anchors.
///
///     L = mean_i (lse_j z_ij - mean over positives p of i of z_ip),   symmetric: the mean of this and of the same by columns
///
/// x: n x d, y: m x d (n = m unless labels are given). Rows without a positive take no part. With labels, pairs of the same class
/// are positives and never negatives' targets. Cost: 2 n m d operations for the value, 8 n m d with all gradients, 6 n m d up to
/// n m = 2^18 (rows and columns from the same tile); memory O((n + m) d). Throws shape_error, option_error, data_error,
/// alias_error.
template <class Context, class X, class Y, class Gradients = alignment_gradients<storage_of<X>, Context::space>>
void info_nce(const Context& ctx, const X& x, const Y& y, const contrastive_options& options,
              value_out<X, Context> value, const Gradients& gradients = {}) {
  using S = storage_of<X>;
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  const index_t n = xv.rows(), m = yv.rows();
  const bool both = options.direction == direction::symmetric;

  engine::alignment_call<Context, S> call(ctx, "info_nce", "y", xv, yv);
  auto& e = call.e;
  call.check.in_unit_interval("label_smoothing", options.label_smoothing);
  call.check_pairs(options.x_labels, options.y_labels);
  call.check.weights("weights", options.weights, "x", e);
  require<shape_error>(options.weights.empty() || !both || n == m,
                       "info_nce: weights in the symmetric form need as many rows of x as of y, got ", n, " and ", m);
  require<shape_error>(!gradients.weights.wanted() || !both || n == m,
                       "info_nce: the gradient of weights in the symmetric form needs as many rows of x as of y, got ", n,
                       " and ", m);
  require<option_error>(!gradients.targets.wanted(), "info_nce: has no soft targets, so no gradient of them");
  call.check_common(options, value, gradients);

  typename decltype(call)::softmax by_row, by_col;
  by_row.n = n, by_col.n = m;
  pair_targets(e, options.x_labels, options.y_labels, n, m, options.label_smoothing, by_row, by_col);
  const double share = both ? 0.5 : 1.0;
  row_weights(e, n, options.weights, nullptr, 0, by_row.matches, true, share, by_row);
  if (both) row_weights(e, m, options.weights, nullptr, 0, by_col.matches, true, share, by_col);
  call.template run_softmax<false>(options, by_row, by_col, both, true, value, gradients);
}

namespace verbs {

/// anchor_cross_entropy, to hosts (describe.hpp).
struct anchor_cross_entropy {
  static constexpr const char* name = "anchor_cross_entropy";     ///< what hosts call it
  static constexpr const char* module = "AnchorCrossEntropyLoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Cross-entropy of softmax_c(s cos(x_i, a_c)): features of one modality seen through static anchors of the other.\n"
      "\n"
      "    L = sum_i w_i sum_c t_ic (logsumexp_b z_ib - z_ic) / sum_i w_i,    z_ic = s cos(x_i, a_c)\n"
      "\n"
      "Cost: 2 n C d operations, 8 n C d with gradients; memory O((n + C) d). J. Sun et al., \"Craft\", arXiv 2407.15894.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features, one sample per row");
    const auto anchors = c.matrix("anchors", "C d", "one per class");
    const auto targets = c.targets("targets", "n C", "n labels in [0, C) or ignore_label, or n x C shares t_ic");
    cross_entropy_options o;
    o.fields(c);
    alignment_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("anchors", g.y);
    c.gradient("targets", g.targets);
    c.gradient("log_scale", g.log_scale);
    c.gradient("weights", g.weights);
    const auto value = c.value("the loss");
    c.run([&](const auto& ctx, const auto& t) { craft::anchor_cross_entropy(ctx, x, anchors, t, o, value, g); }, targets);
  }
};

/// info_nce, to hosts (describe.hpp).
struct info_nce {
  static constexpr const char* name = "info_nce";       ///< what hosts call it
  static constexpr const char* module = "InfoNCELoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Contrastive loss within a batch, with the other modality's rows as stochastic anchors.\n"
      "\n"
      "    L = mean_i (logsumexp_j z_ij - mean over positives p of i of z_ip),    z_ij = s cos(x_i, y_j)\n"
      "\n"
      "Rows without a positive take no part. Cost: 2 n m d operations, 8 n m d with gradients; memory O((n + m) d). A. Radford\n"
      "et al., CLIP, arXiv 2103.00020; P. Khosla et al., arXiv 2004.11362, for several positives.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features of one modality, one sample per row");
    const auto y = c.matrix("y", "m d", "those of the other; n = m without labels");
    contrastive_options o;
    o.fields(c);
    alignment_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("y", g.y);
    c.gradient("log_scale", g.log_scale);
    c.gradient("weights", g.weights);
    const auto value = c.value("the loss");
    c.run([&](const auto& ctx) { craft::info_nce(ctx, x, y, o, value, g); });
  }
};

}  // namespace verbs

}  // namespace craft
