// The gradient of MMD^2 by its sample weights. With a = w / sum w of x and b of y, and h the sums of a row's kernel values,
//
//     h_i = sum_j a_j k(x_i, x_j) (without j = i if unbiased)      c_i = sum_j b_j k(x_i, y_j)      V = sum_i a_i h_i
//     dMMD^2/da_i = 2 h_i - 2 c_i                                   biased
//     dMMD^2/da_i = (2 h_i - 2 (1 - a_i) V / P) / P - 2 c_i         unbiased, P = sum_(i != j) a_i a_j
//     dMMD^2/dw_i = (dMMD^2/da_i - sum_j a_j dMMD^2/da_j) / sum w
//
// and the mirror for y. A sweep of its own, over all ordered pairs: who does not want it does not pay.
#pragma once

#include <algorithm>
#include <cmath>

#include "craft/engine/function_ref.hpp"
#include "craft/kernels.hpp"
#include "craft/steps/rows.hpp"
#include "craft/steps/similarities.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

/// Factors {within_x, within_y} of a quadratic form whose weights are a_i n with sum a = 1, given sum_(i != j) a_i a_j of both
/// sides: what is divided by without the diagonal.
struct form_factors_step {
  index_t n, m;
  bool without_diagonal;
  const double *x_pairs, *y_pairs;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    out[0] = 1 / (double(n) * double(n) * (without_diagonal ? *x_pairs : 1));
    out[1] = 1 / (double(m) * double(m) * (without_diagonal ? *y_pairs : 1));
  }
};

/// k_ii = 0
template <class T>
struct clear_diagonal_step {
  T* k;
  index_t stride;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { k[i * stride + i] = T(0); }
};

/// Two vectors, in blocks of `side` rows of the stacked sample: the weights of x's rows, 0 at y's; and the other way round.
template <class T>
struct weights_apart_step {
  const T* per_row;
  index_t split, total, side;
  T* out;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const index_t begin = i / side * side, length = total - begin < side ? total - begin : side;
    T* to = out + 2 * begin + (i - begin);
    to[0] = i < split ? per_row[i] : T(0);
    to[length] = i < split ? T(0) : per_row[i];
  }
};

/// One sample's share: da_i of its rows i, from the sums with its own rows and with the other sample's, whose weights are n a
/// and m b. `pairs` is P, or null where the diagonal counts; then 1 - a_i, of a weight that is nearly all, is summed.
template <class T>
struct sample_weight_step {
  const T *per_row, *own, *other;
  index_t n, m;
  const double *pairs, *value;  ///< value: sum_i n a_i own_i
  double *share, *out;          ///< share: a_i
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const double count = double(n), a = double(per_row[i]) / count;
    const double h = double(own[i]) / count, c = double(other[i]) / double(m);
    share[i] = a;
    if (pairs == nullptr) {
      out[i] = 2 * h - 2 * c;
      return;
    }
    const double V = *value / (count * count);
    double others = 1 - a;
    if (a > 0.5) {
      others = 0;
      for (index_t j = 0; j < n; ++j) others += j == i ? 0 : double(per_row[j]) / count;
    }
    out[i] = (2 * h - 2 * others * V / *pairs) / *pairs - 2 * c;
  }
};

/// dw_i = (da_i - along) / sum w, along = sum_j a_j da_j.
struct shared_weight_step {
  const double *along, *sum;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { out[i] = (out[i] - *along) / *sum; }
};

/// out = dMMD^2/dw of the stacked sample's n + m weights, in double. map(e, rows, columns, to): kernel values. per_row:
/// n a and m b, as the quadratic form has them; sums: P and sum w of x, and of y.
template <class Engine, class T>
[[gnu::cold]] void sample_weights_pullback(Engine& e, const rows<T>& z, index_t split, bool skip_diagonal, const T* per_row,
                             const double* sums,
                             function_ref<void(Engine&, const rows<T>&, const rows<T>&, T*)> map, double* out) {
  using place = matrix_view<T, std::decay_t<decltype(e.context())>::space>;
  const index_t total = z.n, side = 8 * index_t(std::ceil(std::sqrt(double(total)))), most = (std::min)(side, total);
  T* apart = e.template take<T>(2 * total);
  e.each(total, weights_apart_step<T>{per_row, split, total, side, apart});
  T *tile = e.template take<T>(most * most), *product = e.template take<T>(2 * most), *unused = e.template zeros<T>(most + 2),
    *kept = e.template zeros<T>(2 * total);
  for (index_t i = 0; i < total; i += side) {
    const index_t height = (std::min)(side, total - i);
    for (index_t j = 0; j < total; j += side) {
      const index_t width = (std::min)(side, total - j);
      map(e, rows<T>{z.data + i * z.d, height, z.d, z.squared + i}, rows<T>{z.data + j * z.d, width, z.d, z.squared + j}, tile);
      if (i == j && skip_diagonal) e.each(height, clear_diagonal_step<T>{tile, width});
      engine::map(e, rows<T>{apart + 2 * j, 2, width, unused}, rows<T>{tile, height, width, unused}, dot_product<T>(),
            number(1), place(product, 2, height));
      store(e, product, output<T, place::space>{place(kept + i, 2, height, total), write::accumulate}, 1.0);
    }
  }
  double *value = e.template take<double>(4), *a = e.template take<double>(total);
  for (int side_of = 0; side_of < 2; ++side_of) {
    const index_t begin = side_of == 0 ? 0 : split, n = side_of == 0 ? split : total - split, m = total - n;
    const T *own = kept + side_of * total + begin, *other = kept + (1 - side_of) * total + begin;
    double *to = out + begin, *along = value + 2 + side_of;
    dot(e, per_row + begin, own, n, 1, value + side_of);
    e.each(n, sample_weight_step<T>{per_row + begin, own, other, n, m, skip_diagonal ? sums + 2 * side_of : nullptr,
                                    value + side_of, a + begin, to});
    dot(e, a + begin, to, n, 1, along);
    e.each(n, shared_weight_step{along, sums + 2 * side_of + 1, to});
  }
}

}  // namespace craft::engine
