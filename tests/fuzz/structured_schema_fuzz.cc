// JSON schemas: compiling never fails in another way than by saying what is wrong, and what a
// grammar takes for complete is JSON.
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "kernels/check.h"
#include "server/structured/matcher.h"
#include "server/structured/schema_compiler.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using palu::structured::Json;
  if (size > 4096) return 0;
  const Json schema = Json::parse(data, data + size, nullptr, false);
  if (schema.is_discarded()) return 0;
  const auto grammar = palu::structured::CompileSchema(schema);
  if (!grammar) {
    PALU_CHECK(grammar.error().code == palu::StatusCode::kInvalidArgument);
    PALU_CHECK(!grammar.error().message.empty());
    return 0;
  }
  // The shortest way to the end, after some steps at random.
  palu::structured::Matcher matcher(**grammar);
  auto state = matcher.start();
  std::string text;
  std::mt19937 random(static_cast<uint32_t>(size));
  for (int i = 0; i < 400 && !(i > 20 && matcher.complete(state)); ++i) {
    int best = -1;
    for (int byte = 0; byte < 256; ++byte) {
      const auto next = matcher.Step(state, static_cast<uint8_t>(byte));
      if (next == palu::structured::Matcher::kDead) continue;
      const auto nearest = best < 0
                               ? palu::structured::kUnreachable
                               : matcher.distance(matcher.Step(state, static_cast<uint8_t>(best)));
      if (best < 0 || (i < 20 ? random() % 8 == 0 : matcher.distance(next) < nearest)) best = byte;
    }
    if (best < 0) break;
    text += static_cast<char>(best);
    state = matcher.Step(state, static_cast<uint8_t>(best));
  }
  if (matcher.complete(state)) PALU_CHECK(Json::accept(text));
  return 0;
}
