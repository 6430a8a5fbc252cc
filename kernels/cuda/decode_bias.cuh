// Key biases in the fast decode kernel: what a key's bias adds to a score is the angles of the
// token times a vector of query and bias, folded once like the factor of a single query head
// (decode_scores.cuh). So keys are rebuilt without their biases, and each unit of sixteen tokens
// takes head_dim / 16 products more.
#pragma once

#include "kernels/cuda/decode_scores.cuh"

namespace palu::cuda {

template <int kHeadDim, bool kByRows>
class BiasScorer {
 public:
  static constexpr int kHalf = kHeadDim / 2;

  // memory: of the head, kHeadDim numbers in f16 per query head. bias: of the head. One warp.
  __device__ static void Fold(const HeadView& head, const void* bias, DType type, int first,
                              uint8_t* memory, int lane) {
    for (int i = lane; i < head.repeat * kHalf; i += kWarp) {
      const int f = i % kHalf;
      const bf16* query = head.query + i / kHalf * head.query_stride;
      const float q1 = ToFloat(query[f]) * head.scale;
      const float q2 = ToFloat(query[f + kHalf]) * head.scale;
      const float x1 = LoadAs(bias, type, first + f);
      const float x2 = LoadAs(bias, type, first + f + kHalf);
      auto* folded = reinterpret_cast<__half*>(memory) + i / kHalf * kHeadDim;
      folded[f] = __float2half_rn(q1 * x1 + q2 * x2);
      folded[f + kHalf] = __float2half_rn(q2 * x1 - q1 * x2);
    }
  }

  // With one query head every column holds it, so that each lane gets the shares of its own tokens.
  __device__ static void Add(const uint8_t* memory, int repeat, const UnitView& unit, int lane,
                             float (&score)[4]) {
    const int g = lane / 4;
    const bool column = repeat == 1 || g < repeat;
    const auto* folded = reinterpret_cast<const uint32_t*>(memory) +
                         (repeat > 1 && column ? g * kHalf : 0) + lane % 4;
    const uint32_t angles =
        SharedAddress(unit.angles + lane % 16 * kAngleStride<kHeadDim, kByRows> + lane / 16 * 16);
    float c[4];
#pragma unroll
    for (int s = 0; s < kHeadDim / 16; ++s) {
      uint32_t a[4];
      LoadMatrices(a, angles + s * 32);
      const uint32_t b0 = column ? folded[s * 8] : 0;
      const uint32_t b1 = column ? folded[s * 8 + 4] : 0;
      Mma<true>(c, a, b0, b1, s == 0);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) score[i] += c[i];
  }
};

}  // namespace palu::cuda
