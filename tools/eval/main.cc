// palu-eval: what a cache costs, measured through the server's own engine.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "tools/eval/needle.h"
#include "tools/eval/perplexity.h"

namespace {

using palu::EvalOptions;
using palu::EvalResult;

void AddOptions(CLI::App* app, EvalOptions* o) {
  app->add_option("--text", o->text, "text files")->required();
  app->add_option("--recipe", o->recipe,
                  "documents-N (each <bos> text <eos>; documents-1024 is the goldens') or stream-N "
                  "(one stream; stream-2048 and stream-4096 are the Palu paper's)")
      ->capture_default_str();
  app->add_option("--window", o->window, "tokens; over the recipe's");
  app->add_option("--stride", o->stride, "below the window: windows overlap, each counts its end");
  app->add_option("--windows", o->max_windows, "at most so many");
  app->add_option("--reference", o->reference, "checkpoint for KL and top-1 agreement");
  app->add_option("--device", o->device)->capture_default_str();
  app->add_option("--threads", o->threads, "0: all cores");
  app->add_option("--chunk-tokens", o->chunk_tokens, "prefilled in one step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
}

EvalResult Run(const EvalOptions& options, bool quiet) {
  const auto progress = [&](int done, int total, double perplexity) {
    if (quiet) return;
    std::fprintf(stderr, "\r%s: window %d / %d, perplexity %.3f%s", options.model.c_str(), done,
                 total, perplexity, done == total ? "\n" : "");
  };
  return palu::Evaluate(options, progress);
}

int Needle(const EvalOptions& options, const palu::NeedleOptions& needles, bool json, bool quiet) {
  const palu::NeedleResult result =
      palu::FindNeedles(options, needles, [&](int done, int total, double) {
        if (!quiet)
          std::fprintf(stderr, "\rneedle %d / %d%s", done, total, done == total ? "\n" : "");
      });
  std::printf("%s%s",
              json ? palu::ToJson(result).dump(1).c_str() : palu::NeedleTable(result).c_str(),
              json ? "\n" : "");
  return 0;
}

// "DIR" or "DIR@format".
EvalOptions OptionsOf(const std::string& entry, EvalOptions options) {
  const size_t at = entry.rfind('@');
  options.model = entry.substr(0, at);
  options.kv = at == std::string::npos ? "auto" : entry.substr(at + 1);
  return options;
}

int Compare(const EvalOptions& options, const std::vector<std::string>& entries,
            const std::string& svg, bool json, bool quiet) {
  std::vector<EvalResult> results;
  for (const std::string& entry : entries) {
    results.push_back(Run(OptionsOf(entry, options), quiet));
    results.back().model = entry;
  }
  if (json) {
    nlohmann::json all = nlohmann::json::array();
    for (const EvalResult& result : results) all.push_back(palu::ToJson(result));
    std::printf("%s\n", all.dump(1).c_str());
  } else {
    std::printf("%s", palu::CompareTable(results).c_str());
  }
  if (svg.empty()) return 0;
  std::ofstream out(svg);
  out << palu::CompareSvg(results);
  if (!out.flush()) throw std::runtime_error(svg + ": cannot be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Perplexity, KL divergence and bytes per token through the serving engine.");
  EvalOptions options;
  bool json = false, quiet = false;
  std::string svg;
  std::vector<std::string> entries;
  CLI::App* compare = app.add_subcommand("compare", "several checkpoints, a table and a picture");
  compare->add_option("models", entries, "DIR or DIR@format (int4: a plain int4 cache)")
      ->required();
  compare->add_option("--svg", svg, "file to write");
  compare->add_flag("--json", json);
  compare->add_flag("--quiet", quiet);
  AddOptions(compare, &options);
  CLI::App single("");
  single.add_option("--model", options.model, "checkpoint directory")->required();
  single
      .add_option("--kv", options.kv,
                  "cache of layers that the checkpoint leaves dense and open: auto, f32, bf16, "
                  "f16, fp8, int8, int4, int3, int2")
      ->capture_default_str();
  single.add_option("--rotation", options.rotation, "auto, none or hadamard")
      ->capture_default_str();
  single.add_flag("--json", json);
  single.add_flag("--quiet", quiet);
  palu::NeedleOptions needles{.trials = 0};
  single
      .add_option("--needle", needles.trials,
                  "needle in a haystack instead of perplexity: trials at every depth")
      ->check(CLI::Range(1, 100000));
  single.add_option("--needle-depths", needles.depths)->capture_default_str();
  single.add_option("--seed", needles.seed, "of the needles")->capture_default_str();
  AddOptions(&single, &options);
  try {
    if (argc > 1 && std::string(argv[1]) == "compare") {
      CLI11_PARSE(app, argc, argv);
      return Compare(options, entries, svg, json, quiet);
    }
    CLI11_PARSE(single, argc, argv);
    if (options.kv == "dense") options.kv = "auto";
    if (needles.trials > 0) return Needle(options, needles, json, quiet);
    const EvalResult result = Run(options, quiet);
    if (json) {
      std::printf("%s\n", palu::ToJson(result).dump(1).c_str());
    } else {
      std::printf("%s", palu::CompareTable({result}).c_str());
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "palu-eval: %s\n", error.what());
    return 2;
  }
}
