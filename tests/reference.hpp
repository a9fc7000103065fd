// Reference values: loads tests/reference/*.json and builds the closed-form inputs they were computed from.
//
//     for (const reference::record& r : reference::cases("mmd", "cmmd")) {   // every size of it
//       const reference::inputs in(r);                                      // X, Y, U, A, T, ...
//       ...
//       r.check(value, {{"X", grad_x}, {"Y", grad_y}});                     // in double, to 1e-10
//     }
#pragma once

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"

#ifndef CRAFT_TEST_DATA
#error "CRAFT_TEST_DATA must name the folder that holds reference/ (the tests' own folder), as a string"
#endif

namespace craft_test::reference {

/// A nested list, a flat list (one row) or a number.
inline reals to_reals(const nlohmann::json& j) {
  if (!j.is_array()) return reals::Constant(1, 1, j.get<double>());
  if (j.empty() || !j[0].is_array()) {
    reals out(1, index_t(j.size()));
    for (index_t k = 0; k < out.cols(); ++k) out(0, k) = j[std::size_t(k)].get<double>();
    return out;
  }
  reals out(index_t(j.size()), index_t(j[0].size()));
  for (index_t i = 0; i < out.rows(); ++i)
    for (index_t k = 0; k < out.cols(); ++k) out(i, k) = j[std::size_t(i)][std::size_t(k)].get<double>();
  return out;
}

/// One case at one size.
struct record {
  nlohmann::json json;

  std::string id() const { return json.at("id"); }
  index_t n() const { return json.at("n"); }
  index_t m() const { return json.at("m"); }
  index_t d() const { return json.at("d"); }
  index_t classes() const { return json.at("C"); }
  double value() const { return json.at("value"); }
  double parameter(const char* name) const { return json.at("params").at(name); }
  std::vector<double> parameters(const char* name) const { return json.at("params").at(name); }
  std::string option(const char* name) const { return json.at("params").at(name); }
  double aux(const char* name) const { return json.at("aux").at(name); }

  /// Whether the reference has this gradient (some peers detach some inputs).
  bool has_gradient(const std::string& leaf) const {
    return (json.contains("grads") && json["grads"].contains(leaf) && !json["grads"][leaf].is_null()) ||
           (json.contains("grad_fro") && json["grad_fro"].contains(leaf));
  }

  /// Norm of a gradient of the reference.
  double gradient_norm(const std::string& leaf) const {
    if (json.contains("grad_fro")) return json["grad_fro"].at(leaf);
    return to_reals(json["grads"].at(leaf)).norm();
  }

  /// Distance of a gradient from the reference, as far as that is stored: of the largest size only the norm and two
  /// rows are kept, except for short gradients.
  double gradient_distance(const std::string& leaf, const reals& got) const {
    const auto against = [&](const nlohmann::json& stored) {
      const reals want = to_reals(stored);
      // A list of n numbers fits a row and a column.
      REQUIRE(got.size() == want.size());
      return (Eigen::Map<const Eigen::VectorXd>(got.data(), got.size()) -
              Eigen::Map<const Eigen::VectorXd>(want.data(), want.size()))
          .norm();
    };
    if (json.contains("grads")) return against(json["grads"].at(leaf));
    if (json.contains("grads_small") && json["grads_small"].contains(leaf)) return against(json["grads_small"][leaf]);
    const reals rows = to_reals(json.at("grad_first_rows").at(leaf));
    REQUIRE(got.rows() >= rows.rows());
    REQUIRE(got.cols() == rows.cols());
    // The two rows are short of the whole by about this factor.
    const double whole = std::sqrt(double(got.rows()) / double(rows.rows()));
    return std::max((got.topRows(rows.rows()) - rows).norm() * whole,
                    std::abs(got.norm() - json["grad_fro"].at(leaf).get<double>()));
  }

  using gradients = std::vector<std::pair<std::string, reals>>;

  /// Value to 1e-10 relative (1e-12 absolute), gradients to 1e-10 of the norm of all gradients together; a
  /// gradient that is small beside the others to 1e-8 of its own norm as well, down to round-off.
  void check(double got, const gradients& grads) const {
    INFO(id());
    CHECK(std::abs(got - value()) <= std::max(value_absolute, value_relative * std::abs(value())));
    double all = 0;
    for (const auto& g : grads) all = std::hypot(all, gradient_norm(g.first));
    for (const auto& g : grads) {
      INFO("gradient " << g.first << ", norm " << gradient_norm(g.first) << ", of all " << all);
      const double distance = gradient_distance(g.first, g.second);
      CHECK(distance <= gradient_relative * all + 1e-14);
      CHECK(distance <= 1e-8 * gradient_norm(g.first) + 1e-12);
    }
  }

  /// The same with the tolerances given: absolute, of the value and of each gradient's norm.
  void check(double got, double value_tolerance, const gradients& grads,
             const std::vector<double>& gradient_tolerances) const {
    INFO(id());
    CHECK(std::abs(got - value()) <= value_tolerance);
    for (std::size_t g = 0; g < grads.size(); ++g) {
      INFO("gradient " << grads[g].first << ", norm " << gradient_norm(grads[g].first));
      CHECK(gradient_distance(grads[g].first, grads[g].second) <= gradient_tolerances[g]);
    }
  }
};

/// Every size of the case `name` in reference/<group>.json; a name that is not there fails the test.
inline std::vector<record> cases(const std::string& group, const std::string& name) {
  static std::map<std::string, nlohmann::json> loaded;
  nlohmann::json& all = loaded[group];
  if (all.is_null()) {
    const std::string path = std::string(CRAFT_TEST_DATA) + "/reference/" + group + ".json";
    std::ifstream file(path);
    INFO(path);
    REQUIRE(file.good());
    all = nlohmann::json::parse(file);
  }
  std::vector<record> out;
  for (const nlohmann::json& c : all)
    if (c.at("id").get<std::string>().substr(0, name.size() + 1) == name + "/") out.push_back({c});
  INFO("no case " << name << " in " << group);
  REQUIRE_FALSE(out.empty());
  return out;
}

/// The inputs of a case, from their formulas (reference/README.md).
struct inputs {
  reals X, Y, U, A, T, P, Q, S, W, Xn, Un;
  std::vector<double> wx, wy, a, b;
  std::vector<index_t> y, y2;

  inputs(index_t n, index_t m, index_t d, index_t classes) {
    const auto fill = [](index_t rows, index_t cols, auto formula) {
      reals out(rows, cols);
      for (index_t i = 0; i < rows; ++i)
        for (index_t k = 0; k < cols; ++k) out(i, k) = formula(double(i), double(k));
      return out;
    };
    const auto target = [](double j, double k) { return 0.5 + 0.8 * std::cos(2 + 5 * j + 11 * k); };
    X = fill(n, d, [](double i, double k) { return std::sin(1 + 3 * i + 7 * k) * (1 + 0.1 * k); });
    Y = fill(m, d, target);
    U = fill(n, d, target);
    A = fill(classes, d, [](double c, double k) { return std::cos(3 + 2 * c + 5 * k); });
    T = fill(classes, d, [](double c, double k) { return std::sin(0.4 + 4 * c + 9 * k); });
    W = fill(n, classes, [](double i, double c) { return std::sin(i + 2 * c + 1); });
    P = softmax(X * A.transpose());
    Q = softmax(Y * A.transpose());
    S = softmax(U * A.transpose());
    Xn = X.rowwise().normalized();
    Un = U.rowwise().normalized();
    for (index_t i = 0; i < n; ++i) {
      wx.push_back(1 + 0.5 * std::sin(1.3 * double(i)));
      y.push_back((5 * i + 2) % classes);
      y2.push_back((3 * i + 2) % classes);
    }
    for (index_t j = 0; j < m; ++j) wy.push_back(1 + 0.5 * std::cos(0.7 * double(j)));
    a = normalised(wx);
    b = normalised(wy);
  }
  explicit inputs(const record& r) : inputs(r.n(), r.m(), r.d(), r.classes()) {}

  const std::vector<index_t>& labels(const std::string& name) const { return name == "y2" ? y2 : y; }

  static std::vector<double> normalised(std::vector<double> w) {
    double sum = 0;
    for (double v : w) sum += v;
    for (double& v : w) v /= sum;
    return w;
  }
  static reals softmax(reals z) {
    for (index_t i = 0; i < z.rows(); ++i) {
      z.row(i) = (z.row(i).array() - z.row(i).maxCoeff()).exp().matrix().eval();
      z.row(i) /= z.row(i).sum();
    }
    return z;
  }
};

}  // namespace craft_test::reference
