// docs/add_a_loss.md, done: a loss the library does not have, put together from its verbs, with its gradient checked.
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "craft/gradcheck.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"

namespace {

using namespace craft_test;

// [consistency]
/// Consistency of paired features in the space of relative representations:
///
///     L = 1/n sum_i |r(x_i) - r(u_i)|^2,   r = exp(log_scale) cos(., anchors)
///
/// x, u: n x d; anchors: C x d. Gradients to x and u, overwritten.
template <class Context, class T>
void consistency(const Context& ctx, const craft::matrix_view<const T>& x, const craft::matrix_view<const T>& u,
                 const craft::matrix_view<const T>& anchors, const craft::relative_options& options, T& value,
                 const craft::relative_gradients<T>& dx, const craft::relative_gradients<T>& du) {
  const craft::index_t n = x.rows();
  craft::require<craft::shape_error>(u.rows() == n, "consistency: x has ", n, " rows and u has ", u.rows());
  matrix<T> rx(n, anchors.rows()), ru(n, anchors.rows());
  craft::relative(ctx, x, anchors, craft::dot_product<>(), options, rx);
  craft::relative(ctx, u, anchors, craft::dot_product<>(), options, ru);
  const matrix<T> by_rx = T(2) / T(n) * (rx - ru), by_ru = -by_rx;
  craft::relative_pullback(ctx, x, anchors, craft::dot_product<>(), options, by_rx, dx);
  craft::relative_pullback(ctx, u, anchors, craft::dot_product<>(), options, by_ru, du);
  value = (rx - ru).squaredNorm() / T(n);
}
// [consistency]

}  // namespace

TEST_CASE("a loss made of the verbs has the gradient of its value", "[add_a_loss]") {
  matrix<double> x = matrix<double>::Random(9, 5), u = matrix<double>::Random(9, 5), a = matrix<double>::Random(4, 5);
  matrix<double> dx(9, 5), du(9, 5), da = matrix<double>::Zero(4, 5), none(9, 5), ignored(9, 5);
  craft::cpu ctx;
  craft::relative_options options;
  options.log_scale = 0.7;
  double value = 0;
  craft::relative_gradients<double> by_x, by_u;
  by_x.x = craft::overwrite(dx);
  by_x.anchors = craft::accumulate(da);
  by_u.x = craft::overwrite(du);
  by_u.anchors = craft::accumulate(da);
  const auto loss = [&](const auto& gx, const auto& gu) {
    double v = 0;
    consistency<craft::cpu, double>(ctx, craft::view(x), craft::view(u), craft::view(a), options, v, gx, gu);
    return v;
  };
  value = loss(by_x, by_u);
  CHECK(value > 0);
  const auto report = craft::gradcheck<double>([&] { return loss(craft::relative_gradients<double>{}, craft::relative_gradients<double>{}); },
                                               {{"x", x.data(), x.size(), dx.data()},
                                                {"u", u.data(), u.size(), du.data()},
                                                {"anchors", a.data(), a.size(), da.data()}});
  INFO(report.text());
  CHECK(report.verdict == craft::verdict::agrees);
}
