// The bodies of craft/adapters/runtime.hpp, for exactly one source of a program; the library craft::runtime is that source.
#pragma once

#include <Eigen/Core>

#include "craft/adapters/runtime.hpp"
#if __has_include("craft/cuda.hpp")
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace craft::runtime {

// ---------------------------------------------------------------------------------------------------------
// From what is known now to types

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

inline const char* name(memory where) { return where == memory::host ? "host" : "device"; }

/// One call with its types: the context, S as which inputs are stored, and what is expected of every description given.
template <class Context, class Stored>
struct call {
  using S = Stored;
  using T = compute_t<S>;
  static constexpr memory M = Context::space;
  const Context& ctx;
  const char* verb;
  dtype type;

  matrix_view<const S, M> input(const char* what, const matrix& x) const {
    if (x.data != nullptr || !x.empty()) check(what, x, type);
    return {static_cast<const S*>(x.data), x.rows, x.cols, x.stride};
  }
  /// A matrix of the computing type.
  matrix_view<const T, M> computed(const char* what, const matrix& x) const {
    check(what, x, computing(type));
    return {static_cast<const T*>(x.data), x.rows, x.cols, x.stride};
  }
  matrix_view<T, M> destination(const char* what, const place& p) const {
    check(what, p, computing(type));
    return {static_cast<T*>(p.data), p.rows, p.cols, p.stride};
  }
  output<T, M> gradient(const char* what, const place& p) const {
    return p.mode == write::none ? output<T, M>{} : output<T, M>{destination(what, p), p.mode};
  }
  scalar_out<T, M> value(void* to) const { return scalar_out<T, M>(static_cast<T*>(to)); }

 private:
  template <class Described>
  void check(const char* what, const Described& x, dtype expected) const {
    require<type_error>(x.type == expected, verb, ": expected ", what, " of type ", runtime::name(expected), ", got ",
                        runtime::name(x.type));
    require<device_error>(x.where == M, verb, ": ", what, " lies in ", name(x.where), " memory, but the call runs in ",
                          name(M), " memory");
  }
};

/// f(call), with the context inside `device` and the type that numbers of `type` are stored as there.
template <class F>
auto run(const any_device& device, const char* verb, dtype type, const F& f) {
  return device.visit([&](const auto& ctx) {
    using context = std::decay_t<decltype(ctx)>;
    using half = stored<context::space>;
    switch (type) {
      case dtype::float64: return f(call<context, double>{ctx, verb, type});
      case dtype::float32: return f(call<context, float>{ctx, verb, type});
      case dtype::float16: return f(call<context, typename half::float16>{ctx, verb, type});
      case dtype::bfloat16: break;
    }
    return f(call<context, typename half::bfloat16>{ctx, verb, type});
  });
}

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

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------
// Names

namespace detail {
constexpr const char* dtype_names[] = {"float64", "float32", "float16", "bfloat16"};
}

const char* name(dtype type) { return detail::dtype_names[int(type)]; }

dtype dtype_named(const std::string& name) {
  for (int q = 0; q < 4; ++q)
    if (name == detail::dtype_names[q]) return dtype(q);
  fail<type_error>("expected float64, float32, float16 or bfloat16, got ", name);
}

namespace detail {
template <class Enum>
Enum among(const char* what, const std::string& name, std::initializer_list<const char*> names) {
  int at = 0;
  std::string all;
  for (const char* one : names) {
    if (name == one) return Enum(at);
    all += (at++ ? ", " : "") + std::string(one);
  }
  fail<option_error>(what, ": expected one of ", all, ", got ", name);
}
}  // namespace detail

// In the order of the enumerators.
template <>
estimator named(const std::string& name) {
  return detail::among<estimator>("estimator", name, {"biased", "unbiased", "linear"});
}
template <>
bandwidth_rule named(const std::string& name) {
  return detail::among<bandwidth_rule>("bandwidth_rule", name,
                                       {"fixed", "mean", "mean_offdiagonal", "median", "median_mid"});
}
template <>
bandwidth_sample named(const std::string& name) {
  return detail::among<bandwidth_sample>("bandwidth_sample", name, {"pooled", "x"});
}
template <>
column_scaling named(const std::string& name) {
  return detail::among<column_scaling>("column_scaling", name, {"none", "minmax_separate", "minmax_joint"});
}
template <>
direction named(const std::string& name) {
  return detail::among<direction>("direction", name, {"one_way", "symmetric"});
}
template <>
reduction named(const std::string& name) {
  return detail::among<reduction>("reduction", name, {"mean", "sum"});
}
template <>
anchor_statistics named(const std::string& name) {
  return detail::among<anchor_statistics>("anchor_statistics", name, {"none", "centre", "standardise"});
}
template <>
metric named(const std::string& name) {
  return detail::among<metric>("metric", name, {"euclidean", "cosine"});
}

kernel::kernel(std::vector<member> members) : members_(std::move(members)) {
  detail::visit(*this, [](const auto& k) { k.check(); });
}

kernel::kernel(const std::string& family, const std::vector<double>& bandwidths, const std::vector<double>& weights,
               double shape) {
  const auto takes_no_bandwidth = [&] {
    require<option_error>(bandwidths.empty(), "kernel: ", family, " takes no bandwidth, got ", bandwidths.size());
  };
  const auto takes_no_shape = [&] {
    require<option_error>(shape == 0, "kernel: ", family, " takes no shape, got ", shape);
  };
  if (family == "dot_product" || family == "cosine") {
    takes_no_bandwidth();
    takes_no_shape();
    require<option_error>(weights.empty(), "kernel: ", family, " takes no weight, got ", weights.size());
    form_ = family == "cosine" ? form::cosine : form::dot_product;
    members_.clear();
    return;
  }
  member m;
  m.shape = shape;
  if (family == "gaussian") {
    takes_no_shape();
    m.family = kernel_family::gaussian;
  } else if (family == "laplacian") {
    m.family = kernel_family::laplacian;
  } else if (family == "inverse_multiquadric") {
    m.family = kernel_family::inverse_multiquadric;
  } else if (family == "rational_quadratic") {
    m.family = kernel_family::rational_quadratic;
  } else {
    require<option_error>(family == "energy" || family == "negative_distance",
                          "kernel: expected gaussian, laplacian, inverse_multiquadric, rational_quadratic, energy, "
                          "negative_distance, dot_product or cosine, got ", family);
    takes_no_bandwidth();
    m.family = kernel_family::energy;
  }
  const bool has_bandwidth = m.family != kernel_family::energy;
  require<option_error>(!has_bandwidth || !bandwidths.empty(), "kernel: ", family, " needs at least one bandwidth");
  const std::size_t count = has_bandwidth ? bandwidths.size() : 1;
  require<option_error>(weights.empty() || weights.size() == count, "kernel: expected one weight per kernel, got ",
                        weights.size(), " weights for ", count, count == 1 ? " kernel" : " kernels");
  members_.assign(count, m);
  for (std::size_t q = 0; q < count; ++q) {
    if (has_bandwidth) members_[q].bandwidth = bandwidths[q];
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

namespace detail {
// The kernels of presets, as members.
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
template <class K>
preset preset_of(const mmd_preset<K>& p) {
  std::vector<kernel::member> members;
  append(members, p.kernel);
  return {kernel(members), p.options};
}
}  // namespace detail

preset preset_named(const std::string& name, index_t n, double blur) {
  if (name == "craft_rbf") return detail::preset_of(presets::craft_rbf());
  if (name == "craft_multiscale") return detail::preset_of(presets::craft_multiscale());
  if (name == "tllib") return detail::preset_of(presets::tllib(n));
  if (name == "transferlearning") return detail::preset_of(presets::transferlearning());
  if (name == "cmmd") return detail::preset_of(presets::cmmd());
  if (name == "geomloss_gaussian") return detail::preset_of(presets::geomloss_gaussian(blur));
  if (name == "geomloss_laplacian") return detail::preset_of(presets::geomloss_laplacian(blur));
  if (name == "geomloss_energy") return detail::preset_of(presets::geomloss_energy());
  if (name == "alibi_detect") return detail::preset_of(presets::alibi_detect());
  fail<option_error>("preset: expected craft_rbf, craft_multiscale, tllib, transferlearning, cmmd, geomloss_gaussian, "
                     "geomloss_laplacian, geomloss_energy or alibi_detect, got ", name);
}

// ---------------------------------------------------------------------------------------------------------
// The verbs

void mmd(const any_device& device, const matrix& x, const matrix& y, const kernel& kernel, const mmd_options& options,
         void* value, const mmd_outputs& gradients) {
  detail::run(device, "mmd", x.type, [&](const auto& c) {
    using call = std::decay_t<decltype(c)>;
    const auto xv = c.input("x", x), yv = c.input("y", y);
    const mmd_gradients<typename call::T, call::M> g{
        c.gradient("gradient of x", gradients.x), c.gradient("gradient of y", gradients.y),
        c.gradient("gradient of weights", gradients.weights), c.gradient("gradient of bandwidths", gradients.bandwidths),
        c.gradient("gradient of x_weights", gradients.x_weights), c.gradient("gradient of y_weights", gradients.y_weights)};
    detail::visit(kernel, [&](const auto& k) { craft::mmd(c.ctx, xv, yv, k, options, c.value(value), g); });
  });
}

namespace detail {
template <class Call>
alignment_gradients<typename Call::T, Call::M> gradients_of(const Call& c, const alignment_outputs& g) {
  return {c.gradient("gradient of x", g.x), c.gradient("gradient of y", g.y),
          c.gradient("gradient of log_scale", g.log_scale), c.gradient("gradient of bias", g.bias),
          c.gradient("gradient of weights", g.weights), c.gradient("gradient of targets", g.targets)};
}
template <class Call>
relative_gradients<typename Call::T, Call::M> gradients_of(const Call& c, const relative_outputs& g) {
  return {c.gradient("gradient of x", g.x), c.gradient("gradient of anchors", g.anchors),
          c.gradient("gradient of log_scale", g.log_scale)};
}
}  // namespace detail

void anchor_cross_entropy(const any_device& device, const matrix& x, const matrix& anchors, const labels& targets,
                          const cross_entropy_options& options, void* value, const alignment_outputs& gradients) {
  detail::run(device, "anchor_cross_entropy", x.type, [&](const auto& c) {
    craft::anchor_cross_entropy(c.ctx, c.input("x", x), c.input("anchors", anchors), targets, options, c.value(value),
                                detail::gradients_of(c, gradients));
  });
}

void anchor_cross_entropy(const any_device& device, const matrix& x, const matrix& anchors, const matrix& soft_targets,
                          const cross_entropy_options& options, void* value, const alignment_outputs& gradients) {
  detail::run(device, "anchor_cross_entropy", x.type, [&](const auto& c) {
    craft::anchor_cross_entropy(c.ctx, c.input("x", x), c.input("anchors", anchors),
                                c.computed("soft targets", soft_targets), options, c.value(value),
                                detail::gradients_of(c, gradients));
  });
}

void info_nce(const any_device& device, const matrix& x, const matrix& y, const contrastive_options& options, void* value,
              const alignment_outputs& gradients) {
  detail::run(device, "info_nce", x.type, [&](const auto& c) {
    craft::info_nce(c.ctx, c.input("x", x), c.input("y", y), options, c.value(value), detail::gradients_of(c, gradients));
  });
}

void sigmoid_contrastive(const any_device& device, const matrix& x, const matrix& y, const sigmoid_options& options,
                         void* value, const alignment_outputs& gradients) {
  detail::run(device, "sigmoid_contrastive", x.type, [&](const auto& c) {
    craft::sigmoid_contrastive(c.ctx, c.input("x", x), c.input("y", y), options, c.value(value),
                               detail::gradients_of(c, gradients));
  });
}

void relative(const any_device& device, const matrix& x, const matrix& anchors, const kernel& similarity,
              const relative_options& options, const place& out) {
  detail::run(device, "relative", x.type, [&](const auto& c) {
    const auto xv = c.input("x", x), av = c.input("anchors", anchors);
    const auto to = c.destination("out", out);
    detail::visit(similarity, [&](const auto& k) { craft::relative(c.ctx, xv, av, k, options, to); });
  });
}

void relative_pullback(const any_device& device, const matrix& x, const matrix& anchors, const kernel& similarity,
                       const relative_options& options, const matrix& dout, const relative_outputs& gradients) {
  detail::run(device, "relative_pullback", x.type, [&](const auto& c) {
    const auto xv = c.input("x", x), av = c.input("anchors", anchors);
    const auto uv = c.computed("dout", dout);
    const auto g = detail::gradients_of(c, gradients);
    detail::visit(similarity, [&](const auto& k) { craft::relative_pullback(c.ctx, xv, av, k, options, uv, g); });
  });
}

void objective(const any_device& device, const objective_inputs& inputs, const kernel& kernel,
               const objective_options& options, void* values, const objective_outputs& gradients) {
  detail::run(device, "objective", inputs.images.type, [&](const auto& c) {
    using call = std::decay_t<decltype(c)>;
    using T = typename call::T;
    craft::objective_inputs<typename call::S, call::M> in;
    in.images = c.input("images", inputs.images);
    in.class_texts = c.input("class_texts", inputs.class_texts);
    in.targets = inputs.targets;
    in.batch_texts = c.input("batch_texts", inputs.batch_texts);
    in.image_anchors = c.input("image_anchors", inputs.image_anchors);
    in.target_images = c.input("target_images", inputs.target_images);
    const objective_gradients<T, call::M> g{c.gradient("gradient of images", gradients.images),
                                            c.gradient("gradient of class_texts", gradients.class_texts),
                                            c.gradient("gradient of batch_texts", gradients.batch_texts),
                                            c.gradient("gradient of image_anchors", gradients.image_anchors),
                                            c.gradient("gradient of target_images", gradients.target_images),
                                            c.gradient("gradient of log_scale", gradients.log_scale)};
    // Five numbers of T, as the struct has them.
    static_assert(sizeof(objective_values<T>) == 5 * sizeof(T));
    const scalar_out<objective_values<T>, call::M> to(static_cast<objective_values<T>*>(values));
    detail::visit(kernel, [&](const auto& k) { craft::objective(c.ctx, in, k, options, to, g); });
  });
}

double bandwidth_scale(const any_device& device, const matrix& x, const matrix& y, const bandwidth& rule) {
  return detail::run(device, "bandwidth_scale", x.type, [&](const auto& c) {
    return craft::bandwidth_scale(c.ctx, c.input("x", x), c.input("y", y), rule);
  });
}

void class_means(const any_device& device, const matrix& x, const labels& y, const class_means_options& options,
                 const place& out) {
  detail::run(device, "class_means", x.type, [&](const auto& c) {
    craft::class_means(c.ctx, c.input("x", x), y, options, c.destination("out", out));
  });
}

kmeans_result kmeans(const any_device& device, const matrix& x, const kmeans_options& options, const place& centres) {
  return detail::run(device, "kmeans", x.type, [&](const auto& c) {
    return craft::kmeans(c.ctx, c.input("x", x), options, c.destination("centres", centres));
  });
}

kmeans_result kmeans_per_class(const any_device& device, const matrix& x, const labels& y, index_t classes,
                               const kmeans_options& options, const place& centres) {
  return detail::run(device, "kmeans_per_class", x.type, [&](const auto& c) {
    return craft::kmeans_per_class(c.ctx, c.input("x", x), y, classes, options, c.destination("centres", centres));
  });
}

std::vector<index_t> medoids(const any_device& device, const matrix& x, const matrix& centres) {
  return detail::run(device, "medoids", x.type, [&](const auto& c) {
    return craft::medoids(c.ctx, c.input("x", x), c.input("centres", centres));
  });
}

std::vector<index_t> farthest_point_anchors(const any_device& device, const matrix& x, index_t count, index_t start,
                                            metric distance) {
  return detail::run(device, "farthest_point_anchors", x.type, [&](const auto& c) {
    return craft::farthest_point_anchors(c.ctx, c.input("x", x), count, start, distance);
  });
}

}  // namespace craft::runtime
