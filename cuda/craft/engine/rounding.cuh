// What a multiplication on tensor cores keeps of a float: its leading bit and 10 after it (TF32), or 7 (bfloat16). Who multiplies
// a number that has been rounded so multiplies all of it. Sums are in float.
#pragma once

#include <cstdint>
#include <cstring>

#include "craft/engine/launch.cuh"

namespace craft::engine {

/// The nearest number with fewer bits, by Veltkamp's splitting (T. J. Dekker, "A floating-point technique for extending the
/// available precision", 1971): with c = x split, x - (x - c) keeps of 24 bits those that c has room for. split = 2^13 + 1 leaves
/// 11, 2^16 + 1 leaves 8, and 1 leaves x as it is; so no kernel asks which it is. A number beyond 2^111 becomes no number.
template <class T>
__device__ inline T rounded(T x, float split) {
  if constexpr (sizeof(T) == 8) return x;
#if defined(__CUDACC__)
  const float c = __fmul_rn(x, split);  // which no compiler joins with what follows
  return __fsub_rn(c, __fsub_rn(c, x));
#else
  const T c = x * T(split);
  return c - (c - x);
#endif
}

/// The bits of a number that bfloat16 holds: the upper half of a float's.
__device__ inline std::uint16_t bfloat16_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  return std::uint16_t(bits >> 16);
}

}  // namespace craft::engine
