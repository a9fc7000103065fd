// Relative representations in long double, see losses_exact.hpp.
#include <algorithm>
#include <tuple>

#include "losses_exact.hpp"

namespace fuzz {
namespace {

/// Rows and anchors after the statistics and the division by norms.
struct prepared {
  const test_case& c;
  precision p;
  int n, C, d;
  uncertain_rows x, y;
  std::vector<real> deviation, x_norm, y_norm;
  uncertain_rows x_before, y_before;    ///< the division by norms
  uncertain_rows x_centred, y_centred;  ///< what distances see: unit rows less the unit anchors' mean

  explicit prepared(const test_case& given)
      : c(given),
        p(of_computing(c.type)),
        n(c.x.rows),
        C(c.y.rows),
        d(c.x.cols),
        x(load(c.x)),
        y(load(c.y)),
        deviation(std::size_t(d), 1),
        x_before(0, 0),
        y_before(0, 0),
        x_centred(0, 0),
        y_centred(0, 0) {
    if (c.statistics != 0 || (of_distance(c) && !c.normalise)) subtract_mean();
    if (c.statistics == 2) divide();
    x_before = x, y_before = y;
    if (c.normalise) x_norm = fuzz::normalise(x, p), y_norm = fuzz::normalise(y, p);
    x_centred = x, y_centred = y;
    if (of_distance(c) && c.normalise) centre_units();
  }
  bool equal(int i, int j) const {
    for (int k = 0; k < d; ++k)
      if (c.x.at(i, k) != c.y.at(j, k)) return false;
    return true;
  }
  void pull_back(uncertain_rows& gx, uncertain_rows& gy) {
    if (c.normalise) normalise_pullback(x, x_norm, gx, p), normalise_pullback(y, y_norm, gy, p);
    if (c.statistics == 0) return;
    for (int k = 0; k < d; ++k) {
      const real s = deviation[std::size_t(k)];
      const auto all = [&](const auto& f) {
        for (int i = 0; i < n; ++i) f(gx, x_before, i);
        for (int i = 0; i < C; ++i) f(gy, y_before, i);
      };
      if (c.statistics == 2 && !constant(k)) {
        uncertain by;
        all([&](const uncertain_rows& g, const uncertain_rows& z, int i) {
          by.v -= g.at(i, k) * z.at(i, k) / s;
          by.e += (g.error(i, k) * std::abs(z.at(i, k)) +
                   std::abs(g.at(i, k)) * (z.error(i, k) + 2 * p.u * std::abs(z.at(i, k)))) /
                  s;
        });
        all([&](uncertain_rows& g, const uncertain_rows&, int i) {
          g.at(i, k) /= s;
          g.error(i, k) = g.error(i, k) / s + std::abs(g.at(i, k)) * (2 * p.u + deviation_error_[std::size_t(k)]);
        });
        for (int i = 0; i < C && c.statistics_gradient; ++i) {
          const real z = y_before.at(i, k) / (C - 1);
          gy.at(i, k) += by.v * z;
          gy.error(i, k) +=
              by.e * std::abs(z) + std::abs(by.v) * (y_before.error(i, k) / (C - 1) +
                                                     (2 * p.u + deviation_error_[std::size_t(k)]) * std::abs(z));
        }
      }
      if (!c.statistics_gradient) continue;
      uncertain sum;
      all([&](const uncertain_rows& g, const uncertain_rows&, int i) {
        sum.v += g.at(i, k), sum.e += g.error(i, k) + p.u * std::abs(g.at(i, k));
      });
      for (int i = 0; i < C; ++i) gy.at(i, k) -= sum.v / C, gy.error(i, k) += sum.e / C + p.u * std::abs(sum.v) / C;
    }
  }

 private:
  std::vector<real> deviation_error_;
  bool constant(int k) const {
    for (int i = 1; i < C; ++i)
      if (c.y.at(i, k) != c.y.at(0, k)) return false;
    return true;
  }
  void subtract_mean() {
    for (int k = 0; k < d; ++k) {
      const real mean = column_mean(y, k, C);
      real size = 0, differences = 0;
      for (int i = 0; i < C; ++i) size += std::abs(y.at(i, k)) / C, differences += square(y.at(i, k) - y.at(0, k));
      // The mean is a sum of doubles: its rounding shifts all rows alike, which only distances do not see.
      const real summed = growth(C) * std::sqrt(differences * C) / C;
      const real off = constant(k) || (of_distance(c) && !c.normalise) ? 0 : 0x1p-53L * (2 * size + summed);
      for (uncertain_rows* t : {&x, &y})
        for (int i = 0; i < t->n; ++i) t->at(i, k) -= mean, t->error(i, k) = p.u * std::abs(t->at(i, k)) + off + p.least;
    }
  }
  /// Norms and this mean are doubles, so that a number is rounded to the computing type once, after it.
  void centre_units() {
    for (int k = 0; k < d; ++k) {
      const real mean = column_mean(y, k, C);
      for (auto [t, unit, before, norm] :
           {std::tuple(&x_centred, &x, &x_before, &x_norm), std::tuple(&y_centred, &y, &y_before, &y_norm)})
        for (int i = 0; i < t->n; ++i) {
          t->at(i, k) -= mean;
          const real r = (*norm)[std::size_t(i)];
          real moved = 2 * 0x1p-53L;  // the norm, where the row errs itself
          for (int l = 0; l < d && r > 0; ++l) moved += std::abs(unit->at(i, l)) * before->error(i, l) / r;
          const real own = r > 0 ? before->error(i, k) / r : 0;
          t->error(i, k) = p.u * std::abs(t->at(i, k)) + p.least + moved * std::abs(unit->at(i, k)) + own;
        }
    }
  }
  void divide() {
    deviation_error_.assign(std::size_t(d), 0);
    for (int k = 0; k < d; ++k) {
      real squares = 0, moved = 0;
      for (int i = 0; i < C; ++i) squares += square(y.at(i, k)), moved += std::abs(y.at(i, k)) * y.error(i, k);
      for (int i = 0; i < C; ++i) moved += square(0x1p-53L * real(c.y.at(i, k)));  // the mean's rounding, to second order
      if (constant(k)) continue;
      const real s = deviation[std::size_t(k)] = std::sqrt(squares / (C - 1));
      const real off = deviation_error_[std::size_t(k)] = moved / squares + p.u;
      for (uncertain_rows* t : {&x, &y})
        for (int i = 0; i < t->n; ++i)
          t->at(i, k) /= s, t->error(i, k) = t->error(i, k) / s + (off + p.u) * std::abs(t->at(i, k)) + p.least;
    }
  }
};

/// Adds U k's derivatives by row i of x and row j of y.
void pull_pair(const prepared& r, const kernel_of_distance& kernel, int i, int j, uncertain U, uncertain& k,
               uncertain_rows& gx, uncertain_rows& gy) {
  const real u = r.p.u, size = std::abs(U.v) + r.p.least, h = (3 + sum_growth(std::max(r.n, r.C))) * r.p.u;
  if (!of_distance(r.c)) {
    const linear_terms t = cosine_or_dot(r.c.kernel, r.x, i, r.y, j, u);
    k = t.k;
    const auto side = [&](const uncertain_rows& own, int a, const uncertain_rows& other, int b, const uncertain& by,
                          uncertain_rows& g) {
      for (int f = 0; f < r.d; ++f) {
        const real za = own.at(a, f), zb = other.at(b, f), v = t.ds.v * zb + 2 * by.v * za;
        g.at(a, f) += U.v * v;
        g.error(a, f) += U.e * std::abs(v) +
                         size * ((t.ds.e + h * std::abs(t.ds.v)) * std::abs(zb) + std::abs(t.ds.v) * other.error(b, f) +
                                 2 * (by.e + h * std::abs(by.v)) * std::abs(za) + 2 * std::abs(by.v) * own.error(a, f));
      }
    };
    side(r.x, i, r.y, j, t.da, gx), side(r.y, j, r.x, i, t.db, gy);
    return;
  }
  const bool equal = r.equal(i, j);
  const uncertain_rows &x = r.x_centred, &y = r.y_centred;
  const uncertain D = distance(x, i, y, j, equal, r.p);
  const pair_terms t = kernel.at(D.v, D.e, false);
  k = t.k;
  for (int f = 0; f < r.d && (!equal || x.squared(i) < r.p.smallest); ++f) {
    const real zi = x.at(i, f), zj = y.at(j, f), delta = zi - zj, v = 2 * U.v * t.slope.v * delta;
    const real e = 2 * size *
                       (t.slope.e * std::abs(delta) + t.steepest +
                        (std::abs(t.slope.v) + t.slope.e) *
                            (std::hypot(x.error(i, f), y.error(j, f)) + h * (std::abs(zi) + std::abs(zj)))) +
                   4 * r.p.least * (std::abs(zi) + std::abs(zj));
    gx.at(i, f) += v, gx.error(i, f) += e, gy.at(j, f) -= v, gy.error(j, f) += e;
  }
}
}  // namespace

void exact_relative(const test_case& c, exact_answer& answer) {
  prepared r(c);
  const precision computing = of_computing(c.type), out = of_storage(c.type);
  answer.may_refuse = out_of_range(c, {&r.x, &r.y}, computing) || (of_distance(c) && parameters_out_of_range(c, computing));
  const scale_of_logits scale = logit_scale(c);
  const kernel_of_distance kernel(c);
  uncertain_rows gx(r.n, r.d), gy(r.C, r.d);
  std::vector<real> value, error;
  uncertain by_scale;
  real squares = 0;
  const bool pulled = c.verb == verb::relative_pullback;
  for (int i = 0; i < r.n; ++i)
    for (int j = 0; j < r.C; ++j) {
      uncertain k, U{pulled ? scale.s * real(c.dout.at(i, j)) : 1, 0};
      U.e = 2 * computing.u * std::abs(U.v);
      pull_pair(r, kernel, i, j, U, k, gx, gy);
      value.push_back(scale.s * k.v), error.push_back(scale.s * (k.e + computing.u * std::abs(k.v)));
      squares += square(U.v * k.v);
      by_scale.v += U.v * k.v, by_scale.e += std::abs(U.v) * k.e + U.e * std::abs(k.v);
    }
  if (!pulled) {
    add_output(answer, "out", value, error, 1, computing.u, out);
    return;
  }
  by_scale.e += (computing.u * growth(r.n * r.C) + (r.n + r.C) * 0x1p-54L) * (std::sqrt(squares) + std::abs(by_scale.v));
  if (c.kernel == kernel_type::dot) by_scale.e += inner(r.x, gx);
  r.pull_back(gx, gy);
  if (c.want_x != want::none) add_output(answer, "x", gx.z, gx.dz, 1, computing.u, out);
  if (c.want_y != want::none) add_output(answer, "anchors", gy.z, gy.dz, 1, computing.u, out);
  add_log_scale(c, scale, by_scale, answer);
}

}  // namespace fuzz
