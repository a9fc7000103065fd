// Rows in groups and rows that are chosen: means of groups, sums by index, distances from a chosen row.
#pragma once

#include "craft/steps/rows.hpp"
#include "craft/steps/sums.hpp"

namespace craft::engine {

/// g_i += u_a for every a with index_a = i, in their order
template <class T, class S>
struct scatter_add_step {
  const S* u;
  index_t d, stride;
  T* to;
  template <class Lanes, class Members>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g, const Members& members) const {
    T* sum = to + i * d;
    members.each([&](index_t a) {
      const S* from = u + a * stride;
      g.template each<T>(d, [&](auto at) { at.store(sum, at.load(sum) + at.load(from)); });
    });
  }
};
/// g has `rows` rows.
template <class T, class Engine, class S, memory M>
void scatter_add(Engine& e, const matrix_view<const S, M>& u, const index_t* index, T* g, index_t rows) {
  e.each_group(index, u.rows(), rows, u.cols(), scatter_add_step<T, S>{u.data(), u.cols(), u.stride(), g});
}

/// means_c = mean of the rows with group_i = c, and how many there are; where there is none, means_c stays. A mean is the group's
/// first row plus the mean difference from it, so that the mean of equal rows is that row to the last bit.
template <class T>
struct group_means_step {
  rows<T> x;
  double* sums;  ///< k x d, zeros
  T* means;
  index_t* counts;
  template <class Lanes, class Members>
  CRAFT_HOST_DEVICE void operator()(index_t c, const Lanes& g, const Members& members) const {
    double* sum = sums + c * x.d;
    const T* base = nullptr;
    index_t count = 0;
    members.each([&](index_t i) {
      const T* r = x.row(i);
      if (count++ == 0) base = r;
      g.template each<double>(x.d, [&](auto at) { at.store(sum, at.load(sum) + (at.load(r) - at.load(base))); });
    });
    if (g.first()) counts[c] = count;
    if (count == 0) return;
    T* mean = means + c * x.d;
    g.template each<double>(x.d, [&](auto at) {
      using V = decltype(at.load(sum));
      at.store(mean, at.load(base) + at.load(sum) / V(double(count)));
    });
  }
};
template <class T, class Engine>
void group_means(Engine& e, const rows<T>& x, const index_t* group, index_t k, T* means, index_t* counts) {
  const workspace::frame inner(e.context().scratch());
  double* sums = e.template zeros<double>(k * x.d);
  e.each_group(group, x.n, k, x.d, group_means_step<T>{x, sums, means, counts});
}

/// distance_i = min(distance_i, |x_i - x_p|^2), p from memory if it is given there; then x_p itself is out of the race.
template <class T>
struct lower_distances_step {
  rows<T> x;
  index_t p;
  const index_t* chosen;
  T* distance;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const index_t from = chosen ? *chosen : p;
    const T D = squared_distance(x.row(i), x.row(from), x.d, g);
    if (!g.first()) return;
    if (D < distance[i]) distance[i] = D;
    if (chosen && i == from) distance[i] = T(-1);  // never again, not even where all that is left are copies
  }
};
template <class T, class Engine>
void lower_distances(Engine& e, const rows<T>& x, index_t p, T* distance) {
  e.each_row(x.n, x.d, lower_distances_step<T>{x, p, nullptr, distance});
}

/// at = the index of the largest, the lowest on ties; where none is a number, any row will do.
template <class T>
struct farthest_fold {
  struct state {
    T most;
    index_t at;
  };
  const T* x;
  index_t n;
  index_t* at;
  CRAFT_HOST_DEVICE state start() const { return {-math::limits<T>::infinity, n}; }
  CRAFT_HOST_DEVICE void add(state& s, index_t i) const { join(s, {x[i], i}); }
  CRAFT_HOST_DEVICE void join(state& a, const state& b) const {
    if (b.most > a.most || (b.most == a.most && b.at < a.at)) a = b;
  }
  CRAFT_HOST_DEVICE void finish(const state& s) const { *at = s.at < n ? s.at : 0; }
};
/// From row chosen_0 on, `count` rows in all, always the one whose nearest chosen row is farthest (the lowest on ties).
template <class T, class Engine>
void farthest_points(Engine& e, const rows<T>& x, index_t count, index_t* chosen) {
  const workspace::frame inner(e.context().scratch());
  T* distance = e.template take<T>(x.n);
  fill(e, distance, x.n, std::numeric_limits<T>::infinity());
  for (index_t a = 1; a < count; ++a) {
    e.each_row(x.n, x.d, lower_distances_step<T>{x, 0, chosen + a - 1, distance});
    e.fold(x.n, farthest_fold<T>{distance, x.n, chosen + a});
  }
}

}  // namespace craft::engine
