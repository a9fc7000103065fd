// The default task: Fashion-MNIST, corrupted copies of it as shifted domains, and a sentence encoder's class texts.
#pragma once

#include "../common/features.hpp"
#include "corruptions.hpp"
#include "filter_bank.hpp"
#include "task.hpp"

namespace example {

/// templates x classes x d
inline std::vector<matrix> read_templates(const std::string& path) {
  const array a = read_array(path);
  if (a.shape.size() != 3 || a.values.empty())
    throw std::runtime_error(path + ": expected templates x classes x features, got " + shape_text(a.shape));
  std::vector<matrix> out;
  const std::size_t size = std::size_t(a.shape[1] * a.shape[2]);
  for (std::size_t k = 0; k < std::size_t(a.shape[0]); ++k) {
    matrix m(a.shape[1], a.shape[2]);
    std::transform(&a.values[k * size], &a.values[k * size] + size, m.data(), [](double v) { return float(v); });
    out.push_back(unit_rows(std::move(m)));
  }
  return out;
}

inline matrix mean_of(const std::vector<matrix>& templates) {
  matrix sum = templates[0];
  for (std::size_t k = 1; k < templates.size(); ++k) sum += templates[k];
  return sum / float(templates.size());
}

inline task make_fashion_task(const std::string& folder, const std::string& texts, int base_classes, bool smoke) {
  const std::int64_t pool = smoke ? 1500 : 12000, target = smoke ? 500 : 4000, test = smoke ? 500 : 10000;
  task t;
  t.name = "Fashion-MNIST";
  t.class_names = fashion_classes;
  t.base_classes = base_classes;
  t.templates = read_templates(texts);
  t.class_texts = mean_of(t.templates);
  if (t.classes() != int(fashion_classes.size())) throw std::runtime_error(texts + ": expected texts of ten classes");

  // Three sets of different images: shots, unlabelled targets, tests.
  const labelled_images train = read_fashion_mnist(folder, "train", pool + target);
  const labelled_images shots = train.range(0, pool), tests = read_fashion_mnist(folder, "t10k", test);
  labelled_images targets = train.range(pool, pool + target);
  // The discrepancy compares like with like only if both domains show the same classes.
  targets.images = rows_of(targets.images, rows_below(targets.labels, base_classes));

  const filter_bank features(shots.images);
  const auto corruptions = all_corruptions();
  progress bar("features: images", pool + test + std::int64_t(corruptions.size()) * (targets.images.rows() + test));
  t.pool = features(shots.images, bar);
  t.pool_labels = shots.labels;
  t.test = features(tests.images, bar);
  t.test_labels = tests.labels;
  for (std::size_t k = 0; k < corruptions.size(); ++k)
    t.shifts.push_back({corruptions[k].name, features(corrupted(targets.images, corruptions[k], 2 * k), bar),
                        features(corrupted(tests.images, corruptions[k], 2 * k + 1), bar), tests.labels});
  return t;
}

}  // namespace example
