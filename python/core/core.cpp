// craft_align._core: every verb on arrays of any library, by DLPack or the buffer protocol, and what verbs say about themselves.
//
// One function calls them all, through the descriptions of craft/adapters/runtime.hpp. Arrays are looked at where they are; results are
// memory of this module, which the library of the first array takes over without a copy. Host arrays are computed on the calling
// thread and OpenMP's, with the interpreter's lock released; those of a CUDA device in its legacy default stream.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "craft/adapters/runtime.hpp"

namespace nb = nanobind;
namespace runtime = craft::runtime;
using craft::index_t;
using craft::memory;

namespace {

using array_read = nb::ndarray<nb::ro>;

std::string class_of(nb::handle object) {
  const nb::handle type = object.type();
  const std::string module = nb::cast<std::string>(type.attr("__module__")), name = nb::cast<std::string>(type.attr("__name__"));
  return module == "builtins" ? name : module.substr(0, module.find('.')) + "." + name;
}
std::string shown(nb::handle object) { return nb::cast<std::string>(nb::repr(object)); }

// ---------------------------------------------------------------------------------------------------------
// Arrays in

/// The libraries that results are made for; all others that have arrays count as NumPy.
enum class library { none, numpy, torch, jax, cupy, tensorflow };

library library_of(nb::handle object) {
  const std::string module = nb::cast<std::string>(object.type().attr("__module__"));
  const std::string top = module.substr(0, module.find('.'));
  return top == "torch"                     ? library::torch
         : top == "jax" || top == "jaxlib" ? library::jax
         : top == "cupy"                    ? library::cupy
         : top == "tensorflow"              ? library::tensorflow
                                            : library::numpy;
}

bool is_array(nb::handle object) {
  return nb::ndarray_check(object) || nb::hasattr(object, "__dlpack__") || PyObject_CheckBuffer(object.ptr());
}

runtime::dtype type_of(const nb::dlpack::dtype& t) {
  const auto is = [&](nb::dlpack::dtype_code code, int bits) { return t.code == int(code) && t.bits == bits && t.lanes == 1; };
  using code = nb::dlpack::dtype_code;
  return is(code::Float, 64)    ? runtime::dtype::float64
         : is(code::Float, 32)  ? runtime::dtype::float32
         : is(code::Float, 16)  ? runtime::dtype::float16
         : is(code::Bfloat, 16) ? runtime::dtype::bfloat16
         : is(code::Int, 64)    ? runtime::dtype::int64
         : is(code::Int, 32)    ? runtime::dtype::int32
                                : runtime::dtype::other;
}
runtime::dtype type_named(const std::string& name) {
  for (const char* known : {"float64", "float32", "float16", "bfloat16", "int64", "int32"})
    if (name == known) return runtime::dtype_named(name);
  return runtime::dtype::other;
}
std::string text_of(const nb::dlpack::dtype& t) {
  const char* const names[] = {"int", "uint", "float", nullptr, "bfloat", "complex", "bool"};
  if (t.lanes == 1 && t.code == 6) return "bool";
  if (t.lanes == 1 && t.code < 7 && names[t.code] != nullptr) return names[t.code] + std::to_string(int(t.bits));
  return "type code " + std::to_string(int(t.code)) + " of " + std::to_string(int(t.bits)) + " bits";
}

/// One call as Python gives it: what arrays there are, where, and of which library.
class arguments {
 public:
  arguments(runtime::call& c, bool abstract) : call_(c), abstract_(abstract) {}

  void give(int field, nb::handle value) {
    const runtime::field& f = call_.verb().fields[std::size_t(field)];
    if (value.is_none()) {
      if (f.required) call_.refuse(field, std::string(f.name) + " is None", true);
      return;
    }
    switch (f.kind) {
      case runtime::kind::number:
        if (number(field, value)) return;
        break;
      case runtime::kind::scalar:
        if (number(field, value) || array(field, value)) return;
        break;
      case runtime::kind::list:
        if (number(field, value) || array(field, value) || sequence<double>(field, value)) return;
        break;
      case runtime::kind::whole:
        if (whole(field, value)) return;
        break;
      case runtime::kind::wholes:
        if (sequence<index_t>(field, value)) return;
        break;
      case runtime::kind::flag:
        if (PyBool_Check(value.ptr()) || class_of(value) == "numpy.bool" || class_of(value) == "numpy.bool_")
          return call_.give(field, PyObject_IsTrue(value.ptr()) == 1);
        break;
      case runtime::kind::choice:
        if (PyUnicode_Check(value.ptr())) {
          text_.push_back(nb::cast<std::string>(value));
          return call_.give(field, std::string_view(text_.back()));
        }
        break;
      case runtime::kind::labels:
      case runtime::kind::targets:
      case runtime::kind::numbers:
        if (array(field, value)) return;
        if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
          const nb::object asarray = nb::module_::import_("numpy").attr("asarray");
          if (array(field, f.kind == runtime::kind::numbers ? asarray(value, "float64") : asarray(value), false)) return;
        }
        break;
      default:
        if (array(field, value)) return;
        call_.refuse(field, std::string(f.name) + " is a " + class_of(value) + ", expected an array" +
                         (first_.empty() ? " (numpy.asarray)" : " as " + first_),
                     true);
        return;
    }
    call_.refuse(field, std::string(f.name) + ": expected " + kind_text(f) + ", got " + shown(value), true);
  }

  library of() const { return library_; }
  int device() const { return device_; }
  bool on_device() const { return on_device_; }

 private:
  static std::string kind_text(const runtime::field& f) {
    switch (f.kind) {
      case runtime::kind::number: return "a number";
      case runtime::kind::whole: return "an integer";
      case runtime::kind::wholes: return "integers";
      case runtime::kind::flag: return "True or False";
      case runtime::kind::choice: return "a name";
      case runtime::kind::scalar: return "a number or an array of one";
      case runtime::kind::list: return "numbers";
      default: return "an array";
    }
  }
  bool number(int field, nb::handle value) {
    PyObject* p = value.ptr();
    if (!PyFloat_Check(p) && (!PyLong_Check(p) || PyBool_Check(p))) return false;
    const double x = PyFloat_AsDouble(p);
    if (x == -1 && PyErr_Occurred()) throw nb::python_error();
    call_.give(field, x);
    return true;
  }
  bool whole(int field, nb::handle value) {
    if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) return false;
    const nb::object index = nb::steal(PyNumber_Index(value.ptr()));
    const long long x = index.is_valid() ? PyLong_AsLongLong(index.ptr()) : -1;
    if (x == -1 && PyErr_Occurred()) throw nb::python_error();
    call_.give(field, index_t(x));
    return true;
  }
  template <class Number>
  bool sequence(int field, nb::handle value) {
    if (PyUnicode_Check(value.ptr()) || !PySequence_Check(value.ptr())) return false;
    std::vector<Number> numbers;
    for (const nb::handle one : value) {
      if constexpr (std::is_same_v<Number, double>) {
        const double x = PyFloat_AsDouble(one.ptr());
        if (x == -1 && PyErr_Occurred()) throw nb::python_error();
        numbers.push_back(x);
      } else {
        const nb::object index = nb::steal(PyNumber_Index(one.ptr()));
        if (!index.is_valid()) throw nb::python_error();
        numbers.push_back(nb::cast<index_t>(index));
      }
    }
    call_.give(field, numbers);
    return true;
  }
  /// counts: whether it says which library and device the call belongs to.
  bool array(int field, nb::handle value, bool counts = true) {
    if (abstract_) return sizes_only(field, value);
    if (!is_array(value)) return false;
    const runtime::field& f = call_.verb().fields[std::size_t(field)];
    const library of = library_of(value);
    if (counts && library_ == library::none) {
      library_ = of;
      first_ = std::string(f.name) + ", which is a " + class_of(value);
    } else if (counts && of != library_) {
      call_.refuse(field, std::string(f.name) + " is a " + class_of(value) + ", expected an array of the library of " + first_, true);
      return true;
    }
    array_read a;
    bool narrow = false;
    if (!nb::try_cast<array_read>(value, a)) {  // NumPy has no code for the bfloat16 of ml_dtypes
      narrow = nb::hasattr(value, "dtype") && nb::hasattr(value, "view") && nb::hasattr(value.attr("dtype"), "name") &&
               nb::cast<std::string>(value.attr("dtype").attr("name")) == "bfloat16";
      if (!narrow || !nb::try_cast<array_read>(value.attr("view")("uint16"), a)) {
        call_.refuse(field, std::string(f.name) + " is a " + class_of(value) + " that its library does not export", true);
        return true;
      }
    }
    const int device = a.device_type();
    const bool on_device = device == nb::device::cuda::value || device == nb::device::cuda_managed::value;
    if (on_device && !craft::built_with_cuda)
      craft::fail<craft::device_error>(call_.verb().name, ": ", f.name, " lies in the memory of a CUDA device, but craft_align was built "
                                       "without CUDA");
    if (!on_device && device != nb::device::cpu::value && device != nb::device::cuda_host::value) {
      call_.refuse(field, std::string(f.name) + " lies on a device of DLPack's type " + std::to_string(device) + ", expected a CPU or CUDA", true);
      return true;
    }
    const bool may_be_elsewhere = !on_device && f.kind != runtime::kind::matrix && f.kind != runtime::kind::computed;
    if (counts && !placed_) {
      placed_ = true, on_device_ = on_device, device_ = a.device_id();
    } else if (!may_be_elsewhere && (on_device != on_device_ || (on_device && a.device_id() != device_))) {
      craft::fail<craft::device_error>(call_.verb().name, ": ", f.name, " lies on another device than the first array");
    }
    const std::string name = text_of(a.dtype());
    std::vector<std::int64_t> sizes(a.ndim()), strides(a.ndim());
    for (std::size_t k = 0; k < a.ndim(); ++k) sizes[k] = std::int64_t(a.shape(k)), strides[k] = a.stride(k);
    call_.give(field, runtime::array{a.data(), narrow ? runtime::dtype::bfloat16 : type_of(a.dtype()),
                                     on_device ? memory::device : memory::host, int(a.ndim()), sizes.data(), strides.data(),
                                     name.c_str()});
    held_.push_back(std::move(a));
    return true;
  }
  /// Of an array that is being traced: shape and dtype.
  bool sizes_only(int field, nb::handle value) {
    if (!nb::hasattr(value, "shape") || !nb::hasattr(value, "dtype")) return false;
    const auto sizes = nb::cast<std::vector<std::int64_t>>(value.attr("shape"));
    std::string name = nb::cast<std::string>(nb::steal<nb::str>(PyObject_Str(nb::object(value.attr("dtype")).ptr())));
    name.erase(0, name.find('.') + 1);  // torch.float32
    call_.give(field, runtime::array{nullptr, type_named(name), memory::host, int(sizes.size()), sizes.data(), nullptr, name.c_str()});
    return true;
  }

  runtime::call& call_;
  bool abstract_, placed_ = false, on_device_ = false;
  library library_ = library::none;
  int device_ = 0;
  std::string first_;
  std::vector<array_read> held_;
  std::vector<std::string> text_;
};

// ---------------------------------------------------------------------------------------------------------
// Results

std::shared_ptr<void> host_memory(std::size_t bytes) {
  constexpr auto alignment = std::align_val_t(64);  // what every library takes without a copy
  return {::operator new(bytes, alignment), [](void* p) { ::operator delete(p, alignment); }};
}

#if __has_include("craft/cuda.hpp")

using craft::engine::cuda_check;

/// Makes a device the thread's current one for as long as this object lives.
class current_device {
 public:
  explicit current_device(int id) {
    cuda_check(cudaGetDevice(&before_), "cudaGetDevice");
    cuda_check(cudaSetDevice(id), "cudaSetDevice(", id, ")");
  }
  current_device(const current_device&) = delete;
  ~current_device() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};
/// Freed with cudaFree, which waits: a consumer may let go of memory while its stream still has work to do with it.
std::shared_ptr<void> device_memory(std::size_t bytes) {
  void* p = nullptr;
  cuda_check(cudaMalloc(&p, bytes), "cudaMalloc(", bytes, ")");
  return {p, [](void* q) { cudaFree(q); }};
}
/// The thread's context for the current device, so that a cuBLAS handle is made once.
const craft::any_device& cuda_context(int id) {
  thread_local std::map<int, craft::any_device> contexts;
  auto at = contexts.find(id);
  if (at == contexts.end()) at = contexts.emplace(id, craft::any_device(craft::cuda())).first;
  return at->second;
}

#endif

/// Memory for one result, and how it is delivered.
class made {
 public:
  /// found: by the host, as a number of Python's if it is one.
  made(const runtime::extent& sizes, runtime::dtype type, memory where, int device, bool found)
      : sizes_(sizes), type_(type), where_(found ? memory::host : where), device_(device), number_(found && sizes.dimensions == 0) {
    std::size_t bytes = std::size_t(runtime::bytes_of(type));
    for (int k = 0; k < sizes.dimensions; ++k)
      if (__builtin_mul_overflow(bytes, std::size_t(sizes.sizes[k]), &bytes) || bytes > PTRDIFF_MAX) throw std::bad_alloc();
    bytes = std::max<std::size_t>(bytes, 1);
#if __has_include("craft/cuda.hpp")
    data_ = where_ == memory::host ? host_memory(bytes) : device_memory(bytes);
#else
    data_ = host_memory(bytes);
#endif
  }
  runtime::place place() const {
    const index_t rows = sizes_.dimensions == 2 ? sizes_.sizes[0] : 1, cols = sizes_.sizes[sizes_.dimensions == 2 ? 1 : 0];
    return {data_.get(), rows, cols, cols, type_, where_, craft::write::overwrite};
  }
  nb::object deliver(library to) const {
    if (number_ && type_ == runtime::dtype::int64) return nb::int_(*static_cast<const std::int64_t*>(data_.get()));
    if (number_) return nb::float_(*static_cast<const double*>(data_.get()));
    switch (to) {
      case library::torch: return as<nb::pytorch>();
      case library::jax: return as<nb::jax>();
      case library::cupy: return where_ == memory::host ? as<nb::numpy>() : as<nb::cupy>();
      case library::tensorflow: return as<nb::tensorflow>();
      default: return as<nb::numpy>();
    }
  }

 private:
  template <class Framework>
  nb::object as() const {
    const bool real = type_ == runtime::dtype::float64 || type_ == runtime::dtype::float32;
    const nb::dlpack::dtype t{std::uint8_t(real ? nb::dlpack::dtype_code::Float : nb::dlpack::dtype_code::Int),
                              std::uint8_t(8 * runtime::bytes_of(type_)), 1};
    const std::size_t shape[2] = {std::size_t(sizes_.sizes[0]), std::size_t(sizes_.sizes[1])};
    const nb::capsule owner(new std::shared_ptr<void>(data_), [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
    const int device = where_ == memory::host ? nb::device::cpu::value : nb::device::cuda::value;
    return nb::cast(nb::ndarray<Framework>(data_.get(), std::size_t(sizes_.dimensions), shape, owner, nullptr, t, device, device_));
  }

  std::shared_ptr<void> data_;
  runtime::extent sizes_;
  runtime::dtype type_;
  memory where_;
  int device_;
  bool number_;
};

/// Whether a signal waits for Python, such as Ctrl-C, whose exception is set then; looked at on the main thread twenty times a second.
bool signalled() {
  thread_local auto next = std::chrono::steady_clock::now();
  const auto now = std::chrono::steady_clock::now();
  if (now < next) return false;
  next = now + std::chrono::milliseconds(50);
  const nb::gil_scoped_acquire lock;
  return PyErr_CheckSignals() != 0;
}

/// The same for libraries that know nothing of Python's exceptions: the interrupt comes again as soon as Python runs.
bool interrupted() {
  if (!signalled()) return false;
  const nb::gil_scoped_acquire lock;
  PyErr_Clear();
  PyErr_SetInterrupt();
  return true;
}

/// verb: its number. arguments: one for each of its fields, None for what is not given. gradients: names. Gives the results, and a
/// dictionary of the gradients.
nb::tuple call(int verb, const nb::tuple& given, nb::handle upstream, nb::handle gradients) {
  runtime::call c(runtime::verbs().at(std::size_t(verb)));
  arguments all(c, false);
  for (std::size_t i = 0; i < given.size(); ++i) all.give(int(i), given[i]);
  array_read upstream_array;
  if (PyFloat_Check(upstream.ptr()) || PyLong_Check(upstream.ptr())) {
    c.upstream(nb::cast<double>(upstream));
  } else if (nb::try_cast<array_read>(upstream, upstream_array) && upstream_array.size() == 1 &&
             (type_of(upstream_array.dtype()) == runtime::dtype::float64 || type_of(upstream_array.dtype()) == runtime::dtype::float32)) {
    const bool host = upstream_array.device_type() == nb::device::cpu::value;
    const memory where = host ? memory::host : memory::device;
    if (type_of(upstream_array.dtype()) == runtime::dtype::float64)
      c.upstream(craft::scalar(static_cast<const double*>(upstream_array.data()), where));
    else
      c.upstream(craft::scalar(static_cast<const float*>(upstream_array.data()), where));
  } else {
    c.refuse("upstream: expected a number or an array of one, got " + shown(upstream), true);
  }
  std::vector<int> wanted;
  if (PyUnicode_Check(gradients.ptr())) {
    wanted.push_back(c.verb().gradient_named(nb::cast<std::string>(gradients)));
  } else {
    for (const nb::handle name : gradients) wanted.push_back(c.verb().gradient_named(nb::cast<std::string>(name)));
  }
  c.check();

  std::vector<made> results, derivatives;
  {
    const nb::gil_scoped_release without_lock;
    const auto run = [&](const craft::any_device& device) {
      const memory where = device.space();
      for (int r = 0; r < int(c.verb().results.size()); ++r) {
        const bool found = c.verb().results[std::size_t(r)].type != runtime::dtype::float32;
        results.emplace_back(c.result_sizes(r), c.result_type(r), where, all.device(), found);
        c.result(r, results.back().place());
      }
      for (const int g : wanted) {
        derivatives.emplace_back(c.gradient_sizes(g), c.type(), where, all.device(), false);
        c.gradient(g, derivatives.back().place());
      }
      c.run(device);
    };
    if (!all.on_device()) {
      run(craft::any_device(runtime::host_context()));
    } else {
#if __has_include("craft/cuda.hpp")
      const current_device guard(all.device());
      run(cuda_context(all.device()));
#else
      craft::fail<craft::device_error>("craft_align was built without CUDA");
#endif
    }
  }
  nb::list values;
  for (const made& m : results) values.append(m.deliver(all.of()));
  nb::dict by_name;
  for (std::size_t k = 0; k < wanted.size(); ++k)
    by_name[c.verb().fields[std::size_t(c.verb().gradients[std::size_t(wanted[k])])].name] = derivatives[k].deliver(all.of());
  return nb::make_tuple(nb::tuple(values), by_name);
}

nb::tuple sizes_of(const runtime::extent& e) {
  return e.dimensions == 0   ? nb::make_tuple()
         : e.dimensions == 1 ? nb::make_tuple(e.sizes[0])
                             : nb::make_tuple(e.sizes[0], e.sizes[1]);
}

/// Of arguments whose arrays have shape and dtype only: checks them; the computing type, and the shape and type of each result.
/// options_only: without arrays, of which any would do.
nb::tuple check(int verb, const nb::tuple& given, bool options_only) {
  runtime::call c(runtime::verbs().at(std::size_t(verb)));
  arguments all(c, true);
  for (std::size_t i = 0; i < given.size(); ++i) {
    const runtime::field& f = c.verb().fields[i];
    if (options_only && f.kind <= runtime::kind::numbers) {
      const std::int64_t sizes[] = {2, 2};
      const bool labels = f.kind == runtime::kind::labels || f.kind == runtime::kind::targets;
      if (f.required)
        c.give(int(i), runtime::array{nullptr, labels ? runtime::dtype::int64 : runtime::dtype::float32, memory::host,
                                      labels ? 1 : int(f.shape.size()), sizes});
    } else if (!options_only || !given[i].is_none()) {
      all.give(int(i), given[i]);
    }
  }
  c.rehearse();
  nb::list results;
  for (int r = 0; r < int(c.verb().results.size()); ++r)
    results.append(nb::make_tuple(sizes_of(c.result_sizes(r)), runtime::name(c.result_type(r))));
  return nb::make_tuple(runtime::name(c.type()), nb::tuple(results));
}

constexpr const char* kind_names[] = {"matrix", "computed", "labels", "targets", "numbers", "scalar",
                                      "list",   "number",   "whole",  "wholes",  "flag",    "choice"};

/// The descriptions, as dictionaries.
nb::list verbs() {
  nb::list all;
  for (const runtime::verb& v : runtime::verbs()) {
    nb::list fields, results, gradients;
    for (const runtime::field& f : v.fields) {
      nb::dict d;
      d["name"] = f.name, d["text"] = f.text, d["kind"] = kind_names[int(f.kind)];
      d["required"] = f.required, d["positional"] = f.positional, d["two_sided"] = f.two_sided, d["choices"] = nb::cast(f.choices);
      const bool whole = f.kind == runtime::kind::whole;
      if (f.required || f.kind < runtime::kind::scalar || f.kind == runtime::kind::list || f.kind == runtime::kind::wholes)
        d["default"] = nb::none();
      else if (f.kind == runtime::kind::choice)
        d["default"] = f.choices[std::size_t(f.whole)];
      else if (f.kind == runtime::kind::flag)
        d["default"] = f.whole != 0;
      else
        d["default"] = whole ? nb::object(nb::int_(f.whole)) : nb::object(nb::float_(f.number));
      d["shape"] = nb::cast(f.shape);
      fields.append(d);
    }
    for (const runtime::result& r : v.results) {
      nb::dict d;
      d["name"] = r.name, d["text"] = r.text, d["type"] = r.type == runtime::dtype::float32 ? "" : runtime::name(r.type);
      d["shape"] = nb::cast(r.shape), d["names"] = nb::cast(r.names);
      results.append(d);
    }
    for (const int f : v.gradients) gradients.append(v.fields[std::size_t(f)].name);
    nb::dict d;
    d["name"] = v.name, d["module"] = v.module, d["text"] = v.text, d["pullback"] = v.pullback ? v.pullback : "";
    d["fields"] = fields, d["results"] = results, d["gradients"] = gradients;
    all.append(d);
  }
  return all;
}

}  // namespace

NB_MODULE(_core, m) {
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const craft::type_error& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    } catch (const craft::label_error& e) {
      PyErr_SetString(PyExc_IndexError, e.what());
    } catch (const craft::device_error& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what());
    } catch (const craft::stopped_error&) {  // the exception of the signal is there
    } catch (const craft::error& e) {
      PyErr_SetString(PyExc_ValueError, e.what());
    }
  });
  runtime::stop_with(&signalled);
  m.attr("stop") = reinterpret_cast<std::uintptr_t>(&interrupted);  // for the other libraries of the package
  m.def("call", &call);
  m.def("check", &check);
  m.def("verbs", &verbs);
}
