// Every verb by its name gives the very bits of the verb called directly with the same inputs, for every element type: with every
// option, every gradient, padded rows, labels and weights of both widths, and numbers that are read where the call runs. Those of
// discrepancies are in runtime_mmd_test.cpp; that no verb, option, result or gradient is left out is tested here.
#include "runtime_calls.hpp"

using namespace craft_test;

namespace {

template <class D>
void add_alignment(calls<D>& all, const samples<D>& s) {
  using T = typename D::compute;
  using gradients = craft::alignment_gradients<T, D::space>;
  craft::cross_entropy_options ce;
  ce.log_scale = s.half_of.as_scalar();
  ce.label_smoothing = 0.1;
  ce.ignore_label = 1;
  ce.weights = s.x_weights.as_numbers();
  ce.reduce = craft::reduction::sum;
  all.push_back({"anchor_cross_entropy", "labels",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("anchors", in(s.anchors)), c.give("targets", in(s.labels.in()));
                   c.give("log_scale", number_in(s.half_of)), c.give("label_smoothing", 0.1), c.give("ignore_label", 1);
                   c.give("weights", in(s.x_weights.as_numbers())), c.give("reduction", "sum");
                 },
                 [&s, ce](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d, 1), g.y = to.gradient("anchors", classes, d);
                   g.log_scale = to.gradient("log_scale", 1, 1), g.weights = to.gradient("weights", 1, n);
                   craft::anchor_cross_entropy(ctx, s.x.in(), s.anchors.in(), s.labels.in(), ce, to.value(), g);
                 }});
  craft::cross_entropy_options soft;
  soft.log_scale = 1.4, soft.max_scale = 3, soft.normalise = false;
  soft.upstream = s.one_and_a_half.as_scalar();
  all.push_back({"anchor_cross_entropy", "shares",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("anchors", in(s.anchors)), c.give("targets", in(s.soft));
                   c.give("log_scale", 1.4), c.give("max_scale", 3), c.give("normalise", false);
                   c.upstream(s.one_and_a_half.as_scalar());
                 },
                 [&s, soft](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d), g.y = to.gradient("anchors", classes, d, 3);
                   g.targets = to.gradient("targets", n, classes, 2), g.log_scale = to.gradient("log_scale", 1, 2);
                   craft::anchor_cross_entropy(ctx, s.x.in(), s.anchors.in(), s.soft.in(), soft, to.value(), g);
                 }});

  craft::contrastive_options pairs;
  pairs.log_scale = s.one_and_a_half.as_scalar(), pairs.max_scale = 5;
  pairs.label_smoothing = 0.2, pairs.weights = s.x_weights.as_numbers(), pairs.upstream = -2;
  all.push_back({"info_nce", "row by row",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("y", in(s.paired));
                   c.give("log_scale", number_in(s.one_and_a_half)), c.give("max_scale", 5.0);
                   c.give("label_smoothing", 0.2), c.give("weights", in(s.x_weights.as_numbers()));
                   c.upstream(-2);
                 },
                 [&s, pairs](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d), g.y = to.gradient("y", n, d, 1);
                   g.log_scale = to.gradient("log_scale", 1, 1), g.weights = to.gradient("weights", n, 1, 1);
                   craft::info_nce(ctx, s.x.in(), s.paired.in(), pairs, to.value(), g);
                 }});
  craft::contrastive_options by_label;
  by_label.x_labels = s.labels.in(), by_label.y_labels = s.y_labels.in();
  by_label.direction = craft::direction::one_way, by_label.normalise = false;
  all.push_back({"info_nce", "by label",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("direction", "one_way"), c.give("normalise", false);
                   c.give("x_labels", in(s.labels.in())), c.give("y_labels", in(s.y_labels.in()));
                 },
                 [&s, by_label](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d), g.y = to.gradient("y", m, d);
                   craft::info_nce(ctx, s.x.in(), s.y.in(), by_label, to.value(), g);
                 }});

  craft::sigmoid_options sigmoid;
  sigmoid.log_scale = 2, sigmoid.bias = s.half_of.as_scalar(), sigmoid.max_scale = 4, sigmoid.upstream = s.half_of.as_scalar();
  all.push_back({"sigmoid_contrastive", "row by row",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("y", in(s.paired)), c.give("log_scale", 2), c.give("bias", number_in(s.half_of));
                   c.give("max_scale", 4.0);
                   c.upstream(s.half_of.as_scalar());
                 },
                 [&s, sigmoid](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d, 2), g.y = to.gradient("y", n, d);
                   g.log_scale = to.gradient("log_scale", 2, 1), g.bias = to.gradient("bias", 1, 1);
                   craft::sigmoid_contrastive(ctx, s.x.in(), s.paired.in(), sigmoid, to.value(), g);
                 }});
  craft::sigmoid_options labelled;
  labelled.x_labels = s.labels.in(), labelled.y_labels = s.y_labels.in(), labelled.normalise = false;
  all.push_back({"sigmoid_contrastive", "by label",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("y", in(s.y)), c.give("normalise", false);
                   c.give("x_labels", in(s.labels.in())), c.give("y_labels", in(s.y_labels.in()));
                 },
                 [&s, labelled](const auto& ctx, written<D>& to) {
                   gradients g;
                   g.x = to.gradient("x", n, d), g.y = to.gradient("y", m, d);
                   craft::sigmoid_contrastive(ctx, s.x.in(), s.y.in(), labelled, to.value(), g);
                 }});
  for (const bool labels : {false, true})
    all.push_back({"cosine_embedding", labels ? "by label" : "row by row",
                   [&s, labels](rt::call& c) {
                     c.give("x", in(s.x)), c.give("y", in(labels ? s.y : s.paired)), c.give("margin", 0.25);
                     if (labels) c.give("x_labels", in(s.labels.in())), c.give("y_labels", in(s.y_labels.in()));
                     c.upstream(s.half_of.as_scalar());
                   },
                   [&s, labels](const auto& ctx, written<D>& to) {
                     craft::cosine_embedding_options o;
                     o.margin = 0.25, o.upstream = s.half_of.as_scalar();
                     if (labels) o.x_labels = s.labels.in(), o.y_labels = s.y_labels.in();
                     const array<D>& y = labels ? s.y : s.paired;
                     craft::cosine_embedding_gradients<T, D::space> g;
                     g.x = to.gradient("x", n, d), g.y = to.gradient("y", labels ? m : n, d, 1);
                     craft::cosine_embedding(ctx, s.x.in(), y.in(), o, to.value(), g);
                   }});
  all.push_back({"uniformity", "t 3",
                 [&s](rt::call& c) {
                   c.give("x", in(s.x)), c.give("t", 3);
                   c.upstream(s.half_of.as_scalar());
                 },
                 [&s](const auto& ctx, written<D>& to) {
                   craft::uniformity_gradients<T, D::space> g{to.gradient("x", n, d, 1)};
                   craft::uniformity(ctx, s.x.in(), {3, s.half_of.as_scalar()}, to.value(), g);
                 }});
}

template <class D>
void add_relative(calls<D>& all, const samples<D>& s) {
  using T = typename D::compute;
  for (const bool other : {false, true}) {
    craft::relative_options o;
    o.log_scale = other ? craft::scalar(1.5) : s.half_of.as_scalar();
    o.statistics = other ? craft::anchor_statistics::standardise : craft::anchor_statistics::centre;
    if (other) o.normalise = o.statistics_gradient = false, o.max_scale = 3;
    const auto give_options = [&s, other](rt::call& c) {
      c.give("x", in(s.x)), c.give("anchors", in(s.anchors));
      other ? c.give("log_scale", 1.5) : c.give("log_scale", number_in(s.half_of));
      c.give("statistics", other ? "standardise" : "centre");
      if (other) c.give("normalise", false), c.give("statistics_gradient", false), c.give("max_scale", 3);
    };
    for_each_kernel("similarity", [&](const std::string& name, const auto& give_kernel, const auto& kernel) {
      all.push_back({"relative", name, [give_options, give_kernel](rt::call& c) { give_options(c), give_kernel(c); },
                     [&s, kernel, o](const auto& ctx, written<D>& to) {
                       craft::relative(ctx, s.x.in(), s.anchors.in(), kernel, o, to.map("out", n, classes, 2));
                     }});
      all.push_back({"relative_pushforward", name,
                     [&s, give_options, give_kernel, other](rt::call& c) {
                       give_options(c), give_kernel(c);
                       c.give("d_x", in(s.x)), c.give("d_log_scale", 0.5);
                       if (other) c.give("d_anchors", in(s.anchors));
                     },
                     [&s, kernel, o, other](const auto& ctx, written<D>& to) {
                       craft::relative_tangents<typename D::scalar, D::space> t{s.x.in(), {}, 0.5};
                       if (other) t.anchors = s.anchors.in();
                       craft::relative_pushforward(ctx, s.x.in(), s.anchors.in(), kernel, o, t, to.map("d_out", n, classes, 2));
                     }});
      all.push_back({"relative_pullback", name,
                     [&s, give_options, give_kernel](rt::call& c) {
                       give_options(c), give_kernel(c);
                       c.give("dout", in(s.dout));
                     },
                     [&s, kernel, o](const auto& ctx, written<D>& to) {
                       craft::relative_gradients<T, D::space> g;
                       g.x = to.gradient("x", n, d), g.anchors = to.gradient("anchors", classes, d, 1);
                       g.log_scale = to.gradient("log_scale", 1, 1);
                       craft::relative_pullback(ctx, s.x.in(), s.anchors.in(), kernel, o, s.dout.in(), g);
                     }});
    });
  }
}

template <class D>
void add_objective(calls<D>& all, const samples<D>& s) {
  using S = typename D::scalar;
  using T = typename D::compute;
  craft::objective_options o;
  o.text = 1.5, o.image = 0.7, o.batch = 0.25, o.mmd = 2, o.log_scale = 1.2, o.max_scale = 3, o.label_smoothing = 0.1;
  o.direction = craft::direction::symmetric, o.same_class_positives = true, o.upstream = s.half_of.as_scalar();
  auto& between = o.discrepancy;
  between.estimator = craft::estimator::unbiased;
  between.bandwidth = {craft::bandwidth_rule::mean, craft::bandwidth_sample::x, true};
  between.columns = craft::column_scaling::minmax_separate, between.column_gradient = false, between.column_eps = 0.5;
  between.factor = 3, between.offset = 0.25;
  const auto family = craft::kernel_family::laplacian;
  const craft::any_kernel<> kernel({{family, 0.5, 0.5, 0.25}, {family, 1, 2, 0.25}});
  for (int given = 0; given < 8; ++given) {
    const bool texts = given & 1, image_anchors = given & 2, target = given & 4;
    all.push_back({"objective", "with inputs " + std::to_string(given),
                   [&s, texts, image_anchors, target](rt::call& c) {
                     c.give("images", in(s.x)), c.give("class_texts", in(s.anchors)), c.give("targets", in(s.labels.in()));
                     if (texts) c.give("batch_texts", in(s.paired));
                     if (image_anchors) c.give("image_anchors", in(s.more_anchors));
                     if (target) c.give("target_images", in(s.y));
                     c.give("text", 1.5), c.give("image", 0.7), c.give("batch", 0.25), c.give("mmd", 2), c.give("log_scale", 1.2);
                     c.give("max_scale", 3), c.give("label_smoothing", 0.1), c.give("direction", "symmetric");
                     c.give("same_class_positives", true), c.give("estimator", "unbiased"), c.give("bandwidth_rule", "mean");
                     c.give("bandwidth_sample", "x"), c.give("bandwidth_gradient", true), c.give("columns", "minmax_separate");
                     c.give("column_gradient", false), c.give("column_eps", 0.5), c.give("factor", 3), c.give("offset", 0.25);
                     c.give("kernel", "laplacian"), c.give("bandwidths", std::vector<double>{0.5, 2});
                     c.give("weights", std::vector<double>{0.5, 1}), c.give("shape", 0.25), c.give("degree", 3);
                     c.upstream(s.half_of.as_scalar());
                   },
                   [&s, o, kernel, texts, image_anchors, target](const auto& ctx, written<D>& to) {
                     craft::objective_inputs<S, D::space> i;
                     craft::objective_gradients<T, D::space> g;
                     i.images = s.x.in(), i.class_texts = s.anchors.in(), i.targets = s.labels.in();
                     g.images = to.gradient("images", n, d, 1), g.class_texts = to.gradient("class_texts", classes, d);
                     if (texts) i.batch_texts = s.paired.in(), g.batch_texts = to.gradient("batch_texts", n, d);
                     if (image_anchors) i.image_anchors = s.more_anchors.in();
                     if (image_anchors) g.image_anchors = to.gradient("image_anchors", classes, d);
                     if (target) i.target_images = s.y.in(), g.target_images = to.gradient("target_images", m, d, 2);
                     g.log_scale = to.gradient("log_scale", 1, 1);
                     craft::objective(ctx, i, kernel, o, to.values(), g);
                   }});
  }
}

template <class D>
void add_anchors(calls<D>& all, const samples<D>& s) {
  for (const bool normalise : {false, true})
    all.push_back({"class_means", normalise ? "of unit rows" : "of rows",
                   [&s, normalise](rt::call& c) {
                     c.give("x", in(s.x)), c.give("labels", in(s.labels.in())), c.give("classes", classes);
                     c.give("normalise", normalise);
                   },
                   [&s, normalise](const auto& ctx, written<D>& to) {
                     craft::class_means(ctx, s.x.in(), s.labels.in(), {normalise}, to.map("means", classes, d, 1));
                   }});
  craft::kmeans_options o;
  o.seed = 3, o.restarts = 2, o.max_iterations = 7, o.tolerance = 0.125, o.spherical = true;
  const auto give_options = [](rt::call& c) {
    c.give("seed", 3), c.give("restarts", 2), c.give("max_iterations", 7), c.give("tolerance", 0.125), c.give("spherical", true);
  };
  for (const bool start : {false, true})
    all.push_back({"kmeans", start ? "from rows" : "from seeds",
                   [&s, give_options, start](rt::call& c) {
                     c.give("x", in(s.x)), c.give("k", 4);
                     start ? c.give("start", std::vector<index_t>{8, 1, 2, 5}) : give_options(c);
                   },
                   [&s, o, start](const auto& ctx, written<D>& to) {
                     craft::kmeans_options from_rows;
                     from_rows.start = {8, 1, 2, 5};
                     to.found(craft::kmeans(ctx, s.x.in(), start ? from_rows : o, to.map("centres", 4, d)));
                   }});
  all.push_back({"kmeans_per_class", "two each",
                 [&s, give_options](rt::call& c) {
                   c.give("x", in(s.x)), c.give("labels", in(s.labels.in())), c.give("classes", classes), c.give("per_class", 2);
                   give_options(c);
                 },
                 [&s, o](const auto& ctx, written<D>& to) {
                   to.found(craft::kmeans_per_class(ctx, s.x.in(), s.labels.in(), classes, o, to.map("centres", 6, d, 1)));
                 }});
  all.push_back({"medoids", "of anchors", [&s](rt::call& c) { c.give("x", in(s.x)), c.give("centres", in(s.anchors)); },
                 [&s](const auto& ctx, written<D>& to) { to.found("rows", craft::medoids(ctx, s.x.in(), s.anchors.in())); }});
  for (const auto metric : {craft::metric::euclidean, craft::metric::cosine})
    all.push_back({"farthest_point_anchors", "metric " + std::to_string(int(metric)),
                   [&s, metric](rt::call& c) {
                     c.give("x", in(s.x)), c.give("count", 4), c.give("start", 2);
                     c.give("metric", metric == craft::metric::cosine ? "cosine" : "euclidean");
                   },
                   [&s, metric](const auto& ctx, written<D>& to) {
                     to.found("rows", craft::farthest_point_anchors(ctx, s.x.in(), 4, 2, metric));
                   }});
  all.push_back({"random_anchors", "of 9",
                 [](rt::call& c) { c.give("n", 9), c.give("count", 4), c.give("seed", 5), c.give("step", 2); },
                 [](const auto&, written<D>& to) { to.found("rows", craft::random_anchors(9, 4, 5, 2)); }});
  all.push_back({"random_anchors", "none", [](rt::call& c) { c.give("n", 0), c.give("count", 0); },
                 [](const auto&, written<D>& to) { to.found("rows", craft::random_anchors(0, 0, 0, 0)); }});
  all.push_back({"stratified_anchors", "two each",
                 [](rt::call& c) {
                   c.give("labels", in(craft::labels(class_of))), c.give("classes", classes), c.give("per_class", 2);
                   c.give("seed", 5), c.give("step", 1);
                 },
                 [](const auto&, written<D>& to) { to.found("rows", craft::stratified_anchors(class_of, classes, 2, 5, 1)); }});
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("alignment losses by name are those losses", "[runtime][alignment]", every_type) {
  const samples<TestType> s;
  calls<TestType> all;
  add_alignment(all, s);
  check_calls(all);
}
TEMPLATE_LIST_TEST_CASE("relative representations by name are those", "[runtime][relative]", every_type) {
  const samples<TestType> s;
  calls<TestType> all;
  add_relative(all, s);
  check_calls(all);
}
TEMPLATE_LIST_TEST_CASE("the objective by name is the objective, with and without what is optional", "[runtime][objective]",
                        every_type) {
  const samples<TestType> s;
  calls<TestType> all;
  add_objective(all, s);
  check_calls(all);
}
TEMPLATE_LIST_TEST_CASE("anchors by name are those", "[runtime][anchors]", every_type) {
  const samples<TestType> s;
  calls<TestType> all;
  add_anchors(all, s);
  check_calls(all);
}

// A verb, an option, a result or a gradient that is new has to be added to the calls above, else this fails.
TEST_CASE("no verb is left out, and of none anything that it takes or gives", "[runtime]") {
  using D = stored_as<double>;
  const samples<D> s;
  calls<D> all;
  add_discrepancies(all, s);
  add_alignment(all, s);
  add_relative(all, s);
  add_objective(all, s);
  add_anchors(all, s);
  std::map<std::string, std::set<std::string>> arguments, results, gradients;
  for (const both_ways<D>& one : all) {
    rt::call c(one.verb);
    one.give(c);
    for (int i = 0; i < int(c.verb().fields.size()); ++i)
      if (c.given(i)) arguments[one.verb].insert(c.verb().fields[std::size_t(i)].name);
    written<D> to(craft::write::overwrite);
    one.typed(D::make(), to);
    results[one.verb].merge(to.results());
    gradients[one.verb].merge(to.gradients());
  }
  gradients["mmd"].insert("shape");  // "gradients by bandwidths and shape are split and summed"
  for (const rt::verb& v : rt::verbs()) {
    INFO(v.name);
    std::set<std::string> fields, all_results, all_gradients;
    for (const rt::field& f : v.fields) fields.insert(f.name);
    for (const rt::result& r : v.results) all_results.insert(r.name);
    for (const int g : v.gradients) all_gradients.insert(v.fields[std::size_t(g)].name);
    CHECK(arguments[v.name] == fields);
    CHECK(results[v.name] == all_results);
    CHECK(gradients[v.name] == all_gradients);
  }
}
