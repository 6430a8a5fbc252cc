// {"String": …} and {"Regex": …} patterns, as normalizers, pre-tokenizers and decoders have them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/text/json_reader.h"
#include "server/text/regex.h"

namespace palu {

// Immutable; thread-safe.
class TextPattern {
 public:
  // Throws LoadError.
  explicit TextPattern(const JsonReader& spec);
  explicit TextPattern(Regex regex) : regex_(std::move(regex)) {}
  explicit TextPattern(std::string literal) : literal_(std::move(literal)) {}

  // Matches in order, without overlap. An empty string pattern matches nothing.
  void ForEachMatch(std::string_view text,
                    const std::function<void(size_t begin, size_t end)>& match) const;
  std::string Replace(std::string_view text, std::string_view content) const;

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

}  // namespace palu
