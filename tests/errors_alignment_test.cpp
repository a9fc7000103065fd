// Errors of the alignment losses and the objective, see errors_test.cpp; and inputs that are all the same.
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "craft/objective.hpp"
#include "devices.hpp"
#include "rejects.hpp"

using namespace craft_test;

TEMPLATE_LIST_TEST_CASE("anchor_cross_entropy: errors", "[errors][alignment]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const index_t n = 6, c = 3, d = 4;
  array<D> x(random_reals(n, d, 121)), a(random_reals(c, d, 122));
  const array<D> narrow(random_reals(c, 3, 123)), none(reals(0, d));
  array<D> dx(n, d, sentinel), da(c, d, sentinel), d_narrow(c, 3, sentinel);
  array<D, T> value(1, 1, sentinel), ds(1, 1, sentinel), ds3(1, 3, sentinel);
  const array<D, T> soft(random_reals(n, c, 124).cwiseAbs()), turned(random_reals(c, n, 125).cwiseAbs());
  const label_array<D> labels({0, 1, 2, 0, -100, 2}), five({0, 1, 2, 0, 1}), empty({});
  craft::alignment_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::accumulate(da.out());
  g.log_scale = craft::overwrite(ds.out());
  const craft::cross_entropy_options plain;
  const watched all(x, a, dx, da, d_narrow, value, ds, ds3);
  const auto run = [&](const auto& xv, const auto& av, const auto& targets, const craft::cross_entropy_options& o,
                       const craft::alignment_gradients<S, D::space>& to) {
    return [&ctx, &value, xv, av, targets, o, to] {
      craft::anchor_cross_entropy(ctx, xv, av, targets, o, value.as_value(), to);
    };
  };
  const auto y = labels.in();
  rejects<craft::shape_error>(all, run(x.in(), narrow.in(), y, plain, g), {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all, run(x.in(), narrow.in(), soft.in(), plain, g), {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all, run(none.in(), a.in(), empty.in(), plain, g), {"0 x 4"});
  rejects<craft::shape_error>(all, run(x.in(), none.in(), y, plain, g), {"0 x 4"});
  rejects<craft::shape_error>(all, run(x.in(), a.in(), five.in(), plain, g), {"labels: expected 6, one per row of x (6 x 4), got 5"});
  rejects<craft::shape_error>(all, run(x.in(), a.in(), empty.in(), plain, g), {"6", "0"});
  rejects<craft::shape_error>(all, run(x.in(), a.in(), turned.in(), plain, g), {"6 x 3", "3 x 6"});
  for (const index_t bad : {index_t(3), index_t(-1), index_t(-99), index_t(1) << 40}) {
    const label_array<D> wrong({0, 1, 2, 0, 1, bad});
    rejects<craft::label_error>(all, run(x.in(), a.in(), wrong.in(), plain, g), {std::to_string(bad), "2"});
  }
  const label_array<D, std::int32_t> narrow_labels({0, 1, 2, 0, 1, 3});
  rejects<craft::label_error>(all, run(x.in(), a.in(), narrow_labels.in(), plain, g), {"3"});
  if (D::space == craft::memory::host) {  // a GPU reads labels on either side
    const std::vector<index_t> zeros(std::size_t(n), 0);
    const craft::labels far(zeros.data(), n, craft::memory::device);
    rejects<craft::device_error>(all, run(x.in(), a.in(), far, plain, g), {"anchor_cross_entropy: labels", "memory"});
  }
  craft::cross_entropy_options o;
  o.ignore_label = 2;  // now -100 is a label like any other
  rejects<craft::label_error>(all, run(x.in(), a.in(), y, o, g), {"-100"});

  for (const double bad : {-0.01, 1.01, not_a_number, infinity}) {
    o = plain;
    o.label_smoothing = bad;
    rejects<craft::option_error>(all, run(x.in(), a.in(), y, o, g));
    rejects<craft::option_error>(all, run(x.in(), a.in(), soft.in(), o, g));
  }
  for (const double bad : {0.0, -1.0, not_a_number}) {
    o = plain;
    o.max_scale = bad;
    rejects<craft::option_error>(all, run(x.in(), a.in(), y, o, g));
  }
  const auto weighted = [&](const std::vector<double>& w, auto error) {
    using Error = decltype(error);
    const array<D, T> on_device(w);
    craft::cross_entropy_options with_weights;
    with_weights.weights = on_device.as_numbers();
    rejects<Error>(all, run(x.in(), a.in(), y, with_weights, g));
    rejects<Error>(all, run(x.in(), a.in(), soft.in(), with_weights, g));
  };
  weighted({1, 1, 1, 1, 1}, craft::shape_error(""));
  weighted({1, 1, 1, 1, 1, 1, 1}, craft::shape_error(""));
  for (const double bad : {-1e-3, not_a_number, infinity}) weighted({1, 1, bad, 1, 1, 1}, craft::option_error(""));
  weighted({0, 0, 0, 0, 0, 0}, craft::option_error(""));

  const auto to = [&](auto change) {
    craft::alignment_gradients<S, D::space> h = g;
    change(h);
    return run(x.in(), a.in(), y, plain, h);
  };
  rejects<craft::shape_error>(all, to([&](auto& h) { h.x = craft::overwrite(d_narrow.out()); }), {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all, to([&](auto& h) { h.y = craft::overwrite(dx.out()); }), {"3 x 4", "6 x 4"});
  rejects<craft::shape_error>(all, to([&](auto& h) { h.log_scale = craft::overwrite(ds3.out()); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.x = craft::overwrite(x.out()); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(a.out()); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(part<D>(dx, 3, c, 0, d)); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(part<D>(x, 0, c, 0, d)); }));

  for (const double bad : {not_a_number, infinity}) {
    const array<D> xb(with(random_reals(n, d, 126), 5, 1, bad)), ab(with(random_reals(c, d, 127), 2, 3, bad));
    const array<D, T> tb(with(random_reals(n, c, 128).cwiseAbs(), 4, 2, bad));
    ctx.check_finite(true);
    rejects<craft::data_error>(all, run(xb.in(), a.in(), y, plain, g), {"5", "1"});
    rejects<craft::data_error>(all, run(x.in(), ab.in(), y, plain, g), {"2", "3"});
    rejects<craft::data_error>(all, run(x.in(), a.in(), tb.in(), plain, g), {"4", "2"});
    ctx.check_finite(false);
    array<D, T> any(1, 1);
    CHECK_NOTHROW(craft::anchor_cross_entropy(ctx, xb.in(), a.in(), y, plain, any.as_value()));
  }
  o = plain;
  for (const double edge : {0.0, 1.0}) {
    o.label_smoothing = edge;
    CHECK_NOTHROW(run(x.in(), a.in(), y, o, g)());
  }
}

TEMPLATE_LIST_TEST_CASE("info_nce and sigmoid_contrastive: errors", "[errors][alignment]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const index_t n = 6, m = 5, d = 4;
  array<D> x(random_reals(n, d, 131)), y(random_reals(n, d, 132));
  const array<D> fewer(random_reals(m, d, 133)), narrow(random_reals(n, 3, 134)), none(reals(0, d));
  array<D> dx(n, d, sentinel), dy(n, d, sentinel), d_fewer(m, d, sentinel);
  array<D, T> value(1, 1, sentinel), ds(1, 1, sentinel), db(1, 1, sentinel), three(1, 3, sentinel);
  const label_array<D> six({0, 1, 2, 0, 1, 2}), five({0, 1, 2, 0, 1});
  craft::alignment_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::accumulate(dy.out());
  g.log_scale = craft::overwrite(ds.out());
  const watched all(x, y, dx, dy, d_fewer, value, ds, db, three);

  const auto both = [&](auto test) {  // the same checks of two verbs
    SECTION("info_nce") {
      test(craft::contrastive_options{}, [&](const auto& xv, const auto& yv, const auto& o, const auto& to) {
        craft::info_nce(ctx, xv, yv, o, value.as_value(), to);
      });
    }
    SECTION("sigmoid_contrastive") {
      g.bias = craft::overwrite(db.out());
      test(craft::sigmoid_options{}, [&](const auto& xv, const auto& yv, const auto& o, const auto& to) {
        craft::sigmoid_contrastive(ctx, xv, yv, o, value.as_value(), to);
      });
    }
  };
  both([&](const auto& plain, const auto& verb) {
    using options = std::decay_t<decltype(plain)>;
    const auto run = [&](const auto& xv, const auto& yv, const options& o,
                         const craft::alignment_gradients<S, D::space>& to) {
      return [&verb, xv, yv, o, to] { verb(xv, yv, o, to); };
    };
    rejects<craft::shape_error>(all, run(x.in(), narrow.in(), plain, g), {"6 x 4", "6 x 3"});
    rejects<craft::shape_error>(all, run(none.in(), none.in(), plain, g), {"0 x 4"});
    rejects<craft::shape_error>(all, run(x.in(), none.in(), plain, g), {"0 x 4"});
    // Without labels row i belongs to row i: both sides need as many.
    rejects<craft::shape_error>(all, run(x.in(), fewer.in(), plain, {}), {"6 x 4", "5 x 4"});
    const auto labelled = [&](const craft::labels& xl, const craft::labels& yl) {
      options o = plain;
      o.x_labels = xl;
      o.y_labels = yl;
      return o;
    };
    rejects<craft::shape_error>(all, run(x.in(), y.in(), labelled(five.in(), six.in()), g),
                                {"x_labels: expected 6, one per row of x (6 x 4), got 5"});
    rejects<craft::shape_error>(all, run(x.in(), y.in(), labelled(six.in(), five.in()), g),
                                {"y_labels: expected 6, one per row of y (6 x 4), got 5"});
    rejects<craft::error>(all, run(x.in(), y.in(), labelled(six.in(), {}), g));
    rejects<craft::error>(all, run(x.in(), y.in(), labelled({}, six.in()), g));
    for (const double bad : {0.0, -1.0, not_a_number}) {
      options o = plain;
      o.max_scale = bad;
      rejects<craft::option_error>(all, run(x.in(), y.in(), o, g));
    }
    const auto to = [&](auto change) {
      craft::alignment_gradients<S, D::space> h = g;
      change(h);
      return run(x.in(), y.in(), plain, h);
    };
    rejects<craft::shape_error>(all, to([&](auto& h) { h.x = craft::overwrite(d_fewer.out()); }), {"6 x 4", "5 x 4"});
    rejects<craft::shape_error>(all, to([&](auto& h) { h.y = craft::overwrite(d_fewer.out()); }), {"6 x 4", "5 x 4"});
    rejects<craft::shape_error>(all, to([&](auto& h) { h.log_scale = craft::overwrite(three.out()); }));
    rejects<craft::alias_error>(all, to([&](auto& h) { h.x = craft::overwrite(y.out()); }));
    rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(y.out()); }));
    rejects<craft::alias_error>(all, to([&](auto& h) { h.y = h.x; }));
    for (const double bad : {not_a_number, -infinity}) {
      const array<D> xb(with(random_reals(n, d, 135), 5, 1, bad));
      ctx.check_finite(true);
      rejects<craft::data_error>(all, run(xb.in(), y.in(), plain, g), {"5", "1"});
      rejects<craft::data_error>(all, run(x.in(), xb.in(), plain, g), {"5", "1"});
      ctx.check_finite(false);
    }
    CHECK_NOTHROW(run(x.in(), fewer.in(), labelled(six.in(), five.in()), {})());
    CHECK_NOTHROW(run(x.in(), y.in(), plain, g)());
  });
}

TEMPLATE_LIST_TEST_CASE("info_nce: errors of weights and smoothing", "[errors][alignment]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make_checking();
  const array<D> x(random_reals(6, 4, 136)), y(random_reals(6, 4, 137));
  array<D, T> value(1, 1, sentinel);
  const watched all(value);
  craft::contrastive_options o;
  const auto run = [&] { craft::info_nce(ctx, x.in(), y.in(), o, value.as_value()); };
  for (const double bad : {-0.01, 1.01, not_a_number}) {
    o.label_smoothing = bad;
    rejects<craft::option_error>(all, run);
  }
  o.label_smoothing = 0;
  const array<D, T> five(std::vector<double>(5, 1.0)), seven(std::vector<double>(7, 1.0)),
      negative(std::vector<double>{1, 1, -1, 1, 1, 1}), undefined(std::vector<double>{1, 1, not_a_number, 1, 1, 1});
  o.weights = five.as_numbers();
  rejects<craft::shape_error>(all, run, {"6", "5"});
  o.weights = seven.as_numbers();
  rejects<craft::shape_error>(all, run, {"6", "7"});
  o.weights = negative.as_numbers();
  rejects<craft::option_error>(all, run, {"-1"});
  o.weights = undefined.as_numbers();
  rejects<craft::option_error>(all, run);
  // The same rule in all verbs: not all zero, and a sum that is a normal double.
  const array<D, T> zero(std::vector<double>(6, 0.0));
  o.weights = zero.as_numbers();
  rejects<craft::option_error>(all, run, {"weights must not all be zero"});
  const array<D, double> huge(std::vector<double>(6, 1e308)), tiny(std::vector<double>(6, 5e-324));
  for (const auto* w : {&huge, &tiny}) {
    o.weights = w->as_numbers();
    rejects<craft::option_error>(all, run, {"weights sum to", "divide them by the largest"});
  }
}

// ---------------------------------------------------------------------------------------------------------
// The objective

TEMPLATE_LIST_TEST_CASE("objective: errors", "[errors][objective]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const index_t n = 6, m = 5, c = 3, d = 4;
  array<D> images(random_reals(n, d, 141)), class_texts(random_reals(c, d, 142)), batch_texts(random_reals(n, d, 143)),
      image_anchors(random_reals(c, d, 144)), target_images(random_reals(m, d, 145));
  const array<D> narrow(random_reals(n, 3, 146)), none(reals(0, d)), fewer(random_reals(n - 1, d, 147)),
      more(random_reals(c + 1, d, 148)), one(random_reals(1, d, 149));
  const label_array<D> labels({0, 1, 2, 0, 1, 2}), five({0, 1, 2, 0, 1}), wrong({0, 1, 2, 0, 1, 3}),
      negative({0, 1, 2, 0, 1, -1});
  array<D> d_images(n, d, sentinel), d_class_texts(c, d, sentinel), d_batch_texts(n, d, sentinel),
      d_image_anchors(c, d, sentinel), d_target_images(m, d, sentinel);
  array<D, T> d_scale(1, 1, sentinel), three(1, 3, sentinel);
  craft::objective_inputs<S, D::space> in;
  in.images = images.in();
  in.class_texts = class_texts.in();
  in.targets = labels.in();
  in.batch_texts = batch_texts.in();
  in.image_anchors = image_anchors.in();
  in.target_images = target_images.in();
  craft::objective_gradients<S, D::space> g;
  g.images = craft::overwrite(d_images.out());
  g.class_texts = craft::overwrite(d_class_texts.out());
  g.batch_texts = craft::accumulate(d_batch_texts.out());
  g.image_anchors = craft::overwrite(d_image_anchors.out());
  g.target_images = craft::overwrite(d_target_images.out());
  g.log_scale = craft::overwrite(d_scale.out());
  const watched all(images, class_texts, batch_texts, image_anchors, target_images, d_images, d_class_texts,
                    d_batch_texts, d_image_anchors, d_target_images, d_scale, three);
  objective_terms<D> values;  // full of NaN
  const auto kernel = craft::gaussian(1.0);
  const auto run = [&](auto change, const auto& k) {
    return [&ctx, &values, &k, &in, &g, change] {
      auto inputs = in;
      auto gradients = g;
      craft::objective_options o;
      change(inputs, o, gradients);
      craft::objective(ctx, inputs, k, o, values.place(), gradients);
    };
  };
  const auto fails = [&](auto error, auto change, const std::vector<std::string>& parts = {}) {
    using Error = decltype(error);
    rejects<Error>(all, run(change, kernel), parts);
    const auto v = values.get();
    const double terms_of[] = {v.text, v.image, v.batch, v.mmd, v.total};
    for (const double term : terms_of) CHECK(std::isnan(term));
  };
  const craft::shape_error shape("");
  const craft::option_error option("");
  const craft::label_error label("");
  const craft::alias_error alias("");
  const craft::data_error data("");

  fails(shape, [&](auto& i, auto&, auto&) { i.images = narrow.in(); }, {"6 x 3", "3 x 4"});
  fails(shape, [&](auto& i, auto&, auto&) { i.images = none.in(); });
  fails(shape, [&](auto& i, auto&, auto&) { i.class_texts = none.in(); });
  fails(shape, [&](auto& i, auto&, auto&) { i.targets = five.in(); }, {"6", "5"});
  fails(label, [&](auto& i, auto&, auto&) { i.targets = wrong.in(); }, {"3"});
  fails(label, [&](auto& i, auto&, auto&) { i.targets = negative.in(); }, {"-1"});
  fails(shape, [&](auto& i, auto&, auto&) { i.batch_texts = fewer.in(); }, {"5 x 4", "6 x 4"});
  fails(shape, [&](auto& i, auto&, auto&) { i.batch_texts = narrow.in(); }, {"6 x 3", "6 x 4"});
  fails(shape, [&](auto& i, auto&, auto&) { i.image_anchors = more.in(); }, {"4 x 4", "3 x 4"});
  fails(shape, [&](auto& i, auto&, auto&) { i.target_images = narrow.in(); }, {"6 x 3"});
  fails(shape, [&](auto& i, auto& o, auto& h) {
    i.target_images = one.in();
    o.discrepancy.estimator = craft::estimator::unbiased;
    h.target_images = {};
  });
  for (const double bad : {-0.01, 1.01, not_a_number})
    fails(option, [&](auto&, auto& o, auto&) { o.label_smoothing = bad; });
  for (const double bad : {0.0, -1.0, not_a_number}) fails(option, [&](auto&, auto& o, auto&) { o.max_scale = bad; });
  for (double craft::objective_options::*weight : {&craft::objective_options::text, &craft::objective_options::image,
                                                   &craft::objective_options::batch, &craft::objective_options::mmd})
    for (const double bad : {-1.0, not_a_number, infinity})
      fails(option, [&](auto&, auto& o, auto&) { o.*weight = bad; });
  // The last term's options and kernel are looked at before the first term is written.
  const array<D, T> four(std::vector<double>(4, 1.0)), minus(std::vector<double>{1, 1, 1, 1, 1, -1});
  fails(shape, [&](auto&, auto& o, auto&) { o.discrepancy.x_weights = four.as_numbers(); });
  fails(option, [&](auto&, auto& o, auto&) { o.discrepancy.x_weights = minus.as_numbers(); });
  for (const double bad : {0.0, -1.0, not_a_number}) {
    const auto broken = craft::gaussian(bad);
    rejects<craft::option_error>(all, run([](auto&, auto&, auto&) {}, broken));
    CHECK(std::isnan(values.get().total));
  }

  fails(shape, [&](auto&, auto&, auto& h) { h.images = craft::overwrite(d_target_images.out()); }, {"6 x 4", "5 x 4"});
  fails(shape, [&](auto&, auto&, auto& h) { h.class_texts = craft::overwrite(d_images.out()); }, {"3 x 4", "6 x 4"});
  fails(shape, [&](auto&, auto&, auto& h) { h.target_images = craft::overwrite(d_images.out()); });
  fails(shape, [&](auto&, auto&, auto& h) { h.image_anchors = craft::overwrite(d_images.out()); });
  fails(shape, [&](auto&, auto&, auto& h) { h.log_scale = craft::overwrite(three.out()); });
  fails(alias, [&](auto&, auto&, auto& h) { h.batch_texts = h.images; });
  fails(alias, [&](auto&, auto&, auto& h) { h.image_anchors = h.class_texts; });
  fails(alias, [&](auto&, auto&, auto& h) { h.images = craft::overwrite(images.out()); });
  fails(alias, [&](auto&, auto&, auto& h) { h.target_images = craft::overwrite(target_images.out()); });
  fails(alias, [&](auto&, auto&, auto& h) { h.target_images = craft::overwrite(part<D>(images, 1, m, 0, d)); });
  fails(alias, [&](auto&, auto&, auto& h) { h.class_texts = craft::overwrite(part<D>(d_images, 3, c, 0, d)); });

  const array<D> bad_n(with(random_reals(n, d, 150), 4, 2, not_a_number)),
      bad_c(with(random_reals(c, d, 151), 2, 1, infinity)), bad_m(with(random_reals(m, d, 152), 3, 3, -infinity));
  ctx.check_finite(true);
  fails(data, [&](auto& i, auto&, auto&) { i.images = bad_n.in(); }, {"4", "2"});
  fails(data, [&](auto& i, auto&, auto&) { i.class_texts = bad_c.in(); }, {"2", "1"});
  fails(data, [&](auto& i, auto&, auto&) { i.batch_texts = bad_n.in(); }, {"4", "2"});
  fails(data, [&](auto& i, auto&, auto&) { i.image_anchors = bad_c.in(); }, {"2", "1"});
  fails(data, [&](auto& i, auto&, auto&) { i.target_images = bad_m.in(); }, {"3"});
  ctx.check_finite(false);
  CHECK_NOTHROW(run([](auto&, auto&, auto&) {}, kernel)());
  CHECK(std::isfinite(values.get().total));
}

// ---------------------------------------------------------------------------------------------------------
// Nothing to tell apart

TEMPLATE_LIST_TEST_CASE("a collapsed batch gives finite values and gradients", "[errors][collapsed]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const auto ctx = D::make_checking();
  const index_t n = 7, m = 5, c = 3, d = 4;
  const bool zero = GENERATE(false, true);
  const reals row = zero ? reals(reals::Zero(1, d)) : random_reals(1, d, 171);
  const array<D> images(row.replicate(n, 1)), targets(row.replicate(m, 1)), texts(row.replicate(c, 1));
  const label_array<D> labels({0, 1, 2, 0, 1, 2, 0});
  craft::objective_inputs<S, D::space> in;
  in.images = images.in();
  in.class_texts = texts.in();
  in.targets = labels.in();
  in.image_anchors = texts.in();
  in.target_images = targets.in();
  for (const craft::bandwidth_rule rule :
       {craft::bandwidth_rule::fixed, craft::bandwidth_rule::mean, craft::bandwidth_rule::mean_offdiagonal,
        craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid})
    for (const craft::column_scaling columns :
         {craft::column_scaling::none, craft::column_scaling::minmax_separate, craft::column_scaling::minmax_joint}) {
      INFO("rule " << int(rule) << ", columns " << int(columns) << ", zero " << zero);
      craft::objective_options o;
      o.discrepancy.bandwidth = {rule, craft::bandwidth_sample::pooled, true};
      o.discrepancy.columns = columns;
      array<D> dx(n, d), dt(c, d), da(c, d), dy(m, d);
      array<D, T> ds(1, 1);
      craft::objective_gradients<S, D::space> g;
      g.images = craft::overwrite(dx.out());
      g.class_texts = craft::overwrite(dt.out());
      g.image_anchors = craft::overwrite(da.out());
      g.target_images = craft::overwrite(dy.out());
      g.log_scale = craft::overwrite(ds.out());
      objective_terms<D> terms;
      craft::objective(ctx, in, craft::gaussians<>{1.0, 2.0} + craft::energy<>(), o, terms.place(), g);
      const auto v = terms.get();
      const double terms_of[] = {v.text, v.image, v.batch, v.mmd, v.total};
      for (const double term : terms_of) CHECK(std::isfinite(term));
      CHECK(dx.get().allFinite());
      CHECK(dt.get().allFinite());
      CHECK(da.get().allFinite());
      CHECK(dy.get().allFinite());
      CHECK(ds.get().allFinite());
    }
}
