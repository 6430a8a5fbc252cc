// x W^T. A task is a chunk of output columns times a block of rows that fits the cache; inside it,
// weights are read once per block and rows stay in the cache (kernel_table.h, MatmulBlock).
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/for_rows.h"
#include "kernels/cpu/quant_weight.h"

namespace palu::cpu {
namespace {

constexpr int64_t kMaxChunkCols = 256;
constexpr int64_t kChunkGranularity = 8;
// Rows of x that a core keeps in its level-2 cache while weights stream past.
constexpr int64_t kRowBlockBytes = 256 << 10;
constexpr int64_t kRowGranularity = 24;
// Below this many multiply-adds waking other threads costs more than it gains.
constexpr int64_t kSerialWork = 32 << 10;

int64_t RowBlock(int64_t depth) {
  const int64_t fitting = kRowBlockBytes / (depth * static_cast<int64_t>(sizeof(float)));
  return std::max(kRowGranularity, fitting / kRowGranularity * kRowGranularity);
}

int64_t ChunkCols(int64_t rows, int64_t cols, int64_t depth, int threads) {
  if (rows * cols * depth < kSerialWork) return RoundUp(cols, kChunkGranularity);
  const int64_t even = (cols + 4 * threads - 1) / (4 * threads);
  return std::clamp(RoundUp(even, kChunkGranularity), kChunkGranularity, kMaxChunkCols);
}

}  // namespace

// A chunk of output columns against all rows a block at a time; the rows are rounded once, ahead.
void CpuBackend::QuantMatmul(const MatmulArgs& args) {
  const QuantWeight weight = QuantWeight::Of(args.weight);
  const int64_t rows = args.x.dim(0), groups = weight.Groups();
  PALU_CHECK(rows * weight.depth <= static_cast<int64_t>(scratch_.quant_codes.size()));
  ForRows(pool_, rows, weight.depth, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernels_->quantize_row(args.x.ptr<float>() + r * args.x.stride[0], weight.depth,
                             scratch_.quant_codes.data() + r * weight.depth,
                             scratch_.quant_scales.data() + r * groups,
                             scratch_.quant_sums.data() + r * groups);
    }
  });
  const int64_t chunk =
      RoundUp(std::min(ChunkCols(rows, weight.cols, weight.depth, threads()), kMaxChunkCols),
              4 * kQuadLanes);
  const auto run = [&](int64_t task, int) {
    const int64_t first = task * chunk, lane_block = first / kQuadLanes;
    QuantBlock block;
    block.x = scratch_.quant_codes.data();
    block.x_scales = scratch_.quant_scales.data();
    block.x_sums = scratch_.quant_sums.data();
    block.rows = rows;
    block.codes = weight.codes + lane_block * weight.BlockBytes();
    block.scales = weight.scales + lane_block * groups * kQuadLanes;
    block.cols = std::min(chunk, weight.cols - first);
    block.groups = groups;
    block.int4 = weight.format == WeightFormat::kInt4;
    float bias[kMaxChunkCols];
    if (args.bias.defined()) {
      const int64_t size = static_cast<int64_t>(SizeOf(args.bias.dtype));
      kernels_->to_f32(args.bias.dtype, args.bias.ptr<char>() + first * size, block.cols, bias);
      block.bias = bias;
    }
    block.out = args.out.ptr<float>() + first;
    block.out_stride = args.out.stride[0];
    block.accumulate = args.accumulate;
    kernels_->quant_matmul(block);
  };
  const int64_t tasks = (weight.cols + chunk - 1) / chunk;
  if (rows * weight.cols * weight.depth < kSerialWork) {
    for (int64_t task = 0; task < tasks; ++task) run(task, 0);
  } else {
    pool_.Run(tasks, run);
  }
}

void CpuBackend::Matmul(const MatmulArgs& args) {
  const int64_t rows = args.x.dim(0), depth = args.x.dim(1), cols = args.weight.dim(0);
  PALU_CHECK(args.x.dtype == DType::kF32 && args.out.dtype == DType::kF32);
  PALU_CHECK(args.weight.dim(1) == depth && args.out.dim(0) == rows && args.out.dim(1) == cols);
  if (rows == 0 || cols == 0) return;
  if (IsGrouped(args.weight.dtype)) return QuantMatmul(args);
  const int64_t row_block = RowBlock(depth);
  const int64_t row_blocks = (rows + row_block - 1) / row_block;
  const int64_t chunk = std::min(ChunkCols(rows, cols, depth, threads()), kMaxChunkCols);
  const int64_t chunks = (cols + chunk - 1) / chunk;
  const bool panel_fits = static_cast<size_t>(depth * kPanelCols) <= scratch_.panel_floats;
  const auto run = [&](int64_t task, int thread) {
    // Consecutive tasks share a chunk of weights.
    const int64_t first_row = task % row_blocks * row_block, first_col = task / row_blocks * chunk;
    MatmulBlock block;
    block.x = args.x.ptr<float>() + first_row * args.x.stride[0];
    block.x_stride = args.x.stride[0];
    block.rows = std::min(row_block, rows - first_row);
    block.weight = args.weight.ptr<char>() + first_col * args.weight.stride[0] *
                                                 static_cast<int64_t>(SizeOf(args.weight.dtype));
    block.weight_stride = args.weight.stride[0];
    block.cols = std::min(chunk, cols - first_col);
    block.depth = depth;
    float bias[kMaxChunkCols];
    if (args.bias.defined()) {
      const int64_t size = static_cast<int64_t>(SizeOf(args.bias.dtype));
      kernels_->to_f32(args.bias.dtype, args.bias.ptr<char>() + first_col * size, block.cols, bias);
      block.bias = bias;
    }
    block.out = args.out.ptr<float>() + first_row * args.out.stride[0] + first_col;
    block.out_stride = args.out.stride[0];
    block.accumulate = args.accumulate;
    if (panel_fits) block.panel = scratch_.panels.data() + thread * scratch_.panel_floats;
    kernels_->matmul(args.weight.dtype, block);
  };
  if (rows * cols * depth < kSerialWork) {
    for (int64_t task = 0; task < row_blocks * chunks; ++task) run(task, 0);
  } else {
    pool_.Run(row_blocks * chunks, run);
  }
}

}  // namespace palu::cpu
