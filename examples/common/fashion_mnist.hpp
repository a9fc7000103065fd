// Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 in ten classes. H. Xiao, K. Rasul and R. Vollgraf, arXiv
// 1708.07747. Debian's package dataset-fashion-mnist (MIT) puts it into /usr/share/datasets/fashion-mnist.
#pragma once

#include <algorithm>

#include "idx.hpp"
#include "matrix.hpp"

namespace example {

inline constexpr int side = 28, pixels = side * side;
inline constexpr const char* fashion_mnist_folder = "/usr/share/datasets/fashion-mnist";
inline const std::vector<std::string> fashion_classes = {"T-shirt", "trouser", "pullover", "dress", "coat",
                                                         "sandal",  "shirt",   "sneaker",  "bag",   "ankle boot"};

struct labelled_images {
  matrix images;  ///< n x 784, in [0, 1]
  label_list labels;

  /// Images [begin, end).
  labelled_images range(std::int64_t begin, std::int64_t end) const {
    return {images.middleRows(begin, end - begin), {labels.begin() + begin, labels.begin() + end}};
  }
};

/// part: "train" or "t10k"; the first `count` images (0: all).
inline labelled_images read_fashion_mnist(const std::string& folder, const std::string& part, std::int64_t count = 0) {
  const idx_bytes x = read_idx_gz(folder + "/" + part + "-images-idx3-ubyte.gz", 3);
  const idx_bytes y = read_idx_gz(folder + "/" + part + "-labels-idx1-ubyte.gz", 1);
  if (x.shape[1] != side || x.shape[2] != side || x.shape[0] != y.shape[0])
    throw std::runtime_error(folder + ": the files of " + part + " do not hold labelled images of 28 x 28");
  const std::int64_t n = count == 0 ? x.shape[0] : std::min(count, x.shape[0]);
  labelled_images out{matrix(n, pixels), {y.values.begin(), y.values.begin() + n}};
  for (const std::int64_t label : out.labels)
    if (label >= std::int64_t(fashion_classes.size())) throw std::runtime_error(folder + ": a label is not in 0 to 9");
  for (std::int64_t i = 0; i < n * pixels; ++i) out.images.data()[i] = float(x.values[std::size_t(i)]) / 255;
  return out;
}

}  // namespace example
