#include "engine/step_cost.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace palu {
namespace {

constexpr double kMemory = 0.8;    // weight of the past in the mean
constexpr double kHeadroom = 0.9;  // of the target, aimed at when it was passed
constexpr double kSlack = 0.75;    // of the target, below which the chunk may grow
constexpr double kGrowth = 1.25;
constexpr int kLeastChunk = 16;  // so that prompts get on however long the decodes take

}  // namespace

StepCost::StepCost(double target_seconds, int max_tokens, double block_copy_seconds)
    : target_seconds_(target_seconds),
      max_tokens_(max_tokens),
      block_copy_seconds_(block_copy_seconds),
      chunk_tokens_(max_tokens) {}

void StepCost::Observe(int tokens, int decodes, bool chunk_full, double seconds) {
  const int chunk = tokens - decodes;
  // A clock that stood still or jumped says nothing.
  if (chunk <= 0 || !(seconds > 0) || !std::isfinite(seconds)) return;
  if (chunk >= decodes) {
    const double now = seconds / tokens;
    seconds_per_token_ =
        seconds_per_token_ > 0 ? kMemory * seconds_per_token_ + (1 - kMemory) * now : now;
  }
  if (decodes == 0 || target_seconds_ <= 0) return;
  if (seconds > target_seconds_) {
    const double wanted = chunk * kHeadroom * target_seconds_ / seconds;
    chunk_tokens_ =
        std::clamp(static_cast<int>(wanted), std::min(kLeastChunk, max_tokens_), max_tokens_);
  } else if (chunk_full && seconds < kSlack * target_seconds_) {
    chunk_tokens_ = std::min(max_tokens_, static_cast<int>(chunk_tokens_ * kGrowth) + 1);
  }
}

bool StepCost::CopyPays(int blocks, int64_t tokens) const {
  if (seconds_per_token_ <= 0) return true;
  return blocks * block_copy_seconds_ < static_cast<double>(tokens) * seconds_per_token_;
}

double StepCost::LeastReuse(int block_tokens) const {
  if (seconds_per_token_ <= 0 || block_copy_seconds_ <= 0) return 0;
  const double saved = block_tokens * seconds_per_token_ - block_copy_seconds_;
  return saved > 0 ? block_copy_seconds_ / saved : std::numeric_limits<double>::infinity();
}

}  // namespace palu
