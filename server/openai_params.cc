#include "server/openai_params.h"

#include <array>
#include <charconv>
#include <limits>
#include <string>

namespace palu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int32_t>::max();
constexpr int kMaxChoices = 128;
constexpr double kMaxTemperature = 100.0;
constexpr double kMaxRepetitionPenalty = 100.0;

void ReadLogitBias(JsonFields* fields, SamplingParams* sampling) {
  const nlohmann::json* bias = fields->Get("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    return fields->Fail("logit_bias", std::string("must be an object, not ") + JsonTypeName(*bias));
  }
  for (const auto& [key, value] : bias->items()) {
    int32_t token = 0;
    const char* end = key.data() + key.size();
    const auto [parsed, error] = std::from_chars(key.data(), end, token);
    if (error != std::errc() || parsed != end || token < 0) {
      return fields->Fail("logit_bias", "has a key that is no token id: '" + key + "'");
    }
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100)) {
      return fields->Fail("logit_bias." + key, "must be a number between -100 and 100");
    }
    sampling->logit_bias.emplace_back(token, value.get<float>());
  }
}

// Zero excluded: at 0 there would be nothing left to sample from.
void RequirePositive(JsonFields* fields, const char* name, float value) {
  if (value <= 0) fields->Fail(name, "must be greater than 0");
}

void ReadSampling(JsonFields* fields, SamplingParams* sampling) {
  fields->Float("temperature", 0, kMaxTemperature, &sampling->temperature);
  fields->Float("top_p", 0, 1, &sampling->top_p);
  RequirePositive(fields, "top_p", sampling->top_p);
  fields->Int("top_k", -1, kMaxInt, &sampling->top_k);
  fields->Float("min_p", 0, 1, &sampling->min_p);
  fields->Float("frequency_penalty", -2, 2, &sampling->frequency_penalty);
  fields->Float("presence_penalty", -2, 2, &sampling->presence_penalty);
  fields->Float("repetition_penalty", 0, kMaxRepetitionPenalty, &sampling->repetition_penalty);
  RequirePositive(fields, "repetition_penalty", sampling->repetition_penalty);
  if (fields->Has("seed")) {
    int64_t seed = 0;
    fields->Int64("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
                  &seed);
    sampling->seed = static_cast<uint64_t>(seed);
  }
  ReadLogitBias(fields, sampling);
  fields->TokenIds("allowed_token_ids", &sampling->allowed_token_ids);
  if (fields->Has("allowed_token_ids") && sampling->allowed_token_ids.empty()) {
    fields->Fail("allowed_token_ids", "must not be empty");
  }
  fields->TokenIds("stop_token_ids", &sampling->stop_token_ids);
  fields->Bool("ignore_eos", &sampling->ignore_eos);
  fields->Int("min_tokens", 0, kMaxInt, &sampling->min_tokens);
}

void ReadStreaming(JsonFields* fields, OpenAiOptions* options) {
  fields->Bool("stream", &options->stream);
  const nlohmann::json* value = fields->Get("stream_options");
  if (value == nullptr) return;
  if (!options->stream) {
    return fields->Fail("stream_options", "is only allowed when 'stream' is true");
  }
  JsonFields inner(*value, "stream_options");
  inner.Bool("include_usage", &options->include_usage);
  inner.Bool("continuous_usage_stats", &options->continuous_usage);
  if (!inner.status().ok()) {
    const std::string& param = inner.status().param;
    fields->Fail(param, inner.status().message.substr(param.size() + 3));
  }
}

// best_of choices are made, and n of them shown.
void ReadBestOf(JsonFields* fields, GenerationSpec* spec, OpenAiOptions* options) {
  int best_of = spec->n;
  fields->Int("best_of", 1, kMaxChoices, &best_of);
  if (best_of < spec->n) fields->Fail("best_of", "must not be less than 'n'");
  if (best_of == spec->n) return;
  if (options->stream) {
    fields->Fail("best_of", "must equal 'n' when 'stream' is true: the best are known at the end");
  }
  options->keep = spec->n;
  spec->n = best_of;
}

bool AsksForNothing(const nlohmann::json& value) {
  return (value.is_boolean() && !value.get<bool>()) || (value.is_structured() && value.empty()) ||
         (value.is_string() && value.get_ref<const std::string&>().empty());
}

}  // namespace

void ReadSharedParams(JsonFields* fields, GenerationSpec* spec, OpenAiOptions* options) {
  fields->String("model", &spec->model);
  fields->String("request_id", &spec->request_id);
  fields->Int("n", 1, kMaxChoices, &spec->n);
  fields->Int("priority", -kMaxInt, kMaxInt, &spec->priority);
  fields->Strings("stop", &spec->stop);
  fields->Bool("include_stop_str_in_output", &spec->include_stop_str);
  fields->Bool("skip_special_tokens", &spec->skip_special_tokens);
  fields->Bool("add_special_tokens", &spec->add_special_tokens);
  fields->OptionalInt("truncate_prompt_tokens", -1, kMaxInt, &spec->truncate_prompt_tokens);
  if (spec->truncate_prompt_tokens == 0) {
    fields->Fail("truncate_prompt_tokens", "must be -1 or at least 1");
  }
  fields->Strings("bad_words", &spec->bad_words);
  if (fields->Has("cache_salt")) {
    fields->String("cache_salt", &spec->cache_salt);
    if (spec->cache_salt.empty()) fields->Fail("cache_salt", "must be a non-empty string");
  }
  fields->String("user", &spec->tenant);
  ReadSampling(fields, &spec->sampling);
  ReadStreaming(fields, options);
  fields->Int("prompt_logprobs", 0, 20, &options->prompt_logprobs);
  ReadBestOf(fields, spec, options);
  RefuseUnsupported(fields);
}

void RefuseUnsupported(JsonFields* fields) {
  static constexpr std::array kUnsupported = {
      "suffix", "functions",  "function_call",  "prompt_embeds",  "logits_processors",
      "audio",  "prediction", "structural_tag", "use_beam_search"};
  for (const char* name : kUnsupported) {
    const nlohmann::json* value = fields->Get(name);
    if (value != nullptr && !AsksForNothing(*value)) {
      fields->Fail(name, "is not supported by this server yet");
    }
  }
}

}  // namespace palu
