#include "tools/compress/compress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>

#include "engine/model/packed_weights.h"
#include "server/text/tokenizer.h"
#include "tools/compress/blas.h"
#include "tools/compress/checkpoint_model.h"
#include "tools/compress/checkpoint_writer.h"
#include "tools/compress/report.h"
#include "tools/compress/search.h"
#include "tools/compress/statistics_file.h"
#include "tools/eval/recipes.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

constexpr int kBudgetSteps = 7;  // of the bisection for max_ppl_increase

uint64_t Fingerprint(const TokenWindows& windows) {
  uint64_t hash = 1469598103934665603ull;  // FNV-1a
  for (const auto& window : windows) {
    for (const int32_t id : window) hash = (hash ^ static_cast<uint32_t>(id)) * 1099511628211ull;
  }
  return hash;
}

std::string Hex(uint64_t value) {
  char text[20];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

// keep: what an earlier run left in the partial directory.
void PrepareDirectory(const std::string& out, const std::string& partial, bool keep) {
  if (fs::exists(out)) throw CompressError(out + ": exists already; expected a new directory");
  std::error_code error;
  if (!keep) fs::remove_all(partial, error);
  fs::create_directories(partial, error);
  if (error) throw CompressError(partial + ": " + error.message());
}

// One run: the steps share the model, its statistics and its factors.
class Compression {
 public:
  explicit Compression(CompressOptions options)
      : o_(std::move(options)),
        recipe_(ParseRecipe(o_.recipe)),
        partial_(o_.out + ".partial"),
        model_(o_.model, recipe_.window, o_.memory_bytes / 2) {
    const ModelConfig& config = model_.config();
    for (int* size : {&o_.key_heads_per_group, &o_.value_heads_per_group}) {
      if (*size == 0) *size = std::gcd(4, config.num_kv_heads);
      if (config.num_kv_heads % *size != 0) {
        throw CompressError("--group-size " + std::to_string(*size) + ": expected a divisor of " +
                            std::to_string(config.num_kv_heads) + " KV heads");
      }
    }
    if (config.max_position_embeddings < recipe_.window) {
      throw CompressError("--recipe " + o_.recipe + ": the model knows " +
                          std::to_string(config.max_position_embeddings) + " positions");
    }
  }

  CompressSummary Run() {
    const auto start = std::chrono::steady_clock::now();
    PrepareDirectory(o_.out, partial_, o_.resume);
    ReadText();
    GatherStatistics();
    factors_ = std::make_unique<FactorStore>(FactorStore::Build(
        &model_, statistics_, FactorOptions(o_.weighting), Progress("factors: layer")));
    evaluator_ =
        std::make_unique<PlanEvaluator>(&model_, factors_.get(), &search_, o_.memory_bytes / 2);
    log_ = OpenLog(o_.weighting);
    summary_.uncompressed_bytes = UncompressedBytesPerToken(model_.config());
    summary_.uncompressed_loss = Measure(*evaluator_, nullptr, &log_).loss;
    if (o_.keep_key > 0) {
      FixedRanks();
    } else if (o_.max_ppl_increase > 0) {
      SmallestWithin();
    } else {
      Search(static_cast<int64_t>(o_.budget * summary_.uncompressed_bytes), o_.evaluations);
    }
    summary_.bytes = BytesPerToken(summary_.plan);
    if (o_.keep_key == 0 && o_.evaluations > 1) CompareWithSimpler();
    summary_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Write();
    return summary_;
  }

 private:
  void Say(const std::string& text) const {
    if (!o_.quiet) std::fprintf(stderr, "palu-compress: %s\n", text.c_str());
  }

  CalibrationProgress Progress(const std::string& what) const {
    if (o_.quiet) return {};
    return [what](int done, int total) {
      std::fprintf(stderr, "\r%s %d / %d%s", what.c_str(), done, total, done == total ? "\n" : "");
    };
  }

  // Calibration and search windows lie evenly over the text and do not overlap.
  void ReadText() {
    const auto tokenizer = LoadTokenizer(o_.model);
    const std::vector<int32_t> ids =
        TokenizeFiles(o_.calibration, *tokenizer, model_.config(), recipe_.documents);
    const TokenWindows all = CutWindows(ids, recipe_.window, recipe_.stride);
    const auto wanted = [&](int64_t tokens) {
      return static_cast<size_t>((tokens + recipe_.window - 1) / recipe_.window);
    };
    size_t search = wanted(o_.search_tokens), calibration = wanted(o_.calibration_tokens);
    const size_t hidden_windows = wanted(model_.config().hidden_size);
    if (all.size() < hidden_windows + 1) {
      throw CompressError("calibration text: found " + std::to_string(ids.size()) +
                          " tokens, expected at least " +
                          std::to_string((hidden_windows + 1) * recipe_.window) +
                          " for hidden size " + std::to_string(model_.config().hidden_size) +
                          " and windows of " + std::to_string(recipe_.window));
    }
    if (search + calibration > all.size()) {
      search = std::clamp<size_t>(all.size() * search / (search + calibration), 1,
                                  all.size() - hidden_windows);
      calibration = all.size() - search;
    }
    if (calibration < hidden_windows) {
      throw CompressError("--calibration-tokens " + std::to_string(o_.calibration_tokens) +
                          ": expected at least the hidden size " +
                          std::to_string(model_.config().hidden_size));
    }
    const size_t total = search + calibration;
    for (size_t i = 0, taken = 0; i < total; ++i) {
      const auto& window = all[i * all.size() / total];
      const bool for_search = (i + 1) * search / total > taken;
      taken += for_search ? 1 : 0;
      (for_search ? search_ : calibration_).push_back(window);
    }
    summary_.calibration_fingerprint = Hex(Fingerprint(calibration_));
    summary_.search_tokens = static_cast<int64_t>(search_.size()) * recipe_.window;
  }

  bool NeedsGradients() const {
    return o_.weighting == Weighting::kKfac || o_.rank_search != RankSearch::kUniform ||
           o_.keep_key == 0;
  }

  std::string StatisticsFingerprint() const {
    return "2 " + Hex(Fingerprint(model_.files())) + " " + summary_.calibration_fingerprint;
  }

  // Beside statistics that are kept, so that other budgets find what was measured.
  EvaluationLog OpenLog(Weighting weighting) const {
    const std::string name = std::string("evaluations-") + Name(weighting) + ".txt";
    const bool kept = !o_.statistics.empty();
    return EvaluationLog(kept ? o_.statistics + "." + name : partial_ + "/" + name,
                         EvaluationFingerprint(weighting), kept || o_.resume);
  }

  std::string EvaluationFingerprint(Weighting weighting) const {
    return "2 " + StatisticsFingerprint() + " " + Hex(Fingerprint(search_)) + " " +
           Name(weighting) + " " + std::to_string(o_.key_heads_per_group) + " " +
           std::to_string(o_.value_heads_per_group) + " " + std::to_string(o_.input_damping) + " " +
           std::to_string(o_.output_damping) + " " + std::to_string(o_.seed);
  }

  void GatherStatistics() {
    const bool kept = !o_.statistics.empty();
    const std::string path = kept ? o_.statistics : partial_ + "/statistics.safetensors";
    if (o_.resume || kept) {
      auto known = ReadStatistics(path, StatisticsFingerprint());
      if (known && (known->has_gradients || !NeedsGradients())) statistics_ = std::move(*known);
    }
    if (statistics_.layers.empty()) {
      statistics_ = Calibrate(&model_, calibration_, NeedsGradients(), o_.memory_bytes / 4,
                              Progress("calibration: window"));
      WriteStatistics(path, statistics_, StatisticsFingerprint());
    }
    summary_.calibration_tokens = statistics_.tokens;
    for (const LayerStatistics& layer : statistics_.layers) {
      summary_.experts += static_cast<int>(layer.expert_tokens.size());
      summary_.unseen_experts += static_cast<int>((layer.expert_tokens.array() == 0).count());
    }
    if (summary_.unseen_experts > 0) {
      Say(std::to_string(summary_.unseen_experts) + " of " + std::to_string(summary_.experts) +
          " experts saw no calibration token; give more text");
    }
  }

  FactorStore::Options FactorOptions(Weighting weighting) const {
    FactorStore::Options options;
    options.weighting = weighting;
    options.key_heads_per_group = o_.key_heads_per_group;
    options.value_heads_per_group = o_.value_heads_per_group;
    options.input_damping = o_.input_damping;
    options.output_damping = o_.output_damping;
    options.seed = o_.seed;
    options.file = partial_ + "/factors-" + Name(weighting) + ".safetensors";
    return options;
  }

  PlanLoss Measure(PlanEvaluator& evaluator, const CompressionPlan* plan, EvaluationLog* log) {
    const CompressionPlan key = plan == nullptr ? CompressionPlan() : *plan;
    if (const auto known = log->Find(key)) return *known;
    const PlanLoss loss =
        plan == nullptr ? PlanLoss{evaluator.UncompressedLoss(), 0} : evaluator.Loss(*plan);
    if (plan != nullptr) ++summary_.evaluations;
    log->Add(key, loss);
    return loss;
  }

  void FixedRanks() {
    AllocationOptions allocation;
    allocation.search = o_.rank_search;
    allocation.keep_key = o_.keep_key;
    allocation.keep_value = o_.keep_value;
    allocation.shared = o_.keep_key == o_.keep_value;
    allocation.key_format = o_.key_format;
    allocation.value_format = o_.value_format;
    summary_.plan = Allocate(model_.config(), statistics_, *factors_, allocation);
    summary_.loss = Measure(*evaluator_, &summary_.plan, &log_);
  }

  const std::vector<ChoiceList>& Lists() {
    if (lists_.empty()) {
      lists_ = MakeChoices(&model_, statistics_, *factors_, o_.search_formats);
    }
    return lists_;
  }

  void Search(int64_t budget_bytes, int evaluations) {
    SearchOptions options;
    options.budget_bytes = budget_bytes;
    options.max_evaluations = std::max(1, evaluations);
    options.decode_cost = o_.decode_cost;
    options.responses = summary_.responses;
    if (options.responses.empty() && !o_.warm_start.empty()) {
      options.responses = ReadResponses(o_.warm_start, model_.config().num_layers);
    }
    if (!o_.quiet) options.progress = [this](const SearchProgress& p) { ShowProgress(p); };
    PlanSearch search(&Lists(), evaluator_.get(), &log_, options);
    const SearchResult result = search.Run();
    if (!o_.quiet) std::fprintf(stderr, "\n");
    summary_.plan = result.plan;
    summary_.loss = result.loss;
    summary_.predicted_kl = result.predicted_kl;
    summary_.responses = result.responses;
    summary_.evaluations += result.evaluations;
  }

  void ShowProgress(const SearchProgress& p) const {
    const int filled = 24 * p.evaluations / p.max_evaluations;
    std::fprintf(stderr, "\rsearch [%.*s%.*s] %d / %d: ", filled, "########################",
                 24 - filled, "                        ", p.evaluations, p.max_evaluations);
    if (p.best_bytes == 0) {
      std::fprintf(stderr, "learning");
    } else {
      std::fprintf(stderr, "best +%.4f nats (%.2f %%) at %.2f %% of the bytes ", p.best_kl,
                   100 * std::expm1(p.best_kl), 100 * p.best_bytes / summary_.uncompressed_bytes);
    }
  }

  // Bisection over bytes; the last budget that stayed within keeps its plan. Both the measured loss
  // and the divergence must stay within: either alone may be lucky on few windows.
  void SmallestWithin() {
    const double limit = std::log1p(o_.max_ppl_increase);
    int64_t low = 0;
    auto high = static_cast<int64_t>(summary_.uncompressed_bytes);
    for (const ChoiceList& list : Lists()) low += list.choices.front().bytes;
    std::optional<CompressSummary> best;
    const int share = o_.evaluations / 2 / kBudgetSteps;
    for (int step = 0; step < kBudgetSteps && low < high; ++step) {
      const int64_t middle = (low + high) / 2;
      Search(middle, share + (step == 0 ? o_.evaluations / 2 : 0));
      const double increase =
          std::max(summary_.loss.kl, summary_.loss.loss - summary_.uncompressed_loss);
      if (increase <= limit) {
        high = middle;
        best = summary_;
      } else {
        low = middle + 1;
      }
    }
    if (!best) {
      throw CompressError("--max-ppl-increase " + std::to_string(100 * o_.max_ppl_increase) +
                          "%: no cache of at most 16 bits was found to stay within it");
    }
    best->evaluations = summary_.evaluations;
    summary_ = std::move(*best);
  }

  // Palu's own recipe (whitening only) at no more bytes: the most ranks that fit, in 4, 3 and 2
  // bits.
  void CompareWithSimpler() {
    Say("comparing with uniform and Fisher ranks at the same bytes");
    const FactorStore palu =
        FactorStore::Build(&model_, statistics_, FactorOptions(Weighting::kPalu), nullptr);
    PlanEvaluator evaluator(&model_, &palu, &search_, 0);
    EvaluationLog log = OpenLog(Weighting::kPalu);
    for (const RankSearch search : {RankSearch::kUniform, RankSearch::kFisherUniform}) {
      for (const LatentFormat format : {LatentFormat::kInt4, LatentFormat::kInt3}) {
        const std::optional<CompressionPlan> plan = LargestWithin(palu, search, format);
        if (!plan) continue;
        summary_.compared.push_back(
            {std::string("Palu, ") + Name(search) + ", " + BitsOfFormat(format) + " bits",
             BytesPerToken(*plan), Measure(evaluator, &*plan, &log)});
      }
    }
  }

  std::optional<CompressionPlan> LargestWithin(const FactorStore& factors, RankSearch search,
                                               LatentFormat format) const {
    AllocationOptions allocation;
    allocation.search = search;
    allocation.key_format = allocation.value_format = format;
    constexpr int kSteps = 64;
    for (int step = kSteps; step > 0; --step) {
      allocation.keep_key = allocation.keep_value = static_cast<double>(step) / kSteps;
      CompressionPlan plan = Allocate(model_.config(), statistics_, factors, allocation);
      if (BytesPerToken(plan) <= summary_.bytes) return plan;
    }
    return std::nullopt;
  }

  void Write() {
    Say("writing " + o_.out);
    const std::string checkpoint = partial_ + "/checkpoint";
    std::error_code error;
    fs::remove_all(checkpoint, error);
    fs::create_directories(checkpoint, error);
    if (error) throw CompressError(checkpoint + ": " + error.message());
    nlohmann::json facts = {{"method", Name(o_.weighting)},
                            {"rank_search", o_.keep_key > 0 ? Name(o_.rank_search) : "search"},
                            {"seed", o_.seed},
                            {"calibration",
                             {{"tokens", summary_.calibration_tokens},
                              {"recipe", o_.recipe},
                              {"fingerprint", summary_.calibration_fingerprint}}},
                            {"loss",
                             {{"uncompressed", summary_.uncompressed_loss},
                              {"compressed", summary_.loss.loss},
                              {"divergence", summary_.loss.kl},
                              {"divergence_predicted", summary_.predicted_kl}}},
                            {"bytes_per_token", summary_.bytes}};
    if (o_.weights != WeightFormat::kStored) facts["weights"] = Name(o_.weights);
    WriteCheckpoint(o_.model, model_.files(), model_.config(), *factors_, summary_.plan,
                    {o_.export_official ? CheckpointLayout::kOfficial : CheckpointLayout::kOurs,
                     o_.weights, o_.threads},
                    facts, checkpoint);
    WriteReport(o_, summary_, checkpoint);
    fs::rename(checkpoint, o_.out, error);
    if (error) throw CompressError(o_.out + ": " + error.message());
    fs::remove_all(partial_, error);
  }

  CompressOptions o_;
  Recipe recipe_;
  std::string partial_;
  CheckpointModel model_;
  TokenWindows calibration_, search_;
  Statistics statistics_;
  std::unique_ptr<FactorStore> factors_;
  std::unique_ptr<PlanEvaluator> evaluator_;
  EvaluationLog log_;
  std::vector<ChoiceList> lists_;
  CompressSummary summary_;
};

}  // namespace

LatentFormat FormatOfBits(const std::string& bits) {
  for (const LatentFormat format :
       {LatentFormat::kF16, LatentFormat::kFp8, LatentFormat::kInt8, LatentFormat::kInt4,
        LatentFormat::kInt3, LatentFormat::kInt2}) {
    if (bits == BitsOfFormat(format)) return format;
  }
  throw CompressError("bits: found " + bits + ", expected 16, fp8, 8, 4, 3 or 2");
}

std::string BitsOfFormat(LatentFormat format) {
  return format == LatentFormat::kFp8 ? "fp8" : std::to_string(Bits(format));
}

namespace {

void CheckModel(const std::string& directory) {
  if (!fs::is_directory(directory)) {
    throw CompressError(directory + ": not a checkpoint directory");
  }
  const Safetensors files = Safetensors::OpenDirectory(directory);
  const WeightFormat format = PackedFormat(files);
  if (format == WeightFormat::kStored) return;
  throw CompressError(files.path() + ": found weights of " + Name(format) +
                      " codes, expected numbers");
}

int64_t TensorBytes(const std::string& directory) {
  int64_t bytes = 0;
  const Safetensors files = Safetensors::OpenDirectory(directory);
  for (const auto& [name, entry] : files.entries()) {
    bytes += static_cast<int64_t>(entry.data.size());
  }
  return bytes;
}

}  // namespace

CompressSummary Compress(const CompressOptions& options) {
  if (options.threads > 0) SetBlasThreads(options.threads);
  if (options.calibration.empty()) throw CompressError("--calibration: expected at least one file");
  CheckModel(options.model);
  if (fs::exists(options.model + "/palu_config.json")) {
    throw CompressError(options.model + "/palu_config.json: the checkpoint is compressed already");
  }
  return Compression(options).Run();
}

QuantizeSummary QuantizeWeights(const CompressOptions& options) {
  CheckModel(options.model);
  const std::string partial = options.out + ".partial";
  PrepareDirectory(options.out, partial, /*keep=*/false);
  std::error_code error;
  try {
    WriteQuantizedCheckpoint(options.model, options.weights, options.threads, partial);
  } catch (...) {
    fs::remove_all(partial, error);
    throw;
  }
  fs::rename(partial, options.out, error);
  if (error) throw CompressError(options.out + ": " + error.message());
  return {TensorBytes(options.model), TensorBytes(options.out)};
}

}  // namespace palu
