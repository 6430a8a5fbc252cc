// One vector type per instruction set, behind one set of names. Included only by the files that are
// compiled once per instruction set (kernels_*.cc), which define PALU_SIMD_NAMESPACE; everything
// here has internal linkage or lives in that namespace, and nothing of the standard library is
// instantiated, so that no code built for a newer machine leaks into the common path.
#pragma once

#include <cstdint>

#include "kernels/cpu/half.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// Elements of weights and latents; distinct types so that loads can be overloaded.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
struct Fp8 {
  uint8_t bits;
};

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE

#if defined(__AVX512F__)
#include "kernels/cpu/simd_avx512.h"
#elif defined(__AVX2__)
#include "kernels/cpu/simd_avx2.h"
#else
#include "kernels/cpu/simd_portable.h"
#endif

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// e^x to about 1e-7 relative; exactly 0 below -87.3 (so for -inf), clamped above 88.
static inline Vec Exp(Vec x) {
  const Vec clamped = Min(Max(x, Set1(-87.3f)), Set1(88.0f));
  const Vec n = Round(Mul(clamped, Set1(1.44269504088896341f)));
  Vec r = Fma(n, Set1(-0.693359375f), clamped);
  r = Fma(n, Set1(2.12194440e-4f), r);
  Vec p = Set1(1.9875691500e-4f);
  p = Fma(p, r, Set1(1.3981999507e-3f));
  p = Fma(p, r, Set1(8.3334519073e-3f));
  p = Fma(p, r, Set1(4.1665795894e-2f));
  p = Fma(p, r, Set1(1.6666665459e-1f));
  p = Fma(p, r, Set1(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set1(1.0f));
  return ZeroWhereLess(ScaleByPowerOfTwo(p, n), x, Set1(-87.3f));
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
