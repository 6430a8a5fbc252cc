// The key side of a tile: rows of the cache to keys as they are attended to, and their scores.
#include <algorithm>

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/packed_up.h"

namespace palu::cpu {

void AttentionWorker::ScoreKeyGroup(int group, int64_t tile_begin, Range tokens) {
  const LatentSegment& segment = args_.key.groups[group];
  const int columns = static_cast<int>(RoundUp(tokens.end, kVectorPad));
  LoadKeyLatents(group, tile_begin, tokens, columns);
  Prefetch(segment, tile_begin + kTileTokens);
  const int row_count = rows_per_head();
  const bool dense_codes = ScoresCodes();
  for (int h = 0; h < args_.key.heads_per_group; ++h) {
    const int head = group * args_.key.heads_per_group + h;
    const int head_in_unit = head - unit_ * shape_.unit_heads;
    if (head_in_unit < kv_heads_.begin || head_in_unit >= kv_heads_.end) continue;
    const int64_t row = static_cast<int64_t>(head_in_unit) * row_count;
    if (dense_codes) {
      ScoreDenseCodes(h, columns, row);
      continue;
    }
    if (args_.key.dense()) {
      kernels_.transpose(staging_ + h * shape_.head_dim, staging_width_, columns,
                         shape_.head_dim_padded, keys_, kTileTokens);
    } else if (FromCodes()) {
      if (KeysFromCodes(group, h, columns, row) == Made::kScores) continue;
    } else {
      RebuildKeys(group, h, columns);
      FinishKeys(head, columns);
    }
    kernels_.gemm({.a = turned_ + row * shape_.head_dim_padded,
                   .lda = shape_.head_dim_padded,
                   .b = keys_,
                   .ldb = kTileTokens,
                   .c = scores_ + row * kTileTokens,
                   .ldc = kTileTokens,
                   .m = row_count,
                   .n = columns,
                   .k = shape_.head_dim});
    if (KeysInUnits()) {
      kernels_.scale_columns(scores_ + row * kTileTokens, row_count, units_->scales);
    }
  }
}

void AttentionWorker::LoadKeyLatents(int group, int64_t tile_begin, Range tokens, int columns) {
  const LatentSegment& segment = args_.key.groups[group];
  if (!FromCodes() && !ScoresCodes()) {
    LoadRows(segment, tile_begin, tokens, staging_, staging_width_);
    if (args_.key.dense()) return;
    kernels_.transpose(staging_, staging_width_, columns,
                       static_cast<int>(RoundUp(segment.rank, kVectorPad)), latents_, kTileTokens);
    return;
  }
  const NibbleRows rows = LoadNibbles(segment, tile_begin, tokens);
  kernels_.nibbles_to_quads(rows, columns, reinterpret_cast<uint32_t*>(latents_));
  if (FromCodes()) kernels_.token_units(scales_, scales_ + kTileTokens, units_);
}

NibbleRows AttentionWorker::LoadNibbles(const LatentSegment& segment, int64_t tile_begin,
                                        Range tokens) {
  NibbleRows rows;
  rows.words = static_cast<int>(RoundUp(segment.rank, 8) / 8);
  // Rows of the cache are read where they are if a run of tokens never leaves a block.
  const bool in_place = kernels_.reads_whole_rows_only && segment.format == LatentFormat::kInt4 &&
                        args_.pool.block_size % kRowRun == 0;
  auto* nibbles = reinterpret_cast<uint32_t*>(staging_);
  const int64_t stride = RoundUp(rows.words, kVectorPad);
  rows.row_bytes = in_place ? segment.row_bytes : 4 * stride;
  for (int run = 0; run * kRowRun < kTileTokens; ++run) {
    rows.runs[run] = reinterpret_cast<const std::byte*>(nibbles + run * kRowRun * stride);
  }
  ForBlocks(segment, tile_begin, tokens,
            [&](int t, int count, const std::byte* codes, const std::byte* scales) {
              kernels_.widen_scales(scales, count, scales_ + t, scales_ + kTileTokens + t);
              if (!in_place) {
                kernels_.unpack_nibbles(segment.format, codes, segment.row_bytes, count,
                                        segment.rank, nibbles + t * stride, stride);
                return;
              }
              for (int first = t / kRowRun * kRowRun; first < t + count; first += kRowRun) {
                rows.runs[first / kRowRun] = codes + (first - t) * segment.row_bytes;
              }
            });
  return rows;
}

bool AttentionWorker::ScoresCodes() const {
  if (kernels_.score_dense_codes == nullptr) return false;
  if (!args_.key.dense() || shape_.head_dim > kMaxDigitDim) return false;
  // A head's slice of a row starts with a word of codes.
  if (args_.key.heads_per_group > 1 && shape_.head_dim % 8 != 0) return false;
  return std::all_of(args_.key.groups.begin(), args_.key.groups.end(),
                     [](const auto& segment) { return Bits(segment.format) <= 4; });
}

void AttentionWorker::ScoreDenseCodes(int head_in_group, int columns, int64_t row) {
  constexpr int kColumns = 32;
  kernels_.score_dense_codes({.rows = queries_ + row * shape_.head_dim_padded,
                              .row_stride = shape_.head_dim_padded,
                              .num_rows = rows_per_head(),
                              .depth = shape_.head_dim_padded,
                              .codes = reinterpret_cast<const uint8_t*>(latents_) +
                                       int64_t{head_in_group} * shape_.head_dim * kTileTokens,
                              .columns = static_cast<int>(RoundUp(columns, kColumns)),
                              .token_scales = scales_,
                              .token_zeros = scales_ + kTileTokens,
                              .out = scores_ + row * kTileTokens,
                              .out_stride = kTileTokens});
}

const float* AttentionWorker::KeyBias(int head) {
  if (!args_.key_bias.defined()) return nullptr;
  const char* bias = args_.key_bias.ptr<char>() +
                     static_cast<int64_t>(head) * shape_.head_dim * SizeOf(args_.key_bias.dtype);
  kernels_.to_f32(args_.key_bias.dtype, bias, shape_.head_dim, vectors_);
  return vectors_;
}

PackedUp AttentionWorker::PackedOf(int group) const {
  return PackedUp::At(args_.key.packed_up[group].data(),
                      int64_t{args_.key.heads_per_group} * shape_.head_dim,
                      args_.key.groups[group].rank);
}

AttentionWorker::Made AttentionWorker::KeysFromCodes(int group, int head_in_group, int columns,
                                                     int64_t row) {
  // Rows of queries up to which scores are cheaper than keys to and from memory.
  constexpr int kFewRows = 4;
  const int head_dim = shape_.head_dim;
  const int head = group * args_.key.heads_per_group + head_in_group;
  const int64_t first = static_cast<int64_t>(head_in_group) * head_dim;
  const PackedUp up = PackedOf(group);
  CodeKeysBlock block = {.factor = up.codes + first * up.stride,
                         .factor_stride = up.stride,
                         .row_sums = up.sums + first,
                         .row_inverses = up.inverses + first,
                         .bias = args_.k_norm.defined() ? nullptr : KeyBias(head),
                         .codes = reinterpret_cast<const uint8_t*>(latents_),
                         .tokens = units_,
                         .head_dim = head_dim,
                         .quads = static_cast<int>(up.stride / 4),
                         .columns = columns,
                         .keys = keys_};
  if (RotatesInPairs()) {
    block.cos_sin = rope_offsets_;
    block.rotary_dim = shape_.rotary_dim;
  }
  const bool scores = KeysInUnits() && rows_per_head() <= kFewRows;
  if (scores) {
    block.keys = nullptr;
    block.queries = turned_ + row * shape_.head_dim_padded;
    block.query_stride = shape_.head_dim_padded;
    block.query_rows = rows_per_head();
    block.scores = scores_ + row * kTileTokens;
  }
  kernels_.keys_from_codes(block);
  if (args_.k_norm.defined()) FinishKeys(head, columns);
  return scores ? Made::kScores : Made::kKeys;
}

void AttentionWorker::RebuildKeys(int group, int head_in_group, int columns) {
  const Tensor& up = args_.key.up[group];
  const int rank = args_.key.groups[group].rank;
  const int64_t element = static_cast<int64_t>(SizeOf(up.dtype));
  for (int row = 0; row < shape_.head_dim; row += kPanelRows) {
    const int count = std::min(kPanelRows, shape_.head_dim - row);
    const char* source =
        up.ptr<char>() + (head_in_group * shape_.head_dim + row) * up.stride[0] * element;
    GemmBlock gemm = {.b = latents_,
                      .ldb = kTileTokens,
                      .c = keys_ + row * kTileTokens,
                      .ldc = kTileTokens,
                      .m = count,
                      .n = columns,
                      .k = rank};
    if (up.dtype == DType::kF32) {
      gemm.a = reinterpret_cast<const float*>(source);
      gemm.lda = up.stride[0];
    } else {
      for (int i = 0; i < count; ++i) {
        kernels_.to_f32(up.dtype, source + i * up.stride[0] * element, rank, panel_ + i * rank);
      }
      gemm.a = panel_;
      gemm.lda = rank;
    }
    kernels_.gemm(gemm);
  }
}

void AttentionWorker::FinishKeys(int head, int columns) {
  FinishKeysBlock block;
  block.keys = keys_;
  block.head_dim = shape_.head_dim;
  block.columns = columns;
  block.bias = KeyBias(head);
  if (FromCodes()) {
    const int heads = args_.key.heads_per_group;
    block.tokens = units_;
    block.row_scales = PackedOf(head / heads).scales + int64_t{head % heads} * shape_.head_dim;
  }
  if (args_.k_norm.defined()) {
    float* norm = vectors_ + shape_.head_dim;
    kernels_.to_f32(args_.k_norm.dtype, args_.k_norm.data, shape_.head_dim, norm);
    for (int i = 0; i < shape_.head_dim; ++i) norm[i] += args_.k_norm_offset;
    block.norm = norm;
    block.norm_eps = args_.k_norm_eps;
  }
  if (shape_.rotary_dim > 0) block.cos_sin = rope_offsets_;
  block.rotary_dim = shape_.rotary_dim;
  kernels_.finish_keys(block);
}

void AttentionWorker::TurnQueries(int64_t tile_begin) {
  const int half = shape_.rotary_dim / 2, width = shape_.head_dim_padded;
  const float* cos_sin = args_.cos_sin.ptr<float>() + tile_begin * args_.cos_sin.stride[0];
  const auto [begin, end] = rows();
  const float* from = queries_ + int64_t{begin} * width;
  float* to = turned_ + int64_t{begin} * width;
  if (RotatesInPairs()) {
    kernels_.turn_back(from, end - begin, width, cos_sin, half, to);
    return;
  }
  std::copy(from, from + int64_t{end - begin} * width, to);
  for (int row = begin; row < end; ++row) {
    float* first = turned_ + int64_t{row} * width;
    // The other way round than rotation ahead.
    kernels_.rotate(first + half, first, cos_sin, cos_sin + half, half);
  }
}

}  // namespace palu::cpu
