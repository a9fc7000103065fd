// All cases of all headers, for one thread and for as many as the machine has. --benchmark_filter=mmd/.*d:64 chooses.
#include <thread>

#include "bench.hpp"

int main(int argc, char** argv) {
  using namespace craft_bench;
  const int most = int(std::max(1u, std::thread::hardware_concurrency()));
  for (const int threads : {1, most}) {
    add_mmd(threads);
    add_alignment(threads);
    add_relative(threads);
    add_anchors(threads);
    add_objective(threads);
    if (most == 1) break;
  }
  add_product();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("compiler", CRAFT_BENCH_COMPILER);
  benchmark::AddCustomContext("flags", CRAFT_BENCH_FLAGS);
  benchmark::AddCustomContext("commit", CRAFT_BENCH_COMMIT);
  benchmark::AddCustomContext("eigen", std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
                                           std::to_string(EIGEN_MINOR_VERSION));
  benchmark::RunSpecifiedBenchmarks();
}
