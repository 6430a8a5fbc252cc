// Prompts in chunks with history, decodes among them: the head sizes, groupings and windows that a
// device has kernels of its own for, around the borders of their tiles.
#include "tests/kernels/attention_fixture.h"

namespace palu {
namespace {

using LatentPrefillTest = KernelTest;

AttentionCase Case(int q_heads, int kv_heads, int head_dim, ProjectionCase key,
                   ProjectionCase value) {
  AttentionCase c;
  c.name = std::to_string(q_heads) + "/" + std::to_string(kv_heads) + " heads of " +
           std::to_string(head_dim);
  c.q_heads = q_heads, c.kv_heads = kv_heads, c.head_dim = head_dim;
  c.key = std::move(key), c.value = std::move(value);
  // Decodes at the head of the step are apart from those behind prompts.
  c.sequences = {{40, 1}, {129, 1}, {65, 65}, {190, 63}, {33, 1}, {130, 129}, {64, 64}, {1, 1}};
  return c;
}

std::vector<AttentionCase> Cases() {
  const LatentFormat bf16 = LatentFormat::kBF16, int4 = LatentFormat::kInt4;
  std::vector<AttentionCase> cases = {
      Case(4, 4, 64, {1, {32, 40, 24, 64}, bf16}, {2, {96, 72}, bf16}),
      Case(6, 2, 80, {2, {104}, int4}, {1, {80, 33}, LatentFormat::kInt3}),
      Case(3, 1, 96, {1, {}, bf16}, {1, {}, bf16}),
      Case(8, 2, 128, {1, {32, 32}, int4}, {1, {96, 96}, int4}),
      Case(4, 2, 128, {1, {}, LatentFormat::kInt8}, {1, {}, LatentFormat::kF16}),
      Case(4, 2, 128, {2, {72}, LatentFormat::kFp8}, {1, {96, 44}, LatentFormat::kFp8}),
      Case(4, 2, 64, {1, {}, LatentFormat::kFp8}, {2, {}, LatentFormat::kFp8}),
      Case(2, 1, 256, {1, {128}, bf16}, {1, {200}, LatentFormat::kInt2}),
      Case(7, 1, 40, {1, {24}, LatentFormat::kF32}, {1, {}, bf16}),
  };
  const size_t plain = cases.size();
  for (size_t i = 0; i < plain; ++i) {
    AttentionCase c = cases[i];
    c.name += ", window";
    c.window = 50;
    c.block_size = 32;
    cases.push_back(c);
  }
  cases[0].biases = cases[1].biases = cases[3].k_norm = true;
  cases[7].rotary_dim = 64;
  return cases;
}

TEST_P(LatentPrefillTest, MatchesReference) {
  uint64_t seed = 11;
  for (const AttentionCase& c : Cases()) {
    SCOPED_TRACE(c.name);
    AttentionProblem& problem = *AttentionProblem::Shared(c, *backend_, seed++);
    const std::vector<double> got = problem.Values(*backend_, problem.Run(backend_.get()));
    ExpectClose(got, problem.Reference(), 3 * Tolerance(*backend_));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LatentPrefillTest, testing::ValuesIn(AvailableBackends()),
                         CaseName);

}  // namespace
}  // namespace palu
