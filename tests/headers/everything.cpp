// Every public header that needs no host's own, with all verbs called: what CMakeLists.txt compiles with the warnings that people
// turn on, with the macros of windows.h, and without exceptions.
#include <pthread.h>

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <cstring>
#include <exception>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#ifdef CRAFT_TEST_WINDOWS_MACROS
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#endif

#include "craft/adapters/dlpack.hpp"
#include "craft/adapters/function.hpp"
#include "craft/adapters/runtime_bodies.hpp"
#include "craft/craft.hpp"

template <class T>
bool agrees(T* x, const T* gradient) {
  return bool(craft::gradcheck<T>([x] { return x[0] * x[1]; }, {{"x", x, 2, gradient}}));
}
template bool agrees(float*, const float*);
template bool agrees(double*, const double*);
