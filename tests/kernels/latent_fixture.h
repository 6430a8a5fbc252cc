// A paged pool of latents for tests: segments with their layout, packed by the reference, every
// byte that no token owns poisoned.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/kernels/reference/latent_rows.h"
#include "tests/kernels/test_backend.h"

namespace palu {

inline constexpr LatentFormat kAllFormats[] = {
    LatentFormat::kF32,  LatentFormat::kBF16, LatentFormat::kF16,  LatentFormat::kFp8,
    LatentFormat::kInt8, LatentFormat::kInt4, LatentFormat::kInt3, LatentFormat::kInt2};

// One projection of one layer: a segment per rank, laid out from *offset on, which it moves.
inline std::vector<LatentSegment> MakeSegments(LatentFormat format, const std::vector<int>& ranks,
                                               int block_size, int64_t* offset) {
  const auto take = [offset](int64_t bytes) {
    const int64_t begin = (*offset + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment;
    *offset = begin + bytes;
    return begin;
  };
  std::vector<LatentSegment> segments;
  for (int rank : ranks) {
    LatentSegment segment;
    segment.format = format;
    segment.rank = rank;
    segment.row_bytes = RowBytes(format, rank);
    segment.codes_offset = take(segment.row_bytes * block_size);
    if (IsQuantized(format)) segment.scales_offset = take(int64_t{kScaleBytes} * block_size);
    segments.push_back(segment);
  }
  return segments;
}

// Host image of a pool. 0xff bytes are NaN in f32, bf16, f16, fp8 and in scales.
struct HostPool {
  int block_size = 0;
  int64_t block_bytes = 0;
  int64_t num_blocks = 0;
  std::vector<uint8_t> bytes;

  HostPool(int block_size_in, int64_t used_bytes, int64_t num_blocks_in)
      : block_size(block_size_in),
        block_bytes((used_bytes + kPlaneAlignment - 1) / kPlaneAlignment * kPlaneAlignment),
        num_blocks(num_blocks_in),
        bytes(block_bytes * num_blocks, 0xff) {}

  uint8_t* Codes(const LatentSegment& s, int64_t slot) {
    return &bytes[slot / block_size * block_bytes + s.codes_offset +
                  slot % block_size * s.row_bytes];
  }
  uint8_t* Scale(const LatentSegment& s, int64_t slot) {
    return &bytes[slot / block_size * block_bytes + s.scales_offset +
                  slot % block_size * kScaleBytes];
  }

  // Packs row into the slot.
  void Write(const LatentSegment& segment, int64_t slot, const std::vector<double>& row) {
    const reference::PackedRow packed = reference::Pack(segment.format, row);
    std::copy(packed.codes.begin(), packed.codes.end(), Codes(segment, slot));
    if (!packed.scale.empty()) {
      std::copy(packed.scale.begin(), packed.scale.end(), Scale(segment, slot));
    }
  }

  // What the slot holds.
  std::vector<double> Read(const LatentSegment& segment, int64_t slot) {
    const uint8_t* scale = IsQuantized(segment.format) ? Scale(segment, slot) : nullptr;
    return reference::Unpack(segment.format, segment.rank, Codes(segment, slot), scale);
  }

  LatentPool View(const Tensor& device) const {
    return {device.ptr<std::byte>(), block_bytes, block_size, num_blocks};
  }
};

}  // namespace palu
