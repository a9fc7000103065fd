// A loss of tiny-cuda-nn's interface: symmetric InfoNCE between what the network predicts and the targets of the batch.
#pragma once

#include <craft/alignment.hpp>
#include <craft/cuda.cuh>

#include <tiny-cuda-nn/common_device.h>
#include <tiny-cuda-nn/loss.h>

#include <cstdint>
#include <stdexcept>
#include <type_traits>

/// T: the network's precision, float or __half.
template <class T>
class contrastive_loss : public tcnn::Loss<T> {
 public:
  /// stream: that of the training steps. width: of the targets; padded_width: model->padded_output_width().
  contrastive_loss(cudaStream_t stream, std::uint32_t width, std::uint32_t padded_width, std::uint32_t batch_size,
                   double log_scale)
      : ctx_(stream), target_(width, batch_size) {
    options_.log_scale = log_scale;
    // The trainer captures its step in a graph, in which scratch memory cannot grow: one call takes it all before.
    tcnn::GPUMatrix<T> prediction(padded_width, batch_size), gradients(padded_width, batch_size);
    tcnn::GPUMatrix<float> target(width, batch_size), values(padded_width, batch_size);
    evaluate(stream, 1, prediction, target, values, gradients);
  }

  void evaluate(cudaStream_t stream, const float loss_scale, const tcnn::GPUMatrix<T>& prediction,
                const tcnn::GPUMatrix<float>& target, tcnn::GPUMatrix<float>& values, tcnn::GPUMatrix<T>& gradients,
                const tcnn::GPUMatrix<float>* data_pdf = nullptr) const override {
    if (stream != ctx_.stream()) throw std::runtime_error{"contrastive_loss: made for another stream"};
    if (data_pdf) throw std::runtime_error{"contrastive_loss: pairs of samples have no density per sample"};
    if (target.n() != target_.n() || target.m() != target_.m())
      throw std::runtime_error{"contrastive_loss: made for targets of another size"};

    // One sample per column, column-major: craft's rows. What pads a prediction to its stride is left out.
    using input = craft::matrix_view<const T, craft::memory::device>;
    const input x(prediction.data(), prediction.n(), target.m(), prediction.stride());
    const T* y = nullptr;
    if constexpr (std::is_same_v<T, float>) {
      y = target.data();
    } else {
      tcnn::linear_kernel(tcnn::cast<T>, 0, stream, target.n_elements(), target.data(), target_.data());
      y = target_.data();
    }

    // tiny-cuda-nn sums all values, and wants zeros where the network is padded.
    values.memset_async(stream, 0);
    gradients.memset_async(stream, 0);
    craft::contrastive_options options = options_;
    options.upstream = loss_scale;
    craft::alignment_gradients<T, craft::memory::device> d;
    d.x = craft::overwrite(
        craft::matrix_view<T, craft::memory::device>(gradients.data(), gradients.n(), target.m(), gradients.stride()));
    craft::info_nce(ctx_, x, input(y, target.n(), target.m(), target.m()), options,
                    craft::scalar_out<float, craft::memory::device>(values.data()), d);
  }

  void update_hyperparams(const tcnn::json& params) override {
    if (params.contains("log_scale")) options_.log_scale = params["log_scale"].get<double>();
  }
  tcnn::json hyperparams() const override {
    return {{"otype", "Contrastive"}, {"log_scale", options_.log_scale.value()}};
  }

 private:
  craft::cuda ctx_;
  craft::contrastive_options options_;
  tcnn::GPUMatrix<T> target_;  // the targets in the network's precision
};
