// Whether a cached block that must leave the device is likely to be asked for again.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>

namespace palu {

// Learns from what became of earlier ones: which share of the blocks that left was asked for again
// as long as a host tier would have held it. Those that were not stored are remembered by the
// hashes of their texts, as many as the tier has slots, so that it also notices when storing would
// pay again. Hashes may collide: this only steers. Engine thread only.
class ReuseEstimate {
 public:
  explicit ReuseEstimate(int host_blocks) : host_blocks_(host_blocks) {}

  // A block left the device: to the host, or for good.
  void Stored() { Left(); }
  void Lost(uint64_t hash);
  // It was asked for again: brought back from the host, or (true, once) only remembered.
  void Loaded() { asked_again_ += 1; }
  bool AskForLost(uint64_t hash);

  double value() const;  // in [0, 1]; 1 before anything is known

 private:
  void Left();

  const int host_blocks_;
  double left_ = 0, asked_again_ = 0;
  std::list<uint64_t> order_;  // of lost_, oldest first
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> lost_;
};

}  // namespace palu
