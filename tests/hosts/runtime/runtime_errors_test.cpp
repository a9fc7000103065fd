// What is wrong with a call is said before anything is written, in a message that names the verb, the argument and what was
// given: of every verb, for every field, result and gradient.
#include "runtime_inputs.hpp"

using namespace craft_test;
using craft::device_error;
using craft::memory;
using craft::option_error;
using craft::shape_error;
using craft::type_error;

namespace {

/// Changes of one call, each of which must be refused.
template <class D>
class refusals {
 public:
  using T = typename D::compute;
  static constexpr bool on_host = D::space == memory::host;
  static constexpr memory elsewhere = on_host ? memory::device : memory::host;

  explicit refusals(const full_call<D>& call) : call_(call), all_(call), device_(D::make()) {}

  /// A field given otherwise.
  template <class Error, class Change>
  void argument(std::size_t field, const Change& change, std::vector<std::string> parts) {
    parts.insert(parts.end(), {std::string(call_.verb.name) + ": ", call_.verb.fields[field].name});
    rejects<Error>(
        all_,
        [&] {
          rt::call c(call_.verb);
          for (std::size_t i = 0; i < call_.arguments.size(); ++i) {
            given g = call_.arguments[i];
            if (i == field) change(g);
            g.to(c, int(i));
          }
          c.check();
          call_.places(c);
          c.run(device_);
        },
        parts);
  }
  /// A place changed.
  template <class Error, class Change>
  void place(bool result, std::size_t which, const Change& change, std::vector<std::string> parts) {
    parts.push_back(std::string(call_.verb.name) + ": ");
    rejects<Error>(
        all_,
        [&] {
          rt::call c(call_.verb);
          call_.give(c);
          c.check();
          call_.places(c);
          rt::place p = result ? call_.results[which] : call_.gradients[which];
          change(p);
          result ? c.result(int(which), p) : c.gradient(int(which), p);
          c.run(device_);
        },
        parts);
  }
  const craft::any_device& device() const { return device_; }

 private:
  const full_call<D>& call_;
  const watched all_;
  const craft::any_device device_;
};

constexpr std::int64_t huge = std::int64_t(1) << 62;

/// Sizes and strides, of an array of the given kind.
template <class D>
void check_layouts(refusals<D>& refuse, const rt::field& f, std::size_t i, const given& right) {
  const bool two = right.sizes.size() == 2;
  const auto wrong = [&](const auto& change, const std::vector<std::string>& parts) {
    refuse.template argument<shape_error>(i, change, parts);
  };
  wrong([](given& g) { g.sizes.assign(3, 1), g.strides.clear(), g.sizes[1] = 2; },
        {f.kind == kind::scalar ? "must be one number, got (1, 2, 1)" : "has 3 dimensions (1, 2, 1)"});
  wrong([](given& g) { g.sizes[0] = -1; }, {"sizes must not be negative, got (-1,"});
  if (two) {
    if (f.kind != kind::targets)
      wrong([](given& g) { g.sizes.pop_back(), g.strides.clear(); }, {"has 1 dimension", "reshape it to (-1, 1)"});
    wrong([](given& g) { g.sizes.clear(), g.strides.clear(); }, {"has 0 dimensions ()"});
    wrong([](given& g) { g.strides[1] = 2; }, {"side by side, got a stride of 2", "numpy.ascontiguousarray"});
    wrong([](given& g) { g.strides[1] = -1; }, {"side by side, got a stride of -1"});
    wrong([](given& g) { g.strides[0] = g.sizes[1] - 1; }, {"must not overlap or run backwards"});
    wrong([](given& g) { g.strides[0] = -g.sizes[1]; }, {"run backwards, got a stride of -"});
    wrong([](given& g) { g.strides[0] = 0; }, {"all rows are one, as broadcasting makes"});
    wrong([](given& g) { g.strides[0] = huge; }, {"do not fit in memory"});
    wrong([](given& g) { g.sizes[1] = huge, g.strides.clear(); }, {"do not fit in memory"});
  } else {
    const auto square = [](given& g) { g.sizes.push_back(1), g.strides.clear(); };
    if (f.kind == kind::targets)
      refuse.template argument<type_error>(i, square, {"holds int64 in 2 dimensions", "labels are int64 or int32 in one"});
    else
      wrong(square, {"has 2 dimensions"});
    if (f.kind != kind::list) wrong([](given& g) { g.sizes.clear(), g.strides.clear(); }, {"has 0 dimensions ()"});
    wrong([](given& g) { g.strides[0] = huge; }, {"do not fit in memory"});
    wrong([](given& g) { g.strides[0] = std::numeric_limits<std::int64_t>::min(); }, {"do not fit in memory"});
  }
  wrong([](given& g) { g.sizes[0] = huge, g.strides.clear(); }, {"do not fit in memory"});
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("wrong arrays are refused by every verb, and nothing is written", "[runtime][errors]", every_type) {
  using D = TestType;
  const dtype stored = type_of<typename D::scalar>, computed = type_of<typename D::compute>;
  constexpr memory elsewhere = refusals<D>::elsewhere;
  for_each_verb([&](const rt::verb& v, bool soft) {
    const full_call<D> call(v, soft);
    refusals<D> refuse(call);
    int reals_seen = 0;
    std::map<std::string, std::size_t> known;
    for (std::size_t i = 0; i < v.fields.size(); ++i) {
      const rt::field& f = v.fields[i];
      given right = call.arguments[i];
      if (!right.is_array()) continue;
      INFO(v.name << ", " << f.name << ", " << rt::name(stored));
      const bool scalar = f.kind == kind::scalar, sample = f.kind == kind::matrix, list = f.kind == kind::list;
      const bool shares = f.kind == kind::computed || (f.kind == kind::targets && soft);
      const bool labels = f.kind == kind::labels || (f.kind == kind::targets && !soft);
      // Types.
      const auto typed = [&](dtype t, const char* name, const std::vector<std::string>& parts) {
        refuse.template argument<type_error>(i, [&](given& g) { g.array().type = t, g.array().type_name = name; }, parts);
      };
      typed(dtype::other, "complex64", {"holds complex64"});
      typed(dtype::other, nullptr, {"holds another type"});
      if (!labels) typed(dtype::int64, nullptr, {"holds int64"});
      if (labels) typed(dtype::float64, nullptr, {"holds float64", "int64 or int32"});
      if (f.kind == kind::targets && soft) typed(dtype::int32, nullptr, {"holds int32 in 2 dimensions"});
      if (f.kind == kind::targets && !soft) typed(dtype::float32, nullptr, {"holds float32 in 1 dimension:"});
      if (!sample && !shares) typed(dtype::float16, "half", {"holds half"});
      for (const dtype t : {dtype::float64, dtype::float32, dtype::float16, dtype::bfloat16})
        if ((sample && reals_seen > 0 && t != stored) || (shares && t != computed))
          typed(t, nullptr, {std::string("of type ") + rt::name(sample ? stored : computed) + ", got " + rt::name(t)});
      reals_seen += sample;
      // Sizes, among themselves and with those of others.
      if (!scalar) check_layouts(refuse, f, i, right);
      if (scalar) {
        const auto wrong = [&](std::vector<std::int64_t> sizes, const std::string& part) {
          refuse.template argument<shape_error>(i, [&](given& g) { g.sizes = sizes, g.strides.clear(); }, {part});
        };
        wrong({2}, "must be one number, got (2,)");
        wrong({1, 0}, "must be one number, got (1, 0)");
        wrong({0x5555555555555555, 3}, "must be one number");  // 1, if one only multiplies
      }
      for (std::size_t k = 0; k < std::min(right.sizes.size(), f.shape.size()); ++k) {
        const std::string& size = f.shape[k][0];
        if (known.count(size) > 0)
          refuse.template argument<shape_error>(i, [&](given& g) { --g.sizes[k]; }, {v.fields[known[size]].name});
        known.emplace(size, i);
      }
      // Memory.
      refuse.template argument<shape_error>(i, [](given& g) { g.array().data = static_cast<const char*>(g.array().data) + 1; },
                                            {"is misaligned", "1 past a multiple"});
      if (!list) refuse.template argument<shape_error>(i, [](given& g) { g.array().data = nullptr; }, {"has null data for "});
      if (sample || shares || (refusals<D>::on_host && (labels || scalar || list || f.kind == kind::numbers)))
        refuse.template argument<device_error>(i, [](given& g) { g.array().where = elsewhere; }, {"memory"});
    }
    // And as they were, the arguments are good, and the places too.
    CHECK_NOTHROW(call.run(refuse.device()));
    CHECK(call.bits() != full_call<D>(v, soft).bits());
  });
}

TEMPLATE_LIST_TEST_CASE("wrong places are refused by every verb, and nothing is written", "[runtime][errors]", every_type) {
  using D = TestType;
  using T = typename D::compute;
  constexpr memory elsewhere = refusals<D>::elsewhere;
  const auto null = [](rt::place& p) { p.data = nullptr; };
  const auto moved = [](rt::place& p) { p.where = elsewhere; };
  const auto shifted = [](rt::place& p) { p.data = static_cast<char*>(p.data) + 2; };
  for_each_verb([&](const rt::verb& v, bool soft) {
    const full_call<D> call(v, soft);
    refusals<D> refuse(call);
    const auto types = [&](bool result, std::size_t which, dtype right, dtype narrower, const std::string& name) {
      for (int q = 0; q <= int(dtype::other); ++q)
        if (dtype(q) != right && dtype(q) != narrower)
          refuse.template place<type_error>(result, which, [&](rt::place& p) { p.type = dtype(q); },
                                            {name, "expected a place of type ", std::string("got ") + rt::name(dtype(q))});
    };
    for (std::size_t r = 0; r < v.results.size(); ++r) {
      const std::string name = std::string("result ") + v.results[r].name;
      INFO(v.name << ", " << name);
      const dtype type = v.results[r].type;
      const bool found = type != dtype::float32;
      if (found)
        types(true, r, type, type == dtype::int64 ? dtype::int32 : dtype::float32, name);
      else
        types(true, r, call.results[r].type, call.results[r].type, name);
      refuse.template place<shape_error>(true, r, null, {name, "null data"});
      refuse.template place<shape_error>(true, r, shifted, {name, "misaligned", "2 past"});
      if (!found || elsewhere == memory::device)
        refuse.template place<device_error>(true, r, moved, {name, "lies in"});
      for (const index_t wrong : {-1, 1})
        refuse.template place<shape_error>(true, r, [&](rt::place& p) { p.cols += wrong; }, {name, "expected a place of "});
      refuse.template place<shape_error>(true, r, [](rt::place& p) { p.rows += 1; }, {name, "expected a place of "});
      refuse.template place<shape_error>(true, r, [](rt::place& p) { p.rows = -1; }, {name, "got -1 x"});
      if (call.results[r].rows == 1 && call.results[r].cols > 1)
        refuse.template place<shape_error>(true, r, [](rt::place& p) { std::swap(p.rows, p.cols), p.stride = 2; },
                                           {name, "expected a place of ", "at a stride of 2"});
      if (!found)
        refuse.template place<shape_error>(true, r, [](rt::place& p) { p.mode = craft::write::none; }, {name, "has no place"});
    }
    for (std::size_t g = 0; g < v.gradients.size(); ++g) {
      const rt::field& f = v.fields[std::size_t(v.gradients[g])];
      const std::string name = std::string("gradient of ") + f.name;
      INFO(v.name << ", " << name);
      if (call.gradients[g].mode == craft::write::none) {  // there is none
        T number = 0;
        const auto wanted = [&](rt::place& p) { p = {&number, 1, 1, 1, type_of<T>, D::space}; };
        refuse.template place<option_error>(false, g, wanted, {f.name});
        continue;
      }
      types(false, g, call.gradients[g].type, call.gradients[g].type, name);
      refuse.template place<shape_error>(false, g, null, {name, "null data"});
      refuse.template place<shape_error>(false, g, shifted, {name, "misaligned", "2 past"});
      refuse.template place<device_error>(false, g, moved, {name, "lies in"});
      refuse.template place<shape_error>(false, g, [](rt::place& p) { p.cols -= 1; }, {name, "expected a place of "});
      refuse.template place<shape_error>(false, g, [](rt::place& p) { p.rows += 2; }, {name, "expected a place of "});
      refuse.template place<shape_error>(false, g, [](rt::place& p) { p.rows = -1; }, {name, "got -1 x"});
    }
  });
}

TEST_CASE("values of another kind are refused for every field", "[runtime][errors]") {
  using D = stored_as<double>;
  for_each_verb([&](const rt::verb& v, bool soft) {
    const full_call<D> call(v, soft);
    refusals<D> refuse(call);
    for (std::size_t i = 0; i < v.fields.size(); ++i) {
      const rt::field& f = v.fields[i];
      INFO(v.name << ", " << f.name);
      const auto wrong = [&](const auto& value, const std::string& expected, const std::string& got) {
        refuse.template argument<type_error>(i, [&](given& g) { g.value = value; },
                                             {std::string(f.name) + ": expected " + expected, ", got " + got});
      };
      const kind k = f.kind;
      const bool number = k == kind::scalar || k == kind::number || k == kind::list;
      const std::string expected = k == kind::matrix || k == kind::computed ? "an array of two dimensions"
                                   : k == kind::labels || k == kind::targets ? "integer labels"
                                   : k == kind::numbers                      ? "numbers, one per row"
                                   : k == kind::scalar                       ? "a number or an array of one"
                                   : k == kind::list                         ? "numbers"
                                   : k == kind::number                       ? "a number"
                                   : k == kind::whole                        ? "an integer"
                                   : k == kind::wholes                       ? "integers"
                                   : k == kind::flag                         ? "true or false"
                                                                             : "a name (" + std::string(f.choices[0]);
      if (!number) wrong(1.5, expected, "a number");
      if (!number && k != kind::whole) wrong(index_t(1), expected, "an integer");
      if (k != kind::flag) wrong(true, expected, "true"), wrong(false, expected, "false");
      if (k != kind::choice) wrong(std::string("biased"), expected, "text");
      if (k != kind::list) wrong(std::vector<double>{1, 2}, expected, "several numbers");
      if (k != kind::list && k != kind::wholes) wrong(std::vector<index_t>{1, 2}, expected, "several integers");
      if (k > kind::list) wrong(rt::array{}, expected, "an array");
      if (k == kind::choice)
        for (const std::string name : {"", "no such", "Biased"}) {
          std::vector<std::string> parts = {std::string(f.name) + ": expected ", ", got " + name};
          parts.insert(parts.end(), f.choices.begin(), f.choices.end());
          refuse.template argument<option_error>(i, [&](given& g) { g.value = name; }, parts);
        }
      const auto nothing = [](given& g) { g.value = std::monostate(); };
      if (f.required) refuse.template argument<type_error>(i, nothing, {std::string(f.name) + " is missing: expected "});
    }
  });
}

TEST_CASE("names that there are not", "[runtime][errors]") {
  CHECK_THROWS_AS(rt::call("mdm"), option_error);
  for (const rt::verb& v : rt::verbs()) {
    CHECK_THROWS_WITH(rt::call("mdm"), contains(v.name) && contains("got mdm"));
    rt::call c(v);
    const auto says = [&](const std::string& what, const auto& call, const auto& names) {
      CHECK_THROWS_AS(call(), option_error);
      CHECK_THROWS_WITH(call(), contains(std::string(v.name) + ": " + what) && contains("got nothing"));
      for (const std::string& name : names) CHECK_THROWS_WITH(call(), contains(name));
    };
    std::vector<std::string> fields, results, gradients;
    for (const rt::field& f : v.fields) fields.push_back(f.name);
    for (const rt::result& r : v.results) results.push_back(r.name);
    for (const int g : v.gradients) gradients.push_back(fields[std::size_t(g)]);
    if (results.empty()) results.push_back("expected none");
    if (gradients.empty()) gradients.push_back("expected none");
    says("argument: ", [&] { c.give("nothing", 1.0); }, fields);
    says("result: ", [&] { c.result("nothing", {}); }, results);
    says("gradients: ", [&] { c.gradient("nothing", {}); }, gradients);
  }
}

TEST_CASE("all that is wrong is said at once, and once more when one asks again", "[runtime][errors]") {
  rt::call c("mmd");
  const std::int64_t sizes[] = {2, 3, 4};
  const double numbers[] = {0.5, -1};
  c.give("x", rt::array{nullptr, dtype::int64, memory::host, 3, sizes});
  c.give("estimator", "unbaised");
  c.give("bandwidth_gradient", 1);
  c.give("factor", true);
  c.give("x_weights", rt::matrix{numbers, 2, 1, 1, dtype::float16, memory::host, 1});
  c.give("y_weights", rt::matrix{nullptr, 4, 1, 1, dtype::float64, memory::host, 1});
  c.give("bandwidths", std::vector<double>{1, -1});
  c.refuse("no such thing as z", false);
  const auto message = [&]() -> std::string {
    try {
      c.check();
    } catch (const type_error& e) {
      return e.what();
    }
    return "no type_error";
  };
  const std::string first = message();
  for (const std::string part :
       {"mmd: ", "x holds int64", "x has 3 dimensions (2, 3, 4)", "estimator: expected biased, unbiased or linear, got unbaised",
        "bandwidth_gradient: expected true or false, got an integer", "factor: expected a number, got true",
        "x_weights holds float16", "no such thing as z", "y is missing", "sigma must be positive, got -1"})
    CHECK_THAT(first, contains(part));
  CHECK(message() == first);

  // What is refused is not missing, whoever has refused it.
  rt::call refused("medoids");
  refused.refuse(0, "x is a list", true);
  refused.give("centres", 1.5);
  try {
    refused.check();
    FAIL_CHECK("it was not refused");
  } catch (const type_error& e) {
    CHECK(e.what() == std::string("medoids: x is a list; centres: expected an array of two dimensions, one sample per row, "
                                  "got a number"));
  }

  // The class of error is that of the worst fault.
  rt::call sized("mmd_preset");
  sized.give("preset", "no such");
  sized.give("x", rt::matrix{numbers, 1, 2, 2, dtype::float64});
  sized.give("y", rt::matrix{numbers, 2, 1, 1, dtype::float64});
  CHECK_THROWS_AS(sized.check(), shape_error);
  CHECK_THROWS_WITH(sized.check(), contains("preset: expected craft_rbf") && contains("x (1, 2) and y (2, 1): their columns"));
}
