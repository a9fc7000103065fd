// DLPack tensors that are handed over, views as such tensors, and a verb through tensors.
#include <memory>

#include "craft/adapters/runtime.hpp"
#include "craft/mmd.hpp"
#include "dlpack_tensors.hpp"

using namespace dlpack_test;

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
