#include "config/server_config.h"

#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "config/config_table.h"
#include "config/config_value.h"

namespace palu {
namespace {

constexpr size_t kMaxYamlBytes = 1 << 20;
constexpr std::string_view kConfigVariable = "PALU_CONFIG";

// Error lines stay lines, however long or odd the value is.
std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return text.size() > 80 ? out + "…" : out;
}

std::string At(const std::string& name, const YAML::Mark& mark) {
  return mark.is_null() ? name : name + ":" + std::to_string(mark.line + 1);
}

void SetValue(const ConfigKey& key, std::string_view value, const std::string& source,
              ServerConfig* config) {
  if (!key.set(value, config)) {
    throw ConfigError(source + ": " + key.name + ": found \"" + Printable(value) + "\", expected " +
                      key.expected);
  }
}

void SetYamlValue(const ConfigKey& key, const YAML::Node& node, const std::string& source,
                  ServerConfig* config) {
  if (node.IsScalar()) {
    SetValue(key, node.Scalar(), source, config);
    return;
  }
  const auto is_scalar = [](const YAML::Node& item) { return item.IsScalar(); };
  if (!key.is_list || !node.IsSequence() || !std::all_of(node.begin(), node.end(), is_scalar)) {
    const char* found = node.IsMap() ? "a map" : node.IsSequence() ? "a list" : "nothing";
    throw ConfigError(source + ": " + key.name + ": found " + found + ", expected " + key.expected);
  }
  std::string joined;
  for (const YAML::Node& item : node) joined += item.Scalar() + ",";
  SetValue(key, joined, source, config);
}

bool IsSection(std::string_view name) {
  return std::any_of(ConfigTable().begin(), ConfigTable().end(),
                     [&](const ConfigKey& key) { return key.section() == name; });
}

std::string SuggestSection(const std::string& name) {
  std::vector<std::string> sections;
  for (const ConfigKey& key : ConfigTable()) sections.push_back(key.section());
  const std::string nearest = Nearest(name, sections);
  return nearest.empty()
             ? ", expected one of model, cache, engine, http, grpc, security, tls, log, shutdown"
             : "; did you mean " + nearest + "?";
}

std::string KeyText(const YAML::Node& node, const std::string& source) {
  if (!node.IsScalar()) throw ConfigError(source + ": found a key that is no text");
  return node.Scalar();
}

void ApplySection(const std::string& section, const YAML::Node& map, const std::string& name,
                  ServerConfig* config) {
  std::set<std::string> seen;
  for (const auto& entry : map) {
    const std::string source = At(name, entry.first.Mark());
    const std::string full = section + "." + KeyText(entry.first, source);
    const ConfigKey* key = FindConfigKey(full);
    if (key == nullptr) {
      throw ConfigError(source + ": unknown key " + Printable(full) + SuggestKey(full));
    }
    if (!seen.insert(full).second) throw ConfigError(source + ": " + full + " is set twice");
    SetYamlValue(*key, entry.second, source, config);
  }
}

void ApplyDocument(const YAML::Node& root, const std::string& name, ServerConfig* config) {
  if (root.IsNull()) return;
  if (!root.IsMap()) {
    throw ConfigError(At(name, root.Mark()) + ": found no map, expected sections such as http:");
  }
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const std::string source = At(name, entry.first.Mark());
    const std::string section = KeyText(entry.first, source);
    if (!IsSection(section)) {
      throw ConfigError(source + ": unknown section " + Printable(section) +
                        SuggestSection(section));
    }
    if (!seen.insert(section).second) throw ConfigError(source + ": " + section + " is set twice");
    if (entry.second.IsNull()) continue;
    if (!entry.second.IsMap()) {
      throw ConfigError(source + ": " + section + ": found a value, expected a map of keys");
    }
    ApplySection(section, entry.second, name, config);
  }
}

// By hand, because YAML::LoadAll never returns from some broken texts.
void CheckOneDocument(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  bool started = false;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const bool marker = line.rfind("---", 0) == 0;
    if (marker && started) {
      throw ConfigError(name + ":" + std::to_string(number) +
                        ": found a second document, expected one");
    }
    const size_t first = line.find_first_not_of(" \t\r");
    started |= marker || (first != std::string::npos && line[first] != '#' && line[0] != '%');
  }
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ConfigError(path + ": cannot be read: " + std::strerror(errno));
  std::string text(kMaxYamlBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) throw ConfigError(path + ": cannot be read: " + std::strerror(errno));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxYamlBytes) throw ConfigError(path + ": larger than 1MiB");
  return text;
}

struct Flag {
  std::string name;  // without dashes, short forms resolved
  std::string value;
};

// What the arguments ask for, before any of it is looked up.
struct Arguments {
  StartAction action = StartAction::kServe;
  std::string config_file;
  std::vector<Flag> flags;
};

std::string FullName(const std::string& name) {
  if (name == "model") return "model.path";
  if (name == "port") return "http.port";
  return name;
}

bool SetAction(const std::string& argument, Arguments* out) {
  constexpr std::pair<std::string_view, StartAction> kActions[] = {
      {"--check-config", StartAction::kCheckConfig},
      {"--print-config", StartAction::kPrintConfig},
      {"--version", StartAction::kVersion},
      {"--help", StartAction::kHelp},
      {"-h", StartAction::kHelp}};
  for (const auto& [flag, action] : kActions) {
    if (argument == flag) {
      out->action = action;
      return true;
    }
  }
  return false;
}

Arguments SplitArguments(const std::vector<std::string>& args) {
  Arguments out;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& argument = args[i];
    if (SetAction(argument, &out)) continue;
    if (!argument.starts_with("--")) {
      throw ConfigError("argument \"" + Printable(argument) +
                        "\": expected flags only, such as --http.port=8000; see --help");
    }
    const size_t equals = argument.find('=');
    const std::string name =
        FullName(argument.substr(2, equals == std::string::npos ? equals : equals - 2));
    const ConfigKey* key = FindConfigKey(name);
    if (key == nullptr && name != "config") {
      throw ConfigError("flag --" + Printable(name) + ": unknown" + SuggestKey(name));
    }
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (key != nullptr && key->is_bool) {
      value = "true";
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      throw ConfigError("flag --" + name + ": found no value, expected " +
                        (key != nullptr ? key->expected : "a YAML file"));
    }
    if (key == nullptr) {
      out.config_file = value;
    } else {
      out.flags.push_back({name, value});
    }
  }
  return out;
}

void ApplyEnvironment(const std::vector<std::string>& environment, CommandLine* out) {
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (!entry.starts_with("PALU_") || equals == std::string::npos) continue;
    const std::string variable = entry.substr(0, equals);
    if (variable == kConfigVariable) continue;
    const auto key = std::find_if(
        ConfigTable().begin(), ConfigTable().end(),
        [&](const ConfigKey& candidate) { return candidate.environment_name() == variable; });
    if (key != ConfigTable().end()) {
      SetValue(*key, entry.substr(equals + 1), "environment " + variable, &out->config);
      continue;
    }
    // Not an error: orchestrators set variables such as PALU_SERVER_SERVICE_HOST by themselves.
    std::vector<std::string> names;
    for (const ConfigKey& known : ConfigTable()) names.push_back(known.environment_name());
    const std::string nearest = Nearest(variable, names);
    out->warnings.push_back("environment " + Printable(variable) + ": no such key, ignored" +
                            (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
  }
}

void CheckCombinations(const ServerConfig& config) {
  if (config.grpc.enabled && config.grpc.port != 0 && config.grpc.port == config.http.port) {
    throw ConfigError("grpc.port: found " + std::to_string(config.grpc.port) +
                      ", which is http.port too, expected another port");
  }
  if (config.tls.cert_file.empty() != config.tls.key_file.empty()) {
    throw ConfigError("tls.key_file: found \"" + Printable(config.tls.key_file) +
                      "\", expected a file exactly where tls.cert_file is one");
  }
  if (!config.tls.client_ca_file.empty() && config.tls.cert_file.empty()) {
    throw ConfigError("tls.client_ca_file: found a file, expected tls.cert_file to be set too");
  }
  if (config.engine.step_tokens < config.engine.max_sequences) {
    throw ConfigError("engine.step_tokens: found " + std::to_string(config.engine.step_tokens) +
                      ", expected at least engine.max_sequences, which is " +
                      std::to_string(config.engine.max_sequences));
  }
}

}  // namespace

void ApplyYaml(const std::string& text, const std::string& name, ServerConfig* config) {
  try {
    CheckOneDocument(text, name);
    ApplyDocument(YAML::Load(text), name, config);
  } catch (const YAML::Exception& error) {
    throw ConfigError(At(name, error.mark) + ": no valid YAML: " + error.msg);
  }
}

CommandLine ParseCommandLine(const std::vector<std::string>& args,
                             const std::vector<std::string>& environment) {
  Arguments arguments = SplitArguments(args);
  CommandLine out;
  out.action = arguments.action;
  if (out.action == StartAction::kHelp || out.action == StartAction::kVersion) return out;
  for (const std::string& entry : environment) {
    const std::string prefix = std::string(kConfigVariable) + "=";
    if (arguments.config_file.empty() && entry.starts_with(prefix)) {
      arguments.config_file = entry.substr(prefix.size());
    }
  }
  if (!arguments.config_file.empty()) {
    ApplyYaml(ReadFile(arguments.config_file), arguments.config_file, &out.config);
  }
  ApplyEnvironment(environment, &out);
  for (const Flag& flag : arguments.flags) {
    SetValue(*FindConfigKey(flag.name), flag.value, "flag --" + flag.name, &out.config);
  }
  CheckCombinations(out.config);
  return out;
}

std::vector<std::string> ProcessEnvironment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

void CheckServable(const ServerConfig& config) {
  if (config.model.path.empty()) {
    throw ConfigError("model.path: not set, expected the directory of a checkpoint (--model DIR)");
  }
}

}  // namespace palu
