// Fused sweeps (fused.cuh) on tensor cores: float with factors rounded to TF32, or to bfloat16, whose numbers are among TF32's:
// their products are the same, and one kernel does for both.
#pragma once

#include "craft/engine/fragment.cuh"
#include "craft/engine/fused.cuh"

namespace craft::engine {

/// Rows of y, 4 numbers of padding: then neither product meets a bank twice; and what is kept of rows of x, for which there are
/// no registers left.
template <class Element, int D>
struct tensor_memory {
  static constexpr int stride = D + 4;
  alignas(16) unsigned char rows[fused_rows * sizeof(row_view<Element, float>)];
  float y[fused_columns * stride];
  double scratch[block_warps];
};

/// d <= D, D a multiple of 8. A warp has 16 rows; its rows of x, the tile of weights and its gradient are fragments.
template <class Element, int D>
__global__ void __launch_bounds__(block_threads, 1) tensor_kernel(fused_sweep<float> f, sight<float> v, Element element) {
  using memory = tensor_memory<Element, D>;
  // Pairs of a row at a time: fewer where registers would not do, of long rows and for a pair function that keeps many numbers.
  constexpr int together = D <= 64 ? 8 : is_heavy<Element>::value ? 2 : 4;
  using At = places<float, together, 2, 8>;
  constexpr int steps = D / 8, blocks = fused_columns / 32;
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
      x[k][q] = i < f.n && column < f.d ? f.x[i * f.d + column] : 0.0f;
    }
  const auto row_of = [&](int r) { return rows[r] < f.n ? rows[r] : f.n - 1; };
  auto* const sides = reinterpret_cast<row_view<Element, float>*>(in_block.rows) + warp * 16 + g;
  if (t < 2) new (sides + 8 * t) row_view<Element, float>(element, v, t == 0 ? row_of(0) : row_of(1));
  float gradient[steps][4] = {};
  double self[2] = {}, totals[2] = {};
  block_view<Element, float> block;
  const index_t first = index_t(blockIdx.y) * f.tiles_per_split;
  for (index_t tile = first; tile < first + f.tiles_per_split && tile * fused_columns < f.m; ++tile) {
    const index_t left = tile * fused_columns;
    __syncthreads();  // nobody reads the tile before any more
    // square_norms has rounded the rows.
    each_quad<fused_columns, D>(f.y, left, f.m, f.d, [&](int c, int k, const quad<float>& row) {
      *reinterpret_cast<quad<float>*>(&in_block.y[c * memory::stride + k]) = row;
    });
    __syncthreads();
    float row_sum[2] = {};
#pragma unroll 1
    for (int b = 0; b < blocks; ++b) {
      // Four blocks of eight columns side by side: of two rows, each lane has eight columns.
      float s[4][4] = {};
#pragma unroll
      for (int k = 0; k < steps; ++k)
#pragma unroll
        for (int h = 0; h < 4; ++h) {
          const float* y = &in_block.y[(b * 32 + h * 8 + g) * memory::stride + k * 8 + t];
          const float column[2] = {y[0], y[4]};
          multiply_add(s[h], x[k], column);
        }
#pragma unroll
      for (int part = 0; part < 8 / together; ++part) {
        const int h0 = part * together / 2;
        const columns_view<Element, float, At> columns(element, v, {left + b * 32 + h0 * 8 + 2 * t, f.m});
        if (columns.there > 0) block.enter(element, v, columns.at.j, totals);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const typename At::number here = At::number::of([&](int c) { return s[h0 + c / 2][2 * r + c % 2]; });
          const auto dot = [&](int c) {
            float wanted = 0;
#pragma unroll
            for (int k = 0; k < At::numbers; ++k) wanted = k == c ? here.v[k] : wanted;
            return wanted;
          };
          const auto use = [&](pair<typename At::number> out) {
            round_weights<Element>(out, f.split);
            row_sum[r] += sum<2>(to_row<Element>(out), columns.there > 2);
#pragma unroll
            for (int c = 0; c < At::numbers; ++c) s[h0 + c / 2][2 * r + c % 2] = out.weight.v[c];
          };
          if (rows[r] < f.n && columns.there > 0)
            look(
                element, v, sides[8 * r], columns, [&] { return here; }, dot, block, totals, use);
          else
            use({0.0f, 0.0f, 0.0f, 0.0f, 0.0f});
        }
      }
      // The result of one product is the left operand of the next, its columns taken in the order 0 2 4 6 1 3 5 7; the rows
      // of y are taken in the same order.
      if (!f.gradient) continue;  // the whole grid
#pragma unroll
      for (int h = 0; h < 4; ++h) {
        const float weights[4] = {s[h][0], s[h][2], s[h][1], s[h][3]};
        const float* y = &in_block.y[(b * 32 + h * 8 + 2 * t) * memory::stride + g];
#pragma unroll
        for (int k = 0; k < steps; ++k) {
          const float row[2] = {y[k * 8], y[k * 8 + memory::stride]};
          multiply_add(gradient[k], weights, row);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) self[r] += double(row_sum[r]);
  }
  block.leave(element, totals);
  store_totals<Element>(f, totals, in_block.scratch);
  if (!f.gradient) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    double all = self[r];
    for (int o = 2; o > 0; o /= 2) all += __shfl_xor_sync(all_lanes, all, o);  // the four lanes of a row
    if (rows[r] >= f.n) continue;
    if (t == 0) f.self[index_t(blockIdx.y) * f.n + rows[r]] = of_sums<Element> * all;
#pragma unroll
    for (int k = 0; k < steps; ++k)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = k * 8 + 2 * t + c;
        if (column < f.d) f.partial[(index_t(blockIdx.y) * f.n + rows[r]) * f.d + column] = gradient[k][2 * r + c];
      }
  }
}

template <class T, class Element, int D>
void cuda_engine::launch_fused(index_t blocks, index_t splits, const fused_sweep<T>& f, const sight<T>& v,
                               const Element& element) const {
  if constexpr (std::is_same_v<T, float>)
    if (ctx_.precision() != precision::strict)
      return launch("tensor", tensor_kernel<Element, D>, blocks, splits, block_threads, sizeof(tensor_memory<Element, D>), f, v,
                    element);
  if constexpr (sizeof(T) == 4 || D <= 64)
    launch("fused", fused_kernel<T, Element, D>, blocks, splits, block_threads, sizeof(fused_memory<T, D>), f, v, element);
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

/// An element over all pairs of z, with the gradient of its rows in [first_wanted, last_wanted).
template <class T, class Element>
void cuda_engine::fused(const square_sweep<T>& told, const sight<T>& v, const Element& element, index_t first_wanted,
                        index_t last_wanted) {
  const workspace::frame inner(ctx_.scratch());
  const rows<T>& z = told.z;
  // Runs enough to keep every multiprocessor busy with two blocks, if there are tiles enough.
  const index_t blocks = (z.n + fused_rows - 1) / fused_rows, tiles = (z.n + fused_columns - 1) / fused_columns;
  const index_t wanted = std::max<index_t>(1, (std::min)(tiles, (2 * index_t(ctx_.processors()) + blocks - 1) / blocks));
  const index_t per_split = (tiles + wanted - 1) / wanted, splits = (tiles + per_split - 1) / per_split;
  fused_sweep<T> f{z.data, z.n, z.data, z.n, int(z.d), per_split, told.g.wanted(), split(), nullptr, nullptr, nullptr};
  f.totals = take<double>(blocks * splits * Element::totals);
  if (f.gradient) {
    f.self = take<double>(splits * z.n);
    f.partial = take<T>(splits * z.n * z.d);
  }
  if (z.d <= 16)
    launch_fused<T, Element, 16>(blocks, splits, f, v, element);
  else if (z.d <= 32)
    launch_fused<T, Element, 32>(blocks, splits, f, v, element);
  else if (z.d <= 64)
    launch_fused<T, Element, 64>(blocks, splits, f, v, element);
  else
    launch_fused<T, Element, 128>(blocks, splits, f, v, element);
  each_row(Element::totals, blocks * splits, fold_totals_step{f.totals, blocks * splits, Element::totals, told.totals});
  if (f.gradient) each_row(last_wanted - first_wanted, z.d, fold_fused_step<T>{f, splits, first_wanted, told.g});
}

}  // namespace craft::engine
