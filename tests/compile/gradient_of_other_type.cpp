// error: craft: this gradient is stored in another type or memory than what it belongs to
#include "craft/mmd.hpp"

void call() {
  float numbers[12] = {};
#ifdef WRONG
  craft::mmd_gradients<double> g;
#else
  craft::mmd_gradients<float> g;
#endif
  g.x = craft::overwrite(craft::matrix_view<float>(numbers, 4, 3));
}
