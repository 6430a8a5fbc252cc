// Scores of sixteen cached tokens in the fast decode kernel, by one warp for one KV head, in three
// ways (docs/kernels/latent_decode.md): FoldedScorer (low rank, one query head), RebuildScorer (low
// rank, up to eight query heads) and DenseScorer. Lane (g, q) = (lane / 4, lane % 4) throughout; it
// gets score[0], score[1] of token g for query heads 2q and 2q + 1, score[2], score[3] of token
// g + 8. With one query head (kSingle), lanes with q == g / 2 get score[0] and score[2].
#pragma once

#include <type_traits>

#include "kernels/cuda/decode_view.cuh"
#include "kernels/cuda/pipeline.cuh"

namespace palu::cuda {

// One query head. score = h . (Z^T [cos; sin]) with Z from query and factor, made once: the keys
// are never built. Left operand of the first product: the angles; its result, token by rank, is the
// left operand of the second, whose right operand is the latents of eight tokens: the diagonal is
// wanted.
template <int kHeadDim, int kBlocks, Numbers kNumbers>
class FoldedScorer {
 public:
  static constexpr bool kScaled = IsScaled(kNumbers);
  static constexpr bool kF16 = TakesF16(kNumbers);
  static constexpr bool kByRows = true;
  static constexpr bool kInRegisters = kBlocks == 1 && kHeadDim <= 128;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kFactorBytes = kInRegisters ? 0 : kBlocks * 4 * kSteps * kWarp * 8;
  static_assert(kSteps % 2 == 0);

  // What does not depend on the query.
  __device__ void Prepare(const HeadView& head, uint8_t*, bool writer, int lane) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          factor_[s][k] = LoadQuad(head, 0, Frequency(s, k, lane % 4), lane / 4);
        }
      }
    } else if (writer) {
      const int bytes = head.segment->rank * 2;
      for (int at = lane; at < kHeadDim * 2; at += kWarp) {
        PrefetchLine(head.FactorRow(at / 2) + at % 2 * (bytes - 2));
      }
    }
  }

  __device__ void Load(const HeadView& head, uint8_t* memory, bool writer, int lane) {
    memory_ = reinterpret_cast<uint4*>(memory);
    if (!kInRegisters && !writer) return;
    const int g = lane / 4;
    const int q = lane % 4;
    const bool bf16_factor = head.segment->up_type == DType::kBF16;
    uint32_t query[kSteps / 2][2][2];  // [step][k / 2][half of the head]: asked for all at once
#pragma unroll
    for (int s = 0; s < kSteps / 2; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bf16* from = head.query + Frequency(s, i / 2 * 2, q) + i % 2 * kHalf;
        query[s][i / 2][i % 2] = *reinterpret_cast<const uint32_t*>(from);
      }
    }
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) {
        float cosine[4][4], sine[4][4];  // [tile][k]: what multiplies the cosines and sines
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const uint32_t(&words)[2] = query[s][k / 2];
          const float q1 = (k % 2 == 0 ? LowBF16(words[0]) : HighBF16(words[0])) * head.scale;
          const float q2 = (k % 2 == 0 ? LowBF16(words[1]) : HighBF16(words[1])) * head.scale;
          const uint4 quad =
              kInRegisters ? factor_[s][k] : LoadQuad(head, b, Frequency(s, k, q), g);
          const float2 x1[2] = {FactorPair(bf16_factor, quad.x), FactorPair(bf16_factor, quad.y)};
          const float2 x2[2] = {FactorPair(bf16_factor, quad.z), FactorPair(bf16_factor, quad.w)};
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float u1 = j % 2 == 0 ? x1[j / 2].x : x1[j / 2].y;
            const float u2 = j % 2 == 0 ? x2[j / 2].x : x2[j / 2].y;
            cosine[j][k] = q1 * u1 + q2 * u2;
            sine[j][k] = q2 * u1 - q1 * u2;
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
        const uint32_t a[4] = {Pack<kF16>(c[2 * i][0], c[2 * i][1]),
                               Pack<kF16>(c[2 * i][2], c[2 * i][3]),
                               Pack<kF16>(c[2 * i + 1][0], c[2 * i + 1][1]),
                               Pack<kF16>(c[2 * i + 1][2], c[2 * i + 1][3])};
        const bool start = b == 0 && i == 0;
        Mma<kF16>(low, a, i == 0 ? first.x : first.z, i == 0 ? first.y : first.w, start);
        Mma<kF16>(high, a, i == 0 ? second.x : second.z, i == 0 ? second.y : second.w, start);
        if constexpr (kScaled) Mma<true>(sums, a, 0x3c003c00u, 0x3c003c00u, start);
      }
    }
    score[0] = g % 2 == 0 ? low[0] : low[1];
    score[2] = g % 2 == 0 ? high[2] : high[3];
    if constexpr (kScaled) {
      const float2 one = __half22float2(unit.scales[g]);
      const float2 two = __half22float2(unit.scales[g + 8]);
      score[0] = one.x * score[0] + one.y * sums[0];
      score[2] = two.x * score[2] + two.y * sums[2];
    }
  }

 private:
  static constexpr int kHalf = kHeadDim / 2;

  __device__ static int Frequency(int s, int k, int q) {
    return 16 * s + 2 * q + k % 2 + k / 2 * 8;
  }

  // Of rows f and f + head_dim / 2 the four numbers each that lane (g, .) folds: element g % 2 of
  // the pairs of its eight.
  __device__ static uint4 LoadQuad(const HeadView& head, int b, int f, int g) {
    const auto pick = [g](uint4 u, uint32_t* first, uint32_t* second) {
      if constexpr (kScaled) {
        *first = g % 2 == 0 ? u.x : u.z;
        *second = g % 2 == 0 ? u.y : u.w;
      } else {
        const uint32_t halves = g % 2 == 0 ? 0x5410u : 0x7632u;
        *first = __byte_perm(u.x, u.y, halves);
        *second = __byte_perm(u.z, u.w, halves);
      }
    };
    uint4 quad;
    pick(LoadFactorWords(head, f, 32 * b + g / 2 * 8), &quad.x, &quad.y);
    pick(LoadFactorWords(head, f + kHalf, 32 * b + g / 2 * 8), &quad.z, &quad.w);
    return quad;
  }

  __device__ void Put(int b, int j, int s, int lane, const float (&z)[4]) {
    uint4& words = kInRegisters ? z_[j][s / 2] : memory_[At(b, j, s / 2, lane)];
    (s % 2 == 0 ? words.x : words.z) = PackF16(z[0], z[1]);
    (s % 2 == 0 ? words.y : words.w) = PackF16(z[2], z[3]);
  }

  __device__ static int At(int b, int j, int s, int lane) {
    return ((b * 4 + j) * (kSteps / 2) + s) * kWarp + lane;
  }

  uint4* memory_;
  uint4 factor_[kInRegisters ? kSteps / 2 : 1][4];  // until it is folded
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
  static constexpr bool kScaled = IsScaled(kNumbers);
  static constexpr bool kByRows = false;
  static constexpr bool kInRegisters = kBlocks == 1 && kHeadDim <= 128;
  // Key numbers become f16 in any case. Of up to 32 products their sums are f16 too, rounded once
  // more on the way, which spares turning them from f32; bf16 latents become f16 for that.
  static constexpr bool kHalfSums = kBlocks == 1;
  static constexpr bool kF16 = kHalfSums || TakesF16(kNumbers);
  static constexpr int kPairs = kHeadDim / 16;  // of tiles
  static constexpr int kFactorBytes = kInRegisters ? 0 : kPairs * 2 * kBlocks * kWarp * 16;
  static_assert(kPairs % 4 == 0);

  // What does not depend on the query.
  __device__ void Prepare(const HeadView& head, uint8_t* memory, bool writer, int lane) {
    memory_ = reinterpret_cast<uint4*>(memory);
    if (!kInRegisters && !writer) return;
    for (int b = 0; b < kBlocks; ++b) {
      uint4 rows[2 * kPairs];  // asked for all at once
#pragma unroll
      for (int tile = 0; tile < 2 * kPairs; ++tile) {
        const int g = lane / 4;
        const int row = Frequency(tile / 2, g / 2) + g % 2 + tile % 2 * (kHeadDim / 2);
        rows[tile] = LoadFactorWords(head, row, 32 * b + lane % 4 * 8);
      }
#pragma unroll
      for (int tile = 0; tile < 2 * kPairs; ++tile) {
        const uint4 pairs = PairsOf(rows[tile], head.segment->up_type == DType::kBF16);
        if constexpr (kInRegisters) {
          factor_[tile] = pairs;
        } else {
          memory_[(tile * kBlocks + b) * kWarp + lane] = pairs;
        }
      }
    }
  }

  __device__ void Load(const HeadView& head, uint8_t*, bool, int lane) {
    const int g = lane / 4;
    const bf16* query = head.query + min(g, head.repeat - 1) * head.query_stride;
    const float scale = g < head.repeat ? head.scale : 0.0f;
    uint4 words[kPairs / 4][2];
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) {
      words[i / 2][i % 2] = *reinterpret_cast<const uint4*>(query + Frequency(i / 2 * 4, lane % 4) +
                                                            i % 2 * (kHeadDim / 2));
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      query_[j].x = ScaledPair<true>(Word(words[j / 4][0], j % 4), scale);
      query_[j].y = ScaledPair<true>(Word(words[j / 4][1], j % 4), scale);
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
        Sums x1, x2;
        RebuildTile(2 * j, latent, lane, x1);
        RebuildTile(2 * j + 1, latent, lane, x2);
        uint32_t a[4];
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          Rotate(KeyPair(x1, side), KeyPair(x2, side), Word(cosine[side], i), Word(sine[side], i),
                 &a[side], &a[2 + side]);
        }
        Mma<true>(i % 2 == 0 ? score : odd, a, query_[j].x, query_[j].y, j < 2);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += odd[i];
  }

 private:
  // Eight numbers of a factor row as right operands.
  __device__ static uint4 PairsOf(const uint4& words, bool bf16_factor) {
    if (!kScaled && bf16_factor != kF16) return words;
    const float2 a = FactorPair(bf16_factor, words.x), b = FactorPair(bf16_factor, words.y);
    const float2 c = FactorPair(bf16_factor, words.z), d = FactorPair(bf16_factor, words.w);
    if constexpr (kScaled) {
      return {PackF16(a.x, c.x), PackF16(a.y, c.y), PackF16(b.x, d.x), PackF16(b.y, d.y)};
    }
    return {Pack<kF16>(a.x, a.y), Pack<kF16>(b.x, b.y), Pack<kF16>(c.x, c.y), Pack<kF16>(d.x, d.y)};
  }

  __device__ static constexpr int Frequency(int j, int q) { return j / 4 * 32 + 8 * q + j % 4 * 2; }
  __device__ static uint32_t Word(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
  }

  // Left operands of the rebuild.
  __device__ void LoadLatents(const HeadView& head, const UnitView& unit, int lane,
                              uint32_t (&latent)[2 * kBlocks][4]) {
    const int g = lane / 4;
    const uint8_t* row = unit.keys + g * head.stride;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const int first = 32 * b + lane % 4 * 8;
      uint4 low = LoadKeyPairs<kNumbers>(head, row, first);
      uint4 high = LoadKeyPairs<kNumbers>(head, row + 8 * head.stride, first);
      if constexpr (kScaled) {
        low = ScalePairs(low, unit.scales[g]);
        high = ScalePairs(high, unit.scales[g + 8]);
      } else if constexpr (kF16 && !TakesF16(kNumbers)) {
        low = HalvesOf(low);
        high = HalvesOf(high);
      }
      latent[2 * b][0] = low.x, latent[2 * b][1] = high.x;
      latent[2 * b][2] = low.y, latent[2 * b][3] = high.y;
      latent[2 * b + 1][0] = low.z, latent[2 * b + 1][1] = high.z;
      latent[2 * b + 1][2] = low.w, latent[2 * b + 1][3] = high.w;
      Pin(latent[2 * b]);
      Pin(latent[2 * b + 1]);
    }
  }

  // Eight key numbers of sixteen tokens, as the product gives them.
  using Sums = std::conditional_t<kHalfSums, uint32_t[2], float[4]>;

  __device__ void RebuildTile(int tile, const uint32_t (&latent)[2 * kBlocks][4], int lane,
                              Sums& x) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      const uint4 u = kInRegisters ? factor_[tile] : memory_[(tile * kBlocks + b) * kWarp + lane];
      if constexpr (kHalfSums) {
        static_assert(kBlocks == 1);
        FirstMmaHalf(x, latent[2 * b], u.x, u.y);
        MmaHalf(x, latent[2 * b + 1], u.z, u.w);
      } else {
        Mma<kF16>(x, latent[2 * b], u.x, u.y, b == 0);
        Mma<kF16>(x, latent[2 * b + 1], u.z, u.w, false);
      }
    }
  }

  // A pair of them in f16: of token g (side 0) or g + 8.
  __device__ static uint32_t KeyPair(const Sums& x, int side) {
    if constexpr (kHalfSums) {
      return x[side];
    } else {
      return PackF16(x[2 * side], x[2 * side + 1]);
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
  static constexpr bool kScaled = IsScaled(kNumbers);
  static constexpr bool kF16 = TakesF16(kNumbers);
  static constexpr bool kByRows = true;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kFactorBytes = 0;
  static_assert(kHeadDim % 32 == 0);

  __device__ void Prepare(const HeadView&, uint8_t*, bool, int) {}

  __device__ void Load(const HeadView& head, uint8_t*, bool, int lane) {
    const int g = lane / 4;
    const int q = lane % 4;
    const bf16* query = head.query + min(g, head.repeat - 1) * head.query_stride;
    const float scale = kSingle || g < head.repeat ? head.scale : 0.0f;
    if constexpr (kF16) {
#pragma unroll
      for (int b = 0; b < kSteps / 2; ++b) {
        const uint4 words = *reinterpret_cast<const uint4*>(query + 32 * b + 8 * q);
        if constexpr (kScaled) {
          const auto pair = [scale](uint32_t first, uint32_t second, uint32_t halves) {
            return ScaledPair<true>(__byte_perm(first, second, halves), scale);
          };
          query_[2 * b] = {pair(words.x, words.z, 0x5410u), pair(words.x, words.z, 0x7632u)};
          query_[2 * b + 1] = {pair(words.y, words.w, 0x5410u), pair(words.y, words.w, 0x7632u)};
        } else {
          query_[2 * b] = {ScaledPair<true>(words.x, scale), ScaledPair<true>(words.y, scale)};
          query_[2 * b + 1] = {ScaledPair<true>(words.z, scale), ScaledPair<true>(words.w, scale)};
        }
      }
      if constexpr (kScaled) SumQuery(lane);
    } else {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const auto* words = reinterpret_cast<const uint32_t*>(query + 16 * s + 2 * q);
        query_[s] = {ScaledPair<false>(words[0], scale), ScaledPair<false>(words[4], scale)};
      }
    }
  }

  __device__ void Score(const HeadView& head, const UnitView& unit, int lane, float (&score)[4]) {
    const int g = lane / 4;
    const int q = lane % 4;
    float odd[4];
    if constexpr (kF16) {
      const uint8_t* row = unit.keys + g * head.stride;
#pragma unroll
      for (int b = 0; b < kSteps / 2; ++b) {
        const int first = 32 * b + 8 * q;
        const uint4 low = LoadKeyPairs<kNumbers, false>(head, row, first);
        const uint4 high = LoadKeyPairs<kNumbers, false>(head, row + 8 * head.stride, first);
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
    if constexpr (kScaled) {
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
