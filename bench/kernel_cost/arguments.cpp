// What kernel_cost runs the machine code of kernels with: for every kernel that looks at each pair, the bytes of its
// arguments as a launch would hand them over, laid out by the compiler from the engine's own types. It prints JSON.
//
// The work is the usual one: a panel away from the diagonal of 2048 x 4096, rows that are not near, no missing rows, five
// Gaussians in a doubling series, value and gradients. Memory is not there: a pointer is the number of a region, all of
// whose elements are the same number.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "craft/cuda.cuh"
#include "craft/kernels.hpp"

namespace {

using namespace craft::engine;
using craft::index_t;

constexpr index_t rows_of_z = 32768, columns_of_z = 512, panel_rows = 2048, panel_columns = 4096;

std::string hex(const void* data, std::size_t size) {
  std::string text;
  char two[3];
  for (std::size_t b = 0; b < size; ++b) {
    std::snprintf(two, sizeof two, "%02x", static_cast<const unsigned char*>(data)[b]);
    text += two;
  }
  return text;
}

std::vector<std::string> regions;
/// An array of any length, every element of which is `value`.
template <class T>
T* array(T value) {
  regions.push_back(hex(&value, sizeof value));
  return reinterpret_cast<T*>(std::uintptr_t(regions.size()) << 36);
}

template <class T>
std::string name() {
  int status = 0;
  char* text = abi::__cxa_demangle(typeid(T).name(), nullptr, nullptr, &status);
  const std::string out = text;
  std::free(text);
  return out;
}

/// One after the other, each at its own alignment, as kernels take them.
template <class... A>
std::string packed(const A&... arguments) {
  std::vector<unsigned char> bytes;
  const auto add = [&](const auto& argument) {
    using argument_type = std::decay_t<decltype(argument)>;
    static_assert(std::is_trivially_copyable_v<argument_type>);
    constexpr std::size_t align = alignof(argument_type);
    const std::size_t at = (bytes.size() + align - 1) / align * align;
    bytes.resize(at + sizeof argument);
    std::memcpy(bytes.data() + at, &argument, sizeof argument);
  };
  (add(arguments), ...);
  return hex(bytes.data(), bytes.size());
}

struct run {
  int pairs;  ///< that one thread looks at
  std::string arguments;
};
struct kernel {
  std::string name;  ///< as it is demangled; template arguments may follow
  std::string precision;     ///< of the products, where the kernel asks for it when it runs
  index_t grid[2];
  index_t block_down;  ///< which of the grid's rows of blocks is looked at
  std::size_t shared_bytes;  ///< dynamic
  double bytes;              ///< of memory beyond the multiprocessor for each pair
  double products;           ///< multiply-adds of a pair's products, if the kernel makes them
  std::vector<run> runs;     ///< two: what the second takes more is counted
};
std::vector<kernel> kernels;

template <class T>
panel<T> some_panel(index_t nj = panel_columns) {
  return {array(T(0.25)), nj, 0, panel_rows, panel_columns, nj};
}
template <class T>
rows<T> some_rows(index_t d = columns_of_z) {
  return {array(T(0)), rows_of_z, d, array(T(1))};
}

// ---- pair functions

template <class T>
craft::gaussians<T> five() {
  return craft::gaussians<double>{0.5, std::sqrt(0.5), 1, std::sqrt(2.0), 2}.as<T>();
}
template <class T>
using four_multiquadrics =
    craft::kernel_sum<craft::kernel_sum<craft::kernel_sum<craft::inverse_multiquadric<T>, craft::inverse_multiquadric<T>>,
                                        craft::inverse_multiquadric<T>>,
                      craft::inverse_multiquadric<T>>;
template <class T>
four_multiquadrics<T> four() {
  const craft::inverse_multiquadric<T> one(1);
  return {{{one, one}, one}, one};
}
template <class T>
craft::any_kernel<T> any() {
  std::vector<typename craft::any_kernel<T>::member> members(5);  // five Gaussians
  return craft::any_kernel<T>(members);
}

// ---- kernels

/// What rounds the factors of products, and what that is called.
const std::pair<float, const char*> precisions[] = {{1, ""}, {8193, "TF32, bfloat16"}};

/// Where precisions differ: sums of rows and columns follow the rounded weights, which for a function of the distance they do anyway.
template <class T, class Element>
void add_panel(const Element& element, double bytes, bool differ = false) {
  for (const auto& [split, precision] : precisions) {
    if (split > 1 && !differ) continue;
    panel<T> p = some_panel<T>();
    p.split = split;
    const panel_sums<T> sums{array(0.0), array(T(0)), array(T(0))};
    kernels.push_back({"panel_kernel<" + name<T>() + ", " + name<Element>(), precision,
                       {panel_columns / columns_per_block, panel_rows / rows_per_block}, 1, panel_shared_bytes<T>,
                       bytes, 0, {{rows_per_warp * quads_per_lane * 4, packed(p, element, sums)}}});
  }
}
template <class T, class Element, int D>
void add_fused(const Element& element) {
  const double bytes = double(D * sizeof(T)) / fused_rows;  // every block reads all the other rows
  const auto runs = [&](float split) {
    std::vector<run> two;
    for (const int tiles : {1, 2}) {
      const fused_sweep<T> f{array(T(0)),  rows_of_z, array(T(0)), rows_of_z,  D,
                             tiles,        true,      split,       array(0.0), array(0.0), array(T(0))};
      two.push_back({tiles * fused_rows * fused_columns / block_threads, packed(f, element)});
    }
    return two;
  };
  const index_t blocks = rows_of_z / fused_rows;
  if constexpr (sizeof(T) == 4 || D <= 64)
    kernels.push_back({"fused_kernel<" + name<T>() + ", " + name<Element>() + ", " + std::to_string(D), "",
                       {blocks, 2}, 0, sizeof(fused_memory<T, D>), bytes, 2.0 * D, runs(1)});
  if constexpr (std::is_same_v<T, float>)
    kernels.push_back({"tensor_kernel<" + name<Element>() + ", " + std::to_string(D), "", {blocks, 2}, 0, sizeof(tensor_memory<D>),
                       bytes, 2.0 * D, runs(precisions[1].first)});
}

template <class T, class K>
void add_quadratic(const K& k) {
  form_weights<T, device_number> weights;
  weights.per_row = array(T(1) / 16384);
  const auto element = [&](index_t d, index_t square_end) {
    return quadratic_element<T, K>{k, some_rows<T>(d), near_pairs<T>(d), weights, 16384, square_end, false, true};
  };
  const auto wide = element(columns_of_z, panel_rows);
  add_panel<T>(wide, 2 * sizeof(T), sizeof(T) == 4 && !K::translation_invariant);
  add_fused<T, quadratic_element<T, K>, 16>(element(16, rows_of_z));
  add_fused<T, quadratic_element<T, K>, 32>(element(32, rows_of_z));
  add_fused<T, quadratic_element<T, K>, 64>(element(64, rows_of_z));
  add_fused<T, quadratic_element<T, K>, 128>(element(128, rows_of_z));
  const int count = k.weights() + k.bandwidths();
  std::vector<run> runs;
  for (const index_t nj : {256, 512})
    runs.push_back({int(rows_per_block * nj / block_threads), packed(some_panel<T>(nj), wide, count, array(0.0))});
  kernels.push_back({"parameters_kernel<" + name<T>() + ", " + name<quadratic_element<T, K>>(), "",
                     {panel_rows / rows_per_block, (count + parameters_at_once - 1) / parameters_at_once}, 0,
                     block_warps * sizeof(double), sizeof(T), 0, runs});
}
template <class T, class S, class K>
void add_map(const K& k) {
  const auto x = some_rows<T>(), y = some_rows<T>();
  add_panel<T>(map_element<T, K, S>{k, x, y, near_pairs<T>(x.d), 1.0, array(S(0)), panel_columns}, sizeof(T) + sizeof(S));
}
template <class T, class S, class K>
void add_map_pullback(const K& k) {
  const auto x = some_rows<T>(), y = some_rows<T>();
  add_panel<T>(map_pullback_element<T, K, S>{k, x, y, near_pairs<T>(x.d), 1.0, array(S(1)), panel_columns},
               (is_linear<K>::value ? 1 : 2) * sizeof(T) + sizeof(S),
               sizeof(T) == 4 && !K::translation_invariant && !is_linear<K>::value);
}
template <class T, class K>
void add_similarities(const K& k) {
  add_map<T, T>(k);
  add_map_pullback<T, T>(k);
  if constexpr (std::is_same_v<T, float>) {
    add_map<T, __half>(k);
    add_map_pullback<T, __half>(k);
    add_map<T, __nv_bfloat16>(k);
    add_map_pullback<T, __nv_bfloat16>(k);
  }
}

template <class T>
void add_pair_function_independent() {
  // A softmax both ways, ids that differ.
  const auto direction = [](index_t id, index_t other) {
    softmax<T, index_t> s;
    s.n = rows_of_z;
    s.id = array(id);
    s.other_id = array(other);
    s.hit = s.weight = s.mass = array(T(1));
    s.lse = s.sum = s.target_dot = array(T(1));
    return s;
  };
  const auto by_row = direction(3, 5), by_col = direction(5, 3);
  add_panel<T>(softmax_pullback_element<T>{by_row, by_col, true}, 2 * sizeof(T));
  add_panel<T>(sigmoid_element<T>{array(index_t(3)), array(index_t(5)), 0.0, T(1), true}, 2 * sizeof(T));
  const lse_parts<T> parts{array(lse_part<T>{}), array(lse_part<T>{})};
  kernels.push_back({"log_sum_exp_kernel<" + name<T>(), "",
                     {panel_columns / columns_per_block, panel_rows / rows_per_block}, 1, lse_shared_bytes<T>, sizeof(T), 0,
                     {{rows_per_warp * quads_per_lane * 4, packed(some_panel<T>(), by_row, by_col, true, parts)}}});

  // A warp goes through the columns of its row.
  const auto x = some_rows<T>();
  std::vector<run> runs;
  for (const index_t nj : {panel_columns, 2 * panel_columns})
    runs.push_back({int(nj / warp_lanes),
                    packed(index_t(panel_rows), nearest_step<T>{some_panel<T>(nj), x, x, near_pairs<T>(x.d), array(T(9)),
                                                                array(index_t(0))})});
  kernels.push_back({"row_kernel<" + name<nearest_step<T>>(), "", {panel_rows / block_warps, 1}, 0, 0, sizeof(T), 0, runs});

  // Blocks go through a panel all together; the first digit of every distance.
  const index_t blocks = 8 * 132;
  runs.clear();
  for (const int each : {8, 16}) {
    panel<T> p = some_panel<T>();
    p.ni = blocks * block_threads * each / p.nj;
    runs.push_back({each, packed(p, x, int(sizeof(T)) * 8 - rank_digit, rank_digit, array(rank_state{0, 0}),
                                 array(0ull))});
  }
  kernels.push_back({"rank_digit_kernel<" + name<T>(), "", {blocks, 1}, 0, rank_bins * sizeof(unsigned), sizeof(T), 0, runs});
  kernels.push_back({"each_kernel<" + name<ranked_pair_step<T>>(), "", {panel_rows * panel_columns / block_threads, 1}, 0, 0,
                     sizeof(T), 0,
                     {{1, packed(index_t(panel_rows * panel_columns),
                                 ranked_pair_step<T>{some_panel<T>(), x, array(rank_state{0, 0}), array(lowest_index(0))})}}});
}

template <class T>
void add_all() {
  add_pair_function_independent<T>();
  const auto pair_function = [](const auto& k) {
    add_quadratic<T>(k);
    add_similarities<T>(k);
  };
  pair_function(craft::gaussian<T>(1));
  pair_function(craft::laplacian<T>(1));
  pair_function(craft::inverse_multiquadric<T>(1));
  pair_function(craft::rational_quadratic<T>(1, 1));
  pair_function(craft::negative_distance<T>());
  pair_function(craft::dot_product<T>());
  pair_function(craft::cosine<T>());
  pair_function(five<T>());
  pair_function(any<T>());
  add_quadratic<T>(four<T>());
  add_map<T, T>(four<T>());
}

}  // namespace

int main() {
  add_all<float>();
  add_all<double>();
  std::printf("{\"threads\": %d,\n\"regions\": [", block_threads);
  for (std::size_t r = 0; r < regions.size(); ++r) std::printf("%s\"%s\"", r ? ", " : "", regions[r].c_str());
  std::printf("],\n\"kernels\": [");
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    const kernel& one = kernels[k];
    std::printf("%s\n{\"name\": \"%s\", \"precision\": \"%s\", \"grid\": [%ld, %ld], \"block_down\": %ld, \"shared\": %zu, \"bytes\": %g, "
                "\"products\": %g, \"runs\": [",
                k ? "," : "", one.name.c_str(), one.precision.c_str(), long(one.grid[0]), long(one.grid[1]), long(one.block_down), one.shared_bytes,
                one.bytes, one.products);
    for (std::size_t r = 0; r < one.runs.size(); ++r)
      std::printf("%s[%d, \"%s\"]", r ? ", " : "", one.runs[r].pairs, one.runs[r].arguments.c_str());
    std::printf("]}");
  }
  std::printf("]}\n");
}
