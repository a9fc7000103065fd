// Every verb of the library with every output it has, as a list: for tests of what must hold of all of them.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "craft/craft.hpp"
#include "devices.hpp"

namespace craft_test {

/// The verbs on one set of inputs in host memory, S = float or double, on any context that can read it. n samples
/// against m, c classes, d numbers each.
template <class S, class Context = craft::cpu>
class every_verb {
 public:
  struct verb {
    std::string name;
    std::function<void(const Context&)> run;
    bool returns_vectors = false;  ///< and so allocates, whatever its workspace does
  };
  std::vector<verb> verbs;

  every_verb(index_t n, index_t m, index_t c, index_t d)
      : x(random_reals(n, d, 201).cast<S>()),
        y(random_reals(m, d, 202, 0.2).cast<S>()),
        paired(random_reals(n, d, 203).cast<S>()),
        anchors(random_reals(c, d, 204).cast<S>()),
        soft(random_reals(n, c, 205).cwiseAbs().cast<S>()),
        dout(random_reals(n, c, 206).cast<S>()),
        wx(random_reals(1, n, 207).cwiseAbs().cast<S>()),
        wy(random_reals(1, m, 208).cwiseAbs().cast<S>()) {
    for (index_t i = 0; i < n; ++i) x_labels.push_back((7 * i + i / 3) % c);
    for (index_t j = 0; j < m; ++j) y_labels.push_back((5 * j + j / 2) % c);
    for (index_t i = 0; i < n; ++i) picks.push_back((i * i + 3) % n);
    reset();
    add_discrepancies();
    add_relative();
    add_alignment();
    add_anchors();
  }
  every_verb(const every_verb&) = delete;

  /// All outputs back to one bit pattern.
  void reset() {
    const S s = S(0.75);
    dx.setConstant(x.rows(), x.cols(), s);
    dy.setConstant(y.rows(), y.cols(), s);
    dp.setConstant(x.rows(), x.cols(), s);
    da.setConstant(anchors.rows(), anchors.cols(), s);
    dt.setConstant(anchors.rows(), anchors.cols(), s);
    out.setConstant(x.rows(), anchors.rows(), s);
    weights.setConstant(1, 3, s);
    bandwidths.setConstant(1, 3, s);
    log_scale = bias = value = s;
    terms = {s, s, s, s, s};
    chosen.clear();
    statistics.clear();
    number = 0.75;
  }

  /// Every byte of every output.
  std::string bits() const {
    std::string all;
    const auto add = [&](const void* p, std::size_t bytes) { all.append(static_cast<const char*>(p), bytes); };
    for (const matrix<S>* m : {&dx, &dy, &dp, &da, &dt, &out, &weights, &bandwidths})
      add(m->data(), std::size_t(m->size()) * sizeof(S));
    for (const S* s : {&log_scale, &bias, &value, &terms.text, &terms.image, &terms.batch, &terms.mmd, &terms.total})
      add(s, sizeof(S));
    add(chosen.data(), chosen.size() * sizeof(index_t));
    add(statistics.data(), statistics.size() * sizeof(double));
    add(&number, sizeof(number));
    return all;
  }

  /// Every output as a number.
  std::vector<double> numbers() const {
    std::vector<double> all;
    for (const matrix<S>* m : {&dx, &dy, &dp, &da, &dt, &out, &weights, &bandwidths})
      all.insert(all.end(), m->data(), m->data() + m->size());
    for (const S* s : {&log_scale, &bias, &value, &terms.text, &terms.image, &terms.batch, &terms.mmd, &terms.total})
      all.push_back(double(*s));
    all.insert(all.end(), chosen.begin(), chosen.end());
    all.insert(all.end(), statistics.begin(), statistics.end());
    all.push_back(number);
    return all;
  }

  /// No output is NaN or infinite.
  bool finite() const {
    bool all = std::isfinite(double(log_scale + bias + value + terms.total)) && std::isfinite(number);
    for (const matrix<S>* m : {&dx, &dy, &dp, &da, &dt, &out, &weights, &bandwidths}) all = all && m->allFinite();
    return all;
  }

 private:
  void add(const std::string& name, std::function<void(const Context&)> run, bool returns_vectors = false) {
    verbs.push_back({name, std::move(run), returns_vectors});
  }

  void add_discrepancies() {
    const auto mmd = [this](const std::string& name, const craft::mmd_options& o) {
      add("mmd, " + name, [this, o](const Context& ctx) {
        craft::mmd_gradients<S> g;
        g.x = craft::overwrite(dx);
        g.y = craft::accumulate(dy);
        g.weights = craft::overwrite(weights);
        g.bandwidths = craft::overwrite(bandwidths);
        craft::mmd(ctx, x, y, kernel, o, value, g);
      });
      add("mmd, " + name + ", value only", [this, o](const Context& ctx) { craft::mmd(ctx, x, y, kernel, o, value); });
    };
    craft::mmd_options o;
    mmd("biased", o);
    o.x_weights = wx;
    o.y_weights = wy;
    mmd("sample weights", o);
    o = {};
    o.estimator = craft::estimator::linear;
    mmd("linear", o);
    o.estimator = craft::estimator::unbiased;
    mmd("unbiased", o);
    using craft::bandwidth_rule;
    using craft::bandwidth_sample;
    const auto bandwidth = [&](const std::string& name, bandwidth_rule rule, bandwidth_sample sample) {
      o.bandwidth = {rule, sample, true};
      mmd("bandwidth by " + name, o);
      add("bandwidth_scale, " + name,
          [this, o](const Context& ctx) { number = craft::bandwidth_scale(ctx, x, y, o.bandwidth); });
    };
    bandwidth("mean", bandwidth_rule::mean, bandwidth_sample::pooled);
    bandwidth("mean_offdiagonal", bandwidth_rule::mean_offdiagonal, bandwidth_sample::pooled);
    bandwidth("median", bandwidth_rule::median, bandwidth_sample::pooled);
    bandwidth("median_mid", bandwidth_rule::median_mid, bandwidth_sample::x);
    o = {};
    o.columns = craft::column_scaling::minmax_separate;
    mmd("columns scaled separately", o);
    o.columns = craft::column_scaling::minmax_joint;
    mmd("columns scaled together", o);
    add(
        "two_sample_test",
        [this](const Context& ctx) {
          craft::two_sample_options t;
          t.permutations = 9;
          t.bandwidth.rule = bandwidth_rule::mean;
          const craft::two_sample_result r = craft::two_sample_test(ctx, x, y, kernel, t);
          number = r.statistic;
          statistics = r.permuted;
          statistics.push_back(r.p_value);
        },
        true);
  }

  void add_relative() {
    for (const auto of_anchors :
         {craft::anchor_statistics::none, craft::anchor_statistics::centre, craft::anchor_statistics::standardise}) {
      craft::relative_options o;
      o.statistics = of_anchors;
      o.log_scale = 1.5;
      const std::string name = ", statistics " + std::to_string(int(of_anchors));
      add("relative" + name,
          [this, o](const Context& ctx) { craft::relative(ctx, x, anchors, craft::dot_product<S>(), o, out); });
      add("relative_pullback" + name, [this, o](const Context& ctx) {
        craft::relative_gradients<S> g;
        g.x = craft::overwrite(dx);
        g.anchors = craft::overwrite(da);
        g.log_scale = craft::overwrite(log_scale);
        craft::relative_pullback(ctx, x, anchors, craft::negative_distance(S(0)), o, dout, g);
      });
    }
  }

  void add_alignment() {
    const auto gradients = [this](matrix<S>& other) {
      craft::alignment_gradients<S> g;
      g.x = craft::overwrite(dx);
      g.y = craft::overwrite(other);
      g.log_scale = craft::overwrite(log_scale);
      return g;
    };
    craft::cross_entropy_options ce;
    ce.label_smoothing = 0.1;
    ce.weights = wx;
    add("anchor_cross_entropy", [this, ce, gradients](const Context& ctx) {
      craft::anchor_cross_entropy(ctx, x, anchors, x_labels, ce, value, gradients(da));
    });
    add("anchor_cross_entropy, soft targets", [this, ce, gradients](const Context& ctx) {
      craft::anchor_cross_entropy(ctx, x, anchors, soft, ce, value, gradients(da));
    });
    for (const auto way : {craft::direction::one_way, craft::direction::symmetric}) {
      craft::contrastive_options nce;
      nce.direction = way;
      const std::string name = "info_nce, direction " + std::to_string(int(way));
      add(name,
          [this, nce, gradients](const Context& ctx) { craft::info_nce(ctx, x, paired, nce, value, gradients(dp)); });
      add(name + ", value only", [this, nce](const Context& ctx) { craft::info_nce(ctx, x, paired, nce, value); });
      nce.x_labels = x_labels;
      nce.y_labels = y_labels;
      add(name + ", labels",
          [this, nce, gradients](const Context& ctx) { craft::info_nce(ctx, x, y, nce, value, gradients(dy)); });
    }
    craft::sigmoid_options sig;
    add("sigmoid_contrastive", [this, sig, gradients](const Context& ctx) {
      auto g = gradients(dp);
      g.bias = craft::overwrite(bias);
      craft::sigmoid_contrastive(ctx, x, paired, sig, value, g);
    });
    sig.x_labels = x_labels;
    sig.y_labels = y_labels;
    add("sigmoid_contrastive, labels", [this, sig, gradients](const Context& ctx) {
      auto g = gradients(dy);
      g.bias = craft::overwrite(bias);
      craft::sigmoid_contrastive(ctx, x, y, sig, value, g);
    });
    for (const bool own_texts : {true, false})
      add(own_texts ? "objective" : "objective without batch texts", [this, own_texts](const Context& ctx) {
        craft::objective_inputs<S> in;
        in.images = craft::view(x);
        in.class_texts = craft::view(anchors);
        in.targets = x_labels;
        if (own_texts) in.batch_texts = craft::view(paired);
        in.image_anchors = craft::view(anchors);
        in.target_images = craft::view(y);
        craft::objective_gradients<S> g;
        g.images = craft::overwrite(dx);
        g.class_texts = craft::overwrite(da);
        if (own_texts) g.batch_texts = craft::overwrite(dp);
        g.image_anchors = craft::overwrite(dt);
        g.target_images = craft::overwrite(dy);
        g.log_scale = craft::overwrite(log_scale);
        craft::objective_options o;
        o.direction = craft::direction::symmetric;
        o.discrepancy.bandwidth = {craft::bandwidth_rule::mean, craft::bandwidth_sample::pooled, true};
        craft::objective(ctx, in, kernel, o, terms, g);
      });
  }

  void add_anchors() {
    for (const bool normalise : {false, true}) {
      add("class_means", [this, normalise](const Context& ctx) {
        craft::class_means_options o;
        o.normalise = normalise;
        craft::class_means(ctx, x, x_labels, o, da);
      });
      craft::kmeans_options o;
      o.spherical = normalise;
      o.restarts = 3;
      o.max_iterations = 20;
      const std::string name = normalise ? ", spherical" : "";
      add(
          "kmeans" + name, [this, o](const Context& ctx) { keep(craft::kmeans(ctx, x, o, da)); }, true);
      add(
          "kmeans_per_class" + name,
          [this, o](const Context& ctx) {
            matrix<S> centres(2 * da.rows(), da.cols());
            keep(craft::kmeans_per_class(ctx, x, x_labels, da.rows(), o, centres));
            da = centres.topRows(da.rows());
            dt = centres.bottomRows(da.rows());
          },
          true);
    }
    add(
        "medoids", [this](const Context& ctx) { chosen = craft::medoids(ctx, x, anchors); }, true);
    for (const auto metric : {craft::metric::euclidean, craft::metric::cosine})
      add(
          "farthest_point_anchors",
          [this, metric](const Context& ctx) { chosen = craft::farthest_point_anchors(ctx, x, 12, 1, metric); }, true);
    add("gather", [this](const Context& ctx) { craft::gather(ctx, x, picks, dp); });
    add("gather_pullback",
        [this](const Context& ctx) { craft::gather_pullback(ctx, paired, picks, craft::overwrite(dx)); });
  }

  void keep(const craft::kmeans_result& r) {
    chosen = r.assignment;
    chosen.push_back(r.iterations);
    number = r.inertia;
  }

  const craft::gaussians<S> kernel{S(1), S(2), S(5)};
  matrix<S> x, y, paired, anchors, soft, dout;
  Eigen::Matrix<S, 1, Eigen::Dynamic> wx, wy;
  std::vector<index_t> x_labels, y_labels, picks;

  matrix<S> dx, dy, dp, da, dt, out, weights, bandwidths;
  S log_scale, bias, value;
  craft::objective_values<S> terms;
  std::vector<index_t> chosen;
  std::vector<double> statistics;
  double number;
};

}  // namespace craft_test
