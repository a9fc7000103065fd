// A page of pictures in SVG: panels with axes, curves, points and text.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace example {

/// Ten colours that can be told apart, also by most colour-blind readers when neighbours differ in brightness.
inline std::string colour(std::size_t i) {
  static const char* const list[] = {"#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1",
                                     "#9c755f", "#76b7b2", "#edc948", "#ff9da7", "#79706e"};
  return list[i % 10];
}

class svg_page {
 public:
  svg_page(int width, int height) : width_(width), height_(height) {}

  void text(double x, double y, const std::string& words, const std::string& more = "", int size = 13) {
    body_ << "<text x='" << x << "' y='" << y << "' font-size='" << size << "' " << more << ">" << escaped(words)
          << "</text>\n";
  }
  void line(double x1, double y1, double x2, double y2, const std::string& stroke, double width = 1) {
    body_ << "<line x1='" << x1 << "' y1='" << y1 << "' x2='" << x2 << "' y2='" << y2 << "' stroke='" << stroke
          << "' stroke-width='" << width << "'/>\n";
  }
  void circle(double x, double y, double radius, const std::string& style) {
    body_ << "<circle cx='" << x << "' cy='" << y << "' r='" << radius << "' " << style << "/>\n";
  }
  void raw(const std::string& element) { body_ << element << "\n"; }

  void save(const std::string& path) const {
    std::ofstream file(path);
    file << "<svg xmlns='http://www.w3.org/2000/svg' width='" << width_ << "' height='" << height_ << "' viewBox='0 0 "
         << width_ << " " << height_ << "' font-family='sans-serif'>\n<rect width='100%' height='100%' fill='white'/>\n"
         << body_.str() << "</svg>\n";
    file.close();
    if (!file) throw std::runtime_error(path + ": cannot be written");
  }

 private:
  static std::string escaped(const std::string& words) {
    std::string out;
    for (const char c : words) {
      if (c == '<')
        out += "&lt;";
      else if (c == '&')
        out += "&amp;";
      else
        out += c;
    }
    return out;
  }
  int width_, height_;
  std::ostringstream body_;
};

/// The range that some numbers cover, widened a little.
struct value_range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
  value_range widened(double share = 0.05) const {
    const double margin = high > low ? share * (high - low) : 1;
    return {low - margin, high + margin};
  }
};

/// A rectangle of a page with its own coordinates.
class svg_panel {
 public:
  svg_panel(svg_page& page, double left, double top, double width, double height, value_range x, value_range y)
      : page_(page), left_(left), top_(top), width_(width), height_(height), x_(x), y_(y) {
    page_.raw("<rect x='" + number(left) + "' y='" + number(top) + "' width='" + number(width) + "' height='" +
              number(height) + "' fill='none' stroke='#999'/>");
  }

  double x(double v) const { return left_ + (v - x_.low) / (x_.high - x_.low) * width_; }
  double y(double v) const { return top_ + height_ - (v - y_.low) / (y_.high - y_.low) * height_; }

  void title(const std::string& words) { page_.text(left_, top_ - 10, words, "font-weight='bold'", 14); }

  /// x_marks: where to write which number below; empty: about five round ones.
  void axes(const std::string& x_name, std::vector<std::pair<double, std::string>> x_marks = {}) {
    if (x_marks.empty())
      for (const double v : ticks(x_)) x_marks.push_back({v, number(v)});
    for (const auto& [v, words] : x_marks) {
      page_.line(x(v), top_ + height_, x(v), top_ + height_ + 4, "#999");
      page_.text(x(v), top_ + height_ + 17, words, "text-anchor='middle' fill='#555'", 11);
    }
    for (const double v : ticks(y_)) {
      page_.line(left_, y(v), left_ + width_, y(v), "#eee");
      page_.text(left_ - 6, y(v) + 4, number(v), "text-anchor='end' fill='#555'", 11);
    }
    page_.text(left_ + width_ / 2, top_ + height_ + 34, x_name, "text-anchor='middle'", 12);
  }

  void curve(const std::vector<double>& xs, const std::vector<double>& ys, const std::string& stroke,
             const std::string& more = "") {
    std::string points;
    for (std::size_t i = 0; i < xs.size(); ++i) points += number(x(xs[i])) + "," + number(y(ys[i])) + " ";
    page_.raw("<polyline fill='none' stroke='" + stroke + "' stroke-width='2' " + more + " points='" + points + "'/>");
  }

  static std::string number(double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", std::abs(v) < 1e-12 ? 0.0 : v);
    return text;
  }

 private:
  // About five round numbers.
  static std::vector<double> ticks(const value_range& r) {
    const double rough = (r.high - r.low) / 5, power = std::pow(10.0, std::floor(std::log10(rough)));
    const double step = power * (rough < 1.5 * power ? 1 : rough < 3.5 * power ? 2 : rough < 7.5 * power ? 5 : 10);
    std::vector<double> out;
    for (double v = std::ceil(r.low / step) * step; v <= r.high; v += step) out.push_back(v);
    return out;
  }

  svg_page& page_;
  double left_, top_, width_, height_;
  value_range x_, y_;
};

}  // namespace example
