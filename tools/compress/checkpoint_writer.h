// Writes a compressed checkpoint directory.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "tools/compress/factor_store.h"

namespace palu {

enum class CheckpointLayout {
  kOurs,      // palu_config.json; factors as cached, rotation folded
  kOfficial,  // the Palu authors': head_wise_ranks in config.json, plain factors in f16
};

// Copies every tensor of source but the K and V weights of low-rank layers, which become
// "….VT.weight" and "….U.<group>.weight"; copies the other files of the source directory
// (tokenizer, generation settings). Tensors are streamed from the source's mapping: no second copy
// of the model is held. facts: what else palu_config.json shall say (method, calibration, loss).
// directory must exist. Throws LoadError or CompressError when the disk refuses.
void WriteCheckpoint(const std::string& source, const Safetensors& files, const ModelConfig& config,
                     const FactorStore& factors, const CompressionPlan& plan,
                     CheckpointLayout layout, const nlohmann::json& facts,
                     const std::string& directory);

}  // namespace palu
