// The list of pair functions that tests run over. Each comes with its definition, written here a second time from the
// formula (docs/math.md) in long double with its own differentiation, so that nothing is shared with the library; with
// its parameters; and with a way to build it from them.
//
// A new pair function: its type in one of the lists below, its formula in pair_functions.cpp, and its name in the list of
// verbs.hpp, which has it compiled once for all tests.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "craft/kernels.hpp"

namespace craft_test {

// ---------------------------------------------------------------------------------------------------------
// Definitions

/// A number and its derivative by one variable.
struct dual {
  long double v = 0, e = 0;
  dual() = default;
  dual(long double value, long double derivative = 0) : v(value), e(derivative) {}  // NOLINT: a constant
};
inline dual operator+(dual a, dual b) { return {a.v + b.v, a.e + b.e}; }
inline dual operator-(dual a, dual b) { return {a.v - b.v, a.e - b.e}; }
inline dual operator-(dual a) { return {-a.v, -a.e}; }
inline dual operator*(dual a, dual b) { return {a.v * b.v, a.e * b.v + a.v * b.e}; }
inline dual operator/(dual a, dual b) { return {a.v / b.v, (a.e - a.v / b.v * b.e) / b.v}; }
inline dual exp(dual a) { return {std::exp(a.v), std::exp(a.v) * a.e}; }
inline dual log(dual a) { return {std::log(a.v), a.e / a.v}; }
inline dual pow(dual a, dual p) { return exp(p * log(a)); }
/// The library's convention: where a square root meets zero its derivative is 0.
inline dual sqrt(dual a) { return a.v > 0 ? dual{std::sqrt(a.v), a.e / (2 * std::sqrt(a.v))} : dual{}; }
/// The larger; derivative 0 where the floor holds.
inline dual at_least(dual a, long double floor) { return a.v > floor ? a : dual{floor}; }

/// What a definition may look at: D = |x - y|^2 taken from the differences, s = x.y, a = |x|^2, b = |y|^2.
struct pair_of_samples {
  dual D, s, a, b;
};
using parameters = std::vector<dual>;
/// k of a pair, its weights and its bandwidths.
using definition = std::function<dual(const pair_of_samples&, const parameters& weights, const parameters& bandwidths)>;

template <class K>
struct pair_case {
  using kernel_type = K;
  std::string name;
  definition define;
  std::function<K(const std::vector<double>& weights, const std::vector<double>& bandwidths)> make;
  std::vector<double> weights, bandwidths;
  bool smooth = true;  ///< dk/dD stays finite as D goes to 0
  K kernel() const { return make(weights, bandwidths); }
};

// ---------------------------------------------------------------------------------------------------------
// A kernel as a newcomer would write it: a plain struct with what kernels.hpp asks for, nothing of its insides.

/// Matern 3/2: (1 + r) exp(-r), r = sqrt(3 D) / length.
template <class T>
struct matern32 {
  static constexpr bool translation_invariant = true;
  T length;

  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    const V r = distance(s, a, b);
    return (V(T(1)) + r) * craft::math::exp(-r);
  }
  template <class V>
  CRAFT_HOST_DEVICE craft::pair_partials<V> partials(V s, V a, V b) const {
    const V r = distance(s, a, b), e = craft::math::exp(-r);
    const V slope = e * V(T(-1.5) / (length * length));
    return {(V(T(1)) + r) * e, slope * V(T(-2)), slope, slope};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 1; }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&&, B&& bandwidth) const {
    const V r = distance(s, a, b);
    bandwidth(0, r * r * craft::math::exp(-r) * V(T(1) / length));
  }
  template <class U>
  matern32<U> as() const {
    return {U(length)};
  }
  void check() const { craft::require<craft::option_error>(length > 0, "matern32: length ", length); }

 private:
  template <class V>
  CRAFT_HOST_DEVICE V distance(V s, V a, V b) const {
    return craft::math::sqrt(craft::math::max(a + b - (s + s), V(T(0)))) * V(T(1.7320508075688772) / length);
  }
};

// ---------------------------------------------------------------------------------------------------------
// The lists

/// k = sum_q beta_q exp(-D / (2 sigma_q^2)).
pair_case<craft::gaussians<>> gaussian_series(std::string name, std::vector<double> sigma, std::vector<double> beta);

/// A sum and a weighted sum as the lists have them.
using sum_of_kernels =
    decltype(0.5 * (2.0 * craft::gaussian<>(1.0) + craft::inverse_multiquadric<>(1.0)) + craft::energy<>());
using sum_of_products = decltype(1.0 * craft::dot_product<>() + 2.0 * craft::cosine<>());
/// Sums that single tests have: of two kernels that may be wrong; Craft's "multiscale"; the objective's.
using two_gaussians = decltype(craft::gaussian<>(1.0) + craft::gaussian<>(1.0));
using two_multiquadrics = decltype(craft::inverse_multiquadric<>(1.0) + craft::inverse_multiquadric<>(1.0));
using four_multiquadrics = craft::kernel_sum<craft::kernel_sum<two_multiquadrics, craft::inverse_multiquadric<>>,
                                             craft::inverse_multiquadric<>>;
using gaussians_and_multiquadric = decltype(craft::gaussians<>({1.0}) + 0.5 * craft::inverse_multiquadric<>(2.0));

/// Functions of the distance, one parameter family each.
using distance_cases = std::tuple<pair_case<craft::gaussian<>>, pair_case<craft::laplacian<>>, pair_case<craft::laplacian<>>,
                                  pair_case<craft::inverse_multiquadric<>>, pair_case<craft::inverse_multiquadric<>>,
                                  pair_case<craft::rational_quadratic<>>, pair_case<craft::energy<>>,
                                  pair_case<craft::energy<>>>;
distance_cases distance_functions();

/// Functions that look at more than the distance.
using product_cases =
    std::tuple<pair_case<craft::dot_product<>>, pair_case<craft::cosine<>>, pair_case<craft::polynomial<>>>;
product_cases product_functions();

/// Several at once: series of Gaussians, sums, weights; and a caller's own radial kernel.
using composed_cases =
    std::tuple<pair_case<craft::gaussians<>>, pair_case<craft::gaussians<>>, pair_case<craft::gaussians<>>,
               pair_case<craft::gaussians<>>, pair_case<sum_of_kernels>, pair_case<sum_of_products>,
               pair_case<matern32<double>>, pair_case<craft::any_kernel<>>>;
composed_cases composed_functions();

/// F(S, K) for the scalar types S; and for one pair function of every kind, which is what a short run tests on the emulated
/// device: that takes long to compile for each.
#define CRAFT_TEST_PAIR_FUNCTION(F, K) F(double, K) F(float, K)
#define CRAFT_TEST_FEW(F)                                   \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::gaussian<>)            \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::negative_distance<>)   \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::dot_product<>)         \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::cosine<>)              \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::gaussians<>)           \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::sum_of_kernels)

/// Whether this build tests K.
#ifdef CRAFT_TEST_FEW_PAIR_FUNCTIONS
#define CRAFT_TEST_OR_SAME(S, One) || std::is_same_v<K, One>
template <class K>
constexpr bool is_tested = false CRAFT_TEST_FEW(CRAFT_TEST_OR_SAME);
#undef CRAFT_TEST_OR_SAME
#else
template <class K>
constexpr bool is_tested = true;
#endif

/// Calls f(pair_case) for each case of a list that this build tests.
template <class List, class F>
void for_each_of(const List& list, F&& f) {
  const auto one = [&](const auto& c) {
    if constexpr (is_tested<typename std::decay_t<decltype(c)>::kernel_type>) f(c);
  };
  std::apply([&](const auto&... c) { (one(c), ...); }, list);
}
template <class F>
void for_each_pair_function(F&& f) {
  for_each_of(distance_functions(), f);
  for_each_of(product_functions(), f);
  for_each_of(composed_functions(), f);
}

}  // namespace craft_test
