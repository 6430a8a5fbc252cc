// Rotary position embedding: its settings in config.json and its table of cosines and sines.
#pragma once

#include <vector>

#include "engine/model/json_file.h"
#include "engine/model/model_config.h"

namespace palu {

// Reads one set of RoPE parameters. rope: the object that holds rope_type, factor, … (rope_scaling
// or rope_parameters), or absent for the default rule; theta comes from the caller. Throws
// LoadError.
RopeConfig ParseRope(const std::optional<JsonObject>& rope, double theta, int rotary_dim,
                     int max_position_embeddings);

// Inverse frequencies after scaling, rotary_dim / 2 of them, in radians per token.
std::vector<double> InverseFrequencies(const RopeConfig& rope);

// Factor on cosines and sines; 1 but for YaRN.
double AttentionFactor(const RopeConfig& rope);

// [positions, rotary_dim] f32: rotary_dim / 2 cosines, then as many sines, both times the attention
// factor. Computed in f64.
std::vector<float> RopeTable(const RopeConfig& rope, int positions);

}  // namespace palu
