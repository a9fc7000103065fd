// DLPack tensors as arrays, views, labels, weights and places; and those that are refused.
#include <limits>
#include <random>

#include "dlpack_tensors.hpp"

using namespace dlpack_test;

TEMPLATE_LIST_TEST_CASE("a tensor is viewed in place", "[dlpack]", tensors) {
  made<TestType> compact({4, 3}), padded({4, 3}, {8, 1});
  check_matrix(viewed(compact.t), compact.bytes.data(), 4, 3, 3);
  check_matrix(viewed(padded.t), padded.bytes.data(), 4, 3, 8);
  padded.t.byte_offset = 40;
  check_matrix(viewed(padded.t), padded.bytes.data() + 40, 4, 3, 8);
  const auto a = dlpack::array(padded.t);
  CHECK(a.data == padded.bytes.data() + 40);
  CHECK(a.dimensions == 2);
  CHECK(a.sizes == padded.shape.data());
  CHECK(a.strides == padded.strides.data());
  CHECK(a.type == dtype::float32);
  CHECK(a.where == memory::host);
}

TEMPLATE_LIST_TEST_CASE("a place has two, one or no dimensions", "[dlpack]", tensors) {
  made<TestType> padded({4, 3}, {8, 1}), line({5}), number({}), cube({2, 3, 4}), broken({4, 3}, {1, 4});
  padded.t.byte_offset = 40;
  const auto to = dlpack::place(padded.t, craft::write::accumulate);
  CHECK(to.data == padded.bytes.data() + 40);
  CHECK(to.rows == 4);
  CHECK(to.cols == 3);
  CHECK(to.stride == 8);
  CHECK(to.mode == craft::write::accumulate);
  CHECK(dlpack::place(padded.t).mode == craft::write::overwrite);
  line.type(0, 64);
  CHECK(dlpack::place(line.t).rows == 5);
  CHECK(dlpack::place(line.t).cols == 1);
  CHECK(dlpack::place(line.t).type == dtype::int64);
  CHECK(dlpack::place(number.t).rows == 1);
  CHECK(dlpack::place(number.t).cols == 1);
  refuses<craft::shape_error>([&] { dlpack::place(cube.t); }, {"has 3 dimensions (2, 3, 4)"});
  refuses<craft::shape_error>([&] { dlpack::place(broken.t); }, {"side by side"});
  line.t.data = nullptr;
  refuses<craft::shape_error>([&] { dlpack::place(line.t); }, {"null data for 5 x 1"});
}

TEMPLATE_LIST_TEST_CASE("strides of dimensions of one are not looked at", "[dlpack]", tensors) {
  made<TestType> one_row({1, 3}, {-7, 1}), one_column({4, 1}, {6, 99}), one({1, 1}, {0, 0});
  check_matrix(viewed(one_row.t), one_row.bytes.data(), 1, 3, 3);
  check_matrix(viewed(one_column.t), one_column.bytes.data(), 4, 1, 6);
  check_matrix(viewed(one.t), one.bytes.data(), 1, 1, 1);
}

TEMPLATE_LIST_TEST_CASE("a tensor without elements may have no data", "[dlpack]", tensors) {
  for (const auto& shape : {std::vector<std::int64_t>{0, 3}, {4, 0}, {0, 0}}) {
    made<TestType> empty(shape), strided(shape, std::vector<std::int64_t>(shape.size(), -1));
    empty.t.data = nullptr;
    empty.t.byte_offset = 12;
    const auto m = viewed(empty.t);
    CHECK(m.data == nullptr);
    CHECK(m.rows == shape[0]);
    CHECK(m.cols == shape[1]);
    CHECK(dlpack::view<float>(strided.t).empty());
    CHECK(dlpack::view<float>(empty.t).empty());
  }
  made<TestType> none({0});
  none.t.data = nullptr;
  CHECK(dlpack::numbers(none.t).empty());
}

TEMPLATE_LIST_TEST_CASE("element types and devices", "[dlpack]", tensors) {
  made<TestType> x({4, 3});
  const std::tuple<int, int, dtype> types[] = {
      {2, 64, dtype::float64}, {2, 32, dtype::float32}, {2, 16, dtype::float16}, {4, 16, dtype::bfloat16}};
  for (const auto& [code, bits, type] : types) {
    x.type(code, bits);
    CHECK(viewed(x.t).type == type);
  }
  x.type(0, 64);
  CHECK(dlpack::array(x.t).type == dtype::int64);
  x.type(0, 32);
  CHECK(dlpack::array(x.t).type == dtype::int32);
  x.type(2, 32);
  const std::tuple<int, memory> devices[] = {
      {1, memory::host}, {3, memory::host}, {2, memory::device}, {13, memory::device}};
  for (const auto& [device, where] : devices) {
    x.device(device);
    CHECK(viewed(x.t).where == where);
  }
}

TEMPLATE_LIST_TEST_CASE("views for the verbs themselves", "[dlpack]", tensors) {
  made<TestType> x({4, 3}, {5, 1});
  const auto f = dlpack::view<const float>(x.t);
  static_assert(std::is_same_v<decltype(f), const craft::matrix_view<const float>>);
  CHECK(static_cast<const void*>(f.data()) == x.bytes.data());
  CHECK(f.rows() == 4);
  CHECK(f.cols() == 3);
  CHECK(f.stride() == 5);
  refuses<craft::type_error>([&] { dlpack::view<double>(x.t); }, {"holds float32, expected float64: convert it"});
  refuses<craft::type_error>([&] { dlpack::view<Eigen::half>(x.t); }, {"expected float16"});
  refuses<craft::type_error>([&] { dlpack::view<Eigen::bfloat16>(x.t); }, {"expected bfloat16"});
  x.type(2, 64);
  CHECK(dlpack::view<double>(x.t).rows() == 4);
  refuses<craft::type_error>([&] { dlpack::view<float>(x.t); }, {"holds float64, expected float32"});
  x.type(2, 16);
  CHECK(dlpack::view<const Eigen::half>(x.t).rows() == 4);
  refuses<craft::type_error>([&] { dlpack::view<Eigen::bfloat16>(x.t); }, {"holds float16, expected bfloat16"});
  x.type(4, 16);
  CHECK(dlpack::view<Eigen::bfloat16>(x.t).rows() == 4);
  refuses<craft::type_error>([&] { dlpack::view<Eigen::half>(x.t); }, {"holds bfloat16, expected float16"});

  x.type(2, 32);
  x.device(2);
  CHECK(dlpack::view<float, memory::device>(x.t).rows() == 4);
  refuses<craft::device_error>([&] { dlpack::view<float>(x.t); }, {"lies in device memory, expected host memory"});
  x.device(1);
  refuses<craft::device_error>([&] { dlpack::view<float, memory::device>(x.t); }, {"in host memory, expected device memory"});
}

TEMPLATE_LIST_TEST_CASE("labels, weights and single numbers", "[dlpack]", tensors) {
  made<TestType> y({3});
  const std::int64_t wide[] = {4, -100, 2};
  std::memcpy(y.bytes.data() + 8, wide, sizeof wide);
  y.t.byte_offset = 8;
  y.type(0, 64);
  auto l = dlpack::labels(y.t);
  REQUIRE(l.size() == 3);
  CHECK(l.wide());
  CHECK(l[1] == -100);
  y.type(0, 32);
  l = dlpack::labels(y.t);
  CHECK_FALSE(l.wide());
  CHECK(l[0] == 4);

  const float weights[] = {0.5f, 0, 2};
  std::memcpy(y.bytes.data() + 8, weights, sizeof weights);
  y.type(2, 32);
  const auto n = dlpack::numbers(y.t);
  REQUIRE(n.size() == 3);
  CHECK_FALSE(n.is_double());
  CHECK(n[2] == 2);
  y.type(2, 64);
  CHECK(dlpack::numbers(y.t).is_double());
  y.device(2);
  CHECK(dlpack::numbers(y.t).where() == memory::device);
  CHECK(dlpack::labels((y.type(0, 32), y.t)).where() == memory::device);

  for (const auto& shape : {std::vector<std::int64_t>{}, {1}, {1, 1}, {1, 1, 1}}) {
    made<TestType> s(shape);
    const float number = 2.5f;
    std::memcpy(s.bytes.data(), &number, sizeof number);
    const auto one = dlpack::scalar(s.t);
    CHECK(one.value() == 2.5);
    CHECK(one.pointer() == s.bytes.data());
    s.type(2, 64);
    CHECK(dlpack::scalar(s.t).is_double());
    s.device(13);
    CHECK_FALSE(dlpack::scalar(s.t).readable_in(memory::host));
  }

  // Every second one, one for all, and backwards.
  for (const std::int64_t stride : {2, 0, -1}) {
    made<TestType> apart({3}, {stride});
    const std::int64_t labels[] = {5, 6, 7, 8, 9};
    std::memcpy(apart.bytes.data() + 16, labels, sizeof labels);
    apart.t.byte_offset = 32;  // at the 7
    apart.type(0, 64);
    l = dlpack::labels(apart.t);
    CHECK(l.stride() == stride);
    for (index_t i = 0; i < 3; ++i) CHECK(l[i] == (i * stride < 3 ? 7 + i * stride : 0));
    const double reals[] = {5, 6, 7, 8, 9};
    std::memcpy(apart.bytes.data() + 16, reals, sizeof reals);
    apart.type(2, 64);
    for (index_t i = 0; i < 3; ++i) CHECK(dlpack::numbers(apart.t)[i] == (i * stride < 3 ? 7 + i * stride : 0));
  }

  made<TestType> square({3, 3}), pair({2}), none({0}), behind({3}, {-5});
  square.type(0, 64);
  refuses<craft::shape_error>([&] { dlpack::labels(square.t, "y"); }, {"y has 2 dimensions (3, 3), expected one", "reshape"});
  square.type(2, 64);
  refuses<craft::shape_error>([&] { dlpack::numbers(square.t); }, {"dlpack: the tensor has 2 dimensions (3, 3)"});
  behind.type(0, 64);
  behind.t.data = reinterpret_cast<void*>(std::uintptr_t(64));  // the last one would lie before address 0
  refuses<craft::shape_error>([&] { dlpack::labels(behind.t); }, {"3 rows at a stride of -5 leave the address space"});
  refuses<craft::shape_error>([&] { dlpack::scalar(pair.t, "log_scale"); }, {"log_scale must be one number, got (2,)"});
  refuses<craft::shape_error>([&] { dlpack::scalar(none.t); }, {"must be one number, got (0,)"});
  refuses<craft::type_error>([&] { dlpack::labels(pair.t); }, {"holds float32, expected labels of int64 or int32: convert"});
  pair.type(1, 64);  // unsigned
  refuses<craft::type_error>([&] { dlpack::labels(pair.t, "y"); }, {"y holds uint64, expected labels of int64 or int32"});
  refuses<craft::type_error>([&] { dlpack::numbers(pair.t); }, {"holds uint64, expected float64 or float32"});
  pair.type(2, 16);
  refuses<craft::type_error>([&] { dlpack::numbers(pair.t); }, {"holds float16, expected float64 or float32"});
  made<TestType> one({1});
  one.type(2, 16);
  refuses<craft::type_error>([&] { dlpack::scalar(one.t); }, {"float64 or float32"});
  one.type(2, 64);
  one.t.byte_offset = 4;
  refuses<craft::shape_error>([&] { dlpack::scalar(one.t); }, {"misaligned", "4 past"});
  for (auto* t : {&one.t, &pair.t}) t->data = nullptr, t->byte_offset = 0;
  refuses<craft::shape_error>([&] { dlpack::scalar(one.t, "bias"); }, {"bias has null data"});
  pair.type(2, 32);
  refuses<craft::shape_error>([&] { dlpack::numbers(pair.t, "weights"); }, {"weights has null data for 2 x 1"});
  pair.type(0, 32);
  refuses<craft::shape_error>([&] { dlpack::labels(pair.t, "y"); }, {"y has null data for 2 x 1"});
}

TEMPLATE_LIST_TEST_CASE("what cannot be viewed is refused", "[dlpack]", tensors) {
  const auto shape_refused = [](made<TestType>&& x, const std::vector<std::string>& parts) {
    refuses<craft::shape_error>([&] { viewed(x.t); }, parts);
    refuses<craft::shape_error>([&] { dlpack::view<float>(x.t); }, parts);
  };
  shape_refused(made<TestType>({}), {"has 0 dimensions (), expected a matrix with one sample per row"});
  shape_refused(made<TestType>({2, 3, 4}),
                {"has 3 dimensions (2, 3, 4), expected a matrix with one sample per row: reshape it to (2, -1)"});
  shape_refused(made<TestType>({-1, 3}), {"must not be negative", "(-1, 3)"});
  shape_refused(made<TestType>({4, 3}, {1, 4}), {"side by side", "stride of 4", "numpy.ascontiguousarray"});
  shape_refused(made<TestType>({4, 3}, {6, 2}), {"side by side", "stride of 2"});
  shape_refused(made<TestType>({4, 3}, {3, -1}), {"side by side", "stride of -1"});
  shape_refused(made<TestType>({4, 3}, {-3, 1}), {"backwards", "stride of -3", "numpy.ascontiguousarray"});
  shape_refused(made<TestType>({4, 3}, {2, 1}), {"rows of 3", "stride of 2"});
  shape_refused(made<TestType>({4, 3}, {0, 1}), {"stride of 0 (all rows are one, as broadcasting makes): copy it"});
  shape_refused(made<TestType>({5}), {"has 1 dimension (5,)", "reshape it to (-1, 1), or to (1, -1) if it is one sample"});
  const std::int64_t huge = std::int64_t(1) << 62, most = std::numeric_limits<std::int64_t>::max();
  shape_refused(made<TestType>({huge, 3}), {"do not fit in memory"});
  shape_refused(made<TestType>({3, huge}), {"do not fit in memory"});
  shape_refused(made<TestType>({3, 3}, {huge, 1}), {"do not fit in memory"});
  shape_refused(made<TestType>({most, most}), {"do not fit in memory"});

  const auto changed = [&](const auto& change, const std::vector<std::string>& parts) {
    made<TestType> x({4, 3});
    change(x);
    refuses<craft::shape_error>([&] { dlpack::view<float>(x.t); }, parts);
  };
  changed([](auto& x) { x.t.data = nullptr; }, {"null data for 4 x 3"});
  changed([](auto& x) { x.t.shape = nullptr; }, {"has 2 dimensions, but no sizes"});
  changed([](auto& x) { x.t.ndim = -1; }, {"has -1 dimensions"});
  changed([](auto& x) { x.t.byte_offset = 2; }, {"misaligned", "2 past"});
  changed([](auto& x) { x.t.data = x.bytes.data() + 1; }, {"misaligned", "numbers of 4 bytes"});
  changed([](auto& x) { x.t.byte_offset = ~std::uint64_t(0); }, {"leaves the address space"});
  changed([](auto& x) { x.t.byte_offset = ~std::uint64_t(0) - 4000; }, {"leaves the address space"});
  changed([](auto& x) { x.t.data = reinterpret_cast<void*>(~std::uintptr_t(0) - 15); }, {"leave the address space"});

  made<TestType> x({4, 3});
  for (const auto& [code, bits, lanes, named] :
       {std::tuple(2, 32, 2, "another type"), {2, 32, 0, "another type"}, {2, 8, 1, "another type"}, {0, 32, 1, "int32"},
        {0, 8, 1, "int8"}, {1, 64, 1, "uint64"}, {4, 32, 1, "another type"}, {5, 64, 1, "complex64"}, {6, 8, 1, "bool"},
        {3, 64, 1, "another type"}, {10, 8, 1, "another type"}}) {
    x.type(code, bits, lanes);
    refuses<craft::type_error>([&] { dlpack::view<float>(x.t, "y"); },
                               {"y holds ", named, ", expected float64, float32, float16 or bfloat16"});
  }
  x.type(2, 32);
  for (const int device : {0, 4, 7, 8, 10, 11, 12, 14, -1}) {
    x.device(device);
    const std::string lies = "dlpack: the tensor lies in memory of device type " + std::to_string(device);
    refuses<craft::device_error>([&] { dlpack::array(x.t); }, {lies});
    refuses<craft::device_error>([&] { dlpack::view<float>(x.t, "y"); }, {"y lies in", "expected a CPU (1), CUDA (2)"});
  }
}

// Each field takes sensible and absurd values. Whatever is accepted must be the elements that the fields describe, at
// addresses inside the memory: absurd ones would not be.
TEST_CASE("random fields are refused or describe memory that is there", "[dlpack]") {
  std::mt19937 random(7);
  const auto one_of = [&](const auto&... values) {
    const std::int64_t all[] = {std::int64_t(values)...};
    return all[random() % (sizeof...(values))];
  };
  const std::int64_t huge = std::int64_t(1) << 62, most = std::numeric_limits<std::int64_t>::max();
  made<DLTensor> x({0, 0, 0}, {0, 0, 0});
  const auto* begin = x.bytes.data();
  int accepted = 0, refused = 0;
  for (int round = 0; round < 200000; ++round) {
    x.t.data = random() % 16 ? x.bytes.data() + one_of(0, 0, 0, 0, 1, 2, 4, 8, 64) : nullptr;
    x.t.ndim = int(one_of(1, 2, 2, 2, 2, 2, 2, 0, 3, -1));
    x.device(int(one_of(1, 1, 1, 1, 1, 2, 3, 13, 0, 10, 99)));
    const int code = int(one_of(2, 2, 2, 2, 4, 0, 1, 6, 255)), bits = int(one_of(16, 32, 32, 64, 64, 8, 1, 0));
    x.type(code, bits, int(one_of(1, 1, 1, 1, 1, 1, 0, 2)));
    for (auto& size : x.shape) size = one_of(1, 2, 3, 4, 5, 5, 0, -1, huge, most);
    for (auto& stride : x.strides) stride = one_of(1, 1, 1, 2, 3, 4, 5, 6, 7, 0, -1, -5, huge, most, -most);
    x.t.strides = random() % 3 ? x.strides.data() : nullptr;
    x.t.byte_offset = std::uint64_t(one_of(0, 0, 0, 0, 2, 4, 8, 24, 1, -8, most));
    craft::runtime::matrix m;
    try {
      m = viewed(x.t);
      ++accepted;
    } catch (const craft::error&) {
      ++refused;
      continue;
    }
    const index_t bytes = x.t.dtype.bits / 8;
    bool right = x.t.dtype.lanes == 1 && x.t.ndim == 2 && m.rows == x.shape[0] && m.cols == x.shape[1];
    for (index_t i = 0; right && i < m.rows && m.cols > 0; ++i)
      for (index_t j = 0; right && j < m.cols; ++j) {
        const index_t by_row = x.t.strides ? x.strides[0] : m.cols, by_column = x.t.strides ? x.strides[1] : 1;
        const auto* first = static_cast<const unsigned char*>(x.t.data) + x.t.byte_offset;
        const auto* described = first + (i * by_row + j * by_column) * bytes;
        const auto* viewed = static_cast<const unsigned char*>(m.data) + (i * m.stride + j) * bytes;
        right = viewed == described && viewed >= begin && viewed + bytes <= begin + x.bytes.size() &&
                reinterpret_cast<std::uintptr_t>(viewed) % std::uintptr_t(bytes) == 0;
      }
    if (!right) {
      CAPTURE(round, m.rows, m.cols, m.stride, x.shape, x.strides, x.t.byte_offset);
      FAIL("a view of other memory than the tensor describes");
    }
  }
  CHECK(accepted > 2000);
  CHECK(refused > 2000);
}
