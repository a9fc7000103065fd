// Runtime: the verbs for hosts that learn element type, device and kernel when the program runs. Adapters of frameworks
// translate their tensors into these descriptions and their errors out of craft's, and do nothing else.
//
//     craft::runtime::matrix x{pointer, n, d, stride, craft::runtime::dtype::float16};
//     craft::runtime::mmd(device, x, y, craft::runtime::kernel("gaussian", {0.5, 1, 2}), options, &value, {to_dx});
//
// Nothing is copied and nothing is kept: a description is looked at during the call only. Everything is what the verb of the
// same name does (craft/mmd.hpp, craft/alignment.hpp, ...), with its options, errors and cost, on the device given; there it
// runs on the caller's thread and threads of the context, or in the stream of the context.
//
// Values, gradients and other results have the computing type of the inputs: float64 of float64, else float32. So half
// gradients never underflow: hosts that want them narrower convert at the end.
//
// These functions are compiled once: link craft::runtime, or include craft/adapters/runtime_bodies.hpp in one source.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "craft/anchors.hpp"
#include "craft/any_device.hpp"
#include "craft/objective.hpp"

namespace craft::runtime {

/// Element types.
enum class dtype { float64, float32, float16, bfloat16 };

/// "float64", "float32", "float16", "bfloat16".
const char* name(dtype type);
/// The way back from name. Throws type_error for another name.
dtype dtype_named(const std::string& name);
/// The type that numbers stored as `type` are computed in.
constexpr dtype computing(dtype type) { return type == dtype::float64 ? dtype::float64 : dtype::float32; }

/// Options by the names of their enumerators, as in named<estimator>("unbiased"): estimator, bandwidth_rule, bandwidth_sample,
/// column_scaling, direction, reduction, anchor_statistics, metric. Throws option_error, with the names there are.
template <class Enum>
Enum named(const std::string& name);
template <>
estimator named(const std::string& name);
template <>
bandwidth_rule named(const std::string& name);
template <>
bandwidth_sample named(const std::string& name);
template <>
column_scaling named(const std::string& name);
template <>
direction named(const std::string& name);
template <>
reduction named(const std::string& name);
template <>
anchor_statistics named(const std::string& name);
template <>
metric named(const std::string& name);

namespace detail {

/// The sizes of a host's array, as in "(2, 3, 4)".
inline std::string sizes_text(const std::int64_t* sizes, int count) {
  std::string text = "(";
  for (int k = 0; k < count; ++k) text += (k > 0 ? ", " : "") + std::to_string(sizes[k]);
  return text + (count == 1 ? ",)" : ")");
}
/// What is wrong with an array that should have been something else, and what to do.
inline std::string wrong_dimensions(const char* what, const std::int64_t* sizes, int count, const char* expected) {
  return craft::detail::message({what, " has ", count, count == 1 ? " dimension " : " dimensions ", sizes_text(sizes, count),
                                 ", expected ", expected});
}
inline std::string no_matrix(const char* what, const std::int64_t* sizes, int count) {
  const std::string text = wrong_dimensions(what, sizes, count, "a matrix with one sample per row");
  if (count < 1) return text;
  if (count == 1) return text + ": reshape it to (-1, 1), or to (1, -1) if it is one sample";
  return text + ": reshape it to (" + std::to_string(sizes[0]) + ", -1)";
}
inline std::string no_list(const char* what, const std::int64_t* sizes, int count) {
  return wrong_dimensions(what, sizes, count, "one, with a number per row: reshape it to (-1)");
}
/// Of the targets of a cross-entropy over `classes` anchors.
inline std::string neither_labels_nor_shares(const char* what, const std::string& type, int dimensions, index_t rows,
                                             index_t classes, const char* convert) {
  return craft::detail::message({what, " holds ", type, " in ", dimensions, dimensions == 1 ? " dimension" : " dimensions",
                                 ": class labels are integers (", what, convert, "), soft targets a matrix of ", rows,
                                 " rows and ", classes, " columns"});
}

}  // namespace detail

/// A host's matrix: rows are samples, `stride` elements apart, the numbers of a row side by side.
struct matrix {
  const void* data = nullptr;                            ///< the first number
  index_t rows = 0, cols = 0, stride = 0;                ///< samples, numbers of each, elements between rows
  dtype type = dtype::float32;                           ///< of the elements
  memory where = memory::host;                           ///< where they lie
  bool empty() const { return rows == 0 || cols == 0; }  ///< whether there is none
};

/// Where a gradient or another matrix of numbers goes, and what to do there; default: not wanted.
struct place {
  void* data = nullptr;                    ///< the first number
  index_t rows = 0, cols = 0, stride = 0;  ///< rows, numbers of each, elements between rows
  dtype type = dtype::float32;             ///< of the elements
  memory where = memory::host;             ///< where they lie
  write mode = write::none;                ///< not wanted, overwritten, or added to
};

/// A kernel or similarity by name: "dot_product", "cosine", or a weighted sum of kernels of the distance.
class kernel {
 public:
  using member = any_kernel<double>::member;  ///< one kernel of the distance, with its weight
  /// What it depends on.
  enum class form { dot_product, cosine, distance };

  kernel() = default;  ///< a Gaussian, sigma = 1
  /// Of the distance: at most 16 of any family, or 64 Gaussians.
  explicit kernel(std::vector<member> members);
  /// family: "gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy", "dot_product" or "cosine" (also
  /// "negative_distance" for energy). bandwidths: one kernel each (sigma, sigma, c, length); empty for those that have none.
  /// weights: one each, or none for 1 each. shape: alpha of rational_quadratic (needed), eps of inverse_multiquadric, floor of
  /// laplacian and energy. Throws option_error for an unknown name, sizes that do not fit, and what the family has no use for.
  kernel(const std::string& family, const std::vector<double>& bandwidths, const std::vector<double>& weights = {},
         double shape = 0);

  craft::runtime::kernel::form form() const { return form_; }      ///< what it depends on
  const std::vector<member>& members() const { return members_; }  ///< of a kernel of the distance
  index_t weights() const;                                         ///< size of the gradient by weights
  index_t bandwidths() const;                                      ///< size of the gradient by bandwidths

 private:
  enum form form_ = form::distance;
  std::vector<member> members_ = {member{}};
};

/// A kernel and options that together reproduce somebody's convention.
struct preset {
  runtime::kernel kernel;  ///< the kernel of the distance
  mmd_options options;     ///< everything else
};
/// Options of others by name: "craft_rbf", "craft_multiscale", "tllib" (n: rows of each sample), "transferlearning", "cmmd",
/// "geomloss_gaussian", "geomloss_laplacian" (blur), "geomloss_energy", "alibi_detect". Throws option_error for another.
preset preset_named(const std::string& name, index_t n, double blur = 0.05);

/// As craft::mmd_gradients.
struct mmd_outputs {
  place x{}, y{}, weights{}, bandwidths{}, x_weights{}, y_weights{};  ///< as there
};
/// As craft::alignment_gradients.
struct alignment_outputs {
  place x{}, y{}, log_scale{}, bias{}, weights{}, targets{};  ///< as there
};
/// As craft::relative_gradients.
struct relative_outputs {
  place x{}, anchors{}, log_scale{};  ///< as there
};
/// As craft::objective_inputs.
struct objective_inputs {
  matrix images{}, class_texts{};                          ///< as there
  labels targets{};                                        ///< as there
  matrix batch_texts{}, image_anchors{}, target_images{};  ///< as there
};
/// As craft::objective_gradients.
struct objective_outputs {
  place images{}, class_texts{}, batch_texts{}, image_anchors{}, target_images{}, log_scale{};  ///< as there
};

// All throw what the verb throws; type_error for types that differ; device_error for memory of another device.

/// As craft::mmd. value: the address of one number of the computing type, in the device's memory.
void mmd(const any_device& device, const matrix& x, const matrix& y, const kernel& kernel, const mmd_options& options,
         void* value, const mmd_outputs& gradients = {});
/// As craft::anchor_cross_entropy. value: as of mmd.
void anchor_cross_entropy(const any_device& device, const matrix& x, const matrix& anchors, const labels& targets,
                          const cross_entropy_options& options, void* value, const alignment_outputs& gradients = {});
/// As craft::anchor_cross_entropy. value: as of mmd; soft_targets: n x C of the computing type.
void anchor_cross_entropy(const any_device& device, const matrix& x, const matrix& anchors, const matrix& soft_targets,
                          const cross_entropy_options& options, void* value, const alignment_outputs& gradients = {});
/// As craft::info_nce. value: as of mmd.
void info_nce(const any_device& device, const matrix& x, const matrix& y, const contrastive_options& options, void* value,
              const alignment_outputs& gradients = {});
/// As craft::sigmoid_contrastive. value: as of mmd.
void sigmoid_contrastive(const any_device& device, const matrix& x, const matrix& y, const sigmoid_options& options,
                         void* value, const alignment_outputs& gradients = {});
/// As craft::relative. out: n x C, overwritten.
void relative(const any_device& device, const matrix& x, const matrix& anchors, const kernel& similarity,
              const relative_options& options, const place& out);
/// As craft::relative_pullback. dout: n x C of the computing type.
void relative_pullback(const any_device& device, const matrix& x, const matrix& anchors, const kernel& similarity,
                       const relative_options& options, const matrix& dout, const relative_outputs& gradients);
/// As craft::objective. values: the address of five numbers (text, image, batch, mmd, total), as of mmd.
void objective(const any_device& device, const objective_inputs& inputs, const kernel& kernel,
               const objective_options& options, void* values, const objective_outputs& gradients = {});

/// As craft::bandwidth_scale.
double bandwidth_scale(const any_device& device, const matrix& x, const matrix& y, const bandwidth& rule);
/// As craft::class_means. out: C x d of the computing type, overwritten.
void class_means(const any_device& device, const matrix& x, const labels& y, const class_means_options& options,
                 const place& out);
/// As craft::kmeans. centres: k x d of the computing type, overwritten.
kmeans_result kmeans(const any_device& device, const matrix& x, const kmeans_options& options, const place& centres);
/// As craft::kmeans_per_class. centres: as of kmeans.
kmeans_result kmeans_per_class(const any_device& device, const matrix& x, const labels& y, index_t classes,
                               const kmeans_options& options, const place& centres);
/// As craft::medoids. centres: stored as x is.
std::vector<index_t> medoids(const any_device& device, const matrix& x, const matrix& centres);
/// As craft::farthest_point_anchors.
std::vector<index_t> farthest_point_anchors(const any_device& device, const matrix& x, index_t count, index_t start,
                                            metric distance);

}  // namespace craft::runtime
