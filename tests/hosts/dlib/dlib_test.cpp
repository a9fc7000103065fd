#include "craft/adapters/dlib.hpp"

#include <dlib/optimization.h>

#include <chrono>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../../catch.hpp"
#include "../shift.hpp"
#include "craft/alignment.hpp"

using craft_test::shift;

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column = craft::dlib_function::column_vector;
using sample = dlib::matrix<float>;
using network = craft::dlib_loss<dlib::fc<3, dlib::input<sample>>>;
using labelled_network = craft::dlib_labelled_loss<dlib::fc<3, dlib::input<sample>>>;

const matrix target =
    matrix::NullaryExpr(9, 3, [](auto i, auto j) { return std::sin(4.0f * float(i) + float(j)) + 1; });
const std::vector<unsigned long> some_labels{0, 1, 2, 3, 0, 1, 2, 3};

std::vector<sample> inputs() {
  std::vector<sample> out(8, sample(5, 1));
  for (long i = 0; i < 8; ++i)
    for (long j = 0; j < 5; ++j) out[std::size_t(i)](j) = std::cos(3.0f * float(i) + float(j * j));
  return out;
}
matrix rows(const std::vector<sample>& samples) {
  matrix out(samples.size(), samples[0].size());
  for (std::size_t i = 0; i < samples.size(); ++i)
    for (long j = 0; j < samples[i].size(); ++j) out(Eigen::Index(i), j) = samples[i](j);
  return out;
}
matrix rows(const dlib::tensor& t) {
  return Eigen::Map<const matrix>(t.host(), t.num_samples(), t.k() * t.nr() * t.nc());
}

const craft::dlib_loss_ by_mmd([](const auto& x, float& value, const auto& gradient) {
  craft::mmd(craft::cpu(1), x, target, craft::gaussian<float>(2), {}, value, {gradient});
});
void cross_entropy(const craft::matrix_view<const float>& x, const craft::labels& y, float& value,
                   const craft::output<float>& gradient) {
  craft::cross_entropy_options options;
  options.log_scale = std::log(5.0);
  craft::anchor_cross_entropy(craft::cpu(1), x, target.topRows(4), y, options, value, {gradient});
}
const craft::dlib_labelled_loss_ by_label(cross_entropy);

// The layer below a loss, as dlib shows it.
struct layer {
  dlib::resizable_tensor output, gradient;
  unsigned int factor = 1;
  explicit layer(const matrix& x) : output(x.rows(), 1, 1, x.cols()), gradient(output) {
    Eigen::Map<matrix>(output.host(), x.rows(), x.cols()) = x;
    gradient = 0;
  }
  const dlib::tensor& get_output() const { return output; }
  dlib::tensor& get_gradient_input() { return gradient; }
  unsigned int sample_expansion_factor() const { return factor; }
};

}  // namespace

TEST_CASE("dlib's loss layer has the verb's value and gradient", "[dlib]") {
  const matrix x = matrix::NullaryExpr(8, 3, [](auto i, auto j) { return std::sin(float(i) + 5.0f * float(j)); });
  layer below(x);
  float value;
  matrix gradient(8, 3);
  SECTION("without labels") {
    craft::mmd(craft::cpu(1), x, target, craft::gaussian<float>(2), {}, value, {craft::overwrite(gradient)});
    CHECK(by_mmd.compute_loss_value_and_gradient(below.output, below) == value);
  }
  SECTION("with labels") {
    const std::vector<int> y(some_labels.begin(), some_labels.end());
    cross_entropy(craft::view(x), y, value, craft::overwrite(gradient));
    CHECK(by_label.compute_loss_value_and_gradient(below.output, some_labels.begin(), below) == value);
  }
  CHECK(rows(below.gradient) == gradient);
}

TEST_CASE("a loss of several features maps sees a sample as one row", "[dlib]") {
  dlib::resizable_tensor images(2, 3, 4, 5);
  layer below(matrix::Zero(2, 60));
  below.output.set_size(2, 3, 4, 5);
  below.gradient.set_size(2, 3, 4, 5);
  const craft::dlib_loss_ shapes(
      [](const auto& x, float& value, const auto&) { value = float(100 * x.rows() + x.cols()); });
  CHECK(shapes.compute_loss_value_and_gradient(images, below) == 260);
}

TEST_CASE("a network's parameters get the gradient of the loss", "[dlib]") {
  const auto x = inputs();
  network net(by_mmd);
  dlib::resizable_tensor batch;
  net.to_tensor(x.begin(), x.end(), batch);
  const double loss = net.compute_parameter_gradients(batch);

  // y = x w + b, so that dL/dw = x' dL/dy.
  const matrix y = rows(net.subnet().get_output());
  float value;
  matrix dy(8, 3);
  craft::mmd(craft::cpu(1), y, target, craft::gaussian<float>(2), {}, value, {craft::overwrite(dy)});
  CHECK(loss == value);
  const matrix dw = rows(x).transpose() * dy;
  const matrix got = Eigen::Map<const matrix>(net.subnet().get_parameter_gradient().host(), 5, 3);
  CHECK((got - dw).norm() < 1e-6f * dw.norm());
}

TEST_CASE("dlib's trainer trains on it", "[dlib]") {
  const auto x = inputs();
  SECTION("without labels") {
    network net(by_mmd);
    const double before = net.compute_loss(x.begin(), x.end());
    dlib::dnn_trainer<network> trainer(net, dlib::sgd(0, 0.9f));
    trainer.set_learning_rate(0.3);
    for (int step = 0; step < 300; ++step) trainer.train_one_step(x);
    trainer.get_net();  // waits
    CHECK(net.compute_loss(x.begin(), x.end()) < 0.1 * before);
  }
  SECTION("with labels") {
    labelled_network net(by_label);
    const double before = net.compute_loss(x.begin(), x.end(), some_labels.begin());
    dlib::dnn_trainer<labelled_network> trainer(net, dlib::sgd(0, 0.9f));
    trainer.set_learning_rate(0.3);
    for (int step = 0; step < 300; ++step) trainer.train_one_step(x, some_labels);
    trainer.get_net();
    CHECK(net.compute_loss(x.begin(), x.end(), some_labels.begin()) < 0.7 * before);
  }
}

TEST_CASE("what a network with such a loss gives: its features", "[dlib]") {
  const auto x = inputs();
  network net(by_mmd);
  const std::vector<dlib::matrix<float, 0, 1>> features = net(x);
  const matrix y = rows(net.subnet().get_output());
  REQUIRE(features.size() == 8);
  for (long i = 0; i < 8; ++i)
    for (long j = 0; j < 3; ++j) CHECK(features[std::size_t(i)](j) == y(i, j));
}

TEST_CASE("a stored network is loaded into one that has a loss", "[dlib]") {
  const auto x = inputs();
  network net(by_mmd);
  const double loss = net.compute_loss(x.begin(), x.end());
  std::stringstream stored;
  dlib::serialize(net, stored);
  SECTION("of its own") {
    network other(by_mmd);
    dlib::deserialize(other, stored);
    CHECK(other.compute_loss(x.begin(), x.end()) == loss);
  }
  SECTION("or has none") {
    network other;
    dlib::deserialize(other, stored);
    CHECK_THROWS_AS(other.compute_loss(x.begin(), x.end()), craft::option_error);
  }
  SECTION("but not into another kind") {
    labelled_network other;
    CHECK_THROWS_WITH(dlib::deserialize(other, stored), contains("craft_labelled_loss") && contains("craft_loss"));
  }
  std::ostringstream text;
  text << net;
  dlib::net_to_xml(net, text);
  CHECK_THAT(text.str(), contains("layer<0>\tcraft_loss\n") && contains("<craft_loss/>"));
}

TEST_CASE("errors of a loss layer", "[dlib]") {
  const auto x = inputs();
  SECTION("a label that is no class passes through the network") {
    labelled_network net(by_label);
    std::vector<unsigned long> y = some_labels;
    y[5] = 4;
    CHECK_THROWS_AS(net.compute_loss(x.begin(), x.end(), y.begin()), craft::label_error);
  }
  SECTION("the trainer throws it in a later call") {
    labelled_network net(by_label);
    dlib::dnn_trainer<labelled_network> trainer(net);
    const std::vector<unsigned long> y(8, 17);
    trainer.train_one_step(x, y);  // only hands the batch over
    // get_net may return a moment before the trainer's thread has stored what was thrown.
    const auto later = [&] {
      for (int tries = 0; tries < 1000; ++tries, std::this_thread::sleep_for(std::chrono::milliseconds(10)))
        trainer.get_net();
    };
    CHECK_THROWS_AS(later(), craft::label_error);
  }
  SECTION("an input layer that makes several samples of one") {
    layer below(matrix::Zero(8, 3));
    below.factor = 2;
    CHECK_THROWS_AS(by_mmd.compute_loss_value_and_gradient(below.output, below), craft::shape_error);
  }
}

TEST_CASE("dlib's find_min gets value and derivative", "[dlib]") {
  shift s;
  craft::dlib_function g(s.f);
  column x = dlib::mat(s.x.data(), s.f.size());

  CHECK(g.value(x) == s.value_at(s.x.data()));
  const shift::matrix gradient = s.gradient_at(s.x.data());
  CHECK(Eigen::Map<const shift::matrix>(&g.derivative(x)(0), s.n, s.d) == gradient);
  CHECK(s.gradients == 1);  // one call for both
  x(3) += 1;
  CHECK(g.derivative(x)(3) != gradient.data()[3]);
  CHECK(s.gradients == 2);
  CHECK_THROWS_AS(g.value(column(35)), craft::shape_error);

  x(3) -= 1;
  const double value = dlib::find_min(
      dlib::lbfgs_search_strategy(10), dlib::objective_delta_stop_strategy(1e-7),
      [&](const column& at) { return g.value(at); }, [&](const column& at) { return g.derivative(at); }, x, 0);
  CHECK(value < 0.02 * s.value_at(s.x.data()));
  CHECK(value == Approx(s.value_at(&x(0))));
}

TEST_CASE("errors pass through find_min", "[dlib]") {
  shift s;
  craft::dlib_function g(s.f);
  column x = dlib::mat(s.x.data(), s.f.size());
  s.throws = true;
  s.fails_after = 3;
  CHECK_THROWS_AS(
      dlib::find_min(
          dlib::bfgs_search_strategy(), dlib::objective_delta_stop_strategy(1e-7),
          [&](const column& at) { return g.value(at); }, [&](const column& at) { return g.derivative(at); }, x, 0),
      std::domain_error);
  CHECK_THROWS_AS(g.value(x + 1), std::domain_error);  // what failed is not kept as if it had not
  CHECK_THROWS_AS(g.value(x + 1), std::domain_error);
}
