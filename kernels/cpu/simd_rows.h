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

static void Blend(float* x, float factor, const float* y, float y_factor, int64_t n) {
  const Vec f = Set1(factor), g = Set1(y_factor);
  for (int64_t i = 0; i < n; i += kLanes) {
    Store(x + i, Fma(Load(x + i), f, Mul(Load(y + i), g)));
  }
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

static void Rotate(float* first, float* second, const float* cosines, const float* sines,
                   int64_t n) {
  const auto turned = [](Vec x, Vec y, Vec c, Vec s) { return Sub(Mul(x, c), Mul(y, s)); };
  const auto other = [](Vec x, Vec y, Vec c, Vec s) { return Add(Mul(y, c), Mul(x, s)); };
  ForVectors(
      n,
      [&](int64_t i) {
        const Vec x = Load(first + i), y = Load(second + i);
        const Vec c = Load(cosines + i), s = Load(sines + i);
        Store(first + i, turned(x, y, c, s));
        Store(second + i, other(x, y, c, s));
      },
      [&](int64_t i, int64_t left) {
        const Vec x = LoadPartial(first + i, left), y = LoadPartial(second + i, left);
        const Vec c = LoadPartial(cosines + i, left), s = LoadPartial(sines + i, left);
        StorePartial(first + i, turned(x, y, c, s), left);
        StorePartial(second + i, other(x, y, c, s), left);
      });
}

// Sums and differences of lanes kStride apart: what is exchanged, plus or minus what is there.
template <int kStride>
static inline Vec Butterfly(Vec v) {
  float signs[kLanes];
  for (int i = 0; i < kLanes; ++i) signs[i] = (i & kStride) == 0 ? 1.0f : -1.0f;
  return Add(Exchange<kStride>(v), Mul(v, Load(signs)));
}

static void Hadamard(float* x, int64_t size, float factor) {
  if (size < kLanes) {
    for (int64_t stride = 1; stride < size; stride *= 2) {
      for (int64_t i = 0; i < size; ++i) {
        if ((i & stride) != 0) continue;
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    for (int64_t i = 0; i < size; ++i) x[i] *= factor;
    return;
  }
  for (int64_t i = 0; i < size; i += kLanes) {
    Vec v = Butterfly<2>(Butterfly<1>(Load(x + i)));
    if constexpr (kLanes > 4) v = Butterfly<4>(v);
    if constexpr (kLanes > 8) v = Butterfly<8>(v);
    Store(x + i, v);
  }
  for (int64_t stride = kLanes; stride < size; stride *= 2) {
    for (int64_t base = 0; base < size; base += 2 * stride) {
      for (int64_t i = base; i < base + stride; i += kLanes) {
        const Vec a = Load(x + i), b = Load(x + i + stride);
        Store(x + i, Add(a, b));
        Store(x + i + stride, Sub(a, b));
      }
    }
  }
  Scale(x, size, factor);
}

static void Range(const float* x, int64_t n, float* low, float* high) {
  // A comparison with NaN takes the second operand.
  Vec least = Set1(x[0]), most = Set1(x[0]);
  float rest_low = x[0], rest_high = x[0];
  ForVectors(
      n,
      [&](int64_t i) {
        least = Min(Load(x + i), least);
        most = Max(Load(x + i), most);
      },
      [&](int64_t i, int64_t left) {
        for (int64_t j = i; j < i + left; ++j) {
          rest_low = x[j] < rest_low ? x[j] : rest_low;
          rest_high = x[j] > rest_high ? x[j] : rest_high;
        }
      });
  float lows[kLanes], highs[kLanes];
  Store(lows, least);
  Store(highs, most);
  for (int j = 0; j < kLanes; ++j) {
    rest_low = lows[j] < rest_low ? lows[j] : rest_low;
    rest_high = highs[j] > rest_high ? highs[j] : rest_high;
  }
  *low = rest_low;
  *high = rest_high;
}

static void Encode(const float* x, int64_t n, float zero, float scale, float levels,
                   uint8_t* codes) {
  const Vec origin = Set1(zero), unit = Set1(scale), most = Set1(levels);
  float rounded[kLanes];
  const auto encode = [&](int64_t i, Vec v, int64_t count) {
    // A comparison with NaN takes the second operand.
    Store(rounded, Round(Min(Max(Div(Sub(v, origin), unit), Zero()), most)));
    for (int64_t j = 0; j < count; ++j) {
      codes[i + j] = static_cast<uint8_t>(static_cast<int32_t>(rounded[j]));
    }
  };
  ForVectors(
      n, [&](int64_t i) { encode(i, Load(x + i), kLanes); },
      [&](int64_t i, int64_t left) { encode(i, LoadPartial(x + i, left), left); });
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
