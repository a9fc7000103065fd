// What happens inside one tile on the CPU: loops over registers that turn dot products into values, sums and weights.
// Each epilogue is called once per tile, or twice if it asks for that (tile_state); it may overwrite the tile with the weights W of the pull-back
//
//     dX_I += W Y_J + 2 diag(row_sums) X_I        dY_J += W' X_I + 2 diag(col_sums) Y_J
//
// (the engine does the products) and adds what it sums up to `totals`, which belong to the block of rows. `by_norms` says
// whether row_sums and col_sums are used. On the diagonal of a symmetric sweep the first of the two stands for both, so
// that W is given twice as large there.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "craft/engine/contract.hpp"
#include "craft/engine/pack.hpp"
#include "craft/engine/tile.hpp"
#include "craft/engine/vectors.hpp"
#include "craft/kernels.hpp"

namespace craft::engine {

/// An integer as a T that compares equal for equal integers only. Floats are made from the bit pattern, since not every
/// integer is a float; all of them are normal numbers.
template <class T>
T exact_id(index_t id) {
  if constexpr (sizeof(T) == 8) {
    return T(id);
  } else {
    const std::uint32_t bits = 0x3f800000u + std::uint32_t(id);
    T f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  }
}
constexpr index_t largest_id = 0x3fffffff;

/// No pair of a tile whose computed D is at least this is near: a bound from the largest norms, which one operation a register tells.
template <class T>
[[gnu::noinline]] T far_enough(const near_pairs<T>& near, const T* a, index_t ni, const T* b, index_t nj) {
  const auto most = [](const T* x, index_t n) {
    pack<T> some(T(0));
    T one(0);
    index_t k = 0;
    for (; k + pack<T>::width <= n; k += pack<T>::width) some = some.max(pack<T>::load(x + k));
    for (; k < n; ++k) one = math::max(one, x[k]);
    return math::max(one, largest(some));
  };
  return near.share() * (most(a, ni) + most(b, nj));
}
/// Which columns are near a row with these dot products and squared norms; how many there are.
template <class T>
[[gnu::noinline]] index_t find_near(const near_pairs<T>& near, const T* s, T a, const T* b, index_t n, index_t* at) {
  index_t count = 0;
  for (index_t j = 0; j < n; ++j)
    if (near(s[j], a, b[j])) at[count++] = j;
  return count;
}
/// The least number that was seen, in registers and one by one.
template <class T>
struct running_least {
  pack<T> some{std::numeric_limits<T>::infinity()};
  T one = std::numeric_limits<T>::infinity();
  bool below(T x) const { return smallest(some) < x || one < x; }
};
/// f(j, least) over n columns.
template <class T, class F>
void each_with_least(index_t n, running_least<T>& least, F&& f) {
  pack<T> l = least.some;
  index_t j = 0;
  for (; j + pack<T>::width <= n; j += pack<T>::width) f(j, l);
  least.some = l;
  for (; j < n; ++j) f(j, least.one);
}

/// The kernel's values of a single pair, as a call: there are few of them.
template <class T, class K>
[[gnu::noinline]] pair_partials<T> partials_of(const K& k, const pair_scalars<T>& at) {
  return k.partials(at.s, at.a, at.b);
}

/// Weighted sum of k over all pairs, sum_ij u_ij k(z_i, z_j), on a stacked sample whose first `split` rows are x.
/// Optionally the sums of the kernel's parameter derivatives.
///
/// Two kinds of pairs stand apart from the others of their row, so that what is small there keeps its digits. A row with itself:
/// nothing moves the distance 0, so its slope must not come into sums where others would be lost beside it. And near
/// rows, whose distance and whose share of the gradient are taken from the difference of the rows. They are rare: a tile is gone through as if
/// there were none, and once more if there may be some.
template <class T, class K>
struct quadratic_form_tile {
  static constexpr bool columns_depend = false, by_norms = true, radial = K::translation_invariant;
  K kernel;
  rows<T> z;
  form_weights<T> weights;
  index_t split;
  bool skip_diagonal, gradient, parameters;

  tile_state operator()(tile<T>& t, T* column_weight) const {
    const K k = kernel;  // a copy of its own: the numbers written below are not its parameters
    const near_pairs<T> near(z.d);
    const bool first = t.i0 < split, second = t.j0 < split, careful = radial && (t.careful || parameters);
    // A tile off the diagonal stands for its mirror image too.
    const double factor = 2 * (first == second ? (first ? weights.within_x : weights.within_y) : weights.across);
    const T *a_of = z.squared + t.i0, *b = z.squared + t.j0;
    const T far = radial ? far_enough(near, a_of, t.ni, b, t.nj) : T(0);
    const pair_partials<T> itself = radial && t.diagonal ? partials_of<T>(k, {T(0), T(0), T(0)}) : pair_partials<T>{};
    running_least<T> least;
    double total = 0;
    std::copy_n(weights.per_row + t.j0, t.nj, column_weight);
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const T a = a_of[i];
      const double row_weight = factor * double(weights.per_row[t.i0 + i]), by_pair = (t.diagonal ? 0.5 : 1) * row_weight;
      const auto put_apart = [&](index_t j) { s[j] = radial ? -far : a, column_weight[j] = T(0); };
      const auto add_apart = [&](index_t j, const pair_scalars<T>& at, T value, T& sum) {
        const T w = column_weight[j] = weights.per_row[t.j0 + j];
        if (parameters) add_parameters<T>(at, by_pair * double(w), t.totals);
        sum += w * value;
      };
      const index_t apart = careful ? find_near(near, s, a, b, t.nj, t.near) : 0;
      for (index_t q = 0; q < apart; ++q) put_apart(t.near[q]);
      if (t.diagonal) put_apart(i);  // known by its index, not by its numbers
      if (parameters) add_parameters(t, s, a, b, by_pair, column_weight);
      T value(0), row_sum(0);
      const T scale = T(row_weight);
      T* const col_sums = t.col_sums;
      if (gradient) {
        each(t.nj, value, row_sum, least, [&](index_t j, auto& v, auto& r, auto& l) {
          using V = std::decay_t<decltype(v)>;
          const V w = load<V>(column_weight + j), u = V(scale) * w, sj = load<V>(s + j), bj = load<V>(b + j);
          if (radial) l = math::min(l, V(a) + bj - (sj + sj));
          const pair_partials<V> p = k.partials(sj, V(a), bj);
          v = v + w * p.value;
          r = r + u * p.da;
          store(col_sums + j, load<V>(col_sums + j) + u * p.db);
          store(s + j, u * p.ds);
        });
      } else {
        each(t.nj, value, row_sum, least, [&](index_t j, auto& v, auto&, auto& l) {
          using V = std::decay_t<decltype(v)>;
          const V sj = load<V>(s + j), bj = load<V>(b + j);
          if (radial) l = math::min(l, V(a) + bj - (sj + sj));
          v = v + load<V>(column_weight + j) * k.value(sj, V(a), bj);
        });
      }
      for (index_t q = 0; q < apart; ++q) {
        const index_t j = t.near[q];
        if (t.diagonal && j == i) continue;
        const T *zi = z.data + (t.i0 + i) * z.d, *zj = z.data + (t.j0 + j) * z.d, D = squared_distance(zi, zj, z.d);
        const auto at = pair_scalars<T>::at_distance(D);
        const pair_partials<T> p = partials_of(k, at);
        add_apart(j, at, p.value, value);
        if (gradient)
          add_difference(T(2) * scale * column_weight[j] * p.da, zi, zj, z.d, row_or_null(t.row_gradient, i, z.d),
                         row_or_null(t.col_gradient, j, z.d));
      }
      if (t.diagonal && skip_diagonal) {
        column_weight[i] = weights.per_row[t.j0 + i];
      } else if (t.diagonal) {
        const pair_partials<T> p = radial ? itself : partials_of<T>(k, {a, a, a});
        add_apart(i, {a, a, a}, p.value, value);
        row_sum += T(0.5) * scale * column_weight[i] * (p.ds + p.da + p.db);  // exactly 0 for a function of the distance
      }
      t.row_sums[i] += row_sum;
      total += by_pair * double(value);
    }
    if (radial && !careful && least.below(far)) return tile_state::again;
    t.totals[0] += total;
    return gradient ? tile_state::weights : tile_state::done;
  }

 private:
  // Two running sums over the columns and the least distance, in registers and then one by one.
  template <class F>
  static void each(index_t n, T& first, T& second, running_least<T>& least, F&& f) {
    pack<T> v(T(0)), r(T(0)), l = least.some;
    index_t j = 0;
    for (; j + pack<T>::width <= n; j += pack<T>::width) f(j, v, r, l);
    first = sum(v);
    second = sum(r);
    least.some = l;
    for (; j < n; ++j) f(j, first, second, least.one);
  }
  // The kernel's parameters' share of pairs at s, a, b, times w and then in double times `weight`.
  template <class V>
  void add_parameters(const pair_scalars<V>& at, double weight, double* totals, V w = V(T(1))) const {
    double *by_weight = totals + 1, *by_bandwidth = by_weight + kernel.weights();
    kernel.parameters(
        at.s, at.a, at.b, [&](int q, V k) { by_weight[q] += weight * double(sum(w * k)); },
        [&](int q, V k) { by_bandwidth[q] += weight * double(sum(w * k)); });
  }
  void add_parameters(const tile<T>& t, const T* s, T a, const T* b, double row_weight, const T* column_weight) const {
    for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
      using V = decltype(tag);
      add_parameters<V>({load<V>(s + j), V(a), load<V>(b + j)}, row_weight, t.totals, load<V>(column_weight + j));
    });
  }
};

/// out_ij = scale * k(x_i, a_j). Near rows stand apart as in quadratic_form_tile.
template <class T, class K, class S>
struct map_tile {
  static constexpr bool columns_depend = false, by_norms = false, radial = K::translation_invariant;
  K kernel;
  rows<T> x, y;
  T scale;
  matrix_view<S> out;

  tile_state operator()(tile<T>& t, T*) const {
    const near_pairs<T> near(x.d);
    const T *a_of = x.squared + t.i0, *b = y.squared + t.j0;
    const T far = radial ? far_enough(near, a_of, t.ni, b, t.nj) : T(0);
    running_least<T> least;
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const T a = a_of[i];
      const index_t apart = t.careful ? find_near(near, s, a, b, t.nj, t.near) : 0;
      each_with_least(t.nj, least, [&](index_t j, auto& l) {
        using V = std::decay_t<decltype(l)>;
        const V sj = load<V>(s + j), bj = load<V>(b + j);
        if (radial) l = math::min(l, V(a) + bj - (sj + sj));
        store(s + j, V(scale) * kernel.value(sj, V(a), bj));
      });
      for (index_t q = 0; q < apart; ++q) {
        const index_t j = t.near[q];
        const T D = squared_distance(x.data + (t.i0 + i) * x.d, y.data + (t.j0 + j) * y.d, x.d);
        const auto at = pair_scalars<T>::at_distance(D);
        s[j] = scale * partials_of(kernel, at).value;
      }
      S* to = out.row(t.i0 + i) + t.j0;
      for (index_t j = 0; j < t.nj; ++j) to[j] = S(s[j]);
    }
    return radial && !t.careful && least.below(far) ? tile_state::again : tile_state::done;
  }
};

/// Weights of the pull-back of map_tile for a given dL/dout; totals[0] += sum dout_ij out_ij. A linear kernel looks at no dot
/// products, and gives no total.
template <class T, class K, class S>
struct map_pullback_tile {
  static constexpr bool columns_depend = false, by_norms = !is_linear<K>::value, radial = K::translation_invariant;
  K kernel;
  rows<T> x, y;
  T scale;
  matrix_view<const S> dout;

  tile_state operator()(tile<T>& t, T* u) const {
    const near_pairs<T> near(x.d);
    const T *a_of = x.squared + t.i0, *b = y.squared + t.j0;
    const T far = radial ? far_enough(near, a_of, t.ni, b, t.nj) : T(0);
    running_least<T> least;
    double total = 0;
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const S* from = dout.row(t.i0 + i) + t.j0;
      for (index_t j = 0; j < t.nj; ++j) u[j] = scale * T(from[j]);
      const T a = a_of[i];
      const index_t apart = t.careful ? find_near(near, s, a, b, t.nj, t.near) : 0;
      for (index_t q = 0; q < apart; ++q) s[t.near[q]] = -far, u[t.near[q]] = T(0);
      T row_sum(0);
      each_with_least(t.nj, least, [&](index_t j, auto& l) {
        using V = std::decay_t<decltype(l)>;
        const V w = load<V>(u + j);
        if constexpr (!by_norms) {
          store(s + j, w * kernel.partials(V(T(0)), V(T(0)), V(T(0))).ds);
        } else {
          const V sj = load<V>(s + j), bj = load<V>(b + j);
          if (radial) l = math::min(l, V(a) + bj - (sj + sj));
          const pair_partials<V> k = kernel.partials(sj, V(a), bj);
          total += double(sum(w * k.value));
          row_sum += sum(w * k.da);
          store(t.col_sums + j, load<V>(t.col_sums + j) + w * k.db);
          store(s + j, w * k.ds);
        }
      });
      for (index_t q = 0; q < apart; ++q) {
        const index_t j = t.near[q];
        const T *xi = x.data + (t.i0 + i) * x.d, *yj = y.data + (t.j0 + j) * y.d;
        const T w = scale * T(from[j]), D = squared_distance(xi, yj, x.d);
        const auto at = pair_scalars<T>::at_distance(D);
        const pair_partials<T> k = partials_of(kernel, at);
        total += double(w * k.value);
        add_difference(T(2) * w * k.da, xi, yj, x.d, row_or_null(t.row_gradient, i, x.d), row_or_null(t.col_gradient, j, x.d));
      }
      if constexpr (by_norms) t.row_sums[i] += row_sum;
    }
    if (radial && !t.careful && least.below(far)) return tile_state::again;
    if constexpr (by_norms) t.totals[0] += total;
    return tile_state::weights;
  }
};

// The targets t_ij of a softmax, a register at a time.
template <class T>
T id_of(const softmax<T>& s, index_t i) {
  return s.soft ? T(0) : s.id[i];
}
template <class T>
T hit_of(const softmax<T>& s, index_t i) {
  return s.soft ? T(0) : s.hit[i];
}
/// t_ij for the columns starting at j; id_i and hit_i are handed in because they do not change along a row.
template <class V, class T>
V target(const softmax<T>& s, index_t i, index_t j, V id_i, V hit_i) {
  if (s.soft != nullptr) return V(s.keep) * load<V>(s.soft + i * s.soft_stride + j) + V(s.base);
  return math::where_equal(id_i, load<V>(s.other_id + j), hit_i) + V(s.base);
}
/// t_ij for a register of rows i and one column j: the transposed way through a tile.
template <class V, class T>
V target_down(const softmax<T>& s, index_t i, index_t j) {
  return math::where_equal(load<V>(s.id + i), V(s.other_id[j]), load<V>(s.hit + i)) + V(s.base);
}

/// log-sum-exp of the rows of z = s, and if `by_column` of its columns, with running maxima.
template <class T>
struct log_sum_exp_tile {
  static constexpr bool by_norms = false;
  softmax<T> by_row, by_col;
  bool columns_depend;  ///< whether the columns are wanted too

  tile_state operator()(tile<T>& t, T*) const {
    for (index_t i = 0; i < t.ni; ++i) reduce_row(t, i);
    if (columns_depend) reduce_columns(t);
    return tile_state::done;
  }

 private:
  void reduce_row(const tile<T>& t, index_t i) const {
    const index_t row = t.i0 + i;
    const T* z = t.row(i);
    T highest = -std::numeric_limits<T>::infinity();
    pack<T> high(highest);
    for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
      using V = decltype(tag);
      if constexpr (std::is_same_v<V, T>)
        highest = math::max(highest, z[j]);
      else
        high = high.max(load<V>(z + j));
    });
    highest = math::max(highest, largest(high));
    T& running = by_row.lse[row];
    if (highest > running) {
      by_row.sum[row] *= std::exp(running - highest);
      running = highest;
    }
    const T id = id_of(by_row, row), hit = hit_of(by_row, row);
    pack<T> exps(T(0)), dots(T(0));
    T exp_sum(0), dot_sum(0);
    for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
      using V = decltype(tag);
      const V zj = load<V>(z + j);
      const V e = math::exp(zj - V(running));
      const V d = zj * target(by_row, row, t.j0 + j, V(id), V(hit));
      if constexpr (std::is_same_v<V, T>) {
        exp_sum += e;
        dot_sum += d;
      } else {
        exps += e;
        dots += d;
      }
    });
    by_row.sum[row] += exp_sum + engine::sum(exps);
    by_row.target_dot[row] += dot_sum + engine::sum(dots);
  }

  // Every column of a register has its own maximum, so each register of columns walks down the rows twice.
  void reduce_columns(const tile<T>& t) const {
    for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
      using V = decltype(tag);
      const index_t col = t.j0 + j;
      const V before = load<V>(by_col.lse + col);
      V highest = before;
      for (index_t i = 0; i < t.ni; ++i) highest = math::max(highest, load<V>(t.row(i) + j));
      V exps = load<V>(by_col.sum + col) * math::exp(before - highest), dots = load<V>(by_col.target_dot + col);
      for (index_t i = 0; i < t.ni; ++i) {
        const V z = load<V>(t.row(i) + j);
        exps = exps + math::exp(z - highest);
        dots = dots + z * target_down<V>(by_col, col, t.i0 + i);
      }
      store(by_col.lse + col, highest);
      store(by_col.sum + col, exps);
      store(by_col.target_dot + col, dots);
    });
  }
};

/// Weights dL/dz_ij = w_i (mass_i exp(z_ij - lse_i) - t_ij), plus the same by columns.
template <class T>
struct softmax_pullback_tile {
  static constexpr bool columns_depend = false, by_norms = false;
  softmax<T> by_row, by_col;
  bool by_column;

  tile_state operator()(tile<T>& t, T*) const {
    for (index_t i = 0; i < t.ni; ++i) {
      const index_t row = t.i0 + i;
      T* z = t.row(i);
      const T lse = by_row.lse[row], w = by_row.weight[row], mass = by_row.mass[row];
      const T id = id_of(by_row, row), hit = hit_of(by_row, row);
      for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
        using V = decltype(tag);
        const index_t col = t.j0 + j;
        const V zj = load<V>(z + j);
        V u = V(w) * (V(mass) * math::exp(zj - V(lse)) - target(by_row, row, col, V(id), V(hit)));
        if (by_column)
          u = u + load<V>(by_col.weight + col) * (load<V>(by_col.mass + col) * math::exp(zj - load<V>(by_col.lse + col)) -
                                                  target_down<V>(by_col, col, row));
        store(z + j, u);
      });
    }
    return tile_state::weights;
  }
};

/// Sigmoid pairwise loss: totals[0] += sum softplus(-l z), z = s + bias, l = +1 for equal ids and -1 otherwise;
/// weights dL/ds = -l sigmoid(-l z) * scale; totals[1] += their sum (the bias' gradient).
template <class T>
struct sigmoid_tile {
  static constexpr bool columns_depend = false, by_norms = false;
  const T *row_id, *col_id;
  T bias, scale;
  bool gradient;

  tile_state operator()(tile<T>& t, T*) const {
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const T id = row_id[t.i0 + i];
      double value = 0, by_bias = 0;
      for_each_pack<T>(0, t.nj, [&](index_t j, auto tag) {
        using V = decltype(tag);
        const V sign = math::where_equal(V(id), load<V>(col_id + t.j0 + j), V(T(2))) - V(T(1));
        const V u = -(sign * (load<V>(s + j) + V(bias)));
        const V e = math::exp(-math::max(u, -u));  // never overflows
        value += double(sum(math::max(u, V(T(0))) + math::log1p(e)));
        if (gradient) {
          const V one(T(1));
          const V sigmoid = (math::where_positive(u, one - e) + e) / (one + e);  // 1/(1+e) for u > 0, else e/(1+e)
          const V w = -(sign * sigmoid) * V(scale);
          by_bias += double(sum(w));
          store(s + j, w);
        }
      });
      t.totals[0] += value * double(scale);
      t.totals[1] += by_bias;
    }
    return gradient ? tile_state::weights : tile_state::done;
  }
};

/// Nearest column of every row by a_i + b_j - 2 s, or of a near pair by the difference of the rows (lowest index on ties):
/// running minimum in `distance`.
template <class T>
struct nearest_tile {
  static constexpr bool columns_depend = false, by_norms = false;
  rows<T> x, y;
  T* distance;
  index_t* index;

  tile_state operator()(tile<T>& t, T*) const {
    const near_pairs<T> near(x.d);
    const T *b = y.squared + t.j0, far = far_enough(near, x.squared + t.i0, t.ni, b, t.nj);
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const T a = x.squared[t.i0 + i];
      running_least<T> least;
      each_with_least(t.nj, least, [&](index_t j, auto& l) {
        using V = std::decay_t<decltype(l)>;
        const V sj = load<V>(s + j), D = V(a) + (load<V>(b + j) - (sj + sj));
        store(s + j, D);
        l = math::min(l, D);
      });
      if (least.below(far)) {
        for (index_t j = 0; j < t.nj; ++j)
          if (near.at(s[j], a, b[j]) && s[j] < math::limits<T>::infinity)
            s[j] = squared_distance(x.data + (t.i0 + i) * x.d, y.data + (t.j0 + j) * x.d, x.d);
        least = {};
        each_with_least(t.nj, least, [&](index_t j, auto& l) { l = math::min(l, load<std::decay_t<decltype(l)>>(s + j)); });
      }
      const T lowest = math::min(smallest(least.some), least.one);
      T& best = distance[t.i0 + i];
      index_t& at = index[t.i0 + i];
      if (lowest > best || (lowest == best && t.j0 > at)) continue;
      index_t j = 0;
      while (j + 1 < t.nj && s[j] != lowest) ++j;
      if (lowest < best || t.j0 + j < at) {
        best = lowest;
        at = t.j0 + j;
      }
    }
    return tile_state::done;
  }
};

/// The bits of a number >= 0 as an integer of the same order.
template <class T>
std::uint64_t order_bits(T x) {
  std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t> bits;
  std::memcpy(&bits, &x, sizeof x);
  return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
  const auto narrow = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>(bits);
  T x;
  std::memcpy(&x, &narrow, sizeof x);
  return x;
}

/// Calls f(slot, key, i, j) for every pair i < j of one sample; key = order_bits of the squared distance.
template <class T, class F>
struct each_distance {
  static constexpr bool columns_depend = false, by_norms = false;
  rows<T> x;
  F f;

  tile_state operator()(tile<T>& t, T*) const {
    const near_pairs<T> near(x.d);
    const T* b = x.squared + t.j0;
    for (index_t i = 0; i < t.ni; ++i) {
      const T *s = t.row(i), *row = x.data + (t.i0 + i) * x.d;
      const T a = x.squared[t.i0 + i];
      for (index_t j = t.diagonal ? i + 1 : 0; j < t.nj; ++j) {
        const T D = near(s[j], a, b[j]) ? squared_distance(row, x.data + (t.j0 + j) * x.d, x.d) : a + b[j] - (s[j] + s[j]);
        f(t.slot, order_bits(math::max(D, T(0))), t.i0 + i, t.j0 + j);
      }
    }
    return tile_state::done;
  }
};

}  // namespace craft::engine
