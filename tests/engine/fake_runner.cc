#include "tests/engine/fake_runner.h"

#include <algorithm>

namespace palu::testing {
namespace {

constexpr int32_t kPoison = -77;

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

bool IsStop(const EngineLimits& limits, const SamplingParams& params, int32_t id) {
  return (!params.ignore_eos && Contains(limits.eos_token_ids, id)) ||
         Contains(params.stop_token_ids, id);
}

}  // namespace

int32_t FakeDraw(const EngineLimits& limits, const SamplingParams& params, uint64_t history,
                 uint64_t seed, int64_t draw_index, bool hold_back_stop) {
  uint64_t base = history;
  if (params.temperature > 0) base = Mix(Mix(base, seed), draw_index);
  base = Mix(base, 3) >> 11;
  while (hold_back_stop && IsStop(limits, params, static_cast<int32_t>(base % limits.vocab_size))) {
    ++base;
  }
  return static_cast<int32_t>(base % limits.vocab_size);
}

ReferenceOutput RunAlone(const EngineLimits& limits, const Request& request, uint64_t seed) {
  const SamplingParams& params = request.sampling;
  ReferenceOutput out;
  std::vector<int32_t> tokens = request.prompt;
  const int prompt = static_cast<int>(tokens.size());
  const int64_t pool = limits.demand().LongestIn(limits.num_blocks);
  for (int drawn = 0;; ++drawn) {
    const bool context_full = prompt + drawn >= limits.max_context_tokens;
    const bool pool_full = prompt + drawn > pool;
    if (drawn >= params.max_tokens || context_full || pool_full) return out;
    const bool hold_back = drawn < params.min_tokens;
    const int32_t id =
        FakeDraw(limits, params, HistoryHash(tokens, tokens.size(), VisibleWindow(limits)), seed,
                 drawn, hold_back);
    tokens.push_back(id);
    out.tokens.push_back(id);
    if (!hold_back && IsStop(limits, params, id)) {
      out.finish = FinishReason::kStop;
      out.stopped_by_token = true;
      return out;
    }
  }
}

FakeRunner::FakeRunner(const EngineLimits& limits, const EngineOptions& options)
    : limits_(limits),
      options_(options),
      cells_(static_cast<size_t>(limits.num_blocks) * limits.block_tokens,
             {kPoison, kPoison, kPoison}),
      host_cells_(static_cast<size_t>(limits.num_host_blocks) * limits.block_tokens,
                  {kPoison, kPoison, kPoison}) {}

void FakeRunner::HoldFrom(int step) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hold_from_ = step;
  released_.notify_all();
}

StepResult FakeRunner::Run(const StepBatch& batch) {
  const int step = steps_++;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    released_.wait(lock, [this, step] { return step < hold_from_; });
  }
  if (step_time.count() > 0) std::this_thread::sleep_for(step_time);
  if (step == throw_at_step) throw std::runtime_error("fake device fault");
  max_step_tokens_ = std::max<int>(max_step_tokens_, batch.num_tokens());
  max_step_sequences_ = std::max<int>(max_step_sequences_, batch.num_sequences());
  CheckShape(batch);
  Move(batch);
  Write(batch);
  StepResult result;
  for (const SampleRow& row : batch.rows) result.tokens.push_back(RunRow(batch, row));
  for (const int32_t token : batch.pooled_tokens) {
    result.hidden.push_back(
        {static_cast<float>(batch.token_ids[token]), static_cast<float>(batch.positions[token])});
  }
  return result;
}

void FakeRunner::PoisonFreeBlocks(const BlockAllocator& blocks, const BlockAllocator& host) {
  const auto poison = [this](const BlockAllocator& allocator, std::vector<Cell>* cells) {
    for (int block = 0; block < allocator.num_blocks(); ++block) {
      if (allocator.ref_count(block) > 0) continue;
      std::fill_n(cells->begin() + block * limits_.block_tokens, limits_.block_tokens,
                  Cell{kPoison, kPoison, kPoison});
    }
  };
  poison(blocks, &cells_);
  poison(host, &host_cells_);
}

std::vector<std::string> FakeRunner::violations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return violations_;
}

void FakeRunner::Violation(const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (violations_.size() < 10) violations_.push_back(what);
}

void FakeRunner::CheckShape(const StepBatch& batch) {
  const size_t tokens = batch.token_ids.size();
  const size_t sequences = batch.context_lens.size();
  if (tokens == 0 || static_cast<int>(tokens) > options_.step_tokens) Violation("token budget");
  if (static_cast<int>(sequences) > options_.max_sequences) Violation("sequence budget");
  if (static_cast<int>(batch.rows.size()) > batch.num_tokens() + options_.max_sequences) {
    Violation("row budget");
  }
  const size_t groups = limits_.group_windows.size();
  if (batch.positions.size() != tokens || static_cast<size_t>(batch.num_groups) != groups ||
      batch.slot_mapping.size() != groups * tokens || batch.cu_seqlens.size() != sequences + 1 ||
      batch.block_tables.size() != groups * sequences * batch.max_blocks) {
    Violation("array sizes");
    return;
  }
  if (batch.cu_seqlens.front() != 0 || batch.cu_seqlens.back() != batch.num_tokens()) {
    Violation("cu_seqlens");
  }
  for (size_t s = 0; s < sequences; ++s) {
    const int count = batch.cu_seqlens[s + 1] - batch.cu_seqlens[s];
    if (count < 1) Violation("empty sequence");
    for (int i = 0; i < count; ++i) {
      const int position = batch.context_lens[s] - count + i;
      if (batch.positions[batch.cu_seqlens[s] + i] != position) Violation("position");
    }
  }
}

void FakeRunner::Move(const StepBatch& batch) {
  for (const BlockMove& move : batch.block_moves) {
    const auto& source = move.kind == BlockMove::Kind::kToDevice ? host_cells_ : cells_;
    auto& target = move.kind == BlockMove::Kind::kToHost ? host_cells_ : cells_;
    std::copy_n(source.begin() + move.from * limits_.block_tokens, limits_.block_tokens,
                target.begin() + move.to * limits_.block_tokens);
  }
}

void FakeRunner::Write(const StepBatch& batch) {
  std::set<int64_t> written;
  std::set<int64_t> written_blocks;
  for (int i = 0; i < batch.num_groups * batch.num_sequences(); ++i) {
    const int group = i / batch.num_sequences(), s = i % batch.num_sequences();
    std::set<int64_t> own_blocks;
    for (int t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) {
      const int64_t slot = batch.slot_mapping[group * batch.num_tokens() + t];
      if (slot < 0 || slot >= static_cast<int64_t>(cells_.size())) {
        Violation("slot out of range");
        continue;
      }
      if (!written.insert(slot).second) Violation("slot written twice");
      own_blocks.insert(slot / limits_.block_tokens);
      cells_[slot] = {batch.token_ids[t], batch.positions[t], group};
    }
    for (const int64_t block : own_blocks) {
      if (!written_blocks.insert(block).second) Violation("two tables write one block");
    }
  }
}

// The first `length` tokens of a sequence as a group of layers sees them; what fell out of its
// window is 0, for nothing but that there is an entry can be said of it.
std::vector<int32_t> FakeRunner::Read(const StepBatch& batch, int group, int sequence, int length) {
  const int32_t* table =
      batch.block_tables.data() + (group * batch.num_sequences() + sequence) * batch.max_blocks;
  const int window = limits_.group_windows[group];
  const int first = window > 0 ? std::max(0, length - window) : 0;
  std::vector<int32_t> seen(first, 0);
  for (int position = first; position < length; ++position) {
    const int32_t block = table[position / limits_.block_tokens];
    if (block < 0 || block >= limits_.num_blocks) {
      Violation("block table entry missing");
      return {};
    }
    const Cell& cell = cells_[block * limits_.block_tokens + position % limits_.block_tokens];
    if (cell.position != position || cell.group != group) Violation("stale or foreign block");
    seen.push_back(cell.token);
  }
  for (int block = 0; block < (length - 1) / limits_.block_tokens; ++block) {
    if (table[block] < 0 || table[block] >= limits_.num_blocks) Violation("no block in the table");
  }
  return seen;
}

OutputToken FakeRunner::RunRow(const StepBatch& batch, const SampleRow& row) {
  const auto after =
      std::upper_bound(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), row.token_index);
  const int s = static_cast<int>(after - batch.cu_seqlens.begin()) - 1;
  const int length = batch.positions[row.token_index] + 1;
  const std::vector<int32_t> seen = Read(batch, 0, s, length);
  if (seen.empty()) return {};
  const int window = VisibleWindow(limits_);
  const int first = window > 0 ? std::max(0, length - window) : 0;
  for (int group = 1; group < batch.num_groups; ++group) {
    const std::vector<int32_t> same = Read(batch, group, s, length);
    const int visible = std::min(length, limits_.group_windows[group]);
    const int compared = limits_.group_windows[group] > 0 ? visible : length;
    if (same.size() != seen.size() ||
        !std::equal(same.end() - compared, same.end(), seen.end() - compared)) {
      Violation("layer groups see different tokens");
    }
  }
  const uint64_t history = HistoryHash(seen, seen.size(), window);
  if (row.history != nullptr &&
      (row.history->size() != seen.size() ||
       !std::equal(seen.begin() + first, seen.end(), row.history->begin() + first))) {
    Violation("history");
  }
  OutputToken out;
  out.token = row.forced_token >= 0 ? row.forced_token
                                    : FakeDraw(limits_, *row.params, history, row.seed,
                                               row.draw_index, row.hold_back_stop);
  out.logprob = FakeLogprob(history, out.token);
  out.rank = 1;
  for (int i = 0; i < row.num_logprobs; ++i) out.top.push_back({i, FakeLogprob(history, i)});
  return out;
}

}  // namespace palu::testing
