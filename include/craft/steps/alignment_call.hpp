// What the alignment losses share: their checks, prepared rows with the scale inside x, and the gradients' way out.
#pragma once

#include "craft/alignment_gradients.hpp"
#include "craft/steps/scaled_rows.hpp"
#include "craft/steps/similarities.hpp"
#include "craft/steps/targets.hpp"

namespace craft::engine {

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
  softmax_loss(e, by_row, loss);
  if (both) softmax_loss(e, by_col, loss);
  return dots;
}

/// What the three losses share: checks, prepared rows with the scale inside x, and the gradients' way out.
template <class Context, class S>
class alignment_call {
 public:
  using T = compute_t<S>;
  using input = matrix_view<const S, Context::space>;
  using softmax = engine::softmax<T>;
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
      e.each(1, clamped_scale_pullback_step{by_scale, 1, upstream, scale_.held});
      store_vector(e, by_scale, g.log_scale, 1.0);
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
    if (g.weights.wanted()) store_weights(by_row, by_col, both, divided, engine::read(o.upstream), g.weights);
    if constexpr (Soft)
      if (g.targets.wanted()) store_targets(r, by_row, engine::read(o.upstream), g.targets);
    if (pulled) {
      rectangle_sweep<T> sweep{r.x.r, r.y.r};
      sweep.gx = r.x.g, sweep.gy = r.y.g, sweep.kept = dots;
      pull_back_softmax<Soft>(e, sweep, by_row, by_col, both);
      if (g.bias.wanted()) store_vector(e, e.template zeros<double>(1), g.bias, number(0));  // it moves no softmax
      store(r, engine::read(o.upstream), g);
    }
    write_value(e, value, loss);
  }

 private:
  template <class Output>
  void store_weights(const softmax& by_row, const softmax& by_col, bool both, bool divided, const number& upstream,
                     const Output& out) {
    double *by_weight = e.template zeros<double>(by_row.n), *loss = e.template zeros<double>(2);
    const auto add = [&](const softmax& s, double* of) {
      softmax_loss(e, s, of);
      e.each(s.n, row_weight_pullback_step<T>{s, of, both ? 0.5 : 1.0, divided, by_weight});
    };
    add(by_row, loss);
    if (both) add(by_col, loss + 1);
    store_vector(e, by_weight, out, upstream);
  }
  template <class Output>
  void store_targets(const sides& r, const softmax& s, const number& upstream, const Output& out) {
    const index_t m = r.y.r.n;
    T* z = e.template take<T>(s.n * m);
    engine::map(e, r.x.r, r.y.r, dot_product<T>(), number(1), matrix_view<T, Context::space>(z, s.n, m));
    e.each_row(s.n, m, target_pullback_step<T>{s, m, z});
    engine::store(e, z, out, upstream);
  }

  input x_, y_;
  const char* y_name_;
  clamped_scale scale_{number(1), number(0)};
};

}  // namespace craft::engine
