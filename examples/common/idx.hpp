// Gzipped IDX files (the format of MNIST and Fashion-MNIST): unsigned bytes, dimensions big-endian.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

struct idx_bytes {
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> values;
};

/// Reads a whole file with the given number of dimensions; throws std::runtime_error with its name.
inline idx_bytes read_idx_gz(const std::string& path, int dimensions) {
  const auto fail = [&](const char* what) -> void { throw std::runtime_error(path + ": " + what); };
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) fail("cannot be opened");
  const auto read = [&](void* to, std::size_t bytes) { return gzread(file.get(), to, unsigned(bytes)) == int(bytes); };
  std::uint8_t magic[4];
  if (!read(magic, 4) || magic[0] != 0 || magic[1] != 0 || magic[2] != 8) fail("is not an IDX file of bytes");
  if (magic[3] != dimensions) fail("has another number of dimensions than expected");
  idx_bytes out;
  std::int64_t count = 1;
  for (int k = 0; k < dimensions; ++k) {
    std::uint8_t b[4];
    if (!read(b, 4)) fail("ends inside its header");
    out.shape.push_back(std::int64_t(b[0]) << 24 | b[1] << 16 | b[2] << 8 | b[3]);
    count *= out.shape.back();
    if (count <= 0 || count > 1 << 30) fail("has an impossible shape");
  }
  out.values.resize(std::size_t(count));
  if (!read(out.values.data(), out.values.size())) fail("is truncated or damaged");
  // Reading on to the end makes zlib compare the checksum.
  if (std::uint8_t more; gzread(file.get(), &more, 1) != 0) fail("is damaged, or longer than its header says");
  return out;
}

}  // namespace example
