// MMD and its bandwidth in long double, see losses_exact.hpp.
#include <algorithm>
#include <numeric>

#include "losses_exact.hpp"

namespace fuzz {
namespace {

/// A pair of rows i < j and its coefficient in MMD^2.
struct weighted_pair {
  int i, j;
  real c;
};

struct sample {
  const test_case& c;
  precision p;
  int n, m, N, d;
  uncertain_rows z;
  std::vector<real> range[2], scaled, scaled_error;  ///< columns: R of each group, and the rows before centring
  std::vector<int> lowest[2], highest[2];
  real largest = 0;

  explicit sample(const test_case& given)
      : c(given), p(of_computing(c.type)), n(c.x.rows), m(c.y.rows), N(n + m), d(c.x.cols), z(N, d) {
    for (int i = 0; i < N; ++i)
      for (int k = 0; k < d; ++k) z.at(i, k) = stored_at(i, k);
    for (int g = 0; g < groups() && c.columns; ++g) scale_columns(g);
    scaled = z.z, scaled_error = z.dz;
    if (of_distance(c) || c.verb == verb::bandwidth_scale) {
      for (int k = 0; k < d; ++k) {
        const real mean = column_mean(z, k, N);
        for (int i = 0; i < N; ++i) z.at(i, k) -= mean, largest = std::max(largest, std::abs(z.at(i, k)));
      }
      z.round(p.u);
    }
  }
  double stored_at(int i, int k) const { return i < n ? c.x.at(i, k) : c.y.at(i - n, k); }
  int groups() const { return c.columns == 2 ? 1 : 2; }
  int first(int g) const { return g == 0 ? 0 : n; }
  int end(int g) const { return g == 0 && groups() == 2 ? n : N; }
  /// Whether the two rows are the same numbers, made the same way.
  bool equal(int i, int j) const {
    if (c.columns == 1 && (i < n) != (j < n)) return false;
    for (int k = 0; k < d; ++k)
      if (stored_at(i, k) != stored_at(j, k)) return false;
    return true;
  }
  uncertain distance(int i, int j) const { return fuzz::distance(z, i, z, j, equal(i, j), p.u); }

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
        z.error(i, k) = 2 * p.u * z.at(i, k);
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
  std::vector<real> mean;
};
scale_of fit(const sample& s) {
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
  real moved = 0;
  for (int k = 0; k < s.d; ++k) {
    const real mean = column_mean(s.z, k, rows);
    f.mean.push_back(mean);
    for (int i = 0; i < rows; ++i) {
      f.M.v += f.mean_factor / 2 * square(s.z.at(i, k) - mean);
      moved += square((s.z.at(i, k) - mean) * s.z.error(i, k));
    }
  }
  bool all_equal = true;
  for (int i = 1; i < rows; ++i) all_equal = all_equal && s.equal(0, i);
  if (all_equal || f.M.v == 0) f.M = {1, 0}, f.mean_factor = 0, f.fitted = true;
  else f.M.e = 4 * s.p.u * f.M.v + f.mean_factor * std::sqrt(moved);
  return f;
}

/// Weights divided by their sum, and 1 - sum a^2 without cancellation.
bool shares(const std::vector<double>& w, int n, std::vector<real>& a, real& off_diagonal) {
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
bool coefficients(const sample& s, std::vector<weighted_pair>& pairs, std::vector<real>& diagonal, bool& may_refuse) {
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

/// All sums over pairs.
struct sums {
  uncertain value;
  std::vector<uncertain> by_weight, by_bandwidth;
  uncertain_rows g;
  explicit sums(const sample& s) : g(s.N, s.d) {}
};
void add_pair(const sample& s, const uncertain_rows& z, const kernel_of_distance& kernel, const weighted_pair& q, bool equal,
              real relative_scale, bool parameters, sums& to) {
  const real u = s.p.u, c = std::abs(q.c), least = s.p.least, h = sum_growth(s.N), in_sum = u * (equal || s.c.type == scalar_type::f64 ? s.N / 3.0L : h);
  if (!of_distance(s.c)) {
    const linear_terms k = cosine_or_dot(s.c.kernel, z, q.i, z, q.j, u);
    to.value.v += q.c * k.k.v, to.value.e += c * (k.k.e + u * h * std::abs(k.k.v));
    for (int side = 0; side < 2; ++side) {
      const int i = side == 0 ? q.i : q.j, j = side == 0 ? q.j : q.i;
      const uncertain& own = side == 0 ? k.da : k.db;
      for (int f = 0; f < s.d; ++f) {
        const real zi = z.at(i, f), zj = z.at(j, f);
        to.g.at(i, f) += q.c * (k.ds.v * zj + 2 * own.v * zi);
        to.g.error(i, f) += (c + least) * ((k.ds.e + (2 + h) * u * std::abs(k.ds.v)) * std::abs(zj) + std::abs(k.ds.v) * z.error(j, f) +
                                 2 * (own.e + (2 + h) * u * std::abs(own.v)) * std::abs(zi) + 2 * std::abs(own.v) * z.error(i, f));
      }
    }
    return;
  }
  uncertain D = distance(z, q.i, z, q.j, equal, u);
  D.e += D.v * relative_scale;
  const pair_terms k = kernel.at(D.v, D.e, parameters);
  const auto add = [&](uncertain& sum, const uncertain& term) {
    sum.v += q.c * term.v, sum.e += c * (term.e + in_sum * std::abs(term.v));
  };
  add(to.value, k.k);
  for (std::size_t w = 0; w < k.by_weight.size(); ++w) add(to.by_weight[w], k.by_weight[w]);
  for (std::size_t w = 0; w < k.by_bandwidth.size(); ++w) add(to.by_bandwidth[w], k.by_bandwidth[w]);
  if (equal) return;  // also a row with itself
  for (int f = 0; f < s.d; ++f) {
    const real zi = z.at(q.i, f), zj = z.at(q.j, f), delta = zi - zj;
    const real steep = std::abs(k.slope.v) + least / (c + s.p.smallest);
    const real e = k.slope.e * std::abs(delta) + k.steepest +
                   steep * (std::hypot(z.error(q.i, f), z.error(q.j, f)) + (2 + h) * u * (std::abs(zi) + std::abs(zj)));
    to.g.at(q.i, f) += 2 * q.c * k.slope.v * delta, to.g.error(q.i, f) += 2 * c * e;
    to.g.at(q.j, f) -= 2 * q.c * k.slope.v * delta, to.g.error(q.j, f) += 2 * c * e;
  }
}

/// The gradient of the scaled, centred rows goes back through M and through the columns.
void pull_back(const sample& s, const scale_of& f, const uncertain_rows& z, uncertain_rows& g) {
  const real u = s.p.u, root = std::sqrt(f.M.v);
  uncertain along;
  for (std::size_t q = 0; q < g.z.size(); ++q) {
    along.v += z.z[q] * g.z[q];
    along.e += std::abs(z.z[q]) * g.dz[q] + std::abs(g.z[q]) * (z.dz[q] + u * std::abs(z.z[q]));
    g.z[q] /= root;
    g.dz[q] = g.dz[q] / root + std::abs(g.z[q]) * (f.fitted ? f.M.e / f.M.v / 2 + 2 * u : 0);
  }
  if (f.fitted && s.c.rule_gradient) {
    const real by = -along.v / (2 * f.M.v), by_error = along.e / (2 * f.M.v) + std::abs(by) * (f.M.e / f.M.v + 2 * u);
    const auto add = [&](int i, int k, real v, real e) {
      g.at(i, k) += by * v;
      g.error(i, k) += by_error * std::abs(v) + std::abs(by) * (e + 2 * u * std::abs(v));
    };
    for (int i = 0; i < (s.c.sample == 1 ? s.n : s.N) && f.mean_factor > 0; ++i)
      for (int k = 0; k < s.d; ++k) {
        const real mean = f.mean[std::size_t(k)];
        add(i, k, f.mean_factor * (s.z.at(i, k) - mean), f.mean_factor * (s.z.error(i, k) + u * std::abs(mean)));
      }
    for (const weighted_pair& q : f.pairs)
      for (int k = 0; k < s.d; ++k) {
        const real v = 2 * q.c * (s.z.at(q.i, k) - s.z.at(q.j, k));
        const real e = 2 * q.c * (std::hypot(s.z.error(q.i, k), s.z.error(q.j, k)) +
                                  u * (std::abs(s.z.at(q.i, k)) + std::abs(s.z.at(q.j, k))));
        add(q.i, k, v, e), add(q.j, k, -v, e);
      }
  }
  for (int group = 0; group < s.groups() && s.c.columns; ++group)
    for (int k = 0; k < s.d; ++k) {
      const real R = s.range[group][std::size_t(k)];
      uncertain low, high;
      for (int i = s.first(group); i < s.end(group); ++i) {
        const real v = s.scaled[std::size_t(i * s.d + k)], dv = s.z.error(i, k) + 2 * u * (v + std::abs(s.z.at(i, k)));
        const real h = g.at(i, k) / R, e = g.error(i, k) / R + 2 * u * std::abs(h);
        low.v += h * (v - 1), low.e += e * (1 - v) + std::abs(h) * dv;
        high.v -= h * v, high.e += e * v + std::abs(h) * dv;
        g.at(i, k) = h, g.error(i, k) = e;
      }
      if (!s.c.column_gradient) continue;
      const int at_low = s.lowest[group][std::size_t(k)], at_high = s.highest[group][std::size_t(k)];
      g.at(at_low, k) += low.v, g.error(at_low, k) += low.e + u * std::abs(low.v);
      g.at(at_high, k) += high.v, g.error(at_high, k) += high.e + u * std::abs(high.v);
    }
}

}  // namespace

void exact_mmd(const test_case& c, exact_answer& answer) {
  const sample s(c);
  const precision computing = of_computing(c.type), out = of_storage(c.type);
  if (of_distance(c)) answer.may_refuse = out_of_range(s.largest, s.d, computing);
  const scale_of f = fit(s);
  if (c.verb == verb::bandwidth_scale) {
    add_output(answer, "scale", {f.M.v}, {f.M.e}, 1, 0, of_computing(scalar_type::f64));
    return;
  }
  answer.may_refuse = answer.may_refuse || parameters_out_of_range(c, computing);
  for (const auto* w : {&c.x_weights, &c.y_weights})
    if (!w->empty()) {
      const real sum = std::accumulate(w->begin(), w->end(), real(0));
      answer.may_refuse = answer.may_refuse || sum == 0 || sum > 0.9L * computing.largest || sum < 2 * computing.smallest;
    }
  std::vector<weighted_pair> pairs;
  std::vector<real> diagonal;
  if (!coefficients(s, pairs, diagonal, answer.may_refuse)) {
    answer.must_refuse = true;
    return;
  }
  uncertain_rows z = s.z;
  if (f.fitted) {
    for (std::size_t q = 0; q < z.z.size(); ++q) z.z[q] /= std::sqrt(f.M.v), z.dz[q] /= std::sqrt(f.M.v);
    z.round(s.p.u);
  }
  const kernel_of_distance kernel(c);
  const bool parameters = of_distance(c) && (c.want_first != want::none || c.want_second != want::none);
  sums t(s);
  t.by_weight.resize(std::size_t(parameters ? kernel.weights : 0));
  t.by_bandwidth.resize(std::size_t(parameters ? kernel.bandwidths : 0));
  for (const weighted_pair& q : pairs)
    add_pair(s, z, kernel, q, s.equal(q.i, q.j), f.fitted ? f.M.e / f.M.v + 2 * s.p.u : 0, parameters, t);
  for (int i = 0; i < s.N; ++i)
    if (diagonal[std::size_t(i)] != 0) add_pair(s, z, kernel, {i, i, diagonal[std::size_t(i)]}, true, 0, parameters, t);
  pull_back(s, f, z, t.g);

  const real factor = real(c.factor) * real(c.upstream), u = s.p.u;
  add_output(answer, "value", {t.value.v * real(c.factor) + real(c.offset)}, {t.value.e * std::abs(real(c.factor))}, 1, 0,
             {computing.u * 1.01L, 0, computing.least, computing.largest});
  const auto rows = [&](const char* kind, want w, int first, int count) {
    if (w == want::none) return;
    const std::size_t from = std::size_t(first * s.d), to = from + std::size_t(count * s.d);
    add_output(answer, kind, {t.g.z.begin() + long(from), t.g.z.begin() + long(to)},
               {t.g.dz.begin() + long(from), t.g.dz.begin() + long(to)}, factor, u, out);
    answer.outputs.back().compared = !(f.tied && c.rule_gradient);
  };
  rows("x", c.want_x, 0, s.n);
  rows("y", c.want_y, s.n, s.m);
  const auto list = [&](const char* kind, want w, const std::vector<uncertain>& from) {
    if (w == want::none || from.empty()) return;
    std::vector<real> v, e;
    for (const uncertain& q : from) v.push_back(q.v), e.push_back(q.e);
    add_output(answer, kind, v, e, factor, u, computing);
  };
  list("weights", c.want_first, t.by_weight);
  list("bandwidths", c.want_second, t.by_bandwidth);
}

}  // namespace fuzz
