// A stand-in for tiny-cuda-nn, which is not in the distribution: the names and signatures of its public headers (as of
// April 2026) that the recipe of docs/embed/tiny_cuda_nn.md uses, and nothing else of it.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace tcnn {

using json = nlohmann::json;

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Column-major, m x n: one sample per column.
template <class T>
class GPUMatrix {
 public:
  GPUMatrix(std::uint32_t m, std::uint32_t n) : m_(m), n_(n) { check(cudaMalloc(&data_, n_bytes())); }
  GPUMatrix(const GPUMatrix&) = delete;
  GPUMatrix& operator=(const GPUMatrix&) = delete;
  ~GPUMatrix() { cudaFree(data_); }

  T* data() const { return data_; }
  std::uint32_t m() const { return m_; }
  std::uint32_t n() const { return n_; }
  std::uint32_t stride() const { return m_; }
  std::uint32_t n_elements() const { return m_ * n_; }
  std::size_t n_bytes() const { return n_elements() * sizeof(T); }
  void memset_async(cudaStream_t stream, int value) { check(cudaMemsetAsync(data_, value, n_bytes(), stream)); }
  std::vector<T> to_cpu_vector() {
    std::vector<T> out(n_elements());
    check(cudaMemcpy(out.data(), data_, n_bytes(), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  std::uint32_t m_, n_;
  T* data_ = nullptr;
};

template <class K, class N, class... Types>
void linear_kernel(K kernel, std::uint32_t shmem_size, cudaStream_t stream, N n_elements, Types... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(n_elements + 127) / 128);
  config.blockDim = dim3(128);
  config.dynamicSmemBytes = shmem_size;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::uint32_t(n_elements), args...));
}

class Object {
 public:
  virtual ~Object() = default;
  virtual json hyperparams() const = 0;
};

class ObjectWithMutableHyperparams : public Object {
 public:
  virtual void update_hyperparams(const json& params) = 0;
};

template <class T>
class Loss : public ObjectWithMutableHyperparams {
 public:
  virtual void evaluate(cudaStream_t stream, const float loss_scale, const GPUMatrix<T>& prediction,
                        const GPUMatrix<float>& target, GPUMatrix<float>& values, GPUMatrix<T>& gradients,
                        const GPUMatrix<float>* data_pdf = nullptr) const = 0;
  virtual std::string generate_device_function(const std::string& name, std::uint32_t) const {
    throw std::runtime_error(name + ": device code generation is not supported.");
  }
};

}  // namespace tcnn
