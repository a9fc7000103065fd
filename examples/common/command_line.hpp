// Command lines of words, --name value and --flag. What nobody asked for is an error.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace example {

class command_line {
 public:
  command_line(int argc, char** argv) : words_(argv + 1, argv + argc) {}

  bool flag(const std::string& name) {
    bool found = false;
    for (std::size_t i = 0; i < words_.size();)
      if (words_[i] == name) {
        words_.erase(words_.begin() + std::ptrdiff_t(i));
        found = true;
      } else {
        ++i;
      }
    return found;
  }

  /// The last value given for `name` counts.
  std::string text(const std::string& name, std::string value = "") {
    for (std::size_t i = 0; i < words_.size();) {
      if (words_[i] != name) {
        ++i;
        continue;
      }
      if (i + 1 == words_.size()) throw std::runtime_error(name + " needs a value");
      value = words_[i + 1];
      words_.erase(words_.begin() + std::ptrdiff_t(i), words_.begin() + std::ptrdiff_t(i + 2));
    }
    return value;
  }

  double number(const std::string& name, double value, double least, double most) {
    const std::string given = text(name);
    if (given.empty()) return value;
    char* end = nullptr;
    value = std::strtod(given.c_str(), &end);
    if (*end != '\0' || !(value >= least && value <= most))
      throw std::runtime_error(name + ": expected a number from " + plain(least) + " to " + plain(most) + ", got " +
                               given);
    return value;
  }

  int integer(const std::string& name, int value, int least, int most) {
    const double given = number(name, value, least, most);
    if (given != int(given)) throw std::runtime_error(name + ": expected a whole number, got " + plain(given));
    return int(given);
  }

  /// The next word that is no option; for after all options have been asked for.
  std::string word(const std::string& what) {
    if (words_.empty()) throw std::runtime_error("expected " + what + "; see --help");
    if (words_.front().compare(0, 2, "--") == 0) finish();
    const std::string value = words_.front();
    words_.erase(words_.begin());
    return value;
  }

  void finish() const {
    if (!words_.empty()) throw std::runtime_error("unknown argument " + words_.front() + "; see --help");
  }

 private:
  static std::string plain(double x) {
    std::string text = std::to_string(x);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  }
  std::vector<std::string> words_;
};

}  // namespace example
