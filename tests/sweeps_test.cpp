// Sweeps by themselves, as an engine runs them for an element: rows that are some of the columns too, from an offset on, as those
// of one process are in a batch of several.
#include <cmath>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"

using namespace craft_test;

namespace {

struct swept {
  double total;
  reals x, y;
};
/// sum_ij dout_ij k(y_(offset + i), y_j), with what is pulled back to the rows and to the columns.
template <class D, class K>
swept rectangle(const reals& y, index_t n, index_t offset, const reals& dout, const K& kernel, bool with_itself) {
  using T = typename D::compute;
  const auto ctx = D::make();
  const array<D> given(y), by_out(dout);
  array<D> dx(n, y.cols()), dy(y.rows(), y.cols());
  array<D, T> value(1, 1);
  {
    typename D::context::engine e(ctx);
    const auto all = craft::engine::take_rows<T>(e, y.rows(), y.cols());
    load(e, given.in(), all.data);
    e.square_norms(all);
    craft::engine::rectangle_sweep<T> sweep{{all.row(offset), n, all.d, all.squared + offset}, all, offset, with_itself};
    sweep.totals = e.template zeros<double>(1);
    sweep.gx = craft::engine::take_pull<T>(e, n, all.d), sweep.gy = craft::engine::take_pull<T>(e, all.n, all.d);
    const auto k = kernel.template as<T>();
    e.rectangle(sweep, craft::engine::similarity_pullback<T, std::decay_t<decltype(k)>, T>{k, 1.0, by_out.in().data(), all.n});
    store(e, sweep.gx.gradient, craft::overwrite(dx.out()), 1.0);
    store(e, sweep.gy.gradient, craft::overwrite(dy.out()), 1.0);
    write_value(e, value.as_value(), sweep.totals);
  }
  return {value.number(), dx.get(), dy.get()};
}
template <class K>
swept by_loops(const reals& y, index_t n, index_t offset, const reals& dout, const K& kernel, bool with_itself) {
  swept out{0, reals::Zero(n, y.cols()), reals::Zero(y.rows(), y.cols())};
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < y.rows(); ++j) {
      const bool itself = offset + i == j;
      if (itself && !with_itself) continue;
      const auto xi = y.row(offset + i), yj = y.row(j);
      const auto p = kernel.partials(xi.dot(yj), xi.squaredNorm(), yj.squaredNorm());
      out.total += dout(i, j) * p.value;
      // Of a row with itself all slopes are the row's.
      const reals by_x = dout(i, j) * (p.ds * yj + 2 * p.da * xi), by_y = dout(i, j) * (p.ds * xi + 2 * p.db * yj);
      out.x.row(i) += itself ? by_x + by_y : by_x;
      if (!itself) out.y.row(j) += by_y;
    }
  return out;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("rows that are some of the columns too", "[sweeps]", devices) {
  using D = TestType;
  const bool with_itself = GENERATE(true, false);
  const index_t offset = GENERATE(0, 5, 40), n = 29, N = 70;
  const reals y = as_stored<D>(random_reals(N, 6, 1)), dout = as_stored<D>(random_reals(n, N, 2));
  const auto check = [&](const auto& kernel) {
    const swept want = by_loops(y, n, offset, dout, kernel, with_itself);
    const swept got = rectangle<D>(y, n, offset, dout, kernel, with_itself);
    // Sums of 70 terms, each right to some ten roundings.
    const double tolerance = 1000 * roundoff<typename D::scalar>;
    CHECK(std::abs(got.total - want.total) <= tolerance * std::sqrt(double(n * N)));
    CHECK(relative_distance(got.x, want.x) <= tolerance);
    CHECK(relative_distance(got.y, want.y) <= tolerance);
  };
  check(craft::gaussian<>(1.7));
  check(craft::cosine<>());
}
