// What the comparisons of MMD with reference values share: the set-up of a case, and what float may lose in it.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "naive.hpp"
#include "reference.hpp"

namespace craft_test {

/// A parameter gradient of the reference: its name, whether it is by a weight or a bandwidth of the kernel, which.
struct leaf {
  std::string name;
  bool weight;
  index_t first, count;
  double factor = 1;  ///< of a reference that has another parameter in the place of ours: ours differentiated by that
};

struct setup {
  craft::mmd_options options{};
  sample_weights weights{};
  std::vector<leaf> leaves{};
  bool by_log = false;  ///< the reference differentiates by the logarithm of the bandwidth
};

/// What float may lose in this case. The kernel sees columns scaled by their range, then distances divided by M.
rounding float_allowance(reals X, reals Y, const probed_kernel& kernel, const setup& s);

/// Checks a run in double or float against a record: to the digits of the reference, or to what float has.
void check_record(const reference::record& r, const reals& X, const reals& Y, const probed_kernel& kernel, const setup& s,
                  const mmd_result& got, bool in_double);

template <class D, class K>
void check_record(const reference::record& r, const reals& X, const reals& Y, const K& kernel, const setup& s,
                  const mmd_result& got) {
  check_record(r, X, Y, probed_kernel(kernel), s, got, std::is_same_v<typename D::compute, double>);
}

/// Every size of a case; make(record, inputs) gives the kernel and its set-up.
template <class D, class Make>
void meets(const std::string& group, const std::string& name, const Make& make) {
  auto ctx = D::make();
  for (const reference::record& r : reference::cases(group, name)) {
    INFO(r.id());
    const reference::inputs in(r);
    const auto [kernel, s] = make(r, in);
    check_record<D>(r, in.X, in.Y, kernel, s, run_mmd<D>(ctx, in.X, in.Y, kernel, s.options, s.weights));
  }
}

template <class K>
std::pair<K, setup> with(const craft::mmd_preset<K>& p) {
  return {p.kernel, setup{p.options}};
}
template <class K>
std::pair<K, setup> with(const K& kernel, form f, std::vector<leaf> leaves = {}) {
  setup s;
  s.options.estimator = estimator_of(f);
  s.leaves = std::move(leaves);
  return {kernel, s};
}

inline std::vector<double> mapped(std::vector<double> v, double (*f)(double)) {
  std::transform(v.begin(), v.end(), v.begin(), f);
  return v;
}
inline double root(double v) { return std::sqrt(v); }
/// sigma of exp(-g D)
inline double sigma_of(double g) { return 1 / std::sqrt(2 * g); }

}  // namespace craft_test
