// The list of pair functions that tests run over. Each comes with its definition, written here a second time from the
// formula (docs/math.md) in long double with its own differentiation, so that nothing is shared with the library; with
// its parameters; and with a way to build it from them.
//
// A new pair function: one line in one of the lists below.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <tuple>
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
// Two kernels as a newcomer would write them: plain structs with what kernels.hpp asks for, nothing of its insides.

/// (gamma s + offset)^degree; bandwidth 0 is gamma, 1 the offset.
template <class T>
struct polynomial {
  static constexpr bool translation_invariant = false;
  T gamma, offset;
  int degree;

  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V, V) const {
    return power(s * V(gamma) + V(offset), degree);
  }
  template <class V>
  CRAFT_HOST_DEVICE craft::pair_partials<V> partials(V s, V, V) const {
    const V base = s * V(gamma) + V(offset);
    return {power(base, degree), power(base, degree - 1) * V(T(degree) * gamma), V(T(0)), V(T(0))};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 2; }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V, V, W&&, B&& bandwidth) const {
    const V slope = power(s * V(gamma) + V(offset), degree - 1) * V(T(degree));
    bandwidth(0, slope * s);
    bandwidth(1, slope);
  }
  template <class U>
  polynomial<U> as() const {
    return {U(gamma), U(offset), degree};
  }
  void check() const { craft::require<craft::option_error>(degree >= 1, "polynomial: degree ", degree); }

 private:
  template <class V>
  CRAFT_HOST_DEVICE static V power(V base, int n) {
    V out(T(1));
    for (int p = 0; p < n; ++p) out = out * base;
    return out;
  }
};

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

namespace formula {
using P = pair_of_samples;
inline dual gaussian(dual D, dual sigma) { return exp(-D / (2 * sigma * sigma)); }
inline definition series() {
  return [](const P& p, const parameters& w, const parameters& h) {
    dual k;
    for (std::size_t q = 0; q < h.size(); ++q) k = k + w[q] * gaussian(p.D, h[q]);
    return k;
  };
}
}  // namespace formula

using numbers_in = const std::vector<double>&;

inline pair_case<craft::gaussians<>> gaussian_series(std::string name, std::vector<double> sigma,
                                                     std::vector<double> beta) {
  return {std::move(name), formula::series(), [](numbers_in w, numbers_in h) { return craft::gaussians<>(h, w); },
          std::move(beta), std::move(sigma)};
}

/// Functions of the distance, one parameter family each.
inline auto distance_functions() {
  using formula::P;
  const auto gaussian = [](double sigma) {
    return pair_case<craft::gaussian<>>{
        "gaussian",
        [](const P& p, const parameters&, const parameters& h) { return formula::gaussian(p.D, h[0]); },
        [](numbers_in, numbers_in h) { return craft::gaussian(h[0]); },
        {},
        {sigma}};
  };
  const auto laplacian = [](std::string name, double sigma, double floor) {
    return pair_case<craft::laplacian<>>{
        std::move(name),
        [floor](const P& p, const parameters&, const parameters& h) { return exp(-sqrt(at_least(p.D, floor)) / h[0]); },
        [floor](numbers_in, numbers_in h) { return craft::laplacian(h[0], floor); },
        {},
        {sigma},
        false};
  };
  const auto multiquadric = [](std::string name, double c, double eps) {
    return pair_case<craft::inverse_multiquadric<>>{
        std::move(name),
        [eps](const P& p, const parameters&, const parameters& h) { return h[0] * h[0] / (h[0] * h[0] + p.D + eps); },
        [eps](numbers_in, numbers_in h) { return craft::inverse_multiquadric(h[0], eps); },
        {},
        {c}};
  };
  const auto quadratic = [](double length, double alpha) {
    return pair_case<craft::rational_quadratic<>>{
        "rational quadratic",
        [](const P& p, const parameters&, const parameters& h) {
          return pow(1 + p.D / (2 * h[1] * h[0] * h[0]), -h[1]);
        },
        [](numbers_in, numbers_in h) { return craft::rational_quadratic(h[0], h[1]); },
        {},
        {length, alpha}};
  };
  const auto energy = [](std::string name, double floor) {
    return pair_case<craft::energy<>>{
        std::move(name),
        [floor](const P& p, const parameters&, const parameters&) { return -sqrt(at_least(p.D, floor)); },
        [floor](numbers_in, numbers_in) { return craft::energy<>(floor); },
        {},
        {},
        false};
  };
  return std::make_tuple(gaussian(0.8), laplacian("laplacian", 1.3, 0), laplacian("laplacian, floor", 0.7, 0.5),
                         multiquadric("inverse multiquadric", 0.9, 0),
                         multiquadric("inverse multiquadric, eps", 1.2, 0.25), quadratic(1.1, 0.7), energy("energy", 0),
                         energy("energy, floor", 0.5));
}

/// Functions that look at more than the distance.
inline auto product_functions() {
  using formula::P;
  return std::make_tuple(
      pair_case<craft::dot_product<>>{"dot product",
                                      [](const P& p, const parameters&, const parameters&) { return p.s; },
                                      [](numbers_in, numbers_in) { return craft::dot_product<>(); },
                                      {},
                                      {}},
      pair_case<craft::cosine<>>{"cosine",
                                 [](const P& p, const parameters&, const parameters&) {
                                   return p.a.v > 0 && p.b.v > 0 ? p.s / sqrt(p.a * p.b) : dual{};
                                 },
                                 [](numbers_in, numbers_in) { return craft::cosine<>(); },
                                 {},
                                 {}},
      pair_case<polynomial<double>>{
          "polynomial",
          [](const P& p, const parameters&, const parameters& h) { return (h[0] * p.s + h[1]) * (h[0] * p.s + h[1]); },
          [](numbers_in, numbers_in h) {
            return polynomial<double>{h[0], h[1], 2};
          },
          {},
          {0.3, 1.0}});
}

/// Several at once: series of Gaussians, sums, weights; and a caller's own radial kernel.
inline auto composed_functions() {
  using formula::P;
  const double r2 = std::sqrt(2.0), r3 = std::sqrt(3.0);
  const auto sum = [](double outer, double inner, double sigma, double c) {
    using K = decltype(0.5 * (2.0 * craft::gaussian(1.0) + craft::inverse_multiquadric(1.0)) + craft::energy<>());
    return pair_case<K>{
        "w0 (w1 gaussian + inverse multiquadric) + energy",
        [](const P& p, const parameters& w, const parameters& h) {
          return w[0] * (w[1] * formula::gaussian(p.D, h[0]) + h[1] * h[1] / (h[1] * h[1] + p.D)) - sqrt(p.D);
        },
        [](numbers_in w, numbers_in h) {
          return w[0] * (w[1] * craft::gaussian(h[0]) + craft::inverse_multiquadric(h[1])) + craft::energy<>();
        },
        {outer, inner},
        {sigma, c},
        false};
  };
  const auto mixed = [](double w0, double w1) {
    using K = decltype(1.0 * craft::dot_product<>() + 2.0 * craft::cosine<>());
    return pair_case<K>{
        "w0 dot product + w1 cosine",
        [](const P& p, const parameters& w, const parameters&) { return w[0] * p.s + w[1] * p.s / sqrt(p.a * p.b); },
        [](numbers_in w, numbers_in) { return w[0] * craft::dot_product<>() + w[1] * craft::cosine<>(); },
        {w0, w1},
        {}};
  };
  const auto any = [](std::vector<double> weights, std::vector<double> bandwidths) {
    return pair_case<craft::any_kernel<>>{
        "any kernel: all families",
        [](const P& p, const parameters& w, const parameters& h) {
          return w[0] * formula::gaussian(p.D, h[0]) + w[1] * exp(-sqrt(at_least(p.D, 0.25)) / h[1]) +
                 w[2] * h[2] * h[2] / (h[2] * h[2] + p.D) + w[3] * pow(1 + p.D / (2 * h[4] * h[3] * h[3]), -h[4]) -
                 w[4] * sqrt(p.D);
        },
        [](numbers_in w, numbers_in h) {
          using family = craft::kernel_family;
          return craft::any_kernel<>({{family::gaussian, w[0], h[0]},
                                      {family::laplacian, w[1], h[1], 0.25},
                                      {family::inverse_multiquadric, w[2], h[2]},
                                      {family::rational_quadratic, w[3], h[3], h[4]},
                                      {family::energy, w[4]}});
        },
        std::move(weights),
        std::move(bandwidths),
        false};
  };
  const auto matern = [](double length) {
    return pair_case<matern32<double>>{"matern 3/2",
                                       [](const P& p, const parameters&, const parameters& h) {
                                         // (1 + r) e^-r has slope -(3 / 2 l^2) e^-r by D, also at D = 0: dual's square
                                         // root cannot see that.
                                         const long double l = h[0].v, r = std::sqrt(3 * p.D.v) / l, e = std::exp(-r);
                                         return dual{(1 + r) * e, -1.5L / (l * l) * e * p.D.e + r * r * e / l * h[0].e};
                                       },
                                       [](numbers_in, numbers_in h) { return matern32<double>{h[0]}; },
                                       {},
                                       {length}};
  };
  // Not in order of size: parameters keep the caller's order whatever happens inside.
  return std::make_tuple(
      gaussian_series("gaussians, ratio 2", {1, 2 * r2, 0.5, r2, 2, 1 / r2}, {0.3, 1.5, 0.7, 1, 0.4, 0.9}),
      gaussian_series("gaussians, ratio 3", {r3, 1, 3, 1 / r3}, {1, 0.5, 0.25, 2}),
      gaussian_series("gaussians, no ratio", {0.6, 1, 1.7}, {0.2, 0.5, -0.3}),
      gaussian_series("gaussians, one", {0.9}, {1.5}), sum(0.7, 1.6, 1.2, 0.8), mixed(0.4, 2.5), matern(1.4),
      any({0.3, 0.8, 1.2, 0.5, 0.6}, {0.9, 1.3, 0.8, 1.1, 0.7}));
}

/// Calls f(pair_case) for each case of a list.
template <class List, class F>
void for_each_of(const List& list, F&& f) {
  std::apply([&](const auto&... c) { (f(c), ...); }, list);
}
template <class F>
void for_each_pair_function(F&& f) {
  for_each_of(distance_functions(), f);
  for_each_of(product_functions(), f);
  for_each_of(composed_functions(), f);
}

}  // namespace craft_test
