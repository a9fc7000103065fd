// k-means: centres of all rows, or of each class, as anchors. Seeded, and the same for any number of threads.
//
// Sources: D. Arthur and S. Vassilvitskii, "k-means++", SODA 2007; I. Dhillon and D. Modha, Machine Learning 42 (2001) (spherical
// k-means).
#pragma once

#include <algorithm>
#include <cstdint>
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
  std::vector<std::vector<index_t>> members(static_cast<std::size_t>(classes));
  for (index_t i = 0; i < y.size(); ++i) entry(members, y[i]).push_back(i);
  return members;
}

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
  const auto to = detail::writable(centres);
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
    if (const index_t row = engine::entry(problem.copied(), c); row >= 0) load(e, engine::row_of(xv, row), found + c * d);
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
  const auto to = detail::writable(centres);
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
    require<shape_error>(index_t(engine::entry(members, c).size()) >= per_class, "kmeans_per_class: class ", c, " has ",
                         engine::entry(members, c).size(), " rows, expected at least ", per_class);
  check.no_overlap();

  double* mean = nullptr;
  const engine::rows<T> r = engine::load_for_kmeans<T>(e, check, xv, options.spherical, mean);
  T* found = e.template take<T>(to.rows() * d);
  kmeans_result result;
  result.assignment.resize(static_cast<std::size_t>(xv.rows()));
  std::vector<index_t> copied(std::size_t(to.rows()), -1);
  for (index_t c = 0; c < classes; ++c) {
    typename Context::engine inner(ctx);  // its memory goes back after each class
    const std::vector<index_t>& rows = engine::entry(members, c);
    const index_t size = index_t(rows.size());
    engine::rows<T> of_class = engine::take_rows<T>(inner, size, d);
    gather(inner, matrix_view<const T, Context::space>(r.data, r.n, d), engine::converted<index_t>(inner, labels(rows)),
                 matrix_view<T, Context::space>(of_class.data, size, d));
    inner.square_norms(of_class);
    engine::kmeans_problem<typename Context::engine, T> problem(inner, of_class, per_class, options);
    const kmeans_result part = problem.solve(std::uint64_t(c));
    copy(inner, problem.centres(), per_class * d, found + c * per_class * d);
    for (index_t i = 0; i < size; ++i)
      engine::entry(result.assignment, engine::entry(rows, i)) = c * per_class + engine::entry(part.assignment, i);
    for (index_t a = 0; !options.spherical && a < index_t(problem.copied().size()); ++a)
      if (const index_t row = engine::entry(problem.copied(), a); row >= 0)
        engine::entry(copied, c * per_class + a) = engine::entry(rows, row);
    result.inertia += part.inertia;
    result.distinct += part.distinct;
    result.iterations = (std::max)(result.iterations, part.iterations);
  }
  add(e, found, to.rows(), d, mean);
  for (index_t a = 0; a < to.rows(); ++a)
    if (const index_t row = engine::entry(copied, a); row >= 0) load(e, engine::row_of(xv, row), found + a * d);
  store(e, found, overwrite(to), 1.0);
  return result;
}

namespace verbs {

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

}  // namespace verbs

}  // namespace craft
