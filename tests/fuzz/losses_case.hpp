// One case of losses_fuzz: a call of a verb, as plain numbers that can be drawn, shrunk and printed, and what belongs to it:
// the library's answers, and the exact ones with their error bounds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fuzz {

using real = long double;

enum class verb {
  mmd,
  bandwidth_scale,
  two_sample_test,
  relative,
  relative_pullback,
  anchor_cross_entropy,
  info_nce,
  sigmoid_contrastive,
  objective
};
inline const char* const verb_names[] = {
    "mmd",  "bandwidth_scale", "two_sample_test", "relative", "relative_pullback", "anchor_cross_entropy",
    "info_nce", "sigmoid_contrastive", "objective"};
enum class scalar_type { f32, f64, f16, bf16 };  ///< of inputs and of their gradients
inline const char* const scalar_names[] = {"float", "double", "half", "bfloat16"};

/// Which pair function is called; all but the last two are sums of members.
enum class kernel_type { any, gaussians, nested, energy, dot, cosine };
enum class family { gaussian, laplacian, inverse_multiquadric, rational_quadratic, energy };
inline const char* const family_names[] = {"gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy"};
struct member {
  fuzz::family family = family::gaussian;
  double weight = 1, bandwidth = 1, shape = 0;
};

/// A matrix whose rows are samples, with the numbers as they are stored.
struct table {
  int rows = 0, cols = 0;
  std::vector<double> v;
  table() = default;
  table(int r, int c) : rows(r), cols(c), v(std::size_t(r) * std::size_t(c)) {}
  double& at(int i, int k) { return v[std::size_t(i) * std::size_t(cols) + std::size_t(k)]; }
  double at(int i, int k) const { return v[std::size_t(i) * std::size_t(cols) + std::size_t(k)]; }
};

/// What is asked of an output.
enum class want { none, overwrite, accumulate };

struct test_case {
  fuzz::verb verb = verb::mmd;
  scalar_type type = scalar_type::f64;
  int tile = 0, threads = 1, padding = 0;  ///< padding: elements between the rows of inputs and outputs
  table x, y;                              ///< y: the other sample, the anchors, or the other modality
  want want_x = want::none, want_y = want::none, want_first = want::none, want_second = want::none;
  ///< first and second: the kernel's weights and bandwidths, or log_scale and bias
  want want_x_weights = want::none, want_y_weights = want::none;  ///< or of the rows' weights, and of soft targets
  double upstream = 1;

  kernel_type kernel = kernel_type::any;
  std::vector<member> members;
  int series = 0;  ///< the integer ratio by which members of `gaussians` were drawn, or 0

  int estimator = 0, rule = 0, sample = 0, columns = 0;  ///< mmd's enums
  bool rule_gradient = false, column_gradient = true;
  double column_eps = 1e-8, factor = 1, offset = 0;
  std::vector<double> x_weights, y_weights;  ///< x_weights: also the weights of the rows in the softmax losses

  int statistics = 0;  ///< of relative
  bool normalise = true, statistics_gradient = true;
  double log_scale = 0, max_scale = 0;  ///< max_scale 0: infinity
  table dout;                           ///< of relative_pullback

  bool symmetric = false, soft = false, sum = false;
  double smoothing = 0, bias = 0;
  std::vector<int> x_labels, y_labels;  ///< x_labels: also the targets of anchor_cross_entropy; -100: ignored
  table targets;                        ///< soft ones

  /// Of the objective, where x are the images, y the class texts and x_labels the targets; those without rows are not given.
  table batch_texts, image_anchors, target_images;
  double text = 1, image = 1, batch = 1, mmd = 1;  ///< weights of the terms
  bool same_class = false;
};

/// Exact numbers of one output, and by how much the library's may differ from each.
struct exact_output {
  std::string kind;
  std::vector<real> value, bound;
  bool compared = true;  ///< false where the documentation leaves the number open (ties of a median)
  bool or_zero = false;  ///< the clamp's side is within rounding: 0 is right, too
};
struct exact_answer {
  real by_log_scale = 0, by_log_scale_error = 0;  ///< as if nothing were clamped, at upstream 1
  bool may_refuse = false;   ///< out of the documented range: an error is right, too
  bool must_refuse = false;  ///< there is no answer
  std::vector<exact_output> outputs;
  const exact_output* find(const std::string& kind) const {
    for (const exact_output& o : outputs)
      if (o.kind == kind) return &o;
    return nullptr;
  }
};

/// What the library did.
struct library_output {
  std::string kind;
  std::vector<double> value;
};
struct library_answer {
  std::string error;  ///< text of a craft::error
  std::string fault;  ///< an element written that is no output's, or another exception
  std::vector<library_output> outputs;
};

/// Unit round-offs and ends of the range of the types.
struct precision {
  real u, smallest, least, largest;  ///< smallest normal and least positive number
};
precision of_storage(scalar_type);
precision of_computing(scalar_type);
/// The number as the type stores it.
double stored(scalar_type, double);

test_case draw_case(std::uint64_t seed, std::uint64_t number);
std::string describe(const test_case&);

exact_answer exact(const test_case&);
/// Rows that another computation made, and which of them it made in the same way.
struct uncertain_rows;
struct given_rows {
  const uncertain_rows* rows;
  std::vector<int> made;
};
void exact_mmd(const test_case&, exact_answer&, const given_rows* = nullptr);
void exact_relative(const test_case&, exact_answer&);
void exact_alignment(const test_case&, exact_answer&);
void exact_objective(const test_case&, exact_answer&);

/// Calls the library. `before` has what accumulated outputs hold first.
library_answer call(const test_case&, const exact_answer&);
/// What an accumulated output of this exact value holds first.
inline double before(scalar_type t, real exact) {
  const double b = stored(t, double(-exact) * 0.5);
  return b - b == 0 ? b : 0;
}

/// Cases that are simpler by one thing each: a row, a column, a member, an option; last the numbers, once there are few.
std::vector<test_case> simpler(const test_case&);

}  // namespace fuzz
