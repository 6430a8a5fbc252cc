// simd.h for x86-64 with AVX-512 F, BW, DQ and VL: sixteen lanes.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

using Vec = __m512;

inline constexpr int kLanes = 16;
inline constexpr int kDotRows = 6;
inline constexpr int kGemmRows = 6;
inline constexpr int kGemmVecs = 4;
inline constexpr int kTileRows = 12;
inline constexpr int kTreeOrder[] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};

static inline Vec Set1(float x) { return _mm512_set1_ps(x); }
static inline Vec Zero() { return _mm512_setzero_ps(); }
static inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
static inline Vec Bf16Bits(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
static inline Vec Load(const Bf16* p) {
  return Bf16Bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline Vec Load(const F16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Exponent and mantissa of fp8 in the place of f16's are its value but for a factor of 2^8.
static inline Vec Load(const Fp8* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(codes, magnitude), 8);
  __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
  const __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
  half = _mm256_or_si256(half, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}
static inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
static inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
static inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
static inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
static inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
static inline Vec Sqrt(Vec a) { return _mm512_sqrt_ps(a); }
static inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// c - a b.
static inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
static inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
static inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
static inline Vec ZeroWhereLess(Vec value, Vec a, Vec b) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), value);
}
// A bit per lane.
static inline uint32_t LanesAtLeast(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline Vec Round(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Vec ScaleByPowerOfTwo(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

// Sums of four vectors, one per 128-bit lane, as four partial sums each.
static inline Vec FoldToQuarters(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = Add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const Vec cd = Add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}
static inline void ReduceAdd4(Vec a, Vec b, Vec c, Vec d, float* sums) {
  Vec v = FoldToQuarters(a, b, c, d);
  v = Add(v, _mm512_permute_ps(v, 0x4e));
  v = Add(v, _mm512_permute_ps(v, 0xb1));
  const __m512i first_of_quarter =
      _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
  _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarter, v)));
}
static inline float ReduceAdd(Vec v) { return _mm512_reduce_add_ps(v); }
static inline float ReduceMax(Vec v) { return _mm512_reduce_max_ps(v); }

// Neighbours kStride lanes apart change places.
template <int kStride>
static inline Vec Exchange(Vec v) {
  if constexpr (kStride == 1) return _mm512_permute_ps(v, 0xb1);
  if constexpr (kStride == 2) return _mm512_permute_ps(v, 0x4e);
  if constexpr (kStride == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
  return _mm512_shuffle_f32x4(v, v, 0x4e);
}

// Sums of many vectors, in double.
struct Doubles {
  __m512d low, high;
};
static inline Doubles NoDoubles() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline void AddTo(Doubles* sums, Vec v) {
  sums->low = _mm512_add_pd(sums->low, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
  sums->high = _mm512_add_pd(sums->high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}
static inline double ReduceAdd(const Doubles& sums) {
  return _mm512_reduce_add_pd(_mm512_add_pd(sums.low, sums.high));
}

static inline __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
static inline Vec LoadPartial(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
}
static inline Vec LoadPartial(const Bf16* p, int64_t n) {
  return Bf16Bits(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
static inline Vec LoadPartial(const F16* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(n), p));
}
static inline Vec LoadPartial(const Fp8* p, int64_t n) {
  Fp8 elements[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) elements[i] = p[i];
  return Load(elements);
}

// The sixteen rows row(0) to row(15) as columns.
template <typename Row>
static inline void TransposeRows(Row&& row, float* out, int64_t ld_out) {
  __m512 pairs[16], quads[16];
  for (int i = 0; i < 16; i += 2) {
    const __m512 a = row(i), b = row(i + 1);
    pairs[i] = _mm512_unpacklo_ps(a, b);
    pairs[i + 1] = _mm512_unpackhi_ps(a, b);
  }
  // quads[4 i + j] holds column j + 4 q of rows 4 i .. 4 i + 3 in its quarter q.
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      quads[i + 2 * j + 1] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
  }
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0x88);
    const __m512 low23 = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0x88);
    const __m512 high01 = _mm512_shuffle_f32x4(quads[j], quads[4 + j], 0xdd);
    const __m512 high23 = _mm512_shuffle_f32x4(quads[8 + j], quads[12 + j], 0xdd);
    Store(out + j * ld_out, _mm512_shuffle_f32x4(low01, low23, 0x88));
    Store(out + (j + 4) * ld_out, _mm512_shuffle_f32x4(high01, high23, 0x88));
    Store(out + (j + 8) * ld_out, _mm512_shuffle_f32x4(low01, low23, 0xdd));
    Store(out + (j + 12) * ld_out, _mm512_shuffle_f32x4(high01, high23, 0xdd));
  }
}

static inline void TransposeSquare(const float* in, int64_t ld_in, float* out, int64_t ld_out) {
  TransposeRows([&](int i) { return Load(in + i * ld_in); }, out, ld_out);
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
