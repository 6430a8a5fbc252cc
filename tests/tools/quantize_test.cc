// Checkpoints whose weights are codes: they are what rounding at load gives, bit for bit, and lies
// in them are told.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/model/host_floats.h"
#include "engine/model/model_runner.h"
#include "engine/model/packed_weights.h"
#include "engine/model/safetensors_writer.h"
#include "kernels/grouped_weight.h"
#include "tests/test_paths.h"
#include "tools/compress/compress.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

using Logits = std::vector<float>;

std::string Zoo(const std::string& name) {
  return testing::SourceDir() + "/tests/golden/zoo/" + name;
}
std::string Bundled() { return testing::SourceDir() + "/models/classics-14m"; }

std::unique_ptr<ModelRunner> Load(const std::string& directory, const std::string& weights,
                                  const std::string& kv = "auto") {
  ModelOptions model;
  model.path = directory;
  model.weights = weights;
  model.max_context_tokens = 64;
  EngineOptions engine;
  engine.device = "cpu";
  engine.max_sequences = 1;
  engine.step_tokens = 64;
  CacheOptions cache;
  cache.memory_bytes = 1 << 24;
  cache.format = kv;
  return ModelRunner::Load(model, engine, cache);
}

// Of every token of a prompt.
Logits LogitsOf(ModelRunner* runner) {
  StepBatch batch;
  SamplingParams greedy;
  greedy.temperature = 0;
  for (int i = 0; i < 40; ++i) {
    batch.token_ids.push_back((17 * i + 5) % runner->config().vocab_size);
    batch.positions.push_back(i);
    batch.slot_mapping.push_back(i);
    batch.rows.push_back({.token_index = i, .params = &greedy});
  }
  batch.cu_seqlens = {0, 40};
  batch.context_lens = {40};
  batch.max_blocks = 3;
  batch.block_tables = {0, 1, 2};
  Logits all;
  runner->ObserveLogits([&](int64_t, std::span<const float> rows) {
    all.insert(all.end(), rows.begin(), rows.end());
  });
  runner->Run(batch);
  return all;
}

Logits LogitsOf(const std::string& directory, const std::string& weights,
                const std::string& kv = "auto") {
  return LogitsOf(Load(directory, weights, kv).get());
}

std::string LoadErrorOf(const std::string& directory, const std::string& weights = "auto") {
  try {
    Load(directory, weights);
  } catch (const LoadError& error) {
    return error.what();
  }
  return "no error";
}

class QuantizeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("palu_quantize_test_" + std::to_string(getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  std::string Quantize(const std::string& model, WeightFormat format,
                       const std::string& name) const {
    CompressOptions options;
    options.model = model;
    options.out = Path(name);
    options.weights = format;
    options.weights_only = true;
    options.threads = 1;
    QuantizeWeights(options);
    return options.out;
  }

  // A copy of a checkpoint with some tensors changed; an empty shape removes one.
  using Tensors = std::map<std::string, std::pair<SafetensorsDeclaration, std::vector<std::byte>>>;
  std::string Changed(const std::string& source, const std::string& name,
                      const std::function<void(Tensors*)>& change) const {
    fs::copy(source, Path(name));
    Tensors tensors;
    {
      const auto files = Safetensors::OpenDirectory(source);
      for (const auto& [key, entry] : files.entries()) {
        tensors[key] = {{key, entry.dtype, entry.shape}, {entry.data.begin(), entry.data.end()}};
      }
    }
    change(&tensors);
    std::vector<SafetensorsDeclaration> declarations;
    for (const auto& [key, tensor] : tensors) declarations.push_back(tensor.first);
    SafetensorsWriter writer(Path(name) + "/model.safetensors", declarations);
    for (const auto& [key, tensor] : tensors) writer.Write(tensor.second);
    writer.Finish();
    return Path(name);
  }

  fs::path directory_;
};

class QuantizeFamilies : public QuantizeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(QuantizeFamilies, CodesAreWhatRoundingAtLoadGives) {
  const std::string source = Zoo(GetParam());
  const Logits stored = LogitsOf(source, "bf16");
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const std::string out = Quantize(source, format, Name(format));
    const Logits expected = LogitsOf(source, Name(format));
    EXPECT_NE(expected, stored);
    EXPECT_EQ(LogitsOf(out, "auto"), expected) << Name(format);
    EXPECT_EQ(LogitsOf(out, Name(format)), expected) << Name(format);
    // Nothing is left to be rounded at load.
    const auto files = Safetensors::OpenDirectory(out);
    for (const auto& [name, entry] : files.entries()) {
      EXPECT_FALSE(IsPackable(name, entry.shape)) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Zoo, QuantizeFamilies,
                         ::testing::Values("llama31-gqa", "qwen2", "phi3", "mixtral-moe",
                                           "qwen3-moe", "gemma3"),
                         [](const auto& family) {
                           std::string name = family.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The numbers of codes, read as docs/checkpoint-format.md says.
std::vector<float> Decode(const SafetensorsEntry& entry, bool int4, int64_t rows, int64_t depth) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(entry.data.data());
  const int64_t blocks = (rows + 15) / 16, code_bytes = blocks * 16 * depth / (int4 ? 2 : 1);
  const std::vector<float> scales =
      ToFloats(entry.data.subspan(static_cast<size_t>(code_bytes),
                                  static_cast<size_t>(blocks * 16 * (depth / 32) * 2)),
               DType::kF16);
  std::vector<float> numbers;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t block = r / 16, lane = r % 16;
    for (int64_t c = 0; c < depth; ++c) {
      int code = 0;
      if (int4) {
        const uint8_t byte = bytes[((block * (depth / 8) + c / 8) * 16 + lane) * 4 + c % 4];
        code = (c % 8 < 4 ? byte & 15 : byte >> 4) - 8;
      } else {
        code = bytes[((block * (depth / 4) + c / 4) * 16 + lane) * 4 + c % 4] - 128;
      }
      const float scale = scales[static_cast<size_t>((block * (depth / 32) + c / 32) * 16 + lane)];
      numbers.push_back(scale * static_cast<float>(code));
    }
  }
  return numbers;
}

TEST_F(QuantizeTest, LayoutIsTheDocumentedOne) {
  const auto source = Safetensors::OpenDirectory(Bundled());
  const std::string name = "model.layers.2.mlp.down_proj.weight";
  const SafetensorsEntry& entry = *source.Find(name);
  const std::vector<float> numbers = ToFloats(entry.data, DType::kBF16);
  for (const auto& [format, most] :
       {std::pair{WeightFormat::kInt8, 0.006}, std::pair{WeightFormat::kInt4, 0.095}}) {
    const auto files = Safetensors::OpenDirectory(Quantize(Bundled(), format, Name(format)));
    const SafetensorsEntry* codes = files.Find(PackedName(name, format));
    ASSERT_NE(codes, nullptr);
    const std::vector<float> decoded =
        Decode(*codes, format == WeightFormat::kInt4, entry.shape[0], entry.shape[1]);
    double error = 0, size = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      error += (decoded[i] - numbers[i]) * (decoded[i] - numbers[i]);
      size += numbers[i] * numbers[i];
    }
    EXPECT_LT(std::sqrt(error / size), most);
    EXPECT_GT(error, 0);
    // Read in place, and what stays in numbers is there as it was.
    EXPECT_EQ(reinterpret_cast<uintptr_t>(codes->data.data()) % 64, 0u);
    const auto* embedding = files.Find("model.embed_tokens.weight");
    ASSERT_NE(embedding, nullptr);
    EXPECT_TRUE(
        std::ranges::equal(embedding->data, source.Find("model.embed_tokens.weight")->data));
  }
}

// Both at once, one after the other, and the cache alone with rounding at load: the same model.
TEST_F(QuantizeTest, TogetherWithACompressedCache) {
  std::ifstream in(Bundled() + "/calibration.txt");
  std::string text(6000, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  std::ofstream(Path("text.txt")) << text;
  CompressOptions options;
  options.model = Bundled();
  options.calibration = {Path("text.txt")};
  options.recipe = "documents-128";
  options.calibration_tokens = 512;
  options.search_tokens = 128;
  options.input_damping = 1e-3;
  options.keep_key = options.keep_value = 0.5;
  options.statistics = Path("statistics.safetensors");
  options.quiet = true;
  options.threads = 1;
  for (const bool official : {false, true}) {
    const std::string suffix = official ? "-official" : "";
    options.export_official = official;
    options.key_format = options.value_format = official ? LatentFormat::kF16 : LatentFormat::kInt4;
    options.weights = WeightFormat::kStored;
    options.out = Path("cache" + suffix);
    Compress(options);
    options.weights = WeightFormat::kInt4;
    options.out = Path("both" + suffix);
    Compress(options);
    const std::string after =
        Quantize(Path("cache" + suffix), WeightFormat::kInt4, "after" + suffix);
    // The authors' layout leaves format and rotation to the server, which turns VT at load.
    const char* kv = official ? "int4" : "auto";
    const Logits expected = LogitsOf(Path("cache" + suffix), "int4", kv);
    EXPECT_EQ(LogitsOf(Path("both" + suffix), "auto", kv), expected) << suffix;
    EXPECT_EQ(LogitsOf(after, "auto", kv), expected) << suffix;
    const auto both = Safetensors::OpenDirectory(Path("both" + suffix));
    EXPECT_EQ(both.Find("model.layers.0.self_attn.k_proj.VT.int4") == nullptr, official);
  }
  options.out = Path("twice");
  options.export_official = false;
  options.model = Path("after");
  try {
    Compress(options);
    FAIL();
  } catch (const CompressError& error) {
    EXPECT_NE(std::string(error.what()).find("found weights of int4 codes, expected numbers"),
              std::string::npos)
        << error.what();
  }
}

// Resident bytes of this process's mappings of a file.
int64_t ResidentBytes(const std::string& path) {
  std::ifstream smaps("/proc/self/smaps");
  int64_t bytes = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.find('-') < line.find(' ')) inside = line.ends_with(path);
    long long kib = 0;
    if (inside && std::sscanf(line.c_str(), "Rss: %lld kB", &kib) == 1) bytes += kib << 10;
  }
  return bytes;
}

TEST_F(QuantizeTest, WhatWasReadForRoundingIsGivenBack) {
  const std::string file = fs::canonical(Bundled()).string() + "/model.safetensors";
  const auto size = static_cast<int64_t>(fs::file_size(file));
  {
    const auto stored = Load(fs::canonical(Bundled()).string(), "bf16");
    LogitsOf(stored.get());
    EXPECT_GT(ResidentBytes(file), size / 2) << "is this how to see it?";
  }
  const auto rounded = Load(fs::canonical(Bundled()).string(), "int4");
  EXPECT_LT(ResidentBytes(file), size / 10);
}

TEST_F(QuantizeTest, LiesAreTold) {
  const std::string good = Quantize(Zoo("llama31-gqa"), WeightFormat::kInt4, "good");
  const std::string name = "model.layers.1.mlp.up_proj.int4";
  const auto last_scale =
      static_cast<size_t>(GroupedWeightBytes(WeightFormat::kInt4, 320, 128)) - 2;
  const auto expect = [](const std::string& error, const std::vector<std::string>& parts) {
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    for (const std::string& part : parts) {
      EXPECT_NE(error.find(part), std::string::npos) << "\"" << part << "\" in: " << error;
    }
  };
  expect(LoadErrorOf(good, "int8"), {"model.weights: found int8, expected auto or int4"});
  expect(LoadErrorOf(good, "bf16"), {"model.weights: found bf16, expected auto or int4"});
  expect(LoadErrorOf(Changed(good, "short",
                             [&](Tensors* t) {
                               auto& [declaration, bytes] = t->at(name);
                               declaration.shape[0] -= 1;
                               bytes.resize(bytes.size() - 64);
                             })),
         {name, "found U8 [", "expected U8 [", "the int4 codes of a matrix of ["});
  expect(LoadErrorOf(Changed(good, "type", [&](Tensors* t) { t->at(name).first.dtype = "I8"; })),
         {name, "found I8 [", "expected U8 ["});
  expect(LoadErrorOf(Changed(good, "nan",
                             [&](Tensors* t) {
                               // The last scale's upper half.
                               t->at(name).second[last_scale + 1] = std::byte{0x7e};
                             })),
         {name, "found NaN as scale ", "expected finite numbers"});
  expect(LoadErrorOf(Changed(good, "other",
                             [&](Tensors* t) {
                               t->insert({"model.layers.1.mlp.up_proj.int8", t->at(name)});
                               t->at("model.layers.1.mlp.up_proj.int8").first.name =
                                   "model.layers.1.mlp.up_proj.int8";
                             })),
         {"up_proj.int8\": found int8 codes, expected int4"});
  expect(
      LoadErrorOf(Changed(good, "twice",
                          [&](Tensors* t) {
                            const std::string number = "model.layers.1.mlp.up_proj.weight";
                            t->insert({number, {{number, "BF16", {1}}, std::vector<std::byte>(2)}});
                          })),
      {name, "up_proj.weight\" too, expected one of them"});
  expect(LoadErrorOf(Changed(good, "gone", [&](Tensors* t) { t->erase(name); })),
         {"model.layers.1.mlp.up_proj.weight", "found nothing"});
  fs::copy(good, Path("cut"));
  fs::resize_file(Path("cut") + "/model.safetensors",
                  fs::file_size(good + "/model.safetensors") - 1000);
  expect(LoadErrorOf(Path("cut")), {"cut/model.safetensors", "is the file truncated?"});
}

TEST_F(QuantizeTest, NothingIsLeftOfAFailure) {
  const std::string bad = Changed(Zoo("llama31-gqa"), "bad", [](Tensors* t) {
    auto& bytes = t->at("model.layers.0.mlp.up_proj.weight").second;
    bytes[1] = std::byte{0x7f};
    bytes[0] = std::byte{0xff};
  });
  try {
    Quantize(bad, WeightFormat::kInt8, "out");
    FAIL();
  } catch (const CompressError& error) {
    EXPECT_STREQ(error.what(), "model.layers.0.mlp.up_proj.weight: not finite (NaN or infinity)");
  }
  EXPECT_FALSE(fs::exists(Path("out")));
  EXPECT_FALSE(fs::exists(Path("out.partial")));
}

}  // namespace
}  // namespace palu
