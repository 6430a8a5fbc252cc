#include "server/structured/grammar_constraint.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace palu::structured {
namespace {

// A kilobyte each; beyond, a walk forgets those it has left.
constexpr size_t kMaxStates = 2000;
// With so many tokens left, no distance matters.
constexpr int kManyTokens = 1 << 20;

// The walk of one choice, stepped by the worker. What the engine thread and the worker share is
// handed over under the mutex: the worker touches walk while busy, the engine thread otherwise.
class WorkerState final : public ConstraintState {
 public:
  WorkerState(GrammarWalk walk, int max_tokens, MaskWorker* worker)
      : shared_(std::make_shared<Shared>(std::move(walk))), worker_(worker) {
    shared_->busy = true;
    worker_->Post([shared = shared_, max_tokens] {
      shared->walk.FillMask(max_tokens);
      shared->SetReady();
    });
  }

  void Accept(int32_t token, int tokens_left) override {
    shared_->Wait();
    shared_->busy = true;
    worker_->Post([shared = shared_, token, tokens_left] {
      shared->walk.Accept(token);
      shared->walk.FillMask(tokens_left);
      shared->SetReady();
    });
  }

  std::span<const uint32_t> Mask() override {
    shared_->Wait();
    return shared_->walk.mask();
  }

  bool must_stop() override {
    shared_->Wait();
    return shared_->walk.must_stop();
  }

 private:
  struct Shared {
    explicit Shared(GrammarWalk w) : walk(std::move(w)) {}
    void SetReady() {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        busy = false;
      }
      ready.notify_all();
    }
    void Wait() {
      std::unique_lock<std::mutex> lock(mutex);
      ready.wait(lock, [this] { return !busy; });
    }
    std::mutex mutex;
    std::condition_variable ready;
    bool busy = false;  // guarded by mutex
    GrammarWalk walk;
  };

  const std::shared_ptr<Shared> shared_;
  MaskWorker* const worker_;
};

}  // namespace

GrammarWalk::GrammarWalk(std::shared_ptr<MaskedGrammar> masked, std::vector<int32_t> stop_ids)
    : masked_(std::move(masked)),
      stop_ids_(std::move(stop_ids)),
      matcher_(*masked_->grammar),
      state_(matcher_.start()),
      mask_(masked_->vocabulary->mask_words()) {}

bool GrammarWalk::Accept(int32_t token) {
  const Vocabulary& vocabulary = *masked_->vocabulary;
  const bool stops = std::find(stop_ids_.begin(), stop_ids_.end(), token) != stop_ids_.end();
  if (ended_ || stops || token < 0 || token >= vocabulary.size()) {
    const bool fits = stops && complete();
    ended_ = true;
    return fits;
  }
  const std::string& bytes = vocabulary.bytes(token);
  const bool strip = at_start_ && vocabulary.strips_leading_space() && bytes.starts_with(' ');
  Matcher::StateId state = state_;
  for (size_t i = strip ? 1 : 0; i < bytes.size(); ++i) {
    state = matcher_.Step(state, static_cast<uint8_t>(bytes[i]));
  }
  if (bytes.empty() || state == Matcher::kDead) {
    ended_ = true;
    return false;
  }
  at_start_ = false;
  state_ = matcher_.num_states() > kMaxStates ? matcher_.Restart(state) : state;
  return true;
}

void GrammarWalk::AllowStop() {
  bool any = false;
  for (const int32_t id : stop_ids_) {
    if (id < 0 || id >= masked_->vocabulary->size()) continue;
    mask_[static_cast<size_t>(id) / 32] |= 1u << (id % 32);
    any = true;
  }
  // Where nothing can follow, whatever is drawn ends the output.
  if (!any && must_stop_) mask_[0] |= 1u;
}

void GrammarWalk::FillMask(int tokens_left) {
  must_stop_ = ended_ || !matcher_.open(state_);
  if (must_stop_) {
    std::fill(mask_.begin(), mask_.end(), 0);
    return AllowStop();
  }
  // One token is drawn now, one is kept for the end.
  const int32_t distance = tokens_left > kManyTokens ? kUnreachable : tokens_left - 2;
  const bool any = masked_->masks.Fill(&matcher_, state_, at_start_, distance, mask_);
  if (complete()) {
    must_stop_ = !any;
    return AllowStop();
  }
  if (any) return;
  masked_->masks.FillNearest(&matcher_, state_, at_start_, mask_);
  must_stop_ = std::all_of(mask_.begin(), mask_.end(), [](uint32_t word) { return word == 0; });
  if (must_stop_) AllowStop();
}

std::unique_ptr<ConstraintState> GrammarConstraint::NewState(int max_tokens) const {
  return std::make_unique<WorkerState>(GrammarWalk(masked_, stop_ids_), max_tokens, worker_);
}

}  // namespace palu::structured
