// NumPy's .npz files: zip archives of .npy files, stored without compression. Sizes of 64 bits (zip64) in the members and in
// the directory. Read strictly: the directory is where the end record says and ends where that begins, it agrees with the
// members' own headers, members do not overlap, and the checksum of what is read is right.
// Format: PKWARE's APPNOTE.TXT 6.3, sections 4.3 to 4.5.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <set>

#include "npy.hpp"

namespace example::npz {

/// A member: its name without .npy, its bytes, the same with the header before them, and its checksum.
struct member {
  std::string name;
  byte_view bytes, whole;
  std::uint32_t checksum = 0;
};

namespace detail {

struct directory {
  std::uint64_t begin, end, entries;
};

inline bool fits(std::uint64_t wide, std::uint64_t narrow, std::uint64_t saturated) {
  return narrow == saturated || narrow == wide;
}

inline directory find_directory(const byte_view& file) {
  constexpr std::size_t end_size = 22, locator_size = 20;
  const std::string what = "the end record of a zip archive";
  const std::size_t at = file.size() < end_size ? 0 : file.size() - end_size;
  file.require(file.number<std::uint32_t>(at, what) == 0x06054b50 && file.number<std::uint16_t>(at + 20, what) == 0, at,
               "expected " + what + " in the last 22 bytes; the file is cut off, or something follows the archive");
  const std::uint16_t disk = file.number<std::uint16_t>(at + 4, what), first = file.number<std::uint16_t>(at + 6, what);
  const std::uint16_t here = file.number<std::uint16_t>(at + 8, what), all = file.number<std::uint16_t>(at + 10, what);
  const std::uint32_t size = file.number<std::uint32_t>(at + 12, what), begin = file.number<std::uint32_t>(at + 16, what);

  directory d{begin, at, all};
  std::uint64_t wide_size = size;
  if (at >= locator_size && file.number<std::uint32_t>(at - locator_size, what) == 0x07064b50) {
    const std::size_t locator = at - locator_size;
    const std::string record = "the zip64 end record";
    const std::uint64_t place = file.number<std::uint64_t>(locator + 8, record);
    file.require(file.number<std::uint32_t>(locator + 4, record) == 0 &&
                     file.number<std::uint32_t>(locator + 16, record) == 1 && place <= locator && locator - place >= 56,
                 locator, "expected the place of " + record + " on a single disk");
    const std::size_t r = std::size_t(place);
    file.require(file.number<std::uint32_t>(r, record) == 0x06064b50 &&
                     file.number<std::uint64_t>(r + 4, record) == locator - place - 12 &&
                     file.number<std::uint32_t>(r + 16, record) == 0 && file.number<std::uint32_t>(r + 20, record) == 0,
                 r, "expected " + record + " of a single disk, directly before its locator");
    d = {file.number<std::uint64_t>(r + 48, record), place, file.number<std::uint64_t>(r + 32, record)};
    wide_size = file.number<std::uint64_t>(r + 40, record);
    const std::uint64_t wide_here = file.number<std::uint64_t>(r + 24, record);
    file.require(wide_here == d.entries && fits(d.begin, begin, 0xffffffff) && fits(wide_size, size, 0xffffffff) &&
                     fits(d.entries, all, 0xffff) && fits(d.entries, here, 0xffff) && fits(0, disk, 0xffff) &&
                     fits(0, first, 0xffff),
                 at, "expected the two end records to agree");
  } else {
    file.require(disk == 0 && first == 0 && here == all, at + 4, "expected an archive on a single disk");
  }
  file.require(d.begin <= d.end && wide_size == d.end - d.begin, at + 12,
               "expected a directory that ends where its end record begins");
  file.require(d.entries <= wide_size / 46, at + 8, "expected as many entries as fit the directory");
  return d;
}

/// The sizes and the place of a member, some of which may stand in the extra field of 64-bit numbers.
struct extent {
  std::uint64_t size, stored, place;
};
/// Replaces what is saturated, in the order of the format.
inline void widen(const byte_view& extra, extent& e) {
  for (std::size_t at = 0; at < extra.size();) {
    const std::uint16_t id = extra.number<std::uint16_t>(at, "an extra field");
    const std::uint16_t length = extra.number<std::uint16_t>(at + 2, "an extra field");
    const byte_view field = extra.part(at + 4, length, "an extra field");
    at += 4 + std::size_t(length);
    if (id != 1) continue;
    std::size_t next = 0;
    for (std::uint64_t* value : {&e.size, &e.stored, &e.place})
      if (*value == 0xffffffff) {
        *value = field.number<std::uint64_t>(next, "a 64-bit size");
        next += 8;
      }
    return;
  }
}

/// One entry of the directory and the member that it describes; `at` moves to the next.
inline member read_entry(const byte_view& file, const directory& d, std::uint64_t& at) {
  const byte_view rest = file.part(std::size_t(at), std::size_t(d.end - at), "the directory");
  const std::string what = "an entry of the directory";
  rest.require(rest.number<std::uint32_t>(0, what) == 0x02014b50, 0, "expected " + what);
  const std::uint16_t flags = rest.number<std::uint16_t>(8, what), method = rest.number<std::uint16_t>(10, what);
  const std::size_t name_size = rest.number<std::uint16_t>(28, what), extra_size = rest.number<std::uint16_t>(30, what);
  const std::size_t comment_size = rest.number<std::uint16_t>(32, what);
  const std::string name(rest.text(46, name_size, "a name"));
  extent e{rest.number<std::uint32_t>(24, what), rest.number<std::uint32_t>(20, what),
           rest.number<std::uint32_t>(42, what)};
  const std::uint32_t checksum = rest.number<std::uint32_t>(16, what);
  widen(rest.part(46 + name_size, extra_size, "extra fields"), e);
  rest.text(46 + name_size + extra_size, comment_size, "a comment");
  at += 46 + name_size + extra_size + comment_size;

  // Bit 3: sizes follow the member; bit 11: the name is UTF-8. Bits 1 and 2 mean nothing for stored members.
  rest.require((flags & ~0x080e) == 0, 8, "expected a member that is not encrypted, " + name + " has flags " +
                                              std::to_string(flags));
  rest.require(method == 0, 10, "expected members without compression, " + name + " has method " +
                                    std::to_string(method) + "; save with np.savez, not np.savez_compressed");
  rest.require(e.size == e.stored, 20, "expected equal sizes, " + name + " has " + std::to_string(e.stored) +
                                           " stored bytes of " + std::to_string(e.size));
  rest.require(rest.number<std::uint16_t>(34, what) == 0, 34, "expected an archive on a single disk");
  rest.require(e.place < d.begin, 42, "expected " + name + " to lie before the directory");

  const byte_view local = file.part(std::size_t(e.place), std::size_t(d.begin - e.place), "members");
  const std::string header = "the header of " + name;
  const std::size_t own_name = local.number<std::uint16_t>(26, header), own_extra = local.number<std::uint16_t>(28, header);
  local.require(local.number<std::uint32_t>(0, header) == 0x04034b50, 0, "expected " + header);
  local.require(local.number<std::uint16_t>(6, header) == flags && local.number<std::uint16_t>(8, header) == method &&
                    local.text(30, own_name, header) == name,
                4, "expected " + header + " to agree with the directory");
  const byte_view own_fields = local.part(30 + own_name, own_extra, "extra fields");
  if ((flags & 8) == 0) {
    extent own{local.number<std::uint32_t>(22, header), local.number<std::uint32_t>(18, header), e.place};
    widen(own_fields, own);
    local.require(own.size == e.size && own.stored == e.stored && local.number<std::uint32_t>(14, header) == checksum, 14,
                  "expected size and checksum of " + name + " to agree with the directory");
  }
  const std::size_t begin = 30 + own_name + own_extra;
  local.require(e.size <= local.size() - begin, begin, "expected " + std::to_string(e.size) + " bytes of " + name +
                                                           ", but only " + std::to_string(local.size() - begin) +
                                                           " lie before the directory");
  const std::size_t size = std::size_t(e.size);
  return {name, local.part(begin, size, name).renamed(file.name() + ", " + name), local.part(0, begin + size, name),
          checksum};
}

}  // namespace detail

/// The archive's .npy files.
inline std::vector<member> members(const byte_view& file) {
  const detail::directory d = detail::find_directory(file);
  std::vector<member> all;
  std::set<std::string> names;
  std::vector<std::pair<std::size_t, std::size_t>> ranges;
  std::uint64_t at = d.begin;
  for (std::uint64_t k = 0; k < d.entries; ++k) {
    const std::uint64_t entry = at;
    member m = detail::read_entry(file, d, at);
    file.require(names.insert(m.name).second, std::size_t(entry), "expected different names, got " + m.name + " twice");
    ranges.push_back({m.whole.offset(), m.whole.offset() + m.whole.size()});
    if (m.name.size() <= 4 || m.name.compare(m.name.size() - 4, 4, ".npy") != 0) continue;
    m.name.resize(m.name.size() - 4);
    all.push_back(std::move(m));
  }
  file.require(at == d.end, std::size_t(at), "expected the end of the directory");
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t k = 1; k < ranges.size(); ++k)
    file.require(ranges[k - 1].second <= ranges[k].first, ranges[k].first, "expected members that do not overlap");
  return all;
}

/// What a member holds, once its checksum is found right.
inline stored_array open(const member& m) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(m.bytes.data());
  const std::uint32_t checksum = std::uint32_t(crc32_z(0, bytes, m.bytes.size()));
  m.bytes.require(checksum == m.checksum, 0, "expected checksum " + std::to_string(m.checksum) + ", got " +
                                                 std::to_string(checksum) + ": the file is damaged");
  stored_array a = npy::open(m.bytes);
  a.name = m.name;
  return a;
}

}  // namespace example::npz
