// Memory and threads of one call on the CPU: what every part of the CPU engine stands on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "craft/engine/contract.hpp"
#include "craft/engine/pack.hpp"

namespace craft::engine {

class cpu_threads : public scratch {
 public:
  explicit cpu_threads(const cpu& ctx) : scratch(ctx.scratch()), ctx_(ctx) {}

  const cpu& context() const { return ctx_; }

  // ---- memory: what is taken lasts as long as the engine, or as the inner frame of the member that took it
  template <class T>
  T* zeros(index_t n) {
    return std::fill_n(take<T>(n), n, T(0)) - n;
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

  // ---- steps and folds (contract.hpp, sums.hpp)
  /// step(i) for every i in [0, count).
  template <class Step>
  void each(index_t count, const Step& step) const {
    pieces(count, 1, {&step, run<Step>});
  }
  /// step(i, lanes) for every row i in [0, n) of d numbers.
  template <class Step>
  void each_row(index_t n, index_t d, const Step& step) const {
    pieces(n, d, {&step, run_rows<Step>});
  }
  /// step(c, lanes, members) for every group c in [0, k): members.each(f) calls f(i), in order, for the rows i with index_i = c.
  template <class Step>
  void each_group(const index_t* index, index_t n, index_t k, index_t d, const Step& step) {
    const workspace::frame inner(ctx_.scratch());
    // Sorted by group, so that each row is looked at once. The rows of group c are those from begin_c to begin_(c + 1).
    index_t *begin = zeros<index_t>(k + 2), *sorted = take<index_t>(n);
    for (index_t i = 0; i < n; ++i) ++begin[index[i] + 2];
    for (index_t c = 0; c < k; ++c) begin[c + 2] += begin[c + 1];
    for (index_t i = 0; i < n; ++i) sorted[begin[index[i] + 1]++] = i;
    struct members {
      const index_t *first, *last;
      void each(function_ref<void(index_t)> f) const {
        for (const index_t* i = first; i < last; ++i) f(*i);
      }
    };
    parallel(k, threads_for(4 * double(n) * double(d)), [&](index_t, index_t c) {
      step(c, vector_lanes(), members{sorted + begin[c], sorted + begin[c + 1]});
    });
  }
  template <class Fold>
  void fold(index_t n, const Fold& f) {
    in_pieces(n, 1, f, [](const Fold& here, auto& s, index_t i) { here.add(s, i); });
  }
  template <class Fold>
  void fold_rows(index_t n, index_t d, const Fold& f) {
    in_pieces(n, d, f, [](const Fold& here, auto& s, index_t i) { here.add(s, i, vector_lanes()); });
  }
  template <class Fold>
  void fold_columns(index_t n, index_t d, const Fold& f) const {
    columns(n, d, [&](index_t begin, index_t end) {
      constexpr index_t most = 64;
      const Fold here = f;
      typename Fold::state s[most];
      for (index_t k = begin; k < end; k += most) {
        const index_t count = (std::min)(most, end - k);
        for (index_t c = 0; c < count; ++c) s[c] = here.start();
        for (index_t i = 0; i < n; ++i)
          for (index_t c = 0; c < count; ++c) here.add(s[c], i, k + c);
        for (index_t c = 0; c < count; ++c) here.finish(k + c, s[c]);
      }
    });
  }

  // ---- threads
  /// How many threads that many multiply-adds are worth: another one is, for what takes as long as it takes to start.
  /// Whoever chooses the tiles chooses the threads too.
  index_t threads_for(double operations) const {
    if (ctx_.tile() > 0) return ctx_.threads();
    return index_t((std::min)(double(ctx_.threads()), 1 + std::floor(operations / double(thread_work))));
  }
  /// f(slot, task) for every task; slots run at the same time, at most `threads` of them, a slot never twice at once.
  [[gnu::noinline]] void parallel(index_t tasks, index_t threads, function_ref<void(index_t, index_t)> f) const {
    const index_t slots = (std::min)(threads, tasks);
    std::atomic<index_t> next{0};
    const auto work = [&](index_t slot) {
      for (index_t t = next++; t < tasks; t = next++) f(slot, t);
    };
    if (ctx_.stop()) return stoppable(tasks, slots, f);
    ctx_.run_slots(slots, work);
  }
  /// f(begin, end) over pieces of [0, n), each item costing about `cost` operations, which wait for memory. Pieces do not
  /// depend on the threads.
  [[gnu::noinline]] void pieces(index_t n, index_t cost, function_ref<void(index_t, index_t)> f) const {
    strips(n, std::max<index_t>(1, 32768 / std::max<index_t>(cost, 1)), 4 * double(n) * double(cost), f);
  }
  /// f(begin, end) over strips of columns of an n x d matrix.
  [[gnu::noinline]] void columns(index_t n, index_t d, function_ref<void(index_t, index_t)> f) const {
    strips(d, n * d <= 65536 ? std::max<index_t>(d, 1) : 64, 4 * double(n) * double(d), f);
  }

 protected:
  static constexpr index_t thread_work = index_t(1) << 19;  ///< some ten microseconds

  const cpu& ctx_;

 private:
  /// The same, asking the context between tasks of this thread whether to go on.
  [[gnu::noinline]] void stoppable(index_t tasks, index_t slots, function_ref<void(index_t, index_t)> f) const {
    std::atomic<index_t> next{0};
    bool stopped = ctx_.stop()();
    const auto work = [&](index_t slot) {
      for (index_t t = next++; t < tasks; t = next++) {
        f(slot, t);
        if (slot != 0 || !ctx_.slot_0_is_here() || !ctx_.stop()()) continue;
        stopped = true;
        next = tasks;  // the others finish what they have begun
      }
    };
    if (!stopped) ctx_.run_slots(slots, work);
    if (stopped) fail<stopped_error>("stopped, as the context's function said");
  }
  // A step over a piece: a copy of it, since what it writes is none of its numbers.
  template <class Step>
  static void run(const void* step, index_t begin, index_t end) {
    const Step here = *static_cast<const Step*>(step);
    for (index_t i = begin; i < end; ++i) here(i);
  }
  template <class Step>
  static void run_rows(const void* step, index_t begin, index_t end) {
    const Step here = *static_cast<const Step*>(step);
    for (index_t i = begin; i < end; ++i) here(i, vector_lanes());
  }
  void strips(index_t n, index_t length, double operations, function_ref<void(index_t, index_t)> f) const {
    if (n <= length) return n > 0 ? f(0, n) : void();
    parallel((n + length - 1) / length, threads_for(operations),
             [&](index_t, index_t t) { f(t * length, (std::min)(n, (t + 1) * length)); });
  }
  // In pieces of 256 that do not depend on the threads, joined in their order.
  template <class Fold, class Add>
  void in_pieces(index_t n, index_t cost, const Fold& f, const Add& add) {
    using state = typename Fold::state;
    const index_t length = 256, count = std::max<index_t>(1, (n + length - 1) / length);
    const workspace::frame inner(ctx_.scratch());
    state only = f.start();
    state* partial = count == 1 ? &only : take<state>(count);
    const auto sum_up = [&](index_t begin, index_t end) {
      const Fold here = f;
      for (index_t c = begin; c < end; ++c) {
        state s = here.start();
        for (index_t i = c * length; i < (std::min)(n, (c + 1) * length); ++i) add(here, s, i);
        partial[c] = s;
      }
    };
    pieces(count, length * cost, sum_up);
    state all = partial[0];
    for (index_t c = 1; c < count; ++c) f.join(all, partial[c]);
    f.finish(all);
  }
};

}  // namespace craft::engine
