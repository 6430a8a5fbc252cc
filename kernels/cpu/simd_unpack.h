// Latent rows as stored in the cache, back to f32. Layouts of the codes: latent_format.h.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

static inline uint32_t Byte(const std::byte* p) { return static_cast<uint32_t>(*p); }

// Code i of a row of rank numbers (rank decides where int3's plane of high bits starts).
template <LatentFormat kFormat>
static inline uint32_t CodeAt(const std::byte* row, int rank, int i) {
  if constexpr (kFormat == LatentFormat::kInt8) return Byte(row + i);
  if constexpr (kFormat == LatentFormat::kInt4) return (Byte(row + i / 2) >> (4 * (i % 2))) & 15u;
  if constexpr (kFormat == LatentFormat::kInt2) return (Byte(row + i / 4) >> (2 * (i % 4))) & 3u;
  const int padded = (rank + 7) / 8 * 8;
  const uint32_t low = (Byte(row + i / 4) >> (2 * (i % 4))) & 3u;
  return low | (((Byte(row + padded / 4 + i / 8) >> (i % 8)) & 1u) << 2);
}

#if defined(__AVX512F__)

static inline float Widen1(F16 x) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x.bits))); }

// 16 indices whose low bits (as many as the format has) are codes i .. i + 15.
template <LatentFormat kFormat>
static inline __m512i SixteenCodes(const std::byte* row, int rank, int i) {
  const __m512i ones = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  if constexpr (kFormat == LatentFormat::kInt8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i)));
  } else if constexpr (kFormat == LatentFormat::kInt4) {
    int64_t bits;
    __builtin_memcpy(&bits, row + i / 2, 8);
    const __m512i halves =
        _mm512_permutexvar_epi32(_mm512_srli_epi32(ones, 3), _mm512_set1_epi64(bits));
    const __m512i shifts = _mm512_slli_epi32(_mm512_and_si512(ones, _mm512_set1_epi32(7)), 2);
    return _mm512_srlv_epi32(halves, shifts);
  } else {
    int32_t bits;
    __builtin_memcpy(&bits, row + i / 4, 4);
    const __m512i low = _mm512_srlv_epi32(_mm512_set1_epi32(bits), _mm512_slli_epi32(ones, 1));
    if constexpr (kFormat == LatentFormat::kInt2) return low;
    uint16_t high_bits;
    __builtin_memcpy(&high_bits, row + (rank + 7) / 8 * 2 + i / 8, 2);
    const __m512i high = _mm512_srlv_epi32(_mm512_set1_epi32(high_bits << 2), ones);
    // Bits 0 and 1 of low, the rest of high.
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(3), low, high, 0xca);
  }
}

// The number of every code, at all indices that end in the code's bits.
static inline __m512 CodeTable(int bits, float scale, float zero) {
  const __m512i indices = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i codes = _mm512_and_si512(indices, _mm512_set1_epi32((1 << bits) - 1));
  return Add(Mul(_mm512_cvtepi32_ps(codes), Set1(scale)), Set1(zero));
}

template <LatentFormat kFormat>
static inline int UnpackWhole(const std::byte* row, float scale, float zero, int rank, float* out) {
  int i = 0;
  if constexpr (kFormat == LatentFormat::kInt8) {
    for (; i + 16 <= rank; i += 16) {
      const Vec codes = _mm512_cvtepi32_ps(SixteenCodes<kFormat>(row, rank, i));
      Store(out + i, Add(Mul(codes, Set1(scale)), Set1(zero)));
    }
  } else {
    constexpr int kBits =
        kFormat == LatentFormat::kInt4 ? 4 : (kFormat == LatentFormat::kInt3 ? 3 : 2);
    const Vec table = CodeTable(kBits, scale, zero);
    for (; i + 16 <= rank; i += 16) {
      Store(out + i, _mm512_permutexvar_ps(SixteenCodes<kFormat>(row, rank, i), table));
    }
  }
  return i;
}

#elif defined(__AVX2__)

static inline float Widen1(F16 x) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x.bits))); }

// Codes i .. i + 7, i a multiple of 8.
template <LatentFormat kFormat>
static inline __m256i EightCodes(const std::byte* row, int rank, int i) {
  const __m256i twos = _mm256_set_epi32(14, 12, 10, 8, 6, 4, 2, 0);
  if constexpr (kFormat == LatentFormat::kInt8) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + i)));
  } else if constexpr (kFormat == LatentFormat::kInt4) {
    int32_t bits;
    __builtin_memcpy(&bits, row + i / 2, 4);
    const __m256i shifted = _mm256_srlv_epi32(_mm256_set1_epi32(bits), _mm256_slli_epi32(twos, 1));
    return _mm256_and_si256(shifted, _mm256_set1_epi32(15));
  } else {
    uint16_t bits;
    __builtin_memcpy(&bits, row + i / 4, 2);
    __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(bits), twos);
    codes = _mm256_and_si256(codes, _mm256_set1_epi32(3));
    if constexpr (kFormat == LatentFormat::kInt3) {
      const int high = static_cast<int>(Byte(row + (rank + 7) / 8 * 2 + i / 8));
      __m256i high_bits =
          _mm256_srlv_epi32(_mm256_set1_epi32(high << 2), _mm256_srli_epi32(twos, 1));
      codes = _mm256_or_si256(codes, _mm256_and_si256(high_bits, _mm256_set1_epi32(4)));
    }
    return codes;
  }
}

template <LatentFormat kFormat>
static inline int UnpackWhole(const std::byte* row, float scale, float zero, int rank, float* out) {
  const __m256 s = _mm256_set1_ps(scale), z = _mm256_set1_ps(zero);
  int i = 0;
  for (; i + 8 <= rank; i += 8) {
    const __m256 codes = _mm256_cvtepi32_ps(EightCodes<kFormat>(row, rank, i));
    _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_mul_ps(codes, s), z));
  }
  return i;
}

#else

static inline float Widen1(F16 x) { return F16ToF32(x.bits); }

template <LatentFormat kFormat>
static inline int UnpackWhole(const std::byte*, float, float, int, float*) {
  return 0;
}

#endif

template <LatentFormat kFormat>
static inline void UnpackCodes(const std::byte* codes, int64_t row_bytes, const std::byte* scales,
                               int tokens, int rank, float* out, int64_t ld_out) {
  for (int t = 0; t < tokens; ++t, codes += row_bytes, scales += kScaleBytes, out += ld_out) {
    F16 pair[2];
    __builtin_memcpy(pair, scales, sizeof(pair));
    const float scale = Widen1(pair[0]), zero = Widen1(pair[1]);
    for (int i = UnpackWhole<kFormat>(codes, scale, zero, rank, out); i < rank; ++i) {
      out[i] = scale * static_cast<float>(CodeAt<kFormat>(codes, rank, i)) + zero;
    }
  }
}

template <typename W>
static inline void UnpackNumbers(const std::byte* codes, int64_t row_bytes, int tokens, int rank,
                                 float* out, int64_t ld_out) {
  for (int t = 0; t < tokens; ++t) {
    Widen(reinterpret_cast<const W*>(codes + t * row_bytes), rank, out + t * ld_out);
  }
}

static void Unpack(LatentFormat format, const std::byte* codes, int64_t row_bytes,
                   const std::byte* scales, int tokens, int rank, float* out, int64_t ld_out) {
  switch (format) {
    case LatentFormat::kF32:
      return UnpackNumbers<float>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kBF16:
      return UnpackNumbers<Bf16>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kF16:
      return UnpackNumbers<F16>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kFp8:
      return UnpackNumbers<Fp8>(codes, row_bytes, tokens, rank, out, ld_out);
    case LatentFormat::kInt8:
      return UnpackCodes<LatentFormat::kInt8>(codes, row_bytes, scales, tokens, rank, out, ld_out);
    case LatentFormat::kInt4:
      return UnpackCodes<LatentFormat::kInt4>(codes, row_bytes, scales, tokens, rank, out, ld_out);
    case LatentFormat::kInt3:
      return UnpackCodes<LatentFormat::kInt3>(codes, row_bytes, scales, tokens, rank, out, ld_out);
    case LatentFormat::kInt2:
      return UnpackCodes<LatentFormat::kInt2>(codes, row_bytes, scales, tokens, rank, out, ld_out);
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
