// The search on a tiny model: budget kept, never worse than its start, repeatable, resumable.
#include "tools/compress/search.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/test_paths.h"
#include "tools/compress/checkpoint_model.h"

namespace palu {
namespace {

class SearchTest : public ::testing::Test {
 protected:
  SearchTest()
      : root_(testing::SourceDir() + "/tests/golden/zoo/qwen3"), model_(root_, 128, 1 << 30) {
    const auto golden = Safetensors::OpenFile(root_ + "/golden.safetensors");
    const SafetensorsEntry* ids = golden.Find("ids");
    const auto* data = reinterpret_cast<const int32_t*>(ids->data.data());
    for (int64_t w = 0; w < ids->shape[0]; ++w, data += ids->shape[1]) {
      windows_.emplace_back(data, data + ids->shape[1]);
    }
    statistics_ = Calibrate(&model_, windows_, true, 1 << 20, nullptr);
    FactorStore::Options options;
    options.output_damping = 1e-3;
    factors_ = FactorStore::Build(&model_, statistics_, options, nullptr);
    evaluator_ = std::make_unique<PlanEvaluator>(&model_, &factors_, &windows_, 1 << 30);
    lists_ = MakeChoices(&model_, statistics_, factors_,
                         {LatentFormat::kInt8, LatentFormat::kInt4, LatentFormat::kInt2});
    uncompressed_ = evaluator_->UncompressedLoss();
  }

  SearchResult Run(EvaluationLog* log, int evaluations, std::vector<Correction> corrections = {}) {
    SearchOptions options;
    options.budget_bytes = Budget();
    options.max_evaluations = evaluations;
    options.corrections = std::move(corrections);
    return PlanSearch(&lists_, evaluator_.get(), log, uncompressed_, options).Run();
  }

  int64_t Budget() const {
    return static_cast<int64_t>(0.3 * UncompressedBytesPerToken(model_.config()));
  }

  std::string root_;
  CheckpointModel model_;
  TokenWindows windows_;
  Statistics statistics_;
  FactorStore factors_;
  std::unique_ptr<PlanEvaluator> evaluator_;
  std::vector<ChoiceList> lists_;
  double uncompressed_ = 0;
};

TEST_F(SearchTest, KeepsTheBudgetAndNeverLosesToItsStart) {
  EvaluationLog log;
  const SearchResult result = Run(&log, 40);
  EXPECT_LE(BytesPerToken(result.plan), static_cast<double>(Budget()));
  EXPECT_LE(result.loss, result.start_loss);
  EXPECT_GT(result.evaluations, 10);
  EXPECT_LE(result.evaluations, 41);
  // The reported loss is the plan's own.
  PlanEvaluator fresh(&model_, &factors_, &windows_, 0);
  EXPECT_NEAR(fresh.Loss(result.plan), result.loss, 1e-6 * result.loss);
}

TEST_F(SearchTest, ResumesToTheSameResultWithoutMeasuringAgain) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("palu_search_test_" + std::to_string(getpid())))
          .string();
  SearchResult whole;
  {
    EvaluationLog log;
    whole = Run(&log, 30);
  }
  {
    EvaluationLog log(path, "fingerprint", false);
    Run(&log, 12);
  }
  EvaluationLog log(path, "fingerprint", true);
  EXPECT_GE(log.size(), 12u);
  const SearchResult resumed = Run(&log, 30);
  EXPECT_EQ(PlanKey(resumed.plan), PlanKey(whole.plan));
  EXPECT_DOUBLE_EQ(resumed.loss, whole.loss);
  EXPECT_LT(resumed.evaluations, whole.evaluations);
  EXPECT_EQ(Run(&log, 30).evaluations, 0);
  std::filesystem::remove(path);
}

TEST_F(SearchTest, CorrectionsOfAnEarlierSearchAreUsed) {
  EvaluationLog log;
  const SearchResult first = Run(&log, 40);
  ASSERT_EQ(first.corrections.size(), lists_.size());
  std::vector<Correction> corrections = first.corrections;
  corrections[0].cut *= 1e6;
  corrections[0].coding *= 1e6;
  const SearchResult forced = Run(&log, 1, corrections);
  // A projection said to be a million times as sensitive gets all that it can use.
  EXPECT_EQ(forced.plan[0].key.ranks[0], model_.config().head_dim);
  EXPECT_EQ(forced.plan[0].key.format, LatentFormat::kInt8);
}

// A prefix evaluation (only layers from the first difference on) equals a whole one.
TEST_F(SearchTest, KeptLayerInputsDoNotChangeALoss) {
  CompressionPlan plan(model_.config().num_layers);
  for (LayerSpec& layer : plan) {
    layer.key = lists_[0].choices[lists_[0].choices.size() / 2].spec;
    layer.value = layer.key;
  }
  evaluator_->LossAsReference(plan);
  CompressionPlan other = plan;
  other.back().value = lists_[1].choices.front().spec;
  PlanEvaluator fresh(&model_, &factors_, &windows_, 0);
  EXPECT_DOUBLE_EQ(evaluator_->Loss(other), fresh.Loss(other));
  EXPECT_NE(evaluator_->Loss(other), evaluator_->Loss(plan));
}

}  // namespace
}  // namespace palu
