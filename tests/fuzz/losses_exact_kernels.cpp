// Kernels and distances in long double, see losses_exact.hpp.
#include <algorithm>

#include "losses_exact.hpp"

namespace fuzz {
namespace {

/// Value of one member without its weight, its derivatives in units of it, and t = -log k, what exp's argument is.
struct radial {
  real k, slope_of_k, by_of_k[2], t = 0;
  real slope() const { return k * slope_of_k; }
  real by(int q) const { return k * by_of_k[q]; }
};
radial one(const member& m, real D) {
  const real s = m.bandwidth, floor = m.shape, far = std::max(D, floor), r = std::sqrt(far);
  switch (m.family) {
    case family::gaussian: {
      const real k = std::exp(-D / (2 * s * s));
      return {k, -1 / (2 * s * s), {D / (s * s * s), 0}, D / (2 * s * s)};
    }
    case family::laplacian: {
      const real k = std::exp(-r / s);
      return {k, D > floor ? -1 / (2 * s * r) : 0, {r / (s * s), 0}, r / s};
    }
    case family::inverse_multiquadric: {
      const real sum = s * s + D + floor;
      return {s * s / sum, -1 / sum, {2 * (D + floor) / (s * sum), 0}, 0};
    }
    case family::rational_quadratic: {
      const real x = D / (2 * m.shape * s * s), t = m.shape * std::log1p(x), k = std::exp(-t);
      // x / (1 + x) - log(1 + x), by its series where the two cancel
      const real difference =
          x < 1e-4L ? x * x * (-0.5L + x * (2 / 3.0L - x * (0.75L - x * 0.8L))) : x / (1 + x) - std::log1p(x);
      return {k, -1 / (2 * s * s * (1 + x)), {D / (s * s * s * (1 + x)), difference}, t};
    }
    case family::energy:
      return {-r, D > floor ? 0.5L / far : 0, {0, 0}, 0};
  }
  return {};
}

/// How far the derivative by a parameter moves with D. It rises and falls over about a decade of D around bandwidth^2, which may
/// lie between the ends.
real moved(const member& m, int b, real D, real wide) {
  const real here = one(m, D).by(b), high = D + wide, low = std::max(D - wide, 0.0L);
  real most = std::max(std::abs(one(m, low).by(b) - here), std::abs(one(m, high).by(b) - here));
  if (wide < D / 1000) return most;
  for (real x = std::max(low, square(m.bandwidth) / 1000); x < std::min(high, 1e6L * square(m.bandwidth)); x *= 1.1L)
    most = std::max(most, std::abs(one(m, x).by(b) - here));
  return most * 1.01L;  // its peak lies between two of these
}

void add(uncertain& to, real w, real v, real low, real high, real rounding, real least) {
  to.v += w * v;
  to.e += std::abs(w) * (std::max(std::abs(low - v), std::abs(high - v)) / untypical + rounding * std::abs(v) + least);
}

}  // namespace

kernel_of_distance::kernel_of_distance(const test_case& given) : c(given), p(of_computing(given.type)) {
  for (std::size_t q = 0; q < c.members.size(); ++q) {
    const bool weighted = c.kernel != kernel_type::energy, shared = c.kernel == kernel_type::nested && q == 2;
    weight_at.push_back(!weighted ? -1 : shared ? weights - 1 : weights++);
    bandwidth_at.push_back(bandwidths);
    const family f = c.members[q].family;
    bandwidths += f == family::energy ? 0 : f == family::rational_quadratic ? 2 : 1;
  }
}

pair_terms kernel_of_distance::at(real D, real error, bool parameters) const {
  pair_terms sum;
  sum.by_weight.resize(std::size_t(parameters ? weights : 0));
  sum.by_bandwidth.resize(std::size_t(parameters ? bandwidths : 0));
  real widest = 0;
  for (const member& m : c.members) widest = std::max(widest, real(m.bandwidth));
  for (std::size_t q = 0; q < c.members.size(); ++q) {
    const member& m = c.members[q];
    const radial here = one(m, D);
    const real wide = untypical * error;
    const radial low = error > 0 ? one(m, std::max(D - wide, 0.0L)) : here, high = error > 0 ? one(m, D + wide) : here;
    // A series of p-th powers multiplies the rounding of the widest member; a few times are allowed.
    const real powers = c.series > 1 ? std::min(square(widest / m.bandwidth), 16.0L) : 0;
    const real rounding = error > 0 || D > 0 ? p.u * (2 + 3 * here.t + 2 * powers)
                                             : p.u * (1 + std::sqrt(real(c.members.size())) / 2),
               w = m.weight;
    const bool apart = error > 0 || D > 0;
    const real tiny = apart ? p.smallest : 0, w_size = std::abs(w);  // where exp underflows
    add(sum.k, w, here.k, low.k, high.k, rounding, tiny);
    const real slope_at_most = m.family == family::laplacian ? 0.5L / m.bandwidth : m.family == family::energy ? 0.5L : 0;
    if (slope_at_most > 0) {
      // Its length |k'| sqrt(D) cannot err by more than itself and its bound, however small D is.
      sum.slope.v += w * here.slope();
      const real r = std::sqrt(D), near = D - wide > m.shape ? std::abs(low.slope() - here.slope()) : HUGE_VALL;
      const real e = std::max(near, std::abs(high.slope() - here.slope())) / untypical + rounding * std::abs(here.slope()) +
                     tiny * std::abs(here.slope_of_k);
      if (r > 0 && e * r <= 2 * slope_at_most)
        sum.slope.e += w_size * e;
      else
        sum.steepest += 2 * w_size * slope_at_most;
    } else {
      add(sum.slope, w, here.slope(), low.slope(), high.slope(), rounding, tiny * std::abs(here.slope_of_k));
    }
    if (apart) sum.slope.e += 8 * p.least;
    if (!parameters) continue;
    if (weight_at[q] >= 0) add(sum.by_weight[std::size_t(weight_at[q])], 1, here.k, low.k, high.k, rounding, tiny);
    const int count = m.family == family::energy ? 0 : m.family == family::rational_quadratic ? 2 : 1;
    for (int b = 0; b < count; ++b)
      add(sum.by_bandwidth[std::size_t(bandwidth_at[q] + b)], w, here.by(b), here.by(b) + moved(m, b, D, wide), here.by(b),
          p.u * (5 + 3 * here.t), tiny * (1 + std::abs(here.by_of_k[b])));
  }
  return sum;
}

uncertain distance(const uncertain_rows& x, int i, const uncertain_rows& y, int j, bool equal, const precision& p) {
  if (equal) return {};
  const real u = p.u;
  real D = 0, moved = 0, second = 0;
  for (int k = 0; k < x.d; ++k) {
    const real delta = x.at(i, k) - y.at(j, k), e = square(x.error(i, k) + y.error(j, k));
    D += delta * delta, moved += delta * delta * e, second += e;
  }
  const real norms = x.squared(i) + y.squared(j), r = growth(x.d);
  const bool far = D > 8 * (x.d + 4) * 2 * u * norms;  // half the threshold: rounding may decide it
  return {D, 2 * std::sqrt(moved) + second + (far ? 2 * u * (3 + r) * norms : 2 * u * r * D) + x.d * p.least};
}

bool out_of_range(const test_case& c, std::initializer_list<const uncertain_rows*> all, const precision& p) {
  const auto beyond = [&](real largest) {
    return largest > 0.99L * std::sqrt(p.largest / (4 * c.x.cols)) ||
           (largest > 0 && largest < 1.01L * std::sqrt(p.smallest / (2 * p.u)));
  };
  real most = 0;
  bool row = false;
  for (const uncertain_rows* x : all)
    for (int i = 0; i < x->n; ++i) {
      real largest = 0;
      for (int k = 0; k < x->d; ++k) largest = std::max(largest, std::abs(x->at(i, k)));
      row = row || beyond(largest), most = std::max(most, largest);
    }
  return of_distance(c) ? beyond(most) : c.kernel == kernel_type::cosine && row;
}
bool parameters_out_of_range(const test_case& c, const precision& p) {
  bool out = false;
  for (const member& m : c.members) {
    const bool quadratic = m.family == family::rational_quadratic;
    const real l = m.bandwidth, shape = quadratic ? real(m.shape) : 1.0L;
    for (const real v : {l, shape, l * std::sqrt(shape)}) {
      const real least = 1.01L * std::sqrt(p.smallest / (2 * p.u));  // squares and their inverses keep all digits
      out = out || v < least || v > 1 / least;
    }
    const real floor = std::abs(real(m.shape));
    out = out || (!quadratic && floor != 0 && !(floor > 2 * p.smallest && floor < 0.99L * p.largest));
  }
  return of_distance(c) && out;
}

linear_terms cosine_or_dot(kernel_type kernel, const uncertain_rows& x, int i, const uncertain_rows& y, int j, real u) {
  const uncertain s = dot(x, i, y, j, u);
  if (kernel == kernel_type::dot) return {s, {1, 0}, {0, 0}, {0, 0}};
  const uncertain a = dot(x, i, x, i, u), b = dot(y, j, y, j, u);
  if (a.v == 0 || b.v == 0) return {};
  const real root = 1 / std::sqrt(a.v * b.v), k = s.v * root, off = a.e / a.v / 2 + b.e / b.v / 2 + 2 * u;
  const real dk = s.e * root + std::abs(k) * off;
  return {{k, dk},
          {root, root * off},
          {-k / (2 * a.v), (dk + std::abs(k) * (a.e / a.v + 2 * u)) / (2 * a.v)},
          {-k / (2 * b.v), (dk + std::abs(k) * (b.e / b.v + 2 * u)) / (2 * b.v)}};
}

}  // namespace fuzz
