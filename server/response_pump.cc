#include "server/response_pump.h"

#include <algorithm>
#include <utility>

namespace palu {

ResponsePump::ResponsePump(std::vector<RequestHandle> requests, const PumpOptions& options,
                           const Tokenizer& tokenizer, TextPool* pool, std::shared_ptr<Sink> sink)
    : options_(options), pool_(pool), sink_(std::move(sink)) {
  for (RequestHandle& request : requests) {
    streams_.emplace_back(std::move(request));
    for (int i = 0; i < options_.n; ++i) {
      choices_.push_back(std::make_unique<Choice>(tokenizer, options_));
    }
  }
}

void ResponsePump::Start() {
  for (Stream& stream : streams_) {
    stream.handle.stream().SetNotifier([self = shared_from_this()] { self->Schedule(); });
  }
  // Whoever cancelled meanwhile may have ended everything before these notifiers were there.
  if (cancelled_.load()) Schedule();
}

void ResponsePump::Cancel() {
  cancelled_.store(true);
  Schedule();
}

void ResponsePump::Schedule() {
  if (scheduled_.fetch_add(1) == 0) {
    pool_->Post([self = shared_from_this()] { self->Run(); });
  }
}

void ResponsePump::Run() {
  int seen;
  do {
    seen = scheduled_.load();
    RunOnce();
  } while (scheduled_.fetch_sub(seen) != seen);
}

void ResponsePump::RunOnce() {
  if (finished_) return Finish();
  if (cancelled_.load()) {
    for (Stream& stream : streams_) stream.handle.stream().Cancel();
  } else if (sink_->full()) {
    return;
  }
  PumpOutput output;
  output.finished = true;
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (!streams_[i].finished) Take(static_cast<int>(i), &output);
    output.finished = output.finished && streams_[i].finished;
  }
  // One failed prompt fails the response; the others end at the next step.
  if (!output.status.ok()) output.finished = true;
  output.usage = usage_;
  output.finish = finish_;
  output.timing = timing_;
  finished_ = output.finished;
  if (finished_ || !output.deltas.empty() || !output.prompt_logprobs.empty() ||
      !output.embeddings.empty()) {
    sink_->Send(output);
  }
  if (finished_) Finish();
}

void ResponsePump::Take(int prompt, PumpOutput* output) {
  Stream& stream = streams_[static_cast<size_t>(prompt)];
  OutputBatch batch = stream.handle.stream().Drain();
  // Told again with later batches, or not.
  const int prompt_tokens = std::max(stream.prompt_tokens, batch.prompt_tokens);
  const int cached_tokens = std::max(stream.cached_tokens, batch.cached_tokens);
  usage_.prompt_tokens += prompt_tokens - stream.prompt_tokens;
  usage_.cached_tokens += cached_tokens - stream.cached_tokens;
  stream.prompt_tokens = prompt_tokens;
  stream.cached_tokens = cached_tokens;
  if (!batch.prompt_logprobs.empty()) {
    output->prompt_logprobs.push_back({prompt, std::move(batch.prompt_logprobs)});
  }
  if (!batch.embedding.empty()) {
    output->embeddings.push_back({prompt, std::move(batch.embedding)});
  }
  if (batch.finished) AddTiming(batch.timing);
  for (OutputDelta& delta : batch.deltas) {
    const size_t index = static_cast<size_t>(prompt * options_.n + delta.choice);
    if (choices_[index]->done) continue;
    output->deltas.push_back(ToText(prompt, std::move(delta)));
  }
  stream.finished = batch.finished;
  if (batch.finished && !batch.status.ok() && output->status.ok()) {
    output->status = std::move(batch.status);
  }
}

// From the first prompt's beginning to the last one's end.
void ResponsePump::AddTiming(const RequestTiming& timing) {
  const RequestTiming::Clock::time_point none{};
  const auto earliest = [none](auto* mine, auto other) {
    if (other != none && (*mine == none || other < *mine)) *mine = other;
  };
  earliest(&timing_.arrival, timing.arrival);
  earliest(&timing_.scheduled, timing.scheduled);
  earliest(&timing_.first_token, timing.first_token);
  timing_.finished = std::max(timing_.finished, timing.finished);
}

ChoiceDelta ResponsePump::ToText(int prompt, OutputDelta delta) {
  ChoiceDelta out;
  out.index = prompt * options_.n + delta.choice;
  Choice& choice = *choices_[static_cast<size_t>(out.index)];
  size_t used = 0;
  while (used < delta.tokens.size() && !choice.stop.stopped()) {
    const bool ends = delta.stopped_by_token && used + 1 == delta.tokens.size();
    if (!ends || options_.include_stop_str) {
      out.text += choice.stop.Push(choice.detokenizer.Push(delta.tokens[used].token));
    }
    ++used;
  }
  usage_.completion_tokens += static_cast<int>(used);
  const bool all_used = used == delta.tokens.size();
  delta.tokens.resize(used);
  if (delta.finish && all_used && !choice.stop.stopped()) EndByToken(delta, &choice, &out);
  if (choice.stop.stopped()) {
    choice.done = true;
    out.finish = FinishReason::kStop;
    out.stop_string = choice.stop.matched();
    streams_[static_cast<size_t>(prompt)].handle.stream().StopChoice(delta.choice);
  }
  if (out.finish) finish_ = out.finish;
  out.tokens = std::move(delta.tokens);
  return out;
}

void ResponsePump::EndByToken(const OutputDelta& delta, Choice* choice, ChoiceDelta* out) {
  out->text += choice->stop.Push(choice->detokenizer.Finish());
  if (choice->stop.stopped()) return;
  out->text += choice->stop.Finish();
  choice->done = true;
  // A cancelled or failed choice is told by the status of the whole.
  if (*delta.finish != FinishReason::kStop && *delta.finish != FinishReason::kLength) return;
  out->finish = delta.finish;
  if (!delta.stopped_by_token || delta.tokens.empty()) return;
  const int32_t last = delta.tokens.back().token;
  const std::vector<int32_t>& ids = options_.stop_token_ids;
  if (std::find(ids.begin(), ids.end(), last) != ids.end()) out->stop_token = last;
}

void ResponsePump::Finish() {
  for (Stream& stream : streams_) {
    if (!stream.finished) stream.handle.stream().Cancel();
    // The notifier keeps this object alive.
    stream.handle.stream().SetNotifier(nullptr);
  }
}

}  // namespace palu
