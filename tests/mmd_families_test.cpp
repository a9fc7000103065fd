// MMD^2 of every kernel family and option against reference values of the formulas (tests/reference/README.md), with
// the gradients by kernel weights and bandwidths.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_reference.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"
#include "reference.hpp"

using namespace craft_test;
using reference::record;

TEMPLATE_LIST_TEST_CASE("kernel families with parameter gradients, in three forms", "[mmd][reference]", devices) {
  using D = TestType;
  for (const form f : {form::biased, form::unbiased, form::linear}) {
    const std::string end = f == form::biased ? "_V" : f == form::unbiased ? "_U" : "_L";
    const auto family = [&](const std::string& name, const auto& make) {
      meets<D>("mmd_derived", "derived_" + name + end, make);
    };
    family("gauss", [&](const record& r, auto&) {
      return with(craft::gaussian(r.parameter("sigma")), f, {{"sigma", false, 0, 1}});
    });
    family("gauss_sum", [&](const record& r, auto&) {
      return with(craft::gaussians<>(r.parameters("sigma")), f, {{"sigma", false, 0, 4}});
    });
    family("gauss_mean", [&](const record& r, auto&) {
      return with(craft::gaussians<>::mean(r.parameters("sigma")), f, {{"sigma", false, 0, 4}});
    });
    family("gauss_weighted", [&](const record& r, auto&) {
      return with(craft::gaussians<>(r.parameters("sigma"), r.parameters("beta")), f,
                  {{"beta", true, 0, 4}, {"sigma", false, 0, 4}});
    });
    family("laplacian_l2", [&](const record& r, auto&) {
      return with(craft::laplacian(r.parameter("b")), f, {{"b", false, 0, 1}});
    });
    family("imq", [&](const record& r, auto&) {
      return with(craft::inverse_multiquadric(r.parameter("a")), f, {{"a", false, 0, 1}});
    });
    family("imq_multi", [&](const record& r, auto&) {
      const auto a = r.parameters("a");
      using craft::inverse_multiquadric;
      return with(inverse_multiquadric(a[0]) + inverse_multiquadric(a[1]) + inverse_multiquadric(a[2]) +
                      inverse_multiquadric(a[3]),
                  f, {{"a", false, 0, 4}});
    });
    family("imq_half", [&](const record& r, auto&) {
      return with(craft::rational_quadratic(r.parameter("c"), 0.5), f, {{"c", false, 0, 1}});
    });
    family("rq", [&](const record& r, auto&) {
      return with(craft::rational_quadratic(r.parameter("l"), r.parameter("alpha")), f,
                  {{"l", false, 0, 1}, {"alpha", false, 1, 1}});
    });
    family("energy", [&](auto&, auto&) { return with(craft::energy<>(), f); });
    family("linear", [&](auto&, auto&) { return with(craft::dot_product<>(), f); });
    family("poly", [&](const record& r, auto&) {
      const double length = 1 / std::sqrt(r.parameter("gamma"));
      return with(craft::polynomial(length, r.parameter("c0"), int(r.parameter("degree"))), f,
                  {{"gamma", false, 0, 1, -length * length * length / 2}, {"c0", false, 1, 1}});
    });
  }
}

TEMPLATE_LIST_TEST_CASE("sample weights, biased and unbiased", "[mmd][reference]", devices) {
  using D = TestType;
  for (const form f : {form::biased, form::unbiased}) {
    const std::string end = f == form::biased ? "_V" : "_U";
    const auto weighted = [&](const std::string& name, const auto& kernel) {
      meets<D>("mmd_derived", "derived_sample_weighted_" + name + end, [&](const record&, const auto& in) {
        auto made = with(kernel, f);
        made.second.weights = {in.wx, in.wy};  // normalised inside
        return made;
      });
    };
    weighted("gauss", craft::gaussian(1.0));
    weighted("gauss_sum", craft::gaussians<>({0.5, 1, 2, 4}));
    weighted("energy", craft::energy<>());
  }
}

TEMPLATE_LIST_TEST_CASE("bandwidth rules, detached and attached", "[mmd][reference]", devices) {
  using D = TestType;
  using craft::bandwidth_rule;
  using craft::bandwidth_sample;
  struct rule {
    const char* name;
    bandwidth_rule rule;
    bandwidth_sample sample;
  };
  for (const rule& b : {rule{"mean_offdiag_x", bandwidth_rule::mean_offdiagonal, bandwidth_sample::x},
                        rule{"median_lower_x", bandwidth_rule::median, bandwidth_sample::x},
                        rule{"mean_all", bandwidth_rule::mean, bandwidth_sample::pooled},
                        rule{"mean_offdiag", bandwidth_rule::mean_offdiagonal, bandwidth_sample::pooled},
                        rule{"median_lower", bandwidth_rule::median, bandwidth_sample::pooled},
                        rule{"median_mid", bandwidth_rule::median_mid, bandwidth_sample::pooled}})
    for (const bool attached : {false, true})
      for (const form f : {form::biased, form::unbiased}) {
        const std::string name = std::string("derived_bandwidth_") + b.name + (attached ? "_attached" : "_detached") +
                                 (f == form::biased ? "_V" : "_U");
        meets<D>("mmd_derived", name, [&](const record& r, auto&) {
          auto made = with(craft::gaussians<>(mapped(r.parameters("alphas"), root)), f);
          made.second.options.bandwidth = {b.rule, b.sample, attached};
          return made;
        });
      }
}

TEMPLATE_LIST_TEST_CASE("columns scaled by their range", "[mmd][reference]", devices) {
  using D = TestType;
  using craft::column_scaling;
  struct mode {
    const char* name;
    column_scaling columns;
    bool gradient;
  };
  for (const mode& c :
       {mode{"none", column_scaling::none, true}, mode{"separate", column_scaling::minmax_separate, true},
        mode{"joint", column_scaling::minmax_joint, true},
        mode{"separate_detached", column_scaling::minmax_separate, false}})
    for (const form f : {form::biased, form::unbiased})
      meets<D>("mmd_derived", std::string("derived_minmax_") + c.name + (f == form::biased ? "_V" : "_U"),
               [&](const record& r, auto&) {
                 auto made = with(craft::gaussians<>(mapped(r.parameters("a"), root)), f);
                 made.second.options.columns = c.columns;
                 made.second.options.column_gradient = c.gradient;
                 made.second.options.column_eps = r.parameter("eps");
                 return made;
               });
}

TEMPLATE_LIST_TEST_CASE("class-conditional MMD as a sum of weighted ones", "[mmd][reference]", devices) {
  // mean over classes of MMD^2 with weights 1[y = c] on x and softmax scores on y: weights of zero, the upstream
  // factor and accumulation together.
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make();
  for (const record& r : reference::cases("mmd_derived", "derived_class_conditional_y2")) {
    const reference::inputs in(r);
    const craft::gaussians<> kernel(r.parameters("sigma"));
    std::vector<index_t> present = in.y2;
    std::sort(present.begin(), present.end());
    present.erase(std::unique(present.begin(), present.end()), present.end());
    const array<D> x(in.X), y(in.Y);
    array<D> dx(r.n(), r.d(), 0), dy(r.m(), r.d(), 0);
    double value = 0;
    rounding allowed;
    for (const index_t c : present) {
      std::vector<double> wx, wy;
      for (index_t i = 0; i < r.n(); ++i) wx.push_back(in.y2[std::size_t(i)] == c ? 1 : 0);
      for (index_t j = 0; j < r.m(); ++j) wy.push_back(in.Q(j, c));
      const array<D, T> ax(wx), ay(wy);
      craft::mmd_options options;
      options.x_weights = ax.as_numbers();
      options.y_weights = ay.as_numbers();
      options.upstream = 1 / double(present.size());
      craft::mmd_gradients<typename D::scalar, D::space> add;
      add.x = craft::accumulate(dx.out());
      add.y = craft::accumulate(dy.out());
      array<D, T> one(1, 1);
      craft::mmd(ctx, x.in(), y.in(), kernel, options, one.as_value(), add);
      value += one.number() / double(present.size());
      const rounding each = float_allowance(in.X, in.Y, kernel, setup{craft::mmd_options{}, {wx, wy}});
      allowed.value += each.value / double(present.size());
      allowed.x += each.x / double(present.size());
      allowed.y += each.y / double(present.size());
    }
    if (std::is_same_v<T, double>)
      r.check(value, {{"X", dx.get()}, {"Y", dy.get()}});
    else
      r.check(value, allowed.value, {{"X", dx.get()}, {"Y", dy.get()}}, {allowed.x, allowed.y});
  }
}
