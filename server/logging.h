// Log lines on stderr, as text or JSON.
#pragma once

#include <string>

#include "config/server_config.h"

namespace palu {

// Replaces spdlog's default logger. Before threads start.
void SetupLogging(const LogConfig& config);
// Thread-safe.
void SetLogLevel(const std::string& level);

}  // namespace palu
