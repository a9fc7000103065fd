// Pair functions: values, partial derivatives and derivatives by their parameters against the definitions of
// tests/pair_functions.hpp and against central differences; numbers and vector registers; composition; errors.
#include "craft/kernels.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "catch.hpp"
#include "craft/engine/pack.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

namespace {

/// s, a and b of some pairs: near, far, orthogonal, opposite, of unequal length, in 1 to 9 dimensions.
struct products {
  double s, a, b, D;
};
std::vector<products> some_products() {
  std::vector<products> out;
  for (index_t d : {1, 2, 9}) {
    const reals x = random_reals(12, d, 1 + std::uint64_t(d)), y = random_reals(12, d, 2, 0.3);
    for (index_t i = 0; i < 12; ++i) {
      const double size = 0.2 * double(i + 1) / std::sqrt(double(d));
      const Eigen::RowVectorXd u = size * x.row(i), v = 0.7 * y.row(i);
      out.push_back({u.dot(v), u.squaredNorm(), v.squaredNorm(), (u - v).squaredNorm()});
    }
  }
  return out;
}

template <class K>
struct derivatives {
  craft::pair_partials<double> k;
  std::vector<double> weights, bandwidths;
};

template <class K>
derivatives<K> all_of(const K& kernel, double s, double a, double b) {
  derivatives<K> out{kernel.partials(s, a, b), std::vector<double>(std::size_t(kernel.weights()), not_a_number),
                     std::vector<double>(std::size_t(kernel.bandwidths()), not_a_number)};
  kernel.parameters(
      s, a, b, [&](int q, double v) { out.weights.at(std::size_t(q)) = v; },
      [&](int q, double v) { out.bandwidths.at(std::size_t(q)) = v; });
  return out;
}

// Both sides round a handful of operations, and D = a + b - 2 s loses some digits where x and y are close: 1e-12 of the
// largest thing that went into the number.
bool same(double got, long double want, double size) {
  return std::abs(got - double(want)) <= 1e-12 * (std::abs(double(want)) + size);
}

}  // namespace

TEST_CASE("pair functions equal their definitions, with every derivative", "[kernels]") {
  for_each_pair_function([](const auto& c) {
    INFO(c.name);
    const auto kernel = c.kernel();
    parameters w(c.weights.begin(), c.weights.end()), h(c.bandwidths.begin(), c.bandwidths.end());
    REQUIRE(kernel.weights() == int(w.size()));
    REQUIRE(kernel.bandwidths() == int(h.size()));
    for (const products& p : some_products()) {
      CAPTURE(p.s, p.a, p.b);
      pair_of_samples q{p.D, p.s, p.a, p.b};
      const auto by = [&](dual& variable) {
        variable.e = 1;
        const long double e = c.define(q, w, h).e;
        variable.e = 0;
        return e;
      };
      const auto got = all_of(kernel, p.s, p.a, p.b);
      const long double k = c.define(q, w, h).v, kD = by(q.D), ks = by(q.s), ka = by(q.a), kb = by(q.b);
      CHECK(same(got.k.value, k, 1));
      CHECK(kernel.value(p.s, p.a, p.b) == got.k.value);
      // D = a + b - 2 s
      CHECK(same(got.k.ds, ks - 2 * kD, 1));
      CHECK(same(got.k.da, ka + kD, 1));
      CHECK(same(got.k.db, kb + kD, 1));
      for (std::size_t i = 0; i < w.size(); ++i) CHECK(same(got.weights[i], by(w[i]), 1));
      for (std::size_t i = 0; i < h.size(); ++i) CHECK(same(got.bandwidths[i], by(h[i]), 1));
    }
  });
}

TEST_CASE("derivatives of pair functions agree with central differences of their values", "[kernels]") {
  // Two points and a step t: error about t^2 k''' / 6 + 1e-16 k / t. The third derivative of the narrowest Gaussian of
  // a series reaches some hundreds, of a cosine 1 / a^3: a step of 1e-5 of the smaller of 1, a and b, and no tiny rows.
  const double tolerance = 1e-7;
  for_each_pair_function([&](const auto& c) {
    INFO(c.name);
    const auto kernel = c.kernel();
    for (const products& p : some_products()) {
      // Where a square root or a floor bends the function a difference across the bend says nothing.
      if (!c.smooth && (p.D < 0.1 || std::abs(p.D - 0.5) < 1e-3)) continue;
      if (std::min(p.a, p.b) < 1e-3) continue;
      CAPTURE(p.s, p.a, p.b);
      const double t = 1e-5 * std::min({1.0, p.a, p.b});
      const auto slope = [&](auto&& at) { return (at(t) - at(-t)) / (2 * t); };
      const auto close = [&](double got, double want) {
        return std::abs(got - want) <= tolerance * (1 + std::abs(want));
      };
      const auto got = all_of(kernel, p.s, p.a, p.b);
      CHECK(close(got.k.ds, slope([&](double e) { return kernel.value(p.s + e, p.a, p.b); })));
      CHECK(close(got.k.da, slope([&](double e) { return kernel.value(p.s, p.a + e, p.b); })));
      CHECK(close(got.k.db, slope([&](double e) { return kernel.value(p.s, p.a, p.b + e); })));
      for (std::size_t q = 0; q < c.weights.size(); ++q)
        CHECK(close(got.weights[q], slope([&](double e) {
                      auto w = c.weights;
                      w[q] += e;
                      return c.make(w, c.bandwidths).value(p.s, p.a, p.b);
                    })));
      // A series that is nudged is no series any more: this also compares its one exponential with several.
      for (std::size_t q = 0; q < c.bandwidths.size(); ++q)
        CHECK(close(got.bandwidths[q], slope([&](double e) {
                      auto h = c.bandwidths;
                      h[q] += e;
                      return c.make(c.weights, h).value(p.s, p.a, p.b);
                    })));
    }
  });
}

TEST_CASE("at zero distance everything is finite, and a square root has slope 0", "[kernels]") {
  for_each_pair_function([](const auto& c) {
    INFO(c.name);
    const auto kernel = c.kernel();
    using K = std::decay_t<decltype(kernel)>;
    // Rounding: a + b - 2 s a little below zero counts as zero.
    for (const double below : {0.0, 1e-17, 1e-9}) {
      const double a = 0.25;
      const auto got = all_of(kernel, a + below, a, a);
      CHECK(std::isfinite(got.k.value));
      CHECK(std::isfinite(got.k.ds));
      CHECK(std::isfinite(got.k.da));
      CHECK(std::isfinite(got.k.db));
      for (double v : got.weights) CHECK(std::isfinite(v));
      for (double v : got.bandwidths) CHECK(std::isfinite(v));
      if (K::translation_invariant) {
        const auto zero = all_of(kernel, a, a, a);
        CHECK(got.k.value == zero.k.value);
        CHECK(got.k.ds == zero.k.ds);
      }
    }
  });
  const auto slope_at = [](const auto& kernel, double D) { return kernel.partials(-D / 2, 0.0, 0.0).da; };
  CHECK(slope_at(craft::laplacian(1.3), 0.0) == 0);
  CHECK(slope_at(craft::energy<>(), 0.0) == 0);
  CHECK(slope_at(craft::negative_distance(0.5), 0.5) == 0);
  CHECK(slope_at(craft::negative_distance(0.5), 0.3) == 0);
  CHECK(slope_at(craft::negative_distance(0.5), 0.6) < 0);
  CHECK(slope_at(craft::laplacian(1.3, 0.5), 0.5) == 0);
  CHECK(slope_at(craft::laplacian(1.3, 0.5), 0.6) < 0);
  // A bounded slope is kept.
  CHECK(slope_at(craft::gaussian(2.0), 0.0) == -0.125);
}

TEST_CASE("cosine of a zero row is 0 with zero derivatives", "[kernels]") {
  for (const auto& [a, b] : std::vector<std::pair<double, double>>{{0, 2}, {2, 0}, {0, 0}}) {
    const auto k = craft::cosine<>().partials(0.0, a, b);
    CHECK(k.value == 0);
    CHECK(k.ds == 0);
    CHECK(k.da == 0);
    CHECK(k.db == 0);
  }
}

namespace {

// A register gives in each place what a number gives. Eigen's exp and log for registers are its own, a few units in the
// last place away from the C library's; the 16th power in a series multiplies that by 16. Its exponential is never below the smallest
// number, where the C library's is 0; times D / sigma^3 that may be a thousand times it.
template <class T, class Case>
void registers_equal_numbers(const Case& c) {
  using V = craft::engine::pack<T>;
  const double tolerance = 128 * std::numeric_limits<T>::epsilon();
  const auto kernel = c.kernel().template as<T>();
  constexpr index_t width = V::width;
  std::vector<products> all = some_products();
  all.push_back({0.25, 0.25, 0.25, 0});         // no distance
  all.push_back({0.25 + 1e-9, 0.25, 0.25, 0});  // less than none
  all.push_back({0, 0, 1, 1});                  // a zero row
  all.push_back({0, 1, 0, 1});
  all.push_back({0, 0, 0, 0});
  all.push_back({-200, 200, 200, 800});  // exponentials that vanish
  const double denormal = double(std::numeric_limits<T>::min()) / 40;
  all.push_back({0, 0, denormal, denormal});
  while (all.size() % std::size_t(width) != 0) all.push_back(all.front());
  const auto check = [&](const V& got, index_t lane, T want) {
    T numbers[width];
    got.store(numbers);
    const double vanished = sizeof(T) == 4 && want == T(0) ? 4e3 * double(std::numeric_limits<T>::min()) : 0;
    const double size = std::max(1e-30, std::abs(double(want)));
    CHECK(std::abs(double(numbers[lane]) - double(want)) <= tolerance * size + vanished);
  };
  for (std::size_t start = 0; start < all.size(); start += std::size_t(width)) {
    T s[width], a[width], b[width];
    for (index_t lane = 0; lane < width; ++lane) {
      s[lane] = T(all[start + std::size_t(lane)].s);
      a[lane] = T(all[start + std::size_t(lane)].a);
      b[lane] = T(all[start + std::size_t(lane)].b);
    }
    const V vs = V::load(s), va = V::load(a), vb = V::load(b);
    const auto k = kernel.partials(vs, va, vb);
    const V value = kernel.value(vs, va, vb);
    std::map<int, V> weights, bandwidths;
    kernel.parameters(
        vs, va, vb, [&](int q, V v) { weights[q] = v; }, [&](int q, V v) { bandwidths[q] = v; });
    CHECK(int(weights.size()) == kernel.weights());
    CHECK(int(bandwidths.size()) == kernel.bandwidths());
    for (index_t lane = 0; lane < width; ++lane) {
      CAPTURE(s[lane], a[lane], b[lane]);
      const auto want = kernel.partials(s[lane], a[lane], b[lane]);
      check(value, lane, want.value);
      check(k.value, lane, want.value);
      check(k.ds, lane, want.ds);
      check(k.da, lane, want.da);
      check(k.db, lane, want.db);
      kernel.parameters(
          s[lane], a[lane], b[lane], [&](int q, T v) { check(weights.at(q), lane, v); },
          [&](int q, T v) { check(bandwidths.at(q), lane, v); });
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a vector register of pairs gives what numbers give", "[kernels]", float, double) {
  for_each_pair_function([](const auto& c) {
    INFO(c.name);
    registers_equal_numbers<TestType>(c);
  });
}

TEST_CASE("parameters stored as float: the same kernel to float's digits", "[kernels]") {
  for_each_pair_function([](const auto& c) {
    INFO(c.name);
    const auto wide = c.kernel();
    const auto narrow = wide.template as<float>();
    CHECK(narrow.weights() == wide.weights());
    CHECK(narrow.bandwidths() == wide.bandwidths());
    for (const products& p : some_products()) {
      if (p.D < 0.01) continue;  // there float's a + b - 2 s has few digits left
      CAPTURE(p.s, p.a, p.b);
      const float s = float(p.s), a = float(p.a), b = float(p.b);
      const auto got = narrow.partials(s, a, b);
      const auto want = wide.partials(double(s), double(a), double(b));
      // Rounded parameters and distance change the exponent of the narrowest kernel by about 20 roundings.
      const auto close = [](float g, double v) { return std::abs(double(g) - v) <= 3e-6 * (1 + std::abs(v)); };
      CHECK(close(got.value, want.value));
      CHECK(close(got.ds, want.ds));
      CHECK(close(got.da, want.da));
      CHECK(close(got.db, want.db));
    }
  });
}

TEST_CASE("a geometric series of bandwidths is recognised, whatever its order", "[kernels]") {
  const auto ratio = [](std::vector<double> variances) {
    for (double& v : variances) v = std::sqrt(v);
    return craft::gaussians<>(variances).ratio;
  };
  CHECK(ratio({0.25, 0.5, 1, 2, 4}) == 2);
  CHECK(ratio({2, 0.25, 4, 1, 0.5}) == 2);
  CHECK(ratio({1, 3, 9, 27}) == 3);
  CHECK(ratio({1, 4, 16}) == 4);
  CHECK(ratio({1, 2, 4, 9}) == 0);
  CHECK(ratio({1, 2, 6}) == 0);
  CHECK(ratio({1, 1, 1}) == 0);
  CHECK(ratio({1, 1.5, 2.25}) == 0);
  CHECK(ratio({1}) == 0);
  CHECK(craft::gaussians<>({0.5, 1, 2}).as<float>().ratio == 4);  // decided before rounding
}

TEST_CASE("sum, mean and weights of Gaussians", "[kernels]") {
  const craft::gaussians<> sum({0.5, 1.0, 2.0}), mean = craft::gaussians<>::mean({0.5, 1.0, 2.0});
  const double s = 0.1, a = 0.7, b = 0.4, D = a + b - 2 * s;
  const double want = std::exp(-D / 0.5) + std::exp(-D / 2) + std::exp(-D / 8);
  CHECK(std::abs(sum.value(s, a, b) - want) < 1e-15);
  CHECK(std::abs(mean.value(s, a, b) - want / 3) < 1e-15);
  // Parameters come back in the caller's order.
  const craft::gaussians<> mixed({1.0, 2.0, 0.5}, {0.1, 0.2, 0.3});
  std::vector<double> weight(3, not_a_number);
  mixed.parameters(
      s, a, b, [&](int q, double v) { weight.at(std::size_t(q)) = v; }, [](int, double) {});
  CHECK(std::abs(weight[0] - std::exp(-D / 2)) < 1e-15);
  CHECK(std::abs(weight[1] - std::exp(-D / 8)) < 1e-15);
  CHECK(std::abs(weight[2] - std::exp(-D / 0.5)) < 1e-15);
}

TEST_CASE("sums and weighted sums of pair functions are pair functions", "[kernels]") {
  const auto k = 0.5 * craft::gaussian(1.0) + 2.0 * (craft::laplacian(0.7) + 3.0 * craft::rational_quadratic(1.0, 2.0));
  static_assert(craft::is_pair_function<std::decay_t<decltype(k)>>::value, "");
  static_assert(std::decay_t<decltype(k)>::translation_invariant, "");
  static_assert(!decltype(craft::gaussian(1.0) + craft::dot_product<>())::translation_invariant, "");
  static_assert(!decltype(2.0 * craft::cosine<>())::translation_invariant, "");
  static_assert(craft::is_pair_function<matern32<double>>::value, "a caller's own");
  static_assert(craft::is_pair_function<matern32<float>>::value, "a caller's own");
  static_assert(!craft::is_pair_function<double>::value, "");
  static_assert(!craft::is_pair_function<std::vector<double>>::value, "");
  CHECK(k.weights() == 3);
  CHECK(k.bandwidths() == 4);
  const double s = 0.1, a = 0.7, b = 0.4;
  const double g = craft::gaussian(1.0).value(s, a, b), l = craft::laplacian(0.7).value(s, a, b),
               r = craft::rational_quadratic(1.0, 2.0).value(s, a, b);
  CHECK(std::abs(k.value(s, a, b) - (0.5 * g + 2 * (l + 3 * r))) < 1e-15);
  const auto got = all_of(k, s, a, b);
  CHECK(std::abs(got.weights[0] - g) < 1e-15);
  CHECK(std::abs(got.weights[1] - (l + 3 * r)) < 1e-15);
  CHECK(std::abs(got.weights[2] - 2 * r) < 1e-15);
  const auto q = all_of(craft::rational_quadratic(1.0, 2.0), s, a, b);
  CHECK(std::abs(got.bandwidths[0] - 0.5 * all_of(craft::gaussian(1.0), s, a, b).bandwidths[0]) < 1e-15);
  CHECK(std::abs(got.bandwidths[1] - 2 * all_of(craft::laplacian(0.7), s, a, b).bandwidths[0]) < 1e-15);
  CHECK(std::abs(got.bandwidths[2] - 6 * q.bandwidths[0]) < 1e-14);
  CHECK(std::abs(got.bandwidths[3] - 6 * q.bandwidths[1]) < 1e-14);
  const auto narrow = k.as<float>();
  static_assert(std::is_same_v<decltype(narrow.first.kernel.sigma), float>, "");
  CHECK(std::abs(double(narrow.value(0.1f, 0.7f, 0.4f)) - k.value(s, a, b)) < 1e-5);
}

TEST_CASE("whole numbers are parameters too", "[kernels]") {
  CHECK((std::is_same_v<decltype(craft::gaussian(1)), craft::gaussian<double>>));
  CHECK((std::is_same_v<decltype(craft::gaussian(1.f)), craft::gaussian<float>>));
  CHECK((std::is_same_v<decltype(craft::rational_quadratic(1, 2)), craft::rational_quadratic<double>>));
  CHECK((std::is_same_v<decltype(craft::laplacian(1, 0)), craft::laplacian<double>>));
  CHECK(craft::gaussian(2).value(0.0, 1.0, 1.0) == std::exp(-0.25));
}

TEST_CASE("parameters outside their range are errors", "[kernels][errors]") {
  using craft::option_error;
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, not_a_number, infinity, -infinity}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(craft::gaussian(bad).check(), option_error);
    CHECK_THROWS_AS(craft::laplacian(bad).check(), option_error);
    CHECK_THROWS_AS(craft::inverse_multiquadric(bad).check(), option_error);
    CHECK_THROWS_AS(craft::rational_quadratic(bad, 1.0).check(), option_error);
    CHECK_THROWS_AS(craft::rational_quadratic(1.0, bad).check(), option_error);
    CHECK_THROWS_AS(craft::gaussians<>({1.0, bad}), option_error);
    CHECK_THROWS_AS((2.0 * craft::gaussian(bad)).check(), option_error);
    CHECK_THROWS_AS((craft::energy<>() + craft::gaussian(bad)).check(), option_error);
    CHECK_THROWS_AS((craft::gaussian(bad) + craft::energy<>()).check(), option_error);
  }
  for (const double bad : {-1e-9, not_a_number, infinity}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(craft::laplacian(1.0, bad).check(), option_error);
    CHECK_THROWS_AS(craft::inverse_multiquadric(1.0, bad).check(), option_error);
    CHECK_THROWS_AS(craft::negative_distance(bad).check(), option_error);
  }
  for (const double bad : {not_a_number, infinity}) {
    CAPTURE(bad);
    CHECK_THROWS_AS((bad * craft::gaussian(1.0)).check(), option_error);
    CHECK_THROWS_AS(craft::gaussians<>({1.0, 2.0}, {1.0, bad}), option_error);
  }
  CHECK_THROWS_AS(craft::gaussians<>(std::vector<double>{}), option_error);
  CHECK_THROWS_AS(craft::gaussians<>(std::vector<double>(65, 1.0)), option_error);
  CHECK_THROWS_AS(craft::gaussians<>({1.0, 2.0}, {1.0}), option_error);
  CHECK_NOTHROW(craft::gaussians<>(std::vector<double>(64, 1.0)).check());
  // Zero and negative weights, and floors of 0, are in range.
  CHECK_NOTHROW((0.0 * craft::gaussian(1.0)).check());
  CHECK_NOTHROW(craft::gaussians<>({1.0, 2.0}, {0.0, -1.0}).check());
  CHECK_NOTHROW(craft::laplacian(1.0, 0.0).check());
  // The message names the kernel, the parameter and what came.
  try {
    craft::gaussian(-2.5).check();
    FAIL("no error");
  } catch (const option_error& e) {
    const std::string text = e.what();
    CAPTURE(text);
    CHECK(text.find("gaussian") != std::string::npos);
    CHECK(text.find("sigma") != std::string::npos);
    CHECK(text.find("-2.5") != std::string::npos);
  }
}

TEST_CASE("a series of bandwidths is recognised in either precision", "[kernels]") {
  const std::vector<double> sigmas{std::sqrt(0.125), 0.5, std::sqrt(0.5), 1.0, std::sqrt(2.0)};
  const craft::gaussians<double> in_double(sigmas);
  const craft::gaussians<float> in_float(std::vector<float>(sigmas.begin(), sigmas.end()));
  CHECK(in_double.ratio == 2);
  CHECK(in_double.as<float>().ratio == 2);
  CHECK(in_float.ratio == 2);
  // In double, float's roundings are no series.
  CHECK(in_float.as<double>().ratio == 0);
  CHECK(craft::gaussians<float>({1.0f, 3.0f}).ratio == 0);  // 9 is beyond what powers are used for
  CHECK(craft::gaussians<float>({1.0f, 1.5f, 2.0f}).ratio == 0);
}
