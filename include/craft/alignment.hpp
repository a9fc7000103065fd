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
// Sources: J. Sun et al., "Craft", arXiv 2407.15894 (the three alignment terms); A. Radford et al., CLIP, arXiv 2103.00020 (symmetric
// loss); P. Khosla et al., arXiv 2004.11362 (several positives); X. Zhai et al., arXiv 2303.15343 (sigmoid loss).
#pragma once

#include <cmath>
#include <limits>

#include "craft/relative.hpp"

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

/// mean: sum of weighted row losses over the sum of the weights that take part; sum: not divided.
enum class reduction { mean, sum };

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
};

/// One-way: x_i finds its y. Symmetric: the mean of that and of y_j finding its x.
enum class direction { one_way, symmetric };

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
};

/// How sigmoid_contrastive is computed.
struct sigmoid_options {
  scalar log_scale = std::log(10.0);                           ///< s = exp(log_scale) ...
  scalar bias = -10.0;                                         ///< added to every logit
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... s is at most this, with a gradient that only leads back
  bool normalise = true;          ///< divide all rows by their norm; a zero row stays zero
  labels x_labels{}, y_labels{};  ///< both: l = +1 for equal labels; none: for equal indices
  scalar upstream = 1.0;          ///< multiplies the gradients, not the value
};

namespace engine {

/// Room for the state of one direction of a softmax over s.n rows.
template <class T, class Engine, class Softmax>
void take_state(Engine& e, Softmax& s) {
  s.lse = e.template take<T>(s.n);
  s.sum = e.template take<T>(s.n);
  s.target_dot = e.template take<T>(s.n);
}
/// Adds the loss of one direction, or of both, to `loss`, and leaves their state and the dot products, if it keeps them, for
/// softmax_pullback.
template <class T, class Engine, class Softmax>
T* softmax_value(Engine& e, const rows<T>& x, const rows<T>& y, Softmax& by_row, Softmax& by_col, bool both, bool again,
                 double* loss) {
  take_state<T>(e, by_row);
  if (both) take_state<T>(e, by_col);
  T* dots = e.log_sum_exp(x, y, by_row, by_col, both, again);
  e.softmax_loss(by_row, loss);
  if (both) e.softmax_loss(by_col, loss);
  return dots;
}

/// What the three losses share: checks, prepared rows with the scale inside x, and the gradients' way out.
template <class Context, class S>
class alignment_call {
 public:
  using T = compute_t<S>;
  using input = matrix_view<const S, Context::space>;
  using number = typename Context::engine::number;
  using softmax = typename Context::engine::template softmax<T>;
  typename Context::engine e;
  checks check;

  alignment_call(const Context& ctx, const char* verb, const char* y_name, const input& x, const input& y)
      : e(ctx), check(verb), x_(x), y_(y), y_name_(y_name) {
    check.input("x", x, e);
    check.input(y_name, y, e);
    check.same_columns("x", x, y_name, y);
  }

  template <class Options, class Gradients>
  void check_common(const Options& o, const scalar_out<T, Context::space>& value, const Gradients& g) {
    check.readable("log_scale", o.log_scale, Context::space);
    check.readable("upstream", o.upstream, Context::space);
    check_max_scale(check, o.max_scale);
    check.gradient("gradient of x", g.x, x_.rows(), x_.cols());
    check.gradient("gradient of y", g.y, y_.rows(), y_.cols());
    check.scale_gradient(g.log_scale);
    check.vector_gradient("gradient of bias", g.bias, 1);
    check.vector_gradient("gradient of weights", g.weights, x_.rows());
    check.gradient("gradient of targets", g.targets, x_.rows(), y_.rows());
    check.value(value);
    check.no_overlap();
  }
  /// Labels of both sides or of neither; without labels row i belongs to row i.
  void check_pairs(const labels& x_labels, const labels& y_labels) const {
    require<option_error>(x_labels.empty() == y_labels.empty(), check.verb(),
                          ": labels must be given for both sides or for neither");
    if (!x_labels.empty()) {
      check.label_count("x_labels", x_labels, "x", e);
      check.label_count("y_labels", y_labels, y_name_, e);
    } else {
      require<shape_error>(x_.rows() == y_.rows(), check.verb(), ": without labels row i belongs to row i, but x is ",
                           detail::shape(x_.rows(), x_.cols()), " and ", y_name_, " is ",
                           detail::shape(y_.rows(), y_.cols()));
    }
  }

  template <class Gradients>
  static bool wanted(const Gradients& g) {
    return g.x.wanted() || g.y.wanted() || g.log_scale.wanted() || g.bias.wanted();
  }
  /// Rows of s x and rows of y, with what is pulled back to them.
  struct sides {
    scaled_rows<typename Context::engine, T> x, y;
  };
  template <class Options, class Gradients>
  sides prepare(const Options& o, const Gradients& g) {
    scale_ = clamp_scale<T>(e, check, o.log_scale, o.max_scale);
    const bool pulled = wanted(g);
    return {{e, x_, o.normalise, pulled, g.x.wanted() || g.log_scale.wanted(), scale_.value},
            {e, y_, o.normalise, pulled, g.y.wanted()}};
  }
  /// Their gradients on the way out.
  template <class Gradients>
  void store(sides& r, const number& upstream, const Gradients& g) {
    if (g.log_scale.wanted()) {
      double* by_scale = e.template take<double>(2);
      r.x.by_log_scale(by_scale);
      e.each(1, clamped_scale_pullback_step<number>{by_scale, 1, upstream, scale_.held});
      e.store_vector(by_scale, g.log_scale, 1.0);
    }
    r.x.store(g.x, upstream);
    r.y.store(g.y, upstream);
  }
  /// Loss of one or two directions, and its gradients. Soft: whether targets have one; divided: whether by the weights' sum.
  template <bool Soft, class Options, class Gradients>
  void run_softmax(const Options& o, softmax by_row, softmax by_col, bool both, bool divided,
                   const scalar_out<T, Context::space>& value, const Gradients& g) {
    sides r = prepare(o, g);
    double* loss = e.template zeros<double>(1);
    const bool pulled = r.x.g.wanted();
    T* dots = softmax_value(e, r.x.r, r.y.r, by_row, by_col, both, pulled, loss);
    if (g.weights.wanted()) store_weights(by_row, by_col, both, divided, e.read(o.upstream), g.weights);
    if constexpr (Soft)
      if (g.targets.wanted()) store_targets(r, by_row, e.read(o.upstream), g.targets);
    if (pulled) {
      e.softmax_pullback(r.x.r, r.y.r, by_row, by_col, both, dots, r.x.g, r.y.g);
      if (g.bias.wanted()) e.store_vector(e.template zeros<double>(1), g.bias, number(0));  // it moves no softmax
      store(r, e.read(o.upstream), g);
    }
    e.write_value(value, loss);
  }

 private:
  template <class Output>
  void store_weights(const softmax& by_row, const softmax& by_col, bool both, bool divided, const number& upstream,
                     const Output& out) {
    double *by_weight = e.template zeros<double>(by_row.n), *loss = e.template zeros<double>(2);
    const auto add = [&](const softmax& s, double* of) {
      e.softmax_loss(s, of);
      e.each(s.n, row_weight_pullback_step<softmax>{s, of, both ? 0.5 : 1.0, divided, by_weight});
    };
    add(by_row, loss);
    if (both) add(by_col, loss + 1);
    e.store_vector(by_weight, out, upstream);
  }
  template <class Output>
  void store_targets(const sides& r, const softmax& s, const number& upstream, const Output& out) {
    const index_t m = r.y.r.n;
    rows<T> x = r.x.r, y = r.y.r;
    x.squared = e.template zeros<T>(x.n), y.squared = e.template zeros<T>(m);  // read, and of no use to a dot product
    T* z = e.template take<T>(s.n * m);
    e.map(x, y, dot_product<T>(), number(1), matrix_view<T, Context::space>(z, s.n, m));
    e.each(s.n * m, target_pullback_step<T, softmax>{s, m, z});
    e.store(z, out, upstream);
  }

  input x_, y_;
  const char* y_name_;
  clamped_scale<number> scale_{number(1), number(0)};
};

}  // namespace engine

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
    e.label_targets(y, c, options.ignore_label, options.label_smoothing, s);
    e.row_weights(n, options.weights, &y, options.ignore_label, nullptr, options.reduce == reduction::mean, 1.0, s);
  } else {
    const matrix_view<const T, Context::space> t = view(target);
    call.check.input("soft targets", t, e);
    call.check.shape("soft targets", t, n, c);
    call.check_common(options, value, gradients);
    e.soft_targets(t, options.label_smoothing, s);
    e.row_weights(n, options.weights, nullptr, 0, nullptr, options.reduce == reduction::mean, 1.0, s);
  }
  call.template run_softmax<!by_label>(options, s, {}, false, options.reduce == reduction::mean, value, gradients);
}

/// Contrastive loss within a batch: the other modality's rows are the anchors.
///
///     L = mean_i (lse_j z_ij - mean over positives p of i of z_ip),   symmetric: the mean of this and of the same by columns
///
/// x: n x d, y: m x d (n = m unless labels are given). Rows without a positive take no part. With labels, pairs of the same class
/// are positives and never negatives' targets. Cost: 2 n m d operations for the value, 8 n m d with all gradients, 6 n m d up to
/// n m = 2^18 (rows and columns from the same tile); memory O((n + m) d). Throws shape_error, option_error, data_error, alias_error.
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
                       "info_nce: the gradient of weights in the symmetric form needs as many rows of x as of y, got ", n, " and ", m);
  require<option_error>(!gradients.targets.wanted(), "info_nce: has no soft targets, so no gradient of them");
  call.check_common(options, value, gradients);

  typename decltype(call)::softmax by_row, by_col;
  by_row.n = n, by_col.n = m;
  e.pair_targets(options.x_labels, options.y_labels, n, m, options.label_smoothing, by_row, by_col);
  const double share = both ? 0.5 : 1.0;
  e.row_weights(n, options.weights, nullptr, 0, by_row.matches, true, share, by_row);
  if (both) e.row_weights(m, options.weights, nullptr, 0, by_col.matches, true, share, by_col);
  call.template run_softmax<false>(options, by_row, by_col, both, true, value, gradients);
}

/// Sigmoid loss over all pairs:
///
///     L = -(1/n) sum_ij log sigmoid(l_ij (z_ij + bias)),   l_ij = +1 for pairs that belong together, -1 otherwise
///
/// x: n x d, y: m x d (n = m unless labels are given). Cost: 2 n m d operations for the value, 6 n m d with all gradients, one
/// sweep; memory O((n + m) d). Throws shape_error, option_error, data_error, alias_error.
template <class Context, class X, class Y, class Gradients = alignment_gradients<storage_of<X>, Context::space>>
void sigmoid_contrastive(const Context& ctx, const X& x, const Y& y, const sigmoid_options& options,
                         value_out<X, Context> value, const Gradients& gradients = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  const index_t n = xv.rows(), m = yv.rows();

  engine::alignment_call<Context, S> call(ctx, "sigmoid_contrastive", "y", xv, yv);
  auto& e = call.e;
  call.check.readable("bias", options.bias, Context::space);
  require<option_error>(!gradients.weights.wanted() && !gradients.targets.wanted(),
                        "sigmoid_contrastive: has no row weights and no soft targets, so no gradients of them");
  call.check_pairs(options.x_labels, options.y_labels);
  call.check_common(options, value, gradients);

  using id = typename Context::engine::template id<T>;
  id *x_id = e.template take<id>(n), *y_id = e.template take<id>(m);
  e.pair_ids(options.x_labels, options.y_labels, n, m, x_id, y_id);
  auto r = call.prepare(options, gradients);
  double* totals = e.template zeros<double>(2);
  e.sigmoid_loss(r.x.r, r.y.r, x_id, y_id, e.read(options.bias), 1 / double(n), totals, r.x.g, r.y.g);
  if (r.x.g.wanted()) {
    e.store_vector(totals + 1, gradients.bias, e.read(options.upstream));
    call.store(r, e.read(options.upstream), gradients);
  }
  e.write_value(value, totals);
}

}  // namespace craft
