// What the tests of MMD share: running it on a device with everything moved there and back, and checking every
// gradient by finite differences.
#pragma once

#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "naive.hpp"

namespace craft_test {

/// Sample weights; empty for equal ones.
struct sample_weights {
  std::vector<double> x, y;
};

constexpr craft::estimator estimator_of(form f) {
  return f == form::biased     ? craft::estimator::biased
         : f == form::unbiased ? craft::estimator::unbiased
                               : craft::estimator::linear;
}
inline const char* name_of(form f) {
  return f == form::biased ? "biased" : f == form::unbiased ? "unbiased" : "linear";
}

inline const std::vector<form> all_forms = {form::biased, form::unbiased, form::linear};

inline craft::mmd_options options_of(form f) {
  craft::mmd_options options;
  options.estimator = estimator_of(f);
  return options;
}

/// Value and all gradients (or the value alone), outputs full of NaN before the call.
template <class D, class K>
mmd_result run_mmd(const typename D::context& ctx, const reals& X, const reals& Y, const K& kernel,
                   craft::mmd_options options = {}, const sample_weights& weights = {}, bool gradients = true) {
  using T = typename D::compute;
  const array<D> x(X), y(Y);
  const array<D, T> wx(weights.x), wy(weights.y);
  if (!weights.x.empty()) options.x_weights = wx.as_numbers();
  if (!weights.y.empty()) options.y_weights = wy.as_numbers();
  array<D, T> value(1, 1), w(1, kernel.weights()), h(1, kernel.bandwidths());
  array<D, T> by_wx(1, X.rows()), by_wy(1, Y.rows());
  array<D> gx(X.rows(), X.cols()), gy(Y.rows(), Y.cols());
  craft::mmd_gradients<typename D::scalar, D::space> wanted;
  if (gradients) {
    wanted.x = craft::overwrite(gx.out());
    wanted.y = craft::overwrite(gy.out());
    if (kernel.weights() > 0) wanted.weights = craft::overwrite(w.out());
    if (kernel.bandwidths() > 0) wanted.bandwidths = craft::overwrite(h.out());
    if (!weights.x.empty() || !weights.y.empty())
      wanted.x_weights = craft::overwrite(by_wx.out()), wanted.y_weights = craft::overwrite(by_wy.out());
  }
  craft::mmd(ctx, x.in(), y.in(), kernel, options, value.as_value(), wanted);
  const auto list = [](const reals& r, bool asked = true) {
    return asked ? std::vector<double>(r.data(), r.data() + r.size()) : std::vector<double>();
  };
  return {value.number(), gx.get(), gy.get(), list(w.get()), list(h.get()),
          list(by_wx.get(), wanted.x_weights.wanted()), list(by_wy.get(), wanted.y_weights.wanted())};
}

/// Every gradient of a kernel that `make` builds from weights and bandwidths, against central differences.
template <class D, class Make>
void check_gradients(const typename D::context& ctx, reals X, reals Y, const Make& make, std::vector<double> w,
                     std::vector<double> h, const craft::mmd_options& options = {}, sample_weights weights = {}) {
  const mmd_result got = run_mmd<D>(ctx, X, Y, make(w, h), options, weights);
  std::vector<craft::gradient_block<double>> blocks = {{"x", X.data(), X.size(), got.x.data()},
                                                       {"y", Y.data(), Y.size(), got.y.data()}};
  if (!w.empty()) blocks.push_back({"weights", w.data(), index_t(w.size()), got.weights.data()});
  if (!h.empty()) blocks.push_back({"bandwidths", h.data(), index_t(h.size()), got.bandwidths.data()});
  if (!weights.x.empty()) blocks.push_back({"x_weights", weights.x.data(), X.rows(), got.x_weights.data()});
  if (!weights.y.empty()) blocks.push_back({"y_weights", weights.y.data(), Y.rows(), got.y_weights.data()});
  check_by_differences<D>([&] { return run_mmd<D>(ctx, X, Y, make(w, h), options, weights, false).value; }, blocks);
  CHECK(got.x.norm() + got.y.norm() > 1e-3);
}

/// The same for a kernel without parameters to differentiate.
template <class D, class K>
void check_gradients(const typename D::context& ctx, const reals& X, const reals& Y, const K& kernel,
                     const craft::mmd_options& options = {}, const sample_weights& weights = {}) {
  const auto make = [&](const std::vector<double>&, const std::vector<double>&) { return kernel; };
  check_gradients<D>(ctx, X, Y, make, {}, {}, options, weights);
}

/// Value and gradients within what rounding may cost.
inline void check_close(const mmd_result& got, const mmd_result& want, const rounding& allowed) {
  CHECK(std::abs(got.value - want.value) <= allowed.value);
  CHECK((got.x - want.x).norm() <= allowed.x);
  CHECK((got.y - want.y).norm() <= allowed.y);
  for (std::size_t q = 0; q < want.weights.size(); ++q)
    CHECK(std::abs(got.weights.at(q) - want.weights[q]) <= allowed.weights[q]);
  for (std::size_t q = 0; q < want.bandwidths.size(); ++q)
    CHECK(std::abs(got.bandwidths.at(q) - want.bandwidths[q]) <= allowed.bandwidths[q]);
}

/// The same numbers, bit for bit.
inline void check_equal(const mmd_result& got, const mmd_result& want) {
  CHECK(got.value == want.value);
  CHECK(got.x == want.x);
  CHECK(got.y == want.y);
  CHECK(got.weights == want.weights);
  CHECK(got.bandwidths == want.bandwidths);
  CHECK(got.x_weights == want.x_weights);
  CHECK(got.y_weights == want.y_weights);
}

/// Two computations of the same thing: twice what one may be off.
template <class D, class Case>
rounding twice(const Case& c, const reals& X, const reals& Y, form f) {
  return rounding_of(c.kernel(), X, Y, coefficients(f, X.rows(), Y.rows()), roundoff<typename D::scalar>) * 2;
}

}  // namespace craft_test
