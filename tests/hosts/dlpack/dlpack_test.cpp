// DLPack tensors as views and views as tensors: with the distribution's dlpack.h, with the adapter's own structs, and
// with the versioned form of 1.x, which that header has not got yet.
#include "craft/adapters/dlpack.hpp"

#include <dlpack/dlpack.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../../catch.hpp"
#include "../../rejects.hpp"
#include "craft/adapters/runtime.hpp"
#include "craft/mmd.hpp"

namespace dlpack = craft::dlpack;
using craft::index_t;
using craft::memory;
using craft::runtime::dtype;

// dlpack.h 1.x, as its documentation lays it out.
namespace version1 {
struct DLPackVersion {
  std::uint32_t major;
  std::uint32_t minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  std::uint64_t flags;
  DLTensor dl_tensor;
};
}  // namespace version1

namespace {

template <class A, class B>
constexpr bool same_tensor() {
  return sizeof(A) == sizeof(B) && offsetof(A, data) == offsetof(B, data) && offsetof(A, device) == offsetof(B, device) &&
         offsetof(A, ndim) == offsetof(B, ndim) && offsetof(A, dtype) == offsetof(B, dtype) &&
         offsetof(A, shape) == offsetof(B, shape) && offsetof(A, strides) == offsetof(B, strides) &&
         offsetof(A, byte_offset) == offsetof(B, byte_offset) && sizeof(A::device) == sizeof(B::device) &&
         sizeof(A::dtype) == sizeof(B::dtype);
}
static_assert(same_tensor<DLTensor, dlpack::tensor>());
static_assert(sizeof(DLManagedTensor) == sizeof(dlpack::managed_tensor) &&
              offsetof(DLManagedTensor, manager_ctx) == offsetof(dlpack::managed_tensor, manager_ctx) &&
              offsetof(DLManagedTensor, deleter) == offsetof(dlpack::managed_tensor, deleter));
using versioned = version1::DLManagedTensorVersioned;
static_assert(sizeof(versioned) == sizeof(dlpack::managed_tensor_versioned) &&
              offsetof(versioned, manager_ctx) == offsetof(dlpack::managed_tensor_versioned, manager_ctx) &&
              offsetof(versioned, deleter) == offsetof(dlpack::managed_tensor_versioned, deleter) &&
              offsetof(versioned, flags) == offsetof(dlpack::managed_tensor_versioned, flags) &&
              offsetof(versioned, dl_tensor) == offsetof(dlpack::managed_tensor_versioned, dl_tensor));
static_assert(dlpack::cpu == int(kDLCPU) && dlpack::cuda == int(kDLCUDA) && dlpack::cuda_host == int(kDLCUDAHost) &&
              dlpack::cuda_managed == int(kDLCUDAManaged));
static_assert(dlpack::integer == int(kDLInt) && dlpack::floating == int(kDLFloat) && dlpack::bfloat == int(kDLBfloat));

using tensors = std::tuple<DLTensor, dlpack::tensor>;
using versioned_tensors = std::tuple<versioned, dlpack::managed_tensor_versioned>;
using managed_tensors =
    std::tuple<DLManagedTensor, dlpack::managed_tensor, versioned, dlpack::managed_tensor_versioned>;

/// A tensor over 64-byte aligned memory, with its own sizes; without strides unless given.
template <class Tensor>
struct made {
  alignas(64) std::array<unsigned char, 4096> bytes{};
  std::vector<std::int64_t> shape, strides;
  Tensor t{};

  explicit made(std::vector<std::int64_t> shape_, std::vector<std::int64_t> strides_ = {})
      : shape(std::move(shape_)), strides(std::move(strides_)) {
    t.data = bytes.data();
    device(1);
    t.ndim = int(shape.size());
    type(2, 32);
    t.shape = shape.data();
    t.strides = strides.empty() ? nullptr : strides.data();
  }
  made(const made&) = delete;
  void device(std::int32_t type) {  // not through the header's enumeration, which knows no newer ones
    t.device.device_id = 0;
    std::memcpy(&t.device.device_type, &type, sizeof type);
  }
  void type(int code, int bits, int lanes = 1) {
    t.dtype.code = std::uint8_t(code);
    t.dtype.bits = std::uint8_t(bits);
    t.dtype.lanes = std::uint16_t(lanes);
  }
};

void check_matrix(const craft::runtime::matrix& m, const void* data, index_t rows, index_t cols, index_t stride,
                  dtype type = dtype::float32, memory where = memory::host) {
  CHECK(m.data == data);
  CHECK(m.rows == rows);
  CHECK(m.cols == cols);
  CHECK(m.stride == stride);
  CHECK(m.type == type);
  CHECK(m.where == where);
}

/// The tensor as an argument of two dimensions.
template <class Tensor>
craft::runtime::matrix viewed(const Tensor& t) {
  return craft::runtime::checked(dlpack::array(t), craft::runtime::kind::matrix, "dlpack: the tensor");
}

template <class Error, class F>
void refuses(const F& call, const std::vector<std::string>& parts) {
  craft_test::rejects<Error>(craft_test::watched(), call, parts);
}

}  // namespace

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

namespace {

/// A managed tensor of floats whose deleter counts its calls.
template <class Managed>
struct counted {
  made<std::decay_t<decltype(Managed::dl_tensor)>> x{std::vector<std::int64_t>{4, 3}};
  Managed managed{};
  int deleted = 0;

  counted() {
    managed.dl_tensor = x.t;
    managed.manager_ctx = this;
    managed.deleter = [](Managed* self) { ++static_cast<counted*>(self->manager_ctx)->deleted; };
    if constexpr (dlpack::owned<Managed>::versioned) managed.version.major = 1;
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("a managed tensor is deleted once", "[dlpack]", managed_tensors) {
  using owned = dlpack::owned<TestType>;
  counted<TestType> one, other;
  {
    owned x(&one.managed);
    CHECK(dlpack::array(*x).data == one.x.bytes.data());
    CHECK(x->ndim == 2);
    CHECK_FALSE(x.read_only());
    CHECK(dlpack::place(x).data == one.x.bytes.data());
    CHECK(one.deleted == 0);
    const owned moved(std::move(x));
    CHECK(moved->ndim == 2);
    const owned second(&other.managed);
    CHECK(dlpack::array(*second).data == other.x.bytes.data());
  }
  CHECK(one.deleted == 1);
  CHECK(other.deleted == 1);

  one.managed.deleter = nullptr;  // allowed: nothing to give back
  { const owned x(&one.managed); }
  CHECK(one.deleted == 1);
  refuses<craft::type_error>([] { owned x(nullptr); }, {"null in place of a managed tensor"});
}

TEMPLATE_LIST_TEST_CASE("versioned tensors say their version and whether they may be written", "[dlpack]",
                        versioned_tensors) {
  using owned = dlpack::owned<TestType>;
  counted<TestType> x;
  x.managed.version.minor = 99;  // a newer minor version only adds
  x.managed.flags = 1;
  {
    const owned read(&x.managed);
    CHECK(read.read_only());
    CHECK(dlpack::view<const float>(*read).rows() == 4);
    refuses<craft::option_error>([&] { dlpack::place(read); }, {"read-only"});
  }
  CHECK(x.deleted == 1);
  x.managed.flags = 2;  // a copy: may be written
  CHECK(dlpack::place(owned(&x.managed)).rows == 4);
  CHECK(x.deleted == 2);
  // Another layout: deleted, and nothing else of it looked at.
  x.managed.version = {2, 0};
  x.managed.dl_tensor.shape = reinterpret_cast<std::int64_t*>(8);
  refuses<craft::type_error>([&] { owned y(&x.managed); }, {"expected major version 1, got 2.0"});
  CHECK(x.deleted == 3);
}

TEMPLATE_LIST_TEST_CASE("views as tensors", "[dlpack]", tensors) {
  Eigen::Matrix<double, 4, 6, Eigen::RowMajor> x;
  x.setRandom();
  const craft::matrix_view<double> v(x.data() + 2, 4, 3, 6);
  dlpack::extents sizes;
  TestType t;
  dlpack::describe(dlpack::matrix(v), sizes, t);
  CHECK(t.data == x.data() + 2);
  CHECK(int(t.device.device_type) == 1);
  CHECK(t.ndim == 2);
  CHECK(int(t.dtype.code) == 2);
  CHECK(int(t.dtype.bits) == 64);
  CHECK(int(t.dtype.lanes) == 1);
  CHECK(t.shape[0] == 4);
  CHECK(t.shape[1] == 3);
  CHECK(t.strides[0] == 6);
  CHECK(t.strides[1] == 1);
  CHECK(t.byte_offset == 0);
  check_matrix(viewed(t), x.data() + 2, 4, 3, 6, dtype::float64);

  float number = 0;
  dlpack::describe(dlpack::matrix(craft::matrix_view<const float, memory::device>(&number, 1, 1)), sizes, t, 3);
  CHECK(int(t.device.device_type) == 2);
  CHECK(t.device.device_id == 3);
  for (const auto type : {dtype::float64, dtype::float32, dtype::float16, dtype::bfloat16}) {
    const craft::runtime::matrix m{x.data(), 4, 3, 6, type, memory::host};
    dlpack::describe(m, sizes, t);
    check_matrix(viewed(t), m.data, 4, 3, 6, type);
  }
  // A list and a number; without a stride numbers lie side by side.
  dlpack::describe({x.data(), 5, 1, 2, dtype::int64, memory::host, 1}, sizes, t);
  CHECK((t.ndim == 1 && t.shape[0] == 5 && t.strides[0] == 2));
  CHECK(dlpack::labels(t).stride() == 2);
  dlpack::describe({x.data(), 5, 0, 0, dtype::int32, memory::host, 1}, sizes, t);
  CHECK(dlpack::labels(t).stride() == 1);
  CHECK_FALSE(dlpack::labels(t).wide());
  dlpack::describe({x.data(), 4, 3}, sizes, t);
  CHECK(dlpack::view<float>(t).stride() == 3);
  dlpack::describe({x.data(), 1, 1, 1, dtype::float64, memory::host, 0}, sizes, t);
  CHECK(t.ndim == 0);
  CHECK(dlpack::scalar(t).pointer() == x.data());
  refuses<craft::type_error>([&] { dlpack::describe({x.data(), 1, 1, 1, dtype::other}, sizes, t); }, {"another type"});
  Eigen::Matrix<Eigen::half, 1, 2> half;
  CHECK(dlpack::matrix(craft::view(half.data(), 1, 2)).type == dtype::float16);
  Eigen::Matrix<Eigen::bfloat16, 1, 2> brain;
  CHECK(dlpack::matrix(craft::view(brain.data(), 1, 2)).type == dtype::bfloat16);
}

TEMPLATE_LIST_TEST_CASE("memory that is handed over is kept until the deleter is called", "[dlpack]", managed_tensors) {
  constexpr bool has_version = dlpack::owned<TestType>::versioned;
  const auto numbers = std::make_shared<std::vector<float>>(24, 1.5f);
  const std::weak_ptr<void> alive = numbers;
  TestType* handed = nullptr;
  const craft::runtime::matrix padded{numbers->data(), 4, 5, 6};
  handed = dlpack::share<TestType>(padded, numbers, true);
  CHECK(alive.use_count() == 2);
  const auto& t = handed->dl_tensor;
  CHECK(t.data == numbers->data());
  REQUIRE(t.ndim == 2);
  CHECK((t.shape[0] == 4 && t.shape[1] == 5));
  REQUIRE(t.strides != nullptr);
  CHECK((t.strides[0] == 6 && t.strides[1] == 1));
  if constexpr (has_version) {
    CHECK(handed->version.major == 1);
    CHECK(handed->version.minor == 0);
    CHECK(handed->flags == 0);
  }
  handed->deleter(handed);
  CHECK(alive.use_count() == 1);

  {
    const craft::runtime::matrix single{numbers->data(), 1, 1, 1, dtype::float32, memory::device, 0};
    const dlpack::owned<TestType> a(dlpack::share<TestType>(single, nullptr, true, 7));
    CHECK(a->ndim == 0);
    CHECK(a->device.device_id == 7);
    const dlpack::owned<TestType> b(dlpack::share<TestType>(padded, numbers, true));
    CHECK(dlpack::view<float>(*b).stride() == 6);
    CHECK(alive.use_count() == 2);
  }
  CHECK(alive.use_count() == 1);
  if constexpr (has_version) {
    const dlpack::owned<TestType> kept(dlpack::share<TestType>(padded, numbers, false));
    CHECK(kept.read_only());
  } else {
    refuses<craft::option_error>([&] { dlpack::share<TestType>(padded, numbers, false); }, {"read-only"});
  }
  craft::runtime::matrix wrong = padded;
  wrong.type = dtype::other;
  refuses<craft::type_error>([&] { dlpack::share<TestType>(wrong, numbers, true); }, {"another type"});
  CHECK(alive.use_count() == 1);
}

TEST_CASE("a verb through tensors is the verb itself", "[dlpack]") {
  using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const rows x = rows::Random(7, 5), y = rows::Random(6, 5);
  rows expected(7, 5);
  float expected_value = 0, value = 0;
  const craft::cpu ctx(1);
  craft::mmd_gradients<float> d;
  d.x = craft::overwrite(expected);
  craft::mmd(ctx, x, y, craft::gaussian<>(1.0), craft::mmd_options{}, expected_value, d);

  // x in padded rows behind an offset, its gradient in the same manner.
  made<DLTensor> dx({7, 5}, {9, 1}), xs({7, 5}, {8, 1}), ys({6, 5});
  xs.t.byte_offset = 12;
  dx.t.byte_offset = 4;
  const auto number = [](made<DLTensor>& m, index_t i, index_t k) {
    const index_t stride = m.t.strides ? m.strides[0] : m.shape[1];
    return reinterpret_cast<float*>(m.bytes.data() + m.t.byte_offset) + i * stride + k;
  };
  for (index_t i = 0; i < 7; ++i)
    for (index_t k = 0; k < 5; ++k) *number(xs, i, k) = x(i, k);
  for (index_t i = 0; i < 6; ++i)
    for (index_t k = 0; k < 5; ++k) *number(ys, i, k) = y(i, k);
  d.x = craft::overwrite(dlpack::view<float>(dx.t));
  craft::mmd(ctx, dlpack::view<const float>(xs.t), dlpack::view<const float>(ys.t), craft::gaussian<>(1.0),
             craft::mmd_options{}, value, d);
  CHECK(value == expected_value);
  bool same = true;
  for (index_t i = 0; i < 7; ++i)
    for (index_t k = 0; k < 5; ++k) same = same && *number(dx, i, k) == expected(i, k);
  CHECK(same);
  CHECK(*(number(dx, 0, 0) - 1) == 0);  // in front of the offset

  // And by its name.
  dx.bytes.fill(0);
  made<DLTensor> sigma({1}), result({});
  sigma.type(2, 64);
  const double one = 1;
  std::memcpy(sigma.bytes.data(), &one, sizeof one);
  craft::runtime::call call("mmd");
  call.give("x", dlpack::array(xs.t));
  call.give("y", dlpack::array(ys.t));
  call.give("bandwidths", dlpack::array(sigma.t));
  call.check();
  call.result("value", dlpack::place(result.t));
  call.gradient("x", dlpack::place(dx.t));
  call.run(craft::any_device(craft::cpu(1)));
  std::memcpy(&value, result.bytes.data(), sizeof value);
  CHECK(value == expected_value);
  for (index_t i = 0; i < 7; ++i)
    for (index_t k = 0; k < 5; ++k) same = same && *number(dx, i, k) == expected(i, k);
  CHECK(same);
  CHECK(*(number(dx, 0, 4) + 1) == 0);  // between the rows
}
