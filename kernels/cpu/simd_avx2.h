// simd.h for x86-64 with AVX2, FMA and F16C: eight lanes.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

using Vec = __m256;

inline constexpr int kLanes = 8;
inline constexpr int kDotRows = 3;
inline constexpr int kGemmRows = 6;
inline constexpr int kGemmVecs = 2;
inline constexpr int kTileRows = 6;
inline constexpr int kTreeOrder[] = {0, 1, 2, 3, 4, 5, 6, 7};

static inline Vec Set1(float x) { return _mm256_set1_ps(x); }
static inline Vec Zero() { return _mm256_setzero_ps(); }
static inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
static inline Vec Load(const Bf16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
static inline Vec Load(const F16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Exponent and mantissa of fp8 in the place of f16's are its value but for a factor of 2^8.
static inline Vec Load(const Fp8* p) {
  const __m128i codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_xor_si128(codes, magnitude), 8);
  __m128i half = _mm_or_si128(sign, _mm_slli_epi16(magnitude, 7));
  const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
  half = _mm_or_si128(half, _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00)));
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}
static inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
static inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
static inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
static inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
static inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
static inline Vec Sqrt(Vec a) { return _mm256_sqrt_ps(a); }
static inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// c - a b.
static inline Vec Fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
static inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
static inline Vec ZeroWhereLess(Vec value, Vec a, Vec b) {
  return _mm256_andnot_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ), value);
}
// A bit per lane.
static inline uint32_t LanesAtLeast(Vec a, Vec b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
static inline Vec Round(Vec x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Vec ScaleByPowerOfTwo(Vec x, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

static inline float ReduceAdd(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
static inline float ReduceMax(Vec v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

// Neighbours kStride lanes apart change places.
template <int kStride>
static inline Vec Exchange(Vec v) {
  if constexpr (kStride == 1) return _mm256_permute_ps(v, 0xb1);
  if constexpr (kStride == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute2f128_ps(v, v, 1);
}

// Sums of many vectors, in double.
struct Doubles {
  __m256d low, high;
};
static inline Doubles NoDoubles() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline void AddTo(Doubles* sums, Vec v) {
  sums->low = _mm256_add_pd(sums->low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
  sums->high = _mm256_add_pd(sums->high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}
static inline double ReduceAdd(const Doubles& sums) {
  const __m256d all = _mm256_add_pd(sums.low, sums.high);
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(all), _mm256_extractf128_pd(all, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

static inline void ReduceAdd4(Vec a, Vec b, Vec c, Vec d, float* sums) {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

template <typename W>
static inline Vec LoadPartial(const W* p, int64_t n) {
  W elements[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) elements[i] = p[i];
  return Load(elements);
}

static inline void TransposeSquare(const float* in, int64_t ld_in, float* out, int64_t ld_out) {
  __m256 pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    const __m256 a = Load(in + i * ld_in), b = Load(in + (i + 1) * ld_in);
    pairs[i] = _mm256_unpacklo_ps(a, b);
    pairs[i + 1] = _mm256_unpackhi_ps(a, b);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    Store(out + i * ld_out, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20));
    Store(out + (i + 4) * ld_out, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31));
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
