// One tile of a sweep: what a sweep hands to an epilogue (tiles.hpp), and what it has to know of one.
#pragma once

#include "craft/engine/function_ref.hpp"
#include "craft/view.hpp"

namespace craft::engine {

/// Dot products of rows [i0, i0 + ni) with columns [j0, j0 + nj), and where to add what comes of them.
template <class T>
struct tile {
  index_t i0, ni, j0, nj;
  bool diagonal;     ///< the two blocks are the same rows
  bool careful;      ///< the epilogue wanted the dot products again, for a second look at near rows
  T* s;              ///< ni x nj, overwritten by the weights if the epilogue returns true
  index_t stride;
  T* row_sums;       ///< ni numbers of this tile, 0 at first
  T* col_sums;       ///< nj numbers of this tile, 0 at first
  index_t* near;     ///< room for nj indices
  T *row_gradient, *col_gradient;  ///< of the first row and column, d numbers each; null: not wanted
  double* totals;
  index_t slot;      ///< which of the concurrent workers this is
  T* row(index_t i) const { return s + i * stride; }
};

/// What an epilogue has left: nothing to pull back; weights in the place of the dot products; or no result yet, because it wants the
/// dot products again, with `careful` set.
enum class tile_state { done, weights, again };

/// What a sweep does with each tile, and what it has to know of that: a sweep is compiled once for all epilogues.
template <class T>
struct tile_epilogue {
  function_ref<tile_state(tile<T>&, T*)> call;  ///< a tile, and room for one number per column
  bool columns_depend,                    ///< whether tiles that share columns must not run at once, even without gradients
      by_norms;                           ///< whether it fills the sums of rows and columns
  template <class Epilogue>
  tile_epilogue(const Epilogue& e)  // NOLINT: this is what an epilogue is to a sweep
      : call(e), columns_depend(e.columns_depend), by_norms(Epilogue::by_norms) {}
};

}  // namespace craft::engine
