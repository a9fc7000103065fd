// error: craft: this matrix is column-major; if it holds one sample per column use craft::view_columns(X)
#include <Eigen/Core>

#include "craft/view.hpp"

void call() {
  Eigen::MatrixXd x(3, 4);
#ifdef WRONG
  craft::view(x);
#else
  craft::view_columns(x);
#endif
}
