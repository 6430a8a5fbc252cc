// What palu-compress is asked to do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/weight_format.h"
#include "tools/compress/allocate.h"

namespace palu {

struct CompressOptions {
  std::string model, out;
  std::vector<std::string> calibration;  // text files
  std::string recipe = "documents-1024";
  int64_t calibration_tokens = 65536;
  int64_t search_tokens = 16384;  // windows of the same text that the factors do not see

  Weighting weighting = Weighting::kKfac;
  RankSearch rank_search = RankSearch::kFisherUniform;
  int key_heads_per_group = 0, value_heads_per_group = 0;  // 0: min(4, KV heads)
  double keep_key = 0, keep_value = 0;                     // 0: not asked for
  LatentFormat key_format = LatentFormat::kF16, value_format = LatentFormat::kF16;

  double budget = 0;            // fraction of the 16-bit cache; 0: not asked for
  double max_ppl_increase = 0;  // fraction, e.g. 0.02; 0: not asked for
  int evaluations = 240;        // of the search; 0: by the statistics alone
  std::vector<LatentFormat> search_formats = {LatentFormat::kF16, LatentFormat::kInt8,
                                              LatentFormat::kInt4, LatentFormat::kInt3,
                                              LatentFormat::kInt2};
  std::string warm_start;  // report.json or directory of an earlier search of the same model
  double decode_cost = 0;

  double input_damping = 1e-6, output_damping = 1e-4;
  uint64_t seed = 0;
  std::string statistics;  // file kept between runs; empty: with the partial results
  WeightFormat weights = WeightFormat::kStored;  // of the checkpoint that is written
  bool weights_only = false;                     // the cache stays as it is
  bool export_official = false;
  bool resume = false;
  int threads = 0;                          // 0: all
  int64_t memory_bytes = int64_t{4} << 30;  // for weights kept as float32 and for activations
  bool quiet = false;
};

// 16 -> f16, N -> intN, fp8 as it is. Throws CompressError.
LatentFormat FormatOfBits(const std::string& bits);
// The other way round.
std::string BitsOfFormat(LatentFormat format);

}  // namespace palu
