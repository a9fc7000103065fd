// Sweeps over short rows (relative representations have as many numbers as there are anchors): one kernel makes the dot
// products of a tile, turns them into weights, and multiplies these with the rows again. No dot product leaves the chip.
//
// A block owns fused_rows rows and goes through all tiles of fused_columns others; the gradient of its rows stays in
// registers. That takes the whole square instead of a triangle, 4 N^2 d multiply-adds instead of 3 N^2 d and two
// evaluations of the pair function instead of one, and saves the 20 bytes that a panel moves per pair: for short rows
// they are the greater part (docs/cuda.md counts).
#pragma once

#include "craft/engine/sweep.cuh"

namespace craft::engine {

constexpr int fused_rows = 128, fused_columns = 64;

/// What a fused sweep is told: rows of x against rows of y, d numbers each, in `splits` runs of tiles of y, each of which
/// leaves its sums apart: totals for every block, self and gradient for every row of x.
template <class T>
struct fused_sweep {
  const T* x;
  index_t n;
  const T* y;
  index_t m;
  int d;
  index_t tiles_per_split;
  bool gradient;   ///< whether the second product is wanted
  float split;     ///< what rounds the factors of products
  double* totals;  ///< splits x blocks x Element::totals
  double* self;    ///< splits x n
  T* partial;      ///< splits x n x d
};

/// Numbers k to k + 3 of a row of d, 0 beyond; k is a multiple of 4.
template <class T>
__device__ inline quad<T> quad_of_row(const T* row, int k, int d) {
  if (d % 4 != 0) return quad_from(row + k, d - k);
  return k < d ? *reinterpret_cast<const quad<T>*>(row + k) : quad<T>(T(0));
}

/// use(r, k, numbers k to k + 3 of row first + r) for Count rows, all 0 from the n-th on; a block's threads share them.
template <int Count, int D, class T, class Use>
__device__ inline void each_quad(const T* rows, index_t first, index_t n, int d, const Use& use) {
  for (int at = int(threadIdx.x); at < Count * (D / 4); at += block_threads) {
    const int r = at / (D / 4), k = at % (D / 4) * 4;
    use(r, k, first + r < n ? quad_of_row(rows + (first + r) * d, k, d) : quad<T>(T(0)));
  }
}

template <class Element, class T>
__device__ inline void store_totals(const fused_sweep<T>& f, const double* totals, double* scratch) {
  for (int q = 0; q < Element::totals; ++q) {
    const double total = block_sum(totals[q], scratch);
    if (threadIdx.x == 0)
      f.totals[(index_t(blockIdx.y) * gridDim.x + blockIdx.x) * Element::totals + q] = total;
  }
}

// ---------------------------------------------------------------------------------------------------------
// Plain multiplications and additions: double, and float as it is

/// Shared memory: x by columns, y by columns and by rows, weights by columns; a pad of 4 keeps 16-byte pieces aligned and
/// spreads columns over the banks.
template <class T, int D>
struct fused_memory {
  static constexpr int x_stride = fused_rows + 4, y_stride = fused_columns + 4, row_stride = D + 4;
  T x[D * x_stride];
  T y[D * y_stride];
  T y_rows[fused_columns * row_stride];
  T weights[fused_columns * x_stride];
  double self[fused_rows][16 + 1];  ///< of each thread
  double scratch[block_warps];
};

/// d <= D, D a multiple of 16. Thread (tx, ty) has 8 rows and 4 columns of a tile, and of the gradient 8 rows and D / 16
/// columns.
template <class T, class Element, int D>
__global__ void __launch_bounds__(block_threads, 1) fused_kernel(fused_sweep<T> f, sight<T> v, Element element) {
  using memory = fused_memory<T, D>;
  using At = places<T, 4, 4, 4>;
  constexpr int rows_each = 8, columns_each = 4, outputs_each = D / 16;
  memory& in_block = *shared<memory>();
  const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
  const index_t top = index_t(blockIdx.x) * fused_rows;
  each_quad<fused_rows, D>(f.x, top, f.n, f.d, [&](int r, int k, const quad<T>& row) {
#pragma unroll
    for (int q = 0; q < 4; ++q) in_block.x[(k + q) * memory::x_stride + r] = row.v[q];
  });
  T gradient[rows_each][outputs_each] = {};
  double totals[2] = {};
  block_view<Element, T> block;
  for (int r = 0; r < rows_each; ++r) in_block.self[ty * rows_each + r][tx] = 0;
  const index_t first = index_t(blockIdx.y) * f.tiles_per_split;
  for (index_t tile = first; tile < first + f.tiles_per_split && tile * fused_columns < f.m; ++tile) {
    const index_t left = tile * fused_columns;
    __syncthreads();  // nobody reads the tile before any more
    each_quad<fused_columns, D>(f.y, left, f.m, f.d, [&](int c, int k, const quad<T>& row) {
#pragma unroll
      for (int q = 0; q < 4; ++q) in_block.y[(k + q) * memory::y_stride + c] = row.v[q];
      *reinterpret_cast<quad<T>*>(&in_block.y_rows[c * memory::row_stride + k]) = row;
    });
    __syncthreads();
    T s[rows_each][columns_each] = {};
#pragma unroll 8
    for (int k = 0; k < D; ++k) {
      const quad<T> a0 = *reinterpret_cast<const quad<T>*>(&in_block.x[k * memory::x_stride + ty * rows_each]);
      const quad<T> a1 = *reinterpret_cast<const quad<T>*>(&in_block.x[k * memory::x_stride + ty * rows_each + 4]);
      const quad<T> b = *reinterpret_cast<const quad<T>*>(&in_block.y[k * memory::y_stride + tx * columns_each]);
#pragma unroll
      for (int r = 0; r < rows_each; ++r)
#pragma unroll
        for (int c = 0; c < columns_each; ++c) s[r][c] += (r < 4 ? a0.v[r % 4] : a1.v[r % 4]) * b.v[c];
    }
    // The pair function is there once for four columns and not for each of 32 pairs, which would take minutes to compile and more
    // registers than there are: a thread keeps its dot products in its own places of the tile of weights meanwhile.
    T* own = &in_block.weights[tx * columns_each * memory::x_stride + ty * rows_each];
#pragma unroll
    for (int c = 0; c < columns_each; ++c)
#pragma unroll
      for (int r = 0; r < rows_each; ++r) own[c * memory::x_stride + r] = s[r][c];
    const columns_view<Element, T, At> columns(element, v, {left + tx * columns_each, f.m});
    if (columns.there > 0) block.enter(element, v, columns.at.j, totals);
#pragma unroll 1
    for (int r = 0; r < rows_each; ++r) {
      const index_t i = top + ty * rows_each + r;
      const auto use = [&](const pair<quad<T>>& out) {
#pragma unroll
        for (int c = 0; c < columns_each; ++c) own[c * memory::x_stride + r] = out.weight.v[c];
        in_block.self[ty * rows_each + r][tx] += double(sum<4>(to_row<Element>(out), true));
      };
      if (i >= f.n || columns.there == 0) {
        use({T(0), T(0), T(0), T(0), T(0)});
        continue;
      }
      const auto dot = [&](int c) { return own[c * memory::x_stride + r]; };
      const auto dots = [&] { return quad<T>::of(dot); };
      look(element, v, row_view<Element, T>(element, v, i), columns, dots, dot, block, totals, use);
    }
    if (!f.gradient) continue;  // the whole grid
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < fused_columns; ++j) {
      const quad<T> a0 = *reinterpret_cast<const quad<T>*>(&in_block.weights[j * memory::x_stride + ty * rows_each]);
      const quad<T> a1 = *reinterpret_cast<const quad<T>*>(&in_block.weights[j * memory::x_stride + ty * rows_each + 4]);
      T b[outputs_each];
#pragma unroll
      for (int c = 0; c < outputs_each; ++c) b[c] = in_block.y_rows[j * memory::row_stride + tx * outputs_each + c];
#pragma unroll
      for (int r = 0; r < rows_each; ++r)
#pragma unroll
        for (int c = 0; c < outputs_each; ++c) gradient[r][c] += (r < 4 ? a0.v[r % 4] : a1.v[r % 4]) * b[c];
    }
  }
  block.leave(element, totals);
  store_totals<Element>(f, totals, in_block.scratch);
  if (!f.gradient) return;
  for (int r = 0; r < rows_each; ++r) {
    const index_t i = top + ty * rows_each + r;
    double self = in_block.self[ty * rows_each + r][tx];
    for (int o = 8; o > 0; o /= 2) self += __shfl_xor_sync(all_lanes, self, o);  // the 16 threads of a row stand side by side
    if (i >= f.n) continue;
    if (tx == 0) f.self[index_t(blockIdx.y) * f.n + i] = of_sums<Element> * self;
    for (int c = 0; c < outputs_each; ++c)
      if (tx * outputs_each + c < f.d)
        f.partial[(index_t(blockIdx.y) * f.n + i) * f.d + tx * outputs_each + c] = gradient[r][c];
  }
}

// ---------------------------------------------------------------------------------------------------------
// The sweep

/// Adds what the runs left apart, in their order, to the rows from `first` on.
template <class T>
struct fold_fused_step {
  fused_sweep<T> f;
  index_t splits, first;
  pull<T> g;
  __device__ void operator()(index_t at, const warp& lanes) const {
    const index_t i = first + at, d = f.d;
    for (index_t k = lanes.lane; k < d; k += warp_lanes) {
      T sum(0);
      for (index_t p = 0; p < splits; ++p) sum += f.partial[(p * f.n + i) * d + k];
      g.gradient[i * d + k] += sum;
    }
    if (!lanes.first()) return;
    double self = 0;
    for (index_t p = 0; p < splits; ++p) self += f.self[p * f.n + i];
    g.self[i] += self;
  }
};
struct fold_totals_step {
  const double* from;
  index_t blocks;
  int count;
  double* totals;
  __device__ void operator()(index_t q, const warp& lanes) const {
    const double s = lanes.sum<double>(blocks, [&](auto at) { return from[at.k * count + q]; });
    if (lanes.first()) totals[q] += s;
  }
};

}  // namespace craft::engine
