// The stated error bound of squared distances, |D - exact| <= (d + 4) eps (|x_i - mean|^2 + |y_j - mean|^2), with features
// that share a large mean. One-hot sample weights single a pair out: MMD^2 with k = D is then -2 D.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"

namespace {

using namespace craft_test;

template <class T = double>
struct squared_distance : craft::detail::distance_kernel<squared_distance<T>>, craft::detail::no_parameters {
  template <class V>
  craft::detail::radial<V> at(V D) const {
    return {D, V(T(1))};
  }
  template <class U>
  squared_distance<U> as() const {
    return {};
  }
};

}  // namespace

TEMPLATE_TEST_CASE("squared distances keep their digits under a large common mean", "[distance]", float, double) {
  using T = TestType;
  const craft::index_t n = 7, m = 5;
  for (const craft::index_t d : {3, 64, 300})
    for (const double offset : {0.0, 1e2, 1e4}) {
      std::mt19937_64 random(std::uint64_t(d) + std::uint64_t(offset));
      std::normal_distribution<double> normal;
      matrix<T> x(n, d), y(m, d);
      for (auto* v : {&x, &y})
        for (craft::index_t i = 0; i < v->size(); ++i) v->data()[i] = T(offset + normal(random));
      // The exact numbers are those stored in T.
      matrix<long double> xl = x.template cast<long double>(), yl = y.template cast<long double>();
      const Eigen::Matrix<long double, 1, Eigen::Dynamic> mean =
          (xl.colwise().sum() + yl.colwise().sum()) / static_cast<long double>(n + m);
      craft::cpu ctx;
      double worst = 0, uncentred = 0;
      for (craft::index_t i = 0; i < n; ++i)
        for (craft::index_t j = 0; j < m; ++j) {
          std::vector<double> wx(std::size_t(n), 0.0), wy(std::size_t(m), 0.0);
          wx[std::size_t(i)] = wy[std::size_t(j)] = 1;
          craft::mmd_options options;
          options.x_weights = wx;
          options.y_weights = wy;
          T value;
          craft::mmd(ctx, x, y, squared_distance<>(), options, value);
          const long double exact = (xl.row(i) - yl.row(j)).squaredNorm();
          const long double spread = (xl.row(i) - mean).squaredNorm() + (yl.row(j) - mean).squaredNorm();
          const double bound = double(d + 4) * double(std::numeric_limits<T>::epsilon()) * double(spread);
          worst = std::max(worst, std::abs(double(value) / -2 - double(exact)) / bound);
          // What the same formula without centring gives, to know that the test can fail.
          const T gram = x.row(i).squaredNorm() + y.row(j).squaredNorm() - 2 * x.row(i).dot(y.row(j));
          uncentred = std::max(uncentred, std::abs(double(gram) - double(exact)) / bound);
        }
      INFO("d " << d << " offset " << offset << " worst/bound " << worst << ", without centring " << uncentred);
      CHECK(worst <= 1);
      if (offset >= 1e4) CHECK(uncentred > 10);
    }
}
