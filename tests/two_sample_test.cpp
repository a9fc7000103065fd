// The two-sample test against a permutation test that stores all kernel values: the same permutations, the same
// statistics, the same p-value; and p-values as they must be with and without a difference.
#include "craft/two_sample.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

/// Which rows are x's in each of `count` labellings: all, then the first n, then permutations.
std::vector<std::vector<bool>> labellings(std::uint64_t seed, index_t n, index_t total, index_t count) {
  std::vector<double> labels(std::size_t(count * total), not_a_number);
  const craft::engine::label_step<double> step{seed, n, total, total, count, 0.0, labels.data()};
  for (index_t b = 0; b < count; ++b) step(b);
  std::vector<std::vector<bool>> out;
  for (index_t b = 0; b < count; ++b) {
    out.emplace_back();
    for (index_t i = 0; i < total; ++i) {
      const double label = labels[std::size_t(b * total + i)];
      REQUIRE((label == 0 || label == 1));
      out.back().push_back(label == 1);
    }
  }
  return out;
}

reals stacked(const reals& X, const reals& Y) {
  reals Z(X.rows() + Y.rows(), X.cols());
  Z << X, Y;
  return Z;
}

/// All N x N kernel values, from the definition.
template <class Case>
matrix<long double> kernel_matrix(const Case& c, const reals& Z) {
  const parameters w(c.weights.begin(), c.weights.end()), h(c.bandwidths.begin(), c.bandwidths.end());
  matrix<long double> K(Z.rows(), Z.rows());
  for (index_t i = 0; i < Z.rows(); ++i)
    for (index_t j = 0; j < Z.rows(); ++j) {
      pair_of_samples p;
      p.D = dual((Z.row(i) - Z.row(j)).cast<long double>().squaredNorm());
      p.s = dual(Z.row(i).cast<long double>().dot(Z.row(j).cast<long double>()));
      p.a = dual(Z.row(i).cast<long double>().squaredNorm());
      p.b = dual(Z.row(j).cast<long double>().squaredNorm());
      K(i, j) = c.define(p, w, h).v;
    }
  return K;
}

long double unbiased(const matrix<long double>& K, const std::vector<bool>& is_x) {
  long double within_x = 0, within_y = 0, across = 0, n = 0;
  for (const bool x : is_x) n += x;
  const long double m = K.rows() - n;
  for (index_t i = 0; i < K.rows(); ++i)
    for (index_t j = 0; j < K.rows(); ++j)
      if (i != j) {
        const bool x = is_x[std::size_t(i)];
        (x != is_x[std::size_t(j)] ? across : x ? within_x : within_y) += K(i, j);
      }
  return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - across / (n * m);
}

template <class D, class K>
craft::two_sample_result run(const typename D::context& ctx, const reals& X, const reals& Y, const K& kernel,
                             const craft::two_sample_options& options) {
  const array<D> x(X, 1), y(Y, 2);
  return craft::two_sample_test(ctx, x.in(), y.in(), kernel, options);
}

template <class D, class Case>
void equals_stored(const Case& c, index_t n, index_t m, index_t d, double shift) {
  INFO(c.name << ", n " << n << ", m " << m << ", d " << d);
  const reals X = as_stored<D>(random_reals(n, d, 31) / std::sqrt(double(d))),
              Y = as_stored<D>(random_reals(m, d, 32, shift) / std::sqrt(double(d)));
  craft::two_sample_options options;
  options.permutations = 19;
  options.seed = 5;
  const craft::two_sample_result got = run<D>(D::make(), X, Y, c.kernel(), options);
  REQUIRE(got.permuted.size() == 19);

  const matrix<long double> K = kernel_matrix(c, stacked(X, Y));
  const auto labels = labellings(5, n, n + m, 21);
  const double allowed =
      4 * rounding_of(c.kernel(), X, Y, coefficients(form::unbiased, n, m), roundoff<typename D::scalar>).value;
  CHECK(std::abs(got.statistic - double(unbiased(K, labels[1]))) <= allowed);
  index_t as_large = 0;
  for (std::size_t b = 0; b < 19; ++b) {
    const double want = double(unbiased(K, labels[b + 2]));
    CHECK(std::abs(got.permuted[b] - want) <= allowed);
    as_large += want >= double(unbiased(K, labels[1]));
  }
  CHECK(got.p_value == double(1 + as_large) / 20);
  CHECK(std::abs(got.statistic - run_mmd<D>(D::make(), X, Y, c.kernel(), options_of(form::unbiased), {}, false).value) <=
        allowed);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("all permutations at once equal those of stored kernel values", "[two_sample]", devices) {
  const auto gaussian = std::get<0>(distance_functions());
  const auto energy = std::get<6>(distance_functions());
  const auto dot = std::get<0>(product_functions());
  // 2 rows are the least; from 64 rows on there is more than one tile, the last one short.
  for (const double shift : {0.0, 0.3}) {
    equals_stored<TestType>(gaussian, 2, 3, 1, shift);
    equals_stored<TestType>(gaussian, 70, 61, 5, shift);
    equals_stored<TestType>(energy, 3, 90, 4, shift);
    equals_stored<TestType>(dot, 150, 20, 3, shift);
  }
}

TEMPLATE_LIST_TEST_CASE("a bandwidth rule is that of the pooled sample", "[two_sample]", devices) {
  using D = TestType;
  const reals X = as_stored<D>(random_reals(40, 6, 1)), Y = as_stored<D>(random_reals(33, 6, 2, 0.4));
  for (const auto rule : {craft::bandwidth_rule::median, craft::bandwidth_rule::mean}) {
    craft::two_sample_options by_rule;
    by_rule.permutations = 5;
    by_rule.bandwidth.rule = rule;
    const array<D> x(X), y(Y);
    const double M = craft::bandwidth_scale(D::make(), x.in(), y.in(), by_rule.bandwidth);
    craft::two_sample_options fixed = by_rule;
    fixed.bandwidth = {};
    const auto a = run<D>(D::make(), X, Y, craft::gaussian(0.7), by_rule);
    const auto b = run<D>(D::make(), X, Y, craft::gaussian(0.7 * std::sqrt(M)), fixed);
    const double close = 200 * roundoff<typename D::scalar>;
    CHECK(M > 2);
    CHECK(std::abs(a.statistic - b.statistic) <= close);
    for (std::size_t k = 0; k < a.permuted.size(); ++k) CHECK(std::abs(a.permuted[k] - b.permuted[k]) <= close);
  }
}

TEMPLATE_LIST_TEST_CASE("a small sample against a large one keeps its digits", "[two_sample]", float_devices) {
  using D = TestType;
  const reals X = as_stored<D>(random_reals(3, 2, 7)), Y = as_stored<D>(random_reals(600, 2, 8));
  craft::two_sample_options options;
  options.permutations = 19;
  const auto wide = craft::two_sample_test(craft::cpu(1), X, Y, craft::gaussian(1.0), options);
  for (const bool swapped : {false, true}) {
    const auto got = swapped ? run<D>(D::make(), Y, X, craft::gaussian(1.0), options)
                             : run<D>(D::make(), X, Y, craft::gaussian(1.0), options);
    // A few roundings of kernel values of at most 1. Labels of equal size for both samples would lose another digit.
    CHECK(std::abs(got.statistic - wide.statistic) <= 1e-6);
    for (std::size_t b = 0; b < 19 && !swapped; ++b) CHECK(std::abs(got.permuted[b] - wide.permuted[b]) <= 1e-6);
  }
}

TEST_CASE("permutations deal n of N rows, every row and pair equally often", "[two_sample]") {
  const index_t n = 4, total = 11, count = 20002;
  const auto labels = labellings(3, n, total, count);
  matrix<double> together = matrix<double>::Zero(total, total);
  for (index_t b = 0; b < count; ++b) {
    const auto& is_x = labels[std::size_t(b)];
    CHECK(std::count(is_x.begin(), is_x.end(), true) == (b == 0 ? total : n));
    if (b == 1) CHECK(std::all_of(is_x.begin(), is_x.begin() + n, [](bool x) { return x; }));
    for (index_t i = 0; b > 1 && i < total; ++i)
      for (index_t j = 0; j < total; ++j) together(i, j) += is_x[std::size_t(i)] && is_x[std::size_t(j)];
  }
  // 20000 draws: shares have standard deviations of at most 0.0035, and there are 66 of them.
  for (index_t i = 0; i < total; ++i)
    for (index_t j = 0; j < total; ++j) {
      const double share = i == j ? 4.0 / 11 : 4.0 * 3 / (11 * 10);
      CHECK(std::abs(together(i, j) / 20000 - share) <= 4.5 * 0.0035);
    }
  // Fewer permutations are the first of more; another seed gives others.
  const auto fewer = labellings(3, n, total, 50), others = labellings(4, n, total, 50);
  CHECK(std::equal(fewer.begin(), fewer.end(), labels.begin()));
  int equal = 0;
  for (std::size_t b = 2; b < 50; ++b) equal += fewer[b] == others[b];
  CHECK(equal <= 3);  // of 330 ways to deal
}

TEMPLATE_LIST_TEST_CASE("a clear difference gives the least p-value there is", "[two_sample]", devices) {
  using D = TestType;
  craft::two_sample_options options;
  options.permutations = 99;
  options.bandwidth.rule = craft::bandwidth_rule::median;
  for (const std::uint64_t seed : {0, 1, 2}) {
    options.seed = seed;
    const reals X = random_reals(30, 4, 10 + seed), Y = random_reals(40, 4, 20 + seed, 1);
    const auto got = run<D>(D::make(), X, Y, craft::gaussian(1.0), options);
    CHECK(got.p_value == 1.0 / 100);
    CHECK(got.statistic > *std::max_element(got.permuted.begin(), got.permuted.end()));
  }
}

TEST_CASE("without a difference p-values are uniform", "[two_sample]") {
  craft::two_sample_options options;
  options.permutations = 19;
  options.bandwidth.rule = craft::bandwidth_rule::median;
  const int samples = 1000;
  std::vector<int> found(21);
  for (int s = 0; s < samples; ++s) {
    options.seed = std::uint64_t(s);
    const reals X = random_reals(9, 2, 1000 + std::uint64_t(s)), Y = random_reals(14, 2, 5000 + std::uint64_t(s));
    const double p = craft::two_sample_test(craft::cpu(1), X, Y, craft::gaussian(1.0), options).p_value;
    ++found[std::size_t(std::lround(20 * p))];
  }
  // Each of the 20 values has probability 1 / 20: 50 times with a standard deviation of 6.9. The sum of the squared
  // deviations over 50 is chi-squared with 19 degrees of freedom: below 50.8 but for one time in 10000.
  double chi_squared = 0;
  for (std::size_t k = 1; k <= 20; ++k) chi_squared += (found[k] - 50.0) * (found[k] - 50.0) / 50;
  CHECK(found[0] == 0);
  CHECK(chi_squared < 50.8);
}

TEMPLATE_LIST_TEST_CASE("statistics that are equal but for rounding count as equal", "[two_sample]", devices) {
  using D = TestType;
  craft::two_sample_options options;
  options.permutations = 200;
  // Nothing to tell apart at all.
  for (const auto rule : {craft::bandwidth_rule::fixed, craft::bandwidth_rule::median}) {
    options.bandwidth.rule = rule;
    const reals same = reals::Constant(60, 3, 0.3);
    CHECK(run<D>(D::make(), same.topRows(35), same.bottomRows(25), craft::gaussian(1.0), options).p_value == 1);
  }
  // Three kinds of rows: k is 1 within a kind and q across, so that the statistic is a linear function of whole numbers.
  options.bandwidth.rule = craft::bandwidth_rule::fixed;
  const index_t n = 30, m = 45;
  std::vector<int> kind;
  for (index_t i = 0; i < n + m; ++i) kind.push_back(int((i * i + i / 7) % 3));
  reals Z = reals::Zero(n + m, 3);
  for (index_t i = 0; i < n + m; ++i) Z(i, kind[std::size_t(i)]) = 0.7;
  // (1 - q) times sum_c x_c (x_c - 1) / (n (n - 1)) + y_c (y_c - 1) / (m (m - 1)) - 2 x_c y_c / (n m), plus a constant.
  const auto score = [&](const std::vector<bool>& is_x) {
    std::int64_t sum = 0;
    for (int c = 0; c < 3; ++c) {
      std::int64_t x = 0, y = 0;
      for (std::size_t i = 0; i < kind.size(); ++i) (is_x[i] ? x : y) += kind[i] == c;
      sum += x * (x - 1) * m * (m - 1) + y * (y - 1) * n * (n - 1) - 2 * x * y * (n - 1) * (m - 1);
    }
    return sum;
  };
  const auto labels = labellings(0, n, n + m, 202);
  int as_large = 0, equal = 0;
  for (std::size_t b = 2; b < 202; ++b) {
    as_large += score(labels[b]) >= score(labels[1]);
    equal += score(labels[b]) == score(labels[1]);
  }
  CHECK(equal >= 5);  // or there is nothing to see here
  CHECK(run<D>(D::make(), Z.topRows(n), Z.bottomRows(m), craft::gaussian(1.0), options).p_value ==
        double(1 + as_large) / 201);
}

TEMPLATE_LIST_TEST_CASE("numbers that are not finite are refused, asked for or not", "[two_sample][errors]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const array<D> x(random_reals(6, 2, 1));
  for (const double bad : {not_a_number, infinity, -infinity}) {
    const array<D> y(with(random_reals(5, 2, 2), 3, 1, bad));
    for (const bool asked : {false, true}) {
      ctx.check_finite(asked);
      const watched nothing;
      rejects<craft::data_error>(
          nothing, [&] { craft::two_sample_test(ctx, x.in(), y.in(), craft::gaussian(1.0)); },
          {"two_sample_test", "y has", "row 3", "column 1"});
      rejects<craft::data_error>(
          nothing, [&] { craft::two_sample_test(ctx, y.in(), x.in(), craft::gaussian(1.0)); },
          {"two_sample_test", "x has", "row 3", "column 1"});
    }
  }
}

TEMPLATE_LIST_TEST_CASE("rows so far apart that their distance over the median is beyond the type", "[two_sample][errors]",
                        devices) {
  using D = TestType;
  const bool wide = sizeof(typename D::compute) == 8;
  const double near = wide ? 1e-140 : 1e-12, far = wide ? 1e100 : 1e10;
  const reals X = near * random_reals(5, 2, 1), Y = with(near * random_reals(4, 2, 2), 3, 1, far);
  craft::two_sample_options options;
  options.bandwidth.rule = craft::bandwidth_rule::median;
  const auto test = [&](const typename D::context& on) { return run<D>(on, X, Y, craft::gaussian(1.0), options); };
  if (D::space == craft::memory::device) {
    const craft::two_sample_result got = test(D::make());
    CHECK(std::isnan(got.statistic));
    CHECK(got.p_value == 1);
  }
  auto looking = D::make();
  looking.check_finite(true);
  rejects<craft::data_error>(watched(), [&] { test(looking); }, {"two_sample_test", "x and y / sqrt(M)"});
}

TEMPLATE_LIST_TEST_CASE("the sweep tells how far it is", "[two_sample]", devices) {
  using D = TestType;
  craft::two_sample_options options;
  options.permutations = 3;
  std::vector<index_t> done, all;
  options.progress = [&](index_t part, index_t parts) {
    done.push_back(part);
    all.push_back(parts);
  };
  run<D>(D::make(), random_reals(150, 2, 1), random_reals(100, 2, 2), craft::gaussian(1.0), options);
  REQUIRE(done.size() == 3);  // 250 rows in two blocks of 128
  CHECK(done == std::vector<index_t>{1, 2, 3});
  CHECK(all == std::vector<index_t>{3, 3, 3});
}

TEMPLATE_LIST_TEST_CASE("the two-sample test rejects", "[two_sample][errors]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const array<D> x(random_reals(5, 3, 1)), y(random_reals(4, 3, 2)), one(random_reals(1, 3, 3)),
      wide(random_reals(4, 4, 4)), none(0, 3);
  const auto test = [&](const auto& a, const auto& b, const craft::two_sample_options& o = {}) {
    return [&, o] { craft::two_sample_test(ctx, a.in(), b.in(), craft::gaussian(1.0), o); };
  };
  const watched nothing;
  rejects<craft::shape_error>(nothing, test(x, one), {"two_sample_test", "at least 2 rows", "5 x 3", "1 x 3"});
  rejects<craft::shape_error>(nothing, test(one, x), {"two_sample_test", "at least 2 rows"});
  rejects<craft::shape_error>(nothing, test(x, none), {"two_sample_test", "y is empty"});
  rejects<craft::shape_error>(nothing, test(x, wide), {"two_sample_test", "5 x 3", "4 x 4"});
  craft::two_sample_options options;
  options.permutations = 0;
  rejects<craft::option_error>(nothing, test(x, y, options), {"two_sample_test", "permutation", "got 0"});
  options = {};
  options.bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::x, false};
  rejects<craft::option_error>(nothing, test(x, y, options), {"two_sample_test", "pooled"});
  rejects<craft::option_error>(
      nothing, [&] { craft::two_sample_test(ctx, x.in(), y.in(), craft::gaussian(-1.0)); }, {"gaussian", "sigma"});
}
