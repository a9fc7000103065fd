// Which panels of dot products are visited in which order, their products, and those of their pull-back: in a triangle the panels
// on and above the diagonal.
#pragma once

#include "craft/engine/rows.cuh"
#include "craft/engine/several.cuh"

namespace craft::engine {

/// Dot products of rows [i0, i0 + ni) with columns [j0, j0 + nj), rows of the panel `stride` apart (a multiple of 4); and what
/// rounds the weights that replace them.
template <class T>
struct panel {
  T* s;
  index_t stride, i0;
  int ni;
  index_t j0;
  int nj;
  float split = 1;
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

/// The largest panel of x with y.
template <class T>
struct panel_shape {
  index_t rows, columns, stride;
  panel_shape(const cuda& ctx, const engine::rows<T>& x, const engine::rows<T>& y)
      : rows((std::min)(ctx.tile_rows(), x.n)), columns((std::min)(ctx.tile_columns(), y.n)), stride((columns + 31) / 32 * 32) {}
  index_t numbers() const { return rows * stride; }
};

// visit(panel) for all panels, or in a triangle those on and above the diagonal; f: the rows as factors. `kept`: room for all dot
// products, one panel after the other, which are there already, or not looked at, if `known`.
template <class T, class Visit>
void cuda_engine::panels(const rows<T>& x, const rows<T>& y, const factors<T>& f, bool triangle, const Visit& visit, T* kept,
                         bool known) {
  const panel_shape<T> most(ctx_, x, y);
  T* memory = kept ? kept : take<T>(most.numbers());
  for (index_t i0 = 0; i0 < x.n; i0 += most.rows) {
    const index_t ni = (std::min)(most.rows, x.n - i0);
    for (index_t j0 = triangle ? i0 : 0; j0 < y.n; j0 += most.columns) {
      const index_t nj = (std::min)(most.columns, y.n - j0);
      const panel<T> p{memory, most.stride, i0, int(ni), j0, int(nj), split()};
      if (!known) product_.dots(f.x.from(i0), f.y.from(j0), ni, nj, p.s, most.stride);
      visit(p);
      if (kept) memory += most.numbers();
    }
  }
}

/// The weights of a row of a panel, which bfloat16 holds by then, as its bits: for products of 16-bit factors. It costs six bytes
/// a pair more than if the panel kernel did it, which would take registers from all precisions.
struct narrow_weights_step {
  panel<float> p;
  std::uint16_t* to;
  __device__ void operator()(index_t i, const warp& lanes) const {
    for (int j = lanes.lane * 4; j < p.nj; j += warp_lanes * 4) {
      const quad<float> w = quad_at(p.s + i * p.stride + j, p.nj - j, 0.0f);
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

/// What a panel's weights are multiplied with, and where the gradients go: in a triangle gx is gy, and only rows in
/// [first_wanted, last_wanted) get one.
template <class T>
struct panel_pullback {
  factors<T> f;
  bool triangle;
  pull<T> gx, gy;
  index_t first_wanted, last_wanted;
  std::uint16_t* narrow;  ///< room for a panel's weights in bfloat16, or null
};
template <class T>
void cuda_engine::pull_back(const panel<T>& p, const panel_pullback<T>& to, index_t d) const {
  if constexpr (sizeof(T) == 4)
    if (to.narrow) each_row(p.ni, p.nj, narrow_weights_step{p, to.narrow});
  const factor<T> w{p.s, to.narrow, p.stride};
  const auto within = [&](index_t i) { return to.triangle ? (std::min)((std::max)(i, to.first_wanted), to.last_wanted) : i; };
  if (to.gx.gradient) {
    const index_t from = within(p.i0), end = within(p.i0 + p.ni);
    product_.add(w.from(from - p.i0), to.f.y.from(p.j0), end - from, p.nj, to.gx.gradient + from * d);
  }
  if (to.gy.gradient) {  // the rows themselves once more, in a triangle's diagonal square
    const index_t from = within(to.triangle ? (std::max)(p.j0, p.i0 + p.ni) : p.j0), end = within(p.j0 + p.nj);
    if (end > from)
      product_.add_transposed(w.from(0, from - p.j0), to.f.x.from(p.i0), p.ni, end - from, to.gy.gradient + from * d);
  }
}

}  // namespace craft::engine
