#include "reference.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace craft_test::reference {
namespace {

reals to_reals(const nlohmann::json& j) {
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

}  // namespace

std::string record::id() const { return json_->at("id"); }
index_t record::n() const { return json_->at("n"); }
index_t record::m() const { return json_->at("m"); }
index_t record::d() const { return json_->at("d"); }
index_t record::classes() const { return json_->at("C"); }
double record::value() const { return json_->at("value"); }

bool record::has(const char* section) const { return json_->contains(section); }
bool record::has(const char* section, const char* name) const { return has(section) && json_->at(section).contains(name); }
double record::number(const char* section, const char* name) const { return json_->at(section).at(name); }
std::vector<index_t> record::indices(const char* section, const char* name) const { return json_->at(section).at(name); }
reals record::array(const char* section, const char* name) const { return to_reals(json_->at(section).at(name)); }
std::vector<double> record::parameters(const char* name) const { return json_->at("params").at(name); }
std::string record::option(const char* name) const { return json_->at("params").at(name); }

bool record::has_gradient(const std::string& leaf) const {
  const nlohmann::json& json = *json_;
  return (json.contains("grads") && json["grads"].contains(leaf) && !json["grads"][leaf].is_null()) ||
         (json.contains("grad_fro") && json["grad_fro"].contains(leaf));
}

double record::gradient_norm(const std::string& leaf) const {
  if (json_->contains("grad_fro")) return json_->at("grad_fro").at(leaf);
  return to_reals(json_->at("grads").at(leaf)).norm();
}

double record::gradient_distance(const std::string& leaf, const reals& got) const {
  const nlohmann::json& json = *json_;
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

void record::check(double got, const gradients& grads) const {
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

void record::check(double got, double value_tolerance, const gradients& grads,
           const std::vector<double>& gradient_tolerances) const {
  INFO(id());
  CHECK(std::abs(got - value()) <= value_tolerance);
  for (std::size_t g = 0; g < grads.size(); ++g) {
    INFO("gradient " << grads[g].first << ", norm " << gradient_norm(grads[g].first));
    CHECK(gradient_distance(grads[g].first, grads[g].second) <= gradient_tolerances[g]);
  }
}

std::string folder(const std::string& name) {
  std::error_code not_there;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", not_there);
  const std::filesystem::path from = program.empty() ? std::filesystem::current_path() : program.parent_path();
  for (std::filesystem::path up = from;; up = up.parent_path()) {
    const std::filesystem::path found = up / "tests" / name;
    if (std::filesystem::is_directory(found, not_there)) return found.string();
    if (up == up.parent_path()) break;
  }
  throw std::runtime_error("there is no folder tests/" + name + " in " + from.string() + " nor above it");
}

std::vector<record> cases(const std::string& group, const std::string& name) {
  static std::map<std::string, nlohmann::json> loaded;
  nlohmann::json& all = loaded[group];
  if (all.is_null()) {
    const std::string path = folder("reference") + "/" + group + ".json";
    std::ifstream file(path);
    INFO(path);
    REQUIRE(file.good());
    all = nlohmann::json::parse(file);
  }
  std::vector<record> out;
  for (const nlohmann::json& c : all)
    if (c.at("id").get<std::string>().substr(0, name.size() + 1) == name + "/") out.emplace_back(c);
  INFO("no case " << name << " in " << group);
  REQUIRE_FALSE(out.empty());
  return out;
}

inputs::inputs(index_t n, index_t m, index_t d, index_t classes) {
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

std::vector<double> inputs::normalised(std::vector<double> w) {
  double sum = 0;
  for (double v : w) sum += v;
  for (double& v : w) v /= sum;
  return w;
}
reals inputs::softmax(reals z) {
  for (index_t i = 0; i < z.rows(); ++i) {
    z.row(i) = (z.row(i).array() - z.row(i).maxCoeff()).exp().matrix().eval();
    z.row(i) /= z.row(i).sum();
  }
  return z;
}

}  // namespace craft_test::reference
