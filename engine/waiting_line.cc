#include "engine/waiting_line.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/check.h"

namespace palu {

WaitingLine::WaitingLine(const EngineOptions& options, int quantum_tokens)
    : policy_(options.policy == "fcfs"   ? Policy::kFcfs
              : options.policy == "fair" ? Policy::kFair
                                         : Policy::kPriority),
      ageing_us_(1e3 * static_cast<double>(options.ageing.count())),
      quantum_(quantum_tokens) {
  PALU_CHECK(quantum_ > 0);
}

void WaitingLine::RequestAdded(RequestState* request) {
  const double priority = request->request.priority;
  if (policy_ == Policy::kFcfs) {
    request->service_key = 0;
  } else if (ageing_us_ == 0) {
    request->service_key = priority;
  } else {
    const auto arrival = request->timing.arrival.time_since_epoch();
    request->service_key =
        std::chrono::duration<double, std::micro>(arrival).count() + priority * ageing_us_;
  }
  if (policy_ != Policy::kFair) return;
  std::unique_ptr<Tenant>& tenant = tenants_[request->request.tenant];
  if (tenant == nullptr) {
    // Level with the best-off: neither a debt nor a hoard from before anyone else was there.
    int64_t best = std::numeric_limits<int64_t>::min();
    for (const auto& [name, other] : tenants_) {
      if (other != nullptr) best = std::max(best, other->deficit);
    }
    tenant = std::make_unique<Tenant>();
    tenant->name = request->request.tenant;
    tenant->deficit = tenants_.size() > 1 ? best : 0;
  }
  ++tenant->requests;
  request->tenant = tenant.get();
}

void WaitingLine::RequestEnded(RequestState* request) {
  Tenant* tenant = request->tenant;
  if (tenant == nullptr || --tenant->requests > 0) return;
  PALU_CHECK(tenant->waiting.empty());
  request->tenant = nullptr;
  tenants_.erase(tenants_.find(tenant->name));
}

void WaitingLine::Charge(RequestState* request, int64_t tokens) {
  if (request->tenant != nullptr) request->tenant->deficit -= tokens;
}

void WaitingLine::Insert(Sequence* sequence) {
  ++size_;
  Tenant* tenant = sequence->request->tenant;
  if (tenant == nullptr || sequence->request->started()) {
    line_.insert(sequence);
    return;
  }
  if (tenant->waiting.empty()) ring_.push_back(tenant);
  tenant->waiting.insert(sequence);
}

void WaitingLine::Erase(Sequence* sequence) {
  if (chosen_ == sequence) chosen_ = nullptr;
  size_t erased = line_.erase(sequence);
  Tenant* tenant = sequence->request->tenant;
  if (erased == 0 && tenant != nullptr) {
    erased = tenant->waiting.erase(sequence);
    if (tenant->waiting.empty()) {
      const auto place = std::find(ring_.begin(), ring_.end(), tenant);
      const auto index = static_cast<size_t>(place - ring_.begin());
      ring_.erase(place);
      if (index < turn_) --turn_;
    }
  }
  PALU_CHECK(erased == 1);
  --size_;
}

Sequence* WaitingLine::Front() {
  if (!line_.empty()) return *line_.begin();
  if (size_ == 0) return nullptr;
  if (chosen_ == nullptr) chosen_ = *NextTenant()->waiting.begin();
  return chosen_;
}

Tenant* WaitingLine::NextTenant() {
  const bool chosen_before = turn_ < ring_.size();
  const size_t first = chosen_before ? turn_ : 0;
  for (size_t i = 0; i < ring_.size(); ++i) {
    const size_t place = (first + i) % ring_.size();
    if (ring_[place]->deficit <= 0) continue;
    turn_ = place;
    return ring_[place];
  }
  // As many rounds at once as the first to come into credit needs.
  int64_t best = std::numeric_limits<int64_t>::min();
  for (const Tenant* tenant : ring_) best = std::max(best, tenant->deficit);
  const int64_t grant = (-best / quantum_ + 1) * quantum_;
  for (Tenant* tenant : ring_) tenant->deficit += grant;
  turn_ = chosen_before ? (turn_ + 1) % ring_.size() : 0;
  return NextTenant();
}

}  // namespace palu
