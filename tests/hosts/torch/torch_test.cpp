// The operators of craft/adapters/torch.hpp: against the verbs called directly, against finite differences, and in what torch
// expects of an operator.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../../catch.hpp"
#include "craft/adapters/torch_library.hpp"
#include "craft/craft.hpp"

using at::Tensor;
namespace aten = craft::aten;
using craft::index_t;

namespace {

/// A leaf with numbers of about unit size, the same on every run.
Tensor random(at::IntArrayRef shape, int64_t seed, at::ScalarType type = at::kDouble) {
  at::manual_seed(uint64_t(seed));
  return at::randn(shape, at::kDouble).to(type);
}
Tensor leaf(const Tensor& t) { return t.detach().clone().set_requires_grad(true); }
Tensor number(double value) { return at::full({}, value, at::kDouble); }
Tensor labels(std::vector<int64_t> y) { return at::tensor(y, at::kLong); }
std::vector<Tensor> gradients(const Tensor& loss, const std::vector<Tensor>& inputs, const Tensor& upstream = {}) {
  return torch::autograd::grad({loss}, inputs, {upstream});
}
bool close(const Tensor& a, const Tensor& b, double tolerance = 1e-12) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::allclose(a, b, tolerance, tolerance);
}

craft::matrix_view<double> view(const Tensor& t) {
  return {static_cast<double*>(t.data_ptr()), t.size(0), t.size(1), t.stride(0)};
}
craft::matrix_view<double> vector(const Tensor& t) { return {static_cast<double*>(t.data_ptr()), 1, t.numel()}; }
craft::labels label_view(const Tensor& t) { return {static_cast<int64_t*>(t.data_ptr()), t.numel()}; }
double& scalar(const Tensor& t) { return *static_cast<double*>(t.data_ptr()); }
Tensor like(const Tensor& t) { return at::full_like(t, std::nan("")); }

Tensor mmd(const Tensor& x, const Tensor& y, aten::named_arguments options = {}) {
  return aten::loss("mmd", {x, y}, std::move(options));
}
Tensor info_nce(const Tensor& x, const Tensor& y, aten::named_arguments options = {}) {
  return aten::loss("info_nce", {x, y}, std::move(options));
}

/// Everything a loss can have a gradient for.
struct arguments {
  Tensor x = random({9, 5}, 1), y = random({9, 5}, 2), z = random({7, 5}, 3), anchors = random({4, 5}, 4);
  Tensor more_anchors = random({4, 5}, 5), log_scale = number(std::log(3.0)), bias = number(-1.5);
  Tensor bandwidths = at::tensor({0.5, 1.0, 2.2}, at::kDouble), kernel_weights = at::tensor({1.0, 0.5, -0.25}, at::kDouble);
  Tensor targets = labels({0, 3, 1, 1, 2, 0, 3, 2, 1}), others = labels({0, 3, 1, 2, 2, 0, 3, 3, 0});
  Tensor weights = at::tensor({1.0, 0.5, 2.0, 1.0, 1.0, 0.25, 1.0, 3.0, 1.0}, at::kDouble);
  Tensor z_weights = at::tensor({1.0, 2.0, 0.5, 1.5, 1.0, 0.75, 0.25}, at::kDouble), soft = at::softmax(random({9, 4}, 9), 1);
};

/// loss(arguments), and which of them it depends on.
struct differentiable {
  const char* name;
  std::function<Tensor(const arguments&)> loss;
  std::vector<Tensor arguments::*> inputs;
};
std::vector<differentiable> all_losses() {
  using a = arguments;
  return {
      {"mmd",
       [](const a& in) {
         return aten::loss("mmd", {in.x, in.z},
                           {{"bandwidths", in.bandwidths}, {"weights", in.kernel_weights}, {"x_weights", in.weights}});
       },
       {&a::x, &a::z, &a::bandwidths, &a::kernel_weights, &a::weights}},
      {"mmd, unbiased, of weights",
       [](const a& in) {
         return aten::loss("mmd", {in.x, in.z},
                           {{"estimator", "unbiased"}, {"x_weights", in.weights}, {"y_weights", in.z_weights}});
       },
       {&a::x, &a::z, &a::weights, &a::z_weights}},
      {"mmd, rational quadratic",
       [](const a& in) {
         return aten::loss("mmd", {in.x, in.z, "rational_quadratic"},
                           {{"shape", 1.5}, {"bandwidths", in.bandwidths}, {"estimator", "unbiased"}, {"bandwidth_rule", "mean"},
                            {"bandwidth_gradient", true}, {"columns", "minmax_joint"}});
       },
       {&a::x, &a::z}},  // bandwidths: M is held fixed in their gradient
      {"mmd, rational quadratic, by its bandwidths",
       [](const a& in) {
         return aten::loss("mmd", {in.x, in.z},
                           {{"family", "rational_quadratic"}, {"shape", 1.5}, {"bandwidths", in.bandwidths}});
       },
       {&a::bandwidths}},
      {"mmd_preset",
       [](const a& in) { return aten::loss("mmd_preset", {in.x, in.z, "craft_rbf"}, {{"x_weights", in.weights}}); },
       {&a::x, &a::z, &a::weights}},
      {"anchor_cross_entropy",
       [](const a& in) {
         return aten::loss("anchor_cross_entropy", {in.x, in.anchors, in.targets},
                           {{"log_scale", in.log_scale}, {"label_smoothing", 0.1}, {"weights", in.weights}});
       },
       {&a::x, &a::anchors, &a::log_scale, &a::weights}},
      {"anchor_cross_entropy, soft targets",
       [](const a& in) {
         return aten::loss("anchor_cross_entropy", {in.x, in.anchors, in.soft},
                           {{"log_scale", in.log_scale}, {"reduction", "sum"}, {"weights", in.weights}});
       },
       {&a::x, &a::anchors, &a::log_scale, &a::weights, &a::soft}},
      {"info_nce",
       [](const a& in) {
         return aten::loss("info_nce", {in.x, in.y},
                           {{"log_scale", in.log_scale}, {"x_labels", in.targets}, {"y_labels", in.others},
                            {"weights", in.weights}});
       },
       {&a::x, &a::y, &a::log_scale, &a::weights}},
      {"info_nce, one way, of one row of numbers",
       [](const a& in) {
         return aten::loss("info_nce", {in.x, in.y},
                           {{"log_scale", in.log_scale.reshape({1})}, {"direction", "one_way"}, {"normalise", false}});
       },
       {&a::x, &a::y, &a::log_scale}},
      {"info_nce, below its largest scale",
       [](const a& in) { return aten::loss("info_nce", {in.x, in.y}, {{"log_scale", in.log_scale}, {"max_scale", 5}}); },
       {&a::x, &a::y, &a::log_scale}},
      {"sigmoid_contrastive",
       [](const a& in) {
         return aten::loss("sigmoid_contrastive", {in.x, in.y}, {{"log_scale", in.log_scale}, {"bias", in.bias}});
       },
       {&a::x, &a::y, &a::log_scale, &a::bias}},
      {"cosine_embedding", [](const a& in) { return aten::loss("cosine_embedding", {in.x, in.y}, {{"margin", -1}}); },
       {&a::x, &a::y}},
      {"relative",
       [](const a& in) {
         const aten::named_arguments options = {{"log_scale", in.log_scale}, {"statistics", "standardise"}};
         return (aten::loss("relative", {in.x, in.anchors}, options) * random({9, 4}, 8)).sum();
       },
       {&a::x, &a::anchors, &a::log_scale}},
      {"relative, of distances",
       [](const a& in) {
         return aten::loss("relative", {in.x, in.anchors, "laplacian", std::vector<double>{2.0}}).square().sum();
       },
       {&a::x, &a::anchors}},
      {"objective",
       [](const a& in) {
         return aten::loss("objective", {in.x, in.anchors, in.targets, in.y, in.more_anchors, in.z},
                           {{"log_scale", in.log_scale}, {"mmd", 0.5}});
       },
       {&a::x, &a::anchors, &a::y, &a::more_anchors, &a::z, &a::log_scale}},
  };
}

}  // namespace

TEST_CASE("torch: mmd has the verb's value and gradients") {
  const arguments in;
  for (const auto estimator : {craft::estimator::biased, craft::estimator::unbiased}) {
    const char* name = names_of(estimator)[std::size_t(estimator)];
    CAPTURE(name);
    craft::mmd_options o;
    o.estimator = estimator;
    o.bandwidth.rule = craft::bandwidth_rule::median;
    o.x_weights = craft::numbers(static_cast<const double*>(in.weights.data_ptr()), 9);
    o.factor = 2;
    const Tensor dx = like(in.x), dz = like(in.z), db = like(in.bandwidths), dw = like(in.kernel_weights);
    double value = 0;
    craft::mmd(craft::cpu(), view(in.x), view(in.z), craft::gaussians<>({0.5, 1.0, 2.2}, {1.0, 0.5, -0.25}), o, value,
               {craft::overwrite(view(dx)), craft::overwrite(view(dz)), craft::overwrite(vector(dw)),
                craft::overwrite(vector(db))});

    const Tensor x = leaf(in.x), z = leaf(in.z), bandwidths = leaf(in.bandwidths), weights = leaf(in.kernel_weights);
    aten::named_arguments options = {{"estimator", name}, {"bandwidth_rule", "median"}, {"x_weights", in.weights}, {"factor", 2}};
    const auto with = [&](const c10::IValue& b, const c10::IValue& w) {
      auto all = options;
      all.emplace_back("bandwidths", b);
      all.emplace_back("weights", w);
      return all;
    };
    const Tensor loss = aten::loss("mmd", {x, z}, with(bandwidths, weights));
    CHECK(loss.dim() == 0);
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, z, bandwidths, weights});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dz));
    CHECK(close(g[2], db));
    CHECK(close(g[3], dw));

    // The same numbers as options.
    const auto numbers = with(std::vector<double>{0.5, 1.0, 2.2}, std::vector<double>{1.0, 0.5, -0.25});
    CHECK(close(aten::loss("mmd", {in.x, in.z}, numbers), number(value)));
  }
  double value = 0;
  const auto preset = craft::presets::tllib(9);
  craft::mmd(craft::cpu(), view(in.x), view(in.y), preset.kernel, preset.options, value);
  CHECK(close(aten::loss("mmd_preset", {in.x, in.y, "tllib"}), number(value)));
}

TEST_CASE("torch: alignment losses have the verbs' values and gradients") {
  const arguments in;
  const Tensor x = leaf(in.x), y = leaf(in.y), anchors = leaf(in.anchors), s = leaf(in.log_scale), b = leaf(in.bias);
  const Tensor dx = like(in.x), dy = like(in.y), da = like(in.anchors), ds = like(in.log_scale), db = like(in.bias);
  double value = 0;
  SECTION("anchor_cross_entropy") {
    craft::cross_entropy_options o;
    o.log_scale = scalar(in.log_scale);
    o.label_smoothing = 0.2;
    o.ignore_label = 2;
    craft::anchor_cross_entropy(craft::cpu(), view(in.x), view(in.anchors), label_view(in.targets), o, value,
                                {craft::overwrite(view(dx)), craft::overwrite(view(da)), craft::overwrite(scalar(ds)), {}});
    const Tensor loss = aten::loss("anchor_cross_entropy", {x, anchors, in.targets.to(at::kInt)},
                                   {{"log_scale", s}, {"label_smoothing", 0.2}, {"ignore_label", 2}});
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, anchors, s});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], da));
    CHECK(close(g[2], ds));

    const Tensor soft = at::softmax(random({9, 4}, 9), 1);
    craft::anchor_cross_entropy(craft::cpu(), view(in.x), view(in.anchors), view(soft), craft::cross_entropy_options(),
                                value);
    CHECK(close(aten::loss("anchor_cross_entropy", {in.x, in.anchors, soft}), number(value)));
  }
  SECTION("info_nce") {
    craft::contrastive_options o;
    o.log_scale = scalar(in.log_scale);
    o.max_scale = 2.5;
    o.x_labels = label_view(in.targets);
    o.y_labels = label_view(in.others);
    o.weights = craft::numbers(static_cast<const double*>(in.weights.data_ptr()), 9);
    craft::info_nce(craft::cpu(), view(in.x), view(in.y), o, value,
                    {craft::overwrite(view(dx)), craft::overwrite(view(dy)), craft::overwrite(scalar(ds)), {}});
    const Tensor loss = aten::loss("info_nce", {x, y},
                                   {{"log_scale", s}, {"max_scale", 2.5}, {"x_labels", in.targets}, {"y_labels", in.others},
                                    {"weights", in.weights.to(at::kFloat)}});
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, y, s});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dy));
    CHECK(close(g[2], ds));
    craft::info_nce(craft::cpu(), view(in.x), view(in.y), craft::contrastive_options(), value);
    CHECK(close(aten::loss("info_nce", {in.x, in.y}), number(value)));
  }
  SECTION("sigmoid_contrastive") {
    craft::sigmoid_options o;
    o.log_scale = scalar(in.log_scale);
    o.bias = scalar(in.bias);
    craft::sigmoid_contrastive(craft::cpu(), view(in.x), view(in.y), o, value,
                               {craft::overwrite(view(dx)), craft::overwrite(view(dy)), craft::overwrite(scalar(ds)),
                                craft::overwrite(scalar(db))});
    const Tensor loss = aten::loss("sigmoid_contrastive", {x, y}, {{"log_scale", s}, {"bias", b}});
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, y, s, b});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dy));
    CHECK(close(g[2], ds));
    CHECK(close(g[3], db));
    craft::sigmoid_contrastive(craft::cpu(), view(in.x), view(in.y), craft::sigmoid_options(), value);
    CHECK(close(aten::loss("sigmoid_contrastive", {in.x, in.y}), number(value)));
  }
}

TEST_CASE("torch: the objective and relative representations have the verbs' values and gradients") {
  const arguments in;
  SECTION("objective") {
    craft::objective_inputs<double> inputs;
    inputs.images = view(in.x);
    inputs.class_texts = view(in.anchors);
    inputs.targets = label_view(in.targets);
    inputs.image_anchors = view(in.more_anchors);
    inputs.target_images = view(in.z);
    craft::objective_options o;
    o.text = 0.5;
    o.discrepancy.estimator = craft::estimator::unbiased;
    craft::objective_values<double> values;
    craft::objective_gradients<double> g;
    const Tensor dx = like(in.x), da = like(in.anchors), dm = like(in.more_anchors), dz = like(in.z), ds = like(in.log_scale);
    g.images = craft::overwrite(view(dx));
    g.class_texts = craft::overwrite(view(da));
    g.image_anchors = craft::overwrite(view(dm));
    g.target_images = craft::overwrite(view(dz));
    g.log_scale = craft::overwrite(scalar(ds));
    craft::objective(craft::cpu(), inputs, craft::gaussians<>({0.5, 2.0}), o, values, g);

    const Tensor x = leaf(in.x), anchors = leaf(in.anchors), more = leaf(in.more_anchors), z = leaf(in.z),
                 s = leaf(number(std::log(100.0)));
    const auto result = aten::call("objective", {x, anchors, in.targets},
                                   {{"batch_texts", Tensor()}, {"image_anchors", more}, {"target_images", z}, {"text", 0.5},
                                    {"log_scale", s}, {"bandwidths", std::vector<double>{0.5, 2.0}}, {"estimator", "unbiased"}});
    REQUIRE(result.size() == 2);
    CHECK(close(result[0].detach(), number(values.total)));
    CHECK(close(result[1], at::tensor({values.text, values.image, values.batch, values.mmd}, at::kDouble)));
    CHECK_FALSE(result[1].requires_grad());
    const auto of = gradients(result[0], {x, anchors, more, z, s});
    CHECK(close(of[0], dx));
    CHECK(close(of[1], da));
    CHECK(close(of[2], dm));
    CHECK(close(of[3], dz));
    CHECK(close(of[4], ds));
  }
  SECTION("relative") {
    craft::relative_options o;
    o.log_scale = scalar(in.log_scale);
    const Tensor r = at::full({9, 4}, std::nan(""), at::kDouble), dr = random({9, 4}, 8);
    craft::relative(craft::cpu(), view(in.x), view(in.anchors), craft::dot_product<>(), o, view(r));
    const Tensor dx = like(in.x), da = like(in.anchors), ds = like(in.log_scale);
    craft::relative_pullback(craft::cpu(), view(in.x), view(in.anchors), craft::dot_product<>(), o, view(dr),
                             {craft::overwrite(view(dx)), craft::overwrite(view(da)), craft::overwrite(scalar(ds))});
    const Tensor x = leaf(in.x), anchors = leaf(in.anchors), s = leaf(in.log_scale);
    const Tensor out = aten::loss("relative", {x, anchors}, {{"log_scale", s}});
    CHECK(close(out.detach(), r));
    const auto g = gradients(out, {x, anchors, s}, dr);
    CHECK(close(g[0], dx));
    CHECK(close(g[1], da));
    CHECK(close(g[2], ds));
  }
}

TEST_CASE("torch: every verb that takes tensors is an operator, with the defaults of its description") {
  int count = 0;
  for (const craft::runtime::verb& v : craft::runtime::verbs()) {
    INFO(v.name);
    const auto op = c10::Dispatcher::singleton().findSchema({std::string("craft::") + v.name, ""});
    const auto arrays = std::count_if(v.fields.begin(), v.fields.end(),
                                      [](const auto& f) { return f.kind <= craft::runtime::kind::numbers; });
    CHECK(bool(op) == (arrays > 0));
    if (!op) continue;
    ++count;
    std::size_t at = 0;
    for (const craft::runtime::field& f : v.fields) {
      INFO(f.name);
      const c10::Argument& argument = op->schema().arguments().at(at++);
      using craft::runtime::kind;
      CHECK(argument.name() == (f.name == std::string("kernel") ? "family" : f.name));
      CHECK(argument.default_value().has_value() == !f.required);
      if (f.kind == kind::scalar || f.kind == kind::list)
        CHECK(op->schema().arguments().at(at++).name() == std::string("learnable_") + f.name);
      if (f.required) continue;
      const c10::IValue& value = *argument.default_value();
      if (f.kind == kind::scalar || (f.kind == kind::number && !std::isinf(f.number)))
        CHECK(value.toDouble() == f.number);
      else if (f.kind == kind::whole)
        CHECK(value.toInt() == f.whole);
      else if (f.kind == kind::flag)
        CHECK(value.toBool() == bool(f.whole));
      else if (f.kind == kind::choice)
        CHECK(value.toStringRef() == f.choices[std::size_t(f.whole)]);
      else
        CHECK(value.isNone());
    }
    CHECK(at + (v.results.empty() ? 1 : 0) == op->schema().arguments().size());  // a pullback is told what is wanted
    if (v.pullback) {  // the same arguments, but for one of another kind
      auto fields = craft::runtime::verb_named(v.pullback).fields;
      fields.erase(std::find_if(fields.begin(), fields.end(), [](const auto& f) { return f.kind == craft::runtime::kind::computed; }));
      REQUIRE(fields.size() == v.fields.size());
      for (std::size_t f = 0; f < fields.size(); ++f) CHECK(std::string(fields[f].name) == v.fields[f].name);
    }
    if (!v.results.empty() && !v.gradients.empty())
      CHECK(c10::Dispatcher::singleton().findSchema({std::string("craft::") + v.name + "_gradients", ""}));
  }
  CHECK(count > 10);
}

TEST_CASE("torch: autograd through operators before and after a loss, by finite differences") {
  for (const differentiable& d : all_losses()) {
    INFO(d.name);
    arguments in;
    // The inputs pass through a curved function, and so does the loss.
    const auto composed = [&] {
      arguments curved = in;
      for (const auto input : d.inputs) curved.*input = curved.*input + 0.1 * (curved.*input).tanh();
      const Tensor loss = d.loss(curved);
      return loss * loss + 3 * loss;
    };
    std::vector<Tensor> leaves, grads;
    for (const auto input : d.inputs) leaves.push_back(in.*input = leaf(in.*input));
    for (const Tensor& g : gradients(composed(), leaves)) grads.push_back(g.contiguous());
    std::vector<craft::gradient_block<double>> blocks;
    for (std::size_t i = 0; i < leaves.size(); ++i)
      blocks.push_back({"input " + std::to_string(i), static_cast<double*>(leaves[i].data_ptr()), leaves[i].numel(),
                        static_cast<const double*>(grads[i].data_ptr())});
    const auto report = craft::gradcheck<double>(
        [&] {
          at::NoGradGuard value_only;
          return composed().item<double>();
        },
        blocks);
    INFO(report.text());
    CHECK(report.verdict == craft::verdict::agrees);
  }
}

TEST_CASE("torch: each gradient can be wanted by itself") {
  for (const differentiable& d : all_losses()) {
    arguments all;
    std::vector<Tensor> leaves;
    for (const auto input : d.inputs) leaves.push_back(all.*input = leaf(all.*input));
    const auto together = gradients(d.loss(all), leaves);
    for (std::size_t i = 0; i < d.inputs.size(); ++i) {
      INFO(d.name << ", input " << i);
      arguments one;
      const Tensor only = leaf(one.*d.inputs[i]);
      one.*d.inputs[i] = only;
      CHECK(close(gradients(d.loss(one), {only})[0], together[i]));
    }
  }
}

TEST_CASE("torch: gradients are scaled by what comes from above, and add up") {
  const arguments in;
  const Tensor x = leaf(in.x);
  const auto loss = [&] { return info_nce(x, in.y); };
  const Tensor once = gradients(loss(), {x})[0];
  CHECK(close(gradients(loss(), {x}, number(-3))[0], -3 * once));
  CHECK(close(gradients(loss() + 0.5 * loss(), {x})[0], 1.5 * once));
  loss().backward();
  loss().backward();
  CHECK(close(x.grad(), 2 * once));
  const Tensor kept = loss();
  torch::autograd::grad({kept}, {x}, {}, true);
  CHECK(close(gradients(kept, {x})[0], once));  // a second time through the same graph
}

TEST_CASE("torch: rows that are not contiguous") {
  const arguments in;
  const Tensor wide = at::cat({in.x, in.y}, 1), long_ = at::cat({in.x, in.y}, 0), tall = in.x.t().contiguous();
  const auto same_as_contiguous = [&](const Tensor& base, const std::function<Tensor(const Tensor&)>& part) {
    const Tensor a = leaf(base), b = leaf(part(base).contiguous());
    REQUIRE(part(a).sizes() == b.sizes());
    const auto loss = [&](const Tensor& x) { return mmd(x, in.z) + aten::loss("relative", {in.z, x}).sum(); };
    const Tensor la = loss(part(a)), lb = loss(b);
    CHECK(close(la.detach(), lb.detach()));
    const Tensor ga = gradients(la, {a})[0], gb = gradients(lb, {b})[0], expected = at::zeros_like(base);
    part(expected).add_(gb);
    CHECK(close(ga, expected));
  };
  SECTION("some of the columns") {
    REQUIRE_FALSE(wide.slice(1, 2, 7).is_contiguous());
    same_as_contiguous(wide, [](const Tensor& t) { return t.slice(1, 2, 7); });
  }
  SECTION("every second row") {
    same_as_contiguous(long_, [](const Tensor& t) { return t.slice(0, 0, 18, 2); });
  }
  SECTION("transposed, every second column") {
    same_as_contiguous(tall, [](const Tensor& t) { return t.t(); });
    same_as_contiguous(at::cat({wide, wide}, 1), [](const Tensor& t) { return t.slice(1, 0, 10, 2); });
  }
  SECTION("one row seen nine times") {
    const Tensor row = leaf(random({1, 5}, 7)), rows = leaf(row.detach().expand({9, 5}).contiguous());
    const Tensor g = gradients(mmd(row.expand({9, 5}), in.z), {row})[0];
    CHECK(close(g, gradients(mmd(rows, in.z), {rows})[0].sum(0, true)));
  }
  SECTION("one column out of several") {
    const Tensor columns = random({8, 3}, 5);
    CHECK(close(mmd(columns.slice(1, 1, 2), random({6, 1}, 6)),
                mmd(columns.slice(1, 1, 2).contiguous(), random({6, 1}, 6))));
  }
  SECTION("labels and weights of every second row") {
    const auto loss = [&](const Tensor& targets, const Tensor& weights) {
      return aten::loss("anchor_cross_entropy", {in.x, in.anchors, targets}, {{"weights", weights}});
    };
    const Tensor all = at::stack({in.targets, in.others}, 1), weights = at::stack({in.weights, in.others.to(at::kDouble)}, 1);
    CHECK(close(loss(all.select(1, 0), weights.select(1, 0)), loss(in.targets, in.weights)));
    const Tensor same = number(0.5).expand({9});
    CHECK(close(loss(in.targets, same), loss(in.targets, same.contiguous())));
  }
}

TEST_CASE("torch: half precision in, float values and gradients that do not underflow") {
  const at::ScalarType type = GENERATE(at::kHalf, at::kBFloat16);
  CAPTURE(c10::toString(type));
  const arguments in;
  const Tensor x = leaf(in.x.to(type)), z = leaf(in.z.to(type));
  const Tensor xf = leaf(x.to(at::kFloat)), zf = leaf(z.to(at::kFloat));
  const Tensor loss = mmd(x, z), reference = mmd(xf, zf);
  CHECK(loss.scalar_type() == at::kFloat);
  CHECK(at::equal(loss.detach(), reference.detach()));
  const auto g = gradients(loss, {x, z}), gf = gradients(reference, {xf, zf});
  CHECK(g[0].scalar_type() == type);
  CHECK(at::equal(g[0], gf[0].to(type)));
  CHECK(at::equal(g[1], gf[1].to(type)));

  // No half holds these gradients.
  const Tensor tiny = gradients(mmd(x, z, {{"factor", 1e-10}}), {x}, at::full({}, 1e10, at::kFloat))[0];
  CHECK(tiny.count_nonzero().item<int64_t>() == x.numel());
  CHECK(at::allclose(tiny.to(at::kFloat), gf[0], 1e-2, 1e-4));

  const Tensor r = aten::loss("relative", {x, x.slice(0, 0, 4)});
  CHECK(r.scalar_type() == at::kFloat);
  CHECK(gradients(r.sum(), {x})[0].scalar_type() == type);
  const Tensor log_scale = leaf(at::full({}, 1, type));
  CHECK(gradients(info_nce(x, x, {{"log_scale", log_scale}}), {log_scale})[0].scalar_type() == type);
}

TEST_CASE("torch: only the value is computed where no gradient is needed") {
  const arguments in;
  CHECK_FALSE(info_nce(in.x, in.y).requires_grad());
  const Tensor x = leaf(in.x);
  {
    at::NoGradGuard none;
    CHECK_FALSE(info_nce(x, in.y).requires_grad());
  }
  CHECK(info_nce(x, in.y).requires_grad());
  // What is not wanted is an empty tensor.
  const auto results = aten::call("mmd_preset_gradients", {in.x, in.z, "cmmd"},
                                  {{"wanted", c10::List<bool>({false, true, false, false})}});
  REQUIRE(results.size() == 5);
  CHECK(results[1].numel() == 0);
  CHECK(results[2].sizes() == in.z.sizes());
}

TEST_CASE("torch: second derivatives are errors, not zeros") {
  for (const differentiable& d : all_losses()) {
    INFO(d.name);
    arguments in;
    const Tensor input = leaf(in.*d.inputs[0]), upstream = leaf(number(1));
    in.*d.inputs[0] = input;
    const Tensor g = torch::autograd::grad({d.loss(in)}, {input}, {upstream}, true, true)[0];
    CHECK(g.requires_grad());
    CHECK_THROWS_AS(torch::autograd::grad({g.sum()}, {input}, {}, true, false, true), c10::NotImplementedError);
    CHECK_THROWS_WITH(g.sum().backward(), contains("has no derivative"));
  }
}

TEST_CASE("torch: losses and relative representations have derivatives in forward mode") {
  for (const differentiable& d : all_losses()) {
    INFO(d.name);
    arguments in;
    // The same direction in both modes.
    arguments dual;
    std::vector<Tensor> leaves, directions;
    const auto level = torch::autograd::forward_ad::enter_dual_level();
    for (std::size_t i = 0; i < d.inputs.size(); ++i) {
      leaves.push_back(in.*d.inputs[i] = leaf(in.*d.inputs[i]));
      directions.push_back(random(leaves[i].sizes(), int64_t(i) + 20));
      dual.*d.inputs[i] = at::_make_dual(leaves[i], directions[i], level);
    }
    double expected = 0;
    const auto g = gradients(d.loss(in), leaves);
    for (std::size_t i = 0; i < g.size(); ++i) expected += (g[i] * directions[i]).sum().item<double>();
    const Tensor value = d.loss(dual), tangent = value._fw_grad(level);
    REQUIRE(tangent.defined());
    CHECK(close(tangent.detach(), number(expected)));
    // Of the tangent, which has gradients in it, there are none; nor tangents of gradients.
    CHECK_THROWS_AS(torch::autograd::grad({value}, leaves, {}, true), c10::NotImplementedError);
    CHECK_THROWS_AS(gradients(tangent, {leaves[0]}), c10::NotImplementedError);
    at::NoGradGuard none;
    const Tensor alone = d.loss(dual);
    CHECK_FALSE(alone.requires_grad());
    CHECK(close(alone._fw_grad(level), number(expected)));
    torch::autograd::forward_ad::exit_dual_level(level);
  }
}

TEST_CASE("torch: inputs that have no gradient say so") {
  const arguments in;
  const auto by_label = [&] { return info_nce(in.x, in.y, {{"x_labels", leaf(in.weights)}}); };
  CHECK_THROWS_WITH(by_label(), contains("no gradient by x_labels; pass x_labels.detach()"));
  CHECK_THROWS_AS(by_label(), c10::NotImplementedError);
  CHECK_THROWS_WITH(mmd(in.x, in.z, {{"estimator", "linear"}, {"x_weights", leaf(in.weights)}}),
                    contains("linear-time estimator takes no sample weights"));
  CHECK_THROWS_WITH(aten::loss("objective", {in.x, in.anchors, in.targets}, {{"weights", leaf(in.kernel_weights)}}),
                    contains("no gradient by weights"));
  CHECK_THROWS_WITH(aten::loss("relative", {in.x, in.anchors, "gaussian", leaf(in.bandwidths)}),
                    contains("no gradient by bandwidths"));
}

TEST_CASE("torch: errors are torch's") {
  const arguments in;
  const auto of_kernel = [&](const char* family) { return mmd(in.x, in.z, {{"family", family}}); };
  CHECK_THROWS_AS(mmd(in.x.to(at::kLong), in.z), c10::TypeError);
  CHECK_THROWS_AS(mmd(in.x, in.z.to(at::kFloat)), c10::TypeError);
  CHECK_THROWS_WITH(mmd(in.x, in.z.to(at::kFloat)), contains("expected y of type float64, got float32"));
  CHECK_THROWS_AS(mmd(in.x[0], in.z), c10::ValueError);
  CHECK_THROWS_WITH(mmd(in.x[0], in.z), contains("x has 1 dimension (5,), expected a matrix with one sample per row"));
  CHECK_THROWS_AS(mmd(in.x, in.z.slice(1, 0, 3)), c10::ValueError);
  CHECK_THROWS_WITH(mmd(in.x, in.z.slice(1, 0, 3)), contains("(7, 3)"));
  CHECK_THROWS_AS(mmd(in.x.slice(0, 0, 0), in.z), c10::ValueError);
  CHECK_THROWS_WITH(of_kernel("gauss"), contains("expected gaussian, laplacian"));
  CHECK_THROWS_AS(of_kernel("energy2"), c10::ValueError);

  const auto cross_entropy = [&](const Tensor& y) { return aten::loss("anchor_cross_entropy", {in.x, in.anchors, y}); };
  CHECK_THROWS_AS(cross_entropy(labels({0, 1, 2, 3, 4, 0, 0, 0, 0})), c10::IndexError);
  CHECK_THROWS_AS(cross_entropy(labels({0, 1})), c10::ValueError);
  CHECK_THROWS_AS(cross_entropy(in.targets.to(at::kByte)), c10::TypeError);
  CHECK_THROWS_AS(cross_entropy(in.weights), c10::TypeError);
  CHECK_THROWS_AS(cross_entropy(in.targets.reshape({9, 1})), c10::TypeError);
  CHECK_THROWS_AS(cross_entropy(at::softmax(in.x, 1)), c10::ValueError);
  CHECK_THROWS_AS(cross_entropy(in.soft[0]), c10::TypeError);

  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"direction", "both"}}), contains("one_way or symmetric"));
  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"log_scale", in.weights}}), contains("log_scale must be one number"));
  CHECK_THROWS_AS(info_nce(in.x, in.y, {{"log_scale", labels({1})}}), c10::TypeError);
  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"log_scale", number(1e4)}}), contains("out of range"));
  CHECK_THROWS_AS(info_nce(in.x, in.y, {{"weights", in.weights.reshape({9, 1})}}), c10::ValueError);
  CHECK_THROWS_AS(aten::loss("objective", {in.x, in.anchors, in.targets, in.z}), c10::ValueError);
  CHECK_THROWS_AS(aten::loss("mmd_preset", {in.x, in.y, "none of them"}), c10::ValueError);
  CHECK_THROWS_AS(aten::call("kmeans", {in.x, -1}), c10::ValueError);
  const c10::List<bool> wanted({false, false, true, false});
  CHECK_THROWS_WITH(aten::call("info_nce_gradients", {in.x, in.y}, {{"wanted", wanted}}),
                    contains("a gradient is wanted of a tensor that is not given"));
  const Tensor on_meta = at::empty({7, 5}, at::TensorOptions(at::kDouble).device(at::kMeta));
  CHECK_THROWS_WITH(mmd(in.x, on_meta), contains("expected all tensors to be on cpu, but y is on meta"));
  // A loss that threw left nothing behind.
  const Tensor x = leaf(in.x);
  CHECK_THROWS(mmd(x, in.z.slice(1, 0, 3)));
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("torch: arguments by name are looked up in the schema") {
  const arguments in;
  CHECK_THROWS_AS(info_nce(in.x, in.y, {{"temperature", 0.1}}), c10::ValueError);
  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"temperature", 0.1}}),
                    contains("no argument temperature; there are those of craft::info_nce(Tensor x, Tensor y, float log_scale="));
  CHECK_THROWS_AS(aten::loss("info_nse", {in.x, in.y}), c10::ValueError);
  CHECK_THROWS_WITH(aten::loss("random_anchors", {10, 2}), contains("no operator random_anchors"));
  CHECK_THROWS_AS(aten::loss("info_nce", {in.x}), c10::TypeError);
  CHECK_THROWS_WITH(aten::loss("info_nce", {in.x, Tensor()}), contains("y is missing"));
  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"y", in.y}}), contains("y is given twice"));
  CHECK_THROWS_WITH(info_nce(in.x, in.y, {{"direction", 1.0}}), contains("expected direction of type str, got float"));
  CHECK_THROWS_AS(info_nce(in.x, in.y, {{"label_smoothing", in.bias}}), c10::TypeError);
  CHECK_THROWS_AS(aten::loss("info_nce", std::vector<c10::IValue>(20, in.x)), c10::TypeError);
  CHECK_THROWS_WITH(mmd(in.x, in.z, {{"bandwidths", std::vector<double>{1}}, {"learnable_bandwidths", in.bandwidths}}),
                    contains("got both"));
  // A number as a number, an integer or a tensor.
  const Tensor by_number = info_nce(in.x, in.y, {{"log_scale", 2.0}});
  CHECK(close(info_nce(in.x, in.y, {{"log_scale", 2}}), by_number));
  CHECK(close(info_nce(in.x, in.y, {{"log_scale", number(2)}}), by_number));
  CHECK(close(info_nce(in.x, in.y, {{"learnable_log_scale", number(2)}}), by_number));
  CHECK(close(aten::loss("info_nce", {in.x, in.y, 2}), by_number));
  CHECK(close(info_nce(in.x, in.y, {{"log_scale", Tensor()}, {"max_scale", c10::IValue()}}), info_nce(in.x, in.y)));
}

TEST_CASE("torch: of a scale at its largest the gradient that leads back inside") {
  const arguments in;
  const double most = 3;
  for (const double from_above : {1.0, -1.0, 2.5, -0.5}) {
    CAPTURE(from_above);
    const Tensor free = leaf(number(std::log(most)));
    const Tensor expected = gradients(info_nce(in.x, in.y, {{"log_scale", free}}), {free}, number(from_above))[0].clamp_min(0);
    for (const at::IntArrayRef shape : {at::IntArrayRef{}, at::IntArrayRef{1}, at::IntArrayRef{1, 1}}) {
      const Tensor s = leaf(at::full(shape, 7.0, at::kDouble));
      const Tensor g = gradients(info_nce(in.x, in.y, {{"log_scale", s}, {"max_scale", most}}), {s}, number(from_above))[0];
      CHECK(g.sizes() == shape);
      CHECK(at::allclose(g.reshape({}), expected, 1e-11, 1e-13));
    }
  }
}

TEST_CASE("torch: Meta tensors have the results' shapes and types") {
  const auto meta = [](at::IntArrayRef shape, at::ScalarType type) {
    return at::empty(shape, at::TensorOptions(type).device(at::kMeta));
  };
  const Tensor x = meta({9, 5}, at::kHalf), anchors = meta({4, 5}, at::kHalf);
  CHECK(info_nce(x, x).is_meta());
  CHECK(info_nce(x, x).scalar_type() == at::kFloat);
  CHECK(aten::loss("relative", {x, anchors}).sizes() == at::IntArrayRef({9, 4}));
  const auto found = aten::call("kmeans_per_class", {x, meta({9}, at::kLong), 2, 3});
  CHECK(found[0].sizes() == at::IntArrayRef({6, 5}));
  CHECK(found[1].sizes() == at::IntArrayRef({9}));
  CHECK(found[1].scalar_type() == at::kLong);
  CHECK(found[2].scalar_type() == at::kDouble);
  CHECK(aten::call("two_sample_test", {x, anchors})[2].sizes() == at::IntArrayRef({1000}));
  CHECK(aten::loss("medoids", {x, anchors}).sizes() == at::IntArrayRef({4}));
  CHECK(aten::loss("stratified_anchors", {meta({9}, at::kLong), 2, 3}).sizes() == at::IntArrayRef({6}));
  CHECK(aten::call("objective", {x, anchors, meta({9}, at::kLong)})[1].sizes() == at::IntArrayRef({4}));
  // Errors are found there, too, those of numbers excepted.
  CHECK_THROWS_AS(mmd(x, meta({9, 4}, at::kHalf)), c10::ValueError);
  CHECK_THROWS_AS(mmd(x, meta({9, 5}, at::kFloat)), c10::TypeError);
  CHECK_THROWS_AS(info_nce(x, x, {{"direction", "both"}}), c10::ValueError);
  const Tensor wants = x.clone().set_requires_grad(true);
  const Tensor g = gradients(mmd(wants, anchors), {wants})[0];
  CHECK(g.is_meta());
  CHECK(g.sizes() == x.sizes());
  CHECK(g.scalar_type() == at::kHalf);
}

TEST_CASE("torch: autocast casts to the widest type") {
  const arguments in;
  const Tensor x = leaf(in.x.to(at::kBFloat16)), z = leaf(in.z.to(at::kFloat));
  CHECK_THROWS_AS(mmd(x, z), c10::TypeError);
  // What enabling autocast does, in all versions of torch.
  c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, false);
  const Tensor loss = mmd(x, z);
  c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, true);
  CHECK(at::equal(loss.detach(), mmd(x.to(at::kFloat), z).detach()));
  const auto g = gradients(loss, {x, z});
  CHECK(g[0].scalar_type() == at::kBFloat16);
  CHECK(g[1].scalar_type() == at::kFloat);
}

TEST_CASE("torch: the same bits on any number of threads") {
  const int before = at::get_num_threads();
  const Tensor x = random({300, 40}, 1, at::kFloat), z = random({200, 40}, 2, at::kFloat);
  std::vector<Tensor> losses, grads;
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    const Tensor input = leaf(x);
    losses.push_back(mmd(input, z));
    grads.push_back(gradients(losses.back(), {input})[0]);
  }
  at::set_num_threads(before);
  CHECK(at::equal(losses[0].detach(), losses[1].detach()));
  CHECK(at::equal(grads[0], grads[1]));
}

TEST_CASE("torch: anchors") {
  const arguments in;
  const auto class_means = [&](const Tensor& x, int classes) { return aten::loss("class_means", {x, in.targets, classes}); };
  const Tensor means = class_means(in.x, 4);
  for (int64_t c = 0; c < 4; ++c) CHECK(close(means[c], in.x.index({in.targets == c}).mean(0)));

  const Tensor farthest = aten::loss("farthest_point_anchors", {in.x, 3}, {{"start", 2}});
  CHECK(farthest.scalar_type() == at::kLong);
  CHECK(farthest[0].item<int64_t>() == 2);
  CHECK(farthest[1].item<int64_t>() == (in.x - in.x[2]).norm(2, 1).argmax().item<int64_t>());

  const auto found = aten::call("kmeans", {in.x, 2}, {{"start", std::vector<int64_t>{0, 1}}});
  const Tensor &centres = found[0], &assignment = found[1], &inertia = found[2];
  CHECK(close(centres[0], in.x.index({assignment == 0}).mean(0)));
  CHECK(close(inertia, (in.x - centres.index({assignment})).square().sum()));
  CHECK(aten::loss("medoids", {in.x, in.x.slice(0, 3, 5)}).equal(labels({3, 4})));
  const auto per_class = aten::call("kmeans_per_class", {in.x, in.targets, 4, 2});
  CHECK(per_class[0].size(0) == 8);
  CHECK(at::equal(at::floor_divide(per_class[1], 2), in.targets));
  const Tensor rows = aten::loss("stratified_anchors", {in.targets, 4, 2}, {{"seed", 3}});
  CHECK(at::equal(in.targets.index({rows}), labels({0, 0, 1, 1, 2, 2, 3, 3})));
  CHECK_THROWS_AS(class_means(in.x, 3), c10::IndexError);
  CHECK_THROWS_AS(aten::call("kmeans", {in.x.slice(0, 0, 1), 2}), c10::ValueError);
  CHECK_THROWS_WITH(class_means(leaf(in.x), 4).sum().backward(), contains("x.detach()"));
}

TEST_CASE("torch: tests of two samples") {
  const arguments in;
  const auto far = aten::call("two_sample_test", {in.x, in.z + 3, "gaussian", std::vector<double>{1}},
                              {{"bandwidth_rule", "median"}, {"permutations", 99}});
  CHECK(far[1].item<double>() == 0.01);
  CHECK(far[2].sizes() == at::IntArrayRef({99}));
  CHECK(far[0].item<double>() > far[2].max().item<double>());
  const Tensor scale = aten::loss("bandwidth_scale", {in.x, in.z, "mean"});
  CHECK(close(mmd(in.x, in.z, {{"bandwidth_rule", "mean"}}),
              mmd(in.x, in.z, {{"bandwidths", std::vector<double>{scale.sqrt().item<double>()}}}), 1e-10));
  CHECK_THROWS_AS(aten::call("two_sample_test", {leaf(in.x), in.z})[0].backward(), c10::NotImplementedError);
}

TEST_CASE("torch: rows descend to another sample") {
  const arguments in;
  const Tensor x = leaf(in.x), target = in.z + 1;
  const auto loss = [&] { return mmd(x, target, {{"bandwidths", std::vector<double>{1, 4}}}); };
  const double before = loss().item<double>();
  for (int step = 0; step < 200; ++step) {
    const Tensor g = gradients(loss(), {x})[0];
    at::NoGradGuard none;
    x.sub_(10 * g);
  }
  CHECK(loss().item<double>() < 0.1 * before);
}
