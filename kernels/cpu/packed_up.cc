#include "kernels/cpu/packed_up.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace palu::cpu {

PackedUp PackedUp::At(void* memory, int64_t rows, int64_t rank) {
  auto* floats = static_cast<float*>(memory);
  return {floats, floats + rows, reinterpret_cast<int8_t*>(floats + 2 * rows), Stride(rank)};
}

void PackedUp::Fill(const KernelTable& kernels, const Tensor& up) const {
  const int64_t rows = up.dim(0), rank = up.dim(1);
  std::vector<float> row(static_cast<size_t>(rank));
  for (int64_t r = 0; r < rows; ++r) {
    kernels.to_f32(up.dtype, up.Rows(r, 1).data, rank, row.data());
    float largest = 0;
    for (const float x : row) largest = std::max(largest, std::fabs(x));
    const float scale = largest / 127.0f;
    int sum = 0;
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t number = Number(i);
      const float x = number < rank && scale > 0 ? row[static_cast<size_t>(number)] / scale : 0.0f;
      codes[r * stride + i] = static_cast<int8_t>(std::lrint(std::clamp(x, -127.0f, 127.0f)));
      sum += codes[r * stride + i];
    }
    scales[r] = scale;
    sums[r] = scale * static_cast<float>(sum);
  }
}

}  // namespace palu::cpu
