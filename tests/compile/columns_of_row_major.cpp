// error: craft: view_columns wants a column-major matrix (one sample per column)
#include <Eigen/Core>

#include "craft/view.hpp"

void call() {
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> x(3, 4);
#ifdef WRONG
  craft::view_columns(x);
#else
  craft::view(x);
#endif
}
