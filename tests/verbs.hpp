// The verbs as tests call them, for every scalar type and pair function that several tests use, compiled once per device: the
// sources of verbs/ define what this header declares to everybody else (`extern template`). A call that is not listed works
// too; its test only takes longer to compile.
//
// A new pair function: one line in the first list.
#pragma once

#include <functional>

#include "craft/craft.hpp"
#include "craft/gradcheck.hpp"
#include "craft/two_sample.hpp"
#include "devices.hpp"
#include "pair_functions.hpp"

/// F(S, K) for the pair functions of the lists in pair_functions.hpp that this build tests, and the scalar types S.
#ifdef CRAFT_TEST_FEW_PAIR_FUNCTIONS
#define CRAFT_TEST_PAIR_FUNCTIONS CRAFT_TEST_FEW
#define CRAFT_TEST_SUMS_FOR_MMD(F) CRAFT_TEST_PAIR_FUNCTION(F, craft_test::gaussians_and_multiquadric)
#else
#define CRAFT_TEST_PAIR_FUNCTIONS(F)                          \
  CRAFT_TEST_FEW(F)                                           \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::laplacian<>)             \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::inverse_multiquadric<>)  \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::rational_quadratic<>)    \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::any_kernel<>)            \
  CRAFT_TEST_PAIR_FUNCTION(F, craft::polynomial<>)            \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::matern32<double>)   \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::sum_of_products)
/// Those that only MMD and the objective are tested with.
#define CRAFT_TEST_SUMS_FOR_MMD(F)                                       \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::gaussians_and_multiquadric)    \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::two_gaussians)                 \
  CRAFT_TEST_PAIR_FUNCTION(F, craft_test::four_multiquadrics)
#endif

namespace craft_test {

/// What the verbs take on the device under test.
template <class S>
struct arguments {
  using D = device<tested_backend, S>;
  using context = typename D::context;
  using input = craft::matrix_view<const S, D::space>;
  using place = craft::matrix_view<S, D::space>;
  using value = craft::scalar_out<S, D::space>;
  using terms = craft::objective_values_out<S, context>;
  using mmd = craft::mmd_gradients<S, D::space>;
  using relative = craft::relative_gradients<S, D::space>;
  using alignment = craft::alignment_gradients<S, D::space>;
  using objective_inputs = craft::objective_inputs<S, D::space>;
  using objective = craft::objective_gradients<S, D::space>;
  using output = craft::output<S, D::space>;
};

}  // namespace craft_test

// ---- one macro per public header; `how` is `template` or `extern template`

#define CRAFT_TEST_MMD(how, S, K)                                                                                     \
  how void craft::mmd(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,               \
                      const craft_test::arguments<S>::input&, const K&, const craft::mmd_options&,                    \
                      craft_test::arguments<S>::value, const craft_test::arguments<S>::mmd&);

#define CRAFT_TEST_TWO_SAMPLE(how, S, K)                                                                              \
  how craft::two_sample_result craft::two_sample_test(                                                                \
      const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,                               \
      const craft_test::arguments<S>::input&, const K&, const craft::two_sample_options&);

#define CRAFT_TEST_RELATIVE(how, S, K)                                                                                \
  how void craft::relative(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,          \
                           const craft_test::arguments<S>::input&, const K&, const craft::relative_options&,          \
                           craft_test::arguments<S>::place&&);                                                        \
  how void craft::relative_pullback(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, \
                                    const craft_test::arguments<S>::input&, const K&, const craft::relative_options&, \
                                    const craft_test::arguments<S>::input&, const craft_test::arguments<S>::relative&);

#define CRAFT_TEST_ALIGNMENT(how, S)                                                                                  \
  how void craft::anchor_cross_entropy(                                                                               \
      const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,                               \
      const craft_test::arguments<S>::input&, const craft::labels&, const craft::cross_entropy_options&,              \
      craft_test::arguments<S>::value, const craft_test::arguments<S>::alignment&);                                   \
  how void craft::anchor_cross_entropy(                                                                               \
      const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,                               \
      const craft_test::arguments<S>::input&, const craft_test::arguments<S>::input&,                                 \
      const craft::cross_entropy_options&, craft_test::arguments<S>::value, const craft_test::arguments<S>::alignment&); \
  how void craft::info_nce(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,          \
                           const craft_test::arguments<S>::input&, const craft::contrastive_options&,                 \
                           craft_test::arguments<S>::value, const craft_test::arguments<S>::alignment&);              \
  how void craft::sigmoid_contrastive(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, \
                                      const craft_test::arguments<S>::input&, const craft::sigmoid_options&,          \
                                      craft_test::arguments<S>::value, const craft_test::arguments<S>::alignment&);

#define CRAFT_TEST_OBJECTIVE(how, S, K)                                                                               \
  how void craft::objective(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::objective_inputs&, \
                            const K&, const craft::objective_options&, craft_test::arguments<S>::terms,               \
                            const craft_test::arguments<S>::objective&);

#define CRAFT_TEST_ANCHORS(how, S)                                                                                    \
  how void craft::class_means(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,       \
                              const craft::labels&, const craft::class_means_options&,                                \
                              craft_test::arguments<S>::place&&);                                                     \
  how craft::kmeans_result craft::kmeans(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, \
                                         const craft::kmeans_options&, craft_test::arguments<S>::place&&);            \
  how craft::kmeans_result craft::kmeans_per_class(                                                                   \
      const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, const craft::labels&,         \
      craft::index_t, const craft::kmeans_options&, craft_test::arguments<S>::place&&);                               \
  how std::vector<craft::index_t> craft::medoids(const craft_test::arguments<S>::context&,                            \
                                                 const craft_test::arguments<S>::input&,                              \
                                                 const craft_test::arguments<S>::input&);                             \
  how std::vector<craft::index_t> craft::farthest_point_anchors(                                                      \
      const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, craft::index_t,               \
      craft::index_t, craft::metric);                                                                                 \
  how void craft::gather(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,            \
                         const std::vector<craft::index_t>&, craft_test::arguments<S>::place&&);                      \
  how void craft::gather_pullback(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&,   \
                                  const std::vector<craft::index_t>&, const craft_test::arguments<S>::output&);       \
  how double craft::bandwidth_scale(const craft_test::arguments<S>::context&, const craft_test::arguments<S>::input&, \
                                    const craft_test::arguments<S>::input&, const craft::bandwidth&);

// ---- declared here, defined in verbs/*.cpp

#define CRAFT_TEST_DECLARE(S, K) CRAFT_TEST_MMD(extern template, S, K) CRAFT_TEST_RELATIVE(extern template, S, K)
CRAFT_TEST_PAIR_FUNCTIONS(CRAFT_TEST_DECLARE)
#undef CRAFT_TEST_DECLARE
#define CRAFT_TEST_DECLARE(S, K) CRAFT_TEST_MMD(extern template, S, K)
CRAFT_TEST_SUMS_FOR_MMD(CRAFT_TEST_DECLARE)
#undef CRAFT_TEST_DECLARE
CRAFT_TEST_TWO_SAMPLE(extern template, double, craft::gaussian<>)
CRAFT_TEST_TWO_SAMPLE(extern template, float, craft::gaussian<>)
CRAFT_TEST_ALIGNMENT(extern template, double)
CRAFT_TEST_ALIGNMENT(extern template, float)
CRAFT_TEST_OBJECTIVE(extern template, double, craft::gaussians<>)
CRAFT_TEST_OBJECTIVE(extern template, float, craft::gaussians<>)
CRAFT_TEST_OBJECTIVE(extern template, double, craft_test::gaussians_and_multiquadric)
CRAFT_TEST_OBJECTIVE(extern template, float, craft_test::gaussians_and_multiquadric)
CRAFT_TEST_ANCHORS(extern template, double)
CRAFT_TEST_ANCHORS(extern template, float)
