// Finite differences of every gradient of every option of the alignment losses.
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "pair_losses.hpp"

using namespace craft_test;
using craft::direction;
using craft::reduction;

namespace {

/// The numbers a loss depends on, and a check of all its gradients at once.
/// verb(x, y, log_scale, bias, wanted) runs the loss. The gradient by a clamped scale is no slope of the value, which is
/// constant in it: alignment_scale_test.cpp has that.
template <class D, class Verb>
void check_gradients(reals x, reals y, double log_scale, bool clamped, double bias, bool with_bias, const Verb& verb) {
  const loss_result r = verb(x, y, log_scale, bias, with_bias ? want::all_and_bias : want::all);
  std::vector<craft::gradient_block<double>> blocks = {{"x", x.data(), x.size(), r.x.data()},
                                                       {"y", y.data(), y.size(), r.y.data()}};
  if (!clamped) blocks.push_back({"log_scale", &log_scale, 1, &r.log_scale});
  if (with_bias) blocks.push_back({"bias", &bias, 1, &r.bias});
  check_by_differences<D>([&] { return verb(x, y, log_scale, bias, want::value_only).value; }, blocks);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("anchor_cross_entropy: gradients by finite differences", "[alignment][gradient][long]",
                        double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool normalise = GENERATE(true, false);
  const reduction reduce = GENERATE(reduction::mean, reduction::sum);
  const double smoothing = GENERATE(0.0, 0.15);
  const bool weighted = GENERATE(false, true);
  const bool clamped = GENERATE(false, true);
  const bool ignoring = GENERATE(false, true);
  const index_t n = 9, c = 4, d = 5;
  const reals x = random_reals(n, d, 11), a = random_reals(c, d, 12);
  const array<D> weights(some_weights<D>(n));
  std::vector<index_t> y = labels_for(n, c, 3);
  if (ignoring) y[0] = y[5] = -100;

  craft::cross_entropy_options o;
  o.normalise = normalise;
  o.reduce = reduce;
  o.label_smoothing = smoothing;
  if (weighted) o.weights = weights.as_numbers();
  if (clamped) o.max_scale = 4;  // below the scale of 6
  check_gradients<D>(x, a, std::log(6.0), clamped, 0, false,
                  [&](const reals& xs, const reals& as, double log_scale, double, want wanted) {
                    craft::cross_entropy_options at = o;
                    at.log_scale = log_scale;
                    return run_cross_entropy<D>(ctx, xs, as, y, at, wanted);
                  });
  const reals soft = random_reals(n, c, 13).cwiseAbs();
  check_gradients<D>(x, a, std::log(6.0), clamped, 0, false,
                  [&](const reals& xs, const reals& as, double log_scale, double, want wanted) {
                    craft::cross_entropy_options at = o;
                    at.log_scale = log_scale;
                    return run_soft<D>(ctx, xs, as, soft, at, wanted);
                  });
}

TEMPLATE_LIST_TEST_CASE("info_nce: gradients by finite differences", "[alignment][gradient][long]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool normalise = GENERATE(true, false);
  const direction way = GENERATE(direction::one_way, direction::symmetric);
  const double smoothing = GENERATE(0.0, 0.15);
  const bool weighted = GENERATE(false, true);
  const bool clamped = GENERATE(false, true);
  const bool labelled = GENERATE(false, true);
  // Weights belong to the rows of both sides in the symmetric form, which needs equally many.
  const index_t n = 9, d = 5, m = labelled && !weighted ? 7 : n;
  const reals x = random_reals(n, d, 14), y = random_reals(m, d, 15);
  const array<D> weights(some_weights<D>(n));
  std::vector<index_t> xl, yl;
  if (labelled) {
    xl = labels_for(n, 4, 5);  // some labels are on one side only
    yl = labels_for(m, 5, 3);
  }
  craft::contrastive_options o;
  o.normalise = normalise;
  o.direction = way;
  o.label_smoothing = smoothing;
  if (weighted) o.weights = weights.as_numbers();
  if (clamped) o.max_scale = 4;
  check_gradients<D>(x, y, std::log(6.0), clamped, 0, false,
                  [&](const reals& xs, const reals& ys, double log_scale, double, want wanted) {
                    craft::contrastive_options at = o;
                    at.log_scale = log_scale;
                    return run_info_nce<D>(ctx, xs, ys, at, xl, yl, wanted);
                  });
}

TEMPLATE_LIST_TEST_CASE("sigmoid_contrastive: gradients by finite differences", "[alignment][gradient][long]",
                        double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool normalise = GENERATE(true, false);
  const bool clamped = GENERATE(false, true);
  const bool labelled = GENERATE(false, true);
  const double bias = GENERATE(-3.0, 0.5);
  const index_t n = 9, d = 5, m = labelled ? 7 : n;
  const reals x = random_reals(n, d, 16), y = random_reals(m, d, 17);
  std::vector<index_t> xl, yl;
  if (labelled) {
    xl = labels_for(n, 4, 5);
    yl = labels_for(m, 5, 3);
  }
  craft::sigmoid_options o;
  o.normalise = normalise;
  if (clamped) o.max_scale = 4;
  check_gradients<D>(x, y, std::log(6.0), clamped, bias, true,
                  [&](const reals& xs, const reals& ys, double log_scale, double b, want wanted) {
                    craft::sigmoid_options at = o;
                    at.log_scale = log_scale;
                    at.bias = b;
                    return run_sigmoid<D>(ctx, xs, ys, at, xl, yl, wanted);
                  });
}

TEMPLATE_LIST_TEST_CASE("gradients by row weights and by soft targets, by finite differences", "[alignment][gradient]",
                        double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool normalise = GENERATE(true, false);
  const double smoothing = GENERATE(0.0, 0.15);
  const index_t n = 9, c = 4, d = 5;
  const reals x = random_reals(n, d, 18), a = random_reals(c, d, 19), y = random_reals(n, d, 20);
  std::vector<double> w;
  for (index_t i = 0; i < n; ++i) w.push_back(0.5 + double(i % 4));
  reals soft = random_reals(n, c, 21).cwiseAbs();
  soft.row(3).setZero();
  // run(weights, more): with these weights, or none.
  const auto check = [&](const auto& run, bool targets, bool divided) {
    for (const bool given : {true, false}) {
      std::vector<double> at = given ? w : std::vector<double>(w.size(), 1.0);
      const loss_result r = run(given ? &at : nullptr, want_too{true, targets});
      std::vector<craft::gradient_block<double>> blocks = {{"weights", at.data(), n, r.weights.data()}};
      if (targets) blocks.push_back({"targets", soft.data(), soft.size(), r.targets.data()});
      check_by_differences<D>([&] { return run(&at, want_too{}).value; }, blocks);
      // Rows of weight 0 have a gradient too, if they have a part in it. A mean does not change where all weights grow alike.
      at[2] = 0;
      const loss_result zero = run(&at, want_too{true, false});
      CHECK((zero.weights(0, 2) != 0) == (r.weights(0, 2) != 0));
      const double along = zero.weights.row(0).dot(Eigen::Map<const Eigen::RowVectorXd>(at.data(), n));
      CHECK(std::abs(along - (divided ? 0 : zero.value)) <= 1e-13 * zero.weights.norm());
    }
  };
  const auto with_weights = [&](auto options, const std::vector<double>* weights, const auto& call) {
    const array<D> on_device(weights ? *weights : std::vector<double>{});
    options.normalise = normalise;
    options.label_smoothing = smoothing;
    options.log_scale = std::log(6.0);
    if (weights) options.weights = on_device.as_numbers();
    return call(options);
  };
  std::vector<index_t> labels = labels_for(n, c, 3);
  labels[0] = labels[5] = -100;
  for (const reduction reduce : {reduction::mean, reduction::sum}) {
    craft::cross_entropy_options o;
    o.reduce = reduce;
    check(
        [&](const std::vector<double>* weights, want_too more) {
          return with_weights(o, weights, [&](const auto& at) {
            return run_cross_entropy<D>(ctx, x, a, labels, at, want::value_only, more);
          });
        },
        false, reduce == reduction::mean);
    check(
        [&](const std::vector<double>* weights, want_too more) {
          return with_weights(
              o, weights, [&](const auto& at) { return run_soft<D>(ctx, x, a, soft, at, want::value_only, more); });
        },
        true, reduce == reduction::mean);
  }
  for (const direction way : {direction::one_way, direction::symmetric})
    for (const bool labelled : {false, true}) {
      craft::contrastive_options o;
      o.direction = way;
      const std::vector<index_t> xl = labelled ? labels_for(n, 4, 5) : std::vector<index_t>{},
                                 yl = labelled ? labels_for(n, 5, 3) : std::vector<index_t>{};
      check(
          [&](const std::vector<double>* weights, want_too more) {
            return with_weights(o, weights, [&](const auto& at) {
              return run_info_nce<D>(ctx, x, y, at, xl, yl, want::value_only, more);
            });
          },
          false, true);
    }
}
