// Every gradient of MMD^2 under every option, by finite differences: craft::gradcheck calls the verb for its value
// alone and compares with the gradients that it gave. Gradients that stop at a bandwidth or at a column's range are
// compared with what they mean: the same number held fixed.
#include <cmath>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

namespace {

// Unequal sizes; no two distances, and no two numbers of a column, so close that a step of a finite difference changes
// their order.
const reals X = random_reals(6, 3, 11), Y = random_reals(5, 3, 12, 0.5);

template <class D, class Case>
void every_gradient(const Case& c) {
  auto ctx = D::make();
  for (const form f : {form::biased, form::unbiased, form::linear}) {
    INFO(c.name << ", " << name_of(f));
    craft::mmd_options options = options_of(f);
    check_gradients<D>(ctx, X, Y, c.make, c.weights, c.bandwidths, options);
  }
}

const std::vector<craft::bandwidth_rule> rules = {craft::bandwidth_rule::mean, craft::bandwidth_rule::mean_offdiagonal,
                                                  craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid};
const std::vector<craft::bandwidth_sample> samples = {craft::bandwidth_sample::pooled, craft::bandwidth_sample::x};

// A series, a kernel with a square root, and a sum with weights: the options do not look into the kernel.
const auto series = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
const auto composed = std::get<4>(composed_functions());

sample_weights some_weights() {
  sample_weights w;
  for (index_t i = 0; i < X.rows(); ++i) w.x.push_back(0.3 + double((7 * i) % 5));
  for (index_t j = 0; j < Y.rows(); ++j) w.y.push_back(j == 1 ? 0.01 : 1 + 0.5 * double(j));
  return w;
}

template <class D>
void check_both(const craft::mmd_options& options, const sample_weights& weights = {}) {
  auto ctx = D::make();
  INFO(series.name);
  check_gradients<D>(ctx, X, Y, series.make, series.weights, series.bandwidths, options, weights);
  INFO(composed.name);
  check_gradients<D>(ctx, X, Y, composed.make, composed.weights, composed.bandwidths, options, weights);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("gradients of every pair function: of the distance", "[mmd][gradients][long]", double_devices) {
  for_each_of(distance_functions(), [](const auto& c) { every_gradient<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("gradients of every pair function: products", "[mmd][gradients][long]", double_devices) {
  for_each_of(product_functions(), [](const auto& c) { every_gradient<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("gradients of every pair function: several at once", "[mmd][gradients][long]", double_devices) {
  for_each_of(composed_functions(), [](const auto& c) { every_gradient<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("gradients with sample weights", "[mmd][gradients][long]", double_devices) {
  for (const form f : {form::biased, form::unbiased})
    for (const bool both : {true, false}) {
      INFO(name_of(f) << (both ? ", both" : ", x only"));
      craft::mmd_options options = options_of(f);
      sample_weights w = some_weights();
      if (!both) w.y.clear();
      check_both<TestType>(options, w);
    }
}

TEMPLATE_LIST_TEST_CASE("gradients through every bandwidth rule", "[mmd][gradients][long]", double_devices) {
  for (const auto rule : rules)
    for (const auto sample : samples)
      for (const form f : {form::biased, form::unbiased, form::linear}) {
        INFO(name_of(f) << ", rule " << int(rule) << ", sample " << int(sample));
        craft::mmd_options options = options_of(f);
        options.bandwidth = {rule, sample, true};
        check_both<TestType>(options);
      }
}

TEMPLATE_LIST_TEST_CASE("gradients through the range of the columns", "[mmd][gradients][long]", double_devices) {
  for (const auto columns : {craft::column_scaling::minmax_separate, craft::column_scaling::minmax_joint})
    for (const form f : {form::biased, form::unbiased, form::linear}) {
      // A large eps shows whether it is in the right place.
      for (const double eps : {1e-8, 0.3}) {
        INFO(name_of(f) << ", columns " << int(columns) << ", eps " << eps);
        craft::mmd_options options = options_of(f);
        options.columns = columns;
        options.column_eps = eps;
        check_both<TestType>(options);
      }
    }
}

TEMPLATE_LIST_TEST_CASE("gradients of all options together", "[mmd][gradients][long]", double_devices) {
  for (const auto rule : rules)
    for (const auto columns : {craft::column_scaling::minmax_separate, craft::column_scaling::minmax_joint})
      for (const form f : {form::biased, form::unbiased}) {
        INFO(name_of(f) << ", rule " << int(rule) << ", columns " << int(columns));
        craft::mmd_options options = options_of(f);
        options.columns = columns;
        options.bandwidth = {
            rule, rule == craft::bandwidth_rule::mean ? craft::bandwidth_sample::x : craft::bandwidth_sample::pooled,
            true};
        options.factor = -2.5;
        options.offset = 10;
        check_both<TestType>(options, some_weights());
      }
}

TEMPLATE_LIST_TEST_CASE("a detached bandwidth is a number", "[mmd][gradients]", devices) {
  // On distances divided by M: the value and gradients of x / sqrt(M), y / sqrt(M), the latter divided by sqrt(M).
  using D = TestType;
  auto ctx = D::make();
  for (const auto rule : rules)
    for (const auto sample : samples)
      for (const form f : {form::biased, form::unbiased, form::linear}) {
        INFO(name_of(f) << ", rule " << int(rule) << ", sample " << int(sample));
        craft::mmd_options options = options_of(f);
        const craft::mmd_options fixed = options;
        options.bandwidth = {rule, sample, false};
        const array<D> x(X), y(Y);
        const double scale = craft::bandwidth_scale(ctx, x.in(), y.in(), options.bandwidth);
        const double root = std::sqrt(scale);
        const mmd_result got = run_mmd<D>(ctx, X, Y, series.kernel(), options);
        mmd_result want = run_mmd<D>(ctx, X / root, Y / root, series.kernel(), fixed);
        want.x /= root;
        want.y /= root;
        // Two runs with different roundings of the same distances.
        rounding allowed = rounding_of(series.kernel(), X / root, Y / root, coefficients(f, X.rows(), Y.rows()),
                                       roundoff<typename D::scalar>, true) *
                           2;
        allowed.x /= root;
        allowed.y /= root;
        check_close(got, want, allowed);
        // It makes a difference.
        if (std::is_same_v<typename D::scalar, double>) {
          options.bandwidth.gradient = true;
          const mmd_result attached = run_mmd<D>(ctx, X, Y, series.kernel(), options);
          CHECK(attached.value == got.value);
          CHECK((attached.x - got.x).norm() + (attached.y - got.y).norm() > 1e-6);
        }
      }
}

TEMPLATE_LIST_TEST_CASE("a detached range of a column is a number", "[mmd][gradients]", devices) {
  using D = TestType;
  auto ctx = D::make();
  for (const bool joint : {false, true})
    for (const form f : {form::biased, form::unbiased, form::linear}) {
      INFO(name_of(f) << (joint ? ", joint" : ", separate"));
      craft::mmd_options options = options_of(f);
      const craft::mmd_options plain = options;
      options.columns = joint ? craft::column_scaling::minmax_joint : craft::column_scaling::minmax_separate;
      options.column_gradient = false;
      options.column_eps = 0.1;
      const reals x = as_stored<D>(X), y = as_stored<D>(Y);
      reals lx = x.colwise().minCoeff(), hx = x.colwise().maxCoeff(), ly = y.colwise().minCoeff(),
            hy = y.colwise().maxCoeff();
      if (joint) {
        lx = ly = lx.cwiseMin(ly).eval();
        hx = hy = hx.cwiseMax(hy).eval();
      }
      const reals inverse_x = (hx - lx).array().unaryExpr([](double r) { return 1 / (r + 0.1); }),
                  inverse_y = (hy - ly).array().unaryExpr([](double r) { return 1 / (r + 0.1); });
      const reals u = (x.rowwise() - lx.row(0)).array().rowwise() * inverse_x.row(0).array(),
                  v = (y.rowwise() - ly.row(0)).array().rowwise() * inverse_y.row(0).array();
      const mmd_result got = run_mmd<D>(ctx, x, y, series.kernel(), options);
      mmd_result want = run_mmd<D>(ctx, u, v, series.kernel(), plain);
      want.x = want.x.array().rowwise() * inverse_x.row(0).array();
      want.y = want.y.array().rowwise() * inverse_y.row(0).array();
      rounding allowed =
          rounding_of(series.kernel(), u, v, coefficients(f, x.rows(), y.rows()), roundoff<typename D::scalar>, true) *
          2;
      allowed.x *= inverse_x.maxCoeff();
      allowed.y *= inverse_y.maxCoeff();
      check_close(got, want, allowed);
    }
}

TEMPLATE_LIST_TEST_CASE("detached bandwidth over detached columns, weighted", "[mmd][gradients]", double_devices) {
  // Nothing to compare with but itself: gradients that stop at both numbers leave out exactly what the attached ones
  // add, and the parameter gradients and the value do not know the difference.
  using D = TestType;
  auto ctx = D::make();
  craft::mmd_options options;
  options.columns = craft::column_scaling::minmax_joint;
  options.bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::pooled, true};
  const mmd_result all = run_mmd<D>(ctx, X, Y, series.kernel(), options, some_weights());
  options.bandwidth.gradient = false;
  const mmd_result no_bandwidth = run_mmd<D>(ctx, X, Y, series.kernel(), options, some_weights());
  options.column_gradient = false;
  const mmd_result none = run_mmd<D>(ctx, X, Y, series.kernel(), options, some_weights());
  options.bandwidth.gradient = true;
  const mmd_result no_columns = run_mmd<D>(ctx, X, Y, series.kernel(), options, some_weights());
  for (const mmd_result* r : {&no_bandwidth, &none, &no_columns}) {
    CHECK(r->value == all.value);
    CHECK(r->weights == all.weights);
    CHECK(r->bandwidths == all.bandwidths);
    CHECK(relative_distance(r->x, all.x) > 1e-3);
  }
  // In the columns that hold no extreme of x the range plays no part.
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t k = 0; k < X.cols(); ++k) {
      const bool extreme = X(i, k) == std::max(X.col(k).maxCoeff(), Y.col(k).maxCoeff()) ||
                           X(i, k) == std::min(X.col(k).minCoeff(), Y.col(k).minCoeff());
      CHECK((std::abs(no_columns.x(i, k) - all.x(i, k)) > 1e-12) == extreme);
      CHECK((std::abs(none.x(i, k) - no_bandwidth.x(i, k)) > 1e-12) == extreme);
    }
}
