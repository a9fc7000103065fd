// The function that ensmallen's optimisers take, with Armadillo, and an optimiser that calls it as ensmallen's do.
#include "craft/adapters/ensmallen.hpp"

#include <armadillo>

#include <stdexcept>
#include <type_traits>
#include <utility>

#include "../../catch.hpp"
#include "../shift.hpp"

using craft_test::shift;

namespace {

// ensmallen's documentation, "differentiable functions": f.EvaluateWithGradient(x, g) returns f(x) and stores f'(x) in
// g; where there is only this, Evaluate and Gradient are made of it.
class gradient_descent {
 public:
  template <class Function, class Matrix>
  typename Matrix::elem_type Optimize(Function& f, Matrix& x) {
    using number = typename Matrix::elem_type;
    static_assert(std::is_convertible_v<decltype(std::declval<Function&>().EvaluateWithGradient(
                                            std::declval<const Matrix&>(), std::declval<Matrix&>())),
                                        number>);
    Matrix gradient, slope, before;
    number value = f.EvaluateWithGradient(x, gradient), step = 1;
    for (int k = 0; k < 200 && arma::norm(gradient, "fro") > number(1e-6); ++k) {
      before = x;
      slope = gradient;
      x -= step * gradient;
      value = f.EvaluateWithGradient(x, gradient);
      const Matrix s = x - before, g = gradient - slope;
      step = arma::dot(s, g) > 0 ? arma::dot(s, g) / arma::dot(g, g) : 1;
    }
    return value;
  }
};

arma::mat columns(const shift::matrix& x) { return arma::mat(x.data(), arma::uword(x.cols()), arma::uword(x.rows())); }

}  // namespace

TEST_CASE("ensmallen's function has the verb's value and gradient", "[ensmallen]") {
  shift s;
  const craft::ensmallen_function g(s.f);
  const shift::matrix expected = s.gradient_at(s.x.data());
  const arma::mat x = columns(s.x);  // one sample per column
  REQUIRE(x.n_cols == 12);
  arma::mat gradient;
  CHECK(g.EvaluateWithGradient(x, gradient) == s.value_at(s.x.data()));
  CHECK(arma::approx_equal(gradient, columns(expected), "absdiff", 0));
  CHECK(g.Evaluate(x) == s.value_at(s.x.data()));
  CHECK(s.values == 1);

  const arma::mat vector = arma::vectorise(x);
  CHECK(g.EvaluateWithGradient(vector, gradient) == s.value_at(s.x.data()));
  CHECK(gradient.n_rows == 36);
}

TEST_CASE("ensmallen's function of float", "[ensmallen]") {
  const arma::fmat y(3, 15, arma::fill::ones);
  const craft::cpu ctx(1);
  const craft::loss_function<float> f(12, 3, [&](const auto& x, float& value, const auto& gradient) {
    craft::mmd(ctx, x, craft::view(y.memptr(), 15, 3), craft::gaussian<float>(4), {}, value, {gradient});
  });
  craft::ensmallen_function g(f);
  arma::fmat x(3, 12, arma::fill::zeros);
  const float before = g.Evaluate(x);
  CHECK(gradient_descent().Optimize(g, x) < 0.01f * before);
}

TEST_CASE("an optimiser that calls as ensmallen's do", "[ensmallen]") {
  shift s;
  craft::ensmallen_function g(s.f);
  arma::mat x = columns(s.x);
  const double value = gradient_descent().Optimize(g, x);
  CHECK(value == s.value_at(x.memptr()));
  CHECK(value < 0.02 * s.value_at(s.x.data()));

  x = columns(s.x);
  s.throws = true;
  s.fails_after = s.gradients + 3;
  CHECK_THROWS_AS(gradient_descent().Optimize(g, x), std::domain_error);
}

TEST_CASE("other shapes are refused", "[ensmallen]") {
  shift s;
  const craft::ensmallen_function g(s.f);
  CHECK_THROWS_WITH(g.Evaluate(arma::mat(12, 3)), contains("expected 3 x 12, one sample per column, got 12 x 3"));
  CHECK_THROWS_AS(g.Evaluate(arma::mat(3, 11)), craft::shape_error);
}
