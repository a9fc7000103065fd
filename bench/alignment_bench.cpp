// Alignment losses: value, and value with all gradients.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D>
craft::alignment_gradients<typename D::scalar, D::space> all(array<D>& dx, array<D>& dy, array<D>& by_scale) {
  return {craft::overwrite(dx.out()), craft::overwrite(dy.out()), craft::overwrite(by_scale.out()), {}};
}

// Two sweeps: log-sum-exp, then weights and both gradients; the dot products are computed in both unless they are few. Rows
// and columns each have an exponential of their own, in either sweep.
double dots_with_gradient(index_t n, index_t m) { return n * m <= (1 << 18) ? 1 : 2; }

template <class D>
void add_info_nce(index_t n, index_t d, int threads, int iterations, bool gradient) {
  add<D>(std::string("alignment/info_nce") + (gradient ? "/gradient" : "/value") + sizes(n, n, d), threads, iterations,
         [=](run<D>& r) {
           const array<D> x(random_reals(n, d, 1)), y(random_reals(n, d, 2));
           array<D> dx(n, d), dy(n, d), by_scale(1, 1), value(1, 1);
           craft::contrastive_options options;
           craft::alignment_gradients<typename D::scalar, D::space> g;
           if (gradient) g = all<D>(dx, dy, by_scale);
           const double pairs = double(n) * double(n);
           const double dots = gradient ? dots_with_gradient(n, n) : 1, pulls = gradient ? 2 : 0;
           r({2 * pairs * double(d) * (dots + pulls), pairs * (gradient ? 4 : 2), n, n, d, dots, pulls},
             [&] { craft::info_nce(r.ctx, x.in(), y.in(), options, value.as_value(), g); });
         });
}

template <class D>
void add_cross_entropy(index_t n, index_t classes, index_t d, int threads, int iterations) {
  add<D>("alignment/anchor_cross_entropy/gradient" + sizes(n, classes, d), threads, iterations, [=](run<D>& r) {
    const array<D> x(random_reals(n, d, 1)), anchors(random_reals(classes, d, 2));
    std::vector<index_t> y(n);
    for (index_t i = 0; i < n; ++i) y[i] = i % classes;
    const label_array<D> labels(y);
    array<D> dx(n, d), da(classes, d), by_scale(1, 1), value(1, 1);
    const auto g = all<D>(dx, da, by_scale);
    const double pairs = double(n) * double(classes);
    const double dots = dots_with_gradient(n, classes);
    r({2 * pairs * double(d) * (dots + 2), 2 * pairs, n, classes, d, dots, 2}, [&] {
      craft::anchor_cross_entropy(r.ctx, x.in(), anchors.in(), labels.in(), craft::cross_entropy_options{}, value.as_value(), g);
    });
  });
}

template <class D>
void add_sigmoid(index_t n, index_t d, int threads, int iterations) {
  add<D>("alignment/sigmoid_contrastive/gradient" + sizes(n, n, d), threads, iterations, [=](run<D>& r) {
    const array<D> x(random_reals(n, d, 1)), y(random_reals(n, d, 2));
    array<D> dx(n, d), dy(n, d), by_scale(1, 1), value(1, 1);
    const auto g = all<D>(dx, dy, by_scale);
    const double pairs = double(n) * double(n);
    r({6 * pairs * double(d), pairs, n, n, d, 1, 2},
      [&] { craft::sigmoid_contrastive(r.ctx, x.in(), y.in(), craft::sigmoid_options{}, value.as_value(), g); });
  });
}

}  // namespace

void add_alignment(int threads) {
  for (const index_t n : {128, 512, 2048, 8192}) add_info_nce<cpu_float>(n, 512, threads, n == 8192 ? 3 : 7, true);
  add_info_nce<cpu_float>(4096, 512, threads, 5, false);
  add_cross_entropy<cpu_float>(4096, 256, 512, threads, 7);
  add_sigmoid<cpu_float>(4096, 512, threads, 5);
  if (threads > 1) return;
  add_info_nce<cpu_double>(2048, 512, 1, 5, true);
  add_info_nce<cpu_float>(4096, 64, 1, 7, true);
  for (const index_t n : {4, 8, 16, 32, 64}) add_info_nce<cpu_float>(n, 512, 1, 15, true);
  for (const index_t n : {4, 32, 128}) add_cross_entropy<cpu_float>(n, 100, 512, 1, 15);
}

}  // namespace craft_bench
