// Checkpoints with factors that multiply to the dense weights: at full rank the low-rank path must
// reproduce the dense one, for every latent format within its precision.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

struct LowRankCase {
  const char* model;
  int key_group, value_group;  // KV heads per group; 0: dense
};

std::string Zoo(const std::string& name) { return SourceDir() + "/tests/golden/zoo/" + name; }

nlohmann::json Entry(const Checkpoint& checkpoint, int group, const std::string& format,
                     const std::string& rotation) {
  if (group == 0) return {{"kind", "dense"}, {"format", format}, {"rotation", rotation}};
  const int rank = group * checkpoint.config.at("head_dim").get<int>();
  const int groups = checkpoint.config.at("num_key_value_heads").get<int>() / group;
  return {{"kind", "low_rank"},
          {"group_size", group},
          {"ranks", std::vector<int>(static_cast<size_t>(groups), rank)},
          {"format", format},
          {"rotation", rotation}};
}

Checkpoint Factored(const LowRankCase& low_rank, const std::string& format,
                    const std::string& rotation) {
  Checkpoint checkpoint = Checkpoint::Read(Zoo(low_rank.model));
  for (int layer = 0; layer < checkpoint.config.at("num_hidden_layers").get<int>(); ++layer) {
    if (low_rank.key_group > 0) checkpoint.Factor(layer, true, low_rank.key_group);
    if (low_rank.value_group > 0) checkpoint.Factor(layer, false, low_rank.value_group);
  }
  checkpoint.SetPaluConfig(Entry(checkpoint, low_rank.key_group, format, rotation),
                           Entry(checkpoint, low_rank.value_group, format, rotation));
  return checkpoint;
}

double ErrorAgainstGolden(const Checkpoint& checkpoint, const std::string& model) {
  TempDir directory;
  checkpoint.Write(directory.path());
  ModelHarness harness(directory.path());
  const std::string golden = Zoo(model) + "/golden.safetensors";
  const auto ids = GoldenIds(golden, "ids");
  // In two steps, so that cached latents are read back too.
  std::vector<std::vector<float>> logits[2];
  const auto cut = [&](size_t s, size_t begin, size_t end) {
    return Chunk{static_cast<int>(s),
                 {ids[s].begin() + static_cast<std::ptrdiff_t>(begin),
                  ids[s].begin() + static_cast<std::ptrdiff_t>(end)}};
  };
  for (size_t s = 0; s < 2; ++s) {
    logits[s] = harness.Step({cut(s, 0, 41)});
    const auto rest = harness.Step({cut(s, 41, ids[s].size())});
    logits[s].insert(logits[s].end(), rest.begin(), rest.end());
  }
  logits[0].insert(logits[0].end(), logits[1].begin(), logits[1].end());
  return RelativeError(logits[0], GoldenRows(golden, "logits"));
}

class LowRank : public ::testing::TestWithParam<LowRankCase> {};

// q/k norms (qwen3, gemma3) and biases (qwen2) come after the rebuild; windows, two RoPEs, llama3
// scaling and head dims 16, 32 and 64 are among these.
TEST_P(LowRank, FullRankReproducesTheDenseModel) {
  for (const char* rotation : {"none", "hadamard"}) {
    EXPECT_LE(ErrorAgainstGolden(Factored(GetParam(), "f32", rotation), GetParam().model), 2e-3)
        << rotation;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, LowRank,
    ::testing::Values(LowRankCase{"llama31-gqa", 1, 2}, LowRankCase{"llama31-gqa", 2, 0},
                      LowRankCase{"mistral-swa", 2, 4}, LowRankCase{"mistral-swa", 0, 1},
                      LowRankCase{"qwen2", 2, 2}, LowRankCase{"qwen2", 1, 1},
                      LowRankCase{"qwen3", 2, 1}, LowRankCase{"qwen3", 1, 2},
                      LowRankCase{"gemma3", 2, 2}, LowRankCase{"mixtral-moe", 1, 1},
                      LowRankCase{"qwen3-moe", 2, 2}),
    [](const auto& low_rank) {
      const LowRankCase& c = low_rank.param;
      std::string name = std::string(c.model) + "_k" + std::to_string(c.key_group) + "_v" +
                         std::to_string(c.value_group);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

struct FormatCase {
  const char* format;
  double tolerance;  // of the logits' standard deviation
};

class LatentFormats : public ::testing::TestWithParam<FormatCase> {};

// The zoo's weights are random, so that quantization noise is large there; the order of the formats
// and a bound per format are what can be asked.
TEST_P(LatentFormats, ErrorStaysWithinTheFormat) {
  for (const LowRankCase& low_rank :
       {LowRankCase{"llama31-gqa", 2, 2}, {"qwen3", 1, 1}, {"mistral-swa", 0, 0}}) {
    const double error =
        ErrorAgainstGolden(Factored(low_rank, GetParam().format, "hadamard"), low_rank.model);
    EXPECT_LE(error, GetParam().tolerance) << low_rank.model << " " << low_rank.key_group;
    RecordProperty(low_rank.model, std::to_string(error));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, LatentFormats,
                         ::testing::Values(FormatCase{"f32", 2e-3}, FormatCase{"f16", 1e-2},
                                           FormatCase{"bf16", 5e-2}, FormatCase{"fp8", 0.6},
                                           FormatCase{"int8", 0.12}, FormatCase{"int4", 1.8},
                                           FormatCase{"int3", 2.8}, FormatCase{"int2", 5.0}),
                         [](const auto& format) { return std::string(format.param.format); });

// Rotating is not allowed to change anything when nothing is lost: a rank that is no power of two.
TEST(LowRankOddRanks, BlockHadamardOfOddRanks) {
  Checkpoint plain = Checkpoint::Read(SourceDir() + "/tests/golden/zoo/llama31-gqa");
  nlohmann::json ranks = {24, 20};
  for (int layer = 0; layer < 3; ++layer) {
    for (const bool key : {true, false}) {
      plain.Factor(layer, key, 1);
      const std::string name =
          "model.layers." + std::to_string(layer) + ".self_attn." + (key ? "k_proj" : "v_proj");
      std::vector<float> kept;
      const std::vector<float> vt = plain.tensors[name + ".VT.weight"].Floats();
      for (const int g : {0, 1}) {
        const int rank = ranks[static_cast<size_t>(g)].get<int>();
        kept.insert(kept.end(), vt.begin() + g * 32 * 128, vt.begin() + (g * 32 + rank) * 128);
        TensorData& u = plain.tensors[name + ".U." + std::to_string(g) + ".weight"];
        const std::vector<float> full = u.Floats();
        std::vector<float> cut;
        for (int row = 0; row < 32; ++row) {
          cut.insert(cut.end(), full.begin() + row * 32, full.begin() + row * 32 + rank);
        }
        u = TensorData::Of("F32", {32, rank}, cut);
      }
      plain.tensors[name + ".VT.weight"] = TensorData::Of("F32", {44, 128}, kept);
    }
  }
  const auto logits = [&](const std::string& rotation) {
    nlohmann::json entry = {{"kind", "low_rank"},
                            {"group_size", 1},
                            {"ranks", ranks},
                            {"format", "f32"},
                            {"rotation", rotation}};
    plain.SetPaluConfig(entry, entry);
    TempDir directory;
    plain.Write(directory.path());
    ModelHarness harness(directory.path());
    EXPECT_EQ(harness.runner().cache_report().bytes_per_token, 3 * 2 * 44 * 4.0);
    return harness.Step({{0, {1, 5, 9, 100, 200, 300, 17, 33}}});
  };
  const auto expected = logits("none");
  EXPECT_LE(RelativeError(logits("hadamard"), expected), 1e-4);
  EXPECT_EQ(logits("folded"), expected);
}

// Decode steps, which the device records and replays, against the CPU's logits in f32.
TEST(LowRankOnCuda, OneTokenAtATimeAsOnTheCpu) {
  const std::string why = WhyNoCuda();
  if (!why.empty()) GTEST_SKIP() << why;
  Checkpoint checkpoint = Checkpoint::Read(SourceDir() + "/models/classics-14m");
  for (int layer = 0; layer < checkpoint.config.at("num_hidden_layers").get<int>(); ++layer) {
    for (const bool key : {true, false}) checkpoint.Factor(layer, key, 1);
  }
  checkpoint.SetPaluConfig(Entry(checkpoint, 1, "bf16", "none"),
                           Entry(checkpoint, 1, "bf16", "none"));
  TempDir directory;
  checkpoint.Write(directory.path());
  std::vector<int32_t> ids;
  for (int i = 0; i < 150; ++i) ids.push_back(i * 37 % 1000 + 3);
  HarnessOptions options{.max_context = 256};
  const auto expected = ModelHarness(directory.path(), options).Step({{0, ids}});
  options.device = "cuda:0";
  options.format = "auto";
  ModelHarness model(directory.path(), options);
  std::vector<std::vector<float>> actual;
  for (const int32_t id : ids) actual.push_back(model.Step({{0, {id}}}).at(0));
  const double error = RelativeError(actual, expected);
  EXPECT_LE(error, 0.15);
  RecordProperty("error", std::to_string(error));
}

}  // namespace
}  // namespace palu::testing
