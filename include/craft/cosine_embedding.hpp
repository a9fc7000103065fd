// The cosine embedding loss over all pairs of a batch: pairs that belong together are pulled to cosine 1, all others are pushed
// below a margin by a hinge, and left alone there.
//
//     L = 1/(n m) sum_ij   1 - cos(x_i, y_j)                  if x_i and y_j belong together
//                          max(0, cos(x_i, y_j) - margin)     otherwise
//
// Source: PyTorch's CosineEmbeddingLoss, which takes one pair a row; after R. Hadsell, S. Chopra and Y. LeCun, "Dimensionality
// reduction by learning an invariant mapping", CVPR 2006, for the margin.
#pragma once

#include "craft/engine/cpu_engine.hpp"
#include "craft/steps/alignment_call.hpp"

namespace craft {

/// How cosine_embedding is computed.
struct cosine_embedding_options {
  double margin = 0;              ///< in [-1, 1]: pairs that do not belong together cost nothing up to this cosine
  labels x_labels{}, y_labels{};  ///< both: pairs with equal labels belong together; none: pairs of equal indices
  scalar upstream = 1.0;          ///< multiplies the gradients, not the value

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("margin", margin, "in [-1, 1]: pairs that do not belong together cost nothing up to this cosine");
    c("x_labels", x_labels, "n", "with y_labels: rows of equal labels belong together; without: row i and row i");
    c("y_labels", y_labels, "m", "see x_labels");
    c.upstream(upstream);
  }
};

/// Gradients of the loss: x (n x d) and y (m x d). Not wanted unless set.
template <class S, memory M = memory::host>
struct cosine_embedding_gradients {
  output<S, M> x{}, y{};  ///< of the input's shape
};

namespace engine {

/// What the loss has to do with a pair, whose logit s is the cosine.
template <class T, bool Gradient>
struct hinge_pair : pairs_by_id<T> {
  static constexpr int totals = 1;
  static constexpr bool reads = true, norms = false, radial = false, weighs = Gradient;
  double margin;

  struct block_side {
    T margin, scale;
  };
  CRAFT_HOST_DEVICE block_side block(index_t, index_t) const { return {T(margin), T(this->scale)}; }
  template <class V>
  CRAFT_HOST_DEVICE pair<V> operator()(const block_side& b, const id_side<T>& r, const id_side<V>& c,
                                       const pair_scalars<V>& seen) const {
    const V one(T(1)), none(T(0)), together = math::where_equal(V(r.id), c.id, one), apart = one - together;
    const V beyond = seen.s - V(b.margin), cost = (math::max)(beyond, none);
    const V slope = apart * math::where_positive(beyond, one) - together;
    return {together * (one - seen.s) + apart * cost, none, V(b.scale) * slope, none, none};
  }
};

}  // namespace engine

/// The loss of all pairs of x (n x d) and y (m x d), with the gradients asked for; where the hinge is at its corner, as if it
/// were below. A zero row has cosine 0 with all.
///
/// Cost: 2 n m d operations for the value, 6 n m d with gradients, one sweep; memory O((n + m) d). Throws shape_error (empty,
/// columns or gradient shapes differ, n and m differ without labels), option_error (margin, labels of one side only), data_error
/// (if ctx.check_finite), alias_error. Nothing is written then.
template <class Context, class X, class Y, class Gradients = cosine_embedding_gradients<storage_of<X>, Context::space>>
void cosine_embedding(const Context& ctx, const X& x, const Y& y, const cosine_embedding_options& options,
                      value_out<X, Context> value, const Gradients& gradients = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols();
  engine::alignment_call<Context, S> call(ctx, "cosine_embedding", "y", xv, yv);  // which has looked at x and y
  auto& e = call.e;
  auto& check = call.check;
  call.check_pairs(options.x_labels, options.y_labels);
  require<option_error>(options.margin >= -1 && options.margin <= 1, "cosine_embedding: margin must lie in [-1, 1], got ",
                        options.margin);
  check.readable("upstream", options.upstream, Context::space);
  check.gradient("gradient of x", gradients.x, n, d);
  check.gradient("gradient of y", gradients.y, m, d);
  check.value(value);
  check.no_overlap();

  // Unit rows, and which of them belong together.
  const bool pulled = gradients.x.wanted() || gradients.y.wanted();
  typename decltype(call)::sides rows{{e, xv, true, pulled, gradients.x.wanted()}, {e, yv, true, pulled, gradients.y.wanted()}};
  T *x_id = e.template take<T>(n), *y_id = e.template take<T>(m);
  pair_ids(e, options.x_labels, options.y_labels, n, m, x_id, y_id);

  // All pairs, and back.
  const double scale = 1 / (double(n) * double(m));
  engine::rectangle_sweep<T> sweep{rows.x.r, rows.y.r};
  sweep.totals = e.template zeros<double>(1), sweep.gx = rows.x.g, sweep.gy = rows.y.g;
  if (pulled)
    e.rectangle(sweep, engine::hinge_pair<T, true>{{x_id, y_id, scale}, options.margin});
  else
    e.rectangle(sweep, engine::hinge_pair<T, false>{{x_id, y_id, scale}, options.margin});
  rows.x.store(gradients.x, engine::read(options.upstream));
  rows.y.store(gradients.y, engine::read(options.upstream));
  write_value(e, value, sweep.totals);
}

namespace verbs {

/// cosine_embedding, to hosts (describe.hpp).
struct cosine_embedding {
  static constexpr const char* name = "cosine_embedding";       ///< what hosts call it
  static constexpr const char* module = "CosineEmbeddingLoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Cosine embedding loss over all pairs of a batch: together to cosine 1, apart below a margin.\n"
      "\n"
      "    L = 1/(n m) sum_ij  1 - cos(x_i, y_j) if x_i and y_j belong together, else max(0, cos(x_i, y_j) - margin)\n"
      "\n"
      "Cost: 2 n m d operations, 6 n m d with gradients; memory O((n + m) d).";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features of one modality, one sample per row");
    const auto y = c.matrix("y", "m d", "those of the other; n = m without labels");
    cosine_embedding_options o;
    o.fields(c);
    cosine_embedding_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("y", g.y);
    const auto value = c.value("the loss");
    c.run([&](const auto& ctx) { craft::cosine_embedding(ctx, x, y, o, value, g); });
  }
};

}  // namespace verbs

}  // namespace craft
