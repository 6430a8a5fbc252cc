// The way into the engine thread: many producers, one consumer, bounded.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/sequence.h"

namespace palu {

// Thread-safe. What is bounded are the requests that wait for their first step, and the tokens of
// their prompts, also of those that the engine thread has already taken out to order them: a place
// is held from TryPush until ReleasePlaces. An empty queue takes a prompt of any length.
class RequestQueue {
 public:
  enum class PushResult { kOk, kFull, kFullOfTokens, kClosed };

  // max_tokens: 0 is no bound.
  explicit RequestQueue(int capacity, int64_t max_tokens = 0);

  // Never blocks. *request is moved from only if the result is kOk.
  PushResult TryPush(std::unique_ptr<RequestState>* request);
  // Refuses new requests from now on; what is inside stays.
  void Close();
  // Closes, and makes WaitForWork return at once forever.
  void Stop();

  // Consumer. Blocks until something can be taken or Stop was called.
  void WaitForWork();
  // Appends all that is inside to *out. Returns false once Stop was called.
  bool TakeAll(std::vector<std::unique_ptr<RequestState>>* out);
  void ReleasePlaces(int places, int64_t tokens);

  int places_held() const;
  int64_t tokens_held() const;
  int size() const;  // of what TakeAll would give

 private:
  const int capacity_;
  const int64_t max_tokens_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::vector<std::unique_ptr<RequestState>> inside_;  // guarded by mutex_
  int held_ = 0;                                       // guarded by mutex_
  int64_t tokens_ = 0;                                 // guarded by mutex_
  bool closed_ = false;                                // guarded by mutex_
  bool stopped_ = false;                               // guarded by mutex_
};

}  // namespace palu
