#include "craft/adapters/nlopt.hpp"

#include <nlopt.hpp>

#include <cmath>
#include <new>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "../../catch.hpp"
#include "../shift.hpp"

using craft_test::shift;

namespace {

std::vector<double> flat(const shift::matrix& x) { return {x.data(), x.data() + x.size()}; }

// The C interface's optimiser, for as long as a test needs it.
struct c_optimiser {
  explicit c_optimiser(nlopt_algorithm algorithm, unsigned n) : opt(nlopt_create(algorithm, n)) {
    nlopt_set_maxeval(opt, 200);
    nlopt_set_ftol_rel(opt, 1e-8);
  }
  c_optimiser(const c_optimiser&) = delete;
  ~c_optimiser() { nlopt_destroy(opt); }
  nlopt_opt opt;
};

}  // namespace

TEST_CASE("NLopt's objectives have the verb's value and gradient", "[nlopt]") {
  shift s;
  const double expected = s.value_at(s.x.data());
  const shift::matrix gradient_there = s.gradient_at(s.x.data());
  const c_optimiser c(NLOPT_LD_LBFGS, 36);
  craft::nlopt_data data{s.f, c.opt};
  shift::matrix gradient(s.n, s.d);
  CHECK(craft::nlopt_objective(36, s.x.data(), gradient.data(), &data) == expected);
  CHECK(gradient == gradient_there);
  CHECK(craft::nlopt_objective(36, s.x.data(), nullptr, &data) == expected);

  std::vector<double> g(36), none;
  CHECK(craft::nlopt_vector_objective(flat(s.x), g, &s.f) == expected);
  CHECK(g == flat(gradient_there));
  CHECK(craft::nlopt_vector_objective(flat(s.x), none, &s.f) == expected);
  CHECK(none.empty());
  CHECK(s.values == 2);
  CHECK(s.gradients == 2);
}

TEST_CASE("NLopt minimises, by its C++ interface", "[nlopt]") {
  shift s;
  const auto algorithm = GENERATE(nlopt::LD_LBFGS, nlopt::LD_MMA, nlopt::LD_SLSQP);
  nlopt::opt opt(algorithm, 36);
  opt.set_min_objective(craft::nlopt_vector_objective, &s.f);
  opt.set_maxeval(500);
  opt.set_ftol_rel(1e-8);
  std::vector<double> x = flat(s.x);
  double value = 0;
  opt.optimize(x, value);
  INFO(opt.get_algorithm_name());
  CHECK(value < 0.02 * s.value_at(s.x.data()));
  CHECK(value == Approx(s.value_at(x.data())));
}

TEST_CASE("NLopt minimises, by its C interface", "[nlopt]") {
  shift s;
  const c_optimiser c(NLOPT_LD_LBFGS, 36);
  const nlopt_opt opt = c.opt;
  craft::loss_function<>& f = s.f;
  craft::nlopt_data data{f, opt};
  nlopt_set_min_objective(opt, craft::nlopt_objective, &data);
  shift::matrix x = s.x;
  double value = 0;
  CHECK(nlopt_optimize(opt, x.data(), &value) > 0);
  CHECK(value < 0.02 * s.value_at(s.x.data()));
}

TEST_CASE("an algorithm without derivatives costs no gradient", "[nlopt]") {
  shift s;
  nlopt::opt opt(nlopt::LN_NELDERMEAD, 36);
  opt.set_min_objective(craft::nlopt_vector_objective, &s.f);
  opt.set_maxeval(300);
  std::vector<double> x = flat(s.x);
  double value = 0;
  opt.optimize(x, value);
  CHECK(value < s.value_at(s.x.data()));
  CHECK(s.values >= 300);
  CHECK(s.gradients == 0);
}

TEST_CASE("errors of the loss, by NLopt's C++ interface", "[nlopt]") {
  shift s;
  // L-BFGS goes through with its line search before it stops.
  const auto [algorithm, calls] = GENERATE(std::make_pair(nlopt::LD_MMA, 4), std::make_pair(nlopt::LD_LBFGS, 40));
  nlopt::opt opt(algorithm, 36);
  opt.set_min_objective(craft::nlopt_vector_objective, &s.f);
  std::vector<double> x = flat(s.x);
  double value = 0;
  s.throws = true;
  s.fails_after = 3;
  CHECK_THROWS_AS(opt.optimize(x, value), std::runtime_error);
  CHECK(s.values + s.gradients <= calls);
  CHECK_THROWS_AS(s.f.rethrow(), std::domain_error);
}

TEST_CASE("memory that is lacking is told as such", "[nlopt]") {
  craft::loss_function f(1, 2, [](const auto&, double&, const auto&) { throw std::bad_alloc(); });
  nlopt::opt opt(nlopt::LD_LBFGS, 2);
  opt.set_min_objective(craft::nlopt_vector_objective, &f);
  std::vector<double> x{1, 2};
  double value = 0;
  CHECK_THROWS_AS(opt.optimize(x, value), std::bad_alloc);
}

TEST_CASE("errors of the loss, by NLopt's C interface", "[nlopt]") {
  shift s;
  const auto [algorithm, calls, status] =
      GENERATE(std::make_tuple(NLOPT_LD_MMA, 4, NLOPT_FORCED_STOP), std::make_tuple(NLOPT_LD_LBFGS, 40, NLOPT_FAILURE));
  c_optimiser c(algorithm, 36);
  craft::nlopt_data data{s.f, c.opt};
  nlopt_set_min_objective(c.opt, craft::nlopt_objective, &data);
  shift::matrix x = s.x;
  double value = 0;
  s.throws = true;
  s.fails_after = 3;
  CHECK(nlopt_optimize(c.opt, x.data(), &value) == status);
  CHECK(s.values + s.gradients <= calls);
  CHECK_THROWS_WITH(s.f.rethrow(), "the loss has had enough");
}

TEST_CASE("another number of parameters is an error", "[nlopt]") {
  shift s;
  c_optimiser c(NLOPT_LD_MMA, 35);
  craft::nlopt_data data{s.f, c.opt};
  nlopt_set_min_objective(c.opt, craft::nlopt_objective, &data);
  double value = 0;
  CHECK(nlopt_optimize(c.opt, s.x.data(), &value) == NLOPT_FORCED_STOP);
  CHECK_THROWS_WITH(s.f.rethrow(), contains("36 parameters, and the host has 35"));
}

TEST_CASE("NLopt steps back from where there is no value", "[nlopt]") {
  // x - log x, with its minimum at 1: one of the first steps from 30 leaves the domain.
  int outside = 0;
  craft::loss_function f(1, 1, [&](const auto& x, double& value, const auto& gradient) {
    const double at = x.data()[0];
    outside += at <= 0;
    value = at - std::log(at);
    if (gradient.wanted()) gradient.to.data()[0] = 1 - 1 / at;
  });
  nlopt::opt opt(nlopt::LD_LBFGS, 1);
  opt.set_min_objective(craft::nlopt_vector_objective, &f);
  opt.set_xtol_rel(1e-8);
  opt.set_maxeval(300);
  std::vector<double> x{30};
  double value = 0;
  opt.optimize(x, value);
  CHECK(x[0] == Approx(1).epsilon(1e-3));
  CHECK(outside > 0);
}
