// The CUDA context, and what every verb promises on it: graphs, scratch memory of known size, numbers in device memory,
// the caller's cuBLAS handle, errors of the device, the same bits on every run. Values and gradients themselves are
// compared with references by the tests that run over `devices`; here one way of calling is compared with another.
//
// The same text is run under emulation and on a GPU. What only an emulated device can tell (how often somebody waited,
// what is still allocated) or do (fail when asked to) is inside CRAFT_EMULATED_CUDA.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/any_device.hpp"
#include "craft/craft.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"
#include "mmd_runs.hpp"
#include "pair_losses.hpp"
#include "rejects.hpp"
#include "relative_runs.hpp"

using namespace craft_test;

namespace craft_test {
/// Quad by quad what kernels read of a row of a panel.
struct read_quads {
  const float* line;
  index_t end;
  float* out;
  __device__ void operator()(index_t q) const {
    const craft::engine::quad<float> read = craft::engine::quad_at(line, 4 * q, end, -1.0f);
    for (int c = 0; c < 4; ++c) out[4 * q + c] = read.v[c];
  }
};
}  // namespace craft_test

namespace {

using craft::engine::cublas_check;
using craft::engine::cuda_check;

// ---------------------------------------------------------------------------------------------------------
// CUDA's objects, for as long as a test needs them

/// Ordered with the default stream, on which `array` copies: so no test waits by hand before it looks at results.
class stream_owner {
 public:
  stream_owner() { cuda_check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  stream_owner(const stream_owner&) = delete;
  stream_owner& operator=(const stream_owner&) = delete;
  ~stream_owner() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class handle_owner {
 public:
  explicit handle_owner(cudaStream_t stream) {
    cublas_check(cublasCreate(&handle_), "cublasCreate");
    cublas_check(cublasSetStream(handle_, stream), "cublasSetStream");
  }
  handle_owner(const handle_owner&) = delete;
  handle_owner& operator=(const handle_owner&) = delete;
  ~handle_owner() { cublasDestroy(handle_); }
  operator cublasHandle_t() const { return handle_; }

 private:
  cublasHandle_t handle_ = nullptr;
};

/// Device memory of exactly so many bytes, so that a sanitizer sees the first one too many.
class buffer {
 public:
  explicit buffer(std::size_t bytes) { cuda_check(cudaMalloc(&memory_, bytes), "cudaMalloc"); }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  ~buffer() { cudaFree(memory_); }
  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

/// What `call` puts into the stream, to be run later.
class graph {
 public:
  template <class Call>
  graph(cudaStream_t stream, cudaStreamCaptureMode mode, const Call& call) : stream_(stream) {
    cuda_check(cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture");
    cudaGraph_t captured = nullptr;
    try {
      call();
    } catch (...) {
      // The capture may have been spoilt by then: that is no news.
      if (cudaStreamEndCapture(stream, &captured) == cudaSuccess && captured != nullptr) cudaGraphDestroy(captured);
      cudaGetLastError();
      throw;
    }
    cuda_check(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
    const cudaError_t counted = cudaGraphGetNodes(captured, nullptr, &nodes_);
    const cudaError_t made = cudaGraphInstantiate(&executable_, captured, 0);
    cudaGraphDestroy(captured);
    cuda_check(counted, "cudaGraphGetNodes");
    cuda_check(made, "cudaGraphInstantiate");
  }
  graph(const graph&) = delete;
  graph& operator=(const graph&) = delete;
  ~graph() { cudaGraphExecDestroy(executable_); }
  void replay() const { cuda_check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }
  std::size_t nodes() const { return nodes_; }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
  std::size_t nodes_ = 0;
};

// ---------------------------------------------------------------------------------------------------------
// Contexts

/// The two ways through the pairs: tiles of dot products by cuBLAS, small enough that our samples make several; and
/// sweeps by one kernel.
enum class way { tiles, fused };
constexpr way ways[] = {way::tiles, way::fused};
const char* name_of(way w) { return w == way::tiles ? "tiles" : "fused"; }

constexpr index_t tile_rows = 16, tile_columns = 24;

craft::cuda& set_up(craft::cuda& ctx, way w) {
  return ctx.blas_bytes(cuda_backend::little_for_blas).tile(tile_rows, tile_columns).fused(w == way::tiles ? 0 : 128);
}
craft::cuda make(way w, cudaStream_t stream = nullptr, cublasHandle_t handle = nullptr) {
  craft::cuda ctx(stream, handle);
  set_up(ctx, w);
  return ctx;
}

#ifdef CRAFT_EMULATED_CUDA
/// The order of threads is put back at the end of a test.
struct order_keeper {
  simt::order before = simt::current_order();
  order_keeper() = default;
  order_keeper(const order_keeper&) = delete;
  order_keeper& operator=(const order_keeper&) = delete;
  ~order_keeper() { simt::set_order(before); }
};
#endif

}  // namespace

TEMPLATE_LIST_TEST_CASE("every verb on the list writes something, and other inputs give other results", "[cuda]",
                        devices) {
  every_device_verb<TestType> all;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      all.set(0);
      all.reset();
      const std::string before = all.bits(), first = all.bits_of(verb, ctx);
      for (const auto& [name, numbers] : all.results()) {
        INFO(name);
        CHECK(numbers.allFinite());
      }
      all.set(1);
      const std::string second = all.bits_of(verb, ctx);
      CHECK((first != before));
      CHECK((second != first));
    }
  }
}

// What is not a number must not come out as one, let alone as a loss of 0 (a maximum of it and 0 is neither).
TEMPLATE_LIST_TEST_CASE("a NaN among the inputs shows in what every verb gives", "[cuda]", devices) {
  every_device_verb<TestType> all;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      all.set(0);
      const std::string want = all.bits_of(verb, ctx);
      all.spoil();
      all.reset();
      verb.run(ctx);
      bool any = false;
      for (const auto& [name, numbers] : all.results()) {
        const bool written = !(numbers.array() == sentinel).all(), nan = numbers.array().isNaN().any();
        any = any || nan;
        INFO(name);
        if (written && (name == "value" || name == "terms" || name == "out")) CHECK(nan);
      }
      CHECK(any == (verb.name != "gather_pullback"));  // which does not read x
      all.set(0);
      CHECK((all.bits_of(verb, ctx) == want));
    }
  }
}

// A kernel whose distance is kept from 0 takes a maximum of its own.
TEST_CASE("a NaN among the inputs shows through a floor under the distance", "[cuda]") {
  using D = device<cuda_backend, double>;
  const reals X = with(random_reals(9, 3, 1), 2, 1, not_a_number), Y = random_reals(7, 3, 2);
  const craft::laplacian<double> kernel(1.5);
  craft::relative_options plain;
  plain.normalise = false;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const form f : all_forms) {
      INFO(name_of(w) << ", " << name_of(f));
      const auto got = run_mmd<D>(ctx, X, Y, kernel, options_of(f));
      CHECK(std::isnan(got.value));
      CHECK(got.x.array().isNaN().any());
    }
    CHECK(run_map<D>(ctx, X, Y, kernel, plain).row(2).array().isNaN().all());
  }
}

// ---------------------------------------------------------------------------------------------------------
// Graphs

TEMPLATE_LIST_TEST_CASE("every verb is captured in a graph, which sees inputs that changed since", "[cuda][graph]",
                        devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  for (const way w : ways) {
    const craft::cuda ctx = make(w, stream), direct = make(w);
    for (const auto& verb : all.verbs) {
      if (verb.host_indices) continue;
      INFO(verb.name << ", " << name_of(w));
      all.set(0);
      const std::string before = all.bits_of(verb, ctx);
      all.reset();
      const std::string untouched = all.bits();
      const graph g(stream, cudaStreamCaptureModeThreadLocal, [&] { verb.run(ctx); });
      CHECK(g.nodes() > 0);
      CHECK((all.bits() == untouched));  // nothing has run yet
      for (const int variant : {1, 0}) {
        all.set(variant);
        const std::string want = all.bits_of(verb, direct);
        for (int time = 0; time < 2; ++time) {
          all.reset();
          g.replay();
          CHECK((all.bits() == want));
        }
      }
      CHECK((all.bits_of(verb, ctx) == before));  // the context is none the worse, and neither is the graph
      all.reset();
      g.replay();
      CHECK((all.bits() == before));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("capture without a call before says what to do, and harms nothing", "[cuda][graph]", devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  const way w = way::tiles;
  const craft::cuda direct = make(w);
  for (const auto& verb : all.verbs) {
    INFO(verb.name);
    const std::string want = all.bits_of(verb, direct);
    const craft::cuda ctx = make(w, stream);
    all.reset();
    const std::string before = all.bits();
    const auto capture = [&] { graph(stream, cudaStreamCaptureModeGlobal, [&] { verb.run(ctx); }); };
    CHECK_THROWS_AS(capture(), craft::device_error);
    CHECK_THROWS_WITH(capture(), contains("during graph capture") && contains("run the call once before") &&
                                     contains("workspace_bytes"));
    CHECK((all.bits() == before));
    CHECK((all.bits_of(verb, ctx) == want));
    if (verb.host_indices) continue;
    all.reset();
    graph(stream, cudaStreamCaptureModeGlobal, [&] { verb.run(ctx); }).replay();
    CHECK((all.bits() == want));
  }
}

// The other advice of that error.
TEMPLATE_LIST_TEST_CASE("capture needs no call before if its memory is reserved", "[cuda][graph][workspace]", devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  for (const way w : ways) {
    const craft::cuda direct = make(w);
    for (const char* name : {"mmd, biased", "info_nce, labels", "objective without batch texts"}) {
      INFO(name << ", " << name_of(w));
      const auto& verb = named(all, name);
      const std::string want = all.bits_of(verb, direct);
      const craft::cuda ctx = make(w, stream);
      ctx.scratch().reserve(ctx.workspace_bytes([&](const craft::cuda& r) { verb.run(r); }));
      all.reset();
      graph(stream, cudaStreamCaptureModeGlobal, [&] { verb.run(ctx); }).replay();
      CHECK((all.bits() == want));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a graph can be replayed after calls that needed more memory", "[cuda][graph][workspace]", devices) {
  every_device_verb<TestType> small(9, 8, 3, 5), large(60, 70, 9, 40);
  const stream_owner stream;
  const craft::cuda direct = make(way::tiles);
  for (const char* name : {"mmd, biased", "info_nce, labels", "objective"}) {
    INFO(name);
    const auto &verb = named(small, name), &larger = named(large, name);
    const std::string want = small.bits_of(verb, direct), want_larger = large.bits_of(larger, direct);
    const craft::cuda ctx = make(way::tiles, stream);
    verb.run(ctx);
    const std::size_t held = ctx.scratch().bytes_held();
    CHECK_FALSE(ctx.scratch().pinned());
    const graph g(stream, cudaStreamCaptureModeThreadLocal, [&] { verb.run(ctx); });
    CHECK(ctx.scratch().pinned());
    for (int time = 0; time < 2; ++time) {
      CHECK((large.bits_of(larger, ctx) == want_larger));
      CHECK(ctx.scratch().bytes_held() > held);
      small.reset();
      g.replay();
      CHECK((small.bits() == want));
    }
    // What was taken for the larger call serves the next one of its size.
    const std::size_t now = ctx.scratch().bytes_held();
    larger.run(ctx);
    CHECK(ctx.scratch().bytes_held() == now);
    ctx.scratch().reserve(2 * now);
    CHECK(ctx.scratch().bytes_held() == 3 * now);
    small.reset();
    g.replay();
    CHECK((small.bits() == want));
    // Other memory would be the end of the graph.
    CHECK_THROWS_WITH(ctx.scratch().use({}, {}), contains("captured graph"));
    small.reset();
    g.replay();
    CHECK((small.bits() == want));
  }
}

// Calls of one context share its scratch memory: in a graph they follow one another as in a stream. And a rehearsal
// puts nothing into the graph.
TEST_CASE("several verbs in one graph", "[cuda][graph]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const stream_owner stream;
  const craft::cuda ctx = make(way::tiles, stream), direct = make(way::tiles);
  const auto several = [&](const craft::cuda& c) {
    for (const char* name : {"mmd, bandwidth by median", "relative", "sigmoid_contrastive, labels"})
      named(all, name).run(c);
  };
  several(ctx);
  std::size_t bytes = 0;
  const graph g(stream, cudaStreamCaptureModeThreadLocal, [&] { several(ctx); });
  const graph rehearsing(stream, cudaStreamCaptureModeThreadLocal, [&] { bytes = ctx.workspace_bytes(several); });
  CHECK(rehearsing.nodes() == 0);
  CHECK(bytes == ctx.scratch().bytes_used());
  all.set(1);
  all.reset();
  several(direct);
  const std::string want = all.bits();
  all.reset();
  g.replay();
  CHECK((all.bits() == want));
}

// In a small batch the nodes are what takes the time.
TEST_CASE("the objective of a small batch, with all gradients, is a graph of 69 nodes", "[cuda][graph]") {
  using D = device<cuda_backend, float>;
  const index_t n = 8, m = 9, c = 5, d = 32;
  const array<D> images(random_reals(n, d, 1)), texts(random_reals(c, d, 2)), paired(random_reals(n, d, 3));
  const array<D> anchors(random_reals(c, d, 4)), target(random_reals(m, d, 5));
  const label_array<D> labels(labels_for(n, c, 2));
  array<D> d_images(n, d), d_texts(c, d), d_paired(n, d), d_anchors(c, d), d_target(m, d), terms(1, 5);
  const stream_owner stream;
  const craft::cuda ctx(stream);
  const auto call = [&] {
    using values = craft::objective_values<float>;
    const craft::scalar_out<values, D::space> place(reinterpret_cast<values*>(terms.out().data()));
    craft::objective_gradients<float, D::space> g;
    g.images = craft::overwrite(d_images.out());
    g.class_texts = craft::overwrite(d_texts.out());
    g.batch_texts = craft::overwrite(d_paired.out());
    g.image_anchors = craft::overwrite(d_anchors.out());
    g.target_images = craft::overwrite(d_target.out());
    craft::objective_inputs<float, D::space> in;
    in.images = images.in(), in.class_texts = texts.in(), in.targets = labels.in(), in.batch_texts = paired.in();
    in.image_anchors = anchors.in(), in.target_images = target.in();
    craft::objective(ctx, in, craft::gaussians<>{0.5, 1.0, 2.0}, craft::objective_options{}, place, g);
  };
  call();
  const graph g(stream, cudaStreamCaptureModeThreadLocal, call);
  CHECK(g.nodes() <= 69);
}

TEMPLATE_LIST_TEST_CASE("labels and weights on the host cannot be captured", "[cuda][graph]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const index_t n = 9, c = 3, d = 4;
  const array<D> x(random_reals(n, d, 1)), y(random_reals(n, d, 2)), a(random_reals(c, d, 3));
  const array<D, T> soft(reals::Ones(n, c));
  array<D, T> value(1, 1), terms(1, 5);
  array<D> means(c, d);
  const std::vector<index_t> labels = labels_for(n, c, 2);
  const std::vector<double> weights(std::size_t(n), 0.5);
  const craft::gaussians<double> kernel{1.0, 2.0};
  const stream_owner stream;
  const craft::cuda ctx = make(way::tiles, stream);

  std::vector<std::pair<std::string, std::function<void()>>> calls;
  calls.emplace_back("mmd", [&] {
    craft::mmd_options o;
    o.x_weights = weights;
    craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value());
  });
  calls.emplace_back("anchor_cross_entropy, labels", [&] {
    craft::anchor_cross_entropy(ctx, x.in(), a.in(), labels, craft::cross_entropy_options{}, value.as_value());
  });
  calls.emplace_back("anchor_cross_entropy, weights", [&] {
    craft::cross_entropy_options o;
    o.weights = weights;
    craft::anchor_cross_entropy(ctx, x.in(), a.in(), soft.in(), o, value.as_value());
  });
  calls.emplace_back("info_nce", [&] {
    craft::contrastive_options o;
    o.x_labels = o.y_labels = labels;
    craft::info_nce(ctx, x.in(), y.in(), o, value.as_value());
  });
  calls.emplace_back("sigmoid_contrastive", [&] {
    craft::sigmoid_options o;
    o.x_labels = o.y_labels = labels;
    craft::sigmoid_contrastive(ctx, x.in(), y.in(), o, value.as_value());
  });
  calls.emplace_back("class_means",
                     [&] { craft::class_means(ctx, x.in(), labels, craft::class_means_options{}, means.out()); });
  calls.emplace_back("objective", [&] {
    craft::objective_inputs<typename D::scalar, D::space> in;
    in.images = x.in();
    in.class_texts = a.in();
    in.targets = labels;
    using values = craft::objective_values<T>;
    const craft::scalar_out<values, D::space> place(reinterpret_cast<values*>(terms.out().data()));
    craft::objective(ctx, in, kernel, craft::objective_options{}, place);
  });
  for (const auto& [name, call] : calls) {
    INFO(name);
    call();
    const auto read = [&] { return value.bits() + means.bits() + terms.bits(); };
    const std::string before = read();
    const auto& captured = call;  // a structured binding cannot be captured in C++17
    const auto capture = [&] { graph(stream, cudaStreamCaptureModeThreadLocal, [&] { captured(); }); };
    CHECK_THROWS_AS(capture(), craft::device_error);
    CHECK_THROWS_WITH(capture(), contains("labels and weights must lie in device memory during graph capture"));
    CHECK((read() == before));
    CHECK_NOTHROW(call());
  }
}

// Looking at what lies in device memory means waiting for it, which no graph can.
TEMPLATE_LIST_TEST_CASE("a context that looks at its inputs cannot be captured, and works on", "[cuda][graph]",
                        devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  const craft::cuda direct = make(way::tiles);
  const auto& verb = named(all, "anchor_cross_entropy, labels and weights");
  const std::string want = all.bits_of(verb, direct);
  for (const bool finite : {false, true}) {
    craft::cuda ctx = make(way::tiles, stream);
    ctx.check_labels(!finite).check_finite(finite);
    CHECK((all.bits_of(verb, ctx) == want));
    all.reset();
    const std::string untouched = all.bits();
    CHECK_THROWS_AS(graph(stream, cudaStreamCaptureModeThreadLocal, [&] { verb.run(ctx); }), craft::device_error);
    CHECK((all.bits() == untouched));
    CHECK((all.bits_of(verb, ctx) == want));
    ctx.check_labels(false).check_finite(false);
    all.reset();
    graph(stream, cudaStreamCaptureModeThreadLocal, [&] { verb.run(ctx); }).replay();
    CHECK((all.bits() == want));
  }
}

// ---------------------------------------------------------------------------------------------------------
// Nobody waits, nobody allocates

#ifdef CRAFT_EMULATED_CUDA
TEMPLATE_LIST_TEST_CASE("no verb waits for the device, and none allocates after its first call", "[cuda][async]",
                        devices) {
  every_device_verb<TestType> all;
  for (const way w : ways)
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const auto outside = simt::live_allocations();
      {
        const craft::cuda ctx = make(w);
        CHECK(simt::live_allocations() == outside);  // a context alone holds no memory
        auto waits = simt::synchronisations();
        verb.run(ctx);
        CHECK(simt::synchronisations() == waits);
        const auto held = simt::live_allocations();
        CHECK(held == outside + 1);  // in one piece
        CHECK(ctx.scratch().bytes_held() == ctx.scratch().bytes_used());
        simt::reset_peak();
        waits = simt::synchronisations();
        for (int time = 0; time < 3; ++time) verb.run(ctx);
        CHECK(simt::synchronisations() == waits);
        CHECK(simt::live_allocations() == held);
        CHECK(simt::peak_bytes() == simt::live_bytes());  // nor for a moment
      }
      CHECK(simt::live_allocations() == outside);
    }
}
#endif

// ---------------------------------------------------------------------------------------------------------
// Numbers in device memory

namespace {

/// Outputs of one of the losses with a scale.
struct scaled_run {
  std::string bits;
  std::vector<std::pair<std::string, reals>> results;
};

const char* const scaled_losses[] = {"info_nce", "anchor_cross_entropy", "sigmoid_contrastive", "relative", "objective",
                                     "mmd"};

struct numbers_given {
  craft::scalar log_scale = 2.25, bias = -3.25, upstream = -1.5;
  double max_scale = std::numeric_limits<double>::infinity();
  bool accumulate = false;
};

template <class D>
scaled_run run_scaled(int loss, const craft::cuda& ctx, const numbers_given& given) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const index_t n = 13, d = 5;
  const array<D> x(random_reals(n, d, 31)), y(random_reals(n, d, 32)), w(random_reals(n, n, 33));
  const label_array<D> labels(labels_for(n, n, 3));
  array<D> dx(n, d, sentinel), dy(n, d, sentinel), out(n, n, sentinel);
  array<D, T> value(1, 1, sentinel), ds(1, 1, sentinel), db(1, 1, sentinel), terms(1, 5, sentinel);
  const auto to = [&](auto& a) { return given.accumulate ? craft::accumulate(a.out()) : craft::overwrite(a.out()); };
  craft::alignment_gradients<S, D::space> g;
  g.x = to(dx);
  g.y = to(dy);
  g.log_scale = to(ds);
  const auto set = [&](auto o) {
    o.log_scale = given.log_scale;
    o.max_scale = given.max_scale;
    o.upstream = given.upstream;
    return o;
  };
  const craft::gaussians<double> kernel{1.0, 3.0};
  if (loss == 0) craft::info_nce(ctx, x.in(), y.in(), set(craft::contrastive_options{}), value.as_value(), g);
  if (loss == 1)
    craft::anchor_cross_entropy(ctx, x.in(), y.in(), labels.in(), set(craft::cross_entropy_options{}), value.as_value(),
                                g);
  if (loss == 2) {
    g.bias = to(db);
    craft::sigmoid_options o = set(craft::sigmoid_options{});
    o.bias = given.bias;
    craft::sigmoid_contrastive(ctx, x.in(), y.in(), o, value.as_value(), g);
  }
  if (loss == 3) {
    craft::relative_options o;
    o.log_scale = given.log_scale;
    o.max_scale = given.max_scale;
    craft::relative(ctx, x.in(), y.in(), craft::dot_product<>(), o, out.out());
    craft::relative_gradients<S, D::space> r;
    r.x = g.x;
    r.anchors = g.y;
    r.log_scale = g.log_scale;
    craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), o, w.in(), r);
  }
  if (loss == 4) {
    craft::objective_inputs<S, D::space> in;
    in.images = x.in();
    in.class_texts = y.in();
    in.targets = labels.in();
    in.target_images = y.in();
    craft::objective_gradients<S, D::space> o;
    o.images = g.x;
    o.class_texts = g.y;
    o.log_scale = g.log_scale;
    using values = craft::objective_values<T>;
    const craft::scalar_out<values, D::space> place(reinterpret_cast<values*>(terms.out().data()));
    craft::objective(ctx, in, kernel, set(craft::objective_options{}), place, o);
  }
  if (loss == 5) {
    craft::mmd_options o;
    o.upstream = given.upstream;
    craft::mmd_gradients<S, D::space> m;
    m.x = g.x;
    m.y = g.y;
    craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value(), m);
  }
  return {dx.bits() + dy.bits() + out.bits() + value.bits() + ds.bits() + db.bits() + terms.bits(),
          {{"dx", dx.get()},
           {"dy", dy.get()},
           {"out", out.get()},
           {"value", value.get()},
           {"d log_scale", ds.get()},
           {"d bias", db.get()},
           {"terms", terms.get()}}};
}

/// Two runs that differ in the last digits of the scale: 4 roundoffs of exp, times the logits' slope of about the
/// scale.
template <class D>
void check_alike(const scaled_run& got, const scaled_run& want) {
  for (std::size_t k = 0; k < want.results.size(); ++k) {
    INFO(want.results[k].first);
    const reals &a = got.results[k].second, &b = want.results[k].second;
    CHECK((a - b).norm() <= 1000 * roundoff<typename D::scalar> * (1 + b.norm()));
  }
}

}  // namespace

// 2.25, -3.25 and -1.5 are the same number in float and in double. The product of upstream and a factor is one IEEE
// multiplication wherever it is made, and so is the sum with the bias: the same bits. The scale's exp is taken on the
// host in one case and on the device in the other: the same bits where both use one mathematical library (under
// emulation).
TEMPLATE_LIST_TEST_CASE("numbers in device memory are the numbers given by value", "[cuda][scalars]", devices) {
  using D = TestType;
  const array<D, float> f_scale(1, 1, 2.25), f_bias(1, 1, -3.25), f_upstream(1, 1, -1.5);
  const array<D, double> d_scale(1, 1, 2.25), d_bias(1, 1, -3.25), d_upstream(1, 1, -1.5);
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 6; ++loss)
      for (const bool accumulate : {false, true}) {
        INFO(scaled_losses[loss] << ", " << name_of(w) << (accumulate ? ", accumulate" : ""));
        numbers_given by_value;
        by_value.accumulate = accumulate;
        const scaled_run want = run_scaled<D>(loss, ctx, by_value);
        for (const bool wide : {false, true}) {
          numbers_given g = by_value;
          g.bias = wide ? d_bias.as_scalar() : f_bias.as_scalar();
          g.upstream = wide ? d_upstream.as_scalar() : f_upstream.as_scalar();
          CHECK((run_scaled<D>(loss, ctx, g).bits == want.bits));
          g.log_scale = wide ? d_scale.as_scalar() : f_scale.as_scalar();
          const scaled_run got = run_scaled<D>(loss, ctx, g);
          check_alike<D>(got, want);
#ifdef CRAFT_EMULATED_CUDA
          CHECK((got.bits == want.bits));
#endif
        }
      }
  }
}

TEMPLATE_LIST_TEST_CASE("a scale in device memory is clamped, and then has a gradient that leads back, or none",
                        "[cuda][scalars]", devices) {
  using D = TestType;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 5; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      for (const double log_scale : {2.25, 700.0, 1000.0}) {  // exp of the last is infinite
        const array<D, typename D::compute> on_device(1, 1, log_scale);
        const array<D, double> wide(1, 1, log_scale);
        numbers_given clamped, exact;
        clamped.log_scale = on_device.as_scalar();
        clamped.max_scale = 4;
        exact.log_scale = std::log(4.0);
        scaled_run got = run_scaled<D>(loss, ctx, clamped), want = run_scaled<D>(loss, ctx, exact);
        double& by_scale = want.results[4].second(0, 0);
        CHECK(by_scale != 0);
        if (by_scale < 0) by_scale = 0;  // a step against it would lead further out
        CHECK((got.results[4].second(0, 0) == 0) == (by_scale == 0));
        check_alike<D>(got, want);
        clamped.log_scale = wide.as_scalar();
        CHECK((run_scaled<D>(loss, ctx, clamped).bits == got.bits));
        // Clamped by the host: its maximum is as exact as the device's.
        clamped.log_scale = log_scale;
        CHECK((run_scaled<D>(loss, ctx, clamped).bits == got.bits));
        // Added to what is there, which may be nothing.
        clamped.log_scale = on_device.as_scalar();
        clamped.accumulate = true;
        const double added = got.results[4].second(0, 0), sum = run_scaled<D>(loss, ctx, clamped).results[4].second(0, 0);
        CHECK(std::abs(sum - (sentinel + added)) <= 2 * roundoff<typename D::scalar> * std::abs(sum));
      }
      // A scale beyond the maximum and one below it: the maximum is only that.
      const array<D, typename D::compute> small(1, 1, 0.5);
      numbers_given below, free;
      below.log_scale = free.log_scale = small.as_scalar();
      below.max_scale = 4;
      CHECK((run_scaled<D>(loss, ctx, below).bits == run_scaled<D>(loss, ctx, free).bits));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("a scale in device memory that is not a number does not pass for the largest one",
                        "[cuda][scalars]", devices) {
  using D = TestType;
  const array<D, typename D::compute> on_device(1, 1, not_a_number);
  for (const way w : ways)
    for (int loss = 0; loss < 5; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      numbers_given g;
      g.log_scale = on_device.as_scalar();
      g.max_scale = 4;
      const auto results = run_scaled<D>(loss, make(w), g).results;
      const reals& value = results[loss == 3 ? 2 : loss == 4 ? 6 : 3].second;
      CHECK(std::isnan(value(0, value.cols() - 1)));
    }
}

TEMPLATE_LIST_TEST_CASE("accumulate adds to what is in device memory", "[cuda][outputs]", devices) {
  using D = TestType;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 6; ++loss) {
      INFO(scaled_losses[loss] << ", " << name_of(w));
      numbers_given g;
      const scaled_run alone = run_scaled<D>(loss, ctx, g);
      g.accumulate = true;
      const scaled_run added = run_scaled<D>(loss, ctx, g);
      for (const std::size_t k : {0, 1, 4, 5}) {
        const bool written = k < 2 || (k == 4 && loss != 5) || (k == 5 && loss == 2);
        if (!written) continue;
        const reals &a = added.results[k].second, sum = alone.results[k].second.array() + sentinel;
        INFO(alone.results[k].first);
        // One addition.
        CHECK((a - sum).cwiseAbs().maxCoeff() <= 2 * roundoff<typename D::scalar> * sum.cwiseAbs().maxCoeff());
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// Scratch memory

TEMPLATE_LIST_TEST_CASE("workspace_bytes is what a call needs, to the last line", "[cuda][workspace]", devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  const auto& smaller = named(all, "class_means");
  for (const way w : ways) {
    const craft::cuda direct = make(w);
    const std::string smaller_want = all.bits_of(smaller, direct);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const std::string want = all.bits_of(verb, direct);
      craft::cuda ctx = make(w, stream);
      all.reset();
      const std::string untouched = all.bits();
#ifdef CRAFT_EMULATED_CUDA
      const auto launches = simt::launches(), products = simt::products(), calls = simt::calls();
      const auto live = simt::live_bytes();
      simt::reset_peak();
#endif
      const std::size_t bytes = ctx.workspace_bytes([&](const craft::cuda& r) {
        CHECK(r.rehearses());
        verb.run(r);
      });
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::launches() == launches);
      CHECK(simt::products() == products);
      CHECK(simt::calls() == calls);  // the runtime is not even asked
      CHECK(simt::peak_bytes() == live);
#endif
      CHECK((all.bits() == untouched));
      CHECK_FALSE(ctx.rehearses());
      CHECK(ctx.scratch().bytes_held() == 0);

      const buffer exact(bytes), one_line_less(bytes - 64);
      ctx.memory(exact.get(), bytes);
#ifdef CRAFT_EMULATED_CUDA
      simt::reset_peak();
#endif
      CHECK((all.bits_of(verb, ctx) == want));
      CHECK((all.bits_of(verb, ctx) == want));
      CHECK(ctx.scratch().bytes_used() == bytes);

      ctx.memory(one_line_less.get(), bytes - 64);
      all.reset();
      CHECK_THROWS_AS(verb.run(ctx), craft::device_error);
      CHECK_THROWS_WITH(verb.run(ctx), contains(std::to_string(bytes - 64)) && contains("workspace_bytes"));
      CHECK((all.bits() == untouched));
      if (verb.name.find("mmd") == 0) CHECK((all.bits_of(smaller, ctx) == smaller_want));  // which is served
      ctx.memory(exact.get(), bytes);
      CHECK((all.bits_of(verb, ctx) == want));
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::peak_bytes() == simt::live_bytes());
#endif
    }
  }
}

// Copies on the host's side, and what the context looks at first, need scratch memory too.
TEMPLATE_LIST_TEST_CASE("workspace_bytes counts what checks need and what comes from the host", "[cuda][workspace]",
                        devices) {
  using D = TestType;
  using T = typename D::compute;
  const index_t n = 40, c = 4, d = 3;
  const array<D> x(random_reals(n, d, 1)), a(random_reals(c, d, 2)), y(random_reals(n, d, 3));
  const std::vector<index_t> labels = labels_for(n, c, 3);
  const std::vector<double> weights = some_weights<D>(n);
  const label_array<D> on_device(labels);
  const array<D, T> device_weights(weights);
  array<D, T> value(1, 1);
  array<D> means(c, d);
  const craft::gaussians<double> kernel{1.0, 2.0};
  for (const bool host : {true, false})
    for (const bool check_labels : {false, true})
      for (const bool check_finite : {false, true}) {
        INFO((host ? "host" : "device") << (check_labels ? ", labels checked" : "")
                                        << (check_finite ? ", numbers checked" : ""));
        const craft::labels y_in = host ? craft::labels(labels) : on_device.in();
        const craft::numbers w_in = host ? craft::numbers(weights) : device_weights.as_numbers();
        std::vector<std::pair<std::string, std::function<void(const craft::cuda&)>>> calls;
        calls.emplace_back("anchor_cross_entropy", [&](const craft::cuda& ctx) {
          craft::cross_entropy_options o;
          o.weights = w_in;
          craft::anchor_cross_entropy(ctx, x.in(), a.in(), y_in, o, value.as_value());
        });
        calls.emplace_back("class_means", [&](const craft::cuda& ctx) {
          craft::class_means(ctx, x.in(), y_in, craft::class_means_options{}, means.out());
        });
        calls.emplace_back("mmd", [&](const craft::cuda& ctx) {
          craft::mmd_options o;
          o.estimator = craft::estimator::unbiased;
          o.x_weights = o.y_weights = w_in;
          craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value());
        });
        for (const auto& [name, call] : calls) {
          INFO(name);
          craft::cuda ctx = make(way::tiles);
          ctx.check_labels(check_labels).check_finite(check_finite);
          const std::size_t bytes = ctx.workspace_bytes(call);
          const buffer exact(bytes);
          ctx.memory(exact.get(), bytes);
          CHECK_NOTHROW(call(ctx));
          CHECK(ctx.scratch().bytes_used() == bytes);
        }
      }
}

// These look at numbers on the way, of which a rehearsal has none.
TEMPLATE_LIST_TEST_CASE("workspace_bytes of verbs that return something to the host", "[cuda][workspace]", devices) {
  using D = TestType;
  const index_t n = 30, m = 25, c = 4, d = 3;
  const array<D> x(random_reals(n, d, 1)), y(random_reals(m, d, 2)), few(random_reals(c, d, 3));
  const std::vector<index_t> labels = labels_for(n, c, 3);
  const label_array<D> on_device(labels);
  array<D> centres(c, d), per_class(2 * c, d);
  double number = 0;
  std::vector<index_t> chosen;
  craft::kmeans_result clusters;
  craft::kmeans_options plain, spherical;
  plain.restarts = spherical.restarts = 2;
  spherical.spherical = true;

  std::vector<std::pair<std::string, std::function<void(const craft::cuda&)>>> calls;
  for (const auto rule :
       {craft::bandwidth_rule::mean, craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid})
    calls.emplace_back("bandwidth_scale by rule " + std::to_string(int(rule)), [&, rule](const craft::cuda& ctx) {
      number = craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, craft::bandwidth_sample::pooled});
    });
  calls.emplace_back("kmeans",
                     [&](const craft::cuda& ctx) { clusters = craft::kmeans(ctx, x.in(), plain, centres.out()); });
  calls.emplace_back("kmeans, spherical",
                     [&](const craft::cuda& ctx) { clusters = craft::kmeans(ctx, x.in(), spherical, centres.out()); });
  calls.emplace_back("kmeans_per_class", [&](const craft::cuda& ctx) {
    clusters = craft::kmeans_per_class(ctx, x.in(), labels, c, plain, per_class.out());
  });
  calls.emplace_back("kmeans_per_class, labels in device memory", [&](const craft::cuda& ctx) {
    clusters = craft::kmeans_per_class(ctx, x.in(), on_device.in(), c, plain, per_class.out());
  });
  calls.emplace_back("medoids", [&](const craft::cuda& ctx) { chosen = craft::medoids(ctx, x.in(), few.in()); });
  calls.emplace_back("farthest_point_anchors",
                     [&](const craft::cuda& ctx) { chosen = craft::farthest_point_anchors(ctx, x.in(), 7); });
  const auto forget = [&] {
    number = 0;
    chosen.clear();
    clusters = {};
    centres.set(reals::Constant(c, d, sentinel));
    per_class.set(reals::Constant(2 * c, d, sentinel));
  };
  const auto read = [&] {
    std::string all = centres.bits() + per_class.bits();
    all.append(reinterpret_cast<const char*>(&number), sizeof number);
    for (const index_t i : chosen) all += std::to_string(i) + " ";
    for (const index_t i : clusters.assignment) all += std::to_string(i) + " ";
    all.append(reinterpret_cast<const char*>(&clusters.inertia), sizeof clusters.inertia);
    return all + std::to_string(clusters.iterations);
  };
  for (const auto& [name, call] : calls) {
    INFO(name);
    forget();
    const std::string nothing = read();
    call(make(way::tiles));
    const std::string want = read();
    CHECK((want != nothing));
    craft::cuda ctx = make(way::tiles);
    forget();
#ifdef CRAFT_EMULATED_CUDA
    const auto calls_before = simt::calls();
#endif
    // Classes of unknown sizes need nobody knows how much.
    if (name == "kmeans_per_class, labels in device memory") {
      CHECK_THROWS_AS(ctx.workspace_bytes(call), craft::option_error);
      continue;
    }
    std::size_t bytes = 0;
    CHECK_NOTHROW(bytes = ctx.workspace_bytes(call));
    if (bytes == 0) continue;  // reported above
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::calls() == calls_before);
    const auto waits = simt::synchronisations();
#endif
    const std::string matrices = centres.bits() + per_class.bits();
    forget();
    CHECK((matrices == centres.bits() + per_class.bits()));
    const buffer exact(bytes);
    ctx.memory(exact.get(), bytes);
    CHECK_NOTHROW(call(ctx));
    CHECK((read() == want));
    CHECK(ctx.scratch().bytes_used() == bytes);
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::synchronisations() > waits);  // these do wait
    const order_keeper keeper;
    for (const auto order : {simt::order::reverse, simt::order::shuffled}) {
      simt::set_order(order, 11);
      forget();
      call(ctx);
      CHECK((read() == want));
    }
#endif
  }
}

TEST_CASE("an error in a rehearsal is the call's error, and the context goes on", "[cuda][workspace][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const craft::cuda ctx = make(way::tiles);
  const std::string want = all.bits_of(verb, ctx);
  const array<D> x(random_reals(4, 3, 1)), y(random_reals(4, 2, 2));
  array<D> value(1, 1, sentinel);
  CHECK_THROWS_AS(ctx.workspace_bytes([&](const craft::cuda& r) {
    craft::info_nce(r, x.in(), y.in(), craft::contrastive_options{}, value.as_value());
  }),
                  craft::shape_error);
  CHECK(value.number() == sentinel);
  CHECK((all.bits_of(verb, ctx) == want));
}

namespace {

/// The caller's own device memory, with books.
struct device_books {
  std::map<void*, std::size_t> out;
  int allocations = 0;
  bool mismatch = false, full = false;

  void give_to(const craft::cuda& ctx) {
    ctx.scratch().use(
        [this](std::size_t bytes) {
          if (full) throw std::bad_alloc();
          void* p = nullptr;
          cuda_check(cudaMalloc(&p, bytes), "cudaMalloc");
          out[p] = bytes;
          ++allocations;
          return p;
        },
        [this](void* p, std::size_t bytes) {
          mismatch = mismatch || out.count(p) == 0 || out[p] != bytes;
          out.erase(p);
          cudaFree(p);
        });
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("scratch memory comes from the caller's functions and goes back to them", "[cuda][workspace]",
                        devices) {
  every_device_verb<TestType> all;
  const craft::cuda direct = make(way::tiles);
  device_books books, second;
  {
    const craft::cuda ctx = make(way::tiles);
    all.verbs.front().run(ctx);  // with memory of its own, which goes back first
#ifdef CRAFT_EMULATED_CUDA
    const auto live = simt::live_allocations();
#endif
    books.give_to(ctx);
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::live_allocations() == live - 1);
#endif
    for (const auto& verb : all.verbs) {
      INFO(verb.name);
      CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, direct)));
      CHECK(books.out.size() == 1);  // one piece is left for the next call
      CHECK(books.out.begin()->second == ctx.scratch().bytes_held());
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::on_device(books.out.begin()->first));
#endif
    }
    const int before = books.allocations;
    for (const auto& verb : all.verbs) verb.run(ctx);
    CHECK(books.allocations == before);

    // The functions' own error passes through, and the next call is served again.
    second.full = true;
    second.give_to(ctx);
    CHECK(books.out.empty());
    const auto& verb = all.verbs.front();
    all.reset();
    const std::string untouched = all.bits();
    CHECK_THROWS_AS(verb.run(ctx), std::bad_alloc);
    CHECK((all.bits() == untouched));
    second.full = false;
    CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, direct)));
  }
  CHECK(books.allocations > 0);
  CHECK(books.out.empty());
  CHECK_FALSE(books.mismatch);
  CHECK(second.out.empty());
  CHECK_FALSE(second.mismatch);
}

TEST_CASE("a context that moves takes its memory along", "[cuda][workspace]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
#ifdef CRAFT_EMULATED_CUDA
  const auto live = simt::live_allocations(), handles = simt::live_handles();
#endif
  {
    craft::cuda first = make(way::tiles);
    const std::string want = all.bits_of(verb, first);
    const std::size_t held = first.scratch().bytes_held();
    craft::cuda second(std::move(first));
    CHECK(second.scratch().bytes_held() == held);
    CHECK(second.tile_rows() == tile_rows);
    CHECK((all.bits_of(verb, second) == want));
    craft::cuda third;
    third = std::move(second);
    CHECK(third.scratch().bytes_held() == held);
    CHECK((all.bits_of(verb, third) == want));
  }
#ifdef CRAFT_EMULATED_CUDA
  CHECK(simt::live_allocations() == live);
  CHECK(simt::live_handles() == handles);
#endif
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<craft::cuda>);
}

TEST_CASE("cuda: options are checked and kept", "[cuda][errors]") {
  craft::cuda ctx;
  CHECK(ctx.stream() == nullptr);
  CHECK(ctx.handle() != nullptr);
  CHECK(ctx.processors() >= 1);
  CHECK(ctx.precision() == craft::precision::strict);
  CHECK_FALSE(ctx.check_finite());
  CHECK_FALSE(ctx.check_labels());
  CHECK_FALSE(ctx.rehearses());
  const index_t rows = ctx.tile_rows(), columns = ctx.tile_columns();
  CHECK(ctx.tile(17).tile_rows() == 17);
  CHECK(ctx.tile_columns() == 17);
  CHECK(ctx.tile(3, 5).tile_columns() == 5);
  CHECK_THROWS_AS(ctx.tile(-1), craft::option_error);
  CHECK_THROWS_AS(ctx.tile(3, -1), craft::option_error);
  CHECK_THROWS_AS(ctx.fused(-1), craft::option_error);
  CHECK(ctx.tile_rows() == 3);
  CHECK(ctx.tile(0).tile_rows() == rows);
  CHECK(ctx.tile_columns() == columns);
  CHECK(ctx.blas_bytes(12345 << 2).blas_bytes() == 12345 << 2);
  for (const std::size_t too_few : {1, 4096, 16383}) {
    CHECK_THROWS_AS(ctx.blas_bytes(too_few), craft::option_error);
    CHECK_THROWS_WITH(ctx.blas_bytes(too_few), contains("16384") && contains(std::to_string(too_few)));
  }
  CHECK(ctx.blas_bytes() == 12345 << 2);
  const buffer b(1024);
  CHECK_THROWS_AS(ctx.memory(nullptr, 1024), craft::option_error);
  CHECK_THROWS_AS(ctx.memory(static_cast<char*>(b.get()) + 64, 512), craft::option_error);
  // What was refused has changed nothing.
  every_device_verb<device<cuda_backend, double>> all;
  CHECK_NOTHROW(all.verbs.front().run(ctx));

  const handle_owner handle(nullptr);
  const craft::cuda borrowed(nullptr, handle);
  CHECK(borrowed.handle() == handle);
  CHECK(borrowed.blas_bytes() == 0);  // the workspace of the caller's handle is the caller's
}

// ---------------------------------------------------------------------------------------------------------
// cuBLAS

namespace {

struct modes {
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
  cudaStream_t stream = nullptr;
  friend bool operator==(const modes& a, const modes& b) {
    return a.math == b.math && a.pointers == b.pointers && a.stream == b.stream;
  }
};

modes modes_of(cublasHandle_t handle) {
  modes m;
  cublas_check(cublasGetMathMode(handle, &m.math), "cublasGetMathMode");
  cublas_check(cublasGetPointerMode(handle, &m.pointers), "cublasGetPointerMode");
  cublas_check(cublasGetStream(handle, &m.stream), "cublasGetStream");
  return m;
}

const modes odd_modes[] = {{CUBLAS_TF32_TENSOR_OP_MATH, CUBLAS_POINTER_MODE_DEVICE},
                           {CUBLAS_PEDANTIC_MATH, CUBLAS_POINTER_MODE_HOST},
                           {CUBLAS_DEFAULT_MATH, CUBLAS_POINTER_MODE_DEVICE}};

void set_modes(cublasHandle_t handle, const modes& m) {
  cublas_check(cublasSetMathMode(handle, m.math), "cublasSetMathMode");
  cublas_check(cublasSetPointerMode(handle, m.pointers), "cublasSetPointerMode");
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the caller's cuBLAS handle is left as it was", "[cuda][cublas]", devices) {
  using D = TestType;
  every_device_verb<D> all;
  const stream_owner stream;
  const handle_owner handle(stream);
  for (const way w : ways) {
    // Not with a handle of the context's own: cuBLAS may choose by how much workspace there is.
    set_modes(handle, modes{});
    const craft::cuda direct = make(w, stream, handle);
    std::vector<std::string> want;
    for (const auto& verb : all.verbs) want.push_back(all.bits_of(verb, direct));
    for (const modes& m : odd_modes) {
      set_modes(handle, m);
      const modes before = modes_of(handle);
      {
        const craft::cuda ctx = make(w, stream, handle);
        CHECK(modes_of(handle) == before);
        for (std::size_t k = 0; k < want.size(); ++k) {
          const auto& verb = all.verbs[k];
          INFO(verb.name << ", " << name_of(w) << ", math mode " << int(m.math));
          // What the handle is set to must not show in the results either.
          CHECK((all.bits_of(verb, ctx) == want[k]));
          CHECK(modes_of(handle) == before);
          ctx.workspace_bytes([&](const craft::cuda& r) { verb.run(r); });
          CHECK(modes_of(handle) == before);
        }

        const index_t n = 6, d = 3;
        const array<D> x(random_reals(n, d, 1)), narrow(random_reals(n, 2, 2)), labelled(random_reals(2, d, 3));
        array<D, typename D::compute> value(1, 1);
        const std::vector<index_t> wrong(std::size_t(n), 7);
        CHECK_THROWS_AS(craft::info_nce(ctx, x.in(), narrow.in(), {}, value.as_value()), craft::shape_error);
        CHECK(modes_of(handle) == before);
        CHECK_THROWS_AS(craft::anchor_cross_entropy(ctx, x.in(), labelled.in(), wrong, {}, value.as_value()),
                        craft::label_error);
        CHECK(modes_of(handle) == before);
      }
      CHECK(modes_of(handle) == before);  // and the handle is still there
    }
  }
#ifdef CRAFT_EMULATED_CUDA
  // Nor is its workspace touched.
  const buffer workspace(16384);
  cublas_check(cublasSetWorkspace(handle, workspace.get(), 16384), "cublasSetWorkspace");
  {
    const craft::cuda ctx = make(way::tiles, stream, handle);
    all.verbs.front().run(ctx);
    CHECK(static_cast<cublasHandle_t>(handle)->workspace == workspace.get());
    CHECK(static_cast<cublasHandle_t>(handle)->workspace_bytes == 16384);
    const auto handles = simt::live_handles();
    {
      const craft::cuda own = make(way::tiles);
      const craft::cuda another = make(way::tiles, stream, handle);
      CHECK(simt::live_handles() == handles + 1);
    }
    CHECK(simt::live_handles() == handles);
  }
#endif
}

TEST_CASE("a cuBLAS handle on another stream is refused", "[cuda][cublas][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const stream_owner stream, other;
  const handle_owner handle(other);
  const modes before = modes_of(handle);
  all.reset();
  const std::string untouched = all.bits();
  for (const auto& verb : all.verbs) {
    INFO(verb.name);
    // On construction or by the first call.
    const auto call = [&] { verb.run(make(way::tiles, stream, handle)); };
    CHECK_THROWS_AS(call(), craft::device_error);
    CHECK_THROWS_WITH(call(), contains("another stream"));
    CHECK((all.bits() == untouched));
    CHECK(modes_of(handle) == before);
  }
  // And accepted once it is on ours.
  const craft::cuda ctx = make(way::tiles, stream, handle);
  cublas_check(cublasSetStream(handle, stream), "cublasSetStream");
  CHECK_NOTHROW(all.verbs.front().run(ctx));
}

TEST_CASE("cuBLAS computes the same with little scratch memory, with none, and with what it likes", "[cuda][cublas]") {
  using D = device<cuda_backend, double>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  std::string want;
  for (const std::size_t bytes : {cuda_backend::little_for_blas, std::size_t(0), std::size_t(1) << 20}) {
    craft::cuda ctx = make(way::tiles);
    ctx.blas_bytes(bytes);
    const std::string got = all.bits_of(verb, ctx);
    if (want.empty()) want = got;
#ifdef CRAFT_EMULATED_CUDA
    CHECK((got == want));  // a real one may choose another kernel
#endif
    CHECK(ctx.scratch().bytes_used() >= bytes);
  }
}

TEST_CASE("cuBLAS has the scratch memory during a call, and no longer", "[cuda][cublas]") {
  using D = device<cuda_backend, double>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const std::string want = all.bits_of(verb, make(way::tiles));
  craft::cuda ctx = make(way::tiles);
  CHECK((all.bits_of(verb, ctx) == want));
#ifdef CRAFT_EMULATED_CUDA
  CHECK(ctx.handle()->workspace == nullptr);
#endif
  // With none from now on, it must not go on in what is the rows' memory then.
  ctx.blas_bytes(0);
#ifdef CRAFT_EMULATED_CUDA
  CHECK((all.bits_of(verb, ctx) == want));
#else
  all.bits_of(verb, ctx);
  for (const auto& [name, result] : all.results()) CHECK(result.allFinite());
#endif
}

TEST_CASE("scratch memory that is not aligned as cuBLAS wants it is refused, and goes back", "[cuda][cublas][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const buffer memory(std::size_t(1) << 20);
  int out = 0;
  const craft::cuda ctx = make(way::tiles);
  CHECK(ctx.scratch().alignment() == 256);
  const std::string want = all.bits_of(verb, ctx);
  for (const std::size_t off : {64, 128}) {
    ctx.scratch().use([&](std::size_t) { return ++out, static_cast<char*>(memory.get()) + off; }, [&](void*, std::size_t) { --out; });
    CHECK_THROWS_AS(verb.run(ctx), craft::option_error);
    CHECK_THROWS_WITH(verb.run(ctx), contains("multiple of 256"));
    CHECK(out == 0);
  }
  ctx.scratch().use({}, {});
  ctx.scratch().use([&](std::size_t) { return static_cast<void*>(nullptr); }, [&](void*, std::size_t) { --out; });
  CHECK_THROWS_AS(verb.run(ctx), craft::option_error);
  CHECK(out == 0);
  ctx.scratch().use([&](std::size_t) { return ++out, memory.get(); }, [&](void*, std::size_t) { --out; });
  ctx.scratch().reserve(std::size_t(1) << 20);
  CHECK((all.bits_of(verb, ctx) == want));
}

// ---------------------------------------------------------------------------------------------------------
// Devices

#ifdef CRAFT_EMULATED_CUDA
TEST_CASE("a context's device is current during its calls, and the one before afterwards", "[cuda][errors]") {
  struct two_devices {
    two_devices() { simt::set_device_count(2); }
    ~two_devices() {
      cudaSetDevice(0);
      simt::set_device_count(1);
      cudaGetLastError();
    }
  } const two;
  every_device_verb<device<cuda_backend, float>> all;
  const auto& verb = named(all, "mmd, biased");
  const auto current = [] {
    int number = -1;
    cuda_check(cudaGetDevice(&number), "cudaGetDevice");
    return number;
  };
  const stream_owner stream;  // of device 0
  const std::string want = all.bits_of(verb, make(way::tiles));
  {
    const craft::cuda ctx = make(way::tiles, stream);
    CHECK(ctx.device() == 0);
    cuda_check(cudaSetDevice(1), "cudaSetDevice");
    CHECK(craft::cuda().device() == 1);
    CHECK((all.bits_of(verb, ctx) == want));
    CHECK(current() == 1);
    CHECK(ctx.workspace_bytes([&](const craft::cuda& c) { verb.run(c); }) == ctx.scratch().bytes_used());
  }
  CHECK(current() == 1);  // and what the context held has gone back to its device
}

TEST_CASE("a device of too low a compute capability is refused", "[cuda][errors]") {
  struct older {
    older() { simt::set_compute_capability(7, 5); }
    ~older() { simt::set_compute_capability(9, 0); }
  };
  const auto handles = simt::live_handles();
  {
    const older device;
    CHECK_THROWS_AS(craft::cuda(), craft::device_error);
    CHECK_THROWS_WITH(craft::cuda(), contains("compute capability 7.5") && contains("8.0"));
  }
  simt::set_compute_capability(8, 0);
  CHECK_NOTHROW(craft::cuda());
  simt::set_compute_capability(9, 0);
  CHECK(simt::live_handles() == handles);
}

namespace {

struct without_devices {
  template <class Reason>
  explicit without_devices(Reason reason) {
    simt::set_device_count(reason);
  }
  without_devices(const without_devices&) = delete;
  without_devices& operator=(const without_devices&) = delete;
  ~without_devices() {
    simt::set_device_count(1);
    cudaGetLastError();
  }
};

void check_no_device() {
  CHECK(craft::cuda_devices() == 0);
  CHECK_THROWS_AS(craft::cuda(), craft::device_error);
  CHECK_THROWS_WITH(craft::cuda(), contains("no CUDA device"));
  CHECK_THROWS_AS(craft::any_device::named("cuda"), craft::device_error);
  CHECK_THROWS_WITH(craft::any_device::named("cuda"), contains("no CUDA device"));
  CHECK(craft::any_device::named("cpu").space() == craft::memory::host);
  CHECK(cudaPeekAtLastError() == cudaSuccess);  // an answer, not an error that waits for somebody's check
}

}  // namespace

TEST_CASE("a machine without a device is told so", "[cuda][errors]") {
  CHECK(craft::cuda_devices() == 1);
  const auto handles = simt::live_handles();
  {
    const without_devices none(0);
    check_no_device();
  }
  for (const cudaError_t reason : {cudaErrorNoDevice, cudaErrorInsufficientDriver}) {
    const without_devices none(reason);
    check_no_device();
  }
  for (const cudaError_t reason : {cudaErrorInitializationError, cudaErrorDevicesUnavailable, cudaErrorUnknown}) {
    const without_devices none(reason);
    INFO(cudaGetErrorName(reason));
    CHECK_THROWS_AS(craft::cuda_devices(), craft::device_error);
    CHECK_THROWS_WITH(craft::cuda_devices(), contains(cudaGetErrorName(reason)) && contains("cudaGetDeviceCount"));
    CHECK_THROWS_WITH(craft::cuda(), contains(cudaGetErrorName(reason)));
    CHECK_THROWS_AS(craft::any_device::named("cuda"), craft::device_error);
    CHECK_THROWS_WITH(craft::any_device::named("cuda"), contains(cudaGetErrorName(reason)));
    CHECK(cudaPeekAtLastError() == cudaSuccess);
  }
  CHECK(craft::cuda_devices() == 1);
  CHECK(simt::live_handles() == handles);
  CHECK_NOTHROW(craft::cuda());
}
#endif

namespace {

/// Everything that two losses give, on any context.
template <class D>
std::string two_losses(const typename D::context& ctx) {
  const index_t n = 7, d = 4;
  const array<D> x(random_reals(n, d, 61)), y(random_reals(n, d, 62));
  array<D> dx(n, d), dy(n, d), ex(n, d);
  array<D> value(1, 1), second(1, 1);
  craft::mmd_gradients<typename D::scalar, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::overwrite(dy.out());
  craft::mmd(ctx, x.in(), y.in(), craft::gaussians<double>{1.0, 2.0}, craft::mmd_options{}, value.as_value(), g);
  craft::alignment_gradients<typename D::scalar, D::space> a;
  a.x = craft::overwrite(ex.out());
  craft::info_nce(ctx, x.in(), y.in(), craft::contrastive_options{}, second.as_value(), a);
  return value.bits() + dx.bits() + dy.bits() + second.bits() + ex.bits();
}

}  // namespace

TEST_CASE("any_device is the context it was named after", "[cuda][any_device]") {
  STATIC_REQUIRE(craft::built_with_cuda);
  for (const char* name : {"x", "", "CUDA", "cuda:0", "gpu"}) {
    CHECK_THROWS_AS(craft::any_device::named(name), craft::option_error);
    CHECK_THROWS_WITH(craft::any_device::named(name),
                      contains("\"" + std::string(name) + "\"") && contains("\"cuda\""));
  }
  const std::string on_cpu = two_losses<device<cpu_backend, double>>(craft::cpu(1));
  const std::string on_gpu = two_losses<device<cuda_backend, double>>(craft::cuda());
  const auto check = [&](const craft::any_device& any, craft::memory space) {
    CHECK(any.space() == space);
    for (int time = 0; time < 2; ++time) {
      const craft::memory seen = any.visit([&](const auto& ctx) {
        using context = std::decay_t<decltype(ctx)>;
        constexpr bool on_host = std::is_same_v<context, craft::cpu>;
        static_assert(on_host || std::is_same_v<context, craft::cuda>);
        using D = device<std::conditional_t<on_host, cpu_backend, cuda_backend>, double>;
        CHECK((two_losses<D>(ctx) == (on_host ? on_cpu : on_gpu)));
        CHECK(ctx.scratch().bytes_held() > 0);  // and keeps it from call to call
        return context::space;
      });
      CHECK(seen == space);
    }
  };
  check(craft::any_device::named("cpu"), craft::memory::host);
  check(craft::any_device::named("cuda"), craft::memory::device);
  check(craft::any_device(craft::cpu(2)), craft::memory::host);
  check(craft::any_device(craft::cuda()), craft::memory::device);
  craft::any_device moved = craft::any_device::named("cuda");
  check(moved, craft::memory::device);
  craft::any_device other(std::move(moved));
  check(other, craft::memory::device);
  other = craft::any_device::named("cpu");
  check(other, craft::memory::host);
}

// ---------------------------------------------------------------------------------------------------------
// Failures of the runtime

#ifdef CRAFT_EMULATED_CUDA
namespace {

constexpr cudaError_t injected_code = cudaErrorECCUncorrectable;

/// What happened when the k-th call of the runtime, or of cuBLAS's products and settings, failed.
struct failure {
  bool came = false;    ///< there was a k-th call
  bool thrown = false;  ///< a device_error
  std::string text;
};

template <class Call>
failure with_failure(bool in_cublas, int k, const Call& call) {
  failure f;
  if (in_cublas)
    simt::fail_next_cublas(CUBLAS_STATUS_EXECUTION_FAILED, k);
  else
    simt::fail_next(injected_code, k);
  try {
    call();
  } catch (const craft::device_error& e) {
    f.thrown = true;
    f.text = e.what();
  }
  f.came = !simt::fail_pending();
  simt::fail_next(cudaSuccess, 0);
  simt::fail_next_cublas(0, 0);
  return f;
}

/// The text says what was called, and what it answered.
void check_text(const failure& f, bool in_cublas) {
  const std::string answer = in_cublas ? "CUBLAS_STATUS_EXECUTION_FAILED" : cudaGetErrorName(injected_code);
  INFO(f.text);
  const std::size_t at = f.text.find(": " + answer);
  CHECK(at != std::string::npos);
  const std::string call = f.text.substr(0, at);
  const bool named = in_cublas ? call.find("cublas") != std::string::npos
                               : call.find("cuda") != std::string::npos || call.find("kernel") != std::string::npos;
  CHECK(named);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("every call of the runtime is checked, and a failure leaves the context usable",
                        "[cuda][errors][long]", devices) {
  // One tile: the same calls stand in the same places, but fewer of them.
  every_device_verb<TestType> all(5, 6, 3, 2);
  const char* const verbs[] = {"mmd, biased",
                               "mmd, bandwidth by median",
                               "info_nce, symmetric",
                               "relative, standardising",
                               "relative_pullback, standardising",
                               "objective without batch texts"};
  for (const way w : ways)
    for (const char* name : verbs)
      for (const bool in_cublas : {false, true}) {
        const auto& verb = named(all, name);
        const auto live = simt::live_allocations(), handles = simt::live_handles();
        {
          const craft::cuda ctx = make(w);
          const std::string want = all.bits_of(verb, ctx);
          for (int k = 1;; ++k) {
            INFO(name << ", " << name_of(w) << ": call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
            all.reset();
            const failure f = with_failure(in_cublas, k, [&] { verb.run(ctx); });
            if (!f.came) {
              CHECK_FALSE(f.thrown);
              CHECK((all.bits() == want));
              CHECK(k > (in_cublas ? 2 : 5));
              break;
            }
            if (f.thrown) {
              check_text(f, in_cublas);
            } else {
              // Only cuBLAS's modes, which are put back when all is done, may fail in silence: by then results stand,
              // and one of the two is not what it was.
              CHECK(in_cublas);
              CHECK((all.bits() == want));
            }
            CHECK(cudaPeekAtLastError() == cudaSuccess);
            CHECK((all.bits_of(verb, ctx) == want));
          }
        }
        CHECK(simt::live_allocations() == live);
        CHECK(simt::live_handles() == handles);
      }
}

// Nobody hears of memory that could not be given back, nor of the one piece that a context tries to take after a call
// that needed several; everything else of a first call is reported too. The caller's functions know which it was.
TEMPLATE_LIST_TEST_CASE("a failure in a context's first call is reported, but for what happens after it",
                        "[cuda][errors][long]", devices) {
  every_device_verb<TestType> all(5, 6, 3, 2);
  const craft::cuda direct = make(way::tiles);
  for (const char* name : {"mmd, biased", "info_nce, symmetric", "relative, standardising", "objective"})
    for (const bool own_functions : {false, true}) {
      const auto& verb = named(all, name);
      const std::string want = all.bits_of(verb, direct);
      const auto live = simt::live_allocations(), handles = simt::live_handles();
      int silent = 0;
      for (int k = 1;; ++k) {
        INFO(name << (own_functions ? ", the context's memory" : ", the caller's memory") << ": call " << k);
        bool came = false;
        {
          const craft::cuda ctx = make(way::tiles);
          std::vector<std::string> failed;
          if (!own_functions)
            ctx.scratch().use(
                [&](std::size_t bytes) {
                  void* p = nullptr;
                  const cudaError_t status = cudaMallocAsync(&p, bytes, cudaStream_t(nullptr));
                  if (status != cudaSuccess) failed.push_back("cudaMallocAsync");
                  cuda_check(status, "cudaMallocAsync");
                  return p;
                },
                [&](void* p, std::size_t) {
                  if (cudaFreeAsync(p, nullptr) != cudaSuccess) failed.push_back("cudaFreeAsync");
                });
          all.reset();
          const failure f = with_failure(false, k, [&] { verb.run(ctx); });
          came = f.came;
          if (f.thrown) {
            check_text(f, false);
            CHECK(cudaPeekAtLastError() == cudaSuccess);
          } else {
            CHECK((all.bits() == want));
            if (came) ++silent;
            if (came && !own_functions) {
              REQUIRE(failed.size() == 1);
              CHECK((failed[0] == "cudaFreeAsync" || failed[0] == "cudaMallocAsync"));
            }
          }
          cudaGetLastError();
          CHECK((all.bits_of(verb, ctx) == want));
        }
        CHECK(simt::live_allocations() == live);
        CHECK(simt::live_handles() == handles);
        if (!came) break;
      }
      CHECK(silent <= 16);  // pieces, each at least as large as all before together, and the last one
    }
}

TEST_CASE("a context that cannot be made says why and leaves nothing behind", "[cuda][errors]") {
  const auto live = simt::live_allocations(), handles = simt::live_handles();
  for (const bool in_cublas : {false, true})
    for (int k = 1;; ++k) {
      INFO("call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
      std::optional<craft::cuda> ctx;
      const failure f = with_failure(in_cublas, k, [&] { ctx.emplace(); });
      ctx.reset();
      CHECK(f.thrown == f.came);
      if (f.came) check_text(f, in_cublas);
      CHECK(cudaPeekAtLastError() == cudaSuccess);
      CHECK(simt::live_allocations() == live);
      CHECK(simt::live_handles() == handles);
      if (f.came) continue;
      CHECK(k > 1);
      break;
    }
}

TEST_CASE("memory that runs out is a device_error that says how much was wanted", "[cuda][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "objective");
  const craft::cuda ctx = make(way::tiles);
  all.reset();
  const std::string untouched = all.bits();
  simt::set_memory_limit(simt::live_bytes() + 5000);
  CHECK_THROWS_AS(verb.run(ctx), craft::device_error);
  CHECK_THROWS_WITH(verb.run(ctx),
                    contains("cudaMallocAsync(") && contains(" bytes)") && contains("cudaErrorMemoryAllocation"));
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  simt::set_memory_limit(std::size_t(4) << 30);
  CHECK((all.bits() == untouched));
  CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, make(way::tiles))));
}

// The caller's handle gets its modes back whichever call of cuBLAS fails; only where putting them back is itself what
// fails, that one mode stays.
TEST_CASE("the caller's cuBLAS handle is left as it was by calls that fail", "[cuda][cublas][errors][long]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all(5, 6, 3, 2);
  const stream_owner stream;
  const handle_owner handle(stream);
  for (const char* name : {"mmd, biased", "info_nce, symmetric", "objective"}) {
    const auto& verb = named(all, name);
    for (const bool in_cublas : {false, true}) {
      const craft::cuda ctx = make(way::tiles, stream, handle);
      set_modes(handle, odd_modes[0]);
      const modes before = modes_of(handle);
      const std::string want = all.bits_of(verb, ctx);
      int silent = 0;
      for (int k = 1;; ++k) {
        INFO(name << ": call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
        all.reset();
        const failure f = with_failure(in_cublas, k, [&] { verb.run(ctx); });
        if (!f.came) break;
        if (f.thrown) {
          CHECK(modes_of(handle) == before);
        } else {
          const modes after = modes_of(handle);
          CHECK((after.math == before.math) != (after.pointers == before.pointers));
          CHECK((all.bits() == want));
          ++silent;
        }
        set_modes(handle, odd_modes[0]);
        CHECK((all.bits_of(verb, ctx) == want));
      }
      CHECK(silent == (in_cublas ? 2 : 0));
    }
  }
}
#endif

// ---------------------------------------------------------------------------------------------------------
// Labels and weights

namespace {

/// The verbs that take labels, weights or both, from wherever they lie.
template <class D>
class labelled_calls {
 public:
  using S = typename D::scalar;
  using T = typename D::compute;
  static constexpr index_t n = 21, m = 10, c = 4, d = 5;

  struct call {
    std::string name;
    bool by_class = false, by_weight = false;  ///< labels that number the classes; weights
    std::function<void(const craft::cuda&, const craft::labels&, const craft::labels&, const craft::numbers&,
                       const craft::numbers&)>
        run;
  };
  std::vector<call> calls;

  labelled_calls() {
    calls.push_back({"anchor_cross_entropy", true, true, [this](const craft::cuda& ctx, auto xl, auto, auto xw, auto) {
                       craft::cross_entropy_options o;
                       o.log_scale = 1.5;
                       o.weights = xw;
                       craft::anchor_cross_entropy(ctx, x_.in(), a_.in(), xl, o, value_.as_value(), gradients(da_));
                     }});
    calls.push_back({"info_nce", false, false, [this](const craft::cuda& ctx, auto xl, auto yl, auto, auto) {
                       craft::contrastive_options o;
                       o.log_scale = 1.5;
                       o.x_labels = xl;
                       o.y_labels = yl;
                       craft::info_nce(ctx, x_.in(), y_.in(), o, value_.as_value(), gradients(dy_));
                     }});
    calls.push_back({"info_nce, weights", false, true, [this](const craft::cuda& ctx, auto, auto, auto xw, auto) {
                       craft::contrastive_options o;
                       o.log_scale = 1.5;
                       o.weights = xw;
                       craft::info_nce(ctx, x_.in(), p_.in(), o, value_.as_value(), gradients(dp_));
                     }});
    calls.push_back({"sigmoid_contrastive", false, false, [this](const craft::cuda& ctx, auto xl, auto yl, auto, auto) {
                       craft::sigmoid_options o;
                       o.x_labels = xl;
                       o.y_labels = yl;
                       craft::sigmoid_contrastive(ctx, x_.in(), y_.in(), o, value_.as_value(), gradients(dy_));
                     }});
    calls.push_back({"mmd", false, true, [this](const craft::cuda& ctx, auto, auto, auto xw, auto yw) {
                       craft::mmd_options o;
                       o.x_weights = xw;
                       o.y_weights = yw;
                       craft::mmd_gradients<S, D::space> g;
                       g.x = craft::overwrite(dx_.out());
                       g.y = craft::overwrite(dy_.out());
                       craft::mmd(ctx, x_.in(), y_.in(), kernel_, o, value_.as_value(), g);
                     }});
    calls.push_back({"class_means", true, false, [this](const craft::cuda& ctx, auto xl, auto, auto, auto) {
                       craft::class_means(ctx, x_.in(), xl, craft::class_means_options{}, da_.out());
                     }});
    for (const bool positives : {false, true})
      calls.push_back({positives ? "objective, positives by class" : "objective", true, false,
                       [this, positives](const craft::cuda& ctx, auto xl, auto, auto, auto) {
                         craft::objective_inputs<S, D::space> in;
                         in.images = x_.in();
                         in.class_texts = a_.in();
                         in.targets = xl;
                         in.image_anchors = b_.in();
                         in.target_images = y_.in();
                         craft::objective_gradients<S, D::space> g;
                         g.images = craft::overwrite(dx_.out());
                         g.class_texts = craft::overwrite(da_.out());
                         g.image_anchors = craft::overwrite(db_.out());
                         craft::objective_options o;
                         o.log_scale = 1.5;
                         o.same_class_positives = positives;
                         using values = craft::objective_values<T>;
                         craft::objective(
                             ctx, in, kernel_, o,
                             craft::scalar_out<values, D::space>(reinterpret_cast<values*>(terms_.out().data())), g);
                       }});
  }
  labelled_calls(const labelled_calls&) = delete;

  void reset() {
    for (array<D>* a : {&dx_, &dy_, &dp_, &da_, &db_})
      a->set(reals::Constant(a->get().rows(), a->get().cols(), sentinel));
    for (array<D, T>* a : {&value_, &ds_, &terms_}) a->set(reals::Constant(1, a->get().cols(), sentinel));
  }
  std::string bits() const {
    return dx_.bits() + dy_.bits() + dp_.bits() + da_.bits() + db_.bits() + value_.bits() + ds_.bits() + terms_.bits();
  }
  /// The value, or the total of the objective; sentinel if a verb has none.
  double value() const { return value_.number() != sentinel ? value_.number() : terms_.get()(0, 4); }

 private:
  craft::alignment_gradients<S, D::space> gradients(array<D>& other) {
    craft::alignment_gradients<S, D::space> g;
    g.x = craft::overwrite(dx_.out());
    g.y = craft::overwrite(other.out());
    g.log_scale = craft::overwrite(ds_.out());
    return g;
  }

  const craft::gaussians<double> kernel_{1.0, 3.0};
  const array<D> x_{random_reals(n, d, 71)}, y_{random_reals(m, d, 72)}, p_{random_reals(n, d, 73)},
      a_{random_reals(c, d, 74)}, b_{random_reals(c, d, 75)};
  array<D> dx_{n, d}, dy_{m, d}, dp_{n, d}, da_{c, d}, db_{c, d};
  array<D, T> value_{1, 1}, ds_{1, 1}, terms_{1, 5};
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("labels and weights on the host are those in device memory", "[cuda][labels]", devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> xl = labels_for(all.n, all.c, 3), yl = labels_for(all.m, all.c, 5);
  const std::vector<std::int32_t> narrow(xl.begin(), xl.end());
  const std::vector<double> xw = some_weights<D>(all.n), yw = some_weights<D>(all.m);
  const std::vector<float> xf(xw.begin(), xw.end());
  const label_array<D> xl_device(xl), yl_device(yl);
  const label_array<D, std::int32_t> narrow_device(xl);
  const array<D, double> xw_device(xw), yw_device(yw);
  const array<D, float> xf_device(xw);
  const craft::cuda plain = make(way::tiles);
  craft::cuda looking = make(way::tiles);
  looking.check_labels(true);
  for (const craft::cuda* ctx : {&plain, static_cast<const craft::cuda*>(&looking)})
    for (const auto& call : all.calls) {
      INFO(call.name << (ctx == &plain ? "" : ", labels checked"));
      const auto bits = [&](const craft::labels& x, const craft::labels& y, const craft::numbers& u,
                            const craft::numbers& v) {
        all.reset();
        call.run(*ctx, x, y, u, v);
        return all.bits();
      };
      const std::string want = bits(xl, yl, xw, yw);
      CHECK((bits(xl_device.in(), yl_device.in(), xw_device.as_numbers(), yw_device.as_numbers()) == want));
      CHECK((bits(xl_device.in(), yl, xw, yw_device.as_numbers()) == want));
      CHECK((bits(narrow_device.in(), yl_device.in(), xw_device.as_numbers(), yw) == want));
      CHECK((bits(narrow, yl_device.in(), xw_device.as_numbers(), yw) == want));
      const std::string in_float = bits(xl, yl, xf, yw);  // rounded weights are others
      CHECK((bits(xl, yl_device.in(), xf_device.as_numbers(), yw_device.as_numbers()) == in_float));
    }
}

// A kernel cannot throw. What it must not do is read or write beside its arrays, which the sanitizer watches.
TEMPLATE_LIST_TEST_CASE("a label outside its range in device memory makes the value NaN", "[cuda][labels][errors]",
                        devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> right = labels_for(all.n, all.c, 3), y_right = labels_for(all.m, all.c, 5);
  const label_array<D> right_device(right), y_device(y_right);
  const array<D, double> xw(std::vector<double>(std::size_t(all.n), 1.0)),
      yw(std::vector<double>(std::size_t(all.m), 1.0));
  const auto run = [&](const auto& call, const craft::cuda& ctx, const craft::labels& labels) {
    call.run(ctx, labels, y_device.in(), xw.as_numbers(), yw.as_numbers());
  };
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    craft::cuda looking = make(w);
    looking.check_labels(true);
    for (const auto& call : all.calls) {
      if (!call.by_class) continue;
      all.reset();
      const std::string untouched = all.bits();
      run(call, ctx, right_device.in());
      const std::string want = all.bits();
      const index_t classes = all.c, last = all.n - 1;
      for (const index_t bad : {classes, index_t(-1), index_t(1) << 40, -(index_t(1) << 62)})
        for (const index_t row : {index_t(0), index_t(17), last}) {
          INFO(call.name << ", " << name_of(w) << ": label " << bad << " of row " << row);
          std::vector<index_t> values = right;
          values[std::size_t(row)] = bad;
          const label_array<D> wrong(values);
          all.reset();
          run(call, ctx, wrong.in());
          if (call.name != "class_means") CHECK(std::isnan(all.value()));

          all.reset();
          CHECK_THROWS_AS(run(call, looking, wrong.in()), craft::label_error);
          CHECK_THROWS_WITH(run(call, looking, wrong.in()),
                            contains(std::to_string(bad)) && contains(std::to_string(row)));
          CHECK_THROWS_AS(run(call, looking, values), craft::label_error);
          CHECK_THROWS_AS(run(call, ctx, values), craft::label_error);  // on the host they are always looked at
          CHECK((all.bits() == untouched));
        }
      all.reset();
      run(call, ctx, right_device.in());
      CHECK((all.bits() == want));
      all.reset();
      run(call, looking, right_device.in());
      CHECK((all.bits() == want));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("labels that are ignored, and 32-bit labels outside their range", "[cuda][labels]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const index_t n = 6, c = 3, d = 4;
  const array<D> x(random_reals(n, d, 81)), a(random_reals(c, d, 82));
  array<D, T> value(1, 1);
  const craft::cuda ctx = make(way::tiles);
  const auto loss = [&](const craft::labels& y, index_t ignore) {
    craft::cross_entropy_options o;
    o.ignore_label = ignore;
    craft::anchor_cross_entropy(ctx, x.in(), a.in(), y, o, value.as_value());
    return value.number();
  };
  for (const index_t odd :
       {index_t(-100), index_t(3), index_t(-1), index_t(std::numeric_limits<std::int32_t>::min())}) {
    const std::vector<index_t> y = {0, odd, 2, 1, odd, 0};
    const label_array<D> wide(y);
    const label_array<D, std::int32_t> narrow(y);
    const double want = loss(y, odd);
    CHECK(std::isfinite(want));
    CHECK(loss(wide.in(), odd) == want);
    CHECK(loss(narrow.in(), odd) == want);
    CHECK(std::isnan(loss(wide.in(), 77)));
    CHECK(std::isnan(loss(narrow.in(), 77)));
  }
}

TEMPLATE_LIST_TEST_CASE("weights in device memory are looked at where the context is asked to",
                        "[cuda][labels][errors]", devices) {
  using D = TestType;
  labelled_calls<D> all;
  const std::vector<index_t> xl = labels_for(all.n, all.c, 3), yl = labels_for(all.m, all.c, 5);
  const array<D, double> yw(std::vector<double>(std::size_t(all.m), 1.0));
  craft::cuda looking = make(way::tiles);
  looking.check_labels(true);
  for (const auto& call : all.calls) {
    if (!call.by_weight) continue;
    INFO(call.name);
    all.reset();
    const std::string untouched = all.bits();
    for (const double bad : {-1.0, not_a_number, infinity}) {
      std::vector<double> w(std::size_t(all.n), 1.0);
      w[5] = bad;
      const array<D, double> on_device(w);
      const array<D, float> in_float(w);
      for (const craft::numbers& given : {on_device.as_numbers(), in_float.as_numbers(), craft::numbers(w)}) {
        CHECK_THROWS_AS(call.run(looking, xl, yl, given, yw.as_numbers()), craft::option_error);
        CHECK_THROWS_WITH(call.run(looking, xl, yl, given, yw.as_numbers()), contains("[5]"));
      }
    }
    CHECK((all.bits() == untouched));
  }
}

// ---------------------------------------------------------------------------------------------------------
// The same bits

TEMPLATE_LIST_TEST_CASE("every verb gives the same bits on every run", "[cuda][determinism][long]", devices) {
  every_device_verb<TestType> all;
#ifdef CRAFT_EMULATED_CUDA
  const order_keeper keeper;
#endif
  for (const auto p : {craft::precision::strict, craft::precision::tf32})
    for (const way w : ways) {
      if (p != craft::precision::strict && std::is_same_v<typename TestType::scalar, double>) continue;
      const auto fresh = [&] {
        craft::cuda ctx = make(w);
        ctx.precision(p);
        return ctx;
      };
      const craft::cuda kept = fresh();
      for (const auto& verb : all.verbs) {
        INFO(verb.name << ", " << name_of(w) << ", precision " << int(p));
        const std::string want = all.bits_of(verb, kept);
        CHECK((all.bits_of(verb, kept) == want));
#ifdef CRAFT_EMULATED_CUDA
        for (const auto order : {simt::order::forward, simt::order::reverse, simt::order::shuffled}) {
          simt::set_order(order, 7);
          CHECK((all.bits_of(verb, fresh()) == want));
        }
#else
        CHECK((all.bits_of(verb, fresh()) == want));
#endif
      }
    }
}

TEMPLATE_LIST_TEST_CASE("the tiles' size and fused sweeps change only the last digits", "[cuda][determinism][long]",
                        devices) {
  using D = TestType;
  every_device_verb<D> all;
  const std::pair<index_t, index_t> sizes[] = {{16, 24}, {20, 27}, {64, 5}, {7, 50}, {1, 3}};
  craft::cuda whole = make(way::tiles);
  whole.tile(0);
  for (const auto& verb : all.verbs) {
    all.reset();
    verb.run(whole);
    const auto want = all.results();
    const auto compare = [&] {
      const auto got = all.results();
      for (std::size_t k = 0; k < want.size(); ++k) {
        INFO(want[k].first);
        // Sums of up to 47 terms of either sign in another order; the parameters' gradients by the widest bandwidth and
        // the discrepancy itself cancel to a tenth of their terms.
        const reals difference = got[k].second - want[k].second;
        CHECK(difference.norm() <= 200 * roundoff<typename D::scalar> * (1 + want[k].second.norm()));
      }
    };
    for (const auto& [rows, columns] : sizes) {
      if (rows == 1 && &verb != &named(all, "mmd, biased") && &verb != &named(all, "info_nce, labels"))
        continue;  // slow
      INFO(verb.name << ", tiles of " << rows << " x " << columns);
      craft::cuda ctx = make(way::tiles);
      ctx.tile(rows, columns);
      all.reset();
      verb.run(ctx);
      compare();
    }
    for (const index_t longest : {index_t(5), index_t(6), index_t(1000)}) {
      INFO(verb.name << ", fused up to " << longest);
      craft::cuda ctx = make(way::tiles);
      ctx.tile(0).fused(longest);
      all.reset();
      verb.run(ctx);
      compare();
    }
  }
}

TEMPLATE_LIST_TEST_CASE("two contexts on two streams from two host threads give the bits of one", "[cuda][threads]",
                        devices) {
  using all_verbs = every_device_verb<TestType>;
  const auto run_all = [](all_verbs& all, const craft::cuda& ctx) {
    std::vector<std::string> bits;
    for (const auto& verb : all.verbs) bits.push_back(all.bits_of(verb, ctx));
    return bits;
  };
  all_verbs all[2];
  all[1].set(1);
  std::vector<std::string> want[2], got[2];
  for (int t = 0; t < 2; ++t) want[t] = run_all(all[t], make(ways[t]));
  const stream_owner streams[2];
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      const craft::cuda ctx = make(ways[t], streams[t]);
      for (int time = 0; time < 2; ++time) got[t] = run_all(all[t], ctx);
    });
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 2; ++t)
    for (std::size_t k = 0; k < want[t].size(); ++k) {
      INFO(all[t].verbs[k].name << " on thread " << t);
      CHECK((got[t][k] == want[t][k]));
    }
}

// ---------------------------------------------------------------------------------------------------------
// Precision

namespace {

/// What the multiplicands of a product are rounded to, at worst (by truncation): so much relative to each.
double unit_of(craft::precision p) {
  return p == craft::precision::tf32 ? 0x1p-10 : p == craft::precision::bfloat16 ? 0x1p-7 : 0x1p-23;
}

struct allowed {
  double value = 0, x = 0, y = 0;
};

/// What rounding the multiplicands by u may cost biased MMD with Gaussians of weight 1. A dot product of centred rows a
/// and b is off by at most 2u |a||b| (and by d eps of its own sum), so that D = |a|^2 + |b|^2 - 2ab is off by
///
///     e = (2u + (d + 4) eps) (|a|^2 + |b|^2)
///
/// and k(D) by |k'| e. The gradient is sum_j c_ij 2 k'(D_ij) (z_i - z_j): k' is off by k'' e, and the product with z_j
/// rounds both of its multiplicands once more. Twice that, for what e^(-e / 2h^2) has beyond its first order.
allowed mmd_allowed(const reals& X, const reals& Y, const std::vector<double>& bandwidths, double u) {
  const index_t n = X.rows(), m = Y.rows(), d = X.cols();
  const double eps = 0x1p-23;
  reals Z(n + m, d);
  Z << X, Y;
  const reals mean = Z.colwise().mean();
  Z.rowwise() -= mean.row(0);
  allowed out;
  for (index_t i = 0; i < n + m; ++i) {
    double row = 0;
    for (index_t j = 0; j < n + m; ++j) {
      const double coefficient =
          (i < n ? 1.0 / double(n) : 1.0 / double(m)) * (j < n ? 1.0 / double(n) : 1.0 / double(m));
      const double D = (Z.row(i) - Z.row(j)).squaredNorm();
      const double e = (2 * u + double(d + 4) * eps) * (Z.row(i).squaredNorm() + Z.row(j).squaredNorm());
      double first = 0, second = 0, value = 0;
      for (const double h : bandwidths) {
        const double k = std::exp(-D / (2 * h * h));
        value += k;
        first += k / (2 * h * h);
        second += k / (4 * h * h * h * h);
      }
      out.value += coefficient * (first * e + value * 8 * eps);
      row += 2 * coefficient * 2 *
             (second * e * std::sqrt(D) + first * (2 * u + double(n + m) * eps) * (Z.row(i).norm() + Z.row(j).norm()));
    }
    (i < n ? out.x : out.y) += row * row;
  }
  return {2 * out.value, 2 * std::sqrt(out.x), 2 * std::sqrt(out.y)};
}

/// The same for symmetric InfoNCE: rows have unit norm, so that a logit is off by at most e = s (2u + (d + 4) eps). The
/// value, a difference of a log-sum-exp and a logit, by 2e. A softmax weight by a factor of up to e^(2e), and its
/// product with the other rows rounds both multiplicands; the way back through the norm divides by it.
allowed info_nce_allowed(const reals& X, const reals& Y, double s, double u) {
  const index_t n = X.rows(), d = X.cols();
  const double eps = 0x1p-23, e = s * (2 * u + double(d + 4) * eps);
  const reals x = X.rowwise().normalized(), y = Y.rowwise().normalized();
  const reals E = (s * x * y.transpose()).array().exp();
  const reals P = E.rowwise().sum().cwiseInverse().asDiagonal() * E,
              Q = E * E.colwise().sum().cwiseInverse().asDiagonal();
  const reals one = reals::Identity(n, n);
  const reals off = (P + Q) * (std::exp(2 * e) - 1) +
                    ((P - one).cwiseAbs() + (Q - one).cwiseAbs()) * (2 * u + double(n + d + 8) * eps);
  const reals by_x = off.rowwise().sum().cwiseQuotient(X.rowwise().norm()) * (s / (2 * double(n)));
  const reals by_y = off.colwise().sum().transpose().cwiseQuotient(Y.rowwise().norm()) * (s / (2 * double(n)));
  return {2 * e + 8 * eps, by_x.norm(), by_y.norm()};
}

}  // namespace

TEST_CASE("what the precision of products costs in float", "[cuda][precision]") {
  using cpu_double = device<cpu_backend, double>;
  using gpu_float = device<cuda_backend, float>;
  const index_t n = 40, m = 32, d = 64;
  const reals X = as_stored<gpu_float>(random_reals(n, d, 91)), Y = as_stored<gpu_float>(random_reals(n, d, 92, 0.1));
  const std::vector<double> h = {5, 8, 16};
  const craft::gaussians<double> kernel(h);
  const craft::cpu reference(1);
  const auto mmd = run_mmd<cpu_double>(reference, X, Y.topRows(m), kernel);
  craft::contrastive_options o;
  o.log_scale = std::log(8.0);
  const auto nce = run_info_nce<cpu_double>(reference, X, Y, o);
  for (const way w : ways) {
    [[maybe_unused]] double last[2] = {0, 0};
    for (const auto p : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
      INFO(name_of(w) << ", precision " << int(p));
      craft::cuda ctx = make(w);
      ctx.precision(p);
      CHECK(ctx.precision() == p);
      const auto got = run_mmd<gpu_float>(ctx, X, Y.topRows(m), kernel);
      const allowed a = mmd_allowed(X, Y.topRows(m), h, unit_of(p));
      const double errors[2] = {std::abs(got.value - mmd.value), (got.x - mmd.x).norm()};
      CHECK(errors[0] <= a.value);
      CHECK(errors[1] <= a.x);
      CHECK((got.y - mmd.y).norm() <= a.y);
      const auto loss = run_info_nce<gpu_float>(ctx, X, Y, o);
      const allowed b = info_nce_allowed(X, Y, 8, unit_of(p));
      const double loss_errors[2] = {std::abs(loss.value - nce.value), (loss.x - nce.x).norm()};
      CHECK(loss_errors[0] <= b.value);
      CHECK(loss_errors[1] <= b.x);
      CHECK((loss.y - nce.y).norm() <= b.y);
      if (p == craft::precision::strict) {
        CHECK(errors[1] <= 1e-5 * mmd.x.norm());
        CHECK(loss_errors[0] <= 1e-6 * nce.value);
        CHECK(loss_errors[1] <= 2e-6 * nce.x.norm());
      }
#ifdef CRAFT_EMULATED_CUDA
      // The option has an effect. A real device may be more exact than it was asked to be.
      if (p != craft::precision::strict) CHECK(errors[1] > 3 * last[0]);
      if (p != craft::precision::strict) CHECK(loss_errors[1] > 3 * last[1]);
      last[0] = errors[1];
      last[1] = loss_errors[1];
#endif
    }
  }
}

#ifdef CRAFT_EMULATED_CUDA
TEST_CASE("bfloat16 multiplies 16-bit factors, and no other precision does", "[cuda][precision]") {
  every_device_verb<device<cuda_backend, float>> all;
  every_device_verb<device<cuda_backend, double>> wide;
  for (const auto p : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
    craft::cuda ctx = make(way::tiles);
    ctx.precision(p);
    const auto count = [&](auto& verbs) {
      const auto products = simt::products(), narrow = simt::narrow_products();
      for (const auto& verb : verbs.verbs) verb.run(ctx);
      return std::pair(simt::products() - products, simt::narrow_products() - narrow);
    };
    const auto [products, narrow] = count(all);
    CHECK(products > 100);
    CHECK(narrow == (p == craft::precision::bfloat16 ? products : 0));
    CHECK(count(wide).second == 0);
  }
}
#endif

// Points that every precision holds exactly, and their dot products too: only the weights are rounded. What they lose must cancel
// between the products and the sums of rows and columns, so that the error is one of w_ij (z_j - z_i), and not of w_ij z_j, which is
// much larger within two narrow clusters far from one another. Clusters at +c and -c have their mean at zero.
TEMPLATE_TEST_CASE("sums of rows and columns are those of the rounded weights", "[cuda][precision]", craft::gaussians<double>,
                   craft::cosine<double>) {
  using gpu_float = device<cuda_backend, float>;
  const index_t n = 24, d = 8;
  reals X = random_reals(n, d, 93).unaryExpr([](double v) { return 12 + std::round(4 * v) / 8; }), Y = -X;
  constexpr bool radial = std::is_same_v<TestType, craft::gaussians<double>>;
  const auto kernel = [] {
    if constexpr (radial)
      return craft::gaussians<double>{0.7, 1.5};
    else
      return craft::cosine<double>();
  }();
  const auto exact = run_mmd<device<cpu_backend, double>>(craft::cpu(1), X, Y, kernel);
  reals Z(2 * n, d);
  Z << X, Y;
  for (const auto p : {craft::precision::tf32, craft::precision::bfloat16})
    for (const way w : ways) {
      INFO(name_of(w) << ", precision " << int(p));
      craft::cuda ctx = make(w);
      ctx.precision(p);
      const auto got = run_mmd<gpu_float>(ctx, X, Y, kernel);
      const double u = unit_of(p) / 2, eps = 0x1p-23;
      for (index_t i = 0; i < n; ++i)
        for (index_t k = 0; k < d; ++k) {
          // sum_j |w_ij| |z_jk - z_ik| u, and what float itself costs
          double rounding = 0, plain = 0;
          for (index_t j = 0; j < 2 * n; ++j) {
            double weight = 0;  // of a pair with j in the same block or the other one: 2 / n^2 dk/ds
            if constexpr (radial) {
              const double D = (Z.row(i) - Z.row(j)).squaredNorm();
              for (const double h : {0.7, 1.5}) weight += std::exp(-D / (2 * h * h)) / (h * h);
              rounding += weight * std::abs(Z(j, k) - Z(i, k));
            } else {
              const double norms = Z.row(i).norm() * Z.row(j).norm();
              weight = 1 / norms;
              rounding += weight * std::abs(Z(j, k) - Z.row(i).dot(Z.row(j)) / Z.row(i).squaredNorm() * Z(i, k));
            }
            plain += weight * (std::abs(Z(j, k)) + std::abs(Z(i, k)));
          }
          const double scale = 2 / double(n * n);
          INFO("row " << i << ", column " << k << ": " << got.x(i, k) << " for " << exact.x(i, k));
          CHECK(std::abs(got.x(i, k) - exact.x(i, k)) <= scale * (u * rounding + double(2 * n + d + 16) * eps * plain));
        }
    }
}

TEST_CASE("double has one precision", "[cuda][precision]") {
  every_device_verb<device<cuda_backend, double>> all;
  for (const way w : ways) {
    const craft::cuda strict = make(w);
    craft::cuda other = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const std::string want = all.bits_of(verb, strict);
      CHECK((all.bits_of(verb, other.precision(craft::precision::tf32)) == want));
      CHECK((all.bits_of(verb, other.precision(craft::precision::bfloat16)) == want));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// How inputs are stored

namespace {

/// Value, gradients and parameter gradients of three verbs for inputs stored as Q, some rows apart.
template <class Q>
struct stored_run {
  using D = device<cuda_backend, Q>;
  std::vector<reals> in_compute, in_storage;
  bool padding_kept = false;

  stored_run(const craft::cuda& ctx, const reals& X, const reals& Y, index_t padding, bool accumulate) {
    const index_t n = X.rows(), m = Y.rows(), d = X.cols();
    const array<D> x(X, padding), y(Y, 2 * padding), p(Y.topRows(n), padding), w(Y.leftCols(1) * X.col(0).transpose());
    array<D> dx(n, d, sentinel, padding), dy(m, d, sentinel, 3 * padding), dp(n, d, sentinel),
        out(n, m, sentinel, padding);
    array<D, float> value(1, 1), weights(1, 2), bandwidths(1, 2), ds(1, 1);
    const auto around = [&] {
      std::string bytes;
      for (const array<D>* a : {&dx, &dy, &out})
        for (const Q& number : a->padding()) bytes.append(reinterpret_cast<const char*>(&number), sizeof(Q));
      return bytes;
    };
    const auto before = around();
    const auto to = [&](auto& a) { return accumulate ? craft::accumulate(a.out()) : craft::overwrite(a.out()); };
    const auto keep = [&] {
      for (const reals& r : {value.get(), weights.get(), bandwidths.get(), ds.get()}) in_compute.push_back(r);
      for (const reals& r : {dx.get(), dy.get(), dp.get(), out.get()}) in_storage.push_back(r);
      for (array<D>* a : {&dx, &dy, &dp, &out}) a->set(reals::Constant(a->get().rows(), a->get().cols(), sentinel));
    };
    craft::mmd_gradients<Q, D::space> g;
    g.x = to(dx);
    g.y = to(dy);
    g.weights = craft::overwrite(weights.out());
    g.bandwidths = craft::overwrite(bandwidths.out());
    craft::mmd(ctx, x.in(), y.in(), craft::gaussians<double>{1.5, 4.0}, craft::mmd_options{}, value.as_value(), g);
    keep();
    craft::alignment_gradients<Q, D::space> a;
    a.x = to(dx);
    a.y = to(dp);
    a.log_scale = craft::overwrite(ds.out());
    craft::contrastive_options o;
    o.log_scale = 2.0;
    craft::info_nce(ctx, x.in(), p.in(), o, value.as_value(), a);
    keep();
    craft::relative_options r;
    r.statistics = craft::anchor_statistics::standardise;
    r.log_scale = 0.5;
    craft::relative(ctx, x.in(), y.in(), craft::dot_product<>(), r, out.out());
    craft::relative_gradients<Q, D::space> b;
    b.x = to(dx);
    b.anchors = to(dy);
    b.log_scale = craft::overwrite(ds.out());
    const array<D> u(w.get().transpose().eval());
    craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), r, u.in(), b);
    keep();
    padding_kept = around() == before;
  }
};

/// The numbers are those that Q can hold, so that float holds the same ones.
template <class Q>
void check_stored_as() {
  using D = device<cuda_backend, Q>;
  const index_t n = 18, m = 23, d = 7;
  const reals X = as_stored<D>(random_reals(n, d, 95)), Y = as_stored<D>(random_reals(m, d, 96, 0.25));
  const auto rounded = [](double v) { return double(Q(float(v))); };
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    const stored_run<float> want(ctx, X, Y, 0, false);
    for (const index_t padding : {0, 1, 5}) {
      INFO(name_of(w) << ", padding " << padding);
      const stored_run<Q> got(ctx, X, Y, padding, false), added(ctx, X, Y, padding, true);
      CHECK(got.padding_kept);
      CHECK(added.padding_kept);
      // The pull-back of relative reads a matrix that Q rounds: only the first two verbs have the very same inputs.
      for (std::size_t k = 0; k < 8; ++k)
        CHECK((got.in_compute[k].array().isNaN() || got.in_compute[k].array() == want.in_compute[k].array()).all());
      for (std::size_t k = 0; k < 8; ++k) {
        INFO("output " << k);
        CHECK(got.in_storage[k] == want.in_storage[k].unaryExpr(rounded));
        // What is added is the number before rounding; the sum is rounded once.
        if (k % 4 == 3) continue;
        const bool written =
            want.in_storage[k] != reals::Constant(want.in_storage[k].rows(), want.in_storage[k].cols(), sentinel);
        if (!written) continue;
        const reals sum = want.in_storage[k].unaryExpr([](double v) { return double(float(v) + float(sentinel)); });
        CHECK(added.in_storage[k] == sum.unaryExpr(rounded));
      }
      CHECK(got.in_storage[11] == want.in_storage[11].unaryExpr(rounded));  // relative itself
    }
  }
}

}  // namespace

TEST_CASE("the toolkit's two-byte types are float with their numbers, and round results once", "[cuda][storage]") {
  SECTION("half") { check_stored_as<__half>(); }
  SECTION("bfloat16") { check_stored_as<__nv_bfloat16>(); }
}

TEMPLATE_LIST_TEST_CASE("rows some numbers apart are the same rows", "[cuda][storage]", devices) {
  using S = typename TestType::scalar;
  const reals X = random_reals(18, 7, 95), Y = random_reals(23, 7, 96);
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    if constexpr (std::is_same_v<S, float>) {
      const stored_run<S> packed(ctx, X, Y, 0, true);
      for (const index_t padding : {1, 2, 9}) {
        INFO(name_of(w) << ", padding " << padding);
        const stored_run<S> apart(ctx, X, Y, padding, true);
        CHECK(apart.padding_kept);
        for (std::size_t k = 0; k < packed.in_storage.size(); ++k) CHECK(apart.in_storage[k] == packed.in_storage[k]);
      }
    } else {
      // In double by one verb: a block of a larger matrix, into a block.
      const index_t n = X.rows(), m = Y.rows(), d = X.cols();
      const craft::gaussians<double> kernel{1.0, 3.0};
      const auto want = run_mmd<TestType>(ctx, X, Y, kernel);
      const array<TestType> x(X, 4), y(Y, 1);
      array<TestType> around(n + m + 2, 2 * d + 3, sentinel), value(1, 1);
      craft::mmd_gradients<S, TestType::space> g;
      g.x = craft::overwrite(part<TestType>(around, 1, n, 1, d));
      g.y = craft::overwrite(part<TestType>(around, 1, m, d + 2, d));  // beside the other, in the same rows
      craft::mmd(ctx, x.in(), y.in(), kernel, craft::mmd_options{}, value.as_value(), g);
      reals all = around.get();
      CHECK(value.number() == want.value);
      CHECK(reals(all.block(1, 1, n, d)) == want.x);
      CHECK(reals(all.block(1, d + 2, m, d)) == want.y);
      all.block(1, 1, n, d).setConstant(sentinel);
      all.block(1, d + 2, m, d).setConstant(sentinel);
      CHECK(all == reals::Constant(n + m + 2, 2 * d + 3, sentinel));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// Awkward sizes

// What lies behind the last column of a panel's row was written by nobody, and may not be there at all.
TEST_CASE("kernels read no farther than a panel's row was written", "[cuda][sizes]") {
  using D = device<cuda_backend, float>;
  const craft::cuda ctx = make(way::tiles);
  for (const index_t end : {1, 2, 3, 4, 5, 7, 8, 30}) {
    const index_t quads = (end + 3) / 4;
    const buffer line(std::size_t(end) * sizeof(float));  // AddressSanitizer sees where it ends
    const std::vector<float> ones(std::size_t(end), 1.0f);
    D::backend::upload(line.get(), ones.data(), ones.size() * sizeof(float));
    array<D> out(1, 4 * quads);
    craft::engine::cuda_engine(ctx).each(quads, read_quads{static_cast<const float*>(line.get()), end, out.out().data()});
    for (index_t j = 0; j < 4 * quads; ++j) CHECK(out.get()(0, j) == (j < end ? 1 : -1));
  }
}

TEMPLATE_LIST_TEST_CASE("sizes around those of warps, blocks and tiles", "[cuda][sizes][long]", devices) {
  using D = TestType;
  using exact = device<cpu_backend, double>;
  struct size {
    index_t n, m, d;
  };
  const size sizes[] = {{1, 1, 1},   {1, 1, 3},   {1, 7, 3},   {7, 1, 1},    {2, 2, 3},   {31, 33, 3}, {32, 32, 1},
                        {33, 31, 3}, {16, 24, 3}, {17, 25, 3}, {33, 49, 33}, {255, 5, 3}, {256, 3, 1}, {257, 9, 3},
                        {3, 257, 2}, {5, 4, 129}, {9, 10, 64}, {8, 7, 65},   {6, 5, 128}};
  const craft::cpu reference(1);
  // Sums of n terms in float, of logits and distances that are off by a few d eps; or of products whose multiplicands
  // are off by as much as the precision says, twice, in the dot products and in the gradients.
  const bool wide = std::is_same_v<typename D::scalar, double>;
  double tolerance = 0;
  const auto close = [&](const reals& got, const reals& want) {
    CHECK((got - want).norm() <= tolerance * (want.norm() + 1 / std::sqrt(double(want.rows()))));
  };
  for (const auto& [w, p] : {std::pair(way::tiles, craft::precision::strict),
                             {way::fused, craft::precision::strict},
                             {way::tiles, craft::precision::tf32},
                             {way::fused, craft::precision::tf32},
                             {way::tiles, craft::precision::bfloat16},
                             {way::fused, craft::precision::bfloat16}}) {
    if (wide && p != craft::precision::strict) continue;
    tolerance = wide ? 1e-12 : p == craft::precision::strict ? 1e-5 : 4 * unit_of(p);
    craft::cuda ctx = make(w);
    ctx.precision(p);
    for (const auto& [n, m, d] : sizes) {
      if (p != craft::precision::strict && std::max(n, m) > 200) continue;
      INFO(name_of(w) << ", precision " << int(p) << ": n " << n << ", m " << m << ", d " << d);
      const reals X = as_stored<D>(random_reals(n, d, 101)), Y = as_stored<D>(random_reals(m, d, 102, 0.3)),
                  P = as_stored<D>(random_reals(n, d, 103)), W = as_stored<D>(random_reals(n, m, 104));
      const double h = std::sqrt(double(d));
      const craft::gaussians<double> kernel({0.5 * h, h, 2 * h}, {1, 0.5, 0.25});
      for (const auto rule : {craft::bandwidth_rule::fixed, craft::bandwidth_rule::mean}) {
        craft::mmd_options o;
        o.bandwidth.rule = rule;
        const auto got = run_mmd<D>(ctx, X, Y, kernel, o), want = run_mmd<exact>(reference, X, Y, kernel, o);
        CHECK(std::abs(got.value - want.value) <= tolerance);
        close(got.x, want.x);
        close(got.y, want.y);
        for (std::size_t q = 0; q < 3; ++q) {
          CHECK(std::abs(got.weights[q] - want.weights[q]) <= tolerance);
          CHECK(std::abs(got.bandwidths[q] - want.bandwidths[q]) <= tolerance);
        }
      }
      craft::contrastive_options nce;
      nce.log_scale = 1.0;
      const auto loss = run_info_nce<D>(ctx, X, P, nce), by_cpu = run_info_nce<exact>(reference, X, P, nce);
      CHECK(std::abs(loss.value - by_cpu.value) <= tolerance * (1 + std::abs(by_cpu.value)));
      if (d > 1) {  // a single number has only a sign: its gradient is 0, and what is left of it is rounding over |x|
        close(loss.x, by_cpu.x);
        close(loss.y, by_cpu.y);
      }
      CHECK(std::abs(loss.log_scale - by_cpu.log_scale) <= tolerance * (1 + std::abs(by_cpu.log_scale)));
      craft::relative_options r;
      r.normalise = d > 1;
      const auto map = run_relative<D>(ctx, X, Y, craft::dot_product<>(), r, W),
                 map_by_cpu = run_relative<exact>(reference, X, Y, craft::dot_product<>(), r, W);
      close(map.out, map_by_cpu.out);
      close(map.x, map_by_cpu.x);
      close(map.anchors, map_by_cpu.anchors);
      CHECK(std::abs(map.log_scale - map_by_cpu.log_scale) <= tolerance * (1 + W.norm() * map_by_cpu.out.norm()));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// Which gradients are asked for

TEMPLATE_LIST_TEST_CASE("the value does not depend on which gradients are asked for, and others stay",
                        "[cuda][outputs]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const index_t n = 19, d = 5;
  const array<D> x(random_reals(n, d, 111)), y(random_reals(n, d, 112)), u(random_reals(n, n, 113));
  const craft::gaussians<double> kernel{1.0, 2.0, 5.0};
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 4; ++loss) {
      std::string value_bits;
      std::map<std::string, std::string> seen;  // of each gradient, alone or with others
      for (int mask = 0; mask < 16; ++mask) {
        INFO("loss " << loss << ", " << name_of(w) << ", gradients " << mask);
        array<D> dx(n, d, sentinel), dy(n, d, sentinel);
        array<D, T> ds(1, 1, sentinel), other(1, 1, sentinel), weights(1, 3, sentinel), bandwidths(1, 3, sentinel),
            value(1, 1);
        const auto gradient = [&](int bit, auto& to) {
          auto o = craft::overwrite(to.out());
          if (!(mask >> bit & 1)) o = {};
          return o;
        };
        if (loss == 0) {
          craft::mmd_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, weights),
                                              gradient(3, bandwidths)};
          craft::mmd(ctx, x.in(), y.in(), kernel, craft::mmd_options{}, value.as_value(), g);
        } else if (loss == 3) {
          craft::relative_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, ds)};
          craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), craft::relative_options{}, u.in(), g);
        } else {
          craft::alignment_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, ds),
                                                    gradient(3, other)};
          craft::contrastive_options nce;
          nce.log_scale = 1.5;
          craft::sigmoid_options sig;
          sig.log_scale = 1.5;
          sig.bias = -1.0;
          if (loss == 1) craft::info_nce(ctx, x.in(), y.in(), nce, value.as_value(), g);
          if (loss == 2) craft::sigmoid_contrastive(ctx, x.in(), y.in(), sig, value.as_value(), g);
        }
        if (loss != 3) {
          if (value_bits.empty()) value_bits = value.bits();
          CHECK(std::isfinite(value.number()));
          CHECK((value.bits() == value_bits));
        }
        const auto check = [&](const char* name, int bit, auto& to) {
          INFO(name);
          const reals untouched = reals::Constant(to.get().rows(), to.get().cols(), sentinel);
          if (!(mask >> bit & 1)) {
            CHECK(to.get() == untouched);
          } else {
            CHECK(to.get().allFinite());
            CHECK(to.get() != untouched);
            auto [first, fresh] = seen.emplace(name, to.bits());
            // Sums of a matrix and of its transpose may be taken in another order where only one of them is wanted.
            if (!fresh) {
              array<D, std::decay_t<decltype(*to.out().data())>> kept(to.get().rows(), to.get().cols());
              std::string bytes = first->second;
              D::backend::upload(kept.out().data(), bytes.data(), bytes.size());
              CHECK((kept.get() - to.get()).norm() <= 64 * roundoff<S> * (kept.get().norm() + 1e-3));
            }
          }
        };
        check("x", 0, dx);
        check("y", 1, dy);
        if (loss == 0) {
          check("weights", 2, weights);
          check("bandwidths", 3, bandwidths);
        } else {
          check("log_scale", 2, ds);
          if (loss != 3) check("bias", 3, other);
        }
      }
    }
  }
}
