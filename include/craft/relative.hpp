// Relative representations: every row described by its similarities to a set of anchors.
//
//     r_ic = min(exp(log_scale), max_scale) k(x_i, a_c)
//
// At max_scale and above it log_scale has its gradient if a step against it leads back inside, else 0: see alignment.hpp.
//
// Sources: L. Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023; with anchors
// of the other modality: J. Sun et al., "Craft", arXiv 2407.15894.
#pragma once

#include <limits>

#include "craft/engine/cpu_engine.hpp"
#include "craft/kernels.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/prepared_rows.hpp"
#include "craft/steps/scaled_rows.hpp"
#include "craft/steps/similarities.hpp"

namespace craft {

/// How relative and relative_pullback are computed.
struct relative_options {
  bool normalise = true;  ///< divide rows and anchors by their Euclidean norm, after the statistics; a zero row stays zero
  anchor_statistics statistics = anchor_statistics::none;  ///< fitted on the anchors
  bool statistics_gradient = true;  ///< whether the anchors' gradient runs through the statistics too
  scalar log_scale = 0.0;           ///< r is multiplied by exp(log_scale) ...
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most by this, with a gradient that only leads back

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("normalise", normalise, "divide rows and anchors by their norms first, after the statistics: the dot product is the cosine then");
    c("statistics", statistics, "of the anchors, applied to rows and anchors first: none, minus their mean, and that over their deviation");
    c("statistics_gradient", statistics_gradient, "whether the gradient of the anchors runs through the statistics");
    c.scale(log_scale, max_scale, "similarities are multiplied by exp(log_scale)");
  }
};

/// Gradients of a loss of r: to x (n x d), the anchors (C x d) and log_scale. Not wanted unless set.
template <class S, memory M = memory::host>
struct relative_gradients {
  output<S, M> x{}, anchors{};          ///< n x d and C x d
  output<compute_t<S>, M> log_scale{};  ///< one number
};

/// Tangents of the inputs: by how much x (n x d), the anchors (C x d) and log_scale move. What is empty does not.
template <class S, memory M = memory::host>
struct relative_tangents {
  matrix_view<const S, M> x{}, anchors{};  ///< n x d and C x d
  scalar log_scale = 0.0;                  ///< one number
};

namespace engine {

/// out_ij = scale (dk_ij + dlog_scale k_ij), by the tangents dx of prepared rows x and dy of y; item i m + j is the pair (i, j).
template <class T, class K, class S>
struct pushforward_step {
  K kernel;
  rows<T> x, y;
  const T *dx, *dy;
  clamped_scale scale;
  number log_scale;
  S* out;
  index_t stride;

  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t item, const Lanes& g) const {
    const index_t i = item / y.n, j = item % y.n, d = x.d;
    const T *a = x.row(i), *b = y.row(j), *da = dx + i * d, *db = dy + j * d;
    pair_scalars<T> seen{}, moved{};
    if constexpr (K::translation_invariant) {
      seen = pair_scalars<T>::at_distance(squared_distance(a, b, d, g));
      moved = pair_scalars<T>::at_distance(
          g.template sum<T>(d, [&](auto at) { return (at.load(a) - at.load(b)) * (at.load(da) - at.load(db)); }) * T(2));
    } else {
      seen = {dot(a, b, d, g), x.squared[i], y.squared[j]};
      moved = {dot(da, b, d, g) + dot(a, db, d, g), T(2) * dot(a, da, d, g), T(2) * dot(b, db, d, g)};
    }
    const pair_partials<T> k = kernel.partials(seen.s, seen.a, seen.b);
    // A scale at its bound moves only back inside.
    const double of_scale = double(scale.held) != 0 && double(log_scale) > 0 ? 0 : double(log_scale);
    const T dk = k.ds * moved.s + k.da * moved.a + k.db * moved.b;
    if (g.first()) out[i * stride + j] = S(T(double(scale.value)) * (dk + T(of_scale) * k.value));
  }
};

/// What map, pull-back and push-forward share: checks, and the rows that the similarity sees.
template <class Context, class X, class A, class Kernel>
struct relative_call {
  using T = compute_of<X>;
  using input = matrix_view<const storage_of<X>, Context::space>;
  typename Context::engine e;
  checks check;
  const input x, anchors;
  const relative_options& options;

  relative_call(const Context& ctx, const char* verb, const X& xs, const A& as, const Kernel& similarity, const relative_options& o)
      : e(ctx), check(verb), x(view(xs)), anchors(view(as)), options(o) {
    static_assert(is_pair_function<Kernel>::value, "craft: relative wants a pair function (see craft/kernels.hpp)");
    check_types<Context, X, A>();
    check.input("x", x, e);
    check.input("anchors", anchors, e);
    check.same_columns("x", x, "anchors", anchors);
    require<shape_error>(options.statistics != anchor_statistics::standardise || anchors.rows() >= 2, verb,
                         ": standardising needs at least 2 anchors, got ", anchors.rows());
    check_kernel<T>(similarity);
    check.readable("log_scale", options.log_scale, Context::space);
    check_max_scale(check, options.max_scale);
  }

  /// To be made once everything is checked.
  struct prepared : prepared_rows<typename Context::engine, T> {
    clamped_scale scale;
    explicit prepared(relative_call& c)
        : prepared_rows<typename Context::engine, T>(c.e, c.x, c.anchors, c.options.normalise, c.options.statistics,
                                                     Kernel::translation_invariant),
          scale(clamp_scale<T>(c.e, c.check, c.options.log_scale, c.options.max_scale)) {
      this->template square_norms<Kernel>(c.check);
    }
  };
};

}  // namespace engine

/// out = exp(log_scale) k(x_i, a_c), n x C: the relative representation of x (n x d) with respect to the anchors (C x d).
///
/// similarity: any pair function; with options.normalise, dot_product<>() is the cosine (what Craft uses) and
/// negative_distance<>() the negative distance of unit vectors. Cost: n C d multiply-adds. Throws shape_error, option_error,
/// data_error, alias_error, and has written nothing then.
template <class Context, class X, class A, class Kernel, class Out>
void relative(const Context& ctx, const X& x, const A& anchors, const Kernel& similarity,
              const relative_options& options, Out&& out) {
  using call = engine::relative_call<Context, X, A, Kernel>;
  const auto to = detail::writable(out);
  call c(ctx, "relative", x, anchors, similarity, options);
  c.check.destination("out", to, c.x.rows(), c.anchors.rows());
  c.check.no_overlap();

  const typename call::prepared r(c);
  engine::map(c.e, r.x, r.y, similarity.template as<typename call::T>(), r.scale.value, to);
}

/// Pulls dout (n x C), the gradient of a loss by the relative representation, back to x, anchors and log_scale.
///
/// Same arguments as relative. Cost: up to 3 n C d multiply-adds, 2 n C d of dot_product; sides that are not wanted are not
/// computed. Throws as relative.
template <class Context, class X, class A, class Kernel, class U,
          class Gradients = relative_gradients<storage_of<X>, Context::space>>
void relative_pullback(const Context& ctx, const X& x, const A& anchors, const Kernel& similarity,
                       const relative_options& options, const U& dout, const Gradients& gradients) {
  using call = engine::relative_call<Context, X, A, Kernel>;
  using T = typename call::T;
  const matrix_view<const storage_of<U>, Context::space> uv = view(dout);
  call c(ctx, "relative_pullback", x, anchors, similarity, options);
  auto& e = c.e;
  const index_t n = c.x.rows(), count = c.anchors.rows(), d = c.x.cols();
  c.check.input("dout", uv, e);
  c.check.shape("dout", uv, n, count);
  c.check.gradient("gradient of x", gradients.x, n, d);
  c.check.gradient("gradient of anchors", gradients.anchors, count, d);
  c.check.vector_gradient("gradient of log_scale", gradients.log_scale, 1);
  c.check.no_overlap();

  typename call::prepared r(c);
  const bool through = options.statistics_gradient && options.statistics != anchor_statistics::none &&
                       gradients.anchors.wanted();
  // The scale's own is sum_ij dout_ij r_ij; of a linear similarity also the scalar product of x with its gradient.
  constexpr bool linear = engine::is_linear<Kernel>::value;
  const bool by_x = gradients.x.wanted() || through || (linear && gradients.log_scale.wanted());
  const engine::pull<T> gx = engine::take_pull<T>(e, n, d, by_x);
  const engine::pull<T> ga = engine::take_pull<T>(e, count, d, gradients.anchors.wanted());
  double* by_scale = e.template zeros<double>(2);
  engine::map_pullback(e, r.x, r.y, similarity.template as<T>(), r.scale.value, uv, by_scale, gx, ga);
  if (linear && gradients.log_scale.wanted()) dot(e, r.x.data, gx.gradient, n, d, by_scale);
  r.pull_back(gx.gradient, ga.gradient, through);
  store(e, gx.gradient, gradients.x, 1.0);
  store(e, ga.gradient, gradients.anchors, 1.0);
  if (!gradients.log_scale.wanted()) return;
  e.each(1, engine::clamped_scale_pullback_step{by_scale, 1, 1.0, r.scale.held});  // dout has its upstream
  store_vector(e, by_scale, gradients.log_scale, 1.0);
}

/// Pushes tangents forward: out (n x C) is by how much the relative representation moves where its inputs do, its derivative along
/// them. Forward mode's half of relative_pullback.
///
/// Same arguments as relative; tangents.log_scale is taken as 0 where the scale is at its bound and would leave it. Cost: up to
/// 6 n C d multiply-adds, pair by pair. Throws as relative.
template <class Context, class X, class A, class Kernel, class Out>
void relative_pushforward(const Context& ctx, const X& x, const A& anchors, const Kernel& similarity,
                          const relative_options& options, const relative_tangents<storage_of<X>, Context::space>& tangents,
                          Out&& out) {
  using call = engine::relative_call<Context, X, A, Kernel>;
  using T = typename call::T;
  const auto to = detail::writable(out);
  call c(ctx, "relative_pushforward", x, anchors, similarity, options);
  auto& e = c.e;
  const index_t n = c.x.rows(), count = c.anchors.rows(), d = c.x.cols();
  const auto moves = [&](const char* name, const typename call::input& by, index_t rows) {
    if (by.empty()) return;
    c.check.input(name, by, e);
    c.check.shape(name, by, rows, d);
  };
  moves("tangent of x", tangents.x, n);
  moves("tangent of anchors", tangents.anchors, count);
  c.check.readable("tangent of log_scale", tangents.log_scale, Context::space);
  c.check.destination("out", to, n, count);
  c.check.no_overlap();

  typename call::prepared r(c);
  T *dx = e.template zeros<T>(n * d), *da = e.template zeros<T>(count * d);
  if (!tangents.x.empty()) load(e, tangents.x, dx);
  if (!tangents.anchors.empty()) load(e, tangents.anchors, da);
  r.push_forward(dx, da, options.statistics_gradient);
  const auto k = similarity.template as<T>();
  using step = engine::pushforward_step<T, std::decay_t<decltype(k)>, std::remove_pointer_t<decltype(to.data())>>;
  e.each_row(n * count, 6 * d, step{k, r.x, r.y, dx, da, r.scale, engine::read(tangents.log_scale), to.data(), to.stride()});
}

namespace verbs {

/// relative, to hosts (describe.hpp).
struct relative {
  static constexpr const char* name = "relative";                  ///< what hosts call it
  static constexpr const char* module = "RelativeRepresentation";  ///< as a module of PyTorch
  static constexpr const char* pullback = "relative_pullback";     ///< what its gradients come from
  static constexpr const char* pushforward = "relative_pushforward";  ///< what its tangents come from
  /// What it computes.
  static constexpr const char* text =
      "Relative representation: every row described by its similarities to the anchors.\n"
      "\n"
      "    r_ic = min(exp(log_scale), max_scale) k(x_i, a_c)\n"
      "\n"
      "Cost: n C d multiply-adds. L. Moschella et al., ICLR 2023; J. Sun et al., \"Craft\", arXiv 2407.15894.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto anchors = c.matrix("anchors", "C d", "what the rows are described by");
    const auto similarity = c.kernel("similarity", "dot_product", "k, a sum of this family's members");
    relative_options o;
    o.fields(c);
    const auto out = c.map("out", "n C", "r");
    c.run([&](const auto& ctx, const auto& k) { craft::relative(ctx, x, anchors, k, o, out); }, similarity);
  }
};

/// relative_pullback, to hosts (describe.hpp).
struct relative_pullback {
  static constexpr const char* name = "relative_pullback";  ///< what hosts call it
  static constexpr const char* module = "";                 ///< none
  /// What it computes.
  static constexpr const char* text =
      "Gradients of a loss of `relative`, from its gradient by the representation.\n"
      "\n"
      "Arguments as of relative. Cost: up to 3 n C d multiply-adds, 2 n C d of \"dot_product\".";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto anchors = c.matrix("anchors", "C d", "what the rows are described by");
    const auto dout = c.computed_matrix("dout", "n C", "the gradient of the loss by the representation");
    const auto similarity = c.kernel("similarity", "dot_product", "k, a sum of this family's members");
    relative_options o;
    o.fields(c);
    relative_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    c.gradient("anchors", g.anchors);
    c.gradient("log_scale", g.log_scale);
    c.run([&](const auto& ctx, const auto& k) { craft::relative_pullback(ctx, x, anchors, k, o, dout, g); }, similarity);
  }
};

/// relative_pushforward, to hosts (describe.hpp).
struct relative_pushforward {
  static constexpr const char* name = "relative_pushforward";  ///< what hosts call it
  static constexpr const char* module = "";                    ///< none
  /// What it computes.
  static constexpr const char* text =
      "By how much the representation of `relative` moves where its inputs do: its derivative along their tangents.\n"
      "\n"
      "Arguments as of relative. Cost: up to 6 n C d multiply-adds.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto anchors = c.matrix("anchors", "C d", "what the rows are described by");
    const auto similarity = c.kernel("similarity", "dot_product", "k, a sum of this family's members");
    relative_options o;
    o.fields(c);
    relative_tangents<typename Call::S, Call::space> t;
    t.x = c.optional_matrix("d_x", "n d", "by how much x moves");
    t.anchors = c.optional_matrix("d_anchors", "C d", "by how much the anchors move");
    c("d_log_scale", t.log_scale, "by how much log_scale moves");
    const auto out = c.map("d_out", "n C", "by how much r moves");
    c.run([&](const auto& ctx, const auto& k) { craft::relative_pushforward(ctx, x, anchors, k, o, t, out); }, similarity);
  }
};

}  // namespace verbs

}  // namespace craft
