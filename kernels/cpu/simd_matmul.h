// Matrix products. Two shapes: dot products along the depth for weights as stored ([N, K], memory
// mapped, 16 bits), and outer products for f32 operands whose second one is [K, N].
#pragma once

namespace palu::cpu::PALU_SIMD_NAMESPACE {

// Every column of weights is a stream of its own, whose beginning no prefetcher of the processor
// foresees: this many elements of the columns of the next tile are fetched ahead.
inline constexpr int64_t kColumnHead = 256;

template <int kCols, typename W>
static inline void PrefetchColumns(const W* const* w, int64_t offset) {
#pragma GCC unroll 8
  for (int c = 0; c < kCols; ++c) __builtin_prefetch(w[c] + offset);
}

// sums[r * kCols + c] = x[r] . w[c]. One vector accumulator per element, so the order of additions
// is that of a single row whatever kRows is. next: elements from w[c] to the same column of the
// tile that a single row goes on with.
template <int kRows, int kCols, typename W>
static inline void DotTile(const float* x, int64_t x_stride, const W* const* w, int64_t depth,
                           int64_t next, float* sums) {
  Vec acc[kRows][kCols];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) acc[r][c] = Zero();
  }
  const auto step = [&](const Vec* xv, int c, Vec wv) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) acc[r][c] = Fma(xv[r], wv, acc[r][c]);
  };
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    if (kRows == 1 && k < kColumnHead) PrefetchColumns<kCols>(w, next + k);
    Vec xv[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) xv[r] = Load(x + r * x_stride + k);
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) step(xv, c, Load(w[c] + k));
  }
  if (k < depth) {
    Vec xv[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) xv[r] = LoadPartial(x + r * x_stride + k, depth - k);
#pragma GCC unroll 8
    for (int c = 0; c < kCols; ++c) step(xv, c, LoadPartial(w[c] + k, depth - k));
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kCols; c += 4) {
      ReduceAdd4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3], sums + r * kCols + c);
    }
  }
}

// One tile of rows [row, row + kRows) and columns [col, col + kCols), of which only those below
// block.cols are written.
template <int kRows, int kCols, typename W>
static inline void MatmulTile(const MatmulBlock& block, int64_t row, int64_t col,
                              const W* const* w) {
  float sums[kRows * kCols];
  DotTile<kRows, kCols>(block.x + row * block.x_stride, block.x_stride, w, block.depth,
                        kCols * block.weight_stride, sums);
  const int cols = block.cols - col < kCols ? static_cast<int>(block.cols - col) : kCols;
  for (int r = 0; r < kRows; ++r) {
    float* out = block.out + (row + r) * block.out_stride + col;
    for (int c = 0; c < cols; ++c) {
      float sum = sums[r * kCols + c];
      if (block.bias != nullptr) sum += block.bias[col + c];
      out[c] = block.accumulate ? out[c] + sum : sum;
    }
  }
}

// The last rows, fewer than kDotRows.
template <int kRows, typename W>
static inline void MatmulTail(const MatmulBlock& block, int64_t row, int64_t col,
                              const W* const* w) {
  if constexpr (kRows > 0) {
    if (block.rows - row == kRows) {
      MatmulTile<kRows, 4>(block, row, col, w);
    } else {
      MatmulTail<kRows - 1>(block, row, col, w);
    }
  }
}

template <typename W>
static inline void MatmulRows(const MatmulBlock& block, int64_t col, const W* const* w) {
  int64_t row = 0;
  for (; row + kDotRows <= block.rows; row += kDotRows) {
    MatmulTile<kDotRows, 4>(block, row, col, w);
  }
  MatmulTail<kDotRows - 1>(block, row, col, w);
}

template <typename W>
static inline void Widen(const W* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(x + i));
  if (i < n) {
    float last[kLanes];
    Store(last, LoadPartial(x + i, n - i));
    for (int64_t j = 0; i + j < n; ++j) out[i + j] = last[j];
  }
}

template <int kCols, typename W>
static inline void ColumnPointers(const MatmulBlock& block, int64_t col, const W** w) {
  for (int c = 0; c < kCols; ++c) {
    const int64_t n = col + c < block.cols ? col + c : block.cols - 1;
    w[c] = static_cast<const W*>(block.weight) + n * block.weight_stride;
  }
}

template <typename W>
static void MatmulOf(const MatmulBlock& block) {
  if (block.rows == 1) {
    for (int64_t col = 0; col < block.cols; col += 8) {
      const W* w[8];
      ColumnPointers<8>(block, col, w);
      MatmulTile<1, 8>(block, 0, col, w);
    }
    return;
  }
  constexpr bool kWide = sizeof(W) == sizeof(float);
  const bool use_panel = !kWide && block.panel != nullptr && block.rows > 2 * kDotRows;
  for (int64_t col = 0; col < block.cols; col += kPanelCols) {
    const W* w[kPanelCols];
    ColumnPointers<kPanelCols>(block, col, w);
    if (!use_panel) {
      MatmulRows(block, col, w);
      continue;
    }
    const float* panel[kPanelCols];
    for (int c = 0; c < kPanelCols; ++c) {
      Widen(w[c], block.depth, block.panel + c * block.depth);
      panel[c] = block.panel + c * block.depth;
    }
    MatmulRows(block, col, panel);
  }
}

static void Matmul(DType dtype, const MatmulBlock& block) {
  if (dtype == DType::kBF16) {
    MatmulOf<Bf16>(block);
  } else if (dtype == DType::kF16) {
    MatmulOf<F16>(block);
  } else {
    MatmulOf<float>(block);
  }
}

static void ToF32(DType dtype, const void* x, int64_t n, float* out) {
  if (dtype == DType::kBF16) {
    Widen(static_cast<const Bf16*>(x), n, out);
  } else if (dtype == DType::kF16) {
    Widen(static_cast<const F16*>(x), n, out);
  } else {
    Widen(static_cast<const float*>(x), n, out);
  }
}

template <int kRows, int kVecs>
static inline void GemmTile(const GemmBlock& g, int row, int col) {
  Vec acc[kRows][kVecs];
  float* c = g.c + row * g.ldc + col;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = g.accumulate ? Load(c + r * g.ldc + v * kLanes) : Zero();
    }
  }
  const float* a = g.a + row * g.lda;
  const float* b = g.b + col;
  for (int k = 0; k < g.k; ++k) {
    Vec bv[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) bv[v] = Load(b + k * g.ldb + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec av = Set1(a[r * g.lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) acc[r][v] = Fma(av, bv[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) Store(c + r * g.ldc + v * kLanes, acc[r][v]);
  }
}

template <int kRows>
static inline void GemmRows(const GemmBlock& g, int row) {
  int col = 0;
  for (; col + kGemmVecs * kLanes <= g.n; col += kGemmVecs * kLanes) {
    GemmTile<kRows, kGemmVecs>(g, row, col);
  }
  if constexpr (kGemmVecs > 2) {
    for (; col + 2 * kLanes <= g.n; col += 2 * kLanes) GemmTile<kRows, 2>(g, row, col);
  }
  for (; col < g.n; col += kLanes) GemmTile<kRows, 1>(g, row, col);
}

template <int kRows>
static inline void GemmTail(const GemmBlock& g, int row) {
  if constexpr (kRows > 0) {
    if (g.m - row == kRows) {
      GemmRows<kRows>(g, row);
    } else {
      GemmTail<kRows - 1>(g, row);
    }
  }
}

static void Gemm(const GemmBlock& g) {
  int row = 0;
  for (; row + kGemmRows <= g.m; row += kGemmRows) GemmRows<kGemmRows>(g, row);
  GemmTail<kGemmRows - 1>(g, row);
}

}  // namespace palu::cpu::PALU_SIMD_NAMESPACE
