#include "engine/step_batch.h"

namespace palu {

void StepBatch::Clear() {
  token_ids.clear();
  positions.clear();
  cu_seqlens.clear();
  context_lens.clear();
  num_groups = 1;
  slot_mapping.clear();
  block_tables.clear();
  max_blocks = 0;
  rows.clear();
  pooled_tokens.clear();
  block_moves.clear();
}

}  // namespace palu
