// The nearest row of another sample, and distances by rank, on the CPU.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "craft/engine/sweep.hpp"

namespace craft::engine {

/// Nearest column of every row by a_i + b_j - 2 s, or of a near pair by the difference of the rows (lowest index on ties):
/// running minimum in `distance`.
template <class T>
struct nearest_tile {
  static constexpr bool columns_depend = false, reads = true;
  static constexpr T of_sums = T(0);
  rows<T> x, y;
  T* distance;
  index_t* index;

  tile_state operator()(tile<T>& t) const {
    const near_pairs<T> near(x.d);
    const T *b = y.squared + t.j0, far = far_enough(near, x.squared + t.i0, t.ni, b, t.nj);
    for (index_t i = 0; i < t.ni; ++i) {
      T* s = t.row(i);
      const T a = x.squared[t.i0 + i];
      vector_lanes().each<T>(t.nj, [&](auto at) {
        const auto sj = at.load(s);
        at.store(s, decltype(sj + sj)(a) + (at.load(b) - (sj + sj)));
      });
      T lowest = least_of(s, t.nj);
      if (lowest < far) {
        for (index_t j = 0; j < t.nj; ++j)
          if (near.at(s[j], a, b[j]) && s[j] < math::limits<T>::infinity)
            s[j] = squared_distance(x.row(t.i0 + i), y.row(t.j0 + j), x.d);
        lowest = least_of(s, t.nj);
      }
      T& best = distance[t.i0 + i];
      index_t& at = index[t.i0 + i];
      if (lowest > best || (lowest == best && t.j0 > at)) continue;
      index_t j = 0;
      while (j + 1 < t.nj && s[j] != lowest) ++j;
      if (lowest < best || t.j0 + j < at) {
        best = lowest;
        at = t.j0 + j;
      }
    }
    return tile_state::done;
  }

 private:
  static T least_of(const T* s, index_t n) {
    pack<T> some(math::limits<T>::infinity);
    index_t j = 0;
    for (; j + pack<T>::width <= n; j += pack<T>::width) some = (some.min)(pack<T>::load(s + j));
    T least = smallest(some);
    for (; j < n; ++j) least = (math::min)(least, s[j]);
    return least;
  }
};

/// What is done with squared distances of row i and rows j to j + n - 1.
template <class T>
using distances_of_row = function_ref<void(index_t slot, const T* distances, index_t n, index_t i, index_t j)>;
/// Hands over those of every pair i < j of one sample.
template <class T>
struct distances_tile {
  static constexpr bool columns_depend = false, reads = true;
  static constexpr T of_sums = T(0);
  rows<T> x;
  distances_of_row<T> f;

  tile_state operator()(tile<T>& t) const {
    const near_pairs<T> near(x.d);
    const T* b = x.squared + t.j0;
    for (index_t i = 0; i < t.ni; ++i) {
      T* const s = t.row(i);
      const T *row = x.row(t.i0 + i), a = x.squared[t.i0 + i];
      const index_t first = t.itself == tile<T>::none ? 0 : i + 1 + t.itself;
      for (index_t j = first; j < t.nj; ++j)
        s[j] = squared_distance(near, pair_scalars<T>{s[j], a, b[j]},
                                [&] { return squared_distance(row, x.row(t.j0 + j), x.d); });
      if (first < t.nj) f(t.slot, s + first, t.nj - first, t.i0 + i, t.j0 + first);
    }
    return tile_state::done;
  }
};

/// The rank-th smallest (from 0) squared distance over pairs i < j of x, and a pair that has it. No distance is stored but
/// a few of those near the answer: passes over the pairs narrow its bits down by histograms. sweep_pairs(f) hands all of them to
/// f, `slots` rows at a time.
template <class T, class Memory>
void select_distance(Memory& memory, index_t slots, const rows<T>& x, index_t rank,
                     function_ref<void(distances_of_row<T>)> sweep_pairs, ranked_distance* out) {
  constexpr int digit = 12;
  constexpr index_t bins = index_t(1) << digit, few = 65536;
  struct found {
    std::uint64_t key;
    index_t i, j;
  };
  int shift = int(sizeof(T)) * 8;     // bits still unknown
  std::uint64_t prefix = 0;           // the known ones
  index_t candidates = x.n * (x.n - 1) / 2;
  const auto known = [&](std::uint64_t key) { return shift >= 64 ? 0 : key >> shift; };
  while (candidates > few && shift > 0) {
    const int width = (std::min)(digit, shift), next = shift - width;
    index_t* counts = memory.template zeros<index_t>(slots * bins);
    const auto count = [&](index_t slot, const T* distances, index_t n, index_t, index_t) {
      for (index_t c = 0; c < n; ++c) {
        const std::uint64_t key = ordered_bits(distances[c]);
        if (known(key) == prefix) ++counts[slot * bins + index_t((key >> next) & ((std::uint64_t(1) << width) - 1))];
      }
    };
    sweep_pairs(distances_of_row<T>(count));
    index_t bin = 0, here = 0;
    for (;; ++bin) {
      here = 0;
      for (index_t s = 0; s < slots; ++s) here += counts[s * bins + bin];
      if (rank < here) break;
      rank -= here;
    }
    prefix = prefix << width | std::uint64_t(bin);
    shift = next;
    candidates = here;
  }
  // Either few are left, or all that are left are equal, and then any of them will do: the first in the sample's order.
  const index_t kept = (std::min)(candidates, few);
  found* list = memory.template take<found>(kept);
  std::atomic<index_t> size{0};
  std::atomic<index_t> lowest{(std::numeric_limits<index_t>::max)()};
  const bool equal = candidates > few;
  const auto keep = [&](index_t, const T* distances, index_t n, index_t i, index_t j) {
    for (index_t c = 0; c < n; ++c) {
      const std::uint64_t key = ordered_bits(distances[c]);
      if (known(key) != prefix) continue;
      if (!equal) {
        list[size++] = {key, i, j + c};
        continue;
      }
      const index_t at = i * x.n + j + c;
      for (index_t seen = lowest; at < seen && !lowest.compare_exchange_weak(seen, at);) {
      }
    }
  };
  sweep_pairs(distances_of_row<T>(keep));
  if (equal) {
    *out = {double(from_ordered_bits<T>(prefix)), lowest / x.n, lowest % x.n};
    return;
  }
  std::nth_element(list, list + rank, list + kept, [](const found& a, const found& b) {
    return a.key != b.key ? a.key < b.key : a.i != b.i ? a.i < b.i : a.j < b.j;
  });
  *out = {double(from_ordered_bits<T>(list[rank].key)), list[rank].i, list[rank].j};
}

}  // namespace craft::engine
