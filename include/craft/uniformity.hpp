// The uniformity loss: how evenly the unit rows of a sample are spread over the sphere.
//
//     L = log mean_(i != j) exp(-t |u_i - u_j|^2),  u_i = x_i / |x_i|
//
// 0 where all rows point one way, and less the further they are apart. Added to an alignment loss it keeps features from collapsing.
//
// Source: T. Wang and P. Isola, "Understanding contrastive representation learning through alignment and uniformity on the
// hypersphere", ICML 2020.
#pragma once

#include <cmath>

#include "craft/engine/cpu_engine.hpp"
#include "craft/steps/prepared_rows.hpp"
#include "craft/steps/quadratic_form.hpp"

namespace craft {

/// How uniformity is computed.
struct uniformity_options {
  double t = 2;           ///< > 0: how fast a pair counts less with its distance; at most 20 in float, 175 in double
  scalar upstream = 1.0;  ///< multiplies the gradient, not the value

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("t", t, "> 0: how fast a pair counts less with its distance; at most 20, of float64 175");
    c.upstream(upstream);
  }
};

/// Gradient of the loss by x (n x d). Not wanted unless set.
template <class S, memory M = memory::host>
struct uniformity_gradients {
  output<S, M> x{};  ///< of the input's shape
};

namespace engine {

/// out = {log mean, upstream / mean}
struct log_mean_step {
  const double* mean;
  number upstream;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    out[0] = std::log(*mean);
    out[1] = double(upstream) / *mean;
  }
};

}  // namespace engine

/// The loss of x (n x d), with the gradient if that is asked for. A zero row stays zero, at distance 1 from all others.
///
/// Cost: as mmd of n rows, n^2 d operations for the value and three times that with the gradient; memory O(n d). Throws shape_error
/// (fewer than 2 rows, gradient's shape), option_error (t), data_error (if ctx.check_finite), alias_error. Nothing is written then.
template <class Context, class X, class Gradients = uniformity_gradients<storage_of<X>, Context::space>>
void uniformity(const Context& ctx, const X& x, const uniformity_options& options, value_out<X, Context> value,
                const Gradients& gradients = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const index_t n = xv.rows(), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("uniformity");
  check.input("x", xv, e);
  require<shape_error>(n >= 2, "uniformity: needs at least 2 rows, got ", detail::shape(n, d));
  // So that exp(-4 t), of rows that point away from each other, is no denormal number.
  constexpr double most = sizeof(T) == 8 ? 175 : 20;
  require<option_error>(options.t > 0 && options.t <= most, "uniformity: t must lie in (0, ", most, "] to be computed in ",
                        sizeof(T) == 8 ? "double" : "float", ", got ", options.t);
  check.readable("upstream", options.upstream, Context::space);
  check.gradient("gradient of x", gradients.x, n, d);
  check.value(value);
  check.no_overlap();

  // The Gaussian form of one sample without its diagonal; its logarithm; and back.
  const matrix_view<const S, Context::space> no_others(xv.data(), 0, d, xv.stride());
  engine::prepared_rows<typename Context::engine, T> r(e, no_others, xv, true, anchor_statistics::none, true);
  e.square_norms(r.y);
  engine::form_weights<T> weights;
  weights.per_row = e.template take<T>(n);
  fill(e, weights.per_row, n, T(1));
  weights.within_x = 1 / (double(n) * double(n - 1));
  double *mean = e.template zeros<double>(1), *logarithm = e.template take<double>(2);
  const engine::pull<T> g = gradients.x.wanted() ? engine::take_pull<T>(e, n, d) : engine::pull<T>{};
  const gaussian<T> kernel(T(std::sqrt(0.5 / options.t)));
  const engine::square_sweep<T> sweep{r.y, n, false, 0, mean, g};
  if (g.wanted())
    e.square(sweep, engine::quadratic_form<T, gaussian<T>, true>{kernel, weights, n});
  else
    e.square(sweep, engine::quadratic_form<T, gaussian<T>, false>{kernel, weights, n});
  e.each(1, engine::log_mean_step{mean, engine::read(options.upstream), logarithm});
  if (gradients.x.wanted()) {
    r.pull_back(nullptr, g.gradient, false);
    store(e, g.gradient, gradients.x, engine::number_at(logarithm + 1));
  }
  write_value(e, value, logarithm);
}

namespace verbs {

/// uniformity, to hosts (describe.hpp).
struct uniformity {
  static constexpr const char* name = "uniformity";       ///< what hosts call it
  static constexpr const char* module = "UniformityLoss";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "Uniformity loss: how evenly the unit rows of a sample are spread over the sphere.\n"
      "\n"
      "    L = log mean_(i != j) exp(-t |u_i - u_j|^2),  u_i = x_i / |x_i|\n"
      "\n"
      "Cost: n^2 d operations, three times that with the gradient; memory O(n d). T. Wang and P. Isola, ICML 2020.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features, one sample per row");
    uniformity_options o;
    o.fields(c);
    uniformity_gradients<typename Call::T, Call::space> g;
    c.gradient("x", g.x);
    const auto value = c.value("the loss");
    c.run([&](const auto& ctx) { craft::uniformity(ctx, x, o, value, g); });
  }
};

}  // namespace verbs

}  // namespace craft
