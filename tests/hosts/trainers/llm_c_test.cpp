// docs/embed/llm_c.md: the functions for train_gpt2.c, and those for train_gpt2.cu on the emulated device.
#include "llm_c.hpp"

#include <cuda_bf16.h>
#include <sys/wait.h>
#include <unistd.h>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "../../catch.hpp"
#include "llm_c_cuda.hpp"

namespace {

constexpr int B = 12, C = 6;
std::vector<float> numbers(float frequency) {
  std::vector<float> out(B * C);
  for (std::size_t k = 0; k < out.size(); ++k) out[k] = std::sin(frequency * float(k));
  return out;
}
const std::vector<float> x = numbers(1.3f), y = numbers(2.7f);

/// The loss in double, by the sums of its definition.
double info_nce(const std::vector<float>& a, const std::vector<float>& b) {
  using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto rows = [](const std::vector<float>& v) {
    return matrix(
        Eigen::Map<const Eigen::Matrix<float, B, C, Eigen::RowMajor>>(v.data()).cast<double>().rowwise().normalized());
  };
  const matrix e = (20 * rows(a) * rows(b).transpose()).array().exp();
  return -0.5 * ((e.diagonal().array() / e.rowwise().sum().array()).log().mean() +
                 (e.diagonal().array() / e.colwise().sum().transpose().array()).log().mean());
}
/// Central differences by the first argument.
std::vector<double> slopes(std::vector<float> a, const std::vector<float>& b) {
  std::vector<double> out;
  for (float& number : a) {
    const float at = number, h = 1.0f / 512;
    number = at + h;
    const double above = info_nce(a, b), up = number;
    number = at - h;
    out.push_back((above - info_nce(a, b)) / (up - number));
    number = at;
  }
  return out;
}
double norm(const std::vector<double>& v) {
  return Eigen::Map<const Eigen::VectorXd>(v.data(), Eigen::Index(v.size())).norm();
}

/// Device memory with numbers of the host's.
template <class T>
struct on_device {
  T* data = nullptr;
  std::size_t count;
  explicit on_device(const std::vector<float>& values) : count(values.size()) {
    const std::vector<T> host(values.begin(), values.end());
    craft::engine::cuda_check(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc");
    craft::engine::cuda_check(cudaMemcpy(data, host.data(), count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  on_device(const on_device&) = delete;
  ~on_device() { cudaFree(data); }
  std::vector<float> get() const {
    std::vector<T> host(count);
    craft::engine::cuda_check(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return {host.begin(), host.end()};
  }
};

template <class Type>
void check_fused(double tolerance) {
  const craft::cuda ctx;
  on_device<Type> in(x), other(y), scratch(std::vector<float>(B * C));
  on_device<float> losses({-1});
  const std::vector<float> rounded_x = in.get(), rounded_y = other.get();
  fused_contrastive(ctx, in.data, losses.data, scratch.data, 0.5f, other.data, B, C);
  CHECK(losses.get()[0] == Approx(info_nce(rounded_x, rounded_y)).epsilon(1e-4));
  std::vector<double> expected = slopes(rounded_x, rounded_y), difference;
  const std::vector<float> dx = in.get();
  for (std::size_t k = 0; k < dx.size(); ++k) difference.push_back(double(dx[k]) - 0.5 * expected[k]);
  CHECK(norm(difference) < tolerance * norm(expected));
}

}  // namespace

TEST_CASE("llm.c's forward and backward", "[llm_c]") {
  float loss = 0;
  contrastive_forward(&loss, x.data(), y.data(), B, C);
  CHECK(loss == Approx(info_nce(x, y)).epsilon(1e-5));

  std::vector<float> dx(B * C, 1), dy(B * C, 2);  // added to
  const float dloss = 0.25f;
  contrastive_backward(dx.data(), dy.data(), &dloss, x.data(), y.data(), B, C);
  const std::vector<double> by_x = slopes(x, y), by_y = slopes(y, x);  // the loss is symmetric
  std::vector<double> difference;
  for (std::size_t k = 0; k < dx.size(); ++k) difference.push_back(dx[k] - 1 - 0.25 * by_x[k]);
  for (std::size_t k = 0; k < dy.size(); ++k) difference.push_back(dy[k] - 2 - 0.25 * by_y[k]);
  CHECK(norm(difference) < 1e-3 * norm(by_x));
}

TEST_CASE("llm.c's trainer steps down", "[llm_c]") {
  std::vector<float> a = x;
  float first = 0, last = 0;
  contrastive_forward(&first, a.data(), y.data(), B, C);
  for (int step = 0; step < 50; ++step) {
    std::vector<float> da(B * C, 0), db(B * C, 0);
    const float dloss = 1;
    contrastive_backward(da.data(), db.data(), &dloss, a.data(), y.data(), B, C);
    for (std::size_t k = 0; k < a.size(); ++k) a[k] -= 0.2f * da[k];
  }
  contrastive_forward(&last, a.data(), y.data(), B, C);
  CHECK(last < 0.2f * first);
}

TEST_CASE("an error ends the program, as in llm.c", "[llm_c]") {
  const pid_t child = fork();
  if (child == 0) {
    float loss;
    if (freopen("/dev/null", "w", stderr) == nullptr) _exit(2);
    std::set_terminate([] { _exit(3); });
    contrastive_forward(&loss, x.data(), y.data(), B, -1);
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == EXIT_FAILURE);
}

TEST_CASE("llm.c's fused function, in float", "[llm_c]") { check_fused<float>(1e-3); }
TEST_CASE("llm.c's fused function, in bfloat16", "[llm_c]") { check_fused<__nv_bfloat16>(5e-3); }
