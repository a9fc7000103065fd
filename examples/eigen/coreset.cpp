// 10 points that stand for 200: those whose distribution is nearest, by MMD, found by descent on the functor that
// LBFGS++ and other solvers over Eigen vectors take.
#include <craft/adapters/eigen.hpp>
#include <craft/mmd.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <cstdio>

// Steepest descent with the step of Barzilai and Borwein; with LBFGS++:
// LBFGSpp::LBFGSSolver<double>(parameters).minimize(fun, x, value).
template <class Function>
double minimise(Function& fun, Eigen::VectorXd& x, int steps) {
  Eigen::VectorXd gradient(x.size());
  double value = fun(x, gradient), step = 1;
  for (int k = 0; k < steps; ++k) {
    const Eigen::VectorXd before = x, slope = gradient;
    x -= step * gradient;
    value = fun(x, gradient);
    const Eigen::VectorXd s = x - before, g = gradient - slope;
    step = s.dot(g) > 0 ? s.dot(g) / g.squaredNorm() : 1;
  }
  return value;
}

int main() {
  // Two clusters, one sample per column.
  Eigen::MatrixXd samples = 0.4 * Eigen::MatrixXd::Random(2, 200);
  samples.leftCols(150).array() += 1;
  samples.rightCols(50).array() -= 1;

  const craft::cpu ctx(1);  // small: one thread
  const auto kernel = craft::gaussians<>::mean({0.5, 1.0, 2.0});
  craft::loss_function f(10, 2, [&](const auto& x, double& value, const auto& gradient) {
    craft::mmd(ctx, x, craft::view_columns(samples), kernel, {}, value, {gradient});
  });
  craft::eigen_function fun(f);

  Eigen::VectorXd x = 0.5 * Eigen::VectorXd::Random(f.size());
  const double before = fun(x), after = minimise(fun, x, 300);
  std::printf("MMD^2 of 10 points against 200: %.4f before, %.6f after\n", before, after);
  const auto points = x.reshaped(2, 10);
  const int right = int((points.row(0).array() > 0).count());
  std::printf("%d of 10 points are in the cluster that has 3/4 of the samples\n", right);
  return after < 0.05 * before && right >= 6 && right <= 9 ? 0 : 1;
}
