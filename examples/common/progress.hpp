// Progress on standard error: a bar on a terminal, a line for every tenth elsewhere.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

namespace example {

class progress {
 public:
  progress(std::string what, std::int64_t total) : what_(std::move(what)), total_(total) { show(); }
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() {
    if (terminal_) std::fputc('\n', stderr);
  }

  /// May be called from several threads.
  void step(std::int64_t by = 1) {
    const std::lock_guard<std::mutex> lock(one_at_a_time_);
    done_ += by;
    show();
  }

 private:
  void show() {
    const int tenths = total_ > 0 ? int(10 * done_ / total_) : 10;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    if (terminal_) {
      const int width = 30, filled = total_ > 0 ? int(width * done_ / total_) : width;
      std::fprintf(stderr, "\r%-34s [%s%s] %3d %% %6.1f s", what_.c_str(), std::string(filled, '#').c_str(),
                   std::string(width - filled, '.').c_str(), total_ > 0 ? int(100 * done_ / total_) : 100, seconds);
    } else if (tenths > shown_) {
      std::fprintf(stderr, "%-34s %3d %% %6.1f s\n", what_.c_str(), 10 * tenths, seconds);
      shown_ = tenths;
    }
    std::fflush(stderr);
  }

  std::string what_;
  std::int64_t total_, done_ = 0;
  int shown_ = 0;
  std::mutex one_at_a_time_;
  bool terminal_ = isatty(2) != 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace example
