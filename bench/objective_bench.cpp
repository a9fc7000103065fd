// The objective: its MMD term alone at a large batch, and all of it at the batches that prompt tuning uses.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D>
void add_case(index_t n, index_t classes, index_t d, const how<D>& h, bool only_mmd) {
  add<D>(std::string("objective/") + (only_mmd ? "mmd_term" : "all_terms") + sizes(n, classes, d), h,
         [=](run<D>& r) {
           using S = typename D::scalar;
           const index_t sets = r.sets(2 * double(n + classes) * double(d) * sizeof(S));
           const inputs<D> images(sets, n, d, 1), texts(sets, classes, d, 2), target(sets, n, d, 3, 0.1),
               anchors(sets, classes, d, 4);
           std::vector<index_t> y(n);
           for (index_t i = 0; i < n; ++i) y[i] = i % classes;
           const label_array<D> labels(y);
           outputs<D> d_images(n, d), d_texts(classes, d), d_target(n, d), d_anchors(classes, d);
           results<D> by_scale(1, 1);
           craft::objective_gradients<S, D::space> g;
           g.images = craft::overwrite(d_images.out()), g.target_images = craft::overwrite(d_target.out());
           g.class_texts = craft::overwrite(d_texts.out());
           craft::objective_options options;
           options.log_scale = 0.0;
           const double c = double(classes), b = double(n), cols = double(d);
           // Representations of both domains and their way back; MMD in C dimensions on 2n rows.
           arithmetic a{2 * 2 * b * c * cols * 3 + 12 * b * b * c, 2 * b * b, n, n, classes, 1, 2};
           if (only_mmd) {
             options.text = options.image = options.batch = 0;
           } else {
             g.image_anchors = craft::overwrite(d_anchors.out());
             g.log_scale = craft::overwrite(by_scale.out());
             a.flops += 2 * 6 * b * c * cols + 6 * b * b * cols;  // batches so small that dot products are kept
             a.exponentials += 2 * 2 * b * c + 2 * b * b;
             a.d = d;
           }
           objective_terms<D> values;
           const craft::gaussians<> kernel{0.5, 1, 2};
           r(a, [&](index_t set) {
             craft::objective_inputs<S, D::space> in;
             in.images = images[set], in.class_texts = texts[set], in.targets = labels.in();
             in.target_images = target[set];
             if (!only_mmd) in.image_anchors = anchors[set];
             craft::objective(r.ctx, in, kernel, options, values.place(), g);
           });
         });
}

}  // namespace

#ifdef CRAFT_BENCH_CUDA

void add_objective(const gpu_list& list) {
  const std::vector<gpu_mode> all{gpu_mode::cold, gpu_mode::warm, gpu_mode::graph, gpu_mode::graph_cold};
  add_case<gpu_float>(list.rows(4096), list.anchors(256), list.columns(512), {craft::precision::tf32}, true);
  for (const index_t n : {4, 8, 16, 32, 64, 128})
    if (n == 4 || !list.small())
      add_case<gpu_float>(n, list.anchors(100), list.columns(512), {craft::precision::strict, all}, false);
}

#else

void add_objective(int threads) {
  add_case<cpu_float>(4096, 256, 512, {threads, 5}, true);
  if (threads > 1) return;
  for (const index_t n : {4, 8, 16, 32, 64, 128}) add_case<cpu_float>(n, 100, 512, {1, 15}, false);
}

#endif

}  // namespace craft_bench
