// DLPack: tensors of any library that speaks it, as craft's views, and craft's views as such tensors.
//
//     void loss(const DLTensor* x, const DLTensor* y, DLTensor* dx) {
//       craft::mmd_gradients<float> d;
//       d.x = craft::overwrite(craft::dlpack::view<float>(*dx));
//       craft::mmd(ctx, craft::dlpack::view<const float>(*x), craft::dlpack::view<const float>(*y), kernel, {}, value, d);
//     }
//
// or, where verb and element type are known only when the program runs, craft::dlpack::array(*x) for craft/adapters/runtime.hpp.
//
// Tensor, Managed: the structs of whichever dlpack.h the program has, old or new (this header includes none, because copies of
// different age share one include guard), or the structs below, which have the same layout.
//
// Nothing is copied, and but for `owned` and `share` nothing is kept alive. No stream is touched: whoever hands over device
// memory has made it ready for the stream of the context. CPU and CUDAHost devices have host memory, CUDA and CUDAManaged ones
// device memory. What is asked of a tensor, and said of others, is in craft/adapters/arrays.hpp: type_error, device_error or
// shape_error, in which `what` is the argument's name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "craft/adapters/arrays.hpp"

namespace craft::dlpack {

// ---- the structs, for programs without dlpack.h

/// DLTensor.
struct tensor {
  void* data;  ///< the first number lies byte_offset behind it
  struct {
    std::int32_t device_type, device_id;
  } device;           ///< a device_type, and which one
  std::int32_t ndim;  ///< how many dimensions
  struct {
    std::uint8_t code, bits;
    std::uint16_t lanes;
  } dtype;                    ///< a type_code, and the size of a number
  std::int64_t* shape;        ///< ndim sizes
  std::int64_t* strides;      ///< ndim distances, in numbers; null: compact, the last dimension fastest
  std::uint64_t byte_offset;  ///< see data
};

/// DLManagedTensor: before 1.0.
struct managed_tensor {
  tensor dl_tensor;                       ///< what is handed over
  void* manager_ctx;                      ///< the owner's own
  void (*deleter)(managed_tensor* self);  ///< called once, by whom it was handed to; may be null
};

/// DLManagedTensorVersioned: 1.0 and later.
struct managed_tensor_versioned {
  struct {
    std::uint32_t major, minor;
  } version;                                        ///< of the layout
  void* manager_ctx;                                ///< the owner's own
  void (*deleter)(managed_tensor_versioned* self);  ///< called once, by whom it was handed to; may be null
  std::uint64_t flags;                              ///< read_only, and others that do not matter here
  tensor dl_tensor;                                 ///< what is handed over
};

/// Where a tensor lies: the codes that are understood here.
enum device_type : std::int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
/// What its numbers are.
enum type_code : std::uint8_t { integer = 0, floating = 2, bfloat = 4 };
constexpr std::uint64_t read_only = 1;      ///< a flag of versioned tensors
constexpr std::uint32_t major_version = 1;  ///< another major version has another layout

namespace detail {

struct element {
  int code, bits;
  const char* name;
};
/// In the order of runtime::dtype, and then those that only messages name.
constexpr element elements[] = {{floating, 64, "float64"}, {floating, 32, "float32"}, {floating, 16, "float16"},
                                {bfloat, 16, "bfloat16"},  {integer, 64, "int64"},    {integer, 32, "int32"},
                                {integer, 16, "int16"},    {integer, 8, "int8"},      {1, 64, "uint64"},
                                {1, 8, "uint8"},           {5, 64, "complex64"},      {6, 8, "bool"}};

/// The type that S stands for. Half and bfloat16 go by many names; they differ in whether 1 + 2^-8 is one of their numbers.
template <class S>
runtime::dtype type_of() {
  if (std::is_same_v<S, double>) return runtime::dtype::float64;
  if (std::is_same_v<S, float>) return runtime::dtype::float32;
  return float(S(1.00390625f)) == 1.0f ? runtime::dtype::bfloat16 : runtime::dtype::float16;
}

constexpr const char* tensor_itself = "dlpack: the tensor";  ///< the subject of messages about a tensor without a name

template <class Managed, class = void>
constexpr bool is_versioned = false;
template <class Managed>
constexpr bool is_versioned<Managed, std::void_t<decltype(std::declval<Managed&>().version.major)>> = true;

}  // namespace detail

// ---- tensors as arrays and views

/// A tensor of any type and shape, for runtime::call::give.
template <class Tensor>
runtime::array array(const Tensor& t, const char* what = detail::tensor_itself) {
  std::int32_t device = 0;  // as a number, which may be newer than the enumeration of the program's header
  std::memcpy(&device, &t.device.device_type, sizeof device);
  const bool on_host = device == cpu || device == cuda_host;
  require<device_error>(on_host || device == cuda || device == cuda_managed, what, " lies in memory of device type ", device,
                        ", expected a CPU (1), CUDA (2), CUDAHost (3) or CUDAManaged (13) device");
  runtime::array a{nullptr, runtime::dtype::other, on_host ? memory::host : memory::device, int(t.ndim), t.shape, t.strides};
  for (const detail::element& e : detail::elements) {
    if (t.dtype.lanes != 1 || int(t.dtype.code) != e.code || int(t.dtype.bits) != e.bits) continue;
    a.type = runtime::dtype(std::min<std::ptrdiff_t>(&e - detail::elements, std::ptrdiff_t(runtime::dtype::other)));
    a.type_name = e.name;
  }
  if (t.data == nullptr) return a;
  // No offset is as large as half of what a pointer difference can say, and nothing wraps around.
  const auto begin = reinterpret_cast<std::uintptr_t>(t.data);
  const std::uint64_t room = std::min<std::uint64_t>((std::numeric_limits<std::ptrdiff_t>::max)() / 2,
                                                     (std::numeric_limits<std::uintptr_t>::max)() - begin);
  require<shape_error>(t.byte_offset <= room, what, ": an offset of ", std::uint64_t(t.byte_offset),
                       " bytes leaves the address space");
  a.data = reinterpret_cast<const void*>(begin + std::uintptr_t(t.byte_offset));
  return a;
}

/// A tensor of two, one or no dimensions that is written, for runtime::call::result and gradient.
template <class Tensor>
runtime::place place(const Tensor& t, write mode = write::overwrite) {
  const int ndim = int(t.ndim);
  const runtime::kind k = ndim == 0 ? runtime::kind::scalar : ndim == 1 ? runtime::kind::numbers : runtime::kind::matrix;
  const runtime::matrix m = runtime::laid_out(array(t), k, detail::tensor_itself);
  return {const_cast<void*>(m.data), m.rows, m.cols, m.stride, m.type, m.where, mode};
}

/// A tensor of two dimensions as a view of S in memory M, for the verbs themselves: S as stored (float, double, Eigen::half,
/// __nv_bfloat16, ...), const S for what is read.
template <class S, memory M = memory::host, class Tensor>
matrix_view<S, M> view(const Tensor& t, const char* what = detail::tensor_itself) {
  const runtime::dtype type = detail::type_of<std::remove_const_t<S>>();
  const runtime::matrix m = runtime::checked(array(t, what), runtime::kind::matrix, what);
  using runtime::name;
  require<type_error>(m.type == type, what, " holds ", name(m.type), ", expected ", name(type), ": convert it (astype, to)");
  require<device_error>(m.where == M, what, " lies in ", name(m.where), " memory, expected ", name(M), " memory");
  return {static_cast<S*>(const_cast<void*>(m.data)), m.rows, m.cols, m.stride};
}

/// Labels: one dimension of int32 or int64, of any stride.
template <class Tensor>
craft::labels labels(const Tensor& t, const char* what = detail::tensor_itself) {
  return runtime::list_of<craft::labels>(runtime::checked(array(t, what), runtime::kind::labels, what));
}
/// Weights: one dimension of float64 or float32, of any stride.
template <class Tensor>
craft::numbers numbers(const Tensor& t, const char* what = detail::tensor_itself) {
  return runtime::list_of<craft::numbers>(runtime::checked(array(t, what), runtime::kind::numbers, what));
}
/// One number of float64 or float32, in any number of dimensions; it is read when the verb runs.
template <class Tensor>
craft::scalar scalar(const Tensor& t, const char* what = detail::tensor_itself) {
  return runtime::scalar_of(runtime::checked(array(t, what), runtime::kind::scalar, what));
}

// ---- managed tensors

/// A managed tensor, of either form, that was handed over: its deleter is called when this object ends, and once, on the thread
/// where that happens. For view, labels and the others it is *x.
template <class Managed>
class owned {
 public:
  static constexpr bool versioned = detail::is_versioned<Managed>;  ///< whether it has a version and flags

  /// Takes it over. Throws type_error for null, or another major version, which is deleted and not looked at.
  explicit owned(Managed* handed_over) : managed_(handed_over) {
    require<type_error>(managed_ != nullptr, "dlpack: null in place of a managed tensor");
    if constexpr (versioned) {
      const auto version = managed_->version;
      if (version.major == major_version) return;
      release();
      fail<type_error>("dlpack: expected major version ", major_version, ", got ", version.major, ".", version.minor);
    }
  }
  owned(owned&& other) noexcept : managed_(std::exchange(other.managed_, nullptr)) {}  ///< only one object owns a tensor
  ~owned() { release(); }

  const auto& operator*() const { return managed_->dl_tensor; }    ///< the tensor
  const auto* operator->() const { return &managed_->dl_tensor; }  ///< the tensor
  /// Whether its memory must not be written; what is not versioned cannot say so.
  bool read_only() const {
    if constexpr (versioned) return (managed_->flags & dlpack::read_only) != 0;
    return false;
  }

 private:
  void release() {
    if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  }
  Managed* managed_;
};

/// A managed tensor that is written. Throws option_error if it is read-only.
template <class Managed>
runtime::place place(const owned<Managed>& t, write mode = write::overwrite) {
  require<option_error>(!t.read_only(), "dlpack: an output is read-only");
  return place(*t, mode);
}

// ---- views as tensors

/// A view as the runtime describes matrices.
template <class S, memory M>
runtime::matrix matrix(const matrix_view<S, M>& v) {
  return {v.data(), v.rows(), v.cols(), v.stride(), detail::type_of<std::remove_const_t<S>>(), M};
}

/// What the shape and strides of a tensor point to.
struct extents {
  std::int64_t shape[2], strides[2];  ///< rows and columns; what lies between rows, and 1
};

/// Fills `t`, whose shape and strides then point into `sizes`: both must last as long as `t` is looked at. device_id: of device
/// memory. Throws type_error for dtype::other.
template <class Tensor>
void describe(const runtime::matrix& m, extents& sizes, Tensor& t, int device_id = 0) {
  require<type_error>(m.type != runtime::dtype::other, "dlpack: numbers of another type cannot be described");
  const detail::element& e = detail::elements[int(m.type)];
  sizes = {{m.rows, m.cols}, {m.stride != 0 ? m.stride : m.dimensions == 2 ? m.cols : 1, 1}};
  const bool on_host = m.where == memory::host;
  t.ndim = m.dimensions, t.data = const_cast<void*>(m.data);
  t.device = {static_cast<decltype(t.device.device_type)>(on_host ? cpu : cuda), on_host ? 0 : device_id};
  t.dtype = {static_cast<std::uint8_t>(e.code), static_cast<std::uint8_t>(e.bits), 1};
  t.shape = sizes.shape, t.strides = sizes.strides, t.byte_offset = 0;
}

/// A managed tensor of either form, to be handed to a consumer: it keeps `owner` until the consumer calls its deleter, from any
/// thread. can_write = false sets the flag of versioned tensors; the old form has none, hence option_error.
template <class Managed>
Managed* share(const runtime::matrix& m, std::shared_ptr<const void> owner, bool can_write, int device_id = 0) {
  struct box {
    Managed managed{};
    extents sizes{};
    std::shared_ptr<const void> owner;
  };
  constexpr bool versioned = owned<Managed>::versioned;
  require<option_error>(can_write || versioned, "dlpack: read-only memory can only be handed over as a versioned tensor");
  auto b = std::make_unique<box>();
  describe(m, b->sizes, b->managed.dl_tensor, device_id);
  b->owner = std::move(owner);
  if constexpr (versioned) b->managed.version = {major_version, 0}, b->managed.flags = can_write ? 0 : read_only;
  b->managed.deleter = [](Managed* self) { delete static_cast<box*>(self->manager_ctx); };
  b->managed.manager_ctx = b.get();
  return &b.release()->managed;
}

}  // namespace craft::dlpack
