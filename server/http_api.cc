// HttpApi: routing, and the routes that need no request body.
#include "server/http_api.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string_view>

#include "server/embedded_files.h"
#include "server/error_table.h"
#include "server/logging.h"
#include "server/metrics_page.h"
#include "server/openai_sink.h"
#include "server/version.h"

namespace palu {
namespace {

constexpr size_t kMaxNotedFields = 64;

bool Matches(std::string_view pattern, std::string_view path) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == path;
  const std::string_view suffix = pattern.substr(star + 1);
  return path.size() >= pattern.size() && path.substr(0, star) == pattern.substr(0, star) &&
         path.substr(path.size() - suffix.size()) == suffix;
}

// What a key is needed for, where there are keys.
bool IsGuarded(std::string_view path) {
  for (const std::string_view root : {"/v1", "/v2", "/tokenize", "/detokenize", "/debug"}) {
    if (path.substr(0, root.size()) == root &&
        (path.size() == root.size() || path[root.size()] == '/')) {
      return true;
    }
  }
  return false;
}

// A missing type is taken as JSON; what the body is shows when it is parsed.
bool IsJson(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  std::string lower;
  for (const char c : type) {
    if (c != ' ' && c != '\t') lower += static_cast<char>(std::tolower(c));
  }
  return lower.empty() || lower == "application/json" ||
         (lower.rfind("application/", 0) == 0 && lower.size() > 5 &&
          lower.compare(lower.size() - 5, 5, "+json") == 0);
}

// The page runs nothing and reaches nothing but what this server serves.
std::vector<std::pair<std::string, std::string>> PageHeaders() {
  return {{"Cache-Control", "no-cache"},
          {"X-Content-Type-Options", "nosniff"},
          {"Referrer-Policy", "no-referrer"},
          {"Content-Security-Policy",
           "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
           "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}};
}

HttpResponse Json(const nlohmann::ordered_json& json) {
  HttpResponse response;
  response.body = Dump(json);
  return response;
}

nlohmann::ordered_json ModelJson(const ModelInfo& info) {
  return {{"id", info.name},
          {"object", "model"},
          {"created", info.created},
          {"owned_by", "palu"},
          {"root", info.name},
          {"parent", nullptr},
          {"max_model_len", info.max_context_tokens}};
}

}  // namespace

HttpApi::HttpApi(const HttpConfig& config, ServerState* state, TextPool* pool,
                 const RequestCounters* grpc_counters, ApiKeys* keys)
    : config_(config), state_(state), pool_(pool), grpc_counters_(grpc_counters), keys_(keys) {}

const std::vector<HttpApi::Route>& HttpApi::Routes() {
  static const std::vector<Route> routes = {
      {"/", "GET", &HttpApi::Page, true},
      {"/web/*", "GET", &HttpApi::WebFileOfPage, true},
      {"/health", "GET", &HttpApi::Health, true},
      {"/ready", "GET", &HttpApi::Ready, true},
      {"/version", "GET", &HttpApi::Version, true},
      {"/metrics", "GET", &HttpApi::Metrics, false},
      {"/openapi.json", "GET", &HttpApi::OpenApi, true},
      {"/v1/models", "GET", &HttpApi::Models, true},
      {"/v1/models/*", "GET", &HttpApi::Model, true},
      {"/v1/completions", "POST", &HttpApi::Completions, false},
      {"/v1/chat/completions", "POST", &HttpApi::ChatCompletions, false},
      {"/v1/embeddings", "POST", &HttpApi::Embeddings, false},
      {"/v2", "GET", &HttpApi::InferServer, true},
      {"/v2/health/live", "GET", &HttpApi::InferLive, true},
      {"/v2/health/ready", "GET", &HttpApi::InferReady, true},
      {"/v2/models/*/ready", "GET", &HttpApi::InferModelReady, true},
      {"/v2/models/*/infer", "POST", &HttpApi::Infer, false},
      {"/v2/models/*", "GET", &HttpApi::InferModel, true},
      {"/debug/engine", "GET", &HttpApi::DebugEngine, true},
      {"/tokenize", "POST", &HttpApi::Tokenize, false},
      {"/detokenize", "POST", &HttpApi::Detokenize, false},
  };
  return routes;
}

void HttpApi::Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  const auto& routes = Routes();
  const auto found = std::find_if(routes.begin(), routes.end(), [&request](const Route& route) {
    return Matches(route.path, request.path);
  });
  Call call{std::move(request), std::move(reply), ""};
  const std::string& method = call.request.method;
  if (found == routes.end()) {
    if (method == "OPTIONS" && call.request.path == "*") {
      return call.reply->Respond({204, "", "", {{"Allow", "GET, HEAD, POST, OPTIONS"}}});
    }
    return call.reply->Respond(Refuse(404, "There is nothing at this path"));
  }
  call.reply->SetRoute(found->path);
  const bool get = std::string_view(found->method) == "GET";
  const std::string allow = get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (method == "OPTIONS") {
    HttpResponse response{204, "", "", {{"Allow", allow}}};
    if (!call.request.origin.empty()) {
      response.headers.emplace_back("Access-Control-Allow-Methods", allow);
      response.headers.emplace_back("Access-Control-Allow-Headers",
                                    "Authorization, Content-Type, X-Request-Id, *");
      response.headers.emplace_back("Access-Control-Max-Age", "600");
    }
    return call.reply->Respond(std::move(response));
  }
  if (method != found->method && !(get && method == "HEAD")) {
    HttpResponse response = Refuse(405, "This path takes " + allow + ", not this method");
    response.headers.emplace_back("Allow", allow);
    return call.reply->Respond(std::move(response));
  }
  RunRoute(*found, std::move(call));
}

std::optional<HttpResponse> HttpApi::RefuseHead(const HttpRequest& request) {
  // Browsers ask for leave without a key.
  if (!IsGuarded(request.path) || request.method == "OPTIONS") return std::nullopt;
  const Status status = keys_->Check(request.authorization);
  if (status.ok()) return std::nullopt;
  HttpResponse response = ErrorResponse(status);
  response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

void HttpApi::RunRoute(const Route& route, Call call) {
  if (IsGuarded(call.request.path)) {
    ApiKeys::Admission admission;
    const Status status = keys_->Admit(call.request.authorization, &admission);
    if (!status.ok()) return Fail(call, status);
    call.reply->Hold(std::move(admission.permit));
    call.key = std::move(admission.key);
  }
  if (std::string_view(route.method) == "POST" && !IsJson(call.request.content_type)) {
    return call.reply->Respond(Refuse(415, "The Content-Type must be application/json"));
  }
  const auto run = [this, action = route.action](const Call& ready) {
    try {
      (this->*action)(ready);
    } catch (const std::exception& error) {
      const RequestLogFields fields(ready.request.request_id, ready.request.traceparent);
      spdlog::error("request {} failed: {}", ready.request.request_id, error.what());
      Fail(ready, {StatusCode::kInternal, "Internal error", ""});
    }
  };
  if (config_.log_prompts && !call.request.body.empty()) {
    const RequestLogFields fields(call.request.request_id, call.request.traceparent);
    spdlog::info("request {} {}", call.request.request_id, Dump(call.request.body));
  }
  if (route.inline_) return run(call);
  pool_->Post([run, call = std::move(call)] { run(call); });
}

HttpResponse HttpApi::Refuse(int status, const std::string& message) {
  HttpResponse response;
  response.status = status;
  response.body = ErrorBody(message, HttpErrorType(status), "", status);
  return response;
}

std::vector<std::pair<std::string, std::string>> HttpApi::CorsHeaders(const std::string& origin) {
  const auto& allowed = config_.cors_origins;
  if (origin.empty()) return {};
  const char* expose = "x-request-id";
  if (std::find(allowed.begin(), allowed.end(), "*") != allowed.end()) {
    return {{"Access-Control-Allow-Origin", "*"}, {"Access-Control-Expose-Headers", expose}};
  }
  if (std::find(allowed.begin(), allowed.end(), origin) == allowed.end()) return {};
  return {{"Access-Control-Allow-Origin", origin},
          {"Access-Control-Expose-Headers", expose},
          {"Vary", "Origin"}};
}

void HttpApi::DebugEngine(const Call& call) {
  const auto service = state_->service();
  if (!config_.debug || service == nullptr) {
    return call.reply->Respond(Refuse(404, "There is nothing at this path"));
  }
  const MetricsSnapshot m = service->engine().metrics();
  const EngineLimits& limits = service->engine().limits();
  Answer(call,
         {{"healthy", service->engine().healthy()},
          {"idle", service->engine().idle()},
          {"draining", state_->draining()},
          {"sequences_running", m.requests_running},
          {"sequences_waiting", m.requests_waiting},
          {"blocks",
           {{"total", m.blocks_total},
            {"used", m.blocks_used},
            {"cached", m.blocks_cached},
            {"tokens_each", limits.block_tokens}}},
          {"preemptions", m.preemptions},
          {"prefix_cache",
           {{"queried_tokens", m.prefix_queries_tokens}, {"hit_tokens", m.prefix_hits_tokens}}},
          {"max_context_tokens", limits.max_context_tokens}});
}

void HttpApi::Done(const HttpAccess& access) {
  counters_.Add(access.route, std::to_string(access.status));
  // Probes and scrapes come every few seconds.
  const std::string_view route = access.route;
  const RequestLogFields fields(access.request_id, access.traceparent);
  const bool routine = route == "/health" || route == "/ready" || route == "/metrics";
  spdlog::log(routine && access.status == 200 ? spdlog::level::debug : spdlog::level::info,
              "http {} {} {} {}B {:.1f}ms peer={} id={}{}{}", access.method, route, access.status,
              access.bytes, access.milliseconds, access.peer, access.request_id,
              AccessDetails(access.outcome, access.traceparent), access.aborted ? " aborted" : "");
  const double slow = static_cast<double>(config_.slow_request.count());
  if (slow == 0 || access.milliseconds < slow) return;
  spdlog::warn("slow request {}: {:.0f}ms, queue {:.0f}ms, prefill {:.0f}ms, decode {:.0f}ms",
               access.request_id, access.milliseconds, access.outcome.queue_ms,
               access.outcome.prefill_ms, access.outcome.decode_ms);
}

void HttpApi::Answer(const Call& call, const nlohmann::ordered_json& json) {
  call.reply->Respond(Json(json));
}

void HttpApi::Fail(const Call& call, const Status& status) {
  call.reply->Respond(ErrorResponse(status));
}

void HttpApi::NoteUnknown(const std::vector<std::string>& fields) {
  for (const std::string& field : fields) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (noted_fields_.size() >= kMaxNotedFields || !noted_fields_.insert(field).second) continue;
    spdlog::warn("requests have the field '{}', which has no effect here (said once)",
                 Dump(field.substr(0, 64)));
  }
}

void HttpApi::Health(const Call& call) {
  const auto service = state_->service();
  if (service != nullptr && !service->engine().healthy()) {
    return call.reply->Respond(Refuse(503, "The device failed"));
  }
  call.reply->Respond(Json({{"status", "ok"}}));
}

void HttpApi::Ready(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  call.reply->Respond(Json({{"status", "ready"}}));
}

void HttpApi::Version(const Call& call) {
  call.reply->Respond(Json({{"version", kVersion}, {"commit", kCommit}, {"build", kBuildOptions}}));
}

void HttpApi::Metrics(const Call& call) {
  call.reply->Respond(
      {200, kMetricsContentType, MetricsPage(*state_, counters_, *grpc_counters_), {}});
}

void HttpApi::Page(const Call& call) {
  call.reply->Respond({200, "text/html; charset=utf-8", std::string(kIndexHtml), PageHeaders()});
}

void HttpApi::WebFileOfPage(const Call& call) {
  const WebFile* file =
      FindWebFile(std::string_view(call.request.path).substr(std::string_view("/web/").size()));
  if (file == nullptr) return call.reply->Respond(Refuse(404, "There is nothing at this path"));
  call.reply->Respond({200, file->content_type, std::string(file->content), PageHeaders()});
}

void HttpApi::OpenApi(const Call& call) {
  call.reply->Respond({200, "application/json", std::string(kOpenApiJson), {}});
}

void HttpApi::Models(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  call.reply->Respond(
      Json({{"object", "list"},
            {"data", nlohmann::ordered_json::array({ModelJson((*service)->info())})}}));
}

void HttpApi::Model(const Call& call) {
  const auto service = state_->Service();
  if (!service) return Fail(call, service.error());
  const std::string name = call.request.path.substr(std::string_view("/v1/models/").size());
  const Status status = (*service)->CheckModel(name);
  if (!status.ok()) return Fail(call, status);
  call.reply->Respond(Json(ModelJson((*service)->info())));
}

}  // namespace palu
