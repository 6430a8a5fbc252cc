#include "server/structured/schema_keywords.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>

#include "server/structured/string_formats.h"

namespace palu::structured {
namespace {

constexpr int64_t kMaxCount = 1'000'000;

const std::map<std::string_view, unsigned> kTypes = {
    {"null", kNull},       {"boolean", kBoolean},
    {"integer", kInteger}, {"number", kInteger | kFraction},
    {"string", kString},   {"array", kArray},
    {"object", kObject}};

// They say nothing about which values are valid.
constexpr std::array<std::string_view, 19> kAnnotations = {
    "title",      "description",   "default",          "examples",      "example",
    "deprecated", "readOnly",      "writeOnly",        "$schema",       "$id",
    "$comment",   "$defs",         "definitions",      "discriminator", "contentEncoding",
    "$anchor",    "contentSchema", "contentMediaType", "strict"};
// Handled by SchemaResolver.
constexpr std::array<std::string_view, 4> kCombinations = {"$ref", "allOf", "anyOf", "oneOf"};

// Reads one keyword after the other; keeps the first error.
class Reader {
 public:
  Reader(const SubSchema& schema, Facets* facets) : schema_(schema), facets_(*facets) {}

  Status Run() {
    facets_.path = schema_.path;
    for (const auto& [name, value] : schema_.schema.items()) {
      name_ = name;
      Read(value);
      if (!status_.ok()) return status_;
    }
    return CheckCounts();
  }

 private:
  using Handler = void (Reader::*)(const Json&);

  static const std::map<std::string_view, Handler>& Handlers() {
    static const std::map<std::string_view, Handler> handlers = {
        {"type", &Reader::Type},
        {"enum", &Reader::Enum},
        {"const", &Reader::Const},
        {"pattern", &Reader::Pattern},
        {"format", &Reader::Format},
        {"minLength", &Reader::MinLength},
        {"maxLength", &Reader::MaxLength},
        {"minimum", &Reader::Bound},
        {"maximum", &Reader::Bound},
        {"exclusiveMinimum", &Reader::Bound},
        {"exclusiveMaximum", &Reader::Bound},
        {"multipleOf", &Reader::MultipleOf},
        {"items", &Reader::Items},
        {"prefixItems", &Reader::PrefixItems},
        {"additionalItems", &Reader::AdditionalItems},
        {"minItems", &Reader::MinItems},
        {"maxItems", &Reader::MaxItems},
        {"uniqueItems", &Reader::UniqueItems},
        {"properties", &Reader::Properties},
        {"required", &Reader::Required},
        {"additionalProperties", &Reader::Additional},
        {"propertyNames", &Reader::Names},
        {"minProperties", &Reader::MinProperties},
        {"maxProperties", &Reader::MaxProperties},
    };
    return handlers;
  }

  void Read(const Json& value) {
    const auto handler = Handlers().find(name_);
    if (handler != Handlers().end()) return (this->*handler->second)(value);
    const auto among = [this](const auto& names) {
      return std::find(names.begin(), names.end(), name_) != names.end() || name_.starts_with("x-");
    };
    if (!among(kAnnotations) && !among(kCombinations)) {
      Fail("is a keyword that this server does not enforce");
    }
  }

  std::string Path() const { return schema_.path + "/" + name_; }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = InvalidArgument(what, Path());
  }
  bool IsSchema(const Json& value, const std::string& path) {
    if (value.is_object() || value.is_boolean()) return true;
    if (status_.ok()) status_ = InvalidArgument("must be a schema: an object or a boolean", path);
    return false;
  }
  void Count(const Json& value, int64_t* out) {
    const bool integral =
        value.is_number_integer() ||
        (value.is_number_float() && value.get<double>() >= 0 && value.get<double>() <= 1e9 &&
         value.get<double>() == static_cast<double>(value.get<int64_t>()));
    if (!integral || (!value.is_number_unsigned() && value.get<int64_t>() < 0)) {
      return Fail("must be an integer of at least 0");
    }
    if (value.is_number_unsigned() && value.get<uint64_t>() > kMaxCount) {
      return Fail("must not be above " + std::to_string(kMaxCount));
    }
    *out = value.get<int64_t>();
  }

  void Type(const Json& value) {
    const Json list = value.is_array() ? value : Json::array({value});
    unsigned types = 0;
    for (const Json& type : list) {
      const auto it =
          type.is_string() ? kTypes.find(type.get_ref<const std::string&>()) : kTypes.end();
      if (it == kTypes.end()) {
        return Fail(
            "must be null, boolean, integer, number, string, array or object, or a list of "
            "them");
      }
      types |= it->second;
    }
    if (types == 0) return Fail("must not be empty");
    facets_.types &= types;
  }

  void AddValues(std::vector<Json> values) {
    Facets other;
    other.values = std::move(values);
    facets_ = IntersectFacets(std::move(facets_), other);
  }
  void Enum(const Json& value) {
    if (!value.is_array() || value.empty()) return Fail("must be an array, and not empty");
    AddValues(value.get<std::vector<Json>>());
  }
  void Const(const Json& value) { AddValues({value}); }

  void Pattern(const Json& value) {
    if (!value.is_string()) return Fail("must be a string");
    facets_.patterns.emplace_back(value.get<std::string>(), Path());
  }
  void Format(const Json& value) {
    const std::string_view regex =
        value.is_string() ? FormatRegex(value.get_ref<const std::string&>()) : std::string_view();
    if (regex.empty()) return Fail("is no format that this server enforces");
    facets_.patterns.emplace_back(std::string(regex), Path());
  }
  void MinLength(const Json& value) { Count(value, &facets_.min_length); }
  void MaxLength(const Json& value) { Count(value, &facets_.max_length); }

  void Bound(const Json& value) {
    if (!value.is_number()) return Fail("must be a number");
    facets_.bounds.emplace_back(name_, value);
  }
  void MultipleOf(const Json& value) {
    if (!value.is_number()) return Fail("must be a number");
    facets_.multiples.emplace_back(value, Path());
  }

  void Items(const Json& value) {
    // Before 2020-12 a list here was what is now prefixItems.
    if (value.is_array()) return PrefixItems(value);
    if (IsSchema(value, Path())) facets_.items = {value, Path()};
  }
  void PrefixItems(const Json& value) {
    if (!value.is_array()) return Fail("must be an array of schemas");
    for (size_t i = 0; i < value.size(); ++i) {
      const std::string path = Path() + "/" + std::to_string(i);
      if (!IsSchema(value[i], path)) return;
      facets_.prefix_items.push_back({value[i], path});
    }
  }
  void AdditionalItems(const Json& value) {
    const auto items = schema_.schema.find("items");
    if (items == schema_.schema.end() || !items->is_array()) return;
    if (IsSchema(value, Path())) facets_.items = {value, Path()};
  }
  void MinItems(const Json& value) { Count(value, &facets_.min_items); }
  void MaxItems(const Json& value) { Count(value, &facets_.max_items); }
  void UniqueItems(const Json& value) {
    if (!value.is_boolean()) return Fail("must be a boolean");
    if (value.get<bool>()) Fail("is not enforced by this server, unless it is false");
  }

  void Properties(const Json& value) {
    if (!value.is_object()) return Fail("must be an object");
    for (const auto& [name, schema] : value.items()) {
      const std::string path = Path() + "/" + name;
      if (!IsSchema(schema, path)) return;
      facets_.properties.emplace_back(name, SubSchema{schema, path});
    }
  }
  void Required(const Json& value) {
    if (!value.is_array()) return Fail("must be an array of strings");
    for (const Json& name : value) {
      if (!name.is_string()) return Fail("must be an array of strings");
      if (!facets_.IsRequired(name)) facets_.required.push_back(name);
    }
  }
  void Additional(const Json& value) {
    if (IsSchema(value, Path())) facets_.additional = {value, Path()};
  }
  void Names(const Json& value) {
    if (IsSchema(value, Path())) facets_.names = {value, Path()};
  }
  void MinProperties(const Json& value) { Count(value, &facets_.min_properties); }
  void MaxProperties(const Json& value) { Count(value, &facets_.max_properties); }

  Status CheckCounts() {
    const auto check = [this](const char* name, int64_t min, int64_t max) {
      if (max < 0 || min <= max) return;
      name_ = name;
      Fail("is below the minimum of " + std::to_string(min));
    };
    check("maxLength", facets_.min_length, facets_.max_length);
    check("maxItems", facets_.min_items, facets_.max_items);
    check("maxProperties", facets_.min_properties, facets_.max_properties);
    return status_;
  }

  const SubSchema& schema_;
  Facets& facets_;
  std::string name_;
  Status status_;
};

}  // namespace

Status ReadKeywords(const SubSchema& schema, Facets* facets) {
  if (schema.schema.is_boolean()) {
    if (schema.accepts_none()) facets->types = 0;
    return {};
  }
  if (!schema.schema.is_object()) {
    return InvalidArgument("must be a schema: an object or a boolean", schema.path);
  }
  return Reader(schema, facets).Run();
}

}  // namespace palu::structured
