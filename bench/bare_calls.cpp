// The verbs by themselves, for bench/python_overhead.py: microseconds per call, n = m = 16, d = 32, float, one thread.
#include <cstdio>

#include "bench.hpp"

using namespace craft_bench;

int main() {
  craft::cpu ctx(1);
  const matrix<float> x = random_reals(16, 32, 1).cast<float>(), y = random_reals(16, 32, 2).cast<float>();
  matrix<float> dx = x, dy = y;
  float value = 0;
  const auto report = [&](const char* name, const auto& call) {
    std::vector<double> times;
    for (int r = 0; r < 21; ++r) times.push_back(1e6 * seconds(call, 1e-3));
    std::printf("%s %.3f\n", name, median(times));
  };
  const craft::gaussian<float> k(4);
  report("mmd", [&] { craft::mmd(ctx, x, y, k, {}, value); });
  report("mmd_gradient", [&] { craft::mmd(ctx, x, y, k, {}, value, {craft::overwrite(dx)}); });
  report("mmd_gradients",
         [&] { craft::mmd(ctx, x, y, k, {}, value, {craft::overwrite(dx), craft::overwrite(dy)}); });
  report("info_nce", [&] { craft::info_nce(ctx, x, y, {}, value); });
  report("info_nce_gradient", [&] { craft::info_nce(ctx, x, y, {}, value, {craft::overwrite(dx)}); });
  report("info_nce_gradients",
         [&] { craft::info_nce(ctx, x, y, {}, value, {craft::overwrite(dx), craft::overwrite(dy)}); });
}
