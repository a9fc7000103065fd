// Views, numbers that are read and places that are written: where they point, and what their constructors refuse.
#include "craft/view.hpp"

#include <Eigen/Dense>
#include <array>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <vector>

#include "catch.hpp"

namespace {

using craft::index_t;
using craft::memory;
using craft::view;

template <class S>
using rows_matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using columns_matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;

using scalars = std::tuple<double, float, Eigen::half, Eigen::bfloat16>;

/// Element (i, j) is 10 i + j, exact in every scalar type for what is used here.
template <class M>
M counted(index_t rows, index_t cols) {
  M m(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) m(i, j) = typename M::Scalar(float(10 * i + j));
  return m;
}

template <class V>
void check_place(const V& v, const void* data, index_t rows, index_t cols, index_t stride) {
  CHECK(static_cast<const void*>(v.data()) == data);
  CHECK(v.rows() == rows);
  CHECK(v.cols() == cols);
  CHECK(v.stride() == stride);
}

template <class V>
double at(const V& v, index_t i, index_t j) {
  return double(v.row(i)[j]);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("a row-major matrix is viewed in place", "[view]", scalars) {
  using S = TestType;
  auto x = counted<rows_matrix<S>>(4, 3);
  const auto v = view(x);
  check_place(v, x.data(), 4, 3, 3);
  CHECK(at(v, 3, 2) == 32);
  CHECK_FALSE(v.empty());
  v.row(1)[2] = S(7.0f);
  CHECK(double(x(1, 2)) == 7);

  const auto& fixed = x;
  STATIC_REQUIRE(std::is_same_v<decltype(view(x)), craft::matrix_view<S>>);
  STATIC_REQUIRE(std::is_same_v<decltype(view(fixed)), craft::matrix_view<const S>>);
  STATIC_REQUIRE(std::is_same_v<craft::compute_of<rows_matrix<S>>,
                                std::conditional_t<std::is_same_v<S, double>, double, float>>);
}

TEMPLATE_LIST_TEST_CASE("one sample per column of a column-major matrix is the same memory", "[view]", scalars) {
  using S = TestType;
  auto x = counted<columns_matrix<S>>(3, 4);  // four samples of three numbers
  const auto v = craft::view_columns(x);
  check_place(v, x.data(), 4, 3, 3);
  CHECK(at(v, 3, 2) == double(x(2, 3)));
  STATIC_REQUIRE(std::is_same_v<decltype(craft::view_columns(std::as_const(x))), craft::matrix_view<const S>>);

  const auto some = craft::view_columns(x.middleCols(1, 2));
  check_place(some, &x(0, 1), 2, 3, 3);
  const auto narrow = craft::view_columns(x.bottomRows(2));
  check_place(narrow, &x(1, 0), 4, 2, 3);
  CHECK(at(narrow, 3, 1) == double(x(2, 3)));
}

TEST_CASE("blocks and maps keep the stride of what they are part of", "[view]") {
  auto x = counted<rows_matrix<double>>(6, 5);
  const auto block = view(x.block(2, 1, 3, 2));
  check_place(block, &x(2, 1), 3, 2, 5);
  CHECK(at(block, 2, 1) == x(4, 2));
  check_place(view(x.topRows(2)), x.data(), 2, 5, 5);
  STATIC_REQUIRE(std::is_same_v<decltype(view(std::as_const(x).topRows(2))), craft::matrix_view<const double>>);

  std::vector<float> memory(20);
  using strided = Eigen::Map<const rows_matrix<float>, 0, Eigen::OuterStride<>>;
  check_place(view(strided(memory.data(), 3, 4, Eigen::OuterStride<>(7))), memory.data(), 3, 4, 7);

  const rows_matrix<double> fixed_size = Eigen::Matrix<double, 2, 3, Eigen::RowMajor>::Ones();
  check_place(view(fixed_size), fixed_size.data(), 2, 3, 3);
}

TEST_CASE("an Eigen vector is a matrix of one column or one row", "[view]") {
  Eigen::VectorXd column = Eigen::VectorXd::LinSpaced(4, 0, 3);
  check_place(view(column), column.data(), 4, 1, 1);
  Eigen::RowVectorXf row = Eigen::RowVectorXf::LinSpaced(4, 0, 3);
  check_place(view(row), row.data(), 1, 4, 4);

  auto x = counted<rows_matrix<double>>(3, 4);
  const auto v = view(x.col(2));  // its numbers are four apart
  check_place(v, &x(0, 2), 3, 1, 4);
  CHECK(at(v, 2, 0) == x(2, 2));
  check_place(view(x.row(1)), &x(1, 0), 1, 4, 4);
}

TEST_CASE("raw memory, with and without a stride", "[view]") {
  double memory[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  check_place(view(memory, 4, 3), memory, 4, 3, 3);
  const auto strided = view(memory, 3, 2, 4);
  check_place(strided, memory, 3, 2, 4);
  CHECK(at(strided, 2, 1) == 9);
  STATIC_REQUIRE(std::is_same_v<decltype(view(static_cast<const float*>(nullptr), 0, 0)), craft::matrix_view<const float>>);

  check_place(view(strided), memory, 3, 2, 4);
  CHECK(craft::matrix_view<float>().empty());
  CHECK(view(memory, 0, 3).empty());
  CHECK(view(memory, 3, 0).empty());
}

TEST_CASE("mutable views become const ones and never the reverse; memory is part of the type", "[view]") {
  using mine = craft::matrix_view<double>;
  using read = craft::matrix_view<const double>;
  using device = craft::matrix_view<double, memory::device>;
  STATIC_REQUIRE(std::is_convertible_v<mine, read>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<read, mine>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<device, mine>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<mine, device>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<mine>);

  double x = 1;
  check_place(read(mine(&x, 1, 1)), &x, 1, 1, 1);
  // Nothing is read through it, so any address will do.
  check_place(device(&x, 5, 3, 4), &x, 5, 3, 4);
}

TEST_CASE("a view refuses what cannot be a matrix", "[view][errors]") {
  double x[4] = {};
  CHECK_THROWS_MATCHES(view(x, -1, 2), craft::shape_error, Catch::Matchers::Predicate<craft::shape_error>([](const auto& e) {
                         return std::string(e.what()).find("-1 x 2") != std::string::npos;
                       }));
  CHECK_THROWS_AS(view(x, 2, -1), craft::shape_error);
  CHECK_THROWS_WITH(view(x, 2, 2, 1), contains("at least the 2 columns, got 1"));
  CHECK_THROWS_AS(view(x, 2, 2, -2), craft::shape_error);
  CHECK_THROWS_WITH(view(static_cast<double*>(nullptr), 2, 3), contains("null pointer for a 2 x 3 matrix"));
  CHECK_THROWS_AS(view(static_cast<double*>(nullptr), 1, 1), craft::error);
  CHECK_NOTHROW(view(static_cast<double*>(nullptr), 0, 3));
  CHECK_NOTHROW(view(x, 1, 4, 0));  // one row has no next one

  using spread = Eigen::Map<rows_matrix<double>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  using spread_columns = Eigen::Map<columns_matrix<double>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  const Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic> every_second(4, 2);
  CHECK_THROWS_WITH(view(spread(x, 1, 2, every_second)), contains("inner stride of 2"));
  CHECK_THROWS_WITH(craft::view_columns(spread_columns(x, 2, 1, every_second)), contains("inner stride of 2"));
}

TEST_CASE("a scalar is a number or a pointer that is read late", "[view]") {
  CHECK(craft::scalar().value() == 0);
  CHECK(craft::scalar(0.5).value() == 0.5);
  CHECK(craft::scalar(0.5).readable_in(memory::device));

  float f = 1;
  double d = 2;
  const craft::scalar from_float(&f), from_double(&d);
  f = 3;
  d = 4;
  CHECK(from_float.value() == 3);
  CHECK(from_double.value() == 4);
  CHECK(from_double.readable_in(memory::host));
  CHECK_FALSE(from_double.readable_in(memory::device));
  CHECK_FALSE(craft::scalar(&f, memory::device).readable_in(memory::host));
  CHECK(craft::scalar(&f, memory::device).pointer() == &f);
}

TEST_CASE("numbers are read from whatever holds float or double", "[view]") {
  CHECK(craft::numbers().empty());
  const std::vector<float> vector{1.5f, 2.5f};
  const std::array<double, 3> array{1, 2, 3};
  const Eigen::VectorXd eigen = Eigen::VectorXd::LinSpaced(5, 0, 4);
  const craft::numbers a = vector, b = array, c = eigen, d(vector.data() + 1, 1, memory::device);
  CHECK(a.size() == 2);
  CHECK(a[1] == 2.5);
  CHECK(a.where() == memory::host);
  CHECK(b.size() == 3);
  CHECK(b[2] == 3);
  CHECK(c.size() == 5);
  CHECK(c[4] == 4);
  CHECK(d.size() == 1);
  CHECK(d.where() == memory::device);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<craft::numbers, std::vector<int>>);
}

TEST_CASE("labels are read from 32- and 64-bit integers", "[view]") {
  CHECK(craft::labels().empty());
  const std::vector<std::int32_t> narrow{3, -100};
  const std::vector<std::int64_t> wide{index_t(1) << 40, 2, 1};
  const Eigen::VectorXi eigen = Eigen::VectorXi::Constant(4, 7);
  const craft::labels a = narrow, b = wide, c = eigen, d(wide.data(), 2, memory::device);
  CHECK(a.size() == 2);
  CHECK(a[1] == -100);
  CHECK(b.size() == 3);
  CHECK(b[0] == index_t(1) << 40);
  CHECK(c[3] == 7);
  CHECK(d.size() == 2);
  CHECK(d.where() == memory::device);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<craft::labels, std::vector<double>>);
}

TEST_CASE("labels and weights honour the stride of an Eigen vector", "[view]") {
  // Every view of a vector whose elements do not lie side by side: a column, a row, a diagonal, a map, a part of one.
  const auto check = [](const auto& list, const std::vector<index_t>& want, index_t stride) {
    REQUIRE(list.size() == index_t(want.size()));
    CHECK(list.stride() == stride);
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(index_t(list[index_t(i)]) == want[i]);
  };
  const auto m = counted<rows_matrix<double>>(4, 3);
  check(craft::numbers(m.col(1)), {1, 11, 21, 31}, 3);
  check(craft::numbers(m.row(1)), {10, 11, 12}, 1);
  check(craft::numbers(m.col(1).tail(2)), {21, 31}, 3);
  check(craft::numbers(m.diagonal()), {0, 11, 22}, 4);
  check(craft::numbers(m.col(2).transpose()), {2, 12, 22, 32}, 3);
  const auto column = m.cast<float>().eval().col(2).eval();
  check(craft::numbers(column), {2, 12, 22, 32}, 1);

  Eigen::VectorXd memory = Eigen::VectorXd::LinSpaced(12, 0, 11);
  using spaced = Eigen::Map<const Eigen::VectorXd, 0, Eigen::InnerStride<>>;
  check(craft::numbers(spaced(memory.data(), 4, Eigen::InnerStride<>(3))), {0, 3, 6, 9}, 3);
  check(craft::numbers(spaced(memory.data() + 11, 4, Eigen::InnerStride<>(-3))), {11, 8, 5, 2}, -3);
  const Eigen::Ref<const Eigen::VectorXd, 0, Eigen::InnerStride<>> ref = m.col(1);
  check(craft::numbers(ref), {1, 11, 21, 31}, 3);
  check(craft::numbers(memory.data() + 1, 4, craft::memory::host, 3), {1, 4, 7, 10}, 3);

  columns_matrix<int> narrow(2, 3);
  narrow << 0, 1, 2, 3, 4, 5;
  check(craft::labels(narrow.row(1)), {3, 4, 5}, 2);
  const Eigen::Matrix<std::int64_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> wide = narrow.cast<std::int64_t>();
  check(craft::labels(wide.col(2)), {2, 5}, 3);
  check(craft::labels(wide.data(), 2, craft::memory::host, 3), {0, 3}, 3);
}

TEST_CASE("labels and weights keep what is moved in, and look at what is not", "[view]") {
  std::vector<double> v{1, 2, 3};
  const double* const at = v.data();
  CHECK(craft::numbers(v).data() == at);
  CHECK(craft::numbers(std::as_const(v)).data() == at);

  // Memory of the same size is taken and overwritten in between, so that a dead vector would show without a sanitizer, too.
  const auto overwritten = [] { return std::vector<double>(4096, -1.0); };
  craft::numbers w;
  w = std::vector<double>(4096, 2.0);
  const craft::numbers copy = w;
  w = Eigen::VectorXf::Constant(4096, 3.0f).eval();
  const auto over = overwritten();
  CHECK(copy[4095] == 2);
  CHECK(w[0] == 3);
  CHECK_FALSE(w.is_double());
  w = craft::numbers();
  CHECK(copy[17] == 2);
  CHECK(copy[0] == 2);

  const craft::numbers moved = std::move(v);  // not copied
  CHECK(moved.data() == at);
  CHECK(moved[2] == 3);
  const std::vector<float> constant(100, 4.0f);
  CHECK(craft::numbers(std::move(constant))[99] == 4);  // cannot be moved: copied
  CHECK(constant[99] == 4);

  const craft::numbers fixed = std::array<double, 3>{4, 5, 6};
  CHECK(fixed[2] == 6);
  const craft::numbers aligned = Eigen::Vector4d(1, 2, 3, 4);
  CHECK(aligned[3] == 4);
  const craft::labels y = std::vector<std::int32_t>{7, 8}, z = Eigen::VectorXi(Eigen::VectorXi::Constant(4, 7));
  CHECK(y[1] == 8);
  CHECK(z[3] == 7);

  // Maps and blocks own nothing: their memory is looked at.
  Eigen::VectorXd eigen = Eigen::VectorXd::Ones(4);
  CHECK(craft::numbers(Eigen::Map<Eigen::VectorXd>(eigen.data(), 4)).data() == eigen.data());
  CHECK(craft::numbers(eigen.tail(2)).data() == eigen.data() + 2);
}

TEST_CASE("labels and weights refuse what cannot be a list", "[view][errors]") {
  const double x[2] = {};
  const std::int32_t y[2] = {};
  CHECK_THROWS_WITH(craft::numbers(x, -1), contains("must not be negative, got -1 labels or weights"));
  CHECK_THROWS_AS(craft::labels(y, -2), craft::shape_error);
  CHECK_THROWS_WITH(craft::labels(static_cast<const std::int64_t*>(nullptr), 5), contains("null pointer for 5 labels"));
  CHECK_THROWS_AS(craft::numbers(static_cast<const float*>(nullptr), 1), craft::shape_error);
  CHECK_NOTHROW(craft::numbers(static_cast<const float*>(nullptr), 0));
}

TEST_CASE("gradients go into views, matrices, blocks, vectors and variables", "[view]") {
  CHECK_FALSE(craft::output<double>().wanted());

  rows_matrix<double> x(4, 3);
  const auto whole = craft::overwrite(x);
  CHECK(whole.wanted());
  CHECK(whole.mode == craft::write::overwrite);
  check_place(whole.to, x.data(), 4, 3, 3);

  const auto added = craft::accumulate(x.middleRows(1, 2));
  CHECK(added.mode == craft::write::accumulate);
  check_place(added.to, &x(1, 0), 2, 3, 3);

  check_place(craft::overwrite(view(x)).to, x.data(), 4, 3, 3);
  columns_matrix<float> y(3, 4);
  check_place(craft::accumulate(craft::view_columns(y)).to, y.data(), 4, 3, 3);
  Eigen::VectorXd weights(5);
  check_place(craft::overwrite(weights).to, weights.data(), 5, 1, 1);
  float scale = 0;
  check_place(craft::accumulate(scale).to, &scale, 1, 1, 1);

  using device = craft::matrix_view<double, memory::device>;
  STATIC_REQUIRE(std::is_same_v<decltype(craft::overwrite(device())), craft::output<double, memory::device>>);
  STATIC_REQUIRE(std::is_same_v<decltype(craft::accumulate(scale)), craft::output<float>>);
}

TEST_CASE("a value goes into a variable", "[view][errors]") {
  double value = 0;
  CHECK(craft::scalar_out<double>(value).get() == &value);
  CHECK(craft::scalar_out<double>(&value).get() == &value);
  CHECK(craft::scalar_out<double, memory::device>(&value).get() == &value);
  CHECK_THROWS_AS(craft::scalar_out<double>(static_cast<double*>(nullptr)), craft::shape_error);
}
