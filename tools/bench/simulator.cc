#include "tools/bench/simulator.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "engine/request_check.h"
#include "engine/scheduler.h"

namespace palu::bench {
namespace {

using TimePoint = Scheduler::TimePoint;

TimePoint At(double seconds) {
  return TimePoint() +
         std::chrono::duration_cast<TimePoint::duration>(std::chrono::duration<double>(seconds));
}

int32_t Token(uint64_t text, uint64_t position, int vocab_size) {
  uint64_t z = (text * 0x9e3779b97f4a7c15ull) ^ (position + 0x2545f4914f6cdd1dull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<int32_t>((z ^ (z >> 31)) % static_cast<uint64_t>(vocab_size));
}

std::vector<int32_t> Prompt(const Trace& trace, size_t index, int vocab_size) {
  const TraceRequest& request = trace.requests[index];
  std::vector<int32_t> prompt(static_cast<size_t>(request.input_tokens));
  // The last block of an input is its own, as it is in what palu-bench serve sends.
  const size_t shared =
      trace.prefix_block_tokens > 0
          ? std::min<size_t>(request.prefix_ids.size(),
                             (request.input_tokens - 1) / trace.prefix_block_tokens)
          : 0;
  for (size_t i = 0; i < prompt.size(); ++i) {
    const size_t block = trace.prefix_block_tokens > 0 ? i / trace.prefix_block_tokens : 0;
    const uint64_t text =
        block < shared ? static_cast<uint64_t>(request.prefix_ids[block]) << 1 : (index << 1 | 1);
    prompt[i] = Token(text, i, vocab_size);
  }
  return prompt;
}

class Simulation {
 public:
  Simulation(const Trace& trace, const EngineOptions& options, const EngineLimits& limits,
             const StepModel& model, const Objectives& objectives, const FrontEnd& front_end)
      : trace_(trace),
        options_(options),
        limits_(limits),
        model_(model),
        objectives_(objectives),
        front_end_(front_end),
        scheduler_(options, limits) {}

  SimulationResult Run() {
    while (next_ < trace_.requests.size() || scheduler_.has_work()) {
      if (!scheduler_.has_work()) now_ = std::max(now_, ArrivalOfNext());
      TakeArrivals();
      if (scheduler_.has_work()) Step();
    }
    result_.seconds = now_ - trace_.requests.front().arrival_seconds;
    result_.requests = static_cast<int>(trace_.requests.size());
    result_.mean_running = result_.busy_seconds > 0 ? running_seconds_ / result_.busy_seconds : 0;
    const PrefixCache::Counters counters = scheduler_.cache_counters();
    result_.host_stored_blocks = counters.stored;
    result_.host_loaded_blocks = counters.loaded;
    std::sort(result_.first_token_seconds.begin(), result_.first_token_seconds.end());
    std::sort(result_.inter_token_seconds.begin(), result_.inter_token_seconds.end());
    return std::move(result_);
  }

 private:
  // At the engine.
  double ArrivalOfNext() const {
    return trace_.requests[next_].arrival_seconds + front_end_.before_seconds;
  }

  void TakeArrivals() {
    for (; next_ < trace_.requests.size() && ArrivalOfNext() <= now_; ++next_) {
      Request request;
      request.prompt = Prompt(trace_, next_, limits_.vocab_size);
      request.sampling.max_tokens = std::max(1, trace_.requests[next_].output_tokens);
      request.sampling.ignore_eos = true;
      if (CheckRequest(limits_, &request).fault != RequestFault::kNone) {
        ++result_.refused_too_long;
      } else if (queued_ >= options_.max_queue_requests) {
        ++result_.refused_queue;
      } else {
        auto state = MakeRequestState(std::move(request), std::make_shared<OutputStream>(1), next_);
        state->timing.arrival = At(trace_.requests[next_].arrival_seconds);
        scheduler_.Add(std::move(state));
        ++queued_;
      }
    }
  }

  void Step() {
    scheduler_.Schedule(At(now_), &plan_);
    if (!scheduler_.Settle(At(now_), &plan_)) return;
    StepWork work;
    for (const Sequence* sequence : plan_.sequences) {
      work.Add(model_.layers, sequence->computed, sequence->scheduled, DrawsToken(*sequence));
    }
    for (const BlockMove& move : plan_.block_moves) {
      if (move.kind != BlockMove::Kind::kCopy) ++work.block_moves;
    }
    const double seconds = model_.Seconds(work);
    StepResult out;
    scheduler_.Advance(&plan_);
    for (const Sequence* sequence : plan_.draws) {
      OutputToken token;
      token.token = Token(sequence->seed << 1 | 1, static_cast<uint64_t>(sequence->length()),
                          limits_.vocab_size);
      out.tokens.push_back(token);
    }
    now_ += seconds;
    Count(seconds);
    scheduler_.ObserveStep(plan_, seconds);
    scheduler_.Commit(At(now_), plan_, std::move(out), &events_);
    for (const StepEvents::Ended& ended : events_.ended) CountServed(*ended.request);
    events_.Clear();
  }

  void Count(double seconds) {
    queued_ -= plan_.newly_started;
    result_.preemptions += plan_.preemptions;
    result_.swaps += plan_.swaps;
    result_.prefix_query_tokens += plan_.prefix_query_tokens;
    result_.prefix_hit_tokens += plan_.prefix_hit_tokens;
    result_.most_running = std::max(result_.most_running, scheduler_.num_running());
    result_.most_blocks = std::max(result_.most_blocks, scheduler_.blocks_used());
    running_seconds_ += seconds * scheduler_.num_running();
    result_.busy_seconds += seconds;
    ++result_.steps;
  }

  void CountServed(const RequestState& request) {
    const auto seconds = [](TimePoint::duration duration) {
      return std::chrono::duration<double>(duration).count();
    };
    const RequestTiming& timing = request.timing;
    const int drawn = request.generated();
    const double first = seconds(timing.first_token - timing.arrival) + front_end_.after_seconds;
    const double between =
        drawn > 1 ? seconds(timing.finished - timing.first_token) / (drawn - 1) : 0;
    ++result_.served;
    result_.prompt_tokens += static_cast<int64_t>(request.request.prompt.size());
    result_.output_tokens += drawn;
    result_.first_token_seconds.push_back(first);
    if (drawn > 1) result_.inter_token_seconds.push_back(between);
    if (first <= objectives_.first_token_seconds && between <= objectives_.inter_token_seconds) {
      ++result_.within_objectives;
    }
  }

  const Trace& trace_;
  const EngineOptions options_;
  const EngineLimits limits_;
  const StepModel model_;
  const Objectives objectives_;
  const FrontEnd front_end_;
  Scheduler scheduler_;
  StepPlan plan_;
  StepEvents events_;
  SimulationResult result_;
  size_t next_ = 0;  // of the trace
  int queued_ = 0;   // requests that wait for their first step
  double now_ = 0, running_seconds_ = 0;
};

}  // namespace

SimulationResult Simulate(const Trace& trace, const EngineOptions& options,
                          const EngineLimits& limits, const StepModel& model,
                          const Objectives& objectives, const FrontEnd& front_end) {
  return Simulation(trace, options, limits, model, objectives, front_end).Run();
}

double Percentile(const std::vector<double>& ascending, double fraction) {
  if (ascending.empty()) return 0;
  const auto index = static_cast<size_t>(
      std::ceil(fraction * static_cast<double>(ascending.size())) - (fraction > 0 ? 1 : 0));
  return ascending[std::min(index, ascending.size() - 1)];
}

}  // namespace palu::bench
