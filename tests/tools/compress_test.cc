// The whole tool on the bundled model, and what it writes through the serving path.
#include "tools/compress/compress.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/test_paths.h"
#include "tools/compress/evaluation_log.h"
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

// The simulated cache of the search and the engine's paged cache are the same arithmetic: the mean
// over all windows of the text, measured both ways.
TEST_F(CompressTest, SimulatedCacheAgreesWithThePagedOne) {
  CompressOptions options = Options("out4");
  options.keep_key = 0.25;
  options.keep_value = 0.5;
  options.key_bits = 4;
  options.value_bits = 3;
  options.key_heads_per_group = 2;
  options.rank_search = RankSearch::kFisher;
  // All windows but the calibration's own are search windows: measure those alone.
  const CompressSummary summary = Compress(options);
  const nlohmann::json config = ReadJson(Path("out4/palu_config.json"));
  EXPECT_EQ(config.at("layers")[0].at("k").at("group_size"), 2);
  EXPECT_EQ(config.at("layers")[0].at("k").at("format"), "int4");
  EXPECT_EQ(config.at("layers")[0].at("v").at("format"), "int3");
  EXPECT_EQ(config.at("layers")[0].at("v").at("rotation"), "folded");
  const double plain = Perplexity(Model()), compressed = Perplexity(Path("out4"));
  const double engine = std::log(compressed / plain);
  const double simulated = summary.loss - summary.uncompressed_loss;
  EXPECT_NEAR(engine, simulated, 0.35 * simulated);
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
  options.model = testing::SourceDir() + "/tests/golden/zoo/mixtral-moe";
  EXPECT_NE(ErrorOf(options).find("mixture-of-experts"), std::string::npos);
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
    log.Add(a, 1.25);
  }
  std::ofstream(path, std::ios::app) << "2.5 " << PlanKey(b);
  EvaluationLog log(path, "x", true);
  EXPECT_EQ(log.Find(a), 1.25);
  EXPECT_FALSE(log.Find(b));
  EvaluationLog other(path, "y", true);
  EXPECT_FALSE(other.Find(a));
  fs::remove(path);
}

}  // namespace
}  // namespace palu
