#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace palu {
namespace {

constexpr double kMaxFactor = 1e6;
constexpr int kMaxPositions = 1 << 24;

void ParseYarn(const JsonObject& rope, int max_position_embeddings, RopeConfig* config) {
  config->scaling = RopeConfig::Scaling::kYarn;
  config->original_max_positions = static_cast<int>(
      rope.Int("original_max_position_embeddings", 1, kMaxPositions, max_position_embeddings));
  config->factor =
      rope.Number("factor", 1.0, kMaxFactor,
                  static_cast<double>(max_position_embeddings) / config->original_max_positions);
  config->beta_fast = rope.Number("beta_fast", 1e-3, 1e6, 32.0);
  config->beta_slow = rope.Number("beta_slow", 1e-3, 1e6, 1.0);
  config->truncate = rope.Bool("truncate", true);
  config->attention_factor = rope.Number("attention_factor", 0.0, 1e3, 0.0);
  const double mscale = rope.Number("mscale", 0.0, 1e3, 0.0);
  const double mscale_all_dim = rope.Number("mscale_all_dim", 0.0, 1e3, 0.0);
  if (config->attention_factor == 0.0 && mscale > 0.0 && mscale_all_dim > 0.0) {
    const auto scale = [&](double m) { return 0.1 * m * std::log(config->factor) + 1.0; };
    config->attention_factor = scale(mscale) / scale(mscale_all_dim);
  }
}

// Weight of the unscaled frequency of each pair: 1 for the fast ones, 0 for the slow ones, a ramp
// between the two (arXiv 2309.00071, section 3.2).
std::vector<double> YarnMask(const RopeConfig& rope) {
  const double dim = rope.rotary_dim;
  const auto correction = [&](double rotations) {
    return dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast), high = correction(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  std::vector<double> mask;
  for (int i = 0; i < rope.rotary_dim / 2; ++i) {
    mask.push_back(1.0 - std::clamp((i - low) / (high - low), 0.0, 1.0));
  }
  return mask;
}

double ScaleLlama3(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double original = rope.original_max_positions;
  if (wavelength < original / rope.high_freq_factor) return frequency;
  if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth = (original / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

RopeConfig ParseRope(const std::optional<JsonObject>& rope, double theta, int rotary_dim,
                     int max_position_embeddings) {
  RopeConfig config;
  config.theta = theta;
  config.rotary_dim = rotary_dim;
  if (!rope) return config;
  const char* type_key = rope->Has("rope_type") ? "rope_type" : "type";
  const std::string type = rope->String(type_key, "default");
  if (type == "default") return config;
  if (type == "linear") {
    config.scaling = RopeConfig::Scaling::kLinear;
    config.factor = rope->Number("factor", 1.0, kMaxFactor);
  } else if (type == "llama3") {
    config.scaling = RopeConfig::Scaling::kLlama3;
    config.factor = rope->Number("factor", 1.0, kMaxFactor);
    config.low_freq_factor = rope->Number("low_freq_factor", 1e-3, kMaxFactor);
    config.high_freq_factor = rope->Number("high_freq_factor", 1e-3, kMaxFactor);
    if (config.high_freq_factor <= config.low_freq_factor) {
      rope->Fail("high_freq_factor", "more than low_freq_factor");
    }
    config.original_max_positions =
        static_cast<int>(rope->Int("original_max_position_embeddings", 1, kMaxPositions));
  } else if (type == "yarn") {
    ParseYarn(*rope, max_position_embeddings, &config);
  } else {
    rope->Fail(type_key, OneOf({"default", "linear", "llama3", "yarn"}));
  }
  return config;
}

std::vector<double> InverseFrequencies(const RopeConfig& rope) {
  std::vector<double> frequencies;
  const int pairs = rope.rotary_dim / 2;
  const std::vector<double> mask =
      rope.scaling == RopeConfig::Scaling::kYarn ? YarnMask(rope) : std::vector<double>();
  for (int i = 0; i < pairs; ++i) {
    const double plain = std::pow(rope.theta, -2.0 * i / rope.rotary_dim);
    switch (rope.scaling) {
      case RopeConfig::Scaling::kNone:
        frequencies.push_back(plain);
        break;
      case RopeConfig::Scaling::kLinear:
        frequencies.push_back(plain / rope.factor);
        break;
      case RopeConfig::Scaling::kLlama3:
        frequencies.push_back(ScaleLlama3(rope, plain));
        break;
      case RopeConfig::Scaling::kYarn:
        frequencies.push_back(plain * mask[i] + plain / rope.factor * (1 - mask[i]));
        break;
    }
  }
  return frequencies;
}

double AttentionFactor(const RopeConfig& rope) {
  if (rope.scaling != RopeConfig::Scaling::kYarn) return 1.0;
  if (rope.attention_factor > 0.0) return rope.attention_factor;
  return 0.1 * std::log(rope.factor) + 1.0;
}

std::vector<float> RopeTable(const RopeConfig& rope, int positions) {
  const std::vector<double> frequencies = InverseFrequencies(rope);
  const double factor = AttentionFactor(rope);
  std::vector<float> table(static_cast<size_t>(positions) * rope.rotary_dim);
  const size_t pairs = frequencies.size();
  for (int p = 0; p < positions; ++p) {
    float* row = table.data() + static_cast<size_t>(p) * rope.rotary_dim;
    for (size_t i = 0; i < pairs; ++i) {
      row[i] = static_cast<float>(factor * std::cos(p * frequencies[i]));
      row[pairs + i] = static_cast<float>(factor * std::sin(p * frequencies[i]));
    }
  }
  return table;
}

}  // namespace palu
