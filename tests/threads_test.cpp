// The same bits on any number of threads, of OpenMP or of the host's own pool, alone or beside other contexts.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "every_verb.hpp"

using namespace craft_test;

// LLVM's OpenMP keeps the records of threads that have ended, which the leak checker reports.
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp"; }

namespace {

using outputs = std::vector<std::string>;

/// The bits of every verb's outputs, one string per verb.
template <class S>
outputs run_all(every_verb<S>& all, const craft::cpu& ctx) {
  outputs bits;
  for (const auto& verb : all.verbs) {
    all.reset();
    verb.run(ctx);
    bits.push_back(all.bits());
  }
  return bits;
}

template <class S>
void check_same(const every_verb<S>& all, const outputs& got, const outputs& want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t k = 0; k < want.size(); ++k) {
    INFO(all.verbs[k].name);
    CHECK((got[k] == want[k]));
  }
}

/// A host's pool: a std::thread per body.
void on_threads(index_t count, const craft::cpu::body_function& body) {
  std::vector<std::thread> threads;
  for (index_t i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& t : threads) t.join();
}

/// A pool that has only one thread, and begins at the end.
void backwards(index_t count, const craft::cpu::body_function& body) {
  for (index_t i = count - 1; i >= 0; --i) body(i);
}

}  // namespace

TEMPLATE_TEST_CASE("every verb gives the same bits on any number of threads", "[threads]", float, double) {
  every_verb<TestType> all(53, 44, 7, 11);
  // Tiles so small that there are more of them than threads, and the last is short; and the engine's own choice.
  for (const index_t tile : {0, 5, 16}) {
    INFO("tile " << tile);
    craft::cpu one(1);
    one.tile(tile);
    const outputs want = run_all(all, one);
    check_same(all, run_all(all, one), want);  // the same call twice
    for (const int threads : {2, 3, 8}) {
      INFO(threads << " threads of OpenMP");
      craft::cpu ctx(threads);
      ctx.tile(tile);
      check_same(all, run_all(all, ctx), want);
    }
    for (const int threads : {2, 3, 8}) {
      INFO(threads << " threads of a pool");
      std::atomic<int> calls{0};
      std::atomic<bool> too_many{false};
      craft::cpu ctx;
      ctx.tile(tile);
      ctx.parallel_for(
          [&](index_t count, const craft::cpu::body_function& body) {
            ++calls;
            if (count > threads) too_many = true;
            on_threads(count, body);
          },
          threads);
      check_same(all, run_all(all, ctx), want);
      CHECK_FALSE(too_many);
      if (tile == 5) CHECK(calls > int(all.verbs.size()) / 2);  // the pool is what does the work
    }
    craft::cpu serial;
    serial.tile(tile);
    serial.parallel_for(backwards, 4);
    check_same(all, run_all(all, serial), want);
  }
}

TEMPLATE_TEST_CASE("larger inputs, in the engine's own tiles, give the same bits on any number of threads",
                   "[threads][long]", float, double) {
  every_verb<TestType> all(700, 530, 13, 19);
  const outputs want = run_all(all, craft::cpu(1));
  for (const int threads : {2, 3, 8}) {
    INFO(threads << " threads");
    check_same(all, run_all(all, craft::cpu(threads)), want);
  }
}

TEST_CASE("more threads than rows", "[threads]") {
  every_verb<double> all(5, 4, 2, 3);
  // kmeans_per_class wants two rows of each class; farthest_point_anchors asks for twelve.
  std::vector<every_verb<double>::verb> fit;
  for (const auto& verb : all.verbs)
    if (verb.name.find("farthest") == std::string::npos) fit.push_back(verb);
  all.verbs = fit;
  craft::cpu one(1), many(8);
  one.tile(1);
  many.tile(1);
  check_same(all, run_all(all, many), run_all(all, one));
}

// Blocks stand in groups of two: with an odd number of them a step has more places than there are blocks.
TEST_CASE("more threads than blocks, which are grouped", "[threads]") {
  every_verb<double> all(33, 33, 3, 5);
  craft::cpu one(1), many;
  one.tile(1);
  many.tile(1).parallel_for(backwards, 64);
  check_same(all, run_all(all, many), run_all(all, one));
}

TEST_CASE("two contexts at once in two threads give what each gives alone", "[threads]") {
  every_verb<double> first(101, 83, 7, 11);
  every_verb<double> second(64, 90, 5, 6);
  craft::cpu a(2), b(3);
  a.tile(16);
  b.tile(8);
  const outputs want_a = run_all(first, a), want_b = run_all(second, b);
  for (int round = 0; round < 5; ++round) {
    outputs got_a, got_b;
    std::thread other([&] { got_b = run_all(second, b); });
    got_a = run_all(first, a);
    other.join();
    check_same(first, got_a, want_a);
    check_same(second, got_b, want_b);
  }
}

TEST_CASE("a call from inside a parallel region gives the same bits", "[threads]") {
  std::vector<std::unique_ptr<every_verb<float>>> all;
  for (int k = 0; k < 4; ++k) all.push_back(std::make_unique<every_verb<float>>(60, 50, 4, 7));
  craft::cpu alone(2);
  alone.tile(8);
  const outputs want = run_all(*all[0], alone);
  std::vector<outputs> got(4);
#ifdef _OPENMP
#pragma omp parallel for num_threads(4)
#endif
  for (int k = 0; k < 4; ++k) {
    craft::cpu ctx(2);
    ctx.tile(8);
    got[std::size_t(k)] = run_all(*all[std::size_t(k)], ctx);
  }
  for (const outputs& bits : got) check_same(*all[0], bits, want);
}
