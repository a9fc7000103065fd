// Relative representations: every row described by its similarities to a set of anchors.
//
//     r_ic = min(exp(log_scale), max_scale) k(x_i, a_c)
//
// At max_scale and above it log_scale has its gradient if a step against it leads back inside, else 0: see alignment.hpp.
//
// Sources: L. Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023; with anchors
// of the other modality: J. Sun et al., "Craft", arXiv 2407.15894.
#pragma once

#include <array>
#include <cmath>
#include <limits>

#include "craft/engine/cpu_engine.hpp"
#include "craft/kernels.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/columns.hpp"
#include "craft/steps/scaled_rows.hpp"
#include "craft/steps/similarities.hpp"

namespace craft {

/// Statistics fitted on the anchors and applied to rows and anchors first: none; minus the anchors' mean; and that divided by
/// the anchors' standard deviation per column (C - 1 in the denominator; a constant column is not divided).
enum class anchor_statistics { none, centre, standardise };
constexpr auto names_of(anchor_statistics) { return std::array{"none", "centre", "standardise"}; }  ///< in their order

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

namespace engine {

/// Rows and anchors made ready for similarities (statistics, then normalisation), and the way back of their gradients.
template <class Engine, class T>
class prepared_rows {
 public:
  rows<T> x, y;  ///< y: the anchors, on which the statistics are fitted

  template <class S, memory M>
  prepared_rows(Engine& e, const matrix_view<const S, M>& xv, const matrix_view<const S, M>& yv, bool normalise,
                anchor_statistics statistics, bool distances)
      : e_(e), normalise_(normalise), statistics_(statistics) {
    x = engine::take_rows<T>(e, xv.rows(), xv.cols());
    y = engine::take_rows<T>(e, yv.rows(), yv.cols());
    load(e, xv, x.data);
    load(e, yv, y.data);
    // A common shift changes no distance, but it keeps the digits of float.
    if (statistics != anchor_statistics::none || (distances && !normalise)) {
      double* mean = e.template take<double>(y.d);
      centre(e, y.data, y.n, y.d, mean);
      subtract(e, x.data, x.n, x.d, mean);
      if (statistics == anchor_statistics::standardise) {
        inverse_deviation_ = e.template take<double>(y.d);
        inverse_deviation(e, y.data, y.n, y.d, inverse_deviation_);
        multiply_columns(e, x.data, x.n, x.d, inverse_deviation_);
        multiply_columns(e, y.data, y.n, y.d, inverse_deviation_);
      }
    }
    if (normalise) {
      x_inverse_norm_ = e.template take<T>(x.n);
      y_inverse_norm_ = e.template take<T>(y.n);
      if (distances) {  // unit rows share a mean too, all the more if the rows do
        unit_mean_ = e.template zeros<double>(y.d);
        double* rest = e.template take<double>(y.d);
        T* unit = e.template take<T>(y.n * y.d);
        for (int pass = 0; pass < 2; ++pass) {  // the mean of the rows as rounded, and what that has left of it
          copy(e, y.data, y.n * y.d, unit);
          engine::normalise(e, unit, y.n, y.d, y_inverse_norm_, unit_mean_);
          column_means(e, unit, y.n, y.d, rest);
          add(e, unit_mean_, 1, y.d, rest);
        }
      }
      engine::normalise(e, x.data, x.n, x.d, x_inverse_norm_, unit_mean_);
      engine::normalise(e, y.data, y.n, y.d, y_inverse_norm_, unit_mean_);
    }
  }

  /// What pair functions of type K look at. Throws data_error for rows whose squares T cannot hold, where it matters.
  template <class K>
  void square_norms(const checks& check) {
    e_.square_norms(x);
    e_.square_norms(y);
    if (is_linear<K>::value || normalise_) return;
    check.squarable<T>("x and anchors", beyond_squares(e_, x, y, small_squares_of<K>()), x.d);
  }

  /// gx, gy: gradients by the prepared rows become gradients by the caller's rows; null: that one is not wanted.
  /// `through_statistics` needs both. Uses up the prepared rows.
  void pull_back(T* gx, T* gy, bool through_statistics) {
    if (unit_mean_) {
      add(e_, x.data, x.n, x.d, unit_mean_);
      add(e_, y.data, y.n, y.d, unit_mean_);
    }
    if (normalise_) {
      if (gx) normalise_pullback(e_, gx, x.data, x.n, x.d, x_inverse_norm_);
      if (gy) normalise_pullback(e_, gy, y.data, y.n, y.d, y_inverse_norm_);
    }
    if (statistics_ == anchor_statistics::none) return;
    if (inverse_deviation_) {
      if (through_statistics) {
        if (normalise_) {  // back to the standardised rows
          unnormalise(e_, x.data, x.n, x.d, x_inverse_norm_);
          unnormalise(e_, y.data, y.n, y.d, y_inverse_norm_);
        }
        deviation_pullback(e_, x.data, gx, x.n, y.data, gy, y.n, y.d);
      }
      if (gx) multiply_columns(e_, gx, x.n, x.d, inverse_deviation_);
      if (gy) multiply_columns(e_, gy, y.n, y.d, inverse_deviation_);
    }
    if (through_statistics) mean_pullback(e_, gx, x.n, gy, y.n, y.d);
  }

 private:
  Engine& e_;
  bool normalise_;
  anchor_statistics statistics_;
  T *x_inverse_norm_ = nullptr, *y_inverse_norm_ = nullptr;
  double* inverse_deviation_ = nullptr;
  double* unit_mean_ = nullptr;  ///< what was subtracted from the unit rows
};

/// What map and pull-back check alike.
template <class Context, class X, class A, class K, class Engine>
void check_relative(checks& check, const X& x, const A& anchors, const K& similarity, const relative_options& options,
                    Engine& e) {
  static_assert(is_pair_function<K>::value, "craft: relative wants a pair function (see craft/kernels.hpp)");
  check.input("x", x, e);
  check.input("anchors", anchors, e);
  check.same_columns("x", x, "anchors", anchors);
  require<shape_error>(options.statistics != anchor_statistics::standardise || anchors.rows() >= 2, check.verb(),
                       ": standardising needs at least 2 anchors, got ", anchors.rows());
  check_kernel<compute_of<X>>(similarity);
  check.readable("log_scale", options.log_scale, Context::space);
  check_max_scale(check, options.max_scale);
}

}  // namespace engine

/// out = exp(log_scale) k(x_i, a_c), n x C: the relative representation of x (n x d) with respect to the anchors (C x d).
///
/// similarity: any pair function; with options.normalise, dot_product<>() is the cosine (what Craft uses) and
/// negative_distance<>() the negative distance of unit vectors. Cost: n C d multiply-adds. Throws shape_error, option_error,
/// data_error, alias_error, and has written nothing then.
template <class Context, class X, class A, class Kernel, class Out>
void relative(const Context& ctx, const X& x, const A& anchors, const Kernel& similarity,
              const relative_options& options, Out&& out) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, A>();
  const matrix_view<const S, Context::space> xv = view(x), av = view(anchors);
  const auto to = view(out);
  typename Context::engine e(ctx);
  engine::checks check("relative");
  engine::check_relative<Context>(check, xv, av, similarity, options, e);
  check.destination("out", to, xv.rows(), av.rows());
  check.no_overlap();

  const auto scale = engine::clamp_scale<T>(e, check, options.log_scale, options.max_scale).value;
  engine::prepared_rows<typename Context::engine, T> r(e, xv, av, options.normalise, options.statistics,
                                                       Kernel::translation_invariant);
  r.template square_norms<Kernel>(check);
  engine::map(e, r.x, r.y, similarity.template as<T>(), scale, to);
}

/// Pulls dout (n x C), the gradient of a loss by the relative representation, back to x, anchors and log_scale.
///
/// Same arguments as relative. Cost: up to 3 n C d multiply-adds, 2 n C d of dot_product; sides that are not wanted are not
/// computed. Throws as relative.
template <class Context, class X, class A, class Kernel, class U,
          class Gradients = relative_gradients<storage_of<X>, Context::space>>
void relative_pullback(const Context& ctx, const X& x, const A& anchors, const Kernel& similarity,
                       const relative_options& options, const U& dout, const Gradients& gradients) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, A>();
  const matrix_view<const S, Context::space> xv = view(x), av = view(anchors);
  const matrix_view<const storage_of<U>, Context::space> uv = view(dout);
  const index_t n = xv.rows(), c = av.rows(), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("relative_pullback");
  engine::check_relative<Context>(check, xv, av, similarity, options, e);
  check.input("dout", uv, e);
  check.shape("dout", uv, n, c);
  check.gradient("gradient of x", gradients.x, n, d);
  check.gradient("gradient of anchors", gradients.anchors, c, d);
  check.vector_gradient("gradient of log_scale", gradients.log_scale, 1);
  check.no_overlap();

  const auto scale = engine::clamp_scale<T>(e, check, options.log_scale, options.max_scale);
  engine::prepared_rows<typename Context::engine, T> r(e, xv, av, options.normalise, options.statistics,
                                                       Kernel::translation_invariant);
  r.template square_norms<Kernel>(check);
  const bool through = options.statistics_gradient && options.statistics != anchor_statistics::none &&
                       gradients.anchors.wanted();
  // The scale's own is sum_ij dout_ij r_ij; of a linear similarity also the scalar product of x with its gradient.
  constexpr bool linear = engine::is_linear<Kernel>::value;
  const bool by_x = gradients.x.wanted() || through || (linear && gradients.log_scale.wanted());
  const engine::pull<T> gx = engine::take_pull<T>(e, n, d, by_x);
  const engine::pull<T> ga = engine::take_pull<T>(e, c, d, gradients.anchors.wanted());
  double* by_scale = e.template zeros<double>(2);
  engine::map_pullback(e, r.x, r.y, similarity.template as<T>(), scale.value, uv, by_scale, gx, ga);
  if (linear && gradients.log_scale.wanted()) dot(e, r.x.data, gx.gradient, n, d, by_scale);
  r.pull_back(gx.gradient, ga.gradient, through);
  store(e, gx.gradient, gradients.x, 1.0);
  store(e, ga.gradient, gradients.anchors, 1.0);
  if (!gradients.log_scale.wanted()) return;
  e.each(1, engine::clamped_scale_pullback_step{by_scale, 1, 1.0, scale.held});  // dout has its upstream
  store_vector(e, by_scale, gradients.log_scale, 1.0);
}

namespace verbs {

/// relative, to hosts (describe.hpp).
struct relative {
  static constexpr const char* name = "relative";                  ///< what hosts call it
  static constexpr const char* module = "RelativeRepresentation";  ///< as a module of PyTorch
  static constexpr const char* pullback = "relative_pullback";     ///< what its gradients come from
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

}  // namespace verbs

}  // namespace craft
