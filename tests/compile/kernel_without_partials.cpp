// error: craft: mmd wants a pair function
#include "craft/mmd.hpp"

struct half_dot : craft::detail::no_parameters {
  static constexpr bool translation_invariant = false;
  template <class V>
  V value(V s, V, V) const {
    return s * V(0.5);
  }
#ifndef WRONG
  template <class V>
  craft::pair_partials<V> partials(V s, V, V) const {
    return {s * V(0.5), V(0.5), V(0), V(0)};
  }
#endif
  template <class U>
  half_dot as() const {
    return {};
  }
};

void call(double* memory) {
  const auto x = craft::view(memory, 4, 2);
  craft::cpu ctx;
  double value = 0;
  craft::mmd(ctx, x, x, half_dot(), {}, value);
}
