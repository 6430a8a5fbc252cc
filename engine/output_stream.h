// One request's mailbox, from the engine thread to whoever reads it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/request.h"
#include "engine/status.h"

namespace palu {

// Everything unread, taken in one go.
struct OutputBatch {
  std::vector<OutputDelta> deltas;           // at most one per choice: unread deltas coalesce
  std::vector<OutputToken> prompt_logprobs;  // once, if asked for; entry i is prompt token i + 1
  std::vector<float> embedding;              // once, if asked for; [D]
  bool finished = false;                     // every choice has ended; nothing follows
  Status status;                             // set with finished; not ok: the request failed
  int prompt_tokens = 0;
  int cached_tokens = 0;  // prompt tokens supplied by the prefix cache
  RequestTiming timing;   // complete with finished
};

// Thread-safe. The engine publishes, one reader drains. The notifier runs on the publishing thread
// after every publication that makes an empty mailbox non-empty: it must only post work elsewhere,
// never block. Cancel and StopChoice may be called from any thread; the engine looks at them at
// every step boundary.
class OutputStream {
 public:
  // attention, if given, is set whenever the engine has to look at Cancel or StopChoice.
  explicit OutputStream(int choices, std::shared_ptr<std::atomic<bool>> attention = nullptr);

  // Reader's side.
  void SetNotifier(std::function<void()> notifier);  // fires at once if something is unread
  OutputBatch Drain();
  // Blocks until something is unread or the timeout has passed; for tools and tests.
  bool Wait(std::chrono::milliseconds timeout);
  void Cancel() {
    cancelled_.store(true, std::memory_order_relaxed);
    CallAttention();
  }
  void StopChoice(int choice);  // ends one choice with kStop (a stop string was seen)

  // Engine's side.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  bool choice_stopped(int choice) const;
  void PublishPrompt(int prompt_tokens, int cached_tokens, std::vector<OutputToken> logprobs,
                     std::vector<float> embedding = {});
  void Publish(OutputDelta delta);
  void Finish(Status status, const RequestTiming& timing);
  int unread_tokens() const { return unread_tokens_.load(std::memory_order_relaxed); }

 private:
  void NotifyLocked(std::unique_lock<std::mutex>& lock);
  void CallAttention() {
    if (attention_ && !ended_.load(std::memory_order_relaxed)) {
      attention_->store(true, std::memory_order_release);
    }
  }

  const std::shared_ptr<std::atomic<bool>> attention_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> ended_{false};  // nobody looks at cancelled_ any more
  std::atomic<int> unread_tokens_{0};
  std::unique_ptr<std::atomic<bool>[]> stopped_;
  const int choices_;
  mutable std::mutex mutex_;
  std::condition_variable readable_;
  OutputBatch pending_;                                    // guarded by mutex_
  bool has_pending_ = false;                               // guarded by mutex_
  std::shared_ptr<const std::function<void()>> notifier_;  // guarded by mutex_
};

}  // namespace palu
