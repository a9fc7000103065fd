// One modality is aligned with another by a linear map, trained with symmetric InfoNCE: NLopt's L-BFGS over the map's
// weights. The loss is of the mapped features; the chain rule takes its gradient to the weights.
#include <craft/adapters/nlopt.hpp>
#include <craft/alignment.hpp>

#include <nlopt.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <vector>

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using weights = Eigen::Map<const matrix>;

// How many images have their own text as the nearest, by cosine, in per cent.
double found(const matrix& mapped, const matrix& texts) {
  const matrix similar = mapped.rowwise().normalized() * texts.rowwise().normalized().transpose();
  int right = 0;
  for (Eigen::Index i = 0, best; i < similar.rows(); ++i) {
    similar.row(i).maxCoeff(&best);
    right += best == i;
  }
  return 100.0 * right / double(similar.rows());
}

int main() {
  // 100 pairs: both modalities see the same hidden 6 numbers, each in its own coordinates and with noise.
  const matrix hidden = matrix::Random(100, 6);
  const matrix images = hidden * matrix::Random(6, 12) + 0.1 * matrix::Random(100, 12);
  const matrix texts = hidden * matrix::Random(6, 8) + 0.1 * matrix::Random(100, 8);

  const craft::cpu ctx(1);  // small: one thread
  craft::contrastive_options options;
  options.log_scale = std::log(10.0);
  craft::loss_function f(12, 8, [&](const auto& w, double& value, const auto& gradient) {
    const matrix mapped = images * weights(w.data(), 12, 8);
    matrix d_mapped(100, 8);
    craft::alignment_gradients<double> d;
    if (gradient.wanted()) d.x = craft::overwrite(d_mapped);
    craft::info_nce(ctx, mapped, texts, options, value, d);
    if (gradient.wanted()) Eigen::Map<matrix>(gradient.to.data(), 12, 8) = images.transpose() * d_mapped;
  });

  nlopt::opt opt(nlopt::LD_LBFGS, unsigned(f.size()));
  opt.set_min_objective(craft::nlopt_vector_objective, &f);
  opt.set_maxeval(200);
  const matrix start = 0.3 * matrix::Random(12, 8);
  std::vector<double> w(start.data(), start.data() + start.size());
  const double before = f.value(w.data());
  double after = 0;
  opt.optimize(w, after);

  const double found_before = found(images * start, texts),
               found_after = found(images * weights(w.data(), 12, 8), texts);
  std::printf("InfoNCE %.3f before, %.3f after\n", before, after);
  std::printf("images whose nearest text is their own: %.0f %% before, %.0f %% after\n", found_before, found_after);
  return after < 0.5 * before && found_after > 80 ? 0 : 1;
}
