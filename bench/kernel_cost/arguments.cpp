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

#include "craft/craft.hpp"
#include "craft/cuda.cuh"

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
  return {array(T(0.25)), nj, 0, int(panel_rows), panel_columns, int(nj)};
}
template <class T>
rows<T> some_rows(index_t d = columns_of_z) {
  return {array(T(0)), rows_of_z, d, array(T(1))};
}
/// Of two samples of equal size, or of none.
template <class T>
sight<T> some_sight(index_t d = columns_of_z, index_t mirrored = panel_rows, index_t split = rows_of_z / 2, index_t offset = 0) {
  sight<T> v(some_rows<T>(d), some_rows<T>(d), split, offset, true);
  v.mirrored = mirrored;
  return v;
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

template <class T, class Element>
void add_panel(const Element& element, const sight<T>& v, double bytes) {
  const int rows_each = rows_per_warp(panel_rows, panel_columns);
  for (const auto& [split, precision] : precisions) {
    if (split > 1 && !(sizeof(T) == 4 && Element::weighs)) continue;
    panel<T> p = some_panel<T>();
    p.split = split;
    const panel_sums<T> sums{array(0.0), array(T(0)), array(T(0))};
    const column_parts parts = column_parts::of(p, v);
    kernels.push_back({"panel_kernel<" + name<T>() + ", " + name<Element>(), precision,
                       {panel_columns / panel_block_columns<T, Element>, panel_rows / (rows_each * block_warps)}, 1,
                       sizeof(panel_memory<T, Element>), bytes, 0, {{rows_each * panel_quads<T, Element> * 4, packed(p, v, parts, element, sums, rows_each)}}});
  }
}
template <class T, class Element, int D>
void add_fused(const Element& element) {
  const double bytes = double(D * sizeof(T)) / fused_rows;  // every block reads all the other rows
  const auto runs = [&](float split) {
    std::vector<run> two;
    for (const int tiles : {1, 2}) {
      const fused_sweep<T> f{array(T(0)), rows_of_z, array(T(0)), rows_of_z,  D,
                             tiles,       true,      split,       array(0.0), array(0.0), array(T(0))};
      two.push_back({tiles * fused_rows * fused_columns / block_threads, packed(f, some_sight<T>(D, rows_of_z), element)});
    }
    return two;
  };
  const index_t blocks = rows_of_z / fused_rows;
  if constexpr (sizeof(T) == 4 || D <= 64)
    kernels.push_back({"fused_kernel<" + name<T>() + ", " + name<Element>() + ", " + std::to_string(D), "",
                       {blocks, 2}, 0, sizeof(fused_memory<T, D>), bytes, 2.0 * D, runs(1)});
  if constexpr (std::is_same_v<T, float>)
    kernels.push_back({"tensor_kernel<" + name<Element>() + ", " + std::to_string(D), "",
                       {blocks, 2}, 0, sizeof(tensor_memory<Element, D>), bytes, 2.0 * D, runs(precisions[1].first)});
}

template <class T, class K>
void add_quadratic(const K& k) {
  form_weights<T> weights;
  weights.per_row = array(T(1) / 16384);
  const quadratic_form<T, K, true> element{k, weights, rows_of_z / 2};
  add_panel<T>(element, some_sight<T>(), 2 * sizeof(T));
  add_panel<T>(quadratic_form<T, K, false>{k, weights, rows_of_z / 2}, some_sight<T>(), sizeof(T));
  add_fused<T, quadratic_form<T, K, true>, 16>(element);
  add_fused<T, quadratic_form<T, K, true>, 32>(element);
  add_fused<T, quadratic_form<T, K, true>, 64>(element);
  add_fused<T, quadratic_form<T, K, true>, 128>(element);
  const int count = k.weights() + k.bandwidths();
  std::vector<run> runs;
  for (const index_t nj : {256, 512})
    runs.push_back({int(parameter_rows * nj / block_threads), packed(some_panel<T>(nj), some_sight<T>(), element, count, array(0.0))});
  kernels.push_back({"parameters_kernel<" + name<T>() + ", " + name<std::decay_t<decltype(element)>>(), "",
                     {panel_rows / parameter_rows, (count + parameters_at_once - 1) / parameters_at_once}, 0,
                     block_warps * sizeof(double), sizeof(T), 0, runs});
}
template <class T>
sight<T> two_sides() {
  return some_sight<T>(columns_of_z, rows_of_z, rows_of_z, -1);
}
template <class T, class S, class K>
void add_map(const K& k) {
  add_panel<T>(similarity<T, K, S>{k, 1.0, array(S(0)), panel_columns}, two_sides<T>(), sizeof(T) + sizeof(S));
}
template <class T, class S, class K>
void add_map_pullback(const K& k) {
  add_panel<T>(similarity_pullback<T, K, S>{k, 1.0, array(S(1)), panel_columns}, two_sides<T>(),
               (is_linear<K>::value ? 1 : 2) * sizeof(T) + sizeof(S));
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
  // A softmax, ids that differ.
  const auto direction = [](T id, T other, bool soft) {
    softmax<T> s;
    s.n = rows_of_z;
    s.id = array(id), s.other_id = array(other);
    s.hit = s.weight = s.mass = array(T(1));
    s.lse = s.sum = s.target_dot = array(T(1));
    if (soft) s.soft = array(T(0)), s.soft_stride = panel_columns;
    return s;
  };
  const auto by_row = direction(3, 5, false), by_col = direction(5, 3, false), softly = direction(3, 5, true);
  add_panel<T>(softmax_pullback<T, true, false>{by_row, by_col}, two_sides<T>(), 2 * sizeof(T));
  add_panel<T>(softmax_pullback<T, false, false>{by_row, {}}, two_sides<T>(), 2 * sizeof(T));
  add_panel<T>(softmax_pullback<T, false, true>{softly, {}}, two_sides<T>(), 3 * sizeof(T));
  add_panel<T>(sigmoid_loss<T, true>{{array(T(3)), array(T(5)), 1}, 0.0}, two_sides<T>(), 2 * sizeof(T));
  add_panel<T>(sigmoid_loss<T, false>{{array(T(3)), array(T(5)), 1}, 0.0}, two_sides<T>(), sizeof(T));
  add_panel<T>(hinge_pair<T, true>{{array(T(3)), array(T(5)), 1}, 0.0}, two_sides<T>(), 2 * sizeof(T));
  add_panel<T>(hinge_pair<T, false>{{array(T(3)), array(T(5)), 1}, 0.0}, two_sides<T>(), sizeof(T));
  const lse_parts<T> parts{array(softmax_part<T>{}), array(softmax_part<T>{})};
  const auto log_sum_exp = [&](const char* which, const softmax<T>& row, double bytes) {
    kernels.push_back({"log_sum_exp_kernel<" + name<T>() + which, "",
                       {panel_columns / columns_per_block, panel_rows / lse_rows}, 1, lse_shared_bytes<T>, bytes, 0,
                       {{lse_rows_per_warp * quads_per_lane * 4, packed(some_panel<T>(), row, by_col, parts)}}});
  };
  log_sum_exp(", true, false", by_row, sizeof(T));
  log_sum_exp(", false, false", by_row, sizeof(T));
  log_sum_exp(", false, true", softly, 2 * sizeof(T));

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
    p.ni = int(blocks * block_threads * each / p.nj);
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
  pair_function(craft::polynomial<T>(1, 1, 3));
  pair_function(craft::dot_product<T>());
  pair_function(craft::cosine<T>());
  pair_function(five<T>());
  pair_function(any<T>());
  add_quadratic<T>(four<T>());
  add_map<T, T>(four<T>());
}

}  // namespace

/// Kernels that are not counted: which way they go depends on numbers that counting does not know, a double's logarithm among them,
/// or on what the compiler keeps in local memory.
bool unknown(const kernel& k) {
  const auto is = [&](const char* part) { return k.name.find(part) != std::string::npos; };
  return (is("similarity_pullback<") && (is("cosine") || is("polynomial"))) ||
         (is("rational_quadratic") && (is("_kernel<double") || is("fused_kernel<float")));
}

int main() {
  add_all<float>();
  add_all<double>();
  for (kernel& k : kernels)
    if (unknown(k)) k.runs.clear();
  std::printf("{\"threads\": %d,\n\"regions\": [", block_threads);
  for (std::size_t r = 0; r < regions.size(); ++r) std::printf("%s\"%s\"", r ? ", " : "", regions[r].c_str());
  std::printf("],\n\"kernels\": [");
  for (std::size_t k = 0; k < kernels.size(); ++k) {
    const kernel& one = kernels[k];
    std::printf("%s\n{\"name\": \"%s\", \"precision\": \"%s\", \"grid\": [%ld, %ld], \"block_down\": %ld, \"shared\": %zu, "
                "\"bytes\": %g, \"products\": %g, \"runs\": [",
                k ? "," : "", one.name.c_str(), one.precision.c_str(), long(one.grid[0]), long(one.grid[1]), long(one.block_down),
                one.shared_bytes, one.bytes, one.products);
    for (std::size_t r = 0; r < one.runs.size(); ++r)
      std::printf("%s[%d, \"%s\"]", r ? ", " : "", one.runs[r].pairs, one.runs[r].arguments.c_str());
    std::printf("]}");
  }
  std::printf("]}\n");
}
