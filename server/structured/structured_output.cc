#include "server/structured/structured_output.h"

#include <algorithm>
#include <string_view>

#include "server/structured/ebnf_parser.h"
#include "server/structured/regex_parser.h"
#include "server/structured/schema_compiler.h"
#include "server/structured/tool_grammar.h"
#include "server/structured/utf8_codes.h"

namespace palu::structured {
namespace {

// Each with up to a few megabytes of masks.
constexpr size_t kMaxCached = 32;
constexpr int kWorkerThreads = 2;

// Says which field is wrong, and where in it.
Status At(const Status& status, const std::string& field) {
  const std::string param = field + status.param;
  return InvalidArgument("'" + param + "' " + status.message, param);
}

std::string KeyOf(const StructuredSpec& spec) {
  Json key = {static_cast<int>(spec.kind), spec.schema,        spec.text, spec.choices,
              spec.tools.forced,           spec.tools.parallel};
  for (const Tool& tool : spec.tools.tools) key.push_back({tool.name, tool.parameters});
  return key.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The rule of what is asked for beside tools.
Result<int> AddFormat(const StructuredSpec& spec, GrammarBuilder* builder) {
  if (spec.kind == StructuredSpec::Kind::kJsonObject) {
    return AddSchema(Json{{"type", "object"}}, builder);
  }
  if (spec.kind == StructuredSpec::Kind::kJsonSchema) return AddSchema(spec.schema, builder);
  if (spec.kind == StructuredSpec::Kind::kGrammar) return AddEbnf(spec.text, builder);
  const int rule = builder->NewRule();
  const int start = builder->NewNode();
  if (spec.kind == StructuredSpec::Kind::kRegex) {
    const Result<CharDfa> texts = CompileRegex(spec.text, RegexMode::kFull);
    if (!texts) return tl::unexpected(texts.error());
    builder->Define(rule, start, builder->AddDfa(start, *texts, Spelling::kPlain));
    return rule;
  }
  const int end = builder->NewNode();
  for (const std::string& choice : spec.choices) {
    builder->AddEmpty(builder->AddText(start, choice), end);
  }
  builder->Define(rule, start, end);
  return rule;
}

}  // namespace

ToolFormat ToolFormatOfTemplate(std::string_view chat_template) {
  const auto has = [&](std::string_view text) {
    return chat_template.find(text) != std::string_view::npos;
  };
  if (has("<tool_call>")) return ToolFormat::kHermes;
  if (has("[TOOL_CALLS]")) return ToolFormat::kMistral;
  if (has("<|python_tag|>") || has("<|start_header_id|>")) return ToolFormat::kLlama3;
  return ToolFormat::kJson;
}

Result<std::shared_ptr<const Grammar>> CompileSpec(const StructuredSpec& spec, ToolFormat format,
                                                   const Vocabulary& vocabulary) {
  GrammarBuilder builder;
  const int root = builder.NewRule();
  const int start = builder.NewNode();
  const int end = builder.NewNode();
  if (spec.kind != StructuredSpec::Kind::kAny && !spec.tools.forced) {
    const Result<int> rule = AddFormat(spec, &builder);
    if (!rule) return tl::unexpected(At(rule.error(), spec.param));
    builder.AddEmpty(builder.AddCall(start, *rule), end);
  }
  if (!spec.tools.tools.empty()) {
    // The tool's path is part of the message already.
    const Result<int> rule = AddToolCalls(spec.tools, format, vocabulary, &builder);
    if (!rule) return tl::unexpected(At(rule.error(), ""));
    builder.AddEmpty(builder.AddCall(start, *rule), end);
  }
  builder.Define(root, start, end);
  Result<std::shared_ptr<const Grammar>> grammar = builder.Finish(root);
  if (!grammar) return tl::unexpected(At(grammar.error(), spec.param));
  return grammar;
}

StructuredOutput::StructuredOutput(const Tokenizer& tokenizer, std::vector<int32_t> eos_token_ids,
                                   ToolFormat tool_format)
    : eos_token_ids_(std::move(eos_token_ids)),
      tool_format_(tool_format),
      vocabulary_(std::make_shared<const Vocabulary>(tokenizer)),
      worker_(kWorkerThreads) {}

Result<std::shared_ptr<const TokenConstraint>> StructuredOutput::Constrain(
    const StructuredSpec& spec, const std::vector<int32_t>& stop_ids) {
  const std::string key = KeyOf(spec);
  std::shared_ptr<MaskedGrammar> masked;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = std::find_if(cache_.begin(), cache_.end(),
                                 [&](const Cached& cached) { return cached.first == key; });
    if (it != cache_.end()) {
      masked = it->second;
      cache_.splice(cache_.begin(), cache_, it);
    }
  }
  if (masked == nullptr) {
    const auto grammar = CompileSpec(spec, tool_format_, *vocabulary_);
    if (!grammar) return tl::unexpected(grammar.error());
    masked = std::make_shared<MaskedGrammar>(*grammar, vocabulary_);
    const std::lock_guard<std::mutex> lock(mutex_);
    cache_.emplace_front(key, masked);
    if (cache_.size() > kMaxCached) cache_.pop_back();
  }
  std::vector<int32_t> stops = eos_token_ids_;
  stops.insert(stops.end(), stop_ids.begin(), stop_ids.end());
  return std::make_shared<GrammarConstraint>(std::move(masked), std::move(stops), &worker_);
}

}  // namespace palu::structured
