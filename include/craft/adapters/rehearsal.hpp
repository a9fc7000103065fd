// A device that computes nothing: on it a verb makes all checks that need no numbers, for hosts that trace and know sizes only.
// Addresses are none that anybody looks at.
#pragma once

#include <cstdint>
#include <vector>

#include "craft/engine/element.hpp"

namespace craft::engine {

class rehearsing_engine;

/// Its context. Nothing that the host cannot read is looked at, as on a GPU.
class rehearsal {
 public:
  static constexpr memory space = memory::device;
  using engine = rehearsing_engine;
  bool check_finite() const { return false; }
  bool check_labels() const { return false; }
  bool rehearses() const { return true; }
  workspace& scratch() const { return scratch_; }
  /// So many bytes where nothing else is.
  void* somewhere(std::size_t bytes) const {
    const std::uintptr_t here = next_;
    next_ += (bytes + 64) / 64 * 64;
    return reinterpret_cast<void*>(here);
  }

 private:
  mutable workspace scratch_;
  mutable std::uintptr_t next_ = std::uintptr_t(1) << 20;
};

class rehearsing_engine {
 public:
  explicit rehearsing_engine(const rehearsal& ctx) : ctx_(ctx) {}
  const rehearsal& context() const { return ctx_; }
  template <class T>
  T* take(index_t n) const {
    return static_cast<T*>(ctx_.somewhere(std::size_t(n) * sizeof(T)));
  }
  template <class T>
  T* zeros(index_t n) const {
    return take<T>(n);
  }
  template <class T>
  T* on_host(T*, index_t n) {
    host_.emplace_back((std::size_t(n) * sizeof(T) + sizeof(double) - 1) / sizeof(double));
    return reinterpret_cast<T*>(host_.back().data());
  }
  template <class T>
  void from_host(const T*, index_t, T*) const {}
  template <class Step>
  void each(index_t, const Step&) const {}
  template <class Step>
  void each_row(index_t, index_t, const Step&) const {}
  template <class Step>
  void each_group(const index_t*, index_t, index_t, index_t, const Step&) const {}
  template <class Fold>
  void fold(index_t, const Fold&) const {}
  template <class Fold>
  void fold_rows(index_t, index_t, const Fold&) const {}
  template <class Fold>
  void fold_columns(index_t, index_t, const Fold&) const {}
  template <class T>
  void square_norms(const rows<T>&) const {}
  template <class T, class Element>
  void square(const square_sweep<T>&, const Element&) const {}
  template <class T, class Element>
  void rectangle(const rectangle_sweep<T>&, const Element&) const {}
  template <class T>
  T* log_sum_exp(const rows<T>&, const rows<T>&, const softmax<T>&, const softmax<T>&, bool, bool) const {
    return nullptr;
  }
  static constexpr bool products_depend_on_place = false;
  template <class T>
  void nearest(const rows<T>&, const rows<T>&, index_t*, T*) const {}
  template <class T>
  void distance_of_rank(const rows<T>&, index_t, ranked_distance*) const {}

 private:
  const rehearsal& ctx_;
  std::vector<std::vector<double>> host_;
};

}  // namespace craft::engine
