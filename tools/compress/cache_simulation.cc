#include "tools/compress/cache_simulation.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "tools/compress/blas.h"

namespace palu {
namespace {

float RoundF16(float x) { return static_cast<float>(static_cast<Eigen::half>(x)); }

// To fp8 and back (kernels/latent_format.h).
float RoundFp8(float x) {
  const float magnitude = std::min(std::fabs(x), 448.0f);
  const float step = std::ldexp(1.0f, std::max(std::ilogb(magnitude), -6) - 3);
  return std::copysign(std::nearbyint(magnitude / step) * step, x);
}

void StoreQuantized(float* x, int n, int bits) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const auto levels = static_cast<float>((1 << bits) - 1);
  const float zero = RoundF16(*low);
  const float scale = RoundF16((*high - *low) / levels);
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < n; ++i) {
    const float code = std::clamp(std::nearbyint((x[i] - zero) * inverse), 0.0f, levels);
    x[i] = scale * code + zero;
  }
}

}  // namespace

void StoreAndRead(MatrixF* x, int width, LatentFormat format) {
  PALU_CHECK(width > 0 && x->cols() % width == 0);
  if (format == LatentFormat::kF32) return;
  if (format == LatentFormat::kF16) {
    *x = x->cast<Eigen::half>().cast<float>();
  } else if (format == LatentFormat::kBF16) {
    *x = x->cast<Eigen::bfloat16>().cast<float>();
  } else if (format == LatentFormat::kFp8) {
    *x = x->unaryExpr(&RoundFp8);
  } else {
    for (Eigen::Index i = 0; i < x->size(); i += width) {
      StoreQuantized(x->data() + i, width, Bits(format));
    }
  }
}

void BlockHadamard(MatrixF* x, int width) {
  PALU_CHECK(width > 0 && x->cols() % width == 0);
  const int power = width & -width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(power));
  for (Eigen::Index begin = 0; begin < x->size(); begin += power) {
    float* block = x->data() + begin;
    for (int step = 1; step < power; step *= 2) {
      for (int i = 0; i < power; i += 2 * step) {
        for (int j = i; j < i + step; ++j) {
          const float a = block[j], b = block[j + step];
          block[j] = a + b;
          block[j + step] = a - b;
        }
      }
    }
    for (int i = 0; i < power; ++i) block[i] *= scale;
  }
}

MatrixF ThroughLatents(const ProjectionSimulation& projection, const MatrixF& x) {
  const int rows = static_cast<int>(x.rows());
  const int width = static_cast<int>(projection.up[0].rows());
  const int groups = static_cast<int>(projection.up.size());
  MatrixF heads(rows, static_cast<Eigen::Index>(width) * groups);
  for (int g = 0; g < groups; ++g) {
    MatrixF latents(rows, projection.down[g].rows());
    GemmNT(x, projection.down[g], latents);
    StoreAndRead(&latents, static_cast<int>(latents.cols()), projection.format);
    GemmNT(latents, projection.up[g],
           Strided(heads.data() + static_cast<size_t>(g) * width, rows, width, width * groups));
  }
  return heads;
}

void ThroughDenseCache(const ProjectionSimulation& projection, MatrixF* heads) {
  const int width = projection.dense_width;
  if (projection.hadamard) BlockHadamard(heads, width);
  StoreAndRead(heads, width, projection.format);
  if (projection.hadamard) BlockHadamard(heads, width);
}

}  // namespace palu
