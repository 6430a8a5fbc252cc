#include "tools/bench/serve/load_plan.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace palu::bench {
namespace {

constexpr const char* kCommonWords =
    "the old ship went slowly down river toward a quiet harbour while men on deck spoke of storm "
    "wind and distant home she opened letter read it twice then looked out at rain upon garden "
    "wall where father had planted roses long ago";

std::vector<std::string> Split(std::istream& in) {
  return {std::istream_iterator<std::string>(in), std::istream_iterator<std::string>()};
}

}  // namespace

PromptSource PromptSource::Ids(int32_t low, int32_t high, uint64_t seed) {
  if (low < 0 || high <= low) {
    throw std::invalid_argument("token ids need a range LOW:HIGH with 0 <= LOW < HIGH, found " +
                                std::to_string(low) + ":" + std::to_string(high));
  }
  PromptSource source(seed);
  source.low_ = low;
  source.high_ = high;
  return source;
}

PromptSource PromptSource::Words(const std::string& path, uint64_t seed) {
  PromptSource source(seed);
  if (path.empty()) {
    std::istringstream in(kCommonWords);
    source.words_ = Split(in);
  } else {
    std::ifstream in(path);
    if (!in) throw std::runtime_error(path + ": cannot be read");
    source.words_ = Split(in);
    if (source.words_.empty()) throw std::runtime_error(path + ": holds no word");
  }
  return source;
}

void PromptSource::Append(int tokens, std::mt19937_64* random, nlohmann::json* prompt) const {
  if (!is_text()) {
    std::uniform_int_distribution<int32_t> id(low_, high_ - 1);
    for (int i = 0; i < tokens; ++i) prompt->push_back(id(*random));
    return;
  }
  const int count = std::max(1, static_cast<int>(std::lround(tokens * words_per_token_)));
  std::uniform_int_distribution<size_t> place(0, words_.size() - 1);
  auto& text = prompt->get_ref<std::string&>();
  for (int i = 0; i < count; ++i) {
    if (!text.empty()) text += ' ';
    text += words_[place(*random)];
  }
}

nlohmann::json PromptSource::Make(int tokens) { return Make(tokens, {}, 0); }

nlohmann::json PromptSource::Make(int tokens, const std::vector<int64_t>& prefix_ids,
                                  int block_tokens) {
  nlohmann::json prompt = is_text() ? nlohmann::json("") : nlohmann::json::array();
  int left = tokens;
  for (size_t i = 0; i < prefix_ids.size() && left > 0; ++i) {
    // The last block of an input is its own, even where it is full: it ends the request.
    if (left <= block_tokens) break;
    std::seed_seq seed{seed_, static_cast<uint64_t>(prefix_ids[i]), uint64_t{0x70726566}};
    std::mt19937_64 random(seed);
    Append(block_tokens, &random, &prompt);
    left -= block_tokens;
  }
  if (left > 0) Append(left, &random_, &prompt);
  return prompt;
}

std::vector<PlannedRequest> PlanUniform(int count, int input_tokens, int output_tokens, double rate,
                                        Arrivals arrivals, uint64_t seed, PromptSource* source) {
  std::vector<PlannedRequest> plan;
  std::mt19937_64 random(seed);
  double time = 0;
  for (int i = 0; i < count; ++i) {
    plan.push_back({time, source->Make(input_tokens), output_tokens});
    if (rate <= 0) continue;
    time += arrivals == Arrivals::kFixed ? 1 / rate
                                         : std::exponential_distribution<double>(rate)(random);
  }
  return plan;
}

std::vector<PlannedRequest> PlanTrace(const Trace& trace, PromptSource* source) {
  std::vector<PlannedRequest> plan;
  for (const TraceRequest& request : trace.requests) {
    plan.push_back(
        {request.arrival_seconds,
         source->Make(request.input_tokens, request.prefix_ids, trace.prefix_block_tokens),
         request.output_tokens});
  }
  return plan;
}

}  // namespace palu::bench
