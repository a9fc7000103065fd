// Adam (D. Kingma and J. Ba, arXiv 1412.6980) for one parameter matrix.
#pragma once

#include <cmath>

#include "matrix.hpp"

namespace example {

class adam {
 public:
  explicit adam(float rate) : rate_(rate) {}

  void step(matrix& parameter, const matrix& gradient) {
    if (mean_.size() == 0) {
      mean_.setZero(parameter.rows(), parameter.cols());
      square_ = mean_;
    }
    ++steps_;
    mean_ += (1 - beta1) * (gradient - mean_);
    square_ += (1 - beta2) * (gradient.cwiseAbs2() - square_);
    // Both averages started at zero; these factors undo that.
    const float mean_factor = 1 / (1 - std::pow(beta1, float(steps_)));
    const float square_factor = 1 / (1 - std::pow(beta2, float(steps_)));
    parameter.array() -= rate_ * mean_factor * mean_.array() / ((square_factor * square_.array()).sqrt() + epsilon);
  }

 private:
  static constexpr float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
  float rate_;
  int steps_ = 0;
  matrix mean_, square_;
};

}  // namespace example
