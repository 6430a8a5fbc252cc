// Ranks and bits per layer, K and V apart, that lose least within a number of cached bytes.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tools/compress/evaluation_log.h"
#include "tools/compress/evaluator.h"
#include "tools/compress/predict.h"

namespace palu {

struct SearchProgress {
  int evaluations = 0, max_evaluations = 0;
  double best_loss = 0, uncompressed_loss = 0;
  double best_bytes = 0;
};

// Factors on the predicted losses of one projection, from what was measured.
struct Correction {
  double cut = 1, coding = 1;
};

struct SearchOptions {
  int64_t budget_bytes = 0;  // of a token
  int max_evaluations = 120;
  double decode_cost =
      0;  // nats added for all keys at full rank; rebuilding costs FLOP per key rank
  std::vector<Correction> corrections;  // of an earlier search, one per list; or empty
  std::function<void(const SearchProgress&)> progress;  // may be empty
};

struct SearchResult {
  CompressionPlan plan;
  double loss = 0;                      // measured, without the decode cost
  double start_loss = 0;                // of the plan that the statistics alone chose
  int evaluations = 0;                  // measured now, those found in the log not counted
  std::vector<Correction> corrections;  // one per list
};

// Starts from the plan of least predicted loss (exact knapsack over bytes). Then measures one step
// of rank and of bits up and down for every projection, corrects the predictions by what was
// measured, and solves the knapsack again, keeping what measures better; what evaluations are left
// go to exchanges between pairs of projections. With corrections of an earlier search (of another
// budget, say) few evaluations are enough: the steps are then measured only if there are plenty.
// Deterministic. Throws CompressError when the budget
// is below what is possible.
class PlanSearch {
 public:
  // All must outlive it. lists as MakeChoices gives them.
  PlanSearch(const std::vector<ChoiceList>* lists, PlanEvaluator* evaluator, EvaluationLog* log,
             double uncompressed_loss, const SearchOptions& options);
  SearchResult Run();

 private:
  using Selection = std::vector<int>;  // of every list
  CompressionPlan PlanOf(const Selection& selection) const;
  double Cost(size_t list, int choice) const;  // corrected prediction + decode cost
  double DecodeCost(const Selection& selection) const;
  int64_t BytesOf(const Selection& selection) const;
  Selection Solve() const;
  double Measure(const Selection& selection);  // loss + decode cost
  bool Accept(const Selection& selection);     // measures; true when it became the best
  bool Exhausted() const { return static_cast<int>(asked_.size()) >= options_.max_evaluations; }
  std::vector<int> Probes(size_t list, int current) const;
  void CorrectByProbes();
  bool ExchangePair();

  const std::vector<ChoiceList>& lists_;
  PlanEvaluator* evaluator_;
  EvaluationLog* log_;
  double uncompressed_loss_;
  SearchOptions options_;
  int layers_ = 0;
  std::vector<Correction> corrections_;
  Selection best_;
  double best_objective_ = 0;
  std::set<Selection> asked_;                       // counted also when the log knew the loss
  std::map<std::pair<size_t, int>, int> failures_;  // of exchanges that moved a list to a choice
  Selection reference_;                             // what the evaluator keeps layer inputs of
  int measured_ = 0;
};

}  // namespace palu
