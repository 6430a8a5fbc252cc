#include "server/text/text_pattern.h"

#include <stdexcept>

namespace palu {

TextPattern::TextPattern(const JsonReader& spec) {
  if (spec.value().is_string()) {
    literal_ = spec.String();
    return;
  }
  if (spec.Has("String")) {
    literal_ = spec.String("String");
    return;
  }
  const JsonReader regex = spec.At("Regex");
  try {
    regex_.emplace(regex.String());
  } catch (const std::invalid_argument& error) {
    regex.Fail(std::string("a bad pattern (") + error.what() + ")", "a regular expression");
  }
}

void TextPattern::ForEachMatch(std::string_view text,
                               const std::function<void(size_t, size_t)>& match) const {
  if (regex_) return regex_->ForEachMatch(text, match);
  if (literal_.empty()) return;
  for (size_t at = text.find(literal_); at != std::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    match(at, at + literal_.size());
  }
}

std::string TextPattern::Replace(std::string_view text, std::string_view content) const {
  std::string out;
  size_t done = 0;
  ForEachMatch(text, [&](size_t begin, size_t end) {
    out.append(text.substr(done, begin - done)).append(content);
    done = end;
  });
  out.append(text.substr(done));
  return out;
}

}  // namespace palu
