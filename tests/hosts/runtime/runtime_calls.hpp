// Calls of verbs both ways, directly and by name, which must leave the same bits: runtime_test.cpp and runtime_mmd_test.cpp have
// the calls.
#pragma once

#include <set>

#include "craft/craft.hpp"
#include "reference.hpp"
#include "runtime_inputs.hpp"

namespace craft_test {

/// A number that float holds and that no mean of two-byte numbers is.
constexpr double unwritten = 0.75 + 0x1p-20;

/// What the verb called directly writes, by the names of its results and gradients; in the computing type, full of `unwritten`.
template <class D>
class written {
 public:
  using T = typename D::compute;
  explicit written(craft::write mode) : mode_(mode) {}

  craft::scalar_out<T, D::space> value() { return next("value", true, 1, 1, 0).as_value(); }
  craft::scalar_out<craft::objective_values<T>, D::space> values() {
    using values = craft::objective_values<T>;
    return craft::scalar_out<values, D::space>(reinterpret_cast<values*>(next("values", true, 1, 5, 0).out().data()));
  }
  craft::matrix_view<T, D::space> map(const char* name, index_t rows, index_t cols, index_t padding = 0) {
    return next(name, true, rows, cols, padding).out();
  }
  craft::output<T, D::space> gradient(const char* name, index_t rows, index_t cols, index_t padding = 0) {
    return {next(name, false, rows, cols, padding).out(), mode_};
  }
  void found(const char* name, double number) { reals_[name] = {number}; }
  void found(const char* name, const std::vector<double>& numbers) { reals_[name] = numbers; }
  void found(const char* name, index_t whole) { wholes_[name] = {whole}; }
  void found(const char* name, const std::vector<index_t>& numbers) { wholes_[name] = numbers; }
  void found(const craft::kmeans_result& r) {
    found("assignment", r.assignment), found("inertia", r.inertia);
    found("iterations", r.iterations), found("distinct", r.distinct);
    CHECK(r.inertia > 0);
  }

  /// The call gives these bits, between the rows too, and names these sizes. What comes to the host goes to the host as it is, or
  /// to the device's memory in the narrower type.
  void expect(rt::call& c, const craft::any_device& device) const {
    c.check();
    const rt::verb& v = c.verb();
    std::vector<std::unique_ptr<array<D, T>>> got;
    for (const part& p : parts_) {
      INFO(p.name);
      got.push_back(std::make_unique<array<D, T>>(p.rows, p.cols, unwritten, p.padding));
      const int at = p.result ? v.result_named(p.name) : v.gradient_named(p.name);
      const rt::extent e = p.result ? c.result_sizes(at) : c.gradient_sizes(at);
      CHECK(e.dimensions == (p.rows > 1 && p.cols > 1 ? 2 : e.dimensions));
      const bool may_be_two = !p.result && v.fields[std::size_t(v.gradients[std::size_t(at)])].two_sided;
      CHECK(e.sizes[0] * e.sizes[1] * (may_be_two && p.rows * p.cols == 2 ? 2 : 1) == p.rows * p.cols);
      if (e.dimensions == 2) CHECK(e.sizes[0] == p.rows);
      if (p.result) CHECK(c.result_type(at) == type_of<T>);
      p.result ? c.result(at, to(*got.back())) : c.gradient(at, to(*got.back(), mode_));
    }
    const bool narrow = mode_ == craft::write::accumulate;
    const auto count = [&](int at) { return c.result_sizes(at).sizes[0]; };
    std::map<std::string, std::vector<double>> reals;
    std::map<std::string, std::unique_ptr<array<D, float>>> narrow_reals;
    std::map<std::string, std::vector<index_t>> wholes;
    std::map<std::string, std::unique_ptr<whole_array<D, std::int32_t>>> narrow_wholes;
    for (const auto& one : reals_) {
      const int at = v.result_named(one.first);
      REQUIRE(count(at) == index_t(one.second.size()));
      CHECK(c.result_type(at) == dtype::float64);
      reals[one.first].resize(one.second.size());
      narrow_reals[one.first] = std::make_unique<array<D, float>>(1, count(at));
      rt::place p = to(*narrow_reals[one.first]);
      if (!narrow) p = {reals[one.first].data(), count(at), 1, 1, dtype::float64};
      c.result(at, p);
    }
    for (const auto& one : wholes_) {
      const int at = v.result_named(one.first);
      REQUIRE(count(at) == index_t(one.second.size()));
      CHECK(c.result_type(at) == dtype::int64);
      wholes[one.first].resize(one.second.size());
      narrow_wholes[one.first] = std::make_unique<whole_array<D, std::int32_t>>(count(at));
      rt::place p = narrow_wholes[one.first]->place();
      if (!narrow) p = {wholes[one.first].data(), 1, count(at), 0, dtype::int64};
      c.result(at, p);
    }
    c.run(device);
    for (std::size_t q = 0; q < parts_.size(); ++q) {
      INFO(parts_[q].name);
      CHECK((got[q]->bits() == parts_[q].numbers->bits()));
      CHECK(parts_[q].numbers->get().allFinite());
      if (mode_ == craft::write::overwrite) CHECK((parts_[q].numbers->get().array() != unwritten).all());
    }
    for (const auto& one : reals_) {
      INFO(one.first);
      if (!narrow) CHECK(reals[one.first] == one.second);
      const reals_of numbers = narrow_reals[one.first]->get();
      for (index_t k = 0; narrow && k < numbers.cols(); ++k) CHECK(numbers(0, k) == double(float(one.second[std::size_t(k)])));
    }
    for (const auto& one : wholes_) {
      INFO(one.first);
      CHECK((narrow ? narrow_wholes[one.first]->get() : wholes[one.first]) == one.second);
    }
  }
  std::set<std::string> gradients() const {
    std::set<std::string> names;
    for (const part& p : parts_)
      if (!p.result) names.insert(p.name);
    return names;
  }
  std::set<std::string> results() const {
    std::set<std::string> names;
    for (const part& p : parts_)
      if (p.result) names.insert(p.name);
    for (const auto& one : reals_) names.insert(one.first);
    for (const auto& one : wholes_) names.insert(one.first);
    return names;
  }

 private:
  using reals_of = craft_test::reals;
  struct part {
    std::string name;
    bool result;
    index_t rows, cols, padding;
    std::unique_ptr<array<D, T>> numbers;
  };
  array<D, T>& next(const char* name, bool result, index_t rows, index_t cols, index_t padding) {
    parts_.push_back({name, result, rows, cols, padding, std::make_unique<array<D, T>>(rows, cols, unwritten, padding)});
    return *parts_.back().numbers;
  }

  craft::write mode_;
  std::vector<part> parts_;
  std::map<std::string, std::vector<double>> reals_;
  std::map<std::string, std::vector<index_t>> wholes_;
};

/// A call both ways.
template <class D>
struct both_ways {
  std::string verb, what;
  std::function<void(rt::call&)> give;                                 ///< by name
  std::function<void(const typename D::context&, written<D>&)> typed;  ///< directly
};
template <class D>
using calls = std::vector<both_ways<D>>;

template <class D>
void check_calls(const calls<D>& all) {
  for (const both_ways<D>& one : all)
    for (const craft::write mode : {craft::write::overwrite, craft::write::accumulate}) {
      INFO(one.verb << ", " << one.what << (mode == craft::write::overwrite ? ", overwrite" : ", accumulate"));
      written<D> want(mode);
      one.typed(D::make(), want);
      rt::call c(one.verb);
      one.give(c);
      want.expect(c, craft::any_device(D::make()));
    }
}

const index_t n = 9, m = 8, d = 5, classes = 3;
const std::vector<index_t> class_of = {0, 2, 1, 1, 0, 2, 2, 0, 1}, class_of_y = {1, 1, 2, 0, 0, 2, 1, 0};
const std::vector<double> shares_of_y = {0.5, 0.25, 1, 2, 0, 0.75, 1.5, 1};

/// Inputs on a device: some rows apart, others not; labels and weights of both widths, there and on the host.
template <class D>
struct samples {
  using T = typename D::compute;
  const array<D> x{random_reals(n, d, 1), 3}, y{random_reals(m, d, 2, 0.4), 1}, paired{random_reals(n, d, 3)},
      anchors{random_reals(classes, d, 4), 2}, more_anchors{random_reals(classes, d, 5)};
  const array<D, T> soft{reference::inputs::softmax(random_reals(n, classes, 6)), 2}, dout{random_reals(n, classes, 7), 1};
  const array<D, float> x_weights{random_reals(1, n, 8).cwiseAbs().eval()};
  const craft::numbers y_weights{shares_of_y};
  const array<D, T> half_of{reals::Constant(1, 1, 0.5)};           ///< a number that is read where the call runs
  const array<D, double> one_and_a_half{reals::Constant(1, 1, 1.5)};  ///< the same, a double whatever else there is
  const label_array<D> labels{class_of, 2};
  const label_array<D, std::int32_t> y_labels{class_of_y};
};

/// Calls f with what gives a kernel by name, and the pair function that it stands for.
template <class F>
void for_each_kernel(const char* field, const F& f) {
  using numbers = std::vector<double>;
  const auto by_name = [&](const char* family, const numbers& bandwidths, const numbers& weights, double shape) {
    return [=](rt::call& c) {
      c.give(field, family);
      if (!bandwidths.empty()) c.give("bandwidths", bandwidths);
      if (!weights.empty()) c.give("weights", weights);
      if (shape != 0) c.give("shape", shape);
    };
  };
  const numbers sigmas = {2.5, 1, 4, 1.7}, weights = {0.5, 1.5, 0.25, -0.3};
  f("gaussians", by_name("gaussian", sigmas, weights, 0), craft::gaussians<>(sigmas, weights));
  const auto two = [](craft::kernel_family family, double shape) {
    return craft::any_kernel<>({{family, 0.5, 1.5, shape}, {family, 2, 0.75, shape}});
  };
  using family = craft::kernel_family;
  f("laplacian", by_name("laplacian", {1.5, 0.75}, {0.5, 2}, 0.25), two(family::laplacian, 0.25));
  f("inverse_multiquadric", by_name("inverse_multiquadric", {1.5, 0.75}, {0.5, 2}, 0.125),
    two(family::inverse_multiquadric, 0.125));
  f("energy", by_name("energy", {}, {}, 0), craft::any_kernel<>({{family::energy, 1, 1, 0}}));
  f("polynomial",
    [field](rt::call& c) {
      c.give(field, "polynomial"), c.give("bandwidths", numbers{1.75}), c.give("shape", 0.5), c.give("degree", 2);
    },
    craft::polynomial(1.75, 0.5, 2));
  f("dot product", by_name("dot_product", {}, {}, 0), craft::dot_product<>());
  f("cosine", by_name("cosine", {}, {}, 0), craft::cosine<>());
}

// The calls of all verbs.
template <class D>
void add_discrepancies(calls<D>& all, const samples<D>& s);

}  // namespace craft_test
