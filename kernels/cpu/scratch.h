// Scratch memory of the CPU ops, taken once by Backend::Reserve.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"

namespace palu::cpu {

// Memory from the start of a cache line on, so that whole vectors do not straddle two.
template <typename T>
struct LineAllocator {
  static constexpr std::align_val_t kLine{64};
  using value_type = T;

  LineAllocator() = default;
  template <typename U>
  explicit LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* data, size_t) { ::operator delete(data, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
};
using LineFloats = std::vector<float, LineAllocator<float>>;

// A run of queries of one sequence that attention handles together.
struct QueryBlock {
  int sequence = 0;
  int first_query = 0;  // within the sequence's queries of this step
  int num_queries = 0;
  int first_position = 0;  // of first_query
  int splits = 1;          // stretches of the context that are summed apart
  int64_t first_task = 0;
  int64_t partial_offset = 0;  // floats, into Scratch::partials
};

// Sizes of attention's buffers for one thread, floats unless said otherwise.
struct AttentionSizes {
  int rows = 0;       // (query head, query) pairs at a time
  int row_width = 0;  // longest latent group or head, padded
  int head_dim = 0;   // padded
  size_t floats_per_thread = 0;
};

// Plain buffers; who uses which is said beside each. Not thread-safe: per-thread parts are indexed
// by the pool's thread number.
struct Scratch {
  StepLimits limits;
  int threads = 1;

  // matmul: the longest row; panels of weights, [threads][PanelFloats(depth)]; packed rows,
  // [packed_rows, depth]
  int64_t depth = 0;
  LineFloats panels;
  int64_t packed_rows = 0;
  LineFloats packed;

  // matmul: rows of activations as codes, [max_tokens, depth] and groups of them
  std::vector<int8_t> quant_codes;
  std::vector<float> quant_scales;
  std::vector<int32_t> quant_sums;

  // moe
  std::vector<float> expert_weights;                    // [T, max_experts]
  std::vector<int32_t> expert_tokens;                   // [T]
  std::vector<float> expert_x, expert_gate, expert_up;  // gathered rows of one expert

  // latent_attention
  AttentionSizes attention;
  LineFloats attention_threads;  // [threads][floats_per_thread]
  LineFloats partials;
  std::vector<QueryBlock> query_blocks;
  LineFloats rope_offsets;       // [rotary_dim, kTileTokens]: cosines and sines of a tile's
                                 // positions from its first one on
  std::vector<float> rope_turn;  // [2, rope_dim]: rows 0 and 1 of the table they belong to
  int rope_dim = 0;

  // sample, [threads][V] each
  std::vector<float> sample_logits;
  std::vector<int32_t> sample_counts;
  std::vector<Candidate> sample_candidates;
  // sample, [threads][stretches of V] each
  std::vector<float> sample_maxima, sample_ordered_maxima;
  std::vector<double> sample_sums;

  // Takes everything; returns bytes.
  size_t Reserve(const StepLimits& new_limits, int num_threads);
};

}  // namespace palu::cpu
