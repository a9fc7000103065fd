// What belongs to the columns of a sample: their means, deviations and extremes, and the ways back through them.
#pragma once

#include <cmath>

#include "craft/steps/rows.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Means

/// mean_k = x_0k + mean_i (x_ik - x_0k): the mean of equal numbers is that number, to the last bit.
template <class T>
struct column_means_fold : adds_up {
  const T* x;
  index_t n, d;
  double* mean;
  column_means_fold(const T* x_, index_t n_, index_t d_, double* mean_) : x(x_), n(n_), d(d_), mean(mean_) {}
  CRAFT_HOST_DEVICE void add(double& s, index_t i, index_t k) const { s += double(x[i * d + k]) - double(x[k]); }
  CRAFT_HOST_DEVICE void finish(index_t k, double s) const { mean[k] = double(x[k]) + s / double(n); }
};
template <class T, class Engine>
void column_means(Engine& e, const T* x, index_t n, index_t d, double* mean) {
  e.fold_columns(n, d, column_means_fold<T>(x, n, d, mean));
}
/// x_i -= mean of all rows, which is left in `mean`: equal rows are exactly 0 then.
template <class T, class Engine>
void centre(Engine& e, T* x, index_t n, index_t d, double* mean) {
  column_means(e, x, n, d, mean);
  subtract(e, x, n, d, mean);
}

/// out_k = sum_i (gx + gy)_ik / m
template <class T>
struct mean_pullback_fold : adds_up {
  const T *gx, *gy;
  index_t n, m, d;
  double* out;
  mean_pullback_fold(const T* gx_, index_t n_, const T* gy_, index_t m_, index_t d_, double* out_)
      : gx(gx_), gy(gy_), n(n_), m(m_), d(d_), out(out_) {}
  CRAFT_HOST_DEVICE void add(double& s, index_t i, index_t k) const {
    s += double(i < n ? gx[i * d + k] : gy[(i - n) * d + k]);
  }
  CRAFT_HOST_DEVICE void finish(index_t k, double s) const { out[k] = s / double(m); }
};
/// Through the mean of y, which was subtracted from x and y: gy_c -= sum_i (gx + gy) / m.
template <class T, class Engine>
void mean_pullback(Engine& e, const T* gx, index_t n, T* gy, index_t m, index_t d) {
  const workspace::frame inner(e.context().scratch());
  double* mean = e.template take<double>(d);
  e.fold_columns(n + m, d, mean_pullback_fold<T>(gx, n, gy, m, d, mean));
  subtract(e, gy, m, d, mean);
}

// ---------------------------------------------------------------------------------------------------------
// Deviations

/// out_k = 1 / standard deviation (n - 1) of column k of rows that are centred already; 1 for a constant column.
template <class T>
struct inverse_deviation_fold : adds_up {
  const T* x;
  index_t n, d;
  double* out;
  inverse_deviation_fold(const T* x_, index_t n_, index_t d_, double* out_) : x(x_), n(n_), d(d_), out(out_) {}
  CRAFT_HOST_DEVICE void add(double& s, index_t i, index_t k) const { s += double(x[i * d + k]) * double(x[i * d + k]); }
  CRAFT_HOST_DEVICE void finish(index_t k, double s) const {
    const double deviation = std::sqrt(s / double(n - 1));
    out[k] = deviation > 0 ? 1 / deviation : 1;
  }
};
template <class T, class Engine>
void inverse_deviation(Engine& e, const T* x, index_t n, index_t d, double* out) {
  e.fold_columns(n, d, inverse_deviation_fold<T>(x, n, d, out));
}

/// along_k = sum_i (gx x + gy y)_ik
template <class T>
struct along_fold : adds_up {
  const T *x, *gx, *y, *gy;
  index_t n, d;
  double* along;
  along_fold(const T* x_, const T* gx_, index_t n_, const T* y_, const T* gy_, index_t d_, double* along_)
      : x(x_), gx(gx_), y(y_), gy(gy_), n(n_), d(d_), along(along_) {}
  CRAFT_HOST_DEVICE void add(double& s, index_t i, index_t k) const {
    const index_t at = (i < n ? i : i - n) * d + k;
    s += i < n ? double(gx[at]) * double(x[at]) : double(gy[at]) * double(y[at]);
  }
  CRAFT_HOST_DEVICE void finish(index_t k, double s) const { along[k] = s; }
};
/// g_ik -= x_ik along_k by
template <class T>
struct deviation_step {
  const T* x;
  T* g;
  index_t d;
  const double* along;
  double by;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& lanes) const {
    const T* r = x + i * d;
    T* to = g + i * d;
    lanes.template each<double>(d, [&](auto at) {
      using V = decltype(at.load(r));
      at.store(to, at.load(to) - at.load(r) * at.load(along) * V(by));
    });
  }
};
/// Through the standard deviation of y, by which x and y were divided: gy_ck -= y_ck along_k / (m - 1).
template <class T, class Engine>
void deviation_pullback(Engine& e, const T* x, const T* gx, index_t n, const T* y, T* gy, index_t m, index_t d) {
  const workspace::frame inner(e.context().scratch());
  double* along = e.template take<double>(d);
  e.fold_columns(n + m, d, along_fold<T>(x, gx, n, y, gy, d, along));
  e.each_row(m, d, deviation_step<T>{y, gy, d, along, 1 / double(m - 1)});
}
/// The way forward of tangents that were divided by it: with along_k = sum_c (dy y)_ck, both lose their rows times
/// along_k / (m - 1).
template <class T, class Engine>
void deviation_pushforward(Engine& e, const T* x, T* dx, index_t n, const T* y, T* dy, index_t m, index_t d) {
  const workspace::frame inner(e.context().scratch());
  double* along = e.template take<double>(d);
  e.fold_columns(m, d, along_fold<T>(y, dy, m, y, dy, d, along));
  e.each_row(n, d, deviation_step<T>{x, dx, d, along, 1 / double(m - 1)});
  e.each_row(m, d, deviation_step<T>{y, dy, d, along, 1 / double(m - 1)});
}

// ---------------------------------------------------------------------------------------------------------
// Extremes

/// Scaling of the columns of a group of rows to (z - low) / range, range = max - min + eps: forward, and the gradient's way back.
template <class T>
struct column_range {
  T *low = nullptr, *range = nullptr;
  index_t *low_at = nullptr, *high_at = nullptr;  ///< where the extremes stand; of equal ones in the first row
};
template <class T>
struct extremes_fold {
  struct state {
    T low, high;
    index_t low_at, high_at;
  };
  const T* z;
  index_t d;
  T eps;
  column_range<T> to;
  CRAFT_HOST_DEVICE state start() const { return {T(0), T(0), -1, -1}; }
  CRAFT_HOST_DEVICE void add(state& s, index_t i, index_t k) const {
    const T v = z[i * d + k];
    if (s.low_at < 0 || v < s.low) s.low = v, s.low_at = i;
    if (s.high_at < 0 || v > s.high) s.high = v, s.high_at = i;
  }
  CRAFT_HOST_DEVICE void join(state& a, const state& b) const {
    if (a.low_at < 0 || b.low < a.low) a.low = b.low, a.low_at = b.low_at;
    if (a.high_at < 0 || b.high > a.high) a.high = b.high, a.high_at = b.high_at;
  }
  CRAFT_HOST_DEVICE void finish(index_t k, const state& s) const {
    to.low[k] = s.low, to.range[k] = s.high - s.low + eps;
    to.low_at[k] = s.low_at, to.high_at[k] = s.high_at;
  }
};
/// z_ik = (z_ik - low_k) / range_k
template <class T>
struct scale_to_range_step {
  T* z;
  index_t d;
  column_range<T> by;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* r = z + i * d;
    g.template each<T>(d, [&](auto at) { at.store(r, (at.load(r) - at.load(by.low)) / at.load(by.range)); });
  }
};
template <class T, class Engine>
column_range<T> scale_columns(Engine& e, T* z, index_t n, index_t d, T eps) {
  const column_range<T> r{e.template take<T>(d), e.template take<T>(d), e.template take<index_t>(d), e.template take<index_t>(d)};
  e.fold_columns(n, d, extremes_fold<T>{z, d, eps, r});
  e.each_row(n, d, scale_to_range_step<T>{z, d, r});
  return r;
}

/// g_ik /= range_k
template <class T>
struct range_pullback_step {
  T* to;
  index_t d;
  column_range<T> by;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* r = to + i * d;
    g.template each<T>(d, [&](auto at) { at.store(r, at.load(r) / at.load(by.range)); });
  }
};
/// By the lowest (dz/dmin = (z - 1) / range) and the highest number (-z / range) of a column, whose scaled numbers are
/// root * z + shift, given g / range.
template <class T>
struct extremes_pullback_fold {
  struct state {
    double by_low, by_high;
  };
  const T* z;
  index_t d;
  number root;
  const double* shift;
  column_range<T> by;
  T* g;
  CRAFT_HOST_DEVICE state start() const { return {0, 0}; }
  CRAFT_HOST_DEVICE void add(state& s, index_t i, index_t k) const {
    const double scaled = double(root) * double(z[i * d + k]) + shift[k], gik = double(g[i * d + k]);
    s.by_low += gik * (scaled - 1);
    s.by_high -= gik * scaled;
  }
  CRAFT_HOST_DEVICE void join(state& a, const state& b) const { a.by_low += b.by_low, a.by_high += b.by_high; }
  CRAFT_HOST_DEVICE void finish(index_t k, const state& s) const {
    g[by.low_at[k] * d + k] += T(s.by_low);
    g[by.high_at[k] * d + k] += T(s.by_high);
  }
};
/// g = the gradient through scale_columns, where the scaled numbers are root * z + shift; through the extremes if `moving`.
template <class T, class Engine>
void scale_columns_pullback(Engine& e, const T* z, index_t n, index_t d, const number& root, const double* shift,
                            const column_range<T>& r, bool moving, T* g) {
  e.each_row(n, d, range_pullback_step<T>{g, d, r});
  if (moving) e.fold_columns(n, d, extremes_pullback_fold<T>{z, d, root, shift, r, g});
}

/// The columns of a stacked sample z whose second part begins at row `split`, scaled to their range: of both parts together (one
/// group), of each by itself (two), or not (none); and the gradient's way back.
template <class Engine, class T>
class scaled_columns {
 public:
  scaled_columns(Engine& e, const rows<T>& z, index_t split, index_t groups, T eps)
      : e_(e), z_(z), split_(split), groups_(groups) {
    for (index_t q = 0; q < groups; ++q) range_[q] = scale_columns(e, z.row(begin(q)), size(q), z.d, eps);
  }
  /// g = the gradient by what was there before, where the scaled numbers are root * z + shift; through the extremes if `moving`.
  void pull_back(T* g, const number& root, const double* shift, bool moving) {
    for (index_t q = 0; q < groups_; ++q)
      scale_columns_pullback(e_, z_.row(begin(q)), size(q), z_.d, root, shift, range_[q], moving, g + begin(q) * z_.d);
  }

 private:
  index_t begin(index_t group) const { return group == 0 ? 0 : split_; }
  index_t size(index_t group) const { return groups_ == 1 ? z_.n : group == 0 ? split_ : z_.n - split_; }

  Engine& e_;
  rows<T> z_;
  index_t split_, groups_;
  column_range<T> range_[2];
};

}  // namespace craft::engine
