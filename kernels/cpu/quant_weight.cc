#include "kernels/cpu/quant_weight.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/half.h"

namespace palu::cpu {
namespace {

float Rounded(float x) {
  constexpr float kRoundToEven = 12582912.0f;
  return (x + kRoundToEven) - kRoundToEven;
}

float SquaredError(const float* x, float scale, float low, float high) {
  const float inverse = scale != 0 ? 1 / scale : 0.0f;
  float error = 0;
  for (int i = 0; i < kWeightGroup; ++i) {
    const float code = std::min(std::max(Rounded(x[i] * inverse), low), high);
    const float difference = x[i] - scale * code;
    error += difference * difference;
  }
  return error;
}

float AsStored(float scale) { return F16ToF32(F32ToF16(std::clamp(scale, -kMaxF16, kMaxF16))); }

// The f16 scale of the least squared error among those that put the largest number at, or a little
// beyond, the end of the codes. Either sign, since int4 reaches further below than above.
float BestScale(const float* x, float low, float high) {
  float extreme = 0;
  for (int i = 0; i < kWeightGroup; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  constexpr int kSteps = 8;
  float best = AsStored(extreme / low), least = SquaredError(x, best, low, high);
  const bool coarse = high < 16;
  for (int step = 0; coarse && step < kSteps; ++step) {
    const float scale = AsStored(extreme / (low - 0.8f + 0.3f * static_cast<float>(step)));
    const float error = SquaredError(x, scale, low, high);
    if (error < least) best = scale, least = error;
  }
  return best;
}

}  // namespace

QuantWeight QuantWeight::At(void* memory, WeightFormat format, int64_t cols, int64_t depth) {
  QuantWeight w{format, cols, depth, static_cast<uint8_t*>(memory), nullptr};
  if (memory != nullptr) {
    w.scales = reinterpret_cast<uint16_t*>(w.codes + WeightCodeBytes(format, cols, depth));
  }
  return w;
}

QuantWeight QuantWeight::Of(const Tensor& weight) {
  PALU_CHECK(IsGrouped(weight.dtype));
  const bool int4 = weight.dtype == DType::kInt4Groups;
  return At(weight.data, int4 ? WeightFormat::kInt4 : WeightFormat::kInt8, weight.dim(0),
            weight.dim(1));
}

void QuantWeight::Fill(const KernelTable& kernels, ThreadPool* pool, const Tensor& weight) const {
  pool->Run(Blocks(), [&](int64_t block, int) { FillBlock(kernels, weight, block); });
}

void QuantWeight::FillBlock(const KernelTable& kernels, const Tensor& weight, int64_t block) const {
  std::vector<float> row(static_cast<size_t>(depth));
  for (int lane = 0; lane < kQuadLanes; ++lane) {
    const int64_t col = block * kQuadLanes + lane;
    if (col < cols) {
      kernels.to_f32(weight.dtype, weight.Rows(col, 1).data, depth, row.data());
    } else {
      std::fill(row.begin(), row.end(), 0.0f);
    }
    for (int64_t group = 0; group < Groups(); ++group) {
      PutGroup(block, group, lane, row.data() + group * kWeightGroup);
    }
  }
}

void QuantWeight::PutGroup(int64_t block, int64_t group, int lane, const float* x) const {
  const bool int4 = format == WeightFormat::kInt4;
  const float low = int4 ? -8.0f : -127.0f, high = int4 ? 7.0f : 127.0f;
  const float scale = BestScale(x, low, high);
  const float inverse = scale != 0 ? 1 / scale : 0.0f;
  scales[(block * Groups() + group) * kQuadLanes + lane] = F32ToF16(scale);
  uint8_t* block_codes = codes + block * BlockBytes();
  for (int i = 0; i < kWeightGroup; ++i) {
    const auto code = static_cast<int>(std::min(std::max(Rounded(x[i] * inverse), low), high));
    const int64_t quad = (group * kWeightGroup + i) / 4;
    const int64_t lane_byte = 4 * lane + i % 4;
    if (!int4) {
      block_codes[quad * 4 * kQuadLanes + lane_byte] = static_cast<uint8_t>(code + 128);
      continue;
    }
    uint8_t* byte = block_codes + quad / 2 * 4 * kQuadLanes + lane_byte;
    const auto nibble = static_cast<uint8_t>(code + 8);
    *byte = quad % 2 == 0 ? nibble : static_cast<uint8_t>(*byte | nibble << 4);
  }
}

}  // namespace palu::cpu
