// Rows for logits: divided by their norms, times a learnable scale that is clamped; and the way back of their gradients.
#pragma once

#include <cmath>

#include "craft/steps/checks.hpp"
#include "craft/steps/rows.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

/// s = exp(log_scale), clamped: out = {s, whether the clamp holds it}.
struct clamped_scale_step {
  number log_scale;
  double max_scale;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    const double s = std::exp(double(log_scale));
    out[0] = s < max_scale ? s : max_scale;
    out[1] = s < max_scale ? 0 : 1;
    if (s != s) out[0] = s;  // a scale that is not a number must not pass for the largest one
  }
};

/// parts (2 of them at least) become {g, the same for -upstream}, where g is the gradient by log_scale that the caller gets:
/// upstream times the sum of the first `count`, as if nothing were clamped; but 0 where the clamp holds and a step against g
/// would lead further out. So the scale stays at its bound until it is to shrink, as if log_scale itself were clamped.
struct clamped_scale_pullback_step {
  double* parts;
  index_t count;
  number upstream, held;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    double g = parts[0];
    for (index_t q = 1; q < count; ++q) g += parts[q];
    g *= double(upstream);
    const bool clamped = double(held) != 0;
    parts[0] = clamped && g < 0 ? 0 : g;  // what is not a number stays that
    parts[1] = clamped && g > 0 ? 0 : -g;
  }
};

/// exp(log_scale), clamped; `held` is 0 where the clamp does nothing.
struct clamped_scale {
  number value, held;
};
inline void check_max_scale(const checks& check, double max_scale) {
  require<option_error>(max_scale > 0, check.verb(), ": max_scale must be positive, got ", max_scale);
}
/// Throws option_error where T cannot hold the scale or its inverse, if the host knows the number.
template <class T, class Engine>
clamped_scale clamp_scale(Engine& e, const checks& check, const scalar& log_scale,
                                                   double max_scale) {
  if (engine::known(log_scale)) {
    double out[2];
    clamped_scale_step{log_scale.value(), max_scale, out}(0);
    require<option_error>(T(out[0]) > T(0) && std::isfinite(T(out[0])) && std::isfinite(T(1) / T(out[0])), check.verb(),
                          ": log_scale ", log_scale.value(), " gives a scale of ", out[0], ", which is out of range");
    return {number(out[0]), number(out[1])};
  }
  double* out = e.template take<double>(2);
  e.each(1, clamped_scale_step{engine::read(log_scale), max_scale, out});
  return {engine::number_at(out), engine::number_at(out + 1)};
}

/// One matrix for logits: its rows, divided by their norm if `normalise`, then times `scale` if there is one; the gradients of
/// all that looks at them, and the way back of those. What sees them does so by dot products: they have no squared norms.
template <class Engine, class T>
class scaled_rows {
 public:
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
    if (g.gradient) dot(e_, r.data, g.gradient, r.n, r.d, out);
  }
  /// The gradient by the caller's rows, times `factor`, on its way out. Uses up g.
  template <class Output>
  void store(const Output& out, const number& factor) {
    if (!out.wanted()) return;
    if (!g.gradient)
      return engine::store(e_, e_.template zeros<T>(out.to.rows() * out.to.cols()), out, factor);  // nothing looked
    if (inverse_norm_) return store_normalised(e_, g.gradient, r.data, inverse_norm_, scale_, out, factor);
    if (scaled_) multiply(e_, g.gradient, r.n, r.d, scale_);
    engine::store(e_, g.gradient, out, factor);
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
      load_normalised(e, x, r.data, inverse_norm_, scale);
    } else {
      load(e, x, r.data);
      if (scaled) multiply(e, r.data, r.n, r.d, scale);
    }
    if (pulled) g = engine::take_pull<T>(e, r.n, r.d, wanted);
  }

  Engine& e_;
  bool scaled_;
  number scale_;
  T* inverse_norm_ = nullptr;
};

}  // namespace craft::engine
