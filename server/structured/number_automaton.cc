#include "server/structured/number_automaton.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace palu::structured {
namespace {

constexpr size_t kMaxBoundDigits = 30;
constexpr int kIntegerDigits = 16;
constexpr int kFractionDigits = 16;
constexpr int kExactDigits = 15;
constexpr int kMaxMultiple = 5000;

const CodeSet kDigit{{'0', '9'}};
const CodeSet kNonZero{{'1', '9'}};

struct Decimal {
  bool negative = false;
  std::string integer;   // at least one digit, no leading zeros but for "0"
  std::string fraction;  // no trailing zeros

  bool zero() const { return integer == "0" && fraction.empty(); }
};

// Nothing if it has too many digits.
std::optional<Decimal> ToDecimal(std::string_view text) {
  Decimal d;
  d.negative = text.starts_with('-');
  if (d.negative) text.remove_prefix(1);
  int exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
    std::string_view power = text.substr(e + 1);
    if (power.starts_with('+')) power.remove_prefix(1);
    std::from_chars(power.data(), power.data() + power.size(), exponent);
    text = text.substr(0, e);
  }
  if (std::abs(exponent) > static_cast<int>(kMaxBoundDigits)) return std::nullopt;
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits(text.substr(0, point));
  if (point < text.size()) digits += text.substr(point + 1);
  auto place = static_cast<int>(point) + exponent;
  if (place < 0) {
    digits.insert(0, static_cast<size_t>(-place), '0');
    place = 0;
  }
  if (place > static_cast<int>(digits.size())) digits.resize(static_cast<size_t>(place), '0');
  d.integer = digits.substr(0, static_cast<size_t>(place));
  d.fraction = digits.substr(static_cast<size_t>(place));
  d.integer.erase(0, std::min(d.integer.find_first_not_of('0'), d.integer.size()));
  if (d.integer.empty()) d.integer = "0";
  d.fraction.erase(d.fraction.find_last_not_of('0') + 1);
  if (d.integer.size() + d.fraction.size() > kMaxBoundDigits) return std::nullopt;
  if (d.zero()) d.negative = false;
  return d;
}

// Compares decimals without a sign, digit by digit as they are read, with a given one.
class Comparison {
 public:
  Comparison(const Decimal& bound, bool less, bool equal, bool greater)
      : bound_(bound), accepts_{less, equal, greater} {}

  CharDfa Build() {
    Number({Phase::kInteger, 0, 0});
    for (size_t s = 0; s < order_.size(); ++s) {
      const Key key = order_[s];
      dfa_.states[s].accept = Accepts(key);
      if (std::get<0>(key) == Phase::kInteger) {
        const int to = Number(AtPoint(key));
        dfa_.states[s].edges.push_back({{'.', '.'}, to});
      }
      for (CodePoint digit = '0'; digit <= '9'; ++digit) {
        const int to = Number(AtDigit(key, static_cast<char>(digit)));
        dfa_.states[s].edges.push_back({{digit, digit}, to});
      }
    }
    return std::move(dfa_);
  }

 private:
  enum class Phase { kInteger, kFraction };
  // What was read so far: phase, digits of it as far as they matter, and -1, 0 or 1 for less, equal
  // or greater in those places.
  using Key = std::tuple<Phase, int, int>;

  int Number(const Key& key) {
    const auto [it, added] = numbers_.emplace(key, static_cast<int>(order_.size()));
    if (added) {
      order_.push_back(key);
      dfa_.states.emplace_back();
    }
    return it->second;
  }

  int IntegerDigits() const { return static_cast<int>(bound_.integer.size()); }

  Key AtDigit(const Key& key, char digit) const {
    auto [phase, place, order] = key;
    const std::string& digits = phase == Phase::kInteger ? bound_.integer : bound_.fraction;
    const char other =
        place < static_cast<int>(digits.size()) ? digits[static_cast<size_t>(place)] : '0';
    if (order == 0 && digit != other) order = digit < other ? -1 : 1;
    const int last = static_cast<int>(digits.size()) + (phase == Phase::kInteger ? 1 : 0);
    place = std::min(place + 1, last);
    if (phase == Phase::kInteger && place > IntegerDigits()) order = 1;
    if (phase == Phase::kFraction && order != 0) place = 0;
    return {phase, place, order};
  }

  // With fewer digits before the point it is less.
  int OrderOfInteger(int place, int order) const { return place < IntegerDigits() ? -1 : order; }

  Key AtPoint(const Key& key) const {
    const auto [phase, place, order] = key;
    return {Phase::kFraction, 0, OrderOfInteger(place, order)};
  }

  bool Accepts(const Key& key) const {
    auto [phase, place, order] = key;
    if (phase == Phase::kInteger) {
      if (place == 0) return false;
      order = OrderOfInteger(place, order);
      place = 0;
    }
    if (order == 0 && place < static_cast<int>(bound_.fraction.size())) order = -1;
    return accepts_[order + 1];
  }

  const Decimal& bound_;
  const bool accepts_[3];
  std::map<Key, int> numbers_;
  std::vector<Key> order_;
  CharDfa dfa_;
};

// Adds what the automaton reads; returns the state behind.
int Embed(const CharDfa& dfa, int from, CharNfa* nfa) {
  std::vector<int> states(dfa.states.size());
  for (int& state : states) state = nfa->AddState();
  const int end = nfa->AddState();
  nfa->AddEpsilon(from, states[0]);
  for (size_t s = 0; s < dfa.states.size(); ++s) {
    for (const CharDfa::Edge& edge : dfa.states[s].edges) {
      nfa->AddEdge(states[s], edge.range, states[static_cast<size_t>(edge.to)]);
    }
    if (dfa.states[s].accept) nfa->AddEpsilon(states[s], end);
  }
  return end;
}

// Texts of digits, a point and a sign whose value keeps the bound.
Result<CharDfa> BoundAutomaton(const NumberBound& bound) {
  const std::optional<Decimal> value = ToDecimal(bound.value);
  if (!value) {
    return tl::unexpected(
        InvalidArgument("has more than " + std::to_string(kMaxBoundDigits) + " digits"));
  }
  const bool lower =
      bound.kind == NumberBound::Kind::kAtLeast || bound.kind == NumberBound::Kind::kMoreThan;
  const bool inclusive =
      bound.kind == NumberBound::Kind::kAtLeast || bound.kind == NumberBound::Kind::kAtMost;
  const auto compare = [&](bool less, bool greater) {
    return Comparison(*value, less, inclusive, greater).Build();
  };
  CharNfa nfa;
  const int start = nfa.AddState();
  const int end = nfa.AddState();
  const auto add = [&](bool minus, const CharDfa& dfa) {
    const int from = minus ? nfa.AddCode(start, '-') : start;
    nfa.AddEpsilon(Embed(dfa, from, &nfa), end);
  };
  const CharDfa any = Comparison(*value, true, true, true).Build();
  if (!value->negative) {
    add(false, compare(!lower, lower));
    if (!lower && value->zero() && !inclusive) {
      add(true, Comparison(*value, false, false, true).Build());
    } else if (!lower) {
      add(true, any);
    }
  } else {
    add(true, compare(lower, !lower));
    if (lower) add(false, any);
  }
  return Determinize(nfa, start, end);
}

// [0-9] up to `most` times; the ends of all lengths lead to one state.
int AddDigits(int from, int least, int most, CharNfa* nfa) {
  const int end = nfa->AddState();
  for (int i = 0; i <= most; ++i) {
    if (i >= least) nfa->AddEpsilon(from, end);
    if (i < most) from = nfa->AddSet(from, kDigit);
  }
  return end;
}

Result<CharDfa> IntegerSyntax(int digits) {
  CharNfa nfa;
  const int start = nfa.AddState();
  const int sign = nfa.AddCode(start, '-');
  nfa.AddEpsilon(start, sign);
  const int end = AddDigits(nfa.AddSet(sign, kNonZero), 0, digits - 1, &nfa);
  nfa.AddEpsilon(nfa.AddCode(start, '0'), end);
  return Determinize(nfa, start, end);
}

Result<CharDfa> FreeNumberSyntax() {
  CharNfa nfa;
  const int start = nfa.AddState();
  const int sign = nfa.AddCode(start, '-');
  nfa.AddEpsilon(start, sign);
  const int integer = AddDigits(nfa.AddSet(sign, kNonZero), 0, kIntegerDigits - 1, &nfa);
  nfa.AddEpsilon(nfa.AddCode(sign, '0'), integer);
  const int fraction = AddDigits(nfa.AddCode(integer, '.'), 1, kFractionDigits, &nfa);
  nfa.AddEpsilon(integer, fraction);
  const int exponent = nfa.AddSet(fraction, {{'E', 'E'}, {'e', 'e'}});
  const int power = nfa.AddSet(exponent, {{'+', '+'}, {'-', '-'}});
  nfa.AddEpsilon(exponent, power);
  const int end = AddDigits(power, 1, 2, &nfa);
  nfa.AddEpsilon(fraction, end);
  return Determinize(nfa, start, end);
}

// Without exponent, so that digits tell the size.
Result<CharDfa> PlainNumberSyntax(int digits) {
  CharNfa nfa;
  const int start = nfa.AddState();
  const int end = nfa.AddState();
  const int sign = nfa.AddCode(start, '-');
  nfa.AddEpsilon(start, sign);
  std::vector<int> fraction(kExactDigits + 1);
  for (int& state : fraction) state = nfa.AddState();
  for (int read = 1; read < kExactDigits; ++read) {
    for (const CodeRange& range : kDigit.ranges()) {
      nfa.AddEdge(fraction[static_cast<size_t>(read)], range,
                  fraction[static_cast<size_t>(read) + 1]);
    }
  }
  for (int read = 2; read <= kExactDigits; ++read) {
    nfa.AddEpsilon(fraction[static_cast<size_t>(read)], end);
  }
  const auto add_fraction = [&](int from, int read) {
    if (read < kExactDigits) {
      const int point = nfa.AddCode(from, '.');
      nfa.AddEdge(point, kDigit.ranges()[0], fraction[static_cast<size_t>(read) + 1]);
    }
    nfa.AddEpsilon(from, end);
  };
  add_fraction(nfa.AddCode(sign, '0'), 1);
  int integer = sign;
  for (int read = 1; read <= digits; ++read) {
    integer = nfa.AddSet(integer, read == 1 ? kNonZero : kDigit);
    add_fraction(integer, read);
  }
  return Determinize(nfa, start, end);
}

Result<CharDfa> MultipleAutomaton(int multiple) {
  if (multiple < 1 || multiple > kMaxMultiple) {
    return tl::unexpected(InvalidArgument("must be an integer from 1 to " +
                                          std::to_string(kMaxMultiple) + " for this server"));
  }
  CharNfa nfa;
  const int start = nfa.AddState();
  std::vector<int> remainders(static_cast<size_t>(multiple));
  for (int& state : remainders) state = nfa.AddState();
  nfa.AddEpsilon(start, remainders[0]);
  nfa.AddEdge(start, {'-', '-'}, remainders[0]);
  for (int r = 0; r < multiple; ++r) {
    for (int digit = 0; digit < 10; ++digit) {
      const auto code = static_cast<CodePoint>('0' + digit);
      nfa.AddEdge(remainders[static_cast<size_t>(r)], {code, code},
                  remainders[static_cast<size_t>((r * 10 + digit) % multiple)]);
    }
  }
  return Determinize(nfa, start, remainders[0]);
}

}  // namespace

Result<CharDfa> NumberAutomaton(bool integer, const std::vector<NumberBound>& bounds,
                                const std::vector<int>& multiples) {
  size_t digits = kIntegerDigits;
  for (const NumberBound& bound : bounds) {
    if (const auto value = ToDecimal(bound.value)) {
      digits = std::max(digits, value->integer.size() + 1);
    }
  }
  Result<CharDfa> result = integer || !multiples.empty() ? IntegerSyntax(static_cast<int>(digits))
                           : bounds.empty()              ? FreeNumberSyntax()
                                            : PlainNumberSyntax(static_cast<int>(digits));
  for (const NumberBound& bound : bounds) {
    if (!result) return result;
    const Result<CharDfa> automaton = BoundAutomaton(bound);
    if (!automaton) return automaton;
    result = Intersect(*result, *automaton);
  }
  for (const int multiple : multiples) {
    if (!result) return result;
    const Result<CharDfa> automaton = MultipleAutomaton(multiple);
    if (!automaton) return automaton;
    result = Intersect(*result, *automaton);
  }
  return result;
}

}  // namespace palu::structured
