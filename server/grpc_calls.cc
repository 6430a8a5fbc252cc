#include "server/grpc_calls.h"

#include <utility>

#include "server/openai_embeddings.h"
#include "server/request_id.h"

namespace palu {
namespace {

// Chunks waiting for the transport before the mailbox is left unread.
constexpr size_t kMaxQueuedChunks = 64;

std::optional<std::chrono::steady_clock::time_point> DeadlineOf(
    const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return std::nullopt;
  const auto left = deadline - std::chrono::system_clock::now();
  return std::chrono::steady_clock::now() + left;
}

}  // namespace

Status Admit(GrpcShared* shared, const grpc::CallbackServerContext& context,
             ApiKeys::Admission* admission) {
  return shared->keys->Admit(MetadataOf(context, "authorization"), admission);
}

Status PumpCall::Begin(std::shared_ptr<Sink> self) {
  const Status admitted = Admit(shared_, *context_, &admission_);
  if (!admitted.ok()) return admitted;
  const Result<std::shared_ptr<const ModelService>> service = shared_->state->Service();
  if (!service) return service.error();
  service_ = *service;
  Result<GenerationSpec> spec = MakeSpec();
  if (!spec) return spec.error();
  const Status model = service_->CheckModel(spec->model);
  if (!model.ok()) return model;
  spec->deadline = DeadlineOf(*context_);
  if (!admission_.key.empty()) spec->tenant = admission_.key;
  spec->request_id = SanitizeRequestId(spec->request_id);
  if (spec->request_id.empty()) spec->request_id = log_.id();
  request_id_ = spec->request_id;
  const Result<std::vector<Request>> requests = service_->Map(*spec);
  if (!requests) return requests.error();
  const Result<std::shared_ptr<ResponsePump>> pump =
      service_->Generate(*requests, *spec, std::move(self));
  if (!pump) return pump.error();
  Prepare(*spec);
  {
    std::lock_guard<std::mutex> lock(pump_mutex_);
    pump_ = *pump;
  }
  if (cancelled()) (*pump)->Cancel();
  (*pump)->Start();
  return {};
}

void PumpCall::CancelPump() {
  cancelled_.store(true);
  std::shared_ptr<ResponsePump> pump;
  {
    std::lock_guard<std::mutex> lock(pump_mutex_);
    pump = pump_.lock();
  }
  if (pump != nullptr) pump->Cancel();
}

void PumpCall::ResumePump() {
  std::shared_ptr<ResponsePump> pump;
  {
    std::lock_guard<std::mutex> lock(pump_mutex_);
    pump = pump_.lock();
  }
  if (pump != nullptr) pump->Resume();
}

UnaryPumpCall* UnaryPumpCall::Start(const std::shared_ptr<UnaryPumpCall>& call) {
  call->self_ = call;
  call->shared_->pool->Post([call] {
    const Status status = call->Begin(call);
    if (!status.ok()) call->End(status);
  });
  return call.get();
}

void UnaryPumpCall::End(const Status& status) {
  const grpc::Status mapped = ToGrpcStatus(status);
  Note(mapped);
  Finish(mapped);
}

void UnaryGenerateCall::Prepare(const GenerationSpec& spec) {
  response_->set_request_id(request_id_);
  response_->set_model(service_->info().name);
  for (int i = 0; i < spec.n; ++i) response_->add_choices()->set_index(i);
}

void UnaryGenerateCall::Send(const PumpOutput& output) {
  AddToResponse(output, detail_, service_->tokenizer(), response_);
  if (!output.finished) return;
  log_.SetOutcome(OutcomeOf(output));
  End(output.status);
}

Result<GenerationSpec> EmbedCall::MakeSpec() {
  const Status status = CheckDimensions(request_->dimensions(), service_->info().hidden_size);
  if (!status.ok()) return tl::unexpected(status);
  return ToEmbeddingSpec(*request_, service_->info().pooling);
}

void EmbedCall::Prepare(const GenerationSpec& spec) {
  response_->set_request_id(request_id_);
  response_->set_model(service_->info().name);
  for (size_t i = 0; i < spec.prompts.size(); ++i) response_->add_embeddings();
}

void EmbedCall::Send(const PumpOutput& output) {
  EmbeddingOptions options;
  options.dimensions = request_->dimensions();
  if (request_->has_normalize()) options.normalize = request_->normalize();
  for (const PromptEmbedding& embedding : output.embeddings) {
    const std::vector<float> values = FinishEmbedding(embedding.values, options);
    response_->mutable_embeddings(embedding.prompt)
        ->mutable_values()
        ->Add(values.begin(), values.end());
  }
  if (!output.finished) return;
  *response_->mutable_usage() = ToProto(output.usage);
  log_.SetOutcome(OutcomeOf(output));
  End(output.status);
}

StreamGenerateCall* StreamGenerateCall::Start(GrpcShared* shared,
                                              grpc::CallbackServerContext* context,
                                              const v1::GenerateRequest* request) {
  auto* call = new StreamGenerateCall(shared, context, request);
  call->self_.reset(call);
  shared->pool->Post([self = call->self_] {
    const Status status = self->Begin(self);
    if (!status.ok()) self->End(status);
  });
  return call;
}

bool StreamGenerateCall::full() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !cancelled() && queue_.size() > kMaxQueuedChunks;
}

void StreamGenerateCall::Send(const PumpOutput& output) {
  std::vector<v1::GenerateChunk> chunks =
      ToChunks(output, request_id_, detail_, service_->tokenizer());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (v1::GenerateChunk& chunk : chunks) queue_.push_back(std::move(chunk));
    if (!writing_ && !output.finished) WriteNextLocked();
  }
  if (!output.finished) return;
  log_.SetOutcome(OutcomeOf(output));
  End(output.status);
}

void StreamGenerateCall::End(const Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  status_ = ToGrpcStatus(status);
  Note(status_);
  if (!writing_) WriteNextLocked();
}

void StreamGenerateCall::WriteNextLocked() {
  if (!queue_.empty() && !cancelled()) {
    writing_ = true;
    StartWrite(&queue_.front());
  } else if (ended_) {
    writing_ = true;
    Finish(status_);
  }
}

void StreamGenerateCall::OnWriteDone(bool ok) {
  if (!ok) CancelPump();
  bool had_been_full;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    had_been_full = queue_.size() > kMaxQueuedChunks;
    writing_ = false;
    queue_.pop_front();
    WriteNextLocked();
  }
  if (had_been_full) ResumePump();
}

}  // namespace palu
