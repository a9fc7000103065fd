// Anchors: class means, k-means, medoids, random and farthest points, and gathering rows.
#include "craft/anchors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "reference.hpp"

using namespace craft_test;

namespace {

using indices = std::vector<index_t>;

template <class D>
reals run_class_means(const typename D::context& ctx, const reals& x, const indices& labels, index_t classes,
                      bool normalise) {
  const array<D> xd(x);
  const label_array<D> on_device(labels);
  array<D> out(classes, x.cols());
  craft::class_means_options o;
  o.normalise = normalise;
  craft::class_means(ctx, xd.in(), on_device.in(), o, out.out());
  return out.get();
}

struct clusters {
  craft::kmeans_result result;
  reals centres;
};

template <class D>
clusters run_kmeans(const typename D::context& ctx, const reals& x, index_t k, const craft::kmeans_options& options) {
  const array<D> xd(x);
  array<D> centres(k, x.cols());
  auto result = craft::kmeans(ctx, xd.in(), options, centres.out());
  return {result, centres.get()};
}

/// `groups` clouds of `each` points: small clouds, far apart, in an order that mixes them.
reals clouds(index_t groups, index_t each, index_t d, std::uint64_t seed, double spread = 0.1) {
  const reals centres = 5 * random_reals(groups, d, seed), noise = spread * random_reals(groups * each, d, seed + 1);
  reals x(groups * each, d);
  for (index_t i = 0; i < x.rows(); ++i) x.row(i) = centres.row(i % groups) + noise.row(i);
  return x;
}

reals unit_rows(reals x) {
  for (index_t i = 0; i < x.rows(); ++i) x.row(i).normalize();
  return x;
}

index_t nearest(const reals& centres, const reals& x, index_t i) {
  index_t best;
  (centres.rowwise() - x.row(i)).rowwise().squaredNorm().minCoeff(&best);
  return best;
}

/// Sum of squared distances to the assigned centres.
double inertia_of(const reals& x, const clusters& c) {
  double sum = 0;
  for (index_t i = 0; i < x.rows(); ++i)
    sum += (x.row(i) - c.centres.row(c.result.assignment[std::size_t(i)])).squaredNorm();
  return sum;
}

/// What every result of k-means must satisfy: all labels used and in range, the nearest centre assigned, every
/// centre the mean of its rows, the inertia that of the centres. `x` as stored on D, at unit rows for spherical.
template <class D>
void check_clusters(const reals& x, const clusters& c, bool spherical = false) {
  const index_t n = x.rows(), k = c.centres.rows();
  REQUIRE(index_t(c.result.assignment.size()) == n);
  std::vector<index_t> count(std::size_t(k), 0);
  reals mean = reals::Zero(k, x.cols());
  for (index_t i = 0; i < n; ++i) {
    const index_t a = c.result.assignment[std::size_t(i)];
    REQUIRE(a >= 0);
    REQUIRE(a < k);
    ++count[std::size_t(a)];
    mean.row(a) += x.row(i);
  }
  // Centres are stored as D's scalars: wrong by a few roundings of the largest number in sight.
  const double tolerance = 16 * roundoff<typename D::scalar> * (1 + x.cwiseAbs().maxCoeff());
  for (index_t a = 0; a < k; ++a) {
    INFO("cluster " << a << " of " << k << " with " << count[std::size_t(a)] << " rows");
    REQUIRE(count[std::size_t(a)] > 0);
    mean.row(a) /= double(count[std::size_t(a)]);
    if (spherical) mean.row(a).normalize();
    CHECK((c.centres.row(a) - mean.row(a)).cwiseAbs().maxCoeff() <= tolerance);
  }
  for (index_t i = 0; i < n; ++i) {
    const double to_own = (x.row(i) - c.centres.row(c.result.assignment[std::size_t(i)])).norm();
    const double to_nearest = (x.row(i) - c.centres.row(nearest(c.centres, x, i))).norm();
    CHECK(to_own <= to_nearest + 2 * std::sqrt(double(x.cols())) * tolerance);
  }
  // A distance is a difference of dot products of centred rows: it errs by roundings of their squares, not its own.
  const double squares = (x.rowwise() - x.colwise().mean()).squaredNorm();
  CHECK(std::abs(c.result.inertia - inertia_of(x, c)) <=
        4 * (4 + std::sqrt(double(x.cols()))) * roundoff<typename D::scalar> * squares);
  CHECK(c.result.iterations >= 1);
}

template <class T>
bool distinct(std::vector<T> v) {
  std::sort(v.begin(), v.end());
  return std::adjacent_find(v.begin(), v.end()) == v.end();
}

bool within(const indices& v, index_t n) {
  return std::all_of(v.begin(), v.end(), [&](index_t i) { return i >= 0 && i < n; });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------
// Class means

TEMPLATE_LIST_TEST_CASE("class means meet the reference values", "[anchors][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  for (const bool normalise : {false, true})
    for (const std::string name : {"_y", "_y2"})
      for (const auto& r : reference::cases(
               "anchors", (normalise ? "derived_class_means_normalised" : "craft_static_anchors") + name)) {
        INFO(r.id());
        const reference::inputs in(r);
        const indices classes = r.indices("result", "classes");
        // At five classes the labels y are all the same class; the peer leaves the others out, so number it 0.
        indices labels = in.labels(r.option("labels"));
        for (index_t& y : labels) y = std::find(classes.begin(), classes.end(), y) - classes.begin();
        const reals want = r.array("result", "centers");
        const reals got = run_class_means<D>(ctx, in.X, labels, index_t(classes.size()), normalise);
        CHECK(relative_distance(got, want) <= value_relative);
      }
}

TEMPLATE_LIST_TEST_CASE("class means are the means of each class's rows", "[anchors]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = as_stored<D>(random_reals(200, 17, 71, 3.0));
  indices labels;
  for (index_t i = 0; i < 200; ++i) labels.push_back(i < 3 ? 4 : (i * i + i / 7) % 4);  // three rows of class 4
  const bool normalise = GENERATE(false, true);
  const reals rows = normalise ? unit_rows(x) : x;
  reals want = reals::Zero(5, 17);
  std::vector<double> count(5, 0);
  for (index_t i = 0; i < 200; ++i) {
    want.row(labels[std::size_t(i)]) += rows.row(i);
    ++count[std::size_t(labels[std::size_t(i)])];
  }
  for (index_t c = 0; c < 5; ++c) {
    want.row(c) /= count[std::size_t(c)];
    if (normalise) want.row(c).normalize();
  }
  const reals got = run_class_means<D>(ctx, x, labels, 5, normalise);
  // Sums of a hundred rows.
  CHECK(relative_distance(got, want) <= 100 * roundoff<typename D::scalar>);
}

TEMPLATE_LIST_TEST_CASE("the mean of a class without rows, where nobody looks at the labels, is not a number", "[anchors]",
                        devices) {
  using D = TestType;
  const reals x = random_reals(6, 3, 171);
  const label_array<D> no_one({0, 2, 2, 0, 0, 2});
  const array<D> xd(x);
  array<D> out(3, 3);
  for (const bool normalise : {false, true}) {
    craft::class_means_options o;
    o.normalise = normalise;
    CHECK_THROWS_AS(craft::class_means(D::make_checking(), xd.in(), no_one.in(), o, out.out()), craft::shape_error);
    if (D::space == craft::memory::host) continue;
    const auto ctx = D::make();
    craft::class_means(ctx, xd.in(), no_one.in(), o, out.out());
    const reals got = out.get();
    CHECK(got.row(0).allFinite());
    CHECK(got.row(2).allFinite());
    CHECK(got.row(1).array().isNaN().all());
  }
}

// ---------------------------------------------------------------------------------------------------------
// k-means

TEMPLATE_LIST_TEST_CASE("k-means meets the reference values", "[anchors][kmeans][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const auto check = [&](const std::string& name, bool unit, bool spherical) {
    for (const auto& r : reference::cases("anchors", name)) {
      INFO(r.id());
      const reference::inputs in(r);
      craft::kmeans_options o;
      o.start = r.indices("result", "init_indices");
      o.spherical = spherical;
      const clusters got = run_kmeans<D>(ctx, unit ? in.Xn : in.X, index_t(r.parameter("k")), o);
      CHECK(got.result.assignment == r.indices("result", "labels"));
      if (r.has("result", "inertia"))
        CHECK(std::abs(got.result.inertia - r.number("result", "inertia")) <= value_relative * got.result.inertia);
      if (r.has("result", "centers")) {
        CHECK(relative_distance(got.centres, r.array("result", "centers")) <= value_relative);
      } else {
        CHECK(relative_distance(got.centres.row(0), r.array("result", "center_row0")) <= value_relative);
        CHECK(std::abs(got.centres.norm() - r.number("result", "centers_fro")) <= value_relative * got.centres.norm());
      }
      if (spherical) {
        double cosines = 0;
        for (index_t i = 0; i < r.n(); ++i)
          cosines += in.Xn.row(i).dot(got.centres.row(got.result.assignment[std::size_t(i)]));
        const double want_cosines = r.number("result", "objective_sum_cos");
        CHECK(std::abs(cosines - want_cosines) <= value_relative * want_cosines);
      }
    }
  };
  for (const std::string k : {"_k4", "_k7"}) {
    check("sklearn_kmeans_lloyd" + k, false, false);
    check("sklearn_kmeans_lloyd_l2" + k, true, false);
    check("derived_spherical_kmeans" + k, false, true);
  }
}

TEMPLATE_LIST_TEST_CASE("k-means finds clouds, with means for centres and the inertia it says", "[anchors][kmeans]",
                        devices) {
  using D = TestType;
  const auto ctx = D::make();
  const index_t k = GENERATE(1, 2, 5, 9);
  const reals x = as_stored<D>(clouds(k, 30, 7, 72));
  const clusters got = run_kmeans<D>(ctx, x, k, {});
  check_clusters<D>(x, got);
  // Rows i and i + k come from the same cloud.
  for (index_t i = 0; i + k < x.rows(); ++i)
    CHECK(got.result.assignment[std::size_t(i)] == got.result.assignment[std::size_t(i + k)]);
}

TEMPLATE_LIST_TEST_CASE("spherical k-means clusters directions", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  reals x = clouds(4, 25, 6, 73);
  for (index_t i = 0; i < x.rows(); ++i) x.row(i) *= 1 + double(i % 13);  // lengths must not matter
  x = as_stored<D>(x);
  craft::kmeans_options o;
  o.spherical = true;
  const clusters got = run_kmeans<D>(ctx, x, 4, o);
  for (index_t a = 0; a < 4; ++a) CHECK(std::abs(got.centres.row(a).norm() - 1) <= 8 * roundoff<typename D::scalar>);
  check_clusters<D>(unit_rows(x), got, true);
  for (index_t i = 0; i + 4 < x.rows(); ++i)
    CHECK(got.result.assignment[std::size_t(i)] == got.result.assignment[std::size_t(i + 4)]);
}

TEMPLATE_LIST_TEST_CASE("k-means is converged: one more step from its centres changes nothing", "[anchors][kmeans]",
                        devices) {
  using D = TestType;
  const auto ctx = D::make();
  // No clusters in sight: many steps, unlike clouds.
  const reals x = as_stored<D>(random_reals(300, 3, 74));
  craft::kmeans_options o;
  o.restarts = 3;
  const clusters got = run_kmeans<D>(ctx, x, 8, o);
  CHECK(got.result.iterations < o.max_iterations);
  CHECK(got.result.iterations > 1);
  check_clusters<D>(x, got);
  // Fewer iterations are honoured, and stop at something worse or equal.
  o.max_iterations = 1;
  const clusters early = run_kmeans<D>(ctx, x, 8, o);
  CHECK(early.result.iterations == 1);
  CHECK(early.result.inertia >= got.result.inertia);
}

TEMPLATE_LIST_TEST_CASE("k-means: the same seed gives the same bits, another seed another start",
                        "[anchors][kmeans][seed]", devices) {
  using D = TestType;
  const reals x = as_stored<D>(random_reals(200, 3, 75));
  craft::kmeans_options o;
  o.restarts = 1;
  std::set<double> inertias;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    o.seed = seed;
    const clusters a = run_kmeans<D>(D::make(), x, 9, o), b = run_kmeans<D>(D::make(), x, 9, o);
    CHECK(a.result.assignment == b.result.assignment);
    CHECK(a.result.inertia == b.result.inertia);
    CHECK(a.centres == b.centres);
    inertias.insert(a.result.inertia);
  }
  // Nine clusters of a structureless cloud have many local optima: twelve starts must not agree on one.
  CHECK(inertias.size() > 3);
}

TEMPLATE_LIST_TEST_CASE("more restarts are never worse", "[anchors][kmeans][long]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = as_stored<D>(random_reals(80, 4, 76));
  const bool spherical = GENERATE(false, true);
  craft::kmeans_options o;
  o.spherical = spherical;
  bool better = false;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    o.seed = seed;
    o.restarts = 1;
    const double one = run_kmeans<D>(ctx, x, 7, o).result.inertia;
    o.restarts = 4;
    const double four = run_kmeans<D>(ctx, x, 7, o).result.inertia;
    o.restarts = 10;
    const double ten = run_kmeans<D>(ctx, x, 7, o).result.inertia;
    CHECK(four <= one);
    CHECK(ten <= four);
    better = better || ten < one;
  }
  CHECK(better);  // or the restarts did nothing
}

TEMPLATE_LIST_TEST_CASE("k-means++ spreads its starts", "[anchors][kmeans][seed]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  // Eight clouds very far apart: squared-distance sampling puts one start into each (the chance to miss one is about
  // the squared ratio of spread to distance, 1e-8), where uniform starts would miss one with probability 0.998.
  reals x(160, 2);
  const reals noise = 1e-3 * random_reals(160, 2, 77);
  for (index_t i = 0; i < 160; ++i)
    x.row(i) << 10 * std::cos(0.785398 * double(i % 8)) + noise(i, 0),
        10 * std::sin(0.785398 * double(i % 8)) + noise(i, 1);
  x = as_stored<D>(x);
  craft::kmeans_options o;
  o.restarts = 1;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    o.seed = seed;
    const clusters got = run_kmeans<D>(ctx, x, 8, o);
    INFO("seed " << seed << ", inertia " << got.result.inertia);
    CHECK(got.result.inertia <= 160 * 2 * 25e-6);  // each cloud its own cluster, five standard deviations at most
  }
}

TEMPLATE_LIST_TEST_CASE("k-means repairs empty clusters", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool spherical = GENERATE(false, true);
  reals x = as_stored<D>(clouds(4, 15, 5, 78));
  craft::kmeans_options o;
  o.spherical = spherical;
  // Three starts at one row, or at equal rows: all but one of them get no row at first.
  reals with_copies = x;
  with_copies.row(4) = with_copies.row(0);
  with_copies.row(8) = with_copies.row(0);
  for (const bool copies : {false, true}) {
    const reals& data = copies ? with_copies : x;
    o.start = copies ? indices{0, 4, 8, 1} : indices{0, 0, 0, 1};
    const clusters got = run_kmeans<D>(ctx, data, 4, o);
    check_clusters<D>(spherical ? unit_rows(data) : data, got, spherical);
  }
  // All but one cluster empty, at every number of them, up to a cluster for each row: a repair may not empty another.
  const reals few = as_stored<D>(random_reals(6, 5, 178));
  for (index_t k = 2; k <= 6; ++k) {
    o.start = indices(std::size_t(k), 3);
    check_clusters<D>(spherical ? unit_rows(few) : few, run_kmeans<D>(ctx, few, k, o), spherical);
  }
}

TEST_CASE("k-means: the defaults", "[anchors][kmeans]") {
  const craft::kmeans_options o;
  CHECK(o.seed == 0);
  CHECK(o.restarts == 10);
  CHECK(o.max_iterations == 300);
  CHECK(o.tolerance == 0);
  CHECK_FALSE(o.spherical);
  CHECK(o.start.empty());
  CHECK_FALSE(craft::class_means_options{}.normalise);
}

TEMPLATE_LIST_TEST_CASE("k-means at its limits: one cluster, a cluster per row, equal rows", "[anchors][kmeans]",
                        devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = as_stored<D>(random_reals(12, 4, 79));
  const clusters one = run_kmeans<D>(ctx, x, 1, {});
  check_clusters<D>(x, one);
  const clusters each = run_kmeans<D>(ctx, x, 12, {});
  check_clusters<D>(x, each);
  CHECK(distinct(each.result.assignment));
  // Distances of a row to itself are 0 up to the rounding of the squares.
  CHECK(each.result.inertia <= 12 * 64 * roundoff<typename D::scalar> * x.squaredNorm());

  CHECK(each.result.distinct == 12);

  const reals equal = x.row(0).replicate(6, 1);
  reals two = equal;
  two.row(3) = two.row(5) = x.row(1);
  const clusters pair = run_kmeans<D>(ctx, two, 2, {});
  check_clusters<D>(two, pair);
  CHECK(pair.result.assignment[3] == pair.result.assignment[5]);
  CHECK(pair.result.assignment[0] != pair.result.assignment[3]);
  const clusters single = run_kmeans<D>(ctx, x.topRows(1), 1, {});
  CHECK(single.centres == x.topRows(1));
  // Directions without a mean: opposite rows, and a row of zeros.
  reals opposite(3, 4);
  opposite << x.row(0), -x.row(0), reals::Zero(1, 4);
  craft::kmeans_options o;
  o.spherical = true;
  for (const index_t k : {1, 2, 3}) {
    const clusters directions = run_kmeans<D>(ctx, opposite, k, o);
    CHECK(directions.centres.allFinite());
    CHECK(std::isfinite(directions.result.inertia));
    CHECK(within(directions.result.assignment, k));
  }
}

TEMPLATE_LIST_TEST_CASE("k-means of fewer different rows than clusters: equal rows share one, and the rest are empty",
                        "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  reals line(4, 1), plane(6, 2), five = as_stored<D>(random_reals(5, 37, 181)), many(1000, 37);
  line << 0, 0, 1, 2;
  plane << 9, 3, 9, 4, 2, 2, 2, 2, 9, 3, 9, 4;
  for (index_t i = 0; i < 1000; ++i) many.row(i) = five.row((i * i + i / 7) % 5);
  const reals one = five.row(0).replicate(6, 1);
  struct problem {
    const reals& x;
    index_t k, distinct;
    std::vector<indices> starts;  // none: k-means++
  };
  for (const problem& p : std::vector<problem>{{line, 4, 3, {{}, {0, 1, 0, 1}, {3, 3, 3, 3}}},
                                               {plane, 4, 3, {{}, {2, 3, 2, 3}, {0, 4, 1, 5}}},
                                               {plane, 6, 3, {{}, {0, 1, 2, 3, 4, 5}}},
                                               {one, 3, 1, {{}, {5, 4, 3}}},
                                               {many, 5, 5, {{}, {0, 0, 0, 0, 0}}},
                                               {many, 8, 5, {{}, {0, 0, 0, 0, 1, 1, 1, 1}}}})
    for (const indices& start : p.starts)
      for (const bool spherical : {false, true}) {
        if (spherical && p.x.cols() == 1) continue;  // on a line there are two directions
        INFO(p.x.rows() << " rows, k " << p.k << (start.empty() ? "" : ", from rows") << (spherical ? ", spherical" : ""));
        craft::kmeans_options o;
        o.spherical = spherical;
        o.start = start;
        const clusters got = run_kmeans<D>(ctx, p.x, p.k, o);
        CHECK(got.result.distinct == p.distinct);
        CHECK(got.result.iterations < o.max_iterations);
        // Unit rows and unit centres may differ by rounding.
        const double unit = double(p.x.cols() + 4) * 2 * roundoff<typename D::scalar>;
        CHECK(got.result.inertia <= (spherical ? double(p.x.rows()) * unit * unit : 0));
        // One cluster for one row, and another for another.
        const indices& assigned = got.result.assignment;
        REQUIRE(within(assigned, p.k));
        index_t wrong = 0;
        for (index_t i = 0; i < p.x.rows(); ++i)
          for (index_t j = 0; j < i; ++j)
            wrong += (p.x.row(i) == p.x.row(j)) != (assigned[std::size_t(i)] == assigned[std::size_t(j)]);
        CHECK(wrong == 0);
        // A centre is a row, also that of an empty cluster; and the row's own where it has some.
        const reals rows = spherical ? unit_rows(p.x) : p.x;
        const double off = spherical ? unit : 0;
        for (index_t a = 0; a < p.k; ++a)
          CHECK((rows.rowwise() - got.centres.row(a)).rowwise().norm().minCoeff() <= off);
        for (index_t i = 0; i < p.x.rows(); i += 7)
          CHECK((rows.row(i) - got.centres.row(assigned[std::size_t(i)])).norm() <= off);
      }

  // Per class: two different rows of class 0, three of class 1, for four clusters each.
  const indices labels = {0, 0, 0, 0, 1, 1, 1, 1};
  reals x(8, 2);
  x << 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 0, 7, 5, 5, 0, 7;
  const array<D> xd(x);
  const label_array<D> on_device(labels);
  array<D> centres(8, 2);
  const auto result = craft::kmeans_per_class(ctx, xd.in(), on_device.in(), 2, {}, centres.out());
  CHECK(result.distinct == 5);
  CHECK(result.inertia == 0);
  const reals found = centres.get();
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < i; ++j)
      CHECK((result.assignment[std::size_t(i)] == result.assignment[std::size_t(j)]) ==
            (labels[std::size_t(i)] == labels[std::size_t(j)] && x.row(i) == x.row(j)));
  for (index_t a = 0; a < 8; ++a)  // rows of the class
    CHECK((x.middleRows(a / 4 * 4, 4).rowwise() - found.row(a)).rowwise().norm().minCoeff() == 0);
}

TEMPLATE_LIST_TEST_CASE("k-means stops by its tolerance, and not before the first step", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = as_stored<D>(random_reals(300, 3, 182));
  craft::kmeans_options o;
  o.restarts = 1;
  const auto all = run_kmeans<D>(ctx, x, 8, o).result;
  o.tolerance = 0.03;
  const auto some = run_kmeans<D>(ctx, x, 8, o).result;
  CHECK(some.iterations >= 1);
  CHECK(some.iterations < all.iterations);
  CHECK(some.inertia >= all.inertia);
  o.tolerance = 1e-12;
  CHECK(run_kmeans<D>(ctx, x, 8, o).result.iterations >= all.iterations - 1);
}

TEMPLATE_LIST_TEST_CASE("the mean of equal rows is that row, and its distance 0", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  // A sum of three 0.1, or of ten, divided by their number is not 0.1.
  reals x(13, 5);
  for (index_t i = 0; i < 13; ++i) x.row(i).setConstant(i < 3 ? 0.1 : 0.7);
  x = as_stored<D>(x);
  const indices labels = {0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const reals means = run_class_means<D>(ctx, x, labels, 2, false);
  CHECK(means.row(0) == x.row(0));
  CHECK(means.row(1) == x.row(3));
  CHECK(run_kmeans<D>(ctx, x, 2, {}).result.inertia == 0);
  // Far from the mean of all: what |x|^2 + |c|^2 - 2 x.c leaves of equal rows is rounding, not 0.
  reals far = as_stored<D>(random_reals(40, 9, 183, 100.0));
  CHECK(run_kmeans<D>(ctx, far, 40, {}).result.inertia == 0);
}

TEMPLATE_LIST_TEST_CASE("anchors refuse magnitudes whose squares the type does not hold", "[anchors][errors]", devices) {
  using D = TestType;
  using T = typename D::scalar;
  const auto ctx = D::make();
  const index_t d = 4;
  const double most = std::sqrt(double(std::numeric_limits<T>::max()) / (4 * d)),
               least = std::sqrt(double(std::numeric_limits<T>::min()) / double(std::numeric_limits<T>::epsilon()));
  reals x = random_reals(8, d, 184);
  x.rowwise() -= x.colwise().mean().eval();
  x /= x.cwiseAbs().maxCoeff();
  const label_array<D> labels({0, 1, 2, 0, 1, 2, 0, 1});
  const array<D> centres(x.topRows(3));
  array<D> out(3, d);
  const std::string untouched = out.bits();
  const char* type = sizeof(T) == 4 ? "float" : "double";
  const auto of = [](const char* name) { return contains(std::string(name) + ": the largest number"); };
  const auto computed = contains(type), advice = contains("power of two");
  for (const double scale : {2 * most, 1e3 * most, 0.5 * least, 1e-3 * least}) {
    INFO("largest number " << scale);
    const array<D> bad(scale * x);
    CHECK_THROWS_AS(craft::kmeans(ctx, bad.in(), {}, out.out()), craft::data_error);
    CHECK_THROWS_WITH(craft::kmeans(ctx, bad.in(), {}, out.out()), of("kmeans: x") && computed && advice);
    CHECK_THROWS_WITH(craft::kmeans_per_class(ctx, bad.in(), labels.in(), 3, {}, out.out()),
                      of("kmeans_per_class: x") && computed && advice);
    CHECK_THROWS_WITH(craft::farthest_point_anchors(ctx, bad.in(), 3), of("farthest_point_anchors: x") && computed && advice);
    if (scale > 1)
      CHECK_THROWS_WITH(craft::medoids(ctx, bad.in(), centres.in()), of("medoids: x and centres") && computed && advice);
    if (scale > 1)
      CHECK_THROWS_WITH(craft::medoids(ctx, centres.in(), bad.in()), of("medoids: x and centres") && computed && advice);
    CHECK_THROWS_WITH(craft::medoids(ctx, bad.in(), bad.in()), of("medoids: x and centres") && computed && advice);
    CHECK(out.bits() == untouched);
    // Directions have no magnitude.
    craft::kmeans_options spherical;
    spherical.spherical = true;
    array<D> directions(3, d);
    CHECK(std::isfinite(craft::kmeans(ctx, bad.in(), spherical, directions.out()).inertia));
    CHECK(distinct(craft::farthest_point_anchors(ctx, bad.in(), 8, 0, craft::metric::cosine)));
  }
  // Within the limits the scale changes nothing, up to the last bit if it is a power of two.
  const auto want = run_kmeans<D>(ctx, as_stored<D>(x), 3, {}).result.assignment;
  const array<D> plain(x);
  const indices far = craft::farthest_point_anchors(ctx, plain.in(), 8), own = craft::medoids(ctx, plain.in(), centres.in());
  for (const double limit : {0.5 * most, 2 * least}) {
    const double scale = std::exp2(std::round(std::log2(limit)));
    INFO("scaled by " << scale);
    const array<D> scaled(scale * as_stored<D>(x)), scaled_centres(scale * as_stored<D>(x.topRows(3)));
    CHECK(run_kmeans<D>(ctx, scale * as_stored<D>(x), 3, {}).result.assignment == want);
    CHECK(craft::farthest_point_anchors(ctx, scaled.in(), 8) == far);
    CHECK(craft::medoids(ctx, scaled.in(), scaled_centres.in()) == own);
  }
  // Equal rows, at any magnitude of their own, are 0 when they are centred.
  for (const double value : {0.1, 1e-3 * least, 1e3 * most})
    CHECK(run_kmeans<D>(ctx, as_stored<D>(reals::Constant(7, d, value)), 2, {}).result.inertia == 0);
}

TEMPLATE_LIST_TEST_CASE("k-means of data with a large common mean keeps its digits", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  // In float, |x|^2 + |c|^2 - 2 x.c at |x|^2 = 8e6 would be wrong by about 1, more than the clouds' distances.
  const reals x = as_stored<D>((0.05 * clouds(5, 20, 8, 80)).array() + 1000);
  const clusters got = run_kmeans<D>(ctx, x, 5, {});
  for (index_t i = 0; i + 5 < x.rows(); ++i)
    CHECK(got.result.assignment[std::size_t(i)] == got.result.assignment[std::size_t(i + 5)]);
  check_clusters<D>(x, got);
}

TEMPLATE_LIST_TEST_CASE("k-means per class stays within each class", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const index_t classes = 3, per_class = 2, n = 60, d = 5;
  // Six clouds: cloud g belongs to class g / 2 and one more, so that the first row is not of class 0.
  const reals x = as_stored<D>(clouds(6, 10, d, 81));
  indices labels;
  for (index_t i = 0; i < n; ++i) labels.push_back(((i % 6) / 2 + 1) % 3);
  const array<D> xd(x);
  const label_array<D> on_device(labels);
  array<D> centres(classes * per_class, d);
  const auto result = craft::kmeans_per_class(ctx, xd.in(), on_device.in(), classes, {}, centres.out());
  const clusters got{result, centres.get()};
  REQUIRE(index_t(result.assignment.size()) == n);
  for (index_t i = 0; i < n; ++i) CHECK(result.assignment[std::size_t(i)] / per_class == labels[std::size_t(i)]);
  for (index_t i = 0; i + 6 < n; ++i) CHECK(result.assignment[std::size_t(i)] == result.assignment[std::size_t(i + 6)]);
  check_clusters<D>(x, got);

  // One centre per class is the class mean, also when the classes lie on top of each other.
  const reals noise = as_stored<D>(random_reals(n, d, 82));
  const array<D> nd(noise);
  array<D> means(classes, d);
  craft::kmeans_per_class(ctx, nd.in(), on_device.in(), classes, {}, means.out());
  CHECK(relative_distance(means.get(), run_class_means<D>(ctx, noise, labels, classes, false)) <=
        64 * roundoff<typename D::scalar>);
}

TEMPLATE_LIST_TEST_CASE("medoids are the rows nearest to the centres", "[anchors]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = as_stored<D>(random_reals(90, 6, 83)), centres = as_stored<D>(random_reals(11, 6, 84));
  const array<D> xd(x), cd(centres);
  const indices got = craft::medoids(ctx, xd.in(), cd.in());
  REQUIRE(got.size() == 11);
  for (index_t c = 0; c < 11; ++c) CHECK(got[std::size_t(c)] == nearest(x, centres, c));
  // Rows of x are their own medoids; of equal rows the first.
  reals twice(180, 6);
  twice << x, x;
  const array<D> td(twice);
  const indices own = craft::medoids(ctx, td.in(), xd.in());
  for (index_t i = 0; i < 90; ++i) CHECK(own[std::size_t(i)] == i);
}

TEMPLATE_LIST_TEST_CASE("among rows that are nearly the same, the nearest is the nearest", "[anchors][kmeans]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  // Sixty rows about five points, ten thousand roundings apart: dot products do not tell them apart, and differences do.
  const double apart = 1e4 * roundoff<typename D::scalar>;
  const index_t n = 60, d = 6, points = 5;
  const reals point = random_reals(points, d, 91), off = random_reals(n, d, 92);
  reals x(n, d);
  for (index_t i = 0; i < n; ++i) x.row(i) = point.row(i % points) + apart * off.row(i);
  x = as_stored<D>(x);
  const array<D> xd(x);
  const indices own = craft::medoids(ctx, xd.in(), xd.in());
  for (index_t i = 0; i < n; ++i) CHECK(own[std::size_t(i)] == i);
  craft::kmeans_options options;
  options.restarts = 2;
  array<D> centres(2 * points, d);
  const auto found = craft::kmeans(ctx, xd.in(), options, centres.out());
  const reals c = centres.get();
  double inertia = 0;
  for (index_t i = 0; i < n; ++i) {
    const double mine = (x.row(i) - c.row(found.assignment[std::size_t(i)])).squaredNorm();
    inertia += mine;
    for (index_t q = 0; q < 2 * points; ++q) CHECK(mine <= (x.row(i) - c.row(q)).squaredNorm() + 0.01 * apart * apart);
  }
  CHECK(std::abs(found.inertia - inertia) <= 0.01 * inertia);
}

// ---------------------------------------------------------------------------------------------------------
// Random anchors

TEST_CASE("random anchors are different rows, given by seed and step", "[anchors][seed]") {
  for (const index_t n : {1, 2, 10, 1000})
    for (const index_t count : {index_t(1), (n + 1) / 2, n}) {
      INFO(count << " of " << n);
      const indices a = craft::random_anchors(n, count, 5);
      CHECK(index_t(a.size()) == count);
      CHECK(within(a, n));
      CHECK(distinct(a));
      CHECK(a == craft::random_anchors(n, count, 5));
      CHECK(a == craft::random_anchors(n, count, 5, 0));
    }
  const indices a = craft::random_anchors(1000, 20, 5);
  CHECK(a != craft::random_anchors(1000, 20, 6));
  CHECK(a != craft::random_anchors(1000, 20, 5, 1));
  // Seed and step must not be one number: (5, 1) and (6, 0) are different draws.
  CHECK(craft::random_anchors(1000, 20, 5, 1) != craft::random_anchors(1000, 20, 6, 0));
  CHECK(craft::random_anchors(1000, 20, 0, 7) != craft::random_anchors(1000, 20, 7, 0));
}

TEST_CASE("random anchors are uniform", "[anchors][seed]") {
  const index_t n = 20, count = 5, draws = 8000;
  const bool by_step = GENERATE(false, true);
  std::vector<double> hits(std::size_t(n), 0), first(std::size_t(n), 0);
  matrix<double> pairs = matrix<double>::Zero(n, n);
  for (index_t draw = 0; draw < draws; ++draw) {
    const auto at = std::uint64_t(draw);
    const indices a = by_step ? craft::random_anchors(n, count, 3, at) : craft::random_anchors(n, count, at);
    for (index_t i : a) ++hits[std::size_t(i)];
    for (index_t i : a)
      for (index_t j : a)
        if (i != j) ++pairs(i, j);
  }
  // Binomial, p = 1/4: standard deviation sqrt(8000 / 4 * 3/4) = 39; six of them are passed once in 1e8 cases.
  for (index_t i = 0; i < n; ++i) CHECK(std::abs(hits[std::size_t(i)] - 2000) <= 6 * 39);
  // A pair is drawn together with p = 5 * 4 / (20 * 19) = 0.0526: 421 +- 20.
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < i; ++j) CHECK(std::abs(pairs(i, j) - 8000 * 20.0 / 380) <= 6 * 20);
}

TEST_CASE("stratified anchors are as many of each class", "[anchors][seed]") {
  const index_t n = 90, classes = 4, per_class = 5;
  indices labels;
  for (index_t i = 0; i < n; ++i) labels.push_back(i % 17 == 0 ? 3 : i % 3);  // class 3 is rare: 6 rows
  const indices a = craft::stratified_anchors(labels, classes, per_class, 5);
  REQUIRE(index_t(a.size()) == classes * per_class);
  CHECK(within(a, n));
  CHECK(distinct(a));
  for (index_t q = 0; q < classes * per_class; ++q)
    CHECK(labels[std::size_t(a[std::size_t(q)])] == q / per_class);  // class by class
  CHECK(a == craft::stratified_anchors(labels, classes, per_class, 5));
  CHECK(a != craft::stratified_anchors(labels, classes, per_class, 6));
  CHECK(a != craft::stratified_anchors(labels, classes, per_class, 5, 1));
  const std::vector<std::int32_t> narrow(labels.begin(), labels.end());
  CHECK(a == craft::stratified_anchors(narrow, classes, per_class, 5));

  // Every row of a class is drawn equally often.
  const index_t draws = 4000;
  std::vector<double> hits(std::size_t(n), 0), members(std::size_t(classes), 0);
  for (index_t y : labels) ++members[std::size_t(y)];
  for (index_t draw = 0; draw < draws; ++draw)
    for (index_t i : craft::stratified_anchors(labels, classes, per_class, 9, std::uint64_t(draw)))
      ++hits[std::size_t(i)];
  for (index_t i = 0; i < n; ++i) {
    const double p = double(per_class) / members[std::size_t(labels[std::size_t(i)])];
    CHECK(std::abs(hits[std::size_t(i)] - draws * p) <= 6 * std::sqrt(draws * p * (1 - p)));
  }
}

// ---------------------------------------------------------------------------------------------------------
// Farthest points

TEMPLATE_LIST_TEST_CASE("farthest points meet the reference values", "[anchors][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  for (const bool cosine : {false, true})
    for (const auto& r : reference::cases("anchors", cosine ? "derived_fps_cosine" : "derived_fps_euclidean")) {
      INFO(r.id());
      const reference::inputs in(r);
      const array<D> x(in.X);
      const auto got =
          craft::farthest_point_anchors(ctx, x.in(), index_t(r.parameter("count")), index_t(r.parameter("start")),
                                        cosine ? craft::metric::cosine : craft::metric::euclidean);
      CHECK(got == r.indices("result", "indices"));
    }
}

TEMPLATE_LIST_TEST_CASE("farthest points: each is the farthest from those before", "[anchors]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  // Whole numbers: distances are exact in float, and there are many ties.
  reals x(60, 3);
  const reals r = random_reals(60, 3, 85);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = std::round(2 * r.data()[i]);
  x.row(7) = x.row(30);
  const array<D> xd(x);
  for (const index_t start : {0, 7, 59}) {
    const indices got = craft::farthest_point_anchors(ctx, xd.in(), 25, start);
    REQUIRE(got.size() == 25);
    CHECK(got[0] == start);
    Eigen::VectorXd distance = (x.rowwise() - x.row(start)).rowwise().squaredNorm();
    for (std::size_t q = 1; q < got.size(); ++q) {
      index_t first = 0;
      for (index_t i = 1; i < 60; ++i)
        if (distance(i) > distance(first)) first = i;
      CHECK(got[q] == first);  // the lowest index among equals
      distance = distance.cwiseMin((x.rowwise() - x.row(got[q])).rowwise().squaredNorm());
    }
  }
  // All of them: an order of the rows without repeats, if the rows differ.
  const array<D> all(random_reals(40, 3, 86));
  const indices order = craft::farthest_point_anchors(ctx, all.in(), 40);
  CHECK(distinct(order));
  CHECK(within(order, 40));
  CHECK(order == craft::farthest_point_anchors(ctx, all.in(), 40, 0, craft::metric::euclidean));
  // More points than different rows: the rest are rows not taken yet.
  const array<D> equal(reals::Constant(5, 3, 1.5));
  const indices repeated = craft::farthest_point_anchors(ctx, equal.in(), 3);
  CHECK(distinct(repeated));
  CHECK(within(repeated, 5));
}

TEMPLATE_LIST_TEST_CASE("farthest points by cosine do not see lengths", "[anchors]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = random_reals(50, 4, 87);
  reals scaled = x;
  for (index_t i = 0; i < 50; ++i) scaled.row(i) *= std::ldexp(1.0, int(i % 5) - 2);  // exact
  const array<D> a(x), b(scaled);
  const indices got = craft::farthest_point_anchors(ctx, a.in(), 20, 3, craft::metric::cosine);
  CHECK(got == craft::farthest_point_anchors(ctx, b.in(), 20, 3, craft::metric::cosine));
  CHECK(got != craft::farthest_point_anchors(ctx, b.in(), 20, 3, craft::metric::euclidean));
}

// ---------------------------------------------------------------------------------------------------------
// Gathering rows

TEMPLATE_LIST_TEST_CASE("gather copies rows, and its pull-back is its transpose", "[anchors]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const index_t n = 14, d = 5;
  const reals x = as_stored<D>(random_reals(n, d, 88));
  const indices at = {3, 3, 0, 13, 7, 3, 0};  // some twice and more, most not at all
  const index_t q = index_t(at.size());
  const array<D> xd(x, 2);
  array<D> out(q, d, not_a_number, 3);
  craft::gather(ctx, xd.in(), at, out.out());
  const reals rows = out.get();
  for (index_t i = 0; i < q; ++i) CHECK(rows.row(i) == x.row(at[std::size_t(i)]));

  const reals u = as_stored<D>(random_reals(q, d, 89));
  const array<D> ud(u, 1);
  array<D> dx(n, d, not_a_number, 2);
  craft::gather_pullback(ctx, ud.in(), at, craft::overwrite(dx.out()));
  reals want = reals::Zero(n, d);
  for (index_t i = 0; i < q; ++i) want.row(at[std::size_t(i)]) += u.row(i);
  const double tolerance = 4 * roundoff<typename D::scalar>;  // three terms at most
  CHECK((dx.get() - want).norm() <= tolerance * want.norm());
  // <gather(x), u> = <x, pullback(u)>
  const double left = (rows.array() * u.array()).sum(), right = (x.array() * dx.get().array()).sum();
  CHECK(std::abs(left - right) <= tolerance * x.norm() * u.norm());

  array<D> sum(n, d, 0.25, 2);
  craft::gather_pullback(ctx, ud.in(), at, craft::accumulate(sum.out()));
  CHECK((sum.get() - (want.array() + 0.25).matrix()).norm() <= 2 * tolerance * (want.norm() + 0.25 * std::sqrt(70.0)));
  for (const auto number : sum.padding()) CHECK(double(number) == 0.25);
  // Rows that no index names are not touched by accumulating.
  CHECK(sum.get().row(1) == reals::Constant(1, d, 0.25));
  array<D> unwanted(n, d, 0.25);
  craft::gather_pullback(ctx, ud.in(), at, craft::output<typename D::scalar, D::space>{unwanted.out(), craft::write::none});
  CHECK(unwanted.get() == reals::Constant(n, d, 0.25));
}

TEMPLATE_LIST_TEST_CASE("parallel anchors: the same indices pick the same samples in two modalities", "[anchors]",
                        devices) {
  using D = TestType;
  const auto ctx = D::make();
  // The second modality holds the first one in its last columns.
  const reals x = as_stored<D>(random_reals(40, 4, 90));
  reals other(40, 6);
  other << random_reals(40, 2, 91), x;
  other = as_stored<D>(other);
  const array<D> xd(x), od(other);
  const indices at = craft::random_anchors(40, 9, 1);
  array<D> a(9, 4), b(9, 6);
  craft::gather(ctx, xd.in(), at, a.out());
  craft::gather(ctx, od.in(), at, b.out());
  CHECK(b.get().rightCols(4) == a.get());
}

// ---------------------------------------------------------------------------------------------------------
// Storage and errors

TEMPLATE_LIST_TEST_CASE("anchors of rows stored in two bytes", "[anchors][storage]", float_devices) {
  using D = typename TestType::template storing<Eigen::bfloat16>;
  const auto ctx = D::make();
  const reals x = as_stored<D>(clouds(3, 12, 5, 92));
  const array<D> xd(x);
  array<D> centres(3, 5);
  const auto result = craft::kmeans(ctx, xd.in(), {}, centres.out());
  for (index_t i = 0; i + 3 < x.rows(); ++i)
    CHECK(result.assignment[std::size_t(i)] == result.assignment[std::size_t(i + 3)]);
  reals mean = reals::Zero(3, 5);
  for (index_t i = 0; i < x.rows(); ++i) mean.row(result.assignment[std::size_t(i)]) += x.row(i) / 12;
  // Rounded once, from sums in float: half a unit in the last of eight binary places.
  CHECK(((centres.get() - mean).array().abs() <= mean.array().abs() * 0x1p-8 * 1.001).all());
  array<D> rows(2, 5);
  craft::gather(ctx, xd.in(), indices{4, 9}, rows.out());
  CHECK(rows.get().row(0) == x.row(4));
  CHECK(rows.get().row(1) == x.row(9));
}

TEMPLATE_LIST_TEST_CASE("anchors: errors say what was expected, and write nothing", "[anchors][errors]", devices) {
  using D = TestType;
  const auto ctx = D::make_checking();
  const array<D> x(random_reals(8, 4, 93));
  array<D> out(3, 4), narrow(3, 3), dx(8, 4);
  const std::string untouched = out.bits(), untouched_dx = dx.bits();
  const label_array<D> labels({0, 1, 2, 0, 1, 2, 0, 1}), no_two({0, 1, 1, 0, 1, 1, 0, 1}),
      too_large({0, 1, 2, 0, 1, 2, 0, 3}), negative({0, 1, 2, 0, 1, 2, 0, -1}), short_of_one({0, 1, 2, 0, 1, 2, 0});
  const auto in = x.in();

  craft::class_means_options means;
  CHECK_THROWS_AS(craft::class_means(ctx, in, no_two.in(), means, out.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::class_means(ctx, in, too_large.in(), means, out.out()), craft::label_error);
  CHECK_THROWS_AS(craft::class_means(ctx, in, negative.in(), means, out.out()), craft::label_error);
  CHECK_THROWS_AS(craft::class_means(ctx, in, short_of_one.in(), means, out.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::class_means(ctx, in, labels.in(), means, narrow.out()), craft::shape_error);

  craft::kmeans_options km;
  array<D> nine(9, 4), none(0, 4);
  const std::string untouched_nine = nine.bits();
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, nine.out()), craft::error);
  CHECK_THROWS_WITH(craft::kmeans(ctx, in, km, nine.out()), contains("8") && contains("9"));
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, none.out()), craft::error);
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, narrow.out()), craft::shape_error);
  CHECK_THROWS_WITH(craft::kmeans(ctx, in, km, narrow.out()), contains("3 x 4") && contains("3 x 3"));
  km.start = {0, 1};
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::error);
  km.start = {0, 1, 8};
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::option_error);
  km.start = {0, 1, -1};
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::option_error);
  km.start = {};
  km.restarts = 0;
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::option_error);
  km.restarts = 1;
  km.max_iterations = 0;
  CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::option_error);
  km.max_iterations = 10;
  for (const double bad : {-1e-3, not_a_number}) {
    km.tolerance = bad;
    CHECK_THROWS_AS(craft::kmeans(ctx, in, km, out.out()), craft::option_error);
  }
  km.tolerance = 0;
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, in, no_two.in(), 3, km, out.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, in, too_large.in(), 3, km, out.out()), craft::label_error);
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, in, short_of_one.in(), 3, km, out.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, in, labels.in(), 2, km, out.out()), craft::error);   // 3 is not 2 k
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, in, labels.in(), 3, km, nine.out()), craft::error);  // class 2: 2 < 3
  CHECK_THROWS_AS(craft::medoids(ctx, in, narrow.in()), craft::shape_error);

  CHECK_THROWS_AS(craft::random_anchors(8, 9, 0), craft::error);
  CHECK_THROWS_WITH(craft::random_anchors(8, 9, 0), contains("8") && contains("9"));
  CHECK_THROWS_AS(craft::random_anchors(8, -1, 0), craft::error);
  CHECK_THROWS_AS(craft::random_anchors(-8, 1, 0), craft::error);
  const indices host = {0, 1, 2, 0, 1, 2, 0, 1}, beyond = {0, 1, 3};
  CHECK_THROWS_AS(craft::stratified_anchors(host, 3, 3, 0), craft::error);  // class 2 has two rows
  CHECK_THROWS_AS(craft::stratified_anchors(host, 4, 1, 0), craft::shape_error);
  CHECK_THROWS_AS(craft::stratified_anchors(beyond, 3, 1, 0), craft::label_error);
  CHECK_THROWS_AS(craft::farthest_point_anchors(ctx, in, 9), craft::error);
  CHECK_THROWS_AS(craft::farthest_point_anchors(ctx, in, 3, 8), craft::option_error);
  CHECK_THROWS_AS(craft::farthest_point_anchors(ctx, in, 3, -1), craft::option_error);

  for (const index_t bad : {8, -1}) {
    CHECK_THROWS_AS(craft::gather(ctx, in, indices{0, bad, 2}, out.out()), craft::option_error);
    CHECK_THROWS_AS(craft::gather_pullback(ctx, out.in(), indices{0, bad, 2}, craft::overwrite(dx.out())),
                    craft::option_error);
    CHECK_THROWS_WITH(craft::gather(ctx, in, indices{0, bad, 2}, out.out()), contains(std::to_string(bad)));
  }
  CHECK_THROWS_AS(craft::gather(ctx, in, indices{0, 1}, out.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::gather(ctx, in, indices{0, 1, 2}, narrow.out()), craft::shape_error);
  CHECK_THROWS_AS(craft::gather_pullback(ctx, out.in(), indices{0, 1}, craft::overwrite(dx.out())), craft::shape_error);
  CHECK_THROWS_AS(craft::gather_pullback(ctx, narrow.in(), indices{0, 1, 2}, craft::overwrite(dx.out())),
                  craft::shape_error);

  const array<D> empty(reals(0, 4));
  const label_array<D> no_labels({});
  CHECK_THROWS_AS(craft::class_means(ctx, empty.in(), no_labels.in(), means, out.out()), craft::error);
  CHECK_THROWS_AS(craft::kmeans(ctx, empty.in(), km, out.out()), craft::error);
  CHECK_THROWS_AS(craft::farthest_point_anchors(ctx, empty.in(), 1), craft::error);
  CHECK_THROWS_AS(craft::medoids(ctx, empty.in(), out.in()), craft::error);

  CHECK(out.bits() == untouched);
  CHECK(dx.bits() == untouched_dx);
  CHECK(nine.bits() == untouched_nine);
}

TEMPLATE_LIST_TEST_CASE("anchors: outputs that overlap inputs, and numbers that are none", "[anchors][errors]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  array<D> both(random_reals(8, 4, 94));
  const std::string before = both.bits();
  const auto all = both.in();
  const auto part = craft::matrix_view<typename D::scalar, D::space>(both.out().data() + 4, 3, 4, 4);
  const label_array<D> labels({0, 1, 2, 0, 1, 2, 0, 1});
  CHECK_THROWS_AS(craft::class_means(ctx, all, labels.in(), {}, part), craft::alias_error);
  CHECK_THROWS_AS(craft::kmeans(ctx, all, {}, part), craft::alias_error);
  CHECK_THROWS_AS(craft::kmeans_per_class(ctx, all, labels.in(), 3, {}, part), craft::alias_error);
  CHECK_THROWS_AS(craft::gather(ctx, all, indices{0, 1, 2}, part), craft::alias_error);
  CHECK_THROWS_AS(craft::gather_pullback(ctx, both.in(), indices{0, 1, 2, 3, 4, 5, 6, 7}, craft::overwrite(both.out())),
                  craft::alias_error);
  CHECK(both.bits() == before);

  array<D> out(3, 4);
  const std::string untouched = out.bits();
  for (const double bad : {not_a_number, std::numeric_limits<double>::infinity()}) {
    reals values = random_reals(8, 4, 95);
    values(5, 2) = bad;
    const array<D> x(values), fine(random_reals(8, 4, 96));
    const auto place = contains("row 5, column 2");
    // What chooses rows always looks; the others if they are asked to.
    for (const bool asked : {false, true}) {
      ctx.check_finite(asked);
      CHECK_THROWS_AS(craft::kmeans(ctx, x.in(), {}, out.out()), craft::data_error);
      CHECK_THROWS_WITH(craft::kmeans(ctx, x.in(), {}, out.out()), contains("kmeans: x") && place);
      CHECK_THROWS_WITH(craft::kmeans_per_class(ctx, x.in(), labels.in(), 3, {}, out.out()),
                        contains("kmeans_per_class: x") && place);
      CHECK_THROWS_WITH(craft::medoids(ctx, x.in(), fine.in()), contains("medoids: x") && place);
      CHECK_THROWS_WITH(craft::medoids(ctx, fine.in(), x.in()), contains("medoids: centres") && place);
      for (const auto metric : {craft::metric::euclidean, craft::metric::cosine})
        CHECK_THROWS_WITH(craft::farthest_point_anchors(ctx, x.in(), 3, 0, metric),
                          contains("farthest_point_anchors: x") && place);
    }
    CHECK_THROWS_AS(craft::class_means(ctx, x.in(), labels.in(), {}, out.out()), craft::data_error);
    CHECK(out.bits() == untouched);
  }
}
