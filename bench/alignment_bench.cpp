// Alignment losses: value, and value with all gradients.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D>
craft::alignment_gradients<typename D::scalar, D::space> all(outputs<D>& dx, outputs<D>& dy, results<D>& by_scale) {
  return {craft::overwrite(dx.out()), craft::overwrite(dy.out()), craft::overwrite(by_scale.out()), {}};
}

// Two sweeps: log-sum-exp, then weights and both gradients; the dot products are computed in both unless they are few. Rows
// and columns each have an exponential of their own, in either sweep.
double dots_with_gradient(index_t n, index_t m) { return n * m <= (1 << 18) ? 1 : 2; }

template <class D>
void add_info_nce(index_t n, index_t d, const how<D>& h, bool gradient) {
  add<D>(std::string("alignment/info_nce") + (gradient ? "/gradient" : "/value") + sizes(n, n, d), h,
         [=](run<D>& r) {
           const index_t sets = r.sets(2 * double(n) * double(d) * sizeof(typename D::scalar));
           const inputs<D> x(sets, n, d, 1), y(sets, n, d, 2);
           outputs<D> dx(n, d), dy(n, d);
           results<D> by_scale(1, 1), value(1, 1);
           craft::contrastive_options options;
           craft::alignment_gradients<typename D::scalar, D::space> g;
           if (gradient) g = all<D>(dx, dy, by_scale);
           const double pairs = double(n) * double(n);
           const double dots = gradient ? dots_with_gradient(n, n) : 1, pulls = gradient ? 2 : 0;
           r({2 * pairs * double(d) * (dots + pulls), pairs * (gradient ? 4 : 2), n, n, d, dots, pulls},
             [&](index_t set) { craft::info_nce(r.ctx, x[set], y[set], options, value.as_value(), g); });
         });
}

template <class D>
void add_cross_entropy(index_t n, index_t classes, index_t d, const how<D>& h) {
  add<D>("alignment/anchor_cross_entropy/gradient" + sizes(n, classes, d), h, [=](run<D>& r) {
    const index_t sets = r.sets(double(n + classes) * double(d) * sizeof(typename D::scalar));
    const inputs<D> x(sets, n, d, 1), anchors(sets, classes, d, 2);
    std::vector<index_t> y(n);
    for (index_t i = 0; i < n; ++i) y[i] = i % classes;
    const label_array<D> labels(y);
    outputs<D> dx(n, d), da(classes, d);
    results<D> by_scale(1, 1), value(1, 1);
    const auto g = all<D>(dx, da, by_scale);
    const double pairs = double(n) * double(classes);
    const double dots = dots_with_gradient(n, classes);
    r({2 * pairs * double(d) * (dots + 2), 2 * pairs, n, classes, d, dots, 2}, [&](index_t set) {
      craft::anchor_cross_entropy(r.ctx, x[set], anchors[set], labels.in(), craft::cross_entropy_options{},
                                  value.as_value(), g);
    });
  });
}

template <class D>
void add_sigmoid(index_t n, index_t d, const how<D>& h) {
  add<D>("alignment/sigmoid_contrastive/gradient" + sizes(n, n, d), h, [=](run<D>& r) {
    const index_t sets = r.sets(2 * double(n) * double(d) * sizeof(typename D::scalar));
    const inputs<D> x(sets, n, d, 1), y(sets, n, d, 2);
    outputs<D> dx(n, d), dy(n, d);
    results<D> by_scale(1, 1), value(1, 1);
    const auto g = all<D>(dx, dy, by_scale);
    const double pairs = double(n) * double(n);
    r({6 * pairs * double(d), pairs, n, n, d, 1, 2}, [&](index_t set) {
      craft::sigmoid_contrastive(r.ctx, x[set], y[set], craft::sigmoid_options{}, value.as_value(), g);
    });
  });
}

}  // namespace

#ifdef CRAFT_BENCH_CUDA

void add_alignment(const gpu_list& list) {
  const std::vector<gpu_mode> launched{gpu_mode::warm, gpu_mode::graph};
  const index_t n = list.rows(65536), some = list.rows(8192), d = list.columns(512);
  for_precisions([&](craft::precision p) {
    add_info_nce<gpu_float>(n, list.columns(768), {p}, true);
    if (!list.small()) add_info_nce<gpu_float>(some, d, {p}, true);
  });
  add_info_nce<gpu_bfloat16>(n, list.columns(768), {craft::precision::bfloat16}, true);
  if (!list.small()) {  // in float32 arithmetic that would be six seconds a call
    add_info_nce<gpu_float>(n, 8192, {craft::precision::tf32}, true);
    add_info_nce<gpu_bfloat16>(n, 8192, {craft::precision::bfloat16}, true);
  }
  add_info_nce<gpu_float>(some, d, {craft::precision::tf32}, false);
  for (const index_t few : {4, 32, 128})
    if (few == 4 || !list.small()) add_info_nce<gpu_float>(few, d, {craft::precision::strict, launched}, true);
  add_cross_entropy<gpu_float>(list.rows(4096), list.anchors(256), d, {craft::precision::tf32});
  add_sigmoid<gpu_float>(some, d, {craft::precision::tf32});
}

#else

void add_alignment(int threads) {
  for (const index_t n : {128, 512, 2048, 8192}) add_info_nce<cpu_float>(n, 512, {threads, n == 8192 ? 3 : 7}, true);
  add_info_nce<cpu_float>(4096, 512, {threads, 5}, false);
  add_cross_entropy<cpu_float>(4096, 256, 512, {threads, 7});
  add_sigmoid<cpu_float>(4096, 512, {threads, 5});
  if (threads > 1) return;
  add_info_nce<cpu_double>(2048, 512, {1, 5}, true);
  add_info_nce<cpu_float>(4096, 64, {1, 7}, true);
  for (const index_t n : {4, 8, 16, 32, 64}) add_info_nce<cpu_float>(n, 512, {1, 15}, true);
  for (const index_t n : {4, 32, 128}) add_cross_entropy<cpu_float>(n, 100, 512, {1, 15});
}

#endif

}  // namespace craft_bench
