#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tools/bench/serve/load_report.h"

namespace palu::bench {
namespace {

constexpr double kPanelWidth = 420;
constexpr double kPanelHeight = 220;
constexpr double kMargin = 50;

struct Series {
  const char* name;
  const char* color;
  std::vector<std::pair<double, double>> points;
};

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

std::string Label(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + Number(x) + "\" y=\"" + Number(y) + "\" text-anchor=\"" + anchor + "\">" +
         text + "</text>\n";
}

// One plot at (left, top); x is on a logarithmic scale where log_x.
std::string Panel(double left, double top, const std::string& title, bool log_x,
                  const std::vector<Series>& all) {
  double low = log_x ? 1e300 : 0, high = 0, peak = 1e-9;
  for (const Series& series : all) {
    for (const auto& [x, y] : series.points) {
      low = std::min(low, log_x ? std::max(x, 1e-3) : x);
      high = std::max(high, x);
      peak = std::max(peak, y);
    }
  }
  if (high <= low) high = low + 1;
  const auto place = [&](double x) {
    if (!log_x) return left + (x - low) / (high - low) * kPanelWidth;
    return left + std::log(std::max(x, low) / low) / std::log(high / low) * kPanelWidth;
  };
  std::string out = "<rect x=\"" + Number(left) + "\" y=\"" + Number(top) + "\" width=\"" +
                    Number(kPanelWidth) + "\" height=\"" + Number(kPanelHeight) +
                    "\" fill=\"none\" stroke=\"#888\"/>\n";
  out += Label(left + kPanelWidth / 2, top - 8, "middle", title);
  const double bottom = top + kPanelHeight;
  for (int i = 0; i <= 4; ++i) {
    const double x = log_x ? low * std::pow(high / low, i / 4.0) : low + (high - low) * i / 4;
    out += Label(place(x), bottom + 16, "middle", Number(x));
    out += Label(left - 6, bottom - kPanelHeight * i / 4 + 4, "end", Number(peak * i / 4));
  }
  double legend = top + 18;
  for (const Series& series : all) {
    out += "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"" + std::string(series.color) +
           "\" points=\"";
    for (const auto& [x, y] : series.points) {
      out += Number(place(x)) + "," + Number(bottom - y / peak * kPanelHeight) + " ";
    }
    out += "\"/>\n<text fill=\"" + std::string(series.color) + "\" x=\"" +
           Number(left + kPanelWidth - 8) + "\" y=\"" + Number(legend) + "\" text-anchor=\"end\">" +
           series.name + "</text>\n";
    legend += 16;
  }
  return out;
}

Series Distribution(const char* name, const char* color, std::vector<double> seconds) {
  Series series{name, color, {}};
  std::sort(seconds.begin(), seconds.end());
  const size_t steps = std::min<size_t>(seconds.size(), 400);
  for (size_t i = 0; i < steps; ++i) {
    const size_t at = steps == 1 ? 0 : i * (seconds.size() - 1) / (steps - 1);
    series.points.emplace_back(seconds[at] * 1e3, double(at + 1) / double(seconds.size()));
  }
  return series;
}

Series Throughput(const LoadResult& result) {
  Series series{"output tokens/s", "#1f77b4", {}};
  double start = 1e300;
  for (const RequestRecord& record : result.records) start = std::min(start, record.start);
  const double bin = std::max(result.seconds / 60, 1e-3);
  std::vector<double> bins(62, 0.0);
  for (const RequestRecord& record : result.records) {
    if (record.chunk_times.empty()) continue;
    const double tokens = double(record.completion_tokens) / double(record.chunk_times.size());
    for (const double time : record.chunk_times) {
      const double place = std::clamp((time - start) / bin, 0.0, 61.0);
      bins[static_cast<size_t>(place)] += tokens;
    }
  }
  for (size_t i = 0; i < 60; ++i) {
    series.points.emplace_back((double(i) + 0.5) * bin, bins[i] / bin);
  }
  return series;
}

}  // namespace

std::string MakeSvg(const LoadResult& result) {
  const LoadSamples samples = Samples(result);
  const double width = 2 * kPanelWidth + 4 * kMargin;
  const double height = kPanelHeight + 2 * kMargin;
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + Number(width) +
                    "\" height=\"" + Number(height) +
                    "\" font-family=\"sans-serif\" font-size=\"12\">\n"
                    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  out += Panel(kMargin + 10, kMargin, "share of requests within (ms)", true,
               {Distribution("first token", "#d62728", samples.ttft),
                Distribution("between chunks", "#2ca02c", samples.inter_chunk),
                Distribution("whole request", "#9467bd", samples.end_to_end)});
  out += Panel(kPanelWidth + 3 * kMargin, kMargin, "over time (s)", false, {Throughput(result)});
  return out + "</svg>\n";
}

}  // namespace palu::bench
