// Anchors: the rows that everything else is described by. Class means, k-means centres, medoids, random, stratified and farthest
// rows, and subsets drawn anew each step. All seeded, and the same for any number of threads. Functions that choose
// rows return their indices, so that parallel anchors of two modalities are the same indices gathered from both.
//
// Sources: J. Sun et al., "Craft", arXiv 2407.15894 (static anchors: class means; stochastic anchors); D. Arthur and S.
// Vassilvitskii, "k-means++", SODA 2007; I. Dhillon and D. Modha, Machine Learning 42 (2001) (spherical k-means); T. Gonzalez,
// Theor. Comput. Sci. 38 (1985) (farthest point).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "craft/engine/cpu_engine.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/columns.hpp"
#include "craft/steps/kmeans.hpp"

namespace craft {

namespace engine {

/// Rows of each class, in order. Throws label_error for a label outside [0, classes).
inline std::vector<std::vector<index_t>> rows_by_class(const checks& check, const labels& y, index_t classes) {
  check.each_label_of("labels", y, classes, 0);
  std::vector<std::vector<index_t>> members(classes);
  for (index_t i = 0; i < y.size(); ++i) members[y[i]].push_back(i);
  return members;
}

}  // namespace engine

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
  const auto to = view(out);
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
  T *means = e.template take<T>(classes * d), *norms = e.template take<T>(std::max(n, classes));
  fill(e, means, classes * d, std::numeric_limits<T>::quiet_NaN());  // of a class that nobody could see to have no rows
  load(e, xv, r.data);
  if (options.normalise) normalise(e, r.data, n, d, norms);
  group_means(e, r, group, classes, means, counts);
  if (options.normalise) normalise(e, means, classes, d, norms);
  store(e, means, overwrite(to), 1.0);
}

namespace engine {

inline void check_kmeans(const checks& check, const kmeans_options& o, index_t n, index_t k) {
  require<shape_error>(k >= 1 && k <= n, check.verb(), ": expected 1 to ", n, " centres (the rows of x), got ", k);
  require<option_error>(o.restarts >= 1, check.verb(), ": restarts must be at least 1, got ", o.restarts);
  require<option_error>(o.max_iterations >= 1, check.verb(), ": max_iterations must be at least 1, got ",
                        o.max_iterations);
  require<option_error>(o.tolerance >= 0, check.verb(), ": tolerance must not be negative, got ", o.tolerance);
  require<option_error>(o.start.empty() || index_t(o.start.size()) == k, check.verb(), ": expected ", k,
                        " rows to start from, got ", o.start.size());
  for (const index_t i : o.start)
    require<option_error>(i >= 0 && i < n, check.verb(), ": start row ", i, " is not in [0, ", n, ")");
}

template <class S, memory M>
matrix_view<const S, M> row_of(const matrix_view<const S, M>& x, index_t i) {
  return {x.row(i), 1, x.cols(), x.stride()};
}

/// Loads x for k-means: unit rows if spherical, else centred (`mean`, set here, is what was subtracted, else zeros).
template <class T, class Engine, class S, memory M>
rows<T> load_for_kmeans(Engine& e, const checks& check, const matrix_view<const S, M>& x, bool spherical, double*& mean) {
  rows<T> r = engine::take_rows<T>(e, x.rows(), x.cols());
  load(e, x, r.data);
  mean = e.template zeros<double>(x.cols());
  if (spherical) {
    normalise(e, r.data, r.n, r.d, e.template take<T>(r.n));
  } else {
    centre(e, r.data, r.n, r.d, mean);
    check.squarable("x", r.data, r.n * r.d, r.d, e);
  }
  e.square_norms(r);
  return r;
}

}  // namespace engine

/// k-means by Lloyd's iteration: k = rows of `centres` (k x d, overwritten). Empty clusters take the row farthest from its
/// centre. Seeded by k-means++; the same seed gives the same bits for any number of threads. Equal rows share a cluster, always:
/// with fewer different rows than k some clusters stay empty, with a copy of a row as their centre (kmeans_result::distinct).
/// Throws shape_error (k > n), option_error, data_error (NaN or infinity, whether or not the context looks for them; unless
/// spherical, numbers whose squared distances are not in the range of the computing type), alias_error.
/// Cost per iteration: n k d multiply-adds; memory O(n d).
template <class Context, class X, class Out>
kmeans_result kmeans(const Context& ctx, const X& x, const kmeans_options& options, Out&& centres) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const auto to = view(centres);
  const index_t k = to.rows(), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("kmeans");
  check.finite_input("x", xv, e);
  engine::check_kmeans(check, options, xv.rows(), k);
  check.destination("centres", to, k, d);
  check.no_overlap();

  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<T>(e, check, xv, options.spherical, mean);
  engine::kmeans_problem<typename Context::engine, T> problem(e, r, k, options);
  const kmeans_result result = problem.solve(0);
  T* found = e.template take<T>(k * d);
  copy(e, problem.centres(), k * d, found);
  add(e, found, k, d, mean);
  // As they were, since what is centred and back again may be wrong by a rounding.
  for (index_t c = 0; !options.spherical && c < index_t(problem.copied().size()); ++c)
    if (const index_t row = problem.copied()[c]; row >= 0) load(e, engine::row_of(xv, row), found + c * d);
  store(e, found, overwrite(to), 1.0);
  return result;
}

/// k-means within every class: rows [c p, (c + 1) p) of `centres` (C p x d, overwritten) are those of class c; assignments count
/// the same way. Throws also label_error for a label outside [0, C), shape_error for a class with fewer than p rows.
template <class Context, class X, class Out>
kmeans_result kmeans_per_class(const Context& ctx, const X& x, const labels& y, index_t classes,
                               const kmeans_options& options, Out&& centres) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, X>();
  const matrix_view<const S, Context::space> xv = view(x);
  const auto to = view(centres);
  const index_t d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("kmeans_per_class");
  check.finite_input("x", xv, e);
  require<shape_error>(classes >= 1 && to.rows() >= classes && to.rows() % classes == 0,
                       "kmeans_per_class: centres must be a multiple of ", classes, " rows, got ",
                       detail::shape(to.rows(), to.cols()));
  const index_t per_class = to.rows() / classes;
  engine::check_kmeans(check, options, xv.rows(), per_class);
  require<option_error>(options.start.empty(), "kmeans_per_class: takes no rows to start from");
  check.destination("centres", to, to.rows(), d);
  check.label_count("labels", y, "x", e);
  const auto members = engine::rows_by_class(check, seen(e, y, true), classes);
  for (index_t c = 0; c < classes; ++c)
    require<shape_error>(index_t(members[c].size()) >= per_class, "kmeans_per_class: class ", c, " has ",
                         members[c].size(), " rows, expected at least ", per_class);
  check.no_overlap();

  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<T>(e, check, xv, options.spherical, mean);
  T* found = e.template take<T>(to.rows() * d);
  kmeans_result result;
  result.assignment.resize(xv.rows());
  std::vector<index_t> copied(std::size_t(to.rows()), -1);
  for (index_t c = 0; c < classes; ++c) {
    typename Context::engine inner(ctx);  // its memory goes back after each class
    const index_t size = index_t(members[c].size());
    engine::rows<T> of_class = engine::take_rows<T>(inner, size, d);
    gather(inner, matrix_view<const T, Context::space>(r.data, r.n, d), engine::converted<index_t>(inner, labels(members[c])),
                 matrix_view<T, Context::space>(of_class.data, size, d));
    inner.square_norms(of_class);
    engine::kmeans_problem<typename Context::engine, T> problem(inner, of_class, per_class, options);
    const kmeans_result part = problem.solve(std::uint64_t(c));
    copy(inner, problem.centres(), per_class * d, found + c * per_class * d);
    for (index_t i = 0; i < size; ++i) result.assignment[members[c][i]] = c * per_class + part.assignment[i];
    for (index_t a = 0; !options.spherical && a < index_t(problem.copied().size()); ++a)
      if (const index_t row = problem.copied()[a]; row >= 0) copied[c * per_class + a] = members[c][row];
    result.inertia += part.inertia;
    result.distinct += part.distinct;
    result.iterations = std::max(result.iterations, part.iterations);
  }
  add(e, found, to.rows(), d, mean);
  for (index_t a = 0; a < to.rows(); ++a)
    if (copied[a] >= 0) load(e, engine::row_of(xv, copied[a]), found + a * d);
  store(e, found, overwrite(to), 1.0);
  return result;
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
  std::vector<index_t> candidates(n), out;
  for (index_t i = 0; i < n; ++i) candidates[i] = i;
  out.reserve(count);
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
  out.reserve(classes * per_class);
  for (index_t c = 0; c < classes; ++c) {
    require<shape_error>(index_t(members[c].size()) >= per_class, "stratified_anchors: class ", c, " has ",
                         members[c].size(), " rows, expected at least ", per_class);
    engine::draw(random, members[c], per_class, out);
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
  const auto to = view(out);
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

/// kmeans, to hosts (describe.hpp).
struct kmeans {
  static constexpr const char* name = "kmeans";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "k-means by Lloyd's iteration, from k-means++ seeds or from the rows `start`.\n"
      "\n"
      "Equal rows share a centre. NaN and infinity are an error. Cost of an iteration: n k d multiply-adds. D. Arthur and\n"
      "S. Vassilvitskii, SODA 2007.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    c.count("k", "how many centres");
    kmeans_options o;
    o.fields(c);
    c("start", o.start, "k rows to start from; then there is one run");
    const auto centres = c.map("centres", "k d", "one per row");
    kmeans_result r;
    c.run([&](const auto& ctx) { r = craft::kmeans(ctx, x, o, centres); });
    r.results(c);
  }
};

/// kmeans_per_class, to hosts (describe.hpp).
struct kmeans_per_class {
  static constexpr const char* name = "kmeans_per_class";  ///< what hosts call it
  static constexpr const char* module = "";  ///< none
  /// What it computes.
  static constexpr const char* text =
      "k-means within every class: rows [c p, (c + 1) p) of the centres are the p = per_class of class c.\n"
      "\n"
      "Otherwise as kmeans.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "one sample per row");
    const auto y = c.required_labels("labels", "n", "in [0, classes)");
    const index_t classes = c.count("classes", "how many there are");
    c.count("per_class", "how many centres each class has");
    kmeans_options o;
    o.fields(c);
    const auto centres = c.map("centres", "classes*per_class d", "one per row");
    kmeans_result r;
    c.run([&](const auto& ctx) { r = craft::kmeans_per_class(ctx, x, y, classes, o, centres); });
    r.results(c);
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
