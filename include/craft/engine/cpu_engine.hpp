// The CPU engine: the one room that knows threads, tiles and matrix products. A verb makes one engine per call; everything
// the engine takes from the context's scratch memory goes back when the call ends.
//
// Memory and threads are in cpu_threads.hpp, the sweeps over all pairs in cpu_sweeps.hpp. What runs in pieces, on threads or per
// tile is handed to them as a function_ref, so that they are compiled once.
//
// The members are the whole contract between verbs and devices (docs/add_a_device.md): a verb never looks into the memory
// that an engine gives it, it only passes it on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>

#include "craft/engine/cpu_sweeps.hpp"
#include "craft/engine/tiles.hpp"
#include "craft/engine/vectors.hpp"

namespace craft::engine {

class cpu_engine : public cpu_sweeps {
 public:
  using cpu_sweeps::cpu_sweeps;

  // ---- numbers: here the engine's numbers are plain ones, and its memory is the host's
  using number = double;
  template <class T>
  using id = T;  ///< how rows that belong together are named: comparable in vector registers
  template <class T>
  using softmax = engine::softmax<T>;

  /// Whether a verb can look at the number now, to check it; and the number.
  static bool known(const scalar&) { return true; }
  static double read(const scalar& s) { return s.value(); }
  static double number_at(const double* p) { return *p; }
  /// Labels and weights as the host can look at them; none if that would mean to wait, unless `always`.
  template <class Numbers>
  static Numbers seen(const Numbers& given, bool = false) {
    return given;
  }
  /// What the host can read and write: n numbers of the engine's memory, and the way back of those that it changed.
  template <class T>
  static T* on_host(T* p, index_t) {
    return p;
  }
  template <class T>
  static void from_host(const T* host, index_t n, T* p) {
    if (host != p) std::copy_n(host, n, p);
  }

  /// step(i) for every i in [0, count).
  template <class Step>
  void each(index_t count, const Step& step) const {
    if (count == 1) return step(0);
    pieces(count, 1, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) step(i);
    });
  }

  // ---- rows: from the caller's memory and back
  /// to = x, converted to T, rows side by side.
  template <class T, class S>
  void load(const matrix_view<const S>& x, T* to) const {
    pieces(x.rows(), x.cols(), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) load_row(x, i, to + i * x.cols());
    });
  }
  /// load, then normalise, and times scale.
  template <class T, class S>
  void load_normalised(const matrix_view<const S>& x, T* to, T* inverse_norm, double scale) const {
    pieces(x.rows(), x.cols(), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) load_row(x, i, to + i * x.cols());
      for (index_t i = begin; i < end; ++i) inverse_norm[i] = engine::normalise(to + i * x.cols(), x.cols(), T(scale));
    });
  }
  /// out (=, +=) factor * g
  template <class T, class S>
  void store(const T* g, const output<S>& out, double factor) const {
    if (!out.wanted()) return;
    const index_t d = out.to.cols();
    pieces(out.to.rows(), d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) store_row(g + i * d, i, out, T(factor));
    });
  }
  /// g_i = scale (g_i - (g_i . u_i) u_i) / |x_i|, given u * scale: the gradient through load_normalised; then store. Uses up g.
  template <class T, class S>
  void store_normalised(T* g, const T* scaled, const T* inverse_norm, double scale, const output<S>& out,
                        double factor) const {
    const index_t d = out.to.cols();
    pieces(out.to.rows(), d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) engine::normalise_pullback(g + i * d, scaled + i * d, d, inverse_norm[i], scale);
      for (index_t i = begin; i < end; ++i) store_row(g + i * d, i, out, T(factor));
    });
  }
  /// Index of the first number that is not finite, or -1.
  template <class S>
  index_t first_not_finite(const matrix_view<const S>& x) const {
    std::atomic<index_t> first{std::numeric_limits<index_t>::max()};
    pieces(x.rows(), x.cols(), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        if constexpr (std::is_same_v<S, compute_t<S>>)
          if (all_finite(x.row(i), x.cols())) continue;
        for (index_t k = 0; k < x.cols(); ++k)
          if (!std::isfinite(compute_t<S>(x.row(i)[k]))) {
            const index_t at = i * x.cols() + k;
            index_t seen = first.load();
            while (at < seen && !first.compare_exchange_weak(seen, at)) {
            }
            return;
          }
      }
    });
    return first == std::numeric_limits<index_t>::max() ? -1 : first.load();
  }

  // ---- rows: by index
  /// Labels or row numbers in the engine's memory.
  index_t* indices(const labels& y) {
    index_t* to = take<index_t>(y.size());
    for (index_t i = 0; i < y.size(); ++i) to[i] = y[i];
    return to;
  }
  template <class T>
  static void copy(const T* from, index_t n, T* to) {
    std::copy_n(from, n, to);
  }
  /// out_a = x_(index_a)
  template <class S>
  void gather(const matrix_view<const S>& x, const index_t* index, const matrix_view<S>& out) const {
    pieces(out.rows(), out.cols(), [&](index_t begin, index_t end) {
      for (index_t a = begin; a < end; ++a) std::copy_n(x.row(index[a]), x.cols(), out.row(a));
    });
  }
  /// g_(index_a) += u_a, in the order of a; g has `rows` rows.
  template <class T, class S>
  void scatter_add(const matrix_view<const S>& u, const index_t* index, T* g, index_t) const {
    columns(u.rows(), u.cols(), [&](index_t begin, index_t end) {
      for (index_t a = 0; a < u.rows(); ++a)
        for (index_t k = begin; k < end; ++k) g[index[a] * u.cols() + k] += T(u.row(a)[k]);
    });
  }

  // ---- rows: sums over a sample, always in the order of its rows
  /// out_k = sum_i x_ik / divisor in double, n x d.
  template <class T>
  void column_sums(const T* x, index_t n, index_t d, double* out, double divisor = 1) const {
    columns(n, d, [&](index_t begin, index_t end) {
      std::fill(out + begin, out + end, 0.0);
      for (index_t i = 0; i < n; ++i)
        for (index_t k = begin; k < end; ++k) out[k] += double(x[i * d + k]);
      for (index_t k = begin; k < end; ++k) out[k] /= divisor;
    });
  }
  /// out = sum_i x_i
  template <class T>
  void sum(const T* x, index_t n, double* out) {
    *out = ordered_sum(n, 1, [&](index_t begin, index_t end) {
      double s = 0;
      for (index_t i = begin; i < end; ++i) s += double(x[i]);
      return s;
    });
  }
  /// out = the largest |x_i| of n numbers; not a number if any is.
  template <class T>
  void largest(const T* x, index_t n, double* out) const {
    std::atomic<T> most{T(0)};
    pieces(n, 1, [&](index_t begin, index_t end) {
      const T here = largest_magnitude(x + begin, end - begin);
      for (T seen = most; (here != here || here > seen) && !most.compare_exchange_weak(seen, here);) {
      }
    });
    *out = double(most.load());
  }
  /// A magnitude that square_limits forbid, or 0: the largest of all numbers of x and y, or of a row that is not zero. The
  /// norms tell nearly always. Not of what is not finite: that stays so by itself.
  template <class T>
  double beyond_squares(const rows<T>& x, const rows<T>& y, small_squares small) const {
    const square_limits<T> limits(x.d);
    const bool each_row = small == small_squares::each_row;
    const auto forbidden = [&](double magnitude) {
      const bool too_small = small != small_squares::harmless && magnitude < limits.least;
      return std::isfinite(magnitude) && magnitude != 0 && (too_small || magnitude > limits.most);
    };
    const double least = small == small_squares::harmless ? 0 : limits.least * limits.least * (each_row ? 1 : double(x.d));
    const double most = limits.most * limits.most;
    double highest = 0, found = 0;
    for (const rows<T>& r : {x, y})
      for (index_t i = 0; i < r.n; ++i) {
        const double squared = double(r.squared[i]);
        highest = std::max(highest, squared);
        if (!each_row || (squared >= least && squared <= most)) continue;
        const double magnitude = double(largest_magnitude(r.data + i * r.d, r.d));
        if (forbidden(magnitude)) return magnitude;
      }
    if (each_row || (highest >= least && highest <= most)) return 0;
    for (const rows<T>& r : {x, y}) {
      double here = 0;
      largest(r.data, r.n * r.d, &here);
      found = here > found || here != here ? here : found;
    }
    return forbidden(found) ? found : 0;
  }
  /// out = sum_ik x_ik y_ik
  template <class T>
  void dot(const T* x, const T* y, index_t n, index_t d, double* out) {
    *out = ordered_sum(n, d, [&](index_t begin, index_t end) {
      double s = 0;
      for (index_t i = begin; i < end; ++i) s += double(engine::dot(x + i * d, y + i * d, d));
      return s;
    });
  }
  /// out = sum_i |x_i - mean|^2
  template <class T>
  void spread(const T* x, index_t n, index_t d, const double* mean, double* out) {
    *out = ordered_sum(n, d, [&](index_t begin, index_t end) {
      double all = 0;
      for (index_t i = begin; i < end; ++i) {
        double s = 0;
        for (index_t k = 0; k < d; ++k) s += (double(x[i * d + k]) - mean[k]) * (double(x[i * d + k]) - mean[k]);
        all += s;
      }
      return all;
    });
  }

  /// means_c = mean of the rows with group_i = c, k x d, and how many there are; where there is none, means_c stays. A mean is
  /// the group's first row plus the mean difference from it, so that the mean of equal rows is that row to the last bit.
  template <class T>
  void group_means(const rows<T>& x, const index_t* group, index_t k, T* means, index_t* counts) {
    const workspace::frame inner(ctx_.scratch());
    // Rows sorted by group, so that each is read once, as a whole, into sums that stay in cache.
    index_t *begin = zeros<index_t>(k + 1), *sorted = take<index_t>(x.n);
    for (index_t i = 0; i < x.n; ++i) ++begin[group[i] + 1];
    for (index_t c = 0; c < k; ++c) counts[c] = begin[c + 1], begin[c + 1] += begin[c];
    for (index_t i = 0; i < x.n; ++i) sorted[begin[group[i]]++] = i;  // and begin_c becomes the end of c
    double* sums = zeros<double>(k * x.d);
    parallel(k, threads_for(4 * double(x.n) * double(x.d)), [&](index_t, index_t c) {
      if (counts[c] == 0) return;
      double* sum = sums + c * x.d;
      const T* first = x.data + sorted[begin[c] - counts[c]] * x.d;
      for (index_t q = begin[c] - counts[c] + 1; q < begin[c]; ++q) {
        const T* from = x.data + sorted[q] * x.d;
        for (index_t j = 0; j < x.d; ++j) sum[j] += double(from[j]) - double(first[j]);
      }
      for (index_t j = 0; j < x.d; ++j) means[c * x.d + j] = T(double(first[j]) + sum[j] / double(counts[c]));
    });
  }
  /// distance_i = min(distance_i, |x_i - x_p|^2)
  template <class T>
  void lower_distances(const rows<T>& x, index_t p, T* distance) const {
    const T* to = x.data + p * x.d;
    pieces(x.n, x.d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        distance[i] = std::min(distance[i], squared_distance(x.data + i * x.d, to, x.d));
    });
  }
  /// From row chosen_0 on, `count` rows in all, always the one whose nearest chosen row is farthest (the lowest on ties).
  template <class T>
  void farthest_points(const rows<T>& x, index_t count, index_t* chosen) {
    T* distance = take<T>(x.n);
    fill(distance, x.n, std::numeric_limits<T>::infinity());
    for (index_t a = 1; a < count; ++a) {
      lower_distances(x, chosen[a - 1], distance);
      distance[chosen[a - 1]] = T(-1);  // never again, not even where all that is left are copies
      chosen[a] = std::max_element(distance, distance + x.n) - distance;
    }
  }

  // ---- rows: transformations
  /// out = mean of all rows, in double. Of doubles it is the first row plus the mean difference from it: the mean of equal numbers
  /// is then that number, where a sum of many divided by n would be rounded (that of floats, in double, is not).
  template <class T>
  void column_means(const T* x, index_t n, index_t d, double* out) const {
    if constexpr (sizeof(T) < sizeof(double)) return column_sums(x, n, d, out, double(n));
    columns(n, d, [&](index_t begin, index_t end) {
      std::fill(out + begin, out + end, 0.0);
      for (index_t i = 1; i < n; ++i)
        for (index_t k = begin; k < end; ++k) out[k] += double(x[i * d + k]) - double(x[k]);
      for (index_t k = begin; k < end; ++k) out[k] = double(x[k]) + out[k] / double(n);
    });
  }
  /// x_i -= mean of all rows, which is left in `mean`: equal rows are exactly 0 then.
  template <class T>
  void centre(T* x, index_t n, index_t d, double* mean) const {
    column_means(x, n, d, mean);
    subtract(x, n, d, mean);
  }
  /// x_i -= m
  template <class T>
  void subtract(T* x, index_t n, index_t d, const double* m) const {
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t k = 0; k < d; ++k) x[i * d + k] = T(double(x[i * d + k]) - m[k]);
    });
  }
  template <class T>
  void scale(T* x, index_t n, index_t d, double factor) const {
    const T f = T(factor);
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin * d; i < end * d; ++i) x[i] *= f;
    });
  }
  template <class T>
  void square_norms(const rows<T>& x) const {
    pieces(x.n, x.d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) x.squared[i] = engine::dot(x.data + i * x.d, x.data + i * x.d, x.d);
    });
  }
  /// x_i = x_i / |x_i| - minus (d numbers, or null), inverse_norm_i = 1 / |x_i|; a zero row (least_norm) is not divided,
  /// and has inverse norm 0. What is left of unit rows that are nearly the same is rounded once, and not before it is subtracted.
  template <class T>
  void normalise(T* x, index_t n, index_t d, T* inverse_norm, const double* minus = nullptr) const {
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        T* xi = x + i * d;
        inverse_norm[i] = minus ? normalise_less(xi, d, minus) : engine::normalise(xi, d, T(1));
      }
    });
  }
  /// g_i = (g_i - (g_i . u_i) u_i) / |x_i| with unit rows u: the gradient through normalise.
  template <class T>
  void normalise_pullback(T* g, const T* unit, index_t n, index_t d, const T* inverse_norm) const {
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) engine::normalise_pullback(g + i * d, unit + i * d, d, inverse_norm[i], 1);
    });
  }

  /// x_i *= |x_i| again, from unit rows.
  template <class T>
  void unnormalise(T* x, index_t n, index_t d, const T* inverse_norm) const {
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t k = i * d; inverse_norm[i] > T(0) && k < (i + 1) * d; ++k) x[k] /= inverse_norm[i];
    });
  }
  /// out_k = 1 / standard deviation (n - 1) of column k of rows that are centred already; 1 for a constant column.
  template <class T>
  void inverse_deviation(const T* x, index_t n, index_t d, double* out) const {
    columns(n, d, [&](index_t begin, index_t end) {
      std::fill(out + begin, out + end, 0.0);
      for (index_t i = 0; i < n; ++i)
        for (index_t k = begin; k < end; ++k) out[k] += double(x[i * d + k]) * double(x[i * d + k]);
      for (index_t k = begin; k < end; ++k) {
        const double deviation = std::sqrt(out[k] / double(n - 1));
        out[k] = deviation > 0 ? 1 / deviation : 1;
      }
    });
  }
  /// x_ik *= factor_k
  template <class T>
  void scale_each_column(T* x, index_t n, index_t d, const double* factor) const {
    pieces(n, d, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t k = 0; k < d; ++k) x[i * d + k] = T(double(x[i * d + k]) * factor[k]);
    });
  }
  /// Through the standard deviation of y, by which x and y were divided: gy_ck -= y_ck sum_i (gx x + gy y)_k / (m - 1).
  template <class T>
  void deviation_pullback(const T* x, const T* gx, index_t n, const T* y, T* gy, index_t m, index_t d) {
    double* sum = zeros<double>(d);
    columns(n + m, d, [&](index_t begin, index_t end) {
      for (index_t i = 0; i < n; ++i)
        for (index_t k = begin; k < end; ++k) sum[k] += double(gx[i * d + k]) * double(x[i * d + k]);
      for (index_t i = 0; i < m; ++i)
        for (index_t k = begin; k < end; ++k) sum[k] += double(gy[i * d + k]) * double(y[i * d + k]);
      for (index_t i = 0; i < m; ++i)
        for (index_t k = begin; k < end; ++k) gy[i * d + k] -= T(double(y[i * d + k]) * sum[k] / double(m - 1));
    });
  }
  /// Through the mean of y, which was subtracted from x and y: gy_c -= sum_i (gx + gy) / m.
  template <class T>
  void mean_pullback(const T* gx, index_t n, T* gy, index_t m, index_t d) {
    double *x_sum = take<double>(d), *y_sum = take<double>(d);
    column_sums(gx, n, d, x_sum);
    column_sums(gy, m, d, y_sum);
    for (index_t k = 0; k < d; ++k) x_sum[k] = (x_sum[k] + y_sum[k]) / double(m);
    subtract(gy, m, d, x_sum);
  }
  /// z_ik = (z_ik - min_k) / (max_k - min_k + eps); ties: the first row.
  template <class T>
  column_range<T> scale_columns(T* z, index_t n, index_t d, T eps) {
    const column_range<T> r{take<T>(d), take<T>(d), take<index_t>(d), take<index_t>(d)};
    columns(n, d, [&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) r.low_at[k] = r.high_at[k] = 0;
      for (index_t i = 1; i < n; ++i)
        for (index_t k = begin; k < end; ++k) {
          if (z[i * d + k] < z[r.low_at[k] * d + k]) r.low_at[k] = i;
          if (z[i * d + k] > z[r.high_at[k] * d + k]) r.high_at[k] = i;
        }
      for (index_t k = begin; k < end; ++k) {
        r.low[k] = z[r.low_at[k] * d + k];
        r.range[k] = z[r.high_at[k] * d + k] - r.low[k] + eps;
      }
      for (index_t i = 0; i < n; ++i)
        for (index_t k = begin; k < end; ++k) z[i * d + k] = (z[i * d + k] - r.low[k]) / r.range[k];
    });
    return r;
  }
  /// g = the gradient through scale_columns, where the scaled numbers are root * z + shift; through the extremes if `moving`:
  /// dz/dmin = (z - 1) / range, dz/dmax = -z / range.
  template <class T>
  void scale_columns_pullback(const T* z, index_t n, index_t d, double root, const double* shift,
                              const column_range<T>& r, bool moving, T* g) {
    double *by_low = zeros<double>(d), *by_high = zeros<double>(d);
    columns(n, d, [&](index_t begin, index_t end) {
      for (index_t i = 0; i < n; ++i)
        for (index_t k = begin; k < end; ++k) {
          T& gik = g[i * d + k];
          gik /= r.range[k];
          const double zik = root * double(z[i * d + k]) + shift[k];
          by_low[k] += double(gik) * (zik - 1);
          by_high[k] -= double(gik) * zik;
        }
      for (index_t k = begin; moving && k < end; ++k) {
        g[r.low_at[k] * d + k] += T(by_low[k]);
        g[r.high_at[k] * d + k] += T(by_high[k]);
      }
    });
  }

  // ---- the verbs over all pairs
  /// totals[0] += sum_ij u_ij k(z_i, z_j) over all ordered pairs of the stacked sample z, whose first `split` rows are x;
  /// u_ij = w_i w_j times within_x, within_y or across. Optionally gradients (added to g) and, behind totals[0], the sums
  /// for the kernel's weights and bandwidths. The diagonal counts unless skip_diagonal.
  template <class T, class K>
  void quadratic_form(const rows<T>& z, index_t split, const K& k, const form_weights<T>& w, bool skip_diagonal,
                      bool parameters, double* totals, const pull<T>& g) {
    const quadratic_form_tile<T, K> epilogue{k, z, w, split, skip_diagonal, g.wanted(), parameters};
    sweep_triangle<T>(z, split, epilogue, 1 + (parameters ? k.weights() + k.bandwidths() : 0), totals, g, w.pull_x, w.pull_y);
  }

  /// The linear-time form: the mean over p disjoint pairs (2i, 2i+1) of
  /// k(x, x') + k(y, y') - k(x, y') - k(x', y); y starts at row `split` of z. Otherwise as quadratic_form.
  template <class T, class K>
  void linear_form(const rows<T>& z, index_t split, index_t p, const K& k, bool parameters, double* totals,
                   const pull<T>& g) {
    const index_t count = 1 + (parameters ? k.weights() + k.bandwidths() : 0), length = 64;
    const index_t parts = (p + length - 1) / length;
    double* sums = zeros<double>(parts * count);
    parallel(parts, threads_for(12 * double(p) * double(z.d)), [&](index_t, index_t part) {
      double* total = sums + part * count;
      for (index_t i = part * length; i < std::min(p, (part + 1) * length); ++i) {
        const index_t x = 2 * i, y = split + 2 * i;
        const index_t pairs[4][2] = {{x, x + 1}, {y, y + 1}, {x, y + 1}, {x + 1, y}};
        for (int q = 0; q < 4; ++q) add_pair(z, pairs[q][0], pairs[q][1], k, T(q < 2 ? 1 : -1) / T(p), parameters, total, g);
      }
    });
    for (index_t part = 0; part < parts; ++part)
      for (index_t c = 0; c < count; ++c) totals[c] += sums[part * count + c];
    add_self(z, g);
  }

  /// out_ij = scale * k(x_i, y_j)
  template <class T, class K, class S>
  void map(const rows<T>& x, const rows<T>& y, const K& k, double scale, const matrix_view<S>& out) {
    sweep_rectangle<T>(x, y, map_tile<T, K, S>{k, x, y, T(scale), out}, 0, nullptr, pull<T>{},
                    pull<T>{});
  }
  /// Its pull-back for dL/dout; totals[0] += sum dout_ij out_ij, but of a linear kernel, which gives no total.
  template <class T, class K, class S>
  void map_pullback(const rows<T>& x, const rows<T>& y, const K& k, double scale, const matrix_view<const S>& dout,
                    double* totals, const pull<T>& gx, const pull<T>& gy) {
    const map_pullback_tile<T, K, S> epilogue{k, x, y, T(scale), dout};
    constexpr bool linear = is_linear<K>::value;
    sweep_rectangle<T>(x, y, epilogue, linear ? 0 : 1, totals, gx, gy, dots<T>{nullptr, linear});
  }

  /// Row (and column) log-sum-exp of z_ij = x_i . y_j and target sums; then `lse` holds log-sum-exp. With `again` it returns
  /// the dot products for softmax_pullback, if they are so few that keeping them is no matter; else null.
  template <class T>
  T* log_sum_exp(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col, bool by_column,
                 bool again) {
    start(by_row);
    if (by_column) start(by_col);
    constexpr index_t few = index_t(1) << 18;  // as many as four tiles of float
    const blocks bx = cut<T>(x.n, y.n, x.d), by = cut<T>(y.n, x.n, x.d);
    const index_t numbers = bx.count() * by.count() * bx.size() * product<T>::padded(by.size());
    const dots<T> kept{again && x.n * y.n <= few ? take<T>(numbers) : nullptr, false};
    sweep_rectangle<T>(x, y, log_sum_exp_tile<T>{by_row, by_col, by_column}, 0, nullptr, pull<T>{}, pull<T>{}, kept);
    finish(by_row);
    if (by_column) finish(by_col);
    return kept.tiles;
  }
  /// Adds the gradients of sum_i w_i (mass_i lse_i - sum_j t_ij z_ij), rows and columns, to gx and gy. Uses up `kept`.
  template <class T>
  void softmax_pullback(const rows<T>& x, const rows<T>& y, const softmax<T>& by_row, const softmax<T>& by_col,
                        bool by_column, T* kept, const pull<T>& gx, const pull<T>& gy) {
    sweep_rectangle<T>(x, y, softmax_pullback_tile<T>{by_row, by_col, by_column}, 0, nullptr, gx, gy,
                    dots<T>{kept, kept != nullptr});
  }
  /// total += sum_i w_i (mass_i lse_i - sum_j t_ij z_ij)
  template <class T>
  void softmax_loss(const softmax<T>& s, double* total) {
    *total += ordered_sum(s.n, 1, [&](index_t begin, index_t end) {
      double all = 0;
      for (index_t i = begin; i < end; ++i)
        if (s.weight[i] != T(0))
          all += double(s.weight[i]) * (double(s.mass[i]) * double(s.lse[i]) - double(s.target_dot[i]));
      return all;
    });
  }

  /// totals[0] += scale * sum_ij softplus(-l_ij (x_i . y_j + bias)), totals[1] += its derivative by the bias (if gradient).
  template <class T>
  void sigmoid_loss(const rows<T>& x, const rows<T>& y, const T* row_id, const T* col_id, double bias, double scale,
                    double* totals, const pull<T>& gx, const pull<T>& gy) {
    const sigmoid_tile<T> epilogue{row_id, col_id, T(bias), T(scale), gx.wanted()};
    sweep_rectangle<T>(x, y, epilogue, 2, totals, gx, gy);
  }

  /// Whether a dot product may have other last bits where its rows stand elsewhere: here it is the same sum in the same order.
  static constexpr bool products_depend_on_place = false;
  /// index_i = the nearest row of y to x_i (lowest index on ties), distance_i = its squared distance; exactly 0 of equal
  /// rows. A row of y takes no part if its squared norm is said to be infinite.
  template <class T>
  void nearest(const rows<T>& x, const rows<T>& y, index_t* index, T* distance) {
    std::fill_n(distance, x.n, std::numeric_limits<T>::infinity());
    std::fill_n(index, x.n, y.n);
    sweep_rectangle<T>(x, y, nearest_tile<T>{x, y, distance, index}, 0, nullptr, pull<T>{}, pull<T>{});
  }

  /// The rank-th smallest (from 0) squared distance over pairs i < j of x, and a pair that has it. No distance is stored but
  /// a few of those near the answer: passes over the pairs narrow its bits down by histograms.
  template <class T>
  void distance_of_rank(const rows<T>& x, index_t rank, ranked_distance* out) {
    constexpr int digit = 12;
    constexpr index_t bins = index_t(1) << digit, few = 65536;
    struct found {
      std::uint64_t key;
      index_t i, j;
    };
    int shift = int(sizeof(T)) * 8;     // bits still unknown
    std::uint64_t prefix = 0;           // the known ones
    index_t candidates = x.n * (x.n - 1) / 2;
    const auto known = [&](std::uint64_t key) { return shift >= 64 ? 0 : key >> shift; };
    while (candidates > few && shift > 0) {
      const int width = std::min(digit, shift), next = shift - width;
      index_t* counts = zeros<index_t>(ctx_.threads() * bins);
      sweep_distances(x, [&](index_t slot, std::uint64_t key, index_t, index_t) {
        if (known(key) == prefix) ++counts[slot * bins + index_t((key >> next) & ((std::uint64_t(1) << width) - 1))];
      });
      index_t bin = 0, here = 0;
      for (;; ++bin) {
        here = 0;
        for (index_t s = 0; s < ctx_.threads(); ++s) here += counts[s * bins + bin];
        if (rank < here) break;
        rank -= here;
      }
      prefix = prefix << width | std::uint64_t(bin);
      shift = next;
      candidates = here;
    }
    // Either few are left, or all that are left are equal, and then any of them will do: the first in the sample's order.
    const index_t kept = std::min(candidates, few);
    found* list = take<found>(kept);
    std::atomic<index_t> size{0};
    std::atomic<index_t> lowest{std::numeric_limits<index_t>::max()};
    const bool equal = candidates > few;
    sweep_distances(x, [&](index_t, std::uint64_t key, index_t i, index_t j) {
      if (known(key) != prefix) return;
      if (!equal) {
        list[size++] = {key, i, j};
        return;
      }
      const index_t at = i * x.n + j;
      for (index_t seen = lowest; at < seen && !lowest.compare_exchange_weak(seen, at);) {
      }
    });
    if (equal) {
      *out = {from_bits<T>(prefix), lowest / x.n, lowest % x.n};
      return;
    }
    std::sort(list, list + kept, [](const found& a, const found& b) {
      return a.key != b.key ? a.key < b.key : a.i != b.i ? a.i < b.i : a.j < b.j;
    });
    *out = {from_bits<T>(list[rank].key), list[rank].i, list[rank].j};
  }

  // ---- numbers, out
  /// value = factor * total + offset
  template <class T>
  static void write_value(const scalar_out<T>& to, const double* total, double factor = 1, double offset = 0) {
    *to.get() = T(factor * *total + offset);
  }
  /// out (=, +=) factor * values, for a vector of any orientation.
  template <class T>
  static void store_vector(const double* values, const output<T>& out, double factor) {
    if (!out.wanted()) return;
    const index_t n = out.to.rows() * out.to.cols();
    for (index_t q = 0; q < n; ++q) {
      T& to = out.to.cols() == 1 ? *out.to.row(q) : out.to.data()[q];
      to = T((out.mode == write::accumulate ? double(to) : 0.0) + factor * values[q]);
    }
  }
  /// to_i = a_i n with a_i = w_i / sum w (empty: 1); sums = {sum_(i != j) a_i a_j, sum w}.
  template <class T>
  void load_weights(const numbers& w, index_t n, T* to, double* sums) const {
    if (w.empty()) {
      std::fill_n(to, n, T(1));
      sums[0] = double(n - 1) / double(n), sums[1] = double(n);
      return;
    }
    double sum = 0;
    for (index_t i = 0; i < n; ++i) sum += w[i];
    weight_sums shares;
    for (index_t i = 0; i < n; ++i) {
      to[i] = T(w[i] / sum * double(n));
      shares.add(w[i] / sum, 0);
    }
    sums[0] = shares.pairs, sums[1] = sum;
  }
  template <class T>
  static void fill(T* to, index_t n, T value) {
    std::fill_n(to, n, value);
  }

  // ---- targets of the alignment losses
  /// Identities of rows that belong together: equal labels, or without labels equal indices. Optionally how many rows of the
  /// other side belong to each.
  template <class T>
  void pair_ids(const labels& x, const labels& y, index_t n, index_t m, T* x_id, T* y_id, index_t* x_matches = nullptr,
                index_t* y_matches = nullptr) {
    require<option_error>(n + m <= largest_id, "expected at most ", largest_id, " rows in all, got ", n + m);
    if (x.empty()) {
      exact_ids<T>(nullptr, n, x_id);
      exact_ids<T>(nullptr, m, y_id);
      if (x_matches) std::fill_n(x_matches, n, index_t(1));
      if (y_matches) std::fill_n(y_matches, m, index_t(1));
      return;
    }
    index_t *x_class = take<index_t>(n), *y_class = take<index_t>(m);
    number_classes(x, y, n, m, x_class, y_class, x_matches, y_matches);
    exact_ids(x_class, n, x_id);
    exact_ids(y_class, m, y_id);
  }
  /// Both directions' targets: (1 - smoothing) shared by the positives, smoothing by all; hit = 0 where there is no positive.
  template <class T>
  void pair_targets(const labels& x, const labels& y, index_t n, index_t m, double smoothing, softmax<T>& by_row,
                    softmax<T>& by_col) {
    T *x_id = take<T>(n), *y_id = take<T>(m);
    index_t *x_matches = take<index_t>(n), *y_matches = take<index_t>(m);
    pair_ids(x, y, n, m, x_id, y_id, x_matches, y_matches);
    share_targets(x_id, y_id, x_matches, n, m, smoothing, by_row);
    share_targets(y_id, x_id, y_matches, m, n, smoothing, by_col);
  }
  /// Targets from class labels over C anchors.
  template <class T>
  void label_targets(const labels& y, index_t classes, index_t ignore, double smoothing, softmax<T>& s) {
    require<option_error>(classes < largest_id, "expected fewer than ", largest_id, " anchors, got ", classes);
    T *id = take<T>(s.n), *other = take<T>(classes);
    index_t* matches = take<index_t>(s.n);
    for (index_t i = 0; i < s.n; ++i) {
      id[i] = exact_id<T>(y[i] == ignore ? classes : y[i]);
      matches[i] = y[i] == ignore ? 0 : 1;
    }
    for (index_t c = 0; c < classes; ++c) other[c] = exact_id<T>(c);
    share_targets(id, other, matches, s.n, classes, smoothing, s);
  }
  /// Soft targets t (n x C): (1 - smoothing) t + smoothing / C.
  template <class T>
  void soft_targets(const matrix_view<const T>& t, double smoothing, softmax<T>& s) {
    s.soft = t.data();
    s.soft_stride = t.stride();
    s.keep = T(1 - smoothing);
    s.base = T(smoothing / double(t.cols()));
    T* mass = take<T>(s.n);
    for (index_t i = 0; i < s.n; ++i) {
      double sum = 0;
      for (index_t c = 0; c < t.cols(); ++c) sum += double(t.row(i)[c]);
      mass[i] = T((1 - smoothing) * sum + smoothing);
    }
    s.mass = mass;
  }
  /// weight_i = share * w_i / (sum of the weights that take part, or 1); rows with the label `ignore`, or with hit 0 where
  /// `positives` is given, have weight 0.
  template <class T>
  void row_weights(index_t n, const numbers& w, const labels* y, index_t ignore, const index_t* positives, bool mean,
                   double share, softmax<T>& s) {
    T* weight = take<T>(n);
    double *total = take<double>(1), &sum = *total = 0;
    const auto of = [&](index_t i) {
      const bool out = (y && (*y)[i] == ignore) || (positives && positives[i] == 0);
      return out ? 0.0 : w.empty() ? 1.0 : w[i];
    };
    for (index_t i = 0; i < n; ++i) sum += of(i);
    const double by = !mean ? 1 : sum > 0 ? sum : std::numeric_limits<double>::infinity();
    for (index_t i = 0; i < n; ++i) weight[i] = T(of(i) / by * share);
    s.weight = weight;
    s.weight_sum = total;
  }

 private:
  template <class T, class S>
  [[gnu::noinline]] static void load_row(const matrix_view<const S>& x, index_t i, T* to) {
    const S* from = x.row(i);
    for (index_t k = 0; k < x.cols(); ++k) to[k] = T(from[k]);
  }
  template <class T, class S>
  [[gnu::noinline]] static void store_row(const T* from, index_t i, const output<S>& out, T factor) {
    S* to = out.to.row(i);
    if (out.mode == write::overwrite)
      for (index_t k = 0; k < out.to.cols(); ++k) to[k] = S(factor * from[k]);
    else
      for (index_t k = 0; k < out.to.cols(); ++k) to[k] = S(T(to[k]) + factor * from[k]);
  }
  template <class T>
  static void start(const softmax<T>& s) {
    fill(s.lse, s.n, -std::numeric_limits<T>::infinity());
    fill(s.sum, s.n, T(0));
    fill(s.target_dot, s.n, T(0));
  }
  // null: 0, 1, 2, ...
  template <class T>
  [[gnu::noinline]] static void exact_ids(const index_t* from, index_t n, T* to) {
    for (index_t i = 0; i < n; ++i) to[i] = exact_id<T>(from ? from[i] : i);
  }
  // Labels as numbers from 0 on, and how many of the other side are equal to each.
  [[gnu::noinline]] void number_classes(const labels& x, const labels& y, index_t n, index_t m, index_t* x_class,
                                        index_t* y_class, index_t* x_matches, index_t* y_matches) {
    index_t *xs = take<index_t>(n), *ys = take<index_t>(m), *all = take<index_t>(n + m);
    for (index_t i = 0; i < n; ++i) xs[i] = all[i] = x[i];
    for (index_t j = 0; j < m; ++j) ys[j] = all[n + j] = y[j];
    for (const auto& [begin, count] : {std::pair(xs, n), std::pair(ys, m), std::pair(all, n + m)})
      std::sort(begin, begin + count);
    const index_t* end = std::unique(all, all + n + m);
    for (int side = 0; side < 2; ++side) {
      const labels& from = side == 0 ? x : y;
      const index_t *others = side == 0 ? ys : xs, other_count = side == 0 ? m : n;
      index_t *to = side == 0 ? x_class : y_class, *matches = side == 0 ? x_matches : y_matches;
      for (index_t i = 0; i < from.size(); ++i) {
        const index_t label = from[i];
        to[i] = std::lower_bound<const index_t*>(all, end, label) - all;
        if (!matches) continue;
        const index_t* first = std::lower_bound(others, others + other_count, label);
        matches[i] = std::upper_bound(first, others + other_count, label) - first;
      }
    }
  }
  template <class T>
  void share_targets(const T* id, const T* other_id, const index_t* matches, index_t n, index_t m, double smoothing,
                     softmax<T>& s) {
    T *hit = take<T>(n), *mass = take<T>(n);
    for (index_t i = 0; i < n; ++i) {
      hit[i] = matches[i] > 0 ? T((1 - smoothing) / double(matches[i])) : T(0);
      mass[i] = T(matches[i] > 0 ? 1 : 0);
    }
    s.id = id;
    s.other_id = other_id;
    s.hit = hit;
    s.mass = mass;
    s.matches = matches;
    s.base = T(smoothing / double(m));
  }

  template <class T, class F>
  void sweep_distances(const rows<T>& x, const F& f) {
    sweep_triangle<T>(x, x.n, each_distance<T, F>{x, f}, 0, nullptr, pull<T>{});
  }

  // One pair of the linear-time form, weight u: value, parameter sums and gradients of both rows. A distance is taken from the
  // rows here, always.
  template <class T, class K>
  void add_pair(const rows<T>& z, index_t i, index_t j, const K& k, T u, bool parameters, double* totals,
                const pull<T>& g) const {
    const T *zi = z.data + i * z.d, *zj = z.data + j * z.d;
    constexpr bool radial = K::translation_invariant;
    const T D = radial ? squared_distance(zi, zj, z.d) : T(0);
    const auto [s, a, b] = radial ? pair_scalars<T>::at_distance(D)
                                  : pair_scalars<T>{engine::dot(zi, zj, z.d), z.squared[i], z.squared[j]};
    const pair_partials<T> p = partials_of<T>(k, {s, a, b});
    totals[0] += double(u) * double(p.value);
    if (parameters) {
      double* by_bandwidth = totals + 1 + k.weights();
      k.parameters(
          s, a, b, [&](int q, T dk) { totals[1 + q] += double(u * dk); },
          [&](int q, T dk) { by_bandwidth[q] += double(u * dk); });
    }
    if (g.gradient == nullptr) return;
    if (radial) {
      add_difference(T(2) * u * p.da, zi, zj, z.d, g.gradient + i * z.d, g.gradient + j * z.d);
      return;
    }
    add_multiple(u * p.ds, zj, z.d, g.gradient + i * z.d);
    add_multiple(u * p.ds, zi, z.d, g.gradient + j * z.d);
    g.self[i] += double(u * p.da);
    g.self[j] += double(u * p.db);
  }

  template <class T>
  void finish(const softmax<T>& s) const {
    pieces(s.n, 1, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) s.lse[i] += std::log(s.sum[i]);
    });
  }
};

}  // namespace craft::engine
