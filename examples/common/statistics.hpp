// Mean and standard deviation over seeds.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace example {

struct mean_and_deviation {
  double mean = 0, deviation = 0;

  explicit mean_and_deviation(const std::vector<double>& x) {
    for (const double v : x) mean += v / double(x.size());
    for (const double v : x) deviation += (v - mean) * (v - mean);
    deviation = x.size() > 1 ? std::sqrt(deviation / double(x.size() - 1)) : 0;
  }
};

/// A share as "81.3 ± 0.4", in per cent. With a sign if wanted, for differences.
inline std::string percent(const std::vector<double>& shares, bool sign = false) {
  const mean_and_deviation s(shares);
  char text[48];
  std::snprintf(text, sizeof text, sign ? "%+5.1f ±%4.1f" : "%5.1f ±%4.1f", 100 * s.mean, 100 * s.deviation);
  return text;
}

}  // namespace example
