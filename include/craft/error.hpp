// Errors: every check of the library throws one of these, in release builds too, before anything of
// the caller's has been written.
#pragma once

#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#if (defined(__GNUC__) && !defined(__EXCEPTIONS)) || (defined(_MSC_VER) && !defined(__clang__) && !defined(_CPPUNWIND))
#error "craft reports errors by exceptions: compile without -fno-exceptions (MSVC: with /EHsc)"
#include <craft_needs_exceptions>  // there is no such file: compilers stop here, at one error, and not at every throw
#endif

namespace craft {

/// Base of everything the library throws on its own account (std::bad_alloc passes through).
class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Shapes that do not fit each other, empty input, or too few rows for the estimator.
class shape_error : public error {
 public:
  using error::error;
};

/// An option, bandwidth, weight or index outside its range.
class option_error : public error {
 public:
  using error::error;
};

/// An element type that does not fit, where types are known only when the program runs (adapters/runtime.hpp).
class type_error : public error {
 public:
  using error::error;
};

/// A label outside [0, classes).
class label_error : public error {
 public:
  using error::error;
};

/// NaN or infinity in the input. The losses look for them only if the context asks (cpu::check_finite); what chooses or describes
/// rows for later use (k-means, medoids, farthest points, bandwidth_scale, two_sample_test) always does. Also numbers so
/// large or so small that their squares are none of the computing type, where that is checked.
class data_error : public error {
 public:
  using error::error;
};

/// An output that overlaps another output or an input.
class alias_error : public error {
 public:
  using error::error;
};

/// A device that this build or this machine does not have, or memory that the device of a call cannot read.
class device_error : public error {
 public:
  using error::error;
};

/// A call that ended because the context's function `stop` said so (cpu::stop).
class stopped_error : public error {
 public:
  using error::error;
};

namespace detail {

/// The shape of a matrix, for a message: "2 x 3".
struct shape_text {
  long long rows, cols;
};

/// A piece of a message: text, a number or a shape, not yet written.
class message_part {
 public:
  message_part(const char* text) : message_part(std::string_view(text)) {}                   // NOLINT: that is its purpose
  message_part(const std::string& text) : message_part(std::string_view(text)) {}            // NOLINT
  message_part(std::string_view text) : kind_(kind::text), text_(text.data()), size_(text.size()) {}  // NOLINT
  message_part(char text) : kind_(kind::letter), first_(text) {}                             // NOLINT
  message_part(double number) : kind_(kind::real), real_(number) {}                          // NOLINT
  message_part(shape_text s) : kind_(kind::shape), first_(s.rows), second_(s.cols) {}        // NOLINT
  template <class Integer, class = std::enable_if_t<std::is_integral_v<Integer>>>
  message_part(Integer number)  // NOLINT
      : kind_(std::is_signed_v<Integer> ? kind::integer : kind::natural), first_(static_cast<long long>(number)) {}

  [[gnu::cold]] void write(std::string& to) const {
    char number[64];
    switch (kind_) {
      case kind::text: to.append(text_, size_); return;
      case kind::letter: to.push_back(char(first_)); return;
      case kind::integer: std::snprintf(number, sizeof number, "%lld", first_); break;
      case kind::natural: std::snprintf(number, sizeof number, "%llu", static_cast<unsigned long long>(first_)); break;
      case kind::real: std::snprintf(number, sizeof number, "%.9g", real_); break;
      case kind::shape: std::snprintf(number, sizeof number, "%lld x %lld", first_, second_); break;
    }
    to += number;
  }

 private:
  enum class kind { text, letter, integer, natural, real, shape } kind_;
  union {
    const char* text_;
    long long first_;
    double real_;
  };
  union {
    std::size_t size_ = 0;
    long long second_;
  };
};

[[gnu::cold]] inline std::string message(std::initializer_list<message_part> parts) {
  std::string text;
  for (const message_part& part : parts) part.write(text);
  return text;
}

/// One function for all messages: a check costs its caller little code.
template <class Error>
[[noreturn, gnu::cold]] void raise(std::initializer_list<message_part> parts) {
  throw Error(message(parts));
}

}  // namespace detail

/// Throws Error with the parts (texts and numbers) written one after the other.
template <class Error, class... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  detail::raise<Error>({detail::message_part(parts)...});
}

/// Throws Error with the parts unless `holds`. The text is put together only on failure.
template <class Error, class... Parts>
inline void require(bool holds, const Parts&... parts) {
  if (!holds) detail::raise<Error>({detail::message_part(parts)...});
}

}  // namespace craft
