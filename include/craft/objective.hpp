// The objective of Craft: three alignment terms and the discrepancy between domains in the space of relative representations.
//
//     L = w_text  CE(s cos(f_i, t_c), y_i)        images seen through static text anchors
//       + w_image CE(s cos(u_i, a_c), y_i)        texts seen through static image anchors
//       + w_batch InfoNCE(s cos(f_i, u_j))        stochastic anchors: the batch of the other modality
//       + w_mmd   MMD^2(r(f), r(g))               source and target images, r = s cos(., t_c)
//
// f: images (n x d), t: class texts (C x d), u: the text of each image (n x d), a: image anchors (C x d), g: images of the target
// domain (m x d), y: labels, s = min(exp(log_scale), max_scale). At max_scale log_scale has a gradient if that of the weighted
// sum leads back inside: see alignment.hpp.
//
// Source: J. Sun et al., "Craft: Cross-modal Aligned Features Improve Robustness of Prompt Tuning", arXiv 2407.15894.
#pragma once

#include <cmath>
#include <limits>

#include "craft/alignment.hpp"
#include "craft/mmd.hpp"
#include "craft/steps/groups.hpp"

namespace craft {

/// What craft::objective gives: the terms without their weights, and the weighted sum.
template <class T>
struct objective_values {
  T text = 0,   ///< images seen through static text anchors
      image = 0,  ///< texts seen through static image anchors
      batch = 0,  ///< stochastic anchors
      mmd = 0,    ///< the discrepancy between domains
      total = 0;  ///< the weighted sum
};

/// What the objective looks at. A term whose input is missing (empty) is left out.
template <class S, memory M = memory::host>
struct objective_inputs {
  matrix_view<const S, M> images{};       ///< n x d
  matrix_view<const S, M> class_texts{};  ///< C x d
  labels targets{};                       ///< n labels in [0, C)
  matrix_view<const S, M> batch_texts{};  ///< n x d; empty: each row's class text, with its gradient going there
  matrix_view<const S, M> image_anchors{};  ///< C x d; empty: no image term
  matrix_view<const S, M> target_images{};  ///< m x d; empty: no discrepancy
};

/// How the objective is computed.
struct objective_options {
  double text = 1, image = 1, batch = 1, mmd = 1;  ///< weights of the terms, >= 0; 0: not computed
  scalar log_scale = std::log(100.0);                          ///< s = exp(log_scale) ...
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most this, with a gradient that only leads back
  double label_smoothing = 0;                            ///< of the text and image terms
  craft::direction direction = direction::one_way;       ///< of the batch term; the released code is one-way
  bool same_class_positives = false;                     ///< batch term: all pairs of one class belong together
  mmd_options discrepancy{};                             ///< its upstream is not used
  scalar upstream = 1.0;                                 ///< multiplies the gradients, not the values

  /// All of it but the samples' weights of the discrepancy, to hosts (describe.hpp).
  template <class Call>
  void fields(Call& c) {
    c("text", text, "weight of the text term: images seen through static text anchors");
    c("image", image, "weight of the image term: texts seen through static image anchors");
    c("batch", batch, "weight of the batch term: stochastic anchors");
    c("mmd", mmd, "weight of the discrepancy");
    c.scale(log_scale, max_scale, "s = exp(log_scale); by default 100");
    c("label_smoothing", label_smoothing, "of the text and image terms");
    c("direction", direction, "of the batch term");
    c("same_class_positives", same_class_positives, "batch term: all pairs of a class belong together");
    discrepancy.fields(c);
    c.upstream(upstream);
  }
};

/// The place for objective_values (text, image, batch, mmd without their weights, and total): a variable on the host, or a
/// struct in device memory.
template <class S, class Context>
using objective_values_out = typename detail::value_place<objective_values<compute_t<S>>, Context>::type;

/// Gradients of the total. Not wanted unless set.
template <class S, memory M = memory::host>
struct objective_gradients {
  output<S, M> images{}, class_texts{}, batch_texts{}, image_anchors{}, target_images{};  ///< of the input's shape
  output<compute_t<S>, M> log_scale{};  ///< one number, or two: see alignment_gradients
};

namespace engine {

/// The terms of an objective and their weighted sum.
template <class T>
struct objective_step {
  const double* losses;  ///< of text, image and batch
  const T* discrepancy;
  double text, image, batch, mmd;
  objective_values<T>* values;
  CRAFT_HOST_DEVICE void operator()(index_t) const {
    const T terms[4] = {T(losses[0]), T(losses[1]), T(losses[2]), *discrepancy};
    *values = {terms[0], terms[1], terms[2], terms[3],
               T(text * double(terms[0]) + image * double(terms[1]) + batch * double(terms[2]) + mmd * double(terms[3]))};
  }
};

}  // namespace engine

/// All terms and all gradients in one call. kernel: of the discrepancy, see mmd. The discrepancy's x_weights and y_weights
/// count, but have no gradient here; mmd has one.
///
/// Cost: at most the sum of its parts (anchor_cross_entropy, info_nce, relative, mmd). Memory O((n + m + C) (d + C)).
/// Throws shape_error, option_error, label_error, data_error, alias_error, and has written nothing then.
template <class Context, class S, class Kernel, class Gradients = objective_gradients<S, Context::space>>
void objective(const Context& ctx, const objective_inputs<S, Context::space>& inputs, const Kernel& kernel,
               const objective_options& options, objective_values_out<S, Context> values,
               const Gradients& gradients = {}) {
  using T = compute_t<S>;
  constexpr memory M = Context::space;
  using matrix = matrix_view<T, M>;
  const auto& [f, t, y, u_given, a, target] = inputs;
  const index_t n = f.rows(), d = f.cols(), c = t.rows();

  typename Context::engine e(ctx);
  engine::checks check("objective");
  check.input("images", f, e);
  check.input("class_texts", t, e);
  check.same_columns("images", f, "class_texts", t);
  check.labels_of("targets", y, "images", c, 0, e);
  const auto optional_input = [&](const char* name, const matrix_view<const S, M>& x, index_t rows) {
    if (x.empty()) return;
    check.input(name, x, e);
    check.shape(name, x, rows, d);
  };
  optional_input("batch_texts", u_given, n);
  optional_input("image_anchors", a, c);
  optional_input("target_images", target, target.rows());
  for (const double w : {options.text, options.image, options.batch, options.mmd})
    require<option_error>(std::isfinite(w) && w >= 0, "objective: weights must be finite and not negative, got ", w);
  check.in_unit_interval("label_smoothing", options.label_smoothing);
  check.readable("log_scale", options.log_scale, M);
  engine::check_max_scale(check, options.max_scale);
  check.readable("upstream", options.upstream, M);
  check.gradient("gradient of images", gradients.images, n, d);
  check.gradient("gradient of class_texts", gradients.class_texts, c, d);
  check.gradient("gradient of batch_texts", gradients.batch_texts, u_given.rows(), u_given.cols());
  check.gradient("gradient of image_anchors", gradients.image_anchors, a.rows(), a.cols());
  check.gradient("gradient of target_images", gradients.target_images, target.rows(), target.cols());
  check.scale_gradient(gradients.log_scale);
  check.value(values);
  check.no_overlap();

  const bool text_term = options.text > 0, image_term = options.image > 0 && !a.empty(), batch_term = options.batch > 0;
  const bool mmd_term = options.mmd > 0 && !target.empty();
  const bool paired_terms = image_term || batch_term, gathers = paired_terms && u_given.empty();

  // Every matrix that a term looks at is prepared once, and every term adds its gradients to those of the unit rows. Images,
  // image anchors and target images carry the scale: in each term one side does.
  const auto scale = engine::clamp_scale<T>(e, check, options.log_scale, options.max_scale);
  const bool by_scale = gradients.log_scale.wanted(), by_text = gradients.class_texts.wanted();
  const bool any = gradients.images.wanted() || by_text || gradients.batch_texts.wanted() ||
                   gradients.image_anchors.wanted() || gradients.target_images.wanted() || by_scale;
  using features = engine::scaled_rows<typename Context::engine, T>;
  const auto prepare = [&](bool looked_at, const matrix_view<const S, M>& x, bool wanted, const engine::number& times) {
    return features(e, looked_at ? x : matrix_view<const S, M>(), true, any, wanted, times);
  };
  features images =
      prepare(text_term || batch_term || mmd_term, f, gradients.images.wanted() || by_scale, scale.value);
  features texts = prepare(text_term || mmd_term || gathers, t, by_text, engine::number(1));
  features given = prepare(paired_terms, u_given, gradients.batch_texts.wanted(), engine::number(1));
  features anchors = prepare(image_term, a, gradients.image_anchors.wanted() || by_scale, scale.value);
  features targets = prepare(mmd_term, target, gradients.target_images.wanted() || by_scale, scale.value);

  engine::rows<T> paired = given.r;
  engine::pull<T> paired_gradient = given.g;
  const index_t* class_of = nullptr;
  if (gathers) {
    class_of = engine::converted<index_t>(e, y);
    paired = engine::take_rows<T>(e, n, d);
    gather(e, matrix_view<const T, M>(texts.r.data, c, d), class_of, matrix(paired.data, n, d));
    if (any) paired_gradient = engine::take_pull<T>(e, n, d, by_text);
  }

  // A term: its value without the weight, its gradients with it. Scratch memory of a term is the next one's.
  double* losses = e.template zeros<double>(3);
  using softmax = engine::softmax<T>;
  const auto share = [n](auto& to, softmax& s, double of) {
    row_weights(to, n, numbers(), nullptr, 0, nullptr, true, of, s);
  };
  const auto softmax_term = [&](const engine::rows<T>& x_rows, const engine::rows<T>& y_rows, softmax by_row, softmax by_col,
                                bool both, double weight, double* loss, const engine::pull<T>& gx,
                                const engine::pull<T>& gy) {
    typename Context::engine inner(ctx);
    const bool pulled = gx.gradient || gy.gradient;
    T* dots = engine::softmax_value(inner, x_rows, y_rows, by_row, by_col, both, pulled, loss);
    if (!pulled) return;
    if (weight != 1) share(inner, by_row, both ? weight / 2 : weight);
    if (weight != 1 && both) by_col.weight = by_row.weight;
    engine::rectangle_sweep<T> sweep{x_rows, y_rows};
    sweep.gx = gx, sweep.gy = gy, sweep.kept = dots;
    engine::pull_back_softmax<false>(inner, sweep, by_row, by_col, both);
  };
  if (text_term || image_term) {
    softmax s;
    s.n = n;
    label_targets(e, y, c, (std::numeric_limits<index_t>::min)(), options.label_smoothing, s);  // there is no label to ignore
    share(e, s, 1);
    if (text_term) softmax_term(images.r, texts.r, s, {}, false, options.text, losses, images.g, texts.g);
    if (image_term) softmax_term(paired, anchors.r, s, {}, false, options.image, losses + 1, paired_gradient, anchors.g);
  }
  if (batch_term) {
    const labels same = options.same_class_positives ? y : labels();
    const bool both = options.direction == direction::symmetric;
    softmax by_row, by_col;
    by_row.n = by_col.n = n;
    pair_targets(e, same, same, n, n, 0, by_row, by_col);
    share(e, by_row, both ? 0.5 : 1);
    by_col.weight = by_row.weight;
    softmax_term(images.r, paired, by_row, by_col, both, options.batch, losses + 2, images.g, paired_gradient);
  }
  T* discrepancy = e.template zeros<T>(1);
  if (mmd_term) {
    const index_t m = target.rows();
    typename Context::engine inner(ctx);
    const auto take = [&](index_t rows) { return matrix(inner.template take<T>(rows * c), rows, c); };
    const matrix source_r = take(n), target_r = take(m);
    const dot_product<T> k;
    engine::map(inner, images.r, texts.r, k, 1, source_r);
    engine::map(inner, targets.r, texts.r, k, 1, target_r);
    mmd_options o = options.discrepancy;
    o.upstream = options.mmd;
    mmd_gradients<T, M> g;
    if (images.g.gradient || by_text) g.x = overwrite(take(n));
    if (targets.g.gradient || by_text) g.y = overwrite(take(m));
    craft::mmd(ctx, source_r, target_r, kernel, o, scalar_out<T, M>(discrepancy), g);
    const auto pull_back = [&](const output<T, M>& by_r, const features& x) {
      if (by_r.wanted()) engine::map_pullback(inner, x.r, texts.r, k, 1, matrix_view<const T, M>(by_r.to), nullptr, x.g, texts.g);
    };
    pull_back(g.x, images);
    pull_back(g.y, targets);
  }

  if (gathers && by_text)
    scatter_add(e, matrix_view<const T, M>(paired_gradient.gradient, n, d), class_of, texts.g.gradient, c);
  const auto upstream = engine::read(options.upstream);
  if (by_scale) {
    double* parts = e.template zeros<double>(3);
    images.by_log_scale(parts);
    anchors.by_log_scale(parts + 1);
    targets.by_log_scale(parts + 2);
    e.each(1, engine::clamped_scale_pullback_step{parts, 3, upstream, scale.held});
    store_vector(e, parts, gradients.log_scale, 1.0);
  }
  images.store(gradients.images, upstream);
  texts.store(gradients.class_texts, upstream);
  given.store(gradients.batch_texts, upstream);
  anchors.store(gradients.image_anchors, upstream);
  targets.store(gradients.target_images, upstream);
  e.each(1, engine::objective_step<T>{losses, discrepancy, options.text, options.image, options.batch, options.mmd,
                                      values.get()});
}

namespace verbs {

/// objective, to hosts (describe.hpp).
struct objective {
  static constexpr const char* name = "objective";         ///< what hosts call it
  static constexpr const char* module = "CraftObjective";  ///< as a module of PyTorch
  /// What it computes.
  static constexpr const char* text =
      "The objective of Craft: three alignment terms, and the discrepancy between domains.\n"
      "\n"
      "    text  * CE(s cos(images, class_texts), targets)\n"
      "  + image * CE(s cos(batch_texts, image_anchors), targets)\n"
      "  + batch * InfoNCE(s cos(images, batch_texts))\n"
      "  + mmd   * MMD^2(r(images), r(target_images)),    r = s cos(., class_texts),    s = min(exp(log_scale), max_scale)\n"
      "\n"
      "Only the total has gradients. Cost: at most the sum of its parts. J. Sun et al., \"Craft\", arXiv 2407.15894.";
  /// Its arguments, and the call.
  template <class Call>
  static void call(Call& c) {
    objective_inputs<typename Call::S, Call::space> in;
    in.images = c.matrix("images", "n d", "features of the source domain's images, one per row");
    in.class_texts = c.matrix("class_texts", "C d", "features of the classes' texts");
    in.targets = c.required_labels("targets", "n", "n labels in [0, C)");
    in.batch_texts = c.optional_matrix("batch_texts", "n d", "the text of each image; by default its class's");
    in.image_anchors = c.optional_matrix("image_anchors", "C d", "one per class; without them there is no image term");
    in.target_images = c.optional_matrix("target_images", "m d", "of another domain; without them there is no discrepancy");
    objective_options o;
    o.fields(c);
    const auto kernel = c.kernel("kernel", "gaussian", "of the discrepancy, as in mmd");
    objective_gradients<typename Call::T, Call::space> g;
    c.gradient("images", g.images);
    c.gradient("class_texts", g.class_texts);
    c.gradient("batch_texts", g.batch_texts);
    c.gradient("image_anchors", g.image_anchors);
    c.gradient("target_images", g.target_images);
    c.gradient("log_scale", g.log_scale);
    const auto values = c.template values<objective_values<typename Call::T>>(
        {"text", "image", "batch", "mmd", "total"}, "the terms without their weights, and their weighted sum");
    c.run([&](const auto& ctx, const auto& k) { craft::objective(ctx, in, k, o, values, g); }, kernel);
  }
};

}  // namespace verbs

}  // namespace craft
