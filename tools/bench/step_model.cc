#include "tools/bench/step_model.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/model/json_file.h"

namespace palu::bench {
namespace {

constexpr int kQueriesPerRead = 64;  // as AttendedTokens
constexpr int kMost = 1 << 30;

// Queries [computed, computed + scheduled), each with itself and what is before it.
double Pairs(int window, double computed, double scheduled) {
  const double all = scheduled * computed + scheduled * (scheduled + 1) / 2;
  return window > 0 ? std::min(all, scheduled * window) : all;
}

double At(const std::vector<CostPoint>& curve, int count) {
  if (curve.empty() || count <= 0) return 0;
  if (curve.size() == 1) return curve[0].seconds;
  size_t right = 1;
  while (right + 1 < curve.size() && curve[right].count < count) ++right;
  const CostPoint &a = curve[right - 1], &b = curve[right];
  const double share = static_cast<double>(count - a.count) / (b.count - a.count);
  return std::max(0.0, a.seconds + share * (b.seconds - a.seconds));
}

nlohmann::json CurveJson(const std::vector<CostPoint>& curve) {
  nlohmann::json out = nlohmann::json::array();
  for (const CostPoint& point : curve) {
    out.push_back({{"count", point.count}, {"us", 1e6 * point.seconds}});
  }
  return out;
}

std::vector<CostPoint> ReadCurve(const JsonObject& object, const std::string& key) {
  std::vector<CostPoint> curve;
  for (const Json& entry : object.Array(key)) {
    const JsonObject point(entry, object.file(), object.Path(key));
    const int least = curve.empty() ? 0 : curve.back().count + 1;
    curve.push_back(
        {static_cast<int>(point.Int("count", least, kMost)), 1e-6 * point.Number("us", 0, 1e12)});
  }
  if (curve.empty()) object.Fail(key, "at least one count with its time");
  return curve;
}

std::vector<LayerShare> ReadLayers(const JsonObject& object) {
  std::vector<LayerShare> layers;
  for (const Json& entry : object.Array("layers")) {
    const JsonObject layer(entry, object.file(), object.Path("layers"));
    layers.push_back(
        {static_cast<int>(layer.Int("window", 0, kMost)), layer.Number("share", 0, 1)});
  }
  return layers;
}

}  // namespace

std::vector<LayerShare> ShareLayers(const ModelConfig& config) {
  std::map<int, int> layers;
  for (const LayerConfig& layer : config.layers) ++layers[layer.window];
  std::vector<LayerShare> shares;
  for (const auto& [window, count] : layers) {
    shares.push_back({window, static_cast<double>(count) / config.num_layers});
  }
  return shares;
}

void StepWork::Add(const std::vector<LayerShare>& layers, int computed, int scheduled, bool draw) {
  tokens += scheduled;
  ++sequences;
  if (draw) ++draws;
  const double reads = (scheduled + kQueriesPerRead - 1) / kQueriesPerRead;
  for (const LayerShare& layer : layers) {
    int context = computed + scheduled;
    if (layer.window > 0) context = std::min(context, layer.window + scheduled - 1);
    if (scheduled == 1) {
      decode_context += layer.share * context;
    } else {
      chunk_context += layer.share * reads * context;
      chunk_pairs += layer.share * Pairs(layer.window, computed, scheduled);
    }
  }
}

double StepModel::Seconds(const StepWork& work) const {
  return fixed + per_token * work.tokens + per_sequence * work.sequences + At(tokens, work.tokens) +
         At(draws, work.draws) + per_decode_context * work.decode_context +
         per_chunk_context * work.chunk_context + per_chunk_pair * work.chunk_pairs +
         per_block_move * work.block_moves;
}

StepModel Slower(const StepModel& model, double factor) {
  StepModel slower = model;
  for (double* seconds :
       {&slower.fixed, &slower.per_token, &slower.per_sequence, &slower.per_decode_context,
        &slower.per_chunk_context, &slower.per_chunk_pair, &slower.per_block_move}) {
    *seconds *= factor;
  }
  for (auto* curve : {&slower.tokens, &slower.draws}) {
    for (CostPoint& point : *curve) point.seconds *= factor;
  }
  return slower;
}

std::string ToJson(const MeasuredCosts& costs) {
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerShare& layer : costs.step.layers) {
    layers.push_back({{"window", layer.window}, {"share", layer.share}});
  }
  const nlohmann::json step = {{"between_steps_us", 1e6 * costs.step.fixed},
                               {"tokens", CurveJson(costs.step.tokens)},
                               {"draws", CurveJson(costs.step.draws)},
                               {"decode_context_ns", 1e9 * costs.step.per_decode_context},
                               {"chunk_context_ns", 1e9 * costs.step.per_chunk_context},
                               {"chunk_pair_ns", 1e9 * costs.step.per_chunk_pair},
                               {"layers", layers}};
  return nlohmann::json{{"model", costs.model},
                        {"backend", costs.backend},
                        {"block_tokens", costs.block_tokens},
                        {"block_bytes", costs.block_bytes},
                        {"group_windows", costs.group_windows},
                        {"max_context_tokens", costs.max_context_tokens},
                        {"step", step}}
      .dump(1);
}

MeasuredCosts LoadCosts(const std::string& path) {
  const Json json = ParseJson(ReadFile(path), path);
  const JsonObject object(json, path);
  MeasuredCosts costs;
  costs.model = object.String("model");
  costs.backend = object.String("backend");
  costs.block_tokens = static_cast<int>(object.Int("block_tokens", 1, 4096));
  costs.block_bytes = object.Number("block_bytes", 1, 1e12);
  costs.max_context_tokens = static_cast<int>(object.Int("max_context_tokens", 1, kMost));
  costs.group_windows.clear();
  for (const int64_t window : object.Ints("group_windows", 0, kMost)) {
    costs.group_windows.push_back(static_cast<int>(window));
  }
  if (costs.group_windows.empty()) object.Fail("group_windows", "the window of every layer group");
  const std::optional<JsonObject> step = object.Object("step");
  if (!step) object.Fail("step", "an object");
  costs.step.fixed = 1e-6 * step->Number("between_steps_us", 0, 1e12);
  costs.step.tokens = ReadCurve(*step, "tokens");
  costs.step.draws = ReadCurve(*step, "draws");
  costs.step.per_decode_context = 1e-9 * step->Number("decode_context_ns", 0, 1e12);
  costs.step.per_chunk_context = 1e-9 * step->Number("chunk_context_ns", 0, 1e12);
  costs.step.per_chunk_pair = 1e-9 * step->Number("chunk_pair_ns", 0, 1e12);
  costs.step.layers = ReadLayers(*step);
  return costs;
}

}  // namespace palu::bench
