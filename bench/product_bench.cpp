// The three products of a tile, ours beside those of others: Eigen's, and whatever shared libraries CRAFT_BENCH_BLAS names
// (paths separated by colons; each must have cblas_sgemm, or dnnl_sgemm of oneDNN). This is what the engine's choice rests on.
#include <dlfcn.h>

#include <cstdlib>
#include <sstream>

#include "bench.hpp"

namespace craft_bench {
namespace {

using T = float;

/// A tile's operands: x, y and their gradients n x d, weights n x n.
struct operands {
  index_t n, d;
  matrix<T> x, y, gx, gy, w;
  operands(index_t n_, index_t d_)
      : n(n_), d(d_), x(matrix<T>::Constant(n, d, T(0.5))), y(x), gx(x), gy(x),
        w(matrix<T>::Zero(n, craft::engine::product<T>::padded(n))) {}
};
using three_products = std::function<void(operands&)>;

three_products ours() {
  auto memory = std::make_shared<craft::workspace>();
  return [memory](operands& o) {
    craft::workspace::frame frame(*memory);
    craft::engine::product<T> p(frame.take<T>(craft::engine::product<T>::scratch_size(o.n, o.n, o.d)));
    const index_t n = o.n, d = o.d, ld = o.w.cols();
    p.dots(o.x.data(), d, o.y.data(), d, o.w.data(), ld, n, n, d);
    p.add(o.w.data(), ld, o.y.data(), d, o.gx.data(), d, n, d, n);
    p.add_transposed(o.w.data(), ld, o.x.data(), d, o.gy.data(), d, n, d, n);
  };
}

three_products of_eigen() {
  return [](operands& o) {
    auto w = o.w.leftCols(o.n);
    w.noalias() = o.x * o.y.transpose();
    o.gx.noalias() += w * o.y;
    o.gy.noalias() += w.transpose() * o.x;
  };
}

/// Of a library opened by path; empty if it has no product.
three_products of_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {};
  using cblas = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
  using dnnl = int (*)(char, char, std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                       const float*, std::int64_t, float, float*, std::int64_t);
  for (const char* name : {"cblas_sgemm", "scipy_cblas_sgemm"})
    if (const auto f = reinterpret_cast<cblas>(dlsym(library, name)))
      return [f](operands& o) {
        const int row_major = 101, plain = 111, transposed = 112;
        const int n = int(o.n), d = int(o.d), ld = int(o.w.cols());
        f(row_major, plain, transposed, n, n, d, 1, o.x.data(), d, o.y.data(), d, 0, o.w.data(), ld);
        f(row_major, plain, plain, n, d, n, 1, o.w.data(), ld, o.y.data(), d, 1, o.gx.data(), d);
        f(row_major, transposed, plain, n, d, n, 1, o.w.data(), ld, o.x.data(), d, 1, o.gy.data(), d);
      };
  if (const auto f = reinterpret_cast<dnnl>(dlsym(library, "dnnl_sgemm")))
    return [f](operands& o) {
      const index_t n = o.n, d = o.d, ld = o.w.cols();
      f('N', 'T', n, n, d, 1, o.x.data(), d, o.y.data(), d, 0, o.w.data(), ld);
      f('N', 'N', n, d, n, 1, o.w.data(), ld, o.y.data(), d, 1, o.gx.data(), d);
      f('T', 'N', n, d, n, 1, o.w.data(), ld, o.x.data(), d, 1, o.gy.data(), d);
    };
  return {};
}

void add_case(const std::string& whose, index_t n, index_t d, const three_products& products) {
  benchmark::RegisterBenchmark(("product/" + whose + "/n:" + std::to_string(n) + "/d:" + std::to_string(d) + "/float").c_str(),
                               [=](benchmark::State& state) {
                                 operands o(n, d);
                                 std::vector<double> took;
                                 for (auto _ : state) {
                                   took.push_back(seconds([&] { products(o); }, 0.02));
                                   state.SetIterationTime(took.back());
                                 }
                                 state.counters["seconds"] = median(took);
                                 state.counters["flops"] = 6.0 * double(n) * double(n) * double(d) / median(took);
                               })
      ->Iterations(7)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

void add_product() {
  std::vector<std::pair<std::string, three_products>> all{{"craft", ours()}, {"Eigen", of_eigen()}};
  const char* paths = std::getenv("CRAFT_BENCH_BLAS");
  std::istringstream list(paths ? paths : "");
  for (std::string path; std::getline(list, path, ':');)
    if (const auto products = of_library(path))
      all.emplace_back(path.substr(path.rfind('/') + 1), products);
    else
      std::fprintf(stderr, "no product in %s\n", path.c_str());
  for (const index_t n : {32, 128, 256, 1024})
    for (const index_t d : {16, 64, 512})
      for (const auto& [whose, products] : all) add_case(whose, n, d, products);
}

}  // namespace craft_bench
