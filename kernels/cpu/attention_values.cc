// The value side of a tile: weighted sums of rows of the cache.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_tile.h"

namespace palu::cpu {

bool AttentionWorker::SumsCodes(const LatentSegment& segment) const {
  if (kernels_.add_value_sums == nullptr) return false;
  if (Bits(segment.format) > 4) return false;
  return !args_.value.dense() || args_.value.heads_per_group == 1 ||
         shape_.head_dim % kValueColumns == 0;
}

AttentionWorker::ValueParts AttentionWorker::PartsOf(int group) const {
  const bool dense = args_.value.dense();
  const int group_begin = group * args_.value.heads_per_group - unit_ * shape_.unit_heads;
  const int begin = std::max(group_begin, kv_heads_.begin);
  const int end = std::min(group_begin + args_.value.heads_per_group, kv_heads_.end);
  const int parts = dense ? end - begin : 1;
  return {.width = dense ? shape_.head_dim : args_.value.groups[group].rank,
          .parts = parts,
          .first_part = dense ? begin - group_begin : 0,
          .row_count = rows_per_head() * (end - begin) / parts,
          .first_row = begin * rows_per_head()};
}

void AttentionWorker::LoadValueCodes(const LatentSegment& segment, int64_t tile_begin,
                                     Range tokens) {
  // Tokens that nobody loads have weight 0, which a scale must not turn into NaN.
  std::fill(scales_, scales_ + 2 * kTileTokens, 0.0f);
  const NibbleRows rows = LoadNibbles(segment, tile_begin, tokens);
  kernels_.nibbles_to_token_quads(rows, reinterpret_cast<uint8_t*>(latents_));
}

void AttentionWorker::AddValueCodes(int group, int64_t tile_begin, Range tokens,
                                    const AttentionState& state) {
  const LatentSegment& segment = args_.value.groups[group];
  LoadValueCodes(segment, tile_begin, tokens);
  Prefetch(segment, tile_begin + kTileTokens);
  const auto [width, parts, first_part, row_count, first_row] = PartsOf(group);
  const auto seen = [&](int row) {
    const Range range = Visible(row % block_->num_queries, tile_begin);
    return range.begin < range.end;
  };
  for (int part = 0; part < parts; ++part) {
    for (int row = 0; row < row_count;) {
      int next = row;
      const int64_t first = static_cast<int64_t>(first_row) + part * row_count + row;
      for (; next < row_count && seen(next); ++next) {
        float* weights = scores_ + (first + next - row) * kTileTokens;
        kernels_.digits_of_weights(weights, scales_, scales_ + kTileTokens, RowDigits::At(weights));
      }
      kernels_.add_value_sums({.rows = scores_ + first * kTileTokens,
                               .row_stride = kTileTokens,
                               .num_rows = next - row,
                               .depth = kTileTokens,
                               .codes = reinterpret_cast<const uint8_t*>(latents_) +
                                        int64_t{first_part + part} * shape_.head_dim * kTileTokens,
                               .columns = static_cast<int>(RoundUp(width, kValueColumns)),
                               .out = state.acc + first * shape_.row_width,
                               .out_stride = shape_.row_width});
      row = std::max(next, row + 1);
    }
  }
}

void AttentionWorker::PutInOrder(float* row) const {
  constexpr int kHalf = kValueColumns / 2;
  for (int i = 0; i < shape_.row_width; i += kValueColumns, row += kValueColumns) {
    float even[kHalf], odd[kHalf];
    std::memcpy(even, row, sizeof(even));
    std::memcpy(odd, row + kHalf, sizeof(odd));
    for (int x = 0; x < kHalf; ++x) {
      row[2 * x] = even[x];
      row[2 * x + 1] = odd[x];
    }
  }
}

void AttentionWorker::AddValueGroup(int group, int64_t tile_begin, Range tokens,
                                    const AttentionState& state) {
  const LatentSegment& segment = args_.value.groups[group];
  if (SumsCodes(segment)) return AddValueCodes(group, tile_begin, tokens, state);
  LoadRows(segment, tile_begin, tokens, staging_, staging_width_);
  Prefetch(segment, tile_begin + kTileTokens);
  const auto [width, parts, first_part, row_count, first_row] = PartsOf(group);
  for (int part = 0; part < parts; ++part) {
    const float* values = staging_ + (first_part + part) * shape_.head_dim;
    // Neighbouring rows that see the same tokens go together; a row's own sum does not change.
    for (int row = 0; row < row_count;) {
      const Range seen = Visible(row % block_->num_queries, tile_begin);
      int next = row + 1;
      for (; next < row_count; ++next) {
        const Range other = Visible(next % block_->num_queries, tile_begin);
        if (other.begin != seen.begin || other.end != seen.end) break;
      }
      const int64_t first = static_cast<int64_t>(first_row) + part * row_count + row;
      if (seen.begin < seen.end) {
        kernels_.gemm({.a = scores_ + first * kTileTokens + seen.begin,
                       .lda = kTileTokens,
                       .b = values + seen.begin * staging_width_,
                       .ldb = staging_width_,
                       .c = state.acc + first * shape_.row_width,
                       .ldc = shape_.row_width,
                       .m = next - row,
                       .n = static_cast<int>(RoundUp(width, kVectorPad)),
                       .k = seen.end - seen.begin,
                       .accumulate = true});
      }
      row = next;
    }
  }
}

}  // namespace palu::cpu
