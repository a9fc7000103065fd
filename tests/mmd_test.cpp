// MMD^2 against a double loop in long double: every pair function, estimator, shape and tile size.
// Reference values: mmd_reference_test.cpp; gradients by finite differences: mmd_gradients_test.cpp; what must hold
// whatever the numbers are: mmd_properties_test.cpp.
#include "craft/mmd.hpp"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

namespace {

struct shape {
  index_t n, m, d;
};
// Two rows are the least there can be; 17 and 70 rows are no multiple of any tile; 1, 3 and 40 columns are less and
// more than a vector register.
const std::vector<shape> shapes = {{2, 2, 3},   {2, 3, 1},  {3, 17, 3},   {17, 2, 40}, {17, 17, 1},
                                   {70, 17, 3}, {3, 70, 1}, {70, 70, 40}, {17, 70, 40}};
const std::vector<index_t> tiles = {0, 1, 7, 16, 64};

template <class D, class Case>
void equals_double_loop(const Case& c) {
  INFO(c.name);
  auto ctx = D::make();
  const auto kernel = c.kernel();
  std::size_t turn = 0;
  for (const shape& s : shapes) {
    // Distances of order 1 in any dimension; the device's own rounding of the input is not the question here.
    const double size = 1 / std::sqrt(double(s.d));
    const reals X = as_stored<D>(size * random_reals(s.n, s.d, 1)),
                Y = as_stored<D>(size * random_reals(s.m, s.d, 2, 0.4));
    for (const form f : {form::biased, form::unbiased, form::linear}) {
      const coefficients w(f, s.n, s.m);
      const mmd_result want = naive_mmd(c, X, Y, w);
      const rounding allowed = rounding_of(kernel, X, Y, w, roundoff<typename D::scalar>);
      craft::mmd_options options = options_of(f);
      // Two tile sizes each, a different pair at every turn.
      for (int k = 0; k < 2; ++k) {
        const index_t tile = tiles[turn++ % tiles.size()];
        INFO(name_of(f) << ", n " << s.n << ", m " << s.m << ", d " << s.d << ", tile " << tile);
        ctx.tile(D::tile(tile));
        check_close(run_mmd<D>(ctx, X, Y, kernel, options), want, allowed);
      }
    }
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("MMD equals a double loop: functions of the distance", "[mmd]", devices) {
  for_each_of(distance_functions(), [](const auto& c) { equals_double_loop<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("MMD equals a double loop: products", "[mmd]", devices) {
  for_each_of(product_functions(), [](const auto& c) { equals_double_loop<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("MMD equals a double loop: several kernels at once", "[mmd][long]", devices) {
  for_each_of(composed_functions(), [](const auto& c) { equals_double_loop<TestType>(c); });
}

TEMPLATE_LIST_TEST_CASE("MMD equals a double loop at every tile size", "[mmd]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto c = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
  const reals X = as_stored<D>(random_reals(70, 3, 3)), Y = as_stored<D>(random_reals(33, 3, 4, 0.5));
  for (const form f : {form::biased, form::unbiased}) {
    const coefficients w(f, 70, 33);
    const mmd_result want = naive_mmd(c, X, Y, w);
    const rounding allowed = rounding_of(c.kernel(), X, Y, w, roundoff<typename D::scalar>);
    craft::mmd_options options = options_of(f);
    for (const index_t tile : {1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 69, 70, 71, 103, 128, 1000}) {
      INFO(name_of(f) << ", tile " << tile);
      ctx.tile(D::tile(tile));
      check_close(run_mmd<D>(ctx, X, Y, c.kernel(), options), want, allowed);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("MMD with sample weights equals a double loop", "[mmd]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto c = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
  for (const shape& s : {shape{2, 3, 1}, shape{17, 5, 3}, shape{40, 70, 3}}) {
    const reals X = as_stored<D>(random_reals(s.n, s.d, 5)), Y = as_stored<D>(random_reals(s.m, s.d, 6, 0.5));
    sample_weights given;
    for (index_t i = 0; i < s.n; ++i) given.x.push_back(double(float(0.1 + double(i % 5))));
    for (index_t j = 0; j < s.m; ++j) given.y.push_back(double(float(j % 3 == 2 ? 0.0 : 1 + 0.3 * double(j % 4))));
    for (const form f : {form::biased, form::unbiased}) {
      for (const bool both : {true, false}) {
        const sample_weights weights{given.x, both ? given.y : std::vector<double>{}};
        const coefficients w(f, s.n, s.m, weights.x, weights.y);
        craft::mmd_options options = options_of(f);
        for (const index_t tile : {0, 7}) {
          INFO(name_of(f) << ", n " << s.n << ", m " << s.m << ", both weighted " << both << ", tile " << tile);
          ctx.tile(tile);
          check_close(run_mmd<D>(ctx, X, Y, c.kernel(), options, weights), naive_mmd(c, X, Y, w),
                      rounding_of(c.kernel(), X, Y, w, roundoff<typename D::scalar>));
        }
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("the linear-time form takes min(n, m) / 2 pairs and leaves the rest alone", "[mmd]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto c = gaussian_series("gaussians", {0.5, 1, 2}, {1, 0.5, 0.25});
  for (const shape& s : {shape{2, 2, 1}, shape{3, 2, 2}, shape{2, 7, 2}, shape{131, 200, 3}}) {
    INFO("n " << s.n << ", m " << s.m);
    const reals X = as_stored<D>(random_reals(s.n, s.d, 7)), Y = as_stored<D>(random_reals(s.m, s.d, 8, 0.5));
    const coefficients w(form::linear, s.n, s.m);
    craft::mmd_options options;
    options.estimator = craft::estimator::linear;
    const mmd_result got = run_mmd<D>(ctx, X, Y, c.kernel(), options);
    check_close(got, naive_mmd(c, X, Y, w), rounding_of(c.kernel(), X, Y, w, roundoff<typename D::scalar>));
    const index_t used = std::min(s.n, s.m) / 2 * 2;
    CHECK(got.x.bottomRows(s.n - used).norm() == 0);
    CHECK(got.y.bottomRows(s.m - used).norm() == 0);
  }
}
