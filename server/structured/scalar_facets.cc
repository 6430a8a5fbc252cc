#include "server/structured/scalar_facets.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "server/structured/number_automaton.h"
#include "server/structured/regex_parser.h"
#include "server/structured/schema_keywords.h"
#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

NumberBound::Kind KindOf(const std::string& keyword) {
  if (keyword == "minimum") return NumberBound::Kind::kAtLeast;
  if (keyword == "maximum") return NumberBound::Kind::kAtMost;
  return keyword == "exclusiveMinimum" ? NumberBound::Kind::kMoreThan
                                       : NumberBound::Kind::kLessThan;
}

bool Keeps(double value, const std::string& keyword, double bound) {
  switch (KindOf(keyword)) {
    case NumberBound::Kind::kAtLeast:
      return value >= bound;
    case NumberBound::Kind::kAtMost:
      return value <= bound;
    case NumberBound::Kind::kMoreThan:
      return value > bound;
    default:
      return value < bound;
  }
}

unsigned TypeOf(const Json& value) {
  if (value.is_null()) return kNull;
  if (value.is_boolean()) return kBoolean;
  if (value.is_number_integer()) return kInteger;
  if (value.is_number()) {
    return value.get<double>() == std::floor(value.get<double>()) ? kInteger : kFraction;
  }
  if (value.is_string()) return kString;
  return value.is_array() ? kArray : kObject;
}

// Keywords beside the list that say something of what is inside of arrays or objects.
bool ConstrainsContainers(const Facets& f) {
  return !f.prefix_items.empty() || !f.items.accepts_all() || f.min_items > 0 || f.max_items >= 0 ||
         !f.properties.empty() || !f.required.empty() || !f.additional.accepts_all() ||
         !f.names.accepts_all() || f.min_properties > 0 || f.max_properties >= 0;
}

}  // namespace

Result<CharDfa> NumbersOf(const Facets& facets) {
  std::vector<std::string> texts;
  texts.reserve(facets.bounds.size());  // the bounds refer to them
  std::vector<NumberBound> bounds;
  std::string path = facets.path;
  for (const auto& [keyword, number] : facets.bounds) {
    texts.push_back(number.dump());
    bounds.push_back({KindOf(keyword), texts.back()});
    path = facets.path + "/" + keyword;
  }
  std::vector<int> multiples;
  for (const auto& [number, where] : facets.multiples) {
    const double value = number.get<double>();
    const bool integral = value >= 1 && value <= 1e6 && value == std::floor(value);
    // NumberAutomaton says what is allowed.
    multiples.push_back(integral ? static_cast<int>(value) : 0);
    path = where;
  }
  Result<CharDfa> result = NumberAutomaton((facets.types & kFraction) == 0, bounds, multiples);
  if (!result) return tl::unexpected(InvalidArgument(result.error().message, path));
  return result;
}

Result<CharDfa> StringsOf(const Facets& facets) {
  const CodeSet any = CodeSet().Complement();
  const bool limited = facets.min_length > 0 || facets.max_length >= 0;
  Result<CharDfa> result =
      limited ? Repeated(any, facets.min_length, facets.max_length) : Repeated(any, 0, -1);
  for (const auto& [pattern, path] : facets.patterns) {
    if (!result) return tl::unexpected(InvalidArgument(result.error().message, path));
    const Result<CharDfa> automaton = CompileRegex(pattern, RegexMode::kSearch);
    if (!automaton) return tl::unexpected(InvalidArgument(automaton.error().message, path));
    result = Intersect(*result, *automaton);
  }
  if (!result) return tl::unexpected(InvalidArgument(result.error().message, facets.path));
  return result;
}

Result<CharDfa> NamesOf(const Facets& facets) {
  if (facets.names.accepts_all()) return Repeated(CodeSet().Complement(), 0, -1);
  Facets names;
  const Status status = ReadKeywords(facets.names, &names);
  if (!status.ok()) return tl::unexpected(status);
  const Json& schema = facets.names.schema;
  const bool combined =
      schema.is_object() && (schema.contains("$ref") || schema.contains("allOf") ||
                             schema.contains("anyOf") || schema.contains("oneOf"));
  if (combined || names.values) {
    return tl::unexpected(InvalidArgument(
        "is enforced for pattern, format, minLength and maxLength only", facets.names.path));
  }
  if ((names.types & kString) == 0) return CharDfa{{CharDfa::State{}}};
  return StringsOf(names);
}

Result<bool> FulfilsNames(const std::string& name, const Facets& facets) {
  if (facets.names.accepts_all()) return true;
  const Result<CharDfa> names = NamesOf(facets);
  if (!names) return tl::unexpected(names.error());
  const auto codes = DecodeUtf8(name);
  return codes && names->Matches(*codes);
}

Result<bool> Fulfils(const Json& value, const Facets& facets) {
  if ((TypeOf(value) & facets.types) == 0) return false;
  if (value.is_structured() && ConstrainsContainers(facets)) {
    return tl::unexpected(InvalidArgument(
        "lists an array or object beside keywords about its content, which is not supported",
        facets.path + "/enum"));
  }
  if (value.is_number()) {
    for (const auto& [keyword, bound] : facets.bounds) {
      if (!Keeps(value.get<double>(), keyword, bound.get<double>())) return false;
    }
    for (const auto& [multiple, path] : facets.multiples) {
      if (std::fmod(value.get<double>(), multiple.get<double>()) != 0) return false;
    }
  }
  if (!value.is_string()) return true;
  if (facets.patterns.empty() && facets.min_length == 0 && facets.max_length < 0) return true;
  const Result<CharDfa> texts = StringsOf(facets);
  if (!texts) return tl::unexpected(texts.error());
  const auto codes = DecodeUtf8(value.get_ref<const std::string&>());
  return codes && texts->Matches(*codes);
}

}  // namespace palu::structured
