#include "kernels/cpu/scratch.h"

#include <algorithm>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/kernel_table.h"

namespace palu::cpu {
namespace {

// Partial results of split attention: enough for every thread to have two tasks of 16 splits, but
// never more than this.
constexpr int64_t kMaxPartialFloats = int64_t{16} << 20;
// Rows that a matrix product packs at a time: a multiple of every set's tile_rows, enough that the
// packing of weights, once for all of them, hardly counts.
constexpr int64_t kPackedGranularity = 24, kMaxPackedRows = 10 * kPackedGranularity;

template <typename Vector>
size_t Take(Vector* buffer, size_t count) {
  using Element = typename Vector::value_type;
  buffer->assign(count, Element{});
  return count * sizeof(Element);
}

size_t ReserveMoe(const StepLimits& limits, Scratch* scratch) {
  if (limits.max_experts == 0) return 0;
  const size_t tokens = limits.max_tokens;
  return Take(&scratch->expert_weights, tokens * limits.max_experts) +
         Take(&scratch->expert_tokens, tokens) +
         Take(&scratch->expert_x, tokens * limits.hidden_size) +
         Take(&scratch->expert_gate, tokens * limits.max_intermediate) +
         Take(&scratch->expert_up, tokens * limits.max_intermediate);
}

size_t ReserveAttention(const StepLimits& limits, int threads, Scratch* scratch) {
  if (limits.max_q_heads == 0) return 0;
  scratch->attention = SizesFor(limits);
  const AttentionSizes& sizes = scratch->attention;
  constexpr int64_t kSplits = 16, kTasks = 2;
  const int64_t partials =
      std::min(kMaxPartialFloats, kTasks * threads * kSplits *
                                      AttentionState::Floats(limits.max_q_heads, sizes.row_width));
  scratch->query_blocks.reserve(limits.max_tokens);
  return Take(&scratch->rope_offsets, int64_t{sizes.head_dim} * kTileTokens) +
         Take(&scratch->rope_turn, int64_t{2} * sizes.head_dim) +
         Take(&scratch->attention_threads, sizes.floats_per_thread * threads) +
         Take(&scratch->partials, partials) + limits.max_tokens * sizeof(QueryBlock);
}

size_t ReserveSample(const StepLimits& limits, int threads, Scratch* scratch) {
  const size_t entries = static_cast<size_t>(limits.vocab_size) * threads;
  const size_t stretches =
      static_cast<size_t>(RoundUp(limits.vocab_size, kSampleStretch) / kSampleStretch) * threads;
  return Take(&scratch->sample_logits, entries) + Take(&scratch->sample_counts, entries) +
         Take(&scratch->sample_candidates, entries) + Take(&scratch->sample_maxima, stretches) +
         Take(&scratch->sample_ordered_maxima, stretches) + Take(&scratch->sample_sums, stretches);
}

}  // namespace

size_t Scratch::Reserve(const StepLimits& new_limits, int num_threads) {
  limits = new_limits;
  threads = num_threads;
  depth = std::max({limits.hidden_size, limits.max_intermediate, limits.max_row_numbers,
                    limits.max_q_heads * limits.max_head_dim});
  packed_rows = std::min<int64_t>(RoundUp(limits.max_tokens, kPackedGranularity), kMaxPackedRows);
  const size_t numbers = static_cast<size_t>(depth) * limits.max_tokens;
  return Take(&quant_codes, numbers) + Take(&quant_scales, numbers / kWeightGroup) +
         Take(&quant_sums, numbers / kWeightGroup) + Take(&panels, PanelFloats(depth) * threads) +
         Take(&packed, packed_rows * RoundUp(depth, kVectorPad)) + ReserveMoe(limits, this) +
         ReserveAttention(limits, threads, this) + ReserveSample(limits, threads, this);
}

}  // namespace palu::cpu
