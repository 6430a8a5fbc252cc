// Weight matrices of int8 or int4 codes as they lie in memory and in checkpoints.
#pragma once

#include <cstdint>

#include "kernels/weight_format.h"

namespace palu {

// Rows of the matrix are packed kWeightLanes at a time, so that a block of them streams through
// memory once. First the codes of all blocks, then all scales:
//   codes  [blocks, depth / 4, kWeightLanes, 4] bytes, code + 128 (int8), or
//          [blocks, depth / 8, kWeightLanes, 4] bytes whose low nibbles are code + 8 of four
//          neighbouring columns and whose high nibbles those of the next four (int4);
//   scales [blocks, depth / kWeightGroup, kWeightLanes] f16, little-endian.
// Rows past the last one are zeros.
inline constexpr int kWeightLanes = 16;

// What starts at a multiple of this is read in place.
inline constexpr int kWeightAlignment = 64;

constexpr bool FitsGroups(int64_t depth) { return depth % kWeightGroup == 0; }

constexpr int64_t WeightBlocks(int64_t rows) { return (rows + kWeightLanes - 1) / kWeightLanes; }

constexpr int64_t WeightCodeBytes(WeightFormat format, int64_t rows, int64_t depth) {
  return WeightBlocks(rows) * kWeightLanes * depth / (format == WeightFormat::kInt4 ? 2 : 1);
}

constexpr int64_t WeightScales(int64_t rows, int64_t depth) {
  return WeightBlocks(rows) * kWeightLanes * (depth / kWeightGroup);
}

constexpr int64_t GroupedWeightBytes(WeightFormat format, int64_t rows, int64_t depth) {
  return WeightCodeBytes(format, rows, depth) + 2 * WeightScales(rows, depth);
}

}  // namespace palu
