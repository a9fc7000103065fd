// Matrix products of row-major panels by cuBLAS, which counts columns first: the one place where the two meet. A row-major
// n x d matrix is a column-major d x n one, so every product is asked for transposed.
#include "craft/cuda.hpp"  // before the guard: it comes back here when the context is known

#ifndef CRAFT_ENGINE_CUDA_PRODUCT_HPP
#define CRAFT_ENGINE_CUDA_PRODUCT_HPP

#include <cublas_v2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace craft::engine {

/// A factor of a product: rows `d` numbers apart, as they are or as bits of bfloat16, of which only one is looked at.
template <class T>
struct factor {
  const T* wide;
  const std::uint16_t* narrow;
  index_t d;
  factor from(index_t row, index_t column = 0) const {
    const index_t at = row * d + column;
    return {wide + at, narrow == nullptr ? nullptr : narrow + at, d};
  }
};

class cuda_product {
 public:
  cuda_product() = default;
  cuda_product(const cuda_product&) = delete;
  cuda_product& operator=(const cuda_product&) = delete;
  ~cuda_product() { end(); }  // also where begin itself failed half-way

  /// Puts the handle into the state the engine needs; `memory`: what cuBLAS may use during the call, null for what it has itself
  /// or, if the handle is the caller's, has been given. Only the outermost of nested engines does so.
  void begin(const cuda& ctx, std::byte* memory, bool outermost) {
    ctx_ = &ctx;
    if (!outermost || ctx.rehearses()) return;
    cudaStream_t stream = nullptr;
    cublas_check(cublasGetStream(ctx.handle(), &stream), "cublasGetStream");
    require<device_error>(stream == ctx.stream(), "cuda: the cuBLAS handle is on another stream than the context");
    if (memory != nullptr) {
      lent_ = true;
      cublas_check(cublasSetWorkspace(ctx.handle(), memory, ctx.blas_bytes()), "cublasSetWorkspace(", ctx.blas_bytes(),
                   " bytes)");
    }
    cublas_check(cublasGetMathMode(ctx.handle(), &math_), "cublasGetMathMode");
    cublas_check(cublasGetPointerMode(ctx.handle(), &pointers_), "cublasGetPointerMode");
    changed_ = true;
    cublas_check(cublasSetMathMode(ctx.handle(), CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
    cublas_check(cublasSetPointerMode(ctx.handle(), CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
  }

  /// s (ni x nj, rows `stride` apart) = x y', x: ni x d, y: nj x d.
  template <class T>
  void dots(const factor<T>& x, const factor<T>& y, index_t ni, index_t nj, T* s, index_t stride) const {
    multiply("dots", CUBLAS_OP_T, CUBLAS_OP_N, nj, ni, x.d, y, x, T(0), s, stride);
  }
  /// c (ni x d) += w y, w: ni x nj, y: nj x d.
  template <class T>
  void add(const factor<T>& w, const factor<T>& y, index_t ni, index_t nj, T* c) const {
    multiply("add", CUBLAS_OP_N, CUBLAS_OP_N, y.d, ni, nj, y, w, T(1), c, y.d);
  }
  /// c (nj x d) += w' x, w: ni x nj, x: ni x d.
  template <class T>
  void add_transposed(const factor<T>& w, const factor<T>& x, index_t ni, index_t nj, T* c) const {
    multiply("add_transposed", CUBLAS_OP_N, CUBLAS_OP_T, x.d, nj, ni, x, w, T(1), c, x.d);
  }

 private:
  // And back. Nobody could do anything about a failure here.
  void end() {
    if (lent_) cublasSetStream(ctx_->handle(), ctx_->stream());  // which takes the memory away: it belongs to the next call now
    lent_ = false;
    if (!changed_) return;
    cublasSetMathMode(ctx_->handle(), math_);
    cublasSetPointerMode(ctx_->handle(), pointers_);
    changed_ = false;
  }

  // c (m x n) = op(a) op(b) + beta c, all column-major. 16-bit factors are summed up in float, as all others of float are.
  template <class T>
  void multiply(const char* name, cublasOperation_t op_a, cublasOperation_t op_b, index_t m, index_t n, index_t k,
                const factor<T>& a, const factor<T>& b, T beta, T* c, index_t ldc) const {
    if (m == 0 || n == 0 || k == 0 || ctx_->rehearses()) return;
    const T one(1);
    const bool narrow = a.narrow != nullptr, tf32 = ctx_->precision() == precision::tf32;
    const cudaDataType_t wide = sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F, type = narrow ? CUDA_R_16BF : wide;
    const void *at_a = narrow ? static_cast<const void*>(a.narrow) : a.wide,
               *at_b = narrow ? static_cast<const void*>(b.narrow) : b.wide;
    const index_t lda = std::max<index_t>(a.d, 1), ldb = std::max<index_t>(b.d, 1);
    const cublasComputeType_t sums = sizeof(T) == 8 ? CUBLAS_COMPUTE_64F
                                     : tf32         ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                    : CUBLAS_COMPUTE_32F;
    cublas_check(cublasGemmEx_64(ctx_->handle(), op_a, op_b, m, n, k, &one, at_a, type, lda, at_b, type, ldb, &beta, c, wide,
                                 std::max<index_t>(ldc, 1), sums, CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx (", name, ": m ", m, ", n ", n, ", k ", k, ", leading dimensions ", lda, ", ", ldb, ", ", ldc,
                 ")");
  }

  const cuda* ctx_ = nullptr;
  cublasMath_t math_ = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers_ = CUBLAS_POINTER_MODE_HOST;
  bool lent_ = false, changed_ = false;
};

}  // namespace craft::engine

#endif
