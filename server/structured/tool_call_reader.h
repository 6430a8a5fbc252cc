// Finds tool calls in what a model writes, while it is being written.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/structured/structured_spec.h"

namespace palu::structured {

// A piece of an answer.
struct ToolEvent {
  enum class Kind {
    kContent,    // text for the user
    kCall,       // a call begins; text is the tool's name
    kArguments,  // text is the next part of the last call's arguments, JSON in all
  };
  Kind kind = Kind::kContent;
  std::string text;
};

// Reads one JSON object {"name": …, "arguments" or "parameters": …, …} as it comes. One thread.
class CallScanner {
 public:
  enum class Result { kMore, kCall, kNoCall };

  // known: names that are taken; empty: any. Arguments that begin with the object itself, after a
  // name that stood before it, are read when `name` is given.
  CallScanner(const std::vector<std::string>* known, std::string name);

  // Takes the next character. kCall: the object has ended, and was a call; kNoCall: it is none, and
  // nothing was told of it.
  Result Push(char c, std::vector<ToolEvent>* out);
  // The call was begun in out.
  bool begun() const { return begun_; }

 private:
  enum class Value { kNone, kName, kArguments, kOther };

  Result End(std::vector<ToolEvent>* out);
  bool EndValue(std::vector<ToolEvent>* out);
  bool Begin(std::vector<ToolEvent>* out);
  void PassArguments(char c, std::vector<ToolEvent>* out);

  const std::vector<std::string>& known_;
  std::string name_;
  bool bare_;  // the object is the arguments
  bool begun_ = false;
  bool has_name_;
  int depth_ = 0;
  bool in_string_ = false, escaped_ = false;
  Value value_ = Value::kNone;
  bool expects_key_ = false;
  std::string text_;       // the key or value that is being read
  std::string arguments_;  // read before the name
  std::string blanks_;     // within arguments, until something follows
  bool quoted_ = false;    // the arguments are a JSON string
  bool has_arguments_ = false;
};

// Splits a text into content and calls. Text that looks like a call but is none becomes content.
// One choice's; one thread at a time.
class ToolCallReader {
 public:
  // forced: a call has to come. Only calls of these names are taken where nothing marks a call.
  ToolCallReader(ToolFormat format, bool forced, std::vector<std::string> names);

  void Push(std::string_view text, std::vector<ToolEvent>* out);
  // Nothing follows.
  void Finish(std::vector<ToolEvent>* out);
  int calls() const { return calls_; }

 private:
  enum class Mode { kStart, kContent, kMarked, kName, kCall, kAfter };

  bool StepText(std::vector<ToolEvent>* out);
  bool StepMarked(std::vector<ToolEvent>* out);
  bool StepName();
  void StepCall(std::vector<ToolEvent>* out);
  bool StepAfter();
  void EmitContent(std::string_view text, std::vector<ToolEvent>* out);
  void BeginCall(std::string name);
  // Takes the text off the front of what is pending; false if it does not stand there (wait: but
  // may once more has come).
  bool Take(std::string_view text, bool* wait);

  const ToolFormat format_;
  const std::string mark_;  // begins calls; empty: they stand without
  const std::vector<std::string> names_;
  const std::vector<std::string> any_;
  Mode mode_;
  std::string pending_;
  std::string raw_;                   // what was taken off since the call's mark
  std::vector<CallScanner> scanner_;  // at most one
  bool finishing_ = false;
  bool content_seen_ = false;
  int calls_ = 0;
};

}  // namespace palu::structured
