// Statistics on disk, so that an interrupted run need not gather them again.
#pragma once

#include <optional>
#include <string>

#include "tools/compress/calibration.h"

namespace palu {

// Throws LoadError when the disk refuses.
void WriteStatistics(const std::string& path, const Statistics& statistics,
                     const std::string& fingerprint);

// Nothing when the file is absent or of another fingerprint. Throws LoadError when it is damaged.
std::optional<Statistics> ReadStatistics(const std::string& path, const std::string& fingerprint);

}  // namespace palu
