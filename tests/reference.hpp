// Reference values: loads tests/reference/*.json and builds the closed-form inputs they were computed from.
//
//     for (const reference::record& r : reference::cases("mmd", "cmmd")) {   // every size of it
//       const reference::inputs in(r);                                      // X, Y, U, A, T, ...
//       ...
//       r.check(value, {{"X", grad_x}, {"Y", grad_y}});                     // in double, to 1e-10
//     }
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"

namespace craft_test::reference {

/// One case at one size. Its parts (params, aux, result, grads, ...) are looked at by name, and one that is not there throws.
class record {
 public:
  /// Of a file's records that stay where they are.
  explicit record(const nlohmann::json& json) : json_(&json) {}

  std::string id() const;
  index_t n() const;
  index_t m() const;
  index_t d() const;
  index_t classes() const;
  double value() const;

  bool has(const char* section) const;
  bool has(const char* section, const char* name) const;
  double number(const char* section, const char* name) const;
  std::vector<index_t> indices(const char* section, const char* name) const;
  /// A nested list, a flat list (one row) or a number.
  reals array(const char* section, const char* name) const;

  double parameter(const char* name) const { return number("params", name); }
  std::vector<double> parameters(const char* name) const;
  std::string option(const char* name) const;
  double aux(const char* name) const { return number("aux", name); }

  /// Whether the reference has this gradient (some peers detach some inputs).
  bool has_gradient(const std::string& leaf) const;
  /// Norm of a gradient of the reference.
  double gradient_norm(const std::string& leaf) const;
  /// Distance of a gradient from the reference, as far as that is stored: of the largest size only the norm and two
  /// rows are kept, except for short gradients.
  double gradient_distance(const std::string& leaf, const reals& got) const;

  using gradients = std::vector<std::pair<std::string, reals>>;

  /// Value to 1e-10 relative (1e-12 absolute), gradients to 1e-10 of the norm of all gradients together; a
  /// gradient that is small beside the others to 1e-8 of its own norm as well, down to round-off.
  void check(double got, const gradients& grads) const;
  /// The same with the tolerances given: absolute, of the value and of each gradient's norm.
  void check(double got, double value_tolerance, const gradients& grads,
             const std::vector<double>& gradient_tolerances) const;

 private:
  const nlohmann::json* json_;
};

/// The folder `name` of tests/, reference or data: found from the program's folder upwards (where that is not to be had, from
/// the working directory), so that programs and data can be carried to another machine together.
std::string folder(const std::string& name);

/// Every size of the case `name` in reference/<group>.json; a name that is not there fails the test.
std::vector<record> cases(const std::string& group, const std::string& name);

/// The inputs of a case, from their formulas (reference/README.md).
struct inputs {
  reals X, Y, U, A, T, P, Q, S, W, Xn, Un;
  std::vector<double> wx, wy, a, b;
  std::vector<index_t> y, y2;

  inputs(index_t n, index_t m, index_t d, index_t classes);
  explicit inputs(const record& r) : inputs(r.n(), r.m(), r.d(), r.classes()) {}

  const std::vector<index_t>& labels(const std::string& name) const { return name == "y2" ? y2 : y; }

  static std::vector<double> normalised(std::vector<double> w);
  static reals softmax(reals z);
};

}  // namespace craft_test::reference
