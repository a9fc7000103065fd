// What the job is run on: frozen features of two modalities, and the split.
#pragma once

#include <string>
#include <vector>

#include "../common/matrix.hpp"

namespace example {

/// Images of another domain than those trained on.
struct shifted_domain {
  std::string name;
  matrix unlabelled;  ///< for the discrepancy; of the base classes where labels tell, else all
  matrix test;        ///< for the accuracy; may be empty
  label_list test_labels;
};

/// All features have rows of length 1. Classes [0, base_classes) are trained on; the others are held out and known by
/// their texts alone.
struct task {
  std::string name;
  std::vector<std::string> class_names;
  int base_classes = 0;

  matrix pool;  ///< labelled images from which the few shots are drawn
  label_list pool_labels;
  matrix test;
  label_list test_labels;
  std::vector<shifted_domain> shifts;

  matrix class_texts;             ///< C x d_text: mean over the ways to say it
  std::vector<matrix> templates;  ///< the ways to say it, C x d_text each; empty if there are captions
  matrix captions;                ///< a text for every image of the pool; empty if there are templates

  int classes() const { return int(class_texts.rows()); }
  /// Whether texts and images already live in one space, as CLIP's do.
  bool joint_space() const { return class_texts.cols() == pool.cols(); }
};

/// The rows whose label is below `classes`.
inline index_list rows_below(const label_list& labels, int classes) {
  index_list rows;
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (labels[i] < classes) rows.push_back(std::int64_t(i));
  return rows;
}

}  // namespace example
