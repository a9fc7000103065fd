// What happens to a panel of dot products: a pair at a time they become values, sums and, in place, the weights W of the
// pull-back
//
//     dX += W Y + 2 diag(row sums) X        dY += W' X + 2 diag(column sums) Y
//
// An element struct says what one pair gives; pair functions are the ones the CPU calls. Rows and columns are counted from
// the beginning of x and y.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "craft/engine/rows.cuh"
#include "craft/kernels.hpp"

namespace craft::engine {

/// Dot products of rows [i0, i0 + ni) with columns [j0, j0 + nj), rows of the panel `stride` apart (a multiple of 4); and what rounds
/// the weights that replace them.
template <class T>
struct panel {
  T* s;
  index_t stride, i0, ni, j0, nj;
  float split = 1;
};

/// What a pair gives: to the totals, to the sums of its row and, if it stands for `both` ways, of its column, and its weight.
template <class T>
struct pair_result {
  T value, second, by_row, by_column, weight;
  bool both;
};

/// |x_i - y_j|^2 from the rows, for a pair that is near.
template <class T>
__device__ inline T row_distance(const rows<T>& x, index_t i, const rows<T>& y, index_t j) {
  const T *xi = x.data + i * x.d, *yj = y.data + j * y.d;
  T sum(0);
#pragma unroll 1  // few pairs come here, and each of a thread's pairs has this loop
  for (index_t k = 0; k < x.d; ++k) sum += (xi[k] - yj[k]) * (xi[k] - yj[k]);
  return sum;
}
/// What a pair function looks at, and whether no gradient comes from there.
template <class T>
struct looked_at {
  pair_scalars<T> at;
  bool still;
};
/// Of the distance if the pair is near, else what it looks at anyway.
template <class K, class T>
__device__ inline looked_at<T> look(const near_pairs<T>& near, const rows<T>& x, index_t i, const rows<T>& y, index_t j,
                                    const pair_scalars<T>& at) {
  if (!K::translation_invariant || !near(at.s, at.a, at.b)) return {at, false};
  const T D = row_distance(x, i, y, j);
  return {pair_scalars<T>::at_distance(D), D == T(0)};
}

// ---------------------------------------------------------------------------------------------------------
// Elements. row(i) and column(j) fetch what belongs to one row or column; totals: how many sums over all pairs there are.
// The values of a row's pairs are summed first; where weighs_rows, add_row takes these sums to the totals. reads: whether it looks
// at dot products. by_norms: whether it gives sums of rows and columns; radial: whether these are minus half the weights, as for a
// function of the distance, and left to round_weight.

/// The weight as a product will have it, and with it the sums: W Y and 2 diag(sums) X nearly cancel where rows are near, and what W
/// loses in rounding must not stay in the sums.
template <class Element, class T>
__device__ inline void round_weight(pair_result<T>& out, float split) {
  const T weight = rounded(out.weight, split);
  if constexpr (Element::by_norms) {
    if constexpr (Element::radial) {
      out.by_row = T(-0.5) * weight;
      out.by_column = out.both ? out.by_row : T(0);
    } else if (split > 1 && out.weight != T(0)) {
      out.by_row *= weight / out.weight;
      out.by_column *= weight / out.weight;
    }
  }
  out.weight = weight;
}

/// sum_ij u_ij k(z_i, z_j) over the upper triangle of panels: a pair beyond the panel's diagonal square (columns from
/// `square_end` on) stands for its mirror image too. A row with itself and near rows stand apart as on the CPU.
template <class T, class K>
struct quadratic_element {  // values within a sample and across are summed apart, see add_row
  static constexpr int totals = 1;
  static constexpr bool by_norms = true, radial = K::translation_invariant, weighs_rows = true, reads = true;
  K kernel;
  rows<T> z;
  near_pairs<T> near;
  form_weights<T, device_number> weights;
  index_t split, square_end;
  bool skip_diagonal, gradient;

  struct column_side {
    T squared, weight;
    bool first;
  };
  /// With the factors of the row's own block and of the other one, times the row's weight.
  struct row_side {
    T squared;
    bool first;
    double within, across;
  };
  __device__ column_side column(index_t j) const { return {z.squared[j], weights.per_row[j], j < split}; }
  __device__ row_side row(index_t i) const {
    const double x = double(weights.within_x), y = double(weights.within_y), weight = double(weights.per_row[i]);
    return {z.squared[i], i < split, weight * (i < split ? x : y), weight * double(weights.across)};
  }
  __device__ bool writes() const { return gradient; }
  __device__ looked_at<T> look(const row_side& a, const column_side& b, index_t i, index_t j, T s) const {
    if (i == j) return {{a.squared, a.squared, a.squared}, false};  // a row with itself, known by its index
    return engine::look<K>(near, z, i, z, j, pair_scalars<T>{s, a.squared, b.squared});
  }
  __device__ pair_result<T> operator()(const row_side& a, const column_side& b, index_t i, index_t j, T s) const {
    if (i == j && skip_diagonal) return {};
    const auto [at, still] = look(a, b, i, j, s);
    const bool mirrored = j >= square_end, across = a.first != b.first;
    const T count = mirrored ? b.weight + b.weight : b.weight;
    if (!gradient) {
      const T value = count * kernel.value(at.s, at.a, at.b);
      return {across ? T(0) : value, across ? value : T(0), T(0), T(0), T(0), false};
    }
    const pair_partials<T> k = kernel.partials(at.s, at.a, at.b);
    const T value = count * k.value;
    const T u = still ? T(0) : T(2 * (across ? a.across : a.within)) * b.weight;
    if (i == j) return {value, T(0), T(0.5) * u * (k.ds + k.da + k.db), T(0), T(0), false};  // 0 for a function of the distance
    return {across ? T(0) : value, across ? value : T(0), u * k.da, mirrored ? u * k.db : T(0), u * k.ds, mirrored};
  }
  /// Only here do 1 / n^2 and the like come in, which would cost a float its digits.
  __device__ void add_row(const row_side& a, T within, T across, double* to) const {
    to[0] += a.within * double(within) + a.across * double(across);
  }
};

/// out_ij = scale k(x_i, y_j)
template <class T, class K, class S>
struct map_element {
  static constexpr int totals = 0;
  static constexpr bool by_norms = false, weighs_rows = false, reads = true;
  K kernel;
  rows<T> x, y;
  near_pairs<T> near;
  device_number scale;
  S* out;
  index_t stride;

  struct side {
    T squared;
  };
  using row_side = side;
  using column_side = side;
  __device__ side row(index_t i) const { return {x.squared[i]}; }
  __device__ side column(index_t j) const { return {y.squared[j]}; }
  __device__ bool writes() const { return false; }
  __device__ pair_result<T> operator()(const side& a, const side& b, index_t i, index_t j, T s) const {
    const pair_scalars<T> at = look<K>(near, x, i, y, j, pair_scalars<T>{s, a.squared, b.squared}).at;
    out[i * stride + j] = S(T(double(scale)) * kernel.value(at.s, at.a, at.b));
    return {};
  }
};

/// Its pull-back for dL/dout; the total is sum dout_ij out_ij. A linear kernel looks at no dot products,
/// and gives no total.
template <class T, class K, class S>
struct map_pullback_element {
  static constexpr int totals = is_linear<K>::value ? 0 : 1;
  static constexpr bool by_norms = !is_linear<K>::value, radial = K::translation_invariant, weighs_rows = false, reads = by_norms;
  K kernel;
  rows<T> x, y;
  near_pairs<T> near;
  device_number scale;
  const S* dout;
  index_t stride;

  struct side {
    T squared;
  };
  using row_side = side;
  using column_side = side;
  __device__ side row(index_t i) const { return {x.squared[i]}; }
  __device__ side column(index_t j) const { return {y.squared[j]}; }
  __device__ bool writes() const { return true; }
  __device__ pair_result<T> operator()(const side& a, const side& b, index_t i, index_t j, T s) const {
    const T dk = T(double(scale)) * T(dout[i * stride + j]);
    const auto [at, still] = look<K>(near, x, i, y, j, pair_scalars<T>{reads ? s : T(0), a.squared, b.squared});
    const pair_partials<T> k = kernel.partials(at.s, at.a, at.b);
    const T u = still ? T(0) : dk;
    return {dk * k.value, T(0), u * k.da, u * k.db, u * k.ds, true};
  }
};

/// The target t_ij of one direction of a softmax.
template <class T>
__device__ inline T target(const softmax<T, index_t>& s, index_t i, index_t j) {
  if (s.soft != nullptr) return s.keep * s.soft[i * s.soft_stride + j] + s.base;
  return (s.id[i] == s.other_id[j] ? s.hit[i] : T(0)) + s.base;
}

/// Weights dL/dz_ij = w_i (mass_i exp(z_ij - lse_i) - t_ij), plus the same by columns.
template <class T>
struct softmax_pullback_element {
  static constexpr int totals = 0;
  static constexpr bool by_norms = false, weighs_rows = false, reads = true;
  softmax<T, index_t> by_row, by_col;
  bool by_column;

  struct side {
    T lse, weight, mass;
  };
  using row_side = side;
  using column_side = side;
  __device__ side row(index_t i) const { return {by_row.lse[i], by_row.weight[i], by_row.mass[i]}; }
  __device__ side column(index_t j) const {
    return by_column ? side{by_col.lse[j], by_col.weight[j], by_col.mass[j]} : side{T(0), T(0), T(0)};
  }
  __device__ bool writes() const { return true; }
  __device__ pair_result<T> operator()(const side& a, const side& b, index_t i, index_t j, T z) const {
    T u = a.weight * (a.mass * math::exp(z - a.lse) - target(by_row, i, j));
    if (by_column) u += b.weight * (b.mass * math::exp(z - b.lse) - target(by_col, j, i));
    return {T(0), T(0), T(0), T(0), u, false};
  }
};

/// softplus(-l z), z = s + bias, l = +1 for equal ids and -1 otherwise; weights dL/ds = -l sigmoid(-l z) scale; the second
/// total is their sum, the bias' gradient.
template <class T>
struct sigmoid_element {
  static constexpr int totals = 2;
  static constexpr bool by_norms = false, weighs_rows = false, reads = true;
  const index_t *x_id, *y_id;
  device_number bias;
  T scale;
  bool gradient;

  struct side {
    index_t id;
  };
  using row_side = side;
  using column_side = side;
  __device__ side row(index_t i) const { return {x_id[i]}; }
  __device__ side column(index_t j) const { return {y_id[j]}; }
  __device__ bool writes() const { return gradient; }
  __device__ pair_result<T> operator()(const side& a, const side& b, index_t, index_t, T s) const {
    const T sign = a.id == b.id ? T(1) : T(-1), u = -(sign * (s + T(double(bias))));
    const T e = math::exp(u > T(0) ? -u : u);  // never overflows
    const T value = math::max(u, T(0)) + math::log1p(e);
    const T sigmoid = (u > T(0) ? T(1) : e) / (T(1) + e), weight = -(sign * sigmoid) * scale;
    return {value * scale, weight, T(0), T(0), weight, false};
  }
};

// ---------------------------------------------------------------------------------------------------------
// The panel kernel. A block takes panel_rows_per_block rows and panel_columns_per_block columns; a warp one row at a time,
// a lane two times four columns side by side, so that several 16-byte loads are under way at once.

constexpr int rows_per_warp = 4, quads_per_lane = 2;
constexpr int rows_per_block = rows_per_warp * block_warps, columns_per_block = quads_per_lane * 4 * warp_lanes;

/// Blocks that share a multiprocessor's registers: doubles take twice as many.
template <class T>
constexpr int blocks_at_once = sizeof(T) == 8 ? 1 : 2;

/// Sums of blocks: totals of each block; per row one for each block beside, per column one for each block below.
template <class T>
struct panel_sums {
  double* totals;
  T *rows, *columns;
};

/// Shared memory of the kernel: column sums of every warp, and scratch of block_sum.
template <class T>
constexpr std::size_t panel_shared_bytes = std::size_t(block_warps) * columns_per_block * sizeof(T) + block_warps * sizeof(double);

/// Columns j to j + 3 of a row that has columns up to `end`: what lies behind them nobody has written, and is `beyond` here.
template <class T>
__device__ inline quad<T> quad_at(const T* line, index_t j, index_t end, T beyond) {
  if (j + 4 <= end) return *reinterpret_cast<const quad<T>*>(line + j);
  quad<T> s;
#pragma unroll
  for (int c = 0; c < 4; ++c) s.v[c] = j + c < end ? line[j + c] : beyond;
  return s;
}

/// Takes the values of one row's pairs to the totals.
template <class Element, class T>
__device__ inline void add_values(const Element& element, const typename Element::row_side& row, T value, T second,
                                  double* totals) {
  if constexpr (Element::weighs_rows) {
    element.add_row(row, value, second, totals);
  } else {
    totals[0] += double(value);
    totals[1] += double(second);
  }
}

template <class T, class Element>
__global__ void __launch_bounds__(block_threads, blocks_at_once<T>) panel_kernel(panel<T> p, Element element, panel_sums<T> sums) {
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const index_t left = index_t(blockIdx.x) * columns_per_block, top = index_t(blockIdx.y) * rows_per_block;
  typename Element::column_side columns[quads_per_lane][4];
  T column_sums[quads_per_lane][4];
#pragma unroll
  for (int q = 0; q < quads_per_lane; ++q)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const index_t j = left + (q * warp_lanes + lane) * 4 + c;
      column_sums[q][c] = T(0);
      columns[q][c] = element.column(p.j0 + (j < p.nj ? j : p.nj - 1));
    }
  double totals[2] = {};
  for (int r = 0; r < rows_per_warp; ++r) {
    const index_t i = top + warp * rows_per_warp + r;
    if (i >= p.ni) break;  // the whole warp
    const typename Element::row_side row = element.row(p.i0 + i);
    T* line = p.s + i * p.stride;
    quad<T> s[quads_per_lane];
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q) {
      const index_t j = left + (q * warp_lanes + lane) * 4;
      if (Element::reads) s[q] = quad_at(line, j, p.nj, T(0));
    }
    T row_sum(0), row_value(0), row_second(0);
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q) {
      const index_t j = left + (q * warp_lanes + lane) * 4;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (j + c >= p.nj) continue;
        pair_result<T> out = element(row, columns[q][c], p.i0 + i, p.j0 + j + c, s[q].v[c]);
        round_weight<Element>(out, p.split);
        row_value += out.value;
        row_second += out.second;
        row_sum += out.by_row;
        column_sums[q][c] += out.by_column;
        s[q].v[c] = out.weight;
      }
      if (element.writes() && j < p.nj) *reinterpret_cast<quad<T>*>(line + j) = s[q];
    }
    add_values(element, row, row_value, row_second, totals);
    if (Element::by_norms) {
      row_sum = warp_sum(row_sum);
      if (lane == 0) sums.rows[index_t(blockIdx.x) * p.ni + i] = row_sum;
    }
  }
  T* in_block = shared<T>();
  if (Element::by_norms) {
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        in_block[warp * columns_per_block + (q * warp_lanes + lane) * 4 + c] = column_sums[q][c];
    __syncthreads();
    for (int j = int(threadIdx.x); j < columns_per_block && left + j < p.nj; j += block_threads) {
      T sum(0);
      for (int w = 0; w < block_warps; ++w) sum += in_block[w * columns_per_block + j];
      sums.columns[index_t(blockIdx.y) * p.nj + left + j] = sum;
    }
  }
  double* scratch = reinterpret_cast<double*>(in_block + block_warps * columns_per_block);
#pragma unroll
  for (int q = 0; q < Element::totals; ++q) {
    const double total = block_sum(totals[q], scratch);
    if (threadIdx.x == 0) sums.totals[(index_t(blockIdx.y) * gridDim.x + blockIdx.x) * Element::totals + q] = total;
  }
}

/// Adds the sums of all blocks of a panel, in their order: the first block the totals, the others rows and columns. Columns
/// before `first_column` are left alone: in a triangle's diagonal square they are the rows once more, and another thread adds
/// to the same number.
template <class T>
__global__ void __launch_bounds__(block_threads) fold_panel_kernel(panel_sums<T> sums, index_t blocks_beside, index_t blocks_below,
                                                                   int count, double* totals, index_t ni, double* row_self,
                                                                   index_t first_column, index_t nj, double* column_self) {
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

/// dX_i += 2 self_i x_i
template <class T>
struct add_self_step {
  const T* x;
  index_t d;
  pull<T> g;
  __device__ void operator()(index_t at) const { g.gradient[at] += T(2 * g.self[cell_of(at, d).row]) * x[at]; }
};
template <class T>
void cuda_engine::add_self(const rows<T>& x, const pull<T>& g) const {
  if (g.gradient != nullptr) each(x.n * x.d, add_self_step<T>{x.data, x.d, g});
}

/// The weights of a row of a panel, which bfloat16 holds by then, as its bits: for products of 16-bit factors. It costs six bytes a
/// pair more than if the panel kernel did it, which would take registers from all precisions.
struct narrow_weights_step {
  panel<float> p;
  std::uint16_t* to;
  __device__ void operator()(index_t i, int lane) const {
    for (index_t j = lane * 4; j < p.nj; j += warp_lanes * 4) {
      const quad<float> w = quad_at(p.s + i * p.stride, j, p.nj, 0.0f);
      four bits;
#pragma unroll
      for (int c = 0; c < 4; ++c) bits.v[c] = bfloat16_bits(w.v[c]);
      *reinterpret_cast<four*>(to + i * p.stride + j) = bits;
    }
  }

 private:
  struct alignas(8) four {
    std::uint16_t v[4];
  };
};

template <class T>
factor<T> cuda_engine::factor_of(const rows<T>& x) {
  std::uint16_t* narrow = nullptr;
  if constexpr (sizeof(T) == 4)
    if (ctx_.precision() == precision::bfloat16) {
      narrow = take<std::uint16_t>(x.n * x.d);
      each(x.n * x.d, narrow_step{x.data, split(), narrow});
    }
  return {x.data, narrow, x.d};
}

// visit(panel) for all panels of dot products, or in a triangle those on and above the diagonal; f: the rows as factors. `kept`: room
// for all dot products, one panel after the other, which are there already, or not looked at, if `known`.
template <class T, class Visit>
void cuda_engine::panels(const rows<T>& x, const rows<T>& y, const factors<T>& f, bool triangle, const Visit& visit, T* kept,
                         bool known) {
  const index_t most_rows = std::min(ctx_.tile_rows(), x.n), most_columns = std::min(ctx_.tile_columns(), y.n);
  const index_t stride = (most_columns + 31) / 32 * 32;
  T* memory = kept ? kept : take<T>(most_rows * stride);
  for (index_t i0 = 0; i0 < x.n; i0 += most_rows) {
    const index_t ni = std::min(most_rows, x.n - i0);
    for (index_t j0 = triangle ? i0 : 0; j0 < y.n; j0 += most_columns) {
      const index_t nj = std::min(most_columns, y.n - j0);
      const panel<T> p{memory, stride, i0, ni, j0, nj};
      if (!known) product_.dots(f.x.from(i0), f.y.from(j0), ni, nj, p.s, stride);
      visit(p);
      if (kept) memory += most_rows * stride;
    }
  }
}

/// Whether an element wants to know where the diagonal square of its panel ends.
template <class E, class = void>
struct has_square : std::false_type {};
template <class E>
struct has_square<E, std::void_t<decltype(std::declval<E&>().square_end)>> : std::true_type {};

// One element over all panels: totals, and gradients added to gx and gy. In a triangle gx is gy, and only rows in
// [first_wanted, last_wanted) get a gradient. kept and known as in panels.
template <class T, class Element>
void cuda_engine::sweep(const rows<T>& x, const rows<T>& y, bool triangle, const Element& element, double* totals,
                        const pull<T>& gx, const pull<T>& gy, index_t first_wanted, index_t last_wanted, T* kept,
                        bool known) {
  const workspace::frame inner(ctx_.scratch());
  const index_t most_rows = std::min(ctx_.tile_rows(), x.n), most_columns = std::min(ctx_.tile_columns(), y.n);
  const index_t most_beside = (most_columns + columns_per_block - 1) / columns_per_block;
  const index_t most_below = (most_rows + rows_per_block - 1) / rows_per_block;
  const bool norms = Element::by_norms && gx.wanted();
  panel_sums<T> sums{};
  sums.totals = take<double>(most_beside * most_below * std::max(Element::totals, 1));
  sums.rows = Element::by_norms ? take<T>(most_beside * most_rows) : nullptr;
  sums.columns = Element::by_norms ? take<T>(most_below * most_columns) : nullptr;
  const factors<T> f = factors_of(x, y);
  const bool narrow = f.x.narrow != nullptr && (gx.gradient != nullptr || gy.gradient != nullptr);
  std::uint16_t* weights = narrow ? take<std::uint16_t>(most_rows * ((most_columns + 31) / 32 * 32)) : nullptr;
  const auto visit = [&](panel<T> p) {
    p.split = split();
    const index_t beside = (p.nj + columns_per_block - 1) / columns_per_block;
    const index_t below = (p.ni + rows_per_block - 1) / rows_per_block;
    Element here = element;
    if constexpr (has_square<Element>::value) here.square_end = p.i0 + p.ni;
    launch("panel", panel_kernel<T, Element>, beside, below, block_threads, panel_shared_bytes<T>, p, here, sums);
    if (Element::totals > 0 || norms)
      launch("fold_panel", fold_panel_kernel<T>,
             1 + (norms ? (p.ni + p.nj + block_threads - 1) / block_threads : 0), 1, block_threads,
             block_warps * sizeof(double), sums, beside, below, Element::totals, totals, p.ni,
             norms ? gx.self + p.i0 : nullptr, triangle && p.j0 == p.i0 ? p.ni : 0, p.nj,
             norms ? gy.self + p.j0 : nullptr);
    if constexpr (sizeof(T) == 4)
      if (narrow)
        launch("narrow_weights", row_kernel<narrow_weights_step>, blocks_for(p.ni, block_warps), 1, block_threads, 0, p.ni,
               narrow_weights_step{p, weights});
    const factor<T> w{p.s, weights, p.stride};
    const auto within = [&](index_t i) { return std::min(std::max(i, first_wanted), last_wanted); };
    if (gx.gradient) {
      const index_t from = triangle ? within(p.i0) : p.i0, to = triangle ? within(p.i0 + p.ni) : p.i0 + p.ni;
      product_.add(w.from(from - p.i0), f.y.from(p.j0), to - from, p.nj, gx.gradient + from * x.d);
    }
    if (gy.gradient) {
      const index_t from = triangle ? within(std::max(p.j0, p.i0 + p.ni)) : p.j0;
      const index_t to = triangle ? within(p.j0 + p.nj) : p.j0 + p.nj;
      if (to > from)
        product_.add_transposed(w.from(0, from - p.j0), f.x.from(p.i0), p.ni, to - from, gy.gradient + from * y.d);
    }
  };
  panels(x, y, f, triangle, visit, kept, known);
}

// ---------------------------------------------------------------------------------------------------------
// Sums for a kernel's own parameters

/// partial_(block, q) = sum of u_ij dk/dparameter_q for the eight parameters from 8 * blockIdx.y on; a block takes a strip of
/// rows of the panel. The pair function is gone through once for every eight of its parameters.
constexpr int parameters_at_once = 8;
template <class T, class Element>
__global__ void __launch_bounds__(block_threads, 1) parameters_kernel(panel<T> p, Element element, int count, double* partial) {
  double sums[parameters_at_once] = {};
  const int first = int(blockIdx.y) * parameters_at_once, weights = element.kernel.weights();
  const index_t per_block = rows_per_block * p.nj, begin = index_t(blockIdx.x) * per_block;
  for (index_t at = begin + index_t(threadIdx.x); at < begin + per_block; at += block_threads) {
    const cell where = cell_of(at, p.nj);
    const index_t i = where.row, j = where.column;
    if (i >= p.ni) break;
    const auto a = element.row(p.i0 + i);
    const auto b = element.column(p.j0 + j);
    if (p.i0 + i == p.j0 + j && element.skip_diagonal) continue;
    const pair_scalars<T> pair = element.look(a, b, p.i0 + i, p.j0 + j, p.s[i * p.stride + j]).at;
    const double u =
        (a.first != b.first ? a.across : a.within) * double(b.weight) * (p.j0 + j >= element.square_end ? 2 : 1);
    const auto add = [&](int q, T k) {
#pragma unroll
      for (int c = 0; c < parameters_at_once; ++c)
        if (q == first + c) sums[c] += u * double(k);
    };
    element.kernel.parameters(pair.s, pair.a, pair.b, add, [&](int q, T k) { add(weights + q, k); });
  }
#pragma unroll
  for (int c = 0; c < parameters_at_once; ++c) {
    const double total = block_sum(sums[c], shared<double>());
    if (threadIdx.x == 0 && first + c < count) partial[index_t(blockIdx.x) * count + first + c] = total;
  }
}
struct fold_parameters_step {
  const double* partial;
  index_t blocks, count;
  double* totals;
  __device__ void operator()(index_t q) const {
    for (index_t b = 0; b < blocks; ++b) totals[q] += partial[b * count + q];
  }
};

template <class T, class K>
void cuda_engine::quadratic_form(const rows<T>& z, index_t split, const K& k, const form_weights<T, number>& w,
                                 bool skip_diagonal, bool parameters, double* totals, const pull<T>& g) {
  using element_type = quadratic_element<T, K>;
  const element_type element{k, z, near_pairs<T>(z.d), w, split, 0, skip_diagonal, g.wanted()};
  const int count = parameters ? k.weights() + k.bandwidths() : 0;
  if (count > 0) {
    const workspace::frame inner(ctx_.scratch());
    const index_t most_blocks = (std::min(ctx_.tile_rows(), z.n) + rows_per_block - 1) / rows_per_block;
    double* partial = take<double>(most_blocks * count);
    panels(z, z, factors_of(z, z), true, [&](const panel<T>& p) {
      element_type here = element;
      here.square_end = p.i0 + p.ni;
      const index_t blocks = (p.ni + rows_per_block - 1) / rows_per_block;
      launch("parameters", parameters_kernel<T, element_type>, blocks, (count + parameters_at_once - 1) / parameters_at_once,
             block_threads, block_warps * sizeof(double), p, here, count, partial);
      each(count, fold_parameters_step{partial, blocks, count, totals + 1});
    });
  }
  const index_t first = w.pull_x ? 0 : split, last = w.pull_y ? z.n : split;
  if (fuses<T>(z.d))
    fused(z, element, totals, g, first, last);
  else
    sweep(z, z, true, element, totals, g, g, first, last);
  add_self(z, g);
}

template <class T, class K, class S>
void cuda_engine::map(const rows<T>& x, const rows<T>& y, const K& k, const number& scale, const place<S>& out) {
  sweep(x, y, false, map_element<T, K, S>{k, x, y, near_pairs<T>(x.d), scale, out.data(), out.stride()}, nullptr, pull<T>{},
        pull<T>{}, 0, 0);
}
template <class T, class K, class S>
void cuda_engine::map_pullback(const rows<T>& x, const rows<T>& y, const K& k, const number& scale, const input<S>& dout,
                               double* totals, const pull<T>& gx, const pull<T>& gy) {
  sweep(x, y, false,
        map_pullback_element<T, K, S>{k, x, y, near_pairs<T>(x.d), scale, dout.data(), dout.stride()}, totals, gx, gy, 0, 0,
        static_cast<T*>(nullptr), is_linear<K>::value);
  if (is_linear<K>::value) return;
  add_self(x, gx);
  add_self(y, gy);
}
template <class T>
void cuda_engine::softmax_pullback(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                                   bool by_column, T* kept, const pull<T>& gx, const pull<T>& gy) {
  sweep(x, y, false, softmax_pullback_element<T>{by_row, by_col, by_column}, nullptr, gx, gy, 0, 0, kept,
        kept != nullptr);
}
template <class T>
void cuda_engine::sigmoid_loss(const rows<T>& x, const rows<T>& y, const index_t* x_id, const index_t* y_id,
                               const number& bias, double scale, double* totals, const pull<T>& gx, const pull<T>& gy) {
  sweep(x, y, false, sigmoid_element<T>{x_id, y_id, bias, T(scale), gx.wanted()}, totals, gx, gy, 0, 0);
}

// ---------------------------------------------------------------------------------------------------------
// The linear-time form

/// The pair q of four of item i: (x, x'), (y, y'), (x, y'), (x', y) with x = 2 i, x' = 2 i + 1 and y from row `split` on.
struct linear_pairs {
  index_t split, p;
  __device__ index_t first(index_t i, int q) const { return (q == 1 ? split : 0) + 2 * i + (q == 3 ? 1 : 0); }
  __device__ index_t second(index_t i, int q) const { return (q == 0 ? 0 : split) + 2 * i + (q == 3 ? 0 : 1); }
  template <class T>
  __device__ T weight(int q) const {
    return T(q < 2 ? 1 : -1) / T(p);
  }
};

/// A warp per item, which owns its four rows: value (and parameter q if asked) per item, and the gradients of the rows.
template <class T, class K>
struct linear_step {
  K kernel;
  rows<T> z;
  linear_pairs pairs;
  int parameters;
  double* per_item;  ///< (1 + parameters) x p
  pull<T> g;
  __device__ void operator()(index_t i, int lane) const {
    double value = 0;
    for (int q = 0; lane == 0 && q < parameters; ++q) per_item[(1 + q) * pairs.p + i] = 0;
    for (int q = 0; q < 4; ++q) {
      const index_t a = pairs.first(i, q), b = pairs.second(i, q), d = z.d;
      const T *za = z.data + a * d, *zb = z.data + b * d;
      constexpr bool radial = K::translation_invariant;  // then the distance is taken from the rows, always
      T sum(0);
      for (index_t k = lane; k < d; k += warp_lanes) sum += radial ? (za[k] - zb[k]) * (za[k] - zb[k]) : za[k] * zb[k];
      sum = warp_sum(sum);
      const auto at = radial ? pair_scalars<T>::at_distance(sum) : pair_scalars<T>{sum, z.squared[a], z.squared[b]};
      const T u = pairs.template weight<T>(q);
      const pair_partials<T> k = kernel.partials(at.s, at.a, at.b);
      value += double(u) * double(k.value);
      if (parameters > 0 && lane == 0) {
        const int weights = kernel.weights();
        const auto add = [&](int which, T dk) { per_item[(1 + which) * pairs.p + i] += double(u * dk); };
        kernel.parameters(at.s, at.a, at.b, add, [&](int which, T dk) { add(weights + which, dk); });
      }
      if (g.gradient == nullptr || (radial && sum == T(0))) continue;
      for (index_t c = lane; c < d; c += warp_lanes) {
        const T of_a = radial ? T(2) * k.da * (za[c] - zb[c]) : k.ds * zb[c] + T(2) * k.da * za[c];
        const T of_b = radial ? -of_a : k.ds * za[c] + T(2) * k.db * zb[c];
        g.gradient[a * d + c] += u * of_a;
        g.gradient[b * d + c] += u * of_b;
      }
    }
    if (lane == 0) per_item[i] = value;
  }
};
template <class T, class K>
void cuda_engine::linear_form(const rows<T>& z, index_t split, index_t p, const K& k, bool parameters, double* totals,
                              const pull<T>& g) {
  const workspace::frame inner(ctx_.scratch());
  const int count = parameters ? k.weights() + k.bandwidths() : 0;
  double* per_item = take<double>((1 + count) * p);
  const linear_step<T, K> step{k, z, {split, p}, count, per_item, g};
  launch("linear_form", row_kernel<linear_step<T, K>>, blocks_for(p, block_warps), 1, block_threads, 0, p, step);
  for (int q = 0; q <= count; ++q) ordered_sum<T>(p, term_of<double>{per_item + q * p}, totals + q, true);
}

// ---------------------------------------------------------------------------------------------------------
// Log-sum-exp by rows and by columns

/// Maximum, sum of exponentials below it, and sum of targets times logits, of part of a row or column.
template <class T>
struct lse_part {
  T highest, sum, target;
};
template <class T>
__device__ inline lse_part<T> join(const lse_part<T>& a, const lse_part<T>& b) {
  const T lowest = -math::limits<T>::infinity, highest = math::max(a.highest, b.highest);
  const T by_a = a.highest == lowest ? T(0) : math::exp(a.highest - highest);
  const T by_b = b.highest == lowest ? T(0) : math::exp(b.highest - highest);
  return {highest, a.sum * by_a + b.sum * by_b, a.target + b.target};
}

/// Parts of rows for each block beside, and of columns for each block below, as panel_sums has them.
template <class T>
struct lse_parts {
  lse_part<T>*rows, *columns;
};
template <class T>
constexpr std::size_t lse_shared_bytes = std::size_t(block_warps) * columns_per_block * sizeof(lse_part<T>);

template <class T>
__global__ void __launch_bounds__(block_threads, blocks_at_once<T>) log_sum_exp_kernel(panel<T> p, softmax<T, index_t> by_row,
                                                                    softmax<T, index_t> by_col, bool by_column,
                                                                    lse_parts<T> parts) {
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const index_t left = index_t(blockIdx.x) * columns_per_block, top = index_t(blockIdx.y) * rows_per_block;
  const T lowest = -math::limits<T>::infinity;
  T z[rows_per_warp][quads_per_lane * 4];
#pragma unroll
  for (int r = 0; r < rows_per_warp; ++r) {
    const index_t i = top + warp * rows_per_warp + r;
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q) {
      const index_t j = left + (q * warp_lanes + lane) * 4;
      const quad<T> s = quad_at(p.s + i * p.stride, j, i < p.ni ? p.nj : 0, lowest);
#pragma unroll
      for (int c = 0; c < 4; ++c) z[r][q * 4 + c] = s.v[c];
    }
  }
#pragma unroll
  for (int r = 0; r < rows_per_warp; ++r) {
    const index_t i = top + warp * rows_per_warp + r;
    if (i >= p.ni) break;  // the whole warp
    lse_part<T> part{lowest, T(0), T(0)};
#pragma unroll
    for (int c = 0; c < quads_per_lane * 4; ++c) part.highest = math::max(part.highest, z[r][c]);
    part.highest = warp_max(part.highest);
#pragma unroll
    for (int c = 0; c < quads_per_lane * 4; ++c) {
      const index_t j = left + ((c / 4) * warp_lanes + lane) * 4 + c % 4;
      if (j >= p.nj) continue;
      part.sum += math::exp(z[r][c] - part.highest);
      part.target += z[r][c] * target(by_row, p.i0 + i, p.j0 + j);
    }
    part.sum = warp_sum(part.sum);
    part.target = warp_sum(part.target);
    if (lane == 0) parts.rows[index_t(blockIdx.x) * p.ni + i] = part;
  }
  if (!by_column) return;  // the whole grid
  lse_part<T>* in_block = shared<lse_part<T>>();
#pragma unroll
  for (int c = 0; c < quads_per_lane * 4; ++c) {
    const int at = ((c / 4) * warp_lanes + lane) * 4 + c % 4;
    lse_part<T> part{lowest, T(0), T(0)};
#pragma unroll
    for (int r = 0; r < rows_per_warp; ++r) part.highest = math::max(part.highest, z[r][c]);
#pragma unroll
    for (int r = 0; r < rows_per_warp; ++r) {
      const index_t i = top + warp * rows_per_warp + r;
      if (i >= p.ni || left + at >= p.nj) continue;
      part.sum += math::exp(z[r][c] - part.highest);
      part.target += z[r][c] * target(by_col, p.j0 + left + at, p.i0 + i);
    }
    in_block[warp * columns_per_block + at] = part;
  }
  __syncthreads();
  for (int j = int(threadIdx.x); j < columns_per_block && left + j < p.nj; j += block_threads) {
    lse_part<T> part = in_block[j];
    for (int w = 1; w < block_warps; ++w) part = join(part, in_block[w * columns_per_block + j]);
    parts.columns[index_t(blockIdx.y) * p.nj + left + j] = part;
  }
}

/// Joins the parts of a panel to the running state, in their order: begins it with the first panel, and with the last one
/// the running maximum becomes the log-sum-exp.
template <class T>
struct join_step {
  const lse_part<T>* parts;
  index_t blocks, n;
  softmax<T, index_t> s;
  index_t begin;
  bool first, last;
  __device__ void operator()(index_t i) const {
    const index_t at = begin + i;
    lse_part<T> all{-math::limits<T>::infinity, T(0), T(0)};
    if (!first) all = {s.lse[at], s.sum[at], s.target_dot[at]};
    for (index_t b = 0; b < blocks; ++b) all = join(all, parts[b * n + i]);
    s.lse[at] = last ? all.highest + math::log(all.sum) : all.highest;
    s.sum[at] = all.sum;
    s.target_dot[at] = all.target;
  }
};

template <class T>
T* cuda_engine::log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                            bool by_column, bool again) {
  // Up to four panels' worth the products are kept, as on the CPU: that saves a quarter of the work.
  const index_t most_rows = std::min(ctx_.tile_rows(), x.n), most_columns = std::min(ctx_.tile_columns(), y.n);
  const index_t count = ((x.n + most_rows - 1) / most_rows) * ((y.n + most_columns - 1) / most_columns);
  const index_t numbers = count * most_rows * ((most_columns + 31) / 32 * 32);
  constexpr index_t few = index_t(1) << 22;  // 16 MB of float, which stay in the second-level cache
  T* kept = again && numbers <= few ? take<T>(numbers) : nullptr;
  const workspace::frame inner(ctx_.scratch());
  const index_t most_beside = (most_columns + columns_per_block - 1) / columns_per_block;
  const index_t most_below = (most_rows + rows_per_block - 1) / rows_per_block;
  lse_parts<T> parts{};
  parts.rows = take<lse_part<T>>(most_beside * most_rows);
  parts.columns = by_column ? take<lse_part<T>>(most_below * most_columns) : nullptr;
  const auto visit = [&](const panel<T>& p) {
    const index_t beside = (p.nj + columns_per_block - 1) / columns_per_block;
    const index_t below = (p.ni + rows_per_block - 1) / rows_per_block;
    launch("log_sum_exp", log_sum_exp_kernel<T>, beside, below, block_threads, by_column ? lse_shared_bytes<T> : 0, p,
           by_row, by_col, by_column, parts);
    each(p.ni, join_step<T>{parts.rows, beside, p.ni, by_row, p.i0, p.j0 == 0, p.j0 + p.nj == y.n});
    if (by_column) each(p.nj, join_step<T>{parts.columns, below, p.nj, by_col, p.j0, p.i0 == 0, p.i0 + p.ni == x.n});
  };
  panels(x, y, factors_of(x, y), false, visit, kept, false);
  return kept;
}

/// w_i (mass_i lse_i - target_dot_i), nothing for a row that is left out.
template <class T>
struct softmax_loss_term {
  softmax<T, index_t> s;
  __device__ double operator()(index_t i) const {
    const double w = double(s.weight[i]);
    return w == 0 ? 0.0 : w * (double(s.mass[i]) * double(s.lse[i]) - double(s.target_dot[i]));
  }
};
template <class T>
void cuda_engine::softmax_loss(const softmax<T>& s, double* total) {
  ordered_sum<T>(s.n, softmax_loss_term<T>{s}, total, true);
}

// ---------------------------------------------------------------------------------------------------------
// Nearest rows, and distances by rank

/// A warp per row goes through the columns of the panel: the nearest (lowest index on ties), as in the CPU's tile.
template <class T>
struct nearest_step {
  panel<T> p;
  rows<T> x, y;
  near_pairs<T> near;
  T* distance;
  index_t* index;
  __device__ void operator()(index_t i, int lane) const {
    // What earlier panels found is one more candidate, which one lane brings: it alone writes to that place later on.
    T best = lane == 0 ? distance[p.i0 + i] : math::limits<T>::infinity;
    index_t at = lane == 0 ? index[p.i0 + i] : y.n;
    const T a = x.squared[p.i0 + i];
    for (index_t j = lane; j < p.nj; j += warp_lanes) {
      const T s = p.s[i * p.stride + j], b = y.squared[p.j0 + j];
      const T D = near(s, a, b) ? row_distance(x, p.i0 + i, y, p.j0 + j) : a + (b - (s + s));
      if (!(D < best)) continue;
      best = D;
      at = p.j0 + j;
    }
    for (int o = warp_lanes / 2; o > 0; o /= 2) {
      const T other = __shfl_xor_sync(all_lanes, best, o);
      const index_t other_at = index_t(__shfl_xor_sync(all_lanes, (long long)(at), o));
      if (other < best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
    if (lane != 0) return;
    distance[p.i0 + i] = best;
    index[p.i0 + i] = at;
  }
};
/// Where no distance is a number, any row will do.
struct any_nearest_step {
  index_t n;
  index_t* index;
  __device__ void operator()(index_t i) const {
    if (index[i] >= n) index[i] = 0;
  }
};
template <class T>
void cuda_engine::nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
  const workspace::frame inner(ctx_.scratch());
  fill(distance, x.n, math::limits<T>::infinity);
  fill(index, x.n, y.n);
  panels(x, y, factors_of(x, y), false, [&](const panel<T>& p) {
    launch("nearest", row_kernel<nearest_step<T>>, blocks_for(p.ni, block_warps), 1, block_threads, 0, p.ni,
           nearest_step<T>{p, x, y, near_pairs<T>(x.d), distance, index});
  });
  each(x.n, any_nearest_step{y.n, index});
}

// The bits of a number >= 0, whose order as integers is that of the numbers, digit by digit from the top.
constexpr int rank_digit = 11, rank_bins = 1 << rank_digit;
template <class T>
using bits_of = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
template <class T>
__device__ inline std::uint64_t distance_bits(T d) {
  bits_of<T> bits;
  std::memcpy(&bits, &d, sizeof d);
  return bits;
}
template <class T>
__device__ inline T distance_from_bits(std::uint64_t wide) {
  const bits_of<T> bits = bits_of<T>(wide);
  T d;
  std::memcpy(&d, &bits, sizeof d);
  return d;
}

/// What is known of the number looked for: its bits from `shift` on, and its rank among those that share them.
struct rank_state {
  std::uint64_t prefix;
  unsigned long long rank;
};
/// |x_i - x_j|^2, given x_i . x_j.
template <class T>
__device__ inline T ranked(const rows<T>& x, index_t i, index_t j, T s) {
  const T a = x.squared[i], b = x.squared[j];
  return near_pairs<T>(x.d)(s, a, b) ? row_distance(x, i, x, j) : math::max(a + b - (s + s), T(0));
}
/// Counts the next digit of all distances with the known prefix. Whole numbers: their order changes nothing.
template <class T>
__global__ void __launch_bounds__(block_threads) rank_digit_kernel(panel<T> p, rows<T> x, int shift, int width,
                                                                   const rank_state* state, unsigned long long* counts) {
  unsigned* in_block = shared<unsigned>();
  for (int b = int(threadIdx.x); b < rank_bins; b += block_threads) in_block[b] = 0;
  __syncthreads();
  for (index_t at = grid_thread(); at < p.ni * p.nj; at += grid_threads()) {
    const cell c = cell_of(at, p.nj);
    const index_t i = p.i0 + c.row, j = p.j0 + c.column;
    if (i >= j) continue;
    const std::uint64_t key = distance_bits(ranked(x, i, j, p.s[(i - p.i0) * p.stride + (j - p.j0)]));
    if (shift + width < 64 && (key >> (shift + width)) != state->prefix) continue;
    atomicAdd(&in_block[(key >> shift) & ((1u << width) - 1)], 1u);
  }
  __syncthreads();
  for (int b = int(threadIdx.x); b < rank_bins; b += block_threads)
    if (in_block[b] > 0) atomicAdd(&counts[b], (unsigned long long)(in_block[b]));
}
struct rank_digit_step {
  const unsigned long long* counts;
  int width;
  rank_state* state;
  __device__ void operator()(index_t) const {
    unsigned b = 0;
    for (; b + 1 < (1u << width) && state->rank >= counts[b]; ++b) state->rank -= counts[b];
    state->prefix = state->prefix << width | b;
  }
};
/// The first pair in the sample's order that has the distance found.
template <class T>
struct ranked_pair_step {
  panel<T> p;
  rows<T> x;
  const rank_state* state;
  lowest_index* first;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, p.nj);
    const index_t i = p.i0 + c.row, j = p.j0 + c.column;
    if (i >= j) return;
    if (distance_bits(ranked(x, i, j, p.s[(i - p.i0) * p.stride + (j - p.j0)])) == state->prefix)
      atomicMin(first, lowest_index(i * x.n + j));
  }
};
template <class T>
struct ranked_distance_step {
  const rank_state* state;
  const lowest_index* first;
  index_t n;
  ranked_distance* out;
  __device__ void operator()(index_t) const {
    *out = {double(distance_from_bits<T>(state->prefix)), index_t(*first) / n, index_t(*first) % n};
  }
};
template <class T>
void cuda_engine::distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out) {
  const workspace::frame inner(ctx_.scratch());
  rank_state* state = take<rank_state>(1);
  auto* counts = take<unsigned long long>(rank_bins);
  lowest_index* first = take<lowest_index>(1);
  const factors<T> f = factors_of(x, x);
  each(1, fill_step<rank_state>{state, {0, (unsigned long long)(rank)}});
  for (int known = int(sizeof(T)) * 8; known > 0;) {
    const int width = std::min(rank_digit, known), shift = known - width;
    clear(counts, rank_bins * sizeof *counts);
    panels(x, x, f, true, [&](const panel<T>& p) {
      launch("rank_digit", rank_digit_kernel<T>, std::min<index_t>(blocks_for(p.ni * p.nj), 8 * ctx_.processors()), 1,
             block_threads, rank_bins * sizeof(unsigned), p, x, shift, width, state, counts);
    });
    each(1, rank_digit_step{counts, width, state});
    known = shift;
  }
  fill(first, 1, nowhere);
  panels(x, x, f, true,
         [&](const panel<T>& p) { each(p.ni * p.nj, ranked_pair_step<T>{p, x, state, first}); });
  each(1, ranked_distance_step<T>{state, first, x.n, out});
}

}  // namespace craft::engine
