#include "server/plan.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <sstream>

#include "config/config_value.h"
#include "config/server_config.h"
#include "engine/cache/block_table.h"
#include "engine/model/cache_shape.h"
#include "engine/model/model_config.h"
#include "engine/model/palu_config.h"
#include "engine/model/safetensors.h"
#include "engine/status.h"

namespace palu {
namespace {

constexpr char kUsage[] =
    "usage: palu-server plan --model DIR --gpu-memory SIZE [--context TOKENS] [--reserve PART]\n"
    "                        [--section.key=value ...]\n"
    "Says how many users of --context tokens each fit into a device of SIZE (such as 80GiB) at\n"
    "once. --reserve is the part of SIZE kept for activations, logits and the driver (default\n"
    "10%). Settings such as --cache.format or --cache.block_tokens count as when serving.\n";

int64_t WeightBytes(const Safetensors& files) {
  int64_t bytes = 0;
  for (const auto& [name, entry] : files.entries()) {
    bytes += static_cast<int64_t>(entry.data.size());
  }
  return bytes;
}

// Takes "--name value" or "--name=value" out of args.
std::optional<std::string> Take(const std::string& name, std::vector<std::string>* args) {
  for (auto at = args->begin(); at != args->end(); ++at) {
    if (at->starts_with(name + "=")) {
      const std::string value = at->substr(name.size() + 1);
      args->erase(at);
      return value;
    }
    if (*at != name) continue;
    if (at + 1 == args->end()) throw ConfigError("flag " + name + ": found no value");
    const std::string value = *(at + 1);
    args->erase(at, at + 2);
    return value;
  }
  return std::nullopt;
}

template <typename T>
T Parsed(const char* flag, const std::string& text, std::optional<T> value, const char* expected) {
  if (value.has_value() && *value > 0) return *value;
  throw ConfigError(std::string("flag ") + flag + ": found \"" + text + "\", expected " + expected);
}

std::string Gib(int64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.3f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

std::string Describe(const PlanRequest& request, const Plan& plan) {
  char ratio[128];
  std::snprintf(ratio, sizeof(ratio), "%.1f against %.1f uncompressed, %.2fx smaller",
                plan.bytes_per_token, plan.bytes_per_token_uncompressed,
                plan.bytes_per_token_uncompressed / plan.bytes_per_token);
  std::ostringstream out;
  out << "model            " << request.model.path << " (" << plan.model_type << ", up to "
      << plan.max_context_tokens << " tokens)\n"
      << "memory           " << Gib(request.memory_bytes) << "\n"
      << "  weights        " << Gib(plan.weights_bytes) << "\n"
      << "  reserve        " << Gib(plan.reserve_bytes)
      << " (activations, logits, driver: an assumption, see --reserve)\n"
      << "  KV cache       " << Gib(plan.pool_bytes) << "\n"
      << "bytes per token  " << ratio << "\n";
  const double beyond = plan.bytes_per_token_beyond_windows;
  if (beyond < plan.bytes_per_token) {
    out << "                 " << beyond << " once no sliding window covers it\n";
  }
  out << "tokens           " << plan.capacity_tokens << "\n"
      << "users            " << plan.users << " with " << plan.context_tokens
      << " tokens each at once (uncompressed: " << plan.users_uncompressed << ")\n"
      << "settings         --cache.memory=" << plan.pool_bytes << "B";
  if (plan.users > request.engine.max_sequences) {
    out << " --engine.max_sequences=" << std::min<int64_t>(plan.users, 65536) << "  (its value of "
        << request.engine.max_sequences << " would be the limit)";
  }
  out << "\n";
  return out.str();
}

}  // namespace

Plan MakePlan(const PlanRequest& request) {
  const ModelConfig config = ModelConfig::Load(request.model.path);
  const Safetensors files = Safetensors::OpenDirectory(request.model.path);
  const auto specs = ResolveCache(LoadPlan(request.model.path, config), request.cache, files);

  Plan plan;
  plan.model_type = config.model_type;
  plan.max_context_tokens = config.max_context();
  if (request.model.max_context_tokens > 0) {
    plan.max_context_tokens = std::min(plan.max_context_tokens, request.model.max_context_tokens);
  }
  plan.context_tokens =
      request.context_tokens > 0 ? request.context_tokens : plan.max_context_tokens;
  if (plan.context_tokens > plan.max_context_tokens) {
    throw LoadError("--context: found " + std::to_string(plan.context_tokens) +
                    ", expected at most " + std::to_string(plan.max_context_tokens) +
                    ", the limit of " + request.model.path);
  }
  const CacheShape shape =
      ShapeCache(config, specs, request.cache, plan.max_context_tokens, request.engine.step_tokens);
  const LatentLayout& layout = shape.layout;
  plan.weights_bytes = WeightBytes(files);
  plan.reserve_bytes =
      static_cast<int64_t>(request.reserve_fraction * static_cast<double>(request.memory_bytes));
  plan.bytes_per_token = layout.bytes_per_token();
  plan.bytes_per_token_beyond_windows = shape.bytes_per_token_beyond_windows();
  plan.bytes_per_token_uncompressed =
      2.0 * 2.0 * config.num_layers * config.num_kv_heads * config.head_dim;

  const int64_t left = request.memory_bytes - plan.weights_bytes - plan.reserve_bytes;
  const int64_t blocks = std::max<int64_t>(left, 0) / layout.block_bytes();
  const int64_t blocks_per_user = shape.demand.BlocksOf(plan.context_tokens);
  if (blocks < blocks_per_user) {
    throw LoadError("--gpu-memory: found " + std::to_string(request.memory_bytes) +
                    " bytes, of which weights take " + std::to_string(plan.weights_bytes) +
                    " and the reserve " + std::to_string(plan.reserve_bytes) +
                    ", expected room for one user's cache of " +
                    std::to_string(blocks_per_user * layout.block_bytes()) + " bytes");
  }
  plan.pool_bytes = blocks * layout.block_bytes();
  plan.capacity_tokens = shape.demand.TokensIn(blocks, plan.context_tokens);
  plan.users = blocks / blocks_per_user;
  const double plain_block = plan.bytes_per_token_uncompressed * layout.block_tokens();
  plan.users_uncompressed = static_cast<int64_t>(static_cast<double>(left) / plain_block) /
                            BlocksForTokens(plan.context_tokens, layout.block_tokens());
  return plan;
}

std::string PlanText(const std::vector<std::string>& args) {
  std::vector<std::string> rest = args;
  for (const std::string& argument : rest) {
    if (argument == "--help" || argument == "-h") return kUsage;
  }
  const auto memory = Take("--gpu-memory", &rest);
  const auto context = Take("--context", &rest);
  const auto reserve = Take("--reserve", &rest);
  const CommandLine line = ParseCommandLine(rest, ProcessEnvironment());
  if (line.action != StartAction::kServe) {
    throw ConfigError("plan: found an action of the server, expected settings only");
  }
  CheckServable(line.config);
  if (!memory) throw ConfigError("flag --gpu-memory: not set, expected a size such as 80GiB");
  PlanRequest request{line.config.model, line.config.cache, line.config.engine};
  request.memory_bytes =
      Parsed("--gpu-memory", *memory, ParseBytes(*memory), "a size such as 80GiB");
  if (context) {
    const int64_t tokens =
        Parsed("--context", *context, ParseInteger(*context), "a number of tokens");
    request.context_tokens = static_cast<int>(std::min<int64_t>(tokens, INT32_MAX));
  }
  if (reserve) {
    request.reserve_fraction =
        Parsed("--reserve", *reserve, ParseFraction(*reserve), "a part such as 10%");
  }
  return Describe(request, MakePlan(request));
}

}  // namespace palu
