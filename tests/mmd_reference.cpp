#include "mmd_reference.hpp"

namespace craft_test {
namespace {

reals scale_columns(const reals& Z, const reals& low, const reals& high, double eps) {
  reals out = Z;
  for (index_t k = 0; k < Z.cols(); ++k) out.col(k) = (Z.col(k).array() - low(0, k)) / (high(0, k) - low(0, k) + eps);
  return out;
}

}  // namespace

rounding float_allowance(reals X, reals Y, const probed_kernel& kernel, const setup& s) {
  double stretch = 1, passes = 1;
  if (s.options.columns != craft::column_scaling::none) {
    reals lx = X.colwise().minCoeff(), hx = X.colwise().maxCoeff(), ly = Y.colwise().minCoeff(),
          hy = Y.colwise().maxCoeff();
    if (s.options.columns == craft::column_scaling::minmax_joint) {
      lx = ly = lx.cwiseMin(ly).eval();
      hx = hy = hx.cwiseMax(hy).eval();
    }
    stretch = std::max((hx - lx).cwiseInverse().maxCoeff(), (hy - ly).cwiseInverse().maxCoeff());
    X = scale_columns(X, lx, hx, s.options.column_eps);
    Y = scale_columns(Y, ly, hy, s.options.column_eps);
    passes += 3;  // the scaled data are rounded, and the columns' gradients are summed once more
  }
  if (s.options.bandwidth.rule != craft::bandwidth_rule::fixed) {
    const double root = 1 / std::sqrt(craft::bandwidth_scale(craft::cpu(1), X, Y, s.options.bandwidth));
    X *= root;
    Y *= root;
    stretch *= root;
    passes += 1;  // M is rounded as the distances are
  }
  const form f = s.options.estimator == craft::estimator::biased     ? form::biased
                 : s.options.estimator == craft::estimator::unbiased ? form::unbiased
                                                                     : form::linear;
  const coefficients w(f, X.rows(), Y.rows(), s.weights.x, s.weights.y);
  const double unit = roundoff<float>;
  rounding out = rounding_of(kernel, X, Y, w, unit, true) * passes;
  if (s.options.bandwidth.gradient) {
    // dMMD^2/dM = -sum |w k' D| / M at most, and |dM/dX| <= 2 sqrt(2 M) for a rule that looks at one pair.
    const double slope = slope_by_scale(kernel, X, Y, w);
    const double lost = slope * 2 * std::sqrt(2.0) * 2 * (std::sqrt(double(X.cols())) + 8) * unit;
    out.x += lost;
    out.y += lost;
  }
  out.x *= stretch;
  out.y *= stretch;
  return out * std::abs(s.options.factor);
}

void check_record(const reference::record& r, const reals& X, const reals& Y, const probed_kernel& kernel, const setup& s,
                  const mmd_result& got, bool in_double) {
  reference::record::gradients grads = {{"X", got.x}, {"Y", got.y}};
  for (const leaf& l : s.leaves) {
    const std::vector<double>& all = l.weight ? got.weights : got.bandwidths;
    reals part(1, l.count);
    for (index_t q = 0; q < l.count; ++q) {
      part(0, q) = l.factor * all.at(std::size_t(l.first + q));
      if (s.by_log) part(0, q) *= r.parameters("sigma")[std::size_t(q)];
    }
    grads.push_back({l.name, part});
  }
  if (in_double) {
    // By the samples' weights, which are divided by their sum: of a reference that takes them as they are (and that sum to 1)
    // what is left of its gradient then.
    const auto add = [&](const char* raw, const char* unit, const std::vector<double>& w, const std::vector<double>& of) {
      if (w.empty()) return;
      reals g = Eigen::Map<const reals>(of.data(), 1, index_t(of.size()));
      if (r.has_gradient(unit)) {
        const reals given = r.array(r.has("grads", unit) ? "grads" : "grads_small", unit);
        double along = 0;
        for (index_t i = 0; i < g.cols(); ++i) along += w[std::size_t(i)] * given.data()[i];
        grads.push_back({unit, g.array() + along});
      } else if (r.has_gradient(raw)) {
        grads.push_back({raw, g});
      }
    };
    add("wx", "a", s.weights.x, got.x_weights);
    add("wy", "b", s.weights.y, got.y_weights);
    r.check(got.value, grads);
    return;
  }
  const rounding allowed = float_allowance(X, Y, kernel, s);
  // In the largest set column extremes differ by 1e-6: float may find another row.
  if (s.options.columns != craft::column_scaling::none && r.n() > 20) grads.clear();
  std::vector<double> each = {allowed.x, allowed.y};
  for (const leaf& l : s.leaves) {
    double sum = 0;
    for (index_t q = l.first; q < l.first + l.count; ++q)
      sum += (l.weight ? allowed.weights : allowed.bandwidths).at(std::size_t(q)) *
             (s.by_log ? r.parameters("sigma")[std::size_t(q - l.first)] : 1);
    each.push_back(std::abs(l.factor) * sum);
  }
  r.check(got.value, allowed.value + std::abs(s.options.offset) * roundoff<float>, grads, each);
}

}  // namespace craft_test
