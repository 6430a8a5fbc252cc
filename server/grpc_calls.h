// The two kinds of generation calls. Included by the gRPC server only.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "palu/v1/inference.pb.h"
#include "server/api_keys.h"
#include "server/grpc_call_log.h"
#include "server/grpc_convert.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/response_pump.h"
#include "server/sink.h"

namespace palu {

// What calls share.
struct GrpcShared {
  const ServerState* state = nullptr;
  TextPool* pool = nullptr;
  RequestCounters* counters = nullptr;
  ApiKeys* keys = nullptr;
  std::atomic<int> active{0};
};

// kUnauthenticated or kResourceExhausted, as ApiKeys::Admit, by the call's bearer metadata.
Status Admit(GrpcShared* shared, const grpc::CallbackServerContext& context,
             ApiKeys::Admission* admission);

// Common part: from the request to a pump, and cancellation. Thread-safe.
class PumpCall : public Sink {
 public:
  // own_id: of the request's message.
  PumpCall(GrpcShared* shared, grpc::CallbackServerContext* context, const char* method,
           std::string_view own_id)
      : shared_(shared), context_(context), log_(context, method, own_id) {
    shared_->active.fetch_add(1);
  }
  ~PumpCall() override { shared_->active.fetch_sub(1); }

 protected:
  // On the pool. Not ok: the call ends with this.
  Status Begin(std::shared_ptr<Sink> self);
  // What is asked for; service_ is set.
  virtual Result<GenerationSpec> MakeSpec() = 0;
  // Called once the model and the number of prompts are known, before any Send.
  virtual void Prepare(const GenerationSpec& spec) {}
  void CancelPump();
  void ResumePump();
  bool cancelled() const { return cancelled_.load(); }
  void Note(const grpc::Status& status) const { log_.End(status, shared_->counters); }

  GrpcShared* const shared_;
  grpc::CallbackServerContext* const context_;
  CallLog log_;
  std::shared_ptr<const ModelService> service_;
  std::string request_id_;

 private:
  std::atomic<bool> cancelled_{false};
  ApiKeys::Admission admission_;
  std::mutex pump_mutex_;
  std::weak_ptr<ResponsePump> pump_;  // guarded by pump_mutex_
};

// A call with one answer at the end. Lives until gRPC is done with it and the pump has let go.
class UnaryPumpCall : public PumpCall, public grpc::ServerUnaryReactor {
 public:
  static UnaryPumpCall* Start(const std::shared_ptr<UnaryPumpCall>& call);
  bool full() const override { return false; }

 protected:
  using PumpCall::PumpCall;
  void End(const Status& status);

 private:
  void OnCancel() override { CancelPump(); }
  void OnDone() override { self_.reset(); }

  std::shared_ptr<UnaryPumpCall> self_;
};

class UnaryGenerateCall final : public UnaryPumpCall {
 public:
  UnaryGenerateCall(GrpcShared* shared, grpc::CallbackServerContext* context,
                    const v1::GenerateRequest* request, v1::GenerateResponse* response)
      : UnaryPumpCall(shared, context, "GenerateUnary", request->request_id()),
        request_(request),
        response_(response),
        detail_(DetailOf(*request)) {}
  void Send(const PumpOutput& output) override;

 private:
  Result<GenerationSpec> MakeSpec() override { return ToGenerationSpec(*request_); }
  void Prepare(const GenerationSpec& spec) override;

  const v1::GenerateRequest* const request_;
  v1::GenerateResponse* const response_;
  const GrpcDetail detail_;
};

class EmbedCall final : public UnaryPumpCall {
 public:
  EmbedCall(GrpcShared* shared, grpc::CallbackServerContext* context,
            const v1::EmbedRequest* request, v1::EmbedResponse* response)
      : UnaryPumpCall(shared, context, "Embed", request->request_id()),
        request_(request),
        response_(response) {}
  void Send(const PumpOutput& output) override;

 private:
  Result<GenerationSpec> MakeSpec() override;
  void Prepare(const GenerationSpec& spec) override;

  const v1::EmbedRequest* const request_;
  v1::EmbedResponse* const response_;
};

// Streams chunks. Lives likewise.
class StreamGenerateCall final : public PumpCall,
                                 public grpc::ServerWriteReactor<v1::GenerateChunk> {
 public:
  static StreamGenerateCall* Start(GrpcShared* shared, grpc::CallbackServerContext* context,
                                   const v1::GenerateRequest* request);
  void Send(const PumpOutput& output) override;
  bool full() const override;

 private:
  StreamGenerateCall(GrpcShared* shared, grpc::CallbackServerContext* context,
                     const v1::GenerateRequest* request)
      : PumpCall(shared, context, "Generate", request->request_id()),
        request_(request),
        detail_(DetailOf(*request)) {}
  Result<GenerationSpec> MakeSpec() override { return ToGenerationSpec(*request_); }
  void End(const Status& status);
  void WriteNextLocked();
  void OnWriteDone(bool ok) override;
  void OnCancel() override { CancelPump(); }
  void OnDone() override { self_.reset(); }

  const v1::GenerateRequest* const request_;
  const GrpcDetail detail_;
  mutable std::mutex mutex_;
  std::deque<v1::GenerateChunk> queue_;  // guarded by mutex_; the front is being written
  bool writing_ = false;                 // likewise
  bool ended_ = false;                   // likewise
  grpc::Status status_;                  // likewise; meaningful once ended_
  std::shared_ptr<StreamGenerateCall> self_;
};

}  // namespace palu
