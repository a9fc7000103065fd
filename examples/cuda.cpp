// Craft on a GPU in one page: the losses and gradients of a training step, captured in a CUDA graph and replayed on new
// batches. Compiled by g++ or clang++ and linked with craft_cuda; nothing here needs nvcc.
#include <craft/cuda.hpp>
#include <craft/craft.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr craft::index_t n = 64, m = 80, d = 32;

void check(cudaError_t status) { craft::engine::cuda_check(status, "quickstart"); }

// Features of a batch, on the GPU.
struct features {
  float* data = nullptr;
  craft::index_t rows;
  explicit features(craft::index_t rows_) : rows(rows_) {
    check(cudaMalloc(reinterpret_cast<void**>(&data), std::size_t(rows * d) * sizeof(float)));
  }
  features(const features&) = delete;
  features& operator=(const features&) = delete;
  ~features() { cudaFree(data); }
  // Stand-ins for what encoders give.
  void fill(int batch, float shift) {
    std::vector<float> host(std::size_t(rows * d));
    for (std::size_t k = 0; k < host.size(); ++k) host[k] = std::sin(float(k + 1) * (1 + 0.1f * float(batch))) + shift;
    check(cudaMemcpy(data, host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice));
  }
  craft::matrix_view<float, craft::memory::device> view() const { return {data, rows, d}; }
};

void run() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  {
    const craft::cuda ctx(stream);
    features images(n), texts(n), target(m), d_images(n);
    float* values = nullptr;
    check(cudaMalloc(reinterpret_cast<void**>(&values), 2 * sizeof(float)));
    const auto value = [&](int k) { return craft::scalar_out<float, craft::memory::device>(values + k); };

    craft::contrastive_options alignment;
    alignment.log_scale = std::log(10.0);
    craft::mmd_options discrepancy;
    discrepancy.bandwidth.rule = craft::bandwidth_rule::median;
    const craft::gaussians<> kernel{0.5, 1.0, 2.0};
    const auto step = [&](const craft::cuda& c) {
      craft::alignment_gradients<float, craft::memory::device> by_alignment;
      by_alignment.x = craft::overwrite(d_images.view());
      craft::info_nce(c, images.view(), texts.view(), alignment, value(0), by_alignment);
      craft::mmd_gradients<float, craft::memory::device> by_mmd;
      by_mmd.x = craft::accumulate(d_images.view());
      craft::mmd(c, images.view(), target.view(), kernel, discrepancy, value(1), by_mmd);
    };

    // Scratch memory cannot grow during capture.
    ctx.scratch().reserve(ctx.workspace_bytes(step));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    step(ctx);
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&replay, graph, 0));

    std::puts("batch  alignment     MMD^2");
    for (int batch = 0; batch < 5; ++batch) {
      images.fill(batch, 0);
      texts.fill(batch + 1, 0.1f);
      target.fill(batch, 0.5f);
      check(cudaGraphLaunch(replay, stream));  // your optimiser, in the same stream, goes behind it
      check(cudaStreamSynchronize(stream));
      float host[2];
      check(cudaMemcpy(host, values, sizeof host, cudaMemcpyDeviceToHost));
      std::printf("%5d  %9.4f  %8.4f\n", batch, double(host[0]), double(host[1]));
    }
    check(cudaGraphExecDestroy(replay));
    check(cudaGraphDestroy(graph));
    check(cudaFree(values));
  }
  check(cudaStreamDestroy(stream));
}

}  // namespace

int main() {
  try {
    run();
  } catch (const craft::error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
