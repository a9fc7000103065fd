// Whether two files of features come from one distribution: MMD^2, a permutation p-value, the rows that make the
// difference, and a picture.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "../common/command_line.hpp"
#include "../common/features.hpp"
#include "craft/anchors.hpp"
#include "measure.hpp"
#include "picture.hpp"

namespace example {

constexpr const char* usage = R"(shift: do two files of features come from one distribution?

  shift SOURCE TARGET [options]

SOURCE, TARGET: .npy, .npz (not compressed) or safetensors, one sample per row.

  --member NAME         which array, of files with several matrices
  --target-member NAME  if it has another name in TARGET
  --kernel NAME         gaussian (default), gaussians (a mean of five widths), laplacian, inverse_multiquadric, energy
  --bandwidth B         median (default) or mean of all distances, or a number; energy has none
  --permutations B      default 1000: p-values are multiples of 1 / 1001
  --rows N              use at most N rows of each file, drawn at random
  --seed S              for the permutations and the rows drawn (default 0)
  --threads N           default: all; results do not depend on it
  --top K               how many rows of each sample to list (default 5)
  --out DIR             where the picture goes, shift.svg; none without it
  --json FILE           everything in JSON
)";

using table = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct sample {
  std::string file, member;
  table values;
  index_list rows;  ///< which rows of the file these are

  sample(const std::string& path, const std::string& name, std::int64_t most, std::uint64_t seed)
      : file(path), member(name), values(read_features<double>(path, name)) {
    if (values.rows() < 2) throw std::runtime_error(path + ": expected at least 2 rows");
    if (most > 0 && values.rows() > most) {
      rows = craft::random_anchors(values.rows(), most, seed);
      std::sort(rows.begin(), rows.end());
      table drawn(most, values.cols());
      for (std::int64_t i = 0; i < most; ++i) drawn.row(i) = values.row(rows[std::size_t(i)]);
      values = std::move(drawn);
    } else {
      rows.resize(std::size_t(values.rows()));
      std::iota(rows.begin(), rows.end(), 0);
    }
  }
};

/// Indices of the `count` largest, largest first.
inline index_list largest(const std::vector<double>& values, std::size_t count) {
  index_list order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return values[std::size_t(a)] > values[std::size_t(b)]; });
  order.resize(std::min(order.size(), count));
  return order;
}

/// The value that a share of the numbers does not exceed.
inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = std::ceil(share * double(values.size())) - 1;
  return values[std::size_t(std::max(0.0, at))];
}

nlohmann::ordered_json to_json(const sample& s) {
  return {{"file", s.file}, {"member", s.member}, {"rows", s.values.rows()}, {"columns", s.values.cols()}};
}

int run(int argc, char** argv) {
  command_line args(argc, argv);
  if (args.flag("--help") || args.flag("-h")) {
    std::cout << usage;
    return 0;
  }
  const std::string member = args.text("--member"), target_member = args.text("--target-member", member);
  measure_options options;
  options.kernel = args.text("--kernel", options.kernel);
  const std::string bandwidth = args.text("--bandwidth");
  if (!bandwidth.empty() && options.kernel == "energy") throw std::runtime_error("--bandwidth: energy has none");
  if (!bandwidth.empty()) options.bandwidth = bandwidth;
  options.permutations = args.integer("--permutations", 1000, 1, 1000000);
  options.seed = std::uint64_t(args.integer("--seed", 0, 0, 1 << 30));
  const int most = args.integer("--rows", 0, 2, 1 << 30), threads = args.integer("--threads", 0, 1, 1024);
  const std::size_t top = std::size_t(args.integer("--top", 5, 0, 1000));
  const std::string out = args.text("--out"), json_file = args.text("--json");
  const std::string source_file = args.word("SOURCE and TARGET"), target_file = args.word("TARGET");
  args.finish();

  const sample source(source_file, member, most, options.seed), target(target_file, target_member, most, options.seed + 1);
  if (source.values.cols() != target.values.cols())
    throw std::runtime_error(target.file + ": has " + std::to_string(target.values.cols()) + " columns, " + source.file +
                             " has " + std::to_string(source.values.cols()));
  if (!out.empty()) std::filesystem::create_directories(out);  // before the work: it may not be possible
  if (const auto folder = std::filesystem::path(json_file).parent_path(); !folder.empty())
    std::filesystem::create_directories(folder);

  // In float, once what all rows have in common is gone.
  const Eigen::RowVectorXd mean = (source.values.colwise().sum() + target.values.colwise().sum()) /
                                  double(source.values.rows() + target.values.rows());
  matrix x = (source.values.rowwise() - mean).cast<float>(), y = (target.values.rowwise() - mean).cast<float>();
  craft::cpu ctx;
  if (threads > 0) ctx.threads(threads);
  const measurement m = measure(ctx, x, y, options);

  const craft::two_sample_result& test = m.test;
  const std::int64_t as_large = std::llround(test.p_value * double(1 + options.permutations)) - 1;
  const double usual = quantile(test.permuted, 0.95);
  const index_list x_top = largest(m.source_rows, top), y_top = largest(m.target_rows, top);

  std::printf("\nsource   %s  %ld x %ld\n", source.file.c_str(), long(x.rows()), long(x.cols()));
  std::printf("target   %s  %ld x %ld\n", target.file.c_str(), long(y.rows()), long(y.cols()));
  std::printf("kernel   %s", options.kernel.c_str());
  if (m.sigma > 0) std::printf(", bandwidth %.4g (%s)", m.sigma, options.bandwidth.c_str());
  std::printf("\n\nMMD^2    %.6g unbiased, %.6g biased\n", test.statistic, double(m.biased));
  std::printf("p-value  %.4g: of %lld permutations %lld gave as much, 95 %% gave at most %.6g\n\n", test.p_value,
              static_cast<long long>(options.permutations), static_cast<long long>(as_large), usual);
  std::puts(test.p_value <= 0.05
                ? "Rows dealt at random seldom differ as much as these samples: there is a shift."
                : "Rows dealt at random differ as much often enough: these samples show no shift.");
  if (top > 0) {
    std::printf("\nRows that make the difference, and what each adds; the means over both samples add up to MMD^2:\n");
    std::printf("%12s %12s  %12s %12s\n", "source row", "adds", "target row", "adds");
    const auto entry = [](const sample& s, const index_list& order, const std::vector<double>& values, std::size_t k) {
      char text[64] = "";
      if (k < order.size())
        std::snprintf(text, sizeof text, "%12lld %12.4g", static_cast<long long>(s.rows[std::size_t(order[k])]),
                      values[std::size_t(order[k])]);
      return std::string(text);
    };
    for (std::size_t k = 0; k < std::max(x_top.size(), y_top.size()); ++k)
      std::printf("%25s  %s\n", entry(source, x_top, m.source_rows, k).c_str(),
                  entry(target, y_top, m.target_rows, k).c_str());
  }

  if (!out.empty()) {
    svg_page page(1000, 420);
    draw_permutations(page, 50, 50, test);
    draw_samples(page, 550, 50, x, y, x_top, y_top);
    page.save(out + "/shift.svg");
    std::printf("\nWritten to %s: shift.svg\n", out.c_str());
  }
  if (!json_file.empty()) {
    const auto rows = [](const sample& s, const index_list& order, const std::vector<double>& values) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const std::int64_t i : order)
        list.push_back({{"row", s.rows[std::size_t(i)]}, {"contribution", values[std::size_t(i)]}});
      return list;
    };
    nlohmann::ordered_json j;
    j["source"] = to_json(source);
    j["target"] = to_json(target);
    j["kernel"] = options.kernel;
    if (m.sigma > 0) j["bandwidth"] = {{"rule", options.bandwidth}, {"value", m.sigma}};
    j["mmd2"] = {{"unbiased", test.statistic}, {"biased", m.biased}};
    j["p_value"] = test.p_value;
    j["permutations"] = {{"count", options.permutations}, {"seed", options.seed},  {"as_large", as_large},
                         {"median", quantile(test.permuted, 0.5)}, {"quantile_95", usual}, {"mmd2", test.permuted}};
    j["rows"] = {{"source", rows(source, x_top, m.source_rows)}, {"target", rows(target, y_top, m.target_rows)}};
    std::ofstream file(json_file);
    file << j.dump(2) << "\n";
    file.close();
    if (!file) throw std::runtime_error(json_file + ": cannot be written");
  }
  return 0;
}

}  // namespace example

int main(int argc, char** argv) {
  try {
    return example::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "shift: " << e.what() << "\n";
    return 1;
  }
}
