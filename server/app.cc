#include "server/app.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <future>
#include <thread>
#include <utility>

namespace palu {
namespace {

// What is left at the end may still be written out for so long.
constexpr auto kFlushTime = std::chrono::milliseconds(2000);

// When the files that there are were last written.
std::vector<std::filesystem::file_time_type> TlsTimes(const TlsConfig& tls) {
  std::vector<std::filesystem::file_time_type> times;
  for (const std::string& file : {tls.cert_file, tls.key_file, tls.client_ca_file}) {
    std::error_code ignored;
    if (!file.empty()) times.push_back(std::filesystem::last_write_time(file, ignored));
  }
  return times;
}

}  // namespace

class App::Loader {
 public:
  explicit Loader(const ServerConfig& config)
      : result_(std::async(std::launch::async, [config] { return LoadModel(config); })) {}
  bool done() const {
    return result_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  std::unique_ptr<LoadedModel> Take() { return result_.get(); }

 private:
  std::future<std::unique_ptr<LoadedModel>> result_;
};

App::App(const ServerConfig& config)
    : config_(config),
      security_(config.security),
      keys_(config.security),
      pool_(config.http.text_threads),
      api_(config_.http, &state_, &pool_, &grpc_counters_, &keys_) {
  http_ = std::make_unique<HttpServer>(config_.http, &api_, config_.tls);
  tls_times_ = TlsTimes(config_.tls);
  if (config_.grpc.enabled) {
    grpc_ = std::make_unique<GrpcServer>(config_.grpc, config_.tls, &state_, &pool_,
                                         &grpc_counters_, &keys_);
  }
  http_->Start();
  spdlog::info("HTTP on {}:{}", config_.http.address, http_->port());
  if (grpc_) spdlog::info("gRPC on {}:{}", config_.grpc.address, grpc_->port());
}

// Whoever gives work to the pool stops before the pool, whoever the pool's work calls after it.
App::~App() {
  if (loader_ != nullptr) loader_.reset();
  Abort();
  if (grpc_ != nullptr) grpc_->Shutdown(std::chrono::milliseconds(100));
  pool_.Join();
  http_.reset();
}

void App::StartLoading() { loader_ = std::make_unique<Loader>(config_); }

bool App::PollLoaded() {
  if (loader_ == nullptr) return model_ != nullptr;
  if (!loader_->done()) return false;
  const std::unique_ptr<Loader> loader = std::move(loader_);
  model_ = loader->Take();
  ModelService::Parts parts;
  parts.engine = model_->engine.get();
  parts.tokenizer = model_->tokenizer.get();
  parts.chat_template = model_->chat_template.get();
  parts.structured = model_->structured.get();
  parts.pool = &pool_;
  parts.backend = &model_->runner->backend();
  parts.max_queue_requests = config_.engine.max_queue_requests;
  spdlog::info("{}", DescribeModel(*model_));
  state_.SetReady(std::make_shared<const ModelService>(model_->info, parts));
  if (grpc_ != nullptr) grpc_->SetServing(true);
  spdlog::info("ready");
  return true;
}

void App::Reload(const SecurityConfig& config) {
  keys_.Reload(config);
  security_ = config;
  if (keys_.size() > 0) spdlog::info("{} API keys", keys_.size());
}

void App::ReloadTls() {
  if (config_.tls.cert_file.empty()) return;
  tls_times_ = TlsTimes(config_.tls);
  try {
    http_->ReloadTls(config_.tls);
    spdlog::info("TLS certificates were read again");
  } catch (const ConfigError& error) {
    spdlog::error("the TLS certificate stays as it was: {}", error.what());
  }
}

void App::PollFiles() {
  if (TlsTimes(config_.tls) != tls_times_) ReloadTls();
  if (!keys_.FileChanged()) return;
  try {
    Reload(SecurityConfig(security_));
  } catch (const ConfigError& error) {
    spdlog::error("the API keys stay as they were: {}", error.what());
  }
}

bool App::healthy() const { return model_ == nullptr || model_->engine->healthy(); }

App::Progress App::progress() const {
  if (model_ == nullptr) return {};
  const MetricsSnapshot metrics = model_->engine->metrics();
  return {!model_->engine->idle(), metrics.batch_tokens.count};
}

void App::BeginDrain() {
  state_.SetDraining();
  if (grpc_ != nullptr) grpc_->SetServing(false);
  http_->Drain();
  if (model_ != nullptr) model_->engine->Drain();
}

bool App::drained() const {
  return (model_ == nullptr || model_->engine->idle()) && http_->idle() &&
         (grpc_ == nullptr || grpc_->idle());
}

void App::Abort() {
  BeginDrain();
  if (model_ != nullptr) model_->engine->Stop();
  const auto deadline = std::chrono::steady_clock::now() + kFlushTime;
  while (!drained() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace palu
