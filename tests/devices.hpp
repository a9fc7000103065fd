// The devices and scalar types that every test body runs over, and how a test moves numbers to a device and back.
//
//     TEMPLATE_LIST_TEST_CASE("...", "[...]", devices) {
//       using D = TestType;
//       auto ctx = D::make();
//       const array<D> x(some_reals);             // rounded to D::scalar, in the memory of D
//       array<D> out(n, c);                       // filled with NaN: what is not written shows
//       craft::relative(ctx, x.in(), ..., out.out());
//       check(out.get());                         // reals: double on the host
//     }
//
// A new device: one backend struct (context, memory space, four functions) and one line of `devices`.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "craft/context.hpp"
#include "craft/objective.hpp"
#include "craft/view.hpp"
#ifdef CRAFT_TEST_CUDA
#include "craft/cuda.cuh"
#endif

namespace craft_test {

using craft::index_t;

template <class S>
using matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// What tests compute and compare with.
using reals = matrix<double>;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
/// What outputs are filled with where NaN will not do.
constexpr double sentinel = 0.75;

struct cpu_backend {
  using context = craft::cpu;
  static constexpr craft::memory space = craft::memory::host;
  static const char* name() { return "cpu"; }
  static constexpr index_t tile_unit = 1;
  static constexpr index_t directions = 0;  ///< of finite differences: every coordinate
  /// One thread: results do not depend on their number (threads_test.cpp), and a busy machine makes many wait.
  static context make() { return craft::cpu(1); }
  static context make_checking() { return make(); }
  static void* allocate(std::size_t bytes) { return ::operator new(bytes); }
  static void release(void* p) { ::operator delete(p); }
  // memcpy takes no null pointer, not even for no bytes: what an empty vector has.
  static void upload(void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  static void download(void* to, const void* from, std::size_t bytes) { upload(to, from, bytes); }
};

template <class Backend, class S>
struct device {
  using backend = Backend;
  using scalar = S;                     ///< as stored
  using compute = craft::compute_t<S>;  ///< of values and parameter gradients
  using context = typename Backend::context;
  static constexpr craft::memory space = Backend::space;
  static context make() { return Backend::make(); }
  /// What tests mean by a tile of so many rows.
  static index_t tile(index_t rows) { return rows * Backend::tile_unit; }
  /// Looks also at labels and weights that the host cannot read without waiting.
  static context make_checking() { return Backend::make_checking(); }
  /// The same device with inputs stored as Q.
  template <class Q>
  using storing = device<Backend, Q>;
};

#ifdef CRAFT_TEST_CUDA
/// A GPU, or its emulation (tests/emulated). Small tiles, so that small samples make several, and no fused sweeps; the
/// environment says where the context is left as users find it.
struct cuda_backend {
  using context = craft::cuda;
  static constexpr craft::memory space = craft::memory::device;
  static const char* name() { return "cuda"; }
  static constexpr index_t tile_unit = 8;  ///< five launches a tile: single rows would take minutes under emulation
  /// Of finite differences: they show that a gradient is wrong, and the CPU's coordinates show where.
  static constexpr index_t directions = 6;
  /// For cuBLAS, which may fail with less than 16 KiB; no more, because the emulation fills it all.
  static constexpr std::size_t little_for_blas = std::size_t(1) << 16;
  static context make() {
    context ctx;
    ctx.blas_bytes(little_for_blas);
    if (std::getenv("CRAFT_TEST_AS_USERS_FIND_IT") == nullptr) ctx.tile(24, 40).fused(0);
    return ctx;
  }
  static context make_checking() {
    context ctx = make();
    ctx.check_labels(true);
    return ctx;
  }
  static void* allocate(std::size_t bytes) {
    void* p = nullptr;
    craft::engine::cuda_check(cudaMalloc(&p, bytes), "cudaMalloc");
    return p;
  }
  static void release(void* p) { cudaFree(p); }
  static void upload(void* to, const void* from, std::size_t bytes) {
    craft::engine::cuda_check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  static void download(void* to, const void* from, std::size_t bytes) {
    craft::engine::cuda_check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
};
using tested_backend = cuda_backend;
#else
using tested_backend = cpu_backend;
#endif

using devices = std::tuple<device<tested_backend, double>, device<tested_backend, float>>;
/// Where finite differences are taken: the digits of float do not suffice for them.
using double_devices = std::tuple<device<tested_backend, double>>;
using float_devices = std::tuple<device<tested_backend, float>>;

/// A matrix of S in the memory of D, `padding` unused numbers between its rows.
template <class D, class S = typename D::scalar>
class array {
 public:
  /// Rounds the values to S. The padding is NaN, so that reading it shows.
  explicit array(const reals& values, index_t padding = 0)
      : array(values.rows(), values.cols(), not_a_number, padding) {
    set(values);
  }
  explicit array(const std::vector<double>& values)
      : array(reals(Eigen::Map<const reals>(values.data(), 1, index_t(values.size())))) {}
  array(index_t rows, index_t cols, double fill = not_a_number, index_t padding = 0)
      : rows_(rows), cols_(cols), stride_(cols + padding) {
    data_ = static_cast<S*>(D::backend::allocate(bytes() + sizeof(S)));
    const std::vector<S> all(count(), S(fill));
    D::backend::upload(data_, all.data(), bytes());
  }
  array(const array&) = delete;
  array& operator=(const array&) = delete;
  ~array() { D::backend::release(data_); }

  void set(const reals& values) {
    std::vector<S> all = host();
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < cols_; ++j) all[std::size_t(i * stride_ + j)] = S(values(i, j));
    D::backend::upload(data_, all.data(), bytes());
  }
  reals get() const {
    const std::vector<S> all = host();
    reals out(rows_, cols_);
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < cols_; ++j) out(i, j) = double(all[std::size_t(i * stride_ + j)]);
    return out;
  }
  /// The numbers between the rows: what no verb may touch.
  std::vector<S> padding() const {
    const std::vector<S> all = host();
    std::vector<S> out;
    for (index_t i = 0; i + 1 < rows_; ++i)
      out.insert(out.end(), all.begin() + i * stride_ + cols_, all.begin() + (i + 1) * stride_);
    return out;
  }
  /// Every byte, padding included.
  std::string bits() const {
    const std::vector<S> all = host();
    return std::string(reinterpret_cast<const char*>(all.data()), bytes());
  }

  craft::matrix_view<const S, D::space> in() const { return {data_, rows_, cols_, stride_}; }
  craft::matrix_view<S, D::space> out() { return {data_, rows_, cols_, stride_}; }
  /// Of an array of one row or column: numbers that a verb reads (weights), float or double.
  craft::numbers as_numbers() const { return craft::numbers(data_, rows_ * cols_, D::space, cols_ == 1 ? stride_ : 1); }
  /// Of a 1 x 1 array: a number that a verb reads when it runs, and a place for a value.
  craft::scalar as_scalar() const { return craft::scalar(data_, D::space); }
  craft::scalar_out<S, D::space> as_value() { return craft::scalar_out<S, D::space>(data_); }
  double number() const { return get()(0, 0); }

 private:
  std::size_t count() const { return rows_ == 0 ? 0 : std::size_t((rows_ - 1) * stride_ + cols_); }
  std::size_t bytes() const { return count() * sizeof(S); }
  std::vector<S> host() const {
    std::vector<S> all(count());
    D::backend::download(all.data(), data_, bytes());
    return all;
  }

  S* data_;
  index_t rows_, cols_, stride_;
};

/// A place for the values of the objective in the memory of D, full of NaN.
template <class D>
class objective_terms {
 public:
  using values = craft::objective_values<typename D::compute>;
  craft::scalar_out<values, D::space> place() {
    return craft::scalar_out<values, D::space>(reinterpret_cast<values*>(all_.out().data()));
  }
  craft::objective_values<double> get() const {
    const reals v = all_.get();
    return {v(0, 0), v(0, 1), v(0, 2), v(0, 3), v(0, 4)};
  }

 private:
  array<D, typename D::compute> all_{1, 5};
};

/// Labels in the memory of D, `stride` apart; between them lie labels that are out of range.
template <class D, class I = std::int64_t>
class label_array {
 public:
  explicit label_array(const std::vector<index_t>& values, index_t stride = 1)
      : size_(index_t(values.size())), stride_(stride) {
    std::vector<I> host(values.size() * std::size_t(stride), I(-77));
    for (std::size_t i = 0; i < values.size(); ++i) host[i * std::size_t(stride)] = I(values[i]);
    data_ = static_cast<I*>(D::backend::allocate((host.size() + 1) * sizeof(I)));
    D::backend::upload(data_, host.data(), host.size() * sizeof(I));
  }
  label_array(const label_array&) = delete;
  label_array& operator=(const label_array&) = delete;
  ~label_array() { D::backend::release(data_); }
  craft::labels in() const { return craft::labels(data_, size_, D::space, stride_); }

 private:
  I* data_;
  index_t size_, stride_;
};

// ---------------------------------------------------------------------------------------------------------
// Tolerances

/// Unit roundoff of the type that S is computed in.
template <class S>
constexpr double roundoff = std::numeric_limits<craft::compute_t<S>>::epsilon() / 2;

/// What the reference values are met to in double. Float has no fixed tolerance: what it may lose depends on the case
/// (tests/rounding.hpp estimates it from the kernel's own slope).
constexpr double value_relative = 1e-10, value_absolute = 1e-12, gradient_relative = 1e-10;

/// Norm of the difference relative to the norm of the second. NaN if either has one, so that `<=` fails.
inline double relative_distance(const reals& got, const reals& want) {
  return (got - want).norm() / std::max(want.norm(), std::numeric_limits<double>::min());
}

// ---------------------------------------------------------------------------------------------------------
// Inputs

/// Standard normal numbers that are the same on every machine (std::normal_distribution is not), plus a shift.
inline reals random_reals(index_t rows, index_t cols, std::uint64_t seed, double shift = 0) {
  std::mt19937_64 bits(seed * 2654435761u + 17);
  const auto uniform = [&] { return (double(bits() >> 11) + 0.5) * 0x1p-53; };
  reals out(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      out(i, j) = shift + std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform());
  return out;
}

/// What D stores when it is given these numbers.
template <class D>
reals as_stored(const reals& values) {
  return values.unaryExpr([](double v) { return double(typename D::scalar(v)); });
}

}  // namespace craft_test
