// What happens to the rows of a sample, one by one: from the caller's memory and back, norms, shifts and scalings of columns, and
// the ways back of their gradients. Each is a step (contract.hpp), and a function that has an engine run it.
#pragma once

#include <cmath>

#include "craft/steps/given.hpp"

namespace craft::engine {

// ---------------------------------------------------------------------------------------------------------
// From the caller's memory and back

/// to_i = x_i, in another type
template <class T, class S>
struct load_step {
  const S* from;
  index_t d, stride;
  T* to;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const S* x = from + i * stride;
    T* r = to + i * d;
    g.template each<T>(d, [&](auto at) { at.store(r, at.load(x)); });
  }
};
/// out_i (=, +=) factor x_i
template <class T, class S>
struct store_step {
  const T* from;
  index_t d;
  S* to;
  index_t stride;
  number factor;
  bool accumulate;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    const T *r = from + i * d, f = T(double(factor));
    S* out = to + i * stride;
    g.template each<T>(d, [&](auto at) {
      using V = decltype(at.load(r));
      at.store(out, accumulate ? at.load(out) + V(f) * at.load(r) : V(f) * at.load(r));
    });
  }
};
/// to_q (=, +=) factor values_q
template <class T>
struct store_vector_step {
  const double* from;
  T* to;
  index_t stride;
  number factor;
  bool accumulate;
  CRAFT_HOST_DEVICE void operator()(index_t q) const {
    T& out = to[q * stride];
    out = T((accumulate ? double(out) : 0.0) + double(factor) * from[q]);
  }
};
/// to = factor total + offset
template <class T>
struct write_value_step {
  T* to;
  const double* total;
  double factor, offset;
  CRAFT_HOST_DEVICE void operator()(index_t) const { *to = T(factor * *total + offset); }
};

template <class T, class Engine, class S, memory M>
void load(Engine& e, const matrix_view<const S, M>& x, T* to) {
  e.each_row(x.rows(), x.cols(), load_step<T, S>{x.data(), x.cols(), x.stride(), to});
}
template <class T, class Engine, class S, memory M>
void store(Engine& e, const T* g, const output<S, M>& out, const number& factor) {
  const auto& to = out.to;
  if (out.wanted())
    e.each_row(to.rows(), to.cols(),
               store_step<T, S>{g, to.cols(), to.data(), to.stride(), factor, out.mode == write::accumulate});
}
/// For a vector of any orientation.
template <class Engine, class T, memory M>
void store_vector(Engine& e, const double* values, const output<T, M>& out, const number& factor) {
  const auto& to = out.to;
  if (out.wanted())
    e.each(to.rows() * to.cols(), store_vector_step<T>{values, to.data(), to.cols() == 1 ? to.stride() : 1, factor,
                                                       out.mode == write::accumulate});
}
template <class Engine, class T, memory M>
void write_value(Engine& e, const scalar_out<T, M>& to, const double* total, double factor = 1, double offset = 0) {
  e.each(1, write_value_step<T>{to.get(), total, factor, offset});
}

// ---------------------------------------------------------------------------------------------------------
// By index

/// out_a = x_(index_a). An index that nobody could check must not read elsewhere: it makes the row NaN.
template <class S>
struct gather_step {
  const S* from;
  index_t n, d, stride;
  const index_t* index;
  S* to;
  index_t to_stride;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t a, const Lanes& g) const {
    using T = compute_t<S>;
    const index_t i = index[a];
    S* out = to + a * to_stride;
    if (i < 0 || i >= n) return g.template each<T>(d, [&](auto at) { at.store(out, math::limits<T>::not_a_number); });
    const S* x = from + i * stride;
    g.template each<T>(d, [&](auto at) { at.store(out, at.load(x)); });
  }
};
template <class Engine, class S, memory M>
void gather(Engine& e, const matrix_view<const S, M>& x, const index_t* index, const matrix_view<S, M>& out) {
  e.each_row(out.rows(), out.cols(), gather_step<S>{x.data(), x.rows(), x.cols(), x.stride(), index, out.data(), out.stride()});
}

// ---------------------------------------------------------------------------------------------------------
// Norms

/// The least norm of a row that normalise does not count as zero: the inverse of what is below is beyond T.
template <class T>
CRAFT_HOST_DEVICE constexpr T least_norm() {
  return T(1) / math::limits<T>::largest;
}

/// to_i = scale x_i / |x_i|, or, if `minus` is given (d numbers), x_i / |x_i| - minus, in double before it is rounded: what is
/// left of unit rows that are nearly the same. inverse_norm_i = 1 / |x_i|; a zero row (least_norm) is not divided and has 0. A
/// row of what is not a number becomes that. to may be x.
template <class T, class S>
struct normalise_step {
  const S* from;
  index_t stride;
  T* to;
  index_t d;
  T* inverse_norm;
  number scale;
  const double* minus;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    if (minus != nullptr)
      divide<double>(i, g);
    else
      divide<T>(i, g);
  }

 private:
  template <class A, class Lanes>
  CRAFT_HOST_DEVICE void divide(index_t i, const Lanes& g) const {
    const S* x = from + i * stride;
    // Where squares cannot overflow or vanish, their sum is the quick way; else the largest is taken out of them first.
    A largest(1), root = math::sqrt(g.template sum<A>(d, [&](auto at) { return at.load(x) * at.load(x); }));
    const A high = math::limits<A>::epsilon / math::sqrt(math::limits<A>::smallest);
    if (!(root * high > A(1) && root < high)) {
      largest = g.template max<A>(d, [&](auto at) { return (math::max)(at.load(x), -at.load(x)); });
      const auto square = [&](auto at) {
        using V = decltype(at.load(x));
        const V part = at.load(x) / V(largest);
        return part * part;
      };
      root = largest > A(0) ? math::sqrt(g.template sum<A>(d, square)) : A(0);
    }
    const A norm = largest * root;
    if (norm < A(least_norm<T>())) return leave(x, i, g);
    const bool lost = norm < math::limits<A>::smallest;  // the norm has lost digits that its factors have
    const A by = A(T(double(scale)));
    T* r = to + i * d;
    g.template each<A>(d, [&](auto at) {
      using V = decltype(at.load(x));
      const V unit = lost ? at.load(x) / V(largest) / V(root) : at.load(x) / V(norm);
      at.store(r, minus != nullptr ? unit - at.load(minus) : unit * V(by));  // in this order: by / norm may be beyond T
    });
    if (g.first()) inverse_norm[i] = T(lost ? A(1) / root / largest : A(1) / norm);
  }
  // x - x is 0, and of what is not a number none.
  template <class Lanes>
  CRAFT_HOST_DEVICE void leave(const S* x, index_t i, const Lanes& g) const {
    T* r = to + i * d;
    const T zero = g.template sum<T>(d, [&](auto at) { return at.load(x) - at.load(x); });
    g.template each<double>(d, [&](auto at) {
      const auto left = at.load(x) - at.load(x);
      at.store(r, minus != nullptr ? left - at.load(minus) : left);
    });
    if (g.first()) inverse_norm[i] = zero;
  }
};
/// out_i (=, +=) factor scale (g_i - (g_i . u_i) u_i) / |x_i| for unit rows u = scaled / scale: the gradient through
/// normalise_step. out may be g.
template <class T, class S>
struct normalise_pullback_step {
  const T *g, *scaled;
  index_t d;
  const T* inverse_norm;
  number scale;
  S* out;
  index_t stride;
  number factor;
  bool accumulate;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& lanes) const {
    const T *gi = g + i * d, *xi = scaled + i * d;
    S* to = out + i * stride;
    // Never together with each other or with the norm: that may be beyond T.
    const T by = T(double(scale)), back = T(1 / double(scale)), f = T(double(factor)), inverse = inverse_norm[i];
    const T along = back * lanes.template sum<T>(d, [&](auto at) { return at.load(gi) * at.load(xi); });
    lanes.template each<T>(d, [&](auto at) {
      using V = decltype(at.load(gi));
      const V v = V(f) * (V(inverse) * (V(by) * (at.load(gi) - V(along) * (V(back) * at.load(xi)))));
      at.store(to, accumulate ? at.load(to) + v : v);
    });
  }
};
/// x_i *= |x_i|, from unit rows
template <class T>
struct unnormalise_step {
  T* x;
  index_t d;
  const T* inverse_norm;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* r = x + i * d;
    const T inverse = inverse_norm[i];
    if (inverse > T(0)) g.template each<T>(d, [&](auto at) { at.store(r, at.load(r) / decltype(at.load(r))(inverse)); });
  }
};

template <class T, class Engine, class S, memory M>
void load_normalised(Engine& e, const matrix_view<const S, M>& x, T* to, T* inverse_norm, const number& scale) {
  e.each_row(x.rows(), x.cols(), normalise_step<T, S>{x.data(), x.stride(), to, x.cols(), inverse_norm, scale, nullptr});
}
template <class T, class Engine>
void normalise(Engine& e, T* x, index_t n, index_t d, T* inverse_norm, const double* minus = nullptr) {
  e.each_row(n, d, normalise_step<T, T>{x, d, x, d, inverse_norm, 1, minus});
}
template <class T, class Engine, class S, memory M>
void store_normalised(Engine& e, const T* g, const T* scaled, const T* inverse_norm, const number& scale, const output<S, M>& out,
                      const number& factor) {
  const auto& to = out.to;
  e.each_row(to.rows(), to.cols(),
             normalise_pullback_step<T, S>{g, scaled, to.cols(), inverse_norm, scale, to.data(), to.stride(), factor,
                                           out.mode == write::accumulate});
}
template <class T, class Engine>
void normalise_pullback(Engine& e, T* g, const T* unit, index_t n, index_t d, const T* inverse_norm) {
  e.each_row(n, d, normalise_pullback_step<T, T>{g, unit, d, inverse_norm, 1, g, d, 1, false});
}
template <class T, class Engine>
void unnormalise(Engine& e, T* x, index_t n, index_t d, const T* inverse_norm) {
  e.each_row(n, d, unnormalise_step<T>{x, d, inverse_norm});
}

// ---------------------------------------------------------------------------------------------------------
// Factors and shifts

/// x_i *= factor
template <class T>
struct multiply_step {
  T* x;
  index_t d;
  number factor;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T *r = x + i * d, f = T(double(factor));
    g.template each<T>(d, [&](auto at) { at.store(r, at.load(r) * decltype(at.load(r))(f)); });
  }
};
/// x_ik += sign shift_k, in double
template <class T>
struct shift_step {
  T* x;
  index_t d;
  double sign;
  const double* shift;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* r = x + i * d;
    g.template each<double>(d, [&](auto at) { at.store(r, at.load(r) + decltype(at.load(r))(sign) * at.load(shift)); });
  }
};
/// x_ik *= factor_k, in double
template <class T>
struct multiply_columns_step {
  T* x;
  index_t d;
  const double* factor;
  template <class Lanes>
  CRAFT_HOST_DEVICE void operator()(index_t i, const Lanes& g) const {
    T* r = x + i * d;
    g.template each<double>(d, [&](auto at) { at.store(r, at.load(r) * at.load(factor)); });
  }
};
template <class T, class Engine>
void multiply(Engine& e, T* x, index_t n, index_t d, const number& factor) {
  e.each_row(n, d, multiply_step<T>{x, d, factor});
}
template <class T, class Engine>
void subtract(Engine& e, T* x, index_t n, index_t d, const double* shift) {
  e.each_row(n, d, shift_step<T>{x, d, -1, shift});
}
template <class T, class Engine>
void add(Engine& e, T* x, index_t n, index_t d, const double* shift) {
  e.each_row(n, d, shift_step<T>{x, d, 1, shift});
}
template <class T, class Engine>
void multiply_columns(Engine& e, T* x, index_t n, index_t d, const double* factor) {
  e.each_row(n, d, multiply_columns_step<T>{x, d, factor});
}

}  // namespace craft::engine
