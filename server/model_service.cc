#include "server/model_service.h"

#include <algorithm>
#include <utility>

#include "server/request_mapper.h"
#include "server/structured/structured_output.h"

namespace palu {

ModelService::ModelService(ModelInfo info, const Parts& parts)
    : info_(std::move(info)), parts_(parts) {}

Status ModelService::CheckModel(const std::string& name) const {
  if (name.empty() || name == info_.name) return {};
  return {StatusCode::kNotFound,
          "The model '" + name + "' does not exist; this server has '" + info_.name + "'", "model"};
}

Result<std::string> ModelService::RenderChat(const ChatTemplateInput& input) const {
  if (parts_.chat_template == nullptr) {
    return tl::unexpected(InvalidArgument("The model '" + info_.name +
                                              "' has no chat template; use /v1/completions or set "
                                              "model.chat_template",
                                          "messages"));
  }
  Result<std::string> text = parts_.chat_template->Render(input);
  if (!text && text.error().param.empty()) {
    return tl::unexpected(Status{text.error().code, text.error().message, "messages"});
  }
  return text;
}

Result<std::vector<Request>> ModelService::Map(const GenerationSpec& spec) const {
  const size_t most = static_cast<size_t>(std::max(parts_.max_queue_requests, 1));
  if (spec.prompts.size() > most) {
    return tl::unexpected(InvalidArgument("'prompt' has " + std::to_string(spec.prompts.size()) +
                                              " prompts, more than the " + std::to_string(most) +
                                              " requests that this server queues",
                                          "prompt"));
  }
  Result<std::vector<Request>> requests =
      MapGeneration(spec, *parts_.tokenizer, parts_.engine->limits());
  if (!requests || spec.structured == nullptr || !spec.structured->constrains()) return requests;
  if (parts_.structured == nullptr) {
    return tl::unexpected(
        InvalidArgument("'" + spec.structured->param + "' is not supported by this server",
                        spec.structured->param));
  }
  const Result<std::shared_ptr<const TokenConstraint>> constraint =
      parts_.structured->Constrain(*spec.structured, spec.sampling.stop_token_ids);
  if (!constraint) return tl::unexpected(constraint.error());
  for (Request& request : *requests) request.constraint = *constraint;
  return requests;
}

structured::ToolFormat ModelService::tool_format() const {
  return parts_.structured == nullptr ? structured::ToolFormat::kJson
                                      : parts_.structured->tool_format();
}

Result<std::shared_ptr<ResponsePump>> ModelService::Generate(const std::vector<Request>& requests,
                                                             const GenerationSpec& spec,
                                                             std::shared_ptr<Sink> sink) const {
  PumpOptions options;
  options.n = spec.n;
  options.stop = spec.stop;
  options.include_stop_str = spec.include_stop_str;
  options.skip_special_tokens = spec.skip_special_tokens;
  const std::vector<int32_t>& eos = parts_.engine->limits().eos_token_ids;
  for (const int32_t id : spec.sampling.stop_token_ids) {
    if (std::find(eos.begin(), eos.end(), id) == eos.end()) options.stop_token_ids.push_back(id);
  }
  std::vector<RequestHandle> handles;
  for (const Request& request : requests) {
    Result<RequestHandle> handle = parts_.engine->Submit(request);
    if (!handle) return tl::unexpected(handle.error());
    handles.push_back(std::move(*handle));
  }
  return std::make_shared<ResponsePump>(std::move(handles), options, *parts_.tokenizer, parts_.pool,
                                        std::move(sink));
}

void ServerState::SetReady(std::shared_ptr<const ModelService> service) {
  std::atomic_store(&service_, std::move(service));
}

bool ServerState::ready() const { return Service().has_value(); }

Result<std::shared_ptr<const ModelService>> ServerState::Service() const {
  std::shared_ptr<const ModelService> service = std::atomic_load(&service_);
  const auto unavailable = [](const char* why) {
    return tl::unexpected(Status{StatusCode::kUnavailable, why, ""});
  };
  if (draining()) return unavailable("The server is shutting down");
  if (service == nullptr) return unavailable("The model is still loading");
  if (!service->engine().healthy()) return unavailable("The device failed; the server restarts");
  return service;
}

}  // namespace palu
