// Half precision as kernels see it: two bytes that become a float to be worked with.
#pragma once

#include <Eigen/Core>

struct __half {
  unsigned short bits;
  __half() = default;
  __half(float value) : bits(Eigen::numext::bit_cast<unsigned short>(Eigen::half(value))) {}
  operator float() const { return float(Eigen::numext::bit_cast<Eigen::half>(bits)); }
};
using half = __half;
static_assert(sizeof(__half) == 2);

inline __half __float2half(float value) { return __half(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline float __half2float(__half value) { return value; }
