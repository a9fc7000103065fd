// What relative representations are for: encoders trained independently speak different languages, but the cosines of
// their features to the same anchor images agree. A classifier is fitted on the features of one encoder and given those
// of another, without any training in between: first the features themselves, then their relative representations.
//
// L. Moschella et al., "Relative representations enable zero-shot latent space communication", ICLR 2023.

#include <Eigen/Cholesky>
#include <chrono>
#include <filesystem>
#include <iostream>

#include "../common/command_line.hpp"
#include "../common/fashion_mnist.hpp"
#include "../common/parallel.hpp"
#include "../common/pca.hpp"
#include "../common/statistics.hpp"
#include "../common/svg.hpp"
#include "craft/relative.hpp"
#include "encoder.hpp"

namespace example {

constexpr const char* usage = R"(stitch: classifiers on the features of one encoder, used with those of another

  --out DIR     where results go (default: craft-stitch-out)
  --encoders N  how many are trained; every ordered pair is stitched (default 4)
  --epochs N    passes over the images for each encoder (default 5)
  --smoke       a very short run on little data
  --data DIR    Fashion-MNIST's four .gz files (default: where Debian's dataset-fashion-mnist puts them)
)";

/// A linear classifier by ridge regression on the classes' indicators.
class linear_classifier {
 public:
  linear_classifier(const matrix& x, const label_list& labels, int classes) : mean_(x.colwise().mean()) {
    matrix indicators = matrix::Constant(x.rows(), classes, -1.0f / float(classes));
    for (std::size_t i = 0; i < labels.size(); ++i) indicators(Eigen::Index(i), labels[i]) += 1;
    const matrix centred = x.rowwise() - mean_;
    matrix gram = centred.transpose() * centred;
    gram.diagonal().array() += 1e-3f * gram.trace();
    weights_ = gram.llt().solve(centred.transpose() * indicators);
    offset_ = indicators.colwise().mean();
  }

  /// Share of right answers.
  double accuracy(const matrix& x, const label_list& labels) const {
    const matrix scores = ((x.rowwise() - mean_) * weights_).rowwise() + offset_;
    double right = 0;
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      Eigen::Index best;
      scores.row(i).maxCoeff(&best);
      right += best == labels[std::size_t(i)];
    }
    return right / double(x.rows());
  }

 private:
  row_vector mean_, offset_;
  matrix weights_;
};

/// Cosines to the anchors.
matrix relative_to(const matrix& x, const matrix& anchors) {
  matrix r(x.rows(), anchors.rows());
  craft::relative(craft::cpu(1), x, anchors, craft::dot_product<>(), {}, r);
  return r;
}

/// Which training images are the anchors, by what the first encoder makes of them (x) or by their labels.
index_list select_anchors(const std::string& how, const matrix& x, const label_list& labels, int classes, int count,
                          std::uint64_t seed) {
  const craft::cpu ctx(1);  // called from parallel loops
  if (how == "random") return craft::random_anchors(x.rows(), count, seed);
  if (how == "stratified") return craft::stratified_anchors(labels, classes, count / classes, seed);
  if (how == "farthest point") return craft::farthest_point_anchors(ctx, x, count, 0, craft::metric::cosine);
  craft::kmeans_options options;
  options.seed = seed;
  options.restarts = 1;
  options.max_iterations = 30;
  options.spherical = true;
  matrix centres(count, x.cols());
  craft::kmeans(ctx, x, options, centres);
  return craft::medoids(ctx, unit_rows(x), centres);
}

/// Features of two encoders in two dimensions; dots: the first, rings: the second.
void draw_spaces(svg_page& page, double left, double top, const std::string& title, const matrix& a, const matrix& b,
                 const label_list& labels) {
  matrix both(a.rows() + b.rows(), a.cols());
  both << a, b;
  const matrix p = fit_pca(both, 2).project(both);
  value_range xs, ys;
  for (Eigen::Index i = 0; i < p.rows(); ++i) {
    xs.include(p(i, 0));
    ys.include(p(i, 1));
  }
  svg_panel panel(page, left, top, 440, 360, xs.widened(), ys.widened());
  panel.title(title);
  for (Eigen::Index i = 0; i < p.rows(); ++i) {
    const std::string c = colour(std::size_t(labels[std::size_t(i % a.rows())]));
    page.circle(panel.x(p(i, 0)), panel.y(p(i, 1)), 3.2,
                i < a.rows() ? "fill='" + c + "' fill-opacity='0.6'" : "fill='none' stroke='" + c + "'");
  }
}

int run(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  command_line line(argc, argv);
  if (line.flag("--help") || line.flag("-h")) {
    std::cout << usage;
    return 0;
  }
  const bool smoke = line.flag("--smoke");
  const std::string out = line.text("--out", "craft-stitch-out");
  const int count = line.integer("--encoders", smoke ? 2 : 4, 2, 100);
  const int epochs = line.integer("--epochs", smoke ? 2 : 5, 1, 1000);
  const std::string data = line.text("--data", fashion_mnist_folder);
  line.finish();
  std::filesystem::create_directories(out);

  const int classes = int(fashion_classes.size());
  const labelled_images train = read_fashion_mnist(data, "train", smoke ? 1500 : 20000);
  const labelled_images test = read_fashion_mnist(data, "t10k", smoke ? 500 : 10000);
  const labelled_images fit = train.range(0, smoke ? 1000 : 5000);  // for classifiers and anchors

  // Different seeds, and by turns different architectures.
  const encoder_design designs[] = {{256, false}, {128, true}};
  std::vector<encoder> encoders;
  for (int e = 0; e < count; ++e) encoders.emplace_back(designs[e % 2], pixels, std::uint64_t(e + 1));
  std::vector<matrix> fit_features(encoders.size()), test_features(encoders.size());
  {
    progress bar("training " + std::to_string(count) + " encoders", std::int64_t(count) * epochs);
    parallel_for(count, [&](std::int64_t e) {
      encoder& one = encoders[std::size_t(e)];
      one.train(train.images, train.labels, classes, epochs, bar);
      fit_features[std::size_t(e)] = one(fit.images);
      test_features[std::size_t(e)] = one(test.images);
    });
  }

  std::vector<double> own, stitched;
  for (int a = 0; a < count; ++a) {
    const linear_classifier classifier(fit_features[std::size_t(a)], fit.labels, classes);
    for (int b = 0; b < count; ++b)
      (a == b ? own : stitched).push_back(classifier.accuracy(test_features[std::size_t(b)], test.labels));
  }

  const std::vector<std::string> selections{"random", "stratified", "farthest point", "k-means medoids"};
  const std::vector<int> sizes = smoke ? std::vector<int>{10, 50} : std::vector<int>{10, 20, 50, 100, 200, 500};
  struct cell {
    std::vector<double> own, stitched;
  };
  std::vector<std::vector<cell>> cells(selections.size(), std::vector<cell>(sizes.size()));
  {
    progress bar("stitching", std::int64_t(selections.size() * sizes.size()));
    parallel_for(std::int64_t(selections.size() * sizes.size()), [&](std::int64_t i) {
      const std::size_t s = std::size_t(i) / sizes.size(), k = std::size_t(i) % sizes.size();
      for (int a = 0; a < count; ++a) {
        const matrix& of_a = fit_features[std::size_t(a)];
        const index_list anchors = select_anchors(selections[s], of_a, fit.labels, classes, sizes[k], std::uint64_t(a));
        const linear_classifier classifier(relative_to(of_a, rows_of(of_a, anchors)), fit.labels, classes);
        for (int b = 0; b < count; ++b) {
          // Parallel anchors: the same images, seen by the other encoder.
          const matrix parallel = rows_of(fit_features[std::size_t(b)], anchors);
          const double share = classifier.accuracy(relative_to(test_features[std::size_t(b)], parallel), test.labels);
          (a == b ? cells[s][k].own : cells[s][k].stitched).push_back(share);
        }
      }
      bar.step();
    });
  }

  std::ostringstream table;
  char text[160];
  table << "Accuracy on " << test.labels.size() << " test images in per cent, mean ± standard deviation over "
        << own.size() << " encoders or " << stitched.size() << " ordered pairs of them.\n\n";
  table << "                                 own encoder   another encoder\n";
  std::snprintf(text, sizeof text, "absolute features                %s   %s\n", percent(own).c_str(),
                percent(stitched).c_str());
  table << text;
  for (std::size_t s = 0; s < selections.size(); ++s)
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      std::snprintf(text, sizeof text, "relative, %3d %-18s %s   %s\n", sizes[k], selections[s].c_str(),
                    percent(cells[s][k].own).c_str(), percent(cells[s][k].stitched).c_str());
      table << text;
    }
  std::cout << "\n" << table.str();
  std::ofstream(out + "/table.txt") << table.str();

  svg_page page(1000, 860);
  value_range xs, ys;
  xs.include(std::log10(sizes.front()));
  xs.include(std::log10(sizes.back()));
  ys.include(0);
  ys.include(100);
  svg_panel panel(page, 40, 50, 440, 260, xs.widened(), ys);
  panel.title("accuracy with another encoder's features, per cent");
  std::vector<std::pair<double, std::string>> marks;
  for (const int size : sizes) marks.push_back({std::log10(size), std::to_string(size)});
  panel.axes("number of anchors", marks);
  const double absolute = 100 * mean_and_deviation(stitched).mean, ceiling = 100 * mean_and_deviation(own).mean;
  const std::vector<double> ends{xs.widened().low, xs.widened().high};
  panel.curve(ends, {absolute, absolute}, "#555", "stroke-dasharray='6,4'");
  panel.curve(ends, {ceiling, ceiling}, "#bbb", "stroke-dasharray='6,4'");
  for (std::size_t s = 0; s < selections.size(); ++s) {
    std::vector<double> x, y;
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      x.push_back(std::log10(sizes[k]));
      y.push_back(100 * mean_and_deviation(cells[s][k].stitched).mean);
    }
    panel.curve(x, y, colour(s));
  }
  std::vector<std::pair<std::string, std::string>> names{{"#bbb", "absolute, own encoder"},
                                                         {"#555", "absolute, another encoder"}};
  for (std::size_t s = 0; s < selections.size(); ++s) names.push_back({colour(s), "relative, " + selections[s]});
  for (std::size_t i = 0; i < names.size(); ++i) {
    page.line(500, 64 + 20 * double(i), 524, 64 + 20 * double(i), names[i].first, 3);
    page.text(532, 68 + 20 * double(i), names[i].second, "", 12);
  }
  const Eigen::Index shown = std::min<Eigen::Index>(400, test.images.rows());
  const label_list shown_labels(test.labels.begin(), test.labels.begin() + shown);
  const index_list anchors = craft::random_anchors(fit.images.rows(), sizes.back(), 0);
  const matrix a = test_features[0].topRows(shown), b = test_features[1].topRows(shown);
  draw_spaces(page, 40, 400, "absolute features of two encoders (dots, rings)", unit_rows(a), unit_rows(b),
              shown_labels);
  draw_spaces(page, 540, 400, "relative representations of the same images",
              relative_to(a, rows_of(fit_features[0], anchors)), relative_to(b, rows_of(fit_features[1], anchors)),
              shown_labels);
  double x = 40;
  for (std::size_t c = 0; c < fashion_classes.size(); ++c) {
    page.circle(x + 6, 784, 5, "fill='" + colour(c) + "'");
    page.text(x + 15, 788, fashion_classes[c], "", 12);
    x += 30 + 7.5 * double(fashion_classes[c].size());
  }
  page.save(out + "/stitch.svg");
  std::printf("\nWritten to %s: table.txt, stitch.svg   (%.0f s)\n", out.c_str(),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}

}  // namespace example

int main(int argc, char** argv) {
  try {
    return example::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "stitch: " << e.what() << "\n";
    return 1;
  }
}
