// Gradient checker: compares a gradient somebody computed with the slopes of the function itself, for any function of
// blocks of numbers. It says "agrees" only when the slopes were measured well enough to say so, and "unresolved" where
// they were not (a kink, rounding noise), so that a passing test means something.
//
// Sources of the ideas: W. Press et al., Numerical Recipes, section 5.7 "Numerical Derivatives" (exactly representable
// steps, Ridders' extrapolation of central differences to step zero); J. More and S. Wild, "Estimating computational
// noise", SIAM J. Sci. Comput. 33 (2011) (noise of a function from its high differences over a tiny range).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "craft/engine/function_ref.hpp"
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

/// Samples of a line in descending order of step: steps go down at most 40 times, and up a few.
class line_samples {
 public:
  static constexpr int capacity = 64;
  int size() const { return end_ - begin_; }
  const line_sample* data() const { return samples_ + begin_; }
  bool full() const { return begin_ == 0; }
  void add_smaller(const line_sample& s) { samples_[end_++] = s; }
  void add_larger(const line_sample& s) { samples_[--begin_] = s; }

 private:
  line_sample samples_[capacity];
  int begin_ = capacity - 40, end_ = capacity - 40;
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
[[gnu::cold]] inline slope_estimate extrapolate(const line_sample* samples, int n) {
  constexpr int depth = 5;
  struct cell {
    double value, jump, noise, uncertainty;
  };
  cell table[line_samples::capacity][depth];
  slope_estimate best;
  for (int i = n - 1; i >= 0; --i) table[i][0] = {samples[i].central, samples[i].jump, samples[i].noise, 0};
  for (int i = 1; i < n; ++i) {
    const double ratio = samples[i - 1].step / samples[i].step;
    for (int d = 1; d <= (std::min)(i, depth - 1); ++d) {
      const cell &fine = table[i][d - 1], &coarse = table[i - 1][d - 1];
      // The central difference is even in the step (errors h^2, h^4, ...), the jump odd (h, h^3, ...).
      const double even = 1 / (std::pow(ratio, 2 * d) - 1), odd = 1 / (std::pow(ratio, 2 * d - 1) - 1);
      cell& c = table[i][d];
      c.value = fine.value + even * (fine.value - coarse.value);
      c.jump = fine.jump + odd * (fine.jump - coarse.jump);
      c.noise = (1 + even) * fine.noise + even * coarse.noise;
      c.uncertainty = (std::max)(std::abs(c.value - fine.value), std::abs(c.value - coarse.value) / 4) + c.noise;
      const double jump_error = (std::max)(std::abs(c.jump - fine.jump), std::abs(c.jump - coarse.jump)) + 4 * c.noise;
      if (std::abs(c.jump) > jump_error) c.uncertainty = (std::max)(c.uncertainty, std::abs(c.jump) / 2);
    }
  }
  for (int i = 2; i < n; ++i) {
    for (int d = 2; d <= (std::min)(i, depth - 1); ++d) {
      const cell& c = table[i][d];
      double u = c.uncertainty;
      for (int k = i + 1; k < n; ++k) u = (std::max)(u, std::abs(c.value - table[k][d].value) - table[k][d].uncertainty);
      if (!(u < best.uncertainty)) continue;
      best = {c.value, samples[i].step, u, 0, false};
      for (int k = i - d; k <= i; ++k) best.nearby = (std::max)(best.nearby, samples[k].slope);
    }
  }
  return best;
}

/// A block of the caller, float or double, and how far its numbers may be moved. A block whose numbers share a sign keeps it
/// (bandwidths and weights have to stay positive), so they are moved by fractions of themselves; others by the size of the
/// block.
struct block {
  const std::string* name = nullptr;
  void* values = nullptr;
  const void* gradient = nullptr;
  index_t count = 0;
  bool narrow = false;  ///< float
  double rms = 0;
  bool one_sign = true;

  static double read(const void* numbers, bool narrow, index_t i) {
    return narrow ? double(static_cast<const float*>(numbers)[i]) : static_cast<const double*>(numbers)[i];
  }
  double value(index_t i) const { return read(values, narrow, i); }
  void* place(index_t i) const {
    return narrow ? static_cast<void*>(static_cast<float*>(values) + i) : static_cast<double*>(values) + i;
  }
  void look() {
    index_t finite = 0, positive = 0, negative = 0;
    for (index_t i = 0; i < count; ++i) {
      const double x = value(i);
      if (!std::isfinite(x)) continue;
      ++finite;
      positive += x > 0;
      negative += x < 0;
      rms += x * x;
    }
    one_sign = (positive == 0) != (negative == 0);
    rms = rms > 0 ? std::sqrt(rms / double(finite)) : 1.0;
  }
  /// Size of number i.
  double size(index_t i) const {
    const double x = std::abs(value(i));
    return std::isfinite(x) && x > 0 ? x : rms;
  }
  /// How far to move it.
  double unit(index_t i) const { return one_sign ? size(i) : (std::max)(size(i), rms); }
  /// Largest step, in those units.
  double reach() const { return one_sign ? 0.5 : 16.0; }
};

/// Numbers of the caller that move together: number + t * rate.
class line {
 public:
  line(index_t count, bool narrow) : numbers_(std::size_t(count)), narrow_(narrow) {}
  /// Number k of the line.
  void put(index_t k, void* at, double rate) {
    number& x = numbers_[std::size_t(k)];
    x = {at, block::read(at, narrow_, 0), rate, {}};
    std::memcpy(x.bits, at, bytes());
  }

  /// f with the numbers moved by t, and the t that rounding left of it. The numbers are put back, come what may.
  std::pair<double, double> operator()(engine::function_ref<double()> f, double t) const {
    struct put_back {
      const line& moved;
      ~put_back() {
        for (const number& x : moved.numbers_) std::memcpy(x.at, x.bits, moved.bytes());
      }
    } guard{*this};
    for (const number& x : numbers_) {
      const double to = x.original + t * x.rate;
      if (narrow_)
        *static_cast<float*>(x.at) = float(to);
      else
        *static_cast<double*>(x.at) = to;
    }
    const number& first = numbers_.front();
    const double moved = numbers_.size() == 1 ? (block::read(first.at, narrow_, 0) - first.original) / first.rate : t;
    return {moved, f()};
  }

 private:
  struct number {
    void* at;
    double original, rate;
    unsigned char bits[sizeof(double)];  ///< what was there, to the last bit
  };
  std::size_t bytes() const { return narrow_ ? sizeof(float) : sizeof(double); }

  std::vector<number> numbers_;
  bool narrow_;
};

/// The function under check with what is known about it at the point: its value there and its noise.
class probed_function {
 public:
  /// float_type: the numbers or the results are floats.
  probed_function(engine::function_ref<double()> f, bool float_type, double tolerance, double step)
      : f_(f), float_type_(float_type), tolerance_(tolerance), step_(step) {
    base_ = f_();
    const double again = f_();
    same_bits_ = std::memcmp(&base_, &again, sizeof base_) == 0;
    see(base_);
    see(again);
  }
  bool same_bits() const { return same_bits_; }
  /// |f|, at least 1: the size of the terms that rounding inside f is taken to act on.
  double size() const { return (std::max)(std::abs(base_), 1.0); }
  /// The uncertainty up to which standing still proves that a slope is 0; f at 0 hides nothing under its rounding.
  double proves_zero() const { return base_ == 0 ? std::numeric_limits<double>::infinity() : 1e-12 * size(); }

  /// Differences of order k over equally spaced points keep the noise and kill what is smooth; pure noise of deviation
  /// s gives them the mean square s^2 (2k choose k). Three deviations are what this takes for a bound. Points so close
  /// that f repeats its values show nothing, so they move apart until it does not.
  [[gnu::cold]] void measure_noise(const line& along) {
    double y[9];
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
        if (move > 0) smallest_move = (std::min)(smallest_move, move);
      }
      // Some steps move f and some do not: it is a staircase, and noise is the height of a stair.
      if (repeats > 0 && repeats < 8 && std::isfinite(smallest_move)) noise_ = (std::max)(noise_, smallest_move);
    }
    for (int k = 1; k <= 6; ++k) {
      double squares = 0;
      for (int j = 0; j < 9 - k; ++j) {
        y[j] = y[j + 1] - y[j];
        squares += y[j] * y[j];
      }
      const double deviation = std::sqrt(squares / (9 - k) / (k == 5 ? 252 : 924));
      if (k >= 5 && std::isfinite(deviation)) noise_ = (std::max)(noise_, 3 * deviation);
    }
  }

  /// df/dt at t = 0 along a line. Steps go down from `top` until the slope is known to a small part of the tolerance or
  /// noise takes over; while it is not known, larger ones are tried, up to `reach`.
  [[gnu::cold]] slope_estimate slope(const line& along, double top, double reach) {
    const bool search = step_ == 0;
    if (!search) top = step_;
    line_samples samples;
    slope_estimate best;
    const auto done = [&] { return best.uncertainty <= tolerance_ * std::abs(best.value) / 16; };
    double h = top;
    int settled = 0;  // one look more than needed: three steps can agree by accident
    for (int level = 0; level < (search ? 40 : 3); ++level, h /= step_ratio) {
      line_sample s;
      if (!sample(along, h, s)) break;
      if (!s.finite()) continue;
      samples.add_smaller(s);
      if (samples.size() < 3) continue;
      best = extrapolate(samples.data(), samples.size());
      settled = done() ? settled + 1 : 0;
      if (settled == 2 || s.noise > best.uncertainty) break;
    }
    best = extrapolate(samples.data(), samples.size());
    double last = std::numeric_limits<double>::infinity();
    for (h = top * step_ratio; search && h <= reach && !done() && best.uncertainty < last; h *= step_ratio) {
      if (samples.full()) break;
      line_sample s;
      if (!sample(along, h, s) || !s.finite()) break;
      samples.add_larger(s);
      last = best.uncertainty;
      best = extrapolate(samples.data(), samples.size());
    }
    // The smallest step at which f moves, from the end.
    const line_sample* const all = samples.data();
    int moving = samples.size();
    while (moving > 0 && all[moving - 1].same) --moving;
    if (samples.size() - moving > 1 && (moving == 0 || all[moving - 1].step > top / 2)) {
      // f stands still up to a step not much below `top`. Even at a small value (a saturated loss) that says no more
      // than the rounding of terms of size 1 allows.
      const double still = all[moving].step;
      best = {0, still, rounding(size()) / still, 0, true};
    }
    return best;
  }

 private:
  // A function that moves and never returns more bits than float has computes in float.
  void see(double y) {
    moves_ |= y != base_;
    if (std::isfinite(y)) beyond_float_ |= std::abs(y) > double((std::numeric_limits<float>::max)()) || double(float(y)) != y;
  }
  /// Bound on the rounding of results up to `largest`, underflow included.
  double rounding(double largest) const {
    using float_limits = std::numeric_limits<float>;
    using double_limits = std::numeric_limits<double>;
    const bool in_float = !beyond_float_ && (float_type_ || moves_);
    return in_float ? (std::max)(double(float_limits::epsilon()) * largest, double((float_limits::min)()))
                    : (std::max)(double_limits::epsilon() * largest, (double_limits::min)());
  }
  /// False when the numbers cannot be moved by so little.
  [[gnu::cold]] bool sample(const line& along, double h, line_sample& s) {
    const auto [up, above] = along(f_, h);
    const auto [down, below] = along(f_, -h);
    if (!(up > 0) || !(down < 0)) return false;
    see(above);
    see(below);
    const double right = (above - base_) / up, left = (below - base_) / down, width = up - down;
    const double noise = (std::max)(noise_, rounding((std::max)({std::abs(above), std::abs(below), std::abs(base_)})));
    const double steeper = (std::max)(std::abs(right), std::abs(left));
    const bool same = above == base_ && below == base_;
    const double central = (left * up - right * down) / width;  // (above - below) / width where up = -down
    s = {width / 2, central, right - left, 2 * noise / width, steeper, same};
    return true;
  }

  engine::function_ref<double()> f_;
  bool float_type_;
  double tolerance_, step_, base_ = 0, noise_ = 0;
  bool same_bits_ = false, beyond_float_ = false, moves_ = false;
};

/// An entry on its way to the report. size: of its number; unit: of the steps taken from there.
struct finding {
  std::size_t block = 0;
  index_t index = 0;
  double analytic = 0, size = 1, unit = 1;
  slope_estimate numeric{};
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
[[gnu::cold]] inline void judge(finding& x, double tolerance, double epsilon, double floor, double reference, double zero) {
  if (!std::isfinite(x.analytic)) x.result = verdict::disagrees;
  const double error = std::abs(x.analytic - x.numeric.value), u = x.numeric.uncertainty;
  if (!std::isfinite(error)) return;
  const double own = tolerance * (std::max)({std::abs(x.analytic), std::abs(x.numeric.value), floor});
  const double around = (std::max)(reference, x.weight() > 0 ? 0 : x.numeric.nearby);
  const double blurred = (std::min)(tolerance / 10 * around, 4 * u);
  const double allowed = (std::max)({own, 32 * epsilon * reference, blurred});
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
[[gnu::cold]] inline void judge_all(std::vector<finding>& found, bool directions, double tolerance, double epsilon,
                                    double zero) {
  for (const finding& x : found) zero = (std::max)(zero, tolerance / 10 * x.weight() * x.unit);
  for (std::size_t first = 0, last = 0; first < found.size(); first = last) {
    double largest = 0, strongest = 0;
    for (; last < found.size() && found[last].block == found[first].block; ++last) {
      largest = (std::max)(largest, found[last].weight());
      strongest = (std::max)(strongest, found[last].weight() * found[last].size);
    }
    for (std::size_t i = first; i < last; ++i) {
      const double reference = (std::min)(largest, strongest / found[i].size);
      judge(found[i], tolerance, epsilon, directions ? reference : 0, reference, zero / found[i].unit);
    }
  }
}

/// Everything but same_bits; puts the worst findings first.
[[gnu::cold]] inline gradcheck_report summarise(std::vector<finding>& found, const std::vector<block>& blocks,
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
    return x.result == verdict::disagrees ? 0 : x.result == verdict::unresolved ? 1 : 2;
  };
  const auto worse = [&](const finding& p, const finding& q) {
    if (rank(p) != rank(q)) return rank(p) < rank(q);
    if (p.relative != q.relative) return p.relative > q.relative;
    return p.block != q.block ? p.block < q.block : p.index < q.index;
  };
  const std::size_t listed = (std::min)(std::size_t(options.worst), found.size());
  report.worst = std::vector<gradcheck_entry>(listed);
  for (std::size_t i = 0; i < listed; ++i) {
    std::size_t next = i;
    for (std::size_t j = i + 1; j < found.size(); ++j)
      if (worse(found[j], found[next])) next = j;
    std::swap(found[i], found[next]);
    const finding& x = found[i];
    gradcheck_entry& entry = report.worst[i];
    entry.name = options.directions > 0 ? std::string("direction") : *blocks[x.block].name;
    entry.index = x.index;
    entry.analytic = x.analytic;
    entry.numeric = x.numeric.value;
    entry.absolute = std::abs(x.analytic - x.numeric.value);
    entry.relative = x.relative;
    entry.step = x.numeric.step;
    entry.uncertainty = x.numeric.uncertainty;
    entry.result = x.result;
  }
  return report;
}

[[gnu::cold]] inline void check(const std::vector<block>& blocks, const gradcheck_options& options) {
  require<option_error>(!blocks.empty(), "gradcheck: no blocks to check");
  for (const block& b : blocks) {
    require<shape_error>(b.count > 0, "gradcheck: block \"", *b.name, "\" must have numbers, got size ", b.count);
    require<shape_error>(b.values != nullptr, "gradcheck: block \"", *b.name, "\" has a null pointer for its values");
    require<shape_error>(b.gradient != nullptr, "gradcheck: block \"", *b.name,
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

/// The whole check, whatever the types of numbers and function are.
[[gnu::cold]] inline gradcheck_report run(engine::function_ref<double()> f, bool in_float, bool narrow,
                                          std::vector<block>& blocks, const gradcheck_options& options) {
  check(blocks, options);
  double reach = std::numeric_limits<double>::infinity();
  index_t count = 0;
  for (block& b : blocks) {
    b.look();
    count += b.count;
    reach = (std::min)(reach, b.reach());
  }
  std::vector<double> analytic(static_cast<std::size_t>(count));  // f may write its gradient there again
  for (std::size_t k = 0, at = 0; k < blocks.size(); ++k)
    for (index_t i = 0; i < blocks[k].count; ++i) analytic[at++] = block::read(blocks[k].gradient, narrow, i);

  const bool directions = options.directions > 0;
  std::mt19937_64 random(options.seed);
  const auto draw_line = [&](double& slope) {
    line all(count, narrow);
    index_t at = 0;
    for (const block& b : blocks) {
      for (index_t i = 0; i < b.count; ++i, ++at) {
        // 53 of the 64 bits, as the distributions of the standard library differ between platforms.
        const double draw = double(random() >> 11) * 0x1p-52 - 1;
        const double way = draw + std::copysign(0.5, draw);
        // Coordinates are moved exactly, so the noise is measured on a line that tiny steps follow without rounding.
        const double rate =
            directions ? way * b.unit(i) : std::ldexp(std::round(way * 64), std::ilogb(b.size(i)) - 6);
        all.put(at, b.place(i), rate);
        slope += analytic[std::size_t(at)] * rate;
      }
    }
    return all;
  };

  const double tolerance = options.tolerance > 0 ? options.tolerance : narrow ? 2e-3 : 1e-7;
  probed_function probed(f, in_float, tolerance, options.step);
  for (int twice = 0; twice < 2; ++twice) {
    double slope = 0;
    probed.measure_noise(draw_line(slope));
  }
  std::vector<finding> found(std::size_t(directions ? options.directions : count));
  for (index_t k = 0; k < options.directions; ++k) {
    finding& x = found[std::size_t(k)];
    const line along = draw_line(x.analytic);
    x.index = k;
    x.numeric = probed.slope(along, 0.125, reach);
  }
  std::size_t at = 0;
  line along(1, narrow);
  for (std::size_t k = 0; !directions && k < blocks.size(); ++k) {
    const block& b = blocks[k];
    for (index_t i = 0; i < b.count; ++i, ++at) {
      finding& x = found[at];
      along.put(0, b.place(i), 1);
      x.block = k;
      x.index = i;
      x.analytic = analytic[at];
      x.size = b.size(i);
      x.unit = b.unit(i);
      x.numeric = probed.slope(along, x.unit / 8, x.unit * b.reach());
    }
  }
  const double epsilon = narrow ? double(std::numeric_limits<float>::epsilon()) : std::numeric_limits<double>::epsilon();
  judge_all(found, directions, tolerance, epsilon, probed.proves_zero());
  gradcheck_report report = summarise(found, blocks, options);
  report.same_bits = probed.same_bits();
  return report;
}

}  // namespace gradcheck_detail

[[gnu::cold]] inline std::string gradcheck_report::text() const {
  char line[256];
  const auto padded = [](std::string& to, const std::string& word, std::size_t width) {
    to += word;
    if (word.size() < width) to.append(width - word.size(), ' ');
  };
  std::string out = "gradient check: ";
  out += gradcheck_detail::word(verdict);
  std::snprintf(line, sizeof line, "; %lld checked, cosine %.9g, norm ratio %.9g, same bits on a second call: %s\n",
                static_cast<long long>(checked), cosine, norm_ratio, same_bits ? "yes" : "NO");
  out += line;
  if (worst.empty()) return out;
  const auto label = [](const gradcheck_entry& e) {
    return detail::message({e.name, '[', e.index, ']'});
  };
  std::size_t width = 5;
  for (const gradcheck_entry& e : worst) width = (std::max)(width, label(e).size());
  out += "  verdict     ";
  padded(out, "entry", width);
  std::snprintf(line, sizeof line, "%15s%15s%15s%15s%15s%15s\n", "analytic", "numeric", "absolute", "relative", "step",
                "uncertainty");
  out += line;
  for (const gradcheck_entry& e : worst) {
    out += "  ";
    padded(out, gradcheck_detail::word(e.result), 12);
    padded(out, label(e), width);
    std::snprintf(line, sizeof line, "%15.6g%15.6g%15.6g%15.6g%15.6g%15.6g\n", e.analytic, e.numeric, e.absolute, e.relative,
                  e.step, e.uncertainty);
    out += line;
  }
  return out;
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
  std::vector<gradcheck_detail::block> plain(blocks.size());
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    plain[k].name = &blocks[k].name;
    plain[k].values = blocks[k].values;
    plain[k].gradient = blocks[k].gradient;
    plain[k].count = blocks[k].size;
    plain[k].narrow = std::is_same_v<T, float>;
  }
  const auto call = [&] { return double(f()); };
  constexpr bool narrow = std::is_same_v<T, float>, in_float = narrow || std::is_same_v<std::decay_t<decltype(f())>, float>;
  return gradcheck_detail::run(call, in_float, narrow, plain, options);
}

}  // namespace craft
