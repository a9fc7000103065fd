// error: craft: an expression of Eigen is not in memory yet: store it in a row-major matrix first
#include <Eigen/Core>

#include "craft/mmd.hpp"

void call() {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix x(4, 3), y(5, 3);
  double value = 0;
#ifdef WRONG
  craft::mmd(craft::cpu(), 2 * x, y, craft::gaussian(1.0), {}, value);
#else
  const matrix twice = 2 * x;
  craft::mmd(craft::cpu(), twice, y, craft::gaussian(1.0), {}, value);
#endif
}
