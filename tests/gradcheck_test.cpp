// The gradient checker itself: right gradients agree, wrong ones never do, and what cannot be measured is said to be
// unresolved. Functions and gradients here are written out by hand; nothing else of the library is used.
#include "craft/gradcheck.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"

using craft::gradcheck;
using craft::gradcheck_options;
using craft::gradcheck_report;
using craft::index_t;
using craft::verdict;

namespace {

/// f = mean_i c_i (x_i + x_i^3 / 3) + exp(mean of x / 2), a smooth function in which every number counts.
template <class T>
struct smooth {
  std::vector<T> x, gradient;

  explicit smooth(int n, unsigned seed = 7) : x(n), gradient(n) {
    std::mt19937 random(seed);
    for (T& v : x) v = T(double(random()) / 4294967296.0 * 2 - 1);
    double mean = 0;
    for (T v : x) mean += double(v) / n;
    for (int i = 0; i < n; ++i) {
      const double v = double(x[i]);
      gradient[i] = T((coefficient(i) * (1 + v * v) + std::exp(mean / 2) / 2) / n);
    }
  }
  static double coefficient(int i) { return 1 + (i % 7) * 0.25; }
  double operator()() const {
    const int n = int(x.size());
    double sum = 0, mean = 0;
    for (int i = 0; i < n; ++i) {
      const double v = double(x[i]);
      sum += coefficient(i) * (v + v * v * v / 3) / n;
      mean += v / n;
    }
    return sum + std::exp(mean / 2);
  }
  gradcheck_report check(const gradcheck_options& options = {}) {
    return gradcheck<T>(*this, {{"x", x.data(), index_t(x.size()), gradient.data()}}, options);
  }
};

/// One number, its gradient, and a function of it.
template <class T, class F>
gradcheck_report check_at(T x, T gradient, F f, const gradcheck_options& options = {}) {
  return gradcheck<T>([&] { return f(x); }, {{"x", &x, 1, &gradient}}, options);
}

gradcheck_options random_directions(index_t count) {
  gradcheck_options options;
  options.directions = count;
  return options;
}

}  // namespace

TEMPLATE_TEST_CASE("right gradients agree", "[gradcheck]", float, double) {
  using T = TestType;
  for (int n : {1, 2, 30}) {
    smooth<T> f(n);
    const gradcheck_report report = f.check();
    INFO(report);
    CHECK(report);
    CHECK(report.same_bits);
    CHECK(report.checked == n);
    CHECK(report.worst.size() == std::size_t(std::min(n, 5)));
    CHECK(report.cosine == Approx(1).epsilon(1e-5));
    CHECK(report.norm_ratio == Approx(1).epsilon(1e-3));
    CHECK(f.check(random_directions(4)));
  }
  CHECK(check_at<T>(T(0.7), T(std::exp(0.7)), [](T x) { return std::exp(x); }));
  CHECK(check_at<T>(T(-3), T(29), [](T x) { return x * x * x + 2 * x; }));
  CHECK(check_at<T>(T(5), T(0), [](T) { return 0.0; }));
}

TEST_CASE("numeric slopes are as good as they claim to be", "[gradcheck]") {
  for (double x : {0.0, 1e-9, 0.3, -2.0, 40.0}) {
    const auto report = check_at<double>(x, std::cos(x), [](double v) { return std::sin(v); });
    INFO(report);
    REQUIRE(report);
    CHECK(std::abs(report.worst[0].numeric - std::cos(x)) <= report.worst[0].uncertainty);
    CHECK(report.worst[0].uncertainty < 1e-8);
    CHECK(report.worst[0].step > 0);
  }
}

TEMPLATE_TEST_CASE("ill-scaled coordinates", "[gradcheck]", float, double) {
  using T = TestType;
  for (bool mixed_signs : {false, true}) {
    std::vector<T> x, gradient, scale;
    for (int i = -6; i <= 6; ++i) {
      scale.push_back(T(std::pow(10.0, i) * (mixed_signs && i % 2 != 0 ? -1 : 1)));
      x.push_back(T(0.8) * scale.back());
      gradient.push_back(T(std::exp(double(x.back()) / double(scale.back())) / double(scale.back())));
    }
    const auto f = [&] {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += std::exp(double(x[i]) / double(scale[i]));
      return sum;
    };
    const auto check = [&] { return gradcheck<T>(f, {{"x", x.data(), index_t(x.size()), gradient.data()}}); };
    {
      const auto report = check();
      INFO(report);
      CHECK(report);
    }
    // The gradient reaches from 1e-6 to 1e6; a wrong entry is found wherever it is.
    for (T& g : gradient) {
      const T right = g;
      for (T wrong : {T(0), -right, 2 * right}) {
        g = wrong;
        INFO(wrong << " for " << right);
        CHECK(check().verdict == verdict::disagrees);
      }
      g = right;
    }
  }
}

TEST_CASE("blocks are named and checked together", "[gradcheck]") {
  std::vector<double> x{0.5, -1, 2}, dx(3);
  double scale = 1.5, dscale = 0;
  const auto f = [&] { return scale * (std::sin(x[0]) + x[1] * x[2]); };
  dx = {scale * std::cos(x[0]), scale * x[2], scale * x[1]};
  dscale = std::sin(x[0]) + x[1] * x[2];
  CHECK(gradcheck<double>(f, {{"features", x.data(), 3, dx.data()}, {"log_scale", &scale, 1, &dscale}}));
  dscale *= 1.001;
  const auto report = gradcheck<double>(f, {{"features", x.data(), 3, dx.data()}, {"log_scale", &scale, 1, &dscale}});
  CHECK(report.verdict == verdict::disagrees);
  CHECK(report.checked == 4);
  REQUIRE(report.worst.size() == 4);
  CHECK(report.worst[0].name == "log_scale");
  CHECK(report.worst[0].index == 0);
  CHECK(report.worst[0].analytic == dscale);
  CHECK(report.worst[0].numeric == Approx(dscale / 1.001).epsilon(1e-9));
  CHECK(report.worst[0].absolute == Approx(std::abs(dscale - dscale / 1.001)).epsilon(1e-5));
  CHECK(report.worst[0].relative == Approx(0.001 / 1.001).epsilon(1e-5));
  CHECK(report.worst[0].result == verdict::disagrees);
  CHECK(report.worst[1].result == verdict::agrees);
}

TEMPLATE_TEST_CASE("wrong gradients disagree", "[gradcheck]", float, double) {
  using T = TestType;
  for (index_t directions : {0, 3}) {
    const auto verdict_of = [&](T factor, T offset) {
      smooth<T> f(40);
      for (T& g : f.gradient) g = factor * g + offset;
      const auto report = f.check(random_directions(directions));
      INFO(report);
      CHECK_FALSE(report);
      return report.verdict;
    };
    CHECK(verdict_of(T(2), T(0)) == verdict::disagrees);
    CHECK(verdict_of(T(0.5), T(0)) == verdict::disagrees);
    CHECK(verdict_of(T(-1), T(0)) == verdict::disagrees);
    CHECK(verdict_of(T(0), T(0)) == verdict::disagrees);
    CHECK(verdict_of(T(1.01), T(0)) == verdict::disagrees);
    CHECK(verdict_of(T(1), T(0.001)) == verdict::disagrees);
  }
}

TEMPLATE_TEST_CASE("one wrong entry of a thousand", "[gradcheck]", float, double) {
  using T = TestType;
  smooth<T> f(1000);
  REQUIRE(f.check());
  for (double factor : {0.0, -1.0, 2.0}) {
    smooth<T> g = f;
    g.gradient[617] = T(factor) * f.gradient[617];
    const auto report = g.check();
    INFO(report);
    CHECK(report.verdict == verdict::disagrees);
    CHECK(report.worst[0].index == 617);
    CHECK(report.worst[1].result == verdict::agrees);
    CHECK(report.cosine > 0.99);
    // A direction feels an entry by 1 / sqrt(1000); that is far above the tolerance of both types.
    CHECK(g.check(random_directions(3)).verdict == verdict::disagrees);
  }
}

TEST_CASE("a zero is not a way to pass", "[gradcheck]") {
  SECTION("analytic zero, numeric not") {
    CHECK(check_at<double>(1.0, 0.0, [](double x) { return 1e-6 * x; }).verdict == verdict::disagrees);
    CHECK(check_at<double>(0.0, 0.0, [](double x) { return 5 + 1e-9 * x; }).verdict == verdict::disagrees);
    CHECK(check_at<float>(1.0f, 0.0f, [](float x) { return 1 + 1e-3f * x; }).verdict == verdict::disagrees);
  }
  SECTION("a slope below the rounding of float") {
    CHECK(check_at<float>(1.0f, 0.0f, [](float x) { return 1e6f + 1e-3f * x; }).verdict == verdict::unresolved);
  }
  SECTION("a small entry beside a large one") {
    std::vector<double> x{1, 1}, g{1e3, 0};
    const auto f = [&] { return 1e3 * x[0] + 1e-5 * x[1]; };
    CHECK(gradcheck<double>(f, {{"x", x.data(), 2, g.data()}}).verdict == verdict::disagrees);
  }
  SECTION("numeric zero, analytic not") {
    CHECK(check_at<double>(1.0, 1e-6, [](double) { return 3.0; }).verdict == verdict::disagrees);
  }
  SECTION("both zero: a number that f does not use, beside one that it does") {
    std::vector<float> x{1, 2};
    std::vector<float> g{2, 0};
    CHECK(gradcheck<float>([&] { return x[0] * x[0]; }, {{"x", x.data(), 2, g.data()}}));
    CHECK(check_at<double>(1.0, 0.0, [](double) { return 3.0; }));
  }
  SECTION("both zero: a minimum") {
    CHECK(check_at<double>(0.0, 0.0, [](double x) { return x * x; }));
    CHECK(check_at<double>(1.0, 0.0, [](double x) { return 1 + (x - 1) * (x - 1); }));
    CHECK(check_at<float>(1.0f, 0.0f, [](float x) { return (x - 1) * (x - 1); }));
    CHECK(check_at<double>(1.0, 1e-6, [](double x) { return (x - 1) * (x - 1); }).verdict == verdict::disagrees);
  }
}

TEMPLATE_TEST_CASE("kinks never agree", "[gradcheck]", float, double) {
  using T = TestType;
  const auto never_agrees = [](T at, T gradient, auto f) {
    for (index_t directions : {0, 2}) {
      const auto report = check_at<T>(at, gradient, f, random_directions(directions));
      INFO(report);
      CHECK_FALSE(report);
    }
  };
  // The central difference of |x| at 0 is 0 at every step: as smooth as can be.
  for (T gradient : {T(0), T(1), T(-1), T(7)}) {
    never_agrees(T(0), gradient, [](T x) { return std::abs(x); });
    never_agrees(T(2), gradient, [](T x) { return std::abs(x - 2); });
    never_agrees(T(0.5), gradient, [](T x) { return 3 + std::sin(x) + std::abs(x - T(0.5)); });
  }
  never_agrees(T(1), T(0.5), [](T x) { return std::max(x - 1, T(0)); });
  never_agrees(T(1), T(0), [](T x) { return std::sqrt(std::abs(x - 1)); });
  never_agrees(T(1), T(0), [](T x) { return x < 1 ? T(0) : T(1); });
  CHECK(check_at<T>(T(0), T(0), [](T x) { return std::abs(x); }).verdict == verdict::unresolved);
  CHECK(check_at<T>(T(0), T(7), [](T x) { return std::abs(x); }).verdict == verdict::disagrees);
  // Beside the kink there is a slope.
  CHECK(check_at<T>(T(0.1), T(1), [](T x) { return std::abs(x - T(0.0625)); }));
}

TEST_CASE("noise is told from disagreement", "[gradcheck]") {
  std::mt19937_64 random(3);
  const auto noise = [&](double size) { return size * (double(random() >> 11) * 0x1p-53 - 0.5); };
  int agreed = 0, disagreed = 0;
  for (int i = 0; i < 200; ++i) {
    const double x = 0.5 + 0.01 * i;
    const auto report = check_at<double>(x, 2 * x, [&](double v) { return v * v + noise(1e-4); });
    agreed += report.verdict == verdict::agrees;
    disagreed += report.verdict == verdict::disagrees;
    CHECK_FALSE(report.same_bits);
  }
  CHECK(agreed == 0);
  CHECK(disagreed == 0);
  // Far more wrong than noisy.
  CHECK(check_at<double>(1.0, 4.0, [&](double v) { return v * v + noise(1e-4); }).verdict == verdict::disagrees);
  // Deterministic noise: rounding to float inside, and a large constant in float.
  const auto rounded = [](double v) { return double(std::exp(float(v))); };
  CHECK(check_at<double>(0.3, std::exp(0.3), rounded).verdict == verdict::unresolved);
  CHECK(check_at<float>(0.7f, 1.4f, [](float v) { return 1e6f + v * v; }).verdict == verdict::unresolved);
}

TEST_CASE("results that were rounded to float are told from wrong gradients", "[gradcheck]") {
  int disagreed = 0;
  for (int i = 1; i < 1500; ++i) {
    // The gradient of the exact function in double, the function itself in float steps.
    const double x = i / 1500.0;
    const auto rounded = [](double v) { return double(std::exp(float(v))); };
    disagreed += check_at<double>(x, std::exp(x), rounded).verdict == verdict::disagrees;
    // A cross-entropy that is nearly 0: its steps are those of the 1 inside the logarithm.
    const auto nearly_zero = [](float v) { return std::log(1.0f + std::exp(-20 * v)); };
    const float exact = float(-20 / (1 + std::exp(20 * double(float(x)))));
    disagreed += check_at<float>(float(x), exact, nearly_zero).verdict == verdict::disagrees;
  }
  CHECK(disagreed == 0);
}

TEST_CASE("float noise is climbed out of", "[gradcheck]") {
  // Steps of the size of the numbers drown in the rounding of f; larger ones do not.
  std::vector<float> x{-1e-3f, 1e-3f}, g{2, 3};
  const auto f = [&] { return 1 + 2 * x[0] + 3 * x[1]; };
  CHECK(gradcheck<float>(f, {{"x", x.data(), 2, g.data()}}));
  g[0] = 2.1f;
  CHECK(gradcheck<float>(f, {{"x", x.data(), 2, g.data()}}).verdict == verdict::disagrees);
}

TEST_CASE("what float may have rounded in a gradient is forgiven", "[gradcheck]") {
  // An entry of 1e-6 beside one of 1 is allowed to be off by some roundings of the large one.
  std::vector<float> x{1, 1}, g{1, 1.5e-6f};
  const auto f = [&] { return double(x[0]) + 1e-6 * double(x[1]); };
  CHECK(gradcheck<float>(f, {{"x", x.data(), 2, g.data()}}));
  g[1] = 1e-5f;
  CHECK(gradcheck<float>(f, {{"x", x.data(), 2, g.data()}}).verdict == verdict::disagrees);
}

TEST_CASE("a slope on a small scale is not overlooked", "[gradcheck]") {
  // Slope 11 within 1e-5 of the point, 1 outside, where all larger steps agree with each other.
  const auto f = [](float x) { return x + 1e-4f * std::tanh((x - 0.5f) * 1e5f); };
  CHECK_FALSE(check_at<float>(0.5f, 1.0f, f));
  CHECK(check_at<float>(0.5f, 11.0f, f).verdict != verdict::disagrees);
}

TEST_CASE("a function that is not reproducible is reported", "[gradcheck]") {
  int calls = 0;
  const auto report = check_at<double>(1.0, 2.0, [&](double x) { return x * x + 1e-15 * ++calls; });
  CHECK_FALSE(report.same_bits);
  CHECK(report.text().find("NO") != std::string::npos);
  CHECK(check_at<double>(1.0, 2.0, [&](double x) { return x * x; }).same_bits);
}

TEST_CASE("NaN and infinity", "[gradcheck]") {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const auto square = [](double x) { return x * x; };
  CHECK(check_at<double>(1.0, nan, square).verdict == verdict::disagrees);
  CHECK(check_at<double>(1.0, -infinity, square).verdict == verdict::disagrees);
  CHECK(check_at<double>(1.0, 2.0, [&](double) { return nan; }).verdict == verdict::unresolved);
  CHECK(check_at<double>(1.0, 2.0, [&](double) { return infinity; }).verdict == verdict::unresolved);
  CHECK(check_at<double>(1.0, 2.0, [&](double x) { return x == 1 ? nan : x * x; }).verdict == verdict::unresolved);
  CHECK(check_at<double>(nan, 2.0, square).verdict == verdict::unresolved);
  CHECK(check_at<double>(1.0, nan, [&](double) { return nan; }).verdict == verdict::disagrees);
  // One NaN among right entries is not lost, in any mode.
  smooth<double> f(20);
  f.gradient[13] = nan;
  const auto report = f.check();
  CHECK(report.verdict == verdict::disagrees);
  CHECK(report.worst[0].index == 13);
  CHECK(f.check(random_directions(2)).verdict == verdict::disagrees);
  // A function that is finite only near the point is checked there.
  CHECK(check_at<double>(1.0, 1.0, [&](double x) { return std::abs(x - 1) > 0.01 ? nan : std::log(x); }));
}

TEST_CASE("numbers are put back to the bit", "[gradcheck]") {
  for (index_t directions : {0, 3}) {
    smooth<float> f(17);
    f.x[3] = -0.0f;
    f.x[5] = 1e-40f;
    const std::vector<float> before = f.x;
    f.check(random_directions(directions));
    CHECK(std::memcmp(before.data(), f.x.data(), before.size() * sizeof(float)) == 0);

    // Whenever it throws, on the first call or on the hundredth, everything is as it was.
    for (int fatal = 1; fatal <= 120; fatal += 7) {
      int calls = 0;
      const auto thrower = [&] {
        if (++calls == fatal) throw std::runtime_error("out of ideas");
        return f();
      };
      CHECK_THROWS_WITH(gradcheck<float>(thrower, {{"x", f.x.data(), 17, f.gradient.data()}},
                                         random_directions(directions > 0 ? 20 : 0)),
                        "out of ideas");
      CHECK(std::memcmp(before.data(), f.x.data(), before.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a function may write its gradient on every call", "[gradcheck]") {
  double x = 0.4, gradient = 2 * x;
  const auto f = [&] {
    gradient = 2 * x;
    return x * x;
  };
  CHECK(gradcheck<double>(f, {{"x", &x, 1, &gradient}}));
}

TEST_CASE("numbers that share a sign keep it", "[gradcheck]") {
  std::vector<double> weights{1e-3, 0.2, 5}, g(3);
  const auto f = [&] {
    double sum = 0;
    for (double w : weights) {
      if (!(w > 0)) throw std::runtime_error("weights must be positive");
      sum += w * std::log(w);
    }
    return sum;
  };
  for (int i = 0; i < 3; ++i) g[i] = std::log(weights[i]) + 1;
  CHECK(gradcheck<double>(f, {{"weights", weights.data(), 3, g.data()}}));
  CHECK(gradcheck<double>(f, {{"weights", weights.data(), 3, g.data()}}, random_directions(5)));
  // Also where noise makes the search try large steps.
  CHECK_NOTHROW(gradcheck<double>([&] { return float(f()); }, {{"weights", weights.data(), 3, g.data()}}));
}

TEST_CASE("a periodic ripple is not mistaken for a slope", "[gradcheck]") {
  // Steps that all were multiples of the period would see slope 1 and nothing else.
  int disagreed = 0;
  for (int i = 0; i < 500; ++i) {
    const double x = 0.2 + 0.0017 * i, slope = 1 + 3 * std::cos(3000 * x);
    const auto ripple = [](double v) { return v + 1e-3 * std::sin(3000 * v); };
    disagreed += check_at<double>(x, slope, ripple).verdict == verdict::disagrees;
    if (std::abs(slope - 1) > 0.1) disagreed += check_at<double>(x, 1.0, ripple).verdict == verdict::agrees;
  }
  CHECK(disagreed == 0);
  // In float the ripple is no larger than what may be rounding at some steps.
  int disagreed_in_float = 0;
  for (int i = 0; i < 500; ++i) {
    const float x = 0.2f + 0.0017f * float(i);
    const auto ripple = [](float v) { return v + 1e-3f * std::sin(3000 * v); };
    const float slope = 1 + 3 * std::cos(3000 * x);
    disagreed_in_float += check_at<float>(x, slope, ripple).verdict == verdict::disagrees;
  }
  CHECK(disagreed_in_float <= 5);
}

TEST_CASE("directions", "[gradcheck]") {
  smooth<double> f(5000);
  const auto report = f.check(random_directions(6));
  INFO(report);
  CHECK(report);
  CHECK(report.checked == 6);
  CHECK(report.worst[0].name == "direction");
  f.gradient[4321] *= 1.5;
  CHECK(f.check(random_directions(6)).verdict == verdict::disagrees);
  // All directions are different, the same seed draws the same ones, another seed draws others.
  gradcheck_options options = random_directions(6);
  options.worst = 6;
  const auto first = f.check(options), again = f.check(options);
  options.seed = 1;
  const auto other = f.check(options);
  for (int i = 0; i < 6; ++i) {
    CHECK(first.worst[i].analytic == again.worst[i].analytic);
    CHECK(first.worst[i].numeric == again.worst[i].numeric);
    CHECK(first.worst[i].analytic != other.worst[i].analytic);
    for (int j = 0; j < i; ++j) CHECK(first.worst[i].analytic != first.worst[j].analytic);
  }
  // A direction in which the gradient happens to be small is no reason to give up.
  smooth<float> g(100);
  for (options.seed = 0; options.seed < 100; ++options.seed) {
    CHECK(gradcheck<float>([&] { return float(g()); }, {{"x", g.x.data(), 100, g.gradient.data()}}, options));
  }
  // Two wrong entries that cancel in the sum of the gradient do not cancel in a direction.
  smooth<double> pair(2);
  pair.gradient[0] += 0.1;
  pair.gradient[1] -= 0.1;
  CHECK(pair.check(random_directions(1)).verdict == verdict::disagrees);
}

TEST_CASE("options", "[gradcheck]") {
  smooth<double> f(10);
  gradcheck_options options;
  SECTION("a fixed step") {
    for (double step : {1e-1, 1e-2, 1e-3}) {
      options.step = step;
      const auto report = f.check(options);
      INFO(report);
      CHECK(report);
      for (const auto& entry : report.worst) CHECK((entry.step > step / 20 && entry.step <= step));
    }
    // What counts is the step that float left of it: 1.001 is 1 + 1.00004673e-3 there.
    options.step = 1e-3;
    options.tolerance = 1e-6;
    CHECK(check_at<float>(
        1, 3, [](float x) { return 3.0 * double(x); }, options));
    options.tolerance = 0;
    // Steps too large for the function or too small for its rounding decide nothing.
    const auto narrow = [](double x) { return std::sin(300 * x); };
    options.step = 0.5;
    CHECK(check_at<double>(0.1, 300 * std::cos(30.0), narrow, options).verdict == verdict::unresolved);
    CHECK(check_at<double>(0.1, 300 * std::cos(30.0), narrow));
    options.step = 1e-13;
    CHECK(f.check(options).verdict == verdict::unresolved);
  }
  SECTION("tolerance") {
    for (double& g : f.gradient) g *= 1.001;
    options.tolerance = 1e-2;
    CHECK(f.check(options));
    options.tolerance = 1e-4;
    CHECK(f.check(options).verdict == verdict::disagrees);
  }
  SECTION("worst") {
    options.worst = 0;
    CHECK(f.check(options).worst.empty());
    CHECK(f.check(options));
    options.worst = 100;
    CHECK(f.check(options).worst.size() == 10);
  }
}

TEST_CASE("the text has everything", "[gradcheck]") {
  std::vector<double> x{0.5, 2}, g{1, 5};
  const auto f = [&] { return x[0] * x[0] + x[1] * x[1]; };
  const std::string text = gradcheck<double>(f, {{"image features", x.data(), 2, g.data()}}).text();
  for (const char* part :
       {"DISAGREES", "agrees", "image features[0]", "image features[1]", "2 checked", "cosine", "norm ratio",
        "same bits", "analytic", "numeric", "absolute", "relative", "step", "uncertainty", "0.2"}) {
    INFO(part << " in\n" << text);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("cosine and norm ratio", "[gradcheck]") {
  std::vector<double> x{1, 2}, g{-4, 2};
  const auto f = [&] { return x[0] * x[0] + x[1] * x[1]; };
  auto report = gradcheck<double>(f, {{"x", x.data(), 2, g.data()}});
  CHECK(report.cosine == Approx(0).margin(1e-9));
  CHECK(report.norm_ratio == Approx(1));
  g = {6, 12};
  report = gradcheck<double>(f, {{"x", x.data(), 2, g.data()}});
  CHECK(report.cosine == Approx(1));
  CHECK(report.norm_ratio == Approx(3));
  g = {0, 0};
  report = gradcheck<double>(f, {{"x", x.data(), 2, g.data()}});
  CHECK(report.cosine == 0);
  CHECK(report.norm_ratio == 0);
}

TEST_CASE("bad input", "[gradcheck]") {
  double x = 1, g = 2;
  int calls = 0;
  const auto f = [&] { return ++calls, x * x; };
  const auto check = [&](const std::vector<craft::gradient_block<double>>& blocks, gradcheck_options options = {}) {
    return gradcheck<double>(f, blocks, options);
  };
  CHECK_THROWS_AS(check({}), craft::option_error);
  CHECK_THROWS_AS(check({{"x", &x, 0, &g}}), craft::shape_error);
  CHECK_THROWS_AS(check({{"x", &x, -1, &g}}), craft::shape_error);
  CHECK_THROWS_AS(check({{"x", nullptr, 1, &g}}), craft::shape_error);
  CHECK_THROWS_AS(check({{"x", &x, 1, &g}, {"y", &x, 1, nullptr}}), craft::shape_error);
  CHECK_THROWS_WITH(check({{"anchors", &x, 1, nullptr}}),
                    contains("anchors") && contains("null") && contains("gradient"));
  for (double bad : {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    gradcheck_options options;
    options.tolerance = bad;
    CHECK_THROWS_AS(check({{"x", &x, 1, &g}}, options), craft::option_error);
    options.tolerance = 0;
    options.step = bad;
    CHECK_THROWS_AS(check({{"x", &x, 1, &g}}, options), craft::option_error);
  }
  gradcheck_options options;
  options.directions = -1;
  CHECK_THROWS_AS(check({{"x", &x, 1, &g}}, options), craft::option_error);
  options.directions = 0;
  options.worst = -1;
  CHECK_THROWS_AS(check({{"x", &x, 1, &g}}, options), craft::option_error);
  CHECK(calls == 0);
}

TEST_CASE("the number of calls is as documented", "[gradcheck]") {
  double x = 0.4, g = std::exp(0.4);
  int calls = 0;
  const auto f = [&] { return ++calls, std::exp(x); };
  CHECK(gradcheck<double>(f, {{"x", &x, 1, &g}}));
  CHECK(calls <= 20 + 14);
  calls = 0;
  const auto kink = [&] { return ++calls, std::abs(x - 0.4); };
  CHECK_FALSE(gradcheck<double>(kink, {{"x", &x, 1, &g}}));
  CHECK(calls <= 20 + 90);
}
