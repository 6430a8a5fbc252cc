// Which waiting sequence starts next.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "config/engine_config.h"
#include "engine/sequence.h"

namespace palu {

// Who shares the server under the fair policy.
struct Tenant {
  std::string name;
  int64_t deficit = 0;  // tokens that it may still be given in this round; below 0: a debt
  int requests = 0;     // unfinished
  std::set<Sequence*, ServedBefore> waiting;  // of requests that never ran
};

// The waiting sequences under one of three policies. fcfs: by arrival. priority: a request's
// service key is its arrival plus its priority times the ageing time, so that one that waits is
// overtaken by better priorities for that long at most (ageing 0: the priority alone). fair:
// deficit round robin over tenants, charged with the tokens that are computed for them; what has
// been preempted comes before all. Engine thread only.
class WaitingLine {
 public:
  // quantum_tokens: what a tenant is given per round.
  WaitingLine(const EngineOptions& options, int quantum_tokens);

  // Sets the request's service key and tenant; RequestEnded undoes the latter.
  void RequestAdded(RequestState* request);
  void RequestEnded(RequestState* request);
  void Charge(RequestState* request, int64_t tokens);

  void Insert(Sequence* sequence);
  void Erase(Sequence* sequence);
  // The same one until it is erased or something preempted comes before it; null if empty.
  Sequence* Front();

  int size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  enum class Policy { kFcfs, kPriority, kFair };

  Tenant* NextTenant();

  const Policy policy_;
  const double ageing_us_;
  const int64_t quantum_;
  int size_ = 0;
  std::set<Sequence*, ServedBefore> line_;  // all; under kFair only those that ran before
  std::unordered_map<std::string, std::unique_ptr<Tenant>> tenants_;
  std::vector<Tenant*> ring_;  // those with a waiting sequence
  size_t turn_ = ~size_t{0};   // in ring_: who was chosen last
  Sequence* chosen_ = nullptr;
};

}  // namespace palu
