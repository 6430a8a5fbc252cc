// A JSON schema as alternatives without references: what is left to spell.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/status.h"

namespace palu::structured {

// Keeps the order of properties, which is the order in which they are generated.
using Json = nlohmann::ordered_json;

// A schema below another one, and where it came from, for messages.
struct SubSchema {
  Json schema = true;
  std::string path;

  bool accepts_all() const { return schema == true || (schema.is_object() && schema.empty()); }
  bool accepts_none() const { return schema == false; }
};

enum TypeBit : unsigned {
  kNull = 1,
  kBoolean = 2,
  kInteger = 4,
  kFraction = 8,  // numbers that are no integers
  kString = 16,
  kArray = 32,
  kObject = 64,
  kAllTypes = 127,
};

// One way to fulfil a schema: all of this at once.
struct Facets {
  std::string path;  // of the schema
  unsigned types = kAllTypes;
  std::optional<std::vector<Json>> values;  // enum and const

  int64_t min_length = 0, max_length = -1;                    // characters; -1: no limit
  std::vector<std::pair<std::string, std::string>> patterns;  // regex and its path; formats too
  std::vector<std::pair<std::string, Json>> bounds;           // keyword and number
  std::vector<std::pair<Json, std::string>> multiples;        // and their paths

  std::vector<SubSchema> prefix_items;
  SubSchema items;
  int64_t min_items = 0, max_items = -1;

  std::vector<std::pair<std::string, SubSchema>> properties;
  std::vector<std::string> required;
  SubSchema additional;
  SubSchema names;
  int64_t min_properties = 0, max_properties = -1;

  bool possible() const { return types != 0 && !(values && values->empty()); }
  const SubSchema* FindProperty(const std::string& name) const;
  bool IsRequired(const std::string& name) const;
};

// What fulfils both. The other's path is dropped.
Facets IntersectFacets(Facets a, const Facets& b);

// Resolves references, allOf, anyOf and oneOf. Refers to the document, which must outlive it.
class SchemaResolver {
 public:
  explicit SchemaResolver(const Json& document) : document_(document) {}

  // The alternatives of a schema of the document or of one that was put together from its parts.
  // kInvalidArgument with the path within the document as param.
  Result<std::vector<Facets>> Resolve(const SubSchema& schema) { return Resolve(schema, 0); }

 private:
  using Alternatives = std::vector<Facets>;
  Result<Alternatives> Resolve(const SubSchema& schema, int depth);
  Result<Alternatives> ResolveReference(const SubSchema& schema, int depth);
  Result<Alternatives> ResolveAny(const Json& branches, const std::string& path, bool exclusive,
                                  int depth);

  const Json& document_;
};

}  // namespace palu::structured
