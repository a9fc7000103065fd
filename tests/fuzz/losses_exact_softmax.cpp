// The alignment losses in long double, see losses_exact.hpp.
#include <algorithm>
#include <utility>

#include "losses_exact.hpp"

namespace fuzz {
namespace {

/// Losses of logits z = s x.y (+ bias): value, and U = dL/dz, with errors.
struct logits {
  int n, m;
  precision p;
  std::vector<uncertain> z, U;
  uncertain value, by_bias;
  uncertain& at(int i, int j) { return z[std::size_t(i * m + j)]; }
  uncertain& pull(int i, int j) { return U[std::size_t(i * m + j)]; }

  /// Returns mass lse - sum t z, and lse of this row in `lse_of_row`.
  uncertain lse_of_row;
  /// Adds w (mass lse - sum t z) over z_(i, 0 ... count - 1) as `get` gives it.
  template <class Get, class Pull>
  uncertain cross_entropy(int count, real w, const std::vector<real>& t, const Get& get, const Pull& to) {
    real most = -HUGE_VALL, sum = 0, moved = 0, mass = 0, size = 0, most_off = 0;
    for (int j = 0; j < count; ++j) most = std::max(most, get(j).v);
    for (int j = 0; j < count; ++j) sum += std::exp(get(j).v - most), mass += t[std::size_t(j)];
    const real lse = most + std::log(sum);
    real loss = mass * lse, error = 0;
    for (int j = 0; j < count; ++j) moved += std::exp(get(j).v - lse) * get(j).e, most_off = std::max(most_off, get(j).e);
    if (most_off > 0.01L) moved = most_off;  // beyond first order
    for (int j = 0; j < count; ++j) {
      const real tj = t[std::size_t(j)], q = std::exp(get(j).v - lse), g = mass * q - tj;
      loss -= tj * get(j).v, size += tj * std::abs(get(j).v);
      const real dq = std::min(1.0L, q * std::expm1(get(j).e + moved + 2 * p.u * (1 + std::abs(get(j).v) + std::abs(lse))));
      error += (std::abs(g) + (most_off > 0.01L ? mass * dq : 0)) * get(j).e;
      to(j).v += w * g;
      to(j).e += w * (mass * dq + 2 * p.u * tj + p.smallest);
    }
    lse_of_row = {lse, moved + 2 * p.u * (std::abs(lse) + 1)};
    const real off = error + (2 + sum_growth(n)) * p.u * (mass * (std::abs(lse) + 1 * (count > 1)) + size);
    value.v += w * loss, value.e += w * off;
    return {loss, off};
  }
};

}  // namespace

void exact_alignment(const test_case& c, exact_answer& answer) {
  const precision p = of_computing(c.type), out = of_storage(c.type);
  uncertain_rows x = load(c.x), y = load(c.y);
  const int n = x.n, m = y.n;
  const scale_of_logits scale = logit_scale(c);
  std::vector<real> x_norm, y_norm;
  if (c.normalise) x_norm = normalise(x, p), y_norm = normalise(y, p);
  logits l{n, m, p, std::vector<uncertain>(std::size_t(n * m)), std::vector<uncertain>(std::size_t(n * m)), {}, {}, {}};
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j) {
      const uncertain s = dot(x, i, y, j, p.u);
      l.at(i, j) = {scale.s * s.v, scale.s * (s.e + 2 * p.u * std::abs(s.v))};
    }
  const auto together = [&](int i, int j) {
    return c.x_labels.empty() ? i == j : c.x_labels[std::size_t(i)] == c.y_labels[std::size_t(j)];
  };
  const auto weight = [&](int i) { return c.x_weights.empty() ? real(1) : real(c.x_weights[std::size_t(i)]); };
  const real e = c.smoothing;
  if (!c.x_weights.empty()) {
    real sum = 0;
    for (const double w : c.x_weights) sum += w;
    answer.may_refuse = sum == 0 || sum > 0.9L * p.largest;
  }
  // dL/dw_i = share (l_i - L) / W of a mean of row losses l_i, W the sum of the weights that take part; l_i of a sum.
  std::vector<uncertain> by_weight, by_target;
  by_weight.resize(std::size_t(n)), by_target.resize(std::size_t(c.soft ? n * m : 0));
  const auto add_by_weight = [&](const std::vector<std::pair<int, uncertain>>& rows, real W, real share, bool divided) {
    uncertain L;
    for (const auto& [i, loss] : rows)
      L.v += weight(i) / W * loss.v, L.e += weight(i) / W * (loss.e + 2 * p.u * std::abs(loss.v));
    for (const auto& [i, loss] : rows) {
      uncertain& to = by_weight[std::size_t(std::min(i, n - 1))];
      to.v += divided ? share * (loss.v - L.v) / W : loss.v;
      to.e += divided ? share * (loss.e + L.e + 2 * p.u * (std::abs(loss.v) + std::abs(L.v))) / W
                      : loss.e + p.u * std::abs(loss.v);
    }
  };
  // Rows of a softmax whose targets come from pairs that belong together.
  const auto contrast = [&](int rows, int cols, real share, const auto& pair, const auto& get, const auto& to) {
    real all = 0;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < cols; ++j)
        if (pair(i, j)) {
          all += weight(i);
          break;
        }
    std::vector<std::pair<int, uncertain>> losses;
    for (int i = 0; i < rows && all > 0; ++i) {
      std::vector<real> t(std::size_t(cols), e / cols);
      int positives = 0;
      for (int j = 0; j < cols; ++j) positives += pair(i, j);
      for (int j = 0; j < cols; ++j) t[std::size_t(j)] += pair(i, j) ? (1 - e) / positives : 0;
      if (positives > 0)
        losses.push_back({i, l.cross_entropy(
                                 cols, share * weight(i) / all, t, [&](int j) { return get(i, j); },
                                 [&](int j) -> uncertain& { return to(i, j); })});
    }
    add_by_weight(losses, all, share, true);
  };
  if (c.verb == verb::info_nce) {
    const real share = c.symmetric ? 0.5L : 1;
    contrast(
        n, m, share, together, [&](int i, int j) { return l.at(i, j); },
        [&](int i, int j) -> uncertain& { return l.pull(i, j); });
    if (c.symmetric)
      contrast(
          m, n, share, [&](int j, int i) { return together(i, j); }, [&](int j, int i) { return l.at(i, j); },
          [&](int j, int i) -> uncertain& { return l.pull(i, j); });
  } else if (c.verb == verb::anchor_cross_entropy) {
    const auto takes_part = [&](int i) { return c.soft || c.x_labels[std::size_t(i)] != -100; };
    real all = 0;
    for (int i = 0; i < n; ++i) all += takes_part(i) ? weight(i) : 0;
    std::vector<std::pair<int, uncertain>> losses;
    for (int i = 0; i < n && (all > 0 || c.sum); ++i) {
      if (!takes_part(i)) continue;
      const real w = weight(i) / (c.sum ? 1 : all);
      std::vector<real> t;
      for (int j = 0; j < m; ++j)
        t.push_back((1 - e) * (c.soft ? real(c.targets.at(i, j)) : c.x_labels[std::size_t(i)] == j ? 1 : 0) + e / m);
      losses.push_back(
          {i, l.cross_entropy(
                  m, w, t, [&](int j) { return l.at(i, j); }, [&](int j) -> uncertain& { return l.pull(i, j); })});
      for (int j = 0; j < m && c.soft; ++j) {  // dL/dt = (1 - e) w (lse - z)
        const uncertain &z = l.at(i, j), &lse = l.lse_of_row;
        const real v = (1 - e) * w * (lse.v - z.v);
        by_target[std::size_t(i * m + j)] = {v, (1 - e) * w * (lse.e + z.e + p.u * std::abs(z.v)) + 2 * p.u * std::abs(v)};
      }
    }
    add_by_weight(losses, all, 1, !c.sum);
  } else {
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < m; ++j) {
        const real sign = together(i, j) ? 1 : -1, b = c.bias, q = sign * (l.at(i, j).v + b);
        const real loss = q > 0 ? std::log1p(std::exp(-q)) : -q + std::log1p(std::exp(q)), g = 1 / (1 + std::exp(q));
        const real dq = l.at(i, j).e + p.u * (std::abs(b) + std::abs(q));
        l.value.v += loss / n,
            l.value.e += (std::min(1.0L, g * std::exp(dq)) * dq + (2 + sum_growth(n * m)) * p.u * loss + p.smallest) / n;
        l.pull(i, j) = {-sign * g / n, (std::min(1.0L, g * std::expm1(dq)) + 2 * p.u * g + p.smallest) / n};
        l.by_bias.v += l.pull(i, j).v, l.by_bias.e += l.pull(i, j).e + p.u * growth(n * m) / 2 * g / n;
      }
  }
  uncertain_rows gx(n, x.d), gy(m, x.d);
  uncertain by_scale;
  for (std::size_t q = 0; q < l.z.size(); ++q) by_scale.v += l.U[q].v * l.z[q].v;
  pull_logits(l.U, scale.s, x, y, p, gx, gy);
  by_scale.e = inner(x, gx);
  if (c.normalise) normalise_pullback(x, x_norm, gx, p), normalise_pullback(y, y_norm, gy, p);
  add_output(answer, "value", {l.value.v}, {l.value.e}, 1, 0, {p.u * 1.01L, 0, p.least, p.largest});
  const real upstream = c.upstream;
  if (c.want_x != want::none) add_output(answer, "x", gx.z, gx.dz, upstream, p.u, out);
  if (c.want_y != want::none) add_output(answer, "y", gy.z, gy.dz, upstream, p.u, out);
  add_log_scale(c, scale, by_scale, answer);
  const auto list = [&](const char* kind, const std::vector<uncertain>& from) {
    std::vector<real> v, off;
    for (const uncertain& q : from) v.push_back(q.v), off.push_back(q.e);
    add_output(answer, kind, v, off, upstream, p.u, p);
  };
  const bool by_both = c.verb != verb::sigmoid_contrastive && (!c.symmetric || n == m);
  if (c.want_x_weights != want::none && by_both) list("row_weights", by_weight);
  if (c.want_y_weights != want::none && c.soft) list("targets", by_target);
  if (c.want_second != want::none) add_output(answer, "bias", {l.by_bias.v}, {l.by_bias.e}, upstream, p.u, p);
}

}  // namespace fuzz
