// The generator std::mt19937_64 and its seeding by std::seed_seq, to the last bit. The standard's <random> with all its
// distributions, which nobody here uses (they differ between platforms), would be a tenth of what a user compiles.
//
// Source: M. Matsumoto and T. Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998), in the 64-bit form of the C++ standard.
#pragma once

#include <cstdint>

namespace craft::engine {

class mersenne_twister {
 public:
  explicit mersenne_twister(std::uint64_t seed) {
    state_[0] = seed;
    for (int i = 1; i < size; ++i)
      state_[i] = 6364136223846793005u * (state_[i - 1] ^ (state_[i - 1] >> 62)) + std::uint64_t(i);
  }
  /// From a sequence of `count` seeds.
  mersenne_twister(const std::uint32_t* seeds, int count) {
    constexpr int n = 2 * size, t = 11, p = (n - t) / 2, q = p + t;
    std::uint32_t b[n];
    for (std::uint32_t& x : b) x = 0x8b8b8b8bu;
    const auto mixed = [](std::uint32_t x) { return x ^ (x >> 27); };
    for (int k = 0; k < n; ++k) {
      const std::uint32_t one = 1664525u * mixed(b[k] ^ b[(k + p) % n] ^ b[(k + n - 1) % n]);
      const std::uint32_t two =
          one + (k == 0 ? std::uint32_t(count) : std::uint32_t(k) + (k <= count ? seeds[k - 1] : 0u));
      b[(k + p) % n] += one;
      b[(k + q) % n] += two;
      b[k] = two;
    }
    for (int k = 0; k < n; ++k) {
      const std::uint32_t three = 1566083941u * mixed(b[k] + b[(k + p) % n] + b[(k + n - 1) % n]);
      const std::uint32_t four = three - std::uint32_t(k);
      b[(k + p) % n] ^= three;
      b[(k + q) % n] ^= four;
      b[k] = four;
    }
    std::uint64_t any = 0;
    for (int i = 0; i < size; ++i) {
      state_[i] = std::uint64_t(b[2 * i]) | std::uint64_t(b[2 * i + 1]) << 32;
      any |= i == 0 ? state_[0] & high : state_[i];
    }
    if (any == 0) state_[0] = std::uint64_t(1) << 63;
  }
  std::uint64_t operator()() {
    if (at_ == size) refill();
    std::uint64_t x = state_[at_++];
    x ^= (x >> 29) & 0x5555555555555555u;
    x ^= (x << 17) & 0x71d67fffeda60000u;
    x ^= (x << 37) & 0xfff7eee000000000u;
    return x ^ (x >> 43);
  }

 private:
  static constexpr int size = 312, middle = 156;
  static constexpr std::uint64_t low = 0x7fffffffu, high = ~low;

  void refill() {
    for (int i = 0; i < size; ++i) {
      const std::uint64_t x = (state_[i] & high) | (state_[(i + 1) % size] & low);
      state_[i] = state_[(i + middle) % size] ^ (x >> 1) ^ (x % 2 == 1 ? 0xb5026f5aa96619e9u : 0u);
    }
    at_ = 0;
  }

  std::uint64_t state_[size];
  int at_ = size;
};

}  // namespace craft::engine
