// What every benchmark shares: a case measured beside the machine's own limits, in turn, in one process.
//
// Speed is quoted as a fraction of what the same arithmetic costs by itself: the matrix products at the tile's own shape with
// everything in cache, and one vectorised exponential per kernel evaluation. Both are measured next to every run of the
// case, because clocks and neighbours change while a benchmark runs; what is printed is the median of the ratios.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "craft/craft.hpp"
#include "devices.hpp"  // the tests' list of devices and their arrays

namespace craft_bench {

using namespace craft_test;

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}
/// Seconds per call of f, called often enough to last `least` seconds.
template <class F>
double seconds(F&& f, double least) {
  for (index_t repeat = 1;;) {
    const double start = now();
    for (index_t r = 0; r < repeat; ++r) f();
    const double took = now() - start;
    if (took >= least) return took / double(repeat);
    repeat = took <= least / 100 ? repeat * 10 : index_t(double(repeat) * 1.2 * least / took) + 1;
  }
}

/// Arithmetic that a case cannot do without.
struct arithmetic {
  double flops = 0;         ///< of its matrix products, two per multiply-add
  double exponentials = 0;  ///< one per kernel evaluation or logit
  index_t n = 0, m = 0, d = 0;  ///< extents of the products, which the engine cuts into tiles
  double dots = 1, pulls = 2;   ///< how many products of each kind: X Y', and weights times rows
  double bytes = 0;             ///< to be moved, where that is what limits a case
};

/// A matrix in the memory of D: not filled with anything in particular, with normal numbers, or with numbers of the
/// host's. A device that fills its own memory faster than the host could send it specialises this.
template <class D, class S = typename D::scalar>
struct matrix_on : array<D, S> {
  matrix_on(index_t rows, index_t cols) : array<D, S>(rows, cols) {}
  matrix_on(index_t rows, index_t cols, std::uint64_t seed, double shift)
      : array<D, S>(random_reals(rows, cols, seed, shift)) {}
  explicit matrix_on(const reals& values) : array<D, S>(values) {}
};

/// The same matrix of inputs several times: a case may go from set to set, so that no call finds its own inputs in a
/// cache.
template <class D>
class inputs {
 public:
  inputs(index_t sets, index_t rows, index_t cols, std::uint64_t seed, double shift = 0) {
    for (index_t set = 0; set < sets; ++set)
      all_.push_back(std::make_unique<matrix_on<D>>(rows, cols, seed + 100 * std::uint64_t(set), shift));
  }
  inputs(index_t sets, const reals& values) {
    for (index_t set = 0; set < sets; ++set) all_.push_back(std::make_unique<matrix_on<D>>(values));
  }
  auto operator[](index_t set) const { return std::as_const(*all_[std::size_t(set)]).in(); }

 private:
  std::vector<std::unique_ptr<matrix_on<D>>> all_;
};
template <class D>
using outputs = matrix_on<D>;
/// Of the computing type: values and gradients of parameters.
template <class D>
using results = matrix_on<D, typename D::compute>;

/// The limits of a device. A new device specialises this.
template <class Backend, class T>
struct limits;

template <class T>
struct limits<cpu_backend, T> {
  limits(const craft::cpu& ctx, const arithmetic& a) : ctx_(ctx), a_(a) {
    const index_t tile = craft::engine::cpu_engine(ctx).template tile_rows<T>();
    rows_ = craft::engine::blocks(a.n, tile).size();
    cols_ = craft::engine::blocks(a.m, tile).size();
    const index_t s = square;
    for (int t = 0; t < ctx.threads(); ++t) slots_.push_back(std::make_unique<slot>(rows_, cols_, a.d));
    left_ = right_ = result_ = matrix<T>::Constant(s, s, T(0.5));
  }
  static constexpr index_t square = 1024;

  /// FLOP/s of the engine's products at its own tile shape, operands in cache, on all threads at once.
  double tiles() {
    const index_t d = a_.d;
    // As many of each kind as the case has, in small numbers.
    const double unit = std::min(a_.dots > 0 ? a_.dots : a_.pulls, a_.pulls > 0 ? a_.pulls : a_.dots);
    const int dots = int(a_.dots / unit + 0.5), pulls = int(a_.pulls / unit + 0.5);
    const double took = seconds(
        [&] {
          ctx_.run_slots(ctx_.threads(), [&](index_t k) {
            slot& s = *slots_[k];
            for (int r = 0; r < dots; ++r)
              s.products.dots(s.x.data(), d, s.y.data(), d, s.tile.data(), s.tile.cols(), rows_, cols_, d);
            for (int r = 0; r < pulls; ++r)
              if (r % 2 == 0)
                s.products.add(s.tile.data(), s.tile.cols(), s.y.data(), d, s.g.data(), d, rows_, d, cols_);
              else
                s.products.add_transposed(s.tile.data(), s.tile.cols(), s.x.data(), d, s.h.data(), d, cols_, d, rows_);
          });
        },
        0.01);
    return 2.0 * double(rows_ * cols_ * d) * (dots + pulls) * ctx_.threads() / took;
  }
  /// FLOP/s of one large square product of Eigen's, on as many threads.
  double large() {
    Eigen::setNbThreads(ctx_.threads());
    const double took = seconds([&] { result_.noalias() = left_ * right_; }, 0.01);
    Eigen::setNbThreads(1);
    return 2.0 * double(square) * double(square) * double(square) / took;
  }
  /// Exponentials per second, in registers and first-level cache, on all threads at once.
  double exponentials() {
    const double took = seconds(
        [&] {
          ctx_.run_slots(ctx_.threads(), [&](index_t k) {
            T* p = slots_[k]->exps;
            using V = craft::engine::pack<T>;
            for (index_t j = 0; j < slot::count; j += V::width) (-V::load(p + j)).exp().store(p + j);
          });
        },
        0.003);
    return double(slot::count) * ctx_.threads() / took;
  }

 private:
  struct slot {
    static constexpr index_t count = 4096;
    slot(index_t rows, index_t cols, index_t d)
        : x(matrix<T>::Constant(rows, d, T(0.5))), y(matrix<T>::Constant(cols, d, T(0.25))), g(x), h(y),
          tile(matrix<T>::Zero(rows, craft::engine::product<T>::padded(cols))), memory(std::make_unique<craft::workspace>()), frame(*memory),
          products(frame.take<T>(craft::engine::product<T>::scratch_size(rows, cols, d))),
          exps(frame.take<T>(count)) {
      std::fill_n(exps, count, T(0.5));
    }
    matrix<T> x, y, g, h, tile;
    std::unique_ptr<craft::workspace> memory;
    craft::workspace::frame frame;
    craft::engine::product<T> products;
    T* exps;
  };
  const craft::cpu& ctx_;
  arithmetic a_;
  index_t rows_, cols_;
  std::vector<std::unique_ptr<slot>> slots_;
  matrix<T> left_, right_, result_;
};

/// The context of a case, with what it measures. A new device specialises this, with a `how` of its own.
template <class D>
class run {
 public:
  typename D::context ctx = D::make();

  /// How a case is measured on this device: the end of its name.
  struct how {
    int threads, iterations;
  };

  run(benchmark::State& state, const how& h) : state_(state) { ctx.threads(h.threads); }

  /// How many sets of inputs of so many bytes are wanted: calls here are long, and their inputs small beside scratch
  /// memory.
  index_t sets(double) const { return 1; }

  /// Runs `call(set of inputs)` and the limits in turn and sets the counters:
  ///   seconds              median time of a call
  ///   flops                useful operations per second
  ///   of_tiles, of_large   the same as a fraction of the rate at the tile's shape, and of a large square product
  ///   fraction             of the greater of the two: the one to quote
  ///   of_larger            time over the larger of: products alone, exponentials alone
  ///   overhead             time minus products and exponentials alone, in seconds
  ///   extra_bytes          memory beyond inputs and outputs
  template <class Call>
  void operator()(const arithmetic& a, Call&& call) {
    call(index_t(0));  // takes its memory
    limits<typename D::backend, typename D::compute> limit(ctx, a);
    std::vector<double> took, of_tiles, of_large, fraction, of_larger, overhead;
    for (auto _ : state_) {
      const double tiles = limit.tiles(), large = limit.large(), exponentials = limit.exponentials();
      const double t = seconds([&] { call(index_t(0)); }, 0.02);
      state_.SetIterationTime(t);
      const double rate = a.flops / t, products_alone = a.flops / tiles, exponentials_alone = a.exponentials / exponentials;
      took.push_back(t);
      of_tiles.push_back(rate / tiles);
      of_large.push_back(rate / large);
      fraction.push_back(rate / std::max(tiles, large));
      of_larger.push_back(t / std::max(products_alone, exponentials_alone));
      overhead.push_back(t - products_alone - exponentials_alone);
    }
    state_.counters["seconds"] = median(took);
    state_.counters["flops"] = a.flops / median(took);
    state_.counters["of_tiles"] = median(of_tiles);
    state_.counters["of_large"] = median(of_large);
    state_.counters["fraction"] = median(fraction);
    state_.counters["fraction_low"] = *std::min_element(fraction.begin(), fraction.end());
    state_.counters["fraction_high"] = *std::max_element(fraction.begin(), fraction.end());
    state_.counters["of_larger"] = median(of_larger);
    state_.counters["overhead"] = median(overhead);
    state_.counters["extra_bytes"] = double(ctx.scratch().bytes_used());
  }

 private:
  benchmark::State& state_;
};

template <class D>
using how = typename run<D>::how;

/// Registers a case. Name: header/what/scalar/n/m/d and so on, in the order given, then how it is measured.
template <class D, class Body, std::enable_if_t<std::is_same_v<typename D::backend, cpu_backend>, int> = 0>
void add(const std::string& name, const how<D>& h, Body body) {
  const std::string scalar = sizeof(typename D::scalar) == 4 ? "float" : "double";
  benchmark::RegisterBenchmark((name + "/" + scalar + "/threads:" + std::to_string(h.threads)).c_str(),
                               [=](benchmark::State& state) {
                                 run<D> r(state, h);
                                 body(r);
                               })
      ->Iterations(h.iterations)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}
inline std::string sizes(index_t n, index_t m, index_t d) {
  return "/n:" + std::to_string(n) + "/m:" + std::to_string(m) + "/d:" + std::to_string(d);
}

using cpu_float = device<cpu_backend, float>;
using cpu_double = device<cpu_backend, double>;

}  // namespace craft_bench

#ifdef CRAFT_BENCH_CUDA
#include "gpu.hpp"
#endif

namespace craft_bench {

/// Every file's cases, the bodies of which are the same on all devices; lists of sizes differ.
#ifdef CRAFT_BENCH_CUDA
void add_mmd(const gpu_list& list);
void add_alignment(const gpu_list& list);
void add_relative(const gpu_list& list);
void add_anchors(const gpu_list& list);
void add_objective(const gpu_list& list);
#else
/// `threads` is 1, and then as many as the machine has.
void add_mmd(int threads);
void add_alignment(int threads);
void add_relative(int threads);
void add_anchors(int threads);
void add_objective(int threads);
/// The products of a tile, ours and others'; one thread.
void add_product();
#endif

}  // namespace craft_bench
