// What every verb writes on the GPU: something, a NaN where its inputs have one, no more than it was asked for, and the same
// bits on every run.
#include <cmath>
#include <map>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "craft/craft.hpp"
#include "cuda_objects.hpp"
#include "devices.hpp"
#include "every_device_verb.hpp"
#include "mmd_runs.hpp"
#include "rejects.hpp"
#include "relative_runs.hpp"

using namespace craft_test;

TEMPLATE_LIST_TEST_CASE("every verb on the list writes something, and other inputs give other results", "[cuda]",
                        devices) {
  every_device_verb<TestType> all;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      all.set(0);
      all.reset();
      const std::string before = all.bits(), first = all.bits_of(verb, ctx);
      for (const auto& [name, numbers] : all.results()) {
        INFO(name);
        CHECK(numbers.allFinite());
      }
      all.set(1);
      const std::string second = all.bits_of(verb, ctx);
      CHECK((first != before));
      CHECK((second != first));
    }
  }
}

// What is not a number must not come out as one, let alone as a loss of 0 (a maximum of it and 0 is neither).
TEMPLATE_LIST_TEST_CASE("a NaN among the inputs shows in what every verb gives", "[cuda]", devices) {
  every_device_verb<TestType> all;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const auto& verb : all.verbs) {
      INFO(verb.name << ", " << name_of(w));
      all.set(0);
      const std::string want = all.bits_of(verb, ctx);
      all.spoil();
      all.reset();
      verb.run(ctx);
      bool any = false;
      for (const auto& [name, numbers] : all.results()) {
        const bool written = !(numbers.array() == sentinel).all(), nan = numbers.array().isNaN().any();
        any = any || nan;
        INFO(name);
        if (written && (name == "value" || name == "terms" || name == "out")) CHECK(nan);
      }
      CHECK(any == (verb.name != "gather_pullback"));  // which does not read x
      all.set(0);
      CHECK((all.bits_of(verb, ctx) == want));
    }
  }
}

// A kernel whose distance is kept from 0 takes a maximum of its own.
TEST_CASE("a NaN among the inputs shows through a floor under the distance", "[cuda]") {
  using D = device<cuda_backend, double>;
  const reals X = with(random_reals(9, 3, 1), 2, 1, not_a_number), Y = random_reals(7, 3, 2);
  const craft::laplacian<double> kernel(1.5);
  craft::relative_options plain;
  plain.normalise = false;
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (const form f : all_forms) {
      INFO(name_of(w) << ", " << name_of(f));
      const auto got = run_mmd<D>(ctx, X, Y, kernel, options_of(f));
      CHECK(std::isnan(got.value));
      CHECK(got.x.array().isNaN().any());
    }
    CHECK(run_map<D>(ctx, X, Y, kernel, plain).row(2).array().isNaN().all());
  }
}

// ---------------------------------------------------------------------------------------------------------
// The same bits

TEMPLATE_LIST_TEST_CASE("every verb gives the same bits on every run", "[cuda][determinism][long]", devices) {
  every_device_verb<TestType> all;
#ifdef CRAFT_EMULATED_CUDA
  const order_keeper keeper;
#endif
  for (const auto p : {craft::precision::strict, craft::precision::tf32})
    for (const way w : ways) {
      if (p != craft::precision::strict && std::is_same_v<typename TestType::scalar, double>) continue;
      const auto fresh = [&] {
        craft::cuda ctx = make(w);
        ctx.precision(p);
        return ctx;
      };
      const craft::cuda kept = fresh();
      for (const auto& verb : all.verbs) {
        INFO(verb.name << ", " << name_of(w) << ", precision " << int(p));
        const std::string want = all.bits_of(verb, kept);
        CHECK((all.bits_of(verb, kept) == want));
#ifdef CRAFT_EMULATED_CUDA
        for (const auto order : {simt::order::forward, simt::order::reverse, simt::order::shuffled}) {
          simt::set_order(order, 7);
          CHECK((all.bits_of(verb, fresh()) == want));
        }
#else
        CHECK((all.bits_of(verb, fresh()) == want));
#endif
      }
    }
}

TEMPLATE_LIST_TEST_CASE("the tiles' size and fused sweeps change only the last digits", "[cuda][determinism][long]",
                        devices) {
  using D = TestType;
  every_device_verb<D> all;
  const std::pair<index_t, index_t> sizes[] = {{16, 24}, {20, 27}, {64, 5}, {7, 50}, {1, 3}};
  craft::cuda whole = make(way::tiles);
  whole.tile(0);
  for (const auto& verb : all.verbs) {
    all.reset();
    verb.run(whole);
    const auto want = all.results();
    const auto compare = [&] {
      const auto got = all.results();
      for (std::size_t k = 0; k < want.size(); ++k) {
        INFO(want[k].first);
        // Sums of up to 47 terms of either sign in another order; the parameters' gradients by the widest bandwidth and
        // the discrepancy itself cancel to a tenth of their terms.
        const reals difference = got[k].second - want[k].second;
        CHECK(difference.norm() <= 200 * roundoff<typename D::scalar> * (1 + want[k].second.norm()));
      }
    };
    for (const auto& [rows, columns] : sizes) {
      if (rows == 1 && &verb != &named(all, "mmd, biased") && &verb != &named(all, "info_nce, labels"))
        continue;  // slow
      INFO(verb.name << ", tiles of " << rows << " x " << columns);
      craft::cuda ctx = make(way::tiles);
      ctx.tile(rows, columns);
      all.reset();
      verb.run(ctx);
      compare();
    }
    for (const index_t longest : {index_t(5), index_t(6), index_t(1000)}) {
      INFO(verb.name << ", fused up to " << longest);
      craft::cuda ctx = make(way::tiles);
      ctx.tile(0).fused(longest);
      all.reset();
      verb.run(ctx);
      compare();
    }
  }
}

TEMPLATE_LIST_TEST_CASE("two contexts on two streams from two host threads give the bits of one", "[cuda][threads]",
                        devices) {
  using all_verbs = every_device_verb<TestType>;
  const auto run_all = [](all_verbs& all, const craft::cuda& ctx) {
    std::vector<std::string> bits;
    for (const auto& verb : all.verbs) bits.push_back(all.bits_of(verb, ctx));
    return bits;
  };
  all_verbs all[2];
  all[1].set(1);
  std::vector<std::string> want[2], got[2];
  for (int t = 0; t < 2; ++t) want[t] = run_all(all[t], make(ways[t]));
  const stream_owner streams[2];
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      const craft::cuda ctx = make(ways[t], streams[t]);
      for (int time = 0; time < 2; ++time) got[t] = run_all(all[t], ctx);
    });
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 2; ++t)
    for (std::size_t k = 0; k < want[t].size(); ++k) {
      INFO(all[t].verbs[k].name << " on thread " << t);
      CHECK((got[t][k] == want[t][k]));
    }
}

// ---------------------------------------------------------------------------------------------------------
// Which gradients are asked for

TEMPLATE_LIST_TEST_CASE("the value does not depend on which gradients are asked for, and others stay",
                        "[cuda][outputs]", devices) {
  using D = TestType;
  using S = typename D::scalar;
  using T = typename D::compute;
  const index_t n = 19, d = 5;
  const array<D> x(random_reals(n, d, 111)), y(random_reals(n, d, 112)), u(random_reals(n, n, 113));
  const craft::gaussians<double> kernel{1.0, 2.0, 5.0};
  for (const way w : ways) {
    const craft::cuda ctx = make(w);
    for (int loss = 0; loss < 4; ++loss) {
      std::string value_bits;
      std::map<std::string, std::string> seen;  // of each gradient, alone or with others
      for (int mask = 0; mask < 16; ++mask) {
        INFO("loss " << loss << ", " << name_of(w) << ", gradients " << mask);
        array<D> dx(n, d, sentinel), dy(n, d, sentinel);
        array<D, T> ds(1, 1, sentinel), other(1, 1, sentinel), weights(1, 3, sentinel), bandwidths(1, 3, sentinel),
            value(1, 1);
        const auto gradient = [&](int bit, auto& to) {
          auto o = craft::overwrite(to.out());
          if (!(mask >> bit & 1)) o = {};
          return o;
        };
        if (loss == 0) {
          craft::mmd_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, weights),
                                              gradient(3, bandwidths)};
          craft::mmd(ctx, x.in(), y.in(), kernel, craft::mmd_options{}, value.as_value(), g);
        } else if (loss == 3) {
          craft::relative_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, ds)};
          craft::relative_pullback(ctx, x.in(), y.in(), craft::dot_product<>(), craft::relative_options{}, u.in(), g);
        } else {
          craft::alignment_gradients<S, D::space> g{gradient(0, dx), gradient(1, dy), gradient(2, ds),
                                                    gradient(3, other)};
          craft::contrastive_options nce;
          nce.log_scale = 1.5;
          craft::sigmoid_options sig;
          sig.log_scale = 1.5;
          sig.bias = -1.0;
          if (loss == 1) craft::info_nce(ctx, x.in(), y.in(), nce, value.as_value(), g);
          if (loss == 2) craft::sigmoid_contrastive(ctx, x.in(), y.in(), sig, value.as_value(), g);
        }
        if (loss != 3) {
          if (value_bits.empty()) value_bits = value.bits();
          CHECK(std::isfinite(value.number()));
          CHECK((value.bits() == value_bits));
        }
        const auto check = [&](const char* name, int bit, auto& to) {
          INFO(name);
          const reals untouched = reals::Constant(to.get().rows(), to.get().cols(), sentinel);
          if (!(mask >> bit & 1)) {
            CHECK(to.get() == untouched);
          } else {
            CHECK(to.get().allFinite());
            CHECK(to.get() != untouched);
            auto [first, fresh] = seen.emplace(name, to.bits());
            // Sums of a matrix and of its transpose may be taken in another order where only one of them is wanted.
            if (!fresh) {
              array<D, std::decay_t<decltype(*to.out().data())>> kept(to.get().rows(), to.get().cols());
              std::string bytes = first->second;
              D::backend::upload(kept.out().data(), bytes.data(), bytes.size());
              CHECK((kept.get() - to.get()).norm() <= 64 * roundoff<S> * (kept.get().norm() + 1e-3));
            }
          }
        };
        check("x", 0, dx);
        check("y", 1, dy);
        if (loss == 0) {
          check("weights", 2, weights);
          check("bandwidths", 3, bandwidths);
        } else {
          check("log_scale", 2, ds);
          if (loss != 3) check("bias", 3, other);
        }
      }
    }
  }
}
