// A task from the user's own features, for example CLIP's.
#pragma once

#include <cstdio>
#include <map>

#include "../common/features.hpp"
#include "craft/anchors.hpp"
#include "task.hpp"

namespace example {

struct own_files {
  std::string images, texts, labels, targets, target_labels;
};

/// images: n x d. labels: n integers, rows with a negative one are dropped. texts: one row per class, or one per image
/// (a caption); then a class's text is the mean over its captions in the pool. targets: m x d, of another domain.
///
/// Half of each class is the pool that shots are drawn from, half is for testing; the same for the targets.
inline task make_own_task(const own_files& files, int base_classes) {
  const matrix images = unit_rows(read_matrix(files.images)), texts = unit_rows(read_matrix(files.texts));
  const label_list labels = read_labels(files.labels);
  const auto size = [](Eigen::Index n) { return std::to_string(n); };
  if (Eigen::Index(labels.size()) != images.rows())
    throw std::runtime_error(files.labels + ": holds " + size(Eigen::Index(labels.size())) + " labels for " +
                             size(images.rows()) + " images");
  const bool captions = texts.rows() == images.rows();

  std::map<std::int64_t, index_list> members;
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (labels[i] >= 0) members[labels[i]].push_back(std::int64_t(i));
  if (!captions && !members.empty() && members.rbegin()->first >= texts.rows())
    throw std::runtime_error(files.texts + ": holds " + size(texts.rows()) + " rows; expected one per image (" +
                             size(images.rows()) + ") or one per class, and the largest label is " +
                             size(members.rbegin()->first));

  // Classes are numbered anew, in the order of their labels, without those too small to be split.
  task t;
  t.name = files.images;
  std::map<std::int64_t, std::int64_t> number;
  index_list pool_rows, test_rows;
  for (const auto& [label, rows] : members) {
    if (rows.size() < 4) {
      std::fprintf(stderr, "class %lld has only %zu images and is left out\n", static_cast<long long>(label),
                   rows.size());
      continue;
    }
    const std::int64_t c = std::int64_t(number.size());
    number[label] = c;
    t.class_names.push_back("class " + std::to_string(label));
    const index_list order = craft::random_anchors(std::int64_t(rows.size()), std::int64_t(rows.size()), 0);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const bool to_pool = 2 * i < rows.size();
      (to_pool ? pool_rows : test_rows).push_back(rows[std::size_t(order[i])]);
      (to_pool ? t.pool_labels : t.test_labels).push_back(c);
    }
  }
  const int classes = int(number.size());
  t.base_classes = base_classes > 0 ? base_classes : (classes + 1) / 2;
  if (t.base_classes < 2 || t.base_classes > classes)
    throw std::runtime_error(files.labels + ": " + size(classes) +
                             " classes of at least 4 images; need at least 2, and " + "no more base classes than that");
  t.pool = rows_of(images, pool_rows);
  t.test = rows_of(images, test_rows);
  if (captions) {
    t.captions = rows_of(texts, pool_rows);
    t.class_texts.resize(classes, texts.cols());
    craft::class_means(craft::cpu(), t.captions, t.pool_labels, {}, t.class_texts);
  } else {
    index_list kept;
    for (const auto& [label, c] : number) kept.push_back(label);
    t.class_texts = rows_of(texts, kept);
    t.templates = {t.class_texts};
  }

  if (files.targets.empty()) return t;
  const matrix targets = unit_rows(read_matrix(files.targets));
  if (targets.cols() != images.cols())
    throw std::runtime_error(files.targets + ": rows of " + size(targets.cols()) + " numbers, but images have " +
                             size(images.cols()));
  shifted_domain shift{"target", targets, {}, {}};
  if (!files.target_labels.empty()) {
    const label_list target_labels = read_labels(files.target_labels);
    if (Eigen::Index(target_labels.size()) != targets.rows())
      throw std::runtime_error(files.target_labels + ": holds " + size(Eigen::Index(target_labels.size())) +
                               " labels for " + size(targets.rows()) + " targets");
    // Every other row to test on; of the rest, the base classes, as the discrepancy compares like with like.
    index_list adapt, test;
    for (std::size_t i = 0; i < target_labels.size(); ++i) {
      const auto found = number.find(target_labels[i]);
      if (found == number.end()) continue;
      if (i % 2 == 1) {
        test.push_back(std::int64_t(i));
        shift.test_labels.push_back(found->second);
      } else if (found->second < t.base_classes) {
        adapt.push_back(std::int64_t(i));
      }
    }
    shift.unlabelled = rows_of(targets, adapt);
    shift.test = rows_of(targets, test);
  }
  if (shift.unlabelled.rows() < 2)
    throw std::runtime_error(files.targets + ": fewer than two rows of the base classes");
  t.shifts.push_back(std::move(shift));
  return t;
}

}  // namespace example
