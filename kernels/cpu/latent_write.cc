#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"
#include "kernels/cpu/half.h"

namespace palu::cpu {
namespace {

// Keeps numbers that f16 cannot hold finite.
float ClampToF16(float x) { return std::clamp(x, -kMaxF16, kMaxF16); }

struct Scale {
  uint16_t scale_bits, zero_bits;
  float scale, zero;
};

Scale ChooseScale(const float* x, int rank, int levels) {
  float low = x[0], high = x[0];
  for (int i = 1; i < rank; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  Scale s;
  s.zero_bits = F32ToF16(ClampToF16(low));
  s.scale_bits = F32ToF16(ClampToF16((high - low) / static_cast<float>(levels)));
  s.zero = F16ToF32(s.zero_bits);
  s.scale = F16ToF32(s.scale_bits);
  return s;
}

uint32_t Encode(float x, const Scale& s, float levels) {
  // Written so that NaN becomes code 0.
  const float position = s.scale > 0.0f ? (x - s.zero) / s.scale : 0.0f;
  const float clamped = position > 0.0f ? std::min(position, levels) : 0.0f;
  constexpr float kRoundToEven = 12582912.0f;
  return static_cast<uint32_t>((clamped + kRoundToEven) - kRoundToEven);
}

void Quantize(const float* x, const LatentSegment& segment, std::byte* codes, std::byte* scales) {
  const int rank = segment.rank, bits = Bits(segment.format), levels = (1 << bits) - 1;
  const Scale s = ChooseScale(x, rank, levels);
  std::memcpy(scales, &s.scale_bits, 2);
  std::memcpy(scales + 2, &s.zero_bits, 2);
  auto* out = reinterpret_cast<uint8_t*>(codes);
  uint8_t* high_plane = out + RoundUp(rank, kCodeGranularity) / 4;
  std::memset(out, 0, segment.row_bytes);
  for (int i = 0; i < rank; ++i) {
    const uint32_t code = Encode(x[i], s, static_cast<float>(levels));
    if (bits == 3) {
      out[i / 4] |= static_cast<uint8_t>((code & 3u) << (2 * (i % 4)));
      high_plane[i / 8] |= static_cast<uint8_t>((code >> 2) << (i % 8));
    } else {
      const int per_byte = 8 / bits;
      out[i / per_byte] |= static_cast<uint8_t>(code << (bits * (i % per_byte)));
    }
  }
}

void StoreRow(const float* x, const LatentSegment& segment, std::byte* codes, std::byte* scales) {
  switch (segment.format) {
    case LatentFormat::kF32:
      std::memcpy(codes, x, segment.rank * sizeof(float));
      return;
    case LatentFormat::kBF16:
      for (int i = 0; i < segment.rank; ++i) {
        reinterpret_cast<uint16_t*>(codes)[i] = F32ToBf16(x[i]);
      }
      return;
    case LatentFormat::kF16:
      for (int i = 0; i < segment.rank; ++i) {
        reinterpret_cast<uint16_t*>(codes)[i] = F32ToF16(ClampToF16(x[i]));
      }
      return;
    case LatentFormat::kFp8:
      for (int i = 0; i < segment.rank; ++i) {
        reinterpret_cast<uint8_t*>(codes)[i] = F32ToFp8(x[i]);
      }
      std::memset(codes + segment.rank, 0, segment.row_bytes - segment.rank);
      return;
    default:
      Quantize(x, segment, codes, scales);
  }
}

}  // namespace

void CpuBackend::LatentWrite(const LatentWriteArgs& args) {
  const LatentPool& pool = args.pool;
  const int64_t* slots = args.slot_mapping.ptr<int64_t>();
  ForRows(pool_, args.x.dim(0), 4 * args.x.dim(1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (slots[t] < 0) continue;
      PALU_CHECK(slots[t] < pool.num_blocks * pool.block_size);
      std::byte* block = pool.data + slots[t] / pool.block_size * pool.block_bytes;
      const int64_t offset = slots[t] % pool.block_size;
      const float* x = args.x.ptr<float>() + t * args.x.stride[0];
      for (const LatentSegment& segment : args.projection.groups) {
        StoreRow(x, segment, block + segment.codes_offset + offset * segment.row_bytes,
                 block + segment.scales_offset + offset * kScaleBytes);
        x += segment.rank;
      }
    }
  });
}

}  // namespace palu::cpu
