// The bodies of craft/adapters/runtime.hpp, for exactly one source of a program; the library craft::runtime is that source.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>

#include "craft/adapters/runtime.hpp"
#include "craft/verbs.hpp"
#if __has_include("craft/cuda.hpp")
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace craft::runtime {

// ---------------------------------------------------------------------------------------------------------
// Names

namespace detail {

constexpr const char* dtype_names[] = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "another type"};

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
  fail<option_error>(what, ": expected ", alternatives(names), ", got ", name);
}
template <class All, class Name>
int named(const std::string& what, std::string_view name, const All& all, const Name& name_of) {
  std::vector<const char*> names;
  for (const auto& one : all) names.push_back(name_of(one));
  return among(what, name, names);
}

std::string sizes_text(const std::int64_t* sizes, int count) {
  std::string text = "(";
  for (int k = 0; k < count; ++k) text += (k > 0 ? ", " : "") + std::to_string(sizes[k]);
  return text + (count == 1 ? ",)" : ")");
}
inline std::string sizes_text(const matrix& m) {
  const std::int64_t sizes[] = {m.rows, m.cols};
  return sizes_text(sizes, m.dimensions);
}

}  // namespace detail

const char* name(dtype type) { return detail::dtype_names[int(type)]; }

dtype dtype_named(std::string_view name) {
  for (int q = 0; q < int(dtype::other); ++q)
    if (name == detail::dtype_names[q]) return dtype(q);
  fail<type_error>("expected float64, float32, float16, bfloat16, int64 or int32, got ", name);
}

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
    field& b = add("bandwidths", "one for each member, in units of x or, with a bandwidth rule, of sqrt(M): sigma of gaussian and laplacian, c, "
                                 "length; by default 1", kind::list);
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
  void operator()(const char* name, scalar& option, const char* text) { add(name, text, kind::scalar).number = option.value(); }
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

/// to_q = sum over members of from_(2 q + 1), or the others for themselves: gradients of families with two parameters for a bandwidth.
template <class T>
struct split_parameters_step {
  const T* from;
  index_t count;
  T *first, *second;
  bool add_first, add_second;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    T sum(0);
    for (index_t q = 0; q < count; ++q) {
      if (first) first[q] = from[2 * q] + (add_first ? first[q] : T(0));
      sum += from[2 * q + 1];
    }
    if (second) *second = sum + (add_second ? *second : T(0));
  }
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
    const bool shares = a.array.dimensions == 2;
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
    if (a.is != form::array) return;
    option = a.array.type == dtype::float64 ? scalar(static_cast<const double*>(a.array.data), a.array.where)
                                            : scalar(static_cast<const float*>(a.array.data), a.array.where);
  }
  template <class Whole, class = std::enable_if_t<std::is_integral_v<Whole> || std::is_enum_v<Whole>>>
  void operator()(const char*, Whole& option, const char*) {
    if (const auto& a = next(); a.is != form::missing) option = Whole(a.whole);
  }
  void operator()(const char*, std::vector<index_t>& option, const char*) { option = next().wholes; }
  void operator()(const char*, numbers& option, const char*, const char*) { option = list<numbers>(next()); }
  void operator()(const char*, labels& option, const char*, const char*) { option = list<labels>(next()); }
  void upstream(scalar& option) { option = call_.upstream_; }

  void gradient(const char*, output<T, space>& to) { to = destination(call_.gradients_[gradient_++]); }
  /// Of families with two parameters for a bandwidth the verb gives them by turns.
  void kernel_gradients(const runtime::kernel& k, output<T, space>& weights, output<T, space>& bandwidths) {
    gradient("weights", weights);
    output<T, space> by_bandwidth, by_shape;
    gradient("bandwidths", by_bandwidth);
    gradient("shape", by_shape);
    const bool paired = k.bandwidths() == 2 * index_t(k.members().size());
    require<option_error>(paired || !by_shape.wanted(), call_.verb().name, ": only rational_quadratic has a gradient by shape");
    if (!paired || (!by_bandwidth.wanted() && !by_shape.wanted())) {
      bandwidths = by_bandwidth;
      return;
    }
    after_.emplace(ctx_);
    const index_t count = index_t(k.members().size());
    T* both = after_->template take<T>(2 * count);
    bandwidths = overwrite(matrix_view<T, space>(both, 1, 2 * count));
    const auto at = [](const output<T, space>& o) { return o.wanted() ? o.to.data() : nullptr; };
    split_ = {both, count, at(by_bandwidth), at(by_shape), by_bandwidth.mode == write::accumulate,
              by_shape.mode == write::accumulate};
  }
  scalar_out<T, space> value(const char*) { return scalar_out<T, space>(static_cast<T*>(destination(next_result()).to.data())); }
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
  using engine = typename Context::engine;

  const call::argument& next() { return call_.arguments_[next_++]; }
  const place& next_result() { return call_.results_[result_++]; }
  void here(memory where, const char* what) const {
    require<device_error>(where == space, call_.verb().name, ": ", what, " lies in ", text(where), " memory, but the call runs in ",
                          text(space), " memory");
  }
  static const char* text(memory where) { return where == memory::host ? "host" : "device"; }
  template <class Number>
  matrix_view<const Number, space> view(const call::argument& a) const {
    if (a.is == form::missing) return {};
    here(a.array.where, call_.verb().fields[next_ - 1].name);
    return {static_cast<const Number*>(a.array.data), a.array.rows, a.array.cols, a.array.stride};
  }
  template <class List>
  static List list(const call::argument& a) {
    if (a.is == form::missing) return {};
    const auto& m = a.array;
    if (bytes_of(m.type) == 8) return List(static_cast<const typename List::wide_type*>(m.data), m.rows, m.where, m.stride);
    return List(static_cast<const typename List::narrow_type*>(m.data), m.rows, m.where, m.stride);
  }
  output<T, space> destination(const place& p) const {
    if (p.mode == write::none) return {};
    require<type_error>(p.type == call_.type(), call_.verb().name, ": expected a result or gradient of type ",
                        runtime::name(call_.type()), ", got ", runtime::name(p.type));
    here(p.where, "a result or gradient");
    return {matrix_view<T, space>(static_cast<T*>(p.data), p.rows, p.cols, p.stride), p.mode};
  }
  void finish() {
    if (after_) after_->each(1, split_);
  }
  /// What came to the host goes where the host program wants it: there, or to the device.
  template <class Number>
  void deliver(const std::vector<Number>& numbers) {
    const place& p = next_result();
    constexpr bool real = std::is_same_v<Number, double>;
    const auto copy = [&](auto narrow) {
      using N = decltype(narrow);
      const std::vector<N> converted(numbers.begin(), numbers.end());
      if (p.where == memory::host) {
        std::copy(converted.begin(), converted.end(), static_cast<N*>(p.data));
      } else {
        here(p.where, "a result");
        if constexpr (space == memory::device) engine(ctx_).from_host(converted.data(), index_t(converted.size()), static_cast<N*>(p.data));
      }
    };
    if (p.mode == write::none) return;
    if (p.type == dtype::float64 || p.type == dtype::int64) return copy(Number());
    copy(std::conditional_t<real, float, std::int32_t>());
  }

  const Context& ctx_;
  call& call_;
  std::size_t next_ = 0, result_ = 0, gradient_ = 0;
  std::optional<engine> after_;
  detail::split_parameters_step<T> split_{};
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

template <class V, class = void>
constexpr const char* pullback_of = nullptr;
template <class V>
constexpr const char* pullback_of<V, std::void_t<decltype(V::pullback)>> = V::pullback;

template <class... V>
std::vector<verb> described(verb_list<V...>) {
  std::vector<verb> all;
  const auto add = [&](auto v) {
    using W = decltype(v);
    verb one{W::name, W::module, W::text, pullback_of<W>, {}, {}, {}, 0, &run<W>};
    recorder r(one);
    W::call(r);
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
  const place unwanted{nullptr, 0, 0, 0, dtype::float32, memory::host, write::none};
  results_.assign(verb.results.size(), unwanted);
  gradients_.assign(verb.gradients.size(), unwanted);
}

void call::refuse(const std::string& fault, bool type) {
  faults_ += (faults_.empty() ? "" : "; ") + fault;
  type_fault_ |= type;
}

namespace detail {

constexpr bool is_array(kind k) { return k <= kind::list; }
constexpr bool is_matrix(kind k, int dimensions) {
  return k == kind::matrix || k == kind::computed || (k == kind::targets && dimensions != 1);
}
inline const char* expected(kind k) {
  switch (k) {
    case kind::matrix:
    case kind::computed: return "an array of two dimensions, one sample per row";
    case kind::labels: return "integer labels, one per row";
    case kind::targets: return "integer labels, one per row, or shares, one row of them each";
    case kind::numbers: return "numbers, one per row";
    case kind::scalar: return "a number or an array of one";
    case kind::list: return "numbers";
    case kind::number: return "a number";
    case kind::whole: return "an integer";
    case kind::wholes: return "integers";
    case kind::flag: return "true or false";
    case kind::choice: break;
  }
  return "a name";
}
constexpr bool is_real(dtype t) { return t <= dtype::bfloat16; }
constexpr bool is_wide_real(dtype t) { return t == dtype::float64 || t == dtype::float32; }
constexpr bool is_integer(dtype t) { return t == dtype::int64 || t == dtype::int32; }

/// What is wrong with the element type; empty: nothing.
inline std::string type_fault(const field& f, const array& a) {
  const std::string got = a.type_name ? a.type_name : name(a.type), holds = std::string(f.name) + " holds " + got;
  const bool soft = f.kind == kind::targets && a.dimensions == 2;
  if (f.kind == kind::matrix || f.kind == kind::computed || soft)
    return is_real(a.type) ? "" : holds + ", expected float64, float32, float16 or bfloat16: convert it (astype, to)";
  if (f.kind == kind::labels || f.kind == kind::targets) {
    if (is_integer(a.type)) return "";
    const std::string shares = f.kind == kind::targets ? "; shares are a matrix, one row of them for each sample" : "";
    return holds + ", expected labels of int64 or int32: convert it (astype, to)" + shares;
  }
  return is_wide_real(a.type) ? "" : holds + ", expected float64 or float32: convert it (astype, to)";
}

/// What is wrong with sizes and strides; empty: nothing, and m has them.
inline std::string layout_fault(const field& f, const array& a, matrix& m) {
  const std::string name = f.name;
  const int count = a.dimensions;
  if (count < 0 || (count > 0 && a.sizes == nullptr)) return name + " has dimensions, but its sizes are null";
  const std::string sizes = sizes_text(a.sizes, count);
  const std::string has = name + " has " + std::to_string(count) + (count == 1 ? " dimension " : " dimensions ") + sizes;
  const bool two = is_matrix(f.kind, count);
  if (two && count != 2) {
    const std::string text = has + ", expected a matrix with one sample per row";
    if (count < 1) return text;
    if (count == 1) return text + ": reshape it to (-1, 1), or to (1, -1) if it is one sample";
    return text + ": reshape it to (" + std::to_string(a.sizes[0]) + ", -1)";
  }
  for (int k = 0; k < count; ++k)
    if (a.sizes[k] < 0) return name + ": sizes must not be negative, got " + sizes;
  if (f.kind == kind::scalar) {
    index_t all = 1;
    for (int k = 0; k < count; ++k) all *= a.sizes[k];
    if (all != 1) return name + " must be one number, got " + sizes;
    m.rows = m.cols = m.stride = 1;
    return "";
  }
  if (!two && count != 1 && !(f.kind == kind::list && count == 0))
    return has + ", expected one, with a number per row: reshape it to (-1)";
  m.rows = count > 0 ? a.sizes[0] : 1;
  m.cols = two ? a.sizes[1] : 1;
  m.stride = a.strides && count > 0 && m.rows > 1 ? a.strides[0] : m.cols;
  if (m.rows == 0 || m.cols == 0) return "";
  constexpr const char* copy = ": copy it first (numpy.ascontiguousarray, or contiguous() of PyTorch)";
  if (two && a.strides && m.cols > 1 && a.strides[1] != 1)
    return name + ": the numbers of a row must lie side by side, got a stride of " + std::to_string(a.strides[1]) + copy;
  if (two && m.stride < m.cols && m.rows > 1)
    return name + ": rows of " + std::to_string(m.cols) + " must not overlap or run backwards, got a stride of " +
           std::to_string(m.stride) + (m.stride == 0 ? " (all rows are one, as broadcasting makes)" : "") + copy;
  const index_t bytes = bytes_of(a.type), limit = std::numeric_limits<index_t>::max() / bytes;
  const index_t apart = m.rows == 1 ? limit : (limit - m.cols) / (m.rows - 1);
  if (m.cols > limit || m.stride > apart || m.stride < -apart)
    return name + ": " + std::to_string(m.rows) + " rows at a stride of " + std::to_string(m.stride) + " do not fit in memory";
  if (const auto past = reinterpret_cast<std::uintptr_t>(a.data) % std::uintptr_t(bytes); past != 0)
    return name + " is misaligned: numbers of " + std::to_string(bytes) + " bytes at an address that is " + std::to_string(past) +
           " past a multiple of that; copy it first";
  return "";
}

}  // namespace detail

void call::wrong(const field& f, const std::string& got) {
  const std::string choices = f.kind == kind::choice ? " (" + detail::alternatives(f.choices) + ")" : "";
  refuse(std::string(f.name) + ": expected " + detail::expected(f.kind) + choices + ", got " + got, true);
}
call::argument& call::at(int field, bool allowed, const char* got) {
  static thread_local argument nowhere;
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  if (allowed) return arguments_[std::size_t(field)];
  wrong(f, got);
  return nowhere;
}

void call::give(int field, const array& value) {
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  argument& a = at(field, detail::is_array(f.kind), "an array");
  if (!detail::is_array(f.kind)) return;
  a.is = argument::form::array;
  a.array = {value.data, 0, 0, 0, value.type, value.where, value.dimensions};
  const std::string type = detail::type_fault(f, value), layout = detail::layout_fault(f, value, a.array);
  if (!type.empty()) refuse(type, true);
  if (!layout.empty()) refuse(layout, false);
}
void call::give(int field, const matrix& value) {
  const std::int64_t sizes[] = {value.rows, value.cols}, strides[] = {value.stride, 1};
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
  refuse(std::string(f.name) + ": expected " + detail::alternatives(f.choices) + ", got " + std::string(value), false);
}
void call::give(int field, const std::vector<double>& value) {
  argument& a = at(field, verb_.fields.at(std::size_t(field)).kind == kind::list, "several numbers");
  a.is = argument::form::numbers;
  a.numbers = value;
}
void call::give(int field, const std::vector<index_t>& value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::list) return give(field, std::vector<double>(value.begin(), value.end()));
  argument& a = at(field, k == kind::wholes, "several integers");
  a.is = argument::form::wholes;
  a.wholes = value;
}

bool call::given(int field) const { return arguments_[std::size_t(field)].is != argument::form::missing; }

std::vector<double> call::list(int field) const {
  const argument& a = arguments_[std::size_t(field)];
  if (a.is != argument::form::array) return a.numbers;
  const matrix& m = a.array;
  if (m.data == nullptr) return std::vector<double>(std::size_t(m.rows), 1.0);  // not known yet
  require<device_error>(m.where == memory::host, verb_.name, ": ", verb_.fields[std::size_t(field)].name,
                        " must lie in host memory");
  std::vector<double> numbers;
  for (index_t i = 0; i < m.rows; ++i)
    numbers.push_back(m.type == dtype::float64 ? static_cast<const double*>(m.data)[i * m.stride]
                                               : double(static_cast<const float*>(m.data)[i * m.stride]));
  return numbers;
}

void call::check() {
  dtype first = dtype::other;
  const char* first_name = nullptr;
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is == argument::form::missing && f.required) refuse(std::string(f.name) + " is missing: expected " + detail::expected(f.kind), true);
    if (a.is != argument::form::array) continue;
    if (f.kind == kind::matrix && first == dtype::other && detail::is_real(a.array.type)) first = a.array.type, first_name = f.name;
    const bool soft = f.kind == kind::computed || (f.kind == kind::targets && a.array.dimensions == 2);
    const dtype expected = soft ? computing(first) : first;
    if ((soft || f.kind == kind::matrix) && first_name && detail::is_real(a.array.type) && a.array.type != expected)
      refuse("expected " + std::string(f.name) + " of type " + name(expected) + ", got " + name(a.array.type), true);
  }
  if (first != dtype::other) type_ = first;
  if (faults_.empty()) check_sizes();
  if (!faults_.empty()) {
    const std::string text = std::string(verb_.name) + ": " + faults_;
    if (type_fault_) throw type_error(text);
    throw shape_error(text);
  }
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    if (verb_.fields[i].choices != kernel::families()) continue;
    kernel_field_ = int(i);
    const argument& a = arguments_[i];
    const auto& family = verb_.fields[i].choices[std::size_t(given(int(i)) ? a.whole : verb_.fields[i].whole)];
    kernel_ = kernel(family, list(int(i) + 1), list(int(i) + 2), arguments_[i + 3].number);
  }
}

index_t call::size_named(const std::string& name) const {
  for (const auto& [known, size] : sizes_)
    if (*known == name) return size;
  for (std::size_t i = 0; i < arguments_.size(); ++i)
    if (name == verb_.fields[i].name) return given(int(i)) ? arguments_[i].whole : verb_.fields[i].whole;
  return std::stoll(name);  // a number
}

void call::check_sizes() {
  std::vector<std::size_t> first;  // by which array a size is known
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is != argument::form::array || f.shape.empty()) continue;
    for (int k = 0; k < std::min(a.array.dimensions, int(f.shape.size())); ++k) {
      const index_t size = k == 0 ? a.array.rows : a.array.cols;
      const std::string& name = f.shape[std::size_t(k)][0];
      std::size_t known = 0;
      while (known < sizes_.size() && *sizes_[known].first != name) ++known;
      if (known == sizes_.size()) {
        sizes_.emplace_back(&name, size);
        first.push_back(i);
      } else if (sizes_[known].second != size) {
        const field& other = verb_.fields[first[known]];
        const std::string of = std::string(other.name) + " " + detail::sizes_text(arguments_[first[known]].array);
        const std::string is = std::string(f.name) + " " + detail::sizes_text(a.array);
        const bool columns = k == 1 && a.array.dimensions == 2 && other.shape.size() == 2 && other.shape[1][0] == name;
        refuse(columns ? of + " and " + is + ": their columns must agree"
                       : is + ": expected " + std::to_string(sizes_[known].second) + (k == 0 ? " rows" : " columns") + ", one per row of " + of,
               false);
      }
    }
  }
}

extent call::sizes(const shape& of) const {
  extent e;
  for (const auto& factors : of) {
    index_t size = 1;
    for (const std::string& factor : factors) {
      const index_t by = size_named(factor);
      require<shape_error>(by >= 0 && (by == 0 || size <= std::numeric_limits<index_t>::max() / by), verb_.name, ": ", factor,
                           " must not be negative or beyond all memory, got ", by);
      size *= by;
    }
    e.sizes[e.dimensions++] = size;
  }
  return e;
}
extent call::gradient_sizes(int gradient) const {
  const int field = verb_.gradients.at(std::size_t(gradient));
  const runtime::field& f = verb_.fields[std::size_t(field)];
  const argument& a = arguments_[std::size_t(field)];
  if (f.kind == kind::list) {
    const std::size_t count = field == kernel_field_ + 1 && kernel_.bandwidths() == 0 ? 0 : kernel_.members().size();
    return {a.is == argument::form::array ? a.array.dimensions : 1, {index_t(count), 1}};
  }
  return f.shape.empty() ? extent{} : sizes(f.shape);
}
dtype call::result_type(int result) const {
  const dtype t = verb_.results.at(std::size_t(result)).type;
  return t == dtype::float32 ? type() : t;
}

void call::result(int result, const place& to) { results_.at(std::size_t(result)) = to; }
void call::gradient(int gradient, const place& to) { gradients_.at(std::size_t(gradient)) = to; }

void call::run(const any_device& device) { verb_.run(*this, device); }

}  // namespace craft::runtime
