// Rows of numbers on the CPU: the few things that are done with whole rows, a register at a time. Each is compiled once per
// type and not into its callers: a call costs little beside a row.
#pragma once

#include <algorithm>
#include <cmath>

#include "craft/engine/contract.hpp"
#include "craft/engine/pack.hpp"

namespace craft::engine {

/// x . y
template <class T>
[[gnu::noinline]] T dot(const T* x, const T* y, index_t n) {
  // Two sums, so that one addition need not wait for the other.
  pack<T> even(T(0)), odd(T(0));
  constexpr index_t width = pack<T>::width;
  index_t k = 0;
  for (; k + 2 * width <= n; k += 2 * width) {
    even = pack<T>::load(x + k).times_plus(pack<T>::load(y + k), even);
    odd = pack<T>::load(x + k + width).times_plus(pack<T>::load(y + k + width), odd);
  }
  if (k + width <= n) {
    even = pack<T>::load(x + k).times_plus(pack<T>::load(y + k), even);
    k += width;
  }
  T total = sum(even + odd);
  for (; k < n; ++k) total += x[k] * y[k];
  return total;
}
/// |x - y|^2
template <class T>
T squared_distance(const T* x, const T* y, index_t n) {
  pack<T> even(T(0)), odd(T(0));
  constexpr index_t width = pack<T>::width;
  index_t k = 0;
  for (; k + 2 * width <= n; k += 2 * width) {
    const pack<T> u = pack<T>::load(x + k) - pack<T>::load(y + k);
    const pack<T> v = pack<T>::load(x + k + width) - pack<T>::load(y + k + width);
    even = u.times_plus(u, even);
    odd = v.times_plus(v, odd);
  }
  T total = sum(even + odd);
  for (; k < n; ++k) total += (x[k] - y[k]) * (x[k] - y[k]);
  return total;
}
/// Whether all are finite: x - x is 0 then, and otherwise not a number, as is every sum with it.
template <class T>
[[gnu::noinline]] bool all_finite(const T* x, index_t n) {
  pack<T> some(T(0));
  T left(0);
  for_each_pack<T>(0, n, [&](index_t k, auto tag) {
    using V = decltype(tag);
    const V xk = load<V>(x + k);
    if constexpr (std::is_same_v<V, T>)
      left += xk - xk;
    else
      some += xk - xk;
  });
  return sum(some) + left == T(0);
}
/// The largest |x_k|; not a number if any is.
template <class T>
[[gnu::noinline]] T largest_magnitude(const T* x, index_t n) {
  T most(0);
  if (!all_finite(x, n)) {
    for (index_t k = 0; k < n; ++k)
      if (x[k] != x[k] || std::abs(x[k]) > most) most = std::abs(x[k]);  // nothing is larger than what is not a number
    return most;
  }
  pack<T> mosts(T(0));
  for_each_pack<T>(0, n, [&](index_t k, auto tag) {
    using V = decltype(tag);
    const V xk = load<V>(x + k);
    if constexpr (std::is_same_v<V, T>)
      most = math::max(most, math::max(xk, -xk));
    else
      mosts = mosts.max(xk.max(-xk));
  });
  return math::max(most, largest(mosts));
}
/// y += a x
template <class T>
[[gnu::noinline]] void add_multiple(T a, const T* x, index_t n, T* y) {
  for_each_pack<T>(0, n, [&](index_t k, auto tag) {
    using V = decltype(tag);
    store(y + k, load<V>(y + k) + V(a) * load<V>(x + k));
  });
}
/// gx += a (x - y), gy -= a (x - y), where they are wanted
template <class T>
[[gnu::noinline]] void add_difference(T a, const T* x, const T* y, index_t n, T* gx, T* gy) {
  for (index_t k = 0; k < n && gx; ++k) gx[k] += a * (x[k] - y[k]);
  for (index_t k = 0; k < n && gy; ++k) gy[k] -= a * (x[k] - y[k]);
}
/// Row i of a matrix with rows of n numbers, or null.
template <class T>
T* row_or_null(T* x, index_t i, index_t n) {
  return x ? x + i * n : nullptr;
}
/// normalise, where the sum of squares overflows or vanishes.
template <class T>
[[gnu::noinline, gnu::cold]] T normalise_extreme(T* x, index_t n, T scale) {
  const T largest = largest_magnitude(x, n);
  if (!(largest > T(0))) return T(0);
  const int exponent = std::ilogb(largest);  // a power of two costs no digits
  T squares(0);
  for (index_t k = 0; k < n; ++k) squares += std::scalbn(x[k], -exponent) * std::scalbn(x[k], -exponent);
  const T length = std::sqrt(squares);
  if (std::scalbn(length, exponent) < least_norm<T>()) {
    std::fill_n(x, n, T(0));
    return T(0);
  }
  for (index_t k = 0; k < n; ++k) x[k] = std::scalbn(x[k], -exponent) / length * scale;
  return std::scalbn(T(1) / length, -exponent);
}
/// x *= scale / |x|; returns 1 / |x|. A row of less than least_norm becomes 0, a row with a number that is not one stays as it
/// is; both give 0.
template <class T>
[[gnu::noinline]] T normalise(T* x, index_t n, T scale) {
  // Where squares cannot overflow or vanish, their sum is the quick way.
  const T low = std::sqrt(math::limits<T>::smallest) / math::limits<T>::epsilon, high = T(1) / low;
  const T length = std::sqrt(dot(x, x, n));
  if (!(length > low && length < high)) return normalise_extreme(x, n, scale);
  for_each_pack<T>(0, n, [&](index_t k, auto tag) {
    using V = decltype(tag);
    store(x + k, load<V>(x + k) / V(length) * V(scale));  // in this order: scale / |x| may be beyond T
  });
  return T(1) / length;
}
/// x = x / |x| - minus, in double before it is rounded; returns 1 / |x|, as normalise does.
template <class T>
[[gnu::noinline]] T normalise_less(T* x, index_t n, const double* minus) {
  double length = 1;
  T inverse(0);
  if constexpr (sizeof(T) == sizeof(double)) {
    inverse = normalise(x, n, T(1));
  } else {
    double squares = 0;
    for (index_t k = 0; k < n; ++k) squares += double(x[k]) * double(x[k]);  // of floats: neither overflows nor vanishes
    length = std::sqrt(squares);
    if (length < double(least_norm<T>())) std::fill_n(x, n, T(0));
    if (length >= double(least_norm<T>()))
      inverse = T(1 / length);
    else
      length = 1;
  }
  for (index_t k = 0; k < n; ++k) x[k] = T(double(x[k]) / length - minus[k]);
  return inverse;
}
/// g = scale (g - (g . u) u) / |x| for unit rows u = scaled / scale: the gradient through normalise.
template <class T>
[[gnu::noinline]] void normalise_pullback(T* g, const T* scaled, index_t n, T inverse_norm, double scale) {
  const T by = T(scale), back = T(1 / scale);  // never together with each other or with the norm: that may be beyond T
  const T along = dot(g, scaled, n) * back;
  for_each_pack<T>(0, n, [&](index_t k, auto tag) {
    using V = decltype(tag);
    store(g + k, V(inverse_norm) * (V(by) * (load<V>(g + k) - V(along) * (V(back) * load<V>(scaled + k)))));
  });
}

}  // namespace craft::engine
