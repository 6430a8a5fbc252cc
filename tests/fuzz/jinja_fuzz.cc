// Templates of any shape: parsed, rendered on a fixed conversation, within their bounds.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "server/text/jinja/template.h"

namespace {

const nlohmann::ordered_json& Conversation() {
  static const nlohmann::ordered_json data = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "Be kind."},
                 {"role": "user", "content": "Hé 你好 🙂\nline"},
                 {"role": "assistant", "content": null,
                  "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": [1, 2.5]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 3})");
  return data;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 14) return 0;
  palu::jinja::Limits limits;
  limits.max_steps = 20'000;
  limits.max_work_bytes = 4 << 20;
  limits.max_output_bytes = 1 << 18;
  try {
    const palu::jinja::Template parsed({reinterpret_cast<const char*>(data), size});
    (void)parsed.Render(Conversation(), 1722000000, limits);
  } catch (const palu::jinja::Error&) {
  }
  return 0;
}
