// SchemaResolver: references and combinations, and the keywords of one schema.
#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "server/structured/schema_facets.h"
#include "server/structured/schema_keywords.h"

namespace palu::structured {
namespace {

constexpr int kMaxDepth = 32;  // of references and combinations within one another
constexpr size_t kMaxAlternatives = 256;

// Pairs that both can be fulfilled by.
Result<std::vector<Facets>> Cross(const std::vector<Facets>& a, const std::vector<Facets>& b,
                                  const std::string& path) {
  std::vector<Facets> result;
  for (const Facets& x : a) {
    for (const Facets& y : b) {
      Facets both = IntersectFacets(x, y);
      if (both.possible()) result.push_back(std::move(both));
    }
  }
  if (result.size() > kMaxAlternatives) {
    return tl::unexpected(InvalidArgument(
        "has more than " + std::to_string(kMaxAlternatives) + " alternatives", path));
  }
  return result;
}

// "#/a~1b/%20c" to the schema there; null: there is none.
const Json* FollowPointer(const Json& document, std::string_view reference) {
  std::string text;
  for (size_t i = 1; i < reference.size(); ++i) {
    if (reference[i] == '%' && i + 2 < reference.size()) {
      text += static_cast<char>(
          std::strtol(std::string(reference.substr(i + 1, 2)).c_str(), nullptr, 16));
      i += 2;
    } else {
      text += reference[i];
    }
  }
  try {
    const Json::json_pointer pointer(text);
    return document.contains(pointer) ? &document.at(pointer) : nullptr;
  } catch (const Json::exception&) {
    return nullptr;
  }
}

// No value can fulfil both, as far as is told without looking far: by type, by listed values, or by
// a property that both require.
bool Disjoint(const Facets& a, const Facets& b) {
  const Facets both = IntersectFacets(a, b);
  if (!both.possible()) return true;
  if (both.types != kObject || both.values) return false;
  for (const std::string& name : both.required) {
    const SubSchema* x = a.FindProperty(name);
    const SubSchema* y = b.FindProperty(name);
    if (x == nullptr || y == nullptr) {
      // What one requires the other may not allow at all.
      const SubSchema& other = x == nullptr ? a.additional : b.additional;
      if (other.accepts_none()) return true;
      continue;
    }
    const Json nothing;
    Facets fx, fy;
    if (ReadKeywords({x->schema, x->path}, &fx).ok() &&
        ReadKeywords({y->schema, y->path}, &fy).ok() && !IntersectFacets(fx, fy).possible()) {
      return true;
    }
  }
  return false;
}

}  // namespace

Result<SchemaResolver::Alternatives> SchemaResolver::ResolveReference(const SubSchema& schema,
                                                                      int depth) {
  const std::string path = schema.path + "/$ref";
  const Json& reference = schema.schema.at("$ref");
  if (!reference.is_string() || !reference.get_ref<const std::string&>().starts_with('#')) {
    return tl::unexpected(InvalidArgument("must be a reference within the schema: '#/…'", path));
  }
  const auto& text = reference.get_ref<const std::string&>();
  const Json* target = FollowPointer(document_, text);
  if (target == nullptr) {
    return tl::unexpected(
        InvalidArgument("refers to '" + text.substr(0, 200) + "', which is not there", path));
  }
  return Resolve({*target, text.substr(1)}, depth + 1);
}

Result<SchemaResolver::Alternatives> SchemaResolver::ResolveAny(const Json& branches,
                                                                const std::string& path,
                                                                bool exclusive, int depth) {
  if (!branches.is_array() || branches.empty()) {
    return tl::unexpected(InvalidArgument("must be an array of schemas, and not empty", path));
  }
  Alternatives all;
  std::vector<size_t> branch_of;
  for (size_t i = 0; i < branches.size(); ++i) {
    Result<Alternatives> branch = Resolve({branches[i], path + "/" + std::to_string(i)}, depth + 1);
    if (!branch) return branch;
    for (Facets& facets : *branch) {
      if (exclusive) {
        for (size_t k = 0; k < all.size(); ++k) {
          if (branch_of[k] != i && !Disjoint(all[k], facets)) {
            return tl::unexpected(InvalidArgument(
                "has alternatives " + std::to_string(branch_of[k]) + " and " + std::to_string(i) +
                    " that one value may fulfil both; only alternatives that differ in type, in "
                    "listed values or in such a property are supported (or use anyOf)",
                path));
          }
        }
      }
      all.push_back(std::move(facets));
      branch_of.push_back(i);
    }
    if (all.size() > kMaxAlternatives) {
      return tl::unexpected(InvalidArgument(
          "has more than " + std::to_string(kMaxAlternatives) + " alternatives", path));
    }
  }
  return all;
}

Result<SchemaResolver::Alternatives> SchemaResolver::Resolve(const SubSchema& schema, int depth) {
  if (depth > kMaxDepth) {
    return tl::unexpected(
        InvalidArgument("refers to itself, or to others, too deep to be resolved", schema.path));
  }
  Facets facets;
  facets.path = schema.path;
  if (schema.accepts_none()) return Alternatives{};
  if (schema.accepts_all()) return Alternatives{facets};
  if (Status status = ReadKeywords(schema, &facets); !status.ok()) return tl::unexpected(status);
  Result<Alternatives> all = Alternatives{};
  if (facets.possible()) all->push_back(std::move(facets));
  const auto join = [&](const Result<Alternatives>& more) {
    if (!more) {
      all = tl::unexpected(more.error());
    } else {
      all = Cross(*all, *more, schema.path);
    }
  };
  const Json& json = schema.schema;
  if (json.contains("$ref")) join(ResolveReference(schema, depth));
  if (const auto it = json.find("allOf"); it != json.end() && all) {
    const std::string path = schema.path + "/allOf";
    if (!it->is_array()) return tl::unexpected(InvalidArgument("must be an array", path));
    for (size_t i = 0; i < it->size() && all; ++i) {
      join(Resolve({(*it)[i], path + "/" + std::to_string(i)}, depth + 1));
    }
  }
  for (const char* name : {"anyOf", "oneOf"}) {
    const auto it = json.find(name);
    if (it == json.end() || !all) continue;
    join(ResolveAny(*it, schema.path + "/" + name, std::string_view(name) == "oneOf", depth));
  }
  return all;
}

}  // namespace palu::structured
