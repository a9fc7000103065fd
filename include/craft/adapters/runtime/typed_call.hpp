// A call with its types: the Call that gives what the host has given (craft/describe.hpp); part of craft/adapters/runtime_bodies.hpp.
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <optional>
#include <type_traits>

#include "craft/adapters/runtime/kernel.hpp"
#include "craft/rehearsal.hpp"
#include "craft/verbs.hpp"
#if __has_include("craft/cuda.hpp")
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace craft::runtime {

namespace detail {

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
    next_ += 5;
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
  /// f(one of the types that kernels are computed by), for a kernel of any type.
  template <class F>
  void with_kernel(const polynomial<>& k, const F& f) {
    f(k);
  }
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

}  // namespace detail

}  // namespace craft::runtime
