// bfloat16 as kernels see it: two bytes that become a float to be worked with.
#pragma once

#include <Eigen/Core>

struct __nv_bfloat16 {
  unsigned short bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) : bits(Eigen::numext::bit_cast<unsigned short>(Eigen::bfloat16(value))) {}
  operator float() const { return float(Eigen::numext::bit_cast<Eigen::bfloat16>(bits)); }
};
static_assert(sizeof(__nv_bfloat16) == 2);

inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
