// Perplexity through the serving path: ModelRunner, its paged latent cache, chunked prefill.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/model/model_runner.h"
#include "tools/eval/recipes.h"

namespace palu {

struct EvalOptions {
  std::string model;
  std::string reference;  // for KL divergence and top-1 agreement; may be empty
  std::vector<std::string> text;
  std::string recipe = "documents-1024";
  int window = 0, stride = 0;  // 0: the recipe's
  int max_windows = 0;         // 0: all
  std::string kv = "auto";     // cache format of layers that the checkpoint does not settle
  std::string rotation = "auto";
  std::string device = "auto";
  int threads = 0;
  int chunk_tokens = 256;  // prefilled in one step
};

struct EvalResult {
  std::string model;
  double loss = 0;  // mean nats per predicted token
  int64_t tokens = 0, windows = 0;
  double bytes_per_token = 0, bytes_per_token_16bit = 0;
  bool has_reference = false;
  double kl = 0;    // mean KL(reference || model), nats
  double top1 = 0;  // share of positions whose most likely token is the reference's
  // Mean loss of the predictions of each eighth of the window.
  std::vector<double> loss_by_position;
  double seconds = 0;

  double perplexity() const;
};

// Runs windows one after the other through one runner. Not thread-safe.
class WindowScorer {
 public:
  // Called for every position with its logits [V].
  using Visit = std::function<void(int position, std::span<const float> logits)>;

  WindowScorer(const std::string& model, const EvalOptions& options, int window);
  // Forgets what was cached before when begin is 0. Tokens [begin, end) of the window.
  void Score(std::span<const int32_t> window, int begin, int end, const Visit& visit);
  const ModelRunner& runner() const { return *runner_; }

 private:
  std::unique_ptr<ModelRunner> runner_;
  int block_tokens_ = 0;
};

using EvalProgress = std::function<void(int done, int total, double perplexity)>;

// Throws LoadError or std::runtime_error, one line.
EvalResult Evaluate(const EvalOptions& options, const EvalProgress& progress);

nlohmann::json ToJson(const EvalResult& result);

// A table of results, best perplexity last.
std::string CompareTable(const std::vector<EvalResult>& results);
// Perplexity against bytes per token.
std::string CompareSvg(const std::vector<EvalResult>& results);

}  // namespace palu
