// Random numbers that are the same on every platform, from a seed and a step.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "craft/engine/host_device.hpp"
#include "craft/view.hpp"

namespace craft::engine {

/// x in other words: 64 bits that look random, and differ for different x.
///
/// G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
CRAFT_HOST_DEVICE inline std::uint64_t mixed_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// The library's source of randomness: a standard generator, and conversions that are the same on every platform.
class random_source {
 public:
  random_source(std::uint64_t seed, std::uint64_t step) {
    std::seed_seq seq{std::uint32_t(seed), std::uint32_t(seed >> 32), std::uint32_t(step), std::uint32_t(step >> 32)};
    generator_.seed(seq);
  }
  /// Uniform in [0, n), n > 0.
  index_t below(index_t n) {
    const std::uint64_t range = std::uint64_t(n), limit = ~std::uint64_t(0) - ~std::uint64_t(0) % range;
    std::uint64_t x = generator_();
    while (x >= limit) x = generator_();
    return index_t(x % range);
  }
  /// Uniform in [0, 1).
  double unit() { return double(generator_() >> 11) * 0x1.0p-53; }

 private:
  std::mt19937_64 generator_;
};

/// `count` of the given candidates without repetition, in the order drawn; uses the candidates up.
inline void draw(random_source& random, std::vector<index_t>& candidates, index_t count, std::vector<index_t>& out) {
  for (index_t i = 0; i < count; ++i) {
    std::swap(entry(candidates, i), entry(candidates, i + random.below(index_t(candidates.size()) - i)));
    out.push_back(entry(candidates, i));
  }
}

}  // namespace craft::engine
