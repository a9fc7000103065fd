// The CUDA engine, as verbs see it: the members of cpu_engine, on device memory, in the order of the context's stream.
// Declarations only; the bodies are in the .cuh files of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "craft/cuda.hpp"
#include "craft/engine/contract.hpp"
#include "craft/engine/cuda_product.hpp"

namespace craft::engine {

/// Where kernels leave the sums of a panel before they are added, in a fixed order, to what a sweep sums up.
template <class T>
struct panel_sums;
template <class T>
struct fused_sweep;

/// Rows as products take them.
template <class T>
struct factors {
  factor<T> x, y;
};

class cuda_engine {
 public:
  explicit cuda_engine(const cuda& ctx) : ctx_(ctx), current_(ctx), memory_(ctx.scratch()), nested_(ctx) {
    if (nested_.outermost() && !rehearses() && is_capturing()) ctx.scratch().pin();
    if (nested_.outermost() && ctx.blas_bytes() > 0) blas_memory_ = memory_.take<std::byte>(index_t(ctx.blas_bytes()));
    product_.begin(ctx, blas_memory_, nested_.outermost());
  }
  cuda_engine(const cuda_engine&) = delete;
  cuda_engine& operator=(const cuda_engine&) = delete;

  const cuda& context() const { return ctx_; }

  // ---- numbers
  using number = device_number;
  template <class T>
  using id = index_t;
  template <class T>
  using softmax = engine::softmax<T, index_t>;

  static bool known(const scalar& s) { return s.pointer() == nullptr; }
  static number read(const scalar& s) {
    return s.pointer() == nullptr ? number(s.value()) : number(1, s.pointer(), s.is_double());
  }
  static number number_at(const double* p) { return {1, p, true}; }
  labels seen(const labels& y, bool always = false) {
    if (y.where() == memory::host) return y;
    if (!always && !ctx_.check_labels()) return {};
    require<option_error>(!always || !rehearses(),
                          "cuda: how much scratch memory this needs depends on labels that the host cannot read");
    index_t* copy = on_host(indices(y), y.size());
    return rehearses() ? labels() : labels(copy, y.size());
  }
  numbers seen(const numbers& w) {
    if (w.where() == memory::host) return w;
    if (!ctx_.check_labels() || w.empty()) return {};
    double* copy = on_host(device_weights<double>(w), w.size());
    return rehearses() ? numbers() : numbers(copy, w.size());
  }
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

  template <class T>
  T* host_zeros(index_t n) {
    host_.emplace_back((std::size_t(n) * sizeof(T) + sizeof(double) - 1) / sizeof(double));
    return reinterpret_cast<T*>(host_.back().data());
  }

  // ---- memory
  template <class T>
  T* take(index_t n) {
    return memory_.take<T>(n);
  }
  template <class T>
  T* zeros(index_t n) {
    T* p = take<T>(n);
    clear(p, std::size_t(n) * sizeof(T));
    return p;
  }
  template <class T>
  rows<T> take_rows(index_t n, index_t d) {
    T* data = take<T>(n * d);
    return {data, n, d, take<T>(n)};
  }
  template <class T>
  pull<T> take_pull(index_t n, index_t d, bool wanted = true) {
    // In one piece, cleared at once.
    const index_t ahead = wanted ? (n * d * index_t(sizeof(T)) + 15) / 16 * 2 : 0;
    double* self = zeros<double>(ahead + n) + ahead;
    return {wanted ? reinterpret_cast<T*>(self - ahead) : nullptr, self};
  }
  template <class T>
  void copy(const T* from, index_t n, T* to) const {
    copy_on_device(from, std::size_t(n) * sizeof(T), to);
  }
  template <class T>
  void fill(T* to, index_t n, T value) const;
  template <class Step>
  void each(index_t count, const Step& step) const;

  // ---- rows: from the caller's memory and back
  template <class S>
  using input = matrix_view<const S, memory::device>;
  template <class S>
  using place = matrix_view<S, memory::device>;
  template <class S>
  using destination = output<S, memory::device>;

  template <class T, class S>
  void load(const input<S>& x, T* to) const;
  template <class T, class S>
  void load_normalised(const input<S>& x, T* to, T* inverse_norm, const number& scale) const;
  template <class T, class S>
  void store(const T* g, const destination<S>& out, const number& factor) const;
  template <class T, class S>
  void store_normalised(const T* g, const T* scaled, const T* inverse_norm, const number& scale, const destination<S>& out,
                        const number& factor) const;
  template <class T>
  void store_vector(const double* values, const destination<T>& out, const number& factor) const;
  template <class T>
  void write_value(const scalar_out<T, memory::device>& to, const double* total, double factor = 1,
                   double offset = 0) const;
  /// Waits for the stream.
  template <class S>
  index_t first_not_finite(const input<S>& x);
  template <class T>
  void load_weights(const numbers& w, index_t n, T* to, double* sums);

  // ---- rows: by index
  index_t* indices(const labels& y);
  template <class S>
  void gather(const input<S>& x, const index_t* index, const place<S>& out) const;
  template <class T, class S>
  void scatter_add(const input<S>& u, const index_t* index, T* g, index_t rows) const;

  // ---- rows: sums over a sample, in a fixed order
  template <class T>
  void sum(const T* x, index_t n, double* out);
  template <class T>
  void largest(const T* x, index_t n, double* out);
  /// Reports what it finds if the context was asked to look at the data. Else the host does not wait: squared norms become not
  /// numbers, and with them all that is computed.
  template <class T>
  double beyond_squares(const rows<T>& x, const rows<T>& y, small_squares small);
  template <class T>
  void dot(const T* x, const T* y, index_t n, index_t d, double* out);
  template <class T>
  void spread(const T* x, index_t n, index_t d, const double* mean, double* out);
  template <class T>
  void group_means(const rows<T>& x, const index_t* group, index_t k, T* means, index_t* counts);
  template <class T>
  void lower_distances(const rows<T>& x, index_t p, T* distance) const;
  template <class T>
  void farthest_points(const rows<T>& x, index_t count, index_t* chosen);

  // ---- rows: transformations
  template <class T>
  void column_means(const T* x, index_t n, index_t d, double* out);
  template <class T>
  void centre(T* x, index_t n, index_t d, double* mean);
  template <class T>
  void subtract(T* x, index_t n, index_t d, const double* m) const;
  template <class T>
  void scale(T* x, index_t n, index_t d, const number& factor) const;
  template <class T>
  void square_norms(const rows<T>& x) const;
  template <class T>
  void normalise(T* x, index_t n, index_t d, T* inverse_norm, const double* minus = nullptr) const;
  template <class T>
  void normalise_pullback(T* g, const T* unit, index_t n, index_t d, const T* inverse_norm) const;
  template <class T>
  void unnormalise(T* x, index_t n, index_t d, const T* inverse_norm) const;
  template <class T>
  void inverse_deviation(const T* x, index_t n, index_t d, double* out);
  template <class T>
  void scale_each_column(T* x, index_t n, index_t d, const double* factor) const;
  template <class T>
  void deviation_pullback(const T* x, const T* gx, index_t n, const T* y, T* gy, index_t m, index_t d);
  template <class T>
  void mean_pullback(const T* gx, index_t n, T* gy, index_t m, index_t d);
  template <class T>
  column_range<T> scale_columns(T* z, index_t n, index_t d, T eps);
  template <class T>
  void scale_columns_pullback(const T* z, index_t n, index_t d, const number& root, const double* shift,
                              const column_range<T>& r, bool moving, T* g);

  // ---- targets of the alignment losses
  void pair_ids(const labels& x, const labels& y, index_t n, index_t m, index_t* x_id, index_t* y_id);
  template <class T>
  void pair_targets(const labels& x, const labels& y, index_t n, index_t m, double smoothing, softmax<T>& by_row,
                    softmax<T>& by_col);
  template <class T>
  void label_targets(const labels& y, index_t classes, index_t ignore, double smoothing, softmax<T>& s);
  template <class T>
  void soft_targets(const input<T>& t, double smoothing, softmax<T>& s);
  template <class T>
  void row_weights(index_t n, const numbers& w, const labels* y, index_t ignore, const index_t* positives, bool mean,
                   double share, softmax<T>& s);

  // ---- the verbs over all pairs
  template <class T, class K>
  void quadratic_form(const rows<T>& z, index_t split, const K& k, const form_weights<T, number>& w, bool skip_diagonal,
                      bool parameters, double* totals, const pull<T>& g);
  template <class T, class K>
  void linear_form(const rows<T>& z, index_t split, index_t p, const K& k, bool parameters, double* totals,
                   const pull<T>& g);
  template <class T, class K, class S>
  void map(const rows<T>& x, const rows<T>& y, const K& k, const number& scale, const place<S>& out);
  template <class T, class K, class S>
  void map_pullback(const rows<T>& x, const rows<T>& y, const K& k, const number& scale, const input<S>& dout,
                    double* totals, const pull<T>& gx, const pull<T>& gy);
  template <class T>
  T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col, bool by_column,
                 bool again);
  template <class T>
  void softmax_pullback(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                        bool by_column, T* kept, const pull<T>& gx, const pull<T>& gy);
  template <class T>
  void softmax_loss(const softmax<T>& s, double* total);
  template <class T>
  void sigmoid_loss(const rows<T>& x, const rows<T>& y, const index_t* x_id, const index_t* y_id, const number& bias,
                    double scale, double* totals, const pull<T>& gx, const pull<T>& gy);
  static constexpr bool products_depend_on_place = true;  ///< cuBLAS promises no order of its sums
  template <class T>
  void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance);
  template <class T>
  void distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out);

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
  void copy_on_device(const void* from, std::size_t bytes, void* to) const {
    if (bytes == 0 || rehearses()) return;
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ctx_.stream()), "cudaMemcpyAsync(", bytes,
               " bytes on the device)");
  }
  void* copy_to_host(const void* p, std::size_t bytes) {
    host_.emplace_back((bytes + sizeof(double) - 1) / sizeof(double));
    void* host = host_.back().data();
    if (bytes == 0 || rehearses()) return host;
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
  template <class T, class Term>
  void ordered_sum(index_t n, const Term& term, double* out, bool accumulate = false);
  template <class Term>
  void sum_columns(index_t n, index_t d, const Term& term, double* out, double divisor = 1);
  template <class T>
  T* device_weights(const numbers& w);
  template <class T>
  void share_targets(const index_t* id, const index_t* other_id, const index_t* matches, index_t n, index_t m,
                     double smoothing, softmax<T>& s);
  void count_matches(const index_t* id, index_t n, const index_t* other_id, index_t m, index_t* matches);
  template <class T, class Element>
  void sweep(const rows<T>& x, const rows<T>& y, bool triangle, const Element& element, double* totals, const pull<T>& gx,
             const pull<T>& gy, index_t first_wanted, index_t last_wanted, T* kept = nullptr, bool known = false);
  template <class T>
  bool fuses(index_t d) const;
  template <class T, class Element>
  void fused(const rows<T>& z, const Element& element, double* totals, const pull<T>& g, index_t first_wanted,
             index_t last_wanted);
  template <class T, class Element, int D>
  void launch_fused(index_t blocks, index_t splits, const fused_sweep<T>& f, const Element& element) const;
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
  workspace::frame memory_;
  nesting nested_;
  std::byte* blas_memory_ = nullptr;
  cuda_product product_;
  std::vector<std::vector<double>> host_;
};

}  // namespace craft::engine
