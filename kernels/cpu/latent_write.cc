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

Scale ChooseScale(const KernelTable& kernels, const float* x, int rank, int levels) {
  float low = 0, high = 0;
  kernels.range(x, rank, &low, &high);
  Scale s;
  s.zero_bits = F32ToF16(ClampToF16(low));
  s.scale_bits = F32ToF16(ClampToF16((high - low) / static_cast<float>(levels)));
  s.zero = F16ToF32(s.zero_bits);
  s.scale = F16ToF32(s.scale_bits);
  return s;
}

// Codes of `bits` beside each other, the first in the lowest bits.
template <int kBits>
void Pack(const uint8_t* codes, int bytes, uint8_t* out) {
  constexpr int kPerByte = 8 / kBits;
  for (int i = 0; i < bytes; ++i, codes += kPerByte) {
    uint32_t byte = codes[0];
    for (int c = 1; c < kPerByte; ++c) byte |= static_cast<uint32_t>(codes[c]) << (kBits * c);
    out[i] = static_cast<uint8_t>(byte);
  }
}

// The two low bits and the high one, each like Pack.
void PackPlanes(const uint8_t* codes, int count, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < count; i += 8, codes += 8) {
    uint32_t twos = 0, ones = 0;
    for (int c = 0; c < 8; ++c) {
      twos |= (codes[c] & 3u) << (2 * c);
      ones |= static_cast<uint32_t>(codes[c] >> 2) << c;
    }
    low[i / 4] = static_cast<uint8_t>(twos);
    low[i / 4 + 1] = static_cast<uint8_t>(twos >> 8);
    high[i / 8] = static_cast<uint8_t>(ones);
  }
}

void Quantize(const KernelTable& kernels, const float* x, const LatentSegment& segment,
              std::byte* codes, std::byte* scales) {
  constexpr int kChunk = 256;
  const int rank = segment.rank, bits = Bits(segment.format), levels = (1 << bits) - 1;
  const Scale s = ChooseScale(kernels, x, rank, levels);
  std::memcpy(scales, &s.scale_bits, 2);
  std::memcpy(scales + 2, &s.zero_bits, 2);
  auto* out = reinterpret_cast<uint8_t*>(codes);
  uint8_t* high_plane = out + RoundUp(rank, kCodeGranularity) / 4;
  std::memset(out, 0, segment.row_bytes);
  // Written so that a scale of NaN gives code 0, too.
  if (!(s.scale > 0.0f)) return;
  for (int first = 0; first < rank; first += kChunk) {
    uint8_t chunk[kChunk];
    const int count = std::min(kChunk, rank - first), padded = static_cast<int>(RoundUp(count, 8));
    kernels.encode(x + first, count, s.zero, s.scale, static_cast<float>(levels), chunk);
    std::fill(chunk + count, chunk + padded, uint8_t{0});
    uint8_t* to = out + first * bits / 8;
    switch (bits) {
      case 8:
        std::memcpy(to, chunk, static_cast<size_t>(count));
        break;
      case 4:
        Pack<4>(chunk, (count + 1) / 2, to);
        break;
      case 3:
        PackPlanes(chunk, padded, out + first / 4, high_plane + first / 8);
        break;
      default:
        Pack<2>(chunk, (count + 3) / 4, to);
    }
  }
}

void StoreRow(const KernelTable& kernels, const float* x, const LatentSegment& segment,
              std::byte* codes, std::byte* scales) {
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
      Quantize(kernels, x, segment, codes, scales);
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
        StoreRow(*kernels_, x, segment, block + segment.codes_offset + offset * segment.row_bytes,
                 block + segment.scales_offset + offset * kScaleBytes);
        x += segment.rank;
      }
    }
  });
}

}  // namespace palu::cpu
