// Latent attention problems for tests: data, naive reference in double, upload and run.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "tests/kernels/latent_fixture.h"
#include "tests/kernels/reference/ops.h"

namespace palu {

// One projection: low rank with these ranks, or dense (ranks empty).
struct ProjectionCase {
  int heads_per_group = 1;
  std::vector<int> ranks;
  LatentFormat format = LatentFormat::kF32;
  DType up_dtype = DType::kBF16;

  bool dense() const { return ranks.empty(); }
  bool operator==(const ProjectionCase&) const = default;
};

struct SequenceCase {
  int context = 0;  // tokens in the cache, the queries' own included
  int queries = 0;

  bool operator==(const SequenceCase&) const = default;
};

struct AttentionCase {
  std::string name;
  int q_heads = 4, kv_heads = 2, head_dim = 64;
  ProjectionCase key, value;
  std::vector<SequenceCase> sequences;
  int block_size = 16;
  int window = 0;
  int rotary_dim = -1;       // -1: head_dim
  double rope_factor = 1.0;  // of the whole table, as some scaled models have it
  bool biases = false;
  bool k_norm = false;
  bool packed = false;  // keys through Backend::PackUp; their factor is such that it loses nothing

  bool operator==(const AttentionCase&) const = default;
};

// The data of a case: everything random, the pool poisoned where no token is.
class AttentionProblem {
 public:
  AttentionProblem(const AttentionCase& c, const Backend& backend, uint64_t seed);
  // Kept until a test of another name asks: the backends, on which a test runs in turn, share the
  // data and the reference, which take longer than what is tested.
  static AttentionProblem* Shared(const AttentionCase& c, const Backend& backend, uint64_t seed);

  int64_t tokens() const { return cu_seqlens_.back(); }
  int64_t row_width() const { return int64_t{case_.q_heads} * case_.head_dim; }

  // All queries as one batch on the backend; bytes of out.
  std::vector<uint8_t> Run(Backend* backend);
  // The same as a step of a model, which the backend may record: the newest token of every sequence
  // is poisoned before, and the step writes it, then attends. What the last of `steps` such steps
  // gives. Sequences of one query, latents whose format keeps the numbers that it holds.
  std::vector<uint8_t> RunAsSteps(Backend* backend, int steps);
  // Queries given anew as a batch of sequences: (sequence, first query, count), of which those
  // before are context. Returns the bytes of out in the order of the batch.
  struct Piece {
    int sequence, first, count;
  };
  std::vector<uint8_t> RunPieces(Backend* backend, const std::vector<Piece>& pieces) {
    return Attend(backend, pieces, 0);
  }
  // Values of what RunPieces or Run returned.
  std::vector<double> Values(const Backend& backend, const std::vector<uint8_t>& bytes) const;

  const std::vector<double>& Reference();

 private:
  std::vector<Piece> AllQueries() const;
  std::vector<uint8_t> Attend(Backend* backend, const std::vector<Piece>& pieces, int steps);
  void AttendInSteps(DeviceArrays* arrays, const LatentAttentionArgs& args, int steps);

  struct Side {
    std::vector<LatentSegment> segments;
    std::vector<std::vector<double>> ups;  // per group [heads_per_group * head_dim, rank]
    std::vector<double> bias;              // [kv_heads * head_dim]
  };

  Side MakeSide(const ProjectionCase& projection, int64_t* offset);
  void FillPool(const ProjectionCase& projection, const Side& side, int sequence);
  int64_t Slot(int sequence, int position) const;
  // One head's key (before norm and rotation) or value at a position.
  std::vector<double> Head(const ProjectionCase& projection, const Side& side, int sequence,
                           int position, int head);
  using Rows = std::vector<std::vector<double>>;  // one per position
  Rows Keys(int sequence, int head);
  void ReferenceHead(int sequence, int q_head, const Rows& keys, const Rows& values,
                     std::vector<double>* out) const;
  LatentProjection Upload(DeviceArrays* arrays, const ProjectionCase& projection, const Side& side,
                          std::vector<Tensor>* ups, std::vector<Buffer>* packed) const;
  std::vector<double> ByteFactor(int heads, int64_t rank);

  AttentionCase case_;
  Random random_;
  int rotary_;
  int max_blocks_ = 0;
  std::vector<int32_t> cu_seqlens_, block_tables_;
  std::vector<double> q_, cos_sin_, k_norm_;
  Side key_, value_;
  HostPool pool_{1, 16, 1};
  std::vector<double> reference_;  // empty until it is asked for
};

}  // namespace palu
