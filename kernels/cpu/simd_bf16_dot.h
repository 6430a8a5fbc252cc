// Matrix products of bf16 weights on the bf16 dot product instruction (AVX-512 BF16): x is rounded
// to bf16 on the way in, products are exact, sums are f32. Twice the multiply-adds of an f32
// instruction and no conversion of weights, at the price of bf16 activations.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

inline constexpr int kPairLanes = 2 * kLanes;

static inline __m512bh RoundPair(Vec low, Vec high) { return _mm512_cvtne2ps_pbh(high, low); }
static inline __m512bh LoadPair(const Bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
static inline __m512bh LoadPairPartial(const Bf16* p, int64_t n) {
  const auto mask = static_cast<__mmask32>((uint32_t{1} << n) - 1u);
  return (__m512bh)_mm512_maskz_loadu_epi16(mask, p);
}
static inline __m512bh RoundPairPartial(const float* p, int64_t n) {
  const Vec low = n >= kLanes ? Load(p) : LoadPartial(p, n);
  return RoundPair(low, n > kLanes ? LoadPartial(p + kLanes, n - kLanes) : Zero());
}

// The overload of simd_matmul.h's DotTile for bf16 weights; the order of additions is again that of
// a single row.
template <int kRows, int kCols>
static inline void DotTile(const float* x, int64_t x_stride, const Bf16* const* w, int64_t depth,
                           int64_t next, float* sums) {
  Vec acc[kRows][kCols];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) acc[r][c] = Zero();
  }
  const auto step = [&](const __m512bh* xv, int c, __m512bh wv) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xv[r], wv);
  };
  int64_t k = 0;
  __m512bh xv[kRows];
  for (; k + kPairLanes <= depth; k += kPairLanes) {
    if (kRows == 1 && k < kColumnHead) PrefetchColumns<kCols>(w, next + k);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float* row = x + r * x_stride + k;
      xv[r] = RoundPair(Load(row), Load(row + kLanes));
    }
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) step(xv, c, LoadPair(w[c] + k));
  }
  if (k < depth) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) xv[r] = RoundPairPartial(x + r * x_stride + k, depth - k);
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) step(xv, c, LoadPairPartial(w[c] + k, depth - k));
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kCols; c += 4) {
      ReduceAdd4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3], sums + r * kCols + c);
    }
  }
}

static void MatmulBf16(DType dtype, const MatmulBlock& block) {
  MatmulBlock unconverted = block;
  if (dtype == DType::kBF16) unconverted.panel = nullptr;
  Matmul(dtype, unconverted);
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
