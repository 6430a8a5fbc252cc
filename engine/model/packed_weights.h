// Matrices that a checkpoint holds as int8 or int4 codes: a tensor "P.int8" or "P.int4" in place of
// "P.weight", in the layout of kernels/grouped_weight.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/safetensors.h"
#include "kernels/weight_format.h"

namespace palu {

// "P.weight" -> "P.int4".
std::string PackedName(const std::string& weight_name, WeightFormat format);

// Of the U8 tensor that holds such a matrix: lines of 64 bytes, the last one filled with zeros.
std::vector<int64_t> PackedShape(WeightFormat format, int64_t rows, int64_t depth);

// Whether quantized checkpoints hold this tensor of a stored one as codes: matrices of attention,
// of the MLP and experts, and the output layer. The other matrices are read as they are.
bool IsPackable(const std::string& weight_name, const std::vector<int64_t>& shape);

// The output layer decides between tokens directly: it has int8 codes also where the others have
// int4.
inline constexpr WeightFormat kOutputWeightFormat = WeightFormat::kInt8;

// What the matrices of a checkpoint are: kInt4 if any has int4 codes, else kInt8 if any has those.
WeightFormat PackedFormat(const Safetensors& files);

// The tensor with the codes of matrix weight_name, or nullptr where the file has none. Throws
// LoadError if it has another format than the one expected, the wrong type or size, a scale that is
// no number, or if the matrix is there twice.
const SafetensorsEntry* FindPacked(const Safetensors& files, const std::string& weight_name,
                                   WeightFormat expected, int64_t rows, int64_t depth);

}  // namespace palu
