// From token ids in the engine's mailboxes to text in a sink.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/sink.h"
#include "server/text/detokenizer.h"
#include "server/text/stop_checker.h"
#include "server/text/tokenizer.h"
#include "server/text_pool.h"

namespace palu {

struct PumpOptions {
  int n = 1;  // choices per request
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  // those reported as the reason of a stop
  bool include_stop_str = false;
  bool skip_special_tokens = true;
};

// Serves one response: one engine request per prompt, n choices each, one sink. Work runs on the
// text pool, never on two threads at once. Keeps itself alive until the engine has ended every
// request. Start, Cancel and Resume are thread-safe.
class ResponsePump : public std::enable_shared_from_this<ResponsePump> {
 public:
  // tokenizer and pool must outlive it.
  ResponsePump(std::vector<RequestHandle> requests, const PumpOptions& options,
               const Tokenizer& tokenizer, TextPool* pool, std::shared_ptr<Sink> sink);

  void Start();
  // The peer is gone: the engine ends the requests at its next step.
  void Cancel();
  // The sink has room again.
  void Resume() { Schedule(); }

 private:
  struct Choice {
    Choice(const Tokenizer& tokenizer, const PumpOptions& options)
        : detokenizer(tokenizer, options.skip_special_tokens),
          stop(options.stop, options.include_stop_str) {}
    Detokenizer detokenizer;
    StopChecker stop;
    bool done = false;
  };
  struct Stream {
    explicit Stream(RequestHandle request) : handle(std::move(request)) {}
    RequestHandle handle;
    bool finished = false;
    int prompt_tokens = 0;
    int cached_tokens = 0;
  };

  void Schedule();
  void Run();
  void RunOnce();
  void Take(int prompt, PumpOutput* output);
  void AddTiming(const RequestTiming& timing);
  ChoiceDelta ToText(int prompt, OutputDelta delta);
  void EndByToken(const OutputDelta& delta, Choice* choice, ChoiceDelta* out);
  void Finish();

  const PumpOptions options_;
  TextPool* const pool_;
  const std::shared_ptr<Sink> sink_;
  std::vector<Stream> streams_;
  std::vector<std::unique_ptr<Choice>> choices_;
  GenerationUsage usage_;
  RequestTiming timing_;
  std::optional<FinishReason> finish_;  // of the choice that ended last
  bool finished_ = false;
  std::atomic<bool> cancelled_{false};
  std::atomic<int> scheduled_{0};  // Run is queued or running while not 0
};

}  // namespace palu
