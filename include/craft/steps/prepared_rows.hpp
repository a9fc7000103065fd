// Rows and anchors made ready for similarities: statistics of the anchors, then unit rows; the way back of their gradients, and the
// way forward of tangents.
#pragma once

#include <array>

#include "craft/kernels.hpp"
#include "craft/steps/checks.hpp"
#include "craft/steps/columns.hpp"
#include "craft/steps/rows.hpp"
#include "craft/steps/sums.hpp"

namespace craft {

/// Statistics fitted on the anchors and applied to rows and anchors first: none; minus the anchors' mean; and that divided by
/// the anchors' standard deviation per column (C - 1 in the denominator; a constant column is not divided).
enum class anchor_statistics { none, centre, standardise };
constexpr auto names_of(anchor_statistics) { return std::array{"none", "centre", "standardise"}; }  ///< in their order

namespace engine {

/// The two, of one width; there may be no rows but the anchors.
template <class Engine, class T>
class prepared_rows {
 public:
  rows<T> x, y;  ///< y: the anchors, on which the statistics are fitted

  template <class S, memory M>
  prepared_rows(Engine& e, const matrix_view<const S, M>& xv, const matrix_view<const S, M>& yv, bool normalise,
                anchor_statistics statistics, bool distances)
      : e_(e), normalise_(normalise), statistics_(statistics) {
    x = engine::take_rows<T>(e, xv.rows(), xv.cols());
    y = engine::take_rows<T>(e, yv.rows(), yv.cols());
    load(e, xv, x.data);
    load(e, yv, y.data);
    // A common shift changes no distance, but it keeps the digits of float.
    if (statistics != anchor_statistics::none || (distances && !normalise)) {
      double* mean = e.template take<double>(y.d);
      centre(e, y.data, y.n, y.d, mean);
      subtract(e, x.data, x.n, x.d, mean);
      if (statistics == anchor_statistics::standardise) {
        inverse_deviation_ = e.template take<double>(y.d);
        inverse_deviation(e, y.data, y.n, y.d, inverse_deviation_);
        multiply_columns(e, x.data, x.n, x.d, inverse_deviation_);
        multiply_columns(e, y.data, y.n, y.d, inverse_deviation_);
      }
    }
    if (normalise) {
      x_inverse_norm_ = e.template take<T>(x.n);
      y_inverse_norm_ = e.template take<T>(y.n);
      if (distances) {  // unit rows share a mean too, all the more if the rows do
        unit_mean_ = e.template zeros<double>(y.d);
        double* rest = e.template take<double>(y.d);
        T* unit = e.template take<T>(y.n * y.d);
        for (int pass = 0; pass < 2; ++pass) {  // the mean of the rows as rounded, and what that has left of it
          copy(e, y.data, y.n * y.d, unit);
          engine::normalise(e, unit, y.n, y.d, y_inverse_norm_, unit_mean_);
          column_means(e, unit, y.n, y.d, rest);
          add(e, unit_mean_, 1, y.d, rest);
        }
      }
      engine::normalise(e, x.data, x.n, x.d, x_inverse_norm_, unit_mean_);
      engine::normalise(e, y.data, y.n, y.d, y_inverse_norm_, unit_mean_);
    }
  }

  /// What pair functions of type K look at. Throws data_error for rows whose squares T cannot hold, where it matters.
  template <class K>
  void square_norms(const checks& check) {
    e_.square_norms(x);
    e_.square_norms(y);
    if (is_linear<K>::value || normalise_) return;
    check.squarable<T>("x and anchors", beyond_squares(e_, x, y, small_squares_of<K>()), x.d);
  }

  /// gx, gy: gradients by the prepared rows become gradients by the caller's rows; null: that one is not wanted.
  /// `through_statistics` needs both. Uses up the prepared rows.
  void pull_back(T* gx, T* gy, bool through_statistics) {
    if (unit_mean_) {
      add(e_, x.data, x.n, x.d, unit_mean_);
      add(e_, y.data, y.n, y.d, unit_mean_);
    }
    if (normalise_) {
      if (gx) normalise_pullback(e_, gx, x.data, x.n, x.d, x_inverse_norm_);
      if (gy) normalise_pullback(e_, gy, y.data, y.n, y.d, y_inverse_norm_);
    }
    if (statistics_ == anchor_statistics::none) return;
    if (inverse_deviation_) {
      if (through_statistics) {
        if (normalise_) {  // back to the standardised rows
          unnormalise(e_, x.data, x.n, x.d, x_inverse_norm_);
          unnormalise(e_, y.data, y.n, y.d, y_inverse_norm_);
        }
        deviation_pullback(e_, x.data, gx, x.n, y.data, gy, y.n, y.d);
      }
      if (gx) multiply_columns(e_, gx, x.n, x.d, inverse_deviation_);
      if (gy) multiply_columns(e_, gy, y.n, y.d, inverse_deviation_);
    }
    if (through_statistics) mean_pullback(e_, gx, x.n, gy, y.n, y.d);
  }
  /// dx, dy: tangents of the caller's rows become tangents of the prepared rows.
  void push_forward(T* dx, T* dy, bool through_statistics) {
    const workspace::frame inner(e_.context().scratch());
    T *x_unit = e_.template take<T>(x.n * x.d), *y_unit = e_.template take<T>(y.n * y.d);
    copy(e_, x.data, x.n * x.d, x_unit);
    copy(e_, y.data, y.n * y.d, y_unit);
    if (unit_mean_) {
      add(e_, x_unit, x.n, x.d, unit_mean_);
      add(e_, y_unit, y.n, y.d, unit_mean_);
    }
    if (statistics_ != anchor_statistics::none && through_statistics) {
      double* mean = e_.template take<double>(y.d);
      centre(e_, dy, y.n, y.d, mean);
      subtract(e_, dx, x.n, x.d, mean);
    }
    if (inverse_deviation_) {
      multiply_columns(e_, dx, x.n, x.d, inverse_deviation_);
      multiply_columns(e_, dy, y.n, y.d, inverse_deviation_);
      if (through_statistics) {
        if (normalise_) {  // as they were before
          unnormalise(e_, x_unit, x.n, x.d, x_inverse_norm_);
          unnormalise(e_, y_unit, y.n, y.d, y_inverse_norm_);
        }
        deviation_pushforward(e_, x_unit, dx, x.n, y_unit, dy, y.n, y.d);
        if (normalise_) {
          engine::normalise(e_, x_unit, x.n, x.d, x_inverse_norm_);
          engine::normalise(e_, y_unit, y.n, y.d, y_inverse_norm_);
        }
      }
    }
    if (normalise_) {  // whose matrix of derivatives is its own transpose
      normalise_pullback(e_, dx, x_unit, x.n, x.d, x_inverse_norm_);
      normalise_pullback(e_, dy, y_unit, y.n, y.d, y_inverse_norm_);
    }
  }

 private:
  Engine& e_;
  bool normalise_;
  anchor_statistics statistics_;
  T *x_inverse_norm_ = nullptr, *y_inverse_norm_ = nullptr;
  double* inverse_deviation_ = nullptr;
  double* unit_mean_ = nullptr;  ///< what was subtracted from the unit rows
};

}  // namespace engine

}  // namespace craft
