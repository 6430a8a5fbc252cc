#include "server/openai_embeddings.h"

#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include "server/json_fields.h"
#include "server/openai_prompts.h"
#include "server/openai_response.h"
#include "server/openai_sink.h"

namespace palu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int32_t>::max();

void ReadChoices(JsonFields* fields, EmbeddingRequest* request) {
  std::string format = "float";
  fields->String("encoding_format", &format);
  request->options.base64 = format == "base64";
  if (format != "float" && format != "base64") {
    fields->Fail("encoding_format", "must be 'float' or 'base64', not '" + format + "'");
  }
  std::string pooling;
  fields->String("pooling", &pooling);
  if (pooling == "mean") request->spec.pooling = Pooling::kMean;
  if (pooling == "last") request->spec.pooling = Pooling::kLast;
  if (!pooling.empty() && request->spec.pooling == Pooling::kNone) {
    fields->Fail("pooling", "must be 'mean' or 'last', not '" + pooling + "'");
  }
}

}  // namespace

Result<EmbeddingRequest> ParseEmbeddingRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  EmbeddingRequest request;
  GenerationSpec& spec = request.spec;
  JsonFields fields(*json, "");
  fields.String("model", &spec.model);
  ReadPrompts(&fields, "input", &spec.prompts);
  ReadChoices(&fields, &request);
  fields.Int("dimensions", 1, kMaxInt, &request.options.dimensions);
  fields.Bool("normalize", &request.options.normalize);
  fields.Bool("add_special_tokens", &spec.add_special_tokens);
  fields.OptionalInt("truncate_prompt_tokens", -1, kMaxInt, &spec.truncate_prompt_tokens);
  if (spec.truncate_prompt_tokens == 0) {
    fields.Fail("truncate_prompt_tokens", "must be -1 or at least 1");
  }
  fields.Int("priority", -kMaxInt, kMaxInt, &spec.priority);
  fields.String("request_id", &spec.request_id);
  fields.String("user", &spec.tenant);
  spec.max_tokens = 0;
  request.unknown_fields = fields.Unknown();
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

Status CheckDimensions(int dimensions, int hidden_size) {
  if (dimensions <= hidden_size) return {};
  return InvalidArgument("'dimensions' must be at most " + std::to_string(hidden_size) +
                             ", what this model has, not " + std::to_string(dimensions),
                         "dimensions");
}

std::vector<float> FinishEmbedding(std::vector<float> values, const EmbeddingOptions& options) {
  if (options.dimensions > 0) values.resize(static_cast<size_t>(options.dimensions));
  if (!options.normalize) return values;
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  if (sum == 0) return values;
  const double scale = 1 / std::sqrt(sum);
  for (float& value : values) value = static_cast<float>(value * scale);
  return values;
}

std::string Base64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t have = std::min<size_t>(bytes.size() - i, 3);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) {
      group = group << 8 | (k < have ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      text += k <= have ? kDigits[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

std::string EmbeddingSink::Body(const GenerationUsage& usage) const {
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const std::vector<float> values = FinishEmbedding(vectors_[i], options_);
    nlohmann::ordered_json entry = {{"object", "embedding"}, {"index", i}};
    if (options_.base64) {
      std::string bytes(values.size() * sizeof(float), '\0');
      std::memcpy(bytes.data(), values.data(), bytes.size());
      entry["embedding"] = Base64(bytes);
    } else {
      entry["embedding"] = values;
    }
    data.push_back(std::move(entry));
  }
  return Dump({{"id", id_},
               {"object", "list"},
               {"created", static_cast<int64_t>(std::time(nullptr))},
               {"model", model_},
               {"data", std::move(data)},
               {"usage",
                {{"prompt_tokens", usage.prompt_tokens},
                 {"total_tokens", usage.prompt_tokens},
                 {"completion_tokens", 0}}}});
}

void EmbeddingSink::Send(const PumpOutput& output) {
  for (const PromptEmbedding& embedding : output.embeddings) {
    vectors_[static_cast<size_t>(embedding.prompt)] = embedding.values;
  }
  if (!output.finished) return;
  reply_->SetOutcome(OutcomeOf(output));
  if (!output.status.ok()) return reply_->Respond(ErrorResponse(output.status));
  HttpResponse response;
  response.body = Body(output.usage);
  reply_->Respond(std::move(response));
}

}  // namespace palu
