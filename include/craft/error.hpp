// Errors: every check of the library throws one of these, in release builds too, before anything of
// the caller's has been written.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

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

/// NaN or infinity in the input, reported only when the context was asked to look (cpu::check_finite).
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

/// Throws Error with the parts written one after the other.
template <class Error, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  text.precision(9);
  (text << ... << parts);
  throw Error(text.str());
}

/// Throws Error with the parts unless `holds`. The text is put together only on failure.
template <class Error, class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) fail<Error>(parts...);
}

}  // namespace craft
