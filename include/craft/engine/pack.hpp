// pack<T>: as many T as one vector register holds, with the arithmetic that pair functions use. Eigen's
// packet functions do the work, so that one formula serves a number and a register of numbers.
#pragma once

#include <Eigen/Core>
#include <type_traits>

#include "craft/engine/lanes.hpp"

namespace craft::engine {

template <class T>
struct pack {
  using packet = typename Eigen::internal::packet_traits<T>::type;
  static constexpr index_t width = Eigen::internal::unpacket_traits<packet>::size;
#ifdef EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS
  static constexpr int registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;
#else
  static constexpr int registers = 16;
#endif

  packet v;

  pack() = default;
  pack(T x) : v(Eigen::internal::pset1<packet>(x)) {}  // NOLINT: a number is a register of equal numbers
  template <class P, class = std::enable_if_t<std::is_same_v<P, packet> && !std::is_same_v<P, T>>>
  pack(P p) : v(p) {}  // NOLINT: where Eigen does not vectorise, a register is the number itself
  static pack load(const T* p) { return Eigen::internal::ploadu<packet>(p); }
  void store(T* p) const { Eigen::internal::pstoreu(p, v); }
  /// The same from and to numbers of any type.
  template <class S>
  static pack converted(const S* p) {
    if constexpr (std::is_same_v<S, T>) {
      return load(p);
    } else {
      T all[std::size_t(width)];
      for (index_t c = 0; c < width; ++c) all[c] = T(p[c]);
      return load(all);
    }
  }
  template <class S>
  void store_converted(S* p) const {
    if constexpr (std::is_same_v<S, T>) {
      store(p);
    } else {
      T all[std::size_t(width)];
      store(all);
      for (index_t c = 0; c < width; ++c) p[c] = S(all[c]);
    }
  }

  friend pack operator+(pack a, pack b) { return Eigen::internal::padd(a.v, b.v); }
  friend pack operator-(pack a, pack b) { return Eigen::internal::psub(a.v, b.v); }
  friend pack operator*(pack a, pack b) { return Eigen::internal::pmul(a.v, b.v); }
  friend pack operator/(pack a, pack b) { return Eigen::internal::pdiv(a.v, b.v); }
  pack operator-() const { return Eigen::internal::pnegate(v); }

  /// this * b + c, in one rounding where the machine can.
  pack times_plus(pack b, pack c) const { return Eigen::internal::pmadd(v, b.v, c.v); }

  pack& operator+=(pack o) { return *this = *this + o; }

  pack exp() const { return Eigen::internal::pexp(v); }
  pack exp_times(T factor) const { return (*this * pack(factor)).exp(); }
  pack log() const { return Eigen::internal::plog(v); }
  pack sqrt() const {
    if constexpr (sqrt_flushes_denormals) {
      if (any_denormal()) return sqrt_of_denormals();
    }
    return Eigen::internal::psqrt(v);
  }
  pack (max)(pack o) const { return Eigen::internal::pmax(v, o.v); }
  pack (min)(pack o) const { return Eigen::internal::pmin(v, o.v); }
  bool any_at_least(T least) const {
    return Eigen::internal::predux_any(Eigen::internal::pcmp_le(Eigen::internal::pset1<packet>(least), v));
  }
  pack where_equal(pack o, pack value) const {
    return Eigen::internal::pand(Eigen::internal::pcmp_eq(v, o.v), value.v);
  }
  pack where_positive(pack value) const {
    const packet positive = Eigen::internal::pcmp_lt(Eigen::internal::pset1<packet>(T(0)), v);
    return Eigen::internal::pand(positive, value.v);
  }

 private:
  bool any_denormal() const {
    const packet positive = Eigen::internal::pcmp_lt(pack(T(0)).v, v);
    return Eigen::internal::predux_any(Eigen::internal::pand(positive, Eigen::internal::pcmp_lt(v, least_normal())));
  }
  /// Eigen takes the root of a denormal float as 0, and of a denormal double too where registers have 512 bits; it is
  /// given 2^54 times as much, which makes the smallest of both types a normal number.
  static constexpr bool sqrt_flushes_denormals = std::is_same_v<T, float> || sizeof(packet) == 64;
  [[gnu::noinline]] pack sqrt_of_denormals() const {
    const pack raised = pack(Eigen::internal::psqrt((*this * pack(T(0x1p54))).v)) * pack(T(0x1p-27));
    return Eigen::internal::pselect(Eigen::internal::pcmp_lt(v, least_normal()), raised.v, Eigen::internal::psqrt(v));
  }
  static packet least_normal() { return pack(math::limits<T>::smallest).v; }
};

template <class T>
T sum(const pack<T>& a) {
  return Eigen::internal::predux(a.v);
}
template <class T>
T largest(const pack<T>& a) {
  return Eigen::internal::predux_max(a.v);
}
template <class T>
T smallest(const pack<T>& a) {
  return Eigen::internal::predux_min(a.v);
}
// A single number is a pack of one, for what is left over at the end of a row.
template <class T>
T sum(const T& a) {
  return a;
}
template <class T>
T largest(const T& a) {
  return a;
}
template <class T>
T smallest(const T& a) {
  return a;
}

template <class V, class T>
V load(const T* p) {
  if constexpr (std::is_same_v<V, T>)
    return *p;
  else
    return V::load(p);
}
template <class V, class T>
void store(T* p, const V& v) {
  if constexpr (std::is_same_v<V, T>)
    *p = v;
  else
    v.store(p);
}

// GCC says that a template does not see a register type's alignment; this one does not need it.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif
/// to_qc = from_cq for a square block as wide as a register.
template <class T>
void transpose(const T* from, index_t from_stride, T* to, index_t to_stride) {
  constexpr index_t width = pack<T>::width;
  if constexpr (width == 1) {
    *to = *from;
  } else {
    Eigen::internal::PacketBlock<typename pack<T>::packet, int(width)> block;
    for (index_t c = 0; c < width; ++c) block.packet[c] = pack<T>::load(from + c * from_stride).v;
    Eigen::internal::ptranspose(block);
    for (index_t q = 0; q < width; ++q) pack<T>(block.packet[q]).store(to + q * to_stride);
  }
}
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/// Calls f(j, V) for j = begin..end in steps of a register, then one by one; V is pack<T>() or T().
template <class T, class F>
void for_each_pack(index_t begin, index_t end, F&& f) {
  index_t j = begin;
  for (; j + pack<T>::width <= end; j += pack<T>::width) f(j, pack<T>());
  for (; j < end; ++j) f(j, T());
}

/// The lanes of a register (lanes.hpp): a register at a time, and one by one what is left over.
struct vector_lanes : single_lane {
  template <class T, class F>
  void each(index_t n, const F& f) const {
    index_t k = 0;
    for (; k + pack<T>::width <= n; k += pack<T>::width) f(place<pack<T>>{k});
    for (; k < n; ++k) f(place<T>{k});
  }
  /// Two sums, so that one addition need not wait for the other.
  template <class T, class F>
  T sum(index_t n, const F& f) const {
    constexpr index_t width = pack<T>::width;
    pack<T> even(T(0)), odd(T(0));
    index_t k = 0;
    for (; k + 2 * width <= n; k += 2 * width) {
      even = even + f(place<pack<T>>{k});
      odd = odd + f(place<pack<T>>{k + width});
    }
    if (k + width <= n) {
      even = even + f(place<pack<T>>{k});
      k += width;
    }
    T s = engine::sum(even + odd);
    for (; k < n; ++k) s += f(place<T>{k});
    return s;
  }
  template <class T, class F>
  T (max)(index_t n, const F& f) const {
    pack<T> some(T(0));
    index_t k = 0;
    for (; k + pack<T>::width <= n; k += pack<T>::width) some = (math::max)(some, f(place<pack<T>>{k}));
    T most = largest(some);
    for (; k < n; ++k) most = (math::max)(most, f(place<T>{k}));
    return most;
  }
};

}  // namespace craft::engine
