// Ranks and bits per layer, K and V apart, that lose least within a number of cached bytes.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "tools/compress/evaluation_log.h"
#include "tools/compress/evaluator.h"
#include "tools/compress/response.h"

namespace palu {

struct SearchProgress {
  int evaluations = 0, max_evaluations = 0;
  double best_kl = 0;     // nats; 0 while no plan within the budget was measured
  double best_bytes = 0;  // likewise
};

struct SearchOptions {
  int64_t budget_bytes = 0;  // of a token
  int max_evaluations = 240;
  // Nats added for all keys at full rank; rebuilding costs FLOP per key rank.
  double decode_cost = 0;
  std::vector<Response> responses;  // of an earlier search, one per list; or empty
  std::function<void(const SearchProgress&)> progress;  // may be empty
};

struct SearchResult {
  CompressionPlan plan;
  PlanLoss loss;                    // measured, without the decode cost
  double start_kl = 0;              // of the plan that the statistics alone chose
  double predicted_kl = 0;          // of the result, by the responses
  int evaluations = 0;              // measured now, those found in the log not counted
  std::vector<Response> responses;  // one per list
};

// What is minimised is the measured divergence from the uncompressed model (PlanLoss::kl) plus the
// decode cost. First the projections' responses are learned: each is cut and coded alone, the rest
// left as it is; these measurements serve every budget. Then the exact knapsack over bytes by the
// learned costs, and the best of the plans with the same ranks and bits in all layers, are
// measured, and what evaluations are left go to exchanges of bytes between two projections,
// the most promising first; what an exchange teaches corrects the costs. Deterministic. Throws
// CompressError when the budget is below what is possible.
class PlanSearch {
 public:
  // All must outlive it. lists as MakeChoices gives them.
  PlanSearch(const std::vector<ChoiceList>* lists, PlanEvaluator* evaluator, EvaluationLog* log,
             const SearchOptions& options);
  SearchResult Run();

 private:
  using Selection = std::vector<int>;  // of every list
  CompressionPlan PlanOf(const Selection& selection) const;
  double DecodeCost(size_t list, int choice) const;
  double Cost(size_t list, int choice) const;  // learned + decode cost
  double CostOf(const Selection& selection) const;
  int64_t BytesOf(const Selection& selection) const;
  int ChoiceOf(size_t list, LatentFormat format, int sixteenths) const;
  Selection Solve() const;
  std::vector<Selection> UniformStarts() const;

  PlanLoss MeasurePlan(const CompressionPlan& plan);
  bool Accept(const Selection& selection);  // measures; true when it became the best
  bool Exhausted() const { return asked_ >= options_.max_evaluations; }
  void LearnResponses();
  bool Exchange();
  void Learn(const Selection& from, const Selection& to, double measured_change);

  const std::vector<ChoiceList>& lists_;
  PlanEvaluator* evaluator_;
  EvaluationLog* log_;
  SearchOptions options_;
  int layers_ = 0;
  std::vector<Response> responses_;
  std::vector<std::vector<double>> offsets_;  // [list][choice] on the learned costs
  Selection best_;
  PlanLoss best_loss_;
  double best_objective_ = 0;
  std::set<Selection> tried_;
  std::string reference_;  // the plan that the evaluator keeps layer inputs of
  int asked_ = 0;          // counted also when the log knew the loss
  int measured_ = 0;
};

}  // namespace palu
