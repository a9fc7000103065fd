// The snippets of docs/guide.md and docs/add_a_kernel.md, to the letter, and that they do what the pages say. A test
// (tests/docs/snippets.py) holds every snippet of a page against the sources.
#include <Eigen/Core>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "catch.hpp"
#include "craft/context.hpp"
#include "craft/gradcheck.hpp"
#include "craft/mmd.hpp"

namespace craft {

template <class T = double>
struct cauchy : detail::distance_kernel<cauchy<T>>, detail::no_parameters {
  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const V k = V(T(1)) / (V(T(1)) + D);
    return {k, -(k * k)};
  }
  template <class U>
  cauchy<U> as() const {
    return {};
  }
};

}  // namespace craft

namespace {

template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// MMD^2 by its definition; k: of the squared distance.
template <class T, class K>
double by_definition(const matrix<T>& X, const matrix<T>& Y, const K& k) {
  const auto mean = [&](const matrix<T>& a, const matrix<T>& b) {
    double sum = 0;
    for (int i = 0; i < a.rows(); ++i)
      for (int j = 0; j < b.rows(); ++j) sum += k(double((a.row(i) - b.row(j)).squaredNorm()));
    return sum / double(a.rows() * b.rows());
  };
  return mean(X, X) + mean(Y, Y) - 2 * mean(X, Y);
}

}  // namespace

TEST_CASE("the guide's call: one gradient overwritten, one added to", "[snippets]") {
  const matrix<float> X = matrix<float>::Random(9, 4), Y = matrix<float>::Random(7, 4).array() + 0.5f;
  matrix<float> dX = matrix<float>::Constant(9, 4, 100), dY = matrix<float>::Constant(7, 4, 100);

  craft::cpu ctx;                              // threads, scratch memory
  craft::mmd_gradients<float> d;               // nothing wanted yet
  d.x = craft::overwrite(dX);                  // dX = gradient
  d.y = craft::accumulate(dY);                 // dY += gradient
  float value;
  craft::mmd(ctx, X, Y, craft::gaussians<>{0.5, 1, 2}, craft::mmd_options{}, value, d);

  const auto k = [](double D) { return std::exp(-2 * D) + std::exp(-D / 2) + std::exp(-D / 8); };
  const double expected = by_definition(X, Y, k);
  CHECK(double(value) == Approx(expected).epsilon(1e-5));
  // A common shift of all rows changes nothing, so that the gradients of all rows sum to zero.
  dY.array() -= 100;
  CHECK(dX.norm() > 0.01f);
  CHECK((dX.colwise().sum() + dY.colwise().sum()).norm() < 1e-4f);
}

TEST_CASE("the guide's context: the host's pool, its memory, a look for NaN", "[snippets]") {
  int pooled = 0;
  std::ptrdiff_t held = 0;
  const auto my_pool = [&](craft::index_t count, const craft::cpu::body_function& body) {
    pooled += int(count);
    for (craft::index_t i = 0; i < count; ++i) body(i);
  };
  const auto allocate = [&](std::size_t bytes) {
    held += std::ptrdiff_t(bytes);
    return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  };
  const auto deallocate = [&](void* memory, std::size_t bytes) {
    held -= std::ptrdiff_t(bytes);
    std::free(memory);
  };
  int asked = 0;
  const auto wants_to_stop = [&] { return ++asked < 0; };
  matrix<double> X = matrix<double>::Random(300, 3), Y = X.array() + 0.25;
  double value = 0;
  {
    craft::cpu ctx(4);                           // at most four threads
    ctx.parallel_for(my_pool, 8);                // or the host's own pool: my_pool(count, body) calls body(0) ... body(count - 1)
    ctx.scratch().use(allocate, deallocate);     // memory from the host, 64-byte aligned (256 on a GPU)
    ctx.check_finite(true);                      // look for NaN and infinity first, at the cost of one more read
    ctx.stop(wants_to_stop);                     // asked every few milliseconds: true ends the call by stopped_error

    ctx.tile(16);  // several tiles, for several threads
    craft::mmd(ctx, X, Y, craft::gaussian(1.0), {}, value);
    CHECK(pooled > 0);
    CHECK(held > 0);
    CHECK(asked > 0);
    X(1, 2) = std::numeric_limits<double>::quiet_NaN();
    CHECK_THROWS_AS(craft::mmd(ctx, X, Y, craft::gaussian(1.0), {}, value), craft::data_error);
  }
  CHECK(held == 0);
}

TEST_CASE("the guide's gradient check passes what is right, and nothing else", "[snippets]") {
  Eigen::VectorXd w = Eigen::VectorXd::Random(6), dw = 3 * w.array().square();
  const auto my_loss = [](const Eigen::VectorXd& at) { return at.array().cube().sum(); };
  for (const bool right : {true, false}) {
    if (!right) dw[3] *= 1.001;
    const auto report = craft::gradcheck<double>(
        [&] { return my_loss(w); }, {{"w", w.data(), w.size(), dw.data()}});
    if (!report) std::cerr << report.text();
    CHECK(bool(report) == right);
  }
}

TEST_CASE("the kernel that docs/add_a_kernel.md adds is one", "[snippets]") {
  matrix<double> X = matrix<double>::Random(6, 3), dX(6, 3);
  const matrix<double> Y = matrix<double>::Random(5, 3).array() + 0.5;
  const craft::cpu ctx;
  double value = 0;
  const auto loss = [&] {
    craft::mmd(ctx, X, Y, craft::cauchy<>(), {}, value);
    return value;
  };
  CHECK(loss() == Approx(by_definition(X, Y, [](double D) { return 1 / (1 + D); })));
  craft::mmd(ctx, X, Y, craft::cauchy<>(), {}, value, {craft::overwrite(dX)});
  const auto report = craft::gradcheck<double>(loss, {{"X", X.data(), X.size(), dX.data()}});
  INFO(report.text());
  CHECK(report);
}
