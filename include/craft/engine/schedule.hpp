// Which tiles are visited when. A round is a set of tiles no two of which share a block of rows, so threads work on it
// without locks; rounds follow each other in a fixed order, so every sum is added in the same order for any
// number of threads.
//
// Blocks stand in groups, and pairs of groups take turns first: while two groups meet, their rows and gradients stay in a
// nearer cache. The tiles of two groups are rounds of their own (steps).
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "craft/view.hpp"

namespace craft::engine {

/// n rows cut into blocks of nearly equal size, at most `tile` rows each (a multiple of 16 where there are several, so that
/// whole registers are used).
class blocks {
 public:
  blocks(index_t n, index_t tile) : n_(n) {
    const index_t wanted = (n + tile - 1) / tile;
    size_ = wanted <= 1 ? std::max<index_t>(n, 1) : (n + wanted - 1) / wanted;
    if (wanted > 1 && tile % 16 == 0) size_ = (size_ + 15) / 16 * 16;
    count_ = (n + size_ - 1) / size_;
  }
  index_t count() const { return count_; }
  index_t size() const { return size_; }
  index_t begin(index_t k) const { return k * size_; }
  index_t length(index_t k) const { return (std::min)(size_, n_ - k * size_); }

 private:
  index_t n_, size_, count_;
};

/// Two blocks that meet; not real: one of them sits out.
struct block_pair {
  index_t first, second;
  bool real;
};

/// All pairs I <= J of `count` things: first the diagonal, then the rounds of a round-robin tournament.
class tournament {
 public:
  explicit tournament(index_t count) : count_(count), even_(count + count % 2) {}
  index_t rounds() const { return count_ < 2 ? count_ : even_; }
  index_t pairs(index_t round) const { return round == 0 ? count_ : even_ / 2; }
  block_pair at(index_t round, index_t k) const {
    if (round >= rounds() || k >= pairs(round)) return {0, 0, false};
    if (round == 0) return {k, k, true};
    const index_t circle = even_ - 1, r = round - 1;
    index_t p = k == 0 ? circle : (r + k) % circle;
    index_t q = k == 0 ? r : (r - k + circle) % circle;
    if (p > q) std::swap(p, q);
    return {p, q, q < count_};
  }

 private:
  index_t count_, even_;
};

/// All pairs of `rows` x `cols` things: in round r, thing k of the shorter side meets thing k + r of the longer one.
class rotation {
 public:
  rotation(index_t rows, index_t cols) : rows_(rows), cols_(cols) {}
  index_t rounds() const { return (std::max)(rows_, cols_); }
  index_t pairs(index_t) const { return (std::min)(rows_, cols_); }
  block_pair at(index_t round, index_t k) const {
    if (round >= rounds() || k >= pairs(round)) return {0, 0, false};
    const index_t other = (k + round) % rounds();
    return rows_ <= cols_ ? block_pair{k, other, true} : block_pair{other, k, true};
  }

 private:
  index_t rows_, cols_;
};

/// Blocks in groups: `Outer` (tournament or rotation) is the plan of the groups; within a pair of groups, step r and place q
/// are a rotation, or a tournament where a group meets itself.
template <class Outer>
class grouped {
 public:
  grouped(const Outer& outer, index_t rows, index_t cols, index_t group)
      : outer_(outer), rows_(rows), cols_(cols), group_(group) {}
  static index_t groups(index_t blocks, index_t group) { return (blocks + group - 1) / group; }

  index_t rounds() const { return outer_.rounds(); }
  index_t pairs(index_t round) const { return outer_.pairs(round); }
  index_t steps() const { return group_ + group_ % 2; }
  index_t places() const { return group_; }
  block_pair at(index_t round, index_t k, index_t step, index_t place) const {
    const block_pair g = outer_.at(round, k);
    if (!g.real) return g;
    const index_t i = g.first * group_, j = g.second * group_;
    const index_t ni = (std::min)(group_, rows_ - i), nj = (std::min)(group_, cols_ - j);
    const bool itself = std::is_same_v<Outer, tournament> && g.first == g.second;
    const block_pair p = itself ? tournament(ni).at(step, place) : rotation(ni, nj).at(step, place);
    return {i + p.first, j + p.second, p.real};
  }

 private:
  Outer outer_;
  index_t rows_, cols_, group_;
};

}  // namespace craft::engine
