// Memory and threads of one call on the CPU: what every part of the CPU engine stands on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>

#include "craft/context.hpp"
#include "craft/engine/contract.hpp"

namespace craft::engine {

class cpu_threads {
 public:
  explicit cpu_threads(const cpu& ctx) : ctx_(ctx), memory_(ctx.scratch()) {}

  const cpu& context() const { return ctx_; }

  // ---- memory: what is taken lasts as long as the engine, or as the inner frame of the member that took it
  template <class T>
  T* take(index_t n) {
    return memory_.take<T>(n);
  }
  template <class T>
  T* zeros(index_t n) {
    return memory_.zeros<T>(n);
  }
  template <class T>
  rows<T> take_rows(index_t n, index_t d) {
    T* data = take<T>(n * d);
    return {data, n, d, take<T>(n)};
  }
  template <class T>
  pull<T> take_pull(index_t n, index_t d, bool wanted = true) {
    T* gradient = wanted ? zeros<T>(n * d) : nullptr;
    return {gradient, zeros<double>(n)};
  }

  /// The same in memory of the host.
  template <class T>
  T* host_zeros(index_t n) {
    return zeros<T>(n);
  }

  // ---- threads
  /// How many threads that many multiply-adds are worth: another one is, for what takes as long as it takes to start.
  /// Whoever chooses the tiles chooses the threads too.
  index_t threads_for(double operations) const {
    if (ctx_.tile() > 0) return ctx_.threads();
    return index_t(std::min(double(ctx_.threads()), 1 + std::floor(operations / double(thread_work))));
  }
  /// f(slot, task) for every task; slots run at the same time, at most `threads` of them, a slot never twice at once.
  [[gnu::noinline]] void parallel(index_t tasks, index_t threads, function_ref<void(index_t, index_t)> f) const {
    const index_t slots = std::min(threads, tasks);
    std::atomic<index_t> next{0};
    const auto work = [&](index_t slot) {
      for (index_t t = next++; t < tasks; t = next++) f(slot, t);
    };
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
  /// sum of f(begin, end) over [0, n) in double, in pieces of 256 that do not depend on the threads.
  [[gnu::noinline]] double ordered_sum(index_t n, index_t cost, function_ref<double(index_t, index_t)> f) {
    const workspace::frame inner(ctx_.scratch());
    const index_t length = 256, count = (n + length - 1) / length;
    double* partial = take<double>(count);
    pieces(count, length * cost, [&](index_t begin, index_t end) {
      for (index_t c = begin; c < end; ++c) partial[c] = f(c * length, std::min(n, (c + 1) * length));
    });
    double total = 0;
    for (index_t c = 0; c < count; ++c) total += partial[c];
    return total;
  }

 protected:
  static constexpr index_t thread_work = index_t(1) << 19;  ///< some ten microseconds

  const cpu& ctx_;
  workspace::frame memory_;

 private:
  void strips(index_t n, index_t length, double operations, function_ref<void(index_t, index_t)> f) const {
    parallel((n + length - 1) / length, threads_for(operations),
             [&](index_t, index_t t) { f(t * length, std::min(n, (t + 1) * length)); });
  }
};

}  // namespace craft::engine
