// Relative representations: forward, and the pull-back to samples, anchors and scale.
#include "bench.hpp"

namespace craft_bench {
namespace {

template <class D, class Kernel>
void add_case(const std::string& what, index_t n, index_t anchors, index_t d, const how<D>& h, const Kernel& kernel,
              bool pullback) {
  add<D>("relative/" + what + (pullback ? "/pullback" : "/forward") + sizes(n, anchors, d), h, [=](run<D>& r) {
    const index_t sets = r.sets(double(n) * double(d + anchors) * sizeof(typename D::scalar));
    const inputs<D> x(sets, n, d, 1), a(sets, anchors, d, 2), dout(sets, n, anchors, 3);
    outputs<D> out(n, anchors), dx(n, d), da(anchors, d);
    results<D> by_scale(1, 1);
    const craft::relative_options options;
    const craft::relative_gradients<typename D::scalar, D::space> g{
        craft::overwrite(dx.out()), craft::overwrite(da.out()), craft::overwrite(by_scale.out())};
    const double pairs = double(n) * double(anchors);
    // The dot product needs no exponential, the distance not either.
    // Rows are read, and what is computed from them written, gradients of x too.
    const double moved = double(sizeof(typename D::scalar)) * double(n) * double(anchors + d * (pullback ? 2 : 1));
    const double products = !pullback ? 1 : craft::engine::is_linear<Kernel>::value ? 2 : 3;
    r({2 * pairs * double(d) * products, 0, n, anchors, d, 1, pullback ? 2.0 : 0.0, moved}, [&](index_t set) {
      if (pullback)
        craft::relative_pullback(r.ctx, x[set], a[set], kernel, options, dout[set], g);
      else
        craft::relative(r.ctx, x[set], a[set], kernel, options, out.out());
    });
  });
}

}  // namespace

#ifdef CRAFT_BENCH_CUDA

void add_relative(const gpu_list& list) {
  const index_t n = list.rows(65536), anchors = list.anchors(100), d = list.columns(512);
  for (const bool pullback : {false, true}) {
    for (const auto p : {craft::precision::strict, craft::precision::tf32})
      add_case<gpu_float>("cosine", n, anchors, d, {p}, craft::dot_product<>(), pullback);
    add_case<gpu_bfloat16>("cosine", n, anchors, d, {craft::precision::bfloat16}, craft::dot_product<>(), pullback);
    add_case<gpu_float>("negative_distance", n, anchors, d, {craft::precision::tf32}, craft::negative_distance<>(),
                        pullback);
  }
}

#else

void add_relative(int threads) {
  for (const index_t anchors : {16, 256})
    for (const bool pullback : {false, true})
      add_case<cpu_float>("cosine", 4096, anchors, 512, {threads, 9}, craft::dot_product<>(), pullback);
  if (threads > 1) return;
  for (const bool pullback : {false, true}) {
    add_case<cpu_float>("negative_distance", 4096, 256, 512, {1, 9}, craft::negative_distance<>(), pullback);
    add_case<cpu_double>("cosine", 4096, 256, 512, {1, 9}, craft::dot_product<>(), pullback);
    add_case<cpu_float>("cosine", 32, 100, 512, {1, 9}, craft::dot_product<>(), pullback);
  }
}

#endif

}  // namespace craft_bench
