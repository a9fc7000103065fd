// The sample that MMD sees, in long double: its scaled and centred rows, M, and the coefficients of its pairs.
#pragma once

#include <algorithm>
#include <numeric>

#include "losses_exact.hpp"

namespace fuzz {

/// A pair of rows i < j and its coefficient in MMD^2.
struct weighted_pair {
  int i, j;
  real c;
};

struct sample {
  const test_case& c;
  precision p;
  int n, m, N, d;
  int alike = 1;  ///< most rows that are equal
  uncertain_rows z;
  std::vector<real> range[2], scaled, scaled_error;  ///< columns: R of each group, and the rows before centring
  std::vector<int> lowest[2], highest[2];

  const given_rows* made;  ///< what the rows are, if they are not those of the case

  explicit sample(const test_case& given, const given_rows* by_others = nullptr)
      : c(given), p(of_computing(c.type)), n(c.x.rows), m(c.y.rows), N(n + m), d(c.x.cols), z(N, d), made(by_others) {
    for (int i = 0; i < N; ++i)
      for (int k = 0; k < d; ++k) z.at(i, k) = stored_at(i, k);
    if (made) z = *made->rows;
    for (int i = 0; i < N; ++i) {
      int others = 0;
      for (int j = 0; j < N; ++j) others += equal(i, j);
      alike = std::max(alike, others);
    }
    for (int g = 0; g < groups() && c.columns; ++g) scale_columns(g);
    scaled = z.z, scaled_error = z.dz;
    if (of_distance(c) || c.verb == verb::bandwidth_scale) {
      for (int k = 0; k < d; ++k) {
        const real mean = column_mean(z, k, N);
        for (int i = 0; i < N; ++i) z.at(i, k) -= mean;
      }
      z.round(p);
    }
  }
  /// Growth of rounding in a sum over rows: where they are equal, roundings of partial sums have one sign.
  real growth_of_sums() const { return sum_growth(N) + (alike > 2 ? real(alike) / 4 : 0); }
  double stored_at(int i, int k) const { return i < n ? c.x.at(i, k) : c.y.at(i - n, k); }
  int groups() const { return c.columns == 2 ? 1 : 2; }
  int first(int g) const { return g == 0 ? 0 : n; }
  int end(int g) const { return g == 0 && groups() == 2 ? n : N; }
  /// Whether the two rows are the same numbers, made the same way.
  bool equal(int i, int j) const {
    if (c.columns == 1 && (i < n) != (j < n)) return false;
    if (made) return made->made[std::size_t(i)] == made->made[std::size_t(j)];
    for (int k = 0; k < d; ++k)
      if (stored_at(i, k) != stored_at(j, k)) return false;
    return true;
  }
  uncertain distance(int i, int j) const { return fuzz::distance(z, i, z, j, equal(i, j), p); }

 private:
  void scale_columns(int g) {
    for (int k = 0; k < d; ++k) {
      int low = first(g), high = first(g);
      for (int i = first(g); i < end(g); ++i) {
        if (z.at(i, k) < z.at(low, k)) low = i;
        if (z.at(i, k) > z.at(high, k)) high = i;
      }
      const real least = z.at(low, k), R = z.at(high, k) - least + real(c.column_eps);
      for (int i = first(g); i < end(g); ++i) {
        z.at(i, k) = (z.at(i, k) - least) / R;
        z.error(i, k) = 2 * p.u * z.at(i, k) + p.least;
      }
      range[g].push_back(R), lowest[g].push_back(low), highest[g].push_back(high);
    }
  }
};

/// M and its error, and what its gradient needs.
struct scale_of {
  uncertain M{1, 0};
  bool fitted = false, tied = false;
  std::vector<weighted_pair> pairs;  ///< of a median: dM = sum c dD
  real mean_factor = 0;              ///< of a mean: dM/dz_i = mean_factor (z_i - mean)
  std::vector<real> mean, mean_error;
};
inline scale_of fit(const sample& s) {
  scale_of f;
  const test_case& c = s.c;
  const int rows = c.sample == 1 ? s.n : s.N;
  if (c.rule == 0 || rows < 2) return f;
  f.fitted = true;
  f.M = {0, 0};
  if (c.rule >= 3) {
    std::vector<std::pair<real, weighted_pair>> all;
    std::vector<real> errors;
    for (int i = 0; i < rows; ++i)
      for (int j = i + 1; j < rows; ++j) all.push_back({s.distance(i, j).v, {i, j, s.distance(i, j).e}});
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const std::size_t count = all.size(), lower = (count - 1) / 2;
    const std::size_t upper = c.rule == 4 && count % 2 == 0 ? lower + 1 : lower;
    const real share = upper > lower ? 0.5L : 1;
    for (std::size_t q = lower; q <= upper; ++q) {
      real e = all[q].second.c;
      for (bool grows = true; grows;) {  // the largest error of what may stand at this place
        grows = false;
        for (const auto& a : all)
          if (a.second.c > e && std::abs(a.first - all[q].first) <= a.second.c + e) e = a.second.c, grows = true;
      }
      for (std::size_t o = 0; o < count; ++o)
        if (o != q && std::abs(all[o].first - all[q].first) <= all[o].second.c + e) f.tied = true;
      f.M.v += share * all[q].first, f.M.e += share * e + 2 * s.p.u * share * all[q].first;
      f.pairs.push_back({all[q].second.i, all[q].second.j, share});
    }
    if (f.M.v > 0) return f;
    f.pairs.clear();
    f.tied = false;
  }
  f.mean_factor = 4.0L / (c.rule == 2 ? rows - 1 : rows);
  real moved = 0, second = 0;
  for (int k = 0; k < s.d; ++k) {
    const real mean = column_mean(s.z, k, rows);
    real errors = 0;
    for (int i = 0; i < rows; ++i) errors += square(s.z.error(i, k));
    second += errors;
    real differences = 0;  // the mean is a sum of doubles
    for (int i = 0; i < rows; ++i) differences += square(s.z.at(i, k) - s.z.at(0, k));
    const real summed = 0x1p-53L * (growth(rows) * std::sqrt(differences * rows) / rows + std::abs(mean));
    f.mean.push_back(mean), f.mean_error.push_back(std::sqrt(errors) / rows + summed);
    for (int i = 0; i < rows; ++i) {
      f.M.v += f.mean_factor / 2 * square(s.z.at(i, k) - mean);
      moved += square((s.z.at(i, k) - mean) * s.z.error(i, k));
    }
  }
  bool all_equal = true;
  for (int i = 1; i < rows; ++i) all_equal = all_equal && s.equal(0, i);
  if (all_equal || f.M.v == 0)  // rows that are equal, but made in different ways: M is anything
    f.M = {1, all_equal ? 0.0L : 1.0L}, f.mean_factor = 0, f.fitted = true;
  else
    f.M.e = ((4 + growth(rows * s.d)) * s.p.u + rows * 0x1p-55L) * f.M.v + f.mean_factor * (std::sqrt(moved) + second / 2);
  return f;
}

/// Weights divided by their sum, and 1 - sum a^2 without cancellation.
inline bool shares(const std::vector<double>& w, int n, std::vector<real>& a, real& off_diagonal) {
  a.assign(std::size_t(n), 1 / real(n));
  off_diagonal = 1 - 1 / real(n);
  if (w.empty()) return true;
  const real sum = std::accumulate(w.begin(), w.end(), real(0));
  off_diagonal = 0;
  if (!(sum > 0)) return false;
  for (std::size_t i = 0; i < w.size(); ++i) {
    a[i] = w[i] / sum;
    real others = 0;
    for (std::size_t j = 0; j < w.size(); ++j) others += j == i ? 0 : w[j] / sum;
    off_diagonal += a[i] * others;
  }
  return true;
}

/// MMD^2 = sum over pairs i < j of c k(D_ij) + diagonal_i k(z_i, z_i).
inline bool coefficients(const sample& s, std::vector<weighted_pair>& pairs, std::vector<real>& diagonal,
                         bool& may_refuse) {
  diagonal.assign(std::size_t(s.N), 0);
  if (s.c.estimator == 2) {
    const int count = std::min(s.n, s.m) / 2;
    for (int q = 0; q < count; ++q) {
      const int x = 2 * q, y = s.n + 2 * q;
      pairs.push_back({x, x + 1, 1.0L / count}), pairs.push_back({y, y + 1, 1.0L / count});
      pairs.push_back({x, y + 1, -1.0L / count}), pairs.push_back({x + 1, y, -1.0L / count});
    }
    return true;
  }
  std::vector<real> a, b;
  real off[2];
  const bool fine = shares(s.c.x_weights, s.n, a, off[0]) & shares(s.c.y_weights, s.m, b, off[1]);
  const bool unbiased = s.c.estimator == 1;
  if (!fine || (unbiased && !(off[0] > 0 && off[1] > 0))) return false;
  may_refuse = may_refuse || (unbiased && std::min(off[0], off[1]) < 1.1e-30L);  // one weight is all of them, nearly
  a.insert(a.end(), b.begin(), b.end());
  for (int i = 0; i < s.N; ++i) {
    const real ai = a[std::size_t(i)];
    if (!unbiased) diagonal[std::size_t(i)] = ai * ai;
    for (int j = i + 1; j < s.N; ++j) {
      const real aij = ai * a[std::size_t(j)];
      pairs.push_back({i, j, (i < s.n) != (j < s.n) ? -2 * aij : 2 * aij / (unbiased ? off[i >= s.n] : 1)});
    }
  }
  return true;
}

}  // namespace fuzz
