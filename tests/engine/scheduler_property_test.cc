// Random schedules in tiny pools, one thread, a clock of our own.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "engine/request_check.h"
#include "engine/scheduler.h"
#include "tests/engine/fake_runner.h"

namespace palu {
namespace {

using testing::FakeRunner;
using testing::ReferenceOutput;
using testing::RunAlone;
using TimePoint = Scheduler::TimePoint;

struct Choice {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> finish;
  bool stopped_by_token = false;
};

struct Client {
  Request request;
  std::shared_ptr<OutputStream> stream;
  std::vector<uint64_t> seeds;
  std::vector<Choice> choices;
  std::vector<OutputToken> prompt_logprobs;
  int prompts_published = 0;
  bool cancel = false, expires = false;
  std::vector<bool> stopped;
  int ended = 0;
  EndReason reason = EndReason::kStop;
};

class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {
    options_.max_sequences = Pick(1, 8);
    options_.step_tokens = Pick(1, 24);
    options_.max_unread_tokens = 1 << 20;
    options_.prefix_caching = Chance(75);
    options_.policy = std::array{"priority", "fcfs", "fair"}[Pick(0, 2)];
    options_.ageing = std::chrono::milliseconds(Chance(50) ? 0 : 5);
    options_.target_inter_token_ms = Chance(30) ? 1 : 0;
    overlap_ = Chance(60);
    limits_.block_tokens = Pick(1, 5);
    limits_.group_windows = RandomWindows();
    limits_.max_chunk_tokens = options_.step_tokens;
    limits_.num_blocks = Pick(2, 24) * limits_.demand().num_groups();
    limits_.max_context_tokens = Pick(4, 80);
    limits_.vocab_size = Pick(2, 40);
    limits_.eos_token_ids = {1};
    limits_.num_host_blocks = Chance(50) ? Pick(1, 16) : 0;
    limits_.block_copy_seconds = Chance(30) ? 1e-3 : 0;
    scheduler_ = std::make_unique<Scheduler>(options_, limits_);
    runner_ = std::make_unique<FakeRunner>(limits_, options_);
    base_.resize(limits_.max_context_tokens);
    for (int32_t& id : base_) id = Pick(0, limits_.vocab_size - 1);
  }

  void RunToEnd() {
    int to_come = Pick(1, 14);
    for (int step = 0; to_come > 0 || scheduler_->has_work(); ++step) {
      ASSERT_LT(step, 20000) << "no progress";
      while (to_come > 0 && Chance(30)) {
        AddRandom();
        --to_come;
      }
      Disturb();
      OneStep();
      if (::testing::Test::HasFatalFailure()) return;
    }
    ASSERT_FALSE(under_way_);
    CheckAll();
  }

  int preemptions() const { return preemptions_; }
  int swaps() const { return swaps_; }
  int moves() const { return moves_; }
  int stored() const { return stored_; }
  int loaded() const { return loaded_; }
  int hits() const { return hits_; }
  int lengths() const { return by_pool_; }

 private:
  int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool Chance(int percent) { return Pick(1, 100) <= percent; }

  // One layer group that sees everything or slides, or groups of both kinds.
  std::vector<int> RandomWindows() {
    const int window = Pick(1, 20);
    if (Chance(30)) {
      return std::array<std::vector<int>, 3>{
          {{0, window}, {0, 0, window}, {0, window, window}}}[Pick(0, 2)];
    }
    return {Chance(50) ? window : 0};
  }

  SamplingParams RandomParams() {
    SamplingParams params;
    params.max_tokens = Chance(8) ? 0 : Pick(1, 40);
    params.min_tokens = Chance(30) ? Pick(0, params.max_tokens) : 0;
    params.temperature = Chance(40) ? 0.0f : 1.0f;
    params.ignore_eos = Chance(30) && limits_.vocab_size > 3;
    // Of a tiny vocabulary some token must stay allowed.
    if (Chance(20) && limits_.vocab_size > 3) params.stop_token_ids = {2};
    if (Chance(20)) params.repetition_penalty = 1.5f;
    if (Chance(20)) params.num_logprobs = Pick(0, 3);
    if (Chance(25)) params.num_prompt_logprobs = Pick(0, 3);
    return params;
  }

  void AddRandom() {
    auto client = std::make_unique<Client>();
    Request& request = client->request;
    request.sampling = RandomParams();
    request.n = Chance(35) ? Pick(2, 12) : 1;
    request.priority = Chance(30) ? Pick(-1, 1) : 0;
    if (Chance(20)) request.cache_salt = 9;
    request.tenant = std::array{"", "a", "b"}[Pick(0, 2)];
    const int length = Pick(1, limits_.max_context_tokens);
    // Prompts share beginnings, so that the prefix cache has something to find.
    request.prompt.assign(base_.begin(), base_.begin() + length);
    if (Chance(60)) request.prompt[Pick(0, length - 1)] = Pick(0, limits_.vocab_size - 1);
    client->expires = Chance(10);
    if (client->expires) request.deadline = now_ + std::chrono::milliseconds(Pick(0, 60));
    if (CheckRequest(limits_, &request).fault != RequestFault::kNone) return;
    client->stream = std::make_shared<OutputStream>(request.n);
    client->choices.resize(request.n);
    client->stopped.resize(request.n);
    auto state = MakeRequestState(request, client->stream, random_());
    for (const auto& sequence : state->sequences) client->seeds.push_back(sequence->seed);
    by_state_[state.get()] = client.get();
    scheduler_->Add(std::move(state));
    clients_.push_back(std::move(client));
  }

  void Disturb() {
    if (clients_.empty() || !Chance(12)) return;
    Client& client = *clients_[Pick(0, static_cast<int>(clients_.size()) - 1)];
    if (Chance(30)) {
      client.cancel = true;
      client.stream->Cancel();
    } else {
      const int choice = Pick(0, client.request.n - 1);
      client.stopped[choice] = true;
      client.stream->StopChoice(choice);
    }
  }

  // As the engine does it: the next step may be planned before the results of the last are there.
  void OneStep() {
    now_ += std::chrono::milliseconds(Chance(2) ? Pick(-5, 50) : 1);
    StepPlan& plan = plans_[next_];
    if (!overlap_) FinishStep();
    scheduler_->Schedule(now_, &plan);
    // What is planned may end before it runs, and others that stood back for it wait for the next.
    const bool may_be_empty = under_way_ || !plan.sequences.empty() || plan.preemptions > 0;
    FinishStep();
    scheduler_->Reap(now_, &events_);
    preemptions_ += plan.preemptions;
    swaps_ += plan.swaps;
    const bool run = scheduler_->Settle(now_, &plan);
    ASSERT_TRUE(run || may_be_empty || !scheduler_->has_work());
    Deliver();
    if (!run) return;
    ASSERT_LE(scheduler_->num_running(), options_.max_sequences);
    moves_ += static_cast<int>(plan.block_moves.size());
    hits_ += plan.prefix_hit_tokens;
    CheckWritable(plan);
    BuildStepBatch(plan, limits_.block_tokens, &batch_);
    scheduler_->Advance(&plan);
    under_way_ = true;
    next_ = 1 - next_;
  }

  void FinishStep() {
    if (!under_way_) return;
    under_way_ = false;
    const StepPlan& plan = plans_[1 - next_];
    StepResult result = runner_->Run(batch_);
    ASSERT_TRUE(runner_->violations().empty()) << runner_->violations().front();
    if (!scheduler_->has_moves()) {
      runner_->PoisonFreeBlocks(scheduler_->allocator(), scheduler_->host_allocator());
    }
    scheduler_->ObserveStep(plan, 1e-3 * Pick(0, 3));
    scheduler_->Commit(now_, plan, std::move(result), &events_);
  }

  void CheckWritable(const StepPlan& plan) {
    for (const Sequence* sequence : plan.sequences) {
      for (int i = 0; i < sequence->scheduled; ++i) {
        const int index = (sequence->computed + i) / limits_.block_tokens;
        for (const BlockTable& table : sequence->tables) {
          ASSERT_EQ(scheduler_->allocator().ref_count(table.blocks.at(index)), 1)
              << "a shared block is written";
        }
      }
    }
  }

  void Deliver() {
    for (RequestState* request : events_.prompts_done) {
      Client& client = *by_state_.at(request);
      ++client.prompts_published;
      client.prompt_logprobs = std::move(request->prompt_logprobs);
    }
    for (auto& [request, delta] : events_.deltas) {
      Client& client = *by_state_.at(request);
      ASSERT_EQ(client.ended, 0) << "output after the end";
      Choice& choice = client.choices[delta.choice];
      ASSERT_FALSE(choice.finish) << "output after a choice's end";
      for (const OutputToken& token : delta.tokens) choice.tokens.push_back(token.token);
      choice.finish = delta.finish;
      choice.stopped_by_token = delta.stopped_by_token;
    }
    for (const StepEvents::Ended& ended : events_.ended) {
      Client& client = *by_state_.at(ended.request.get());
      ++client.ended;
      client.reason = ended.reason;
      // The address may be used again by a later request.
      by_state_.erase(ended.request.get());
    }
    events_.Clear();
  }

  void CheckAll() {
    ASSERT_EQ(scheduler_->num_running(), 0);
    ASSERT_EQ(scheduler_->num_waiting(), 0);
    ASSERT_EQ(scheduler_->blocks_used(), 0);
    const PrefixCache::Counters counters = scheduler_->cache_counters();
    stored_ += static_cast<int>(counters.stored);
    loaded_ += static_cast<int>(counters.loaded);
    for (const auto& client : clients_) CheckClient(*client);
  }

  void CheckClient(const Client& client) {
    ASSERT_EQ(client.ended, 1);
    for (int i = 0; i < client.request.n; ++i) {
      const Choice& choice = client.choices[i];
      const ReferenceOutput alone = RunAlone(limits_, client.request, client.seeds[i]);
      ASSERT_TRUE(choice.finish.has_value());
      const bool disturbed = *choice.finish == FinishReason::kCancelled ||
                             (*choice.finish == FinishReason::kStop && !choice.stopped_by_token);
      if (disturbed) {
        ASSERT_TRUE(client.cancel || client.expires || client.stopped[i]);
        ASSERT_LE(choice.tokens.size(), alone.tokens.size());
        ASSERT_TRUE(std::equal(choice.tokens.begin(), choice.tokens.end(), alone.tokens.begin()));
        continue;
      }
      ASSERT_EQ(choice.tokens, alone.tokens);
      ASSERT_EQ(*choice.finish, alone.finish);
      ASSERT_EQ(choice.stopped_by_token, alone.stopped_by_token);
      if (*choice.finish == FinishReason::kLength &&
          static_cast<int>(client.request.prompt.size() + choice.tokens.size()) >
              limits_.demand().LongestIn(limits_.num_blocks)) {
        ++by_pool_;
      }
      CheckPromptLogprobs(client);
    }
  }

  void CheckPromptLogprobs(const Client& client) {
    ASSERT_EQ(client.prompts_published, 1);
    const auto& prompt = client.request.prompt;
    if (client.request.sampling.num_prompt_logprobs < 0) {
      ASSERT_TRUE(client.prompt_logprobs.empty());
      return;
    }
    ASSERT_EQ(client.prompt_logprobs.size(), prompt.size() - 1);
    for (size_t i = 0; i + 1 < prompt.size(); ++i) {
      const OutputToken& scored = client.prompt_logprobs[i];
      ASSERT_EQ(scored.token, prompt[i + 1]);
      ASSERT_EQ(
          scored.logprob,
          testing::FakeLogprob(testing::HistoryHash(prompt, i + 1, testing::VisibleWindow(limits_)),
                               prompt[i + 1]));
      ASSERT_EQ(static_cast<int>(scored.top.size()), client.request.sampling.num_prompt_logprobs);
    }
  }

  std::mt19937_64 random_;
  EngineOptions options_;
  EngineLimits limits_;
  std::vector<int32_t> base_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeRunner> runner_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<const RequestState*, Client*> by_state_;
  TimePoint now_ = TimePoint() + std::chrono::hours(1);
  StepPlan plans_[2];
  int next_ = 0;  // of plans_; the other is under way
  bool overlap_ = false, under_way_ = false;
  StepBatch batch_;
  StepEvents events_;
  int preemptions_ = 0, swaps_ = 0, moves_ = 0, stored_ = 0, loaded_ = 0, hits_ = 0, by_pool_ = 0;
};

TEST(SchedulerProperty, EveryRequestEndsOnceAsIfItRanAlone) {
  int preemptions = 0, swaps = 0, moves = 0, stored = 0, loaded = 0, hits = 0, by_pool = 0;
  for (uint64_t seed = 0; seed < 6000; ++seed) {
    World world(seed);
    world.RunToEnd();
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
    preemptions += world.preemptions();
    swaps += world.swaps();
    moves += world.moves();
    stored += world.stored();
    loaded += world.loaded();
    hits += world.hits();
    by_pool += world.lengths();
  }
  // Worth nothing if the schedules had never been tight.
  EXPECT_GT(preemptions, 1000);
  EXPECT_GT(swaps, 500);
  EXPECT_GT(moves, 1000);
  EXPECT_GT(stored, 1000);
  EXPECT_GT(loaded, 500);
  EXPECT_GT(hits, 1000);
  EXPECT_GT(by_pool, 50);
  RecordProperty("preemptions", preemptions);
  RecordProperty("swaps", swaps);
  RecordProperty("blocks_stored", stored);
  RecordProperty("blocks_loaded", loaded);
  RecordProperty("prefix_hit_tokens", hits);
}

}  // namespace
}  // namespace palu
