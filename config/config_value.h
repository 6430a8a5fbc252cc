// Values as people write them in YAML, in the environment and in flags: sizes, durations, numbers.
// Pure functions, thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

std::optional<int64_t> ParseInteger(std::string_view text);
// Finite decimal numbers only.
std::optional<double> ParseNumber(std::string_view text);
std::optional<bool> ParseBool(std::string_view text);  // true/false, yes/no, on/off, 1/0
// "4096", "16KiB", "1.5GiB", "2GB": KiB, MiB, GiB, TiB (or Ki …) are powers of 1024, KB … of 1000.
std::optional<int64_t> ParseBytes(std::string_view text);
// "30s", "500ms", "2m", "1h"; a bare number means seconds. Never negative.
std::optional<std::chrono::milliseconds> ParseDuration(std::string_view text);
// "0.3" or "30%": a number in (0, 1].
std::optional<double> ParseFraction(std::string_view text);
// Comma-separated, blanks around items dropped, empty items left out.
std::vector<std::string> ParseList(std::string_view text);

// The shortest text that the parser of the same kind reads back to the same value.
std::string FormatNumber(double value);
std::string FormatBytes(int64_t bytes);
std::string FormatDuration(std::chrono::milliseconds duration);

// Of the candidates, the one with the fewest edits from word; empty if none is near.
std::string Nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace palu
