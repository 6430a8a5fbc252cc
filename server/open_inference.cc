#include "server/open_inference.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/json_fields.h"
#include "server/openai_response.h"
#include "server/openai_sink.h"

namespace palu {
namespace {

// Data may be nested as the shape says; flattened in row-major order.
void Flatten(const nlohmann::json& data, nlohmann::json* flat) {
  if (!data.is_array()) {
    flat->push_back(data);
    return;
  }
  for (const nlohmann::json& item : data) Flatten(item, flat);
}

void ReadData(const nlohmann::json& data, const std::string& path, InferInput* input,
              JsonFields* fields) {
  nlohmann::json flat = nlohmann::json::array();
  Flatten(data, &flat);
  if (input->datatype == "BYTES") {
    std::vector<std::string> texts;
    for (const nlohmann::json& item : flat) {
      if (!item.is_string()) return fields->Fail(path + ".data", "must hold strings for BYTES");
      texts.push_back(item.get<std::string>());
    }
    input->data = std::move(texts);
    return;
  }
  std::vector<int64_t> numbers;
  for (const nlohmann::json& item : flat) {
    const std::optional<int64_t> number = AsInteger(item);
    if (!number) {
      return fields->Fail(path + ".data", "must hold integers for " + input->datatype);
    }
    numbers.push_back(*number);
  }
  input->data = std::move(numbers);
}

void ReadInput(const nlohmann::json& item, const std::string& path, InferRequest* request,
               JsonFields* fields) {
  InferInput input;
  JsonFields inner(item, path);
  inner.String("name", &input.name);
  inner.String("datatype", &input.datatype);
  const nlohmann::json* shape = inner.Get("shape");
  const nlohmann::json* data = inner.Get("data");
  if (!inner.status().ok())
    return fields->Fail(path, "must be a tensor: " + inner.status().message);
  if (shape == nullptr || !shape->is_array()) {
    return fields->Fail(path + ".shape", "must be an array of integers");
  }
  for (const nlohmann::json& size : *shape) {
    const std::optional<int64_t> number = AsInteger(size);
    if (!number) return fields->Fail(path + ".shape", "must be an array of integers");
    input.shape.push_back(*number);
  }
  if (data == nullptr || !data->is_array()) {
    return fields->Fail(path + ".data", "must be an array");
  }
  ReadData(*data, path, &input, fields);
  request->inputs.push_back(std::move(input));
}

void ReadOutputs(JsonFields* fields, InferRequest* request) {
  const nlohmann::json* outputs = fields->Get("outputs");
  if (outputs == nullptr) return;
  if (!outputs->is_array()) return fields->Fail("outputs", "must be an array");
  for (size_t i = 0; i < outputs->size(); ++i) {
    const std::string path = "outputs[" + std::to_string(i) + "]";
    JsonFields inner((*outputs)[i], path);
    std::string name;
    inner.String("name", &name);
    if (name.empty()) return fields->Fail(path + ".name", "is required and must be a string");
    request->outputs.push_back(std::move(name));
  }
}

Status CheckInput(const InferInput& input) {
  const auto fault = [&input](const std::string& what) {
    return InvalidArgument("input '" + input.name + "' " + what, "inputs");
  };
  const bool text = input.name == "text_input";
  if (!text && input.name != "input_ids") {
    return fault("is not known; this model takes text_input or input_ids");
  }
  const bool right_type =
      text ? input.datatype == "BYTES" : input.datatype == "INT32" || input.datatype == "INT64";
  if (!right_type) {
    return fault("has datatype " + input.datatype + ", expected " +
                 (text ? "BYTES" : "INT32 or INT64"));
  }
  int64_t count = 1;
  for (const int64_t size : input.shape) {
    if (size < 0 || size > std::numeric_limits<int32_t>::max()) return fault("has a bad shape");
    count *= size;
    if (count > std::numeric_limits<int32_t>::max()) return fault("has a bad shape");
  }
  const size_t found = std::visit([](const auto& data) { return data.size(); }, input.data);
  if (static_cast<size_t>(count) != found) {
    return fault("has " + std::to_string(found) + " elements, but its shape says " +
                 std::to_string(count));
  }
  if (!text && input.shape.size() > 2) return fault("must have shape [T] or [N, T]");
  return found == 0 ? fault("is empty") : Status{};
}

nlohmann::json PromptsOf(const InferInput& input) {
  if (const auto* texts = std::get_if<std::vector<std::string>>(&input.data)) return *texts;
  const auto& ids = std::get<std::vector<int64_t>>(input.data);
  const size_t rows = input.shape.size() == 2 ? static_cast<size_t>(input.shape[0]) : 1;
  nlohmann::json prompts = nlohmann::json::array();
  const size_t width = ids.size() / rows;
  for (size_t row = 0; row < rows; ++row) {
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(row * width);
    prompts.push_back(std::vector<int64_t>(begin, begin + static_cast<std::ptrdiff_t>(width)));
  }
  return prompts;
}

nlohmann::ordered_json Tensor(const TensorInfo& info, nlohmann::ordered_json data) {
  return {{"name", info.name},
          {"datatype", info.datatype},
          {"shape", {data.size()}},
          {"data", std::move(data)}};
}

}  // namespace

std::vector<TensorInfo> InferInputs() {
  return {{"text_input", "BYTES", {-1}}, {"input_ids", "INT64", {-1, -1}}};
}

std::vector<TensorInfo> InferOutputs() {
  return {{"text_output", "BYTES", {-1}},
          {"finish_reason", "BYTES", {-1}},
          {"completion_tokens", "INT32", {-1}}};
}

Result<InferRequest> ParseInferRequest(std::string_view body) {
  const Result<nlohmann::json> json = ParseJson(body);
  if (!json) return tl::unexpected(json.error());
  InferRequest request;
  JsonFields fields(*json, "");
  fields.String("id", &request.id);
  if (const nlohmann::json* parameters = fields.Get("parameters")) {
    if (parameters->is_object()) {
      request.parameters = *parameters;
    } else {
      fields.Fail("parameters", "must be an object");
    }
  }
  const nlohmann::json* inputs = fields.Get("inputs");
  if (inputs == nullptr || !inputs->is_array()) {
    fields.Fail("inputs", "is required and must be an array");
  } else {
    for (size_t i = 0; i < inputs->size(); ++i) {
      ReadInput((*inputs)[i], "inputs[" + std::to_string(i) + "]", &request, &fields);
    }
  }
  ReadOutputs(&fields, &request);
  if (!fields.status().ok()) return tl::unexpected(fields.status());
  return request;
}

Result<CompletionRequest> ToCompletion(const InferRequest& request) {
  if (request.inputs.size() != 1) {
    return tl::unexpected(
        InvalidArgument("'inputs' must have one tensor, text_input or input_ids, not " +
                            std::to_string(request.inputs.size()),
                        "inputs"));
  }
  const Status status = CheckInput(request.inputs[0]);
  if (!status.ok()) return tl::unexpected(status);
  const std::vector<TensorInfo> known = InferOutputs();
  for (const std::string& name : request.outputs) {
    if (std::none_of(known.begin(), known.end(),
                     [&name](const TensorInfo& info) { return name == info.name; })) {
      return tl::unexpected(InvalidArgument("output '" + name + "' is not known", "outputs"));
    }
  }
  nlohmann::json body = request.parameters;
  body["prompt"] = PromptsOf(request.inputs[0]);
  Result<CompletionRequest> completion =
      ParseCompletionRequest(body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (!completion) return completion;
  if (completion->options.stream) {
    return tl::unexpected(InvalidArgument("'stream' must not be true here", "stream"));
  }
  return completion;
}

void InferOutput::Add(const PumpOutput& output) {
  for (const ChoiceDelta& delta : output.deltas) {
    const auto index = static_cast<size_t>(delta.index);
    texts_[index] += delta.text;
    tokens_[index] += static_cast<int32_t>(delta.tokens.size());
    if (delta.finish) finish_[index] = FinishReasonName(*delta.finish);
  }
  usage_ = output.usage;
}

bool Wants(const std::vector<std::string>& outputs, const char* name) {
  return outputs.empty() || std::find(outputs.begin(), outputs.end(), name) != outputs.end();
}

std::string InferSink::Body() const {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  const std::vector<TensorInfo> outputs = InferOutputs();
  const std::vector<nlohmann::ordered_json> data = {output_.texts(), output_.finish_reasons(),
                                                    output_.completion_tokens()};
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (Wants(request_.outputs, outputs[i].name)) tensors.push_back(Tensor(outputs[i], data[i]));
  }
  nlohmann::ordered_json json = {{"model_name", model_}, {"model_version", kInferVersion}};
  if (!request_.id.empty()) json["id"] = request_.id;
  json["parameters"] = {{"prompt_tokens", output_.usage().prompt_tokens},
                        {"completion_tokens", output_.usage().completion_tokens}};
  json["outputs"] = std::move(tensors);
  return Dump(json);
}

void InferSink::Send(const PumpOutput& output) {
  output_.Add(output);
  if (!output.finished) return;
  reply_->SetOutcome(OutcomeOf(output));
  if (!output.status.ok()) return reply_->Respond(ErrorResponse(output.status));
  HttpResponse response;
  response.body = Body();
  reply_->Respond(std::move(response));
}

}  // namespace palu
