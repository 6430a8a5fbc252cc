#include "tools/compress/search.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace palu {
namespace {

constexpr int kUniformStarts = 4;
constexpr int kExchangeReach = 8;        // choices to either side of the present one
constexpr int64_t kMostSpareBytes = 16;  // that an exchange may leave
constexpr double kCuriosity = 0.3;       // standard deviation of a predicted change, of its size
constexpr double kLearningRate = 0.7;
constexpr double kLearningReach = 3;  // choices
constexpr int kSolveEvery = 10;       // exchanges

int TotalRank(const ProjectionSpec& spec) {
  int total = 0;
  for (const int rank : spec.ranks) total += rank;
  return total;
}

// 16 bits, as they are; the second probe has whole ranks.
ProjectionSpec Plain(const ChoiceList& list) {
  ProjectionSpec spec = list.probes[1].spec;
  spec.dense = true;
  spec.format = LatentFormat::kF16;
  return spec;
}

}  // namespace

PlanSearch::PlanSearch(const std::vector<ChoiceList>* lists, PlanEvaluator* evaluator,
                       EvaluationLog* log, const SearchOptions& options)
    : lists_(*lists),
      evaluator_(evaluator),
      log_(log),
      options_(options),
      responses_(options.responses) {
  responses_.resize(lists_.size());
  for (const ChoiceList& list : lists_) {
    layers_ = std::max(layers_, list.layer + 1);
    offsets_.emplace_back(list.choices.size(), 0.0);
  }
}

SearchResult PlanSearch::Run() {
  SearchResult result;
  const Selection by_statistics = Solve();
  if (options_.responses.empty()) LearnResponses();
  Accept(by_statistics);
  result.start_kl = best_loss_.kl;
  if (!Exhausted()) Accept(Solve());
  for (const Selection& start : UniformStarts()) {
    if (!Exhausted()) Accept(start);
  }
  for (int exchanges = 1; !Exhausted() && Exchange(); ++exchanges) {
    if (exchanges % kSolveEvery == 0 && !Exhausted()) Accept(Solve());
  }
  result.plan = PlanOf(best_);
  result.loss = best_loss_;
  for (size_t i = 0; i < lists_.size(); ++i) {
    result.predicted_kl += responses_[i](lists_[i].choices[best_[i]].predicted);
  }
  result.evaluations = measured_;
  result.responses = responses_;
  return result;
}

CompressionPlan PlanSearch::PlanOf(const Selection& selection) const {
  CompressionPlan plan(layers_);
  for (size_t i = 0; i < lists_.size(); ++i) {
    const ProjectionSpec& spec = lists_[i].choices[selection[i]].spec;
    (lists_[i].key ? plan[lists_[i].layer].key : plan[lists_[i].layer].value) = spec;
  }
  return plan;
}

double PlanSearch::DecodeCost(size_t list, int choice) const {
  const ProjectionSpec& spec = lists_[list].choices[choice].spec;
  if (!lists_[list].key || spec.dense || options_.decode_cost <= 0) return 0;
  const int full = TotalRank(lists_[list].choices.back().spec);
  return options_.decode_cost * TotalRank(spec) / full / layers_;
}

double PlanSearch::Cost(size_t list, int choice) const {
  return responses_[list](lists_[list].choices[choice].predicted) + offsets_[list][choice] +
         DecodeCost(list, choice);
}

double PlanSearch::CostOf(const Selection& selection) const {
  double cost = 0;
  for (size_t i = 0; i < lists_.size(); ++i) cost += Cost(i, selection[i]);
  return cost;
}

int64_t PlanSearch::BytesOf(const Selection& selection) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < lists_.size(); ++i) bytes += lists_[i].choices[selection[i]].bytes;
  return bytes;
}

PlanSearch::Selection PlanSearch::Solve() const {
  std::vector<std::vector<int64_t>> bytes(lists_.size());
  std::vector<std::vector<double>> cost(lists_.size());
  for (size_t i = 0; i < lists_.size(); ++i) {
    for (size_t c = 0; c < lists_[i].choices.size(); ++c) {
      bytes[i].push_back(lists_[i].choices[c].bytes);
      cost[i].push_back(Cost(i, static_cast<int>(c)));
    }
  }
  return Knapsack(bytes, cost, options_.budget_bytes);
}

// The low-rank choice of so many sixteenths of all ranks, or -1.
int PlanSearch::ChoiceOf(size_t list, LatentFormat format, int sixteenths) const {
  const std::vector<Choice>& choices = lists_[list].choices;
  const int wanted = TotalRank(lists_[list].probes[1].spec) * sixteenths / 16;
  for (size_t c = 0; c < choices.size(); ++c) {
    const ProjectionSpec& spec = choices[c].spec;
    if (!spec.dense && spec.format == format && TotalRank(spec) == wanted) {
      return static_cast<int>(c);
    }
  }
  return -1;
}

// Plans of one key rank, one value rank and their bits in all layers that spend the budget, the
// best few by predicted cost.
std::vector<PlanSearch::Selection> PlanSearch::UniformStarts() const {
  std::vector<std::pair<double, Selection>> starts;
  constexpr LatentFormat kFormats[] = {LatentFormat::kInt8, LatentFormat::kInt4,
                                       LatentFormat::kInt3};
  for (int code = 0; code < 9 * 16 * 16; ++code) {
    const LatentFormat key_format = kFormats[code % 3], value_format = kFormats[code / 3 % 3];
    const int key_part = code / 9 % 16 + 1, value_part = code / 144 + 1;
    Selection selection;
    for (size_t i = 0; i < lists_.size(); ++i) {
      selection.push_back(ChoiceOf(i, lists_[i].key ? key_format : value_format,
                                   lists_[i].key ? key_part : value_part));
      if (selection.back() < 0) break;
    }
    if (selection.size() < lists_.size() || selection.back() < 0) continue;
    if (BytesOf(selection) > options_.budget_bytes) continue;
    starts.emplace_back(CostOf(selection), std::move(selection));
  }
  std::stable_sort(starts.begin(), starts.end());
  std::vector<Selection> best;
  for (int i = 0; i < std::min<int>(kUniformStarts, static_cast<int>(starts.size())); ++i) {
    best.push_back(std::move(starts[i].second));
  }
  return best;
}

PlanLoss PlanSearch::MeasurePlan(const CompressionPlan& plan) {
  ++asked_;
  std::optional<PlanLoss> loss = log_->Find(plan);
  if (!loss) {
    ++measured_;
    if (!best_.empty() && reference_ != PlanKey(PlanOf(best_))) {
      evaluator_->SetReference(PlanOf(best_));
      reference_ = PlanKey(PlanOf(best_));
    }
    loss = evaluator_->Loss(plan);
    log_->Add(plan, *loss);
  }
  return *loss;
}

bool PlanSearch::Accept(const Selection& selection) {
  if (!tried_.insert(selection).second) return false;
  const PlanLoss loss = MeasurePlan(PlanOf(selection));
  double objective = loss.kl;
  for (size_t i = 0; i < lists_.size(); ++i) objective += DecodeCost(i, selection[i]);
  const bool better = best_.empty() || objective < best_objective_;
  if (!best_.empty()) Learn(best_, selection, objective - best_objective_);
  if (better) {
    best_ = selection;
    best_loss_ = loss;
    best_objective_ = objective;
  }
  if (options_.progress) {
    options_.progress(
        {asked_, options_.max_evaluations, best_loss_.kl, static_cast<double>(BytesOf(best_))});
  }
  return better;
}

void PlanSearch::LearnResponses() {
  // At most half of the evaluations, and every projection equally often.
  size_t rounds = static_cast<size_t>(options_.max_evaluations) / 2 / lists_.size();
  rounds = std::min(rounds, lists_[0].probes.size());
  if (rounds == 0) return;
  CompressionPlan base(layers_);
  for (const ChoiceList& list : lists_) {
    (list.key ? base[list.layer].key : base[list.layer].value) = Plain(list);
  }
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < lists_.size(); ++i) {
      const Choice& probe = lists_[i].probes[round];
      CompressionPlan plan = base;
      (lists_[i].key ? plan[lists_[i].layer].key : plan[lists_[i].layer].value) = probe.spec;
      if (!log_->Find(plan) && reference_ != PlanKey(base)) {
        evaluator_->SetReference(base);
        reference_ = PlanKey(base);
      }
      const double kl = MeasurePlan(plan).kl;
      responses_[i].cut.Add(probe.predicted.cut, kl);
      responses_[i].coding.Add(probe.predicted.coding, kl);
      responses_[i].dense_coding.Add(probe.predicted.dense_coding, kl);
      if (options_.progress) options_.progress({asked_, options_.max_evaluations, 0, 0});
    }
  }
}

// What was not foreseen is put down to the projections that changed, by the size of their change,
// and to the choices near the one tried.
void PlanSearch::Learn(const Selection& from, const Selection& to, double measured_change) {
  std::vector<double> change(lists_.size());
  double total = 0, size = 0;
  for (size_t i = 0; i < lists_.size(); ++i) {
    change[i] = Cost(i, to[i]) - Cost(i, from[i]);
    total += change[i];
    size += std::abs(change[i]);
  }
  if (size <= 0) return;
  for (size_t i = 0; i < lists_.size(); ++i) {
    if (to[i] == from[i]) continue;
    const double share = kLearningRate * (measured_change - total) * std::abs(change[i]) / size;
    const int step = to[i] > from[i] ? 1 : -1;
    const int end = step > 0 ? static_cast<int>(lists_[i].choices.size()) : -1;
    for (int c = from[i] + step; c != end; c += step) {
      offsets_[i][c] += share * std::exp(-std::abs(c - to[i]) / kLearningReach);
    }
  }
}

bool PlanSearch::Exchange() {
  std::optional<Selection> next;
  double best_promise = -1e300;
  const int64_t spare = options_.budget_bytes - BytesOf(best_);
  const auto change = [&](size_t i, int choice) { return Cost(i, choice) - Cost(i, best_[i]); };
  const auto extra = [&](size_t i, int choice) {
    return lists_[i].choices[choice].bytes - lists_[i].choices[best_[i]].bytes;
  };
  const auto first = [&](size_t i) { return std::max(0, best_[i] - kExchangeReach); };
  const auto last = [&](size_t i) {
    return std::min(static_cast<int>(lists_[i].choices.size()) - 1, best_[i] + kExchangeReach);
  };
  for (size_t a = 0; a < lists_.size(); ++a) {
    for (size_t b = a + 1; b < lists_.size(); ++b) {
      for (int x = first(a); x <= last(a); ++x) {
        for (int y = first(b); y <= last(b); ++y) {
          const int64_t bytes = extra(a, x) + extra(b, y);
          if (bytes > spare || bytes < spare - kMostSpareBytes) continue;
          const double change_a = change(a, x), change_b = change(b, y);
          const double promise =
              -(change_a + change_b) + kCuriosity * std::hypot(change_a, change_b);
          if (promise <= best_promise) continue;
          Selection moved = best_;
          moved[a] = x;
          moved[b] = y;
          if (tried_.count(moved) > 0) continue;
          best_promise = promise;
          next = std::move(moved);
        }
      }
    }
  }
  if (!next) return false;
  Accept(*next);
  return true;
}

}  // namespace palu
