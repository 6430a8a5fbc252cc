// The objects of a schema.
#pragma once

#include <cstdint>
#include <string>

#include "engine/status.h"
#include "server/structured/grammar_builder.h"
#include "server/structured/json_grammar.h"
#include "server/structured/schema_facets.h"

namespace palu::structured {

// Gives the rule of a schema's values.
class ValueRules {
 public:
  virtual ~ValueRules() = default;
  virtual Result<int> RuleOf(const SubSchema& schema) = 0;
};

// Adds the objects that fulfil one Facets: listed properties in their order, optional ones or not,
// then further ones. Used once.
class ObjectWriter {
 public:
  ObjectWriter(const Facets& facets, ValueRules* values, GrammarBuilder* builder, JsonGrammar* json)
      : facets_(facets), values_(values), builder_(builder), json_(json) {}

  // From start to end, nodes of one rule.
  Status Add(int start, int end);

 private:
  Status CheckCounts();
  Result<int> AddPair(int from, const std::string& name, const SubSchema& schema);
  Status AddFurther(int choose, int behind);
  // The names of properties that are not listed, as strings.
  Result<CharDfa> FurtherNames();

  const Facets& facets_;
  ValueRules* const values_;
  GrammarBuilder* const builder_;
  JsonGrammar* const json_;
};

}  // namespace palu::structured
