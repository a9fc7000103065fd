// The uniformity loss: by its definition, by differences, where features have collapsed, and what it refuses.
#include "craft/uniformity.hpp"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

struct result {
  double value;
  reals x;
};
template <class D>
result run(const reals& x, const craft::uniformity_options& options, bool gradients = true) {
  const auto ctx = D::make();
  const array<D> dx(x);
  array<D> gx(x.rows(), x.cols());
  array<D, typename D::compute> value(1, 1);
  craft::uniformity_gradients<typename D::scalar, D::space> g;
  if (gradients) g.x = craft::overwrite(gx.out());
  craft::uniformity(ctx, dx.in(), options, value.as_value(), g);
  return {value.number(), gx.get()};
}

using exact = matrix<long double>;

exact unit_rows(const reals& x) {
  exact u = x.cast<long double>();
  for (index_t i = 0; i < u.rows(); ++i)
    if (const long double norm = u.row(i).norm(); norm > 0) u.row(i) /= norm;
  return u;
}
/// By two loops in long double: the value, and the gradient written out from the formula.
result by_definition(const reals& x, double t) {
  const exact u = unit_rows(x);
  const index_t n = x.rows();
  long double sum = 0;
  exact by_unit = exact::Zero(n, x.cols());
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      if (i == j) continue;
      const long double k = std::exp(-(long double)(t) * (u.row(i) - u.row(j)).squaredNorm());
      sum += k;
      by_unit.row(i) -= 4 * (long double)(t) * k * (u.row(i) - u.row(j));
    }
  reals g = reals::Zero(n, x.cols());
  for (index_t i = 0; i < n; ++i) {
    const long double norm = x.row(i).cast<long double>().norm(), along = by_unit.row(i).dot(u.row(i));
    if (norm > 0) g.row(i) = ((by_unit.row(i) - along * u.row(i)) / (sum * norm)).template cast<double>();
  }
  return {double(std::log(sum / (double(n) * double(n - 1)))), g};
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("uniformity is the logarithm of a mean over all pairs", "[uniformity]", devices) {
  using D = TestType;
  const index_t n = GENERATE(2, 7, 45);
  const double t = GENERATE(0.5, 2.0, 20.0), eps = roundoff<typename D::scalar>;
  reals x = random_reals(n, 19, 1);
  if (n == 7) x.row(3).setZero(), x.row(5) = x.row(2);
  x = as_stored<D>(x);
  const result want = by_definition(x, t), got = run<D>(x, {t});
  INFO("n " << n << ", t " << t);
  // Squared distances of at most 4, each right to (d + 8) roundings, times t, are what the exponential sees.
  const double lost = 4 * t * (19 + 8) * eps;
  CHECK(std::abs(got.value - want.value) <= lost);
  CHECK(relative_distance(got.x, want.x) <= lost + 64 * eps);
  CHECK(run<D>(x, {t}, false).value == got.value);
}

TEMPLATE_LIST_TEST_CASE("uniformity of features that have collapsed keeps its digits", "[uniformity]", devices) {
  using D = TestType;
  // All rows point almost one way: what is left of their differences is in the last digits of unit rows.
  const double spread = std::is_same_v<typename D::compute, float> ? 1e-2 : 1e-6;
  reals x = spread * random_reals(31, 8, 2);
  x.col(0).array() += 3;
  x = as_stored<D>(x);
  const result want = by_definition(x, 2), got = run<D>(x, {2});
  CHECK(std::abs(got.value - want.value) <= 1e-3 * std::abs(want.value) + 64 * roundoff<typename D::scalar>);
  CHECK(relative_distance(got.x, want.x) <= 2e-3);
}

TEMPLATE_LIST_TEST_CASE("uniformity: gradients by finite differences", "[uniformity][gradient]", double_devices) {
  using D = TestType;
  reals x = random_reals(9, 6, 5);
  craft::uniformity_options o;
  const result r = run<D>(x, o);
  CHECK(craft::uniformity_options().t == 2);
  check_by_differences<D>([&] { return run<D>(x, o, false).value; }, {{"x", x.data(), x.size(), r.x.data()}});
  o.upstream = -2.5;  // of the gradient alone
  const result scaled = run<D>(x, o);
  CHECK(scaled.value == r.value);
  CHECK(relative_distance(scaled.x, -2.5 * r.x) <= 1e-14);
}

TEMPLATE_LIST_TEST_CASE("uniformity adds its gradient to what is there", "[uniformity][gradient]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals X = random_reals(6, 4, 7);
  const array<D> x(X);
  array<D> gx(6, 4, 1.5), value(1, 1);
  craft::uniformity_gradients<double, D::space> g;
  g.x = craft::accumulate(gx.out());
  craft::uniformity(ctx, x.in(), {}, value.as_value(), g);
  CHECK(relative_distance(gx.get(), (run<D>(X, {}).x.array() + 1.5).matrix()) <= 1e-15);
}

TEMPLATE_LIST_TEST_CASE("uniformity says what is wrong", "[uniformity][errors]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const array<D> x(random_reals(4, 3, 1)), one(random_reals(1, 3, 2));
  array<D> wrong(4, 4, sentinel), value(1, 1, sentinel);
  const watched outputs(wrong, value);
  const auto call = [&](const array<D>& rows, double t, const craft::uniformity_gradients<double, D::space>& g) {
    craft::uniformity(ctx, rows.in(), {t}, value.as_value(), g);
  };
  rejects<craft::shape_error>(outputs, [&] { call(one, 2, {}); }, {"uniformity", "at least 2 rows", "1 x 3"});
  for (const double t : {0.0, -1.0, 176.0, not_a_number})
    rejects<craft::option_error>(outputs, [&] { call(x, t, {}); }, {"uniformity: t must lie in (0, 175]"});
  rejects<craft::shape_error>(outputs, [&] { call(x, 2, {craft::overwrite(wrong.out())}); }, {"gradient of x", "4 x 3", "4 x 4"});
}
