// The two kinds of generation calls. Included by the gRPC server only.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "palu/v1/inference.pb.h"
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
  std::atomic<int> active{0};
};

// Counts the call and writes the access log.
void NoteGrpcCall(GrpcShared* shared, const char* method, const grpc::Status& status,
                  std::chrono::steady_clock::time_point started);

// Common part: from the request to a pump, and cancellation. Thread-safe.
class GenerateCall : public Sink {
 public:
  GenerateCall(GrpcShared* shared, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request)
      : shared_(shared), context_(context), request_(request), detail_(DetailOf(*request)) {
    shared_->active.fetch_add(1);
  }
  ~GenerateCall() override { shared_->active.fetch_sub(1); }

 protected:
  // On the pool. Not ok: the call ends with this.
  Status Begin(std::shared_ptr<Sink> self);
  // Called once the choices' number and the model are known, before any Send.
  virtual void Prepare(int num_choices) = 0;
  void CancelPump();
  void ResumePump();
  bool cancelled() const { return cancelled_.load(); }
  void Note(const char* method, const grpc::Status& status) const {
    NoteGrpcCall(shared_, method, status, started_);
  }

  GrpcShared* const shared_;
  grpc::CallbackServerContext* const context_;
  const v1::GenerateRequest* const request_;
  const GrpcDetail detail_;
  std::shared_ptr<const ModelService> service_;
  std::string request_id_;

 private:
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::atomic<bool> cancelled_{false};
  std::mutex pump_mutex_;
  std::weak_ptr<ResponsePump> pump_;  // guarded by pump_mutex_
};

// Collects the answer. Lives until gRPC is done with it and the pump has let go.
class UnaryGenerateCall final : public GenerateCall, public grpc::ServerUnaryReactor {
 public:
  static UnaryGenerateCall* Start(GrpcShared* shared, grpc::CallbackServerContext* context,
                                  const v1::GenerateRequest* request,
                                  v1::GenerateResponse* response);
  void Send(const PumpOutput& output) override;
  bool full() const override { return false; }

 private:
  UnaryGenerateCall(GrpcShared* shared, grpc::CallbackServerContext* context,
                    const v1::GenerateRequest* request, v1::GenerateResponse* response)
      : GenerateCall(shared, context, request), response_(response) {}
  void Prepare(int num_choices) override;
  void End(const Status& status);
  void OnCancel() override { CancelPump(); }
  void OnDone() override { self_.reset(); }

  v1::GenerateResponse* const response_;
  std::shared_ptr<UnaryGenerateCall> self_;
};

// Streams chunks. Lives likewise.
class StreamGenerateCall final : public GenerateCall,
                                 public grpc::ServerWriteReactor<v1::GenerateChunk> {
 public:
  static StreamGenerateCall* Start(GrpcShared* shared, grpc::CallbackServerContext* context,
                                   const v1::GenerateRequest* request);
  void Send(const PumpOutput& output) override;
  bool full() const override;

 private:
  StreamGenerateCall(GrpcShared* shared, grpc::CallbackServerContext* context,
                     const v1::GenerateRequest* request)
      : GenerateCall(shared, context, request) {}
  void Prepare(int num_choices) override {}
  void End(const Status& status);
  void WriteNextLocked();
  void OnWriteDone(bool ok) override;
  void OnCancel() override { CancelPump(); }
  void OnDone() override { self_.reset(); }

  mutable std::mutex mutex_;
  std::deque<v1::GenerateChunk> queue_;  // guarded by mutex_; the front is being written
  bool writing_ = false;                 // likewise
  bool ended_ = false;                   // likewise
  grpc::Status status_;                  // likewise; meaningful once ended_
  std::shared_ptr<StreamGenerateCall> self_;
};

}  // namespace palu
