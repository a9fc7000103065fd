// An element over all pairs, panel by panel: one kernel turns the dot products of a panel, in place, into the weights W of the
// pull-back, and sums up the rest.
#pragma once

#include "craft/engine/pairs.cuh"
#include "craft/engine/schedule.cuh"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// The panel kernel. A block takes some rows for each of its warps and up to columns_per_block columns of one sample; a warp one
// row at a time, a lane two times four columns side by side, so that several 16-byte loads are under way at once; or four of
// doubles, or where the pair function itself keeps many numbers, since registers would not do for more.

constexpr int quads_per_lane = 2, columns_per_block = quads_per_lane * 4 * warp_lanes;
template <class T, class Element>
constexpr int panel_quads = sizeof(T) == 8 || is_heavy<Element>::value ? 1 : 2;
template <class T, class Element>
constexpr int panel_block_columns = panel_quads<T, Element> * 4 * warp_lanes;
/// Rows of a warp: more where there are blocks enough, since what a block does once is shared by all its pairs then.
constexpr int few_rows_per_warp = 4, most_rows_per_warp = 16;
inline int rows_per_warp(index_t ni, index_t nj) {
  return ni * nj >= (index_t(1) << 22) ? most_rows_per_warp : few_rows_per_warp;
}

/// The columns of a panel in up to three parts, whose pairs count alike; each begins at a multiple of four.
struct column_parts {
  int begin[4];
  __host__ __device__ int blocks(int part, int columns) const { return (begin[part + 1] - begin[part] + columns - 1) / columns; }
  template <class T>
  static column_parts of(const panel<T>& p, const sight<T>& v) {
    const auto within = [&](index_t border) { return int(std::min<index_t>(std::max<index_t>(border - p.j0, 0) / 4 * 4, p.nj)); };
    const int a = within(v.split), b = within(v.mirrored);
    return {{0, (std::min)(a, b), (std::max)(a, b), p.nj}};
  }
};

/// Blocks that share a multiprocessor's registers: doubles take twice as many.
template <class T>
constexpr int blocks_at_once = sizeof(T) == 8 ? 1 : 2;

/// Sums of blocks: totals of each block; per row one for each block beside, per column one for each block below.
template <class T>
struct panel_sums {
  double* totals;
  T *rows, *columns;
};
/// Shared memory of the kernel: the rows; row sums of every lane; column sums of every warp; and scratch of block_sum.
template <class T, class Element>
struct panel_memory {
  static constexpr int most_rows = block_warps * most_rows_per_warp, stride = warp_lanes + 1;
  alignas(16) unsigned char rows[most_rows * sizeof(row_view<Element, T>)];
  T row_sums[most_rows * stride], column_sums[block_warps * panel_block_columns<T, Element>];
  double scratch[block_warps];
};

template <class T, class Element>
__global__ void __launch_bounds__(block_threads, blocks_at_once<T>)
    panel_kernel(panel<T> p, sight<T> v, column_parts parts, Element element, panel_sums<T> sums, int rows_each) {
  using At = places<T, panel_quads<T, Element> * 4, 4, 4 * warp_lanes>;
  constexpr int block_columns = panel_block_columns<T, Element>;
  constexpr bool norms = Element::weighs && Element::norms;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  int left = int(blockIdx.x), part = 0;
  for (; left >= parts.blocks(part, block_columns); ++part) left -= parts.blocks(part, block_columns);
  left = parts.begin[part] + left * block_columns;
  const int mine = left + lane * 4;
  const columns_view<Element, T, At> columns(element, v, {p.j0 + mine, p.j0 + parts.begin[part + 1]});
  typename At::number column_sums(T(0));
  block_view<Element, T> block;
  double totals[2] = {};
  if (columns.there > 0) block.enter(element, v, columns.at.j, totals);
  panel_memory<T, Element>& in_block = *shared<panel_memory<T, Element>>();
  const int top = int(blockIdx.y) * rows_each * block_warps, from = top + warp * rows_each;
  const int rows_here = from + rows_each < p.ni ? rows_each : p.ni - from;
  auto* rows = reinterpret_cast<row_view<Element, T>*>(in_block.rows) + warp * rows_each;
  if (lane < rows_here) new (rows + lane) row_view<Element, T>(element, v, p.i0 + from + lane);
  __syncthreads();
  T* line = p.s + index_t(from) * p.stride + mine;
  T* row_sum = in_block.row_sums + warp * rows_each * in_block.stride + lane;
  const auto quad_of = [&](int q) -> quad<T>& { return *reinterpret_cast<quad<T>*>(line + q * 4 * warp_lanes); };
  const bool rounds = p.split > 1;
  quad<T> second(T(0));
  for (int r = columns.there > 0 ? rows_here : 0; norms && r < rows_here; ++r) row_sum[r * in_block.stride] = T(0);
#pragma unroll 1
  for (int r = columns.there > 0 ? rows_here : 0; r > 0; --r) {
    const auto dots = [&] {
      if constexpr (!Element::reads) return typename At::number(T(0));
      const quad<T> first = quad_of(0);
      if (At::numbers > 4 && columns.all) second = quad_of(1);
      return At::number::of([&](int c) { return c < 4 ? first.v[c] : second.v[c - 4]; });
    };
    const auto dot = [&](int c) { return line[c % 4 + c / 4 * 4 * warp_lanes]; };
    const auto use = [&](pair<typename At::number> out) {
      if constexpr (Element::weighs) {
        if (rounds) round_weights<Element>(out, p.split);
        quad_of(0) = quad<T>::of([&](int c) { return out.weight.v[c]; });
        if constexpr (At::numbers > 4)
          if (columns.there > 4) quad_of(1) = quad<T>::of([&](int c) { return out.weight.v[c + 4]; });
      }
      if constexpr (norms) {
        *row_sum = sum<4>(to_row<Element>(out), columns.there > 4);
        column_sums = column_sums + to_columns<Element>(out);
      }
    };
    look(element, v, rows[rows_here - r], columns, dots, dot, block, totals, use);
    line += p.stride, row_sum += in_block.stride;
  }
  block.leave(element, totals);
  if constexpr (norms) {
    const T by = T(of_sums<Element>);
#pragma unroll
    for (int c = 0; c < At::numbers; ++c)
      in_block.column_sums[warp * block_columns + lane * 4 + c % 4 + c / 4 * 4 * warp_lanes] = column_sums.v[c];
    __syncthreads();
    for (int j = int(threadIdx.x); j < block_columns && left + j < parts.begin[part + 1]; j += block_threads) {
      T sum(0);
      for (int w = 0; w < block_warps; ++w) sum += in_block.column_sums[w * block_columns + j];
      sums.columns[index_t(blockIdx.y) * p.nj + left + j] = by * sum;
    }
    for (int r = int(threadIdx.x); r < rows_each * block_warps && top + r < p.ni; r += block_threads) {
      T sum(0);
      for (int l = 0; l < warp_lanes; ++l) sum += in_block.row_sums[r * in_block.stride + l];
      sums.rows[index_t(blockIdx.x) * p.ni + top + r] = by * sum;
    }
  }
#pragma unroll
  for (int q = 0; q < Element::totals; ++q) {
    const double total = block_sum(totals[q], in_block.scratch);
    if (threadIdx.x == 0) sums.totals[(index_t(blockIdx.y) * gridDim.x + blockIdx.x) * Element::totals + q] = total;
  }
}

/// Adds the sums of all blocks of a panel, in their order: the first block the totals, the others rows and columns. Columns
/// before `first_column` are left alone: in a triangle's diagonal square they are the rows once more, and another thread adds
/// to the same number.
template <class T>
__global__ void __launch_bounds__(block_threads)
    fold_panel_kernel(panel_sums<T> sums, index_t blocks_beside, index_t blocks_below, int count, double* totals, index_t ni,
                      double* row_self, index_t first_column, index_t nj, double* column_self) {
  if (blockIdx.x == 0) {
    double* scratch = shared<double>();
    for (int q = 0; q < count; ++q) {
      double s = 0;
      for (index_t b = index_t(threadIdx.x); b < blocks_beside * blocks_below; b += block_threads)
        s += sums.totals[b * count + q];
      s = block_sum(s, scratch);
      if (threadIdx.x == 0) totals[q] += s;
    }
    return;
  }
  const index_t t = (index_t(blockIdx.x) - 1) * block_threads + index_t(threadIdx.x);
  if (t < ni && row_self != nullptr) {
    double s = 0;
    for (index_t b = 0; b < blocks_beside; ++b) s += double(sums.rows[b * ni + t]);
    row_self[t] += s;
  }
  const index_t j = t - ni;
  if (j >= first_column && j < nj && column_self != nullptr) {
    double s = 0;
    for (index_t b = 0; b < blocks_below; ++b) s += double(sums.columns[b * nj + j]);
    column_self[j] += s;
  }
}

// ---------------------------------------------------------------------------------------------------------
// One element over all panels

template <class T>
struct panel_sweep {
  rows<T> x, y;
  bool triangle;
  sight<T> v;
  double* totals;
  pull<T> gx, gy;
  index_t first_wanted, last_wanted;  ///< in a triangle, of whose rows a gradient is wanted
  T* kept;
};
template <class T, class Element>
void cuda_engine::sweep(const panel_sweep<T>& told, const Element& element) {
  const workspace::frame inner(ctx_.scratch());
  const rows<T>&x = told.x, &y = told.y;
  const auto blocks = [](index_t n, index_t per_block) { return (n + per_block - 1) / per_block; };
  const panel_shape<T> most(ctx_, x, y);
  constexpr int block_columns = panel_block_columns<T, Element>;
  const index_t most_beside = blocks(most.columns, block_columns) + 2,
                most_below = blocks(most.rows, few_rows_per_warp * block_warps);
  constexpr bool norms = Element::norms && Element::weighs;
  panel_sums<T> sums{take<double>(most_beside * most_below * (std::max)(Element::totals, 1)), nullptr, nullptr};
  if (norms) sums.rows = take<T>(most_beside * most.rows), sums.columns = take<T>(most_below * most.columns);
  panel_pullback<T> to{factors_of(x, y), told.triangle, told.gx, told.gy, told.first_wanted, told.last_wanted, nullptr};
  if (Element::weighs && to.f.x.narrow != nullptr) to.narrow = take<std::uint16_t>(most.numbers());
  const auto visit = [&](const panel<T>& p) {
    const int rows_each = rows_per_warp(p.ni, p.nj);
    sight<T> v = told.v;
    if (told.triangle) v.mirrored = p.i0 + p.ni;
    const column_parts parts = column_parts::of(p, v);
    const index_t beside = parts.blocks(0, block_columns) + parts.blocks(1, block_columns) + parts.blocks(2, block_columns),
                  below = blocks(p.ni, rows_each * block_warps);
    launch("panel", panel_kernel<T, Element>, beside, below, block_threads, sizeof(panel_memory<T, Element>), p, v, parts,
           element, sums, rows_each);
    if (Element::totals > 0 || norms)
      launch("fold_panel", fold_panel_kernel<T>, 1 + (norms ? blocks(p.ni + p.nj, block_threads) : 0), 1, block_threads,
             block_warps * sizeof(double), sums, beside, below, Element::totals, told.totals, index_t(p.ni),
             norms ? told.gx.self + p.i0 : nullptr, told.triangle ? std::max<index_t>(p.i0 + p.ni - p.j0, 0) : 0, index_t(p.nj),
             norms ? told.gy.self + p.j0 : nullptr);
    if (Element::weighs) pull_back(p, to, x.d);
  };
  panels(x, y, to.f, told.triangle, visit, told.kept, told.kept != nullptr || !Element::reads);
}

template <class T>
void cuda_engine::add_self(const rows<T>& x, const pull<T>& g) const {
  if (g.gradient != nullptr) each_row(x.n, x.d, add_self_step<T>{x, g});
}
template <class T, class Element>
void cuda_engine::rectangle(const rectangle_sweep<T>& told, const Element& element) {
  const sight<T> v(told.x, told.y, told.y.n, told.offset, told.with_itself);
  sweep(panel_sweep<T>{told.x, told.y, false, v, told.totals, told.gx, told.gy, 0, 0, told.kept}, element);
  if (!Element::norms || !Element::weighs) return;
  add_self(told.x, told.gx);
  add_self(told.y, told.gy);
}
template <class T, class Element>
void cuda_engine::square(const square_sweep<T>& told, const Element& element) {
  const rows<T>& z = told.z;
  const sight<T> v(z, z, told.split, 0, told.with_itself);
  if (told.parameters > 0) sum_parameters(told, v, element.weighing());
  const index_t first = told.pull_first ? 0 : told.split, last = told.pull_second ? z.n : told.split;
  if (fuses<T>(z.d)) {
    fused(told, v, element.weighing(), first, last);
  } else {
    sweep(panel_sweep<T>{z, z, true, v, told.totals, told.g, told.g, first, last, nullptr}, element);
  }
  if (Element::weighs) add_self(z, told.g);
}

}  // namespace craft::engine
