// /v1/embeddings: its request, and its answer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/generation.h"
#include "server/http_types.h"
#include "server/sink.h"

namespace palu {

// How vectors are to be given.
struct EmbeddingOptions {
  bool base64 = false;    // little-endian f32
  int dimensions = 0;     // the first so many; 0: all
  bool normalize = true;  // to length 1, after the cut
};

struct EmbeddingRequest {
  GenerationSpec spec;  // pooling stays kNone where the request does not say
  EmbeddingOptions options;
  std::vector<std::string> unknown_fields;
};

// kInvalidArgument with the field at fault in Status::param. Pure.
Result<EmbeddingRequest> ParseEmbeddingRequest(std::string_view body);

// Not above hidden_size; kInvalidArgument naming `dimensions` otherwise.
Status CheckDimensions(int dimensions, int hidden_size);
std::vector<float> FinishEmbedding(std::vector<float> values, const EmbeddingOptions& options);
std::string Base64(std::string_view bytes);

// One JSON body at the end. Used by the pump only.
class EmbeddingSink final : public Sink {
 public:
  EmbeddingSink(std::shared_ptr<HttpReply> reply, const EmbeddingOptions& options, std::string id,
                std::string model, size_t prompts)
      : reply_(std::move(reply)),
        options_(options),
        id_(std::move(id)),
        model_(std::move(model)),
        vectors_(prompts) {}
  void Send(const PumpOutput& output) override;
  bool full() const override { return false; }

 private:
  std::string Body(const GenerationUsage& usage) const;

  const std::shared_ptr<HttpReply> reply_;
  const EmbeddingOptions options_;
  const std::string id_;
  const std::string model_;
  std::vector<std::vector<float>> vectors_;
};

}  // namespace palu
