// The objective: the sum of its parts, the reference values, finite differences, and inputs that are not given.
#include "craft/objective.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "craft/anchors.hpp"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "pair_losses.hpp"
#include "reference.hpp"

using namespace craft_test;
using craft::direction;

namespace {

/// Inputs on the host; a matrix of no rows is not given.
struct problem {
  reals images, class_texts, batch_texts, image_anchors, target_images;
  std::vector<index_t> targets;
};

problem random_problem(index_t n, index_t m, index_t classes, index_t d) {
  return {random_reals(n, d, 61),       random_reals(classes, d, 62), random_reals(n, d, 63),
          random_reals(classes, d, 64), random_reals(m, d, 65, 0.3),  labels_for(n, classes, 5)};
}

struct objective_result {
  double text = 0, image = 0, batch = 0, mmd = 0, total = 0;
  problem gradients;
  double log_scale = 0;
};

/// Runs the objective with every gradient overwritten (buffers full of NaN) whose input is given.
template <class D, class K>
objective_result run_objective(const typename D::context& ctx, const problem& p, const K& kernel,
                               const craft::objective_options& options, bool value_only = false) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const array<D> images(p.images), class_texts(p.class_texts), batch_texts(p.batch_texts),
      image_anchors(p.image_anchors), target_images(p.target_images);
  const label_array<D> targets(p.targets);
  craft::objective_inputs<S, D::space> in;
  in.images = images.in();
  in.class_texts = class_texts.in();
  in.targets = targets.in();
  craft::objective_gradients<S, D::space> g;
  const auto like = [](const reals& r) { return array<D>(r.rows(), r.cols()); };
  array<D> d_images = like(p.images), d_class_texts = like(p.class_texts), d_batch_texts = like(p.batch_texts),
           d_image_anchors = like(p.image_anchors), d_target_images = like(p.target_images);
  array<D, T> d_log_scale(1, 1);
  if (!value_only) {
    g.images = craft::overwrite(d_images.out());
    g.class_texts = craft::overwrite(d_class_texts.out());
    g.log_scale = craft::overwrite(d_log_scale.out());
  }
  const auto optional = [&](const reals& r, auto& view, const array<D>& from, auto& gradient, array<D>& to) {
    if (r.rows() == 0) return;
    view = from.in();
    if (!value_only) gradient = craft::overwrite(to.out());
  };
  optional(p.batch_texts, in.batch_texts, batch_texts, g.batch_texts, d_batch_texts);
  optional(p.image_anchors, in.image_anchors, image_anchors, g.image_anchors, d_image_anchors);
  optional(p.target_images, in.target_images, target_images, g.target_images, d_target_images);
  objective_terms<D> terms;
  craft::objective(ctx, in, kernel, options, terms.place(), g);
  const auto v = terms.get();
  objective_result out{v.text, v.image, v.batch, v.mmd, v.total, {}, 0};
  out.gradients = {d_images.get(),        d_class_texts.get(),   d_batch_texts.get(),
                   d_image_anchors.get(), d_target_images.get(), {}};
  out.log_scale = d_log_scale.number();
  return out;
}

/// The same from the verbs it is made of, added up on the host.
template <class D, class K>
objective_result from_parts(const typename D::context& ctx, const problem& p, const K& kernel,
                            const craft::objective_options& o) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const index_t n = p.images.rows(), m = p.target_images.rows(), classes = p.class_texts.rows();
  const auto zeros = [](const reals& r) { return reals(reals::Zero(r.rows(), r.cols())); };
  objective_result out;
  problem& g = out.gradients;
  g = {zeros(p.images), zeros(p.class_texts), zeros(p.batch_texts), zeros(p.image_anchors), zeros(p.target_images), {}};

  const bool own_texts = p.batch_texts.rows() > 0;
  reals texts = p.batch_texts;
  if (!own_texts) {
    texts.resize(n, p.images.cols());
    for (index_t i = 0; i < n; ++i) texts.row(i) = p.class_texts.row(p.targets[std::size_t(i)]);
  }
  const auto add_texts = [&](const reals& gradient, double weight) {
    for (index_t i = 0; i < n; ++i)
      (own_texts ? g.batch_texts.row(i) : g.class_texts.row(p.targets[std::size_t(i)])) += weight * gradient.row(i);
  };
  // The clamp looks at the gradient of the sum: the parts have the scale that it leaves, and no clamp.
  const bool clamped = std::exp(o.log_scale.value()) >= o.max_scale;
  const craft::scalar log_scale = clamped ? std::log(o.max_scale) : o.log_scale.value();
  craft::cross_entropy_options ce;
  ce.log_scale = log_scale;
  ce.label_smoothing = o.label_smoothing;
  if (o.text > 0) {
    const auto r = run_cross_entropy<D>(ctx, p.images, p.class_texts, p.targets, ce);
    out.text = r.value;
    g.images += o.text * r.x;
    g.class_texts += o.text * r.y;
    out.log_scale += o.text * r.log_scale;
  }
  if (o.image > 0 && p.image_anchors.rows() > 0) {
    const auto r = run_cross_entropy<D>(ctx, texts, p.image_anchors, p.targets, ce);
    out.image = r.value;
    add_texts(r.x, o.image);
    g.image_anchors += o.image * r.y;
    out.log_scale += o.image * r.log_scale;
  }
  if (o.batch > 0) {
    craft::contrastive_options nce;
    nce.log_scale = log_scale;
    // Label smoothing is of the two cross-entropies against anchors only.
    nce.direction = o.direction;
    const std::vector<index_t> pairs = o.same_class_positives ? p.targets : std::vector<index_t>{};
    const auto r = run_info_nce<D>(ctx, p.images, texts, nce, pairs, pairs);
    out.batch = r.value;
    g.images += o.batch * r.x;
    add_texts(r.y, o.batch);
    out.log_scale += o.batch * r.log_scale;
  }
  if (o.mmd > 0 && m > 0) {
    craft::relative_options to_anchors;
    to_anchors.log_scale = log_scale;
    const array<D> images(p.images), anchors(p.class_texts), targets(p.target_images);
    array<D, T> source(n, classes), target(m, classes), d_source(n, classes), d_target(m, classes), value(1, 1);
    craft::relative(ctx, images.in(), anchors.in(), craft::dot_product<>{}, to_anchors, source.out());
    craft::relative(ctx, targets.in(), anchors.in(), craft::dot_product<>{}, to_anchors, target.out());
    craft::mmd_gradients<T, D::space> dr;
    dr.x = craft::overwrite(d_source.out());
    dr.y = craft::overwrite(d_target.out());
    craft::mmd(ctx, source.in(), target.in(), kernel, o.discrepancy, value.as_value(), dr);
    out.mmd = value.number();
    const auto pull = [&](const array<D>& x, const array<D, T>& dout, reals& to) {
      array<D> dx(to.rows(), to.cols()), da(classes, to.cols());
      array<D, T> ds(1, 1);
      craft::relative_gradients<S, D::space> back;
      back.x = craft::overwrite(dx.out());
      back.anchors = craft::overwrite(da.out());
      back.log_scale = craft::overwrite(ds.out());
      craft::relative_pullback(ctx, x.in(), anchors.in(), craft::dot_product<>{}, to_anchors, dout.in(), back);
      to += o.mmd * dx.get();
      g.class_texts += o.mmd * da.get();
      out.log_scale += o.mmd * ds.number();
    };
    pull(images, d_source, g.images);
    pull(targets, d_target, g.target_images);
  }
  out.total = o.text * out.text + o.image * out.image + o.batch * out.batch + o.mmd * out.mmd;
  const double up = o.upstream.value();
  for (reals* r : {&g.images, &g.class_texts, &g.batch_texts, &g.image_anchors, &g.target_images}) *r *= up;
  out.log_scale *= up;
  if (clamped && out.log_scale < 0) out.log_scale = 0;
  return out;
}

double joint_norm(const problem& g) {
  return std::sqrt(g.images.squaredNorm() + g.class_texts.squaredNorm() + g.batch_texts.squaredNorm() +
                   g.image_anchors.squaredNorm() + g.target_images.squaredNorm());
}

/// Equal up to `tolerance` of the size of the value and of all gradients together.
void check_close(const objective_result& got, const objective_result& want, double tolerance) {
  const auto value = [&](double a, double b) { CHECK(std::abs(a - b) <= tolerance * (1 + std::abs(b))); };
  value(got.text, want.text);
  value(got.image, want.image);
  value(got.batch, want.batch);
  value(got.mmd, want.mmd);
  value(got.total, want.total);
  const double size = std::hypot(joint_norm(want.gradients), want.log_scale);
  const problem &a = got.gradients, &b = want.gradients;
  CHECK((a.images - b.images).norm() <= tolerance * size);
  CHECK((a.class_texts - b.class_texts).norm() <= tolerance * size);
  CHECK((a.batch_texts - b.batch_texts).norm() <= tolerance * size);
  CHECK((a.image_anchors - b.image_anchors).norm() <= tolerance * size);
  CHECK((a.target_images - b.target_images).norm() <= tolerance * size);
  CHECK(std::abs(got.log_scale - want.log_scale) <= tolerance * size);
}

/// The option mixes that the tests below go through.
struct mix {
  std::string name;
  craft::objective_options options;
  bool texts, anchors, target;  // which of the optional inputs are given
};

std::vector<mix> mixes() {
  craft::objective_options plain;
  plain.log_scale = std::log(8.0);
  std::vector<mix> out = {{"defaults", plain, true, true, true}, {"no batch texts", plain, false, true, true}};
  craft::objective_options o = plain;
  o.text = 0.5, o.image = 2, o.batch = 0.25, o.mmd = 3;
  o.direction = direction::symmetric;
  o.label_smoothing = 0.1;
  o.discrepancy.bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::pooled, true};
  out.push_back({"weights, symmetric, smoothing, median with gradient", o, true, true, true});
  out.push_back({"the same without batch texts", o, false, true, true});
  o.same_class_positives = true;
  o.upstream = -1.5;
  o.discrepancy.estimator = craft::estimator::unbiased;
  o.discrepancy.bandwidth = {craft::bandwidth_rule::mean, craft::bandwidth_sample::x, true};
  out.push_back({"same-class positives, upstream, unbiased, mean of x with gradient", o, true, true, true});
  o.max_scale = 5;
  o.discrepancy = {};
  o.discrepancy.columns = craft::column_scaling::minmax_separate;
  out.push_back({"clamped scale, separate columns", o, true, true, true});
  o.max_scale = plain.max_scale;
  o.discrepancy.columns = craft::column_scaling::minmax_joint;
  o.discrepancy.factor = 2.5;
  o.discrepancy.offset = 1;
  out.push_back({"joint columns, factor and offset", o, false, true, true});
  o.discrepancy = {};
  o.discrepancy.estimator = craft::estimator::linear;
  out.push_back({"linear time", o, true, true, true});
  out.push_back({"no image anchors", plain, true, false, true});
  out.push_back({"no target images", plain, true, true, false});
  out.push_back({"text only", plain, false, false, false});
  for (int term = 0; term < 4; ++term) {
    o = plain;
    o.text = term == 0, o.image = term == 1, o.batch = term == 2, o.mmd = term == 3;
    out.push_back({"term " + std::to_string(term) + " alone", o, term % 2 == 0, true, true});
  }
  return out;
}

problem given(const mix& m, problem p) {
  if (!m.texts) p.batch_texts.resize(0, 0);
  if (!m.anchors) p.image_anchors.resize(0, 0);
  if (!m.target) p.target_images.resize(0, 0);
  return p;
}

const auto kernel = craft::gaussians<>::mean({1.0, 2.0, 4.0}) + 0.5 * craft::inverse_multiquadric(2.0);

}  // namespace

TEST_CASE("the defaults of the objective are the released code's", "[objective]") {
  const craft::objective_options o;
  for (const double weight : {o.text, o.image, o.batch, o.mmd}) CHECK(weight == 1);
  CHECK(o.log_scale.value() == std::log(100.0));
  CHECK(o.max_scale == std::numeric_limits<double>::infinity());
  CHECK(o.label_smoothing == 0);
  CHECK(o.direction == direction::one_way);
  CHECK_FALSE(o.same_class_positives);
  CHECK(o.upstream.value() == 1);
}

TEMPLATE_LIST_TEST_CASE("the objective is the sum of its parts", "[objective]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const index_t tile = GENERATE(0, 5);
  ctx.tile(tile);
  for (const mix& m : mixes()) {
    INFO(m.name << ", tile " << tile);
    const problem p = given(m, random_problem(13, 9, 4, 6));
    // The same operations on the same numbers; only the order in which terms are added may differ. Logits of size 8
    // and a scale heuristic turn that into some hundred roundings.
    check_close(run_objective<D>(ctx, p, kernel, m.options), from_parts<D>(ctx, p, kernel, m.options),
                500 * roundoff<typename D::scalar>);
  }
}

TEMPLATE_LIST_TEST_CASE("gradients of the objective by finite differences", "[objective][gradient][long]",
                        double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const std::vector<mix> all = mixes();
  const std::size_t which = GENERATE_COPY(Catch::Generators::range(std::size_t(0), all.size()));
  const mix& m = all[which];
  problem p = given(m, random_problem(8, 6, 4, 5));
  craft::objective_options o = m.options;
  const objective_result r = run_objective<D>(ctx, p, kernel, o);
  const double upstream = o.upstream.value();
  double log_scale = o.log_scale.value();
  // The gradients carry the upstream factor, the value does not.
  problem g = r.gradients;
  double g_scale = r.log_scale / upstream;
  std::vector<craft::gradient_block<double>> blocks;
  // The value is constant in a clamped scale, and the gradient by it no slope of the value.
  if (std::exp(log_scale) < o.max_scale) blocks.push_back({"log_scale", &log_scale, 1, &g_scale});
  const auto add = [&](const char* name, reals& values, reals& gradient) {
    gradient /= upstream;
    if (values.size() > 0) blocks.push_back({name, values.data(), values.size(), gradient.data()});
  };
  add("images", p.images, g.images);
  add("class_texts", p.class_texts, g.class_texts);
  add("batch_texts", p.batch_texts, g.batch_texts);
  add("image_anchors", p.image_anchors, g.image_anchors);
  add("target_images", p.target_images, g.target_images);
  check_by_differences<D>(
      [&] {
        o.log_scale = log_scale;
        return run_objective<D>(ctx, p, kernel, o, true).total;
      },
      blocks, m.name);
}

TEMPLATE_LIST_TEST_CASE("the objective meets the reference values", "[objective][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  for (const std::string scale : {"_s14.3", "_s100"})
    for (const std::string labels : {"_y", "_y2"})
      for (const auto& r : reference::cases("alignment", "craft_total" + scale + labels)) {
        const reference::inputs in(r);
        craft::objective_options o;
        o.log_scale = std::log(r.parameter("logit_scale"));
        const auto got = run_objective<D>(ctx, {in.X, in.T, in.U, in.A, {}, in.labels(r.option("labels"))}, kernel, o);
        CHECK(got.mmd == 0);
        r.check(got.total, {{"X", got.gradients.images},
                            {"T", got.gradients.class_texts},
                            {"U", got.gradients.batch_texts},
                            {"A", got.gradients.image_anchors},
                            {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
      }
}

TEMPLATE_LIST_TEST_CASE("the objective's MMD term meets the reference values", "[objective][reference]",
                        double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const auto check = [&](const std::string& name, const auto& preset) {
    for (const auto& r : reference::cases("mmd", name)) {
      const reference::inputs in(r);
      craft::objective_options o;
      o.text = o.image = o.batch = 0;
      o.log_scale = std::log(r.parameter("logit_scale"));
      o.discrepancy = preset.options;
      const auto got = run_objective<D>(ctx, {in.X, in.T, {}, {}, in.Y, in.y}, preset.kernel, o);
      CHECK(got.text + got.image + got.batch == 0);
      CHECK(got.total == got.mmd);
      r.check(got.mmd, {{"X", got.gradients.images},
                        {"T", got.gradients.class_texts},
                        {"Y", got.gradients.target_images},
                        {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
    }
  };
  check("craft_mmd_anchor_space_rbf", craft::presets::craft_rbf());
  check("craft_mmd_anchor_space_multiscale", craft::presets::craft_multiscale());
}

TEMPLATE_LIST_TEST_CASE("without batch texts every row takes its class's text", "[objective]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  problem p = random_problem(11, 7, 4, 6), gathered = p;
  p.batch_texts.resize(0, 0);
  for (index_t i = 0; i < 11; ++i) gathered.batch_texts.row(i) = p.class_texts.row(p.targets[std::size_t(i)]);
  craft::objective_options o;
  o.log_scale = std::log(8.0);
  const auto got = run_objective<D>(ctx, p, kernel, o);
  auto want = run_objective<D>(ctx, gathered, kernel, o);
  for (index_t i = 0; i < 11; ++i)
    want.gradients.class_texts.row(p.targets[std::size_t(i)]) += want.gradients.batch_texts.row(i);
  want.gradients.batch_texts.resize(0, 0);
  check_close(got, want, 500 * roundoff<typename D::scalar>);
}

TEMPLATE_LIST_TEST_CASE("a term of weight 0 is 0 and adds nothing", "[objective]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const problem p = random_problem(9, 7, 4, 6);
  craft::objective_options o;
  o.log_scale = std::log(8.0);
  const auto all = run_objective<D>(ctx, p, kernel, o);

  o.image = 0;
  const auto no_image = run_objective<D>(ctx, p, kernel, o);
  CHECK(no_image.image == 0);
  CHECK(no_image.text == all.text);
  CHECK(no_image.gradients.image_anchors.norm() == 0);  // overwritten, with nothing
  o.image = 1;
  o.mmd = 0;
  const auto no_mmd = run_objective<D>(ctx, p, kernel, o);
  CHECK(no_mmd.mmd == 0);
  CHECK(no_mmd.gradients.target_images.norm() == 0);
  o.mmd = 1;
  problem without = p;
  without.target_images.resize(0, 0);
  const auto missing = run_objective<D>(ctx, without, kernel, o);
  CHECK(missing.total == no_mmd.total);
  CHECK(missing.gradients.images == no_mmd.gradients.images);
  CHECK(missing.gradients.class_texts == no_mmd.gradients.class_texts);

  // What no term looks at may hold anything.
  problem spoilt = p;
  spoilt.target_images.setConstant(not_a_number);
  spoilt.image_anchors.setConstant(not_a_number);
  o.image = o.mmd = 0;
  const auto of_two = run_objective<D>(ctx, p, kernel, o), of_spoilt = run_objective<D>(ctx, spoilt, kernel, o);
  CHECK(of_spoilt.total == of_two.total);
  CHECK(of_spoilt.log_scale == of_two.log_scale);
  CHECK(of_spoilt.gradients.images == of_two.gradients.images);
  CHECK(of_spoilt.gradients.target_images.norm() == 0);
  CHECK(of_spoilt.gradients.image_anchors.norm() == 0);

  o.text = o.image = o.batch = o.mmd = 0;
  const auto nothing = run_objective<D>(ctx, p, kernel, o);
  CHECK(nothing.total == 0);
  CHECK(joint_norm(nothing.gradients) == 0);
  CHECK(nothing.log_scale == 0);
}

TEMPLATE_LIST_TEST_CASE("the objective's value alone is its value with gradients, bit for bit", "[objective][outputs]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  ctx.tile(5);
  for (const mix& m : mixes()) {
    INFO(m.name);
    const problem p = given(m, random_problem(13, 9, 4, 6));
    const auto a = run_objective<D>(ctx, p, kernel, m.options), b = run_objective<D>(ctx, p, kernel, m.options, true);
    CHECK(a.text == b.text);
    CHECK(a.image == b.image);
    CHECK(a.batch == b.batch);
    CHECK(a.mmd == b.mmd);
    CHECK(a.total == b.total);
  }
}

TEMPLATE_LIST_TEST_CASE("the objective accumulates where asked, and leaves the rest alone", "[objective][outputs]",
                        devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const auto ctx = D::make();
  const bool own_texts = GENERATE(true, false);
  problem p = random_problem(9, 7, 4, 6);
  if (!own_texts) p.batch_texts.resize(0, 0);
  craft::objective_options o;
  o.log_scale = std::log(8.0);
  const auto want = run_objective<D>(ctx, p, kernel, o);

  const array<D> images(p.images), class_texts(p.class_texts), batch_texts(p.batch_texts),
      image_anchors(p.image_anchors), target_images(p.target_images);
  const label_array<D> targets(p.targets);
  craft::objective_inputs<S, D::space> in;
  in.images = images.in();
  in.class_texts = class_texts.in();
  in.targets = targets.in();
  if (own_texts) in.batch_texts = batch_texts.in();
  in.image_anchors = image_anchors.in();
  in.target_images = target_images.in();
  const double before = 0.5;
  array<D> d_images(9, 6, before, 2), d_texts(4, 6, before, 2), d_anchors(4, 6, before, 2), d_target(7, 6, before, 2);
  array<D, T> d_scale(1, 1, before);
  craft::objective_gradients<S, D::space> g;
  g.images = craft::accumulate(d_images.out());
  g.class_texts = craft::accumulate(d_texts.out());
  g.target_images = {d_target.out(), craft::write::none};
  g.log_scale = craft::accumulate(d_scale.out());
  objective_terms<D> terms;
  craft::objective(ctx, in, kernel, o, terms.place(), g);
  CHECK(terms.get().total == want.total);
  // One addition more, and fewer gradients asked for may add them in another order.
  const auto close = [&](const reals& got, const reals& gradient) {
    const reals sum = gradient.array() + before;
    CHECK((got - sum).norm() <= 500 * roundoff<T> * (gradient.norm() + sum.norm()));
  };
  close(d_images.get(), want.gradients.images);
  close(d_texts.get(), want.gradients.class_texts);
  close(d_scale.get(), reals::Constant(1, 1, want.log_scale));
  const array<D> untouched(7, 6, before, 2);
  CHECK(d_target.bits() == untouched.bits());
  CHECK(d_anchors.get() == reals::Constant(4, 6, before));
  for (const auto& padding : {d_images.padding(), d_texts.padding()})
    for (const auto number : padding) CHECK(double(number) == before);
}

TEMPLATE_LIST_TEST_CASE("the objective of two-byte features is computed in float", "[objective][storage]",
                        float_devices) {
  using D = TestType;
  using B = typename D::template storing<Eigen::bfloat16>;
  const auto ctx = D::make();
  problem p = random_problem(12, 9, 4, 8);
  for (reals* r : {&p.images, &p.class_texts, &p.batch_texts, &p.image_anchors, &p.target_images})
    *r = as_stored<B>(*r);
  craft::objective_options o;
  o.log_scale = std::log(8.0);
  const auto in_float = run_objective<D>(ctx, p, kernel, o), in_two_bytes = run_objective<B>(ctx, p, kernel, o);
  CHECK(in_two_bytes.total == in_float.total);
  // Gradients are rounded once, to 8 bits.
  const double half_ulp = double(std::numeric_limits<Eigen::bfloat16>::epsilon()) / 2;
  check_close(in_two_bytes, in_float, half_ulp);
}
