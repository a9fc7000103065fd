// error: craft: both matrices must hold the same scalar type
#include "craft/mmd.hpp"

void call(double* memory) {
#ifdef WRONG
  const float y[8] = {};
#else
  const double y[8] = {};
#endif
  craft::cpu ctx;
  double value = 0;
  craft::mmd(ctx, craft::view(memory, 4, 2), craft::view(y, 4, 2), craft::gaussian(1.0), {}, value);
}
