// The kernel inception distance: subset by subset against the definition, MMD^2 of all rows where a subset is all of them, and
// what is refused.
#include "craft/kernel_inception_distance.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

using options = craft::kernel_inception_distance_options;
using exact = matrix<long double>;

exact rows_of(const reals& x, const std::vector<index_t>& rows) {
  exact out(index_t(rows.size()), x.cols());
  for (index_t i = 0; i < out.rows(); ++i) out.row(i) = x.row(rows[std::size_t(i)]).cast<long double>();
  return out;
}
long double power(long double base, index_t degree) {
  long double out = 1;
  for (index_t p = 0; p < degree; ++p) out *= base;
  return out;
}
/// Unbiased MMD^2, and the mean of |k|, by which its rounding is judged.
std::pair<double, double> by_definition(const exact& x, const exact& y, const options& o) {
  const long double length = o.length > 0 ? o.length : std::sqrt((long double)(x.cols()));
  const index_t n = x.rows();
  long double sum = 0, size = 0;
  const auto k = [&](const auto& a, const auto& b) { return power(a.dot(b) / (length * length) + o.offset, o.degree); };
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) {
      const long double within = i == j ? 0 : (k(x.row(i), x.row(j)) + k(y.row(i), y.row(j))) / (n * (n - 1));
      const long double across = 2 * k(x.row(i), y.row(j)) / (n * n);
      sum += within - across, size += std::abs(within) + std::abs(across);
    }
  return {double(sum), double(size)};
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("kernel_inception_distance is mean and deviation over subsets", "[kid]", devices) {
  using D = TestType;
  const reals X = as_stored<D>(random_reals(30, 7, 1)), Y = as_stored<D>(random_reals(23, 7, 2, 0.4));
  const array<D> x(X, 1), y(Y, 2);
  options o;
  o.subsets = 4, o.subset_size = 11, o.seed = 9;
  const bool plain = GENERATE(true, false);
  if (!plain) o.degree = 2, o.length = 1.5, o.offset = 0.25;
  const auto got = craft::kernel_inception_distance(D::make(), x.in(), y.in(), o);
  REQUIRE(got.values.size() == 4);
  double mean = 0, squares = 0;
  for (index_t q = 0; q < 4; ++q) {
    const auto of_x = craft::random_anchors(30, 11, 9, std::uint64_t(2 * q)), of_y = craft::random_anchors(23, 11, 9, std::uint64_t(2 * q + 1));
    CHECK(std::set<index_t>(of_x.begin(), of_x.end()).size() == 11);
    const auto [want, size] = by_definition(rows_of(X, of_x), rows_of(Y, of_y), o);
    CHECK(std::abs(got.values[std::size_t(q)] - want) <= 8 * (7 + 4) * roundoff<typename D::scalar> * size);
    mean += got.values[std::size_t(q)] / 4;
  }
  for (const double v : got.values) squares += (v - mean) * (v - mean);
  CHECK(std::abs(got.mean - mean) <= 1e-14 * std::abs(mean));
  CHECK(std::abs(got.deviation - std::sqrt(squares / 4)) <= 1e-14 * got.deviation);
  CHECK(*std::min_element(got.values.begin(), got.values.end()) < *std::max_element(got.values.begin(), got.values.end()));
  // The first ones of a seed whatever their number; others of another.
  o.subsets = 2;
  const auto fewer = craft::kernel_inception_distance(D::make(), x.in(), y.in(), o);
  CHECK(fewer.values == std::vector<double>(got.values.begin(), got.values.begin() + 2));
  o.seed = 10;
  CHECK(craft::kernel_inception_distance(D::make(), x.in(), y.in(), o).values != fewer.values);
}

TEMPLATE_LIST_TEST_CASE("kernel_inception_distance of all rows is mmd by presets::kid", "[kid]", double_devices) {
  using D = TestType;
  const array<D> x(random_reals(12, 5, 3)), y(random_reals(12, 5, 4, 0.3));
  array<D> value(1, 1);
  const auto ctx = D::make();
  const auto kid = craft::presets::kid(5);
  craft::mmd(ctx, x.in(), y.in(), kid.kernel, kid.options, value.as_value());
  options o;
  o.subsets = 3, o.subset_size = 12;
  const auto all = craft::kernel_inception_distance(ctx, x.in(), y.in(), o);  // in another order each time
  for (const double v : all.values) CHECK(std::abs(v - value.number()) <= 1e-13);
  CHECK(all.deviation <= 1e-13);
}

TEST_CASE("kernel_inception_distance has the defaults of those who published it", "[kid]") {
  const options o;
  CHECK((o.subsets == 100 && o.subset_size == 1000 && o.degree == 3 && o.length == 0 && o.offset == 1));
}

TEMPLATE_LIST_TEST_CASE("kernel_inception_distance says what is wrong", "[kid][errors]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  reals bad = random_reals(6, 3, 1);
  bad(2, 1) = not_a_number;
  const array<D> x(random_reals(6, 3, 1)), y(random_reals(5, 3, 2)), narrow(random_reals(6, 2, 3)), nan(bad);
  const watched nothing;
  const auto call = [&](const array<D>& rows, const array<D>& others, const options& o) {
    craft::kernel_inception_distance(ctx, rows.in(), others.in(), o);
  };
  options o;
  rejects<craft::shape_error>(nothing, [&] { call(x, y, o); }, {"subsets of 1000 rows cannot be drawn from 6 x 3 and 5 x 3"});
  o.subset_size = 6;
  rejects<craft::shape_error>(nothing, [&] { call(x, y, o); }, {"subsets of 6 rows"});
  o.subset_size = 5;
  CHECK_NOTHROW(call(x, y, o));
  rejects<craft::shape_error>(nothing, [&] { call(x, narrow, o); }, {"columns must agree"});
  rejects<craft::data_error>(nothing, [&] { call(nan, y, o); }, {"kernel_inception_distance: x"});
  rejects<craft::data_error>(nothing, [&] { call(x, nan, o); }, {"kernel_inception_distance: y"});
  o.subset_size = 1;
  rejects<craft::option_error>(nothing, [&] { call(x, y, o); }, {"subsets need at least 2 rows, got 1"});
  o.subset_size = 5, o.subsets = 0;
  rejects<craft::option_error>(nothing, [&] { call(x, y, o); }, {"expected at least 1 subset, got 0"});
  o.subsets = 1;
  for (const index_t degree : {index_t(0), index_t(33), index_t(1) << 40}) {
    o.degree = degree;
    rejects<craft::option_error>(nothing, [&] { call(x, y, o); }, {"degree must lie between 1 and 32"});
  }
  o.degree = 3, o.length = -1;
  rejects<craft::option_error>(nothing, [&] { call(x, y, o); }, {"length must be positive, got -1"});
}
