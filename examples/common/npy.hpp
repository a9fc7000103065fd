// NumPy's .npy files, read strictly: a header that is not exactly understood, or a byte too many or too few, is an error.
// Format: numpy.lib.format, versions 1 to 3.
#pragma once

#include <fstream>

#include "bytes.hpp"
#include "matrix.hpp"

namespace example {

namespace npy {

constexpr std::string_view magic = "\x93NUMPY";

/// The header is a Python dictionary with exactly three keys, in any order.
class header {
 public:
  std::string type;
  std::vector<std::int64_t> shape;

  explicit header(const byte_view& bytes) : bytes_(bytes), text_(bytes.text(0, bytes.size(), "a header")) {
    bool has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted("a key");
      expect(':');
      if (key == "descr" && type.empty()) {
        type = quoted("a plain type such as '<f4'");
        if (type.empty()) fail("a type");
      } else if (key == "fortran_order" && !has_order) {
        if (accept("True")) fail("False: arrays in Fortran order are not read, save np.ascontiguousarray(x)");
        if (!accept("False")) fail("True or False");
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        read_shape();
        has_shape = true;
      } else {
        fail("the keys descr, fortran_order and shape, each once");
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("nothing but space behind the dictionary");
    if (type.empty() || !has_order || !has_shape) fail("the keys descr, fortran_order and shape");
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    bytes_.fail(at_, "expected " + expected + " in the header " + std::string(text_.substr(0, 200)));
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string(1, c));
  }
  bool accept(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  std::string quoted(const std::string& what) {
    if (!accept('\'')) fail(what);
    const std::size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) fail("a closing quote");
    const std::string_view inside = text_.substr(at_, end - at_);
    at_ = end + 1;
    return std::string(inside);
  }
  void read_shape() {
    expect('(');
    while (!accept(')')) {
      skip_space();
      std::int64_t n = 0;
      std::size_t digits = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_, ++digits) {
        if (digits == 15) fail("sizes below 10^15");
        n = 10 * n + (text_[at_] - '0');
      }
      if (digits == 0) fail("a size");
      shape.push_back(n);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
  }

  const byte_view& bytes_;
  std::string_view text_;
  std::size_t at_ = 0;
};

inline number_type type_of(const std::string& name) {
  number_type type{name};
  if (name.size() != 3 || (name[0] != '<' && name.substr(0, 1) + name.substr(2) != "|1")) return type;
  if ((name[1] != 'f' && name[1] != 'i' && name[1] != 'u') || name[2] < '1' || name[2] > '8') return type;
  type.kind = name[1];
  type.bytes = std::size_t(name[2] - '0');
  return type;
}

/// What a .npy file, or a member of an .npz file, holds.
inline stored_array open(const byte_view& file) {
  file.require(file.text(0, magic.size(), "the beginning of a .npy file") == magic, 0, "expected a .npy file");
  const int version = file.number<std::uint8_t>(6, "a version"), minor = file.number<std::uint8_t>(7, "a version");
  file.require(version >= 1 && version <= 3 && minor == 0, 6,
               "expected format version 1.0, 2.0 or 3.0, got " + std::to_string(version) + "." + std::to_string(minor));
  const std::size_t start = version == 1 ? 10 : 12;
  const std::size_t length = version == 1 ? file.number<std::uint16_t>(8, "the length of the header")
                                          : file.number<std::uint32_t>(8, "the length of the header");
  const byte_view header_bytes = file.part(start, length, "a header");
  const header h(header_bytes);
  const std::size_t begin = start + length;
  const stored_array out{"", type_of(h.type), h.shape, file.part(begin, file.size() - begin, "numbers")};
  std::uint64_t count = 0;
  if (out.type.bytes > 0 && (!count_elements(h.shape, out.data.size() / out.type.bytes, count) ||
                             count * out.type.bytes != out.data.size()))
    file.fail(begin, "expected " + shape_text(h.shape) + " numbers of " + h.type + ", got " +
                         std::to_string(out.data.size()) + " bytes");
  return out;
}

}  // namespace npy

/// Writes a matrix as float32.
inline void write_matrix(const std::string& path, const matrix& m) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(m.rows()) + ", " +
                       std::to_string(m.cols()) + "), }";
  header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ');  // numbers start on a multiple of 64 bytes
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8);
  file.put(char(header.size() & 255)).put(char(header.size() >> 8));
  file << header;
  file.write(reinterpret_cast<const char*>(m.data()), std::streamsize(sizeof(float)) * m.size());
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace example
