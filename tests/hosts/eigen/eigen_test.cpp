// loss_function and the functor of Eigen's users; with a solver that calls it as LBFGS++ does.
#include "craft/adapters/eigen.hpp"

#include <new>
#include <utility>
#include <vector>

#include "../../catch.hpp"
#include "../shift.hpp"
#include "craft/gradcheck.hpp"

using craft_test::shift;
using Eigen::MatrixXd;
using Eigen::VectorXd;

namespace {

VectorXd flat(const shift::matrix& x) { return Eigen::Map<const VectorXd>(x.data(), x.size()); }

// Steepest descent with the step of Barzilai and Borwein. Calls the functor as LBFGSpp::LBFGSSolver::minimize does: by
// a reference that is not const, fx = f(x, gradient), the gradient sized by the solver.
class solver {
 public:
  template <class Function>
  int minimize(Function& f, VectorXd& x, double& fx) {
    VectorXd gradient(x.size());
    fx = f(x, gradient);
    double step = 1;
    for (int k = 0; k < 200; ++k) {
      const VectorXd before = x, slope = gradient;
      x -= step * gradient;
      fx = f(x, gradient);
      const VectorXd s = x - before, g = gradient - slope;
      if (gradient.norm() < 1e-9) return k;
      step = s.dot(g) > 0 ? s.dot(g) / g.squaredNorm() : 1;
    }
    return 200;
  }
};

}  // namespace

TEST_CASE("a loss_function has the verb's value and gradient", "[function]") {
  shift s;
  CHECK(s.f.rows() == s.n);
  CHECK(s.f.cols() == s.d);
  CHECK(s.f.size() == s.n * s.d);

  shift::matrix gradient = shift::matrix::Constant(s.n, s.d, 7);
  CHECK(s.f.value(s.x.data()) == s.value_at(s.x.data()));
  CHECK(s.f.value_and_gradient(s.x.data(), gradient.data()) == s.value_at(s.x.data()));
  CHECK(gradient == s.gradient_at(s.x.data()));
  CHECK(s.f.value_and_gradient(s.x.data(), nullptr) == s.value_at(s.x.data()));
  CHECK(std::make_pair(s.values, s.gradients) == std::make_pair(2, 1));  // no gradient is computed for nobody

  const auto report =
      craft::gradcheck<double>([&] { return s.f.value(s.x.data()); }, {{"x", s.x.data(), s.x.size(), gradient.data()}});
  INFO(report);
  CHECK(bool(report));
}

TEST_CASE("a loss_function of several kinds of parameters, in float", "[function]") {
  // (w, log_scale): value = exp(log_scale) |w|^2
  const craft::loss_function<float> f(1, 4, [](const auto& x, float& value, const auto& gradient) {
    const Eigen::Map<const Eigen::Vector3f> w(x.data());
    const float scale = std::exp(x.data()[3]);
    value = scale * w.squaredNorm();
    if (!gradient.wanted()) return;
    Eigen::Map<Eigen::Vector3f>(gradient.to.data()) = 2 * scale * w;
    gradient.to.data()[3] = value;
  });
  const std::vector<float> x{1, 2, 3, std::log(2.0f)};
  std::vector<float> gradient(4);
  CHECK(f.value_and_gradient(x.data(), gradient.data()) == Approx(28));
  CHECK(gradient[2] == Approx(12));
  CHECK(gradient[3] == Approx(28));
}

TEST_CASE("a loss_function that cannot be is refused", "[function]") {
  const auto none = [](const auto&, double&, const auto&) {};
  CHECK_THROWS_AS(craft::loss_function(0, 3, none), craft::shape_error);
  CHECK_THROWS_AS(craft::loss_function(3, -1, none), craft::shape_error);
  CHECK_THROWS_AS(craft::loss_function<>(3, 3, nullptr), craft::option_error);
}

TEST_CASE("errors pass through value_and_gradient, and are kept by evaluate", "[function]") {
  shift s;
  double value = 0;
  shift::matrix gradient = shift::matrix::Zero(s.n, s.d);
  CHECK(s.f.evaluate(s.f.size(), s.x.data(), value, gradient.data()));
  CHECK(value == s.value_at(s.x.data()));
  CHECK_FALSE(s.f.error());
  CHECK_NOTHROW(s.f.rethrow());

  SECTION("the loss throws") {
    s.fails_after = 1;
    s.throws = true;
    CHECK_THROWS_AS(s.f.value(s.x.data()), std::domain_error);
    CHECK_FALSE(s.f.evaluate(s.f.size(), s.x.data(), value, nullptr));
    CHECK(s.f.error());
    CHECK_THROWS_WITH(s.f.rethrow(), "the loss has had enough");
  }
  SECTION("the host has another number of parameters") {
    CHECK_FALSE(s.f.evaluate(35, s.x.data(), value, nullptr));
    CHECK_THROWS_WITH(s.f.rethrow(), contains("12 x 3 = 36 parameters") && contains("35"));
  }
  SECTION("the gradient overlaps the parameters") {
    CHECK_FALSE(s.f.evaluate(s.f.size(), s.x.data(), value, s.x.data()));
    CHECK_THROWS_AS(s.f.rethrow(), craft::alias_error);
  }
  CHECK_NOTHROW(s.f.rethrow());  // once only
}

TEST_CASE("evaluate is false for numbers that are not finite", "[function]") {
  shift s;
  double value = 0;
  s.fails_after = 0;
  s.not_finite = true;
  CHECK_FALSE(s.f.evaluate(s.f.size(), s.x.data(), value, nullptr));
  CHECK_FALSE(s.f.error());

  craft::loss_function steep(1, 2, [](const auto&, double& v, const auto& gradient) {
    v = 1;
    if (gradient.wanted()) gradient.to.data()[0] = 0, gradient.to.data()[1] = HUGE_VAL;
  });
  const double x[2] = {0, 0};
  double gradient[2];
  CHECK_FALSE(steep.evaluate(2, x, value, gradient));
  CHECK(steep.evaluate(2, x, value, nullptr));
}

TEST_CASE("the functor of Eigen's users", "[eigen]") {
  shift s;
  const craft::eigen_function fun(s.f);
  const double value = s.value_at(s.x.data());
  const shift::matrix gradient = s.gradient_at(s.x.data());

  SECTION("a vector") {
    VectorXd g;
    CHECK(fun(flat(s.x), g) == value);
    CHECK(g == flat(gradient));
    CHECK(fun(flat(s.x)) == value);
    CHECK(s.values == 1);
  }
  SECTION("one sample per column") {
    const MatrixXd x = s.x.transpose();
    MatrixXd g;
    CHECK(fun(x, g) == value);
    CHECK(g == gradient.transpose());
  }
  SECTION("one sample per row") {
    shift::matrix g;
    CHECK(fun(s.x, g) == value);
    CHECK(g == gradient);
  }
  SECTION("a gradient of the right shape stays where it is") {
    VectorXd g(s.f.size());
    const double* at = g.data();
    fun(flat(s.x), g);
    CHECK(g.data() == at);
  }
  SECTION("other shapes are refused") {
    VectorXd g(35);
    CHECK_THROWS_AS(fun(VectorXd(35), g), craft::shape_error);
    MatrixXd samples(s.n, s.d);  // of the right size, and column-major: its columns are no samples
    CHECK_THROWS_WITH(fun(samples), contains("expected 12 samples, one per column, got 12 x 3"));
  }
}

TEST_CASE("a solver that calls as LBFGS++ does", "[eigen]") {
  shift s;
  craft::eigen_function fun(s.f);
  VectorXd x = flat(s.x);
  double value = 0;
  solver().minimize(fun, x, value);
  CHECK(value == s.value_at(x.data()));
  CHECK(value < 0.02 * s.value_at(s.x.data()));

  s.fails_after = s.gradients + 3;
  s.throws = true;
  x = flat(s.x);
  CHECK_THROWS_AS(solver().minimize(fun, x, value), std::domain_error);  // through the solver
}
