// Scratch memory: a context takes none after its first call and waits for nobody; it may be the caller's, and it moves along
// with its context.
#include <cuda_runtime_api.h>

#include <map>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"

using namespace craft_test;

#ifdef CRAFT_EMULATED_CUDA
TEMPLATE_LIST_TEST_CASE("no verb waits for the device, and none allocates after its first call", "[cuda][async]",
                        devices) {
  every_device_verb<TestType> all;
  for (const way w : ways)
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const auto outside = simt::live_allocations();
      {
        const craft::cuda ctx = make(w);
        CHECK(simt::live_allocations() == outside);  // a context alone holds no memory
        auto waits = simt::synchronisations();
        verb.run(ctx);
        CHECK(simt::synchronisations() == waits);
        const auto held = simt::live_allocations();
        CHECK(held == outside + 1);  // in one piece
        CHECK(ctx.scratch().bytes_held() == ctx.scratch().bytes_used());
        simt::reset_peak();
        waits = simt::synchronisations();
        for (int time = 0; time < 3; ++time) verb.run(ctx);
        CHECK(simt::synchronisations() == waits);
        CHECK(simt::live_allocations() == held);
        CHECK(simt::peak_bytes() == simt::live_bytes());  // nor for a moment
      }
      CHECK(simt::live_allocations() == outside);
    }
}
#endif

namespace {

/// The caller's own device memory, with books.
struct device_books {
  std::map<void*, std::size_t> out;
  int allocations = 0;
  bool mismatch = false, full = false;

  void give_to(const craft::cuda& ctx) {
    ctx.scratch().use(
        [this](std::size_t bytes) {
          if (full) throw std::bad_alloc();
          void* p = nullptr;
          cuda_check(cudaMalloc(&p, bytes), "cudaMalloc");
          out[p] = bytes;
          ++allocations;
          return p;
        },
        [this](void* p, std::size_t bytes) {
          mismatch = mismatch || out.count(p) == 0 || out[p] != bytes;
          out.erase(p);
          cudaFree(p);
        });
  }
};

}  // namespace

TEMPLATE_LIST_TEST_CASE("scratch memory comes from the caller's functions and goes back to them", "[cuda][workspace]",
                        devices) {
  every_device_verb<TestType> all;
  const craft::cuda direct = make(way::tiles);
  device_books books, second;
  {
    const craft::cuda ctx = make(way::tiles);
    all.verbs.front().run(ctx);  // with memory of its own, which goes back first
#ifdef CRAFT_EMULATED_CUDA
    const auto live = simt::live_allocations();
#endif
    books.give_to(ctx);
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::live_allocations() == live - 1);
#endif
    for (const auto& verb : all.verbs) {
      INFO(verb.name);
      CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, direct)));
      CHECK(books.out.size() == 1);  // one piece is left for the next call
      CHECK(books.out.begin()->second == ctx.scratch().bytes_held());
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::on_device(books.out.begin()->first));
#endif
    }
    const int before = books.allocations;
    for (const auto& verb : all.verbs) verb.run(ctx);
    CHECK(books.allocations == before);

    // The functions' own error passes through, and the next call is served again.
    second.full = true;
    second.give_to(ctx);
    CHECK(books.out.empty());
    const auto& verb = all.verbs.front();
    all.reset();
    const std::string untouched = all.bits();
    CHECK_THROWS_AS(verb.run(ctx), std::bad_alloc);
    CHECK((all.bits() == untouched));
    second.full = false;
    CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, direct)));
  }
  CHECK(books.allocations > 0);
  CHECK(books.out.empty());
  CHECK_FALSE(books.mismatch);
  CHECK(second.out.empty());
  CHECK_FALSE(second.mismatch);
}

TEST_CASE("a context that moves takes its memory along", "[cuda][workspace]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
#ifdef CRAFT_EMULATED_CUDA
  const auto live = simt::live_allocations(), handles = simt::live_handles();
#endif
  {
    craft::cuda first = make(way::tiles);
    const std::string want = all.bits_of(verb, first);
    const std::size_t held = first.scratch().bytes_held();
    craft::cuda second(std::move(first));
    CHECK(second.scratch().bytes_held() == held);
    CHECK(second.tile_rows() == tile_rows);
    CHECK((all.bits_of(verb, second) == want));
    craft::cuda third;
    third = std::move(second);
    CHECK(third.scratch().bytes_held() == held);
    CHECK((all.bits_of(verb, third) == want));
  }
#ifdef CRAFT_EMULATED_CUDA
  CHECK(simt::live_allocations() == live);
  CHECK(simt::live_handles() == handles);
#endif
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<craft::cuda>);
}
