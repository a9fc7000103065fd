// What verbs need of the CUDA engine, for those who compile with g++ or clang++ and link this library: every verb in double and
// float, inputs and outputs stored as double, float, half and bfloat16, and the pair functions of kernels.hpp. Somebody's own
// pair function, or a sum that is not listed here, needs craft/cuda.cuh and nvcc.
//
// Nobody calls the functions below: what they call is compiled for others to link.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "craft/craft.hpp"
#include "craft/cuda.cuh"
#include "craft/two_sample.hpp"

namespace craft::engine {
namespace {

template <class S>
struct arguments {
  using T = compute_t<S>;
  matrix_view<const S, memory::device> x, y;
  matrix_view<const T, memory::device> soft;
  output<S, memory::device> dx, dy;
  output<T, memory::device> numbers, targets;
  scalar_out<T, memory::device> value;
  matrix_view<S, memory::device> out;
  labels classes;
  std::vector<index_t> index;
};

template <class S, class K>
void mmd_with(const cuda& ctx, const arguments<S>& a, const K& kernel) {
  mmd_gradients<S, memory::device> g{a.dx, a.dy, a.numbers, a.numbers, a.numbers, a.numbers};
  mmd(ctx, a.x, a.y, kernel, mmd_options{}, a.value, g);
}
template <class S, class K>
void all_with(const cuda& ctx, const arguments<S>& a, const K& kernel) {
  mmd_with(ctx, a, kernel);
  relative(ctx, a.x, a.y, kernel, relative_options{}, a.out);
  relative_pullback(ctx, a.x, a.y, kernel, relative_options{}, a.x,
                    relative_gradients<S, memory::device>{a.dx, a.dy, a.numbers});
  relative_pushforward(ctx, a.x, a.y, kernel, relative_options{}, relative_tangents<S, memory::device>{a.x, a.y, 0.0}, a.out);
}
template <class S>
void kernels(const cuda& ctx, const arguments<S>& a, const gaussians<>& several, const any_kernel<>& any) {
  all_with(ctx, a, gaussian<>(1));
  all_with(ctx, a, laplacian<>(1));
  all_with(ctx, a, inverse_multiquadric<>(1));
  all_with(ctx, a, rational_quadratic<>(1, 1));
  all_with(ctx, a, negative_distance<>());
  all_with(ctx, a, polynomial<>(1, 1, 3));
  all_with(ctx, a, dot_product<>());
  all_with(ctx, a, cosine<>());
  all_with(ctx, a, several);
  all_with(ctx, a, any);
  mmd_with(ctx, a, presets::craft_multiscale().kernel);
}
template <class S>
void losses(const cuda& ctx, const arguments<S>& a, const gaussians<>& kernel) {
  using T = compute_t<S>;
  const alignment_gradients<S, memory::device> g{a.dx, a.dy, a.numbers, a.numbers, a.numbers, a.targets};
  anchor_cross_entropy(ctx, a.x, a.y, a.classes, cross_entropy_options{}, a.value, g);
  anchor_cross_entropy(ctx, a.x, a.y, a.soft, cross_entropy_options{}, a.value, g);
  info_nce(ctx, a.x, a.y, contrastive_options{}, a.value, g);
  sigmoid_contrastive(ctx, a.x, a.y, sigmoid_options{}, a.value, g);
  cosine_embedding(ctx, a.x, a.y, cosine_embedding_options{}, a.value,
                   cosine_embedding_gradients<S, memory::device>{a.dx, a.dy});
  uniformity(ctx, a.x, uniformity_options{}, a.value, uniformity_gradients<S, memory::device>{a.dx});
  const objective_gradients<S, memory::device> all{a.dx, a.dx, a.dx, a.dx, a.dx, a.numbers};
  objective(ctx, objective_inputs<S, memory::device>{a.x, a.x, a.classes, a.x, a.x, a.x}, kernel, objective_options{},
            scalar_out<objective_values<T>, memory::device>(static_cast<objective_values<T>*>(nullptr)), all);
}
template <class S>
void rows_of(const cuda& ctx, const arguments<S>& a, const gaussians<>& kernel) {
  class_means(ctx, a.x, a.classes, class_means_options{}, a.out);
  kmeans(ctx, a.x, kmeans_options{}, a.out);
  kmeans_per_class(ctx, a.x, a.classes, 2, kmeans_options{}, a.out);
  medoids(ctx, a.x, a.y);
  farthest_point_anchors(ctx, a.x, 2);
  craft::gather(ctx, a.x, a.index, a.out);
  gather_pullback(ctx, a.x, a.index, a.dx);
  bandwidth_scale(ctx, a.x, a.y, bandwidth{});
  two_sample_test(ctx, a.x, a.y, kernel);
  kernel_inception_distance(ctx, a.x, a.y);
}

}  // namespace

extern void (*const every_call[4])(const cuda&, const void*, const gaussians<>&, const any_kernel<>&);
template <class S>
void calls(const cuda& ctx, const void* a, const gaussians<>& several, const any_kernel<>& any) {
  const auto& given = *static_cast<const arguments<S>*>(a);
  kernels(ctx, given, several, any);
  losses(ctx, given, several);
  rows_of(ctx, given, several);
}
void (*const every_call[4])(const cuda&, const void*, const gaussians<>&, const any_kernel<>&) = {
    calls<double>, calls<float>, calls<__half>, calls<__nv_bfloat16>};

}  // namespace craft::engine
