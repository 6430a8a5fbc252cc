#include "server/text/jinja/template.h"

#include <new>
#include <utility>
#include <vector>

#include "server/text/jinja/interpreter.h"
#include "server/text/utf8.h"

namespace palu::jinja {

tl::expected<std::string, Error> Template::Render(const nlohmann::ordered_json& variables,
                                                  std::time_t now, const Limits& limits) const {
  Context context(limits, now);
  try {
    std::vector<std::pair<std::string, Value>> values;
    for (const auto& [name, value] : variables.items()) {
      values.emplace_back(ReplaceInvalidUtf8(name), Value::FromJson(value));
    }
    return Interpreter(&context).Run(body_, values);
  } catch (Error& error) {
    if (error.line == 0) error.line = context.line;
    return tl::unexpected(std::move(error));
  } catch (const std::bad_alloc&) {
    return tl::unexpected(Error("MemoryError", "the template needs too much memory", context.line));
  }
}

}  // namespace palu::jinja
