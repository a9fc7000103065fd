// Random calls of the verbs that choose or make anchors, on the hard numbers of losses_fuzz: what they found must be what
// they say, in long double, within the rounding of distances (losses_exact.hpp).
//
//     anchors_fuzz [seconds] [seed] [case]
//
// With a case's number only that case runs. What is found loses rows and columns as long as it stays wrong, is printed,
// and it exits with 1.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "craft/anchors.hpp"
#include "losses_calls.hpp"
#include "losses_exact.hpp"

namespace fuzz {
namespace {

using indices = std::vector<craft::index_t>;

/// One call of each verb on these rows.
struct anchors_case {
  scalar_type type;
  table x;
  int k, restarts, threads, tile, padding, start, classes;
  std::uint64_t seed;
  bool unit;  ///< spherical, by cosine, with normalise
};
anchors_case draw_anchors(std::uint64_t seed, std::uint64_t number) {
  const test_case c = draw_case(seed, number);
  anchors_case a{c.type, table(c.x.rows + c.y.rows, c.x.cols), 1, 1, c.threads, c.tile, c.padding, 0, 1, 0, false};
  std::copy(c.x.v.begin(), c.x.v.end(), a.x.v.begin());
  std::copy(c.y.v.begin(), c.y.v.end(), a.x.v.begin() + long(c.x.v.size()));
  std::uint64_t bits = seed * 0x9e3779b97f4a7c15u ^ (number + 1) * 0xd1342543de82ef95u;
  const auto below = [&](int n) { return int((bits = bits * 6364136223846793005u + 1442695040888963407u) >> 33) % n; };
  a.k = 1 + below(std::min(a.x.rows, 9)), a.restarts = 1 + below(3), a.start = below(a.x.rows), a.classes = 1 + below(4);
  a.seed = std::uint64_t(below(1000)), a.unit = below(3) == 0;
  return a;
}

bool same_row(const table& x, int i, int j) {
  return std::equal(&x.v[std::size_t(i * x.cols)], &x.v[std::size_t(i * x.cols)] + x.cols, &x.v[std::size_t(j * x.cols)]);
}

/// The rows as the verbs see them: as they are, centred, or divided by their norms.
enum class seen { raw, centred, unit };
uncertain_rows prepare(const table& t, seen how, const precision& p, int mean_of) {
  uncertain_rows z = load(t);
  if (how == seen::unit) normalise(z, p);
  for (int k = 0; k < z.d && how == seen::centred; ++k) {
    const real mean = column_mean(z, k, mean_of);
    for (int i = 0; i < z.n; ++i) z.at(i, k) -= mean;
  }
  if (how == seen::centred) z.round(p);
  return z;
}
/// Mean of the rows that `of` says, as row i of c. Sums run in double: of doubles, equal ones have roundings of one sign.
template <class Of>
void mean_row(const uncertain_rows& z, uncertain_rows& c, int i, real u, const Of& of) {
  for (int k = 0; k < z.d; ++k) {
    real sum = 0, error = 0, size = 0;
    int count = 0;
    for (int r = 0; r < z.n; ++r)
      if (of(r)) sum += z.at(r, k), error += z.error(r, k), size = std::max(size, std::abs(z.at(r, k))), ++count;
    c.at(i, k) = sum / count, c.error(i, k) = error / count + (2 * u + count * 0x1p-54L) * size;
  }
}

/// Says what is wrong, or nothing.
template <class S>
class checked {
 public:
  explicit checked(const anchors_case& a)
      : a_(a), x_(a.x, a.padding), p_(of_computing(a.type)), n_(a.x.rows), d_(a.x.cols), ctx_(a.threads) {
    ctx_.tile(a.tile);
  }
  std::string run() {
    for (const auto& verb : {&checked::means, &checked::clusters, &checked::farthest, &checked::nearest}) {
      const std::string wrong = (this->*verb)();
      if (!wrong.empty()) return wrong;
    }
    return "";
  }

 private:
  /// Whether `call` refused data that are out of range; other errors are passed on.
  template <class F>
  bool refused(const uncertain_rows& z, bool squares, const F& call) const {
    try {
      call();
      return false;
    } catch (const craft::data_error&) {
      test_case c;
      c.kernel = kernel_type::energy, c.x = table(n_, d_);
      if (!squares || !out_of_range(c, {&z}, p_)) throw;
      return true;
    }
  }
  bool shows(real wrong, const uncertain& a, const uncertain& b) const { return wrong > untypical * (a.e + b.e); }

  std::string means() {
    std::vector<int> labels(std::size_t(n_), 0);
    const int classes = std::min(a_.classes, n_);
    for (int i = 0; i < n_; ++i) labels[std::size_t(i)] = i % classes;
    memory<S> out(classes, d_, a_.padding);
    craft::class_means_options o;
    o.normalise = a_.unit;
    craft::class_means(ctx_, x_.input(), craft::labels(labels), o, out.place());
    const uncertain_rows z = prepare(a_.x, a_.unit ? seen::unit : seen::raw, p_, n_);
    uncertain_rows c(classes, d_);
    for (int q = 0; q < classes; ++q) mean_row(z, c, q, p_.u, [&](int i) { return i % classes == q; });
    if (a_.unit) normalise(c, p_);
    return differ("class_means", out, c, [](int) { return true; });
  }
  template <class Of>
  std::string differ(const char* verb, memory<S>& got, const uncertain_rows& want, const Of& of) const {
    const precision out = of_storage(a_.type);
    for (int i = 0; i < want.n; ++i)
      for (int k = 0; k < d_ && of(i); ++k) {
        const real bound = untypical * want.error(i, k) + out.u * std::abs(want.at(i, k)) + 2 * out.least;
        if (std::abs(want.at(i, k)) < out.largest / 2 && bound < out.largest &&
            !(std::abs(real(double(got.at(i, k))) - want.at(i, k)) <= bound))
          return std::string(verb) + ": a mean is wrong";
      }
    return got.marks_stand() ? "" : std::string(verb) + ": wrote beside its place";
  }

  std::string clusters() {
    const uncertain_rows z = prepare(a_.x, a_.unit ? seen::unit : seen::centred, p_, n_);
    memory<S> out(a_.k, d_, a_.padding);
    craft::kmeans_options o;
    o.seed = a_.seed, o.restarts = a_.restarts, o.spherical = a_.unit;
    craft::kmeans_result found;
    if (refused(z, !a_.unit, [&] { found = craft::kmeans(ctx_, x_.input(), o, out.place()); })) return "";
    const auto cluster = [&](int i) { return int(found.assignment[std::size_t(i)]); };
    std::set<int> used;
    for (int i = 0; i < n_; ++i) {
      used.insert(cluster(i));
      for (int j = 0; j < i; ++j)
        if (same_row(a_.x, i, j) && cluster(i) != cluster(j)) return "kmeans: equal rows in different clusters";
    }
    if (int(used.size()) != int(found.distinct)) return "kmeans: distinct is not the number of clusters with rows";
    uncertain_rows c(a_.k, d_);
    for (const int q : used) mean_row(z, c, q, p_.u, [&](int i) { return cluster(i) == q; });
    if (a_.unit) normalise(c, p_);
    real inertia = 0, error = 0;
    for (int i = 0; i < n_; ++i) {
      const uncertain own = distance(z, i, c, cluster(i), false, p_);
      inertia += own.v, error += own.e;
      for (const int q : used) {
        const uncertain other = distance(z, i, c, q, false, p_);
        if (found.iterations < o.max_iterations && shows(own.v - other.v, own, other))
          return "kmeans: another centre is nearer";
      }
      // A unit row that is normalised once more is no farther than this.
      const real nothing = a_.unit ? square((d_ + 4) * 2 * p_.u) : 0;
      if (int(used.size()) < a_.k && own.v > untypical * own.e + nothing)
        return "kmeans: an empty cluster, and a row away from its centre";
    }
    if (!(std::abs(found.inertia - inertia) <= untypical * error + p_.u * inertia)) return "kmeans: the inertia is wrong";
    if (a_.unit) return differ("kmeans", out, c, [&](int q) { return used.count(q) > 0; });
    uncertain_rows back(a_.k, d_);  // where the rows were
    const uncertain_rows raw = prepare(a_.x, seen::raw, p_, n_);
    for (const int q : used) {
      mean_row(raw, back, q, 0, [&](int i) { return cluster(i) == q; });
      for (int k = 0; k < d_; ++k) back.error(q, k) = c.error(q, k) + p_.u * std::abs(back.at(q, k));
    }
    return differ("kmeans", out, back, [&](int q) { return used.count(q) > 0; });
  }

  std::string farthest() {
    const uncertain_rows z = prepare(a_.x, a_.unit ? seen::unit : seen::raw, p_, n_);
    indices found;
    if (refused(z, !a_.unit, [&] {
          found = craft::farthest_point_anchors(ctx_, x_.input(), a_.k, a_.start,
                                                a_.unit ? craft::metric::cosine : craft::metric::euclidean);
        }))
      return "";
    if (found[0] != a_.start) return "farthest_point_anchors: does not start where it should";
    std::vector<uncertain> least(std::size_t(n_), {HUGE_VALL, 0});
    for (std::size_t t = 0; t < found.size(); ++t) {
      const uncertain chosen = least[std::size_t(found[t])];
      for (const uncertain& other : least)
        if (t > 0 && shows(other.v - chosen.v, other, chosen)) return "farthest_point_anchors: another row is farther";
      for (int i = 0; i < n_; ++i) {
        // By differences, of rows that were not centred.
        uncertain D = distance(z, i, z, int(found[t]), same_row(a_.x, i, int(found[t])), {0, 0, p_.least, p_.largest});
        D.e += 2 * p_.u * growth(d_) * D.v;
        uncertain& to = least[std::size_t(i)];
        to = {std::min(to.v, D.v), to.v == HUGE_VALL ? D.e : std::max(to.e, D.e)};
      }
    }
    return "";
  }

  std::string nearest() {
    // Centres: the last rows, of which the first is one of x.
    const int k = std::min(a_.k, n_ - 1), rows = n_ - k;
    if (k < 1) return "";
    table x(rows, d_), c(k, d_), all = a_.x;
    std::copy_n(a_.x.v.begin(), d_, all.v.begin() + rows * d_);
    std::copy_n(all.v.begin(), rows * d_, x.v.begin());
    std::copy_n(all.v.begin() + rows * d_, k * d_, c.v.begin());
    const memory<S> of_x(x, a_.padding), of_c(c, a_.padding);
    const uncertain_rows z = prepare(all, seen::centred, p_, rows);
    indices found;
    if (refused(z, true, [&] { found = craft::medoids(ctx_, of_x.input(), of_c.input()); })) return "";
    for (int q = 0; q < k; ++q) {
      const auto to = [&](int i) { return distance(z, i, z, rows + q, same_row(all, i, rows + q), p_); };
      const uncertain own = to(int(found[std::size_t(q)]));
      for (int i = 0; i < rows; ++i) {
        const uncertain other = to(i);
        if (shows(own.v - other.v, own, other)) return "medoids: another row is nearer";
        if (i < found[std::size_t(q)] && same_row(all, i, int(found[std::size_t(q)])))
          return "medoids: not the first of equal rows";
      }
    }
    return "";
  }

  const anchors_case& a_;
  memory<S> x_;
  precision p_;
  int n_, d_;
  craft::cpu ctx_;
};

std::string wrong(const anchors_case& a) {
  try {
    switch (a.type) {
      case scalar_type::f32:
        return checked<float>(a).run();
      case scalar_type::f64:
        return checked<double>(a).run();
      case scalar_type::f16:
        return checked<Eigen::half>(a).run();
      case scalar_type::bf16:
        return checked<Eigen::bfloat16>(a).run();
    }
  } catch (const std::exception& error) {
    return std::string("threw ") + error.what();
  }
  return "";
}

/// Without row or column `at`.
anchors_case without(const anchors_case& a, bool row, int at) {
  anchors_case b = a;
  b.x = table(a.x.rows - row, a.x.cols - !row);
  for (int i = 0; i < b.x.rows; ++i)
    for (int k = 0; k < b.x.cols; ++k) b.x.at(i, k) = a.x.at(i + (row && i >= at), k + (!row && k >= at));
  b.k = std::min(b.k, b.x.rows), b.start = std::min(b.start, b.x.rows - 1);
  return b;
}
void print(anchors_case a, const std::string& what) {
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (const bool row : {true, false})
      for (int at = (row ? a.x.rows : a.x.cols) - 1; at >= 0 && (row ? a.x.rows : a.x.cols) > 1; --at) {
        const anchors_case b = without(a, row, at);
        if (wrong(b).substr(0, 12) == what.substr(0, 12)) a = b, smaller = true;
      }
  }
  std::printf("%s, %s\n  x (%d x %d) =", wrong(a).c_str(), scalar_names[int(a.type)], a.x.rows, a.x.cols);
  for (int i = 0; i < a.x.rows && i < 12; ++i) {
    std::printf(" {");
    for (int k = 0; k < a.x.cols && k < 12; ++k) std::printf("%s%.17g", k ? ", " : "", a.x.at(i, k));
    std::printf("}");
  }
  std::printf("\n  k %d, restarts %d, seed %llu, start %d, classes %d, %s, tile %d, padding %d, threads %d\n", a.k,
              a.restarts, static_cast<unsigned long long>(a.seed), a.start, a.classes,
              a.unit ? "unit rows" : "rows as they are", a.tile, a.padding, a.threads);
}

}  // namespace
}  // namespace fuzz

int main(int argc, char** argv) {
  using namespace fuzz;
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::uint64_t number = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0, found = 0;
  std::printf("anchors_fuzz: seed %llu\n", static_cast<unsigned long long>(seed));
  const auto start = std::chrono::steady_clock::now();
  do {
    const anchors_case a = draw_anchors(seed, number);
    const std::string what = wrong(a);
    if (!what.empty() && ++found <= 8) {
      std::printf("\n== found: anchors_fuzz 0 %llu %llu, shrunk: ", static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(number));
      print(a, what);
      std::fflush(stdout);
    }
    ++number;
  } while (argc <= 3 && std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds);
  std::printf("%llu cases, %llu found wrong\n", static_cast<unsigned long long>(argc > 3 ? 1 : number),
              static_cast<unsigned long long>(found));
  return found > 0;
}
