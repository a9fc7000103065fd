// What came out: the table, the picture, the numbers and the parameters.
#pragma once

#include <filesystem>
#include <map>
#include <sstream>

#include "../common/npy.hpp"
#include "../common/pca.hpp"
#include "../common/statistics.hpp"
#include "../common/svg.hpp"
#include "training.hpp"

namespace example {

/// One run of the comparison. shift: the one whose images the discrepancy saw, -1 for none.
struct job {
  std::uint64_t seed;
  int loss, shift;
  std::vector<int> domains;
};

class report {
 public:
  report(const task& t, std::vector<loss_terms> losses, int seeds)
      : task_(t), losses_(std::move(losses)), seeds_(seeds) {
    rows_.push_back("before training");
    for (const loss_terms& l : losses_) rows_.push_back(l.name);
    domains_.push_back("clean");
    for (const shifted_domain& s : t.shifts)
      if (s.test.rows() > 0) domains_.push_back(s.name);
    cells_.assign(rows_.size(), std::vector<std::vector<std::vector<accuracy>>>(
                                    domains_.size(), std::vector<std::vector<accuracy>>(std::size_t(seeds))));
  }

  void add(const job& j, const run_result& r) {
    for (std::size_t k = 0; k < j.domains.size(); ++k) {
      const std::size_t domain = std::size_t(j.domains[k]), seed = std::size_t(j.seed);
      cells_[std::size_t(j.loss + 1)][domain][seed].push_back(r.domains[k]);
      if (j.loss == 0) cells_[0][domain][seed].push_back(r.before[k]);
    }
  }

  /// Accuracies in per cent, the change against cross-entropy alone, and what did not help.
  std::string table() const {
    std::ostringstream out;
    const bool held_out = task_.classes() > task_.base_classes;
    std::vector<std::pair<std::string, measure>> parts{
        {"base classes (1 of " + std::to_string(task_.base_classes) + ")", [](const accuracy& a) { return a.base; }}};
    if (held_out) {
      parts.push_back({"held-out classes (1 of " + std::to_string(task_.classes() - task_.base_classes) + ")",
                       [](const accuracy& a) { return a.held_out; }});
      parts.push_back({"harmonic mean of both", [](const accuracy& a) { return a.harmonic(); }});
    }
    std::vector<std::string> no_help(rows_.size());
    for (const auto& [title, of] : parts) {
      out << "\n" << title << "\n" << padded("", 22);
      for (const std::string& d : domains_) out << padded(d, 13);
      if (domains_.size() > 2) out << "mean shifted";
      out << "\n";
      for (std::size_t r = 0; r < rows_.size(); ++r) {
        out << padded("  " + rows_[r], 22);
        for (std::size_t d = 0; d < domains_.size(); ++d) out << padded(percent(over_seeds(r, d, of)), 13);
        if (domains_.size() > 2) out << percent(mean_shifted(r, of));
        out << "\n";
      }
      out << "  change against " << rows_[1] << " alone\n";
      for (std::size_t r = 2; r < rows_.size(); ++r) {
        out << padded("  " + rows_[r], 22);
        for (std::size_t d = 0; d < domains_.size(); ++d) {
          const std::vector<double> change = minus(over_seeds(r, d, of), over_seeds(1, d, of));
          out << padded(percent(change, true), 13);
          if (mean_and_deviation(change).mean <= 0)
            no_help[r] += (no_help[r].empty() ? "" : ", ") + title.substr(0, title.find(' ')) + " " + domains_[d];
        }
        if (domains_.size() > 2) out << percent(minus(mean_shifted(r, of), mean_shifted(1, of)), true);
        out << "\n";
      }
    }
    out << "\nWhere a loss did not help (change of the mean <= 0):\n";
    for (std::size_t r = 2; r < rows_.size(); ++r)
      out << padded("  " + rows_[r], 22) << (no_help[r].empty() ? "on no split" : no_help[r]) << "\n";
    return out.str();
  }

  /// One line per loss, domain and seed.
  void write_numbers(const std::string& path) const {
    std::ofstream file(path);
    file << "loss,domain,seed,base,held_out\n";
    for (std::size_t r = 0; r < rows_.size(); ++r)
      for (std::size_t d = 0; d < domains_.size(); ++d)
        for (std::size_t s = 0; s < std::size_t(seeds_); ++s) {
          const accuracy a = mean_of_runs(cells_[r][d][s]);
          file << rows_[r] << "," << domains_[d] << "," << s << "," << a.base << "," << a.held_out << "\n";
        }
    file.close();
    if (!file) throw std::runtime_error(path + ": cannot be written");
  }

 private:
  using measure = double (*)(const accuracy&);

  // The discrepancy is trained once per shift; on the clean tests its mean over those runs counts.
  static accuracy mean_of_runs(const std::vector<accuracy>& runs) {
    accuracy sum;
    for (const accuracy& a : runs) {
      sum.base += a.base / double(runs.size());
      sum.held_out += a.held_out / double(runs.size());
    }
    return sum;
  }
  std::vector<double> over_seeds(std::size_t row, std::size_t domain, measure of) const {
    std::vector<double> out;
    for (const auto& runs : cells_[row][domain]) out.push_back(of(mean_of_runs(runs)));
    return out;
  }
  std::vector<double> mean_shifted(std::size_t row, measure of) const {
    std::vector<double> out(std::size_t(seeds_), 0.0);
    for (std::size_t d = 1; d < domains_.size(); ++d) {
      const std::vector<double> one = over_seeds(row, d, of);
      for (std::size_t s = 0; s < out.size(); ++s) out[s] += one[s] / double(domains_.size() - 1);
    }
    return out;
  }
  static std::vector<double> minus(std::vector<double> a, const std::vector<double>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
    return a;
  }
  // "±" is two bytes and one column.
  static std::string padded(const std::string& text, std::size_t columns) {
    std::size_t width = 0;
    for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    return text + std::string(columns > width ? columns - width : 0, ' ');
  }

  const task& task_;
  std::vector<loss_terms> losses_;
  int seeds_;
  std::vector<std::string> rows_, domains_;
  std::vector<std::vector<std::vector<std::vector<accuracy>>>> cells_;  // row, domain, seed, runs
};

/// Parameters as .npy files: those trained in a folder for each run, the frozen map of the texts beside it, once per
/// seed.
inline void save_parameters(const std::string& of_seed, const std::string& run, const two_towers& towers) {
  const std::string folder = of_seed + "/" + run;
  std::filesystem::create_directories(folder);
  write_matrix(folder + "/adapter.npy", towers.trained.adapter);
  write_matrix(folder + "/prompts.npy", towers.trained.prompts);
  write_matrix(folder + "/context.npy", towers.trained.context);
  if (towers.map().size() == 0) return;
  write_matrix(of_seed + "/text_map.npy", towers.map());
  write_matrix(of_seed + "/text_mean.npy", towers.centre());
}

// ---------------------------------------------------------------------------------------------------------
// The picture

/// Curves: mean over runs of a quantity per epoch, one line per loss.
template <class Of>
void draw_curves(svg_page& page, double left, double top, const std::string& title,
                 const std::vector<loss_terms>& losses, const std::vector<job>& jobs,
                 const std::vector<run_result>& runs, Of of) {
  struct line {
    std::vector<double> x, y;
  };
  std::vector<line> lines(losses.size());
  value_range xs, ys;
  for (std::size_t l = 0; l < losses.size(); ++l) {
    std::map<int, std::pair<double, int>> at;
    for (std::size_t j = 0; j < jobs.size(); ++j)
      if (jobs[j].loss == int(l))
        for (const epoch_record& e : runs[j].curve)
          if (const double v = of(e); std::isfinite(v)) {
            at[e.epoch].first += v;
            ++at[e.epoch].second;
          }
    for (const auto& [epoch, sum] : at) {
      lines[l].x.push_back(epoch);
      lines[l].y.push_back(sum.first / sum.second);
      xs.include(lines[l].x.back());
      ys.include(lines[l].y.back());
    }
  }
  if (!(ys.high >= ys.low)) return;
  svg_panel panel(page, left, top, 440, 260, xs.widened(0), ys.widened());
  panel.title(title);
  panel.axes("epoch");
  for (std::size_t l = 0; l < lines.size(); ++l) {
    panel.curve(lines[l].x, lines[l].y, colour(l));
    page.line(left + 8, top + 14 + 17 * double(l), left + 28, top + 14 + 17 * double(l), colour(l), 3);
    page.text(left + 34, top + 18 + 17 * double(l), losses[l].name, "", 12);
  }
}

/// The space in which the domains are compared, before and after training, in two dimensions: relative representations
/// (cosines to the class texts), projected on the principal components of all points of both states, so that both
/// panels have the same axes. Dots: clean test images, rings: shifted ones, diamonds: class texts.
inline void draw_space(svg_page& page, double left, double top, const task& t, const two_towers& after,
                       const std::string& loss, const shifted_domain* shift) {
  two_towers before = after;
  before.trained.adapter.setZero();
  before.trained.prompts.setZero();
  before.trained.context.setZero();

  constexpr std::size_t points = 300;
  const auto first = [&](const label_list& labels) {
    index_list rows = rows_below(labels, t.base_classes);
    rows.resize(std::min(rows.size(), points));
    return rows;
  };
  const index_list clean = first(t.test_labels), moved = shift != nullptr ? first(shift->test_labels) : index_list{};
  label_list base(std::size_t(t.base_classes));
  for (std::size_t c = 0; c < base.size(); ++c) base[c] = std::int64_t(c);

  struct state {
    matrix clean, moved, texts;
  } states[2];
  matrix all(0, t.base_classes);
  const two_towers* towers[2] = {&before, &after};
  for (int k = 0; k < 2; ++k) {
    const matrix anchors = towers[k]->texts(t.class_texts.topRows(t.base_classes), base);
    const auto relative = [&](const matrix& x) {
      matrix r(x.rows(), anchors.rows());
      if (x.rows() > 0) craft::relative(craft::cpu(), x, anchors, craft::dot_product<>(), {}, r);
      return r;
    };
    states[k].clean = relative(towers[k]->images(rows_of(t.test, clean)));
    states[k].texts = relative(anchors);
    states[k].moved.resize(0, anchors.rows());
    if (shift != nullptr) states[k].moved = relative(towers[k]->images(rows_of(shift->test, moved)));
    for (const matrix* part : {&states[k].clean, &states[k].moved, &states[k].texts}) {
      matrix joined(all.rows() + part->rows(), all.cols());
      joined << all, *part;
      all = std::move(joined);
    }
  }
  const principal_components pca = fit_pca(all, 2);
  const matrix flat = pca.project(all);
  value_range xs, ys;
  for (Eigen::Index i = 0; i < flat.rows(); ++i) {
    xs.include(flat(i, 0));
    ys.include(flat(i, 1));
  }

  for (int k = 0; k < 2; ++k) {
    const double x0 = left + 500 * k;
    svg_panel panel(page, x0, top, 440, 360, xs.widened(), ys.widened());
    panel.title(k == 0 ? "before training" : "after training with " + loss);
    const auto each = [&](const matrix& x, const label_list& labels, auto draw) {
      const matrix p = pca.project(x);
      for (Eigen::Index i = 0; i < p.rows(); ++i)
        draw(panel.x(p(i, 0)), panel.y(p(i, 1)), colour(std::size_t(labels[std::size_t(i)])));
    };
    each(states[k].clean, labels_of(t.test_labels, clean), [&](double x, double y, const std::string& c) {
      page.circle(x, y, 3, "fill='" + c + "' fill-opacity='0.55'");
    });
    if (shift != nullptr)
      each(states[k].moved, labels_of(shift->test_labels, moved), [&](double x, double y, const std::string& c) {
        page.circle(x, y, 3.5, "fill='none' stroke='" + c + "' stroke-width='1.2'");
      });
    each(states[k].texts, base, [&](double x, double y, const std::string& c) {
      page.raw("<path d='M" + svg_panel::number(x) + "," + svg_panel::number(y - 9) + "l9,9l-9,9l-9,-9z' fill='" + c +
               "' stroke='black' stroke-width='1.5'/>");
    });
  }
  double x = left;
  for (std::size_t c = 0; c < base.size(); ++c) {
    page.circle(x + 6, top + 384, 5, "fill='" + colour(c) + "'");
    page.text(x + 15, top + 388, t.class_names[c], "", 12);
    x += 30 + 7.5 * double(t.class_names[c].size());
  }
  page.text(
      left, top + 410,
      "Cosines to the class texts, first two principal components, the same in both panels. Dots: clean test images" +
          (shift != nullptr ? "; rings: " + shift->name : "") + "; diamonds: class texts.",
      "fill='#555'", 12);
}

}  // namespace example
