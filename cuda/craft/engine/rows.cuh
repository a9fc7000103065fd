// What concerns single rows and columns: loading, norms, sums over a sample, targets.
#pragma once

#include <cstdint>
#include <cstring>

#include "craft/engine/rounding.cuh"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Four kernels, whatever is computed

/// step(i) for every i in [0, count).
template <class Step>
__global__ void each_kernel(index_t count, Step step) {
  for (index_t i = grid_thread(); i < count; i += grid_threads()) step(i);
}

/// step(i, lane) for every row i in [0, n), by a warp each.
template <class Step>
__global__ void __launch_bounds__(block_threads, 1) row_kernel(index_t n, Step step) {
  const int lane = int(threadIdx.x) % warp_lanes;
  const index_t warps = grid_threads() / warp_lanes;
  for (index_t i = grid_thread() / warp_lanes; i < n; i += warps) step(i, lane);
}

/// One number per block: the sum of term(i) over its piece of [0, n), which it writes or adds. Pieces do not depend on the
/// device.
constexpr index_t sum_piece = 16 * block_threads;
template <class Term>
__global__ void __launch_bounds__(block_threads) sum_kernel(index_t n, Term term, bool accumulate, double* partial) {
  const index_t begin = index_t(blockIdx.x) * sum_piece, end = begin + sum_piece < n ? begin + sum_piece : n;
  double s = 0;
  for (index_t i = begin + index_t(threadIdx.x); i < end; i += block_threads) s += term(i);
  s = block_sum(s, shared<double>());
  if (threadIdx.x == 0) partial[blockIdx.x] = accumulate ? partial[blockIdx.x] + s : s;
}
/// out (=, +=) sum of the partial sums, by one block.
template <class V>
__global__ void __launch_bounds__(block_threads) sum_partials_kernel(const V* partial, index_t count, bool accumulate, V* out) {
  V s(0);
  for (index_t i = index_t(threadIdx.x); i < count; i += block_threads) s += partial[i];
  s = block_sum(s, shared<V>());
  if (threadIdx.x == 0) *out = accumulate ? *out + s : s;
}

/// What is added to a column's sum / divisor: of differences from the first row, that row.
template <class T>
struct difference_term {
  const T* x;
  index_t d;
  __device__ double operator()(index_t i, index_t k) const { return double(x[i * d + k]) - double(x[k]); }
};
template <class Term>
__device__ inline double base_of(const Term&, index_t) {
  return 0;
}
template <class T>
__device__ inline double base_of(const difference_term<T>& term, index_t k) {
  return double(term.x[k]);
}

/// partial_(piece, k) = sum of term(i, k) / divisor over a piece of the rows, a thread for each column. The only piece is the
/// whole result.
template <class Term>
__global__ void column_kernel(index_t n, index_t d, index_t rows_per_piece, Term term, double divisor, double* partial) {
  const index_t k = grid_thread(), begin = index_t(blockIdx.y) * rows_per_piece;
  const index_t end = begin + rows_per_piece < n ? begin + rows_per_piece : n;
  if (k >= d) return;
  double s = 0;
  for (index_t i = begin; i < end; ++i) s += term(i, k);
  partial[index_t(blockIdx.y) * d + k] = (gridDim.y == 1 ? base_of(term, k) : 0.0) + s / divisor;
}
template <class Term>
struct column_finish {
  Term term;
  const double* partial;
  index_t pieces, d;
  double divisor;
  double* out;
  __device__ void operator()(index_t k) const {
    double s = 0;
    for (index_t p = 0; p < pieces; ++p) s += partial[p * d + k];
    out[k] = base_of(term, k) + s / divisor;
  }
};

template <class Step>
void cuda_engine::each(index_t count, const Step& step) const {
  const int threads = count < block_threads ? int((count + warp_lanes - 1) / warp_lanes * warp_lanes) : block_threads;
  launch("each", each_kernel<Step>, blocks_for(count), 1, threads, 0, count, step);
}
template <class T, class Term>
void cuda_engine::ordered_sum(index_t n, const Term& term, double* out, bool accumulate) {
  const workspace::frame inner(ctx_.scratch());
  const index_t pieces = (n + sum_piece - 1) / sum_piece;
  const std::size_t shared_bytes = block_warps * sizeof(double);
  if (pieces == 1) {
    launch("sum", sum_kernel<Term>, pieces, 1, block_threads, shared_bytes, n, term, accumulate, out);
    return;
  }
  double* partial = take<double>(pieces);
  launch("sum", sum_kernel<Term>, pieces, 1, block_threads, shared_bytes, n, term, false, partial);
  launch("sum of partial sums", sum_partials_kernel<double>, 1, 1, block_threads, shared_bytes, partial, pieces, accumulate, out);
}
template <class Term>
void cuda_engine::sum_columns(index_t n, index_t d, const Term& term, double* out, double divisor) {
  const workspace::frame inner(ctx_.scratch());
  const index_t per_piece = std::max<index_t>(64, (n + 255) / 256), pieces = (n + per_piece - 1) / per_piece;
  double* partial = pieces == 1 ? out : take<double>(pieces * d);
  launch("column sums", column_kernel<Term>, blocks_for(d, 64), pieces, 64, 0, n, d, per_piece, term,
         pieces == 1 ? divisor : 1.0, partial);
  if (pieces > 1) each(d, column_finish<Term>{term, partial, pieces, d, divisor, out});
}

// ---------------------------------------------------------------------------------------------------------
// From the caller's memory and back

template <class T, class S>
struct load_step {
  const S* from;
  index_t d, stride;
  T* to;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, d);
    to[at] = T(from[c.row * stride + c.column]);
  }
};
template <class T, class S>
struct store_step {
  const T* from;
  index_t d, stride;
  S* to;
  device_number factor;
  bool accumulate;
  __device__ void operator()(index_t at) const {
    const T f = T(double(factor));
    const cell c = cell_of(at, d);
    S& out = to[c.row * stride + c.column];
    out = accumulate ? S(T(out) + f * from[at]) : S(f * from[at]);
  }
};
template <class T>
struct store_vector_step {
  const double* from;
  index_t stride;
  T* to;
  device_number factor;
  bool accumulate;
  __device__ void operator()(index_t q) const {
    T& out = to[q * stride];
    out = T((accumulate ? double(out) : 0.0) + double(factor) * from[q]);
  }
};
template <class T>
struct write_value_step {
  T* to;
  const double* total;
  double factor, offset;
  __device__ void operator()(index_t) const { *to = T(factor * *total + offset); }
};

template <class T>
void cuda_engine::fill(T* to, index_t n, T value) const {
  each(n, fill_step<T>{to, value});
}
template <class T, class S>
void cuda_engine::load(const input<S>& x, T* to) const {
  each(x.rows() * x.cols(), load_step<T, S>{x.data(), x.cols(), x.stride(), to});
}
template <class T, class S>
void cuda_engine::store(const T* g, const destination<S>& out, const number& factor) const {
  if (!out.wanted()) return;
  const auto& to = out.to;
  each(to.rows() * to.cols(),
       store_step<T, S>{g, to.cols(), to.stride(), to.data(), factor, out.mode == write::accumulate});
}
template <class T>
void cuda_engine::store_vector(const double* values, const destination<T>& out, const number& factor) const {
  if (!out.wanted()) return;
  const index_t stride = out.to.cols() == 1 ? out.to.stride() : 1;
  each(out.to.rows() * out.to.cols(),
       store_vector_step<T>{values, stride, out.to.data(), factor, out.mode == write::accumulate});
}
template <class T>
void cuda_engine::write_value(const scalar_out<T, memory::device>& to, const double* total, double factor,
                              double offset) const {
  each(1, write_value_step<T>{to.get(), total, factor, offset});
}

// The lowest index where something is wrong; an integer minimum does not depend on the order.
using lowest_index = unsigned long long;
constexpr lowest_index nowhere = ~lowest_index(0);

template <class S>
struct find_not_finite {
  const S* x;
  index_t d, stride;
  lowest_index* first;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, d);
    const compute_t<S> v = compute_t<S>(x[c.row * stride + c.column]);
    if (!(v - v == compute_t<S>(0))) atomicMin(first, lowest_index(at));
  }
};
template <class S>
index_t cuda_engine::first_not_finite(const input<S>& x) {
  lowest_index* first = take<lowest_index>(1);
  fill(first, 1, nowhere);
  each(x.rows() * x.cols(), find_not_finite<S>{x.data(), x.cols(), x.stride(), first});
  const lowest_index at = rehearses() ? nowhere : *on_host(first, 1);
  return at == nowhere ? -1 : index_t(at);
}

// ---------------------------------------------------------------------------------------------------------
// By index

template <class T, class F>
struct convert_step {
  const F* from;
  index_t stride;
  T* to;
  __device__ void operator()(index_t i) const { to[i] = T(from[i * stride]); }
};
inline index_t* cuda_engine::indices(const labels& y) {
  index_t* to = take<index_t>(y.size());
  if (y.where() == memory::host) {
    std::vector<index_t> host(static_cast<std::size_t>(y.size()));
    for (index_t i = 0; i < y.size(); ++i) host[std::size_t(i)] = y[i];
    from_host(host.data(), y.size(), to);
  } else if (y.wide()) {
    each(y.size(), convert_step<index_t, std::int64_t>{static_cast<const std::int64_t*>(y.data()), y.stride(), to});
  } else {
    each(y.size(), convert_step<index_t, std::int32_t>{static_cast<const std::int32_t*>(y.data()), y.stride(), to});
  }
  return to;
}

template <class S>
struct gather_step {
  const S* from;
  index_t n, d, stride;
  const index_t* index;
  S* to;
  index_t to_stride;
  __device__ void operator()(index_t at) const {
    const cell c = cell_of(at, d);
    const index_t i = index[c.row];
    // An index that nobody could check must not read elsewhere: it makes the row NaN.
    to[c.row * to_stride + c.column] =
        i >= 0 && i < n ? from[i * stride + c.column] : S(math::limits<float>::not_a_number);
  }
};
template <class S>
void cuda_engine::gather(const input<S>& x, const index_t* index, const place<S>& out) const {
  each(out.rows() * out.cols(),
       gather_step<S>{x.data(), x.rows(), x.cols(), x.stride(), index, out.data(), out.stride()});
}

// A thread per column of g goes through all rows of u in their order.
template <class T, class S>
struct scatter_step {
  const S* u;
  index_t n, d, stride;
  const index_t* index;
  T* g;
  index_t rows;
  __device__ void operator()(index_t k) const {
    for (index_t a = 0; a < n; ++a)
      if (index[a] >= 0 && index[a] < rows) g[index[a] * d + k] += T(u[a * stride + k]);
  }
};
template <class T, class S>
void cuda_engine::scatter_add(const input<S>& u, const index_t* index, T* g, index_t rows) const {
  each(u.cols(), scatter_step<T, S>{u.data(), u.rows(), u.cols(), u.stride(), index, g, rows});
}

// ---------------------------------------------------------------------------------------------------------
// Sums over a sample

template <class T>
struct term_of {
  const T* x;
  __device__ double operator()(index_t i) const { return double(x[i]); }
};
template <class T>
struct product_term {
  const T *x, *y;
  __device__ double operator()(index_t i) const { return double(x[i]) * double(y[i]); }
};
template <class T>
struct spread_term {
  const T* x;
  const double* mean;
  index_t d;
  __device__ double operator()(index_t i) const {
    const double c = double(x[i]) - mean[cell_of(i, d).column];
    return c * c;
  }
};

template <class T>
void cuda_engine::sum(const T* x, index_t n, double* out) {
  ordered_sum<T>(n, term_of<T>{x}, out);
}
template <class T>
void cuda_engine::dot(const T* x, const T* y, index_t n, index_t d, double* out) {
  ordered_sum<T>(n * d, product_term<T>{x, y}, out);
}
template <class T>
void cuda_engine::spread(const T* x, index_t n, index_t d, const double* mean, double* out) {
  ordered_sum<T>(n * d, spread_term<T>{x, mean, d}, out);
}

/// bits = the largest |x_i| as the bits of a double: their order is that of the numbers, with what is not a number above all.
using double_bits = unsigned long long;
template <class T>
__global__ void __launch_bounds__(block_threads) magnitude_kernel(const T* x, index_t n, double_bits* bits) {
  double_bits most = 0;
  for (index_t i = grid_thread(); i < n; i += grid_threads()) {
    const double wide = double(x[i]);
    double_bits b;
    std::memcpy(&b, &wide, sizeof b);
    b &= ~double_bits(0) >> 1;  // without the sign
    if (b > most) most = b;
  }
  for (int o = warp_lanes / 2; o > 0; o /= 2) {
    const double_bits other = __shfl_xor_sync(all_lanes, most, o);
    if (other > most) most = other;
  }
  if (int(threadIdx.x) % warp_lanes == 0) atomicMax(bits, most);
}
struct double_of_bits_step {
  const double_bits* bits;
  double* out;
  __device__ void operator()(index_t) const { std::memcpy(out, bits, sizeof *out); }
};
template <class T>
void cuda_engine::largest(const T* x, index_t n, double* out) {
  const workspace::frame inner(ctx_.scratch());
  double_bits* bits = zeros<double_bits>(1);
  launch("largest magnitude", magnitude_kernel<T>, blocks_for(n), 1, block_threads, 0, x, n, bits);
  each(1, double_of_bits_step{bits, out});
}

/// Whether `mine` holds for any thread of the block; scratch: a number for each warp.
__device__ inline bool block_any(bool mine, int* scratch) {
  const bool in_warp = __any_sync(all_lanes, mine);
  __syncthreads();
  if (int(threadIdx.x) % warp_lanes == 0) scratch[int(threadIdx.x) / warp_lanes] = in_warp ? 1 : 0;
  __syncthreads();
  int any = 0;
  for (int w = 0; w < block_warps; ++w) any |= scratch[w];
  return any != 0;
}
/// By one block: if all numbers are too small for their squares, but not all 0, the squared norms become not numbers. Squares that
/// are too large become infinite by themselves.
template <class T>
__global__ void __launch_bounds__(block_threads) vanishing_kernel(rows<T> x, rows<T> y, double least_square) {
  bool enough = false, nonzero = false;
  const rows<T> both[2] = {x, y};
  for (const rows<T>& r : both)
    for (index_t i = index_t(threadIdx.x); i < r.n; i += block_threads) enough = enough || !(double(r.squared[i]) < least_square);
  if (block_any(enough, shared<int>())) return;
  for (const rows<T>& r : both)
    for (index_t at = index_t(threadIdx.x); at < r.n * r.d; at += block_threads) nonzero = nonzero || r.data[at] != T(0);
  if (!block_any(nonzero, shared<int>())) return;
  for (const rows<T>& r : both)
    for (index_t i = index_t(threadIdx.x); i < r.n; i += block_threads) r.squared[i] = math::limits<T>::not_a_number;
}
/// The same of each row by itself.
template <class T>
struct vanishing_row_step {
  rows<T> x;
  double least_square;
  __device__ void operator()(index_t i, int lane) const {
    if (!(double(x.squared[i]) < least_square)) return;  // the whole warp
    T most(0);
    for (index_t k = lane; k < x.d; k += warp_lanes) most = math::max(most, math::max(x.data[i * x.d + k], -x.data[i * x.d + k]));
    most = warp_max(most);
    if (lane == 0 && most > T(0)) x.squared[i] = math::limits<T>::not_a_number;
  }
};
template <class T>
double cuda_engine::beyond_squares(const rows<T>& x, const rows<T>& y, small_squares small) {
  const square_limits<T> limits(x.d);
  const bool each_row = small == small_squares::each_row;
  const double least = limits.least * limits.least;
  for (const rows<T>& r : {x, y})
    if (each_row && r.n > 0)
      launch("vanishing rows", row_kernel<vanishing_row_step<T>>, blocks_for(r.n, block_warps), 1, block_threads, 0, r.n,
             vanishing_row_step<T>{r, least});
  if (small == small_squares::all) launch("vanishing", vanishing_kernel<T>, 1, 1, block_threads, block_warps * sizeof(int), x, y, least);
  if (!ctx_.check_finite()) return 0;
  double* out = take<double>(1);
  const auto magnitude = [&](const T* data, index_t count) {
    largest(data, count, out);
    return rehearses() ? 0.0 : *on_host(out, 1);
  };
  const auto forbidden = [&](double m) {
    return m != 0 && !((small == small_squares::harmless || m >= limits.least) && m <= limits.most);
  };
  double found = 0;
  for (const rows<T>& r : {x, y}) {
    if (r.n == 0) continue;
    if (!each_row) {
      found = std::max(found, magnitude(r.data, r.n * r.d));
      continue;
    }
    const T* squared = on_host(r.squared, r.n);
    for (index_t i = 0; i < r.n && !rehearses(); ++i) {
      if (squared[i] - squared[i] == T(0)) continue;
      const double here = magnitude(r.data + i * r.d, r.d);
      if (forbidden(here)) return here;
    }
  }
  return forbidden(found) ? found : 0;
}

// A thread per group and column, through all rows in their order.
template <class T>
struct group_means_step {
  const T* x;
  index_t n, d;
  const index_t* group;
  T* means;
  index_t* counts;
  __device__ void operator()(index_t at) const {
    const cell to = cell_of(at, d);
    const index_t c = to.row, k = to.column;
    double first = 0, s = 0;  // the mean of equal rows is that row to the last bit; of none it stays
    index_t count = 0;
    for (index_t i = 0; i < n; ++i) {
      if (group[i] != c) continue;
      if (count == 0) first = double(x[i * d + k]);
      s += double(x[i * d + k]) - first;
      ++count;
    }
    if (count > 0) means[at] = T(first + s / double(count));
    if (k == 0) counts[c] = count;
  }
};
template <class T>
void cuda_engine::group_means(const rows<T>& x, const index_t* group, index_t k, T* means, index_t* counts) {
  each(k * x.d, group_means_step<T>{x.data, x.n, x.d, group, means, counts});
}

/// distance_i = min(distance_i, |x_i - x_p|^2), p from memory if given there; then x_p itself is out of the race.
template <class T>
struct lower_distances_step {
  const T* x;
  index_t d, p;
  const index_t* at;
  T* distance;
  __device__ void operator()(index_t i, int lane) const {
    const index_t from = at ? *at : p;
    T s(0);
    for (index_t k = lane; k < d; k += warp_lanes) {
      const T c = x[i * d + k] - x[from * d + k];
      s += c * c;
    }
    s = warp_sum(s);
    if (lane != 0) return;
    if (s < distance[i]) distance[i] = s;
    if (at && i == from) distance[i] = T(-1);  // never again, not even where all that is left are copies
  }
};
template <class T>
void cuda_engine::lower_distances(const rows<T>& x, index_t p, T* distance) const {
  launch("lower_distances", row_kernel<lower_distances_step<T>>, blocks_for(x.n, block_warps), 1, block_threads, 0, x.n,
         lower_distances_step<T>{x.data, x.d, p, nullptr, distance});
}

/// at = index of the largest, the lowest on ties, by one block.
template <class T>
__global__ void __launch_bounds__(block_threads) largest_kernel(const T* x, index_t n, index_t* at) {
  T* values = shared<T>();
  index_t* places = reinterpret_cast<index_t*>(values + block_threads);
  const int thread = int(threadIdx.x);
  T best = -math::limits<T>::infinity;
  index_t place = n;
  for (index_t i = thread; i < n; i += block_threads)
    if (x[i] > best) {
      best = x[i];
      place = i;
    }
  values[thread] = best;
  places[thread] = place;
  for (int o = block_threads / 2; o > 0; o /= 2) {
    __syncthreads();
    if (thread >= o) continue;
    const int other = thread + o;
    if (values[other] < values[thread] || (values[other] == values[thread] && places[other] > places[thread])) continue;
    values[thread] = values[other];
    places[thread] = places[other];
  }
  if (thread == 0) *at = places[0] < n ? places[0] : 0;  // where no distance is a number, any row will do
}
template <class T>
void cuda_engine::farthest_points(const rows<T>& x, index_t count, index_t* chosen) {
  T* distance = take<T>(x.n);
  fill(distance, x.n, math::limits<T>::infinity);
  for (index_t a = 1; a < count; ++a) {
    launch("lower_distances", row_kernel<lower_distances_step<T>>, blocks_for(x.n, block_warps), 1, block_threads, 0, x.n,
           lower_distances_step<T>{x.data, x.d, 0, chosen + a - 1, distance});
    launch("largest", largest_kernel<T>, 1, 1, block_threads, block_threads * (sizeof(T) + sizeof(index_t)), distance, x.n,
           chosen + a);
  }
}

// ---------------------------------------------------------------------------------------------------------
// Transformations

template <class T>
struct subtract_step {
  T* x;
  index_t d;
  const double* m;
  __device__ void operator()(index_t at) const { x[at] = T(double(x[at]) - m[cell_of(at, d).column]); }
};
template <class T>
struct scale_step {
  T* x;
  device_number factor;
  __device__ void operator()(index_t at) const { x[at] *= T(double(factor)); }
};
template <class T>
struct scale_columns_step {
  T* x;
  index_t d;
  const double* factor;
  __device__ void operator()(index_t at) const { x[at] = T(double(x[at]) * factor[cell_of(at, d).column]); }
};
struct round_step {
  float* x;
  float split;
  __device__ void operator()(index_t at) const { x[at] = rounded(x[at], split); }
};
/// to = the bits of x in bfloat16
struct narrow_step {
  const float* x;
  float split;
  std::uint16_t* to;
  __device__ void operator()(index_t at) const { to[at] = bfloat16_bits(rounded(x[at], split)); }
};
template <class T>
struct square_norms_step {
  const T* x;
  index_t d;
  T* squared;
  __device__ void operator()(index_t i, int lane) const {
    T s(0);
    for (index_t k = lane; k < d; k += warp_lanes) s += x[i * d + k] * x[i * d + k];
    s = warp_sum(s);
    if (lane == 0) squared[i] = s;
  }
};
/// to = rows of `from` divided by their norm, times scale; or, if `minus` is given (d numbers), less that, in double before
/// it is rounded. `from` may be `to`.
template <class T, class S>
struct normalise_step {
  const S* from;
  index_t stride;
  T* to;
  index_t d;
  T* inverse_norm;
  device_number scale;
  const double* minus;
  __device__ void operator()(index_t i, int lane) const {
    const S* x = from + i * stride;
    T largest(0);
    for (index_t k = lane; k < d; k += warp_lanes) largest = math::max(largest, T(x[k]) < T(0) ? -T(x[k]) : T(x[k]));
    largest = warp_max(largest);
    if (minus)  // in double, for what is left of unit rows that are nearly the same
      divide<double>(x, i, lane, double(largest));
    else
      divide<T>(x, i, lane, largest);
  }

 private:
  template <class A>
  __device__ void divide(const S* x, index_t i, int lane, A largest) const {
    T* r = to + i * d;
    A s(0);  // of numbers divided by the largest first, so that no square overflows or vanishes
    for (index_t k = lane; k < d && largest > A(0); k += warp_lanes) s += (A(T(x[k])) / largest) * (A(T(x[k])) / largest);
    const A root = std::sqrt(warp_sum(s)), norm = largest * root, one(1);
    if (norm < A(least_norm<T>())) {  // a row of NaN too, since none of them is larger than 0: x - x is NaN then, and otherwise 0
      T sum(0);
      for (index_t k = lane; k < d; k += warp_lanes) {
        const T zero = T(x[k]) - T(x[k]);
        sum += zero;
        r[k] = minus ? T(double(zero) - minus[k]) : zero;
      }
      sum = warp_sum(sum);
      if (lane == 0) inverse_norm[i] = sum;
      return;
    }
    const bool lost = norm < math::limits<A>::smallest;  // the norm has lost digits that its factors have
    const T by = T(double(scale));
    for (index_t k = lane; k < d; k += warp_lanes) {
      const A unit = lost ? A(T(x[k])) / largest / root : A(T(x[k])) / norm;
      r[k] = minus ? T(double(unit) - minus[k]) : T(unit) * by;  // in this order: by / norm may be beyond T
    }
    if (lane == 0) inverse_norm[i] = T(lost ? one / root / largest : one / norm);
  }
};
/// out (=, +=) factor * scale (g_i - (g_i . u_i) u_i) / |x_i|; out may be g.
template <class T, class S>
struct normalise_pullback_step {
  const T *g, *scaled;
  index_t d;
  const T* inverse_norm;
  device_number scale;
  S* out;
  index_t stride;
  device_number factor;
  bool accumulate;
  __device__ void operator()(index_t i, int lane) const {
    const T *gi = g + i * d, *xi = scaled + i * d;
    S* to = out + i * stride;
    const T by = T(double(scale)), back = T(1 / double(scale)), f = T(double(factor));
    T along(0);
    for (index_t k = lane; k < d; k += warp_lanes) along += gi[k] * xi[k];
    along = warp_sum(along) * back;
    for (index_t k = lane; k < d; k += warp_lanes) {
      const T v = f * (inverse_norm[i] * (by * (gi[k] - along * (back * xi[k]))));
      to[k] = accumulate ? S(T(to[k]) + v) : S(v);
    }
  }
};
template <class T>
struct unnormalise_step {
  T* x;
  index_t d;
  const T* inverse_norm;
  __device__ void operator()(index_t at) const {
    const T inverse = inverse_norm[cell_of(at, d).row];
    if (inverse > T(0)) x[at] /= inverse;
  }
};
template <class T>
struct square_term {
  const T* x;
  index_t d;
  __device__ double operator()(index_t i, index_t k) const { return double(x[i * d + k]) * double(x[i * d + k]); }
};
struct inverse_deviation_step {
  index_t n;
  double* out;
  __device__ void operator()(index_t k) const {
    const double deviation = std::sqrt(out[k] / double(n - 1));
    out[k] = deviation > 0 ? 1 / deviation : 1;
  }
};
template <class T>
struct along_term {
  const T *x, *gx, *y, *gy;
  index_t n, d;
  __device__ double operator()(index_t i, index_t k) const {
    if (i < n) return double(gx[i * d + k]) * double(x[i * d + k]);
    i -= n;
    return double(gy[i * d + k]) * double(y[i * d + k]);
  }
};
template <class T>
struct deviation_pullback_step {
  const T* y;
  T* gy;
  index_t m, d;
  const double* along;
  __device__ void operator()(index_t at) const {
    gy[at] -= T(double(y[at]) * along[cell_of(at, d).column] / double(m - 1));
  }
};
template <class T>
struct both_term {
  const T *gx, *gy;
  index_t n, d;
  __device__ double operator()(index_t i, index_t k) const {
    return i < n ? double(gx[i * d + k]) : double(gy[(i - n) * d + k]);
  }
};

// The first row plus the mean difference from it: equal numbers have that number for their mean.
template <class T>
void cuda_engine::column_means(const T* x, index_t n, index_t d, double* out) {
  sum_columns(n, d, difference_term<T>{x, d}, out, double(n));
}
template <class T>
void cuda_engine::centre(T* x, index_t n, index_t d, double* mean) {
  column_means(x, n, d, mean);
  subtract(x, n, d, mean);
}
template <class T>
void cuda_engine::subtract(T* x, index_t n, index_t d, const double* m) const {
  each(n * d, subtract_step<T>{x, d, m});
}
template <class T>
void cuda_engine::scale(T* x, index_t n, index_t d, const number& factor) const {
  each(n * d, scale_step<T>{x, factor});
}
template <class T>
void cuda_engine::square_norms(const rows<T>& x) const {
  if constexpr (sizeof(T) == 4)
    if (split() > 1) each(x.n * x.d, round_step{x.data, split()});
  launch("square_norms", row_kernel<square_norms_step<T>>, blocks_for(x.n, block_warps), 1, block_threads, 0, x.n,
         square_norms_step<T>{x.data, x.d, x.squared});
}
template <class T>
void cuda_engine::normalise(T* x, index_t n, index_t d, T* inverse_norm, const double* minus) const {
  launch("normalise", row_kernel<normalise_step<T, T>>, blocks_for(n, block_warps), 1, block_threads, 0, n,
         normalise_step<T, T>{x, d, x, d, inverse_norm, 1, minus});
}
template <class T, class S>
void cuda_engine::load_normalised(const input<S>& x, T* to, T* inverse_norm, const number& scale) const {
  launch("normalise", row_kernel<normalise_step<T, S>>, blocks_for(x.rows(), block_warps), 1, block_threads, 0, x.rows(),
         normalise_step<T, S>{x.data(), x.stride(), to, x.cols(), inverse_norm, scale, nullptr});
}
template <class T>
void cuda_engine::normalise_pullback(T* g, const T* unit, index_t n, index_t d, const T* inverse_norm) const {
  store_normalised(g, unit, inverse_norm, 1, overwrite(place<T>(g, n, d)), 1);
}
template <class T, class S>
void cuda_engine::store_normalised(const T* g, const T* scaled, const T* inverse_norm, const number& scale,
                                   const destination<S>& out, const number& factor) const {
  const auto& to = out.to;
  launch("normalise_pullback", row_kernel<normalise_pullback_step<T, S>>, blocks_for(to.rows(), block_warps), 1,
         block_threads, 0, to.rows(),
         normalise_pullback_step<T, S>{g, scaled, to.cols(), inverse_norm, scale, to.data(), to.stride(), factor,
                                       out.mode == write::accumulate});
}
template <class T>
void cuda_engine::unnormalise(T* x, index_t n, index_t d, const T* inverse_norm) const {
  each(n * d, unnormalise_step<T>{x, d, inverse_norm});
}
template <class T>
void cuda_engine::inverse_deviation(const T* x, index_t n, index_t d, double* out) {
  sum_columns(n, d, square_term<T>{x, d}, out);
  each(d, inverse_deviation_step{n, out});
}
template <class T>
void cuda_engine::scale_each_column(T* x, index_t n, index_t d, const double* factor) const {
  each(n * d, scale_columns_step<T>{x, d, factor});
}
template <class T>
void cuda_engine::deviation_pullback(const T* x, const T* gx, index_t n, const T* y, T* gy, index_t m, index_t d) {
  double* along = take<double>(d);
  sum_columns(n + m, d, along_term<T>{x, gx, y, gy, n, d}, along);
  each(m * d, deviation_pullback_step<T>{y, gy, m, d, along});
}
template <class T>
void cuda_engine::mean_pullback(const T* gx, index_t n, T* gy, index_t m, index_t d) {
  double* mean = take<double>(d);
  sum_columns(n + m, d, both_term<T>{gx, gy, n, d}, mean, double(m));
  subtract(gy, m, d, mean);
}

// A thread per column: the extremes of a sample are few enough columns times rows to be read once in order.
template <class T>
struct column_extremes_step {
  const T* z;
  index_t n, d;
  T eps;
  column_range<T> range;
  __device__ void operator()(index_t k) const {
    index_t low = 0, high = 0;
    T lowest = z[k], highest = z[k];
    for (index_t i = 1; i < n; ++i) {
      const T v = z[i * d + k];
      if (v < lowest) {
        lowest = v;
        low = i;
      }
      if (v > highest) {
        highest = v;
        high = i;
      }
    }
    range.low[k] = lowest;
    range.range[k] = highest - lowest + eps;
    range.low_at[k] = low;
    range.high_at[k] = high;
  }
};
template <class T>
struct scale_to_range_step {
  T* z;
  index_t d;
  column_range<T> range;
  __device__ void operator()(index_t at) const {
    const index_t k = cell_of(at, d).column;
    z[at] = (z[at] - range.low[k]) / range.range[k];
  }
};
template <class T>
column_range<T> cuda_engine::scale_columns(T* z, index_t n, index_t d, T eps) {
  const column_range<T> r{take<T>(d), take<T>(d), take<index_t>(d), take<index_t>(d)};
  each(d, column_extremes_step<T>{z, n, d, eps, r});
  each(n * d, scale_to_range_step<T>{z, d, r});
  return r;
}
template <class T>
struct range_pullback_step {
  T* g;
  index_t d;
  column_range<T> range;
  __device__ void operator()(index_t at) const { g[at] /= range.range[cell_of(at, d).column]; }
};
/// By the lowest (side 0: dz/dmin = (z - 1) / range) or the highest number (side 1: -z / range) of a column.
template <class T>
struct extreme_term {
  const T *z, *g;
  index_t d;
  device_number root;
  const double* shift;
  int side;
  __device__ double operator()(index_t i, index_t k) const {
    const double zik = double(root) * double(z[i * d + k]) + shift[k];
    return double(g[i * d + k]) * (side == 0 ? zik - 1 : -zik);
  }
};
template <class T>
struct extremes_pullback_step {
  T* g;
  index_t d;
  column_range<T> range;
  const double *by_low, *by_high;
  __device__ void operator()(index_t k) const {
    g[range.low_at[k] * d + k] += T(by_low[k]);
    g[range.high_at[k] * d + k] += T(by_high[k]);
  }
};
template <class T>
void cuda_engine::scale_columns_pullback(const T* z, index_t n, index_t d, const number& root, const double* shift,
                                         const column_range<T>& r, bool moving, T* g) {
  each(n * d, range_pullback_step<T>{g, d, r});
  if (!moving) return;
  double *by_low = take<double>(d), *by_high = take<double>(d);
  sum_columns(n, d, extreme_term<T>{z, g, d, root, shift, 0}, by_low);
  sum_columns(n, d, extreme_term<T>{z, g, d, root, shift, 1}, by_high);
  each(d, extremes_pullback_step<T>{g, d, r, by_low, by_high});
}

// ---------------------------------------------------------------------------------------------------------
// Weights and targets

/// Weights in device memory, as they are.
template <class T>
T* cuda_engine::device_weights(const numbers& w) {
  T* to = take<T>(w.size());
  if (w.where() == memory::host) {
    std::vector<T> host(static_cast<std::size_t>(w.size()));
    for (index_t i = 0; i < w.size(); ++i) host[std::size_t(i)] = T(w[i]);
    from_host(host.data(), w.size(), to);
  } else if (w.is_double()) {
    each(w.size(), convert_step<T, double>{static_cast<const double*>(w.data()), w.stride(), to});
  } else {
    each(w.size(), convert_step<T, float>{static_cast<const float*>(w.data()), w.stride(), to});
  }
  return to;
}
template <class T>
struct share_weights_step {
  const double *w, *sum;
  index_t n;
  T* to;
  __device__ void operator()(index_t i) const { to[i] = T(w[i] / *sum * double(n)); }
};
/// By one warp; pairs of a lane's own weights first, then those between lanes.
struct pair_weights_step {
  const double *w, *sum;
  index_t n;
  double* pairs;
  __device__ void operator()(index_t, int lane) const {
    weight_sums mine;
    for (index_t i = lane; i < n; i += warp_lanes) mine.add(w[i] / *sum, 0);
    for (int o = warp_lanes / 2; o > 0; o /= 2)
      mine.add(__shfl_xor_sync(all_lanes, mine.sum, o), __shfl_xor_sync(all_lanes, mine.pairs, o));
    if (lane == 0) *pairs = mine.pairs;
  }
};
template <class T>
void cuda_engine::load_weights(const numbers& w, index_t n, T* to, double* sums) {
  if (w.empty()) {
    fill(to, n, T(1));
    fill(sums, 1, double(n - 1) / double(n));
    fill(sums + 1, 1, double(n));
    return;
  }
  const double* given = device_weights<double>(w);
  double* total = sums + 1;
  ordered_sum<double>(n, term_of<double>{given}, total);
  launch("pair_weights", row_kernel<pair_weights_step>, 1, 1, block_threads, 0, index_t(1),
         pair_weights_step{given, total, n, sums});
  each(n, share_weights_step<T>{given, total, n, to});
}

struct index_step {
  index_t* to;
  __device__ void operator()(index_t i) const { to[i] = i; }
};
inline void cuda_engine::pair_ids(const labels& x, const labels& y, index_t n, index_t m, index_t* x_id, index_t* y_id) {
  if (x.empty()) {
    each(n, index_step{x_id});
    each(m, index_step{y_id});
    return;
  }
  copy(indices(x), n, x_id);
  copy(indices(y), m, y_id);
}

/// matches_i = how many of the other side have the id of row i.
struct matches_step {
  const index_t *id, *other_id;
  index_t m;
  index_t* matches;
  __device__ void operator()(index_t i, int lane) const {
    unsigned long long count = 0;
    for (index_t j = lane; j < m; j += warp_lanes) count += other_id[j] == id[i] ? 1 : 0;
    count = warp_sum(count);
    if (lane == 0) matches[i] = index_t(count);
  }
};
inline void cuda_engine::count_matches(const index_t* id, index_t n, const index_t* other_id, index_t m, index_t* matches) {
  launch("matches", row_kernel<matches_step>, blocks_for(n, block_warps), 1, block_threads, 0, n,
         matches_step{id, other_id, m, matches});
}

template <class T>
struct share_targets_step {
  const index_t* matches;
  double smoothing;
  T *hit, *mass;
  __device__ void operator()(index_t i) const {
    const index_t count = matches[i];
    hit[i] = count > 0 ? T((1 - smoothing) / double(count)) : T(0);
    mass[i] = T(count > 0 ? 1 : 0);
  }
};
/// Row i belongs to column i.
template <class T>
struct own_targets_step {
  double smoothing;
  index_t* id;
  T *hit, *mass;
  __device__ void operator()(index_t i) const {
    id[i] = i;
    hit[i] = T(1 - smoothing);
    mass[i] = T(1);
  }
};
template <class T>
void cuda_engine::share_targets(const index_t* id, const index_t* other_id, const index_t* matches, index_t n, index_t m,
                                double smoothing, softmax<T>& s) {
  T *hit = take<T>(n), *mass = take<T>(n);
  each(n, share_targets_step<T>{matches, smoothing, hit, mass});
  s.id = id;
  s.other_id = other_id;
  s.hit = hit;
  s.mass = mass;
  s.matches = matches;
  s.base = T(smoothing / double(m));
}
template <class T>
void cuda_engine::pair_targets(const labels& x, const labels& y, index_t n, index_t m, double smoothing,
                               softmax<T>& by_row, softmax<T>& by_col) {
  index_t* x_id = take<index_t>(n);
  if (x.empty()) {
    T *hit = take<T>(n), *mass = take<T>(n);
    each(n, own_targets_step<T>{smoothing, x_id, hit, mass});
    by_row.id = by_row.other_id = by_col.id = by_col.other_id = x_id;
    by_row.hit = by_col.hit = hit;
    by_row.mass = by_col.mass = mass;
    by_row.base = by_col.base = T(smoothing / double(n));
    return;
  }
  index_t *y_id = take<index_t>(m), *x_matches = take<index_t>(n), *y_matches = take<index_t>(m);
  pair_ids(x, y, n, m, x_id, y_id);
  count_matches(x_id, n, y_id, m, x_matches);
  count_matches(y_id, m, x_id, n, y_matches);
  share_targets(x_id, y_id, x_matches, n, m, smoothing, by_row);
  share_targets(y_id, x_id, y_matches, m, n, smoothing, by_col);
}
/// Class labels: an ignored row belongs to no class; one outside the classes, which only the device can see, makes its row
/// NaN.
template <class T>
struct label_targets_step {
  index_t n, classes, ignore;
  double smoothing;
  index_t *id, *other_id;
  T *hit, *mass;
  __device__ void operator()(index_t i) const {
    if (i < classes) other_id[i] = i;
    if (i >= n) return;
    const bool out = id[i] == ignore, wrong = !out && (id[i] < 0 || id[i] >= classes);
    if (out) id[i] = classes;
    hit[i] = T(1 - smoothing);
    mass[i] = wrong ? math::limits<T>::not_a_number : T(out ? 0 : 1);
  }
};
template <class T>
void cuda_engine::label_targets(const labels& y, index_t classes, index_t ignore, double smoothing, softmax<T>& s) {
  index_t *id = indices(y), *other = take<index_t>(classes);
  T *hit = take<T>(s.n), *mass = take<T>(s.n);
  each(std::max(s.n, classes), label_targets_step<T>{s.n, classes, ignore, smoothing, id, other, hit, mass});
  s.id = id;
  s.other_id = other;
  s.hit = hit;
  s.mass = mass;
  s.base = T(smoothing / double(classes));
}
template <class T>
struct soft_mass_step {
  const T* t;
  index_t classes, stride;
  double smoothing;
  T* mass;
  __device__ void operator()(index_t i, int lane) const {
    double s = 0;
    for (index_t c = lane; c < classes; c += warp_lanes) s += double(t[i * stride + c]);
    s = warp_sum(s);
    if (lane == 0) mass[i] = T((1 - smoothing) * s + smoothing);
  }
};
template <class T>
void cuda_engine::soft_targets(const input<T>& t, double smoothing, softmax<T>& s) {
  s.soft = t.data();
  s.soft_stride = t.stride();
  s.keep = T(1 - smoothing);
  s.base = T(smoothing / double(t.cols()));
  T* mass = take<T>(s.n);
  launch("soft_targets", row_kernel<soft_mass_step<T>>, blocks_for(s.n, block_warps), 1, block_threads, 0, s.n,
         soft_mass_step<T>{t.data(), t.cols(), t.stride(), smoothing, mass});
  s.mass = mass;
}

/// w_i, or 0 for a row that takes no part.
struct row_weight_step {
  const double* w;
  const index_t *label, *positives;
  index_t ignore;
  double* out;
  __device__ void operator()(index_t i) const {
    const bool left_out = (label && label[i] == ignore) || (positives && positives[i] == 0);
    out[i] = left_out ? 0.0 : w ? w[i] : 1.0;
  }
};
template <class T>
struct scaled_weight_step {
  const double *w, *sum;
  double share;
  T* to;
  __device__ void operator()(index_t i) const {
    const double by = sum == nullptr ? 1 : *sum != 0 ? *sum : math::limits<double>::infinity;  // no row takes part: no loss
    to[i] = T(w[i] / by * share);
  }
};
template <class T>
void cuda_engine::row_weights(index_t n, const numbers& w, const labels* y, index_t ignore, const index_t* positives,
                              bool mean, double share, softmax<T>& s) {
  T* weight = take<T>(n);
  s.weight = weight;
  if (w.empty() && y == nullptr && positives == nullptr) return fill(weight, n, T(mean ? share / double(n) : share));
  double *all = take<double>(n), *sum = take<double>(1);
  each(n, row_weight_step{w.empty() ? nullptr : device_weights<double>(w), y ? indices(*y) : nullptr, positives, ignore, all});
  if (mean) ordered_sum<double>(n, term_of<double>{all}, sum);
  each(n, scaled_weight_step<T>{all, mean ? sum : nullptr, share, weight});
  s.weight_sum = sum;
}

}  // namespace craft::engine
