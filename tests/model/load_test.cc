// ModelRunner::Load: variants of a checkpoint that must give the same model, and everything that
// must be refused in one line naming what is wrong.
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/model/safetensors.h"
#include "engine/status.h"
#include "tests/model/checkpoint_maker.h"
#include "tests/model/model_harness.h"
#include "tests/test_paths.h"

namespace palu::testing {
namespace {

std::string Zoo(const std::string& name) { return SourceDir() + "/tests/golden/zoo/" + name; }

const std::vector<int32_t> kPrompt = {1, 5, 9, 100, 200, 300, 17, 33, 2, 499};

std::vector<std::vector<float>> LogitsOf(const Checkpoint& checkpoint, int shards = 1) {
  TempDir directory;
  checkpoint.Write(directory.path(), shards);
  return ModelHarness(directory.path()).Step({{0, kPrompt}});
}

TEST(Load, ShardsAndTypesGiveTheSameModel) {
  for (const char* name : {"llama31-gqa", "phi3", "mixtral-moe"}) {
    SCOPED_TRACE(name);
    const auto expected = ModelHarness(Zoo(name)).Step({{0, kPrompt}});
    Checkpoint checkpoint = Checkpoint::Read(Zoo(name));
    EXPECT_EQ(LogitsOf(checkpoint, 3), expected);
    checkpoint.Convert("F32");
    EXPECT_LE(RelativeError(LogitsOf(checkpoint), expected), 1e-4);
    // bf16 numbers of this size are f16 numbers too, but for the subnormal ones.
    checkpoint.Convert("F16");
    EXPECT_LE(RelativeError(LogitsOf(checkpoint), expected), 1e-3);
  }
}

// The data section may start at an odd byte.
TEST(Load, UnalignedTensors) {
  TempDir directory;
  std::filesystem::copy(Zoo("qwen3"), directory.path());
  const std::string path = directory.File("model.safetensors");
  std::string file = ReadText(path);
  file.insert(8, " ");
  ++file[0];
  ASSERT_NE(file[0], '\0');
  WriteText(path, file);
  EXPECT_EQ(ModelHarness(directory.path()).Step({{0, kPrompt}}),
            ModelHarness(Zoo("qwen3")).Step({{0, kPrompt}}));
}

// Loads with small options; returns the message.
std::string ErrorOf(const std::string& directory, int max_context = 64,
                    int64_t cache_bytes = 1 << 24, const std::string& format = "auto") {
  ModelOptions model;
  model.path = directory;
  model.max_context_tokens = max_context;
  EngineOptions engine;
  engine.device = "cpu";
  engine.max_sequences = 2;
  CacheOptions cache;
  cache.memory_bytes = cache_bytes;
  cache.format = format;
  try {
    ModelRunner::Load(model, engine, cache);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

void ExpectError(const std::string& error, const std::vector<std::string>& parts) {
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  for (const std::string& part : parts) {
    EXPECT_NE(error.find(part), std::string::npos) << "\"" << part << "\" in: " << error;
  }
}

class BrokenCheckpoint : public ::testing::Test {
 protected:
  std::string Error() {
    TempDir directory;
    checkpoint_.Write(directory.path());
    return ErrorOf(directory.path());
  }
  Checkpoint checkpoint_ = Checkpoint::Read(Zoo("llama31-gqa"));
};

TEST_F(BrokenCheckpoint, MissingTensors) {
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.2.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.post_attention_layernorm.weight"}) {
    const TensorData kept = checkpoint_.tensors.at(name);
    checkpoint_.tensors.erase(name);
    ExpectError(Error(), {"model.safetensors", "tensor \"" + std::string(name) + "\"",
                          "found nothing", "expected " + ShapeString(kept.shape)});
    checkpoint_.tensors[name] = kept;
  }
}

TEST_F(BrokenCheckpoint, WrongShapeAndType) {
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const TensorData kept = checkpoint_.tensors.at(name);
  checkpoint_.tensors[name].shape = {128, 256};
  checkpoint_.config["hidden_size"] = 128;
  ExpectError(Error(),
              {"tensor \"" + name + "\"", "found shape [128, 256]", "expected [256, 128]"});
  checkpoint_.tensors[name] = kept;
  checkpoint_.tensors[name].dtype = "I16";
  ExpectError(Error(), {name, "found dtype I16", "F32, BF16 or F16"});
  checkpoint_.tensors[name] = kept;
  checkpoint_.config["vocab_size"] = 511;
  ExpectError(Error(), {"embed_tokens", "found shape [512, 128]", "expected [511, 128]"});
}

TEST_F(BrokenCheckpoint, BiasesThatTheConfigAsksFor) {
  checkpoint_.config["attention_bias"] = true;
  ExpectError(Error(), {"model.layers.0.self_attn.q_proj.bias", "found nothing"});
}

TEST(Load, TruncatedFile) {
  TempDir directory;
  std::filesystem::copy(Zoo("qwen2"), directory.path());
  const std::string path = directory.File("model.safetensors");
  const std::string file = ReadText(path);
  for (const size_t size : {size_t{0}, size_t{5}, size_t{100}, file.size() / 2, file.size() - 1}) {
    WriteText(path, file.substr(0, size));
    ExpectError(ErrorOf(directory.path()), {"model.safetensors", "found", "expected"});
  }
  std::filesystem::remove(path);
  ExpectError(ErrorOf(directory.path()), {"neither model.safetensors nor"});
}

TEST(Load, Limits) {
  ExpectError(ErrorOf(Zoo("qwen2"), 1025),
              {"model.max_context_tokens", "found 1025", "1 to 1024", "config.json"});
  ExpectError(ErrorOf(Zoo("qwen2"), -1), {"model.max_context_tokens", "found -1"});
  ExpectError(ErrorOf(Zoo("qwen2"), 64, 1 << 24, "fp9"),
              {"cache.format", "found \"fp9\"", "fp8", "int4"});
  EXPECT_EQ(ErrorOf(Zoo("qwen2")), "no error");
}

// 3 layers × (K, V) × 2 heads × 32 numbers × 2 bytes × 16 tokens = 12288 bytes a block; 100 tokens
// need 7 of them.
TEST(Load, CacheSmallerThanOneRequest) {
  ExpectError(ErrorOf(Zoo("qwen2"), 100, 12288 * 7 - 1),
              {"cache.memory", "found 86015 bytes = 6 blocks of 16 tokens (12288 bytes each)",
               "expected at least 86016 bytes = 7 blocks", "max_context_tokens = 100"});
  EXPECT_EQ(ErrorOf(Zoo("qwen2"), 100, 12288 * 7), "no error");
  ExpectError(ErrorOf(Zoo("qwen2"), 100, 1), {"= 0 blocks"});
}

TEST(Load, CacheFromAFractionOfFreeMemory) {
  ModelOptions model;
  model.path = Zoo("qwen2");
  EngineOptions engine;
  engine.device = "cpu";
  CacheOptions cache;
  cache.memory_fraction = 1e-9;
  try {
    ModelRunner::Load(model, engine, cache);
    ADD_FAILURE();
  } catch (const LoadError& error) {
    ExpectError(error.what(), {"cache.memory_fraction", "free bytes", "64 blocks"});
  }
  cache.memory_fraction = 1e-3;
  const auto runner = ModelRunner::Load(model, engine, cache);
  const CacheReport& report = runner->cache_report();
  EXPECT_GE(report.num_blocks, 64);
  EXPECT_EQ(report.capacity_tokens, int64_t{report.num_blocks} * 16);
  EXPECT_DOUBLE_EQ(report.full_length_requests, report.num_blocks / 64.0);
}

TEST(Load, HostTierThatCannotBeHad) {
  ModelOptions model;
  model.path = Zoo("qwen2");
  EngineOptions engine;
  engine.device = "cpu";
  CacheOptions cache;
  cache.memory_bytes = 1 << 24;
  cache.host_memory = 12288 * 100 + 5;
  const auto runner = ModelRunner::Load(model, engine, cache);
  EXPECT_EQ(runner->cache_report().host_blocks, 100);
  EXPECT_EQ(runner->cache_report().host_bytes, 12288 * 100);
  EXPECT_GT(runner->limits().block_copy_seconds, 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  cache.host_memory = int64_t{1} << 44;
  try {
    ModelRunner::Load(model, engine, cache);
    ADD_FAILURE();
  } catch (const LoadError& error) {
    ExpectError(error.what(), {"not enough memory", "cache.host_memory = 17592186044416"});
  }
#endif
}

TEST(Load, DeviceErrors) {
  ModelOptions model;
  model.path = Zoo("qwen2");
  EngineOptions engine;
  engine.device = "tpu";
  try {
    ModelRunner::Load(model, engine, {});
    ADD_FAILURE();
  } catch (const std::runtime_error& error) {
    ExpectError(error.what(), {"tpu"});
  }
}

}  // namespace
}  // namespace palu::testing
