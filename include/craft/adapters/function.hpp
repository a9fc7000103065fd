// A loss as a function of one flat array of parameters, with its gradient: what optimisers minimise. The adapters of
// Ceres, NLopt, liblbfgs, dlib, Eigen (LBFGS++) and ensmallen are a few lines each over this class.
//
//     craft::loss_function f(n, d, [&](const auto& x, double& value, const auto& gradient) {
//       craft::mmd(ctx, x, target, kernel, options, value, {gradient});
//     });
//
// Nothing here is copied: x and the gradient are the host's own arrays, seen as rows x cols matrices.
#pragma once

#include <cmath>
#include <exception>
#include <functional>
#include <utility>

#include "craft/view.hpp"

namespace craft {

/// A loss of rows x cols numbers of T (double unless named), samples as rows without padding. A column-major matrix
/// with one sample per column is the same memory. Parameters of several kinds: rows = 1, and views of parts of x.
///
/// The loss is called in the thread of the host's optimiser. It holds a context, so that one loss_function serves one
/// optimiser at a time. Adapters keep a reference to it: it must outlive them.
///
/// A loss over pairs of samples is not a sum over samples: give the optimiser all of them, not a method that draws
/// some at each step (docs/embed/surrogate.md).
template <class T = double>
class loss_function {
 public:
  using scalar_type = T;  ///< of parameters, value and gradient
  /// Sets the value, and writes the gradient where one is wanted: pass it on to a verb as it is, or ask
  /// gradient.wanted().
  using loss = std::function<void(const matrix_view<const T>& x, T& value, const output<T>& gradient)>;

  /// Throws shape_error for sizes that are not positive, option_error for an empty std::function.
  loss_function(index_t rows, index_t cols, loss f) : rows_(rows), cols_(cols), loss_(std::move(f)) {
    require<shape_error>(rows > 0 && cols > 0, "loss_function: expected at least one row and one column, got ",
                         detail::shape(rows, cols));
    require<option_error>(bool(loss_), "loss_function: there is no loss to call");
  }

  index_t rows() const { return rows_; }          ///< samples
  index_t cols() const { return cols_; }          ///< numbers of each
  index_t size() const { return rows_ * cols_; }  ///< parameters in all

  /// x: size() numbers. What the loss throws passes through.
  T value(const T* x) const { return value_and_gradient(x, nullptr); }
  /// The same, and the gradient overwrites `gradient` (size() numbers, not overlapping x) unless that is null.
  T value_and_gradient(const T* x, T* gradient) const {
    T value = 0;
    output<T> out;
    if (gradient != nullptr) out = {{gradient, rows_, cols_}, write::overwrite};
    loss_(matrix_view<const T>(x, rows_, cols_), value, out);
    return value;
  }

  /// For hosts that no exception may pass through: as value_and_gradient, but false where the loss threw, where the
  /// host has another number of parameters than the loss (shape_error), and where value or gradient are not finite.
  /// What was thrown is kept for rethrow().
  bool evaluate(index_t parameters, const T* x, T& value, T* gradient) noexcept {
    try {
      check_size(parameters);
      value = value_and_gradient(x, gradient);
    } catch (...) {
      error_ = std::current_exception();
      return false;
    }
    bool finite = std::isfinite(value);
    for (index_t k = 0; gradient != nullptr && k < size(); ++k) finite &= bool(std::isfinite(gradient[k]));
    return finite;
  }
  /// What a call of evaluate threw last; null if none has since the last rethrow().
  const std::exception_ptr& error() const { return error_; }
  /// Throws error() and forgets it, or does nothing. For after the host has returned.
  void rethrow() {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  /// Throws shape_error unless the host has as many parameters as the loss.
  void check_size(index_t parameters) const {
    require<shape_error>(parameters == size(), "loss_function: the loss is of ", detail::shape(rows_, cols_), " = ",
                         size(), " parameters, and the host has ", parameters);
  }

 private:
  index_t rows_, cols_;
  loss loss_;
  std::exception_ptr error_;
};
template <class Loss>
loss_function(index_t, index_t, Loss) -> loss_function<double>;

}  // namespace craft
