// safetensors files: the length of a header (64 bits), the header in JSON, the tensors' bytes. Read strictly: every tensor's
// bytes are as many as its shape says, one tensor begins where another ends, the last ends with the file; no name, and no
// key of a tensor, stands twice. Format: https://huggingface.co/docs/safetensors
#pragma once

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "bytes.hpp"

namespace example::safetensors {

constexpr std::uint64_t largest_header = 100'000'000;

namespace detail {

struct entry {
  std::string name, type;
  std::vector<std::int64_t> shape;
  std::vector<std::uint64_t> offsets;
  std::set<std::string> keys;
};

/// Takes the header event by event, so that nothing is ever deeper than a tensor's shape, and no key is lost.
class header_reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<entry> tensors;

  header_reader(const byte_view& file, std::size_t length) : file_(file), length_(length) {}

  bool start_object(std::size_t) override {
    if (depth_ == 0) return ++depth_, true;
    if (depth_ == 1) return ++depth_, true;
    return fail("no object");
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!names_.insert(name).second) return fail("different names, got " + name + " twice");
      metadata_ = name == "__metadata__";
      metadata_keys_.clear();
      where_ = name;
      if (!metadata_) tensors.push_back({name, {}, {}, {}, {}});
      return true;
    }
    key_ = name;
    std::set<std::string>& seen = metadata_ ? metadata_keys_ : tensors.back().keys;
    if (!seen.insert(name).second) return fail("each key once, got " + name + " twice");
    if (!metadata_ && name != "dtype" && name != "shape" && name != "data_offsets")
      return fail("dtype, shape and data_offsets, got " + name);
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1 && !metadata_ && tensors.back().keys.size() != 3) return fail("dtype, shape and data_offsets");
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && !in_list_ && metadata_) return true;
    if (depth_ != 2 || in_list_ || key_ != "dtype") return fail("no string");
    tensors.back().type = value;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_list_ || metadata_ || (key_ != "shape" && key_ != "data_offsets")) return fail("no list");
    return in_list_ = true;
  }
  bool end_array() override {
    in_list_ = false;
    if (key_ == "data_offsets" && tensors.back().offsets.size() != 2) return fail("two data_offsets");
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) return fail("no number");
    if (value > std::uint64_t(std::numeric_limits<std::int64_t>::max())) return fail("numbers below 2^63");
    if (key_ == "shape")
      tensors.back().shape.push_back(std::int64_t(value));
    else if (tensors.back().offsets.size() < 2)
      tensors.back().offsets.push_back(value);
    else
      return fail("two data_offsets");
    return true;
  }
  bool null() override { return fail("no null"); }
  bool boolean(bool) override { return fail("no boolean"); }
  bool number_integer(number_integer_t) override { return fail("no negative number"); }
  bool number_float(number_float_t, const string_t&) override { return fail("whole numbers below 2^64"); }
  bool binary(binary_t&) override { return fail("no binary"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    file_.fail(8 + std::min(position, length_), "expected a header in JSON: " + std::string(e.what()));
  }

 private:
  bool fail(const std::string& expected) const {
    file_.fail(8, "expected " + expected + " in the header" + (where_.empty() ? "" : ", at " + where_));
  }

  const byte_view& file_;
  std::size_t length_;
  int depth_ = 0;
  bool in_list_ = false, metadata_ = false;
  std::string where_, key_;
  std::set<std::string> names_, metadata_keys_;
};

/// What is read has a kind; the others have a size at least.
inline number_type type_of(const std::string& name) {
  struct known {
    const char* name;
    char kind;
    std::size_t bytes;
  };
  for (const known& k : {known{"F16", 'f', 2}, known{"BF16", 'b', 2}, known{"F32", 'f', 4}, known{"F64", 'f', 8},
                         known{"I8", 'i', 1}, known{"U8", 'u', 1}, known{"I16", 'i', 2}, known{"U16", 'u', 2},
                         known{"I32", 'i', 4}, known{"U32", 'u', 4}, known{"I64", 'i', 8}, known{"U64", '?', 8},
                         known{"BOOL", '?', 1}, known{"F8_E4M3", '?', 1}, known{"F8_E5M2", '?', 1},
                         known{"F8_E8M0", '?', 1}, known{"C64", '?', 8}})
    if (name == k.name) return {name, k.kind, k.bytes};
  return {name, '?', 0};
}

}  // namespace detail

/// The tensors of a file.
inline std::vector<stored_array> open(const byte_view& file) {
  const std::uint64_t length = file.number<std::uint64_t>(0, "the length of a safetensors header");
  file.require(length <= largest_header, 0, "expected a header of at most 100 MB, got " + std::to_string(length) + " bytes");
  const std::string_view text = file.text(8, std::size_t(length), "a safetensors header");
  file.require(!text.empty() && text[0] == '{', 8, "expected a header that begins with {");
  // Which the parser would take for the end.
  file.require(text.find('\0') == text.npos, 8 + std::min(text.find('\0'), text.size()), "expected no zeros in the header");
  detail::header_reader header(file, text.size());
  nlohmann::json::sax_parse(text.begin(), text.end(), &header);

  const byte_view data = file.part(8 + text.size(), file.size() - 8 - text.size(), "data");
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const detail::entry& a, const detail::entry& b) { return a.offsets < b.offsets; });
  std::vector<stored_array> out;
  std::uint64_t end = 0;
  for (const detail::entry& t : header.tensors) {
    const std::uint64_t from = t.offsets[0], to = t.offsets[1];
    if (from != end || to < from || to > data.size())
      data.fail(std::size_t(std::min<std::uint64_t>(end, data.size())),
                "expected " + t.name + " to begin here and to end within " + std::to_string(data.size()) +
                    " bytes of data, got data_offsets " + std::to_string(from) + " to " + std::to_string(to));
    stored_array a{t.name, detail::type_of(t.type), t.shape,
                   data.part(std::size_t(from), std::size_t(to - from), t.name).renamed(file.name() + ", " + t.name)};
    a.data.require(a.type.bytes > 0, 0, "expected a known dtype, got " + t.type);
    std::uint64_t count = 0;
    if (!count_elements(t.shape, a.data.size() / a.type.bytes, count) || count * a.type.bytes != a.data.size())
      a.data.fail(0, "expected " + shape_text(t.shape) + " numbers of " + t.type + ", got " +
                         std::to_string(a.data.size()) + " bytes");
    out.push_back(std::move(a));
    end = to;
  }
  data.require(end == data.size(), std::size_t(end), "expected the end of the file behind the last tensor");
  return out;
}

}  // namespace example::safetensors
