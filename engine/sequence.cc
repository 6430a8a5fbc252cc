#include "engine/sequence.h"

#include <tuple>
#include <utility>

namespace palu {
namespace {

// splitmix64: choices of one request draw from unrelated streams.
uint64_t MixSeed(uint64_t seed, uint64_t choice) {
  if (choice == 0) return seed;
  uint64_t z = seed + choice * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

int RequestState::generated() const {
  int total = 0;
  for (const auto& sequence : sequences) total += sequence->generated();
  return total;
}

std::unique_ptr<RequestState> MakeRequestState(Request request,
                                               std::shared_ptr<OutputStream> stream,
                                               uint64_t base_seed) {
  auto state = std::make_unique<RequestState>();
  state->request = std::move(request);
  state->stream = std::move(stream);
  state->timing.arrival = RequestTiming::Clock::now();
  state->unfinished = state->request.n;
  for (int choice = 0; choice < state->request.n; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = state.get();
    sequence->choice = choice;
    sequence->seed = MixSeed(base_seed, choice);
    sequence->tokens = state->request.prompt;
    sequence->prompt = sequence->length();
    if (state->request.constraint != nullptr) {
      sequence->constraint =
          state->request.constraint->NewState(state->request.sampling.max_tokens);
    }
    state->sequences.push_back(std::move(sequence));
  }
  return state;
}

bool ServedBefore::operator()(const Sequence* a, const Sequence* b) const {
  const RequestState& x = *a->request;
  const RequestState& y = *b->request;
  return std::tie(x.service_key, x.arrival_order, a->choice) <
         std::tie(y.service_key, y.arrival_order, b->choice);
}

}  // namespace palu
