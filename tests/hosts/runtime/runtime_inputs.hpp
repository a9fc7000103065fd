// What the tests of craft/adapters/runtime.hpp share: the element types, arrays as the runtime describes them, and a call of any
// verb with something for each of its fields.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "catch.hpp"
#include "craft/adapters/runtime.hpp"
#include "devices.hpp"
#include "rejects.hpp"

namespace craft_test {

namespace rt = craft::runtime;
using rt::dtype;
using rt::kind;

#ifdef CRAFT_TEST_CUDA
using half = __half;
using bfloat16 = __nv_bfloat16;
#else
using half = Eigen::half;
using bfloat16 = Eigen::bfloat16;
#endif
template <class S>
using stored_as = device<tested_backend, S>;
using every_type = std::tuple<stored_as<double>, stored_as<float>, stored_as<half>, stored_as<bfloat16>>;

template <class S>
constexpr dtype type_of = std::is_same_v<S, double>         ? dtype::float64
                          : std::is_same_v<S, float>        ? dtype::float32
                          : std::is_same_v<S, half>         ? dtype::float16
                          : std::is_same_v<S, std::int64_t> ? dtype::int64
                          : std::is_same_v<S, std::int32_t> ? dtype::int32
                                                            : dtype::bfloat16;

template <class D, class S>
rt::matrix in(const array<D, S>& a) {
  const auto v = a.in();
  return {v.data(), v.rows(), v.cols(), v.stride(), type_of<S>, D::space};
}
/// A list.
inline rt::matrix in(const craft::labels& l) {
  return {l.data(), l.size(), 1, l.stride(), l.wide() ? dtype::int64 : dtype::int32, l.where(), 1};
}
inline rt::matrix in(const craft::numbers& l) {
  return {l.data(), l.size(), 1, l.stride(), l.wide() ? dtype::float64 : dtype::float32, l.where(), 1};
}
/// An array without dimensions.
template <class D, class S>
rt::matrix number_in(const array<D, S>& a) {
  return {a.in().data(), 1, 1, 1, type_of<S>, D::space, 0};
}
template <class D, class S>
rt::place to(array<D, S>& a, craft::write mode = craft::write::overwrite) {
  const auto v = a.out();
  return {v.data(), v.rows(), v.cols(), v.stride(), type_of<S>, D::space, mode};
}

/// Integers in the memory of D, that a verb writes.
template <class D, class I>
class whole_array {
 public:
  explicit whole_array(index_t size)
      : size_(size), data_(static_cast<I*>(D::backend::allocate((std::size_t(size) + 1) * sizeof(I)))) {
    const std::vector<I> sevens(std::size_t(size), I(7));
    D::backend::upload(data_, sevens.data(), sevens.size() * sizeof(I));
  }
  whole_array(const whole_array&) = delete;
  whole_array& operator=(const whole_array&) = delete;
  ~whole_array() { D::backend::release(data_); }
  rt::place place() { return {data_, 1, size_, size_, type_of<I>, D::space}; }
  std::vector<index_t> get() const {
    std::vector<I> all(static_cast<std::size_t>(size_));
    D::backend::download(all.data(), data_, all.size() * sizeof(I));
    return {all.begin(), all.end()};
  }
  std::string bits() const {
    const std::vector<index_t> all = get();
    return std::string(reinterpret_cast<const char*>(all.data()), all.size() * sizeof(index_t));
  }

 private:
  index_t size_;
  I* data_;
};

// ---------------------------------------------------------------------------------------------------------
// A call of any verb

/// What is given for a field: nothing, a value, or an array.
struct given {
  std::variant<std::monostate, double, index_t, bool, std::string, std::vector<double>, std::vector<index_t>, rt::array> value{};
  std::vector<std::int64_t> sizes{}, strides{};  ///< of an array

  bool is_array() const { return std::holds_alternative<rt::array>(value); }
  rt::array& array() { return std::get<rt::array>(value); }
  void to(rt::call& c, int field) const {
    if (is_array()) {
      rt::array a = std::get<rt::array>(value);
      a.dimensions = int(sizes.size());
      a.sizes = sizes.data();
      a.strides = strides.empty() ? nullptr : strides.data();
      return c.give(field, a);
    }
    std::visit(
        [&](const auto& v) {
          using V = std::decay_t<decltype(v)>;
          if constexpr (!std::is_same_v<V, std::monostate> && !std::is_same_v<V, rt::array>) c.give(field, v);
        },
        value);
  }
};

/// Something for every field of a verb, and places for all that it writes. A size or a count that is new here has to be added to
/// those below: then a new verb is tested like all others.
template <class D>
class full_call {
 public:
  using T = typename D::compute;
  const rt::verb& verb;
  std::vector<given> arguments;

  /// soft: targets that are shares.
  explicit full_call(const rt::verb& v, bool soft = false) : verb(v) {
    // What has no rows on a device reads its labels where it runs: on the host.
    labels_on_host_ = v.matrices == 0;
    for (std::size_t i = 0; i < v.fields.size(); ++i) arguments.push_back(something(v.fields[i], soft));
    if (v.name == std::string("info_nce")) at("direction").value = std::string("one_way");  // for weights where n is not m
    rt::call c(v);
    give(c);
    c.check();
    for (std::size_t r = 0; r < v.results.size(); ++r) {
      const rt::extent e = c.result_sizes(int(r));
      const auto [rows, cols] = std::pair(e.dimensions == 2 ? e.sizes[0] : 1, e.sizes[e.dimensions == 2 ? 1 : 0]);
      results.push_back(place(c.result_type(int(r)), rows, cols));
    }
    for (std::size_t g = 0; g < v.gradients.size(); ++g) {
      gradients.push_back({});
      gradients.back().mode = craft::write::none;
      if (v.fields[std::size_t(v.gradients[g])].kind == kind::targets && !soft) continue;
      // Of a Gaussian, which this is, there is none by shape.
      if (v.fields[std::size_t(v.gradients[g])].name == std::string("shape")) continue;
      const rt::extent e = c.gradient_sizes(int(g));
      gradients.back() = place(c.type(), e.sizes[0], e.sizes[1]);
    }
  }
  full_call(const full_call&) = delete;

  given& at(const char* name) { return arguments[std::size_t(verb.field_named(name))]; }
  void give(rt::call& c) const {
    for (std::size_t i = 0; i < arguments.size(); ++i) arguments[i].to(c, int(i));
  }
  void places(rt::call& c) const {
    for (std::size_t r = 0; r < results.size(); ++r) c.result(int(r), results[r]);
    for (std::size_t g = 0; g < gradients.size(); ++g) c.gradient(int(g), gradients[g]);
  }
  /// The whole of it.
  void run(const craft::any_device& device) const {
    rt::call c(verb);
    give(c);
    c.check();
    places(c);
    c.run(device);
  }
  /// Of all that may be written, for `watched`.
  std::string bits() const {
    std::string all;
    for (const auto& read : read_) all += read();
    return all;
  }

  std::vector<rt::place> results, gradients;

 private:
  static index_t size(const std::string& name) {
    static const std::map<std::string, index_t> known = {{"n", 9}, {"m", 8},       {"d", 5},         {"C", 3},
                                                         {"k", 4}, {"classes", 3}, {"per_class", 2}, {"count", 4}};
    INFO("tests/hosts/runtime/runtime_inputs.hpp has no size for " << name);
    REQUIRE(known.count(name) == 1);
    return known.at(name);
  }
  given something(const rt::field& f, bool soft) {
    std::vector<std::int64_t> sizes;
    for (const auto& factors : f.shape) {
      std::int64_t all = 1;
      for (const auto& name : factors) all *= size(name);
      sizes.push_back(all);
    }
    const std::vector<index_t> classes = {0, 2, 1, 1, 0, 2, 2, 0, 1};
    const auto real = [&](auto stored, const reals& values) {
      return hold<array<D, decltype(stored)>>(sizes, type_of<decltype(stored)>, values, index_t(sizes.size() > 1));
    };
    switch (f.kind) {
      case kind::matrix: return real(typename D::scalar(), random_reals(sizes[0], sizes[1], ++seed_));
      case kind::computed: return real(T(), random_reals(sizes[0], sizes[1], ++seed_));
      case kind::numbers: return real(T(), random_reals(1, sizes[0], ++seed_).cwiseAbs().eval());
      case kind::scalar: return real(T(), reals::Constant(1, 1, 0.5));
      case kind::targets:
        if (soft) return real(T(), reals::Constant(sizes[0], sizes[1], 1 / double(sizes[1])));
        sizes.resize(1);
        [[fallthrough]];
      case kind::labels: {
        const std::vector<index_t> labels(classes.begin(), classes.begin() + sizes[0]);
        if (labels_on_host_) return hold<label_array<device<cpu_backend, double>>>(sizes, dtype::int64, labels);
        return hold<label_array<D>>(sizes, dtype::int64, labels);
      }
      case kind::list:
        return hold<array<device<cpu_backend, double>>>({2}, dtype::float64, std::vector<double>{1, 2});
      case kind::choice:
        if (f.choices == rt::kernel::families()) return {std::string("gaussian")};
        if (f.required) return {std::string(f.choices[0])};
        return {};
      case kind::whole:
        if (f.required) return {size(f.name)};
        if (std::string(f.name) == "subset_size") return {index_t(4)};  // rows of x, of which there are no 1000
        return {};
      default: return {};
    }
  }
  template <class Array, class... A>
  given hold(const std::vector<std::int64_t>& sizes, dtype type, const A&... a) {
    const auto made = std::make_shared<Array>(a...);
    held_.push_back(made);
    const auto v = made->in();
    rt::array described{v.data(), type, craft::memory::host, int(sizes.size())};
    std::vector<std::int64_t> strides(sizes.size(), 1);
    if constexpr (std::is_same_v<std::decay_t<decltype(v)>, craft::labels>) {
      described.where = v.where();
    } else {
      described.where = std::decay_t<decltype(v)>::space;
      if (sizes.size() > 1) strides[0] = v.stride();
    }
    return {described, sizes, strides};
  }
  rt::place place(dtype type, index_t rows, index_t cols) {
    const auto keep = [&](const auto& made) {
      held_.push_back(made);
      read_.push_back([made] { return made->bits(); });
      return made;
    };
    if (type == dtype::int64) return keep(std::make_shared<whole_array<D, std::int64_t>>(rows * cols))->place();
    if (type == dtype::float64) return craft_test::to(*keep(std::make_shared<array<D, double>>(rows, cols, 7.0)));
    return craft_test::to(*keep(std::make_shared<array<D, float>>(rows, cols, 7.0)));
  }

  bool labels_on_host_ = false;
  int seed_ = 100;
  std::vector<std::shared_ptr<void>> held_;
  std::vector<std::function<std::string()>> read_;
};

/// Every verb, and once more with targets that are shares where it takes such.
template <class F>
void for_each_verb(const F& f) {
  for (const rt::verb& v : rt::verbs()) {
    f(v, false);
    for (const rt::field& field : v.fields)
      if (field.kind == kind::targets) f(v, true);
  }
}

}  // namespace craft_test
