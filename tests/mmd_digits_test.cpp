// MMD^2 where digits are easily lost: a row's slope with itself beside small ones, rows that both samples have, long series of
// Gaussians, weights of which one is nearly all. Compared with a double loop in long double, to a few roundings of the result's own
// size: nothing is allowed for what is to be shown.
#include <cmath>
#include <tuple>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

namespace {

using family = craft::kernel_family;
using any_case = pair_case<craft::any_kernel<>>;
using numbers_in = const std::vector<double>&;

/// sum_q c_q^2 / (c_q^2 + D + eps)
any_case multiquadrics(std::vector<double> lengths, double eps) {
  return {"multiquadrics",
          [eps](const pair_of_samples& p, const parameters&, const parameters& h) {
            dual k;
            for (const dual& c : h) k = k + c * c / (c * c + p.D + eps);
            return k;
          },
          [eps](numbers_in, numbers_in h) {
            std::vector<craft::any_kernel<>::member> members;
            for (const double c : h) members.push_back({family::inverse_multiquadric, 1, c, eps});
            return craft::any_kernel<>(members);
          },
          {},
          std::move(lengths)};
}
any_case multiscale() { return multiquadrics({0.2, 0.5, 0.9, 1.3}, 1e-8); }

any_case energy() {
  return {"energy", [](const pair_of_samples& p, const parameters&, const parameters&) { return -sqrt(p.D); },
          [](numbers_in, numbers_in) { return craft::any_kernel<>({{family::energy}}); }, {}, {}, false};
}
any_case laplacian(double sigma) {
  return {"laplacian",
          [](const pair_of_samples& p, const parameters&, const parameters& h) { return exp(-sqrt(p.D) / h[0]); },
          [](numbers_in, numbers_in h) { return craft::any_kernel<>({{family::laplacian, 1, h[0]}}); }, {}, {sigma}, false};
}

/// Value and gradients in roundoffs: the value's of what it is the sum of, the gradients' of their own norms; also those of
/// bandwidths where they are asked for.
template <class D, class Case>
void holds(const Case& c, const reals& X, const reals& Y, form f, double value, double gradient, double bandwidths = 0,
           const sample_weights& weights = {}) {
  const double unit = roundoff<typename D::scalar>;
  const reals x = as_stored<D>(X), y = as_stored<D>(Y);
  const coefficients w(f, x.rows(), y.rows(), weights.x, weights.y);
  const mmd_result want = naive_mmd(c, x, y, w);
  double size = 0;
  const auto add = [&](const matrix<long double>& u, const reals& a, const reals& b) {
    for (index_t i = 0; i < u.rows(); ++i)
      for (index_t j = 0; j < u.cols(); ++j)
        size += std::abs(double(u(i, j)) * c.kernel().at((a.row(i) - b.row(j)).squaredNorm()).value);
  };
  add(w.xx, x, x);
  add(w.yy, y, y);
  add(w.xy, x, y);
  auto ctx = D::make();
  for (const index_t tile : {0, 3}) {
    ctx.tile(D::tile(tile));
    const mmd_result got = run_mmd<D>(ctx, x, y, c.kernel(), options_of(f), weights);
    const double gx = relative_distance(got.x, want.x), gy = relative_distance(got.y, want.y);
    INFO(c.name << ", " << name_of(f) << ", tile " << tile << ", in roundoffs: value "
                << std::abs(got.value - want.value) / (unit * size) << ", gradients " << gx / unit << " and "
                << gy / unit);
    CHECK(std::abs(got.value - want.value) <= value * unit * size);
    CHECK(gx <= gradient * unit);
    CHECK(gy <= gradient * unit);
    for (std::size_t q = 0; bandwidths > 0 && q < want.bandwidths.size(); ++q) {
      INFO("bandwidth " << q << ": " << got.bandwidths[q] << ", exact " << want.bandwidths[q]);
      CHECK(std::abs(got.bandwidths[q] - want.bandwidths[q]) <= bandwidths * unit * std::abs(want.bandwidths[q]));
    }
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("a row's slope with itself costs the gradient no digits", "[mmd]", devices) {
  using D = TestType;
  reals X(2, 1), Y(2, 1);
  X << 0, 40;
  Y << 10, 10;
  holds<D>(multiquadrics({0.2}, 0), X, Y, form::biased, 8, 8);
  for (const form f : {form::biased, form::unbiased}) {
    holds<D>(multiscale(), random_reals(32, 256, 1), random_reals(32, 256, 2), f, 8, 60);
    // Rows like logits.
    holds<D>(multiscale(), 20 * random_reals(32, 10, 3), 20 * random_reals(32, 10, 4), f, 8, 60);
  }
  // Rows that a sample has twice, and rows of both samples: their slopes move nothing either.
  reals twice = random_reals(32, 256, 1), both = random_reals(32, 256, 2);
  twice.bottomRows(16) = twice.topRows(16);
  both.topRows(8) = twice.topRows(8);
  holds<D>(multiscale(), twice, both, form::biased, 8, 60);
  holds<D>(multiscale(), twice, both, form::unbiased, 8, 60);
}

TEMPLATE_LIST_TEST_CASE("a series of Gaussians keeps its digits, however many there are", "[mmd]", devices) {
  using D = TestType;
  reals X(1, 1), Y(1, 1);
  X << 0;
  Y << 1.0 / 64;
  const auto series = [](int count, double ratio, double widest) {
    std::vector<double> sigma;
    for (int q = 0; q < count; ++q) sigma.push_back(widest * std::pow(ratio, -q));
    return gaussian_series("gaussians", sigma, std::vector<double>(sigma.size(), 1.0));
  };
  // The value is what is left of 2 - 2 k of each; a member's own digits show in its bandwidth's gradient.
  holds<D>(series(5, std::sqrt(8.0), std::sqrt(0.5)), X, Y, form::biased, 16, 8, 30);
  holds<D>(series(15, 2, 1), X, Y, form::biased, 16, 8);
  holds<D>(series(5, std::sqrt(2.0), 1.0 / 32), X, Y, form::biased, 16, 40, 30);
  if (sizeof(typename D::compute) == 8) holds<D>(series(64, 2, 1), X, Y, form::biased, 8, 8);
}

TEMPLATE_LIST_TEST_CASE("a rational quadratic of any exponent keeps its digits", "[mmd]", devices) {
  using D = TestType;
  reals X(1, 1), Y(1, 1);
  X << 0;
  Y << 1;
  // Also where D / (2 alpha l^2) is beyond a float, and where k / (1 + t) is below it and the slope is not; there k = exp(-69) errs
  // by 69 roundings.
  for (const auto& [alpha, apart, roundoffs] :
       {std::tuple(0.3, 1.0, 16.0), {2.0, 1.0, 16.0}, {1e3, 1.0, 16.0}, {1e6, 1.0, 16.0}, {1e9, 1.0, 16.0}, {1e-3, 3e17, 16.0},
        {2.25, 9984.0, 200.0}}) {
    Y << apart;
    const any_case c{"rational quadratic",
                     [](const pair_of_samples& p, const parameters&, const parameters& h) {
                       // By hand, because the exponent's derivative is the difference of two numbers nearly the same.
                       const long double l = h[0].v, a = h[1].v, t = p.D.v / (2 * a * l * l), k = std::exp(-a * std::log1p(t));
                       long double difference = 0;  // log(1 + t) - t / (1 + t) = v^2 / 2 + v^3 / 3 + ..., v = t / (1 + t)
                       const long double v = t / (1 + t);
                       for (int n = 400; n >= 2; --n) difference = (difference + 1.0L / n) * v;
                       difference = t > 1 ? std::log1p(t) - v : difference * v;
                       return dual{k, -k / (1 + t) / (2 * l * l) * p.D.e + 2 * a / l * k * v * h[0].e - k * difference * h[1].e};
                     },
                     [](numbers_in, numbers_in h) {
                       return craft::any_kernel<>({{family::rational_quadratic, 1, h[0], h[1]}});
                     },
                     {},
                     {apart > 1 ? 1e-3 : 1.0, alpha}};
    holds<D>(c, X, Y, form::biased, 16, roundoffs, roundoffs);
  }
}

TEMPLATE_LIST_TEST_CASE("unbiased, with a weight that is nearly all", "[mmd]", devices) {
  using D = TestType;
  reals X(3, 1), Y(2, 1);
  X << 1, 2, 4;
  Y << 0, 3;
  // Weights that a float holds too.
  for (const double little : {0x1p-20, 0x1p-40, 0x1p-60})
    holds<D>(gaussian_series("gaussian", {1}, {1}), X, Y, form::unbiased, 16, 16, 0, {{1, little, little}, {}});
}

TEMPLATE_LIST_TEST_CASE("rows that both samples have, or nearly, under kernels of the square root", "[mmd]", devices) {
  using D = TestType;
  const double unit = roundoff<typename D::scalar>;
  for (const any_case& c : {energy(), laplacian(1.3)})
    for (const form f : all_forms) {
      reals X = random_reals(24, 16, 5), Y = random_reals(20, 16, 6);
      Y.topRows(5) = X.topRows(5);
      holds<D>(c, X, Y, f, 16, 60);
      // A shift that is the rows' own rounding a thousand times: its direction keeps three digits, the others all.
      Y.topRows(5).array() += 1e3 * unit;
      holds<D>(c, X, Y, f, 16, 1.0 / 200 / unit);
    }
}

TEMPLATE_LIST_TEST_CASE("distances whose square is below the normal numbers, under kernels of the square root", "[mmd]", devices) {
  using D = TestType;
  const bool wide = sizeof(typename D::compute) == 8;
  const double far = wide ? 1e-142 : 1e-15, near = wide ? 3e-155 : 1.7e-20;
  reals Y(9, 1);
  for (index_t j = 0; j < Y.rows(); ++j) Y(j, 0) = far + double(j) * near;
  // A device takes the gradient from sums, where rows err by roundings of their own size (docs/math.md, "Precision").
  const double gradient = D::space == craft::memory::host ? 200 : far / near;
  for (const any_case& c : {energy(), laplacian(1.3)}) holds<D>(c, reals::Zero(1, 1), Y, form::biased, 16, gradient);
}

namespace {

// NaN, or an error that names the limit where the host can see: never a number that is not right.
template <class D, class F>
void is_refused(const typename D::context& ctx, F&& value_and_gradient) {
  INFO(D::backend::name());
  if (D::space == craft::memory::host) {
    CHECK_THROWS_AS(value_and_gradient(ctx), craft::data_error);
  } else {
    const mmd_result got = value_and_gradient(ctx);
    CHECK_FALSE(std::isfinite(got.value));
    auto looking = D::make();
    looking.check_finite(true);
    CHECK_THROWS_AS(value_and_gradient(looking), craft::data_error);
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("numbers whose squares the computing type cannot hold are refused", "[mmd]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const double most = std::sqrt(double(std::numeric_limits<T>::max()) / (4 * 3)),
               least = std::sqrt(double(std::numeric_limits<T>::min()) / double(std::numeric_limits<T>::epsilon()));
  auto ctx = D::make();
  const reals X = random_reals(5, 3, 1), Y = random_reals(4, 3, 2);
  const any_case c = energy();
  const auto scaled = [&](double by) {
    return [&, by](const typename D::context& on) {
      return run_mmd<D>(on, as_stored<D>(by * X), as_stored<D>(by * Y), c.kernel());
    };
  };
  for (const double by : {most, 4 * most, least / 64, least * least}) {
    INFO(by);
    is_refused<D>(ctx, scaled(by));
  }
  // Inside the limits all digits are there; a power of two changes none.
  const mmd_result one = scaled(1)(ctx);
  for (const double by : {std::exp2(std::floor(std::log2(most)) - 3), std::exp2(std::ceil(std::log2(least)) + 3)}) {
    const mmd_result got = scaled(by)(ctx);
    CHECK(got.value / by == one.value);
    CHECK(relative_distance(got.x, one.x) <= 4 * roundoff<T>);
  }
  // Equal rows, whatever they are, and zeros are no such thing; nor is what is not finite, which stays so.
  CHECK(run_mmd<D>(ctx, reals::Constant(3, 2, 1.5), reals::Constant(2, 2, 1.5), c.kernel()).value == 0);
  reals bad = X;
  bad(1, 2) = not_a_number;
  CHECK(std::isnan(run_mmd<D>(ctx, bad, Y, c.kernel()).value));
  // Where the slope stays finite, numbers too small for their squares do no harm.
  const auto tiny = as_stored<D>(least / 64 * X), tinier = as_stored<D>(least / 64 * Y);
  const auto smooth = gaussian_series("gaussian", {1}, {1});
  const mmd_result got = run_mmd<D>(ctx, tiny, tinier, smooth.kernel()),
                   want = naive_mmd(smooth, tiny, tinier, coefficients(form::biased, 5, 4));
  CHECK(relative_distance(got.x, want.x) <= 60 * roundoff<T>);
  is_refused<D>(ctx, [&](const typename D::context& on) {
    craft::mmd_options options;
    options.bandwidth.rule = craft::bandwidth_rule::median;
    return run_mmd<D>(on, tiny, tinier, smooth.kernel(), options);
  });
  // Kernels that see each row's norm: a row of its own that is too small.
  reals small = X;
  small.row(2) *= least / 64;
  is_refused<D>(ctx, [&](const typename D::context& on) { return run_mmd<D>(on, as_stored<D>(small), Y, craft::cosine<>()); });
  small.row(2).setZero();
  CHECK(std::isfinite(run_mmd<D>(ctx, small, Y, craft::cosine<>()).value));
}

TEMPLATE_LIST_TEST_CASE("the gradient through a bandwidth rule has its digits, however large the rows are", "[mmd]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const bool wide = sizeof(T) == 8;
  // In double the largest k is about 1e-40 and M 1e290: their quotient is no number, the gradient is.
  const craft::gaussian<> kernel(wide ? 0.02 : 0.3);
  const double unit = std::exp2(wide ? 480 : 50);
  const reals X = as_stored<D>(random_reals(5, 3, 1)), Y = as_stored<D>(random_reals(4, 3, 2));
  auto ctx = D::make();
  for (const auto rule : {craft::bandwidth_rule::mean, craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid}) {
    craft::mmd_options options;
    options.bandwidth = {rule, craft::bandwidth_sample::pooled, true};
    const mmd_result one = run_mmd<D>(ctx, X, Y, kernel, options),
                     got = run_mmd<D>(ctx, unit * X, unit * Y, kernel, options);
    CHECK(one.x.norm() > 0);
    CHECK(relative_distance(unit * got.x, one.x) <= 4 * roundoff<T>);
    CHECK(relative_distance(unit * got.y, one.y) <= 4 * roundoff<T>);
  }
}

TEMPLATE_LIST_TEST_CASE("parameters that the computing type cannot hold are refused", "[mmd]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = random_reals(3, 2, 1), Y = random_reals(2, 2, 2);
  const bool narrow = sizeof(typename D::compute) == 4;
  for (const double sigma : {1e-20, 1e-30, 1e20, 1e-50, 1e-200, 1e200}) {
    INFO(sigma);
    const auto call = [&](const auto& kernel) { run_mmd<D>(ctx, X, Y, kernel); };
    const auto all = [&] {
      CHECK_THROWS_AS(call(craft::gaussian<>(sigma)), craft::option_error);
      CHECK_THROWS_AS(call(craft::gaussians<>({sigma, 1.0})), craft::option_error);
      CHECK_THROWS_AS(call(multiquadrics({sigma}, 0).kernel()), craft::option_error);
      CHECK_THROWS_AS(call(laplacian(sigma).kernel()), craft::option_error);
    };
    if (narrow || sigma < 1e-100 || sigma > 1e100)
      all();
    else
      CHECK_NOTHROW(call(craft::gaussian<>(sigma)));
  }
}
