// A dlib network classifies samples of a domain without labels: features are pulled to the class texts by the labelled
// half of each batch, and towards each other's distribution by the MMD between its halves.
#include <craft/adapters/dlib.hpp>
#include <craft/alignment.hpp>
#include <craft/mmd.hpp>

#include <dlib/dnn.h>
#include <dlib/rand.h>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <vector>

namespace {

using sample = dlib::matrix<float>;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using features = dlib::fc<8, dlib::relu<dlib::fc<32, dlib::input<sample>>>>;
using network = craft::dlib_labelled_loss<features>;

constexpr int classes = 4, half = 64;
constexpr unsigned long no_label = static_cast<unsigned long>(-100);  // the options' ignore_label

// A sample of the class; those of the other domain are shifted.
sample draw(dlib::rand& random, unsigned long label, float shift) {
  sample x(10, 1);
  for (long k = 0; k < x.size(); ++k)
    x(k) = 1.5f * std::sin(float(7 * label + 3 * static_cast<unsigned long>(k) + 1)) +
           0.7f * float(random.get_random_gaussian()) + shift;
  return x;
}

// Trains, and returns the accuracy on the other domain in per cent.
double train(const matrix& texts, float weight_of_mmd) {
  const craft::cpu ctx(1);  // used by the trainer's thread from here on
  craft::cross_entropy_options options;
  options.log_scale = std::log(10.0);
  craft::mmd_options discrepancy;
  discrepancy.bandwidth.rule = craft::bandwidth_rule::median;
  discrepancy.upstream = weight_of_mmd;
  const craft::dlib_labelled_loss_ loss([&](const auto& x, const craft::labels& y, float& value, const auto& gradient) {
    craft::anchor_cross_entropy(ctx, x, texts, y, options, value, {gradient});
    const auto first = craft::view(x.data(), half, x.cols()), second = craft::view(x.row(half), half, x.cols());
    craft::mmd_gradients<float> d;
    d.x = craft::accumulate(craft::view(gradient.to.data(), half, x.cols()));
    d.y = craft::accumulate(craft::view(gradient.to.row(half), half, x.cols()));
    float distance;
    craft::mmd(ctx, first, second, craft::gaussians<float>::mean({0.5, 1.0, 2.0}), discrepancy, distance, d);
    value += weight_of_mmd * distance;
  });
  network net(loss);
  dlib::dnn_trainer<network, dlib::adam> trainer(net, dlib::adam(0, 0.9f, 0.999f));
  trainer.set_learning_rate(0.003);

  dlib::rand random(1);
  std::vector<sample> batch(2 * half);
  std::vector<unsigned long> labels(2 * half, no_label);
  for (int step = 0; step < 300; ++step) {
    for (int i = 0; i < half; ++i) {
      labels[std::size_t(i)] = random.get_random_64bit_number() % classes;
      batch[std::size_t(i)] = draw(random, labels[std::size_t(i)], 0);
      batch[std::size_t(half + i)] = draw(random, random.get_random_64bit_number() % classes, 1.5f);
    }
    trainer.train_one_step(batch, labels);
    if (step % 150 == 0 || step == 299) std::printf("  step %3d, mean loss %.4f\n", step, trainer.get_average_loss());
  }
  trainer.get_net();  // waits for the last step

  int right = 0;
  for (int i = 0; i < 1000; ++i) {
    const dlib::matrix<float, 0, 1> z = net(draw(random, static_cast<unsigned long>(i % classes), 1.5f));
    Eigen::Index best;
    (texts * Eigen::Map<const Eigen::VectorXf>(&z(0), 8)).maxCoeff(&best);
    right += best == i % classes;
  }
  return right / 10.0;
}

}  // namespace

int main() {
  const matrix texts = matrix::Identity(classes, 8);
  std::puts("cross-entropy on the labelled domain");
  const double without = train(texts, 0);
  std::puts("and MMD between the domains");
  const double with = train(texts, 1);
  std::printf("accuracy on the other domain: %.1f %% without, %.1f %% with MMD\n", without, with);
  return with > without + 5 ? 0 : 1;
}
