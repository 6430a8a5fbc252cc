// Killed, out of disk, fed with wrong files: nothing half-written, nothing lost.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "engine/model/safetensors.h"
#include "tests/test_paths.h"
#include "tools/compress/compress.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

class InterruptionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("palu_interruption_" + std::to_string(getpid()));
    fs::create_directories(directory_);
    std::ifstream in(Source() + "/calibration.txt");
    std::string text(6000, '\0');
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    std::ofstream(Path("text.txt")) << text;
  }
  void TearDown() override { fs::remove_all(directory_); }

  static std::string Source() { return testing::SourceDir() + "/models/classics-14m"; }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  CompressOptions Options(const std::string& out) const {
    CompressOptions options;
    options.model = Source();
    options.out = Path(out);
    options.calibration = {Path("text.txt")};
    options.recipe = "documents-128";
    options.calibration_tokens = 512;
    options.search_tokens = 128;
    options.input_damping = 1e-3;
    options.budget = 0.125;
    options.evaluations = 24;
    options.quiet = true;
    options.threads = 1;
    return options;
  }

  static int Lines(const std::string& path) {
    std::ifstream in(path);
    int lines = 0;
    for (std::string line; std::getline(in, line);) ++lines;
    return lines;
  }

  static nlohmann::json Json(const std::string& path) {
    std::ifstream in(path);
    return nlohmann::json::parse(in);
  }

  std::string ErrorOf(const CompressOptions& options) const {
    try {
      Compress(options);
    } catch (const std::exception& error) {
      EXPECT_FALSE(fs::exists(options.out));
      return error.what();
    }
    return "no error";
  }

  // A copy of the model with its config or weights changed.
  std::string BrokenModel(const std::string& name,
                          const std::function<void(const std::string&)>& spoil) const {
    fs::copy(Source(), Path(name));
    for (const auto& entry : fs::directory_iterator(Path(name))) {
      fs::permissions(entry.path(), fs::perms::owner_write, fs::perm_options::add);
    }
    spoil(Path(name));
    return Path(name);
  }

  fs::path directory_;
};

TEST_F(InterruptionTest, KilledAndResumedGivesTheSame) {
  const CompressSummary whole = Compress(Options("whole"));
  const CompressOptions options = Options("killed");
  const std::string log = options.out + ".partial/evaluations-kfac.txt";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Compress(options);
    _exit(0);
  }
  for (int i = 0; i < 6000 && Lines(log) < 8; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "it ended before it was killed";
  EXPECT_FALSE(fs::exists(options.out));
  const int kept = Lines(log);
  EXPECT_GE(kept, 8);

  CompressOptions resume = options;
  resume.resume = true;
  const CompressSummary resumed = Compress(resume);
  EXPECT_LT(resumed.evaluations, whole.evaluations);
  EXPECT_EQ(PlanKey(resumed.plan), PlanKey(whole.plan));
  EXPECT_EQ(resumed.loss.kl, whole.loss.kl);
  EXPECT_FALSE(fs::exists(options.out + ".partial"));
  const auto read = [](const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(read(Path("killed/model.safetensors")), read(Path("whole/model.safetensors")));
}

TEST_F(InterruptionTest, SmallestCacheWithinAnIncrease) {
  CompressOptions options = Options("within");
  options.budget = 0;
  options.max_ppl_increase = 0.05;
  options.evaluations = 28;
  const CompressSummary loose = Compress(options);
  EXPECT_LE(loose.loss.kl, std::log1p(0.05));
  EXPECT_LE(loose.loss.loss - loose.uncompressed_loss, std::log1p(0.05));
  options.out = Path("closer");
  options.max_ppl_increase = 0.01;
  const CompressSummary close = Compress(options);
  EXPECT_LE(close.loss.kl, std::log1p(0.01));
  EXPECT_GT(close.bytes, loose.bytes);
  EXPECT_LT(close.bytes, 0.5 * close.uncompressed_bytes);
}

TEST_F(InterruptionTest, FullDiskLeavesNothingHalfWritten) {
  struct rlimit before {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  // Too little for statistics; enough for those, not for the checkpoint.
  for (const rlim_t bytes : {rlim_t{1} << 20, rlim_t{20} << 20}) {
    CompressOptions options = Options("full");
    options.evaluations = 0;
    struct rlimit limit = before;
    limit.rlim_cur = bytes;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const std::string error = ErrorOf(options);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_NE(error.find("full.partial/"), std::string::npos) << error;
    EXPECT_NE(error.find("writ"), std::string::npos) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  signal(SIGXFSZ, handler);
  // With room again, the same command goes on.
  CompressOptions options = Options("full");
  options.evaluations = 0;
  options.resume = true;
  Compress(options);
  EXPECT_TRUE(fs::exists(options.out + "/model.safetensors"));
}

TEST_F(InterruptionTest, WeightsThatAreNotFiniteAreNamed) {
  CompressOptions options = Options("bad");
  options.model = BrokenModel("nan", [](const std::string& directory) {
    const std::string path = directory + "/model.safetensors";
    size_t offset = 0;
    {
      const auto files = Safetensors::OpenFile(path);
      const auto& data = files.Find("model.layers.3.self_attn.k_proj.weight")->data;
      const auto& first = files.entries().begin()->second.data;
      size_t least = SIZE_MAX;
      const std::byte* base = first.data();
      for (const auto& [name, entry] : files.entries()) base = std::min(base, entry.data.data());
      uint64_t header = 0;
      std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&header), 8);
      least = 8 + header;
      offset = least + static_cast<size_t>(data.data() - base) + 2 * 1000;
    }
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write("\xff\x7f", 2);  // NaN in bf16
  });
  const std::string error = ErrorOf(options);
  EXPECT_NE(error.find("model.layers.3.self_attn.k_proj.weight: not finite"), std::string::npos)
      << error;
}

TEST_F(InterruptionTest, UnknownArchitecturesAndCompressedModelsAreRefused) {
  CompressOptions options = Options("bad");
  options.model = BrokenModel("gpt", [](const std::string& directory) {
    nlohmann::json config = Json(directory + "/config.json");
    config["model_type"] = "gpt2";
    std::ofstream(directory + "/config.json") << config;
  });
  EXPECT_NE(ErrorOf(options).find("gpt2"), std::string::npos);
  std::ofstream(Path("gpt") + "/palu_config.json") << "{}";
  EXPECT_NE(ErrorOf(options).find("compressed already"), std::string::npos);
  options.model = Path("absent");
  EXPECT_NE(ErrorOf(options).find("not a checkpoint directory"), std::string::npos);
}

TEST_F(InterruptionTest, TooFewTokensAndSingularStatisticsAreSaid) {
  CompressOptions options = Options("bad");
  options.calibration_tokens = 128;
  EXPECT_NE(ErrorOf(options).find("expected at least the hidden size 384"), std::string::npos);
  options = Options("bad");
  options.input_damping = 0;
  // One sentence over and over: fewer directions than the hidden size.
  std::string text;
  while (text.size() < 8000) text += "The same words. ";
  std::ofstream(Path("text.txt")) << text;
  EXPECT_NE(ErrorOf(options).find("input covariance: singular"), std::string::npos);
}

}  // namespace
}  // namespace palu
