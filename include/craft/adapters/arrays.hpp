// Arrays of hosts that learn element types when the program runs: how one is described, and what is asked of it before a verb
// sees it. Each of these checks and messages stands here and nowhere else.
//
// What craft/adapters/runtime.hpp and craft/adapters/dlpack.hpp share; needs no library.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "craft/view.hpp"

namespace craft::runtime {

/// Element types. `other`: one that no verb reads.
enum class dtype { float64, float32, float16, bfloat16, int64, int32, other };

namespace detail {
constexpr const char* dtype_names[] = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "another type"};
}

/// "float64", "float32", ...
inline const char* name(dtype type) { return detail::dtype_names[int(type)]; }
/// The way back from name. Throws type_error for another name.
inline dtype dtype_named(std::string_view name) {
  for (int q = 0; q < int(dtype::other); ++q)
    if (name == detail::dtype_names[q]) return dtype(q);
  fail<type_error>("expected float64, float32, float16, bfloat16, int64 or int32, got ", name);
}
/// "host" or "device".
inline const char* name(memory where) { return where == memory::host ? "host" : "device"; }
/// The type that numbers stored as `type` are computed in.
constexpr dtype computing(dtype type) { return type == dtype::float64 ? dtype::float64 : dtype::float32; }
/// Of one number.
constexpr int bytes_of(dtype type) {
  return type == dtype::float64 || type == dtype::int64 ? 8 : type == dtype::float32 || type == dtype::int32 ? 4 : 2;
}

/// What an argument of a verb is, and what a host may give for it.
enum class kind {
  matrix,    ///< an array of two dimensions of the four floating-point types, the same for all matrices of a call
  computed,  ///< a matrix of the computing type
  labels,    ///< an array of int64 or int32, one per row
  targets,   ///< labels, or a matrix of the computing type
  numbers,   ///< an array of float64 or float32, one per row; may lie in host memory for any device, as labels may
  scalar,    ///< a number, or an array of one that is read when the verb runs
  list,      ///< numbers, or an array of them in host memory
  number,    ///< a number
  whole,     ///< an integer
  wholes,    ///< integers
  flag,      ///< true or false
  choice     ///< one of several names
};

/// A host's array of any number of dimensions.
struct array {
  const void* data = nullptr;             ///< the first number
  dtype type = dtype::float32;            ///< of the elements
  memory where = memory::host;            ///< where they lie
  int dimensions = 0;                     ///< how many
  const std::int64_t* sizes = nullptr;    ///< of each
  const std::int64_t* strides = nullptr;  ///< in elements; null: compact, the last dimension fastest
  const char* type_name = nullptr;        ///< of the elements, for messages; null: name(type)
};

/// A host's matrix: rows are samples, `stride` elements apart, the numbers of a row side by side. Also a list (cols = 1) and one
/// number.
struct matrix {
  const void* data = nullptr;              ///< the first number
  index_t rows = 0, cols = 0, stride = 0;  ///< samples, numbers of each, elements between rows; a stride of 0: side by side
  dtype type = dtype::float32;             ///< of the elements
  memory where = memory::host;             ///< where they lie
  int dimensions = 2;                      ///< of the host's array: 1 for a list, 0 for a number
};

/// Where a result or a gradient goes, and what to do there.
struct place {
  void* data = nullptr;                    ///< the first number
  index_t rows = 0, cols = 0, stride = 0;  ///< rows, numbers of each, elements between rows; a stride of 0: side by side
  dtype type = dtype::float32;             ///< of the elements
  memory where = memory::host;             ///< where they lie
  write mode = write::overwrite;           ///< or accumulate, for a gradient; none: it is not wanted
};

namespace detail {

/// The sizes of a host's array, as in "(2, 3, 4)".
inline std::string sizes_text(const std::int64_t* sizes, int count) {
  std::string text = "(";
  for (int k = 0; k < count; ++k) text += (k > 0 ? ", " : "") + std::to_string(sizes[k]);
  return text + (count == 1 ? ",)" : ")");
}
inline std::string sizes_text(const matrix& m) {
  const std::int64_t sizes[] = {m.rows, m.cols};
  return sizes_text(sizes, m.dimensions);
}

constexpr bool is_array(kind k) { return k <= kind::list; }
/// Whether an array of so many dimensions is, or should be, one with a sample per row.
constexpr bool is_matrix(kind k, int dimensions) {
  return k == kind::matrix || k == kind::computed || (k == kind::targets && dimensions != 1);
}
constexpr bool is_real(dtype t) { return t <= dtype::bfloat16; }
constexpr bool is_wide_real(dtype t) { return t == dtype::float64 || t == dtype::float32; }
constexpr bool is_integer(dtype t) { return t == dtype::int64 || t == dtype::int32; }

/// What an argument should have been, for messages.
inline const char* expected(kind k) {
  switch (k) {
    case kind::matrix:
    case kind::computed: return "an array of two dimensions, one sample per row";
    case kind::labels: return "integer labels, one per row";
    case kind::targets: return "integer labels, one per row, or shares, one row of them each";
    case kind::numbers: return "numbers, one per row";
    case kind::scalar: return "a number or an array of one";
    case kind::list: return "numbers";
    case kind::number: return "a number";
    case kind::whole: return "an integer";
    case kind::wholes: return "integers";
    case kind::flag: return "true or false";
    case kind::choice: break;
  }
  return "a name";
}

/// What is wrong with the element type; empty: nothing.
inline std::string type_fault(const std::string& name, kind k, const array& a) {
  const auto holds = [&] { return name + " holds " + (a.type_name ? a.type_name : runtime::name(a.type)); };
  constexpr const char* convert = ": convert it (astype, to)";
  if (k == kind::targets) {
    const bool labels = a.dimensions != 2 && is_integer(a.type), shares = a.dimensions != 1 && is_real(a.type);
    if (labels || shares) return "";
    return holds() + " in " + std::to_string(a.dimensions) + (a.dimensions == 1 ? " dimension" : " dimensions") +
           ": labels are int64 or int32 in one, shares of the classes floating-point numbers in two";
  }
  if (is_matrix(k, a.dimensions))
    return is_real(a.type) ? "" : holds() + ", expected float64, float32, float16 or bfloat16" + convert;
  if (k == kind::labels) return is_integer(a.type) ? "" : holds() + ", expected labels of int64 or int32" + convert;
  return is_wide_real(a.type) ? "" : holds() + ", expected float64 or float32" + convert;
}

inline std::string alignment_fault(const std::string& name, const void* data, dtype type) {
  const auto past = reinterpret_cast<std::uintptr_t>(data) % std::uintptr_t(bytes_of(type));
  if (past == 0) return "";
  return craft::detail::message({name, " is misaligned: numbers of ", bytes_of(type), " bytes at an address that is ", past,
                                 " past a multiple of that; copy it first"});
}

/// What is wrong with sizes and strides; empty: nothing, and m describes the same numbers as a. Of memory only the address is
/// looked at; null is right here, for hosts that trace know nothing but sizes.
inline std::string layout_fault(const std::string& name, kind k, const array& a, matrix& m) {
  const int count = a.dimensions;
  m = {a.data, 0, 0, 0, a.type, a.where, count};
  if (count < 0 || (count > 0 && a.sizes == nullptr))
    return name + " has " + std::to_string(count) + " dimensions, but no sizes of so many";
  const auto sizes = [&] { return sizes_text(a.sizes, count); };  // put together only where they are told
  const auto has = [&] {
    return name + " has " + std::to_string(count) + (count == 1 ? " dimension " : " dimensions ") + sizes();
  };
  const bool two = is_matrix(k, count);
  if (k == kind::targets && count != 1 && count != 2)
    return has() + ", expected one for labels, or two for shares of the classes";
  if (two && count != 2) {
    const std::string text = has() + ", expected a matrix with one sample per row";
    if (count < 1) return text;
    if (count == 1) return text + ": reshape it to (-1, 1), or to (1, -1) if it is one sample";
    return text + ": reshape it to (" + std::to_string(a.sizes[0]) + ", -1)";
  }
  for (int i = 0; i < count; ++i)
    if (a.sizes[i] < 0) return name + ": sizes must not be negative, got " + sizes();
  if (k == kind::scalar) {
    for (int i = 0; i < count; ++i)
      if (a.sizes[i] != 1) return name + " must be one number, got " + sizes();
    m.rows = m.cols = m.stride = 1;
  } else {
    if (!two && count != 1 && !(k == kind::list && count == 0))
      return has() + ", expected one, with a number per row: reshape it to (-1)";
    m.rows = count > 0 ? a.sizes[0] : 1;
    m.cols = two ? a.sizes[1] : 1;
    m.stride = a.strides && count > 0 && m.rows > 1 && m.cols > 0 ? a.strides[0] : m.cols;
  }
  if (m.rows == 0 || m.cols == 0) return "";
  constexpr const char* copy = ": copy it first (numpy.ascontiguousarray, or contiguous() of PyTorch)";
  if (two && a.strides && m.cols > 1 && a.strides[1] != 1)
    return name + ": the numbers of a row must lie side by side, got a stride of " + std::to_string(a.strides[1]) + copy;
  if (two && m.stride < m.cols && m.rows > 1)
    return name + ": rows of " + std::to_string(m.cols) + " must not overlap or run backwards, got a stride of " +
           std::to_string(m.stride) + (m.stride == 0 ? " (all rows are one, as broadcasting makes)" : "") + copy;
  const index_t bytes = bytes_of(a.type), limit = (std::numeric_limits<index_t>::max)() / bytes;
  const index_t apart = m.rows == 1 ? limit : (limit - m.cols) / (m.rows - 1);
  if (m.cols > limit || m.stride > apart || m.stride < -apart)
    return name + ": " + std::to_string(m.rows) + " rows at a stride of " + std::to_string(m.stride) + " do not fit in memory";
  if (a.data == nullptr) return "";
  // Of a list that runs backwards the last number comes first.
  const auto begin = reinterpret_cast<std::uintptr_t>(a.data);
  const index_t last = (m.rows - 1) * m.stride;
  const auto before = std::uintptr_t(last < 0 ? -last : 0) * std::uintptr_t(bytes);
  const auto behind = std::uintptr_t((last > 0 ? last : 0) + m.cols) * std::uintptr_t(bytes);
  if (before > begin || behind > (std::numeric_limits<std::uintptr_t>::max)() - begin)
    return name + ": " + std::to_string(m.rows) + " rows at a stride of " + std::to_string(m.stride) + " leave the address space";
  return alignment_fault(name, a.data, a.type);
}

/// What is wrong with an array that is about to be read or written; empty: nothing.
template <class Described>
std::string null_fault(const std::string& name, const Described& m) {
  if (m.data != nullptr || m.rows == 0 || m.cols == 0) return "";
  return craft::detail::message({name, " has null data for ", craft::detail::shape(m.rows, m.cols)});
}

}  // namespace detail

/// A host's array of any type as an argument of that kind; `name` begins the messages. Throws shape_error.
inline matrix laid_out(const array& a, kind k, const std::string& name) {
  matrix m;
  std::string fault = detail::layout_fault(name, k, a, m);
  if (fault.empty()) fault = detail::null_fault(name, m);
  require<shape_error>(fault.empty(), fault);
  return m;
}
/// The same, of a type that such an argument has. Throws type_error too.
inline matrix checked(const array& a, kind k, const std::string& name) {
  const std::string fault = detail::type_fault(name, k, a);
  require<type_error>(fault.empty(), fault);
  return laid_out(a, k, name);
}

/// Labels or numbers, as views, of a list that has been checked.
template <class List>
List list_of(const matrix& m) {
  if (bytes_of(m.type) == 8) return List(static_cast<const typename List::wide_type*>(m.data), m.rows, m.where, m.stride);
  return List(static_cast<const typename List::narrow_type*>(m.data), m.rows, m.where, m.stride);
}
/// One number, of an array that has been checked: read when the verb runs.
inline scalar scalar_of(const matrix& m) {
  if (m.type == dtype::float64) return scalar(static_cast<const double*>(m.data), m.where);
  return scalar(static_cast<const float*>(m.data), m.where);
}

}  // namespace craft::runtime
