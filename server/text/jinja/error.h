// What can go wrong in a template.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace palu::jinja {

// kind: as Python's Jinja names it (TemplateSyntaxError, UndefinedError, TypeError, …); Raised is
// raise_exception's. Thrown inside the engine only; Template turns it into a value.
struct Error : public std::exception {
  Error(std::string error_kind, std::string text, int at_line = 0)
      : kind(std::move(error_kind)), message(std::move(text)), line(at_line) {}
  const char* what() const noexcept override { return message.c_str(); }

  std::string kind;
  std::string message;
  int line;  // 1-based; 0: not known yet
};

[[noreturn]] inline void Fail(const char* kind, std::string message, int line = 0) {
  throw Error(kind, std::move(message), line);
}
[[noreturn]] inline void TypeError(std::string message) { Fail("TypeError", std::move(message)); }

}  // namespace palu::jinja
