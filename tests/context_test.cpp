// The cpu context: its options, its threads, and scratch memory that is taken once and then reused.
#include "craft/context.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <new>
#include <numeric>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "catch.hpp"

namespace {

using craft::index_t;
using craft::workspace;

/// A caller's allocator that keeps books: what is out, how often it was asked, and what came back wrongly.
struct books {
  std::map<void*, std::size_t> out;
  int allocations = 0;
  bool mismatch = false, full = false;

  void give_to(workspace& w) {
    w.use(
        [this](std::size_t bytes) {
          if (full) throw std::bad_alloc();
          void* p = ::operator new(bytes, std::align_val_t(64));
          out[p] = bytes;
          ++allocations;
          return p;
        },
        [this](void* p, std::size_t bytes) {
          mismatch = mismatch || out.count(p) == 0 || out[p] != bytes;
          out.erase(p);
          ::operator delete(p, std::align_val_t(64));
        });
  }
};

/// One call of a verb: several arrays, each filled to its last element.
void use(workspace& w, index_t n) {
  workspace::frame f(w);
  double* a = f.take<double>(n);
  float* b = f.take<float>(3 * n);
  char* c = f.zeros<char>(n);
  std::fill_n(a, n, 1.0);
  std::fill_n(b, 3 * n, 2.0f);
  const double sum = std::accumulate(a, a + n, 0.0) + std::accumulate(b, b + 3 * n, 0.0) + std::accumulate(c, c + n, 0.0);
  CHECK(sum == 7.0 * double(n));  // no two of them share memory
}

}  // namespace

TEST_CASE("arrays are aligned, apart, and readable a little past their end", "[context]") {
  workspace w;
  workspace::frame f(w);
  for (const index_t n : {0, 1, 15, 16, 17, 1000}) {
    const auto* a = f.take<float>(n);
    const auto* b = f.take<float>(1);
    CHECK(reinterpret_cast<std::uintptr_t>(a) % 64 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(b) % 64 == 0);
    CHECK(a != b);
  }
  float* z = f.zeros<float>(5);
  CHECK(std::accumulate(z, z + 5, 0.0f) == 0);
  std::fill_n(z, 5 + 16, 1.0f);  // a register of the widest kind at the end
}

TEST_CASE("the second use of the same size allocates nothing", "[context]") {
  books b;
  workspace w;
  b.give_to(w);
  use(w, 1000);
  const std::size_t held = w.bytes_held();
  CHECK(b.out.size() == 1);  // one piece is left for the next call
  CHECK(held >= w.bytes_used());
  CHECK(w.bytes_used() >= 1000 * (8 + 12 + 1));
  const int after_first = b.allocations;
  for (int step = 0; step < 5; ++step) use(w, 1000 - 100 * step);
  CHECK(b.allocations == after_first);
  CHECK(w.bytes_held() == held);

  use(w, 5000);
  const int after_larger = b.allocations;
  CHECK(after_larger > after_first);
  use(w, 5000);
  use(w, 1000);
  CHECK(b.allocations == after_larger);
}

TEST_CASE("a reserved workspace allocates once", "[context]") {
  books b;
  workspace w;
  use(w, 1000);  // with the default memory, to learn the size
  const std::size_t size = w.bytes_used();
  b.give_to(w);
  CHECK(w.bytes_held() == 0);
  w.reserve(size);
  CHECK(b.allocations == 1);
  CHECK(w.bytes_held() == size);
  use(w, 1000);
  w.reserve(size / 2);
  CHECK(b.allocations == 1);
}

TEST_CASE("everything goes back to where it came from", "[context]") {
  books b;
  {
    workspace w;
    b.give_to(w);
    for (const index_t n : {10, 10000, 500}) use(w, n);
    workspace other(std::move(w));
    use(other, 20000);
  }
  CHECK(b.out.empty());
  CHECK_FALSE(b.mismatch);

  books second;
  workspace w;
  b.give_to(w);
  use(w, 10);
  second.give_to(w);
  CHECK(b.out.empty());
  use(w, 10);
  CHECK(second.out.size() == 1);
}

TEST_CASE("frames nest, and an inner one leaves the outer one's arrays alone", "[context]") {
  workspace w;
  for (int round = 0; round < 2; ++round) {  // once with several pieces, once with one
    workspace::frame outer(w);
    index_t* a = outer.take<index_t>(100);
    std::iota(a, a + 100, index_t(0));
    for (int i = 0; i < 3; ++i) use(w, 5000);
    index_t* b = outer.take<index_t>(100);
    std::iota(b, b + 100, index_t(100));
    use(w, 100);
    for (index_t i = 0; i < 100; ++i) REQUIRE((a[i] == i && b[i] == 100 + i));
  }
}

TEST_CASE("memory that runs out is reported and leaves the workspace usable", "[context][errors]") {
  books b;
  workspace w;
  b.give_to(w);
  use(w, 10);
  b.full = true;
  CHECK_THROWS_AS(use(w, 100000), std::bad_alloc);
  b.full = false;
  use(w, 100000);
  CHECK_FALSE(b.mismatch);

  workspace::frame f(w);
  f.take<double>(1);
  CHECK_THROWS_AS(w.use({}, {}), craft::option_error);
}

TEST_CASE("memory that is not there, or not aligned, is refused and goes back", "[context][errors]") {
  alignas(256) static std::byte room[4096];
  for (const std::size_t alignment : {64, 256}) {
    workspace w(alignment);
    CHECK(w.alignment() == alignment);
    int out = 0;
    std::size_t off = alignment / 2;
    const auto deallocate = [&](void*, std::size_t) { --out; };
    w.use([&](std::size_t) { return ++out, room + off; }, deallocate);
    CHECK_THROWS_AS(use(w, 10), craft::option_error);
    CHECK_THROWS_WITH(use(w, 10), contains("multiple of " + std::to_string(alignment)));
    CHECK(out == 0);
    off = alignment;
    w.reserve(2048);
    use(w, 10);
    CHECK(out == 1);
    w.use([](std::size_t) { return static_cast<void*>(nullptr); }, deallocate);
    CHECK_THROWS_AS(use(w, 10), craft::option_error);
    CHECK(out == 0);
  }
}

TEST_CASE("a pinned workspace keeps every piece where it is", "[context][errors]") {
  books b;
  {
    workspace w;
    b.give_to(w);
    use(w, 10);
    const auto held = b.out;
    w.pin();
    use(w, 10000);
    use(w, 20000);
    w.reserve(10 * w.bytes_held());
    for (const auto& [piece, bytes] : held) CHECK(b.out.at(piece) == bytes);
    const int before = b.allocations;
    for (const index_t n : {20000, 10, 10000}) use(w, n);
    CHECK(b.allocations == before);
    CHECK_THROWS_AS(w.use({}, {}), craft::option_error);
    const workspace other(std::move(w));
    CHECK(other.pinned());
    CHECK_FALSE(w.pinned());  // NOLINT: what it was exchanged with
    for (const auto& [piece, bytes] : held) CHECK(b.out.at(piece) == bytes);
  }
  CHECK(b.out.empty());
  CHECK_FALSE(b.mismatch);
}

TEST_CASE("options are checked and kept", "[context][errors]") {
  craft::cpu ctx(3);
  CHECK(craft::cpu().threads() >= 1);
  CHECK(ctx.threads() == 3);
  CHECK(ctx.tile() == 0);
  CHECK_FALSE(ctx.check_finite());
  CHECK(ctx.threads(2).tile(17).check_finite(true).threads() == 2);
  CHECK(ctx.tile() == 17);
  CHECK(ctx.check_finite());
  CHECK_THROWS_WITH(ctx.threads(0), contains("at least one thread, got 0"));
  CHECK_THROWS_AS(craft::cpu(-1), craft::option_error);
  CHECK_THROWS_AS(ctx.tile(-1), craft::option_error);
  CHECK_THROWS_AS(ctx.parallel_for({}, 0), craft::option_error);
  CHECK(ctx.threads() == 2);
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<craft::cpu>);  // two contexts never share scratch memory
}

TEST_CASE("every slot runs exactly once, on the build's threads or on the host's", "[context]") {
  std::atomic<int> batches{0};
  const auto pool = [&](index_t count, const craft::cpu::body_function& body) {
    ++batches;
    std::vector<std::thread> threads;
    for (index_t i = count; i-- > 0;) threads.emplace_back([&body, i] { body(i); });
    for (std::thread& t : threads) t.join();
  };
  craft::cpu own(4), hosted;
  hosted.parallel_for(pool, 4);
  CHECK(hosted.threads() == 4);
  for (const craft::cpu* ctx : {&own, &hosted})
    for (const index_t slots : {0, 1, 2, 4}) {
      std::vector<std::atomic<int>> calls(4);
      ctx->run_slots(slots, [&](index_t s) { ++calls[std::size_t(s)]; });
      for (index_t s = 0; s < 4; ++s) CHECK(calls[std::size_t(s)] == (s < slots ? 1 : 0));
    }
  CHECK(batches == 2);  // one slot needs no pool
}
