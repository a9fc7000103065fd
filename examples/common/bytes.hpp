// Files as bytes, and the arrays in them: what the readers of .npy, .npz and safetensors share. Whatever a file says is
// checked against its size before it is believed; each error names the file, the place, and what was expected there.
// Little-endian hosts.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace example {

/// A piece of a file that somebody else keeps in memory.
class byte_view {
 public:
  byte_view() = default;
  /// name: what errors call it; offset: where in the file it begins.
  byte_view(std::string name, std::string_view bytes, std::size_t offset = 0)
      : name_(std::move(name)), bytes_(bytes), offset_(offset) {}

  const std::string& name() const { return name_; }
  std::size_t size() const { return bytes_.size(); }
  std::size_t offset() const { return offset_; }
  [[noreturn]] void fail(std::size_t at, const std::string& what) const {
    throw std::runtime_error(name_ + ": byte " + std::to_string(offset_ + at) + ": " + what);
  }
  void require(bool holds, std::size_t at, const std::string& what) const {
    if (!holds) fail(at, what);
  }

  /// Bytes [at, at + count), which must be there. `what` they are, for the error.
  std::string_view text(std::size_t at, std::size_t count, const std::string& what) const {
    if (at > size() || count > size() - at)
      fail(at, "expected " + what + " of " + std::to_string(count) + " bytes, but only " +
                   std::to_string(at > size() ? 0 : size() - at) + " follow");
    return bytes_.substr(at, count);
  }
  byte_view part(std::size_t at, std::size_t count, const std::string& what) const {
    return {name_, text(at, count, what), offset_ + at};
  }
  byte_view renamed(std::string name) const { return {std::move(name), bytes_, offset_}; }
  /// An unsigned number, lowest byte first.
  template <class U>
  U number(std::size_t at, const std::string& what) const {
    U value = 0;
    const std::string_view from = text(at, sizeof(U), what);
    for (std::size_t i = 0; i < sizeof(U); ++i) value = U(value | U(U(static_cast<unsigned char>(from[i])) << (8 * i)));
    return value;
  }
  const char* data() const { return bytes_.data(); }

 private:
  std::string name_;
  std::string_view bytes_;
  std::size_t offset_ = 0;
};

/// A whole file.
inline std::string read_file(const std::string& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);  // of a folder or a device there is none
  if (error) throw std::runtime_error(path + ": cannot be opened: " + error.message());
  std::string bytes(std::size_t(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), std::streamsize(size))) throw std::runtime_error(path + ": cannot be read");
  return bytes;
}

/// An array in C order, values as double: exact for all types that are read.
struct array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
  bool integers = false;
};

/// How an array's numbers are stored: 'f' IEEE, 'b' bfloat16, 'i' and 'u' integers; '?' in a way that is not read.
struct number_type {
  std::string name;  ///< as the file has it
  char kind = '?';
  std::size_t bytes = 0;
};

/// An array as it lies in a file.
struct stored_array {
  std::string name;
  number_type type;
  std::vector<std::int64_t> shape;
  byte_view data;
};

inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t n : shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text.empty() ? "a single number" : text;
}

/// Product of the sizes, none of which is negative. False if it is more than `most`.
inline bool count_elements(const std::vector<std::int64_t>& shape, std::uint64_t most, std::uint64_t& count) {
  count = 1;
  for (const std::int64_t n : shape)
    if (n == 0) return count = 0, true;
  for (const std::int64_t n : shape) {
    if (count > most / std::uint64_t(n)) return false;
    count *= std::uint64_t(n);
  }
  return count <= most;
}

namespace detail {

template <class T>
double load(const char* p) {
  T value;
  std::memcpy(static_cast<void*>(&value), p, sizeof value);
  return double(value);
}
/// Reads one number of the type; null if it is not read.
inline double (*loader(const number_type& type))(const char*) {
  const std::size_t n = type.bytes;
  switch (type.kind) {
    case 'f': return n == 2 ? load<Eigen::half> : n == 4 ? load<float> : n == 8 ? load<double> : nullptr;
    case 'b': return n == 2 ? load<Eigen::bfloat16> : nullptr;
    case 'i':
      return n == 1   ? load<std::int8_t>
             : n == 2 ? load<std::int16_t>
             : n == 4 ? load<std::int32_t>
             : n == 8 ? load<std::int64_t>
                      : nullptr;
    case 'u':
      return n == 1 ? load<std::uint8_t> : n == 2 ? load<std::uint16_t> : n == 4 ? load<std::uint32_t> : nullptr;
    default: return nullptr;
  }
}

}  // namespace detail

/// The numbers, all of them finite, and integers no larger than a double can tell apart.
inline array decode(const stored_array& a) {
  const auto load = detail::loader(a.type);
  a.data.require(load != nullptr, 0,
                 "holds " + a.type.name + "; expected little-endian float16, bfloat16, float32, float64 or integers");
  std::uint64_t count = 0;
  if (!count_elements(a.shape, a.data.size() / a.type.bytes, count) || count * a.type.bytes != a.data.size())
    a.data.fail(0, "holds " + std::to_string(a.data.size()) + " bytes of numbers, which are not " + shape_text(a.shape) +
                       " of " + std::to_string(a.type.bytes) + " bytes");
  array out{a.shape, std::vector<double>(count), a.type.kind == 'i' || a.type.kind == 'u'};
  for (std::size_t i = 0; i < count; ++i) {
    const double value = load(a.data.data() + i * a.type.bytes);
    if (!std::isfinite(value)) a.data.fail(i * a.type.bytes, "expected finite numbers, got " + std::to_string(value));
    if (out.integers && std::abs(value) > 0x1p53)
      a.data.fail(i * a.type.bytes, "expected integers up to 2^53, got " + std::to_string(value));
    out.values[i] = value;
  }
  return out;
}

}  // namespace example
