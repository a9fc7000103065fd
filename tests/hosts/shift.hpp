// What the optimisers' tests minimise, and what they compare with: the MMD between n moving points and m fixed ones.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "craft/adapters/function.hpp"
#include "craft/mmd.hpp"

namespace craft_test {

struct shift {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static constexpr craft::index_t n = 12, m = 15, d = 3;

  craft::cpu ctx{1};
  matrix x = random(n, 1, 0), y = random(m, 100, 1.5);
  int values = 0, gradients = 0;                      ///< calls without and with a gradient
  bool throws = false, not_finite = false;            ///< from now on
  int fails_after = std::numeric_limits<int>::max();  ///< so many calls
  craft::loss_function<> f{n, d, [this](const auto& at, double& value, const auto& gradient) {
                             ++(gradient.wanted() ? gradients : values);
                             if (values + gradients > fails_after) {
                               if (throws) throw std::domain_error("the loss has had enough");
                               if (not_finite) value = std::numeric_limits<double>::quiet_NaN();
                               if (not_finite) return;
                             }
                             craft::mmd(ctx, at, y, craft::gaussian<double>(3), {}, value, {gradient});
                           }};

  shift() = default;
  shift(const shift&) = delete;

  /// The verb by itself.
  double value_at(const double* at) const {
    double value;
    craft::mmd(ctx, craft::view(at, n, d), y, craft::gaussian<double>(3), {}, value);
    return value;
  }
  matrix gradient_at(const double* at) const {
    double value;
    matrix gradient(n, d);
    craft::mmd(ctx, craft::view(at, n, d), y, craft::gaussian<double>(3), {}, value, {craft::overwrite(gradient)});
    return gradient;
  }

 private:
  static matrix random(craft::index_t rows, int seed, double offset) {
    matrix out(rows, d);
    for (craft::index_t k = 0; k < out.size(); ++k) out.data()[k] = std::sin(12.9898 * double(k + seed)) + offset;
    return out;
  }
};

}  // namespace craft_test
