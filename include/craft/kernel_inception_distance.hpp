// Kernel inception distance (KID): how far two samples are apart, as the mean of the unbiased MMD^2 over random subsets of both,
// with the kernel (x . y / d + 1)^3.
//
// Source: M. Binkowski, D. Sutherland, M. Arbel and A. Gretton, "Demystifying MMD GANs", ICLR 2018. Which subsets, and that the
// deviation is that of the subsets' values divided by their number, is as in TorchMetrics.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "craft/anchors.hpp"
#include "craft/mmd.hpp"

namespace craft {

/// How kernel_inception_distance is computed.
struct kernel_inception_distance_options {
  index_t subsets = 100;       ///< how many pairs of subsets are drawn
  index_t subset_size = 1000;  ///< rows of each, all different
  index_t degree = 3;          ///< of the polynomial kernel
  double length = 0;           ///< the kernel's; 0: sqrt(d), so that the dot product is divided by d
  double offset = 1;           ///< the kernel's
  std::uint64_t seed = 0;      ///< the first subsets of a seed are the same whatever their number

  /// All of it, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("subsets", subsets, "how many pairs of subsets are drawn");
    c("subset_size", subset_size, "rows of each, all different");
    c("degree", degree, "of the kernel (x . y / length^2 + offset)^degree");
    c("length", length, "of the kernel; 0: sqrt(d), so that the dot product is divided by d");
    c("offset", offset, "of the kernel");
    c("seed", seed, "the first subsets of a seed are the same whatever their number");
  }
};

/// What kernel_inception_distance finds.
struct kernel_inception_distance_result {
  double mean = 0;             ///< of the subsets' values: the distance
  double deviation = 0;        ///< sqrt(mean (v - mean)^2) of the subsets' values v
  std::vector<double> values;  ///< unbiased MMD^2 of each pair of subsets; may be negative
};

/// KID of x (n x d) and y (m x d), features of two sets of images or whatever else has features, one per row.
///
/// Cost: that of `subsets` calls of mmd on subset_size rows each, without gradients. The numbers come to the host, so on a GPU this
/// waits. All rows at once, with gradients: mmd by presets::kid.
///
/// Throws shape_error (columns differ, fewer rows than subset_size), option_error (no subset, fewer than 2 rows of it, kernel),
/// data_error (NaN or infinity in x or y, whether or not the context looks for them).
template <class Context, class X, class Y>
kernel_inception_distance_result kernel_inception_distance(const Context& ctx, const X& x, const Y& y,
                                                           const kernel_inception_distance_options& options = {}) {
  using S = storage_of<X>;
  using T = compute_of<X>;
  engine::check_types<Context, X, Y>();
  const matrix_view<const S, Context::space> xv = view(x), yv = view(y);
  const index_t n = xv.rows(), m = yv.rows(), d = xv.cols(), size = options.subset_size, count = options.subsets;
  typename Context::engine e(ctx);
  engine::checks check("kernel_inception_distance");
  check.same_columns("x", xv, "y", yv);
  check.finite_input("x", xv, e);
  check.finite_input("y", yv, e);
  require<option_error>(count >= 1, "kernel_inception_distance: expected at least 1 subset, got ", count);
  require<option_error>(size >= 2, "kernel_inception_distance: subsets need at least 2 rows, got ", size);
  require<shape_error>(size <= n && size <= m, "kernel_inception_distance: subsets of ", size, " rows cannot be drawn from ",
                       detail::shape(n, d), " and ", detail::shape(m, d), ": give a smaller subset_size");
  const polynomial<double> kernel(options.length == 0 ? std::sqrt(double(d)) : options.length, options.offset,
                                  int(std::min<index_t>(options.degree, polynomial<double>::highest_degree + 1)));
  check_kernel<T>(kernel);

  mmd_options unbiased;
  unbiased.estimator = estimator::unbiased;
  matrix_view<S, Context::space> of_x(e.template take<S>(size * d), size, d), of_y(e.template take<S>(size * d), size, d);
  T* values = e.template take<T>(count);
  for (index_t q = 0; q < count; ++q) {
    gather(ctx, xv, random_anchors(n, size, options.seed, std::uint64_t(2 * q)), of_x);
    gather(ctx, yv, random_anchors(m, size, options.seed, std::uint64_t(2 * q + 1)), of_y);
    mmd(ctx, of_x, of_y, kernel, unbiased, scalar_out<T, Context::space>(values + q));
  }
  const T* on_host = e.on_host(values, count);
  kernel_inception_distance_result r;
  r.values.assign(on_host, on_host + count);
  double squares = 0;
  for (const double v : r.values) r.mean += v / double(count);
  for (const double v : r.values) squares += (v - r.mean) * (v - r.mean);
  r.deviation = std::sqrt(squares / double(count));
  return r;
}

namespace verbs {

/// kernel_inception_distance, to hosts (describe.hpp).
struct kernel_inception_distance {
  static constexpr const char* name = "kernel_inception_distance";  ///< what hosts call it
  static constexpr const char* module = "";                         ///< none
  /// What it computes.
  static constexpr const char* text =
      "Kernel inception distance: mean and deviation of unbiased MMD^2 over random subsets, with (x . y / d + 1)^3.\n"
      "\n"
      "Of all rows at once, with gradients: mmd_preset with \"kid\". NaN and infinity are an error. Cost: `subsets` times that of mmd\n"
      "on subset_size rows. M. Binkowski et al., ICLR 2018.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    const auto x = c.matrix("x", "n d", "features of one set, one of its members per row");
    const auto y = c.matrix("y", "m d", "features of the other");
    kernel_inception_distance_options o;
    o.fields(c);
    kernel_inception_distance_result r;
    c.run([&](const auto& ctx) { r = craft::kernel_inception_distance(ctx, x, y, o); });
    c.found("mean", r.mean, "of the subsets' values: the distance");
    c.found("deviation", r.deviation, "sqrt(mean (v - mean)^2) of the subsets' values v");
    c.found("values", "subsets", r.values, "unbiased MMD^2 of each pair of subsets; may be negative");
  }
};

}  // namespace verbs

}  // namespace craft
