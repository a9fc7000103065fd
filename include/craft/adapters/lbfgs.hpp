// A loss as the callback of liblbfgs:
//
//     int status = lbfgs(int(f.size()), x, &value, craft::lbfgs_evaluate, nullptr, &f, &parameters);
//     f.rethrow();  // f: a craft::loss_function; what the loss threw, if it did
#pragma once

#include <lbfgs.h>

#include <algorithm>
#include <cmath>

#include "craft/adapters/function.hpp"

namespace craft {

/// An lbfgs_evaluate_t. function: a loss_function<lbfgsfloatval_t> (double, as liblbfgs is usually built), which must
/// outlive the call of lbfgs. x and gradient are liblbfgs' own arrays. Everything runs in the thread that called lbfgs.
///
/// Where the loss threw, has another number of parameters than n, or gave numbers that are not finite, liblbfgs sees
/// HUGE_VAL and a gradient of zeros. A backtracking line search then tries a shorter step; that of More and Thuente,
/// which is liblbfgs' default, gives up, and lbfgs returns a negative status. At the first point lbfgs returns
/// LBFGS_ALREADY_MINIMIZED at once, with HUGE_VAL as the value.
inline lbfgsfloatval_t lbfgs_evaluate(void* function, const lbfgsfloatval_t* x, lbfgsfloatval_t* gradient, const int n,
                                      const lbfgsfloatval_t /*step*/) {
  auto& f = *static_cast<loss_function<lbfgsfloatval_t>*>(function);
  lbfgsfloatval_t value = 0;
  if (f.evaluate(n, x, value, gradient)) return value;
  std::fill_n(gradient, n, lbfgsfloatval_t(0));
  return HUGE_VAL;
}

}  // namespace craft
