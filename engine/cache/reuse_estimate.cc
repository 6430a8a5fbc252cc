#include "engine/cache/reuse_estimate.h"

#include <algorithm>

namespace palu {
namespace {

// As many blocks that were all asked for again stand for what is not known yet.
constexpr double kPrior = 64;
// The past is halved each time that this many times the host's blocks have left.
constexpr int kMemory = 4;
constexpr int kLeastMemory = 256;

}  // namespace

void ReuseEstimate::Left() {
  left_ += 1;
  if (left_ < kMemory * std::max(host_blocks_, kLeastMemory)) return;
  left_ /= 2;
  asked_again_ /= 2;
}

void ReuseEstimate::Lost(uint64_t hash) {
  Left();
  if (lost_.contains(hash)) return;
  if (static_cast<int>(order_.size()) >= host_blocks_) {
    lost_.erase(order_.front());
    order_.pop_front();
  }
  lost_.emplace(hash, order_.insert(order_.end(), hash));
}

bool ReuseEstimate::AskForLost(uint64_t hash) {
  const auto found = lost_.find(hash);
  if (found == lost_.end()) return false;
  order_.erase(found->second);
  lost_.erase(found);
  asked_again_ += 1;
  return true;
}

double ReuseEstimate::value() const {
  return std::min(1.0, (asked_again_ + kPrior) / (left_ + kPrior));
}

}  // namespace palu
