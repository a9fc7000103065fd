// Several pairs of one row at a time: what a thread computes with, as the CPU does with registers (pack.hpp). Their chains of
// operations run side by side, and what a loop over bandwidths costs is paid once for all of them.
#pragma once

#include "craft/engine/launch.cuh"

namespace craft::engine {

/// 2^x by one instruction, to 2^-22 of it (PTX ISA, ex2.approx.ftz); 0 where that is below the smallest normal number.
__device__ inline float power_of_two(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float y = std::exp2(x);
  return y < math::limits<float>::smallest ? 0.0f : y;
#endif
}

/// N numbers; four of them are moved in 16-byte pieces.
template <class T, int N>
struct alignas(16) several {
  T v[N];

  several() = default;
  __device__ several(T x) {  // NOLINT: a number is several equal ones
#pragma unroll
    for (int c = 0; c < N; ++c) v[c] = x;
  }
  template <class F>
  __device__ static several of(const F& f) {
    several out;
#pragma unroll
    for (int c = 0; c < N; ++c) out.v[c] = f(c);
    return out;
  }
  __device__ friend several operator+(const several& a, const several& b) {
    return of([&](int c) { return a.v[c] + b.v[c]; });
  }
  __device__ friend several operator-(const several& a, const several& b) {
    return of([&](int c) { return a.v[c] - b.v[c]; });
  }
  __device__ friend several operator*(const several& a, const several& b) {
    return of([&](int c) { return a.v[c] * b.v[c]; });
  }
  __device__ friend several operator/(const several& a, const several& b) {
    return of([&](int c) { return a.v[c] / b.v[c]; });
  }
  __device__ several operator-() const {
    return of([&](int c) { return -v[c]; });
  }
  __device__ several exp() const { return exp_times(T(1)); }
  __device__ several exp_times(T factor) const {
    if constexpr (sizeof(T) == 8) return of([&](int c) { return math::exp(v[c] * factor); });
    const T by = factor * T(1.4426950408889634);  // exp(x) = 2^(x log2(e))
    return of([&](int c) { return power_of_two(v[c] * by); });
  }
  __device__ several log() const {
    return of([&](int c) { return math::log(v[c]); });
  }
  __device__ several sqrt() const {
    return of([&](int c) { return math::sqrt(v[c]); });
  }
  __device__ several (max)(const several& o) const {
    return of([&](int c) { return (math::max)(v[c], o.v[c]); });
  }
  __device__ several (min)(const several& o) const {
    return of([&](int c) { return (math::min)(v[c], o.v[c]); });
  }
  __device__ several where_equal(const several& o, const several& value) const {
    return of([&](int c) { return math::where_equal(v[c], o.v[c], value.v[c]); });
  }
  __device__ several where_positive(const several& value) const {
    return of([&](int c) { return math::where_positive(v[c], value.v[c]); });
  }
  __device__ bool any_at_least(T least) const {
    bool any = false;
#pragma unroll
    for (int c = 0; c < N; ++c) any = any || v[c] >= least;
    return any;
  }
};
template <class T>
using quad = several<T, 4>;

/// a - 2 s, rounded once
template <class T, int N>
__device__ inline several<T, N> less_twice(const several<T, N>& a, const several<T, N>& s) {
  return several<T, N>::of([&](int c) { return std::fma(T(-2), s.v[c], a.v[c]); });
}
/// Of all, or of the first Group; one after another, so that products are fused with their sum.
template <int Group, class T, int N>
__device__ inline T sum(const several<T, N>& a, bool all) {
  T s = a.v[0];
#pragma unroll
  for (int c = 1; c < Group; ++c) s += a.v[c];
  if (!all) return s;
#pragma unroll
  for (int c = Group; c < N; ++c) s += a.v[c];
  return s;
}
/// The smallest and the largest of those that are numbers, by one instruction each.
template <class T, int N>
__device__ inline T smallest(const several<T, N>& a) {
  T least = a.v[0];
#pragma unroll
  for (int c = 1; c < N; ++c) least = std::fmin(least, a.v[c]);
  return least;
}
template <class T, int N>
__device__ inline T largest(const several<T, N>& a) {
  T most = a.v[0];
#pragma unroll
  for (int c = 1; c < N; ++c) most = std::fmax(most, a.v[c]);
  return most;
}

/// N columns of a row that has columns up to `end`: Group side by side from j on, then others Step further on, and so on. Of
/// whole groups there are all, or the first alone.
template <class T, int N, int Group, int Step>
struct places {
  using number = several<T, N>;
  static constexpr int group = Group, numbers = N;
  index_t j, end;
  __device__ static int offset(int c) { return c % Group + c / Group * Step; }
  __device__ index_t column(int c) const { return j + offset(c); }
  __device__ bool whole() const { return column(N - 1) < end; }
  /// How many there are.
  __device__ int count() const {
    if (whole()) return N;
    int there = 0;
#pragma unroll 1
    for (int c = 0; c < N; ++c) there += column(c) < end ? 1 : 0;
    return there;
  }
  /// Whether all are there or the first group, on the same side of both borders between columns.
  __device__ bool plain(int there, index_t border, index_t other) const {
    if (there != N && there != Group) return false;
    const index_t last = whole() ? column(N - 1) : column(there > 0 ? there - 1 : 0);
    return (j >= border || last < border) && (j >= other || last < other);
  }
  /// Of groups that are not there, the first one's once more.
  template <class S>
  __device__ number load(const S* p) const {
    const S* const from = p + j;
    if (whole()) return number::of([&](int c) { return T(from[offset(c)]); });
    return number::of([&](int c) { return T(from[column(c) < end ? offset(c) : c % Group]); });
  }
  template <class S>
  __device__ void store(S* p, const number& v) const {
    S* const to = p + j;
#pragma unroll
    for (int c = 0; c < N; ++c)
      if (whole() || column(c) < end) to[offset(c)] = S(v.v[c]);
  }
};

/// Four columns of a row, of which `count` are left: what lies behind them nobody has written, and is `beyond` here.
template <class T>
__device__ inline quad<T> quad_at(const T* line, index_t count, T beyond) {
  if (count >= 4) return *reinterpret_cast<const quad<T>*>(line);
  return quad<T>::of([&](int c) { return c < count ? line[c] : beyond; });
}
/// The same from any address, with 0 beyond.
template <class T>
__device__ inline quad<T> quad_from(const T* p, index_t count) {
  return quad<T>::of([&](int c) { return c < count ? p[c] : T(0); });
}

}  // namespace craft::engine
