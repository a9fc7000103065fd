// The common instantiations of the engine, for those who compile with g++ or clang++ and link this library: every verb in
// double and float, inputs and outputs stored as double, float, half and bfloat16, and the pair functions of kernels.hpp.
// Somebody's own pair function, or a sum that is not listed here, needs craft/cuda.cuh and nvcc.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "craft/cuda.cuh"
#include "craft/engine/sample_weights.hpp"
#include "craft/kernels.hpp"

namespace craft::engine {

using std::int64_t;

// ---- for every computing type
#define CRAFT_FOR_COMPUTED(T)                                                                                              \
  template void cuda_engine::fill<T>(T*, index_t, T) const;                                                                \
  template void cuda_engine::store_vector<T>(const double*, const destination<T>&, const number&) const;                   \
  template void cuda_engine::write_value<T>(const scalar_out<T, memory::device>&, const double*, double, double) const;    \
  template void cuda_engine::load_weights<T>(const numbers&, index_t, T*, double*);                                        \
  template void cuda_engine::sum<T>(const T*, index_t, double*);                                                           \
  template void cuda_engine::largest<T>(const T*, index_t, double*);                                                       \
  template double cuda_engine::beyond_squares<T>(const rows<T>&, const rows<T>&, small_squares);                           \
  template void cuda_engine::dot<T>(const T*, const T*, index_t, index_t, double*);                                        \
  template void cuda_engine::spread<T>(const T*, index_t, index_t, const double*, double*);                                \
  template void cuda_engine::group_means<T>(const rows<T>&, const index_t*, index_t, T*, index_t*);                        \
  template void cuda_engine::lower_distances<T>(const rows<T>&, index_t, T*) const;                                        \
  template void cuda_engine::farthest_points<T>(const rows<T>&, index_t, index_t*);                                        \
  template void cuda_engine::column_means<T>(const T*, index_t, index_t, double*);                                         \
  template void cuda_engine::centre<T>(T*, index_t, index_t, double*);                                                     \
  template void cuda_engine::subtract<T>(T*, index_t, index_t, const double*) const;                                       \
  template void cuda_engine::scale<T>(T*, index_t, index_t, const number&) const;                                          \
  template void cuda_engine::square_norms<T>(const rows<T>&) const;                                                        \
  template void cuda_engine::normalise<T>(T*, index_t, index_t, T*, const double*) const;                                  \
  template void cuda_engine::normalise_pullback<T>(T*, const T*, index_t, index_t, const T*) const;                        \
  template void cuda_engine::unnormalise<T>(T*, index_t, index_t, const T*) const;                                         \
  template void cuda_engine::inverse_deviation<T>(const T*, index_t, index_t, double*);                                    \
  template void cuda_engine::scale_each_column<T>(T*, index_t, index_t, const double*) const;                              \
  template void cuda_engine::deviation_pullback<T>(const T*, const T*, index_t, const T*, T*, index_t, index_t);           \
  template void cuda_engine::mean_pullback<T>(const T*, index_t, T*, index_t, index_t);                                    \
  template column_range<T> cuda_engine::scale_columns<T>(T*, index_t, index_t, T);                                         \
  template void cuda_engine::scale_columns_pullback<T>(const T*, index_t, index_t, const number&, const double*,           \
                                                       const column_range<T>&, bool, T*);                                  \
  template void cuda_engine::pair_targets<T>(const labels&, const labels&, index_t, index_t, double, softmax<T>&,          \
                                             softmax<T>&);                                                                 \
  template void cuda_engine::label_targets<T>(const labels&, index_t, index_t, double, softmax<T>&);                       \
  template void cuda_engine::soft_targets<T>(const input<T>&, double, softmax<T>&);                                        \
  template void cuda_engine::row_weights<T>(index_t, const numbers&, const labels*, index_t, const index_t*, bool, double, \
                                            softmax<T>&);                                                                  \
  template T* cuda_engine::log_sum_exp<T>(const rows<T>&, const rows<T>&, const softmax<T>&, const softmax<T>&, bool,      \
                                          bool);                                                                           \
  template void cuda_engine::softmax_pullback<T>(const rows<T>&, const rows<T>&, const softmax<T>&, const softmax<T>&,     \
                                                 bool, T*, const pull<T>&, const pull<T>&);                                \
  template void cuda_engine::softmax_loss<T>(const softmax<T>&, double*);                                                  \
  template void cuda_engine::sigmoid_loss<T>(const rows<T>&, const rows<T>&, const index_t*, const index_t*,               \
                                             const number&, double, double*, const pull<T>&, const pull<T>&);              \
  template void cuda_engine::nearest<T>(const rows<T>&, const rows<T>&, index_t*, T*);                                     \
  template void cuda_engine::distance_of_rank<T>(const rows<T>&, index_t, ranked_distance*);                               \
  template void cuda_engine::each<add_mean_step<T>>(index_t, const add_mean_step<T>&) const;                               \
  template void cuda_engine::each<row_key_step<T>>(index_t, const row_key_step<T>&) const;                                 \
  template void cuda_engine::each<equal_row_step<T>>(index_t, const equal_row_step<T>&) const;                             \
  template void cuda_engine::each<bandwidth_pullback_step<T>>(index_t, const bandwidth_pullback_step<T>&) const;           \
  template void cuda_engine::each<objective_step<T>>(index_t, const objective_step<T>&) const;                             \
  template void cuda_engine::each<label_step<T>>(index_t, const label_step<T>&) const;                                     \
  template void cuda_engine::each<clear_diagonal_step<T>>(index_t, const clear_diagonal_step<T>&) const;                   \
  template void cuda_engine::each<label_sums_step<T>>(index_t, const label_sums_step<T>&) const;                           \
  template void cuda_engine::each<weights_apart_step<T>>(index_t, const weights_apart_step<T>&) const;                     \
  template void cuda_engine::each<sample_weight_step<T>>(index_t, const sample_weight_step<T>&) const;                     \
  template void cuda_engine::each<row_weight_pullback_step<cuda_engine::softmax<T>>>(                                      \
      index_t, const row_weight_pullback_step<cuda_engine::softmax<T>>&) const;                                            \
  template void cuda_engine::each<target_pullback_step<T, cuda_engine::softmax<T>>>(                                       \
      index_t, const target_pullback_step<T, cuda_engine::softmax<T>>&) const;

CRAFT_FOR_COMPUTED(double)
CRAFT_FOR_COMPUTED(float)
template void cuda_engine::fill<index_t>(index_t*, index_t, index_t) const;
template double* cuda_engine::device_weights<double>(const numbers&);

// Members that are no templates: inline functions whose address is taken are there for others to link.
struct plain_members {
  index_t* (cuda_engine::*indices)(const labels&) = &cuda_engine::indices;
  void (cuda_engine::*pair_ids)(const labels&, const labels&, index_t, index_t, index_t*, index_t*) =
      &cuda_engine::pair_ids;
};
extern const plain_members cuda_plain_members;
const plain_members cuda_plain_members;
template void cuda_engine::each<clamped_scale_step<device_number>>(index_t, const clamped_scale_step<device_number>&) const;
template void cuda_engine::each<clamped_scale_pullback_step<device_number>>(
    index_t, const clamped_scale_pullback_step<device_number>&) const;
template void cuda_engine::each<form_factors_step>(index_t, const form_factors_step&) const;
template void cuda_engine::each<bandwidth_step>(index_t, const bandwidth_step&) const;
template void cuda_engine::each<add_step>(index_t, const add_step&) const;
template void cuda_engine::each<shared_weight_step>(index_t, const shared_weight_step&) const;

// ---- for every type T computed from numbers stored as S
#define CRAFT_FOR_STORED(T, S)                                                                                        \
  template void cuda_engine::load<T, S>(const input<S>&, T*) const;                                                   \
  template void cuda_engine::store<T, S>(const T*, const destination<S>&, const number&) const;                       \
  template void cuda_engine::load_normalised<T, S>(const input<S>&, T*, T*, const number&) const;                     \
  template void cuda_engine::store_normalised<T, S>(const T*, const T*, const T*, const number&,                      \
                                                    const destination<S>&, const number&) const;                      \
  template index_t cuda_engine::first_not_finite<S>(const input<S>&);                                                 \
  template void cuda_engine::gather<S>(const input<S>&, const index_t*, const place<S>&) const;                       \
  template void cuda_engine::scatter_add<T, S>(const input<S>&, const index_t*, T*, index_t) const;

CRAFT_FOR_STORED(double, double)
CRAFT_FOR_STORED(float, float)
CRAFT_FOR_STORED(float, __half)
CRAFT_FOR_STORED(float, __nv_bfloat16)

// ---- for every pair function
#define CRAFT_FOR_KERNEL(T, ...)                                                                                           \
  template void cuda_engine::quadratic_form<T, __VA_ARGS__>(const rows<T>&, index_t, const __VA_ARGS__&,                   \
                                                            const form_weights<T, number>&, bool, bool, double*,           \
                                                            const pull<T>&);                                               \
  template void cuda_engine::linear_form<T, __VA_ARGS__>(const rows<T>&, index_t, index_t, const __VA_ARGS__&, bool,       \
                                                         double*, const pull<T>&);
#define CRAFT_FOR_SIMILARITY(T, S, ...)                                                                                    \
  template void cuda_engine::map<T, __VA_ARGS__, S>(const rows<T>&, const rows<T>&, const __VA_ARGS__&, const number&,     \
                                                    const place<S>&);                                                      \
  template void cuda_engine::map_pullback<T, __VA_ARGS__, S>(const rows<T>&, const rows<T>&, const __VA_ARGS__&,           \
                                                             const number&, const input<S>&, double*, const pull<T>&,      \
                                                             const pull<T>&);
#define CRAFT_FOR_PAIR_FUNCTION(...)                        \
  CRAFT_FOR_KERNEL(double, __VA_ARGS__<double>)             \
  CRAFT_FOR_KERNEL(float, __VA_ARGS__<float>)               \
  CRAFT_FOR_SIMILARITY(double, double, __VA_ARGS__<double>) \
  CRAFT_FOR_SIMILARITY(float, float, __VA_ARGS__<float>)    \
  CRAFT_FOR_SIMILARITY(float, __half, __VA_ARGS__<float>)   \
  CRAFT_FOR_SIMILARITY(float, __nv_bfloat16, __VA_ARGS__<float>)

CRAFT_FOR_PAIR_FUNCTION(gaussian)
CRAFT_FOR_PAIR_FUNCTION(laplacian)
CRAFT_FOR_PAIR_FUNCTION(inverse_multiquadric)
CRAFT_FOR_PAIR_FUNCTION(rational_quadratic)
CRAFT_FOR_PAIR_FUNCTION(negative_distance)
CRAFT_FOR_PAIR_FUNCTION(dot_product)
CRAFT_FOR_PAIR_FUNCTION(cosine)
CRAFT_FOR_PAIR_FUNCTION(gaussians)
CRAFT_FOR_PAIR_FUNCTION(any_kernel)

// Craft's "multiscale": a sum of four.
template <class T>
using four_multiquadrics =
    kernel_sum<kernel_sum<kernel_sum<inverse_multiquadric<T>, inverse_multiquadric<T>>, inverse_multiquadric<T>>,
               inverse_multiquadric<T>>;
CRAFT_FOR_KERNEL(double, four_multiquadrics<double>)
CRAFT_FOR_KERNEL(float, four_multiquadrics<float>)
template void cuda_engine::map<double, four_multiquadrics<double>, double>(const rows<double>&, const rows<double>&,
                                                                           const four_multiquadrics<double>&, const number&,
                                                                           const place<double>&);
template void cuda_engine::map<float, four_multiquadrics<float>, float>(const rows<float>&, const rows<float>&,
                                                                        const four_multiquadrics<float>&, const number&,
                                                                        const place<float>&);

}  // namespace craft::engine
