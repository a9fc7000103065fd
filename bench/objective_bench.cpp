// The objective: its MMD term alone at a large batch, and all of it at the batches that prompt tuning uses.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D>
void add_case(index_t n, index_t classes, index_t d, int threads, int iterations, bool only_mmd) {
  add<D>(std::string("objective/") + (only_mmd ? "mmd_term" : "all_terms") + sizes(n, classes, d), threads, iterations,
         [=](run<D>& r) {
           using S = typename D::scalar;
           const array<D> images(random_reals(n, d, 1)), texts(random_reals(classes, d, 2)), target(random_reals(n, d, 3, 0.1)),
               anchors(random_reals(classes, d, 4));
           std::vector<index_t> y(n);
           for (index_t i = 0; i < n; ++i) y[i] = i % classes;
           const label_array<D> labels(y);
           array<D> d_images(n, d), d_texts(classes, d), d_target(n, d), d_anchors(classes, d), by_scale(1, 1);
           craft::objective_inputs<S, D::space> in;
           in.images = images.in(), in.class_texts = texts.in(), in.targets = labels.in(), in.target_images = target.in();
           craft::objective_gradients<S, D::space> g;
           g.images = craft::overwrite(d_images.out()), g.target_images = craft::overwrite(d_target.out());
           g.class_texts = craft::overwrite(d_texts.out());
           craft::objective_options options;
           options.log_scale = 0.0;
           const double c = double(classes), b = double(n), cols = double(d);
           // Representations of both domains and their way back; MMD in C dimensions on 2n rows.
           arithmetic a{2 * 2 * b * c * cols * 4 + 12 * b * b * c, 2 * b * b, n, n, classes, 1, 2};
           if (only_mmd) {
             options.text = options.image = options.batch = 0;
           } else {
             in.image_anchors = anchors.in();
             g.image_anchors = craft::overwrite(d_anchors.out());
             g.log_scale = craft::overwrite(by_scale.out());
             a.flops += 2 * 6 * b * c * cols + 6 * b * b * cols;  // batches so small that dot products are kept
             a.exponentials += 2 * 2 * b * c + 2 * b * b;
             a.d = d;
           }
           craft::objective_values<S> values;
           const craft::gaussians<> kernel{0.5, 1, 2};
           r(a, [&] { craft::objective(r.ctx, in, kernel, options, values, g); });
         });
}

}  // namespace

void add_objective(int threads) {
  add_case<cpu_float>(4096, 256, 512, threads, 5, true);
  if (threads > 1) return;
  for (const index_t n : {4, 8, 16, 32, 64, 128}) add_case<cpu_float>(n, 100, 512, 1, 15, false);
}

}  // namespace craft_bench
