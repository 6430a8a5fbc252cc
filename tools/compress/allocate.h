// How many ranks every group gets from a kept fraction, without looking at the measured loss.
#pragma once

#include <string>
#include <vector>

#include "tools/compress/factor_store.h"

namespace palu {

enum class RankSearch {
  kUniform,        // the same everywhere
  kFisher,         // in proportion to the RMS weight gradient of every group
  kFisherUniform,  // of every matrix; equal ranks inside it
  kKfac,           // the largest singular values of all groups
};

// Ranks are multiples of this, or of the largest power of two below it that divides width.
int RankBlock(int width);

// Splits total blocks in proportion to scores, at least 1 and at most caps[i] each; what one cannot
// take goes to the others. The sum is exactly min(max(total, n), sum of caps).
std::vector<int> SplitBlocks(const std::vector<double>& scores, const std::vector<int>& caps,
                             int total);

struct AllocationOptions {
  RankSearch search = RankSearch::kUniform;
  double keep_key = 0.5, keep_value = 0.5;  // of all ranks of the projection, in (0, 1]
  bool shared = true;                       // one pool for K and V (keep_key == keep_value)
  LatentFormat key_format = LatentFormat::kF16, value_format = LatentFormat::kF16;
};

// Total ranks are the kept fraction to one rank block (uniform: to one block in every group). A
// projection whose ranks are all full becomes dense when it is stored in 16 bits or more: factors
// would only cost time. Throws CompressError.
CompressionPlan Allocate(const ModelConfig& config, const Statistics& statistics,
                         const FactorStore& factors, const AllocationOptions& options);

// Makes the spec of one projection; ranks may be full.
ProjectionSpec MakeSpec(std::vector<int> ranks, int heads_per_group, int head_dim,
                        LatentFormat format);

// Ranks for blocks rank blocks in all, spent where the factors' loss falls most; one block at least
// in every group.
std::vector<int> SpreadRanks(const ProjectionFactors& factors, int blocks);

}  // namespace palu
