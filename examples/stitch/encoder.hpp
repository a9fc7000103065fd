// A small image encoder, x -> W2 phi(W1 x + b1), trained with a linear classifier on top. The loss and its gradients
// are craft::anchor_cross_entropy: the classifier's rows are anchors, the logits plain dot products.
#pragma once

#include <random>

#include "../common/adam.hpp"
#include "../common/progress.hpp"
#include "craft/alignment.hpp"
#include "craft/anchors.hpp"

namespace example {

struct encoder_design {
  int hidden;
  bool tanh;  ///< else rectified
};

class encoder {
 public:
  static constexpr int width = 64;  ///< of the features

  encoder(const encoder_design& design, int inputs, std::uint64_t seed) : design_(design), seed_(seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](Eigen::Index rows, Eigen::Index cols) {
      std::normal_distribution<float> normal(0, std::sqrt(2.0f / float(rows)));
      matrix m(rows, cols);
      for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
      return m;
    };
    first_ = draw(inputs, design.hidden);
    bias_.setZero(1, design.hidden);
    second_ = draw(design.hidden, width);
  }

  matrix operator()(const matrix& x) const { return hidden(x) * second_; }

  void train(const matrix& images, const label_list& labels, int classes, int epochs, progress& bar) {
    const craft::cpu ctx(1);
    const Eigen::Index n = images.rows(), batch = std::min<Eigen::Index>(64, n);
    matrix classifier = matrix::Zero(classes, width), dz(batch, width), dclassifier(classes, width);
    adam step_first(1e-3f), step_bias(1e-3f), step_second(1e-3f), step_classifier(1e-3f);
    craft::cross_entropy_options plain;
    plain.normalise = false;
    plain.log_scale = 0.0;
    for (int epoch = 0; epoch < epochs; ++epoch) {
      const index_list order = craft::random_anchors(n, n, seed_, std::uint64_t(epoch));
      for (Eigen::Index at = 0; at + batch <= n; at += batch) {
        const index_list rows(order.begin() + at, order.begin() + at + batch);
        const matrix x = rows_of(images, rows), h = hidden(x), z = h * second_;
        float loss;
        craft::anchor_cross_entropy(ctx, z, classifier, labels_of(labels, rows), plain, loss,
                                    {craft::overwrite(dz), craft::overwrite(dclassifier)});
        matrix dh = dz * second_.transpose();
        if (design_.tanh)
          dh.array() *= 1 - h.array().square();
        else
          dh.array() *= (h.array() > 0).cast<float>();
        step_second.step(second_, h.transpose() * dz);
        step_first.step(first_, x.transpose() * dh);
        step_bias.step(bias_, dh.colwise().sum());
        step_classifier.step(classifier, dclassifier);
      }
      bar.step();
    }
  }

 private:
  matrix hidden(const matrix& x) const {
    matrix h = (x * first_).rowwise() + bias_.row(0);
    if (design_.tanh)
      h = h.array().tanh();
    else
      h = h.cwiseMax(0);
    return h;
  }

  encoder_design design_;
  std::uint64_t seed_;
  matrix first_, bias_, second_;
};

}  // namespace example
