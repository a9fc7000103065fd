// error: craft: say what to do with this gradient: craft::overwrite(dx), or craft::accumulate(dx) to add it
#include <Eigen/Core>

#include "craft/mmd.hpp"

void call() {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const matrix x(4, 3), y(5, 3);
  matrix dx(4, 3);
  double value = 0;
#ifdef WRONG
  craft::mmd(craft::cpu(), x, y, craft::gaussian(1.0), {}, value, {dx});
#else
  craft::mmd(craft::cpu(), x, y, craft::gaussian(1.0), {}, value, {craft::overwrite(dx)});
#endif
}
