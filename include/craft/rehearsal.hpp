// A device that computes nothing: on it a verb makes all checks that need no numbers, for hosts that trace and know sizes only.
// Addresses are none that anybody looks at.
#pragma once

#include <cstdint>
#include <vector>

#include "craft/engine/element.hpp"

namespace craft {

namespace engine {
class rehearsing_engine;
}

/// The context. Views are of device memory, at any addresses that do not overlap; as on a GPU, nothing that the host cannot read is
/// looked at. A verb called on it throws what it would throw for these sizes and options, and writes nothing.
class rehearsal {
 public:
  static constexpr memory space = memory::device;      ///< where inputs and outputs are said to lie
  using engine = craft::engine::rehearsing_engine;     ///< what the verbs run on
  bool check_finite() const { return false; }          ///< there are no numbers
  bool check_labels() const { return false; }          ///< nor labels
  bool rehearses() const { return true; }              ///< what verbs ask that would look anyway
  workspace& scratch() const { return scratch_; }      ///< of which nothing is taken
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

namespace engine {

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

}  // namespace engine

}  // namespace craft
