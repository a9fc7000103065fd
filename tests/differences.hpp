// Gradients against central differences, as tests of every verb check them.
#pragma once

#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/gradcheck.hpp"
#include "devices.hpp"

namespace craft_test {

/// CHECKs the gradients in `blocks` against differences of f(): along every coordinate on the CPU, along a few directions
/// where D says so. `what` stands before the report.
template <class D, class F>
void check_by_differences(const F& f, const std::vector<craft::gradient_block<double>>& blocks, const std::string& what = "") {
  craft::gradcheck_options how;
  how.directions = D::backend::directions;
  const auto report = craft::gradcheck<double>(f, blocks, how);
  INFO(what << '\n' << report.text());
  CHECK(report.verdict == craft::verdict::agrees);
  CHECK(report.same_bits);
  // Not because nothing was there to compare.
  index_t coordinates = 0;
  for (const auto& block : blocks) coordinates += block.size;
  CHECK(report.checked == (how.directions > 0 ? how.directions : coordinates));
}

}  // namespace craft_test
