// A program that is compiled without nvcc and has the verbs for hosts that learn types when they run: all that they ask of
// craft::cuda_library, for every type and every kernel, must be in it to link. Without a GPU it says so and ends with 2.
#include <cstdio>
#include <string>

#include "craft/adapters/runtime_bodies.hpp"

namespace {

namespace rt = craft::runtime;

constexpr craft::index_t n = 12, d = 4;

/// Device memory for n x d numbers of the widest type, all zero.
class memory {
 public:
  memory() {
    craft::engine::cuda_check(cudaMalloc(&data_, bytes), "cudaMalloc");
    craft::engine::cuda_check(cudaMemset(data_, 0, bytes), "cudaMemset");
  }
  ~memory() { cudaFree(data_); }
  memory(const memory&) = delete;
  memory& operator=(const memory&) = delete;
  rt::matrix in(rt::dtype type) const { return {data_, n, d, d, type, craft::memory::device}; }
  rt::place out(rt::dtype type) const {
    return {data_, n, d, d, rt::computing(type), craft::memory::device, craft::write::overwrite};
  }
  void* data() const { return data_; }

 private:
  static constexpr std::size_t bytes = n * d * sizeof(double);
  void* data_ = nullptr;
};

}  // namespace

int main() {
  try {
    const craft::any_device device = craft::any_device::named("cuda");
    const memory x, y, dx, value;
    for (const char* name : {"float64", "float32", "float16", "bfloat16"}) {
      const rt::dtype type = rt::dtype_named(name);
      for (const char* kernel : {"gaussian", "laplacian", "rational_quadratic", "cosine"}) {
        rt::call call("mmd");
        call.give("x", x.in(type));
        call.give("y", y.in(type));
        call.give("kernel", kernel);
        if (kernel == std::string("rational_quadratic")) call.give("shape", 1.0);
        call.result("value", {value.data(), 1, 1, 1, rt::computing(type), craft::memory::device});
        call.gradient("x", dx.out(type));
        call.run(device);
      }
    }
    std::puts("every type ran");
    return 0;
  } catch (const craft::device_error& e) {
    std::puts(e.what());
    return 2;
  }
}
