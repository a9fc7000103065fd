// Which tiles are visited when. A round is a set of tiles no two of which share a block of rows, so threads work on it
// without locks; rounds follow each other in a fixed order, so every sum is added in the same order for any
// number of threads.
#pragma once

#include <algorithm>

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
  index_t length(index_t k) const { return std::min(size_, n_ - k * size_); }

 private:
  index_t n_, size_, count_;
};

/// All pairs I <= J of `count` blocks: first the diagonal, then the rounds of a round-robin tournament.
class tournament {
 public:
  explicit tournament(index_t count) : count_(count), even_(count + count % 2) {}
  index_t rounds() const { return count_ < 2 ? count_ : even_; }
  index_t pairs(index_t round) const { return round == 0 ? count_ : even_ / 2; }
  struct pair {
    index_t first, second;
    bool real;  ///< false for the one that sits out when the number of blocks is odd
  };
  pair at(index_t round, index_t k) const {
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

/// All pairs of `rows` x `cols` blocks: in round r, block k of the shorter side meets block k + r of the longer one.
class rotation {
 public:
  rotation(index_t rows, index_t cols) : rows_(rows), cols_(cols) {}
  index_t rounds() const { return std::max(rows_, cols_); }
  index_t pairs(index_t) const { return std::min(rows_, cols_); }
  tournament::pair at(index_t round, index_t k) const {
    const index_t other = (k + round) % rounds();
    return rows_ <= cols_ ? tournament::pair{k, other, true} : tournament::pair{other, k, true};
  }

 private:
  index_t rows_, cols_;
};

}  // namespace craft::engine
