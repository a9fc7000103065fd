// What verbs and engines hand to each other, whatever the device: names for arrays in the engine's memory (a verb passes
// them on and never looks into them), and the small computations between two sweeps, which run where those arrays lie.
//
// A small computation is a struct with operator()(index): the engine's `each(count, step)` calls it for every index in
// [0, count), on the host or on a GPU. `Number` is the engine's own kind of number: a double on the CPU; on a GPU a
// double or the address of one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "craft/engine/host_device.hpp"
#include "craft/view.hpp"

namespace craft {

/// What craft::objective gives: the terms without their weights, and the weighted sum.
template <class T>
struct objective_values {
  T text = 0, image = 0, batch = 0, mmd = 0, total = 0;
};

}  // namespace craft

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Arrays

/// Packed rows: contiguous, with their squared norms.
template <class T>
struct rows {
  T* data = nullptr;
  index_t n = 0, d = 0;
  T* squared = nullptr;
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

/// Scaling of the columns of a group of rows to (z - low) / range, range = max - min + eps, and where the extremes stand.
template <class T>
struct column_range {
  T *low = nullptr, *range = nullptr;
  index_t *low_at = nullptr, *high_at = nullptr;
};

/// A squared distance, and a pair i < j of rows that has it.
struct ranked_distance {
  double value;
  index_t i, j;
};

/// The weights of a quadratic form on a stacked sample: u_ij = w_i w_j times the factor of the blocks i and j are in.
/// Equal weights are exactly 1, so that in float only the kernel's values round, not the 1/n^2.
template <class T, class Number = double>
struct form_weights {
  T* per_row = nullptr;
  Number within_x = 1, within_y = 1, across = -1;
  bool pull_x = true, pull_y = true;  ///< whose gradient is wanted, where any is
};

/// One direction of a softmax cross-entropy: a softmax over the columns j for each of n rows i, with logits z_ij,
///
///     loss = sum_i w_i (mass_i lse_i - sum_j t_ij z_ij)
///     t_ij = hit_i [id_i = other_id_j] + base        or, with soft targets,   t_ij = keep * soft_ij + base
///
/// log_sum_exp fills lse (on the way the running maximum, with `sum`) and target_dot = sum_j t_ij z_ij. Ids are equal for
/// rows that belong together; the engine chooses their type.
template <class T, class Id = T>
struct softmax {
  index_t n = 0;
  const Id *id = nullptr, *other_id = nullptr;
  const T* hit = nullptr;
  const index_t* matches = nullptr;            ///< how many columns belong to each row; null: one
  T base = 0, keep = 1;
  const T* soft = nullptr;
  index_t soft_stride = 0;
  const T *weight = nullptr, *mass = nullptr;  ///< w_i (0: left out) and mass_i = sum_j t_ij (0 too where a label leaves a row out)
  const double* weight_sum = nullptr;          ///< what the weights given were divided by; null: n
  T *lse = nullptr, *sum = nullptr, *target_dot = nullptr;
};

// ---------------------------------------------------------------------------------------------------------
// Squared distances

/// Between which magnitudes the largest number of rows of d numbers must lie, if it is not 0, for their squared distances to be
/// right in T. A difference is at most 2 `most`, so that d of its squares stay below the largest T; and the square of
/// `least`, times epsilon, is still a normal number: what vanishes then is below the rounding of the largest square.
template <class T>
struct square_limits {
  double least, most;
  explicit square_limits(index_t d)
      : least(std::sqrt(double(std::numeric_limits<T>::min()) / double(std::numeric_limits<T>::epsilon()))),
        most(std::sqrt(double(std::numeric_limits<T>::max()) / (4 * double(d)))) {}
};

/// The least norm of a row that normalise does not count as zero: the inverse of what is below is beyond T.
template <class T>
CRAFT_HOST_DEVICE constexpr T least_norm() {
  return T(1) / math::limits<T>::largest;
}

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
  T s, a, b;
  CRAFT_HOST_DEVICE static pair_scalars at_distance(T D) { return {T(-0.5) * D, T(0), T(0)}; }
};

/// What squares that vanish do to a result. Nothing, for a smooth function of the distance, whose own parameters are checked; all
/// is wrong if all numbers are so small, for any other; a row is, for a function of the norms.
enum class small_squares { harmless, all, each_row };
template <class K>
constexpr small_squares small_squares_of() {
  return !K::translation_invariant ? small_squares::each_row : is_smooth<K>::value ? small_squares::harmless : small_squares::all;
}

// ---------------------------------------------------------------------------------------------------------
// Between the sweeps

/// x_i = value
template <class T>
struct fill_step {
  T* x;
  T value;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { x[i] = value; }
};

/// x_ik += mean_k, n x d
template <class T>
struct add_mean_step {
  T* x;
  const double* mean;
  index_t d;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { x[i] = T(double(x[i]) + mean[i % d]); }
};

/// a_k += b_k
struct add_step {
  double* a;
  const double* b;
  CRAFT_HOST_DEVICE void operator()(index_t k) const { a[k] += b[k]; }
};

/// s = exp(log_scale), clamped: out = {s, whether the clamp holds it}.
template <class Number>
struct clamped_scale_step {
  Number log_scale;
  double max_scale;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    const double s = std::exp(double(log_scale));
    out[0] = s < max_scale ? s : max_scale;
    out[1] = s < max_scale ? 0 : 1;
    if (s != s) out[0] = s;  // a scale that is not a number must not pass for the largest one
  }
};

/// parts (2 of them at least) become {g, the same for -upstream}, where g is the gradient by log_scale that the caller gets:
/// upstream times the sum of the first `count`, as if nothing were clamped; but 0 where the clamp holds and a step against g
/// would lead further out. So the scale stays at its bound until it is to shrink, as if log_scale itself were clamped.
template <class Number>
struct clamped_scale_pullback_step {
  double* parts;
  index_t count;
  Number upstream, held;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    double g = parts[0];
    for (index_t q = 1; q < count; ++q) g += parts[q];
    g *= double(upstream);
    const bool clamped = double(held) != 0;
    parts[0] = clamped && g < 0 ? 0 : g;  // what is not a number stays that
    parts[1] = clamped && g > 0 ? 0 : -g;
  }
};

/// out_i += dL/dw_i of one direction, L = share sum_i w_i l_i / sum w (or share sum_i w_i l_i, with `divided` false): by the
/// rows' own losses l_i = mass_i lse_i - target_dot_i. Rows without a part in it have none; `loss` is L.
template <class Softmax>
struct row_weight_pullback_step {
  Softmax s;
  const double* loss;
  double share;
  bool divided;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const double mass = double(s.mass[i]), sum = s.weight_sum ? *s.weight_sum : double(s.n);
    if ((mass == 0 && s.soft == nullptr) || (divided && sum == 0)) return;
    const double row = share * (mass * double(s.lse[i]) - double(s.target_dot[i]));
    out[i] += divided ? (row - *loss) / sum : row;
  }
};

/// z_ij = dL/dt_ij = w_i keep (lse_i - z_ij), the gradient by soft targets, n x m.
template <class T, class Softmax>
struct target_pullback_step {
  Softmax s;
  index_t m;
  T* z;
  CRAFT_HOST_DEVICE void operator()(index_t at) const {
    const index_t i = at / m;
    z[at] = s.weight[i] * s.keep * (s.lse[i] - z[at]);
  }
};

/// The scale M of squared distances that a bandwidth rule found, and what its gradient needs: mean rules a factor, median
/// rules the pairs that were in the middle.
struct bandwidth_fit {
  double scale, root, inverse_root;  ///< M, sqrt(M), 1 / sqrt(M)
  double mean_factor;                ///< M = mean_factor * sum_i |z_i - mean|^2; 0: the gradient is not by the mean
  double along;                      ///< sum_ik z_ik dL/dz_ik, once it is known
  index_t pairs;                     ///< M = mean of this many of `pair`
  ranked_distance pair[2];
};

/// M by a rule from the sum of squared distances from the mean, and for median rules from the pairs found. A median of 0
/// falls back to the mean, and that to 1.
struct bandwidth_step {
  bandwidth_fit* fit;
  const double* spread;  ///< sum_i |z_i - mean|^2
  index_t n, pairs;
  bool without_diagonal;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    double scale = 0;  // of equal rows exactly: their mean is each of them
    fit->mean_factor = 0;
    fit->pairs = pairs;
    for (index_t p = 0; p < pairs; ++p) scale += fit->pair[p].value / double(pairs);
    if (scale <= 0) {  // what is not a number stays that
      fit->pairs = 0;
      fit->mean_factor = 2 / double(without_diagonal ? n - 1 : n);
      scale = fit->mean_factor * *spread;
    }
    if (scale <= 0) {
      fit->mean_factor = 0;
      scale = 1;
    }
    fit->scale = scale;
    fit->root = std::sqrt(scale);
    fit->inverse_root = 1 / fit->root;
  }
};

/// g += dL/dM dM/dz for z = sqrt(M) times the rows given (they have been scaled already); `mean` is of unscaled rows.
/// Since the loss sees z / sqrt(M) only, dL/dM = -along / (2 M), which may be too small for a double where the gradient is not:
/// taken as dL/dr dr/dz with r = sqrt(M) and dL/dr = -along / r.
template <class T>
struct bandwidth_pullback_step {
  const bandwidth_fit* fit;
  const T* scaled;
  const double* mean;
  index_t d;
  T* g;
  CRAFT_HOST_DEVICE void operator()(index_t at) const {
    const index_t i = at / d, k = at % d;
    const double by_root = -fit->along * fit->inverse_root;
    if (fit->mean_factor != 0)
      g[at] += T(fit->mean_factor * by_root * (double(scaled[at]) - fit->inverse_root * mean[k]));
    for (index_t p = 0; p < fit->pairs; ++p) {
      const ranked_distance& pair = fit->pair[p];
      if (i != pair.i && i != pair.j) continue;
      const index_t other = i == pair.i ? pair.j : pair.i;
      g[at] += T(by_root / double(fit->pairs) * double(scaled[at] - scaled[other * d + k]));
    }
  }
};

/// Of some weights: their sum, and the sum over pairs of different ones, sum_(i != j) a_i a_j. Nothing is subtracted, as in
/// 1 - sum a_i^2, which leaves no digits where one weight is nearly all.
struct weight_sums {
  double sum = 0, pairs = 0;
  /// These and others together.
  CRAFT_HOST_DEVICE void add(double other_sum, double other_pairs) {
    pairs += other_pairs + 2 * sum * other_sum;
    sum += other_sum;
  }
};

/// Factors {within_x, within_y} of a quadratic form whose weights are a_i n with sum a = 1, given sum_(i != j) a_i a_j of both
/// sides: what is divided by without the diagonal.
struct form_factors_step {
  index_t n, m;
  bool without_diagonal;
  const double *x_pairs, *y_pairs;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    out[0] = 1 / (double(n) * double(n) * (without_diagonal ? *x_pairs : 1));
    out[1] = 1 / (double(m) * double(m) * (without_diagonal ? *y_pairs : 1));
  }
};

/// x in other words: 64 bits that look random, and differ for different x.
///
/// G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
CRAFT_HOST_DEVICE inline std::uint64_t mixed_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// key_i: a number that is the same for equal rows, and hardly ever for others.
template <class T>
struct row_key_step {
  const T* x;
  index_t d;
  index_t* key;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    std::uint64_t all = 0;
    for (index_t k = 0; k < d; ++k) {
      const double value = double(x[i * d + k]) + 0.0;  // which makes -0 a 0
      std::uint64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      all = mixed_bits(all + bits + 0x9e3779b97f4a7c15u);
    }
    key[i] = index_t(all);
  }
};

/// first_i = i, unless row first_i is equal to row i.
template <class T>
struct equal_row_step {
  const T* x;
  index_t d;
  index_t* first;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const T *row = x + i * d, *other = x + first[i] * d;
    for (index_t k = 0; k < d; ++k)
      if (row[k] != other[k]) {
        first[i] = i;
        return;
      }
  }
};

/// Labels w_i = 1 - offset for the rows that count as x's, -offset for the others. Vector 0 is all ones, 1 has the labels as
/// they are, from 2 on they are permuted. In blocks of `side` rows of the sample: `count` vectors, one after another.
///
/// n of N rows in one pass: C. Fan, M. Muller and I. Rezucha, J. Am. Stat. Assoc. 57 (1962). The random bits are the same on
/// every device.
template <class T>
struct label_step {
  std::uint64_t seed;
  index_t n, total, side, count;
  T offset;
  T* labels;

  CRAFT_HOST_DEVICE void operator()(index_t b) const {
    constexpr std::uint64_t step = 0x9e3779b97f4a7c15u;
    std::uint64_t state = mixed_bits(seed + step) + mixed_bits(std::uint64_t(b) * step);
    index_t wanted = n;
    for (index_t begin = 0; begin < total; begin += side) {
      const index_t length = total - begin < side ? total - begin : side;
      T* to = labels + begin * count + b * length;
      for (index_t i = begin; i < begin + length; ++i) {
        bool chosen = i < n;
        if (b > 1) {  // each row with probability (still wanted) / (still left)
          state += step;
          chosen = double(mixed_bits(state) >> 11) * 0x1.0p-53 * double(total - i) < double(wanted);
          if (chosen) --wanted;
        }
        to[i - begin] = b == 0 ? T(1) : chosen ? T(1) - offset : -offset;
      }
    }
  }
};

/// k_ii = 0
template <class T>
struct clear_diagonal_step {
  T* k;
  index_t stride;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { k[i * stride + i] = T(0); }
};

/// A block of n rows' share of w' K w and of w' K 1, for each w, from labels and products K w, both with n numbers for
/// each w; vector 0 is all ones.
template <class T>
struct label_sums_step {
  const T *labels, *products;
  index_t n;
  double* sums;
  CRAFT_HOST_DEVICE void operator()(index_t b) const {
    double form = 0, linear = 0;
    for (index_t i = 0; i < n; ++i) {
      const double w = double(labels[b * n + i]), kw = double(products[b * n + i]);
      form += w * kw;
      linear += (kw + w * double(products[i])) / 2;
    }
    sums[2 * b] += form;
    sums[2 * b + 1] += linear;
  }
};

/// The terms of an objective and their weighted sum.
template <class T>
struct objective_step {
  const double* losses;  ///< of text, image and batch
  const T* discrepancy;
  double text, image, batch, mmd;
  objective_values<T>* values;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    const T terms[4] = {T(losses[0]), T(losses[1]), T(losses[2]), *discrepancy};
    *values = {terms[0], terms[1], terms[2], terms[3],
               T(text * double(terms[0]) + image * double(terms[1]) + batch * double(terms[2]) + mmd * double(terms[3]))};
  }
};

}  // namespace craft::engine
