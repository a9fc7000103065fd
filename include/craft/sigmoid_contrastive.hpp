// The sigmoid loss between two modalities: every pair of a batch on its own, whether it belongs together.
//
// Source: X. Zhai et al., "Sigmoid loss for language image pre-training", arXiv 2303.15343.
#pragma once

#include <cmath>
#include <limits>

#include "craft/engine/cpu_engine.hpp"
#include "craft/steps/alignment_call.hpp"

namespace craft {

/// How sigmoid_contrastive is computed.
struct sigmoid_options {
  scalar log_scale = std::log(10.0);                           ///< s = exp(log_scale) ...
  scalar bias = -10.0;                                         ///< added to every logit
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... s is at most this, with a gradient that only leads back
  bool normalise = true;          ///< divide all rows by their norm; a zero row stays zero
  labels x_labels{}, y_labels{};  ///< both: l = +1 for equal labels; none: for equal indices
  scalar upstream = 1.0;          ///< multiplies the gradients, not the value

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c.scale(log_scale, max_scale, "z_ij = s cos(x_i, y_j), s = exp(log_scale); by default s = 10");
    c("bias", bias, "added to every z_ij");
    c("normalise", normalise, "cosines; else dot products");
    c("x_labels", x_labels, "n", "with y_labels: rows of equal labels belong together; without: row i and row i");
    c("y_labels", y_labels, "m", "see x_labels");
    c.upstream(upstream);
  }
};

namespace engine {

/// What the loss has to do with a pair: softplus(-l z) with z = s + bias, l = +1 for equal ids and -1 otherwise, times `scale`;
/// the second total is the sum of dloss/dz = -l sigmoid(-l z) scale, the bias' gradient.
template <class T, bool Gradient>
struct sigmoid_loss : pairs_by_id<T> {
  static constexpr int totals = Gradient ? 2 : 1;
  static constexpr bool reads = true, norms = false, radial = false, weighs = Gradient;
  number bias;

  struct block_side {
    T bias, scale;
  };
  CRAFT_HOST_DEVICE block_side block(index_t, index_t) const { return {T(double(bias)), T(this->scale)}; }
  template <class V>
  CRAFT_HOST_DEVICE pair<V> operator()(const block_side& b, const id_side<T>& r, const id_side<V>& c,
                                       const pair_scalars<V>& seen) const {
    const V one(T(1)), none(T(0));
    const V sign = math::where_equal(V(r.id), c.id, V(T(2))) - one, u = -(sign * (seen.s + V(b.bias)));
    const V e = math::exp(-(math::max)(u, -u));  // never overflows
    const V value = (math::max)(u, none) + math::log1p(e);
    if constexpr (!Gradient) return {value, none, none, none, none};
    const V sigmoid = (math::where_positive(u, one - e) + e) / (one + e);  // 1/(1+e) for u > 0, else e/(1+e)
    const V weight = -(sign * sigmoid) * V(b.scale);
    return {value, weight, weight, none, none};
  }
};

}  // namespace engine

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

  T *x_id = e.template take<T>(n), *y_id = e.template take<T>(m);
  pair_ids(e, options.x_labels, options.y_labels, n, m, x_id, y_id);
  auto r = call.prepare(options, gradients);
  double* totals = e.template zeros<double>(2);
  engine::rectangle_sweep<T> sweep{r.x.r, r.y.r};
  sweep.totals = totals, sweep.gx = r.x.g, sweep.gy = r.y.g;
  if (r.x.g.wanted())
    e.rectangle(sweep, engine::sigmoid_loss<T, true>{{x_id, y_id, 1 / double(n)}, engine::read(options.bias)});
  else
    e.rectangle(sweep, engine::sigmoid_loss<T, false>{{x_id, y_id, 1 / double(n)}, engine::read(options.bias)});
  if (r.x.g.wanted()) {
    store_vector(e, totals + 1, gradients.bias, engine::read(options.upstream));
    call.store(r, engine::read(options.upstream), gradients);
  }
  write_value(e, value, totals);
}

namespace verbs {

/// sigmoid_contrastive, to hosts (describe.hpp).
struct sigmoid_contrastive {
  static constexpr const char* name = "sigmoid_contrastive";  ///< what hosts call it
  static constexpr const char* module = "SigmoidLoss";        ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Sigmoid loss between two modalities: every pair of a batch by itself, whether it belongs together.\n"
      "\n"
      "    L = -(1/n) sum_ij log sigmoid(l_ij (z_ij + bias)),    l_ij = 1 for pairs that belong together, else -1\n"
      "\n"
      "Cost: 2 n m d operations, 6 n m d with gradients; memory O((n + m) d). X. Zhai et al., arXiv 2303.15343.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features of one modality, one sample per row");
    const auto y = c.matrix("y", "m d", "those of the other; n = m without labels");
    sigmoid_options o;
    o.fields(c);
    alignment_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("y", g.y);
    c.gradient("log_scale", g.log_scale);
    c.gradient("bias", g.bias);
    const auto value = c.value("the loss");
    c.run([&](const auto& ctx) { craft::sigmoid_contrastive(ctx, x, y, o, value, g); });
  }
};

}  // namespace verbs

}  // namespace craft
