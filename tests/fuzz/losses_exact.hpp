// The exact side of losses_fuzz: the definitions of docs/math.md in long double, and with each number how far rounding may
// move it. Nothing here comes from the library. u is the unit round-off of the computing type, v of the storage type; all
// to first order.
//
//   sum of d terms t_k     u r(d) (|t|_2 + |sum t|), r(d) = 1 + 2 sqrt(d) / 3: roundings of partial sums have random signs
//   of d terms alike       u d / 4 |sum t| more: their roundings have one sign. So of all sums in double, with u = 2^-53
//   row entry z_ik         dz_ik = u |z_ik| each time it is stored: centred, divided by a norm, by sqrt(M), ...; or the least
//                          positive number, if that is more
//   D, by dot products     2 |delta_k e_k|_2 + |e|_2^2 + 2 u (3 + r(d)) (a + b), delta = z_i - z_j, e_k = dz_ik + dz_jk,
//                          a = |z_i|^2, b = |z_j|^2
//   D, by differences      the same with 2 u r(d) D for the last term; where D < 16 (d + 4) eps (a + b)
//                          either way the least number for each square that underflows
//   D of equal rows        0, and of a row with itself
//   kernel k(D)            max |k(D + e) - k(D)| / 2.5 over |e| <= 2.5 dD, + u (2 + 3 t) |k|, t = -log k: exp errs by its
//                          argument's rounding
//   slope k'(D)            the same with k'; derivatives by parameters, products of more factors, with 5 for 2
//   sum over pairs p       sum |c_p| (dk_p + u h |k_p|): pairs share rows, and clusters distances, so errors have one sign.
//                          h = sqrt(N) for a sum over N rows, and r / 4 more where r rows are equal; 3 N / 2 for terms of
//                          equal pairs, or N^2 in one type
//   gradient, of a pair    |c_p| (dk' |delta_k| + (|k'| + dk') (|(dz_ik, dz_jk)|_2 + (3 + h) u (|z_ik| + |z_jk|)));
//                          0 for equal rows, but where their squares vanish
//   D / M                  D dM / M more; dM = u (4 + r(N d)) M + (4 / N) |z dz|_2, or of a median the largest dD near it
//   unit row z = x / |x|   dz_k = 2 u |z_k|; what distances see of it, z less the unit anchors' mean, u times that
//   g through the norm     (dg_k + |z_k| sum |z_l| dg_l + 4 u (|g_k| + |z_k| (|g.z| + r(d) |g z|_2))) / |x|
//   logit z_j              that of the dot product, + 2 u |z_j|
//   softmax p_j            p_j (dz_j + sum_l p_l dz_l + 2 u (1 + |z_j| + |lse|))
//   loss of a row          sum_j |mass p_j - t_j| dz_j + (2 + h) u (|lse| + |z|)
//   on its way out         v |number|, and some of the least positive number of the type, as where products underflow
//
// All but the last are taken 2.5 times: r and h are growths of typical sums, and among a million sums some are not. What is of
// second order in u counts as 16 u^2 of the largest number of an output. Sums over pairs are linear, over columns they are not;
// with few rows both are sharp, and the table at the end of a run shows how sharp.
#pragma once

#include <algorithm>
#include <cmath>

#include "losses_case.hpp"

namespace fuzz {

inline real square(real v) { return v * v; }
/// Growth of rounding in a sum of d numbers.
inline real growth(int d) { return 1 + 2 * std::sqrt(real(d)) / 3; }

/// Of a sum over n rows: the roundings of its partial sums, in units of its terms.
inline real sum_growth(int n) { return std::sqrt(real(n)); }

/// Rows, and by how much each number may be off.
struct uncertain_rows {
  int n = 0, d = 0;
  std::vector<real> z, dz;
  uncertain_rows(int rows, int cols) : n(rows), d(cols), z(std::size_t(n * d)), dz(std::size_t(n * d)) {}
  real& at(int i, int k) { return z[std::size_t(i * d + k)]; }
  real at(int i, int k) const { return z[std::size_t(i * d + k)]; }
  real& error(int i, int k) { return dz[std::size_t(i * d + k)]; }
  real error(int i, int k) const { return dz[std::size_t(i * d + k)]; }
  real squared(int i) const {
    real s = 0;
    for (int k = 0; k < d; ++k) s += square(at(i, k));
    return s;
  }
  /// One more rounding of every number; a denormal number's is not relative.
  void round(const precision& p) {
    for (std::size_t i = 0; i < z.size(); ++i) dz[i] = std::hypot(dz[i], p.u * z[i], p.least);
  }
};

/// Mean of a column's first `rows` numbers, exact where they are equal.
inline real column_mean(const uncertain_rows& x, int k, int rows) {
  real sum = 0;
  for (int i = 0; i < rows; ++i) sum += x.at(i, k) - x.at(0, k);
  return x.at(0, k) + sum / rows;
}

/// A number and its error.
struct uncertain {
  real v = 0, e = 0;
};

/// Sum of terms t_k = a_k b_k of which a_k errs by da_k and b_k by db_k.
inline uncertain dot(const uncertain_rows& x, int i, const uncertain_rows& y, int j, real u) {
  real s = 0, squares = 0, moved = 0, least = HUGE_VALL, most = -HUGE_VALL;
  int terms = 0;
  for (int k = 0; k < x.d; ++k) {
    const real t = x.at(i, k) * y.at(j, k);
    s += t, squares += t * t;
    if (t != 0) ++terms, least = std::min(least, t), most = std::max(most, t);
    moved += square(x.error(i, k) * y.at(j, k)) + square(x.at(i, k) * y.error(j, k));
  }
  const real alike = terms > 0 && least * most > 0 && most - least < std::abs(s) / terms / 8 ? real(terms) / 4 : 0;
  return {s, std::sqrt(moved) + u * growth(x.d) * (std::sqrt(squares) + std::abs(s)) + alike * u * std::abs(s)};
}

/// Divides rows by their norms (kept); a row whose inverse norm is beyond the type becomes 0, and its norm.
inline std::vector<real> normalise(uncertain_rows& x, const precision& p) {
  const real u = p.u;
  std::vector<real> norm(std::size_t(x.n));
  for (int i = 0; i < x.n; ++i) {
    const real length = std::sqrt(x.squared(i)), r = norm[std::size_t(i)] = length * p.largest < 1 ? 0 : length;
    real moved = 0;  // the norm, where the row errs itself
    for (int k = 0; k < x.d && r > 0; ++k) moved += std::abs(x.at(i, k)) / r * x.error(i, k) / r;
    for (int k = 0; k < x.d && r == 0; ++k) x.at(i, k) = x.error(i, k) = 0;
    for (int k = 0; k < x.d && r > 0; ++k) {
      x.at(i, k) /= r;
      x.error(i, k) = x.error(i, k) / r + (moved + 2 * u) * std::abs(x.at(i, k)) + p.least;
    }
  }
  return norm;
}
/// Gradients by unit rows become gradients by the rows before.
inline void normalise_pullback(const uncertain_rows& unit, const std::vector<real>& norm, uncertain_rows& g,
                               const precision& p) {
  const real u = p.u;
  for (int i = 0; i < g.n; ++i) {
    const real r = norm[std::size_t(i)];
    real along = 0, moved = 0, squares = 0, norm_moved = 0;
    for (int k = 0; k < g.d; ++k) {
      const real z = unit.at(i, k), t = z * g.at(i, k);
      along += t, squares += t * t;
      moved += std::abs(z) * g.error(i, k) + std::abs(g.at(i, k)) * unit.error(i, k);
      norm_moved += std::abs(z) * std::max<real>(0, unit.error(i, k) - 2 * u * std::abs(z));  // of rows that err themselves
    }
    for (int k = 0; k < g.d; ++k) {
      const real z = unit.at(i, k), v = g.at(i, k);
      const real e = g.error(i, k) + p.least + std::abs(z) * moved + std::abs(along) * unit.error(i, k) +
                     4 * u * (std::abs(v) + std::abs(z) * (std::abs(along) + growth(g.d) * std::sqrt(squares)));
      g.at(i, k) = r > 0 ? (v - along * z) / r : 0;
      g.error(i, k) = r > 0 ? e / r + norm_moved * std::abs(g.at(i, k)) : 0;
    }
  }
}

/// By how much more than the typical error a number may be off.
inline constexpr real untypical = 2.5L;

/// Adds an output: numbers times `factor`, with what storing them costs. Numbers that are beyond the computing type before
/// the factor makes them small are not compared.
inline void add_output(exact_answer& a, const char* kind, const std::vector<real>& v, const std::vector<real>& e,
                       real factor, real u, const precision& out) {
  exact_output o;
  o.kind = kind;
  real largest = 0;
  for (const real number : v) largest = std::max(largest, std::abs(number));
  for (std::size_t i = 0; i < v.size(); ++i) {
    o.value.push_back(v[i] * factor);
    const real by = std::abs(factor), size = std::abs(v[i]);
    const bool beyond = size > 0.5L * std::max(out.largest, of_computing(scalar_type::f32).largest);
    const real off = (untypical * e[i] + u * size + 16 * u * u * largest) * by + out.u * size * by + 4 * out.least * (1 + by);
    o.bound.push_back(beyond ? HUGE_VALL : off);
  }
  a.outputs.push_back(o);
}

inline uncertain_rows load(const table& t) {
  uncertain_rows r(t.rows, t.cols);
  for (std::size_t i = 0; i < r.z.size(); ++i) r.z[i] = t.v[i];
  return r;
}

/// s = min(exp(log_scale), max_scale).
struct scale_of_logits {
  real s;
  bool clamped, at_the_bound;
};
inline scale_of_logits logit_scale(const test_case& c) {
  const real s = std::exp(real(c.log_scale)), most = c.max_scale > 0 ? real(c.max_scale) : HUGE_VALL;
  return {std::min(s, most), s >= most, std::abs(s - most) <= 1e-14L * s};
}
/// Gradient by log_scale: where the clamp holds it passes if a step against it would leave the bound.
inline void add_log_scale(const test_case& c, const scale_of_logits& scale, uncertain g, exact_answer& answer) {
  answer.by_log_scale = g.v, answer.by_log_scale_error = g.e;
  if (c.want_first == want::none) return;
  const real upstream = c.verb == verb::relative_pullback ? 1 : real(c.upstream), p = g.v * upstream;
  const bool passes = !scale.clamped || p > 0;
  add_output(answer, "log_scale", {passes ? g.v : 0}, {passes ? g.e : 0}, upstream, of_computing(c.type).u,
             of_computing(c.type));
  exact_output& o = answer.outputs.back();
  o.or_zero = scale.at_the_bound || (scale.clamped && std::abs(g.v) <= g.e);
  if (o.or_zero && !passes)
    o.value[0] = p, o.bound[0] += g.e * std::abs(upstream) + 2 * of_computing(c.type).u * std::abs(p);
}

/// Gradients by rows x, y of U = dL/dz of logits z_ij = s x_i.y_j, added to gx and gy.
inline void pull_logits(const std::vector<uncertain>& U, real scale, const uncertain_rows& x, const uncertain_rows& y,
                        const precision& p, uncertain_rows& gx, uncertain_rows& gy) {
  const real u = p.u, h = u * (2 + sum_growth(std::max(x.n, y.n)));
  for (int i = 0; i < x.n; ++i)
    for (int j = 0; j < y.n; ++j) {
      const uncertain& at = U[std::size_t(i * y.n + j)];
      const real dU = scale * (at.e + u * std::abs(at.v) + p.least), s = scale * std::abs(at.v);
      for (int k = 0; k < x.d; ++k) {
        const real xi = x.at(i, k), yj = y.at(j, k);
        gx.at(i, k) += scale * at.v * yj, gy.at(j, k) += scale * at.v * xi;
        gx.error(i, k) += dU * std::abs(yj) + s * (y.error(j, k) + h * std::abs(yj)) + p.least;
        gy.error(j, k) += dU * std::abs(xi) + s * (x.error(i, k) + h * std::abs(xi)) + p.least;
      }
    }
}

/// How far the scalar product of rows and their gradients may be off.
inline real inner(const uncertain_rows& x, const uncertain_rows& g) {
  real s = 0;
  for (std::size_t i = 0; i < x.z.size(); ++i) s += std::abs(x.z[i]) * g.dz[i];
  return s;
}

/// What a kernel of the distance is at one D, with errors; parameters' derivatives if asked for.
struct pair_terms {
  uncertain k, slope;
  real steepest =
      0;  ///< sup |k'| sqrt(D) of the members with a root: their gradient is no longer than that, however small D is
  std::vector<uncertain> by_weight, by_bandwidth;
};
struct kernel_of_distance {
  const test_case& c;
  precision p;
  int weights = 0, bandwidths = 0;
  std::vector<int> weight_at, bandwidth_at;  ///< of each member; -1: it has none
  explicit kernel_of_distance(const test_case&);
  pair_terms at(real D, real error, bool parameters) const;
};
inline bool of_distance(const test_case& c) { return c.kernel != kernel_type::dot && c.kernel != kernel_type::cosine; }

/// Squared distance of two rows and its error.
uncertain distance(const uncertain_rows& x, int i, const uncertain_rows& y, int j, bool equal, const precision&);
/// Whether float or double cannot hold squared distances of these rows; or, for the cosine, the squares of any one of them.
bool out_of_range(const test_case&, std::initializer_list<const uncertain_rows*>, const precision&);
bool parameters_out_of_range(const test_case&, const precision&);
/// The pair function of two rows and its derivatives by s, a and b, for those that are no functions of the distance.
struct linear_terms {
  uncertain k, ds, da, db;
};
linear_terms cosine_or_dot(kernel_type, const uncertain_rows& x, int i, const uncertain_rows& y, int j, real u);

}  // namespace fuzz
