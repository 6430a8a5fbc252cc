#include "engine/step_plan.h"

#include <algorithm>

namespace palu {
namespace {

bool UsesHistory(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f || !params.bad_words.empty();
}

SampleRow DrawRow(const Sequence& sequence, int token_index) {
  const SamplingParams& params = sequence.request->request.sampling;
  SampleRow row;
  row.token_index = token_index;
  row.params = &params;
  row.seed = sequence.seed;
  row.draw_index = sequence.generated();
  row.num_logprobs = params.num_logprobs;
  row.hold_back_stop = sequence.generated() < params.min_tokens;
  if (UsesHistory(params)) row.history = &sequence.tokens;
  row.prompt_length = sequence.prompt;
  row.constraint = sequence.constraint.get();
  return row;
}

// base is the row of the sequence's first token in the batch.
void AppendRows(const Sequence& sequence, int base, std::vector<SampleRow>* rows) {
  const SamplingParams& params = sequence.request->request.sampling;
  const auto [begin, end] = PromptRows(sequence);
  for (int position = begin; position < end; ++position) {
    SampleRow row;
    row.token_index = base + position - sequence.computed;
    row.params = &params;
    row.forced_token = sequence.tokens[position + 1];
    row.num_logprobs = params.num_prompt_logprobs;
    row.prompt_length = sequence.prompt;
    rows->push_back(row);
  }
  if (!DrawsToken(sequence)) return;
  const int last = base + sequence.scheduled - 1;
  rows->push_back(DrawRow(sequence, last));
  for (const Sequence* follower : sequence.followers) rows->push_back(DrawRow(*follower, last));
}

// Where the tokens lie, group by group.
void AppendTables(const StepPlan& plan, int block_tokens, StepBatch* batch) {
  const size_t sequences = plan.sequences.size();
  batch->num_groups = static_cast<int>(plan.sequences.front()->tables.size());
  batch->slot_mapping.reserve(batch->token_ids.size() * batch->num_groups);
  const size_t entries = sequences * batch->max_blocks * batch->num_groups;
  // Twice at once: contexts grow by a block every few steps.
  if (entries > batch->block_tables.capacity()) batch->block_tables.reserve(2 * entries);
  batch->block_tables.assign(entries, -1);
  int32_t* table_row = batch->block_tables.data();
  for (int group = 0; group < batch->num_groups; ++group) {
    for (size_t s = 0; s < sequences; ++s) {
      const Sequence& sequence = *plan.sequences[s];
      const BlockTable& table = sequence.tables[group];
      const int context = batch->context_lens[s];
      for (int position = sequence.computed; position < context; ++position) {
        batch->slot_mapping.push_back(table.Slot(position, block_tokens));
      }
      std::copy_n(table.blocks.begin(), BlocksForTokens(context, block_tokens), table_row);
      // Nothing reads what fell out of the window, but every entry is a block of this sequence.
      std::fill_n(table_row, table.first_block, table.blocks[table.first_block]);
      table_row += batch->max_blocks;
    }
  }
}

}  // namespace

void StepPlan::Clear() {
  sequences.clear();
  block_moves.clear();
  entries.clear();
  draws.clear();
  num_tokens = num_decodes = chunk_tokens = preemptions = swaps = newly_started = 0;
  newly_started_tokens = attended_tokens = 0;
  prefix_query_tokens = prefix_hit_tokens = 0;
}

void StepEvents::Clear() {
  prompts_done.clear();
  deltas.clear();
  ended.clear();
  first_token_seconds.clear();
  inter_token_seconds.clear();
  generated_tokens = 0;
}

int64_t AttendedTokens(const Sequence& sequence) {
  constexpr int kQueriesPerRead = 64;
  const int64_t reads = (sequence.scheduled + kQueriesPerRead - 1) / kQueriesPerRead;
  return reads * (sequence.computed + sequence.scheduled);
}

std::pair<int, int> PromptRows(const Sequence& sequence) {
  const RequestState& state = *sequence.request;
  if (state.request.sampling.num_prompt_logprobs < 0 || state.prompt_done) return {0, 0};
  // After a preemption the rows that are already there are not asked for again.
  const int begin = std::max(sequence.computed, static_cast<int>(state.prompt_logprobs.size()));
  const int end = std::min(sequence.computed + sequence.scheduled, sequence.prompt - 1);
  return {begin, std::max(begin, end)};
}

std::pair<int, int> PooledRows(const Sequence& sequence) {
  const RequestState& state = *sequence.request;
  if (state.request.pooling == Pooling::kNone) return {0, 0};
  const int end = sequence.computed + sequence.scheduled;
  if (state.request.pooling == Pooling::kLast) {
    return end == sequence.prompt ? std::pair{end - 1, end} : std::pair{0, 0};
  }
  // After a preemption what is already in the sum is not added again.
  const int begin = std::max(sequence.computed, state.pooled_tokens);
  return {begin, std::max(begin, end)};
}

bool DrawsToken(const Sequence& sequence) {
  return sequence.scheduled == sequence.remaining() &&
         sequence.request->request.sampling.max_tokens > 0;
}

void BuildStepBatch(const StepPlan& plan, int block_tokens, StepBatch* batch) {
  batch->Clear();
  batch->block_moves = plan.block_moves;
  batch->cu_seqlens.push_back(0);
  batch->rows.reserve(plan.sequences.size());
  for (const Sequence* sequence : plan.sequences) {
    const int base = batch->num_tokens();
    const int context = sequence->computed + sequence->scheduled;
    for (int position = sequence->computed; position < context; ++position) {
      batch->token_ids.push_back(sequence->tokens[position]);
      batch->positions.push_back(position);
    }
    AppendRows(*sequence, base, &batch->rows);
    const auto [first_pooled, end_pooled] = PooledRows(*sequence);
    for (int position = first_pooled; position < end_pooled; ++position) {
      batch->pooled_tokens.push_back(base + position - sequence->computed);
    }
    batch->cu_seqlens.push_back(batch->num_tokens());
    batch->context_lens.push_back(context);
    batch->max_blocks = std::max(batch->max_blocks, BlocksForTokens(context, block_tokens));
  }
  AppendTables(plan, block_tokens, batch);
}

}  // namespace palu
