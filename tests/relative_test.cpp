// Relative representations: the map against its definition, map and pull-back against reference values; scale, outputs,
// storage and hard numbers. Gradients by finite differences: relative_gradients_test.cpp.
#include "craft/relative.hpp"

#include <Eigen/Dense>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"
#include "reference.hpp"
#include "relative_runs.hpp"

using namespace craft_test;
using craft::anchor_statistics;
using reference::record;

TEMPLATE_LIST_TEST_CASE("the map is its definition, for every similarity", "[relative]", devices) {
  using D = TestType;
  auto ctx = D::make();
  struct shape {
    index_t n, c, d;
  };
  for (const shape& s : {shape{1, 2, 1}, shape{5, 3, 4}, shape{70, 17, 40}, shape{3, 33, 2}}) {
    const double size = 1 / std::sqrt(double(s.d));
    const reals X = as_stored<D>(size * random_reals(s.n, s.d, 1)),
                A = as_stored<D>(size * random_reals(s.c, s.d, 2, 0.3));
    for (const index_t tile : {0, 7}) {
      ctx.tile(tile);
      for_each_pair_function([&](const auto& c) {
        for_each_option([&](craft::relative_options options) {
          options.log_scale = 0.7;
          INFO(c.name << ", n " << s.n << ", anchors " << s.c << ", d " << s.d << ", tile " << tile);
          const reals got = run_map<D>(ctx, X, A, c.kernel(), options);
          CHECK((got - naive_relative(c, X, A, options)).cwiseAbs().maxCoeff() <=
                rounding_of_relative(c.kernel(), X, A, options, roundoff<typename D::scalar>));
        });
      });
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// Reference values

namespace {

/// value = sum W . R, W_ic = sin(i + 2c + 1); `sign` where our similarity is the negative of theirs.
template <class D, class K>
void meets(const std::string& name, const K& similarity, craft::relative_options options, double sign = 1) {
  auto ctx = D::make();
  for (const record& r : reference::cases("relative", name)) {
    INFO(r.id());
    const reference::inputs in(r);
    if (name == "relreps_inner") options.log_scale = -0.5 * std::log(double(r.d()));
    const relative_result got = run_relative<D>(ctx, in.X, in.A, similarity, options, sign * in.W);
    const double value = sign * got.out.cwiseProduct(in.W).sum();
    record::gradients grads = {{"X", got.x}};
    if (r.has_gradient("A")) grads.push_back({"A", got.anchors});
    const double unit = roundoff<typename D::scalar>, entries = std::sqrt(double(in.W.size()));
    const auto entry_tolerance = [&](double size) { return 60 * unit * (1 + size); };
    if (std::is_same_v<typename D::compute, double>) {
      // The sum cancels: absolute in the size of its terms.
      CHECK(std::abs(value - r.value()) <= 1e-13 * got.out.norm() * entries);
      for (const auto& g : grads) {
        INFO("gradient " << g.first);
        CHECK(r.gradient_distance(g.first, g.second) <= gradient_relative * r.gradient_norm(g.first));
      }
    } else {
      CHECK(std::abs(value - r.value()) <= entry_tolerance(got.out.cwiseAbs().maxCoeff()) * entries);
      // The inputs have rank 2, and columns of little spread when standardised: a hundred roundings.
      for (const auto& g : grads) CHECK(r.gradient_distance(g.first, g.second) <= 1e-5 * r.gradient_norm(g.first));
    }
    if (!r.has("aux")) continue;
    const auto check_entries = [&](const reals& R, const reals& want) {
      const double tolerance = std::is_same_v<typename D::compute, double>
                                   ? 1e-12 * (1 + want.cwiseAbs().maxCoeff())
                                   : entry_tolerance(want.cwiseAbs().maxCoeff());
      CHECK((sign * R - want).cwiseAbs().maxCoeff() <= tolerance);
    };
    if (r.has("aux", "R")) check_entries(got.out, r.array("aux", "R"));
    if (r.has("aux", "R_row0")) check_entries(got.out.row(0), r.array("aux", "R_row0"));
  }
}

craft::relative_options with(anchor_statistics statistics, bool normalise) {
  craft::relative_options options;
  options.statistics = statistics;
  options.normalise = normalise;
  return options;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("relative representations of public implementations", "[relative][reference]", devices) {
  using D = TestType;
  const craft::dot_product<> dot;
  const craft::cosine<> cosine;
  const craft::negative_distance<> distance;
  const auto none = anchor_statistics::none, centre = anchor_statistics::centre,
             standard = anchor_statistics::standardise;
  // Normalise and multiply, or divide by the norms in the similarity: the same.
  for (const char* name : {"relreps_cosine", "latentis_cosine", "latentis_l2_cosine", "latentis_class_l2_cosine"}) {
    meets<D>(name, dot, with(none, true));
    meets<D>(name, cosine, with(none, false));
    meets<D>(name, cosine, with(none, true));
  }
  meets<D>("relreps_inner", dot, with(none, false));  // x.a / sqrt(d)
  meets<D>("latentis_euclidean", distance, with(none, false), -1);
  meets<D>("latentis_l2_euclidean", distance, with(none, true), -1);
  meets<D>("latentis_class_l2_euclidean", distance, with(none, true), -1);
  meets<D>("latentis_centering_cosine", dot, with(centre, true));
  meets<D>("latentis_centering_euclidean", distance, with(centre, false), -1);
  meets<D>("latentis_standard_cosine", cosine, with(standard, false));
  meets<D>("latentis_standard_euclidean", distance, with(standard, false), -1);
  // Dividing by the deviation alone gives the same distances as standardising.
  meets<D>("latentis_std_euclidean", distance, with(standard, false), -1);
  // The class of that library lets no gradient into its statistics.
  const auto detached = [&](auto options) {
    options.statistics_gradient = false;
    return options;
  };
  meets<D>("latentis_class_centering_cosine", dot, detached(with(centre, true)));
  meets<D>("latentis_class_centering_euclidean", distance, detached(with(centre, false)), -1);
  meets<D>("latentis_class_standard_cosine", dot, detached(with(standard, true)));
  meets<D>("latentis_class_standard_euclidean", distance, detached(with(standard, false)), -1);
  meets<D>("latentis_class_std_euclidean", distance, detached(with(standard, false)), -1);
}

// ---------------------------------------------------------------------------------------------------------
// Scale, outputs, storage

TEMPLATE_LIST_TEST_CASE("the scale is exp(log_scale), held at max_scale", "[relative]", devices) {
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make();
  const reals X = random_reals(5, 4, 21), A = random_reals(3, 4, 22), W = random_reals(5, 3, 23);
  const craft::dot_product<> dot;
  const relative_result one = run_relative<D>(ctx, X, A, dot, {}, W);
  const double eps = 8 * roundoff<T>;
  craft::relative_options options;
  options.log_scale = std::log(20.0);
  const relative_result free = run_relative<D>(ctx, X, A, dot, options, W);
  CHECK(relative_distance(free.out, 20 * one.out) <= eps);
  CHECK(relative_distance(free.x, 20 * one.x) <= eps);
  CHECK(relative_distance(free.anchors, 20 * one.anchors) <= eps);
  // d out / d log scale is out itself.
  CHECK(std::abs(free.log_scale - 20 * one.out.cwiseProduct(W).sum()) <=
        eps * 20 * one.out.cwiseProduct(W).cwiseAbs().sum());
  options.max_scale = 7;
  const relative_result held = run_relative<D>(ctx, X, A, dot, options, W);
  CHECK(relative_distance(held.out, 7 * one.out) <= eps);
  CHECK(relative_distance(held.x, 7 * one.x) <= eps);
  options.max_scale = 21;  // not reached
  const relative_result below = run_relative<D>(ctx, X, A, dot, options, W);
  CHECK(below.out == free.out);
  CHECK(below.log_scale == free.log_scale);
  // Read from memory when the verb runs.
  array<D, T> number(reals::Constant(1, 1, 0));
  options.log_scale = number.as_scalar();
  number.set(reals::Constant(1, 1, std::log(3.0)));
  CHECK(relative_distance(run_relative<D>(ctx, X, A, dot, options, W).out, 3 * one.out) <= eps);
}

TEMPLATE_LIST_TEST_CASE("each gradient of the pull-back is left alone, overwritten or added to", "[relative][outputs]",
                        devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make();
  ctx.tile(7);
  const reals X = random_reals(11, 5, 31), A = random_reals(9, 5, 32), W = random_reals(11, 9, 33);
  const array<D> x(X, 3), a(A, 1), w(W, 2);  // NaN between the rows
  for_each_option([&](craft::relative_options options) {
    options.log_scale = 0.4;
    const craft::gaussian kernel(1.0);
    const relative_result plain = run_relative<D>(ctx, X, A, kernel, options, W);
    const reals x0 = as_stored<D>(random_reals(11, 5, 34)), a0 = as_stored<D>(random_reals(9, 5, 35)),
                s0 = reals::Constant(1, 1, 0.5);
    for (int mask = 0; mask < 27; ++mask) {
      const int modes[3] = {mask % 3, mask / 3 % 3, mask / 9};
      CAPTURE(modes[0], modes[1], modes[2]);
      array<D> dx(x0, 2), da(a0, 4);
      array<D, T> ds(s0);
      const std::string bits_x = dx.bits(), bits_a = da.bits();
      craft::relative_gradients<S, D::space> wanted;
      const auto ask = [](auto& output, auto& place, int mode) {
        if (mode == 1) output = craft::overwrite(place.out());
        if (mode == 2) output = craft::accumulate(place.out());
      };
      ask(wanted.x, dx, modes[0]);
      ask(wanted.anchors, da, modes[1]);
      ask(wanted.log_scale, ds, modes[2]);
      craft::relative_pullback(ctx, x.in(), a.in(), kernel, options, w.in(), wanted);
      const auto check = [](const reals& got, const reals& before, const reals& gradient, int mode) {
        if (mode == 0) CHECK(got == before);
        if (mode == 1) CHECK(got == gradient);
        if (mode == 2)
          CHECK((got - before - gradient).cwiseAbs().maxCoeff() <=
                2 * roundoff<S> * (before.cwiseAbs() + gradient.cwiseAbs()).maxCoeff());
      };
      check(dx.get(), x0, plain.x, modes[0]);
      check(da.get(), a0, plain.anchors, modes[1]);
      check(ds.get(), s0, reals::Constant(1, 1, plain.log_scale), modes[2]);
      dx.set(x0);
      da.set(a0);
      CHECK(dx.bits() == bits_x);
      CHECK(da.bits() == bits_a);
    }
    // The map leaves what is between the rows of its output alone.
    array<D> out(11, 9, 7, 3);
    const std::string before = out.bits();
    craft::relative(ctx, x.in(), a.in(), kernel, options, out.out());
    CHECK(out.get() == plain.out);
    out.set(reals::Constant(11, 9, 7));
    CHECK(out.bits() == before);
  });
}

TEMPLATE_LIST_TEST_CASE("a representation does not depend on what else is represented", "[relative][properties]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(40, 6, 41)), A = as_stored<D>(random_reals(9, 6, 42));
  const double eps = 100 * roundoff<typename D::scalar>;
  for_each_option([&](const craft::relative_options& options) {
    const craft::laplacian kernel(1.0);
    const reals all = run_map<D>(ctx, X, A, kernel, options);
    CHECK((run_map<D>(ctx, X.middleRows(13, 5), A, kernel, options) - all.middleRows(13, 5)).norm() <= eps);
    CHECK((run_map<D>(ctx, X.colwise().reverse(), A, kernel, options) - reals(all.colwise().reverse())).norm() <= eps);
    CHECK((run_map<D>(ctx, X, A.colwise().reverse(), kernel, options) - reals(all.rowwise().reverse())).norm() <= eps);
  });
  // Normalised: the length of a row plays no part; centred: neither does a common shift.
  craft::relative_options options;
  CHECK((run_map<D>(ctx, 8 * X, 0.25 * A, craft::dot_product<>(), options) -
         run_map<D>(ctx, X, A, craft::dot_product<>(), options))
            .norm() <= eps);
  options.statistics = anchor_statistics::standardise;
  CHECK((run_map<D>(ctx, 8 * X, 8 * A, craft::dot_product<>(), options) -
         run_map<D>(ctx, X, A, craft::dot_product<>(), options))
            .norm() <= eps);
}

TEMPLATE_LIST_TEST_CASE("centred and distance-based representations keep their digits beside a large mean",
                        "[relative][numbers]", float_devices) {
  using D = TestType;
  auto ctx = D::make();
  const reals X = as_stored<D>(random_reals(30, 8, 51, 1000)), A = as_stored<D>(random_reals(9, 8, 52, 1000));
  const auto check = [&](const auto& c, const craft::relative_options& options) {
    INFO(c.name << ", statistics " << int(options.statistics) << ", normalised " << options.normalise);
    // The sizes of the centred rows bound the error. The mean of nine numbers near 1000 is itself rounded where the
    // similarity does not only look at differences: one spacing of float there.
    const double spacing = options.normalise ? 3e-5 : 0;
    const reals mean = A.colwise().mean();
    const reals Xc = X.rowwise() - mean.row(0), Ac = A.rowwise() - mean.row(0);
    CHECK((run_map<D>(ctx, X, A, c.kernel(), options) - naive_relative(c, X, A, options)).cwiseAbs().maxCoeff() <=
          rounding_of_relative(c.kernel(), Xc, Ac, options, roundoff<typename D::scalar>) + spacing);
  };
  check(std::get<0>(distance_functions()), with(anchor_statistics::none, false));
  check(std::get<6>(distance_functions()), with(anchor_statistics::none, false));
  check(std::get<0>(distance_functions()), with(anchor_statistics::centre, false));
  check(std::get<6>(distance_functions()), with(anchor_statistics::standardise, false));
  check(std::get<0>(product_functions()), with(anchor_statistics::centre, true));
  check(std::get<0>(product_functions()), with(anchor_statistics::standardise, true));
}

TEMPLATE_LIST_TEST_CASE("representations of inputs stored in two bytes", "[relative][storage]", float_devices) {
  using D = TestType;
  auto ctx = D::make();
  const auto check = [&](auto example, double storage_roundoff) {
    using S = decltype(example);
    using B = typename D::template storing<S>;
    const reals X = as_stored<B>(random_reals(21, 10, 71)), A = as_stored<B>(random_reals(7, 10, 72)),
                W = as_stored<B>(random_reals(21, 7, 73));
    for_each_option([&](const craft::relative_options& options) {
      const craft::gaussian kernel(1.0);
      const relative_result got = run_relative<B>(ctx, X, A, kernel, options, W),
                            want = run_relative<D>(ctx, X, A, kernel, options, W);
      // The same floats, rounded once when they are stored; half's smallest numbers are 2^-24 apart.
      const auto close = [&](const reals& g, const reals& w) {
        return ((g - w).array().abs() <= 1.01 * storage_roundoff * w.array().abs() + 0x1p-24).all();
      };
      CHECK(close(got.out, want.out));
      CHECK(close(got.x, want.x));
      CHECK(close(got.anchors, want.anchors));
      CHECK(got.log_scale == want.log_scale);
    });
  };
  check(Eigen::bfloat16(), 0x1p-8);
  check(Eigen::half(), 0x1p-11);
}

TEMPLATE_LIST_TEST_CASE("distances of unit rows keep their digits beside a large mean", "[relative][numbers]", devices) {
  using D = TestType;
  auto ctx = D::make();
  using wide = matrix<long double>;
  const auto unit = [](const reals& v) { return wide(v.cast<long double>().rowwise().normalized()); };
  for (const index_t d : {16, 200})
    for (const double offset : {0.0, 100.0, 1000.0}) {
      const reals X = as_stored<D>(random_reals(12, d, 61, offset)), A = as_stored<D>(random_reals(7, d, 62, offset));
      const wide x = unit(X), a = unit(A), mean = a.colwise().sum() / (long double)(a.rows());
      const reals got = run_map<D>(ctx, X, A, craft::negative_distance<>(), {});
      double worst = 0;
      for (index_t i = 0; i < X.rows(); ++i)
        for (index_t j = 0; j < A.rows(); ++j) {
          const long double exact = (x.row(i) - a.row(j)).squaredNorm();
          const long double spread = (x.row(i) - mean.row(0)).squaredNorm() + (a.row(j) - mean.row(0)).squaredNorm();
          // docs/math.md: unit rows are rounded once, in double, before their mean is subtracted.
          const double bound = double(d + 4) * 2 * roundoff<typename D::scalar> * double(spread) +
                               4 * roundoff<double> * double(std::sqrt(exact));
          worst = std::max(worst, std::abs(got(i, j) * got(i, j) - double(exact)) / bound);
        }
      INFO("d " << d << ", offset " << offset << ", worst/bound " << worst);
      CHECK(worst <= 1);
    }
}

TEMPLATE_LIST_TEST_CASE("a row that is an anchor is at distance 0 from it, and no gradient comes from there", "[relative]",
                        devices) {
  using D = TestType;
  auto ctx = D::make();
  reals X = as_stored<D>(random_reals(9, 16, 63)), A = as_stored<D>(random_reals(5, 16, 64));
  X.topRows(5) = A;
  reals W = reals::Zero(9, 5);
  for (index_t i = 0; i < 5; ++i) W(i, i) = 1;
  for_each_option([&](const craft::relative_options& options) {
    const relative_result got = run_relative<D>(ctx, X, A, craft::negative_distance<>(), options, W);
    CHECK(got.out.topRows(5).diagonal().isZero(0));
    CHECK(got.x.isZero(0));
    CHECK(got.anchors.isZero(0));
  });
}
