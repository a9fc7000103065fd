// The two towers: what is trained, and its chain rule by hand.
//
//     image   z = f + f A                        A: image adapter, d x d, starts at 0
//     text    t = (e - e_mean + v + p_y) W       v: shared context, p_y: prompt of base class y; both start at 0
//
// f and e are frozen features. Held-out classes have no prompt of their own, only the shared context.
//
// CLIP's texts and images share a space because it was pre-trained on pairs; then W is the identity. Features of two
// encoders that never met need a map: W is the ridge regression from the text features of the base classes to the mean
// image features of their few shots, so it sees no more labels than the training does, and is frozen afterwards. Six
// classes say little about the words of others: do not expect much of held-out classes where W had to be fitted.
#pragma once

#include <Eigen/Cholesky>

#include "task.hpp"

namespace example {

struct parameters {
  matrix adapter, prompts, context;
};

class two_towers {
 public:
  parameters trained;

  /// shots: rows of the pool, all of base classes.
  two_towers(const task& t, const index_list& shots) {
    trained.adapter.setZero(t.pool.cols(), t.pool.cols());
    trained.prompts.setZero(t.base_classes, t.class_texts.cols());
    trained.context.setZero(1, t.class_texts.cols());
    centre_.setZero(t.class_texts.cols());
    if (!t.joint_space()) join_spaces(t, shots);
  }

  matrix images(const matrix& f) const {
    if (f.rows() == 0) return f;
    return f + f * trained.adapter;
  }

  /// raw: one text feature per row; classes: whose. Classes from base_classes on get no prompt.
  matrix texts(const matrix& raw, const label_list& classes) const {
    matrix e = raw.rowwise() + (trained.context.row(0) - centre_);
    for (std::size_t i = 0; i < classes.size(); ++i)
      if (classes[i] < trained.prompts.rows()) e.row(Eigen::Index(i)) += trained.prompts.row(classes[i]);
    return map_.size() == 0 ? e : e * map_;
  }

  parameters zero_gradient() const {
    return {matrix::Zero(trained.adapter.rows(), trained.adapter.cols()),
            matrix::Zero(trained.prompts.rows(), trained.prompts.cols()), matrix::Zero(1, trained.context.cols())};
  }

  /// Adds the gradient of the parameters, given that of images(f).
  void images_pullback(const matrix& f, const matrix& dz, parameters& gradient) const {
    if (f.rows() > 0) gradient.adapter.noalias() += f.transpose() * dz;
  }

  /// Adds the gradient of the parameters, given that of texts(raw, classes).
  void texts_pullback(const label_list& classes, const matrix& dt, parameters& gradient) const {
    const matrix de = map_.size() == 0 ? dt : dt * map_.transpose();
    gradient.context += de.colwise().sum();
    for (std::size_t i = 0; i < classes.size(); ++i)
      if (classes[i] < trained.prompts.rows()) gradient.prompts.row(classes[i]) += de.row(Eigen::Index(i));
  }

  /// W, empty if it is the identity, and e_mean.
  const matrix& map() const { return map_; }
  const row_vector& centre() const { return centre_; }

 private:
  void join_spaces(const task& t, const index_list& shots) {
    constexpr float ridge = 0.1f;
    const label_list y = labels_of(t.pool_labels, shots);
    const matrix f = rows_of(t.pool, shots);
    matrix means = matrix::Zero(t.base_classes, f.cols());
    Eigen::VectorXf counts = Eigen::VectorXf::Zero(t.base_classes);
    for (std::size_t i = 0; i < y.size(); ++i) {
      means.row(y[i]) += f.row(Eigen::Index(i));
      ++counts(y[i]);
    }
    means.array().colwise() /= counts.array();

    // Pairs of a text and the mean image of its class: every template, or every shot's caption.
    matrix from, to;
    if (t.captions.size() > 0) {
      from = rows_of(t.captions, shots);
      to = rows_of(means, y);
    } else {
      const Eigen::Index c = t.base_classes, k = Eigen::Index(t.templates.size());
      from.resize(k * c, t.class_texts.cols());
      for (Eigen::Index i = 0; i < k; ++i) from.middleRows(i * c, c) = t.templates[std::size_t(i)].topRows(c);
      to = means.replicate(k, 1);
    }
    // All class names may be known beforehand, also those of held-out classes, so their mean may be used.
    centre_ = t.class_texts.colwise().mean();
    from.rowwise() -= centre_;
    // The dual form of ridge regression: fewer texts than features.
    matrix gram = from * from.transpose();
    gram.diagonal().array() += ridge;
    map_ = from.transpose() * gram.llt().solve(to).eval();
  }

  row_vector centre_;
  matrix map_;
};

}  // namespace example
