// cuBLAS: the caller's handle stays as it was, whatever happens, and the scratch memory is lent for a call.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"

using namespace craft_test;

namespace {

struct modes {
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
  cudaStream_t stream = nullptr;
  friend bool operator==(const modes& a, const modes& b) {
    return a.math == b.math && a.pointers == b.pointers && a.stream == b.stream;
  }
};

modes modes_of(cublasHandle_t handle) {
  modes m;
  cublas_check(cublasGetMathMode(handle, &m.math), "cublasGetMathMode");
  cublas_check(cublasGetPointerMode(handle, &m.pointers), "cublasGetPointerMode");
  cublas_check(cublasGetStream(handle, &m.stream), "cublasGetStream");
  return m;
}

const modes odd_modes[] = {{CUBLAS_TF32_TENSOR_OP_MATH, CUBLAS_POINTER_MODE_DEVICE},
                           {CUBLAS_PEDANTIC_MATH, CUBLAS_POINTER_MODE_HOST},
                           {CUBLAS_DEFAULT_MATH, CUBLAS_POINTER_MODE_DEVICE}};

void set_modes(cublasHandle_t handle, const modes& m) {
  cublas_check(cublasSetMathMode(handle, m.math), "cublasSetMathMode");
  cublas_check(cublasSetPointerMode(handle, m.pointers), "cublasSetPointerMode");
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("the caller's cuBLAS handle is left as it was", "[cuda][cublas]", devices) {
  using D = TestType;
  every_device_verb<D> all;
  const stream_owner stream;
  const handle_owner handle(stream);
  for (const way w : ways) {
    // Not with a handle of the context's own: cuBLAS may choose by how much workspace there is.
    set_modes(handle, modes{});
    const craft::cuda direct = make(w, stream, handle);
    std::vector<std::string> want;
    for (const auto& verb : all.verbs) want.push_back(all.bits_of(verb, direct));
    for (const modes& m : odd_modes) {
      set_modes(handle, m);
      const modes before = modes_of(handle);
      {
        const craft::cuda ctx = make(w, stream, handle);
        CHECK(modes_of(handle) == before);
        for (std::size_t k = 0; k < want.size(); ++k) {
          const auto& verb = all.verbs[k];
          INFO(verb.name << ", " << name_of(w) << ", math mode " << int(m.math));
          // What the handle is set to must not show in the results either.
          CHECK((all.bits_of(verb, ctx) == want[k]));
          CHECK(modes_of(handle) == before);
          ctx.workspace_bytes([&](const craft::cuda& r) { verb.run(r); });
          CHECK(modes_of(handle) == before);
        }

        const index_t n = 6, d = 3;
        const array<D> x(random_reals(n, d, 1)), narrow(random_reals(n, 2, 2)), labelled(random_reals(2, d, 3));
        array<D, typename D::compute> value(1, 1);
        const std::vector<index_t> wrong(std::size_t(n), 7);
        CHECK_THROWS_AS(craft::info_nce(ctx, x.in(), narrow.in(), {}, value.as_value()), craft::shape_error);
        CHECK(modes_of(handle) == before);
        CHECK_THROWS_AS(craft::anchor_cross_entropy(ctx, x.in(), labelled.in(), wrong, {}, value.as_value()),
                        craft::label_error);
        CHECK(modes_of(handle) == before);
      }
      CHECK(modes_of(handle) == before);  // and the handle is still there
    }
  }
#ifdef CRAFT_EMULATED_CUDA
  // Nor is its workspace touched.
  const buffer workspace(16384);
  cublas_check(cublasSetWorkspace(handle, workspace.get(), 16384), "cublasSetWorkspace");
  {
    const craft::cuda ctx = make(way::tiles, stream, handle);
    all.verbs.front().run(ctx);
    CHECK(static_cast<cublasHandle_t>(handle)->workspace == workspace.get());
    CHECK(static_cast<cublasHandle_t>(handle)->workspace_bytes == 16384);
    const auto handles = simt::live_handles();
    {
      const craft::cuda own = make(way::tiles);
      const craft::cuda another = make(way::tiles, stream, handle);
      CHECK(simt::live_handles() == handles + 1);
    }
    CHECK(simt::live_handles() == handles);
  }
#endif
}

TEST_CASE("a cuBLAS handle on another stream is refused", "[cuda][cublas][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const stream_owner stream, other;
  const handle_owner handle(other);
  const modes before = modes_of(handle);
  all.reset();
  const std::string untouched = all.bits();
  for (const auto& verb : all.verbs) {
    INFO(verb.name);
    // On construction or by the first call.
    const auto call = [&] { verb.run(make(way::tiles, stream, handle)); };
    CHECK_THROWS_AS(call(), craft::device_error);
    CHECK_THROWS_WITH(call(), contains("another stream"));
    CHECK((all.bits() == untouched));
    CHECK(modes_of(handle) == before);
  }
  // And accepted once it is on ours.
  const craft::cuda ctx = make(way::tiles, stream, handle);
  cublas_check(cublasSetStream(handle, stream), "cublasSetStream");
  CHECK_NOTHROW(all.verbs.front().run(ctx));
}

TEST_CASE("cuBLAS computes the same with little scratch memory, with none, and with what it likes", "[cuda][cublas]") {
  using D = device<cuda_backend, double>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  std::string want;
  for (const std::size_t bytes : {cuda_backend::little_for_blas, std::size_t(0), std::size_t(1) << 20}) {
    craft::cuda ctx = make(way::tiles);
    ctx.blas_bytes(bytes);
    const std::string got = all.bits_of(verb, ctx);
    if (want.empty()) want = got;
#ifdef CRAFT_EMULATED_CUDA
    CHECK((got == want));  // a real one may choose another kernel
#endif
    CHECK(ctx.scratch().bytes_used() >= bytes);
  }
}

TEST_CASE("cuBLAS has the scratch memory during a call, and no longer", "[cuda][cublas]") {
  using D = device<cuda_backend, double>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const std::string want = all.bits_of(verb, make(way::tiles));
  craft::cuda ctx = make(way::tiles);
  CHECK((all.bits_of(verb, ctx) == want));
#ifdef CRAFT_EMULATED_CUDA
  CHECK(ctx.handle()->workspace == nullptr);
#endif
  // With none from now on, it must not go on in what is the rows' memory then.
  ctx.blas_bytes(0);
#ifdef CRAFT_EMULATED_CUDA
  CHECK((all.bits_of(verb, ctx) == want));
#else
  all.bits_of(verb, ctx);
  for (const auto& [name, result] : all.results()) CHECK(result.allFinite());
#endif
}

TEST_CASE("scratch memory that is not aligned as cuBLAS wants it is refused, and goes back", "[cuda][cublas][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const buffer memory(std::size_t(1) << 20);
  int out = 0;
  const craft::cuda ctx = make(way::tiles);
  CHECK(ctx.scratch().alignment() == 256);
  const std::string want = all.bits_of(verb, ctx);
  for (const std::size_t off : {64, 128}) {
    ctx.scratch().use([&](std::size_t) { return ++out, static_cast<char*>(memory.get()) + off; },
                      [&](void*, std::size_t) { --out; });
    CHECK_THROWS_AS(verb.run(ctx), craft::option_error);
    CHECK_THROWS_WITH(verb.run(ctx), contains("multiple of 256"));
    CHECK(out == 0);
  }
  ctx.scratch().use({}, {});
  ctx.scratch().use([&](std::size_t) { return static_cast<void*>(nullptr); }, [&](void*, std::size_t) { --out; });
  CHECK_THROWS_AS(verb.run(ctx), craft::option_error);
  CHECK(out == 0);
  ctx.scratch().use([&](std::size_t) { return ++out, memory.get(); }, [&](void*, std::size_t) { --out; });
  ctx.scratch().reserve(std::size_t(1) << 20);
  CHECK((all.bits_of(verb, ctx) == want));
}

#ifdef CRAFT_EMULATED_CUDA
// The caller's handle gets its modes back whichever call of cuBLAS fails; only where putting them back is itself what
// fails, that one mode stays.
TEST_CASE("the caller's cuBLAS handle is left as it was by calls that fail", "[cuda][cublas][errors][long]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all(5, 6, 3, 2);
  const stream_owner stream;
  const handle_owner handle(stream);
  for (const char* name : {"mmd, biased", "info_nce, symmetric", "objective"}) {
    const auto& verb = named(all, name);
    for (const bool in_cublas : {false, true}) {
      const craft::cuda ctx = make(way::tiles, stream, handle);
      set_modes(handle, odd_modes[0]);
      const modes before = modes_of(handle);
      const std::string want = all.bits_of(verb, ctx);
      int silent = 0;
      for (int k = 1;; ++k) {
        INFO(name << ": call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
        all.reset();
        const failure f = with_failure(in_cublas, k, [&] { verb.run(ctx); });
        if (!f.came) break;
        if (f.thrown) {
          CHECK(modes_of(handle) == before);
        } else {
          const modes after = modes_of(handle);
          CHECK((after.math == before.math) != (after.pointers == before.pointers));
          CHECK((all.bits() == want));
          ++silent;
        }
        set_modes(handle, odd_modes[0]);
        CHECK((all.bits_of(verb, ctx) == want));
      }
      CHECK(silent == (in_cublas ? 2 : 0));
    }
  }
}
#endif
