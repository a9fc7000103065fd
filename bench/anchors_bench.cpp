// Anchor selection.
#include "bench.hpp"

namespace craft_bench {
namespace {

// Rows around k centres, as features have classes.
reals clustered(index_t n, index_t d, index_t k) {
  const reals centres = random_reals(k, d, 5);
  reals x = random_reals(n, d, 1);
  for (index_t i = 0; i < n; ++i) x.row(i) += centres.row(i % k);
  return x;
}

template <class D>
void add_kmeans(index_t n, index_t d, index_t k, const how<D>& h) {
  add<D>("anchors/kmeans_10_iterations" + sizes(n, k, d), h, [=](run<D>& r) {
    const inputs<D> x(r.sets(double(n) * double(d) * sizeof(typename D::scalar)), clustered(n, d, k / 2));
    outputs<D> centres(k, d);
    craft::kmeans_options options;
    options.max_iterations = 10;
    for (index_t c = 0; c < k; ++c) options.start.push_back(c * (n / k));
    const index_t used = craft::kmeans(r.ctx, x[0], options, centres.out()).iterations;
    // One more assignment, by the centres found.
    r({2 * double(n) * double(k) * double(d) * double(used + 1), 0, n, k, d, 1, 0},
      [&](index_t set) { craft::kmeans(r.ctx, x[set], options, centres.out()); });
  });
}

template <class D>
void add_seeds(index_t n, index_t d, index_t k, const how<D>& h) {
  add<D>("anchors/kmeans_plus_plus_and_1_iteration" + sizes(n, k, d), h, [=](run<D>& r) {
    const inputs<D> x(r.sets(double(n) * double(d) * sizeof(typename D::scalar)), clustered(n, d, k / 2));
    outputs<D> centres(k, d);
    craft::kmeans_options options;
    options.max_iterations = options.restarts = 1;
    r({2 * double(n) * double(k) * double(d) * 3, 0, n, k, d, 1, 0},
      [&](index_t set) { craft::kmeans(r.ctx, x[set], options, centres.out()); });
  });
}

template <class D>
void add_farthest(index_t n, index_t d, index_t count, const how<D>& h) {
  add<D>("anchors/farthest_point" + sizes(n, count, d), h, [=](run<D>& r) {
    const double bytes = double(n) * double(d) * sizeof(typename D::scalar);
    const inputs<D> x(r.sets(bytes), n, d, 1);
    // A difference, a product and a sum; each new anchor reads all rows again, so that memory is what limits.
    r({3 * double(n) * double(count) * double(d), 0, n, count, d, 1, 0, bytes * double(count)},
      [&](index_t set) { benchmark::DoNotOptimize(craft::farthest_point_anchors(r.ctx, x[set], count)); });
  });
}

template <class D>
void add_class_means(index_t n, index_t d, index_t classes, const how<D>& h) {
  add<D>("anchors/class_means" + sizes(n, classes, d), h, [=](run<D>& r) {
    const double bytes = double(n) * double(d) * sizeof(typename D::scalar);
    const inputs<D> x(r.sets(bytes), n, d, 1);
    std::vector<index_t> y(n);
    for (index_t i = 0; i < n; ++i) y[i] = i % classes;
    const label_array<D> labels(y);
    outputs<D> out(classes, d);
    r({double(n) * double(d), 0, n, classes, d, 1, 0, bytes},
      [&](index_t set) { craft::class_means(r.ctx, x[set], labels.in(), craft::class_means_options{}, out.out()); });
  });
}

}  // namespace

#ifdef CRAFT_BENCH_CUDA

void add_anchors(const gpu_list& list) {
  add_kmeans<gpu_float>(list.rows(60000), list.columns(784), list.anchors(256), {});
  add_farthest<gpu_float>(list.rows(20000), list.columns(512), list.anchors(256), {});
  add_seeds<gpu_float>(list.rows(20000), list.columns(512), list.anchors(256), {});
  add_class_means<gpu_float>(list.rows(20000), list.columns(512), list.anchors(100), {});
}

#else

void add_anchors(int threads) {
  add_kmeans<cpu_float>(60000, 784, 256, {threads, 3});
  add_kmeans<cpu_float>(4096, 512, 64, {threads, 5});
  add_seeds<cpu_float>(20000, 512, 256, {threads, 5});
  add_farthest<cpu_float>(20000, 512, 256, {threads, 5});
  add_class_means<cpu_float>(20000, 512, 100, {threads, 9});
}

#endif

}  // namespace craft_bench
