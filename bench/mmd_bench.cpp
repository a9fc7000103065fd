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
void add_case(const std::string& what, index_t n, index_t m, index_t d, const how<D>& h, bool gradient,
              const Kernel& kernel, craft::estimator estimator = craft::estimator::biased) {
  add<D>("mmd/" + what + (gradient ? "/gradient" : "/value") + sizes(n, m, d), h, [=](run<D>& r) {
    const index_t sets = r.sets(double(n + m) * double(d) * sizeof(typename D::scalar));
    const inputs<D> x(sets, n, d, 1), y(sets, m, d, 2, 0.1);
    outputs<D> dx(n, d), dy(m, d);
    results<D> value(1, 1);
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
    r(a, [&](index_t set) { craft::mmd(r.ctx, x[set], y[set], kernel, options, value.as_value(), g); });
  });
}

}  // namespace

#ifdef CRAFT_BENCH_CUDA

void add_mmd(const gpu_list& list) {
  const std::vector<gpu_mode> both{gpu_mode::cold, gpu_mode::warm}, launched{gpu_mode::warm, gpu_mode::graph};
  const index_t n = list.rows(16384);
  for (const index_t full : {512, 64, 16}) {
    const index_t d = list.columns(full);
    for_precisions([&](craft::precision p) {
      add_case<gpu_float>("gaussians5", n, n, d, {p, both}, true, five(d));
      add_case<gpu_float>("gaussians5", n, n, d, {p}, false, five(d));
    });
    add_case<gpu_bfloat16>("gaussians5", n, n, d, {craft::precision::bfloat16}, true, five(d));
    if (list.small()) break;  // they all have the same d then
  }
  // More rows than any matrix of pairs would fit for.
  if (!list.small())
    add_case<gpu_float>("gaussians5", 262144, 262144, 256, {craft::precision::tf32}, true, five(256));
  const index_t some = list.rows(4096), wide = list.columns(512), rows = list.rows(65536), d = list.columns(64);
  add_case<gpu_double>("gaussians5", some, some, wide, {}, true, five(wide));
  for (const index_t few : {4, 32, 128})
    if (few == 4 || !list.small())
      add_case<gpu_float>("gaussians5", few, few, wide, {craft::precision::strict, launched}, true, five(wide));
  add_case<gpu_float>("linear", rows, rows, d, {}, true, five(d), craft::estimator::linear);
}

#else

void add_mmd(int threads) {
  for (const index_t d : {16, 64, 512})
    for (const index_t n : {128, 256, 512, 1024, 2048, 4096, 8192})
      add_case<cpu_float>("gaussians5", n, n, d, {threads, n == 8192 ? 3 : 7}, true, five(d));
  for (const index_t d : {16, 64, 512}) add_case<cpu_float>("gaussians5", 4096, 4096, d, {threads, 7}, false, five(d));
  for (const index_t d : {64, 512}) add_case<cpu_double>("gaussians5", 4096, 4096, d, {threads, 5}, true, five(d));
  add_case<cpu_float>("gaussians5", 65536, 65536, 64, {threads, 1}, true, five(64));
  if (threads > 1) return;
  for (const index_t n : {4, 8, 16, 32, 64})
    add_case<cpu_float>("gaussians5", n, n, 512, {threads, 15}, true, five(512));
  add_case<cpu_float>("gaussians5", 4096, 512, 64, {threads, 7}, true, five(64));
  const double s = std::sqrt(128.0);
  const auto at_64 = [&](const char* what, const auto& kernel) {
    add_case<cpu_float>(what, 4096, 4096, 64, {1, 5}, true, kernel);
  };
  at_64("gaussian", craft::gaussian<>(s));
  at_64("gaussians5_no_series", craft::gaussians<>{0.5 * s, 0.8 * s, s, 1.3 * s, 2 * s});
  at_64("laplacian", craft::laplacian<>(s));
  at_64("inverse_multiquadric", craft::inverse_multiquadric<>(s));
  at_64("rational_quadratic", craft::rational_quadratic<>(s, 1.5));
  at_64("energy", craft::energy<>());
  add_case<cpu_float>("unbiased", 4096, 4096, 64, {1, 7}, true, five(64), craft::estimator::unbiased);
  add_case<cpu_float>("linear", 65536, 65536, 64, {1, 7}, true, five(64), craft::estimator::linear);
}

#endif

}  // namespace craft_bench
