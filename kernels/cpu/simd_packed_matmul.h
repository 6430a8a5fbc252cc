// Matrix products of many rows: outer products of operands that were packed for them (BLIS-style
// panels; Van Zee and van de Geijn, 2015), in the order of additions of simd_matmul.h's dot
// products. There lane l of an accumulator sums the elements l, l + kLanes, ... of a row, and
// ReduceAdd4 adds the lanes up in a tree. Here a lane is a column: the elements of each residue l
// are summed in a pass of their own and the passes meet in that same tree.
#pragma once

#include "kernels/cpu/simd_matmul.h"

namespace palu::cpu::PALU_SIMD_NAMESPACE {

inline constexpr int kTileVecs = 2;
inline constexpr int kTileCols = kTileVecs * kLanes;
static_assert(kTileCols <= kMaxTileCols);
inline constexpr int kTreeLevels = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;
static_assert(1 << kTreeLevels == kLanes);

// Floats from one residue of a panel to the next: not a multiple of a page, which would put all
// residues of an element into one set of the cache.
static inline int64_t PanelStride(int64_t steps) { return steps * kTileCols + kLanes; }

// Row by row a square of source elements [kLanes, n] as floats, zeros beyond what is there.
template <typename W>
static inline void LoadSquare(const W* source, int64_t stride, int rows, int64_t n, float* out) {
  if (rows >= kLanes && n >= kLanes) {
    for (int r = 0; r < kLanes; ++r) Store(out + r * kLanes, Load(source + r * stride));
    return;
  }
  for (int r = 0; r < kLanes; ++r) {
    Vec v = Zero();
    if (r < rows) v = n >= kLanes ? Load(source + r * stride) : LoadPartial(source + r * stride, n);
    Store(out + r * kLanes, v);
  }
}

// out: [kLanes][steps][kTileRows], zeros for rows beyond `rows` and elements beyond depth.
static void PackTile(const float* x, int64_t stride, int rows, int64_t depth, float* out) {
  const int64_t steps = (depth + kLanes - 1) / kLanes;
  alignas(64) float square[kLanes * kLanes], turned[kLanes * kLanes];
  for (int64_t s = 0; s < steps; ++s) {
    for (int first = 0; first < kTileRows; first += kLanes) {
      const int wanted = kTileRows - first < kLanes ? kTileRows - first : kLanes;
      LoadSquare(x + first * stride + s * kLanes, stride, rows - first, depth - s * kLanes, square);
      TransposeSquare(square, kLanes, turned, kLanes);
      for (int l = 0; l < kLanes; ++l) {
        float* to = out + (l * steps + s) * kTileRows + first;
        __builtin_memcpy(to, turned + l * kLanes, static_cast<size_t>(wanted) * sizeof(float));
      }
    }
  }
}

// out: [kLanes][PanelStride(steps)], of which a residue uses [steps][kTileCols].
template <typename W>
static inline void PackPanel(const W* weight, int64_t stride, int64_t cols, int64_t depth,
                             float* out) {
  const int64_t steps = (depth + kLanes - 1) / kLanes, residue = PanelStride(steps);
  alignas(64) float square[kLanes * kLanes];
  for (int64_t s = 0; s < steps; ++s) {
    for (int first = 0; first < kTileCols; first += kLanes) {
      LoadSquare(weight + first * stride + s * kLanes, stride, static_cast<int>(cols - first),
                 depth - s * kLanes, square);
      TransposeSquare(square, kLanes, out + s * kTileCols + first, residue);
    }
  }
}

// Sums of one tile, [kTileRows][kTileCols], from a packed tile of rows and a packed panel.
static inline void SumTile(const float* rows, const float* panel, int64_t steps, float* sums) {
  constexpr int kSums = kTileRows * kTileCols;
  alignas(64) float waiting[kTreeLevels][kSums];  // sums of whole subtrees, by height
  const int64_t residue = PanelStride(steps);
  for (int pass = 0; pass < kLanes; ++pass) {
    const float* x = rows + kTreeOrder[pass] * steps * kTileRows;
    const float* w = panel + kTreeOrder[pass] * residue;
    Vec acc[kTileRows][kTileVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kTileVecs; ++v) acc[r][v] = Zero();
    }
    for (int64_t s = 0; s < steps; ++s, x += kTileRows, w += kTileCols) {
      Vec wv[kTileVecs];
#pragma GCC unroll 8
      for (int v = 0; v < kTileVecs; ++v) wv[v] = Load(w + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
        const Vec xv = Set1(x[r]);
#pragma GCC unroll 8
        for (int v = 0; v < kTileVecs; ++v) acc[r][v] = Fma(xv, wv[v], acc[r][v]);
      }
    }
    int height = 0;
    for (; pass >> height & 1; ++height) {
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kTileVecs; ++v) {
          acc[r][v] = Add(Load(waiting[height] + r * kTileCols + v * kLanes), acc[r][v]);
        }
      }
    }
    float* to = pass + 1 < kLanes ? waiting[height] : sums;
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kTileVecs; ++v) Store(to + r * kTileCols + v * kLanes, acc[r][v]);
    }
  }
}

// One row of a tile: cols <= kTileCols sums for out[row][col].
static inline void WriteSums(const PackedMatmulBlock& block, const float* sums, int64_t row,
                             int64_t col, int64_t cols) {
  float* out = block.out + row * block.out_stride + col;
  const float* bias = block.bias != nullptr ? block.bias + col : nullptr;
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    Vec sum = Load(sums + c);
    if (bias != nullptr) sum = Add(sum, Load(bias + c));
    Store(out + c, block.accumulate ? Add(Load(out + c), sum) : sum);
  }
  for (; c < cols; ++c) {
    const float sum = bias != nullptr ? sums[c] + bias[c] : sums[c];
    out[c] = block.accumulate ? out[c] + sum : sum;
  }
}

template <typename W>
static void PackedMatmulOf(const PackedMatmulBlock& block) {
  const int64_t steps = (block.depth + kLanes - 1) / kLanes;
  const auto* weight = static_cast<const W*>(block.weight);
  for (int64_t col = 0; col < block.cols; col += kTileCols) {
    const int64_t cols = block.cols - col < kTileCols ? block.cols - col : kTileCols;
    PackPanel(weight + col * block.weight_stride, block.weight_stride, cols, block.depth,
              block.panel);
    for (int64_t row = 0; row < block.rows; row += kTileRows) {
      const int64_t rows = block.rows - row < kTileRows ? block.rows - row : kTileRows;
      alignas(64) float sums[kTileRows * kTileCols];
      SumTile(block.packed + row * RoundUp(block.depth, kVectorPad), block.panel, steps, sums);
      for (int64_t r = 0; r < rows; ++r) {
        WriteSums(block, sums + r * kTileCols, row + r, col, cols);
      }
    }
  }
}

static void PackedMatmul(DType dtype, const PackedMatmulBlock& block) {
  if (dtype == DType::kBF16) {
    PackedMatmulOf<Bf16>(block);
  } else if (dtype == DType::kF16) {
    PackedMatmulOf<F16>(block);
  } else {
    PackedMatmulOf<float>(block);
  }
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
