// What the front end adds to the engine's step: from the moment that the runner has the tokens of
// a step to their arrival at a client's socket, 64 streams at once. Engine, text pool, JSON, HTTP
// and loopback are real; the runner sleeps instead of computing, as a host does beside a GPU.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "server/api_keys.h"
#include "server/http_api.h"
#include "server/http_server.h"
#include "server/logging.h"
#include "server/model_service.h"
#include "server/request_counters.h"
#include "server/text_pool.h"
#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kStreams = 64;
constexpr int kTokens = 150;
constexpr auto kStepTime = std::chrono::milliseconds(10);
constexpr int kLetters = 26;

// All rows of step s get letter s % 26, and it is noted when.
class StampRunner final : public StepRunner {
 public:
  struct Step {
    Clock::time_point made;
    size_t rows;
  };

  StepResult Run(const StepBatch& batch) override {
    std::this_thread::sleep_for(kStepTime);
    StepResult result;
    result.tokens.resize(batch.rows.size());
    const std::lock_guard<std::mutex> lock(mutex_);
    for (OutputToken& token : result.tokens) {
      token.token = 'A' + static_cast<int32_t>(steps_.size() % kLetters);
    }
    steps_.push_back({Clock::now(), batch.rows.size()});
    return result;
  }
  PhaseTimes last_times() const override { return {}; }

  // The latest step before `arrival` that gave this letter to every stream, and how long before;
  // negative: that step was not for all.
  double MillisecondsSince(char letter, Clock::time_point arrival) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = steps_.size(); i-- > 0;) {
      if (steps_[i].made > arrival || static_cast<char>('A' + i % kLetters) != letter) continue;
      if (steps_[i].rows != kStreams) return -1;
      return std::chrono::duration<double, std::milli>(arrival - steps_[i].made).count();
    }
    return -1;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Step> steps_;  // guarded by mutex_
};

// Everything that palu-server has between a socket and the runner.
class FrontEnd {
 public:
  FrontEnd()
      : engine_(Options(), Limits(), &runner),
        pool_(0),
        api_(http_, &state_, &pool_, &grpc_, &keys_) {
    ModelInfo info;
    info.name = "stamps";
    info.max_context_tokens = Limits().max_context_tokens;
    info.vocab_size = Limits().vocab_size;
    ModelService::Parts parts;
    parts.engine = &engine_;
    parts.tokenizer = &tokenizer_;
    parts.pool = &pool_;
    parts.max_queue_requests = kStreams;
    state_.SetReady(std::make_shared<const ModelService>(info, parts));
    server_ = std::make_unique<HttpServer>(http_, &api_);
    server_->Start();
  }
  ~FrontEnd() {
    engine_.Stop();
    pool_.Join();
    server_.reset();
  }
  int port() const { return server_->port(); }

  StampRunner runner;

 private:
  static EngineOptions Options() {
    EngineOptions options;
    options.max_sequences = kStreams;
    return options;
  }
  static EngineLimits Limits() {
    EngineLimits limits;
    limits.max_context_tokens = 512;
    limits.num_blocks = kStreams * 32;
    limits.vocab_size = testing::ByteTokenizer::kEos + 1;
    limits.eos_token_ids = {testing::ByteTokenizer::kEos};
    return limits;
  }
  static HttpConfig Http() {
    HttpConfig config;
    config.address = "127.0.0.1";
    config.port = 0;
    return config;
  }

  const HttpConfig http_ = Http();
  testing::ByteTokenizer tokenizer_;
  Engine engine_;
  ServerState state_;
  RequestCounters grpc_;
  ApiKeys keys_{SecurityConfig{}};
  TextPool pool_;
  HttpApi api_;
  std::unique_ptr<HttpServer> server_;
};

struct Arrival {
  char letter;
  Clock::time_point time;
};

int OpenStream(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string body = R"({"prompt": "x", "stream": true, "ignore_eos": true, "max_tokens": )" +
                           std::to_string(kTokens) + "}";
  const std::string request =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  EXPECT_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  return fd;
}

// Takes the letters out of what came; true once the stream is over.
bool TakeLetters(std::string_view bytes, Clock::time_point now, std::vector<Arrival>* arrivals) {
  constexpr std::string_view kText = "\"text\":\"";
  for (size_t at = bytes.find(kText); at != std::string_view::npos; at = bytes.find(kText, at)) {
    at += kText.size();
    for (; at < bytes.size() && bytes[at] != '"'; ++at) arrivals->push_back({bytes[at], now});
  }
  return bytes.find("[DONE]") != std::string_view::npos;
}

// Reads all to their ends and closes them.
std::vector<Arrival> ReadStreams(const std::vector<int>& sockets) {
  std::vector<pollfd> streams;
  for (const int socket : sockets) streams.push_back({socket, POLLIN, 0});
  std::vector<Arrival> arrivals;
  int open = kStreams;
  char bytes[16 << 10];
  while (open > 0) {
    if (poll(streams.data(), streams.size(), 60'000) <= 0) break;
    for (pollfd& stream : streams) {
      if (stream.fd < 0 || stream.revents == 0) continue;
      const ssize_t count = recv(stream.fd, bytes, sizeof(bytes), 0);
      const auto now = Clock::now();
      if (count > 0 && !TakeLetters({bytes, static_cast<size_t>(count)}, now, &arrivals)) continue;
      close(stream.fd);
      stream.fd = -1;
      --open;
    }
  }
  EXPECT_EQ(open, 0);
  return arrivals;
}

// Ahead of everything else on the machine, whose load would be measured otherwise; threads that
// are started from here are so too. Needs CAP_SYS_NICE.
class RealTime {
 public:
  RealTime() {
    const sched_param lowest{sched_get_priority_min(SCHED_FIFO)};
    granted_ = sched_setscheduler(0, SCHED_FIFO, &lowest) == 0;
  }
  ~RealTime() {
    const sched_param ordinary{0};
    if (granted_) sched_setscheduler(0, SCHED_OTHER, &ordinary);
  }
  bool granted() const { return granted_; }

 private:
  bool granted_ = false;
};

double At(const std::vector<double>& sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
}

// Median of the milliseconds from the runner's step to the client.
double FrontEndMedian() {
  FrontEnd front;
  std::vector<int> sockets;
  for (int i = 0; i < kStreams; ++i) sockets.push_back(OpenStream(front.port()));
  std::vector<double> added;
  for (const Arrival& arrival : ReadStreams(sockets)) {
    const double ms = front.runner.MillisecondsSince(arrival.letter, arrival.time);
    if (ms >= 0) added.push_back(ms);
  }
  EXPECT_GT(added.size(), static_cast<size_t>(kStreams * kTokens / 2));
  std::sort(added.begin(), added.end());
  std::printf("p50 %.3f, p90 %.3f, p99 %.3f ms over %zu tokens\n", At(added, 0.5), At(added, 0.9),
              At(added, 0.99), added.size());
  return At(added, 0.5);
}

// The same with nothing between the runner and the sockets but a thread that writes a ready-made
// event to each: what this machine takes for that alone, now.
double BareMedian() {
  constexpr int kSteps = 40;
  std::vector<int> ends, sockets;
  for (int i = 0; i < kStreams; ++i) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ends.push_back(pair[0]);
    sockets.push_back(pair[1]);
  }
  StampRunner runner;
  StepBatch batch;
  batch.rows.resize(kStreams);
  std::thread writer([&] {
    for (int step = 0; step < kSteps; ++step) {
      const auto letter = static_cast<char>(runner.Run(batch).tokens[0].token);
      const std::string text = std::string("\"text\":\"") + letter + '"' + std::string(250, ' ') +
                               (step + 1 == kSteps ? "[DONE]" : "");
      for (const int end : ends) {
        EXPECT_EQ(send(end, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
      }
    }
  });
  std::vector<double> took;
  for (const Arrival& arrival : ReadStreams(sockets)) {
    took.push_back(runner.MillisecondsSince(arrival.letter, arrival.time));
  }
  writer.join();
  for (const int end : ends) close(end);
  std::sort(took.begin(), took.end());
  return At(took, 0.5);
}

// On a machine that is slow, or busy with what goes before us, less than so many times what the
// bare writes take.
TEST(FrontEndLatency, AddsLessThanAMillisecondTo64Streams) {
  constexpr int kRounds = 5;
  constexpr double kMostTimesBare = 10.0;
  SetLogLevel("off");
  const RealTime real_time;
  std::vector<double> medians, bare;
  for (int round = 0; round < kRounds; ++round) {
    medians.push_back(FrontEndMedian());
    bare.push_back(BareMedian());
  }
  std::sort(medians.begin(), medians.end());
  std::sort(bare.begin(), bare.end());
  std::printf("p50 of the rounds: best %.3f, median %.3f, worst %.3f ms; bare %.3f %.3f %.3f%s\n",
              medians.front(), medians[kRounds / 2], medians.back(), bare.front(),
              bare[kRounds / 2], bare.back(),
              real_time.granted() ? "" : ", beside whatever else runs here");
  SetLogLevel("info");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(medians[kRounds / 2],
            std::max(real_time.granted() ? 1.0 : 10.0, kMostTimesBare * bare[kRounds / 2]));
#endif
}

}  // namespace
}  // namespace palu
