// The tensors of a checkpoint to be written: what they are, and where their bytes come from when
// their turn has come.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"
#include "kernels/weight_format.h"

namespace palu {

using ByteSink = std::function<void(std::span<const std::byte>)>;

struct CheckpointOutput {
  SafetensorsDeclaration declaration;
  std::function<void(const ByteSink&)> write;  // may be called more than once
};

// Entries must outlive the outputs made of them.
CheckpointOutput CopyOf(const std::string& name, const SafetensorsEntry& entry);
// Rows [first, first + rows) of a matrix in its own dtype.
CheckpointOutput RowsOf(const std::string& name, const SafetensorsEntry& entry, int64_t first,
                        int64_t rows);

// The same with codes in place of the matrices that quantized checkpoints hold as codes, rounded as
// model.weights rounds them at load: parts of fused MLP matrices by themselves, and the output
// layer of models whose embedding serves as one. Codes come first, where they can be read in place.
// kept: names of matrices that stay as they are. files: what the outputs were made of. Throws
// CompressError naming a matrix of a type that cannot be rounded.
std::vector<CheckpointOutput> Quantized(std::vector<CheckpointOutput> outputs,
                                        const Safetensors& files, const ModelConfig& config,
                                        WeightFormat format, const std::set<std::string>& kept,
                                        int threads);

// Writes directory/model.safetensors. Throws LoadError when the disk refuses.
void WriteOutputs(const std::vector<CheckpointOutput>& outputs, const std::string& directory);

// Copies the files beside the weights (tokenizer, settings). Throws CompressError.
void CopyOtherFiles(const std::string& source, const std::string& directory);

}  // namespace palu
