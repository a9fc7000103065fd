// The targets of softmax cross-entropies (cross_entropy.hpp) and the weights of their rows: from labels, soft targets and the
// caller's weights; and the gradients by these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "craft/steps/cross_entropy.hpp"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// Which rows belong together

/// An integer as a T that compares equal for equal integers only: registers compare numbers. Floats are made from the bit
/// pattern, since not every integer is a float; all of them are normal numbers.
template <class T>
CRAFT_HOST_DEVICE T exact_id(index_t id) {
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

/// id_i = the label's number
template <class T>
struct number_id_step {
  const index_t* number;  ///< null: i
  T* id;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { id[i] = exact_id<T>(number ? number[i] : i); }
};
/// Of row i among those of x and then those of y: the first of all that has the same label.
struct label_number_step {
  const index_t *x, *y;
  index_t n, m, *x_number, *y_number;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const index_t label = i < n ? x[i] : y[i - n];
    index_t first = g.lowest(n, [&](index_t j) { return x[j] == label; });
    if (first == n) first += g.lowest(m, [&](index_t j) { return y[j] == label; });
    if (g.first()) (i < n ? x_number[i] : y_number[i - n]) = first;
  }
};
/// How many of the other side have the label of row i.
struct matches_step {
  const index_t *number, *other;
  index_t m, *matches;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const index_t mine = number[i], count = g.count(m, [&](index_t j) { return other[j] == mine; });
    if (g.first()) matches[i] = count;
  }
};

/// Labels of both sides as numbers below n + m, equal for equal labels, and how many of the other side are equal to each.
struct numbered_labels {
  index_t *x, *y, *x_matches, *y_matches;
};
/// By sorting where the host can read them, else by looking at all pairs.
template <class Engine>
[[gnu::cold]] numbered_labels number_labels(Engine& e, const labels& x, const labels& y) {
  const index_t n = x.size(), m = y.size();
  const numbered_labels to{e.template take<index_t>(n), e.template take<index_t>(m), e.template take<index_t>(n),
                           e.template take<index_t>(m)};
  if (x.where() != memory::host || y.where() != memory::host) {
    const index_t* x_label = converted<index_t>(e, x);
    e.each_row(n + m, n + m, label_number_step{x_label, converted<index_t>(e, y), n, m, to.x, to.y});
    e.each_row(n, m, matches_step{to.x, to.y, m, to.x_matches});
    e.each_row(m, n, matches_step{to.y, to.x, n, to.y_matches});
    return to;
  }
  const workspace::frame inner(e.context().scratch());
  host_zeros<index_t> all(e, n + m), counts(e, 2 * (n + m)), number(e, n + m), matches(e, n + m);
  for (index_t i = 0; i < n + m; ++i) all[i] = i < n ? x[i] : y[i - n];
  std::sort(all.begin(), all.begin() + n + m);
  const index_t* end = std::unique(all.begin(), all.begin() + n + m);
  for (index_t i = 0; i < n + m; ++i) {
    number[i] = std::lower_bound<const index_t*>(all.begin(), end, i < n ? x[i] : y[i - n]) - all.begin();
    ++counts[2 * number[i] + (i < n ? 0 : 1)];
  }
  for (index_t i = 0; i < n + m; ++i) matches[i] = counts[2 * number[i] + (i < n ? 1 : 0)];
  e.from_host(number.begin(), n, to.x), e.from_host(number.begin() + n, m, to.y);
  e.from_host(matches.begin(), n, to.x_matches), e.from_host(matches.begin() + n, m, to.y_matches);
  return to;
}
inline void check_ids(index_t rows) {
  require<option_error>(rows <= largest_id, "expected at most ", largest_id, " rows in all, got ", rows);
}
/// Identities of rows that belong together: equal labels, or without labels equal indices.
template <class T, class Engine>
void pair_ids(Engine& e, const labels& x, const labels& y, index_t n, index_t m, T* x_id, T* y_id) {
  check_ids(n + m);
  const numbered_labels numbers = x.empty() ? numbered_labels{} : number_labels(e, x, y);
  e.each(n, number_id_step<T>{numbers.x, x_id});
  e.each(m, number_id_step<T>{numbers.y, y_id});
}

/// What an element of all pairs knows of rows and columns: who they are. Every pair's value is multiplied by `scale` in the total.
template <class V>
struct id_side {
  V id;
};
template <class T>
struct pairs_by_id {
  const T *x_id, *y_id;
  double scale;

  CRAFT_HOST_DEVICE id_side<T> row(index_t i) const { return {x_id[i]}; }
  template <class At>
  CRAFT_HOST_DEVICE id_side<typename At::number> column(const At& at) const {
    return {at.load(y_id)};
  }
  template <class Block>
  CRAFT_HOST_DEVICE double share(const Block&) const {
    return scale;
  }
  CRAFT_HOST_DEVICE T count(const id_side<T>&) const { return T(1); }
};

// ---------------------------------------------------------------------------------------------------------
// Targets

/// id_i; hit_i = (1 - smoothing) / the number of columns that belong to row i, mass_i = 1; 0 where there is none. Without labels
/// row i belongs to column i.
template <class T>
struct pair_targets_step {
  const index_t *number, *matches;  ///< null: without labels
  double smoothing;
  T *id, *hit, *mass;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const index_t count = matches ? matches[i] : 1;
    id[i] = exact_id<T>(number ? number[i] : i);
    hit[i] = count > 0 ? T((1 - smoothing) / double(count)) : T(0);
    mass[i] = T(count > 0 ? 1 : 0);
  }
};
/// Both directions: (1 - smoothing) shared by the positives, smoothing by all.
template <class T, class Engine>
void pair_targets(Engine& e, const labels& x, const labels& y, index_t n, index_t m, double smoothing, softmax<T>& by_row,
                  softmax<T>& by_col) {
  check_ids(n + m);
  const numbered_labels numbers = x.empty() ? numbered_labels{} : number_labels(e, x, y);
  const auto make = [&](softmax<T>& s, index_t count, const index_t* number, const index_t* matches) {
    T *id = e.template take<T>(count), *hit = e.template take<T>(count), *mass = e.template take<T>(count);
    e.each(count, pair_targets_step<T>{number, matches, smoothing, id, hit, mass});
    s.id = id, s.hit = hit, s.mass = mass, s.matches = matches;
  };
  make(by_row, n, numbers.x, numbers.x_matches);
  if (x.empty())
    by_col.id = by_row.id, by_col.hit = by_row.hit, by_col.mass = by_row.mass;
  else
    make(by_col, m, numbers.y, numbers.y_matches);
  by_row.other_id = by_col.id, by_col.other_id = by_row.id;
  by_row.base = T(smoothing / double(m)), by_col.base = T(smoothing / double(n));
}

/// Class labels: an ignored row belongs to no class; one outside the classes, which only a device can see, makes its row not a
/// number.
template <class T>
struct label_targets_step {
  const index_t* label;
  index_t n, classes, ignore;
  double smoothing;
  T *id, *other_id, *hit, *mass;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    if (i < classes) other_id[i] = exact_id<T>(i);
    if (i >= n) return;
    const bool out = label[i] == ignore, wrong = !out && (label[i] < 0 || label[i] >= classes);
    id[i] = exact_id<T>(out || wrong ? classes : label[i]);
    hit[i] = T(1 - smoothing);
    mass[i] = wrong ? math::limits<T>::not_a_number : T(out ? 0 : 1);
  }
};
/// Targets from class labels over C anchors.
template <class T, class Engine>
void label_targets(Engine& e, const labels& y, index_t classes, index_t ignore, double smoothing, softmax<T>& s) {
  require<option_error>(classes < largest_id, "expected fewer than ", largest_id, " anchors, got ", classes);
  T *id = e.template take<T>(s.n), *other = e.template take<T>(classes), *hit = e.template take<T>(s.n),
    *mass = e.template take<T>(s.n);
  e.each(s.n < classes ? classes : s.n,
         label_targets_step<T>{converted<index_t>(e, y), s.n, classes, ignore, smoothing, id, other, hit, mass});
  s.id = id, s.other_id = other, s.hit = hit, s.mass = mass;
  s.base = T(smoothing / double(classes));
}

/// mass_i = (1 - smoothing) sum_c t_ic + smoothing
template <class T>
struct soft_mass_step {
  const T* t;
  index_t classes, stride;
  double smoothing;
  T* mass;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const T* row = t + i * stride;
    const double sum = g.template sum<double>(classes, [&](auto at) { return at.load(row); });
    if (g.first()) mass[i] = T((1 - smoothing) * sum + smoothing);
  }
};
/// Soft targets t (n x C): (1 - smoothing) t + smoothing / C.
template <class T, class Engine, memory M>
void soft_targets(Engine& e, const matrix_view<const T, M>& t, double smoothing, softmax<T>& s) {
  T* mass = e.template take<T>(s.n);
  e.each_row(s.n, t.cols(), soft_mass_step<T>{t.data(), t.cols(), t.stride(), smoothing, mass});
  s.soft = t.data(), s.soft_stride = t.stride(), s.mass = mass;
  s.keep = T(1 - smoothing), s.base = T(smoothing / double(t.cols()));
}

// ---------------------------------------------------------------------------------------------------------
// Weights of rows

/// w_i, or 0 for a row that takes no part.
struct row_weight_step {
  const double* w;
  const index_t *label, *positives;
  index_t ignore;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const bool left_out = (label && label[i] == ignore) || (positives && positives[i] == 0);
    out[i] = left_out ? 0.0 : w ? w[i] : 1.0;
  }
};
template <class T>
struct scaled_weight_step {
  const double *w, *sum;
  double share;
  T* to;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const double by = sum == nullptr ? 1 : *sum != 0 ? *sum : math::limits<double>::infinity;  // no row takes part: no loss
    to[i] = T(w[i] / by * share);
  }
};
/// weight_i = share * w_i / (sum of the weights that take part, or 1); rows with the label `ignore`, or without positives where
/// these are given, have weight 0.
template <class T, class Engine>
void row_weights(Engine& e, index_t n, const numbers& w, const labels* y, index_t ignore, const index_t* positives, bool mean,
                 double share, softmax<T>& s) {
  T* weight = e.template take<T>(n);
  s.weight = weight;
  if (w.empty() && y == nullptr && positives == nullptr) return fill(e, weight, n, T(mean ? share / double(n) : share));
  double *all = e.template take<double>(n), *sum_of = e.template take<double>(1);
  const double* given = w.empty() ? nullptr : converted<double>(e, w);
  e.each(n, row_weight_step{given, y ? converted<index_t>(e, *y) : nullptr, positives, ignore, all});
  if (mean) sum(e, all, n, sum_of);
  e.each(n, scaled_weight_step<T>{all, mean ? sum_of : nullptr, share, weight});
  s.weight_sum = sum_of;
}

/// out_i += dL/dw_i of one direction, L = share sum_i w_i l_i / sum w (or share sum_i w_i l_i, with `divided` false): by the
/// rows' own losses l_i = mass_i lse_i - target_dot_i. Rows without a part in it have none; `loss` is L.
template <class T>
struct row_weight_pullback_step {
  softmax<T> s;
  const double* loss;
  double share;
  bool divided;
  double* out;
  CRAFT_HOST_DEVICE void operator()(index_t i) const {
    const double mass = double(s.mass[i]), total = s.weight_sum ? *s.weight_sum : double(s.n);
    if ((mass == 0 && s.soft == nullptr) || (divided && total == 0)) return;
    const double row = share * (mass * double(s.lse[i]) - double(s.target_dot[i]));
    out[i] += divided ? (row - *loss) / total : row;
  }
};
/// z_ij = dL/dt_ij = w_i keep (lse_i - z_ij), the gradient by soft targets, n x m.
template <class T>
struct target_pullback_step {
  softmax<T> s;
  index_t m;
  T* z;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* row = z + i * m;
    const T by = s.weight[i] * s.keep, lse = s.lse[i];
    g.template each<T>(m, [&](auto at) {
      using V = decltype(at.load(row));
      at.store(row, V(by) * (V(lse) - at.load(row)));
    });
  }
};

}  // namespace craft::engine
