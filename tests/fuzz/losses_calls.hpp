// The library's side of losses_fuzz: a case becomes a call. Instantiated per scalar type by the sources that include it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <Eigen/Core>

#include "craft/alignment.hpp"
#include "craft/mmd.hpp"
#include "craft/objective.hpp"
#include "craft/two_sample.hpp"
#include "losses_case.hpp"

namespace fuzz {

/// A matrix in memory as a caller has it: rows `padding` elements apart, with marks between that nobody may write.
template <class S>
class memory {
 public:
  memory(int rows, int cols, int padding)
      : rows_(rows), cols_(cols), stride_(std::max(cols + padding, 1)), v_(std::size_t(rows * stride_) + 2, S(-77.0f)) {}
  memory(const table& t, int padding) : memory(t.rows, t.cols, padding) {
    for (int i = 0; i < rows_; ++i)
      for (int k = 0; k < cols_; ++k) at(i, k) = S(t.at(i, k));
  }
  S& at(int i, int k) { return v_[std::size_t(i * stride_ + k) + 1]; }
  craft::matrix_view<const S> input() const { return {v_.data() + 1, rows_, cols_, stride_}; }
  craft::matrix_view<S> place() { return {v_.data() + 1, rows_, cols_, stride_}; }
  bool marks_stand() const {
    bool all = true;
    for (std::size_t i = 0; i < v_.size(); ++i) {
      const int at = int(i) - 1, row = at / stride_;
      if (at < 0 || row >= rows_ || at % stride_ >= cols_) all = all && v_[i] == S(-77.0f);
    }
    return all;
  }

 private:
  int rows_, cols_, stride_;
  std::vector<S> v_;
};

/// A gradient that may be wanted.
template <class S>
class gradient {
 public:
  gradient(const test_case& c, const exact_answer& exact, const char* kind, want w, int rows, int cols)
      : kind_(kind), want_(w), rows_(rows), cols_(cols), m_(rows, cols, c.padding) {
    const exact_output* e = exact.find(kind);
    if (!e) want_ = want::none;
    for (int i = 0; i < rows * cols && want_ == want::accumulate; ++i)
      m_.at(i / cols, i % cols) = S(before(c.type, e->value[std::size_t(i)]));
  }
  craft::output<S> output() {
    if (want_ == want::none) return {};
    return {m_.place(), want_ == want::overwrite ? craft::write::overwrite : craft::write::accumulate};
  }
  void keep(library_answer& a) {
    if (!m_.marks_stand()) a.fault += std::string(kind_) + ": wrote beside its place; ";
    if (want_ == want::none) return;
    library_output o{kind_, {}};
    for (int i = 0; i < rows_ * cols_; ++i) o.value.push_back(double(m_.at(i / cols_, i % cols_)));
    a.outputs.push_back(o);
  }

 private:
  const char* kind_;
  want want_;
  int rows_, cols_;
  memory<S> m_;
};

/// Calls f with the kernel of the case; `Few`: leaves out those that are never drawn for two-byte types.
template <bool Few, class F>
void with_kernel(const test_case& c, const F& f) {
  switch (c.kernel) {
    case kernel_type::any: {
      std::vector<craft::any_kernel<>::member> members;
      for (const member& m : c.members)
        members.push_back({craft::kernel_family(int(m.family)), m.weight, m.bandwidth, m.shape});
      return f(craft::any_kernel<>(members));
    }
    case kernel_type::gaussians: {
      std::vector<double> sigmas, betas;
      for (const member& m : c.members) sigmas.push_back(m.bandwidth), betas.push_back(m.weight);
      return f(craft::gaussians<>(sigmas, betas));
    }
    case kernel_type::energy:
      return f(craft::energy<>(c.members[0].shape));
    case kernel_type::dot:
      return f(craft::dot_product<>());
    case kernel_type::nested:
      if constexpr (!Few) {
        const auto& m = c.members;
        return f(m[0].weight * craft::rational_quadratic<>(m[0].bandwidth, m[0].shape) +
                 m[1].weight *
                     (craft::gaussian<>(m[1].bandwidth) + craft::inverse_multiquadric<>(m[2].bandwidth, m[2].shape)));
      }
      return;
    case kernel_type::cosine:
      if constexpr (!Few) f(craft::cosine<>());
  }
}

template <class S>
void call_objective(const craft::cpu& ctx, const test_case& c, const exact_answer& exact, library_answer& answer) {
  using T = craft::compute_t<S>;
  const memory<S> x(c.x, c.padding), y(c.y, c.padding), u(c.batch_texts, c.padding), a(c.image_anchors, c.padding),
      g(c.target_images, c.padding);
  const auto place = [&](const char* kind, want w, const table& t) { return gradient<S>(c, exact, kind, w, t.rows, t.cols); };
  gradient<S> gx = place("x", c.want_x, c.x), gy = place("y", c.want_y, c.y),
              gu = place("batch_texts", c.want_second, c.batch_texts),
              ga = place("image_anchors", c.want_x_weights, c.image_anchors),
              gg = place("target_images", c.want_y_weights, c.target_images);
  gradient<T> scale(c, exact, "log_scale", c.want_first, 1, 1);
  craft::objective_inputs<S> in;
  in.images = x.input(), in.class_texts = y.input(), in.targets = craft::labels(c.x_labels);
  if (c.batch_texts.rows > 0) in.batch_texts = u.input();
  if (c.image_anchors.rows > 0) in.image_anchors = a.input();
  if (c.target_images.rows > 0) in.target_images = g.input();
  craft::objective_options o;
  o.text = c.text, o.image = c.image, o.batch = c.batch, o.mmd = c.mmd, o.log_scale = c.log_scale;
  o.max_scale = c.max_scale > 0 ? c.max_scale : std::numeric_limits<double>::infinity();
  o.label_smoothing = c.smoothing, o.same_class_positives = c.same_class, o.upstream = c.upstream;
  o.direction = c.symmetric ? craft::direction::symmetric : craft::direction::one_way;
  o.discrepancy.estimator = craft::estimator(c.estimator), o.discrepancy.factor = c.factor, o.discrepancy.offset = c.offset;
  o.discrepancy.bandwidth = {craft::bandwidth_rule(c.rule), craft::bandwidth_sample(c.sample), c.rule_gradient};
  std::vector<craft::any_kernel<>::member> members;
  for (const member& m : c.members) members.push_back({craft::kernel_family(int(m.family)), m.weight, m.bandwidth, m.shape});
  craft::objective_gradients<S> to;
  to.images = gx.output(), to.class_texts = gy.output(), to.batch_texts = gu.output(), to.image_anchors = ga.output();
  to.target_images = gg.output(), to.log_scale = scale.output();
  craft::objective_values<T> v;
  craft::objective(ctx, in, craft::any_kernel<>(members), o, v, to);
  answer.outputs = {{"text", {v.text}}, {"image", {v.image}}, {"batch", {v.batch}}, {"mmd", {v.mmd}}, {"total", {v.total}}};
  if (!exact.find("total")) answer.outputs.clear();
  gx.keep(answer), gy.keep(answer), gu.keep(answer), ga.keep(answer), gg.keep(answer), scale.keep(answer);
}

template <class S>
void call_as(const test_case& c, const exact_answer& exact, library_answer& answer) {
  using T = craft::compute_t<S>;
  constexpr bool few = sizeof(S) == 2;
  craft::cpu ctx(c.threads);
  ctx.tile(c.tile);
  if (c.verb == verb::objective) return call_objective<S>(ctx, c, exact, answer);
  const memory<S> x(c.x, c.padding), y(c.y, c.padding);
  const int n = c.x.rows, m = c.y.rows, d = c.x.cols;
  const bool relative = c.verb == verb::relative || c.verb == verb::relative_pullback, mmd = c.verb == verb::mmd;
  int weights = 0, bandwidths = 0;
  if (mmd) with_kernel<few>(c, [&](const auto& k) { weights = k.weights(), bandwidths = k.bandwidths(); });
  gradient<S> gx(c, exact, "x", c.want_x, n, d), gy(c, exact, relative ? "anchors" : "y", c.want_y, m, d);
  gradient<T> first(c, exact, mmd ? "weights" : "log_scale", c.want_first, 1, mmd ? weights : 1);
  gradient<T> second(c, exact, mmd ? "bandwidths" : "bias", c.want_second, 1, mmd ? bandwidths : 1);
  gradient<T> by_x_weight(c, exact, mmd ? "x_weights" : "row_weights", c.want_x_weights, 1, n);
  gradient<T> by_y_weight(c, exact, mmd ? "y_weights" : "targets", c.want_y_weights, mmd ? 1 : n, m);
  memory<S> out(n, m, c.padding);
  T value = T(-77);
  double scale = 0, statistic = 0;
  const double most = c.max_scale > 0 ? c.max_scale : std::numeric_limits<double>::infinity();
  const craft::labels x_labels = c.x_labels.empty() ? craft::labels() : craft::labels(c.x_labels);
  const craft::labels y_labels = c.y_labels.empty() ? craft::labels() : craft::labels(c.y_labels);
  const craft::bandwidth rule{craft::bandwidth_rule(c.rule), craft::bandwidth_sample(c.sample), c.rule_gradient};
  const auto alignment = [&](const auto& verb, auto options) {
    options.log_scale = c.log_scale, options.max_scale = most, options.normalise = c.normalise,
    options.upstream = c.upstream;
    craft::alignment_gradients<S> g;
    g.x = gx.output(), g.y = gy.output(), g.log_scale = first.output(), g.bias = second.output();
    g.weights = by_x_weight.output(), g.targets = by_y_weight.output();
    verb(options, g);
  };
  switch (c.verb) {
    case verb::objective:
      break;
    case verb::bandwidth_scale:
      scale = craft::bandwidth_scale(ctx, x.input(), y.input(), rule);
      break;
    case verb::two_sample_test: {
      craft::two_sample_options o;
      o.bandwidth = rule, o.permutations = 3;
      with_kernel<few>(c, [&](const auto& k) { statistic = craft::two_sample_test(ctx, x.input(), y.input(), k, o).statistic; });
      break;
    }
    case verb::mmd: {
      craft::mmd_options o;
      o.estimator = craft::estimator(c.estimator), o.bandwidth = rule, o.columns = craft::column_scaling(c.columns);
      o.column_gradient = c.column_gradient, o.column_eps = c.column_eps;
      if (!c.x_weights.empty()) o.x_weights = c.x_weights;
      if (!c.y_weights.empty()) o.y_weights = c.y_weights;
      o.upstream = c.upstream, o.factor = c.factor, o.offset = c.offset;
      craft::mmd_gradients<S> g;
      g.x = gx.output(), g.y = gy.output(), g.weights = first.output(), g.bandwidths = second.output();
      g.x_weights = by_x_weight.output(), g.y_weights = by_y_weight.output();
      with_kernel<few>(c, [&](const auto& k) { craft::mmd(ctx, x.input(), y.input(), k, o, value, g); });
      break;
    }
    case verb::relative:
    case verb::relative_pullback: {
      craft::relative_options o;
      o.normalise = c.normalise, o.statistics = craft::anchor_statistics(c.statistics);
      o.statistics_gradient = c.statistics_gradient, o.log_scale = c.log_scale, o.max_scale = most;
      const memory<S> dout(c.dout, c.padding);
      craft::relative_gradients<S> g;
      g.x = gx.output(), g.anchors = gy.output(), g.log_scale = first.output();
      with_kernel<few>(c, [&](const auto& k) {
        if (c.verb == verb::relative)
          craft::relative(ctx, x.input(), y.input(), k, o, out.place());
        else
          craft::relative_pullback(ctx, x.input(), y.input(), k, o, dout.input(), g);
      });
      break;
    }
    case verb::anchor_cross_entropy: {
      craft::cross_entropy_options o;
      o.label_smoothing = c.smoothing, o.reduce = c.sum ? craft::reduction::sum : craft::reduction::mean;
      if (!c.x_weights.empty()) o.weights = c.x_weights;
      const memory<T> targets(c.targets, c.padding);
      alignment(
          [&](const auto& options, const auto& g) {
            if (c.soft)
              craft::anchor_cross_entropy(ctx, x.input(), y.input(), targets.input(), options, value, g);
            else
              craft::anchor_cross_entropy(ctx, x.input(), y.input(), x_labels, options, value, g);
          },
          o);
      break;
    }
    case verb::info_nce: {
      craft::contrastive_options o;
      o.direction = c.symmetric ? craft::direction::symmetric : craft::direction::one_way, o.label_smoothing = c.smoothing;
      o.x_labels = x_labels, o.y_labels = y_labels;
      if (!c.x_weights.empty()) o.weights = c.x_weights;
      alignment([&](const auto& options, const auto& g) { craft::info_nce(ctx, x.input(), y.input(), options, value, g); },
                o);
      break;
    }
    case verb::sigmoid_contrastive: {
      craft::sigmoid_options o;
      o.bias = c.bias, o.x_labels = x_labels, o.y_labels = y_labels;
      alignment([&](const auto& options,
                    const auto& g) { craft::sigmoid_contrastive(ctx, x.input(), y.input(), options, value, g); },
                o);
    }
  }
  if (c.verb == verb::relative) {
    library_output o{"out", {}};
    for (int i = 0; i < n * m; ++i) o.value.push_back(double(out.at(i / m, i % m)));
    if (!out.marks_stand()) answer.fault += "out: wrote beside its place; ";
    answer.outputs.push_back(o);
  } else if (c.verb == verb::bandwidth_scale) {
    answer.outputs.push_back({"scale", {scale}});
  } else if (c.verb == verb::two_sample_test) {
    answer.outputs.push_back({"statistic", {statistic}});
  } else if (c.verb != verb::relative_pullback) {
    answer.outputs.push_back({"value", {double(value)}});
  }
  gx.keep(answer), gy.keep(answer), first.keep(answer), second.keep(answer), by_x_weight.keep(answer),
      by_y_weight.keep(answer);
}

extern template void call_as<float>(const test_case&, const exact_answer&, library_answer&);
extern template void call_as<double>(const test_case&, const exact_answer&, library_answer&);
extern template void call_as<Eigen::half>(const test_case&, const exact_answer&, library_answer&);
extern template void call_as<Eigen::bfloat16>(const test_case&, const exact_answer&, library_answer&);

}  // namespace fuzz
