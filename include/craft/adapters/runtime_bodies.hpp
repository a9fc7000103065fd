// The bodies of craft/adapters/runtime.hpp, for exactly one source of a program; the library craft::runtime is that source.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>

#ifdef __unix__
#include <pthread.h>
#endif

#include "craft/adapters/runtime.hpp"
#include "craft/rehearsal.hpp"
#include "craft/verbs.hpp"
#if __has_include("craft/cuda.hpp")
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace craft::runtime {

// ---------------------------------------------------------------------------------------------------------
// Names

namespace detail {

/// "a, b or c"
template <class Names>
std::string alternatives(const Names& names) {
  std::string text;
  for (std::size_t k = 0; k < names.size(); ++k)
    text += (k == 0 ? "" : k + 1 < names.size() ? ", " : " or ") + std::string(names[k]);
  return text;
}
/// Which of the names it is. Throws option_error.
template <class Names>
int among(const std::string& what, std::string_view name, const Names& names) {
  for (std::size_t k = 0; k < names.size(); ++k)
    if (name == names[k]) return int(k);
  fail<option_error>(what, ": expected ", names.empty() ? "none" : alternatives(names), ", got ", name);
}
template <class All, class Name>
int named(const std::string& what, std::string_view name, const All& all, const Name& name_of) {
  std::vector<const char*> names;
  for (const auto& one : all) names.push_back(name_of(one));
  return among(what, name, names);
}

}  // namespace detail

int verb::field_named(std::string_view field) const {
  return detail::named(std::string(name) + ": argument", field, fields, [](const auto& f) { return f.name; });
}
int verb::result_named(std::string_view result) const {
  return detail::named(std::string(name) + ": result", result, results, [](const auto& r) { return r.name; });
}
int verb::gradient_named(std::string_view gradient) const {
  return detail::named(std::string(name) + ": gradients", gradient, gradients,
                       [&](int f) { return fields[std::size_t(f)].name; });
}
const verb& verb_named(std::string_view name) {
  return verbs()[std::size_t(detail::named("craft", name, verbs(), [](const verb& v) { return v.name; }))];
}

// ---------------------------------------------------------------------------------------------------------
// Kernels by name

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
    {"dot_product", kernel::form::dot_product, {}, false, false},
    {"cosine", kernel::form::cosine, {}, false, false},
};

/// f(kernel), with the type that computes it.
template <class F>
void visit(const kernel& k, const F& f) {
  if (k.form() == kernel::form::dot_product) return f(dot_product<>());
  if (k.form() == kernel::form::cosine) return f(cosine<>());
  std::vector<double> sigmas, weights;
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

kernel::kernel(std::string_view name, const std::vector<double>& bandwidths, const std::vector<double>& weights, double shape) {
  const detail::family& family = detail::families[detail::among("kernel", name, families())];
  form_ = family.form;
  require<option_error>(family.bandwidth || bandwidths.empty(), "kernel: ", name, " takes no bandwidth, got ", bandwidths.size());
  require<option_error>(family.shape || shape == 0, "kernel: ", name, " takes no shape, got ", shape);
  require<option_error>(form_ == form::distance || weights.empty(), "kernel: ", name, " takes no weight, got ", weights.size());
  const std::size_t count = bandwidths.empty() ? 1 : bandwidths.size();
  require<option_error>(weights.empty() || weights.size() == count, "kernel: expected one weight per kernel, got ",
                        weights.size(), " weights for ", count, count == 1 ? " kernel" : " kernels");
  members_.clear();
  if (form_ != form::distance) return;
  members_.assign(count, {family.distance, 1, 1, shape});
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

// ---------------------------------------------------------------------------------------------------------
// Descriptions written down: the Call that keeps what it is told (craft/describe.hpp)

namespace detail {

inline shape shape_of(std::string_view text) {
  shape all;
  const auto parts = [](std::string_view of, char between) {
    std::vector<std::string> list;
    for (std::size_t from = 0; from <= of.size();) {
      const std::size_t end = std::min(of.find(between, from), of.size());
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
    f.whole = among(name, family, f.choices);
    f.positional = true;
    field& b = add("bandwidths",
                   "one for each member, in units of x or, with a bandwidth rule, of sqrt(M): sigma of gaussian and laplacian, "
                   "c, length; by default 1",
                   kind::list);
    b.positional = true;
    field& w = add("weights", "of the members; by default 1 each", kind::list);
    w.positional = true;
    add("shape", "alpha of rational_quadratic, eps of inverse_multiquadric, floor of laplacian and energy", kind::number);
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
  runtime::result& add_result(const char* name, const char* text, dtype type, const shape& sizes) {
    to_.results.push_back({name, text, type, sizes});
    return to_.results.back();
  }
  verb& to_;
  float value_ = 0;
};

// ---------------------------------------------------------------------------------------------------------
// A call with its types: the Call that gives what the host has given

template <memory M>
struct stored {
  using float16 = Eigen::half;
  using bfloat16 = Eigen::bfloat16;
};
#if __has_include("craft/cuda.hpp")
template <>
struct stored<memory::device> {
  using float16 = __half;
  using bfloat16 = __nv_bfloat16;
};
#endif

/// What stands for the targets of a cross-entropy.
template <class T, memory M>
struct targets_given {
  bool shares;
  craft::labels labels;
  matrix_view<const T, M> matrix;
};

}  // namespace detail

template <class Context, class Stored>
class typed_call {
 public:
  using S = Stored;
  using T = compute_t<S>;
  static constexpr memory space = Context::space;
  typed_call(const Context& ctx, call& c) : ctx_(ctx), call_(c) {}

  auto matrix(const char*, const char*, const char*) { return view<S>(next()); }
  auto optional_matrix(const char*, const char*, const char*) { return view<S>(next()); }
  auto computed_matrix(const char*, const char*, const char*) { return view<T>(next()); }
  detail::targets_given<T, space> targets(const char*, const char*, const char*) {
    const auto& a = next();
    const bool shares = call_.array_of(a).dimensions == 2;
    return {shares, shares ? labels() : list<labels>(a), shares ? view<T>(a) : matrix_view<const T, space>()};
  }
  labels required_labels(const char*, const char*, const char*) { return list<labels>(next()); }
  const runtime::kernel& kernel(const char*, const char*, const char*) {
    next_ += 4;
    return call_.kernel_;
  }
  index_t count(const char*, const char*) { return next().whole; }
  template <class Enum>
  void choice(const char*, Enum& option, const char*) {
    option = Enum(next().whole);
  }
  void operator()(const char*, double& option, const char*) {
    if (const auto& a = next(); a.is != form::missing) option = a.number;
  }
  void operator()(const char*, scalar& option, const char*) {
    const auto& a = next();
    if (a.is == form::number) option = a.number;
    if (a.is == form::array) option = scalar_of(call_.array_of(a));
  }
  template <class Whole, class = std::enable_if_t<std::is_integral_v<Whole> || std::is_enum_v<Whole>>>
  void operator()(const char*, Whole& option, const char*) {
    if (const auto& a = next(); a.is != form::missing) option = Whole(a.whole);
  }
  void operator()(const char*, std::vector<index_t>& option, const char*) {
    if (const auto& a = next(); a.is != form::missing) option = call_.wholes_[std::size_t(a.at)];
  }
  void operator()(const char*, numbers& option, const char*, const char*) { option = list<numbers>(next()); }
  void operator()(const char*, labels& option, const char*, const char*) { option = list<labels>(next()); }
  void scale(scalar& log_scale, double& max_scale, const char* text) {
    (*this)("log_scale", log_scale, text);
    (*this)("max_scale", max_scale, text);
  }
  void upstream(scalar& option) { option = call_.upstream_; }

  void gradient(const char*, output<T, space>& to) { to = destination(call_.gradients_[gradient_++]); }
  /// Of families with two parameters for a bandwidth the verb gives them by turns: for `finish` to split.
  void kernel_gradients(const runtime::kernel& k, output<T, space>& weights, output<T, space>& bandwidths) {
    gradient("weights", weights);
    gradient("bandwidths", by_bandwidth_);
    gradient("shape", by_shape_);
    if (!detail::is_paired(k) || (!by_bandwidth_.wanted() && !by_shape_.wanted())) {
      bandwidths = by_bandwidth_;
      return;
    }
    const index_t count = index_t(k.members().size());
    after_.emplace(ctx_);
    paired_ = {after_->template take<T>(2 * count), 1, 2 * count};
    bandwidths = overwrite(paired_);
  }
  scalar_out<T, space> value(const char*) { return scalar_out<T, space>(destination(next_result()).to.data()); }
  template <class V>
  scalar_out<V, space> values(std::initializer_list<const char*>, const char*) {
    return scalar_out<V, space>(static_cast<V*>(static_cast<void*>(destination(next_result()).to.data())));
  }
  matrix_view<T, space> map(const char*, const char*, const char*) { return destination(next_result()).to; }

  template <class F>
  void run(const F& f) {
    f(ctx_);
    finish();
  }
  template <class F>
  void run(const F& f, const runtime::kernel& k) {
    detail::visit(k, [&](const auto& typed) { f(ctx_, typed); });
    finish();
  }
  template <class F>
  void run(const F& f, const detail::targets_given<T, space>& t) {
    if (t.shares)
      f(ctx_, t.matrix);
    else
      f(ctx_, t.labels);
    finish();
  }
  /// f(one of the types that kernels are computed by), for a kernel of another type.
  template <class K, class F>
  void with_kernel(const K& k, const F& f) {
    std::vector<runtime::kernel::member> members;
    detail::append(members, k);
    detail::visit(runtime::kernel(std::move(members)), f);
  }
  void found(const char*, double number, const char*) { deliver(std::vector<double>{number}); }
  void found(const char*, index_t whole, const char*) { deliver(std::vector<index_t>{whole}); }
  template <class Number>
  void found(const char*, const char*, const std::vector<Number>& numbers, const char*) {
    deliver(numbers);
  }

 private:
  using form = call::argument::form;
  using engine_of = typename Context::engine;

  const call::argument& next() { return call_.arguments_[next_++]; }
  const place& next_result() { return call_.results_[result_++]; }
  template <class Number>
  matrix_view<const Number, space> view(const call::argument& a) const {
    if (a.is == form::missing) return {};
    const runtime::matrix& m = call_.array_of(a);
    return {static_cast<const Number*>(m.data), m.rows, m.cols, m.stride};
  }
  template <class List>
  List list(const call::argument& a) const {
    return a.is == form::missing ? List() : list_of<List>(call_.array_of(a));
  }
  static output<T, space> destination(const place& p) {
    if (p.mode == write::none) return {};
    return {matrix_view<T, space>(static_cast<T*>(p.data), p.rows, p.cols, p.stride), p.mode};
  }
  /// The first of each pair to bandwidths, the sum of the second ones to shape.
  void finish() {
    if (!after_) return;
    auto& e = *after_;
    const index_t count = paired_.cols() / 2;
    T* one_each = e.template take<T>(count);
    const auto every_second = [&](index_t first) {
      engine::load(e, matrix_view<const T, space>(paired_.data() + first, count, 1, 2), one_each);
    };
    every_second(0);
    engine::store(e, one_each, by_bandwidth_, 1.0);
    every_second(1);
    for (index_t q = 0; q < count; ++q) {
      engine::store(e, one_each + q, by_shape_, 1.0);
      if (by_shape_.wanted()) by_shape_.mode = write::accumulate;
    }
  }
  /// What came to the host goes where the host program wants it: there, or to the device.
  template <class Number>
  void deliver(const std::vector<Number>& numbers) {
    const place& p = next_result();
    if (p.mode == write::none) return;
    const auto copy = [&](auto narrow) {
      using N = decltype(narrow);
      const std::vector<N> converted(numbers.begin(), numbers.end());
      N* to = static_cast<N*>(p.data);
      if (p.where == memory::host)
        std::copy(converted.begin(), converted.end(), to);
      else if constexpr (space == memory::device)
        engine_of(ctx_).from_host(converted.data(), index_t(converted.size()), to);
    };
    if (bytes_of(p.type) == 8) return copy(Number());
    copy(std::conditional_t<std::is_same_v<Number, double>, float, std::int32_t>());
  }

  const Context& ctx_;
  call& call_;
  std::size_t next_ = 0, result_ = 0, gradient_ = 0;
  std::optional<engine_of> after_;
  matrix_view<T, space> paired_{};  ///< gradients as the verb gives them, if that is not how they are wanted
  output<T, space> by_bandwidth_{}, by_shape_{};
};

namespace detail {

template <class V>
void run(call& c, const any_device& device) {
  const auto typed = [&](const auto& ctx, auto stored) {
    typed_call<std::decay_t<decltype(ctx)>, decltype(stored)> t(ctx, c);
    V::call(t);
  };
  device.visit([&](const auto& ctx) {
    using half = stored<std::decay_t<decltype(ctx)>::space>;
    switch (c.stored_type()) {
      case dtype::float64: return typed(ctx, double());
      case dtype::float16: return typed(ctx, typename half::float16());
      case dtype::bfloat16: return typed(ctx, typename half::bfloat16());
      default: return typed(ctx, float());
    }
  });
}

/// The verb on a device that computes nothing.
template <class V>
void rehearse(call& c) {
  const rehearsal ctx;
  if (c.type() == dtype::float64) {
    typed_call<rehearsal, double> t(ctx, c);
    V::call(t);
  } else {
    typed_call<rehearsal, float> t(ctx, c);
    V::call(t);
  }
}

template <class V, class = void>
constexpr const char* pullback_of = nullptr;
template <class V>
constexpr const char* pullback_of<V, std::void_t<decltype(V::pullback)>> = V::pullback;

template <class... V>
std::vector<verb> described(verb_list<V...>) {
  std::vector<verb> all;
  const auto add = [&](auto v) {
    using W = decltype(v);
    verb one{W::name, W::module, W::text, pullback_of<W>, {}, {}, {}, 0, &run<W>, nullptr};
    if constexpr (*W::module != '\0') one.rehearse = &rehearse<W>;  // of what is differentiated, and so traced
    recorder r(one);
    W::call(r);
    for (field& f : one.fields) f.two_sided &= !one.results.empty();  // who pulls a map back is given what comes from above
    all.push_back(std::move(one));
  };
  (add(V()), ...);
  return all;
}

}  // namespace detail

const std::vector<verb>& verbs() {
  static const std::vector<verb> all = detail::described(craft::verbs::all());
  return all;
}

// ---------------------------------------------------------------------------------------------------------
// Calls

call::call(const runtime::verb& verb) : verb_(verb), arguments_(verb.fields.size()) {
  arrays_.reserve(std::size_t(verb.matrices) + 2);
  const place unwanted{nullptr, 0, 0, 0, dtype::float32, memory::host, write::none};
  results_.assign(verb.results.size(), unwanted);
  gradients_.assign(verb.gradients.size(), unwanted);
}

void call::add_fault(const std::string& fault, severity how_bad) {
  faults_ += (faults_.empty() ? "" : "; ") + fault;
  worst_ = std::max(worst_, how_bad);
  checked_ = false;
}
void call::refuse(const std::string& fault, bool type) { add_fault(fault, type ? severity::type : severity::shape); }
void call::refuse(int field, const std::string& fault, bool type) {
  refuse(fault, type);
  arguments_.at(std::size_t(field)).is = argument::form::refused;
}
void call::wrong(const field& f, const std::string& got) {
  const std::string choices = f.kind == kind::choice ? " (" + detail::alternatives(f.choices) + ")" : "";
  refuse(std::string(f.name) + ": expected " + detail::expected(f.kind) + choices + ", got " + got, true);
}
call::argument& call::at(int field, bool allowed, const char* got) {
  static thread_local argument nowhere;
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  checked_ = false;
  if (allowed) return arguments_[std::size_t(field)];
  wrong(f, got);
  arguments_[std::size_t(field)].is = argument::form::refused;
  return nowhere;
}

void call::give(int field, const array& value) {
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  argument& a = at(field, detail::is_array(f.kind), "an array");
  if (!detail::is_array(f.kind)) return;
  a.at = int(arrays_.size());
  arrays_.emplace_back();
  const std::string type = detail::type_fault(f.name, f.kind, value);
  const std::string layout = detail::layout_fault(f.name, f.kind, value, arrays_.back());
  a.is = layout.empty() ? argument::form::array : argument::form::refused;
  if (!type.empty()) refuse(type, true);
  if (!layout.empty()) refuse(layout, false);
}
void call::give(int field, const matrix& value) {
  const index_t side_by_side = value.dimensions == 2 ? value.cols : 1;
  const std::int64_t sizes[] = {value.rows, value.cols}, strides[] = {value.stride != 0 ? value.stride : side_by_side, 1};
  give(field, array{value.data, value.type, value.where, value.dimensions, sizes, strides});
}
void call::give(int field, double value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::list) return give(field, std::vector<double>{value});
  argument& a = at(field, k == kind::number || k == kind::scalar, "a number");
  a.is = argument::form::number;
  a.number = value;
}
void call::give(int field, index_t value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::number || k == kind::scalar || k == kind::list) return give(field, double(value));
  argument& a = at(field, k == kind::whole, "an integer");
  a.is = argument::form::whole;
  a.whole = value;
}
void call::give(int field, bool value) {
  argument& a = at(field, verb_.fields.at(std::size_t(field)).kind == kind::flag, value ? "true" : "false");
  a.is = argument::form::whole;
  a.whole = value;
}
void call::give(int field, std::string_view value) {
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  argument& a = at(field, f.kind == kind::choice, "text");
  if (f.kind != kind::choice) return;
  a.is = argument::form::whole;
  for (std::size_t k = 0; k < f.choices.size(); ++k)
    if (value == f.choices[k]) {
      a.whole = index_t(k);
      return;
    }
  a.is = argument::form::refused;
  add_fault(std::string(f.name) + ": expected " + detail::alternatives(f.choices) + ", got " + std::string(value),
            severity::option);
}
void call::give(int field, const std::vector<double>& value) {
  argument& a = at(field, verb_.fields.at(std::size_t(field)).kind == kind::list, "several numbers");
  a.is = argument::form::numbers;
  a.at = int(numbers_.size());
  numbers_.push_back(value);
}
void call::give(int field, const std::vector<index_t>& value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::list) return give(field, std::vector<double>(value.begin(), value.end()));
  argument& a = at(field, k == kind::wholes, "several integers");
  a.is = argument::form::wholes;
  a.at = int(wholes_.size());
  wholes_.push_back(value);
}

bool call::given(int field) const { return arguments_.at(std::size_t(field)).is != argument::form::missing; }

std::vector<double> call::list(int field) const {
  const argument& a = arguments_[std::size_t(field)];
  if (a.is == argument::form::numbers) return numbers_[std::size_t(a.at)];
  if (a.is != argument::form::array) return {};
  const matrix& m = array_of(a);
  if (m.data == nullptr) return std::vector<double>(std::size_t(std::min<index_t>(m.rows, 1000)), 1.0);  // not known yet
  require<device_error>(m.where == memory::host, verb_.name, ": ", verb_.fields[std::size_t(field)].name,
                        " must lie in host memory");
  std::vector<double> numbers;
  for (index_t i = 0; i < m.rows; ++i)
    numbers.push_back(m.type == dtype::float64 ? static_cast<const double*>(m.data)[i * m.stride]
                                               : double(static_cast<const float*>(m.data)[i * m.stride]));
  return numbers;
}

void call::check() {
  const std::string faults = faults_;
  const severity worst = worst_;
  check_arguments();
  check_sizes();
  check_kernel();
  if (worst_ != severity::none) {
    const std::string text = std::string(verb_.name) + ": " + faults_;
    const severity how_bad = std::exchange(worst_, worst);
    faults_ = faults;  // whoever asks again is told the same
    if (how_bad == severity::type) throw type_error(text);
    if (how_bad == severity::shape) throw shape_error(text);
    throw option_error(text);
  }
  checked_ = true;
}

/// What is missing, and types that do not go together.
void call::check_arguments() {
  dtype first = dtype::other;
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is == argument::form::missing && f.required)
      refuse(std::string(f.name) + " is missing: expected " + detail::expected(f.kind), true);
    // Sizes of what is made follow from numbers that have no default: nothing is as large as that.
    constexpr index_t most = std::numeric_limits<index_t>::max() / 8;
    if (f.kind == kind::whole && f.required && (a.whole < 0 || a.whole > most))
      refuse(std::string(f.name) + " must not be negative or beyond all memory, got " + std::to_string(a.whole), false);
    if (a.is != argument::form::array || !detail::is_real(array_of(a).type)) continue;
    const matrix& m = array_of(a);
    if (f.kind == kind::matrix && first == dtype::other) first = m.type;
    const bool soft = f.kind == kind::computed || (f.kind == kind::targets && m.dimensions == 2);
    const dtype expected = soft ? computing(first) : first;
    if ((soft || f.kind == kind::matrix) && first != dtype::other && m.type != expected)
      refuse("expected " + std::string(f.name) + " of type " + name(expected) + ", got " + name(m.type), true);
  }
  if (first != dtype::other) type_ = first;
}

/// The kernel by its name, bandwidths, weights and shape, if the verb has one.
void call::check_kernel() {
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const field& f = verb_.fields[i];
    if (f.kind != kind::choice || f.choices != kernel::families()) continue;
    const argument* a = &arguments_[i];
    kernel_field_ = int(i);
    if (std::any_of(a, a + 4, [](const argument& one) { return one.is == argument::form::refused; })) return;
    try {
      const char* family = f.choices[std::size_t(given(int(i)) ? a->whole : f.whole)];
      kernel_ = kernel(family, list(int(i) + 1), list(int(i) + 2), a[3].number);
    } catch (const option_error& e) {
      add_fault(e.what(), severity::option);
    }
  }
}

index_t call::size_named(const std::string& name) const {
  for (const auto& [known, size] : sizes_)
    if (*known == name) return size;
  for (std::size_t i = 0; i < arguments_.size(); ++i)
    if (verb_.fields[i].kind == kind::whole && name == verb_.fields[i].name)
      return given(int(i)) ? arguments_[i].whole : verb_.fields[i].whole;
  require<shape_error>(name.find_first_not_of("0123456789") == std::string::npos, verb_.name, ": size ", name,
                       " is that of an array that is not there");
  return std::stoll(name);
}

void call::check_sizes() {
  std::vector<std::size_t> first;  // by which array a size is known
  sizes_.clear();
  first.reserve(verb_.fields.size());
  sizes_.reserve(verb_.fields.size());
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is != argument::form::array || f.shape.empty()) continue;
    const matrix& m = array_of(a);
    for (int k = 0; k < std::min(m.dimensions, int(f.shape.size())); ++k) {
      const index_t size = k == 0 ? m.rows : m.cols;
      const std::string& name = f.shape[std::size_t(k)][0];
      std::size_t known = 0;
      while (known < sizes_.size() && *sizes_[known].first != name) ++known;
      if (known == sizes_.size()) {
        sizes_.emplace_back(&name, size);
        first.push_back(i);
      } else if (sizes_[known].second != size) {
        const field& other = verb_.fields[first[known]];
        const std::string of = std::string(other.name) + " " + detail::sizes_text(array_of(arguments_[first[known]]));
        const std::string is = std::string(f.name) + " " + detail::sizes_text(m);
        const bool columns = k == 1 && m.dimensions == 2 && other.shape.size() == 2 && other.shape[1][0] == name;
        refuse(columns ? of + " and " + is + ": their columns must agree"
                       : is + ": expected " + std::to_string(sizes_[known].second) + (k == 0 ? " rows" : " columns") +
                             ", one per row of " + of,
               false);
      }
    }
  }
}

extent call::sizes(const shape& of) const {
  extent e;
  index_t all = 8;  // bytes of one number, at most
  for (const auto& factors : of) {
    index_t size = 1;
    for (const std::string& factor : factors) {
      const index_t by = size_named(factor);
      const bool fits = by >= 0 && (by == 0 || std::max(size, all) <= std::numeric_limits<index_t>::max() / by);
      require<shape_error>(fits, verb_.name, ": ", factor, " must not be negative or beyond all memory, got ", by);
      size *= by;
      all *= by;
    }
    e.sizes[e.dimensions++] = size;
  }
  return e;
}
/// Throws option_error for what is not there, or has no gradient.
void call::has_gradient(int gradient) const {
  const int field = verb_.gradients.at(std::size_t(gradient));
  const runtime::field& f = verb_.fields[std::size_t(field)];
  require<option_error>(f.kind != kind::matrix || given(field), verb_.name, ": no gradient of ", f.name, ", which is not there");
  const argument& a = arguments_[std::size_t(field)];
  const bool shares = f.kind != kind::targets || (a.is == argument::form::array && array_of(a).dimensions == 2);
  require<option_error>(shares, verb_.name, ": no gradient of ", f.name, ": labels have none, only shares have");
  require<option_error>(kernel_field_ < 0 || field != kernel_field_ + 3 || detail::is_paired(kernel_), verb_.name,
                        ": no gradient of ", f.name, ": this kernel has none");
}
extent call::gradient_sizes(int gradient) const {
  has_gradient(gradient);
  const int field = verb_.gradients.at(std::size_t(gradient));
  const runtime::field& f = verb_.fields[std::size_t(field)];
  const argument& a = arguments_[std::size_t(field)];
  if (f.kind == kind::list) {
    const std::size_t count = field == kernel_field_ + 1 && kernel_.bandwidths() == 0 ? 0 : kernel_.members().size();
    return {a.is == argument::form::array ? array_of(a).dimensions : 1, {index_t(count), 1}};
  }
  return f.shape.empty() ? extent{} : sizes(f.shape);
}
dtype call::result_type(int result) const {
  const dtype t = verb_.results.at(std::size_t(result)).type;
  return t == dtype::float32 ? type() : t;
}

void call::result(int result, const place& to) { results_.at(std::size_t(result)) = to; }
void call::gradient(int gradient, const place& to) { gradients_.at(std::size_t(gradient)) = to; }

namespace detail {

/// A place of these sizes: of a list a row or a column, with numbers apart if that is allowed.
template <class Name>
void fits(const Name& what, const place& p, const extent& e, bool apart) {
  const bool in_a_row = p.rows == 1 && p.cols == e.sizes[0];
  const bool in_a_column = p.rows == e.sizes[0] && p.cols == 1 && (apart || p.rows < 2 || p.stride == 1);
  const bool sized = e.dimensions == 2 ? p.rows == e.sizes[0] && p.cols == e.sizes[1] : in_a_row || in_a_column;
  if (sized && (p.rows < 2 || p.stride >= p.cols)) return;
  fail<shape_error>(what(), ": expected a place of ", sizes_text(e.sizes, e.dimensions), ", got ",
                    craft::detail::shape(p.rows, p.cols), " at a stride of ", p.stride);
}
/// Memory that the call can get at, if there is any.
template <class Name, class Described>
void reachable(const Name& name_of, const Described& d, memory space) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(d.data) % std::uintptr_t(bytes_of(d.type)) == 0;
  if (d.data != nullptr && aligned && d.where == space) return;
  const std::string what = name_of(), fault = null_fault(what, d) + alignment_fault(what, d.data, d.type);
  require<shape_error>(fault.empty(), fault);
  require<device_error>(d.where == space, what, " lies in ", name(d.where), " memory, but the call runs in ", name(space),
                        " memory");
}

}  // namespace detail

/// Of arrays that are read.
void call::check_memory(memory space) const {
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    if (a.is != argument::form::array) continue;
    const kind k = verb_.fields[i].kind;
    const matrix& m = array_of(a);
    const bool also_on_host = k != kind::scalar && !detail::is_matrix(k, m.dimensions);
    detail::reachable([&] { return std::string(verb_.name) + ": " + verb_.fields[i].name; }, m,
                      also_on_host && m.where == memory::host ? memory::host : space);
  }
}
/// Of what is written.
void call::check_results(memory space) const {
  const auto named = [&](const char* is, const char* of) { return std::string(verb_.name) + is + of; };  // where it is told
  const auto typed = [&](const auto& what, const place& p, dtype expected, dtype narrower) {
    if (p.type == expected || p.type == narrower) return;
    fail<type_error>(what(), ": expected a place of type ", name(expected), ", got ", name(p.type));
  };
  for (std::size_t r = 0; r < results_.size(); ++r) {
    const place& p = results_[r];
    const dtype type = result_type(int(r));
    const bool found = verb_.results[r].type != dtype::float32;
    const auto what = [&] { return named(": result ", verb_.results[r].name); };
    if (p.mode == write::none && !found) fail<shape_error>(what(), " has no place");
    if (p.mode == write::none) continue;
    typed(what, p, type, !found ? type : type == dtype::int64 ? dtype::int32 : dtype::float32);
    detail::fits(what, p, result_sizes(int(r)), false);
    detail::reachable(what, p, found && p.where == memory::host ? memory::host : space);
  }
  for (std::size_t g = 0; g < gradients_.size(); ++g) {
    const place& p = gradients_[g];
    const field& f = verb_.fields[std::size_t(verb_.gradients[g])];
    if (p.mode == write::none) continue;
    const auto what = [&] { return named(": gradient of ", f.name); };
    const extent e = gradient_sizes(int(g));
    typed(what, p, type(), type());
    detail::fits(what, p, f.two_sided && p.rows * p.cols == 2 ? extent{1, {2, 1}} : e, true);
    detail::reachable(what, p, space);
  }
}

void call::rehearse() {
  check();
  if (verb_.rehearse == nullptr) return;
  call other = *this;
  const rehearsal memory_of;
  const auto somewhere = [&](index_t rows, index_t stride, dtype type) {
    return memory_of.somewhere(std::size_t(std::max<index_t>(rows, 1) * stride * bytes_of(type)));
  };
  for (matrix& m : other.arrays_) {
    m.type = detail::is_real(m.type) ? type() : m.type;  // as what is computed with
    m.data = somewhere(m.rows, m.stride, m.type), m.where = memory::device;
  }
  for (std::size_t r = 0; r < results_.size(); ++r) {
    const extent e = result_sizes(int(r));
    const index_t rows = e.dimensions == 2 ? e.sizes[0] : 1, cols = e.sizes[e.dimensions == 2 ? 1 : 0];
    other.results_[r] = {somewhere(rows, cols, type()), rows, cols, cols, type(), memory::device, write::overwrite};
  }
  other.type_ = type();
  verb_.rehearse(other);
}

void call::run(const any_device& device) {
  if (!checked_) check();
  for (auto* places : {&results_, &gradients_})
    for (place& p : *places)
      if (p.stride == 0) p.stride = p.cols;
  check_memory(device.space());
  check_results(device.space());
  verb_.run(*this, device);
}

// ---------------------------------------------------------------------------------------------------------
// Threads and signals of the process

namespace detail {
inline bool (*stop_asked)() = nullptr;
#ifdef __unix__
inline bool in_child = false;  // not getpid(), which asks the kernel in every call
inline const int watched = pthread_atfork(nullptr, nullptr, [] { in_child = true; });
inline bool forked() { return in_child; }
#else
inline bool forked() { return false; }
#endif
}  // namespace detail

cpu host_context(int threads) {
  cpu ctx = detail::forked() ? cpu(1) : threads > 0 ? cpu(threads) : cpu();
  if (detail::stop_asked != nullptr) ctx.stop(detail::stop_asked);
  return ctx;
}
void stop_with(bool (*asked)()) { detail::stop_asked = asked; }

}  // namespace craft::runtime
