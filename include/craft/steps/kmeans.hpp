// Lloyd's iteration from k-means++ seeds or given rows, on rows that are prepared already; craft/kmeans.hpp has the verbs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <vector>

#include "craft/steps/groups.hpp"
#include "craft/steps/random.hpp"

namespace craft {

/// How kmeans and kmeans_per_class run.
struct kmeans_options {
  std::uint64_t seed = 0;        ///< the same seed gives the same centres
  index_t restarts = 10;         ///< runs from different k-means++ seeds; the one of least inertia is kept
  index_t max_iterations = 300;  ///< per run
  double tolerance = 0;          ///< stop when the inertia falls by no more than this share; 0: when no row changes its centre
  bool spherical = false;        ///< rows and centres of unit norm
  std::vector<index_t> start{};  ///< rows to start from instead of k-means++; then there is one run

  /// All of it but the rows to start from, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("seed", seed, "the same seed gives the same bits");
    c("restarts", restarts, "runs from different k-means++ seeds, of which the one of least inertia is kept");
    c("max_iterations", max_iterations, "of a run");
    c("tolerance", tolerance, "stop when inertia falls by no more than this share; 0: when no row changes its centre");
    c("spherical", spherical, "rows and centres of unit norm");
  }
};

/// What kmeans and kmeans_per_class found, besides the centres.
struct kmeans_result {
  std::vector<index_t> assignment;  ///< centre of each row
  double inertia = 0;               ///< sum of squared distances to it (of unit rows if spherical)
  index_t iterations = 0;           ///< of the run that was kept
  /// How many distinct centres there are: the clusters that have rows. Fewer than k only if x has fewer than k different rows
  /// (per class, summed over the classes); the other clusters are empty, and their centres copies of a row.
  index_t distinct = 0;

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void results(Call& c) {
    c.found("assignment", "n", assignment, "the centre of each row");
    c.found("inertia", inertia, "the sum of squared distances to it");
    c.found("iterations", iterations, "of the run that was kept");
    c.found("distinct", distinct, "how many distinct centres there are: fewer only where there are fewer different rows; the others have no "
                                  "rows, and are copies of one");
  }
};

}  // namespace craft

namespace craft::engine {

/// key_i: a number that is the same for equal rows, and hardly ever for others.
template <class T>
struct row_key_step {
  const T* x;
  index_t d;
  index_t* key;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    std::uint64_t all = 0;
    for (index_t k = 0; k < d; ++k) {
      const double value = double(x[i * d + k]) + 0.0;  // which makes -0 a 0
      std::uint64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      all = mixed_bits(all + bits + 0x9e3779b97f4a7c15u);
    }
    key[i] = index_t(all);
  }
};

/// first_i = i, unless row first_i is equal to row i.
template <class T>
struct equal_row_step {
  const T* x;
  index_t d;
  index_t* first;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const T *row = x + i * d, *other = x + first[i] * d;
    for (index_t k = 0; k < d; ++k)
      if (row[k] != other[k]) {
        first[i] = i;
        return;
      }
  }
};

/// One k-means problem: rows that are already centred or normalised, and the state of one run.
template <class Engine, class T>
class kmeans_problem {
 public:
  kmeans_problem(Engine& e, const rows<T>& x, index_t k, const kmeans_options& options)
      : e_(e), x_(x), k_(k), options_(options) {
    centres_ = engine::take_rows<T>(e, k, x.d);
    best_ = e.template take<T>(k * x.d);
    nearest_ = e.template take<index_t>(x.n);
    counts_ = e.template take<index_t>(k);
    distance_ = e.template take<T>(x.n);
    equal_ = e.template take<index_t>(x.n);
    norms_ = e.template take<T>(k);
    inertia_ = e.template take<double>(1);
    before_.resize(std::size_t(x.n));
    sizes_.resize(std::size_t(k));
    // A unit row divided by its norm once more moves by at most (d + 4) eps: that much is no distance.
    const double unit = double(x.d + 4) * double(std::numeric_limits<T>::epsilon());
    at_centre_ = options.spherical ? T(unit * unit) : T(0);
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
        for (index_t c = 0; c < k_; ++c) place(entry(options_.start, c), c);
      }
      const kmeans_result result = lloyd();
      if (run > 0 && !(result.inertia < best.inertia)) continue;
      best = result;
      copy(e_, centres_.data, k_ * x_.d, best_);
    }
    if constexpr (Engine::products_depend_on_place) {  // then rounding may have told equal rows apart
      const std::vector<index_t>& first = first_equal();
      for (index_t i = 0; i < x_.n; ++i) best.assignment[i] = best.assignment[first[i]];
    }
    count_rows(best.assignment.data());
    best.distinct = k_ - index_t(std::count(sizes_.begin(), sizes_.end(), index_t(0)));
    if (best.distinct < k_ || best.inertia == 0) find_copied(best.assignment);
    return best;
  }
  const T* centres() const { return best_; }
  /// Where clusters stayed empty, or all rows are their centres: the row that each centre is a copy of, or -1. Else nothing.
  const std::vector<index_t>& copied() const { return copied_; }

 private:
  // Centre c becomes row i.
  void place(index_t i, index_t c) { copy(e_, x_.data + i * x_.d, x_.d, centres_.data + c * x_.d); }

  // k-means++: the next centre is a row drawn with probability proportional to its squared distance from the nearest so far.
  void seed_plus_plus(random_source& random) {
    fill(e_, distance_, x_.n, std::numeric_limits<T>::infinity());
    const index_t first = random.below(x_.n);
    index_t next = first;
    for (index_t c = 0;; ++c) {
      place(next, c);
      if (c + 1 == k_) return;
      lower_distances(e_, x_, next, distance_);
      const T* distance = e_.on_host(distance_, x_.n);
      double total = 0;
      for (index_t i = 0; i < x_.n; ++i)
        if (distance[i] > at_centre_) total += double(distance[i]);
      next = first;  // where there are fewer different rows than centres
      double left = random.unit() * total;
      for (index_t i = 0; i < x_.n && left >= 0; ++i) {
        if (!(distance[i] > at_centre_)) continue;
        next = i;  // round-off at the end of the sum leaves the last one
        left -= double(distance[i]);
      }
    }
  }

  kmeans_result lloyd() {
    kmeans_result result;
    double previous = std::numeric_limits<double>::infinity();
    std::fill(before_.begin(), before_.end(), index_t(-1));
    std::fill(sizes_.begin(), sizes_.end(), index_t(1));
    for (result.iterations = 1;; ++result.iterations) {
      e_.square_norms(centres_);
      // A cluster that was left empty takes no part: its centre, or one that differs by rounding, is another cluster's too.
      for (index_t c = 0; c < k_; ++c)
        if (entry(sizes_, c) == 0) fill(e_, centres_.squared + c, 1, std::numeric_limits<T>::infinity());
      e_.nearest(x_, centres_, nearest_, distance_);
      const index_t* nearest = repair_empty();
      sum(e_, distance_, x_.n, inertia_);
      result.inertia = *e_.on_host(inertia_, 1);
      const bool settled = std::equal(before_.begin(), before_.end(), nearest);
      std::copy_n(nearest, x_.n, before_.begin());
      const bool slow = options_.tolerance > 0 && result.iterations > 1 &&  // there is no inertia before the first one
                        previous - result.inertia <= options_.tolerance * previous;
      if (settled || slow || result.iterations > options_.max_iterations) break;
      previous = result.inertia;
      group_means(e_, x_, nearest_, k_, centres_.data, counts_);
      if (options_.spherical) normalise(e_, centres_.data, k_, x_.d, norms_);
    }
    --result.iterations;  // the last round only found that nothing moved
    result.assignment = before_;
    return result;
  }

  // An empty cluster takes the row that is farthest from its own centre (the lowest on ties) and is not alone there, with all
  // rows equal to it. If there is none, as all rows are where their centres are, the cluster stays empty, with a copy of the
  // first row as its centre. Returns the assignment, for the host.
  const index_t* repair_empty() {
    index_t* nearest = e_.on_host(nearest_, x_.n);
    count_rows(nearest);
    if (std::find(sizes_.begin(), sizes_.end(), 0) == sizes_.end()) return nearest;
    T* distance = e_.on_host(distance_, x_.n);
    std::vector<index_t> copies;  // how many rows are equal to a row, for the first of them; none if no row can move
    if (std::any_of(distance, distance + x_.n, [&](T far) { return far > at_centre_; })) {
      const std::vector<index_t>& first = first_equal();
      copies.resize(static_cast<std::size_t>(x_.n));
      for (index_t i = 0; i < x_.n; ++i) {
        const index_t same = entry(first, i);
        ++entry(copies, same);
        nearest[i] = nearest[same];
        distance[i] = distance[same];
      }
      count_rows(nearest);
    }
    for (index_t c = 0; c < k_; ++c) {
      if (entry(sizes_, c) > 0) continue;
      index_t farthest = -1;
      for (index_t i = 0; i < index_t(copies.size()); ++i)
        if (const index_t equal = entry(copies, i); equal > 0 && distance[i] > at_centre_ && entry(sizes_, nearest[i]) > equal &&
            (farthest < 0 || distance[i] > distance[farthest]))
          farthest = i;
      place(std::max<index_t>(farthest, 0), c);
      if (farthest < 0) continue;
      entry(sizes_, nearest[farthest]) -= entry(copies, farthest);
      entry(sizes_, c) = entry(copies, farthest);
      for (index_t i = farthest; i < x_.n; ++i) {
        if (entry(first_, i) != farthest) continue;
        nearest[i] = c;
        distance[i] = T(0);
      }
    }
    e_.from_host(nearest, x_.n, nearest_);
    e_.from_host(distance, x_.n, distance_);
    return nearest;
  }

  // A centre is a copy of its rows if they are all equal, and of the first row if it has none.
  void find_copied(const std::vector<index_t>& assignment) {
    const std::vector<index_t>& first = first_equal();
    constexpr index_t none = -1, several = -2;
    copied_.assign(static_cast<std::size_t>(k_), none);
    for (index_t i = 0; i < x_.n; ++i) {
      index_t& row = entry(copied_, entry(assignment, i));
      row = row == none || row == entry(first, i) ? entry(first, i) : several;
    }
    for (index_t& row : copied_) row = row == none ? 0 : (std::max)(row, index_t(-1));
  }

  void count_rows(const index_t* nearest) {
    std::fill(sizes_.begin(), sizes_.end(), index_t(0));
    for (index_t i = 0; i < x_.n; ++i) ++entry(sizes_, nearest[i]);
  }

  // For every row the first one that is equal to it: by keys, and then by looking. Found when somebody asks.
  const std::vector<index_t>& first_equal() {
    if (!first_.empty()) return first_;
    e_.each(x_.n, row_key_step<T>{x_.data, x_.d, equal_});
    const index_t* key = e_.on_host(equal_, x_.n);
    std::unordered_map<index_t, index_t> seen;
    first_.resize(static_cast<std::size_t>(x_.n));
    for (index_t i = 0; i < x_.n; ++i) entry(first_, i) = seen.emplace(key[i], i).first->second;
    e_.from_host(first_.data(), x_.n, equal_);
    e_.each(x_.n, equal_row_step<T>{x_.data, x_.d, equal_});
    std::copy_n(e_.on_host(equal_, x_.n), x_.n, first_.begin());
    return first_;
  }

  Engine& e_;
  rows<T> x_, centres_;
  index_t k_;
  const kmeans_options& options_;
  T *best_, *distance_, *norms_;
  index_t *nearest_, *counts_, *equal_;
  double* inertia_;
  std::vector<index_t> before_, sizes_, first_, copied_;  ///< on the host
  T at_centre_;               ///< a squared distance of no more is none
};

}  // namespace craft::engine
