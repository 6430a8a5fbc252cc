#include "server/logging.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <string_view>
#include <utility>

#include "server/request_id.h"

namespace palu {
namespace {

// Of the request that the thread logs about.
thread_local std::string_view request_id;
thread_local std::string_view trace_id;

void AppendJsonString(std::string_view text, spdlog::memory_buf_t* out) {
  out->push_back('"');
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(c);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      const int size = std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
      out->append(escaped, escaped + size);
    } else {
      out->push_back(c);
    }
  }
  out->push_back('"');
}

void AppendField(std::string_view name, std::string_view value, spdlog::memory_buf_t* out) {
  if (value.empty()) return;
  out->push_back(',');
  AppendJsonString(name, out);
  out->push_back(':');
  AppendJsonString(value, out);
}

// %*: the message as a JSON string, and the fields that follow it.
class JsonMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& time,
              spdlog::memory_buf_t& out) override {
    AppendJsonString({message.payload.data(), message.payload.size()}, &out);
    AppendField("request_id", request_id, &out);
    AppendField("trace_id", trace_id, &out);
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

}  // namespace

void SetupLogging(const LogConfig& config) {
  auto logger = std::make_shared<spdlog::logger>(
      "palu", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  if (config.format == "json") {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<JsonMessage>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","message":%*})");
    logger->set_formatter(std::move(formatter));
  } else {
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %v");
  }
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  SetLogLevel(config.level);
}

RequestLogFields::RequestLogFields(std::string_view id, std::string_view traceparent) {
  request_id = id;
  trace_id = TraceId(traceparent);
}

RequestLogFields::~RequestLogFields() { request_id = trace_id = {}; }

void SetLogLevel(const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); }

}  // namespace palu
