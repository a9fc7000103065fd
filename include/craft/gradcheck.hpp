// Gradient checker: compares a gradient somebody computed with the slopes of the function itself, for any function of
// blocks of numbers. It says "agrees" only when the slopes were measured well enough to say so, and "unresolved" where
// they were not (a kink, rounding noise), so that a passing test means something.
//
// Sources of the ideas: W. Press et al., Numerical Recipes, section 5.7 "Numerical Derivatives" (exactly representable
// steps, Ridders' extrapolation of central differences to step zero); J. More and S. Wild, "Estimating computational
// noise", SIAM J. Sci. Comput. 33 (2011) (noise of a function from its high differences over a tiny range).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iomanip>
#include <limits>
#include <ostream>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "craft/error.hpp"
#include "craft/view.hpp"

namespace craft {

/// What a comparison came to. unresolved: the slope could not be measured well enough to decide.
enum class verdict { agrees, disagrees, unresolved };

/// A block of the function's arguments: `size` numbers that the function reads at `values`, and the gradient to be
/// checked, df/dvalues. T is float or double. The gradient is copied before the function is first called, so a
/// function that writes its gradient there again on each call does no harm. Quantities of different units or scale
/// (features, a bandwidth, a bias) belong in blocks of their own.
template <class T>
struct gradient_block {
  std::string name;             ///< for the report
  T* values = nullptr;          ///< where f reads them
  index_t size = 0;             ///< how many
  const T* gradient = nullptr;  ///< df/dvalues, as many
};

/// How to check.
struct gradcheck_options {
  double tolerance = 0;    ///< allowed relative error; 0: 1e-7 for double, 2e-3 for float blocks
  double step = 0;         ///< 0: searched for; else the largest of three, in units of the numbers (of their length)
  index_t directions = 0;  ///< 0: every coordinate; else that many random directions
  std::uint64_t seed = 0;  ///< of the directions; the same on every platform
  index_t worst = 5;       ///< how many entries the report lists
};

/// One comparison.
struct gradcheck_entry {
  std::string name;                      ///< the block, or "direction"
  index_t index = 0;                     ///< of the coordinate in it, or of the direction
  double analytic = 0,                   ///< the slope by the gradient given
      numeric = 0,                       ///< the slope of f
      absolute = 0,                      ///< |analytic - numeric|
      relative = 0,                      ///< absolute / scale (see gradcheck()): over the tolerance is too much
      step = 0,                          ///< the smallest of the steps that numeric was extrapolated from
      uncertainty = 0;                   ///< how far numeric itself may be off, in the units of the gradient
  verdict result = verdict::unresolved;  ///< of this entry
};

/// Outcome of a check. cosine and norm_ratio are those of the two gradients over the entries where both are finite; 1 and
/// 1 if both gradients are zero, cosine 0 if one of them is.
struct gradcheck_report {
  craft::verdict verdict = craft::verdict::unresolved;  ///< disagrees if any entry does, else unresolved if any is
  bool same_bits = false;              ///< whether two calls at one point returned the same bits; not in the verdict
  double cosine = 0, norm_ratio = 0;   ///< of the gradients: cosine, |analytic| / |numeric|
  index_t checked = 0;                 ///< entries compared
  std::vector<gradcheck_entry> worst;  ///< disagreeing first, then unresolved, then the rest; each by relative error

  /// All of the above as a table for people.
  std::string text() const;
  /// Whether the verdict is "agrees": unresolved is not a pass.
  explicit operator bool() const { return verdict == craft::verdict::agrees; }
};

namespace gradcheck_detail {

inline const char* word(verdict v) {
  return v == verdict::agrees ? "agrees" : v == verdict::disagrees ? "DISAGREES" : "unresolved";
}

/// Between one step and the next. No integer, so that a periodic f cannot look linear at all of them.
constexpr double step_ratio = 3.7;

/// f along a line at +-step: central difference, difference of the two one-sided slopes, bound on the noise of the
/// central difference, largest one-sided slope, and whether f kept its value.
struct line_sample {
  double step, central, jump, noise, slope;
  bool same;
  bool finite() const { return std::isfinite(central) && std::isfinite(jump); }
};

/// A slope extrapolated to step 0, from steps down to `step`. nearby: largest one-sided slope among the steps used, the
/// natural size of the gradient around a stationary point. flat: f kept its value.
struct slope_estimate {
  double value = std::numeric_limits<double>::quiet_NaN(), step = 0;
  double uncertainty = std::numeric_limits<double>::infinity(), nearby = 0;
  bool flat = false;
};

/// Richardson's extrapolation over every run of neighbouring steps (samples in descending order of step); the estimate
/// with the smallest uncertainty wins. Uncertainty: the last two corrections and the noise; half the jump of the slope
/// where the one-sided slopes do not meet (a kink, which central differences cannot see); and what separates it from
/// estimates at smaller steps (a step far beyond the function's own scale can look settled).
inline slope_estimate extrapolate(const std::vector<line_sample>& samples) {
  constexpr int depth = 5;
  struct cell {
    double value, jump, noise, uncertainty;
  };
  const int n = int(samples.size());
  std::vector<std::array<cell, depth>> table(n);
  slope_estimate best;
  for (int i = n - 1; i >= 0; --i) table[i][0] = {samples[i].central, samples[i].jump, samples[i].noise, 0};
  for (int i = 1; i < n; ++i) {
    const double ratio = samples[i - 1].step / samples[i].step;
    for (int d = 1; d <= std::min(i, depth - 1); ++d) {
      const cell &fine = table[i][d - 1], &coarse = table[i - 1][d - 1];
      // The central difference is even in the step (errors h^2, h^4, ...), the jump odd (h, h^3, ...).
      const double even = 1 / (std::pow(ratio, 2 * d) - 1), odd = 1 / (std::pow(ratio, 2 * d - 1) - 1);
      cell& c = table[i][d];
      c.value = fine.value + even * (fine.value - coarse.value);
      c.jump = fine.jump + odd * (fine.jump - coarse.jump);
      c.noise = (1 + even) * fine.noise + even * coarse.noise;
      c.uncertainty = std::max(std::abs(c.value - fine.value), std::abs(c.value - coarse.value) / 4) + c.noise;
      const double jump_error = std::max(std::abs(c.jump - fine.jump), std::abs(c.jump - coarse.jump)) + 4 * c.noise;
      if (std::abs(c.jump) > jump_error) c.uncertainty = std::max(c.uncertainty, std::abs(c.jump) / 2);
    }
  }
  for (int i = 2; i < n; ++i) {
    for (int d = 2; d <= std::min(i, depth - 1); ++d) {
      const cell& c = table[i][d];
      double u = c.uncertainty;
      for (int k = i + 1; k < n; ++k) u = std::max(u, std::abs(c.value - table[k][d].value) - table[k][d].uncertainty);
      if (!(u < best.uncertainty)) continue;
      best = {c.value, samples[i].step, u, 0, false};
      for (int k = i - d; k <= i; ++k) best.nearby = std::max(best.nearby, samples[k].slope);
    }
  }
  return best;
}

/// Numbers of the caller that move together: number + t * rate.
template <class T>
class line {
 public:
  void add(T* at, double rate) { numbers_.push_back({at, *at, rate}); }
  std::size_t size() const { return numbers_.size(); }

  /// f with the numbers moved by t, and the t that rounding to T left of it. The numbers are put back, come what may.
  template <class F>
  std::pair<double, double> operator()(F& f, double t) const {
    struct put_back {
      const std::vector<number>& numbers;
      ~put_back() {
        for (const number& x : numbers) *x.at = x.original;
      }
    } guard{numbers_};
    for (const number& x : numbers_) *x.at = T(double(x.original) + t * x.rate);
    const number& first = numbers_.front();
    const double moved = size() == 1 ? (double(*first.at) - double(first.original)) / first.rate : t;
    return {moved, double(f())};
  }

 private:
  struct number {
    T* at;
    T original;
    double rate;
  };
  std::vector<number> numbers_;
};

/// How far the numbers of a block may be moved. A block whose numbers share a sign keeps it (bandwidths and weights
/// have to stay positive), so they are moved by fractions of themselves; others by the size of the block.
template <class T>
struct block_scale {
  double rms = 0;
  bool one_sign = true;

  explicit block_scale(const gradient_block<T>& b) {
    index_t finite = 0, positive = 0, negative = 0;
    for (index_t i = 0; i < b.size; ++i) {
      const double x = double(b.values[i]);
      if (!std::isfinite(x)) continue;
      ++finite;
      positive += x > 0;
      negative += x < 0;
      rms += x * x;
    }
    one_sign = (positive == 0) != (negative == 0);
    rms = rms > 0 ? std::sqrt(rms / double(finite)) : 1.0;
  }
  /// Size of a number.
  double size(T value) const {
    const double x = std::abs(double(value));
    return std::isfinite(x) && x > 0 ? x : rms;
  }
  /// How far to move it.
  double unit(T value) const { return one_sign ? size(value) : std::max(size(value), rms); }
  /// Largest step, in those units.
  double reach() const { return one_sign ? 0.5 : 16.0; }
};

/// The function under check with what is known about it at the point: its value there and its noise.
template <class T, class F>
class probed_function {
 public:
  probed_function(F& f, double tolerance, double step) : f_(f), tolerance_(tolerance), step_(step) {
    base_ = double(f_());
    const double again = double(f_());
    same_bits_ = std::memcmp(&base_, &again, sizeof base_) == 0;
    see(base_);
    see(again);
  }
  bool same_bits() const { return same_bits_; }
  /// |f|, at least 1: the size of the terms that rounding inside f is taken to act on.
  double size() const { return std::max(std::abs(base_), 1.0); }
  /// The uncertainty up to which standing still proves that a slope is 0; f at 0 hides nothing under its rounding.
  double proves_zero() const { return base_ == 0 ? std::numeric_limits<double>::infinity() : 1e-12 * size(); }

  /// Differences of order k over equally spaced points keep the noise and kill what is smooth; pure noise of deviation
  /// s gives them the mean square s^2 (2k choose k). Three deviations are what this takes for a bound. Points so close
  /// that f repeats its values show nothing, so they move apart until it does not.
  void measure_noise(const line<T>& along) {
    std::array<double, 9> y;
    int repeats = 8;
    for (double gap = 0x1p-17; gap < 0x1p-4 && repeats > 2; gap *= 8) {
      repeats = 0;
      double smallest_move = std::numeric_limits<double>::infinity();
      for (int j = 0; j < 9; ++j) {
        y[j] = along(f_, (j - 4) * gap).second;
        see(y[j]);
        if (j == 0) continue;
        const double move = std::abs(y[j] - y[j - 1]);
        repeats += move == 0;
        if (move > 0) smallest_move = std::min(smallest_move, move);
      }
      // Some steps move f and some do not: it is a staircase, and noise is the height of a stair.
      if (repeats > 0 && repeats < 8 && std::isfinite(smallest_move)) noise_ = std::max(noise_, smallest_move);
    }
    for (int k = 1; k <= 6; ++k) {
      double squares = 0;
      for (int j = 0; j < 9 - k; ++j) {
        y[j] = y[j + 1] - y[j];
        squares += y[j] * y[j];
      }
      const double deviation = std::sqrt(squares / (9 - k) / (k == 5 ? 252 : 924));
      if (k >= 5 && std::isfinite(deviation)) noise_ = std::max(noise_, 3 * deviation);
    }
  }

  /// df/dt at t = 0 along a line. Steps go down from `top` until the slope is known to a small part of the tolerance or
  /// noise takes over; while it is not known, larger ones are tried, up to `reach`.
  slope_estimate slope(const line<T>& along, double top, double reach) {
    const bool search = step_ == 0;
    if (!search) top = step_;
    std::vector<line_sample> samples;
    slope_estimate best;
    const auto done = [&] { return best.uncertainty <= tolerance_ * std::abs(best.value) / 16; };
    double h = top;
    int settled = 0;  // one look more than needed: three steps can agree by accident
    for (int level = 0; level < (search ? 40 : 3); ++level, h /= step_ratio) {
      line_sample s;
      if (!sample(along, h, s)) break;
      if (!s.finite()) continue;
      samples.push_back(s);
      if (samples.size() < 3) continue;
      best = extrapolate(samples);
      settled = done() ? settled + 1 : 0;
      if (settled == 2 || s.noise > best.uncertainty) break;
    }
    best = extrapolate(samples);
    double last = std::numeric_limits<double>::infinity();
    for (h = top * step_ratio; search && h <= reach && !done() && best.uncertainty < last; h *= step_ratio) {
      line_sample s;
      if (!sample(along, h, s) || !s.finite()) break;
      samples.insert(samples.begin(), s);
      last = best.uncertainty;
      best = extrapolate(samples);
    }
    const auto moving = std::find_if(samples.rbegin(), samples.rend(), [](const line_sample& s) { return !s.same; });
    if (moving - samples.rbegin() > 1 && (moving == samples.rend() || moving->step > top / 2)) {
      // f stands still up to a step not much below `top`. Even at a small value (a saturated loss) that says no more
      // than the rounding of terms of size 1 allows.
      const double still = moving.base()->step;
      best = {0, still, rounding(size()) / still, 0, true};
    }
    return best;
  }

 private:
  // A function that moves and never returns more bits than float has computes in float.
  void see(double y) {
    moves_ |= y != base_;
    if (std::isfinite(y)) beyond_float_ |= std::abs(y) > std::numeric_limits<float>::max() || double(float(y)) != y;
  }
  /// Bound on the rounding of results up to `largest`, underflow included.
  double rounding(double largest) const {
    using float_limits = std::numeric_limits<float>;
    using double_limits = std::numeric_limits<double>;
    constexpr bool float_type = std::is_same_v<T, float> || std::is_same_v<std::decay_t<decltype(f_())>, float>;
    const bool in_float = !beyond_float_ && (float_type || moves_);
    return in_float ? std::max(float_limits::epsilon() * largest, double(float_limits::min()))
                    : std::max(double_limits::epsilon() * largest, double_limits::min());
  }
  /// False when the numbers cannot be moved by so little.
  bool sample(const line<T>& along, double h, line_sample& s) {
    const auto [up, above] = along(f_, h);
    const auto [down, below] = along(f_, -h);
    if (!(up > 0) || !(down < 0)) return false;
    see(above);
    see(below);
    const double right = (above - base_) / up, left = (below - base_) / down, width = up - down;
    const double noise = std::max(noise_, rounding(std::max({std::abs(above), std::abs(below), std::abs(base_)})));
    const double steeper = std::max(std::abs(right), std::abs(left));
    const bool same = above == base_ && below == base_;
    const double central = (left * up - right * down) / width;  // (above - below) / width where up = -down
    s = {width / 2, central, right - left, 2 * noise / width, steeper, same};
    return true;
  }

  F& f_;
  double tolerance_, step_, base_ = 0, noise_ = 0;
  bool same_bits_ = false, beyond_float_ = false, moves_ = false;
};

/// An entry on its way to the report. size: of its number; unit: of the steps taken from there.
struct finding {
  std::size_t block;
  index_t index;
  double analytic, size, unit;
  slope_estimate numeric;
  double relative = std::numeric_limits<double>::infinity();
  verdict result = verdict::unresolved;

  /// The measured slope as a reference for others: 0 unless it stands out of its uncertainty.
  double weight() const {
    const double slope = std::abs(numeric.value);
    return numeric.uncertainty < slope / 2 ? slope : 0;
  }
};

/// The rule that stands at gradcheck(). floor: size below which an entry is not held to its own; reference: size of the
/// gradient around it; zero: uncertainty up to which a function that stands still proves that the slope is 0.
inline void judge(finding& x, double tolerance, double epsilon, double floor, double reference, double zero) {
  if (!std::isfinite(x.analytic)) x.result = verdict::disagrees;
  const double error = std::abs(x.analytic - x.numeric.value), u = x.numeric.uncertainty;
  if (!std::isfinite(error)) return;
  const double own = tolerance * std::max({std::abs(x.analytic), std::abs(x.numeric.value), floor});
  const double around = std::max(reference, x.weight() > 0 ? 0 : x.numeric.nearby);
  const double blurred = std::min(tolerance / 10 * around, 4 * u);
  const double allowed = std::max({own, 32 * epsilon * reference, blurred});
  x.relative = error == 0 ? 0 : tolerance * error / allowed;
  if (error > allowed && error > 4 * u) {
    x.result = verdict::disagrees;
  } else if (u <= allowed / 2 && error <= allowed + u) {
    x.result = verdict::agrees;
  } else if (x.numeric.flat && x.analytic == 0 && u <= zero) {
    x.relative = 0;
    x.result = verdict::agrees;
  }
}

/// Judges coordinates block by block, or directions as one block; zero: as in judge(), for a unit of 1. The slopes of
/// directions are draws of one random number, a small one is an accident: all are held to the largest.
inline void judge_all(std::vector<finding>& found, bool directions, double tolerance, double epsilon, double zero) {
  for (const finding& x : found) zero = std::max(zero, tolerance / 10 * x.weight() * x.unit);
  for (std::size_t first = 0, last = 0; first < found.size(); first = last) {
    double largest = 0, strongest = 0;
    for (; last < found.size() && found[last].block == found[first].block; ++last) {
      largest = std::max(largest, found[last].weight());
      strongest = std::max(strongest, found[last].weight() * found[last].size);
    }
    for (std::size_t i = first; i < last; ++i) {
      const double reference = std::min(largest, strongest / found[i].size);
      judge(found[i], tolerance, epsilon, directions ? reference : 0, reference, zero / found[i].unit);
    }
  }
}

/// Everything but same_bits; puts the worst findings first.
template <class T>
gradcheck_report summarise(std::vector<finding>& found, const std::vector<gradient_block<T>>& blocks,
                           const gradcheck_options& options) {
  gradcheck_report report;
  report.checked = index_t(found.size());
  report.verdict = verdict::agrees;
  double aa = 0, nn = 0, an = 0;
  for (const finding& x : found) {
    if (x.result == verdict::disagrees) report.verdict = verdict::disagrees;
    if (x.result == verdict::unresolved && report.verdict == verdict::agrees) report.verdict = verdict::unresolved;
    if (!std::isfinite(x.analytic) || !std::isfinite(x.numeric.value)) continue;
    aa += x.analytic * x.analytic;
    nn += x.numeric.value * x.numeric.value;
    an += x.analytic * x.numeric.value;
  }
  const bool both_zero = aa == 0 && nn == 0;
  report.cosine = both_zero ? 1 : aa == 0 || nn == 0 ? 0 : an / (std::sqrt(aa) * std::sqrt(nn));
  report.norm_ratio = both_zero ? 1 : std::sqrt(aa) / std::sqrt(nn);

  const auto rank = [](const finding& x) {
    const int order = x.result == verdict::disagrees ? 0 : x.result == verdict::unresolved ? 1 : 2;
    return std::make_tuple(order, -x.relative, x.block, x.index);
  };
  const auto listed = std::min<std::ptrdiff_t>(options.worst, std::ptrdiff_t(found.size()));
  std::partial_sort(found.begin(), found.begin() + listed, found.end(),
                    [&](const finding& p, const finding& q) { return rank(p) < rank(q); });
  for (std::ptrdiff_t i = 0; i < listed; ++i) {
    const finding& x = found[i];
    report.worst.push_back({options.directions > 0 ? "direction" : blocks[x.block].name, x.index, x.analytic,
                            x.numeric.value, std::abs(x.analytic - x.numeric.value), x.relative, x.numeric.step,
                            x.numeric.uncertainty, x.result});
  }
  return report;
}

template <class T>
void check(const std::vector<gradient_block<T>>& blocks, const gradcheck_options& options) {
  require<option_error>(!blocks.empty(), "gradcheck: no blocks to check");
  for (const auto& b : blocks) {
    require<shape_error>(b.size > 0, "gradcheck: block \"", b.name, "\" must have numbers, got size ", b.size);
    require<shape_error>(b.values != nullptr, "gradcheck: block \"", b.name, "\" has a null pointer for its values");
    require<shape_error>(b.gradient != nullptr, "gradcheck: block \"", b.name,
                         "\" has a null pointer for its gradient");
  }
  require<option_error>(std::isfinite(options.tolerance) && options.tolerance >= 0,
                        "gradcheck: tolerance must be 0 or positive, got ", options.tolerance);
  require<option_error>(std::isfinite(options.step) && options.step >= 0, "gradcheck: step must be 0 or positive, got ",
                        options.step);
  require<option_error>(options.directions >= 0, "gradcheck: directions must not be negative, got ",
                        options.directions);
  require<option_error>(options.worst >= 0, "gradcheck: worst must not be negative, got ", options.worst);
}

}  // namespace gradcheck_detail

inline std::string gradcheck_report::text() const {
  std::ostringstream out;
  out << "gradient check: " << gradcheck_detail::word(verdict) << "; " << checked << " checked, cosine "
      << std::setprecision(9) << cosine << ", norm ratio " << norm_ratio
      << ", same bits on a second call: " << (same_bits ? "yes" : "NO") << '\n';
  if (worst.empty()) return out.str();
  std::size_t width = 5;
  const auto label = [](const gradcheck_entry& e) { return e.name + '[' + std::to_string(e.index) + ']'; };
  for (const gradcheck_entry& e : worst) width = std::max(width, label(e).size());
  out << "  " << std::left << std::setw(12) << "verdict" << std::setw(int(width)) << "entry" << std::right;
  for (const char* name : {"analytic", "numeric", "absolute", "relative", "step", "uncertainty"}) {
    out << std::setw(15) << name;
  }
  out << '\n' << std::setprecision(6);
  for (const gradcheck_entry& e : worst) {
    out << "  " << std::left << std::setw(12) << gradcheck_detail::word(e.result) << std::setw(int(width)) << label(e)
        << std::right;
    for (double number : {e.analytic, e.numeric, e.absolute, e.relative, e.step, e.uncertainty}) {
      out << std::setw(15) << number;
    }
    out << '\n';
  }
  return out.str();
}

/// Writes text(), which is also what test frameworks show when a report is asserted.
inline std::ostream& operator<<(std::ostream& out, const gradcheck_report& report) { return out << report.text(); }

/// Compares the gradients given in `blocks` with the slopes of f, a callable without arguments that reads the blocks'
/// values and returns a number (taken as double).
///
/// Slopes: central differences (f(x + h) - f(x - h)) / 2h at steps h that go down by 3.7, extrapolated to h = 0; 2h is
/// what really separates the two points after rounding to T. Each comes with an uncertainty u made of truncation (from
/// the differences between steps), the noise of f (measured once by high differences, at least its rounding error), and
/// half the jump between the slopes on the two sides.
///
/// Verdict of an entry, with error = |analytic - numeric|:
///   allowed = max(tolerance * max(|analytic|, |numeric|), 32 eps(T) * G, min(tolerance * G' / 10, 4 u))
///   disagrees if error > allowed and error > 4 u, or if analytic is not finite;
///   agrees if u <= allowed / 2 and error <= allowed + u;  unresolved otherwise.
/// G is the largest slope of the block, or what it comes to at the entry's own size where the numbers of a block differ
/// in scale. G' is G, or where numeric is 0 within u the larger of G and the one-sided slopes at the steps used: where
/// the gradient vanishes it is they that tell its size. So entries are held to their own size; only those too small for
/// f to show are judged by the size of their surroundings, and then as sharply as f allows.
/// relative = tolerance * error / allowed.
/// An analytic 0 also agrees where f keeps its value when the number moves, provided that f is 0, or that its rounding
/// could hide only a slope far below the others or below 1e-12 |f| per size of the number (the latter only in double).
///
/// A random direction moves all numbers at once, each by 0.5 to 1.5 times its scale up or down, and is held to the
/// largest slope among the directions. That is cheap for large inputs, but of n entries of one size a single wrong one
/// weighs only 1 / sqrt(n) there, and a block of small slopes nothing beside one of large slopes.
///
/// Cost: 20 calls of f (up to 92 if f hardly moves), then per coordinate or direction 8 to 14 where f is smooth, 20 to
/// 90 where the slope does not settle (noise, kinks, NaN). The values are changed during calls and put back exactly
/// after each, also when f throws; what f throws passes through. Steps reach half of the number in a block whose
/// numbers share a sign, so that they keep it, and 16 times the size of the block in others.
///
/// Throws option_error for no blocks or an option outside its range, shape_error for a block without numbers or with a
/// null pointer, both before f is called.
template <class T, class F>
gradcheck_report gradcheck(F&& f, const std::vector<gradient_block<T>>& blocks, const gradcheck_options& options = {}) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "craft: gradcheck wants float or double blocks");
  gradcheck_detail::check(blocks, options);
  std::vector<std::vector<T>> analytic;
  std::vector<gradcheck_detail::block_scale<T>> scales;
  double reach = std::numeric_limits<double>::infinity();
  for (const auto& b : blocks) {
    analytic.emplace_back(b.gradient, b.gradient + b.size);
    scales.emplace_back(b);
    reach = std::min(reach, scales.back().reach());
  }

  const bool directions = options.directions > 0;
  std::mt19937_64 random(options.seed);
  const auto draw_line = [&](double& slope) {
    gradcheck_detail::line<T> all;
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      for (index_t i = 0; i < blocks[k].size; ++i) {
        // 53 of the 64 bits, as the distributions of the standard library differ between platforms.
        const double draw = double(random() >> 11) * 0x1p-52 - 1;
        T* const at = blocks[k].values + i;
        const double way = draw + std::copysign(0.5, draw);
        // Coordinates are moved exactly, so the noise is measured on a line that tiny steps follow without rounding.
        const double rate = directions ? way * scales[k].unit(*at)
                                       : std::ldexp(std::round(way * 64), std::ilogb(scales[k].size(*at)) - 6);
        all.add(at, rate);
        slope += double(analytic[k][i]) * rate;
      }
    }
    return all;
  };

  const double tolerance = options.tolerance > 0 ? options.tolerance : std::is_same_v<T, double> ? 1e-7 : 2e-3;
  gradcheck_detail::probed_function<T, std::remove_reference_t<F>> probed(f, tolerance, options.step);
  for (int twice = 0; twice < 2; ++twice) {
    double slope = 0;
    probed.measure_noise(draw_line(slope));
  }
  std::vector<gradcheck_detail::finding> found;
  for (index_t k = 0; k < options.directions; ++k) {
    double slope = 0;
    const gradcheck_detail::line<T> along = draw_line(slope);
    found.push_back({0, k, slope, 1, 1, probed.slope(along, 0.125, reach)});
  }
  for (std::size_t k = 0; !directions && k < blocks.size(); ++k) {
    for (index_t i = 0; i < blocks[k].size; ++i) {
      T* const at = blocks[k].values + i;
      const double size = scales[k].size(*at), unit = scales[k].unit(*at);
      gradcheck_detail::line<T> along;
      along.add(at, 1);
      const gradcheck_detail::slope_estimate numeric = probed.slope(along, unit / 8, unit * scales[k].reach());
      found.push_back({k, i, double(analytic[k][i]), size, unit, numeric});
    }
  }
  gradcheck_detail::judge_all(found, directions, tolerance, std::numeric_limits<T>::epsilon(), probed.proves_zero());
  gradcheck_report report = gradcheck_detail::summarise(found, blocks, options);
  report.same_bits = probed.same_bits();
  return report;
}

}  // namespace craft
