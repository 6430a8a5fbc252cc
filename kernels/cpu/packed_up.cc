#include "kernels/cpu/packed_up.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace palu::cpu {
namespace {

// A row that is all but zero, whose inverse scale would overflow, counts as zero.
constexpr float kTiny = 1e-20f;

int64_t Partner(int64_t row, int head_dim, int rotary_dim) {
  const int64_t within = row % head_dim, half = rotary_dim / 2;
  if (within >= 2 * half) return row;
  return within < half ? row + half : row - half;
}

}  // namespace

PackedUp PackedUp::At(void* memory, int64_t rows, int64_t rank) {
  auto* floats = static_cast<float*>(memory);
  return {floats, floats + rows, floats + 2 * rows, reinterpret_cast<int8_t*>(floats + 3 * rows),
          Stride(rank)};
}

void PackedUp::Fill(const KernelTable& kernels, const Tensor& up, int head_dim,
                    int rotary_dim) const {
  const int64_t rows = up.dim(0), rank = up.dim(1);
  std::vector<float> row(static_cast<size_t>(rank)), largest(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    kernels.to_f32(up.dtype, up.Rows(r, 1).data, rank, row.data());
    for (const float x : row) largest[r] = std::max(largest[r], std::fabs(x));
  }
  for (int64_t r = 0; r < rows; ++r) {
    kernels.to_f32(up.dtype, up.Rows(r, 1).data, rank, row.data());
    const float most = std::max(largest[r], largest[Partner(r, head_dim, rotary_dim)]);
    const float scale = most > kTiny ? most / 127.0f : 1.0f;
    int sum = 0;
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t number = Number(i);
      const float x = number < rank ? row[static_cast<size_t>(number)] / scale : 0.0f;
      codes[r * stride + i] = static_cast<int8_t>(std::lrint(std::clamp(x, -127.0f, 127.0f)));
      sum += codes[r * stride + i];
    }
    scales[r] = scale;
    inverses[r] = 1.0f / scale;
    sums[r] = static_cast<float>(sum);
  }
}

}  // namespace palu::cpu
