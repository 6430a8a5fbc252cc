#include "server/structured/schema_compiler.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/check.h"
#include "server/structured/json_grammar.h"
#include "server/structured/object_writer.h"
#include "server/structured/scalar_facets.h"

namespace palu::structured {
namespace {

constexpr size_t kMaxRules = 5000;
constexpr size_t kMaxBuilderNodes = 1'000'000;

// One rule per schema text; a schema that refers to itself so finds the rule that is being made.
class Compiler final : public ValueRules {
 public:
  Compiler(const Json& document, GrammarBuilder* builder)
      : resolver_(document), builder_(builder), json_(builder) {}

  Result<int> RuleOf(const SubSchema& schema) override {
    if (schema.accepts_all()) return json_.ValueRule();
    const std::string key = schema.schema.dump();
    if (const auto it = rules_.find(key); it != rules_.end()) return it->second;
    if (rules_.size() >= kMaxRules || builder_->size() > kMaxBuilderNodes) {
      return tl::unexpected(InvalidArgument("is too complex", schema.path));
    }
    const int rule = builder_->NewRule();
    rules_.emplace(key, rule);
    open_.emplace_back(rule, schema);
    return rule;
  }

  // Until every rule that was asked for is defined. Not recursive: schemas can be nested deep.
  Result<int> Run(const Json& document) {
    const Result<int> root = RuleOf({document, ""});
    if (!root) return root;
    while (!open_.empty()) {
      const auto [rule, schema] = open_.back();
      open_.pop_back();
      if (Status status = Define(rule, schema); !status.ok()) return tl::unexpected(status);
    }
    return root;
  }

 private:
  Status Define(int rule, const SubSchema& schema) {
    const Result<std::vector<Facets>> alternatives = resolver_.Resolve(schema);
    if (!alternatives) return alternatives.error();
    const int start = builder_->NewNode();
    const int end = builder_->NewNode();
    for (const Facets& facets : *alternatives) {
      if (Status status = AddAlternative(facets, start, end); !status.ok()) return status;
    }
    builder_->Define(rule, start, end);
    return {};
  }

  Status AddAlternative(const Facets& facets, int start, int end) {
    if (facets.values) {
      for (const Json& value : *facets.values) {
        const Result<bool> fits = Fulfils(value, facets);
        if (!fits) return fits.error();
        if (*fits) builder_->AddEmpty(builder_->AddText(start, value.dump()), end);
      }
      return {};
    }
    if (facets.types & kNull) builder_->AddEmpty(builder_->AddText(start, "null"), end);
    if (facets.types & kBoolean) {
      builder_->AddEmpty(builder_->AddText(start, "true"), end);
      builder_->AddEmpty(builder_->AddText(start, "false"), end);
    }
    Status status;
    if (facets.types & kInteger) {
      const Result<CharDfa> numbers = NumbersOf(facets);
      if (!numbers) return numbers.error();
      builder_->AddEmpty(builder_->AddDfa(start, *numbers, Spelling::kPlain), end);
    }
    if (facets.types & kString) status = AddString(facets, start, end);
    if (status.ok() && facets.types & kArray) status = AddArray(facets, start, end);
    if (status.ok() && facets.types & kObject) {
      status = ObjectWriter(facets, this, builder_, &json_).Add(start, end);
    }
    return status;
  }

  Status AddString(const Facets& facets, int start, int end) {
    if (facets.patterns.empty()) {
      const bool any = facets.min_length == 0 && facets.max_length < 0;
      const int last = any ? builder_->AddCall(start, json_.StringRule())
                           : json_.AddString(start, static_cast<int32_t>(facets.min_length),
                                             static_cast<int32_t>(facets.max_length));
      builder_->AddEmpty(last, end);
      return {};
    }
    const Result<CharDfa> texts = StringsOf(facets);
    if (!texts) return texts.error();
    const int quote = builder_->AddText(start, "\"");
    const int last = builder_->AddDfa(quote, *texts, Spelling::kJsonString);
    builder_->AddEmpty(builder_->AddText(last, "\""), end);
    return {};
  }

  // The items of the prefix one by one, then the others as often as the limits leave.
  Status AddArray(const Facets& facets, int start, int end) {
    const auto prefix = static_cast<int64_t>(facets.prefix_items.size());
    const int close = builder_->AddText(start, "[");
    int at = json_.AddSpace(close);
    const int last = builder_->NewNode();  // before the bracket
    const auto may_end = [&](int64_t count) {
      if (count >= facets.min_items) {
        builder_->AddEmpty(count == 0 ? at : json_.AddSpace(at), last);
      }
    };
    may_end(0);
    const int64_t listed = facets.max_items < 0 ? prefix : std::min(prefix, facets.max_items);
    for (int64_t i = 0; i < listed; ++i) {
      if (i > 0) at = json_.AddSpace(builder_->AddText(at, ","));
      const Result<int> rule = RuleOf(facets.prefix_items[static_cast<size_t>(i)]);
      if (!rule) return rule.error();
      at = builder_->AddCall(at, *rule);
      may_end(i + 1);
    }
    const bool more = facets.max_items < 0 || facets.max_items > prefix;
    if (more && !facets.items.accepts_none()) {
      const Result<int> rule = RuleOf(facets.items);
      if (!rule) return rule.error();
      AddRest(facets, *rule, at, last);
    }
    builder_->AddEmpty(builder_->AddText(last, "]"), end);
    return {};
  }

  void AddRest(const Facets& facets, int item_rule, int at, int last) {
    const auto prefix = static_cast<int64_t>(facets.prefix_items.size());
    const auto min = static_cast<int32_t>(std::max<int64_t>(facets.min_items - prefix, 1));
    const auto max = static_cast<int32_t>(facets.max_items < 0 ? -1 : facets.max_items - prefix);
    if (prefix == 0) {
      builder_->AddEmpty(json_.AddItems(at, item_rule, min, max), last);
    } else {
      const int rest = builder_->AddCall(at, json_.CommaRule(item_rule), min, max);
      builder_->AddEmpty(json_.AddSpace(rest), last);
    }
  }

  SchemaResolver resolver_;
  GrammarBuilder* const builder_;
  JsonGrammar json_;
  std::map<std::string, int> rules_;
  std::vector<std::pair<int, SubSchema>> open_;
};

}  // namespace

Result<int> AddSchema(const Json& schema, GrammarBuilder* builder) {
  return Compiler(schema, builder).Run(schema);
}

Result<std::shared_ptr<const Grammar>> CompileSchema(const Json& schema) {
  GrammarBuilder builder;
  const Result<int> root = AddSchema(schema, &builder);
  if (!root) return tl::unexpected(root.error());
  return builder.Finish(*root);
}

std::shared_ptr<const Grammar> CompileJsonObject() {
  GrammarBuilder builder;
  const Result<std::shared_ptr<const Grammar>> grammar =
      builder.Finish(JsonGrammar(&builder).ObjectRule());
  PALU_CHECK(grammar.has_value());
  return *grammar;
}

}  // namespace palu::structured
