// Draws cases: every number follows from the seed and the case's number.
#include <algorithm>
#include <cmath>
#include <limits>
#include <Eigen/Core>

#include "losses_case.hpp"

namespace fuzz {
namespace {

/// splitmix64: a few lines, and the same numbers everywhere.
class source {
 public:
  source(std::uint64_t seed, std::uint64_t number) : state_(seed * 0x9e3779b97f4a7c15u + number * 0xd1342543de82ef95u) {
    next();
    next();
  }
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double unit() { return double(next() >> 11) * 0x1.0p-53; }
  double between(double a, double b) { return a + (b - a) * unit(); }
  int below(int n) { return int(next() % std::uint64_t(n)); }
  bool chance(double p) { return unit() < p; }
  double normal() { return std::sqrt(-2 * std::log(1 - unit())) * std::cos(6.283185307179586 * unit()); }
  double power(double low, double high) { return std::pow(10.0, between(low, high)); }

 private:
  std::uint64_t state_;
};

void copy_row(const table& from, int i, table& to, int j) {
  for (int k = 0; k < to.cols; ++k) to.at(j, k) = from.at(i, k);
}

/// Two samples with what makes distances hard: offsets, clusters (if `apart`), duplicates, near duplicates, constant columns.
void draw_rows(source& r, test_case& c, double scale, bool apart) {
  table &x = c.x, &y = c.y;
  const int d = x.cols;
  const bool clustered = apart && r.chance(0.2), equal = r.chance(0.03), constant = r.chance(0.2);
  const double spread = r.power(0, 2), offset = apart && r.chance(0.35) ? r.power(0, 4) : 0,
               shift = r.chance(0.5) ? r.unit() : 0;
  std::vector<double> centre(std::size_t(3 * d));
  for (double& v : centre) v = clustered ? spread * r.normal() : 0;
  for (table* t : {&x, &y})
    for (int i = 0; i < t->rows; ++i) {
      const int group = r.below(3);
      for (int k = 0; k < d; ++k)
        t->at(i, k) = scale * (r.normal() + centre[std::size_t(group * d + k)] + offset + (t == &y ? shift : 0));
    }
  if (equal)
    for (table* t : {&x, &y})
      for (int i = 0; i < t->rows; ++i) copy_row(x, 0, *t, i);
  if (constant)
    for (int k = 0; k < d; ++k)
      if (r.chance(0.3)) {
        const double v = scale * r.normal();
        const bool both = r.chance(0.5);
        for (int i = 0; i < x.rows; ++i) x.at(i, k) = v;
        for (int i = 0; i < y.rows && both; ++i) y.at(i, k) = v;
      }
  const auto any = [&]() -> table& { return r.chance(double(x.rows) / (x.rows + y.rows)) ? x : y; };
  for (int kind = 0; kind < 3; ++kind) {  // duplicates, zeros, near duplicates
    if (!r.chance(0.25)) continue;
    for (int times = 1 + r.below(4); times > 0; --times) {
      table &from = any(), &to = any();
      const int i = r.below(from.rows), j = r.below(to.rows);
      if (kind != 1) copy_row(from, i, to, j);
      if (kind == 1) std::fill_n(&to.at(j, 0), d, 0.0);
      const double near = scale * (r.chance(0.8) ? r.power(-9, -3) : r.power(-30, -9));  // the latter show next to zeros
      for (int k = 0; k < d && kind == 2; ++k) to.at(j, k) += near * r.normal();
    }
  }
  for (table* t : {&x, &y})
    for (double& v : t->v) v = stored(c.type, c.type == scalar_type::f16 ? std::max(-6e4, std::min(6e4, v)) : v);
}

void draw_kernel(source& r, test_case& c, double scale) {
  const scalar_type computing = c.type == scalar_type::f64 ? scalar_type::f64 : scalar_type::f32;
  const bool two_bytes = c.type == scalar_type::f16 || c.type == scalar_type::bf16,
             distances_only = c.verb == verb::bandwidth_scale;
  const double kinds = r.unit();
  c.kernel = kinds < 0.5    ? kernel_type::any
             : kinds < 0.75 ? kernel_type::gaussians
             : kinds < 0.82 ? kernel_type::nested
             : kinds < 0.88 ? kernel_type::energy
             : kinds < 0.95 ? kernel_type::dot
                            : kernel_type::cosine;
  if (distances_only) c.kernel = kernel_type::energy;
  if (two_bytes && (c.kernel == kernel_type::nested || c.kernel == kernel_type::cosine)) c.kernel = kernel_type::any;
  if (c.rule != 0 || c.columns != 0 || c.normalise || c.statistics == 2) scale = 1;
  if (r.chance(0.1)) scale *= r.power(-3, 3);
  const auto in_type = [&](double v) { return stored(computing, v); };
  const auto draw = [&](family f) {
    member m;
    m.family = f;
    m.weight = r.chance(0.5) ? 1 : in_type(r.normal() * r.power(-1, 1));
    m.bandwidth = f == family::energy ? 1 : in_type(scale * r.power(-1, 1) * std::sqrt(double(c.x.cols)));
    if (f == family::rational_quadratic)
      m.shape = in_type(r.chance(0.3) ? r.power(2, 7) : r.power(-1, 1));
    else if (f != family::gaussian && r.chance(0.2))
      m.shape = in_type(scale * scale * r.power(-8, -1));
    return m;
  };
  const auto any_family = [&] { return family(r.below(5)); };
  c.members.clear();
  if (c.kernel == kernel_type::any) {
    for (int count = r.chance(0.6) ? 1 : 1 + r.below(r.chance(0.2) ? 16 : 4); count > 0; --count)
      c.members.push_back(draw(any_family()));
  } else if (c.kernel == kernel_type::gaussians) {
    const int count = r.chance(0.15) ? 1 + r.below(64) : 1 + r.below(7);
    c.series = r.chance(0.7) ? 2 + r.below(r.chance(0.5) ? 1 : 7) : 0;
    member m = draw(family::gaussian);
    for (int q = 0; q < count; ++q) {
      const double next = c.series ? m.bandwidth / std::sqrt(double(c.series)) : draw(family::gaussian).bandwidth;
      if (q > 0) m.bandwidth = in_type(next);
      if (m.bandwidth < scale * 1e-4 && q > 0) break;
      if (r.chance(0.5)) m.weight = in_type(r.normal());
      c.members.push_back(m);
    }
    if (r.chance(0.3)) std::reverse(c.members.begin(), c.members.end());
  } else if (c.kernel == kernel_type::nested) {
    c.members = {draw(family::rational_quadratic), draw(family::gaussian), draw(family::inverse_multiquadric)};
    c.members[2].weight = c.members[1].weight;  // one weight of both
  } else if (c.kernel == kernel_type::energy) {
    c.members = {draw(family::energy)};
    c.members[0].weight = 1;
  }
}

want draw_want(source& r) { return r.chance(0.25) ? want::none : r.chance(0.6) ? want::overwrite : want::accumulate; }

void draw_weights(source& r, std::vector<double>& w, int n) {
  w.resize(std::size_t(n));
  const double scale = r.chance(0.1) ? r.power(-20, 20) : 1;
  for (double& v : w) v = r.chance(0.15) ? 0 : scale * r.unit();
  if (r.chance(0.1)) w[std::size_t(r.below(n))] = scale * r.power(2, 6);
  if (r.chance(0.02)) std::fill(w.begin(), w.end(), 0.0);
}

void draw_mmd(source& r, test_case& c) {
  c.estimator = r.chance(0.5) ? 0 : 1 + r.below(2);
  if (c.x.rows < 2 || c.y.rows < 2) c.estimator = 0;
  if (r.chance(0.3)) c.rule = 1 + r.below(4);
  c.sample = r.chance(0.3);
  c.rule_gradient = r.chance(0.5);
  if (r.chance(0.2)) c.columns = 1 + r.below(2);
  c.column_gradient = r.chance(0.7);
  if (r.chance(0.3)) c.column_eps = r.power(-8, 0);
  c.normalise = false;
  if (c.estimator != 2 && r.chance(0.3)) draw_weights(r, c.x_weights, c.x.rows);
  if (c.estimator != 2 && r.chance(0.3)) draw_weights(r, c.y_weights, c.y.rows);
  if (r.chance(0.2)) c.factor = r.normal();
  if (r.chance(0.1)) c.offset = r.normal();
}

void draw_alignment(source& r, test_case& c) {
  const int n = c.x.rows, m = c.y.rows;
  if (c.verb == verb::anchor_cross_entropy) {
    c.soft = r.chance(0.3);
    if (c.soft) {
      c.targets = table(n, m);
      for (int i = 0; i < n; ++i) {
        double sum = 0;
        for (int j = 0; j < m; ++j) sum += c.targets.at(i, j) = r.unit();
        for (int j = 0; j < m; ++j) c.targets.at(i, j) = double(float(c.targets.at(i, j) / (r.chance(0.9) ? sum : 1)));
      }
    } else {
      for (int i = 0; i < n; ++i) c.x_labels.push_back(r.chance(0.1) ? -100 : r.below(m));
    }
    c.sum = r.chance(0.3);
  } else if (n != m || r.chance(0.4)) {
    const int classes = 1 + r.below(n + m);
    for (int i = 0; i < n; ++i) c.x_labels.push_back(r.below(classes));
    for (int j = 0; j < m; ++j) c.y_labels.push_back(r.below(classes));
  }
  c.symmetric = c.verb == verb::info_nce && r.chance(0.5);
  if (c.verb != verb::sigmoid_contrastive) {
    if (r.chance(0.3)) c.smoothing = r.chance(0.1) ? 1 : r.between(0, 0.5);
    if (r.chance(0.3) && (!c.symmetric || n == m)) draw_weights(r, c.x_weights, n);
  } else {
    c.bias = r.chance(0.5) ? -10 : 5 * r.normal();
  }
}

/// Images are x, class texts y.
void draw_objective(source& r, test_case& c, double scale) {
  const int n = c.x.rows, C = c.y.rows, d = c.x.cols;
  c.x_labels.clear(), c.y_labels.clear(), c.x_weights.clear();
  for (int i = 0; i < n; ++i) c.x_labels.push_back(r.below(C));
  const auto more = [&](table& first, table& second, int rows, int others) {
    test_case rest = c;
    rest.x = table(rows, d), rest.y = table(others, d);
    draw_rows(r, rest, scale, true);
    first = rest.x, second = rest.y;
  };
  more(c.batch_texts, c.image_anchors, n, C);
  table unused;
  const int m = 1 + r.below(12);
  more(c.target_images, unused, m, 1);
  for (int times = r.chance(0.4) ? 1 + r.below(3) : 0; times > 0; --times)
    copy_row(c.x, r.below(n), c.target_images, r.below(m));
  if (r.chance(0.4)) c.batch_texts = table();
  if (r.chance(0.3)) c.image_anchors = table();
  if (r.chance(0.2)) c.target_images = table();
  for (double* weight : {&c.text, &c.image, &c.batch, &c.mmd}) *weight = r.chance(0.6) ? 1 : r.chance(0.2) ? 0 : 3 * r.unit();
  c.same_class = r.chance(0.3), c.symmetric = r.chance(0.4);
  if (r.chance(0.3)) c.smoothing = r.between(0, 0.5);
  draw_mmd(r, c);
  c.normalise = true, c.columns = 0;
  c.x_weights.clear(), c.y_weights.clear();
  if (n < 2 || m < 2) c.estimator = 0;
  // The kernel sees rows of C cosines times the scale.
  test_case space = c;
  space.x = table(1, C), space.normalise = false, space.verb = verb::mmd;
  do draw_kernel(r, space, std::exp(c.log_scale));
  while (space.kernel != kernel_type::any);
  c.kernel = space.kernel, c.members = space.members, c.series = 0;
}

}  // namespace

double stored(scalar_type t, double v) {
  switch (t) {
    case scalar_type::f64:
      return v;
    case scalar_type::f32:
      return double(float(v));
    case scalar_type::f16:
      return double(float(Eigen::half(float(v))));
    case scalar_type::bf16:
      return double(float(Eigen::bfloat16(float(v))));
  }
  return v;
}
precision of_computing(scalar_type t) {
  return t == scalar_type::f64 ? precision{0x1p-53L, 0x1p-1022L, 0x1p-1074L, std::numeric_limits<double>::max()}
                               : precision{0x1p-24L, 0x1p-126L, 0x1p-149L, std::numeric_limits<float>::max()};
}
precision of_storage(scalar_type t) {
  if (t == scalar_type::f16) return {0x1p-11L, 0x1p-14L, 0x1p-24L, 65504};
  if (t == scalar_type::bf16) return {0x1p-8L, 0x1p-126L, 0x1p-133L, 0x1.fep127L};
  return of_computing(t);
}

test_case draw_case(std::uint64_t seed, std::uint64_t number) {
  source r(seed, number);
  test_case c;
  const double verbs = r.unit();
  c.verb = verbs < 0.4    ? verb::mmd
           : verbs < 0.44 ? verb::bandwidth_scale
           : verbs < 0.48 ? verb::two_sample_test
           : verbs < 0.57 ? verb::relative
           : verbs < 0.69 ? verb::relative_pullback
           : verbs < 0.78 ? verb::anchor_cross_entropy
           : verbs < 0.86 ? verb::info_nce
           : verbs < 0.92 ? verb::sigmoid_contrastive
                          : verb::objective;
  const double types = r.unit();
  c.type = types < 0.45  ? scalar_type::f32
           : types < 0.8 ? scalar_type::f64
           : types < 0.9 ? scalar_type::f16
                         : scalar_type::bf16;
  const bool small = r.chance(0.7), alignment = c.verb >= verb::anchor_cross_entropy;
  const int least = c.verb == verb::two_sample_test ? 2 : 1;
  const int n = least + r.below(small ? 6 : 40), m = alignment && r.chance(0.6) ? n : least + r.below(small ? 6 : 40);
  const int d = r.chance(0.02) ? 300 : 1 + r.below(small ? 8 : 64);
  c.x = table(n, d), c.y = table(m, d);
  if (r.chance(0.5)) c.tile = 1 + r.below(9);
  c.threads = 1 + r.chance(0.1);
  if (r.chance(0.4)) c.padding = 1 + r.below(5);
  c.want_x = draw_want(r), c.want_y = draw_want(r), c.want_first = draw_want(r), c.want_second = draw_want(r);
  if (r.chance(0.4)) c.want_x_weights = draw_want(r), c.want_y_weights = draw_want(r);
  if (r.chance(0.3)) c.upstream = r.normal() * r.power(-2, 2);

  double scale = r.chance(0.6)                ? 1
                 : c.type == scalar_type::f16 ? r.power(-2, 2)
                 : r.chance(0.3)              ? r.power(-20, 20)
                                              : r.power(-13, 13);
  if (c.verb == verb::mmd) draw_mmd(r, c);
  if (c.verb == verb::two_sample_test) c.estimator = 1, c.rule = r.chance(0.3) ? 1 + r.below(4) : 0, c.normalise = false;
  if (c.verb == verb::bandwidth_scale) c.rule = r.below(5), c.sample = r.chance(0.3), c.normalise = false;
  if (c.verb == verb::relative || c.verb == verb::relative_pullback) {
    c.normalise = r.chance(0.5);
    c.statistics = r.chance(0.5) ? 0 : m > 1 ? 1 + r.below(2) : 1;
    c.statistics_gradient = r.chance(0.7);
    c.dout = table(n, m);
    for (double& v : c.dout.v) v = stored(c.type, r.chance(0.1) ? 0 : r.normal());
  }
  draw_kernel(r, c, scale);
  if (c.kernel == kernel_type::dot || c.kernel == kernel_type::cosine) scale = std::pow(scale, 0.5), c.rule = 0;
  if (alignment) {
    c.normalise = r.chance(0.7);
    c.log_scale = r.chance(0.2) ? std::log(100.0) : r.between(-2, 4);
    if (!c.normalise) scale = std::sqrt(20 / std::exp(c.log_scale) / std::sqrt(double(d))) * r.between(0.3, 1);
    draw_alignment(r, c);
  } else if (c.verb != verb::mmd && r.chance(0.5)) {
    c.log_scale = r.between(-3, 4);
  }
  if (c.verb >= verb::relative && r.chance(0.3))
    c.max_scale = r.chance(0.3) ? std::exp(c.log_scale) : std::exp(c.log_scale + r.normal());
  draw_rows(r, c, scale, !alignment || c.normalise);
  if (c.verb == verb::objective) draw_objective(r, c, scale);
  return c;
}

}  // namespace fuzz
