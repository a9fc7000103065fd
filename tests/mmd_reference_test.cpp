// MMD^2 against the values and gradients of public implementations (tests/reference/README.md), alone and composed with
// the relative representation.
#include "mmd_reference.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"
#include "reference.hpp"

using namespace craft_test;
using reference::record;

TEST_CASE("reference inputs are what their formulas say", "[reference]") {
  const reference::inputs in(12, 12, 6, 5);
  CHECK(std::abs(in.X(3, 2) + 1.0866940344079485) < 1e-15);
  CHECK(std::abs(in.Y(4, 5) - 0.47521997461502685) < 1e-15);
  CHECK(std::abs(in.A(4, 3) - 0.64691932232864036) < 1e-15);
  CHECK(std::abs(in.T(2, 1) + 0.99265938047063318) < 1e-15);
}

TEMPLATE_LIST_TEST_CASE("numbers to try by hand", "[mmd][reference]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto X = [](index_t n) {
    return reals(reals::NullaryExpr(n, 3, [](index_t i, index_t k) { return std::sin(1 + 3 * i + 7 * k); }));
  };
  const auto Y = [](index_t m) {
    return reals(
        reals::NullaryExpr(m, 3, [](index_t j, index_t k) { return 0.5 + 0.8 * std::cos(2 + 5 * j + 11 * k); }));
  };
  // Float: some hundred kernel values of order 1 that cancel, scaled by the preset's factor.
  const auto check = [&](const auto& preset, index_t m, double want) {
    const double allowed = std::is_same_v<typename D::compute, double> ? 1e-14 : 2e-6;
    const double got = run_mmd<D>(ctx, X(5), Y(m), preset.kernel, preset.options, {}, false).value;
    CHECK(std::abs(got - want) <= allowed * std::max(1.0, std::abs(preset.options.factor)));
  };
  namespace presets = craft::presets;
  check(presets::craft_rbf(), 5, 0.00696669229359426);
  check(presets::craft_multiscale(), 5, 1.39013316648682);
  check(presets::transferlearning(), 5, 1.09862853000835);
  check(presets::tllib(5), 5, 0.630305803227252);
  check(presets::cmmd(), 5, 3.64801896790867);
  check(presets::alibi_detect(), 7, -0.00462280175482377);
  check(presets::geomloss_gaussian(1.0), 7, 0.132416585762665);
}

TEMPLATE_LIST_TEST_CASE("presets meet the implementations they are named after", "[mmd][reference]", devices) {
  using D = TestType;
  namespace presets = craft::presets;
  meets<D>("mmd", "tllib_mkmmd_nonlinear_5k", [](const record& r, auto&) { return with(presets::tllib(r.n())); });
  meets<D>("mmd", "jindongwang_deepda_rbf", [](auto&, auto&) { return with(presets::transferlearning()); });
  meets<D>("mmd", "craft_mmd_rbf", [](auto&, auto&) { return with(presets::craft_rbf()); });
  meets<D>("mmd", "craft_mmd_multiscale", [](auto&, auto&) { return with(presets::craft_multiscale()); });
  meets<D>("mmd", "cmmd", [](auto&, auto&) { return with(presets::cmmd()); });
  meets<D>("mmd", "alibi_mmd2_median", [](auto&, auto&) { return with(presets::alibi_detect()); });
  for (const std::string weights : {"", "_weighted"}) {
    const auto weighted = [&](auto made, const reference::inputs& in) {
      if (!weights.empty()) made.second.weights = {in.a, in.b};
      return made;
    };
    for (const std::string blur : {"0.05", "0.5", "1"}) {
      meets<D>("mmd", "geomloss_gaussian_blur" + blur + weights, [&](const record& r, auto& in) {
        return weighted(with(presets::geomloss_gaussian(r.parameter("blur"))), in);
      });
      meets<D>("mmd", "geomloss_laplacian_blur" + blur + weights, [&](const record& r, auto& in) {
        return weighted(with(presets::geomloss_laplacian(r.parameter("blur"))), in);
      });
    }
    meets<D>("mmd", "geomloss_energy" + weights,
             [&](auto&, auto& in) { return weighted(with(presets::geomloss_energy()), in); });
  }
}

TEMPLATE_LIST_TEST_CASE("presets on unit vectors, and of a sample with itself", "[mmd][reference]", devices) {
  using D = TestType;
  auto ctx = D::make();
  for (const record& r : reference::cases("mmd", "cmmd_l2")) {
    const reference::inputs in(r);
    const reals U = in.X.rowwise().normalized(), V = in.Y.rowwise().normalized();
    const auto [kernel, s] = with(craft::presets::cmmd());
    mmd_result got = run_mmd<D>(ctx, U, V, kernel, s.options);
    // Through x / |x|: what is along x goes.
    const auto through_norm = [](const reals& raw, const reals& unit, reals g) {
      for (index_t i = 0; i < g.rows(); ++i)
        g.row(i) = (g.row(i) - g.row(i).dot(unit.row(i)) * unit.row(i)).eval() / raw.row(i).norm();
      return g;
    };
    got.x = through_norm(in.X, U, got.x);
    got.y = through_norm(in.Y, V, got.y);
    if (std::is_same_v<typename D::compute, double>) {
      r.check(got.value, {{"X", got.x}, {"Y", got.y}});
    } else {
      const rounding allowed = float_allowance(U, V, kernel, s);
      const double stretch = 1 / std::min(in.X.rowwise().norm().minCoeff(), in.Y.rowwise().norm().minCoeff());
      r.check(got.value, allowed.value, {{"X", got.x}, {"Y", got.y}}, {allowed.x * stretch, allowed.y * stretch});
    }
  }
  // The constant 2 / (n - 1) does not know the number of kernels: negative for equal samples.
  for (const record& r : reference::cases("mmd", "tllib_mkmmd_nonlinear_5k_same")) {
    const reference::inputs in(r);
    const auto [kernel, s] = with(craft::presets::tllib(r.n()));
    const mmd_result got = run_mmd<D>(ctx, in.X, in.X, kernel, s.options);
    CHECK(got.value < 0);
    check_record<D>(r, in.X, in.X, kernel, s, got);
  }
}

TEMPLATE_LIST_TEST_CASE("other conventions meet their implementations", "[mmd][reference]", devices) {
  using D = TestType;
  meets<D>("mmd", "tllib_mkmmd_nonlinear_1k", [](const record& r, auto&) {
    auto made = with(craft::gaussian(1.0), form::unbiased);
    made.second.options.bandwidth.rule = craft::bandwidth_rule::mean;
    made.second.options.offset = 2.0 / double(r.n() - 1);
    return made;
  });
  meets<D>("mmd", "tllib_mkmmd_nonlinear_fixed_sigma", [](const record& r, auto&) {
    auto made = with(craft::gaussian(r.parameter("sigma")), form::unbiased);
    made.second.options.offset = 2.0 / double(r.n() - 1);
    return made;
  });
  // exp(-D / (B mul^(i - num / 2)))
  const auto series = [](double mul, int num) {
    std::vector<double> sigma;
    for (int i = 0; i < num; ++i) sigma.push_back(std::sqrt(std::pow(mul, i - num / 2) / 2));
    return sigma;
  };
  meets<D>("mmd", "jindongwang_deepda_rbf_mul3_num4", [&](auto&, auto&) {
    auto made = with(craft::gaussians<>(series(3, 4)), form::biased);
    made.second.options.bandwidth.rule = craft::bandwidth_rule::mean_offdiagonal;
    return made;
  });
  meets<D>("mmd", "jindongwang_deepda_rbf_fix_sigma", [&](const record& r, auto&) {
    auto sigma = series(2, 5);
    for (double& v : sigma) v *= std::sqrt(r.parameter("fix_sigma"));
    return with(craft::gaussians<>(sigma), form::biased);
  });
  meets<D>("mmd", "jindongwang_linear", [](auto&, auto&) { return with(craft::dot_product<>(), form::biased); });
  meets<D>("mmd", "alibi_mmd2_multi_trainable", [](const record& r, auto&) {
    auto made = with(craft::gaussians<>::mean(r.parameters("sigma")), form::unbiased, {{"log_sigma", false, 0, 3}});
    made.second.by_log = true;
    return made;
  });
  // k = mean_c exp(-c D / median), the median given here; 33 scales of ratio sqrt(2).
  const auto scales = [](const record& r) {
    std::vector<double> sigma = r.parameters("kernel_scales");
    for (double& c : sigma) c = std::sqrt(r.aux("median") / (2 * c));
    return craft::gaussians<>::mean(sigma);
  };
  meets<D>("mmd", "pytorch_adapt_quadratic_default33",
           [&](const record& r, auto&) { return with(scales(r), form::unbiased); });
  meets<D>("mmd", "pytorch_adapt_linear_multi5", [&](const record& r, auto&) { return with(scales(r), form::linear); });
  // sum_a exp(-a (1e-5 + D))
  meets<D>("mmd", "torch_two_sample_mmd", [](const record& r, auto&) {
    const auto alpha = r.parameters("alphas");
    return with(
        craft::gaussians<>(mapped(alpha, sigma_of), mapped(alpha, [](double a) { return std::exp(-a * 1e-5); })),
        form::unbiased);
  });
  meets<D>("mmd", "dassl_mmd_linear", [](auto&, auto&) { return with(craft::dot_product<>(), form::unbiased); });
  meets<D>("mmd", "dassl_mmd_poly", [](auto&, auto&) { return with(craft::polynomial(1.0, 2.0, 2), form::unbiased); });
  meets<D>("mmd", "dassl_mmd_rbf", [](auto&, auto&) { return with(craft::gaussians<>({1, 5, 10}), form::unbiased); });
  meets<D>("mmd", "deepdg_gaussian", [](const record& r, auto&) {
    return with(craft::gaussians<>(mapped(r.parameters("gamma"), sigma_of)), form::biased);
  });
  meets<D>("mmd", "mmdagg_gaussian", [](const record& r, auto&) {
    return with(craft::gaussian(r.parameter("bandwidth") / std::sqrt(2.0)), form::unbiased);
  });
  for (const char* name : {"mmdagg_imq", "mmdfuse_rq"})
    meets<D>("mmd", name, [](const record& r, auto&) {
      return with(craft::rational_quadratic(r.parameter("bandwidth"), 0.5), form::unbiased);
    });
  meets<D>("mmd", "mmdagg_matern_0.5_l2",
           [](const record& r, auto&) { return with(craft::laplacian(r.parameter("bandwidth")), form::unbiased); });
  for (const char* name : {"mmdagg_matern_1.5_l2", "mmdfuse_matern_1.5_l2"})
    meets<D>("mmd", name,
             [](const record& r, auto&) { return with(matern32<double>{r.parameter("bandwidth")}, form::unbiased); });
}

namespace {

/// -sqrt(D + 1e-5), as one peer smooths its energy distance: a caller's own kernel.
template <class T>
struct smoothed_distance {
  static constexpr bool translation_invariant = true;
  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    return -distance(s, a, b);
  }
  template <class V>
  CRAFT_HOST_DEVICE craft::pair_partials<V> partials(V s, V a, V b) const {
    const V r = distance(s, a, b), slope = V(T(-0.5)) / r;
    return {-r, slope * V(T(-2)), slope, slope};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 0; }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V, V, V, W&&, B&&) const {}
  template <class U>
  smoothed_distance<U> as() const {
    return {};
  }
  void check() const {}

 private:
  template <class V>
  CRAFT_HOST_DEVICE static V distance(V s, V a, V b) {
    return craft::math::sqrt(craft::math::max(a + b - (s + s), V(T(0))) + V(T(1e-5)));
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("a caller's kernel meets a peer's smoothed energy distance", "[mmd][reference]", devices) {
  meets<TestType>("mmd", "torch_two_sample_energy",
                  [](auto&, auto&) { return with(smoothed_distance<double>(), form::biased); });
}

// ---------------------------------------------------------------------------------------------------------
// Compositions

namespace {

/// MMD between relative representations s cos(x_i, a_c) and s cos(y_j, a_c); gradients to X, Y, anchors and log s.
template <class D, class K>
void meets_in_anchor_space(const record& r, const reals& anchors, const char* anchor_leaf, const K& kernel,
                           const craft::mmd_options& options) {
  using S = typename D::scalar;
  auto ctx = D::make();
  const reference::inputs in(r);
  craft::relative_options map;
  map.log_scale = std::log(r.parameter("logit_scale"));
  const array<D> x(in.X), y(in.Y), a(anchors);
  array<D> rx(r.n(), r.classes()), ry(r.m(), r.classes());
  const auto cosine = craft::dot_product<>();  // of rows that are normalised first
  craft::relative(ctx, x.in(), a.in(), cosine, map, rx.out());
  craft::relative(ctx, y.in(), a.in(), cosine, map, ry.out());
  array<D> drx(r.n(), r.classes()), dry(r.m(), r.classes());
  array<D, typename D::compute> value(1, 1), dscale(1, 1);
  craft::mmd_gradients<S, D::space> between;
  between.x = craft::overwrite(drx.out());
  between.y = craft::overwrite(dry.out());
  craft::mmd(ctx, rx.in(), ry.in(), kernel, options, value.as_value(), between);
  array<D> dx(r.n(), r.d()), dy(r.m(), r.d()), da(r.classes(), r.d());
  craft::relative_gradients<S, D::space> first, second;
  first.x = craft::overwrite(dx.out());
  first.anchors = craft::overwrite(da.out());
  first.log_scale = craft::overwrite(dscale.out());
  second.x = craft::overwrite(dy.out());
  second.anchors = craft::accumulate(da.out());
  second.log_scale = craft::accumulate(dscale.out());
  craft::relative_pullback(ctx, x.in(), a.in(), cosine, map, drx.in(), first);
  craft::relative_pullback(ctx, y.in(), a.in(), cosine, map, dry.in(), second);
  const record::gradients grads = {{"X", dx.get()}, {"Y", dy.get()}, {anchor_leaf, da.get()}};
  if (std::is_same_v<typename D::compute, double>) {
    r.check(value.number(), grads);
    // Min-max scaling leaves next to nothing of the scale: absolute then.
    CHECK(r.gradient_distance("log_logit_scale", dscale.get()) <=
          1e-12 + gradient_relative * r.gradient_norm("log_logit_scale"));
  } else if (options.columns == craft::column_scaling::none) {
    // Relative representations of size s, rounded, with the Jacobian s / |x| behind: some tens of roundings of the
    // gradients that go through, which the norms of the results measure to a factor.
    const double s = r.parameter("logit_scale");
    const rounding allowed = float_allowance(rx.get(), ry.get(), kernel, setup{options});
    const double nx = in.X.rowwise().norm().minCoeff(), ny = in.Y.rowwise().norm().minCoeff(),
                 na = anchors.rowwise().norm().minCoeff(), c = double(r.classes());
    const double lx = 3 * s * std::sqrt(c) * allowed.x, ly = 3 * s * std::sqrt(c) * allowed.y;
    r.check(value.number(), allowed.value * 3, grads, {lx / nx, ly / ny, (lx + ly) / na});
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("MMD in anchor space, through the relative representation", "[mmd][relative][reference]",
                        devices) {
  using D = TestType;
  for (const record& r : reference::cases("mmd", "craft_mmd_anchor_space_rbf")) {
    const auto p = craft::presets::craft_rbf();
    meets_in_anchor_space<D>(r, reference::inputs(r).T, "T", p.kernel, p.options);
  }
  for (const record& r : reference::cases("mmd", "craft_mmd_anchor_space_multiscale")) {
    const auto p = craft::presets::craft_multiscale();
    meets_in_anchor_space<D>(r, reference::inputs(r).T, "T", p.kernel, p.options);
  }
  for (const form f : {form::biased, form::unbiased})
    for (const record& r : reference::cases(
             "mmd_derived", std::string("derived_anchor_space_gauss_") + (f == form::biased ? "V" : "U"))) {
      craft::mmd_options options = options_of(f);
      meets_in_anchor_space<D>(r, reference::inputs(r).A, "A", craft::gaussians<>::mean(r.parameters("sigma")),
                               options);
    }
}
