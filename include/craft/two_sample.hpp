// Whether two samples come from one distribution: the kernel two-sample test, MMD^2 with a permutation p-value.
//
// Sources: A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012), eq. 3, for the statistic; B. Phipson and
// G. Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9 (2010), for the p-value.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "craft/bandwidth.hpp"
#include "craft/kernels.hpp"
#include "craft/steps/random.hpp"
#include "craft/steps/sample_weights.hpp"

namespace craft {

/// How two_sample_test is computed.
struct two_sample_options {
  /// Over the pooled sample: a scale that knows which rows are x's would favour the labels as they are.
  craft::bandwidth bandwidth{};
  index_t permutations = 1000;  ///< B: the p-value is a multiple of 1 / (1 + B)
  std::uint64_t seed = 0;       ///< the first B permutations of a seed are the same whatever comes after them
  std::function<void(index_t done, index_t all)> progress{};  ///< called after each of the sweep's parts
};

/// What two_sample_test finds.
struct two_sample_result {
  double statistic = 0;          ///< unbiased MMD^2, as mmd gives it; may be negative
  double p_value = 1;            ///< (1 + number of permutations with a statistic at least as large) / (1 + B)
  std::vector<double> permuted;  ///< the statistic of each permutation: what is to be expected of one distribution
};

namespace engine {

/// Labels w_i = 1 - offset for the rows that count as x's, -offset for the others. Vector 0 is all ones, 1 has the labels as
/// they are, from 2 on they are permuted. In blocks of `side` rows of the sample: `count` vectors, one after another.
///
/// n of N rows in one pass: C. Fan, M. Muller and I. Rezucha, J. Am. Stat. Assoc. 57 (1962). The random bits are the same on
/// every device.
template <class T>
struct label_step {
  std::uint64_t seed;
  index_t n, total, side, count;
  T offset;
  T* labels;

  CRAFT_HOST_DEVICE void operator()(index_t b) const {
    constexpr std::uint64_t step = 0x9e3779b97f4a7c15u;
    std::uint64_t state = mixed_bits(seed + step) + mixed_bits(std::uint64_t(b) * step);
    index_t wanted = n;
    for (index_t begin = 0; begin < total; begin += side) {
      const index_t length = total - begin < side ? total - begin : side;
      T* to = labels + begin * count + b * length;
      for (index_t i = begin; i < begin + length; ++i) {
        bool chosen = i < n;
        if (b > 1) {  // each row with probability (still wanted) / (still left)
          state += step;
          chosen = double(mixed_bits(state) >> 11) * 0x1.0p-53 * double(total - i) < double(wanted);
          if (chosen) --wanted;
        }
        to[i - begin] = b == 0 ? T(1) : chosen ? T(1) - offset : -offset;
      }
    }
  }
};

/// A block of n rows' share of w' K w and of w' K 1, for each w, from labels and products K w, both with n numbers for
/// each w; vector 0 is all ones.
template <class T>
struct label_sums_step {
  const T *labels, *products;
  index_t n;
  double* sums;
  CRAFT_HOST_DEVICE void operator()(index_t b) const {
    double form = 0, linear = 0;
    for (index_t i = 0; i < n; ++i) {
      const double w = double(labels[b * n + i]), kw = double(products[b * n + i]);
      form += w * kw;
      linear += (kw + w * double(products[i])) / 2;
    }
    sums[2 * b] += form;
    sums[2 * b + 1] += linear;
  }
};

}  // namespace engine

/// Tests whether x (n x d) and y (m x d) come from one distribution: the unbiased MMD^2, and how often rows dealt at
/// random into n and m give one at least as large. If all rows are independent draws from one distribution,
/// p_value <= a with probability at most a, whatever n, m, kernel and number of permutations are.
///
/// Arguments as for mmd. All permutations at once: each tile of kernel values is multiplied with the labels of all of
/// them. With N = n + m and B permutations: N^2 (d + B) / 2 multiply-adds, memory for N (d + B + 2) numbers and tiles of
/// 64 N + 16 B sqrt(N). The numbers come to the host, so on a GPU this waits. A statistic that is below the observed one
/// by less than rounding may cost (16 eps mean |k| / sqrt(N)), or is not a number, counts as at least as large.
///
/// Throws shape_error (fewer than 2 rows, columns differ), option_error (no permutation, bandwidth_sample::x),
/// data_error (NaN or infinity in x or y, whether or not the context looks for them).
template <class Context, class X, class Y, class Kernel>
two_sample_result two_sample_test(const Context& ctx, const X& x, const Y& y, const Kernel& kernel,
                                  const two_sample_options& options = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  static_assert(is_pair_function<Kernel>::value,
                "craft: two_sample_test wants a pair function (see craft/kernels.hpp)");
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols(), total = n + m;
  typename Context::engine e(ctx);
  engine::checks check("two_sample_test");
  check.same_columns("x", xv, "y", yv);
  check.finite_input("x", xv, e);
  check.finite_input("y", yv, e);
  require<shape_error>(n >= 2 && m >= 2, "two_sample_test: needs at least 2 rows of each, got ", detail::shape(n, d),
                       " and ", detail::shape(m, d));
  check_kernel<T>(kernel);
  require<option_error>(options.permutations >= 1, "two_sample_test: expected at least 1 permutation, got ",
                        options.permutations);
  require<option_error>(options.bandwidth.sample == bandwidth_sample::pooled,
                        "two_sample_test: the bandwidth must be that of the pooled sample");

  // The stacked sample, as in mmd.
  engine::rows<T> z = engine::take_rows<T>(e, total, d);
  load(e, xv, z.data);
  load(e, yv, z.data + n * d);
  double* shift = e.template zeros<double>(d);
  if (Kernel::translation_invariant) centre(e, z.data, total, d, shift);
  e.square_norms(z);
  const engine::scaled_by_bandwidth<typename Context::engine, T> scale(e, check, z, total, options.bandwidth.rule,
                                                                        engine::is_linear<Kernel>::value,
                                                                        engine::small_squares_of<Kernel>());

  // Labels that nearly add up to 0 keep sums and their rounding small; an offset of few digits makes them exact.
  const double offset = std::round(4096 * double(n) / double(total)) / 4096;
  const index_t side = 8 * index_t(std::ceil(std::sqrt(double(total)))), count = options.permutations + 2;
  T* labels = e.template take<T>(count * total);
  e.each(count, engine::label_step<T>{options.seed, n, total, side, count, T(offset), labels});
  T *tile = e.template take<T>(side * side), *product = e.template take<T>(count * side),
    *products = e.template take<T>(count * side), *unused = e.template zeros<T>((std::max)(side, count));
  double* sums = e.template zeros<double>(2 * count);
  const auto k = kernel.template as<T>();
  const auto dots = dot_product<>().template as<T>();
  using block = engine::rows<T>;
  using place = matrix_view<T, Context::space>;
  const engine::number one(1);
  const index_t blocks = (total + side - 1) / side, parts = blocks * (blocks + 1) / 2;
  for (index_t i = 0, done = 0; i < total; i += side) {
    // products = (K_ii + 2 sum_(j > i) K_ij) w_j for all w: a tile off the diagonal stands for its mirror image too.
    const index_t height = (std::min)(side, total - i);
    for (index_t j = i; j < total; j += side) {
      const index_t width = (std::min)(side, total - j);
      const block rows{z.data + i * d, height, d, z.squared + i}, cols{z.data + j * d, width, d, z.squared + j};
      engine::map(e, rows, cols, k, one, place(tile, height, width));
      if (i == j) e.each(height, engine::clear_diagonal_step<T>{tile, width});
      engine::map(e, block{labels + j * count, count, width, unused}, block{tile, height, width, unused}, dots, one,
            place(i == j ? products : product, count, height));
      if (i != j)
        store(e, product, output<T, Context::space>{place(products, count, height), write::accumulate}, 2.0);
      if (options.progress) options.progress(++done, parts);
    }
    e.each(count, engine::label_sums_step<T>{labels + i * count, products, height, sums});
  }

  // With l = w + offset the x's are counted by l, the y's by 1 - l.
  const double* sum = e.on_host(sums, 2 * count);
  const double all = sum[0], other = 1 - offset;
  const auto statistic = [&](index_t b) {
    const double form = sum[2 * b], linear = sum[2 * b + 1];
    const double xx = form + 2 * offset * linear + offset * offset * all;
    const double yy = form - 2 * other * linear + other * other * all;
    const double xy = offset * other * all + (other - offset) * linear - form;
    return xx / (double(n) * double(n - 1)) + yy / (double(m) * double(m - 1)) - 2 * xy / (double(n) * double(m));
  };
  two_sample_result result;
  result.statistic = statistic(1);
  const double rounding = 16 * double(std::numeric_limits<T>::epsilon()) * std::abs(all) / std::pow(double(total), 2.5);
  index_t as_large = 0;
  for (index_t b = 2; b < count; ++b) {
    result.permuted.push_back(statistic(b));
    if (!(result.permuted.back() < result.statistic - rounding)) ++as_large;
  }
  result.p_value = double(1 + as_large) / double(1 + options.permutations);
  return result;
}

namespace verbs {

/// two_sample_test, to hosts (describe.hpp).
struct two_sample_test {
  static constexpr const char* name = "two_sample_test";  ///< what hosts call it
  static constexpr const char* module = "";               ///< none
  /// What it computes.
  static constexpr const char* text =
      "Kernel two-sample test: unbiased MMD^2, with a p-value by permutations of the pooled rows.\n"
      "\n"
      "If all rows are independent draws from one distribution, p_value <= a with probability at most a. Cost, with N = n + m and B\n"
      "permutations: N^2 (d + B) / 2 multiply-adds. NaN and infinity are an error. A. Gretton et al., JMLR 13 (2012).";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "a sample, one of its members per row");
    const auto y = c.matrix("y", "m d", "the other sample");
    const auto kernel = c.kernel("kernel", "gaussian", "as in mmd");
    two_sample_options o;
    o.bandwidth.fields(c);
    c("permutations", o.permutations, "B");
    c("seed", o.seed, "the first B permutations of a seed are the same whatever comes after them");
    two_sample_result r;
    c.run([&](const auto& ctx, const auto& k) { r = craft::two_sample_test(ctx, x, y, k, o); }, kernel);
    c.found("statistic", r.statistic, "unbiased MMD^2; may be negative");
    c.found("p_value", r.p_value, "(1 + number of permutations with a statistic at least as large) / (1 + B)");
    c.found("permuted", "permutations", r.permuted, "the statistic of each permutation");
  }
};

}  // namespace verbs

}  // namespace craft
