// Sweeps over all pairs of rows on the CPU: which tiles are visited when and by whom, their dot products, and the products of
// their pull-back. What is done with a tile is an epilogue's (tile.hpp).
#pragma once

#include <algorithm>
#include <new>

#include "craft/engine/cpu_threads.hpp"
#include "craft/engine/product.hpp"
#include "craft/engine/schedule.hpp"
#include "craft/engine/tile.hpp"

namespace craft::engine {

class cpu_sweeps : public cpu_threads {
 public:
  using cpu_threads::cpu_threads;

  /// Rows and columns of a tile: it and the rows it meets should stay in the second-level cache together.
  template <class T>
  index_t tile_rows() const {
    if (ctx_.tile() > 0) return ctx_.tile();
    return sizeof(T) == 8 ? 128 : 256;
  }

 protected:
  template <class T>
  struct slot_memory {
    T *tile, *row_sums, *col_sums, *counts;
    index_t* near;
    product<T> products;
  };

  // Blocks in a group: rows and gradients of one should fit a second-level cache, and those of two a core's share of the
  // third. There are at least eight pairs of groups at a time for the threads, where there are so many blocks.
  template <class T>
  [[gnu::noinline]] static index_t group_size(index_t blocks, index_t rows, index_t d) {
    const index_t bytes = 2 * rows * d * index_t(sizeof(T)), fitting = (index_t(2) << 20) / std::max<index_t>(bytes, 1);
    return std::max<index_t>(1, (std::min)(fitting, blocks / 16));
  }
  // Blocks of n rows that meet `others` rows, all of d numbers. Where one tile would be all, but is work for two threads,
  // there are two.
  template <class T>
  [[gnu::noinline]] blocks cut(index_t n, index_t others, index_t d) const {
    const index_t rows = tile_rows<T>();
    const bool halve = ctx_.tile() == 0 && (std::max)(n, others) <= rows && n > rows / 4 &&
                       double(n) * double(others) * double(d) >= 4 * double(thread_work);
    return {n, halve ? ((n + 1) / 2 + 15) / 16 * 16 : rows};
  }
  // Multiply-adds of a sweep over that many pairs, where an epilogue counts as some more.
  static double operations(double pairs, index_t d, bool pulls) { return pairs * double(d + 16) * (pulls ? 3 : 1); }
  // visit(slot, pair) for all pairs of a plan, which cost that many operations in all. Threads share pairs of groups, or, if
  // they are too many for that, the places of a step; the order in which a block meets the others is the same.
  template <class Plan, class Visit>
  void run(const Plan& plan, double operations, const Visit& visit) const {
    run_places(
        plan.rounds(), plan.steps(), plan.places(), operations, [&](index_t round) { return plan.pairs(round); },
        [&](index_t slot, index_t round, index_t k, index_t step, index_t q) {
          const block_pair p = plan.at(round, k, step, q);
          if (p.real) visit(slot, p);
        });
  }
  [[gnu::noinline]] void run_places(index_t rounds, index_t steps, index_t places, double operations,
                                    function_ref<index_t(index_t)> pairs,
                                    function_ref<void(index_t, index_t, index_t, index_t, index_t)> place) const {
    const index_t threads = threads_for(operations / double(std::max<index_t>(rounds, 1)));
    for (index_t round = 0; round < rounds; ++round) {
      const index_t count = pairs(round);
      if (threads <= count) {
        parallel(count, threads, [&](index_t slot, index_t k) {
          for (index_t step = 0; step < steps; ++step)
            for (index_t q = 0; q < places; ++q) place(slot, round, k, step, q);
        });
      } else {
        for (index_t step = 0; step < steps; ++step)
          parallel(count * places, threads,
                   [&](index_t slot, index_t t) { place(slot, round, t / places, step, t % places); });
      }
    }
  }

  // All pairs I <= J of blocks of the stacked rows z; no block straddles row `split`. The rows before or after it may go
  // without gradient.
  template <class T>
  void sweep(const square_sweep<T>& told, const tile_epilogue<T>& epilogue, index_t count) {
    const workspace::frame inner(ctx_.scratch());
    const rows<T>& z = told.z;
    const pull<T>& g = told.g;
    const index_t split = told.split;
    const blocks first = cut<T>(split, z.n - split, z.d), second = cut<T>(z.n - split, split, z.d);
    const index_t size = (std::max)(first.size(), second.size()), total = first.count() + second.count();
    const auto begin = [&](index_t k) {
      return k < first.count() ? first.begin(k) : split + second.begin(k - first.count());
    };
    const auto length = [&](index_t k) {
      return k < first.count() ? first.length(k) : second.length(k - first.count());
    };
    double* sums = zeros<double>(total * count);
    const auto pull_of = [&](index_t k) {
      return (k < first.count() ? told.pull_first : told.pull_second) ? g : pull<T>{nullptr, g.self};
    };
    const index_t group = group_size<T>(total, size, z.d);
    const tournament groups(grouped<tournament>::groups(total, group));
    slot_memory<T>* slots = take_slots<T>(groups.pairs(0) * group, size, size, z.d);  // the first round has the most pairs
    const double work = operations(double(z.n) * double(z.n) / 2, z.d, g.wanted());
    run(grouped<tournament>(groups, total, total, group), work, [&](index_t slot, const block_pair& p) {
      tile<T> t{};
      t.i0 = begin(p.first), t.ni = length(p.first), t.j0 = begin(p.second), t.nj = length(p.second);
      t.itself = tile<T>::none, t.times = 2, t.totals = sums + p.first * count, t.slot = slot;
      if (p.first == p.second)
        visit_diagonal(t, size, z, epilogue, pull_of(p.first), slots[slot]);
      else
        visit(t, size, z, z, epilogue, pull_of(p.first), pull_of(p.second), slots[slot]);
    });
    add_sums(sums, total, count, told.totals);
    add_self(z, g);
  }

  // All pairs of blocks of x and y. The dot products are kept, or were: see `keep`.
  template <class T>
  void sweep(const rectangle_sweep<T>& told, const tile_epilogue<T>& epilogue, index_t count, bool keep = false) {
    const workspace::frame inner(ctx_.scratch());
    const rows<T>&x = told.x, &y = told.y;
    const pull<T>&gx = told.gx, &gy = told.gy;
    const blocks bx = cut<T>(x.n, y.n, x.d), by = cut<T>(y.n, x.n, x.d);
    const double cost = operations(double(x.n) * double(y.n), x.d, gx.wanted());
    double* sums = zeros<double>(bx.count() * count);
    const auto work = [&](index_t slot, index_t p, index_t q, const pull<T>& to_y, slot_memory<T>* slots) {
      tile<T> t{};
      t.i0 = bx.begin(p), t.ni = bx.length(p), t.j0 = by.begin(q), t.nj = by.length(q);
      t.itself = told.offset < 0 ? tile<T>::none : told.offset + t.i0 - t.j0, t.times = 1, t.totals = sums + p * count,
      t.slot = slot;
      const index_t size = bx.size() * product<T>::padded(by.size());
      t.s = told.kept ? told.kept + (p * by.count() + q) * size : nullptr;
      visit(t, by.size(), x, y, epilogue, gx, to_y, slots[slot], told.kept != nullptr && !keep);
    };
    if (by.count() == 1 && bx.count() > 1 && !epilogue.columns_depend) {
      // Few columns, as with class anchors: a rotation would run one tile at a time. Instead a fixed number of lanes, each
      // with the columns' gradient of its own; they are added in the order of the lanes.
      const index_t lanes = std::min<index_t>(bx.count(), 8);
      slot_memory<T>* slots = take_slots<T>(lanes, bx.size(), by.size(), x.d);
      const index_t per_lane = y.n * y.d;
      T* gradients = gy.gradient ? zeros<T>(lanes * per_lane) : nullptr;
      double* selves = gy.wanted() ? zeros<double>(lanes * y.n) : nullptr;
      parallel(lanes, threads_for(cost), [&](index_t slot, index_t lane) {
        const pull<T> mine{gradients ? gradients + lane * per_lane : nullptr, selves ? selves + lane * y.n : nullptr};
        for (index_t p = lane; p < bx.count(); p += lanes) work(slot, p, 0, mine, slots);
      });
      for (index_t lane = 0; lane < lanes; ++lane) {
        if (gradients) add(gradients + lane * per_lane, per_lane, gy.gradient);
        if (selves) add(selves + lane * y.n, y.n, gy.self);
      }
    } else {
      const index_t group = group_size<T>((std::min)(bx.count(), by.count()), (std::max)(bx.size(), by.size()), x.d);
      const rotation groups(grouped<rotation>::groups(bx.count(), group), grouped<rotation>::groups(by.count(), group));
      slot_memory<T>* slots = take_slots<T>(groups.pairs(0) * group, bx.size(), by.size(), x.d);
      run(grouped<rotation>(groups, bx.count(), by.count(), group), cost,
          [&](index_t slot, const block_pair& p) { work(slot, p.first, p.second, gy, slots); });
    }
    add_sums(sums, bx.count(), count, told.totals);
    if (epilogue.of_sums == T(0)) return;
    add_self(x, gx);
    add_self(y, gy);
  }

  // One tile: dots, epilogue, and the two products of the pull-back.
  template <class T>
  [[gnu::noinline]] void visit(tile<T>& t, index_t most_columns, const rows<T>& x, const rows<T>& y,
                               const tile_epilogue<T>& epilogue, const pull<T>& gx, const pull<T>& gy, slot_memory<T>& m,
                               bool known = false) const {
    const index_t d = x.d;
    const T *xi = x.data + t.i0 * d, *yj = y.data + t.j0 * d;
    if (t.s == nullptr) t.s = m.tile;
    t.stride = product<T>::padded(most_columns);
    t.row_sums = m.row_sums, t.col_sums = m.col_sums, t.counts = m.counts, t.near = m.near;
    t.row_gradient = gx.gradient ? gx.gradient + t.i0 * d : nullptr;
    t.col_gradient = gy.gradient ? gy.gradient + t.j0 * d : nullptr;
    tile_state state = tile_state::again;
    for (t.careful = false; state == tile_state::again; t.careful = true) {
      std::fill_n(m.row_sums, t.ni, T(0));
      std::fill_n(m.col_sums, t.nj, T(0));
      if (epilogue.reads && !known) m.products.dots(xi, d, yj, d, t.s, t.stride, t.ni, t.nj, d);
      state = epilogue.call(t);
    }
    if (state == tile_state::done) return;
    if (const double by = double(epilogue.of_sums); by != 0) {
      for (index_t i = 0; i < t.ni; ++i) gx.self[t.i0 + i] += by * double(t.row_sums[i]);
      for (index_t j = 0; gy.self && j < t.nj; ++j) gy.self[t.j0 + j] += by * double(t.col_sums[j]);
    }
    if (gx.gradient) m.products.add(t.s, t.stride, yj, d, gx.gradient + t.i0 * d, d, t.ni, d, t.nj);
    if (gy.gradient) m.products.add_transposed(t.s, t.stride, xi, d, gy.gradient + t.j0 * d, d, t.nj, d, t.ni);
  }

  // A tile on the diagonal: both halves, and what lies between them, so that little is computed twice.
  template <class T>
  void visit_diagonal(const tile<T>& t, index_t most_columns, const rows<T>& z, const tile_epilogue<T>& epilogue,
                      const pull<T>& g, slot_memory<T>& m) const {
    // Of the two that a pair on it stands for, the first gives both their gradient.
    const index_t half = (t.ni / 2 + 15) / 16 * 16;
    tile<T> first = t, second = t;
    if (t.ni <= 64) {
      first.itself = 0, first.times = 1;
      visit(first, most_columns, z, z, epilogue, g, pull<T>{}, m);
      return;
    }
    first.ni = first.nj = half;
    second.i0 = second.j0 = t.i0 + half, second.ni = second.nj = t.ni - half;
    visit_diagonal(first, most_columns, z, epilogue, g, m);
    visit_diagonal(second, most_columns, z, epilogue, g, m);
    tile<T> between = first;
    between.j0 = second.j0, between.nj = second.nj;
    visit(between, most_columns, z, z, epilogue, g, g, m);
  }

  // dX_i += 2 self_i x_i
  template <class T>
  void add_self(const rows<T>& x, const pull<T>& g) const {
    if (g.gradient != nullptr) each_row(x.n, x.d, add_self_step<T>{x, g});
  }
  template <class T>
  [[gnu::noinline]] static void add(const T* from, index_t n, T* to) {
    for (index_t i = 0; i < n; ++i) to[i] += from[i];
  }

  [[gnu::noinline]] static void add_sums(const double* sums, index_t blocks, index_t count, double* totals) {
    for (index_t b = 0; b < blocks; ++b)
      for (index_t c = 0; c < count; ++c) totals[c] += sums[b * count + c];
  }

  template <class T>
  [[gnu::noinline]] slot_memory<T>* take_slots(index_t most_tasks, index_t height, index_t width, index_t d) {
    const index_t count = std::max<index_t>(1, std::min<index_t>(ctx_.threads(), most_tasks));
    slot_memory<T>* slots = take<slot_memory<T>>(count);
    for (index_t s = 0; s < count; ++s) {
      T* tile = take<T>(height * product<T>::padded(width));
      T *row_sums = take<T>(height), *col_sums = take<T>(width), *counts = take<T>(width);
      index_t* near = take<index_t>(width);
      T* packed = take<T>(product<T>::scratch_size(height, width, d));
      new (slots + s) slot_memory<T>{tile, row_sums, col_sums, counts, near, product<T>(packed)};
    }
    return slots;
  }
};

}  // namespace craft::engine
