// Names, and kernels by theirs: part of craft/adapters/runtime_bodies.hpp.
#pragma once

#include <algorithm>

#include "craft/adapters/runtime.hpp"

namespace craft::runtime {

namespace detail {

/// "a, b or c"
template <class Names>
std::string alternatives(const Names& names) {
  std::string text;
  for (std::size_t k = 0; k < names.size(); ++k)
    text += (k == 0 ? "" : k + 1 < names.size() ? ", " : " or ") + std::string(names[k]);
  return text;
}
/// Which of them has that name. Throws option_error, which begins with what(), for a name that none has.
template <class All, class Name, class What>
int among(std::string_view name, const All& all, const Name& name_of, const What& what) {
  int at = 0;
  for (const auto& one : all) {
    if (name == name_of(one)) return at;
    ++at;
  }
  std::vector<const char*> names;
  for (const auto& one : all) names.push_back(name_of(one));
  fail<option_error>(what(), ": expected ", names.empty() ? "none" : alternatives(names), ", got ", name);
}

}  // namespace detail

int verb::field_named(std::string_view field) const {
  return detail::among(field, fields, [](const auto& f) { return f.name; }, [&] { return std::string(name) + ": argument"; });
}
int verb::result_named(std::string_view result) const {
  return detail::among(result, results, [](const auto& r) { return r.name; }, [&] { return std::string(name) + ": result"; });
}
int verb::gradient_named(std::string_view gradient) const {
  return detail::among(gradient, gradients, [&](int f) { return fields[std::size_t(f)].name; },
                       [&] { return std::string(name) + ": gradients"; });
}
const verb& verb_named(std::string_view name) {
  return verbs()[std::size_t(detail::among(name, verbs(), [](const verb& v) { return v.name; }, [] { return "craft"; }))];
}

namespace detail {

struct family {
  const char* name;
  enum kernel::form form;
  kernel_family distance;
  bool bandwidth, shape;
};
constexpr family families[] = {
    {"gaussian", kernel::form::distance, kernel_family::gaussian, true, false},
    {"laplacian", kernel::form::distance, kernel_family::laplacian, true, true},
    {"inverse_multiquadric", kernel::form::distance, kernel_family::inverse_multiquadric, true, true},
    {"rational_quadratic", kernel::form::distance, kernel_family::rational_quadratic, true, true},
    {"energy", kernel::form::distance, kernel_family::energy, false, true},
    {"negative_distance", kernel::form::distance, kernel_family::energy, false, true},
    {"polynomial", kernel::form::polynomial, {}, true, true},
    {"dot_product", kernel::form::dot_product, {}, false, false},
    {"cosine", kernel::form::cosine, {}, false, false},
};

/// f(kernel), with the type that computes it.
template <class F>
void visit(const kernel& k, const F& f) {
  if (k.form() == kernel::form::dot_product) return f(dot_product<>());
  if (k.form() == kernel::form::cosine) return f(cosine<>());
  if (k.form() == kernel::form::polynomial)
    return f(polynomial<>(k.members()[0].bandwidth, k.members()[0].shape, int(k.degree())));
  std::vector<double> sigmas, weights;
  sigmas.reserve(k.members().size()), weights.reserve(k.members().size());
  for (const kernel::member& m : k.members()) {
    if (m.family != kernel_family::gaussian) return f(any_kernel<>(k.members()));
    sigmas.push_back(m.bandwidth);
    weights.push_back(m.weight);
  }
  f(gaussians<>(sigmas, weights));  // one exponential for all of a series
}

/// Whether the verb's gradients by bandwidths are two for each: by the length, and by the shape that hosts have a name for.
inline bool is_paired(const kernel& k) {
  return !k.members().empty() && k.bandwidths() == 2 * index_t(k.members().size());
}

// Kernels of presets, as members.
inline void append(std::vector<kernel::member>& to, const gaussian<>& k) {
  to.push_back({kernel_family::gaussian, 1, k.sigma, 0});
}
inline void append(std::vector<kernel::member>& to, const laplacian<>& k) {
  to.push_back({kernel_family::laplacian, 1, k.sigma, k.floor});
}
inline void append(std::vector<kernel::member>& to, const inverse_multiquadric<>& k) {
  to.push_back({kernel_family::inverse_multiquadric, 1, k.c, k.eps});
}
inline void append(std::vector<kernel::member>& to, const negative_distance<>& k) {
  to.push_back({kernel_family::energy, 1, 1, k.floor});
}
inline void append(std::vector<kernel::member>& to, const gaussians<>& k) {
  const std::size_t first = to.size();
  to.resize(first + std::size_t(k.count));
  for (int q = 0; q < k.count; ++q)
    to[first + std::size_t(k.order[q])] = {kernel_family::gaussian, k.beta[q], k.sigma[q], 0};
}
template <class A, class B>
void append(std::vector<kernel::member>& to, const kernel_sum<A, B>& k) {
  append(to, k.first);
  append(to, k.second);
}

}  // namespace detail

const std::vector<const char*>& kernel::families() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> all;
    for (const auto& f : detail::families) all.push_back(f.name);
    return all;
  }();
  return names;
}

kernel::kernel(std::vector<member> members) : members_(std::move(members)) {
  detail::visit(*this, [](const auto& k) { k.check(); });
}

kernel::kernel(std::string_view name, const std::vector<double>& bandwidths, const std::vector<double>& weights,
               std::optional<double> shape, index_t degree)
    : degree_(degree) {
  const detail::family& family = detail::families[detail::among(name, families(), [](auto f) { return f; }, [] { return "kernel"; })];
  form_ = family.form;
  const bool polynomial = form_ == form::polynomial, quadratic = family.distance == kernel_family::rational_quadratic;
  require<option_error>(family.bandwidth || bandwidths.empty(), "kernel: ", name, " takes no bandwidth, got ", bandwidths.size());
  require<option_error>(!polynomial || bandwidths.size() < 2, "kernel: ", name, " takes one bandwidth, got ", bandwidths.size());
  require<option_error>(family.shape || shape.value_or(0) == 0, "kernel: ", name, " takes no shape, got ", shape.value_or(0));
  require<option_error>(!quadratic || shape, "kernel: ", name, " needs a shape, its alpha");
  require<option_error>(polynomial || degree == usual_degree, "kernel: ", name, " takes no degree, got ", degree);
  require<option_error>(degree >= 1 && degree <= craft::polynomial<>::highest_degree, "kernel: degree must lie between 1 and ",
                        int(craft::polynomial<>::highest_degree), ", got ", degree);
  require<option_error>(form_ == form::distance || weights.empty(), "kernel: ", name, " takes no weight, got ", weights.size());
  const std::size_t count = bandwidths.empty() ? 1 : bandwidths.size();
  require<option_error>(weights.empty() || weights.size() == count, "kernel: expected one weight per kernel, got ",
                        weights.size(), " weights for ", count, count == 1 ? " kernel" : " kernels");
  members_.clear();
  if (form_ != form::distance && !polynomial) return;
  members_.assign(count, {family.distance, 1, 1, shape.value_or(polynomial ? 1 : 0)});
  for (std::size_t q = 0; q < count; ++q) {
    if (!bandwidths.empty()) members_[q].bandwidth = bandwidths[q];
    if (!weights.empty()) members_[q].weight = weights[q];
  }
  detail::visit(*this, [](const auto& k) { k.check(); });
}

index_t kernel::weights() const {
  index_t n = 0;
  detail::visit(*this, [&](const auto& k) { n = k.weights(); });
  return n;
}
index_t kernel::bandwidths() const {
  index_t n = 0;
  detail::visit(*this, [&](const auto& k) { n = k.bandwidths(); });
  return n;
}

}  // namespace craft::runtime
