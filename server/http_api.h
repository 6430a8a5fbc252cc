// The HTTP surface: routes, methods, content types, and what each route does.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/server_config.h"
#include "server/api_keys.h"
#include "server/http_types.h"
#include "server/model_service.h"
#include "server/openai_response.h"
#include "server/request_counters.h"

namespace palu {

// Probes are answered at once, everything else on the text pool. Thread-safe. What it points to
// must outlive it.
class HttpApi final : public HttpHandler {
 public:
  HttpApi(const HttpConfig& config, ServerState* state, TextPool* pool,
          const RequestCounters* grpc_counters, ApiKeys* keys);

  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) override;
  std::optional<HttpResponse> RefuseHead(const HttpRequest& request) override;
  HttpResponse Refuse(int status, const std::string& message) override;
  std::vector<std::pair<std::string, std::string>> CorsHeaders(const std::string& origin) override;
  void Done(const HttpAccess& access) override;

 private:
  struct Call {
    HttpRequest request;
    std::shared_ptr<HttpReply> reply;
    std::string key;  // ApiKeys::Admission::key
  };
  using Action = void (HttpApi::*)(const Call&);
  struct Route {
    const char* path;  // '*' matches what is not empty; the first route that matches counts
    const char* method;
    Action action;
    bool inline_;  // quick enough for a socket thread
  };
  static const std::vector<Route>& Routes();
  void RunRoute(const Route& route, Call call);

  void Health(const Call& call);
  void Ready(const Call& call);
  void Version(const Call& call);
  void Metrics(const Call& call);
  void Page(const Call& call);
  void WebFileOfPage(const Call& call);
  void OpenApi(const Call& call);
  void Models(const Call& call);
  void Model(const Call& call);
  void Completions(const Call& call);
  void ChatCompletions(const Call& call);
  void Tokenize(const Call& call);
  void Detokenize(const Call& call);
  void DebugEngine(const Call& call);
  void Embeddings(const Call& call);
  void InferLive(const Call& call);
  void InferReady(const Call& call);
  void InferServer(const Call& call);
  void InferModelReady(const Call& call);
  void InferModel(const Call& call);
  void Infer(const Call& call);

  // Submits and connects pump and reply. spec has its prompts.
  void Generate(const Call& call, const ModelService& service, GenerationSpec spec,
                const OpenAiOptions& options);
  // What does not come from the body alone: a request that the head does not name has the body's
  // id, made safe, also in the answer's head and the log; the tenant is the key where there are
  // keys, else the body's user.
  void SettleIdentity(const Call& call, GenerationSpec* spec);
  // Submits and connects pump and reply.
  void Start(const Call& call, const ModelService& service, const GenerationSpec& spec,
             const std::vector<Request>& requests, std::shared_ptr<Sink> sink, bool stream = false);
  void Answer(const Call& call, const nlohmann::ordered_json& json);
  // Names every unknown field once in the log.
  void NoteUnknown(const std::vector<std::string>& fields);
  void Fail(const Call& call, const Status& status);

  const HttpConfig config_;
  ServerState* const state_;
  TextPool* const pool_;
  const RequestCounters* const grpc_counters_;
  ApiKeys* const keys_;
  RequestCounters counters_;
  std::mutex mutex_;
  std::set<std::string> noted_fields_;  // guarded by mutex_
};

}  // namespace palu
