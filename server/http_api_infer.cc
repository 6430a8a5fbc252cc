// HttpApi: embeddings, and the Open Inference Protocol.
#include "server/http_api.h"

#include <utility>

#include "server/open_inference.h"
#include "server/openai_embeddings.h"
#include "server/openai_sink.h"
#include "server/request_id.h"
#include "server/version.h"

namespace palu {
namespace {

constexpr std::string_view kModelsPrefix = "/v2/models/";

// The part of a path that the route's '*' stands for.
std::string ModelOf(const std::string& path, std::string_view suffix) {
  return path.substr(kModelsPrefix.size(), path.size() - kModelsPrefix.size() - suffix.size());
}

nlohmann::ordered_json TensorsJson(const std::vector<TensorInfo>& tensors) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const TensorInfo& tensor : tensors) {
    list.push_back({{"name", tensor.name}, {"datatype", tensor.datatype}, {"shape", tensor.shape}});
  }
  return list;
}

}  // namespace

void HttpApi::Embeddings(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  Result<EmbeddingRequest> request = ParseEmbeddingRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  NoteUnknown(request->unknown_fields);
  GenerationSpec& spec = request->spec;
  SettleIdentity(call, &spec);
  Status status = (*service)->CheckModel(spec.model);
  if (status.ok()) {
    status = CheckDimensions(request->options.dimensions, (*service)->info().hidden_size);
  }
  if (!status.ok()) return Fail(call, status);
  if (spec.pooling == Pooling::kNone) spec.pooling = (*service)->info().pooling;
  const Result<std::vector<Request>> requests = (*service)->Map(spec);
  if (!requests) return Fail(call, requests.error());
  Start(call, **service, spec, *requests,
        std::make_shared<EmbeddingSink>(call.reply, request->options, "embd-" + spec.request_id,
                                        (*service)->info().name, requests->size()));
}

void HttpApi::InferLive(const Call& call) {
  const auto service = state_->service();
  if (service != nullptr && !service->engine().healthy()) {
    return call.reply->Respond(Refuse(503, "The device failed"));
  }
  Answer(call, {{"live", true}});
}

void HttpApi::InferReady(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  Answer(call, {{"ready", true}});
}

void HttpApi::InferServer(const Call& call) {
  Answer(call, {{"name", "palu-server"},
                {"version", kVersion},
                {"extensions", nlohmann::ordered_json::array()}});
}

void HttpApi::InferModelReady(const Call& call) {
  const std::string name = ModelOf(call.request.path, "/ready");
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const Status status = (*service)->CheckModel(name);
  if (!status.ok()) return Fail(call, status);
  Answer(call, {{"name", name}, {"ready", true}});
}

void HttpApi::InferModel(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const Status status = (*service)->CheckModel(ModelOf(call.request.path, ""));
  if (!status.ok()) return Fail(call, status);
  Answer(call, {{"name", (*service)->info().name},
                {"versions", {kInferVersion}},
                {"platform", kInferPlatform},
                {"inputs", TensorsJson(InferInputs())},
                {"outputs", TensorsJson(InferOutputs())}});
}

void HttpApi::Infer(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const Status status = (*service)->CheckModel(ModelOf(call.request.path, "/infer"));
  if (!status.ok()) return Fail(call, status);
  Result<InferRequest> request = ParseInferRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  Result<CompletionRequest> completion = ToCompletion(*request);
  if (!completion) return Fail(call, completion.error());
  NoteUnknown(completion->unknown_fields);
  GenerationSpec& spec = completion->spec;
  if (spec.request_id.empty()) spec.request_id = request->id;
  SettleIdentity(call, &spec);
  const Result<std::vector<Request>> requests = (*service)->Map(spec);
  if (!requests) return Fail(call, requests.error());
  const size_t choices = requests->size() * static_cast<size_t>(spec.n);
  Start(call, **service, spec, *requests,
        std::make_shared<InferSink>(call.reply, (*service)->info().name, std::move(*request),
                                    choices));
}

}  // namespace palu
