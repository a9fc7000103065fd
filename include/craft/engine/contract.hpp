// What verbs and engines hand to each other, whatever the device: names for arrays in the engine's memory (a verb passes
// them on and never looks into them), and what is true of them everywhere. docs/add_a_device.md has an engine's members.
//
// What happens between two sweeps is a step: a struct that an engine calls where its memory lies. `each(count, step)` calls
// step(i) for every i; `each_row(n, d, step)` calls step(i, lanes) for every row of d numbers, with the group of lanes that goes
// through them (lanes.hpp). Its text is the same for every device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "craft/context.hpp"
#include "craft/engine/host_device.hpp"
#include "craft/engine/lanes.hpp"
#include "craft/view.hpp"

namespace craft::engine {

/// Scratch memory of one call, which goes back when the engine that derives from it does. (To derive from it also makes the
/// functions of this namespace known where the engine is their first argument.)
class scratch {
 public:
  explicit scratch(workspace& w) : memory_(w) {}
  template <class T>
  T* take(index_t n) {
    return memory_.take<T>(n);
  }

 private:
  workspace::frame memory_;
};

// ---------------------------------------------------------------------------------------------------------
// Numbers

/// A number that a step reads: `factor`, or `factor` times the number at an address in the engine's memory, read when the step
/// runs.
struct number {
  double factor = 0;
  const void* at = nullptr;
  bool is_double = true;

  number() = default;
  CRAFT_HOST_DEVICE number(double value) : factor(value) {}  // NOLINT: 0.5 is a number
  CRAFT_HOST_DEVICE number(double factor_, const void* at_, bool is_double_) : factor(factor_), at(at_), is_double(is_double_) {}
  CRAFT_HOST_DEVICE explicit operator double() const {
    if (at == nullptr) return factor;
    return factor * (is_double ? *static_cast<const double*>(at) : double(*static_cast<const float*>(at)));
  }
  friend number operator*(double f, const number& n) { return {f * n.factor, n.at, n.is_double}; }
};

// ---------------------------------------------------------------------------------------------------------
// Arrays

/// Packed rows: contiguous, with their squared norms.
template <class T>
struct rows {
  T* data = nullptr;
  index_t n = 0, d = 0;
  T* squared = nullptr;
  CRAFT_HOST_DEVICE T* row(index_t i) const { return data + i * d; }
};

/// Where a sweep adds its gradients: dX (n x d), and per row the sum that multiplies the row itself (in double: it meets
/// all the other rows, and what it multiplies nearly cancels with the rest). A sweep with gradients has `self` on both
/// sides; the side whose gradient nobody wants has no `gradient`.
template <class T>
struct pull {
  T* gradient = nullptr;
  double* self = nullptr;
  bool wanted() const { return self != nullptr; }
};

/// A squared distance, and a pair i < j of rows that has it.
struct ranked_distance {
  double value;
  index_t i, j;
};
/// The bits of a number >= 0 as an integer of the same order, and the way back.
template <class T>
using bits_of = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
template <class T>
CRAFT_HOST_DEVICE std::uint64_t ordered_bits(T x) {
  bits_of<T> bits;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}
template <class T>
CRAFT_HOST_DEVICE T from_ordered_bits(std::uint64_t bits) {
  const bits_of<T> narrow = bits_of<T>(bits);
  T x;
  std::memcpy(&x, &narrow, sizeof x);
  return x;
}

// ---------------------------------------------------------------------------------------------------------
// Squared distances

/// Which pairs of rows of d numbers have a distance D = a + b - 2 s of little more than its own rounding: no more than
/// 16 (d + 4) eps (a + b), sixteen times its bound (docs/math.md, "Precision"). Theirs is taken from the difference of the rows.
template <class T>
struct near_pairs {
  T half;
  CRAFT_HOST_DEVICE explicit near_pairs(index_t d) {
    const T share = T(16) * T(d + 4) * math::limits<T>::epsilon;
    half = (T(1) - (share < T(0.0625) ? share : T(0.0625))) / T(2);
  }
  /// Of a + b.
  CRAFT_HOST_DEVICE T share() const { return T(1) - half - half; }
  /// By the dot product.
  CRAFT_HOST_DEVICE bool operator()(T s, T a, T b) const { return s - half * b > half * a; }
  /// By the distance.
  CRAFT_HOST_DEVICE bool at(T D, T a, T b) const { return D <= share() * (a + b); }
};

/// What a pair function looks at. Of a function of the distance also: of a pair at distance D, wherever it lies.
template <class T>
struct pair_scalars {
  using number = T;
  T s, a, b;
  CRAFT_HOST_DEVICE static pair_scalars at_distance(T D) { return {T(-0.5) * D, T(0), T(0)}; }
};

/// |x - y|^2 of a pair, or what from_rows() says of it, where its scalars would not do.
template <class T, class FromRows>
CRAFT_HOST_DEVICE T squared_distance(const near_pairs<T>& near, const pair_scalars<T>& pair, const FromRows& from_rows) {
  return near(pair.s, pair.a, pair.b) ? from_rows() : (math::max)(pair.a + pair.b - (pair.s + pair.s), T(0));
}

// ---------------------------------------------------------------------------------------------------------
// Softmax

/// One direction. On the way lse is the running maximum, and `sum` the sum of exponentials below it.
template <class T>
struct softmax {
  index_t n = 0;
  const T *id = nullptr, *other_id = nullptr;  ///< equal for rows that belong together, and for no others
  const T* hit = nullptr;
  const index_t* matches = nullptr;            ///< how many columns belong to each row; null: one
  T base = 0, keep = 1;
  const T* soft = nullptr;
  index_t soft_stride = 0;
  const T *weight = nullptr, *mass = nullptr;  ///< w_i (0: left out) and mass_i = sum_j t_ij (0 too if a label leaves row i out)
  const double* weight_sum = nullptr;          ///< what the weights given were divided by; null: n
  T *lse = nullptr, *sum = nullptr, *target_dot = nullptr;
};

/// The target of pairs: of those who belong to `id`, and of soft targets.
template <class V, class T>
CRAFT_HOST_DEVICE V hard_target(const softmax<T>& s, V id, V hit, V other_id) {
  return math::where_equal(id, other_id, hit) + V(s.base);
}
template <class V, class T>
CRAFT_HOST_DEVICE V soft_target(const softmax<T>& s, V soft) {
  return V(s.keep) * soft + V(s.base);
}

template <class T>
CRAFT_HOST_DEVICE T target_of(const softmax<T>& s, index_t i, index_t j) {
  return s.soft != nullptr ? soft_target(s, s.soft[i * s.soft_stride + j]) : hard_target(s, s.id[i], s.hit[i], s.other_id[j]);
}

/// Of some logits of rows: the largest, the sum of exponentials below it, and the sum of targets times logits. Of none: a number
/// below all logits, and zeros.
template <class V>
struct softmax_part {
  V highest, sum, target;
  template <class T>
  CRAFT_HOST_DEVICE static softmax_part none(T) {
    return {V(-math::limits<T>::largest), V(T(0)), V(T(0))};
  }
  CRAFT_HOST_DEVICE void join(const softmax_part& o) {
    const V before = highest;
    highest = (math::max)(before, o.highest);
    sum = sum * math::exp(before - highest) + o.sum * math::exp(o.highest - highest);
    target = target + o.target;
  }
  /// With a logit whose exponential the maximum allows.
  CRAFT_HOST_DEVICE void add(V z, V t) {
    sum = sum + math::exp(z - highest);
    target = target + z * t;
  }
};

// ---------------------------------------------------------------------------------------------------------
// Steps that engines run themselves

/// x_i = value
template <class T>
struct fill_step {
  T* x;
  T value;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { x[i] = value; }
};
/// squared_i = |x_i|^2
template <class T>
struct square_norms_step {
  rows<T> x;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const T* r = x.row(i);
    const T squared = dot(r, r, x.d, g);
    if (g.first()) x.squared[i] = squared;
  }
};
/// g_i += 2 self_i x_i
template <class T>
struct add_self_step {
  rows<T> x;
  pull<T> to;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const T *r = x.row(i), by = T(2 * to.self[i]);
    T* out = to.gradient + i * x.d;
    g.template each<T>(x.d, [&](auto at) { at.store(out, at.load(out) + decltype(at.load(r))(by) * at.load(r)); });
  }
};

}  // namespace craft::engine
