// Keys straight from codes of latents (packed_up.h): integer products, then zero, bias and rotation
// while the sums are still in registers, then either the keys or their scores. What is the same
// for a whole row or a whole token, its scale, is left to the queries and to the finished scores.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// Pairs of rows and blocks of tokens whose sums are held in registers.
#if defined(__AVX512F__)
inline constexpr int kKeyPairs = 2, kKeyBlocks = 4;
#elif defined(__AVX2__)
inline constexpr int kKeyPairs = 2, kKeyBlocks = 1;
#else
inline constexpr int kKeyPairs = 1, kKeyBlocks = 1;
#endif

#if !defined(__AVX512F__)
// Eight 2- or 3-bit codes of a row, i a multiple of 8, as four bits each.
template <LatentFormat kFormat>
static inline uint32_t EightNibbles(const std::byte* row, int rank, int i) {
  uint16_t low;
  __builtin_memcpy(&low, row + i / 4, 2);
  uint32_t bits = low;
  bits = (bits | bits << 8) & 0x00ff00ffu;
  bits = (bits | bits << 4) & 0x0f0f0f0fu;
  bits = (bits | bits << 2) & 0x33333333u;
  if constexpr (kFormat == LatentFormat::kInt3) {
    uint32_t high = Byte(row + (rank + 7) / 8 * 2 + i / 8);
    high = (high | high << 12) & 0x000f000fu;
    high = (high | high << 6) & 0x03030303u;
    high = (high | high << 3) & 0x11111111u;
    bits |= high << 2;
  }
  return bits;
}
#else
// Up to sixteen words of eight 2- or 3-bit codes as four bits each, from word `first` of a row on;
// zeros behind them.
template <LatentFormat kFormat>
static inline void SixteenWords(const std::byte* row, int words, int first, uint32_t* out) {
  const auto spread = [](__m512i x, int shift, int mask) {
    return _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi32(x, shift)),
                            _mm512_set1_epi32(mask));
  };
  const int count = words - first;
  const auto mask = static_cast<__mmask16>(count < 16 ? (1u << count) - 1 : 0xffff);
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + 2 * first));
  bits = spread(spread(spread(bits, 8, 0x00ff00ff), 4, 0x0f0f0f0f), 2, 0x33333333);
  if constexpr (kFormat == LatentFormat::kInt3) {
    __m512i high = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, row + 2 * words + first));
    high = spread(spread(spread(high, 12, 0x000f000f), 6, 0x03030303), 3, 0x11111111);
    bits = _mm512_or_si512(bits, _mm512_slli_epi32(high, 2));
  }
  _mm512_storeu_si512(out + first, bits);
}
#endif

template <LatentFormat kFormat>
static inline void NibblesOf(const std::byte* codes, int64_t row_bytes, int tokens, int rank,
                             uint32_t* out, int64_t ld_out) {
  static_assert(kFormat >= LatentFormat::kInt4);
  const int words = (rank + 7) / 8;
  for (int t = 0; t < tokens; ++t, codes += row_bytes, out += ld_out) {
    if constexpr (kFormat == LatentFormat::kInt4) {
      // Words are moved as floats, which changes no bit.
      const auto* from = reinterpret_cast<const float*>(codes);
      auto* to = reinterpret_cast<float*>(out);
      int i = 0;
      for (; i + kLanes <= words; i += kLanes) Store(to + i, Load(from + i));
      if (i < words) Store(to + i, LoadPartial(from + i, words - i));
    } else {
#if defined(__AVX512F__)
      for (int i = 0; i < words; i += 16) SixteenWords<kFormat>(codes, words, i, out);
#else
      for (int i = 0; i < words; ++i) out[i] = EightNibbles<kFormat>(codes, rank, 8 * i);
#endif
    }
  }
}

static void UnpackNibbles(LatentFormat format, const std::byte* codes, int64_t row_bytes,
                          int tokens, int rank, uint32_t* out, int64_t ld_out) {
  switch (format) {
    case LatentFormat::kInt4:
      return NibblesOf<LatentFormat::kInt4>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt3:
      return NibblesOf<LatentFormat::kInt3>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt2:
      return NibblesOf<LatentFormat::kInt2>(codes, row_bytes, tokens, rank, out, ld_out);
    default:
      return;
  }
}

// Words [word, + kVectorPad) of sixteen rows, those behind the row's end as zeros where the set
// can.
static inline void TransposeWords(const NibbleRows& in, int run, int word, float* out) {
#if defined(__AVX512F__)
  const int left = in.words - word;
  const auto mask = static_cast<__mmask16>(left < 16 ? (1u << left) - 1 : 0xffff);
  const std::byte* first = in.runs[run] + 4 * word;
  TransposeRows([&](int i) { return _mm512_maskz_loadu_ps(mask, first + i * in.row_bytes); }, out,
                2 * kTileTokens);
#else
  Transpose(reinterpret_cast<const float*>(in.runs[run]) + word, in.row_bytes / 4, kRowRun,
            kVectorPad, out, 2 * kTileTokens);
#endif
}

static void NibblesToQuads(const NibbleRows& in, int columns, uint32_t* out) {
  static_assert(kRowRun == kVectorPad);
  for (int column = 0; column < columns; column += kRowRun) {
    for (int word = 0; word < in.words; word += kVectorPad) {
      // Words are moved as floats, which changes no bit.
      auto* words = reinterpret_cast<float*>(out) + int64_t{word} * 2 * kTileTokens;
      TransposeWords(in, column / kRowRun, word, words + column);
    }
  }
  for (int w = 0; w < in.words; ++w, out += 2 * kTileTokens) {
    for (int t = 0; t < kTileTokens; ++t) {
      const uint32_t word = out[t];
      out[t] = word & 0x0f0f0f0fu;
      out[kTileTokens + t] = (word >> 4) & 0x0f0f0f0fu;
    }
  }
}

static void WidenScales(const std::byte* scales, int tokens, float* scale, float* zero) {
  int t = 0;
#if defined(__AVX512F__)
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (; t + 16 <= tokens; t += 16, scales += 16 * kScaleBytes) {
    const auto* from = reinterpret_cast<const __m256i*>(scales);
    const __m512 low = _mm512_cvtph_ps(_mm256_loadu_si256(from));
    const __m512 high = _mm512_cvtph_ps(_mm256_loadu_si256(from + 1));
    _mm512_storeu_ps(scale + t, _mm512_permutex2var_ps(low, even, high));
    _mm512_storeu_ps(zero + t, _mm512_permutex2var_ps(low, odd, high));
  }
#endif
  for (; t < tokens; ++t, scales += kScaleBytes) {
    F16 pair[2];
    __builtin_memcpy(pair, scales, sizeof(pair));
    scale[t] = Widen1(pair[0]);
    zero[t] = Widen1(pair[1]);
  }
}

// A row of an up factor for some columns: sum + ratio * (row sum) (+ bias in the same unit).
template <bool kBias>
static inline void FinishRow(const CodeKeysBlock& block, int row, int column, const QuadSums& sums,
                             Vec* key) {
  const Vec row_sum = Set1(block.row_sums[row]);
#pragma GCC unroll 4
  for (int v = 0; v < kQuadVecs; ++v) {
    const int c = column + v * kLanes;
    key[v] = Fma(Load(block.tokens->ratios + c), row_sum, SumsToF32(sums, v));
    if constexpr (kBias) {
      const Vec bias = Set1(block.bias[row] * block.row_inverses[row]);
      key[v] = Fma(Load(block.tokens->inverses + c), bias, key[v]);
    }
  }
}

// Rows of the factor that a tile takes: pairs (first + i * step, + gap), at 2 * (first + i) of the
// order that scores are summed in if they rotate, else where they are.
template <bool kRotate>
struct PairRows {
  int first, gap;
  int row(int pair, int second) const {
    return (kRotate ? first + pair : first + 2 * pair) + second * gap;
  }
  int place() const { return kRotate ? 2 * first : first; }
};

template <int kPairs, int kBlocks, bool kRotate>
static inline void SumPairs(const CodeKeysBlock& block, const PairRows<kRotate>& rows, int column,
                            QuadSums (*sums)[kBlocks]) {
  const int8_t* factor[2 * kPairs];
#pragma GCC unroll 8
  for (int r = 0; r < 2 * kPairs; ++r) {
    factor[r] = block.factor + rows.row(r / 2, r % 2) * block.factor_stride;
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) sums[r][b] = SetSums(0);
  }
  const uint8_t* codes = block.codes + column * 4;
  const int64_t end = int64_t{4} * block.quads;
#pragma GCC unroll kQuadUnroll
  for (int64_t at = 0; at < end; at += 4, codes += kTileTokens * 4) {
#if defined(__AVX512VNNI__)
    asm("" : "+r"(at));  // else GCC 12 makes a pointer of it, and four rows take 4 ns more
#endif
    Quads c[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) c[b] = LoadQuads(codes + b * kQuadLanes * 4);
#pragma GCC unroll 8
    for (int r = 0; r < 2 * kPairs; ++r) {
      const QuadWord word = SpreadWord(WordAt(factor[r] + at));
#if defined(__AVX512VNNI__)
      if constexpr (kBlocks == 4) {
        DotFour(sums[r], c, word);
        continue;
      }
#endif
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) sums[r][b] = DotQuads(sums[r][b], c[b], word);
    }
  }
}

// Scores of the rows of queries go on by this tile's part of their sum.
template <int kRows, int kVecs>
static inline void AddScores(const CodeKeysBlock& block, int place, int column,
                             const Vec (*keys)[kVecs]) {
  for (int row = 0; row < block.query_rows; ++row) {
    const float* q = block.queries + row * block.query_stride + place;
    float* out = block.scores + static_cast<int64_t>(row) * kTileTokens + column;
    Vec sums[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) sums[v] = place == 0 ? Zero() : Load(out + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = Set1(q[r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sums[v] = Fma(x, keys[r][v], sums[v]);
    }
    if (place + kRows == block.head_dim) {
      const float* scales = block.tokens->scales + column;
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sums[v] = Mul(sums[v], Load(scales + v * kLanes));
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) Store(out + v * kLanes, sums[v]);
  }
}

template <int kPairs, int kBlocks, bool kRotate, bool kBias>
[[gnu::always_inline]] static inline void KeyTile(const CodeKeysBlock& block, int first,
                                                  int column) {
  constexpr int kVecs = kBlocks * kQuadVecs;
  const PairRows<kRotate> rows = {first, kRotate ? block.rotary_dim / 2 : 1};
  QuadSums sums[2 * kPairs][kBlocks];
  SumPairs<kPairs, kBlocks, kRotate>(block, rows, column, sums);
  Vec keys[2 * kPairs][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      const int at = column + b * kQuadLanes;
      FinishRow<kBias>(block, rows.row(i, 0), at, sums[2 * i][b], keys[2 * i] + b * kQuadVecs);
      FinishRow<kBias>(block, rows.row(i, 1), at, sums[2 * i + 1][b],
                       keys[2 * i + 1] + b * kQuadVecs);
    }
    if constexpr (kRotate) {
      const float* cosines = block.cos_sin + (first + i) * kTileTokens + column;
      const float* sines = cosines + rows.gap * kTileTokens;
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const Vec c = Load(cosines + v * kLanes), s = Load(sines + v * kLanes);
        const Vec x = keys[2 * i][v], y = keys[2 * i + 1][v];
        keys[2 * i][v] = Fnma(y, s, Mul(x, c));
        keys[2 * i + 1][v] = Fma(y, c, Mul(x, s));
      }
    }
  }
  if (block.keys == nullptr) {
    AddScores<2 * kPairs, kVecs>(block, rows.place(), column, keys);
    return;
  }
  float* out = block.keys + static_cast<int64_t>(rows.place()) * kTileTokens + column;
#pragma GCC unroll 8
  for (int r = 0; r < 2 * kPairs; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) Store(out + r * kTileTokens + v * kLanes, keys[r][v]);
  }
}

// One function for all rows: called for every few, entering and leaving it was a tenth of its time.
// The block is a copy, or the compiler would load its fields anew after every store.
template <int kPairs, int kBlocks, bool kRotate, bool kBias>
static void KeyRows(const CodeKeysBlock block, int first, int end, int column) {
  for (; first < end; first += kRotate ? kPairs : 2 * kPairs) {
    KeyTile<kPairs, kBlocks, kRotate, kBias>(block, first, column);
  }
}

template <int kBlocks, bool kBias>
static void KeyColumns(const CodeKeysBlock& block, int column) {
  constexpr int kPairs = kKeyPairs;
  const int half = block.cos_sin == nullptr ? 0 : block.rotary_dim / 2;
  const int whole = half / kPairs * kPairs;
  KeyRows<kPairs, kBlocks, true, kBias>(block, 0, whole, column);
  if constexpr (kPairs > 1) KeyRows<1, kBlocks, true, kBias>(block, whole, half, column);
  const int rest = 2 * half + (block.head_dim - 2 * half) / (2 * kPairs) * (2 * kPairs);
  KeyRows<kPairs, kBlocks, false, kBias>(block, 2 * half, rest, column);
  if constexpr (kPairs > 1) KeyRows<1, kBlocks, false, kBias>(block, rest, block.head_dim, column);
}

template <bool kBias>
static void KeysFromCodesOf(const CodeKeysBlock& block) {
  static_assert(kTileTokens % (kKeyBlocks * kQuadLanes) == 0);
  int column = 0;
  // From two blocks on a tile of all of them is cheaper than one by one; what it does too many
  // goes to columns that are not asked for.
  const int least = kKeyBlocks > 1 ? kQuadLanes : 0;
  for (; column + least < block.columns; column += kKeyBlocks * kQuadLanes) {
    KeyColumns<kKeyBlocks, kBias>(block, column);
  }
  if constexpr (kKeyBlocks > 1) {
    if (column < block.columns) KeyColumns<1, kBias>(block, column);
  }
}

static void KeysFromCodes(const CodeKeysBlock& block) {
  if (block.bias == nullptr) {
    KeysFromCodesOf<false>(block);
  } else {
    KeysFromCodesOf<true>(block);
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
