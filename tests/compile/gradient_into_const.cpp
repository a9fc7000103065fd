// error: craft: this is const, and would be written into
#include "craft/view.hpp"

void call() {
  double x[4] = {};
#ifdef WRONG
  const craft::matrix_view<const double> to(x, 2, 2);
#else
  const craft::matrix_view<double> to(x, 2, 2);
#endif
  craft::overwrite(to);
}
