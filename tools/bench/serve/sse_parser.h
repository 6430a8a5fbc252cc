// Splits a server-sent event stream, however it is cut, into the data of its events.
#pragma once

#include <string>
#include <string_view>

namespace palu::bench {

// Not thread-safe.
class SseParser {
 public:
  // Adds bytes and calls on_data(std::string_view) for each complete `data:` line; other lines
  // (comments, event names) are passed over.
  template <typename Callback>
  void Feed(std::string_view bytes, Callback&& on_data) {
    pending_.append(bytes);
    size_t begin = 0;
    for (size_t end; (end = pending_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line = std::string_view(pending_).substr(begin, end - begin);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      if (line.substr(0, 5) != "data:") continue;
      line.remove_prefix(5);
      if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
      on_data(line);
    }
    pending_.erase(0, begin);
  }

 private:
  std::string pending_;
};

}  // namespace palu::bench
