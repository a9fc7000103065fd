// Anchors: the rows that everything else is described by. Class means, k-means centres (kmeans.hpp), medoids, random, stratified
// and farthest rows, and subsets drawn anew each step. All seeded, and the same for any number of threads. Functions that choose
// rows return their indices, so that parallel anchors of two modalities are the same indices gathered from both.
//
// Sources: J. Sun et al., "Craft", arXiv 2407.15894 (static anchors: class means; stochastic anchors); T. Gonzalez, Theor. Comput.
// Sci. 38 (1985) (farthest point).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "craft/engine/cpu_engine.hpp"
#include "craft/kmeans.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/columns.hpp"

namespace craft {

// ---------------------------------------------------------------------------------------------------------
// Centres

/// How class_means are taken.
struct class_means_options {
  bool normalise = false;  ///< divide the rows by their norm first, and the means by theirs
};

/// out_c = mean of the rows of x (n x d) with label c; out: C x d. Craft's static anchors.
/// Throws shape_error (also a class without rows), label_error (label outside [0, C)), alias_error; a class without rows whose
/// labels nobody looked at (cuda::check_labels) is NaN. Cost: O(n d).
template <class Context, class X, class Out>
void class_means(const Context& ctx, const X& x, const labels& y, const class_means_options& options, Out&& out) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const auto to = detail::writable(out);
  const index_t n = xv.rows(), d = xv.cols(), classes = to.rows();
  typename Context::engine e(ctx);
  engine::checks check("class_means");
  check.input("x", xv, e);
  require<shape_error>(classes > 0, "class_means: out has no rows, expected one per class");
  check.destination("out", to, classes, d);
  check.labels_of("labels", y, "x", classes, 0, e);
  if (const labels on_host = seen(e, y); !on_host.empty()) {
    engine::host_zeros<index_t> rows(e, classes);
    for (index_t i = 0; i < n; ++i) ++rows[on_host[i]];
    for (index_t c = 0; c < classes; ++c)
      require<shape_error>(rows[c] > 0, "class_means: class ", c, " has no rows");
  }
  check.no_overlap();
  const index_t* group = engine::converted<index_t>(e, y);
  index_t* counts = e.template take<index_t>(classes);

  engine::rows<T> r = engine::take_rows<T>(e, n, d);
  T *means = e.template take<T>(classes * d), *norms = e.template take<T>((std::max)(n, classes));
  fill(e, means, classes * d, std::numeric_limits<T>::quiet_NaN());  // of a class that nobody could see to have no rows
  load(e, xv, r.data);
  if (options.normalise) normalise(e, r.data, n, d, norms);
  group_means(e, r, group, classes, means, counts);
  if (options.normalise) normalise(e, means, classes, d, norms);
  store(e, means, overwrite(to), 1.0);
}

// ---------------------------------------------------------------------------------------------------------
// Rows, by index

/// The row of x (n x d) nearest to each centre (k x d), the lowest on ties. Throws shape_error, data_error as kmeans.
/// Cost: n k d multiply-adds.
template <class Context, class X, class C>
std::vector<index_t> medoids(const Context& ctx, const X& x, const C& centres) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, C>();
  const matrix_view<const S, Context::space> xv = view(x), cv = view(centres);
  const index_t k = cv.rows(), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("medoids");
  check.same_columns("x", xv, "centres", cv);
  check.finite_input("x", xv, e);
  check.finite_input("centres", cv, e);
  // Centred together, on the mean of x.
  const index_t n = xv.rows();
  const engine::rows<T> all = engine::take_rows<T>(e, n + k, d);
  const engine::rows<T> r{all.data, n, d, all.squared}, c{all.data + n * d, k, d, all.squared + n};
  double* mean = e.template take<double>(d);
  load(e, xv, r.data);
  centre(e, r.data, n, d, mean);
  load(e, cv, c.data);
  subtract(e, c.data, k, d, mean);
  check.squarable("x and centres", all.data, (n + k) * d, d, e);
  e.square_norms(all);
  index_t* index = e.template take<index_t>(k);
  e.nearest(c, r, index, e.template take<T>(k));
  const index_t* found = e.on_host(index, k);
  return std::vector<index_t>(found, found + k);
}

/// `count` different rows out of n, in random order. `step` selects another draw of the same seed: stochastic anchors, new ones
/// each step. Throws shape_error unless 0 <= count <= n.
inline std::vector<index_t> random_anchors(index_t n, index_t count, std::uint64_t seed, std::uint64_t step = 0) {
  require<shape_error>(count >= 0 && count <= n, "random_anchors: expected 0 to ", n, " anchors, got ", count);
  engine::random_source random(seed, step);
  std::vector<index_t> candidates(static_cast<std::size_t>(n)), out;
  std::iota(candidates.begin(), candidates.end(), index_t(0));
  out.reserve(static_cast<std::size_t>(count));
  engine::draw(random, candidates, count, out);
  return out;
}

/// `per_class` different rows of each class, class after class. Throws label_error for a label outside [0, classes), shape_error for
/// a class with too few rows.
inline std::vector<index_t> stratified_anchors(const labels& y, index_t classes, index_t per_class, std::uint64_t seed,
                                               std::uint64_t step = 0) {
  require<shape_error>(classes >= 1 && per_class >= 0, "stratified_anchors: expected at least one class, got ", classes,
                       ", and no negative count, got ", per_class);
  require<device_error>(y.where() == memory::host, "stratified_anchors: labels must lie in host memory");
  auto members = engine::rows_by_class(engine::checks("stratified_anchors"), y, classes);
  engine::random_source random(seed, step);
  std::vector<index_t> out;
  out.reserve(static_cast<std::size_t>(classes * per_class));
  for (index_t c = 0; c < classes; ++c) {
    auto& of_class = engine::entry(members, c);
    require<shape_error>(index_t(of_class.size()) >= per_class, "stratified_anchors: class ", c, " has ", of_class.size(),
                         " rows, expected at least ", per_class);
    engine::draw(random, of_class, per_class, out);
  }
  return out;
}

/// How far rows are from each other: Euclidean distance, or 1 - cosine.
enum class metric { euclidean, cosine };
constexpr auto names_of(metric) { return std::array{"euclidean", "cosine"}; }  ///< in their order

/// Farthest point sampling: from row `start` on, always the row whose nearest chosen row is farthest (the lowest on ties).
/// Throws shape_error, option_error, data_error as kmeans (by cosine only for NaN and infinity). Cost: n count d multiply-adds.
template <class Context, class X>
std::vector<index_t> farthest_point_anchors(const Context& ctx, const X& x, index_t count, index_t start = 0,
                                            craft::metric metric = metric::euclidean) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const index_t n = xv.rows();
  typename Context::engine e(ctx);
  engine::checks check("farthest_point_anchors");
  check.finite_input("x", xv, e);
  require<shape_error>(count >= 1 && count <= n, "farthest_point_anchors: expected 1 to ", n, " anchors, got ", count);
  require<option_error>(start >= 0 && start < n, "farthest_point_anchors: start row ", start, " is not in [0, ", n, ")");
  // Distances are taken from differences here, so that the rows stay as they are, and equal distances equal.
  const engine::rows<T> r = engine::take_rows<T>(e, n, xv.cols());
  load(e, xv, r.data);
  if (metric == metric::cosine)
    normalise(e, r.data, n, r.d, r.squared);
  else
    check.squarable("x", r.data, n * r.d, r.d, e);
  index_t* chosen = e.template take<index_t>(count);
  fill(e, chosen, 1, start);
  farthest_points(e, r, count, chosen);
  const index_t* found = e.on_host(chosen, count);
  return std::vector<index_t>(found, found + count);
}

/// out_a = x_(index_a): the chosen rows (count x d, overwritten). Any rows, in any order, also repeated.
/// Throws shape_error, option_error (index outside x), alias_error.
template <class Context, class X, class Out>
void gather(const Context& ctx, const X& x, const std::vector<index_t>& indices, Out&& out) {
  using S = storage_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const auto to = detail::writable(out);
  const index_t count = index_t(indices.size()), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("gather");
  check.input("x", xv, e);
  for (const index_t i : indices)
    require<option_error>(i >= 0 && i < xv.rows(), "gather: index ", i, " is not in [0, ", xv.rows(), ")");
  check.destination("out", to, count, d);
  check.no_overlap();
  gather(e, xv, engine::converted<index_t>(e, labels(indices)), to);
}

/// The pull-back of gather: dx_i = sum of dout_a over all a with index_a = i, n x d; rows not chosen get 0.
/// Throws as gather.
template <class Context, class U, class S, memory M>
void gather_pullback(const Context& ctx, const U& dout, const std::vector<index_t>& indices, const output<S, M>& dx) {
  using T = compute_of<U>;
  engine::check_types<Context, U, U>();
  const matrix_view<const storage_of<U>, Context::space> uv = view(dout);
  typename Context::engine e(ctx);
  engine::checks check("gather_pullback");
  check.input("dout", uv, e);
  check.shape("dout", uv, index_t(indices.size()), uv.cols());
  if (!dx.wanted()) return;
  const index_t n = dx.to.rows(), d = uv.cols();
  check.gradient("gradient of x", dx, n, d);
  for (const index_t i : indices)
    require<option_error>(i >= 0 && i < n, "gather_pullback: index ", i, " is not in [0, ", n, ")");
  check.no_overlap();
  T* g = e.template zeros<T>(n * d);
  scatter_add(e, uv, engine::converted<index_t>(e, labels(indices)), g, n);
  store(e, g, dx, 1.0);
}

namespace verbs {

/// class_means, to hosts (describe.hpp).
struct class_means {
  static constexpr const char* name = "class_means";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "Static anchors: the mean of the rows of each class.\n"
      "\n"
      "A class without rows is an error. Cost: O(n d). J. Sun et al., \"Craft\", arXiv 2407.15894.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto y = c.required_labels("labels", "n", "in [0, classes)");
    c.count("classes", "how many there are");
    class_means_options o;
    c("normalise", o.normalise, "divide rows by their norms first, and the means by theirs");
    const auto out = c.map("means", "classes d", "one row per class");
    c.run([&](const auto& ctx) { craft::class_means(ctx, x, y, o, out); });
  }
};

/// medoids, to hosts (describe.hpp).
struct medoids {
  static constexpr const char* name = "medoids";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "The row nearest to each centre, the lowest on ties.\n"
      "\n"
      "NaN and infinity are an error. Cost: n k d multiply-adds.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto centres = c.matrix("centres", "k d", "one per row");
    std::vector<index_t> rows;
    c.run([&](const auto& ctx) { rows = craft::medoids(ctx, x, centres); });
    c.found("rows", "k", rows, "row numbers of x");
  }
};

/// random_anchors, to hosts (describe.hpp).
struct random_anchors {
  static constexpr const char* name = "random_anchors";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "`count` different numbers of n rows, in random order.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const index_t n = c.count("n", "how many rows there are");
    const index_t count = c.count("count", "how many of them are wanted");
    std::uint64_t seed = 0, step = 0;
    c("seed", seed, "the same seed gives the same rows");
    c("step", step, "another draw of the same seed: stochastic anchors, new ones each step");
    std::vector<index_t> rows;
    c.run([&](const auto&) { rows = craft::random_anchors(n, count, seed, step); });
    c.found("rows", "count", rows, "row numbers");
  }
};

/// stratified_anchors, to hosts (describe.hpp).
struct stratified_anchors {
  static constexpr const char* name = "stratified_anchors";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "`per_class` different rows of each class, class after class, in random order within it.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto y = c.required_labels("labels", "n", "in [0, classes)");
    const index_t classes = c.count("classes", "how many there are");
    const index_t per_class = c.count("per_class", "how many rows of each are wanted");
    std::uint64_t seed = 0, step = 0;
    c("seed", seed, "the same seed gives the same rows");
    c("step", step, "another draw of the same seed");
    std::vector<index_t> rows;
    c.run([&](const auto&) { rows = craft::stratified_anchors(y, classes, per_class, seed, step); });
    c.found("rows", "classes*per_class", rows, "row numbers");
  }
};

/// farthest_point_anchors, to hosts (describe.hpp).
struct farthest_point_anchors {
  static constexpr const char* name = "farthest_point_anchors";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "Farthest point sampling: from row `start` on, always the row whose nearest chosen one is farthest.\n"
      "\n"
      "NaN and infinity are an error. Cost: n count d multiply-adds. T. Gonzalez, Theor. Comput. Sci. 38 (1985).";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const index_t count = c.count("count", "how many rows are wanted");
    index_t start = 0;
    auto metric = craft::metric::euclidean;
    c("start", start, "the first of them");
    c("metric", metric, "Euclidean distance, or 1 - cosine");
    std::vector<index_t> rows;
    c.run([&](const auto& ctx) { rows = craft::farthest_point_anchors(ctx, x, count, start, metric); });
    c.found("rows", "count", rows, "row numbers of x");
  }
};

}  // namespace verbs

}  // namespace craft
