// The pull-back of relative representations: every gradient of every similarity under every option, by finite
// differences; statistics that carry no gradient; float against double.
#include <Eigen/Dense>
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"
#include "rejects.hpp"
#include "relative_runs.hpp"

using namespace craft_test;
using craft::anchor_statistics;

namespace {

/// Gradients to x, anchors and log scale of sum W . out against central differences.
template <class D, class Case>
void check_pullback(const Case& c, const craft::relative_options& given) {
  auto ctx = D::make();
  const reals W = random_reals(6, 4, 13);
  reals X = random_reals(6, 3, 11), A = random_reals(4, 3, 12, 0.4);
  double log_scale = 0.3;
  craft::relative_options options = given;
  options.log_scale = log_scale;
  const relative_result got = run_relative<D>(ctx, X, A, c.kernel(), options, W);
  check_by_differences<D>(
      [&] {
        craft::relative_options now = given;
        now.log_scale = log_scale;
        return run_map<D>(ctx, X, A, c.kernel(), now).cwiseProduct(W).sum();
      },
      {{"x", X.data(), X.size(), got.x.data()},
       {"anchors", A.data(), A.size(), got.anchors.data()},
       {"log_scale", &log_scale, 1, &got.log_scale}},
      c.name);
  CHECK(got.x.norm() > 1e-3);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("pull-back of every similarity under every option", "[relative][gradients][long]",
                        double_devices) {
  for_each_pair_function([](const auto& c) {
    for_each_option([&](const craft::relative_options& options) { check_pullback<TestType>(c, options); });
  });
}

TEMPLATE_LIST_TEST_CASE("push-forward and pull-back are each other's transpose", "[relative][gradients]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(6, 3, 11)), A = as_stored<D>(random_reals(4, 3, 12, 0.4)),
              W = as_stored<D>(random_reals(6, 4, 13));
  const reals DX = as_stored<D>(random_reals(6, 3, 14)), DA = as_stored<D>(random_reals(4, 3, 15));
  const array<D> x(X), a(A, 1), dx(DX, 2), da(DA);
  for_each_pair_function([&](const auto& c) {
    for_each_option([&](craft::relative_options options) {
      INFO(c.name);
      for (const bool detached : {false, true}) {
        if (detached && options.statistics == anchor_statistics::none) continue;
        options.statistics_gradient = !detached;
        options.log_scale = 0.3;
        const relative_result back = run_relative<D>(ctx, X, A, c.kernel(), options, W);
        const auto along = [&](bool of_x, bool of_anchors, double of_scale) {
          array<D> out(6, 4, 7.0);
          craft::relative_tangents<typename D::scalar, D::space> t;
          if (of_x) t.x = dx.in();
          if (of_anchors) t.anchors = da.in();
          t.log_scale = of_scale;
          craft::relative_pushforward(ctx, x.in(), a.in(), c.kernel(), options, t, out.out());
          return out.get();
        };
        // <W, J t> = <J' W, t>, for each input alone; and the three add up.
        const reals by_x = along(true, false, 0), by_anchors = along(false, true, 0), by_scale = along(false, false, -1.5);
        const double size = std::is_same_v<T, double> ? 1e-12 : 2e-4;
        const auto agrees = [&](const reals& moved, double want, double of) {
          CHECK(std::abs(moved.cwiseProduct(W).sum() - want) <= size * (moved.cwiseAbs().cwiseProduct(W.cwiseAbs()).sum() + of));
        };
        agrees(by_x, back.x.cwiseProduct(DX).sum(), back.x.cwiseAbs().sum());
        agrees(by_anchors, back.anchors.cwiseProduct(DA).sum(), back.anchors.cwiseAbs().sum());
        agrees(by_scale, -1.5 * back.log_scale, std::abs(back.log_scale));
        CHECK(relative_distance(along(true, true, -1.5), reals(by_x + by_anchors + by_scale)) <= 10 * size);
      }
    });
  });
}

TEMPLATE_LIST_TEST_CASE("push-forward at the largest scale, and what it refuses", "[relative][gradients][errors]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const array<D> x(random_reals(3, 2, 1)), a(random_reals(2, 2, 2)), wrong(random_reals(2, 3, 3));
  craft::relative_options options;
  options.log_scale = 1.0, options.max_scale = 2;
  const auto along = [&](const craft::relative_tangents<double, D::space>& t, array<D>& out) {
    craft::relative_pushforward(ctx, x.in(), a.in(), craft::dot_product<>(), options, t, out.out());
  };
  const auto moved = [&](double log_scale) {
    array<D> out(3, 2);
    craft::relative_tangents<double, D::space> t;
    t.log_scale = log_scale;
    along(t, out);
    return out.get();
  };
  const reals r = run_map<D>(ctx, x.get(), a.get(), craft::dot_product<>(), options);
  CHECK(moved(0.5).norm() == 0);  // it does not leave the bound
  CHECK(relative_distance(moved(-0.5), reals(-0.5 * r)) <= 1e-15);
  array<D> out(3, 2, sentinel);
  const watched outputs(out);
  craft::relative_tangents<double, D::space> t;
  t.x = wrong.in();
  rejects<craft::shape_error>(outputs, [&] { along(t, out); }, {"relative_pushforward", "tangent of x", "3 x 2", "2 x 3"});
  t.x = {}, t.anchors = wrong.in();
  rejects<craft::shape_error>(outputs, [&] { along(t, out); }, {"tangent of anchors", "2 x 2", "2 x 3"});
}

TEMPLATE_LIST_TEST_CASE("detached statistics are numbers", "[relative][gradients]", double_devices) {
  // Anchors that are fitted on stay where they are; the anchors that are compared with move.
  using D = TestType;
  auto ctx = D::make();
  const reals W = random_reals(6, 4, 13);
  for_each_pair_function([&](const auto& c) {
    for (const auto statistics : {anchor_statistics::centre, anchor_statistics::standardise})
      for (const bool normalise : {true, false}) {
        INFO(c.name << ", statistics " << int(statistics) << (normalise ? ", normalised" : ""));
        reals X = random_reals(6, 3, 11), A = random_reals(4, 3, 12, 0.4);
        craft::relative_options options;
        options.statistics = statistics;
        options.normalise = normalise;
        const relative_result attached = run_relative<D>(ctx, X, A, c.kernel(), options, W);
        options.statistics_gradient = false;
        const relative_result got = run_relative<D>(ctx, X, A, c.kernel(), options, W);
        CHECK(got.out == attached.out);
        CHECK(relative_distance(got.x, attached.x) <= 1e-13);  // x is no part of the statistics
        // By hand: prepared rows in a map without statistics, and the chain rule of (x - mean) / std.
        const reals mean = A.colwise().mean();
        reals inverse = reals::Ones(1, 3);
        if (statistics == anchor_statistics::standardise)
          for (index_t k = 0; k < 3; ++k) inverse(0, k) = std::sqrt(3 / (A.col(k).array() - mean(0, k)).square().sum());
        const auto prepare = [&](const reals& Z) {
          return reals((Z.rowwise() - mean.row(0)).array().rowwise() * inverse.row(0).array());
        };
        craft::relative_options plain;
        plain.normalise = normalise;
        const relative_result want = run_relative<D>(ctx, prepare(X), prepare(A), c.kernel(), plain, W);
        CHECK((got.out - want.out).norm() <= 1e-12);
        CHECK(relative_distance(got.x, reals(want.x.array().rowwise() * inverse.row(0).array())) <= 1e-11);
        CHECK(relative_distance(got.anchors, reals(want.anchors.array().rowwise() * inverse.row(0).array())) <= 1e-11);
      }
  });
}

TEMPLATE_LIST_TEST_CASE("float gives the gradients of the same stored numbers", "[relative][gradients]",
                        float_devices) {
  using D = TestType;
  using W = device<typename D::backend, double>;
  auto ctx = D::make();
  auto wide_ctx = W::make();
  const reals X = as_stored<D>(random_reals(30, 9, 14)), A = as_stored<D>(random_reals(7, 9, 15, 0.4)),
              upstream = as_stored<D>(random_reals(30, 7, 16));
  for_each_pair_function([&](const auto& c) {
    for_each_option([&](craft::relative_options options) {
      options.log_scale = 1.5;
      INFO(c.name);
      const relative_result got = run_relative<D>(ctx, X, A, c.kernel(), options, upstream),
                            want = run_relative<W>(wide_ctx, X, A, c.kernel(), options, upstream);
      // Slopes are met to what the values are met to, times the curvature of the narrowest kernel (sigma = 1/2, 16 /
      // e^2) and the sum over the anchors: 1e-5 of the largest gradient, which is over 80 roundings.
      const double size = std::max(want.x.norm(), want.anchors.norm());
      CHECK((got.x - want.x).norm() <= 1e-5 * size);
      CHECK((got.anchors - want.anchors).norm() <= 1e-5 * size);
      CHECK(std::abs(got.log_scale - want.log_scale) <= 1e-5 * want.out.cwiseProduct(upstream).cwiseAbs().sum());
    });
  });
}

TEMPLATE_LIST_TEST_CASE("zero rows and anchors without spread give finite numbers", "[relative][numbers]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = random_reals(5, 3, 61), W = random_reals(5, 4, 62);
  reals zero_row = X, flat = random_reals(4, 3, 63);
  zero_row.row(2).setZero();
  flat.col(1).setConstant(0.5);  // deviation 0 in one column
  const reals same = X.topRows(1).replicate(4, 1), zero_anchor = reals::Zero(4, 3);
  for (const reals& x : {X, zero_row})
    for (const reals& a : {flat, same, zero_anchor})
      for_each_pair_function([&](const auto& c) {
        for_each_option([&](const craft::relative_options& options) {
          INFO(c.name);
          const relative_result got = run_relative<D>(ctx, x, a, c.kernel(), options, W);
          CHECK(got.out.allFinite());
          CHECK(got.x.allFinite());
          CHECK(got.anchors.allFinite());
          CHECK(std::isfinite(got.log_scale));
        });
      });
  // A zero row has no direction: cosine 0.
  const reals got = run_map<D>(ctx, zero_row, flat, craft::dot_product<>(), {});
  CHECK(got.row(2).norm() == 0);
}
