// The cosine embedding loss over all pairs: by its definition, by differences, and what it refuses.
#include "craft/cosine_embedding.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "differences.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

struct result {
  double value;
  reals x, y;
};
template <class D>
result run(const reals& x, const reals& y, const craft::cosine_embedding_options& options, bool gradients = true) {
  const auto ctx = D::make();
  const array<D> dx(x), dy(y);
  array<D> gx(x.rows(), x.cols()), gy(y.rows(), y.cols());
  array<D, typename D::compute> value(1, 1);
  craft::cosine_embedding_gradients<typename D::scalar, D::space> g;
  if (gradients) g = {craft::overwrite(gx.out()), craft::overwrite(gy.out())};
  craft::cosine_embedding(ctx, dx.in(), dy.in(), options, value.as_value(), g);
  return {value.number(), gx.get(), gy.get()};
}

/// By two loops in long double; `together` of rows i and j.
template <class F>
double by_definition(const reals& x, const reals& y, double margin, const F& together) {
  long double sum = 0;
  for (index_t i = 0; i < x.rows(); ++i)
    for (index_t j = 0; j < y.rows(); ++j) {
      long double s = 0, a = 0, b = 0;
      for (index_t k = 0; k < x.cols(); ++k) {
        s += (long double)(x(i, k)) * y(j, k);
        a += (long double)(x(i, k)) * x(i, k);
        b += (long double)(y(j, k)) * y(j, k);
      }
      const long double cosine = a > 0 && b > 0 ? s / std::sqrt(a * b) : 0;
      sum += together(i, j) ? 1 - cosine : std::max<long double>(0, cosine - margin);
    }
  return double(sum / (double(x.rows()) * double(y.rows())));
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("cosine_embedding is the mean over all pairs", "[cosine_embedding]", devices) {
  using D = TestType;
  const index_t n = GENERATE(1, 7, 45);
  const double margin = GENERATE(-1.0, 0.0, 0.3);
  const reals x = as_stored<D>(random_reals(n, 19, 1)), y = as_stored<D>(random_reals(n, 19, 2));
  craft::cosine_embedding_options o;
  o.margin = margin;
  const double want = by_definition(x, y, margin, [](index_t i, index_t j) { return i == j; });
  // Costs between 0 and 2, each of a cosine that is right to (d + 4) roundings.
  CHECK(std::abs(run<D>(x, y, o).value - want) <= 2 * (19 + 4) * roundoff<typename D::scalar>);
  CHECK(run<D>(x, y, o, false).value == run<D>(x, y, o).value);
}

TEMPLATE_LIST_TEST_CASE("cosine_embedding with labels, and of samples of different sizes", "[cosine_embedding]", devices) {
  using D = TestType;
  const reals x = as_stored<D>(random_reals(37, 5, 3)), y = as_stored<D>(random_reals(29, 5, 4));
  std::vector<index_t> of_x, of_y;
  for (index_t i = 0; i < 37; ++i) of_x.push_back(7 * i % 5);
  for (index_t j = 0; j < 29; ++j) of_y.push_back(3 * j % 4 - 1);
  craft::cosine_embedding_options o;
  o.margin = 0.1;
  o.x_labels = of_x, o.y_labels = of_y;
  const auto together = [&](index_t i, index_t j) { return of_x[std::size_t(i)] == of_y[std::size_t(j)]; };
  CHECK(std::abs(run<D>(x, y, o).value - by_definition(x, y, 0.1, together)) <= 2 * (5 + 4) * roundoff<typename D::scalar>);
}

TEMPLATE_LIST_TEST_CASE("cosine_embedding: gradients by finite differences", "[cosine_embedding][gradient]", double_devices) {
  using D = TestType;
  reals x = random_reals(9, 6, 5), y = random_reals(9, 6, 6);
  craft::cosine_embedding_options o;
  o.margin = GENERATE(-1.0, 0.05);
  const bool labelled = GENERATE(false, true);
  const std::vector<index_t> of{0, 1, 1, 2, 0, 2, 3, 1, 0};
  if (labelled) o.x_labels = o.y_labels = of;
  const result r = run<D>(x, y, o);
  check_by_differences<D>([&] { return run<D>(x, y, o, false).value; },
                          {{"x", x.data(), x.size(), r.x.data()}, {"y", y.data(), y.size(), r.y.data()}});
  o.upstream = -2.5;  // of the gradients alone
  const result scaled = run<D>(x, y, o);
  CHECK(scaled.value == r.value);
  CHECK(relative_distance(scaled.x, -2.5 * r.x) <= 1e-14);
}

TEMPLATE_LIST_TEST_CASE("cosine_embedding says what is wrong", "[cosine_embedding][errors]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const array<D> x(random_reals(4, 3, 1)), y(random_reals(5, 3, 2)), narrow(random_reals(4, 2, 3));
  array<D> gx(4, 3, sentinel), wrong(4, 4, sentinel), value(1, 1, sentinel);
  const watched outputs(gx, wrong, value);
  craft::cosine_embedding_gradients<double, D::space> g;
  g.x = craft::overwrite(gx.out());
  const auto call = [&](const auto& rows, const auto& columns, const craft::cosine_embedding_options& o, const auto& gradients) {
    craft::cosine_embedding(ctx, rows.in(), columns.in(), o, value.as_value(), gradients);
  };
  craft::cosine_embedding_options o;
  rejects<craft::shape_error>(outputs, [&] { call(x, y, o, g); }, {"cosine_embedding", "without labels", "4 x 3", "5 x 3"});
  rejects<craft::shape_error>(outputs, [&] { call(x, narrow, o, g); }, {"columns must agree"});
  o.x_labels = std::vector<index_t>{0, 1, 2, 3};
  rejects<craft::option_error>(outputs, [&] { call(x, y, o, g); }, {"both sides or for neither"});
  o.y_labels = std::vector<index_t>{0, 1, 2};
  rejects<craft::shape_error>(outputs, [&] { call(x, y, o, g); }, {"y_labels", "expected 5", "got 3"});
  o.x_labels = o.y_labels = craft::labels();
  o.margin = 1.5;
  rejects<craft::option_error>(outputs, [&] { call(x, x, o, g); }, {"margin", "[-1, 1]", "1.5"});
  o.margin = 0;
  g.x = craft::overwrite(wrong.out());
  rejects<craft::shape_error>(outputs, [&] { call(x, x, o, g); }, {"gradient of x", "4 x 3", "4 x 4"});
}
