#include "tools/eval/needle.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include "tools/eval/format.h"

namespace palu {
namespace {

struct Scored {
  bool found = true;
  double loss = 0;
};

class Needles {
 public:
  Needles(const EvalOptions& options, const NeedleOptions& needles)
      : o_(options),
        needles_(needles),
        window_(options.window > 0 ? options.window : ParseRecipe(options.recipe).window),
        scorer_(options.model, options, window_),
        tokenizer_(LoadTokenizer(options.model)),
        text_(TokenizeFiles(options.text, *tokenizer_, scorer_.runner().config(), false)) {
    if (static_cast<int64_t>(text_.size()) < 2 * int64_t{window_}) {
      throw std::runtime_error("--text: found " + std::to_string(text_.size()) +
                               " tokens, expected at least two windows of " +
                               std::to_string(window_));
    }
  }

  NeedleResult Run(const EvalProgress& progress) {
    NeedleResult result{o_.model, window_, {}};
    std::mt19937_64 random(needles_.seed);
    const int total = needles_.depths * needles_.trials;
    double loss = 0;
    for (int d = 0; d < needles_.depths; ++d) {
      NeedleDepth depth;
      depth.depth = needles_.depths == 1 ? 0.5 : static_cast<double>(d) / (needles_.depths - 1);
      for (int trial = 0; trial < needles_.trials; ++trial) {
        const std::string key = std::to_string(10000 + random() % 90000);
        const size_t begin = random() % (text_.size() - static_cast<size_t>(window_));
        const Scored with = Score(begin, depth.depth, key, true);
        depth.found += with.found ? 1.0 / needles_.trials : 0.0;
        depth.loss += with.loss / needles_.trials;
        depth.without += Score(begin, depth.depth, key, false).loss / needles_.trials;
        loss += with.loss;
        const int done = d * needles_.trials + trial + 1;
        if (progress) progress(done, total, std::exp(loss / done));
      }
      result.depths.push_back(depth);
    }
    return result;
  }

 private:
  std::vector<int32_t> Encode(const std::string& text) const {
    return tokenizer_->Encode(text, false);
  }

  Scored Score(size_t begin, double depth, const std::string& key, bool with_needle) {
    std::vector<int32_t> needle;
    if (with_needle) {
      needle = Encode(" The pass key is " + key + ". Remember it. " + key + " is the pass key.");
    }
    const std::vector<int32_t> question = Encode(" The pass key is"), answer = Encode(" " + key);
    const auto parts = static_cast<int64_t>(1 + needle.size() + question.size() + answer.size());
    const int64_t filler = window_ - parts;
    if (filler < 0) {
      throw std::runtime_error("--window " + std::to_string(window_) +
                               ": too small for a needle of " + std::to_string(parts) + " tokens");
    }
    const auto before = static_cast<int64_t>(std::lround(depth * static_cast<double>(filler)));
    std::vector<int32_t> ids;
    const auto& config = scorer_.runner().config();
    ids.push_back(config.bos_token_ids.empty() ? text_[begin] : config.bos_token_ids[0]);
    const auto text = text_.begin() + static_cast<int64_t>(begin);
    ids.insert(ids.end(), text, text + before);
    ids.insert(ids.end(), needle.begin(), needle.end());
    ids.insert(ids.end(), text + before, text + filler);
    ids.insert(ids.end(), question.begin(), question.end());
    const int first = static_cast<int>(ids.size()) - 1;
    ids.insert(ids.end(), answer.begin(), answer.end());
    return ScoreAnswer(ids, first);
  }

  // Predictions at positions first and later.
  Scored ScoreAnswer(const std::vector<int32_t>& ids, int first) {
    Scored scored;
    const int size = static_cast<int>(ids.size());
    for (int begin = 0; begin < size; begin += o_.chunk_tokens) {
      const int end = std::min(size, begin + o_.chunk_tokens);
      scorer_.Score(ids, begin, end, [&](int position, std::span<const float> logits) {
        if (position < first || position + 1 >= size) return;
        const auto peak = std::max_element(logits.begin(), logits.end());
        double sum = 0;
        for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - *peak);
        const int32_t target = ids[position + 1];
        scored.found = scored.found && peak - logits.begin() == target;
        scored.loss += (std::log(sum) + *peak - logits[target]) / (size - 1 - first);
      });
    }
    return scored;
  }

  EvalOptions o_;
  NeedleOptions needles_;
  int window_;
  WindowScorer scorer_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<int32_t> text_;
};

}  // namespace

NeedleResult FindNeedles(const EvalOptions& options, const NeedleOptions& needles,
                         const EvalProgress& progress) {
  if (needles.depths < 1 || needles.trials < 1) {
    throw std::runtime_error("needle: expected at least one depth and one trial");
  }
  return Needles(options, needles).Run(progress);
}

nlohmann::json ToJson(const NeedleResult& result) {
  nlohmann::json json = {{"model", result.model}, {"window", result.window}};
  for (const NeedleDepth& d : result.depths) {
    json["needle"].push_back({{"depth", d.depth},
                              {"found", d.found},
                              {"loss", d.loss},
                              {"loss_without_needle", d.without}});
  }
  return json;
}

std::string NeedleTable(const NeedleResult& result) {
  std::string text = Format("%s, windows of %d tokens\n", result.model.c_str(), result.window);
  text += "| depth | found | nats per answer token | without the needle |\n|---|---|---|---|\n";
  for (const NeedleDepth& d : result.depths) {
    text += Format("| %.0f %% | %.0f %% | %.3f | %.3f |\n", 100 * d.depth, 100 * d.found, d.loss,
                   d.without);
  }
  return text;
}

}  // namespace palu
