#include "kernels/cpu/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/check.h"

namespace palu::cpu {
namespace {

constexpr size_t kUnitFloats = sizeof(TokenUnits) / sizeof(float);

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

int Width(const LatentProjection& projection) {
  int width = 0;
  for (const LatentSegment& segment : projection.groups) width = std::max(width, segment.rank);
  return width;
}

}  // namespace

AttentionShape MakeShape(const LatentAttentionArgs& args) {
  AttentionShape s;
  s.q_heads = static_cast<int>(args.q.dim(1));
  s.kv_heads = args.kv_heads;
  s.queries_per_kv = s.q_heads / s.kv_heads;
  s.head_dim = static_cast<int>(args.q.dim(2));
  s.head_dim_padded = static_cast<int>(RoundUp(s.head_dim, kVectorPad));
  s.rotary_dim = args.cos_sin.defined() ? static_cast<int>(args.cos_sin.dim(1)) : 0;
  s.unit_heads = std::lcm(args.key.heads_per_group, args.value.heads_per_group);
  s.units = s.kv_heads / s.unit_heads;
  const int value_width = args.value.dense() ? s.head_dim : Width(args.value);
  s.row_width = static_cast<int>(RoundUp(value_width, kValueColumns));
  PALU_CHECK(s.q_heads % s.kv_heads == 0 && s.kv_heads % s.unit_heads == 0);
  return s;
}

AttentionState AttentionState::At(float* memory, int64_t rows, int64_t row_width) {
  return {memory, memory + rows * row_width, memory + rows * (row_width + 1)};
}

AttentionSizes SizesFor(const StepLimits& limits) {
  constexpr int64_t kStateBytes = 2 << 20;
  constexpr int64_t kMaxQueries = 128;
  AttentionSizes sizes;
  sizes.head_dim = static_cast<int>(RoundUp(limits.max_head_dim, kVectorPad));
  // One vector more, so that padded reads of a row's last head stay inside.
  sizes.row_width =
      static_cast<int>(RoundUp(std::max(limits.max_rank, limits.max_head_dim), kVectorPad)) +
      kVectorPad;
  const int64_t heads = limits.max_q_heads;
  const int64_t fitting = kStateBytes / static_cast<int64_t>(sizeof(float)) / sizes.row_width;
  sizes.rows = static_cast<int>(
      std::clamp(fitting, heads, heads * std::min<int64_t>(kMaxQueries, limits.max_tokens)));
  const size_t width = sizes.row_width, dim = sizes.head_dim, rows = sizes.rows;
  sizes.floats_per_thread = 2 * kTileTokens * width + kTileTokens * dim + 2 * rows * dim +
                            rows * kTileTokens + kPanelRows * width + 2 * dim + 2 * kTileTokens +
                            kUnitFloats + 2 * AttentionState::Floats(rows, width);
  return sizes;
}

AttentionWorker::AttentionWorker(const KernelTable& kernels, const LatentAttentionArgs& args,
                                 const AttentionShape& shape, const Scratch& scratch, float* memory)
    : kernels_(kernels),
      args_(args),
      shape_(shape),
      rope_offsets_(scratch.rope_offsets.data()),
      staging_width_(scratch.attention.row_width) {
  const AttentionSizes& sizes = scratch.attention;
  const int64_t width = sizes.row_width, dim = sizes.head_dim, rows = sizes.rows;
  const auto take = [&memory](int64_t floats) { return std::exchange(memory, memory + floats); };
  staging_ = take(kTileTokens * width);
  latents_ = take(kTileTokens * width);
  keys_ = take(kTileTokens * dim);
  queries_ = take(rows * dim);
  turned_ = take(rows * dim);
  if (args.key.dense() || shape.rotary_dim == 0) turned_ = queries_;
  scores_ = take(rows * kTileTokens);
  panel_ = take(kPanelRows * width);
  vectors_ = take(2 * dim);
  scales_ = take(2 * kTileTokens);
  units_ = reinterpret_cast<TokenUnits*>(take(kUnitFloats));
  part_ = AttentionState::At(take(AttentionState::Floats(rows, width)), rows, shape.row_width);
  total_ = AttentionState::At(take(AttentionState::Floats(rows, width)), rows, shape.row_width);
}

void AttentionWorker::Select(const QueryBlock* block, int unit, Range kv_heads) {
  block_ = block;
  unit_ = unit;
  kv_heads_ = kv_heads;
}

AttentionWorker::Range AttentionWorker::Visible(int query, int64_t tile_begin) const {
  const int64_t position = block_->first_position + query;
  const int64_t first = args_.window > 0 ? position - args_.window + 1 : 0;
  return {static_cast<int>(std::clamp<int64_t>(first - tile_begin, 0, kTileTokens)),
          static_cast<int>(std::clamp<int64_t>(position + 1 - tile_begin, 0, kTileTokens))};
}

void AttentionWorker::LoadQueries() {
  const int32_t first_row = args_.cu_seqlens.ptr<int32_t>()[block_->sequence] + block_->first_query;
  float* out = queries_ + static_cast<int64_t>(rows().begin) * shape_.head_dim_padded;
  const int queries_per_kv = shape_.queries_per_kv;
  const int first_head = unit_ * shape_.unit_heads * queries_per_kv;
  const int half = RotatesInPairs() ? shape_.rotary_dim / 2 : 0;
  const bool as_digits = ScoresCodes();
  for (int h = kv_heads_.begin * queries_per_kv; h < kv_heads_.end * queries_per_kv; ++h) {
    const float* row_scales = nullptr;
    if (KeysInUnits()) {
      const int head = (first_head + h) / queries_per_kv, heads = args_.key.heads_per_group;
      row_scales = PackedOf(head / heads).scales + int64_t{head % heads} * shape_.head_dim;
    }
    for (int i = 0; i < block_->num_queries; ++i) {
      const float* q = args_.q.ptr<float>() + (first_row + i) * args_.q.stride[0] +
                       (first_head + h) * args_.q.stride[1];
      const auto put = [&](int to, int from) {
        out[to] = q[from] * args_.scale;
        if (row_scales != nullptr) out[to] *= row_scales[from];
      };
      for (int d = 0; d < half; ++d) {
        put(2 * d, d);
        put(2 * d + 1, half + d);
      }
      for (int d = 2 * half; d < shape_.head_dim; ++d) put(d, d);
      if (as_digits) kernels_.digits_of_query(out, shape_.head_dim, RowDigits::At(out));
      out += shape_.head_dim_padded;
    }
  }
}

void AttentionWorker::Run(int64_t begin, int64_t end, const AttentionState& state) {
  const auto [first_row, end_row] = rows();
  std::fill(state.acc + int64_t{first_row} * shape_.row_width,
            state.acc + int64_t{end_row} * shape_.row_width, 0.0f);
  std::fill(state.max + first_row, state.max + end_row, kMinusInfinity);
  std::fill(state.sum + first_row, state.sum + end_row, 0.0f);
  LoadQueries();
  const int64_t last = block_->first_position + block_->num_queries;
  const int64_t first =
      args_.window > 0 ? std::max<int64_t>(0, block_->first_position - args_.window + 1) : 0;
  end = std::min(end, last);
  begin = std::max(begin, first);
  end_ = end;
  for (int64_t tile = begin / kTileTokens * kTileTokens; tile < end; tile += kTileTokens) {
    const Range tokens = {static_cast<int>(std::max(begin - tile, int64_t{0})),
                          static_cast<int>(std::min<int64_t>(end - tile, kTileTokens))};
    RunTile(tile, tokens, state);
  }
}

void AttentionWorker::RunTile(int64_t tile_begin, Range tokens, const AttentionState& state) {
  if (turned_ != queries_) TurnQueries(tile_begin);
  const int first_head = unit_ * shape_.unit_heads + kv_heads_.begin;
  const int end_head = unit_ * shape_.unit_heads + kv_heads_.end;
  const int per_key = args_.key.heads_per_group, per_value = args_.value.heads_per_group;
  for (int g = first_head / per_key; g * per_key < end_head; ++g) {
    ScoreKeyGroup(g, tile_begin, tokens);
  }
  Softmax(tile_begin, state);
  for (int g = first_head / per_value; g * per_value < end_head; ++g) {
    AddValueGroup(g, tile_begin, tokens, state);
  }
}

void AttentionWorker::LoadRows(const LatentSegment& segment, int64_t tile_begin, Range tokens,
                               float* out, int64_t ld_out) const {
  ForBlocks(segment, tile_begin, tokens,
            [&](int t, int count, const std::byte* codes, const std::byte* scales) {
              kernels_.unpack(segment.format, codes, segment.row_bytes, scales, count, segment.rank,
                              out + t * ld_out, ld_out);
            });
}

void AttentionWorker::Prefetch(const LatentSegment& segment, int64_t tile_begin) const {
  constexpr int64_t kLine = 64;
  const LatentPool& pool = args_.pool;
  const int32_t* table =
      args_.block_tables.ptr<int32_t>() + block_->sequence * args_.block_tables.stride[0];
  const int64_t end = std::min(end_, tile_begin + kTileTokens);
  for (int64_t position = tile_begin; position < end;) {
    const int64_t offset = position % pool.block_size;
    const int64_t count = std::min(end - position, pool.block_size - offset);
    const std::byte* block = pool.data + table[position / pool.block_size] * pool.block_bytes;
    const std::byte* codes = block + segment.codes_offset + offset * segment.row_bytes;
    for (int64_t i = 0; i < count * segment.row_bytes; i += kLine) __builtin_prefetch(codes + i);
    if (IsQuantized(segment.format)) {
      __builtin_prefetch(block + segment.scales_offset + offset * kScaleBytes);
    }
    position += count;
  }
}

void AttentionWorker::Softmax(int64_t tile_begin, const AttentionState& state) {
  for (int row = rows().begin; row < rows().end; ++row) {
    const Range seen = Visible(row % block_->num_queries, tile_begin);
    if (seen.begin >= seen.end) continue;
    const float shrink =
        kernels_.softmax_tile(scores_ + static_cast<int64_t>(row) * kTileTokens, seen.begin,
                              seen.end, state.max + row, state.sum + row);
    if (shrink != 1.0f) {
      kernels_.scale(state.acc + static_cast<int64_t>(row) * shape_.row_width, shape_.row_width,
                     shrink);
    }
  }
}

void AttentionWorker::Merge(const AttentionState& part, Range heads,
                            const AttentionState& total) const {
  for (int row = heads.begin * block_->num_queries; row < heads.end * block_->num_queries; ++row) {
    if (part.max[row] == kMinusInfinity) continue;
    float* acc = total.acc + static_cast<int64_t>(row) * shape_.row_width;
    const float* other = part.acc + static_cast<int64_t>(row) * shape_.row_width;
    if (total.max[row] == kMinusInfinity) {
      std::memcpy(acc, other, shape_.row_width * sizeof(float));
      total.max[row] = part.max[row];
      total.sum[row] = part.sum[row];
      continue;
    }
    const float max = std::max(total.max[row], part.max[row]);
    const float keep = std::exp(total.max[row] - max), add = std::exp(part.max[row] - max);
    kernels_.blend(acc, keep, other, add, shape_.row_width);
    total.sum[row] = total.sum[row] * keep + part.sum[row] * add;
    total.max[row] = max;
  }
}

void AttentionWorker::Finish(const AttentionState& state, Range heads) const {
  const int32_t first_row = args_.cu_seqlens.ptr<int32_t>()[block_->sequence] + block_->first_query;
  const int count = block_->num_queries, head_dim = shape_.head_dim;
  for (int h = heads.begin, together = 1; h < heads.end; h += together) {
    const int q_head = unit_ * shape_.unit_heads * shape_.queries_per_kv + h;
    const int kv_head = q_head / shape_.queries_per_kv;
    // Single queries of a KV head's query heads are rows of one product.
    together =
        count > 1 ? 1 : std::min(heads.end - h, shape_.queries_per_kv - h % shape_.queries_per_kv);
    const int rows = count * together;
    const int64_t out_stride = count > 1 ? args_.out.stride[0] : args_.out.stride[1];
    float* out =
        args_.out.ptr<float>() + first_row * args_.out.stride[0] + q_head * args_.out.stride[1];
    float* acc = state.acc + static_cast<int64_t>(h) * count * shape_.row_width;
    if (SumsCodes(args_.value.groups[kv_head / args_.value.heads_per_group])) {
      for (int i = 0; i < rows; ++i) PutInOrder(acc + int64_t{i} * shape_.row_width);
    }
    for (int i = 0; i < rows; ++i) {
      const float sum = state.sum[h * count + i];
      kernels_.scale(acc + static_cast<int64_t>(i) * shape_.row_width, shape_.row_width,
                     sum > 0.0f ? 1.0f / sum : 0.0f);
    }
    if (args_.value.dense()) {
      for (int i = 0; i < rows; ++i) {
        std::memcpy(out + i * out_stride, acc + static_cast<int64_t>(i) * shape_.row_width,
                    head_dim * sizeof(float));
      }
      continue;
    }
    const int group = kv_head / args_.value.heads_per_group;
    const Tensor& up = args_.value.up[group];
    MatmulBlock block;
    block.x = acc;
    block.x_stride = shape_.row_width;
    block.rows = rows;
    block.weight = up.ptr<char>() + kv_head % args_.value.heads_per_group * head_dim *
                                        up.stride[0] * static_cast<int64_t>(SizeOf(up.dtype));
    block.weight_stride = up.stride[0];
    block.cols = head_dim;
    block.depth = args_.value.groups[group].rank;
    if (args_.value_bias.defined()) {
      const char* bias = args_.value_bias.ptr<char>() +
                         static_cast<int64_t>(kv_head) * head_dim * SizeOf(args_.value_bias.dtype);
      kernels_.to_f32(args_.value_bias.dtype, bias, head_dim, vectors_);
      block.bias = vectors_;
    }
    block.out = out;
    block.out_stride = out_stride;
    block.panel = panel_;
    kernels_.matmul(up.dtype, block);
  }
}

}  // namespace palu::cpu
