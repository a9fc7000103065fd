// Discrepancies by name are those discrepancies, to the last bit; and where the runtime gives other gradients than the verb, they
// are made of the verb's.
#include "craft/two_sample.hpp"
#include "runtime_calls.hpp"

using namespace craft_test;
using craft::option_error;
using craft::shape_error;

template <class D>
void craft_test::add_discrepancies(calls<D>& all, const samples<D>& s) {
  using T = typename D::compute;
  std::vector<std::pair<craft::mmd_options, std::function<void(rt::call&)>>> options(3);
  options[0].second = [](rt::call&) {};
  craft::mmd_options& unbiased = options[1].first;
  unbiased.estimator = craft::estimator::unbiased;
  unbiased.bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::x, true};
  unbiased.x_weights = s.x_weights.as_numbers(), unbiased.y_weights = s.y_weights;
  unbiased.upstream = s.half_of.as_scalar();
  options[1].second = [&s](rt::call& c) {
    c.give("estimator", "unbiased"), c.give("bandwidth_rule", "median"), c.give("bandwidth_sample", "x");
    c.give("bandwidth_gradient", true), c.give("x_weights", in(s.x_weights.as_numbers())), c.give("y_weights", in(s.y_weights));
    c.upstream(s.half_of.as_scalar());
  };
  craft::mmd_options& linear = options[2].first;
  linear.estimator = craft::estimator::linear;
  linear.columns = craft::column_scaling::minmax_joint;
  linear.column_gradient = false, linear.column_eps = 0.25;
  linear.factor = 3, linear.offset = 0.125;
  options[2].second = [](rt::call& c) {
    c.give("estimator", "linear"), c.give("columns", "minmax_joint"), c.give("column_gradient", false);
    c.give("column_eps", 0.25), c.give("factor", 3), c.give("offset", 0.125);
  };
  for_each_kernel("kernel", [&](const std::string& name, const auto& give_kernel, const auto& kernel) {
    for (const auto& [o, give_options] : options)
      all.push_back({"mmd", name + ", " + std::to_string(int(o.estimator)),
                     [&s, give_kernel, give_options = give_options](rt::call& c) {
                       c.give("x", in(s.x)), c.give("y", in(s.y));
                       give_kernel(c), give_options(c);
                     },
                     [&s, kernel, o = o](const auto& ctx, written<D>& to) {
                       craft::mmd_gradients<T, D::space> g;
                       g.x = to.gradient("x", n, d, 2), g.y = to.gradient("y", m, d);
                       if (kernel.weights() > 0) g.weights = to.gradient("weights", 1, kernel.weights());
                       // Two for each bandwidth: they are split, which "are split and summed" tests.
                       const bool paired = std::is_same_v<std::decay_t<decltype(kernel)>, craft::polynomial<>>;
                       if (kernel.bandwidths() > 0 && !paired) g.bandwidths = to.gradient("bandwidths", kernel.bandwidths(), 1, 1);
                       if (o.estimator != craft::estimator::linear)
                         g.x_weights = to.gradient("x_weights", 1, n), g.y_weights = to.gradient("y_weights", m, 1);
                       craft::mmd(ctx, s.x.in(), s.y.in(), kernel, o, to.value(), g);
                     }});
  });
  // Nothing but what has no default, and nothing asked for but the value.
  all.push_back({"mmd", "defaults", [&s](rt::call& c) { c.give("x", in(s.x)), c.give("y", in(s.y)); },
                 [&s](const auto& ctx, written<D>& to) {
                   craft::mmd(ctx, s.x.in(), s.y.in(), craft::gaussians<>{1.0}, {}, to.value());
                 }});

  // Presets, with their kernels written out in the order in which they were.
  namespace presets = craft::presets;
  const auto gaussians = [](std::vector<double> squares) {
    for (double& a : squares) a = std::sqrt(a);
    return craft::gaussians<>(squares);
  };
  const auto preset = [&](const std::string& name, double blur, const craft::mmd_options& o, const auto& kernel) {
    all.push_back({"mmd_preset", name,
                   [&s, name, blur](rt::call& c) {
                     c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("preset", name), c.give("blur", blur);
                     c.give("x_weights", in(s.x_weights.as_numbers())), c.give("y_weights", in(s.y_weights));
                     c.upstream(0.75);
                   },
                   [&s, o, kernel](const auto& ctx, written<D>& to) {
                     craft::mmd_options with = o;
                     with.x_weights = s.x_weights.as_numbers(), with.y_weights = s.y_weights, with.upstream = 0.75;
                     craft::mmd_gradients<T, D::space> g;
                     g.x = to.gradient("x", n, d, 2), g.y = to.gradient("y", m, d);
                     g.x_weights = to.gradient("x_weights", n, 1), g.y_weights = to.gradient("y_weights", 1, m);
                     craft::mmd(ctx, s.x.in(), s.y.in(), kernel, with, to.value(), g);
                   }});
  };
  const auto member = [](craft::kernel_family family, double bandwidth, double shape) {
    return craft::any_kernel<>::member{family, 1, bandwidth, shape};
  };
  using family = craft::kernel_family;
  const family multiquadric = family::inverse_multiquadric;
  preset("craft_rbf", 0.05, presets::craft_rbf().options, gaussians({10, 15, 20, 50}));
  preset("craft_multiscale", 0.05, presets::craft_multiscale().options,
         craft::any_kernel<>({member(multiquadric, 0.2, 1e-8), member(multiquadric, 0.5, 1e-8), member(multiquadric, 0.9, 1e-8),
                              member(multiquadric, 1.3, 1e-8)}));
  preset("tllib", 0.05, presets::tllib(n).options, gaussians({0.125, 0.25, 0.5, 1, 2}));
  preset("transferlearning", 0.05, presets::transferlearning().options, gaussians({0.125, 0.25, 0.5, 1, 2}));
  preset("cmmd", 0.05, presets::cmmd().options, gaussians({100}));
  preset("geomloss_gaussian", 0.7, presets::geomloss_gaussian(0.7).options, craft::gaussians<>({0.7}));
  preset("geomloss_laplacian", 0.7, presets::geomloss_laplacian(0.7).options,
         craft::any_kernel<>({member(family::laplacian, 0.7, presets::geomloss_laplacian(0.7).kernel.floor)}));
  preset("geomloss_energy", 0.05, presets::geomloss_energy().options, craft::any_kernel<>({member(family::energy, 1, 1e-8)}));
  preset("alibi_detect", 0.05, presets::alibi_detect().options, gaussians({0.5}));
  preset("kid", 0.05, presets::kid(d).options, presets::kid(d).kernel);

  // What only describes samples.
  const craft::kernel_inception_distance_options kid{3, 5, 2, 1.5, 0.25, 7};
  all.push_back({"kernel_inception_distance", "3 subsets of 5",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("subsets", 3), c.give("subset_size", 5);
                   c.give("degree", 2), c.give("length", 1.5), c.give("offset", 0.25), c.give("seed", 7);
                 },
                 [&s, kid](const auto& ctx, written<D>& to) {
                   const auto r = craft::kernel_inception_distance(ctx, s.x.in(), s.y.in(), kid);
                   to.found("mean", r.mean), to.found("deviation", r.deviation), to.found("values", r.values);
                 }});
  for_each_kernel("kernel", [&](const std::string& name, const auto& give_kernel, const auto& kernel) {
    all.push_back({"two_sample_test", name,
                   [&s, give_kernel](rt::call& c) {
                     c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("bandwidth_rule", "median_mid");
                     c.give("bandwidth_sample", "pooled"), c.give("permutations", 19), c.give("seed", 5);
                     give_kernel(c);
                   },
                   [&s, kernel](const auto& ctx, written<D>& to) {
                     craft::two_sample_options o;
                     o.bandwidth.rule = craft::bandwidth_rule::median_mid;
                     o.permutations = 19, o.seed = 5;
                     const auto r = craft::two_sample_test(ctx, s.x.in(), s.y.in(), kernel, o);
                     to.found("statistic", r.statistic), to.found("p_value", r.p_value), to.found("permuted", r.permuted);
                   }});
  });
  using rule_of = craft::bandwidth_rule;
  const std::vector<std::pair<std::string, rule_of>> rules = {
      {"mean", rule_of::mean}, {"mean_offdiagonal", rule_of::mean_offdiagonal}, {"median", rule_of::median}};
  for (const auto& [rule_name, rule] : rules)
    for (const std::string sample : {"pooled", "x"})
      all.push_back({"bandwidth_scale", rule_name + " of " + sample,
                     [&s, rule_name = rule_name, sample](rt::call& c) {
                       c.give("x", in(s.x)), c.give("y", in(s.y));
                       c.give("bandwidth_rule", rule_name), c.give("bandwidth_sample", sample);
                     },
                     [&s, rule = rule, sample](const auto& ctx, written<D>& to) {
                       const auto of = sample == "x" ? craft::bandwidth_sample::x : craft::bandwidth_sample::pooled;
                       to.found("scale", craft::bandwidth_scale(ctx, s.x.in(), s.y.in(), {rule, of}));
                     }});
  all.push_back({"bandwidth_scale", "the default, which is the median",
                 [&s](rt::call& c) { c.give("x", in(s.x)), c.give("y", in(s.y)); },
                 [&s](const auto& ctx, written<D>& to) {
                   to.found("scale", craft::bandwidth_scale(ctx, s.x.in(), s.y.in(), {craft::bandwidth_rule::median}));
                 }});
}
template void craft_test::add_discrepancies(calls<stored_as<double>>&, const samples<stored_as<double>>&);

TEMPLATE_LIST_TEST_CASE("discrepancies by name are those discrepancies", "[runtime][mmd]", every_type) {
  const samples<TestType> s;
  calls<TestType> all;
  add_discrepancies(all, s);
  check_calls(all);
}

TEMPLATE_TEST_CASE("two-byte inputs have gradients of four bytes, and the verb's are those rounded", "[runtime][mmd]",
                   stored_as<half>, stored_as<bfloat16>) {
  using D = TestType;
  using S = typename D::scalar;
  const samples<D> s;
  array<D, float> value(1, 1), by_x(n, d), by_y(m, d), direct(1, 1);
  array<D> dx(n, d), dy(m, d);
  rt::call c("mmd");
  c.give("x", in(s.x)), c.give("y", in(s.y));
  c.result("value", to(value)), c.gradient("x", to(by_x)), c.gradient("y", to(by_y));
  c.run(craft::any_device(D::make()));
  craft::mmd_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out()), g.y = craft::overwrite(dy.out());
  craft::mmd(D::make(), s.x.in(), s.y.in(), craft::gaussians<>{1.0}, {}, direct.as_value(), g);
  CHECK(value.number() == direct.number());
  CHECK(as_stored<D>(by_x.get()) == dx.get());
  CHECK(as_stored<D>(by_x.get()) != by_x.get());
  CHECK(as_stored<D>(by_y.get()) == dy.get());
}

// Of rational_quadratic the verb gives length and alpha by turns. Hosts have a name for each: one number for each length, and
// one for alpha, which all members share.
TEMPLATE_LIST_TEST_CASE("gradients by bandwidths and shape are split and summed", "[runtime][mmd]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  const samples<D> s;
  const std::vector<double> lengths = {2.5, 1, 4}, weights = {0.5, 1.5, 0.25};
  const auto family = craft::kernel_family::rational_quadratic;
  const craft::any_kernel<> kernel({{family, 0.5, 2.5, 0.75}, {family, 1.5, 1, 0.75}, {family, 0.25, 4, 0.75}});
  array<D, T> by_turns(1, 6), by_weight(1, 3), direct(1, 1), by_direct(n, d);
  craft::mmd_gradients<T, D::space> g;
  g.x = craft::overwrite(by_direct.out());
  g.weights = craft::overwrite(by_weight.out()), g.bandwidths = craft::overwrite(by_turns.out());
  craft::mmd_options o;
  o.upstream = s.half_of.as_scalar();
  craft::mmd(D::make(), s.x.in(), s.y.in(), kernel, o, direct.as_value(), g);
  const reals turns = by_turns.get();
  for (const bool bandwidths : {false, true})
    for (const bool shape : {false, true})
      for (const craft::write mode : {craft::write::overwrite, craft::write::accumulate})
        for (const bool column : {false, true}) {
          INFO("bandwidths " << bandwidths << ", shape " << shape << ", accumulate " << int(mode) << ", column " << column);
          array<D, T> value(1, 1), by_weights(1, 3), by_x(n, d);
          array<D, T> by_length(column ? 3 : 1, column ? 1 : 3, unwritten, 2), by_alpha(1, 1, unwritten);
          rt::call c("mmd");
          c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("kernel", "rational_quadratic");
          c.give("bandwidths", lengths), c.give("weights", weights), c.give("shape", 0.75);
          c.upstream(s.half_of.as_scalar());
          c.check();
          CHECK(c.gradient_sizes(c.verb().gradient_named("bandwidths")).sizes[0] == 3);
          CHECK(c.gradient_sizes(c.verb().gradient_named("shape")).dimensions == 0);
          c.result("value", to(value)), c.gradient("x", to(by_x)), c.gradient("weights", to(by_weights));
          if (bandwidths) c.gradient("bandwidths", to(by_length, mode));
          if (shape) c.gradient("shape", to(by_alpha, mode));
          c.run(craft::any_device(D::make()));
          CHECK(value.number() == direct.number());
          CHECK(by_x.get() == by_direct.get());
          CHECK(by_weights.get() == by_weight.get());
          const T before = mode == craft::write::accumulate ? T(unwritten) : T(0);
          T sum = before;
          for (index_t q = 0; q < 3; ++q) {
            const T expected = bandwidths ? T(T(turns(0, 2 * q)) + before) : T(unwritten);
            CHECK(by_length.get()(column ? q : 0, column ? 0 : q) == double(expected));
            sum += T(turns(0, 2 * q + 1));
          }
          CHECK(by_alpha.number() == double(shape ? sum : T(unwritten)));
          for (const T between : by_length.padding()) CHECK(std::isnan(between) == std::isnan(T(unwritten)));
        }
}

TEST_CASE("gradients by bandwidths and shape go where there is room for them", "[runtime][errors]") {
  using D = stored_as<double>;
  const samples<D> s;
  array<D> value(1, 1, sentinel), numbers(6, 6, sentinel);
  const watched all(value, numbers);
  const auto refused = [&](const char* family, double shape, const char* gradient, index_t rows, index_t cols, auto error,
                           const std::string& part) {
    INFO(family << ", " << gradient << ", " << rows << " x " << cols);
    rejects<decltype(error)>(
        all,
        [&] {
          rt::call c("mmd");
          c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("kernel", family), c.give("shape", shape);
          if (family != std::string("energy") && family != std::string("cosine")) c.give("bandwidths", std::vector<double>{1, 2});
          c.result("value", to(value));
          c.gradient(gradient, {numbers.out().data(), rows, cols, 6, dtype::float64, D::space});
          c.run(craft::any_device(D::make()));
        },
        {"mmd: ", part});
  };
  const shape_error wrong_size("");
  const option_error none("");
  for (const auto& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{1, 1}, {1, 3}, {1, 4}, {2, 2}})
    refused("rational_quadratic", 0.5, "bandwidths", rows, cols, wrong_size, "gradient of bandwidths: expected a place of (2,)");
  refused("rational_quadratic", 0.5, "shape", 1, 2, wrong_size, "gradient of shape: expected a place of (), got 1 x 2");
  refused("gaussian", 0, "bandwidths", 1, 3, wrong_size, "gradient of bandwidths: expected a place of (2,), got 1 x 3");
  refused("energy", 0, "bandwidths", 1, 1, wrong_size, "gradient of bandwidths: expected a place of (0,)");
  refused("cosine", 0, "bandwidths", 1, 1, wrong_size, "gradient of bandwidths: expected a place of (0,)");
  refused("cosine", 0, "weights", 1, 1, wrong_size, "gradient of weights: expected a place of (0,)");
  for (const char* family : {"gaussian", "laplacian", "inverse_multiquadric", "energy", "cosine"})
    refused(family, 0, "shape", 1, 1, none, "no gradient of shape: this kernel has none");
}
