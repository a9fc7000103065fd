// What the adapters of C++ hosts cost over the bare call: MMD with its gradient, n = m = 16, d = 32, one thread. Those
// of hosts named in CRAFT_HOSTS are in the build.
//
//     craft_bench_adapters            median of 1001 repetitions, each of bare calls and adapter's calls in turn
//     craft_bench_adapters --quick    that it runs
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "bench.hpp"
#include "craft/adapters/eigen.hpp"
#include "craft/adapters/ensmallen.hpp"
#ifdef CRAFT_BENCH_CERES
#include "craft/adapters/ceres.hpp"
#endif
#ifdef CRAFT_BENCH_DLIB
#include "craft/adapters/dlib.hpp"
#endif
#ifdef CRAFT_BENCH_ENSMALLEN
#include <armadillo>
#endif
#ifdef CRAFT_BENCH_LBFGS
#include "craft/adapters/lbfgs.hpp"
#endif
#ifdef CRAFT_BENCH_NLOPT
#include "craft/adapters/nlopt.hpp"
#endif
#ifdef CRAFT_BENCH_TORCH
#include <torch/csrc/autograd/autograd.h>

#include "craft/adapters/torch_library.hpp"
#endif

namespace {

using namespace craft_bench;

constexpr index_t n = 16, d = 32;

/// One loss of T, called as it is and through adapters.
template <class T>
struct problem {
  craft::cpu ctx{1};
  matrix<T> x = random_reals(n, d, 1).cast<T>(), y = random_reals(n, d, 2, 0.5).cast<T>(), gradient = x;
  craft::loss_function<T> f{n, d, [this](const auto& at, T& value, const auto& g) { call(at, value, g); }};

  void call(const craft::matrix_view<const T>& at, T& value, const craft::output<T>& g) const {
    craft::mmd(ctx, at, y, craft::gaussian<T>(T(4)), {}, value, {g});
  }
  T bare() {
    T value;
    call(craft::view(x), value, craft::overwrite(gradient));
    return value;
  }
};

struct timing {
  int repetitions;
  double least;
};

template <class Bare, class Through>
void compare(const char* name, const timing& t, Bare&& bare, Through&& through) {
  std::vector<double> alone, adapted, over;
  for (int r = 0; r < t.repetitions; ++r) {
    alone.push_back(1e6 * seconds(bare, t.least));
    adapted.push_back(1e6 * seconds(through, t.least));
    over.push_back(adapted.back() - alone.back());
  }
  std::sort(over.begin(), over.end());
  std::printf("| %-28s | %6.2f | %6.2f | %6.2f (%.2f to %.2f) |\n", name, median(alone), median(adapted), median(over),
              over[over.size() / 4], over[3 * over.size() / 4]);
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const timing t = quick ? timing{1, 1e-5} : timing{1001, 1e-4};
  problem<double> p;
  volatile double sink = 0;  // so that no call is left out
  const auto bare = [&] { sink = p.bare(); };
  std::puts("| adapter                      |   bare | adapter | over it (quartiles), us |\n|---|---|---|---|");

  compare("bare against bare", t, bare, bare);
  compare("loss_function", t, bare, [&] { sink = p.f.value_and_gradient(p.x.data(), p.gradient.data()); });
  {
    craft::eigen_function fun(p.f);
    const Eigen::VectorXd x = Eigen::Map<const Eigen::VectorXd>(p.x.data(), p.x.size());
    Eigen::VectorXd gradient(x.size());
    compare("Eigen, LBFGS++: functor", t, bare, [&] { sink = fun(x, gradient); });
  }
#ifdef CRAFT_BENCH_CERES
  {
    const craft::ceres_function adapter(p.f);
    const ceres::FirstOrderFunction& function = adapter;
    double cost;
    compare("Ceres: Evaluate", t, bare, [&] { sink = function.Evaluate(p.x.data(), &cost, p.gradient.data()); });
  }
#endif
#ifdef CRAFT_BENCH_NLOPT
  {
    craft::nlopt_data data{p.f, nullptr};
    const std::vector<double> x(p.x.data(), p.x.data() + p.x.size());
    std::vector<double> gradient(x.size());
    compare("NLopt: nlopt_func", t, bare,
            [&] { sink = craft::nlopt_objective(unsigned(n * d), x.data(), gradient.data(), &data); });
    compare("NLopt: vfunc", t, bare, [&] { sink = craft::nlopt_vector_objective(x, gradient, &p.f); });
  }
#endif
#ifdef CRAFT_BENCH_LBFGS
  compare("liblbfgs: evaluate", t, bare,
          [&] { sink = craft::lbfgs_evaluate(&p.f, p.x.data(), p.gradient.data(), int(n * d), 1); });
#endif
#ifdef CRAFT_BENCH_ENSMALLEN
  {
    craft::ensmallen_function function(p.f);
    const arma::mat x(p.x.data(), arma::uword(d), arma::uword(n));
    arma::mat gradient;
    compare("ensmallen: with Armadillo", t, bare, [&] { sink = function.EvaluateWithGradient(x, gradient); });
  }
#endif
#ifdef CRAFT_BENCH_DLIB
  {
    craft::dlib_function function(p.f);
    craft::dlib_function::column_vector x = dlib::mat(p.x.data(), long(p.x.size()));
    compare("dlib: value and derivative", t, bare, [&] {
      x(0) = -x(0);  // another point each time
      sink = function.value(x) + function.derivative(x)(0);
    });

    problem<float> q;
    const auto bare_float = [&] { sink = double(q.bare()); };
    const craft::dlib_loss_ loss([&](const auto& at, float& value, const auto& g) { q.call(at, value, g); });
    const craft::dlib_labelled_loss_ labelled(
        [&](const auto& at, const auto&, float& value, const auto& g) { q.call(at, value, g); });
    struct layer {
      dlib::resizable_tensor output{n, 1, 1, d}, gradient{n, 1, 1, d};
      const dlib::tensor& get_output() const { return output; }
      dlib::tensor& get_gradient_input() { return gradient; }
      unsigned sample_expansion_factor() const { return 1; }
    } below;
    std::copy_n(q.x.data(), q.x.size(), below.output.host());
    const std::vector<unsigned long> labels(n, 0);
    compare("dlib: loss layer, float", t, bare_float,
            [&] { sink = loss.compute_loss_value_and_gradient(below.output, below); });
    compare("dlib: with labels, float", t, bare_float,
            [&] { sink = labelled.compute_loss_value_and_gradient(below.output, labels.begin(), below); });
  }
#endif
#ifdef CRAFT_BENCH_TORCH
  {
    at::set_num_threads(1);
    const at::Tensor x = at::from_blob(p.x.data(), {n, d}, at::kDouble), y = at::from_blob(p.y.data(), {n, d}, at::kDouble);
    const at::Tensor learnt = x.clone().set_requires_grad(true);
    const craft::aten::named_arguments options = {{"bandwidths", std::vector<double>{4}}};
    const auto bare_value = [&] {
      double value;
      craft::mmd(p.ctx, p.x, p.y, craft::gaussian<>(4), {}, value);
      sink = value;
    };
    const auto read = [&](const at::Tensor& loss) { sink = *static_cast<const double*>(loss.data_ptr()); };
    compare("torch: value", t, bare_value, [&] { read(craft::aten::loss("mmd", {x, y}, options)); });
    compare("torch: forward", t, bare, [&] { read(craft::aten::loss("mmd", {learnt, y}, options)); });
    const auto step = [&](const at::Tensor& loss) { torch::autograd::grad({loss}, {learnt}); };
    compare("torch: forward and backward", t, bare, [&] { step(craft::aten::loss("mmd", {learnt, y}, options)); });
    // Of that, what torch itself adds to a loss of its own.
    compare("mse_loss: value, then both", t, [&] { read(at::mse_loss(x, y)); }, [&] { step(at::mse_loss(learnt, y)); });
  }
#endif
}
