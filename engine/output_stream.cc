#include "engine/output_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kernels/check.h"

namespace palu {

OutputStream::OutputStream(int choices, std::shared_ptr<std::atomic<bool>> attention)
    : attention_(std::move(attention)),
      stopped_(std::make_unique<std::atomic<bool>[]>(choices)),
      choices_(choices) {}

void OutputStream::SetNotifier(std::function<void()> notifier) {
  std::unique_lock<std::mutex> lock(mutex_);
  notifier_ = notifier ? std::make_shared<std::function<void()>>(std::move(notifier)) : nullptr;
  if (!has_pending_ || !notifier_) return;
  const auto call = notifier_;
  lock.unlock();
  (*call)();
}

OutputBatch OutputStream::Drain() {
  const std::lock_guard<std::mutex> lock(mutex_);
  OutputBatch batch = std::exchange(pending_, OutputBatch{});
  pending_.prompt_tokens = batch.prompt_tokens;
  pending_.cached_tokens = batch.cached_tokens;
  has_pending_ = false;
  unread_tokens_.store(0, std::memory_order_relaxed);
  return batch;
}

bool OutputStream::Wait(std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  return readable_.wait_for(lock, timeout, [this] { return has_pending_; });
}

void OutputStream::StopChoice(int choice) {
  PALU_CHECK(choice >= 0 && choice < choices_);
  stopped_[choice].store(true, std::memory_order_relaxed);
  CallAttention();
}

bool OutputStream::choice_stopped(int choice) const {
  return stopped_[choice].load(std::memory_order_relaxed);
}

void OutputStream::PublishPrompt(int prompt_tokens, int cached_tokens,
                                 std::vector<OutputToken> logprobs, std::vector<float> embedding) {
  std::unique_lock<std::mutex> lock(mutex_);
  pending_.prompt_tokens = prompt_tokens;
  pending_.cached_tokens = cached_tokens;
  pending_.prompt_logprobs = std::move(logprobs);
  pending_.embedding = std::move(embedding);
  NotifyLocked(lock);
}

void OutputStream::Publish(OutputDelta delta) {
  std::unique_lock<std::mutex> lock(mutex_);
  PALU_CHECK(!pending_.finished);
  unread_tokens_.fetch_add(static_cast<int>(delta.tokens.size()), std::memory_order_relaxed);
  auto& deltas = pending_.deltas;
  const auto same = std::find_if(deltas.begin(), deltas.end(), [&](const OutputDelta& unread) {
    return unread.choice == delta.choice;
  });
  if (same == deltas.end()) {
    deltas.push_back(std::move(delta));
  } else {
    PALU_CHECK(!same->finish);
    same->tokens.insert(same->tokens.end(), std::make_move_iterator(delta.tokens.begin()),
                        std::make_move_iterator(delta.tokens.end()));
    same->finish = delta.finish;
    same->stopped_by_token = delta.stopped_by_token;
  }
  NotifyLocked(lock);
}

void OutputStream::Finish(Status status, const RequestTiming& timing) {
  std::unique_lock<std::mutex> lock(mutex_);
  PALU_CHECK(!pending_.finished);
  ended_.store(true, std::memory_order_relaxed);
  pending_.finished = true;
  pending_.status = std::move(status);
  pending_.timing = timing;
  NotifyLocked(lock);
}

void OutputStream::NotifyLocked(std::unique_lock<std::mutex>& lock) {
  const bool was_empty = !std::exchange(has_pending_, true);
  if (!was_empty) return;
  readable_.notify_all();
  if (!notifier_) return;
  // Held and called outside the lock: the reader may drain, or replace the notifier, meanwhile.
  const auto call = notifier_;
  lock.unlock();
  (*call)();
}

}  // namespace palu
