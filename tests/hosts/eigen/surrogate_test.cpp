// docs/embed/surrogate.md: any host that differentiates sums of products can train on a loss it knows nothing of. The
// host here is Eigen's own automatic differentiation.
#include <Eigen/Core>
#include <unsupported/Eigen/AutoDiff>

#include <cmath>
#include <vector>

#include "../../catch.hpp"
#include "craft/alignment.hpp"

namespace {

using matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using active = Eigen::AutoDiffScalar<Eigen::VectorXd>;
using active_matrix = Eigen::Matrix<active, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int n = 6, d = 3, c = 4;
const matrix images =
    matrix::NullaryExpr(n, d, [](auto i, auto j) { return std::sin(1.0 + 3.0 * double(i) + double(j)); });
const matrix texts =
    matrix::NullaryExpr(n, c, [](auto i, auto j) { return std::cos(2.0 * double(i) - 5.0 * double(j)); });

/// A network of the host's: tanh(images W), of numbers or of numbers with derivatives.
template <class W>
W features(const W& w) {
  W y = images.template cast<typename W::Scalar>() * w;
  for (auto& z : y.reshaped()) {
    using std::tanh;
    z = tanh(z);
  }
  return y;
}

/// W, each number with the derivative by itself.
active_matrix parameters(const matrix& w) {
  active_matrix out(w.rows(), w.cols());
  for (Eigen::Index k = 0; k < w.size(); ++k) out.data()[k] = active(w.data()[k], w.size(), k);
  return out;
}

craft::contrastive_options options() {
  craft::contrastive_options o;
  o.log_scale = std::log(5.0);
  return o;
}

double loss(const matrix& w) {
  double value;
  craft::info_nce(craft::cpu(1), features(w), texts, options(), value);
  return value;
}

/// Central differences of the whole: network and loss.
Eigen::VectorXd slopes(matrix w) {
  Eigen::VectorXd out(w.size());
  for (Eigen::Index k = 0; k < w.size(); ++k) {
    const double at = w.data()[k], h = 1e-5;
    w.data()[k] = at + h;
    const double above = loss(w);
    w.data()[k] = at - h;
    out[k] = (above - loss(w)) / (2 * h);
    w.data()[k] = at;
  }
  return out;
}

const matrix start =
    matrix::NullaryExpr(d, c, [](auto i, auto j) { return 0.3 * std::sin(7.0 * double(i) + double(j)); });

}  // namespace

TEST_CASE("the surrogate has the gradient of the loss", "[surrogate]") {
  const craft::cpu ctx(1);
  const matrix w = start;

  const active_matrix y = features(parameters(w));
  const matrix numbers = y.unaryExpr([](const active& z) { return z.value(); });
  matrix g(n, c);
  double value;
  craft::info_nce(ctx, numbers, texts, options(), value, {craft::overwrite(g)});
  active surrogate(0.0, Eigen::VectorXd::Zero(w.size()));
  for (Eigen::Index k = 0; k < y.size(); ++k) surrogate += g.data()[k] * y.data()[k];  // g is a constant to the host

  CHECK(value == Approx(loss(w)));
  CHECK((surrogate.derivatives() - slopes(w)).norm() < 1e-8 * slopes(w).norm());
  CHECK(surrogate.value() != Approx(value));  // it is not the loss: report that one
}

TEST_CASE("a batch in parts: the loss of all, the network part by part", "[surrogate]") {
  const craft::cpu ctx(1);
  const matrix w = start;

  const matrix all = features(w);  // once, without derivatives
  matrix g(n, c);
  double value;
  craft::info_nce(ctx, all, texts, options(), value, {craft::overwrite(g)});

  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(w.size());
  for (const int first : {0, 2, 4}) {
    const active_matrix y = images.middleRows(first, 2).cast<active>() * parameters(w);
    for (Eigen::Index k = 0; k < y.size(); ++k) gradient += (g.data()[first * c + k] * tanh(y.data()[k])).derivatives();
  }
  CHECK((gradient - slopes(w)).norm() < 1e-8 * slopes(w).norm());

  // The mean of the losses of the parts is another loss.
  double parts = 0;
  for (const int first : {0, 2, 4}) {
    craft::info_nce(ctx, all.middleRows(first, 2), texts.middleRows(first, 2), options(), value);
    parts += value / 3;
  }
  CHECK(std::abs(parts - loss(w)) > 0.1);
}
