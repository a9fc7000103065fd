// Whether this processor and its operating system run code that was compiled for a level of x86-64, as the psABI names
// them. A library of its own, compiled for any x86-64: it is asked before anything else of the package is loaded.
#include <cpuid.h>

#include <cstring>

namespace {

bool runs_v3() {
  // MOVBE, F16C and LZCNT, which not every compiler's __builtin_cpu_supports knows.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, extended = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !__get_cpuid(0x80000001u, &eax, &ebx, &extended, &edx)) return false;
  const bool others = (ecx >> 22 & 1) && (ecx >> 29 & 1) && (extended >> 5 & 1);
  // These also look at whether the system saves the registers.
  return others && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}

bool runs_v4() {
  return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int craft_runs(const char* level);

/// 1: yes, 0: no, or `level` is neither x86-64-v3 nor x86-64-v4.
int craft_runs(const char* level) {
  __builtin_cpu_init();
  if (!std::strcmp(level, "x86-64-v3")) return runs_v3();
  if (!std::strcmp(level, "x86-64-v4")) return runs_v4();
  return 0;
}
