// The objective of Craft: three alignment terms and the discrepancy between domains in the space of relative representations.
//
//     L = w_text  CE(s cos(f_i, t_c), y_i)        images seen through static text anchors
//       + w_image CE(s cos(u_i, a_c), y_i)        texts seen through static image anchors
//       + w_batch InfoNCE(s cos(f_i, u_j))        stochastic anchors: the batch of the other modality
//       + w_mmd   MMD^2(r(f), r(g))               source and target images, r = s cos(., t_c)
//
// f: images (n x d), t: class texts (C x d), u: the text of each image (n x d), a: image anchors (C x d), g: images of the target
// domain (m x d), y: labels, s = min(exp(log_scale), max_scale).
//
// Source: J. Sun et al., "Craft: Cross-modal Aligned Features Improve Robustness of Prompt Tuning", arXiv 2407.15894.
#pragma once

#include <cmath>
#include <limits>

#include "craft/alignment.hpp"
#include "craft/mmd.hpp"

namespace craft {

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
  double max_scale = std::numeric_limits<double>::infinity();  ///< ... but at most this; no gradient beyond
  double label_smoothing = 0;                            ///< of the text and image terms
  craft::direction direction = direction::one_way;       ///< of the batch term; the released code is one-way
  bool same_class_positives = false;                     ///< batch term: all pairs of one class belong together
  mmd_options discrepancy{};                             ///< its upstream is not used
  scalar upstream = 1.0;                                 ///< multiplies the gradients, not the values
};

/// The place for objective_values (text, image, batch, mmd without their weights, and total): a variable on the host, or a
/// struct in device memory.
template <class S, class Context>
using objective_values_out = typename detail::value_place<objective_values<compute_t<S>>, Context>::type;

/// Gradients of the total. Not wanted unless set.
template <class S, memory M = memory::host>
struct objective_gradients {
  output<S, M> images{}, class_texts{}, batch_texts{}, image_anchors{}, target_images{};  ///< of the input's shape
  output<compute_t<S>, M> log_scale{};                                                    ///< one number
};

/// All terms and all gradients in one call. kernel: of the discrepancy, see mmd.
///
/// Cost: the sum of its parts (anchor_cross_entropy, info_nce, relative, mmd). Memory O((n + m + C) (d + C)).
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
  check.labels_of("targets", y, n, c, 0, e);
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
  check.readable("upstream", options.upstream, M);
  check.gradient("gradient of images", gradients.images, n, d);
  check.gradient("gradient of class_texts", gradients.class_texts, c, d);
  check.gradient("gradient of batch_texts", gradients.batch_texts, u_given.rows(), u_given.cols());
  check.gradient("gradient of image_anchors", gradients.image_anchors, a.rows(), a.cols());
  check.gradient("gradient of target_images", gradients.target_images, target.rows(), target.cols());
  check.vector_gradient("gradient of log_scale", gradients.log_scale, 1);
  check.value(values);
  check.no_overlap();

  // Every term adds its share here; the caller's memory is written at the end.
  const bool by_text = gradients.class_texts.wanted();
  const bool gathers = u_given.empty();
  const auto accumulator = [&](bool wanted, index_t rows) {
    return wanted ? accumulate(matrix(e.template zeros<T>(rows * d), rows, d)) : output<T, M>{};
  };
  const output<T, M> df = accumulator(gradients.images.wanted(), n), dt = accumulator(by_text, c);
  const output<T, M> du = accumulator(gathers ? by_text : gradients.batch_texts.wanted(), n);
  const output<T, M> da = accumulator(gradients.image_anchors.wanted(), a.rows());
  const output<T, M> dg = accumulator(gradients.target_images.wanted(), target.rows());
  const output<T, M> ds = gradients.log_scale.wanted() ? accumulate(matrix(e.template zeros<T>(1), 1, 1)) : output<T, M>{};

  const bool image_term = options.image > 0 && !a.empty(), batch_term = options.batch > 0;
  matrix_view<const S, M> u = u_given;
  const index_t* class_of = nullptr;
  if (gathers && (image_term || batch_term)) {
    const matrix_view<S, M> rows(e.template take<S>(n * d), n, d);
    class_of = e.indices(y);
    e.gather(t, class_of, rows);
    u = rows;
  }

  T* terms = e.template zeros<T>(4);
  if (options.text > 0 || image_term) {
    cross_entropy_options o;
    o.log_scale = options.log_scale;
    o.max_scale = options.max_scale;
    o.label_smoothing = options.label_smoothing;
    if (options.text > 0) {
      o.upstream = options.text;
      anchor_cross_entropy(ctx, f, t, y, o, scalar_out<T, M>(terms), alignment_gradients<T, M>{df, dt, ds, {}});
    }
    if (image_term) {
      o.upstream = options.image;
      anchor_cross_entropy(ctx, u, a, y, o, scalar_out<T, M>(terms + 1), alignment_gradients<T, M>{du, da, ds, {}});
    }
  }
  if (batch_term) {
    contrastive_options o;
    o.log_scale = options.log_scale;
    o.max_scale = options.max_scale;
    o.direction = options.direction;
    if (options.same_class_positives) o.x_labels = o.y_labels = y;
    o.upstream = options.batch;
    info_nce(ctx, f, u, o, scalar_out<T, M>(terms + 2), alignment_gradients<T, M>{df, du, ds, {}});
  }
  if (options.mmd > 0 && !target.empty()) {
    const index_t m = target.rows();
    relative_options o;
    o.log_scale = options.log_scale;
    o.max_scale = options.max_scale;
    const matrix source_r(e.template take<T>(n * c), n, c), target_r(e.template take<T>(m * c), m, c);
    relative(ctx, f, t, dot_product<>(), o, source_r);
    relative(ctx, target, t, dot_product<>(), o, target_r);
    mmd_options discrepancy = options.discrepancy;
    discrepancy.upstream = options.mmd;
    mmd_gradients<T, M> g;
    const bool shared = by_text || ds.wanted(), by_source = df.wanted() || shared, by_target = dg.wanted() || shared;
    if (by_source) g.x = overwrite(matrix(e.template take<T>(n * c), n, c));
    if (by_target) g.y = overwrite(matrix(e.template take<T>(m * c), m, c));
    craft::mmd(ctx, source_r, target_r, kernel, discrepancy, scalar_out<T, M>(terms + 3), g);
    if (by_source)
      relative_pullback(ctx, f, t, dot_product<>(), o, g.x.to, relative_gradients<T, M>{df, dt, ds});
    if (by_target)
      relative_pullback(ctx, target, t, dot_product<>(), o, g.y.to, relative_gradients<T, M>{dg, dt, ds});
  }

  if (class_of && du.wanted()) e.scatter_add(matrix_view<const T, M>(du.to), class_of, dt.to.data(), c);
  const auto upstream = e.read(options.upstream);
  e.store(df.to.data(), gradients.images, upstream);
  e.store(dt.to.data(), gradients.class_texts, upstream);
  e.store(du.to.data(), gradients.batch_texts, upstream);
  e.store(da.to.data(), gradients.image_anchors, upstream);
  e.store(dg.to.data(), gradients.target_images, upstream);
  e.store(ds.to.data(), gradients.log_scale, upstream);
  e.each(1, engine::objective_step<T>{terms, options.text, options.image, options.batch, options.mmd,
                                                           values.get()});
}

}  // namespace craft
