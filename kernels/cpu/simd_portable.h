// simd.h for any processor: four lanes of the compiler's own vector type.
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));

inline constexpr int kLanes = 4;
inline constexpr int kDotRows = 2;   // rows of a dot-product tile
inline constexpr int kGemmRows = 4;  // rows and vectors of an outer-product tile
inline constexpr int kGemmVecs = 2;
inline constexpr int kTileRows = 4;  // rows of a tile of packed operands
// The lanes in the order of the leaves of the tree in which ReduceAdd4 adds them up.
inline constexpr int kTreeOrder[] = {0, 2, 1, 3};

static inline Vec Set1(float x) { return Vec{x, x, x, x}; }
static inline Vec Zero() { return Set1(0.0f); }
static inline Vec Load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
static inline Vec Load(const Bf16* p) {
  return Vec{Bf16ToF32(p[0].bits), Bf16ToF32(p[1].bits), Bf16ToF32(p[2].bits),
             Bf16ToF32(p[3].bits)};
}
static inline Vec Load(const F16* p) {
  return Vec{F16ToF32(p[0].bits), F16ToF32(p[1].bits), F16ToF32(p[2].bits), F16ToF32(p[3].bits)};
}
static inline Vec Load(const Fp8* p) {
  return Vec{Fp8ToF32(p[0].bits), Fp8ToF32(p[1].bits), Fp8ToF32(p[2].bits), Fp8ToF32(p[3].bits)};
}
static inline void Store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
static inline Vec Add(Vec a, Vec b) { return a + b; }
static inline Vec Sub(Vec a, Vec b) { return a - b; }
static inline Vec Mul(Vec a, Vec b) { return a * b; }
static inline Vec Div(Vec a, Vec b) { return a / b; }
static inline Vec Sqrt(Vec a) {
  return Vec{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
             __builtin_sqrtf(a[3])};
}
static inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
// c - a b.
static inline Vec Fnma(Vec a, Vec b, Vec c) { return c - a * b; }
static inline Vec Select(IntVec mask, Vec a, Vec b) {
  return (Vec)((mask & (IntVec)a) | (~mask & (IntVec)b));
}
static inline Vec Max(Vec a, Vec b) { return Select(a > b, a, b); }
static inline Vec Min(Vec a, Vec b) { return Select(a < b, a, b); }
static inline Vec ZeroWhereLess(Vec value, Vec a, Vec b) { return Select(a < b, Zero(), value); }

// A bit per lane.
static inline uint32_t LanesAtLeast(Vec a, Vec b) {
  const IntVec bits = (a >= b) & IntVec{1, 2, 4, 8};
  return static_cast<uint32_t>(bits[0] | bits[1] | bits[2] | bits[3]);
}

// Valid below 2^22 in magnitude.
static inline Vec Round(Vec x) {
  const Vec magic = Set1(12582912.0f);
  return (x + magic) - magic;
}
static inline Vec ScaleByPowerOfTwo(Vec x, Vec n) {
  const IntVec exponent = __builtin_convertvector(n, IntVec);
  return x * (Vec)((exponent + 127) << 23);
}

static inline float ReduceAdd(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
static inline float ReduceMax(Vec v) {
  const float a = v[0] > v[2] ? v[0] : v[2];
  const float b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

// Neighbours kStride lanes apart change places.
template <int kStride>
static inline Vec Exchange(Vec v) {
  return kStride == 1 ? Vec{v[1], v[0], v[3], v[2]} : Vec{v[2], v[3], v[0], v[1]};
}

// Sums of many vectors, in double.
typedef double DoublePair __attribute__((vector_size(16)));
struct Doubles {
  DoublePair low, high;
};
static inline Doubles NoDoubles() { return {DoublePair{}, DoublePair{}}; }
static inline void AddTo(Doubles* sums, Vec v) {
  sums->low += DoublePair{v[0], v[1]};
  sums->high += DoublePair{v[2], v[3]};
}
static inline double ReduceAdd(const Doubles& sums) {
  const DoublePair all = sums.low + sums.high;
  return all[0] + all[1];
}

static inline void ReduceAdd4(Vec a, Vec b, Vec c, Vec d, float* sums) {
  sums[0] = ReduceAdd(a);
  sums[1] = ReduceAdd(b);
  sums[2] = ReduceAdd(c);
  sums[3] = ReduceAdd(d);
}

// The first n < kLanes elements; the other lanes are zero.
template <typename W>
static inline Vec LoadPartial(const W* p, int64_t n) {
  W elements[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) elements[i] = p[i];
  return Load(elements);
}

// out[c * ld_out + r] = in[r * ld_in + c] for r, c < kLanes.
static inline void TransposeSquare(const float* in, int64_t ld_in, float* out, int64_t ld_out) {
  for (int c = 0; c < kLanes; ++c) {
    Store(out + c * ld_out, Vec{in[c], in[ld_in + c], in[2 * ld_in + c], in[3 * ld_in + c]});
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
