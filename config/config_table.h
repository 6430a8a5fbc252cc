// The one table of all keys: parsing, checking, printing and documentation are driven by it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "config/server_config.h"

namespace palu {

struct ConfigKey {
  std::string name;      // "http.port"
  std::string type;      // "integer", "size", …, for the documentation
  std::string expected;  // what a value must be, for errors and documentation
  std::string help;
  bool is_list = false;
  bool is_bool = false;
  // Stores the value that text means; false if it means none.
  std::function<bool(std::string_view text, ServerConfig*)> set;
  // The value as a YAML scalar or flow sequence.
  std::function<std::string(const ServerConfig&)> yaml;

  std::string section() const { return name.substr(0, name.find('.')); }
  std::string leaf() const { return name.substr(name.find('.') + 1); }
  // PALU_HTTP_PORT for http.port.
  std::string environment_name() const;
};

// In the order in which they are printed; keys of a section are together.
const std::vector<ConfigKey>& ConfigTable();
const ConfigKey* FindConfigKey(std::string_view name);
// "; did you mean http.port?" or nothing.
std::string SuggestKey(std::string_view name);
// One sentence about a section.
std::string SectionHelp(std::string_view section);

}  // namespace palu
