// The three products of a tile against sums in double: every remainder of rows, columns and depth, depths beyond one pass,
// strides larger than the rows, and nothing written where nothing belongs.
#include "craft/engine/product.hpp"

#include "catch.hpp"
#include "devices.hpp"

namespace {

using namespace craft_test;

/// rows x cols numbers with `gap` unused ones behind each row, which are NaN.
template <class T>
struct strided {
  index_t rows, cols, stride;
  std::vector<T> data;
  strided(const reals& values, index_t gap)
      : rows(values.rows()), cols(values.cols()), stride(cols + gap), data(std::size_t(rows * stride), T(not_a_number)) {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) data[std::size_t(i * stride + j)] = T(values(i, j));
  }
  reals get() const {
    reals out(rows, cols);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) out(i, j) = double(data[std::size_t(i * stride + j)]);
    return out;
  }
  bool gaps_untouched() const {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = cols; j < stride; ++j)
        if (!std::isnan(double(data[std::size_t(i * stride + j)]))) return false;
    return true;
  }
};

template <class T>
void check_products(index_t m, index_t n, index_t k) {
  INFO("m " << m << ", n " << n << ", k " << k);
  const double tolerance = 4 * double(k + 1) * roundoff<T>;  // relative, for entries that are sums of k + 1 products
  using craft::engine::product;
  std::vector<T> scratch;  // exactly as large as asked for: the sanitizers see what goes beyond
  const auto tile_of = [&](index_t rows, index_t cols, index_t d) {
    scratch.assign(std::size_t(product<T>::scratch_size(rows, cols, d)), T(not_a_number));
    scratch.shrink_to_fit();
    return product<T>(scratch.data());
  };
  const reals start = random_reals(m, n, 3);

  {
    const strided<T> a(random_reals(m, k, 1), 3), b(random_reals(n, k, 2), 5);
    const index_t ld = product<T>::padded(n);
    std::vector<T> c(std::size_t(m * ld), T(not_a_number));  // what was there before does not count
    tile_of(m, n, k).dots(a.data.data(), a.stride, b.data.data(), b.stride, c.data(), ld, m, n, k);
    reals got(m, n);
    for (index_t i = 0; i < m; ++i)
      for (index_t j = 0; j < n; ++j) got(i, j) = double(c[std::size_t(i * ld + j)]);
    CHECK(relative_distance(got, a.get() * b.get().transpose()) <= tolerance);
  }
  {
    const strided<T> a(random_reals(m, k, 1), 3), b(random_reals(k, n, 2), 5);
    strided<T> c(start, 7);
    const reals want = c.get() + a.get() * b.get();
    tile_of(m, k, n).add(a.data.data(), a.stride, b.data.data(), b.stride, c.data.data(), c.stride, m, n, k);
    CHECK(relative_distance(c.get(), want) <= tolerance);
    CHECK(c.gaps_untouched());
  }
  {
    const strided<T> a(random_reals(k, m, 1), 3), b(random_reals(k, n, 2), 5);
    strided<T> c(start, 7);
    const reals want = c.get() + a.get().transpose() * b.get();
    tile_of(k, m, n).add_transposed(a.data.data(), a.stride, b.data.data(), b.stride, c.data.data(), c.stride, m, n, k);
    CHECK(relative_distance(c.get(), want) <= tolerance);
    CHECK(c.gaps_untouched());
  }
}

}  // namespace

TEMPLATE_TEST_CASE("products of every shape", "[product]", float, double) {
  for (const index_t m : {1, 2, 3, 5, 6, 7, 8, 9, 15, 17, 33})
    for (const index_t n : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 47, 65})
      for (const index_t k : {1, 2, 7, 16, 19, 40}) check_products<TestType>(m, n, k);
}

TEMPLATE_TEST_CASE("products deeper than one pass", "[product]", float, double) {
  for (const index_t k : {511, 512, 513, 1030})
    for (const index_t n : {3, 16, 40}) check_products<TestType>(11, n, k);
}

// k-means keeps equal rows together because of this (cpu_engine::products_depend_on_place).
TEMPLATE_TEST_CASE("a dot product has the same bits wherever its rows stand in a tile", "[product]", double, float) {
  using T = TestType;
  using craft::engine::product;
  for (const index_t k : {3, 40, 1100}) {
    const reals x = random_reals(1, k, 4), y = random_reals(1, k, 5);
    std::vector<T> scratch(std::size_t(product<T>::scratch_size(40, 40, k)));
    T first(0);
    for (const index_t m : {1, 2, 5, 8, 15, 29})
      for (const index_t n : {1, 3, 8, 16, 21, 33}) {
        INFO("m " << m << ", n " << n << ", k " << k);
        const strided<T> a(x.replicate(m, 1), 3), b(y.replicate(n, 1), 5);
        const index_t ld = product<T>::padded(n);
        std::vector<T> c(std::size_t(m * ld), T(not_a_number));
        product<T>(scratch.data()).dots(a.data.data(), a.stride, b.data.data(), b.stride, c.data(), ld, m, n, k);
        if (m == 1 && n == 1) first = c[0];
        index_t different = 0;
        for (index_t i = 0; i < m; ++i)
          for (index_t j = 0; j < n; ++j) different += c[std::size_t(i * ld + j)] != first;
        CHECK(different == 0);
      }
  }
}
