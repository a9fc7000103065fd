// What must hold of MMD^2 whatever the numbers are: symmetries; and hard numbers: large means, collapsed batches,
// extreme scales.
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Dense>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

namespace {

/// Some kernels that differ in what the engine may do with them: smooth, with a square root, of the product s, of all
/// three numbers, several with parameters.
template <class F>
void for_some_kernels(F&& f) {
  f(std::get<0>(distance_functions()));
  f(std::get<6>(distance_functions()));
  f(std::get<0>(product_functions()));
  f(std::get<1>(product_functions()));
  f(std::get<0>(composed_functions()));
}

std::vector<index_t> shuffled(index_t n) {
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t(0));
  std::mt19937_64 bits(5);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[bits() % i]);
  return order;
}

reals rows_of(const reals& x, const std::vector<index_t>& order) {
  reals out(x.rows(), x.cols());
  for (std::size_t i = 0; i < order.size(); ++i) out.row(index_t(i)) = x.row(order[i]);
  return out;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the order of the samples does not matter", "[mmd][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  ctx.tile(16);
  const reals X = as_stored<D>(random_reals(37, 5, 21)), Y = as_stored<D>(random_reals(21, 5, 22, 0.4));
  const auto px = shuffled(37), py = shuffled(21);
  for_some_kernels([&](const auto& c) {
    for (const form f : {form::biased, form::unbiased}) {
      INFO(c.name << ", " << name_of(f));
      mmd_result want = run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f));
      want.x = rows_of(want.x, px);
      want.y = rows_of(want.y, py);
      check_close(run_mmd<D>(ctx, rows_of(X, px), rows_of(Y, py), c.kernel(), options_of(f)), want,
                  twice<D>(c, X, Y, f));
    }
  });
}

TEMPLATE_LIST_TEST_CASE("x and y change places", "[mmd][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(19, 4, 23)), Y = as_stored<D>(random_reals(34, 4, 24, 0.4));
  for_some_kernels([&](const auto& c) {
    for (const form f : all_forms) {
      INFO(c.name << ", " << name_of(f));
      mmd_result want = run_mmd<D>(ctx, Y, X, c.kernel(), options_of(f));
      std::swap(want.x, want.y);
      check_close(run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f)), want, twice<D>(c, X, Y, f));
    }
  });
}

TEMPLATE_LIST_TEST_CASE("rotations change nothing, and turn the gradients", "[mmd][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals Q = Eigen::HouseholderQR<Eigen::MatrixXd>(Eigen::MatrixXd(random_reals(6, 6, 25))).householderQ() *
                  Eigen::MatrixXd::Identity(6, 6);
  const reals X = as_stored<D>(random_reals(20, 6, 26)), Y = as_stored<D>(random_reals(13, 6, 27, 0.4));
  for_some_kernels([&](const auto& c) {
    for (const form f : all_forms) {
      INFO(c.name << ", " << name_of(f));
      mmd_result want = run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f));
      want.x = want.x * Q;
      want.y = want.y * Q;
      // The rotated input is rounded again.
      const rounding allowed =
          rounding_of(c.kernel(), X, Y, coefficients(f, 20, 13), roundoff<typename D::scalar>, true) * 2;
      check_close(run_mmd<D>(ctx, X * Q, Y * Q, c.kernel(), options_of(f)), want, allowed);
    }
  });
}

TEMPLATE_LIST_TEST_CASE("translations change nothing for functions of the distance", "[mmd][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  // Quarters and a shift of 64: sums and differences are exact in float.
  const auto quarters = [](reals r) { return reals((4 * r).array().round() / 4); };
  const reals X = quarters(random_reals(20, 6, 28)), Y = quarters(random_reals(13, 6, 29, 0.4));
  const reals shift = reals::Constant(20, 6, 64);
  const auto c = std::get<0>(composed_functions());
  for (const form f : all_forms) {
    INFO(name_of(f));
    const mmd_result want = run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f));
    // The mean is no multiple of a quarter: centring rounds in the last place of numbers of size 64 at most once.
    check_close(run_mmd<D>(ctx, X + shift, Y + shift.topRows(13), c.kernel(), options_of(f)), want,
                twice<D>(c, X, Y, f));
  }
}

TEMPLATE_LIST_TEST_CASE("a sample has no distance from itself", "[mmd][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  ctx.tile(16);
  const reals X = as_stored<D>(random_reals(37, 5, 31));
  const double unit = roundoff<typename D::scalar>;
  for_each_pair_function([&](const auto& c) {
    INFO(c.name);
    // Two copies of a sample are two samples: only the pairs (i, i) within one are known to have D = 0, and for a
    // square root a distance of some roundings is the root of them.
    const auto kernel = c.kernel();
    const mmd_result got = run_mmd<D>(ctx, X, X, kernel, options_of(form::biased));
    const rounding allowed = rounding_of(kernel, X, X, coefficients(form::biased, 37, 37), unit);
    const double norm = X.norm() / std::sqrt(37.0);
    const double rooted = c.smooth ? 0 : 4 * std::sqrt(unit) * norm / 37;
    CHECK(std::abs(got.value) <= allowed.value + rooted);
    // There the slope is 1 / sqrt(rounding), and acts on the rounding of x - x.
    const double slope = c.smooth ? 0 : 4 * std::sqrt(unit) / 37;
    CHECK(got.x.norm() <= allowed.x + slope);
    CHECK(got.y.norm() <= allowed.y + slope);
  });
}

TEMPLATE_LIST_TEST_CASE("biased MMD is positive between different samples, and grows as they part", "[mmd][properties]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = random_reals(30, 3, 32), Y = random_reals(40, 3, 33);
  for_some_kernels([&](const auto& c) {
    INFO(c.name);
    double before = 0;
    for (const double shift : {0.5, 1.0, 2.0}) {
      const double value =
          run_mmd<D>(ctx, X, Y + reals::Constant(40, 3, shift), c.kernel(), options_of(form::biased)).value;
      CHECK(value > before);
      before = value;
    }
  });
}

// ---------------------------------------------------------------------------------------------------------
// Hard numbers

TEMPLATE_LIST_TEST_CASE("float keeps its digits beside a large mean", "[mmd][numbers]", float_devices) {
  // Features of size 1 around a mean of 1000: what float stores has a spacing of 6e-5, but the distances between the
  // stored numbers are well defined, and after centring are met to the same digits as without a mean: within what
  // rounding may cost centred data. |x|^2 = d 1e6 has a spacing of 0.5 for d = 8: a Gram form without centring would be
  // wrong by 1 in every distance.
  using D = TestType;
  auto ctx = D::make();
  for (const double mean : {0.0, 30.0, 1000.0}) {
    const reals X = as_stored<D>(random_reals(40, 8, 81, mean)), Y = as_stored<D>(random_reals(30, 8, 82, mean + 0.4));
    const auto check = [&](const auto& c) {
      for (const form f : all_forms) {
        INFO(c.name << ", " << name_of(f) << ", mean " << mean);
        const coefficients w(f, 40, 30);
        // rounding_of centres the data itself.
        check_close(run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f)), naive_mmd(c, X, Y, w),
                    rounding_of(c.kernel(), X, Y, w, roundoff<float>));
      }
    };
    check(gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25}));
    check(std::get<6>(distance_functions()));
    // The bound says something: to 1e-4 of the value.
    const auto c = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
    const coefficients w(form::biased, 40, 30);
    CHECK(rounding_of(c.kernel(), X, Y, w, roundoff<float>).value < 1e-4 * naive_mmd(c, X, Y, w).value);
  }
}

TEMPLATE_LIST_TEST_CASE("a bandwidth rule beside a large mean", "[mmd][numbers]", float_devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(40, 8, 83, 1000)), Y = as_stored<D>(random_reals(30, 8, 84, 1000.4));
  const auto c = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
  for (const auto rule : {craft::bandwidth_rule::mean, craft::bandwidth_rule::mean_offdiagonal,
                          craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid}) {
    INFO("rule " << int(rule));
    craft::mmd_options options;
    options.bandwidth.rule = rule;
    const mmd_result got = run_mmd<D>(ctx, X, Y, c.kernel(), options);
    // The same stored numbers in double.
    using W = device<typename D::backend, double>;
    const mmd_result want = run_mmd<W>(W::make(), X, Y, c.kernel(), options);
    const double root = std::sqrt(craft::bandwidth_scale(craft::cpu(1), X, Y, options.bandwidth));
    rounding allowed =
        rounding_of(c.kernel(), X / root, Y / root, coefficients(form::biased, 40, 30), roundoff<float>) * 2;
    allowed.x /= root;
    allowed.y /= root;
    check_close(got, want, allowed);
  }
}

namespace {

void check_finite(const mmd_result& r) {
  CHECK(std::isfinite(r.value));
  CHECK(r.x.allFinite());
  CHECK(r.y.allFinite());
  for (double v : r.weights) CHECK(std::isfinite(v));
  for (double v : r.bandwidths) CHECK(std::isfinite(v));
}

const std::vector<craft::bandwidth_rule> rules = {craft::bandwidth_rule::fixed, craft::bandwidth_rule::mean,
                                                  craft::bandwidth_rule::mean_offdiagonal,
                                                  craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid};

}  // namespace

TEMPLATE_LIST_TEST_CASE("collapsed batches give finite values and gradients", "[mmd][numbers][long]", devices) {
  using D = TestType;
  auto ctx = D::make();
  ctx.tile(7);
  const reals one = random_reals(1, 4, 91, 0.3), X = random_reals(9, 4, 92);
  const reals same_x = one.replicate(9, 1), same_y = one.replicate(8, 1);
  reals mostly = same_x;
  mostly.row(8).array() += 1;
  struct batch {
    const char* name;
    reals x, y;
    bool all_equal;
  };
  for (const batch& b :
       {batch{"all equal", same_x, same_y, true}, batch{"x equal", same_x, X, false}, batch{"x = y", X, X, false},
        batch{"mostly equal", mostly, same_y, false}, batch{"zero", reals::Zero(9, 4), reals::Zero(8, 4), true},
        batch{"x zero", reals::Zero(9, 4), X, false}}) {
    for_each_pair_function([&](const auto& c) {
      const auto kernel = c.kernel();
      for (const form f : all_forms) {
        INFO(b.name << ", " << c.name << ", " << name_of(f));
        const mmd_result got = run_mmd<D>(ctx, b.x, b.y, kernel, options_of(f));
        check_finite(got);
        if (b.all_equal) CHECK(std::abs(got.value) <= 1e3 * roundoff<typename D::scalar>);
      }
    });
    const auto every_option = [&](const auto& kernel) {
      for (const auto rule : rules)
        for (const auto sample : {craft::bandwidth_sample::pooled, craft::bandwidth_sample::x})
          for (const bool gradient : {false, true})
            for (const auto columns : {craft::column_scaling::none, craft::column_scaling::minmax_separate,
                                       craft::column_scaling::minmax_joint})
              for (const form f : all_forms) {
                INFO(b.name << ", rule " << int(rule) << ", sample " << int(sample) << ", gradient " << gradient
                            << ", columns " << int(columns) << ", " << name_of(f));
                craft::mmd_options options = options_of(f);
                options.bandwidth = {rule, sample, gradient};
                options.columns = columns;
                const mmd_result got = run_mmd<D>(ctx, b.x, b.y, kernel, options);
                check_finite(got);
                if (b.all_equal) CHECK(std::abs(got.value) <= 1e3 * roundoff<typename D::scalar>);
              }
    };
    every_option(craft::gaussians<>({0.5, 1, 2}));
    every_option(craft::energy<>() + 0.5 * craft::laplacian(0.7));
  }
}

TEMPLATE_LIST_TEST_CASE("a bandwidth of zero falls back to the mean, then to 1", "[mmd][numbers]", devices) {
  using D = TestType;
  auto ctx = D::make();
  // More than half of the pairs are equal: the median is 0, the mean is not.
  reals X = reals::Zero(9, 2), Y = reals::Zero(8, 2);
  X(8, 0) = 2;
  Y(7, 1) = 1;
  const craft::gaussian kernel(0.8);
  craft::mmd_options options, mean;
  mean.bandwidth.rule = craft::bandwidth_rule::mean;
  for (const auto rule : {craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid})
    for (const bool gradient : {false, true}) {
      options.bandwidth = {rule, craft::bandwidth_sample::pooled, gradient};
      mean.bandwidth.gradient = gradient;
      const mmd_result got = run_mmd<D>(ctx, X, Y, kernel, options), want = run_mmd<D>(ctx, X, Y, kernel, mean);
      CHECK(got.value == want.value);
      CHECK(got.x == want.x);
    }
  // All equal in x, which alone gives the bandwidth: M = 1.
  const reals Z = reals::Constant(5, 2, 0.5), W = random_reals(6, 2, 93);
  for (const auto rule : rules) {
    options.bandwidth = {rule, craft::bandwidth_sample::x, false};
    const mmd_result got = run_mmd<D>(ctx, Z, W, kernel, options), want = run_mmd<D>(ctx, Z, W, kernel);
    check_equal(got, want);
  }
}

TEMPLATE_LIST_TEST_CASE("extreme scales stay finite", "[mmd][numbers]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = random_reals(9, 3, 94), Y = random_reals(8, 3, 95, 0.4);
  for (const double scale : {1e-12, 1e-4, 1e4, 1e12}) {
    INFO("scale " << scale);
    const auto finite = [&](const auto& kernel) {
      for (const form f : all_forms) check_finite(run_mmd<D>(ctx, scale * X, scale * Y, kernel, options_of(f)));
    };
    finite(craft::gaussians<>({0.5, 1, 2}));
    finite(craft::laplacian(1.0));
    finite(craft::energy<>());
    finite(craft::inverse_multiquadric(1.0));
    finite(craft::rational_quadratic(1.0, 0.5));
    // With a bandwidth rule the scale cancels.
    for (const auto rule : rules) {
      if (rule == craft::bandwidth_rule::fixed) continue;
      craft::mmd_options options;
      options.bandwidth.rule = rule;
      const craft::gaussian kernel(1.0);
      const double unscaled = run_mmd<D>(ctx, X, Y, kernel, options).value;
      const mmd_result got = run_mmd<D>(ctx, scale * X, scale * Y, kernel, options);
      check_finite(got);
      CHECK(std::abs(got.value - unscaled) <= 100 * roundoff<typename D::scalar>);
    }
  }
}
