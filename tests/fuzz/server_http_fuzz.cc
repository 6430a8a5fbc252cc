// Bytes on a connection, through everything that palu-server does with them: the first byte says
// how they are cut, the rest is sent to a HttpConnection over a socket pair. Routes, bodies, text
// and streams are the real ones, over an engine whose model is a stand-in. What comes back is HTTP,
// no failure of ours, and the connection ends once its client has closed.
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/check.h"
#include "server/api_keys.h"
#include "server/http_api.h"
#include "server/http_connection.h"
#include "server/logging.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/structured/structured_output.h"
#include "server/text_pool.h"
#include "tests/server/byte_tokenizer.h"

namespace {

namespace asio = boost::asio;

constexpr int kHiddenSize = 4;
constexpr const char* kTemplate =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{{ tools }}";

// Draws the first token that a row may have, and the same hidden state for all.
class StandIn final : public palu::StepRunner {
 public:
  palu::StepResult Run(const palu::StepBatch& batch) override {
    palu::StepResult result;
    for (const palu::SampleRow& row : batch.rows) {
      palu::OutputToken& token = result.tokens.emplace_back();
      token.token = row.forced_token >= 0 ? row.forced_token : Draw(row);
      if (row.num_logprobs >= 0) token.top.push_back({token.token, -1});
    }
    result.hidden.assign(batch.pooled_tokens.size(), std::vector<float>(kHiddenSize, 0.5f));
    return result;
  }
  PhaseTimes last_times() const override { return {}; }

 private:
  static int32_t Draw(const palu::SampleRow& row) {
    if (row.constraint == nullptr) return 'a' + static_cast<int32_t>(row.draw_index % 26);
    const auto mask = row.constraint->Mask();
    for (size_t token = 0; token < mask.size() * 32; ++token) {
      if ((mask[token / 32] >> (token % 32) & 1) != 0) return static_cast<int32_t>(token);
    }
    return 0;
  }
};

struct Server {
  Server()
      : structured(tokenizer, {palu::testing::ByteTokenizer::kEos},
                   palu::structured::ToolFormat::kHermes),
        chat_template(palu::ChatTemplate::Parse(kTemplate, "template")),
        engine(palu::EngineOptions{}, Limits(), &runner),
        pool(1),
        api(Http(), &state, &pool, &grpc, &keys) {
    palu::SetLogLevel("off");
    palu::ModelInfo info;
    info.name = "m";
    info.max_context_tokens = Limits().max_context_tokens;
    info.vocab_size = Limits().vocab_size;
    info.hidden_size = kHiddenSize;
    palu::ModelService::Parts parts;
    parts.engine = &engine;
    parts.tokenizer = &tokenizer;
    parts.chat_template = chat_template.get();
    parts.structured = &structured;
    parts.pool = &pool;
    parts.max_queue_requests = 16;
    state.SetReady(std::make_shared<const palu::ModelService>(info, parts));
    shared->config = Http();
    shared->handler = &api;
  }

  static palu::EngineLimits Limits() {
    palu::EngineLimits limits;
    limits.max_context_tokens = 256;
    limits.num_blocks = 1024;
    limits.vocab_size = palu::testing::ByteTokenizer::kEos + 1;
    limits.eos_token_ids = {palu::testing::ByteTokenizer::kEos};
    return limits;
  }
  static palu::HttpConfig Http() {
    palu::HttpConfig config;
    config.max_header_bytes = 4096;
    config.max_body_bytes = 16384;
    return config;
  }

  asio::io_context context{1};
  palu::testing::ByteTokenizer tokenizer;
  palu::structured::StructuredOutput structured;
  const std::unique_ptr<palu::ChatTemplate> chat_template;
  StandIn runner;
  palu::Engine engine;
  palu::ServerState state;
  palu::RequestCounters grpc;
  palu::ApiKeys keys{palu::SecurityConfig{}};
  palu::TextPool pool;
  palu::HttpApi api;
  const std::shared_ptr<palu::HttpShared> shared = std::make_shared<palu::HttpShared>();
};

// The client's end of a connection.
class Client {
 public:
  explicit Client(int fd) : fd_(fd) {}
  ~Client() { close(fd_); }
  void Send(std::string_view bytes) { send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  void EndSending() { shutdown(fd_, SHUT_WR); }
  void Read() {
    char bytes[16384];
    for (ssize_t count; (count = recv(fd_, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0;) {
      if (answer_.size() < 64) answer_.append(bytes, static_cast<size_t>(count));
    }
  }
  const std::string& answer() const { return answer_; }

 private:
  const int fd_;
  std::string answer_;
};

void CheckAnswer(const std::string& answer) {
  if (answer.empty()) return;
  static const std::set<std::string> kStatus = {"100", "200", "204", "400", "401",
                                                "404", "405", "408", "413", "415",
                                                "417", "429", "431", "501", "505"};
  PALU_CHECK(answer.starts_with("HTTP/1.1 "));
  if (answer.size() < 13) return;
  PALU_CHECK(kStatus.contains(answer.substr(9, 3)) && answer[12] == ' ');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 32768) return 0;
  // Never destroyed: its threads may be a step behind the last connection.
  static Server& server = *new Server;
  int ends[2];
  PALU_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  Client client(ends[1]);
  asio::ip::tcp::socket socket(asio::make_strand(server.context));
  socket.assign(asio::ip::tcp::v4(), ends[0]);
  auto connection = std::make_shared<palu::HttpConnection>(std::move(socket), server.shared);
  const asio::any_io_executor executor = connection->executor();
  auto run = connection->Run();
  asio::co_spawn(executor, std::move(run),
                 [held = std::move(connection)](const std::exception_ptr&) {});

  server.context.restart();
  const size_t piece = data[0] < 8 ? size : size_t{data[0]} * data[0] / 16;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (size_t i = 0; i < bytes.size(); i += piece) {
    client.Send(bytes.substr(i, piece));
    server.context.poll();
    client.Read();
  }
  client.EndSending();
  while (server.context.run_one_for(std::chrono::seconds(8)) > 0) client.Read();
  PALU_CHECK(server.context.stopped());
  client.Read();
  CheckAnswer(client.answer());
  return 0;
}
