#include "naive.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace craft_test {

coefficients::coefficients(form f, index_t n, index_t m, const std::vector<double>& wx, const std::vector<double>& wy)
    : xx(matrix<long double>::Zero(n, n)), yy(matrix<long double>::Zero(m, m)), xy(matrix<long double>::Zero(n, m)) {
  if (f == form::linear) {
    const index_t p = std::min(n, m) / 2;
    for (index_t i = 0; i < p; ++i) {
      xx(2 * i, 2 * i + 1) = yy(2 * i, 2 * i + 1) = 1.0L / p;
      xy(2 * i, 2 * i + 1) = xy(2 * i + 1, 2 * i) = -1.0L / p;
    }
    return;
  }
  const auto normalised = [](const std::vector<double>& w, index_t count) {
    std::vector<long double> out(std::size_t(count), 1.0L);
    std::copy(w.begin(), w.end(), out.begin());
    long double sum = 0;
    for (long double v : out) sum += v;
    for (long double& v : out) v /= sum;
    return out;
  };
  const auto within = [&](matrix<long double>& k, const std::vector<long double>& w) {
    long double sum = 0;
    for (index_t i = 0; i < k.rows(); ++i)
      for (index_t j = 0; j < k.rows(); ++j)
        if (f == form::biased || i != j) sum += k(i, j) = w[std::size_t(i)] * w[std::size_t(j)];
    k /= sum;
  };
  const auto a = normalised(wx, n), b = normalised(wy, m);
  within(xx, a);
  within(yy, b);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < m; ++j) xy(i, j) = -2 * a[std::size_t(i)] * b[std::size_t(j)];
}

namespace {

/// Calls f(u, v, i, j, coefficient, gu, gv) for the pairs with a coefficient; gu and gv are the gradients of the
/// samples that u and v belong to.
template <class G, class F>
void for_each_pair(const reals& X, const reals& Y, const coefficients& c, G& gx, G& gy, F&& f) {
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < X.rows(); ++j)
      if (c.xx(i, j) != 0) f(X, X, i, j, c.xx(i, j), gx, gx);
  for (index_t i = 0; i < Y.rows(); ++i)
    for (index_t j = 0; j < Y.rows(); ++j)
      if (c.yy(i, j) != 0) f(Y, Y, i, j, c.yy(i, j), gy, gy);
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < Y.rows(); ++j)
      if (c.xy(i, j) != 0) f(X, Y, i, j, c.xy(i, j), gx, gy);
}

using wide = matrix<long double>;

/// What the similarity looks at: statistics of the anchors first, then the norm.
std::pair<wide, wide> prepared(const reals& X, const reals& A, const craft::relative_options& options) {
  wide x = X.cast<long double>(), a = A.cast<long double>();
  if (options.statistics != craft::anchor_statistics::none) {
    const wide mean = a.colwise().sum() / (long double)(a.rows());
    x.rowwise() -= mean.row(0);
    a.rowwise() -= mean.row(0);
    if (options.statistics == craft::anchor_statistics::standardise)
      for (index_t k = 0; k < a.cols(); ++k) {
        const long double std = std::sqrt(a.col(k).squaredNorm() / (long double)(a.rows() - 1));
        x.col(k) /= std;
        a.col(k) /= std;
      }
  }
  if (options.normalise) {
    for (index_t i = 0; i < x.rows(); ++i) x.row(i) /= x.row(i).norm();
    for (index_t c = 0; c < a.rows(); ++c) a.row(c) /= a.row(c).norm();
  }
  return {x, a};
}

}  // namespace

mmd_result naive_mmd(const definition& define, const std::vector<double>& weights, const std::vector<double>& bandwidths,
                     const reals& X, const reals& Y, const coefficients& c) {
  const index_t d = X.cols();
  matrix<long double> gx = matrix<long double>::Zero(X.rows(), d), gy = matrix<long double>::Zero(Y.rows(), d);
  parameters w(weights.begin(), weights.end()), h(bandwidths.begin(), bandwidths.end());
  std::vector<long double> gw(w.size()), gh(h.size());
  long double value = 0;
  for_each_pair(X, Y, c, gx, gy,
                [&](const reals& U, const reals& V, index_t i, index_t j, long double coefficient, auto& gu, auto& gv) {
                  pair_of_samples p;
                  for (index_t l = 0; l < d; ++l) {
                    const long double u = U(i, l), v = V(j, l);
                    p.D.v += (u - v) * (u - v);
                    p.s.v += u * v;
                    p.a.v += u * u;
                    p.b.v += v * v;
                  }
                  value += coefficient * define(p, w, h).v;
                  const auto by = [&](dual& variable) {
                    variable.e = 1;
                    const long double e = define(p, w, h).e;
                    variable.e = 0;
                    return coefficient * e;
                  };
                  const long double kD = by(p.D), ks = by(p.s), ka = by(p.a), kb = by(p.b);
                  for (index_t l = 0; l < d; ++l) {
                    const long double u = U(i, l), v = V(j, l);
                    gu(i, l) += 2 * kD * (u - v) + ks * v + 2 * ka * u;
                    gv(j, l) += 2 * kD * (v - u) + ks * u + 2 * kb * v;
                  }
                  for (std::size_t q = 0; q < w.size(); ++q) gw[q] += by(w[q]);
                  for (std::size_t q = 0; q < h.size(); ++q) gh[q] += by(h[q]);
                });
  return {double(value), gx.cast<double>(), gy.cast<double>(), {gw.begin(), gw.end()}, {gh.begin(), gh.end()}};
}

rounding rounding_of(const probed_kernel& kernel, const reals& X, const reals& Y, const coefficients& c, double unit,
                     bool inputs_rounded) {
  const bool radial = kernel.radial;
  const double root = std::sqrt(double(X.cols())), sums = std::sqrt(double(X.rows() + Y.rows()));
  const double product = (root + 2) * unit, step = (root + sums + 4) * unit;
  // Parameter gradients are summed over all pairs of a tile; equal terms (a floor) all round the same way.
  const double parameter_step = (root + std::min(sums * sums, 64.0) + 4) * unit;
  const std::size_t weights = std::size_t(kernel.weights), all = weights + std::size_t(kernel.bandwidths);
  reals U = X, V = Y;
  if (radial) {  // centred data have the same distances and smaller products
    const Eigen::RowVectorXd mean = (X.colwise().sum() + Y.colwise().sum()) / double(X.rows() + Y.rows());
    U.rowwise() -= mean;
    V.rowwise() -= mean;
  }
  const Eigen::VectorXd ux = X.rowwise().norm(), vy = Y.rowwise().norm();
  Eigen::VectorXd ex = Eigen::VectorXd::Zero(X.rows()), ey = Eigen::VectorXd::Zero(Y.rows());
  rounding out;
  std::vector<double> p(all), shifted(all), dp(all), errors(all);
  for_each_pair(U, V, c, ex, ey,
                [&](const reals& P, const reals& Q, index_t i, index_t j, long double coefficient, Eigen::VectorXd& eu,
                    Eigen::VectorXd& ev) {
                  const double size = std::abs(double(coefficient));
                  const double s = P.row(i).dot(Q.row(j)), a = P.row(i).squaredNorm(), b = Q.row(j).squaredNorm();
                  const double na = std::sqrt(a), nb = std::sqrt(b), distance = (P.row(i) - Q.row(j)).norm();
                  const auto k = kernel.partials(s, a, b);
                  kernel.parameters(s, a, b, p.data());
                  // Changes of the kernel and its slopes between here and where rounding may put s, a and b.
                  double dk = 0, ds = 0, da = 0, db = 0;
                  std::fill(dp.begin(), dp.end(), 0);
                  if (!radial || distance > 0) {
                    const double stored =
                        inputs_rounded ? unit * ((&P == &U ? ux(i) : vy(i)) + (&Q == &U ? ux(j) : vy(j))) : 0;
                    const double shift_s = product * na * nb + stored * (na + nb) / 2;
                    const double shift_a = product * a + stored * na, shift_b = product * b + stored * nb;
                    for (const double sign : {-1.0, 1.0}) {
                      const double es = s - sign * shift_s, ea = a + sign * shift_a, eb = b + sign * shift_b;
                      const auto e = kernel.partials(es, ea, eb);
                      dk = std::max(dk, std::abs(e.value - k.value));
                      ds = std::max(ds, std::abs(e.ds - k.ds));
                      da = std::max(da, std::abs(e.da - k.da));
                      db = std::max(db, std::abs(e.db - k.db));
                      kernel.parameters(es, ea, eb, shifted.data());
                      for (std::size_t q = 0; q < all; ++q) dp[q] = std::max(dp[q], std::abs(shifted[q] - p[q]));
                    }
                  }
                  out.value += size * (dk + step * std::abs(k.value));
                  // A wrong slope of a radial kernel pulls along x - y; sums of rounded terms err by each sample's own
                  // size.
                  eu(i) += size * ((radial ? ds * distance : ds * nb + 2 * da * na) +
                                   step * (std::abs(k.ds) * nb + 2 * std::abs(k.da) * na));
                  ev(j) += size * ((radial ? ds * distance : ds * na + 2 * db * nb) +
                                   step * (std::abs(k.ds) * na + 2 * std::abs(k.db) * nb));
                  for (std::size_t q = 0; q < all; ++q) errors[q] += size * (dp[q] + parameter_step * std::abs(p[q]));
                });
  out.x = ex.norm();
  out.y = ey.norm();
  out.weights.assign(errors.begin(), errors.begin() + std::ptrdiff_t(weights));
  out.bandwidths.assign(errors.begin() + std::ptrdiff_t(weights), errors.end());
  return out;
}

reals naive_relative(const definition& define, const std::vector<double>& weights, const std::vector<double>& bandwidths,
                     const reals& X, const reals& A, const craft::relative_options& options) {
  const auto [x, a] = prepared(X, A, options);
  const parameters w(weights.begin(), weights.end()), h(bandwidths.begin(), bandwidths.end());
  const long double scale =
      std::min<long double>(std::exp((long double)(options.log_scale.value())), options.max_scale);
  reals out(X.rows(), A.rows());
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < A.rows(); ++j) {
      pair_of_samples p;
      p.D.v = (x.row(i) - a.row(j)).squaredNorm();
      p.s.v = x.row(i).dot(a.row(j));
      p.a.v = x.row(i).squaredNorm();
      p.b.v = a.row(j).squaredNorm();
      out(i, j) = double(scale * define(p, w, h).v);
    }
  return out;
}

double rounding_of_relative(const probed_kernel& kernel, const reals& X, const reals& A,
                            const craft::relative_options& options, double unit) {
  const auto [x, a] = prepared(X, A, options);
  const double shift = 2 * (std::sqrt(double(X.cols())) + 6) * unit;
  double most = 0;
  for (index_t i = 0; i < X.rows(); ++i)
    for (index_t j = 0; j < A.rows(); ++j) {
      const double s = double(x.row(i).dot(a.row(j))), p = double(x.row(i).squaredNorm()),
                   q = double(a.row(j).squaredNorm()), value = kernel.partials(s, p, q).value;
      for (const double sign : {-1.0, 1.0}) {
        const double e = sign * shift;
        most = std::max(most, std::abs(kernel.partials(s - e * std::sqrt(p * q), p + e * p, q + e * q).value - value) +
                                  8 * unit * std::abs(value));
      }
    }
  return most * std::exp(options.log_scale.value());
}

double slope_by_scale(const probed_kernel& kernel, const reals& X, const reals& Y, const coefficients& c) {
  double slope = 0, none = 0;
  for_each_pair(X, Y, c, none, none,
                [&](const reals& U, const reals& V, index_t i, index_t j, long double coefficient, double, double) {
                  const double D = (U.row(i) - V.row(j)).squaredNorm();
                  slope += std::abs(double(coefficient) * kernel.partials(-D / 2, 0.0, 0.0).da * D);
                });
  return slope;
}

}  // namespace craft_test
