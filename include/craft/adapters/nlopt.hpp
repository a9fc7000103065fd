// A loss as NLopt's objective, to be minimised; for its C++ and its C interface:
//
//     opt.set_min_objective(craft::nlopt_vector_objective, &f);      // nlopt::opt; f: a craft::loss_function
//
//     craft::nlopt_data data{f, opt};                                // nlopt_opt
//     nlopt_set_min_objective(opt, craft::nlopt_objective, &data);
//
// NLopt copies neither f nor data: both must outlive the optimiser. x and gradient are NLopt's own arrays. Everything
// runs in the thread that called optimize. Algorithms that want no gradient cost none.
#pragma once

#include <nlopt.h>

#include <cmath>
#include <vector>

#include "craft/adapters/function.hpp"

namespace craft {

/// What the C callback needs: the loss, and the optimiser to stop.
struct nlopt_data {
  loss_function<>& f;  ///< what is minimised
  nlopt_opt opt;       ///< told to stop where f throws
};

/// An nlopt_func. gradient: n numbers, or null. data: an nlopt_data.
///
/// Where the loss threw, or has another number of parameters than n, NLopt is told to stop: nlopt_optimize returns
/// NLOPT_FORCED_STOP (NLOPT_LD_LBFGS goes through with its line search first, and returns NLOPT_FAILURE), and
/// f.rethrow() tells why. Where value or gradient are not finite NLopt sees HUGE_VAL.
inline double nlopt_objective(unsigned n, const double* x, double* gradient, void* data) {
  auto& [f, opt] = *static_cast<nlopt_data*>(data);
  double value = 0;
  if (f.evaluate(n, x, value, gradient)) return value;
  if (f.error()) nlopt_force_stop(opt);
  return HUGE_VAL;
}

/// An nlopt::vfunc. gradient: as long as x, or empty. function: a loss_function<>.
///
/// Where the loss threw, or has another number of parameters than x, nlopt::opt::optimize stops and throws what it can
/// tell apart: std::bad_alloc, or a std::runtime_error that has lost the text. f.rethrow() throws the original. Where
/// value or gradient are not finite NLopt sees HUGE_VAL.
inline double nlopt_vector_objective(const std::vector<double>& x, std::vector<double>& gradient, void* function) {
  auto& f = *static_cast<loss_function<>*>(function);
  double value = 0;
  if (f.evaluate(index_t(x.size()), x.data(), value, gradient.empty() ? nullptr : gradient.data())) return value;
  if (f.error()) std::rethrow_exception(f.error());
  return HUGE_VAL;
}

}  // namespace craft
