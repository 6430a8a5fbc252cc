#include "tools/bench/step_costs.h"

#include <algorithm>

#include "engine/cache/block_table.h"
#include "engine/engine.h"
#include "engine/model/cache_shape.h"
#include "tools/bench/engine_bench.h"
#include "tools/bench/offline_bench.h"

namespace palu::bench {
namespace {

// 1, 2, 4, … and the last.
std::vector<int> Powers(int last) {
  std::vector<int> counts;
  for (int count = 1; count < last; count *= 2) counts.push_back(count);
  counts.push_back(last);
  return counts;
}

// A step that is measured again and again.
struct Point {
  std::vector<StepPart> parts;
  std::vector<double> samples;

  double seconds() const {
    std::vector<double> sorted = samples;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

class Measurement {
 public:
  Measurement(ModelRunner* runner, const EngineOptions& engine)
      : runner_(*runner), engine_(engine), bench_(runner, engine.step_tokens, 1) {
    model_.layers = ShareLayers(runner->config());
    const EngineLimits limits = runner->limits();
    const int64_t pool = int64_t{limits.num_blocks} * limits.block_tokens;
    longest_ = static_cast<int>(std::min<int64_t>(limits.max_context_tokens, pool));
    half_ = std::max(1, longest_ / 2);
    // As many sequences of half the context as the pool holds beside a chunk of that length.
    const int half_blocks = BlocksForTokens(half_, limits.block_tokens);
    const int most = std::min({engine.max_sequences, engine.step_tokens, limits.num_blocks});
    batch_ = std::clamp(limits.num_blocks / half_blocks - 1, 1, std::clamp(most - 1, 1, kBatch));
    for (const int tokens : Powers(std::min(engine.step_tokens, longest_))) {
      chunks_.push_back({{{0, tokens, false}}, {}});
      if (tokens < kLeastChunk || tokens > half_) continue;
      late_chunks_.push_back({{{longest_ - tokens, tokens, false}}, {}});
    }
    for (const int count : Powers(most)) {
      decodes_.push_back({std::vector<StepPart>(count, {0, 1, true}), {}});
    }
    late_decode_.parts.assign(batch_, {half_ - 1, 1, true});
    AddChecks();
  }

  // All steps in turn, again and again, so that a machine whose speed changes meanwhile changes it
  // for all of them.
  void Run(int rounds) {
    for (int round = 0; round < rounds; ++round) {
      for (auto* points : {&chunks_, &late_chunks_, &decodes_, &checks_}) {
        for (Point& point : *points) Sample(&point);
      }
      Sample(&late_decode_);
    }
  }

  StepModel Fit() {
    FitDecodeContext();
    FitChunkContext();
    std::vector<CostPoint> tokens, draws;
    for (const Point& point : chunks_) tokens.push_back({point.parts[0].tokens, Beyond(point)});
    model_.tokens = std::move(tokens);
    for (const Point& point : decodes_) {
      draws.push_back({static_cast<int>(point.parts.size()), Beyond(point)});
    }
    model_.draws = std::move(draws);
    model_.fixed = BetweenSteps();
    return model_;
  }

  std::vector<CostCheck> Checks() const {
    std::vector<CostCheck> checks;
    for (const Point& point : checks_) {
      // A runner by itself has nothing between two steps.
      checks.push_back({WorkOf(point.parts), point.seconds() + model_.fixed});
    }
    return checks;
  }

 private:
  static constexpr int kBatch = 8;
  static constexpr int kLeastChunk = 8;  // smaller ones say little of what their context costs

  // Decoding beside a chunk, at lengths that lie between those of the table.
  void AddChecks() {
    const int middle = longest_ / 3;
    for (const int count : {1, std::max(1, batch_ / 2), batch_}) {
      for (const int chunk : {0, engine_.step_tokens / 5, engine_.step_tokens * 3 / 4}) {
        std::vector<StepPart> parts(count, {middle, 1, true});
        const int room = std::min(engine_.step_tokens - batch_, half_ - middle);
        const bool fits = room > 0 && count < engine_.max_sequences;
        if (chunk > 0 && fits) parts.push_back({middle, std::min(chunk, room), true});
        checks_.push_back({std::move(parts), {}});
      }
    }
  }

  void Sample(Point* point) { point->samples.push_back(bench_.Step(point->parts)); }

  StepWork WorkOf(const std::vector<StepPart>& parts) const {
    StepWork work;
    for (const StepPart& part : parts) work.Add(model_.layers, part.begin, part.tokens, part.draws);
    return work;
  }

  // What the model so far does not explain.
  double Beyond(const Point& point) const {
    return std::max(0.0, point.seconds() - model_.Seconds(WorkOf(point.parts)));
  }

  // The same number of sequences is in late_decode_ and, between two powers of two, in decodes_.
  void FitDecodeContext() {
    double early = 0;
    for (size_t i = 0; i < decodes_.size(); ++i) {
      const auto count = static_cast<int>(decodes_[i].parts.size());
      if (count < batch_) continue;
      early = decodes_[i].seconds();
      if (i > 0) {
        const auto less = static_cast<double>(decodes_[i - 1].parts.size());
        const double share = (batch_ - less) / (count - less);
        early = decodes_[i - 1].seconds() * (1 - share) + early * share;
      }
      break;
    }
    const double context = WorkOf(late_decode_.parts).decode_context - batch_;
    if (context > 0) {
      model_.per_decode_context = std::max(0.0, late_decode_.seconds() - early) / context;
    }
  }

  // Least squares of relative errors over chunks of several sizes, neither part negative.
  void FitChunkContext() {
    double cc = 0, cp = 0, pp = 0, cd = 0, pd = 0;
    for (const Point& late : late_chunks_) {
      const auto early = std::find_if(chunks_.begin(), chunks_.end(), [&](const Point& point) {
        return point.parts[0].tokens == late.parts[0].tokens;
      });
      const StepWork a = WorkOf(early->parts), b = WorkOf(late.parts);
      const double slow = late.seconds();
      const double context = (b.chunk_context - a.chunk_context) / slow;
      const double pairs = (b.chunk_pairs - a.chunk_pairs) / slow;
      const double seconds = (slow - early->seconds()) / slow;
      cc += context * context;
      cp += context * pairs;
      pp += pairs * pairs;
      cd += context * seconds;
      pd += pairs * seconds;
    }
    const double determinant = cc * pp - cp * cp;
    double context = 0, pair = 0;
    if (determinant > 1e-9 * cc * pp) {
      context = (cd * pp - pd * cp) / determinant;
      pair = (pd * cc - cd * cp) / determinant;
    }
    if (context <= 0) {
      context = 0;
      pair = pp > 0 ? pd / pp : 0;
    } else if (pair < 0) {
      pair = 0;
      context = cc > 0 ? cd / cc : 0;
    }
    model_.per_chunk_context = std::max(0.0, context);
    model_.per_chunk_pair = std::max(0.0, pair);
  }

  double BetweenSteps() {
    Engine engine(engine_, runner_.limits(), &runner_);
    OfflineOptions options;
    options.requests = std::min(batch_, 4);
    options.prompt_tokens = std::max(1, longest_ / 16);
    options.output_tokens = std::max(1, std::min(64, longest_ / 16));
    ServeOffline(&engine, options);
    const HistogramSnapshot gaps = engine.metrics().step_gap_seconds;
    return gaps.count > 0 ? gaps.sum / static_cast<double>(gaps.count) : 0;
  }

  ModelRunner& runner_;
  const EngineOptions engine_;
  EngineBench bench_;
  StepModel model_;
  int longest_ = 0;  // tokens of a sequence
  int half_ = 0;
  int batch_ = 0;  // sequences of half that length
  std::vector<Point> chunks_, late_chunks_, decodes_, checks_;
  Point late_decode_;
};

}  // namespace

CostMeasurement MeasureCosts(ModelRunner* runner, const EngineOptions& engine,
                             const CacheOptions& cache, int repetitions) {
  CostMeasurement result;
  Measurement measurement(runner, engine);
  measurement.Run(repetitions);
  MeasuredCosts& costs = result.costs;
  costs.step = measurement.Fit();
  result.checks = measurement.Checks();
  CacheOptions grouped = cache;
  grouped.group_layers = true;
  const EngineLimits limits = runner->limits();
  const CacheShape shape = ShapeCache(runner->config(), runner->cache_report().layers, grouped,
                                      limits.max_context_tokens, engine.step_tokens);
  costs.backend = runner->backend().name() + " " + runner->backend().isa();
  costs.block_tokens = shape.layout.block_tokens();
  costs.block_bytes = static_cast<double>(shape.layout.block_bytes());
  costs.group_windows = shape.demand.windows;
  costs.max_context_tokens = limits.max_context_tokens;
  return result;
}

}  // namespace palu::bench
