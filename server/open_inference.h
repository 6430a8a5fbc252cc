// The Open Inference Protocol, version 2, as far as it is the same over HTTP and gRPC: which
// tensors the model takes and gives, and what a request with them asks for. Pure functions.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/status.h"
#include "server/http_types.h"
#include "server/openai_request.h"
#include "server/sink.h"

namespace palu {

inline constexpr const char* kInferVersion = "1";
inline constexpr const char* kInferPlatform = "palu";

struct TensorInfo {
  const char* name;
  const char* datatype;
  std::vector<int64_t> shape;  // -1: any
};
// One of the first two is given: texts, or one prompt's token ids.
std::vector<TensorInfo> InferInputs();
std::vector<TensorInfo> InferOutputs();

struct InferInput {
  std::string name;
  std::string datatype;
  std::vector<int64_t> shape;
  std::variant<std::vector<std::string>, std::vector<int64_t>> data;
};

struct InferRequest {
  std::string id;
  nlohmann::json parameters = nlohmann::json::object();
  std::vector<InferInput> inputs;
  std::vector<std::string> outputs;  // empty: all
};

Result<InferRequest> ParseInferRequest(std::string_view body);

// Checks tensors; parameters are those of /v1/completions, and checked as there.
Result<CompletionRequest> ToCompletion(const InferRequest& request);

// Collects the answer, one element per choice. Used by one thread at a time.
class InferOutput {
 public:
  explicit InferOutput(size_t choices) : texts_(choices), finish_(choices), tokens_(choices) {}
  void Add(const PumpOutput& output);

  const std::vector<std::string>& texts() const { return texts_; }
  const std::vector<std::string>& finish_reasons() const { return finish_; }
  const std::vector<int32_t>& completion_tokens() const { return tokens_; }
  const GenerationUsage& usage() const { return usage_; }

 private:
  std::vector<std::string> texts_;
  std::vector<std::string> finish_;
  std::vector<int32_t> tokens_;
  GenerationUsage usage_;
};

// Whether a request wants this output.
bool Wants(const std::vector<std::string>& outputs, const char* name);

// One JSON body at the end. Used by the pump only.
class InferSink final : public Sink {
 public:
  InferSink(std::shared_ptr<HttpReply> reply, std::string model, InferRequest request,
            size_t choices)
      : reply_(std::move(reply)),
        model_(std::move(model)),
        request_(std::move(request)),
        output_(choices) {}
  void Send(const PumpOutput& output) override;
  bool full() const override { return false; }

 private:
  std::string Body() const;

  const std::shared_ptr<HttpReply> reply_;
  const std::string model_;
  const InferRequest request_;
  InferOutput output_;
};

}  // namespace palu
