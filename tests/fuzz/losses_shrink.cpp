// Makes cases simpler, and prints them.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "losses_case.hpp"

namespace fuzz {
namespace {

template <class T>
void erase(std::vector<T>& v, int i) {
  if (!v.empty()) v.erase(v.begin() + i);
}
void erase_row(table& t, int i) {
  if (t.rows == 0) return;
  const auto at = t.v.begin() + long(i) * t.cols;
  t.v.erase(at, at + t.cols);
  --t.rows;
}
void erase_column(table& t, int k) {
  if (t.cols == 0) return;
  table to(t.rows, t.cols - 1);
  for (int i = 0; i < t.rows; ++i)
    for (int q = 0, at = 0; q < t.cols; ++q)
      if (q != k) to.at(i, at++) = t.at(i, q);
  t = to;
}
void erase_x(test_case& c, int i) {
  erase_row(c.x, i), erase_row(c.dout, i), erase_row(c.targets, i), erase_row(c.batch_texts, i);
  erase(c.x_weights, i), erase(c.x_labels, i);
}
void erase_y(test_case& c, int j) {
  erase_row(c.y, j), erase_column(c.dout, j), erase_column(c.targets, j), erase_row(c.image_anchors, j);
  erase(c.y_weights, j), erase(c.y_labels, j);
  if (c.verb == verb::anchor_cross_entropy || c.verb == verb::objective)
    for (int& l : c.x_labels) l = l > j || (l == j && j == c.y.rows) ? l - 1 : l;
}
int least_rows(const test_case& c) { return c.estimator != 0 ? 2 : 1; }

double digits(double v, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, v);
  return std::strtod(text, nullptr);
}

/// The numbers of a table one by one: 0, 1, or with fewer digits.
template <class Get>
void simpler_numbers(const test_case& c, const Get& get, std::vector<test_case>& out) {
  test_case copy = c;
  for (std::size_t i = 0; i < get(copy).size(); ++i) {
    const double v = get(copy)[i];
    for (const double w : {0.0, 1.0, digits(v, "%.0e"), digits(v, "%.1e"), digits(v, "%.3e"), digits(v, "%.6e")}) {
      const double s = stored(c.type, w);
      if (s == v) break;
      test_case smaller = c;
      get(smaller)[i] = s;
      out.push_back(smaller);
    }
  }
}

std::string number(double v) {
  char text[40];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, v);
    if (std::strtod(text, nullptr) == v) break;
  }
  return text;
}
std::string numbers(const std::vector<double>& v, int cols) {
  std::string s = "{";
  for (std::size_t i = 0; i < v.size(); ++i) {
    if (i == 200) return s + ", ...}";
    s += (i == 0 ? "" : cols > 0 && i % std::size_t(cols) == 0 ? ",  " : ", ") + number(v[i]);
  }
  return s + "}";
}

}  // namespace

std::vector<test_case> simpler(const test_case& c) {
  std::vector<test_case> out;
  const auto add = [&](const auto& change) {
    test_case s = c;
    change(s);
    out.push_back(s);
  };
  const bool paired = c.verb >= verb::info_nce && c.x_labels.empty();
  const bool together = paired || (c.symmetric && !c.x_weights.empty());
  for (int half = 2; half >= 1; --half)  // half of them, then one by one
    for (int first = 0; first < std::max(c.x.rows, c.y.rows); ++first) {
      const auto erase_range = [&](int rows, const auto& f) {
        const int count = half == 2 ? rows / 2 : 1;
        if (half == 2 && (first > 1 || count < 2)) return;
        const int from = half == 2 ? first * (rows - count) : first;
        if (from + count > rows || rows - count < least_rows(c)) return;
        add([&](test_case& s) {
          for (int q = 0; q < count; ++q) f(s, from);
        });
      };
      if (together) {
        erase_range(c.x.rows, [](test_case& s, int i) { erase_x(s, i), erase_y(s, i); });
      } else {
        erase_range(c.x.rows, erase_x);
        erase_range(c.y.rows, erase_y);
      }
    }
  for (int i = 0; i < c.target_images.rows && c.target_images.rows > least_rows(c); ++i)
    add([&](test_case& s) { erase_row(s.target_images, i); });
  for (const auto t : {&test_case::batch_texts, &test_case::image_anchors, &test_case::target_images})
    if ((c.*t).rows > 0) add([&](test_case& s) { s.*t = table(); });
  const auto columns = [&](int from, int count) {
    add([&](test_case& s) {
      for (table* t : {&s.x, &s.y, &s.batch_texts, &s.image_anchors, &s.target_images})
        for (int q = 0; q < count; ++q) erase_column(*t, from);
    });
  };
  if (c.x.cols > 3) columns(0, c.x.cols / 2), columns(c.x.cols / 2, c.x.cols - c.x.cols / 2);
  for (int k = 0; k < c.x.cols && c.x.cols > 1; ++k) columns(k, 1);
  const bool fixed = c.kernel == kernel_type::nested || c.kernel == kernel_type::energy;
  for (std::size_t q = 0; q < c.members.size(); ++q) {
    if (c.members.size() > 1 && !fixed) add([&](test_case& s) { erase(s.members, int(q)); });
    if (c.members[q].weight != 1 && !fixed) add([&](test_case& s) { s.members[q].weight = 1; });
    for (const double v : {1.0, digits(c.members[q].bandwidth, "%.0e"), digits(c.members[q].bandwidth, "%.2e")})
      if (stored(scalar_type::f32, v) != c.members[q].bandwidth && c.members[q].family != family::energy && c.series == 0)
        add([&](test_case& s) { s.members[q].bandwidth = stored(scalar_type::f32, v); });
    const bool exponent = c.members[q].family == family::rational_quadratic;
    for (const double v : {exponent ? 1.0 : 0.0, digits(c.members[q].shape, "%.0e")})
      if (stored(scalar_type::f32, v) != c.members[q].shape)
        add([&](test_case& s) { s.members[q].shape = stored(scalar_type::f32, v); });
  }
  const auto reset = [&](auto test_case::*option, auto to) {
    if (c.*option != to) add([&](test_case& s) { s.*option = to; });
  };
  const test_case plain;
  reset(&test_case::tile, 0), reset(&test_case::threads, 1), reset(&test_case::padding, 0),
      reset(&test_case::upstream, 1.0);
  for (const auto w : {&test_case::want_x, &test_case::want_y, &test_case::want_first, &test_case::want_second,
                       &test_case::want_x_weights, &test_case::want_y_weights}) {
    reset(w, want::none);
    if (c.*w == want::accumulate) reset(w, want::overwrite);
  }
  for (const auto o : {&test_case::estimator, &test_case::rule, &test_case::sample, &test_case::columns,
                       &test_case::statistics, &test_case::series})
    reset(o, 0);
  for (const auto o : {&test_case::rule_gradient, &test_case::sum, &test_case::symmetric, &test_case::same_class})
    reset(o, false);
  if (c.verb != verb::objective) reset(&test_case::normalise, false);
  for (const auto o : {&test_case::text, &test_case::image, &test_case::batch, &test_case::mmd})
    if (c.verb == verb::objective && c.*o != 0) reset(o, 0.0), reset(o, 1.0);
  for (const auto o : {&test_case::column_gradient, &test_case::statistics_gradient}) reset(o, true);
  for (const auto o : {&test_case::column_eps, &test_case::factor, &test_case::offset, &test_case::smoothing,
                       &test_case::bias, &test_case::log_scale, &test_case::max_scale})
    reset(o, plain.*o);
  for (const auto o : {&test_case::x_weights, &test_case::y_weights}) reset(o, std::vector<double>());
  if (c.x.v.size() + c.y.v.size() > 60) return out;
  simpler_numbers(
      c, [](test_case& s) -> std::vector<double>& { return s.x.v; }, out);
  simpler_numbers(
      c, [](test_case& s) -> std::vector<double>& { return s.y.v; }, out);
  simpler_numbers(
      c, [](test_case& s) -> std::vector<double>& { return s.dout.v; }, out);
  simpler_numbers(
      c, [](test_case& s) -> std::vector<double>& { return s.targets.v; }, out);
  return out;
}

std::string describe(const test_case& c) {
  const auto name = [](const char* n, const auto& v, const auto& standard, const std::string& text) {
    return v == standard ? std::string() : std::string("  ") + n + " = " + text + ";\n";
  };
  const test_case plain;
  const auto table_text = [&](const char* n, const table& t) {
    return t.rows == 0 ? std::string()
                       : std::string("  ") + n + " (" + std::to_string(t.rows) + " x " + std::to_string(t.cols) +
                             ") = " + numbers(t.v, t.cols) + ";\n";
  };
  std::string s = std::string("craft::") + verb_names[int(c.verb)] + ", " + scalar_names[int(c.type)] + ":\n";
  s += table_text("x", c.x) + table_text("y", c.y) + table_text("dout", c.dout) + table_text("soft targets", c.targets) +
       table_text("batch_texts", c.batch_texts) + table_text("image_anchors", c.image_anchors) +
       table_text("target_images", c.target_images);
  const char* const kernels[] = {"any_kernel", "gaussians", "w0 * k0 + w1 * (k1 + k2)", "energy", "dot_product", "cosine"};
  if ((c.verb < verb::anchor_cross_entropy && c.verb != verb::bandwidth_scale) || c.verb == verb::objective) {
    s += std::string("  kernel = ") + kernels[int(c.kernel)];
    for (const member& m : c.members)
      s += std::string(", ") + number(m.weight) + " * " + family_names[int(m.family)] + "(" + number(m.bandwidth) +
           (m.shape != 0 ? ", " + number(m.shape) : "") + ")";
    s += ";\n";
  }
  const char* const estimators[] = {"biased", "unbiased", "linear"};
  const char* const rules[] = {"fixed", "mean", "mean_offdiagonal", "median", "median_mid"};
  const char* const scalings[] = {"none", "minmax_separate", "minmax_joint"};
  const char* const statistics[] = {"none", "centre", "standardise"};
  s += name("estimator", c.estimator, 0, estimators[c.estimator]) + name("bandwidth.rule", c.rule, 0, rules[c.rule]);
  s += name("bandwidth.sample", c.sample, 0, "x") + name("bandwidth.gradient", c.rule_gradient, false, "true");
  s += name("columns", c.columns, 0, scalings[c.columns]) + name("column_gradient", c.column_gradient, true, "false");
  s += name("column_eps", c.column_eps, 1e-8, number(c.column_eps)) + name("factor", c.factor, 1, number(c.factor));
  s += name("offset", c.offset, 0, number(c.offset)) + name("upstream", c.upstream, 1, number(c.upstream));
  s += name("statistics", c.statistics, 0, statistics[c.statistics]) +
       name("statistics_gradient", c.statistics_gradient, true, "false");
  if (c.verb >= verb::relative) s += std::string("  normalise = ") + (c.normalise ? "true" : "false") + ";\n";
  s += name("log_scale", c.log_scale, c.verb >= verb::anchor_cross_entropy ? HUGE_VAL : 0, number(c.log_scale));
  s +=
      name("max_scale", c.max_scale, 0, number(c.max_scale)) + name("label_smoothing", c.smoothing, 0, number(c.smoothing));
  if (c.verb == verb::sigmoid_contrastive) s += "  bias = " + number(c.bias) + ";\n";
  if (c.verb == verb::objective)
    s += "  weights: text " + number(c.text) + ", image " + number(c.image) + ", batch " + number(c.batch) + ", mmd " +
         number(c.mmd) + (c.same_class ? "; same_class_positives" : "") + ";\n";
  s += name("direction", c.symmetric, false, "symmetric") + name("reduce", c.sum, false, "sum");
  const auto list = [&](const char* n, const auto& v) {
    return v.empty() ? std::string()
                     : std::string("  ") + n + " = " + numbers(std::vector<double>(v.begin(), v.end()), 0) + ";\n";
  };
  s += list("x_weights", c.x_weights) + list("y_weights", c.y_weights) + list("x_labels", c.x_labels) +
       list("y_labels", c.y_labels);
  const char* const wants[] = {"-", "overwrite", "accumulate"};
  s += std::string("  gradients: x ") + wants[int(c.want_x)] + ", y " + wants[int(c.want_y)] + ", weights/log_scale " +
       wants[int(c.want_first)] + ", bandwidths/bias " + wants[int(c.want_second)] + ", x_weights/weights " +
       wants[int(c.want_x_weights)] + ", y_weights/targets " + wants[int(c.want_y_weights)] + ";\n";
  s += "  craft::cpu ctx(" + std::to_string(c.threads) + "), tile " + std::to_string(c.tile) + ", padding " +
       std::to_string(c.padding) + "\n";
  return s;
}

}  // namespace fuzz
