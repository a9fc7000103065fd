// A loss for dlib: as the loss layer of a deep network, and as the two functions that dlib::find_min takes.
//
//     const craft::dlib_loss_ loss([&](const auto& x, float& value, const auto& gradient) {
//       craft::mmd(ctx, x, target, kernel, options, value, {gradient});
//     });
//     craft::dlib_loss<dlib::fc<16, dlib::input<dlib::matrix<float>>>> net(loss);
//
// Such a loss looks at a whole mini-batch. Where dlib splits one over several GPUs each sees a part, and what the
// trainer then averages is another loss; use one device.
#pragma once

#include <dlib/dnn.h>
#include <dlib/matrix.h>

#include <cstdint>
#include <functional>
#include <iterator>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "craft/adapters/function.hpp"

namespace craft {

namespace detail {

// What both loss layers share; Layer is the class that derives from it, with its name.
template <class Layer, class Loss>
class dlib_layer {
 public:
  using output_label_type = dlib::matrix<float, 0, 1>;

  dlib_layer() = default;
  explicit dlib_layer(std::function<Loss> loss) : loss_(std::move(loss)) {}

  /// The network's output is its label: the features of each sample, in one column.
  template <class Subnet, class Iterator>
  void to_label(const dlib::tensor& input, const Subnet& sub, Iterator out) const {
    const auto x = features(input, sub);
    for (index_t i = 0; i < x.rows(); ++i, ++out) *out = dlib::mat(x.row(i), long(x.cols()));
  }

  // A program cannot be stored: a network that is loaded keeps the loss that it was made with.
  friend void serialize(const Layer&, std::ostream& out) { dlib::serialize(std::string(Layer::name), out); }
  friend void deserialize(Layer&, std::istream& in) {
    std::string name;
    dlib::deserialize(name, in);
    if (name != Layer::name)
      throw dlib::serialization_error("Expected " + std::string(Layer::name) + ", found " + name +
                                      " while deserializing.");
  }
  friend std::ostream& operator<<(std::ostream& out, const Layer&) { return out << Layer::name; }
  friend void to_xml(const Layer&, std::ostream& out) { out << '<' << Layer::name << "/>\n"; }

 protected:
  template <class Subnet>
  static matrix_view<const float> features(const dlib::tensor& input, const Subnet& sub) {
    const dlib::tensor& x = sub.get_output();
    require<shape_error>(sub.sample_expansion_factor() == 1 && input.num_samples() == x.num_samples(), Layer::name,
                         ": expected one row of features for each sample, got ", x.num_samples(), " for ",
                         input.num_samples());
    return {x.host(), index_t(x.num_samples()), index_t(x.k() * x.nr() * x.nc())};
  }
  template <class Subnet, class... Labels>
  double value_and_gradient(const dlib::tensor& input, Subnet& sub, const Labels&... y) const {
    require<option_error>(bool(loss_), Layer::name, ": the layer was made without a loss");
    const auto x = features(input, sub);
    // Zeros by dlib's contract, so that to overwrite is to add.
    const output<float> gradient{{sub.get_gradient_input().host_write_only(), x.rows(), x.cols()}, write::overwrite};
    float value = 0;
    loss_(x, y..., value, gradient);
    return value;
  }

 private:
  std::function<Loss> loss_;
};

}  // namespace detail

/// dlib's interface of a loss layer without labels, over a loss of the network's output: void(x, value, gradient).
///
/// x: the output of the layer below, one row of k * nr * nc features per sample of the mini-batch, in dlib's own
/// memory, as is the gradient; nothing is copied. Where dlib runs on a GPU, both are brought to the host and back,
/// which waits for it. The loss is called in the thread that runs the network, which for dnn_trainer is one of its own:
/// what it refers to (its context, its target) must live until the trainer is through, and nobody else may use the
/// context meanwhile. Copies of a network share them.
///
/// Errors: what the loss throws passes through dlib; dnn_trainer stops, and throws it in one of the caller's next
/// calls. shape_error for an input layer that makes several samples of one, option_error for a layer made without a
/// loss. serialize stores no loss.
class dlib_loss_
    : public detail::dlib_layer<dlib_loss_, void(const matrix_view<const float>&, float&, const output<float>&)> {
 public:
  static constexpr const char* name = "craft_loss";  ///< in serialized networks
  using dlib_layer::dlib_layer;

  /// What dlib calls for each mini-batch: the value, and the gradient by the output below.
  template <class Subnet>
  double compute_loss_value_and_gradient(const dlib::tensor& input, Subnet& sub) const {
    return value_and_gradient(input, sub);
  }
};
/// The layer on top of a network.
template <class Subnet>
using dlib_loss = dlib::add_loss_layer<dlib_loss_, Subnet>;

/// The same with a label per sample, unsigned long as in dlib's own classifiers: void(x, labels, value, gradient). The
/// labels are copied, to the signed 64-bit integers that verbs take.
class dlib_labelled_loss_
    : public detail::dlib_layer<dlib_labelled_loss_,
                                void(const matrix_view<const float>&, const labels&, float&, const output<float>&)> {
 public:
  static constexpr const char* name = "craft_labelled_loss";  ///< in serialized networks
  using training_label_type = unsigned long;                  ///< as dlib's classifiers have it
  using dlib_layer::dlib_layer;

  /// What dlib calls for each mini-batch: the value, and the gradient by the output below.
  template <class Iterator, class Subnet>
  double compute_loss_value_and_gradient(const dlib::tensor& input, Iterator truth, Subnet& sub) const {
    const std::vector<std::int64_t> y(truth, std::next(truth, input.num_samples()));
    return value_and_gradient(input, sub, labels(y));
  }
};
/// The layer on top of a network.
template <class Subnet>
using dlib_labelled_loss = dlib::add_loss_layer<dlib_labelled_loss_, Subnet>;

/// Value and derivative of a loss_function as dlib::find_min takes them, one by one:
///
///     craft::dlib_function g(f);
///     dlib::find_min(dlib::lbfgs_search_strategy(10), dlib::objective_delta_stop_strategy(1e-7),
///                    [&](const auto& x) { return g.value(x); }, [&](const auto& x) { return g.derivative(x); }, x, 0);
///
/// Both are computed at once, and those of the last point are kept with a copy of it, since find_min asks for one after
/// the other. Refers to f, which must outlive it; runs in the caller's thread. Throws shape_error for another size of
/// x, and what the loss throws, which passes through dlib.
class dlib_function {
 public:
  using column_vector = dlib::matrix<double, 0, 1>;  ///< of find_min's parameters

  /// Keeps a reference to f.
  explicit dlib_function(const loss_function<>& f) : f_(f) {}
  /// At x (rows x cols numbers of f): computed, unless x is the last point asked for.
  double value(const column_vector& x) { return at(x).value_; }
  /// The same for the derivative.
  const column_vector& derivative(const column_vector& x) { return at(x).gradient_; }

 private:
  dlib_function& at(const column_vector& x) {
    f_.check_size(x.size());
    if (x_.size() == x.size() && x_ == x) return *this;
    gradient_.set_size(x.size());
    x_.set_size(0);  // should the loss throw
    value_ = f_.value_and_gradient(&x(0), &gradient_(0));
    x_ = x;
    return *this;
  }

  const loss_function<>& f_;
  column_vector x_, gradient_;
  double value_ = 0;
};

}  // namespace craft
