// Where the text of a response goes: one interface for unary HTTP, SSE and gRPC.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "engine/status.h"

namespace palu {

// What one choice gained since the last output.
struct ChoiceDelta {
  int index = 0;                       // within the response: prompt * n + choice
  std::string text;                    // whole code points, never part of a stop string
  std::vector<OutputToken> tokens;     // may run ahead of the text
  std::optional<FinishReason> finish;  // kStop or kLength, once per choice
  std::optional<int32_t> stop_token;   // with finish: the stop id other than eos that ended it
  std::string stop_string;             // with finish: the stop string that ended it
};

// Log-probabilities of one prompt, once, before its first delta; entry i is prompt token i + 1.
struct PromptLogprobs {
  int prompt = 0;
  std::vector<OutputToken> tokens;
};

// The pooled vector of one prompt, once.
struct PromptEmbedding {
  int prompt = 0;
  std::vector<float> values;
};

struct GenerationUsage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;
};

struct PumpOutput {
  std::vector<ChoiceDelta> deltas;
  std::vector<PromptLogprobs> prompt_logprobs;
  std::vector<PromptEmbedding> embeddings;
  GenerationUsage usage;               // so far
  std::optional<FinishReason> finish;  // of the choice that ended last, so far
  bool finished = false;               // nothing follows
  Status status;                       // with finished; not ok: the response failed
  RequestTiming timing;                // with finished; of all prompts together
};

// Send is called on the text pool, by one thread at a time. full() is asked from there too.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void Send(const PumpOutput& output) = 0;
  // The transport is behind: what the engine produces stays unread until the sink's owner calls
  // ResponsePump::Resume. A sink whose peer is gone is never full.
  virtual bool full() const = 0;
};

}  // namespace palu
