// How inputs are stored: in two bytes, some rows apart; and their sizes, around those of warps, blocks and tiles.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "mmd_runs.hpp"
#include "pair_losses.hpp"
#include "rejects.hpp"
#include "relative_runs.hpp"

using namespace craft_test;

namespace craft_test {
/// Quad by quad what kernels read of a row of a panel.
struct read_quads {
  const float* line;
  index_t end;
  float* out;
  __device__ void operator()(index_t q) const {
    const craft::engine::quad<float> read = craft::engine::quad_at(line + 4 * q, end - 4 * q, -1.0f);
    for (int c = 0; c < 4; ++c) out[4 * q + c] = read.v[c];
  }
};
}  // namespace craft_test

// ---------------------------------------------------------------------------------------------------------
// How inputs are stored

namespace {

/// Value, gradients and parameter gradients of three verbs for inputs stored as Q, some rows apart.
template <class Q>
struct stored_run {
  using D = device<cuda_backend, Q>;
  std::vector<reals> in_compute, in_storage;
  bool padding_kept = false;

  stored_run(const craft::cuda& ctx, const reals& X, const reals& Y, index_t padding, bool accumulate) {
    const index_t n = X.rows(), m = Y.rows(), d = X.cols();
    const array<D> x(X, padding), y(Y, 2 * padding), p(Y.topRows(n), padding), w(Y.leftCols(1) * X.col(0).transpose());
    array<D> dx(n, d, sentinel, padding), dy(m, d, sentinel, 3 * padding), dp(n, d, sentinel),
        out(n, m, sentinel, padding);
    array<D, float> value(1, 1), weights(1, 2), bandwidths(1, 2), ds(1, 1);
    const auto around = [&] {
      std::string bytes;
      for (const array<D>* a : {&dx, &dy, &out})
        for (const Q& number : a->padding()) bytes.append(reinterpret_cast<const char*>(&number), sizeof(Q));
      return bytes;
    };
    const auto before = around();
    const auto to = [&](auto& a) { return accumulate ? craft::accumulate(a.out()) : craft::overwrite(a.out()); };
    const auto keep = [&] {
      for (const reals& r : {value.get(), weights.get(), bandwidths.get(), ds.get()}) in_compute.push_back(r);
      for (const reals& r : {dx.get(), dy.get(), dp.get(), out.get()}) in_storage.push_back(r);
      for (array<D>* a : {&dx, &dy, &dp, &out}) a->set(reals::Constant(a->get().rows(), a->get().cols(), sentinel));
    };
    craft::mmd_gradients<Q, D::space> g;
    g.x = to(dx);
    g.y = to(dy);
    g.weights = craft::overwrite(weights.out());
    g.bandwidths = craft::overwrite(bandwidths.out());
    craft::mmd(ctx, x.in(), y.in(), craft::gaussians<double>{1.5, 4.0}, craft::mmd_options{}, value.as_value(), g);
    keep();
    craft::alignment_gradients<Q, D::space> a;
    a.x = to(dx);
    a.y = to(dp);
    a.log_scale = craft::overwrite(ds.out());
    craft::contrastive_options o;
    o.log_scale = 2.0;
    craft::info_nce(ctx, x.in(), p.in(), o, value.as_value(), a);
    keep();
    craft::relative_options r;
    r.statistics = craft::anchor_statistics::standardise;
    r.log_scale = 0.5;
    craft::relative(ctx, x.in(), y.in(), craft::dot_product<>(), r, out.out());
    craft::relative_gradients<Q, D::space> b;
    b.x = to(dx);
    b.anchors = to(dy);
    b.log_scale = craft::overwrite(ds.out());
    const array<D> u(w.get().transpose().eval());
    craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), r, u.in(), b);
    keep();
    padding_kept = around() == before;
  }
};

/// The numbers are those that Q can hold, so that float holds the same ones.
template <class Q>
void check_stored_as() {
  using D = device<cuda_backend, Q>;
  const index_t n = 18, m = 23, d = 7;
  const reals X = as_stored<D>(random_reals(n, d, 95)), Y = as_stored<D>(random_reals(m, d, 96, 0.25));
  const auto rounded = [](double v) { return double(Q(float(v))); };
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    const stored_run<float> want(ctx, X, Y, 0, false);
    for (const index_t padding : {0, 1, 5}) {
      INFO(name_of(w) << ", padding " << padding);
      const stored_run<Q> got(ctx, X, Y, padding, false), added(ctx, X, Y, padding, true);
      CHECK(got.padding_kept);
      CHECK(added.padding_kept);
      // The pull-back of relative reads a matrix that Q rounds: only the first two verbs have the very same inputs.
      for (std::size_t k = 0; k < 8; ++k)
        CHECK((got.in_compute[k].array().isNaN() || got.in_compute[k].array() == want.in_compute[k].array()).all());
      for (std::size_t k = 0; k < 8; ++k) {
        INFO("output " << k);
        CHECK(got.in_storage[k] == want.in_storage[k].unaryExpr(rounded));
        // What is added is the number before rounding; the sum is rounded once.
        if (k % 4 == 3) continue;
        const bool written =
            want.in_storage[k] != reals::Constant(want.in_storage[k].rows(), want.in_storage[k].cols(), sentinel);
        if (!written) continue;
        const reals sum = want.in_storage[k].unaryExpr([](double v) { return double(float(v) + float(sentinel)); });
        CHECK(added.in_storage[k] == sum.unaryExpr(rounded));
      }
      CHECK(got.in_storage[11] == want.in_storage[11].unaryExpr(rounded));  // relative itself
    }
  }
}

}  // namespace

TEST_CASE("the toolkit's two-byte types are float with their numbers, and round results once", "[cuda][storage]") {
  SECTION("half") { check_stored_as<__half>(); }
  SECTION("bfloat16") { check_stored_as<__nv_bfloat16>(); }
}

TEMPLATE_LIST_TEST_CASE("rows some numbers apart are the same rows", "[cuda][storage]", devices) {
  using S = typename TestType::scalar;
  const reals X = random_reals(18, 7, 95), Y = random_reals(23, 7, 96);
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    if constexpr (std::is_same_v<S, float>) {
      const stored_run<S> packed(ctx, X, Y, 0, true);
      for (const index_t padding : {1, 2, 9}) {
        INFO(name_of(w) << ", padding " << padding);
        const stored_run<S> apart(ctx, X, Y, padding, true);
        CHECK(apart.padding_kept);
        for (std::size_t k = 0; k < packed.in_storage.size(); ++k) CHECK(apart.in_storage[k] == packed.in_storage[k]);
      }
    } else {
      // In double by one verb: a block of a larger matrix, into a block.
      const index_t n = X.rows(), m = Y.rows(), d = X.cols();
      const craft::gaussians<double> kernel{1.0, 3.0};
      const auto want = run_mmd<TestType>(ctx, X, Y, kernel);
      const array<TestType> x(X, 4), y(Y, 1);
      array<TestType> around(n + m + 2, 2 * d + 3, sentinel), value(1, 1);
      craft::mmd_gradients<S, TestType::space> g;
      g.x = craft::overwrite(part<TestType>(around, 1, n, 1, d));
      g.y = craft::overwrite(part<TestType>(around, 1, m, d + 2, d));  // beside the other, in the same rows
      craft::mmd(ctx, x.in(), y.in(), kernel, craft::mmd_options{}, value.as_value(), g);
      reals all = around.get();
      CHECK(value.number() == want.value);
      CHECK(reals(all.block(1, 1, n, d)) == want.x);
      CHECK(reals(all.block(1, d + 2, m, d)) == want.y);
      all.block(1, 1, n, d).setConstant(sentinel);
      all.block(1, d + 2, m, d).setConstant(sentinel);
      CHECK(all == reals::Constant(n + m + 2, 2 * d + 3, sentinel));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// Awkward sizes

// What lies behind the last column of a panel's row was written by nobody, and may not be there at all.
TEST_CASE("kernels read no farther than a panel's row was written", "[cuda][sizes]") {
  using D = device<cuda_backend, float>;
  const craft::cuda ctx = make(way::tiles);
  for (const index_t end : {1, 2, 3, 4, 5, 7, 8, 30}) {
    const index_t quads = (end + 3) / 4;
    const buffer line(std::size_t(end) * sizeof(float));  // AddressSanitizer sees where it ends
    const std::vector<float> ones(std::size_t(end), 1.0f);
    D::backend::upload(line.get(), ones.data(), ones.size() * sizeof(float));
    array<D> out(1, 4 * quads);
    craft::engine::cuda_engine(ctx).each(quads, read_quads{static_cast<const float*>(line.get()), end, out.out().data()});
    for (index_t j = 0; j < 4 * quads; ++j) CHECK(out.get()(0, j) == (j < end ? 1 : -1));
  }
}

TEMPLATE_LIST_TEST_CASE("sizes around those of warps, blocks and tiles", "[cuda][sizes][long]", devices) {
  using D = TestType;
  using exact = device<cpu_backend, double>;
  struct size {
    index_t n, m, d;
  };
  const size sizes[] = {{1, 1, 1},   {1, 1, 3},   {1, 7, 3},   {7, 1, 1},    {2, 2, 3},   {31, 33, 3}, {32, 32, 1},
                        {33, 31, 3}, {16, 24, 3}, {17, 25, 3}, {33, 49, 33}, {255, 5, 3}, {256, 3, 1}, {257, 9, 3},
                        {3, 257, 2}, {5, 4, 129}, {9, 10, 64}, {8, 7, 65},   {6, 5, 128}};
  const craft::cpu reference(1);
  // Sums of n terms in float, of logits and distances that are off by a few d eps; or of products whose multiplicands
  // are off by as much as the precision says, twice, in the dot products and in the gradients.
  const bool wide = std::is_same_v<typename D::scalar, double>;
  double tolerance = 0;
  const auto close = [&](const reals& got, const reals& want) {
    CHECK((got - want).norm() <= tolerance * (want.norm() + 1 / std::sqrt(double(want.rows()))));
  };
  for (const auto& [w, p] : {std::pair(way::tiles, craft::precision::strict),
                             {way::fused, craft::precision::strict},
                             {way::tiles, craft::precision::tf32},
                             {way::fused, craft::precision::tf32},
                             {way::tiles, craft::precision::bfloat16},
                             {way::fused, craft::precision::bfloat16}}) {
    if (wide && p != craft::precision::strict) continue;
    tolerance = wide ? 1e-12 : p == craft::precision::strict ? 1e-5 : 4 * unit_of(p);
    craft::cuda ctx = make(w);
    ctx.precision(p);
    for (const auto& [n, m, d] : sizes) {
      if (p != craft::precision::strict && std::max(n, m) > 200) continue;
      INFO(name_of(w) << ", precision " << int(p) << ": n " << n << ", m " << m << ", d " << d);
      const reals X = as_stored<D>(random_reals(n, d, 101)), Y = as_stored<D>(random_reals(m, d, 102, 0.3)),
                  P = as_stored<D>(random_reals(n, d, 103)), W = as_stored<D>(random_reals(n, m, 104));
      const double h = std::sqrt(double(d));
      const craft::gaussians<double> kernel({0.5 * h, h, 2 * h}, {1, 0.5, 0.25});
      for (const auto rule : {craft::bandwidth_rule::fixed, craft::bandwidth_rule::mean}) {
        craft::mmd_options o;
        o.bandwidth.rule = rule;
        const auto got = run_mmd<D>(ctx, X, Y, kernel, o), want = run_mmd<exact>(reference, X, Y, kernel, o);
        CHECK(std::abs(got.value - want.value) <= tolerance);
        close(got.x, want.x);
        close(got.y, want.y);
        for (std::size_t q = 0; q < 3; ++q) {
          CHECK(std::abs(got.weights[q] - want.weights[q]) <= tolerance);
          CHECK(std::abs(got.bandwidths[q] - want.bandwidths[q]) <= tolerance);
        }
      }
      craft::contrastive_options nce;
      nce.log_scale = 1.0;
      const auto loss = run_info_nce<D>(ctx, X, P, nce), by_cpu = run_info_nce<exact>(reference, X, P, nce);
      CHECK(std::abs(loss.value - by_cpu.value) <= tolerance * (1 + std::abs(by_cpu.value)));
      if (d > 1) {  // a single number has only a sign: its gradient is 0, and what is left of it is rounding over |x|
        close(loss.x, by_cpu.x);
        close(loss.y, by_cpu.y);
      }
      CHECK(std::abs(loss.log_scale - by_cpu.log_scale) <= tolerance * (1 + std::abs(by_cpu.log_scale)));
      craft::relative_options r;
      r.normalise = d > 1;
      const auto map = run_relative<D>(ctx, X, Y, craft::dot_product<>(), r, W),
                 map_by_cpu = run_relative<exact>(reference, X, Y, craft::dot_product<>(), r, W);
      close(map.out, map_by_cpu.out);
      close(map.x, map_by_cpu.x);
      close(map.anchors, map_by_cpu.anchors);
      CHECK(std::abs(map.log_scale - map_by_cpu.log_scale) <= tolerance * (1 + W.norm() * map_by_cpu.out.norm()));
    }
  }
}
