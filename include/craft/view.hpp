// Views: how the caller's memory is described. Nothing here copies anything, and only labels and weights that are moved in are
// kept.
//
// One layout serves everybody: samples are rows, `stride` elements apart, and the d numbers of a
// sample lie side by side. A column-major matrix with one sample per column is the same memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "craft/error.hpp"

namespace craft {

/// Sizes and indices: 64 bits everywhere.
using index_t = std::int64_t;

namespace engine {
/// v[i] of a std::vector, for indices that have a sign, as all of ours.
template <class Vector>
decltype(auto) entry(Vector& v, index_t i) {
  return v[static_cast<std::size_t>(i)];
}
}  // namespace engine

/// Where a view's numbers lie. Part of the view's type, so that the wrong memory does not compile.
enum class memory { host, device };

namespace detail {

template <class S>
constexpr bool is_storage =
    std::is_same_v<S, float> || std::is_same_v<S, double> ||
    (std::is_class_v<S> && sizeof(S) == 2 && std::is_constructible_v<float, S>);

constexpr shape_text shape(index_t rows, index_t cols) { return {rows, cols}; }

}  // namespace detail

/// The type in which numbers stored as S are computed: double for double, float for float, and float for
/// the two-byte types (Eigen::half, Eigen::bfloat16).
template <class S>
using compute_t = std::conditional_t<std::is_same_v<std::remove_const_t<S>, double>, double, float>;

/// A non-owning matrix: element (i, j) is data()[i * stride() + j]. Rows are samples.
/// S: float, double or a two-byte float type; const S for what is only read.
/// Throws shape_error for negative sizes, a stride below the columns, or a null pointer with elements.
template <class S, memory M = memory::host>
class matrix_view {
  static_assert(detail::is_storage<std::remove_const_t<S>>,
                "craft: a matrix view holds float, double, or a two-byte float type such as Eigen::bfloat16");

 public:
  using scalar_type = std::remove_const_t<S>;  ///< the type of the numbers, without const
  static constexpr memory space = M;           ///< where they lie

  matrix_view() = default;  ///< empty
  /// rows x cols numbers at `data`, rows `stride` elements apart (default: cols).
  matrix_view(S* data, index_t rows, index_t cols) : matrix_view(data, rows, cols, cols) {}
  matrix_view(S* data, index_t rows, index_t cols, index_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {
    require<shape_error>(rows >= 0 && cols >= 0, "view: sizes must not be negative, got ", rows, " x ", cols);
    require<shape_error>(rows < 2 || stride >= cols, "view: the row stride must be at least the ", cols,
                         " columns, got ", stride);
    require<shape_error>(data != nullptr || rows == 0 || cols == 0, "view: null pointer for a ", rows, " x ", cols,
                         " matrix");
  }
  /// Mutable converts to const, never back.
  template <class Q, class = std::enable_if_t<std::is_same_v<const Q, S> && !std::is_const_v<Q>>>
  matrix_view(const matrix_view<Q, M>& other)
      : data_(other.data()), rows_(other.rows()), cols_(other.cols()), stride_(other.stride()) {}

  S* data() const { return data_; }                        ///< the first number of row 0
  index_t rows() const { return rows_; }                   ///< samples
  index_t cols() const { return cols_; }                   ///< numbers of a sample
  index_t stride() const { return stride_; }               ///< elements from one row to the next
  bool empty() const { return rows_ == 0 || cols_ == 0; }  ///< whether there is no number
  S* row(index_t i) const { return data_ + i * stride_; }  ///< the first number of row i; i is not checked

 private:
  S* data_ = nullptr;
  index_t rows_ = 0, cols_ = 0, stride_ = 0;
};

namespace detail {

// What Eigen's dense objects with direct access look like from outside; this header needs no Eigen.
constexpr unsigned direct_access = 0x40;  // Eigen::DirectAccessBit: numbers that lie in memory, as those of an expression do not
template <class M, class = void>
struct is_dense : std::false_type {};
template <class M>
struct is_dense<M, std::void_t<decltype(std::declval<M&>().data()), decltype(std::declval<M&>().rows()),
                               decltype(std::declval<M&>().cols()), decltype(std::declval<M&>().outerStride()),
                               decltype(std::declval<M&>().innerStride()), decltype(M::IsRowMajor),
                               std::enable_if_t<(unsigned(M::Flags) & direct_access) != 0>>> : std::true_type {};

template <class M>
constexpr bool dense = is_dense<std::remove_const_t<M>>::value;

template <class M>
using element = std::remove_pointer_t<decltype(std::declval<M&>().data())>;

// A matrix that owns its numbers must be an lvalue; maps and blocks may be temporaries.
template <class M, class D = std::decay_t<M>>
constexpr bool outlives = std::is_lvalue_reference_v<M> || !std::is_same_v<D, typename D::PlainObject>;

template <class M>
auto view_dense(M& m, bool samples_are_rows) {
  const index_t rows = samples_are_rows ? m.rows() : m.cols();
  const index_t cols = samples_are_rows ? m.cols() : m.rows();
  // A column vector of n numbers is n samples of one number; its samples lie innerStride apart.
  const bool vector = samples_are_rows && !bool(M::IsRowMajor);
  require<shape_error>(vector || cols < 2 || m.innerStride() == 1,
                       "view: the numbers of a sample must lie side by side, got an inner stride of ", m.innerStride());
  return matrix_view<element<M>>(m.data(), rows, cols, vector ? m.innerStride() : m.outerStride());
}

template <class T>
struct is_view : std::false_type {};
template <class S, memory M>
struct is_view<matrix_view<S, M>> : std::true_type {};

// What people give in the place of a matrix, for messages.
template <class T, class = void>
constexpr bool is_expression = false;
template <class T>
constexpr bool is_expression<T, std::void_t<decltype(std::declval<T&>().eval())>> = true;
template <class T, class = void>
constexpr bool is_nested = false;
template <class T>
constexpr bool is_nested<T, std::void_t<decltype(std::declval<T&>()[0][0])>> = !is_expression<T> && !std::is_pointer_v<T>;

}  // namespace detail

/// View of a row-major Eigen matrix, map or block (one sample per row), or of an Eigen vector (n x 1). Zero-copy.
template <class M, class D = std::remove_reference_t<M>, class = std::enable_if_t<detail::dense<D>>>
auto view(M&& m) {
  static_assert(detail::outlives<M>, "craft: a view of a temporary matrix would dangle");
  static_assert(bool(D::IsRowMajor) || int(D::ColsAtCompileTime) == 1,
                "craft: this matrix is column-major; if it holds one sample per column use craft::view_columns(X), "
                "otherwise store it with Eigen::RowMajor");
  return detail::view_dense(m, true);
}

/// View of a column-major Eigen matrix, map or block that holds one sample per column. Zero-copy.
template <class M, class D = std::remove_reference_t<M>, class = std::enable_if_t<detail::dense<D>>>
auto view_columns(M&& m) {
  static_assert(detail::outlives<M>, "craft: a view of a temporary matrix would dangle");
  static_assert(!bool(D::IsRowMajor), "craft: view_columns wants a column-major matrix (one sample per column)");
  return detail::view_dense(m, false);
}

/// View of raw memory: rows x cols, rows `stride` elements apart (default: cols).
template <class S>
matrix_view<S> view(S* data, index_t rows, index_t cols, index_t stride) {
  return {data, rows, cols, stride};
}
template <class S>
matrix_view<S> view(S* data, index_t rows, index_t cols) {
  return {data, rows, cols};
}

/// A view is its own view, so that verbs take views and Eigen matrices alike.
template <class S, memory M>
matrix_view<S, M> view(const matrix_view<S, M>& v) {
  return v;
}

/// What is no matrix in memory: does not compile, and says what to give.
template <class X, class D = std::remove_cv_t<std::remove_reference_t<X>>,
          std::enable_if_t<!detail::dense<std::remove_reference_t<X>> && !detail::is_view<D>::value, int> = 0>
auto view(X&&) {
  static_assert(!detail::is_expression<D>, "craft: an expression of Eigen is not in memory yet: store it in a row-major matrix first");
  static_assert(!detail::is_nested<D>, "craft: a vector of vectors is not one piece of memory: copy it into a row-major Eigen matrix");
  static_assert(detail::is_expression<D> || detail::is_nested<D>,
                "craft: expected a row-major Eigen matrix, map or block, or a craft::matrix_view");
  return matrix_view<double>();
}

/// The view type of an argument.
template <class X>
using view_of = decltype(view(std::declval<const X&>()));
/// The scalar of an argument as it is stored.
template <class X>
using storage_of = typename view_of<X>::scalar_type;
/// The scalar that an argument is computed in.
template <class X>
using compute_of = compute_t<storage_of<X>>;

// ---------------------------------------------------------------------------------------------------------
// Numbers that are read

/// A scalar that is read when the verb runs: a number, or a pointer to one.
class scalar {
 public:
  /// A number.
  scalar(double value = 0) : value_(value) {}  // NOLINT: 0.5 is a scalar
  /// A number at an address: read when the verb runs, so it must stay until then.
  template <class T, class = std::enable_if_t<std::is_same_v<T, float> || std::is_same_v<T, double>>>
  explicit scalar(const T* at, memory where = memory::host)
      : at_(at), is_double_(std::is_same_v<T, double>), where_(where) {}

  /// Where the number lies; a number given by value can be read anywhere.
  bool readable_in(memory m) const { return at_ == nullptr || where_ == m; }
  const void* pointer() const { return at_; }      ///< the address; null for a number given by value
  bool is_double() const { return is_double_; }    ///< whether a double lies there, else a float
  /// The number, for those given by value or in host memory.
  double value() const {
    if (at_ == nullptr) return value_;
    return is_double_ ? *static_cast<const double*>(at_) : double(*static_cast<const float*>(at_));
  }

 private:
  double value_ = 0;
  const void* at_ = nullptr;
  bool is_double_ = true;
  memory where_ = memory::host;
};

namespace detail {

template <class C>
using bare = std::remove_cv_t<std::remove_reference_t<C>>;
template <class C>
using element_read = std::remove_const_t<std::remove_pointer_t<decltype(std::declval<const bare<C>&>().data())>>;

/// Whether a container holds its elements itself: all but Eigen's maps, blocks and references.
template <class C>
constexpr bool holds_its_elements() {
  if constexpr (dense<C>)
    return std::is_same_v<C, typename C::PlainObject>;
  else
    return true;
}

}  // namespace detail

/// What `numbers` and `labels` share: elements of type Wide or Narrow that are read, `stride` elements apart.
template <class Wide, class Narrow>
class strided_list {
 public:
  using wide_type = Wide;      ///< what an element is read as
  using narrow_type = Narrow;  ///< the other type that elements may have
  bool empty() const { return size_ == 0; }   ///< whether they were not given
  index_t size() const { return size_; }      ///< how many
  index_t stride() const { return stride_; }  ///< elements from one to the next
  memory where() const { return where_; }     ///< where they lie
  const void* data() const { return data_; }  ///< the first of them
  bool wide() const { return wide_; }         ///< whether they are of the wider type (double, 64-bit integers)
  /// Element i, for those in host memory; i is not checked.
  Wide operator[](index_t i) const {
    return wide_ ? static_cast<const Wide*>(data_)[i * stride_] : Wide(static_cast<const Narrow*>(data_)[i * stride_]);
  }

 protected:
  strided_list() = default;
  template <class T>
  strided_list(const T* data, index_t size, memory where, index_t stride)
      : data_(data), size_(size), stride_(stride), wide_(sizeof(T) == sizeof(Wide)), where_(where) {
    require<shape_error>(size >= 0, "view: sizes must not be negative, got ", size, " labels or weights");
    require<shape_error>(data != nullptr || size == 0, "view: null pointer for ", size, " labels or weights");
  }
  template <class C>
  static strided_list of(C&& c) {
    using D = detail::bare<C>;
    if constexpr (std::is_lvalue_reference_v<C> || !detail::holds_its_elements<D>()) {
      return look_at(c);
    } else {
      auto owner = std::make_shared<const D>(std::forward<C>(c));
      strided_list l = look_at(*owner);
      l.owner_ = std::move(owner);
      return l;
    }
  }

 private:
  template <class D>
  static strided_list look_at(const D& c) {
    index_t stride = 1;
    if constexpr (detail::dense<D>) {
      static_assert(int(D::RowsAtCompileTime) == 1 || int(D::ColsAtCompileTime) == 1,
                    "craft: labels and weights are a vector, not a matrix: write m.col(0) or m.row(0)");
      stride = c.innerStride();
    }
    return {c.data(), index_t(c.size()), memory::host, stride};
  }

  const void* data_ = nullptr;
  index_t size_ = 0, stride_ = 1;
  bool wide_ = true;
  memory where_ = memory::host;
  std::shared_ptr<const void> owner_{};  // what was moved in
};

/// A vector of numbers that is read: weights. From float or double memory; empty means "not given".
class numbers : public strided_list<double, float> {
 public:
  numbers() = default;  ///< not given
  /// `size` numbers, `stride` numbers apart. Not copied: they must stay as long as this object is used. Throws shape_error
  /// for a negative size, or a null pointer with numbers.
  template <class T, class = std::enable_if_t<std::is_same_v<T, float> || std::is_same_v<T, double>>>
  numbers(const T* data, index_t size, memory where = memory::host, index_t stride = 1)
      : strided_list(data, size, where, stride) {}
  /// From std::vector, std::array or anything contiguous with data() and size(); from an Eigen vector, such as a row or a
  /// column of a matrix, whatever its stride. A variable is looked at, not copied, and must stay as long as this object is
  /// used; so must the memory of an Eigen map, block or Ref. What is moved in, or given as a temporary, is kept by this object
  /// and its copies: `options.x_weights = std::vector<double>{1, 2}` is safe.
  template <class C, class T = detail::element_read<C>, class = std::enable_if_t<std::is_floating_point_v<T>>>
  numbers(C&& c) : strided_list(of(std::forward<C>(c))) {  // NOLINT: a vector is a list of numbers
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "craft: weights are float or double");
  }

  bool is_double() const { return wide(); }  ///< whether they are doubles, else floats
};

/// Class labels: 32- or 64-bit integers, one per row; empty means "not given".
class labels : public strided_list<std::int64_t, std::int32_t> {
 public:
  labels() = default;  ///< not given
  /// `size` labels, `stride` labels apart. Not copied: they must stay as long as this object is used. Throws shape_error for
  /// a negative size, or a null pointer with labels.
  template <class T, class = std::enable_if_t<std::is_integral_v<T> && std::is_signed_v<T> &&
                                              (sizeof(T) == 4 || sizeof(T) == 8)>>
  labels(const T* data, index_t size, memory where = memory::host, index_t stride = 1)
      : strided_list(data, size, where, stride) {}
  /// From std::vector, std::array, an Eigen vector of integers: looked at or kept as `numbers` does.
  template <class C, class T = detail::element_read<C>, class = std::enable_if_t<std::is_integral_v<T>>>
  labels(C&& c) : strided_list(of(std::forward<C>(c))) {  // NOLINT: a vector is a list of labels
    static_assert(std::is_signed_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "craft: labels are 32- or 64-bit signed integers; copy them into std::vector<std::int64_t>");
  }
};

// ---------------------------------------------------------------------------------------------------------
// Numbers that are written

/// What to do with a gradient: it is not wanted, it replaces what is there, or it is added to it.
enum class write { none, overwrite, accumulate };

template <class S, memory M = memory::host>
struct output;
namespace detail {
template <class T>
constexpr bool is_output = false;
template <class S, memory M>
constexpr bool is_output<output<S, M>> = true;

/// A view of what is written.
template <class D>
auto writable(D&& d) {
  auto v = view(std::forward<D>(d));
  constexpr bool is_const = std::is_const_v<std::remove_pointer_t<decltype(v.data())>>;
  static_assert(!is_const, "craft: this is const, and would be written into");
  if constexpr (is_const)
    return matrix_view<typename decltype(v)::scalar_type, decltype(v)::space>();
  else
    return v;
}
}  // namespace detail

/// A place for a gradient and what to do there; default: not wanted.
template <class S, memory M>
struct output {
  matrix_view<S, M> to{};                              ///< the place
  write mode = write::none;                            ///< what to do there
  bool wanted() const { return mode != write::none; }  ///< whether to compute it at all

  output() = default;                                                            ///< not wanted
  output(const matrix_view<S, M>& place, write what) : to(place), mode(what) {}  ///< a place, and what to do there
  /// What does not say what to do: does not compile, and says what to write.
  template <class D, class = std::enable_if_t<!std::is_same_v<std::decay_t<D>, output>>>
  output(D&&) {  // NOLINT: for `{dx}` and `g.x = dx`
    constexpr bool has_mode = detail::is_output<std::decay_t<D>>;
    static_assert(has_mode, "craft: say what to do with this gradient: craft::overwrite(dx), or craft::accumulate(dx) to add it");
    static_assert(!has_mode, "craft: this gradient is stored in another type or memory than what it belongs to");
  }
};

namespace detail {
// G: D as it was given, an lvalue or a temporary.
template <class G, class D>
auto destination(D& d) {
  if constexpr (is_view<std::remove_const_t<D>>::value || dense<D>) {
    if constexpr (dense<D>) static_assert(outlives<G>, "craft: a gradient in a temporary would be lost");
    auto v = writable(d);
    return output<typename decltype(v)::scalar_type, decltype(v)::space>(v, write::none);
  } else {
    static_assert(is_storage<D>, "craft: a gradient goes into a view, a row-major Eigen matrix, or a scalar");
    static_assert(std::is_lvalue_reference_v<G>, "craft: a gradient in a temporary would be lost");
    return output<D>(matrix_view<D>(&d, 1, 1), write::none);
  }
}
}  // namespace detail

/// The gradient replaces the contents of d: a view, a row-major Eigen matrix or vector, or a scalar variable.
template <class D>
auto overwrite(D&& d) {
  auto o = detail::destination<D>(d);
  o.mode = write::overwrite;
  return o;
}

/// The gradient is added to the contents of d.
template <class D>
auto accumulate(D&& d) {
  auto o = detail::destination<D>(d);
  o.mode = write::accumulate;
  return o;
}

/// Where a value goes: a scalar variable on the host, or one number of device memory.
template <class T, memory M = memory::host>
class scalar_out {
 public:
  /// A variable on the host.
  scalar_out(T& to) : to_(&to) {  // NOLINT: a variable is a place for a value
    static_assert(M == memory::host, "craft: this context writes its value to device memory");
  }
  /// A variable of another type: does not compile, and says which one is wanted.
  template <class V, class = std::enable_if_t<std::is_arithmetic_v<V> && !std::is_same_v<V, T>>>
  scalar_out(V&) {  // NOLINT: for the value of a verb
    static_assert(std::is_same_v<V, T>, "craft: the value has the computing type of the inputs: double for double, else float");
  }
  /// An address in memory M. Throws shape_error if it is null.
  explicit scalar_out(T* to) : to_(to) {
    require<shape_error>(to != nullptr, "value: the place for the value is null");
  }
  T* get() const { return to_; }  ///< its address

 private:
  T* to_ = nullptr;
};

namespace detail {
template <class T, class Context>
struct value_place {
  using type = scalar_out<T, Context::space>;
};
}  // namespace detail

/// The place for a value of what is computed from X, in the memory of the context.
template <class X, class Context>
using value_out = typename detail::value_place<compute_of<X>, Context>::type;

}  // namespace craft
