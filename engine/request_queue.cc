#include "engine/request_queue.h"

#include <iterator>
#include <utility>

#include "kernels/check.h"

namespace palu {

RequestQueue::RequestQueue(int capacity, int64_t max_tokens)
    : capacity_(capacity), max_tokens_(max_tokens) {}

RequestQueue::PushResult RequestQueue::TryPush(std::unique_ptr<RequestState>* request) {
  const auto tokens = static_cast<int64_t>((*request)->request.prompt.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return PushResult::kClosed;
    if (held_ >= capacity_) return PushResult::kFull;
    if (max_tokens_ > 0 && held_ > 0 && tokens_ + tokens > max_tokens_) {
      return PushResult::kFullOfTokens;
    }
    ++held_;
    tokens_ += tokens;
    inside_.push_back(std::move(*request));
  }
  work_.notify_one();
  return PushResult::kOk;
}

void RequestQueue::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
}

void RequestQueue::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    stopped_ = true;
  }
  work_.notify_one();
}

void RequestQueue::WaitForWork() {
  std::unique_lock<std::mutex> lock(mutex_);
  work_.wait(lock, [this] { return stopped_ || !inside_.empty(); });
}

bool RequestQueue::TakeAll(std::vector<std::unique_ptr<RequestState>>* out) {
  const std::lock_guard<std::mutex> lock(mutex_);
  out->insert(out->end(), std::make_move_iterator(inside_.begin()),
              std::make_move_iterator(inside_.end()));
  inside_.clear();
  return !stopped_;
}

void RequestQueue::ReleasePlaces(int places, int64_t tokens) {
  const std::lock_guard<std::mutex> lock(mutex_);
  PALU_CHECK(places <= held_ && tokens <= tokens_);
  held_ -= places;
  tokens_ -= tokens;
}

int64_t RequestQueue::tokens_held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return tokens_;
}

int RequestQueue::places_held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_;
}

int RequestQueue::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(inside_.size());
}

}  // namespace palu
