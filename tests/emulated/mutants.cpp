// What the kernels with a fault in them (mutant.cmake) run through: MMD and InfoNCE with all gradients on craft::cuda, over
// several panels and blocks, beside craft::cpu. Exits with 0 if they agree. Prints each value and a checksum of all bits that the
// GPU made, which must be the same on every run (tests/gpu compares them).
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <exception>

#include "craft/alignment.hpp"
#include "craft/mmd.hpp"
#include "devices.hpp"

namespace {

using namespace craft_test;

/// A value and the gradients to both samples, one below the other.
template <class D, class Verb>
reals run(const reals& x, const reals& y, const Verb& verb) {
  const array<D> xd(x), yd(y);
  array<D> value(1, 1), dx(x.rows(), x.cols()), dy(y.rows(), y.cols());
  verb(xd.in(), yd.in(), value.as_value(), craft::overwrite(dx.out()), craft::overwrite(dy.out()));
  reals out(1 + x.rows() + y.rows(), x.cols());
  out << reals::Constant(1, x.cols(), value.number()), dx.get(), dy.get();
  return out;
}

template <class D>
reals mmd(const typename D::context& ctx, const reals& x, const reals& y) {
  return run<D>(x, y, [&](auto xd, auto yd, auto value, auto dx, auto dy) {
    craft::mmd_gradients<double, D::space> gradients;
    gradients.x = dx;
    gradients.y = dy;
    craft::mmd(ctx, xd, yd, craft::gaussian<>(1.5), {}, value, gradients);
  });
}

template <class D>
reals info_nce(const typename D::context& ctx, const reals& x, const reals& y) {
  return run<D>(x, y, [&](auto xd, auto yd, auto value, auto dx, auto dy) {
    craft::alignment_gradients<double, D::space> gradients;
    gradients.x = dx;
    gradients.y = dy;
    craft::info_nce(ctx, xd, yd, craft::contrastive_options{}, value, gradients);
  });
}

bool agree(const char* what, const reals& got, const reals& want) {
  std::uint64_t sum = 0xcbf29ce484222325;  // FNV-1a
  for (index_t i = 0; i < got.size(); ++i) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, got.data() + i, sizeof bits);
    for (int byte = 0; byte < 64; byte += 8) sum = (sum ^ ((bits >> byte) & 0xff)) * 0x100000001b3;
  }
  std::printf("%s, %d rows: value %.17g, bits %016" PRIx64 "\n", what, int(got.rows()), got(0, 0), sum);
  const double apart = relative_distance(got, want);
  const bool same = apart <= gradient_relative;  // not if it is NaN
  if (!same) std::printf("%s, %d rows: %g apart from the CPU's\n", what, int(got.rows()), apart);
  return same;
}

bool right_everywhere() {
  using gpu = device<cuda_backend, double>;
  using host = device<cpu_backend, double>;
  bool right = true;
  for (const bool small_panels : {true, false}) {
    auto on_gpu = gpu::make();
    on_gpu.tile(small_panels ? 24 : 0, small_panels ? 40 : 0);
    const auto on_host = host::make();
    for (const index_t n : {3, 70, 300}) {
      const reals x = random_reals(n, 5, 1), y = random_reals(n, 5, 2, 0.3), z = random_reals(n / 2 + 1, 5, 3, 0.3);
      right &= agree("mmd", mmd<gpu>(on_gpu, x, z), mmd<host>(on_host, x, z));
      right &= agree("info_nce", info_nce<gpu>(on_gpu, x, y), info_nce<host>(on_host, x, y));
    }
  }
  return right;
}

}  // namespace

int main() {
  try {
    return right_everywhere() ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
