// error: craft: a view of a temporary matrix would dangle
#include <Eigen/Core>

#include "craft/view.hpp"

void call() {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  matrix x(3, 4);
#ifdef WRONG
  craft::view(matrix(3, 4));
#else
  craft::view(x.topRows(2));  // a block does not own its numbers
#endif
}
