// The scale M of squared distances under every rule, against a sort of all of them in double.
#include "craft/bandwidth.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "reference.hpp"

using namespace craft_test;
using craft::bandwidth_rule;
using craft::bandwidth_sample;

namespace {

const std::vector<bandwidth_rule> rules = {bandwidth_rule::mean, bandwidth_rule::mean_offdiagonal,
                                           bandwidth_rule::median, bandwidth_rule::median_mid};
const std::vector<bandwidth_sample> samples = {bandwidth_sample::pooled, bandwidth_sample::x};

/// By definition: all pairs i < j, sorted.
double by_hand(const reals& X, const reals& Y, bandwidth_rule rule, bandwidth_sample sample) {
  reals Z = X;
  if (sample == bandwidth_sample::pooled) {
    Z.resize(X.rows() + Y.rows(), X.cols());
    Z << X, Y;
  }
  std::vector<double> D;
  long double sum = 0;
  for (index_t i = 0; i < Z.rows(); ++i)
    for (index_t j = i + 1; j < Z.rows(); ++j) {
      D.push_back((Z.row(i) - Z.row(j)).squaredNorm());
      sum += 2 * D.back();
    }
  std::sort(D.begin(), D.end());
  const double n = double(Z.rows());
  switch (rule) {
    case bandwidth_rule::fixed:
      return 1;
    case bandwidth_rule::mean:
      return double(sum / (n * n));
    case bandwidth_rule::mean_offdiagonal:
      return double(sum / (n * n - n));
    case bandwidth_rule::median:
      return D[(D.size() - 1) / 2];
    case bandwidth_rule::median_mid:
      return (D[(D.size() - 1) / 2] + D[D.size() / 2]) / 2;
  }
  return not_a_number;
}

template <class D>
double scale_of(const typename D::context& ctx, const reals& X, const reals& Y, bandwidth_rule rule,
                bandwidth_sample sample) {
  const array<D> x(X), y(Y);
  return craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, sample, false});
}

/// A distance of centred rows is a sum of d products of sizes |x|, |y|; the factor is that of the largest norms.
template <class D>
double allowed(const reals& X, const reals& Y) {
  reals Z(X.rows() + Y.rows(), X.cols());
  Z << X, Y;
  Z.rowwise() -= Z.colwise().mean().eval();
  return 4 * (std::sqrt(double(Z.cols())) + 4) * roundoff<typename D::scalar> * Z.rowwise().squaredNorm().maxCoeff();
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("every rule is what its definition says", "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  // Odd and even numbers of pairs; more rows than a tile; more pairs than fit a small table.
  for (const auto& [n, m, d] : std::vector<std::array<index_t, 3>>{
           {2, 1, 1}, {2, 2, 3}, {3, 2, 1}, {4, 5, 3}, {17, 3, 40}, {70, 65, 5}, {2, 70, 3}, {131, 40, 2}}) {
    const reals X = as_stored<D>(random_reals(n, d, 1)), Y = as_stored<D>(random_reals(m, d, 2, 0.7));
    for (const index_t tile : {0, 1, 7, 64}) {
      if (tile == 1 && n + m > 40) continue;  // slow, and 7 says the same
      ctx.tile(tile);
      for (const auto rule : rules)
        for (const auto sample : samples) {
          INFO("n " << n << ", m " << m << ", d " << d << ", tile " << tile << ", rule " << int(rule) << ", sample "
                    << int(sample));
          const double got = scale_of<D>(ctx, X, Y, rule, sample), want = by_hand(X, Y, rule, sample);
          CHECK(std::abs(got - want) <= allowed<D>(X, Y));
          CHECK(want > 100 * allowed<D>(X, Y));
        }
    }
    CHECK(scale_of<D>(ctx, X, Y, bandwidth_rule::fixed, bandwidth_sample::pooled) == 1);
  }
}

TEMPLATE_LIST_TEST_CASE("a median among equal distances", "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  // Points of a small grid: distances are whole numbers, exact in float, most of them shared by many pairs.
  const reals X = (2 * random_reals(40, 2, 3)).array().round(), Y = (2 * random_reals(25, 2, 4)).array().round();
  for (const index_t tile : {0, 7}) {
    ctx.tile(tile);
    for (const auto rule : {bandwidth_rule::median, bandwidth_rule::median_mid})
      for (const auto sample : samples) {
        INFO("rule " << int(rule) << ", sample " << int(sample) << ", tile " << tile);
        const double want = by_hand(X, Y, rule, sample);
        CHECK(want > 0);
        CHECK(std::abs(scale_of<D>(ctx, X, Y, rule, sample) - want) <= allowed<D>(X, Y));
      }
  }
  // Two distances only, half and half: the lower one, and the mean of both.
  reals corner(4, 1);
  corner << 0, 0, 3, 3;  // pairs: 0, 9, 9, 9, 9, 0
  const reals none = reals::Zero(1, 1);
  CHECK(std::abs(scale_of<D>(ctx, corner, none, bandwidth_rule::median, bandwidth_sample::x) - 9) < 1e-4);
  reals line(3, 1);
  line << 0, 1, 3;  // pairs: 1, 4, 9
  CHECK(std::abs(scale_of<D>(ctx, line, none, bandwidth_rule::median, bandwidth_sample::x) - 4) < 1e-4);
  CHECK(std::abs(scale_of<D>(ctx, line, none, bandwidth_rule::median_mid, bandwidth_sample::x) - 4) < 1e-4);
  reals four(4, 1);
  four << 0, 1, 3, 7;  // pairs: 1, 4, 9, 16, 36, 49
  CHECK(std::abs(scale_of<D>(ctx, four, none, bandwidth_rule::median, bandwidth_sample::x) - 9) < 1e-4);
  CHECK(std::abs(scale_of<D>(ctx, four, none, bandwidth_rule::median_mid, bandwidth_sample::x) - 12.5) < 1e-4);
  CHECK(std::abs(scale_of<D>(ctx, four, none, bandwidth_rule::mean, bandwidth_sample::x) - 230. / 16) < 1e-4);
  CHECK(std::abs(scale_of<D>(ctx, four, none, bandwidth_rule::mean_offdiagonal, bandwidth_sample::x) - 230. / 12) <
        1e-4);
}

TEMPLATE_LIST_TEST_CASE("shift, scale and order of the samples", "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(40, 5, 5)), Y = as_stored<D>(random_reals(25, 5, 6, 0.7));
  for (const auto rule : rules)
    for (const auto sample : samples) {
      INFO("rule " << int(rule) << ", sample " << int(sample));
      const double want = scale_of<D>(ctx, X, Y, rule, sample), off = 2 * allowed<D>(X, Y);
      CHECK(std::abs(scale_of<D>(ctx, 4 * X, 4 * Y, rule, sample) - 16 * want) <= 16 * off);
      CHECK(std::abs(scale_of<D>(ctx, X.colwise().reverse(), Y, rule, sample) - want) <= off);
      if (sample == bandwidth_sample::pooled)
        CHECK(std::abs(scale_of<D>(ctx, Y, X, rule, sample) - want) <= off);
      else  // y plays no part, but for the common centre that rounding is measured from
        CHECK(std::abs(scale_of<D>(ctx, X, 100 * Y, rule, sample) - want) <= off + allowed<D>(X, 100 * Y));
      // Beside a large mean the distances between the stored numbers keep their digits.
      const reals Xm = as_stored<D>(X.array() + 1000), Ym = as_stored<D>(Y.array() + 1000);
      CHECK(std::abs(scale_of<D>(ctx, Xm, Ym, rule, sample) - by_hand(Xm, Ym, rule, sample)) <= allowed<D>(Xm, Ym));
    }
}

TEMPLATE_LIST_TEST_CASE("where the rule gives 0: the mean, then 1", "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  reals X = reals::Constant(9, 2, 0.25), Y = reals::Constant(8, 2, 0.25);
  for (const double value : {0.25, 0.1, 1000.1}) {  // the latter two are no binary fractions
    X.setConstant(value);
    Y.setConstant(value);
    for (const auto rule : rules)
      for (const auto sample : samples) CHECK(scale_of<D>(ctx, X, Y, rule, sample) == 1);
  }
  X.setZero();
  Y.setZero();
  X(8, 0) = 2;
  for (const auto rule : {bandwidth_rule::median, bandwidth_rule::median_mid})
    for (const auto sample : samples) {
      REQUIRE(by_hand(X, Y, rule, sample) == 0);
      const double want = by_hand(X, Y, bandwidth_rule::mean, sample);
      CHECK(std::abs(scale_of<D>(ctx, X, Y, rule, sample) - want) <= allowed<D>(X, Y));
    }
}

TEMPLATE_LIST_TEST_CASE("a scale of numbers that are not finite is refused, asked for or not", "[bandwidth][errors]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  const array<D> x(random_reals(9, 3, 9));
  std::vector<bandwidth_rule> all = rules;
  all.push_back(bandwidth_rule::fixed);
  for (const double bad : {not_a_number, std::numeric_limits<double>::infinity()}) {
    reals values = random_reals(6, 3, 10);
    values(4, 2) = bad;
    const array<D> y(values);
    for (const bool asked : {false, true}) {
      ctx.check_finite(asked);
      for (const auto rule : all)
        for (const auto sample : samples) {
          const auto place = contains("row 4, column 2");
          CHECK_THROWS_AS(craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, sample, false}), craft::data_error);
          CHECK_THROWS_WITH(craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, sample, false}),
                            contains("bandwidth_scale: y has") && place);
          CHECK_THROWS_WITH(craft::bandwidth_scale(ctx, y.in(), x.in(), {rule, sample, false}),
                            contains("bandwidth_scale: x has") && place);
        }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("the scales of public implementations", "[bandwidth][reference]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto check = [&](const char* group, const char* name, const char* aux, bandwidth_rule rule,
                         bandwidth_sample sample, double factor) {
    for (const reference::record& r : reference::cases(group, name)) {
      INFO(r.id());
      const reference::inputs in(r);
      double want = r.aux(aux);
      if (factor == 0) want = 2 * want * want;  // given as sigma
      // Float: the inputs are rounded as well.
      CHECK(std::abs(scale_of<D>(ctx, in.X, in.Y, rule, sample) - want) <= 1e-13 + 2 * allowed<D>(in.X, in.Y));
    }
  };
  check("mmd", "tllib_mkmmd_nonlinear_5k", "M", bandwidth_rule::mean, bandwidth_sample::pooled, 1);
  check("mmd", "jindongwang_deepda_rbf", "B", bandwidth_rule::mean_offdiagonal, bandwidth_sample::pooled, 1);
  check("mmd", "alibi_mmd2_median", "sigma", bandwidth_rule::median, bandwidth_sample::x, 0);
  check("mmd_derived", "derived_bandwidth_mean_offdiag_x_detached_V", "s2", bandwidth_rule::mean_offdiagonal,
        bandwidth_sample::x, 1);
  check("mmd_derived", "derived_bandwidth_median_lower_x_detached_V", "s2", bandwidth_rule::median, bandwidth_sample::x,
        1);
  check("mmd_derived", "derived_bandwidth_mean_all_detached_V", "s2", bandwidth_rule::mean, bandwidth_sample::pooled,
        1);
  check("mmd_derived", "derived_bandwidth_median_lower_detached_V", "s2", bandwidth_rule::median,
        bandwidth_sample::pooled, 1);
  check("mmd_derived", "derived_bandwidth_median_mid_detached_V", "s2", bandwidth_rule::median_mid,
        bandwidth_sample::pooled, 1);
}

TEMPLATE_LIST_TEST_CASE("MMD uses the scale that is reported", "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(12, 5, 7)), Y = as_stored<D>(random_reals(9, 5, 8, 0.7));
  for (const auto rule : rules)
    for (const auto sample : samples) {
      INFO("rule " << int(rule) << ", sample " << int(sample));
      craft::mmd_options options;
      options.bandwidth = {rule, sample, false};
      // The kernel sees D / M.
      const double sigma = 0.8 * std::sqrt(scale_of<D>(ctx, X, Y, rule, sample));
      const double got = run_mmd<D>(ctx, X, Y, craft::gaussian(0.8), options).value,
                   want = run_mmd<D>(ctx, X, Y, craft::gaussian(sigma)).value;
      CHECK(std::abs(got - want) <= 20 * roundoff<typename D::scalar>);
    }
}

TEMPLATE_LIST_TEST_CASE("M is exactly that of the numbers given: no distance for equal rows, and none lost beside a large mean",
                        "[bandwidth]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto scale = [&](const reals& X, const reals& Y, craft::bandwidth_rule rule,
                         craft::bandwidth_sample sample = craft::bandwidth_sample::pooled) {
    const array<D> x(X), y(Y);
    return craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, sample, false});
  };
  // Most rows are one and the same: the median is 0, and M that of the mean.
  reals X = random_reals(6, 16, 71, 3).row(0).replicate(6, 1), Y = random_reals(2, 16, 72, 3);
  CHECK(scale(X, Y, craft::bandwidth_rule::median) == scale(X, Y, craft::bandwidth_rule::mean));
  // All rows are: M is 1.
  for (const auto rule : {craft::bandwidth_rule::mean, craft::bandwidth_rule::mean_offdiagonal, craft::bandwidth_rule::median})
    CHECK(scale(X, X, rule) == 1);
  CHECK(scale(X, Y, craft::bandwidth_rule::mean, craft::bandwidth_sample::x) == 1);
  // Two rows, 12 apart at 5.5e7, which a float holds.
  X = reals::Constant(1, 1, -55004140.0);
  Y = reals::Constant(1, 1, -55004128.0);
  CHECK(scale(X, Y, craft::bandwidth_rule::median) == 144);
  CHECK(scale(X, Y, craft::bandwidth_rule::mean) == 72);
  // x's rows nearly the same, y far away.
  X = reals(2, 1);
  X << 1, 1 + 0x1p-20;
  Y = reals::Constant(1, 1, 0.0);
  CHECK(std::abs(scale(X, Y, craft::bandwidth_rule::mean, craft::bandwidth_sample::x) / 0x1p-41 - 1) <= 1e-3);
}
