// The tensors that the tests of DLPack are about: of the distribution's dlpack.h, of the adapter's own structs, and of the
// versioned form of 1.x, which that header has not got yet.
#pragma once

#include "craft/adapters/dlpack.hpp"

#include <dlpack/dlpack.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../../catch.hpp"
#include "../../rejects.hpp"

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

namespace dlpack_test {

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

inline void check_matrix(const craft::runtime::matrix& m, const void* data, index_t rows, index_t cols, index_t stride,
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

}  // namespace dlpack_test
