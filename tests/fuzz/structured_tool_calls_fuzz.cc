// What models write where calls are looked for: the first byte says in which form, the rest is the
// text. However it is cut, the same comes out, and nothing of a text without calls is lost.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "server/structured/tool_call_reader.h"

namespace {

using palu::structured::ToolCallReader;
using palu::structured::ToolEvent;
using palu::structured::ToolFormat;

struct Call {
  std::string name, arguments;
  bool operator==(const Call&) const = default;
};

struct Reading {
  std::string content;
  std::vector<Call> calls;
  bool operator==(const Reading&) const = default;
};

Reading Read(ToolFormat format, bool forced, std::string_view text, size_t piece) {
  ToolCallReader reader(format, forced, {"f", "g"});
  std::vector<ToolEvent> events;
  for (size_t i = 0; i < text.size(); i += piece) reader.Push(text.substr(i, piece), &events);
  reader.Finish(&events);
  Reading reading;
  for (const ToolEvent& event : events) {
    if (event.kind == ToolEvent::Kind::kCall) {
      reading.calls.push_back({event.text, ""});
    } else if (event.kind == ToolEvent::Kind::kArguments) {
      PALU_CHECK(!reading.calls.empty());
      reading.calls.back().arguments += event.text;
    } else {
      reading.content += event.text;
    }
  }
  PALU_CHECK(static_cast<size_t>(reader.calls()) == reading.calls.size());
  return reading;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 4096) return 0;
  const auto format = static_cast<ToolFormat>(data[0] % 4);
  const bool forced = (data[0] & 4) != 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Reading whole = Read(format, forced, text, size);
  for (const size_t piece : {1, 3, 10}) PALU_CHECK(Read(format, forced, text, piece) == whole);
  const bool marked = format == ToolFormat::kHermes || format == ToolFormat::kMistral;
  for (const Call& call : whole.calls) {
    PALU_CHECK(marked ? !call.name.empty() : call.name == "f" || call.name == "g");
  }
  if (whole.calls.empty() && !forced) PALU_CHECK(whole.content == text);
  return 0;
}
