// The runner on a CUDA device, or on its emulation (tests/emulated), for the bodies that the CPU runs too.
//
// Times are those of CUDA events, in a stream of our own, median of repetitions:
//
//     cold         one call, with the second-level cache full of other things, and each call with another set of inputs
//     warm         calls one after the other with the same inputs, so that small ones cost what launching them costs
//     graph        replays of one CUDA graph, captured from the call, one after the other
//     graph_cold   one replay as in `cold`
//
// Before every repetition the limits are measured in the same process: cuBLAS at the shapes of the engine's panels and
// with a large square, in the precision of the case; exponentials; copies.
#pragma once

#include <cmath>
#include <stdexcept>
#include <utility>

#include "bench.hpp"
#include "craft/cuda.cuh"
#include "gpu_kernels.hpp"

namespace craft_bench {

using craft::engine::cublas_check;
using craft::engine::cuda_check;

/// The stream that everything runs in: not the default one, which would wait for others.
inline cudaStream_t gpu_stream() {
  static const cudaStream_t stream = [] {
    cudaStream_t s = nullptr;
    cuda_check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return s;
  }();
  return stream;
}
inline void gpu_wait() { cuda_check(cudaStreamSynchronize(gpu_stream()), "cudaStreamSynchronize"); }
inline int gpu_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

struct gpu_backend {
  using context = craft::cuda;
  static constexpr craft::memory space = craft::memory::device;
  static const char* name() { return "cuda"; }
  static context make() { return craft::cuda(gpu_stream()); }
  static void* allocate(std::size_t bytes) {
    void* p = nullptr;
    cuda_check(cudaMalloc(&p, bytes), "cudaMalloc(", bytes, " bytes)");
    return p;
  }
  static void release(void* p) { cudaFree(p); }
  static void upload(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, gpu_stream()), "cudaMemcpyAsync");
    gpu_wait();
  }
  static void download(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, gpu_stream()), "cudaMemcpyAsync");
    gpu_wait();
  }
};
using gpu_float = device<gpu_backend, float>;
using gpu_double = device<gpu_backend, double>;
using gpu_bfloat16 = device<gpu_backend, __nv_bfloat16>;

/// Device memory that goes back by itself.
template <class S>
class gpu_memory {
 public:
  explicit gpu_memory(index_t count)
      : data_(static_cast<S*>(gpu_backend::allocate(std::size_t(std::max<index_t>(count, 1)) * sizeof(S)))),
        count_(count) {}
  gpu_memory(const gpu_memory&) = delete;
  gpu_memory& operator=(const gpu_memory&) = delete;
  ~gpu_memory() { gpu_backend::release(data_); }
  S* data() const { return data_; }
  /// Products of zeros and of equal numbers draw less power, and run faster, than those of anything real.
  gpu_memory& fill(std::uint64_t seed, double shift = 0) {
    fill_normal(data_, count_, seed, shift, gpu_stream());
    return *this;
  }

 private:
  S* data_;
  index_t count_;
};

template <class Q, class S>
class matrix_on<device<gpu_backend, Q>, S> {
 public:
  using D = device<gpu_backend, Q>;
  matrix_on(index_t rows, index_t cols) : memory_(rows * cols), rows_(rows), cols_(cols) {}
  matrix_on(index_t rows, index_t cols, std::uint64_t seed, double shift) : matrix_on(rows, cols) {
    memory_.fill(seed, shift);
  }
  explicit matrix_on(const reals& values) : matrix_on(values.rows(), values.cols()) {
    const matrix<S> host = values.template cast<S>();
    gpu_backend::upload(memory_.data(), host.data(), std::size_t(host.size()) * sizeof(S));
  }
  craft::matrix_view<const S, D::space> in() const { return {memory_.data(), rows_, cols_}; }
  craft::matrix_view<S, D::space> out() { return {memory_.data(), rows_, cols_}; }
  craft::scalar_out<S, D::space> as_value() { return craft::scalar_out<S, D::space>(memory_.data()); }

 private:
  gpu_memory<S> memory_;
  index_t rows_, cols_;
};

// ---- how long, and how often ----

/// What the whole program is told: long enough to be a measurement, or just that everything runs.
struct gpu_effort {
  double budget = 1.5;  ///< seconds that the repetitions of a case may take, limits included
  int least = 5, most = 15;
  double lasting = 0.005;  ///< seconds that short things are repeated for, in one measurement
  bool small = false;      ///< smallest sizes
};
inline gpu_effort& effort() {
  static gpu_effort e;
  return e;
}

/// Seconds of what f puts into the stream, from event to event.
class gpu_clock {
 public:
  gpu_clock() {
    cuda_check(cudaEventCreate(&begin_), "cudaEventCreate");
    cuda_check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  gpu_clock(const gpu_clock&) = delete;
  gpu_clock& operator=(const gpu_clock&) = delete;
  ~gpu_clock() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  template <class F>
  double operator()(const F& f) const {
    cuda_check(cudaEventRecord(begin_, gpu_stream()), "cudaEventRecord");
    f();
    cuda_check(cudaEventRecord(end_, gpu_stream()), "cudaEventRecord");
    cuda_check(cudaEventSynchronize(end_), "a kernel, or cudaEventSynchronize");
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return std::max(1e-9, double(milliseconds) * 1e-3);
  }
  /// Per call, of as many calls, one after the other, as the effort wants; `repeat` keeps their number, 0 at first.
  template <class F>
  double repeated(const F& f, int& repeat) const {
    if (repeat == 0) {
      f();
      repeat = int(std::min(2000.0, std::max(1.0, std::ceil(effort().lasting / (*this)(f)))));
    }
    return (*this)([&] {
             for (int r = 0; r < repeat; ++r) f();
           }) /
           repeat;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// ---- limits ----

/// Operands of a product as the tensor cores take them: those of bfloat16 cases are two bytes wide in memory, which is
/// the faster way to ask cuBLAS for them.
template <class T>
struct limits<gpu_backend, T> {
  limits(const craft::cuda& ctx, const arithmetic& a)
      : ctx_(ctx),
        a_(a),
        rows_(std::min(ctx.tile_rows(), a.n)),
        cols_(std::min(ctx.tile_columns(), a.m)),
        narrow_(sizeof(T) == 4 && ctx.precision() == craft::precision::bfloat16),
        square_(effort().small                                         ? 32
                : narrow_ || ctx.precision() == craft::precision::tf32 ? 8192
                                                                       : 4096),
        x_(rows_ * a.d),
        y_(cols_ * a.d),
        g_(rows_ * a.d),
        h_(cols_ * a.d),
        tile_(rows_ * cols_),
        weights_(rows_ * cols_),
        left_(square_ * square_),
        right_(square_ * square_),
        result_(square_ * square_),
        copied_(effort().small ? 1024 : index_t(1) << 28),
        copy_(copied_.size()) {
    x_.fill(1, narrow_), y_.fill(2, narrow_), weights_.fill(3, narrow_), left_.fill(4, narrow_),
        right_.fill(5, narrow_);
  }

  /// FLOP/s at the shapes of the engine's panels, as many products of each kind as the case has.
  double tiles() {
    const double unit = std::min(a_.dots > 0 ? a_.dots : a_.pulls, a_.pulls > 0 ? a_.pulls : a_.dots);
    const int dots = int(a_.dots / unit + 0.5), pulls = int(a_.pulls / unit + 0.5);
    const index_t d = a_.d;
    // cuBLAS counts columns first: each product is asked for transposed, as the engine does.
    const double took = clock_.repeated(
        [&] {
          for (int r = 0; r < dots; ++r)
            multiply(CUBLAS_OP_T, CUBLAS_OP_N, cols_, rows_, d, y_, d, x_, d, 0, tile_, cols_, false);
          for (int r = 0; r < pulls; ++r)
            if (r % 2 == 0)
              multiply(CUBLAS_OP_N, CUBLAS_OP_N, d, rows_, cols_, y_, d, weights_, cols_, 1, g_, d, false);
            else
              multiply(CUBLAS_OP_N, CUBLAS_OP_T, d, cols_, rows_, x_, d, weights_, cols_, 1, h_, d, false);
        },
        repeat_[0]);
    return 2.0 * double(rows_ * cols_ * d) * (dots + pulls) / took;
  }
  /// FLOP/s of a large square product.
  double large() {
    const index_t s = square_;
    const double took = clock_.repeated(
        [&] { multiply(CUBLAS_OP_N, CUBLAS_OP_T, s, s, s, left_, s, right_, s, 0, result_, s, narrow_); }, repeat_[1]);
    return 2.0 * double(s) * double(s) * double(s) / took;
  }
  double exponentials() {
    double count = 0;
    const double took = clock_.repeated(
        [&] {
          count = craft_bench::exponentials(static_cast<T*>(g_.wide()), ctx_.processors(), effort().small ? 2 : 2048,
                                            gpu_stream());
        },
        repeat_[2]);
    return count / took;
  }
  /// Bytes per second, those read and those written.
  double copies() {
    const double took = clock_.repeated(
        [&] {
          cuda_check(cudaMemcpyAsync(copy_.data(), copied_.data(), std::size_t(copied_.size()),
                                     cudaMemcpyDeviceToDevice, gpu_stream()),
                     "cudaMemcpyAsync");
        },
        repeat_[3]);
    return 2.0 * double(copied_.size()) / took;
  }

 private:
  // One matrix, as T and, where products take it so, as bfloat16.
  class operand {
   public:
    explicit operand(index_t count) : wide_(count), narrow_(sizeof(T) == 4 ? count : 1) {}
    void fill(std::uint64_t seed, bool narrow) {
      if (narrow)
        narrow_.fill(seed);
      else
        wide_.fill(seed);
    }
    void* wide() const { return wide_.data(); }
    void* data(bool narrow) const {
      return narrow ? static_cast<void*>(narrow_.data()) : static_cast<void*>(wide_.data());
    }

   private:
    gpu_memory<T> wide_;
    gpu_memory<__nv_bfloat16> narrow_;
  };
  class bytes {
   public:
    explicit bytes(index_t count) : memory_(count), count_(count) {
      cuda_check(cudaMemsetAsync(memory_.data(), 1, std::size_t(count), gpu_stream()), "cudaMemsetAsync");
    }
    unsigned char* data() const { return memory_.data(); }
    index_t size() const { return count_; }

   private:
    gpu_memory<unsigned char> memory_;
    index_t count_;
  };

  void multiply(cublasOperation_t op_a, cublasOperation_t op_b, index_t m, index_t n, index_t k, const operand& a,
                index_t lda, const operand& b, index_t ldb, int beta, const operand& c, index_t ldc,
                bool narrow_result) const {
    const T one(1), times(beta);
    const cudaDataType_t wide = sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F, in = narrow_ ? CUDA_R_16BF : wide;
    const bool tf32 = sizeof(T) == 4 && ctx_.precision() == craft::precision::tf32;
    const cublasComputeType_t compute = sizeof(T) == 8 ? CUBLAS_COMPUTE_64F
                                        : tf32         ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                       : CUBLAS_COMPUTE_32F;
    cublas_check(cublasGemmEx(ctx_.handle(), op_a, op_b, int(m), int(n), int(k), &one, a.data(narrow_), in, int(lda),
                              b.data(narrow_), in, int(ldb), &times, c.data(narrow_result),
                              narrow_result ? CUDA_R_16BF : wide, int(ldc), compute, CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx of the limits, ", m, " x ", n, " x ", k);
  }

  const craft::cuda& ctx_;
  arithmetic a_;
  index_t rows_, cols_;
  bool narrow_;
  index_t square_;
  operand x_, y_, g_, h_, tile_, weights_, left_, right_, result_;
  bytes copied_, copy_;
  gpu_clock clock_;
  int repeat_[4] = {};
};

// ---- the runner ----

enum class gpu_mode { cold, warm, graph, graph_cold };
inline const char* name_of(gpu_mode m) {
  constexpr const char* names[] = {"cold", "warm", "graph", "graph_cold"};
  return names[int(m)];
}
inline const char* name_of(craft::precision p) {
  constexpr const char* names[] = {"strict", "tf32", "bfloat16"};
  return names[int(p)];
}

template <class Q>
class run<device<gpu_backend, Q>> {
 public:
  using D = device<gpu_backend, Q>;
  craft::cuda ctx = D::make();

  struct how {
    craft::precision precision = craft::precision::strict;
    std::vector<gpu_mode> modes{gpu_mode::cold};
  };

  run(benchmark::State& state, craft::precision precision, gpu_mode mode) : state_(state), mode_(mode) {
    ctx.precision(precision);
  }

  /// Two where calls must not find their inputs again, unless that takes too much memory; those are larger than any
  /// cache.
  index_t sets(double bytes) {
    sets_ = (mode_ == gpu_mode::cold || mode_ == gpu_mode::graph_cold) && bytes < 4e9 ? 2 : 1;
    return sets_;
  }

  /// As on the CPU; besides, rates of the limits, and
  ///   of_bound           the larger of products alone (at the greater rate) and exponentials alone, over the time
  ///   of_bound_at_shape  the same with the rate at the panels' shape
  ///   of_copies          bytes that must be moved per second over the rate of copies, where a case says how many
  ///   extra_bytes        scratch memory that the context holds; used_bytes: what the call takes of it
  template <class Call>
  void operator()(const arithmetic& a, Call&& call) {
    const double began = now();
    call(index_t(0));  // takes its memory
    gpu_wait();
    if (now() - began < 0.5) call(index_t(0));
    gpu_wait();
    const graphs<std::remove_reference_t<Call>> runs(*this, call);
    limits<gpu_backend, typename D::compute> limit(ctx, a);
    gpu_memory<unsigned char> other(effort().small ? 1 : flushed());
    gpu_clock clock;
    const bool cold = mode_ == gpu_mode::cold || mode_ == gpu_mode::graph_cold;
    index_t set = 0;
    int repeat = 0;
    std::vector<double> took, tiles, large, exponentials, copies, of_tiles, of_large, fraction, of_bound,
        of_bound_at_shape, of_copies, overhead;
    const double start = now();
    for (auto _ : state_) {
      do {
        tiles.push_back(limit.tiles()), large.push_back(limit.large());
        exponentials.push_back(limit.exponentials()), copies.push_back(limit.copies());
        double t;
        if (cold) {
          // The call is put into the stream while the device still writes, so that the host's own time does not show.
          if (!effort().small)
            cuda_check(cudaMemsetAsync(other.data(), int(took.size()), std::size_t(flushed()), gpu_stream()),
                       "cudaMemsetAsync");
          t = clock([&] { runs(set); });
          set = (set + 1) % sets_;
        } else {
          t = clock.repeated([&] { runs(index_t(0)); }, repeat);
        }
        took.push_back(t);
        const double rate = a.flops / t, best = std::max(tiles.back(), large.back());
        const double exponentials_alone = a.exponentials / exponentials.back();
        of_tiles.push_back(rate / tiles.back());
        of_large.push_back(rate / large.back());
        fraction.push_back(rate / best);
        of_bound.push_back(std::max(a.flops / best, exponentials_alone) / t);
        of_bound_at_shape.push_back(std::max(a.flops / tiles.back(), exponentials_alone) / t);
        of_copies.push_back(a.bytes / t / copies.back());
        overhead.push_back(t - a.flops / tiles.back() - exponentials_alone);
      } while (int(took.size()) < effort().most &&
               (int(took.size()) < (took.back() > 0.5 ? std::min(2, effort().least) : effort().least) ||
                now() - start < effort().budget));
      state_.SetIterationTime(median(took));
    }
    auto& c = state_.counters;
    c["seconds"] = median(took);
    c["seconds_low"] = *std::min_element(took.begin(), took.end());
    c["seconds_high"] = *std::max_element(took.begin(), took.end());
    c["repetitions"] = double(took.size());
    c["flops"] = a.flops / median(took);
    c["work"] = a.flops;
    c["tiles_flops"] = median(tiles);
    c["large_flops"] = median(large);
    c["exponentials"] = median(exponentials);
    c["copy_bytes_per_second"] = median(copies);
    c["of_tiles"] = median(of_tiles);
    c["of_large"] = median(of_large);
    c["fraction"] = median(fraction);
    c["fraction_low"] = *std::min_element(fraction.begin(), fraction.end());
    c["fraction_high"] = *std::max_element(fraction.begin(), fraction.end());
    c["of_bound"] = median(of_bound);
    c["of_bound_at_shape"] = median(of_bound_at_shape);
    c["of_copies"] = median(of_copies);
    c["overhead"] = median(overhead);
    c["extra_bytes"] = double(ctx.scratch().bytes_held());
    c["used_bytes"] = double(ctx.scratch().bytes_used());
    c["tile_rows"] = double(ctx.tile_rows());
    c["tile_columns"] = double(ctx.tile_columns());
    c["case_seconds"] = now() - began;
  }

 private:
  /// More than the second-level cache holds, several times, since nobody says how it chooses what to drop.
  static index_t flushed() { return 4 * std::max<index_t>(gpu_attribute(cudaDevAttrL2CacheSize), index_t(1) << 20); }

  /// The call itself, or graphs of it, one for every set of inputs.
  template <class Call>
  class graphs {
   public:
    graphs(run& r, Call& call) : call_(call) {
      if (r.mode_ == gpu_mode::cold || r.mode_ == gpu_mode::warm) return;
      for (index_t set = 0; set < r.sets_; ++set) {
        cuda_check(cudaStreamBeginCapture(gpu_stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
        cudaGraph_t graph = nullptr;
        try {
          call(set);
        } catch (...) {
          cudaStreamEndCapture(gpu_stream(), &graph);
          throw;
        }
        cuda_check(cudaStreamEndCapture(gpu_stream(), &graph), "cudaStreamEndCapture");
        cudaGraphExec_t ready = nullptr;
        const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
        cudaGraphDestroy(graph);
        cuda_check(status, "cudaGraphInstantiate");
        ready_.push_back(ready);
        for (int warm_up = 0; warm_up < 2; ++warm_up) (*this)(set);
      }
      gpu_wait();
    }
    graphs(const graphs&) = delete;
    graphs& operator=(const graphs&) = delete;
    ~graphs() {
      for (const cudaGraphExec_t g : ready_) cudaGraphExecDestroy(g);
    }
    void operator()(index_t set) const {
      if (ready_.empty())
        call_(set);
      else
        cuda_check(cudaGraphLaunch(ready_[std::size_t(set)], gpu_stream()), "cudaGraphLaunch");
    }

   private:
    Call& call_;
    std::vector<cudaGraphExec_t> ready_;
  };

  benchmark::State& state_;
  gpu_mode mode_;
  index_t sets_ = 1;
};

template <class Q>
const char* name_of_scalar() {
  return std::is_same_v<Q, double> ? "double" : std::is_same_v<Q, float> ? "float" : "bfloat16";
}

/// One benchmark for each mode of the case. A failure is the case's, with its reason; the others go on.
template <class D, class Body, class = std::enable_if_t<std::is_same_v<typename D::backend, gpu_backend>>>
void add(const std::string& name, const typename run<D>::how& h, Body body) {
  for (const gpu_mode mode : h.modes) {
    const craft::precision precision = h.precision;
    benchmark::RegisterBenchmark(
        (name + "/" + name_of_scalar<typename D::scalar>() + "/" + name_of(precision) + "/" + name_of(mode)).c_str(),
        [=](benchmark::State& state) {
          try {
            run<D> r(state, precision, mode);
            body(r);
          } catch (const std::exception& e) {
            cudaGetLastError();
            state.SkipWithError(e.what());
          }
        })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

/// Sizes of a list: as they are, or hardly any of them.
class gpu_list {
 public:
  bool small() const { return effort().small; }
  index_t rows(index_t n) const { return small() ? std::min<index_t>(n, 33) : n; }
  index_t anchors(index_t c) const { return small() ? std::min<index_t>(c, 5) : c; }
  index_t columns(index_t d) const { return small() ? std::min<index_t>(d, 12) : d; }
};

/// Calls body(precision) for all three.
template <class Body>
void for_precisions(const Body& body) {
  for (const auto p : {craft::precision::strict, craft::precision::tf32, craft::precision::bfloat16}) body(p);
}

}  // namespace craft_bench
