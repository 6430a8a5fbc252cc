// Sources of settings, their order, and the one line that every mistake gets.
#include "config/server_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>

#include "config/config_table.h"
#include "tests/test_paths.h"

namespace palu {
namespace {

using std::chrono::milliseconds;

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Writes a file that lives as long as the object.
class TempFile {
 public:
  explicit TempFile(const std::string& text)
      : path_(::testing::TempDir() + "palu_config_" + std::to_string(getpid()) + ".yaml") {
    std::ofstream(path_) << text;
  }
  ~TempFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string YamlError(const std::string& text) {
  ServerConfig config;
  try {
    ApplyYaml(text, "f.yaml", &config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string CommandLineError(const std::vector<std::string>& args,
                             const std::vector<std::string>& environment = {}) {
  try {
    ParseCommandLine(args, environment);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ServerConfigTest, YamlSetsKeysOfEveryType) {
  ServerConfig config;
  ApplyYaml(
      "http: {port: 9000, max_body_bytes: 2MiB, body_timeout: 1500ms,\n"
      "       cors_origins: [\"https://a.example\", \"https://b.example\"]}\n"
      "grpc:\n  enabled: no\n"
      "engine:\n  device: cuda:1\n"
      "cache:\n  memory: 1.5GiB\n  format: int4\n"
      "model:\n  path: /models/x\n"
      "log:\n",
      "f.yaml", &config);
  EXPECT_EQ(config.http.port, 9000);
  EXPECT_EQ(config.http.max_body_bytes, 2 << 20);
  EXPECT_EQ(config.http.body_timeout, milliseconds(1500));
  EXPECT_EQ(config.http.cors_origins,
            (std::vector<std::string>{"https://a.example", "https://b.example"}));
  EXPECT_FALSE(config.grpc.enabled);
  EXPECT_EQ(config.engine.device, "cuda:1");
  EXPECT_EQ(config.cache.memory_bytes, int64_t{3} << 29);
  EXPECT_EQ(config.cache.format, "int4");
  EXPECT_EQ(config.model.path, "/models/x");
  EXPECT_EQ(config.log.level, "info");
}

TEST(ServerConfigTest, FlagsWinOverEnvironmentWinsOverFile) {
  const TempFile file("http:\n  port: 1\n  threads: 11\n  text_threads: 21\n");
  const CommandLine line = ParseCommandLine({"--config", file.path(), "--http.port=3"},
                                            {"PALU_HTTP_PORT=2", "PALU_HTTP_THREADS=12"});
  EXPECT_EQ(line.config.http.port, 3);
  EXPECT_EQ(line.config.http.threads, 12);
  EXPECT_EQ(line.config.http.text_threads, 21);
  EXPECT_EQ(line.config.grpc.port, 8001);
  EXPECT_EQ(line.action, StartAction::kServe);
}

TEST(ServerConfigTest, FileFromTheEnvironmentUnlessAFlagNamesOne) {
  const TempFile file("http:\n  port: 7\n");
  EXPECT_EQ(ParseCommandLine({}, {"PALU_CONFIG=" + file.path()}).config.http.port, 7);
  EXPECT_EQ(ParseCommandLine({"--config=" + file.path()}, {"PALU_CONFIG=/none"}).config.http.port,
            7);
}

TEST(ServerConfigTest, ShortFlagsAndBothFlagForms) {
  const CommandLine line = ParseCommandLine(
      {"--model", "/m", "--port=80", "--log.format", "json", "--grpc.enabled"}, {});
  EXPECT_EQ(line.config.model.path, "/m");
  EXPECT_EQ(line.config.http.port, 80);
  EXPECT_EQ(line.config.log.format, "json");
  EXPECT_TRUE(line.config.grpc.enabled);
  EXPECT_FALSE(ParseCommandLine({"--grpc.enabled=false"}, {}).config.grpc.enabled);
}

TEST(ServerConfigTest, Actions) {
  EXPECT_EQ(ParseCommandLine({"--check-config"}, {}).action, StartAction::kCheckConfig);
  EXPECT_EQ(ParseCommandLine({"--print-config"}, {}).action, StartAction::kPrintConfig);
  EXPECT_EQ(ParseCommandLine({"--version"}, {}).action, StartAction::kVersion);
  // Help must work however broken the settings are.
  EXPECT_EQ(ParseCommandLine({"--help"}, {"PALU_HTTP_PORT=x"}).action, StartAction::kHelp);
}

TEST(ServerConfigTest, CacheMemoryIsBytesOrAFraction) {
  const auto parse = [](const std::string& value) {
    return ParseCommandLine({"--cache.memory=" + value}, {}).config.cache;
  };
  EXPECT_EQ(parse("2GiB").memory_bytes, int64_t{2} << 30);
  EXPECT_EQ(parse("65536").memory_bytes, 65536);
  EXPECT_EQ(parse("0.25").memory_bytes, 0);
  EXPECT_DOUBLE_EQ(parse("0.25").memory_fraction, 0.25);
  EXPECT_DOUBLE_EQ(parse("30%").memory_fraction, 0.3);
  // A later source that gives a fraction takes back the bytes of an earlier one.
  const CommandLine line = ParseCommandLine({"--cache.memory=0.5"}, {"PALU_CACHE_MEMORY=1GiB"});
  EXPECT_EQ(line.config.cache.memory_bytes, 0);
  EXPECT_DOUBLE_EQ(line.config.cache.memory_fraction, 0.5);
  for (const char* bad : {"0", "1", "0.0", "1.5", "150%", "-1GiB", "2 gigs", "", "%", "1e30"}) {
    EXPECT_NE(CommandLineError({std::string("--cache.memory=") + bad}), "no error") << bad;
  }
}

TEST(ServerConfigErrorTest, YamlMistakesNameLineKeyValueAndExpectation) {
  EXPECT_EQ(YamlError("http:\n  port: 80000\n"),
            "f.yaml:2: http.port: found \"80000\", expected an integer from 0 to 65535");
  EXPECT_EQ(YamlError("http:\n  prot: 1\n"),
            "f.yaml:2: unknown key http.prot; did you mean http.port?");
  EXPECT_EQ(YamlError("\nhtttp:\n  port: 1\n"),
            "f.yaml:2: unknown section htttp; did you mean http?");
  EXPECT_EQ(YamlError("log:\n  format: xml\n"),
            "f.yaml:2: log.format: found \"xml\", expected one of text, json");
  EXPECT_EQ(YamlError("http:\n  port:\n    - 1\n"),
            "f.yaml:2: http.port: found a list, expected an integer from 0 to 65535");
  EXPECT_EQ(YamlError("http:\n  port:\n"),
            "f.yaml:2: http.port: found nothing, expected an integer from 0 to 65535");
  EXPECT_EQ(YamlError("http:\n  port: 1\n  port: 2\n"), "f.yaml:3: http.port is set twice");
  EXPECT_EQ(YamlError("http: 3\n"), "f.yaml:1: http: found a value, expected a map of keys");
}

TEST(ServerConfigErrorTest, BrokenYamlIsOneErrorNotACrash) {
  for (const std::string text : {
           "http: [",
           "\t: x",
           "- a\n- b\n",
           "just text",
           "{a: b",
           "http: &a {port: *a}",
           "*x",
           "? [a, b]\n: c\n",
           "a: b\n---\nc: d\n",
           "http: !!binary x",
           "%YAML 9.9\n---\n",
       }) {
    const std::string error = YamlError(text);
    EXPECT_EQ(error.rfind("f.yaml", 0), 0u) << text << " -> " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }
  EXPECT_EQ(YamlError("# one\n%YAML 1.2\n---\nhttp:\n  port: 1\n---\nlog:\n"),
            "f.yaml:6: found a second document, expected one");
  EXPECT_NE(YamlError(std::string(100000, '[')), "no error");
}

TEST(ServerConfigErrorTest, EnvironmentAndFlags) {
  EXPECT_EQ(CommandLineError({}, {"PALU_HTTP_PORT=tcp://10.0.0.1:80"}),
            "environment PALU_HTTP_PORT: http.port: found \"tcp://10.0.0.1:80\", expected an "
            "integer from 0 to 65535");
  EXPECT_EQ(CommandLineError({"--http.port=-1"}),
            "flag --http.port: http.port: found \"-1\", expected an integer from 0 to 65535");
  EXPECT_EQ(CommandLineError({"--http.prt=1"}),
            "flag --http.prt: unknown; did you mean http.port?");
  EXPECT_EQ(CommandLineError({"--http.port"}),
            "flag --http.port: found no value, expected an integer from 0 to 65535");
  EXPECT_EQ(CommandLineError({"model"}),
            "argument \"model\": expected flags only, such as --http.port=8000; see --help");
  EXPECT_EQ(CommandLineError({"--config=/nonexistent.yaml"}),
            "/nonexistent.yaml: cannot be read: No such file or directory");
  EXPECT_NE(CommandLineError({"--config=/"}), "no error");
}

TEST(ServerConfigErrorTest, UnknownVariablesAreWarnings) {
  const CommandLine line =
      ParseCommandLine({}, {"PALU_SERVER_SERVICE_HOST=10.0.0.1", "PALU_HTTP_PROT=1", "HOME=/root"});
  ASSERT_EQ(line.warnings.size(), 2u);
  EXPECT_EQ(line.warnings[0], "environment PALU_SERVER_SERVICE_HOST: no such key, ignored");
  EXPECT_EQ(line.warnings[1],
            "environment PALU_HTTP_PROT: no such key, ignored; did you mean PALU_HTTP_PORT?");
}

TEST(ServerConfigErrorTest, Combinations) {
  EXPECT_EQ(CommandLineError({"--http.port=8001"}),
            "grpc.port: found 8001, which is http.port too, expected another port");
  EXPECT_EQ(CommandLineError({"--http.port=8001", "--grpc.enabled=false"}), "no error");
  EXPECT_EQ(CommandLineError({"--engine.step_tokens=8"}),
            "engine.step_tokens: found 8, expected at least engine.max_sequences, which is 64");
  EXPECT_THROW(CheckServable(ServerConfig{}), ConfigError);
}

TEST(ConfigTableTest, EveryDefaultSurvivesPrintingAndReading) {
  ServerConfig config;
  config.http.port = 1;
  config.http.cors_origins = {};
  config.model.path = "quote \" backslash \\ tab \t \x01 ä: #no comment";
  config.cache.memory_bytes = 12345;
  config.shutdown.drain_timeout = milliseconds(1);
  ServerConfig read;
  ApplyYaml(ToYaml(config), "printed", &read);
  EXPECT_EQ(ToYaml(read), ToYaml(config));
  EXPECT_EQ(read.model.path, config.model.path);
  EXPECT_EQ(read.cache.memory_bytes, 12345);
  EXPECT_TRUE(read.http.cors_origins.empty());
  config.cache.memory_bytes = 0;
  config.cache.memory_fraction = 1;
  ApplyYaml(ToYaml(config), "printed", &read);
  EXPECT_EQ(read.cache.memory_bytes, 0);
  EXPECT_EQ(read.cache.memory_fraction, 1);
}

TEST(ConfigTableTest, EveryMemberOfTheStructsIsAKey) {
  std::string names;
  for (const ConfigKey& key : ConfigTable()) names += " " + key.leaf() + " ";
  const std::regex member(R"(^  [\w:<>]+ (\w+)( = [^;]*|\{[^;]*\})?;)");
  int members = 0;
  for (const char* file : {"/config/server_config.h", "/config/engine_config.h"}) {
    std::istringstream lines(ReadAll(testing::SourceDir() + file));
    for (std::string line; std::getline(lines, line);) {
      std::smatch match;
      if (!std::regex_search(line, match, member)) continue;
      const std::string name = match[1];
      if (name.rfind("memory_", 0) == 0) continue;
      // Sections, what only programs set and the result of ParseCommandLine are not values.
      if (line.find("Config ") != std::string::npos || line.find("Options ") != std::string::npos ||
          name == "group_layers" || name == "action" || name == "warnings") {
        continue;
      }
      ++members;
      EXPECT_NE(names.find(" " + name + " "), std::string::npos) << file << " " << name;
    }
  }
  EXPECT_EQ(members + 1, static_cast<int>(ConfigTable().size()));
}

// PALU_UPDATE_DOCS=1 rewrites the file instead.
void ExpectFile(const std::string& relative, const std::string& text) {
  const std::string path = testing::SourceDir() + "/" + relative;
  if (std::getenv("PALU_UPDATE_DOCS") != nullptr) std::ofstream(path) << text;
  EXPECT_EQ(ReadAll(path), text) << relative << " is behind config/config_table.cc; run this test "
                                 << "with PALU_UPDATE_DOCS=1";
}

TEST(ConfigDocsTest, DefaultFileAndReferenceMatchTheTable) {
  ExpectFile("config/palu_server.yaml", ToYaml(ServerConfig{}));
  ExpectFile("docs/configuration.md", ConfigReferenceMarkdown());
}

TEST(ConfigDocsTest, DefaultFileIsTheDefaults) {
  ServerConfig config;
  // From values that are not the defaults, so that a key that the file leaves out shows.
  for (const ConfigKey& key : ConfigTable()) {
    for (const char* other : {"3", "json", "f32", "none", "portable", "off", "cpu", "false"}) {
      if (key.set(other, &config)) break;
    }
  }
  const std::string path = testing::SourceDir() + "/config/palu_server.yaml";
  ApplyYaml(ReadAll(path), path, &config);
  EXPECT_EQ(ToYaml(config), ToYaml(ServerConfig{}));
}

TEST(ConfigDocsTest, HelpNamesEveryFlag) {
  for (const ConfigKey& key : ConfigTable()) {
    EXPECT_NE(HelpText().find("--" + key.name + "="), std::string::npos) << key.name;
    EXPECT_FALSE(key.help.empty()) << key.name;
  }
}

}  // namespace
}  // namespace palu
