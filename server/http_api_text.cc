// HttpApi: the routes that work on text.
#include <ctime>
#include <utility>

#include "server/http_api.h"
#include "server/openai_request.h"
#include "server/openai_sink.h"
#include "server/request_id.h"

namespace palu {
namespace {

// What the response says of prompts, where it says anything.
void SetPrompts(const GenerationSpec& spec, const std::vector<Request>& requests,
                ResponseContext* context) {
  if (!context->options.echo) return;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto* text = std::get_if<std::string>(&spec.prompts[i]);
    const bool whole = text != nullptr && !spec.truncate_prompt_tokens;
    context->prompt_texts.push_back(
        whole ? *text : context->tokenizer->Decode(requests[i].prompt, spec.skip_special_tokens));
    context->prompt_ids.push_back(requests[i].prompt);
  }
}

}  // namespace

void HttpApi::Generate(const Call& call, const ModelService& service, GenerationSpec spec,
                       const OpenAiOptions& options) {
  const Result<std::vector<Request>> requests = service.Map(spec);
  if (!requests) return Fail(call, requests.error());

  ResponseContext context;
  context.id = (options.chat ? "chatcmpl-" : "cmpl-") + spec.request_id;
  context.created = static_cast<int64_t>(std::time(nullptr));
  context.model = service.info().name;
  context.options = options;
  context.n = spec.n;
  context.num_choices = spec.n * static_cast<int>(requests->size());
  context.skip_special_tokens = spec.skip_special_tokens;
  context.tokenizer = &service.tokenizer();
  SetPrompts(spec, *requests, &context);

  std::shared_ptr<Sink> sink;
  if (options.stream) {
    sink = std::make_shared<StreamSink>(call.reply, std::move(context));
  } else {
    sink = std::make_shared<UnarySink>(call.reply, std::move(context));
  }
  Start(call, service, spec, *requests, std::move(sink), options.stream);
}

void HttpApi::SettleIdentity(const Call& call, GenerationSpec* spec) {
  const std::string own = SanitizeRequestId(spec->request_id);
  const bool use_own = !call.request.named && !own.empty();
  spec->request_id = use_own ? own : call.request.request_id;
  call.reply->SetRequestId(spec->request_id);
  if (!call.key.empty()) spec->tenant = call.key;
}

void HttpApi::Start(const Call& call, const ModelService& service, const GenerationSpec& spec,
                    const std::vector<Request>& requests, std::shared_ptr<Sink> sink, bool stream) {
  const Result<std::shared_ptr<ResponsePump>> pump =
      service.Generate(requests, spec, std::move(sink));
  if (!pump) return Fail(call, pump.error());
  if (stream) call.reply->StartStream();
  // The reply lives longer than the pump, which therefore must not be held from there.
  const std::weak_ptr<ResponsePump> weak = *pump;
  call.reply->SetCallbacks(
      [weak] {
        if (const auto held = weak.lock()) held->Cancel();
      },
      [weak] {
        if (const auto held = weak.lock()) held->Resume();
      });
  (*pump)->Start();
}

void HttpApi::Completions(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  Result<CompletionRequest> request = ParseCompletionRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  NoteUnknown(request->unknown_fields);
  SettleIdentity(call, &request->spec);
  const Status model = (*service)->CheckModel(request->spec.model);
  if (!model.ok()) return Fail(call, model);
  Generate(call, **service, std::move(request->spec), request->options);
}

void HttpApi::ChatCompletions(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  Result<ChatRequest> request = ParseChatRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  NoteUnknown(request->unknown_fields);
  SettleIdentity(call, &request->spec);
  const Status model = (*service)->CheckModel(request->spec.model);
  if (!model.ok()) return Fail(call, model);
  Result<std::string> prompt = (*service)->RenderChat(request->chat);
  if (!prompt) return Fail(call, prompt.error());
  request->spec.prompts.emplace_back(std::move(*prompt));
  request->options.tool_format = (*service)->tool_format();
  Generate(call, **service, std::move(request->spec), request->options);
}

void HttpApi::Tokenize(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const Result<TokenizeRequest> request = ParseTokenizeRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  const Status model = (*service)->CheckModel(request->model);
  if (!model.ok()) return Fail(call, model);
  std::string text;
  if (const auto* chat = std::get_if<ChatTemplateInput>(&request->input)) {
    Result<std::string> rendered = (*service)->RenderChat(*chat);
    if (!rendered) return Fail(call, rendered.error());
    text = std::move(*rendered);
  } else {
    text = std::get<std::string>(request->input);
  }
  const Tokenizer& tokenizer = (*service)->tokenizer();
  const std::vector<int32_t> ids = tokenizer.Encode(text, request->add_special_tokens);
  nlohmann::ordered_json json = {{"count", ids.size()},
                                 {"max_model_len", (*service)->info().max_context_tokens},
                                 {"tokens", ids}};
  if (request->return_token_strings) {
    nlohmann::ordered_json& strings = json["token_strs"] = nlohmann::ordered_json::array();
    for (const int32_t id : ids) strings.push_back(tokenizer.TokenName(id));
  }
  HttpResponse response;
  response.body = Dump(json);
  call.reply->Respond(std::move(response));
}

void HttpApi::Detokenize(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const Result<DetokenizeRequest> request = ParseDetokenizeRequest(call.request.body);
  if (!request) return Fail(call, request.error());
  const Status model = (*service)->CheckModel(request->model);
  if (!model.ok()) return Fail(call, model);
  const int vocab_size = (*service)->info().vocab_size;
  for (const int32_t id : request->tokens) {
    if (id >= vocab_size) {
      return Fail(call, InvalidArgument("'tokens' has token id " + std::to_string(id) +
                                            ", but the model has ids 0 to " +
                                            std::to_string(vocab_size - 1),
                                        "tokens"));
    }
  }
  HttpResponse response;
  response.body = Dump({{"prompt", (*service)->tokenizer().Decode(request->tokens, false)}});
  call.reply->Respond(std::move(response));
}

}  // namespace palu
