// Checkpoints that exist in memory only: a model's shapes with random weights, for benchmarks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/model/palu_config.h"
#include "engine/model/safetensors.h"

namespace palu {

// How the cache of a dummy model is factored, the same in all layers; rank 0: dense.
struct DummyRecipe {
  int key_group_heads = 1, value_group_heads = 1;  // KV heads that share a latent
  int key_rank = 0, value_rank = 0;                // numbers per group and token
};

// What to make a dummy model of.
struct DummyModel {
  std::string name;         // for messages
  std::string config_json;  // as a checkpoint's config.json
  DummyRecipe recipe;
};

// One entry per layer. Throws LoadError when the groups or ranks do not fit the model.
std::vector<LayerPlan> DummyPlan(const DummyModel& model, const ModelConfig& config);

// Every tensor that Weights::Load asks for, in bf16: norms are ones, everything else uniform over
// magnitudes of 1/128 to 1/32 with random signs. distinct: every tensor has bytes of its own, as a
// backend that reads them in place needs for honest timings; otherwise tensors share bytes.
Safetensors DummyCheckpoint(const DummyModel& model, const ModelConfig& config,
                            const std::vector<LayerPlan>& plan, bool distinct);

// Four such numbers a word. They are finite as f16 too.
void FillWithRandomBF16(std::span<uint64_t> words);

}  // namespace palu
