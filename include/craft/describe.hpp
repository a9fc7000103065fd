// How a verb describes itself to programs that learn what to call when they run: PyTorch, JAX, Python.
//
// Beside each verb stands a struct of its name in craft::verbs, whose member `call` goes through inputs, options, results and
// gradients by name, and then calls the verb:
//
//     struct info_nce {
//       static constexpr const char* name = "info_nce";
//       static constexpr const char* module = "InfoNCELoss";   // of PyTorch; "" for what is no loss
//       static constexpr const char* text = "What it computes: the first line for lists, then formulas and cost.";
//       template <class Call>
//       static void call(Call& c) {
//         const auto x = c.matrix("x", "n d", "a sample per row"), y = c.matrix("y", "m d", "the other modality");
//         contrastive_options o;
//         o.fields(c);
//         alignment_gradients<typename Call::T, Call::space> g;
//         c.gradient("x", g.x);
//         const auto value = c.value("the loss");
//         c.run([&](const auto& ctx) { craft::info_nce(ctx, x, y, o, value, g); });
//       }
//     };
//
// A map, whose result has no gradients yet, names the verbs that its derivatives come from: `pullback`, which has the map's arguments
// and, as a computed_matrix, the gradient by its result; and `pushforward`, which has the map's arguments and their tangents, by the
// names of what they belong to with "d_" before them.
//
// It is gone through once to be written down, when Call gives empty inputs, keeps names, kinds, defaults and texts, and runs
// nothing; and then in each call, when Call gives what the host has given (craft/adapters/runtime.hpp). All adapters are loops
// over what was written down, so that a name, a default or a text stands here and nowhere else. A Call has
//
//     matrix(name, shape, text)               rows of numbers, of the type of the first
//     optional_matrix(name, shape, text)      one that may be missing: empty
//     computed_matrix(name, shape, text)      rows of numbers of the computing type, Call::T
//     targets(name, shape, text)              n labels, or n x C shares of the computing type: for `run`
//     required_labels(name, shape, text)      one integer per row
//     kernel(name, family, text)              a pair function by its family's name, bandwidths, weights and shape: for `run`
//     count(name, text)                       an integer that has no default
//     choice(name, option, text)              an enumeration that has no default
//     operator()(name, option, text)          an option: double, integer, bool, an enumeration, scalar, row numbers;
//     operator()(name, option, shape, text)   numbers or labels, of which there are as many as `shape` says
//     scale(log_scale, max_scale, text)       the two options of a scale that may be learned up to a bound (alignment.hpp)
//     upstream(option)                        what gradients are multiplied by; hosts that differentiate leave it alone
//     gradient(name, output)                  the gradient by the input or option of that name
//     kernel_gradients(kernel, weights, bandwidths)
//     value(text)                             the place of the value: a result, as all that follow
//     values<V>({names}, text)                the place of several; the last is the one that has gradients
//     map(name, shape, text)                  a matrix of the computing type
//     run(f)                                  calls f(context)
//     run(f, kernel or targets)               calls f(context, pair function), or f(context, labels or matrix)
//     with_kernel(k, f)                       within f of `run`: calls f(k, as one of the types that `kernel` gives)
//     indices(name, shape, rows, text)        what f has found: row numbers, one number, a whole number
//     found(name, number, text)
//
// A shape names sizes: "n d" is n rows of d numbers. A name stands for one size in all of a call; that of an integer option is its
// value, and "classes*per_class" the product.
#pragma once

#include <array>

namespace craft {

/// Verbs, as types: their descriptions.
template <class... V>
struct verb_list {};

}  // namespace craft
