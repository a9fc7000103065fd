// The picture: what permutations give beside what the samples give, and the samples on their first two principal components.
#pragma once

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <set>

#include "../common/svg.hpp"
#include "measure.hpp"

namespace example {

/// Coordinates of the rows on their first two principal components, from the matrix of their inner products: they are few.
inline matrix two_components(matrix rows) {
  rows.rowwise() -= rows.colwise().mean().eval();
  const Eigen::MatrixXd inner = (rows * rows.transpose()).cast<double>();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(inner);  // ascending
  matrix out(rows.rows(), 2);
  for (int k = 0; k < 2; ++k) {
    const Eigen::Index at = rows.rows() - 1 - k;
    out.col(k) = (solver.eigenvectors().col(at) * std::sqrt(std::max(0.0, solver.eigenvalues()[at]))).cast<float>();
  }
  return out;
}

/// At most `most` rows, evenly, and the marked ones.
inline index_list some_rows(Eigen::Index n, Eigen::Index most, const index_list& marked) {
  std::set<std::int64_t> rows(marked.begin(), marked.end());
  const Eigen::Index count = std::min(n, most);
  for (Eigen::Index k = 0; k < count; ++k) rows.insert(k * n / count);
  return {rows.begin(), rows.end()};
}

inline void draw_permutations(svg_page& page, double left, double top, const craft::two_sample_result& test) {
  value_range xs;
  for (const double v : test.permuted) xs.include(v);
  // Where the samples are far off, the permutations would be a single bar.
  const bool far = test.statistic > xs.low + 3 * (xs.high - xs.low);
  if (!far) xs.include(test.statistic);
  xs = xs.widened();
  const std::size_t bins = 60;
  std::vector<double> count(bins);
  for (const double v : test.permuted)
    ++count[std::min(bins - 1, std::size_t((v - xs.low) / (xs.high - xs.low) * double(bins)))];
  const double highest = *std::max_element(count.begin(), count.end());
  svg_panel panel(page, left, top, 420, 300, xs, {0, 1.05 * highest});
  panel.title("unbiased MMD^2: permutations (bars), the samples (line)");
  panel.axes("MMD^2");
  for (std::size_t b = 0; b < bins; ++b) {
    const double from = xs.low + (xs.high - xs.low) * double(b) / double(bins);
    const double to = xs.low + (xs.high - xs.low) * double(b + 1) / double(bins);
    if (count[b] > 0)
      page.raw("<rect x='" + svg_panel::number(panel.x(from)) + "' y='" + svg_panel::number(panel.y(count[b])) +
               "' width='" + svg_panel::number(panel.x(to) - panel.x(from)) + "' height='" +
               svg_panel::number(panel.y(0) - panel.y(count[b])) + "' fill='#9ab'/>");
  }
  if (far)
    page.text(left + 410, top + 24, "the samples: " + svg_panel::number(test.statistic) + " \u2192",
              "text-anchor='end' fill='" + colour(3) + "'");
  else
    panel.curve({test.statistic, test.statistic}, {0, 1.05 * highest}, colour(3));
}

inline void draw_samples(svg_page& page, double left, double top, const matrix& x, const matrix& y,
                         const index_list& x_marked, const index_list& y_marked) {
  const index_list x_rows = some_rows(x.rows(), 300, x_marked), y_rows = some_rows(y.rows(), 300, y_marked);
  matrix shown(Eigen::Index(x_rows.size() + y_rows.size()), x.cols());
  shown << rows_of(x, x_rows), rows_of(y, y_rows);
  const matrix at = two_components(std::move(shown));
  value_range xs, ys;
  for (Eigen::Index i = 0; i < at.rows(); ++i) xs.include(double(at(i, 0))), ys.include(double(at(i, 1)));
  svg_panel panel(page, left, top, 420, 300, xs.widened(), ys.widened());
  panel.title("two principal components; rings: the rows listed");
  panel.axes("first component");
  const auto draw = [&](const index_list& rows, const index_list& marked, Eigen::Index first, std::size_t number) {
    for (std::size_t k = 0; k < rows.size(); ++k) {
      const double px = panel.x(double(at(first + Eigen::Index(k), 0))), py = panel.y(double(at(first + Eigen::Index(k), 1)));
      page.circle(px, py, 2.5, "fill='" + colour(number) + "' fill-opacity='0.6'");
      if (std::find(marked.begin(), marked.end(), rows[k]) != marked.end())
        page.circle(px, py, 6, "fill='none' stroke='" + colour(number) + "' stroke-width='1.5'");
    }
  };
  draw(x_rows, x_marked, 0, 0);
  draw(y_rows, y_marked, Eigen::Index(x_rows.size()), 1);
  for (std::size_t k = 0; k < 2; ++k) {
    page.circle(left + 310 + 60 * double(k), top + 330, 4, "fill='" + colour(k) + "'");
    page.text(left + 318 + 60 * double(k), top + 334, k == 0 ? "source" : "target", "", 12);
  }
}

}  // namespace example
