// Facets, and how those of several schemas are joined.
#include "server/structured/schema_facets.h"

#include <algorithm>

namespace palu::structured {
namespace {

SubSchema Both(const SubSchema& a, const SubSchema& b) {
  if (a.accepts_all() || b.accepts_none() || a.schema == b.schema) return b;
  if (b.accepts_all() || a.accepts_none()) return a;
  return {Json{{"allOf", Json::array({a.schema, b.schema})}}, a.path};
}

int64_t SmallerLimit(int64_t a, int64_t b) { return a < 0 ? b : b < 0 ? a : std::min(a, b); }

// What a says of a property that it may not name.
const SubSchema& PropertyOf(const Facets& a, const std::string& name) {
  const SubSchema* property = a.FindProperty(name);
  return property != nullptr ? *property : a.additional;
}

const SubSchema& ItemOf(const Facets& a, size_t place) {
  return place < a.prefix_items.size() ? a.prefix_items[place] : a.items;
}

}  // namespace

const SubSchema* Facets::FindProperty(const std::string& name) const {
  const auto it = std::find_if(properties.begin(), properties.end(),
                               [&](const auto& property) { return property.first == name; });
  return it == properties.end() ? nullptr : &it->second;
}

bool Facets::IsRequired(const std::string& name) const {
  return std::find(required.begin(), required.end(), name) != required.end();
}

Facets IntersectFacets(Facets a, const Facets& b) {
  a.types &= b.types;
  if (!a.values) {
    a.values = b.values;
  } else if (b.values) {
    std::erase_if(*a.values, [&](const Json& value) {
      return std::find(b.values->begin(), b.values->end(), value) == b.values->end();
    });
  }
  a.min_length = std::max(a.min_length, b.min_length);
  a.max_length = SmallerLimit(a.max_length, b.max_length);
  a.patterns.insert(a.patterns.end(), b.patterns.begin(), b.patterns.end());
  a.bounds.insert(a.bounds.end(), b.bounds.begin(), b.bounds.end());
  a.multiples.insert(a.multiples.end(), b.multiples.begin(), b.multiples.end());

  std::vector<SubSchema> prefix;
  for (size_t i = 0; i < std::max(a.prefix_items.size(), b.prefix_items.size()); ++i) {
    prefix.push_back(Both(ItemOf(a, i), ItemOf(b, i)));
  }
  a.prefix_items = std::move(prefix);
  a.items = Both(a.items, b.items);
  a.min_items = std::max(a.min_items, b.min_items);
  a.max_items = SmallerLimit(a.max_items, b.max_items);

  for (auto& [name, schema] : a.properties) schema = Both(schema, PropertyOf(b, name));
  for (const auto& [name, schema] : b.properties) {
    if (a.FindProperty(name) == nullptr) {
      a.properties.emplace_back(name, Both(schema, a.additional));
    }
  }
  for (const std::string& name : b.required) {
    if (!a.IsRequired(name)) a.required.push_back(name);
  }
  a.additional = Both(a.additional, b.additional);
  a.names = Both(a.names, b.names);
  a.min_properties = std::max(a.min_properties, b.min_properties);
  a.max_properties = SmallerLimit(a.max_properties, b.max_properties);
  return a;
}

}  // namespace palu::structured
