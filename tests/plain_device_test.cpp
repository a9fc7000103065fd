// docs/add_a_device.md, done: every verb on a second device gives what it gives on the CPU.
#include <algorithm>
#include <cmath>

#include "catch.hpp"
#include "every_verb.hpp"
#include "plain_device.hpp"

using namespace craft_test;

TEST_CASE("every verb on the plain device agrees with the tiled engine", "[plain_device]") {
  // Sizes that fill no tile of 16 and no register; both engines see the same numbers.
  every_verb<double> tiled(37, 29, 5, 11);
  every_verb<double, plain> looped(37, 29, 5, 11);
  craft::cpu cpu(2);
  cpu.tile(16);
  const plain loops(1);
  REQUIRE(tiled.verbs.size() == looped.verbs.size());
  for (std::size_t v = 0; v < tiled.verbs.size(); ++v) {
    INFO(tiled.verbs[v].name);
    tiled.reset();
    looped.reset();
    const auto untouched = tiled.numbers();
    tiled.verbs[v].run(cpu);
    looped.verbs[v].run(loops);
    const auto a = tiled.numbers(), b = looped.numbers();
    CHECK(a != untouched);
    REQUIRE(a.size() == b.size());
    double largest = 0, worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      largest = std::max(largest, std::abs(a[i]));
      worst = std::max(worst, std::abs(a[i] - b[i]));
    }
    // Sums of up to 66^2 terms in another order.
    CHECK(worst <= 1e-11 * std::max(1.0, largest));
  }
}
