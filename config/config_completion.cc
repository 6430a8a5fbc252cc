#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "config/config_shell.h"
#include "config/config_table.h"

namespace palu {
namespace {

struct Flag {
  std::string name;
  std::string help;
  std::vector<std::string> values = {};  // the words it takes, if they are few and known
  bool has_value = true;
  bool takes_file = false;
};

// The words of "one of a, b, c" and of "true or false".
std::vector<std::string> Words(const ConfigKey& key) {
  if (key.is_bool) return {"true", "false"};
  constexpr std::string_view kOneOf = "one of ";
  std::vector<std::string> out;
  if (!key.expected.starts_with(kOneOf)) return out;
  size_t start = kOneOf.size();
  while (start < key.expected.size()) {
    const size_t end = std::min(key.expected.find(", ", start), key.expected.size());
    out.push_back(key.expected.substr(start, end - start));
    start = end + 2;
  }
  return out;
}

std::vector<Flag> Flags() {
  std::vector<Flag> out = {{"config", "YAML file with settings", {}, true, true},
                           {"model", "directory of the checkpoint", {}, true, true},
                           {"port", "port of the HTTP interface"},
                           {"check-config", "check the settings and exit", {}, false},
                           {"print-config", "print the effective settings and exit", {}, false},
                           {"version", "print the version and exit", {}, false},
                           {"help", "print all flags and exit", {}, false},
                           {"gpu-memory", "plan: memory of the device"},
                           {"context", "plan: tokens of one user"},
                           {"reserve", "plan: part of the memory kept for activations"}};
  for (const ConfigKey& key : ConfigTable()) {
    // The first sentence is enough beside a flag.
    const std::string help = key.help.substr(0, key.help.find(". "));
    out.push_back({key.name, help, Words(key), true,
                   key.name == "model.path" || key.name == "model.chat_template"});
  }
  return out;
}

std::string Joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out;
}

// text without what ends a single-quoted word or structures a zsh specification.
std::string Plain(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c != '\'' && c != '[' && c != ']' && c != ':' && c != '\\') out += c;
  }
  return out;
}

}  // namespace

std::string BashCompletion() {
  std::string words, cases;
  for (const Flag& flag : Flags()) {
    words += " --" + flag.name + (flag.has_value ? "=" : "");
    if (flag.takes_file)
      cases += "    --" + flag.name +
               ") compopt -o filenames; COMPREPLY=($(compgen -f -- \"$value\")) ;;\n";
    if (!flag.values.empty()) {
      cases += "    --" + flag.name + ") COMPREPLY=($(compgen -W '" + Joined(flag.values) +
               "' -- \"$value\")) ;;\n";
    }
  }
  return "# Completion of palu-server for bash; generated from the table of settings.\n"
         "_palu_server() {\n"
         "  local line=\"${COMP_LINE:0:COMP_POINT}\" word flag value\n"
         "  word=\"${line##*[[:space:]]}\"\n"
         "  COMPREPLY=()\n"
         "  flag=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
         "  value=\"$word\"\n"
         // Bash splits words at "=", so that what follows it is completed alone.
         "  if [[ \"$word\" == --*=* ]]; then flag=\"${word%%=*}\" value=\"${word#*=}\"; fi\n"
         "  case \"$flag\" in\n" +
         cases +
         "    *)\n"
         "      if [[ \"$word\" == --*=* ]]; then return; fi\n"
         "      COMPREPLY=($(compgen -W 'plan" +
         words +
         "' -- \"$word\"))\n"
         "      if [[ \"${COMPREPLY[0]-}\" == *= ]]; then compopt -o nospace; fi ;;\n"
         "  esac\n"
         "}\n"
         "complete -F _palu_server palu-server\n";
}

std::string ZshCompletion() {
  std::string out =
      "#compdef palu-server\n"
      "# Completion of palu-server for zsh; generated from the table of settings.\n"
      "_arguments \\\n  '1::command:(plan)' \\\n";
  for (const Flag& flag : Flags()) {
    out += "  '--" + flag.name + (flag.has_value ? "=" : "") + "[" + Plain(flag.help) + "]";
    if (flag.takes_file) {
      out += ":file:_files";
    } else if (!flag.values.empty()) {
      out += ":value:(" + Plain(Joined(flag.values)) + ")";
    } else if (flag.has_value) {
      out += ":value: ";
    }
    out += "' \\\n";
  }
  return out + "  && return 0\n";
}

std::string FishCompletion() {
  std::string out =
      "# Completion of palu-server for fish; generated from the table of settings.\n"
      "complete -c palu-server -f -n __fish_is_first_arg -a plan -d 'how many users fit'\n";
  for (const Flag& flag : Flags()) {
    out += "complete -c palu-server -l " + flag.name;
    if (flag.takes_file) {
      out += " -rF";
    } else if (!flag.values.empty()) {
      out += " -xa '" + Plain(Joined(flag.values)) + "'";
    } else {
      out += flag.has_value ? " -x" : " -f";
    }
    out += " -d '" + Plain(flag.help) + "'\n";
  }
  return out;
}

}  // namespace palu
