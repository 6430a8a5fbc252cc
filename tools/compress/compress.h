// palu-compress from options to a checkpoint directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/compress/options.h"
#include "tools/compress/search.h"

namespace palu {

// A plan that was measured for comparison.
struct ComparedPlan {
  std::string name;
  double bytes = 0;  // of a token
  PlanLoss loss;     // on the search windows
};

// What was done, for the report.
struct CompressSummary {
  CompressionPlan plan;
  double uncompressed_bytes = 0, bytes = 0;  // of a token
  double uncompressed_loss = 0;              // mean nats on the search windows
  PlanLoss loss;                             // likewise
  double predicted_kl = 0;                   // nats, by what the search learned; 0 without one
  int64_t calibration_tokens = 0, search_tokens = 0;
  int evaluations = 0;
  std::string calibration_fingerprint;
  std::vector<ComparedPlan> compared;
  std::vector<Response> responses;      // that the search learned; empty without a search
  int experts = 0, unseen_experts = 0;  // of all layers; unseen: no calibration token chose them
  double seconds = 0;
};

// Works in "<out>.partial" and renames at the end: out is complete or absent. The partial directory
// stays when something fails, for resume. Progress goes to stderr unless quiet. Throws
// CompressError, LoadError: one line each.
CompressSummary Compress(const CompressOptions& options);

struct QuantizeSummary {
  int64_t bytes_before = 0, bytes = 0;  // of the safetensors files
};

// Rounds the weights of a checkpoint, compressed or not (weights_only). out is complete or absent;
// nothing stays of a failed run. Throws likewise.
QuantizeSummary QuantizeWeights(const CompressOptions& options);

}  // namespace palu
