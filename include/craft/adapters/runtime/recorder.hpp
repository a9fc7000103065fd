// Descriptions written down: the Call that keeps what it is told (craft/describe.hpp); part of craft/adapters/runtime_bodies.hpp.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "craft/adapters/runtime/kernel.hpp"
#include "craft/verbs.hpp"

namespace craft::runtime {

namespace detail {

inline named_sizes shape_of(std::string_view text) {
  named_sizes all;
  const auto parts = [](std::string_view of, char between) {
    std::vector<std::string> list;
    for (std::size_t from = 0; from <= of.size();) {
      const std::size_t end = (std::min)(of.find(between, from), of.size());
      list.emplace_back(of.substr(from, end - from));
      from = end + 1;
    }
    return list;
  };
  for (const std::string& dimension : parts(text, ' ')) all.push_back(parts(dimension, '*'));
  return all;
}

class recorder {
 public:
  using S = float;
  using T = float;
  static constexpr memory space = memory::host;
  using view = matrix_view<const float>;
  explicit recorder(verb& to) : to_(to) {}

  view matrix(const char* name, const char* shape, const char* text) { return array(name, kind::matrix, shape, text, true); }
  view optional_matrix(const char* name, const char* shape, const char* text) {
    return array(name, kind::matrix, shape, text, false);
  }
  view computed_matrix(const char* name, const char* shape, const char* text) {
    return array(name, kind::computed, shape, text, true);
  }
  labels targets(const char* name, const char* shape, const char* text) {
    array(name, kind::targets, shape, text, true);
    return {};
  }
  labels required_labels(const char* name, const char* shape, const char* text) {
    array(name, kind::labels, shape, text, true);
    return {};
  }
  runtime::kernel kernel(const char* name, const char* family, const char* text) {
    field& f = add(name, text, kind::choice);
    f.choices = runtime::kernel::families();
    f.whole = among(family, f.choices, [](auto one) { return one; }, [&] { return name; });
    f.positional = true;
    field& b = add("bandwidths",
                   "one for each member, in units of x or, with a bandwidth rule, of sqrt(M): sigma of gaussian and laplacian, "
                   "c, length; by default 1",
                   kind::list);
    b.positional = true;
    field& w = add("weights", "of the members; by default 1 each", kind::list);
    w.positional = true;
    add("shape",
        "alpha of rational_quadratic, which needs it; offset of polynomial, by default 1; eps of inverse_multiquadric, floor of "
        "laplacian and energy, by default 0",
        kind::number)
        .number = std::numeric_limits<double>::infinity();
    add("degree", "of polynomial, (x . y / bandwidth^2 + shape)^degree", kind::whole).whole = runtime::kernel::usual_degree;
    return {};
  }
  index_t count(const char* name, const char* text) {
    field& f = add(name, text, kind::whole);
    f.required = f.positional = true;
    return 0;
  }
  template <class Enum>
  void choice(const char* name, Enum& option, const char* text) {
    (*this)(name, option, text);
    to_.fields.back().required = to_.fields.back().positional = true;
  }
  void operator()(const char* name, double& option, const char* text) { add(name, text, kind::number).number = option; }
  void operator()(const char* name, scalar& option, const char* text) {
    add(name, text, kind::scalar).number = option.value();
  }
  void operator()(const char* name, bool& option, const char* text) { add(name, text, kind::flag).whole = option; }
  void operator()(const char* name, index_t& option, const char* text) { add(name, text, kind::whole).whole = option; }
  void operator()(const char* name, std::uint64_t& option, const char* text) {
    add(name, text, kind::whole).whole = index_t(option);
  }
  void operator()(const char* name, std::vector<index_t>&, const char* text) { add(name, text, kind::wholes); }
  template <class Enum, class = std::enable_if_t<std::is_enum_v<Enum>>>
  void operator()(const char* name, Enum& option, const char* text) {
    field& f = add(name, text, kind::choice);
    for (const char* one : names_of(option)) f.choices.push_back(one);
    f.whole = index_t(option);
  }
  void operator()(const char* name, numbers&, const char* shape, const char* text) {
    add(name, text, kind::numbers).shape = shape_of(shape);
  }
  void operator()(const char* name, labels&, const char* shape, const char* text) {
    add(name, text, kind::labels).shape = shape_of(shape);
  }
  void scale(scalar& log_scale, double& max_scale, const char* text) {
    (*this)("log_scale", log_scale, text);
    to_.fields.back().two_sided = true;
    (*this)("max_scale", max_scale,
            "the scale is at most this; there log_scale has a gradient (upstream included) if a step against it leads back "
            "inside");
  }
  void upstream(scalar&) {}
  template <class Output>
  void gradient(const char* name, Output&) {
    to_.fields[std::size_t(to_.field_named(name))].gradient = int(to_.gradients.size());
    to_.gradients.push_back(to_.field_named(name));
  }
  template <class Output>
  void kernel_gradients(const runtime::kernel&, Output& weights, Output& bandwidths) {
    gradient("weights", weights);
    gradient("bandwidths", bandwidths);
    gradient("shape", bandwidths);
  }
  scalar_out<float> value(const char* text) {
    add_result("value", text, dtype::float32, {});
    return scalar_out<float>(&value_);
  }
  template <class V>
  scalar_out<V> values(std::initializer_list<const char*> names, const char* text) {
    add_result("values", text, dtype::float32, {{std::to_string(names.size())}}).names = names;
    return scalar_out<V>(reinterpret_cast<V*>(&value_));  // an address: nothing is run
  }
  matrix_view<float> map(const char* name, const char* shape, const char* text) {
    add_result(name, text, dtype::float32, shape_of(shape));
    return {};
  }
  template <class... Any>
  void run(const Any&...) {}
  template <class... Any>
  void with_kernel(const Any&...) {}
  void found(const char* name, double, const char* text) { add_result(name, text, dtype::float64, {}); }
  void found(const char* name, index_t, const char* text) { add_result(name, text, dtype::int64, {}); }
  template <class Number>
  void found(const char* name, const char* shape, const std::vector<Number>&, const char* text) {
    add_result(name, text, std::is_same_v<Number, double> ? dtype::float64 : dtype::int64, shape_of(shape));
  }

 private:
  field& add(const char* name, const char* text, runtime::kind kind) {
    to_.fields.push_back({name, text, kind});
    return to_.fields.back();
  }
  view array(const char* name, runtime::kind kind, const char* shape, const char* text, bool required) {
    field& f = add(name, text, kind);
    f.shape = shape_of(shape);
    f.required = f.positional = required;
    to_.matrices += kind == kind::matrix;
    return {};
  }
  runtime::result& add_result(const char* name, const char* text, dtype type, const named_sizes& sizes) {
    to_.results.push_back({name, text, type, sizes});
    return to_.results.back();
  }
  verb& to_;
  float value_ = 0;
};

}  // namespace detail

}  // namespace craft::runtime
