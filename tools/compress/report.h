// report.json, report.md and ranks.svg of a compression.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/compress/compress.h"

namespace palu {

nlohmann::json ReportJson(const CompressOptions& options, const CompressSummary& summary);
std::string ReportMarkdown(const CompressOptions& options, const CompressSummary& summary);
// Bars of ranks, K and V of every layer side by side, coloured by bits.
std::string RanksSvg(const CompressionPlan& plan);
// Writes the three. Throws CompressError when the disk refuses.
void WriteReport(const CompressOptions& options, const CompressSummary& summary,
                 const std::string& directory);

// What a search learned, read back from report.json (or a directory that holds one). Throws
// LoadError when it is not there, CompressError when it is of a model with another number of
// layers.
std::vector<Response> ReadResponses(const std::string& path, int layers);

// The command that repeats a compression.
std::string CommandLine(const CompressOptions& options);
const char* Name(Weighting weighting);
const char* Name(RankSearch search);

}  // namespace palu
