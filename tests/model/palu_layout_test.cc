// The Palu authors' layout and fused projections, made from the zoo at full rank: same logits.
#include <gtest/gtest.h>

#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

std::string Zoo(const std::string& name) { return SourceDir() + "/tests/golden/zoo/" + name; }

std::string Attention(int layer) { return "model.layers." + std::to_string(layer) + ".self_attn."; }

// Error of the first golden sequence.
double ErrorOf(const Checkpoint& checkpoint, const std::string& model) {
  TempDir directory;
  checkpoint.Write(directory.path());
  ModelHarness harness(directory.path());
  const std::string golden = Zoo(model) + "/golden.safetensors";
  const auto ids = GoldenIds(golden, "ids").at(0);
  auto expected = GoldenRows(golden, "logits");
  expected.resize(ids.size());
  return RelativeError(harness.Step({{0, ids}}), expected);
}

// Factors in groups of the given size, head_wise_ranks instead of palu_config.json.
void MakeOfficial(Checkpoint* checkpoint, const std::string& model_type, int group) {
  const int head_dim = checkpoint->config.at("head_dim").get<int>();
  const int groups = checkpoint->config.at("num_key_value_heads").get<int>() / group;
  checkpoint->config["model_type"] = model_type;
  for (int layer = 0; layer < checkpoint->config.at("num_hidden_layers").get<int>(); ++layer) {
    for (const bool key : {true, false}) {
      checkpoint->Factor(layer, key, group);
      checkpoint->config["head_wise_ranks"][Attention(layer) + (key ? "k_proj" : "v_proj")] =
          std::vector<int>(static_cast<size_t>(groups), group * head_dim);
    }
  }
}

TEST(PaluLayout, Llama31AndMistral) {
  Checkpoint llama = Checkpoint::Read(Zoo("llama31-gqa"));
  MakeOfficial(&llama, "palullama", 1);
  EXPECT_LE(ErrorOf(llama, "llama31-gqa"), 2e-3);
  Checkpoint mistral = Checkpoint::Read(Zoo("mistral-swa"));
  MakeOfficial(&mistral, "palumistral", 4);
  EXPECT_LE(ErrorOf(mistral, "mistral-swa"), 2e-3);
}

// The biases of keys and values, in either of the two places where they may be.
TEST(PaluLayout, Qwen2Biases) {
  Checkpoint checkpoint = Checkpoint::Read(Zoo("qwen2"));
  MakeOfficial(&checkpoint, "paluqwen2", 1);
  EXPECT_LE(ErrorOf(checkpoint, "qwen2"), 2e-3);

  for (int layer = 0; layer < 3; ++layer) {
    for (const std::string& name : {Attention(layer) + "k_proj", Attention(layer) + "v_proj"}) {
      const std::vector<float> bias = checkpoint.tensors.at(name + ".bias").Floats();
      for (int g = 0; g < 2; ++g) {
        checkpoint.tensors[name + ".U." + std::to_string(g) + ".bias"] = TensorData::Of(
            "F16", {32}, std::vector<float>(bias.begin() + 32 * g, bias.begin() + 32 * (g + 1)));
      }
      checkpoint.tensors.erase(name + ".bias");
    }
  }
  EXPECT_LE(ErrorOf(checkpoint, "qwen2"), 2e-3);

  const auto expect_error = [&](const std::vector<std::string>& parts) {
    try {
      ErrorOf(checkpoint, "qwen2");
      ADD_FAILURE();
    } catch (const LoadError& error) {
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
  };
  const std::string name = Attention(1) + "v_proj";
  checkpoint.tensors[name + ".bias"] = TensorData::Of("F32", {64}, std::vector<float>(64));
  expect_error({"found both", name + ".bias", name + ".U.0.bias"});
  checkpoint.tensors.erase(name + ".bias");
  checkpoint.tensors.erase(name + ".U.1.bias");
  expect_error({"tensor \"" + name + ".U.1.bias\"", "found nothing", "[32]"});
  checkpoint.tensors.erase(name + ".U.0.bias");
  expect_error({"tensor \"" + name + ".bias\"", "found nothing", "[64]"});
}

TEST(PaluLayout, MissingFactors) {
  Checkpoint checkpoint = Checkpoint::Read(Zoo("llama31-gqa"));
  MakeOfficial(&checkpoint, "palullama", 2);
  const std::string up = Attention(2) + "k_proj.U.0.weight";
  const TensorData kept = checkpoint.tensors.at(up);
  checkpoint.tensors.erase(up);
  try {
    ErrorOf(checkpoint, "llama31-gqa");
    ADD_FAILURE();
  } catch (const LoadError& error) {
    EXPECT_NE(std::string(error.what()).find("tensor \"" + up + "\": found nothing"),
              std::string::npos)
        << error.what();
  }
  checkpoint.tensors[up] = kept;
  checkpoint.config["head_wise_ranks"][Attention(0) + "v_proj"] = {60};
  try {
    ErrorOf(checkpoint, "llama31-gqa");
    ADD_FAILURE();
  } catch (const LoadError& error) {
    EXPECT_NE(std::string(error.what()).find("found shape [64, 128], expected [60, 128]"),
              std::string::npos)
        << error.what();
  }
}

// Phi-3: the fused tensor, its three parts, and parts of which two are factored.
TEST(PaluLayout, FusedProjectionsInParts) {
  Checkpoint checkpoint = Checkpoint::Read(Zoo("phi3"));
  checkpoint.config["head_dim"] = 32;
  for (int layer = 0; layer < 3; ++layer) {
    const std::vector<float> fused =
        checkpoint.tensors.at(Attention(layer) + "qkv_proj.weight").Floats();
    const auto rows = [&](int begin, int count) {
      return TensorData::Of("BF16", {count, 128},
                            {fused.begin() + begin * 128, fused.begin() + (begin + count) * 128});
    };
    checkpoint.tensors[Attention(layer) + "q_proj.weight"] = rows(0, 128);
    checkpoint.tensors[Attention(layer) + "k_proj.weight"] = rows(128, 64);
    checkpoint.tensors[Attention(layer) + "v_proj.weight"] = rows(192, 64);
    checkpoint.tensors.erase(Attention(layer) + "qkv_proj.weight");
  }
  EXPECT_LE(ErrorOf(checkpoint, "phi3"), 2e-3);
  for (int layer = 0; layer < 3; ++layer) {
    checkpoint.Factor(layer, true, 2);
    checkpoint.Factor(layer, false, 1);
  }
  checkpoint.SetPaluConfig({{"kind", "low_rank"}, {"group_size", 2}, {"ranks", {64}}},
                           {{"kind", "low_rank"}, {"group_size", 1}, {"ranks", {32, 32}}});
  EXPECT_LE(ErrorOf(checkpoint, "phi3"), 2e-3);
}

// Weights of the text model of a multimodal Gemma 3 lie one level deeper.
TEST(PaluLayout, NestedGemma) {
  Checkpoint checkpoint = Checkpoint::Read(Zoo("gemma3"));
  nlohmann::json text = checkpoint.config;
  text["model_type"] = "gemma3_text";
  checkpoint.config = {{"model_type", "gemma3"}, {"text_config", text}};
  for (const std::string& prefix :
       std::vector<std::string>{"language_model.model.", "model.language_model."}) {
    Checkpoint nested = checkpoint;
    nested.tensors.clear();
    for (const auto& [name, tensor] : checkpoint.tensors) {
      nested.tensors[prefix + name.substr(std::string("model.").size())] = tensor;
    }
    EXPECT_LE(ErrorOf(nested, "gemma3"), 2e-3) << prefix;
  }
}

}  // namespace
}  // namespace palu::testing
