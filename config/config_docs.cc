// The table as YAML, as help text and as a page of the documentation.
#include <algorithm>
#include <string>

#include "config/config_table.h"
#include "config/server_config.h"

namespace palu {
namespace {

// text as lines of at most width columns, each after prefix.
std::string Wrapped(const std::string& text, const std::string& prefix, size_t width) {
  std::string out;
  std::string line = prefix;
  size_t start = 0;
  while (start < text.size()) {
    const size_t end = std::min(text.size(), text.find(' ', start));
    const std::string word = text.substr(start, end - start);
    if (line.size() > prefix.size() && line.size() + 1 + word.size() > width) {
      out += line + "\n";
      line = prefix;
    }
    line += (line.size() > prefix.size() ? " " : "") + word;
    start = end + 1;
  }
  return out + line + "\n";
}

std::string Capitalized(std::string text) {
  if (text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string TableCell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

}  // namespace

std::string ToYaml(const ServerConfig& config) {
  std::string out =
      "# Palu Server settings. Every key can also be set as an environment variable\n"
      "# (PALU_HTTP_PORT=8000) or as a flag (--http.port=8000); flags win over the environment,\n"
      "# the environment wins over this file.\n";
  std::string section;
  for (const ConfigKey& key : ConfigTable()) {
    if (key.section() != section) {
      section = key.section();
      out += "\n# " + SectionHelp(section) + "\n" + section + ":\n";
    }
    out += Wrapped(key.help + " " + Capitalized(key.expected) + ".", "  # ", 98);
    out += "  " + key.leaf() + ": " + key.yaml(config) + "\n";
  }
  return out;
}

std::string HelpText() {
  std::string out =
      "palu-server " PALU_VERSION
      ": serves a language model over HTTP (OpenAI-compatible) and gRPC\n\n"
      "usage: palu-server --model DIR [--port N] [--config FILE] [--section.key=value ...]\n"
      "       palu-server plan --model DIR --gpu-memory SIZE [--context TOKENS]\n\n"
      "  --config FILE    YAML file with settings; PALU_CONFIG does the same\n"
      "  --model DIR      short for --model.path\n"
      "  --port N         short for --http.port\n"
      "  --check-config   check the settings and exit: 0 right, 2 wrong\n"
      "  --print-config   print the effective settings as YAML and exit\n"
      "  --version        print release, commit and build options and exit\n"
      "  --help           print this and exit\n\n"
      "Settings: file < environment (PALU_HTTP_PORT=8000) < flags (--http.port=8000).\n";
  const ServerConfig defaults;
  std::string section;
  for (const ConfigKey& key : ConfigTable()) {
    if (key.section() != section) {
      section = key.section();
      out += "\n" + SectionHelp(section) + "\n";
    }
    out += "  --" + key.name + "=" + key.yaml(defaults) + "\n";
    out += Wrapped(key.help + " " + Capitalized(key.expected) + ".", "      ", 98);
  }
  return out;
}

std::string ConfigReferenceMarkdown() {
  std::string out =
      "# Configuration\n\n"
      "Generated from the table in `config/config_table.cc`; a test keeps it equal to that "
      "table.\n\n"
      "Every key can be set in a YAML file (`--config FILE` or `PALU_CONFIG`), in the environment "
      "and as a flag. Flags win over the environment, the environment over the file, the file over "
      "the defaults. `config/palu_server.yaml` is a file with all defaults. An unknown or wrong "
      "key in the file or in a flag stops the start with exit code 2 and one line that names the "
      "place, the key, the value found and the one expected; an unknown `PALU_*` variable is only "
      "logged, because orchestrators set such variables by themselves.\n\n"
      "`--check-config` checks the settings, `--print-config` prints the effective ones as YAML, "
      "`--model DIR` and `--port N` are short for `--model.path` and `--http.port`.\n\n"
      "Sizes: a number with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of "
      "1024). Durations: a number with ms, s, m or h; without a unit, seconds.\n";
  const ServerConfig defaults;
  std::string section;
  for (const ConfigKey& key : ConfigTable()) {
    if (key.section() != section) {
      section = key.section();
      out += "\n## " + section + "\n\n" + SectionHelp(section) + "\n\n";
      out += "| Key | Environment | Default | Value | Meaning |\n|---|---|---|---|---|\n";
    }
    out += "| `" + key.name + "` | `" + key.environment_name() + "` | `" +
           TableCell(key.yaml(defaults)) + "` | " + TableCell(key.expected) + " | " +
           TableCell(key.help) + " |\n";
  }
  return out;
}

}  // namespace palu
