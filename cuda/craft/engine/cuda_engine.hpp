// The CUDA engine, as verbs see it: the members of cpu_engine, on device memory, in the order of the context's stream.
// Declarations only; the bodies are in the .cuh files of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "craft/cuda.hpp"
#include "craft/engine/element.hpp"
#include "craft/engine/product.cuh"

namespace craft::engine {

template <class T>
struct sight;
template <class T>
struct panel;
template <class T>
struct panel_sweep;
template <class T>
struct panel_pullback;
template <class T>
struct fused_sweep;

/// Rows as products take them.
template <class T>
struct factors {
  factor<T> x, y;
};

class cuda_engine : public scratch {
 public:
  explicit cuda_engine(const cuda& ctx) : scratch(ctx.scratch()), ctx_(ctx), current_(ctx), nested_(ctx) {
    if (nested_.outermost() && !rehearses() && is_capturing()) ctx.scratch().pin();
    if (nested_.outermost() && ctx.blas_bytes() > 0) blas_memory_ = take<std::byte>(index_t(ctx.blas_bytes()));
    product_.begin(ctx, blas_memory_, nested_.outermost());
  }
  cuda_engine(const cuda_engine&) = delete;
  cuda_engine& operator=(const cuda_engine&) = delete;

  const cuda& context() const { return ctx_; }

  /// A copy on the host, which lasts as long as the engine. Waits for the stream.
  template <class T>
  T* on_host(T* p, index_t n) {
    void* host = copy_to_host(p, std::size_t(n) * sizeof(T));
    return static_cast<T*>(host);
  }
  template <class T>
  void from_host(const T* host, index_t n, T* p) {
    copy_from_host(host, std::size_t(n) * sizeof(T), p);
  }

  // ---- memory
  template <class T>
  T* zeros(index_t n) {
    T* p = take<T>(n);
    clear(p, std::size_t(n) * sizeof(T));
    return p;
  }
  // ---- steps and folds. What is not inline is compiled once, by nvcc, and can be linked by others (craft_cuda.cu).
  template <class Step>
  [[gnu::noinline]] void each(index_t count, const Step& step) const;
  template <class Step>
  [[gnu::noinline]] void each_row(index_t n, index_t d, const Step& step) const;
  template <class Step>
  [[gnu::noinline]] void each_group(const index_t* index, index_t n, index_t k, index_t d, const Step& step);
  template <class Fold>
  [[gnu::noinline]] void fold(index_t n, const Fold& f);
  template <class Fold>
  [[gnu::noinline]] void fold_rows(index_t n, index_t d, const Fold& f);
  template <class Fold>
  [[gnu::noinline]] void fold_columns(index_t n, index_t d, const Fold& f);
  /// Of rows as products take them.
  template <class T>
  [[gnu::noinline]] void square_norms(const rows<T>& x) const;

  // ---- the verbs over all pairs
  template <class T, class Element>
  [[gnu::noinline]] void square(const square_sweep<T>& told, const Element& element);
  template <class T, class Element>
  [[gnu::noinline]] void rectangle(const rectangle_sweep<T>& told, const Element& element);
  template <class T>
  [[gnu::noinline]] T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                                   bool by_column, bool again);
  static constexpr bool products_depend_on_place = true;  ///< cuBLAS promises no order of its sums
  template <class T>
  [[gnu::noinline]] void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance);
  template <class T>
  [[gnu::noinline]] void distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out);

 private:
  // Counts open engines, so that the outermost one sets cuBLAS up.
  class nesting {
   public:
    explicit nesting(const cuda& ctx) : ctx_(ctx) { ++ctx_.depth(); }
    nesting(const nesting&) = delete;
    nesting& operator=(const nesting&) = delete;
    ~nesting() { --ctx_.depth(); }
    bool outermost() const { return ctx_.depth() == 1; }

   private:
    const cuda& ctx_;
  };

  // Makes the context's device current while the engine is open.
  class current {
   public:
    explicit current(const cuda& ctx) {
      if (ctx.rehearses()) return;
      device_.emplace(ctx.device());
      cuda_check(device_->status(), "cuda: device ", ctx.device(), " of the context cannot be made current");
    }

   private:
    std::optional<current_device> device_;
  };

  bool rehearses() const { return ctx_.rehearses(); }
  bool is_capturing() const {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cuda_check(cudaStreamIsCapturing(ctx_.stream(), &capture), "cudaStreamIsCapturing");
    return capture != cudaStreamCaptureStatusNone;
  }
  void clear(void* p, std::size_t bytes) const {
    if (bytes == 0 || rehearses()) return;
    cuda_check(cudaMemsetAsync(p, 0, bytes, ctx_.stream()), "cudaMemsetAsync(", bytes, " bytes)");
  }
  void* copy_to_host(const void* p, std::size_t bytes) {
    host_.emplace_back((bytes + sizeof(double) - 1) / sizeof(double));
    void* host = host_.back().data();
    if (bytes == 0 || rehearses()) return host;
    if (ctx_.stop() && ctx_.stop()()) fail<stopped_error>("stopped, as the context's function said");
    cuda_check(cudaMemcpyAsync(host, p, bytes, cudaMemcpyDeviceToHost, ctx_.stream()), "cudaMemcpyAsync(", bytes,
               " bytes to the host)");
    cuda_check(cudaStreamSynchronize(ctx_.stream()), "cudaStreamSynchronize");
    return host;
  }
  // The driver has taken the numbers when this returns, which may mean waiting for the stream.
  void copy_from_host(const void* host, std::size_t bytes, void* p) const {
    if (bytes == 0 || rehearses()) return;
    require<device_error>(!is_capturing(), "cuda: labels and weights must lie in device memory during graph capture");
    cuda_check(cudaMemcpyAsync(p, host, bytes, cudaMemcpyHostToDevice, ctx_.stream()), "cudaMemcpyAsync(", bytes,
               " bytes from the host)");
  }

  template <class... P, class... A>
  void launch(const char* name, void (*kernel)(P...), index_t blocks, index_t blocks_down, int threads,
              std::size_t shared_bytes, A&&... arguments) const;
  template <class Kernel, class Fold>
  void fold_pieces(const char* name, Kernel kernel, index_t n, index_t piece, const Fold& f);
  template <class T, class Element>
  void sweep(const panel_sweep<T>& told, const Element& element);
  template <class T, class Element>
  void sum_parameters(const square_sweep<T>& told, sight<T> v, const Element& element);
  template <class T>
  bool fuses(index_t d) const;
  template <class T, class Element>
  void fused(const square_sweep<T>& told, const sight<T>& v, const Element& element, index_t first_wanted, index_t last_wanted);
  template <class T, class Element, int D>
  void launch_fused(index_t blocks, index_t splits, const fused_sweep<T>& f, const sight<T>& v, const Element& element) const;
  template <class T>
  void pull_back(const panel<T>& p, const panel_pullback<T>& to, index_t d) const;
  // What rounds the factors of float products (rounding.cuh).
  float split() const {
    return ctx_.precision() == precision::tf32 ? 8193 : ctx_.precision() == precision::bfloat16 ? 65537 : 1;
  }
  template <class T>
  factor<T> factor_of(const rows<T>& x);
  template <class T>
  factors<T> factors_of(const rows<T>& x, const rows<T>& y) {
    const factor<T> first = factor_of(x);
    return {first, y.data == x.data ? first : factor_of(y)};
  }
  template <class T, class Visit>
  void panels(const rows<T>& x, const rows<T>& y, const factors<T>& f, bool triangle, const Visit& visit, T* kept = nullptr,
              bool known = false);
  template <class T>
  void add_self(const rows<T>& x, const pull<T>& g) const;

  const cuda& ctx_;
  current current_;
  nesting nested_;
  std::byte* blas_memory_ = nullptr;
  cuda_product product_;
  std::vector<std::vector<double>> host_;
};

}  // namespace craft::engine
