// Loops of the sampler over the logits of one row.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

static void StretchMaxima(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kSampleStretch) {
    *out++ = LargestOf(x + i, n - i < kSampleStretch ? n - i : kSampleStretch);
  }
}

template <bool kDivide>
static inline Vec WeightOf(Vec x, const WeightScale& scale) {
  Vec exponent = Sub(x, Set1(scale.largest));
  if (kDivide) exponent = Div(exponent, Set1(scale.temperature));
  // A comparison with NaN takes the second operand.
  const Vec weight = Exp(Max(exponent, Set1(-__builtin_inff())));
  return ZeroWhereLess(weight, weight, Set1(scale.floor));
}

template <bool kDivide>
static inline double WeightSumOf(const float* x, int64_t n, const WeightScale& scale) {
  Doubles sums = NoDoubles();
  double rest = 0;
  ForVectors(
      n, [&](int64_t i) { AddTo(&sums, WeightOf<kDivide>(Load(x + i), scale)); },
      [&](int64_t i, int64_t left) {
        float weights[kLanes];
        Store(weights, WeightOf<kDivide>(LoadPartial(x + i, left), scale));
        for (int64_t j = 0; j < left; ++j) rest += static_cast<double>(weights[j]);
      });
  return ReduceAdd(sums) + rest;
}

static double WeightSum(const float* x, int64_t n, const WeightScale& scale) {
  return scale.temperature == 1.0f ? WeightSumOf<false>(x, n, scale)
                                   : WeightSumOf<true>(x, n, scale);
}

static void Weights(const float* x, int64_t n, const WeightScale& scale, float* out) {
  const auto of = [&](Vec v) {
    return scale.temperature == 1.0f ? WeightOf<false>(v, scale) : WeightOf<true>(v, scale);
  };
  ForVectors(
      n, [&](int64_t i) { Store(out + i, of(Load(x + i))); },
      [&](int64_t i, int64_t left) { StorePartial(out + i, of(LoadPartial(x + i, left)), left); });
}

static int64_t CollectAtLeast(const float* x, int64_t n, float bound, int32_t first,
                              Candidate* out) {
  const Vec least = Set1(bound);
  Candidate* next = out;
  const auto take = [&](int64_t i, uint32_t lanes) {
    for (; lanes != 0; lanes &= lanes - 1) {
      const int64_t t = i + __builtin_ctz(lanes);
      *next++ = {x[t], static_cast<int32_t>(first + t), 0.0f};
    }
  };
  ForVectors(
      n, [&](int64_t i) { take(i, LanesAtLeast(Load(x + i), least)); },
      [&](int64_t i, int64_t left) {
        take(i, LanesAtLeast(LoadPartial(x + i, left), least) & ((1u << left) - 1u));
      });
  return next - out;
}

static int64_t CountAbove(const float* x, int64_t n, float value) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += x[i] > value ? 1 : 0;
  return count;
}

static void KeepAllowed(const uint32_t* words, int64_t n, float* logits) {
  for (int64_t first = 0; first < n; first += 32, logits += 32) {
    const uint32_t word = words[first / 32];
    if (word == ~0u) continue;
    const int count = n - first < 32 ? static_cast<int>(n - first) : 32;
    for (int t = 0; t < count; ++t) {
      logits[t] = ((word >> t) & 1u) == 0 ? -__builtin_inff() : logits[t];
    }
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
