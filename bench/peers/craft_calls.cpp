// craft for callers who have pointers: what workers.py loads. Built twice, with real = float for the comparison and
// real = double for the numbers that everybody is compared with.
//
// Every function returns 0, or 1 with the reason in craft_calls_error(): exceptions must not leave a C interface.
#include <craft/craft.hpp>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

namespace {

using real = CRAFT_CALLS_REAL;

std::string error;

template <class Call>
int guarded(const Call& call) {
  try {
    call();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

}  // namespace

extern "C" {

const char* craft_calls_error() { return error.c_str(); }

/// What this was built with.
const char* craft_calls_build() {
  static const std::string text = std::string(CRAFT_CALLS_COMPILER) + ", Eigen " +
                                  std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) +
                                  "." + std::to_string(EIGEN_MINOR_VERSION) +
#ifdef _OPENMP
                                  ", OpenMP";
#else
                                  ", without OpenMP";
#endif
  return text.c_str();
}

/// One context serves all calls of a process, as in a trainer; null if it cannot be made.
craft::cpu* craft_calls_open(int threads) {
  craft::cpu* ctx = nullptr;
  guarded([&] { ctx = new craft::cpu(threads); });
  return ctx;
}

/// Biased MMD^2 times `factor` of x (n x d) against y (m x d) by a sum of `count` Gaussians, with both gradients.
int craft_calls_mmd(craft::cpu* ctx, const real* x, std::int64_t n, const real* y, std::int64_t m, std::int64_t d,
                    const double* sigmas, std::int64_t count, double factor, real* value, real* dx, real* dy) {
  return guarded([&] {
    craft::mmd_options options;
    options.factor = factor;
    const craft::mmd_gradients<real> gradients{craft::overwrite(craft::view(dx, n, d)),
                                               craft::overwrite(craft::view(dy, m, d))};
    const auto xv = craft::view(x, n, d), yv = craft::view(y, m, d);
    if (count == 1) {
      craft::mmd(*ctx, xv, yv, craft::gaussian(sigmas[0]), options, *value, gradients);
    } else {
      // In double although the sample is float: the series of bandwidths is recognised by their exact ratio.
      const craft::gaussians<> kernel(std::vector<double>(sigmas, sigmas + count));
      craft::mmd(*ctx, xv, yv, kernel, options, *value, gradients);
    }
  });
}

/// Symmetric InfoNCE of x and y (n x d), with gradients to both and to the logarithm of the scale.
int craft_calls_info_nce(craft::cpu* ctx, const real* x, const real* y, std::int64_t n, std::int64_t d,
                         double log_scale, real* value, real* dx, real* dy, real* dlog_scale) {
  return guarded([&] {
    craft::contrastive_options options;
    options.log_scale = log_scale;
    const craft::alignment_gradients<real> gradients{craft::overwrite(craft::view(dx, n, d)),
                                                     craft::overwrite(craft::view(dy, n, d)),
                                                     craft::overwrite(*dlog_scale)};
    craft::info_nce(*ctx, craft::view(x, n, d), craft::view(y, n, d), options, *value, gradients);
  });
}

/// Lloyd's k-means of x (n x d) from k of its rows; never more than `iterations` rounds.
int craft_calls_kmeans(craft::cpu* ctx, const real* x, std::int64_t n, std::int64_t d, const std::int64_t* start,
                       std::int64_t k, std::int64_t iterations, real* centres, std::int64_t* assignment,
                       double* inertia, std::int64_t* iterations_done) {
  return guarded([&] {
    craft::kmeans_options options;
    options.start.assign(start, start + k);
    options.max_iterations = iterations;
    const auto result = craft::kmeans(*ctx, craft::view(x, n, d), options, craft::view(centres, k, d));
    std::copy(result.assignment.begin(), result.assignment.end(), assignment);
    *inertia = result.inertia;
    *iterations_done = result.iterations;
  });
}

/// `count` rows of x (n x d), the first of them `start`, then always the one farthest from those chosen.
int craft_calls_farthest(craft::cpu* ctx, const real* x, std::int64_t n, std::int64_t d, std::int64_t count,
                         std::int64_t start, std::int64_t* chosen) {
  return guarded([&] {
    const auto rows = craft::farthest_point_anchors(*ctx, craft::view(x, n, d), count, start);
    std::copy(rows.begin(), rows.end(), chosen);
  });
}

}  // extern "C"
