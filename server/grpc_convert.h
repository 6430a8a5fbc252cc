// Between messages of palu.v1 and the server's own types. Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <vector>

#include "engine/status.h"
#include "palu/v1/inference.pb.h"
#include "server/generation.h"
#include "server/model_service.h"
#include "server/sink.h"
#include "server/text/tokenizer.h"

namespace palu {

grpc::Status ToGrpcStatus(const Status& status);

// kInvalidArgument where a value is out of the range that docs/api.md gives.
Result<GenerationSpec> ToGenerationSpec(const v1::GenerateRequest& request);
Result<GenerationSpec> ToEmbeddingSpec(const v1::EmbedRequest& request, Pooling pooling);

v1::FinishReason ToProto(FinishReason reason);
v1::TokenLogprobs ToProto(const OutputToken& token, int num_top, const Tokenizer& tokenizer);
v1::Usage ToProto(const GenerationUsage& usage);
v1::ModelInfo ToProto(const ModelInfo& info);
v1::ServerStats ToProto(const MetricsSnapshot& metrics, double uptime_seconds);

// What a call wants to see beside the text.
struct GrpcDetail {
  int logprobs = -1;
  int prompt_logprobs = -1;
};
GrpcDetail DetailOf(const v1::GenerateRequest& request);

// One chunk per choice that gained something; usage on the last chunk of the stream.
std::vector<v1::GenerateChunk> ToChunks(const PumpOutput& output, const std::string& request_id,
                                        const GrpcDetail& detail, const Tokenizer& tokenizer);
// Adds an output to a whole response, which already has its choices.
void AddToResponse(const PumpOutput& output, const GrpcDetail& detail, const Tokenizer& tokenizer,
                   v1::GenerateResponse* response);

}  // namespace palu
