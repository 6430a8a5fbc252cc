#include "server/grpc_infer.h"

#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "inference/open_inference.grpc.pb.h"
#include "server/open_inference.h"
#include "server/version.h"

namespace palu {
namespace {

nlohmann::json ToJson(const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      return parameter.bool_param();
    case inference::InferParameter::kInt64Param:
      return parameter.int64_param();
    case inference::InferParameter::kStringParam:
      return parameter.string_param();
    case inference::InferParameter::kDoubleParam:
      return parameter.double_param();
    case inference::InferParameter::kUint64Param:
      return parameter.uint64_param();
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

// Raw contents: texts each after their length, numbers one after the other, all little-endian.
Status ReadRaw(const std::string& raw, InferInput* input) {
  const Status broken = InvalidArgument("raw_input_contents is cut off", "raw_input_contents");
  if (input->datatype == "BYTES") {
    std::vector<std::string> texts;
    size_t at = 0;
    while (at < raw.size()) {
      uint32_t length = 0;
      if (raw.size() - at < sizeof(length)) return broken;
      std::memcpy(&length, raw.data() + at, sizeof(length));
      at += sizeof(length);
      if (raw.size() - at < length) return broken;
      texts.push_back(raw.substr(at, length));
      at += length;
    }
    input->data = std::move(texts);
    return {};
  }
  const size_t width = input->datatype == "INT32" ? sizeof(int32_t) : sizeof(int64_t);
  if (raw.size() % width != 0) return broken;
  std::vector<int64_t> numbers(raw.size() / width);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (width == sizeof(int64_t)) {
      std::memcpy(&numbers[i], raw.data() + i * width, width);
    } else {
      int32_t number = 0;
      std::memcpy(&number, raw.data() + i * width, width);
      numbers[i] = number;
    }
  }
  input->data = std::move(numbers);
  return {};
}

void ReadContents(const inference::InferTensorContents& contents, InferInput* input) {
  if (input->datatype == "BYTES") {
    const auto& texts = contents.bytes_contents();
    input->data = std::vector<std::string>(texts.begin(), texts.end());
    return;
  }
  std::vector<int64_t> numbers;
  numbers.insert(numbers.end(), contents.int_contents().begin(), contents.int_contents().end());
  numbers.insert(numbers.end(), contents.int64_contents().begin(), contents.int64_contents().end());
  input->data = std::move(numbers);
}

Result<InferRequest> FromProto(const inference::ModelInferRequest& message) {
  InferRequest request;
  request.id = message.id();
  for (const auto& [name, parameter] : message.parameters()) {
    request.parameters[name] = ToJson(parameter);
  }
  const bool raw = message.raw_input_contents_size() > 0;
  if (raw && message.raw_input_contents_size() != message.inputs_size()) {
    return tl::unexpected(InvalidArgument("raw_input_contents must have one entry for each input",
                                          "raw_input_contents"));
  }
  for (int i = 0; i < message.inputs_size(); ++i) {
    const auto& tensor = message.inputs(i);
    InferInput input{tensor.name(), tensor.datatype(), {}, {}};
    input.shape.assign(tensor.shape().begin(), tensor.shape().end());
    const Status status = raw ? ReadRaw(message.raw_input_contents(i), &input) : Status{};
    if (!status.ok()) return tl::unexpected(status);
    if (!raw) ReadContents(tensor.contents(), &input);
    request.inputs.push_back(std::move(input));
  }
  for (const auto& output : message.outputs()) request.outputs.push_back(output.name());
  return request;
}

void AddText(const std::vector<std::string>& texts, inference::InferTensorContents* contents,
             std::string* raw) {
  for (const std::string& text : texts) {
    const auto length = static_cast<uint32_t>(text.size());
    raw->append(reinterpret_cast<const char*>(&length), sizeof(length)).append(text);
    contents->add_bytes_contents(text);
  }
}

// Raw where the request was raw.
void ToProto(const InferOutput& output, const std::vector<std::string>& wanted, bool raw,
             inference::ModelInferResponse* response) {
  for (const TensorInfo& info : InferOutputs()) {
    if (!Wants(wanted, info.name)) continue;
    auto* tensor = response->add_outputs();
    tensor->set_name(info.name);
    tensor->set_datatype(info.datatype);
    tensor->add_shape(static_cast<int64_t>(output.texts().size()));
    inference::InferTensorContents contents;
    std::string bytes;
    const std::string name = info.name;
    if (name == "completion_tokens") {
      for (const int32_t count : output.completion_tokens()) {
        contents.add_int_contents(count);
        bytes.append(reinterpret_cast<const char*>(&count), sizeof(count));
      }
    } else {
      AddText(name == "text_output" ? output.texts() : output.finish_reasons(), &contents, &bytes);
    }
    if (raw) {
      response->add_raw_output_contents(std::move(bytes));
    } else {
      *tensor->mutable_contents() = std::move(contents);
    }
  }
}

class InferCall final : public UnaryPumpCall {
 public:
  InferCall(GrpcShared* shared, grpc::CallbackServerContext* context,
            const inference::ModelInferRequest* request, inference::ModelInferResponse* response)
      : UnaryPumpCall(shared, context, "ModelInfer", request->id()),
        request_(request),
        response_(response) {}

  void Send(const PumpOutput& output) override {
    output_->Add(output);
    if (!output.finished) return;
    if (output.status.ok()) {
      ToProto(*output_, outputs_, request_->raw_input_contents_size() > 0, response_);
    }
    log_.SetOutcome(OutcomeOf(output));
    End(output.status);
  }

 private:
  Result<GenerationSpec> MakeSpec() override {
    const Status model = service_->CheckModel(request_->model_name());
    if (!model.ok()) return tl::unexpected(model);
    Result<InferRequest> request = FromProto(*request_);
    if (!request) return tl::unexpected(request.error());
    Result<CompletionRequest> completion = ToCompletion(*request);
    if (!completion) return tl::unexpected(completion.error());
    outputs_ = std::move(request->outputs);
    completion->spec.model = request_->model_name();
    if (completion->spec.request_id.empty()) completion->spec.request_id = request_->id();
    return std::move(completion->spec);
  }

  void Prepare(const GenerationSpec& spec) override {
    output_.emplace(spec.prompts.size() * static_cast<size_t>(spec.n));
    response_->set_model_name(service_->info().name);
    response_->set_model_version(kInferVersion);
    response_->set_id(request_->id());
  }

  const inference::ModelInferRequest* const request_;
  inference::ModelInferResponse* const response_;
  std::vector<std::string> outputs_;
  std::optional<InferOutput> output_;
};

template <typename Tensors>
void AddTensors(const std::vector<TensorInfo>& infos, Tensors* tensors) {
  for (const TensorInfo& info : infos) {
    auto* tensor = tensors->Add();
    tensor->set_name(info.name);
    tensor->set_datatype(info.datatype);
    tensor->mutable_shape()->Add(info.shape.begin(), info.shape.end());
  }
}

class OpenInferenceService final : public inference::GRPCInferenceService::CallbackService {
 public:
  explicit OpenInferenceService(GrpcShared* shared) : shared_(shared) {}

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const inference::ServerLiveRequest* request,
                                       inference::ServerLiveResponse* response) override {
    const auto service = shared_->state->service();
    response->set_live(service == nullptr || service->engine().healthy());
    return Done("ServerLive", context, {});
  }

  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const inference::ServerReadyRequest* request,
                                        inference::ServerReadyResponse* response) override {
    response->set_ready(shared_->state->ready());
    return Done("ServerReady", context, {});
  }

  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override {
    const auto service = shared_->state->Service();
    if (!service) return Done("ModelReady", context, {});
    const Status status = (*service)->CheckModel(request->name());
    response->set_ready(status.ok());
    return Done("ModelReady", context, status);
  }

  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const inference::ServerMetadataRequest* request,
                                           inference::ServerMetadataResponse* response) override {
    response->set_name("palu-server");
    response->set_version(palu::kVersion);
    return Done("ServerMetadata", context, {});
  }

  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override {
    const auto service = shared_->state->Service();
    if (!service) return Done("ModelMetadata", context, service.error());
    const Status status = (*service)->CheckModel(request->name());
    if (!status.ok()) return Done("ModelMetadata", context, status);
    response->set_name((*service)->info().name);
    response->add_versions(kInferVersion);
    response->set_platform(kInferPlatform);
    AddTensors(InferInputs(), response->mutable_inputs());
    AddTensors(InferOutputs(), response->mutable_outputs());
    return Done("ModelMetadata", context, {});
  }

  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override {
    return UnaryPumpCall::Start(std::make_shared<InferCall>(shared_, context, request, response));
  }

 private:
  grpc::ServerUnaryReactor* Done(const char* method, grpc::CallbackServerContext* context,
                                 const Status& status) {
    ApiKeys::Admission admission;
    const Status admitted = Admit(shared_, *context, &admission);
    const grpc::Status mapped = ToGrpcStatus(admitted.ok() ? status : admitted);
    CallLog(context, method).End(mapped, shared_->counters);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(mapped);
    return reactor;
  }

  GrpcShared* const shared_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewOpenInferenceService(GrpcShared* shared) {
  return std::make_unique<OpenInferenceService>(shared);
}

}  // namespace palu
