#include "tools/compress/search.h"

#include <algorithm>
#include <cmath>

namespace palu {
namespace {

constexpr int kCorrectionRounds = 3;
constexpr int kPlentyPerList = 5;
constexpr int kExchangeReach = 6;        // choices to either side of the present one
constexpr double kProbeStep = 0.2;       // of a list's bytes
constexpr double kMaxCorrection = 8;     // per round, either way
constexpr double kFailurePenalty = 0.6;  // of the gain that an exchange promises, per failure

double Clamp(double ratio) { return std::clamp(ratio, 1 / kMaxCorrection, kMaxCorrection); }

}  // namespace

PlanSearch::PlanSearch(const std::vector<ChoiceList>* lists, PlanEvaluator* evaluator,
                       EvaluationLog* log, double uncompressed_loss, const SearchOptions& options)
    : lists_(*lists),
      evaluator_(evaluator),
      log_(log),
      uncompressed_loss_(uncompressed_loss),
      options_(options),
      corrections_(options.corrections) {
  corrections_.resize(lists->size());
  for (const ChoiceList& list : lists_) layers_ = std::max(layers_, list.layer + 1);
}

SearchResult PlanSearch::Run() {
  SearchResult result;
  best_ = Solve();
  best_objective_ = Measure(best_);
  result.start_loss = best_objective_ - DecodeCost(best_);
  const bool corrected = !options_.corrections.empty();
  const bool plenty = options_.max_evaluations > kPlentyPerList * static_cast<int>(lists_.size());
  const int rounds = corrected && !plenty ? 0 : kCorrectionRounds;
  for (int round = 0; round < rounds && !Exhausted(); ++round) {
    CorrectByProbes();
    if (!Accept(Solve())) break;
  }
  while (!Exhausted() && ExchangePair()) {
  }
  result.plan = PlanOf(best_);
  result.loss = best_objective_ - DecodeCost(best_);
  result.evaluations = measured_;
  result.corrections = corrections_;
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

double PlanSearch::Cost(size_t list, int choice) const {
  const PredictedLoss& p = lists_[list].choices[choice].predicted;
  double cost = corrections_[list].cut * p.cut + corrections_[list].coding * p.coding;
  const ProjectionSpec& spec = lists_[list].choices[choice].spec;
  if (lists_[list].key && !spec.dense && options_.decode_cost > 0) {
    double rank = 0, full = 0;
    for (const int r : spec.ranks) rank += r;
    for (const int r : lists_[list].choices.back().spec.ranks) full += r;
    cost += options_.decode_cost * rank / full / layers_;
  }
  return cost;
}

double PlanSearch::DecodeCost(const Selection& selection) const {
  double cost = 0;
  for (size_t i = 0; i < lists_.size(); ++i) {
    const PredictedLoss& p = lists_[i].choices[selection[i]].predicted;
    cost += Cost(i, selection[i]) - corrections_[i].cut * p.cut - corrections_[i].coding * p.coding;
  }
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

double PlanSearch::Measure(const Selection& selection) {
  asked_.insert(selection);
  const CompressionPlan plan = PlanOf(selection);
  std::optional<double> loss = log_->Find(plan);
  if (!loss) {
    ++measured_;
    if (reference_ != best_) {
      const double reference_loss = evaluator_->LossAsReference(PlanOf(best_));
      reference_ = best_;
      log_->Add(PlanOf(best_), reference_loss);
    }
    loss = selection == best_ ? log_->Find(plan) : evaluator_->Loss(plan);
    log_->Add(plan, *loss);
  }
  const double objective = *loss + DecodeCost(selection);
  if (options_.progress) {
    options_.progress({static_cast<int>(asked_.size()), options_.max_evaluations,
                       best_objective_ > 0 ? best_objective_ : objective, uncompressed_loss_,
                       static_cast<double>(BytesOf(best_))});
  }
  return objective;
}

bool PlanSearch::Accept(const Selection& selection) {
  if (selection == best_) return false;
  const double objective = Measure(selection);
  if (objective >= best_objective_) return false;
  best_ = selection;
  best_objective_ = objective;
  return true;
}

// The nearest choices that change only the rank, a step down and up, and one that changes the bits.
std::vector<int> PlanSearch::Probes(size_t list, int current) const {
  const std::vector<Choice>& choices = lists_[list].choices;
  const Choice& now = choices[current];
  const auto nearest = [&](double bytes, bool same_format) {
    int best = -1;
    for (size_t c = 0; c < choices.size(); ++c) {
      const bool same =
          choices[c].spec.format == now.spec.format && choices[c].spec.dense == now.spec.dense;
      if (same != same_format || static_cast<int>(c) == current) continue;
      if (best < 0 || std::abs(static_cast<double>(choices[c].bytes) - bytes) <
                          std::abs(static_cast<double>(choices[best].bytes) - bytes)) {
        best = static_cast<int>(c);
      }
    }
    return best;
  };
  const auto bytes = static_cast<double>(now.bytes);
  std::set<int> probes{nearest(bytes * (1 - kProbeStep), true),
                       nearest(bytes * (1 + kProbeStep), true), nearest(bytes, false)};
  probes.erase(-1);
  return {probes.begin(), probes.end()};
}

void PlanSearch::CorrectByProbes() {
  for (size_t i = 0; i < lists_.size(); ++i) {
    const PredictedLoss& now = lists_[i].choices[best_[i]].predicted;
    // Least squares of the measured changes by the predicted ones, held near the old correction.
    double cc = 0, cq = 0, qq = 0, cm = 0, qm = 0;
    for (const int probe : Probes(i, best_[i])) {
      if (Exhausted()) return;
      Selection moved = best_;
      moved[i] = probe;
      const double measured =
          (Measure(moved) - DecodeCost(moved)) - (best_objective_ - DecodeCost(best_));
      const PredictedLoss& p = lists_[i].choices[probe].predicted;
      const double c = corrections_[i].cut * (p.cut - now.cut);
      const double q = corrections_[i].coding * (p.coding - now.coding);
      const double size = std::abs(c) + std::abs(q) + 1e-12;
      cc += c * c / (size * size);
      cq += c * q / (size * size);
      qq += q * q / (size * size);
      cm += c * measured / (size * size);
      qm += q * measured / (size * size);
    }
    const double ridge = 0.1 * (cc + qq) + 1e-12;
    cc += ridge;
    qq += ridge;
    cm += ridge;
    qm += ridge;
    const double determinant = cc * qq - cq * cq;
    corrections_[i].cut *= Clamp((cm * qq - qm * cq) / determinant);
    corrections_[i].coding *= Clamp((qm * cc - cm * cq) / determinant);
  }
}

bool PlanSearch::ExchangePair() {
  struct Move {
    double promise;
    size_t a, b;
    int a_choice, b_choice;
  };
  std::vector<Move> moves;
  const int64_t spare = options_.budget_bytes - BytesOf(best_);
  const auto change = [&](size_t i, int choice) { return Cost(i, choice) - Cost(i, best_[i]); };
  const auto extra = [&](size_t i, int choice) {
    return lists_[i].choices[choice].bytes - lists_[i].choices[best_[i]].bytes;
  };
  const auto reach = [&](size_t i) {
    return std::pair(
        std::max(0, best_[i] - kExchangeReach),
        std::min(static_cast<int>(lists_[i].choices.size()) - 1, best_[i] + kExchangeReach));
  };
  for (size_t a = 0; a < lists_.size(); ++a) {
    for (size_t b = a + 1; b < lists_.size(); ++b) {
      for (int x = reach(a).first; x <= reach(a).second; ++x) {
        for (int y = reach(b).first; y <= reach(b).second; ++y) {
          if (x == best_[a] && y == best_[b]) continue;
          const int64_t bytes = extra(a, x) + extra(b, y);
          // Moves that only give bytes away cannot help; those that waste many rarely do.
          if (bytes > spare || bytes < spare - 16) continue;
          const auto failures = [&](size_t i, int c) {
            const auto found = failures_.find({i, c});
            return c == best_[i] || found == failures_.end() ? 0 : found->second;
          };
          const double typical = std::abs(change(a, x)) + std::abs(change(b, y)) + 1e-9;
          const double promise = -(change(a, x) + change(b, y)) / typical + 0.2 * std::log(typical);
          const int failed = failures(a, x) + failures(b, y);
          moves.push_back({promise - (1 - kFailurePenalty) * failed, a, b, x, y});
        }
      }
    }
  }
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& l, const Move& r) { return l.promise > r.promise; });
  for (const Move& move : moves) {
    Selection next = best_;
    next[move.a] = move.a_choice;
    next[move.b] = move.b_choice;
    if (asked_.count(next) > 0) continue;
    if (!Accept(next)) {
      ++failures_[{move.a, move.a_choice}];
      ++failures_[{move.b, move.b_choice}];
    }
    return true;
  }
  return false;
}

}  // namespace palu
