#include "server/metrics_page.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>

namespace palu {
namespace {

// "name{labels}" to value, comments left out; each # TYPE line must come before its samples.
std::map<std::string, double> Parse(const std::string& text) {
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  std::string line, family;
  while (std::getline(lines, line)) {
    if (line.rfind("# TYPE ", 0) == 0) family = line.substr(7, line.find(' ', 7) - 7);
    if (line[0] == '#') continue;
    EXPECT_EQ(line.rfind(family, 0), 0u) << line << " is not of " << family;
    const size_t space = line.rfind(' ');
    const auto [at, inserted] =
        samples.emplace(line.substr(0, space), std::stod(line.substr(space + 1)));
    EXPECT_TRUE(inserted) << "twice: " << at->first;
  }
  return samples;
}

HistogramSnapshot Sample() { return {{1, 2}, {3, 4, 5}, 20.5, 12}; }

TEST(MetricsPage, ValuesAndLabels) {
  MetricsSnapshot engine;
  engine.requests_running = 3;
  engine.blocks_total = 10;
  engine.blocks_used = 4;
  engine.blocks_cached = 2;
  engine.finished_stop = 7;
  engine.time_to_first_token = Sample();
  engine.step_phase_seconds[2] = Sample();
  ModelInfo model;
  model.name = "m\"1";
  model.cache.block_bytes = 100;
  model.cache.capacity_bytes = 1000;
  model.cache.bytes_per_token = 5;
  model.cache.bytes_per_token_uncompressed = 20;
  LayerSpec layer;
  layer.key.ranks = {3, 4};
  layer.key.format = LatentFormat::kInt4;
  layer.value.ranks = {8};
  model.cache.layers = {layer};
  MetricsInput input;
  input.engine = &engine;
  input.model = &model;
  input.http[{"/health", "200"}] = 6;
  const std::string text = RenderMetrics(input);
  const auto samples = Parse(text);
  const std::string common = R"(model_name="m\"1",engine="0")";
  const auto value = [&](const std::string& name, const std::string& labels = "") {
    const std::string key = name + "{" + common + (labels.empty() ? "" : "," + labels) + "}";
    EXPECT_TRUE(samples.count(key)) << key;
    return samples.count(key) ? samples.at(key) : -1;
  };
  EXPECT_EQ(value("vllm:num_requests_running"), 3);
  EXPECT_EQ(value("vllm:kv_cache_usage_perc"), 0.4);
  EXPECT_EQ(value("vllm:request_success_total", R"(finished_reason="stop")"), 7);
  EXPECT_EQ(value("palu:kv_cache_bytes", R"(kind="used")"), 400);
  EXPECT_EQ(value("palu:kv_cache_bytes", R"(kind="cached")"), 200);
  EXPECT_EQ(value("palu:kv_cache_compression_ratio"), 4);
  EXPECT_EQ(value("palu:latent_rank", R"(layer="0",projection="k")"), 7);
  EXPECT_EQ(value("palu:latent_bits", R"(layer="0",projection="k")"), 4);
  EXPECT_EQ(value("palu:http_requests_total", R"(route="/health",code="200")"), 6);
  const std::string ttft = "vllm:time_to_first_token_seconds";
  EXPECT_EQ(value(ttft + "_bucket", R"(le="1")"), 3) << "cumulative";
  EXPECT_EQ(value(ttft + "_bucket", R"(le="2")"), 7);
  EXPECT_EQ(value(ttft + "_bucket", R"(le="+Inf")"), 12);
  EXPECT_EQ(value(ttft + "_count"), 12);
  EXPECT_EQ(value(ttft + "_sum"), 20.5);
  EXPECT_EQ(value("palu:step_phase_seconds_count", R"(phase="forward")"), 12);
}

TEST(MetricsPage, WhileTheModelLoads) {
  MetricsInput input;
  input.process_resident_bytes = 5;
  const auto samples = Parse(RenderMetrics(input));
  EXPECT_EQ(samples.at(R"(palu:process_resident_bytes{model_name="",engine="0"})"), 5);
}

}  // namespace
}  // namespace palu
