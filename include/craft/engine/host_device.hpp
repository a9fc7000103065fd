// What pair functions need to be written once for the host compiler, for nvcc, and for vector registers.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define CRAFT_HOST_DEVICE __host__ __device__
#else
#define CRAFT_HOST_DEVICE
#endif

namespace craft::math {

/// Constants of a type as numbers: a GPU cannot call std::numeric_limits.
template <class T>
struct limits {
  static constexpr T infinity = std::numeric_limits<T>::infinity(), not_a_number = std::numeric_limits<T>::quiet_NaN();
  static constexpr T epsilon = std::numeric_limits<T>::epsilon(), smallest = (std::numeric_limits<T>::min)();
  static constexpr T largest = (std::numeric_limits<T>::max)();
};

// Elementary functions of a number, or of a register of numbers (engine/pack.hpp), which brings them as members.
template <class V>
CRAFT_HOST_DEVICE inline V exp(V x) {
  if constexpr (std::is_floating_point_v<V>)
    return std::exp(x);
  else
    return x.exp();
}
/// exp(x factor). The factor is the same for many x, and may be multiplied by what else an exponential needs first.
template <class V, class T>
CRAFT_HOST_DEVICE inline V exp_times(V x, T factor) {
  if constexpr (std::is_floating_point_v<V>)
    return std::exp(x * factor);
  else
    return x.exp_times(factor);
}
template <class V>
CRAFT_HOST_DEVICE inline V log(V x) {
  if constexpr (std::is_floating_point_v<V>)
    return std::log(x);
  else
    return x.log();
}
template <class V>
CRAFT_HOST_DEVICE inline V sqrt(V x) {
  if constexpr (std::is_floating_point_v<V>)
    return std::sqrt(x);
  else
    return x.sqrt();
}
/// The larger; x where they cannot be compared, so that an x that is not a number stays one.
template <class V>
CRAFT_HOST_DEVICE inline V (max)(V x, V y) {
  if constexpr (std::is_floating_point_v<V>)
    return x < y ? y : x;
  else
    return (x.max)(y);
}
/// The smaller; y where they cannot be compared.
template <class V>
CRAFT_HOST_DEVICE inline V (min)(V x, V y) {
  if constexpr (std::is_floating_point_v<V>)
    return x < y ? x : y;
  else
    return (x.min)(y);
}
/// value where x > 0, else 0: how a derivative is defined where a square root meets zero.
template <class V>
CRAFT_HOST_DEVICE inline V where_positive(V x, V value) {
  if constexpr (std::is_floating_point_v<V>)
    return x > V(0) ? value : V(0);
  else
    return x.where_positive(value);
}

/// value where x == y, else 0.
template <class V>
CRAFT_HOST_DEVICE inline V where_equal(V x, V y, V value) {
  if constexpr (std::is_floating_point_v<V>)
    return x == y ? value : V(0);
  else
    return x.where_equal(y, value);
}
/// Whether x, or any number of a register, is at least that.
template <class V, class T>
CRAFT_HOST_DEVICE inline bool any_at_least(V x, T least) {
  if constexpr (std::is_floating_point_v<V>)
    return x >= least;
  else
    return x.any_at_least(least);
}
/// log(1 + x) for x >= 0 without losing a small x (W. Kahan's correction of the rounded 1 + x).
template <class V>
CRAFT_HOST_DEVICE inline V log1p(V x) {
  const V one(1), u = one + x, rounded = u - one;
  const V corrected = log(u) * (x / (max)(rounded, where_equal(rounded, V(0), one)));
  return where_positive(rounded, corrected) + where_equal(rounded, V(0), x);
}

}  // namespace craft::math

namespace craft::engine {

/// Whether a pair function says `static constexpr bool linear = true`: it is a multiple of s, and looks at no norms.
template <class K, class = void>
struct is_linear : std::false_type {};
template <class K>
struct is_linear<K, std::enable_if_t<K::linear>> : std::true_type {};
/// Whether a pair function says `static constexpr bool smooth = true`: its slope stays finite as D goes to 0.
template <class K, class = void>
struct is_smooth : std::false_type {};
template <class K>
struct is_smooth<K, std::enable_if_t<K::smooth>> : std::true_type {};

}  // namespace craft::engine
