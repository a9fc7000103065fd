#include "craft/adapters/lbfgs.hpp"

#include <cmath>

#include "../../catch.hpp"
#include "../shift.hpp"

using craft_test::shift;

namespace {

int minimise(craft::loss_function<>& f, double* x, double& value, int line_search = LBFGS_LINESEARCH_DEFAULT) {
  lbfgs_parameter_t parameters;
  lbfgs_parameter_init(&parameters);
  parameters.linesearch = line_search;
  parameters.max_iterations = 200;
  return lbfgs(int(f.size()), x, &value, craft::lbfgs_evaluate, nullptr, &f, &parameters);
}

}  // namespace

TEST_CASE("liblbfgs' callback has the verb's value and gradient", "[lbfgs]") {
  shift s;
  const lbfgs_evaluate_t callback = craft::lbfgs_evaluate;
  shift::matrix gradient(s.n, s.d);
  CHECK(callback(&s.f, s.x.data(), gradient.data(), 36, 0) == s.value_at(s.x.data()));
  CHECK(gradient == s.gradient_at(s.x.data()));
}

TEST_CASE("liblbfgs minimises", "[lbfgs]") {
  shift s;
  const int line_search = GENERATE(+LBFGS_LINESEARCH_MORETHUENTE, +LBFGS_LINESEARCH_BACKTRACKING_WOLFE);
  shift::matrix x = s.x;
  double value = 0;
  CHECK(minimise(s.f, x.data(), value, line_search) == LBFGS_SUCCESS);
  CHECK(value < 0.02 * s.value_at(s.x.data()));
  CHECK(value == Approx(s.value_at(x.data())));
}

TEST_CASE("errors of the loss do not pass through liblbfgs", "[lbfgs]") {
  shift s;
  shift::matrix x = s.x;
  double value = 0;
  s.throws = true;
  SECTION("at the first point") {
    s.fails_after = 0;
    CHECK(minimise(s.f, x.data(), value) == LBFGS_ALREADY_MINIMIZED);
    CHECK(value == HUGE_VAL);
    CHECK(x == s.x);
  }
  SECTION("later") {
    s.fails_after = 5;
    const int line_search = GENERATE(+LBFGS_LINESEARCH_MORETHUENTE, +LBFGS_LINESEARCH_BACKTRACKING_ARMIJO);
    CHECK(minimise(s.f, x.data(), value, line_search) < 0);
    CHECK(s.value_at(x.data()) < s.value_at(s.x.data()));  // what was reached until then
  }
  CHECK_THROWS_WITH(s.f.rethrow(), "the loss has had enough");
}

TEST_CASE("another number of parameters is an error", "[lbfgs]") {
  shift s;
  double value = 0;
  lbfgs(35, s.x.data(), &value, craft::lbfgs_evaluate, nullptr, &s.f, nullptr);
  CHECK_THROWS_WITH(s.f.rethrow(), contains("36 parameters, and the host has 35"));
}

TEST_CASE("backtracking steps back from where there is no value", "[lbfgs]") {
  // x - 4 log x, with its minimum at 4: the second step from 30 leaves the domain.
  int outside = 0;
  craft::loss_function f(1, 1, [&](const auto& x, double& value, const auto& gradient) {
    const double at = x.data()[0];
    outside += at <= 0;
    value = at - 4 * std::log(at);
    if (gradient.wanted()) gradient.to.data()[0] = 1 - 4 / at;
  });
  double x = 30, value = 0;
  CHECK(minimise(f, &x, value, LBFGS_LINESEARCH_BACKTRACKING_ARMIJO) >= 0);
  CHECK(x == Approx(4).epsilon(1e-3));
  CHECK(outside > 0);
}
