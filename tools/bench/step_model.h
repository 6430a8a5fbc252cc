// What a step takes, as a function of what it has to do: numbers made by hand, or a table that
// palu-bench costs has measured.
#pragma once

#include <string>
#include <vector>

#include "engine/model/model_config.h"

namespace palu::bench {

// The part of a model's layers that has this sliding window, in tokens; 0: none.
struct LayerShare {
  int window = 0;
  double share = 1;
};

std::vector<LayerShare> ShareLayers(const ModelConfig& config);

struct StepWork {
  int tokens = 0;
  int sequences = 0;
  int draws = 0;  // tokens drawn
  // The mean over all layers, which windows bound.
  double decode_context = 0;  // cached tokens that single tokens attend to
  double chunk_context = 0;   // cached tokens that chunks read, once for 64 of their own tokens
  double chunk_pairs = 0;     // tokens of chunks times the tokens that each attends to
  int block_moves = 0;        // between device and host

  // A sequence's tokens [computed, computed + scheduled).
  void Add(const std::vector<LayerShare>& layers, int computed, int scheduled, bool draw);
};

// Seconds of a step of so many tokens, or with so many draws.
struct CostPoint {
  int count = 0;
  double seconds = 0;
};

// Seconds, summed over what a step does. Plain value.
struct StepModel {
  double fixed = 0;  // reading the weights, launches, the host between two steps
  double per_token = 0;
  double per_sequence = 0;
  double per_decode_context = 0;
  double per_chunk_context = 0;
  double per_chunk_pair = 0;
  double per_block_move = 0;
  // Measured, ascending; between two points the line through them, beyond the last one its slope.
  std::vector<CostPoint> tokens = {}, draws = {};
  std::vector<LayerShare> layers = {{}};

  double Seconds(const StepWork& work) const;
};

// The same steps on a device that takes so many times as long.
StepModel Slower(const StepModel& model, double factor);

// A model's cache and the time of its steps on one machine, as palu-bench costs writes them down.
struct MeasuredCosts {
  std::string model, backend;
  int block_tokens = 16;
  double block_bytes = 0;  // of any layer group
  std::vector<int> group_windows = {0};
  int max_context_tokens = 0;
  StepModel step;
};

std::string ToJson(const MeasuredCosts& costs);
// Throws LoadError naming file, key and what was expected.
MeasuredCosts LoadCosts(const std::string& path);

}  // namespace palu::bench
