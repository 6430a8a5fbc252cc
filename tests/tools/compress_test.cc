// The whole tool on the bundled model, and what it writes through the serving path.
#include "tools/compress/compress.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/test_paths.h"
#include "tools/compress/checkpoint_model.h"
#include "tools/compress/checkpoint_writer.h"
#include "tools/compress/evaluator.h"
#include "tools/eval/perplexity.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

std::string Model() { return testing::SourceDir() + "/models/classics-14m"; }

class CompressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("palu_compress_test_" + std::to_string(getpid()));
    fs::create_directories(directory_);
    std::ifstream in(Model() + "/calibration.txt");
    std::string text(16000, '\0');
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(in.gcount()));
    WriteText("text.txt", text);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void WriteText(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text;
  }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  CompressOptions Options(const std::string& out) const {
    CompressOptions options;
    options.model = Model();
    options.out = Path(out);
    options.calibration = {Path("text.txt")};
    options.recipe = "documents-256";
    options.calibration_tokens = 2048;
    options.search_tokens = 512;
    options.statistics = Path("statistics.safetensors");
    options.quiet = true;
    options.threads = 1;
    return options;
  }

  double Perplexity(const std::string& model, const std::string& kv = "auto") const {
    EvalOptions options;
    options.model = model;
    options.text = {Path("text.txt")};
    options.recipe = "documents-256";
    options.max_windows = 4;
    options.kv = kv;
    options.threads = 1;
    options.chunk_tokens = 100;
    return Evaluate(options, nullptr).perplexity();
  }

  std::string ErrorOf(const CompressOptions& options) const {
    try {
      Compress(options);
    } catch (const std::exception& error) {
      EXPECT_FALSE(fs::exists(options.out));
      return error.what();
    }
    return "";
  }

  fs::path directory_;
};

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

TEST_F(CompressTest, SearchedCheckpointServesWhatWasMeasured) {
  CompressOptions options = Options("out");
  options.budget = 0.125;
  options.evaluations = 8;
  const CompressSummary summary = Compress(options);
  EXPECT_LE(summary.bytes, 0.125 * summary.uncompressed_bytes);
  EXPECT_GT(summary.bytes, 0.12 * summary.uncompressed_bytes);
  EXPECT_FALSE(fs::exists(Path("out.partial")));

  const nlohmann::json report = ReadJson(Path("out/report.json"));
  EXPECT_DOUBLE_EQ(report.at("bytes_per_token"), summary.bytes);
  EXPECT_EQ(report.at("layers").size(), 6u);
  EXPECT_TRUE(fs::exists(Path("out/report.md")));
  EXPECT_TRUE(fs::exists(Path("out/ranks.svg")));

  EvalOptions eval;
  eval.model = Path("out");
  eval.reference = Model();
  eval.text = {Path("text.txt")};
  eval.recipe = "documents-256";
  eval.max_windows = 4;
  eval.threads = 1;
  const EvalResult result = Evaluate(eval, nullptr);
  EXPECT_DOUBLE_EQ(result.bytes_per_token, summary.bytes);
  EXPECT_GT(result.kl, 0.0);
  EXPECT_LT(result.kl, 0.5);
  EXPECT_GT(result.top1, 0.7);
  const double plain = Perplexity(Model());
  EXPECT_GT(result.perplexity(), 0.98 * plain);
  EXPECT_LT(result.perplexity(), 1.25 * plain);
}

// What the search measures with its simulated cache is what the engine's paged cache gives, for
// every kind of storage: coded low rank, 16-bit and fp8 low rank, rotated, plain and fp8 dense.
TEST_F(CompressTest, SimulatedCacheAgreesWithThePagedOne) {
  CheckpointModel model(Model(), 256, int64_t{1} << 30);
  const auto tokenizer = LoadTokenizer(Model());
  TokenWindows windows =
      CutWindows(TokenizeFiles({Path("text.txt")}, *tokenizer, model.config(), true), 256, 256);
  windows.resize(4);
  const Statistics statistics = Calibrate(&model, windows, true, 1 << 28, nullptr);
  FactorStore::Options store_options;
  store_options.key_heads_per_group = 2;
  store_options.value_heads_per_group = 4;
  const FactorStore factors = FactorStore::Build(&model, statistics, store_options, nullptr);
  CompressionPlan plan(6);
  for (LayerSpec& layer : plan) {
    layer.key = MakeSpec({48, 64}, 2, 64, LatentFormat::kInt4);
    layer.value = MakeSpec({176}, 4, 64, LatentFormat::kInt3);
  }
  plan[1].key = MakeSpec({64, 64}, 2, 64, LatentFormat::kF16);
  plan[2].value = MakeSpec({256}, 4, 64, LatentFormat::kF16);
  plan[4].key = MakeSpec({48, 64}, 2, 64, LatentFormat::kFp8);
  plan[4].value.dense = true;
  plan[4].value.format = LatentFormat::kFp8;
  plan[4].value.heads_per_group = 1;
  plan[4].value.ranks = {64, 64, 64, 64};
  ASSERT_TRUE(plan[2].value.dense);
  plan[3].key.dense = plan[3].key.hadamard = true;
  plan[3].key.heads_per_group = 1;
  plan[3].key.ranks = {64, 64, 64, 64};
  fs::create_directories(Path("mixed"));
  WriteCheckpoint(Model(), model.files(), model.config(), factors, plan, {}, {}, Path("mixed"));
  PlanEvaluator evaluator(&model, &factors, &windows, 0);
  const double plain = evaluator.UncompressedLoss(), simulated = evaluator.Loss(plan).loss;
  EXPECT_NEAR(std::log(Perplexity(Model())), plain, 2e-3);
  EXPECT_GT(simulated, plain + 0.03);
  // Where there is VNNI the paged cache rebuilds keys on integers, the up factor rounded to bytes.
  EXPECT_NEAR(std::log(Perplexity(Path("mixed"))), simulated, 6e-3);
}

TEST_F(CompressTest, OfficialLayoutIsServedLikeOurs) {
  CompressOptions options = Options("ours");
  options.keep_key = options.keep_value = 0.5;
  options.rank_search = RankSearch::kUniform;
  options.weighting = Weighting::kPalu;
  Compress(options);
  options.out = Path("official");
  options.export_official = true;
  Compress(options);
  EXPECT_FALSE(fs::exists(Path("official/palu_config.json")));
  const nlohmann::json config = ReadJson(Path("official/config.json"));
  EXPECT_EQ(config.at("model_type"), "palullama");
  EXPECT_EQ(config.at("head_wise_ranks").at("model.layers.2.self_attn.v_proj"),
            nlohmann::json::array({128}));
  EXPECT_DOUBLE_EQ(Perplexity(Path("official")), Perplexity(Path("ours")));
}

TEST_F(CompressTest, SaysWhatIsWrong) {
  CompressOptions options = Options("bad");
  options.budget = 0.001;
  EXPECT_NE(ErrorOf(options).find("below the smallest possible cache"), std::string::npos);
  options = Options("bad");
  options.budget = 0.1;
  WriteText("short.txt", "Too short.");
  options.calibration = {Path("short.txt")};
  EXPECT_NE(ErrorOf(options).find("calibration text: found"), std::string::npos);
  options = Options("bad");
  options.budget = 0.1;
  options.key_heads_per_group = 3;
  EXPECT_NE(ErrorOf(options).find("divisor of 4 KV heads"), std::string::npos);
  options = Options("bad");
  options.calibration = {Path("absent.txt")};
  EXPECT_NE(ErrorOf(options).find("absent.txt"), std::string::npos);
  options = Options("text.txt");
  try {
    Compress(options);
    FAIL();
  } catch (const CompressError& error) {
    EXPECT_NE(std::string(error.what()).find("exists already"), std::string::npos);
  }
}

TEST(EvaluationLog, ResumesAndDropsATornLine) {
  const std::string path =
      (fs::temp_directory_path() / ("palu_log_" + std::to_string(getpid()))).string();
  CompressionPlan a(1), b(1);
  a[0].key.ranks = {16};
  b[0].key.ranks = {32};
  {
    EvaluationLog log(path, "x", false);
    log.Add(a, {1.25, 0.5});
  }
  std::ofstream(path, std::ios::app) << "2.5 0.1 " << PlanKey(b);
  EvaluationLog log(path, "x", true);
  ASSERT_TRUE(log.Find(a));
  EXPECT_EQ(log.Find(a)->loss, 1.25);
  EXPECT_EQ(log.Find(a)->kl, 0.5);
  EXPECT_FALSE(log.Find(b));
  EvaluationLog other(path, "y", true);
  EXPECT_FALSE(other.Find(a));
  fs::remove(path);
}

}  // namespace
}  // namespace palu
