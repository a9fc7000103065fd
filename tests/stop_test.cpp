// A context that is told to stop: a call ends soon, says so, has written nothing, and leaves the context as it was.
#include <functional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "devices.hpp"
#include "rejects.hpp"

using namespace craft_test;

namespace {

const index_t n = 150, m = 120, d = 9;

/// A call on a device, and what it may write.
template <class D>
struct calls {
  using T = typename D::compute;
  const array<D> x{random_reals(n, d, 1)}, y{random_reals(m, d, 2, 0.3)}, paired{random_reals(n, d, 3)};
  array<D> dx{n, d, sentinel}, centres{5, d, sentinel};
  array<D, T> value{1, 1, sentinel};

  void mmd(const typename D::context& ctx) {
    craft::mmd_gradients<typename D::scalar, D::space> g;
    g.x = craft::overwrite(dx.out());
    craft::mmd_options o;
    o.bandwidth.rule = craft::bandwidth_rule::median;
    craft::mmd(ctx, x.in(), y.in(), craft::gaussian(1.0), o, value.as_value(), g);
  }
  void info_nce(const typename D::context& ctx) {
    craft::alignment_gradients<typename D::scalar, D::space> g;
    g.x = craft::overwrite(dx.out());
    craft::info_nce(ctx, x.in(), paired.in(), {}, value.as_value(), g);
  }
  void kmeans(const typename D::context& ctx) { craft::kmeans(ctx, x.in(), {}, centres.out()); }
  void test(const typename D::context& ctx) { craft::two_sample_test(ctx, x.in(), y.in(), craft::gaussian(1.0)); }
};

}  // namespace

TEMPLATE_TEST_CASE("a call on the CPU stops where its context is told to", "[stop]", float, double) {
  using D = device<cpu_backend, TestType>;
  using call = void (calls<D>::*)(const craft::cpu&);
  for (const call verb : {&calls<D>::mmd, &calls<D>::info_nce, &calls<D>::kmeans, &calls<D>::test})
    for (const int threads : {1, 3}) {
      calls<D> c, undisturbed;
      const watched outputs(c.dx, c.centres, c.value);
      craft::cpu ctx(threads);
      ctx.tile(16);  // many small tasks
      (undisturbed.*verb)(ctx);
      int asked = 0;
      ctx.stop([&] { return ++asked < 0; });
      (c.*verb)(ctx);
      const int times = asked;
      INFO("asked " << times << " times");
      CHECK(times > 6);
      CHECK(c.dx.bits() == undisturbed.dx.bits());
      CHECK(c.centres.bits() == undisturbed.centres.bits());
      CHECK(c.value.bits() == undisturbed.value.bits());

      // Of several threads the calling one may do few of the tasks, between which it asks; at the beginning of each round it does.
      for (const int last : {1, 2, threads == 1 ? times / 2 : 3}) {
        calls<D> stopped;
        const watched nothing(stopped.dx, stopped.centres, stopped.value);
        asked = 0;
        ctx.stop([&] { return ++asked >= last; });
        rejects<craft::stopped_error>(nothing, [&] { (stopped.*verb)(ctx); }, {"stopped"});
        CHECK(asked <= last + 1);  // not asked again and again
        ctx.stop({});
        (stopped.*verb)(ctx);  // and then as ever
        CHECK(stopped.dx.bits() == undisturbed.dx.bits());
        CHECK(stopped.value.bits() == undisturbed.value.bits());
      }
    }
}

TEST_CASE("with the host's own threads the context asks between their rounds", "[stop]") {
  using D = device<cpu_backend, double>;
  calls<D> c;
  const watched outputs(c.dx, c.centres, c.value);
  craft::cpu ctx(2);
  ctx.tile(16);
  int inside = 0;
  bool asked_inside = false;
  ctx.parallel_for(
      [&](index_t count, const craft::cpu::body_function& body) {
        ++inside;
        for (index_t i = 0; i < count; ++i) body(i);
        --inside;
      },
      2);
  int asked = 0;
  ctx.stop([&] {
    asked_inside |= inside > 0;
    return ++asked == 5;
  });
  rejects<craft::stopped_error>(outputs, [&] { c.mmd(ctx); });
  CHECK_FALSE(asked_inside);
}

#ifdef CRAFT_TEST_CUDA
TEST_CASE("a call on a GPU stops before it waits", "[stop]") {
  using D = device<tested_backend, double>;
  calls<D> c;
  const watched outputs(c.dx, c.centres, c.value);
  auto ctx = D::make();
  int asked = 0;
  ctx.stop([&] { return ++asked == 3; });
  rejects<craft::stopped_error>(outputs, [&] { c.kmeans(ctx); }, {"stopped"});
  CHECK(asked == 3);
}
#endif
