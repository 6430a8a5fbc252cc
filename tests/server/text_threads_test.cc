// Text is worked on by the text pool alone, never by the engine or a socket thread.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "server/api_keys.h"
#include "server/http_api.h"
#include "server/http_reply.h"
#include "server/logging.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/text_pool.h"
#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

class Threads {
 public:
  void Note() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    ids_.insert(std::this_thread::get_id());
  }
  std::set<std::thread::id> ids() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ids_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::set<std::thread::id> ids_;  // guarded by mutex_
};

// Notes who asks for text.
class NotingTokenizer final : public testing::ByteTokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, bool add_special) const override {
    threads.Note();
    return ByteTokenizer::Encode(text, add_special);
  }
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    threads.Note();
    return ByteTokenizer::Decode(ids, skip_special);
  }
  std::string TokenBytes(int32_t id) const override {
    threads.Note();
    return ByteTokenizer::TokenBytes(id);
  }
  Threads threads;
};

class NotingRunner final : public StepRunner {
 public:
  StepResult Run(const StepBatch& batch) override {
    threads.Note();
    StepResult result;
    for (const SampleRow& row : batch.rows) {
      OutputToken& token = result.tokens.emplace_back();
      token.token = 'a' + static_cast<int32_t>(row.draw_index % 26);
      if (row.num_logprobs >= 0) token.top.push_back({token.token, -1});
    }
    return result;
  }
  PhaseTimes last_times() const override { return {}; }
  Threads threads;
};

// All bytes of the answer.
std::string Finished(BufferedReply* reply) {
  std::string bytes;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < deadline) {
    const BufferedReply::Outbox outbox = reply->Take();
    bytes += outbox.bytes;
    if (outbox.finished) return bytes;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "no end of " << bytes;
  return bytes;
}

TEST(TextThreads, OnlyThePoolTouchesText) {
  SetLogLevel("off");
  EngineLimits limits;
  limits.max_context_tokens = 256;
  limits.num_blocks = 256;
  limits.vocab_size = testing::ByteTokenizer::kEos + 1;
  limits.eos_token_ids = {testing::ByteTokenizer::kEos};
  NotingTokenizer tokenizer;
  NotingRunner runner;
  Engine engine(EngineOptions{}, limits, &runner);
  TextPool pool(1);
  ServerState state;
  RequestCounters grpc;
  ApiKeys keys{SecurityConfig{}};
  HttpApi api(HttpConfig{}, &state, &pool, &grpc, &keys);
  ModelInfo info;
  info.name = "m";
  info.max_context_tokens = limits.max_context_tokens;
  info.vocab_size = limits.vocab_size;
  ModelService::Parts parts;
  parts.engine = &engine;
  parts.tokenizer = &tokenizer;
  parts.pool = &pool;
  parts.max_queue_requests = 16;
  state.SetReady(std::make_shared<const ModelService>(info, parts));

  std::promise<std::thread::id> pool_thread;
  pool.Post([&pool_thread] { pool_thread.set_value(std::this_thread::get_id()); });
  const std::thread::id pool_id = pool_thread.get_future().get();
  for (const char* extra : {"", R"(, "stream": true, "stop": ["xyz"])", R"(, "logprobs": 2)",
                            R"(, "echo": true, "n": 2)"}) {
    HttpRequest request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.body = R"({"prompt": "some text", "max_tokens": 40, "ignore_eos": true)" +
                   std::string(extra) + "}";
    const auto reply = std::make_shared<BufferedReply>(ReplyOptions{}, [] {});
    api.Handle(std::move(request), reply);
    EXPECT_EQ(Finished(reply.get()).substr(0, 12), "HTTP/1.1 200") << extra;
  }
  EXPECT_EQ(tokenizer.threads.ids(), std::set<std::thread::id>{pool_id});
  EXPECT_FALSE(runner.threads.ids().empty());
  EXPECT_FALSE(runner.threads.ids().contains(pool_id));
  engine.Stop();
  pool.Join();
  SetLogLevel("info");
}

}  // namespace
}  // namespace palu
