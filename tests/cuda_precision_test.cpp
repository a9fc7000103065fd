// What the precision of products costs, within bounds that are derived here, and what it leaves alone.
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"
#include "mmd_runs.hpp"
#include "pair_losses.hpp"

using namespace craft_test;

namespace {

struct allowed {
  double value = 0, x = 0, y = 0;
};

/// What rounding the multiplicands by u may cost biased MMD with Gaussians of weight 1. A dot product of centred rows a
/// and b is off by at most 2u |a||b| (and by d eps of its own sum), so that D = |a|^2 + |b|^2 - 2ab is off by
///
///     e = (2u + (d + 4) eps) (|a|^2 + |b|^2)
///
/// and k(D) by |k'| e. The gradient is sum_j c_ij 2 k'(D_ij) (z_i - z_j): k' is off by k'' e, and the product with z_j
/// rounds both of its multiplicands once more. Twice that, for what e^(-e / 2h^2) has beyond its first order.
allowed mmd_allowed(const reals& X, const reals& Y, const std::vector<double>& bandwidths, double u) {
  const index_t n = X.rows(), m = Y.rows(), d = X.cols();
  const double eps = 0x1p-23;
  reals Z(n + m, d);
  Z << X, Y;
  const reals mean = Z.colwise().mean();
  Z.rowwise() -= mean.row(0);
  allowed out;
  for (index_t i = 0; i < n + m; ++i) {
    double row = 0;
    for (index_t j = 0; j < n + m; ++j) {
      const double coefficient =
          (i < n ? 1.0 / double(n) : 1.0 / double(m)) * (j < n ? 1.0 / double(n) : 1.0 / double(m));
      const double D = (Z.row(i) - Z.row(j)).squaredNorm();
      const double e = (2 * u + double(d + 4) * eps) * (Z.row(i).squaredNorm() + Z.row(j).squaredNorm());
      double first = 0, second = 0, value = 0;
      for (const double h : bandwidths) {
        const double k = std::exp(-D / (2 * h * h));
        value += k;
        first += k / (2 * h * h);
        second += k / (4 * h * h * h * h);
      }
      out.value += coefficient * (first * e + value * 8 * eps);
      row += 2 * coefficient * 2 *
             (second * e * std::sqrt(D) + first * (2 * u + double(n + m) * eps) * (Z.row(i).norm() + Z.row(j).norm()));
    }
    (i < n ? out.x : out.y) += row * row;
  }
  return {2 * out.value, 2 * std::sqrt(out.x), 2 * std::sqrt(out.y)};
}

/// The same for symmetric InfoNCE: rows have unit norm, so that a logit is off by at most e = s (2u + (d + 4) eps). The
/// value, a difference of a log-sum-exp and a logit, by 2e. A softmax weight by a factor of up to e^(2e), and its
/// product with the other rows rounds both multiplicands; the way back through the norm divides by it.
allowed info_nce_allowed(const reals& X, const reals& Y, double s, double u) {
  const index_t n = X.rows(), d = X.cols();
  const double eps = 0x1p-23, e = s * (2 * u + double(d + 4) * eps);
  const reals x = X.rowwise().normalized(), y = Y.rowwise().normalized();
  const reals E = (s * x * y.transpose()).array().exp();
  const reals P = E.rowwise().sum().cwiseInverse().asDiagonal() * E,
              Q = E * E.colwise().sum().cwiseInverse().asDiagonal();
  const reals one = reals::Identity(n, n);
  const reals off = (P + Q) * (std::exp(2 * e) - 1) +
                    ((P - one).cwiseAbs() + (Q - one).cwiseAbs()) * (2 * u + double(n + d + 8) * eps);
  const reals by_x = off.rowwise().sum().cwiseQuotient(X.rowwise().norm()) * (s / (2 * double(n)));
  const reals by_y = off.colwise().sum().transpose().cwiseQuotient(Y.rowwise().norm()) * (s / (2 * double(n)));
  return {2 * e + 8 * eps, by_x.norm(), by_y.norm()};
}

}  // namespace

TEST_CASE("what the precision of products costs in float", "[cuda][precision]") {
  using cpu_double = device<cpu_backend, double>;
  using gpu_float = device<cuda_backend, float>;
  const index_t n = 40, m = 32, d = 64;
  const reals X = as_stored<gpu_float>(random_reals(n, d, 91)), Y = as_stored<gpu_float>(random_reals(n, d, 92, 0.1));
  const std::vector<double> h = {5, 8, 16};
  const craft::gaussians<double> kernel(h);
  const craft::cpu reference(1);
  const auto mmd = run_mmd<cpu_double>(reference, X, Y.topRows(m), kernel);
  craft::contrastive_options o;
  o.log_scale = std::log(8.0);
  const auto nce = run_info_nce<cpu_double>(reference, X, Y, o);
  for (const way w : ways) {
    [[maybe_unused]] double last[2] = {0, 0};
    for (const auto p : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
      INFO(name_of(w) << ", precision " << int(p));
      craft::cuda ctx = make(w);
      ctx.precision(p);
      CHECK(ctx.precision() == p);
      const auto got = run_mmd<gpu_float>(ctx, X, Y.topRows(m), kernel);
      const allowed a = mmd_allowed(X, Y.topRows(m), h, unit_of(p));
      const double errors[2] = {std::abs(got.value - mmd.value), (got.x - mmd.x).norm()};
      CHECK(errors[0] <= a.value);
      CHECK(errors[1] <= a.x);
      CHECK((got.y - mmd.y).norm() <= a.y);
      const auto loss = run_info_nce<gpu_float>(ctx, X, Y, o);
      const allowed b = info_nce_allowed(X, Y, 8, unit_of(p));
      const double loss_errors[2] = {std::abs(loss.value - nce.value), (loss.x - nce.x).norm()};
      CHECK(loss_errors[0] <= b.value);
      CHECK(loss_errors[1] <= b.x);
      CHECK((loss.y - nce.y).norm() <= b.y);
      if (p == craft::precision::strict) {
        CHECK(errors[1] <= 1e-5 * mmd.x.norm());
        CHECK(loss_errors[0] <= 1e-6 * nce.value);
        CHECK(loss_errors[1] <= 2e-6 * nce.x.norm());
      }
#ifdef CRAFT_EMULATED_CUDA
      // The option has an effect. A real device may be more exact than it was asked to be.
      if (p != craft::precision::strict) CHECK(errors[1] > 3 * last[0]);
      if (p != craft::precision::strict) CHECK(loss_errors[1] > 3 * last[1]);
      last[0] = errors[1];
      last[1] = loss_errors[1];
#endif
    }
  }
}

#ifdef CRAFT_EMULATED_CUDA
TEST_CASE("bfloat16 multiplies 16-bit factors, and no other precision does", "[cuda][precision]") {
  every_device_verb<device<cuda_backend, float>> all;
  every_device_verb<device<cuda_backend, double>> wide;
  for (const auto p : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
    craft::cuda ctx = make(way::tiles);
    ctx.precision(p);
    const auto count = [&](auto& verbs) {
      const auto products = simt::products(), narrow = simt::narrow_products();
      for (const auto& verb : verbs.verbs) verb.run(ctx);
      return std::pair(simt::products() - products, simt::narrow_products() - narrow);
    };
    const auto [products, narrow] = count(all);
    CHECK(products > 100);
    CHECK(narrow == (p == craft::precision::bfloat16 ? products : 0));
    CHECK(count(wide).second == 0);
  }
}
#endif

// Points that every precision holds exactly, and their dot products too: only the weights are rounded. What they lose must
// cancel between the products and the sums of rows and columns, so that the error is one of w_ij (z_j - z_i), and not of
// w_ij z_j, which is much larger within two narrow clusters far from one another. Clusters at +c and -c have their mean at
// zero.
TEMPLATE_TEST_CASE("sums of rows and columns are those of the rounded weights", "[cuda][precision]", craft::gaussians<double>,
                   craft::cosine<double>) {
  using gpu_float = device<cuda_backend, float>;
  const index_t n = 24, d = 8;
  reals X = random_reals(n, d, 93).unaryExpr([](double v) { return 12 + std::round(4 * v) / 8; }), Y = -X;
  constexpr bool radial = std::is_same_v<TestType, craft::gaussians<double>>;
  const auto kernel = [] {
    if constexpr (radial)
      return craft::gaussians<double>{0.7, 1.5};
    else
      return craft::cosine<double>();
  }();
  const auto exact = run_mmd<device<cpu_backend, double>>(craft::cpu(1), X, Y, kernel);
  reals Z(2 * n, d);
  Z << X, Y;
  for (const auto p : {craft::precision::tf32, craft::precision::bfloat16})
    for (const way w : ways) {
      INFO(name_of(w) << ", precision " << int(p));
      craft::cuda ctx = make(w);
      ctx.precision(p);
      const auto got = run_mmd<gpu_float>(ctx, X, Y, kernel);
      const double u = unit_of(p) / 2, eps = 0x1p-23;
      for (index_t i = 0; i < n; ++i)
        for (index_t k = 0; k < d; ++k) {
          // sum_j |w_ij| |z_jk - z_ik| u, and what float itself costs
          double rounding = 0, plain = 0;
          for (index_t j = 0; j < 2 * n; ++j) {
            double weight = 0;  // of a pair with j in the same block or the other one: 2 / n^2 dk/ds
            if constexpr (radial) {
              const double D = (Z.row(i) - Z.row(j)).squaredNorm();
              for (const double h : {0.7, 1.5}) weight += std::exp(-D / (2 * h * h)) / (h * h);
              rounding += weight * std::abs(Z(j, k) - Z(i, k));
            } else {
              const double norms = Z.row(i).norm() * Z.row(j).norm();
              weight = 1 / norms;
              rounding += weight * std::abs(Z(j, k) - Z.row(i).dot(Z.row(j)) / Z.row(i).squaredNorm() * Z(i, k));
            }
            plain += weight * (std::abs(Z(j, k)) + std::abs(Z(i, k)));
          }
          const double scale = 2 / double(n * n);
          INFO("row " << i << ", column " << k << ": " << got.x(i, k) << " for " << exact.x(i, k));
          CHECK(std::abs(got.x(i, k) - exact.x(i, k)) <= scale * (u * rounding + double(2 * n + d + 16) * eps * plain));
        }
    }
}

TEST_CASE("double has one precision", "[cuda][precision]") {
  every_device_verb<device<cuda_backend, double>> all;
  for (const way w : ways) {
    const craft::cuda strict = make(w);
    craft::cuda other = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const std::string want = all.bits_of(verb, strict);
      CHECK((all.bits_of(verb, other.precision(craft::precision::tf32)) == want));
      CHECK((all.bits_of(verb, other.precision(craft::precision::bfloat16)) == want));
    }
  }
}
