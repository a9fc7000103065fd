// The slow, obvious form of MMD^2 and of relative representations: a double loop over all pairs in long double, from a pair
// function's definition in tests/pair_functions.hpp; and what rounding may cost a computation by tiles of dot products.
#pragma once

#include <functional>
#include <type_traits>
#include <vector>

#include "craft/relative.hpp"
#include "devices.hpp"
#include "pair_functions.hpp"

namespace craft_test {

enum class form { biased, unbiased, linear };

/// MMD^2 = sum xx_ij k(x_i, x_j) + sum yy_ij k(y_i, y_j) + sum xy_ij k(x_i, y_j).
struct coefficients {
  matrix<long double> xx, yy, xy;

  /// Sample weights: empty for equal ones.
  coefficients(form f, index_t n, index_t m, const std::vector<double>& wx = {}, const std::vector<double>& wy = {});
};

struct mmd_result {
  double value = not_a_number;
  reals x, y;
  std::vector<double> weights, bandwidths;
  std::vector<double> x_weights{}, y_weights{};  ///< of the sample weights, where a run was given some
};

/// MMD^2 and all its gradients.
mmd_result naive_mmd(const definition& define, const std::vector<double>& weights, const std::vector<double>& bandwidths,
                     const reals& X, const reals& Y, const coefficients& c);
template <class Case>
mmd_result naive_mmd(const Case& k, const reals& X, const reals& Y, const coefficients& c) {
  return naive_mmd(k.define, k.weights, k.bandwidths, X, Y, c);
}

/// A kernel as rounding_of looks at it: the library's own functions in double.
struct probed_kernel {
  bool radial;  ///< a function of the distance
  int weights, bandwidths;
  std::function<craft::pair_partials<double>(double s, double a, double b)> partials;
  /// Derivatives by the weights, then by the bandwidths.
  std::function<void(double s, double a, double b, double* into)> parameters;

  template <class K, class = std::enable_if_t<craft::is_pair_function<K>::value>>
  probed_kernel(const K& kernel)  // NOLINT: any pair function is one
      : radial(K::translation_invariant),
        weights(kernel.weights()),
        bandwidths(kernel.bandwidths()),
        partials([kernel](double s, double a, double b) { return kernel.partials(s, a, b); }),
        parameters([kernel](double s, double a, double b, double* into) {
          kernel.parameters(
              s, a, b, [&](int q, double v) { into[q] = v; },
              [&](int q, double v) { into[kernel.weights() + q] = v; });
        }) {}
};

/// What rounding may cost: of the value, of the norms of the gradients, and of each parameter gradient.
struct rounding {
  double value = 0, x = 0, y = 0;
  std::vector<double> weights, bandwidths;
  rounding operator*(double factor) const {
    rounding out = *this;
    for (double* v : {&out.value, &out.x, &out.y}) *v *= factor;
    for (double& v : out.weights) v *= factor;
    for (double& v : out.bandwidths) v *= factor;
    return out;
  }
};

/// An estimate for sums of dot products in a type of unit roundoff `unit`, from the kernel's own slope.
///
/// Each of s, a, b is a sum of d products: it errs by about sqrt(d) roundings of its size (N. Higham and T. Mary,
/// SIAM J. Sci. Comput. 41 (2019): sqrt(d) instead of d with high probability), a kernel value by a few, and
/// the sum over the pairs by sqrt(number of samples). The kernel is looked at where s, a, b are off by that much, in
/// the two directions that change the distance most. A pair that is one sample twice has D = 0 exactly: it is
/// recognised by index. Errors of all pairs are added up as if they had one sign, which is what leaves room: the
/// CPU engine stays below half of it.
///
/// inputs_rounded: X and Y here are not what is stored, but were rounded to the type on the way.
rounding rounding_of(const probed_kernel& kernel, const reals& X, const reals& Y, const coefficients& c, double unit,
                     bool inputs_rounded = false);

/// relative's out_ic = exp(log_scale) k(x_i, a_c), pair by pair.
reals naive_relative(const definition& define, const std::vector<double>& weights, const std::vector<double>& bandwidths,
                     const reals& X, const reals& A, const craft::relative_options& options);
template <class Case>
reals naive_relative(const Case& k, const reals& X, const reals& A, const craft::relative_options& options) {
  return naive_relative(k.define, k.weights, k.bandwidths, X, A, options);
}

/// What rounding may cost the largest entry of it: the kernel at s, a, b that are off by sqrt(d) roundings of the prepared
/// rows, as above, where preparing (subtract, divide, divide) has cost a few more.
double rounding_of_relative(const probed_kernel& kernel, const reals& X, const reals& A,
                            const craft::relative_options& options, double unit);

/// What a wrong scale M of the distances costs each gradient: sum |w k' D| over all pairs.
double slope_by_scale(const probed_kernel& kernel, const reals& X, const reals& Y, const coefficients& c);

}  // namespace craft_test
