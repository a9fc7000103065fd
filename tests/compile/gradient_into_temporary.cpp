// error: craft: a gradient in a temporary would be lost
#include <Eigen/Core>

#include "craft/view.hpp"

void call() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix g(4, 3);
#ifdef WRONG
  craft::overwrite(matrix(4, 3));
#else
  craft::overwrite(g.topRows(2));  // a block does not own its numbers
#endif
}
