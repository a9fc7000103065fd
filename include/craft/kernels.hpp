// Pair functions: everything the method knows about a pair (x, y), as a function of three scalars.
//
//     s = x . y      a = |x|^2      b = |y|^2
//
// Each struct is the only place where its formula stands: value, partial derivatives, and derivatives by its own
// parameters. They are plain numbers inside (no Eigen), and run on the host, in vector registers and on a GPU:
// V is float, double, or a register of them.
//
// What a pair function provides (docs/add_a_kernel.md walks through one):
//
//     value(s, a, b)                          k
//     partials(s, a, b)                       k and its derivatives by s, a and b
//     weights()                               how many weights it has
//     bandwidths()                            how many bandwidths it has
//     parameters(s, a, b, weight, bandwidth)  calls weight(q, dk/dweight_q) and bandwidth(q, dk/dbandwidth_q)
//     as<U>()                                 itself with parameters stored as U
//     check()                                 throws option_error for a parameter outside its range
//     translation_invariant                   whether it depends on D = |x - y|^2 only, so that data may be centred
//     linear                                  optional, true: a multiple of s, whose pull-back needs neither s nor norms
//     smooth                                  optional, true: dk/dD stays finite as D goes to 0
//
// Of a function of D alone, detail::distance_kernel makes value and partials out of
//
//     at(D)                                   k and dk/dD
//
// Sums and weighted sums of pair functions are pair functions: `0.5 * gaussian(1.0) + energy()`.
//
// Sources: A. Gretton et al., "A kernel two-sample test", JMLR 13 (2012), for the role they play; G. Szekely and
// M. Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013), for the energy kernel; the conventions of the
// exponents are compared in docs/math.md.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "craft/engine/host_device.hpp"
#include "craft/error.hpp"

namespace craft {

/// A pair function's value and its derivatives by s = x.y, a = |x|^2 and b = |y|^2.
template <class V>
struct pair_partials {
  V value,  ///< k
      ds,   ///< dk/ds
      da,   ///< dk/da
      db;   ///< dk/db
};

namespace detail {

/// gaussian(1) means gaussian(1.0).
template <class T>
using parameter_t = std::conditional_t<std::is_floating_point_v<T>, T, double>;

/// A parameter whose square and its inverse T must be able to hold with all digits. A verb asks it of the kernel in its
/// computing type too.
template <class T>
void check_positive(const char* kernel, const char* parameter, T value) {
  require<option_error>(value > T(0) && value < math::limits<T>::infinity, kernel, ": ", parameter,
                        " must be positive, got ", double(value));
  const T least = std::sqrt(math::limits<T>::smallest / math::limits<T>::epsilon);
  require<option_error>(value >= least && value <= T(1) / least, kernel, ": ", parameter, " must lie between ",
                        double(least), " and ", double(T(1) / least), " to be computed in ",
                        sizeof(T) == 8 ? "double" : "float", ", got ", double(value));
}

template <class T>
void check_floor(const char* kernel, const char* parameter, T value) {
  require<option_error>(value >= T(0) && value < math::limits<T>::infinity, kernel, ": ", parameter,
                        " must not be negative, got ", double(value));
  require<option_error>(value == T(0) || value >= math::limits<T>::smallest, kernel, ": ", parameter, " must be 0 or at least ",
                        double(math::limits<T>::smallest), " to be computed in ", sizeof(T) == 8 ? "double" : "float", ", got ",
                        double(value));
}

/// Value and derivative of a function of the squared distance D alone.
template <class V>
struct radial {
  V value, slope;
};

/// D gamma as a factor of exp(-D gamma): finite, where the exponential is 0 or the least number anyway.
template <class V, class T>
CRAFT_HOST_DEVICE V exponent(V D, T gamma) {
  return (math::min)(D * V(gamma), V(T(1024)));
}

/// What kernels of D = a + b - 2 s share. Kernel::at(D) gives value and dk/dD, the whole formula.
/// Rounding can make D slightly negative; it is taken as 0 then.
template <class Kernel>
struct distance_kernel {
  static constexpr bool translation_invariant = true;

  template <class V>
  CRAFT_HOST_DEVICE static V squared_distance(V s, V a, V b) {
    return (math::max)(a + b - (s + s), V(0));
  }
  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    return self().at(squared_distance(s, a, b)).value;
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V a, V b) const {
    const radial<V> k = self().at(squared_distance(s, a, b));
    return {k.value, -(k.slope + k.slope), k.slope, k.slope};
  }

 private:
  CRAFT_HOST_DEVICE const Kernel& self() const { return static_cast<const Kernel&>(*this); }
};

/// What pair functions without parameters share.
struct no_parameters {
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 0; }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V, V, V, W&&, B&&) const {}
  void check() const {}
};

}  // namespace detail

/// Gaussian: k = exp(-D / (2 sigma^2)), D = |x - y|^2. sigma in the units of x. Note the 2: other libraries
/// write exp(-D / sigma^2) or exp(-gamma D); see docs/math.md.
template <class T = double>
struct gaussian : detail::distance_kernel<gaussian<T>> {
  static constexpr bool smooth = true;
  T sigma;  ///< bandwidth 0
  /// sigma > 0.
  CRAFT_HOST_DEVICE explicit gaussian(T sigma_) : sigma(sigma_) {}

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const V k = math::exp_times(D, -gamma());
    return {k, k * V(-gamma())};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 1; }
  /// dk/dsigma = k D / sigma^3
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&&, B&& bandwidth) const {
    const V D = this->squared_distance(s, a, b);
    bandwidth(0, at(D).value * detail::exponent(D, gamma()) * V(T(2) / sigma));
  }
  template <class U>
  gaussian<U> as() const {
    return gaussian<U>(U(sigma));
  }
  void check() const { detail::check_positive("gaussian", "sigma", sigma); }

 private:
  CRAFT_HOST_DEVICE T gamma() const { return T(1) / (T(2) * sigma * sigma); }
};

template <class T>
gaussian(T) -> gaussian<detail::parameter_t<T>>;

/// Laplacian of the Euclidean distance: k = exp(-sqrt(max(D, floor)) / sigma). Derivative where D <= floor: 0, so also
/// at D = 0. floor (default 0) is there for peers that clamp.
template <class T = double>
struct laplacian : detail::distance_kernel<laplacian<T>> {
  T sigma,    ///< bandwidth 0, in the units of x
      floor;  ///< of D, in squared units of x
  /// sigma > 0, floor >= 0.
  CRAFT_HOST_DEVICE explicit laplacian(T sigma_, T floor_ = T(0)) : sigma(sigma_), floor(floor_) {}

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const V r = math::sqrt((math::max)(D, V(floor)));
    const V k = math::exp_times(r, T(-1) / sigma);
    return {k, math::where_positive(D - V(floor), k * V(T(-0.5) / sigma) / r)};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 1; }
  /// dk/dsigma = k sqrt(D) / sigma^2
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&&, B&& bandwidth) const {
    const V D = this->squared_distance(s, a, b);
    bandwidth(0, at(D).value * (math::sqrt((math::max)(D, V(floor))) * V(T(1) / sigma)) * V(T(1) / sigma));
  }
  template <class U>
  laplacian<U> as() const {
    return laplacian<U>(U(sigma), U(floor));
  }
  void check() const {
    detail::check_positive("laplacian", "sigma", sigma);
    detail::check_floor("laplacian", "floor", floor);
  }
};

template <class T>
laplacian(T) -> laplacian<detail::parameter_t<T>>;
template <class T, class U0>
laplacian(T, U0) -> laplacian<detail::parameter_t<T>>;
template <class T>
laplacian(T, T) -> laplacian<detail::parameter_t<T>>;

/// Inverse multiquadric: k = c^2 / (c^2 + D + eps). eps (default 0) is there for Craft's "multiscale" (1e-8).
template <class T = double>
struct inverse_multiquadric : detail::distance_kernel<inverse_multiquadric<T>> {
  static constexpr bool smooth = true;
  T c,      ///< bandwidth 0, in the units of x
      eps;  ///< in squared units of x
  /// c > 0, eps >= 0.
  CRAFT_HOST_DEVICE explicit inverse_multiquadric(T c_, T eps_ = T(0)) : c(c_), eps(eps_) {}

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const V inverse = V(T(1)) / (D + V(c * c + eps));
    const V k = V(c * c) * inverse;
    return {k, -(k * inverse)};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 1; }
  /// dk/dc = 2 c (D + eps) / (c^2 + D + eps)^2
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&&, B&& bandwidth) const {
    const V D = this->squared_distance(s, a, b);
    const V inverse = V(T(1)) / (D + V(c * c + eps));
    bandwidth(0, (V(T(2) * c) * inverse) * ((D + V(eps)) * inverse));
  }
  template <class U>
  inverse_multiquadric<U> as() const {
    return inverse_multiquadric<U>(U(c), U(eps));
  }
  void check() const {
    detail::check_positive("inverse_multiquadric", "c", c);
    detail::check_floor("inverse_multiquadric", "eps", eps);
  }
};

template <class T>
inverse_multiquadric(T) -> inverse_multiquadric<detail::parameter_t<T>>;
template <class T, class U0>
inverse_multiquadric(T, U0) -> inverse_multiquadric<detail::parameter_t<T>>;
template <class T>
inverse_multiquadric(T, T) -> inverse_multiquadric<detail::parameter_t<T>>;

/// Rational quadratic: k = (1 + D / (2 alpha l^2))^(-alpha). Bandwidth 0 is the length l, 1 the exponent alpha.
/// alpha = 1/2, l = c gives the inverse multiquadric of exponent one half, (1 + D / c^2)^(-1/2).
template <class T = double>
struct rational_quadratic : detail::distance_kernel<rational_quadratic<T>> {
  static constexpr bool smooth = true;
  static constexpr bool heavy = true;  ///< takes so many registers that a GPU looks at fewer pairs at a time
  T length,   ///< bandwidth 0: l, in the units of x
      alpha;  ///< bandwidth 1: the exponent
  /// length > 0, alpha > 0.
  CRAFT_HOST_DEVICE rational_quadratic(T length_, T alpha_) : length(length_), alpha(alpha_) {}

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const terms<V> k = terms_at(D);
    return {k.value, k.slope};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 2; }
  /// dk/dl = (2 alpha / l) k t / (1 + t) and dk/dalpha = -k (log(1 + t) - t / (1 + t)), with t = D / (2 alpha l^2)
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&&, B&& bandwidth) const {
    const V D = this->squared_distance(s, a, b);
    const terms<V> k = terms_at(D);
    bandwidth(0, k.value * (k.t / (V(T(1)) + k.t)) * V(T(2) * alpha / length));
    bandwidth(1, -(k.value * log1p_less_slope(k.t, k.log1p)));
  }
  template <class U>
  rational_quadratic<U> as() const {
    return rational_quadratic<U>(U(length), U(alpha));
  }
  void check() const {
    detail::check_positive("rational_quadratic", "length", length);
    detail::check_positive("rational_quadratic", "alpha", alpha);
    detail::check_positive("rational_quadratic", "length sqrt(alpha)", length * std::sqrt(alpha));
  }

 private:
  /// t = D / (2 alpha l^2), or `most` where it is beyond that; log(1 + t), k and dk/dD of the true t.
  template <class V>
  struct terms {
    V t, log1p, value, slope;
  };
  static constexpr T most = math::limits<T>::largest / T(4);
  template <class V>
  CRAFT_HOST_DEVICE terms<V> terms_at(V D) const {
    const V t = D * V(T(0.5) / (length * length) / alpha);
    if (math::any_at_least(t, most)) return beyond(D, -(math::max)(-t, V(-most)));
    const V u = V(T(1)) + t, inverse = V(T(1)) / u;
    const V log1p = math::log(u) + (t - (u - V(T(1)))) * inverse;  // what u has lost of t is not lost
    const V k = math::exp_times(log1p, -alpha);
    return {t, log1p, k, k * V(T(-0.5) / (length * length)) * inverse};  // in this order: k * inverse may be denormal
  }
  /// The same where t may be clipped: log t = log D - log(2 alpha l^2), and dk/dD = -k alpha / D, which is more than it is for
  /// others.
  template <class V>
  CRAFT_HOST_DEVICE terms<V> beyond(V D, V t) const {
    const T rest = math::log(most) + math::log(T(2)) + math::log(alpha) + T(2) * math::log(length);
    const V log1p = math::log1p(t) + (math::max)(math::log(D) - V(rest), V(T(0)));
    const V k = math::exp_times(log1p, -alpha), near = k * V(T(0.5) / (length * length)) / (V(T(1)) + t);
    return {t, log1p, k, -(math::min)(near, k * V(alpha) / D)};
  }
  /// log(1 + t) - t / (1 + t). Both are nearly t for small t: there, with w = t / (2 + t), it is
  /// 2 w^2 / (1 + w) + 2 w^3 (1/3 + w^2/5 + w^4/7 + ...), from log(1 + t) = 2 artanh(w).
  template <class V>
  CRAFT_HOST_DEVICE static V log1p_less_slope(V t, V log1p) {
    const V one(T(1)), two(T(2));
    const V w = t / (two + t), squared = w * w, far = log1p - t / (one + t);
    V series(T(0));
    for (int n = 15; n >= 0; --n) series = series * squared + V(T(1) / T(2 * n + 3));
    const V near = two * squared * (one / (one + w) + w * series);
    return near + math::where_positive(w - V(T(0.25)), far - near);
  }
};
template <class T, class U0>
rational_quadratic(T, U0) -> rational_quadratic<detail::parameter_t<T>>;
template <class T>
rational_quadratic(T, T) -> rational_quadratic<detail::parameter_t<T>>;

/// Negative Euclidean distance: k = -sqrt(max(D, floor)). As a kernel of MMD this gives the energy distance, as a
/// similarity of relative representations it is "-distance". Derivative where D <= floor: 0, so also at D = 0.
template <class T = double>
struct negative_distance : detail::distance_kernel<negative_distance<T>>, detail::no_parameters {
  T floor;  ///< of D, in squared units of x
  /// floor >= 0.
  CRAFT_HOST_DEVICE explicit negative_distance(T floor_ = T(0)) : floor(floor_) {}

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    const V r = math::sqrt((math::max)(D, V(floor)));
    return {-r, math::where_positive(D - V(floor), V(T(-0.5)) / r)};
  }
  template <class U>
  negative_distance<U> as() const {
    return negative_distance<U>(U(floor));
  }
  void check() const { detail::check_floor("negative_distance", "floor", floor); }
};

template <class T>
negative_distance(T) -> negative_distance<detail::parameter_t<T>>;

/// The energy kernel of MMD, k = -|x - y|: negative_distance under the name it has there.
template <class T = double>
using energy = negative_distance<T>;

/// Dot product: k = s = x . y
template <class T = double>
struct dot_product : detail::no_parameters {
  static constexpr bool translation_invariant = false;
  static constexpr bool linear = true;  ///< no norms, and the same slope everywhere: its pull-back needs no dot products
  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V, V) const {
    return s;
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V, V) const {
    return {s, V(T(1)), V(T(0)), V(T(0))};
  }
  template <class U>
  dot_product<U> as() const {
    return {};
  }
};

/// Cosine: k = s / sqrt(a b); 0 with zero derivatives if either row is zero.
template <class T = double>
struct cosine : detail::no_parameters {
  static constexpr bool translation_invariant = false;
  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    return s * (inverse_norm(a) * inverse_norm(b));
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V a, V b) const {
    const V ra = inverse_norm(a), rb = inverse_norm(b);
    const V k = s * (ra * rb), half = k * V(T(-0.5));
    return {k, ra * rb, half * ra * ra, half * rb * rb};
  }
  template <class U>
  cosine<U> as() const {
    return {};
  }

 private:
  template <class V>
  CRAFT_HOST_DEVICE static V inverse_norm(V squared) {
    return math::where_positive(squared, V(T(1)) / math::sqrt(squared));
  }
};

/// Polynomial: k = (s / length^2 + offset)^degree. The kernel inception distance has length sqrt(d), offset 1 and degree 3; other
/// libraries call 1 / length^2 gamma and the offset coef0.
template <class T = double>
struct polynomial {
  static constexpr bool translation_invariant = false;
  static constexpr int highest_degree = 32;  ///< the largest that is taken
  T length,    ///< bandwidth 0, in the units of x
      offset;  ///< bandwidth 1
  int degree;  ///< 1 and up
  /// length > 0, degree from 1 to highest_degree.
  CRAFT_HOST_DEVICE polynomial(T length_, T offset_, int degree_) : length(length_), offset(offset_), degree(degree_) {}

  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V, V) const {
    const V b = base(s);
    return lower_power(b) * b;
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V, V) const {
    const V b = base(s), lower = lower_power(b);
    return {lower * b, lower * V(T(degree) * gamma()), V(T(0)), V(T(0))};
  }
  CRAFT_HOST_DEVICE int weights() const { return 0; }
  CRAFT_HOST_DEVICE int bandwidths() const { return 2; }
  /// With b = s / length^2 + offset: dk/dlength = -2 s / length^3 degree b^(degree - 1), dk/doffset = degree b^(degree - 1)
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V, V, W&&, B&& bandwidth) const {
    const V slope = lower_power(base(s)) * V(T(degree));
    bandwidth(0, slope * (s * V(gamma())) * V(T(-2) / length));
    bandwidth(1, slope);
  }
  template <class U>
  polynomial<U> as() const {
    return polynomial<U>(U(length), U(offset), degree);
  }
  void check() const {
    detail::check_positive("polynomial", "length", length);
    require<option_error>(std::isfinite(double(offset)), "polynomial: offset must be finite, got ", double(offset));
    require<option_error>(degree >= 1 && degree <= highest_degree, "polynomial: degree must lie between 1 and ",
                          int(highest_degree), ", got ", degree);
  }

 private:
  CRAFT_HOST_DEVICE T gamma() const { return T(1) / (length * length); }
  template <class V>
  CRAFT_HOST_DEVICE V base(V s) const {
    return s * V(gamma()) + V(offset);
  }
  /// b^(degree - 1)
  template <class V>
  CRAFT_HOST_DEVICE V lower_power(V b) const {
    V power(T(1));
    for (int p = 1; p < degree; ++p) power = power * b;
    return power;
  }
};
template <class T, class U0>
polynomial(T, U0, int) -> polynomial<detail::parameter_t<T>>;
template <class T>
polynomial(T, T, int) -> polynomial<detail::parameter_t<T>>;

// ---------------------------------------------------------------------------------------------------------
// Several bandwidths at once

/// Weighted sum of Gaussians: k = sum_q beta_q exp(-D / (2 sigma_q^2)), at most 64 of them, in one pass.
/// Weights and bandwidths are its parameters, in the order given.
///
/// When the inverse variances form a geometric series with an integer ratio (sigma^2 = 1/4, 1/2, 1, 2, 4: ratio 2) one
/// exponential serves several: the narrower ones are powers of the widest, up to the 16th, which multiplies the
/// exponential's own rounding by 16; then there is a new one. The members are kept in
/// descending order of sigma inside for that; `order` remembers where each one stood.
template <class T = double>
struct gaussians : detail::distance_kernel<gaussians<T>> {
  static constexpr bool smooth = true;
  static constexpr int capacity = 64;       ///< the most members
  static constexpr int highest_power = 16;  ///< of an exponential
  int count = 0;                            ///< members
  int ratio = 0;                            ///< of successive inverse variances if integer and constant, else 0
  int run = 1;                              ///< members that share an exponential
  int doubling = 0;                         ///< how many, if all do, each the square of the one before; else 0
  T gamma[capacity],                   ///< 1 / (2 sigma^2)
      beta[capacity],                  ///< weights
      beta_gamma[capacity],            ///< their products
      sigma[capacity];                 ///< bandwidths, in the units of x
  int order[capacity];                 ///< where each of the above stood in the list given

  /// Weighted sum; sigma and beta of the same size, 1 to 64.
  gaussians(const std::vector<T>& sigmas, const std::vector<T>& betas) {
    require<option_error>(!sigmas.empty() && sigmas.size() <= capacity, "gaussians: expected 1 to ", int(capacity),
                          " bandwidths, got ", sigmas.size());
    require<option_error>(sigmas.size() == betas.size(), "gaussians: expected one weight per bandwidth, got ",
                          betas.size(), " weights for ", sigmas.size(), " bandwidths");
    count = int(sigmas.size());
    for (int q = 0; q < count; ++q) {
      const T one = sigmas[std::size_t(q)];
      int at = q;
      for (; at > 0 && sigma[at - 1] < one; --at) {
        sigma[at] = sigma[at - 1];
        order[at] = order[at - 1];
      }
      sigma[at] = one;
      order[at] = q;
    }
    for (int q = 0; q < count; ++q) {
      beta[q] = betas[std::size_t(order[q])];
      gamma[q] = T(1) / (T(2) * sigma[q] * sigma[q]);
      beta_gamma[q] = beta[q] * gamma[q];
    }
    check();
    find_series();
  }
  /// Sum: every weight 1.
  explicit gaussians(const std::vector<T>& sigmas) : gaussians(sigmas, std::vector<T>(sigmas.size(), T(1))) {}
  gaussians(std::initializer_list<T> sigmas) : gaussians(std::vector<T>(sigmas)) {}

  /// Mean: every weight 1 / count.
  static gaussians mean(const std::vector<T>& sigmas) {
    return gaussians(sigmas, std::vector<T>(sigmas.size(), T(1) / T(sigmas.size())));
  }

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    return doubling > 0 ? squares(D) : powers(D);
  }
  CRAFT_HOST_DEVICE int weights() const { return count; }
  CRAFT_HOST_DEVICE int bandwidths() const { return count; }
  /// dk/dbeta_q = exp(-D / (2 sigma_q^2)), dk/dsigma_q = beta_q exp(...) D / sigma_q^3
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&& weight, B&& bandwidth) const {
    const V D = this->squared_distance(s, a, b);
    for (int q = 0; q < count; ++q) {  // each by an exponential of its own, since its digits count for themselves here
      const V k = math::exp_times(D, -gamma[q]);
      weight(order[q], k);
      bandwidth(order[q], V(beta[q]) * k * detail::exponent(D, gamma[q]) * V(T(2) / sigma[q]));
    }
  }
  template <class U>
  gaussians<U> as() const {
    gaussians<U> other;
    other.count = count;
    for (int q = 0; q < count; ++q) {
      other.sigma[q] = U(sigma[q]);
      other.beta[q] = U(beta[q]);
      other.gamma[q] = U(1) / (U(2) * other.sigma[q] * other.sigma[q]);
      other.beta_gamma[q] = other.beta[q] * other.gamma[q];
      other.order[q] = order[q];
    }
    other.find_series();
    return other;
  }
  void check() const {
    for (int q = 0; q < count; ++q) {
      detail::check_positive("gaussians", "sigma", sigma[q]);
      require<option_error>(std::isfinite(double(beta[q])), "gaussians: weights must be finite, got ", double(beta[q]));
    }
  }

 private:
  template <class>
  friend struct gaussians;
  gaussians() = default;  // for as()

  /// From the widest to the narrowest, each the square of the one before: most often five.
  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> squares(V D) const {
    const V widest = math::exp_times(D, -gamma[0]);
    return doubling == 5 ? squares<V, 5>(widest, 5) : squares<V, 0>(widest, count);
  }
  /// Known: how many there are, or 0.
  template <class V, int Known>
  CRAFT_HOST_DEVICE detail::radial<V> squares(V k, int many) const {
    V value = k * V(beta[0]), slope = k * V(-beta_gamma[0]);
    for (int q = 1; q < (Known > 0 ? Known : many); ++q) {
      k = k * k;
      value = value + k * V(beta[q]);
      slope = slope - k * V(beta_gamma[q]);
    }
    return {value, slope};
  }
  /// The same by powers of `ratio`, and with a new exponential after every run of them.
  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> powers(V D) const {
    V value(T(0)), slope(T(0)), k(T(0));
    for (int q = 0, left = 0; q < count; ++q, --left) {
      if (left == 0) {
        k = math::exp_times(D, -gamma[q]);
        left = run;
      } else {
        const V base = k;
        for (int p = 1; p < ratio; ++p) k = k * base;
      }
      add(k, q, value, slope);
    }
    return {value, slope};
  }
  template <class V>
  CRAFT_HOST_DEVICE void add(V k, int q, V& value, V& slope) const {
    value = value + k * V(beta[q]);
    slope = slope - k * V(beta_gamma[q]);
  }
  void find_series() {
    ratio = series_ratio();
    run = 1;
    for (int power = ratio; power > 0 && power <= highest_power; power *= ratio) ++run;
    doubling = ratio == 2 && count <= run ? count : 0;
  }
  int series_ratio() const {
    if (count < 2) return 0;
    const double first = double(gamma[1]) / double(gamma[0]);
    const int rounded = int(std::lround(first));
    if (rounded < 2 || rounded > 8) return 0;
    for (int q = 1; q < count; ++q) {
      const double r = double(gamma[q]) / double(gamma[q - 1]);
      if (std::abs(r - rounded) > 8 * double(std::numeric_limits<T>::epsilon()) * rounded) return 0;
    }
    return rounded;
  }
};

/// weight * kernel; the weight is the first of its weights.
template <class T, class K>
struct scaled {
  static constexpr bool translation_invariant = K::translation_invariant;
  static constexpr bool smooth = engine::is_smooth<K>::value;
  T weight;  ///< its weight 0
  K kernel;  ///< the pair function that is scaled

  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    return V(weight) * kernel.value(s, a, b);
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V a, V b) const {
    const pair_partials<V> k = kernel.partials(s, a, b);
    const V w(weight);
    return {w * k.value, w * k.ds, w * k.da, w * k.db};
  }
  CRAFT_HOST_DEVICE int weights() const { return 1 + kernel.weights(); }
  CRAFT_HOST_DEVICE int bandwidths() const { return kernel.bandwidths(); }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&& add_weight, B&& bandwidth) const {
    const V w(weight);
    add_weight(0, kernel.value(s, a, b));
    kernel.parameters(
        s, a, b, [&](int q, V k) { add_weight(1 + q, w * k); }, [&](int q, V k) { bandwidth(q, w * k); });
  }
  template <class U>
  auto as() const {
    auto k = kernel.template as<U>();
    return scaled<U, decltype(k)>{U(weight), k};
  }
  void check() const {
    require<option_error>(std::isfinite(double(weight)), "kernel: weights must be finite, got ", double(weight));
    kernel.check();
  }
};

/// first + second; parameters of the first, then of the second.
template <class A, class B>
struct kernel_sum {
  static constexpr bool translation_invariant = A::translation_invariant && B::translation_invariant;
  static constexpr bool smooth = engine::is_smooth<A>::value && engine::is_smooth<B>::value;
  A first;   ///< its parameters come first
  B second;  ///< then come those of this one

  template <class V>
  CRAFT_HOST_DEVICE V value(V s, V a, V b) const {
    return first.value(s, a, b) + second.value(s, a, b);
  }
  template <class V>
  CRAFT_HOST_DEVICE pair_partials<V> partials(V s, V a, V b) const {
    const pair_partials<V> f = first.partials(s, a, b), g = second.partials(s, a, b);
    return {f.value + g.value, f.ds + g.ds, f.da + g.da, f.db + g.db};
  }
  CRAFT_HOST_DEVICE int weights() const { return first.weights() + second.weights(); }
  CRAFT_HOST_DEVICE int bandwidths() const { return first.bandwidths() + second.bandwidths(); }
  template <class V, class W, class H>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&& weight, H&& bandwidth) const {
    first.parameters(s, a, b, weight, bandwidth);
    const int w = first.weights(), h = first.bandwidths();
    second.parameters(
        s, a, b, [&](int q, V k) { weight(w + q, k); }, [&](int q, V k) { bandwidth(h + q, k); });
  }
  template <class U>
  auto as() const {
    auto f = first.template as<U>();
    auto g = second.template as<U>();
    return kernel_sum<decltype(f), decltype(g)>{f, g};
  }
  void check() const {
    first.check();
    second.check();
  }
};

/// The kernels of the distance by name, for programs that learn the kernel when they run.
enum class kernel_family { gaussian, laplacian, inverse_multiquadric, rational_quadratic, energy };

/// Weighted sum of at most 16 kernels of the distance whose families are known when the program runs:
/// k = sum_q weight_q k_q. Its weights are those of its members and its bandwidths theirs, in the order given.
template <class T = double>
struct any_kernel : detail::distance_kernel<any_kernel<T>> {
  static constexpr int capacity = 16;  ///< the most members
  static constexpr bool heavy = true;  ///< takes so many registers that a GPU looks at fewer pairs at a time
  /// One of the kernels, and its weight.
  struct member {
    kernel_family family = kernel_family::gaussian;  ///< which one
    T weight = T(1);                                 ///< what it is multiplied by
    T bandwidth = T(1);  ///< sigma, sigma, c, length; none for energy
    T shape = T(0);      ///< rational_quadratic: alpha; laplacian and energy: floor; inverse_multiquadric: eps
  };
  int count = 0;             ///< members
  member members[capacity];  ///< in the order given

  /// 1 to 16 of them. Throws option_error for another number of them, or a parameter outside its range.
  explicit any_kernel(const std::vector<member>& given) {
    require<option_error>(!given.empty() && given.size() <= capacity, "any_kernel: expected 1 to ", int(capacity),
                          " kernels, got ", given.size());
    for (const member& m : given) members[count++] = m;
    check();
  }

  template <class V>
  CRAFT_HOST_DEVICE detail::radial<V> at(V D) const {
    detail::radial<V> sum{V(T(0)), V(T(0))};
    for (int q = 0; q < count; ++q) {
      const V w(members[q].weight);
      visit(members[q], [&](const auto& k) {
        const detail::radial<V> one = k.at(D);
        sum.value = sum.value + w * one.value;
        sum.slope = sum.slope + w * one.slope;
      });
    }
    return sum;
  }
  CRAFT_HOST_DEVICE int weights() const { return count; }
  CRAFT_HOST_DEVICE int bandwidths() const {
    int total = 0;
    for (int q = 0; q < count; ++q) visit(members[q], [&](const auto& k) { total += k.bandwidths(); });
    return total;
  }
  template <class V, class W, class B>
  CRAFT_HOST_DEVICE void parameters(V s, V a, V b, W&& weight, B&& bandwidth) const {
    int first = 0;
    for (int q = 0; q < count; ++q) {
      const V w(members[q].weight);
      visit(members[q], [&](const auto& k) {
        weight(q, k.value(s, a, b));
        k.parameters(
            s, a, b, [](int, V) {}, [&](int p, V slope) { bandwidth(first + p, w * slope); });
        first += k.bandwidths();
      });
    }
  }
  template <class U>
  any_kernel<U> as() const {
    any_kernel<U> other;
    other.count = count;
    for (int q = 0; q < count; ++q)
      other.members[q] = {members[q].family, U(members[q].weight), U(members[q].bandwidth), U(members[q].shape)};
    return other;
  }
  void check() const {
    for (int q = 0; q < count; ++q) {
      require<option_error>(std::isfinite(double(members[q].weight)), "any_kernel: weights must be finite, got ",
                            double(members[q].weight));
      bool known = false;
      visit(members[q], [&](const auto& k) {
        known = true;
        k.check();
      });
      require<option_error>(known, "any_kernel: no family has the number ", int(members[q].family));
    }
  }

 private:
  template <class>
  friend struct any_kernel;
  any_kernel() = default;  // for as()

  template <class F>
  CRAFT_HOST_DEVICE static void visit(const member& m, const F& f) {
    switch (m.family) {
      case kernel_family::gaussian: return f(gaussian<T>(m.bandwidth));
      case kernel_family::laplacian: return f(laplacian<T>(m.bandwidth, m.shape));
      case kernel_family::inverse_multiquadric: return f(inverse_multiquadric<T>(m.bandwidth, m.shape));
      case kernel_family::rational_quadratic: return f(rational_quadratic<T>(m.bandwidth, m.shape));
      case kernel_family::energy: return f(negative_distance<T>(m.shape));
    }
  }
};

/// Whether K is a pair function: what the verbs ask of a kernel, also of a caller's own.
template <class K, class = void>
struct is_pair_function : std::false_type {};
template <class K>
struct is_pair_function<
    K, std::void_t<decltype(std::declval<const K&>().partials(1.0, 1.0, 1.0).ds),
                   decltype(std::declval<const K&>().value(1.0, 1.0, 1.0)),
                   decltype(std::declval<const K&>().weights()), decltype(std::declval<const K&>().bandwidths()),
                   decltype(std::declval<const K&>().check()), decltype(std::declval<const K&>().template as<float>()),
                   decltype(K::translation_invariant)>> : std::true_type {};

/// Checks a kernel's parameters, as they were given and as they are computed with.
template <class T, class K>
void check_kernel(const K& kernel) {
  kernel.check();
  kernel.template as<T>().check();
}

/// The sum of two pair functions is a pair function.
template <class A, class B, class = std::enable_if_t<is_pair_function<A>::value && is_pair_function<B>::value>>
kernel_sum<A, B> operator+(const A& first, const B& second) {
  return {first, second};
}
/// A pair function times a number is a pair function.
template <class K, class = std::enable_if_t<is_pair_function<K>::value>>
scaled<double, K> operator*(double weight, const K& kernel) {
  return {weight, kernel};
}

}  // namespace craft
