// For tests/e2e/test_structured.py, which has an independent validator.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

#include "server/structured/schema_facets.h"

namespace palu::structured {

// Appends a line of JSON to the file that PALU_RECORD_OUTPUTS names; nothing without it.
inline void RecordOutput(const Json& schema, const std::string& text) {
  static const char* const path = std::getenv("PALU_RECORD_OUTPUTS");
  if (path == nullptr) return;
  static std::ofstream file(path, std::ios::app);
  file << Json{{"schema", schema}, {"text", text}}.dump() << std::endl;
}

}  // namespace palu::structured
