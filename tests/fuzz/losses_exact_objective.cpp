// The objective in long double: its alignment terms as they are alone, and MMD between relative representations that err
// themselves.
#include "losses_exact.hpp"

namespace fuzz {
namespace {

/// A gradient that several terms add to.
struct total_gradient {
  std::vector<real> v, bound;
  explicit total_gradient(const table& t) : v(t.v.size()), bound(t.v.size()) {}
  void add(std::size_t at, real value, real off) { v[at] += value, bound[at] += off; }
  void add(const exact_output& o) {
    for (std::size_t i = 0; i < v.size(); ++i) add(i, o.value[i], o.bound[i]);
  }
  void add(const uncertain_rows& g, real factor, int first = 0) {
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::size_t at = i + std::size_t(first * g.d);
      add(i, factor * g.z[at], untypical * std::abs(factor) * g.dz[at]);
    }
  }
  void give(const char* kind, want w, const precision& computing, const precision& out, exact_answer& answer) const {
    if (w == want::none || v.empty()) return;
    exact_output o;
    o.kind = kind, o.value = v;
    for (std::size_t i = 0; i < v.size(); ++i)
      o.bound.push_back(bound[i] + (4 * computing.u + out.u) * std::abs(v[i]) + 4 * out.least);
    answer.outputs.push_back(o);
  }
};

table gathered(const table& y, const std::vector<int>& rows) {
  table t(int(rows.size()), y.cols);
  for (int i = 0; i < t.rows; ++i)
    for (int k = 0; k < t.cols; ++k) t.at(i, k) = y.at(rows[std::size_t(i)], k);
  return t;
}
/// Which rows are the same numbers.
std::vector<int> equal_rows(const table& x, const table& y) {
  std::vector<int> first;
  const auto at = [&](int i, int k) { return i < x.rows ? x.at(i, k) : y.at(i - x.rows, k); };
  for (int i = 0; i < x.rows + y.rows; ++i)
    for (int j = 0; j <= i; ++j) {
      bool same = true;
      for (int k = 0; k < x.cols; ++k) same = same && at(i, k) == at(j, k);
      if (same) {
        first.push_back(j);
        break;
      }
    }
  return first;
}

}  // namespace

void exact_objective(const test_case& c, exact_answer& answer) {
  const precision p = of_computing(c.type), out = of_storage(c.type);
  const bool gathers = c.batch_texts.rows == 0;
  const table paired = gathers ? gathered(c.y, c.x_labels) : c.batch_texts;
  total_gradient images(c.x), texts(c.y), batch_texts(paired), anchors(c.image_anchors), targets(c.target_images);
  real log_scale = 0, log_scale_error = 0, total = 0, total_bound = 0;
  const auto value = [&](const char* kind, real weight, real v, real bound) {
    exact_output o;
    o.kind = kind, o.value = {v}, o.bound = {bound};
    answer.outputs.push_back(o);
    total += weight * v, total_bound += weight * (bound + 3 * p.u * std::abs(v));
  };
  const auto term = [&](const char* kind, bool taken, verb loss, real weight, const table& x, const table& y,
                        total_gradient& gx, total_gradient& gy) {
    if (!taken || weight == 0) return value(kind, 0, 0, p.least);
    test_case t = c;
    t.verb = loss, t.x = x, t.y = y, t.upstream = double(weight) * c.upstream;
    t.want_x = t.want_y = t.want_first = want::overwrite,
    t.want_second = t.want_x_weights = t.want_y_weights = want::none;
    t.type = c.type == scalar_type::f64 ? scalar_type::f64 : scalar_type::f32;
    t.x_weights.clear();
    if (loss == verb::info_nce) t.smoothing = 0;
    if (loss == verb::info_nce && c.same_class) t.y_labels = c.x_labels;
    if (loss == verb::info_nce && !c.same_class) t.x_labels.clear();
    exact_answer one;
    exact_alignment(t, one);
    const exact_output& o = *one.find("value");
    value(kind, weight, o.value[0], o.bound[0]);
    gx.add(*one.find("x")), gy.add(*one.find("y"));
    log_scale += weight * one.by_log_scale;
    log_scale_error = std::hypot(log_scale_error, weight * one.by_log_scale_error);
  };
  term("text", true, verb::anchor_cross_entropy, c.text, c.x, c.y, images, texts);
  term("image", c.image_anchors.rows > 0, verb::anchor_cross_entropy, c.image, paired, c.image_anchors, batch_texts,
       anchors);
  term("batch", true, verb::info_nce, c.batch, c.x, paired, images, batch_texts);

  const scale_of_logits scale = logit_scale(c);
  if (c.target_images.rows > 0 && c.mmd > 0) {
    const int n = c.x.rows, m = c.target_images.rows, C = c.y.rows, d = c.x.cols;
    uncertain_rows x(n + m, d), y = load(c.y), r(n + m, C);
    std::copy(c.x.v.begin(), c.x.v.end(), x.z.begin());
    std::copy(c.target_images.v.begin(), c.target_images.v.end(), x.z.begin() + long(c.x.v.size()));
    const std::vector<real> x_norm = normalise(x, p), y_norm = normalise(y, p);
    for (int i = 0; i < n + m; ++i)
      for (int j = 0; j < C; ++j) {
        const uncertain s = dot(x, i, y, j, p.u);
        r.at(i, j) = scale.s * s.v, r.error(i, j) = scale.s * (s.e + 2 * p.u * std::abs(s.v));
      }
    test_case t = c;
    t.verb = verb::mmd, t.x = table(n, C), t.y = table(m, C), t.upstream = c.mmd;
    t.want_x = t.want_y = want::overwrite, t.want_first = t.want_second = want::none;
    t.want_x_weights = t.want_y_weights = want::none;
    t.type = c.type == scalar_type::f64 ? scalar_type::f64 : scalar_type::f32;
    const given_rows made{&r, equal_rows(c.x, c.target_images)};
    exact_answer one;
    exact_mmd(t, one, &made);
    answer.may_refuse = one.may_refuse, answer.must_refuse = one.must_refuse;
    if (one.must_refuse) return;
    const exact_output &v = *one.find("value"), &of_x = *one.find("x"), &of_y = *one.find("y");
    value("mmd", c.mmd, v.value[0], v.bound[0]);
    std::vector<uncertain> U;
    for (const exact_output* o : {&of_x, &of_y})
      for (std::size_t q = 0; q < o->value.size(); ++q) U.push_back({o->value[q], o->bound[q] / untypical});
    uncertain_rows gx(n + m, d), gy(C, d);
    pull_logits(U, scale.s, x, y, p, gx, gy);
    for (std::size_t q = 0; q < U.size(); ++q) log_scale += U[q].v * r.z[q];
    log_scale_error = std::hypot(log_scale_error, inner(x, gx));
    normalise_pullback(x, x_norm, gx, p), normalise_pullback(y, y_norm, gy, p);
    images.add(gx, c.upstream), targets.add(gx, c.upstream, n), texts.add(gy, c.upstream);
    if (!v.compared || !of_x.compared) answer.outputs.clear();  // the documentation leaves open what comes out
    if (answer.outputs.empty()) return;
  } else {
    value("mmd", 0, 0, p.least);
  }
  if (gathers)
    for (int i = 0; i < paired.rows; ++i)
      for (int k = 0; k < paired.cols; ++k) {
        const std::size_t from = std::size_t(i * paired.cols + k),
                          to = std::size_t(c.x_labels[std::size_t(i)] * paired.cols + k);
        texts.add(to, batch_texts.v[from], batch_texts.bound[from] + paired.rows * p.u * std::abs(batch_texts.v[from]));
      }
  value("total", 0, total, total_bound + 4 * p.least);
  images.give("x", c.want_x, p, out, answer), texts.give("y", c.want_y, p, out, answer);
  if (!gathers) batch_texts.give("batch_texts", c.want_second, p, out, answer);
  anchors.give("image_anchors", c.want_x_weights, p, out, answer);
  targets.give("target_images", c.want_y_weights, p, out, answer);
  add_log_scale(c, scale, {log_scale, log_scale_error}, answer);
}

}  // namespace fuzz
