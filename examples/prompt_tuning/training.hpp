// One training run: a few shots, one loss, Adam; and its accuracies.
#pragma once

#include <random>

#include "../common/adam.hpp"
#include "../common/statistics.hpp"
#include "craft/craft.hpp"
#include "two_towers.hpp"

namespace example {

/// Which terms the loss has, all with weight 1 as in the released code.
struct loss_terms {
  std::string name, file_name;
  bool alignment = false, discrepancy = false;
};

inline std::vector<loss_terms> all_losses() {
  return {{"cross-entropy", "cross-entropy", false, false},
          {"+ alignment", "alignment", true, false},
          {"+ MMD", "mmd", false, true},
          {"+ alignment + MMD", "both", true, true}};
}

struct recipe {
  int shots = 16, epochs = 100, batch = 32, target_batch = 128;
  double learning_rate = 1e-3;
  double scale = 100;  ///< of the cosines, CLIP's
};

/// The labelled images of a run: so many rows of the pool for each base class, or all of a smaller one.
inline index_list draw_shots(const task& t, int per_class, std::uint64_t seed) {
  index_list shots;
  for (int c = 0; c < t.base_classes; ++c) {
    index_list rows;
    for (std::size_t i = 0; i < t.pool_labels.size(); ++i)
      if (t.pool_labels[i] == c) rows.push_back(std::int64_t(i));
    if (rows.empty()) throw std::runtime_error("base class " + t.class_names[std::size_t(c)] + " has no images");
    const std::int64_t n = std::int64_t(rows.size());
    for (const std::int64_t i : craft::random_anchors(n, std::min<std::int64_t>(n, per_class), seed, std::uint64_t(c)))
      shots.push_back(rows[std::size_t(i)]);
  }
  return shots;
}

/// Shares of right answers: base classes among themselves, held-out classes among themselves, and their harmonic mean.
struct accuracy {
  double base = 0, held_out = 0;
  double harmonic() const { return base + held_out > 0 ? 2 * base * held_out / (base + held_out) : 0; }
};

/// labels: at least as many as there are images.
inline accuracy evaluate(const two_towers& towers, const task& t, const matrix& images, const label_list& labels) {
  label_list all(std::size_t(t.classes()));
  for (std::size_t c = 0; c < all.size(); ++c) all[c] = std::int64_t(c);
  const matrix z = towers.images(images), texts = towers.texts(t.class_texts, all);
  matrix cosines(z.rows(), texts.rows());
  craft::relative(craft::cpu(1), z, texts, craft::dot_product<>(), {}, cosines);
  double right[2] = {0, 0}, count[2] = {0, 0};
  for (Eigen::Index i = 0; i < z.rows(); ++i) {
    const std::int64_t y = labels[std::size_t(i)], b = t.base_classes;
    Eigen::Index best;
    if (y < b)
      cosines.row(i).head(b).maxCoeff(&best);
    else
      cosines.row(i).tail(t.classes() - b).maxCoeff(&best);
    right[y >= b] += best == (y < b ? y : y - b);
    ++count[y >= b];
  }
  return {count[0] > 0 ? right[0] / count[0] : 0, count[1] > 0 ? right[1] / count[1] : 0};
}

/// What one step looks at.
struct batch {
  matrix images;  ///< frozen features, n x d
  label_list labels;
  matrix texts;   ///< frozen: a text for each image, n x d_text
  matrix target;  ///< frozen features of images of the other domain, m x d; empty without the discrepancy
};

/// The loss of a batch as a function of the towers' parameters.
class few_shot_loss {
 public:
  /// target: unlabelled images for the discrepancy (null: none).
  few_shot_loss(const task& t, const recipe& r, const loss_terms& terms, index_list shots, const matrix* target,
                std::uint64_t seed)
      : task_(t), shots_(std::move(shots)), target_(terms.discrepancy ? target : nullptr), seed_(seed), random_(seed) {
    images_ = rows_of(t.pool, shots_);
    labels_ = labels_of(t.pool_labels, shots_);
    for (int c = 0; c < t.base_classes; ++c) base_.push_back(c);
    class_texts_ = t.class_texts.topRows(t.base_classes);
    batch_ = std::min<std::int64_t>(r.batch, images_.rows());
    target_batch_ = target_ != nullptr ? std::min<std::int64_t>(r.target_batch, target_->rows()) : 0;

    // Static image anchors: class means of the frozen features.
    anchors_.resize(t.base_classes, images_.cols());
    craft::class_means(ctx_, images_, labels_, {true}, anchors_);

    options.log_scale = std::log(r.scale);
    options.image = options.batch = terms.alignment ? 1 : 0;
    options.mmd = terms.discrepancy ? 1 : 0;
    options.same_class_positives = true;  // a batch holds several images of one class; they are no negatives
    options.discrepancy.estimator = craft::estimator::unbiased;
    options.discrepancy.bandwidth.rule = craft::bandwidth_rule::mean;
  }

  craft::objective_options options;

  std::int64_t steps_per_epoch() const { return (images_.rows() + batch_ - 1) / batch_; }

  batch draw(std::uint64_t step) {
    const index_list rows = craft::random_anchors(images_.rows(), batch_, seed_, step);
    batch b{rows_of(images_, rows), labels_of(labels_, rows), matrix(batch_, class_texts_.cols()), {}};
    // Stochastic text anchors: each image's own caption, or its class in a template drawn anew.
    for (std::int64_t i = 0; i < batch_; ++i) {
      if (task_.captions.size() > 0)
        b.texts.row(i) = task_.captions.row(shots_[std::size_t(rows[std::size_t(i)])]);
      else
        b.texts.row(i) = task_.templates[random_() % task_.templates.size()].row(b.labels[std::size_t(i)]);
    }
    if (target_ != nullptr)
      b.target = rows_of(*target_, craft::random_anchors(target_->rows(), target_batch_, seed_ + 1000, step));
    return b;
  }

  /// gradient: of the total by the parameters, overwritten; null: not wanted.
  craft::objective_values<float> operator()(const two_towers& towers, const batch& b, parameters* gradient) const {
    const matrix images = towers.images(b.images), target = towers.images(b.target);
    const matrix class_texts = towers.texts(class_texts_, base_), texts = towers.texts(b.texts, b.labels);
    craft::objective_inputs<float> in;
    in.images = craft::view(images);
    in.class_texts = craft::view(class_texts);
    in.targets = b.labels;
    in.batch_texts = craft::view(texts);
    in.image_anchors = craft::view(anchors_);
    in.target_images = craft::view(target);

    craft::objective_values<float> values;
    if (gradient == nullptr) {
      craft::objective(ctx_, in, kernel_, options, values);
      return values;
    }
    matrix d_images(images.rows(), images.cols()), d_target(target.rows(), target.cols());
    matrix d_class_texts(class_texts.rows(), class_texts.cols()), d_texts(texts.rows(), texts.cols());
    craft::objective_gradients<float> out;
    out.images = craft::overwrite(d_images);
    out.class_texts = craft::overwrite(d_class_texts);
    out.batch_texts = craft::overwrite(d_texts);
    if (target.rows() > 0) out.target_images = craft::overwrite(d_target);
    craft::objective(ctx_, in, kernel_, options, values, out);

    *gradient = towers.zero_gradient();
    towers.images_pullback(b.images, d_images, *gradient);
    towers.images_pullback(b.target, d_target, *gradient);
    towers.texts_pullback(base_, d_class_texts, *gradient);
    towers.texts_pullback(b.labels, d_texts, *gradient);
    return values;
  }

 private:
  const task& task_;
  index_list shots_;
  const matrix* target_;
  std::uint64_t seed_;
  std::mt19937_64 random_;
  craft::cpu ctx_{1};  // the runs themselves are what is done in parallel
  craft::gaussians<> kernel_ = craft::gaussians<>::mean({0.5, 1.0, 2.0});
  matrix images_, class_texts_, anchors_;
  label_list labels_, base_;
  std::int64_t batch_, target_batch_;
};

/// What one epoch came to: the terms of the loss, and the accuracy on base classes of the shifted tests (0: not seen).
struct epoch_record {
  int epoch = 0;
  craft::objective_values<float> terms;
  double shifted = 0;
};

struct run_result {
  std::vector<epoch_record> curve;
  std::vector<accuracy> domains;  ///< of the domains asked for
  std::vector<accuracy> before;   ///< the same before training
  two_towers towers;
};

/// Trains on `shots`. domains: where to be tested, 0 is the clean test set and k + 1 the k-th shift.
inline run_result train(const task& t, const recipe& r, const loss_terms& terms, const index_list& shots,
                        const matrix* target, const std::vector<int>& domains, std::uint64_t seed) {
  few_shot_loss loss(t, r, terms, shots, target, seed);
  run_result result{{}, {}, {}, two_towers(t, shots)};
  two_towers& towers = result.towers;

  const auto test = [&](int domain, Eigen::Index most) {
    const matrix& images = domain == 0 ? t.test : t.shifts[std::size_t(domain - 1)].test;
    const label_list& labels = domain == 0 ? t.test_labels : t.shifts[std::size_t(domain - 1)].test_labels;
    return evaluate(towers, t, images.topRows(std::min(most, images.rows())), labels);
  };
  const auto test_all = [&] {
    std::vector<accuracy> out;
    for (const int domain : domains) out.push_back(test(domain, t.test.size()));
    return out;
  };
  // For the curves a part of the tests will do.
  const auto shifted_accuracy = [&] {
    std::vector<double> base;
    for (const int domain : domains)
      if (domain > 0) base.push_back(test(domain, 2000).base);
    return base.empty() ? 0 : mean_and_deviation(base).mean;
  };

  adam adapter_step(float(r.learning_rate)), prompt_step(float(r.learning_rate)), context_step(float(r.learning_rate));
  parameters gradient;
  result.before = test_all();
  result.curve.push_back({0, {}, shifted_accuracy()});
  for (int epoch = 1; epoch <= r.epochs; ++epoch) {
    epoch_record record;
    record.epoch = epoch;
    const std::int64_t steps = loss.steps_per_epoch();
    for (std::int64_t s = 0; s < steps; ++s) {
      const auto values = loss(towers, loss.draw(std::uint64_t(epoch * steps + s)), &gradient);
      adapter_step.step(towers.trained.adapter, gradient.adapter);
      prompt_step.step(towers.trained.prompts, gradient.prompts);
      context_step.step(towers.trained.context, gradient.context);
      record.terms.text += values.text / float(steps);
      record.terms.image += values.image / float(steps);
      record.terms.batch += values.batch / float(steps);
      record.terms.mmd += values.mmd / float(steps);
      record.terms.total += values.total / float(steps);
    }
    if (epoch == r.epochs || epoch % std::max(1, r.epochs / 20) == 0) record.shifted = shifted_accuracy();
    result.curve.push_back(record);
  }
  result.domains = test_all();
  return result;
}

/// Checks the chain rule of the towers on one batch of the whole loss, away from zero, in random directions of all
/// parameters.
inline craft::gradcheck_report check_gradient(const task& t, const recipe& r, const loss_terms& terms,
                                              const matrix* target) {
  const index_list shots = draw_shots(t, r.shots, 0);
  few_shot_loss loss(t, r, terms, shots, target, 0);
  loss.options.discrepancy.bandwidth.gradient = true;  // training holds it fixed, which no difference quotient can
  two_towers towers(t, shots);
  parameters& p = towers.trained;
  std::mt19937_64 random(0);
  std::normal_distribution<float> normal(0, 0.05f);
  for (matrix* m : {&p.adapter, &p.prompts, &p.context})
    for (Eigen::Index i = 0; i < m->size(); ++i) m->data()[i] = normal(random);
  const batch b = loss.draw(0);
  parameters g;
  loss(towers, b, &g);
  craft::gradcheck_options options;
  options.directions = 10;
  return craft::gradcheck<float>([&] { return loss(towers, b, nullptr).total; },
                                 {{"adapter", p.adapter.data(), p.adapter.size(), g.adapter.data()},
                                  {"prompts", p.prompts.data(), p.prompts.size(), g.prompts.data()},
                                  {"context", p.context.data(), p.context.size(), g.context.data()}},
                                 options);
}

}  // namespace example
