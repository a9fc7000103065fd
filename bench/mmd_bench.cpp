// MMD: value, and value with both gradients.
#include "bench.hpp"

namespace craft_bench {
namespace {

/// Five bandwidths in ratio sqrt(2) around the usual distance of standard normal rows, which is sqrt(2 d).
craft::gaussians<> five(index_t d) {
  const double s = std::sqrt(2.0 * double(d));
  return {s * 0.5, s * std::sqrt(0.5), s, s * std::sqrt(2.0), s * 2};
}

template <class D, class Kernel>
void add_case(const std::string& what, index_t n, index_t m, index_t d, int threads, int iterations, bool gradient,
              const Kernel& kernel, craft::estimator estimator = craft::estimator::biased) {
  add<D>("mmd/" + what + (gradient ? "/gradient" : "/value") + sizes(n, m, d), threads, iterations, [=](run<D>& r) {
    const array<D> x(random_reals(n, d, 1)), y(random_reals(m, d, 2, 0.1));
    array<D> dx(n, d), dy(m, d), value(1, 1);
    craft::mmd_options options;
    options.estimator = estimator;
    craft::mmd_gradients<typename D::scalar, D::space> g;
    if (gradient) g = {craft::overwrite(dx.out()), craft::overwrite(dy.out()), {}, {}};
    // The upper triangle of (n + m)^2 pairs: one product for the dots, two to pull back.
    const double pairs = 0.5 * double(n + m) * double(n + m);
    arithmetic a{2 * pairs * double(d) * (gradient ? 3 : 1), pairs, n, m, d, 1, gradient ? 2.0 : 0.0};
    if (estimator == craft::estimator::linear) {
      const double used = 2 * double(n);  // pairs
      a = {2 * used * double(d) * (gradient ? 3 : 1), used, 2, 2, d, 1, gradient ? 2.0 : 0.0};
    }
    r(a, [&] { craft::mmd(r.ctx, x.in(), y.in(), kernel, options, value.as_value(), g); });
  });
}

}  // namespace

void add_mmd(int threads) {
  for (const index_t d : {16, 64, 512})
    for (const index_t n : {128, 256, 512, 1024, 2048, 4096, 8192})
      add_case<cpu_float>("gaussians5", n, n, d, threads, n == 8192 ? 3 : 7, true, five(d));
  for (const index_t d : {16, 64, 512}) add_case<cpu_float>("gaussians5", 4096, 4096, d, threads, 7, false, five(d));
  for (const index_t d : {64, 512}) add_case<cpu_double>("gaussians5", 4096, 4096, d, threads, 5, true, five(d));
  add_case<cpu_float>("gaussians5", 65536, 65536, 64, threads, 1, true, five(64));
  if (threads > 1) return;
  for (const index_t n : {4, 8, 16, 32, 64}) add_case<cpu_float>("gaussians5", n, n, 512, threads, 15, true, five(512));
  add_case<cpu_float>("gaussians5", 4096, 512, 64, threads, 7, true, five(64));
  const double s = std::sqrt(128.0);
  const auto at_64 = [&](const char* what, const auto& kernel) {
    add_case<cpu_float>(what, 4096, 4096, 64, 1, 5, true, kernel);
  };
  at_64("gaussian", craft::gaussian<>(s));
  at_64("gaussians5_no_series", craft::gaussians<>{0.5 * s, 0.8 * s, s, 1.3 * s, 2 * s});
  at_64("laplacian", craft::laplacian<>(s));
  at_64("inverse_multiquadric", craft::inverse_multiquadric<>(s));
  at_64("rational_quadratic", craft::rational_quadratic<>(s, 1.5));
  at_64("energy", craft::energy<>());
  add_case<cpu_float>("unbiased", 4096, 4096, 64, 1, 7, true, five(64), craft::estimator::unbiased);
  add_case<cpu_float>("linear", 65536, 65536, 64, 1, 7, true, five(64), craft::estimator::linear);
}

}  // namespace craft_bench
