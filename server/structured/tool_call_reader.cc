#include "server/structured/tool_call_reader.h"

#include <algorithm>
#include <utility>

namespace palu::structured {
namespace {

bool IsBlank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

const char* MarkOf(ToolFormat format) {
  if (format == ToolFormat::kHermes) return "<tool_call>";
  return format == ToolFormat::kMistral ? "[TOOL_CALLS]" : "";
}

// The longest end of the text that the mark begins with.
size_t HeldBack(std::string_view text, std::string_view mark) {
  for (size_t n = std::min(text.size(), mark.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == mark.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

CallScanner::CallScanner(const std::vector<std::string>* known, std::string name)
    : known_(*known), name_(std::move(name)), bare_(!name_.empty()), has_name_(bare_) {}

bool CallScanner::Begin(std::vector<ToolEvent>* out) {
  if (begun_) return true;
  if (!known_.empty() && std::find(known_.begin(), known_.end(), name_) == known_.end()) {
    return false;
  }
  begun_ = true;
  out->push_back({ToolEvent::Kind::kCall, name_});
  if (!arguments_.empty()) {
    out->push_back({ToolEvent::Kind::kArguments, std::exchange(arguments_, {})});
  }
  return true;
}

void CallScanner::PassArguments(char c, std::vector<ToolEvent>* out) {
  if (!has_arguments_) {
    if (IsBlank(c)) return;
    quoted_ = c == '"';
  }
  has_arguments_ = true;
  // A string is told once it has been read, and so are arguments whose tool is not known yet.
  if (quoted_ || !begun_) {
    arguments_ += c;
    return;
  }
  if (IsBlank(c) && !in_string_) {
    blanks_ += c;
    return;
  }
  std::string text = std::exchange(blanks_, {}) + c;
  if (!out->empty() && out->back().kind == ToolEvent::Kind::kArguments) {
    out->back().text += text;
  } else {
    out->push_back({ToolEvent::Kind::kArguments, std::move(text)});
  }
}

bool CallScanner::EndValue(std::vector<ToolEvent>* out) {
  const Value value = std::exchange(value_, Value::kNone);
  if (value == Value::kName) {
    const Json name = Json::parse(text_, nullptr, false);
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) return false;
    name_ = name.get<std::string>();
    has_name_ = true;
    return quoted_ || Begin(out);
  }
  if (value == Value::kArguments && quoted_) {
    const Json text = Json::parse(arguments_, nullptr, false);
    if (!text.is_string()) return false;
    arguments_ = text.get<std::string>();
    quoted_ = false;
    if (!has_name_) return true;
    if (begun_) {
      out->push_back({ToolEvent::Kind::kArguments, std::exchange(arguments_, {})});
    }
    return Begin(out);
  }
  return true;
}

CallScanner::Result CallScanner::End(std::vector<ToolEvent>* out) {
  if (!has_name_ || !Begin(out)) return Result::kNoCall;
  if (!has_arguments_) out->push_back({ToolEvent::Kind::kArguments, "{}"});
  return Result::kCall;
}

CallScanner::Result CallScanner::Push(char c, std::vector<ToolEvent>* out) {
  if (bare_) {
    Begin(out);
    value_ = Value::kArguments;
  }
  const bool was_string = in_string_;
  if (in_string_) {
    if (escaped_) {
      escaped_ = false;
    } else if (c == '\\') {
      escaped_ = true;
    } else if (c == '"') {
      in_string_ = false;
    }
  } else if (c == '"') {
    in_string_ = true;
  } else if (c == '{' || c == '[') {
    ++depth_;
  } else if (c == '}' || c == ']') {
    --depth_;
  }
  if (bare_) {
    PassArguments(c, out);
    return depth_ == 0 ? Result::kCall : Result::kMore;
  }
  if (depth_ == 0) return EndValue(out) ? End(out) : Result::kNoCall;
  if (depth_ == 1 && !was_string && !in_string_) {
    if (c == '{' || c == ',') {
      if (!EndValue(out)) return Result::kNoCall;
      expects_key_ = true;
      text_.clear();
      return Result::kMore;
    }
    if (c == ':' && expects_key_) {
      expects_key_ = false;
      const Json key = Json::parse(text_, nullptr, false);
      const bool arguments = key == "arguments" || key == "parameters";
      value_ = key == "name" ? Value::kName : arguments ? Value::kArguments : Value::kOther;
      text_.clear();
      return Result::kMore;
    }
  }
  if (value_ == Value::kArguments) {
    PassArguments(c, out);
  } else if (value_ != Value::kOther) {
    text_ += c;
  }
  return Result::kMore;
}

ToolCallReader::ToolCallReader(ToolFormat format, bool forced, std::vector<std::string> names)
    : format_(format),
      // A forced call may come without its mark.
      mark_(MarkOf(format)),
      names_(std::move(names)),
      mode_(mark_.empty() || forced ? Mode::kStart : Mode::kContent) {}

bool ToolCallReader::Take(std::string_view text, bool* wait) {
  if (pending_.starts_with(text)) {
    raw_ += text;
    pending_.erase(0, text.size());
    return true;
  }
  *wait |= !finishing_ && text.starts_with(pending_);
  return false;
}

void ToolCallReader::EmitContent(std::string_view text, std::vector<ToolEvent>* out) {
  // Blanks behind calls are layout.
  if (calls_ > 0 && !content_seen_) {
    text.remove_prefix(std::find_if_not(text.begin(), text.end(), IsBlank) - text.begin());
  }
  if (text.empty()) return;
  content_seen_ = true;
  if (!out->empty() && out->back().kind == ToolEvent::Kind::kContent) {
    out->back().text += text;
  } else {
    out->push_back({ToolEvent::Kind::kContent, std::string(text)});
  }
}

void ToolCallReader::BeginCall(std::string name) {
  scanner_.clear();
  scanner_.emplace_back(mark_.empty() ? &names_ : &any_, std::move(name));
  mode_ = Mode::kCall;
}

// Content, up to a mark. False: more has to come.
bool ToolCallReader::StepText(std::vector<ToolEvent>* out) {
  if (mark_.empty()) {
    EmitContent(std::exchange(pending_, {}), out);
    return false;
  }
  const size_t at = pending_.find(mark_);
  const size_t held = at == std::string::npos && !finishing_ ? HeldBack(pending_, mark_) : 0;
  const size_t text = at == std::string::npos ? pending_.size() - held : at;
  EmitContent(std::string_view(pending_).substr(0, text), out);
  pending_.erase(0, text);
  if (at == std::string::npos) return false;
  raw_ = mark_;
  pending_.erase(0, mark_.size());
  mode_ = Mode::kMarked;
  return true;
}

// Before the first brace of a call: blanks, marks, a bracket. False: more has to come.
bool ToolCallReader::StepMarked(std::vector<ToolEvent>* out) {
  for (;;) {
    if (pending_.empty()) return false;
    const char c = pending_[0];
    bool wait = false;
    const bool bracket = format_ == ToolFormat::kJson || format_ == ToolFormat::kMistral;
    if (!mark_.empty() && Take(mark_, &wait)) continue;
    if (format_ == ToolFormat::kLlama3 && Take("<|python_tag|>", &wait)) continue;
    if (wait) return false;
    if (c == '{') {
      BeginCall("");
      return true;
    }
    if (IsBlank(c) || (bracket && c == '[')) {
      raw_ += c;
      pending_.erase(0, 1);
      continue;
    }
    const bool named = format_ == ToolFormat::kMistral && raw_.find(mark_) != std::string::npos;
    mode_ = named ? Mode::kName : Mode::kContent;
    if (!named) EmitContent(std::exchange(raw_, {}), out);
    return true;
  }
}

// [TOOL_CALLS]name{…} or [TOOL_CALLS]name[ARGS]{…}
bool ToolCallReader::StepName() {
  const size_t brace = pending_.find('{');
  if (brace == std::string::npos) return false;
  std::string name = pending_.substr(0, brace);
  name = name.substr(0, name.find('['));
  while (!name.empty() && IsBlank(name.back())) name.pop_back();
  raw_ += pending_.substr(0, brace);
  pending_.erase(0, brace);
  BeginCall(std::move(name));
  return true;
}

void ToolCallReader::StepCall(std::vector<ToolEvent>* out) {
  CallScanner& scanner = scanner_.front();
  for (size_t i = 0; i < pending_.size(); ++i) {
    const bool begun = scanner.begun();
    const CallScanner::Result result = scanner.Push(pending_[i], out);
    if (!scanner.begun()) raw_ += pending_[i];
    if (scanner.begun() && !begun) {
      ++calls_;
      raw_.clear();
      content_seen_ = false;
    }
    if (result == CallScanner::Result::kMore) continue;
    pending_.erase(0, i + 1);
    if (result == CallScanner::Result::kNoCall) {
      EmitContent(std::exchange(raw_, {}), out);
      mode_ = Mode::kContent;
    } else {
      mode_ = Mode::kAfter;
    }
    return;
  }
  pending_.clear();
}

// After a call: what separates and closes. False: more has to come.
bool ToolCallReader::StepAfter() {
  for (;;) {
    if (pending_.empty()) return false;
    const char c = pending_[0];
    bool wait = false;
    if (format_ == ToolFormat::kHermes && Take("</tool_call>", &wait)) continue;
    if (!mark_.empty() && Take(mark_, &wait)) {
      raw_ = mark_;
      mode_ = Mode::kMarked;
      return true;
    }
    if (wait) return false;
    const bool hermes = format_ == ToolFormat::kHermes;
    if (c == '{' && !hermes) {
      raw_.clear();
      BeginCall("");
      return true;
    }
    if (IsBlank(c) || (!hermes && (c == ',' || c == ';' || c == ']'))) {
      pending_.erase(0, 1);
      continue;
    }
    raw_.clear();
    mode_ = Mode::kContent;
    return true;
  }
}

void ToolCallReader::Push(std::string_view text, std::vector<ToolEvent>* out) {
  pending_ += text;
  for (bool go_on = true; go_on && !pending_.empty();) {
    switch (mode_) {
      case Mode::kStart:
      case Mode::kMarked:
        go_on = StepMarked(out);
        break;
      case Mode::kContent:
        go_on = StepText(out);
        break;
      case Mode::kName:
        go_on = StepName();
        break;
      case Mode::kCall:
        StepCall(out);
        break;
      case Mode::kAfter:
        go_on = StepAfter();
        break;
    }
  }
}

void ToolCallReader::Finish(std::vector<ToolEvent>* out) {
  finishing_ = true;
  Push("", out);
  // A call that was begun stays cut off; what never became one is text.
  if (mode_ != Mode::kAfter) EmitContent(raw_ + pending_, out);
  pending_.clear();
  raw_.clear();
}

}  // namespace palu::structured
