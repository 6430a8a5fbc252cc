#include "server/text/stop_checker.h"

#include <algorithm>
#include <utility>

namespace palu {
namespace {

std::vector<size_t> Borders(const std::string& text) {
  std::vector<size_t> failure(text.size(), 0);
  size_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = failure[length - 1];
    if (text[i] == text[length]) ++length;
    failure[i] = length;
  }
  return failure;
}

}  // namespace

StopChecker::StopChecker(std::vector<std::string> stops, bool include_stop)
    : include_stop_(include_stop) {
  for (std::string& stop : stops) {
    if (stop.empty()) continue;
    std::vector<size_t> failure = Borders(stop);
    patterns_.push_back({std::move(stop), std::move(failure)});
  }
}

int StopChecker::Advance(char byte) {
  int complete = -1;
  for (size_t i = 0; i < patterns_.size(); ++i) {
    Pattern& pattern = patterns_[i];
    while (pattern.matched > 0 && pattern.text[pattern.matched] != byte) {
      pattern.matched = pattern.failure[pattern.matched - 1];
    }
    if (pattern.text[pattern.matched] == byte) ++pattern.matched;
    if (pattern.matched < pattern.text.size()) continue;
    const bool longest =
        complete < 0 || pattern.text.size() > patterns_[static_cast<size_t>(complete)].text.size();
    if (longest) complete = static_cast<int>(i);
    pattern.matched = pattern.failure.back();
  }
  return complete;
}

std::string StopChecker::Push(std::string_view text) {
  if (stopped()) return {};
  if (patterns_.empty()) return std::string(text);
  for (size_t i = 0; i < text.size(); ++i) {
    matched_ = Advance(text[i]);
    if (!stopped()) continue;
    std::string shown = std::exchange(held_, {}).append(text.substr(0, i + 1));
    if (!include_stop_) shown.resize(shown.size() - matched().size());
    return shown;
  }
  size_t open = 0;
  for (const Pattern& pattern : patterns_) open = std::max(open, pattern.matched);
  std::string shown = std::exchange(held_, {}).append(text);
  if (open == shown.size()) {
    held_ = std::move(shown);
    return {};
  }
  held_ = shown.substr(shown.size() - open);
  shown.resize(shown.size() - open);
  return shown;
}

std::string StopChecker::Finish() { return std::exchange(held_, {}); }

}  // namespace palu
