// A loss for Ceres' general minimiser (ceres::GradientProblemSolver):
//
//     ceres::GradientProblem problem(new craft::ceres_function(f));  // f: a craft::loss_function
//     ceres::Solve(options, problem, x.data(), &summary);
//     f.rethrow();                                                   // what the loss threw, if it did
//
// Not for ceres::Problem, which minimises a sum of squares: the losses here are none.
#pragma once

#include <ceres/first_order_function.h>

#include <limits>

#include "craft/adapters/function.hpp"

namespace craft {

/// Refers to a loss_function, which must outlive it (the problem owns this object, not f), and copies nothing: x, cost
/// and gradient are Ceres' own. Runs in the thread that called ceres::Solve.
///
/// Evaluate returns false where the loss threw or gave numbers that are not finite. Ceres then tries a shorter step; if
/// none helps it ends with ceres::FAILURE and leaves x as it was. No exception passes through it.
class ceres_function final : public ceres::FirstOrderFunction {
 public:
  /// Throws shape_error for more parameters than an int counts.
  explicit ceres_function(loss_function<>& f) : f_(f) {
    require<shape_error>(f.size() <= (std::numeric_limits<int>::max)(), "ceres: ", f.size(), " parameters are too many");
  }
  /// gradient: size() numbers, or null.
  bool Evaluate(const double* const x, double* cost, double* gradient) const override {
    return f_.evaluate(f_.size(), x, *cost, gradient);
  }
  /// Of the loss: rows x cols.
  int NumParameters() const override { return int(f_.size()); }

 private:
  loss_function<>& f_;
};

}  // namespace craft
