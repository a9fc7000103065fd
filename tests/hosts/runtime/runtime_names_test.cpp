// What hosts find by name beside the verbs: element types, enumerations, kernels and presets.
#include <cmath>

#include "craft/craft.hpp"
#include "reference.hpp"
#include "runtime_inputs.hpp"

using namespace craft_test;

// ---------------------------------------------------------------------------------------------------------
// Names

TEST_CASE("element types by name", "[runtime][names]") {
  const std::vector<std::pair<std::string, dtype>> all = {{"float64", dtype::float64},   {"float32", dtype::float32},
                                                          {"float16", dtype::float16},   {"bfloat16", dtype::bfloat16},
                                                          {"int64", dtype::int64},       {"int32", dtype::int32}};
  for (const auto& [name, type] : all) {
    CHECK(rt::name(type) == name);
    CHECK(rt::dtype_named(name) == type);
    CHECK(rt::computing(type) == (type == dtype::float64 ? dtype::float64 : dtype::float32));
    CHECK(rt::bytes_of(type) == (name.find("64") != std::string::npos ? 8 : name.find("32") != std::string::npos ? 4 : 2));
  }
  for (const std::string wrong : {"", "float", "Float32", "int16", "float32 ", "another type"}) {
    CHECK_THROWS_AS(rt::dtype_named(wrong), craft::type_error);
    CHECK_THROWS_WITH(rt::dtype_named(wrong), contains("bfloat16") && contains("got " + wrong));
  }
}

namespace {

using choices = std::vector<std::pair<std::string, int>>;

/// Of an enumeration: its names stand where its enumerators do.
template <class Enum>
choices in_order(const std::vector<std::pair<std::string, Enum>>& all) {
  const auto names = names_of(Enum());
  REQUIRE(names.size() == all.size());
  choices out;
  for (const auto& [name, value] : all) {
    CHECK(names[std::size_t(value)] == name);
    out.emplace_back(name, int(value));
  }
  return out;
}

}  // namespace

TEST_CASE("options by the names of their enumerators", "[runtime][names]") {
  using craft::anchor_statistics;
  using craft::bandwidth_rule;
  using craft::bandwidth_sample;
  using craft::column_scaling;
  using craft::direction;
  using craft::estimator;
  using craft::metric;
  using craft::reduction;
  using convention = craft::presets::convention;
  std::map<std::string, choices> of;
  of["estimator"] = in_order<estimator>(
      {{"biased", estimator::biased}, {"unbiased", estimator::unbiased}, {"linear", estimator::linear}});
  of["bandwidth_rule"] = in_order<bandwidth_rule>({{"fixed", bandwidth_rule::fixed},
                                                   {"mean", bandwidth_rule::mean},
                                                   {"mean_offdiagonal", bandwidth_rule::mean_offdiagonal},
                                                   {"median", bandwidth_rule::median},
                                                   {"median_mid", bandwidth_rule::median_mid}});
  of["bandwidth_sample"] = in_order<bandwidth_sample>({{"pooled", bandwidth_sample::pooled}, {"x", bandwidth_sample::x}});
  of["columns"] = in_order<column_scaling>({{"none", column_scaling::none},
                                            {"minmax_separate", column_scaling::minmax_separate},
                                            {"minmax_joint", column_scaling::minmax_joint}});
  of["direction"] = in_order<direction>({{"one_way", direction::one_way}, {"symmetric", direction::symmetric}});
  of["reduction"] = in_order<reduction>({{"mean", reduction::mean}, {"sum", reduction::sum}});
  of["statistics"] = in_order<anchor_statistics>({{"none", anchor_statistics::none},
                                                  {"centre", anchor_statistics::centre},
                                                  {"standardise", anchor_statistics::standardise}});
  of["metric"] = in_order<metric>({{"euclidean", metric::euclidean}, {"cosine", metric::cosine}});
  of["preset"] = in_order<convention>({{"craft_rbf", convention::craft_rbf},
                                       {"craft_multiscale", convention::craft_multiscale},
                                       {"tllib", convention::tllib},
                                       {"transferlearning", convention::transferlearning},
                                       {"cmmd", convention::cmmd},
                                       {"geomloss_gaussian", convention::geomloss_gaussian},
                                       {"geomloss_laplacian", convention::geomloss_laplacian},
                                       {"geomloss_energy", convention::geomloss_energy},
                                       {"alibi_detect", convention::alibi_detect},
                                       {"kid", convention::kid}});
  for (const rt::verb& v : rt::verbs())
    for (const rt::field& f : v.fields) {
      if (f.kind != kind::choice || f.choices == rt::kernel::families()) continue;
      INFO(v.name << ", " << f.name);
      REQUIRE(of.count(f.name) == 1);
      REQUIRE(of[f.name].size() == f.choices.size());
      for (const auto& [name, value] : of[f.name]) CHECK(f.choices[std::size_t(value)] == name);
    }
}

TEST_CASE("kernels by name are those of kernels.hpp", "[runtime][names]") {
  using D = stored_as<double>;
  const index_t n = 9, classes = 3, d = 5;
  const reals X = random_reals(n, d, 11), A = random_reals(classes, d, 12);
  const array<D> x(X), a(A);
  // One number per pair, beside the struct's own formula.
  const auto check = [&](const std::string& family, const std::vector<double>& bandwidths, const std::vector<double>& weights,
                         double shape, const auto& formula, index_t by_weights, index_t by_bandwidths) {
    INFO(family << ", " << bandwidths.size() << " bandwidths");
    array<D> out(n, classes);
    rt::call c("relative");
    c.give("x", in(x)), c.give("anchors", in(a)), c.give("normalise", false), c.give("similarity", family);
    if (!bandwidths.empty()) c.give("bandwidths", bandwidths);
    if (!weights.empty()) c.give("weights", weights);
    if (shape != 0) c.give("shape", shape);
    c.result("out", to(out));
    c.run(craft::any_device(D::make()));
    const reals got = out.get();
    for (index_t i = 0; i < n; ++i)
      for (index_t k = 0; k < classes; ++k) {
        const double want = formula(X.row(i).dot(A.row(k)), X.row(i).squaredNorm(), A.row(k).squaredNorm());
        CHECK(std::abs(got(i, k) - want) <= 1e-13 * (1 + std::abs(want)));
      }
    const rt::kernel kernel(family, bandwidths, weights, shape != 0 ? std::optional<double>(shape) : std::nullopt);
    CHECK(kernel.weights() == by_weights);
    CHECK(kernel.bandwidths() == by_bandwidths);
  };
  // w0 k(bandwidth 0) + w1 k(bandwidth 1)
  const auto sum = [](double w0, const auto& k0, double w1, const auto& k1) {
    return [=](double s, double p, double q) { return w0 * k0.value(s, p, q) + w1 * k1.value(s, p, q); };
  };
  const auto one = [](const auto& k) { return [k](double s, double p, double q) { return k.value(s, p, q); }; };
  check("gaussian", {}, {}, 0, one(craft::gaussian(1.0)), 1, 1);
  check("gaussian", {3, 2}, {}, 0, sum(1, craft::gaussian(3.0), 1, craft::gaussian(2.0)), 2, 2);
  check("gaussian", {2, 3}, {0.5, -4}, 0, sum(0.5, craft::gaussian(2.0), -4, craft::gaussian(3.0)), 2, 2);
  check("laplacian", {}, {}, 0, one(craft::laplacian(1.0)), 1, 1);
  check("laplacian", {3, 2}, {0.5, 4}, 0, sum(0.5, craft::laplacian(3.0), 4, craft::laplacian(2.0)), 2, 2);
  check("laplacian", {2}, {}, 9, one(craft::laplacian(2.0, 9.0)), 1, 1);
  check("inverse_multiquadric", {}, {}, 0, one(craft::inverse_multiquadric(1.0)), 1, 1);
  check("inverse_multiquadric", {3, 2}, {0.5, 4}, 0.7,
        sum(0.5, craft::inverse_multiquadric(3.0, 0.7), 4, craft::inverse_multiquadric(2.0, 0.7)), 2, 2);
  const craft::rational_quadratic unit(1.0, 0.7);
  check("rational_quadratic", {}, {3}, 0.7, sum(3, unit, 0, unit), 1, 2);
  check("rational_quadratic", {3, 2}, {0.5, 4}, 0.7,
        sum(0.5, craft::rational_quadratic(3.0, 0.7), 4, craft::rational_quadratic(2.0, 0.7)), 2, 4);
  for (const std::string name : {"energy", "negative_distance"}) {
    check(name, {}, {}, 0, one(craft::energy<>()), 1, 0);
    check(name, {}, {2.5}, 9, sum(2.5, craft::energy<>(9.0), 0, craft::energy<>()), 1, 0);
  }
  check("polynomial", {}, {}, 0, one(craft::polynomial(1.0, 1.0, 3)), 0, 2);
  check("polynomial", {2}, {}, 0.25, one(craft::polynomial(2.0, 0.25, 3)), 0, 2);
  check("dot_product", {}, {}, 0, one(craft::dot_product<>()), 0, 0);
  check("cosine", {}, {}, 0, one(craft::cosine<>()), 0, 0);
  CHECK(rt::kernel::families().size() == 9);

  const rt::kernel power("polynomial", {1.5}, {}, 0.0, 5);  // an offset of 0 that is given is no default
  CHECK(power.form() == rt::kernel::form::polynomial);
  CHECK((power.degree() == 5 && power.members()[0].bandwidth == 1.5 && power.members()[0].shape == 0));
  CHECK(rt::kernel("dot_product", {}).form() == rt::kernel::form::dot_product);
  CHECK(rt::kernel("cosine", {}).form() == rt::kernel::form::cosine);
  CHECK(rt::kernel("cosine", {}).members().empty());
  CHECK(rt::kernel("energy", {}).form() == rt::kernel::form::distance);
  const rt::kernel two("laplacian", {3, 2}, {0.5, 4}, 0.1);
  REQUIRE(two.members().size() == 2);
  CHECK(two.members()[1].family == craft::kernel_family::laplacian);
  CHECK(two.members()[1].weight == 4);
  CHECK(two.members()[1].bandwidth == 2);
  CHECK(two.members()[1].shape == 0.1);
}

TEST_CASE("kernels that there are not", "[runtime][errors]") {
  using craft::option_error;
  using member = rt::kernel::member;
  using numbers = std::vector<double>;
  const double one_by_one[1] = {};
  const auto refused = [&](const std::string& name, const numbers& bandwidths, const numbers& weights, double shape,
                           const std::vector<std::string>& parts) {
    INFO(name);
    rejects<option_error>(watched(), [&] { rt::kernel(name, bandwidths, weights, shape); }, parts);
    // And through a verb, which says that it was the one.
    rt::call c("mmd");
    c.give("x", rt::matrix{one_by_one, 1, 1, 1, dtype::float64}), c.give("y", rt::matrix{one_by_one, 1, 1, 1, dtype::float64});
    c.give("kernel", name), c.give("bandwidths", bandwidths), c.give("weights", weights), c.give("shape", shape);
    rejects<option_error>(watched(), [&] { c.check(); }, parts);
    rejects<option_error>(watched(), [&] { c.check(); }, {"mmd: "});
  };
  refused("rbf", {1}, {}, 0, {"gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy",
                              "negative_distance", "polynomial", "dot_product", "cosine", "got rbf"});
  refused("", {1}, {}, 0, {"got "});
  for (const std::string name : {"gaussian", "laplacian", "inverse_multiquadric"}) {
    refused(name, {1, 2}, {1}, 0, {"1 weights for 2 kernels"});
    refused(name, {}, {1, 2}, 0, {"2 weights for 1 kernel"});
    for (const double bad : {0.0, -1.0, not_a_number, infinity}) refused(name, {1, bad}, {}, 0, {"must be positive"});
    refused(name, {1}, {not_a_number}, 0, {"weights must be finite"});
  }
  for (const std::string name : {"laplacian", "inverse_multiquadric"}) refused(name, {1}, {}, -1, {"must not be negative"});
  refused("rational_quadratic", {1}, {}, 0, {"alpha must be positive"});
  refused("polynomial", {1, 2}, {}, 0, {"polynomial takes one bandwidth, got 2"});
  refused("polynomial", {1}, {1}, 0, {"polynomial takes no weight, got 1"});
  refused("polynomial", {-1}, {}, 0, {"length must be positive, got -1"});
  refused("polynomial", {1}, {}, infinity, {"offset must be finite"});
  for (const index_t degree : {0, 33}) {
    rt::call c("mmd");
    c.give("x", rt::matrix{one_by_one, 1, 1, 1, dtype::float64}), c.give("y", rt::matrix{one_by_one, 1, 1, 1, dtype::float64});
    c.give("kernel", "polynomial"), c.give("degree", degree);
    rejects<option_error>(watched(), [&] { c.check(); }, {"degree must lie between 1 and 32, got " + std::to_string(degree)});
  }
  rejects<option_error>(watched(), [&] { rt::kernel("gaussian", {}, {}, {}, 2); }, {"gaussian takes no degree, got 2"});
  rejects<option_error>(watched(), [&] { rt::kernel("rational_quadratic", {1}); }, {"rational_quadratic needs a shape, its alpha"});
  refused("energy", {1}, {}, 0, {"energy takes no bandwidth, got 1"});
  refused("energy", {}, {1, 1}, 0, {"2 weights for 1 kernel"});
  refused("energy", {}, {}, -1, {"floor must not be negative"});
  for (const std::string name : {"dot_product", "cosine"}) {
    refused(name, {1}, {}, 0, {name + " takes no bandwidth"});
    refused(name, {}, {1}, 0, {name + " takes no weight"});
    refused(name, {}, {}, 1, {name + " takes no shape, got 1"});
  }
  refused("gaussian", {1}, {}, 0.5, {"gaussian takes no shape, got 0.5"});
  refused("laplacian", numbers(17, 1.0), {}, 0, {"17"});
  refused("gaussian", numbers(65, 1.0), {}, 0, {"65"});

  const auto of = [](std::size_t count, member one) { return rt::kernel(std::vector<member>(count, one)); };
  const member laplacian{craft::kernel_family::laplacian};
  CHECK(of(64, {}).bandwidths() == 64);
  CHECK(of(16, laplacian).bandwidths() == 16);
  CHECK_THROWS_AS(of(0, {}), option_error);
  CHECK_THROWS_AS(of(65, {}), option_error);
  CHECK_THROWS_AS(of(17, laplacian), option_error);
  std::vector<member> mixed(16);
  mixed.push_back(laplacian);
  CHECK_THROWS_AS(rt::kernel(mixed), option_error);
  CHECK_THROWS_AS(of(1, {craft::kernel_family(7)}), option_error);
}

// ---------------------------------------------------------------------------------------------------------
// Presets

namespace {

/// Value and gradients of a preset meet the reference numbers of a case, at every size of it.
void meets(const std::string& name, const std::string& preset, bool blurred = false, bool weighted = false) {
  using D = stored_as<double>;
  for (const reference::record& r : reference::cases("mmd", name)) {
    const reference::inputs data(r);
    const array<D> x(data.X), y(data.Y), wx(data.a), wy(data.b);
    array<D> value(1, 1), dx(r.n(), r.d()), dy(r.m(), r.d());
    rt::call c("mmd_preset");
    c.give("x", in(x)), c.give("y", in(y)), c.give("preset", preset);
    if (blurred) c.give("blur", r.parameter("blur"));
    if (weighted) c.give("x_weights", in(wx.as_numbers())), c.give("y_weights", in(wy.as_numbers()));
    c.result("value", to(value)), c.gradient("x", to(dx)), c.gradient("y", to(dy));
    c.run(craft::any_device(D::make()));
    r.check(value.number(), {{"X", dx.get()}, {"Y", dy.get()}});
  }
}

}  // namespace

TEST_CASE("presets by name meet the implementations they are named after", "[runtime][presets][reference]") {
  meets("craft_mmd_rbf", "craft_rbf");
  meets("craft_mmd_multiscale", "craft_multiscale");
  meets("tllib_mkmmd_nonlinear_5k", "tllib");
  meets("jindongwang_deepda_rbf", "transferlearning");
  meets("cmmd", "cmmd");
  meets("alibi_mmd2_median", "alibi_detect");
  meets("geomloss_gaussian_blur0.5", "geomloss_gaussian", true);
  meets("geomloss_laplacian_blur0.05_weighted", "geomloss_laplacian", true, true);
  meets("geomloss_energy", "geomloss_energy");
}

TEST_CASE("presets that there are not", "[runtime][presets][errors]") {
  using D = stored_as<double>;
  const array<D> one(random_reals(1, 2, 1)), two(random_reals(2, 2, 2));
  array<D> value(1, 1, sentinel);
  const watched all(value);
  const auto run = [&](const char* preset, double blur, const array<D>& x) {
    rt::call c("mmd_preset");
    c.give("x", in(x)), c.give("y", in(two)), c.give("preset", preset), c.give("blur", blur);
    c.result("value", to(value));
    c.run(craft::any_device(D::make()));
  };
  rejects<craft::shape_error>(all, [&] { run("tllib", 0.05, one); }, {"tllib: expected at least 2 rows, got 1"});
  rejects<craft::option_error>(all, [&] { run("geomloss_gaussian", 0, two); }, {"sigma must be positive, got 0"});
  rejects<craft::option_error>(all, [&] { run("craft", 0.05, two); }, {"mmd_preset: preset: expected craft_rbf", "got craft"});
  CHECK_NOTHROW(run("tllib", 0.05, two));
}

// ---------------------------------------------------------------------------------------------------------
// Builds with and without CUDA

TEST_CASE("any_device is another class where CUDA is known", "[runtime][any_device]") {
#ifdef CRAFT_TEST_CUDA
  STATIC_REQUIRE(std::is_same_v<craft::any_device, craft::with_cuda::any_device>);
#else
  STATIC_REQUIRE(std::is_same_v<craft::any_device, craft::without_cuda::any_device>);
#endif
}

#ifdef CRAFT_TEST_CUDA
TEST_CASE("one program calls both devices, with two-byte numbers that each has its own type for", "[runtime][any_device]") {
  const index_t n = 9, m = 8, d = 5;
  const reals X = random_reals(n, d, 1), Y = random_reals(m, d, 2);
  const auto check = [&](auto on_device, auto on_host, dtype type) {
    using D = decltype(on_device);
    using H = decltype(on_host);
    const auto run = [&](const auto& x, const auto& y, auto& value, auto& dx, const craft::any_device& device) {
      const auto sample = [&](const auto& a) {
        const auto v = a.in();
        return rt::matrix{v.data(), v.rows(), v.cols(), v.stride(), type, std::decay_t<decltype(v)>::space};
      };
      rt::call c("mmd");
      c.give("x", sample(x)), c.give("y", sample(y));
      c.result("value", to(value)), c.gradient("x", to(dx));
      c.run(device);
    };
    const array<D> x(X), y(Y);
    const array<H> host_x(X), host_y(Y);
    array<D, float> value(1, 1), dx(n, d);
    array<H, float> host_value(1, 1), host_dx(n, d);
    run(x, y, value, dx, craft::any_device(craft::cuda()));
    run(host_x, host_y, host_value, host_dx, craft::any_device(craft::cpu(1)));
    CHECK(std::abs(value.number() - host_value.number()) <= 1e-6);
    CHECK(relative_distance(dx.get(), host_dx.get()) <= 1e-5);
  };
  check(stored_as<half>(), device<cpu_backend, Eigen::half>(), dtype::float16);
  check(stored_as<bfloat16>(), device<cpu_backend, Eigen::bfloat16>(), dtype::bfloat16);
}
#endif
