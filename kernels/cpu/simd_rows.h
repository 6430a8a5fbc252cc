// Loops over one row of activations.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// Applies f(offset, count) to whole vectors and to the rest of [0, n).
template <typename Whole, typename Rest>
static inline void ForVectors(int64_t n, Whole&& whole, Rest&& rest) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) whole(i);
  if (i < n) rest(i, n - i);
}

static inline void StorePartial(float* p, Vec v, int64_t n) {
  float elements[kLanes];
  Store(elements, v);
  for (int64_t i = 0; i < n; ++i) p[i] = elements[i];
}

static void Scale(float* x, int64_t n, float factor) {
  const Vec f = Set1(factor);
  ForVectors(
      n, [&](int64_t i) { Store(x + i, Mul(Load(x + i), f)); },
      [&](int64_t i, int64_t left) {
        StorePartial(x + i, Mul(LoadPartial(x + i, left), f), left);
      });
}

template <typename W>
static inline void RmsNormOf(const float* x, const W* weight, int64_t n, float eps, float offset,
                             float* out) {
  Vec squares = Zero();
  ForVectors(
      n, [&](int64_t i) { squares = Fma(Load(x + i), Load(x + i), squares); },
      [&](int64_t i, int64_t left) {
        const Vec v = LoadPartial(x + i, left);
        squares = Fma(v, v, squares);
      });
  const float mean = ReduceAdd(squares) / static_cast<float>(n);
  const Vec inverse = Set1(1.0f / __builtin_sqrtf(mean + eps));
  const Vec shift = Set1(offset);
  ForVectors(
      n,
      [&](int64_t i) {
        Store(out + i, Mul(Mul(Load(x + i), inverse), Add(Load(weight + i), shift)));
      },
      [&](int64_t i, int64_t left) {
        const Vec w = Add(LoadPartial(weight + i, left), shift);
        StorePartial(out + i, Mul(Mul(LoadPartial(x + i, left), inverse), w), left);
      });
}

static void RmsNorm(const float* x, DType weight_dtype, const void* weight, int64_t n, float eps,
                    float offset, float* out) {
  if (weight_dtype == DType::kBF16) {
    RmsNormOf(x, static_cast<const Bf16*>(weight), n, eps, offset, out);
  } else if (weight_dtype == DType::kF16) {
    RmsNormOf(x, static_cast<const F16*>(weight), n, eps, offset, out);
  } else {
    RmsNormOf(x, static_cast<const float*>(weight), n, eps, offset, out);
  }
}

static inline Vec Silu(Vec x) { return Div(x, Add(Set1(1.0f), Exp(Sub(Zero(), x)))); }

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
static inline Vec GeluTanh(Vec x) {
  const Vec inner = Fma(Mul(Mul(x, x), x), Set1(0.044715f), x);
  return Div(x, Add(Set1(1.0f), Exp(Mul(inner, Set1(-1.5957691216057308f)))));
}

template <Vec (*kActivation)(Vec)>
static inline void ActivationMul(const float* gate, const float* up, int64_t n, float* out) {
  ForVectors(
      n, [&](int64_t i) { Store(out + i, Mul(kActivation(Load(gate + i)), Load(up + i))); },
      [&](int64_t i, int64_t left) {
        const Vec g = LoadPartial(gate + i, left), u = LoadPartial(up + i, left);
        StorePartial(out + i, Mul(kActivation(g), u), left);
      });
}

static void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  ActivationMul<Silu>(gate, up, n, out);
}

static void GeluTanhMul(const float* gate, const float* up, int64_t n, float* out) {
  ActivationMul<GeluTanh>(gate, up, n, out);
}

static inline float LargestOf(const float* x, int64_t n) {
  Vec all = Set1(-__builtin_inff());
  float largest = -__builtin_inff();
  // A comparison with NaN takes the second operand.
  ForVectors(
      n, [&](int64_t i) { all = Max(Load(x + i), all); },
      [&](int64_t i, int64_t left) {
        for (int64_t j = i; j < i + left; ++j) largest = x[j] > largest ? x[j] : largest;
      });
  const float rest = ReduceMax(all);
  return rest > largest ? rest : largest;
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
