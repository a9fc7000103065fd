// The C interface under craft_align (python/core/core.cpp) on arrays in CUDA memory, by the emulated device of
// tests/emulated: where results lie, whose memory is freed when, streams, and what is refused. On the CPU tests/python
// has it.
#include <cstring>
#include <random>

#include "craft/cuda.cuh"
#include "craft/adapters/runtime_bodies.hpp"

#include "../../../python/core/core.cpp"
#include "../../catch.hpp"

using namespace craft_core;

namespace {

using numbers = std::vector<double>;

numbers some(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  numbers x(count);
  for (double& v : x) v = normal(random);
  return x;
}

/// An array on the host or on a device, with the values given.
template <class T>
std::unique_ptr<array> make(const std::vector<T>& values, std::vector<std::int64_t> shape, int device = -1) {
  const std::size_t bytes = values.size() * sizeof(T);
  std::shared_ptr<void> memory = host_memory(bytes);
  if (device < 0) {
    std::memcpy(memory.get(), values.data(), bytes);
  } else {
    const current_device guard(device);
    memory = device_memory(bytes);
    cuda_check(cudaMemcpy(memory.get(), values.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  dlpack::tensor t{};
  t.data = memory.get();
  t.device = {device < 0 ? dlpack::cpu : dlpack::cuda, std::max(device, 0)};
  t.ndim = int(shape.size());
  t.dtype = {std::uint8_t(std::is_integral_v<T> ? dlpack::integer : dlpack::floating), std::uint8_t(8 * sizeof(T)), 1};
  t.shape = shape.data();
  return std::make_unique<array>(t, memory, true);
}

numbers read(const array* a) {
  index_t count = 1;
  for (int k = 0; k < a->t.ndim; ++k) count *= a->t.shape[k];
  numbers x(std::size_t(count), 0);
  if (a->t.device.device_type == dlpack::cuda)
    cuda_check(cudaMemcpy(x.data(), a->t.data, x.size() * sizeof(double), cudaMemcpyDeviceToHost), "cudaMemcpy");
  else
    std::memcpy(x.data(), a->t.data, x.size() * sizeof(double));
  return x;
}

void check_close(const array* a, const array* b) {
  REQUIRE(a != nullptr);
  REQUIRE(b != nullptr);
  const numbers x = read(a), y = read(b);
  REQUIRE(x.size() == y.size());
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == Approx(y[i]).epsilon(1e-9).margin(1e-12));
}

void check_fails(failure* f, int kind, const std::string& part) {
  REQUIRE(f != nullptr);
  CHECK(craft_failure_kind(f) == kind);
  CHECK_THAT(craft_failure_text(f), contains(part));
  craft_failure_free(f);
}

mmd_call mmd_of(const array* x, const array* y, unsigned wanted) {
  mmd_call c{};
  c.x = x;
  c.y = y;
  c.preset = "cmmd";
  c.upstream = 2;
  c.wanted = wanted;
  return c;
}

alignment_call alignment_of(const array* x, const array* y, unsigned wanted) {
  alignment_call c{};
  c.x = x;
  c.y = y;
  c.scaled = {1.0, nullptr, 50};
  c.bias = -1;
  c.direction = "symmetric";
  c.reduction = "mean";
  c.normalise = 1;
  c.ignore_label = -100;
  c.upstream = 1;
  c.wanted = wanted;
  return c;
}

template <std::size_t N>
void free_all(array* (&results)[N]) {
  for (array*& a : results) {
    craft_array_free(a);
    a = nullptr;
  }
}

const numbers xs = some(6 * 4, 1), ys = some(6 * 4, 2);

}  // namespace

TEST_CASE("results lie where the first array lies", "[core]") {
  simt::set_device_count(2);
  for (const int device : {0, 1}) {
    const auto before = simt::live_allocations();
    {
      const auto x = make(xs, {6, 4}), y = make(ys, {6, 4}), dx = make(xs, {6, 4}, device), dy = make(ys, {6, 4}, device);
      mmd_call host = mmd_of(x.get(), y.get(), 6), on = mmd_of(dx.get(), dy.get(), 6);
      REQUIRE(craft_mmd(&host) == nullptr);
      REQUIRE(craft_mmd(&on) == nullptr);
      for (int k = 0; k < 3; ++k) {
        CHECK(on.results[k]->t.device.device_type == dlpack::cuda);
        CHECK(on.results[k]->t.device.device_id == device);
        check_close(on.results[k], host.results[k]);
      }
      CHECK(on.results[0]->t.ndim == 0);
      CHECK(on.results[3] == nullptr);
      int current = -1;
      CHECK(cudaGetDevice(&current) == cudaSuccess);
      CHECK(current == 0);  // as before the call
      free_all(host.results);
      free_all(on.results);
    }
    // Only what the thread's context keeps is left, and a second call needs no more.
    const auto kept = simt::live_allocations();
    {
      const auto dx = make(xs, {6, 4}, device), dy = make(ys, {6, 4}, device);
      mmd_call on = mmd_of(dx.get(), dy.get(), 6);
      REQUIRE(craft_mmd(&on) == nullptr);
      free_all(on.results);
    }
    CHECK(simt::live_allocations() == kept);
    CHECK(kept >= before);
  }
  simt::set_device_count(1);
}

TEST_CASE("losses, labels and scales of either memory", "[core]") {
  const std::vector<std::int64_t> labels = {0, 1, 2, 1, 0, 2};
  const numbers weights = {1, 2, 0.5, 1, 3, 1};
  const auto x = make(xs, {6, 4}), y = make(ys, {6, 4}), dx = make(xs, {6, 4}, 0), dy = make(ys, {6, 4}, 0);
  const auto l = make(labels, {6}), dl = make(labels, {6}, 0), w = make(weights, {6}), dw = make(weights, {6}, 0);
  const auto scale = make(numbers{1.0}, {}), device_scale = make(numbers{1.0}, {}, 0);
  using verb = failure* (*)(alignment_call*);
  for (const verb v : {verb(craft_info_nce), verb(craft_sigmoid_contrastive), verb(craft_anchor_cross_entropy)}) {
    const bool both = v != verb(craft_anchor_cross_entropy);
    alignment_call host = alignment_of(x.get(), y.get(), 30);
    host.x_labels = l.get();
    host.y_labels = both ? l.get() : nullptr;
    host.weights = v == verb(craft_sigmoid_contrastive) ? nullptr : w.get();
    REQUIRE(v(&host) == nullptr);
    for (const bool everything : {true, false}) {
      alignment_call on = host;
      for (array*& r : on.results) r = nullptr;
      on.x = dx.get();
      on.y = dy.get();
      if (everything) {
        on.x_labels = dl.get();
        if (both) on.y_labels = dl.get();
        if (on.weights) on.weights = dw.get();
        on.scaled.log_scale = -100;
        on.scaled.log_scale_at = device_scale.get();
      }
      REQUIRE(v(&on) == nullptr);
      for (int k = 0; k < 5; ++k) check_close(on.results[k], host.results[k]);  // the last: bias or weights
      free_all(on.results);
      // A number in host memory is not for a stream to read.
      on.scaled.log_scale_at = scale.get();
      check_fails(v(&on), device_error, "log_scale lies on another device");
      CHECK(on.results[0] == nullptr);
    }
    free_all(host.results);
  }
}

TEST_CASE("maps, objective and anchors", "[core]") {
  const std::vector<std::int64_t> labels = {0, 1, 2, 1, 0, 2};
  const auto x = make(xs, {6, 4}), a = make(some(12, 3), {3, 4}), l = make(labels, {6});
  const auto dx = make(xs, {6, 4}, 0), da = make(some(12, 3), {3, 4}, 0);
  runtime::kernel* kernel = nullptr;
  const double sigma = 2;
  REQUIRE(craft_kernel_new("gaussian", &sigma, 1, nullptr, 0, 0, &kernel) == nullptr);
  relative_call host{}, on{};
  host.x = x.get();
  host.anchors = a.get();
  host.similarity = kernel;
  host.statistics = "centre";
  host.scaled = {0.5, nullptr, 50};
  on = host;
  on.x = dx.get();
  on.anchors = da.get();
  REQUIRE(craft_relative(&host) == nullptr);
  REQUIRE(craft_relative(&on) == nullptr);
  check_close(on.results[0], host.results[0]);
  host.dout = host.results[0];
  on.dout = on.results[0];
  host.wanted = on.wanted = 14;
  REQUIRE(craft_relative_pullback(&host) == nullptr);
  REQUIRE(craft_relative_pullback(&on) == nullptr);
  for (int k = 1; k < 4; ++k) check_close(on.results[k], host.results[k]);
  free_all(host.results);
  free_all(on.results);

  objective_call o{};
  o.images = x.get();
  o.class_texts = a.get();
  o.targets = l.get();
  o.target_images = x.get();
  o.kernel = kernel;
  o.text = o.image = o.batch = o.mmd = 1;
  o.scaled = {1.0, nullptr, 50};
  o.direction = "one_way";
  o.discrepancy.estimator = "biased";
  o.discrepancy.rule = "fixed";
  o.discrepancy.sample = "pooled";
  o.discrepancy.columns = "none";
  o.discrepancy.column_eps = 1e-8;
  o.discrepancy.factor = 1;
  o.upstream = 1;
  o.wanted = 6;
  objective_call od = o;
  od.images = od.target_images = dx.get();
  od.class_texts = da.get();
  REQUIRE(craft_objective(&o) == nullptr);
  REQUIRE(craft_objective(&od) == nullptr);
  for (int k = 0; k < 3; ++k) check_close(od.results[k], o.results[k]);
  free_all(o.results);
  free_all(od.results);
  craft_kernel_free(kernel);

  anchors_call k{};
  k.classes = 1;
  k.count = 3;
  k.restarts = 2;
  k.max_iterations = 10;
  k.x = x.get();
  anchors_call kd = k;
  kd.x = dx.get();
  REQUIRE(craft_kmeans(&k) == nullptr);
  REQUIRE(craft_kmeans(&kd) == nullptr);
  check_close(kd.results[0], k.results[0]);
  CHECK(kd.results[0]->t.device.device_type == dlpack::cuda);
  CHECK(kd.results[1]->t.device.device_type == dlpack::cpu);  // row numbers come to the host
  CHECK(std::memcmp(kd.results[1]->t.data, k.results[1]->t.data, 6 * sizeof(index_t)) == 0);
  CHECK(kd.inertia == Approx(k.inertia));
  free_all(k.results);
  free_all(kd.results);

  bandwidth_scale_call b{x.get(), a.get(), "median", "pooled", 0}, bd{dx.get(), da.get(), "median", "pooled", 0};
  REQUIRE(craft_bandwidth_scale(&b) == nullptr);
  REQUIRE(craft_bandwidth_scale(&bd) == nullptr);
  CHECK(bd.scale == Approx(b.scale));
}

TEST_CASE("arrays on several devices are refused", "[core]") {
  simt::set_device_count(2);
  {
    const auto x = make(xs, {6, 4}), first = make(xs, {6, 4}, 0), second = make(ys, {6, 4}, 1);
    const auto count = simt::live_allocations();
    for (const auto& [a, b] : {std::pair(x.get(), first.get()), {first.get(), x.get()}, {first.get(), second.get()}}) {
      mmd_call c = mmd_of(a, b, 6);
      check_fails(craft_mmd(&c), device_error, "y lies on another device than the first array");
      for (const array* r : c.results) CHECK(r == nullptr);
    }
    // What fails in the verb leaves no result behind either.
    const auto narrow = make(some(6 * 3, 4), {6, 3}, 0);
    mmd_call c = mmd_of(first.get(), narrow.get(), 6);
    check_fails(craft_mmd(&c), value_error, "columns must agree");
    for (const array* r : c.results) CHECK(r == nullptr);
    CHECK(simt::live_allocations() == count + 1);
  }
  simt::set_device_count(1);
}

TEST_CASE("a consumer's stream waits for a result", "[core]") {
  const auto x = make(xs, {6, 4}), dx = make(xs, {6, 4}, 0);
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(craft_array_ready(dx.get(), std::int64_t(reinterpret_cast<std::intptr_t>(stream))) == nullptr);
  CHECK(craft_array_ready(dx.get(), 1) == nullptr);   // the legacy default stream: ours
  CHECK(craft_array_ready(dx.get(), -1) == nullptr);  // the consumer sees to it
  CHECK(craft_array_ready(x.get(), 7) == nullptr);    // host memory has no stream
  check_fails(craft_array_ready(dx.get(), 0), value_error, "no such CUDA stream: 0");
  check_fails(craft_array_ready(dx.get(), -2), value_error, "no such CUDA stream: -2");
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}
