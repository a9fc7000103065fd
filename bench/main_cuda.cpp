// All cases on a CUDA device, or on the emulated one (craft_bench_emulated, which knows small sizes only: its times
// mean nothing). tests/gpu runs them and makes the tables.
//
//     --small        hardly any rows: that everything runs
//     --budget=S     seconds for the repetitions of a case (1.5)
//     and every option of Google Benchmark
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "bench.hpp"

namespace {

using namespace craft_bench;

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

/// Empty, or why nothing can run here.
std::string trouble() {
  try {
    return craft::cuda_devices() > 0 ? "" : "there is no CUDA device here, or no driver for it";
  } catch (const std::exception& e) {
    return e.what();
  }
}

void add_context() {
  int device = 0, driver = 0, runtime = 0;
  cudaDeviceProp properties{};
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  cuda_check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  cuda_check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
#ifdef CRAFT_EMULATED_CUDA
  benchmark::AddCustomContext("device", "emulated");
#else
  benchmark::AddCustomContext("device", properties.name);
#endif
  benchmark::AddCustomContext("compute_capability",
                              std::to_string(properties.major) + "." + std::to_string(properties.minor));
  benchmark::AddCustomContext("multiprocessors", std::to_string(properties.multiProcessorCount));
  benchmark::AddCustomContext("memory_bytes", std::to_string(properties.totalGlobalMem));
  benchmark::AddCustomContext("l2_bytes", std::to_string(gpu_attribute(cudaDevAttrL2CacheSize)));
  benchmark::AddCustomContext("driver_supports_cuda", version(driver));
  benchmark::AddCustomContext("cuda_runtime", version(runtime));
  benchmark::AddCustomContext("toolkit", version(CUDART_VERSION));
  benchmark::AddCustomContext("compiler", CRAFT_BENCH_COMPILER);
  benchmark::AddCustomContext("flags", CRAFT_BENCH_FLAGS);
  benchmark::AddCustomContext("commit", CRAFT_BENCH_COMMIT);
}

}  // namespace

int main(int argc, char** argv) {
  bool only_names = false;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) {
      effort().small = true;
    } else if (std::strncmp(argv[i], "--budget=", 9) == 0) {
      effort().budget = std::atof(argv[i] + 9);
    } else {
      only_names = only_names || std::strncmp(argv[i], "--benchmark_list_tests", 22) == 0;
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
#ifdef CRAFT_EMULATED_CUDA
  effort().small = true;
#endif
  if (effort().small) effort().budget = effort().lasting = 0, effort().least = 2;

  const std::string reason = only_names ? "" : trouble();
  if (!reason.empty()) {
    std::cerr << argv[0] << ": " << reason << "; nothing was measured\n";
    return 2;
  }
  const gpu_list list;
  add_mmd(list);
  add_alignment(list);
  add_relative(list);
  add_anchors(list);
  add_objective(list);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  try {
    if (!only_names) add_context();
  } catch (const std::exception& e) {
    std::cerr << argv[0] << ": " << e.what() << "\n";
    return 2;
  }
  const std::size_t ran = benchmark::RunSpecifiedBenchmarks();
  return ran > 0 ? 0 : 1;
}
