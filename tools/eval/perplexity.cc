#include "tools/eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "engine/status.h"

namespace palu {
namespace {

constexpr int kPositionBuckets = 8;
constexpr int kBlockTokens = 16;

struct LogSoftmax {
  double peak = 0, log_sum = 0;
  int best = 0;

  explicit LogSoftmax(std::span<const float> logits) {
    best = static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    peak = logits[best];
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - peak);
    log_sum = std::log(sum) + peak;
  }
};

double KlDivergence(std::span<const float> reference, const LogSoftmax& p,
                    std::span<const float> logits, const LogSoftmax& q) {
  double kl = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - p.log_sum;
    kl += std::exp(log_p) * (log_p - (logits[i] - q.log_sum));
  }
  return kl;
}

// Sums over the positions that count.
struct Totals {
  double loss = 0, kl = 0;
  int64_t tokens = 0, agreed = 0;
  std::vector<double> bucket_loss = std::vector<double>(kPositionBuckets, 0.0);
  std::vector<int64_t> bucket_tokens = std::vector<int64_t>(kPositionBuckets, 0);
};

class Evaluation {
 public:
  explicit Evaluation(const EvalOptions& options) : o_(options), recipe_(ParseRecipe(o_.recipe)) {
    if (o_.window > 0) recipe_.window = recipe_.stride = o_.window;
    if (o_.stride > 0) recipe_.stride = o_.stride;
    if (recipe_.window < 2 || recipe_.stride > recipe_.window) {
      throw std::runtime_error(
          "--window and --stride: expected 1 <= stride <= window, window >= 2");
    }
    model_ = std::make_unique<WindowScorer>(o_.model, o_, recipe_.window);
    if (!o_.reference.empty()) {
      EvalOptions plain = o_;
      plain.kv = plain.rotation = "auto";
      reference_ = std::make_unique<WindowScorer>(o_.reference, plain, recipe_.window);
      if (reference_->runner().config().vocab_size != config().vocab_size) {
        throw LoadError(o_.reference + ": vocab_size " +
                        std::to_string(reference_->runner().config().vocab_size) + ", expected " +
                        std::to_string(config().vocab_size) + " as in " + o_.model);
      }
    }
  }

  EvalResult Run(const EvalProgress& progress) {
    const auto start = std::chrono::steady_clock::now();
    const auto tokenizer = LoadTokenizer(o_.model);
    const std::vector<int32_t> ids =
        TokenizeFiles(o_.text, *tokenizer, config(), recipe_.documents);
    std::vector<std::vector<int32_t>> windows = CutWindows(ids, recipe_.window, recipe_.stride);
    if (windows.empty()) {
      throw std::runtime_error("--text: found " + std::to_string(ids.size()) +
                               " tokens, expected a window of " + std::to_string(recipe_.window));
    }
    if (o_.max_windows > 0 && windows.size() > static_cast<size_t>(o_.max_windows)) {
      windows.resize(o_.max_windows);
    }
    for (size_t i = 0; i < windows.size(); ++i) {
      // Overlapping windows count only what the one before did not.
      ScoreWindow(windows[i], i == 0 ? 0 : recipe_.window - recipe_.stride - 1);
      if (progress) {
        progress(static_cast<int>(i + 1), static_cast<int>(windows.size()),
                 std::exp(totals_.loss / static_cast<double>(totals_.tokens)));
      }
    }
    return Finish(static_cast<int64_t>(windows.size()),
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }

 private:
  const ModelConfig& config() const { return model_->runner().config(); }

  void ScoreWindow(const std::vector<int32_t>& window, int first_scored) {
    const int size = recipe_.window;
    const auto vocabulary = static_cast<size_t>(config().vocab_size);
    for (int begin = 0; begin < size; begin += o_.chunk_tokens) {
      const int end = std::min(size, begin + o_.chunk_tokens);
      std::vector<float> expected;
      if (reference_) {
        expected.resize(static_cast<size_t>(end - begin) * vocabulary);
        reference_->Score(window, begin, end, [&](int position, std::span<const float> logits) {
          std::copy(logits.begin(), logits.end(),
                    expected.begin() + static_cast<int64_t>((position - begin) * vocabulary));
        });
      }
      model_->Score(window, begin, end, [&](int position, std::span<const float> logits) {
        if (position < first_scored || position + 1 >= size) return;
        const std::span<const float> row = expected.empty()
                                               ? std::span<const float>()
                                               : std::span<const float>(expected).subspan(
                                                     (position - begin) * vocabulary, vocabulary);
        Add(position, window[position + 1], logits, row);
      });
    }
  }

  void Add(int position, int32_t target, std::span<const float> logits,
           std::span<const float> reference) {
    const LogSoftmax q(logits);
    const double loss = q.log_sum - logits[target];
    totals_.loss += loss;
    ++totals_.tokens;
    const int bucket = position * kPositionBuckets / recipe_.window;
    totals_.bucket_loss[bucket] += loss;
    ++totals_.bucket_tokens[bucket];
    if (reference.empty()) return;
    const LogSoftmax p(reference);
    totals_.kl += KlDivergence(reference, p, logits, q);
    totals_.agreed += p.best == q.best ? 1 : 0;
  }

  EvalResult Finish(int64_t windows, double seconds) const {
    EvalResult result;
    const auto tokens = static_cast<double>(totals_.tokens);
    result.model = o_.model;
    result.loss = totals_.loss / tokens;
    result.tokens = totals_.tokens;
    result.windows = windows;
    result.bytes_per_token = model_->runner().cache_report().bytes_per_token;
    result.bytes_per_token_16bit = model_->runner().cache_report().bytes_per_token_uncompressed;
    result.has_reference = reference_ != nullptr;
    result.kl = totals_.kl / tokens;
    result.top1 = static_cast<double>(totals_.agreed) / tokens;
    for (int b = 0; b < kPositionBuckets; ++b) {
      result.loss_by_position.push_back(totals_.bucket_tokens[b] == 0
                                            ? 0.0
                                            : totals_.bucket_loss[b] /
                                                  static_cast<double>(totals_.bucket_tokens[b]));
    }
    result.seconds = seconds;
    return result;
  }

  EvalOptions o_;
  Recipe recipe_;
  std::unique_ptr<WindowScorer> model_, reference_;
  Totals totals_;
};

}  // namespace

double EvalResult::perplexity() const { return std::exp(loss); }

WindowScorer::WindowScorer(const std::string& model, const EvalOptions& options, int window) {
  ModelOptions model_options;
  model_options.path = model;
  model_options.max_context_tokens = window;
  EngineOptions engine;
  engine.device = options.device;
  engine.cpu_threads = options.threads;
  engine.max_sequences = 1;
  engine.step_tokens = options.chunk_tokens;
  CacheOptions cache;
  cache.block_tokens = kBlockTokens;
  cache.format = options.kv;
  cache.rotation = options.rotation;
  cache.group_layers = false;
  runner_ = ModelRunner::Load(model_options, engine, cache);
  block_tokens_ = kBlockTokens;
}

void WindowScorer::Score(std::span<const int32_t> window, int begin, int end, const Visit& visit) {
  static const SamplingParams kGreedy = [] {
    SamplingParams params;
    params.temperature = 0;
    return params;
  }();
  StepBatch batch;
  batch.max_blocks = (end + block_tokens_ - 1) / block_tokens_;
  for (int block = 0; block < batch.max_blocks; ++block) batch.block_tables.push_back(block);
  batch.cu_seqlens = {0, end - begin};
  batch.context_lens = {end};
  for (int position = begin; position < end; ++position) {
    batch.token_ids.push_back(window[position]);
    batch.positions.push_back(position);
    batch.slot_mapping.push_back(position);
    SampleRow row;
    row.token_index = position - begin;
    row.params = &kGreedy;
    batch.rows.push_back(row);
  }
  const auto vocabulary = static_cast<size_t>(runner_->config().vocab_size);
  runner_->ObserveLogits([&](int64_t first_row, std::span<const float> logits) {
    for (size_t r = 0; r < logits.size() / vocabulary; ++r) {
      visit(begin + static_cast<int>(first_row) + static_cast<int>(r),
            logits.subspan(r * vocabulary, vocabulary));
    }
  });
  runner_->Run(batch);
  runner_->ObserveLogits({});
}

EvalResult Evaluate(const EvalOptions& options, const EvalProgress& progress) {
  return Evaluation(options).Run(progress);
}

}  // namespace palu
