// The examples' one matrix type: float, one sample per row.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <vector>

namespace example {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using row_vector = Eigen::Matrix<float, 1, Eigen::Dynamic>;
using label_list = std::vector<std::int64_t>;
using index_list = std::vector<std::int64_t>;

inline matrix rows_of(const matrix& x, const index_list& rows) {
  matrix out(Eigen::Index(rows.size()), x.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) out.row(Eigen::Index(i)) = x.row(rows[i]);
  return out;
}

inline label_list labels_of(const label_list& labels, const index_list& rows) {
  label_list out;
  for (const std::int64_t i : rows) out.push_back(labels[i]);
  return out;
}

/// Rows of length 1, as CLIP's users store them. A zero row stays zero.
inline matrix unit_rows(matrix x) {
  for (Eigen::Index i = 0; i < x.rows(); ++i)
    if (const float norm = x.row(i).norm(); norm > 0) x.row(i) /= norm;
  return x;
}

}  // namespace example
