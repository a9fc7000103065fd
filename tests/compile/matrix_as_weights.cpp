// error: craft: labels and weights are a vector, not a matrix: write m.col(0) or m.row(0)
#include <Eigen/Core>

#include "craft/view.hpp"

void call() {
  const Eigen::MatrixXd m(4, 3);
#ifdef WRONG
  const craft::numbers w = m;
#else
  const craft::numbers w = m.col(0);
#endif
}
