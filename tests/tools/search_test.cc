// The search on a tiny model: budget kept, never worse than its start, repeatable, resumable.
#include "tools/compress/search.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "tests/test_paths.h"
#include "tools/compress/checkpoint_model.h"
#include "tools/compress/f32_layer.h"

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
  }

  SearchResult Run(EvaluationLog* log, int evaluations, std::vector<Response> responses = {},
                   double decode_cost = 0) {
    SearchOptions options;
    options.budget_bytes = Budget();
    options.max_evaluations = evaluations;
    options.decode_cost = decode_cost;
    options.responses = std::move(responses);
    return PlanSearch(&lists_, evaluator_.get(), log, options).Run();
  }

  int KeyRank(const CompressionPlan& plan) const {
    int total = 0;
    for (const LayerSpec& layer : plan) {
      if (layer.key.dense) continue;
      total += std::accumulate(layer.key.ranks.begin(), layer.key.ranks.end(), 0);
    }
    return total;
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
};

TEST_F(SearchTest, KeepsTheBudgetAndNeverLosesToItsStart) {
  EvaluationLog log;
  const SearchResult result = Run(&log, 60);
  EXPECT_LE(BytesPerToken(result.plan), static_cast<double>(Budget()));
  EXPECT_LE(result.loss.kl, result.start_kl);
  EXPECT_GT(result.evaluations, 10);
  EXPECT_LE(result.evaluations, 60);
  // The reported loss is the plan's own.
  PlanEvaluator fresh(&model_, &factors_, &windows_, 0);
  const PlanLoss again = fresh.Loss(result.plan);
  EXPECT_NEAR(again.loss, result.loss.loss, 1e-6 * result.loss.loss);
  EXPECT_NEAR(again.kl, result.loss.kl, 1e-4 * result.loss.kl);
}

// Two layers, a coarse choice: the search against all plans of the budget.
TEST_F(SearchTest, FindsAlmostTheBestOfAllPlans) {
  for (ChoiceList& list : lists_) {
    std::vector<Choice> few;
    for (size_t c = 0; c < list.choices.size(); c += 1 + list.choices.size() / 4) {
      few.push_back(list.choices[c]);
    }
    list.choices = std::move(few);
  }
  EvaluationLog log;
  const SearchResult found = Run(&log, 48);
  double best = 1e300, worst = 0;
  std::vector<size_t> pick(lists_.size(), 0);
  const auto next = [&] {
    for (size_t i = 0; i < pick.size(); ++i) {
      if (++pick[i] < lists_[i].choices.size()) return true;
      pick[i] = 0;
    }
    return false;
  };
  do {
    CompressionPlan plan(model_.config().num_layers);
    for (size_t i = 0; i < lists_.size(); ++i) {
      (lists_[i].key ? plan[lists_[i].layer].key : plan[lists_[i].layer].value) =
          lists_[i].choices[pick[i]].spec;
    }
    const double bytes = BytesPerToken(plan);
    if (bytes > static_cast<double>(Budget()) || bytes < 0.8 * static_cast<double>(Budget())) {
      continue;
    }
    const double kl = evaluator_->Loss(plan).kl;
    best = std::min(best, kl);
    worst = std::max(worst, kl);
  } while (next());
  EXPECT_LT(found.loss.kl, best + 0.1 * (worst - best));
}

TEST_F(SearchTest, DecodeCostTakesRankFromKeys) {
  EvaluationLog log;
  const SearchResult free = Run(&log, 60);
  const SearchResult costly = Run(&log, 60, {}, 100.0);
  EXPECT_LT(KeyRank(costly.plan), KeyRank(free.plan));
  EXPECT_GE(costly.loss.kl, free.loss.kl);
}

TEST_F(SearchTest, ResumesToTheSameResultWithoutMeasuringAgain) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("palu_search_test_" + std::to_string(getpid())))
          .string();
  SearchResult whole;
  {
    EvaluationLog log;
    whole = Run(&log, 60);
  }
  {
    EvaluationLog log(path, "fingerprint", false);
    Run(&log, 20);
  }
  EvaluationLog log(path, "fingerprint", true);
  EXPECT_GE(log.size(), 12u);
  const SearchResult resumed = Run(&log, 60);
  EXPECT_EQ(PlanKey(resumed.plan), PlanKey(whole.plan));
  EXPECT_DOUBLE_EQ(resumed.loss.kl, whole.loss.kl);
  EXPECT_LT(resumed.evaluations, whole.evaluations);
  EXPECT_EQ(Run(&log, 60).evaluations, 0);
  std::filesystem::remove(path);
}

TEST_F(SearchTest, ResponsesOfAnEarlierSearchAreUsed) {
  EvaluationLog log;
  const SearchResult first = Run(&log, 60);
  ASSERT_EQ(first.responses.size(), lists_.size());
  EXPECT_FALSE(first.responses[0].cut.points().empty());
  EXPECT_FALSE(first.responses[0].coding.points().empty());
  std::vector<Response> responses = first.responses;
  for (Response& response : responses) {
    response = {};
    response.cut.Add(1, &response == responses.data() ? 1e6 : 1);
    response.coding.Add(1, &response == responses.data() ? 1e6 : 1);
  }
  const SearchResult forced = Run(&log, 1, responses);
  // A projection said to be a million times as sensitive gets all that it can use.
  EXPECT_EQ(forced.plan[0].key.ranks[0], model_.config().head_dim);
  EXPECT_EQ(forced.plan[0].key.format, LatentFormat::kInt8);
}

TEST(ResponseCurve, GoesThroughWhatWasMeasured) {
  ResponseCurve curve;
  EXPECT_DOUBLE_EQ(curve(0.5), 0.5);
  curve.Add(1.0, 2.0);
  curve.Add(4.0, 4.0);
  curve.Add(0.0, 1.0);    // says nothing
  curve.Add(1e-20, 0.3);  // rounding: the cut of ranks that are free, beside a coarse format
  EXPECT_DOUBLE_EQ(curve(1.0), 2.0);
  EXPECT_DOUBLE_EQ(curve(4.0), 4.0);
  EXPECT_NEAR(curve(2.0), 2.0 * std::sqrt(2.0), 1e-12);
  EXPECT_DOUBLE_EQ(curve(0.1), 0.2);
  EXPECT_DOUBLE_EQ(curve(8.0), 8.0);
  EXPECT_EQ(curve(0.0), 0.0);
  curve.Add(4.0, 6.0);
  EXPECT_DOUBLE_EQ(curve(4.0), 6.0);
}

// Divergence against its definition, from the logits of another pass.
TEST_F(SearchTest, DivergenceIsKullbackLeiblers) {
  CompressionPlan plan(model_.config().num_layers);
  for (LayerSpec& layer : plan) {
    layer.key = lists_[0].choices[lists_[0].choices.size() / 3].spec;
    layer.value = lists_[1].choices[lists_[1].choices.size() / 3].spec;
  }
  const PlanLoss loss = evaluator_->Loss(plan);
  double kl = 0, nll = 0, predictions = 0;
  for (const auto& ids : windows_) {
    MatrixF x = Embed(model_, ids), y = x;
    for (int layer = 0; layer < model_.config().num_layers; ++layer) {
      LayerActivations a;
      const LayerSimulation simulation{
          std::make_shared<ProjectionSimulation>(
              factors_.Simulate(layer, true, plan[layer].key, model_.config().head_dim)),
          std::make_shared<ProjectionSimulation>(
              factors_.Simulate(layer, false, plan[layer].value, model_.config().head_dim))};
      x = ForwardLayer(&model_, layer, x, nullptr, &a);
      y = ForwardLayer(&model_, layer, y, &simulation, &a);
    }
    const MatrixD p_logits = (FinalNorm(model_, x) * model_.head().transpose()).cast<double>();
    const MatrixD q_logits = (FinalNorm(model_, y) * model_.head().transpose()).cast<double>();
    for (size_t t = 0; t + 1 < ids.size(); ++t, ++predictions) {
      const auto row = static_cast<Eigen::Index>(t);
      const Eigen::ArrayXd p = p_logits.row(row).array(), q = q_logits.row(row).array();
      const Eigen::ArrayXd log_p = p - std::log(p.exp().sum()), log_q = q - std::log(q.exp().sum());
      kl += (log_p.exp() * (log_p - log_q)).sum();
      nll -= log_q[ids[t + 1]];
    }
  }
  EXPECT_NEAR(loss.kl, kl / predictions, 1e-5 + 1e-4 * loss.kl);
  EXPECT_NEAR(loss.loss, nll / predictions, 1e-5 * loss.loss);
  EXPECT_GT(loss.kl, 1e-4);
}

// A prefix evaluation (only layers from the first difference on) equals a whole one.
TEST_F(SearchTest, KeptLayerInputsDoNotChangeALoss) {
  CompressionPlan plan(model_.config().num_layers);
  for (LayerSpec& layer : plan) {
    layer.key = lists_[0].choices[lists_[0].choices.size() / 2].spec;
    layer.value = layer.key;
  }
  evaluator_->SetReference(plan);
  CompressionPlan other = plan;
  other.back().value = lists_[1].choices.front().spec;
  PlanEvaluator fresh(&model_, &factors_, &windows_, 0);
  EXPECT_DOUBLE_EQ(evaluator_->Loss(other).kl, fresh.Loss(other).kl);
  EXPECT_NE(evaluator_->Loss(other).kl, evaluator_->Loss(plan).kl);
}

}  // namespace
}  // namespace palu
