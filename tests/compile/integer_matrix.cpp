// error: craft: a matrix view holds float, double, or a two-byte float type
#include "craft/view.hpp"

void call() {
#ifdef WRONG
  int x[4] = {};
#else
  float x[4] = {};
#endif
  craft::view(x, 2, 2);
}
