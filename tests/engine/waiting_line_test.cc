// Who starts next under each policy.
#include "engine/waiting_line.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace palu {
namespace {

using std::chrono::milliseconds;

class WaitingLineTest : public ::testing::Test {
 protected:
  void Start(const std::string& policy, int64_t ageing_ms = 0, int quantum = 100) {
    EngineOptions options;
    options.policy = policy;
    options.ageing = milliseconds(ageing_ms);
    line_ = std::make_unique<WaitingLine>(options, quantum);
  }

  RequestState* Add(const std::string& id, int priority = 0, int arrival_ms = 0,
                    const std::string& tenant = "") {
    Request request;
    request.id = id;
    request.prompt = {1};
    request.priority = priority;
    request.tenant = tenant;
    states_.push_back(MakeRequestState(std::move(request), std::make_shared<OutputStream>(1), 0));
    RequestState* state = states_.back().get();
    state->arrival_order = states_.size();
    state->timing.arrival = RequestTiming::Clock::time_point() + milliseconds(arrival_ms);
    line_->RequestAdded(state);
    line_->Insert(state->sequences[0].get());
    return state;
  }

  // Takes the first, as if it were started and needed that many tokens.
  std::string Take(int tokens = 1) {
    Sequence* first = line_->Front();
    EXPECT_EQ(line_->Front(), first) << "the front does not change by being looked at";
    line_->Erase(first);
    line_->Charge(first->request, tokens);
    return first->request->request.id;
  }

  std::string TakeAll() {
    std::string order;
    while (!line_->empty()) order += Take();
    EXPECT_EQ(line_->Front(), nullptr);
    return order;
  }

  std::vector<std::unique_ptr<RequestState>> states_;  // outlived by nothing
  std::unique_ptr<WaitingLine> line_;
};

TEST_F(WaitingLineTest, FirstComeIgnoresPriority) {
  Start("fcfs");
  Add("a", 5);
  Add("b", -5);
  EXPECT_EQ(TakeAll(), "ab");
}

TEST_F(WaitingLineTest, StrictPriorityThenArrival) {
  Start("priority");
  Add("a", 1);
  Add("b", 0);
  Add("c", 1);
  Add("d", -2000000000);
  EXPECT_EQ(TakeAll(), "dbac");
}

TEST_F(WaitingLineTest, AgeingBoundsHowLongOneIsOvertaken) {
  Start("priority", 1000);
  Add("a", 2, 0);
  Add("b", 0, 1900);
  Add("c", 0, 2100);
  Add("d", 1, 1200);
  EXPECT_EQ(TakeAll(), "bacd");
}

TEST_F(WaitingLineTest, TenantsShareTokensNotRequests) {
  Start("fair", 0, 100);
  for (int i = 0; i < 40; ++i) Add("a", 0, i, "long");
  for (int i = 0; i < 400; ++i) Add("b", 0, 100 + i, "short");
  std::map<std::string, int> tokens;
  for (int i = 0; i < 220; ++i) {
    const std::string id = line_->Front()->request->request.id;
    const int cost = id == "a" ? 100 : 10;
    Take(cost);
    tokens[id] += cost;
  }
  EXPECT_EQ(tokens["a"] + tokens["b"], 20 * 100 + 200 * 10);
  EXPECT_NEAR(tokens["a"], tokens["b"], 200);
}

TEST_F(WaitingLineTest, NewTenantIsLevelWithTheOthers) {
  Start("fair", 0, 10);
  for (int i = 0; i < 50; ++i) Add("a", 0, i, "old");
  for (int i = 0; i < 30; ++i) Take(1000);
  for (int i = 0; i < 10; ++i) Add("b", 0, 100 + i, "new");
  std::string order;
  for (int i = 0; i < 10; ++i) order += Take(1000);
  // Neither is the old one made to wait for what it had alone, nor the new one behind its queue.
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 5) << order;
}

TEST_F(WaitingLineTest, LaterTokensAreChargedToo) {
  Start("fair", 0, 10);
  RequestState* first = Add("a", 0, 0, "talker");
  Add("a", 0, 1, "talker");
  Add("b", 0, 2, "other");
  EXPECT_EQ(Take(), "a");
  line_->Charge(first, 500);  // it goes on drawing tokens
  EXPECT_EQ(Take(), "b");
}

TEST_F(WaitingLineTest, WhatRanBeforeComesFirst) {
  Start("fair");
  RequestState* a = Add("a", 0, 0, "x");
  Add("b", 0, 1, "y");
  EXPECT_EQ(Take(1000), "a");
  a->timing.scheduled = a->timing.arrival;
  a->timing.scheduled += milliseconds(5);
  EXPECT_EQ(line_->Front()->request->request.id, "b");
  line_->Insert(a->sequences[0].get());
  EXPECT_EQ(TakeAll(), "ab");
}

TEST_F(WaitingLineTest, TenantsWithoutRequestsAreForgotten) {
  Start("fair", 0, 10);
  RequestState* a = Add("a", 0, 0, "x");
  Take(100000);
  line_->RequestEnded(a);
  for (int i = 0; i < 3; ++i) Add("b", 0, i, "y");
  Add("a", 0, 9, "x");
  const std::string first_two = Take(10) + Take(10);
  EXPECT_NE(first_two, "bb") << "an old debt";
}

}  // namespace
}  // namespace palu
