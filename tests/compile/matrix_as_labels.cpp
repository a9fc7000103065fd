// error: craft: labels and weights are a vector, not a matrix: write m.col(0) or m.row(0)
#include <Eigen/Core>

#include "craft/alignment.hpp"

void call() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix x(4, 3), anchors(2, 3);
  const Eigen::MatrixXi y(4, 1);
  float value = 0;
#ifdef WRONG
  craft::anchor_cross_entropy(craft::cpu(), x, anchors, y, {}, value);
#else
  craft::anchor_cross_entropy(craft::cpu(), x, anchors, y.col(0), {}, value);
#endif
}
