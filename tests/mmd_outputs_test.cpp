// Where MMD^2 is written and how: each gradient on its own, factors, value alone; and how its inputs may be stored.
#include <cmath>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "pair_functions.hpp"

using namespace craft_test;

TEMPLATE_LIST_TEST_CASE("each gradient is left alone, overwritten or added to, on its own", "[mmd][outputs]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make();
  ctx.tile(7);
  const auto c = std::get<0>(composed_functions());
  const auto kernel = c.kernel();
  const reals X = random_reals(11, 3, 41), Y = random_reals(9, 3, 42, 0.4);
  const array<D> x(X), y(Y);
  const index_t q = kernel.weights();
  const auto start = [](index_t rows, index_t cols, std::uint64_t seed) {
    return as_stored<D>(random_reals(rows, cols, seed));
  };
  const reals x0 = start(11, 3, 43), y0 = start(9, 3, 44), w0 = start(1, q, 45), h0 = start(1, q, 46);
  for (const form f : all_forms) {
    const mmd_result plain = run_mmd<D>(ctx, X, Y, kernel, options_of(f));
    for (int mask = 0; mask < 81; ++mask) {  // three modes for each of four
      const int modes[4] = {mask % 3, mask / 3 % 3, mask / 9 % 3, mask / 27};
      CAPTURE(name_of(f), modes[0], modes[1], modes[2], modes[3]);
      array<D> gx(x0, 2), gy(y0, 5);  // with room between the rows
      array<D, T> gw(w0), gh(h0), value(1, 1);
      const auto padding_x = gx.bits(), padding_y = gy.bits();
      craft::mmd_gradients<S, D::space> wanted;
      const auto ask = [](auto& output, auto& place, int mode) {
        if (mode == 1) output = craft::overwrite(place.out());
        if (mode == 2) output = craft::accumulate(place.out());
      };
      ask(wanted.x, gx, modes[0]);
      ask(wanted.y, gy, modes[1]);
      ask(wanted.weights, gw, modes[2]);
      ask(wanted.bandwidths, gh, modes[3]);
      craft::mmd(ctx, x.in(), y.in(), kernel, options_of(f), value.as_value(), wanted);
      // The same bits whatever else was asked for.
      CHECK(value.number() == plain.value);
      const auto check = [](const reals& got, const reals& before, const reals& gradient, int mode) {
        if (mode == 0) CHECK(got == before);
        if (mode == 1) CHECK(got == gradient);
        // One rounding of the sum.
        if (mode == 2)
          CHECK((got - before - gradient).cwiseAbs().maxCoeff() <=
                2 * roundoff<S> * (before.cwiseAbs() + gradient.cwiseAbs()).maxCoeff());
      };
      check(gx.get(), x0, plain.x, modes[0]);
      check(gy.get(), y0, plain.y, modes[1]);
      check(gw.get(), w0, Eigen::Map<const reals>(plain.weights.data(), 1, q), modes[2]);
      check(gh.get(), h0, Eigen::Map<const reals>(plain.bandwidths.data(), 1, q), modes[3]);
      // Between the rows nothing is touched.
      const auto untouched = [](array<D>& a, const reals& values, const std::string& bits) {
        a.set(values);
        return a.bits() == bits;
      };
      CHECK(untouched(gx, x0, padding_x));
      CHECK(untouched(gy, y0, padding_y));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("parameter gradients go into columns too", "[mmd][outputs]", devices) {
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make();
  const auto c = std::get<0>(composed_functions());
  const auto kernel = c.kernel();
  const reals X = random_reals(5, 3, 47), Y = random_reals(6, 3, 48, 0.4);
  const mmd_result want = run_mmd<D>(ctx, X, Y, kernel);
  const array<D> x(X), y(Y);
  array<D, T> w(kernel.weights(), 1, not_a_number, 3), h(kernel.bandwidths(), 1), value(1, 1);
  craft::mmd_gradients<typename D::scalar, D::space> wanted;
  wanted.weights = craft::overwrite(w.out());
  wanted.bandwidths = craft::overwrite(h.out());
  craft::mmd(ctx, x.in(), y.in(), kernel, {}, value.as_value(), wanted);
  for (index_t q = 0; q < kernel.weights(); ++q) CHECK(w.get()(q, 0) == want.weights[std::size_t(q)]);
  for (index_t q = 0; q < kernel.bandwidths(); ++q) CHECK(h.get()(q, 0) == want.bandwidths[std::size_t(q)]);
  for (const T v : w.padding()) CHECK(std::isnan(v));
}

TEMPLATE_LIST_TEST_CASE("the upstream factor multiplies gradients, factor and offset the value", "[mmd][outputs]",
                        devices) {
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make();
  const auto c = std::get<0>(composed_functions());
  const auto kernel = c.kernel();
  const reals X = random_reals(11, 3, 51), Y = random_reals(9, 3, 52, 0.4);
  const auto times = [](mmd_result r, double value, double gradient) {
    r.value *= value;
    r.x *= gradient;
    r.y *= gradient;
    for (double& v : r.weights) v *= gradient;
    for (double& v : r.bandwidths) v *= gradient;
    return r;
  };
  for (const form f : all_forms) {
    INFO(name_of(f));
    const mmd_result plain = run_mmd<D>(ctx, X, Y, kernel, options_of(f));
    const rounding allowed = twice<D>(c, X, Y, f);
    const auto close = [&](const mmd_result& got, const mmd_result& want, double size) {
      check_close(got, want, allowed * size);
    };
    craft::mmd_options options = options_of(f);
    options.upstream = -3.25;
    mmd_result got = run_mmd<D>(ctx, X, Y, kernel, options);
    CHECK(got.value == plain.value);
    close(got, times(plain, 1, -3.25), 3.25);
    // Read from memory when the verb runs.
    array<D, T> factor(reals::Constant(1, 1, 2));
    options.upstream = factor.as_scalar();
    factor.set(reals::Constant(1, 1, -3.25));
    check_equal(run_mmd<D>(ctx, X, Y, kernel, options), got);
    options.upstream = 0;
    got = run_mmd<D>(ctx, X, Y, kernel, options);
    CHECK(got.x.norm() + got.y.norm() == 0);
    CHECK(got.value == plain.value);
    options.upstream = 1;
    options.factor = 1000;
    options.offset = -7;
    got = run_mmd<D>(ctx, X, Y, kernel, options);
    CHECK(std::abs(got.value - (1000 * plain.value - 7)) <= 4 * roundoff<T> * (7 + 1000 * std::abs(plain.value)));
    mmd_result want = times(plain, 1000, 1000);
    want.value = got.value;
    close(got, want, 1000);
    options.upstream = 0.5;
    got = run_mmd<D>(ctx, X, Y, kernel, options);
    want = times(plain, 1000, 500);
    want.value = got.value;
    close(got, want, 1000);
  }
}

TEMPLATE_LIST_TEST_CASE("the value alone has the same bits", "[mmd][outputs][long]", devices) {
  using D = TestType;
  auto ctx = D::make();
  for (const index_t tile : {0, 7}) {
    ctx.tile(tile);
    const reals X = random_reals(43, 9, 53), Y = random_reals(22, 9, 54, 0.4);
    for_each_pair_function([&](const auto& c) {
      for (const form f : all_forms) {
        INFO(c.name << ", " << name_of(f) << ", tile " << tile);
        const mmd_result with = run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f));
        const double alone = run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f), {}, false).value;
        double allowed = 0;
#ifdef __CUDACC__
        // nvcc may fuse a product with a sum in one of the two kernels and not in the other, where the text of a function
        // leaves it the choice, as this one of ours does. Its values are at most 1.
        if (std::is_same_v<std::decay_t<decltype(c.kernel())>, matern32<double>>) allowed = 4 * roundoff<typename D::scalar>;
#endif
        CHECK(std::abs(alone - with.value) <= allowed);
        check_equal(run_mmd<D>(ctx, X, Y, c.kernel(), options_of(f)), with);
      }
    });
    craft::mmd_options options;
    options.bandwidth = {craft::bandwidth_rule::median, craft::bandwidth_sample::pooled, true};
    options.columns = craft::column_scaling::minmax_joint;
    const auto kernel = craft::gaussians<>({0.5, 1, 2});
    CHECK(run_mmd<D>(ctx, X, Y, kernel, options, {}, false).value == run_mmd<D>(ctx, X, Y, kernel, options).value);
  }
}

// ---------------------------------------------------------------------------------------------------------
// Storage

TEMPLATE_LIST_TEST_CASE("rows may lie apart", "[mmd][storage]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  auto ctx = D::make();
  ctx.tile(7);
  const reals X = random_reals(19, 5, 61), Y = random_reals(12, 5, 62, 0.4);
  const auto kernel = std::get<0>(composed_functions()).kernel();
  for (const form f : all_forms) {
    const mmd_result want = run_mmd<D>(ctx, X, Y, kernel, options_of(f));
    const array<D> x(X, 3), y(Y, 8);  // NaN between the rows
    array<D> gx(19, 5, not_a_number, 1), gy(12, 5, not_a_number, 4);
    array<D, typename D::compute> value(1, 1);
    craft::mmd_gradients<S, D::space> wanted;
    wanted.x = craft::overwrite(gx.out());
    wanted.y = craft::overwrite(gy.out());
    craft::mmd(ctx, x.in(), y.in(), kernel, options_of(f), value.as_value(), wanted);
    CHECK(value.number() == want.value);
    CHECK(gx.get() == want.x);
    CHECK(gy.get() == want.y);
    for (const S v : gx.padding()) CHECK(v != v);
    for (const S v : gy.padding()) CHECK(v != v);
  }
}

TEMPLATE_LIST_TEST_CASE("sample weights may lie apart, in the device's memory or on the host", "[mmd][storage]", devices) {
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const reals X = random_reals(19, 5, 63), Y = random_reals(12, 5, 64, 0.4), W = random_reals(31, 1, 65).cwiseAbs();
  const auto kernel = std::get<0>(composed_functions()).kernel();
  const array<D, T> wx(W.topRows(19)), wy(W.bottomRows(12)), wx_apart(W.topRows(19), 1), wy_apart(W.bottomRows(12), 4);
  matrix<T> host = matrix<T>::Constant(31, 3, T(not_a_number));  // the weights are its middle column
  host.col(1) = W.col(0).cast<T>();
  const auto run = [&](const craft::numbers& x, const craft::numbers& y) {
    craft::mmd_options o;
    o.x_weights = x;
    o.y_weights = y;
    return run_mmd<D>(ctx, X, Y, kernel, o);
  };
  const mmd_result want = run(wx.as_numbers(), wy.as_numbers());
  for (const mmd_result& got : {run(wx_apart.as_numbers(), wy_apart.as_numbers()),
                                run(host.col(1).head(19), host.col(1).tail(12))}) {
    CHECK(got.value == want.value);
    CHECK(got.x == want.x);
    CHECK(got.y == want.y);
    CHECK(got.weights == want.weights);
  }
}

TEST_CASE("Eigen's matrices, blocks, maps and columns are taken as they are", "[mmd][storage]") {
  const craft::cpu ctx(1);
  const reals X = random_reals(10, 4, 63), Y = random_reals(8, 4, 64, 0.4);
  const craft::gaussian kernel(1.0);
  double want = not_a_number, got = not_a_number;
  reals dx(10, 4), dy(8, 4);
  craft::mmd(ctx, X, Y, kernel, {}, want, {craft::overwrite(dx), craft::overwrite(dy), {}, {}});
  // Samples as columns of a column-major matrix.
  const Eigen::MatrixXd Xc = X.transpose(), Yc = Y.transpose();
  Eigen::MatrixXd dxc = Eigen::MatrixXd::Constant(4, 10, not_a_number);
  craft::mmd_gradients<double> wanted;
  wanted.x = craft::overwrite(craft::view_columns(dxc));
  craft::mmd(ctx, craft::view_columns(Xc), craft::view_columns(Yc), kernel, {}, got, wanted);
  CHECK(got == want);
  CHECK(dxc == Eigen::MatrixXd(dx.transpose()));
  // A block of a larger matrix, for input and output.
  reals big = reals::Constant(20, 9, not_a_number), out = reals::Constant(20, 9, 7);
  big.block(3, 2, 10, 4) = X;
  wanted.x = craft::overwrite(out.block(3, 2, 10, 4));
  craft::mmd(ctx, big.block(3, 2, 10, 4), Y, kernel, {}, got, wanted);
  CHECK(got == want);
  CHECK(reals(out.block(3, 2, 10, 4)) == dx);
  out.block(3, 2, 10, 4).setConstant(7);
  CHECK(out == reals::Constant(20, 9, 7));
  // Rows that one owner holds for both samples.
  reals both(18, 4);
  both << X, Y;
  craft::mmd(ctx, both.topRows(10), both.bottomRows(8), kernel, {}, got);
  CHECK(got == want);
  // A map of plain memory, fixed sizes, and one number per sample.
  const Eigen::Map<const reals> map(X.data(), 10, 4);
  craft::mmd(ctx, map, Y, kernel, {}, got);
  CHECK(got == want);
  const Eigen::Matrix<double, 10, 4, Eigen::RowMajor> fixed = X;
  craft::mmd(ctx, fixed, Y, kernel, {}, got);
  CHECK(got == want);
  const Eigen::VectorXd x1 = X.col(0), y1 = Y.col(0);
  craft::mmd(ctx, x1, y1, kernel, {}, got);
  const reals xm = x1, ym = y1;
  craft::mmd(ctx, xm, ym, kernel, {}, want);
  CHECK(got == want);
}

namespace {

// Stored in two bytes, computed in float: as float with the same stored numbers; gradients are rounded once, at the
// end.
template <class D, class S>
void two_bytes(double storage_roundoff) {
  using B = typename D::template storing<S>;
  auto ctx = D::make();
  const reals X = as_stored<B>(random_reals(21, 10, 71)), Y = as_stored<B>(random_reals(17, 10, 72, 0.4));
  const auto c = std::get<0>(composed_functions());
  for (const form f : all_forms) {
    INFO(name_of(f));
    const mmd_result got = run_mmd<B>(ctx, X, Y, c.kernel(), options_of(f));
    const coefficients w(f, 21, 17);
    const mmd_result want = naive_mmd(c, X, Y, w);
    rounding allowed = rounding_of(c.kernel(), X, Y, w, roundoff<float>);
    // The smallest numbers of half have fewer digits: 2^-25 each.
    allowed.x += storage_roundoff * want.x.norm() + std::sqrt(210.0) * 0x1p-25;
    allowed.y += storage_roundoff * want.y.norm() + std::sqrt(170.0) * 0x1p-25;
    check_close(got, want, allowed);
  }
  // Accumulated gradients too.
  const array<B> x(X), y(Y);
  const reals before = as_stored<B>(random_reals(21, 10, 73));
  array<B> dx(before);
  array<B, float> value(1, 1);
  craft::mmd_gradients<S, B::space> wanted;
  wanted.x = craft::accumulate(dx.out());
  craft::mmd(ctx, x.in(), y.in(), c.kernel(), {}, value.as_value(), wanted);
  const mmd_result plain = run_mmd<D>(ctx, X, Y, c.kernel());
  CHECK((dx.get() - before - plain.x).cwiseAbs().maxCoeff() <= 2 * storage_roundoff * before.cwiseAbs().maxCoeff());
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("inputs stored as bfloat16 and half", "[mmd][storage]", float_devices) {
  two_bytes<TestType, Eigen::bfloat16>(0x1p-8);
  two_bytes<TestType, Eigen::half>(0x1p-11);
}
