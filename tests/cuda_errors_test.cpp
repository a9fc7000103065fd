// Failures of the runtime and of cuBLAS, each call's in its turn: what the error says, and that the context goes on.
//
// Only an emulated device fails when it is asked to.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <optional>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"

using namespace craft_test;

#ifdef CRAFT_EMULATED_CUDA
namespace {

/// The text says what was called, and what it answered.
void check_text(const failure& f, bool in_cublas) {
  const std::string answer = in_cublas ? "CUBLAS_STATUS_EXECUTION_FAILED" : cudaGetErrorName(injected_code);
  INFO(f.text);
  const std::size_t at = f.text.find(": " + answer);
  CHECK(at != std::string::npos);
  const std::string call = f.text.substr(0, at);
  const bool named = in_cublas ? call.find("cublas") != std::string::npos
                               : call.find("cuda") != std::string::npos || call.find("kernel") != std::string::npos;
  CHECK(named);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("every call of the runtime is checked, and a failure leaves the context usable",
                        "[cuda][errors][long]", devices) {
  // One tile: the same calls stand in the same places, but fewer of them.
  every_device_verb<TestType> all(5, 6, 3, 2);
  const char* const verbs[] = {"mmd, biased",
                               "mmd, bandwidth by median",
                               "info_nce, symmetric",
                               "relative, standardising",
                               "relative_pullback, standardising",
                               "objective without batch texts"};
  for (const way w : ways)
    for (const char* name : verbs)
      for (const bool in_cublas : {false, true}) {
        const auto& verb = named(all, name);
        const auto live = simt::live_allocations(), handles = simt::live_handles();
        {
          const craft::cuda ctx = make(w);
          const std::string want = all.bits_of(verb, ctx);
          for (int k = 1;; ++k) {
            INFO(name << ", " << name_of(w) << ": call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
            all.reset();
            const failure f = with_failure(in_cublas, k, [&] { verb.run(ctx); });
            if (!f.came) {
              CHECK_FALSE(f.thrown);
              CHECK((all.bits() == want));
              CHECK(k > (in_cublas ? 2 : 5));
              break;
            }
            if (f.thrown) {
              check_text(f, in_cublas);
            } else {
              // Only cuBLAS's modes, which are put back when all is done, may fail in silence: by then results stand,
              // and one of the two is not what it was.
              CHECK(in_cublas);
              CHECK((all.bits() == want));
            }
            CHECK(cudaPeekAtLastError() == cudaSuccess);
            CHECK((all.bits_of(verb, ctx) == want));
          }
        }
        CHECK(simt::live_allocations() == live);
        CHECK(simt::live_handles() == handles);
      }
}

// Nobody hears of memory that could not be given back, nor of the one piece that a context tries to take after a call
// that needed several; everything else of a first call is reported too. The caller's functions know which it was.
TEMPLATE_LIST_TEST_CASE("a failure in a context's first call is reported, but for what happens after it",
                        "[cuda][errors][long]", devices) {
  every_device_verb<TestType> all(5, 6, 3, 2);
  const craft::cuda direct = make(way::tiles);
  for (const char* name : {"mmd, biased", "info_nce, symmetric", "relative, standardising", "objective"})
    for (const bool own_functions : {false, true}) {
      const auto& verb = named(all, name);
      const std::string want = all.bits_of(verb, direct);
      const auto live = simt::live_allocations(), handles = simt::live_handles();
      int silent = 0;
      for (int k = 1;; ++k) {
        INFO(name << (own_functions ? ", the context's memory" : ", the caller's memory") << ": call " << k);
        bool came = false;
        {
          const craft::cuda ctx = make(way::tiles);
          std::vector<std::string> failed;
          if (!own_functions)
            ctx.scratch().use(
                [&](std::size_t bytes) {
                  void* p = nullptr;
                  const cudaError_t status = cudaMallocAsync(&p, bytes, cudaStream_t(nullptr));
                  if (status != cudaSuccess) failed.push_back("cudaMallocAsync");
                  cuda_check(status, "cudaMallocAsync");
                  return p;
                },
                [&](void* p, std::size_t) {
                  if (cudaFreeAsync(p, nullptr) != cudaSuccess) failed.push_back("cudaFreeAsync");
                });
          all.reset();
          const failure f = with_failure(false, k, [&] { verb.run(ctx); });
          came = f.came;
          if (f.thrown) {
            check_text(f, false);
            CHECK(cudaPeekAtLastError() == cudaSuccess);
          } else {
            CHECK((all.bits() == want));
            if (came) ++silent;
            if (came && !own_functions) {
              REQUIRE(failed.size() == 1);
              CHECK((failed[0] == "cudaFreeAsync" || failed[0] == "cudaMallocAsync"));
            }
          }
          cudaGetLastError();
          CHECK((all.bits_of(verb, ctx) == want));
        }
        CHECK(simt::live_allocations() == live);
        CHECK(simt::live_handles() == handles);
        if (!came) break;
      }
      CHECK(silent <= 16);  // pieces, each at least as large as all before together, and the last one
    }
}

TEST_CASE("a context that cannot be made says why and leaves nothing behind", "[cuda][errors]") {
  const auto live = simt::live_allocations(), handles = simt::live_handles();
  for (const bool in_cublas : {false, true})
    for (int k = 1;; ++k) {
      INFO("call " << k << (in_cublas ? " of cuBLAS" : " of the runtime"));
      std::optional<craft::cuda> ctx;
      const failure f = with_failure(in_cublas, k, [&] { ctx.emplace(); });
      ctx.reset();
      CHECK(f.thrown == f.came);
      if (f.came) check_text(f, in_cublas);
      CHECK(cudaPeekAtLastError() == cudaSuccess);
      CHECK(simt::live_allocations() == live);
      CHECK(simt::live_handles() == handles);
      if (f.came) continue;
      CHECK(k > 1);
      break;
    }
}

TEST_CASE("memory that runs out is a device_error that says how much was wanted", "[cuda][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "objective");
  const craft::cuda ctx = make(way::tiles);
  all.reset();
  const std::string untouched = all.bits();
  simt::set_memory_limit(simt::live_bytes() + 5000);
  CHECK_THROWS_AS(verb.run(ctx), craft::device_error);
  CHECK_THROWS_WITH(verb.run(ctx),
                    contains("cudaMallocAsync(") && contains(" bytes)") && contains("cudaErrorMemoryAllocation"));
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  simt::set_memory_limit(std::size_t(4) << 30);
  CHECK((all.bits() == untouched));
  CHECK((all.bits_of(verb, ctx) == all.bits_of(verb, make(way::tiles))));
}
#endif
