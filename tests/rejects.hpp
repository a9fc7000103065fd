// What the tests of errors share: a call that must throw, say why, and have written nothing by then.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"

namespace craft_test {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The bytes of arrays, to be compared later.
class watched {
 public:
  template <class... Arrays>
  explicit watched(const Arrays&... arrays) : bits_{[&arrays] { return arrays.bits(); }...} {
    for (const auto& read : bits_) before_.push_back(read());
  }
  bool untouched() const {
    for (std::size_t k = 0; k < bits_.size(); ++k)
      if (bits_[k]() != before_[k]) return false;
    return true;
  }

 private:
  std::vector<std::function<std::string()>> bits_;
  std::vector<std::string> before_;
};

/// The call throws Error, whose message holds every part, and leaves what is watched as it was.
template <class Error, class F>
void rejects(const watched& outputs, const F& call, const std::vector<std::string>& parts = {}) {
  bool thrown = false;
  try {
    call();
  } catch (const Error& e) {
    thrown = true;
    for (const std::string& part : parts) CHECK_THAT(e.what(), contains(part));
  } catch (const std::exception& e) {
    FAIL_CHECK("another type of error: " << e.what());
    thrown = true;
  }
  CHECK(thrown);
  CHECK(outputs.untouched());
}

template <class D>
using view_on = craft::matrix_view<typename D::scalar, D::space>;

/// Columns [first, first + cols) of the rows [row, row + rows) of an array without padding.
template <class D>
view_on<D> part(array<D>& a, index_t row, index_t rows, index_t first, index_t cols) {
  const view_on<D> all = a.out();
  return view_on<D>(all.data() + row * all.stride() + first, rows, cols, all.stride());
}

/// x with one number replaced.
inline reals with(reals x, index_t i, index_t k, double number) {
  x(i, k) = number;
  return x;
}

}  // namespace craft_test
