#include "server/structured/object_writer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "server/structured/scalar_facets.h"
#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

std::string Quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// All listed properties, and those that are required without being listed.
std::vector<std::pair<std::string, SubSchema>> ListedProperties(const Facets& facets) {
  auto listed = facets.properties;
  for (const std::string& name : facets.required) {
    if (facets.FindProperty(name) == nullptr) listed.emplace_back(name, facets.additional);
  }
  return listed;
}

}  // namespace

// Counting is left to listed properties that are all required or cannot be too many, and to objects
// without listed ones.
Status ObjectWriter::CheckCounts() {
  const auto listed = static_cast<int64_t>(ListedProperties(facets_).size());
  const bool closed = facets_.additional.accepts_none();
  const bool enough = facets_.min_properties <= static_cast<int64_t>(facets_.required.size());
  const bool few = facets_.max_properties < 0 || (closed && listed <= facets_.max_properties);
  // A name that comes twice counts once, so that further properties do not ensure a number.
  const bool counted = listed == 0 && facets_.min_properties <= 1;
  if (!enough && !counted) {
    return InvalidArgument("is not enforced by this server beyond the required properties",
                           facets_.path + "/minProperties");
  }
  if (!few && listed > 0) {
    return InvalidArgument("is not enforced by this server beside listed properties",
                           facets_.path + "/maxProperties");
  }
  return {};
}

Status ObjectWriter::Add(int start, int end) {
  if (Status status = CheckCounts(); !status.ok()) return status;
  const auto listed = ListedProperties(facets_);
  const int open = json_->AddSpace(builder_->AddText(start, "{"));
  const int close = builder_->NewNode();
  builder_->AddEmpty(builder_->AddText(close, "}"), end);
  if (listed.empty()) {
    if (facets_.min_properties == 0) builder_->AddEmpty(open, close);
    if (facets_.max_properties == 0 || facets_.additional.accepts_none()) return {};
    const int pair = builder_->NewRule();
    const int pair_start = builder_->NewNode();
    const int pair_end = builder_->NewNode();
    if (Status s = AddFurther(pair_start, pair_end); !s.ok()) return s;
    builder_->Define(pair, pair_start, pair_end);
    builder_->AddEmpty(json_->AddItems(open, pair, 1, static_cast<int32_t>(facets_.max_properties)),
                       close);
    return {};
  }
  // choose: the next pair is one of those from here on; behind: a pair has just ended.
  int choose = open;
  bool all_optional = true;
  std::vector<std::pair<int, int>> pairs;  // place, and the node behind
  std::vector<int> choices = {choose};
  for (const auto& [name, schema] : listed) {
    const Result<int> behind = AddPair(choose, name, schema);
    if (!behind) return behind.error();
    pairs.emplace_back(static_cast<int>(choices.size()), *behind);
    choose = builder_->NewNode();
    if (!facets_.IsRequired(name)) builder_->AddEmpty(choices.back(), choose);
    all_optional &= !facets_.IsRequired(name);
    choices.push_back(choose);
  }
  if (!facets_.additional.accepts_none()) {
    const int behind = builder_->NewNode();
    if (Status s = AddFurther(choose, behind); !s.ok()) return s;
    pairs.emplace_back(static_cast<int>(listed.size()), behind);
  }
  if (all_optional) builder_->AddEmpty(open, close);
  // The last place from which on nothing is required any more.
  size_t free_from = listed.size();
  while (free_from > 0 && !facets_.IsRequired(listed[free_from - 1].first)) --free_from;
  for (const auto& [next, behind] : pairs) {
    builder_->AddEmpty(json_->AddSpace(builder_->AddText(behind, ",")),
                       choices[static_cast<size_t>(next)]);
    if (static_cast<size_t>(next) >= free_from) {
      builder_->AddEmpty(json_->AddSpace(behind), close);
    }
  }
  return {};
}

Result<int> ObjectWriter::AddPair(int from, const std::string& name, const SubSchema& schema) {
  // Its way through the grammar stays, but nothing may be read there.
  if (schema.accepts_none()) return builder_->NewNode();
  if (const Result<bool> fits = FulfilsNames(name, facets_); !fits) {
    return tl::unexpected(fits.error());
  } else if (!*fits) {
    return builder_->NewNode();
  }
  const Result<int> rule = values_->RuleOf(schema);
  if (!rule) return rule;
  return builder_->AddCall(json_->AddColon(builder_->AddText(from, Quoted(name))), *rule);
}

Result<CharDfa> ObjectWriter::FurtherNames() {
  Result<CharDfa> names = NamesOf(facets_);
  std::vector<std::vector<CodePoint>> listed;
  for (const auto& [name, schema] : ListedProperties(facets_)) {
    if (auto codes = DecodeUtf8(name)) listed.push_back(std::move(*codes));
  }
  if (!names || listed.empty()) return names;
  return Subtract(*names, OneOf(listed));
}

Status ObjectWriter::AddFurther(int choose, int behind) {
  const Result<int> rule = values_->RuleOf(facets_.additional);
  if (!rule) return rule.error();
  const Result<CharDfa> names = FurtherNames();
  if (!names) return InvalidArgument(names.error().message, facets_.path);
  const int quote = builder_->AddText(choose, "\"");
  const int name = builder_->AddText(builder_->AddDfa(quote, *names, Spelling::kJsonString), "\"");
  builder_->AddEmpty(builder_->AddCall(json_->AddColon(name), *rule), behind);
  return {};
}

}  // namespace palu::structured
