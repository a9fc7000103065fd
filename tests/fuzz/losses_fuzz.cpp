// Random calls of the losses on hard numbers, against the definitions in long double (losses_exact.hpp has the bounds).
//
//     losses_fuzz [seconds] [seed] [case]
//
// With a case's number only that case runs, and is printed. What is found is shrunk and printed, and it exits with 1. It does
// so, too, where the worst error of a kind of output is below a twentieth of its bound, for such a bound could hide a fault.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <tuple>

#include "losses_calls.hpp"

namespace fuzz {

exact_answer exact(const test_case& c) {
  exact_answer a;
  if (c.verb == verb::mmd || c.verb == verb::bandwidth_scale || c.verb == verb::two_sample_test)
    exact_mmd(c, a);
  else if (c.verb == verb::relative || c.verb == verb::relative_pullback)
    exact_relative(c, a);
  else if (c.verb == verb::objective)
    exact_objective(c, a);
  else
    exact_alignment(c, a);
  return a;
}

library_answer call(const test_case& c, const exact_answer& e) {
  library_answer a;
  try {
    switch (c.type) {
      case scalar_type::f32:
        call_as<float>(c, e, a);
        break;
      case scalar_type::f64:
        call_as<double>(c, e, a);
        break;
      case scalar_type::f16:
        call_as<Eigen::half>(c, e, a);
        break;
      case scalar_type::bf16:
        call_as<Eigen::bfloat16>(c, e, a);
        break;
    }
  } catch (const craft::option_error& error) {
    a.error = error.what();
  } catch (const craft::data_error& error) {
    a.error = error.what();
  } catch (const std::exception& error) {
    a.fault = std::string("threw ") + error.what();
  }
  return a;
}

namespace {

/// How one output compares: the worst error / bound, and where.
struct comparison {
  std::string kind;
  real ratio = 0, got = 0, wanted = 0, bound = 0;
  std::size_t at = 0;
  bool compared = false;
};

want how(const test_case& c, const std::string& kind) {
  if (kind == "batch_texts") return c.want_second;
  if (kind == "image_anchors") return c.want_x_weights;
  if (kind == "target_images") return c.want_y_weights;
  if (kind == "x") return c.want_x;
  if (kind == "y" || kind == "anchors") return c.want_y;
  if (kind == "weights" || kind == "log_scale") return c.want_first;
  if (kind == "bandwidths" || kind == "bias") return c.want_second;
  if (kind == "x_weights" || kind == "row_weights") return c.want_x_weights;
  if (kind == "y_weights" || kind == "targets") return c.want_y_weights;
  return want::overwrite;
}

bool is_stored(const std::string& kind) {
  for (const char* rows : {"x", "y", "anchors", "out", "batch_texts", "image_anchors", "target_images"})
    if (kind == rows) return true;
  return false;
}
bool same_computing(scalar_type a, scalar_type b) { return (a == scalar_type::f64) == (b == scalar_type::f64); }

std::vector<comparison> compare(const test_case& c, const exact_answer& e, const library_answer& a) {
  std::vector<comparison> all;
  if (!a.fault.empty()) all.push_back({"fault: " + a.fault, HUGE_VALL});
  if (!a.error.empty() && !e.may_refuse && !e.must_refuse) all.push_back({"refused: " + a.error, HUGE_VALL});
  if (e.must_refuse && a.error.empty()) all.push_back({"not refused", HUGE_VALL});
  if (!a.error.empty() || e.must_refuse) return all;
  for (const library_output& o : a.outputs) {
    const exact_output& x = *e.find(o.kind);
    comparison worst;
    worst.kind = o.kind;
    const real largest =
        (is_stored(o.kind) ? of_storage(c.type) : of_computing(o.kind == "scale" ? scalar_type::f64 : c.type)).largest;
    for (std::size_t i = 0; i < o.value.size() && x.compared; ++i) {
      const real old = how(c, o.kind) == want::accumulate ? before(c.type, x.value[i]) : 0, got = o.value[i];
      if (std::abs(x.value[i]) + x.bound[i] > 0.5L * largest) continue;
      real ratio = std::abs(got - (x.value[i] + old)) / x.bound[i];
      if (x.or_zero && got == old) ratio = 0;
      if (!(ratio <= HUGE_VALL)) ratio = HUGE_VALL;  // not a number
      worst.compared = true;
      if (ratio > worst.ratio) worst = {o.kind, ratio, got, x.value[i] + old, x.bound[i], i, true};
    }
    all.push_back(worst);
  }
  return all;
}

std::vector<comparison> run(const test_case& c) {
  const exact_answer e = exact(c);
  return compare(c, e, call(c, e));
}
const comparison* failure(const std::vector<comparison>& all, const std::string& kind) {
  for (const comparison& o : all)
    if (o.ratio > 1 && o.kind.substr(0, 7) == kind.substr(0, 7)) return &o;
  return nullptr;
}

test_case shrink(test_case c, const std::string& kind, double seconds) {
  const auto start = std::chrono::steady_clock::now();
  const auto late = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds;
  };
  for (bool smaller = true; smaller && !late();) {
    smaller = false;
    for (const test_case& candidate : simpler(c)) {
      if (late()) break;
      if (!failure(run(candidate), kind)) continue;
      c = candidate;
      smaller = true;
      break;
    }
  }
  return c;
}

void print(const test_case& c, const std::string& kind) {
  std::printf("%s", describe(c).c_str());
  const std::vector<comparison> all = run(c);
  for (const comparison& o : all)
    if (kind.empty() || o.ratio > 1)
      std::printf("  => %s[%zu]: got %.17Lg, wanted %.17Lg, bound %.3Lg, error / bound %.3Lg\n", o.kind.c_str(), o.at,
                  o.got, o.wanted, o.bound, o.ratio);
}

/// Per verb, kind of output and scalar type.
struct tally {
  std::uint64_t compared = 0, found = 0;
  real worst = 0;
  std::uint64_t at = 0;
};
using key = std::tuple<verb, std::string, scalar_type>;

int table_of(const std::map<key, tally>& tallies) {
  std::printf("\n%-22s %-11s %-9s %9s %7s %14s\n", "verb", "output", "type", "compared", "found", "error / bound");
  int loose = 0;
  for (const auto& [k, t] : tallies) {
    const bool zero = std::get<1>(k) == "bias" && std::get<0>(k) != verb::sigmoid_contrastive;  // by definition
    tally all;  // of the same bound: what is not stored is computed in float for types of two bytes, too
    for (const auto& [other, of] : tallies)
      if (std::get<0>(other) == std::get<0>(k) && std::get<1>(other) == std::get<1>(k) &&
          (other == k || (!is_stored(std::get<1>(k)) && same_computing(std::get<2>(other), std::get<2>(k)))))
        all.compared += of.compared, all.worst = std::max(all.worst, of.worst);
    const bool is_loose = !zero && all.compared >= 4000 && all.worst < 0.05L;
    loose += is_loose;
    std::printf("%-22s %-11s %-9s %9llu %7llu %14.3Lf%s\n", verb_names[int(std::get<0>(k))],
                std::get<1>(k).substr(0, 11).c_str(), scalar_names[int(std::get<2>(k))],
                static_cast<unsigned long long>(t.compared), static_cast<unsigned long long>(t.found), t.worst,
                is_loose ? "  the bound is loose" : "");
  }
  return loose;
}

}  // namespace
}  // namespace fuzz

int main(int argc, char** argv) {
  using namespace fuzz;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 50;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  if (argc > 3) {
    const test_case c = draw_case(seed, std::strtoull(argv[3], nullptr, 10));
    print(c, "");
    bool wrong = false;
    for (const comparison& o : run(c)) wrong = wrong || o.ratio > 1;
    return wrong;
  }
  std::printf("losses_fuzz: seed %llu\n", static_cast<unsigned long long>(seed));
  const auto start = std::chrono::steady_clock::now();
  std::map<key, tally> tallies;
  std::uint64_t number = 0, found = 0;
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++number) {
    const test_case c = draw_case(seed, number);
    for (const comparison& o : run(c)) {
      tally& t = tallies[{c.verb, o.kind.substr(0, 7) == "refused" ? "refused" : o.kind, c.type}];
      t.compared += o.compared;
      if (o.ratio <= 1) {
        if (o.ratio > t.worst) t.worst = o.ratio, t.at = number;
        continue;
      }
      ++found;
      if (++t.found > 1 || found > 400) continue;  // one of a kind is enough to read
      std::printf("\n== found: losses_fuzz 0 %llu %llu, shrunk:\n", static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(number));
      print(shrink(c, o.kind, 2), o.kind);
      std::fflush(stdout);
    }
  }
  const int loose = table_of(tallies);
  std::printf("%llu cases, %llu outputs found wrong, %d bounds loose\n", static_cast<unsigned long long>(number),
              static_cast<unsigned long long>(found), loose);
  return found > 0 || loose > 0;
}
