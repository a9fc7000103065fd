// A callable that somebody else holds, as two pointers. What takes one is compiled once, not once per callable: threads, sweeps
// and pieces of work are the same code whatever is done in them. Calls are indirect, so they are for a piece of work, never for a
// number.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace craft::engine {

template <class Signature>
class function_ref;

template <class R, class... Arguments>
class function_ref<R(Arguments...)> {
 public:
  /// f must outlive the calls, and may be called from several threads at once.
  template <class F, class = std::enable_if_t<!std::is_same_v<F, function_ref>>>
  function_ref(const F& f)  // NOLINT: a callable is what is wanted
      : object_(std::addressof(f)), call_(&call<F>) {}
  /// The same by its parts.
  function_ref(const void* of, R (*by)(const void*, Arguments...)) : object_(of), call_(by) {}
  R operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  template <class F>
  static R call(const void* object, Arguments... arguments) {
    return (*static_cast<const F*>(object))(std::forward<Arguments>(arguments)...);
  }
  const void* object_;
  R (*call_)(const void*, Arguments...);
};

}  // namespace craft::engine
