// Calls, which check what they are given: part of craft/adapters/runtime_bodies.hpp.
#pragma once

#include <algorithm>
#include <limits>

#include "craft/adapters/runtime/kernel.hpp"
#include "craft/rehearsal.hpp"

namespace craft::runtime {

call::call(const runtime::verb& verb) : verb_(verb), arguments_(verb.fields.size()) {
  arrays_.reserve(std::size_t(verb.matrices) + 2);
  const place unwanted{nullptr, 0, 0, 0, dtype::float32, memory::host, write::none};
  results_.assign(verb.results.size(), unwanted);
  gradients_.assign(verb.gradients.size(), unwanted);
}

void call::add_fault(const std::string& fault, severity how_bad) {
  faults_ += (faults_.empty() ? "" : "; ") + fault;
  worst_ = (std::max)(worst_, how_bad);
  checked_ = false;
}
void call::refuse(const std::string& fault, bool type) { add_fault(fault, type ? severity::type : severity::shape); }
void call::refuse(int field, const std::string& fault, bool type) {
  refuse(fault, type);
  arguments_.at(std::size_t(field)).is = argument::form::refused;
}
void call::wrong(const field& f, const std::string& got) {
  const std::string choices = f.kind == kind::choice ? " (" + detail::alternatives(f.choices) + ")" : "";
  refuse(std::string(f.name) + ": expected " + detail::expected(f.kind) + choices + ", got " + got, true);
}
call::argument& call::at(int field, bool allowed, const char* got) {
  static thread_local argument nowhere;
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  checked_ = false;
  if (allowed) return arguments_[std::size_t(field)];
  wrong(f, got);
  arguments_[std::size_t(field)].is = argument::form::refused;
  return nowhere;
}

void call::give(int field, const array& value) {
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  argument& a = at(field, detail::is_array(f.kind), "an array");
  if (!detail::is_array(f.kind)) return;
  a.at = int(arrays_.size());
  arrays_.emplace_back();
  const std::string type = detail::type_fault(f.name, f.kind, value);
  const std::string layout = detail::layout_fault(f.name, f.kind, value, arrays_.back());
  a.is = layout.empty() ? argument::form::array : argument::form::refused;
  if (!type.empty()) refuse(type, true);
  if (!layout.empty()) refuse(layout, false);
}
void call::give(int field, const matrix& value) {
  const index_t side_by_side = value.dimensions == 2 ? value.cols : 1;
  const std::int64_t sizes[] = {value.rows, value.cols}, strides[] = {value.stride != 0 ? value.stride : side_by_side, 1};
  give(field, array{value.data, value.type, value.where, value.dimensions, sizes, strides});
}
void call::give(int field, double value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::list) return give(field, std::vector<double>{value});
  argument& a = at(field, k == kind::number || k == kind::scalar, "a number");
  a.is = argument::form::number;
  a.number = value;
}
void call::give(int field, index_t value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::number || k == kind::scalar || k == kind::list) return give(field, double(value));
  argument& a = at(field, k == kind::whole, "an integer");
  a.is = argument::form::whole;
  a.whole = value;
}
void call::give(int field, bool value) {
  argument& a = at(field, verb_.fields.at(std::size_t(field)).kind == kind::flag, value ? "true" : "false");
  a.is = argument::form::whole;
  a.whole = value;
}
void call::give(int field, std::string_view value) {
  const runtime::field& f = verb_.fields.at(std::size_t(field));
  argument& a = at(field, f.kind == kind::choice, "text");
  if (f.kind != kind::choice) return;
  a.is = argument::form::whole;
  for (std::size_t k = 0; k < f.choices.size(); ++k)
    if (value == f.choices[k]) {
      a.whole = index_t(k);
      return;
    }
  a.is = argument::form::refused;
  add_fault(std::string(f.name) + ": expected " + detail::alternatives(f.choices) + ", got " + std::string(value),
            severity::option);
}
void call::give(int field, const std::vector<double>& value) {
  argument& a = at(field, verb_.fields.at(std::size_t(field)).kind == kind::list, "several numbers");
  a.is = argument::form::numbers;
  a.at = int(numbers_.size());
  numbers_.push_back(value);
}
void call::give(int field, const std::vector<index_t>& value) {
  const kind k = verb_.fields.at(std::size_t(field)).kind;
  if (k == kind::list) return give(field, std::vector<double>(value.begin(), value.end()));
  argument& a = at(field, k == kind::wholes, "several integers");
  a.is = argument::form::wholes;
  a.at = int(wholes_.size());
  wholes_.push_back(value);
}

bool call::given(int field) const { return arguments_.at(std::size_t(field)).is != argument::form::missing; }

std::vector<double> call::list(int field) const {
  const argument& a = arguments_[std::size_t(field)];
  if (a.is == argument::form::numbers) return numbers_[std::size_t(a.at)];
  if (a.is != argument::form::array) return {};
  const matrix& m = array_of(a);
  if (m.data == nullptr) return std::vector<double>(std::size_t(std::min<index_t>(m.rows, 1000)), 1.0);  // not known yet
  require<device_error>(m.where == memory::host, verb_.name, ": ", verb_.fields[std::size_t(field)].name,
                        " must lie in host memory");
  std::vector<double> numbers;
  numbers.reserve(std::size_t(m.rows));
  for (index_t i = 0; i < m.rows; ++i)
    numbers.push_back(m.type == dtype::float64 ? static_cast<const double*>(m.data)[i * m.stride]
                                               : double(static_cast<const float*>(m.data)[i * m.stride]));
  return numbers;
}

void call::check() {
  const std::string faults = faults_;
  const severity worst = worst_;
  check_arguments();
  check_sizes();
  check_kernel();
  if (worst_ != severity::none) {
    const std::string text = std::string(verb_.name) + ": " + faults_;
    const severity how_bad = std::exchange(worst_, worst);
    faults_ = faults;  // whoever asks again is told the same
    if (how_bad == severity::type) throw type_error(text);
    if (how_bad == severity::shape) throw shape_error(text);
    throw option_error(text);
  }
  checked_ = true;
}

/// What is missing, and types that do not go together.
void call::check_arguments() {
  dtype first = dtype::other;
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is == argument::form::missing && f.required)
      refuse(std::string(f.name) + " is missing: expected " + detail::expected(f.kind), true);
    // Sizes of what is made follow from numbers that have no default: nothing is as large as that.
    constexpr index_t most = (std::numeric_limits<index_t>::max)() / 8;
    if (f.kind == kind::whole && f.required && (a.whole < 0 || a.whole > most))
      refuse(std::string(f.name) + " must not be negative or beyond all memory, got " + std::to_string(a.whole), false);
    if (a.is != argument::form::array || !detail::is_real(array_of(a).type)) continue;
    const matrix& m = array_of(a);
    if (f.kind == kind::matrix && first == dtype::other) first = m.type;
    const bool soft = f.kind == kind::computed || (f.kind == kind::targets && m.dimensions == 2);
    const dtype expected = soft ? computing(first) : first;
    if ((soft || f.kind == kind::matrix) && first != dtype::other && m.type != expected)
      refuse("expected " + std::string(f.name) + " of type " + name(expected) + ", got " + name(m.type), true);
  }
  if (first != dtype::other) type_ = first;
}

/// The kernel by its name, bandwidths, weights and shape, if the verb has one.
void call::check_kernel() {
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const field& f = verb_.fields[i];
    if (f.kind != kind::choice || f.choices != kernel::families()) continue;
    const argument* a = &arguments_[i];
    kernel_field_ = int(i);
    if (std::any_of(a, a + 5, [](const argument& one) { return one.is == argument::form::refused; })) return;
    try {
      const char* family = f.choices[std::size_t(given(int(i)) ? a->whole : f.whole)];
      const auto shape = given(int(i) + 3) ? std::optional<double>(a[3].number) : std::nullopt;
      const index_t degree = given(int(i) + 4) ? a[4].whole : kernel::usual_degree;
      kernel_ = kernel(family, list(int(i) + 1), list(int(i) + 2), shape, degree);
    } catch (const option_error& e) {
      add_fault(e.what(), severity::option);
    }
  }
}

index_t call::size_named(const std::string& name) const {
  for (const auto& [known, size] : sizes_)
    if (*known == name) return size;
  for (std::size_t i = 0; i < arguments_.size(); ++i)
    if (verb_.fields[i].kind == kind::whole && name == verb_.fields[i].name)
      return given(int(i)) ? arguments_[i].whole : verb_.fields[i].whole;
  require<shape_error>(name.find_first_not_of("0123456789") == std::string::npos, verb_.name, ": size ", name,
                       " is that of an array that is not there");
  return std::stoll(name);
}

void call::check_sizes() {
  std::vector<std::size_t> first;  // by which array a size is known
  sizes_.clear();
  first.reserve(verb_.fields.size());
  sizes_.reserve(verb_.fields.size());
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    const field& f = verb_.fields[i];
    if (a.is != argument::form::array || f.shape.empty()) continue;
    const matrix& m = array_of(a);
    for (int k = 0; k < (std::min)(m.dimensions, int(f.shape.size())); ++k) {
      const index_t size = k == 0 ? m.rows : m.cols;
      const std::string& name = f.shape[std::size_t(k)][0];
      std::size_t known = 0;
      while (known < sizes_.size() && *sizes_[known].first != name) ++known;
      if (known == sizes_.size()) {
        sizes_.emplace_back(&name, size);
        first.push_back(i);
      } else if (sizes_[known].second != size) {
        const field& other = verb_.fields[first[known]];
        const std::string of = std::string(other.name) + " " + detail::sizes_text(array_of(arguments_[first[known]]));
        const std::string is = std::string(f.name) + " " + detail::sizes_text(m);
        const bool columns = k == 1 && m.dimensions == 2 && other.shape.size() == 2 && other.shape[1][0] == name;
        refuse(columns ? of + " and " + is + ": their columns must agree"
                       : is + ": expected " + std::to_string(sizes_[known].second) + (k == 0 ? " rows" : " columns") +
                             ", one per row of " + of,
               false);
      }
    }
  }
}

extent call::sizes(const named_sizes& of) const {
  extent e;
  index_t all = 8;  // bytes of one number, at most
  for (const auto& factors : of) {
    index_t size = 1;
    for (const std::string& factor : factors) {
      const index_t by = size_named(factor);
      const bool fits = by >= 0 && (by == 0 || (std::max)(size, all) <= (std::numeric_limits<index_t>::max)() / by);
      require<shape_error>(fits, verb_.name, ": ", factor, " must not be negative or beyond all memory, got ", by);
      size *= by;
      all *= by;
    }
    e.sizes[e.dimensions++] = size;
  }
  return e;
}
/// Throws option_error for what is not there, or has no gradient.
void call::has_gradient(int gradient) const {
  const int field = verb_.gradients.at(std::size_t(gradient));
  const runtime::field& f = verb_.fields[std::size_t(field)];
  require<option_error>(f.kind != kind::matrix || given(field), verb_.name, ": no gradient of ", f.name, ", which is not there");
  const argument& a = arguments_[std::size_t(field)];
  const bool shares = f.kind != kind::targets || (a.is == argument::form::array && array_of(a).dimensions == 2);
  require<option_error>(shares, verb_.name, ": no gradient of ", f.name, ": labels have none, only shares have");
  require<option_error>(kernel_field_ < 0 || field != kernel_field_ + 3 || detail::is_paired(kernel_), verb_.name,
                        ": no gradient of ", f.name, ": this kernel has none");
}
extent call::gradient_sizes(int gradient) const {
  has_gradient(gradient);
  const int field = verb_.gradients.at(std::size_t(gradient));
  const runtime::field& f = verb_.fields[std::size_t(field)];
  const argument& a = arguments_[std::size_t(field)];
  if (f.kind == kind::list) {
    const bool any = field == kernel_field_ + 1 ? kernel_.bandwidths() > 0 : kernel_.weights() > 0;
    return {a.is == argument::form::array ? array_of(a).dimensions : 1, {any ? index_t(kernel_.members().size()) : 0, 1}};
  }
  return f.shape.empty() ? extent{} : sizes(f.shape);
}
dtype call::result_type(int result) const {
  const dtype t = verb_.results.at(std::size_t(result)).type;
  return t == dtype::float32 ? type() : t;
}

void call::result(int result, const place& to) { results_.at(std::size_t(result)) = to; }
void call::gradient(int gradient, const place& to) { gradients_.at(std::size_t(gradient)) = to; }

namespace detail {

/// A place of these sizes: of a list a row or a column, with numbers apart if that is allowed.
template <class Name>
void fits(const Name& what, const place& p, const extent& e, bool apart) {
  const bool in_a_row = p.rows == 1 && p.cols == e.sizes[0];
  const bool in_a_column = p.rows == e.sizes[0] && p.cols == 1 && (apart || p.rows < 2 || p.stride == 1);
  const bool sized = e.dimensions == 2 ? p.rows == e.sizes[0] && p.cols == e.sizes[1] : in_a_row || in_a_column;
  if (sized && (p.rows < 2 || p.stride >= p.cols)) return;
  fail<shape_error>(what(), ": expected a place of ", sizes_text(e.sizes, e.dimensions), ", got ",
                    craft::detail::shape(p.rows, p.cols), " at a stride of ", p.stride);
}
/// Memory that the call can get at, if there is any.
template <class Name, class Described>
void reachable(const Name& name_of, const Described& d, memory space) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(d.data) % std::uintptr_t(bytes_of(d.type)) == 0;
  if (d.data != nullptr && aligned && d.where == space) return;
  const std::string what = name_of(), fault = null_fault(what, d) + alignment_fault(what, d.data, d.type);
  require<shape_error>(fault.empty(), fault);
  require<device_error>(d.where == space, what, " lies in ", name(d.where), " memory, but the call runs in ", name(space),
                        " memory");
}

}  // namespace detail

/// Of arrays that are read.
void call::check_memory(memory space) const {
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    const argument& a = arguments_[i];
    if (a.is != argument::form::array) continue;
    const kind k = verb_.fields[i].kind;
    const matrix& m = array_of(a);
    const bool also_on_host = k != kind::scalar && !detail::is_matrix(k, m.dimensions);
    detail::reachable([&] { return std::string(verb_.name) + ": " + verb_.fields[i].name; }, m,
                      also_on_host && m.where == memory::host ? memory::host : space);
  }
}
/// Of what is written.
void call::check_results(memory space) const {
  const auto named = [&](const char* is, const char* of) { return std::string(verb_.name) + is + of; };  // where it is told
  const auto typed = [&](const auto& what, const place& p, dtype expected, dtype narrower) {
    if (p.type == expected || p.type == narrower) return;
    fail<type_error>(what(), ": expected a place of type ", name(expected), ", got ", name(p.type));
  };
  for (std::size_t r = 0; r < results_.size(); ++r) {
    const place& p = results_[r];
    const dtype type = result_type(int(r));
    const bool found = verb_.results[r].type != dtype::float32;
    const auto what = [&] { return named(": result ", verb_.results[r].name); };
    if (p.mode == write::none && !found) fail<shape_error>(what(), " has no place");
    if (p.mode == write::none) continue;
    typed(what, p, type, !found ? type : type == dtype::int64 ? dtype::int32 : dtype::float32);
    detail::fits(what, p, result_sizes(int(r)), false);
    detail::reachable(what, p, found && p.where == memory::host ? memory::host : space);
  }
  for (std::size_t g = 0; g < gradients_.size(); ++g) {
    const place& p = gradients_[g];
    const field& f = verb_.fields[std::size_t(verb_.gradients[g])];
    if (p.mode == write::none) continue;
    const auto what = [&] { return named(": gradient of ", f.name); };
    const extent e = gradient_sizes(int(g));
    typed(what, p, type(), type());
    detail::fits(what, p, f.two_sided && p.rows * p.cols == 2 ? extent{1, {2, 1}} : e, true);
    detail::reachable(what, p, space);
  }
}

void call::rehearse() {
  check();
  if (verb_.rehearse == nullptr) return;
  call other = *this;
  const rehearsal memory_of;
  const auto somewhere = [&](index_t rows, index_t stride, dtype type) {
    return memory_of.somewhere(std::size_t(std::max<index_t>(rows, 1) * stride * bytes_of(type)));
  };
  for (matrix& m : other.arrays_) {
    m.type = detail::is_real(m.type) ? type() : m.type;  // as what is computed with
    m.data = somewhere(m.rows, m.stride, m.type), m.where = memory::device;
  }
  for (std::size_t r = 0; r < results_.size(); ++r) {
    const extent e = result_sizes(int(r));
    const index_t rows = e.dimensions == 2 ? e.sizes[0] : 1, cols = e.sizes[e.dimensions == 2 ? 1 : 0];
    other.results_[r] = {somewhere(rows, cols, type()), rows, cols, cols, type(), memory::device, write::overwrite};
  }
  other.type_ = type();
  verb_.rehearse(other);
}

void call::run(const any_device& device) {
  if (!checked_) check();
  for (auto* places : {&results_, &gradients_})
    for (place& p : *places)
      if (p.stride == 0) p.stride = p.cols;
  check_memory(device.space());
  check_results(device.space());
  verb_.run(*this, device);
}

}  // namespace craft::runtime
