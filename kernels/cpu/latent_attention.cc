// Plans latent attention. Tasks are (block of queries, unit of KV heads); where those are too few
// for the threads, also (stretch of the context), whose partial results a second loop folds
// together. The stretches depend on a query's position alone and are always folded in the same
// order, so that a result is the same bit for bit however the work was cut. The last stretches are
// also cut by KV heads, so that threads end together.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu_backend.h"

namespace palu::cpu {
namespace {

constexpr int64_t kMinSplitTokens = 256;
constexpr int kMaxSplits = 16;
constexpr int kMinQueries = 16;
static_assert(kMinSplitTokens % kTileTokens == 0);

// Length of the stretches in which a query at this position sums up its context.
int64_t SplitTokens(int64_t position) {
  int64_t tokens = kMinSplitTokens;
  while (position >= tokens * kMaxSplits) tokens *= 2;
  return tokens;
}

class AttentionPlan {
 public:
  AttentionPlan(const LatentAttentionArgs& args, const AttentionShape& shape, Scratch* scratch)
      : args_(args), shape_(shape), scratch_(scratch) {
    max_queries_ = std::max(1, scratch->attention.rows / shape.UnitRows(1));
    const int64_t wanted = 2 * scratch->threads;
    while (max_queries_ > kMinQueries && CountBlocks() * shape.units < wanted) max_queries_ /= 2;
    MakeBlocks();
    split_ = Blocks() * shape.units < wanted && AssignPartials();
  }

  bool split() const { return split_; }
  int64_t Tasks() const { return split_ ? split_tasks_ : Blocks() * shape_.units; }
  int64_t Blocks() const { return static_cast<int64_t>(scratch_->query_blocks.size()); }
  const QueryBlock& block(int64_t i) const { return scratch_->query_blocks[i]; }

  struct Task {
    const QueryBlock* block;
    int unit, split;
    AttentionWorker::Range kv_heads;
  };
  // Of a split plan.
  Task TaskAt(int64_t task) const {
    int64_t i = 0;
    while (i + 1 < Blocks() && block(i + 1).first_task <= task) ++i;
    const QueryBlock& block = this->block(i);
    int64_t whole = task - block.first_task, share = 0, shares = 1;
    if (task >= first_cut_task_) {
      const int64_t cut = task - first_cut_task_;
      whole = first_cut_task_ - block.first_task + cut / shares_;
      share = cut % shares_;
      shares = shares_;
    }
    const int64_t heads = shape_.unit_heads;
    return {
        &block,
        static_cast<int>(whole / block.splits),
        static_cast<int>(whole % block.splits),
        {static_cast<int>(share * heads / shares), static_cast<int>((share + 1) * heads / shares)}};
  }

  // Partial result of one split of one unit of a block.
  AttentionState Partial(const QueryBlock& block, int unit, int split) const {
    const int64_t rows = shape_.UnitRows(block.num_queries);
    const int64_t floats = AttentionState::Floats(rows, shape_.row_width);
    float* memory = scratch_->partials.data() + block.partial_offset +
                    (static_cast<int64_t>(unit) * block.splits + split) * floats;
    return AttentionState::At(memory, rows, shape_.row_width);
  }

 private:
  int64_t CountBlocks() const {
    const int32_t* cu = args_.cu_seqlens.ptr<int32_t>();
    int64_t blocks = 0;
    for (int64_t s = 0; s < args_.context_lens.dim(0); ++s) {
      blocks += (cu[s + 1] - cu[s] + max_queries_ - 1) / max_queries_;
    }
    return blocks;
  }

  void MakeBlocks() {
    scratch_->query_blocks.clear();
    const int32_t* cu = args_.cu_seqlens.ptr<int32_t>();
    const int32_t* lens = args_.context_lens.ptr<int32_t>();
    for (int s = 0; s < static_cast<int>(args_.context_lens.dim(0)); ++s) {
      const int queries = cu[s + 1] - cu[s];
      const int first_position = lens[s] - queries;
      PALU_CHECK(first_position >= 0 && lens[s] <= scratch_->limits.max_context);
      for (int i = 0; i < queries;) {
        QueryBlock block;
        block.sequence = s;
        block.first_query = i;
        block.first_position = first_position + i;
        // Queries of a block have stretches of the same length.
        const int64_t regime_end = SplitTokens(block.first_position) * kMaxSplits;
        block.num_queries = static_cast<int>(
            std::min<int64_t>({max_queries_, queries - i, regime_end - block.first_position}));
        const int64_t last = block.first_position + block.num_queries - 1;
        block.splits = static_cast<int>(last / SplitTokens(last) + 1);
        scratch_->query_blocks.push_back(block);
        i += block.num_queries;
      }
    }
  }

  // Lays out partial results; false if there is nothing to split or no room for them.
  bool AssignPartials() {
    int64_t floats = 0;
    split_tasks_ = 0;
    shares_ = std::min(shape_.unit_heads, scratch_->threads);
    bool any = shares_ > 1;
    for (QueryBlock& block : scratch_->query_blocks) {
      block.partial_offset = floats;
      block.first_task = split_tasks_;
      const int64_t states = static_cast<int64_t>(block.splits) * shape_.units;
      floats +=
          states * AttentionState::Floats(shape_.UnitRows(block.num_queries), shape_.row_width);
      split_tasks_ += states;
      any = any || block.splits > 1;
    }
    // The last of the context and what is left when all threads have had as many.
    const QueryBlock& last = scratch_->query_blocks.back();
    const int64_t cut = std::min(1 + (split_tasks_ - 1) % scratch_->threads,
                                 static_cast<int64_t>(last.splits) * shape_.units);
    first_cut_task_ = split_tasks_ - cut;
    split_tasks_ += cut * (shares_ - 1);
    return any && floats <= static_cast<int64_t>(scratch_->partials.size());
  }

  const LatentAttentionArgs& args_;
  const AttentionShape& shape_;
  Scratch* scratch_;
  int max_queries_ = 1;
  bool split_ = false;
  int64_t split_tasks_ = 0;
  // Stretches from this task on are cut into so many shares of their KV heads.
  int64_t first_cut_task_ = 0;
  int shares_ = 1;
};

// Takes the table of a tile at position 0 out of that of all positions, unless it is there yet.
// Positions turn evenly, so rows 0 and 1 tell a table from another; row 0's cosines are the factor
// by which the model scales the whole.
void PrepareRope(const Tensor& cos_sin, Scratch* scratch) {
  const int64_t rotary = cos_sin.dim(1), stride = cos_sin.stride[0];
  const float* table = cos_sin.ptr<float>();
  const float* second = cos_sin.dim(0) > 1 ? table + stride : table;
  std::vector<float>& turn = scratch->rope_turn;
  if (scratch->rope_dim == rotary && std::equal(table, table + rotary, turn.begin()) &&
      std::equal(second, second + rotary, turn.begin() + rotary)) {
    return;
  }
  std::copy(table, table + rotary, turn.begin());
  std::copy(second, second + rotary, turn.begin() + rotary);
  scratch->rope_dim = static_cast<int>(rotary);
  const int64_t rows = std::min<int64_t>(cos_sin.dim(0), kTileTokens);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < rotary; ++i) {
      scratch->rope_offsets[i * kTileTokens + t] = table[t * stride + i] / table[i % (rotary / 2)];
    }
  }
}

// A whole block and unit on one thread.
void RunWhole(AttentionWorker* worker, const QueryBlock& block, int unit) {
  worker->Select(&block, unit);
  const int64_t stride = SplitTokens(block.first_position);
  const AttentionState total = worker->total();
  worker->Run(0, stride, total);
  for (int split = 1; split < block.splits; ++split) {
    worker->Run(split * stride, (split + 1) * stride, worker->part());
    worker->Merge(worker->part(), worker->heads(), total);
  }
  worker->Finish(total, worker->heads());
}

}  // namespace

void CpuBackend::LatentAttention(const LatentAttentionArgs& args) {
  const AttentionShape shape = MakeShape(args);
  const AttentionSizes& sizes = scratch_.attention;
  PALU_CHECK(args.q.dim(0) <= scratch_.limits.max_tokens);
  PALU_CHECK(shape.head_dim_padded <= sizes.head_dim && shape.row_width <= sizes.row_width);
  PALU_CHECK(shape.UnitRows(1) <= sizes.rows && shape.rotary_dim <= shape.head_dim);
  if (!args.key.dense() && shape.rotary_dim > 0) PrepareRope(args.cos_sin, &scratch_);
  const AttentionPlan plan(args, shape, &scratch_);
  const auto worker_of = [&](int thread) {
    return AttentionWorker(*kernels_, args, shape, scratch_,
                           scratch_.attention_threads.data() + thread * sizes.floats_per_thread);
  };
  if (!plan.split()) {
    pool_.Run(plan.Tasks(), [&](int64_t task, int thread) {
      AttentionWorker worker = worker_of(thread);
      RunWhole(&worker, plan.block(task / shape.units), static_cast<int>(task % shape.units));
    });
    return;
  }
  pool_.Run(plan.Tasks(), [&](int64_t task, int thread) {
    const auto [block, unit, split, kv_heads] = plan.TaskAt(task);
    const int64_t stride = SplitTokens(block->first_position);
    AttentionWorker worker = worker_of(thread);
    worker.Select(block, unit, kv_heads);
    worker.Run(split * stride, (split + 1) * stride, plan.Partial(*block, unit, split));
  });
  // Query heads of a KV head read the same up factor.
  const int64_t kv_tasks = plan.Blocks() * shape.kv_heads;
  const int task_heads = kv_tasks >= threads() ? shape.queries_per_kv : 1;
  const int unit_tasks = shape.unit_heads * shape.queries_per_kv / task_heads;
  pool_.Run(plan.Blocks() * shape.units * unit_tasks, [&](int64_t task, int thread) {
    const int head = static_cast<int>(task % unit_tasks) * task_heads;
    const AttentionWorker::Range heads = {head, head + task_heads};
    const int64_t block_unit = task / unit_tasks;
    const QueryBlock& block = plan.block(block_unit / shape.units);
    const int unit = static_cast<int>(block_unit % shape.units);
    AttentionWorker worker = worker_of(thread);
    worker.Select(&block, unit);
    const AttentionState total = plan.Partial(block, unit, 0);
    for (int split = 1; split < block.splits; ++split) {
      worker.Merge(plan.Partial(block, unit, split), heads, total);
    }
    worker.Finish(total, heads);
  });
}

}  // namespace palu::cpu
