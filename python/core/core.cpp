// The C interface under craft_align/arrays.py, over craft/adapters/runtime.hpp.
//
// An array is a DLPack tensor and who keeps its memory: this library (a result), or the library that handed the tensor
// over. A verb takes one struct with its arguments, arrays by their address, and leaves new arrays in `results`: the
// value first, then the gradients that `wanted` has a bit for. Every function returns null, or a failure to be read and
// freed, and then there are no results. Nothing is thrown. No Python header, no global state but the addresses of the
// interpreter's functions.
//
// Host arrays are computed on the calling thread and OpenMP's; those of a CUDA device in its legacy default stream,
// with a context that the thread keeps. Inputs are looked at during the call only.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "craft/adapters/dlpack.hpp"

#ifdef _WIN32
#define CRAFT_ENTRY extern "C" __declspec(dllexport)
#else
#define CRAFT_ENTRY extern "C" __attribute__((visibility("default")))
#endif

namespace craft_core {

namespace dlpack = craft::dlpack;
namespace runtime = craft::runtime;
using craft::index_t;
using craft::memory;

// ---------------------------------------------------------------------------------------------------------
// Failures

enum kind { value_error = 1, type_error, device_error, memory_error, other_error };
struct failure {
  int kind;
  std::string text;
};
failure out_of_memory{memory_error, "out of memory"};

failure* report(int kind, const char* text) noexcept {
  try {
    return new failure{kind, text};
  } catch (...) {
    return &out_of_memory;
  }
}
template <class F>
failure* guarded(const F& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (const craft::type_error& e) {
    return report(type_error, e.what());
  } catch (const craft::device_error& e) {
    return report(device_error, e.what());
  } catch (const craft::error& e) {
    return report(value_error, e.what());
  } catch (const std::bad_alloc&) {
    return &out_of_memory;
  } catch (const std::exception& e) {
    return report(other_error, e.what());
  } catch (...) {
    return report(other_error, "unknown error");
  }
}

// ---------------------------------------------------------------------------------------------------------
// Arrays

struct array {
  dlpack::tensor t{};  // first: the address of an array is that of its tensor
  bool can_write = true;
  std::shared_ptr<const void> owner;
  std::vector<std::int64_t> sizes;  // shape, then strides

  /// Over the memory of another description.
  array(const dlpack::tensor& given, std::shared_ptr<const void> kept, bool writable)
      : t(given), can_write(writable), owner(std::move(kept)) {
    craft::require<craft::shape_error>(t.ndim == 0 || (t.ndim > 0 && t.shape != nullptr), "dlpack: ", t.ndim,
                                       " dimensions, or a shape that is null");
    for (int k = 0; k < t.ndim; ++k) sizes.push_back(t.shape[k]);
    for (int k = 0; k < t.ndim && t.strides != nullptr; ++k) sizes.push_back(t.strides[k]);
    t.shape = sizes.data();
    if (t.strides != nullptr) t.strides = sizes.data() + t.ndim;
  }
  array(const array&) = delete;
};

std::shared_ptr<void> host_memory(std::size_t bytes) {
  constexpr auto alignment = std::align_val_t(64);  // what every library takes without a copy
  return {::operator new(bytes, alignment), [](void* p) { ::operator delete(p, alignment); }};
}

[[noreturn]] void no_cuda() {
  craft::fail<craft::device_error>("the array lies in the memory of a CUDA device, but craft_align was built without CUDA");
}

#if __has_include("craft/cuda.hpp")

using craft::engine::cuda_check;

/// Makes a device the thread's current one for as long as this object lives.
class current_device {
 public:
  explicit current_device(int id) {
    cuda_check(cudaGetDevice(&before_), "cudaGetDevice");
    cuda_check(cudaSetDevice(id), "cudaSetDevice(", id, ")");
  }
  current_device(const current_device&) = delete;
  ~current_device() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

/// Freed with cudaFree, which waits: a consumer may let go of memory while its stream still has work to do with it.
std::shared_ptr<void> device_memory(std::size_t bytes) {
  void* p = nullptr;
  cuda_check(cudaMalloc(&p, bytes), "cudaMalloc(", bytes, ")");
  return {p, [](void* q) { cudaFree(q); }};
}

/// The thread's context for the current device, so that a cuBLAS handle is made once.
const craft::any_device& cuda_context(int id) {
  thread_local std::map<int, craft::any_device> contexts;
  auto at = contexts.find(id);
  if (at == contexts.end()) at = contexts.emplace(id, craft::any_device(craft::cuda())).first;
  return at->second;
}

/// Lets the consumer's stream wait for what the legacy default stream has been given so far.
void let_wait(int device, cudaStream_t consumer) {
  const current_device guard(device);
  cudaEvent_t done = nullptr;
  cuda_check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  cudaError_t status = cudaEventRecord(done, nullptr);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(consumer, done, 0);
  cudaEventDestroy(done);
  cuda_check(status, "cudaStreamWaitEvent");
}

#endif

/// Compact and not initialised.
std::unique_ptr<array> new_array(memory where, int device_id, int code, int bits, std::initializer_list<index_t> shape) {
  std::vector<std::int64_t> sizes(shape), strides(shape.size(), 1);
  std::size_t bytes = std::size_t(bits / 8);
  for (const index_t size : shape) {
    if (size > 0 && bytes > std::size_t(std::numeric_limits<std::ptrdiff_t>::max()) / std::size_t(size)) throw std::bad_alloc();
    bytes *= std::size_t(size);
  }
  bytes = std::max<std::size_t>(bytes, 1);
  for (std::size_t k = sizes.size(); k-- > 1;) strides[k - 1] = strides[k] * sizes[k];
  std::shared_ptr<void> kept;
  if (where == memory::host) {
    kept = host_memory(bytes);
  } else {
#if __has_include("craft/cuda.hpp")
    const current_device guard(device_id);
    kept = device_memory(bytes);
#else
    no_cuda();
#endif
  }
  dlpack::tensor t{};
  t.data = kept.get();
  t.device = {where == memory::host ? dlpack::cpu : dlpack::cuda, where == memory::host ? 0 : device_id};
  t.ndim = std::int32_t(sizes.size());
  t.dtype = {std::uint8_t(code), std::uint8_t(bits), 1};
  t.shape = sizes.data();
  t.strides = strides.data();
  return std::make_unique<array>(t, std::move(kept), true);
}
std::unique_ptr<array> of_rows(const std::vector<index_t>& rows) {
  auto a = new_array(memory::host, 0, dlpack::integer, 64, {index_t(rows.size())});
  std::copy(rows.begin(), rows.end(), static_cast<index_t*>(a->t.data));
  return a;
}

/// One call of a verb: the device of its first array, its other inputs, which must lie there too, and its results. Inputs
/// that cannot be read are refused together, before there are results.
class call {
 public:
  call(const char* verb, const array* first, array** results) : verb_(verb), results_(results) {
    where_ = dlpack::detail::memory_of(first->t);
    device_id_ = first->t.device.device_id;
  }

  /// f(device), then the results are the caller's.
  template <class F>
  void run(const F& f) {
    refuse();
    if (where_ == memory::host) {
      f(craft::any_device(craft::cpu()));
    } else {
#if __has_include("craft/cuda.hpp")
      const current_device guard(device_id_);
      f(cuda_context(device_id_));
#else
      no_cuda();
#endif
    }
    for (auto& [at, a] : made_) results_[at] = a.release();
  }

  /// Throws if there was an input that cannot be read, with the faults of all.
  void refuse() const {
    if (faults_.empty()) return;
    if (of_type_) craft::fail<craft::type_error>(verb_, ": ", faults_);
    craft::fail<craft::shape_error>(verb_, ": ", faults_);
  }

  /// The first one says which type is computed in.
  runtime::matrix matrix(const char* name, const array* a) {
    if (a == nullptr) return {};
    const auto m = read<runtime::matrix>([&] { return dlpack::matrix(here(name, a), name); });
    if (!typed_) type_ = runtime::computing(m.type);
    typed_ = true;
    return m;
  }
  craft::labels labels(const char* name, const array* a) {
    return a == nullptr ? craft::labels{} : read<craft::labels>([&] { return dlpack::labels(either(name, a), name); });
  }
  craft::numbers numbers(const char* name, const array* a) {
    return a == nullptr ? craft::numbers{} : read<craft::numbers>([&] { return dlpack::numbers(either(name, a), name); });
  }
  craft::scalar scalar(const char* name, double value, const array* a) {
    return a == nullptr ? craft::scalar(value) : read<craft::scalar>([&] { return dlpack::scalar(here(name, a), name); });
  }

  /// A new array in the memory of the call, of the computing type and at most two dimensions.
  runtime::place result(int at, std::initializer_list<index_t> shape) {
    const auto e = dlpack::detail::element_of(type_);
    void* data = make(at, where_, e.code, e.bits, shape);
    const index_t rows = shape.size() > 0 ? *shape.begin() : 1, cols = shape.size() > 1 ? *(shape.begin() + 1) : 1;
    return {data, rows, cols, cols, type_, where_, craft::write::overwrite};
  }
  runtime::place gradient(int at, unsigned wanted, std::initializer_list<index_t> shape) {
    return wanted & (1u << at) ? result(at, shape) : runtime::place{};
  }
  void* value() { return result(0, {}).data; }
  /// Row numbers, which verbs give to the host.
  void indices(int at, const std::vector<index_t>& rows) { made_.emplace_back(at, of_rows(rows)); }

 private:
  template <class T, class F>
  T read(const F& f) {
    try {
      return f();
    } catch (const craft::type_error& e) {
      of_type_ = true;
      (faults_ += faults_.empty() ? "" : "; ") += e.what();
    } catch (const craft::shape_error& e) {
      (faults_ += faults_.empty() ? "" : "; ") += e.what();
    }
    return {};
  }
  const dlpack::tensor& here(const char* name, const array* a) const {
    const memory where = dlpack::detail::memory_of(a->t);
    craft::require<craft::device_error>(where == where_ && (where == memory::host || a->t.device.device_id == device_id_),
                                        verb_, ": ", name, " lies on another device than the first array");
    return a->t;
  }
  /// Labels and weights may also lie in host memory.
  const dlpack::tensor& either(const char* name, const array* a) const {
    return dlpack::detail::memory_of(a->t) == memory::host ? a->t : here(name, a);
  }
  void* make(int at, memory where, int code, int bits, std::initializer_list<index_t> shape) {
    refuse();
    made_.emplace_back(at, new_array(where, device_id_, code, bits, shape));
    return made_.back().second->t.data;
  }

  const char* verb_;
  array** results_;
  std::string faults_;    // of all inputs
  bool of_type_ = false;  // whether one of them is of the wrong type
  memory where_ = memory::host;
  int device_id_ = 0;
  runtime::dtype type_ = runtime::dtype::float32;
  bool typed_ = false;
  std::vector<std::pair<int, std::unique_ptr<array>>> made_;
};

// ---------------------------------------------------------------------------------------------------------
// The interpreter's capsules, by the addresses of its functions

struct capsule_functions {
  int (*is_valid)(void* capsule, const char* name);
  void* (*pointer)(void* capsule, const char* name);
  int (*set_name)(void* capsule, const char* name);
  void* (*make)(void* pointer, const char* name, void (*destructor)(void* capsule));
  void* (*no_memory)();
};
capsule_functions python{};

template <class Managed>
constexpr const char* unused_name = dlpack::owned<Managed>::versioned ? "dltensor_versioned" : "dltensor";
template <class Managed>
constexpr const char* used_name = dlpack::owned<Managed>::versioned ? "used_dltensor_versioned" : "used_dltensor";

/// What the capsule holds becomes the array's, and the capsule is marked as used.
template <class Managed>
array* take(void* capsule) {
  auto* managed = static_cast<Managed*>(python.pointer(capsule, unused_name<Managed>));
  python.set_name(capsule, used_name<Managed>);
  const auto kept = std::make_shared<dlpack::owned<Managed>>(managed);
  return new array(**kept, kept, dlpack::owned<Managed>::versioned && !kept->read_only());
}
/// A capsule over the memory of the array, which keeps it; one that dies unused lets go of it.
template <class Managed>
void* hand_over(const array& a) {
  Managed* managed = dlpack::share<Managed>(a.t, a.owner, a.can_write);
  void* capsule = python.make(managed, unused_name<Managed>, [](void* dying) {
    if (!python.is_valid(dying, unused_name<Managed>)) return;
    auto* unused = static_cast<Managed*>(python.pointer(dying, unused_name<Managed>));
    unused->deleter(unused);
  });
  if (capsule == nullptr) managed->deleter(managed);
  return capsule;
}

CRAFT_ENTRY int craft_failure_kind(const failure* f) { return f->kind; }
CRAFT_ENTRY const char* craft_failure_text(const failure* f) { return f->text.c_str(); }
CRAFT_ENTRY void craft_failure_free(failure* f) {
  if (f != &out_of_memory) delete f;
}

// The next three are called with the interpreter's lock held.
CRAFT_ENTRY void craft_use(const capsule_functions* functions) { python = *functions; }
CRAFT_ENTRY failure* craft_from_capsule(void* capsule, array** out) {
  return guarded([&] {
    using versioned = dlpack::managed_tensor_versioned;
    using unversioned = dlpack::managed_tensor;
    if (python.is_valid(capsule, unused_name<versioned>)) {
      *out = take<versioned>(capsule);
    } else if (python.is_valid(capsule, unused_name<unversioned>)) {
      *out = take<unversioned>(capsule);
    } else {
      craft::fail<craft::type_error>("dlpack: expected an unused capsule named dltensor or dltensor_versioned");
    }
  });
}
/// A new reference, or null and the interpreter's error.
CRAFT_ENTRY void* craft_to_capsule(const array* a, int versioned) {
  void* capsule = nullptr;
  failure* f = guarded([&] {
    capsule = versioned ? hand_over<dlpack::managed_tensor_versioned>(*a) : hand_over<dlpack::managed_tensor>(*a);
  });
  if (f != nullptr) {  // memory ran out: what else could fail has been looked at before
    craft_failure_free(f);
    python.no_memory();
  }
  return capsule;
}

CRAFT_ENTRY void craft_array_free(array* a) { delete a; }
CRAFT_ENTRY int craft_array_read_only(const array* a) { return !a->can_write; }
/// Numbers of the same size under another type: for producers that have no code for theirs.
CRAFT_ENTRY void craft_array_retype(array* a, int code) { a->t.dtype.code = std::uint8_t(code); }
/// Makes a consumer's stream (DLPack's number for it) wait for a result; nothing on the host.
CRAFT_ENTRY failure* craft_array_ready(const array* a, std::int64_t stream) {
  return guarded([&] {
    if (dlpack::detail::memory_of(a->t) == memory::host || stream == -1 || stream == 1) return;
    craft::require<craft::option_error>(stream > 1, "dlpack: no such CUDA stream: ", stream);
#if __has_include("craft/cuda.hpp")
    let_wait(a->t.device.device_id, reinterpret_cast<cudaStream_t>(stream));  // 2 is what the toolkit calls cudaStreamPerThread
#endif
  });
}
CRAFT_ENTRY int craft_built_with_cuda() { return craft::built_with_cuda; }

CRAFT_ENTRY failure* craft_kernel_new(const char* family, const double* bandwidths, index_t bandwidth_count,
                                      const double* weights, index_t weight_count, double shape, runtime::kernel** out) {
  return guarded([&] {
    *out = new runtime::kernel(family, {bandwidths, bandwidths + bandwidth_count}, {weights, weights + weight_count}, shape);
  });
}
CRAFT_ENTRY void craft_kernel_free(runtime::kernel* k) { delete k; }

/// Whether an option has a value of this name.
CRAFT_ENTRY failure* craft_check_name(const char* option, const char* value) {
  return guarded([&] {
    const std::string o = option, v = value;
    if (o == "estimator") return (void)runtime::named<craft::estimator>(v);
    if (o == "bandwidth_rule") return (void)runtime::named<craft::bandwidth_rule>(v);
    if (o == "bandwidth_sample") return (void)runtime::named<craft::bandwidth_sample>(v);
    if (o == "columns") return (void)runtime::named<craft::column_scaling>(v);
    if (o == "direction") return (void)runtime::named<craft::direction>(v);
    if (o == "reduction") return (void)runtime::named<craft::reduction>(v);
    if (o == "statistics") return (void)runtime::named<craft::anchor_statistics>(v);
    craft::fail<craft::option_error>("no option is called ", o);
  });
}

// ---------------------------------------------------------------------------------------------------------
// The verbs. A number with an array beside it is read from the array, if there is one.

struct mmd_options {
  const char *estimator, *rule, *sample, *columns;
  double column_eps, factor, offset;
  std::int32_t bandwidth_gradient, column_gradient;
  const array *x_weights, *y_weights;

  craft::mmd_options read(call& c) const {
    craft::mmd_options o;
    o.estimator = runtime::named<craft::estimator>(estimator);
    o.bandwidth.rule = runtime::named<craft::bandwidth_rule>(rule);
    o.bandwidth.sample = runtime::named<craft::bandwidth_sample>(sample);
    o.bandwidth.gradient = bandwidth_gradient != 0;
    o.columns = runtime::named<craft::column_scaling>(columns);
    o.column_gradient = column_gradient != 0;
    o.column_eps = column_eps;
    o.factor = factor;
    o.offset = offset;
    o.x_weights = c.numbers("x_weights", x_weights);
    o.y_weights = c.numbers("y_weights", y_weights);
    return o;
  }
};

struct mmd_call {
  const array *x, *y;
  const runtime::kernel* kernel;  // null: a preset, which brings its own options
  mmd_options options;
  const char* preset;
  double blur;
  double upstream;
  const array* upstream_at;
  unsigned wanted;
  array* results[7];  // value, x, y, weights, bandwidths, x_weights, y_weights
};
CRAFT_ENTRY failure* craft_mmd(mmd_call* a) {
  return guarded([&] {
    call c("mmd", a->x, a->results);
    const auto x = c.matrix("x", a->x), y = c.matrix("y", a->y);
    runtime::preset p;
    if (a->preset != nullptr) {
      c.refuse();
      p = runtime::preset_named(a->preset, x.rows, a->blur);
      p.options.x_weights = c.numbers("x_weights", a->options.x_weights);
      p.options.y_weights = c.numbers("y_weights", a->options.y_weights);
    } else {
      p = {*a->kernel, a->options.read(c)};
    }
    p.options.upstream = c.scalar("upstream", a->upstream, a->upstream_at);
    void* value = c.value();
    const runtime::mmd_outputs g{c.gradient(1, a->wanted, {x.rows, x.cols}), c.gradient(2, a->wanted, {y.rows, y.cols}),
                                 c.gradient(3, a->wanted, {p.kernel.weights()}),
                                 c.gradient(4, a->wanted, {p.kernel.bandwidths()}),
                                 c.gradient(5, a->wanted, {x.rows}), c.gradient(6, a->wanted, {y.rows})};
    c.run([&](const auto& device) { runtime::mmd(device, x, y, p.kernel, p.options, value, g); });
  });
}

struct bandwidth_scale_call {
  const array *x, *y;
  const char *rule, *sample;
  double scale;  // out
};
CRAFT_ENTRY failure* craft_bandwidth_scale(bandwidth_scale_call* a) {
  return guarded([&] {
    call c("bandwidth_scale", a->x, nullptr);
    const auto x = c.matrix("x", a->x), y = c.matrix("y", a->y);
    const craft::bandwidth b{runtime::named<craft::bandwidth_rule>(a->rule),
                             runtime::named<craft::bandwidth_sample>(a->sample), false};
    c.run([&](const auto& device) { a->scale = runtime::bandwidth_scale(device, x, y, b); });
  });
}

/// The numbers of a scale that is learned, as the losses take them.
struct scale {
  double log_scale;
  const array* log_scale_at;
  double max_scale;
};
template <class Options>
void read_scale(call& c, const scale& s, Options& o) {
  o.log_scale = c.scalar("log_scale", s.log_scale, s.log_scale_at);
  o.max_scale = s.max_scale;
}

struct alignment_call {
  const array *x, *y;
  const array *x_labels, *y_labels;  // cross-entropy: targets and null
  const array* weights;
  scale scaled;
  double bias;
  const array* bias_at;
  double label_smoothing;
  const char *direction, *reduction;
  index_t ignore_label;
  std::int32_t normalise;
  double upstream;
  const array* upstream_at;
  unsigned wanted;
  array* results[6];  // value, x, y, log_scale; then bias, or weights and targets

  runtime::alignment_outputs gradients(call& c, const runtime::matrix& xm, const runtime::matrix& ym) const {
    return {c.gradient(1, wanted, {xm.rows, xm.cols}), c.gradient(2, wanted, {ym.rows, ym.cols}), c.gradient(3, wanted, {})};
  }
};
CRAFT_ENTRY failure* craft_info_nce(alignment_call* a) {
  return guarded([&] {
    call c("info_nce", a->x, a->results);
    const auto x = c.matrix("x", a->x), y = c.matrix("y", a->y);
    craft::contrastive_options o;
    read_scale(c, a->scaled, o);
    o.normalise = a->normalise != 0;
    o.direction = runtime::named<craft::direction>(a->direction);
    o.x_labels = c.labels("x_labels", a->x_labels);
    o.y_labels = c.labels("y_labels", a->y_labels);
    o.label_smoothing = a->label_smoothing;
    o.weights = c.numbers("weights", a->weights);
    o.upstream = c.scalar("upstream", a->upstream, a->upstream_at);
    void* value = c.value();
    auto g = a->gradients(c, x, y);
    g.weights = c.gradient(4, a->wanted, {x.rows});
    c.run([&](const auto& device) { runtime::info_nce(device, x, y, o, value, g); });
  });
}
CRAFT_ENTRY failure* craft_sigmoid_contrastive(alignment_call* a) {
  return guarded([&] {
    call c("sigmoid_contrastive", a->x, a->results);
    const auto x = c.matrix("x", a->x), y = c.matrix("y", a->y);
    craft::sigmoid_options o;
    read_scale(c, a->scaled, o);
    o.bias = c.scalar("bias", a->bias, a->bias_at);
    o.normalise = a->normalise != 0;
    o.x_labels = c.labels("x_labels", a->x_labels);
    o.y_labels = c.labels("y_labels", a->y_labels);
    o.upstream = c.scalar("upstream", a->upstream, a->upstream_at);
    void* value = c.value();
    auto g = a->gradients(c, x, y);
    g.bias = c.gradient(4, a->wanted, {});
    c.run([&](const auto& device) { runtime::sigmoid_contrastive(device, x, y, o, value, g); });
  });
}
CRAFT_ENTRY failure* craft_anchor_cross_entropy(alignment_call* a) {
  return guarded([&] {
    call c("anchor_cross_entropy", a->x, a->results);
    const auto x = c.matrix("x", a->x), anchors = c.matrix("anchors", a->y);
    craft::cross_entropy_options o;
    read_scale(c, a->scaled, o);
    o.normalise = a->normalise != 0;
    o.label_smoothing = a->label_smoothing;
    o.ignore_label = a->ignore_label;
    o.weights = c.numbers("weights", a->weights);
    o.reduce = runtime::named<craft::reduction>(a->reduction);
    o.upstream = c.scalar("upstream", a->upstream, a->upstream_at);
    c.refuse();
    const auto& targets = a->x_labels->t;
    const bool real = targets.dtype.code == dlpack::floating || targets.dtype.code == dlpack::bfloat;
    const bool soft = real && targets.ndim == 2;
    if (real && !soft)
      craft::fail<craft::type_error>("anchor_cross_entropy: ", runtime::detail::neither_labels_nor_shares(
                                         "targets", dlpack::detail::type_name(targets), targets.ndim, x.rows, anchors.rows,
                                         ".astype(int)"));
    void* value = c.value();
    auto g = a->gradients(c, x, anchors);
    g.weights = c.gradient(4, a->wanted, {x.rows});
    g.targets = c.gradient(5, a->wanted, {x.rows, anchors.rows});
    if (soft) {
      const auto t = c.matrix("soft targets", a->x_labels);
      c.run([&](const auto& device) { runtime::anchor_cross_entropy(device, x, anchors, t, o, value, g); });
    } else {
      const auto t = c.labels("targets", a->x_labels);
      c.run([&](const auto& device) { runtime::anchor_cross_entropy(device, x, anchors, t, o, value, g); });
    }
  });
}

struct relative_call {
  const array *x, *anchors, *dout;  // dout: of the pull-back
  const runtime::kernel* similarity;
  const char* statistics;
  std::int32_t normalise, statistics_gradient;
  scale scaled;
  unsigned wanted;
  array* results[4];  // the representation, or x, anchors, log_scale behind null

  craft::relative_options read(call& c) const {
    craft::relative_options o;
    read_scale(c, scaled, o);
    o.normalise = normalise != 0;
    o.statistics = runtime::named<craft::anchor_statistics>(statistics);
    o.statistics_gradient = statistics_gradient != 0;
    return o;
  }
};
CRAFT_ENTRY failure* craft_relative(relative_call* a) {
  return guarded([&] {
    call c("relative", a->x, a->results);
    const auto x = c.matrix("x", a->x), anchors = c.matrix("anchors", a->anchors);
    const auto o = a->read(c);
    const auto out = c.result(0, {x.rows, anchors.rows});
    c.run([&](const auto& device) { runtime::relative(device, x, anchors, *a->similarity, o, out); });
  });
}
CRAFT_ENTRY failure* craft_relative_pullback(relative_call* a) {
  return guarded([&] {
    call c("relative_pullback", a->x, a->results);
    const auto x = c.matrix("x", a->x), anchors = c.matrix("anchors", a->anchors), dout = c.matrix("dout", a->dout);
    const auto o = a->read(c);
    const runtime::relative_outputs g{c.gradient(1, a->wanted, {x.rows, x.cols}),
                                      c.gradient(2, a->wanted, {anchors.rows, anchors.cols}), c.gradient(3, a->wanted, {})};
    c.run([&](const auto& device) { runtime::relative_pullback(device, x, anchors, *a->similarity, o, dout, g); });
  });
}

struct objective_call {
  const array *images, *class_texts, *targets, *batch_texts, *image_anchors, *target_images;
  const runtime::kernel* kernel;
  double text, image, batch, mmd;
  scale scaled;
  double label_smoothing;
  const char* direction;
  std::int32_t same_class_positives;
  mmd_options discrepancy;
  double upstream;
  const array* upstream_at;
  unsigned wanted;
  array* results[7];  // values, images, class_texts, batch_texts, image_anchors, target_images, log_scale
};
CRAFT_ENTRY failure* craft_objective(objective_call* a) {
  return guarded([&] {
    call c("objective", a->images, a->results);
    runtime::objective_inputs in;
    in.images = c.matrix("images", a->images);
    in.class_texts = c.matrix("class_texts", a->class_texts);
    in.targets = c.labels("targets", a->targets);
    in.batch_texts = c.matrix("batch_texts", a->batch_texts);
    in.image_anchors = c.matrix("image_anchors", a->image_anchors);
    in.target_images = c.matrix("target_images", a->target_images);
    craft::objective_options o;
    o.text = a->text;
    o.image = a->image;
    o.batch = a->batch;
    o.mmd = a->mmd;
    read_scale(c, a->scaled, o);
    o.label_smoothing = a->label_smoothing;
    o.direction = runtime::named<craft::direction>(a->direction);
    o.same_class_positives = a->same_class_positives != 0;
    o.discrepancy = a->discrepancy.read(c);
    o.upstream = c.scalar("upstream", a->upstream, a->upstream_at);
    void* values = c.result(0, {5}).data;
    const auto of = [&](int at, const runtime::matrix& m) { return c.gradient(at, a->wanted, {m.rows, m.cols}); };
    const runtime::objective_outputs g{of(1, in.images),        of(2, in.class_texts),   of(3, in.batch_texts),
                                       of(4, in.image_anchors), of(5, in.target_images), c.gradient(6, a->wanted, {})};
    c.run([&](const auto& device) { runtime::objective(device, in, *a->kernel, o, values, g); });
  });
}

struct anchors_call {
  const array *x, *labels, *centres;
  index_t classes, count, start;
  const char* metric;
  std::int32_t normalise, spherical;
  std::uint64_t seed, step;
  index_t restarts, max_iterations;
  double tolerance;
  const index_t* start_rows;
  index_t start_count;
  double inertia;      // out
  index_t iterations;  // out
  index_t distinct;    // out
  array* results[2];   // rows of numbers, row numbers
};
CRAFT_ENTRY failure* craft_class_means(anchors_call* a) {
  return guarded([&] {
    call c("class_means", a->x, a->results);
    const auto x = c.matrix("x", a->x);
    const auto y = c.labels("labels", a->labels);
    const auto out = c.result(0, {std::max<index_t>(a->classes, 0), x.cols});
    craft::class_means_options o;
    o.normalise = a->normalise != 0;
    c.run([&](const auto& device) { runtime::class_means(device, x, y, o, out); });
  });
}
/// Within every class if there are labels; count: centres, of each class then.
CRAFT_ENTRY failure* craft_kmeans(anchors_call* a) {
  return guarded([&] {
    call c("kmeans", a->x, a->results);
    const auto x = c.matrix("x", a->x);
    craft::kmeans_options o;
    o.seed = a->seed;
    o.restarts = a->restarts;
    o.max_iterations = a->max_iterations;
    o.tolerance = a->tolerance;
    o.spherical = a->spherical != 0;
    o.start.assign(a->start_rows, a->start_rows + a->start_count);
    // More centres than rows are refused by the verb: no need to find memory for them.
    const index_t per_class = std::max<index_t>(std::min(a->count, x.rows + 1), 0);
    const index_t classes = a->labels == nullptr ? 1 : std::max<index_t>(std::min(a->classes, x.rows + 1), 0);
    const auto centres = c.result(0, {classes * per_class, x.cols});
    craft::kmeans_result r;
    const auto y = c.labels("labels", a->labels);
    c.run([&](const auto& device) {
      r = a->labels == nullptr ? runtime::kmeans(device, x, o, centres)
                               : runtime::kmeans_per_class(device, x, y, a->classes, o, centres);
      c.indices(1, r.assignment);
    });
    a->inertia = r.inertia;
    a->iterations = r.iterations;
    a->distinct = r.distinct;
  });
}
CRAFT_ENTRY failure* craft_medoids(anchors_call* a) {
  return guarded([&] {
    call c("medoids", a->x, a->results);
    const auto x = c.matrix("x", a->x), centres = c.matrix("centres", a->centres);
    c.run([&](const auto& device) { c.indices(1, runtime::medoids(device, x, centres)); });
  });
}
/// `count` of the rows 0 ... classes - 1, or of each class of the labels; both are the host's business.
CRAFT_ENTRY failure* craft_random_anchors(anchors_call* a) {
  return guarded([&] {
    const auto rows = a->labels == nullptr
                          ? craft::random_anchors(a->classes, a->count, a->seed, a->step)
                          : craft::stratified_anchors(dlpack::labels(a->labels->t, "stratified_anchors: labels"), a->classes,
                                                      a->count, a->seed, a->step);
    a->results[1] = of_rows(rows).release();
  });
}
CRAFT_ENTRY failure* craft_farthest_point_anchors(anchors_call* a) {
  return guarded([&] {
    call c("farthest_point_anchors", a->x, a->results);
    const auto x = c.matrix("x", a->x);
    const auto distance = runtime::named<craft::metric>(a->metric);
    c.run([&](const auto& device) {
      c.indices(1, runtime::farthest_point_anchors(device, x, a->count, a->start, distance));
    });
  });
}

}  // namespace craft_core
