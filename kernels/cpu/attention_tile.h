// What one thread does for latent attention: a block of queries of one sequence against a stretch
// of the context, for one unit of KV heads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_up.h"
#include "kernels/cpu/scratch.h"

namespace palu::cpu {

// Shapes of one call. A unit is the smallest run of KV heads that covers whole key groups and whole
// value groups. Row (h, q, i) of a unit's state is query i of its KV head h's query head q.
struct AttentionShape {
  int q_heads = 0, kv_heads = 0, queries_per_kv = 0;
  int head_dim = 0, head_dim_padded = 0;
  int rotary_dim = 0;
  int unit_heads = 0, units = 0;
  int row_width = 0;  // floats per row of accumulated values

  int UnitRows(int queries) const { return unit_heads * queries_per_kv * queries; }
};

AttentionShape MakeShape(const LatentAttentionArgs& args);

// Online softmax of some rows: largest score, sum of weights, weighted sum of value rows.
struct AttentionState {
  float* acc = nullptr;  // [rows, row_width]
  float* max = nullptr;  // [rows]
  float* sum = nullptr;  // [rows]

  static int64_t Floats(int64_t rows, int64_t row_width) {
    return RoundUp(rows * (row_width + 2), kVectorPad);
  }
  static AttentionState At(float* memory, int64_t rows, int64_t row_width);
};

// Columns of values that lie together in AttentionWorker::SumsCodes' order.
inline constexpr int kValueColumns = 32;

// Rows of an up matrix that are widened to f32 at a time.
inline constexpr int kPanelRows = 12;

// Bytes of scratch that a thread needs for blocks up to these limits.
AttentionSizes SizesFor(const StepLimits& limits);

// Runs on one thread; lives for one task.
class AttentionWorker {
 public:
  struct Range {
    int begin, end;
  };

  AttentionWorker(const KernelTable& kernels, const LatentAttentionArgs& args,
                  const AttentionShape& shape, const Scratch& scratch, float* memory);

  // Chooses what the calls below are about: a unit, or some KV heads of it.
  void Select(const QueryBlock* block, int unit) { Select(block, unit, {0, shape_.unit_heads}); }
  void Select(const QueryBlock* block, int unit, Range kv_heads);

  // The thread's own states, for blocks that one task handles alone.
  AttentionState part() const { return part_; }
  AttentionState total() const { return total_; }

  // state = attention over positions [begin, end), the rows of the chosen heads.
  void Run(int64_t begin, int64_t end, const AttentionState& state);
  // Query heads of the unit.
  Range heads() const { return {0, shape_.unit_heads * shape_.queries_per_kv}; }
  // total = total and part together, for some heads.
  void Merge(const AttentionState& part, Range heads, const AttentionState& total) const;
  // Normalizes and writes the output rows of some heads; overwrites state.
  void Finish(const AttentionState& state, Range heads) const;

 private:
  // Rows of the chosen heads.
  Range rows() const {
    return {kv_heads_.begin * rows_per_head(), kv_heads_.end * rows_per_head()};
  }
  int rows_per_head() const { return shape_.queries_per_kv * block_->num_queries; }
  // Tokens of the tile that a query sees.
  Range Visible(int query, int64_t tile_begin) const;
  void LoadQueries();
  void RunTile(int64_t tile_begin, Range tokens, const AttentionState& state);
  // Queries of low-rank keys, rotated back by the position of the tile's first token: keys are
  // rotated by their offset from it alone, which is the same in all tiles.
  void TurnQueries(int64_t tile_begin);
  // Tokens of one group as rows of floats.
  void LoadRows(const LatentSegment& segment, int64_t tile_begin, Range tokens, float* out,
                int64_t ld_out) const;
  // Asks for the next tile's rows of a group ahead of their use.
  void Prefetch(const LatentSegment& segment, int64_t tile_begin) const;
  // Calls fn(t, count, codes, scales) for every run of tokens that lie in one block, t counting
  // from tile_begin.
  template <typename Fn>
  void ForBlocks(const LatentSegment& segment, int64_t tile_begin, Range tokens, Fn&& fn) const {
    const LatentPool& pool = args_.pool;
    const int32_t* table =
        args_.block_tables.ptr<int32_t>() + block_->sequence * args_.block_tables.stride[0];
    int64_t block_index = (tile_begin + tokens.begin) / pool.block_size;
    int64_t offset = (tile_begin + tokens.begin) % pool.block_size;
    for (int t = tokens.begin; t < tokens.end; ++block_index, offset = 0) {
      const int count =
          static_cast<int>(std::min<int64_t>(tokens.end - t, pool.block_size - offset));
      const std::byte* block = pool.data + table[block_index] * pool.block_bytes;
      fn(t, count, block + segment.codes_offset + offset * segment.row_bytes,
         block + segment.scales_offset + offset * kScaleBytes);
      t += count;
    }
  }

  // attention_keys.cc
  void ScoreKeyGroup(int group, int64_t tile_begin, Range tokens);
  void LoadKeyLatents(int group, int64_t tile_begin, Range tokens, int columns);
  const float* KeyBias(int head);
  void RebuildKeys(int group, int head_in_group, int columns);
  void FinishKeys(int head, int columns);
  enum class Made { kKeys, kScores };
  // Keys of a head, or the scores of its rows of queries from `row` on.
  Made KeysFromCodes(int group, int head_in_group, int columns, int64_t row);
  // Whether keys are made from codes as they are, on integers.
  bool FromCodes() const { return !args_.key.packed_up.empty() && shape_.head_dim % 2 == 0; }
  // Whether keys made so are in the units of CodeKeysBlock.
  bool KeysInUnits() const { return FromCodes() && !args_.k_norm.defined(); }
  PackedUp PackedOf(int group) const;
  // Whether the two halves of what rotates lie in turns, in keys and in queries.
  bool RotatesInPairs() const { return KeysInUnits() && shape_.rotary_dim > 0; }
  // Codes of 4 bits and fewer as nibbles, in staging_ or where the cache has them, the rows of
  // tokens that are not loaded being any memory; scales and zeros in scales_.
  NibbleRows LoadNibbles(const LatentSegment& segment, int64_t tile_begin, Range tokens);
  // Whether dense keys are scored as codes; queries are digits then.
  bool ScoresCodes() const;
  void ScoreDenseCodes(int head_in_group, int columns, int64_t row);
  void Softmax(int64_t tile_begin, const AttentionState& state);

  // attention_values.cc
  // How rows of scores meet the values of a group: rows of all heads read the same latents, those
  // of a dense head its slice.
  struct ValueParts {
    int width, parts;  // columns of a part
    int first_part;    // of the row of values
    int row_count;     // of a part
    int first_row;     // of the first one
  };
  ValueParts PartsOf(int group) const;
  void AddValueGroup(int group, int64_t tile_begin, Range tokens, const AttentionState& state);
  // Whether values are summed as codes; weights of a tile become digits then, and columns of the
  // state lie as nibbles_to_token_quads leaves them.
  bool SumsCodes(const LatentSegment& segment) const;
  void LoadValueCodes(const LatentSegment& segment, int64_t tile_begin, Range tokens);
  void AddValueCodes(int group, int64_t tile_begin, Range tokens, const AttentionState& state);
  // A row of the state whose columns lie so.
  void PutInOrder(float* row) const;

  const KernelTable& kernels_;
  const LatentAttentionArgs& args_;
  const AttentionShape& shape_;
  const QueryBlock* block_ = nullptr;
  int unit_ = 0;
  Range kv_heads_ = {0, 0};  // of the unit
  int64_t end_ = 0;          // of the positions that Run is about

  float* staging_;  // [kTileTokens, row_width]: rows as cached
  float* latents_;  // [row_width, kTileTokens]: latents of a key group, transposed; or codes, 4 per
                    // token and row; or codes of values
  float* keys_;     // [head_dim, kTileTokens]: keys of one head, transposed
  const float* rope_offsets_;  // as Scratch
  float* queries_;             // [rows, head_dim], scaled
  float* turned_;              // the same for a tile
  float* scores_;              // [rows, kTileTokens]
  float* panel_;               // [kPanelRows, row_width]: widened rows of an up matrix
  float* vectors_;             // [2, head_dim]: bias, norm
  float* scales_;              // [2, kTileTokens]: scale and zero of a group's codes
  TokenUnits* units_;          // of a key group's codes
  int64_t staging_width_;
  AttentionState part_, total_;
};

}  // namespace palu::cpu
