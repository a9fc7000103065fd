// The bodies of craft/adapters/runtime.hpp, for exactly one source of a program; the library craft::runtime is that source.
#pragma once

#ifdef __unix__
#include <pthread.h>
#endif

#include "craft/adapters/runtime/call.hpp"
#include "craft/adapters/runtime/recorder.hpp"
#include "craft/adapters/runtime/typed_call.hpp"

namespace craft::runtime {

// ---------------------------------------------------------------------------------------------------------
// Every verb

namespace detail {

template <class V, class = void>
constexpr const char* pullback_of = nullptr;
template <class V>
constexpr const char* pullback_of<V, std::void_t<decltype(V::pullback)>> = V::pullback;
template <class V, class = void>
constexpr const char* pushforward_of = nullptr;
template <class V>
constexpr const char* pushforward_of<V, std::void_t<decltype(V::pushforward)>> = V::pushforward;

template <class... V>
std::vector<verb> described(verb_list<V...>) {
  std::vector<verb> all;
  const auto add = [&](auto v) {
    using W = decltype(v);
    verb one{W::name, W::module, W::text, pullback_of<W>, pushforward_of<W>, {}, {}, {}, 0, &run<W>, nullptr};
    if constexpr (*W::module != '\0') one.rehearse = &rehearse<W>;  // of what is differentiated, and so traced
    recorder r(one);
    W::call(r);
    for (field& f : one.fields) f.two_sided &= !one.results.empty();  // who pulls a map back is given what comes from above
    all.push_back(std::move(one));
  };
  (add(V()), ...);
  return all;
}

}  // namespace detail

const std::vector<verb>& verbs() {
  static const std::vector<verb> all = detail::described(craft::verbs::all());
  return all;
}

// ---------------------------------------------------------------------------------------------------------
// Threads and signals of the process

namespace detail {
inline bool (*stop_asked)() = nullptr;
#ifdef __unix__
inline bool in_child = false;  // not getpid(), which asks the kernel in every call
inline const int watched = pthread_atfork(nullptr, nullptr, [] { in_child = true; });
inline bool forked() { return in_child; }
#else
inline bool forked() { return false; }
#endif
}  // namespace detail

cpu host_context(int threads) {
  cpu ctx = detail::forked() ? cpu(1) : threads > 0 ? cpu(threads) : cpu();
  if (detail::stop_asked != nullptr) ctx.stop(detail::stop_asked);
  return ctx;
}
void stop_with(bool (*asked)()) { detail::stop_asked = asked; }

}  // namespace craft::runtime
