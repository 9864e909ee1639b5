#include "hora/negotiation/slot_history.h"

#include <utility>

namespace hora {

void SlotHistory::Changed(int slot, std::uint64_t sequence) {
  const auto index = static_cast<std::size_t>(slot);
  if (index >= changed_at_.size()) changed_at_.resize(index + 1);
  changed_at_[index] = sequence;
  last_change_ = sequence;
}

void SlotHistory::Evicted(int slot, std::uint64_t sequence, SharedResponse response) {
  evictions_.push_back({slot, sequence, std::move(response)});
}

SlotHistory::Lookup SlotHistory::Find(int slot, std::uint64_t agreements_seen) const {
  const auto index = static_cast<std::size_t>(slot);
  if (index >= changed_at_.size()) return {};
  if (changed_at_[index] <= agreements_seen) return {.meaning = Meaning::kCurrent};
  for (const Eviction& eviction : evictions_) {
    if (eviction.slot == slot && eviction.sequence > agreements_seen) {
      return {Meaning::kEvicted, eviction.response.get()};
    }
  }
  return {};
}

void SlotHistory::Forget(std::uint64_t sequence) {
  while (!evictions_.empty() && evictions_.front().sequence <= sequence) evictions_.pop_front();
}

}  // namespace hora
