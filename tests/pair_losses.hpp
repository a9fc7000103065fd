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
};

/// Which gradients a run asks for.
enum class want { value_only, all, all_and_bias };

/// Calls verb(x, y, value, gradients) with x and y stored on D and the outputs full of NaN.
template <class D, class Verb>
loss_result run_loss(const reals& x, const reals& y, want wanted, const Verb& verb) {
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
  verb(xd.in(), yd.in(), value.as_value(), gradients);
  return {value.number(), dx.get(), dy.get(), log_scale.number(), bias.number()};
}

template <class D>
loss_result run_cross_entropy(const typename D::context& ctx, const reals& x, const reals& anchors,
                              const std::vector<index_t>& labels, const craft::cross_entropy_options& options,
                              want wanted = want::all) {
  const label_array<D> on_device(labels);
  return run_loss<D>(x, anchors, wanted, [&](auto xd, auto ad, auto value, auto gradients) {
    craft::anchor_cross_entropy(ctx, xd, ad, on_device.in(), options, value, gradients);
  });
}

template <class D>
loss_result run_soft(const typename D::context& ctx, const reals& x, const reals& anchors, const reals& targets,
                     const craft::cross_entropy_options& options, want wanted = want::all) {
  const array<D, typename D::compute> on_device(targets);
  return run_loss<D>(x, anchors, wanted, [&](auto xd, auto ad, auto value, auto gradients) {
    craft::anchor_cross_entropy(ctx, xd, ad, on_device.in(), options, value, gradients);
  });
}

template <class D>
loss_result run_info_nce(const typename D::context& ctx, const reals& x, const reals& y,
                         craft::contrastive_options options, const std::vector<index_t>& x_labels = {},
                         const std::vector<index_t>& y_labels = {}, want wanted = want::all) {
  const label_array<D> xl(x_labels), yl(y_labels);
  options.x_labels = xl.in();
  options.y_labels = yl.in();
  return run_loss<D>(x, y, wanted, [&](auto xd, auto yd, auto value, auto gradients) {
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
  return run_loss<D>(x, y, wanted, [&](auto xd, auto yd, auto value, auto gradients) {
    craft::sigmoid_contrastive(ctx, xd, yd, options, value, gradients);
  });
}

/// n labels below `classes` in no simple order.
inline std::vector<index_t> labels_for(index_t n, index_t classes, index_t step) {
  std::vector<index_t> out;
  for (index_t i = 0; i < n; ++i) out.push_back((step * i + i / 3) % classes);
  return out;
}

/// Sample weights, some of them zero, as numbers of D's compute type.
template <class D>
std::vector<double> some_weights(index_t n) {
  std::vector<double> w;
  for (index_t i = 0; i < n; ++i)
    w.push_back(i % 4 == 1 ? 0.0 : double(typename D::compute(1 + 0.5 * std::sin(1.3 * double(i)))));
  return w;
}

/// Both gradients and, beside them, the gradients of the numbers: one long row, for joint norms.
inline reals joined(const loss_result& r) {
  reals all(1, r.x.size() + r.y.size() + 2);
  all << Eigen::Map<const reals>(r.x.data(), 1, r.x.size()), Eigen::Map<const reals>(r.y.data(), 1, r.y.size()),
      r.log_scale, std::isnan(r.bias) ? 0.0 : r.bias;
  return all;
}

// ---------------------------------------------------------------------------------------------------------
// By hand

using ldouble = long double;
using ldoubles = matrix<ldouble>;

/// A loss by hand, and the yardsticks of rounding errors: what the value, and the norm of all gradients together, could
/// be if nothing cancelled, and the largest |logit|.
struct by_hand {
  loss_result result;
  double value_bound = 0, bound = 0, logit = 0;
};

/// value = f(Z, G, |G|) of the logits Z = s sim(x_i, y_j) + bias; f fills G = df/dZ, and |G| with its parts taken
/// by absolute value. A zero row stays zero under normalisation and has gradient zero.
template <class F>
by_hand from_logits(const reals& x, const reals& y, double log_scale, double max_scale, double bias, bool normalise,
                    const F& f) {
  const index_t n = x.rows(), m = y.rows();
  const bool clamped = std::exp(log_scale) > max_scale;
  const ldouble s = clamped ? ldouble(max_scale) : std::exp(ldouble(log_scale));
  ldoubles xh = x.cast<ldouble>(), yh = y.cast<ldouble>();
  const auto norms = [&](ldoubles& rows) {
    std::vector<ldouble> norm(std::size_t(rows.rows()), 1);
    if (!normalise) return norm;
    for (index_t i = 0; i < rows.rows(); ++i) {
      norm[std::size_t(i)] = rows.row(i).norm();
      if (norm[std::size_t(i)] > 0) rows.row(i) /= norm[std::size_t(i)];
    }
    return norm;
  };
  const std::vector<ldouble> nx = norms(xh), ny = norms(yh);
  const ldoubles sim = s * (xh * yh.transpose());
  ldoubles z = sim.array() + ldouble(bias), g = ldoubles::Zero(n, m), size = ldoubles::Zero(n, m);

  by_hand out;
  out.result.value = double(f(z, g, size));
  ldoubles dx = s * (g * yh), dy = s * (g.transpose() * xh);
  ldoubles bx = s * (size * yh.cwiseAbs()), by = s * (size.transpose() * xh.cwiseAbs());
  const auto pull_back = [&](const ldoubles& h, const std::vector<ldouble>& norm, ldoubles& d, ldoubles& b) {
    if (!normalise) return;
    for (index_t i = 0; i < h.rows(); ++i) {
      const ldouble r = norm[std::size_t(i)];
      const ldouble inverse = r > 0 ? 1 / r : 0;
      d.row(i) = (d.row(i) - h.row(i) * h.row(i).dot(d.row(i))) * inverse;
      b.row(i) = (b.row(i) + h.row(i).cwiseAbs() * h.row(i).cwiseAbs().dot(b.row(i))) * inverse;
    }
  };
  pull_back(xh, nx, dx, bx);
  pull_back(yh, ny, dy, by);
  out.result.x = dx.cast<double>();
  out.result.y = dy.cast<double>();
  out.result.log_scale = clamped ? 0 : double((g.array() * sim.array()).sum());
  out.result.bias = double(g.sum());
  const double by_numbers = double((size.array() * (sim.array().abs() + 1)).sum());
  out.bound = std::hypot(std::hypot(double(bx.norm()), double(by.norm())), by_numbers);
  out.value_bound = std::abs(out.result.value) + double(size.sum());
  out.logit = n * m > 0 ? double(z.cwiseAbs().maxCoeff()) : 0;
  return out;
}

/// sum_i w_i (lse_i - sum_j t_ij z_ij) over the rows of z; adds `factor` times it to the value, G and |G|.
inline ldouble add_cross_entropy(const ldoubles& z, const ldoubles& targets, const std::vector<ldouble>& w,
                                 ldouble factor, ldoubles& g, ldoubles& size) {
  ldouble value = 0;
  for (index_t i = 0; i < z.rows(); ++i) {
    const ldouble wi = factor * w[std::size_t(i)];
    if (wi == 0) continue;
    const ldouble top = z.row(i).maxCoeff();
    ldouble sum = 0, mass = 0, picked = 0;
    for (index_t j = 0; j < z.cols(); ++j) {
      sum += std::exp(z(i, j) - top);
      mass += targets(i, j);
      picked += targets(i, j) * z(i, j);
    }
    const ldouble lse = top + std::log(sum);
    value += wi * (mass * lse - picked);
    for (index_t j = 0; j < z.cols(); ++j) {
      const ldouble p = std::exp(z(i, j) - lse);
      g(i, j) += wi * (mass * p - targets(i, j));
      size(i, j) += std::abs(wi) * (mass * p + targets(i, j));
    }
  }
  return value;
}

/// anchor_cross_entropy with targets given as rows of probabilities; a row of weight 0 counts as not there.
inline by_hand cross_entropy_by_hand(const reals& x, const reals& anchors, const reals& targets,
                                     const std::vector<double>& weights, const craft::cross_entropy_options& o) {
  std::vector<ldouble> w(weights.begin(), weights.end());
  ldouble all = 0;
  for (ldouble v : w) all += v;
  const ldouble factor = o.reduce == craft::reduction::sum ? 1 : all > 0 ? 1 / all : 0;
  const ldouble ls = o.label_smoothing;
  const ldoubles t = ((1 - ls) * targets.cast<ldouble>()).array() + ls / ldouble(anchors.rows());
  return from_logits(
      x, anchors, o.log_scale.value(), o.max_scale, 0, o.normalise,
      [&](const ldoubles& z, ldoubles& g, ldoubles& size) { return add_cross_entropy(z, t, w, factor, g, size); });
}

/// Rows of one-hot targets; weights 0 for the rows to leave out.
inline reals one_hot(const std::vector<index_t>& labels, index_t classes, index_t ignore,
                     std::vector<double>& weights) {
  reals t = reals::Zero(index_t(labels.size()), classes);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == ignore)
      weights[i] = 0;
    else
      t(index_t(i), labels[i]) = 1;
  }
  return t;
}

/// 1 where two rows are a positive pair: the same label, or without labels the same index.
inline reals positives(const std::vector<index_t>& x_labels, const std::vector<index_t>& y_labels, index_t n,
                       index_t m) {
  reals p(n, m);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < m; ++j)
      p(i, j) = x_labels.empty() ? i == j : x_labels[std::size_t(i)] == y_labels[std::size_t(j)];
  return p;
}

/// info_nce: each row's targets are uniform over its positives; a row without any is left out of sum and mean. The
/// second direction is the same of the transposed logits, with the same weights.
inline by_hand info_nce_by_hand(const reals& x, const reals& y, const reals& pairs, const std::vector<double>& weights,
                                const craft::contrastive_options& o) {
  const auto direction = [&](const ldoubles& z, const reals& p, ldouble share, ldoubles& g, ldoubles& size) {
    const index_t rows = p.rows(), cols = p.cols();
    ldoubles t = ldoubles::Zero(rows, cols);
    std::vector<ldouble> w(std::size_t(rows), 0);
    ldouble all = 0;
    for (index_t i = 0; i < rows; ++i) {
      const ldouble count = p.row(i).sum();
      if (count == 0) continue;
      t.row(i) = (1 - ldouble(o.label_smoothing)) / count * p.row(i).cast<ldouble>();
      t.row(i).array() += ldouble(o.label_smoothing) / ldouble(cols);
      w[std::size_t(i)] = weights.empty() ? 1 : weights[std::size_t(i)];
      all += w[std::size_t(i)];
    }
    return all > 0 ? add_cross_entropy(z, t, w, share / all, g, size) : ldouble(0);
  };
  const bool both = o.direction == craft::direction::symmetric;
  return from_logits(x, y, o.log_scale.value(), o.max_scale, 0, o.normalise,
                     [&](const ldoubles& z, ldoubles& g, ldoubles& size) {
                       ldouble value = direction(z, pairs, both ? 0.5L : 1.0L, g, size);
                       if (both) {
                         ldoubles gt = ldoubles::Zero(z.cols(), z.rows()), st = gt;
                         value += direction(z.transpose(), pairs.transpose(), 0.5L, gt, st);
                         g += gt.transpose();
                         size += st.transpose();
                       }
                       return value;
                     });
}

/// sigmoid_contrastive: -(1/n) sum_ij log sigmoid(+-(s sim + b)), plus for the positive pairs.
inline by_hand sigmoid_by_hand(const reals& x, const reals& y, const reals& pairs, const craft::sigmoid_options& o) {
  const ldouble share = 1 / ldouble(x.rows());
  return from_logits(x, y, o.log_scale.value(), o.max_scale, o.bias.value(), o.normalise,
                     [&](const ldoubles& z, ldoubles& g, ldoubles& size) {
                       ldouble value = 0;
                       for (index_t i = 0; i < z.rows(); ++i)
                         for (index_t j = 0; j < z.cols(); ++j) {
                           const ldouble sign = pairs(i, j) > 0 ? 1 : -1, u = -sign * z(i, j);
                           value += share * (std::max(u, ldouble(0)) + std::log1p(std::exp(-std::abs(u))));
                           const ldouble slope = u > 0 ? 1 / (1 + std::exp(-u)) : std::exp(u) / (1 + std::exp(u));
                           g(i, j) = -sign * share * slope;
                           size(i, j) = share * slope;
                         }
                       return value;
                     });
}

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
