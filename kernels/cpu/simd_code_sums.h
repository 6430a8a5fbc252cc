// Products of f32 rows with codes of cached rows as they are stored: weights with values, queries
// with dense keys. A row is rounded to three signed digits (RowDigits), codes are summed as
// integers and scales and zeros come to the finished sums, so that a row's result does not depend
// on its company. For sets with VNNI: elsewhere three digits cost more than products in f32.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// Rows whose sums are held in registers.
inline constexpr int kCodeSumRows = 4;

// The largest number becomes this, so that the first digit is at most 127; the others lie in
// [-64, 64].
inline constexpr float kLargestDigits = 127 * 16384 + 8000;

// The digits of n numbers of magnitudes up to max, n a multiple of kLanes, the first ones of all,
// then the second ones, then the third ones; returns their unit.
static inline float ToDigits(const float* x, int n, float max, int8_t* digits) {
  constexpr float kTiny = 1e-30f;
  const Vec inverse = Set1(max > kTiny ? kLargestDigits / max : 0.0f);
  const Vec most = Set1(kLargestDigits), least = Set1(-kLargestDigits);
  for (int i = 0; i < n; i += kLanes, digits += kLanes) {
    // A comparison with NaN takes the second operand.
    const Vec whole = Round(Min(Max(Mul(Load(x + i), inverse), least), most));
    const Vec first = Round(Mul(whole, Set1(1.0f / 16384)));
    const Vec rest = Fnma(first, Set1(16384.0f), whole);
    const Vec second = Round(Mul(rest, Set1(1.0f / 128)));
    StoreCodes(digits, first);
    StoreCodes(digits + n, second);
    StoreCodes(digits + 2 * n, Fnma(second, Set1(128.0f), rest));
  }
  return max > kTiny ? max / kLargestDigits : 0.0f;
}

static void DigitsOfWeights(const float* weights, const float* scales, const float* zeros,
                            RowDigits* out) {
  float scaled[kTileTokens];
  Vec largest = Zero(), rest = Zero();
  for (int i = 0; i < kTileTokens; i += kLanes) {
    const Vec weight = Load(weights + i), x = Mul(weight, Load(scales + i));
    Store(scaled + i, x);
    largest = Max(x, largest);
    rest = Fma(weight, Load(zeros + i), rest);
  }
  out->unit = ToDigits(scaled, kTileTokens, ReduceMax(largest), out->Digits());
  out->rest = ReduceAdd(rest);
}

static void DigitsOfQuery(const float* query, int head_dim, RowDigits* out) {
  const int padded = static_cast<int>(RoundUp(head_dim, kVectorPad));
  float ordered[kMaxDigitDim];
  float largest = 0, sum = 0;
  for (int i = 0; i < padded; ++i) {
    const int number = i / 8 * 8 + i % 4 * 2 + i / 4 % 2;
    ordered[i] = number < head_dim ? query[number] : 0.0f;
    const float size = __builtin_fabsf(ordered[i]);
    largest = size > largest ? size : largest;
    sum += ordered[i];
  }
  out->unit = ToDigits(ordered, padded, largest, out->Digits());
  out->rest = sum;
}

// Sixteen bytes of the rows t, t + 4, t + 8 and t + 12 of a run.
static inline __m512i FourRows(const std::byte* row, int64_t row_bytes, __mmask8 mask) {
  const auto load = [&](int i) { return _mm_maskz_loadu_epi32(mask, row + i * row_bytes); };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(4), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(8)), load(12), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// Sixteen bytes of the sixteen rows of a run: of each four tokens a line of quads, byte by byte.
static inline void InterleaveTokens(const std::byte* first, int64_t row_bytes, __mmask8 mask,
                                    __m512i* lines) {
  __m512i row[4], quads[4];
  for (int t = 0; t < 4; ++t) row[t] = FourRows(first + t * row_bytes, row_bytes, mask);
  const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
  const __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
  const __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
  const __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
  quads[0] = _mm512_unpacklo_epi16(low01, low23);
  quads[1] = _mm512_unpackhi_epi16(low01, low23);
  quads[2] = _mm512_unpacklo_epi16(high01, high23);
  quads[3] = _mm512_unpackhi_epi16(high01, high23);
  // quads[i] holds bytes 4 i to 4 i + 3 of tokens 4 q to 4 q + 3 in its quarter q.
  const __m512i first01 = _mm512_shuffle_i32x4(quads[0], quads[1], 0x44);
  const __m512i last01 = _mm512_shuffle_i32x4(quads[0], quads[1], 0xee);
  const __m512i first23 = _mm512_shuffle_i32x4(quads[2], quads[3], 0x44);
  const __m512i last23 = _mm512_shuffle_i32x4(quads[2], quads[3], 0xee);
  lines[0] = _mm512_shuffle_i32x4(first01, first23, 0x88);
  lines[1] = _mm512_shuffle_i32x4(first01, first23, 0xdd);
  lines[2] = _mm512_shuffle_i32x4(last01, last23, 0x88);
  lines[3] = _mm512_shuffle_i32x4(last01, last23, 0xdd);
}

static void NibblesToTokenQuads(const NibbleRows& in, uint8_t* out) {
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int word = 0; word < in.words; word += 4) {
    const int left = in.words - word;
    const auto mask = static_cast<__mmask8>(left < 4 ? (1u << left) - 1 : 0xf);
    for (int run = 0; run < kTileTokens / kRowRun; ++run) {
      __m512i lines[4];
      InterleaveTokens(in.runs[run] + 4 * word, in.row_bytes, mask, lines);
      for (int i = 0; i < 4; ++i, out += 128) {
        _mm512_storeu_si512(out, _mm512_and_si512(lines[i], nibble));
        _mm512_storeu_si512(out + 64, _mm512_and_si512(_mm512_srli_epi16(lines[i], 4), nibble));
      }
    }
  }
}

// sums[3 r + i]: the digits i of rows r with kVecs lines of codes. kDepth: the digits of a row and
// the floats between rows where they are known, so that twelve addresses are one; else 0.
template <int kRows, int kVecs, int kDepth>
static inline void SumDigits(const CodeSumsBlock& block, int row, const uint8_t* codes,
                             int64_t line_bytes, QuadSums (*sums)[kVecs]) {
  const int depth = kDepth > 0 ? kDepth : block.depth;
  const int64_t row_stride = kDepth > 0 ? kDepth : block.row_stride;
  const float* rows = block.rows + row * block.row_stride;
  const int8_t* digits[3 * kRows];
#pragma GCC unroll 12
  for (int r = 0; r < 3 * kRows; ++r) {
    digits[r] = RowDigits::At(rows + r / 3 * row_stride)->Digits() + r % 3 * depth;
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) sums[r][v] = SetSums(0);
  }
#pragma GCC unroll kQuadUnroll
  for (int i = 0; i < depth; i += 4, codes += line_bytes) {
    Quads c[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) c[v] = LoadQuads(codes + v * kQuadLanes * 4);
#pragma GCC unroll 12
    for (int r = 0; r < 3 * kRows; ++r) {
      const QuadWord word = SpreadWord(WordAt(digits[r] + i));
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sums[r][v] = DotQuads(sums[r][v], c[v], word);
    }
  }
}

template <int kVecs>
static inline Vec AllDigits(const QuadSums (*sums)[kVecs], int line, int v) {
  const Vec low = Fma(SumsToF32(sums[1][line], v), Set1(128.0f), SumsToF32(sums[2][line], v));
  return Fma(SumsToF32(sums[0][line], v), Set1(16384.0f), low);
}

template <int kRows>
static inline void ValueSumsOf(const CodeSumsBlock& block, int row) {
  for (; row + kRows <= block.num_rows; row += kRows) {
    for (int b = 0; b < block.columns / 32; ++b) {
      QuadSums sums[3 * kRows][2];
      SumDigits<kRows, 2, kTileTokens>(block, row, block.codes + b * kTileTokens * 32, 128, sums);
      for (int r = 0; r < kRows; ++r) {
        const RowDigits* of_row = RowDigits::At(block.rows + (row + r) * block.row_stride);
        const Vec unit = Set1(of_row->unit), rest = Set1(of_row->rest);
        float* out = block.out + (row + r) * block.out_stride + 32 * b;
        for (int line = 0; line < 2; ++line) {
          for (int v = 0; v < kQuadVecs; ++v, out += kLanes) {
            const Vec all = AllDigits(sums + 3 * r, line, v);
            Store(out, Add(Load(out), Fma(all, unit, rest)));
          }
        }
      }
    }
  }
  if constexpr (kRows > 1) ValueSumsOf<kRows / 2>(block, row);
}

static void AddValueSums(const CodeSumsBlock& block) { ValueSumsOf<kCodeSumRows>(block, 0); }

template <int kRows>
static inline void KeyScoresOf(const CodeSumsBlock& block, int row) {
  constexpr int kVecs = 2;
  for (; row + kRows <= block.num_rows; row += kRows) {
    for (int column = 0; column < block.columns; column += kVecs * kQuadLanes) {
      QuadSums sums[3 * kRows][kVecs];
      SumDigits<kRows, kVecs, 0>(block, row, block.codes + 4 * column, 4 * kTileTokens, sums);
      for (int r = 0; r < kRows; ++r) {
        const RowDigits* of_row = RowDigits::At(block.rows + (row + r) * block.row_stride);
        const Vec unit = Set1(of_row->unit), rest = Set1(of_row->rest);
        for (int v = 0; v < kVecs * kQuadVecs; ++v) {
          const int at = column + v * kLanes, line = v / kQuadVecs;
          const Vec all = AllDigits(sums + 3 * r, line, v % kQuadVecs);
          const Vec zeros = Mul(Load(block.token_zeros + at), rest);
          Store(block.out + (row + r) * block.out_stride + at,
                Fma(Mul(all, unit), Load(block.token_scales + at), zeros));
        }
      }
    }
  }
  if constexpr (kRows > 1) KeyScoresOf<kRows / 2>(block, row);
}

static void ScoreDenseCodes(const CodeSumsBlock& block) { KeyScoresOf<kCodeSumRows>(block, 0); }

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
