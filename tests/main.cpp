// The main of every test executable, for Catch2 2 and 3.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <cstdio>
#include <ctime>

int main(int argc, char** argv) {
  const int status = Catch::Session().run(argc, argv);
  // For tests/cmake/steps, which keeps an eye on what tests cost.
  std::fprintf(stderr, "seconds of CPU: %.2f\n", double(std::clock()) / CLOCKS_PER_SEC);
  return status;
}
