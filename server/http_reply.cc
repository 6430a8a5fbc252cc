#include "server/http_reply.h"

#include <cstdio>
#include <ctime>
#include <utility>

#include "server/error_table.h"

namespace palu {
namespace {

constexpr size_t kHighWater = 256 << 10;
// Every answer starts with this, so that probes may send it early.
constexpr std::string_view kStatusLineStart = "HTTP/1.1 ";
constexpr std::string_view kComment = ":\n\n";

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  const size_t length = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text, length};
}

}  // namespace

BufferedReply::BufferedReply(ReplyOptions options, std::function<void()> wake)
    : options_(std::move(options)),
      wake_(std::move(wake)),
      keep_alive_(options_.keep_alive),
      request_id_(options_.request_id) {}

void BufferedReply::AppendHead(int status, const HttpResponse& response, bool stream) {
  std::string head(kStatusLineStart);
  const auto header = [&head](std::string_view name, std::string_view value) {
    head.append(name).append(": ").append(value).append("\r\n");
  };
  head += std::to_string(status) + " ";
  head.append(HttpReason(status)).append("\r\n");
  header("Server", "palu-server");
  header("Date", HttpDate());
  header("x-request-id", request_id_);
  for (const auto& [name, value] : options_.headers) header(name, value);
  for (const auto& [name, value] : response.headers) header(name, value);
  if (status != 204) header("Content-Type", response.content_type);
  if (const int seconds = RetryAfterSeconds(status); seconds > 0) {
    header("Retry-After", std::to_string(seconds));
  }
  if (!stream && status != 204) header("Content-Length", std::to_string(response.body.size()));
  if (stream && !options_.http10) header("Transfer-Encoding", "chunked");
  if (stream && options_.http10) keep_alive_ = false;
  if (options_.timing && !outcome_.finish.empty()) {
    char timing[160];
    std::snprintf(timing, sizeof(timing), "queue;dur=%.3f, prefill;dur=%.3f, decode;dur=%.3f",
                  outcome_.queue_ms, outcome_.prefill_ms, outcome_.decode_ms);
    header("Server-Timing", timing);
  }
  header("Connection", keep_alive_ ? "keep-alive" : "close");
  head += "\r\n";
  pending_.append(head, prefix_sent_, std::string::npos);
  status_ = status;
  started_ = true;
}

void BufferedReply::AppendChunk(std::string_view data) {
  if (options_.http10) {
    pending_.append(data);
    return;
  }
  char size[24];
  std::snprintf(size, sizeof(size), "%zx\r\n", data.size());
  pending_.append(size).append(data).append("\r\n");
}

void BufferedReply::Respond(HttpResponse response) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (started_) return;
    AppendHead(response.status, response, false);
    if (!options_.head) pending_ += response.body;
    finished_ = true;
    permit_.reset();
  }
  wake_();
}

void BufferedReply::StartStream() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (started_) return;
    HttpResponse response;
    response.content_type = "text/event-stream; charset=utf-8";
    response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    AppendHead(200, response, true);
    streaming_ = true;
  }
  wake_();
}

void BufferedReply::Write(std::string_view data) {
  if (data.empty()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (gone_ || finished_) return;
    AppendChunk(data);
    was_full_ = was_full_ || pending_.size() + in_flight_ > kHighWater;
  }
  wake_();
}

void BufferedReply::Finish() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    if (streaming_ && !options_.http10) pending_ += "0\r\n\r\n";
    finished_ = true;
    permit_.reset();
  }
  wake_();
}

bool BufferedReply::full() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return !gone_ && pending_.size() + in_flight_ > kHighWater;
}

void BufferedReply::SetCallbacks(std::function<void()> on_gone, std::function<void()> on_writable) {
  bool gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    gone = gone_;
    on_gone_ = on_gone;
    on_writable_ = std::move(on_writable);
  }
  if (gone) on_gone();
}

void BufferedReply::SetOutcome(RequestOutcome outcome) {
  std::lock_guard<std::mutex> lock(mutex_);
  outcome_ = std::move(outcome);
}

RequestOutcome BufferedReply::outcome() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return outcome_;
}

void BufferedReply::Hold(std::shared_ptr<void> permit) {
  std::lock_guard<std::mutex> lock(mutex_);
  permit_ = std::move(permit);
}

void BufferedReply::SetRoute(const char* route) {
  std::lock_guard<std::mutex> lock(mutex_);
  route_ = route;
}

void BufferedReply::SetRequestId(std::string id) {
  std::lock_guard<std::mutex> lock(mutex_);
  request_id_ = std::move(id);
}

BufferedReply::Outbox BufferedReply::Take() {
  std::lock_guard<std::mutex> lock(mutex_);
  Outbox outbox{std::move(pending_), finished_};
  pending_.clear();
  in_flight_ = outbox.bytes.size();
  return outbox;
}

void BufferedReply::Sent(size_t bytes) {
  std::function<void()> on_writable;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    in_flight_ = 0;
    bytes_sent_ += bytes;
    if (was_full_ && pending_.size() <= kHighWater) {
      was_full_ = false;
      on_writable = on_writable_;
    }
  }
  if (on_writable) on_writable();
}

void BufferedReply::MarkGone() {
  std::function<void()> on_gone;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (gone_) return;
    gone_ = true;
    pending_.clear();
    on_gone = on_gone_;
  }
  if (on_gone) on_gone();
}

void BufferedReply::Probe() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (gone_ || finished_) return;
    if (streaming_) {
      AppendChunk(kComment);
    } else if (!started_ && prefix_sent_ < kStatusLineStart.size()) {
      pending_ += kStatusLineStart[prefix_sent_++];
    } else {
      return;
    }
  }
  wake_();
}

bool BufferedReply::streaming() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return streaming_;
}

bool BufferedReply::keep_alive() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return keep_alive_;
}

int BufferedReply::status() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

const char* BufferedReply::route() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return route_;
}

std::string BufferedReply::request_id() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return request_id_;
}

size_t BufferedReply::bytes_sent() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_sent_;
}

}  // namespace palu
