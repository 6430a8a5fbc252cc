// The inner loops that are compiled once per instruction set, behind function pointers. Pointers
// are host memory; strides and leading dimensions count elements; all floats are f32 unless a DType
// says otherwise. Nothing here allocates; all functions are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/latent_format.h"
#include "kernels/weight_format.h"

namespace palu::cpu {

// Columns of weights that a matmul converts to f32 at a time when they serve many rows.
inline constexpr int kPanelCols = 4;
// Rows of outer-product operands are padded to a multiple of this many floats.
inline constexpr int kVectorPad = 16;
// Cached tokens that attention handles at a time. Tiles start at multiples of it, whatever the
// chunk, so that a query's arithmetic depends on its own position only.
inline constexpr int kTileTokens = 64;
// Lanes that integer dot products handle at a time.
inline constexpr int kQuadLanes = 16;

constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// out[r][n] = x[r] . weight[n] (+ bias[n]) (+ out[r][n] when accumulate). The sum over depth is
// taken in the same order for every row, whatever the number of rows and wherever x lies.
struct ProductBlock {
  int64_t rows = 0;
  const void* weight = nullptr;  // [cols, depth] f32, bf16 or f16
  int64_t weight_stride = 0;
  int64_t cols = 0;
  int64_t depth = 0;
  const float* bias = nullptr;  // [cols] or null
  float* out = nullptr;         // [rows, cols]
  int64_t out_stride = 0;
  bool accumulate = false;
};

struct MatmulBlock : ProductBlock {
  const float* x = nullptr;  // [rows, depth]
  int64_t x_stride = 0;
  float* panel = nullptr;  // scratch [kPanelCols, depth], or null to convert per row
};

// The most columns of weights that a packed product works on at a time.
inline constexpr int kMaxTileCols = 32;

// With rows that pack_tile has laid out; pays from some tens of rows on.
struct PackedMatmulBlock : ProductBlock {
  const float* packed = nullptr;  // [rows / tile_rows (rounded up)][PackedTileFloats]
  float* panel = nullptr;         // scratch [PanelFloats(depth)]
};
constexpr int64_t PackedTileFloats(int tile_rows, int64_t depth) {
  return tile_rows * RoundUp(depth, kVectorPad);
}
constexpr int64_t PanelFloats(int64_t depth) {
  return kMaxTileCols * RoundUp(depth, kVectorPad) + kVectorPad * kVectorPad;
}

// out = x W^T (+ bias) (+ out) of quantized rows and a stretch of a QuantWeight.
struct QuantBlock {
  const int8_t* x = nullptr;        // [rows, groups * kWeightGroup]
  const float* x_scales = nullptr;  // [rows, groups]
  const int32_t* x_sums = nullptr;  // [rows, groups]
  int64_t rows = 0;
  const uint8_t* codes = nullptr;    // as QuantWeight
  const uint16_t* scales = nullptr;  // as QuantWeight
  int64_t cols = 0;
  int64_t groups = 0;
  bool int4 = false;
  const float* bias = nullptr;  // [cols] or null
  float* out = nullptr;         // [rows, cols]
  int64_t out_stride = 0;
  bool accumulate = false;
};

// c = a b, or c += a b: rows of a against columns of b, the sum over k taken in order.
struct GemmBlock {
  const float* a = nullptr;  // [m, k]
  int64_t lda = 0;
  const float* b = nullptr;  // [k, n]
  int64_t ldb = 0;
  float* c = nullptr;  // [m, n]
  int64_t ldc = 0;
  int m = 0;
  int n = 0;  // multiple of kVectorPad
  int k = 0;
  bool accumulate = false;
};

// Tokens whose rows of a tile lie a fixed distance apart, wherever the tile comes from.
inline constexpr int kRowRun = 16;

// Rows of a tile's tokens as words of eight 4-bit codes.
struct NibbleRows {
  const std::byte* runs[kTileTokens / kRowRun];  // the first row of each kRowRun tokens
  int64_t row_bytes = 0;
  int words = 0;  // per row
};

// What codes of a tile's tokens are multiplied by; a scale of 0, which has codes of 0, counts as a
// tiny one.
struct TokenUnits {
  float scales[kTileTokens];
  float ratios[kTileTokens];    // zero / scale
  float inverses[kTileTokens];  // 1 / scale
};

// Keys of one head from codes of latents and an up factor in bytes (packed_up.h), in units of
// (token's scale) * (row's scale); columns are tokens. Row r of a token of scale s and zero z:
// factor[r] . codes + z / s * row_sums[r] (+ bias[r] * row_inverses[r] / s). Rotated pairs of rows
// lie beside each other: row i of the first half of rotary_dim goes to row 2 i, its other half to
// 2 i + 1, and scores are summed in that order, as gemm would, then multiplied by the token's
// scale; the rows' scales are to be in the queries.
struct CodeKeysBlock {
  const int8_t* factor = nullptr;  // [head_dim, 4 quads]
  int64_t factor_stride = 0;
  const float* row_sums = nullptr;      // [head_dim]
  const float* row_inverses = nullptr;  // [head_dim], unread without bias
  const float* bias = nullptr;          // [head_dim] or null
  const uint8_t* codes = nullptr;       // [quads, kTileTokens, 4]
  const TokenUnits* tokens = nullptr;   // of the tile
  int head_dim = 0;                     // even
  int quads = 0;
  int columns = 0;                 // multiple of kQuadLanes
  const float* cos_sin = nullptr;  // [rotary_dim, kTileTokens]: cosines, then sines; or null
  int rotary_dim = 0;
  float* keys = nullptr;  // [head_dim, kTileTokens], or null for scores instead

  const float* queries = nullptr;  // [query_rows, head_dim], in the order of keys
  int64_t query_stride = 0;
  int query_rows = 0;
  float* scores = nullptr;  // [query_rows, kTileTokens]
};

// A row of floats in three signed digits each, unit * (16384 * first + 128 * second + third), in
// the place of the floats: behind this the first digits, then the second, then the third ones.
struct RowDigits {
  float unit = 0.0f;
  float rest = 0.0f;  // what the zeros of the other operand are multiplied by, or have come to

  int8_t* Digits() { return reinterpret_cast<int8_t*>(this + 1); }
  const int8_t* Digits() const { return reinterpret_cast<const int8_t*>(this + 1); }
  static RowDigits* At(float* row) { return reinterpret_cast<RowDigits*>(row); }
  static const RowDigits* At(const float* row) { return reinterpret_cast<const RowDigits*>(row); }
};

// Longest row of digits of a query.
inline constexpr int kMaxDigitDim = 512;

// Digits of rows with codes of tokens.
struct CodeSumsBlock {
  const float* rows = nullptr;  // RowDigits
  int64_t row_stride = 0;
  int num_rows = 0;
  int depth = 0;  // digits of a row, a multiple of 4
  const uint8_t* codes = nullptr;
  int columns = 0;                      // multiple of 32
  const float* token_scales = nullptr;  // [kTileTokens], for keys
  const float* token_zeros = nullptr;   // likewise
  float* out = nullptr;                 // [num_rows, columns]
  int64_t out_stride = 0;
};

// Turns rebuilt keys of one head into keys as attended to: units, bias, norm, rotation; columns
// are tokens.
struct FinishKeysBlock {
  float* keys = nullptr;  // [head_dim, kTileTokens]
  int head_dim = 0;
  int columns = 0;                     // multiple of kVectorPad
  const TokenUnits* tokens = nullptr;  // of keys from codes, or null
  const float* row_scales = nullptr;   // [head_dim], unread without tokens
  const float* bias = nullptr;         // [head_dim] or null
  const float* norm = nullptr;         // [head_dim], offset added, or null
  float norm_eps = 0.0f;
  const float* cos_sin = nullptr;  // [rotary_dim, kTileTokens]: cosines, then sines; or null
  int rotary_dim = 0;
};

// Tokens whose largest logit and sum of weights the sampler keeps.
inline constexpr int64_t kSampleStretch = 256;

// What a logit weighs in a draw: e^((logit - largest) / temperature), 0 if that is below floor or
// the logit is NaN.
struct WeightScale {
  float largest = 0.0f;
  float temperature = 1.0f;
  float floor = 0.0f;
};

// A token that may be drawn.
struct Candidate {
  float logit;
  int32_t token;
  float weight;
};

struct KernelTable {
  const char* name;

  void (*matmul)(DType weight_dtype, const MatmulBlock& block);
  // Rows of a tile of packed_matmul.
  int tile_rows;
  // rows <= tile_rows rows of x as one tile; all of out [PackedTileFloats] that is read is written.
  void (*pack_tile)(const float* x, int64_t x_stride, int rows, int64_t depth, float* out);
  void (*packed_matmul)(DType weight_dtype, const PackedMatmulBlock& block);
  void (*quant_matmul)(const QuantBlock& block);
  // One row of depth floats (a multiple of kWeightGroup) as codes in [-127, 127], with a scale and
  // the sum of the codes per group.
  void (*quantize_row)(const float* x, int64_t depth, int8_t* codes, float* scales, int32_t* sums);
  void (*gemm)(const GemmBlock& block);
  void (*finish_keys)(const FinishKeysBlock& block);
  // Rotates rows of `width` floats (a multiple of kVectorPad) back: pair i, numbers 2 i and 2 i +
  // 1, by cos_sin[i], cos_sin[half + i]. The rest of a row is copied.
  void (*turn_back)(const float* in, int64_t rows, int64_t width, const float* cos_sin, int half,
                    float* out);

  // out[i] = x[i] as f32.
  void (*to_f32)(DType dtype, const void* x, int64_t n, float* out);

  // Latent rows of neighbouring tokens of a block: row t goes to out[t * ld_out ..], rank floats.
  // scales points to the first token's (f16 scale, f16 zero); unread for float formats.
  void (*unpack)(LatentFormat format, const std::byte* codes, int64_t row_bytes,
                 const std::byte* scales, int tokens, int rank, float* out, int64_t ld_out);

  void (*keys_from_codes)(const CodeKeysBlock& block);
  // Rows of 4-, 3- or 2-bit codes of neighbouring tokens as four bits each, eight to a word.
  void (*unpack_nibbles)(LatentFormat format, const std::byte* codes, int64_t row_bytes, int tokens,
                         int rank, uint32_t* out, int64_t ld_out);
  // Such rows as quads of codes for CodeKeysBlock: word w becomes quads 2 w, its even codes, and
  // 2 w + 1, its odd ones; quads are written up to the next multiple of kVectorPad words. columns
  // is a multiple of kVectorPad.
  void (*nibbles_to_quads)(const NibbleRows& in, int columns,
                           uint32_t* out /* [quads, kTileTokens] */);
  // Whether nothing behind a row's words is read, here and in nibbles_to_token_quads; else words up
  // to that multiple are.
  bool reads_whole_rows_only = false;
  // This and the four below are null where the set lacks VNNI: without it f32 is faster.
  // The same rows as quads of tokens, [words / 4 (rounded up), kTileTokens / 4, 2, 16, 4]: of each
  // 32 codes the even ones, then the odd ones.
  void (*nibbles_to_token_quads)(const NibbleRows& in, uint8_t* out) = nullptr;
  // Digits of a tile's weights times the tokens' scales; rest: the weights times the zeros. out may
  // lie where weights do.
  void (*digits_of_weights)(const float* weights, const float* scales, const float* zeros,
                            RowDigits* out) = nullptr;
  // Digits of a query, of each eight numbers the even ones first; rest: their sum. head_dim is at
  // most kMaxDigitDim; digits are padded with zeros to a multiple of kVectorPad; out may lie where
  // the query does.
  void (*digits_of_query)(const float* query, int head_dim, RowDigits* out) = nullptr;
  // out += weights times values, columns in the order of nibbles_to_token_quads. row_stride and
  // depth are kTileTokens.
  void (*add_value_sums)(const CodeSumsBlock& block) = nullptr;
  // out = queries times dense keys, codes as nibbles_to_quads leaves them; columns are tokens.
  void (*score_dense_codes)(const CodeSumsBlock& block) = nullptr;
  // The (scale, zero) pairs of neighbouring tokens.
  void (*widen_scales)(const std::byte* scales, int tokens, float* scale, float* zero);
  // Of a tile's scales and zeros.
  void (*token_units)(const float* scales, const float* zeros, TokenUnits* out);
  // Column c of the rows times factors[c].
  void (*scale_columns)(float* rows, int64_t count, const float* factors /* [kTileTokens] */);

  // out[c * ld_out + r] = in[r * ld_in + c]; rows and cols are multiples of kVectorPad.
  void (*transpose)(const float* in, int64_t ld_in, int rows, int cols, float* out, int64_t ld_out);

  // One online-softmax update over scores [kTileTokens] of which [begin, end) are visible: scores
  // become weights (0 outside), max and sum are carried on; returns the factor by which what was
  // summed with earlier weights must shrink.
  float (*softmax_tile)(float* scores, int begin, int end, float* max, float* sum);

  // x[i] *= factor.
  void (*scale)(float* x, int64_t n, float factor);
  // x[i] = x[i] * factor + y[i] * y_factor; n is a multiple of kVectorPad.
  void (*blend)(float* x, float factor, const float* y, float y_factor, int64_t n);
  // out[i] = x[i] / rms(x) * (weight[i] + offset); weight of the given dtype.
  void (*rms_norm)(const float* x, DType weight_dtype, const void* weight, int64_t n, float eps,
                   float offset, float* out);
  // out[i] = act(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* out);
  // Rotates pairs (first[i], second[i]).
  void (*rotate)(float* first, float* second, const float* cosines, const float* sines, int64_t n);
  // Walsh-Hadamard transform times factor, in place; size is a power of two.
  void (*hadamard)(float* x, int64_t size, float factor);

  // The smallest and the largest number, n > 0; NaN counts only as the first one.
  void (*range)(const float* x, int64_t n, float* low, float* high);
  // Codes of numbers: (x - zero) / scale to the nearest (even) of 0 to levels; NaN becomes 0.
  void (*encode)(const float* x, int64_t n, float zero, float scale, float levels, uint8_t* codes);

  // The largest number of every kSampleStretch; NaN counts as -inf.
  void (*stretch_maxima)(const float* x, int64_t n, float* out);
  // Weights of logits, and their sum.
  double (*weight_sum)(const float* x, int64_t n, const WeightScale& scale);
  void (*weights)(const float* x, int64_t n, const WeightScale& scale, float* out);
  // The logits from bound on, of tokens from first on, without weights; returns how many.
  int64_t (*collect_at_least)(const float* x, int64_t n, float bound, int32_t first,
                              Candidate* out);
  int64_t (*count_above)(const float* x, int64_t n, float value);
  // -inf where the token's bit is not set.
  void (*keep_allowed)(const uint32_t* words, int64_t n, float* logits);
};

// Null where this build has no code for the instruction set.
const KernelTable* PortableKernels();
const KernelTable* Avx2Kernels();
const KernelTable* Avx512Kernels();
const KernelTable* Avx512VnniKernels();
const KernelTable* Avx512Bf16Kernels();

}  // namespace palu::cpu
