// Runtime: every verb by its name, for hosts that learn verb, element type, device and kernel when the program runs.
//
//     craft::runtime::call call("mmd");
//     call.give("x", craft::runtime::matrix{pointer, n, d, stride, craft::runtime::dtype::float16});
//     call.give("y", ...);
//     call.give("bandwidths", std::vector<double>{0.5, 1, 2});
//     call.check();
//     call.result("value", {&value, 1, 1});
//     call.gradient("x", {dx, n, d});
//     call.run(device);
//
// What arguments, results and gradients a verb has, with kinds, defaults and texts, is in verbs(): the descriptions that stand
// beside the verbs in their headers (craft/describe.hpp), written down. Adapters of frameworks are loops over that: they
// translate tensors into arrays (craft/adapters/arrays.hpp) and craft's errors into theirs, and name no verb and no option.
//
// Nothing is copied, and memory is looked at during run() only, but for a kernel's bandwidths and weights, which check() reads.
// What is computed, with which errors and at which cost, is what the verb of that name says. Values, gradients and other results
// have the computing type of the inputs: float64 of float64, else float32. So half gradients never underflow: hosts that want
// them narrower convert at the end.
//
// Compiled once: link craft::runtime, or include craft/adapters/runtime_bodies.hpp in one source.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "craft/adapters/arrays.hpp"
#include "craft/any_device.hpp"
#include "craft/kernels.hpp"

namespace craft::runtime {

// ---------------------------------------------------------------------------------------------------------
// Descriptions

/// Names of sizes, as in "n d" and "classes*per_class d": for each dimension the sizes that are multiplied.
using named_sizes = std::vector<std::vector<std::string>>;

/// An argument.
struct field {
  const char *name, *text;                   ///< as hosts show them
  runtime::kind kind;                        ///< what it is
  bool required = false;                     ///< whether it has no default; what is not given and has no number below is missing
  bool positional = false;                   ///< whether it may be given by its place
  std::vector<const char*> choices{};        ///< of a choice
  double number = 0;                         ///< default of a scalar or number; not finite: none, as of a limit
  index_t whole = 0;                         ///< default of an integer, a flag or a choice
  named_sizes shape{};                    ///< of an array
  int gradient = -1;                         ///< which of the gradients it has; -1: none
  bool two_sided = false;                    ///< whether its gradient may have two numbers, of the value and of its negative
};

/// A result.
struct result {
  const char *name, *text;            ///< as hosts show them
  dtype type;                         ///< float32 stands for the computing type
  named_sizes shape;               ///< its sizes; none: one number
  std::vector<const char*> names{};   ///< of its numbers, if they have names: then only the last has gradients
};

class call;

/// A verb.
struct verb {
  const char *name, *module, *text;              ///< see describe.hpp
  const char *pullback, *pushforward;            ///< of a map; null: it is none
  std::vector<runtime::field> fields;            ///< in the order in which hosts take them
  std::vector<runtime::result> results;          ///< in order
  std::vector<int> gradients;                    ///< the fields that have one
  int matrices = 0;                              ///< how many fields are arrays of samples: without any, a verb runs on the host
  void (*run)(call&, const any_device&);         ///< what call::run calls
  void (*rehearse)(call&);                       ///< what call::rehearse calls; null: nothing

  /// The number of a field. Throws option_error for another name, with those there are.
  int field_named(std::string_view name) const;
  /// The number of a result, or of a gradient by the name of its field. Throws option_error as above.
  int result_named(std::string_view name) const;
  int gradient_named(std::string_view name) const;  ///< the same
};

/// All verbs, in the order in which they are shown.
const std::vector<verb>& verbs();
/// The verb of that name. Throws option_error for another, with those there are.
const verb& verb_named(std::string_view name);

/// A kernel or similarity by name: "dot_product", "cosine", "polynomial", or a weighted sum of kernels of the distance.
class kernel {
 public:
  using member = any_kernel<double>::member;  ///< one kernel of the distance, with its weight
  /// What it depends on.
  enum class form { dot_product, cosine, polynomial, distance };

  kernel() = default;  ///< a Gaussian, sigma = 1
  /// Of the distance: at most 16 of any family, or 64 Gaussians.
  explicit kernel(std::vector<member> members);
  /// family: one of families(). bandwidths: one kernel each (sigma, sigma, c, length), of polynomial at most one; none: one of 1,
  /// for families that have any. weights: one each, or none for 1 each. shape: alpha of rational_quadratic (needed), offset of
  /// polynomial (1), eps of inverse_multiquadric and floor of laplacian and energy (0). degree: of polynomial. Throws option_error
  /// for an unknown name, sizes that do not fit, and what the family has no use for.
  kernel(std::string_view family, const std::vector<double>& bandwidths, const std::vector<double>& weights = {},
         std::optional<double> shape = {}, index_t degree = usual_degree);
  static constexpr index_t usual_degree = 3;  ///< of polynomial
  /// The names there are.
  static const std::vector<const char*>& families();

  craft::runtime::kernel::form form() const { return form_; }      ///< what it depends on
  const std::vector<member>& members() const { return members_; }  ///< of a kernel of the distance; of polynomial length and offset
  index_t degree() const { return degree_; }                       ///< of polynomial
  index_t weights() const;                                         ///< size of the gradient by weights
  index_t bandwidths() const;  ///< size of the gradient by bandwidths: of some families, more than one for each

 private:
  enum form form_ = form::distance;
  std::vector<member> members_ = {member{}};
  index_t degree_ = usual_degree;
};

// ---------------------------------------------------------------------------------------------------------
// Calls

/// The sizes of a result.
struct extent {
  int dimensions = 0;           ///< 0: one number
  std::int64_t sizes[2]{1, 1};  ///< rows and numbers of each; of a list the first
};

/// One call of a verb.
///
/// Arguments are given by the numbers of their fields, or by name; what is wrong with them is said by check(), of all at once.
/// Then sizes and types of results are known, and places for them are given, and run() computes. A call runs once.
class call {
 public:
  explicit call(const runtime::verb& verb);                                  ///< of that verb
  explicit call(std::string_view verb) : call(runtime::verb_named(verb)) {}  ///< of the verb of that name
  const runtime::verb& verb() const { return verb_; }                        ///< its description

  void give(int field, const array& value);                         ///< for all kinds of arrays
  void give(int field, const matrix& value);                        ///< the same
  void give(int field, double value);                               ///< for number, scalar, list
  void give(int field, index_t value);                              ///< for whole, and where a number may stand
  void give(int field, int value) { give(field, index_t(value)); }  ///< the same
  void give(int field, bool value);                                 ///< for flag
  void give(int field, std::string_view value);                     ///< for choice
  void give(int field, const char* value) { give(field, std::string_view(value)); }  ///< the same
  void give(int field, const std::vector<double>& value);                            ///< for list
  void give(int field, const std::vector<index_t>& value);                           ///< for wholes
  /// By name. Throws option_error for a name that is none.
  template <class Value>
  void give(const char* field, const Value& value) {
    give(verb_.field_named(field), value);
  }
  /// What is wrong with an argument, in words of the host; type: whether it is of the wrong type.
  void refuse(const std::string& fault, bool type);
  /// The same of an argument that counts as given, so that it is not said to be missing too.
  void refuse(int field, const std::string& fault, bool type);
  /// dL/dvalue, which multiplies the gradients: a number, or one that is read when the verb runs.
  void upstream(const scalar& value) { upstream_ = value; }

  /// Throws type_error, else shape_error, else option_error, with all that is wrong. Arrays without memory are good here: what a
  /// host that traces knows are sizes.
  void check();
  /// check(), and all that the verb itself says of sizes and options, for hosts that trace; of losses and their modules. Computes
  /// nothing.
  void rehearse();

  dtype type() const { return computing(type_); }  ///< what is computed in; after check()
  dtype stored_type() const { return type_; }      ///< that of the samples; after check()
  bool given(int field) const;                     ///< whether it is there
  extent sizes(const named_sizes& of) const;             ///< in this call; after check()
  extent result_sizes(int result) const { return sizes(verb_.results.at(std::size_t(result)).shape); }  ///< the same
  dtype result_type(int result) const;  ///< of a result in this call
  /// Those of what it belongs to; after check(). Throws option_error for what is not there and so has no gradient.
  extent gradient_sizes(int gradient) const;

  /// Must be given for all results of the computing type, in the memory of the device. The others may be left out, have the
  /// narrower type of their kind (float32, int32), and lie in host memory too.
  void result(int result, const place& to);
  void gradient(int gradient, const place& to);  ///< for those that are wanted
  /// By name, as above.
  void result(const char* name, const place& to) { result(verb_.result_named(name), to); }
  /// By the name of what it belongs to.
  void gradient(const char* name, const place& to) { gradient(verb_.gradient_named(name), to); }

  /// Computes, after check() where nobody has called it since the last argument was given. Throws what the verb throws,
  /// type_error and shape_error for places of the wrong type and size, device_error for memory of another device, and has written
  /// nothing then.
  void run(const any_device& device);

 private:
  template <class, class>
  friend class typed_call;
  struct argument {  // small: there may be thirty of a call, and most are defaults
    enum class form : unsigned char { missing, refused, array, number, whole, numbers, wholes } is = form::missing;
    int at = 0;  // of an array or a list: which of arrays_, numbers_, wholes_
    double number = 0;
    index_t whole = 0;
  };
  enum class severity : unsigned char { none, option, shape, type };  ///< of a fault: which error says so
  argument& at(int field, bool allowed, const char* got);
  void wrong(const runtime::field& f, const std::string& got);
  void add_fault(const std::string& fault, severity how_bad);
  void check_arguments();
  void check_sizes();
  void check_kernel();
  void check_memory(memory space) const;
  void check_results(memory space) const;
  void has_gradient(int gradient) const;
  index_t size_named(const std::string& name) const;
  std::vector<double> list(int field) const;
  const runtime::matrix& array_of(const argument& a) const { return arrays_[std::size_t(a.at)]; }

  const runtime::verb& verb_;
  std::vector<argument> arguments_;
  std::vector<runtime::matrix> arrays_;
  std::vector<std::vector<double>> numbers_;
  std::vector<std::vector<index_t>> wholes_;
  std::vector<place> results_, gradients_;
  scalar upstream_ = 1.0;
  dtype type_ = dtype::float32;
  runtime::kernel kernel_{};
  int kernel_field_ = -1;
  std::vector<std::pair<const std::string*, index_t>> sizes_;
  std::string faults_;
  severity worst_ = severity::none;
  bool checked_ = false;
};

/// A context on the host for programs that are loaded into others': so many threads (0: OpenMP's), but one in a process that was
/// forked after this library was loaded, where OpenMP's threads may be gone and waiting for them would never end; and with the
/// function of stop_with.
cpu host_context(int threads = 0);
/// What contexts of host_context ask from now on whether to stop (cpu::stop), on any thread; null: nothing. For the whole
/// process, as far as it has this copy of the library.
void stop_with(bool (*asked)());

}  // namespace craft::runtime
