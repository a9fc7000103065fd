// Groups of lanes: how a step goes through the numbers of a row. A register's lanes on the CPU (vector_lanes), a warp on a GPU
// (launch.cuh), one number after another in tests/plain_device.hpp (single_lane). They have the same members, and a step is
// written once, against any of them:
//
//     g.each<T>(n, f)      f(at) for all places of n numbers: at.load(p) is p[k] as a T, or as a register of T, whatever type p
//                          points to; at.store(p, v) the way back
//     g.sum<T>(n, f)       the sum of f(at); the same in every lane
//     g.max<T>(n, f)       the largest, and 0 if that is larger
//     g.count(n, holds)    for how many k holds(k)
//     g.lowest(n, holds)   the lowest k for which holds(k), or n
//     g.each_where(n, holds, f)   f(k) in order, by all lanes, for every k for which holds(k), which f must not change
//     g.first()            whether this lane is to write what the row has once
#pragma once

#include "craft/engine/host_device.hpp"
#include "craft/view.hpp"

namespace craft::engine {

/// Place k of a row, or of as many numbers from there on as a V has.
template <class V>
struct place {
  using number = V;
  index_t k;
  template <class S>
  CRAFT_HOST_DEVICE V load(const S* p) const {
    if constexpr (std::is_floating_point_v<V>)
      return V(p[k]);
    else
      return V::converted(p + k);
  }
  template <class S>
  CRAFT_HOST_DEVICE void store(S* p, V v) const {
    if constexpr (std::is_floating_point_v<V>)
      p[k] = S(v);
    else
      v.store_converted(p + k);
  }
};

/// One number after another.
struct single_lane {
  template <class T, class F>
  CRAFT_HOST_DEVICE void each(index_t n, const F& f) const {
    for (index_t k = 0; k < n; ++k) f(place<T>{k});
  }
  template <class T, class F>
  CRAFT_HOST_DEVICE T sum(index_t n, const F& f) const {
    T s(0);
    for (index_t k = 0; k < n; ++k) s += f(place<T>{k});
    return s;
  }
  template <class T, class F>
  CRAFT_HOST_DEVICE T (max)(index_t n, const F& f) const {
    T most(0);
    for (index_t k = 0; k < n; ++k) most = (math::max)(most, f(place<T>{k}));
    return most;
  }
  template <class F>
  CRAFT_HOST_DEVICE index_t count(index_t n, const F& holds) const {
    index_t many = 0;
    for (index_t k = 0; k < n; ++k) many += holds(k) ? 1 : 0;
    return many;
  }
  template <class F>
  CRAFT_HOST_DEVICE index_t lowest(index_t n, const F& holds) const {
    index_t k = 0;
    while (k < n && !holds(k)) ++k;
    return k;
  }
  template <class H, class F>
  CRAFT_HOST_DEVICE void each_where(index_t n, const H& holds, const F& f) const {
    for (index_t k = 0; k < n; ++k)
      if (holds(k)) f(k);
  }
  CRAFT_HOST_DEVICE bool first() const { return true; }
};

/// The rows i with index_i = c, found by looking at all of them: each(f) calls f(i), in order.
template <class Lanes>
struct members_by_search {
  const index_t* index;
  index_t n, c;
  Lanes lanes;
  template <class F>
  CRAFT_HOST_DEVICE void each(const F& f) const {
    lanes.each_where(n, [&](index_t i) { return index[i] == c; }, f);
  }
};

/// x . y
template <class T, class Lanes>
CRAFT_HOST_DEVICE T dot(const T* x, const T* y, index_t n, const Lanes& g) {
  return g.template sum<T>(n, [&](auto at) { return at.load(x) * at.load(y); });
}
/// |x - y|^2
template <class T, class Lanes>
CRAFT_HOST_DEVICE T squared_distance(const T* x, const T* y, index_t n, const Lanes& g) {
  return g.template sum<T>(n, [&](auto at) {
    const auto c = at.load(x) - at.load(y);
    return c * c;
  });
}

}  // namespace craft::engine
