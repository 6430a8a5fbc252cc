#include "server/text/jinja/attribute_path.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "server/text/jinja/access.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/text_functions.h"

namespace palu::jinja {

AttributePath::AttributePath(std::string_view dotted) {
  for (const std::string& step : Split(dotted, ".", -1)) {
    int64_t index = 0;
    const char* end = step.data() + step.size();
    const auto [stop, error] = std::from_chars(step.data(), end, index);
    const bool number = error == std::errc() && stop == end && step[0] != '-';
    steps_.push_back(number ? Value(index) : Value(step));
  }
}

AttributePath::AttributePath(const Value& spec) {
  if (spec.is_string()) {
    *this = AttributePath(std::string_view(spec.text()));
  } else {
    steps_.push_back(spec);
  }
}

std::optional<AttributePath> AttributePath::FromArgs(const Args& args, size_t position,
                                                     std::string_view name) {
  const Value* spec = args.Find(position, name);
  if (spec == nullptr || spec->is_none()) return std::nullopt;
  return AttributePath(*spec);
}

std::vector<AttributePath> AttributePath::ListFromArgs(const Args& args, size_t position,
                                                       std::string_view name) {
  std::vector<AttributePath> paths;
  const Value* spec = args.Find(position, name);
  if (spec == nullptr || spec->is_none()) return paths;
  if (!spec->is_string()) {
    paths.push_back(AttributePath(*spec));
    return paths;
  }
  for (const std::string& one : Split(spec->text(), ",", -1)) {
    paths.push_back(AttributePath(std::string_view(one)));
  }
  return paths;
}

Value AttributePath::Get(const Value& item, const Value* fallback) const {
  Value value = item;
  for (const Value& step : steps_) {
    value = GetItem(value, step);
    if (value.is_undefined() && fallback != nullptr) value = *fallback;
  }
  return value;
}

}  // namespace palu::jinja
