// The descriptions of the verbs, as they are written down: hosts are loops over them, and rely on what is tested here.
#include <cctype>
#include <cmath>
#include <set>

#include "runtime_inputs.hpp"

using namespace craft_test;

namespace {

/// What all hosts can have as a name: of a function, of an argument, of an attribute.
bool is_name(const std::string& text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) == 0 &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
}
bool is_text(const std::string& text) {
  return !text.empty() && text.front() != ' ' && text.back() != ' ' && text.back() != '\n';
}

}  // namespace

TEST_CASE("descriptions are sound", "[runtime][descriptions]") {
  std::set<std::string> verbs, modules;
  CHECK(rt::verbs().size() >= 18);
  for (const rt::verb& v : rt::verbs()) {
    INFO(v.name);
    CHECK(is_name(v.name));
    CHECK(verbs.insert(v.name).second);
    CHECK(&rt::verb_named(v.name) == &v);
    CHECK(v.run != nullptr);
    if (*v.module != '\0') CHECK(modules.insert(v.module).second);
    CHECK(is_text(v.text));
    const std::string text = v.text, first = text.substr(0, text.find('\n'));
    CHECK(first.size() <= 120);
    CHECK(first.back() == '.');
    CHECK((first == text || text.substr(first.size(), 2) == "\n\n"));

    std::set<std::string> fields, sizes, results;
    int matrices = 0;
    for (const rt::field& f : v.fields) {
      INFO(f.name);
      CHECK(is_name(f.name));
      CHECK(fields.insert(f.name).second);
      CHECK(is_text(f.text));
      CHECK(&f == &v.fields[std::size_t(v.field_named(f.name))]);
      matrices += f.kind == kind::matrix;
      // Arrays of rows have sizes, and nothing else has.
      const std::size_t dimensions = f.kind == kind::matrix || f.kind == kind::computed || f.kind == kind::targets ? 2
                                     : f.kind == kind::labels || f.kind == kind::numbers                           ? 1
                                                                                                                   : 0;
      CHECK(f.shape.size() == dimensions);
      for (const auto& factors : f.shape) {
        CHECK(factors.size() == 1);  // an array says what one size is
        sizes.insert(factors[0]);
      }
      // Choices have their default among them.
      CHECK((f.kind == kind::choice) == !f.choices.empty());
      if (f.kind == kind::choice) CHECK((f.whole >= 0 && f.whole < index_t(f.choices.size())));
      const std::set<std::string> choices(f.choices.begin(), f.choices.end());
      CHECK(choices.size() == f.choices.size());
      for (const std::string& name : choices) CHECK(is_name(name));
      if (f.kind == kind::flag) CHECK((f.whole == 0 || f.whole == 1));
      CHECK_FALSE(std::isnan(f.number));
      CHECK((!f.required || f.positional));  // what must be given may be given by its place
      if (f.gradient >= 0) {
        REQUIRE(f.gradient < int(v.gradients.size()));
        CHECK(&v.fields[std::size_t(v.gradients[std::size_t(f.gradient)])] == &f);
        CHECK(v.gradient_named(f.name) == f.gradient);
      }
      CHECK((!f.two_sided || f.kind == kind::scalar));
    }
    CHECK(v.matrices == matrices);
    CHECK(std::set<int>(v.gradients.begin(), v.gradients.end()).size() == v.gradients.size());
    for (std::size_t g = 0; g < v.gradients.size(); ++g) {
      REQUIRE((v.gradients[g] >= 0 && v.gradients[g] < int(v.fields.size())));
      const rt::field& f = v.fields[std::size_t(v.gradients[g])];
      INFO(f.name);
      CHECK(f.gradient == int(g));
      CHECK((f.kind == kind::matrix || f.kind == kind::targets || f.kind == kind::numbers || f.kind == kind::scalar ||
             f.kind == kind::list || f.kind == kind::number));
    }
    // A kernel is its family's name, and behind that what the family may have.
    for (std::size_t i = 0; i < v.fields.size(); ++i) {
      if (v.fields[i].choices != rt::kernel::families()) continue;
      REQUIRE(i + 4 < v.fields.size());
      CHECK(v.fields[i + 1].name == std::string("bandwidths"));
      CHECK(v.fields[i + 2].name == std::string("weights"));
      CHECK(v.fields[i + 3].name == std::string("shape"));
      CHECK(v.fields[i + 4].name == std::string("degree"));
    }

    CHECK((!v.results.empty() || !v.gradients.empty()));
    for (const rt::result& r : v.results) {
      INFO(r.name);
      CHECK(is_name(r.name));
      CHECK(results.insert(r.name).second);
      if (fields.count(r.name) > 0) CHECK(v.fields[std::size_t(v.field_named(r.name))].gradient < 0);  // one name, one output
      CHECK(is_text(r.text));
      CHECK(&r == &v.results[std::size_t(v.result_named(r.name))]);
      CHECK((r.type == dtype::float32 || r.type == dtype::float64 || r.type == dtype::int64));
      CHECK(r.shape.size() <= 2);
      if (!r.names.empty()) CHECK(r.shape == rt::named_sizes{{std::to_string(r.names.size())}});
      // What a size is named after is there in every call: an array that has no default, or an integer.
      for (const auto& factors : r.shape)
        for (const std::string& name : factors) {
          INFO(name);
          bool known = name.find_first_not_of("0123456789") == std::string::npos;
          for (const rt::field& f : v.fields) {
            known = known || (f.kind == kind::whole && f.name == name);
            for (const auto& of : f.shape) known = known || (f.required && of[0] == name);
          }
          CHECK(known);
        }
    }
    // Maps have a verb for their gradients, which takes their arguments.
    if (v.pullback != nullptr) {
      const rt::verb& back = rt::verb_named(v.pullback);
      CHECK(v.results.size() == 1);
      CHECK(back.results.empty());
      CHECK_FALSE(back.gradients.empty());
      for (const rt::field& f : v.fields) CHECK(back.fields[std::size_t(back.field_named(f.name))].kind == f.kind);
    }
  }
}

TEST_CASE("what is in a description is what the headers say", "[runtime][descriptions]") {
  const auto field = [](const char* verb, const char* name) -> const rt::field& {
    const rt::verb& v = rt::verb_named(verb);
    return v.fields[std::size_t(v.field_named(name))];
  };
  CHECK(field("mmd", "factor").number == 1);
  CHECK(field("mmd", "estimator").whole == 0);
  CHECK(field("mmd", "column_gradient").whole == 1);
  CHECK(field("bandwidth_scale", "bandwidth_rule").choices[std::size_t(field("bandwidth_scale", "bandwidth_rule").whole)] ==
        std::string("median"));
  CHECK(field("info_nce", "log_scale").number == std::log(100.0));
  CHECK(field("sigmoid_contrastive", "bias").number == -10);
  CHECK(std::isinf(field("info_nce", "max_scale").number));
  CHECK(field("anchor_cross_entropy", "ignore_label").whole == -100);
  CHECK(field("kmeans", "restarts").whole == 10);
  CHECK(field("kmeans", "k").required);
  CHECK_FALSE(field("objective", "batch_texts").required);
  CHECK(field("mmd_preset", "preset").required);
  CHECK(field("anchor_cross_entropy", "targets").shape == rt::named_sizes{{"n"}, {"C"}});
  CHECK(rt::verb_named("kmeans_per_class").results[0].shape == rt::named_sizes{{"classes", "per_class"}, {"d"}});
  CHECK(rt::verb_named("relative").pullback == std::string("relative_pullback"));
  CHECK(rt::verb_named("random_anchors").matrices == 0);
}
