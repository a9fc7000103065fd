// Matrix products of row-major panels by cuBLAS, which counts columns first: the one place where the two meet. A row-major
// n x d matrix is a column-major d x n one, so every product is asked for transposed.
#include "craft/cuda.hpp"  // before the guard: it comes back here when the context is known

#ifndef CRAFT_ENGINE_CUDA_PRODUCT_HPP
#define CRAFT_ENGINE_CUDA_PRODUCT_HPP

#include <cublas_v2.h>

#include <algorithm>
#include <cstddef>

namespace craft::engine {

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
  void dots(const T* x, const T* y, index_t ni, index_t nj, index_t d, T* s, index_t stride) const {
    multiply("dots", CUBLAS_OP_T, CUBLAS_OP_N, nj, ni, d, y, d, x, d, T(0), s, stride);
  }
  /// c (ni x d) += w y, w: ni x nj, rows `stride` apart, y: nj x d.
  template <class T>
  void add(const T* w, index_t stride, const T* y, index_t ni, index_t nj, index_t d, T* c) const {
    multiply("add", CUBLAS_OP_N, CUBLAS_OP_N, d, ni, nj, y, d, w, stride, T(1), c, d);
  }
  /// c (nj x d) += w' x, w: ni x nj, rows `stride` apart, x: ni x d.
  template <class T>
  void add_transposed(const T* w, index_t stride, const T* x, index_t ni, index_t nj, index_t d, T* c) const {
    multiply("add_transposed", CUBLAS_OP_N, CUBLAS_OP_T, d, nj, ni, x, d, w, stride, T(1), c, d);
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

  // c (m x n) = op(a) op(b) + beta c, all column-major.
  template <class T>
  void multiply(const char* name, cublasOperation_t op_a, cublasOperation_t op_b, index_t m, index_t n, index_t k,
                const T* a, index_t lda, const T* b, index_t ldb, T beta, T* c, index_t ldc) const {
    if (m == 0 || n == 0 || k == 0 || ctx_->rehearses()) return;
    const T one(1);
    const cudaDataType_t type = sizeof(T) == 8 ? CUDA_R_64F : CUDA_R_32F;
    const index_t least = 1;
    cublas_check(cublasGemmEx_64(ctx_->handle(), op_a, op_b, m, n, k, &one, a, type, std::max(lda, least), b, type,
                                 std::max(ldb, least), &beta, c, type, std::max(ldc, least), compute_type<T>(),
                                 CUBLAS_GEMM_DEFAULT),
                 "cublasGemmEx (", name, ": m ", m, ", n ", n, ", k ", k, ", leading dimensions ", lda, ", ", ldb, ", ", ldc,
                 ")");
  }
  template <class T>
  cublasComputeType_t compute_type() const {
    if (sizeof(T) == 8) return CUBLAS_COMPUTE_64F;
    switch (ctx_->precision()) {
      case precision::tf32:
        return CUBLAS_COMPUTE_32F_FAST_TF32;
      case precision::bfloat16:
        return CUBLAS_COMPUTE_32F_FAST_16BF;
      case precision::strict:
        break;
    }
    return CUBLAS_COMPUTE_32F;
  }

  const cuda* ctx_ = nullptr;
  cublasMath_t math_ = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers_ = CUBLAS_POINTER_MODE_HOST;
  bool lent_ = false, changed_ = false;
};

}  // namespace craft::engine

#endif
