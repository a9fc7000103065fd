// Features of one domain are moved until their distribution is that of another: MMD by Ceres' L-BFGS.
#include <craft/adapters/ceres.hpp>
#include <craft/mmd.hpp>

#include <ceres/gradient_problem.h>
#include <ceres/gradient_problem_solver.h>

#include <Eigen/Core>
#include <cstdio>

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
  // One sample per row; the target is shifted, and narrower.
  matrix source = matrix::Random(60, 4);
  const matrix target = 0.5 * matrix::Random(80, 4).array() + 1;

  const craft::cpu ctx(1);  // small: one thread
  const auto kernel = craft::gaussians<>::mean({1.0, 2.0, 4.0});
  craft::loss_function f(source.rows(), source.cols(), [&](const auto& x, double& value, const auto& gradient) {
    craft::mmd(ctx, x, target, kernel, {}, value, {gradient});
  });

  ceres::GradientProblem problem(new craft::ceres_function(f));  // owns the adapter; f is ours
  ceres::GradientProblemSolver::Options options;
  options.logging_type = ceres::SILENT;
  options.max_num_iterations = 200;
  ceres::GradientProblemSolver::Summary summary;
  ceres::Solve(options, problem, source.data(), &summary);
  f.rethrow();

  std::printf("MMD^2 %.4f before, %.6f after %d iterations; %s\n", summary.initial_cost, summary.final_cost,
              int(summary.iterations.size()) - 1, summary.message.c_str());
  std::printf("means of the features:");
  for (const double mean : source.colwise().mean()) std::printf(" %.2f", mean);
  std::printf(", of the target's:");
  for (const double mean : target.colwise().mean()) std::printf(" %.2f", mean);
  std::puts("");
  return summary.final_cost < 0.01 * summary.initial_cost ? 0 : 1;
}
