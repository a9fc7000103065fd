// The plans of a sweep: every pair of blocks once, no block twice at a time, and the same order of partners for every block
// whether threads share pairs of groups or the places of a step.
#include "craft/engine/schedule.hpp"

#include <map>
#include <set>
#include <vector>

#include "catch.hpp"

namespace {

using craft::index_t;
using namespace craft::engine;

/// Walks through a plan; `Itself`: rows and columns are the same blocks, and all pairs I <= J are wanted.
template <class Outer>
void check_plan(const grouped<Outer>& plan, index_t rows, index_t cols) {
  constexpr bool itself = std::is_same_v<Outer, tournament>;
  std::map<std::pair<index_t, index_t>, int> met;
  bool inside = true, disjoint_steps = true, disjoint_pairs = true;
  for (index_t round = 0; round < plan.rounds(); ++round) {
    std::vector<std::set<index_t>> row_of(std::size_t(plan.pairs(round))), col_of(row_of.size());
    for (index_t step = 0; step < plan.steps(); ++step) {
      std::set<index_t> row_now, col_now;
      for (index_t k = 0; k < plan.pairs(round); ++k)
        for (index_t q = 0; q < plan.places(); ++q) {
          const block_pair p = plan.at(round, k, step, q);
          if (!p.real) continue;
          inside = inside && p.first >= 0 && p.first < rows && p.second >= 0 && p.second < cols;
          ++met[{p.first, p.second}];
          disjoint_steps = disjoint_steps && row_now.insert(p.first).second;
          auto& cols_now = itself ? row_now : col_now;
          if (!itself || p.first != p.second) disjoint_steps = disjoint_steps && cols_now.insert(p.second).second;
          row_of[std::size_t(k)].insert(p.first);
          (itself ? row_of : col_of)[std::size_t(k)].insert(p.second);
        }
    }
    // Two pairs of groups of one round share nothing at any step.
    for (auto* of : {&row_of, &col_of}) {
      std::set<index_t> all;
      std::size_t sum = 0;
      for (const auto& blocks : *of) all.insert(blocks.begin(), blocks.end()), sum += blocks.size();
      disjoint_pairs = disjoint_pairs && all.size() == sum;
    }
  }
  CHECK(inside);
  CHECK(disjoint_steps);
  CHECK(disjoint_pairs);
  bool once = true;
  for (const auto& pair : met) once = once && pair.second == 1 && (!itself || pair.first.first <= pair.first.second);
  CHECK(once);
  CHECK(index_t(met.size()) == (itself ? rows * (rows + 1) / 2 : rows * cols));
}

}  // namespace

TEST_CASE("a tournament of groups visits every pair of blocks once", "[schedule]") {
  for (index_t blocks = 1; blocks <= 23; ++blocks)
    for (index_t group = 1; group <= 6; ++group) {
      INFO(blocks << " blocks in groups of " << group);
      const tournament groups(grouped<tournament>::groups(blocks, group));
      check_plan(grouped<tournament>(groups, blocks, blocks, group), blocks, blocks);
    }
}

TEST_CASE("a rotation of groups visits every pair of blocks once", "[schedule]") {
  for (const index_t rows : {1, 2, 3, 7, 12})
    for (const index_t cols : {1, 2, 5, 8, 13})
      for (index_t group = 1; group <= 5; ++group) {
        INFO(rows << " x " << cols << " blocks in groups of " << group);
        const rotation groups(grouped<rotation>::groups(rows, group), grouped<rotation>::groups(cols, group));
        check_plan(grouped<rotation>(groups, rows, cols, group), rows, cols);
      }
}

TEST_CASE("blocks cover all rows", "[schedule]") {
  for (index_t n = 0; n <= 200; ++n)
    for (const index_t tile : {1, 7, 16, 64}) {
      const blocks b(n, tile);
      index_t next = 0;
      for (index_t k = 0; k < b.count(); ++k) {
        REQUIRE(b.begin(k) == next);
        REQUIRE(b.length(k) >= 1);
        REQUIRE(b.length(k) <= b.size());
        next += b.length(k);
      }
      REQUIRE(next == n);
      REQUIRE(b.size() <= std::max<index_t>(tile, 1));
    }
}
