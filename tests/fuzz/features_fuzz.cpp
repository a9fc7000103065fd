// Any bytes at all as a feature file: an array that fits the file, or an error that names it; the sanitizers see the rest.
// libFuzzer's entry (clang++ -fsanitize=fuzzer,address). For hours instead of seconds: features_fuzz FOLDER, where found
// inputs are kept, beginning with a copy of tests/data/features.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "../../examples/common/features.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const example::byte_view file("the file", {reinterpret_cast<const char*>(data), size});
  for (const char* member : {"", "features"}) {
    try {
      const example::array a = example::read_array(file, member);
      std::uint64_t count = 0;
      if (!example::count_elements(a.shape, size, count) || count != a.values.size()) std::abort();
    } catch (const std::runtime_error& e) {
      if (std::string(e.what()).compare(0, 8, "the file") != 0) std::abort();
    }
  }
  return 0;
}
