#include "server/response_pump.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "tests/server/byte_tokenizer.h"

namespace palu {
namespace {

using testing::ByteTokenizer;
using testing::Tokens;

// Collects what arrives.
class CollectingSink : public Sink {
 public:
  void Send(const PumpOutput& output) override {
    std::lock_guard<std::mutex> lock(mutex_);
    outputs_.push_back(output);
    changed_.notify_all();
  }
  bool full() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return full_;
  }
  void SetFull(bool full) {
    std::lock_guard<std::mutex> lock(mutex_);
    full_ = full;
  }
  // False if the end does not come in time.
  bool WaitFinished() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [this] { return !outputs_.empty() && outputs_.back().finished; });
  }
  bool WaitCount(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60),
                             [&] { return outputs_.size() >= count; });
  }
  std::string Text(int index) const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::string text;
    for (const PumpOutput& output : outputs_) {
      for (const ChoiceDelta& delta : output.deltas) {
        if (delta.index == index) text += delta.text;
      }
    }
    return text;
  }
  std::vector<FinishReason> Finishes(int index) const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<FinishReason> finishes;
    for (const PumpOutput& output : outputs_) {
      for (const ChoiceDelta& delta : output.deltas) {
        if (delta.index == index && delta.finish) finishes.push_back(*delta.finish);
      }
    }
    return finishes;
  }
  std::vector<PumpOutput> outputs() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return outputs_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<PumpOutput> outputs_;
  bool full_ = false;
};

class ResponsePumpTest : public ::testing::Test {
 protected:
  std::shared_ptr<ResponsePump> Make(int prompts, const PumpOptions& options) {
    std::vector<RequestHandle> handles;
    for (int i = 0; i < prompts; ++i) {
      streams_.push_back(std::make_shared<OutputStream>(options.n));
      handles.emplace_back(streams_.back());
    }
    return std::make_shared<ResponsePump>(std::move(handles), options, tokenizer_, &pool_, sink_);
  }

  static OutputDelta Delta(int choice, std::string_view text,
                           std::optional<FinishReason> finish = {}) {
    OutputDelta delta;
    delta.choice = choice;
    delta.tokens = Tokens(text);
    delta.finish = finish;
    return delta;
  }

  ByteTokenizer tokenizer_;
  std::shared_ptr<CollectingSink> sink_ = std::make_shared<CollectingSink>();
  std::vector<std::shared_ptr<OutputStream>> streams_;
  TextPool pool_{2};
};

TEST_F(ResponsePumpTest, APumpThatEndsBeforeItStartsIsLetGo) {
  std::shared_ptr<ResponsePump> pump = Make(1, {});
  streams_[0]->Finish(Status{}, {});
  pump->Cancel();
  ASSERT_TRUE(sink_->WaitFinished());
  while (pump.use_count() > 1) std::this_thread::yield();
  pump->Start();
  const std::weak_ptr<ResponsePump> weak = pump;
  pump.reset();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!weak.expired() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(weak.expired()) << "its stream's notifier holds it";
}

TEST_F(ResponsePumpTest, CodePointsStayWholeHoweverTheyArrive) {
  const std::string text = "naïve 日本語 🙂.";
  Make(1, {})->Start();
  streams_[0]->PublishPrompt(4, 2, {});
  for (const char c : text) streams_[0]->Publish(Delta(0, std::string_view(&c, 1)));
  streams_[0]->Publish(Delta(0, "", FinishReason::kLength));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), text);
  for (const PumpOutput& output : sink_->outputs()) {
    for (const ChoiceDelta& delta : output.deltas) {
      EXPECT_EQ(ReplaceInvalidUtf8(delta.text), delta.text);
    }
  }
  const GenerationUsage usage = sink_->outputs().back().usage;
  EXPECT_EQ(usage.prompt_tokens, 4);
  EXPECT_EQ(usage.cached_tokens, 2);
  EXPECT_EQ(usage.completion_tokens, static_cast<int>(text.size()));
  EXPECT_EQ(sink_->Finishes(0), std::vector<FinishReason>{FinishReason::kLength});
}

TEST_F(ResponsePumpTest, CutOffCodePointComesOutReplaced) {
  Make(1, {})->Start();
  streams_[0]->Publish(Delta(0, "a\xe6\x97", FinishReason::kLength));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), "a\xef\xbf\xbd");
}

TEST_F(ResponsePumpTest, StopStringsEndAChoiceAndNeverShow) {
  PumpOptions options;
  options.n = 2;
  options.stop = {"END", "never"};
  Make(1, options)->Start();
  streams_[0]->PublishPrompt(1, 0, {});
  for (const char c : std::string("some EN ENDtail")) {
    if (!streams_[0]->choice_stopped(0)) streams_[0]->Publish(Delta(0, std::string_view(&c, 1)));
  }
  streams_[0]->Publish(Delta(1, "other EN", FinishReason::kLength));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!streams_[0]->choice_stopped(0) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(streams_[0]->choice_stopped(0)) << "the engine is told";
  EXPECT_FALSE(streams_[0]->choice_stopped(1));
  streams_[0]->Publish(Delta(0, "", FinishReason::kStop));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), "some EN ");
  EXPECT_EQ(sink_->Text(1), "other EN") << "held back text comes out at the end";
  EXPECT_EQ(sink_->Finishes(0), std::vector<FinishReason>{FinishReason::kStop});
  EXPECT_EQ(sink_->outputs().back().usage.completion_tokens, 11 + 8)
      << "tokens up to the stop string";
}

TEST_F(ResponsePumpTest, IncludedStopStringShows) {
  PumpOptions options;
  options.stop = {"END"};
  options.include_stop_str = true;
  Make(1, options)->Start();
  streams_[0]->Publish(Delta(0, "abENDcd", FinishReason::kLength));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), "abEND");
  EXPECT_EQ(sink_->outputs()[0].deltas[0].stop_string, "END");
}

TEST_F(ResponsePumpTest, StopTokenIsCountedButNotShown) {
  PumpOptions options;
  options.stop_token_ids = {'!'};
  Make(1, options)->Start();
  OutputDelta delta = Delta(0, "ab!", FinishReason::kStop);
  delta.stopped_by_token = true;
  streams_[0]->Publish(delta);
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), "ab");
  EXPECT_EQ(sink_->outputs().back().usage.completion_tokens, 3);
  EXPECT_EQ(sink_->outputs()[0].deltas[0].stop_token, '!');
}

// The last output may come after the one that ended its choice.
TEST_F(ResponsePumpTest, LastOutputTellsHowItEnded) {
  Make(1, {})->Start();
  streams_[0]->Publish(Delta(0, "ab", FinishReason::kLength));
  ASSERT_TRUE(sink_->WaitCount(1));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_TRUE(sink_->outputs().back().deltas.empty());
  EXPECT_EQ(sink_->outputs().back().finish, FinishReason::kLength);
}

TEST_F(ResponsePumpTest, SeveralPromptsMakeOneResponse) {
  PumpOptions options;
  options.n = 2;
  Make(2, options)->Start();
  for (int prompt = 0; prompt < 2; ++prompt) {
    streams_[prompt]->PublishPrompt(3, 0, {});
    for (int choice = 0; choice < 2; ++choice) {
      streams_[prompt]->Publish(
          Delta(choice, std::to_string(prompt * 2 + choice), FinishReason::kLength));
    }
    streams_[prompt]->Finish({}, {});
  }
  ASSERT_TRUE(sink_->WaitFinished());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sink_->Text(i), std::to_string(i));
  EXPECT_EQ(sink_->outputs().back().usage.prompt_tokens, 6);
  EXPECT_EQ(sink_->outputs().back().usage.completion_tokens, 4);
}

TEST_F(ResponsePumpTest, OneFailedPromptFailsTheResponse) {
  Make(2, {})->Start();
  streams_[0]->Publish(Delta(0, "a"));
  streams_[0]->Finish({StatusCode::kUnavailable, "down", ""}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->outputs().back().status.code, StatusCode::kUnavailable);
  EXPECT_TRUE(sink_->Finishes(0).empty()) << "the error is told by the status";
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!streams_[1]->cancelled() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(streams_[1]->cancelled());
}

TEST_F(ResponsePumpTest, FullSinkLeavesTheMailboxUnread) {
  sink_->SetFull(true);
  const auto pump = Make(1, {});
  pump->Start();
  for (int i = 0; i < 50; ++i) streams_[0]->Publish(Delta(0, "x"));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(streams_[0]->unread_tokens(), 50);
  EXPECT_TRUE(sink_->outputs().empty());
  sink_->SetFull(false);
  pump->Resume();
  streams_[0]->Publish(Delta(0, "y", FinishReason::kLength));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->Text(0), std::string(50, 'x') + "y");
}

TEST_F(ResponsePumpTest, CancelReachesTheEngine) {
  const auto pump = Make(1, {});
  pump->Start();
  pump->Cancel();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!streams_[0]->cancelled() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  ASSERT_TRUE(streams_[0]->cancelled());
  streams_[0]->Publish(Delta(0, "", FinishReason::kCancelled));
  streams_[0]->Finish({StatusCode::kCancelled, "cancelled", ""}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  EXPECT_EQ(sink_->outputs().back().status.code, StatusCode::kCancelled);
}

TEST_F(ResponsePumpTest, LetsGoOfEverythingAtTheEnd) {
  std::weak_ptr<ResponsePump> weak;
  {
    const auto pump = Make(1, {});
    weak = pump;
    pump->Start();
  }
  EXPECT_FALSE(weak.expired()) << "alive while the engine works";
  streams_[0]->Publish(Delta(0, "a", FinishReason::kLength));
  streams_[0]->Finish({}, {});
  ASSERT_TRUE(sink_->WaitFinished());
  pool_.Join();
  EXPECT_TRUE(weak.expired());
}

}  // namespace
}  // namespace palu
