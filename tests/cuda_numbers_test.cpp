// Numbers in device memory in place of the host's: scales, biases, upstream factors, and outputs that are added to.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "pair_losses.hpp"

using namespace craft_test;

namespace {

/// Outputs of one of the losses with a scale.
struct scaled_run {
  std::string bits;
  std::vector<std::pair<std::string, reals>> results;
};

const char* const scaled_losses[] = {"info_nce", "anchor_cross_entropy", "sigmoid_contrastive", "relative", "objective",
                                     "mmd"};

struct numbers_given {
  craft::scalar log_scale = 2.25, bias = -3.25, upstream = -1.5;
  double max_scale = std::numeric_limits<double>::infinity();
  bool accumulate = false;
};

template <class D>
scaled_run run_scaled(int loss, const craft::cuda& ctx, const numbers_given& given) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const index_t n = 13, d = 5;
  const array<D> x(random_reals(n, d, 31)), y(random_reals(n, d, 32)), w(random_reals(n, n, 33));
  const label_array<D> labels(labels_for(n, n, 3));
  array<D> dx(n, d, sentinel), dy(n, d, sentinel), out(n, n, sentinel);
  array<D, T> value(1, 1, sentinel), ds(1, 1, sentinel), db(1, 1, sentinel), terms(1, 5, sentinel);
  const auto to = [&](auto& a) { return given.accumulate ? craft::accumulate(a.out()) : craft::overwrite(a.out()); };
  craft::alignment_gradients<S, D::space> g;
  g.x = to(dx);
  g.y = to(dy);
  g.log_scale = to(ds);
  const auto set = [&](auto o) {
    o.log_scale = given.log_scale;
    o.max_scale = given.max_scale;
    o.upstream = given.upstream;
    return o;
  };
  const craft::gaussians<double> kernel{1.0, 3.0};
  if (loss == 0) craft::info_nce(ctx, x.in(), y.in(), set(craft::contrastive_options{}), value.as_value(), g);
  if (loss == 1)
    craft::anchor_cross_entropy(ctx, x.in(), y.in(), labels.in(), set(craft::cross_entropy_options{}), value.as_value(),
                                g);
  if (loss == 2) {
    g.bias = to(db);
    craft::sigmoid_options o = set(craft::sigmoid_options{});
    o.bias = given.bias;
    craft::sigmoid_contrastive(ctx, x.in(), y.in(), o, value.as_value(), g);
  }
  if (loss == 3) {
    craft::relative_options o;
    o.log_scale = given.log_scale;
    o.max_scale = given.max_scale;
    craft::relative(ctx, x.in(), y.in(), craft::dot_product<>(), o, out.out());
    craft::relative_gradients<S, D::space> r;
    r.x = g.x;
    r.anchors = g.y;
    r.log_scale = g.log_scale;
    craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), o, w.in(), r);
  }
  if (loss == 4) {
    craft::objective_inputs<S, D::space> in;
    in.images = x.in();
    in.class_texts = y.in();
    in.targets = labels.in();
    in.target_images = y.in();
    craft::objective_gradients<S, D::space> o;
    o.images = g.x;
    o.class_texts = g.y;
    o.log_scale = g.log_scale;
    using values = craft::objective_values<T>;
    const craft::scalar_out<values, D::space> place(reinterpret_cast<values*>(terms.out().data()));
    craft::objective(ctx, in, kernel, set(craft::objective_options{}), place, o);
  }
  if (loss == 5) {
    craft::mmd_options o;
    o.upstream = given.upstream;
    craft::mmd_gradients<S, D::space> m;
    m.x = g.x;
    m.y = g.y;
    craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value(), m);
  }
  return {dx.bits() + dy.bits() + out.bits() + value.bits() + ds.bits() + db.bits() + terms.bits(),
          {{"dx", dx.get()},
           {"dy", dy.get()},
           {"out", out.get()},
           {"value", value.get()},
           {"d log_scale", ds.get()},
           {"d bias", db.get()},
           {"terms", terms.get()}}};
}

/// Two runs that differ in the last digits of the scale: 4 roundoffs of exp, times the logits' slope of about the
/// scale.
template <class D>
void check_alike(const scaled_run& got, const scaled_run& want) {
  for (std::size_t k = 0; k < want.results.size(); ++k) {
    INFO(want.results[k].first);
    const reals &a = got.results[k].second, &b = want.results[k].second;
    CHECK((a - b).norm() <= 1000 * roundoff<typename D::scalar> * (1 + b.norm()));
  }
}

}  // namespace

// 2.25, -3.25 and -1.5 are the same number in float and in double. The product of upstream and a factor is one IEEE
// multiplication wherever it is made, and so is the sum with the bias: the same bits. The scale's exp is taken on the
// host in one case and on the device in the other: the same bits where both use one mathematical library (under
// emulation).
TEMPLATE_LIST_TEST_CASE("numbers in device memory are the numbers given by value", "[cuda][scalars]", devices) {
  using D = TestType;
  const array<D, float> f_scale(1, 1, 2.25), f_bias(1, 1, -3.25), f_upstream(1, 1, -1.5);
  const array<D, double> d_scale(1, 1, 2.25), d_bias(1, 1, -3.25), d_upstream(1, 1, -1.5);
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 6; ++loss)
      for (const bool accumulate : {false, true}) {
        INFO(scaled_losses[loss] << ", " << name_of(w) << (accumulate ? ", accumulate" : ""));
        numbers_given by_value;
        by_value.accumulate = accumulate;
        const scaled_run want = run_scaled<D>(loss, ctx, by_value);
        for (const bool wide : {false, true}) {
          numbers_given g = by_value;
          g.bias = wide ? d_bias.as_scalar() : f_bias.as_scalar();
          g.upstream = wide ? d_upstream.as_scalar() : f_upstream.as_scalar();
          CHECK((run_scaled<D>(loss, ctx, g).bits == want.bits));
          g.log_scale = wide ? d_scale.as_scalar() : f_scale.as_scalar();
          const scaled_run got = run_scaled<D>(loss, ctx, g);
          check_alike<D>(got, want);
#ifdef CRAFT_EMULATED_CUDA
          CHECK((got.bits == want.bits));
#endif
        }
      }
  }
}

TEMPLATE_LIST_TEST_CASE("a scale in device memory is clamped, and then has a gradient that leads back, or none",
                        "[cuda][scalars]", devices) {
  using D = TestType;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 5; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      for (const double log_scale : {2.25, 700.0, 1000.0}) {  // exp of the last is infinite
        const array<D, typename D::compute> on_device(1, 1, log_scale);
        const array<D, double> wide(1, 1, log_scale);
        numbers_given clamped, exact;
        clamped.log_scale = on_device.as_scalar();
        clamped.max_scale = 4;
        exact.log_scale = std::log(4.0);
        scaled_run got = run_scaled<D>(loss, ctx, clamped), want = run_scaled<D>(loss, ctx, exact);
        double& by_scale = want.results[4].second(0, 0);
        CHECK(by_scale != 0);
        if (by_scale < 0) by_scale = 0;  // a step against it would lead further out
        CHECK((got.results[4].second(0, 0) == 0) == (by_scale == 0));
        check_alike<D>(got, want);
        clamped.log_scale = wide.as_scalar();
        CHECK((run_scaled<D>(loss, ctx, clamped).bits == got.bits));
        // Clamped by the host: its maximum is as exact as the device's.
        clamped.log_scale = log_scale;
        CHECK((run_scaled<D>(loss, ctx, clamped).bits == got.bits));
        // Added to what is there, which may be nothing.
        clamped.log_scale = on_device.as_scalar();
        clamped.accumulate = true;
        const double added = got.results[4].second(0, 0), sum = run_scaled<D>(loss, ctx, clamped).results[4].second(0, 0);
        CHECK(std::abs(sum - (sentinel + added)) <= 2 * roundoff<typename D::scalar> * std::abs(sum));
      }
      // A scale beyond the maximum and one below it: the maximum is only that.
      const array<D, typename D::compute> small(1, 1, 0.5);
      numbers_given below, free;
      below.log_scale = free.log_scale = small.as_scalar();
      below.max_scale = 4;
      CHECK((run_scaled<D>(loss, ctx, below).bits == run_scaled<D>(loss, ctx, free).bits));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a scale in device memory that is not a number does not pass for the largest one",
                        "[cuda][scalars]", devices) {
  using D = TestType;
  const array<D, typename D::compute> on_device(1, 1, not_a_number);
  for (const way w : ways)
    for (int loss = 0; loss < 5; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      numbers_given g;
      g.log_scale = on_device.as_scalar();
      g.max_scale = 4;
      const auto results = run_scaled<D>(loss, make(w), g).results;
      const reals& value = results[loss == 3 ? 2 : loss == 4 ? 6 : 3].second;
      CHECK(std::isnan(value(0, value.cols() - 1)));
    }
}

TEMPLATE_LIST_TEST_CASE("accumulate adds to what is in device memory", "[cuda][outputs]", devices) {
  using D = TestType;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 6; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      numbers_given g;
      const scaled_run alone = run_scaled<D>(loss, ctx, g);
      g.accumulate = true;
      const scaled_run added = run_scaled<D>(loss, ctx, g);
      for (const std::size_t k : {0, 1, 4, 5}) {
        const bool written = k < 2 || (k == 4 && loss != 5) || (k == 5 && loss == 2);
        if (!written) continue;
        const reals &a = added.results[k].second, sum = alone.results[k].second.array() + sentinel;
        INFO(alone.results[k].first);
        // One addition.
        CHECK((a - sum).cwiseAbs().maxCoeff() <= 2 * roundoff<typename D::scalar> * sum.cwiseAbs().maxCoeff());
      }
    }
  }
}
