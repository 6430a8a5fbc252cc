// x W^T. A task is a chunk of output columns times a block of rows that fits the cache; few rows
// are multiplied where they lie, many are packed first (kernel_table.h: MatmulBlock,
// PackedMatmulBlock). Products of the same rows run together, so that threads meet once.
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
// Multiply-adds that a task should have, since threads get in each other's way at taking one.
constexpr int64_t kTaskWork = 16 << 10, kQuantTaskWork = 48 << 10;
// From here on packing rows and weights costs less than it gains (docs/kernels/cpu.md).
constexpr int64_t kPackedRows = 24;

int64_t RowBlock(int64_t depth) {
  const int64_t fitting = kRowBlockBytes / (depth * static_cast<int64_t>(sizeof(float)));
  return std::max(kRowGranularity, fitting / kRowGranularity * kRowGranularity);
}

// Columns of a task, of products of `cols` columns in all.
int64_t ChunkCols(int64_t rows, int64_t cols, int64_t depth, int threads, int64_t task_work) {
  const int64_t work = rows * cols * depth;
  if (work < kSerialWork) return RoundUp(cols, kChunkGranularity);
  const int64_t per_thread = std::clamp<int64_t>(work / (threads * task_work), 1, 4);
  const int64_t even = (cols + per_thread * threads - 1) / (per_thread * threads);
  return std::clamp(RoundUp(even, kChunkGranularity), kChunkGranularity, kMaxChunkCols);
}

// What all blocks say of columns [first, first + cols) of the product; bias is their buffer.
template <typename Block>
void SetOutput(const KernelTable& kernels, const MatmulArgs& args, int64_t first, int64_t cols,
               float* bias, Block* block) {
  block->cols = cols;
  if (args.bias.defined()) {
    const int64_t size = static_cast<int64_t>(SizeOf(args.bias.dtype));
    kernels.to_f32(args.bias.dtype, args.bias.ptr<char>() + first * size, cols, bias);
    block->bias = bias;
  }
  block->out = args.out.ptr<float>() + first;
  block->out_stride = args.out.stride[0];
  block->accumulate = args.accumulate;
}

void SetWeight(const Tensor& weight, int64_t first_col, ProductBlock* block) {
  block->weight = weight.ptr<char>() +
                  first_col * weight.stride[0] * static_cast<int64_t>(SizeOf(weight.dtype));
  block->weight_stride = weight.stride[0];
  block->depth = weight.dim(1);
}

}  // namespace

// Rounds the rows that quantized weights are multiplied with.
void CpuBackend::QuantizeRows(const Tensor& x) {
  const int64_t rows = x.dim(0), depth = x.dim(1), groups = depth / kWeightGroup;
  PALU_CHECK(rows * depth <= static_cast<int64_t>(scratch_.quant_codes.size()));
  ForRows(pool_, rows, depth, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernels_->quantize_row(
          x.ptr<float>() + r * x.stride[0], depth, scratch_.quant_codes.data() + r * depth,
          scratch_.quant_scales.data() + r * groups, scratch_.quant_sums.data() + r * groups);
    }
  });
}

// A chunk of output columns against all rows.
void CpuBackend::QuantChunk(const MatmulArgs& args, int64_t first, int64_t cols) {
  const QuantWeight weight = QuantWeight::Of(args.weight);
  const int64_t groups = weight.Groups(), lane_block = first / kQuadLanes;
  QuantBlock block;
  block.x = scratch_.quant_codes.data();
  block.x_scales = scratch_.quant_scales.data();
  block.x_sums = scratch_.quant_sums.data();
  block.rows = args.x.dim(0);
  block.codes = weight.codes + lane_block * weight.BlockBytes();
  block.scales = weight.scales + lane_block * groups * kQuadLanes;
  block.groups = groups;
  block.int4 = weight.format == WeightFormat::kInt4;
  float bias[kMaxChunkCols];
  SetOutput(*kernels_, args, first, cols, bias, &block);
  kernels_->quant_matmul(block);
}

// A chunk of output columns against a block of rows.
void CpuBackend::FloatChunk(const MatmulArgs& args, int64_t first_row, int64_t rows, int64_t first,
                            int64_t cols, int thread) {
  MatmulBlock block;
  block.x = args.x.ptr<float>() + first_row * args.x.stride[0];
  block.x_stride = args.x.stride[0];
  block.rows = rows;
  SetWeight(args.weight, first, &block);
  float bias[kMaxChunkCols];
  SetOutput(*kernels_, args, first, cols, bias, &block);
  block.out += first_row * args.out.stride[0];
  if (block.depth <= scratch_.depth) {
    block.panel = scratch_.panels.data() + thread * PanelFloats(scratch_.depth);
  }
  kernels_->matmul(args.weight.dtype, block);
}

// Block of rows by block: rows are packed, then chunks of columns go over all of them.
void CpuBackend::PackedMatmul(const MatmulArgs& args) {
  const int64_t depth = args.x.dim(1), cols = args.weight.dim(0);
  const int64_t tile_rows = kernels_->tile_rows;
  const int64_t tile_floats = PackedTileFloats(kernels_->tile_rows, depth);
  const int64_t row_block = scratch_.packed_rows / tile_rows * tile_rows;
  const int64_t chunk =
      std::min(RoundUp(ChunkCols(args.x.dim(0), cols, depth, threads(), kTaskWork), kMaxTileCols),
               kMaxChunkCols);
  for (int64_t first_row = 0; first_row < args.x.dim(0); first_row += row_block) {
    const int64_t rows = std::min(row_block, args.x.dim(0) - first_row);
    const float* x = args.x.ptr<float>() + first_row * args.x.stride[0];
    const int64_t tiles = (rows + tile_rows - 1) / tile_rows;
    ForRows(pool_, tiles, tile_floats, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t row = tile * tile_rows;
        kernels_->pack_tile(x + row * args.x.stride[0], args.x.stride[0],
                            static_cast<int>(std::min(tile_rows, rows - row)), depth,
                            scratch_.packed.data() + tile * tile_floats);
      }
    });
    pool_.Run((cols + chunk - 1) / chunk, [&](int64_t task, int thread) {
      const int64_t first_col = task * chunk;
      PackedMatmulBlock block;
      block.packed = scratch_.packed.data();
      block.rows = rows;
      SetWeight(args.weight, first_col, &block);
      float bias[kMaxChunkCols];
      SetOutput(*kernels_, args, first_col, std::min(chunk, cols - first_col), bias, &block);
      block.out += first_row * args.out.stride[0];
      block.panel = scratch_.panels.data() + thread * PanelFloats(scratch_.depth);
      kernels_->packed_matmul(args.weight.dtype, block);
    });
  }
}

void CpuBackend::Matmul(const MatmulArgs& args) { Matmuls({&args, 1}); }

void CpuBackend::Matmuls(std::span<const MatmulArgs> products) {
  for (; products.size() > kMaxProducts; products = products.subspan(kMaxProducts)) {
    Matmuls(products.first(kMaxProducts));
  }
  ProductPlan plans[kMaxProducts];
  int count = 0;
  int64_t tasks = 0, work = 0, all_cols = 0;
  bool quantized = false;
  for (const MatmulArgs& args : products) all_cols += args.weight.dim(0);
  for (const MatmulArgs& args : products) {
    const int64_t rows = args.x.dim(0), depth = args.x.dim(1), cols = args.weight.dim(0);
    PALU_CHECK(args.x.dtype == DType::kF32 && args.out.dtype == DType::kF32);
    PALU_CHECK(args.weight.dim(1) == depth && args.out.dim(0) == rows && args.out.dim(1) == cols);
    if (rows == 0 || cols == 0) continue;
    const bool codes = IsGrouped(args.weight.dtype);
    if (!codes && kernels_->packed_matmul != nullptr && rows >= kPackedRows &&
        depth <= scratch_.depth) {
      PackedMatmul(args);
      continue;
    }
    ProductPlan& plan = plans[count++];
    plan = {.args = &args, .first_task = tasks, .row_block = codes ? rows : RowBlock(depth)};
    plan.chunk = ChunkCols(rows, all_cols, depth, threads(), codes ? kQuantTaskWork : kTaskWork);
    // quant_matmul takes up to four blocks of columns at once.
    if (codes) plan.chunk = RoundUp(plan.chunk, 4 * kQuadLanes);
    plan.chunk = std::min(plan.chunk, kMaxChunkCols);
    plan.row_blocks = (rows + plan.row_block - 1) / plan.row_block;
    tasks += plan.row_blocks * ((cols + plan.chunk - 1) / plan.chunk);
    work += rows * cols * depth;
    quantized = quantized || codes;
  }
  if (quantized) QuantizeRows(products[0].x);
  const auto run = [&](int64_t task, int thread) {
    int p = 0;
    while (p + 1 < count && plans[p + 1].first_task <= task) ++p;
    RunProduct(plans[p], task - plans[p].first_task, thread);
  };
  if (work < kSerialWork) {
    for (int64_t task = 0; task < tasks; ++task) run(task, 0);
  } else {
    pool_.Run(tasks, run);
  }
}

void CpuBackend::RunProduct(const ProductPlan& plan, int64_t task, int thread) {
  const MatmulArgs& args = *plan.args;
  // Consecutive tasks share a chunk of weights.
  const int64_t first_row = task % plan.row_blocks * plan.row_block;
  const int64_t first_col = task / plan.row_blocks * plan.chunk;
  const int64_t cols = std::min(plan.chunk, args.weight.dim(0) - first_col);
  if (IsGrouped(args.weight.dtype)) return QuantChunk(args, first_col, cols);
  FloatChunk(args, first_row, std::min(plan.row_block, args.x.dim(0) - first_row), first_col, cols,
             thread);
}

}  // namespace palu::cpu
