// What ThreadSanitizer watches (races.hpp): every kernel of the engine at least once, in float and double, on samples of odd
// and even sizes, in several blocks, with and without fused sweeps, in every precision; and two contexts on two streams.
//
//     emulated_races CUDA_FOLDER ENGINE_FOLDER
//
// Fails by name if a kernel or a step of one that is declared in these folders was not launched, or if an output is not finite.
// Races are the sanitizer's to report: the program ends with its status then.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "craft/craft.hpp"
#include "craft/two_sample.hpp"
#include "devices.hpp"

namespace {

using namespace craft_test;
namespace fs = std::filesystem;

int failures = 0;

/// Every verb with every output that it has, n samples against m, c classes, d numbers each.
template <class D>
class every_verb {
 public:
  using S = typename D::scalar;
  using T = typename D::compute;
  using context = typename D::context;

  every_verb(index_t n_, index_t m_, index_t c_, index_t d_) : n(n_), m(m_), c(c_), d(d_) {
    for (index_t i = 0; i < n; ++i) x_labels.push_back((7 * i + i / 3) % c);
    for (index_t j = 0; j < m; ++j) y_labels.push_back((5 * j + j / 2) % c);
    for (index_t i = 0; i < n; ++i) picks.push_back((i * i + 3) % n);
  }

  void run(const context& ctx) {
    discrepancies(ctx);
    relative(ctx);
    alignment(ctx);
    objective(ctx);
    anchor_selection(ctx);
    check_finite();
  }
  /// Of the sweeps, which are several blocks wide here, and the sums in several pieces.
  void run_wide(const context& ctx) {
    const craft::gaussians<T> kernel{T(1), T(2), T(5)};
    craft::mmd_gradients<S, D::space> g;
    g.x = craft::overwrite(dx.out());
    g.y = craft::overwrite(dy.out());
    craft::mmd_options o;
    o.bandwidth.rule = craft::bandwidth_rule::mean;
    craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value(), g);
    contrast(ctx);
    check_finite();
  }
  /// A loss that waits for nothing.
  void contrast(const context& ctx) {
    craft::contrastive_options o;
    o.x_labels = device_x_labels.in();
    o.y_labels = device_y_labels.in();
    craft::info_nce(ctx, x.in(), y.in(), o, value.as_value(), alignment_gradients(dy));
  }

 private:
  void check_finite() {
    for (array<D>* out : {&dx, &dy, &dp, &da, &dt, &out_nc, &value, &log_scale, &bias})
      if (!out->get().allFinite()) ++failures, std::printf("an output is not finite\n");
  }

  void discrepancies(const context& ctx) {
    const craft::gaussians<T> kernel{T(1), T(2), T(5)};
    craft::mmd_gradients<S, D::space> g;
    g.x = craft::overwrite(dx.out());
    g.y = craft::accumulate(dy.out());
    g.weights = craft::overwrite(weights.out());
    g.bandwidths = craft::overwrite(bandwidths.out());
    g.x_weights = craft::overwrite(dwx.out());
    g.y_weights = craft::overwrite(dwy.out());
    const auto mmd = [&](const craft::mmd_options& o) {
      craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value(), g);
      craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value());
    };
    craft::mmd_options o;
    mmd(o);
    o.x_weights = wx.as_numbers();
    o.y_weights = wy.as_numbers();
    mmd(o);
    o = {};
    for (const auto columns : {craft::column_scaling::minmax_separate, craft::column_scaling::minmax_joint}) {
      o.columns = columns;
      mmd(o);
    }
    o = {};
    o.estimator = craft::estimator::unbiased;
    using rule = craft::bandwidth_rule;
    for (const auto by : {rule::mean, rule::mean_offdiagonal, rule::median, rule::median_mid}) {
      o.bandwidth = {by, by == rule::median_mid ? craft::bandwidth_sample::x : craft::bandwidth_sample::pooled, true};
      mmd(o);
      craft::bandwidth_scale(ctx, x.in(), y.in(), o.bandwidth);
    }
    o = {};
    o.estimator = craft::estimator::linear;
    g.x_weights = g.y_weights = {};
    mmd(o);
    craft::two_sample_options t;
    t.permutations = 3;
    t.bandwidth.rule = rule::mean;
    craft::two_sample_test(ctx, x.in(), y.in(), kernel, t);
  }

  void relative(const context& ctx) {
    for (const auto of_anchors :
         {craft::anchor_statistics::none, craft::anchor_statistics::centre, craft::anchor_statistics::standardise})
      for (const bool normalise : {true, false}) {
        craft::relative_options o;
        o.statistics = of_anchors;
        o.normalise = normalise;
        o.log_scale = half.as_scalar();
        o.max_scale = 1.5;
        craft::relative_gradients<S, D::space> g;
        g.x = craft::overwrite(dx.out());
        g.anchors = craft::overwrite(da.out());
        g.log_scale = craft::overwrite(log_scale.out());
        craft::relative(ctx, x.in(), anchors.in(), craft::dot_product<T>(), o, out_nc.out());
        craft::relative_pullback(ctx, x.in(), anchors.in(), craft::dot_product<T>(), o, dout.in(), g);
        craft::relative_pullback(ctx, x.in(), anchors.in(), craft::cosine<T>(), o, dout.in(), g);
        craft::relative_pullback(ctx, x.in(), anchors.in(), craft::negative_distance<T>(T(0)), o, dout.in(), g);
      }
  }

  craft::alignment_gradients<S, D::space> alignment_gradients(array<D>& other) {
    craft::alignment_gradients<S, D::space> g;
    g.x = craft::overwrite(dx.out());
    g.y = craft::overwrite(other.out());
    g.log_scale = craft::overwrite(log_scale.out());
    return g;
  }
  void alignment(const context& ctx) {
    craft::cross_entropy_options ce;
    ce.label_smoothing = 0.1;
    ce.weights = wx.as_numbers();
    ce.log_scale = half.as_scalar();
    auto g = alignment_gradients(da);
    g.weights = craft::overwrite(dwx.out());
    craft::anchor_cross_entropy(ctx, x.in(), anchors.in(), device_x_labels.in(), ce, value.as_value(), g);
    g.targets = craft::overwrite(out_nc.out());
    craft::anchor_cross_entropy(ctx, x.in(), anchors.in(), soft.in(), ce, value.as_value(), g);
    for (const auto way : {craft::direction::one_way, craft::direction::symmetric}) {
      craft::contrastive_options nce;
      nce.direction = way;
      craft::info_nce(ctx, x.in(), paired.in(), nce, value.as_value(), alignment_gradients(dp));
      nce.x_labels = craft::labels(x_labels);
      nce.y_labels = craft::labels(y_labels);
      craft::info_nce(ctx, x.in(), y.in(), nce, value.as_value(), alignment_gradients(dy));
    }
    craft::sigmoid_options sigmoid;
    auto with_bias = alignment_gradients(dp);
    with_bias.bias = craft::overwrite(bias.out());
    craft::sigmoid_contrastive(ctx, x.in(), paired.in(), sigmoid, value.as_value(), with_bias);
    sigmoid.x_labels = craft::labels(x_labels);
    sigmoid.y_labels = craft::labels(y_labels);
    with_bias.y = craft::overwrite(dy.out());
    craft::sigmoid_contrastive(ctx, x.in(), y.in(), sigmoid, value.as_value(), with_bias);
    contrast(ctx);
  }

  void objective(const context& ctx) {
    for (const bool own_texts : {true, false}) {
      craft::objective_inputs<S, D::space> in;
      in.images = x.in();
      in.class_texts = anchors.in();
      in.targets = device_x_labels.in();
      if (own_texts) in.batch_texts = paired.in();
      in.image_anchors = anchors.in();
      in.target_images = y.in();
      craft::objective_gradients<S, D::space> g;
      g.images = craft::overwrite(dx.out());
      g.class_texts = craft::overwrite(da.out());
      if (own_texts) g.batch_texts = craft::overwrite(dp.out());
      g.image_anchors = craft::overwrite(dt.out());
      g.target_images = craft::overwrite(dy.out());
      g.log_scale = craft::overwrite(log_scale.out());
      craft::objective_options o;
      o.direction = craft::direction::symmetric;
      o.discrepancy.bandwidth = {craft::bandwidth_rule::mean, craft::bandwidth_sample::pooled, true};
      craft::objective(ctx, in, craft::gaussians<T>{T(1), T(2), T(5)}, o, terms.place(), g);
    }
  }

  void anchor_selection(const context& ctx) {
    for (const bool normalise : {false, true}) {
      craft::class_means_options o;
      o.normalise = normalise;
      craft::class_means(ctx, x.in(), device_x_labels.in(), o, da.out());
      craft::kmeans_options k;
      k.spherical = normalise;
      k.restarts = 2;
      k.max_iterations = 5;
      craft::kmeans(ctx, x.in(), k, da.out());
      craft::kmeans_per_class(ctx, x.in(), craft::labels(x_labels), c, k, da.out());
    }
    craft::medoids(ctx, x.in(), anchors.in());
    for (const auto metric : {craft::metric::euclidean, craft::metric::cosine})
      craft::farthest_point_anchors(ctx, x.in(), 5, 1, metric);
    craft::gather(ctx, x.in(), picks, dp.out());
    craft::gather_pullback(ctx, paired.in(), picks, craft::overwrite(dx.out()));
  }

  const index_t n, m, c, d;
  const array<D> x{random_reals(n, d, 201)}, y{random_reals(m, d, 202, 0.2)}, paired{random_reals(n, d, 203)},
      anchors{random_reals(c, d, 204)}, soft{random_reals(n, c, 205).cwiseAbs()}, dout{random_reals(n, c, 206)};
  const array<D, T> wx{random_reals(1, n, 207).cwiseAbs()}, wy{random_reals(1, m, 208).cwiseAbs()}, half{reals::Constant(1, 1, 0.5)};
  std::vector<index_t> x_labels, y_labels, picks;
  const label_array<D> device_x_labels{labels_of(n, 7, 3)}, device_y_labels{labels_of(m, 5, 2)};
  array<D> dx{n, d, 0}, dy{m, d, 0}, dp{n, d, 0}, da{c, d, 0}, dt{c, d, 0}, out_nc{n, c, 0};
  array<D> value{1, 1, 0}, log_scale{1, 1, 0}, bias{1, 1, 0}, weights{1, 3, 0}, bandwidths{1, 3, 0}, dwx{1, n, 0}, dwy{1, m, 0};
  objective_terms<D> terms;

  std::vector<index_t> labels_of(index_t count, index_t step, index_t slow) const {
    std::vector<index_t> y_;
    for (index_t i = 0; i < count; ++i) y_.push_back((step * i + i / slow) % c);
    return y_;
  }
};

/// A loss on one stream, another one of the same rows and places on a second, which waits for the first; and a replayed graph.
template <class D>
void streams(every_verb<D>& all) {
  cudaStream_t first, second;
  cudaEvent_t done;
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  cudaEventCreate(&done);
  {
    const craft::cuda on_first(first), on_second(second);
    all.contrast(on_first);
    cudaEventRecord(done, first);
    cudaStreamWaitEvent(second, done);
    all.contrast(on_second);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStreamBeginCapture(second, cudaStreamCaptureModeThreadLocal);
    all.contrast(on_second);
    cudaStreamEndCapture(second, &graph);
    cudaGraphInstantiate(&executable, graph);
    cudaGraphLaunch(executable, second);
    cudaStreamSynchronize(second);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
  cudaEventDestroy(done);
  cudaStreamDestroy(second);
  cudaStreamDestroy(first);
}

template <class S>
void run_all() {
  using D = device<cuda_backend, S>;
  for (const auto& [n, m, c, d] : {std::array<index_t, 4>{37, 29, 5, 11}, std::array<index_t, 4>{40, 24, 8, 16}}) {
    every_verb<D> all(n, m, c, d);
    all.run(D::make());  // small panels
    if (n % 2 == 0) streams(all);
  }
  for (const auto precision : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
    if (sizeof(S) == 8 && precision != craft::precision::strict) continue;
    craft::cuda ctx;
    ctx.blas_bytes(cuda_backend::little_for_blas).precision(precision);
    every_verb<D>(150, 141, 3, 16).run_wide(ctx);  // fused
    every_verb<D>(150, 141, 3, 15).run_wide(ctx.fused(0));
    if (precision != craft::precision::tf32) every_verb<D>(34, 22, 3, 9).run(ctx.fused(128).check_finite(true).check_labels(true));
  }
}

/// The names of the kernels and of the steps in them that stand in the sources, and were launched.
bool all_launched(int folders, char** paths) {
  std::string launched;
  for (const void* kernel : simt::kernels()) {
    Dl_info info;
    if (dladdr(const_cast<void*>(kernel), &info) == 0 || info.dli_sname == nullptr) continue;
    int status = 0;
    char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    launched += std::string(name == nullptr ? info.dli_sname : name) + "\n";
    std::free(name);
  }
  const std::regex declaration(R"(\b([a-z_]+_kernel)\(|struct ([a-z_]+_(step|term|element))\b)");
  bool all = true;
  std::size_t count = 0;
  for (int f = 0; f < folders; ++f)
    for (const auto& file : fs::directory_iterator(paths[f])) {
      if (!file.is_regular_file()) continue;
      std::ifstream in(file.path());
      const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
      for (std::sregex_iterator at(text.begin(), text.end(), declaration), end; at != end; ++at) {
        const std::string name = (*at)[1].matched ? (*at)[1] : (*at)[2];
        const std::string line = text.substr(text.rfind('\n', std::size_t(at->position())) + 1, 200);
        if ((*at)[1].matched && line.find("__global__") == std::string::npos) continue;
        ++count;
        if (std::regex_search(launched, std::regex("\\b" + name + "\\b"))) continue;
        std::printf("%s: %s was not launched\n", file.path().c_str(), name.c_str());
        all = false;
      }
    }
  std::printf("%zu kernels and steps are declared, %zu instances were launched\n", count, simt::kernels().size());
  return all && count > 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::printf("emulated_races FOLDER...: where kernels and their steps are declared\n"), 2;
  run_all<double>();
  run_all<float>();
  return all_launched(argc - 1, argv + 1) && failures == 0 ? 0 : 1;
}
