// A loaded model as the front ends see it, and the state of the server around it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/model/model_runner.h"
#include "engine/status.h"
#include "server/generation.h"
#include "server/response_pump.h"
#include "server/sink.h"
#include "server/structured/structured_spec.h"
#include "server/text/chat_template.h"
#include "server/text/tokenizer.h"
#include "server/text_pool.h"

namespace palu {

namespace structured {
class StructuredOutput;
}  // namespace structured

// Facts about the model; immutable.
struct ModelInfo {
  std::string name;  // on the wire
  std::string path;
  std::string model_type;
  std::string backend;
  std::string cache_format;
  int64_t created = 0;  // Unix seconds
  int max_context_tokens = 0;
  int vocab_size = 0;
  int hidden_size = 0;               // of embeddings
  Pooling pooling = Pooling::kLast;  // of embeddings, unless a request says
  bool prefix_caching = false;
  CacheReport cache;
};

// Immutable but for the engine inside; thread-safe. What it points to must outlive it.
class ModelService {
 public:
  struct Parts {
    Engine* engine = nullptr;
    const Tokenizer* tokenizer = nullptr;
    const ChatTemplate* chat_template = nullptr;  // may be null: no chat
    TextPool* pool = nullptr;
    const Backend* backend = nullptr;  // for its memory gauges; may be null
    int max_queue_requests = 0;
    structured::StructuredOutput* structured = nullptr;  // null: outputs of any form only
  };
  ModelService(ModelInfo info, const Parts& parts);

  const ModelInfo& info() const { return info_; }
  const Tokenizer& tokenizer() const { return *parts_.tokenizer; }
  Engine& engine() const { return *parts_.engine; }
  TextPool* pool() const { return parts_.pool; }
  const Backend* backend() const { return parts_.backend; }
  structured::ToolFormat tool_format() const;

  // kNotFound unless the name is empty or the served one.
  Status CheckModel(const std::string& name) const;
  // Messages to prompt text. kInvalidArgument: the template refuses them, or there is none.
  Result<std::string> RenderChat(const ChatTemplateInput& input) const;
  // Tokenizes (slow for long prompts: call it on the text pool) and submits every prompt, all or
  // none. The sink gets the text once Start is called on the pump.
  Result<std::shared_ptr<ResponsePump>> Generate(const std::vector<Request>& requests,
                                                 const GenerationSpec& spec,
                                                 std::shared_ptr<Sink> sink) const;
  Result<std::vector<Request>> Map(const GenerationSpec& spec) const;

 private:
  const ModelInfo info_;
  const Parts parts_;
};

// Where the server is in its life. Thread-safe.
class ServerState {
 public:
  // The model is there: from now on requests are taken. Called once.
  void SetReady(std::shared_ptr<const ModelService> service);
  // No new requests; those that run go on.
  void SetDraining() { draining_.store(true); }

  bool ready() const;
  bool draining() const { return draining_.load(); }
  // kUnavailable while loading, draining or after the engine failed.
  Result<std::shared_ptr<const ModelService>> Service() const;
  // For metrics and probes, whatever the state; null while loading.
  std::shared_ptr<const ModelService> service() const { return std::atomic_load(&service_); }
  std::chrono::steady_clock::time_point started() const { return started_; }

 private:
  std::shared_ptr<const ModelService> service_;  // through std::atomic_load and atomic_store only
  std::atomic<bool> draining_{false};
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace palu
