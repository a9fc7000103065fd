// A context's options and its device: which one is current, one that is too old, none at all, and any_device.
#include <cuda_runtime_api.h>

#include <string>
#include <type_traits>
#include <utility>

#include "catch.hpp"
#include "craft/any_device.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"

using namespace craft_test;

TEST_CASE("cuda: options are checked and kept", "[cuda][errors]") {
  craft::cuda ctx;
  CHECK(ctx.stream() == nullptr);
  CHECK(ctx.handle() != nullptr);
  CHECK(ctx.processors() >= 1);
  CHECK(ctx.precision() == craft::precision::strict);
  CHECK_FALSE(ctx.check_finite());
  CHECK_FALSE(ctx.check_labels());
  CHECK_FALSE(ctx.rehearses());
  const index_t rows = ctx.tile_rows(), columns = ctx.tile_columns();
  CHECK(ctx.tile(17).tile_rows() == 17);
  CHECK(ctx.tile_columns() == 17);
  CHECK(ctx.tile(3, 5).tile_columns() == 5);
  CHECK_THROWS_AS(ctx.tile(-1), craft::option_error);
  CHECK_THROWS_AS(ctx.tile(3, -1), craft::option_error);
  CHECK_THROWS_AS(ctx.fused(-1), craft::option_error);
  CHECK(ctx.tile_rows() == 3);
  CHECK(ctx.tile(0).tile_rows() == rows);
  CHECK(ctx.tile_columns() == columns);
  CHECK(ctx.blas_bytes(12345 << 2).blas_bytes() == 12345 << 2);
  for (const std::size_t too_few : {1, 4096, 16383}) {
    CHECK_THROWS_AS(ctx.blas_bytes(too_few), craft::option_error);
    CHECK_THROWS_WITH(ctx.blas_bytes(too_few), contains("16384") && contains(std::to_string(too_few)));
  }
  CHECK(ctx.blas_bytes() == 12345 << 2);
  const buffer b(1024);
  CHECK_THROWS_AS(ctx.memory(nullptr, 1024), craft::option_error);
  CHECK_THROWS_AS(ctx.memory(static_cast<char*>(b.get()) + 64, 512), craft::option_error);
  // What was refused has changed nothing.
  every_device_verb<device<cuda_backend, double>> all;
  CHECK_NOTHROW(all.verbs.front().run(ctx));

  const handle_owner handle(nullptr);
  const craft::cuda borrowed(nullptr, handle);
  CHECK(borrowed.handle() == handle);
  CHECK(borrowed.blas_bytes() == 0);  // the workspace of the caller's handle is the caller's
}

#ifdef CRAFT_EMULATED_CUDA
TEST_CASE("a context's device is current during its calls, and the one before afterwards", "[cuda][errors]") {
  struct two_devices {
    two_devices() { simt::set_device_count(2); }
    ~two_devices() {
      cudaSetDevice(0);
      simt::set_device_count(1);
      cudaGetLastError();
    }
  } const two;
  every_device_verb<device<cuda_backend, float>> all;
  const auto& verb = named(all, "mmd, biased");
  const auto current = [] {
    int number = -1;
    cuda_check(cudaGetDevice(&number), "cudaGetDevice");
    return number;
  };
  const stream_owner stream;  // of device 0
  const std::string want = all.bits_of(verb, make(way::tiles));
  {
    const craft::cuda ctx = make(way::tiles, stream);
    CHECK(ctx.device() == 0);
    cuda_check(cudaSetDevice(1), "cudaSetDevice");
    CHECK(craft::cuda().device() == 1);
    CHECK((all.bits_of(verb, ctx) == want));
    CHECK(current() == 1);
    CHECK(ctx.workspace_bytes([&](const craft::cuda& c) { verb.run(c); }) == ctx.scratch().bytes_used());
  }
  CHECK(current() == 1);  // and what the context held has gone back to its device
}

TEST_CASE("a device of too low a compute capability is refused", "[cuda][errors]") {
  struct older {
    older() { simt::set_compute_capability(7, 5); }
    ~older() { simt::set_compute_capability(9, 0); }
  };
  const auto handles = simt::live_handles();
  {
    const older device;
    CHECK_THROWS_AS(craft::cuda(), craft::device_error);
    CHECK_THROWS_WITH(craft::cuda(), contains("compute capability 7.5") && contains("8.0"));
  }
  simt::set_compute_capability(8, 0);
  CHECK_NOTHROW(craft::cuda());
  simt::set_compute_capability(9, 0);
  CHECK(simt::live_handles() == handles);
}

namespace {

struct without_devices {
  template <class Reason>
  explicit without_devices(Reason reason) {
    simt::set_device_count(reason);
  }
  without_devices(const without_devices&) = delete;
  without_devices& operator=(const without_devices&) = delete;
  ~without_devices() {
    simt::set_device_count(1);
    cudaGetLastError();
  }
};

void check_no_device() {
  CHECK(craft::cuda_devices() == 0);
  CHECK_THROWS_AS(craft::cuda(), craft::device_error);
  CHECK_THROWS_WITH(craft::cuda(), contains("no CUDA device"));
  CHECK_THROWS_AS(craft::any_device::named("cuda"), craft::device_error);
  CHECK_THROWS_WITH(craft::any_device::named("cuda"), contains("no CUDA device"));
  CHECK(craft::any_device::named("cpu").space() == craft::memory::host);
  CHECK(cudaPeekAtLastError() == cudaSuccess);  // an answer, not an error that waits for somebody's check
}

}  // namespace

TEST_CASE("a machine without a device is told so", "[cuda][errors]") {
  CHECK(craft::cuda_devices() == 1);
  const auto handles = simt::live_handles();
  {
    const without_devices none(0);
    check_no_device();
  }
  for (const cudaError_t reason : {cudaErrorNoDevice, cudaErrorInsufficientDriver}) {
    const without_devices none(reason);
    check_no_device();
  }
  for (const cudaError_t reason : {cudaErrorInitializationError, cudaErrorDevicesUnavailable, cudaErrorUnknown}) {
    const without_devices none(reason);
    INFO(cudaGetErrorName(reason));
    CHECK_THROWS_AS(craft::cuda_devices(), craft::device_error);
    CHECK_THROWS_WITH(craft::cuda_devices(), contains(cudaGetErrorName(reason)) && contains("cudaGetDeviceCount"));
    CHECK_THROWS_WITH(craft::cuda(), contains(cudaGetErrorName(reason)));
    CHECK_THROWS_AS(craft::any_device::named("cuda"), craft::device_error);
    CHECK_THROWS_WITH(craft::any_device::named("cuda"), contains(cudaGetErrorName(reason)));
    CHECK(cudaPeekAtLastError() == cudaSuccess);
  }
  CHECK(craft::cuda_devices() == 1);
  CHECK(simt::live_handles() == handles);
  CHECK_NOTHROW(craft::cuda());
}
#endif

namespace {

/// Everything that two losses give, on any context.
template <class D>
std::string two_losses(const typename D::context& ctx) {
  const index_t n = 7, d = 4;
  const array<D> x(random_reals(n, d, 61)), y(random_reals(n, d, 62));
  array<D> dx(n, d), dy(n, d), ex(n, d);
  array<D> value(1, 1), second(1, 1);
  craft::mmd_gradients<typename D::scalar, D::space> g;
  g.x = craft::overwrite(dx.out());
  g.y = craft::overwrite(dy.out());
  craft::mmd(ctx, x.in(), y.in(), craft::gaussians<double>{1.0, 2.0}, craft::mmd_options{}, value.as_value(), g);
  craft::alignment_gradients<typename D::scalar, D::space> a;
  a.x = craft::overwrite(ex.out());
  craft::info_nce(ctx, x.in(), y.in(), craft::contrastive_options{}, second.as_value(), a);
  return value.bits() + dx.bits() + dy.bits() + second.bits() + ex.bits();
}

}  // namespace

TEST_CASE("any_device is the context it was named after", "[cuda][any_device]") {
  STATIC_REQUIRE(craft::built_with_cuda);
  for (const char* name : {"x", "", "CUDA", "cuda:0", "gpu"}) {
    CHECK_THROWS_AS(craft::any_device::named(name), craft::option_error);
    CHECK_THROWS_WITH(craft::any_device::named(name),
                      contains("\"" + std::string(name) + "\"") && contains("\"cuda\""));
  }
  const std::string on_cpu = two_losses<device<cpu_backend, double>>(craft::cpu(1));
  const std::string on_gpu = two_losses<device<cuda_backend, double>>(craft::cuda());
  const auto check = [&](const craft::any_device& any, craft::memory space) {
    CHECK(any.space() == space);
    for (int time = 0; time < 2; ++time) {
      const craft::memory seen = any.visit([&](const auto& ctx) {
        using context = std::decay_t<decltype(ctx)>;
        constexpr bool on_host = std::is_same_v<context, craft::cpu>;
        static_assert(on_host || std::is_same_v<context, craft::cuda>);
        using D = device<std::conditional_t<on_host, cpu_backend, cuda_backend>, double>;
        CHECK((two_losses<D>(ctx) == (on_host ? on_cpu : on_gpu)));
        CHECK(ctx.scratch().bytes_held() > 0);  // and keeps it from call to call
        return context::space;
      });
      CHECK(seen == space);
    }
  };
  check(craft::any_device::named("cpu"), craft::memory::host);
  check(craft::any_device::named("cuda"), craft::memory::device);
  check(craft::any_device(craft::cpu(2)), craft::memory::host);
  check(craft::any_device(craft::cuda()), craft::memory::device);
  craft::any_device moved = craft::any_device::named("cuda");
  check(moved, craft::memory::device);
  craft::any_device other(std::move(moved));
  check(other, craft::memory::device);
  other = craft::any_device::named("cpu");
  check(other, craft::memory::host);
}
