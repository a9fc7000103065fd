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
#include "every_device_verb.hpp"

namespace {

using namespace craft_test;
namespace fs = std::filesystem;

int failures = 0;

template <class D>
void check_finite(every_device_verb<D>& all, const std::string& what) {
  for (const auto& [name, output] : all.results())
    if (!output.allFinite()) ++failures, std::printf("%s: %s is not finite\n", what.c_str(), name.c_str());
}
template <class D>
void run(const craft::cuda& ctx, every_device_verb<D>& all) {
  for (const auto& verb : all.verbs) {
    verb.run(ctx);
    check_finite(all, verb.name);
  }
}

/// What returns numbers to the host, and options that lead to further kernels. n samples against m, c classes, d numbers each.
template <class D>
void run_others(const craft::cuda& ctx, index_t n, index_t m, index_t c, index_t d) {
  using S = typename D::scalar;
  using T = typename D::compute;
  const craft::gaussians<T> kernel{T(1), T(2), T(5)};
  const array<D> x(random_reals(n, d, 201)), y(random_reals(m, d, 202, 0.2)), anchors(random_reals(c, d, 204)),
      soft(random_reals(n, c, 205).cwiseAbs()), dout(random_reals(n, c, 206));
  array<D> dx(n, d, 0), da(c, d, 0), dsoft(n, c, 0), value(1, 1, 0);
  array<D, T> dwx(1, n, 0), dwy(1, m, 0), log_scale(1, 1, 0);
  std::vector<index_t> labels, classes;
  for (index_t i = 0; i < n; ++i) labels.push_back((7 * i + i / 3) % c);
  for (index_t k = 0; k < c; ++k) classes.push_back(k);

  craft::mmd_gradients<S, D::space> of_weights;
  of_weights.x_weights = craft::overwrite(dwx.out());
  of_weights.y_weights = craft::overwrite(dwy.out());
  craft::mmd(ctx, x.in(), y.in(), kernel, craft::mmd_options{}, value.as_value(), of_weights);
  for (const auto rule : {craft::bandwidth_rule::mean, craft::bandwidth_rule::median})
    craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, craft::bandwidth_sample::pooled, true});
  craft::two_sample_options test;
  test.permutations = 3;
  test.bandwidth.rule = craft::bandwidth_rule::mean;
  craft::two_sample_test(ctx, x.in(), y.in(), kernel, test);

  craft::relative_options centred;
  centred.statistics = craft::anchor_statistics::centre;
  centred.log_scale = 1.5;
  centred.max_scale = 2;
  craft::relative_gradients<S, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.anchors = craft::overwrite(da.out());
  g.log_scale = craft::overwrite(log_scale.out());
  craft::relative_pullback(ctx, x.in(), anchors.in(), craft::negative_distance<T>(T(0)), centred, dout.in(), g);
  centred.normalise = false;  // only then small rows are looked at one by one
  craft::relative_pullback(ctx, x.in(), anchors.in(), craft::cosine<T>(), centred, dout.in(), g);
  craft::relative_pushforward(ctx, x.in(), anchors.in(), craft::cosine<T>(), centred,
                              craft::relative_tangents<S, D::space>{x.in(), anchors.in(), 0.5}, dsoft.out());
  craft::alignment_gradients<S, D::space> of_targets;
  of_targets.weights = craft::overwrite(dwx.out());
  of_targets.targets = craft::overwrite(dsoft.out());
  craft::anchor_cross_entropy(ctx, x.in(), anchors.in(), soft.in(), craft::cross_entropy_options{}, value.as_value(), of_targets);

  for (const bool spherical : {false, true}) {
    craft::kmeans_options k;
    k.spherical = spherical;
    k.restarts = 2;
    k.max_iterations = 5;
    craft::kmeans(ctx, x.in(), k, da.out());
    craft::kmeans_per_class(ctx, x.in(), craft::labels(labels), c, k, da.out());
  }
  craft::cosine_embedding_options pairs;
  pairs.x_labels = craft::labels(labels);
  pairs.y_labels = craft::labels(classes);
  craft::cosine_embedding_gradients<S, D::space> of_pairs;
  of_pairs.x = craft::overwrite(dx.out());
  of_pairs.y = craft::overwrite(da.out());
  craft::cosine_embedding(ctx, x.in(), anchors.in(), pairs, value.as_value(), of_pairs);
  craft::uniformity_gradients<S, D::space> of_rows;
  of_rows.x = craft::overwrite(dx.out());
  craft::uniformity(ctx, x.in(), craft::uniformity_options{}, value.as_value(), of_rows);
  craft::medoids(ctx, x.in(), anchors.in());
  craft::farthest_point_anchors(ctx, x.in(), 5, 1, craft::metric::cosine);
  for (const reals& r : {dx.get(), da.get(), dsoft.get(), value.get(), dwx.get(), dwy.get(), log_scale.get()})
    if (!r.allFinite()) ++failures, std::printf("an output is not finite\n");
}

/// A loss on one stream, the same to the same places on a second one, which waits for the first; and a graph, replayed.
template <class D>
void streams(every_device_verb<D>& all) {
  const auto& loss = named(all, "info_nce, labels");
  cudaStream_t first, second;
  cudaEvent_t done;
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  cudaEventCreate(&done);
  cudaDeviceSynchronize();  // for the inputs, which are in the default stream
  {
    const craft::cuda on_first(first), on_second(second);
    loss.run(on_first);
    cudaEventRecord(done, first);
    cudaStreamWaitEvent(second, done);
    loss.run(on_second);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStreamBeginCapture(second, cudaStreamCaptureModeThreadLocal);
    loss.run(on_second);
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
    const craft::cuda ctx = D::make();  // small panels
    every_device_verb<D> all(n, m, c, d);
    run(ctx, all);
    run_others<D>(ctx, n, m, c, d);
    if (n % 2 == 0) streams(all);
  }
  for (const auto precision : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) {
    if (sizeof(S) == 8 && precision != craft::precision::strict) continue;
    craft::cuda ctx;
    ctx.blas_bytes(cuda_backend::little_for_blas).precision(precision);
    for (const index_t longest_fused : {128, 0}) {  // several blocks wide, and sums in several pieces
      ctx.fused(longest_fused);
      every_device_verb<D> wide(150, 141, 3, longest_fused > 0 ? 16 : 15);
      for (const char* name : {"mmd, bandwidth by mean", "info_nce, labels"}) named(wide, name).run(ctx);
      check_finite(wide, "several blocks");
    }
    every_device_verb<D> all(34, 22, 3, 9);
    run(ctx.fused(128).check_finite(true).check_labels(true), all);
  }
}

/// The names of the kernels and of the steps, folds and elements in them that stand in the sources, and were launched.
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
  const std::regex declaration(R"(\b([a-z_]+_kernel)\(|struct ([a-z_]+_(step|term|fold))\b|struct ([a-z_]+)(?: : [a-z_<>T]+)? \{\n(  static constexpr bool .*\n)?  static constexpr int totals)");
  bool all = true;
  std::size_t count = 0;
  for (int f = 0; f < folders; ++f)
    for (const auto& file : fs::directory_iterator(paths[f])) {
      if (!file.is_regular_file()) continue;
      std::ifstream in(file.path());
      const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
      for (std::sregex_iterator at(text.begin(), text.end(), declaration), end; at != end; ++at) {
        const std::string name = (*at)[1].matched ? (*at)[1] : (*at)[2].matched ? (*at)[2] : (*at)[4];
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
