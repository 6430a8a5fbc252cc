#include "tools/compress/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "engine/model/json_file.h"
#include "tools/eval/format.h"

namespace palu {
namespace {

int TotalRank(const ProjectionSpec& spec) {
  int total = 0;
  for (const int rank : spec.ranks) total += rank;
  return total;
}

std::string Describe(const ProjectionSpec& spec) {
  std::string text = spec.dense ? (spec.hadamard ? "dense, rotated" : "dense") : "";
  for (size_t g = 0; !spec.dense && g < spec.ranks.size(); ++g) {
    if (g > 0) text.append(1, '+');
    text.append(std::to_string(spec.ranks[g]));
  }
  return text.append(" × ").append(Name(spec.format));
}

const char* Color(const ProjectionSpec& spec) {
  if (spec.format == LatentFormat::kFp8) return "#b5de2b";
  switch (Bits(spec.format)) {
    case 2:
      return "#440154";
    case 3:
      return "#3b528b";
    case 4:
      return "#21918c";
    case 8:
      return "#5ec962";
    default:
      return "#fde725";
  }
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  if (!out.flush()) throw CompressError(path + ": cannot be written (disk full?)");
}

}  // namespace

const char* Name(Weighting weighting) {
  switch (weighting) {
    case Weighting::kPalu:
      return "palu";
    case Weighting::kOutput:
      return "output";
    case Weighting::kKfac:
      return "kfac";
  }
  return "?";
}

const char* Name(RankSearch search) {
  switch (search) {
    case RankSearch::kUniform:
      return "uniform";
    case RankSearch::kFisher:
      return "fisher";
    case RankSearch::kFisherUniform:
      return "fisher_uniform";
    case RankSearch::kKfac:
      return "kfac";
  }
  return "?";
}

std::string CommandLine(const CompressOptions& o) {
  std::string line = "palu-compress --model " + o.model + " --out " + o.out + " --calibration";
  for (const std::string& file : o.calibration) line.append(1, ' ').append(file);
  line += Format(" --recipe %s --calibration-tokens %lld --search-tokens %lld --method %s",
                 o.recipe.c_str(), static_cast<long long>(o.calibration_tokens),
                 static_cast<long long>(o.search_tokens), Name(o.weighting));
  line += Format(" --group-size-k %d --group-size-v %d", o.key_heads_per_group,
                 o.value_heads_per_group);
  if (o.keep_key > 0) {
    line += Format(" --rank-search %s --keep-k %g --keep-v %g --bits-k %s --bits-v %s",
                   Name(o.rank_search), o.keep_key, o.keep_value,
                   BitsOfFormat(o.key_format).c_str(), BitsOfFormat(o.value_format).c_str());
  }
  if (o.budget > 0) line += Format(" --budget %g", o.budget);
  if (o.max_ppl_increase > 0) line += Format(" --max-ppl-increase %g%%", 100 * o.max_ppl_increase);
  if (o.keep_key == 0) line += Format(" --evaluations %d", o.evaluations);
  if (!o.warm_start.empty()) line += " --warm-start " + o.warm_start;
  if (o.decode_cost > 0) line += Format(" --decode-cost %g", o.decode_cost);
  if (o.export_official) line += " --export-official";
  return line + Format(" --seed %llu", static_cast<unsigned long long>(o.seed));
}

namespace {

// Pairs of predicted and measured.
nlohmann::json CurveJson(const ResponseCurve& curve) {
  nlohmann::json points = nlohmann::json::array();
  for (const ResponseCurve::Point& p : curve.points()) {
    points.push_back({{"predicted", std::exp(p.log_predicted)},
                      {"measured", std::exp(p.log_predicted + p.log_factor)}});
  }
  return points;
}

ResponseCurve ReadCurve(const Json& points, const std::string& file) {
  ResponseCurve curve;
  for (const Json& point : points) {
    const JsonObject object(point, file, "responses");
    curve.Add(object.Number("predicted", 0, 1e12), object.Number("measured", 0, 1e12));
  }
  return curve;
}

}  // namespace

nlohmann::json ReportJson(const CompressOptions& options, const CompressSummary& summary) {
  nlohmann::json json = {{"command", CommandLine(options)},
                         {"method", Name(options.weighting)},
                         {"bytes_per_token", summary.bytes},
                         {"bytes_per_token_16bit", summary.uncompressed_bytes},
                         {"fraction", summary.bytes / summary.uncompressed_bytes},
                         {"perplexity_before", std::exp(summary.uncompressed_loss)},
                         {"perplexity_after", std::exp(summary.loss.loss)},
                         {"loss_increase", summary.loss.loss - summary.uncompressed_loss},
                         {"divergence", summary.loss.kl},
                         {"divergence_predicted", summary.predicted_kl},
                         {"calibration_tokens", summary.calibration_tokens},
                         {"search_tokens", summary.search_tokens},
                         {"calibration_fingerprint", summary.calibration_fingerprint},
                         {"evaluations", summary.evaluations},
                         {"seed", options.seed},
                         {"seconds", summary.seconds}};
  json["compared"] = nlohmann::json::array();
  for (const ComparedPlan& plan : summary.compared) {
    json["compared"].push_back({{"name", plan.name},
                                {"bytes_per_token", plan.bytes},
                                {"perplexity", std::exp(plan.loss.loss)},
                                {"divergence", plan.loss.kl}});
  }
  json["responses"] = nlohmann::json::array();
  for (const Response& r : summary.responses) {
    json["responses"].push_back({{"cut", CurveJson(r.cut)},
                                 {"coding", CurveJson(r.coding)},
                                 {"dense_coding", CurveJson(r.dense_coding)}});
  }
  if (summary.experts > 0) {
    json["experts"] = {{"all", summary.experts}, {"unseen", summary.unseen_experts}};
  }
  json["layers"] = nlohmann::json::array();
  for (const LayerSpec& layer : summary.plan) {
    json["layers"].push_back({{"k",
                               {{"ranks", layer.key.ranks},
                                {"format", Name(layer.key.format)},
                                {"dense", layer.key.dense}}},
                              {"v",
                               {{"ranks", layer.value.ranks},
                                {"format", Name(layer.value.format)},
                                {"dense", layer.value.dense}}}});
  }
  return json;
}

std::vector<Response> ReadResponses(const std::string& path, int layers) {
  const std::string file = std::filesystem::is_directory(path) ? path + "/report.json" : path;
  const Json root = ParseJson(ReadFile(file), file);
  const Json& list = JsonObject(root, file).Array("responses");
  if (list.size() != static_cast<size_t>(2 * layers)) {
    throw CompressError(file + ": found responses of " + std::to_string(list.size()) +
                        " projections, expected " + std::to_string(2 * layers));
  }
  std::vector<Response> responses;
  for (const Json& entry : list) {
    const JsonObject object(entry, file, "responses");
    responses.push_back({ReadCurve(object.Array("cut"), file),
                         ReadCurve(object.Array("coding"), file),
                         ReadCurve(object.Array("dense_coding"), file)});
  }
  return responses;
}

std::string ReportMarkdown(const CompressOptions& options, const CompressSummary& summary) {
  std::string text = "# KV cache compression\n\n`" + CommandLine(options) + "`\n\n";
  text += Format(
      "| | bytes per token | of the 16-bit cache | perplexity (search windows) | divergence |\n"
      "|---|---|---|---|---|\n| uncompressed, 16 bit | %.1f | 100 %% | %.3f | 0 |\n"
      "| **this checkpoint** | **%.1f** | **%.2f %%** | **%.3f** | **%.5f** |\n",
      summary.uncompressed_bytes, std::exp(summary.uncompressed_loss), summary.bytes,
      100 * summary.bytes / summary.uncompressed_bytes, std::exp(summary.loss.loss),
      summary.loss.kl);
  for (const ComparedPlan& plan : summary.compared) {
    text += Format("| %s | %.1f | %.2f %% | %.3f | %.5f |\n", plan.name.c_str(), plan.bytes,
                   100 * plan.bytes / summary.uncompressed_bytes, std::exp(plan.loss.loss),
                   plan.loss.kl);
  }
  const bool lost = std::any_of(summary.compared.begin(), summary.compared.end(),
                                [&](const ComparedPlan& p) { return p.loss.kl < summary.loss.kl; });
  if (!summary.compared.empty()) {
    text += lost ? "\n**A simpler choice measured better at no more bytes: see the table.**\n"
                 : "\nNo simpler choice of at most these bytes measured better.\n";
  }
  text += Format(
      "\nDivergence: KL from the uncompressed model, nats per token; what the search minimises. "
      "Scales and zeros are counted. Calibrated on %lld tokens, measured on %lld others "
      "of the same text; %d plans were measured; %.0f s.\n",
      static_cast<long long>(summary.calibration_tokens),
      static_cast<long long>(summary.search_tokens), summary.evaluations, summary.seconds);
  if (summary.experts > 0) {
    text += Format("Of %d experts %d saw no calibration token.\n", summary.experts,
                   summary.unseen_experts);
  }
  text += "\n![ranks](ranks.svg)\n\n| layer | K | V |\n|---|---|---|\n";
  for (size_t i = 0; i < summary.plan.size(); ++i) {
    text += Format("| %zu | %s | %s |\n", i, Describe(summary.plan[i].key).c_str(),
                   Describe(summary.plan[i].value).c_str());
  }
  return text;
}

std::string RanksSvg(const CompressionPlan& plan) {
  constexpr int kBar = 12, kHeight = 160, kLeft = 40, kTop = 30;
  int most = 1;
  for (const LayerSpec& layer : plan) {
    most = std::max({most, TotalRank(layer.key), TotalRank(layer.value)});
  }
  const int layers = static_cast<int>(plan.size());
  const int width = kLeft + layers * (2 * kBar + 8) + 20;
  std::string svg = Format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"white\"/>\n<text x=\"%d\" y=\"14\">cached numbers per token: K left, V right; "
      "bits by colour</text>\n",
      std::max(width, 360), kTop + kHeight + 50, kLeft);
  for (int i = 0; i < layers; ++i) {
    for (const bool key : {true, false}) {
      const ProjectionSpec& spec = key ? plan[i].key : plan[i].value;
      const int height = kHeight * TotalRank(spec) / most;
      const int x = kLeft + i * (2 * kBar + 8) + (key ? 0 : kBar);
      svg += Format(
          "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\">"
          "<title>layer %d %s: %s</title></rect>\n",
          x, kTop + kHeight - height, kBar - 1, height, Color(spec), i, key ? "K" : "V",
          Describe(spec).c_str());
    }
    svg += Format("<text x=\"%d\" y=\"%d\">%d</text>\n", kLeft + i * (2 * kBar + 8) + kBar - 4,
                  kTop + kHeight + 12, i);
  }
  svg += Format("<text x=\"2\" y=\"%d\">%d</text>\n", kTop + 8, most);
  int x = kLeft;
  for (const auto format : {LatentFormat::kInt2, LatentFormat::kInt3, LatentFormat::kInt4,
                            LatentFormat::kInt8, LatentFormat::kFp8, LatentFormat::kF16}) {
    ProjectionSpec spec;
    spec.format = format;
    svg += Format(
        "<rect x=\"%d\" y=\"%d\" width=\"10\" height=\"10\" fill=\"%s\"/>"
        "<text x=\"%d\" y=\"%d\">%s</text>\n",
        x, kTop + kHeight + 26, Color(spec), x + 13, kTop + kHeight + 35, Name(format));
    x += 50;
  }
  return svg + "</svg>\n";
}

void WriteReport(const CompressOptions& options, const CompressSummary& summary,
                 const std::string& directory) {
  WriteText(directory + "/report.json", ReportJson(options, summary).dump(1) + "\n");
  WriteText(directory + "/report.md", ReportMarkdown(options, summary));
  WriteText(directory + "/ranks.svg", RanksSvg(summary.plan));
}

}  // namespace palu
