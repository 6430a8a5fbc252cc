// Products of quantized activations with quantized weights (quant_weight.h). Groups of depths are
// summed as integers and added up in f32 in order, so that a row's result does not depend on which
// rows it is computed with.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr int kQuantRows = 4, kQuantBlocks = 2, kQuantBlocksOfOne = 4;
static inline Quads LowNibbles(Quads q) { return _mm512_and_si512(q, _mm512_set1_epi8(15)); }
static inline Quads HighNibbles(Quads q) { return LowNibbles(_mm512_srli_epi16(q, 4)); }
#elif defined(__AVX2__)
inline constexpr int kQuantRows = 2, kQuantBlocks = 1, kQuantBlocksOfOne = 1;
static inline Quads LowNibbles(const Quads& q) {
  const __m256i low = _mm256_set1_epi8(15);
  return {{_mm256_and_si256(q.half[0], low), _mm256_and_si256(q.half[1], low)}};
}
static inline Quads HighNibbles(const Quads& q) {
  return LowNibbles({{_mm256_srli_epi16(q.half[0], 4), _mm256_srli_epi16(q.half[1], 4)}});
}
#else
inline constexpr int kQuantRows = 1, kQuantBlocks = 1, kQuantBlocksOfOne = 1;
static inline Quads LowNibbles(Quads q) {
  for (uint8_t& byte : q.bytes) byte &= 15;
  return q;
}
static inline Quads HighNibbles(Quads q) {
  for (uint8_t& byte : q.bytes) byte >>= 4;
  return q;
}
#endif

// sums[r][b] += the products of one group.
template <int kRows, int kBlocks, bool kInt4>
static inline void QuantGroup(const int8_t* x, int64_t x_stride, const uint8_t* codes,
                              int64_t block_bytes, QuadSums (*sums)[kBlocks]) {
  constexpr int kQuads = kWeightGroup / 4, kLineBytes = 4 * kQuadLanes;
  const auto add = [&](const Quads* c, int quad) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const QuadWord word = SpreadWord(WordAt(x + r * x_stride + 4 * quad));
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) sums[r][b] = DotQuads(sums[r][b], c[b], word);
    }
  };
  for (int line = 0; line < (kInt4 ? kQuads / 2 : kQuads); ++line) {
    Quads c[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) c[b] = LoadQuads(codes + b * block_bytes + line * kLineBytes);
    if constexpr (kInt4) {
      Quads low[kBlocks], high[kBlocks];
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) low[b] = LowNibbles(c[b]), high[b] = HighNibbles(c[b]);
      add(low, 2 * line);
      add(high, 2 * line + 1);
    } else {
      add(c, line);
    }
  }
}

static inline void StoreQuant(const QuantBlock& block, int64_t row, int64_t col, const float* sum) {
  float* out = block.out + row * block.out_stride + col;
  const int64_t left = block.cols - col;
  for (int i = 0; i < (left < kQuadLanes ? static_cast<int>(left) : kQuadLanes); ++i) {
    const float x = block.bias == nullptr ? sum[i] : sum[i] + block.bias[col + i];
    out[i] = block.accumulate ? out[i] + x : x;
  }
}

template <int kRows, int kBlocks, bool kInt4>
static inline void QuantTile(const QuantBlock& block, int64_t row, int64_t lane_block) {
  constexpr int32_t kZero = kInt4 ? 8 : 128;
  Vec total[kRows][kBlocks][kQuadVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
      for (int v = 0; v < kQuadVecs; ++v) total[r][b][v] = Zero();
    }
  }
  const int64_t depth = block.groups * kWeightGroup;
  const int64_t block_bytes = depth * kQuadLanes / (kInt4 ? 2 : 1);
  for (int64_t g = 0; g < block.groups; ++g) {
    QuadSums sums[kRows][kBlocks];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const QuadSums start = SetSums(-kZero * block.x_sums[(row + r) * block.groups + g]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) sums[r][b] = start;
    }
    QuantGroup<kRows, kBlocks, kInt4>(
        block.x + row * depth + g * kWeightGroup, depth,
        block.codes + lane_block * block_bytes + g * kWeightGroup * kQuadLanes / (kInt4 ? 2 : 1),
        block_bytes, sums);
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const auto* scales = reinterpret_cast<const F16*>(block.scales) +
                           ((lane_block + b) * block.groups + g) * kQuadLanes;
#pragma GCC unroll 8
      for (int v = 0; v < kQuadVecs; ++v) {
        const Vec scale = Load(scales + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Vec both = Mul(scale, Set1(block.x_scales[(row + r) * block.groups + g]));
          total[r][b][v] = Fma(SumsToF32(sums[r][b], v), both, total[r][b][v]);
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int b = 0; b < kBlocks; ++b) {
      float sum[kQuadLanes];
      for (int v = 0; v < kQuadVecs; ++v) Store(sum + v * kLanes, total[r][b][v]);
      StoreQuant(block, row + r, (lane_block + b) * kQuadLanes, sum);
    }
  }
}

template <int kRows, int kBlocks, bool kInt4>
static inline void QuantRowsOf(const QuantBlock& block, int64_t row, int64_t lane_block) {
  for (; row + kRows <= block.rows; row += kRows) {
    QuantTile<kRows, kBlocks, kInt4>(block, row, lane_block);
  }
  if constexpr (kRows > 1) QuantRowsOf<1, kBlocks, kInt4>(block, row, lane_block);
}

template <bool kInt4>
static void QuantMatmulOf(const QuantBlock& block) {
  const int64_t blocks = (block.cols + kQuadLanes - 1) / kQuadLanes;
  int64_t b = 0;
  if (block.rows == 1) {
    for (; b + kQuantBlocksOfOne <= blocks; b += kQuantBlocksOfOne) {
      QuantTile<1, kQuantBlocksOfOne, kInt4>(block, 0, b);
    }
  }
  for (; b + kQuantBlocks <= blocks; b += kQuantBlocks) {
    QuantRowsOf<kQuantRows, kQuantBlocks, kInt4>(block, 0, b);
  }
  for (; b < blocks; ++b) QuantRowsOf<kQuantRows, 1, kInt4>(block, 0, b);
}

static void QuantMatmul(const QuantBlock& block) {
  if (block.int4) {
    QuantMatmulOf<true>(block);
  } else {
    QuantMatmulOf<false>(block);
  }
}

// Whole numbers of at most 7 bits and a sign as bytes; returns their sum.
static inline int32_t StoreCodes(int8_t* codes, Vec x) {
#if defined(__AVX512F__)
  const __m512i whole = _mm512_cvtps_epi32(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
#else
  float rounded[kLanes];
  Store(rounded, x);
  int32_t sum = 0;
  for (int j = 0; j < kLanes; ++j) {
    codes[j] = static_cast<int8_t>(rounded[j]);
    sum += codes[j];
  }
  return sum;
#endif
}

static void QuantizeRow(const float* x, int64_t depth, int8_t* codes, float* scales,
                        int32_t* sums) {
  for (int64_t g = 0; g < depth / kWeightGroup; ++g, x += kWeightGroup, codes += kWeightGroup) {
    Vec largest = Zero();
    for (int i = 0; i < kWeightGroup; i += kLanes) {
      const Vec v = Load(x + i);
      largest = Max(largest, Max(v, Sub(Zero(), v)));
    }
    const float max = ReduceMax(largest);
    const float inverse = max > 0.0f ? 127.0f / max : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < kWeightGroup; i += kLanes) {
      sum += StoreCodes(codes + i, Round(Mul(Load(x + i), Set1(inverse))));
    }
    scales[g] = max / 127.0f;
    sums[g] = sum;
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
