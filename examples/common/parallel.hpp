// A parallel loop on OpenMP's threads, or a plain one without OpenMP.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>

namespace example {

/// Calls body(0) ... body(count - 1), each once, in any order. Passes on an exception of one of them.
template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  std::exception_ptr failure;
  std::mutex one_at_a_time;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic)
#endif
  for (std::int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {  // must not leave the loop
      const std::lock_guard<std::mutex> lock(one_at_a_time);
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace example
