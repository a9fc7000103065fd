// Relative representations: forward, and the pull-back to samples, anchors and scale.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D, class Kernel>
void add_case(const std::string& what, index_t n, index_t anchors, index_t d, int threads, const Kernel& kernel,
              bool pullback) {
  add<D>("relative/" + what + (pullback ? "/pullback" : "/forward") + sizes(n, anchors, d), threads, 9, [=](run<D>& r) {
    const array<D> x(random_reals(n, d, 1)), a(random_reals(anchors, d, 2)), dout(random_reals(n, anchors, 3));
    array<D> out(n, anchors), dx(n, d), da(anchors, d), by_scale(1, 1);
    const craft::relative_options options;
    const craft::relative_gradients<typename D::scalar, D::space> g{
        craft::overwrite(dx.out()), craft::overwrite(da.out()), craft::overwrite(by_scale.out())};
    const double pairs = double(n) * double(anchors);
    // The dot product needs no exponential, the distance not either.
    r({2 * pairs * double(d) * (pullback ? 3 : 1), 0, n, anchors, d, 1, pullback ? 2.0 : 0.0}, [&] {
      if (pullback)
        craft::relative_pullback(r.ctx, x.in(), a.in(), kernel, options, dout.in(), g);
      else
        craft::relative(r.ctx, x.in(), a.in(), kernel, options, out.out());
    });
  });
}

}  // namespace

void add_relative(int threads) {
  for (const index_t anchors : {16, 256})
    for (const bool pullback : {false, true})
      add_case<cpu_float>("cosine", 4096, anchors, 512, threads, craft::dot_product<>(), pullback);
  if (threads > 1) return;
  for (const bool pullback : {false, true}) {
    add_case<cpu_float>("negative_distance", 4096, 256, 512, 1, craft::negative_distance<>(), pullback);
    add_case<cpu_double>("cosine", 4096, 256, 512, 1, craft::dot_product<>(), pullback);
    add_case<cpu_float>("cosine", 32, 100, 512, 1, craft::dot_product<>(), pullback);
  }
}

}  // namespace craft_bench
