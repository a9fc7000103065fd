// The alignment losses against the public implementations and against double loops by hand.
#include "craft/alignment.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "devices.hpp"
#include "pair_losses.hpp"
#include "reference.hpp"

using namespace craft_test;
using craft::direction;
using craft::reduction;

// ---------------------------------------------------------------------------------------------------------
// Reference values, in double

TEMPLATE_LIST_TEST_CASE("anchor_cross_entropy meets the reference values", "[alignment][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const std::string scale = GENERATE("_s14.3", "_s100");
  const std::string labels = GENERATE("_y", "_y2");

  for (const auto& r : reference::cases("alignment", "craft_xetext" + scale + labels)) {
    const reference::inputs in(r);
    craft::cross_entropy_options o;
    o.log_scale = std::log(r.parameter("logit_scale"));
    const auto got = run_cross_entropy<D>(ctx, in.X, in.T, in.labels(r.option("labels")), o);
    r.check(got.value, {{"X", got.x}, {"T", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
  }
  for (const auto& r : reference::cases("alignment", "craft_xeimage" + scale + labels)) {
    const reference::inputs in(r);
    craft::cross_entropy_options o;
    o.log_scale = std::log(r.parameter("logit_scale"));
    const auto got = run_cross_entropy<D>(ctx, in.U, in.A, in.labels(r.option("labels")), o);
    r.check(got.value, {{"U", got.x}, {"A", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
  }
  for (const std::string variant : {"", "_ls0.1", "_class_weight", "_ignore", "_sum"})
    for (const auto& r : reference::cases("alignment", "torch_ce" + variant + scale + labels)) {
      const reference::inputs in(r);
      std::vector<index_t> y = in.labels(r.option("labels"));
      craft::cross_entropy_options o;
      o.log_scale = std::log(r.parameter("logit_scale"));
      std::vector<double> class_weight;
      for (index_t i = 0; i < r.n(); ++i) class_weight.push_back(0.5 + double(y[std::size_t(i)]) / double(r.classes()));
      const array<D, typename D::compute> weights(class_weight);
      if (variant == "_ls0.1") o.label_smoothing = 0.1;
      if (variant == "_class_weight") o.weights = weights.as_numbers();
      if (variant == "_sum") o.reduce = reduction::sum;
      if (variant == "_ignore")
        for (std::size_t i = 0; i < y.size(); i += 4) y[i] = o.ignore_label;
      const auto got = run_cross_entropy<D>(ctx, in.X, in.A, y, o);
      r.check(got.value, {{"X", got.x}, {"A", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
    }
  for (const std::string variant : {"", "_ls0.1"})
    for (const auto& r : reference::cases("alignment", "torch_soft_ce" + variant + scale)) {
      const reference::inputs in(r);
      craft::cross_entropy_options o;
      o.log_scale = std::log(r.parameter("logit_scale"));
      o.label_smoothing = r.parameter("label_smoothing");
      const auto got = run_soft<D>(ctx, in.X, in.A, in.S, o, want::all, {false, true});
      reference::record::gradients grads = {
          {"X", got.x}, {"A", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}};
      if (r.has_gradient("S")) grads.push_back({"S", got.targets});
      r.check(got.value, grads);
    }
}

TEMPLATE_LIST_TEST_CASE("info_nce meets the reference values", "[alignment][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const std::string scale = GENERATE("_s14.3", "_s100");

  for (const auto& r : reference::cases("alignment", "craft_contr" + scale)) {
    const reference::inputs in(r);
    craft::contrastive_options o;
    o.log_scale = std::log(r.parameter("logit_scale"));
    o.direction = direction::one_way;
    const auto got = run_info_nce<D>(ctx, in.X, in.U, o);
    r.check(got.value, {{"X", got.x}, {"U", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
  }
  for (const auto& r : reference::cases("alignment", "open_clip_cliploss_raw" + scale)) {
    const reference::inputs in(r);
    craft::contrastive_options o;
    o.log_scale = std::log(r.parameter("logit_scale"));
    const auto got = run_info_nce<D>(ctx, in.X, in.U, o);
    r.check(got.value, {{"X", got.x}, {"U", got.y}, {"log_logit_scale", reals::Constant(1, 1, got.log_scale)}});
  }
  for (const auto& r : reference::cases("alignment", "open_clip_cliploss" + scale)) {
    const reference::inputs in(r);
    craft::contrastive_options o;
    const double s = r.parameter("logit_scale");
    o.log_scale = std::log(s);
    o.normalise = false;
    const auto got = run_info_nce<D>(ctx, in.Xn, in.Un, o);
    // The peer's leaf is s itself: dL/ds = (dL/dlog s) / s.
    r.check(got.value, {{"Xn", got.x}, {"Un", got.y}, {"logit_scale", reals::Constant(1, 1, got.log_scale / s)}});
  }
}

TEMPLATE_LIST_TEST_CASE("info_nce with labels meets the reference values", "[alignment][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const std::string labels = GENERATE("_y", "_y2");

  for (const auto& r : reference::cases("alignment", "pml_supcon_cross" + labels)) {
    const reference::inputs in(r);
    const auto& y = in.labels(r.option("labels"));
    craft::contrastive_options o;
    o.log_scale = -std::log(r.parameter("temperature"));
    o.direction = direction::one_way;
    const auto got = run_info_nce<D>(ctx, in.X, in.U, o, y, y);
    r.check(got.value, {{"X", got.x}, {"U", got.y}});
  }
  // Against class anchors every row has one positive, where NT-Xent and SupCon are the same loss.
  for (const std::string peer : {"pml_supcon_anchors", "pml_ntxent_anchors"})
    for (const auto& r : reference::cases("alignment", peer + labels)) {
      const reference::inputs in(r);
      std::vector<index_t> classes;
      for (index_t c = 0; c < r.classes(); ++c) classes.push_back(c);
      craft::contrastive_options o;
      o.log_scale = -std::log(r.parameter("temperature"));
      o.direction = direction::one_way;
      const auto got = run_info_nce<D>(ctx, in.X, in.A, o, in.labels(r.option("labels")), classes);
      r.check(got.value, {{"X", got.x}, {"A", got.y}});
    }
}

TEMPLATE_LIST_TEST_CASE("sigmoid_contrastive meets the reference values", "[alignment][reference]", double_devices) {
  using D = TestType;
  const auto ctx = D::make();
  const std::string heat = GENERATE("_init", "_hot", "_warm");

  for (const auto& r : reference::cases("alignment", "open_clip_siglip_raw" + heat)) {
    const reference::inputs in(r);
    craft::sigmoid_options o;
    o.log_scale = std::log(r.parameter("logit_scale"));
    o.bias = r.parameter("logit_bias");
    const auto got = run_sigmoid<D>(ctx, in.X, in.U, o);
    r.check(got.value, {{"X", got.x},
                        {"U", got.y},
                        {"log_logit_scale", reals::Constant(1, 1, got.log_scale)},
                        {"logit_bias", reals::Constant(1, 1, got.bias)}});
  }
  for (const auto& r : reference::cases("alignment", "open_clip_siglip" + heat)) {
    const reference::inputs in(r);
    craft::sigmoid_options o;
    const double s = r.parameter("logit_scale");
    o.log_scale = std::log(s);
    o.bias = r.parameter("logit_bias");
    o.normalise = false;
    const auto got = run_sigmoid<D>(ctx, in.Xn, in.Un, o);
    r.check(got.value, {{"Xn", got.x},
                        {"Un", got.y},
                        {"logit_scale", reals::Constant(1, 1, got.log_scale / s)},
                        {"logit_bias", reals::Constant(1, 1, got.bias)}});
  }
}

// ---------------------------------------------------------------------------------------------------------
// Double loops by hand, at sizes that cross tiles

namespace {
struct shape {
  index_t n, m, d;
  std::vector<index_t> tiles;
};
// No tiles of one row for the largest: a thousand of them, of which the smaller ones have enough.
const shape shapes[] = {{1, 1, 1, {0, 1, 7, 16}}, {5, 3, 2, {0, 1, 7, 16}}, {17, 16, 7, {0, 1, 7, 16}}, {33, 40, 19, {0, 7, 16}}};
}  // namespace

TEMPLATE_LIST_TEST_CASE("anchor_cross_entropy equals the double loop", "[alignment][by-hand]", devices) {
  using D = TestType;
  const double scale = GENERATE(3.0, 100.0);
  const bool normalise = GENERATE(true, false);
  for (const shape& sh : shapes)
    for (index_t tile : sh.tiles) {
      auto ctx = D::make();
      ctx.tile(tile);
      // Not normalised, rows of length about one keep the logits below the scale.
      const reals x = as_stored<D>(random_reals(sh.n, sh.d, 1) / std::sqrt(double(sh.d)));
      const reals a = as_stored<D>(random_reals(sh.m, sh.d, 2) / std::sqrt(double(sh.d)));
      std::vector<index_t> y = labels_for(sh.n, sh.m, 5);
      const std::vector<double> w = some_weights<D>(sh.n);
      const array<D, typename D::compute> weights(w);
      const std::vector<double> ones(std::size_t(sh.n), 1.0);
      INFO(sh.n << " x " << sh.d << " against " << sh.m << ", tile " << tile << ", scale " << scale);

      craft::cross_entropy_options o;
      o.log_scale = std::log(scale);
      o.normalise = normalise;
      std::vector<double> used = ones;
      reals t = one_hot(y, sh.m, o.ignore_label, used);
      check_against<D>(run_cross_entropy<D>(ctx, x, a, y, o), cross_entropy_by_hand(x, a, t, used, o));

      o.label_smoothing = 0.3;
      o.weights = weights.as_numbers();
      o.ignore_label = 0;  // a label that occurs
      used = w;
      t = one_hot(y, sh.m, o.ignore_label, used);
      for (reduction reduce : {reduction::mean, reduction::sum}) {
        o.reduce = reduce;
        check_against<D>(run_cross_entropy<D>(ctx, x, a, y, o), cross_entropy_by_hand(x, a, t, used, o));
      }

      // Soft targets need not sum to one: the formula holds as it stands.
      const reals soft =
          random_reals(sh.n, sh.m, 3).cwiseAbs().unaryExpr([](double v) { return double(typename D::compute(v)); });
      o.reduce = reduction::mean;
      used = w;
      check_against<D>(run_soft<D>(ctx, x, a, soft, o), cross_entropy_by_hand(x, a, soft, used, o));
    }
}

TEMPLATE_LIST_TEST_CASE("info_nce equals the double loop", "[alignment][by-hand]", devices) {
  using D = TestType;
  const double scale = GENERATE(3.0, 100.0);
  const bool normalise = GENERATE(true, false);
  const direction way = GENERATE(direction::one_way, direction::symmetric);
  for (const shape& sh : shapes)
    for (index_t tile : sh.tiles) {
      auto ctx = D::make();
      ctx.tile(tile);
      const reals x = as_stored<D>(random_reals(sh.n, sh.d, 4) / std::sqrt(double(sh.d)));
      const reals y = as_stored<D>(random_reals(sh.m, sh.d, 5) / std::sqrt(double(sh.d)));
      const reals square = as_stored<D>(random_reals(sh.n, sh.d, 6) / std::sqrt(double(sh.d)));
      const std::vector<double> w = some_weights<D>(sh.n);
      const array<D, typename D::compute> weights(w);
      INFO(sh.n << " x " << sh.d << " against " << sh.m << ", tile " << tile << ", scale " << scale << ", direction "
                << int(way));

      craft::contrastive_options o;
      o.log_scale = std::log(scale);
      o.normalise = normalise;
      o.direction = way;
      const reals diagonal = positives({}, {}, sh.n, sh.n);
      check_against<D>(run_info_nce<D>(ctx, x, square, o), info_nce_by_hand(x, square, diagonal, {}, o));
      o.label_smoothing = 0.2;
      o.weights = weights.as_numbers();
      check_against<D>(run_info_nce<D>(ctx, x, square, o), info_nce_by_hand(x, square, diagonal, w, o));

      // Several positives per row, n != m, and labels that only one side has.
      o.weights = {};
      const auto xl = labels_for(sh.n, 4, 5), yl = labels_for(sh.m, 5, 3);
      check_against<D>(run_info_nce<D>(ctx, x, y, o, xl, yl),
                       info_nce_by_hand(x, y, positives(xl, yl, sh.n, sh.m), {}, o));
      // One label for all: every pair is a positive, and the loss is not 0.
      const std::vector<index_t> xs(std::size_t(sh.n), 2), ys(std::size_t(sh.m), 2);
      check_against<D>(run_info_nce<D>(ctx, x, y, o, xs, ys), info_nce_by_hand(x, y, reals::Ones(sh.n, sh.m), {}, o));
      if (way == direction::one_way) {
        o.weights = weights.as_numbers();
        check_against<D>(run_info_nce<D>(ctx, x, y, o, xl, yl),
                         info_nce_by_hand(x, y, positives(xl, yl, sh.n, sh.m), w, o));
      }
    }
}

TEMPLATE_LIST_TEST_CASE("sigmoid_contrastive equals the double loop", "[alignment][by-hand]", devices) {
  using D = TestType;
  const double scale = GENERATE(3.0, 100.0);
  const bool normalise = GENERATE(true, false);
  for (const shape& sh : shapes)
    for (index_t tile : sh.tiles) {
      auto ctx = D::make();
      ctx.tile(tile);
      const reals x = as_stored<D>(random_reals(sh.n, sh.d, 7) / std::sqrt(double(sh.d)));
      const reals y = as_stored<D>(random_reals(sh.m, sh.d, 8) / std::sqrt(double(sh.d)));
      const reals square = as_stored<D>(random_reals(sh.n, sh.d, 9) / std::sqrt(double(sh.d)));
      INFO(sh.n << " x " << sh.d << " against " << sh.m << ", tile " << tile << ", scale " << scale);

      craft::sigmoid_options o;
      o.log_scale = std::log(scale);
      o.bias = -2.0;
      o.normalise = normalise;
      check_against<D>(run_sigmoid<D>(ctx, x, square, o), sigmoid_by_hand(x, square, positives({}, {}, sh.n, sh.n), o));
      const auto xl = labels_for(sh.n, 4, 5), yl = labels_for(sh.m, 5, 3);
      check_against<D>(run_sigmoid<D>(ctx, x, y, o, xl, yl), sigmoid_by_hand(x, y, positives(xl, yl, sh.n, sh.m), o));
    }
}
