// What must hold of the alignment losses whatever their inputs: stability, invariances, where and how gradients are
// written, and the forms in which inputs may come.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "craft/alignment.hpp"
#include "devices.hpp"
#include "pair_losses.hpp"

using namespace craft_test;
using craft::direction;
using craft::reduction;

namespace {

const char* const loss_names[] = {"cross entropy", "soft targets", "info_nce one way", "info_nce symmetric", "sigmoid"};
constexpr int losses = 5;

/// What the loss numbered `loss` is told beside its samples; the same names for all of them.
struct setting {
  craft::scalar log_scale = std::log(10.0), upstream = 1.0;
  bool normalise = true;
  std::vector<index_t> labels;
};

/// Calls the loss numbered `loss` with y as anchors or as the other side; one row of y for each row of x.
template <class D, class X, class Y, class Gradients>
void call(int loss, const typename D::context& ctx, const X& x, const Y& y, const setting& s,
          craft::scalar_out<typename D::compute, D::space> value, const Gradients& gradients) {
  const index_t n = x.rows();
  if (loss < 2) {
    craft::cross_entropy_options o;
    o.log_scale = s.log_scale;
    o.upstream = s.upstream;
    o.normalise = s.normalise;
    if (loss == 0) {
      const label_array<D> labels(s.labels.empty() ? labels_for(n, n, 1) : s.labels);
      craft::anchor_cross_entropy(ctx, x, y, labels.in(), o, value, gradients);
    } else {
      const array<D, typename D::compute> soft(random_reals(n, n, 77).cwiseAbs());
      craft::anchor_cross_entropy(ctx, x, y, soft.in(), o, value, gradients);
    }
  } else if (loss < 4) {
    const label_array<D> labels(s.labels);
    craft::contrastive_options o;
    o.log_scale = s.log_scale;
    o.upstream = s.upstream;
    o.normalise = s.normalise;
    o.direction = loss == 2 ? direction::one_way : direction::symmetric;
    o.x_labels = o.y_labels = labels.in();
    craft::info_nce(ctx, x, y, o, value, gradients);
  } else {
    const label_array<D> labels(s.labels);
    craft::sigmoid_options o;
    o.log_scale = s.log_scale;
    o.upstream = s.upstream;
    o.normalise = s.normalise;
    o.bias = -1.0;
    o.x_labels = o.y_labels = labels.in();
    craft::sigmoid_contrastive(ctx, x, y, o, value, gradients);
  }
}

template <class D>
loss_result run(int loss, const typename D::context& ctx, const reals& x, const reals& y, const setting& s = {},
                bool value_only = false) {
  return run_loss<D>(x, y,
                     value_only  ? want::value_only
                     : loss == 4 ? want::all_and_bias
                                 : want::all,
                     [&](auto xd, auto yd, auto value, auto g) { call<D>(loss, ctx, xd, yd, s, value, g); });
}

bool all_finite(const loss_result& r) {
  return std::isfinite(r.value) && r.x.allFinite() && r.y.allFinite() && std::isfinite(r.log_scale);
}

bool same(const loss_result& a, const loss_result& b) {
  return a.value == b.value && a.x == b.x && a.y == b.y && a.log_scale == b.log_scale;
}

}  // namespace

TEST_CASE("the defaults of the alignment losses", "[alignment]") {
  const craft::cross_entropy_options ce;
  CHECK(ce.log_scale.value() == std::log(100.0));
  CHECK(ce.max_scale == std::numeric_limits<double>::infinity());
  CHECK(ce.normalise);
  CHECK(ce.label_smoothing == 0);
  CHECK(ce.ignore_label == -100);
  CHECK(ce.weights.empty());
  CHECK(ce.reduce == reduction::mean);
  CHECK(ce.upstream.value() == 1);
  const craft::contrastive_options nce;
  CHECK(nce.log_scale.value() == std::log(100.0));
  CHECK(nce.max_scale == std::numeric_limits<double>::infinity());
  CHECK(nce.normalise);
  CHECK(nce.direction == direction::symmetric);
  CHECK(nce.x_labels.empty());
  CHECK(nce.y_labels.empty());
  CHECK(nce.label_smoothing == 0);
  CHECK(nce.weights.empty());
  CHECK(nce.upstream.value() == 1);
  const craft::sigmoid_options sig;  // SigLIP's starting point
  CHECK(sig.log_scale.value() == std::log(10.0));
  CHECK(sig.bias.value() == -10);
  CHECK(sig.max_scale == std::numeric_limits<double>::infinity());
  CHECK(sig.normalise);
  CHECK(sig.upstream.value() == 1);
}

// ---------------------------------------------------------------------------------------------------------
// Numbers that are hard

TEMPLATE_LIST_TEST_CASE("scale 100 and no similarity above 0 gives no log 0", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const index_t n = 12, d = 8;
  const reals x = as_stored<D>(random_reals(n, d, 21).cwiseAbs());
  // At cos = -1 for all pairs, exp(100 (cos - 1)) = exp(-200) is 0 in float.
  const bool opposite = GENERATE(false, true);
  const reals y = opposite ? as_stored<D>(-x.row(0).replicate(n, 1)) : as_stored<D>(-random_reals(n, d, 22).cwiseAbs());
  const reals left = opposite ? reals(x.row(0).replicate(n, 1)) : x;
  const double log_scale = std::log(100.0);

  craft::cross_entropy_options ce;
  ce.log_scale = log_scale;
  std::vector<double> ones(std::size_t(n), 1.0);
  const std::vector<index_t> labels = labels_for(n, n, 5);
  const reals t = one_hot(labels, n, -100, ones);
  const auto got = run_cross_entropy<D>(ctx, left, y, labels, ce);
  CHECK(all_finite(got));
  check_against<D>(got, cross_entropy_by_hand(left, y, t, ones, ce));
  for (direction way : {direction::one_way, direction::symmetric}) {
    craft::contrastive_options nce;
    nce.log_scale = log_scale;
    nce.direction = way;
    const auto pairs = run_info_nce<D>(ctx, left, y, nce);
    CHECK(all_finite(pairs));
    check_against<D>(pairs, info_nce_by_hand(left, y, positives({}, {}, n, n), {}, nce));
  }
  craft::sigmoid_options sig;
  sig.log_scale = log_scale;
  const auto pairs = run_sigmoid<D>(ctx, left, y, sig);
  CHECK(all_finite(pairs));
  check_against<D>(pairs, sigmoid_by_hand(left, y, positives({}, {}, n, n), sig));
}

TEMPLATE_LIST_TEST_CASE("a positive pair that is certain costs nothing, and a wrong one stays finite", "[alignment]",
                        devices) {
  using D = TestType;
  const auto ctx = D::make();
  // Orthogonal rows at scale 1000: p is 1 or exp(-1000), which is 0 even in double.
  const reals x = reals::Identity(6, 6);
  reals shifted(6, 6);
  for (index_t i = 0; i < 6; ++i) shifted.row(i) = x.row((i + 1) % 6);
  setting s;
  s.log_scale = std::log(1000.0);
  s.labels = {0, 1, 2, 3, 4, 5};
  for (int loss : {0, 2, 3}) {
    INFO(loss_names[loss]);
    const auto right = run<D>(loss, ctx, x, x, s), wrong = run<D>(loss, ctx, x, shifted, s);
    CHECK(right.value == 0);
    // exp(-1000) may come out as the smallest normal number; 36 pairs of it, times the scale.
    const double smallest = double(std::numeric_limits<typename D::compute>::min());
    CHECK(right.x.norm() + right.y.norm() <= 2 * 36 * 1000 * smallest);
    CHECK(all_finite(wrong));
    // -log exp(-1000); the scale itself is exp(log 1000) to a few roundings times log 1000.
    CHECK(std::abs(wrong.value - 1000) <= 1000 * 16 * roundoff<typename D::scalar>);
  }
  const auto wrong = run<D>(4, ctx, x, shifted, s);
  CHECK(all_finite(wrong));
}

TEMPLATE_LIST_TEST_CASE("gradients keep their digits where the square of the scale, or the scale over a norm, is beyond the type",
                        "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool wide = sizeof(typename D::compute) == 8;
  const index_t n = 8, d = 5;
  const reals x = random_reals(n, d, 25), y = random_reals(n, d, 26);
  // Small logits: the gradient to the rows is the scale times something that no longer depends on it.
  const double low = wide ? -400 : -46;
  for (int loss = 0; loss < losses; ++loss) {
    INFO(loss_names[loss]);
    setting s;
    s.log_scale = low;
    const auto tiny = run<D>(loss, ctx, x, y, s);
    s.log_scale = low / 2;
    const auto small = run<D>(loss, ctx, x, y, s);
    CHECK(relative_distance(tiny.x * std::exp(-low / 2), small.x) <= 256 * roundoff<typename D::scalar>);
    CHECK(relative_distance(tiny.y * std::exp(-low / 2), small.y) <= 256 * roundoff<typename D::scalar>);
  }
  // Large ones over small rows: halving the rows doubles their gradient.
  const double by = wide ? 0x1p-800 : 0x1p-80;
  setting s;
  s.log_scale = wide ? 100.0 : 20.0;
  const auto plain = run<D>(2, ctx, x, y, s), shrunk = run<D>(2, ctx, by * x, y, s);
  CHECK(plain.x.norm() > 0);
  CHECK(relative_distance(shrunk.x * by, plain.x) <= 256 * roundoff<typename D::scalar>);
  s.log_scale = wide ? 200.0 : 60.0;  // scale / norm overflows, but not what comes of it
  CHECK(std::isfinite(run<D>(2, ctx, by * x, y, s, true).value));
}

TEMPLATE_LIST_TEST_CASE("the softmax losses do not see a shift of all logits", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const index_t n = 10, d = 6;
  const reals x = random_reals(n, d, 23), y = random_reals(n, d, 24);
  // One more column, 1 on one side and c on the other, adds c to every dot product.
  const double c = GENERATE(-64.0, 64.0);
  reals xs(n, d + 1), ys(n, d + 1);
  xs << x, reals::Constant(n, 1, 1);
  ys << y, reals::Constant(n, 1, c);
  setting s;
  s.log_scale = 0.0;
  s.normalise = false;
  for (int loss : {0, 2, 3}) {
    INFO(loss_names[loss]);
    const auto plain = run<D>(loss, ctx, x, y, s), shifted = run<D>(loss, ctx, xs, ys, s);
    // Logits of size 64 + 15 carry that many roundings, each exponential passes them on, 4 times for safety.
    const double tolerance = 4 * 80 * roundoff<typename D::scalar>;
    CHECK(std::abs(shifted.value - plain.value) <= tolerance * (1 + plain.value));
    CHECK(relative_distance(shifted.x.leftCols(d), plain.x) <= 2 * tolerance);
    CHECK(relative_distance(shifted.y.leftCols(d), plain.y) <= 2 * tolerance);
  }
}

TEMPLATE_LIST_TEST_CASE("rows of zeros, equal rows and single rows stay finite", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  for (int loss = 0; loss < losses; ++loss) {
    INFO(loss_names[loss]);
    reals x = random_reals(7, 5, 25), y = random_reals(7, 5, 26);
    x.row(2).setZero();
    y.row(4).setZero();
    const auto zero_rows = run<D>(loss, ctx, x, y);
    CHECK(all_finite(zero_rows));
    // A zero row has no direction: its cosines are 0 and do not change.
    CHECK(zero_rows.x.row(2).norm() == 0);
    CHECK(zero_rows.y.row(4).norm() == 0);
    const reals zero = reals::Zero(7, 5);
    CHECK(all_finite(run<D>(loss, ctx, zero, zero)));
    const reals equal = x.row(0).replicate(7, 1);
    CHECK(all_finite(run<D>(loss, ctx, equal, equal)));
    const auto single = run<D>(loss, ctx, x.topRows(1), y.topRows(1));
    CHECK(all_finite(single));
    if (loss < 4 && loss != 1) {
      CHECK(single.value == 0);  // one class, one pair: nothing to tell apart
      CHECK(single.x.norm() + single.y.norm() == 0);
    }
  }
}

TEMPLATE_LIST_TEST_CASE("rows of very small and very large norm are normalised", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = random_reals(6, 5, 27), y = random_reals(6, 5, 28);
  // A power of two scales exactly; its square is still a normal number of float.
  const double size = GENERATE(0x1p-50, 0x1p+50);
  for (int loss = 0; loss < losses; ++loss) {
    INFO(loss_names[loss] << ", rows times " << size);
    const auto plain = run<D>(loss, ctx, x, y), scaled = run<D>(loss, ctx, x * size, y);
    const double tolerance = 64 * roundoff<typename D::scalar>;
    CHECK(std::abs(scaled.value - plain.value) <= tolerance * std::abs(plain.value));
    CHECK(relative_distance(scaled.x * size, plain.x) <= tolerance);
    CHECK(relative_distance(scaled.y, plain.y) <= tolerance);
  }
}

TEMPLATE_LIST_TEST_CASE("rows of a denormal norm are normalised, and rows without an inverse norm are 0", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const bool wide = sizeof(typename D::compute) == 8;
  // Numbers of few bits, which lose none where they are denormal.
  reals x(4, 3), y = random_reals(4, 3, 29);
  x << 3, 1, 0, -2, 1, 5, 1, -1, 4, 0, 2, 1;
  const double small = wide ? 0x1p-1025 : 0x1p-129, none = wide ? 0x1p-1060 : 0x1p-145;
  setting s;
  s.log_scale = -3;  // so that the gradient of such rows is within the type
  for (int loss = 0; loss < losses; ++loss) {
    INFO(loss_names[loss]);
    const double tolerance = 64 * roundoff<typename D::scalar>;
    const auto plain = run<D>(loss, ctx, x, y, s), scaled = run<D>(loss, ctx, x * small, y, s);
    CHECK(std::abs(scaled.value - plain.value) <= tolerance * std::abs(plain.value));
    CHECK(relative_distance(scaled.x * small, plain.x) <= tolerance);
    CHECK(relative_distance(scaled.y, plain.y) <= tolerance);
    reals lost = x, zero = x;
    lost.row(1) *= none;
    zero.row(1).setZero();
    const auto got = run<D>(loss, ctx, lost, y, s), want = run<D>(loss, ctx, zero, y, s);
    CHECK(got.value == want.value);
    CHECK(relative_distance(got.x, want.x) == 0);
    CHECK(relative_distance(got.y, want.y) == 0);
  }
}

// ---------------------------------------------------------------------------------------------------------
// Options that leave rows out

TEMPLATE_LIST_TEST_CASE("nothing to average gives value 0 and zero gradients", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = random_reals(5, 4, 31), y = random_reals(5, 4, 32);
  const auto check_nothing = [](const loss_result& r) {
    CHECK(r.value == 0);
    CHECK(r.x.norm() == 0);
    CHECK(r.y.norm() == 0);
    CHECK(r.log_scale == 0);
  };
  craft::cross_entropy_options ce;
  for (reduction reduce : {reduction::mean, reduction::sum}) {
    ce.reduce = reduce;
    check_nothing(run_cross_entropy<D>(ctx, x, y, std::vector<index_t>(5, -100), ce));
    ce.ignore_label = 3;
    check_nothing(run_cross_entropy<D>(ctx, x, y, std::vector<index_t>(5, 3), ce));
    ce.ignore_label = -100;
  }
  // No label on both sides: no row has a positive.
  for (direction way : {direction::one_way, direction::symmetric}) {
    craft::contrastive_options nce;
    nce.direction = way;
    check_nothing(run_info_nce<D>(ctx, x, y, nce, {0, 1, 2, 3, 4}, {5, 6, 7, 8, 9}));
  }
}

TEMPLATE_LIST_TEST_CASE("ignored rows and rows of weight 0 are as if they were not there", "[alignment]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make();
  const index_t n = 9;
  const reals x = random_reals(n, 4, 33), a = random_reals(3, 4, 34);
  std::vector<index_t> labels = labels_for(n, 3, 5), kept_labels;
  std::vector<double> zeros(std::size_t(n), 1.0);
  reals kept(n - 3, 4);
  for (index_t i = 0, row = 0; i < n; ++i) {
    if (i % 3 == 1) {
      zeros[std::size_t(i)] = 0;
      continue;
    }
    kept.row(row++) = x.row(i);
    kept_labels.push_back(labels[std::size_t(i)]);
  }
  craft::cross_entropy_options o;
  const auto without = run_cross_entropy<D>(ctx, kept, a, kept_labels, o);
  const array<D, T> weights(zeros);
  o.weights = weights.as_numbers();
  const auto weighted = run_cross_entropy<D>(ctx, x, a, labels, o);
  o.weights = {};
  std::vector<index_t> some = labels;
  for (std::size_t i = 1; i < some.size(); i += 3) some[i] = o.ignore_label;
  const auto ignored = run_cross_entropy<D>(ctx, x, a, some, o);
  for (const loss_result& r : {weighted, ignored}) {
    // The same terms added in another order: logits of size 100 bring the rounding.
    const double tolerance = 400 * roundoff<T>;
    CHECK(std::abs(r.value - without.value) <= tolerance * without.value);
    CHECK(relative_distance(r.y, without.y) <= tolerance);
    for (index_t i = 0, row = 0; i < n; ++i) {
      if (i % 3 == 1)
        CHECK(r.x.row(i).norm() == 0);
      else
        CHECK((r.x.row(i) - without.x.row(row++)).norm() <= tolerance * without.x.norm());
    }
  }
}

TEMPLATE_LIST_TEST_CASE("labels, weights and soft targets that say the same give the same", "[alignment]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make();
  const index_t n = 11, c = 4;
  const reals x = random_reals(n, 5, 35), a = random_reals(c, 5, 36);
  const std::vector<index_t> labels = labels_for(n, c, 3);
  std::vector<double> ones(std::size_t(n), 1.0);
  const reals hot = one_hot(labels, c, -100, ones);
  craft::cross_entropy_options o;
  o.log_scale = std::log(8.0);
  o.label_smoothing = 0.25;
  const auto by_label = run_cross_entropy<D>(ctx, x, a, labels, o);
  const auto by_target = run_soft<D>(ctx, x, a, hot, o);
  const double tolerance = 64 * roundoff<T>;
  const auto close = [&](const loss_result& p, const loss_result& q) {
    CHECK(std::abs(p.value - q.value) <= tolerance * std::abs(q.value));
    CHECK(relative_distance(p.x, q.x) <= tolerance);
    CHECK(relative_distance(p.y, q.y) <= tolerance);
    CHECK(std::abs(p.log_scale - q.log_scale) <= tolerance * std::abs(q.value));
  };
  close(by_target, by_label);
  // Constant weights change nothing of a mean, and multiply a sum.
  const array<D, T> threes(std::vector<double>(std::size_t(n), 3.0));
  o.weights = threes.as_numbers();
  close(run_cross_entropy<D>(ctx, x, a, labels, o), by_label);
  o.reduce = reduction::sum;
  auto sum = run_cross_entropy<D>(ctx, x, a, labels, o);
  sum.value /= 3.0 * n, sum.x /= 3.0 * n, sum.y /= 3.0 * n, sum.log_scale /= 3.0 * n;
  close(sum, by_label);

  // Labels that are all different are the diagonal; contrast against anchors with labels 0..c-1 is cross-entropy.
  const reals y = random_reals(n, 5, 37);
  std::vector<index_t> distinct;
  for (index_t i = 0; i < n; ++i) distinct.push_back(7 * i - 3);
  craft::contrastive_options nce;
  nce.log_scale = std::log(8.0);
  nce.label_smoothing = 0.25;
  close(run_info_nce<D>(ctx, x, y, nce, distinct, distinct), run_info_nce<D>(ctx, x, y, nce));
  nce.direction = direction::one_way;
  close(run_info_nce<D>(ctx, x, a, nce, labels, {0, 1, 2, 3}), by_label);
  craft::sigmoid_options sig;
  sig.bias = -1.0;
  close(run_sigmoid<D>(ctx, x, y, sig, distinct, distinct), run_sigmoid<D>(ctx, x, y, sig));
}

TEMPLATE_LIST_TEST_CASE("symmetric is the mean of both directions", "[alignment]", devices) {
  using D = TestType;
  const auto ctx = D::make();
  const reals x = random_reals(8, 5, 38), y = random_reals(6, 5, 39);
  const std::vector<index_t> xl = labels_for(8, 3, 2), yl = labels_for(6, 3, 1);
  craft::contrastive_options o;
  o.log_scale = std::log(8.0);
  const auto both = run_info_nce<D>(ctx, x, y, o, xl, yl);
  o.direction = direction::one_way;
  const auto there = run_info_nce<D>(ctx, x, y, o, xl, yl), back = run_info_nce<D>(ctx, y, x, o, yl, xl);
  const double tolerance = 64 * roundoff<typename D::scalar>;
  CHECK(std::abs(both.value - (there.value + back.value) / 2) <= tolerance * both.value);
  CHECK(relative_distance(both.x, (there.x + back.y) / 2) <= tolerance);
  CHECK(relative_distance(both.y, (there.y + back.x) / 2) <= tolerance);
}

TEMPLATE_LIST_TEST_CASE("a permutation of the samples permutes the gradients", "[alignment]", devices) {
  using D = TestType;
  auto ctx = D::make();
  ctx.tile(4);
  const index_t n = 13;
  const reals x = random_reals(n, 5, 40), y = random_reals(n, 5, 41);
  reals xp(n, 5), yp(n, 5);
  const std::vector<index_t> labels = labels_for(n, 4, 3);
  setting plain, permuted;
  plain.labels = labels;
  permuted.labels.resize(std::size_t(n));
  const auto to = [&](index_t i) { return (5 * i + 2) % n; };
  for (index_t i = 0; i < n; ++i) {
    xp.row(to(i)) = x.row(i);
    yp.row(to(i)) = y.row(i);
    permuted.labels[std::size_t(to(i))] = labels[std::size_t(i)];
  }
  for (int loss : {2, 3, 4}) {
    INFO(loss_names[loss]);
    const auto a = run<D>(loss, ctx, x, y, plain), b = run<D>(loss, ctx, xp, yp, permuted);
    const double tolerance = 64 * roundoff<typename D::scalar>;
    CHECK(std::abs(a.value - b.value) <= tolerance * a.value);
    reals bx(n, 5), by(n, 5);
    for (index_t i = 0; i < n; ++i) {
      bx.row(i) = b.x.row(to(i));
      by.row(i) = b.y.row(to(i));
    }
    CHECK(relative_distance(bx, a.x) <= tolerance);
    CHECK(relative_distance(by, a.y) <= tolerance);
  }
}

// ---------------------------------------------------------------------------------------------------------
// Where results go

TEMPLATE_LIST_TEST_CASE("the value alone is the value with gradients, bit for bit", "[alignment][outputs]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const index_t tile = GENERATE(0, 7);
  ctx.tile(tile);
  for (int loss = 0; loss < losses; ++loss)
    for (index_t n : {5, 40}) {
      INFO(loss_names[loss] << ", n " << n);
      const reals x = random_reals(n, 6, 42), y = random_reals(n, 6, 43);
      const auto first = run<D>(loss, ctx, x, y), second = run<D>(loss, ctx, x, y);
      CHECK(same(first, second));
      CHECK(run<D>(loss, ctx, x, y, {}, true).value == first.value);
    }
}

TEMPLATE_LIST_TEST_CASE("each gradient is written as asked and nothing around it", "[alignment][outputs]", devices) {
  using D = TestType;
  using T = typename D::compute;
  auto ctx = D::make();
  ctx.tile(4);
  const index_t n = 11, d = 5, pad = 3;
  const double before = 0.75;
  const reals xs = random_reals(n, d, 44), ys = random_reals(n, d, 45);
  for (int loss = 0; loss < losses; ++loss) {
    const auto want = run<D>(loss, ctx, xs, ys);
    for (int x_mode = 0; x_mode < 3; ++x_mode)
      for (int y_mode = 0; y_mode < 3; ++y_mode)
        for (int s_mode = 0; s_mode < 3; ++s_mode) {
          INFO(loss_names[loss] << ", modes " << x_mode << y_mode << s_mode);
          const array<D> x(xs, pad), y(ys, pad);  // the padding is NaN
          array<D> dx(n, d, before, pad), dy(n, d, before, pad);
          array<D, T> ds(1, 1, before), db(1, 1, before), value(1, 1);
          const std::vector<typename D::scalar> around = dx.padding();
          craft::alignment_gradients<typename D::scalar, D::space> g;
          const auto modes = [](auto& output, auto to, int mode) {
            output.to = to;
            output.mode = mode == 0   ? craft::write::none
                          : mode == 1 ? craft::write::overwrite
                                      : craft::write::accumulate;
          };
          modes(g.x, dx.out(), x_mode);
          modes(g.y, dy.out(), y_mode);
          modes(g.log_scale, ds.out(), s_mode);
          if (loss == 4) modes(g.bias, db.out(), s_mode);
          call<D>(loss, ctx, x.in(), y.in(), setting{}, value.as_value(), g);

          CHECK(value.number() == want.value);
          const auto expect = [&](const reals& got, const reals& gradient, int mode) {
            if (mode == 0) {
              CHECK(got == reals::Constant(got.rows(), got.cols(), before));
            } else {
              // One addition more than overwriting, and what other gradients are wanted may change the order of sums.
              const double kept = mode == 2 ? before : 0;
              const reals sum = gradient.array() + kept;
              CHECK((got - sum).norm() <= 64 * roundoff<T> * (gradient.norm() + kept * std::sqrt(double(got.size()))));
            }
          };
          expect(dx.get(), want.x, x_mode);
          expect(dy.get(), want.y, y_mode);
          expect(ds.get(), reals::Constant(1, 1, want.log_scale), s_mode);
          if (loss == 4) expect(db.get(), reals::Constant(1, 1, want.bias), s_mode);
          for (const auto& padding : {dx.padding(), dy.padding()})
            CHECK(std::memcmp(padding.data(), around.data(), around.size() * sizeof(around[0])) == 0);
        }
  }
}

TEMPLATE_LIST_TEST_CASE("the upstream factor multiplies the gradients and not the value", "[alignment][outputs]",
                        devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make();
  const reals x = random_reals(9, 5, 46), y = random_reals(9, 5, 47);
  const double factor = GENERATE(-2.5, 0.0, 1e-3);
  for (int loss = 0; loss < losses; ++loss) {
    INFO(loss_names[loss] << ", factor " << factor);
    const auto plain = run<D>(loss, ctx, x, y);
    const array<D, T> on_device(reals::Constant(1, 1, factor)), log_scale(reals::Constant(1, 1, std::log(10.0)));
    setting by_value, by_pointer;
    by_value.upstream = factor;
    by_pointer.upstream = on_device.as_scalar();
    by_pointer.log_scale = log_scale.as_scalar();
    for (const setting& s : {by_value, by_pointer}) {
      const auto got = run<D>(loss, ctx, x, y, s);
      // The scale read from a float variable is rounded: 10 (1 + 2u), and gradients with it.
      const double tolerance = 400 * roundoff<T>;
      CHECK(std::abs(got.value - plain.value) <= tolerance * plain.value);
      CHECK((got.x - factor * plain.x).norm() <= tolerance * std::abs(factor) * plain.x.norm());
      CHECK((got.y - factor * plain.y).norm() <= tolerance * std::abs(factor) * plain.y.norm());
      CHECK(std::abs(got.log_scale - factor * plain.log_scale) <=
            tolerance * std::abs(factor) * (std::abs(plain.log_scale) + plain.value));
    }
    CHECK(run<D>(loss, ctx, x, y, by_value).value == plain.value);
  }
}

// ---------------------------------------------------------------------------------------------------------
// In which form inputs come

TEMPLATE_LIST_TEST_CASE("inputs stored in two bytes are computed in float", "[alignment][storage]", float_devices) {
  const auto check_storage = [](auto device_of_storage) {
    using D = decltype(device_of_storage);
    using S = typename D::scalar;
    auto ctx = D::make();
    ctx.tile(7);
    const index_t n = 19, d = 9;
    const reals x = as_stored<D>(random_reals(n, d, 48)), y = as_stored<D>(random_reals(n, d, 49));
    const auto close = [&](const loss_result& got, const by_hand& want) {
      const double tolerance = loss_rounding<D>(want);
      CHECK(std::abs(got.value - want.result.value) <= tolerance * want.value_bound);
      // Each element of a gradient is rounded once to S (half an ulp), or to a subnormal of half.
      const double stored = double(std::numeric_limits<S>::epsilon()) / 2;
      const double subnormal = 0x1p-25 * std::sqrt(double(n * d));
      CHECK((got.x - want.result.x).norm() <= tolerance * want.bound + stored * want.result.x.norm() + subnormal);
      CHECK((got.y - want.result.y).norm() <= tolerance * want.bound + stored * want.result.y.norm() + subnormal);
      CHECK(std::abs(got.log_scale - want.result.log_scale) <= tolerance * want.bound);
    };
    craft::cross_entropy_options ce;
    ce.log_scale = std::log(30.0);
    const std::vector<index_t> labels = labels_for(n, n, 5);
    std::vector<double> ones(std::size_t(n), 1.0);
    const reals t = one_hot(labels, n, -100, ones);
    close(run_cross_entropy<D>(ctx, x, y, labels, ce), cross_entropy_by_hand(x, y, t, ones, ce));
    craft::contrastive_options nce;
    nce.log_scale = std::log(30.0);
    close(run_info_nce<D>(ctx, x, y, nce), info_nce_by_hand(x, y, positives({}, {}, n, n), {}, nce));
    craft::sigmoid_options sig;
    sig.log_scale = std::log(30.0);
    close(run_sigmoid<D>(ctx, x, y, sig), sigmoid_by_hand(x, y, positives({}, {}, n, n), sig));
  };
  using D = TestType;
  check_storage(typename D::template storing<Eigen::bfloat16>{});
  check_storage(typename D::template storing<Eigen::half>{});
}

TEMPLATE_LIST_TEST_CASE("32- and 64-bit labels are the same labels", "[alignment][storage]", devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make();
  const index_t n = 10;
  const array<D> x(random_reals(n, 4, 50)), y(random_reals(n, 4, 51));
  std::vector<index_t> values = labels_for(n, 5, 3);
  values[3] = -100;
  const label_array<D, std::int32_t> narrow(values);
  const label_array<D, std::int64_t> wide(values);
  array<D, T> a(1, 1), b(1, 1);
  craft::anchor_cross_entropy(ctx, x.in(), y.in(), narrow.in(), craft::cross_entropy_options{}, a.as_value());
  craft::anchor_cross_entropy(ctx, x.in(), y.in(), wide.in(), craft::cross_entropy_options{}, b.as_value());
  CHECK(a.number() == b.number());
  craft::contrastive_options nce;
  nce.x_labels = narrow.in();
  nce.y_labels = wide.in();
  craft::info_nce(ctx, x.in(), y.in(), nce, a.as_value());
  nce.x_labels = wide.in();
  craft::info_nce(ctx, x.in(), y.in(), nce, b.as_value());
  CHECK(a.number() == b.number());
  // Only equality counts in a contrastive loss: labels need not count from 0, nor fit 32 bits.
  std::vector<index_t> huge = values;
  for (index_t& v : huge) v = (v << 33) - 7;
  const label_array<D> far(huge);
  nce.x_labels = nce.y_labels = far.in();
  craft::info_nce(ctx, x.in(), y.in(), nce, a.as_value());
  CHECK(a.number() == b.number());
}

TEMPLATE_LIST_TEST_CASE("labels and weights may lie apart, in the device's memory or on the host", "[alignment][storage]",
                        devices) {
  using D = TestType;
  using T = typename D::compute;
  const auto ctx = D::make_checking();
  const index_t n = 10;
  const reals X = random_reals(n, 4, 52), Y = random_reals(n, 4, 53), W = random_reals(n, 1, 54).cwiseAbs();
  const auto x_values = labels_for(n, n, 3), y_values = labels_for(n, n, 7);

  // Side by side, and as columns of row-major matrices whose other columns are no labels and no weights.
  const label_array<D> x_near(x_values), y_near(y_values), x_apart(x_values, 3);
  const label_array<D, std::int32_t> y_apart(y_values, 2);
  const array<D, T> near(W), apart(W, 4);
  const array<D, float> float_near(W), float_apart(W, 1);
  matrix<std::int64_t> xs = matrix<std::int64_t>::Constant(n, 3, -77);
  Eigen::MatrixXi ys = Eigen::MatrixXi::Constant(2, n, -77);
  matrix<T> ws = matrix<T>::Constant(n, 2, T(not_a_number));
  for (index_t i = 0; i < n; ++i) {
    xs(i, 1) = x_values[std::size_t(i)];
    ys(1, i) = int(y_values[std::size_t(i)]);
    ws(i, 1) = T(W(i, 0));
  }

  const auto bits = [&](const craft::labels& x, const craft::labels& y, const craft::numbers& w) {
    std::string all;
    const auto add = [&](const loss_result& r) {
      for (const reals& m : {r.x, r.y}) all.append(reinterpret_cast<const char*>(m.data()), std::size_t(m.size()) * 8);
      all += std::to_string(r.value);
    };
    add(run_loss<D>(X, Y, want::all, [&](auto xd, auto yd, auto value, auto g) {
      craft::cross_entropy_options o;
      o.weights = w;
      craft::anchor_cross_entropy(ctx, xd, yd, x, o, value, g);
    }));
    add(run_loss<D>(X, Y, want::all, [&](auto xd, auto yd, auto value, auto g) {
      craft::contrastive_options o;
      o.x_labels = x, o.y_labels = y, o.weights = w;
      craft::info_nce(ctx, xd, yd, o, value, g);
    }));
    add(run_loss<D>(X, Y, want::all_and_bias, [&](auto xd, auto yd, auto value, auto g) {
      craft::sigmoid_options o;
      o.x_labels = x, o.y_labels = y;
      craft::sigmoid_contrastive(ctx, xd, yd, o, value, g);
    }));
    return all;
  };
  const std::string want = bits(x_near.in(), y_near.in(), near.as_numbers());
  CHECK((bits(x_apart.in(), y_apart.in(), apart.as_numbers()) == want));
  CHECK((bits(xs.col(1), ys.row(1), ws.col(1)) == want));
  CHECK((bits(x_apart.in(), y_apart.in(), float_apart.as_numbers()) == bits(x_near.in(), y_near.in(), float_near.as_numbers())));
}

TEST_CASE("Eigen matrices, blocks, maps, column-major samples and raw memory are the same input",
          "[alignment][storage]") {
  using D = device<cpu_backend, double>;
  const craft::cpu ctx(2);
  const index_t n = 9, d = 5;
  const reals x = random_reals(n, d, 52), y = random_reals(n, d, 53);
  craft::contrastive_options o;
  o.log_scale = std::log(8.0);
  const auto want = run_info_nce<D>(ctx, x, y, o);

  const auto check = [&](const auto& xin, const auto& yin) {
    reals dx = reals::Constant(n, d, not_a_number), dy = dx;
    double value = not_a_number, log_scale = not_a_number;
    craft::info_nce(ctx, xin, yin, o, value, {craft::overwrite(dx), craft::overwrite(dy), craft::overwrite(log_scale)});
    CHECK(value == want.value);
    CHECK(dx == want.x);
    CHECK(dy == want.y);
    CHECK(log_scale == want.log_scale);
  };
  check(x, y);
  check(craft::view(x), craft::view(y.data(), n, d));
  check(Eigen::Map<const reals>(x.data(), n, d), y);
  reals wide = reals::Constant(n + 2, d + 4, not_a_number);
  wide.block(1, 3, n, d) = x;
  check(wide.block(1, 3, n, d), y);
  check(craft::view(wide.data() + (d + 4) + 3, n, d, d + 4), y);
  const Eigen::MatrixXd columns = x.transpose();
  check(craft::view_columns(columns), y);

  // Gradients into blocks and into column-major matrices.
  reals around = reals::Constant(n + 2, 2 * d + 1, -3);
  Eigen::MatrixXd dy_columns = Eigen::MatrixXd::Constant(d, n, not_a_number);
  double value = not_a_number;
  craft::info_nce(ctx, x, y, o, value,
                  {craft::overwrite(around.block(1, d, n, d)), craft::overwrite(craft::view_columns(dy_columns))});
  CHECK(reals(around.block(1, d, n, d)) == want.x);
  CHECK(reals(dy_columns.transpose()) == want.y);
  around.block(1, d, n, d).setConstant(-3);
  CHECK(around == reals::Constant(n + 2, 2 * d + 1, -3));
}

// Up to 2^18 logits the engine keeps the dot products of the first sweep for the second; beyond, it computes them again.
TEMPLATE_LIST_TEST_CASE("few logits and many", "[alignment][properties]", devices) {
  using D = TestType;
  auto ctx = D::make();
  const double tolerance = std::is_same_v<typename D::scalar, double> ? 1e-12 : 2e-5;
  for (const index_t n : {510, 515}) {
    INFO(n << " rows");
    const reals x = as_stored<D>(random_reals(n, 3, 1)), y = as_stored<D>(random_reals(n, 3, 2));
    const array<D> xs(x), ys(y);
    array<D> dx(n, 3), dy(n, 3), value(1, 1);
    craft::contrastive_options o;
    o.log_scale = 0.0;
    o.normalise = false;
    craft::info_nce(ctx, xs.in(), ys.in(), o, value.as_value(), {craft::overwrite(dx.out()), craft::overwrite(dy.out())});

    const reals z = x * y.transpose(), e = z.array().exp();
    const Eigen::VectorXd by_row = e.rowwise().sum(), by_col = e.colwise().sum();
    const double want = (by_row.array().log().sum() + by_col.array().log().sum() - 2 * z.trace()) / (2 * double(n));
    reals w = by_row.cwiseInverse().asDiagonal() * e;
    w += e * by_col.cwiseInverse().asDiagonal();
    w.diagonal().array() -= 2;
    w /= 2 * double(n);
    CHECK(std::abs(value.number() - want) <= tolerance * std::abs(want));
    CHECK(relative_distance(dx.get(), w * y) <= tolerance);
    CHECK(relative_distance(dy.get(), w.transpose() * x) <= tolerance);
  }
}
