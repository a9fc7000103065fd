// What a user of the library writes; returns 0 if the value and the gradient are those of two samples worked by hand.
#include <Eigen/Core>
#include <cmath>
#include <cstdio>

#ifdef SINGLE_HEADER
#include "craft.hpp"
#else
#include "craft/craft.hpp"
#endif

// Whether the build should have OpenMP, where the way it was made promises either.
#ifdef WITH_OPENMP
#ifdef _OPENMP
static_assert(WITH_OPENMP, "OpenMP was not asked for");
#else
static_assert(!WITH_OPENMP, "OpenMP did not arrive");
#endif
#endif

int main() {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix x = matrix::Zero(1, 2), y = matrix::Ones(1, 2);
  matrix gradient(1, 2);
  double value = 0;
  craft::cpu ctx;
  craft::mmd_gradients<double> gradients;
  gradients.x = craft::overwrite(gradient);
  craft::mmd(ctx, x, y, craft::gaussian(1.0), {}, value, gradients);
  std::printf("MMD^2 = %.17g, gradient = (%.17g, %.17g)\n", value, gradient(0, 0), gradient(0, 1));
  // k(x, y) = exp(-1): MMD^2 = 2 - 2 / e, d/dx = -2 (y - x) / e
  const double e = std::exp(1.0);
  const bool right = std::abs(value - (2 - 2 / e)) < 1e-12 && std::abs(gradient(0, 0) + 2 / e) < 1e-12 &&
                     std::abs(gradient(0, 1) + 2 / e) < 1e-12;
  return right ? 0 : 1;
}
