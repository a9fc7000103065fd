// Tensor-core products of small matrices spread over a warp: the one wrapper around them. With lane = 4 g + t,
//
//     c (16 x 8) += a (16 x 8) b (8 x 8)
//     a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      b: (t, g), (t + 4, g)
//     c: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
//
// are the elements that a lane holds (PTX ISA, mma.m16n8k8 with .tf32). Sums are in float.
#pragma once

#include "craft/engine/launch.cuh"

namespace craft::engine {

__device__ inline void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#else
  const float mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const float* all = simt::warp_gather(mine, 6);
  const int lane = int(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
  for (int q = 0; q < 4; ++q) {
    const int row = q / 2, column = 2 * t + q % 2;
    for (int k = 0; k < 8; ++k)
      c[q] += all[(4 * g + k % 4) * 6 + row + 2 * (k / 4)] * all[(4 * column + k % 4) * 6 + 4 + k / 4];
  }
#endif
}

}  // namespace craft::engine
