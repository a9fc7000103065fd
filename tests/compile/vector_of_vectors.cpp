// error: craft: a vector of vectors is not one piece of memory: copy it into a row-major Eigen matrix
#include <Eigen/Core>
#include <vector>

#include "craft/mmd.hpp"

void call() {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
#ifdef WRONG
  const std::vector<std::vector<double>> x(4, std::vector<double>(3));
#else
  const matrix x(4, 3);
#endif
  const matrix y(5, 3);
  double value = 0;
  craft::mmd(craft::cpu(), x, y, craft::gaussian(1.0), {}, value);
}
