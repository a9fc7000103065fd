// The paper's job on real data: prompt tuning of two towers over frozen features from a few shots, with four losses
// compared on clean and shifted tests, base and held-out classes. Everything the losses need comes from
// craft::objective; what is here besides is data, two linear towers with their chain rule, Adam, and reporting.
//
// J. Sun et al., "Craft: Cross-modal Aligned Features Improve Robustness of Prompt Tuning", arXiv 2407.15894.

#include <chrono>
#include <iostream>

#include "../common/command_line.hpp"
#include "../common/parallel.hpp"
#include "../common/progress.hpp"
#include "fashion_task.hpp"
#include "own_task.hpp"
#include "report.hpp"

namespace example {

constexpr const char* usage = R"(prompt_tuning: few-shot prompt tuning with Craft's losses, compared

  Without arguments: Fashion-MNIST, 16 shots of each of 6 base classes, four shifted domains, 10 seeds.

  --out DIR              where results go (default: craft-out)
  --seeds N              runs with different shots (default 10)
  --epochs N             passes over the shots (default 100)
  --shots N              labelled images per base class, or all if it has fewer (default 16)
  --base-classes N       how many classes are trained on; the rest is held out (default 6; own features: half)
  --batch N              images per step (default 32)
  --target-batch N       unlabelled images per step (default 128)
  --learning-rate X      of Adam (default 0.001)
  --scale X              factor of the cosines (default 100)
  --smoke                a very short run on little data, to see that everything works
  --check                no training: compare the gradient of the whole loss with finite differences
  --data DIR             Fashion-MNIST's four .gz files (default: where Debian's dataset-fashion-mnist puts them)
  --class-text F.npy     class texts of Fashion-MNIST, templates x 10 x d

  Own features, for example CLIP's (.npy; rows are divided by their length):
  --image-features F     n x d
  --text-features F      one row per class, or one per image: a caption, whose class means are then the class texts.
                         Another width than the images' is joined to them by a linear map.
  --labels F             n integers; rows with a negative label are dropped
  --target-features F    m x d unlabelled images of another domain, for MMD (optional)
  --target-labels F      m integers, to report the accuracy there (optional)
)";

int run(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  command_line line(argc, argv);
  if (line.flag("--help") || line.flag("-h")) {
    std::cout << usage;
    return 0;
  }
  const bool smoke = line.flag("--smoke");
  const bool check = line.flag("--check");
  const std::string out = line.text("--out", "craft-out");
  const int seeds = line.integer("--seeds", smoke ? 2 : 10, 1, 1000);
  recipe r;
  r.epochs = line.integer("--epochs", smoke ? 10 : r.epochs, 1, 100000);
  r.shots = line.integer("--shots", r.shots, 1, 10000);
  r.batch = line.integer("--batch", r.batch, 2, 100000);
  r.target_batch = line.integer("--target-batch", r.target_batch, 2, 100000);
  r.learning_rate = line.number("--learning-rate", r.learning_rate, 1e-9, 10);
  r.scale = line.number("--scale", r.scale, 1e-3, 1e4);
  int base_classes = line.integer("--base-classes", 0, 2, 1000000);
  const std::string data = line.text("--data", fashion_mnist_folder);
  const std::string class_text = line.text("--class-text", CRAFT_EXAMPLES_DATA "/class_text.npy");
  const own_files own{line.text("--image-features"), line.text("--text-features"), line.text("--labels"),
                      line.text("--target-features"), line.text("--target-labels")};
  line.finish();
  const bool any = !(own.images + own.texts + own.labels + own.targets + own.target_labels).empty();
  if (any && (own.images.empty() || own.texts.empty() || own.labels.empty()))
    throw std::runtime_error("own features need --image-features, --text-features and --labels");
  if (!own.target_labels.empty() && own.targets.empty())
    throw std::runtime_error("--target-labels needs --target-features");
  if (!any && base_classes > int(fashion_classes.size()))
    throw std::runtime_error("--base-classes: there are ten classes");
  const task t = any ? make_own_task(own, base_classes)
                     : make_fashion_task(data, class_text, base_classes > 0 ? base_classes : 6, smoke);

  std::printf(
      "%s: %d base and %d held-out classes, up to %d shots of each base class, %ld test images, %zu shifted domains\n",
      t.name.c_str(), t.base_classes, t.classes() - t.base_classes, r.shots, long(t.test.rows()), t.shifts.size());
  std::printf("image features %ld, text features %ld: %s\n", long(t.pool.cols()), long(t.class_texts.cols()),
              t.joint_space() ? "one space" : "joined by a linear map fitted on the shots");
  std::fflush(stdout);

  // Every loss with every seed; those with MMD once for every shift, as they adapt to one.
  std::vector<loss_terms> losses = all_losses();
  if (t.shifts.empty()) losses.resize(2);
  std::vector<int> tested{0};
  for (std::size_t k = 0; k < t.shifts.size(); ++k)
    if (t.shifts[k].test.rows() > 0) tested.push_back(int(k + 1));
  std::vector<job> jobs;
  for (int seed = 0; seed < seeds; ++seed)
    for (int l = 0; l < int(losses.size()); ++l) {
      if (!losses[std::size_t(l)].discrepancy) {
        jobs.push_back({std::uint64_t(seed), l, -1, tested});
        continue;
      }
      for (int k = 0; k < int(t.shifts.size()); ++k) {
        jobs.push_back({std::uint64_t(seed), l, k, {0}});
        if (t.shifts[std::size_t(k)].test.rows() > 0) jobs.back().domains.push_back(k + 1);
      }
    }

  if (check) {
    const auto checked = check_gradient(t, r, losses.back(), t.shifts.empty() ? nullptr : &t.shifts.back().unlabelled);
    std::cout << "\n" << checked.text();
    return checked ? 0 : 1;
  }

  std::filesystem::create_directories(out);  // before the work: it may not be possible
  std::vector<run_result> runs(jobs.size(), run_result{{}, {}, {}, two_towers(t, draw_shots(t, r.shots, 0))});
  {
    progress bar("training " + std::to_string(jobs.size()) + " runs", std::int64_t(jobs.size()));
    parallel_for(std::int64_t(jobs.size()), [&](std::int64_t j) {
      const job& one = jobs[std::size_t(j)];
      const matrix* target = one.shift >= 0 ? &t.shifts[std::size_t(one.shift)].unlabelled : nullptr;
      runs[std::size_t(j)] =
          train(t, r, losses[std::size_t(one.loss)], draw_shots(t, r.shots, one.seed), target, one.domains, one.seed);
      bar.step();
    });
  }

  report results(t, losses, seeds);
  for (std::size_t j = 0; j < jobs.size(); ++j) results.add(jobs[j], runs[j]);
  std::string table = "Accuracy in per cent, mean ± standard deviation over " + std::to_string(seeds) + " seeds.\n" +
                      "Base classes are told apart among themselves, held-out ones among themselves by their texts.\n";
  if (t.shifts.size() > 1)
    table +=
        "MMD: one run per shift, with unlabelled images of its base classes; \"clean\" is the mean of those runs.\n";
  table += results.table();
  std::cout << "\n" << table;

  std::ofstream(out + "/table.txt") << table;
  results.write_numbers(out + "/accuracy.csv");
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const std::string of_seed = out + "/parameters/seed" + std::to_string(jobs[j].seed);
    const std::string shift = jobs[j].shift < 0 ? "" : "-" + t.shifts[std::size_t(jobs[j].shift)].name;
    save_parameters(of_seed, losses[std::size_t(jobs[j].loss)].file_name + shift, runs[j].towers);
  }

  svg_page page(1000, 860);
  const double none = std::nan("");
  draw_curves(page, 40, 50, "cross-entropy on the shots, log10", losses, jobs, runs,
              [&](const epoch_record& e) { return e.epoch > 0 ? std::log10(double(e.terms.text) + 1e-7) : none; });
  draw_curves(page, 540, 50, "accuracy on shifted tests, base classes, per cent", losses, jobs, runs,
              [&](const epoch_record& e) { return e.shifted > 0 ? 100 * e.shifted : none; });
  // The last run of seed 0: both terms and the last shift, or, without shifts, the alignment loss.
  std::size_t shown = 0;
  for (std::size_t j = 0; j < jobs.size(); ++j)
    if (jobs[j].seed == 0) shown = j;
  const shifted_domain* shift =
      jobs[shown].shift >= 0 && tested.size() > 1 ? &t.shifts[std::size_t(jobs[shown].shift)] : nullptr;
  draw_space(page, 40, 400, t, runs[shown].towers, "cross-entropy " + losses.back().name, shift);
  page.save(out + "/craft.svg");

  std::printf("\nWritten to %s: table.txt, accuracy.csv, craft.svg, parameters/   (%.0f s)\n", out.c_str(),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return 0;
}

}  // namespace example

int main(int argc, char** argv) {
  try {
    return example::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "prompt_tuning: " << e.what() << "\n";
    return 1;
  }
}
