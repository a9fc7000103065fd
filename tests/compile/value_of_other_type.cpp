// error: craft: the value has the computing type of the inputs: double for double, else float
#include "craft/mmd.hpp"

void call(double* memory) {
#ifdef WRONG
  float value = 0;
#else
  double value = 0;
#endif
  const auto x = craft::view(memory, 4, 2);
  craft::cpu ctx;
  craft::mmd(ctx, x, x, craft::gaussian(1.0), {}, value);
}
