// MMD and its bandwidth in long double, see losses_exact.hpp.
#include "losses_exact_sample.hpp"

namespace fuzz {
namespace {

/// All sums over pairs.
struct sums {
  uncertain value;
  std::vector<uncertain> by_weight, by_bandwidth;
  uncertain_rows g;
  explicit sums(const sample& s) : g(s.N, s.d) {}
};
uncertain pair_value(const sample& s, const uncertain_rows& z, const kernel_of_distance& kernel, int i, int j,
                     real relative_scale) {
  if (!of_distance(s.c)) return cosine_or_dot(s.c.kernel, z, i, z, j, s.p.u).k;
  const uncertain D = distance(z, i, z, j, i == j || s.equal(i, j), s.p);
  return kernel.at(D.v, D.e + D.v * relative_scale, false).k;
}
void add_pair(const sample& s, const uncertain_rows& z, const kernel_of_distance& kernel, const weighted_pair& q,
              bool equal, real relative_scale, bool parameters, sums& to) {
  const real u = s.p.u, c = std::abs(q.c), least = s.p.least,
             h = s.growth_of_sums() + 2 * !(s.c.x_weights.empty() && s.c.y_weights.empty()),
             in_sum = u * (equal || s.c.type == scalar_type::f64 ? 3 * s.N : h);
  if (!of_distance(s.c)) {
    const linear_terms k = cosine_or_dot(s.c.kernel, z, q.i, z, q.j, u);
    to.value.v += q.c * k.k.v, to.value.e += c * (k.k.e + u * h * std::abs(k.k.v));
    for (int side = 0; side < 2; ++side) {
      const int i = side == 0 ? q.i : q.j, j = side == 0 ? q.j : q.i;
      const uncertain& own = side == 0 ? k.da : k.db;
      for (int f = 0; f < s.d; ++f) {
        const real zi = z.at(i, f), zj = z.at(j, f);
        to.g.at(i, f) += q.c * (k.ds.v * zj + 2 * own.v * zi);
        to.g.error(i, f) +=
            (c + least) *
            ((k.ds.e + (3 + h) * u * std::abs(k.ds.v)) * std::abs(zj) + std::abs(k.ds.v) * z.error(j, f) +
             2 * (own.e + (3 + h) * u * std::abs(own.v)) * std::abs(zi) + 2 * std::abs(own.v) * z.error(i, f));
      }
    }
    return;
  }
  uncertain D = distance(z, q.i, z, q.j, equal, s.p);
  D.e += D.v * relative_scale;
  const pair_terms k = kernel.at(D.v, D.e, parameters);
  const auto add = [&](uncertain& sum, const uncertain& term) {
    sum.v += q.c * term.v, sum.e += c * (term.e + in_sum * std::abs(term.v));
  };
  add(to.value, k.k);
  for (std::size_t w = 0; w < k.by_weight.size(); ++w) add(to.by_weight[w], k.by_weight[w]);
  for (std::size_t w = 0; w < k.by_bandwidth.size(); ++w) add(to.by_bandwidth[w], k.by_bandwidth[w]);
  if (equal && (q.i == q.j || z.squared(q.i) > s.p.smallest)) return;
  for (int f = 0; f < s.d; ++f) {
    const real zi = z.at(q.i, f), zj = z.at(q.j, f), delta = zi - zj;
    const real steep = std::abs(k.slope.v) + k.slope.e, both = std::abs(zi) + std::abs(zj);
    const real e = k.slope.e * std::abs(delta) + k.steepest +
                   steep * (std::hypot(z.error(q.i, f), z.error(q.j, f)) + (3 + h) * u * both) +
                   2 * least / (c + s.p.smallest) * (1 + both);
    to.g.at(q.i, f) += 2 * q.c * k.slope.v * delta, to.g.error(q.i, f) += 2 * c * e;
    to.g.at(q.j, f) -= 2 * q.c * k.slope.v * delta, to.g.error(q.j, f) += 2 * c * e;
  }
}

/// Gradient by the weights w of one sample, W their sum, a = w / W; with K the kernel's values,
/// within:  biased 2 (sum_j a_j K_ij - S) / W, S = sum a_i a_j K_ij;  unbiased, off = 1 - sum a^2, both sums without the
///         diagonal: 2 (sum_j a_j K_ij - (1 - a_i) S / off) / (off W); across: -2 (sum_j b_j K_ij - sum_ij a_i b_j K_ij) / W
void by_sample_weight(const sample& s, const std::vector<uncertain>& K, int group, std::vector<real>& v,
                      std::vector<real>& e) {
  std::vector<real> a, b;
  real off = 1, other = 1;
  shares(group == 0 ? s.c.x_weights : s.c.y_weights, group == 0 ? s.n : s.m, a, off);
  shares(group == 0 ? s.c.y_weights : s.c.x_weights, group == 0 ? s.m : s.n, b, other);
  const bool unbiased = s.c.estimator == 1;
  if (!unbiased) off = 1;
  const auto& w = group == 0 ? s.c.x_weights : s.c.y_weights;
  const int first = group == 0 ? 0 : s.n, start = group == 0 ? s.n : 0, count = int(a.size());
  const real W = w.empty() ? real(count) : std::accumulate(w.begin(), w.end(), real(0)),
             h = s.p.u * (s.c.type == scalar_type::f64 ? 3 * s.N : 3 + s.growth_of_sums());
  std::vector<uncertain> within(a.size()), across(a.size());
  uncertain S, C;
  const auto add = [&](uncertain& to, real c, const uncertain& k) {
    to.v += c * k.v, to.e += c * (k.e + h * std::abs(k.v));
  };
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < count; ++j)
      if (!unbiased || i != j)
        add(within[std::size_t(i)], a[std::size_t(j)], K[std::size_t((first + i) * s.N + first + j)]);
    for (std::size_t j = 0; j < b.size(); ++j)
      add(across[std::size_t(i)], b[j], K[std::size_t((first + i) * s.N + start + int(j))]);
    add(S, a[std::size_t(i)], within[std::size_t(i)]), add(C, a[std::size_t(i)], across[std::size_t(i)]);
  }
  for (int i = 0; i < count; ++i) {
    const uncertain &in = within[std::size_t(i)], &out = across[std::size_t(i)];
    real share = unbiased ? 0 : 1;  // 1 - a_i, without cancellation
    for (int j = 0; j < count && unbiased; ++j) share += j == i ? 0 : a[std::size_t(j)];
    v.push_back(2 * ((in.v - share * S.v / off) / off - (out.v - C.v)) / W);
    e.push_back(2 * ((in.e + share * S.e / off) / off + out.e + C.e) / W);
  }
}

/// The gradient of the scaled, centred rows goes back through M and through the columns.
void pull_back(const sample& s, const scale_of& f, const uncertain_rows& z, uncertain_rows& g) {
  const real u = s.p.u, root = std::sqrt(f.M.v);
  uncertain along;
  real squares = 0;
  for (std::size_t q = 0; q < g.z.size(); ++q) {
    along.v += z.z[q] * g.z[q];
    squares += square(z.z[q] * g.z[q]);
    along.e += std::abs(z.z[q]) * g.dz[q] + std::abs(g.z[q]) * (z.dz[q] + u * std::abs(z.z[q]));
    g.z[q] /= root;
    g.dz[q] = g.dz[q] / root + std::abs(g.z[q]) * (f.fitted ? f.M.e / f.M.v / 2 + 2 * u : 0);
  }
  along.e += u * growth(int(g.z.size())) * (std::sqrt(squares) + std::abs(along.v));
  if (f.fitted && s.c.rule_gradient) {
    const real by = -along.v / (2 * f.M.v), by_error = along.e / (2 * f.M.v) + std::abs(by) * (f.M.e / f.M.v + 2 * u);
    const auto add = [&](int i, int k, real v, real e) {
      g.at(i, k) += by * v;
      g.error(i, k) += by_error * std::abs(v) + (std::abs(by) + by_error) * (e + 2 * u * std::abs(v));
    };
    for (int i = 0; i < (s.c.sample == 1 ? s.n : s.N) && f.mean_factor > 0; ++i)
      for (int k = 0; k < s.d; ++k) {
        const real mean = f.mean[std::size_t(k)];
        add(i, k, f.mean_factor * (s.z.at(i, k) - mean),
            f.mean_factor * (s.z.error(i, k) + f.mean_error[std::size_t(k)] + 2 * u * std::abs(mean)));
      }
    for (const weighted_pair& q : f.pairs)
      for (int k = 0; k < s.d; ++k) {
        const real v = 2 * q.c * (s.z.at(q.i, k) - s.z.at(q.j, k));
        const real e =
            2 * q.c *
            (std::hypot(s.z.error(q.i, k), s.z.error(q.j, k)) + u * (std::abs(s.z.at(q.i, k)) + std::abs(s.z.at(q.j, k))));
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
        low.v += h * (v - 1), low.e += e * (1 - v + dv) + std::abs(h) * dv;
        high.v -= h * v, high.e += e * (v + dv) + std::abs(h) * dv;
        g.at(i, k) = h, g.error(i, k) = e;
      }
      if (!s.c.column_gradient) continue;
      const int at_low = s.lowest[group][std::size_t(k)], at_high = s.highest[group][std::size_t(k)];
      g.at(at_low, k) += low.v, g.error(at_low, k) += low.e + u * std::abs(low.v);
      g.at(at_high, k) += high.v, g.error(at_high, k) += high.e + u * std::abs(high.v);
    }
}

}  // namespace

void exact_mmd(const test_case& c, exact_answer& answer, const given_rows* given) {
  const sample s(c, given);
  const precision computing = of_computing(c.type), out = of_storage(c.type);
  answer.may_refuse = out_of_range(c, {&s.z}, computing);
  const scale_of f = fit(s);
  // Rows that centring may have made equal: M is anything from 0 on, and 1 if it is 0.
  const auto without_unresolved = [&] {
    for (exact_output& o : answer.outputs) o.compared = o.compared && !(f.fitted && f.M.v <= 2 * f.M.e);
  };
  if (c.verb == verb::bandwidth_scale) {
    add_output(answer, "scale", {f.M.v}, {f.M.e}, 1, 0, of_computing(scalar_type::f64));
    return without_unresolved();
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
    z.round(s.p);
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
  if (c.verb == verb::two_sample_test) {
    real size = 0;  // of the kernel's values; all sums over a row's pairs run in the computing type
    for (const weighted_pair& q : pairs) size += std::abs(q.c * pair_value(s, z, kernel, q.i, q.j, 0).v);
    add_output(answer, "statistic", {t.value.v}, {t.value.e + computing.u * size}, 1, 0, of_computing(scalar_type::f64));
    return without_unresolved();
  }
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
  if (c.estimator != 2 && (c.want_x_weights != want::none || c.want_y_weights != want::none)) {
    std::vector<uncertain> K(std::size_t(s.N * s.N));
    for (int i = 0; i < s.N; ++i)
      for (int j = i; j < s.N; ++j)
        K[std::size_t(i * s.N + j)] = K[std::size_t(j * s.N + i)] =
            pair_value(s, z, kernel, i, j, f.fitted ? f.M.e / f.M.v + 2 * s.p.u : 0);
    for (int group = 0; group < 2; ++group) {
      if ((group == 0 ? c.want_x_weights : c.want_y_weights) == want::none) continue;
      std::vector<real> v, e;
      by_sample_weight(s, K, group, v, e);
      add_output(answer, group == 0 ? "x_weights" : "y_weights", v, e, factor, u, computing);
    }
  }
  list("weights", c.want_first, t.by_weight);
  list("bandwidths", c.want_second, t.by_bandwidth);
  without_unresolved();
}

}  // namespace fuzz
