// workspace_bytes: how much scratch memory a call needs, from a rehearsal that calls nothing.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"
#include "pair_losses.hpp"

using namespace craft_test;

TEMPLATE_LIST_TEST_CASE("workspace_bytes is what a call needs, to the last line", "[cuda][workspace]", devices) {
  every_device_verb<TestType> all;
  const stream_owner stream;
  const auto& smaller = named(all, "class_means");
  for (const way w : ways) {
    const craft::cuda direct = make(w);
    const std::string smaller_want = all.bits_of(smaller, direct);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      const std::string want = all.bits_of(verb, direct);
      craft::cuda ctx = make(w, stream);
      all.reset();
      const std::string untouched = all.bits();
#ifdef CRAFT_EMULATED_CUDA
      const auto launches = simt::launches(), products = simt::products(), calls = simt::calls();
      const auto live = simt::live_bytes();
      simt::reset_peak();
#endif
      const std::size_t bytes = ctx.workspace_bytes([&](const craft::cuda& r) {
        CHECK(r.rehearses());
        verb.run(r);
      });
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::launches() == launches);
      CHECK(simt::products() == products);
      CHECK(simt::calls() == calls);  // the runtime is not even asked
      CHECK(simt::peak_bytes() == live);
#endif
      CHECK((all.bits() == untouched));
      CHECK_FALSE(ctx.rehearses());
      CHECK(ctx.scratch().bytes_held() == 0);

      const buffer exact(bytes), one_line_less(bytes - 64);
      ctx.memory(exact.get(), bytes);
#ifdef CRAFT_EMULATED_CUDA
      simt::reset_peak();
#endif
      CHECK((all.bits_of(verb, ctx) == want));
      CHECK((all.bits_of(verb, ctx) == want));
      CHECK(ctx.scratch().bytes_used() == bytes);

      ctx.memory(one_line_less.get(), bytes - 64);
      all.reset();
      CHECK_THROWS_AS(verb.run(ctx), craft::device_error);
      CHECK_THROWS_WITH(verb.run(ctx), contains(std::to_string(bytes - 64)) && contains("workspace_bytes"));
      CHECK((all.bits() == untouched));
      if (verb.name.find("mmd") == 0) CHECK((all.bits_of(smaller, ctx) == smaller_want));  // which is served
      ctx.memory(exact.get(), bytes);
      CHECK((all.bits_of(verb, ctx) == want));
#ifdef CRAFT_EMULATED_CUDA
      CHECK(simt::peak_bytes() == simt::live_bytes());
#endif
    }
  }
}

// Copies on the host's side, and what the context looks at first, need scratch memory too.
TEMPLATE_LIST_TEST_CASE("workspace_bytes counts what checks need and what comes from the host", "[cuda][workspace]",
                        devices) {
  using D = TestType;
  using T = typename D::compute;
  const index_t n = 40, c = 4, d = 3;
  const array<D> x(random_reals(n, d, 1)), a(random_reals(c, d, 2)), y(random_reals(n, d, 3));
  const std::vector<index_t> labels = labels_for(n, c, 3);
  const std::vector<double> weights = some_weights<D>(n);
  const label_array<D> on_device(labels);
  const array<D, T> device_weights(weights);
  array<D, T> value(1, 1);
  array<D> means(c, d);
  const craft::gaussians<double> kernel{1.0, 2.0};
  for (const bool host : {true, false})
    for (const bool check_labels : {false, true})
      for (const bool check_finite : {false, true}) {
        INFO((host ? "host" : "device") << (check_labels ? ", labels checked" : "")
                                        << (check_finite ? ", numbers checked" : ""));
        const craft::labels y_in = host ? craft::labels(labels) : on_device.in();
        const craft::numbers w_in = host ? craft::numbers(weights) : device_weights.as_numbers();
        std::vector<std::pair<std::string, std::function<void(const craft::cuda&)>>> calls;
        calls.emplace_back("anchor_cross_entropy", [&](const craft::cuda& ctx) {
          craft::cross_entropy_options o;
          o.weights = w_in;
          craft::anchor_cross_entropy(ctx, x.in(), a.in(), y_in, o, value.as_value());
        });
        calls.emplace_back("class_means", [&](const craft::cuda& ctx) {
          craft::class_means(ctx, x.in(), y_in, craft::class_means_options{}, means.out());
        });
        calls.emplace_back("mmd", [&](const craft::cuda& ctx) {
          craft::mmd_options o;
          o.estimator = craft::estimator::unbiased;
          o.x_weights = o.y_weights = w_in;
          craft::mmd(ctx, x.in(), y.in(), kernel, o, value.as_value());
        });
        for (const auto& [name, call] : calls) {
          INFO(name);
          craft::cuda ctx = make(way::tiles);
          ctx.check_labels(check_labels).check_finite(check_finite);
          const std::size_t bytes = ctx.workspace_bytes(call);
          const buffer exact(bytes);
          ctx.memory(exact.get(), bytes);
          CHECK_NOTHROW(call(ctx));
          CHECK(ctx.scratch().bytes_used() == bytes);
        }
      }
}

// These look at numbers on the way, of which a rehearsal has none.
TEMPLATE_LIST_TEST_CASE("workspace_bytes of verbs that return something to the host", "[cuda][workspace]", devices) {
  using D = TestType;
  const index_t n = 30, m = 25, c = 4, d = 3;
  const array<D> x(random_reals(n, d, 1)), y(random_reals(m, d, 2)), few(random_reals(c, d, 3));
  const std::vector<index_t> labels = labels_for(n, c, 3);
  const label_array<D> on_device(labels);
  array<D> centres(c, d), per_class(2 * c, d);
  double number = 0;
  std::vector<index_t> chosen;
  craft::kmeans_result clusters;
  craft::kmeans_options plain, spherical;
  plain.restarts = spherical.restarts = 2;
  spherical.spherical = true;

  std::vector<std::pair<std::string, std::function<void(const craft::cuda&)>>> calls;
  for (const auto rule :
       {craft::bandwidth_rule::mean, craft::bandwidth_rule::median, craft::bandwidth_rule::median_mid})
    calls.emplace_back("bandwidth_scale by rule " + std::to_string(int(rule)), [&, rule](const craft::cuda& ctx) {
      number = craft::bandwidth_scale(ctx, x.in(), y.in(), {rule, craft::bandwidth_sample::pooled});
    });
  calls.emplace_back("kmeans",
                     [&](const craft::cuda& ctx) { clusters = craft::kmeans(ctx, x.in(), plain, centres.out()); });
  calls.emplace_back("kmeans, spherical",
                     [&](const craft::cuda& ctx) { clusters = craft::kmeans(ctx, x.in(), spherical, centres.out()); });
  calls.emplace_back("kmeans_per_class", [&](const craft::cuda& ctx) {
    clusters = craft::kmeans_per_class(ctx, x.in(), labels, c, plain, per_class.out());
  });
  calls.emplace_back("kmeans_per_class, labels in device memory", [&](const craft::cuda& ctx) {
    clusters = craft::kmeans_per_class(ctx, x.in(), on_device.in(), c, plain, per_class.out());
  });
  calls.emplace_back("medoids", [&](const craft::cuda& ctx) { chosen = craft::medoids(ctx, x.in(), few.in()); });
  calls.emplace_back("farthest_point_anchors",
                     [&](const craft::cuda& ctx) { chosen = craft::farthest_point_anchors(ctx, x.in(), 7); });
  const auto forget = [&] {
    number = 0;
    chosen.clear();
    clusters = {};
    centres.set(reals::Constant(c, d, sentinel));
    per_class.set(reals::Constant(2 * c, d, sentinel));
  };
  const auto read = [&] {
    std::string all = centres.bits() + per_class.bits();
    all.append(reinterpret_cast<const char*>(&number), sizeof number);
    for (const index_t i : chosen) all += std::to_string(i) + " ";
    for (const index_t i : clusters.assignment) all += std::to_string(i) + " ";
    all.append(reinterpret_cast<const char*>(&clusters.inertia), sizeof clusters.inertia);
    return all + std::to_string(clusters.iterations);
  };
  for (const auto& [name, call] : calls) {
    INFO(name);
    forget();
    const std::string nothing = read();
    call(make(way::tiles));
    const std::string want = read();
    CHECK((want != nothing));
    craft::cuda ctx = make(way::tiles);
    forget();
#ifdef CRAFT_EMULATED_CUDA
    const auto calls_before = simt::calls();
#endif
    // Classes of unknown sizes need nobody knows how much.
    if (name == "kmeans_per_class, labels in device memory") {
      CHECK_THROWS_AS(ctx.workspace_bytes(call), craft::option_error);
      continue;
    }
    std::size_t bytes = 0;
    CHECK_NOTHROW(bytes = ctx.workspace_bytes(call));
    if (bytes == 0) continue;  // reported above
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::calls() == calls_before);
    const auto waits = simt::synchronisations();
#endif
    const std::string matrices = centres.bits() + per_class.bits();
    forget();
    CHECK((matrices == centres.bits() + per_class.bits()));
    const buffer exact(bytes);
    ctx.memory(exact.get(), bytes);
    CHECK_NOTHROW(call(ctx));
    CHECK((read() == want));
    CHECK(ctx.scratch().bytes_used() == bytes);
#ifdef CRAFT_EMULATED_CUDA
    CHECK(simt::synchronisations() > waits);  // these do wait
    const order_keeper keeper;
    for (const auto order : {simt::order::reverse, simt::order::shuffled}) {
      simt::set_order(order, 11);
      forget();
      call(ctx);
      CHECK((read() == want));
    }
#endif
  }
}

TEST_CASE("an error in a rehearsal is the call's error, and the context goes on", "[cuda][workspace][errors]") {
  using D = device<cuda_backend, float>;
  every_device_verb<D> all;
  const auto& verb = named(all, "mmd, biased");
  const craft::cuda ctx = make(way::tiles);
  const std::string want = all.bits_of(verb, ctx);
  const array<D> x(random_reals(4, 3, 1)), y(random_reals(4, 2, 2));
  array<D> value(1, 1, sentinel);
  CHECK_THROWS_AS(ctx.workspace_bytes([&](const craft::cuda& r) {
    craft::info_nce(r, x.in(), y.in(), craft::contrastive_options{}, value.as_value());
  }),
                  craft::shape_error);
  CHECK(value.number() == sentinel);
  CHECK((all.bits_of(verb, ctx) == want));
}
