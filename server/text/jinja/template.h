// A Jinja template: parse once, render often.
#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "server/text/jinja/ast.h"
#include "server/text/jinja/context.h"
#include "server/text/jinja/error.h"

namespace palu::jinja {

// Jinja as chat templates use it: trim_blocks and lstrip_blocks, no autoescape, an immutable
// sandbox (data alone: no attribute of the host language, nothing that changes its arguments),
// loop controls, and the generation tag. include, import, extends and block are not there.
// Immutable; thread-safe. Bounded by Limits, so that no template runs for ever.
class Template {
 public:
  // Throws Error with the line at fault.
  explicit Template(std::string_view source) : body_(ParseTemplate(source)) {}

  // variables: an object. now: what strftime_now sees.
  tl::expected<std::string, Error> Render(const nlohmann::ordered_json& variables, std::time_t now,
                                          const Limits& limits = {}) const;

 private:
  Body body_;
};

}  // namespace palu::jinja
