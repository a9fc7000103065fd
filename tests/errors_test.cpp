// Errors of MMD and relative representations: what is refused, that it says why, and that nothing is written by then.
// The alignment losses and the objective have theirs in errors_alignment_test.cpp, anchors in anchors_test.cpp.
//
// These checks are part of the library in every build: nothing here depends on NDEBUG.
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"
#include "rejects.hpp"

using namespace craft_test;

TEST_CASE("every error is a craft::error, and that is a std::runtime_error", "[errors]") {
  CHECK(std::is_base_of_v<std::runtime_error, craft::error>);
  CHECK(std::is_base_of_v<craft::error, craft::shape_error>);
  CHECK(std::is_base_of_v<craft::error, craft::option_error>);
  CHECK(std::is_base_of_v<craft::error, craft::type_error>);
  CHECK(std::is_base_of_v<craft::error, craft::label_error>);
  CHECK(std::is_base_of_v<craft::error, craft::data_error>);
  CHECK(std::is_base_of_v<craft::error, craft::alias_error>);
  CHECK(std::is_base_of_v<craft::error, craft::device_error>);
  CHECK_THROWS_AS(craft::cpu(0), craft::option_error);
  CHECK_THROWS_AS(craft::cpu(-1), craft::option_error);
  CHECK_THROWS_AS(craft::cpu().tile(-1), craft::option_error);
  double numbers[6] = {};
  CHECK_THROWS_AS(craft::view(numbers, -1, 2), craft::shape_error);
  CHECK_THROWS_AS(craft::view(numbers, 2, 3, 2), craft::shape_error);
  CHECK_THROWS_AS(craft::view(static_cast<double*>(nullptr), 2, 3), craft::shape_error);
  using strided = Eigen::Map<Eigen::MatrixXd, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  CHECK_THROWS_AS(craft::view_columns(strided(numbers, 2, 2, {3, 2})), craft::shape_error);
}

// ---------------------------------------------------------------------------------------------------------
// MMD and bandwidth

TEMPLATE_LIST_TEST_CASE("mmd: errors", "[errors][mmd]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const index_t n = 6, m = 5, d = 4;
  array<D> x(random_reals(n, d, 101)), y(random_reals(m, d, 102));
  const array<D> narrow(random_reals(m, 3, 103)), none(reals(0, d)), flat(reals(n, 0)), one(random_reals(1, d, 104));
  array<D> dx(n, d, sentinel), dy(m, d, sentinel), d_narrow(m, 3, sentinel);
  array<D, T> value(1, 1, sentinel), d_weights(1, 3, sentinel), d_bandwidths(1, 3, sentinel), d_two(1, 2, sentinel);
  const craft::gaussians<> kernel{1.0, 2.0, 3.0};
  craft::mmd_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::accumulate(dy.out());
  g.weights = craft::overwrite(d_weights.out());
  g.bandwidths = craft::accumulate(d_bandwidths.out());
  const craft::mmd_options plain;
  const watched all(x, y, dx, dy, d_narrow, value, d_weights, d_bandwidths, d_two);
  const auto run = [&](const auto& xv, const auto& yv, const auto& k, const craft::mmd_options& o,
                       const craft::mmd_gradients<S, D::space>& to) {
    return [&ctx, &value, xv, yv, &k, o, to] { craft::mmd(ctx, xv, yv, k, o, value.as_value(), to); };
  };

  rejects<craft::shape_error>(all, run(x.in(), narrow.in(), kernel, plain, g), {"6 x 4", "5 x 3"});
  rejects<craft::shape_error>(all, run(none.in(), y.in(), kernel, plain, g), {"0 x 4"});
  rejects<craft::shape_error>(all, run(x.in(), none.in(), kernel, plain, g), {"0 x 4"});
  rejects<craft::shape_error>(all, run(flat.in(), flat.in(), kernel, plain, g), {"6 x 0"});

  craft::mmd_options o;
  o.estimator = craft::estimator::unbiased;
  craft::mmd_gradients<S, D::space> only_y;
  only_y.y = g.y;
  rejects<craft::shape_error>(all, run(one.in(), y.in(), kernel, o, only_y), {"1"});
  rejects<craft::shape_error>(all, run(y.in(), one.in(), kernel, o, {}), {"1"});
  o.estimator = craft::estimator::linear;
  rejects<craft::shape_error>(all, run(one.in(), y.in(), kernel, o, only_y), {"1"});

  for (const double bad : {0.0, -1.0, not_a_number, infinity}) {
    INFO("bandwidth " << bad);
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::gaussian(bad), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::laplacian(bad), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::inverse_multiquadric(bad), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::rational_quadratic(bad, 1.0), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::rational_quadratic(1.0, bad), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), craft::gaussian(1.0) + craft::gaussian(bad), plain, {}));
    rejects<craft::option_error>(all, run(x.in(), y.in(), 2.0 * craft::laplacian(bad), plain, {}));
    CHECK_THROWS_AS(craft::gaussians<>({1.0, bad}), craft::option_error);
  }
  rejects<craft::option_error>(all, run(x.in(), y.in(), craft::gaussian(-1.0), plain, {}), {"positive", "-1"});
  rejects<craft::option_error>(all, run(x.in(), y.in(), not_a_number * craft::gaussian(1.0), plain, {}));

  const auto weighted = [&](std::vector<double> wx, std::vector<double> wy, auto error,
                            const std::vector<std::string>& parts = {}) {
    using Error = decltype(error);
    const array<D, T> xw(wx), yw(wy);
    craft::mmd_options w;
    if (!wx.empty()) w.x_weights = xw.as_numbers();
    if (!wy.empty()) w.y_weights = yw.as_numbers();
    rejects<Error>(all, run(x.in(), y.in(), kernel, w, g), parts);
  };
  const craft::shape_error count("");
  const craft::option_error range("");
  weighted({1, 1, 1, 1, 1}, {}, count, {"mmd: x_weights: expected 6, one per row of x (6 x", "got 5"});
  weighted({}, {1, 1, 1, 1, 1, 1}, count, {"mmd: y_weights: expected 5, one per row of y (5 x", "got 6"});
  weighted({1, 1, -1e-3, 1, 1, 1}, {}, range);
  weighted({}, {1, 1, 1, not_a_number, 1}, range);
  weighted({1, 1, 1, infinity, 1, 1}, {}, range);
  weighted({0, 0, 0, 0, 0, 0}, {}, range);
  const array<D, T> six(std::vector<double>(6, 1.0));
  o.estimator = craft::estimator::linear;
  o.x_weights = six.as_numbers();
  rejects<craft::option_error>(all, run(x.in(), y.in(), kernel, o, g));
  for (const double bad : {-1.0, not_a_number}) {
    craft::mmd_options columns;
    columns.columns = craft::column_scaling::minmax_separate;
    columns.column_eps = bad;
    rejects<craft::option_error>(all, run(x.in(), y.in(), kernel, columns, g));
  }

  // Memory of another device: of a number for all, of weights where host memory is all there is.
  const double ones[] = {1, 1, 1, 1, 1, 1};
  constexpr bool on_host = D::space == craft::memory::host;
  constexpr craft::memory elsewhere = on_host ? craft::memory::device : craft::memory::host;
  craft::mmd_options far;
  far.upstream = craft::scalar(ones, elsewhere);
  rejects<craft::device_error>(all, run(x.in(), y.in(), kernel, far, g), {"mmd: upstream", "memory"});
  if (on_host) {
    far = {};
    far.x_weights = craft::numbers(ones, n, elsewhere);
    rejects<craft::device_error>(all, run(x.in(), y.in(), kernel, far, g), {"mmd: x_weights", "memory"});
  }

  const auto to = [&](auto change) {
    craft::mmd_gradients<S, D::space> other = g;
    change(other);
    return run(x.in(), y.in(), kernel, plain, other);
  };
  rejects<craft::shape_error>(all, to([&](auto& h) { h.x = craft::overwrite(d_narrow.out()); }), {"6 x 4", "5 x 3"});
  rejects<craft::shape_error>(all, to([&](auto& h) { h.y = craft::overwrite(d_narrow.out()); }), {"5 x 4", "5 x 3"});
  rejects<craft::shape_error>(all, to([&](auto& h) { h.weights = craft::overwrite(d_two.out()); }), {"3", "2"});
  rejects<craft::shape_error>(all, to([&](auto& h) { h.bandwidths = craft::overwrite(d_two.out()); }), {"3", "2"});
  // A kernel without weights has no gradient for them.
  rejects<craft::shape_error>(all, run(x.in(), y.in(), craft::gaussian(1.0), plain, g));

  // Overlaps.
  rejects<craft::alias_error>(all, to([&](auto& h) { h.x = craft::overwrite(x.out()); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::accumulate(y.out()); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(part<D>(x, 1, m, 0, d)); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.y = craft::overwrite(part<D>(dx, 0, m, 0, d)); }));
  rejects<craft::alias_error>(all, to([&](auto& h) { h.bandwidths = h.weights; }));

  for (const double bad : {not_a_number, infinity, -infinity}) {
    const array<D> xb(with(random_reals(n, d, 105), 4, 2, bad)), yb(with(random_reals(m, d, 106), 0, 3, bad));
    ctx.check_finite(true);
    rejects<craft::data_error>(all, run(xb.in(), y.in(), kernel, plain, g), {"4", "2"});
    rejects<craft::data_error>(all, run(x.in(), yb.in(), kernel, plain, g), {"0", "3"});
    CHECK_THROWS_AS(craft::bandwidth_scale(ctx, xb.in(), y.in(), {}), craft::data_error);
    ctx.check_finite(false);
    array<D, T> any(1, 1);
    CHECK_NOTHROW(craft::mmd(ctx, xb.in(), y.in(), kernel, plain, any.as_value()));
  }

  const craft::bandwidth mean{craft::bandwidth_rule::mean};
  CHECK_THROWS_AS(craft::bandwidth_scale(ctx, x.in(), narrow.in(), mean), craft::shape_error);
  CHECK_THROWS_WITH(craft::bandwidth_scale(ctx, x.in(), narrow.in(), mean), contains("6 x 4") && contains("5 x 3"));
  CHECK_THROWS_AS(craft::bandwidth_scale(ctx, none.in(), y.in(), mean), craft::shape_error);

  // And without any of this it runs, on the same context.
  CHECK_NOTHROW(run(x.in(), y.in(), kernel, plain, g)());
  CHECK_FALSE(all.untouched());
}

TEMPLATE_LIST_TEST_CASE("which overlaps are rejected and which are not", "[errors][alias]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const auto ctx = D::make_checking();
  const index_t n = 6, d = 4;
  array<D, T> value(1, 1);
  const auto run = [&](view_on<D> x, view_on<D> y, view_on<D> dx, view_on<D> dy) {
    craft::mmd_gradients<S, D::space> g;
    g.x = craft::overwrite(dx);
    g.y = craft::overwrite(dy);
    craft::mmd(ctx, x, y, craft::gaussian(1.0), craft::mmd_options{}, value.as_value(), g);
  };
  array<D> x(random_reals(n, d, 107)), y(random_reals(n, d, 108)), dx(n, d), dy(n, d);
  run(x.out(), y.out(), dx.out(), dy.out());
  const double want = value.number();
  const reals want_x = dx.get(), want_y = dy.get();

  // One buffer, four blocks of columns side by side: they interleave in memory and share no element.
  reals all = reals::Constant(n, 4 * d, sentinel);
  all.leftCols(d) = x.get();
  all.middleCols(d, d) = y.get();
  array<D> buffer(all);
  run(part<D>(buffer, 0, n, 0, d), part<D>(buffer, 0, n, d, d), part<D>(buffer, 0, n, 2 * d, d),
      part<D>(buffer, 0, n, 3 * d, d));
  CHECK(value.number() == want);
  CHECK(reals(buffer.get().middleCols(2 * d, d)) == want_x);
  CHECK(reals(buffer.get().rightCols(d)) == want_y);
  CHECK(reals(buffer.get().leftCols(d)) == x.get());
  // Blocks of rows one after the other, and rows of the gradient between rows of the input.
  array<D> rows(2 * n, d, sentinel);
  run(x.out(), y.out(), part<D>(rows, 0, n, 0, d), part<D>(rows, n, n, 0, d));
  CHECK(reals(rows.get().bottomRows(n)) == want_y);
  const auto every_other = [&](index_t first) { return view_on<D>(rows.out().data() + first * d, n, d, 2 * d); };
  run(x.out(), y.out(), every_other(0), every_other(1));
  CHECK(reals(rows.get().row(1)) == want_y.row(0));
  CHECK(reals(rows.get().row(2)) == want_x.row(1));
  // Inputs may be one another.
  CHECK_NOTHROW(run(x.out(), x.out(), dx.out(), dy.out()));
  // What is not wanted may point anywhere.
  craft::mmd_gradients<S, D::space> unwanted;
  unwanted.x.to = x.out();
  unwanted.y.to = dx.out();
  CHECK_NOTHROW(
      craft::mmd(ctx, x.in(), y.in(), craft::gaussian(1.0), craft::mmd_options{}, value.as_value(), unwanted));

  // The same blocks, one column too wide or one row too far.
  value.set(reals::Constant(1, 1, sentinel));
  const watched outputs(buffer, rows, x, dx, dy, value);
  const auto x_block = part<D>(buffer, 0, n, 0, d), y_block = part<D>(buffer, 0, n, d, d);
  rejects<craft::alias_error>(outputs, [&] { run(x_block, y_block, part<D>(buffer, 0, n, d - 1, d), dy.out()); });
  rejects<craft::alias_error>(outputs, [&] { run(x_block, y_block, dx.out(), part<D>(buffer, 0, n, 2 * d - 1, d)); });
  rejects<craft::alias_error>(
      outputs, [&] { run(x.out(), y.out(), part<D>(buffer, 0, n, 2 * d, d), part<D>(buffer, 0, n, 3 * d - 1, d)); });
  rejects<craft::alias_error>(outputs,
                              [&] { run(x.out(), y.out(), part<D>(rows, 0, n, 0, d), part<D>(rows, n - 1, n, 0, d)); });
  rejects<craft::alias_error>(outputs, [&] { run(x.out(), y.out(), every_other(0), every_other(0)); });

  // Different strides: dx in rows of 4 that begin 40 apart, dy in one piece of 24 in a gap between them.
  array<D> gaps(1, 240, sentinel);
  const watched gap_outputs(gaps, dy, value);
  const auto at = [&](index_t first, index_t stride) { return view_on<D>(gaps.out().data() + first, n, d, stride); };
  for (const index_t touching : {57, 60, 80, 83, 97, 100}) {
    INFO("dy begins at " << touching);
    rejects<craft::alias_error>(gap_outputs, [&] { run(x.out(), y.out(), at(0, 40), at(touching, d)); });
    rejects<craft::alias_error>(gap_outputs, [&] { run(x.out(), y.out(), at(touching, d), at(0, 40)); });
  }
  rejects<craft::alias_error>(gap_outputs, [&] { run(x.out(), y.out(), at(0, 8), at(4, 12)); });  // both have 16..19
  for (const index_t apart : {44, 56, 84, 96}) {
    INFO("dy begins at " << apart);
    CHECK_NOTHROW(run(x.out(), y.out(), at(0, 40), at(apart, d)));
    CHECK(value.number() == want);
  }
}

// ---------------------------------------------------------------------------------------------------------
// Relative representation

TEMPLATE_LIST_TEST_CASE("relative: errors", "[errors][relative]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  auto ctx = D::make_checking();
  const index_t n = 6, c = 3, d = 4;
  array<D> x(random_reals(n, d, 111)), a(random_reals(c, d, 112));
  const array<D> narrow(random_reals(c, 3, 113)), none(reals(0, d)), one(random_reals(1, d, 114));
  array<D, T> out(n, c, sentinel), turned(c, n, sentinel), ds(1, 1, sentinel), ds2(1, 2, sentinel);
  array<D> dx(n, d, sentinel), da(c, d, sentinel), d_narrow(c, 3, sentinel);
  const array<D, T> dout(random_reals(n, c, 115));
  const craft::relative_options plain;
  const craft::dot_product<> dot;
  const watched all(x, a, out, turned, ds, ds2, dx, da, d_narrow);
  const auto map = [&](const auto& xv, const auto& av, const auto& k, const craft::relative_options& o,
                       const auto& to) { return [&ctx, xv, av, k, o, to] { craft::relative(ctx, xv, av, k, o, to); }; };
  rejects<craft::shape_error>(all, map(x.in(), narrow.in(), dot, plain, out.out()), {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all, map(none.in(), a.in(), dot, plain, out.out()), {"0 x 4"});
  rejects<craft::shape_error>(all, map(x.in(), none.in(), dot, plain, out.out()), {"0 x 4"});
  rejects<craft::shape_error>(all, map(x.in(), a.in(), dot, plain, turned.out()), {"6 x 3", "3 x 6"});
  rejects<craft::option_error>(all, map(x.in(), a.in(), craft::gaussian(-1.0), plain, out.out()), {"-1"});
  craft::relative_options o;
  o.statistics = craft::anchor_statistics::standardise;
  rejects<craft::shape_error>(all, map(x.in(), one.in(), dot, o, out.out()));  // C - 1 = 0
  for (const double bad : {0.0, -1.0, not_a_number}) {
    o = plain;
    o.max_scale = bad;
    rejects<craft::option_error>(all, map(x.in(), a.in(), dot, o, out.out()));
  }
  if constexpr (std::is_same_v<S, T>) {
    const array<D, S> square(random_reals(c, c, 116));
    array<D, S> both(random_reals(c, c, 117));
    const watched before(both);
    rejects<craft::alias_error>(before, map(both.in(), square.in(), dot, plain, both.out()));
    rejects<craft::alias_error>(before, map(square.in(), both.in(), dot, plain, both.out()));
  }

  craft::relative_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.anchors = craft::accumulate(da.out());
  g.log_scale = craft::overwrite(ds.out());
  const auto pull = [&](const auto& xv, const auto& av, const auto& du, auto change) {
    craft::relative_gradients<S, D::space> h = g;
    change(h);
    return [&ctx, &dot, &plain, xv, av, du, h] { craft::relative_pullback(ctx, xv, av, dot, plain, du, h); };
  };
  const auto same = [](auto&) {};
  const auto du = dout.in();
  rejects<craft::shape_error>(all, pull(x.in(), narrow.in(), du, same), {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all, pull(none.in(), a.in(), du, same), {"0 x 4"});
  rejects<craft::shape_error>(all, pull(x.in(), a.in(), turned.in(), same), {"6 x 3", "3 x 6"});
  rejects<craft::shape_error>(all, pull(x.in(), a.in(), du, [&](auto& h) { h.x = craft::overwrite(d_narrow.out()); }),
                              {"6 x 4", "3 x 3"});
  rejects<craft::shape_error>(all,
                              pull(x.in(), a.in(), du, [&](auto& h) { h.anchors = craft::overwrite(d_narrow.out()); }),
                              {"3 x 4", "3 x 3"});
  rejects<craft::shape_error>(all,
                              pull(x.in(), a.in(), du, [&](auto& h) { h.log_scale = craft::overwrite(ds2.out()); }));
  rejects<craft::alias_error>(all, pull(x.in(), a.in(), du, [&](auto& h) { h.x = craft::overwrite(x.out()); }));
  rejects<craft::alias_error>(all, pull(x.in(), a.in(), du, [&](auto& h) { h.anchors = craft::overwrite(a.out()); }));
  rejects<craft::alias_error>(
      all, pull(x.in(), a.in(), du, [&](auto& h) { h.anchors = craft::overwrite(part<D>(dx, 2, c, 0, d)); }));

  for (const double bad : {not_a_number, infinity}) {
    const array<D> xb(with(random_reals(n, d, 118), 5, 1, bad)), ab(with(random_reals(c, d, 119), 2, 3, bad));
    const array<D, T> ub(with(random_reals(n, c, 120), 4, 2, bad));
    ctx.check_finite(true);
    rejects<craft::data_error>(all, map(xb.in(), a.in(), dot, plain, out.out()), {"5", "1"});
    rejects<craft::data_error>(all, map(x.in(), ab.in(), dot, plain, out.out()), {"2", "3"});
    rejects<craft::data_error>(all, pull(xb.in(), a.in(), du, same));
    rejects<craft::data_error>(all, pull(x.in(), ab.in(), du, same));
    rejects<craft::data_error>(all, pull(x.in(), a.in(), ub.in(), same));
    ctx.check_finite(false);
    array<D, T> any(n, c);
    CHECK_NOTHROW(craft::relative(ctx, xb.in(), a.in(), dot, plain, any.out()));
  }
  CHECK_NOTHROW(pull(x.in(), a.in(), du, same)());
}
