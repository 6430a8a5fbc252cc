// One launcher per op of kernels/backend.h, each in the file of its name.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/context.h"

namespace palu::cuda {

void Embedding(Context& context, const EmbeddingArgs& args);
void GatherRows(Context& context, const GatherRowsArgs& args);
void RmsNorm(Context& context, const RmsNormArgs& args);
void Rope(Context& context, const RopeArgs& args);
void Hadamard(Context& context, const HadamardArgs& args);
void Add(Context& context, const AddArgs& args);
void GatedActivation(Context& context, const GatedActivationArgs& args);
void Matmul(Context& context, const MatmulArgs& args);
void Matmuls(Context& context, std::span<const MatmulArgs> products);
void Moe(Context& context, const MoeArgs& args);
// Keys and, unless null, values of the same tokens and pool; RoPE of their queries, unless null.
void LatentWrites(Context& context, const LatentWriteArgs& key, const LatentWriteArgs* value,
                  const RopeArgs* query);
void LatentAttention(Context& context, const LatentAttentionArgs& args);
void Sample(Context& context, const SampleArgs& args);

// Products of one x of at most sixteen rows in one launch, where each is served. matvec.cu.
bool MatvecServes(const MatmulArgs& args);
void Matvec(Context& context, std::span<const MatmulArgs> products);
// False where it does not serve the norm or one of the products.
bool NormMatvec(Context& context, const RmsNormArgs& norm, std::span<const MatmulArgs> products);
bool NormGatedMatvec(Context& context, const RmsNormArgs& norm, const GatedMatmulArgs& args);

// Bytes of scratch memory that each op needs at these limits.
size_t MoeScratchBytes(const StepLimits& limits);
size_t AttentionScratchBytes(const Context& context, const StepLimits& limits);
size_t SampleScratchBytes(const StepLimits& limits);

}  // namespace palu::cuda
