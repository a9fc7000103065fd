// error: craft: labels are 32- or 64-bit signed integers; copy them into std::vector<std::int64_t>
#include <cstdint>
#include <vector>

#include "craft/view.hpp"

void call() {
#ifdef WRONG
  using label = std::uint32_t;
#else
  using label = std::int32_t;
#endif
  const craft::labels y = std::vector<label>{1, 2};
}
