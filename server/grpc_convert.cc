#include "server/grpc_convert.h"

#include <algorithm>
#include <string>
#include <utility>

#include "server/error_table.h"
#include "server/openai_logprobs.h"
#include "server/openai_structured.h"

namespace palu {
namespace {

constexpr int kDefaultMaxTokens = 16;

Status CheckRange(float value, float min, float max, const char* field) {
  if (value >= min && value <= max) return {};
  return InvalidArgument("'" + std::string(field) + "' must be between " +
                             std::to_string(static_cast<int>(min)) + " and " +
                             std::to_string(static_cast<int>(max)),
                         field);
}

Status CheckSampling(const v1::SamplingParams& p) {
  Status status = CheckRange(p.presence_penalty(), -2, 2, "presence_penalty");
  if (status.ok()) status = CheckRange(p.frequency_penalty(), -2, 2, "frequency_penalty");
  for (const auto& [token, bias] : p.logit_bias()) {
    if (status.ok()) status = CheckRange(bias, -100, 100, "logit_bias");
  }
  return status;
}

void SetSampling(const v1::SamplingParams& p, GenerationSpec* spec) {
  SamplingParams& out = spec->sampling;
  if (p.has_max_tokens()) spec->max_tokens = p.max_tokens();
  out.min_tokens = p.min_tokens();
  if (p.has_temperature()) out.temperature = p.temperature();
  if (p.has_top_p()) out.top_p = p.top_p();
  out.top_k = p.top_k();
  out.min_p = p.min_p();
  if (p.has_seed()) out.seed = p.seed();
  if (p.has_repetition_penalty()) out.repetition_penalty = p.repetition_penalty();
  out.presence_penalty = p.presence_penalty();
  out.frequency_penalty = p.frequency_penalty();
  for (const auto& [token, bias] : p.logit_bias()) out.logit_bias.emplace_back(token, bias);
  out.allowed_token_ids.assign(p.allowed_token_ids().begin(), p.allowed_token_ids().end());
  out.stop_token_ids.assign(p.stop_token_ids().begin(), p.stop_token_ids().end());
  out.ignore_eos = p.ignore_eos();
  if (p.has_logprobs()) out.num_logprobs = p.logprobs();
  if (p.has_prompt_logprobs()) out.num_prompt_logprobs = p.prompt_logprobs();
  if (p.has_n()) spec->n = p.n();
  spec->bad_words.assign(p.bad_words().begin(), p.bad_words().end());
  spec->stop.assign(p.stop().begin(), p.stop().end());
  spec->include_stop_str = p.include_stop_str_in_output();
}

Status SetStructure(const v1::Structure& structure, GenerationSpec* spec) {
  using Kind = structured::StructuredSpec::Kind;
  auto form = std::make_shared<structured::StructuredSpec>();
  if (structure.json_object()) {
    form->kind = Kind::kJsonObject;
    form->param = "structure.json_object";
  } else if (structure.has_json_schema()) {
    form->kind = Kind::kJsonSchema;
    form->param = "structure.json_schema";
    const auto schema = ParseOrdered(structure.json_schema());
    if (!schema) {
      return InvalidArgument("'structure.json_schema' is not valid JSON", form->param);
    }
    form->schema = *schema;
  } else if (structure.has_regex() || structure.has_grammar()) {
    form->kind = structure.has_regex() ? Kind::kRegex : Kind::kGrammar;
    form->param = structure.has_regex() ? "structure.regex" : "structure.grammar";
    form->text = structure.has_regex() ? structure.regex() : structure.grammar();
  } else if (structure.has_choice()) {
    form->kind = Kind::kChoice;
    form->param = "structure.choice";
    const auto& choices = structure.choice().choices();
    form->choices.assign(choices.begin(), choices.end());
    if (choices.empty())
      return InvalidArgument("'structure.choice' must not be empty", form->param);
  } else {
    return {};
  }
  spec->structured = std::move(form);
  return {};
}

v1::LatentProjectionInfo ProjectionInfo(const ProjectionSpec& spec) {
  v1::LatentProjectionInfo info;
  for (const int rank : spec.ranks) info.add_ranks(rank);
  info.set_bits(Bits(spec.format));
  info.set_format(Name(spec.format));
  info.set_dense(spec.dense);
  return info;
}

template <typename Message>
void AddDelta(const ChoiceDelta& delta, const GrpcDetail& detail, const Tokenizer& tokenizer,
              Message* message) {
  message->mutable_text()->append(delta.text);
  for (const OutputToken& token : delta.tokens) {
    message->add_token_ids(token.token);
    if (detail.logprobs >= 0) {
      *message->add_logprobs() = ToProto(token, detail.logprobs, tokenizer);
    }
  }
  if (delta.finish) message->set_finish_reason(ToProto(*delta.finish));
}

}  // namespace

grpc::Status ToGrpcStatus(const Status& status) {
  return {static_cast<grpc::StatusCode>(MapStatusCode(status.code).grpc_code), status.message};
}

GrpcDetail DetailOf(const v1::GenerateRequest& request) {
  GrpcDetail detail;
  const v1::SamplingParams& p = request.sampling();
  if (p.has_logprobs()) detail.logprobs = p.logprobs();
  if (p.has_prompt_logprobs()) detail.prompt_logprobs = p.prompt_logprobs();
  return detail;
}

Result<GenerationSpec> ToGenerationSpec(const v1::GenerateRequest& request) {
  const Status sampling = CheckSampling(request.sampling());
  if (!sampling.ok()) return tl::unexpected(sampling);
  GenerationSpec spec;
  spec.model = request.model();
  spec.request_id = request.request_id();
  spec.priority = request.priority();
  spec.tenant = request.user();
  spec.default_max_tokens = kDefaultMaxTokens;
  spec.cache_salt = request.cache_salt();
  if (request.has_skip_special_tokens()) spec.skip_special_tokens = request.skip_special_tokens();
  if (request.has_truncate_prompt_tokens()) {
    const int tokens = request.truncate_prompt_tokens();
    if (tokens < -1 || tokens == 0) {
      return tl::unexpected(InvalidArgument("'truncate_prompt_tokens' must be -1 or at least 1",
                                            "truncate_prompt_tokens"));
    }
    spec.truncate_prompt_tokens = tokens;
  }
  if (request.has_add_special_tokens()) spec.add_special_tokens = request.add_special_tokens();
  if (request.has_text()) {
    spec.prompts.emplace_back(request.text());
  } else if (request.has_tokens()) {
    const auto& ids = request.tokens().ids();
    spec.prompts.emplace_back(std::vector<int32_t>(ids.begin(), ids.end()));
  } else {
    return tl::unexpected(InvalidArgument("'text' or 'tokens' is required", "prompt"));
  }
  SetSampling(request.sampling(), &spec);
  if (Status form = SetStructure(request.structure(), &spec); !form.ok()) {
    return tl::unexpected(form);
  }
  return spec;
}

v1::FinishReason ToProto(FinishReason reason) {
  if (reason == FinishReason::kStop) return v1::FINISH_REASON_STOP;
  if (reason == FinishReason::kLength) return v1::FINISH_REASON_LENGTH;
  return v1::FINISH_REASON_UNSPECIFIED;
}

Result<GenerationSpec> ToEmbeddingSpec(const v1::EmbedRequest& request, Pooling pooling) {
  GenerationSpec spec;
  spec.model = request.model();
  spec.request_id = request.request_id();
  spec.tenant = request.user();
  if (request.has_add_special_tokens()) spec.add_special_tokens = request.add_special_tokens();
  for (const v1::EmbedInput& input : request.inputs()) {
    if (input.has_tokens()) {
      const auto& ids = input.tokens().ids();
      spec.prompts.emplace_back(std::vector<int32_t>(ids.begin(), ids.end()));
    } else {
      spec.prompts.emplace_back(input.text());
    }
  }
  if (spec.prompts.empty()) return tl::unexpected(InvalidArgument("'inputs' is empty", "inputs"));
  if (request.dimensions() < 0) {
    return tl::unexpected(InvalidArgument("'dimensions' must not be negative", "dimensions"));
  }
  spec.max_tokens = 0;
  spec.pooling = request.pooling() == v1::POOLING_MEAN   ? Pooling::kMean
                 : request.pooling() == v1::POOLING_LAST ? Pooling::kLast
                                                         : pooling;
  return spec;
}

v1::TokenLogprobs ToProto(const OutputToken& token, int num_top, const Tokenizer& tokenizer) {
  v1::TokenLogprobs message;
  message.set_token_id(token.token);
  message.set_logprob(token.logprob);
  message.set_token(TokenPiece(tokenizer, token.token));
  for (size_t i = 0; i < token.top.size() && static_cast<int>(i) < num_top; ++i) {
    v1::TopLogprob* top = message.add_top();
    top->set_token_id(token.top[i].token);
    top->set_logprob(token.top[i].logprob);
    top->set_token(TokenPiece(tokenizer, token.top[i].token));
  }
  return message;
}

v1::Usage ToProto(const GenerationUsage& usage) {
  v1::Usage message;
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_completion_tokens(usage.completion_tokens);
  message.set_cached_tokens(usage.cached_tokens);
  return message;
}

v1::ModelInfo ToProto(const ModelInfo& info) {
  v1::ModelInfo message;
  message.set_id(info.name);
  message.set_model_type(info.model_type);
  message.set_max_model_len(info.max_context_tokens);
  message.set_vocab_size(info.vocab_size);
  message.set_kv_bytes_per_token(info.cache.bytes_per_token);
  message.set_kv_bytes_per_token_uncompressed(info.cache.bytes_per_token_uncompressed);
  message.set_kv_capacity_bytes(info.cache.capacity_bytes);
  message.set_kv_capacity_tokens(info.cache.capacity_tokens);
  message.set_weights_bytes(info.cache.weights_bytes);
  message.set_backend(info.backend);
  for (const LayerSpec& layer : info.cache.layers) {
    v1::LayerCacheInfo* out = message.add_layers();
    *out->mutable_key() = ProjectionInfo(layer.key);
    *out->mutable_value() = ProjectionInfo(layer.value);
  }
  return message;
}

v1::ServerStats ToProto(const MetricsSnapshot& metrics, double uptime_seconds) {
  v1::ServerStats message;
  message.set_requests_running(metrics.requests_running);
  message.set_requests_waiting(metrics.requests_waiting);
  if (metrics.blocks_total > 0) {
    message.set_kv_cache_usage(static_cast<double>(metrics.blocks_used) / metrics.blocks_total);
  }
  message.set_prompt_tokens_total(metrics.prompt_tokens);
  message.set_generation_tokens_total(metrics.generation_tokens);
  message.set_preemptions_total(metrics.preemptions);
  message.set_uptime_seconds(uptime_seconds);
  return message;
}

std::vector<v1::GenerateChunk> ToChunks(const PumpOutput& output, const std::string& request_id,
                                        const GrpcDetail& detail, const Tokenizer& tokenizer) {
  std::vector<v1::GenerateChunk> chunks;
  const auto add = [&]() -> v1::GenerateChunk& {
    chunks.emplace_back().set_request_id(request_id);
    return chunks.back();
  };
  for (const ChoiceDelta& delta : output.deltas) {
    v1::GenerateChunk& chunk = add();
    chunk.set_choice(delta.index);
    AddDelta(delta, detail, tokenizer, &chunk);
  }
  for (const PromptLogprobs& prompt : output.prompt_logprobs) {
    v1::GenerateChunk& chunk = chunks.empty() ? add() : chunks.front();
    for (const OutputToken& token : prompt.tokens) {
      *chunk.add_prompt_logprobs() = ToProto(token, detail.prompt_logprobs, tokenizer);
    }
  }
  if (output.finished && output.status.ok()) {
    v1::GenerateChunk& chunk = chunks.empty() ? add() : chunks.back();
    *chunk.mutable_usage() = ToProto(output.usage);
  }
  return chunks;
}

void AddToResponse(const PumpOutput& output, const GrpcDetail& detail, const Tokenizer& tokenizer,
                   v1::GenerateResponse* response) {
  for (const ChoiceDelta& delta : output.deltas) {
    AddDelta(delta, detail, tokenizer, response->mutable_choices(delta.index));
  }
  for (const PromptLogprobs& prompt : output.prompt_logprobs) {
    for (const OutputToken& token : prompt.tokens) {
      *response->add_prompt_logprobs() = ToProto(token, detail.prompt_logprobs, tokenizer);
    }
  }
  *response->mutable_usage() = ToProto(output.usage);
}

}  // namespace palu
