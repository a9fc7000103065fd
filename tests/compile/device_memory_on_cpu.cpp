// error: craft: this context cannot read a matrix in that memory (host or device)
#include "craft/mmd.hpp"

void call(double* memory) {
#ifdef WRONG
  const craft::matrix_view<const double, craft::memory::device> x(memory, 4, 2);
#else
  const craft::matrix_view<const double> x(memory, 4, 2);
#endif
  craft::cpu ctx;
  double value = 0;
  craft::mmd(ctx, x, x, craft::gaussian(1.0), {}, value);
}
