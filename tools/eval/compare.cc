// What palu-eval prints: JSON, a table and a picture.
#include <algorithm>
#include <cmath>

#include "tools/eval/format.h"
#include "tools/eval/perplexity.h"

namespace palu {
namespace {

std::vector<EvalResult> ByBytes(std::vector<EvalResult> results) {
  std::stable_sort(results.begin(), results.end(), [](const EvalResult& a, const EvalResult& b) {
    return a.bytes_per_token < b.bytes_per_token;
  });
  return results;
}

std::string BaseName(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.find_last_of('/') + 1);
}

}  // namespace

nlohmann::json ToJson(const EvalResult& r) {
  nlohmann::json json = {{"model", r.model},
                         {"perplexity", r.perplexity()},
                         {"loss", r.loss},
                         {"tokens", r.tokens},
                         {"windows", r.windows},
                         {"bytes_per_token", r.bytes_per_token},
                         {"bytes_per_token_16bit", r.bytes_per_token_16bit},
                         {"fraction", r.bytes_per_token / r.bytes_per_token_16bit},
                         {"loss_by_position", r.loss_by_position},
                         {"seconds", r.seconds}};
  if (r.has_reference) {
    json["kl"] = r.kl;
    json["top1_agreement"] = r.top1;
  }
  return json;
}

std::string CompareTable(const std::vector<EvalResult>& results) {
  std::string text =
      "| model | bytes per token | of 16 bit | perplexity | KL | top-1 agreement |\n"
      "|---|---|---|---|---|---|\n";
  for (const EvalResult& r : ByBytes(results)) {
    text += Format("| %s | %.1f | %.2f %% | %.3f |", r.model.c_str(), r.bytes_per_token,
                   100 * r.bytes_per_token / r.bytes_per_token_16bit, r.perplexity());
    text +=
        r.has_reference ? Format(" %.5f | %.2f %% |\n", r.kl, 100 * r.top1) : std::string(" | |\n");
  }
  return text;
}

std::string CompareSvg(const std::vector<EvalResult>& results) {
  constexpr double kWidth = 640, kHeight = 400, kMargin = 60;
  const std::vector<EvalResult> sorted = ByBytes(results);
  double low = 1e300, high = 0, most = 0;
  for (const EvalResult& r : sorted) {
    low = std::min(low, r.perplexity());
    high = std::max(high, r.perplexity());
    most = std::max(most, r.bytes_per_token / r.bytes_per_token_16bit);
  }
  if (high <= low) high = low + 1;
  const auto x = [&](double fraction) {
    return kMargin + (kWidth - 2 * kMargin) * fraction / most;
  };
  const auto y = [&](double ppl) {
    return kHeight - kMargin - (kHeight - 2 * kMargin) * (ppl - low) / (high - low);
  };
  std::string svg = Format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"black\"/>\n"
      "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"black\"/>\n",
      kWidth, kHeight, kMargin, kHeight - kMargin, kWidth - kMargin, kHeight - kMargin, kMargin,
      kMargin, kMargin, kHeight - kMargin);
  svg += Format(
      "<text x=\"%.1f\" y=\"%.1f\">cached bytes, %% of the 16-bit cache</text>\n"
      "<text x=\"8\" y=\"%.1f\">perplexity</text>\n"
      "<text x=\"8\" y=\"%.1f\">%.2f</text>\n<text x=\"8\" y=\"%.1f\">%.2f</text>\n",
      kWidth / 2 - 90, kHeight - 15, kMargin - 25, y(low), low, y(high), high);
  for (const EvalResult& r : sorted) {
    const double fraction = r.bytes_per_token / r.bytes_per_token_16bit;
    svg += Format(
        "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#21918c\"/>"
        "<text x=\"%.1f\" y=\"%.1f\">%s (%.1f %%, %.2f)</text>\n",
        x(fraction), y(r.perplexity()), x(fraction) + 6, y(r.perplexity()) - 6,
        BaseName(r.model).c_str(), 100 * fraction, r.perplexity());
  }
  return svg + "</svg>\n";
}

}  // namespace palu
