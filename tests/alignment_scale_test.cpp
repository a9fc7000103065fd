// A scale at its maximum, in every verb that has one: it goes back inside when its gradient says so, and no further out.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "craft/objective.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"
#include "pair_functions.hpp"
#include "pair_losses.hpp"

using namespace craft_test;

namespace {

constexpr double no_limit = std::numeric_limits<double>::infinity();

const char* const verbs[] = {"anchor_cross_entropy", "info_nce", "sigmoid_contrastive", "relative_pullback", "objective"};
constexpr int relative_verb = 3, objective_verb = 4, count_of_verbs = 5;

/// What the gradient by log_scale depends on beside the rows.
struct scale_given {
  craft::scalar log_scale = 0.0, upstream = 1.0;
  double max_scale = no_limit;
  double before = not_a_number;               ///< what is in the places; NaN: overwritten, else added to
  index_t places = 1;                         ///< for log_scale's gradient: one or two
  double text = 1, image = 1, batch = 1, mmd = 1;  ///< the terms of the objective
  bool spoilt = false;  ///< a number of x is none
};

/// The gradient by log_scale on random rows.
template <class D>
reals by_log_scale(int verb, const scale_given& given) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const auto ctx = D::make();
  const index_t n = 6, d = 4;
  reals first = random_reals(n, d, 18);
  if (given.spoilt) first(2, 1) = not_a_number;
  const array<D> x(first), y(random_reals(n, d, 19)), dout(random_reals(n, n, 20) * given.upstream.value());
  const label_array<D> labels(labels_for(n, n, 1));
  array<D, T> value(1, 1), ds(1, given.places, given.before);
  const auto to = std::isnan(given.before) ? craft::overwrite(ds.out()) : craft::accumulate(ds.out());
  const auto set = [&](auto o) {
    o.log_scale = given.log_scale;
    o.max_scale = given.max_scale;
    if constexpr (!std::is_same_v<decltype(o), craft::relative_options>) o.upstream = given.upstream;
    return o;
  };
  craft::alignment_gradients<S, D::space> g;
  g.log_scale = to;
  if (verb == 0)
    craft::anchor_cross_entropy(ctx, x.in(), y.in(), labels.in(), set(craft::cross_entropy_options{}), value.as_value(), g);
  if (verb == 1) craft::info_nce(ctx, x.in(), y.in(), set(craft::contrastive_options{}), value.as_value(), g);
  if (verb == 2) craft::sigmoid_contrastive(ctx, x.in(), y.in(), set(craft::sigmoid_options{}), value.as_value(), g);
  if (verb == relative_verb) {
    craft::relative_gradients<S, D::space> r;
    r.log_scale = to;
    craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), set(craft::relative_options{}), dout.in(), r);
  }
  if (verb == objective_verb) {
    craft::objective_inputs<S, D::space> in;
    in.images = x.in();
    in.class_texts = in.image_anchors = y.in();
    in.batch_texts = x.in();
    in.targets = labels.in();
    const array<D> target(random_reals(n, d, 21, 0.5));
    in.target_images = target.in();
    craft::objective_options o = set(craft::objective_options{});
    o.text = given.text, o.image = given.image, o.batch = given.batch, o.mmd = given.mmd;
    craft::objective_gradients<S, D::space> r;
    r.log_scale = to;
    objective_terms<D> terms;
    const gaussians_and_multiquadric kernel = craft::gaussians<>({1.0}) + 0.5 * craft::inverse_multiquadric<>(2.0);
    craft::objective(ctx, in, kernel, o, terms.place(), r);
  }
  return ds.get();
}

/// The rule: what leads back inside passes.
double inward(double g) { return g < 0 ? 0 : g; }

}  // namespace

TEMPLATE_LIST_TEST_CASE("at its maximum and above it a scale has the gradient that leads back inside", "[alignment][gradient]",
                        devices) {
  using D = TestType;
  // exp(log 5) is 5 to a few roundings, and the logits with it.
  const double tolerance = 1000 * roundoff<typename D::scalar>;
  for (int verb = 0; verb < count_of_verbs; ++verb)
    for (const double upstream : {1.5, -1.5}) {
      INFO(verbs[verb] << ", upstream " << upstream);
      scale_given given;
      given.upstream = upstream;
      given.log_scale = std::log(5.0);
      const double plain = by_log_scale<D>(verb, given)(0, 0);
      CHECK(std::abs(plain) > 0.01);
      // At the bound to the bit, a little above it, and as far as exp goes.
      given.max_scale = std::exp(std::log(5.0));
      CHECK(by_log_scale<D>(verb, given)(0, 0) == inward(plain));
      given.max_scale = 5;
      for (const double above : {std::log(5.001), std::log(1000.0), 700.0}) {
        INFO("log_scale " << above);
        given.log_scale = above;
        const double got = by_log_scale<D>(verb, given)(0, 0);
        CHECK(std::abs(got - inward(plain)) <= tolerance * inward(plain));
        // Read from memory when the verb runs.
        const array<D, double> there(1, 1, above);
        given.log_scale = there.as_scalar();
        CHECK(by_log_scale<D>(verb, given)(0, 0) == got);
        // Added to what is there: nothing, if it leads out.
        given.before = 3;
        CHECK(std::abs(by_log_scale<D>(verb, given)(0, 0) - (3 + got)) <= 4 * roundoff<typename D::scalar> * (3 + got));
        given.before = not_a_number;
      }
      // Below the bound it is as if there were none.
      given.log_scale = std::log(4.999);
      const double below = by_log_scale<D>(verb, given)(0, 0);
      given.max_scale = no_limit;
      CHECK(below == by_log_scale<D>(verb, given)(0, 0));
      CHECK(below != 0);
      // What is not a number must not pass for one that leads out.
      given.spoilt = true;
      for (const double max_scale : {no_limit, 3.0}) {
        given.max_scale = max_scale;
        CHECK(std::isnan(by_log_scale<D>(verb, given)(0, 0)));
      }
    }
}

TEMPLATE_LIST_TEST_CASE("a scale held at its maximum is that number", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = random_reals(6, 4, 18), y = random_reals(6, 4, 19);
  const std::vector<index_t> labels = labels_for(6, 6, 1);
  // Clamped at 5 or simply 5: the same loss, but for the gradient of the scale.
  for (const double above : {std::log(5.001), std::log(1000.0), 700.0}) {
    craft::cross_entropy_options ce, ce5;
    craft::contrastive_options nce, nce5;
    craft::sigmoid_options sig, sig5;
    ce.log_scale = nce.log_scale = sig.log_scale = above;
    ce.max_scale = nce.max_scale = sig.max_scale = 5;
    ce5.log_scale = nce5.log_scale = sig5.log_scale = std::log(5.0);
    const loss_result clamped[] = {run_cross_entropy<D>(ctx, x, y, labels, ce), run_info_nce<D>(ctx, x, y, nce),
                                   run_sigmoid<D>(ctx, x, y, sig)};
    const loss_result plain[] = {run_cross_entropy<D>(ctx, x, y, labels, ce5), run_info_nce<D>(ctx, x, y, nce5),
                                 run_sigmoid<D>(ctx, x, y, sig5)};
    for (int k = 0; k < 3; ++k) {
      INFO(verbs[k] << ", log scale " << above);
      // exp(log 5) is 5 to a few roundings, and the logits with it.
      const double tolerance = 100 * roundoff<typename D::scalar>;
      CHECK(std::abs(clamped[k].value - plain[k].value) <= tolerance * std::abs(plain[k].value));
      CHECK(relative_distance(clamped[k].x, plain[k].x) <= tolerance);
      CHECK(relative_distance(clamped[k].y, plain[k].y) <= tolerance);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("two places for the gradient by log_scale: for upstream and for -upstream", "[alignment][gradient]",
                        devices) {
  using D = TestType;
  for (int verb = 0; verb < count_of_verbs; ++verb) {
    if (verb == relative_verb) continue;  // dout has its sign
    for (const double max_scale : {5.0, 100.0, no_limit})
      for (const double upstream : {1.5, -1.5}) {
        INFO(verbs[verb] << ", max_scale " << max_scale << ", upstream " << upstream);
        scale_given given;
        given.log_scale = std::log(20.0);
        given.max_scale = max_scale;
        given.upstream = upstream;
        const double one = by_log_scale<D>(verb, given)(0, 0);
        given.upstream = -upstream;
        const double other = by_log_scale<D>(verb, given)(0, 0);
        given.upstream = upstream;
        given.places = 2;
        const reals both = by_log_scale<D>(verb, given);
        CHECK(both(0, 0) == one);
        CHECK(both(0, 1) == other);
        CHECK((max_scale == 5 ? one * other == 0 && one + other > 0 : one == -other));
        given.places = 3;
        CHECK_THROWS_AS(by_log_scale<D>(verb, given), craft::shape_error);
      }
  }
  scale_given given;
  given.places = 2;
  CHECK_THROWS_AS(by_log_scale<D>(relative_verb, given), craft::shape_error);
}

TEMPLATE_LIST_TEST_CASE("of the objective it is the sum of its terms that leads inside or out", "[objective][gradient]",
                        devices) {
  using D = TestType;
  scale_given given;
  given.log_scale = std::log(5.0);
  const auto with = [&](double text, double batch) {
    given.text = text, given.image = 0, given.batch = batch, given.mmd = 0;
    return by_log_scale<D>(objective_verb, given)(0, 0);
  };
  const double of_text = with(1, 0), of_batch = with(0, 1);
  INFO("text " << of_text << ", batch " << of_batch);
  CHECK(of_text > 0);
  CHECK(of_batch < 0);  // images against themselves: they are told apart best by the largest scale
  const double balance = -of_text / of_batch, tolerance = 1000 * roundoff<typename D::scalar>;
  given.log_scale = std::log(50.0);
  given.max_scale = 5;
  CHECK(with(1, 0) > 0);
  CHECK(with(0, 1) == 0);
  CHECK(std::abs(with(1, balance / 2) - of_text / 2) <= tolerance * of_text);
  CHECK(with(1, balance * 2) == 0);
  given.upstream = -1.0;
  CHECK(with(1, balance / 2) == 0);
  CHECK(std::abs(with(1, balance * 2) - of_text) <= tolerance * of_text);
}

// ---------------------------------------------------------------------------------------------------------
// Training

namespace {

/// Adam for one number of T, as Kingma and Ba have it: 50 steps of 0.02 against gradient(parameter), which is clamped to
/// `most` after each.
template <class T, class F>
double adam(double start, double most, const F& gradient) {
  T parameter = T(start), mean = 0, square = 0;
  for (int t = 1; t <= 50; ++t) {
    const T g = T(gradient(double(parameter)));
    mean += T(0.1) * (g - mean);
    square += T(0.001) * (g * g - square);
    const T m = mean / (1 - T(std::pow(0.9, t))), v = square / (1 - T(std::pow(0.999, t)));
    parameter -= T(0.02) * m / (std::sqrt(v) + T(1e-8));
    parameter = std::min(parameter, T(most));
  }
  return double(parameter);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("a scale that starts at its maximum learns to be smaller", "[alignment][gradient]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const double bound = double(T(std::log(100.0)));
  for (const int verb : {0, 1}) {  // of random rows, which are best told apart by no scale at all
    INFO(verbs[verb]);
    const auto trained = [&](double start, double max_scale, double most) {
      return adam<T>(start, most, [&](double at) {
        scale_given given;
        const array<D, T> there(1, 1, at);
        given.log_scale = there.as_scalar();
        given.max_scale = max_scale;
        return by_log_scale<D>(verb, given)(0, 0);
      });
    };
    const double want = trained(bound, no_limit, bound), got = trained(bound, 100, no_limit);
    CHECK(want < bound - 0.5);
    CHECK(std::abs(got - want) <= 1000 * roundoff<T>);
    // From above the bound, too.
    CHECK(trained(bound + 0.2, 100, no_limit) < bound - 0.3);
  }
}
