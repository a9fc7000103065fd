// DLPack: tensors of any library that speaks it, as craft's views, and craft's views as such tensors.
//
//     void loss(const DLTensor* x, const DLTensor* y, DLTensor* dx) {
//       craft::mmd_gradients<float> d;
//       d.x = craft::overwrite(craft::dlpack::view<float>(*dx));
//       craft::mmd(ctx, craft::dlpack::view<const float>(*x), craft::dlpack::view<const float>(*y), kernel, {}, value, d);
//     }
//
// or, where the element type is known only when the program runs, craft::dlpack::matrix(*x) for
// craft/adapters/runtime.hpp.
//
// Tensor, Managed: the structs of whichever dlpack.h the program has, old or new (this header includes none, because
// copies of different age share one include guard), or the structs below, which have the same layout.
//
// Nothing is copied. A view or description looks at the tensor's memory and keeps nothing alive; `owned` keeps what a
// managed tensor holds until it is destroyed. No stream is touched: whoever hands over device memory has made it ready
// for the stream of the context.
//
// Rows are samples. A tensor of two dimensions is a matrix, one of one dimension is n x 1. The numbers of a row must
// lie side by side; rows may be any distance apart, forwards. Labels and weights may have any stride. Strides may be
// missing (compact rows), data may begin at an offset. Element types: float64, float32, float16, bfloat16. Memory: CPU
// and CUDAHost (host), CUDA and CUDAManaged (device). Throws type_error, device_error or shape_error for anything else; a
// misaligned address is a shape_error. `what` begins the message: the argument's name.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "craft/adapters/runtime.hpp"

namespace craft::dlpack {

// ---------------------------------------------------------------------------------------------------------
// The structs, for programs without dlpack.h

/// DLTensor.
struct tensor {
  void* data;  ///< the first number lies byte_offset behind it
  struct {
    std::int32_t device_type, device_id;
  } device;            ///< a device_type, and which one
  std::int32_t ndim;  ///< how many dimensions
  struct {
    std::uint8_t code, bits;
    std::uint16_t lanes;
  } dtype;                       ///< a type_code, and the size of a number
  std::int64_t* shape;           ///< ndim sizes
  std::int64_t* strides;         ///< ndim distances, in numbers; null: compact, the last dimension fastest
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
constexpr std::uint64_t read_only = 1;              ///< a flag of versioned tensors
constexpr std::uint32_t major_version = 1;          ///< another major version has another layout
constexpr std::uint32_t minor_version = 0;          ///< what is exported needs no newer one

namespace detail {

struct element {
  int code, bits;
};
constexpr element element_of(runtime::dtype type) {
  switch (type) {
    case runtime::dtype::float64: return {floating, 64};
    case runtime::dtype::float32: return {floating, 32};
    case runtime::dtype::float16: return {floating, 16};
    case runtime::dtype::bfloat16: break;
  }
  return {bfloat, 16};
}

/// The type that S stands for. Half and bfloat16 go by many names; they differ in whether 1 + 2^-8 is one of their
/// numbers.
template <class S>
runtime::dtype type_of() {
  if (std::is_same_v<S, double>) return runtime::dtype::float64;
  if (std::is_same_v<S, float>) return runtime::dtype::float32;
  return float(S(1.00390625f)) == 1.0f ? runtime::dtype::bfloat16 : runtime::dtype::float16;
}

constexpr const char* tensor_itself = "dlpack: the tensor";  ///< the subject of messages about a tensor without a name

/// The element type by name, as in "int64", or else by its code.
template <class Tensor>
std::string type_name(const Tensor& t) {
  const char* const names[] = {"int", "uint", "float", nullptr, "bfloat", "complex", "bool"};
  const int code = int(t.dtype.code), bits = int(t.dtype.bits), lanes = int(t.dtype.lanes);
  if (lanes == 1 && code == 6) return names[code];
  if (lanes == 1 && code < 7 && names[code] != nullptr) return names[code] + std::to_string(bits);
  return craft::detail::message({"type code ", code, " of ", bits, " bits in ", lanes, lanes == 1 ? " lane" : " lanes"});
}
template <class Tensor>
[[noreturn]] void wrong_type(const Tensor& t, const char* what, const char* expected) {
  fail<type_error>(what, " holds ", type_name(t), ", expected ", expected, ": convert it (astype, to)");
}
template <class Tensor>
bool is(const Tensor& t, element e) {
  return t.dtype.lanes == 1 && int(t.dtype.code) == e.code && int(t.dtype.bits) == e.bits;
}

/// The device type as a number: it may be newer than the enumeration of the program's header.
template <class Tensor>
std::int32_t device_of(const Tensor& t) {
  static_assert(sizeof(t.device.device_type) == sizeof(std::int32_t));
  std::int32_t type = 0;
  std::memcpy(&type, &t.device.device_type, sizeof type);
  return type;
}

template <class Tensor>
memory memory_of(const Tensor& t) {
  const std::int32_t type = device_of(t);
  if (type == cpu || type == cuda_host) return memory::host;
  require<device_error>(type == cuda || type == cuda_managed, "dlpack: expected memory of a CPU (1), CUDA (2), CUDAHost (3) "
                        "or CUDAManaged (13) device, got device type ", type);
  return memory::device;
}

struct layout {
  index_t rows = 1, cols = 1, stride = 1;
};

/// What a tensor is to be.
enum class form { number, list, matrix };

/// Sizes and strides: a matrix has rows of adjacent numbers, one behind the other; a list may have any stride.
template <class Tensor>
layout layout_of(const Tensor& t, form f, const char* what, index_t bytes) {
  const int least = f == form::number ? 0 : 1, most = f == form::list ? 1 : 2, ndim = int(t.ndim);
  require<shape_error>(ndim <= 0 || t.shape != nullptr, what, " has dimensions, but its shape is null");
  if (ndim < least || ndim > most)
    fail<shape_error>(f == form::matrix ? runtime::detail::no_matrix(what, t.shape, ndim)
                      : f == form::list ? runtime::detail::no_list(what, t.shape, ndim)
                                        : runtime::detail::wrong_dimensions(what, t.shape, ndim, "one number"));
  layout l;
  if (ndim == 0) return l;
  l.rows = t.shape[0];
  l.cols = ndim == 2 ? index_t(t.shape[1]) : 1;
  l.stride = l.cols;
  if (l.rows < 0 || l.cols < 0) fail<shape_error>(what, ": sizes must not be negative, got ",
                                                runtime::detail::sizes_text(t.shape, ndim));
  if (l.rows == 0 || l.cols == 0) return l;
  if (t.strides != nullptr) {
    constexpr const char* copy = ": copy it first (numpy.ascontiguousarray, or contiguous() of PyTorch)";
    require<shape_error>(l.cols == 1 || t.strides[ndim - 1] == 1, what, ": the numbers of a row must lie side by side, got a "
                         "stride of ", index_t(t.strides[ndim - 1]), copy);
    if (l.rows > 1) l.stride = t.strides[0];
    const char* const why = l.stride == 0 ? " (all rows are one, as broadcasting makes)" : "";
    require<shape_error>(f == form::list || l.stride >= l.cols, what, ": rows of ", l.cols, " must not overlap or run "
                         "backwards, got a stride of ", l.stride, why, copy);
  }
  const index_t limit = std::numeric_limits<index_t>::max() / bytes;
  const index_t apart = l.rows == 1 ? limit : (limit - l.cols) / (l.rows - 1);
  require<shape_error>(l.cols <= limit && l.stride <= apart && l.stride >= -apart, what, ": ", l.rows, " rows at a stride of ",
                       l.stride, " do not fit in memory");
  return l;
}

/// Where element (0, 0) is; null for a tensor without elements.
template <class Tensor>
void* address(const Tensor& t, const layout& l, const char* what, index_t bytes) {
  if (l.rows == 0 || l.cols == 0) return nullptr;
  require<shape_error>(t.data != nullptr, what, " has null data for ", l.rows, " x ", l.cols);
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(t.data);
  // Nothing is larger than a pointer difference can say, and nothing wraps around.
  const std::uint64_t room = std::min<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max(),
                                                     std::numeric_limits<std::uintptr_t>::max() - begin);
  const index_t last = (l.rows - 1) * l.stride;  // of the rows; before the first for those that run backwards
  const std::uint64_t before = std::uint64_t(std::max<index_t>(-last, 0)) * std::uint64_t(bytes);
  const std::uint64_t extent = std::uint64_t(std::max<index_t>(last, 0) + l.cols) * std::uint64_t(bytes);
  require<shape_error>(t.byte_offset <= room && extent <= room - t.byte_offset && before <= begin + t.byte_offset, what,
                       ": an offset of ", std::uint64_t(t.byte_offset), " bytes leaves the address space");
  const std::uintptr_t at = begin + std::uintptr_t(t.byte_offset);
  require<shape_error>(at % std::uintptr_t(bytes) == 0, what, " is misaligned: numbers of ", bytes, " bytes at an address that "
                       "is ", at % std::uintptr_t(bytes), " past a multiple of that; copy it first");
  return reinterpret_cast<void*>(at);
}

template <class Tensor>
runtime::dtype real_type(const Tensor& t, const char* what) {
  for (const auto type : {runtime::dtype::float64, runtime::dtype::float32, runtime::dtype::float16, runtime::dtype::bfloat16})
    if (is(t, element_of(type))) return type;
  wrong_type(t, what, "float64, float32, float16 or bfloat16");
}

template <class Managed, class = void>
struct is_versioned : std::false_type {};
template <class Managed>
struct is_versioned<Managed, std::void_t<decltype(std::declval<Managed&>().version.major)>> : std::true_type {};

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------
// Tensors as views

/// A tensor that is read, for the functions of craft/adapters/runtime.hpp.
template <class Tensor>
runtime::matrix matrix(const Tensor& t, const char* what = detail::tensor_itself) {
  const runtime::dtype type = detail::real_type(t, what);
  const memory where = detail::memory_of(t);
  const index_t bytes = detail::element_of(type).bits / 8;
  const detail::layout l = detail::layout_of(t, detail::form::matrix, what, bytes);
  return {detail::address(t, l, what, bytes), l.rows, l.cols, l.stride, type, where};
}

/// A tensor that is written.
template <class Tensor>
runtime::place place(const Tensor& t, write mode = write::overwrite) {
  const runtime::matrix m = matrix(t);
  return {const_cast<void*>(m.data), m.rows, m.cols, m.stride, m.type, m.where, mode};
}

/// A tensor as a view of S in memory M, for the verbs themselves: S as stored (float, double, Eigen::half,
/// __nv_bfloat16, ...), const S for what is read.
template <class S, memory M = memory::host, class Tensor>
matrix_view<S, M> view(const Tensor& t) {
  const runtime::dtype type = detail::type_of<std::remove_const_t<S>>();
  if (!detail::is(t, detail::element_of(type)))
    detail::wrong_type(t, detail::tensor_itself,
                       type == runtime::dtype::float64   ? "float64"
                       : type == runtime::dtype::float32 ? "float32"
                       : type == runtime::dtype::float16 ? "float16"
                                                         : "bfloat16");
  const runtime::matrix m = matrix(t);
  require<device_error>(m.where == M, "dlpack: expected ", M == memory::host ? "host" : "device", " memory, got device type ",
                        detail::device_of(t));
  return {static_cast<S*>(const_cast<void*>(m.data)), m.rows, m.cols, m.stride};
}

/// Labels: one dimension of int32 or int64.
template <class Tensor>
craft::labels labels(const Tensor& t, const char* what = detail::tensor_itself) {
  const bool wide = detail::is(t, {integer, 64});
  if (!wide && !detail::is(t, {integer, 32})) detail::wrong_type(t, what, "labels of int32 or int64");
  const memory where = detail::memory_of(t);
  const index_t bytes = wide ? 8 : 4;
  const detail::layout l = detail::layout_of(t, detail::form::list, what, bytes);
  const void* data = detail::address(t, l, what, bytes);
  return wide ? craft::labels(static_cast<const std::int64_t*>(data), l.rows, where, l.stride)
              : craft::labels(static_cast<const std::int32_t*>(data), l.rows, where, l.stride);
}

/// Weights: one dimension of float64 or float32.
template <class Tensor>
craft::numbers numbers(const Tensor& t, const char* what = detail::tensor_itself) {
  const bool wide = detail::is(t, {floating, 64});
  if (!wide && !detail::is(t, {floating, 32})) detail::wrong_type(t, what, "numbers of float64 or float32");
  const memory where = detail::memory_of(t);
  const index_t bytes = wide ? 8 : 4;
  const detail::layout l = detail::layout_of(t, detail::form::list, what, bytes);
  const void* data = detail::address(t, l, what, bytes);
  return wide ? craft::numbers(static_cast<const double*>(data), l.rows, where, l.stride)
              : craft::numbers(static_cast<const float*>(data), l.rows, where, l.stride);
}

/// One number of float64 or float32, in at most two dimensions; it is read when the verb runs.
template <class Tensor>
craft::scalar scalar(const Tensor& t, const char* what = detail::tensor_itself) {
  const bool wide = detail::is(t, {floating, 64});
  if (!wide && !detail::is(t, {floating, 32})) detail::wrong_type(t, what, "a number of float64 or float32");
  const memory where = detail::memory_of(t);
  const index_t bytes = wide ? 8 : 4;
  const detail::layout l = detail::layout_of(t, detail::form::number, what, bytes);
  require<shape_error>(l.rows == 1 && l.cols == 1, what, ": expected one number, got ", l.rows, " x ", l.cols);
  const void* data = detail::address(t, l, what, bytes);
  return wide ? craft::scalar(static_cast<const double*>(data), where) : craft::scalar(static_cast<const float*>(data), where);
}

// ---------------------------------------------------------------------------------------------------------
// Managed tensors

/// A managed tensor, of either form, that was handed over: its deleter is called when this object ends, and once.
///
///     craft::dlpack::owned<DLManagedTensor> x(handed_over);
///     craft::dlpack::matrix(*x);
///
/// The deleter runs on the thread where that happens. A tensor of another major version is deleted and not looked at:
/// type_error.
template <class Managed>
class owned {
 public:
  static constexpr bool versioned = detail::is_versioned<Managed>::value;  ///< whether it has a version and flags

  /// Takes it over. Throws type_error for null or another major version.
  explicit owned(Managed* handed_over) : managed_(handed_over) {
    require<type_error>(managed_ != nullptr, "dlpack: null in place of a managed tensor");
    if constexpr (versioned) {
      const auto version = managed_->version;
      if (version.major != major_version) {
        release();
        fail<type_error>("dlpack: expected major version ", major_version, ", got ", version.major, ".", version.minor);
      }
    }
  }
  /// Only one object owns a tensor.
  owned(owned&& other) noexcept : managed_(std::exchange(other.managed_, nullptr)) {}
  /// The same: the two swap.
  owned& operator=(owned&& other) noexcept {
    std::swap(managed_, other.managed_);
    return *this;
  }
  ~owned() { release(); }

  /// The tensor.
  const auto& operator*() const { return managed_->dl_tensor; }
  /// The tensor.
  const auto* operator->() const { return &managed_->dl_tensor; }
  /// Whether its memory must not be written; what is not versioned cannot say so.
  bool read_only() const {
    if constexpr (versioned) return (managed_->flags & dlpack::read_only) != 0;
    return false;
  }

 private:
  void release() {
    if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
    managed_ = nullptr;
  }

  Managed* managed_;
};

/// A managed tensor that is written. Throws option_error if it is read-only.
template <class Managed>
runtime::place place(const owned<Managed>& t, write mode = write::overwrite) {
  require<option_error>(!t.read_only(), "dlpack: an output is read-only");
  return place(*t, mode);
}

// ---------------------------------------------------------------------------------------------------------
// Views as tensors

/// What the shape and strides of a tensor point to.
struct extents {
  std::int64_t shape[2];    ///< rows, columns
  std::int64_t strides[2];  ///< between rows, and 1
};

/// Fills `t`, whose shape and strides then point into `sizes`: both must last as long as `t` is looked at.
/// device_id: of device memory.
template <class Tensor>
void describe(const runtime::matrix& m, extents& sizes, Tensor& t, int device_id = 0) {
  const detail::element e = detail::element_of(m.type);
  sizes = {{m.rows, m.cols}, {m.stride, 1}};
  t.data = const_cast<void*>(m.data);
  t.device.device_type = static_cast<decltype(t.device.device_type)>(m.where == memory::host ? cpu : cuda);
  t.device.device_id = m.where == memory::host ? 0 : device_id;
  t.ndim = 2;
  t.dtype.code = static_cast<std::uint8_t>(e.code);
  t.dtype.bits = static_cast<std::uint8_t>(e.bits);
  t.dtype.lanes = 1;
  t.shape = sizes.shape;
  t.strides = sizes.strides;
  t.byte_offset = 0;
}
template <class S, memory M, class Tensor>
void describe(const matrix_view<S, M>& v, extents& sizes, Tensor& t, int device_id = 0) {
  const runtime::dtype type = detail::type_of<std::remove_const_t<S>>();
  describe(runtime::matrix{v.data(), v.rows(), v.cols(), v.stride(), type, M}, sizes, t, device_id);
}

/// A managed tensor of either form over the memory of `t` (any number of dimensions), to be handed to a consumer: it
/// keeps `owner` until the consumer calls its deleter, from any thread. The description is copied; strides are always
/// there. can_write = false sets the flag of versioned tensors; the old form has none, hence option_error.
template <class Managed, class Tensor>
Managed* share(const Tensor& t, std::shared_ptr<const void> owner, bool can_write) {
  struct box {
    Managed managed{};
    std::vector<std::int64_t> sizes;
    std::shared_ptr<const void> owner;
  };
  constexpr bool versioned = detail::is_versioned<Managed>::value;
  require<option_error>(can_write || versioned, "dlpack: read-only memory can only be handed over as a versioned tensor");
  const int ndim = int(t.ndim);
  require<shape_error>(ndim == 0 || (ndim > 0 && t.shape != nullptr), "dlpack: ", ndim, " dimensions, or a shape that is null");
  auto b = std::make_unique<box>();
  b->sizes.resize(2 * std::size_t(ndim));
  std::int64_t *shape = b->sizes.data(), *strides = shape + ndim;
  for (int k = ndim - 1; k >= 0; --k) {
    shape[k] = t.shape[k];
    const std::uint64_t compact = k == ndim - 1 ? 1 : std::uint64_t(strides[k + 1]) * std::uint64_t(shape[k + 1]);
    strides[k] = t.strides != nullptr ? std::int64_t(t.strides[k]) : std::int64_t(compact);
  }
  b->owner = std::move(owner);
  auto& to = b->managed.dl_tensor;
  to.data = t.data;
  const std::int32_t device = detail::device_of(t);
  std::memcpy(&to.device.device_type, &device, sizeof device);
  to.device.device_id = t.device.device_id;
  to.ndim = t.ndim;
  to.dtype.code = t.dtype.code;
  to.dtype.bits = t.dtype.bits;
  to.dtype.lanes = t.dtype.lanes;
  to.shape = shape;
  to.strides = strides;
  to.byte_offset = t.byte_offset;
  if constexpr (versioned) {
    b->managed.version.major = major_version;
    b->managed.version.minor = minor_version;
    b->managed.flags = can_write ? 0 : read_only;
  }
  b->managed.deleter = [](Managed* self) { delete static_cast<box*>(self->manager_ctx); };
  b->managed.manager_ctx = b.get();
  return &b.release()->managed;
}

}  // namespace craft::dlpack
