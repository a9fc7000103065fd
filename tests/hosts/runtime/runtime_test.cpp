// The runtime's verbs: each gives the very numbers of the verb of its name, called directly with the same inputs, for every
// element type; names mean what they say; and wrong descriptions are refused before anything is written.
#include "craft/adapters/runtime.hpp"

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "devices.hpp"
#include "reference.hpp"
#include "rejects.hpp"

using namespace craft_test;
namespace rt = craft::runtime;
using rt::dtype;

namespace {

#ifdef CRAFT_TEST_CUDA
using half = __half;
using bfloat16 = __nv_bfloat16;
#else
using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;
#endif
template <class S>
using stored_as = device<tested_backend, S>;
using every_type = std::tuple<stored_as<double>, stored_as<float>, stored_as<half>, stored_as<bfloat16>>;

template <class S>
constexpr dtype type_of = std::is_same_v<S, double>  ? dtype::float64
                          : std::is_same_v<S, float> ? dtype::float32
                          : std::is_same_v<S, half>  ? dtype::float16
                                                     : dtype::bfloat16;

template <class D, class S>
rt::matrix in(const array<D, S>& a) {
  const auto v = a.in();
  return {v.data(), v.rows(), v.cols(), v.stride(), type_of<S>, D::space};
}
template <class D, class S>
rt::place to(array<D, S>& a, craft::write mode = craft::write::overwrite) {
  const auto v = a.out();
  return {v.data(), v.rows(), v.cols(), v.stride(), type_of<S>, D::space, mode};
}

/// A number that float holds and that no mean of two-byte numbers is.
constexpr double unwritten = 0.75 + 0x1p-20;

/// Where one call writes: a value, and what it asks for, one after the other; in the computing type, full of `unwritten`.
template <class D>
class outputs {
 public:
  using T = typename D::compute;
  explicit outputs(craft::write mode) : mode_(mode) {}

  void* value() { return values_.out().data(); }
  craft::scalar_out<T, D::space> typed_value() { return values_.as_value(); }
  craft::scalar_out<craft::objective_values<T>, D::space> typed_values() {
    return craft::scalar_out<craft::objective_values<T>, D::space>(
        reinterpret_cast<craft::objective_values<T>*>(values_.out().data()));
  }
  rt::place place(index_t rows, index_t cols, index_t padding = 0) {
    return rows * cols == 0 ? rt::place{} : to(next(rows, cols, padding), mode_);
  }
  craft::output<T, D::space> typed(index_t rows, index_t cols, index_t padding = 0) {
    return rows * cols == 0 ? craft::output<T, D::space>{}
                            : craft::output<T, D::space>{next(rows, cols, padding).out(), mode_};
  }

  reals values() const { return values_.get(); }
  const std::vector<std::unique_ptr<array<D, T>>>& all() const { return all_; }

 private:
  array<D, T>& next(index_t rows, index_t cols, index_t padding) {
    all_.push_back(std::make_unique<array<D, T>>(rows, cols, unwritten, padding));
    return *all_.back();
  }

  craft::write mode_;
  array<D, T> values_{1, 5, unwritten};
  std::vector<std::unique_ptr<array<D, T>>> all_;
};

/// Both calls leave the same bits everywhere, between the rows too.
template <class D, class Described, class Typed>
void same(const Described& described, const Typed& typed) {
  for (const craft::write mode : {craft::write::overwrite, craft::write::accumulate}) {
    INFO((mode == craft::write::overwrite ? "overwrite" : "accumulate"));
    outputs<D> got(mode), want(mode);
    described(got);
    typed(want);
    CHECK(got.values() == want.values());
    REQUIRE(got.all().size() == want.all().size());
    for (std::size_t q = 0; q < want.all().size(); ++q) {
      INFO("output " << q);
      CHECK((got.all()[q]->bits() == want.all()[q]->bits()));
      const reals numbers = want.all()[q]->get();
      CHECK(numbers.allFinite());
      if (mode == craft::write::overwrite) CHECK((numbers.array() != unwritten).all());
    }
  }
}

/// Calls f with a kernel of the runtime and the pair function it stands for.
template <class F>
void for_each_kernel(const F& f) {
  using family = craft::kernel_family;
  const std::vector<double> sigmas = {2.5, 1, 4, 1.7}, weights = {0.5, 1.5, 0.25, -0.3};
  f("gaussians", rt::kernel("gaussian", sigmas, weights), craft::gaussians<>(sigmas, weights));
  const std::vector<rt::kernel::member> members = {{family::laplacian, 0.8, 2.0, 0.25},
                                                   {family::gaussian, 0.3, 1.5},
                                                   {family::rational_quadratic, 1.2, 1.1, 0.7},
                                                   {family::energy, 0.1},
                                                   {family::inverse_multiquadric, 0.5, 1.3}};
  f("any kernel", rt::kernel(members), craft::any_kernel<>(members));
  f("dot product", rt::kernel("dot_product", {}), craft::dot_product<>());
  f("cosine", rt::kernel("cosine", {}), craft::cosine<>());
}

const index_t n = 9, m = 8, d = 5, classes = 3;
const std::vector<index_t> class_of = {0, 2, 1, 1, 0, 2, 2, 0, 1}, class_of_y = {1, 1, 2, 0, 0, 2, 1, 0};

/// Inputs on a device: some rows apart, others not.
template <class D>
struct samples {
  using T = typename D::compute;
  const array<D> x{random_reals(n, d, 1), 3}, y{random_reals(m, d, 2, 0.4), 1}, paired{random_reals(n, d, 3)},
      anchors{random_reals(classes, d, 4), 2}, more_anchors{random_reals(classes, d, 5)};
  const array<D, T> soft{reference::inputs::softmax(random_reals(n, classes, 6)), 2}, dout{random_reals(n, classes, 7), 1};
  const array<D, T> x_weights{random_reals(1, n, 8).cwiseAbs().eval()}, y_weights{random_reals(1, m, 9).cwiseAbs().eval()};
  const array<D, T> half_of{reals::Constant(1, 1, 0.5)};  ///< a number that is read where the call runs
  const label_array<D> labels{class_of}, y_labels{class_of_y};
};

}  // namespace

// ---------------------------------------------------------------------------------------------------------
// The verbs

TEMPLATE_LIST_TEST_CASE("mmd by descriptions is mmd", "[runtime][mmd]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  const craft::any_device device(D::make());
  const auto ctx = D::make();
  const samples<D> s;
  std::vector<craft::mmd_options> options(3);
  options[1].estimator = craft::estimator::unbiased;
  options[1].bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::pooled, true};
  options[1].x_weights = s.x_weights.as_numbers();
  options[1].y_weights = s.y_weights.as_numbers();
  options[1].upstream = s.half_of.as_scalar();
  options[2].estimator = craft::estimator::linear;
  options[2].columns = craft::column_scaling::minmax_joint;
  options[2].factor = 3;
  for_each_kernel([&](const char* name, const rt::kernel& kernel, const auto& typed) {
    CHECK(kernel.weights() == typed.weights());
    CHECK(kernel.bandwidths() == typed.bandwidths());
    for (const craft::mmd_options& o : options) {
      INFO(name << ", estimator " << int(o.estimator));
      const index_t by_weights = o.estimator == craft::estimator::linear ? 0 : 1;
      same<D>(
          [&](outputs<D>& to) {
            rt::mmd(device, in(s.x), in(s.y), kernel, o, to.value(),
                    {to.place(n, d, 2), to.place(m, d), to.place(1, kernel.weights()), to.place(kernel.bandwidths(), 1),
                     to.place(by_weights, n), to.place(m, by_weights)});
          },
          [&](outputs<D>& to) {
            craft::mmd(ctx, s.x.in(), s.y.in(), typed, o, to.typed_value(),
                       craft::mmd_gradients<T, D::space>{to.typed(n, d, 2), to.typed(m, d), to.typed(1, typed.weights()),
                                                         to.typed(typed.bandwidths(), 1), to.typed(by_weights, n),
                                                         to.typed(m, by_weights)});
          });
    }
  });
  // Nothing asked for but the value.
  outputs<D> got(craft::write::overwrite), want(craft::write::overwrite);
  rt::mmd(device, in(s.x), in(s.y), {}, {}, got.value());
  craft::mmd(ctx, s.x.in(), s.y.in(), craft::gaussians<>{1.0}, {}, want.typed_value());
  CHECK(got.values()(0, 0) == want.values()(0, 0));
  CHECK(got.values()(0, 0) != unwritten);
}

TEMPLATE_TEST_CASE("two-byte inputs have gradients of four bytes, and the verb's are those rounded", "[runtime][mmd]",
                   stored_as<half>, stored_as<bfloat16>) {
  using D = TestType;
  using S = typename D::scalar;
  const samples<D> s;
  outputs<D> got(craft::write::overwrite), want(craft::write::overwrite);
  array<D> dx(n, d), dy(m, d);
  rt::mmd(craft::any_device(D::make()), in(s.x), in(s.y), {}, {}, got.value(), {got.place(n, d), got.place(m, d)});
  craft::mmd_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::overwrite(dy.out());
  craft::mmd(D::make(), s.x.in(), s.y.in(), craft::gaussians<>{1.0}, {}, want.typed_value(), g);
  CHECK(got.values() == want.values());
  const reals wide = got.all()[0]->get();
  CHECK(as_stored<D>(wide) == dx.get());
  CHECK(as_stored<D>(wide) != wide);
  CHECK(as_stored<D>(got.all()[1]->get()) == dy.get());
}

TEMPLATE_LIST_TEST_CASE("alignment losses by descriptions are those losses", "[runtime][alignment]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  using gradients = craft::alignment_gradients<T, D::space>;
  const craft::any_device device(D::make());
  const auto ctx = D::make();
  const samples<D> s;
  // weights, targets: how many rows the gradients by those have; none: not wanted.
  const auto places = [](outputs<D>& to, index_t rows, index_t weights = 0, index_t targets = 0) {
    return rt::alignment_outputs{to.place(n, d, 1), to.place(rows, d),    to.place(1, 1),
                                 to.place(1, 1),    to.place(weights, n), to.place(targets, classes, 2)};
  };
  const auto typed = [](outputs<D>& to, index_t rows, index_t weights = 0, index_t targets = 0) {
    return gradients{to.typed(n, d, 1), to.typed(rows, d),    to.typed(1, 1),
                     to.typed(1, 1),    to.typed(weights, n), to.typed(targets, classes, 2)};
  };

  craft::cross_entropy_options ce;
  ce.log_scale = s.half_of.as_scalar();
  ce.label_smoothing = 0.1;
  ce.weights = s.x_weights.as_numbers();
  ce.reduce = craft::reduction::sum;
  same<D>(
      [&](outputs<D>& to) {
        rt::anchor_cross_entropy(device, in(s.x), in(s.anchors), s.labels.in(), ce, to.value(), places(to, classes, 1));
      },
      [&](outputs<D>& to) {
        craft::anchor_cross_entropy(ctx, s.x.in(), s.anchors.in(), s.labels.in(), ce, to.typed_value(), typed(to, classes, 1));
      });
  same<D>(
      [&](outputs<D>& to) {
        rt::anchor_cross_entropy(device, in(s.x), in(s.anchors), in(s.soft), ce, to.value(), places(to, classes, 1, n));
      },
      [&](outputs<D>& to) {
        craft::anchor_cross_entropy(ctx, s.x.in(), s.anchors.in(), s.soft.in(), ce, to.typed_value(), typed(to, classes, 1, n));
      });

  craft::contrastive_options nce;
  nce.log_scale = 1.5;
  for (const bool by_label : {false, true}) {
    INFO("by label " << by_label);
    const array<D>& other = by_label ? s.y : s.paired;
    const index_t rows = by_label ? m : n;
    craft::sigmoid_options sig;
    sig.upstream = s.half_of.as_scalar();
    if (by_label) {
      nce.x_labels = sig.x_labels = s.labels.in();
      nce.y_labels = sig.y_labels = s.y_labels.in();
      nce.direction = craft::direction::one_way;
    }
    same<D>([&](outputs<D>& to) { rt::info_nce(device, in(s.x), in(other), nce, to.value(), places(to, rows, 1)); },
            [&](outputs<D>& to) {
              craft::info_nce(ctx, s.x.in(), other.in(), nce, to.typed_value(), typed(to, rows, 1));
            });
    same<D>(
        [&](outputs<D>& to) { rt::sigmoid_contrastive(device, in(s.x), in(other), sig, to.value(), places(to, rows)); },
        [&](outputs<D>& to) {
          craft::sigmoid_contrastive(ctx, s.x.in(), other.in(), sig, to.typed_value(), typed(to, rows));
        });
  }
}

TEMPLATE_LIST_TEST_CASE("relative representations by descriptions are those", "[runtime][relative]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  const craft::any_device device(D::make());
  const auto ctx = D::make();
  const samples<D> s;
  craft::relative_options o;
  o.log_scale = 0.5;
  o.statistics = craft::anchor_statistics::centre;
  for_each_kernel([&](const char* name, const rt::kernel& kernel, const auto& typed) {
    INFO(name);
    same<D>(
        [&](outputs<D>& to) { rt::relative(device, in(s.x), in(s.anchors), kernel, o, to.place(n, classes, 2)); },
        [&](outputs<D>& to) { craft::relative(ctx, s.x.in(), s.anchors.in(), typed, o, to.typed(n, classes, 2).to); });
    same<D>(
        [&](outputs<D>& to) {
          rt::relative_pullback(device, in(s.x), in(s.anchors), kernel, o, in(s.dout),
                                {to.place(n, d), to.place(classes, d, 1), to.place(1, 1)});
        },
        [&](outputs<D>& to) {
          craft::relative_pullback(
              ctx, s.x.in(), s.anchors.in(), typed, o, s.dout.in(),
              craft::relative_gradients<T, D::space>{to.typed(n, d), to.typed(classes, d, 1), to.typed(1, 1)});
        });
  });
}

TEMPLATE_LIST_TEST_CASE("the objective by descriptions is the objective, with and without what is optional",
                        "[runtime][objective]", every_type) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const craft::any_device device(D::make());
  const auto ctx = D::make();
  const samples<D> s;
  craft::objective_options o;
  o.log_scale = 1.2;
  o.image = 0.7;
  o.mmd = 2;
  o.upstream = s.half_of.as_scalar();
  o.discrepancy.bandwidth.rule = craft::bandwidth_rule::mean;
  const std::vector<double> sigmas = {0.5, 1, 2};
  for (int given = 0; given < 8; ++given) {
    const bool texts = given & 1, image_anchors = given & 2, target = given & 4;
    INFO("texts " << texts << ", image anchors " << image_anchors << ", target " << target);
    const auto rows = [](bool there, index_t count) { return there ? count : 0; };
    same<D>(
        [&](outputs<D>& to) {
          rt::objective_inputs i;  // what is not given stays as it is, float32 whatever the others are
          i.images = in(s.x);
          i.class_texts = in(s.anchors);
          i.targets = s.labels.in();
          if (texts) i.batch_texts = in(s.paired);
          if (image_anchors) i.image_anchors = in(s.more_anchors);
          if (target) i.target_images = in(s.y);
          rt::objective(device, i, rt::kernel("gaussian", sigmas), o, to.value(),
                        {to.place(n, d, 1), to.place(classes, d), to.place(rows(texts, n), d),
                         to.place(rows(image_anchors, classes), d), to.place(rows(target, m), d), to.place(1, 1)});
        },
        [&](outputs<D>& to) {
          craft::objective_inputs<S, D::space> i;
          i.images = s.x.in();
          i.class_texts = s.anchors.in();
          i.targets = s.labels.in();
          if (texts) i.batch_texts = s.paired.in();
          if (image_anchors) i.image_anchors = s.more_anchors.in();
          if (target) i.target_images = s.y.in();
          craft::objective(
              ctx, i, craft::gaussians<>(sigmas), o, to.typed_values(),
              craft::objective_gradients<T, D::space>{to.typed(n, d, 1), to.typed(classes, d), to.typed(rows(texts, n), d),
                                                      to.typed(rows(image_anchors, classes), d),
                                                      to.typed(rows(target, m), d), to.typed(1, 1)});
        });
  }
}

TEMPLATE_LIST_TEST_CASE("bandwidths and anchors by descriptions are those", "[runtime][anchors]", every_type) {
  using D = TestType;
  const craft::any_device device(D::make());
  const auto ctx = D::make();
  const samples<D> s;
  for (const auto rule : {craft::bandwidth_rule::mean, craft::bandwidth_rule::median})
    for (const auto sample : {craft::bandwidth_sample::pooled, craft::bandwidth_sample::x}) {
      const double got = rt::bandwidth_scale(device, in(s.x), in(s.y), {rule, sample});
      CHECK(got == craft::bandwidth_scale(ctx, s.x.in(), s.y.in(), {rule, sample}));
      CHECK(got > 1);
    }
  for (const bool normalise : {false, true})
    same<D>(
        [&](outputs<D>& to) { rt::class_means(device, in(s.x), s.labels.in(), {normalise}, to.place(classes, d, 1)); },
        [&](outputs<D>& to) { craft::class_means(ctx, s.x.in(), s.labels.in(), {normalise}, to.typed(classes, d, 1).to); });

  craft::kmeans_options o;
  o.seed = 3;
  o.restarts = 2;
  craft::kmeans_result got, want;
  const auto same_result = [&] {
    CHECK(got.assignment == want.assignment);
    CHECK(got.inertia == want.inertia);
    CHECK(got.iterations == want.iterations);
    CHECK(got.distinct == want.distinct);
    CHECK(got.inertia > 0);
  };
  same<D>([&](outputs<D>& to) { got = rt::kmeans(device, in(s.x), o, to.place(4, d)); },
          [&](outputs<D>& to) { want = craft::kmeans(ctx, s.x.in(), o, to.typed(4, d).to); });
  same_result();
  o.spherical = true;
  same<D>(
      [&](outputs<D>& to) { got = rt::kmeans_per_class(device, in(s.x), s.labels.in(), classes, o, to.place(6, d, 1)); },
      [&](outputs<D>& to) {
        want = craft::kmeans_per_class(ctx, s.x.in(), s.labels.in(), classes, o, to.typed(6, d, 1).to);
      });
  same_result();

  CHECK(rt::medoids(device, in(s.x), in(s.anchors)) == craft::medoids(ctx, s.x.in(), s.anchors.in()));
  for (const auto metric : {craft::metric::euclidean, craft::metric::cosine})
    CHECK(rt::farthest_point_anchors(device, in(s.x), 4, 2, metric) ==
          craft::farthest_point_anchors(ctx, s.x.in(), 4, 2, metric));
}

// ---------------------------------------------------------------------------------------------------------
// Names

TEST_CASE("element types by name", "[runtime][names]") {
  const std::vector<std::pair<std::string, dtype>> all = {{"float64", dtype::float64},
                                                          {"float32", dtype::float32},
                                                          {"float16", dtype::float16},
                                                          {"bfloat16", dtype::bfloat16}};
  for (const auto& [name, type] : all) {
    CHECK(rt::name(type) == name);
    CHECK(rt::dtype_named(name) == type);
    CHECK(rt::computing(type) == (type == dtype::float64 ? dtype::float64 : dtype::float32));
  }
  for (const std::string wrong : {"", "float", "Float32", "int32", "float32 "}) {
    CHECK_THROWS_AS(rt::dtype_named(wrong), craft::type_error);
    CHECK_THROWS_WITH(rt::dtype_named(wrong), contains("bfloat16") && contains("got " + wrong));
  }
}

namespace {

template <class Enum>
void check_names(const std::string& what, const std::vector<std::pair<std::string, Enum>>& all) {
  INFO(what);
  for (const auto& [name, value] : all) {
    INFO(name);
    CHECK(rt::named<Enum>(name) == value);
  }
  for (const std::string wrong : {"", "Biased", "no such"}) {
    CHECK_THROWS_AS(rt::named<Enum>(wrong), craft::option_error);
    CHECK_THROWS_WITH(rt::named<Enum>(wrong), contains(what) && contains("got " + wrong));
    for (const auto& one : all) CHECK_THROWS_WITH(rt::named<Enum>(wrong), contains(one.first));
  }
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
  check_names<estimator>("estimator", {{"biased", estimator::biased},
                                       {"unbiased", estimator::unbiased},
                                       {"linear", estimator::linear}});
  check_names<bandwidth_rule>("bandwidth_rule", {{"fixed", bandwidth_rule::fixed},
                                                 {"mean", bandwidth_rule::mean},
                                                 {"mean_offdiagonal", bandwidth_rule::mean_offdiagonal},
                                                 {"median", bandwidth_rule::median},
                                                 {"median_mid", bandwidth_rule::median_mid}});
  check_names<bandwidth_sample>("bandwidth_sample", {{"pooled", bandwidth_sample::pooled}, {"x", bandwidth_sample::x}});
  check_names<column_scaling>("column_scaling", {{"none", column_scaling::none},
                                                 {"minmax_separate", column_scaling::minmax_separate},
                                                 {"minmax_joint", column_scaling::minmax_joint}});
  check_names<direction>("direction", {{"one_way", direction::one_way}, {"symmetric", direction::symmetric}});
  check_names<reduction>("reduction", {{"mean", reduction::mean}, {"sum", reduction::sum}});
  check_names<anchor_statistics>("anchor_statistics", {{"none", anchor_statistics::none},
                                                       {"centre", anchor_statistics::centre},
                                                       {"standardise", anchor_statistics::standardise}});
  check_names<metric>("metric", {{"euclidean", metric::euclidean}, {"cosine", metric::cosine}});
}

TEST_CASE("kernels by name are those of kernels.hpp", "[runtime][names]") {
  using D = stored_as<double>;
  const craft::any_device device(D::make());
  const reals X = random_reals(n, d, 11), A = random_reals(classes, d, 12);
  const array<D> x(X), a(A);
  craft::relative_options plain;
  plain.normalise = false;
  // One number per pair, beside the struct's own formula.
  const auto check = [&](const rt::kernel& kernel, const auto& formula, index_t weights, index_t bandwidths) {
    array<D> out(n, classes);
    rt::relative(device, in(x), in(a), kernel, plain, to(out));
    const reals got = out.get();
    for (index_t i = 0; i < n; ++i)
      for (index_t c = 0; c < classes; ++c) {
        const double want = formula(X.row(i).dot(A.row(c)), X.row(i).squaredNorm(), A.row(c).squaredNorm());
        CHECK(std::abs(got(i, c) - want) <= 1e-13 * (1 + std::abs(want)));
      }
    CHECK(kernel.weights() == weights);
    CHECK(kernel.bandwidths() == bandwidths);
  };
  // w0 k(bandwidth 0) + w1 k(bandwidth 1)
  const auto sum = [](double w0, const auto& k0, double w1, const auto& k1) {
    return [=](double s, double p, double q) { return w0 * k0.value(s, p, q) + w1 * k1.value(s, p, q); };
  };
  const auto one = [](const auto& k) { return [k](double s, double p, double q) { return k.value(s, p, q); }; };
  check({}, one(craft::gaussian(1.0)), 1, 1);
  check({"gaussian", {3, 2}}, sum(1, craft::gaussian(3.0), 1, craft::gaussian(2.0)), 2, 2);
  check({"gaussian", {2, 3}, {0.5, -4}}, sum(0.5, craft::gaussian(2.0), -4, craft::gaussian(3.0)), 2, 2);
  check({"laplacian", {3, 2}, {0.5, 4}}, sum(0.5, craft::laplacian(3.0), 4, craft::laplacian(2.0)), 2, 2);
  check({"laplacian", {2}, {}, 9}, one(craft::laplacian(2.0, 9.0)), 1, 1);
  check({"inverse_multiquadric", {3, 2}, {0.5, 4}, 0.7},
        sum(0.5, craft::inverse_multiquadric(3.0, 0.7), 4, craft::inverse_multiquadric(2.0, 0.7)), 2, 2);
  check({"rational_quadratic", {3, 2}, {0.5, 4}, 0.7},
        sum(0.5, craft::rational_quadratic(3.0, 0.7), 4, craft::rational_quadratic(2.0, 0.7)), 2, 4);
  for (const std::string name : {"energy", "negative_distance"}) {
    check({name, {}}, one(craft::energy<>()), 1, 0);
    check({name, {}, {2.5}, 9}, sum(2.5, craft::energy<>(9.0), 0, craft::energy<>()), 1, 0);
  }
  check({"dot_product", {}}, one(craft::dot_product<>()), 0, 0);
  check({"cosine", {}}, one(craft::cosine<>()), 0, 0);

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
  const auto refused = [](const std::string& name, const numbers& bandwidths, const numbers& weights, double shape,
                          const std::vector<std::string>& parts) {
    INFO(name);
    rejects<option_error>(watched(), [&] { rt::kernel(name, bandwidths, weights, shape); }, parts);
  };
  refused("rbf", {1}, {}, 0, {"gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy",
                              "negative_distance", "dot_product", "cosine", "got rbf"});
  refused("", {1}, {}, 0, {"got "});
  for (const std::string name : {"gaussian", "laplacian", "inverse_multiquadric"}) {
    refused(name, {}, {}, 0, {name, "at least one bandwidth"});
    refused(name, {1, 2}, {1}, 0, {"1 weights for 2 kernels"});
    for (const double bad : {0.0, -1.0, not_a_number, infinity}) refused(name, {1, bad}, {}, 0, {"must be positive"});
    refused(name, {1}, {not_a_number}, 0, {"weights must be finite"});
  }
  for (const std::string name : {"laplacian", "inverse_multiquadric"}) refused(name, {1}, {}, -1, {"must not be negative"});
  refused("rational_quadratic", {1}, {}, 0, {"alpha must be positive"});
  refused("energy", {1}, {}, 0, {"energy takes no bandwidth"});
  refused("energy", {}, {1, 1}, 0, {"2 weights for 1 kernel"});
  refused("energy", {}, {}, -1, {"floor must not be negative"});
  for (const std::string name : {"dot_product", "cosine"}) {
    refused(name, {1}, {}, 0, {name + " takes no bandwidth"});
    refused(name, {}, {1}, 0, {name + " takes no weight"});
    refused(name, {}, {}, 1, {name + " takes no shape"});
  }
  refused("gaussian", {1}, {}, 0.5, {"gaussian takes no shape, got 0.5"});

  const auto of = [](std::size_t count, member one) { return rt::kernel(std::vector<member>(count, one)); };
  const member laplacian{craft::kernel_family::laplacian};
  CHECK(of(64, {}).bandwidths() == 64);
  CHECK(of(16, laplacian).bandwidths() == 16);
  CHECK_THROWS_AS(of(0, {}), option_error);
  CHECK_THROWS_AS(of(65, {}), option_error);
  CHECK_THROWS_AS(of(17, laplacian), option_error);
  CHECK_THROWS_AS(rt::kernel("laplacian", numbers(17, 1.0)), option_error);
  std::vector<member> mixed(16);
  mixed.push_back(laplacian);
  CHECK_THROWS_AS(rt::kernel(mixed), option_error);
  CHECK_THROWS_AS(of(1, {craft::kernel_family(7)}), option_error);
}

// ---------------------------------------------------------------------------------------------------------
// Presets

namespace {

void check_options(const craft::mmd_options& got, const craft::mmd_options& want) {
  CHECK(got.estimator == want.estimator);
  CHECK(got.bandwidth.rule == want.bandwidth.rule);
  CHECK(got.bandwidth.sample == want.bandwidth.sample);
  CHECK(got.bandwidth.gradient == want.bandwidth.gradient);
  CHECK(got.columns == want.columns);
  CHECK(got.column_gradient == want.column_gradient);
  CHECK(got.column_eps == want.column_eps);
  CHECK(got.factor == want.factor);
  CHECK(got.offset == want.offset);
}

void check_members(const rt::kernel& got, const std::vector<rt::kernel::member>& want) {
  REQUIRE(got.members().size() == want.size());
  for (std::size_t q = 0; q < want.size(); ++q) {
    INFO("member " << q);
    CHECK(got.members()[q].family == want[q].family);
    CHECK(got.members()[q].weight == want[q].weight);
    CHECK(got.members()[q].bandwidth == want[q].bandwidth);
    CHECK(got.members()[q].shape == want[q].shape);
  }
}

/// Value and gradients of a preset meet the reference numbers of a case, at every size of it.
template <class MakePreset>
void meets(const std::string& name, const MakePreset& make, bool weighted = false) {
  using D = stored_as<double>;
  const craft::any_device device(D::make());
  for (const reference::record& r : reference::cases("mmd", name)) {
    const reference::inputs data(r);
    rt::preset p = make(r);
    const array<D> x(data.X), y(data.Y), wx(data.a), wy(data.b);
    if (weighted) {
      p.options.x_weights = wx.as_numbers();
      p.options.y_weights = wy.as_numbers();
    }
    outputs<D> got(craft::write::overwrite);
    rt::mmd(device, in(x), in(y), p.kernel, p.options, got.value(), {got.place(r.n(), r.d()), got.place(r.m(), r.d())});
    r.check(got.values()(0, 0), {{"X", got.all()[0]->get()}, {"Y", got.all()[1]->get()}});
  }
}

}  // namespace

TEST_CASE("presets by name are craft's presets", "[runtime][presets]") {
  namespace presets = craft::presets;
  using family = craft::kernel_family;
  const auto roots = [](std::vector<double> a) {
    std::vector<rt::kernel::member> out;
    for (const double v : a) out.push_back({family::gaussian, 1, std::sqrt(v)});
    return out;
  };
  const auto check = [](const rt::preset& got, const auto& want, const std::vector<rt::kernel::member>& members) {
    check_options(got.options, want.options);
    check_members(got.kernel, members);
  };
  // In the order that the presets were written in, which is that of their gradients.
  check(rt::preset_named("craft_rbf", n), presets::craft_rbf(), roots({10, 15, 20, 50}));
  check(rt::preset_named("tllib", 7), presets::tllib(7), roots({0.125, 0.25, 0.5, 1, 2}));
  check(rt::preset_named("transferlearning", n), presets::transferlearning(), roots({0.125, 0.25, 0.5, 1, 2}));
  const family multiquadric = family::inverse_multiquadric;
  check(rt::preset_named("craft_multiscale", n), presets::craft_multiscale(),
        {{multiquadric, 1, 0.2, 1e-8}, {multiquadric, 1, 0.5, 1e-8}, {multiquadric, 1, 0.9, 1e-8}, {multiquadric, 1, 1.3, 1e-8}});
  check(rt::preset_named("cmmd", n), presets::cmmd(), {{family::gaussian, 1, presets::cmmd().kernel.sigma}});
  check(rt::preset_named("alibi_detect", n), presets::alibi_detect(),
        {{family::gaussian, 1, presets::alibi_detect().kernel.sigma}});
  check(rt::preset_named("geomloss_energy", n), presets::geomloss_energy(),
        {{family::energy, 1, 1, presets::geomloss_energy().kernel.floor}});
  for (const double blur : {0.05, 0.7}) {
    const auto laplacian = presets::geomloss_laplacian(blur);
    check(rt::preset_named("geomloss_gaussian", n, blur), presets::geomloss_gaussian(blur), {{family::gaussian, 1, blur}});
    check(rt::preset_named("geomloss_laplacian", n, blur), laplacian,
          {{family::laplacian, 1, blur, laplacian.kernel.floor}});
  }
  CHECK(rt::preset_named("geomloss_gaussian", n).kernel.members()[0].bandwidth == 0.05);

  // All outputs of one, with the gradients by weights and bandwidths.
  using D = stored_as<double>;
  const samples<D> s;
  const auto want = presets::craft_rbf();
  const auto got = rt::preset_named("craft_rbf", n);
  same<D>(
      [&](outputs<D>& to) {
        rt::mmd(craft::any_device(D::make()), in(s.x), in(s.y), got.kernel, got.options, to.value(),
                {to.place(n, d), to.place(m, d), to.place(1, 4), to.place(1, 4)});
      },
      [&](outputs<D>& to) {
        craft::mmd(D::make(), s.x.in(), s.y.in(), want.kernel, want.options, to.typed_value(),
                   craft::mmd_gradients<double, D::space>{to.typed(n, d), to.typed(m, d), to.typed(1, 4), to.typed(1, 4)});
      });

  CHECK_THROWS_AS(rt::preset_named("tllib", 1), craft::shape_error);
  CHECK_THROWS_AS(rt::preset_named("geomloss_gaussian", n, 0), craft::option_error);
  CHECK_THROWS_AS(rt::preset_named("craft", n), craft::option_error);
  for (const std::string name : {"craft_rbf", "craft_multiscale", "tllib", "transferlearning", "cmmd", "geomloss_gaussian",
                                 "geomloss_laplacian", "geomloss_energy", "alibi_detect", "got craft"})
    CHECK_THROWS_WITH(rt::preset_named("craft", n), contains(name));
}

TEST_CASE("presets by name meet the implementations they are named after", "[runtime][presets][reference]") {
  const auto named = [](const std::string& name) {
    return [name](const reference::record& r) { return rt::preset_named(name, r.n()); };
  };
  const auto blurred = [](const std::string& name) {
    return [name](const reference::record& r) { return rt::preset_named(name, r.n(), r.parameter("blur")); };
  };
  meets("craft_mmd_rbf", named("craft_rbf"));
  meets("craft_mmd_multiscale", named("craft_multiscale"));
  meets("tllib_mkmmd_nonlinear_5k", named("tllib"));
  meets("jindongwang_deepda_rbf", named("transferlearning"));
  meets("cmmd", named("cmmd"));
  meets("alibi_mmd2_median", named("alibi_detect"));
  meets("geomloss_gaussian_blur0.5", blurred("geomloss_gaussian"));
  meets("geomloss_laplacian_blur0.05_weighted", blurred("geomloss_laplacian"), true);
  meets("geomloss_energy", named("geomloss_energy"));
}

// ---------------------------------------------------------------------------------------------------------
// Errors

namespace {

/// Everything that a verb may be given, and places for all that it may write.
template <class D>
struct call_data {
  rt::matrix x, paired, anchors, soft, dout, target;
  rt::place dx, d_anchors, d_weights, number, out, centres;
  craft::labels labels;
  craft::numbers weights;
  void* value;
};

/// A verb, what it reads and writes of these data, and a call with all of that.
template <class D>
struct verb {
  using A = call_data<D>;
  std::string name;
  std::vector<rt::matrix A::*> stored, computed;  ///< matrices of the type of x, and of the computing type
  std::vector<rt::place A::*> places;
  bool has_value, has_labels, has_weights;
  std::function<void(const craft::any_device&, const A&)> run;
};

template <class D>
std::vector<verb<D>> every_verb() {
  using A = call_data<D>;
  using device = const craft::any_device&;
  const auto mmd = [](device on, const A& a) {
    craft::mmd_options o;
    o.x_weights = a.weights;
    rt::mmd(on, a.x, a.paired, {}, o, a.value, {a.dx, {}, {}, {}, a.d_weights});
  };
  const auto cross_entropy = [](device on, const A& a) {
    craft::cross_entropy_options o;
    o.weights = a.weights;
    rt::anchor_cross_entropy(on, a.x, a.anchors, a.labels, o, a.value, {a.dx, a.d_anchors, a.number, {}, a.d_weights});
  };
  const auto soft_cross_entropy = [](device on, const A& a) {
    rt::anchor_cross_entropy(on, a.x, a.anchors, a.soft, {}, a.value, {a.dx, a.d_anchors, a.number, {}, {}, a.out});
  };
  const auto info_nce = [](device on, const A& a) {
    craft::contrastive_options o;
    o.x_labels = o.y_labels = a.labels;
    o.weights = a.weights;
    rt::info_nce(on, a.x, a.paired, o, a.value, {a.dx, {}, a.number, {}, a.d_weights});
  };
  const auto sigmoid = [](device on, const A& a) {
    craft::sigmoid_options o;
    o.x_labels = o.y_labels = a.labels;
    rt::sigmoid_contrastive(on, a.x, a.paired, o, a.value, {a.dx, {}, {}, a.number});
  };
  const auto relative = [](device on, const A& a) {
    rt::relative(on, a.x, a.anchors, rt::kernel("cosine", {}), {}, a.out);
  };
  const auto pullback = [](device on, const A& a) {
    rt::relative_pullback(on, a.x, a.anchors, rt::kernel("cosine", {}), {}, a.dout, {a.dx, a.d_anchors, a.number});
  };
  const auto objective = [](device on, const A& a) {
    craft::objective_options o;
    o.discrepancy.x_weights = a.weights;
    rt::objective(on, {a.x, a.anchors, a.labels, a.paired, a.anchors, a.target}, {}, o, a.value,
                  {a.dx, a.d_anchors, {}, {}, {}, a.number});
  };
  const auto bandwidth = [](device on, const A& a) { rt::bandwidth_scale(on, a.x, a.paired, {}); };
  const auto means = [](device on, const A& a) { rt::class_means(on, a.x, a.labels, {}, a.centres); };
  const auto kmeans = [](device on, const A& a) { rt::kmeans(on, a.x, {}, a.centres); };
  const auto per_class = [](device on, const A& a) { rt::kmeans_per_class(on, a.x, a.labels, classes, {}, a.centres); };
  const auto medoids = [](device on, const A& a) { rt::medoids(on, a.x, a.anchors); };
  const auto farthest = [](device on, const A& a) {
    rt::farthest_point_anchors(on, a.x, 2, 0, craft::metric::euclidean);
  };
  return {
      {"mmd", {&A::x, &A::paired}, {}, {&A::dx, &A::d_weights}, true, false, true, mmd},
      {"anchor_cross_entropy", {&A::x, &A::anchors}, {}, {&A::dx, &A::d_anchors, &A::number, &A::d_weights}, true, true, true,
       cross_entropy},
      {"anchor_cross_entropy", {&A::x, &A::anchors}, {&A::soft}, {&A::dx, &A::number, &A::out}, true, false, false,
       soft_cross_entropy},
      {"info_nce", {&A::x, &A::paired}, {}, {&A::dx, &A::number, &A::d_weights}, true, true, true, info_nce},
      {"sigmoid_contrastive", {&A::x, &A::paired}, {}, {&A::dx, &A::number}, true, true, false, sigmoid},
      {"relative", {&A::x, &A::anchors}, {}, {&A::out}, false, false, false, relative},
      {"relative_pullback", {&A::x, &A::anchors}, {&A::dout}, {&A::dx, &A::d_anchors, &A::number}, false, false, false, pullback},
      {"objective", {&A::x, &A::anchors, &A::paired, &A::target}, {}, {&A::dx, &A::d_anchors, &A::number}, true, true, true,
       objective},
      {"bandwidth_scale", {&A::x, &A::paired}, {}, {}, false, false, false, bandwidth},
      {"class_means", {&A::x}, {}, {&A::centres}, false, true, false, means},
      {"kmeans", {&A::x}, {}, {&A::centres}, false, false, false, kmeans},
      {"kmeans_per_class", {&A::x}, {}, {&A::centres}, false, true, false, per_class},
      {"medoids", {&A::x, &A::anchors}, {}, {}, false, false, false, medoids},
      {"farthest_point_anchors", {&A::x}, {}, {}, false, false, false, farthest},
  };
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("wrong descriptions are refused by every verb, and nothing is written", "[runtime][errors]",
                        every_type) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  using craft::device_error;
  using craft::shape_error;
  using craft::type_error;
  using A = call_data<D>;
  const craft::any_device device(D::make());
  const samples<D> s;
  constexpr bool on_host = D::space == craft::memory::host;
  constexpr craft::memory elsewhere = on_host ? craft::memory::device : craft::memory::host;
  const std::string mine = on_host ? "host memory" : "device memory", other = on_host ? "device memory" : "host memory";
  const std::string stored = rt::name(type_of<S>), computed = rt::name(type_of<T>);

  for (const verb<D>& v : every_verb<D>()) {
    INFO(v.name << " of " << stored);
    array<D, T> dx(n, d, sentinel), da(classes, d, sentinel), dw(1, n, sentinel), number(1, 1, sentinel),
        out(n, classes, sentinel), centres(classes, d, sentinel), values(1, 5, sentinel);
    const watched all(dx, da, dw, number, out, centres, values);
    const A good{in(s.x), in(s.paired), in(s.anchors), in(s.soft), in(s.dout), in(s.y), to(dx), to(da), to(dw), to(number),
                 to(out), to(centres), s.labels.in(),
                 s.x_weights.as_numbers(), values.out().data()};
    const auto refused = [&](auto error, const std::function<void(A&)>& change, std::vector<std::string> parts) {
      A a = good;
      change(a);
      rejects<decltype(error)>(all, [&] { v.run(device, a); }, parts);
    };
    const type_error wrong_type("");
    const device_error wrong_memory("");
    const shape_error wrong_shape("");
    const auto check_types = [&](auto slots, const std::string& expected, bool skip_first) {
      for (std::size_t q = skip_first ? 1 : 0; q < slots.size(); ++q)
        for (const dtype t : {dtype::float64, dtype::float32, dtype::float16, dtype::bfloat16})
          if (rt::name(t) != expected)
            refused(wrong_type, [&](A& a) { (a.*slots[q]).type = t; },
                    {v.name + ": expected ", " of type " + expected + ", got " + rt::name(t)});
    };
    check_types(v.stored, stored, true);  // the first says what the others must be
    check_types(v.computed, computed, false);
    check_types(v.places, computed, false);
    const auto check_memory = [&](auto slots) {
      for (const auto slot : slots) {
        refused(wrong_memory, [&](A& a) { (a.*slot).where = elsewhere; }, {v.name + ": ", "lies in " + other, "in " + mine});
        refused(wrong_shape, [&](A& a) { (a.*slot).data = nullptr; }, {"null pointer"});
        refused(wrong_shape, [&](A& a) { (a.*slot).rows = -1; }, {"-1"});
        if ((good.*slot).rows > 1) refused(wrong_shape, [&](A& a) { (a.*slot).stride = 2; }, {"stride", "2"});
      }
    };
    check_memory(v.stored);
    check_memory(v.computed);
    check_memory(v.places);
    // What the verb itself says comes through.
    refused(wrong_shape, [&](A& a) { a.x.rows = 0; }, {v.name + ": ", "is empty (0 x 5)"});
    if (v.stored.size() > 1)
      refused(wrong_shape, [&](A& a) { (a.*v.stored[1]).cols = 4; }, {v.name + ": ", "9 x 5", "x 4", "must agree"});
    for (const auto slot : v.places)
      refused(wrong_shape, [&](A& a) { (a.*slot).cols -= 1; }, {v.name + ": "});
    if (v.has_value) refused(wrong_shape, [](A& a) { a.value = nullptr; }, {"value", "null"});
    if (v.has_labels) {
      refused(wrong_shape, [&](A& a) { a.labels = craft::labels(class_of.data(), n - 1); }, {v.name + ": ", "9", "8"});
      if (on_host)
        refused(wrong_memory, [&](A& a) { a.labels = craft::labels(class_of.data(), n, elsewhere); }, {v.name + ": ", "lie in memory"});
    }
    if (v.has_weights && on_host) {
      const std::vector<double> one(std::size_t(n), 1.0);
      refused(wrong_memory, [&](A& a) { a.weights = craft::numbers(one.data(), n, elsewhere); }, {"weights lie in memory"});
    }
    // And as they were, the arguments are good.
    CHECK_NOTHROW(v.run(device, good));
  }
}

TEMPLATE_LIST_TEST_CASE("numbers that are read lie where the call runs", "[runtime][errors]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  const craft::any_device device(D::make());
  const samples<D> s;
  array<D, T> value(1, 1, sentinel);
  const watched all(value);
  const T number = 1;
  const craft::scalar elsewhere(&number, D::space == craft::memory::host ? craft::memory::device : craft::memory::host);
  void* const at = value.out().data();
  craft::mmd_options mmd;
  mmd.upstream = elsewhere;
  rejects<craft::device_error>(all, [&] { rt::mmd(device, in(s.x), in(s.y), {}, mmd, at); }, {"mmd: upstream", "memory"});
  craft::cross_entropy_options ce;
  ce.log_scale = elsewhere;
  rejects<craft::device_error>(
      all, [&] { rt::anchor_cross_entropy(device, in(s.x), in(s.anchors), s.labels.in(), ce, at); }, {"log_scale", "memory"});
  craft::sigmoid_options sigmoid;
  sigmoid.bias = elsewhere;
  rejects<craft::device_error>(all, [&] { rt::sigmoid_contrastive(device, in(s.x), in(s.paired), sigmoid, at); },
                               {"bias", "memory"});
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
  const reals X = random_reals(n, d, 1), Y = random_reals(m, d, 2);
  const auto check = [&](auto on_device, auto on_host, dtype type) {
    using D = decltype(on_device);
    using H = decltype(on_host);
    const array<D> x(X), y(Y);
    const array<H> host_x(X), host_y(Y);
    const auto host = [&](const array<H>& a) {
      const auto v = a.in();
      return rt::matrix{v.data(), v.rows(), v.cols(), v.stride(), type, craft::memory::host};
    };
    outputs<D> got(craft::write::overwrite);
    array<H, float> value(1, 1), dx(n, d);
    rt::mmd(craft::any_device(craft::cuda()), in(x), in(y), {}, {}, got.value(), {got.place(n, d)});
    rt::mmd(craft::any_device(craft::cpu(1)), host(host_x), host(host_y), {}, {}, value.out().data(), {to(dx)});
    CHECK(std::abs(got.values()(0, 0) - value.number()) <= 1e-6);
    CHECK(relative_distance(got.all()[0]->get(), dx.get()) <= 1e-5);
  };
  check(stored_as<half>(), device<cpu_backend, Eigen::half>(), dtype::float16);
  check(stored_as<bfloat16>(), device<cpu_backend, Eigen::bfloat16>(), dtype::bfloat16);
}
#endif
