// Matrix products of one tile. Eigen's kernels do the work; they are called below Eigen's expression layer
// because that layer may start threads of its own and allocate, and the engine wants neither.
#pragma once

#include <Eigen/Core>
#include <algorithm>

#include "craft/view.hpp"

namespace craft::engine {

/// Three products on row-major blocks, single-threaded, in memory given once.
template <class T>
class product {
 public:
  /// Numbers of scratch memory needed for products with all three extents at most a, b and c.
  static index_t scratch_size(index_t a, index_t b, index_t c) { return 2 * panel_size(a, b, c); }

  product(T* scratch, index_t a, index_t b, index_t c)
      : left_(scratch), right_(scratch + panel_size(a, b, c)) {}

  /// C = A B'   (m x n) = (m x k)(n x k)'
  void dots(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n, index_t k) {
    for (index_t i = 0; i < m; ++i) std::fill_n(C + i * ldc, n, T(0));
    run<Eigen::RowMajor, Eigen::ColMajor>(A, lda, B, ldb, C, ldc, m, n, k);
  }
  /// C += A B   (m x n) += (m x k)(k x n)
  void add(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n, index_t k) {
    run<Eigen::RowMajor, Eigen::RowMajor>(A, lda, B, ldb, C, ldc, m, n, k);
  }
  /// C += A' B  (m x n) += (k x m)'(k x n)
  void add_transposed(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n,
                      index_t k) {
    run<Eigen::ColMajor, Eigen::RowMajor>(A, lda, B, ldb, C, ldc, m, n, k);
  }

 private:
  using blocking_base = Eigen::internal::level3_blocking<T, T>;
  struct blocking : blocking_base {
    blocking(T* a, T* b, Eigen::Index kc, Eigen::Index mc, Eigen::Index nc) {
      this->m_blockA = a;
      this->m_blockB = b;
      this->m_kc = kc;
      this->m_mc = mc;
      this->m_nc = nc;
    }
  };

  static index_t panel_size(index_t a, index_t b, index_t c) {
    const index_t largest = std::max({a * b, b * c, a * c});
    return (largest + 63) / 32 * 32;  // both panels stay aligned
  }

  template <int OrderA, int OrderB>
  void run(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n, index_t k) {
    // Eigen computes a row-major result as the transposed column-major one: there the right factor comes first.
    Eigen::Index kc = k, mc = n, nc = m;
    Eigen::internal::computeProductBlockingSizes<T, T>(kc, mc, nc, Eigen::Index(1));
    blocking space(left_, right_, kc, mc, nc);
    Eigen::internal::general_matrix_matrix_product<Eigen::Index, T, OrderA, false, T, OrderB, false, Eigen::RowMajor,
                                                   1>::run(m, n, k, A, lda, B, ldb, C, 1, ldc, T(1), space, nullptr);
  }

  T* left_;
  T* right_;
};

}  // namespace craft::engine
