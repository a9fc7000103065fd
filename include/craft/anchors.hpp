// Anchors: the rows that everything else is described by. Class means, k-means centres, medoids, random, stratified and farthest
// rows, and subsets drawn anew each step. All seeded, and the same for any number of threads. Functions that choose
// rows return their indices, so that parallel anchors of two modalities are the same indices gathered from both.
//
// Sources: J. Sun et al., "Craft", arXiv 2407.15894 (static anchors: class means; stochastic anchors); D. Arthur and S. Vassilvitskii,
// "k-means++", SODA 2007; I. Dhillon and D. Modha, Machine Learning 42 (2001) (spherical k-means); T. Gonzalez, Theor. Comput.
// Sci. 38 (1985) (farthest point).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "craft/engine/checks.hpp"
#include "craft/engine/cpu_engine.hpp"

namespace craft {

namespace engine {

/// The library's source of randomness: a standard generator, and conversions that are the same on every platform.
class random_source {
 public:
  random_source(std::uint64_t seed, std::uint64_t step) {
    std::seed_seq seq{std::uint32_t(seed), std::uint32_t(seed >> 32), std::uint32_t(step), std::uint32_t(step >> 32)};
    generator_.seed(seq);
  }
  /// Uniform in [0, n), n > 0.
  index_t below(index_t n) {
    const std::uint64_t range = std::uint64_t(n), limit = ~std::uint64_t(0) - ~std::uint64_t(0) % range;
    std::uint64_t x = generator_();
    while (x >= limit) x = generator_();
    return index_t(x % range);
  }
  /// Uniform in [0, 1).
  double unit() { return double(generator_() >> 11) * 0x1.0p-53; }

 private:
  std::mt19937_64 generator_;
};

/// `count` of the given candidates without repetition, in the order drawn; uses the candidates up.
inline void draw(random_source& random, std::vector<index_t>& candidates, index_t count, std::vector<index_t>& out) {
  for (index_t i = 0; i < count; ++i) {
    std::swap(candidates[i], candidates[i + random.below(index_t(candidates.size()) - i)]);
    out.push_back(candidates[i]);
  }
}

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
/// Throws shape_error, label_error (label outside [0, C), or a class without rows), alias_error. Cost: O(n d).
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
  if (const labels seen = e.seen(y); !seen.empty()) {
    index_t* rows = e.template host_zeros<index_t>(classes);
    for (index_t i = 0; i < n; ++i) ++rows[seen[i]];
    for (index_t c = 0; c < classes; ++c)
      require<label_error>(rows[c] > 0, "class_means: class ", c, " has no rows");
  }
  check.no_overlap();
  const index_t* group = e.indices(y);
  index_t* counts = e.template take<index_t>(classes);

  engine::rows<T> r = e.template take_rows<T>(n, d);
  T *means = e.template take<T>(classes * d), *norms = e.template take<T>(std::max(n, classes));
  e.load(xv, r.data);
  if (options.normalise) e.normalise(r.data, n, d, norms);
  e.group_means(r, group, classes, means, counts);
  if (options.normalise) e.normalise(means, classes, d, norms);
  e.store(means, overwrite(to), 1.0);
}

/// How kmeans and kmeans_per_class run.
struct kmeans_options {
  std::uint64_t seed = 0;        ///< the same seed gives the same centres
  index_t restarts = 10;         ///< runs from different k-means++ seeds; the one of least inertia is kept
  index_t max_iterations = 300;  ///< per run
  double tolerance = 0;          ///< stop when the inertia falls by less than this share; 0: when no row changes its centre
  bool spherical = false;        ///< rows and centres of unit norm
  std::vector<index_t> start{};  ///< rows to start from instead of k-means++; then there is one run
};

/// What kmeans and kmeans_per_class found, besides the centres.
struct kmeans_result {
  std::vector<index_t> assignment;  ///< centre of each row
  double inertia = 0;               ///< sum of squared distances to it (of unit rows if spherical)
  index_t iterations = 0;           ///< of the run that was kept
};

namespace engine {

/// One k-means problem: rows that are already centred or normalised, and the state of one run.
template <class Engine, class T>
class kmeans_problem {
 public:
  kmeans_problem(Engine& e, const rows<T>& x, index_t k, const kmeans_options& options)
      : e_(e), x_(x), k_(k), options_(options) {
    centres_ = e.template take_rows<T>(k, x.d);
    best_ = e.template take<T>(k * x.d);
    nearest_ = e.template take<index_t>(x.n);
    counts_ = e.template take<index_t>(k);
    distance_ = e.template take<T>(x.n);
    norms_ = e.template take<T>(k);
    inertia_ = e.template take<double>(1);
    before_ = e.template host_zeros<index_t>(x.n);
    sizes_ = e.template host_zeros<index_t>(k);
  }

  /// The best of all runs; its centres are then in centres().
  kmeans_result solve(std::uint64_t stream) {
    kmeans_result best;
    const index_t runs = options_.start.empty() ? options_.restarts : 1;
    for (index_t run = 0; run < runs; ++run) {
      if (options_.start.empty()) {
        random_source random(options_.seed, stream * std::uint64_t(options_.restarts) + std::uint64_t(run));
        seed_plus_plus(random);
      } else {
        for (index_t c = 0; c < k_; ++c) place(options_.start[c], c);
      }
      const kmeans_result result = lloyd();
      if (run > 0 && !(result.inertia < best.inertia)) continue;
      best = result;
      e_.copy(centres_.data, k_ * x_.d, best_);
    }
    return best;
  }
  const T* centres() const { return best_; }

 private:
  // Centre c becomes row i.
  void place(index_t i, index_t c) { e_.copy(x_.data + i * x_.d, x_.d, centres_.data + c * x_.d); }

  // k-means++: the next centre is a row drawn with probability proportional to its squared distance from the nearest so far.
  void seed_plus_plus(random_source& random) {
    e_.fill(distance_, x_.n, std::numeric_limits<T>::infinity());
    index_t next = random.below(x_.n);
    for (index_t c = 0;; ++c) {
      place(next, c);
      if (c + 1 == k_) return;
      e_.lower_distances(x_, next, distance_);
      const T* distance = e_.on_host(distance_, x_.n);
      double total = 0;
      for (index_t i = 0; i < x_.n; ++i) total += double(distance[i]);
      if (total > 0) {
        double left = random.unit() * total;
        index_t last = 0;
        for (next = 0; next < x_.n; ++next) {
          if (distance[next] > T(0)) last = next;
          left -= double(distance[next]);
          if (left < 0) break;
        }
        if (next == x_.n) next = last;  // round-off at the end of the sum
      } else {
        next = random.below(x_.n);  // fewer different rows than centres
      }
    }
  }

  kmeans_result lloyd() {
    kmeans_result result;
    double previous = std::numeric_limits<double>::infinity();
    std::fill_n(before_, x_.n, index_t(-1));
    for (result.iterations = 1;; ++result.iterations) {
      e_.square_norms(centres_);
      e_.nearest(x_, centres_, nearest_, distance_);
      const index_t* nearest = repair_empty();
      e_.sum(distance_, x_.n, inertia_);
      result.inertia = *e_.on_host(inertia_, 1);
      const bool settled = std::equal(before_, before_ + x_.n, nearest);
      std::copy_n(nearest, x_.n, before_);
      const bool slow = options_.tolerance > 0 && previous - result.inertia <= options_.tolerance * previous;
      if (settled || slow || result.iterations > options_.max_iterations) break;
      previous = result.inertia;
      e_.group_means(x_, nearest_, k_, centres_.data, counts_);
      if (options_.spherical) e_.normalise(centres_.data, k_, x_.d, norms_);
    }
    --result.iterations;  // the last round only found that nothing moved
    result.assignment.assign(before_, before_ + x_.n);
    return result;
  }

  // An empty cluster takes the row that is farthest from its own centre (the lowest on ties) and is not alone there. Returns
  // the assignment, for the host.
  const index_t* repair_empty() {
    index_t* nearest = e_.on_host(nearest_, x_.n);
    std::fill_n(sizes_, k_, index_t(0));
    for (index_t i = 0; i < x_.n; ++i) ++sizes_[nearest[i]];
    if (std::find(sizes_, sizes_ + k_, 0) == sizes_ + k_) return nearest;
    T* distance = e_.on_host(distance_, x_.n);
    for (index_t c = 0; c < k_; ++c) {
      if (sizes_[c] > 0) continue;
      index_t farthest = -1;
      for (index_t i = 0; i < x_.n; ++i)
        if (sizes_[nearest[i]] > 1 && (farthest < 0 || distance[i] > distance[farthest])) farthest = i;
      --sizes_[nearest[farthest]];
      nearest[farthest] = c;
      sizes_[c] = 1;
      distance[farthest] = T(0);
      place(farthest, c);
    }
    e_.from_host(nearest, x_.n, nearest_);
    e_.from_host(distance, x_.n, distance_);
    return nearest;
  }

  Engine& e_;
  rows<T> x_, centres_;
  index_t k_;
  const kmeans_options& options_;
  T *best_, *distance_, *norms_;
  index_t *nearest_, *counts_;
  double* inertia_;
  index_t *before_, *sizes_;  ///< on the host
};

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

/// Loads x for k-means: unit rows if spherical, else centred (`mean`, set here, is what was subtracted, else zeros).
template <class Engine, class T, class S, memory M>
rows<T> load_for_kmeans(Engine& e, const matrix_view<const S, M>& x, bool spherical, double*& mean) {
  rows<T> r = e.template take_rows<T>(x.rows(), x.cols());
  e.load(x, r.data);
  mean = e.template zeros<double>(x.cols());
  if (spherical)
    e.normalise(r.data, r.n, r.d, e.template take<T>(r.n));
  else
    e.centre(r.data, r.n, r.d, mean);
  e.square_norms(r);
  return r;
}

}  // namespace engine

/// k-means by Lloyd's iteration: k = rows of `centres` (k x d, overwritten). Empty clusters take the row farthest from its centre.
/// Seeded by k-means++; the same seed gives the same bits for any number of threads.
/// Throws shape_error (k > n), option_error, data_error, alias_error. Cost per iteration: n k d multiply-adds; memory O(n d).
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
  check.input("x", xv, e);
  engine::check_kmeans(check, options, xv.rows(), k);
  check.destination("centres", to, k, d);
  check.no_overlap();

  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<typename Context::engine, T>(e, xv, options.spherical, mean);
  engine::kmeans_problem<typename Context::engine, T> problem(e, r, k, options);
  const kmeans_result result = problem.solve(0);
  T* found = e.template take<T>(k * d);
  e.copy(problem.centres(), k * d, found);
  e.each(k * d, engine::add_mean_step<T>{found, mean, d});
  e.store(found, overwrite(to), 1.0);
  return result;
}

/// k-means within every class: rows [c p, (c + 1) p) of `centres` (C p x d, overwritten) are those of class c; assignments count the
/// same way. Throws also label_error, for a label outside [0, C) or a class with fewer than p rows.
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
  check.input("x", xv, e);
  require<shape_error>(classes >= 1 && to.rows() >= classes && to.rows() % classes == 0,
                       "kmeans_per_class: centres must be a multiple of ", classes, " rows, got ",
                       detail::shape(to.rows(), to.cols()));
  const index_t per_class = to.rows() / classes;
  engine::check_kmeans(check, options, xv.rows(), per_class);
  require<option_error>(options.start.empty(), "kmeans_per_class: takes no rows to start from");
  check.destination("centres", to, to.rows(), d);
  check.label_count("labels", y, "x", e);
  const auto members = engine::rows_by_class(check, e.seen(y, true), classes);
  for (index_t c = 0; c < classes; ++c)
    require<label_error>(index_t(members[c].size()) >= per_class, "kmeans_per_class: class ", c, " has ",
                         members[c].size(), " rows, expected at least ", per_class);
  check.no_overlap();

  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<typename Context::engine, T>(e, xv, options.spherical, mean);
  T* found = e.template take<T>(to.rows() * d);
  kmeans_result result;
  result.assignment.resize(xv.rows());
  for (index_t c = 0; c < classes; ++c) {
    typename Context::engine inner(ctx);  // its memory goes back after each class
    const index_t size = index_t(members[c].size());
    engine::rows<T> of_class = inner.template take_rows<T>(size, d);
    inner.gather(matrix_view<const T, Context::space>(r.data, r.n, d), inner.indices(members[c]),
                 matrix_view<T, Context::space>(of_class.data, size, d));
    inner.square_norms(of_class);
    engine::kmeans_problem<typename Context::engine, T> problem(inner, of_class, per_class, options);
    const kmeans_result part = problem.solve(std::uint64_t(c));
    inner.copy(problem.centres(), per_class * d, found + c * per_class * d);
    for (index_t i = 0; i < size; ++i) result.assignment[members[c][i]] = c * per_class + part.assignment[i];
    result.inertia += part.inertia;
    result.iterations = std::max(result.iterations, part.iterations);
  }
  e.each(to.rows() * d, engine::add_mean_step<T>{found, mean, d});
  e.store(found, overwrite(to), 1.0);
  return result;
}

// ---------------------------------------------------------------------------------------------------------
// Rows, by index

/// The row of x (n x d) nearest to each centre (k x d), the lowest on ties. Cost: n k d multiply-adds.
template <class Context, class X, class C>
std::vector<index_t> medoids(const Context& ctx, const X& x, const C& centres) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, C>();
  const matrix_view<const S, Context::space> xv = view(x), cv = view(centres);
  const index_t k = cv.rows(), d = xv.cols();
  typename Context::engine e(ctx);
  engine::checks check("medoids");
  check.input("x", xv, e);
  check.input("centres", cv, e);
  check.same_columns("x", xv, "centres", cv);
  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<typename Context::engine, T>(e, xv, false, mean);
  engine::rows<T> c = e.template take_rows<T>(k, d);
  e.load(cv, c.data);
  e.subtract(c.data, k, d, mean);
  e.square_norms(c);
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

/// `per_class` different rows of each class, class after class. Throws label_error for a label outside [0, classes) or a class
/// with too few rows.
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
    require<label_error>(index_t(members[c].size()) >= per_class, "stratified_anchors: class ", c, " has ",
                         members[c].size(), " rows, expected at least ", per_class);
    engine::draw(random, members[c], per_class, out);
  }
  return out;
}

/// How far rows are from each other: Euclidean distance, or 1 - cosine.
enum class metric { euclidean, cosine };

/// Farthest point sampling: from row `start` on, always the row whose nearest chosen row is farthest (the lowest on ties).
/// Throws shape_error, option_error. Cost: n count d multiply-adds.
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
  check.input("x", xv, e);
  require<shape_error>(count >= 1 && count <= n, "farthest_point_anchors: expected 1 to ", n, " anchors, got ", count);
  require<option_error>(start >= 0 && start < n, "farthest_point_anchors: start row ", start, " is not in [0, ", n, ")");
  // Distances are taken from differences here, so that the rows stay as they are, and equal distances equal.
  const engine::rows<T> r = e.template take_rows<T>(n, xv.cols());
  e.load(xv, r.data);
  if (metric == metric::cosine) e.normalise(r.data, n, r.d, r.squared);
  index_t* chosen = e.template take<index_t>(count);
  e.fill(chosen, 1, start);
  e.farthest_points(r, count, chosen);
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
  e.gather(xv, e.indices(indices), to);
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
  e.scatter_add(uv, e.indices(indices), g, n);
  e.store(g, dx, 1.0);
}

}  // namespace craft
