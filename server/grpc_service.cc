#include "server/grpc_service.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <string>
#include <utility>

#include "palu/v1/inference.grpc.pb.h"
#include "server/grpc_calls.h"
#include "server/grpc_convert.h"
#include "server/grpc_infer.h"

namespace palu {
namespace {

constexpr const char* kServiceName = "palu.v1.InferenceService";

// gRPC's own messages are for whoever debugs gRPC.
void LogGrpc(gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); }

class Service final : public v1::InferenceService::CallbackService {
 public:
  explicit Service(GrpcShared* shared) : shared_(shared) {}

  grpc::ServerWriteReactor<v1::GenerateChunk>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return StreamGenerateCall::Start(shared_, context, request);
  }

  grpc::ServerUnaryReactor* GenerateUnary(grpc::CallbackServerContext* context,
                                          const v1::GenerateRequest* request,
                                          v1::GenerateResponse* response) override {
    return UnaryPumpCall::Start(
        std::make_shared<UnaryGenerateCall>(shared_, context, request, response));
  }

  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override {
    return UnaryPumpCall::Start(std::make_shared<EmbedCall>(shared_, context, request, response));
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Run("Tokenize", context, [request, response](const ModelService& service) {
      const bool special = !request->has_add_special_tokens() || request->add_special_tokens();
      for (const int32_t id : service.tokenizer().Encode(request->text(), special)) {
        response->add_ids(id);
      }
      response->set_max_model_len(service.info().max_context_tokens);
      return Status{};
    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Run("Detokenize", context, [request, response](const ModelService& service) {
      const std::vector<int32_t> ids(request->ids().begin(), request->ids().end());
      for (const int32_t id : ids) {
        if (id >= 0 && id < service.info().vocab_size) continue;
        return InvalidArgument(
            "'ids' has token id " + std::to_string(id) + ", which the model does not have", "ids");
      }
      response->set_text(service.tokenizer().Decode(ids, false));
      return Status{};
    });
  }

  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::ModelInfo* response) override {
    return Run("GetModelInfo", context, [response](const ModelService& service) {
      *response = ToProto(service.info());
      return Status{};
    });
  }

  grpc::ServerUnaryReactor* GetServerStats(grpc::CallbackServerContext* context,
                                           const v1::GetServerStatsRequest* request,
                                           v1::ServerStats* response) override {
    return Run("GetServerStats", context, [this, response](const ModelService& service) {
      const std::chrono::duration<double> uptime =
          std::chrono::steady_clock::now() - shared_->state->started();
      *response = ToProto(service.engine().metrics(), uptime.count());
      return Status{};
    });
  }

 private:
  // Request and response live until the reactor is finished.
  grpc::ServerUnaryReactor* Run(const char* method, grpc::CallbackServerContext* context,
                                std::function<Status(const ModelService&)> work) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const CallLog log(context, method);
    ApiKeys::Admission admission;
    const Status admitted = Admit(shared_, *context, &admission);
    if (!admitted.ok()) {
      const grpc::Status refused = ToGrpcStatus(admitted);
      log.End(refused, shared_->counters);
      reactor->Finish(refused);
      return reactor;
    }
    shared_->pool->Post([shared = shared_, reactor, log, work = std::move(work),
                         permit = std::move(admission.permit)] {
      const auto service = shared->state->Service();
      const grpc::Status status = ToGrpcStatus(service ? work(**service) : service.error());
      log.End(status, shared->counters);
      reactor->Finish(status);
    });
    return reactor;
  }

  GrpcShared* const shared_;
};

std::shared_ptr<grpc::ServerCredentials> Credentials(const TlsConfig& tls) {
  if (tls.cert_file.empty()) return grpc::InsecureServerCredentials();
  constexpr unsigned kRefreshSeconds = 1;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          tls.key_file, tls.cert_file, tls.client_ca_file, kRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (!tls.client_ca_file.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

// Also lets clients ping as often as their libraries commonly do, also between calls.
void SetKeepalive(const GrpcConfig& config, grpc::ServerBuilder* builder) {
  constexpr int kShortestClientPingMs = 5000;
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kShortestClientPingMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (config.keepalive.count() == 0) return;
  const int milliseconds = static_cast<int>(config.keepalive.count());
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

std::string AddressOf(const GrpcConfig& config) {
  const bool ipv6 = config.address.find(':') != std::string::npos;
  return (ipv6 ? "[" + config.address + "]" : config.address) + ":" + std::to_string(config.port);
}

}  // namespace

class GrpcServer::Impl {
 public:
  Impl(const GrpcConfig& config, const TlsConfig& tls, const ServerState* state, TextPool* pool,
       RequestCounters* counters, ApiKeys* keys)
      : service_(&shared_) {
    shared_.state = state;
    shared_.pool = pool;
    shared_.counters = counters;
    shared_.keys = keys;
    gpr_set_log_function(LogGrpc);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // Otherwise a second server on the same port would silently share it.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    SetKeepalive(config, &builder);
    builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes));
    builder.AddListeningPort(AddressOf(config), Credentials(tls), &port_);
    builder.RegisterService(&service_);
    builder.RegisterService(open_inference_.get());
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      throw ConfigError("cannot listen on " + AddressOf(config) +
                        " (grpc.address, grpc.port): the port is in use or the address is not "
                        "one of this machine");
    }
    SetServing(false);
  }

  ~Impl() { Shutdown(std::chrono::milliseconds(0)); }

  void SetServing(bool serving) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }

  void Shutdown(std::chrono::milliseconds grace) {
    if (down_) return;
    down_ = true;
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
  }

  bool idle() const { return shared_.active.load() == 0; }
  int port() const { return port_; }

 private:
  GrpcShared shared_;
  Service service_;
  const std::unique_ptr<grpc::Service> open_inference_ = NewOpenInferenceService(&shared_);
  int port_ = 0;
  bool down_ = false;
  std::unique_ptr<grpc::Server> server_;
};

GrpcServer::GrpcServer(const GrpcConfig& config, const TlsConfig& tls, const ServerState* state,
                       TextPool* pool, RequestCounters* counters, ApiKeys* keys)
    : impl_(std::make_unique<Impl>(config, tls, state, pool, counters, keys)) {}
GrpcServer::~GrpcServer() = default;
void GrpcServer::SetServing(bool serving) { impl_->SetServing(serving); }
bool GrpcServer::idle() const { return impl_->idle(); }
int GrpcServer::port() const { return impl_->port(); }
void GrpcServer::Shutdown(std::chrono::milliseconds grace) { impl_->Shutdown(grace); }

}  // namespace palu
