// Scores of sixteen cached tokens in the fast decode kernel, by one warp for one KV head, in three
// ways (docs/kernels/latent_decode.md): FoldedScorer (low rank, one query head), RebuildScorer (low
// rank, up to eight query heads) and DenseScorer. Lane (g, q) = (lane / 4, lane % 4) throughout; it
// gets score[0], score[1] of token g for query heads 2q and 2q + 1, score[2], score[3] of token
// g + 8. With one query head (kSingle), lanes with q == g / 2 get score[0] and score[2].
#pragma once

#include "kernels/cuda/decode_codes.cuh"
#include "kernels/cuda/decode_layout.cuh"

namespace palu::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

// What a scorer needs to know of its head, fixed for the launch.
struct HeadView {
  const SegmentView* segment;  // of the keys
  const bf16* query;           // of its first query head
  int64_t query_stride;        // to the next query head
  int first_row;               // of the head in the group's factor
  int repeat;                  // query heads
  float scale;                 // turns scores into exponents of 2
  int stride;                  // bytes between staged rows
  LatentFormat format;
  int high_offset;  // as in SegmentView
};

// Sixteen staged tokens.
struct UnitView {
  const uint8_t* keys;
  const __half2* scales;
  const uint8_t* angles;
};

// Eight numbers of a factor row from `first` on, zero past the rank.
__device__ inline void LoadFactorRow(const HeadView& head, int row, int first, float (&x)[8]) {
  const SegmentView& segment = *head.segment;
  uint4 bits = {};
  if (first < segment.rank) {
    bits = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(segment.up) +
                                           (head.first_row + row) * segment.up_stride + first);
  }
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (segment.up_type == DType::kBF16) {
      x[2 * i] = LowBF16(words[i]);
      x[2 * i + 1] = HighBF16(words[i]);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
}

// Two of them as bf16.
__device__ inline uint32_t LoadFactorPair(const HeadView& head, int row, int first) {
  const SegmentView& segment = *head.segment;
  if (first >= segment.rank) return 0;
  const auto* from =
      static_cast<const uint16_t*>(segment.up) + (head.first_row + row) * segment.up_stride + first;
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(from);
  if (segment.up_type == DType::kBF16) return bits;
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&bits));
  return PackBF16(pair.x, pair.y);
}

template <bool kF16>
__device__ inline uint32_t Pack(float low, float high) {
  return kF16 ? PackF16(low, high) : PackBF16(low, high);
}

// c = a b, or c += a b; `first` is known when compiling.
template <bool kF16>
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                           bool first) {
  if (first) {
    if constexpr (kF16) {
      FirstMmaF16(c, a, b0, b1);
    } else {
      FirstMmaBF16(c, a, b0, b1);
    }
  } else if constexpr (kF16) {
    MmaF16(c, a, b0, b1);
  } else {
    MmaBF16(c, a, b0, b1);
  }
}

// Eight numbers of one token's key row from `first` on as pairs (see NumberInPair); codes when
// quantized.
template <Numbers kNumbers>
__device__ inline uint4 LoadKeyPairs(const HeadView& head, const uint8_t* row, int first) {
  if constexpr (kNumbers != Numbers::kBF16) {
    return LoadCodePairs<kNumbers == Numbers::kFour>(row, first, head.format, head.high_offset);
  } else {
    return *reinterpret_cast<const uint4*>(row + first * 2);
  }
}

// One query head. score = h . (Z^T [cos; sin]) with Z from query and factor, made once: the keys
// are never built. Left operand of the first product: the angles; its result, token by rank, is the
// left operand of the second, whose right operand is the latents of eight tokens: the diagonal is
// wanted.
template <int kHeadDim, int kBlocks, Numbers kNumbers>
class FoldedScorer {
 public:
  static constexpr bool kQuantized = kNumbers != Numbers::kBF16;
  static constexpr bool kByRows = true;
  static constexpr bool kInRegisters = kBlocks == 1 && kHeadDim <= 128;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kFactorBytes = kInRegisters ? 0 : kBlocks * 4 * kSteps * kWarp * 8;
  static_assert(kSteps % 2 == 0);

  __device__ void Load(const HeadView& head, uint8_t* memory, bool writer, int lane) {
    memory_ = reinterpret_cast<uint4*>(memory);
    if (!kInRegisters && !writer) return;
    constexpr int kHalf = kHeadDim / 2;
    const int g = lane / 4;
    const int q = lane % 4;
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) {
        float cosine[4][4], sine[4][4];  // [tile][k]: what multiplies the cosines and sines
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int f = 16 * s + 2 * q + k % 2 + k / 2 * 8;
          const float q1 = ToFloat(head.query[f]) * head.scale;
          const float q2 = ToFloat(head.query[f + kHalf]) * head.scale;
          float u1[8], u2[8];
          LoadFactorRow(head, f, 32 * b + g / 2 * 8, u1);
          LoadFactorRow(head, f + kHalf, 32 * b + g / 2 * 8, u2);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int even = NumberInPair(kQuantized, j, 0);
            const int odd = NumberInPair(kQuantized, j, 1);
            const float x1 = g % 2 == 0 ? u1[even] : u1[odd];
            const float x2 = g % 2 == 0 ? u2[even] : u2[odd];
            cosine[j][k] = q1 * x1 + q2 * x2;
            sine[j][k] = q2 * x1 - q1 * x2;
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          Put(b, j, s, lane, cosine[j]);
          Put(b, j, s + kSteps / 2, lane, sine[j]);
        }
      }
    }
  }

  __device__ void Score(const HeadView& head, const UnitView& unit, int lane, float (&score)[4]) {
    const int g = lane / 4;
    const int q = lane % 4;
    float low[4], high[4], sums[4];
    const uint32_t angles =
        SharedAddress(unit.angles + lane % 16 * kAngleStride<kHeadDim, kByRows> + lane / 16 * 16);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const uint8_t* row = unit.keys + g * head.stride;
      const uint4 first = LoadKeyPairs<kNumbers>(head, row, 32 * b + 8 * q);
      const uint4 second = LoadKeyPairs<kNumbers>(head, row + 8 * head.stride, 32 * b + 8 * q);
      float c[4][4];
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) {
        uint32_t one[4], two[4];
        LoadMatrices(one, angles + s * 64);
        LoadMatrices(two, angles + s * 64 + 32);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4 z = kInRegisters ? z_[j][s] : memory_[At(b, j, s, lane)];
          Mma<true>(c[j], one, z.x, z.y, s == 0);
          MmaF16(c[j], two, z.z, z.w);
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t a[4] = {Pack<kQuantized>(c[2 * i][0], c[2 * i][1]),
                               Pack<kQuantized>(c[2 * i][2], c[2 * i][3]),
                               Pack<kQuantized>(c[2 * i + 1][0], c[2 * i + 1][1]),
                               Pack<kQuantized>(c[2 * i + 1][2], c[2 * i + 1][3])};
        const bool start = b == 0 && i == 0;
        Mma<kQuantized>(low, a, i == 0 ? first.x : first.z, i == 0 ? first.y : first.w, start);
        Mma<kQuantized>(high, a, i == 0 ? second.x : second.z, i == 0 ? second.y : second.w, start);
        if constexpr (kQuantized) Mma<true>(sums, a, 0x3c003c00u, 0x3c003c00u, start);
      }
    }
    score[0] = g % 2 == 0 ? low[0] : low[1];
    score[2] = g % 2 == 0 ? high[2] : high[3];
    if constexpr (kQuantized) {
      const float2 one = __half22float2(unit.scales[g]);
      const float2 two = __half22float2(unit.scales[g + 8]);
      score[0] = one.x * score[0] + one.y * sums[0];
      score[2] = two.x * score[2] + two.y * sums[2];
    }
  }

 private:
  __device__ void Put(int b, int j, int s, int lane, const float (&z)[4]) {
    uint4& words = kInRegisters ? z_[j][s / 2] : memory_[At(b, j, s / 2, lane)];
    (s % 2 == 0 ? words.x : words.z) = PackF16(z[0], z[1]);
    (s % 2 == 0 ? words.y : words.w) = PackF16(z[2], z[3]);
  }

  __device__ static int At(int b, int j, int s, int lane) {
    return ((b * 4 + j) * (kSteps / 2) + s) * kWarp + lane;
  }

  uint4* memory_;
  uint4 z_[kInRegisters ? 4 : 1][kInRegisters ? kSteps / 2 : 1];
};

// Turns x1 + i x2 by the angles: y1 = x1 c - x2 s, y2 = x2 c + x1 s.
__device__ inline void Rotate(uint32_t x1, uint32_t x2, uint32_t cosine, uint32_t sine,
                              uint32_t* y1, uint32_t* y2) {
  const auto half = [](const uint32_t& x) { return *reinterpret_cast<const __half2*>(&x); };
  const __half2 a = __hfma2(half(x1), half(cosine), __hneg2(__hmul2(half(x2), half(sine))));
  const __half2 b = __hfma2(half(x2), half(cosine), __hmul2(half(x1), half(sine)));
  *y1 = *reinterpret_cast<const uint32_t*>(&a);
  *y2 = *reinterpret_cast<const uint32_t*>(&b);
}

// Several query heads. Keys are rebuilt, turned and multiplied with all query heads. Column n = 2q
// + e of the rebuild's tile pair j stands for frequency f = 32 (j / 4) + 8q + 2 (j % 4) + e, and
// for dims f and f + head_dim / 2, so that a lane's angles are consecutive.
template <int kHeadDim, int kBlocks, Numbers kNumbers>
class RebuildScorer {
 public:
  static constexpr bool kQuantized = kNumbers != Numbers::kBF16;
  static constexpr bool kByRows = false;
  static constexpr bool kInRegisters = kBlocks == 1 && kHeadDim <= 128;
  static constexpr int kPairs = kHeadDim / 16;  // of tiles
  static constexpr int kFactorBytes = kInRegisters ? 0 : kPairs * 2 * kBlocks * kWarp * 16;
  static_assert(kPairs % 4 == 0);

  __device__ void Load(const HeadView& head, uint8_t* memory, bool writer, int lane) {
    memory_ = reinterpret_cast<uint4*>(memory);
    const int g = lane / 4;
    const int q = lane % 4;
    const bf16* query = head.query + min(g, head.repeat - 1) * head.query_stride;
    const float scale = g < head.repeat ? head.scale : 0.0f;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const bf16* from = query + Frequency(j, q);
      query_[j].x = PackF16(ToFloat(from[0]) * scale, ToFloat(from[1]) * scale);
      from += kHeadDim / 2;
      query_[j].y = PackF16(ToFloat(from[0]) * scale, ToFloat(from[1]) * scale);
    }
    if (!kInRegisters && !writer) return;
#pragma unroll
    for (int tile = 0; tile < 2 * kPairs; ++tile) {
      const int row = Frequency(tile / 2, g / 2) + g % 2 + tile % 2 * (kHeadDim / 2);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        uint32_t pair[4];
        if constexpr (kQuantized) {
          float u[8];
          LoadFactorRow(head, row, 32 * b + 8 * q, u);
#pragma unroll
          for (int i = 0; i < 4; ++i) pair[i] = PackF16(u[i], u[i + 4]);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) pair[i] = LoadFactorPair(head, row, 32 * b + 8 * i + 2 * q);
        }
        if constexpr (kInRegisters) {
          factor_[tile] = {pair[0], pair[1], pair[2], pair[3]};
        } else {
          memory_[(tile * kBlocks + b) * kWarp + lane] = {pair[0], pair[1], pair[2], pair[3]};
        }
      }
    }
  }

  __device__ void Score(const HeadView& head, const UnitView& unit, int lane, float (&score)[4]) {
    const int g = lane / 4;
    const int q = lane % 4;
    uint32_t latent[2 * kBlocks][4];
    LoadLatents(head, unit, lane, latent);
    const uint8_t* angles = unit.angles + g * kAngleStride<kHeadDim, kByRows> + q * 16;
    float odd[4];
#pragma unroll
    for (int quad = 0; quad < kPairs / 4; ++quad) {
      uint4 cosine[2], sine[2];
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const uint8_t* at = angles + side * 8 * kAngleStride<kHeadDim, kByRows> + quad * 64;
        cosine[side] = *reinterpret_cast<const uint4*>(at);
        sine[side] = *reinterpret_cast<const uint4*>(at + kHeadDim);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = quad * 4 + i;
        float x1[4], x2[4];
        RebuildTile(2 * j, latent, lane, x1);
        RebuildTile(2 * j + 1, latent, lane, x2);
        uint32_t a[4];
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          Rotate(PackF16(x1[2 * side], x1[2 * side + 1]), PackF16(x2[2 * side], x2[2 * side + 1]),
                 Word(cosine[side], i), Word(sine[side], i), &a[side], &a[2 + side]);
        }
        Mma<true>(i % 2 == 0 ? score : odd, a, query_[j].x, query_[j].y, j < 2);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += odd[i];
  }

 private:
  __device__ static constexpr int Frequency(int j, int q) { return j / 4 * 32 + 8 * q + j % 4 * 2; }
  __device__ static uint32_t Word(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
  }

  // Left operands of the rebuild.
  __device__ void LoadLatents(const HeadView& head, const UnitView& unit, int lane,
                              uint32_t (&latent)[2 * kBlocks][4]) {
    if constexpr (!kQuantized) {
      const uint32_t rows = SharedAddress(unit.keys + lane % 16 * head.stride + lane / 16 * 16);
#pragma unroll
      for (int c = 0; c < 2 * kBlocks; ++c) LoadMatrices(latent[c], rows + c * 32);
      return;
    }
    const int g = lane / 4;
    const uint8_t* row = unit.keys + g * head.stride;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int first = 32 * b + lane % 4 * 8;
      const uint4 low = ScalePairs(LoadKeyPairs<kNumbers>(head, row, first), unit.scales[g]);
      const uint4 high = ScalePairs(LoadKeyPairs<kNumbers>(head, row + 8 * head.stride, first),
                                    unit.scales[g + 8]);
      latent[2 * b][0] = low.x, latent[2 * b][1] = high.x;
      latent[2 * b][2] = low.y, latent[2 * b][3] = high.y;
      latent[2 * b + 1][0] = low.z, latent[2 * b + 1][1] = high.z;
      latent[2 * b + 1][2] = low.w, latent[2 * b + 1][3] = high.w;
      Pin(latent[2 * b]);
      Pin(latent[2 * b + 1]);
    }
  }

  __device__ void RebuildTile(int tile, const uint32_t (&latent)[2 * kBlocks][4], int lane,
                              float (&x)[4]) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const uint4 u = kInRegisters ? factor_[tile] : memory_[(tile * kBlocks + b) * kWarp + lane];
      Mma<kQuantized>(x, latent[2 * b], u.x, u.y, b == 0);
      Mma<kQuantized>(x, latent[2 * b + 1], u.z, u.w, false);
    }
  }

  uint4* memory_;
  uint4 factor_[kInRegisters ? 2 * kPairs : 1];
  uint2 query_[kPairs];
};

// Keys as cached, already turned.
template <int kHeadDim, Numbers kNumbers, bool kSingle>
class DenseScorer {
 public:
  static constexpr bool kQuantized = kNumbers != Numbers::kBF16;
  static constexpr bool kByRows = true;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kFactorBytes = 0;
  static_assert(kHeadDim % 32 == 0);

  __device__ void Load(const HeadView& head, uint8_t*, bool, int lane) {
    const int g = lane / 4;
    const int q = lane % 4;
    const bf16* query = head.query + min(g, head.repeat - 1) * head.query_stride;
    const float scale = kSingle || g < head.repeat ? head.scale : 0.0f;
    const auto at = [&](int step, int pair) {
      const int block = step / 2 * 32;
      const auto number = [&](int element) {
        return kQuantized ? block + 8 * q + NumberInPair(true, step % 2 * 2 + pair, element)
                          : step * 16 + 2 * q + 8 * pair + element;
      };
      return Pack<kQuantized>(ToFloat(query[number(0)]) * scale, ToFloat(query[number(1)]) * scale);
    };
#pragma unroll
    for (int s = 0; s < kSteps; ++s) query_[s] = {at(s, 0), at(s, 1)};
    if constexpr (kQuantized) SumQuery(lane);
  }

  __device__ void Score(const HeadView& head, const UnitView& unit, int lane, float (&score)[4]) {
    const int g = lane / 4;
    const int q = lane % 4;
    float odd[4];
    if constexpr (kQuantized) {
      const uint8_t* row = unit.keys + g * head.stride;
#pragma unroll
      for (int b = 0; b < kSteps / 2; ++b) {
        const uint4 low = LoadKeyPairs<kNumbers>(head, row, 32 * b + 8 * q);
        const uint4 high = LoadKeyPairs<kNumbers>(head, row + 8 * head.stride, 32 * b + 8 * q);
        const uint32_t one[4] = {low.x, high.x, low.y, high.y};
        const uint32_t two[4] = {low.z, high.z, low.w, high.w};
        Mma<true>(score, one, query_[2 * b].x, query_[2 * b].y, b == 0);
        Mma<true>(odd, two, query_[2 * b + 1].x, query_[2 * b + 1].y, b == 0);
      }
    } else {
      const uint32_t keys = SharedAddress(unit.keys + lane % 16 * head.stride + lane / 16 * 16);
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        uint32_t a[4];
        LoadMatrices(a, keys + s * 32);
        Mma<false>(s % 2 == 0 ? score : odd, a, query_[s].x, query_[s].y, s < 2);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += odd[i];
    if constexpr (kQuantized) {
      const float2 one = __half22float2(unit.scales[g]);
      const float2 two = __half22float2(unit.scales[g + 8]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 s = i < 2 ? one : two;
        score[i] = s.x * score[i] + s.y * sum_[i % 2];
      }
    }
  }

 private:
  // Sums of the rounded queries 2q and 2q + 1: what a token's zero adds to its scores.
  __device__ void SumQuery(int lane) {
    float c[4] = {};
    const uint32_t ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) MmaF16(c, ones, query_[s].x, query_[s].y);
    sum_[0] = c[0];
    sum_[1] = c[1];
  }

  uint2 query_[kSteps];
  float sum_[2];
};

}  // namespace palu::cuda
