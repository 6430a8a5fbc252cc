#include <string>
#include <utility>

#include "server/text/jinja/attribute_path.h"
#include "server/text/jinja/error.h"
#include "server/text/jinja/filters.h"
#include "server/text/jinja/operators.h"

namespace palu::jinja {
namespace {

// The arguments behind the first `count`.
Args Rest(const Args& args, size_t count) {
  Args rest;
  for (size_t i = count; i < args.positional.size(); ++i)
    rest.positional.push_back(args.positional[i]);
  rest.named = args.named;
  return rest;
}

Value Map(Context& context, const Value& value, const Args& args) {
  if (!value.Truth()) return Value::MakeGenerator({});
  std::vector<Value> out;
  if (args.positional.empty()) {
    const std::optional<AttributePath> path = AttributePath::FromArgs(args, 0, "attribute");
    if (!path) Fail("FilterArgumentError", "map requires a filter argument");
    const Value* fallback = args.Find(1, "default");
    for (const Value& item : Iterate(value)) out.push_back(path->Get(item, fallback));
    return Value::MakeGenerator(std::move(out));
  }
  const std::string filter = args.Text(0, "filter", "");
  const Args rest = Rest(args, 1);
  for (const Value& item : Iterate(value)) out.push_back(ApplyFilter(context, filter, item, rest));
  return Value::MakeGenerator(std::move(out));
}

// first: where the test's name stands among the arguments.
Value SelectWith(Context& context, const Value& value, const Args& args, const AttributePath* path,
                 size_t first, bool wanted) {
  if (!value.Truth()) return Value::MakeGenerator({});
  const bool tested = args.positional.size() > first;
  const std::string test = tested ? args.Text(first, "test", "") : "";
  const Args rest = tested ? Rest(args, first + 1) : Args();
  std::vector<Value> out;
  for (const Value& item : Iterate(value)) {
    context.Step();
    const Value subject = path == nullptr ? item : path->Get(item);
    const bool passes = tested ? ApplyTest(context, test, subject, rest) : subject.Truth();
    if (passes == wanted) out.push_back(item);
  }
  return Value::MakeGenerator(std::move(out));
}

Value SelectAttr(Context& context, const Value& value, const Args& args, bool wanted) {
  const std::optional<AttributePath> path = AttributePath::FromArgs(args, 0, "attribute");
  if (!path || args.positional.empty()) {
    Fail("FilterArgumentError", "Missing parameter for attribute name");
  }
  return SelectWith(context, value, args, &*path, 1, wanted);
}

constexpr NamedFilter kFilters[] = {
    {"map", Map},
    {"select", [](Context& c, const Value& v,
                  const Args& a) { return SelectWith(c, v, a, nullptr, 0, true); }},
    {"reject", [](Context& c, const Value& v,
                  const Args& a) { return SelectWith(c, v, a, nullptr, 0, false); }},
    {"selectattr",
     [](Context& c, const Value& v, const Args& a) { return SelectAttr(c, v, a, true); }},
    {"rejectattr",
     [](Context& c, const Value& v, const Args& a) { return SelectAttr(c, v, a, false); }},
};

}  // namespace

Filter FindSelectionFilter(std::string_view name) {
  for (const NamedFilter& one : kFilters) {
    if (one.name == name) return one.filter;
  }
  return nullptr;
}

Filter FindFilter(std::string_view name) {
  for (const auto find : {FindTextFilter, FindSequenceFilter, FindSelectionFilter}) {
    if (const Filter filter = find(name)) return filter;
  }
  return nullptr;
}

Value ApplyFilter(Context& context, std::string_view name, const Value& value, const Args& args) {
  const Filter filter = FindFilter(name);
  if (filter == nullptr)
    Fail("TemplateAssertionError", "No filter named '" + std::string(name) + "'.");
  context.Step();
  context.Charge(value);
  return filter(context, value, args);
}

bool ApplyTest(Context& context, std::string_view name, const Value& value, const Args& args) {
  const Test test = FindTest(name);
  if (test == nullptr) Fail("TemplateAssertionError", "No test named '" + std::string(name) + "'.");
  context.Step();
  return test(context, value, args);
}

}  // namespace palu::jinja
