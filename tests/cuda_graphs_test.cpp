// Verbs captured in graphs, which are replayed on other numbers and after other calls; and what cannot be captured.
#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"
#include "pair_losses.hpp"

using namespace craft_test;

namespace {

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

}  // namespace

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
