// LibTorch: learnable prompts and an adapter of image features, trained by torch's Adam on craft's losses. A labelled domain, and one
// without labels whose features are shifted: its accuracy with and without the discrepancy between the two.
#include <torch/torch.h>

#include <cmath>
#include <cstdio>

#include "craft/adapters/torch_library.hpp"  // in one source of a program

namespace aten = craft::aten;

namespace {

constexpr int64_t classes = 6, dimensions = 32, per_class = 40;

/// Stand-ins for what frozen encoders give.
struct features {
  torch::Tensor texts;           // classes x dimensions
  torch::Tensor source, labels;  // images and their classes
  torch::Tensor target, hidden;  // images of the other domain; the classes are for the report only
};
features make_features() {
  features f;
  const torch::Tensor prototypes = torch::randn({classes, dimensions});
  f.texts = prototypes + 0.5 * torch::randn({classes, dimensions});
  const auto images = [&](const torch::Tensor& labels) {
    return prototypes.index_select(0, labels) + 2 * torch::randn({labels.size(0), dimensions});
  };
  f.labels = torch::arange(classes).repeat_interleave(per_class);
  f.hidden = f.labels.clone();
  f.source = images(f.labels);
  f.target = images(f.hidden) + 3 * torch::randn({1, dimensions});
  return f;
}

struct model : torch::nn::Module {
  torch::nn::Linear adapter{nullptr};
  torch::Tensor prompts, log_scale;
  explicit model(const torch::Tensor& texts) {
    adapter = register_module("adapter", torch::nn::Linear(dimensions, dimensions));
    torch::nn::init::zeros_(adapter->weight);
    torch::nn::init::zeros_(adapter->bias);
    prompts = register_parameter("prompts", texts.clone());
    log_scale = register_parameter("log_scale", torch::full({}, std::log(10.0)));
  }
  torch::Tensor images(const torch::Tensor& x) { return x + adapter(x); }
  double accuracy(const torch::Tensor& x, const torch::Tensor& labels) {
    torch::NoGradGuard no_gradient;
    const torch::Tensor nearest = aten::loss("relative", {images(x), prompts}).argmax(1);
    return 100 * nearest.eq(labels).to(torch::kDouble).mean().item<double>();
  }
};

torch::Tensor loss_of(model& m, const features& f, bool with_discrepancy) {
  const torch::Tensor source = m.images(f.source);
  const aten::named_arguments scale = {{"log_scale", m.log_scale}, {"max_scale", 100}};
  torch::Tensor loss = aten::loss("anchor_cross_entropy", {source, m.prompts, f.labels}, scale);

  aten::named_arguments by_class = scale;  // images of a class are no negatives of each other
  by_class.insert(by_class.end(), {{"x_labels", f.labels}, {"y_labels", f.labels}});
  loss = loss + aten::loss("info_nce", {source, m.prompts.index_select(0, f.labels)}, by_class);

  if (with_discrepancy) {
    const torch::Tensor r = aten::loss("relative", {source, m.prompts}),
                        r_target = aten::loss("relative", {m.images(f.target), m.prompts});
    loss = loss + 10 * aten::loss("mmd", {r, r_target},
                                  {{"bandwidths", std::vector<double>{0.5, 1.0, 2.0}}, {"bandwidth_rule", "median"}});
  }
  return loss;
}

/// Accuracy on the domain without labels.
double train(const features& f, bool with_discrepancy) {
  model m(f.texts);
  torch::optim::Adam optimiser(m.parameters(), torch::optim::AdamOptions(2e-3));
  double value = 0;
  for (int step = 0; step < 150; ++step) {
    optimiser.zero_grad();
    const torch::Tensor loss = loss_of(m, f, with_discrepancy);
    loss.backward();
    optimiser.step();
    value = loss.item<double>();
  }
  const double source = m.accuracy(f.source, f.labels), target = m.accuracy(f.target, f.hidden);
  std::printf("%-22s %8.3f %9.1f %9.1f\n", with_discrepancy ? "alignment and MMD" : "alignment", value, source, target);
  return target;
}

}  // namespace

int main() {
  torch::manual_seed(0);
  const features f = make_features();
  std::puts("loss                      value  source %  target %");
  model untrained(f.texts);
  const double before = untrained.accuracy(f.target, f.hidden);
  std::printf("%-22s %8s %9.1f %9.1f\n", "before training", "", untrained.accuracy(f.source, f.labels), before);
  const double aligned = train(f, false), with_mmd = train(f, true);
  return with_mmd > aligned && with_mmd > before ? 0 : 1;
}
