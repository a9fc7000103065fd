// What verbs begin with: rooms for rows and gradients, and the caller's numbers, labels and weights as steps can read them.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "craft/engine/contract.hpp"

namespace craft::engine {

template <class T, class Engine>
rows<T> take_rows(Engine& e, index_t n, index_t d) {
  T* data = e.template take<T>(n * d);
  return {data, n, d, e.template take<T>(n)};
}
/// In one piece, cleared at once.
template <class T, class Engine>
pull<T> take_pull(Engine& e, index_t n, index_t d, bool wanted = true) {
  const index_t ahead = wanted ? (n * d * index_t(sizeof(T)) + 63) / 64 * 8 : 0;
  double* self = e.template zeros<double>(ahead + n) + ahead;
  return {wanted ? reinterpret_cast<T*>(self - ahead) : nullptr, self};
}

template <class T, class Engine>
void fill(Engine& e, T* x, index_t n, T value) {
  e.each(n, fill_step<T>{x, value});
}

/// to_i = from_i
template <class T, class F>
struct convert_step {
  const F* from;
  index_t stride;
  T* to;
  CRAFT_HOST_DEVICE void operator()(index_t i) const { to[i] = T(from[i * stride]); }
};
template <class T, class Engine>
void copy(Engine& e, const T* from, index_t n, T* to) {
  e.each(n, convert_step<T, T>{from, 1, to});
}

/// Whether the host can look at the number now, to check it.
inline bool known(const scalar& s) { return s.readable_in(memory::host); }
inline number read(const scalar& s) { return known(s) ? number(s.value()) : number(1, s.pointer(), s.is_double()); }
inline number number_at(const double* p) { return {1, p, true}; }

/// n zeros for the host, in scratch memory where that is the host's.
template <class T>
class host_zeros {
 public:
  template <class Engine>
  host_zeros(Engine& e, index_t n) {
    if constexpr (std::decay_t<decltype(e.context())>::space == memory::host) {
      data_ = e.template zeros<T>(n);
    } else {
      own_.resize(std::size_t(n));
      data_ = own_.data();
    }
  }
  T& operator[](index_t i) { return data_[i]; }
  T* begin() { return data_; }

 private:
  T* data_;
  std::vector<T> own_;
};

/// The caller's labels as index_t, or weights as double, in the engine's memory.
template <class T, class Engine, class List>
T* converted(Engine& e, const List& given) {
  using wide = typename List::wide_type;
  using narrow = typename List::narrow_type;
  const index_t n = given.size();
  T* to = e.template take<T>(n);
  if (given.where() != std::decay_t<decltype(e.context())>::space) {
    std::vector<T> host(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) host[std::size_t(i)] = T(given[i]);
    e.from_host(host.data(), n, to);
  } else if (given.wide()) {
    e.each(n, convert_step<T, wide>{static_cast<const wide*>(given.data()), given.stride(), to});
  } else {
    e.each(n, convert_step<T, narrow>{static_cast<const narrow*>(given.data()), given.stride(), to});
  }
  return to;
}
/// The same as the host can look at them; none if that would mean to wait for a device, unless its context asks for it, or
/// `always`.
template <class Engine, class List>
List seen(Engine& e, const List& given, bool always = false) {
  using T = typename List::wide_type;
  if (given.empty() || given.where() == memory::host) return given;
  if constexpr (std::decay_t<decltype(e.context())>::space == memory::device) {
    const bool rehearses = e.context().rehearses();
    if (!always && !e.context().check_labels()) return {};
    require<option_error>(!always || !rehearses,
                          "cuda: how much scratch memory this needs depends on labels that the host cannot read");
    const T* copy = e.on_host(converted<T>(e, given), given.size());
    if (!rehearses) return {copy, given.size()};
  }
  return {};
}

}  // namespace craft::engine
