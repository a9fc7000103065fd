#include "pair_losses.hpp"

namespace craft_test {
namespace {

using ldouble = long double;
using ldoubles = matrix<ldouble>;

/// value = f(Z, G, |G|) of the logits Z = s sim(x_i, y_j) + bias; f fills G = df/dZ, and |G| with its parts taken
/// by absolute value. A zero row stays zero under normalisation and has gradient zero.
template <class F>
by_hand from_logits(const reals& x, const reals& y, double log_scale, double max_scale, double bias, bool normalise,
                    const F& f) {
  const index_t n = x.rows(), m = y.rows();
  const bool clamped = std::exp(log_scale) >= max_scale;
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
  out.result.log_scale = double((g.array() * sim.array()).sum());
  if (clamped && out.result.log_scale < 0) out.result.log_scale = 0;  // a step against it would lead further out
  out.result.bias = double(g.sum());
  const double by_numbers = double((size.array() * (sim.array().abs() + 1)).sum());
  out.bound = std::hypot(std::hypot(double(bx.norm()), double(by.norm())), by_numbers);
  out.value_bound = std::abs(out.result.value) + double(size.sum());
  out.logit = n * m > 0 ? double(z.cwiseAbs().maxCoeff()) : 0;
  return out;
}

/// sum_i w_i (lse_i - sum_j t_ij z_ij) over the rows of z; adds `factor` times it to the value, G and |G|.
ldouble add_cross_entropy(const ldoubles& z, const ldoubles& targets, const std::vector<ldouble>& w,
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

}  // namespace

std::vector<index_t> labels_for(index_t n, index_t classes, index_t step) {
  std::vector<index_t> out;
  for (index_t i = 0; i < n; ++i) out.push_back((step * i + i / 3) % classes);
  return out;
}

reals joined(const loss_result& r) {
  reals all(1, r.x.size() + r.y.size() + 2);
  all << Eigen::Map<const reals>(r.x.data(), 1, r.x.size()), Eigen::Map<const reals>(r.y.data(), 1, r.y.size()),
      r.log_scale, std::isnan(r.bias) ? 0.0 : r.bias;
  return all;
}

by_hand cross_entropy_by_hand(const reals& x, const reals& anchors, const reals& targets,
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

reals one_hot(const std::vector<index_t>& labels, index_t classes, index_t ignore,
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

reals positives(const std::vector<index_t>& x_labels, const std::vector<index_t>& y_labels, index_t n,
                       index_t m) {
  reals p(n, m);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < m; ++j)
      p(i, j) = x_labels.empty() ? i == j : x_labels[std::size_t(i)] == y_labels[std::size_t(j)];
  return p;
}

by_hand info_nce_by_hand(const reals& x, const reals& y, const reals& pairs, const std::vector<double>& weights,
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

by_hand sigmoid_by_hand(const reals& x, const reals& y, const reals& pairs, const craft::sigmoid_options& o) {
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

}  // namespace craft_test
