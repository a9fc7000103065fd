// Sums over a sample and what else is folded from many to one: an engine goes through items (`fold`), rows (`fold_rows`) or, for
// every column, rows (`fold_columns`), in an order that depends on nothing but their number, so that equal inputs give equal
// bits. A fold is a struct with
//
//     using state        what has been found so far, trivially copyable
//     start()            of nothing
//     add(state, i)      with item i; of rows add(state, i, lanes), the same in every lane; of columns add(state, i, k)
//     join(state, state) of what came before and what came after
//     finish(state)      where the result goes; of columns finish(k, state)
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "craft/steps/given.hpp"

namespace craft::engine {

/// A fold that adds up doubles.
struct adds_up {
  using state = double;
  CRAFT_HOST_DEVICE double start() const { return 0; }
  CRAFT_HOST_DEVICE void join(double& a, double b) const { a += b; }
};

/// out (=, +=) sum_i term(i), a double each
template <class Term>
struct sum_fold : adds_up {
  Term term;
  double* out;
  bool accumulate;
  sum_fold(const Term& term_, double* out_, bool accumulate_) : term(term_), out(out_), accumulate(accumulate_) {}
  CRAFT_HOST_DEVICE void add(double& s, index_t i) const { s += term(i); }
  CRAFT_HOST_DEVICE void finish(double s) const { *out = accumulate ? *out + s : s; }
};
template <class T>
struct number_term {
  const T* x;
  CRAFT_HOST_DEVICE double operator()(index_t i) const { return double(x[i]); }
};
template <class T, class Engine>
void sum(Engine& e, const T* x, index_t n, double* out) {
  e.fold(n, sum_fold<number_term<T>>({x}, out, false));
}

/// out = sum_ik x_ik y_ik
template <class T>
struct dot_fold : adds_up {
  const T *x, *y;
  index_t d;
  double* out;
  dot_fold(const T* x_, const T* y_, index_t d_, double* out_) : x(x_), y(y_), d(d_), out(out_) {}
  template <class Lanes>
  CRAFT_HOST_DEVICE void add(double& s, index_t i, const Lanes& g) const {
    s += double(dot(x + i * d, y + i * d, d, g));
  }
  CRAFT_HOST_DEVICE void finish(double s) const { *out = s; }
};
template <class T, class Engine>
void dot(Engine& e, const T* x, const T* y, index_t n, index_t d, double* out) {
  e.fold_rows(n, d, dot_fold<T>(x, y, d, out));
}

/// out = sum_i |x_i - mean|^2
template <class T>
struct spread_fold : adds_up {
  const T* x;
  index_t d;
  const double* mean;
  double* out;
  spread_fold(const T* x_, index_t d_, const double* mean_, double* out_) : x(x_), d(d_), mean(mean_), out(out_) {}
  template <class Lanes>
  CRAFT_HOST_DEVICE void add(double& s, index_t i, const Lanes& g) const {
    const T* r = x + i * d;
    s += g.template sum<double>(d, [&](auto at) {
      const auto c = at.load(r) - at.load(mean);
      return c * c;
    });
  }
  CRAFT_HOST_DEVICE void finish(double s) const { *out = s; }
};
template <class T, class Engine>
void spread(Engine& e, const T* x, index_t n, index_t d, const double* mean, double* out) {
  e.fold_rows(n, d, spread_fold<T>(x, d, mean, out));
}

// ---------------------------------------------------------------------------------------------------------
// Weights

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
/// pairs = sum_(i != j) a_i a_j with a = w / sum
struct weight_pairs_fold {
  using state = weight_sums;
  const double *w, *sum;
  double* pairs;
  CRAFT_HOST_DEVICE weight_sums start() const { return {}; }
  CRAFT_HOST_DEVICE void add(weight_sums& s, index_t i) const { s.add(w[i] / *sum, 0); }
  CRAFT_HOST_DEVICE void join(weight_sums& a, const weight_sums& b) const { a.add(b.sum, b.pairs); }
  CRAFT_HOST_DEVICE void finish(const weight_sums& s) const { *pairs = s.pairs; }
};
/// to_i = n w_i / sum
template <class T>
struct share_weights_step {
  const double *w, *sum;
  index_t n;
  T* to;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { to[i] = T(w[i] / *sum * double(n)); }
};
/// Of n weights that are all 1: what share_weights_step and weight_pairs_fold give.
template <class T>
struct equal_weights_step {
  index_t n;
  T* to;
  double* sums;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    to[i] = T(1);
    if (i == 0) sums[0] = double(n - 1) / double(n), sums[1] = double(n);
  }
};
/// to_i = a_i n with a_i = w_i / sum w (empty: 1); sums = {sum_(i != j) a_i a_j, sum w}.
template <class T, class Engine>
void load_weights(Engine& e, const numbers& w, index_t n, T* to, double* sums) {
  if (w.empty()) return e.each(n, equal_weights_step<T>{n, to, sums});
  const double* given = converted<double>(e, w);
  sum(e, given, n, sums + 1);
  e.fold(n, weight_pairs_fold{given, sums + 1, sums});
  e.each(n, share_weights_step<T>{given, sums + 1, n, to});
}

// ---------------------------------------------------------------------------------------------------------
// Magnitudes

/// Between which magnitudes the largest number of rows of d numbers must lie, if it is not 0, for their squared distances to be
/// right in T. A difference is at most 2 `most`, so that d of its squares stay below the largest T; and the square of
/// `least`, times epsilon, is still a normal number: what vanishes then is below the rounding of the largest square.
template <class T>
struct square_limits {
  double least, most;
  explicit square_limits(index_t d)
      : least(std::sqrt(double((std::numeric_limits<T>::min)()) / double(std::numeric_limits<T>::epsilon()))),
        most(std::sqrt(double((std::numeric_limits<T>::max)()) / (4 * double(d)))) {}
};

/// What squares that vanish do to a result. Nothing, for a smooth function of the distance, whose own parameters are checked; all
/// is wrong if all numbers are so small, for any other; a row is, for a function of the norms.
enum class small_squares { harmless, all, each_row };
template <class K>
constexpr small_squares small_squares_of() {
  return !K::translation_invariant ? small_squares::each_row : is_smooth<K>::value ? small_squares::harmless : small_squares::all;
}

/// The largest |x_k|; not a number if any is.
template <class T, class Lanes>
CRAFT_HOST_DEVICE T magnitude(const T* x, index_t n, const Lanes& g) {
  const T most = g.template max<T>(n, [&](auto at) { return (math::max)(at.load(x), -at.load(x)); });
  const T none = g.template sum<T>(n, [&](auto at) { return (at.load(x) - at.load(x)); });  // 0, if all are finite
  return none == T(0) || most == math::limits<T>::infinity ? most : none;
}
/// out = the largest |x_ik|; not a number if any is.
template <class T>
struct largest_fold {
  using state = double;
  const T* x;
  index_t d;
  double* out;
  CRAFT_HOST_DEVICE double start() const { return 0; }
  template <class Lanes>
  CRAFT_HOST_DEVICE void add(double& s, index_t i, const Lanes& g) const {
    join(s, double(magnitude(x + i * d, d, g)));
  }
  CRAFT_HOST_DEVICE void join(double& a, double b) const {
    if (b > a || b != b) a = b;
  }
  CRAFT_HOST_DEVICE void finish(double s) const { *out = s; }
};
template <class T, class Engine>
void largest(Engine& e, const T* x, index_t n, index_t d, double* out) {
  e.fold_rows(n, d, largest_fold<T>{x, d, out});
}

/// One more than the place of the first number that is not finite, or 0.
template <class S>
struct not_finite_fold {
  using state = index_t;
  const S* x;
  index_t d, stride;
  index_t* out;
  CRAFT_HOST_DEVICE index_t start() const { return 0; }
  template <class Lanes>
  CRAFT_HOST_DEVICE void add(index_t& first, index_t i, const Lanes& g) const {
    using T = compute_t<S>;
    const S* r = x + i * stride;
    if (g.template sum<T>(d, [&](auto at) { return at.load(r) - at.load(r); }) == T(0)) return;
    join(first, i * d + g.lowest(d, [&](index_t k) { return !(T(r[k]) - T(r[k]) == T(0)); }) + 1);
  }
  CRAFT_HOST_DEVICE void join(index_t& a, index_t b) const {
    if (a == 0 || (b != 0 && b < a)) a = b;
  }
  CRAFT_HOST_DEVICE void finish(index_t first) const { *out = first; }
};
/// Its index, or -1. Waits for a device.
template <class Engine, class S, memory M>
index_t first_not_finite(Engine& e, const matrix_view<const S, M>& x) {
  index_t* out = e.template take<index_t>(1);
  e.fold_rows(x.rows(), x.cols(), not_finite_fold<S>{x.data(), x.cols(), x.stride(), out});
  return *e.on_host(out, 1) - 1;
}

/// What of the magnitudes of rows square_limits forbid: the largest of all numbers, or of a row. Rows whose norm says that they
/// are within the limits are not gone through.
template <class T>
struct beyond_squares_fold {
  struct state {
    double largest, forbidden;  ///< of the rows gone through; of the first of them that is forbidden by itself
    bool fine;                  ///< whether there are others
  };
  rows<T> x, y;
  square_limits<T> limits;
  small_squares small;
  double* out;
  CRAFT_HOST_DEVICE state start() const { return {0, 0, false}; }
  template <class Lanes>
  CRAFT_HOST_DEVICE void add(state& s, index_t i, const Lanes& g) const {
    const rows<T>& r = i < x.n ? x : y;
    const index_t at = i < x.n ? i : i - x.n;
    const double squared = double(r.squared[at]), least = small == small_squares::harmless ? 0 : limits.least * limits.least;
    const bool enough = squared >= least * (small == small_squares::all ? double(r.d) : 1);
    if (enough && squared <= limits.most * limits.most) {
      s.fine = true;
      return;
    }
    const double here = double(magnitude(r.row(at), r.d, g));
    join(s, {here, forbidden(here, small == small_squares::each_row) ? here : 0, false});
  }
  CRAFT_HOST_DEVICE void join(state& a, const state& b) const {
    if (b.largest > a.largest || b.largest != b.largest) a.largest = b.largest;
    if (a.forbidden == 0) a.forbidden = b.forbidden;
    a.fine = a.fine || b.fine;
  }
  /// Where all numbers are too small for their squares the norms become not numbers, and with them all that is computed; those of
  /// rows that are too large are infinite by themselves.
  CRAFT_HOST_DEVICE void finish(const state& s) const {
    const bool small_too = small == small_squares::all && !s.fine;
    *out = small == small_squares::each_row ? s.forbidden : forbidden(s.largest, small_too) ? s.largest : 0;
    if (!small_too || *out == 0 || *out > limits.most) return;
    for (index_t i = 0; i < x.n; ++i) x.squared[i] = math::limits<T>::not_a_number;
    for (index_t i = 0; i < y.n; ++i) y.squared[i] = math::limits<T>::not_a_number;
  }

 private:
  /// What is not finite stays that by itself.
  CRAFT_HOST_DEVICE bool forbidden(double m, bool small_too) const {
    return m - m == 0 && m != 0 && (m > limits.most || (small_too && m < limits.least));
  }
};
/// A row that is too small for its square has a norm that is not a number.
template <class T>
struct vanishing_row_step {
  rows<T> x;
  double least;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const T* r = x.row(i);
    const double here = double(magnitude(r, x.d, g));
    if (g.first() && here > 0 && here < least) x.squared[i] = math::limits<T>::not_a_number;
  }
};
/// A magnitude that square_limits forbid, or 0: the largest of all numbers of x and y, or of a row that is not zero. A device is
/// only waited for if the context looks at the data; else the squared norms become not numbers, and with them all that is
/// computed.
template <class T, class Engine>
double beyond_squares(Engine& e, const rows<T>& x, const rows<T>& y, small_squares small) {
  constexpr bool at_hand = std::decay_t<decltype(e.context())>::space == memory::host;
  const bool looks = at_hand || e.context().check_finite();
  const square_limits<T> limits(x.d);
  if (!at_hand && small == small_squares::each_row)
    for (const rows<T>& r : {x, y}) e.each_row(r.n, r.d, vanishing_row_step<T>{r, limits.least});
  if (!looks && small != small_squares::all) return 0;
  double* out = e.template take<double>(1);
  e.fold_rows(x.n + y.n, x.d, beyond_squares_fold<T>{x, y, limits, small, out});
  return looks ? *e.on_host(out, 1) : 0;
}

}  // namespace craft::engine
