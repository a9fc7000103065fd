#include "craft/adapters/ceres.hpp"

#include <ceres/gradient_problem.h>
#include <ceres/gradient_problem_solver.h>

#include <cmath>
#include <vector>

#include "../../catch.hpp"
#include "../shift.hpp"

using craft_test::shift;

namespace {

ceres::GradientProblemSolver::Summary solve(shift& s, shift::matrix& x) {
  ceres::GradientProblemSolver::Options options;
  options.logging_type = ceres::SILENT;
  options.max_num_iterations = 100;
  ceres::GradientProblemSolver::Summary summary;
  const ceres::GradientProblem problem(new craft::ceres_function(s.f));  // owns the adapter, not f
  ceres::Solve(options, problem, x.data(), &summary);
  return summary;
}

}  // namespace

TEST_CASE("Ceres' function has the verb's value and gradient", "[ceres]") {
  shift s;
  const craft::ceres_function adapter(s.f);
  const ceres::FirstOrderFunction& function = adapter;
  CHECK(function.NumParameters() == 36);

  double cost = 0;
  shift::matrix gradient(s.n, s.d);
  CHECK(function.Evaluate(s.x.data(), &cost, gradient.data()));
  CHECK(cost == s.value_at(s.x.data()));
  CHECK(gradient == s.gradient_at(s.x.data()));
  CHECK(function.Evaluate(s.x.data(), &cost, nullptr));
  CHECK(cost == s.value_at(s.x.data()));
  CHECK(s.values == 1);
}

TEST_CASE("Ceres minimises", "[ceres]") {
  shift s;
  shift::matrix x = s.x;
  const auto summary = solve(s, x);
  INFO(summary.FullReport());
  CHECK(summary.IsSolutionUsable());
  CHECK(summary.final_cost < 0.02 * s.value_at(s.x.data()));
  CHECK(summary.final_cost == Approx(s.value_at(x.data())));
}

TEST_CASE("no error passes through Ceres", "[ceres]") {
  shift s;
  shift::matrix x = s.x;
  s.throws = true;
  s.fails_after = GENERATE(0, 5);  // at the first point, and later
  CHECK(solve(s, x).termination_type == ceres::FAILURE);
  CHECK(x == s.x);
  CHECK_THROWS_WITH(s.f.rethrow(), "the loss has had enough");
}

TEST_CASE("numbers that are not finite are a failure to Ceres", "[ceres]") {
  shift s;
  s.not_finite = true;
  s.fails_after = 0;
  double cost = 0;
  CHECK_FALSE(craft::ceres_function(s.f).Evaluate(s.x.data(), &cost, nullptr));
  CHECK_NOTHROW(s.f.rethrow());
}

TEST_CASE("Ceres steps back from where there is no value", "[ceres]") {
  // x - log x, with its minimum at 1: the first steps from 30 leave the domain.
  int outside = 0;
  craft::loss_function f(1, 1, [&](const auto& x, double& value, const auto& gradient) {
    const double at = x.data()[0];
    outside += at <= 0;
    value = at - std::log(at);
    if (gradient.wanted()) gradient.to.data()[0] = 1 - 1 / at;
  });
  double x = 30;
  ceres::GradientProblemSolver::Options options;
  options.logging_type = ceres::SILENT;
  ceres::GradientProblemSolver::Summary summary;
  ceres::Solve(options, ceres::GradientProblem(new craft::ceres_function(f)), &x, &summary);
  CHECK(x == Approx(1).epsilon(1e-3));
  CHECK(outside > 0);
}

TEST_CASE("more parameters than Ceres can count", "[ceres]") {
  craft::loss_function f(1 << 16, 1 << 15, [](const auto&, double&, const auto&) {});
  CHECK_THROWS_AS(craft::ceres_function(f), craft::shape_error);
}
