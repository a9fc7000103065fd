// Features and labels from files: .npy, .npz (not compressed) and safetensors, told apart by their first bytes.
#pragma once

#include "npz.hpp"
#include "safetensors.hpp"

namespace example {

namespace detail {

/// The one array called `member`; without a name the only one that `fits`.
template <class Fits>
stored_array choose(const byte_view& file, const std::string& member, const std::string& wanted, const Fits& fits) {
  const bool is_npy = file.size() >= 1 && file.text(0, 1, "")[0] == npy::magic[0];
  const bool is_zip = file.size() >= 2 && file.text(0, 2, "") == "PK";
  if (is_npy) {
    file.require(member.empty(), 0, "is a .npy file, which has no member " + member);
    return npy::open(file);
  }
  std::vector<stored_array> found;
  std::string names;
  const auto add_name = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
  if (is_zip) {
    for (const npz::member& m : npz::members(file)) {
      add_name(m.name);
      // What is asked for by name does not depend on what else is there.
      if (member.empty() || m.name == member || m.name + ".npy" == member) found.push_back(npz::open(m));
    }
  } else {
    file.require(file.size() >= 9 && file.text(8, 1, "")[0] == '{', 0, "expected a .npy, .npz or safetensors file");
    for (stored_array& a : safetensors::open(file)) {
      add_name(a.name);
      if (member.empty() || a.name == member) found.push_back(std::move(a));
    }
  }
  if (member.empty())
    found.erase(std::remove_if(found.begin(), found.end(), [&](const stored_array& a) { return !fits(a); }), found.end());
  file.require(found.size() == 1, 0, "expected one " + (member.empty() ? wanted : "member " + member) + ", found " +
                                         std::to_string(found.size()) + "; the file holds: " + names);
  return found[0];
}

}  // namespace detail

/// An array from the bytes of a file. member: which one of several; may be left out if only one has two dimensions.
inline array read_array(const byte_view& file, const std::string& member = "") {
  return decode(detail::choose(file, member, "array of two dimensions",
                               [](const stored_array& a) { return a.shape.size() == 2; }));
}

inline array read_array(const std::string& path, const std::string& member = "") {
  const std::string bytes = read_file(path);
  return read_array(byte_view(path, bytes), member);
}

/// rows x columns as T, one sample per row. member: which array, of a file with several matrices.
template <class T>
Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> read_features(const std::string& path,
                                                                                 const std::string& member = "") {
  const array a = read_array(path, member);
  if (a.shape.size() != 2 || a.values.empty())
    throw std::runtime_error(path + ": expected a matrix with one sample per row, got " + shape_text(a.shape));
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> m(a.shape[0], a.shape[1]);
  for (Eigen::Index i = 0; i < m.size(); ++i) m.data()[i] = T(a.values[std::size_t(i)]);
  return m;
}
inline matrix read_matrix(const std::string& path, const std::string& member = "") {
  return read_features<float>(path, member);
}

/// One integer per sample. member: which array, of a file with several lists of integers.
inline label_list read_labels(const std::string& path, const std::string& member = "") {
  const std::string bytes = read_file(path);
  const array a = decode(
      detail::choose(byte_view(path, bytes), member, "list of integers", [](const stored_array& s) {
        return s.shape.size() == 1 && (s.type.kind == 'i' || s.type.kind == 'u');
      }));
  if (a.shape.size() != 1 || a.values.empty() || !a.integers)
    throw std::runtime_error(path + ": expected one integer label per sample, got " +
                             (a.integers ? "integers, " : "floating-point numbers, ") + shape_text(a.shape));
  return label_list(a.values.begin(), a.values.end());
}

}  // namespace example
