#include "tools/compress/statistics_file.h"

#include <cstring>
#include <filesystem>

#include "engine/model/safetensors.h"
#include "engine/model/safetensors_writer.h"
#include "engine/status.h"

namespace palu {
namespace {

// Visits every array of a layer: name, numbers, count.
template <typename Layer, typename Visit>
void VisitArrays(Layer& layer, const Visit& visit) {
  visit("input", layer.input);
  visit("query_energy", layer.query_energy);
  visit("key_gradient", layer.key_gradient);
  visit("value_gradient", layer.value_gradient);
  visit("key_fisher", layer.key_fisher);
  visit("value_fisher", layer.value_fisher);
  visit("expert_tokens", layer.expert_tokens);
}

std::string NameOf(size_t layer, const char* array) { return std::to_string(layer) + "." + array; }

}  // namespace

void WriteStatistics(const std::string& path, const Statistics& statistics,
                     const std::string& fingerprint) {
  std::vector<SafetensorsDeclaration> declarations;
  const double numbers[] = {static_cast<double>(statistics.tokens), statistics.loss,
                            statistics.has_gradients ? 1.0 : 0.0};
  declarations.push_back({"numbers", "F64", {3}});
  for (size_t i = 0; i < statistics.layers.size(); ++i) {
    VisitArrays(statistics.layers[i], [&](const char* name, const auto& m) {
      if (m.size() == 0) return;
      declarations.push_back({NameOf(i, name), "F64", {m.rows(), m.cols()}});
    });
  }
  SafetensorsWriter writer(
      path, declarations,
      {{"fingerprint", fingerprint}, {"layers", std::to_string(statistics.layers.size())}});
  writer.Write(std::as_bytes(std::span(numbers)));
  for (const LayerStatistics& layer : statistics.layers) {
    VisitArrays(layer, [&](const char*, const auto& m) {
      if (m.size() == 0) return;
      writer.Write(std::as_bytes(std::span(m.data(), static_cast<size_t>(m.size()))));
    });
  }
  writer.Finish();
}

std::optional<Statistics> ReadStatistics(const std::string& path, const std::string& fingerprint) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Safetensors files = Safetensors::OpenFile(path);
  const auto found = files.metadata().find("fingerprint");
  if (found == files.metadata().end() || found->second != fingerprint) return std::nullopt;
  const auto require = [&](const std::string& name) -> const SafetensorsEntry& {
    const SafetensorsEntry* entry = files.Find(name);
    if (entry == nullptr || entry->dtype != "F64") throw LoadError(path + ": no " + name);
    return *entry;
  };
  Statistics statistics;
  double numbers[3];
  const SafetensorsEntry& head = require("numbers");
  if (head.data.size() != sizeof(numbers)) throw LoadError(path + ": damaged");
  std::memcpy(numbers, head.data.data(), sizeof(numbers));
  statistics.tokens = static_cast<int64_t>(numbers[0]);
  statistics.loss = numbers[1];
  statistics.has_gradients = numbers[2] != 0;
  while (files.Find(NameOf(statistics.layers.size(), "input")) != nullptr) {
    const size_t i = statistics.layers.size();
    VisitArrays(statistics.layers.emplace_back(), [&](const char* name, auto& m) {
      if (files.Find(NameOf(i, name)) == nullptr) return;  // empty: not gathered
      const SafetensorsEntry& entry = require(NameOf(i, name));
      if (entry.shape.size() != 2) throw LoadError(path + ": damaged");
      m.resize(entry.shape[0], entry.shape[1]);
      std::memcpy(m.data(), entry.data.data(), entry.data.size());
    });
  }
  return statistics;
}

}  // namespace palu
