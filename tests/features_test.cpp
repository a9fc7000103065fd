// The examples' readers of feature files: what NumPy and the safetensors library wrote, files put together here by the
// formats' rules, and damaged ones, byte by byte.
#include "../examples/common/features.hpp"

#include <zlib.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "catch.hpp"
#include "reference.hpp"

using example::array;
using std::string;

namespace {

const string folder = craft_test::reference::folder("data") + "/features/";

/// Reads from memory of exactly the size of the file, so that the sanitizers see a byte too much.
array read(const string& bytes, const string& member = "") {
  const std::unique_ptr<char[]> exact(new char[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), exact.get());
  return example::read_array(example::byte_view("the file", {exact.get(), bytes.size()}), member);
}
/// The error's text; empty if there is none.
string error_of(const string& bytes, const string& member = "") {
  try {
    read(bytes, member);
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}
void rejects(const string& bytes, const std::vector<string>& parts, const string& member = "") {
  const string error = error_of(bytes, member);
  CHECK_THAT(error, contains("the file"));
  CHECK_THAT(error, contains(": byte "));
  for (const string& part : parts) CHECK_THAT(error, contains(part));
}

/// What tests/data/features/make.py stored.
bool is_golden(const array& a) {
  bool same = a.shape == std::vector<std::int64_t>{5, 3} && a.values.size() == 15;
  for (std::size_t i = 0; same && i < 15; ++i)
    same = a.values[i] == (a.integers ? double(i) : double(i) / 4 - 1.5);
  return same;
}
const std::vector<double> golden_labels = {-1, 1, 3, 5, 7};

template <class U>
string little(U value) {
  string out;
  for (std::size_t i = 0; i < sizeof(U); ++i) out += char(std::uint64_t(value) >> (8 * i) & 255);
  return out;
}
string u16(std::size_t v) { return little(std::uint16_t(v)); }
string u32(std::size_t v) { return little(std::uint32_t(v)); }
string u64(std::size_t v) { return little(std::uint64_t(v)); }

template <class T>
string stored(const std::vector<T>& values) {
  return string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

string npy(const string& header, const string& data, int version = 1) {
  return "\x93NUMPY" + string(1, char(version)) + string(1, '\0') +
         (version == 1 ? u16(header.size()) : u32(header.size())) + header + data;
}
string npy_header(const string& type, const string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}

/// A zip archive, whose fields a test may change before they are written.
struct zip {
  struct file {
    string name, data, local_name{};
    unsigned flags = 0, method = 0;
    std::size_t size, stored, place = 0, checksum;
    file(string n, string d)
        : name(std::move(n)), data(std::move(d)), local_name(name), size(data.size()), stored(size),
          checksum(crc32(0, reinterpret_cast<const unsigned char*>(data.data()), unsigned(data.size()))) {}
  };
  std::vector<file> files;
  bool wide = false;  ///< all sizes of 64 bits
  string comment, before, between, behind;
  std::function<void(file&)> change_directory = [](file&) {};

  string bytes() const {
    string out = before, directory;
    for (file f : files) {
      f.place = out.size();
      const bool later = (f.flags & 8) != 0;
      out += "PK\3\4" + u16(20) + u16(f.flags) + u16(f.method) + u16(0) + u16(0) + u32(later ? 0 : f.checksum);
      out += wide ? u32(~0u) + u32(~0u) : later ? u32(0) + u32(0) : u32(f.stored) + u32(f.size);
      out += u16(f.local_name.size()) + u16(wide ? 20 : 0) + f.local_name;
      if (wide) out += u16(1) + u16(16) + u64(f.size) + u64(f.stored);
      out += f.data;
      if (later) out += "PK\7\x8" + u32(f.checksum) + u32(f.stored) + u32(f.size);
      change_directory(f);
      directory += "PK\1\2" + u16(20) + u16(20) + u16(f.flags) + u16(f.method) + u16(0) + u16(0) + u32(f.checksum);
      directory += wide ? u32(~0u) + u32(~0u) : u32(f.stored) + u32(f.size);
      directory += u16(f.name.size()) + u16(wide ? 9 + 28 : 0) + u16(0) + u16(0) + u16(0) + u32(0);
      directory += (wide ? u32(~0u) : u32(f.place)) + f.name;
      // An extra field that is none of ours comes first.
      if (wide) directory += u16(0x5455) + u16(5) + "12345" + u16(1) + u16(24) + u64(f.size) + u64(f.stored) + u64(f.place);
    }
    out += between;
    const std::size_t begin = out.size(), end = begin + directory.size(), count = files.size();
    out += directory;
    if (wide) {
      out += "PK\6\6" + u64(44) + u16(45) + u16(45) + u32(0) + u32(0) + u64(count) + u64(count) + u64(end - begin) + u64(begin);
      out += "PK\6\7" + u32(0) + u64(end) + u32(1);
    }
    out += "PK\5\6" + u16(0) + u16(0) + (wide ? u16(~0u) + u16(~0u) : u16(count) + u16(count));
    out += wide ? u32(~0u) + u32(~0u) : u32(end - begin) + u32(begin);
    return out + u16(comment.size()) + comment + behind;
  }
};
zip::file matrix_file(const string& name = "x.npy") {
  return {name, npy(npy_header("<f4", "(2, 2)"), stored<float>({1, 2, 3, 4}))};
}

string safetensors(const string& header, const string& data) { return u64(header.size()) + header + data; }
string tensor(const string& name, const string& type, const string& shape, const string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

const std::vector<string> readable = {"f2.npy", "f4.npy", "f8.npy", "i1.npy", "i2.npy", "i4.npy", "i8.npy", "u1.npy",
                                      "u2.npy", "u4.npy", "version2.npy", "version3.npy", "stored.npz", "zip64.npz",
                                      "two.safetensors"};

}  // namespace

TEST_CASE("files of NumPy and of the safetensors library are read exactly", "[features]") {
  for (const string& name : readable) {
    INFO(name);
    const array a = example::read_array(folder + name);
    CHECK(is_golden(a));
    CHECK(a.integers == (name[0] == 'i' || name[0] == 'u'));
    const example::matrix m = example::read_matrix(folder + name);
    CHECK((m.rows() == 5 && m.cols() == 3));
    CHECK(double(m(3, 1)) == a.values[10]);
    CHECK(example::read_features<double>(folder + name)(4, 2) == a.values[14]);
  }
  for (const string type : {"F16", "BF16", "F32", "F64", "I32", "I64", "U8"}) {
    INFO(type);
    CHECK(is_golden(example::read_array(folder + "types.safetensors", type)));
  }
  CHECK(example::read_array(folder + "types.safetensors", "empty").shape == std::vector<std::int64_t>{0, 3});
  const std::vector<std::int64_t> labels(golden_labels.begin(), golden_labels.end());
  CHECK(example::read_labels(folder + "labels.npy") == labels);
  for (const string name : {"stored.npz", "zip64.npz", "two.safetensors"}) {
    CHECK(example::read_array(folder + name, "labels").values == golden_labels);
    CHECK(example::read_labels(folder + name) == labels);
    CHECK(example::read_labels(folder + name, "labels") == labels);
  }
  CHECK(is_golden(example::read_array(folder + "stored.npz", "features.npy")));
}

TEST_CASE("what is not read says why, and how to write it", "[features]") {
  const auto rejects_file = [](const string& name, const string& member, const std::vector<string>& parts) {
    INFO(name);
    string error;
    try {
      example::read_matrix(folder + name, member);
    } catch (const std::runtime_error& e) {
      error = e.what();
    }
    CHECK_THAT(error, contains(folder + name));
    for (const string& part : parts) CHECK_THAT(error, contains(part));
  };
  rejects_file("fortran.npy", "", {"byte ", "Fortran order", "np.ascontiguousarray"});
  rejects_file("big_endian.npy", "", {">f4", "little-endian"});
  rejects_file("structured.npy", "", {"byte ", "plain type"});
  rejects_file("compressed.npz", "", {"without compression", "method 8", "np.savez, not np.savez_compressed"});
  rejects_file("f4.npy", "x", {"no member x"});
  rejects_file("labels.npy", "", {"one sample per row", "got 5"});
  rejects_file("stored.npz", "x", {"member x", "features, labels"});
  rejects_file("stored.npz", "labels", {"one sample per row", "got 5"});
  rejects_file("two.safetensors", "feature", {"member feature", "labels, features"});
  rejects_file("types.safetensors", "", {"one array of two dimensions", "found 8", "F16", "BF16"});
  rejects_file("types.safetensors", "BOOL", {"holds BOOL"});
  rejects_file("types.safetensors", "empty", {"one sample per row", "0 x 3"});
  rejects_file("nothing.npy", "", {"cannot be opened"});
  rejects_file("", "", {"cannot be opened"});
  CHECK_THROWS_AS(example::read_labels(folder + "f4.npy"), std::runtime_error);
}

TEST_CASE("a file cut off at any byte is an error", "[features]") {
  std::vector<string> names = readable;
  names.push_back("types.safetensors");
  for (const string& name : names) {
    INFO(name);
    const string whole = example::read_file(folder + name), member = name == "types.safetensors" ? "F32" : "";
    CHECK(is_golden(read(whole, member)));
    int accepted = 0;
    for (std::size_t size = 0; size < whole.size(); ++size)
      accepted += error_of(whole.substr(0, size), member).compare(0, 8, "the file") != 0;
    CHECK(accepted == 0);
    // And one byte too many.
    CHECK(!error_of(whole + '\0', member).empty());
  }
}

TEST_CASE("a file with one wrong byte is an error, or still makes sense", "[features]") {
  for (const string name : {"f4.npy", "i8.npy", "version2.npy", "stored.npz", "zip64.npz", "two.safetensors"}) {
    const string whole = example::read_file(folder + name);
    const bool is_zip = name.find(".npz") != string::npos, is_npy = name.find(".npy") != string::npos;
    // Zip archives have checksums, and two copies of everything that matters: a change is seen, or changes nothing. The
    // others may say something else in their headers, but of as many bytes.
    const std::size_t header = is_zip ? whole.size() : whole.size() - 15;
    int silent = 0, senseless = 0, errors = 0;
    for (std::size_t at = 0; at < header; ++at)
      // Every bit turned, one more and one less, and what means something in a header.
      for (const int change : {1, 2, 4, 8, 16, 32, 64, 128, 257, 511, 'f' + 512, '0' + 512, '9' + 512, ' ' + 512, '\n' + 512,
                               ',' + 512, '(' + 512, ']' + 512, '"' + 512, 512, 767}) {
        string wrong = whole;
        wrong[at] = char(change < 256 ? wrong[at] ^ change : change < 512 ? wrong[at] + change : change);
        if (wrong[at] == whole[at]) continue;
        try {
          const array a = read(wrong);
          std::size_t count = 1;
          for (const std::int64_t n : a.shape) count *= std::size_t(n);
          senseless += count != a.values.size() || count > whole.size();
          silent += (is_zip || (is_npy && at < 10)) && !is_golden(a);
        } catch (const std::runtime_error& e) {
          ++errors;
          if (string(e.what()).compare(0, 8, "the file") != 0) ++senseless;
        }
      }
    INFO(name);
    CHECK(silent == 0);
    CHECK(senseless == 0);
    CHECK(errors > int(5 * header));
  }
}

TEST_CASE("headers of .npy files are read strictly", "[features]") {
  const string data = stored<float>({1, 2, 3, 4});
  const auto with_header = [&](const string& h) { return npy(h, data); };
  // Any order, any space, no comma at the end: still the same.
  for (const string& h : {npy_header("<f4", "(2, 2)"), npy_header("<f4", "(2,2,)"),
                         string("{ 'shape':(4 , 1),\t'fortran_order' :False,'descr':'<f4'}"),
                         npy_header("<f4", "( 4,1 )") + "     \n"}) {
    INFO(h);
    CHECK(read(with_header(h)).values == std::vector<double>{1, 2, 3, 4});
    CHECK(read(npy(h, data, 2)).values == std::vector<double>{1, 2, 3, 4});
  }
  CHECK(read(with_header(npy_header("<f4", "(4,)"))).shape == std::vector<std::int64_t>{4});
  CHECK(read(npy(npy_header("<f4", "()"), stored<float>({7}))).shape.empty());
  for (const string& h : {string(""), string("{"), string("{}"), npy_header("<f4", "(2, 2") + ")", string("{'descr': '<f4'}"),
                         string("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (4,)}"),
                         string("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}"),
                         string("{'descr': '<f4', 'fortran_order': Falsehood, 'shape': (4,)}"),
                         string("{'descr': '', 'fortran_order': False, 'shape': (4,)}"),
                         string("{'descr': '<f4, 'fortran_order': False, 'shape': (4,)}"),
                         npy_header("<f4", "4"), npy_header("<f4", "(-4,)"), npy_header("<f4", "(4 4)"),
                         npy_header("<f4", "(4L,)"), npy_header("<f4", "(4.0,)"), npy_header("<f4", "(,)"),
                         npy_header("<f4", "(4,)") + "x", npy_header("<f4", "(4,)") + string(1, '\0'),
                         npy_header("<f4", "(9999999999999999,)"), npy_header("<f4", "(99999999999999999999999,)")})
    rejects(with_header(h), {"in the header"});
  // Shapes that the bytes do not fill, and products beyond 64 bits.
  for (const string shape : {"(3,)", "(5,)", "(0,)", "(2, 3)", "(999999999999999, 999999999999999)", "(0, 999999999999999)",
                             "(4294967296, 4294967296)", "(2147483648, 2147483648, 4)", "(1073741824, 4)"})
    rejects(with_header(npy_header("<f4", shape)), {"expected", "numbers of <f4, got 16 bytes"});
  CHECK(read(npy(npy_header("<f4", "(0, 999999999999999)"), "")).values.empty());
  for (const string type : {">f4", "=f4", "f4", "<f3", "<f!", "<f44", "|f4", "<c8", "|O", "<U4", "|b1", "<u8", "<M8"})
    rejects(with_header(npy_header(type, "(4,)")), {type});
  rejects(npy(npy_header("<f4", "(4,)"), data, 4), {"byte 6", "version", "got 4.0"});
  rejects(npy(npy_header("<f4", "(4,)"), data, 0), {"version", "got 0.0"});
  rejects("\x93NUMPY\x01" + string(1, '\0') + u16(65535) + "{}", {"byte 10", "a header of 65535 bytes", "only 2 follow"});
  rejects("\x93NUMPY\x02" + string(1, '\0') + u32(0xffffffff) + "{}", {"byte 12", "a header of 4294967295 bytes"});
}

TEST_CASE("numbers must be finite, and integers exact", "[features]") {
  const double nan = std::nan(""), infinity = HUGE_VAL;
  rejects(npy(npy_header("<f8", "(2,)"), stored<double>({1, nan})), {"finite", "nan"});
  rejects(npy(npy_header("<f8", "(2,)"), stored<double>({-infinity, 0})), {"finite", "inf"});
  rejects(npy(npy_header("<f2", "(1,)"), u16(0x7c00)), {"finite", "inf"});
  rejects(safetensors("{" + tensor("x", "BF16", "[1,1]", "[0,2]") + "}", u16(0x7fc0)), {"the file, x", "finite"});
  const std::int64_t most = std::int64_t(1) << 53;
  CHECK(read(npy(npy_header("<i8", "(2,)"), stored<std::int64_t>({most, -most}))).values[1] == -0x1p53);
  rejects(npy(npy_header("<i8", "(1,)"), stored<std::int64_t>({most + 2})), {"2^53"});
}

TEST_CASE("zip archives are read strictly", "[features]") {
  for (const bool wide : {false, true}) {
    INFO((wide ? "64-bit sizes" : "32-bit sizes"));
    zip z;
    z.wide = wide;
    z.files = {matrix_file(), {"y.npy", npy(npy_header("<i4", "(3,)"), stored<int>({5, 6, 7}))}, {"readme.txt", "words"}};
    CHECK(read(z.bytes()).values == std::vector<double>{1, 2, 3, 4});
    CHECK(read(z.bytes(), "y").values == std::vector<double>{5, 6, 7});
    CHECK(read(z.bytes(), "y.npy").values == std::vector<double>{5, 6, 7});
    rejects(z.bytes(), {"member readme", "x, y"}, "readme");
    const auto changed = [&](const std::function<void(zip&)>& change) {
      zip other = z;
      change(other);
      return other.bytes();
    };
    // Fields of the directory alone, which the members' own headers contradict.
    const auto in_directory = [&](const std::function<void(zip::file&)>& change) {
      return changed([&](zip& o) { o.change_directory = change; });
    };
    CHECK(!read(changed([](zip& o) { o.files[0].flags = 0x800; })).values.empty());
    CHECK(!read(changed([](zip& o) { o.between = "a gap"; })).values.empty());
    rejects(changed([](zip& o) { o.files[0].flags = 1; }), {"not encrypted", "x.npy"});
    rejects(changed([](zip& o) { o.files[1].flags = 0x40; }), {"not encrypted", "y.npy"});
    rejects(changed([](zip& o) { o.files[1].method = 8; }), {"without compression", "y.npy", "method 8"}, "x");
    rejects(changed([](zip& o) { o.files[0].method = 93; }), {"without compression", "method 93"});
    rejects(changed([](zip& o) { o.files[1].name = o.files[1].local_name = "x.npy"; }), {"x.npy twice"});
    rejects(changed([](zip& o) { o.files[1].local_name = "z.npy"; }), {"header of y.npy", "agree"});
    rejects(changed([](zip& o) { o.files[0].checksum ^= 1; }), {"the file, x.npy", "checksum"});
    rejects(changed([](zip& o) { o.files[0].stored -= 1; }), {"equal sizes", "x.npy"});
    rejects(changed([](zip& o) { o.files[0].size = o.files[0].stored = std::size_t(1) << 31; }), {"2147483648 bytes of x.npy"});
    rejects(changed([](zip& o) { o.comment = "words"; }), {"end record", "something follows"});
    rejects(changed([](zip& o) { o.behind = "words"; }), {"end record"});
    rejects(in_directory([](zip::file& f) { f.size = f.stored -= 1; }), {"size and checksum", "agree"});
    rejects(in_directory([](zip::file& f) { f.checksum ^= 4; }), {"size and checksum", "agree"});
    rejects(in_directory([](zip::file& f) { f.flags = 8; }), {"agree"});
    rejects(in_directory([](zip::file& f) { f.place = f.name == "y.npy" ? 1 : 0; }), {"header of y.npy"});
    rejects(in_directory([](zip::file& f) { f.place = 0xfffffff0; }), {"before the directory"});
    // The same member under two entries: they overlap.
    rejects(changed([](zip& o) {
              o.files = {matrix_file(), matrix_file()};
              o.files[1].name = o.files[1].local_name = "y.npy";
              o.files[0].data += string("PK\3\4", 4) + u16(20) + u32(0) + u32(0) + u32(o.files[1].checksum);
              o.files[0].data += u32(o.files[1].size) + u32(o.files[1].size) + u16(5) + u16(0) + "y.npy" + o.files[1].data;
              o.files[0] = zip::file("x.npy", o.files[0].data);
              const std::size_t inside = o.wide ? 30 + 5 + 20 : 30 + 5;
              o.change_directory = [inside](zip::file& f) {
                if (f.name == "y.npy") f.place = inside + matrix_file().data.size();
              };
            }),
            {"overlap"}, "y");
  }
  zip z;
  z.files = {matrix_file()};
  z.files[0].flags = 8;  // sizes behind the member
  CHECK(read(z.bytes()).values == std::vector<double>{1, 2, 3, 4});
  rejects(zip{}.bytes(), {"found 0"});
  zip sixty_four;
  sixty_four.wide = true;
  sixty_four.files = {matrix_file()};
  const string whole = sixty_four.bytes();
  const auto replaced = [&](std::size_t from_end, const string& with) {
    string out = whole;
    return out.replace(out.size() - from_end, with.size(), with);
  };
  // The locator ends 22 bytes before the end, the record before it 42.
  rejects(replaced(22 + 12, u64(~std::size_t(0))), {"the place of the zip64 end record"});
  rejects(replaced(22 + 12, u64(0)), {"zip64 end record"});
  rejects(replaced(42 + 8, u64(~std::size_t(0))), {"directory that ends where"});
  rejects(replaced(42 + 16, u64(~std::size_t(0))), {"directory that ends where"});
  rejects(replaced(42 + 24, u64(2)), {"end records to agree"});
  rejects(replaced(42 + 32, u64(2)), {"end records to agree"});
  rejects(replaced(22 - 12, u32(7)), {"end records to agree"});
}

TEST_CASE("safetensors headers are read strictly", "[features]") {
  const string data = stored<float>({1, 2, 3, 4});
  const string x = tensor("x", "F32", "[2,2]", "[0,16]");
  const auto file = [&](const string& header) { return safetensors(header, data); };
  CHECK(read(file("{" + x + "}")).values == std::vector<double>{1, 2, 3, 4});
  CHECK(read(file("{" + x + "}     ")).values.size() == 4);
  CHECK(read(file("{\"__metadata__\":{\"a\":\"b\"}," + x + "}")).values.size() == 4);
  CHECK(read(file("{" + tensor("s", "F64", "[]", "[0,8]") + "," + tensor("x", "F16", "[2,2]", "[8,16]") + "}"), "s")
            .shape.empty());
  CHECK(read(file("{" + tensor("b", "F32", "[4,1]", "[0,16]") + "," + tensor("a", "F32", "[0]", "[16,16]") + "," +
                  tensor("c", "F32", "[3,0]", "[0,0]") + "}"),
             "b")
            .values.size() == 4);

  for (const auto& [header, why] : std::vector<std::pair<string, string>>{
           {"", ".npy, .npz or safetensors"},
           {" {" + x + "}", ".npy, .npz or safetensors"},
           {"[]", ".npy, .npz or safetensors"},
           {"{", "in JSON"},
           {"{" + x, "in JSON"},
           {"{" + x + "}}", "in JSON"},
           {"{" + x + ",}", "in JSON"},
           {"{" + x + "}" + string(1, '\0'), "no zeros"},
           {"{" + x + "}" + string(1, '\0') + "}}", "no zeros"},
           {"{\"x\xff\":{}}", "in JSON"},
           {"{" + x + "," + x + "}", "x twice"},
           {"{\"__metadata__\":{}," + x + ",\"__metadata__\":{}}", "__metadata__ twice"},
           {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," + x + "}", "a twice"},
           {"{\"__metadata__\":{\"a\":1}," + x + "}", "no number"},
           {"{\"__metadata__\":{\"a\":{}}," + x + "}", "no object"},
           {"{\"__metadata__\":{\"a\":[]}," + x + "}", "no list"},
           {"{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "dtype twice"},
           {"{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"offsets\":[0,16]}}", "got offsets"},
           {"{\"x\":{\"dtype\":\"F32\",\"shape\":[4]}}", "dtype, shape and data_offsets"},
           {"{\"x\":{}}", "dtype, shape and data_offsets"},
           {"{\"x\":null}", "no null"},
           {"{\"x\":[]}", "no list"},
           {"{\"x\":\"y\"}", "no string"},
           {"{\"x\":4}", "no number"},
           {"{\"x\":{\"dtype\":[\"F32\"]}}", "no list"},
           {"{\"x\":{\"shape\":[[4]]}}", "no list"},
           {"{\"x\":{\"shape\":[{}]}}", "no object"},
           {"{\"x\":{\"shape\":[\"4\"]}}", "no string"},
           {"{\"x\":{\"shape\":[true]}}", "no boolean"},
           {"{" + tensor("x", "F32", "[-4]", "[0,16]") + "}", "no negative"},
           {"{" + tensor("x", "F32", "[4.0]", "[0,16]") + "}", "whole numbers"},
           {"{" + tensor("x", "F32", "[4e0]", "[0,16]") + "}", "whole numbers"},
           {"{" + tensor("x", "F32", "[18446744073709551616]", "[0,16]") + "}", "whole numbers"},
           {"{" + tensor("x", "F32", "[9223372036854775808]", "[0,16]") + "}", "below 2^63"},
           {"{" + tensor("x", "F32", "[9223372036854775807,9223372036854775807]", "[0,16]") + "}", "got 16 bytes"},
           {"{" + tensor("x", "F32", "[4294967296,4294967296]", "[0,16]") + "}", "got 16 bytes"},
           {"{" + tensor("x", "F32", "[4611686018427387908]", "[0,16]") + "}", "got 16 bytes"},  // 4 times that is 16
           {"{" + tensor("x", "F32", "[0,9223372036854775807]", "[0,16]") + "}", "got 16 bytes"},
           {"{" + tensor("x", "F32", "[5]", "[0,16]") + "}", "5 numbers of F32, got 16 bytes"},
           {"{" + tensor("x", "F64", "[4]", "[0,16]") + "}", "4 numbers of F64"},
           {"{" + tensor("x", "F4", "[4]", "[0,16]") + "}", "known dtype, got F4"},
           {"{" + tensor("x", "F32", "[4]", "[0]") + "}", "two data_offsets"},
           {"{" + tensor("x", "F32", "[4]", "[0,16,16]") + "}", "two data_offsets"},
           {"{" + tensor("x", "F32", "[4]", "[16,0]") + "}", "begin here"},
           {"{" + tensor("x", "F32", "[4]", "[0,20]") + "}", "16 bytes of data"},
           {"{" + tensor("x", "F32", "[3]", "[4,16]") + "}", "begin here"},
           {"{" + tensor("x", "F32", "[3]", "[0,12]") + "}", "end of the file"},
           {"{}", "end of the file"},
           {"{" + tensor("x", "F32", "[2]", "[0,8]") + "," + tensor("y", "F32", "[3]", "[4,16]") + "}", "expected y to begin"},
           {"{" + tensor("x", "F32", "[1]", "[0,4]") + "," + tensor("y", "F32", "[2]", "[8,16]") + "}", "expected y to begin"},
           {"{" + tensor("x", "F32", "[4]", "[0,9223372036854775807]") + "}", "16 bytes of data"}}) {
    INFO(header);
    rejects(file(header), {why});
  }
  // A nesting that would exhaust the stack of a recursive parser.
  rejects(file("{\"x\":" + string(1000000, '[')), {"no list"});
  string deep = "{";
  for (int i = 0; i < 200000; ++i) deep += "\"x\":{";
  rejects(file(deep), {"expected"});
  // Lengths that the file does not have.
  for (const std::size_t length : {std::size_t(10), std::size_t(100'000'000)})
    rejects(u64(length) + "{}", {"header of " + std::to_string(length) + " bytes, but only 2 follow"});
  for (const std::size_t length : {std::size_t(100'000'001), ~std::size_t(0), ~std::size_t(0) - 7})
    rejects(u64(length) + "{}", {"at most 100 MB"});
}

TEST_CASE("arrays of any shape and type come back as they were written", "[features]") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 60; ++round) {
    const std::size_t rows = 1 + random() % 9, cols = 1 + random() % 9;
    std::vector<double> values;
    std::vector<float> narrow;
    std::vector<std::int32_t> whole;
    for (std::size_t i = 0; i < rows * cols; ++i) {
      whole.push_back(std::int32_t(random()));
      narrow.push_back(float(whole.back()) / 1024);
      values.push_back(double(random()) / 3);
    }
    const std::vector<double> of_narrow(narrow.begin(), narrow.end()), of_whole(whole.begin(), whole.end());
    const string r = std::to_string(rows), c = std::to_string(cols), shape = "(" + r + ", " + c + ")";
    CHECK(read(npy(npy_header("<f8", shape), stored(values))).values == values);
    CHECK(read(npy(npy_header("<i4", shape), stored(whole), 2)).values == of_whole);
    zip z;
    z.wide = round % 2 == 0;
    z.before = string(random() % 5, 'x');  // but an archive begins with PK
    z.files = {{"a.npy", npy(npy_header("<f4", shape), stored(narrow))},
               {"b.npy", npy(npy_header("<f8", shape), stored(values))}};
    if (z.before.empty()) {
      CHECK(read(z.bytes(), "a").values == of_narrow);
      CHECK(read(z.bytes(), "b").values == values);
    } else {
      rejects(z.bytes(), {"expected a .npy, .npz or safetensors file"});
    }
    const std::size_t a = narrow.size() * 4, b = a + values.size() * 8;
    const string dimensions = "[" + r + "," + c + "]";
    const string both = safetensors("{" + tensor("b", "F64", dimensions, "[" + std::to_string(a) + "," + std::to_string(b) + "]") +
                                        "," + tensor("a", "F32", dimensions, "[0," + std::to_string(a) + "]") + "}",
                                    stored(narrow) + stored(values));
    CHECK(read(both, "a").values == of_narrow);
    CHECK(read(both, "b").values == values);
  }
}

TEST_CASE("a matrix that was written is read back", "[features]") {
  const example::matrix m = example::matrix::Random(7, 5);
  const string path = "features_test.npy";
  example::write_matrix(path, m);
  CHECK(example::read_matrix(path) == m);
  std::remove(path.c_str());
  CHECK_THROWS_AS(example::write_matrix("no_such_folder/x.npy", m), std::runtime_error);
}
