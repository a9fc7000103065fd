// The part of cuBLAS that the library calls: products of column-major matrices, on the CPU. Sizes, leading dimensions
// and types are checked as the real one does; matrices that reach out of their allocation, which the real one would not
// notice, are a fault.
#pragma once

#include <Eigen/Core>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

#define SIMT_STATUSES(each)                \
  each(CUBLAS_STATUS_SUCCESS, 0)           \
  each(CUBLAS_STATUS_NOT_INITIALIZED, 1)   \
  each(CUBLAS_STATUS_ALLOC_FAILED, 3)      \
  each(CUBLAS_STATUS_INVALID_VALUE, 7)     \
  each(CUBLAS_STATUS_ARCH_MISMATCH, 8)     \
  each(CUBLAS_STATUS_MAPPING_ERROR, 11)    \
  each(CUBLAS_STATUS_EXECUTION_FAILED, 13) \
  each(CUBLAS_STATUS_INTERNAL_ERROR, 14)   \
  each(CUBLAS_STATUS_NOT_SUPPORTED, 15)    \
  each(CUBLAS_STATUS_LICENSE_ERROR, 16)
#define SIMT_ENUMERATOR(name, value) name = value,
enum cublasStatus_t { SIMT_STATUSES(SIMT_ENUMERATOR) };
#undef SIMT_ENUMERATOR
inline const char* cublasGetStatusName(cublasStatus_t status) {
#define SIMT_NAME(name, value) \
  if (status == name) return #name;
  SIMT_STATUSES(SIMT_NAME)
#undef SIMT_NAME
  return "<unknown>";
}
#undef SIMT_STATUSES
inline const char* cublasGetStatusString(cublasStatus_t status) { return cublasGetStatusName(status); }

enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1, CUBLAS_OP_C = 2 };
enum cublasPointerMode_t { CUBLAS_POINTER_MODE_HOST = 0, CUBLAS_POINTER_MODE_DEVICE = 1 };
enum cublasMath_t {
  CUBLAS_DEFAULT_MATH = 0,
  CUBLAS_PEDANTIC_MATH = 2,
  CUBLAS_TF32_TENSOR_OP_MATH = 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
};
enum cublasComputeType_t {
  CUBLAS_COMPUTE_16F = 64,
  CUBLAS_COMPUTE_32F = 68,
  CUBLAS_COMPUTE_32F_PEDANTIC = 69,
  CUBLAS_COMPUTE_64F = 70,
  CUBLAS_COMPUTE_64F_PEDANTIC = 71,
  CUBLAS_COMPUTE_32F_FAST_16F = 74,
  CUBLAS_COMPUTE_32F_FAST_16BF = 75,
  CUBLAS_COMPUTE_32F_FAST_TF32 = 77
};
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1, CUBLAS_GEMM_DEFAULT_TENSOR_OP = 99 };
enum cudaDataType { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16F = 2, CUDA_R_16BF = 14 };
using cudaDataType_t = cudaDataType;

using cublasHandle_t = struct cublasContext*;
struct cublasContext {
  cudaStream_t stream = nullptr;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
  void* workspace = nullptr;  // every product leaves garbage there
  std::size_t workspace_bytes = 0;
};

namespace simt {

inline std::int64_t handles = 0;
inline std::int64_t live_handles() { return handles; }

template <class Work>
cublasStatus_t cublas_call(const void* handle, Work&& work_) {
  const std::lock_guard<std::recursive_mutex> lock(device_mutex);
  if (device.fail_product_after > 0 && --device.fail_product_after == 0)
    return cublasStatus_t(device.fail_product_status);
  return handle == nullptr || device.no_device ? CUBLAS_STATUS_NOT_INITIALIZED : work_();
}

/// A matrix of a product. The transposed one has `cols` rows in memory.
struct operand {
  const void* data;
  cudaDataType type;
  std::int64_t stride, rows, cols;
  bool transposed;
  std::int64_t batch_stride = 0;

  std::int64_t column() const { return transposed ? cols : rows; }
  std::int64_t columns() const { return transposed ? rows : cols; }
  std::size_t size() const { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }
  bool reachable_in(std::int64_t batch) const {
    if (rows == 0 || cols == 0) return true;
    const std::int64_t last = batch * batch_stride + (columns() - 1) * stride + column();
    return reachable(data, std::size_t(last) * size());
  }
};

/// Calls work(zero) with a zero of the C++ type.
template <class Work>
void with_type(cudaDataType type, Work&& work_) {
  switch (type) {
    case CUDA_R_32F: return work_(0.0f);
    case CUDA_R_64F: return work_(0.0);
    case CUDA_R_16F: return work_(__half(0.0f));
    default: return work_(__nv_bfloat16(0.0f));
  }
}

/// What the tensor cores see of a float: 10 bits after the leading one, rounded to the nearest and up from the middle.
inline float to_tf32(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

template <class Sum>
using matrix = Eigen::Matrix<Sum, Eigen::Dynamic, Eigen::Dynamic>;

/// op(A) as the compute type takes it.
template <class Sum>
matrix<Sum> read(const operand& from, std::int64_t batch, cublasComputeType_t compute) {
  matrix<Sum> to(from.rows, from.cols);
  with_type(from.type, [&](auto zero) {
    const auto* at = static_cast<const decltype(zero)*>(from.data) + batch * from.batch_stride;
    for (std::int64_t j = 0; j < from.columns(); ++j) {
      races::reads(at + j * from.stride, std::size_t(from.column()) * from.size());
      for (std::int64_t i = 0; i < from.column(); ++i)
        (from.transposed ? to(j, i) : to(i, j)) = Sum(at[j * from.stride + i]);
    }
  });
  if constexpr (std::is_same_v<Sum, float>) {
    for (Eigen::Index i = 0; i < to.size(); ++i) {
      float& x = to.data()[i];
      if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) x = to_tf32(x);
      if (compute == CUBLAS_COMPUTE_32F_FAST_16BF) x = __nv_bfloat16(x);
      if (compute == CUBLAS_COMPUTE_32F_FAST_16F) x = __half(x);
    }
  }
  return to;
}

/// C = alpha op(A) op(B) + beta C. What is multiplied by zero is not read.
template <class Sum>
void multiply(const operand& a, const operand& b, const operand& c, std::int64_t batch, Sum alpha, Sum beta,
              cublasComputeType_t compute) {
  matrix<Sum> product = matrix<Sum>::Zero(c.rows, c.cols);
  if (alpha != 0 && a.cols > 0) {  // by loops over plain numbers, which compile in no time and need no optimiser
    const matrix<Sum> left = read<Sum>(a, batch, compute), right = read<Sum>(b, batch, compute);
    for (std::int64_t j = 0; j < c.cols; ++j)
      for (std::int64_t k = 0; k < right.rows(); ++k) {
        const Sum *from = left.data() + k * c.rows, by = right.data()[j * right.rows() + k];
        Sum* to = product.data() + j * c.rows;
        for (std::int64_t i = 0; i < c.rows; ++i) to[i] += from[i] * by;
      }
  }
  with_type(c.type, [&](auto zero) {
    using T = decltype(zero);
    T* at = static_cast<T*>(const_cast<void*>(c.data)) + batch * c.batch_stride;
    for (std::int64_t j = 0; j < c.cols; ++j) {
      if (beta != 0) races::reads(at + j * c.stride, std::size_t(c.rows) * c.size());
      races::writes(at + j * c.stride, std::size_t(c.rows) * c.size());
      for (std::int64_t i = 0; i < c.rows; ++i) {
        T& to = at[j * c.stride + i];
        Sum value = alpha != 0 ? alpha * product(i, j) : Sum(0);
        if (beta != 0) value += beta * Sum(to);
        to = T(value);
      }
    }
  });
}

inline bool supported(cublasComputeType_t compute, cudaDataType a, cudaDataType b, cudaDataType c) {
  switch (compute) {
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC: return a == CUDA_R_64F && b == CUDA_R_64F && c == CUDA_R_64F;
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC: return a == b && a != CUDA_R_64F && (c == CUDA_R_32F || c == a);
    case CUBLAS_COMPUTE_32F_FAST_16F:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
    case CUBLAS_COMPUTE_32F_FAST_TF32: return a == CUDA_R_32F && b == CUDA_R_32F && c == CUDA_R_32F;
    default: return false;
  }
}

inline cublasStatus_t gemm(cublasHandle_t handle, const char* name, cublasOperation_t op_a, cublasOperation_t op_b,
                           std::int64_t m, std::int64_t n, std::int64_t k, const void* alpha, const void* a,
                           cudaDataType type_a, std::int64_t lda, const void* b, cudaDataType type_b, std::int64_t ldb,
                           const void* beta, void* c, cudaDataType type_c, std::int64_t ldc,
                           cublasComputeType_t compute, std::int64_t stride_a = 0, std::int64_t stride_b = 0,
                           std::int64_t stride_c = 0, std::int64_t batches = 1) {
  return cublas_call(handle, [&] {
    const operand A{a, type_a, lda, m, k, op_a != CUBLAS_OP_N, stride_a};
    const operand B{b, type_b, ldb, k, n, op_b != CUBLAS_OP_N, stride_b};
    const operand C{c, type_c, ldc, m, n, false, stride_c};
    if (m < 0 || n < 0 || k < 0 || batches < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (op_a < CUBLAS_OP_N || op_a > CUBLAS_OP_C || op_b < CUBLAS_OP_N || op_b > CUBLAS_OP_C)
      return CUBLAS_STATUS_INVALID_VALUE;
    for (const operand& x : {A, B, C})
      if (x.stride < std::max<std::int64_t>(1, x.column())) return CUBLAS_STATUS_INVALID_VALUE;
    if (!supported(compute, type_a, type_b, type_c)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (handle->workspace != nullptr && handle->workspace_bytes < 16384) return CUBLAS_STATUS_ALLOC_FAILED;  // it may
    if (m == 0 || n == 0 || batches == 0) return CUBLAS_STATUS_SUCCESS;
    if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;

    const bool in_double = type_c == CUDA_R_64F;
    const auto number = [in_double](const void* at) {
      return in_double ? *static_cast<const double*>(at) : double(*static_cast<const float*>(at));
    };
    const bool host = handle->pointers == CUBLAS_POINTER_MODE_HOST;
    const double host_alpha = host ? number(alpha) : 0, host_beta = host ? number(beta) : 0;
    void* const workspace = handle->workspace;
    const std::size_t workspace_bytes = std::min(handle->workspace_bytes, std::size_t(1) << 16);
    const cudaError_t error = submit(handle->stream, [=]() -> cudaError_t {
      ++device.products;
      device.narrow_products += A.size() == 2;
      if (workspace_bytes > 0) {
        if (!reachable(workspace, workspace_bytes)) {
          report(std::string(name) + ": the workspace is not inside one allocation of device memory");
          return cudaErrorIllegalAddress;
        }
        races::writes(workspace, workspace_bytes);
        std::memset(workspace, 0xff, workspace_bytes);
      }
      if (!host && !(reachable(alpha, in_double ? 8 : 4) && reachable(beta, in_double ? 8 : 4))) {
        report(std::string(name) + ": alpha or beta is not in device memory");
        return cudaErrorIllegalAddress;
      }
      if (!host) races::reads(alpha, in_double ? 8 : 4);
      if (!host) races::reads(beta, in_double ? 8 : 4);
      const double alpha_ = host ? host_alpha : number(alpha), beta_ = host ? host_beta : number(beta);
      for (const operand* x : {&A, &B, &C}) {
        if ((x != &C && alpha_ == 0) || x->reachable_in(batches - 1)) continue;
        report(std::string(name) + ": matrix " + (x == &A ? "A" : x == &B ? "B" : "C") + ", " +
               std::to_string(x->column()) + " x " + std::to_string(x->columns()) + " with leading dimension " +
               std::to_string(x->stride) + ", is not inside one allocation of device memory");
        return cudaErrorIllegalAddress;
      }
      for (std::int64_t batch = 0; batch < batches; ++batch) {
        if (in_double) multiply<double>(A, B, C, batch, alpha_, beta_, compute);
        if (!in_double) multiply<float>(A, B, C, batch, float(alpha_), float(beta_), compute);
      }
      return cudaSuccess;
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
  });
}

/// What cublasSgemm computes in, which the handle decides.
inline cublasComputeType_t compute_of(cublasHandle_t handle) {
  const bool tf32 = handle != nullptr && (handle->math & 15) == CUBLAS_TF32_TENSOR_OP_MATH;
  return tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

}  // namespace simt

inline cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  return simt::cublas_call(handle, [&] {
    if (simt::unless_capturing() != cudaSuccess) return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = new cublasContext;
    ++simt::handles;
    return CUBLAS_STATUS_SUCCESS;
  });
}
inline cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  const std::lock_guard<std::recursive_mutex> lock(simt::device_mutex);
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  --simt::handles;
  return CUBLAS_STATUS_SUCCESS;
}
/// The workspace is forgotten, as the real one does.
inline cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  return simt::cublas_call(handle, [&] {
    handle->stream = stream;
    handle->workspace = nullptr;
    handle->workspace_bytes = 0;
    return CUBLAS_STATUS_SUCCESS;
  });
}
inline cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t* stream) {
  return simt::cublas_call(handle, [&] { return *stream = handle->stream, CUBLAS_STATUS_SUCCESS; });
}
inline cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  return simt::cublas_call(handle, [&] { return handle->math = mode, CUBLAS_STATUS_SUCCESS; });
}
inline cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  return simt::cublas_call(handle, [&] { return *mode = handle->math, CUBLAS_STATUS_SUCCESS; });
}
inline cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
  return simt::cublas_call(handle, [&] { return handle->pointers = mode, CUBLAS_STATUS_SUCCESS; });
}
inline cublasStatus_t cublasGetPointerMode(cublasHandle_t handle, cublasPointerMode_t* mode) {
  return simt::cublas_call(handle, [&] { return *mode = handle->pointers, CUBLAS_STATUS_SUCCESS; });
}
inline cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  return simt::cublas_call(handle, [&] {
    if (bytes > 0 && (!simt::reachable(workspace, bytes) || reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0))
      return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = workspace;
    handle->workspace_bytes = bytes;
    return CUBLAS_STATUS_SUCCESS;
  });
}

// The two widths of integers differ in name only.
#define SIMT_GEMMS(suffix, integer)                                                                                    \
  inline cublasStatus_t cublasSgemm##suffix(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,     \
                                            integer m, integer n, integer k, const float* alpha, const float* a,       \
                                            integer lda, const float* b, integer ldb, const float* beta, float* c,     \
                                            integer ldc) {                                                             \
    return simt::gemm(handle, "cublasSgemm" #suffix, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, lda, b, CUDA_R_32F,    \
                      ldb, beta, c, CUDA_R_32F, ldc, simt::compute_of(handle));                                        \
  }                                                                                                                    \
  inline cublasStatus_t cublasDgemm##suffix(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,     \
                                            integer m, integer n, integer k, const double* alpha, const double* a,     \
                                            integer lda, const double* b, integer ldb, const double* beta, double* c,  \
                                            integer ldc) {                                                             \
    return simt::gemm(handle, "cublasDgemm" #suffix, op_a, op_b, m, n, k, alpha, a, CUDA_R_64F, lda, b, CUDA_R_64F,    \
                      ldb, beta, c, CUDA_R_64F, ldc, CUBLAS_COMPUTE_64F);                                              \
  }                                                                                                                    \
  inline cublasStatus_t cublasGemmEx##suffix(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,    \
                                             integer m, integer n, integer k, const void* alpha, const void* a,        \
                                             cudaDataType type_a, integer lda, const void* b, cudaDataType type_b,     \
                                             integer ldb, const void* beta, void* c, cudaDataType type_c, integer ldc, \
                                             cublasComputeType_t compute, cublasGemmAlgo_t) {                          \
    return simt::gemm(handle, "cublasGemmEx" #suffix, op_a, op_b, m, n, k, alpha, a, type_a, lda, b, type_b, ldb,      \
                      beta, c, type_c, ldc, compute);                                                                  \
  }                                                                                                                    \
  inline cublasStatus_t cublasGemmStridedBatchedEx##suffix(                                                            \
      cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, integer m, integer n, integer k,          \
      const void* alpha, const void* a, cudaDataType type_a, integer lda, long long stride_a, const void* b,           \
      cudaDataType type_b, integer ldb, long long stride_b, const void* beta, void* c, cudaDataType type_c,            \
      integer ldc, long long stride_c, integer batches, cublasComputeType_t compute, cublasGemmAlgo_t) {               \
    return simt::gemm(handle, "cublasGemmStridedBatchedEx" #suffix, op_a, op_b, m, n, k, alpha, a, type_a, lda, b,     \
                      type_b, ldb, beta, c, type_c, ldc, compute, stride_a, stride_b, stride_c, batches);              \
  }
SIMT_GEMMS(, int)
SIMT_GEMMS(_64, std::int64_t)
#undef SIMT_GEMMS
