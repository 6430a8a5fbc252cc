// Writes a compressed checkpoint directory.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "kernels/weight_format.h"
#include "tools/compress/factor_store.h"

namespace palu {

enum class CheckpointLayout {
  kOurs,      // palu_config.json; factors as cached, rotation folded
  kOfficial,  // the Palu authors': head_wise_ranks in config.json, plain factors in f16
};

struct CheckpointFormat {
  CheckpointLayout layout = CheckpointLayout::kOurs;
  WeightFormat weights = WeightFormat::kStored;
  int threads = 0;  // that round weights; 0: all cores
};

// Copies every tensor of source but the K and V weights of low-rank layers, which become
// "….VT.weight" and "….U.<group>.weight"; copies the other files of the source directory
// (tokenizer, generation settings). Tensors are streamed from the source's mapping: no second copy
// of the model is held. facts: what else palu_config.json shall say (method, calibration, loss).
// directory must exist. Throws LoadError or CompressError when the disk refuses.
void WriteCheckpoint(const std::string& source, const Safetensors& files, const ModelConfig& config,
                     const FactorStore& factors, const CompressionPlan& plan,
                     const CheckpointFormat& format, const nlohmann::json& facts,
                     const std::string& directory);

// Copies a checkpoint, compressed or not, with its weights rounded. Down factors that the server
// has to rotate at load, or may be told to, stay as they are. Throws as above.
void WriteQuantizedCheckpoint(const std::string& source, WeightFormat format, int threads,
                              const std::string& directory);

}  // namespace palu
