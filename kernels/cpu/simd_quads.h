// Integer dot products over quads: four neighbouring depths of one lane lie in one 32-bit word, as
// unsigned bytes (codes of latents or weights); the other operand is one word of four signed bytes
// that all lanes share. Sixteen lanes at a time on every instruction set, and since sums of
// integers are exact, the same results on all of them.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

inline constexpr int kQuadVecs = kQuadLanes / kLanes;  // Vecs that hold one value per lane

#if defined(__AVX512F__)

using Quads = __m512i;
using QuadSums = __m512i;
inline constexpr int kQuadRows = 8;  // rows of signed words and blocks of lanes of a tile
inline constexpr int kQuadBlocks = 2;

static inline Quads LoadQuads(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline QuadSums SetSums(int32_t x) { return _mm512_set1_epi32(x); }
#if defined(__AVX512VNNI__)
using QuadWord = __m512i;
static inline QuadWord SpreadWord(int32_t word) { return _mm512_set1_epi32(word); }
static inline QuadSums DotQuads(QuadSums sums, Quads codes, QuadWord word) {
  // By hand: GCC 12 copies the accumulator to and fro around the intrinsic.
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(codes), "v"(word));
  return sums;
}
#else
// Even and odd bytes apart, widened to 16 bits.
struct QuadWord {
  __m512i even, odd;
};
static inline QuadWord SpreadWord(int32_t word) {
  const __m512i all = _mm512_set1_epi32(word);
  return {_mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), _mm512_srai_epi16(all, 8)};
}
static inline QuadSums DotQuads(QuadSums sums, Quads codes, QuadWord word) {
  const __m512i even = _mm512_and_si512(codes, _mm512_set1_epi16(0xff));
  const __m512i odd = _mm512_srli_epi16(codes, 8);
  sums = _mm512_add_epi32(sums, _mm512_madd_epi16(even, word.even));
  return _mm512_add_epi32(sums, _mm512_madd_epi16(odd, word.odd));
}
#endif
// Lanes [v * kLanes, + kLanes) as floats.
static inline Vec SumsToF32(const QuadSums& sums, int v) { return _mm512_cvtepi32_ps(sums); }

#elif defined(__AVX2__)

struct Quads {
  __m256i half[2];
};
using QuadSums = Quads;
struct QuadWord {
  __m256i even, odd;
};
inline constexpr int kQuadRows = 4;
inline constexpr int kQuadBlocks = 1;

static inline Quads LoadQuads(const uint8_t* p) {
  return {{_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))}};
}
static inline QuadSums SetSums(int32_t x) { return {{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
static inline QuadWord SpreadWord(int32_t word) {
  const __m256i all = _mm256_set1_epi32(word);
  return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
}
static inline QuadSums DotQuads(QuadSums sums, const Quads& codes, const QuadWord& word) {
  for (int i = 0; i < 2; ++i) {
    const __m256i even = _mm256_and_si256(codes.half[i], _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(codes.half[i], 8);
    sums.half[i] = _mm256_add_epi32(sums.half[i], _mm256_madd_epi16(even, word.even));
    sums.half[i] = _mm256_add_epi32(sums.half[i], _mm256_madd_epi16(odd, word.odd));
  }
  return sums;
}
static inline Vec SumsToF32(const QuadSums& sums, int v) {
  return _mm256_cvtepi32_ps(sums.half[v]);
}

#else

struct Quads {
  uint8_t bytes[kQuadLanes * 4];
};
struct QuadSums {
  int32_t lanes[kQuadLanes];
};
struct QuadWord {
  int32_t bytes[4];
};
inline constexpr int kQuadRows = 1;
inline constexpr int kQuadBlocks = 1;

static inline Quads LoadQuads(const uint8_t* p) {
  Quads quads;
  __builtin_memcpy(&quads, p, sizeof(quads));
  return quads;
}
static inline QuadSums SetSums(int32_t x) {
  QuadSums sums;
  for (int i = 0; i < kQuadLanes; ++i) sums.lanes[i] = x;
  return sums;
}
static inline QuadWord SpreadWord(int32_t word) {
  QuadWord spread;
  for (int i = 0; i < 4; ++i) {
    spread.bytes[i] = static_cast<int8_t>(static_cast<uint32_t>(word) >> (8 * i));
  }
  return spread;
}
static inline QuadSums DotQuads(QuadSums sums, const Quads& codes, const QuadWord& word) {
  for (int i = 0; i < kQuadLanes; ++i) {
    for (int j = 0; j < 4; ++j) sums.lanes[i] += codes.bytes[4 * i + j] * word.bytes[j];
  }
  return sums;
}
static inline Vec SumsToF32(const QuadSums& sums, int v) {
  const int32_t* p = sums.lanes + v * kLanes;
  return Vec{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
             static_cast<float>(p[3])};
}

#endif

static inline int32_t WordAt(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

// key = (token scale * row scale) sum + (token zero * row sum) + bias.
static inline void StoreKeys(const RebuildBlock& block, int row, int column, const QuadSums& sums) {
  const Vec row_scale = Set1(block.row_scales[row]), row_sum = Set1(block.row_sums[row]);
  const Vec bias = Set1(block.bias == nullptr ? 0.0f : block.bias[row]);
  for (int v = 0; v < kQuadVecs; ++v) {
    const int c = column + v * kLanes;
    const Vec scale = Mul(Load(block.token_scales + c), row_scale);
    const Vec rest = Fma(Load(block.token_zeros + c), row_sum, bias);
    Store(block.keys + static_cast<int64_t>(row) * kTileTokens + c,
          Fma(SumsToF32(sums, v), scale, rest));
  }
}

template <int kRows, int kBlocks>
static inline void RebuildTile(const RebuildBlock& block, int row, int column) {
  QuadSums sums[kRows][kBlocks];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) sums[r][b] = SetSums(0);
  }
  const int8_t* factor = block.factor + row * block.factor_stride;
  const uint8_t* codes = block.codes + column * 4;
  for (int q = 0; q < block.quads; ++q, factor += 4, codes += kTileTokens * 4) {
    Quads c[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) c[b] = LoadQuads(codes + b * kQuadLanes * 4);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const QuadWord word = SpreadWord(WordAt(factor + r * block.factor_stride));
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) sums[r][b] = DotQuads(sums[r][b], c[b], word);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      StoreKeys(block, row + r, column + b * kQuadLanes, sums[r][b]);
    }
  }
}

template <int kRows>
static inline void RebuildRows(const RebuildBlock& block, int row) {
  int column = 0;
  for (; column + kQuadBlocks * kQuadLanes <= block.columns; column += kQuadBlocks * kQuadLanes) {
    RebuildTile<kRows, kQuadBlocks>(block, row, column);
  }
  for (; column < block.columns; column += kQuadLanes) RebuildTile<kRows, 1>(block, row, column);
}

static void RebuildKeys(const RebuildBlock& block) {
  int row = 0;
  for (; row + kQuadRows <= block.rows; row += kQuadRows) RebuildRows<kQuadRows>(block, row);
  for (; row < block.rows; ++row) RebuildRows<1>(block, row);
}

// Eight codes of a row, i a multiple of 8, one per byte.
template <LatentFormat kFormat>
static inline uint64_t EightBytes(const std::byte* row, int rank, int i) {
  uint64_t bytes = 0;
  if constexpr (kFormat == LatentFormat::kInt8) {
    __builtin_memcpy(&bytes, row + i, 8);
  } else if constexpr (kFormat == LatentFormat::kInt4) {
    uint32_t bits;
    __builtin_memcpy(&bits, row + i / 2, 4);
    bytes = bits;
    bytes = (bytes | bytes << 16) & 0x0000ffff0000ffffull;
    bytes = (bytes | bytes << 8) & 0x00ff00ff00ff00ffull;
    bytes = (bytes | bytes << 4) & 0x0f0f0f0f0f0f0f0full;
  } else {
    uint16_t bits;
    __builtin_memcpy(&bits, row + i / 4, 2);
    bytes = bits;
    bytes = (bytes | bytes << 24) & 0x000000ff000000ffull;
    bytes = (bytes | bytes << 12) & 0x000f000f000f000full;
    bytes = (bytes | bytes << 6) & 0x0303030303030303ull;
    if constexpr (kFormat == LatentFormat::kInt3) {
      uint64_t high = Byte(row + (rank + 7) / 8 * 2 + i / 8);
      high = (high | high << 28) & 0x0000000f0000000full;
      high = (high | high << 14) & 0x0003000300030003ull;
      high = (high | high << 7) & 0x0101010101010101ull;
      bytes |= high << 2;
    }
  }
  return bytes;
}

template <LatentFormat kFormat>
static inline void CodesToBytes(const std::byte* codes, int64_t row_bytes, int tokens, int rank,
                                uint8_t* out, int64_t ld_out) {
  for (int t = 0; t < tokens; ++t, codes += row_bytes, out += ld_out) {
    int i = 0;
#if defined(__AVX2__)
    if constexpr (kFormat == LatentFormat::kInt4) {
      const __m128i low = _mm_set1_epi8(15);
      for (; i + 32 <= rank; i += 32) {
        const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i / 2));
        const __m128i even = _mm_and_si128(pairs, low);
        const __m128i odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), low);
        auto* to = reinterpret_cast<__m128i*>(out + i);
        _mm_storeu_si128(to, _mm_unpacklo_epi8(even, odd));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(even, odd));
      }
    }
#endif
    for (; i < rank; i += 8) {
      const uint64_t bytes = EightBytes<kFormat>(codes, rank, i);
      __builtin_memcpy(out + i, &bytes, 8);
    }
  }
}

static void UnpackCodesToBytes(LatentFormat format, const std::byte* codes, int64_t row_bytes,
                               int tokens, int rank, uint8_t* out, int64_t ld_out) {
  switch (format) {
    case LatentFormat::kInt8:
      return CodesToBytes<LatentFormat::kInt8>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt4:
      return CodesToBytes<LatentFormat::kInt4>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt3:
      return CodesToBytes<LatentFormat::kInt3>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt2:
      return CodesToBytes<LatentFormat::kInt2>(codes, row_bytes, tokens, rank, out, ld_out);
    default:
      return;
  }
}

static void WidenScales(const std::byte* scales, int tokens, float* scale, float* zero) {
  for (int t = 0; t < tokens; ++t, scales += kScaleBytes) {
    F16 pair[2];
    __builtin_memcpy(pair, scales, sizeof(pair));
    scale[t] = Widen1(pair[0]);
    zero[t] = Widen1(pair[1]);
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
