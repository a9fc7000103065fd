// The operators of craft/adapters/torch.hpp: against the verbs called directly, against finite differences, and in what torch
// expects of an operator.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
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
         aten::mmd_options o;
         o.learnable_bandwidths = in.bandwidths;
         o.learnable_weights = in.kernel_weights;
         o.x_weights = in.weights;
         return aten::mmd(in.x, in.z, o);
       },
       {&a::x, &a::z, &a::bandwidths, &a::kernel_weights, &a::weights}},
      {"mmd, unbiased, of weights",
       [](const a& in) {
         aten::mmd_options o;
         o.estimator = "unbiased";
         o.x_weights = in.weights;
         o.y_weights = in.z_weights;
         return aten::mmd(in.x, in.z, o);
       },
       {&a::x, &a::z, &a::weights, &a::z_weights}},
      {"mmd, rational quadratic",
       [](const a& in) {
         aten::mmd_options o;
         o.kernel = "rational_quadratic";
         o.shape = 1.5;
         o.learnable_bandwidths = in.bandwidths;
         o.estimator = "unbiased";
         o.bandwidth_rule = "mean";
         o.bandwidth_gradient = true;
         o.columns = "minmax_joint";
         return aten::mmd(in.x, in.z, o);
       },
       {&a::x, &a::z}},  // bandwidths: M is held fixed in their gradient
      {"mmd_preset", [](const a& in) { return aten::mmd_preset(in.x, in.z, "craft_rbf"); }, {&a::x, &a::z}},
      {"anchor_cross_entropy",
       [](const a& in) {
         aten::cross_entropy_options o;
         o.log_scale = in.log_scale;
         o.label_smoothing = 0.1;
         o.weights = in.weights;
         return aten::anchor_cross_entropy(in.x, in.anchors, in.targets, o);
       },
       {&a::x, &a::anchors, &a::log_scale, &a::weights}},
      {"anchor_cross_entropy, soft targets",
       [](const a& in) {
         aten::cross_entropy_options o;
         o.log_scale = in.log_scale;
         o.reduction = "sum";
         o.weights = in.weights;
         return aten::anchor_cross_entropy(in.x, in.anchors, in.soft, o);
       },
       {&a::x, &a::anchors, &a::log_scale, &a::weights, &a::soft}},
      {"info_nce",
       [](const a& in) {
         aten::info_nce_options o;
         o.log_scale = in.log_scale;
         o.x_labels = in.targets;
         o.y_labels = in.others;
         o.weights = in.weights;
         return aten::info_nce(in.x, in.y, o);
       },
       {&a::x, &a::y, &a::log_scale, &a::weights}},
      {"info_nce, one way, of one row of numbers",
       [](const a& in) {
         aten::info_nce_options o;
         o.log_scale = in.log_scale.reshape({1});
         o.direction = "one_way";
         o.normalise = false;
         return aten::info_nce(in.x, in.y, o);
       },
       {&a::x, &a::y, &a::log_scale}},
      {"sigmoid_contrastive",
       [](const a& in) {
         aten::sigmoid_options o;
         o.log_scale = in.log_scale;
         o.bias = in.bias;
         return aten::sigmoid_contrastive(in.x, in.y, o);
       },
       {&a::x, &a::y, &a::log_scale, &a::bias}},
      {"relative",
       [](const a& in) {
         aten::relative_options o;
         o.log_scale = in.log_scale;
         o.statistics = "standardise";
         return (aten::relative(in.x, in.anchors, o) * random({9, 4}, 8)).sum();
       },
       {&a::x, &a::anchors, &a::log_scale}},
      {"relative, of distances",
       [](const a& in) {
         aten::relative_options o;
         o.similarity = "laplacian";
         o.bandwidths = std::vector<double>{2.0};
         return aten::relative(in.x, in.anchors, o).square().sum();
       },
       {&a::x, &a::anchors}},
      {"objective",
       [](const a& in) {
         aten::objective_options o;
         o.log_scale = in.log_scale;
         o.mmd = 0.5;
         return aten::objective({in.x, in.anchors, in.targets, in.y, in.more_anchors, in.z}, o).total;
       },
       {&a::x, &a::anchors, &a::y, &a::more_anchors, &a::z, &a::log_scale}},
  };
}

}  // namespace

TEST_CASE("torch: mmd has the verb's value and gradients") {
  const arguments in;
  for (const char* estimator : {"biased", "unbiased"}) {
    CAPTURE(estimator);
    craft::mmd_options o;
    o.estimator = craft::runtime::named<craft::estimator>(estimator);
    o.bandwidth.rule = craft::bandwidth_rule::median;
    o.x_weights = craft::numbers(static_cast<const double*>(in.weights.data_ptr()), 9);
    o.factor = 2;
    const Tensor dx = like(in.x), dz = like(in.z), db = like(in.bandwidths), dw = like(in.kernel_weights);
    double value = 0;
    craft::mmd(craft::cpu(), view(in.x), view(in.z), craft::gaussians<>({0.5, 1.0, 2.2}, {1.0, 0.5, -0.25}), o, value,
               {craft::overwrite(view(dx)), craft::overwrite(view(dz)), craft::overwrite(vector(dw)),
                craft::overwrite(vector(db))});

    aten::mmd_options options;
    const Tensor x = leaf(in.x), z = leaf(in.z);
    options.learnable_bandwidths = leaf(in.bandwidths);
    options.learnable_weights = leaf(in.kernel_weights);
    options.estimator = estimator;
    options.bandwidth_rule = "median";
    options.x_weights = in.weights;
    options.factor = 2;
    const Tensor loss = aten::mmd(x, z, options);
    CHECK(loss.dim() == 0);
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, z, options.learnable_bandwidths, options.learnable_weights});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dz));
    CHECK(close(g[2], db));
    CHECK(close(g[3], dw));

    // The same numbers as options.
    options.learnable_bandwidths = options.learnable_weights = Tensor();
    options.bandwidths = std::vector<double>{0.5, 1.0, 2.2};
    options.weights = std::vector<double>{1.0, 0.5, -0.25};
    CHECK(close(aten::mmd(in.x, in.z, options), number(value)));
  }
  double value = 0;
  const auto preset = craft::presets::tllib(9);
  craft::mmd(craft::cpu(), view(in.x), view(in.y), preset.kernel, preset.options, value);
  CHECK(close(aten::mmd_preset(in.x, in.y, "tllib"), number(value)));
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
    aten::cross_entropy_options options;
    options.log_scale = s;
    options.label_smoothing = 0.2;
    options.ignore_label = 2;
    const Tensor loss = aten::anchor_cross_entropy(x, anchors, in.targets.to(at::kInt), options);
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, anchors, s});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], da));
    CHECK(close(g[2], ds));

    const Tensor soft = at::softmax(random({9, 4}, 9), 1);
    craft::anchor_cross_entropy(craft::cpu(), view(in.x), view(in.anchors), view(soft), craft::cross_entropy_options(),
                                value);
    CHECK(close(aten::anchor_cross_entropy(in.x, in.anchors, soft), number(value)));
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
    aten::info_nce_options options;
    options.log_scale = s;
    options.max_scale = 2.5;
    options.x_labels = in.targets;
    options.y_labels = in.others;
    options.weights = in.weights.to(at::kFloat);
    const Tensor loss = aten::info_nce(x, y, options);
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, y, s});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dy));
    CHECK(close(g[2], ds));
    craft::info_nce(craft::cpu(), view(in.x), view(in.y), craft::contrastive_options(), value);
    CHECK(close(aten::info_nce(in.x, in.y), number(value)));
  }
  SECTION("sigmoid_contrastive") {
    craft::sigmoid_options o;
    o.log_scale = scalar(in.log_scale);
    o.bias = scalar(in.bias);
    craft::sigmoid_contrastive(craft::cpu(), view(in.x), view(in.y), o, value,
                               {craft::overwrite(view(dx)), craft::overwrite(view(dy)), craft::overwrite(scalar(ds)),
                                craft::overwrite(scalar(db))});
    aten::sigmoid_options options;
    options.log_scale = s;
    options.bias = b;
    const Tensor loss = aten::sigmoid_contrastive(x, y, options);
    CHECK(close(loss.detach(), number(value)));
    const auto g = gradients(loss, {x, y, s, b});
    CHECK(close(g[0], dx));
    CHECK(close(g[1], dy));
    CHECK(close(g[2], ds));
    CHECK(close(g[3], db));
    craft::sigmoid_contrastive(craft::cpu(), view(in.x), view(in.y), craft::sigmoid_options(), value);
    CHECK(close(aten::sigmoid_contrastive(in.x, in.y), number(value)));
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

    aten::objective_options options;
    const Tensor x = leaf(in.x), anchors = leaf(in.anchors), more = leaf(in.more_anchors), z = leaf(in.z),
                 s = leaf(number(std::log(100.0)));
    options.text = 0.5;
    options.log_scale = s;
    options.discrepancy.bandwidths = std::vector<double>{0.5, 2.0};
    options.discrepancy.estimator = "unbiased";
    const auto result = aten::objective({x, anchors, in.targets, {}, more, z}, options);
    CHECK(close(result.total.detach(), number(values.total)));
    CHECK(close(result.terms, at::tensor({values.text, values.image, values.batch, values.mmd}, at::kDouble)));
    CHECK_FALSE(result.terms.requires_grad());
    const auto of = gradients(result.total, {x, anchors, more, z, s});
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
    aten::relative_options options;
    const Tensor x = leaf(in.x), anchors = leaf(in.anchors), s = leaf(in.log_scale);
    options.log_scale = s;
    const Tensor out = aten::relative(x, anchors, options);
    CHECK(close(out.detach(), r));
    const auto g = gradients(out, {x, anchors, s}, dr);
    CHECK(close(g[0], dx));
    CHECK(close(g[1], da));
    CHECK(close(g[2], ds));
  }
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
  const auto loss = [&] { return aten::info_nce(x, in.y); };
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
    const auto loss = [&](const Tensor& x) { return aten::mmd(x, in.z) + aten::relative(in.z, x).sum(); };
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
    const Tensor g = gradients(aten::mmd(row.expand({9, 5}), in.z), {row})[0];
    CHECK(close(g, gradients(aten::mmd(rows, in.z), {rows})[0].sum(0, true)));
  }
  SECTION("one column out of several") {
    const Tensor columns = random({8, 3}, 5);
    CHECK(close(aten::mmd(columns.slice(1, 1, 2), random({6, 1}, 6)),
                aten::mmd(columns.slice(1, 1, 2).contiguous(), random({6, 1}, 6))));
  }
  SECTION("labels and weights of every second row") {
    aten::cross_entropy_options o;
    const Tensor all = at::stack({in.targets, in.others}, 1), weights = at::stack({in.weights, in.weights}, 1);
    o.weights = weights.select(1, 0);
    const Tensor strided = aten::anchor_cross_entropy(in.x, in.anchors, all.select(1, 0), o);
    o.weights = in.weights;
    CHECK(close(strided, aten::anchor_cross_entropy(in.x, in.anchors, in.targets, o)));
  }
}

TEST_CASE("torch: half precision in, float values and gradients that do not underflow") {
  const at::ScalarType type = GENERATE(at::kHalf, at::kBFloat16);
  CAPTURE(c10::toString(type));
  const arguments in;
  const Tensor x = leaf(in.x.to(type)), z = leaf(in.z.to(type));
  const Tensor xf = leaf(x.to(at::kFloat)), zf = leaf(z.to(at::kFloat));
  aten::mmd_options o;
  const Tensor loss = aten::mmd(x, z, o), reference = aten::mmd(xf, zf, o);
  CHECK(loss.scalar_type() == at::kFloat);
  CHECK(at::equal(loss.detach(), reference.detach()));
  const auto g = gradients(loss, {x, z}), gf = gradients(reference, {xf, zf});
  CHECK(g[0].scalar_type() == type);
  CHECK(at::equal(g[0], gf[0].to(type)));
  CHECK(at::equal(g[1], gf[1].to(type)));

  o.factor = 1e-10;  // no half holds these gradients
  const Tensor tiny = gradients(aten::mmd(x, z, o), {x}, at::full({}, 1e10, at::kFloat))[0];
  CHECK(tiny.count_nonzero().item<int64_t>() == x.numel());
  CHECK(at::allclose(tiny.to(at::kFloat), gf[0], 1e-2, 1e-4));

  const Tensor r = aten::relative(x, x.slice(0, 0, 4));
  CHECK(r.scalar_type() == at::kFloat);
  CHECK(gradients(r.sum(), {x})[0].scalar_type() == type);
  aten::info_nce_options contrastive;
  contrastive.log_scale = leaf(at::full({}, 1, type));
  CHECK(gradients(aten::info_nce(x, x, contrastive), {contrastive.log_scale})[0].scalar_type() == type);
}

TEST_CASE("torch: only the value is computed where no gradient is needed") {
  const arguments in;
  CHECK_FALSE(aten::info_nce(in.x, in.y).requires_grad());
  const Tensor x = leaf(in.x);
  {
    at::NoGradGuard none;
    CHECK_FALSE(aten::info_nce(x, in.y).requires_grad());
  }
  CHECK(aten::info_nce(x, in.y).requires_grad());
  // What is not wanted is an empty tensor.
  const auto results = aten::detail::call_operator("craft::mmd_preset_gradients", in.x, in.z, std::string("cmmd"), 0.05,
                                                   c10::List<bool>({false, true}));
  CHECK(results[1].toTensor().numel() == 0);
  CHECK(results[2].toTensor().sizes() == in.z.sizes());
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

TEST_CASE("torch: inputs that have no gradient say so") {
  const arguments in;
  aten::info_nce_options by_label;
  by_label.x_labels = leaf(in.weights);
  CHECK_THROWS_WITH(aten::info_nce(in.x, in.y, by_label), contains("no gradient by x_labels; pass x_labels.detach()"));
  aten::mmd_options o;
  o.estimator = "linear";
  o.x_weights = leaf(in.weights);
  CHECK_THROWS_WITH(aten::mmd(in.x, in.z, o), contains("linear-time estimator takes no sample weights"));
  aten::objective_options objective;
  objective.discrepancy.y_weights = leaf(in.z_weights);
  objective.discrepancy.learnable_weights = in.kernel_weights;
  CHECK_THROWS_WITH(aten::objective({in.x, in.anchors, in.targets, {}, {}, in.z}, objective),
                    contains("takes no tensors, got learnable_weights, y_weights: leave them out"));
}

TEST_CASE("torch: errors are torch's") {
  const arguments in;
  const auto mmd = [](const Tensor& x, const Tensor& y, const std::string& kernel = "gaussian") {
    aten::mmd_options o;
    o.kernel = kernel;
    return aten::mmd(x, y, o);
  };
  CHECK_THROWS_AS(mmd(in.x.to(at::kLong), in.z), c10::TypeError);
  CHECK_THROWS_AS(mmd(in.x, in.z.to(at::kFloat)), c10::TypeError);
  CHECK_THROWS_WITH(mmd(in.x, in.z.to(at::kFloat)), contains("expected y of type float64, got float32"));
  CHECK_THROWS_AS(mmd(in.x[0], in.z), c10::ValueError);
  CHECK_THROWS_WITH(mmd(in.x[0], in.z), contains("x has 1 dimension (5,), expected a matrix with one sample per row"));
  CHECK_THROWS_AS(mmd(in.x, in.z.slice(1, 0, 3)), c10::ValueError);
  CHECK_THROWS_WITH(mmd(in.x, in.z.slice(1, 0, 3)), contains("7 x 3"));
  CHECK_THROWS_AS(mmd(in.x.slice(0, 0, 0), in.z), c10::ValueError);
  CHECK_THROWS_WITH(mmd(in.x, in.z, "gauss"), contains("expected gaussian, laplacian"));
  CHECK_THROWS_AS(mmd(in.x, in.z, "energy2"), c10::ValueError);

  aten::mmd_options both;
  both.bandwidths = std::vector<double>{1};
  both.learnable_bandwidths = in.bandwidths;
  CHECK_THROWS_WITH(aten::mmd(in.x, in.z, both), contains("got both"));

  const auto cross_entropy = [&](const Tensor& y) { return aten::anchor_cross_entropy(in.x, in.anchors, y); };
  CHECK_THROWS_AS(cross_entropy(labels({0, 1, 2, 3, 4, 0, 0, 0, 0})), c10::IndexError);
  CHECK_THROWS_AS(cross_entropy(labels({0, 1})), c10::ValueError);
  CHECK_THROWS_AS(cross_entropy(in.targets.to(at::kByte)), c10::TypeError);
  CHECK_THROWS_AS(cross_entropy(in.targets.reshape({9, 1})), c10::ValueError);
  CHECK_THROWS_AS(cross_entropy(at::softmax(in.x, 1)), c10::ValueError);

  aten::info_nce_options o;
  o.direction = "both";
  CHECK_THROWS_WITH(aten::info_nce(in.x, in.y, o), contains("one_way, symmetric"));
  o = {};
  o.log_scale = in.weights;
  CHECK_THROWS_WITH(aten::info_nce(in.x, in.y, o), contains("log_scale to be one number"));
  o.log_scale = labels({1});
  CHECK_THROWS_AS(aten::info_nce(in.x, in.y, o), c10::TypeError);
  o.log_scale = number(1e4);
  CHECK_THROWS_WITH(aten::info_nce(in.x, in.y, o), contains("out of range"));
  CHECK_THROWS_AS(aten::objective({in.x, in.anchors, in.targets, in.z, {}, {}}), c10::ValueError);
  CHECK_THROWS_AS(aten::mmd_preset(in.x, in.y, "none of them"), c10::ValueError);
  const auto wanted = [&] {
    return aten::detail::call_operator("craft::info_nce_gradients", in.x, in.y, Tensor(), aten::optional<double>(), true,
                                       std::string("symmetric"), Tensor(), Tensor(), 0.0, Tensor(),
                                       c10::List<bool>({false, false, true, false}));
  };
  CHECK_THROWS_WITH(wanted(), contains("a gradient is wanted of a tensor that is not given"));
  // A loss that threw left nothing behind.
  const Tensor x = leaf(in.x);
  CHECK_THROWS(mmd(x, in.z.slice(1, 0, 3)));
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("torch: Meta tensors have the results' shapes and types") {
  const auto meta = [](at::IntArrayRef shape, at::ScalarType type) {
    return at::empty(shape, at::TensorOptions(type).device(at::kMeta));
  };
  const Tensor x = meta({9, 5}, at::kHalf), anchors = meta({4, 5}, at::kHalf);
  CHECK(aten::info_nce(x, x).is_meta());
  CHECK(aten::info_nce(x, x).scalar_type() == at::kFloat);
  CHECK(aten::relative(x, anchors).sizes() == at::IntArrayRef({9, 4}));
  const Tensor wants = x.clone().set_requires_grad(true);
  const Tensor g = gradients(aten::mmd(wants, anchors), {wants})[0];
  CHECK(g.is_meta());
  CHECK(g.sizes() == x.sizes());
  CHECK(g.scalar_type() == at::kHalf);
}

TEST_CASE("torch: autocast casts to the widest type") {
  const arguments in;
  const Tensor x = leaf(in.x.to(at::kBFloat16)), z = leaf(in.z.to(at::kFloat));
  CHECK_THROWS_AS(aten::mmd(x, z), c10::TypeError);
  // What enabling autocast does, in all versions of torch.
  c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, false);
  const Tensor loss = aten::mmd(x, z);
  c10::impl::tls_set_dispatch_key_excluded(c10::DispatchKey::AutocastCPU, true);
  CHECK(at::equal(loss.detach(), aten::mmd(x.to(at::kFloat), z).detach()));
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
    losses.push_back(aten::mmd(input, z));
    grads.push_back(gradients(losses.back(), {input})[0]);
  }
  at::set_num_threads(before);
  CHECK(at::equal(losses[0].detach(), losses[1].detach()));
  CHECK(at::equal(grads[0], grads[1]));
}

TEST_CASE("torch: anchors") {
  const arguments in;
  const Tensor means = aten::class_means(in.x, in.targets, 4);
  for (int64_t c = 0; c < 4; ++c) CHECK(close(means[c], in.x.index({in.targets == c}).mean(0)));

  const Tensor farthest = aten::farthest_point_anchors(in.x, 3, 2);
  CHECK(farthest.scalar_type() == at::kLong);
  CHECK(farthest[0].item<int64_t>() == 2);
  CHECK(farthest[1].item<int64_t>() == (in.x - in.x[2]).norm(2, 1).argmax().item<int64_t>());

  const auto found = aten::kmeans(in.x, 2);
  CHECK(close(found.centres[0], in.x.index({found.assignment == 0}).mean(0)));
  CHECK(close(found.inertia, (in.x - found.centres.index({found.assignment})).square().sum()));
  const auto per_class = aten::kmeans(in.x, 2, {}, in.targets, 4);
  CHECK(per_class.centres.size(0) == 8);
  CHECK(at::equal(at::floor_divide(per_class.assignment, 2), in.targets));
  CHECK_THROWS_AS(aten::class_means(in.x, in.targets, 3), c10::IndexError);
  CHECK_THROWS_AS(aten::kmeans(in.x.slice(0, 0, 1), 2), c10::ValueError);
  CHECK_THROWS_WITH(aten::class_means(leaf(in.x), in.targets, 4).sum().backward(), contains("x.detach()"));
}

TEST_CASE("torch: rows descend to another sample") {
  const arguments in;
  const Tensor x = leaf(in.x), target = in.z + 1;
  aten::mmd_options o;
  o.bandwidths = std::vector<double>{1, 4};
  const double before = aten::mmd(x, target, o).item<double>();
  for (int step = 0; step < 200; ++step) {
    const Tensor g = gradients(aten::mmd(x, target, o), {x})[0];
    at::NoGradGuard none;
    x.sub_(10 * g);
  }
  CHECK(aten::mmd(x, target, o).item<double>() < 0.1 * before);
}
