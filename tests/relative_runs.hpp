// What the tests of relative representations share: running the map and its pull-back on a device, and every option.
#pragma once

#include <vector>

#include "catch.hpp"
#include "craft/relative.hpp"
#include "devices.hpp"

namespace craft_test {

struct relative_result {
  reals out, x, anchors;
  double log_scale = not_a_number;
};

/// The map, and the pull-back of W to everything; outputs full of NaN before.
template <class D, class K>
relative_result run_relative(const typename D::context& ctx, const reals& X, const reals& A, const K& similarity,
                             const craft::relative_options& options, const reals& W) {
  const array<D> x(X), a(A), w(W);
  array<D> out(X.rows(), A.rows()), dx(X.rows(), X.cols()), da(A.rows(), A.cols());
  array<D, typename D::compute> dscale(1, 1);
  craft::relative(ctx, x.in(), a.in(), similarity, options, out.out());
  craft::relative_gradients<typename D::scalar, D::space> wanted;
  wanted.x = craft::overwrite(dx.out());
  wanted.anchors = craft::overwrite(da.out());
  wanted.log_scale = craft::overwrite(dscale.out());
  craft::relative_pullback(ctx, x.in(), a.in(), similarity, options, w.in(), wanted);
  return {out.get(), dx.get(), da.get(), dscale.number()};
}

template <class D, class K>
reals run_map(const typename D::context& ctx, const reals& X, const reals& A, const K& similarity,
              const craft::relative_options& options) {
  const array<D> x(X), a(A);
  array<D> out(X.rows(), A.rows());
  craft::relative(ctx, x.in(), a.in(), similarity, options, out.out());
  return out.get();
}

inline const std::vector<craft::anchor_statistics> all_statistics = {
    craft::anchor_statistics::none, craft::anchor_statistics::centre, craft::anchor_statistics::standardise};

/// Every combination that the map knows.
template <class F>
void for_each_option(F&& f) {
  for (const auto statistics : all_statistics)
    for (const bool normalise : {true, false}) {
      craft::relative_options options;
      options.statistics = statistics;
      options.normalise = normalise;
      INFO("statistics " << int(statistics) << (normalise ? ", normalised" : ""));
      f(options);
    }
}

}  // namespace craft_test
