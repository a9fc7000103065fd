// A program that is compiled without nvcc and calls every verb on a GPU by the library craft::cuda_library: every type
// and every pair function that cuda/craft_cuda.cu lists. Without a GPU it says so and ends with 2.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <vector>

#include "craft/craft.hpp"
#include "craft/cuda.hpp"

namespace {

using craft::index_t;
constexpr craft::memory device = craft::memory::device;
constexpr index_t n = 12, d = 4, classes = 3;

/// Device memory for rows x columns numbers, all zero.
template <class S>
class matrix {
 public:
  matrix(index_t rows, index_t columns) : rows_(rows), columns_(columns) {
    void* p = nullptr;
    const std::size_t bytes = std::size_t(rows * columns) * sizeof(S);
    craft::engine::cuda_check(cudaMalloc(&p, bytes), "cudaMalloc");
    craft::engine::cuda_check(cudaMemset(p, 0, bytes), "cudaMemset");
    data_ = static_cast<S*>(p);
  }
  ~matrix() { cudaFree(data_); }
  matrix(const matrix&) = delete;
  matrix& operator=(const matrix&) = delete;
  craft::matrix_view<const S, device> in() const { return {data_, rows_, columns_}; }
  craft::matrix_view<S, device> out() const { return {data_, rows_, columns_}; }
  craft::scalar_out<S, device> value() const { return craft::scalar_out<S, device>(data_); }

 private:
  S* data_ = nullptr;
  index_t rows_, columns_;
};

template <class S>
struct inputs {
  using T = craft::compute_t<S>;
  matrix<S> x{n, d}, y{n, d}, anchors{classes, d}, dx{n, d}, dy{n, d}, da{classes, d}, out{n, classes};
  matrix<T> value{1, 1}, scale{1, 1}, bias{1, 1}, weights{1, 8}, bandwidths{1, 8};
  std::vector<index_t> labels = std::vector<index_t>(n, 1);
};

template <class S, class K>
void discrepancy(const craft::cuda& ctx, const inputs<S>& i, const K& kernel) {
  craft::mmd_options options;
  options.bandwidth.rule = craft::bandwidth_rule::median;
  craft::mmd_gradients<S, device> gradients;
  gradients.x = craft::overwrite(i.dx.out());
  gradients.y = craft::accumulate(i.dy.out());
  for (const auto estimator : {craft::estimator::biased, craft::estimator::linear}) {
    options.estimator = estimator;
    craft::mmd(ctx, i.x.in(), i.y.in(), kernel, options, i.value.value(), gradients);
  }
}

template <class S, class K>
void similarity(const craft::cuda& ctx, const inputs<S>& i, const K& kernel) {
  craft::relative_gradients<S, device> gradients;
  gradients.x = craft::overwrite(i.dx.out());
  gradients.anchors = craft::overwrite(i.da.out());
  gradients.log_scale = craft::overwrite(i.scale.out());
  for (const auto statistics : {craft::anchor_statistics::none, craft::anchor_statistics::standardise}) {
    craft::relative_options options;
    options.statistics = statistics;
    craft::relative(ctx, i.x.in(), i.anchors.in(), kernel, options, i.out.out());
    craft::relative_pullback(ctx, i.x.in(), i.anchors.in(), kernel, options, i.out.in(), gradients);
  }
}

template <class S>
void alignment(const craft::cuda& ctx, const inputs<S>& i) {
  const craft::alignment_gradients<S, device> gradients{craft::overwrite(i.dx.out()), craft::overwrite(i.dy.out()),
                                                        craft::overwrite(i.scale.out()), {}};
  craft::alignment_gradients<S, device> by_anchors = gradients, with_bias = gradients;
  by_anchors.y = craft::overwrite(i.da.out());
  with_bias.bias = craft::overwrite(i.bias.out());
  craft::info_nce(ctx, i.x.in(), i.y.in(), {}, i.value.value(), gradients);
  craft::anchor_cross_entropy(ctx, i.x.in(), i.anchors.in(), i.labels, {}, i.value.value(), by_anchors);
  const matrix<typename inputs<S>::T> soft(n, classes);
  craft::anchor_cross_entropy(ctx, i.x.in(), i.anchors.in(), soft.in(), {}, i.value.value(), by_anchors);
  craft::sigmoid_contrastive(ctx, i.x.in(), i.y.in(), {}, i.value.value(), with_bias);
}

template <class S, class K>
void objective(const craft::cuda& ctx, const inputs<S>& i, const K& kernel) {
  craft::objective_inputs<S, device> inputs;
  inputs.images = i.x.in();
  inputs.class_texts = i.anchors.in();
  inputs.image_anchors = i.anchors.in();
  inputs.target_images = i.y.in();
  inputs.targets = i.labels;
  craft::objective_gradients<S, device> gradients;
  gradients.images = craft::overwrite(i.dx.out());
  gradients.class_texts = craft::overwrite(i.da.out());
  gradients.log_scale = craft::overwrite(i.scale.out());
  using values = craft::objective_values<craft::compute_t<S>>;
  static_assert(sizeof(values) == 5 * sizeof(craft::compute_t<S>), "five numbers, and room for eight");
  auto* const at = reinterpret_cast<values*>(i.weights.out().data());
  craft::objective(ctx, inputs, kernel, {}, craft::scalar_out<values, device>(at), gradients);
}

template <class S>
void anchors(const craft::cuda& ctx, const inputs<S>& i) {
  craft::kmeans_options options;
  options.restarts = 1;
  craft::class_means(ctx, i.x.in(), i.labels, {}, i.da.out());
  craft::kmeans(ctx, i.x.in(), options, i.da.out());
  craft::kmeans_per_class(ctx, i.x.in(), i.labels, 1, options, i.da.out());
  craft::medoids(ctx, i.x.in(), i.anchors.in());
  const std::vector<index_t> picks = craft::farthest_point_anchors(ctx, i.x.in(), classes);
  craft::gather(ctx, i.x.in(), picks, i.da.out());
  craft::gather_pullback(ctx, i.da.in(), picks, craft::overwrite(i.dx.out()));
}

/// Calls f with every pair function of kernels.hpp.
template <class F>
void for_each_pair_function(const F& f) {
  f(craft::gaussian<>(1.0));
  f(craft::laplacian<>(1.0));
  f(craft::inverse_multiquadric<>(1.0));
  f(craft::rational_quadratic<>(1.0, 1.0));
  f(craft::negative_distance<>());
  f(craft::dot_product<>());
  f(craft::cosine<>());
  f(craft::gaussians<>({0.5, 1.0, 2.0}));
  f(craft::any_kernel<>({{craft::kernel_family::laplacian, 0.5, 2.0}, {craft::kernel_family::energy}}));
}

template <class S>
void all_verbs(const craft::cuda& ctx) {
  const inputs<S> i;
  for_each_pair_function([&](const auto& kernel) { similarity(ctx, i, kernel); });
  for_each_pair_function([&](const auto& kernel) { discrepancy(ctx, i, kernel); });
  const craft::inverse_multiquadric<> part(1.0, 1e-8);
  discrepancy(ctx, i, part + part + part + part);
  alignment(ctx, i);
  objective(ctx, i, craft::gaussians<>({0.5, 1.0, 2.0}));
  anchors(ctx, i);
  craft::bandwidth rule;
  rule.rule = craft::bandwidth_rule::median;
  craft::bandwidth_scale(ctx, i.x.in(), i.y.in(), rule);
}

}  // namespace

int main() {
  try {
    const craft::cuda ctx;
    all_verbs<double>(ctx);
    all_verbs<float>(ctx);
    all_verbs<__half>(ctx);
    all_verbs<__nv_bfloat16>(ctx);
    std::puts("every verb ran");
    return 0;
  } catch (const craft::device_error& e) {
    std::puts(e.what());
    return 2;
  }
}
