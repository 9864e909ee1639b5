#include "hora/negotiation/pending_submissions.h"

#include <algorithm>

namespace hora {

void PendingSubmissions::Add(const std::string& name, OpKind kind, int slot, TimePoint now,
                             TensorEntry* entry) {
  int index = static_cast<int>(records_.size());
  if (free_.empty()) {
    records_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  Record& record = records_[Index(index)];
  record.name = name;
  record.kind = kind;
  record.slot = slot;
  record.entry = entry;
  Append(index, now);
  ++size_;
  if (slot < 0) {
    by_name_.emplace(record.name, index);
    return;
  }
  if (Index(slot) >= by_slot_.size()) by_slot_.resize(Index(slot) + 1, -1);
  by_slot_[Index(slot)] = index;
}

void PendingSubmissions::Append(int index, TimePoint now) {
  Record& record = records_[Index(index)];
  // The order of the list is the order of time, whatever the caller's clock does.
  record.since = newest_ < 0 ? now : std::max(now, records_[Index(newest_)].since);
  record.older = newest_;
  record.newer = -1;
  (newest_ < 0 ? oldest_ : records_[Index(newest_)].newer) = index;
  newest_ = index;
  if (unreported_ < 0) unreported_ = index;
}

void PendingSubmissions::Unlink(int index) {
  const Record& record = records_[Index(index)];
  if (unreported_ == index) unreported_ = record.newer;
  (record.older < 0 ? oldest_ : records_[Index(record.older)].newer) = record.newer;
  (record.newer < 0 ? newest_ : records_[Index(record.newer)].older) = record.older;
}

void PendingSubmissions::Renew(const std::string& name, TimePoint now) {
  const int index = IndexOf(name, -1);
  if (index < 0) return;
  Unlink(index);
  Append(index, now);
}

TensorEntry* PendingSubmissions::TakeSlot(int slot) { return TakeRecord(InSlot(slot)); }

TensorEntry* PendingSubmissions::Take(const std::string& name, int slot) {
  return TakeRecord(IndexOf(name, slot));
}

void PendingSubmissions::SlotEvicted(int slot) {
  const int index = InSlot(slot);
  if (index < 0) return;
  by_slot_[Index(slot)] = -1;
  Record& record = records_[Index(index)];
  record.slot = -1;
  by_name_.emplace(record.name, index);
}

const PendingSubmissions::Record* PendingSubmissions::Find(const std::string& name,
                                                           int slot) const {
  return At(IndexOf(name, slot));
}

void PendingSubmissions::Clear() { *this = {}; }

int PendingSubmissions::InSlot(int slot) const {
  return slot >= 0 && Index(slot) < by_slot_.size() ? by_slot_[Index(slot)] : -1;
}

int PendingSubmissions::IndexOf(const std::string& name, int slot) const {
  if (const int index = InSlot(slot); index >= 0 || by_name_.empty()) return index;
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? -1 : found->second;
}

TensorEntry* PendingSubmissions::TakeRecord(int index) {
  if (index < 0) return nullptr;
  const Record& record = records_[Index(index)];
  if (record.slot >= 0) {
    by_slot_[Index(record.slot)] = -1;
  } else {
    by_name_.erase(record.name);
  }
  Unlink(index);
  free_.push_back(index);
  --size_;
  return record.entry;
}

}  // namespace hora
