// Sweeps over short rows (relative representations have as many numbers as there are anchors): one kernel makes the dot
// products of a tile, turns them into weights, and multiplies these with the rows again. No dot product leaves the chip.
//
// A block owns fused_rows rows and goes through all tiles of fused_columns others; the gradient of its rows stays in
// registers. That takes the whole square instead of a triangle, 4 N^2 d multiply-adds instead of 3 N^2 d and two
// evaluations of the pair function instead of one, and saves the 20 bytes that a panel moves per pair: for short rows
// they are the greater part (docs/cuda.md counts).
#pragma once

#include "craft/engine/fragment.cuh"
#include "craft/engine/pairs.cuh"

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
  bool gradient;
  float split;     ///< what rounds the factors of products
  double* totals;  ///< splits x blocks x Element::totals
  double* self;    ///< splits x n
  T* partial;      ///< splits x n x d
};

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
__global__ void __launch_bounds__(block_threads, 1) fused_kernel(fused_sweep<T> f, Element element) {
  using memory = fused_memory<T, D>;
  constexpr int rows_each = 8, columns_each = 4, outputs_each = D / 16;
  memory& in_block = *shared<memory>();
  const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
  const index_t top = index_t(blockIdx.x) * fused_rows;
  for (int at = int(threadIdx.x); at < fused_rows * D; at += block_threads) {
    const int r = at / D, k = at % D;
    in_block.x[k * memory::x_stride + r] = top + r < f.n && k < f.d ? f.x[(top + r) * f.d + k] : T(0);
  }
  T gradient[rows_each][outputs_each] = {};
  double totals[2] = {};
  for (int r = 0; r < rows_each; ++r) in_block.self[ty * rows_each + r][tx] = 0;
  const index_t first = index_t(blockIdx.y) * f.tiles_per_split;
  for (index_t tile = first; tile < first + f.tiles_per_split && tile * fused_columns < f.m; ++tile) {
    const index_t left = tile * fused_columns;
    __syncthreads();  // nobody reads the tile before any more
    for (int at = int(threadIdx.x); at < fused_columns * D; at += block_threads) {
      const int c = at / D, k = at % D;
      const T v = left + c < f.m && k < f.d ? f.y[(left + c) * f.d + k] : T(0);
      in_block.y[k * memory::y_stride + c] = v;
      in_block.y_rows[c * memory::row_stride + k] = v;
    }
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
    // The pair function is there once for each column and not for each of 32 pairs, which would take minutes to compile and
    // more registers than there are: a thread keeps its dot products in its own places of the tile of weights meanwhile.
    T* own = &in_block.weights[tx * columns_each * memory::x_stride + ty * rows_each];
#pragma unroll
    for (int c = 0; c < columns_each; ++c)
#pragma unroll
      for (int r = 0; r < rows_each; ++r) own[c * memory::x_stride + r] = s[r][c];
    typename Element::column_side columns[columns_each];
#pragma unroll
    for (int c = 0; c < columns_each; ++c) {
      const index_t j = left + tx * columns_each + c;
      columns[c] = element.column(j < f.m ? j : f.m - 1);
    }
#pragma unroll 1
    for (int r = 0; r < rows_each; ++r) {
      const index_t i = top + ty * rows_each + r;
      const bool row_there = i < f.n;
      const typename Element::row_side row = element.row(row_there ? i : f.n - 1);
      T value(0), second(0), row_sum(0);
#pragma unroll
      for (int c = 0; c < columns_each; ++c) {
        const index_t j = left + tx * columns_each + c;
        const bool there = row_there && j < f.m;
        pair_result<T> out{};
        if (there) out = element(row, columns[c], i, j, own[c * memory::x_stride + r]);
        round_weight<Element>(out, 1);
        value += out.value;
        second += out.second;
        row_sum += out.by_row;
        own[c * memory::x_stride + r] = out.weight;
      }
      if (row_there) add_values(element, row, value, second, totals);
      in_block.self[ty * rows_each + r][tx] += double(row_sum);
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
  store_totals<Element>(f, totals, in_block.scratch);
  if (!f.gradient) return;
  for (int r = 0; r < rows_each; ++r) {
    const index_t i = top + ty * rows_each + r;
    double sum = in_block.self[ty * rows_each + r][tx];
    for (int o = 8; o > 0; o /= 2) sum += __shfl_xor_sync(all_lanes, sum, o);  // the 16 threads of a row stand side by side
    if (i >= f.n) continue;
    if (tx == 0) f.self[index_t(blockIdx.y) * f.n + i] = sum;
    for (int c = 0; c < outputs_each; ++c)
      if (tx * outputs_each + c < f.d)
        f.partial[(index_t(blockIdx.y) * f.n + i) * f.d + tx * outputs_each + c] = gradient[r][c];
  }
}

// ---------------------------------------------------------------------------------------------------------
// Tensor cores: float with factors rounded to TF32, or to bfloat16, whose numbers are among TF32's: their products are the same, and
// one kernel does for both.

/// Rows of y, 4 numbers of padding: then neither product meets a bank twice.
template <int D>
struct tensor_memory {
  static constexpr int stride = D + 4;
  float y[fused_columns * stride];
  double scratch[block_warps];
};

/// d <= D, D a multiple of 8. A warp has 16 rows; its rows of x, the tile of weights and its gradient are fragments.
template <class Element, int D>
__global__ void __launch_bounds__(block_threads, 1) tensor_kernel(fused_sweep<float> f, Element element) {
  using memory = tensor_memory<D>;
  constexpr int steps = D / 8, blocks = fused_columns / 8;
  memory& in_block = *shared<memory>();
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const int g = lane / 4, t = lane % 4;  // as fragments count
  const index_t rows[2] = {index_t(blockIdx.x) * fused_rows + warp * 16 + g,
                           index_t(blockIdx.x) * fused_rows + warp * 16 + g + 8};
  float x[steps][4];
#pragma unroll
  for (int k = 0; k < steps; ++k)
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const index_t i = rows[q % 2];
      const int column = k * 8 + t + (q / 2) * 4;
      x[k][q] = rounded(i < f.n && column < f.d ? f.x[i * f.d + column] : 0.0f, f.split);
    }
  typename Element::row_side sides[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) sides[r] = element.row(rows[r] < f.n ? rows[r] : f.n - 1);
  float gradient[steps][4] = {};
  double self[2] = {}, totals[2] = {};
  const index_t first = index_t(blockIdx.y) * f.tiles_per_split;
  for (index_t tile = first; tile < first + f.tiles_per_split && tile * fused_columns < f.m; ++tile) {
    const index_t left = tile * fused_columns;
    __syncthreads();  // nobody reads the tile before any more
    for (int at = int(threadIdx.x); at < fused_columns * D; at += block_threads) {
      const int c = at / D, k = at % D;
      in_block.y[c * memory::stride + k] = rounded(left + c < f.m && k < f.d ? f.y[(left + c) * f.d + k] : 0.0f, f.split);
    }
    __syncthreads();
    float value[2] = {}, second[2] = {}, row_sum[2] = {};
#pragma unroll 1
    for (int b = 0; b < blocks; ++b) {
      float s[4] = {};
#pragma unroll
      for (int k = 0; k < steps; ++k) {
        const float* y = &in_block.y[(b * 8 + g) * memory::stride + k * 8 + t];
        const float column[2] = {y[0], y[4]};
        multiply_add(s, x[k], column);
      }
      typename Element::column_side columns[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const index_t j = left + b * 8 + 2 * t + c;
        columns[c] = element.column(j < f.m ? j : f.m - 1);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int r = q / 2;
        const index_t j = left + b * 8 + 2 * t + q % 2;
        pair_result<float> out{};
        if (rows[r] < f.n && j < f.m) out = element(sides[r], columns[q % 2], rows[r], j, s[q]);
        round_weight<Element>(out, f.split);
        value[r] += out.value;
        second[r] += out.second;
        row_sum[r] += out.by_row;
        s[q] = out.weight;
      }
      if (!f.gradient) continue;  // the whole grid
      // The result of one product is the left operand of the next, its columns taken in the order 0 2 4 6 1 3 5 7; the rows
      // of y are taken in the same order.
      const float weights[4] = {s[0], s[2], s[1], s[3]};
      const float* y = &in_block.y[(b * 8 + 2 * t) * memory::stride + g];
#pragma unroll
      for (int k = 0; k < steps; ++k) {
        const float row[2] = {y[k * 8], y[k * 8 + memory::stride]};
        multiply_add(gradient[k], weights, row);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (rows[r] < f.n) add_values(element, sides[r], value[r], second[r], totals);
      self[r] += double(row_sum[r]);
    }
  }
  store_totals<Element>(f, totals, in_block.scratch);
  if (!f.gradient) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    double sum = self[r];
    for (int o = 2; o > 0; o /= 2) sum += __shfl_xor_sync(all_lanes, sum, o);  // the four lanes of a row
    if (rows[r] >= f.n) continue;
    if (t == 0) f.self[index_t(blockIdx.y) * f.n + rows[r]] = sum;
#pragma unroll
    for (int k = 0; k < steps; ++k)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = k * 8 + 2 * t + c;
        if (column < f.d) f.partial[(index_t(blockIdx.y) * f.n + rows[r]) * f.d + column] = gradient[k][2 * r + c];
      }
  }
}

// ---------------------------------------------------------------------------------------------------------
// The sweep

/// Adds what the runs left apart, in their order, to the rows in [first, last).
template <class T>
struct fold_fused_step {
  fused_sweep<T> f;
  index_t splits, first;
  pull<T> g;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, f.d);
    const index_t i = first + c.row, k = c.column;
    T sum(0);
    for (index_t p = 0; p < splits; ++p) sum += f.partial[(p * f.n + i) * f.d + k];
    g.gradient[i * f.d + k] += sum;
    if (k != 0) return;
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
  __device__ void operator()(index_t q, int lane) const {
    double s = 0;
    for (index_t b = lane; b < blocks; b += warp_lanes) s += from[b * count + q];
    s = warp_sum(s);
    if (lane == 0) totals[q] += s;
  }
};

template <class T, class Element, int D>
void cuda_engine::launch_fused(index_t blocks, index_t splits, const fused_sweep<T>& f, const Element& element) const {
  if constexpr (std::is_same_v<T, float>)
    if (ctx_.precision() != precision::strict)
      return launch("tensor", tensor_kernel<Element, D>, blocks, splits, block_threads, sizeof(tensor_memory<D>), f, element);
  if constexpr (sizeof(T) == 4 || D <= 64)
    launch("fused", fused_kernel<T, Element, D>, blocks, splits, block_threads, sizeof(fused_memory<T, D>), f, element);
}

/// Whether registers and this device's shared memory hold what a fused sweep over rows of d numbers needs.
template <class T>
bool cuda_engine::fuses(index_t d) const {
  if (d > std::min<index_t>(ctx_.fused(), sizeof(T) == 8 ? 64 : 128)) return false;
  if (sizeof(T) == 4 && ctx_.precision() != precision::strict) return true;
  const std::size_t bytes = d <= 16   ? sizeof(fused_memory<T, 16>)
                            : d <= 32 ? sizeof(fused_memory<T, 32>)
                            : d <= 64 ? sizeof(fused_memory<T, 64>)
                                      : sizeof(fused_memory<T, 128>);
  return bytes <= ctx_.shared_bytes();
}

/// A quadratic form of z and the gradient of its rows in [first_wanted, last_wanted).
template <class T, class Element>
void cuda_engine::fused(const rows<T>& z, const Element& element, double* totals, const pull<T>& g, index_t first_wanted,
                        index_t last_wanted) {
  const workspace::frame inner(ctx_.scratch());
  Element here = element;
  here.square_end = z.n;  // the whole square: no pair stands for its mirror image
  // Runs enough to keep every multiprocessor busy with two blocks, if there are tiles enough.
  const index_t blocks = (z.n + fused_rows - 1) / fused_rows, tiles = (z.n + fused_columns - 1) / fused_columns;
  const index_t wanted = std::max<index_t>(1, std::min(tiles, (2 * index_t(ctx_.processors()) + blocks - 1) / blocks));
  const index_t per_split = (tiles + wanted - 1) / wanted, splits = (tiles + per_split - 1) / per_split;
  fused_sweep<T> f{z.data, z.n, z.data, z.n, int(z.d), per_split, g.wanted(), split(), nullptr, nullptr, nullptr};
  f.totals = take<double>(blocks * splits * Element::totals);
  if (f.gradient) {
    f.self = take<double>(splits * z.n);
    f.partial = take<T>(splits * z.n * z.d);
  }
  if (z.d <= 16)
    launch_fused<T, Element, 16>(blocks, splits, f, here);
  else if (z.d <= 32)
    launch_fused<T, Element, 32>(blocks, splits, f, here);
  else if (z.d <= 64)
    launch_fused<T, Element, 64>(blocks, splits, f, here);
  else
    launch_fused<T, Element, 128>(blocks, splits, f, here);
  launch("fold_totals", row_kernel<fold_totals_step>, 1, 1, block_threads, 0, Element::totals,
         fold_totals_step{f.totals, blocks * splits, Element::totals, totals});
  if (f.gradient)
    each((last_wanted - first_wanted) * z.d, fold_fused_step<T>{f, splits, first_wanted, g});
}

}  // namespace craft::engine
