// Every verb whose arguments can all lie in device memory, as a list: for tests of what must hold of all of them on a GPU.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "craft/craft.hpp"
#include "devices.hpp"

namespace craft_test {

/// The verbs on one set of inputs, which can be changed in place, and one set of outputs.
template <class D>
class every_device_verb {
 public:
  using S = typename D::scalar;
  using T = typename D::compute;
  struct verb {
    std::string name;
    std::function<void(const craft::cuda&)> run;
    bool host_indices = false;  ///< takes a std::vector, which no graph can read
  };
  std::vector<verb> verbs;

  const index_t n, m, c, d;

  /// n samples against m, c classes, d numbers each: by default several tiles, none of them full.
  explicit every_device_verb(index_t n_ = 20, index_t m_ = 27, index_t c_ = 5, index_t d_ = 6)
      : n(n_), m(m_), c(c_), d(d_) {
    for (index_t i = 0; i < n; ++i) picks_.push_back((i * i + 3) % n);
    set(0);
    reset();
    add_discrepancies();
    add_relative();
    add_alignment();
    add_objective();
    add_anchors();
  }
  every_device_verb(const every_device_verb&) = delete;

  /// Other numbers and labels at the same addresses.
  void set(int variant) {
    const std::uint64_t seed = 500 + 20 * std::uint64_t(variant);
    x_.set(random_reals(n, d, seed));
    y_.set(random_reals(m, d, seed + 1, 0.3));
    paired_.set(random_reals(n, d, seed + 2));
    anchors_.set(random_reals(c, d, seed + 3));
    soft_.set(random_reals(n, c, seed + 4).cwiseAbs());
    dout_.set(random_reals(n, c, seed + 5));
    wx_.set(random_reals(1, n, seed + 6).cwiseAbs());
    wy_.set(random_reals(1, m, seed + 7).cwiseAbs());
    set_number(upstream_in_, 1.5 - variant);
    set_number(log_scale_in_, 1.25 + 0.125 * variant);
    set_number(bias_in_, -1 - 0.25 * variant);
    std::vector<std::int64_t> x_labels, y_labels;
    for (index_t i = 0; i < n; ++i) x_labels.push_back((7 * i + i / 3 + variant) % c);
    for (index_t j = 0; j < m; ++j) y_labels.push_back((5 * j + j / 2 + 2 * variant) % c);
    put(x_labels_, x_labels);
    put(y_labels_, y_labels);
    put(narrow_labels_, std::vector<std::int32_t>(x_labels.begin(), x_labels.end()));
  }

  /// One number of x is none.
  void spoil() {
    reals x = random_reals(n, d, 500);
    x(7 % n, 1) = not_a_number;
    x_.set(x);
  }

  /// All outputs back to one bit pattern.
  void reset() {
    for_each_output([](const char*, auto& a) { a.set(reals::Constant(a.get().rows(), a.get().cols(), sentinel)); });
  }

  /// Every byte of every output.
  std::string bits() {
    std::string all;
    for_each_output([&](const char*, auto& a) { all += a.bits(); });
    return all;
  }

  /// Every output as numbers.
  std::vector<std::pair<std::string, reals>> results() {
    std::vector<std::pair<std::string, reals>> all;
    for_each_output([&](const char* name, auto& a) { all.emplace_back(name, a.get()); });
    return all;
  }

  /// What a verb leaves in the outputs, all of which were alike before.
  std::string bits_of(const verb& v, const craft::cuda& ctx) {
    reset();
    v.run(ctx);
    return bits();
  }

 private:
  template <class F>
  void for_each_output(const F& f) {
    f("dx", dx_);
    f("dy", dy_);
    f("d paired", dp_);
    f("d anchors", da_);
    f("d image anchors", dt_);
    f("out", out_);
    f("d weights", weights_);
    f("d bandwidths", bandwidths_);
    f("d log_scale", log_scale_);
    f("d bias", bias_);
    f("value", value_);
    f("terms", terms_);
  }
  static void set_number(array<D, T>& to, double value) { to.set(reals::Constant(1, 1, value)); }
  template <class I>
  static void put(const label_array<D, I>& to, const std::vector<I>& values) {
    D::backend::upload(const_cast<void*>(to.in().data()), values.data(), values.size() * sizeof(I));
  }
  void add(const std::string& name, std::function<void(const craft::cuda&)> run, bool host_indices = false) {
    verbs.push_back({name, std::move(run), host_indices});
  }

  void add_discrepancies() {
    const auto mmd = [this](const std::string& name, craft::mmd_options o, bool gradients = true) {
      o.upstream = upstream_in_.as_scalar();
      add("mmd, " + name, [this, o, gradients](const craft::cuda& ctx) {
        craft::mmd_gradients<S, D::space> g;
        if (gradients) {
          g.x = craft::overwrite(dx_.out());
          g.y = craft::accumulate(dy_.out());
          g.weights = craft::overwrite(weights_.out());
          g.bandwidths = craft::accumulate(bandwidths_.out());
        }
        craft::mmd(ctx, x_.in(), y_.in(), kernel_, o, value_.as_value(), g);
      });
    };
    mmd("biased", {});
    mmd("value only", {}, false);
    craft::mmd_options o;
    o.estimator = craft::estimator::unbiased;
    o.x_weights = wx_.as_numbers();
    o.y_weights = wy_.as_numbers();
    mmd("unbiased, weights", o);
    o = {};
    o.estimator = craft::estimator::linear;
    mmd("linear", o);
    o = {};
    using craft::bandwidth_rule;
    using craft::bandwidth_sample;
    o.bandwidth = {bandwidth_rule::mean, bandwidth_sample::pooled, true};
    mmd("bandwidth by mean", o);
    o.bandwidth = {bandwidth_rule::mean_offdiagonal, bandwidth_sample::x, true};
    mmd("bandwidth by mean_offdiagonal of x", o);
    o.bandwidth = {bandwidth_rule::median, bandwidth_sample::pooled, true};
    mmd("bandwidth by median", o);
    o.bandwidth = {bandwidth_rule::median_mid, bandwidth_sample::x, true};
    mmd("bandwidth by median_mid of x", o);
    o = {};
    o.columns = craft::column_scaling::minmax_separate;
    mmd("columns scaled separately", o);
    o.columns = craft::column_scaling::minmax_joint;
    o.bandwidth = {bandwidth_rule::mean, bandwidth_sample::pooled, true};
    mmd("columns scaled together, bandwidth by mean", o);
  }

  void add_relative() {
    for (const auto statistics : {craft::anchor_statistics::none, craft::anchor_statistics::standardise}) {
      craft::relative_options o;
      o.statistics = statistics;
      o.log_scale = log_scale_in_.as_scalar();
      const std::string name = statistics == craft::anchor_statistics::none ? "" : ", standardising";
      add("relative" + name, [this, o](const craft::cuda& ctx) {
        craft::relative(ctx, x_.in(), anchors_.in(), craft::dot_product<>(), o, out_.out());
      });
      add("relative_pullback" + name, [this, o](const craft::cuda& ctx) {
        craft::relative_gradients<S, D::space> g;
        g.x = craft::overwrite(dx_.out());
        g.anchors = craft::accumulate(da_.out());
        g.log_scale = craft::overwrite(log_scale_.out());
        craft::relative_pullback(ctx, x_.in(), anchors_.in(), craft::dot_product<>(), o, dout_.in(), g);
      });
    }
  }

  craft::alignment_gradients<S, D::space> gradients(array<D>& other) {
    craft::alignment_gradients<S, D::space> g;
    g.x = craft::accumulate(dx_.out());
    g.y = craft::overwrite(other.out());
    g.log_scale = craft::overwrite(log_scale_.out());
    return g;
  }

  void add_alignment() {
    craft::cross_entropy_options ce;
    ce.log_scale = log_scale_in_.as_scalar();
    ce.upstream = upstream_in_.as_scalar();
    add("anchor_cross_entropy, 32-bit labels", [this, ce](const craft::cuda& ctx) {
      craft::anchor_cross_entropy(ctx, x_.in(), anchors_.in(), narrow_labels_.in(), ce, value_.as_value(),
                                  gradients(da_));
    });
    ce.label_smoothing = 0.1;
    ce.weights = wx_.as_numbers();
    add("anchor_cross_entropy, labels and weights", [this, ce](const craft::cuda& ctx) {
      craft::anchor_cross_entropy(ctx, x_.in(), anchors_.in(), x_labels_.in(), ce, value_.as_value(), gradients(da_));
    });
    add("anchor_cross_entropy, soft targets", [this, ce](const craft::cuda& ctx) {
      craft::anchor_cross_entropy(ctx, x_.in(), anchors_.in(), soft_.in(), ce, value_.as_value(), gradients(da_));
    });
    craft::contrastive_options nce;
    nce.log_scale = log_scale_in_.as_scalar();
    nce.upstream = upstream_in_.as_scalar();
    add("info_nce, symmetric", [this, nce](const craft::cuda& ctx) {
      craft::info_nce(ctx, x_.in(), paired_.in(), nce, value_.as_value(), gradients(dp_));
    });
    add("info_nce, value only",
        [this, nce](const craft::cuda& ctx) { craft::info_nce(ctx, x_.in(), paired_.in(), nce, value_.as_value()); });
    nce.direction = craft::direction::one_way;
    nce.weights = wx_.as_numbers();
    add("info_nce, one way, weights", [this, nce](const craft::cuda& ctx) {
      craft::info_nce(ctx, x_.in(), paired_.in(), nce, value_.as_value(), gradients(dp_));
    });
    nce.direction = craft::direction::symmetric;
    nce.weights = {};
    nce.x_labels = narrow_labels_.in();
    nce.y_labels = y_labels_.in();
    add("info_nce, labels", [this, nce](const craft::cuda& ctx) {
      craft::info_nce(ctx, x_.in(), y_.in(), nce, value_.as_value(), gradients(dy_));
    });
    craft::sigmoid_options sig;
    sig.log_scale = log_scale_in_.as_scalar();
    sig.bias = bias_in_.as_scalar();
    sig.upstream = upstream_in_.as_scalar();
    add("sigmoid_contrastive", [this, sig](const craft::cuda& ctx) {
      auto g = gradients(dp_);
      g.bias = craft::overwrite(bias_.out());
      craft::sigmoid_contrastive(ctx, x_.in(), paired_.in(), sig, value_.as_value(), g);
    });
    sig.x_labels = x_labels_.in();
    sig.y_labels = y_labels_.in();
    add("sigmoid_contrastive, labels", [this, sig](const craft::cuda& ctx) {
      auto g = gradients(dy_);
      g.bias = craft::accumulate(bias_.out());
      craft::sigmoid_contrastive(ctx, x_.in(), y_.in(), sig, value_.as_value(), g);
    });
  }

  void add_objective() {
    for (const bool own_texts : {true, false}) {
      add(own_texts ? "objective" : "objective without batch texts", [this, own_texts](const craft::cuda& ctx) {
        craft::objective_inputs<S, D::space> in;
        in.images = x_.in();
        in.class_texts = anchors_.in();
        in.targets = x_labels_.in();
        if (own_texts) in.batch_texts = paired_.in();
        in.image_anchors = dt_in_.in();
        in.target_images = y_.in();
        craft::objective_gradients<S, D::space> g;
        g.images = craft::overwrite(dx_.out());
        g.class_texts = craft::overwrite(da_.out());
        if (own_texts) g.batch_texts = craft::accumulate(dp_.out());
        g.image_anchors = craft::overwrite(dt_.out());
        g.target_images = craft::overwrite(dy_.out());
        g.log_scale = craft::overwrite(log_scale_.out());
        craft::objective_options o;
        o.log_scale = log_scale_in_.as_scalar();
        o.upstream = upstream_in_.as_scalar();
        o.direction = craft::direction::symmetric;
        o.same_class_positives = !own_texts;
        o.discrepancy.bandwidth = {craft::bandwidth_rule::mean, craft::bandwidth_sample::pooled, true};
        using values = craft::objective_values<T>;
        const craft::scalar_out<values, D::space> place(reinterpret_cast<values*>(terms_.out().data()));
        craft::objective(ctx, in, kernel_, o, place, g);
      });
    }
  }

  void add_anchors() {
    for (const bool normalise : {false, true}) {
      add(normalise ? "class_means, normalised" : "class_means", [this, normalise](const craft::cuda& ctx) {
        craft::class_means_options o;
        o.normalise = normalise;
        craft::class_means(ctx, x_.in(), x_labels_.in(), o, da_.out());
      });
    }
    add(
        "gather", [this](const craft::cuda& ctx) { craft::gather(ctx, x_.in(), picks_, dp_.out()); }, true);
    add(
        "gather_pullback",
        [this](const craft::cuda& ctx) {
          craft::gather_pullback(ctx, paired_.in(), picks_, craft::accumulate(dx_.out()));
        },
        true);
  }

  const craft::gaussians<double> kernel_{{0.9, 1.4, 2.3, 3.1, 5.0}, {0.7, 1.0, 0.5, 1.3, 0.2}};
  array<D> x_{n, d}, y_{m, d}, paired_{n, d}, anchors_{c, d}, dout_{n, c}, dt_in_{random_reals(c, d, 499)};
  array<D, T> soft_{n, c}, wx_{1, n}, wy_{1, m}, upstream_in_{1, 1}, log_scale_in_{1, 1}, bias_in_{1, 1};
  label_array<D> x_labels_{std::vector<index_t>(std::size_t(n))}, y_labels_{std::vector<index_t>(std::size_t(m))};
  label_array<D, std::int32_t> narrow_labels_{std::vector<index_t>(std::size_t(n))};
  std::vector<index_t> picks_;

  array<D> dx_{n, d}, dy_{m, d}, dp_{n, d}, da_{c, d}, dt_{c, d}, out_{n, c};
  array<D, T> weights_{1, 5}, bandwidths_{1, 5}, log_scale_{1, 1}, bias_{1, 1}, value_{1, 1}, terms_{1, 5};
};

/// A verb of the list by its name. Throws std::out_of_range.
template <class D>
const typename every_device_verb<D>::verb& named(const every_device_verb<D>& all, const std::string& name) {
  for (const auto& verb : all.verbs)
    if (verb.name == name) return verb;
  throw std::out_of_range("no verb is called " + name);
}

}  // namespace craft_test
