// Class prompts learned from few labelled images: the anchors of a cross-entropy are what liblbfgs moves; the images'
// features are frozen.
#include <craft/adapters/lbfgs.hpp>
#include <craft/alignment.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int classes = 5, shots = 16, d = 16;

// `each` images around each of the classes' centres, with their labels.
matrix images_of(const matrix& centres, int each, std::vector<std::int64_t>& labels) {
  matrix x = 1.2 * matrix::Random(classes * each, d);
  for (int i = 0; i < x.rows(); ++i) {
    x.row(i) += centres.row(i % classes);
    labels.push_back(i % classes);
  }
  return x;
}

// Per cent of images whose nearest prompt, by cosine, is that of their class.
double accuracy(const matrix& x, const matrix& prompts, const std::vector<std::int64_t>& labels) {
  const matrix similar = x * prompts.rowwise().normalized().transpose();
  int right = 0;
  for (Eigen::Index i = 0, best; i < similar.rows(); ++i) {
    similar.row(i).maxCoeff(&best);
    right += best == labels[std::size_t(i)];
  }
  return 100.0 * right / double(x.rows());
}

int main() {
  const matrix centres = matrix::Random(classes, d);
  std::vector<std::int64_t> labels, test_labels;
  const matrix images = images_of(centres, shots, labels), test = images_of(centres, 200, test_labels);
  matrix prompts = centres + matrix::Random(classes, d);  // what the class names say is only half of the truth

  const craft::cpu ctx(1);  // small: one thread
  craft::cross_entropy_options options;
  options.log_scale = std::log(10.0);
  options.label_smoothing = 0.1;
  craft::loss_function f(classes, d, [&](const auto& anchors, double& value, const auto& gradient) {
    craft::alignment_gradients<double> wanted;
    wanted.y = gradient;
    craft::anchor_cross_entropy(ctx, images, anchors, labels, options, value, wanted);
  });

  const double before = f.value(prompts.data()), accuracy_before = accuracy(test, prompts, test_labels);
  double after = 0;
  const int status = lbfgs(int(f.size()), prompts.data(), &after, craft::lbfgs_evaluate, nullptr, &f, nullptr);
  f.rethrow();
  const double accuracy_after = accuracy(test, prompts, test_labels);
  std::printf("cross-entropy %.3f before, %.3f after (status %d)\n", before, after, status);
  std::printf("accuracy on 1000 other images: %.1f %% before, %.1f %% after\n", accuracy_before, accuracy_after);
  return after < before && accuracy_after > accuracy_before ? 0 : 1;
}
