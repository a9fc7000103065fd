// docs/embed/tiny_cuda_nn.md on the emulated device: the recipe as tiny-cuda-nn's trainer calls it.
#include "tiny_cuda_nn.hpp"

#include <Eigen/Core>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "../../catch.hpp"
#include "tiny-cuda-nn/common_device.h"
#include "tiny-cuda-nn/loss.h"

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr unsigned width = 5, padded = 16, batch = 24;
const double log_scale = std::log(8.0);

const matrix targets =
    matrix::NullaryExpr(batch, width, [](auto i, auto j) { return std::sin(float(2 * i) + 5.0f * float(j)); });
const matrix start =
    matrix::NullaryExpr(batch, width, [](auto i, auto j) { return std::cos(float(3 * i) - 4.0f * float(j)); });

/// One sample per column of the trainer's matrix; what pads it is not zero.
template <class T>
void set(tcnn::GPUMatrix<T>& m, const matrix& rows) {
  std::vector<T> host(m.n_elements(), T(9.0f));
  for (Eigen::Index i = 0; i < rows.rows(); ++i)
    for (Eigen::Index j = 0; j < rows.cols(); ++j) host[std::size_t(i * m.m() + j)] = T(rows(i, j));
  tcnn::check(cudaMemcpy(m.data(), host.data(), m.n_bytes(), cudaMemcpyHostToDevice));
}
template <class T>
matrix get(tcnn::GPUMatrix<T>& m) {
  const std::vector<T> host = m.to_cpu_vector();
  matrix out(m.n(), m.m());
  for (Eigen::Index k = 0; k < out.size(); ++k) out.data()[k] = float(host[std::size_t(k)]);
  return out;
}

/// What tiny-cuda-nn's Trainer does with a loss: it owns predictions, values and gradients, and captures its call in a
/// graph.
template <class T>
struct trainer {
  cudaStream_t stream = make_stream();
  tcnn::GPUMatrix<T> prediction{padded, batch}, gradients{padded, batch};
  tcnn::GPUMatrix<float> target{width, batch}, values{padded, batch};
  static constexpr float loss_scale = std::is_same_v<T, float> ? 1 : 128;

  trainer() {
    set(target, targets);
    set(prediction, start);
  }
  ~trainer() { cudaStreamDestroy(stream); }

  void step(const tcnn::Loss<T>& loss) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    tcnn::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    loss.evaluate(stream, loss_scale, prediction, target, values, gradients);
    tcnn::check(cudaStreamEndCapture(stream, &graph));
    tcnn::check(cudaGraphInstantiate(&executable, graph, 0));
    tcnn::check(cudaGraphLaunch(executable, stream));
    tcnn::check(cudaStreamSynchronize(stream));
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }

 private:
  static cudaStream_t make_stream() {
    cudaStream_t stream = nullptr;
    tcnn::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
};

/// The verb on the CPU.
float info_nce(const matrix& x, const matrix& y, matrix& gradient) {
  craft::contrastive_options options;
  options.log_scale = log_scale;
  float value;
  gradient.resize(x.rows(), x.cols());
  craft::info_nce(craft::cpu(1), x, y, options, value, {craft::overwrite(gradient)});
  return value;
}

template <class T>
matrix rounded(matrix x) {
  for (float& number : x.reshaped()) number = float(T(number));
  return x;
}

template <class T>
void check(float tolerance) {
  trainer<T> t;
  const contrastive_loss<T> loss(t.stream, width, padded, batch, log_scale);
  t.step(loss);

  matrix expected;
  const float value = info_nce(rounded<T>(start), rounded<T>(targets), expected);
  CHECK(get(t.values).sum() == Approx(value).epsilon(1e-5));  // what Trainer::loss reports
  const matrix gradient = get(t.gradients);
  CHECK((gradient.leftCols(width) / t.loss_scale - expected).norm() < tolerance * expected.norm());
  CHECK(gradient.rightCols(padded - width) == matrix::Zero(batch, padded - width));
}

}  // namespace

TEST_CASE("tiny-cuda-nn's loss in float", "[tiny_cuda_nn]") { check<float>(1e-5f); }
TEST_CASE("tiny-cuda-nn's loss in half precision", "[tiny_cuda_nn]") { check<__half>(1e-3f); }

TEST_CASE("predictions are trained on tiny-cuda-nn's loss", "[tiny_cuda_nn]") {
  trainer<float> t;
  contrastive_loss<float> loss(t.stream, width, padded, batch, 0);
  loss.update_hyperparams({{"log_scale", log_scale}});
  CHECK(loss.hyperparams().at("log_scale") == log_scale);
  matrix x = start;
  t.step(loss);
  const float before = get(t.values).sum();
  for (int step = 0; step < 30; ++step) {
    x -= 2 * get(t.gradients).leftCols(width);
    set(t.prediction, x);
    t.step(loss);
  }
  CHECK(get(t.values).sum() < 0.5f * before);
}

TEST_CASE("what tiny-cuda-nn's loss refuses", "[tiny_cuda_nn]") {
  trainer<float> t;
  const contrastive_loss<float> loss(t.stream, width, padded, batch, log_scale);
  tcnn::GPUMatrix<float> other(width, 2 * batch);
  const auto call = [&](cudaStream_t stream, const tcnn::GPUMatrix<float>& target, const tcnn::GPUMatrix<float>* pdf) {
    loss.evaluate(stream, 1, t.prediction, target, t.values, t.gradients, pdf);
  };
  CHECK_THROWS_WITH(call(nullptr, t.target, nullptr), contains("another stream"));
  CHECK_THROWS_WITH(call(t.stream, t.target, &t.target), contains("density"));
  CHECK_THROWS_WITH(call(t.stream, other, nullptr), contains("another size"));
  // No text of one kernel for a sample alone: the trainer then does without.
  CHECK_THROWS_AS(loss.generate_device_function("loss", width), std::runtime_error);
}
