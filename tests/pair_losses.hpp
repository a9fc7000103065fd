// What the tests of the alignment losses share: running a verb on a device, and the same losses written down by hand
// as a double loop in long double over the whole matrix of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "devices.hpp"

namespace craft_test {

/// A value and its gradients on the host.
struct loss_result {
  double value = not_a_number;
  reals x, y;
  double log_scale = not_a_number, bias = not_a_number;
  reals weights{}, targets{};  ///< where a run was asked for them
};

/// Which gradients a run asks for.
enum class want { value_only, all, all_and_bias };
/// And which of the numbers beside the rows.
struct want_too {
  bool weights = false, targets = false;
};

/// Calls verb(x, y, value, gradients) with x and y stored on D and the outputs full of NaN.
template <class D, class Verb>
loss_result run_loss(const reals& x, const reals& y, want wanted, want_too more, const Verb& verb) {
  using T = typename D::compute;
  const array<D> xd(x), yd(y);
  array<D> dx(x.rows(), x.cols()), dy(y.rows(), y.cols());
  array<D, T> value(1, 1), log_scale(1, 1), bias(1, 1);
  craft::alignment_gradients<typename D::scalar, D::space> gradients;
  if (wanted != want::value_only) {
    gradients.x = craft::overwrite(dx.out());
    gradients.y = craft::overwrite(dy.out());
    gradients.log_scale = craft::overwrite(log_scale.out());
  }
  if (wanted == want::all_and_bias) gradients.bias = craft::overwrite(bias.out());
  array<D, T> weights(1, x.rows()), targets(x.rows(), y.rows());
  if (more.weights) gradients.weights = craft::overwrite(weights.out());
  if (more.targets) gradients.targets = craft::overwrite(targets.out());
  verb(xd.in(), yd.in(), value.as_value(), gradients);
  return {value.number(), dx.get(), dy.get(), log_scale.number(), bias.number(), weights.get(), targets.get()};
}

template <class D, class Verb>
loss_result run_loss(const reals& x, const reals& y, want wanted, const Verb& verb) {
  return run_loss<D>(x, y, wanted, {}, verb);
}

template <class D>
loss_result run_cross_entropy(const typename D::context& ctx, const reals& x, const reals& anchors,
                              const std::vector<index_t>& labels, const craft::cross_entropy_options& options,
                              want wanted = want::all, want_too more = {}) {
  const label_array<D> on_device(labels);
  return run_loss<D>(x, anchors, wanted, more, [&](auto xd, auto ad, auto value, auto gradients) {
    craft::anchor_cross_entropy(ctx, xd, ad, on_device.in(), options, value, gradients);
  });
}

template <class D>
loss_result run_soft(const typename D::context& ctx, const reals& x, const reals& anchors, const reals& targets,
                     const craft::cross_entropy_options& options, want wanted = want::all, want_too more = {}) {
  const array<D, typename D::compute> on_device(targets);
  return run_loss<D>(x, anchors, wanted, more, [&](auto xd, auto ad, auto value, auto gradients) {
    craft::anchor_cross_entropy(ctx, xd, ad, on_device.in(), options, value, gradients);
  });
}

template <class D>
loss_result run_info_nce(const typename D::context& ctx, const reals& x, const reals& y,
                         craft::contrastive_options options, const std::vector<index_t>& x_labels = {},
                         const std::vector<index_t>& y_labels = {}, want wanted = want::all, want_too more = {}) {
  const label_array<D> xl(x_labels), yl(y_labels);
  options.x_labels = xl.in();
  options.y_labels = yl.in();
  return run_loss<D>(x, y, wanted, more, [&](auto xd, auto yd, auto value, auto gradients) {
    craft::info_nce(ctx, xd, yd, options, value, gradients);
  });
}

template <class D>
loss_result run_sigmoid(const typename D::context& ctx, const reals& x, const reals& y, craft::sigmoid_options options,
                        const std::vector<index_t>& x_labels = {}, const std::vector<index_t>& y_labels = {},
                        want wanted = want::all_and_bias) {
  const label_array<D> xl(x_labels), yl(y_labels);
  options.x_labels = xl.in();
  options.y_labels = yl.in();
  return run_loss<D>(x, y, wanted, {}, [&](auto xd, auto yd, auto value, auto gradients) {
    craft::sigmoid_contrastive(ctx, xd, yd, options, value, gradients);
  });
}

/// n labels below `classes` in no simple order.
std::vector<index_t> labels_for(index_t n, index_t classes, index_t step);

/// Sample weights, some of them zero, as numbers of D's compute type.
template <class D>
std::vector<double> some_weights(index_t n) {
  std::vector<double> w;
  for (index_t i = 0; i < n; ++i)
    w.push_back(i % 4 == 1 ? 0.0 : double(typename D::compute(1 + 0.5 * std::sin(1.3 * double(i)))));
  return w;
}

/// Both gradients and, beside them, the gradients of the numbers: one long row, for joint norms.
reals joined(const loss_result& r);

// ---------------------------------------------------------------------------------------------------------
// By hand

/// A loss by hand, and the yardsticks of rounding errors: what the value, and the norm of all gradients together, could
/// be if nothing cancelled, and the largest |logit|.
struct by_hand {
  loss_result result;
  double value_bound = 0, bound = 0, logit = 0;
};

/// anchor_cross_entropy with targets given as rows of probabilities; a row of weight 0 counts as not there.
by_hand cross_entropy_by_hand(const reals& x, const reals& anchors, const reals& targets,
                                     const std::vector<double>& weights, const craft::cross_entropy_options& o);

/// Rows of one-hot targets; weights 0 for the rows to leave out.
reals one_hot(const std::vector<index_t>& labels, index_t classes, index_t ignore,
                     std::vector<double>& weights);

/// 1 where two rows are a positive pair: the same label, or without labels the same index.
reals positives(const std::vector<index_t>& x_labels, const std::vector<index_t>& y_labels, index_t n,
                       index_t m);

/// info_nce: each row's targets are uniform over its positives; a row without any is left out of sum and mean. The
/// second direction is the same of the transposed logits, with the same weights.
by_hand info_nce_by_hand(const reals& x, const reals& y, const reals& pairs, const std::vector<double>& weights,
                                const craft::contrastive_options& o);

/// sigmoid_contrastive: -(1/n) sum_ij log sigmoid(+-(s sim + b)), plus for the positive pairs.
by_hand sigmoid_by_hand(const reals& x, const reals& y, const reals& pairs, const craft::sigmoid_options& o);

/// How far rounding may carry a result computed in D, relative to what it would be if nothing cancelled. A cosine of d
/// numbers is wrong by about (4 + sqrt(d)) u (the errors of its d products and of two norms, which are
/// independent in sign); times |logit| that is the error of the exponent, twice for the two exponentials in a
/// quotient; sums over n and m terms add sqrt(n + m). The factor 4 takes "about" to "always".
template <class D>
double loss_rounding(const by_hand& want) {
  const double d = double(want.result.x.cols()), terms = double(want.result.x.rows() + want.result.y.rows());
  return 4 * roundoff<typename D::scalar> * ((4 + std::sqrt(d)) * (1 + 2 * want.logit) + std::sqrt(terms));
}

/// Checks a result against the one by hand, as closely as rounding lets.
template <class D>
void check_against(const loss_result& got, const by_hand& want) {
  const double tolerance = loss_rounding<D>(want);
  INFO("tolerance " << tolerance << " of " << want.value_bound << " and " << want.bound);
  // Terms that small underflow.
  const double smallest = double(std::numeric_limits<typename D::compute>::min());
  const double terms = double(want.result.x.rows() * want.result.y.rows());
  CHECK(std::abs(got.value - want.result.value) <= tolerance * want.value_bound + terms * smallest);
  loss_result reference = want.result;
  if (std::isnan(got.bias)) reference.bias = not_a_number;  // not asked for
  CHECK((joined(got) - joined(reference)).norm() <= tolerance * want.bound + terms * smallest);
}

}  // namespace craft_test
