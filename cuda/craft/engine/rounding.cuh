// What a multiplication on tensor cores sees of a float: its leading one and 10 bits after it (TF32), or 7 (bfloat16). Sums are in
// float. A number that has been rounded once is multiplied as it is, whoever multiplies it.
#pragma once

#include <cstdint>
#include <cstring>

#include "craft/engine/launch.cuh"

namespace craft::engine {

/// The nearest number with ten bits after the leading one, away from zero in between. Infinity and what is no number stay.
__device__ inline float to_tf32(float x) {
  std::uint32_t bits;
#if defined(__CUDACC__)
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#else
  std::memcpy(&bits, &x, sizeof x);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
#endif
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// The bits of the nearest bfloat16, to the even one in between; they are the upper half of a float's.
__device__ inline std::uint16_t bfloat16_bits(float x) {
#if defined(__CUDACC__)
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return std::uint16_t(bits >> 16 | 0x40u);  // not a number
  return std::uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}
__device__ inline float to_bfloat16(float x) {
  const std::uint32_t bits = std::uint32_t(bfloat16_bits(x)) << 16;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// As `bits` say: 10 or 7; 0 and every double: x itself.
template <class T>
__device__ inline T rounded(T x, int bits) {
  if constexpr (sizeof(T) == 4)
    if (bits > 0) return bits == 7 ? to_bfloat16(x) : to_tf32(x);
  return x;
}

}  // namespace craft::engine
