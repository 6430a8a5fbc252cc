#include "tools/bench/serve/load_runner.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <exception>
#include <random>

namespace palu::bench {
namespace {

namespace asio = boost::asio;

// Owned by RunLoad's thread, as everything on its io_context.
class Runner {
 public:
  Runner(const ClientOptions& client, const LoadOptions& options,
         const std::vector<PlannedRequest>& plan)
      : client_(client), options_(options), plan_(plan) {
    result_.records.resize(plan.size());
    std::mt19937_64 random(options.seed);
    std::bernoulli_distribution cancelled(options.cancel_fraction);
    for (const PlannedRequest& request : plan) {
      std::uniform_int_distribution<int> chunk(0, std::max(0, request.max_tokens - 1));
      cancel_after_.push_back(cancelled(random) ? chunk(random) : -1);
    }
  }

  LoadResult Run() {
    start_ = SteadySeconds();
    if (options_.concurrency > 0) {
      for (int i = 0; i < options_.concurrency; ++i) Spawn(ClosedLoop());
    } else {
      Spawn(OpenLoop());
    }
    if (options_.progress) Spawn(ShowProgress());
    context_.run();
    if (failure_) std::rethrow_exception(failure_);
    double last = start_;
    for (const RequestRecord& record : result_.records) last = std::max(last, record.end);
    result_.seconds = last - start_;
    return std::move(result_);
  }

 private:
  void Spawn(asio::awaitable<void> task) {
    asio::co_spawn(context_, std::move(task), [this](std::exception_ptr error) {
      if (error && !failure_) {
        failure_ = error;
        context_.stop();
      }
    });
  }

  asio::awaitable<void> Send(size_t index, double scheduled) {
    ++active_;
    result_.peak_concurrency = std::max(result_.peak_concurrency, active_);
    RequestRecord record = co_await SendRequest(client_, plan_[index], cancel_after_[index]);
    record.scheduled = scheduled;
    --active_;
    ++ended_;
    tokens_ += record.completion_tokens;
    if (!record.error.empty()) ++failed_;
    result_.records[index] = std::move(record);
  }

  asio::awaitable<void> ClosedLoop() {
    while (next_ < plan_.size()) {
      const size_t index = next_++;
      co_await Send(index, SteadySeconds());
    }
  }

  asio::awaitable<void> OpenLoop() {
    asio::steady_timer timer(context_);
    for (size_t i = 0; i < plan_.size(); ++i) {
      const double scheduled = start_ + plan_[i].start_seconds;
      const double wait = scheduled - SteadySeconds();
      if (wait > 0) {
        timer.expires_after(std::chrono::nanoseconds(static_cast<int64_t>(wait * 1e9)));
        co_await timer.async_wait(asio::use_awaitable);
      }
      Spawn(Send(i, scheduled));
    }
  }

  asio::awaitable<void> ShowProgress() {
    asio::steady_timer timer(context_);
    while (ended_ < plan_.size()) {
      timer.expires_after(std::chrono::milliseconds(500));
      co_await timer.async_wait(asio::use_awaitable);
      const double seconds = SteadySeconds() - start_;
      std::fprintf(stderr, "\r%6.1f s  %zu of %zu done, %d in flight, %d failed, %.0f tokens/s ",
                   seconds, ended_, plan_.size(), active_, failed_, tokens_ / seconds);
    }
    std::fprintf(stderr, "\n");
  }

  const ClientOptions& client_;
  const LoadOptions& options_;
  const std::vector<PlannedRequest>& plan_;
  asio::io_context context_{1};
  std::vector<int> cancel_after_;  // chunks; -1: read to the end
  LoadResult result_;
  std::exception_ptr failure_;
  double start_ = 0;
  size_t next_ = 0;
  size_t ended_ = 0;
  int active_ = 0;
  int failed_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace

LoadResult RunLoad(const ClientOptions& client, const LoadOptions& options,
                   const std::vector<PlannedRequest>& plan) {
  return Runner(client, options, plan).Run();
}

}  // namespace palu::bench
