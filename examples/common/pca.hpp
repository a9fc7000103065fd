// Principal components.
#pragma once

#include <Eigen/Eigenvalues>

#include "matrix.hpp"

namespace example {

struct principal_components {
  row_vector mean;
  matrix axes;           ///< d x k, unit columns, largest variance first
  row_vector variances;  ///< k

  matrix project(const matrix& x) const { return (x.rowwise() - mean) * axes; }
};

inline principal_components fit_pca(const matrix& x, Eigen::Index k) {
  principal_components p;
  p.mean = x.colwise().mean();
  const matrix centred = x.rowwise() - p.mean;
  const matrix covariance = centred.transpose() * centred / float(std::max<Eigen::Index>(1, x.rows() - 1));
  const Eigen::SelfAdjointEigenSolver<matrix> solver(covariance);  // ascending
  p.axes = solver.eigenvectors().rightCols(k).rowwise().reverse();
  p.variances = solver.eigenvalues().tail(k).reverse().transpose().cwiseMax(0);
  return p;
}

}  // namespace example
