#include "pair_functions.hpp"

namespace craft_test {

namespace {
namespace formula {
using P = pair_of_samples;
dual gaussian(dual D, dual sigma) { return exp(-D / (2 * sigma * sigma)); }
definition series() {
  return [](const P& p, const parameters& w, const parameters& h) {
    dual k;
    for (std::size_t q = 0; q < h.size(); ++q) k = k + w[q] * gaussian(p.D, h[q]);
    return k;
  };
}
}  // namespace formula

using numbers_in = const std::vector<double>&;
}  // namespace

pair_case<craft::gaussians<>> gaussian_series(std::string name, std::vector<double> sigma,
                                                     std::vector<double> beta) {
  return {std::move(name), formula::series(), [](numbers_in w, numbers_in h) { return craft::gaussians<>(h, w); },
          std::move(beta), std::move(sigma)};
}

distance_cases distance_functions() {
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

product_cases product_functions() {
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
      pair_case<craft::polynomial<>>{"polynomial",
                                     [](const P& p, const parameters&, const parameters& h) {
                                       const dual base = p.s / (h[0] * h[0]) + h[1];
                                       return base * base * base;
                                     },
                                     [](numbers_in, numbers_in h) { return craft::polynomial(h[0], h[1], 3); },
                                     {},
                                     {1.8, 1.0}});
}

composed_cases composed_functions() {
  using formula::P;
  const double r2 = std::sqrt(2.0), r3 = std::sqrt(3.0);
  const auto sum = [](double outer, double inner, double sigma, double c) {
    return pair_case<sum_of_kernels>{
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
    return pair_case<sum_of_products>{
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

}  // namespace craft_test
