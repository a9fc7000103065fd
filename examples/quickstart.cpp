// Craft in one page: image features are pulled towards their texts and towards the images of another domain.
#include <craft/craft.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>

// One sample per row. float works the same.
using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
  // Stand-ins for what encoders give: 64 images, the text of each, and 80 images of another domain without texts.
  matrix images = matrix::Random(64, 32), target = matrix::Random(80, 32).array() + 0.3;
  const matrix texts = images + matrix::Random(64, 32);
  matrix d_images(64, 32);  // gradients go into your own memory

  const craft::cpu ctx;
  craft::contrastive_options alignment;
  alignment.log_scale = std::log(10.0);  // logits are 10 x cosine
  craft::mmd_options discrepancy;
  discrepancy.estimator = craft::estimator::unbiased;
  discrepancy.bandwidth.rule = craft::bandwidth_rule::median;
  const auto kernel = craft::gaussians<>::mean({0.5, 1.0, 2.0});  // in units of the median distance

  std::puts("step  alignment     MMD^2");
  for (int step = 0; step <= 100; ++step) {
    double align, mmd;
    craft::info_nce(ctx, images, texts, alignment, align, {craft::overwrite(d_images)});
    craft::mmd(ctx, images, target, kernel, discrepancy, mmd, {craft::accumulate(d_images)});
    if (step % 20 == 0) std::printf("%4d  %9.4f  %8.4f\n", step, align, mmd);
    images -= 10 * d_images;  // your optimiser goes here
  }

  // Never trust a gradient, ours included: compare it with the slopes of the loss, here along 8 random directions.
  double value;
  craft::info_nce(ctx, images, texts, alignment, value, {craft::overwrite(d_images)});
  const auto loss = [&] {
    craft::info_nce(ctx, images, texts, alignment, value);
    return value;
  };
  craft::gradcheck_options check;
  check.directions = 8;
  const auto report =
      craft::gradcheck<double>(loss, {{"images", images.data(), images.size(), d_images.data()}}, check);
  std::printf("\n%s", report.text().c_str());
  return report ? 0 : 1;
}
