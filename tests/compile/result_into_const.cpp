// error: craft: this is const, and would be written into
#include <Eigen/Core>

#include "craft/relative.hpp"

void call() {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix x(4, 3), anchors(2, 3);
#ifdef WRONG
  const matrix r(4, 2);
#else
  matrix r(4, 2);
#endif
  craft::relative(craft::cpu(), x, anchors, craft::dot_product<>(), {}, r);
}
