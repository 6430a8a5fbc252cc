#include "engine/model/packed_weights.h"

#include <cstring>
#include <regex>

#include "engine/status.h"
#include "kernels/grouped_weight.h"

namespace palu {
namespace {

constexpr WeightFormat kPackedFormats[] = {WeightFormat::kInt4, WeightFormat::kInt8};

[[noreturn]] void Fail(const std::string& file, const std::string& name, const std::string& found,
                       const std::string& expected) {
  throw LoadError(file + ": tensor \"" + name + "\": found " + found + ", expected " + expected);
}

void CheckScales(const SafetensorsEntry& entry, const std::string& name, WeightFormat format,
                 int64_t rows, int64_t depth) {
  const std::byte* scales = entry.data.data() + WeightCodeBytes(format, rows, depth);
  constexpr uint16_t kExponent = 0x7c00;  // all ones: infinity or NaN
  const int64_t count = WeightScales(rows, depth);
  for (int64_t i = 0; i < count; ++i) {
    uint16_t scale = 0;
    std::memcpy(&scale, scales + 2 * i, sizeof(scale));
    if ((scale & kExponent) != kExponent) continue;
    const bool infinite = (scale & 0x3ff) == 0;
    Fail(entry.file, name,
         std::string(infinite ? "infinity" : "NaN") + " as scale " + std::to_string(i) + " of " +
             std::to_string(count),
         "finite numbers");
  }
}

}  // namespace

std::string PackedName(const std::string& weight_name, WeightFormat format) {
  const size_t base = weight_name.size() - std::strlen("weight");
  return weight_name.substr(0, base) + Name(format);
}

std::vector<int64_t> PackedShape(WeightFormat format, int64_t rows, int64_t depth) {
  const int64_t bytes = GroupedWeightBytes(format, rows, depth);
  return {(bytes + kWeightAlignment - 1) / kWeightAlignment, kWeightAlignment};
}

bool IsPackable(const std::string& weight_name, const std::vector<int64_t>& shape) {
  if (shape.size() != 2 || !FitsGroups(shape[1])) return false;
  static const std::regex matrices(
      R"((.*\.)?(lm_head|self_attn\.[qkvo]_proj|self_attn\.[kv]_proj\.VT|mlp\.(gate|up|down)_proj|)"
      R"((block_sparse_moe|mlp)\.experts\.\d+\.(w[123]|(gate|up|down)_proj))\.weight)");
  return std::regex_match(weight_name, matrices);
}

WeightFormat PackedFormat(const Safetensors& files) {
  WeightFormat format = WeightFormat::kStored;
  for (const auto& [name, entry] : files.entries()) {
    if (name.ends_with(".int4")) return WeightFormat::kInt4;
    if (name.ends_with(".int8")) format = WeightFormat::kInt8;
  }
  return format;
}

const SafetensorsEntry* FindPacked(const Safetensors& files, const std::string& weight_name,
                                   WeightFormat expected, int64_t rows, int64_t depth) {
  const SafetensorsEntry* found = nullptr;
  std::string found_name;
  for (const WeightFormat format : kPackedFormats) {
    const std::string name = PackedName(weight_name, format);
    const SafetensorsEntry* entry = files.Find(name);
    if (entry == nullptr) continue;
    if (format != expected) {
      Fail(entry->file, name, std::string(Name(format)) + " codes", Name(expected));
    }
    found = entry;
    found_name = name;
  }
  if (found == nullptr) return nullptr;
  if (files.Find(weight_name) != nullptr) {
    Fail(found->file, found_name, "\"" + weight_name + "\" too", "one of them");
  }
  if (!FitsGroups(depth)) {
    Fail(
        found->file, found_name, "codes of a matrix with " + std::to_string(depth) + " columns",
        "numbers: " + std::to_string(depth) + " is no multiple of " + std::to_string(kWeightGroup));
  }
  const std::vector<int64_t> shape = PackedShape(expected, rows, depth);
  if (found->dtype != "U8" || found->shape != shape) {
    Fail(found->file, found_name, found->dtype + " " + ShapeString(found->shape),
         "U8 " + ShapeString(shape) + ", the " + Name(expected) + " codes of a matrix of " +
             ShapeString(std::vector<int64_t>{rows, depth}));
  }
  CheckScales(*found, found_name, expected, rows, depth);
  return found;
}

}  // namespace palu
