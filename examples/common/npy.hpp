// NumPy's .npy files, read strictly: a header that is not exactly understood, a byte too many or too few, or a number
// that is not finite is an error that names the file. Format: numpy.lib.format, versions 1 to 3. Little-endian hosts.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "matrix.hpp"

namespace example {

/// An array as it lies in the file: C order, values as double (exact for every type below).
struct array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
  bool integers = false;
};

namespace npy {

class reader {
 public:
  explicit reader(const std::string& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot be opened");
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    if (file.bad()) fail("cannot be read");
  }

  array read() {
    if (bytes_.size() < 10 || bytes_.compare(0, 6, "\x93NUMPY") != 0) fail("is not a .npy file");
    const int version = byte(6);
    if (version < 1 || version > 3 || byte(7) != 0) fail("has an unknown format version");
    const std::size_t length_bytes = version == 1 ? 2 : 4, start = 8 + length_bytes;
    std::size_t length = 0;
    if (bytes_.size() < start) fail("ends inside its header");
    for (std::size_t i = 0; i < length_bytes; ++i) length |= std::size_t(byte(8 + i)) << (8 * i);
    if (bytes_.size() - start < length) fail("ends inside its header");
    header_ = bytes_.substr(start, length);
    parse_header();
    return numbers(start + length);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw std::runtime_error(path_ + ": " + what); }
  int byte(std::size_t i) const { return static_cast<unsigned char>(bytes_[i]); }

  // The header is a Python dictionary with exactly three keys, in any order.
  void parse_header() {
    bool has_type = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !has_type) {
        type_ = quoted();
        has_type = true;
      } else if (key == "fortran_order" && !has_order) {
        if (accept_word("True")) fail("is in Fortran order; save it with np.ascontiguousarray");
        if (!accept_word("False")) fail("has a header that is not understood: " + header_);
        has_order = true;
      } else if (key == "shape" && !has_shape) {
        expect('(');
        while (!accept(')')) {
          shape_.push_back(integer());
          if (!accept(',')) {
            expect(')');
            break;
          }
        }
        has_shape = true;
      } else {
        fail("has a header that is not understood: " + header_);
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != header_.size() || !has_type || !has_order || !has_shape)
      fail("has a header that is not understood: " + header_);
  }

  array numbers(std::size_t start) {
    const std::size_t size = type_.size() == 3 ? std::size_t(type_[2] - '0') : 0;
    const char kind = type_.size() == 3 ? type_[1] : '?';
    const bool known =
        (kind == 'f' && (size == 2 || size == 4 || size == 8)) ||
        ((kind == 'i' || kind == 'u') && (size == 1 || size == 2 || size == 4 || (size == 8 && kind == 'i')));
    if (!known || (type_[0] != '<' && !(type_[0] == '|' && size == 1)))
      fail("holds " + type_ + "; expected little-endian float16, float32, float64 or integers");
    std::size_t count = 1;
    for (const std::int64_t n : shape_) {
      if (n != 0 && count > bytes_.size() / std::size_t(n)) fail("is shorter than its shape says");
      count *= std::size_t(n);
    }
    const std::size_t expected = count * size, there = bytes_.size() - start;
    if (there != expected)
      fail("holds " + std::to_string(there) + " bytes of numbers; its shape asks for " + std::to_string(expected));

    array out{shape_, std::vector<double>(count), kind != 'f'};
    const char* p = bytes_.data() + start;
    for (std::size_t i = 0; i < count; ++i) {
      out.values[i] = number(kind, size, p + i * size);
      if (!std::isfinite(out.values[i])) fail("holds a NaN or an infinity, number " + std::to_string(i));
    }
    return out;
  }

  static double number(char kind, std::size_t size, const char* p) {
    if (kind == 'f') return size == 2 ? double(load<Eigen::half>(p)) : size == 4 ? load<float>(p) : load<double>(p);
    if (kind == 'i')
      return size == 1   ? load<std::int8_t>(p)
             : size == 2 ? load<std::int16_t>(p)
             : size == 4 ? load<std::int32_t>(p)
                         : double(load<std::int64_t>(p));
    return size == 1 ? load<std::uint8_t>(p) : size == 2 ? load<std::uint16_t>(p) : load<std::uint32_t>(p);
  }
  template <class T>
  static T load(const char* p) {
    T value;
    std::memcpy(static_cast<void*>(&value), p, sizeof value);
    return value;
  }

  void skip_space() {
    while (at_ < header_.size() && std::strchr(" \n\t", header_[at_]) != nullptr && header_[at_] != '\0') ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= header_.size() || header_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail("has a header that is not understood: " + header_);
  }
  bool accept_word(const std::string& word) {
    skip_space();
    if (header_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }
  std::string quoted() {
    expect('\'');
    const std::size_t end = header_.find('\'', at_);
    if (end == std::string::npos) fail("has a header that is not understood: " + header_);
    const std::string text = header_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }
  std::int64_t integer() {
    skip_space();
    std::int64_t n = 0;
    std::size_t digits = 0;
    for (; at_ < header_.size() && header_[at_] >= '0' && header_[at_] <= '9' && digits < 15; ++at_, ++digits)
      n = 10 * n + (header_[at_] - '0');
    if (digits == 0) fail("has a header that is not understood: " + header_);
    return n;
  }

  std::string path_, bytes_, header_, type_;
  std::vector<std::int64_t> shape_;
  std::size_t at_ = 0;
};

inline std::string shape_text(const array& a) {
  std::string text;
  for (const std::int64_t n : a.shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text.empty() ? "a single number" : text;
}

}  // namespace npy

inline array read_array(const std::string& path) { return npy::reader(path).read(); }

/// A rows x columns file.
inline matrix read_matrix(const std::string& path) {
  const array a = read_array(path);
  if (a.shape.size() != 2 || a.values.empty())
    throw std::runtime_error(path + ": expected a matrix with one sample per row, got " + npy::shape_text(a));
  matrix m(a.shape[0], a.shape[1]);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = float(a.values[std::size_t(i)]);
  return m;
}

/// A file with one integer per sample.
inline label_list read_labels(const std::string& path) {
  const array a = read_array(path);
  if (a.shape.size() != 1 || a.values.empty() || !a.integers)
    throw std::runtime_error(path + ": expected one integer label per sample, got " +
                             (a.integers ? "integers, " : "floating-point numbers, ") + npy::shape_text(a));
  return label_list(a.values.begin(), a.values.end());
}

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
