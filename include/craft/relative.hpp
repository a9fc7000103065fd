// Relative representations: every row described by its similarities to a set of anchors.
//
//     r_ic = min(exp(log_scale), max_scale) k(x_i, a_c)
//
// At max_scale and above it log_scale has its gradient if a step against it leads back inside, else 0: see alignment.hpp.
//
// Sources: L. Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023; with anchors of
// the other modality: J. Sun et al., "Craft", arXiv 2407.15894.
#pragma once

#include <cmath>
#include <limits>

#include "craft/engine/checks.hpp"
#include "craft/engine/cpu_engine.hpp"
#include "craft/kernels.hpp"

namespace craft {

/// Statistics fitted on the anchors and applied to rows and anchors first: none; minus the anchors' mean; and that divided by
/// the anchors' standard deviation per column (C - 1 in the denominator; a constant column is not divided).
enum class anchor_statistics { none, centre, standardise };

/// How relative and relative_pullback are computed.
struct relative_options {
  bool normalise = true;  ///< divide rows and anchors by their Euclidean norm, after the statistics; a zero row stays zero
  anchor_statistics statistics = anchor_statistics::none;  ///< fitted on the anchors
  bool statistics_gradient = true;  ///< whether the anchors' gradient runs through the statistics too
  scalar log_scale = 0.0;           ///< r is multiplied by exp(log_scale) ...
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most by this, with a gradient that only leads back
};

/// Gradients of a loss of r: to x (n x d), the anchors (C x d) and log_scale. Not wanted unless set.
template <class S, memory M = memory::host>
struct relative_gradients {
  output<S, M> x{}, anchors{};          ///< n x d and C x d
  output<compute_t<S>, M> log_scale{};  ///< one number
};

namespace engine {

/// exp(log_scale), clamped; `held` is 0 where the clamp does nothing.
template <class Number>
struct clamped_scale {
  Number value, held;
};
inline void check_max_scale(const checks& check, double max_scale) {
  require<option_error>(max_scale > 0, check.verb(), ": max_scale must be positive, got ", max_scale);
}
/// Throws option_error where T cannot hold the scale or its inverse, if the host knows the number.
template <class T, class Engine>
clamped_scale<typename Engine::number> clamp_scale(Engine& e, const checks& check, const scalar& log_scale,
                                                   double max_scale) {
  using number = typename Engine::number;
  if (e.known(log_scale)) {
    double out[2];
    clamped_scale_step<double>{log_scale.value(), max_scale, out}(0);
    require<option_error>(T(out[0]) > T(0) && std::isfinite(T(out[0])) && std::isfinite(T(1) / T(out[0])), check.verb(),
                          ": log_scale ", log_scale.value(), " gives a scale of ", out[0], ", which is out of range");
    return {number(out[0]), number(out[1])};
  }
  double* out = e.template take<double>(2);
  e.each(1, clamped_scale_step<number>{e.read(log_scale), max_scale, out});
  return {e.number_at(out), e.number_at(out + 1)};
}

/// One matrix for logits: its rows, divided by their norm if `normalise`, then times `scale` if there is one; the gradients of
/// all that looks at them, and the way back of those. What sees them does so by dot products: they have no squared norms.
template <class Engine, class T>
class scaled_rows {
 public:
  using number = typename Engine::number;
  rows<T> r;    ///< none, if the matrix is empty
  pull<T> g{};  ///< where gradients by r are added, if `pulled`; without a place for r's own, unless that is `wanted`

  template <class S, memory M>
  scaled_rows(Engine& e, const matrix_view<const S, M>& x, bool normalise, bool pulled, bool wanted)
      : scaled_rows(e, x, normalise, pulled, wanted, false, number(1)) {}
  template <class S, memory M>
  scaled_rows(Engine& e, const matrix_view<const S, M>& x, bool normalise, bool pulled, bool wanted, const number& scale)
      : scaled_rows(e, x, normalise, pulled, wanted, true, scale) {}

  /// out = the gradient by log(scale): the scalar product of the rows with theirs.
  void by_log_scale(double* out) {
    if (g.gradient) e_.dot(r.data, g.gradient, r.n, r.d, out);
  }
  /// The gradient by the caller's rows, times `factor`, on its way out. Uses up g.
  template <class Output>
  void store(const Output& out, const number& factor) {
    if (!out.wanted()) return;
    if (!g.gradient) return e_.store(e_.template zeros<T>(out.to.rows() * out.to.cols()), out, factor);  // nothing looked
    if (inverse_norm_) return e_.store_normalised(g.gradient, r.data, inverse_norm_, scale_, out, factor);
    if (scaled_) e_.scale(g.gradient, r.n, r.d, scale_);
    e_.store(g.gradient, out, factor);
  }

 private:
  template <class S, memory M>
  scaled_rows(Engine& e, const matrix_view<const S, M>& x, bool normalise, bool pulled, bool wanted, bool scaled,
              const number& scale)
      : e_(e), scaled_(scaled), scale_(scale) {
    if (x.empty()) return;
    r.n = x.rows(), r.d = x.cols();
    r.data = e.template take<T>(r.n * r.d);
    if (normalise) {
      r.squared = inverse_norm_ = e.template take<T>(r.n);  // numbers that a sweep may read, and does not use
      e.load_normalised(x, r.data, inverse_norm_, scale);
    } else {
      e.load(x, r.data);
      if (scaled) e.scale(r.data, r.n, r.d, scale);
    }
    if (pulled) g = e.template take_pull<T>(r.n, r.d, wanted);
  }

  Engine& e_;
  bool scaled_;
  number scale_;
  T* inverse_norm_ = nullptr;
};

/// Rows and anchors made ready for similarities (statistics, then normalisation), and the way back of their gradients.
template <class Engine, class T>
class prepared_rows {
 public:
  rows<T> x, y;  ///< y: the anchors, on which the statistics are fitted

  template <class S, memory M>
  prepared_rows(Engine& e, const matrix_view<const S, M>& xv, const matrix_view<const S, M>& yv, bool normalise,
                anchor_statistics statistics, bool distances)
      : e_(e), normalise_(normalise), statistics_(statistics) {
    x = e.template take_rows<T>(xv.rows(), xv.cols());
    y = e.template take_rows<T>(yv.rows(), yv.cols());
    e.load(xv, x.data);
    e.load(yv, y.data);
    // A common shift changes no distance, but it keeps the digits of float.
    if (statistics != anchor_statistics::none || (distances && !normalise)) {
      double* mean = e.template take<double>(y.d);
      e.centre(y.data, y.n, y.d, mean);
      e.subtract(x.data, x.n, x.d, mean);
      if (statistics == anchor_statistics::standardise) {
        inverse_deviation_ = e.template take<double>(y.d);
        e.inverse_deviation(y.data, y.n, y.d, inverse_deviation_);
        e.scale_each_column(x.data, x.n, x.d, inverse_deviation_);
        e.scale_each_column(y.data, y.n, y.d, inverse_deviation_);
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
          e.copy(y.data, y.n * y.d, unit);
          e.normalise(unit, y.n, y.d, y_inverse_norm_, unit_mean_);
          e.column_means(unit, y.n, y.d, rest);
          e.each(y.d, add_step{unit_mean_, rest});
        }
      }
      e.normalise(x.data, x.n, x.d, x_inverse_norm_, unit_mean_);
      e.normalise(y.data, y.n, y.d, y_inverse_norm_, unit_mean_);
    }
  }

  /// What pair functions of type K look at. Throws data_error for rows whose squares T cannot hold, where it matters.
  template <class K>
  void square_norms(const checks& check) {
    e_.square_norms(x);
    e_.square_norms(y);
    if (is_linear<K>::value || normalise_) return;
    check.squarable<T>("x and anchors", e_.beyond_squares(x, y, small_squares_of<K>()), x.d);
  }

  /// gx, gy: gradients by the prepared rows become gradients by the caller's rows; null: that one is not wanted.
  /// `through_statistics` needs both. Uses up the prepared rows.
  void pull_back(T* gx, T* gy, bool through_statistics) {
    if (unit_mean_) {
      e_.each(x.n * x.d, add_mean_step<T>{x.data, unit_mean_, x.d});
      e_.each(y.n * y.d, add_mean_step<T>{y.data, unit_mean_, y.d});
    }
    if (normalise_) {
      if (gx) e_.normalise_pullback(gx, x.data, x.n, x.d, x_inverse_norm_);
      if (gy) e_.normalise_pullback(gy, y.data, y.n, y.d, y_inverse_norm_);
    }
    if (statistics_ == anchor_statistics::none) return;
    if (inverse_deviation_) {
      if (through_statistics) {
        if (normalise_) {  // back to the standardised rows
          e_.unnormalise(x.data, x.n, x.d, x_inverse_norm_);
          e_.unnormalise(y.data, y.n, y.d, y_inverse_norm_);
        }
        e_.deviation_pullback(x.data, gx, x.n, y.data, gy, y.n, y.d);
      }
      if (gx) e_.scale_each_column(gx, x.n, x.d, inverse_deviation_);
      if (gy) e_.scale_each_column(gy, y.n, y.d, inverse_deviation_);
    }
    if (through_statistics) e_.mean_pullback(gx, x.n, gy, y.n, y.d);
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
  e.map(r.x, r.y, similarity.template as<T>(), scale, to);
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
  const engine::pull<T> gx = e.template take_pull<T>(n, d, by_x);
  const engine::pull<T> ga = e.template take_pull<T>(c, d, gradients.anchors.wanted());
  double* by_scale = e.template zeros<double>(2);
  e.map_pullback(r.x, r.y, similarity.template as<T>(), scale.value, uv, by_scale, gx, ga);
  if (linear && gradients.log_scale.wanted()) e.dot(r.x.data, gx.gradient, n, d, by_scale);
  r.pull_back(gx.gradient, ga.gradient, through);
  e.store(gx.gradient, gradients.x, 1.0);
  e.store(ga.gradient, gradients.anchors, 1.0);
  if (!gradients.log_scale.wanted()) return;
  using number = typename Context::engine::number;
  e.each(1, engine::clamped_scale_pullback_step<number>{by_scale, 1, 1.0, scale.held});  // dout has its upstream
  e.store_vector(by_scale, gradients.log_scale, 1.0);
}

}  // namespace craft
