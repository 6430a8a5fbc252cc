// Integer dot products over quads: four neighbouring depths of one lane lie in one 32-bit word, as
// unsigned bytes (codes of latents or weights); the other operand is one word of four signed bytes
// that all lanes share. Sixteen lanes at a time on every instruction set, and since sums of
// integers are exact, the same results on all of them.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

inline constexpr int kQuadVecs = kQuadLanes / kLanes;  // Vecs that hold one value per lane

// Turns of a loop of DotQuads into many accumulators. With VNNI GCC 12 copies every one of them in
// an unrolled turn, some to memory and back; without, unrolling pays.
#if defined(__AVX512VNNI__)
inline constexpr int kQuadUnroll = 1;
#else
inline constexpr int kQuadUnroll = 2;
#endif

#if defined(__AVX512F__)

using Quads = __m512i;
using QuadSums = __m512i;

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
// Four at once, for which GCC 12 finds registers without copying any.
static inline void DotFour(QuadSums* sums, const Quads* codes, QuadWord word) {
  asm("vpdpbusd %8, %4, %0\n\t"
      "vpdpbusd %8, %5, %1\n\t"
      "vpdpbusd %8, %6, %2\n\t"
      "vpdpbusd %8, %7, %3"
      : "+&v"(sums[0]), "+&v"(sums[1]), "+&v"(sums[2]), "+&v"(sums[3])
      : "v"(codes[0]), "v"(codes[1]), "v"(codes[2]), "v"(codes[3]), "v"(word));
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

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
