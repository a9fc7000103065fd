// The checks that every verb makes before it touches anything: shapes, memory, finite numbers, outputs that overlap.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "craft/context.hpp"
#include "craft/steps/sums.hpp"
#include "craft/view.hpp"

namespace craft::engine {

/// What must hold between a verb's arguments at compile time. Its type is deduced so that it is compiled where it is called, and what
/// it says comes first.
template <class Context, class X, class Y>
constexpr auto check_types() {
  static_assert(view_of<X>::space == Context::space && view_of<Y>::space == Context::space,
                "craft: this context cannot read a matrix in that memory (host or device)");
  static_assert(std::is_same_v<storage_of<X>, storage_of<Y>>,
                "craft: both matrices must hold the same scalar type");
  return true;
}

/// One verb's checks; throws on the first that fails. Inputs and outputs are remembered for the overlap check.
class checks {
 public:
  explicit checks(const char* verb) : verb_(verb) {}

  const char* verb() const { return verb_; }

  /// A non-empty input; if the engine's context asks for it, one of finite numbers only.
  template <class S, memory M, class Engine>
  void input(const char* name, const matrix_view<S, M>& x, Engine& engine) {
    if (engine.context().check_finite()) return finite_input(name, x, engine);
    readable_input(region_of(name, x, false));
  }
  /// A non-empty input of finite numbers, whatever the context asks for: where a number that is none would pass for a result
  /// (a chosen row, a centre, a p-value), and one more look costs little.
  template <class S, memory M, class Engine>
  void finite_input(const char* name, const matrix_view<S, M>& x, Engine& engine) {
    readable_input(region_of(name, x, false));
    const index_t at = first_not_finite(engine, matrix_view<const std::remove_const_t<S>, M>(x));
    require<data_error>(at < 0, verb_, ": ", name, " has a number that is not finite at row ", at / x.cols(), ", column ",
                        at % x.cols());
  }
  /// The rows of d numbers in x (n numbers in all), which lie in the engine's memory and are prepared (centred) as distances
  /// see them: T must hold their squared distances.
  template <class T, class Engine>
  void squarable(const char* name, const T* x, index_t n, index_t d, Engine& engine) const {
    double* most = engine.template take<double>(1);
    largest(engine, x, n / d, d, most);
    squarable<T>(name, *engine.on_host(most, 1), d);
  }
  /// The same, of the largest magnitude among them, which must be 0 or within square_limits. Not a number is refused as well:
  /// of finite input it means that the mean is beyond T.
  template <class T>
  [[gnu::noinline]] void squarable(const char* name, double largest, index_t d) const {
    const square_limits<T> limits(d);
    if (largest == 0 || (largest >= limits.least && largest <= limits.most)) return;
    const auto text = [](double x) {
      if (std::isnan(x)) return std::string("not a number");
      char digits[32];
      std::snprintf(digits, sizeof digits, "%.3g", x);
      return std::string(digits);
    };
    constexpr bool narrow = sizeof(T) < sizeof(double);
    fail<data_error>(verb_, ": ", name, ": the largest number (less its column's mean, where rows are centred) is ",
                     text(largest), "; squared distances are computed in ", narrow ? "float" : "double",
                     ", which wants it 0 or from ", text(limits.least), " to ", text(limits.most),
                     "; multiply the rows by a power of two", narrow ? ", or use double" : "");
  }
  /// Two inputs whose rows have the same length.
  template <class A, class B>
  void same_columns(const char* a_name, const A& a, const char* b_name, const B& b) const {
    if (a.cols() == b.cols()) return;
    fail<shape_error>(verb_, ": ", a_name, " is ", detail::shape(a.rows(), a.cols()), " and ", b_name, " is ",
                      detail::shape(b.rows(), b.cols()), "; their columns must agree");
  }
  /// A matrix of the given shape.
  template <class A>
  void shape(const char* name, const A& a, index_t rows, index_t cols) const {
    fitting(name, detail::shape(a.rows(), a.cols()), detail::shape(rows, cols));
  }
  /// An output that is written whole.
  template <class S, memory M>
  void destination(const char* name, const matrix_view<S, M>& to, index_t rows, index_t cols) {
    written(region_of(name, to, true), rows, cols);
  }
  /// A gradient: the given shape, if wanted.
  template <class S, memory M>
  void gradient(const char* name, const output<S, M>& out, index_t rows, index_t cols) {
    if (out.wanted()) destination(name, out.to, rows, cols);
  }
  /// A gradient of `count` numbers, as a row or a column.
  template <class S, memory M>
  void vector_gradient(const char* name, const output<S, M>& out, index_t count) {
    if (out.wanted()) written_vector(region_of(name, out.to, true), count);
  }
  /// A gradient by log_scale: one number, or two.
  template <class S, memory M>
  void scale_gradient(const output<S, M>& out) {
    vector_gradient("gradient of log_scale", out, out.to.rows() * out.to.cols() == 2 ? 2 : 1);
  }
  /// The place of the value.
  template <class T, memory M>
  void value(const scalar_out<T, M>& to) {
    remember({"value", reinterpret_cast<std::intptr_t>(to.get()), 1, index_t(sizeof(T)), index_t(sizeof(T)), true,
              index_t(sizeof(T))});
  }
  /// Labels: one per row of the input called `of`, each in [0, classes) or equal to `ignore`. Those that the host cannot read
  /// are looked at if the engine's context asks for it.
  template <class Engine>
  void labels_of(const char* name, const labels& y, const char* of, index_t classes, index_t ignore, Engine& engine) const {
    label_count(name, y, of, engine);
    const labels on_host = seen(engine, y);
    if (!on_host.empty()) each_label_of(name, on_host, classes, ignore);
  }
  /// Labels in host memory.
  void each_label_of(const char* name, const labels& y, index_t classes, index_t ignore) const {
    const index_t rows = y.size();
    for (index_t i = 0; i < rows; ++i)
      require<label_error>((y[i] >= 0 && y[i] < classes) || y[i] == ignore, verb_, ": ", name, "[", i, "] is ", y[i],
                           ", expected 0 to ", classes - 1);
  }
  template <class Engine>
  void label_count(const char* name, const labels& y, const char* of, const Engine& engine) const {
    one_per_row(name, y.size(), of);
    reachable(name, y, engine);
  }
  /// Weights: none, or one per row of the input called `of`, finite, not negative, and not all zero. One rule for all verbs: rows
  /// that a label leaves out are another matter.
  template <class Engine>
  void weights(const char* name, const numbers& given, const char* of, Engine& engine) const {
    if (given.empty()) return;
    one_per_row(name, given.size(), of);
    reachable(name, given, engine);
    each_weight(name, seen(engine, given));
  }
  /// Weights in host memory.
  [[gnu::noinline]] void each_weight(const char* name, const numbers& w) const {
    if (w.empty()) return;
    double sum = 0;
    for (index_t i = 0; i < w.size(); ++i) {
      require<option_error>(std::isfinite(w[i]) && w[i] >= 0, verb_, ": ", name, "[", i,
                            "] must be finite and not negative, got ", w[i]);
      sum += w[i];
    }
    require<option_error>(sum > 0, verb_, ": ", name, " must not all be zero");
    constexpr double least = (std::numeric_limits<double>::min)();
    require<option_error>(sum >= least && std::isfinite(sum), verb_, ": ", name, " sum to ", sum, ", expected ", least, " to ",
                          (std::numeric_limits<double>::max)(), ": divide them by the largest");
  }
  /// Whether weights (that have been checked) are more than one row's, and not by next to nothing, as far as the host can tell.
  template <class Engine>
  bool shared_weights(const numbers& given, Engine& engine) const {
    return shared(seen(engine, given));
  }
  [[gnu::noinline]] static bool shared(const numbers& w) {
    if (w.empty()) return true;
    double sum = 0;
    for (index_t i = 0; i < w.size(); ++i) sum += w[i];
    weight_sums shares;
    for (index_t i = 0; i < w.size(); ++i) shares.add(w[i] / sum, 0);
    return shares.pairs >= 1e-30;  // beyond that a float cannot hold the weights beside their factor
  }
  [[gnu::noinline]] void readable(const char* name, const scalar& s, memory m) const {
    require<device_error>(s.readable_in(m), verb_, ": ", name, " lies in memory this context cannot read");
    const bool seen = s.readable_in(memory::host);
    require<option_error>(!seen || std::isfinite(s.value()), verb_, ": ", name, " must be finite, got ", seen ? s.value() : 0.0);
  }
  void in_unit_interval(const char* name, double x) const {
    require<option_error>(x >= 0 && x <= 1, verb_, ": ", name, " must lie in [0, 1], got ", x);
  }
  /// No output shares an element with another output or with an input.
  [[gnu::noinline]] void no_overlap() const {
    for (int a = 0; a < count_; ++a)
      for (int b = a + 1; b < count_; ++b)
        if ((regions_[a].written || regions_[b].written) && overlap(regions_[a], regions_[b]))
          fail<alias_error>(verb_, ": ", regions_[a].name, " (", regions_[a].shape(), ") and ", regions_[b].name, " (",
                            regions_[b].shape(), ") overlap in memory");
  }

 private:
  struct region {
    const char* name;
    std::intptr_t address;
    index_t rows, cols, stride;  // the last two in bytes
    bool written;
    index_t element;
    detail::shape_text shape() const { return detail::shape(rows, cols / element); }
  };

  [[gnu::noinline]] void one_per_row(const char* name, index_t count, const char* of) const {
    const auto named = [&](const region& r) { return std::string_view(r.name) == of; };
    const region& x = *std::find_if(regions_, regions_ + count_, named);
    require<shape_error>(count == x.rows, verb_, ": ", name, ": expected ", x.rows, ", one per row of ", of, " (", x.shape(),
                         "), got ", count);
  }
  // Labels and weights may lie in host memory for every device.
  template <class Numbers, class Engine>
  void reachable(const char* name, const Numbers& given, const Engine& engine) const {
    constexpr memory space = std::decay_t<decltype(engine.context())>::space;
    if (given.where() != memory::host && given.where() != space)
      fail<device_error>(verb_, ": ", name, " lie in memory this context cannot read");
  }
  template <class S, memory M>
  static region region_of(const char* name, const matrix_view<S, M>& x, bool written) {
    constexpr index_t bytes = sizeof(S);
    return {name, reinterpret_cast<std::intptr_t>(x.data()), x.rows(), x.cols() * bytes, x.stride() * bytes, written, bytes};
  }
  void remember(const region& r) { regions_[count_++] = r; }
  [[gnu::noinline]] void readable_input(const region& r) {
    require<shape_error>(r.rows > 0 && r.cols > 0, verb_, ": ", r.name, " is empty (", r.shape(), ")");
    remember(r);
  }
  void fitting(const char* name, detail::shape_text is, detail::shape_text expected) const {
    require<shape_error>(is.rows == expected.rows && is.cols == expected.cols, verb_, ": ", name, " must be ", expected,
                         ", got ", is);
  }
  [[gnu::noinline]] void written(const region& r, index_t rows, index_t cols) {
    fitting(r.name, r.shape(), detail::shape(rows, cols));
    remember(r);
  }
  [[gnu::noinline]] void written_vector(const region& r, index_t count) {
    const detail::shape_text is = r.shape();
    const bool fits = (is.rows == count && is.cols == 1) || (is.rows == 1 && is.cols == count);
    require<shape_error>(fits, verb_, ": ", r.name, " must hold ", count, " numbers, got ", is);
    remember(r);
  }

  // Rows of equal stride may interleave without sharing an element (column blocks of one matrix).
  static bool overlap(const region& a, const region& b) {
    const auto end = [](const region& r) { return r.address + (r.rows - 1) * r.stride + r.cols; };
    if (a.rows == 0 || b.rows == 0 || a.cols == 0 || b.cols == 0) return false;
    if (a.address >= end(b) || b.address >= end(a)) return false;
    if (a.rows < 2) return b.rows < 2 || row_meets(a, b);
    if (a.stride != b.stride) {
      for (index_t i = 0; i < b.rows; ++i) {
        region row = b;
        row.address += i * b.stride;
        if (row_meets(row, a)) return true;
      }
      return false;
    }
    if (b.rows < 2) return row_meets(b, a);
    const index_t stride = a.stride, offset = b.address - a.address;
    const index_t down = offset >= 0 ? offset / stride : -((-offset + stride - 1) / stride), right = offset - down * stride;
    const auto rows_meet = [&](index_t shift) { return shift < a.rows && shift + b.rows > 0; };
    return (right < a.cols && rows_meet(down)) || (right + b.cols > stride && rows_meet(down + 1));
  }
  // Whether one run of bytes meets a row of a strided region.
  static bool row_meets(const region& run, const region& r) {
    const index_t from = std::max<index_t>(0, (run.address - r.address - r.cols) / r.stride);
    for (index_t i = from; i < r.rows; ++i) {
      const std::intptr_t row = r.address + i * r.stride;
      if (row >= run.address + run.cols) return false;
      if (row + r.cols > run.address) return true;
    }
    return false;
  }

  const char* verb_;
  region regions_[24];
  int count_ = 0;
};

}  // namespace craft::engine
