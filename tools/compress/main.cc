// palu-compress: a Hugging Face checkpoint in, one with a small cache out.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "tools/compress/compress.h"

namespace {

using palu::CompressOptions;
using palu::RankSearch;
using palu::Weighting;

struct Extra {  // options that need a second look
  std::string rank_search = "auto", max_ppl_increase, weights;
  std::string bits, key_bits, value_bits;
  std::vector<std::string> search_bits;
  int group_size = 0;
  double keep = 0;
};

void AddOptions(CLI::App* app, CompressOptions* o, Extra* extra) {
  static const std::map<std::string, Weighting> kMethods = {
      {"palu", Weighting::kPalu}, {"output", Weighting::kOutput}, {"kfac", Weighting::kKfac}};
  app->add_option("--model", o->model, "Hugging Face checkpoint directory")->required();
  app->add_option("--out", o->out, "directory to make")->required();
  app->add_option("--calibration", o->calibration, "text files");
  app->add_option("--recipe", o->recipe, "documents-N or stream-N: windows of N tokens")
      ->capture_default_str();
  app->add_option("--calibration-tokens", o->calibration_tokens)->capture_default_str();
  app->add_option("--search-tokens", o->search_tokens, "held out of calibration, for measuring")
      ->capture_default_str();
  app->add_option("--method", o->weighting, "palu, output or kfac")
      ->transform(CLI::CheckedTransformer(kMethods));
  app->add_option("--rank-search", extra->rank_search,
                  "uniform, fisher, fisher_uniform, kfac; search (needs --budget)");
  app->add_option("--group-size", extra->group_size, "KV heads per group; 0: 4 or what divides");
  app->add_option("--group-size-k", o->key_heads_per_group);
  app->add_option("--group-size-v", o->value_heads_per_group);
  app->add_option("--keep", extra->keep, "kept fraction of ranks")->check(CLI::Range(0.001, 1.0));
  app->add_option("--keep-k", o->keep_key)->check(CLI::Range(0.001, 1.0));
  app->add_option("--keep-v", o->keep_value)->check(CLI::Range(0.001, 1.0));
  app->add_option("--bits", extra->bits, "16, fp8, 8, 4, 3 or 2 (with --keep)");
  app->add_option("--bits-k", extra->key_bits);
  app->add_option("--bits-v", extra->value_bits);
  app->add_option("--budget", o->budget, "cached bytes as a fraction of the 16-bit cache")
      ->check(CLI::Range(1e-4, 1.0));
  app->add_option("--max-ppl-increase", extra->max_ppl_increase, "e.g. 2%: the smallest cache");
  app->add_option("--evaluations", o->evaluations, "plans to measure; 0: statistics alone")
      ->capture_default_str();
  app->add_option("--search-bits", extra->search_bits, "bits to choose from: 16,8,4,3,2 or others")
      ->delimiter(',');
  app->add_option("--warm-start", o->warm_start,
                  "directory of an earlier search of this model: begin with what it measured");
  app->add_option("--decode-cost", o->decode_cost, "nats for rebuilding keys at full rank");
  app->add_option("--damping", o->input_damping)->capture_default_str();
  app->add_option("--gradient-damping", o->output_damping)->capture_default_str();
  app->add_option("--seed", o->seed)->capture_default_str();
  app->add_option("--statistics", o->statistics,
                  "file of calibration statistics: read if it fits, else written; what searches "
                  "measure is kept beside it");
  app->add_option("--weights", extra->weights, "int8 or int4: round the weights too")
      ->check(CLI::IsMember({"int8", "int4"}));
  app->add_flag("--weights-only", o->weights_only,
                "round the weights and leave the cache as it is; needs no text");
  app->add_flag("--export-official", o->export_official, "the Palu authors' layout");
  app->add_flag("--resume", o->resume, "go on from OUT.partial");
  app->add_option("--threads", o->threads, "0: all cores");
  app->add_option("--memory-bytes", o->memory_bytes, "for weights and activations")
      ->capture_default_str();
  app->add_flag("--quiet", o->quiet);
}

double ParsePercent(const std::string& text) {
  size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  const std::string rest = text.substr(used);
  if (used == 0 || !(value > 0) || (rest != "%" && !rest.empty())) {
    throw palu::CompressError("--max-ppl-increase: found \"" + text + "\", expected e.g. 2%");
  }
  return rest == "%" ? value / 100 : value;
}

void Settle(const CLI::App& app, const Extra& extra, CompressOptions* o) {
  o->weights = palu::ParseWeightFormat(extra.weights).value_or(palu::WeightFormat::kStored);
  if (o->weights_only) {
    if (extra.weights.empty()) throw palu::CompressError("--weights-only: expected --weights too");
    return;
  }
  const std::map<std::string, RankSearch> searches = {
      {"auto", RankSearch::kFisherUniform}, {"uniform", RankSearch::kUniform},
      {"fisher", RankSearch::kFisher},      {"fisher_uniform", RankSearch::kFisherUniform},
      {"kfac", RankSearch::kKfac},          {"search", RankSearch::kKfac}};
  const auto search = searches.find(extra.rank_search);
  if (search == searches.end()) {
    throw palu::CompressError("--rank-search: found \"" + extra.rank_search +
                              "\", expected uniform, fisher, fisher_uniform, kfac or search");
  }
  o->rank_search = search->second;
  if (app.count("--group-size") > 0) {
    if (app.count("--group-size-k") == 0) o->key_heads_per_group = extra.group_size;
    if (app.count("--group-size-v") == 0) o->value_heads_per_group = extra.group_size;
  }
  const std::string& key_bits = extra.key_bits.empty() ? extra.bits : extra.key_bits;
  const std::string& value_bits = extra.value_bits.empty() ? extra.bits : extra.value_bits;
  if (!key_bits.empty()) o->key_format = palu::FormatOfBits(key_bits);
  if (!value_bits.empty()) o->value_format = palu::FormatOfBits(value_bits);
  if (!extra.search_bits.empty()) o->search_formats.clear();
  for (const std::string& bits : extra.search_bits) {
    o->search_formats.push_back(palu::FormatOfBits(bits));
  }
  if (o->keep_key == 0) o->keep_key = extra.keep;
  if (o->keep_value == 0) o->keep_value = extra.keep;
  if ((o->keep_key > 0) != (o->keep_value > 0)) {
    throw palu::CompressError("--keep-k and --keep-v: expected both, or --keep");
  }
  if (!extra.max_ppl_increase.empty()) o->max_ppl_increase = ParsePercent(extra.max_ppl_increase);
  const int goals =
      (o->keep_key > 0 ? 1 : 0) + (o->budget > 0 ? 1 : 0) + (o->max_ppl_increase > 0 ? 1 : 0);
  if (goals > 1) {
    throw palu::CompressError("expected one of --keep, --budget and --max-ppl-increase");
  }
  if (goals == 0) {
    o->budget = 0.125;
    if (app.count("--evaluations") == 0 && extra.rank_search != "search") o->evaluations = 0;
  }
  if (o->keep_key == 0 && o->weighting != Weighting::kKfac) {
    throw palu::CompressError("--budget and --max-ppl-increase: expected --method kfac");
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Large matrices come and go all the time: keep their pages instead of faulting them in again.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  CLI::App app(
      "Compresses the KV cache, the weights or both of a Hugging Face checkpoint after training.\n"
      "Without --keep, --budget or --max-ppl-increase: --budget 0.125 by the K-FAC "
      "statistics alone, which is quick.");
  CompressOptions options;
  Extra extra;
  AddOptions(&app, &options, &extra);
  CLI11_PARSE(app, argc, argv);
  try {
    Settle(app, extra, &options);
    if (options.weights_only) {
      const palu::QuantizeSummary summary = palu::QuantizeWeights(options);
      std::printf("%s: %s weights, %.1f MB instead of %.1f MB\n", options.out.c_str(),
                  palu::Name(options.weights), static_cast<double>(summary.bytes) / 1e6,
                  static_cast<double>(summary.bytes_before) / 1e6);
      return 0;
    }
    const palu::CompressSummary summary = palu::Compress(options);
    std::printf("%s: %.1f bytes per token, %.2f %% of 16 bit; perplexity %.3f -> %.3f; %.0f s\n",
                options.out.c_str(), summary.bytes,
                100 * summary.bytes / summary.uncompressed_bytes,
                std::exp(summary.uncompressed_loss), std::exp(summary.loss.loss), summary.seconds);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "palu-compress: %s\n", error.what());
    return 2;
  }
}
