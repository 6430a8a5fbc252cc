#include "tools/bench/serve/stream_client.h"

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <regex>
#include <stdexcept>

#include "tools/bench/serve/sse_parser.h"

namespace palu::bench {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

constexpr size_t kReadBytes = 64 * 1024;
constexpr size_t kMaxErrorBytes = 64 * 1024;

nlohmann::json MakeBody(const ClientOptions& options, const PlannedRequest& request) {
  nlohmann::json body = {{"model", options.model},
                         {"max_tokens", request.max_tokens},
                         {"temperature", options.temperature},
                         {"stream", true},
                         {"stream_options", {{"include_usage", true}}}};
  if (options.chat) {
    body["messages"] = {{{"role", "user"}, {"content", request.prompt}}};
  } else {
    body["prompt"] = request.prompt;
  }
  if (options.ignore_eos) body["ignore_eos"] = true;
  body.update(options.extra);
  return body;
}

http::request<http::string_body> MakeMessage(const ClientOptions& options, http::verb verb,
                                             const std::string& path, std::string body) {
  http::request<http::string_body> message(verb, options.address.base + path, 11);
  message.set(http::field::host, options.address.host + ":" + options.address.port);
  message.set(http::field::user_agent, "palu-bench");
  message.set(http::field::connection, "close");
  if (!body.empty()) message.set(http::field::content_type, "application/json");
  if (!options.api_key.empty()) {
    message.set(http::field::authorization, "Bearer " + options.api_key);
  }
  message.body() = std::move(body);
  message.prepare_payload();
  return message;
}

asio::awaitable<void> Connect(const ClientOptions& options, beast::tcp_stream* stream) {
  stream->expires_after(std::chrono::milliseconds(int64_t(options.timeout_seconds * 1e3)));
  tcp::resolver resolver(co_await asio::this_coro::executor);
  const auto found = co_await resolver.async_resolve(options.address.host, options.address.port,
                                                     asio::use_awaitable);
  co_await stream->async_connect(found, asio::use_awaitable);
  stream->socket().set_option(tcp::no_delay(true));
}

// What one event of the stream tells; false once the stream is over.
class EventReader {
 public:
  explicit EventReader(RequestRecord* record) : record_(*record) {}

  void Read(std::string_view data, double now) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    const nlohmann::json event = nlohmann::json::parse(data, nullptr, false);
    if (!event.is_object()) {
      record_.error = "bad event";
      record_.detail = std::string(data.substr(0, 200));
      return;
    }
    if (const auto error = event.find("error"); error != event.end()) {
      record_.error = "error event";
      record_.detail = error->dump().substr(0, 200);
      return;
    }
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      ReadUsage(*usage);
    }
    for (const auto& choice : event.value("choices", nlohmann::json::array())) {
      if (HasText(choice)) record_.chunk_times.push_back(now);
      const auto reason = choice.find("finish_reason");
      if (reason != choice.end() && !reason->is_null()) finished_ = true;
    }
  }

  bool complete() const { return done_ || finished_; }

 private:
  static bool HasText(const nlohmann::json& choice) {
    const auto filled = [](const nlohmann::json& object, const char* key) {
      const auto found = object.find(key);
      return found != object.end() && found->is_string() &&
             !found->get_ref<const std::string&>().empty();
    };
    if (filled(choice, "text")) return true;
    const auto delta = choice.find("delta");
    return delta != choice.end() && delta->is_object() &&
           (filled(*delta, "content") || filled(*delta, "reasoning_content"));
  }

  void ReadUsage(const nlohmann::json& usage) {
    const auto number = [](const nlohmann::json& object, const char* key) {
      const auto found = object.find(key);
      return found != object.end() && found->is_number_integer() ? found->get<int>() : 0;
    };
    record_.prompt_tokens = number(usage, "prompt_tokens");
    record_.completion_tokens = number(usage, "completion_tokens");
    const auto details = usage.find("prompt_tokens_details");
    if (details != usage.end() && details->is_object()) {
      record_.cached_tokens = number(*details, "cached_tokens");
    }
  }

  RequestRecord& record_;
  bool done_ = false;
  bool finished_ = false;
};

asio::awaitable<void> ReadStream(beast::tcp_stream* stream, int cancel_after,
                                 RequestRecord* record) {
  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  co_await http::async_read_header(*stream, buffer, parser, asio::use_awaitable);
  const bool streams = parser.get().result() == http::status::ok;
  SseParser events;
  EventReader reader(record);
  std::string failure;
  std::vector<char> bytes(kReadBytes);
  while (!parser.is_done()) {
    parser.get().body().data = bytes.data();
    parser.get().body().size = bytes.size();
    beast::error_code error;
    co_await http::async_read_some(*stream, buffer, parser,
                                   asio::redirect_error(asio::use_awaitable, error));
    if (error && error != http::error::need_buffer) throw beast::system_error(error);
    const std::string_view read(bytes.data(), bytes.size() - parser.get().body().size);
    if (!streams) {
      failure.append(read.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, failure.size())));
      continue;
    }
    const double now = SteadySeconds();
    events.Feed(read, [&](std::string_view data) { reader.Read(data, now); });
    if (cancel_after >= 0 && static_cast<int>(record->chunk_times.size()) > cancel_after) {
      record->cancelled = true;
      co_return;
    }
  }
  if (!streams) {
    record->error = "HTTP " + std::to_string(parser.get().result_int());
    record->detail = failure.substr(0, 200);
  } else if (record->error.empty() && !reader.complete()) {
    record->error = "the stream ended early";
  }
}

}  // namespace

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ServerAddress ParseServerUrl(const std::string& url) {
  // Scheme, host (an IPv6 address in brackets), port, path.
  static const std::regex kUrl(
      R"((?:http://)?(\[[0-9A-Fa-f:.]+\]|[^\s/:?#@\[\]]+)(?::(\d{1,5}))?(/[^\s?#]*)?)");
  std::smatch part;
  if (!std::regex_match(url, part, kUrl)) {
    throw std::invalid_argument("--url: expected http://HOST[:PORT][/PATH], found '" + url + "'");
  }
  ServerAddress address;
  address.host = part[1];
  if (address.host.front() == '[') address.host = address.host.substr(1, address.host.size() - 2);
  address.port = part[2].matched ? part[2].str() : "80";
  address.base = part[3];
  while (!address.base.empty() && address.base.back() == '/') address.base.pop_back();
  const std::string version = "/v1";
  if (address.base.size() >= version.size() &&
      address.base.compare(address.base.size() - version.size(), version.size(), version) == 0) {
    address.base.resize(address.base.size() - version.size());
  }
  return address;
}

asio::awaitable<RequestRecord> SendRequest(const ClientOptions& options,
                                           const PlannedRequest& request, int cancel_after) {
  RequestRecord record;
  const auto message = MakeMessage(options, http::verb::post,
                                   options.chat ? "/v1/chat/completions" : "/v1/completions",
                                   MakeBody(options, request).dump());
  record.start = SteadySeconds();
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  try {
    co_await Connect(options, &stream);
    co_await http::async_write(stream, message, asio::use_awaitable);
    co_await ReadStream(&stream, cancel_after, &record);
  } catch (const boost::system::system_error& error) {
    record.error = error.code() == beast::error::timeout ? "timeout" : error.code().message();
  }
  record.end = SteadySeconds();
  if (record.completion_tokens == 0) {
    record.completion_tokens = static_cast<int>(record.chunk_times.size());
  }
  co_return record;
}

asio::awaitable<std::string> FirstModel(const ClientOptions& options) {
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  co_await Connect(options, &stream);
  const auto message = MakeMessage(options, http::verb::get, "/v1/models", "");
  co_await http::async_write(stream, message, asio::use_awaitable);
  beast::flat_buffer buffer;
  http::response<http::string_body> answer;
  co_await http::async_read(stream, buffer, answer, asio::use_awaitable);
  const nlohmann::json json = nlohmann::json::parse(answer.body(), nullptr, false);
  const nlohmann::json::json_pointer id("/data/0/id");
  if (!json.is_object() || !json.contains(id) || !json[id].is_string()) {
    throw std::runtime_error("/v1/models answered HTTP " + std::to_string(answer.result_int()) +
                             " without a model; name one with --model");
  }
  co_return json[id].get<std::string>();
}

}  // namespace palu::bench
