#include <string>

#include "config/config_shell.h"
#include "config/config_table.h"
#include "config/server_config.h"

namespace palu {
namespace {

// Text that troff must not take for requests or escapes.
std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += std::string("\\&") + c;
    } else {
      out += c;
    }
  }
  return out;
}

std::string Head(const std::string& name, int section, const std::string& what) {
  return ".TH " + name + " " + std::to_string(section) +
         " \"\" \"palu-server " PALU_VERSION "\"\n" + ".SH NAME\n" + Escaped(name) + " \\- " +
         Escaped(what) + "\n";
}

std::string Entry(const std::string& tag, const std::string& text) {
  return ".TP\n.B " + Escaped(tag) + "\n" + Escaped(text) + "\n";
}

constexpr char kExitStatus[] =
    ".SH EXIT STATUS\n"
    ".TP\n.B 0\nIt ended as it was asked to.\n"
    ".TP\n.B 1\nThe device failed, or a second signal ended it at once.\n"
    ".TP\n.B 2\nIt cannot start; one line on standard error says why.\n";

constexpr char kSignals[] =
    ".SH SIGNALS\n"
    ".TP\n.B SIGTERM, SIGINT\nTurns new requests away, lets running ones finish within\n"
    ".IR shutdown.drain_timeout ,\nthen ends. A second one ends it at once.\n"
    ".TP\n.B SIGHUP\nReads the configuration again and takes over what can change while it runs.\n";

}  // namespace

std::string ServerManPage() {
  std::string out = Head("palu-server", 1, "serve a language model over HTTP and gRPC");
  out +=
      ".SH SYNOPSIS\n"
      ".B palu\\-server\n\\-\\-model\n.I DIR\n[\\-\\-config\n.IR FILE ]\n"
      "[\\-\\-\\fIsection\\fR.\\fIkey\\fR=\\fIvalue\\fR ...]\n.br\n"
      ".B palu\\-server plan\n\\-\\-model\n.I DIR\n\\-\\-gpu\\-memory\n.I SIZE\n[\\-\\-context\n"
      ".IR TOKENS ]\n"
      ".SH DESCRIPTION\n"
      "Serves a Hugging Face checkpoint over an OpenAI\\-compatible HTTP interface and gRPC, with "
      "a\n"
      "KV cache that holds low\\-rank latents. Settings come from a YAML file, the environment "
      "and\n"
      "flags; flags win over the environment, the environment over the file.\n"
      ".PP\n.B plan\nsays how many users fit into a device's memory, without loading the model.\n"
      ".SH OPTIONS\n";
  out += Entry("--config FILE", "YAML file with settings; PALU_CONFIG does the same.");
  out += Entry("--model DIR", "Short for --model.path.");
  out += Entry("--port N", "Short for --http.port.");
  out += Entry("--check-config", "Checks the settings and exits: 0 right, 2 wrong.");
  out += Entry("--print-config", "Prints the effective settings as YAML and exits.");
  out += Entry("--version", "Prints release, commit and build options and exits.");
  out += Entry("--help", "Prints all flags and exits.");
  const ServerConfig defaults;
  for (const ConfigKey& key : ConfigTable()) {
    out += Entry("--" + key.name + "=" + key.yaml(defaults),
                 key.help + " Value: " + key.expected + ".");
  }
  out += ".SH ENVIRONMENT\nEach flag has a variable: --http.port is PALU_HTTP_PORT.\n";
  out += Entry("NOTIFY_SOCKET, WATCHDOG_USEC",
               "As systemd sets them: it is told when the server "
               "is ready, reloads, stops and is alive.");
  out += kSignals;
  out += kExitStatus;
  out += ".SH SEE ALSO\n.BR palu_server.yaml (5),\n.BR palu\\-compress (1)\n";
  return out;
}

std::string ConfigManPage() {
  std::string out = Head("palu_server.yaml", 5, "settings of palu-server");
  out +=
      ".SH DESCRIPTION\n"
      "A map of sections, each a map of keys. An unknown key or a wrong value stops the start "
      "with\n"
      "exit status 2 and one line that names the place, the key, the value found and the one\n"
      "expected. Sizes are numbers with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB\n"
      "(powers of 1024); durations are numbers with ms, s, m or h.\n";
  const ServerConfig defaults;
  std::string section;
  for (const ConfigKey& key : ConfigTable()) {
    if (key.section() != section) {
      section = key.section();
      out += ".SH \"SECTION " + section + "\"\n" + Escaped(SectionHelp(section)) + "\n";
    }
    out += Entry(
        key.leaf() + ": " + key.yaml(defaults),
        key.help + " Value: " + key.expected + ". Environment: " + key.environment_name() + ".");
  }
  out += ".SH SEE ALSO\n.BR palu\\-server (1)\n";
  return out;
}

}  // namespace palu
