// Labels and weights on the host and in device memory, and those that are outside their range.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "pair_losses.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

/// The verbs that take labels, weights or both, from wherever they lie.
template <class D>
class labelled_calls {
 public:
  using S = typename D::scalar;
  using T = typename D::compute;
  static constexpr index_t n = 21, m = 10, c = 4, d = 5;

  struct call {
    std::string name;
    bool by_class = false, by_weight = false;  ///< labels that number the classes; weights
    std::function<void(const craft::cuda&, const craft::labels&, const craft::labels&, const craft::numbers&,
                       const craft::numbers&)>
        run;
  };
  std::vector<call> calls;

  labelled_calls() {
    calls.push_back({"anchor_cross_entropy", true, true, [this](const craft::cuda& ctx, auto xl, auto, auto xw, auto) {
                       craft::cross_entropy_options o;
                       o.log_scale = 1.5;
                       o.weights = xw;
                       craft::anchor_cross_entropy(ctx, x_.in(), a_.in(), xl, o, value_.as_value(), gradients(da_));
                     }});
    calls.push_back({"info_nce", false, false, [this](const craft::cuda& ctx, auto xl, auto yl, auto, auto) {
                       craft::contrastive_options o;
                       o.log_scale = 1.5;
                       o.x_labels = xl;
                       o.y_labels = yl;
                       craft::info_nce(ctx, x_.in(), y_.in(), o, value_.as_value(), gradients(dy_));
                     }});
    calls.push_back({"info_nce, weights", false, true, [this](const craft::cuda& ctx, auto, auto, auto xw, auto) {
                       craft::contrastive_options o;
                       o.log_scale = 1.5;
                       o.weights = xw;
                       craft::info_nce(ctx, x_.in(), p_.in(), o, value_.as_value(), gradients(dp_));
                     }});
    calls.push_back({"sigmoid_contrastive", false, false, [this](const craft::cuda& ctx, auto xl, auto yl, auto, auto) {
                       craft::sigmoid_options o;
                       o.x_labels = xl;
                       o.y_labels = yl;
                       craft::sigmoid_contrastive(ctx, x_.in(), y_.in(), o, value_.as_value(), gradients(dy_));
                     }});
    calls.push_back({"mmd", false, true, [this](const craft::cuda& ctx, auto, auto, auto xw, auto yw) {
                       craft::mmd_options o;
                       o.x_weights = xw;
                       o.y_weights = yw;
                       craft::mmd_gradients<S, D::space> g;
                       g.x = craft::overwrite(dx_.out());
                       g.y = craft::overwrite(dy_.out());
                       craft::mmd(ctx, x_.in(), y_.in(), kernel_, o, value_.as_value(), g);
                     }});
    calls.push_back({"class_means", true, false, [this](const craft::cuda& ctx, auto xl, auto, auto, auto) {
                       craft::class_means(ctx, x_.in(), xl, craft::class_means_options{}, da_.out());
                     }});
    for (const bool positives : {false, true})
      calls.push_back({positives ? "objective, positives by class" : "objective", true, false,
                       [this, positives](const craft::cuda& ctx, auto xl, auto, auto, auto) {
                         craft::objective_inputs<S, D::space> in;
                         in.images = x_.in();
                         in.class_texts = a_.in();
                         in.targets = xl;
                         in.image_anchors = b_.in();
                         in.target_images = y_.in();
                         craft::objective_gradients<S, D::space> g;
                         g.images = craft::overwrite(dx_.out());
                         g.class_texts = craft::overwrite(da_.out());
                         g.image_anchors = craft::overwrite(db_.out());
                         craft::objective_options o;
                         o.log_scale = 1.5;
                         o.same_class_positives = positives;
                         using values = craft::objective_values<T>;
                         craft::objective(
                             ctx, in, kernel_, o,
                             craft::scalar_out<values, D::space>(reinterpret_cast<values*>(terms_.out().data())), g);
                       }});
  }
  labelled_calls(const labelled_calls&) = delete;

  void reset() {
    for (array<D>* a : {&dx_, &dy_, &dp_, &da_, &db_})
      a->set(reals::Constant(a->get().rows(), a->get().cols(), sentinel));
    for (array<D, T>* a : {&value_, &ds_, &terms_}) a->set(reals::Constant(1, a->get().cols(), sentinel));
  }
  std::string bits() const {
    return dx_.bits() + dy_.bits() + dp_.bits() + da_.bits() + db_.bits() + value_.bits() + ds_.bits() + terms_.bits();
  }
  /// The value, or the total of the objective; sentinel if a verb has none.
  double value() const { return value_.number() != sentinel ? value_.number() : terms_.get()(0, 4); }

 private:
  craft::alignment_gradients<S, D::space> gradients(array<D>& other) {
    craft::alignment_gradients<S, D::space> g;
    g.x = craft::overwrite(dx_.out());
    g.y = craft::overwrite(other.out());
    g.log_scale = craft::overwrite(ds_.out());
    return g;
  }

  const craft::gaussians<double> kernel_{1.0, 3.0};
  const array<D> x_{random_reals(n, d, 71)}, y_{random_reals(m, d, 72)}, p_{random_reals(n, d, 73)},
      a_{random_reals(c, d, 74)}, b_{random_reals(c, d, 75)};
  array<D> dx_{n, d}, dy_{m, d}, dp_{n, d}, da_{c, d}, db_{c, d};
  array<D, T> value_{1, 1}, ds_{1, 1}, terms_{1, 5};
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("labels and weights on the host are those in device memory", "[cuda][labels]", devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> xl = labels_for(all.n, all.c, 3), yl = labels_for(all.m, all.c, 5);
  const std::vector<std::int32_t> narrow(xl.begin(), xl.end());
  const std::vector<double> xw = some_weights<D>(all.n), yw = some_weights<D>(all.m);
  const std::vector<float> xf(xw.begin(), xw.end());
  const label_array<D> xl_device(xl), yl_device(yl);
  const label_array<D, std::int32_t> narrow_device(xl);
  const array<D, double> xw_device(xw), yw_device(yw);
  const array<D, float> xf_device(xw);
  const craft::cuda plain = make(way::tiles);
  craft::cuda looking = make(way::tiles);
  looking.check_labels(true);
  for (const craft::cuda* ctx : {&plain, static_cast<const craft::cuda*>(&looking)})
    for (const auto& call : all.calls) {
      INFO(call.name << (ctx == &plain ? "" : ", labels checked"));
      const auto bits = [&](const craft::labels& x, const craft::labels& y, const craft::numbers& u,
                            const craft::numbers& v) {
        all.reset();
        call.run(*ctx, x, y, u, v);
        return all.bits();
      };
      const std::string want = bits(xl, yl, xw, yw);
      CHECK((bits(xl_device.in(), yl_device.in(), xw_device.as_numbers(), yw_device.as_numbers()) == want));
      CHECK((bits(xl_device.in(), yl, xw, yw_device.as_numbers()) == want));
      CHECK((bits(narrow_device.in(), yl_device.in(), xw_device.as_numbers(), yw) == want));
      CHECK((bits(narrow, yl_device.in(), xw_device.as_numbers(), yw) == want));
      const std::string in_float = bits(xl, yl, xf, yw);  // rounded weights are others
      CHECK((bits(xl, yl_device.in(), xf_device.as_numbers(), yw_device.as_numbers()) == in_float));
    }
}

// A kernel cannot throw. What it must not do is read or write beside its arrays, which the sanitizer watches.
TEMPLATE_LIST_TEST_CASE("a label outside its range in device memory makes the value NaN", "[cuda][labels][errors]",
                        devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> right = labels_for(all.n, all.c, 3), y_right = labels_for(all.m, all.c, 5);
  const label_array<D> right_device(right), y_device(y_right);
  const array<D, double> xw(std::vector<double>(std::size_t(all.n), 1.0)),
      yw(std::vector<double>(std::size_t(all.m), 1.0));
  const auto run = [&](const auto& call, const craft::cuda& ctx, const craft::labels& labels) {
    call.run(ctx, labels, y_device.in(), xw.as_numbers(), yw.as_numbers());
  };
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    craft::cuda looking = make(w);
    looking.check_labels(true);
    for (const auto& call : all.calls) {
      if (!call.by_class) continue;
      all.reset();
      const std::string untouched = all.bits();
      run(call, ctx, right_device.in());
      const std::string want = all.bits();
      const index_t classes = all.c, last = all.n - 1;
      for (const index_t bad : {classes, index_t(-1), index_t(1) << 40, -(index_t(1) << 62)})
        for (const index_t row : {index_t(0), index_t(17), last}) {
          INFO(call.name << ", " << name_of(w) << ": label " << bad << " of row " << row);
          std::vector<index_t> values = right;
          values[std::size_t(row)] = bad;
          const label_array<D> wrong(values);
          all.reset();
          run(call, ctx, wrong.in());
          if (call.name != "class_means") CHECK(std::isnan(all.value()));

          all.reset();
          CHECK_THROWS_AS(run(call, looking, wrong.in()), craft::label_error);
          CHECK_THROWS_WITH(run(call, looking, wrong.in()),
                            contains(std::to_string(bad)) && contains(std::to_string(row)));
          CHECK_THROWS_AS(run(call, looking, values), craft::label_error);
          CHECK_THROWS_AS(run(call, ctx, values), craft::label_error);  // on the host they are always looked at
          CHECK((all.bits() == untouched));
        }
      all.reset();
      run(call, ctx, right_device.in());
      CHECK((all.bits() == want));
      all.reset();
      run(call, looking, right_device.in());
      CHECK((all.bits() == want));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("labels that are ignored, and 32-bit labels outside their range", "[cuda][labels]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const index_t n = 6, c = 3, d = 4;
  const array<D> x(random_reals(n, d, 81)), a(random_reals(c, d, 82));
  array<D, T> value(1, 1);
  const craft::cuda ctx = make(way::tiles);
  const auto loss = [&](const craft::labels& y, index_t ignore) {
    craft::cross_entropy_options o;
    o.ignore_label = ignore;
    craft::anchor_cross_entropy(ctx, x.in(), a.in(), y, o, value.as_value());
    return value.number();
  };
  for (const index_t odd :
       {index_t(-100), index_t(3), index_t(-1), index_t(std::numeric_limits<std::int32_t>::min())}) {
    const std::vector<index_t> y = {0, odd, 2, 1, odd, 0};
    const label_array<D> wide(y);
    const label_array<D, std::int32_t> narrow(y);
    const double want = loss(y, odd);
    CHECK(std::isfinite(want));
    CHECK(loss(wide.in(), odd) == want);
    CHECK(loss(narrow.in(), odd) == want);
    CHECK(std::isnan(loss(wide.in(), 77)));
    CHECK(std::isnan(loss(narrow.in(), 77)));
  }
}

TEMPLATE_LIST_TEST_CASE("weights in device memory are looked at where the context is asked to",
                        "[cuda][labels][errors]", devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> xl = labels_for(all.n, all.c, 3), yl = labels_for(all.m, all.c, 5);
  const array<D, double> yw(std::vector<double>(std::size_t(all.m), 1.0));
  craft::cuda looking = make(way::tiles);
  looking.check_labels(true);
  for (const auto& call : all.calls) {
    if (!call.by_weight) continue;
    INFO(call.name);
    all.reset();
    const std::string untouched = all.bits();
    for (const double bad : {-1.0, not_a_number, infinity}) {
      std::vector<double> w(std::size_t(all.n), 1.0);
      w[5] = bad;
      const array<D, double> on_device(w);
      const array<D, float> in_float(w);
      for (const craft::numbers& given : {on_device.as_numbers(), in_float.as_numbers(), craft::numbers(w)}) {
        CHECK_THROWS_AS(call.run(looking, xl, yl, given, yw.as_numbers()), craft::option_error);
        CHECK_THROWS_WITH(call.run(looking, xl, yl, given, yw.as_numbers()), contains("[5]"));
      }
    }
    CHECK((all.bits() == untouched));
  }
}
