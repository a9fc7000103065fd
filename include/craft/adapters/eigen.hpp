// A loss as the functor that Eigen's users write, and that LBFGS++ (LBFGSSolver, LBFGSBSolver) calls:
//
//     craft::eigen_function fun(f);             // f: a craft::loss_function
//     double value = fun(x, gradient);          // Eigen::VectorXd, or a matrix with one sample per column
//     solver.minimize(fun, x, value);           // LBFGS++
#pragma once

#include <Eigen/Core>

#include "craft/adapters/function.hpp"

namespace craft {

/// double operator()(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) over a loss_function, which it refers to.
///
/// x: a vector of size() numbers, a column-major matrix with one sample per column (cols() x rows()), or a row-major
/// one with one sample per row. The gradient takes the same shape; it is only allocated where its shape was another.
/// Nothing is copied. Runs in the caller's thread. Throws shape_error for another size, and what the loss throws, which
/// passes through LBFGS++.
template <class T>
class eigen_function {
 public:
  /// Keeps a reference to f.
  explicit eigen_function(const loss_function<T>& f) : f_(f) {}

  /// Value, and the gradient overwritten.
  template <class X>
  T operator()(const Eigen::PlainObjectBase<X>& x, Eigen::PlainObjectBase<X>& gradient) const {
    check(x);
    gradient.resize(x.rows(), x.cols());
    return f_.value_and_gradient(x.data(), gradient.data());
  }
  /// The value alone, which costs about a third.
  template <class X>
  T operator()(const Eigen::PlainObjectBase<X>& x) const {
    check(x);
    return f_.value(x.data());
  }

 private:
  template <class X>
  void check(const Eigen::PlainObjectBase<X>& x) const {
    f_.check_size(x.size());
    require<shape_error>(bool(X::IsVectorAtCompileTime) || x.outerSize() == f_.rows(), "eigen: expected ", f_.rows(),
                         " samples, one per ", X::IsRowMajor ? "row" : "column", ", got ",
                         detail::shape(x.rows(), x.cols()));
  }
  const loss_function<T>& f_;
};

}  // namespace craft
