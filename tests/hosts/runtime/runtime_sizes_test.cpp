// What is known of a call before there is memory: sizes and types of what it gives, counts that are none, what the verb itself
// refuses. And that nothing runs unchecked.
#include <limits>

#include "runtime_inputs.hpp"

using namespace craft_test;
using craft::memory;
using craft::option_error;
using craft::shape_error;
using craft::type_error;

namespace {
constexpr std::int64_t huge = std::int64_t(1) << 62;
}

TEST_CASE("sizes that differ are named with the array that has the other one", "[runtime][errors]") {
  const double numbers[12] = {};
  using named = std::vector<std::pair<const char*, rt::matrix>>;
  const auto says = [&](const char* verb, const named& arrays, const std::string& text) {
    rt::call c(verb);
    for (const auto& [name, m] : arrays) c.give(name, m);
    rejects<shape_error>(watched(), [&] { c.check(); }, {text});
  };
  const auto two = [&](index_t rows, index_t cols) { return rt::matrix{numbers, rows, cols, cols, dtype::float64}; };
  const auto one = [&](index_t rows) { return rt::matrix{numbers, rows, 1, 1, dtype::float64, memory::host, 1}; };
  says("mmd", {{"x", two(3, 2)}, {"y", two(3, 1)}}, "mmd: x (3, 2) and y (3, 1): their columns must agree");
  says("mmd", {{"x", two(3, 2)}, {"y", two(2, 2)}, {"y_weights", one(3)}},
       "y_weights (3,): expected 2 rows, one per row of y (2, 2)");
  says("anchor_cross_entropy", {{"x", two(2, 3)}, {"anchors", two(4, 3)}, {"targets", two(2, 3)}},
       "targets (2, 3): expected 4 columns, one per row of anchors (4, 3)");
}

TEST_CASE("counts below none and beyond all memory", "[runtime][errors]") {
  using D = stored_as<float>;
  int counts = 0;
  for (const rt::verb& v : rt::verbs()) {
    const full_call<D> call(v);
    for (std::size_t i = 0; i < v.fields.size(); ++i) {
      if (v.fields[i].kind != kind::whole || !v.fields[i].required) continue;
      ++counts;
      for (const index_t wrong : {index_t(-1), huge, std::numeric_limits<index_t>::min(), std::numeric_limits<index_t>::max()}) {
        INFO(v.name << ", " << v.fields[i].name << " = " << wrong);
        rt::call c(v);
        call.give(c);
        c.give(int(i), wrong);
        const std::string is = std::string(v.name) + ": " + v.fields[i].name + " must not be negative or beyond all memory, got ";
        rejects<shape_error>(watched(), [&] { c.check(); }, {is + std::to_string(wrong)});
      }
    }
  }
  CHECK(counts >= 9);
  // Each may be, and not their product.
  rt::call c("kmeans_per_class");
  full_call<D> per_class(c.verb());
  per_class.at("classes").value = per_class.at("per_class").value = index_t(1) << 40;
  per_class.give(c);
  c.check();
  CHECK_THROWS_AS(c.result_sizes(0), shape_error);
  CHECK_THROWS_WITH(c.result_sizes(0), contains("kmeans_per_class: per_class") && contains("beyond all memory"));
  rt::call wide("kmeans");  // 2^59 rows of 5 numbers
  const full_call<D> rows(wide.verb());
  rows.give(wide);
  wide.give("k", index_t(1) << 59);
  wide.check();
  CHECK_THROWS_WITH(wide.result_sizes(0), contains("beyond all memory"));
  rt::call permuted("two_sample_test");
  const full_call<D> test(permuted.verb());
  test.give(permuted);
  permuted.give("permutations", -1);
  permuted.check();
  CHECK_THROWS_WITH(permuted.result_sizes(2), contains("permutations must not be negative") && contains("-1"));
}

TEMPLATE_LIST_TEST_CASE("sizes and types are known before there is memory", "[runtime][sizes]", every_type) {
  using D = TestType;
  for_each_verb([](const rt::verb& v, bool soft) {
    INFO(v.name);
    const full_call<D> call(v, soft);
    rt::call with(v), without(v);
    call.give(with);
    with.check();
    for (std::size_t i = 0; i < call.arguments.size(); ++i) {
      given g = call.arguments[i];
      if (g.is_array()) g.array().data = nullptr;
      g.to(without, int(i));
    }
    without.check();
    CHECK(without.type() == with.type());
    CHECK(without.stored_type() == with.stored_type());
    if (v.matrices > 0) CHECK(with.stored_type() == type_of<typename D::scalar>);
    const auto same = [](const rt::extent& a, const rt::extent& b) {
      CHECK(a.dimensions == b.dimensions);
      CHECK(a.sizes[0] == b.sizes[0]);
      CHECK(a.sizes[1] == b.sizes[1]);
    };
    for (int r = 0; r < int(v.results.size()); ++r) {
      same(without.result_sizes(r), with.result_sizes(r));
      CHECK(without.result_type(r) == with.result_type(r));
    }
    for (int g = 0; g < int(v.gradients.size()); ++g)
      if (call.gradients[std::size_t(g)].mode != craft::write::none) same(without.gradient_sizes(g), with.gradient_sizes(g));
  });
}

// What hosts that trace learn before there is memory: what the verb itself has to say of sizes and options.
TEMPLATE_LIST_TEST_CASE("a rehearsal needs no memory and finds what the verb finds", "[runtime][sizes]", every_type) {
  using D = TestType;
  using change = std::function<void(full_call<D>&)>;
  const auto rehearse = [](const full_call<D>& call) {
    rt::call c(call.verb);
    for (std::size_t i = 0; i < call.arguments.size(); ++i) {
      given g = call.arguments[i];
      if (g.is_array()) g.array().data = nullptr;
      g.to(c, int(i));
    }
    c.rehearse();
    for (int r = 0; r < int(call.verb.results.size()); ++r) CHECK_NOTHROW(c.result_sizes(r));  // as after check
    CHECK(c.stored_type() == (call.verb.matrices > 0 ? type_of<typename D::scalar> : dtype::float32));
  };
  for_each_verb([&](const rt::verb& v, bool soft) {
    INFO(v.name);
    CHECK_NOTHROW(rehearse(full_call<D>(v, soft)));
  });
  const auto refused = [&](const char* verb, auto error, const change& make, const std::string& part) {
    INFO(verb << ", " << part);
    full_call<D> call(rt::verb_named(verb));
    const watched all(call);
    make(call);
    rejects<decltype(error)>(all, [&] { rehearse(call); }, {part});
  };
  const auto nothing = [](given& g) { g.value = std::monostate(); };
  const shape_error size("");
  const option_error option("");
  refused("info_nce", size, [&](full_call<D>& c) { nothing(c.at("x_labels")), nothing(c.at("y_labels")); },
          "info_nce: without labels row i belongs to row i");
  refused("info_nce", option, [&](full_call<D>& c) { nothing(c.at("y_labels")); }, "labels must be given for both sides");
  refused("mmd", option, [](full_call<D>& c) { c.at("estimator").value = std::string("linear"); }, "takes no sample weights");
  refused("mmd", option, [](full_call<D>& c) { c.at("column_eps").value = -1.0; }, "column_eps must be positive, got -1");
  refused("anchor_cross_entropy", option, [](full_call<D>& c) { c.at("label_smoothing").value = 1.5; }, "[0, 1], got 1.5");
  refused("cosine_embedding", option, [](full_call<D>& c) { c.at("margin").value = -2.0; }, "margin");
  refused("uniformity", option, [](full_call<D>& c) { c.at("t").value = 0.0; }, "uniformity: t must lie in (0, ");
  refused("objective", option, [](full_call<D>& c) { c.at("image").value = -2.0; }, "weights must be finite and not negative");
}

TEST_CASE("what is not there has no gradient", "[runtime][sizes]") {
  using D = stored_as<double>;
  for (const rt::verb& v : rt::verbs()) {
    const full_call<D> call(v);
    for (std::size_t g = 0; g < v.gradients.size(); ++g) {
      const std::size_t field = std::size_t(v.gradients[g]);
      if (v.fields[field].required || v.fields[field].kind != kind::matrix) continue;
      INFO(v.name << ", " << v.fields[field].name);
      rt::call c(v);
      for (std::size_t i = 0; i < call.arguments.size(); ++i)
        if (i != field) call.arguments[i].to(c, int(i));
      c.check();
      CHECK_THROWS_AS(c.gradient_sizes(int(g)), option_error);
      CHECK_THROWS_WITH(c.gradient_sizes(int(g)), contains(std::string(v.name) + ": no gradient of " + v.fields[field].name));
      call.places(c);
      CHECK_THROWS_AS(c.run(craft::any_device(D::make())), option_error);
    }
  }
}

TEST_CASE("without a stride numbers lie side by side", "[runtime][sizes]") {
  using D = stored_as<float>;
  const index_t n = 9, m = 8, d = 5;
  const array<D> x(random_reals(n, d, 1)), y(random_reals(m, d, 2)), w(random_reals(1, n, 3).cwiseAbs().eval());
  array<D> value(1, 1), dx(n, d), dw(n, 1), other_value(1, 1), other_dx(n, d), other_dw(n, 1);
  const auto run = [&](bool strides, array<D>& to_value, array<D>& to_x, array<D>& to_w) {
    const index_t one = strides ? 1 : 0, row = strides ? d : 0;
    rt::call c("mmd");
    c.give("x", rt::matrix{x.in().data(), n, d, row, dtype::float32, D::space});
    c.give("y", rt::matrix{y.in().data(), m, d, row, dtype::float32, D::space});
    c.give("x_weights", rt::matrix{w.in().data(), n, one, one, dtype::float32, D::space, 1});
    c.result("value", {to_value.out().data(), 1, 1, one, dtype::float32, D::space});
    c.gradient("x", {to_x.out().data(), n, d, row, dtype::float32, D::space});
    c.gradient("x_weights", {to_w.out().data(), n, 1, one, dtype::float32, D::space});
    c.run(craft::any_device(D::make()));
  };
  run(true, value, dx, dw);
  run(false, other_value, other_dx, other_dw);
  CHECK(other_value.get() == value.get());
  CHECK(other_dx.get() == dx.get());
  CHECK(other_dw.get() == dw.get());
}

TEST_CASE("what is given again counts", "[runtime][sizes]") {
  const double numbers[12] = {};
  const auto rows = [&](index_t n) { return rt::matrix{numbers, n, 2, 2, dtype::float64}; };
  rt::call c("mmd");
  c.give("x", rows(3)), c.give("y", rows(4));
  c.check();
  CHECK(c.gradient_sizes(c.verb().gradient_named("x")).sizes[0] == 3);
  c.give("x", rows(5));
  c.give("bandwidths", std::vector<double>{1, 2});
  c.check();
  CHECK(c.gradient_sizes(c.verb().gradient_named("x")).sizes[0] == 5);
  CHECK(c.gradient_sizes(c.verb().gradient_named("bandwidths")).sizes[0] == 2);
}

TEST_CASE("run checks what nobody has checked", "[runtime][errors]") {
  using D = stored_as<double>;
  const craft::any_device device(D::make());
  const rt::verb& v = rt::verb_named("mmd");
  const full_call<D> call(v);
  const watched all(call);
  rt::call missing(v), late(v), right(v);
  call.places(missing);
  rejects<type_error>(all, [&] { missing.run(device); }, {"mmd: x is missing", "y is missing"});
  call.give(late);
  late.check();
  call.places(late);
  late.give("estimator", "unbaised");  // after check
  rejects<option_error>(all, [&] { late.run(device); }, {"got unbaised"});
  rt::call refused(v);
  call.give(refused);
  refused.check();
  call.places(refused);
  refused.refuse("x is no such thing", false);  // by the host
  rejects<shape_error>(all, [&] { refused.run(device); }, {"mmd: x is no such thing"});
  call.give(right);
  call.places(right);
  CHECK_NOTHROW(right.run(device));
  CHECK_FALSE(all.untouched());
}
