// A loss as the differentiable function that ensmallen's optimisers take (L-BFGS, gradient descent and others):
//
//     craft::ensmallen_function g(f);  // f: a craft::loss_function
//     ens::L_BFGS().Optimize(g, x);    // x: arma::mat, one sample per column
//
// It uses nothing but the matrix's own members (n_rows, n_cols, n_elem, memptr, set_size), and so needs neither
// ensmallen nor Armadillo to compile.
#pragma once

#include "craft/adapters/function.hpp"

namespace craft {

/// EvaluateWithGradient and Evaluate over a loss_function, which it refers to and which must outlive it.
///
/// x: an Armadillo matrix of T (arma::mat for double, arma::fmat for float), one sample per column, cols() x rows(); or
/// a vector of size() numbers. The gradient gets the size of x. Nothing is copied, and everything runs in the caller's
/// thread. Throws shape_error for another size, and what the loss throws, which passes through ensmallen.
///
/// It offers no NumFunctions: the loss of a batch is not a sum over its samples, so that ensmallen's optimisers for
/// separable functions (SGD, Adam) do not take it.
template <class T>
class ensmallen_function {
 public:
  /// Keeps a reference to f.
  explicit ensmallen_function(const loss_function<T>& f) : f_(f) {}

  /// Value, and the gradient overwritten.
  template <class Matrix>
  T EvaluateWithGradient(const Matrix& x, Matrix& gradient) const {
    check(x);
    gradient.set_size(x.n_rows, x.n_cols);
    return f_.value_and_gradient(x.memptr(), gradient.memptr());
  }
  /// The value alone, which costs about a third.
  template <class Matrix>
  T Evaluate(const Matrix& x) const {
    check(x);
    return f_.value(x.memptr());
  }

 private:
  template <class Matrix>
  void check(const Matrix& x) const {
    const index_t rows = index_t(x.n_rows), cols = index_t(x.n_cols);
    f_.check_size(index_t(x.n_elem));
    require<shape_error>(rows == 1 || cols == 1 || cols == f_.rows(), "ensmallen: expected ",
                         detail::shape(f_.cols(), f_.rows()), ", one sample per column, got ",
                         detail::shape(rows, cols));
  }
  const loss_function<T>& f_;
};

}  // namespace craft
