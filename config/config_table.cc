#include "config/config_table.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <utility>

#include "config/config_value.h"

namespace palu {
namespace {

constexpr int kMaxInt = std::numeric_limits<int>::max();

std::string Quoted(const std::string& text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + '"';
}

// field: a generic lambda from ServerConfig (const or not) to the member.
template <typename Field>
ConfigKey Integer(std::string name, int low, int high, Field field, std::string help) {
  std::string expected =
      high == kMaxInt ? "an integer of at least " + std::to_string(low)
                      : "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  return {.name = std::move(name),
          .type = "integer",
          .expected = std::move(expected),
          .help = std::move(help),
          .set =
              [=](std::string_view text, ServerConfig* config) {
                const auto value = ParseInteger(text);
                if (!value || *value < low || *value > high) return false;
                field(*config) = static_cast<int>(*value);
                return true;
              },
          .yaml = [=](const ServerConfig& config) { return std::to_string(field(config)); }};
}

template <typename Field>
ConfigKey Bool(std::string name, Field field, std::string help) {
  return {.name = std::move(name),
          .type = "boolean",
          .expected = "true or false",
          .help = std::move(help),
          .is_bool = true,
          .set =
              [=](std::string_view text, ServerConfig* config) {
                const auto value = ParseBool(text);
                if (value) field(*config) = *value;
                return value.has_value();
              },
          .yaml = [=](const ServerConfig& config) { return field(config) ? "true" : "false"; }};
}

template <typename Field>
ConfigKey Size(std::string name, int64_t low, Field field, std::string help) {
  return {.name = std::move(name),
          .type = "size",
          .expected = "a size of at least " + FormatBytes(low) + ", such as 16MiB",
          .help = std::move(help),
          .set =
              [=](std::string_view text, ServerConfig* config) {
                const auto value = ParseBytes(text);
                if (!value || *value < low) return false;
                field(*config) = *value;
                return true;
              },
          .yaml = [=](const ServerConfig& config) { return FormatBytes(field(config)); }};
}

template <typename Field>
ConfigKey Duration(std::string name, std::chrono::milliseconds low, Field field, std::string help) {
  return {.name = std::move(name),
          .type = "duration",
          .expected = "a duration from " + FormatDuration(low) + " to 24h, such as 30s or 500ms",
          .help = std::move(help),
          .set =
              [=](std::string_view text, ServerConfig* config) {
                const auto value = ParseDuration(text);
                if (!value || *value < low || *value > std::chrono::hours(24)) return false;
                field(*config) = *value;
                return true;
              },
          .yaml = [=](const ServerConfig& config) { return FormatDuration(field(config)); }};
}

template <typename Field>
ConfigKey Text(std::string name, Field field, std::string help, bool may_be_empty = true) {
  return {.name = std::move(name),
          .type = "text",
          .expected = may_be_empty ? "a text" : "a text that is not empty",
          .help = std::move(help),
          .set =
              [=](std::string_view text, ServerConfig* config) {
                if (text.empty() && !may_be_empty) return false;
                field(*config) = std::string(text);
                return true;
              },
          .yaml = [=](const ServerConfig& config) { return Quoted(field(config)); }};
}

template <typename Field>
ConfigKey Choice(std::string name, std::vector<std::string> choices, Field field,
                 std::string help) {
  std::string expected = "one of";
  for (const std::string& choice : choices) {
    expected += (choice == choices.front() ? " " : ", ") + choice;
  }
  return {.name = std::move(name),
          .type = "choice",
          .expected = std::move(expected),
          .help = std::move(help),
          .set =
              [=, choices = std::move(choices)](std::string_view text, ServerConfig* config) {
                if (std::find(choices.begin(), choices.end(), text) == choices.end()) return false;
                field(*config) = std::string(text);
                return true;
              },
          .yaml = [=](const ServerConfig& config) { return field(config); }};
}

template <typename Field>
ConfigKey List(std::string name, Field field, std::string help) {
  return {.name = std::move(name),
          .type = "list",
          .expected = "a list of texts, in the environment and in flags separated by commas",
          .help = std::move(help),
          .is_list = true,
          .set =
              [=](std::string_view text, ServerConfig* config) {
                field(*config) = ParseList(text);
                return true;
              },
          .yaml =
              [=](const ServerConfig& config) {
                std::string out = "[";
                for (const std::string& item : field(config)) {
                  out += (out.size() > 1 ? ", " : "") + Quoted(item);
                }
                return out + "]";
              }};
}

// Values that no print shows. What is printed reads back as none.
template <typename Field>
ConfigKey SecretList(std::string name, Field field, std::string help) {
  ConfigKey key = List(std::move(name), field, std::move(help));
  key.yaml = [=](const ServerConfig& config) {
    const size_t count = field(config).size();
    return count == 0 ? "[]" : "[]  # " + std::to_string(count) + " not shown";
  };
  return key;
}

ConfigKey Device() {
  const auto is_device = [](std::string_view text) {
    if (text == "auto" || text == "cpu" || text == "cuda") return true;
    if (!text.starts_with("cuda:")) return false;
    const auto index = ParseInteger(text.substr(5));
    return index && *index >= 0 && *index < 1024;
  };
  return {
      .name = "engine.device",
      .type = "text",
      .expected = "one of auto, cpu, cuda, cuda:N",
      .help = "Where the model runs. auto: the first CUDA device if there is one, else the CPU.",
      .set =
          [=](std::string_view text, ServerConfig* config) {
            if (!is_device(text)) return false;
            config->engine.device = std::string(text);
            return true;
          },
      .yaml = [](const ServerConfig& config) { return Quoted(config.engine.device); }};
}

ConfigKey CacheMemory() {
  constexpr int64_t kLeast = 4096;
  return {.name = "cache.memory",
          .type = "size or fraction",
          .expected =
              "a size of at least 4KiB, such as 2GiB, or a fraction from 0.001 to 1.0, such as "
              "0.3 or 30%",
          .help =
              "Memory of the KV cache: bytes, or a fraction of what is free once the model is "
              "loaded.",
          .set =
              [](std::string_view text, ServerConfig* config) {
                // A number with a point or a percent sign and no unit is a fraction, not bytes.
                if (const auto fraction = ParseFraction(text);
                    fraction && *fraction >= 0.001 &&
                    text.find_first_of(".%") != std::string_view::npos) {
                  config->cache.memory_bytes = 0;
                  config->cache.memory_fraction = *fraction;
                  return true;
                }
                const auto bytes = ParseBytes(text);
                if (!bytes || *bytes < kLeast) return false;
                config->cache.memory_bytes = *bytes;
                return true;
              },
          .yaml =
              [](const ServerConfig& config) {
                if (config.cache.memory_bytes > 0) return FormatBytes(config.cache.memory_bytes);
                const std::string fraction = FormatNumber(config.cache.memory_fraction);
                return fraction == "1" ? "100%" : fraction;
              }};
}

#define PALU_FIELD(path) \
  [](auto& config) -> auto& { return config.path; }

using std::chrono::milliseconds;

std::vector<ConfigKey> ModelKeys() {
  return {
      Text("model.path", PALU_FIELD(model.path),
           "Directory of the checkpoint (Hugging Face layout: config.json, *.safetensors, "
           "tokenizer). Must be set to serve; --model for short."),
      Text("model.served_name", PALU_FIELD(model.served_name),
           "Name that clients use for the model. Empty: last component of model.path."),
      Integer("model.max_context_tokens", 0, kMaxInt, PALU_FIELD(model.max_context_tokens),
              "Longest prompt plus answer. 0: the model's own limit."),
      Text("model.chat_template", PALU_FIELD(model.chat_template),
           "File with the chat template. Empty: the model's own."),
      Choice("model.pooling", {"auto", "mean", "last"}, PALU_FIELD(model.pooling),
             "Which final hidden states make an embedding, unless a request says: their mean, or "
             "that of the last token. auto: what 1_Pooling/config.json of the checkpoint says, "
             "else last."),
      Choice(
          "model.weights", {"auto", "bf16", "int8", "int4"}, PALU_FIELD(model.weights),
          "Weight matrices in memory. auto: as the checkpoint has them; bf16: as stored (f16 and "
          "f32 too); int8 and int4: rounded at load, in groups of 32 (int4 keeps the output "
          "layer at int8), or read from a checkpoint that palu-compress --weights wrote. int8 "
          "and int4 on CPUs only."),
      Choice("model.tool_parser", {"auto", "llama3", "hermes", "mistral", "json"},
             PALU_FIELD(model.tool_parser),
             "How the model writes tool calls. auto: as its chat template shows."),
  };
}

std::vector<ConfigKey> EngineKeys() {
  return {
      Device(),
      Choice("engine.cpu_isa", {"auto", "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"},
             PALU_FIELD(engine.cpu_isa),
             "Instruction set of the CPU kernels. auto: the best that the machine has, "
             "in f32; avx512_bf16 rounds activations to bf16."),
      Integer("engine.cpu_threads", 0, 1024, PALU_FIELD(engine.cpu_threads),
              "Threads of the CPU kernels. 0: all cores, or as many as engine.cpu_affinity names."),
      Text("engine.cpu_affinity", PALU_FIELD(engine.cpu_affinity),
           "CPUs that the threads of the CPU kernels are bound to, one each, such as 0-3,8. Empty: "
           "not bound."),
      Choice("engine.cpu_numa", {"default", "interleave"}, PALU_FIELD(engine.cpu_numa),
             "Memory of the CPU kernels on machines with several NUMA nodes. default: on the node "
             "that writes it first; interleave: spread over all. Weights that are read in place "
             "lie where the page cache has them."),
      Choice(
          "engine.cuda_activations", {"bf16", "f32"}, PALU_FIELD(engine.cuda_activations),
          "Arithmetic on GPUs. bf16: tensor cores; f32: exact and much slower, for comparisons."),
      Integer("engine.max_sequences", 1, 65536, PALU_FIELD(engine.max_sequences),
              "Sequences that run at once; a request with n > 1 is n sequences."),
      Integer("engine.step_tokens", 1, 1 << 20, PALU_FIELD(engine.step_tokens),
              "Token budget of one step: every running sequence takes one, prefill chunks share "
              "the rest."),
      Integer("engine.max_queue_requests", 1, kMaxInt, PALU_FIELD(engine.max_queue_requests),
              "Requests that may wait; more are refused with 429."),
      Integer("engine.max_queue_tokens", 0, kMaxInt, PALU_FIELD(engine.max_queue_tokens),
              "Prompt tokens of all waiting requests together; what goes beyond is refused with "
              "429. 0: not bounded."),
      Choice(
          "engine.policy", {"priority", "fcfs", "fair"}, PALU_FIELD(engine.policy),
          "Who starts next. priority: lower values of the request's priority first; fcfs: by "
          "arrival; fair: API keys, or users (field user) where there are none, take turns by the "
          "tokens that they use."),
      Duration("engine.ageing", milliseconds(0), PALU_FIELD(engine.ageing),
               "Waiting time that makes up for one step of priority, so that nothing starves. "
               "0: priorities are strict."),
      Integer("engine.target_inter_token_ms", 0, 3600000, PALU_FIELD(engine.target_inter_token_ms),
              "Wanted milliseconds between two tokens of an answer: the prompt tokens of a step "
              "adapt to it while answers run. 0: prompts take what engine.step_tokens leaves."),
      Bool("engine.overlap", PALU_FIELD(engine.overlap),
           "Whether the next step is planned, and the last one's tokens are published, while the "
           "device runs."),
      Bool("engine.prefix_caching", PALU_FIELD(engine.prefix_caching),
           "Whether prompts share the cached blocks of earlier prompts with the same beginning."),
      Integer("engine.max_unread_tokens", 1, kMaxInt, PALU_FIELD(engine.max_unread_tokens),
              "A stream is cancelled once its client has left so many tokens unread."),
  };
}

std::vector<ConfigKey> CacheKeys() {
  return {
      CacheMemory(),
      Size("cache.host_memory", 0, PALU_FIELD(cache.host_memory),
           "Host memory for cache blocks that find no place on the device: prefixes not used for a "
           "while and preempted requests. 0: they are computed anew."),
      Integer("cache.block_tokens", 1, 1024, PALU_FIELD(cache.block_tokens),
              "Tokens per cache block."),
      Choice("cache.format",
             {"auto", "f32", "bf16", "f16", "fp8", "fp8_e4m3", "int8", "int4", "int3", "int2"},
             PALU_FIELD(cache.format),
             "How cached rows are stored in layers whose checkpoint does not say. auto: bf16; fp8 "
             "and fp8_e4m3: OCP E4M3, one byte a number and no scale."),
      Choice("cache.rotation", {"auto", "none", "hadamard"}, PALU_FIELD(cache.rotation),
             "Orthogonal rotation of cached rows, which takes the outliers out before they are "
             "quantized. auto: hadamard for integer formats and for latents in fp8."),
  };
}

std::vector<ConfigKey> HttpKeys() {
  return {
      Text("http.address", PALU_FIELD(http.address), "Address to listen on.", false),
      Integer("http.port", 0, 65535, PALU_FIELD(http.port),
              "Port of the HTTP interface; 0: any free one. --port for short."),
      Integer("http.threads", 1, 256, PALU_FIELD(http.threads), "Threads that serve sockets."),
      Integer("http.text_threads", 0, 256, PALU_FIELD(http.text_threads),
              "Threads for JSON, tokenizing and detokenizing, of gRPC too. 0: one per core, at "
              "most 4."),
      Integer("http.max_connections", 1, 1 << 20, PALU_FIELD(http.max_connections),
              "Connections open at once; more are refused with 503."),
      Size("http.max_header_bytes", 1024, PALU_FIELD(http.max_header_bytes),
           "Largest request head."),
      Size("http.max_body_bytes", 1024, PALU_FIELD(http.max_body_bytes),
           "Largest request body; more is refused with 413."),
      Duration("http.header_timeout", milliseconds(100), PALU_FIELD(http.header_timeout),
               "Time for a client to send a request head."),
      Duration("http.body_timeout", milliseconds(100), PALU_FIELD(http.body_timeout),
               "Time for a client to send a request body; then 408."),
      Duration("http.idle_timeout", milliseconds(100), PALU_FIELD(http.idle_timeout),
               "Time that a kept-alive connection may wait for its next request."),
      Duration("http.write_timeout", milliseconds(100), PALU_FIELD(http.write_timeout),
               "Time for a client to take what is sent; then the connection is closed."),
      Duration("http.sse_keepalive", milliseconds(100), PALU_FIELD(http.sse_keepalive),
               "Silence in an event stream after which a comment line is sent."),
      Duration("http.tcp_keepalive", milliseconds(0), PALU_FIELD(http.tcp_keepalive),
               "Silence after which the kernel probes whether a client is still there; one that "
               "does not answer is closed after as long again. 0: never."),
      Duration("http.slow_request", milliseconds(0), PALU_FIELD(http.slow_request),
               "Requests that take this long are logged as warnings, with where the time went. 0: "
               "none."),
      Bool("http.log_prompts", PALU_FIELD(http.log_prompts),
           "Whether the log shows the bodies of generating requests, prompts included."),
      Bool("http.debug", PALU_FIELD(http.debug),
           "Whether GET /debug/engine shows the scheduler's state."),
      List("http.cors_origins", PALU_FIELD(http.cors_origins),
           "Origins whose pages may call the server; \"*\": any; empty: no CORS headers."),
  };
}

std::vector<ConfigKey> OtherKeys() {
  return {
      Bool("grpc.enabled", PALU_FIELD(grpc.enabled), "Whether to serve gRPC."),
      Text("grpc.address", PALU_FIELD(grpc.address), "Address to listen on.", false),
      Integer("grpc.port", 0, 65535, PALU_FIELD(grpc.port),
              "Port of the gRPC interface; 0: any free one."),
      Size("grpc.max_message_bytes", 1024, PALU_FIELD(grpc.max_message_bytes),
           "Largest message received."),
      Duration("grpc.keepalive", milliseconds(0), PALU_FIELD(grpc.keepalive),
               "Silence after which a client is pinged; one that does not answer is closed after "
               "as long again. 0: never."),
      SecretList("security.api_keys", PALU_FIELD(security.api_keys),
                 "Bearer keys that clients may use, besides those of the file. Better given in the "
                 "environment than as a flag. No key at all: everybody may ask."),
      Text("security.api_keys_file", PALU_FIELD(security.api_keys_file),
           "File with one key per line and # comments, read again when it changes and at SIGHUP. "
           "Empty: none."),
      Integer("security.max_requests_per_key", 0, kMaxInt,
              PALU_FIELD(security.max_requests_per_key),
              "Requests that one key may have running at once; more are refused with 429. 0: no "
              "limit."),
      Text("tls.cert_file", PALU_FIELD(tls.cert_file),
           "PEM file with the certificate and its chain, for HTTP and gRPC; read again when it "
           "changes and at SIGHUP. Empty: no TLS."),
      Text("tls.key_file", PALU_FIELD(tls.key_file), "PEM file with the certificate's key."),
      Text("tls.client_ca_file", PALU_FIELD(tls.client_ca_file),
           "PEM file with certificates that sign those of clients, which then have to show one. "
           "Empty: clients need none."),
      Choice("log.level", {"trace", "debug", "info", "warning", "error", "off"},
             PALU_FIELD(log.level), "Least important level that is logged."),
      Choice("log.format", {"text", "json"}, PALU_FIELD(log.format),
             "Lines for people, or one JSON object per line."),
      Duration("shutdown.drain_timeout", milliseconds(0), PALU_FIELD(shutdown.drain_timeout),
               "After SIGTERM, time for running requests to finish before they are cancelled."),
  };
}

#undef PALU_FIELD

}  // namespace

std::string ConfigKey::environment_name() const {
  std::string out = "PALU_";
  for (const char c : name) {
    out += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return out;
}

const std::vector<ConfigKey>& ConfigTable() {
  static const std::vector<ConfigKey> table = [] {
    std::vector<ConfigKey> all;
    for (auto keys : {ModelKeys(), CacheKeys(), EngineKeys(), HttpKeys(), OtherKeys()}) {
      std::move(keys.begin(), keys.end(), std::back_inserter(all));
    }
    return all;
  }();
  return table;
}

const ConfigKey* FindConfigKey(std::string_view name) {
  for (const ConfigKey& key : ConfigTable()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

std::string SuggestKey(std::string_view name) {
  std::vector<std::string> names;
  for (const ConfigKey& key : ConfigTable()) names.push_back(key.name);
  const std::string nearest = Nearest(name, names);
  return nearest.empty() ? "" : "; did you mean " + nearest + "?";
}

std::string SectionHelp(std::string_view section) {
  if (section == "model") return "The checkpoint that is served.";
  if (section == "cache") return "The paged KV cache.";
  if (section == "engine") return "Device, batching and queue.";
  if (section == "http") return "The OpenAI-compatible HTTP interface.";
  if (section == "grpc") return "The gRPC interface.";
  if (section == "security") return "Who may ask.";
  if (section == "tls") return "TLS of both ports.";
  if (section == "log") return "What is logged, on standard error.";
  return "How the server stops.";
}

}  // namespace palu
