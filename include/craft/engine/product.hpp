// Matrix products of one tile: a register-blocked kernel on pack<T>, single-threaded, in scratch memory given once.
//
// Why not a library's product: tiles are small and each operand meets several others, so that what a general product spends
// on packing both operands and on its own blocking is a large share here. docs/benchmarks.md has the comparison.
#pragma once

#include <algorithm>
#include <utility>

#include "craft/engine/pack.hpp"

namespace craft::engine {

/// Three products on row-major blocks. The right factor is copied into panels as wide as the kernel's registers; the left
/// one is read where it is, number by number.
template <class T>
class product {
 public:
  /// Numbers of scratch memory needed for a tile of `rows` x `cols` in `d` dimensions: the right factor of each product.
  static index_t scratch_size(index_t rows, index_t cols, index_t d) {
    return (std::max)(packed_size(cols, d), packed_size(d, (std::max)(rows, cols)));
  }
  /// What rows of a result should be apart, so that whole registers fit and rows do not all fall on the same cache sets.
  static index_t padded(index_t n) { return (n + width - 1) / width * width + width; }

  explicit product(T* scratch) : packed_(scratch) {}

  /// C = A B'   (m x n) = (m x k)(n x k)'. Writes up to the next multiple of a register: ldc >= padded(n).
  void dots(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n, index_t k) {
    for (index_t q = 0; q < k; q += deepest) {
      const index_t depth = (std::min)(deepest, k - q);
      pack_transposed(B + q, ldb, n, depth);
      run({A + q, lda, 1}, C, ldc, m, n, depth, q > 0, true);
    }
  }
  /// C += A B   (m x n) += (m x k)(k x n)
  void add(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n, index_t k) {
    for (index_t q = 0; q < k; q += deepest) {
      const index_t depth = (std::min)(deepest, k - q);
      pack_straight(B + q * ldb, ldb, n, depth);
      run({A + q, lda, 1}, C, ldc, m, n, depth, true, false);
    }
  }
  /// C += A' B  (m x n) += (k x m)'(k x n)
  void add_transposed(const T* A, index_t lda, const T* B, index_t ldb, T* C, index_t ldc, index_t m, index_t n,
                      index_t k) {
    for (index_t q = 0; q < k; q += deepest) {
      const index_t depth = (std::min)(deepest, k - q);
      pack_straight(B + q * ldb, ldb, n, depth);
      run({A + q * lda, 1, lda}, C, ldc, m, n, depth, true, false);
    }
  }

 private:
  using V = pack<T>;
  static constexpr index_t width = V::width;
  // Sums in registers: as many as there are, less what the factors need. A pass is so deep that a panel of it stays in the
  // first two levels of cache.
  static constexpr int most_rows = V::registers >= 32 ? 8 : 6, most_packs = 2;
  static constexpr index_t panel = most_packs * width, deepest = 512;

  static index_t packed_size(index_t n, index_t k) { return (n + panel - 1) / panel * panel * (std::min)(k, deepest); }

  /// The left factor: a_ik = data[i * row + k * column].
  struct left {
    const T* data;
    index_t row, column;
  };

  // Panels of `panel` columns, each k-major; zeros behind the last column.
  [[gnu::noinline]] void pack_straight(const T* B, index_t ldb, index_t n, index_t k) {
    T* to = packed_;
    for (index_t j = 0; j < n; j += panel)
      for (index_t q = 0; q < k; ++q, to += panel) {
        const T* from = B + q * ldb + j;
        if (j + panel <= n) {
          for (index_t c = 0; c < panel; c += width) V::load(from + c).store(to + c);
        } else {
          std::fill(std::copy(from, from + (n - j), to), to + panel, T(0));
        }
      }
  }
  void pack_transposed(const T* B, index_t ldb, index_t n, index_t k) {
    for (index_t j = 0; j < n; j += width) {
      T* to = packed_ + j / panel * panel * k + j % panel;
      const index_t rows = (std::min)(width, n - j);
      index_t q = 0;
      if (rows == width)
        for (; q + width <= k; q += width, to += width * panel) transpose<T>(B + j * ldb + q, ldb, to, panel);
      for (; q < k; ++q, to += panel)
        for (index_t c = 0; c < width; ++c) to[c] = c < rows ? B[(j + c) * ldb + q] : T(0);
    }
  }

  // whole: C may be written beyond column n.
  [[gnu::noinline]] void run(const left& a, T* C, index_t ldc, index_t m, index_t n, index_t k, bool accumulate,
                             bool whole) const {
    for (index_t j = 0; j < n; j += panel) {
      const T* b = packed_ + j * k;
      const index_t columns = n - j;
      if (columns > width)
        strips<most_packs>(a, b, C + j, ldc, m, columns, k, accumulate, whole);
      else
        strips<1>(a, b, C + j, ldc, m, columns, k, accumulate, whole);
    }
  }
  template <int Packs>
  static void strips(left a, const T* b, T* C, index_t ldc, index_t m, index_t n, index_t k, bool accumulate, bool whole) {
    // What may not be written goes to a place of its own first.
    const bool fits = whole || n >= Packs * width;
    T part[std::size_t(most_rows * panel)];
    const auto strip = [&](auto rows, index_t count) {
      for (; m >= count; m -= count, a.data += count * a.row, C += count * ldc) {
        kernel<Packs>(rows, a, b, fits ? C : part, fits ? ldc : panel, k, accumulate && fits);
        if (!fits) copy(part, count, n, C, ldc, accumulate);
      }
    };
    strip(std::make_index_sequence<std::size_t(most_rows)>(), most_rows);
    strip(std::make_index_sequence<4>(), 4);
    strip(std::make_index_sequence<2>(), 2);
    strip(std::make_index_sequence<1>(), 1);
  }
  [[gnu::noinline]] static void copy(const T* part, index_t rows, index_t n, T* C, index_t ldc, bool accumulate) {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < n; ++j) C[i * ldc + j] = part[i * panel + j] + (accumulate ? C[i * ldc + j] : T(0));
  }

  // sizeof...(I) rows of C, Packs registers wide. Index sequences, so that the sums are registers at any optimisation level.
  template <int Packs, std::size_t... I>
  static void kernel(std::index_sequence<I...> rows, const left& a, const T* b, T* C, index_t ldc, index_t k,
                     bool accumulate) {
    // The old C is wanted only at the end; until then it is on its way.
    if (accumulate) (prefetch<Packs>(C + index_t(I) * ldc), ...);
    row_sums<Packs> sums[] = {((void)I, row_sums<Packs>())...};
    const T* from[] = {a.data + index_t(I) * a.row...};
    for (index_t q = 0; q < k; ++q, b += panel) {
      const row_sums<Packs> bq(b);
      (sums[I].add(V(from[I][q * a.column]), bq), ...);
    }
    (void)rows;
    (sums[I].store(C + index_t(I) * ldc, accumulate), ...);
  }
  template <int Packs>
  static void prefetch(const T* C) {
    for (int p = 0; p < Packs; ++p) Eigen::internal::prefetch(C + p * width);
  }

  /// One row's registers.
  template <int Packs>
  struct row_sums {
    V first{T(0)}, second{T(0)};
    row_sums() = default;
    explicit row_sums(const T* p) : first(V::load(p)) {
      if constexpr (Packs == 2) second = V::load(p + width);
    }
    void add(V a, const row_sums& b) {
      first = a.times_plus(b.first, first);
      if constexpr (Packs == 2) second = a.times_plus(b.second, second);
    }
    void store(T* p, bool accumulate) const {
      (accumulate ? V::load(p) + first : first).store(p);
      if constexpr (Packs == 2) (accumulate ? V::load(p + width) + second : second).store(p + width);
    }
  };

  T* packed_;
};

}  // namespace craft::engine
